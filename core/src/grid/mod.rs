//! Grids: from a configuration to cells, from cells to stages, and running them.

mod asked;
mod cells;
mod config;
mod desk;
mod failures;
mod found;
mod library;
mod models;
mod plan;
pub mod results;
mod run;
pub mod slurm;

pub use config::{Data, Grid, Method, ModelConfig, ModelFile, On, Pair, Phase, Pretrain, Suite, Together};
pub use desk::open_world;
pub use failures::Failures;
pub use found::find_tokenizer;
pub use library::{Library, embedded_grid};
pub use models::ModelFolder;
pub use plan::{Cell, Places, Plan};
pub use run::{Event, Failure, Order, Outcome, Progress, RunOptions, STOPPED, Word, obey, run, wind_up};
