use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Progress, StudentLoss, TokenView, math, two_classes};

/// The entropy loss as EleutherAI/w2s ships it: cross-entropy with a mixture of the labels and the student's own soft prediction.
///
/// l = CE((1 − c) y + c p̂, z), p̂ = p without gradient, c = max · min(1, step / warmup_steps). The gradient of the second term is p − p̂ = 0, so this only
/// scales the gradient of cross-entropy by 1 − c; kept for comparison with published results. `entropy-minimization` is the loss the name promises.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EleutherEntropy {
    /// Largest coefficient of the student's own prediction. Origin: EleutherAI/w2s, `logconf_weight`.
    pub max: f64,
    /// Optimizer steps over which the coefficient rises. Origin: EleutherAI/w2s, `logconf_warmup_steps`.
    pub warmup_steps: usize,
    /// Shift the labels' logits to mean zero over the batch. Origin: EleutherAI/w2s, `balance_batch`, there over the micro-batch.
    pub balance_batch: bool,
}

impl Default for EleutherEntropy {
    fn default() -> Self {
        Self { max: 0.5, warmup_steps: 100, balance_batch: false }
    }
}

impl EleutherEntropy {
    /// The coefficient c of the student's own prediction.
    fn coefficient(&self, at: &Progress) -> f64 {
        self.max * math::warm_up(at.step as f64, self.warmup_steps as f64)
    }
}

impl StudentLoss for EleutherEntropy {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let c = self.coefficient(at);
        let labels = if self.balance_batch { math::balance(labels) } else { labels };
        labels * (1.0 - c) + math::softmax(logits) * c
    }

    fn tokens(&self, tokens: &TokenView, at: &Progress) -> Option<Tensor<1>> {
        // The cross-entropy of p with itself is the entropy, and its gradient is 0.
        let c = self.coefficient(at);
        Some(tokens.cross_entropy() * (1.0 - c) + tokens.still.entropy.clone() * c)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        if self.balance_batch { two_classes(form, "leave out `balance_batch`") } else { Ok(()) }
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("max", self.max, 0.0, 1.0)
    }
}

register!(loss "eleuther-entropy" for EleutherEntropy, paper = "EleutherAI/w2s, `log_confidence_loss` with `harden = false`", changed = [balance_batch = true]);

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_second_term_pulls_at_nothing() {
        // With the coefficient at 1 only the term that should minimise the entropy is left, and its gradient is p − p.
        let device = Device::flex().autodiff();
        let loss = EleutherEntropy { max: 1.0, warmup_steps: 0, balance_batch: false };
        let at = Progress { step: 0, total_steps: 1, epoch: 0, epochs: 1 };
        let logits = Tensor::<2>::from_floats([[1.2, -0.3], [-0.5, 0.8]], &device).require_grad();
        let labels = Tensor::<2>::from_floats([[0.7, 0.3], [0.1, 0.9]], &device);
        let targets = loss.targets(logits.clone().detach(), labels, &at, &mut Memory::default());
        let gradients = loss.loss(logits.clone(), targets, &at).sum().backward();
        let gradient: Vec<f32> = logits.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
        assert!(gradient.iter().all(|value| value.abs() < 1e-7), "{gradient:?}");
    }
}
