//! What a supervisor works with.

use crate::Result;

/// The parts of a task's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Ground truth for the weak model (the reference's half 1).
    Supervise,
    /// What the student trains on (half 2); its ground truth is hidden from every method that does not declare it.
    Transfer,
    /// What everybody is tested on.
    Test,
    /// Examples cut out of the supervisor's half, on which no model is trained: their ground truth says how often the supervisor is right.
    /// Empty unless the grid asks for it (`[data] n_validation`).
    Validation,
}

impl Split {
    /// The name in results and files.
    pub fn name(self) -> &'static str {
        match self {
            Split::Supervise => "supervise",
            Split::Transfer => "transfer",
            Split::Test => "test",
            Split::Validation => "validation",
        }
    }
}

/// Soft labels of one split, one row of K probabilities per example.
pub type Labels = Vec<Vec<f32>>;

/// Which model of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The pair's weak model.
    Weak,
    /// The pair's strong model.
    Strong,
}

/// What a supervisor hands over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Supervision {
    /// Labels for [`Split::Transfer`].
    pub transfer: Labels,
    /// Labels for [`Split::Test`], which are scored as the weak model's performance.
    pub test: Labels,
    /// Labels for [`Split::Validation`], with which methods learn how far the others can be trusted; none where that split is empty.
    pub validation: Labels,
}

/// The laboratory a supervisor works in: it trains and labels, and keeps the books.
pub trait Lab {
    /// Fine-tunes a model of the pair on the ground truth of `on` with the grid's recipe, then returns its soft labels for each of
    /// `label`: transfer, test, validation. An empty split has no labels.
    ///
    /// # Errors
    /// Data or model that cannot be read, or a loss that is not finite.
    fn fine_tune_and_label(&mut self, role: Role, on: Split, label: &[Split]) -> Result<Vec<Labels>>;

    /// Ground truth of a split as one-hot labels.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn truth(&mut self, split: Split) -> Result<Labels>;

    /// Seed of this stage, for a supervisor that draws at random.
    fn seed(&self) -> u64;
}
