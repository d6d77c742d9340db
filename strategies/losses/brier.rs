use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Progress, StudentLoss, TokenView, math};

/// Brier score: squared error between the labels and the student's probabilities.
///
/// l = Σₖ (yₖ − pₖ)². A Bregman divergence like KL, but bounded by 2: between cross-entropy and the absolute error in robustness.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Brier {}

impl StudentLoss for Brier {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let difference = targets - math::softmax(logits);
        math::rows(difference.clone() * difference)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        let p = tokens.live.label.clone().exp();
        Some(p * -2.0 + 1.0 + tokens.live.square.clone())
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }
}

register!(loss "brier" for Brier, paper = "Brier 1950");
