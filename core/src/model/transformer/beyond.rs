//! Texts longer than those of a model's pretraining ([`Beyond`]).

use std::iter::repeat_n;

use super::{Plan, Transformer};
use crate::{model::spec::Beyond, ops};

impl Transformer {
    /// How much the base of rotations [grows](Beyond::growth) for texts of these lengths.
    pub(in crate::model) fn growths(&self, lengths: &[usize]) -> Vec<usize> {
        let growth = |length: &usize| self.spec.extras.beyond.map_or(1, |beyond| beyond.growth(*length));
        lengths.iter().map(growth).collect()
    }

    /// A plan for sequences whose positions are below `longest`, each with so many `rows` of its tokens and a growth of its own. Nothing changes up to
    /// the length of the pretraining, nor while the model trains, which is on a device that keeps what gradients need.
    ///
    /// Each growth has a table for keys and after it one for queries, whose rotations are multiplied too; positions become places in them.
    pub(super) fn reaching(&self, mut plan: Plan, rows: &[usize], growths: &[usize], longest: usize) -> Plan {
        let goes_beyond = |beyond: &Beyond| longest > beyond.length && !self.device().is_autodiff();
        let Some(beyond) = self.spec.extras.beyond.filter(goes_beyond) else { return plan };
        let mut kinds = growths.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        let mut tables = Vec::with_capacity(2 * kinds.len());
        for &growth in &kinds {
            let Some(frequencies) = self.spec.positions.grown(growth).frequencies() else { return plan };
            let keys = ops::Rotary::new(&frequencies, longest, 1.0);
            tables.extend([keys.clone(), keys.scaled(|position| beyond.scale(position))]);
        }
        let start = |growth: &usize| 2 * kinds.iter().position(|kind| kind == growth).unwrap_or(0) * longest;
        let of_sequences: Vec<usize> = growths.iter().map(start).collect();
        let of_rows: Vec<usize> =
            of_sequences.iter().zip(rows).flat_map(|(start, rows)| repeat_n(*start, *rows)).collect();
        let of_queries = if plan.rows.is_some() { &of_sequences } else { &of_rows };
        plan.queries.iter_mut().zip(of_queries).for_each(|(place, start)| *place += (start + longest) as u32);
        plan.keys.iter_mut().zip(&of_rows).for_each(|(place, start)| *place += *start as u32);
        let rotary = Some(ops::Rotary::chained(&tables));
        (plan.whole.rotary, plan.near.rotary) = (rotary.clone(), rotary);
        plan
    }
}
