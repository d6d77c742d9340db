use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Invalid, Role, Supervision, Supervisor};

/// A language model that answers a prompt with examples, without being fine-tuned.
///
/// Labels are the probabilities that it gives to the words that the task's `[prompt]` has for each class, normalised. The examples shown are of the
/// supervisor's half, with their truth, the same before each question.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prompted {
    /// Who answers: `weak` and `strong` are the pair's models, any other word is a model of `configs/models` or of the grid. Origin: original;
    /// the weak model is who supervises.
    pub model: String,
    /// Examples with their answers before each question; where they do not fit, those farthest from it are left out. Origin: Burns et al. 2023,
    /// Section 5.2.1, prompt with 5.
    pub shots: usize,
}

impl Default for Prompted {
    fn default() -> Self {
        Self { model: "weak".to_owned(), shots: 5 }
    }
}

impl Supervisor for Prompted {
    fn asks(&self) -> Vec<Ask> {
        vec![Ask::Prompted { role: Role::of(&self.model), shots: self.shots }]
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        Ok(given.answers[0].clone())
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        match form {
            Form::Classes(_) | Form::Words => Ok(()),
            Form::Candidates(_) => Err(format!("{form} are scored by a model that learnt it, and this one has not")),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("shots", self.shots as f64, 0.0, 1000.0)
    }
}

register!(supervisor "prompted" for Prompted, paper = "Burns et al. 2023 (arXiv 2312.09390), Section 5.2.1, prompting");
