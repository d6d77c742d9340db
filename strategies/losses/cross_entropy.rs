use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Progress, StudentLoss, TokenView, math};

/// Cross-entropy between the labels and the student: naive finetuning.
///
/// l = −Σₖ yₖ log pₖ, with soft labels y as they are. The baseline that every other method is compared with, and what the
/// weak model and the ceiling are trained with. Its gradient is p − y: the student is pulled all the way to its
/// supervisor's errors, which is why long training can hurt.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CrossEntropy {}

impl StudentLoss for CrossEntropy {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        Some(tokens.cross_entropy())
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }
}

register!(loss "cross-entropy" for CrossEntropy, paper = "Burns et al. 2023 (arXiv 2312.09390), Section 3; `xent` of openai/weak-to-strong");
