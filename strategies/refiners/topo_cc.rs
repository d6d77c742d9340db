use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, LabelRefiner, Memory, Needs, Pool, Selection, math::{self, LabelTable, Points}, only_classes};

/// Replaces each weak label by the mean weak label of the nearest examples that hang together with many of their class.
///
/// C holds, per class, the largest strongly connected component of the graph in which each example of the class points to its k nearest others.
/// y(x) = mean of y over the k_ζ examples of C nearest to x, x among them if C holds it. Labels that the selector trusts stay. The selector of
/// the same name drops examples instead.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TopoCc {
    /// Nearest others k that an example points to. Origin: EleutherAI/w2s, configuration (`k_cc`).
    pub neighbours: usize,
    /// Nearest examples k_ζ of C whose labels are averaged. Origin: EleutherAI/w2s, configuration (`k_zeta`).
    pub zeta_neighbours: usize,
    /// The labels that `prepare` computed.
    #[serde(skip)]
    labels: LabelTable,
}

impl Default for TopoCc {
    fn default() -> Self {
        Self { neighbours: 50, zeta_neighbours: 50, labels: LabelTable::default() }
    }
}

impl LabelRefiner for TopoCc {
    fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
        self.labels.relabel(batch, selection, selection.labels(batch))
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        only_classes(form, "the answer of one example cannot stand for that of another; use `identity`")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let labels = math::topo_labels(&Points::of(pool)?, &pool.weak, self.neighbours, self.zeta_neighbours);
        self.labels = LabelTable::new(pool, labels);
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("neighbours", self.neighbours as f64, 1.0, f64::INFINITY)?;
        Invalid::unless_within("zeta_neighbours", self.zeta_neighbours as f64, 1.0, f64::INFINITY)
    }

    fn needs(&self) -> Needs {
        Needs { embeddings: true, ..Needs::default() }
    }
}

register!(refiner "topo-cc" for TopoCc, paper = "Wu et al. 2020, A Topological Filter for Learning with Label Noise; EleutherAI/w2s, `topolabel`");
