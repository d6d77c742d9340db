use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::Result;
use w2s_core::register;
use w2s_core::strategy::{Lab, Role, Split, Supervision, Supervisor};

/// The weak model, fine-tuned on ground truth of the other half of the data.
///
/// Its soft predictions are the labels of the student's half, and its predictions on the test split are the weak performance.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuned {}

impl Supervisor for FineTuned {
    fn supervise(&self, lab: &mut dyn Lab) -> Result<Supervision> {
        let splits = [Split::Transfer, Split::Test];
        let labels = lab.fine_tune_and_label(Role::Weak, Split::Supervise, &splits)?;
        match <[_; 2]>::try_from(labels) {
            Ok([transfer, test]) => Ok(Supervision { transfer, test }),
            Err(labels) => Err(w2s_core::Error::new(format!("asked for labels of 2 splits and got {}", labels.len()))),
        }
    }
}

register!(supervisor "fine-tuned" for FineTuned, paper = "Burns et al. 2023 (arXiv 2312.09390), Section 3");
