use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Progress, StudentLoss, TokenView, math};

/// Bootstrapping: cross-entropy with a fixed mixture of the labels and the student's own prediction.
///
/// l = CE(β y + (1 − β) ŝ, z), ŝ the student's prediction without gradient. With the soft prediction this only scales the gradient of
/// cross-entropy by β; the hard one is a confidence loss without warm-up or balancing.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// The student's `soft` probabilities or its `hard` argmax. Origin: Reed et al. 2014 has both; hard is the one that acts here.
    pub prediction: Prediction,
    /// Weight β of the labels: 0.95 for soft, 0.8 for hard. Origin: Reed et al. 2014.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
}

/// Which prediction of the student is mixed in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// Its probabilities.
    Soft,
    /// Its argmax.
    #[default]
    Hard,
}

impl StudentLoss for Bootstrap {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        let (own, default) = match self.prediction {
            // The cross-entropy of p with itself is the entropy, and its gradient is 0.
            Prediction::Soft => (tokens.still.entropy.clone(), 0.95),
            Prediction::Hard => (tokens.own_cross_entropy(), 0.8),
        };
        let beta = self.beta.unwrap_or(default);
        Some(tokens.cross_entropy() * beta + own * (1.0 - beta))
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let (own, default) = match self.prediction {
            Prediction::Soft => (math::softmax(logits), 0.95),
            Prediction::Hard => (math::one_hot_argmax(logits), 0.8),
        };
        let beta = self.beta.unwrap_or(default);
        labels * beta + own * (1.0 - beta)
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("beta", self.beta.unwrap_or(1.0), 0.0, 1.0)
    }
}

register!(loss "bootstrap" for Bootstrap, paper = "Reed et al. 2014, Training Deep Neural Networks on Noisy Labels with Bootstrapping");
