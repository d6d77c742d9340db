use std::collections::BTreeSet;

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Needs, Pool, Selection, Selector, math};

/// Trusts the strong model's own answer on a share of the examples, all of them by default, and the weak label on the rest.
///
/// With `self_labels.source = "student"` the own answers are those of a plain student: training on all of them is self-bootstrapping, on half
/// of them training on mixed data. Exactly round(share · N) examples are drawn, once, by the stage's seed and the example's number.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Own {
    /// Share of the examples whose own answer is trusted. Origin: the paper's strong data, 1; its mixed data are both.
    pub share: f64,
    /// The examples that `prepare` drew.
    #[serde(skip)]
    drawn: BTreeSet<u32>,
}

impl Default for Own {
    fn default() -> Self {
        Self { share: 1.0, drawn: BTreeSet::new() }
    }
}

impl Selector for Own {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let own: Vec<f32> = batch.ids.iter().map(|id| f32::from(u8::from(self.drawn.contains(&id.0)))).collect();
        Selection { own: Tensor::from_floats(own.as_slice(), &batch.weak.device()), ..Selection::weak(batch) }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let count = math::share_of(self.share, pool.ids.len());
        self.drawn = math::choose(pool.seed, pool.ids.iter().map(|id| id.0), count);
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("share", self.share, 0.0, 1.0)
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

register!(selector "own" for Own, paper = "multi-capabilities W2SG, Section 3: self-bootstrapping, strong and mixed data");

#[cfg(test)]
mod tests {
    use w2s_core::strategy::ExampleId;

    use super::*;

    #[test]
    fn exactly_the_share_is_drawn() {
        let drawn = |share: f64, seed: u64| {
            let mut own = Own { share, ..Own::default() };
            own.prepare(&Pool { ids: (0..101).map(ExampleId).collect(), seed, ..Pool::default() }).unwrap();
            own.drawn
        };
        assert_eq!(drawn(1.0, 0).len(), 101);
        assert_eq!(drawn(0.5, 0).len(), 51);
        assert_ne!(drawn(0.5, 0), drawn(0.5, 1));
        assert!(drawn(0.0, 0).is_empty());
    }
}
