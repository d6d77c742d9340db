use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Total variation distance between the labels and the student; doubled, the mean absolute error.
///
/// l = scale · ½ Σₖ |yₖ − pₖ|. Noise-robust and slow: every row pulls with p (1 − p), whatever its label.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TotalVariation {
    /// Factor; 2 gives the absolute error Σ |y − p|. Origin: the textbook's ½.
    pub scale: f64,
}

impl Default for TotalVariation {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

impl StudentLoss for TotalVariation {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::rows((targets - math::softmax(logits)).abs()) * (0.5 * self.scale)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        Some((tokens.live.label.clone().exp().neg() + 1.0) * self.scale)
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("scale", self.scale, 0.0, f64::INFINITY)
    }
}

register!(loss "total-variation" for TotalVariation, paper = "standard f-divergence; Ghosh et al. 2017 for the absolute error under label noise");
