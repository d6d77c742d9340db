use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, math, no_words};

/// Confidence-adaptive cross-entropy: forward where the label is confident, reverse where it is not.
///
/// l = −Σₖ yₖ log pₖ where maxₖ yₖ ≥ 1/2 + c, else −Σₖ pₖ log yₖ: labels near 1/2 then hardly pull at all.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cace {
    /// Distance c from 1/2 at which a label counts as confident. Origin: Gengze/W2SG-Bregman, `CACE_loss`.
    pub threshold: f64,
    /// Label smoothing ε in the reverse term. Origin: Gengze/W2SG-Bregman, off by default.
    pub smoothing: f64,
    /// Smallest label inside the logarithm. Origin: original; W2SG-Bregman cuts the logarithm at −100.
    pub floor: f64,
}

impl Default for Cace {
    fn default() -> Self {
        Self { threshold: 0.01, smoothing: 0.0, floor: 1e-8 }
    }
}

impl StudentLoss for Cace {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let unsure = math::row_max(targets.clone()).lower_scalar(0.5 + self.threshold);
        let reverse = math::reverse_cross_entropy(targets.clone(), logits.clone(), self.smoothing, self.floor);
        math::cross_entropy(targets, logits).mask_where(unsure, reverse)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "of a hard label nothing is left but `cross-entropy`; use that")
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("threshold", self.threshold, 0.0, 0.5)?;
        Invalid::unless_within("smoothing", self.smoothing, 0.0, 1.0)?;
        Invalid::unless_within("floor", self.floor, f64::from(f32::MIN_POSITIVE), 0.5)
    }
}

register!(loss "cace" for Cace, paper = "Yao et al. 2025b, confidence-adaptive cross-entropy; Gengze/W2SG-Bregman, `CACE_loss`");
