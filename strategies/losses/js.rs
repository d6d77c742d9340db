use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Jensen–Shannon divergence between the labels and the student.
///
/// l = scale · (½ KL(y ‖ m) + ½ KL(p ‖ m)), m = (y + p) / 2: at most scale · ln 2, so no wrong label can dominate a batch.
/// Computed as scale · (H(m) − ½ H(y) − ½ H(p)).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Js {
    /// Factor; 2 gives the f-divergence with generator t log t − (t + 1) log((t + 1) / 2). Origin: the textbook's ½; the paper's convention is not known to us.
    pub scale: f64,
}

impl Default for Js {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

impl StudentLoss for Js {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let log_p = math::log_softmax(logits);
        let p = log_p.clone().exp();
        let mixture = (p.clone() + targets.clone()) * 0.5;
        math::rows((p * log_p + math::x_log_x(targets)) * 0.5 - math::x_log_x(mixture)) * self.scale
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        // H(m) − ½ H(p): what the others have in either is the same but for a factor of ½, so that their entropy cancels.
        let log_p = tokens.live.label.clone();
        let p = log_p.clone().exp();
        let mixture = (p.clone() + 1.0) * 0.5;
        let others = (p.clone().neg() + 1.0) * (0.5 * std::f64::consts::LN_2);
        Some((p * log_p * 0.5 + others - mixture.clone() * mixture.log()) * self.scale)
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("scale", self.scale, 0.0, f64::INFINITY)
    }
}

register!(loss "js" for Js, paper = "Yao et al. 2025a, f-divergences: Jensen–Shannon");
