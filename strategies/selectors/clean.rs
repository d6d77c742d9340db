use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Needs, Pool, Selection, Selector, math};

/// Trains on the examples whose weak label is right, and on a share of the others: a control that sees the truth.
///
/// With `noise = 0` the student learns from clean weak labels alone, with 1 from all of them. Which wrong labels stay is drawn by the stage's
/// seed and the example's number, more of them with a higher share. Results are marked.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clean {
    /// Share of the examples with a wrong label that stay. Origin: the paper adds such shares to clean samples.
    pub noise: f64,
}

impl Selector for Clean {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        Selection::weak(batch)
    }

    fn choose(&self, pool: &Pool) -> Option<Vec<bool>> {
        let truth = pool.truth.as_ref()?;
        let best =
            |row: &[f32]| (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        let right: Vec<bool> =
            pool.weak.iter().zip(truth).map(|(row, class)| best(row) == usize::from(*class)).collect();
        let wrong: Vec<u32> = pool.ids.iter().zip(&right).filter(|(_, right)| !**right).map(|(id, _)| id.0).collect();
        let count = math::share_of(self.noise, wrong.len());
        let noise: BTreeSet<u32> = math::choose(pool.seed, wrong, count);
        Some(pool.ids.iter().zip(&right).map(|(id, right)| *right || noise.contains(&id.0)).collect())
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("noise", self.noise, 0.0, 1.0)
    }

    fn needs(&self) -> Needs {
        Needs { truth: true, ..Needs::default() }
    }
}

register!(selector "clean" for Clean, paper = "multi-capabilities W2SG, Section 3: clean samples and proportions of noise (control)");

#[cfg(test)]
mod tests {
    use w2s_core::strategy::ExampleId;

    use super::*;

    #[test]
    fn what_is_right_stays_with_a_share_of_the_rest() {
        let pool = Pool {
            ids: (0..100).map(ExampleId).collect(),
            weak: (0..100).map(|row| if row % 4 == 0 { vec![0.9, 0.1] } else { vec![0.3, 0.7] }).collect(),
            truth: Some(vec![1; 100]),
            seed: 5,
            ..Pool::default()
        };
        let stays = |noise: f64| Clean { noise }.choose(&pool).unwrap();
        assert_eq!(stays(0.0), (0..100).map(|row| row % 4 != 0).collect::<Vec<_>>());
        assert!(stays(1.0).iter().all(|stays| *stays));
        let half = stays(0.48);
        assert_eq!(half.iter().filter(|stays| **stays).count(), 75 + 12);
        // A higher share adds to a lower one.
        assert!(half.iter().zip(stays(0.8)).all(|(less, more)| !less || more));
    }
}
