use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Progress, StudentLoss, math, no_words};

/// KL divergence from the labels to the student, KL(y ‖ p).
///
/// l = Σₖ yₖ (log yₖ − log pₖ) = cross-entropy − H(y). Same gradient as cross-entropy, but zero at a perfect match, so the
/// value can be compared across tasks. Mode-covering: the student may put no class below its supervisor's belief.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardKl {
    /// `per-example` or, as released with W2SG-Bregman, `bregman`: averaged over the K classes as well, so 1/K of it.
    /// Origin: EleutherAI/weak-to-strong, `kl_loss` (`batchmean`).
    pub variant: Variant,
}

/// Over what the divergence is averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Over examples.
    #[default]
    PerExample,
    /// Over examples and classes.
    Bregman,
}

impl StudentLoss for ForwardKl {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let classes = logits.dims()[1] as f64;
        let divergence = math::rows(math::x_log_x(targets.clone())) + math::cross_entropy(targets, logits);
        match self.variant {
            Variant::PerExample => divergence,
            Variant::Bregman => divergence / classes,
        }
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "of a hard label nothing is left but `cross-entropy`; use that")
    }
}

register!(loss "forward-kl" for ForwardKl, paper = "`kl` of EleutherAI/weak-to-strong and EleutherAI/w2s; `kl_loss` of Gengze/W2SG-Bregman");
