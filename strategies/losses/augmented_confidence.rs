use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Progress, StudentLoss, TokenView, math, no_words};

/// Augmented confidence loss: distillation from the labels plus a growing cross-entropy with the student's own hard prediction.
///
/// l = (1 − α) τ² KL(y_τ ‖ p_τ) + α CE(ŝ, z), ŝ the student's argmax without gradient, α = max · min(1, f / warmup) at fraction f of the run.
/// The auxiliary confidence loss of Burns et al. as vision work uses it: no balancing, one α for every example.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentedConfidence {
    /// Largest weight of the student's own prediction. Origin: ggjy/vision_weak_to_strong, `AugConf`.
    pub max: f64,
    /// Share of the run over which the weight rises. Origin: `superalignment_rate` of ggjy/vision_weak_to_strong, there by epoch.
    pub warmup: f64,
    /// Temperature τ of the distillation term. Origin: `kd_temperature` of ggjy/vision_weak_to_strong.
    pub tau: f64,
}

impl Default for AugmentedConfidence {
    fn default() -> Self {
        Self { max: 0.5, warmup: 0.3, tau: 1.0 }
    }
}

impl StudentLoss for AugmentedConfidence {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::distill_and_trust(logits, targets, self.tau)
    }

    fn tokens(&self, tokens: &TokenView, at: &Progress) -> Option<Tensor<1>> {
        let alpha = self.max * math::warm_up_share(at, self.warmup);
        Some(tokens.cross_entropy() * (1.0 - alpha) + tokens.own_cross_entropy() * alpha)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        match self.tau == 1.0 {
            true => Ok(()),
            false => no_words(form, "`tau` takes the whole distribution at another temperature; leave it at 1"),
        }
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let alpha = self.max * math::warm_up_share(at, self.warmup);
        let own = math::one_hot_argmax(logits);
        Tensor::cat(vec![math::temper(labels, self.tau) * (1.0 - alpha), own * alpha], 1)
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("max", self.max, 0.0, 1.0)?;
        Invalid::unless_within("warmup", self.warmup, 0.0, 1.0)?;
        Invalid::unless_within("tau", self.tau, 1e-2, f64::INFINITY)
    }
}

register!(loss "augmented-confidence" for AugmentedConfidence, paper = "Guo et al. 2024, `AugConf` of ggjy/vision_weak_to_strong");
