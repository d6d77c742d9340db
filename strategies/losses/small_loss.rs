use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Invalid, Memory, Progress, StudentLoss, math};

/// Small-loss selection: cross-entropy on the part of each batch that the student finds most plausible.
///
/// Keeps the ⌈(1 − forget) B⌉ rows with the smallest CE(y, z) and takes their mean: labels that contradict the student most are taken for noise.
/// Helps once the student knows something; from the first step on it may as well discard what is right but new.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SmallLoss {
    /// Share of each batch that is left out; the supervisor's error rate, if it is known. Origin: original; Han et al. 2018 set it to the noise rate.
    pub forget: f64,
}

impl Default for SmallLoss {
    fn default() -> Self {
        Self { forget: 0.25 }
    }
}

impl StudentLoss for SmallLoss {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let rows = labels.dims()[0] as f64;
        // 10 · (1 − 0.3) is 7.000000000000001 in floating point, and means 7.
        let kept = (rows * (1.0 - self.forget) - 1e-9).ceil();
        let loss = math::cross_entropy(labels.clone(), logits);
        let weight = math::rank(loss).lower_scalar(kept).float() * (rows / kept.max(1.0));
        math::weigh_rows(labels, weight)
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("forget", self.forget, 0.0, 0.99)
    }
}

register!(loss "small-loss" for SmallLoss, paper = "Han et al. 2018, Co-teaching, the selection of one network");
