use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, math, no_words};

/// Neyman χ² divergence of the labels from the student: the Pearson divergence with both exchanged.
///
/// l = Σₖ (yₖ − pₖ)² / max(yₖ, floor). Bounded for soft labels; hard labels make it 1 / floor times a squared error.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NeymanChi2 {
    /// Smallest denominator. Origin: original; the divergence itself is unbounded where a label is 0.
    pub floor: f64,
}

impl Default for NeymanChi2 {
    fn default() -> Self {
        Self { floor: 1e-4 }
    }
}

impl StudentLoss for NeymanChi2 {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let difference = targets.clone() - math::softmax(logits);
        math::rows(difference.clone() * difference / targets.clamp_min(self.floor))
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "a hard label makes it 1 / `floor` times a squared error; use `brier`")
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("floor", self.floor, 1e-12, 0.5)
    }
}

register!(loss "neyman-chi2" for NeymanChi2, paper = "standard f-divergence, reverse of the Pearson χ² of Yao et al. 2025a");
