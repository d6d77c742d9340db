use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Progress, StudentLoss, math};

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
}

register!(loss "brier" for Brier, paper = "Brier 1950");
