use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Progress, StudentLoss, TokenView, math};

/// Cross-entropy with smoothed labels.
///
/// l = CE(y (1 − ε) + ε / K, z). Keeps logits small where labels are hard; on labels that are soft already it mostly costs confidence.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LabelSmoothing {
    /// Share ε of the label that is spread over all classes. Origin: Szegedy et al. 2016.
    pub epsilon: f64,
}

impl Default for LabelSmoothing {
    fn default() -> Self {
        Self { epsilon: 0.1 }
    }
}

impl StudentLoss for LabelSmoothing {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(math::smooth(targets, self.epsilon), logits)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        let spread = tokens.live.mean.clone().neg();
        Some(tokens.cross_entropy() * (1.0 - self.epsilon) + spread * self.epsilon)
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("epsilon", self.epsilon, 0.0, 1.0)
    }
}

register!(loss "label-smoothing" for LabelSmoothing, paper = "Szegedy et al. 2016, Rethinking the Inception Architecture");
