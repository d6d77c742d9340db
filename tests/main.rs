//! Integration tests: one binary, because every binary links all of Burn.

// A crate that is only listed in Cargo.toml is not linked, and its strategies would not exist.
use w2s_plugins as _;
use w2s_strategies as _;

mod arbitrary;
mod bad_files;
mod books;
mod checkpoints;
mod columns;
mod command_line;
mod configs;
mod conformance;
mod curves;
mod floors;
mod forms;
mod golden_losses;
mod hub;
mod judging;
mod outputs;
mod phases;
mod plugin_file;
mod registry;
mod schema;
mod shell;
mod slurm;
mod status;
mod stress;
mod suites;
mod supervisors;
mod support;
mod task_command;
mod trajectories;
mod validation;
