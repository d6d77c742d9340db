use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Squared Hellinger distance between the labels and the student.
///
/// l = scale · Σₖ (√yₖ − √pₖ)², at most 2 · scale: bounded like Jensen–Shannon, with a gradient that fades where the student is sure.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SquaredHellinger {
    /// Factor; 0.5 gives 1 − Σ √(y p). Origin: generator (√t − 1)²; the paper's convention is not known to us.
    pub scale: f64,
}

impl Default for SquaredHellinger {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

impl StudentLoss for SquaredHellinger {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let difference = targets.sqrt() - (math::log_softmax(logits) * 0.5).exp();
        math::rows(difference.clone() * difference) * self.scale
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        // Σ (√y − √p)² = 2 − 2 √p of the label.
        Some(((tokens.live.label.clone() * 0.5).exp().neg() + 1.0) * (2.0 * self.scale))
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("scale", self.scale, 0.0, f64::INFINITY)
    }
}

register!(loss "squared-hellinger" for SquaredHellinger, paper = "Yao et al. 2025a, f-divergences: squared Hellinger");
