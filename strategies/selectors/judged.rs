use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Pool, Selection, Selector, math};

/// Trains on the examples whose weak label a judge believes, and on no others.
///
/// The judge is a column: by default `agrees`, the strong model trained to tell answers on which weak model and student agree from the
/// student's others. Fewer examples make a shorter training. With `at_random` as many examples are drawn at random, as many of each task of a
/// suite: the control of equal size.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Judged {
    /// Name of the column. Origin: original.
    pub column: String,
    /// An example stays if its number in the column, such as the judge's probability, is above this. Origin: the paper takes what the judge calls 1.
    pub threshold: f64,
    /// As many examples, drawn at random. Origin: the paper's control "random".
    pub at_random: bool,
}

impl Default for Judged {
    fn default() -> Self {
        Self { column: "agrees".to_owned(), threshold: 0.5, at_random: false }
    }
}

impl Selector for Judged {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        Selection::weak(batch)
    }

    fn choose(&self, pool: &Pool) -> Option<Vec<bool>> {
        let stays: Vec<bool> = pool.columns.get(&self.column)?.iter().map(|p| f64::from(*p) > self.threshold).collect();
        if !self.at_random {
            return Some(stays);
        }
        let task = |row: usize| pool.tasks.get(row).copied().unwrap_or(0);
        let mut tasks: BTreeMap<u32, (Vec<u32>, usize)> = BTreeMap::new();
        for (row, (id, stays)) in pool.ids.iter().zip(&stays).enumerate() {
            let (ids, count) = tasks.entry(task(row)).or_default();
            ids.push(id.0);
            *count += usize::from(*stays);
        }
        let drawn = |(ids, count): (Vec<u32>, usize)| math::choose(pool.seed, ids, count);
        let drawn: BTreeSet<u32> = tasks.into_values().flat_map(drawn).collect();
        Some(pool.ids.iter().map(|id| drawn.contains(&id.0)).collect())
    }

    fn columns(&self) -> Vec<String> {
        vec![self.column.clone()]
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        // A column may hold any numbers, such as ratings.
        Invalid::unless_within("threshold", self.threshold, f64::NEG_INFINITY, f64::INFINITY)
    }
}

register!(selector "judged" for Judged, paper = "multi-capabilities W2SG, Section 4: selection by a reward model");

#[cfg(test)]
mod tests {
    use w2s_core::strategy::ExampleId;

    use super::*;

    #[test]
    fn what_the_judge_believes_stays_and_the_control_is_as_large() {
        let column: Vec<f32> = (0..100).map(|row| row as f32 / 100.0).collect();
        let pool = |seed| Pool {
            ids: (0..100).map(ExampleId).collect(),
            columns: [("agrees".to_owned(), column.clone())].into(),
            seed,
            ..Pool::default()
        };
        let stays = |judged: &Judged, seed| judged.choose(&pool(seed)).unwrap();
        let judged = Judged { threshold: 0.7, ..Judged::default() };
        assert_eq!(stays(&judged, 0), (0..100).map(|row| row > 70).collect::<Vec<_>>());
        let control = Judged { at_random: true, ..judged.clone() };
        assert_eq!(stays(&control, 0).iter().filter(|stays| **stays).count(), 29);
        assert_ne!(stays(&control, 0), stays(&judged, 0));
        assert_ne!(stays(&control, 0), stays(&control, 1));
        assert_eq!(stays(&control, 1), stays(&control, 1));
        // Of a suite as many of each task: here none of the first and 29 of the second.
        let suite = Pool { tasks: (0..100).map(|row| u32::from(row >= 60)).collect(), ..pool(0) };
        let of_suite = control.choose(&suite).unwrap();
        assert_eq!(of_suite.iter().filter(|stays| **stays).count(), 29);
        assert!(of_suite[..60].iter().all(|stays| !stays) && of_suite != stays(&judged, 0));
    }
}
