use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Needs, Progress, StudentLoss, TokenView, math};

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

impl SmallLoss {
    /// 1 for the rows that are kept by their losses `[B]`, 0 for the others, and how many they are.
    fn keeps(&self, losses: Tensor<1>) -> (Tensor<1>, f64) {
        // 10 · (1 − 0.3) is 7.000000000000001 in floating point, and means 7.
        let kept = (losses.dims()[0] as f64 * (1.0 - self.forget) - 1e-9).ceil();
        (math::rank(losses).lower_scalar(kept).float(), kept)
    }
}

impl StudentLoss for SmallLoss {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        Some(tokens.cross_entropy())
    }

    fn weigh(&self, surprise: Tensor<1>, _at: &Progress, _memory: &mut Memory) -> Tensor<1> {
        self.keeps(surprise).0
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { student: true, ..Needs::default() }
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let rows = labels.dims()[0] as f64;
        let (keeps, kept) = self.keeps(math::cross_entropy(labels.clone(), logits));
        math::weigh_rows(labels, keeps * (rows / kept.max(1.0)))
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("forget", self.forget, 0.0, 0.99)
    }
}

register!(loss "small-loss" for SmallLoss, paper = "Han et al. 2018, Co-teaching, the selection of one network");

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Which of ten rows, in falling order of their loss, are kept and with which weight.
    fn kept(forget: f64) -> Vec<f32> {
        let device = Device::flex();
        let logits: Vec<Tensor<2>> = (0..10).map(|row| Tensor::from_floats([[row as f32, 0.0]], &device)).collect();
        let labels = Tensor::<2>::from_floats([[1.0, 0.0]], &device).expand([10, 2]);
        let at = Progress { step: 0, total_steps: 1, epoch: 0, epochs: 1 };
        let targets = SmallLoss { forget }.targets(Tensor::cat(logits, 0), labels, &at, &mut Memory::default());
        math::to_host(math::column(targets, 0))
    }

    #[test]
    fn keeps_the_rows_with_the_smallest_loss_and_their_mean() {
        let weight = 10.0 / 7.0;
        let mut expected = vec![0.0; 3];
        expected.extend([weight; 7]);
        assert_eq!(kept(0.3), expected);
        assert_eq!(kept(0.0), [1.0; 10]);
        // At least one row stays.
        assert_eq!(kept(0.99).iter().filter(|weight| **weight > 0.0).count(), 1);
    }
}
