use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Generalised cross-entropy, between cross-entropy and the absolute error.
///
/// l = Σₖ yₖ (1 − pₖ^q) / q: cross-entropy for q → 0, absolute error for q = 1. Labels that the student finds unlikely count less, by p^q.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gce {
    /// Robustness, in (0, 1]. Origin: Zhang & Sabuncu 2018.
    pub q: f64,
}

impl Default for Gce {
    fn default() -> Self {
        Self { q: 0.7 }
    }
}

impl StudentLoss for Gce {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let power = (math::log_softmax(logits) * self.q).exp();
        math::rows(targets * (power.neg() + 1.0)) / self.q
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        let power = (tokens.live.label.clone() * self.q).exp();
        Some((power.neg() + 1.0) / self.q)
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("q", self.q, 1e-3, 1.0)
    }
}

register!(loss "gce" for Gce, paper = "Zhang & Sabuncu 2018, Generalized Cross Entropy");
