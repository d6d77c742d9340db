use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Progress, StudentLoss, math, two_classes};

/// Confidence loss at a fixed threshold: cross-entropy with a mixture of the labels and the student's thresholded prediction.
///
/// l = CE((1 − α) y + α ŝ, z), ŝ = class 1 where p₁ > t, without gradient. No warm-up and no balancing, unlike
/// `aux-confidence`: from a zero head the student starts by believing its own class 0.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdConfidence {
    /// Weight of the student's own prediction. Origin: Selective W2SG (arXiv 2511.14166), Preliminaries.
    pub alpha: f64,
    /// Probability of class 1 above which the student's prediction is class 1. Origin: Selective W2SG, Preliminaries, leaves it open; 0.5 is the argmax.
    pub threshold: f64,
}

impl Default for ThresholdConfidence {
    fn default() -> Self {
        Self { alpha: 0.5, threshold: 0.5 }
    }
}

impl StudentLoss for ThresholdConfidence {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let own = math::column(math::softmax(logits), 1).greater_scalar(self.threshold).float();
        labels * (1.0 - self.alpha) + math::binary(own) * self.alpha
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        two_classes(form, "`aux-confidence` with `variant = \"raven\"` takes any number and words")
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("alpha", self.alpha, 0.0, 1.0)?;
        Invalid::unless_within("threshold", self.threshold, 0.0, 1.0)
    }
}

register!(loss "threshold-confidence" for ThresholdConfidence, paper = "Lang et al., Selective Weak-to-Strong Generalization, AAAI 2026, 40(44), 37556–37564 (arXiv 2511.14166), Preliminaries, after Burns et al. 2023");
