//! Stages: the steps of an experiment, each with an identity, each done once.

mod identity;
mod job;
mod knowledge;
mod predictions;
mod store;
pub mod tokens;

pub use identity::{Numeric, StageId, canonical, hash};
pub use job::{
    DECISIONS, DataRef, FineTuneJob, Job, ModelRef, P_IK_TEST, Place, PretrainJob, REMARKS, SelfLabels, StudentJob,
    StudentPik, SuperviseJob, copy, part, read_decisions, strategy_name,
};
pub use knowledge::{
    AnswerJob, Answerer, EmbedJob, KnownLabel, PikBalance, PikExamples, PikInput, PikJob, PikScoreJob, known_file,
    read_known,
};
pub use predictions::Predictions;
pub use store::{Begin, Finished, Manifest, STORE, Store, Workspace, hash_file, writable, write_atomically};
