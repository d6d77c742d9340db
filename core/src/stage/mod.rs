//! Stages: the steps of an experiment, each with an identity, each done once.

mod identity;
mod job;
mod predictions;
mod store;

pub use identity::{StageId, canonical, hash};
pub use job::{
    DataRef, FineTuneJob, Job, ModelRef, Place, PretrainJob, StudentJob, SuperviseJob, copy, part, strategy_name,
};
pub use predictions::Predictions;
pub use store::{Begin, Finished, Manifest, Store, Workspace, hash_file, write_atomically};
