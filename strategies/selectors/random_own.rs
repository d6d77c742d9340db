use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Needs, Pool, Selection, Selector, math::{self, Compare}};

/// Trusts the strong model's own answer on random examples, as many per batch as P(IK) would choose: the control for `p-ik`.
///
/// With n = #{i : P(IK)ᵢ > γ}, the own label stands on n examples of the batch, drawn by the stage's seed, the step and the example's number.
/// What `p-ik` gains over this is the worth of knowing where to trust; what this gains over weak labels is that of the own labels as such.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RandomOwn {
    /// Threshold γ of the selector under test. Origin: selective W2SG, implementation details.
    pub gamma: f64,
    /// Whether γ itself passes (`>=`) or not (`>`). Origin: as in `p-ik`.
    pub compare: Compare,
    /// The stage's seed.
    #[serde(skip)]
    seed: u64,
}

impl Default for RandomOwn {
    fn default() -> Self {
        Self { gamma: 0.8, compare: Compare::default(), seed: 0 }
    }
}

impl Selector for RandomOwn {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let selection = Selection::weak(batch);
        let Some(p_ik) = batch.column("p-ik") else { return selection };
        let count = self.compare.passes(p_ik, self.gamma).sum();
        let seed = math::draw(self.seed, batch.progress.step as u64);
        let drawn: Vec<f32> = batch.ids.iter().map(|id| (math::draw(seed, id.0.into()) >> 40) as f32).collect();
        let rank = math::rank(Tensor::from_floats(drawn.as_slice(), &batch.weak.device()));
        Selection { own: rank.lower(count.expand([batch.len()])).float(), ..selection }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        self.seed = pool.seed;
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("gamma", self.gamma, 0.0, 1.0)
    }

    fn columns(&self) -> Vec<String> {
        vec!["p-ik".to_owned()]
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

register!(selector "random-own" for RandomOwn, paper = "original: a control of equal coverage for selective W2SG");

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use w2s_core::strategy::{ExampleId, Progress};

    use super::*;

    fn own(seed: u64, step: usize, ids: &[ExampleId], p_ik: &[f32]) -> Vec<f32> {
        let device = Device::flex();
        let batch = Batch::new(ids, Tensor::zeros([ids.len(), 2], &device))
            .at(Progress { step, total_steps: 10, epoch: 0, epochs: 1 })
            .with_column("p-ik", Tensor::from_floats(p_ik, &device));
        let mut selector = RandomOwn::default();
        selector.prepare(&Pool { seed, ..Pool::default() }).unwrap();
        math::to_host(selector.select(&batch, &mut Memory::default()).own)
    }

    #[test]
    fn trusts_as_many_as_p_ik_but_others() {
        let ids: Vec<ExampleId> = (0..32).map(ExampleId).collect();
        let p_ik: Vec<f32> = (0..32).map(|row| if row < 12 { 0.9 } else { 0.8 }).collect();
        let first = own(1, 0, &ids, &p_ik);
        assert_eq!(first.iter().sum::<f32>(), 12.0);
        assert!(first[12..].contains(&1.0), "these are the ones of P(IK)");
        assert_eq!(first, own(1, 0, &ids, &p_ik));
        assert_ne!(first, own(2, 0, &ids, &p_ik));
        assert_ne!(first, own(1, 1, &ids, &p_ik));
        // The draw goes by examples, not by places.
        let turned: Vec<ExampleId> = ids.iter().rev().copied().collect();
        let back: Vec<f32> = own(1, 0, &turned, &p_ik).into_iter().rev().collect();
        assert_eq!(first, back);
        assert_eq!(own(1, 0, &ids, &[0.5; 32]), [0.0; 32]);
        assert_eq!(own(1, 0, &ids, &[1.0; 32]), [1.0; 32]);
    }

    #[test]
    fn every_example_is_drawn_equally_often() {
        let ids: Vec<ExampleId> = (0..8).map(ExampleId).collect();
        let p_ik = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let mut counts = [0.0; 8];
        for step in 0..2000 {
            counts.iter_mut().zip(own(3, step, &ids, &p_ik)).for_each(|(count, own)| *count += own);
        }
        assert!(counts.iter().all(|count| (430.0..570.0).contains(count)), "{counts:?}");
    }
}
