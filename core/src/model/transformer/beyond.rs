//! Texts longer than those of a model's pretraining ([`Beyond`]).

use super::{Plan, Transformer};
use crate::{model::spec::Beyond, ops};

impl Transformer {
    /// How much the base of rotations [grows](Beyond::growth) for texts of these lengths.
    pub(in crate::model) fn growths(&self, lengths: &[usize]) -> Vec<usize> {
        let growth = |length: &usize| self.spec.extras.beyond.map_or(1, |beyond| beyond.growth(*length));
        lengths.iter().map(growth).collect()
    }

    /// A plan for sequences of which each has `rows` of the keys' rows and a growth of its own, at most at position `longest - 1`. Nothing changes up
    /// to the length of the pretraining, nor while the model trains, which is on a device that keeps what gradients need.
    ///
    /// Each growth has tables of its own, and those of queries are multiplied, so queries and keys are told where theirs are.
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
        let table = |growth: &usize| 2 * kinds.iter().position(|kind| kind == growth).unwrap_or(0) * longest;
        let shift = |positions: &mut [u32], rows: &mut dyn Iterator<Item = usize>, by: usize| {
            let of_row = growths.iter().zip(rows).flat_map(|(growth, rows)| std::iter::repeat_n(table(growth), rows));
            positions.iter_mut().zip(of_row).for_each(|(position, table)| *position += (table + by) as u32);
        };
        let every = plan.rows.is_none();
        shift(&mut plan.queries, &mut rows.iter().map(|rows| if every { *rows } else { 1 }), longest);
        shift(&mut plan.keys, &mut rows.iter().copied(), 0);
        let rotary = Some(ops::Rotary::chained(&tables));
        (plan.whole.rotary, plan.near.rotary) = (rotary.clone(), rotary);
        plan
    }
}
