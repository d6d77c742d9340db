use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::Result;
use w2s_core::register;
use w2s_core::strategy::{Lab, Split, Supervision, Supervisor};

/// Ground truth as supervisor: the control that shows what a method costs when the labels are right.
///
/// With cross-entropy this is the ceiling trained on the student's half. Results are marked, because truth reaches the student.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroundTruth {}

impl Supervisor for GroundTruth {
    fn supervise(&self, lab: &mut dyn Lab) -> Result<Supervision> {
        Ok(Supervision {
            transfer: lab.truth(Split::Transfer)?,
            test: lab.truth(Split::Test)?,
            validation: lab.truth(Split::Validation)?,
        })
    }

    fn uses_truth_of_transfer(&self) -> bool {
        true
    }
}

register!(supervisor "ground-truth" for GroundTruth, paper = "Burns et al. 2023 (arXiv 2312.09390), the strong ceiling");
