use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Entropy minimisation: cross-entropy with the labels plus the student's own entropy, with gradient through it.
///
/// l = (1 − α) CE(y, z) + α H(p). The soft form of the confidence loss. Unlike `eleuther-entropy`, this one does pull the student to
/// certainty; from a zero head it has no preferred class and waits for the labels.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EntropyMinimization {
    /// Weight of the entropy. Origin: the auxiliary coefficient of the confidence losses.
    pub alpha: f64,
}

impl Default for EntropyMinimization {
    fn default() -> Self {
        Self { alpha: 0.5 }
    }
}

impl StudentLoss for EntropyMinimization {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let log_p = math::log_softmax(logits);
        let target = targets * (1.0 - self.alpha) + log_p.clone().exp() * self.alpha;
        math::rows(target * log_p).neg()
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        Some(tokens.cross_entropy() * (1.0 - self.alpha) + tokens.live.entropy.clone() * self.alpha)
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("alpha", self.alpha, 0.0, 1.0)
    }
}

register!(loss "entropy-minimization" for EntropyMinimization, paper = "Grandvalet & Bengio 2004, Semi-supervised Learning by Entropy Minimization");
