use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, ExampleId, Form, Memory, Needs, Pool, Selection, Selector, math};

/// Trusts the strong model's own answer exactly where it is right: an upper bound for every selector that guesses this.
///
/// A control and no method: it reads the ground truth of what is trained on, and results say so. An answer is right where its likeliest class,
/// the lowest of equals, is the true one; elsewhere the weak label stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Oracle {
    /// The true classes.
    #[serde(skip)]
    truth: BTreeMap<ExampleId, u8>,
}

impl Selector for Oracle {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let selection = Selection::weak(batch);
        let Some(answers) = &batch.self_labels else { return selection };
        let [rows, classes] = answers.dims();
        let truth = |id: &ExampleId| {
            let truth = self.truth.get(id).map(|class| usize::from(*class));
            (0..classes).map(move |class| f32::from(u8::from(truth == Some(class))))
        };
        let truth: Vec<f32> = batch.ids.iter().flat_map(truth).collect();
        let truth = Tensor::from_data(TensorData::new(truth, [rows, classes]), &answers.device());
        Selection { own: math::rows(math::one_hot_argmax(answers.clone()) * truth), ..selection }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let truth = pool.truth.as_ref().ok_or("it needs the ground truth, which was not provided")?;
        self.truth = pool.ids.iter().copied().zip(truth.iter().copied()).collect();
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { truth: true, self_labels: true, ..Needs::default() }
    }
}

register!(selector "oracle" for Oracle, paper = "original: a control for selective W2SG (AAAI 2026, arXiv 2511.14166)");

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn trusts_what_is_right() {
        let device = Device::flex();
        let mut oracle = Oracle::default();
        let ids: Vec<ExampleId> = (0..4).map(ExampleId).collect();
        let truth = Some(vec![0, 1, 1, 0]);
        oracle.prepare(&Pool { ids, truth, ..Pool::default() }).unwrap();
        assert!(Oracle::default().prepare(&Pool::default()).is_err());
        let ids = [2, 0, 3, 1, 9].map(ExampleId);
        // Right, wrong, right by the tie's rule, wrong, unknown.
        let own = Tensor::from_floats([[0.2, 0.8], [0.4, 0.6], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]], &device);
        let batch = Batch::new(&ids, Tensor::zeros([5, 2], &device)).with_self_labels(own);
        let selection = oracle.select(&batch, &mut Memory::default());
        assert_eq!(math::to_host(selection.own), [1.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(math::to_host(selection.weight), [1.0; 5]);
    }
}
