//! What a trained P(IK) model says of a task's examples.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Result,
    stage::{DataRef, Stage, StageId, bench::Bench},
    strategy::Split,
};

/// What a trained P(IK) model says of a task's examples.
///
/// Files: `transfer.csv` and `test.csv` hold `[P(IDK), P(IK)]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PikScores {
    /// The stage that trains it.
    pub p_ik: StageId,
    /// The examples.
    pub data: DataRef,
}

#[typetag::serde(name = "p-ik-scores")]
impl Stage for PikScores {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({ "p_ik": self.p_ik, "data": self.data.fingerprint, "max_tokens": self.data.max_tokens }))
    }

    fn title(&self) -> String {
        format!("p-ik-scores  {}", self.data.task)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let trainer = bench.trainer(&self.data, 0)?;
        // Whatever the task asks for, P(IK) is a choice of two.
        let (pretrained, p_ik) = trainer.kept_classifier(&self.p_ik)?;
        for split in [Split::Transfer, Split::Test] {
            trainer.answer_into(&pretrained, &p_ik, split, folder)?;
        }
        Ok(json!({}))
    }
}
