use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Symmetric cross-entropy: forward and reverse cross-entropy together (symmetric learning).
///
/// l = −α Σₖ yₖ log pₖ − β Σₖ pₖ log yₖ. The reverse term tolerates label noise, the forward term keeps learning fast.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SymmetricCe {
    /// Weight of the forward term. Origin: Gengze/W2SG-Bregman, `SL_loss`.
    pub alpha: f64,
    /// Weight of the reverse term. Origin: Gengze/W2SG-Bregman, `SL_loss`.
    pub beta: f64,
    /// Label smoothing ε in the reverse term. Origin: Gengze/W2SG-Bregman, off by default.
    pub smoothing: f64,
    /// Smallest label inside the logarithm. Origin: original; W2SG-Bregman cuts the logarithm at −100.
    pub floor: f64,
}

impl Default for SymmetricCe {
    fn default() -> Self {
        Self { alpha: 1.0, beta: 0.1, smoothing: 0.0, floor: 1e-8 }
    }
}

impl StudentLoss for SymmetricCe {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets.clone(), logits.clone()) * self.alpha
            + math::reverse_cross_entropy(targets, logits, self.smoothing, self.floor) * self.beta
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        let reverse = tokens.reverse_cross_entropy(self.smoothing, self.floor);
        Some(tokens.cross_entropy() * self.alpha + reverse * self.beta)
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("alpha", self.alpha, 0.0, f64::INFINITY)?;
        Invalid::unless_within("beta", self.beta, 0.0, f64::INFINITY)?;
        Invalid::unless_within("smoothing", self.smoothing, 0.0, 1.0)?;
        Invalid::unless_within("floor", self.floor, f64::from(f32::MIN_POSITIVE), 0.5)
    }
}

register!(loss "symmetric-ce" for SymmetricCe, paper = "Wang et al. 2019, Symmetric Cross Entropy; Gengze/W2SG-Bregman, `SL_loss`");
