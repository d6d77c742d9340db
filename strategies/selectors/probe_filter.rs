use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, ExampleId, Form, Invalid, Memory, Needs, Pool, Selection, Selector, math::{self, Logistic, Points}, only_classes};

/// Drops the examples whose weak label a probe on the strong model's embeddings contradicts most.
///
/// The ⌊contamination · N⌋ examples with the largest ½ Σₖ |pₖ − yₖ| do not count, where p is what the probe, fitted to all weak labels, says.
/// The probes are those of the refiners `knn-relabel`, `logistic-probe` and `topo-cc`, which replace labels instead. No filter was consistently
/// better than keeping everything on EleutherAI's 21 tasks.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeFilter {
    /// Share of the examples that is dropped. Origin: EleutherAI/w2s, configuration.
    pub contamination: f64,
    /// Which probe. Origin: EleutherAI/w2s, configuration.
    pub probe: Probe,
    /// Nearest examples whose labels the probes `knn` and `topo` average. Origin: EleutherAI/w2s, configuration.
    pub neighbours: usize,
    /// Nearest others that an example points to in the graph of `topo`. Origin: EleutherAI/w2s, configuration (`k_cc`).
    pub graph_neighbours: usize,
    /// Weight of the penalty on the weights of `logistic`. Origin: EleutherAI/w2s, configuration.
    pub l2: f64,
    /// The examples that `prepare` kept.
    #[serde(skip)]
    kept: BTreeSet<ExampleId>,
}

/// How labels are predicted from embeddings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Mean label of the nearest examples.
    #[default]
    Knn,
    /// Logistic regression.
    Logistic,
    /// Mean label of the nearest examples that hang together with many of their class (`modified` in EleutherAI/w2s).
    Topo,
}

impl Default for ProbeFilter {
    fn default() -> Self {
        Self {
            contamination: 0.1,
            probe: Probe::default(),
            neighbours: 50,
            graph_neighbours: 50,
            l2: 1e-3,
            kept: BTreeSet::new(),
        }
    }
}

impl Selector for ProbeFilter {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        Selection { weight: math::among(batch, &self.kept), ..Selection::weak(batch) }
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        only_classes(form, "a probe tells classes apart, and there are none")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let (points, labels) = (Points::of(pool)?, &pool.weak);
        let predicted = match self.probe {
            Probe::Knn => math::knn_labels(&points, labels, self.neighbours),
            Probe::Logistic => Logistic::fit(&points, labels, self.l2)?.predict(&points),
            Probe::Topo => math::topo_labels(&points, labels, self.graph_neighbours, self.neighbours),
        };
        // 10 · 0.3 is 3.0000000000000004 or 2.9999999999999996 in floating point, and means 3.
        let count = (self.contamination * labels.len() as f64 + 1e-9).floor() as usize;
        let dropped = math::farthest(&predicted, labels, count);
        self.kept = pool.ids.iter().enumerate().filter(|(row, _)| !dropped.contains(row)).map(|(_, id)| *id).collect();
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("contamination", self.contamination, 0.0, 0.99)?;
        Invalid::unless_within("neighbours", self.neighbours as f64, 1.0, f64::INFINITY)?;
        Invalid::unless_within("graph_neighbours", self.graph_neighbours as f64, 1.0, f64::INFINITY)?;
        Invalid::unless_within("l2", self.l2, 0.0, f64::INFINITY)
    }

    fn needs(&self) -> Needs {
        Needs { embeddings: true, ..Needs::default() }
    }
}

register!(selector "probe-filter" for ProbeFilter, paper = "EleutherAI/w2s, `Probe.filter`");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_drops_the_label_that_does_not_fit() {
        let embeddings: Vec<Vec<f32>> = (0..20).map(|i| vec![(i % 2) as f32 * 6.0 + 0.1 * i as f32]).collect();
        let weak: Vec<Vec<f32>> =
            (0..20).map(|i| if (i % 2 == 0) == (i != 6 && i != 9) { vec![0.8, 0.2] } else { vec![0.3, 0.7] }).collect();
        let ids: Vec<ExampleId> = (50..70).map(ExampleId).collect();
        for probe in [Probe::Knn, Probe::Logistic, Probe::Topo] {
            let mut selector =
                ProbeFilter { probe, neighbours: 5, graph_neighbours: 4, ..ProbeFilter::default() };
            let pool =
                Pool { ids: ids.clone(), weak: weak.clone(), embeddings: Some(embeddings.clone()), ..Pool::default() };
            selector.prepare(&pool).unwrap();
            let dropped: Vec<u32> = (50..70).filter(|id| !selector.kept.contains(&ExampleId(*id))).collect();
            assert_eq!(dropped, [56, 59], "{probe:?}");
        }
    }
}
