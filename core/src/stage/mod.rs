//! Stages: the steps of an experiment, each with an identity, each done once.

pub mod any_path;
mod asking;
mod bench;
mod decisions;
mod demand;
mod identity;
mod inventory;
mod job;
pub mod kinds;
mod labels;
mod manifest;
mod phases;
mod predictions;
mod remembered;
mod store;
pub mod tokens;
mod trainer;
mod training;

pub use bench::{Bench, DataRef, Folders, ModelRef, Place, REMARKS, Writing, part};
pub use decisions::{DECISIONS, read_decisions};
pub use demand::{Demand, Shape};
pub use identity::{Numeric, StageId, canonical, hash};
pub use inventory::{Entry, GRID, Shelved, grids_in};
pub use job::{Job, Stage, copy, strategy_name};
pub use kinds::{
    answers::{known_file, read_known},
    judge::{JudgeBalance, JudgeInit, JudgeLoss, JudgeSettings},
    student::{judged_column, judged_file},
};
pub use labels::{ALL_STEPS, Answer, Labels, Truth, steps_of};
pub use manifest::{MANIFEST, Manifest, hash_file, stamp_of};
pub use phases::{Aim, Training};
pub use predictions::{Numbers, Predictions};
pub use store::{Begin, Finished, Leftovers, Notice, STORE, Store, Workspace, writable, write_atomically};
