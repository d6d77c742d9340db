use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::Result;
use w2s_core::register;
use w2s_core::strategy::{Lab, Role, Split, Supervision, Supervisor};

/// The weak model, fine-tuned on ground truth of the other half of the data.
///
/// Its soft predictions are the labels of the student's half, and its predictions on the test split are the weak performance. Of a validation
/// split, on which it is not trained, methods learn how far its labels can be trusted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuned {}

impl Supervisor for FineTuned {
    fn supervise(&self, lab: &mut dyn Lab) -> Result<Supervision> {
        let splits = [Split::Transfer, Split::Test, Split::Validation];
        let labels = lab.fine_tune_and_label(Role::Weak, Split::Supervise, &splits)?;
        match <[_; 3]>::try_from(labels) {
            Ok([transfer, test, validation]) => Ok(Supervision { transfer, test, validation }),
            Err(labels) => Err(w2s_core::Error::new(format!("asked for labels of 3 splits and got {}", labels.len()))),
        }
    }
}

register!(supervisor "fine-tuned" for FineTuned, paper = "Burns et al. 2023 (arXiv 2312.09390), Section 3");
