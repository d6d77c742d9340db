//! Stages: the steps of an experiment, each with an identity, each done once.

mod identity;
mod store;

pub use identity::{StageId, canonical, hash};
pub use store::{Begin, Finished, Manifest, Store, Workspace, hash_file, write_atomically};
