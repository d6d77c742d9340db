//! Stages: the steps of an experiment, each with an identity, each done once.

pub mod any_path;
mod identity;
mod inventory;
mod job;
mod knowledge;
mod manifest;
mod predictions;
mod remembered;
mod store;
pub mod tokens;

pub use identity::{Numeric, StageId, canonical, hash};
pub use inventory::{Entry, Quarantined};
pub use job::{
    DECISIONS, DataRef, FineTuneJob, Job, ModelRef, P_IK_TEST, Place, PretrainJob, REMARKS, SelfLabels, StudentJob,
    StudentPik, SuperviseJob, copy, part, read_decisions, strategy_name,
};
pub use knowledge::{
    AnswerJob, Answerer, EmbedJob, KnownLabel, PikBalance, PikExamples, PikInput, PikJob, PikScoreJob, known_file,
    read_known,
};
pub use manifest::{Manifest, hash_file, stamp_of};
pub use predictions::Predictions;
pub use store::{Begin, Finished, Leftovers, Notice, STORE, Store, Workspace, writable, write_atomically};
