use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Reverse cross-entropy: the labels' surprise at the student's prediction.
///
/// l = −Σₖ pₖ log yₖ. Linear in p, so a confident wrong label pulls no harder on a student that contradicts it; zero gradient from labels
/// that are undecided. Drives p to one class even where labels are soft.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReverseCe {
    /// Label smoothing ε before the logarithm: y (1 − ε) + ε / K. Origin: W2SG-Bregman, off by default.
    pub smoothing: f64,
    /// Smallest label inside the logarithm. Origin: original; W2SG-Bregman cuts the logarithm at −100.
    pub floor: f64,
}

impl Default for ReverseCe {
    fn default() -> Self {
        Self { smoothing: 0.0, floor: 1e-8 }
    }
}

impl StudentLoss for ReverseCe {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::reverse_cross_entropy(targets, logits, self.smoothing, self.floor)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        Some(tokens.reverse_cross_entropy(self.smoothing, self.floor))
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("smoothing", self.smoothing, 0.0, 1.0)?;
        Invalid::unless_within("floor", self.floor, f64::from(f32::MIN_POSITIVE), 0.5)
    }
}

register!(loss "reverse-ce" for ReverseCe, paper = "Wang et al. 2019, Symmetric Cross Entropy; Yao et al. 2025b; Gengze/W2SG-Bregman, `reverse_bce_loss`");
