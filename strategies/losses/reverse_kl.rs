use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Reverse KL divergence from the student to the labels, KL(p ‖ y).
///
/// l = Σₖ pₖ (log pₖ − log yₖ), with gradient through both p. Mode-seeking: the student may ignore classes its supervisor allows, which
/// protects it from an unsure supervisor. Unbounded where a label is 0, so labels are floored.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReverseKl {
    /// `paper` (per example) or `bregman`: averaged over the K classes as well, so 1/K of it. Origin: the paper's definition; the released code is half of it.
    pub variant: Variant,
    /// Label smoothing ε before the logarithm: y (1 − ε) + ε / K. Origin: W2SG-Bregman, off by default.
    pub smoothing: f64,
    /// Smallest label inside the logarithm. Origin: original; the released code leaves hard labels at −∞.
    pub floor: f64,
}

/// Over what the divergence is averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Over examples.
    #[default]
    Paper,
    /// Over examples and classes.
    Bregman,
}

impl Default for ReverseKl {
    fn default() -> Self {
        Self { variant: Variant::Paper, smoothing: 0.0, floor: 1e-8 }
    }
}

impl StudentLoss for ReverseKl {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let classes = logits.dims()[1] as f64;
        let log_p = math::log_softmax(logits);
        let log_y = math::smooth(targets, self.smoothing).clamp_min(self.floor).log();
        let divergence = math::rows(log_p.clone().exp() * (log_p - log_y));
        match self.variant {
            Variant::Paper => divergence,
            Variant::Bregman => divergence / classes,
        }
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        let divergence = tokens.reverse_cross_entropy(self.smoothing, self.floor) - tokens.live.entropy.clone();
        Some(match self.variant {
            Variant::Paper => divergence,
            Variant::Bregman => divergence / tokens.vocabulary as f64,
        })
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("smoothing", self.smoothing, 0.0, 1.0)?;
        Invalid::unless_within("floor", self.floor, f64::from(f32::MIN_POSITIVE), 0.5)
    }
}

register!(loss "reverse-kl" for ReverseKl, paper = "Yao et al. 2025b, reverse KL; Gengze/W2SG-Bregman, `reverse_kl_loss`");
