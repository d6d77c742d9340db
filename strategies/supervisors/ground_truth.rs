use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Supervision, Supervisor};

/// Ground truth as supervisor: the control that shows what a method costs when the labels are right.
///
/// With cross-entropy this is the ceiling trained on the student's half. Results are marked, because truth reaches the student.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroundTruth {}

impl Supervisor for GroundTruth {
    fn asks(&self) -> Vec<Ask> {
        vec![Ask::Truth]
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        Ok(given.answers[0].clone())
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }
}

register!(supervisor "ground-truth" for GroundTruth, paper = "Burns et al. 2023 (arXiv 2312.09390), the strong ceiling");
