use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Invalid, Role, Split, Supervision, Supervisor};

/// The weak model, fine-tuned on ground truth of the other half of the data.
///
/// Its soft predictions are the labels of the student's half, and its predictions on the test split are the weak performance. Of a validation
/// split, on which it is not trained, methods learn how far its labels can be trusted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuned {
    /// Weak models, fine-tuned on the same rows from seeds of their own; labels are the mean of their probabilities; of words the
    /// answer that most of them give, the first of equals. Origin: Burns et al. 2023
    /// have one.
    pub copies: usize,
    /// Who: `weak` or `strong` of the pair, or a model of `configs/models` or of the grid. Origin: multi-capabilities W2SG, where a smaller
    /// model weakens a capability.
    pub model: String,
}

impl Default for FineTuned {
    fn default() -> Self {
        Self { copies: 1, model: "weak".to_owned() }
    }
}

impl Supervisor for FineTuned {
    fn asks(&self) -> Vec<Ask> {
        let copy = |copy| Ask::FineTuned { role: Role::of(&self.model), on: Split::Supervise, copy, bagged: false };
        (0..self.copies).map(copy).collect()
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        Ok(Supervision::mean(&given.answers))
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("copies", self.copies as f64, 1.0, 1000.0)
    }
}

register!(supervisor "fine-tuned" for FineTuned, paper = "Burns et al. 2023 (arXiv 2312.09390), Section 3", later = ["copies", "model"]);
