use std::collections::BTreeSet;

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Pool, Selection, Selector, math};

/// Keeps a random share of the examples: the control for any selector that drops some.
///
/// Exactly round(fraction · N) examples, chosen once by the stage's seed and the example's number, so the choice does not depend on order,
/// batch size or epoch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Random {
    /// Share of the examples that count; set it to what the selector under test keeps. Origin: original.
    pub fraction: f64,
    /// The examples that `prepare` chose.
    #[serde(skip)]
    kept: BTreeSet<u32>,
}

impl Default for Random {
    fn default() -> Self {
        Self { fraction: 0.5, kept: BTreeSet::new() }
    }
}

impl Selector for Random {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let kept: Vec<f32> = batch.ids.iter().map(|id| f32::from(u8::from(self.kept.contains(&id.0)))).collect();
        Selection { weight: Tensor::from_floats(kept.as_slice(), &batch.weak.device()), ..Selection::weak(batch) }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let count = math::share_of(self.fraction, pool.ids.len());
        if count == 0 {
            return Err(format!("a share of {} of {} examples is none; raise `fraction`", self.fraction, pool.ids.len()));
        }
        self.kept = math::choose(pool.seed, pool.ids.iter().map(|id| id.0), count);
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("fraction", self.fraction, 0.0, 1.0)
    }
}

register!(selector "random" for Random, paper = "multi-capabilities W2SG, random selection of the same size (control)");

#[cfg(test)]
mod tests {
    use w2s_core::strategy::ExampleId;

    use super::*;

    #[test]
    fn keeps_exactly_the_share_whatever_the_order() {
        let pool = |ids: Vec<u32>, seed: u64| Pool {
            weak: vec![vec![0.5, 0.5]; ids.len()],
            ids: ids.into_iter().map(ExampleId).collect(),
            seed,
            ..Pool::default()
        };
        let kept = |pool: Pool| {
            let mut random = Random { fraction: 0.3, ..Random::default() };
            random.prepare(&pool).unwrap();
            random.kept
        };
        let forward = kept(pool((0..101).collect(), 1));
        assert_eq!(forward.len(), 30);
        assert_eq!(forward, kept(pool((0..101).rev().collect(), 1)));
        assert_ne!(forward, kept(pool((0..101).collect(), 2)));
        assert!(Random { fraction: 0.001, ..Random::default() }.prepare(&pool((0..10).collect(), 1)).is_err());
    }
}
