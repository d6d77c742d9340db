//! What a trained student says of the examples that it was trained on, and of the test.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Result,
    stage::{DataRef, Stage, StageId, bench::Bench},
    strategy::Split,
};

/// Lets a model that a stage kept label a task's examples: the student's relabelling (multi-capabilities W2SG, section 4).
///
/// Files: [`Labels`](crate::stage::Labels) of the transfer and the test split.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Label {
    /// The stage that keeps the model.
    pub by: StageId,
    /// The examples.
    pub data: DataRef,
}

#[typetag::serde(name = "label")]
impl Stage for Label {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({ "by": self.by, "data": self.data.fingerprint, "max_tokens": self.data.max_tokens }))
    }

    fn title(&self) -> String {
        format!("label  {}", self.data.task)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let trainer = bench.trainer(&self.data, 0)?;
        let (pretrained, answerer) = trainer.kept(&self.by)?;
        for split in [Split::Transfer, Split::Test] {
            trainer.answer_into(&pretrained, &answerer, split, folder)?;
        }
        Ok(json!({}))
    }
}
