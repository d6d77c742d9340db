use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Needs, Selection, Selector, math};

/// Keeps the part of each batch whose weak labels the student finds most plausible.
///
/// The ⌈(1 − f) B⌉ examples with the smallest −Σₖ yₖ log pₖ count. f rises linearly from 0 to `forget` during the first `warm_up` passes over the
/// data: from the first step on, the student would discard what it has not learnt yet. The loss of the same name has no warm-up.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SmallLoss {
    /// Share of each batch that is dropped in the end; the supervisor's error rate, if it is known. Origin: original; Han et al. 2018 set it to the noise rate.
    pub forget: f64,
    /// Passes over the data until then; 0 drops from the first step on. Origin: original; Han et al. 2018 take 10 of 200.
    pub warm_up: f64,
}

impl Default for SmallLoss {
    fn default() -> Self {
        Self { forget: 0.25, warm_up: 1.0 }
    }
}

impl Selector for SmallLoss {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let passes = batch.progress.fraction() * batch.progress.epochs as f64;
        let forget = self.forget * math::warm_up(passes, self.warm_up);
        // 10 · (1 − 0.3) is 7.000000000000001 in floating point, and means 7.
        let kept = (batch.len() as f64 * (1.0 - forget) - 1e-9).ceil();
        let loss = math::rows(batch.weak.clone() * math::log(batch.student.clone())).neg();
        Selection { weight: math::rank(loss).lower_scalar(kept).float(), ..Selection::weak(batch) }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("forget", self.forget, 0.0, 0.99)?;
        Invalid::unless_within("warm_up", self.warm_up, 0.0, f64::INFINITY)
    }

    fn needs(&self) -> Needs {
        Needs { student: true, ..Needs::default() }
    }
}

register!(selector "small-loss" for SmallLoss, paper = "Han et al. 2018, Co-teaching, the selection of one network");

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use w2s_core::strategy::{ExampleId, Progress};

    use super::*;

    /// Which of ten rows, in falling order of their loss, count at a step of 100 in 4 epochs.
    fn kept(selector: &SmallLoss, step: usize) -> usize {
        let device = Device::flex();
        let ids: Vec<ExampleId> = (0..10).map(ExampleId).collect();
        let student: Vec<Tensor<2>> =
            (0..10).map(|row| Tensor::from_floats([[0.05 + 0.1 * row as f32, 0.95 - 0.1 * row as f32]], &device)).collect();
        let batch = Batch::new(&ids, Tensor::from_floats([[1.0, 0.0]; 10], &device))
            .at(Progress { step, total_steps: 100, epoch: step / 25, epochs: 4 })
            .with_student(Tensor::cat(student, 0));
        let weight = math::to_host(selector.select(&batch, &mut Memory::default()).weight);
        let count = weight.iter().sum::<f32>() as usize;
        assert!(weight[10 - count..].iter().all(|weight| *weight == 1.0), "{weight:?}");
        count
    }

    #[test]
    fn drops_more_and_more_until_the_warm_up_is_over() {
        let selector = SmallLoss { forget: 0.3, warm_up: 2.0 };
        assert_eq!([0, 25, 50, 99].map(|step| kept(&selector, step)), [10, 9, 7, 7]);
        let at_once = SmallLoss { forget: 0.3, warm_up: 0.0 };
        assert_eq!(kept(&at_once, 0), 7);
        assert_eq!(kept(&SmallLoss { forget: 0.99, warm_up: 0.0 }, 0), 1);
        assert_eq!(kept(&SmallLoss { forget: 0.0, warm_up: 0.0 }, 99), 10);
    }
}
