//! Grids: from a configuration to cells, from cells to stages, and running them.

mod asked;
mod cells;
mod columns;
mod config;
mod desk;
mod failures;
mod fitting;
mod found;
mod library;
mod models;
mod plan;
mod progress;
mod recorded;
mod replay;
pub mod results;
mod run;
mod schema;
mod shapes;
pub mod slurm;
mod why;

pub(crate) use config::with_changes;
pub use config::{Data, Grid, Method, ModelConfig, ModelFile, On, Pair, Phase, Pretrain, Suite, Together};
pub use desk::open_world;
pub use failures::{Failures, Record};
pub use fitting::{Bytes, Fitting, Refused, machine_memory};
pub use found::find_tokenizer;
pub use library::{Library, embedded_grid};
pub use models::ModelFolder;
pub use plan::{Cell, Places, Plan};
pub use progress::{Post, Progress};
pub use recorded::{CellRecord, Recorded, StageRecord, Standing, State};
pub use replay::Replay;
pub use run::{Devices, Event, Failure, Order, Outcome, RunOptions, STOPPED, Word, obey, run, wind_up};
pub use schema::FileKind;
pub use shapes::{Counting, Need, needs};
pub use why::{Difference, why};
