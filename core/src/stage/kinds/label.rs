//! What a trained student says of the examples that it was trained on, and of the test.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Result,
    model::Classifier,
    stage::{DataRef, Stage, StageId, bench::Bench},
    strategy::Split,
};

/// Lets a model that a stage kept label a task's examples: the student's relabelling (multi-capabilities W2SG, section 4).
///
/// Files: `transfer.csv` and `test.csv` have class probabilities.
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
        label(&self.by, &self.data, bench, folder)
    }
}

/// Predictions of a kept model for the transfer and the test split.
pub(super) fn label(by: &StageId, data: &DataRef, bench: &Bench, folder: &Path) -> Result<Value> {
    let pretrained = bench.model_of(by)?;
    let classifier = Classifier::load(&pretrained, &bench.place.device)?;
    let trainer = bench.trainer(data, 0)?;
    for split in [Split::Transfer, Split::Test] {
        trainer.predict(&pretrained, &classifier, split, folder)?;
    }
    Ok(json!({}))
}
