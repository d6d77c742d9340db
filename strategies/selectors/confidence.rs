use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, ExampleId, Form, Invalid, Memory, Pool, Selection, Selector, math, no_words};

/// Keeps the examples of which the supervisor is confident.
///
/// An example counts where maxₖ yₖ ≥ threshold. A supervisor that is biased is confident of one class more often, and the student then sees
/// hardly anything else; `balanced` keeps equally many of every class, the most confident ones.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Confidence {
    /// Smallest probability of the likeliest class. Origin: 0.75 in the weak-to-strong deception study's filter.
    pub threshold: f64,
    /// Keep equally many examples of every predicted class. Origin: original; off, as in published confidence filters.
    pub balanced: bool,
    /// The examples that `prepare` kept, when balanced.
    #[serde(skip)]
    kept: BTreeSet<ExampleId>,
}

impl Default for Confidence {
    fn default() -> Self {
        Self { threshold: 0.75, balanced: false, kept: BTreeSet::new() }
    }
}

impl Selector for Confidence {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let weight = if self.balanced {
            math::among(batch, &self.kept)
        } else {
            math::row_max(batch.weak.clone()).greater_equal_scalar(self.threshold as f32).float()
        };
        Selection { weight, ..Selection::weak(batch) }
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "answers come without probabilities, so that nobody is known to be sure of one")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        // Per class: (confidence, example), the most confident first, earlier examples first among equals.
        let mut confident: BTreeMap<usize, Vec<(f32, ExampleId)>> = BTreeMap::new();
        for (row, id) in pool.weak.iter().zip(&pool.ids) {
            let class = math::likeliest(row);
            let confidence = row.get(class).copied().unwrap_or_default();
            if confidence >= self.threshold as f32 {
                confident.entry(class).or_default().push((confidence, *id));
            }
        }
        if confident.is_empty() {
            return Err(format!("no weak label has a probability of {} or more; lower `threshold`", self.threshold));
        }
        if self.balanced {
            let each = (0..pool.classes()).map(|class| confident.get(&class).map_or(0, Vec::len)).min().unwrap_or(0);
            if each == 0 {
                let threshold = self.threshold;
                return Err(format!("some class has no weak label of {threshold} or more; lower `threshold` or leave out `balanced`"));
            }
            for examples in confident.values_mut() {
                examples.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                self.kept.extend(examples.iter().take(each).map(|(_, id)| *id));
            }
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("threshold", self.threshold, 0.0, 1.0)
    }
}

register!(selector "confidence" for Confidence, paper = "confidence filter of the weak-to-strong deception study; balancing is original");

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    fn weights(selector: &Confidence, weak: &[[f32; 2]]) -> Vec<f32> {
        let device = Device::flex();
        let rows: Vec<Tensor<2>> = weak.iter().map(|row| Tensor::from_floats([*row], &device)).collect();
        let weak = Tensor::cat(rows, 0);
        let ids: Vec<ExampleId> = (0..weak.dims()[0] as u32).map(ExampleId).collect();
        let batch = Batch::new(&ids, weak);
        math::to_host(selector.select(&batch, &mut Memory::default()).weight)
    }

    fn pool(weak: &[[f32; 2]]) -> Pool {
        let ids = (0..weak.len() as u32).map(ExampleId).collect();
        Pool { ids, weak: weak.iter().map(|row| row.to_vec()).collect(), ..Pool::default() }
    }

    const WEAK: [[f32; 2]; 6] = [[0.1, 0.9], [0.2, 0.8], [0.25, 0.75], [0.4, 0.6], [0.8, 0.2], [0.05, 0.95]];

    #[test]
    fn the_threshold_is_inclusive() {
        assert_eq!(weights(&Confidence::default(), &WEAK), [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn balanced_keeps_the_most_confident_of_each_class() {
        let mut selector = Confidence { balanced: true, ..Confidence::default() };
        selector.prepare(&pool(&WEAK)).unwrap();
        assert_eq!(weights(&selector, &WEAK), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn a_threshold_that_keeps_nothing_is_refused() {
        let mut selector = Confidence { threshold: 0.99, ..Confidence::default() };
        assert!(selector.prepare(&pool(&WEAK)).unwrap_err().contains("threshold"));
        let mut selector = Confidence { threshold: 0.85, balanced: true, ..Confidence::default() };
        assert!(selector.prepare(&pool(&WEAK)).unwrap_err().contains("balanced"));
    }
}
