//! Grids: from a configuration to cells, from cells to stages, and running them.

mod config;
mod failures;
mod library;
mod models;
mod plan;
pub mod results;
mod run;

pub use config::{Data, Grid, Method, ModelConfig, ModelFile, Pair, Pretrain};
pub use failures::Failures;
pub use library::{Library, embedded_grid};
pub use models::ModelFolder;
pub use plan::{Cell, Places, Plan, find_tokenizer, open_world};
pub use run::{Event, Failure, Order, Outcome, Progress, RunOptions, Word, obey, run};
