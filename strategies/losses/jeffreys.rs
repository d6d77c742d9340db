use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Jeffreys divergence: forward and reverse KL divergence together.
///
/// l = Σₖ (yₖ − pₖ)(log yₖ − log pₖ). Unbounded on either side: labels are floored, and a student that is sure of the wrong class pays in full.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Jeffreys {
    /// Smallest label inside the logarithm. Origin: original; as for `reverse-kl`.
    pub floor: f64,
}

impl Default for Jeffreys {
    fn default() -> Self {
        Self { floor: 1e-8 }
    }
}

impl StudentLoss for Jeffreys {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let log_p = math::log_softmax(logits);
        let log_y = targets.clone().clamp_min(self.floor).log();
        math::rows((targets - log_p.clone().exp()) * (log_y - log_p))
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        // KL(y ‖ p) + KL(p ‖ y), the label of every other token being `floor` in the logarithm and 0 elsewhere.
        let reverse = tokens.reverse_cross_entropy(0.0, self.floor) - tokens.live.entropy.clone();
        Some(tokens.cross_entropy() + reverse)
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("floor", self.floor, f64::from(f32::MIN_POSITIVE), 0.5)
    }
}

register!(loss "jeffreys" for Jeffreys, paper = "Yao et al. 2025a, f-divergences: Jeffreys");
