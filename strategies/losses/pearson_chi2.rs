use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, math, no_words};

/// Pearson χ² divergence of the labels from the student.
///
/// l = Σₖ (yₖ − pₖ)² / max(pₖ, floor). Punishes a student that excludes what its supervisor believes much harder than cross-entropy does: without
/// the floor its gradient grows like 1 / p, and below the floor a row stops pulling.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PearsonChi2 {
    /// Smallest denominator; the gradient is at most about its inverse. Origin: original; the divergence itself is unbounded.
    pub floor: f64,
}

impl Default for PearsonChi2 {
    fn default() -> Self {
        Self { floor: 1e-4 }
    }
}

impl StudentLoss for PearsonChi2 {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let p = math::softmax(logits);
        let difference = targets - p.clone();
        math::rows(difference.clone() * difference / p.clamp_min(self.floor))
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "nearly every token of a vocabulary is below `floor`, where its gradient is cut off; use `squared-hellinger`")
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("floor", self.floor, 1e-12, 0.5)
    }
}

register!(loss "pearson-chi2" for PearsonChi2, paper = "Yao et al. 2025a, f-divergences: Pearson χ²");
