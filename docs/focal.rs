use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Invalid, Progress, StudentLoss, math};

/// Focal loss: cross-entropy that cares less about what the student already predicts well.
///
/// l = −Σₖ yₖ (1 − pₖ)^γ log pₖ. With γ = 0 this is cross-entropy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Focal {
    /// How quickly easy examples fade. Origin: Lin et al. 2017.
    pub gamma: f64,
}

impl Default for Focal {
    fn default() -> Self {
        Self { gamma: 2.0 }
    }
}

impl StudentLoss for Focal {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let log_p = math::log_softmax(logits);
        let doubt = (log_p.clone().exp().neg() + 1.0).clamp_min(1e-6).powf_scalar(self.gamma);
        math::rows(targets * doubt * log_p).neg()
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("gamma", self.gamma, 0.0, f64::INFINITY)
    }
}

register!(loss "focal" for Focal, paper = "Lin et al. 2017, Focal Loss for Dense Object Detection");
