use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, LabelRefiner, Memory, Needs, Pool, Selection, math::{self, LabelTable, Points}, only_classes};

/// Replaces each weak label by the mean weak label of the nearest examples.
///
/// y(x) = mean of y over the k examples whose embeddings in the pretrained strong model are nearest to x's (Euclidean distance), x among them.
/// Labels that the selector trusts stay. With k of the data set's size and more every label is the mean. Not consistently better than the
/// weak labels on EleutherAI's 21 tasks, where embeddings are from the middle layer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KnnRelabel {
    /// Number of nearest examples k, the example itself included. Origin: EleutherAI/w2s, configuration.
    pub neighbours: usize,
    /// The labels that `prepare` computed.
    #[serde(skip)]
    labels: LabelTable,
}

impl Default for KnnRelabel {
    fn default() -> Self {
        Self { neighbours: 50, labels: LabelTable::default() }
    }
}

impl LabelRefiner for KnnRelabel {
    fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
        self.labels.relabel(batch, selection, selection.labels(batch))
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        only_classes(form, "the answer of one example cannot stand for that of another; use `identity`")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        self.labels = LabelTable::new(pool, math::knn_labels(&Points::of(pool)?, &pool.weak, self.neighbours));
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("neighbours", self.neighbours as f64, 1.0, f64::INFINITY)
    }

    fn needs(&self) -> Needs {
        Needs { embeddings: true, ..Needs::default() }
    }
}

register!(refiner "knn-relabel" for KnnRelabel, paper = "EleutherAI/w2s, `KnnProbe` with `probe_relabel`");

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use w2s_core::strategy::ExampleId;

    use super::*;

    #[test]
    fn weak_labels_are_replaced_and_trusted_ones_stay() {
        let weak = vec![vec![0.9, 0.1], vec![0.5, 0.5], vec![0.2, 0.8], vec![0.0, 1.0]];
        let embeddings = Some(vec![vec![0.0], vec![1.0], vec![10.0], vec![11.5]]);
        let all: Vec<ExampleId> = [7, 5, 3, 1].map(ExampleId).into();
        let mut refiner = KnnRelabel { neighbours: 2, ..KnnRelabel::default() };
        refiner.prepare(&Pool { ids: all, weak, embeddings, ..Pool::default() }).unwrap();
        let device = Device::flex();
        // Another order than the pool's, and an example that it does not hold.
        let ids = [1, 7, 9, 5].map(ExampleId);
        let labels = Tensor::from_floats([[0.0, 1.0], [0.9, 0.1], [0.3, 0.7], [0.5, 0.5]], &device);
        let batch = Batch::new(&ids, labels).with_self_labels(Tensor::from_floats([[1.0, 0.0]; 4], &device));
        let own = Tensor::from_floats([0.0, 0.0, 0.0, 1.0], &device);
        let selection = Selection { own, ..Selection::weak(&batch) };
        let got = math::rows_to_host(refiner.refine(&batch, &selection, &mut Memory::default()));
        for (got, expected) in got.iter().zip([0.1, 0.9, 0.7, 0.3, 0.3, 0.7, 1.0, 0.0]) {
            assert!((got - expected).abs() < 1e-6, "{got} instead of {expected}");
        }
    }
}
