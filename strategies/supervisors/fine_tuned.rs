use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Role, Split, Supervision, Supervisor};

/// The weak model, fine-tuned on ground truth of the other half of the data.
///
/// Its soft predictions are the labels of the student's half, and its predictions on the test split are the weak performance. Of a validation
/// split, on which it is not trained, methods learn how far its labels can be trusted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuned {}

impl Supervisor for FineTuned {
    fn asks(&self) -> Vec<Ask> {
        vec![Ask::FineTuned { role: Role::Weak, on: Split::Supervise }]
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        Ok(given.answers[0].clone())
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }
}

register!(supervisor "fine-tuned" for FineTuned, paper = "Burns et al. 2023 (arXiv 2312.09390), Section 3");
