use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, LabelRefiner, Memory, Needs, Pool, Selection, math::{LabelTable, Logistic, Points}, only_classes};

/// Replaces each weak label by what a linear probe on the strong model's embeddings makes of all weak labels.
///
/// y(x) = softmax(Wx + b), where W and b minimise the mean cross-entropy with the weak soft labels + l2 ‖W‖² over the embeddings x of the
/// pretrained strong model; two classes have one logit. What a linear function of the embeddings cannot say is taken for noise. Labels that
/// the selector trusts stay.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogisticProbe {
    /// Weight of the penalty ‖W‖², per example. Origin: EleutherAI/w2s, configuration; its blog post used 0.01.
    pub l2: f64,
    /// The labels that `prepare` computed.
    #[serde(skip)]
    labels: LabelTable,
}

impl Default for LogisticProbe {
    fn default() -> Self {
        Self { l2: 1e-3, labels: LabelTable::default() }
    }
}

impl LabelRefiner for LogisticProbe {
    fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
        self.labels.relabel(batch, selection, selection.labels(batch))
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        only_classes(form, "the answer of one example cannot stand for that of another; use `identity`")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let points = Points::of(pool)?;
        self.labels = LabelTable::new(pool, Logistic::fit(&points, &pool.weak, self.l2)?.predict(&points));
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("l2", self.l2, 0.0, f64::INFINITY)
    }

    fn needs(&self) -> Needs {
        Needs { embeddings: true, ..Needs::default() }
    }
}

register!(refiner "logistic-probe" for LogisticProbe, paper = "EleutherAI/w2s, `LogisticProbe` with `probe_relabel`");
