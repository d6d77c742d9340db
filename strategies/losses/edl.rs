use burn::tensor::{Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Progress, StudentLoss, math, no_words};

/// Evidential loss of Bayesian weak-to-strong: the student's logits are evidence, its prediction a Dirichlet distribution.
///
/// α = relu(z) + 1, S = Σ α; for a class t: L(t) = log S − log αₜ + f · KL(Dir(α with αₜ := 1) ‖ Dir(1, …, 1)) at fraction f of the run.
/// l = (1 − γ) L(argmax y) + γ L(argmax z), both without gradient through the argmax. Negative logits carry no evidence and no gradient.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Edl {
    /// Weight γ of the student's own prediction. Origin: mlbio-epfl/raven, `edl_log_loss_fn`.
    pub gamma: f64,
}

impl Default for Edl {
    fn default() -> Self {
        Self { gamma: 0.5 }
    }
}

impl StudentLoss for Edl {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, at: &Progress) -> Tensor<1> {
        let device = logits.device();
        let [rows, classes] = logits.dims();
        let alpha = activation::relu(logits) + 1.0;
        let fit = math::row_sums(alpha.clone()).log() - alpha.clone().log();
        let of_class = |class: usize| {
            let only = Tensor::<1>::from_floats([class as f32], &device).one_hot::<2>(classes).expand([rows, classes]);
            let misleading = (alpha.clone() - 1.0) * (only.neg() + 1.0) + 1.0;
            math::dirichlet_kl_to_uniform(misleading).unsqueeze_dim::<2>(1)
        };
        let penalty = Tensor::cat((0..classes).map(of_class).collect(), 1);
        math::rows(targets * (fit + penalty * at.fraction()))
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "the outputs of a language model are no evidence: they mean the same with any number added")
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        math::one_hot_argmax(labels) * (1.0 - self.gamma) + math::one_hot_argmax(logits) * self.gamma
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("gamma", self.gamma, 0.0, 1.0)
    }
}

register!(loss "edl" for Edl, paper = "Cui et al. 2024, Bayesian WeakS-to-Strong; mlbio-epfl/raven, `edl_log_loss_fn`");
