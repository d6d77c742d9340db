//! What a strategy sees of one training batch.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

/// Row of an example within its split; stable for one data set and seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExampleId(pub u32);

/// Where training stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Optimizer step, from 0.
    pub step: usize,
    /// Optimizer steps in all.
    pub total_steps: usize,
    /// Pass over the data, from 0.
    pub epoch: usize,
    /// Passes in all.
    pub epochs: usize,
}

impl Progress {
    /// `step / total_steps`, in [0, 1): the reference's `step_frac`.
    pub fn fraction(&self) -> f64 {
        self.step as f64 / self.total_steps.max(1) as f64
    }
}

/// What a strategy sees of one training batch. B examples, K classes, H hidden size; on the training device; everything detached.
///
/// K classes may also be K candidate answers. On [words](super::Form::Words) these are the answers that were given: the first is the weak
/// supervisor's, the second the strong model's own, if there is one. Labels then say whose text is learnt.
///
/// Made by [`Batch::new`] alone, so that what is added here later breaks no strategy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch<'a> {
    /// Which examples.
    pub ids: &'a [ExampleId],
    /// Where training stands.
    pub progress: Progress,
    /// Weak soft labels `[B, K]`.
    pub weak: Tensor<2>,
    /// The student's probabilities now `[B, K]`. On words, where [`Needs::student`] asked for them, those of a token of each answer (their
    /// geometric mean), which do not sum to one; NaN otherwise.
    pub student: Tensor<2>,
    /// The classifier's input `[B, H]`: the pooled hidden state after the final norm. On words NaN `[B, 1]`: there is no classifier.
    pub embedding: Tensor<2>,
    /// The strong model's own answers `[B, K]`, when [`Needs::self_labels`] asked for them.
    pub self_labels: Option<Tensor<2>>,
    /// See [`Batch::column`].
    columns: BTreeMap<String, Tensor<1>>,
}

impl<'a> Batch<'a> {
    /// Examples with their weak labels `[B, K]`, at the first of one step. What else there is follows; the student and its embeddings are NaN until
    /// they are given, as is whatever nobody asked for.
    pub fn new(ids: &'a [ExampleId], weak: Tensor<2>) -> Self {
        let (count, device) = (ids.len(), weak.device());
        Self {
            ids,
            progress: Progress { step: 0, total_steps: 1, epoch: 0, epochs: 1 },
            student: Tensor::full_like(&weak, f32::NAN),
            weak,
            embedding: Tensor::full([count, 1], f32::NAN, &device),
            self_labels: None,
            columns: BTreeMap::new(),
        }
    }

    /// At some point of training.
    #[must_use]
    pub fn at(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// With the student's probabilities `[B, K]`.
    #[must_use]
    pub fn with_student(self, student: Tensor<2>) -> Self {
        Self { student, ..self }
    }

    /// With the classifier's input `[B, H]`.
    #[must_use]
    pub fn with_embedding(self, embedding: Tensor<2>) -> Self {
        Self { embedding, ..self }
    }

    /// With the strong model's own answers `[B, K]`, if there are any.
    #[must_use]
    pub fn with_self_labels(self, self_labels: impl Into<Option<Tensor<2>>>) -> Self {
        Self { self_labels: self_labels.into(), ..self }
    }

    /// With a number of each example `[B]`.
    #[must_use]
    pub fn with_column(mut self, name: impl Into<String>, numbers: Tensor<1>) -> Self {
        self.columns.insert(name.into(), numbers);
        self
    }

    /// A number of each example `[B]`, by the name under which a strategy of the method [asked](super::Selector::columns) for it.
    pub fn column(&self, name: &str) -> Option<Tensor<1>> {
        self.columns.get(name).cloned()
    }

    /// Every column that there is, by its name.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Tensor<1>)> {
        self.columns.iter().map(|(name, numbers)| (name.as_str(), numbers))
    }

    /// Number of examples B.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no example; the engine never makes such a batch.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// A selector's decision about each row.
#[derive(Clone, Debug)]
pub struct Selection {
    /// 1 where the student's own label is trusted, 0 where the weak one is `[B]`.
    pub own: Tensor<1>,
    /// How much the row counts `[B]`, at least 0; 0 drops it. The loss is Σ wᵢ lᵢ / Σ wᵢ.
    pub weight: Tensor<1>,
}

impl Selection {
    /// Every row counts once and keeps its weak label.
    pub fn weak(batch: &Batch) -> Self {
        let device = batch.weak.device();
        Self { own: Tensor::zeros([batch.len()], &device), weight: Tensor::ones([batch.len()], &device) }
    }

    /// The selected labels `[B, K]`: self-labels where [`own`](Selection::own) is 1, weak labels elsewhere.
    pub fn labels(&self, batch: &Batch) -> Tensor<2> {
        match &batch.self_labels {
            None => batch.weak.clone(),
            Some(own) => {
                let mask = self.own.clone().unsqueeze_dim::<2>(1);
                own.clone() * mask.clone() + batch.weak.clone() * (mask.neg() + 1.0)
            }
        }
    }
}

/// Everything that will be trained on, for strategies that look at the data set as a whole. N examples, K classes, H hidden size.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Which examples, in the order of the other fields.
    pub ids: Vec<ExampleId>,
    /// Weak soft labels, N rows of K.
    pub weak: Vec<Vec<f32>>,
    /// Embeddings of the pretrained strong model, N rows of H, when [`Needs::embeddings`] asked for them.
    pub embeddings: Option<Vec<Vec<f32>>>,
    /// The strong model's own answers, N rows of K, when [`Needs::self_labels`] asked for them and they do not change while it trains.
    pub self_labels: Option<Vec<Vec<f32>>>,
    /// True classes, when [`Needs::truth`] asked for them.
    pub truth: Option<Vec<u8>>,
    /// The validation split with its truth, when [`Needs::calibration`] asked for it.
    pub calibration: Option<Calibration>,
    /// Numbers of each example, by the names that the strategies of a method [asked](super::Selector::columns) for; without one that is
    /// made while the student trains, which batches alone have ([`Batch::column`]).
    pub columns: BTreeMap<String, Vec<f32>>,
    /// Which task of a suite each example is of; empty where all are of one.
    pub tasks: Vec<u32>,
    /// Seed of this stage, for a strategy that draws at random.
    pub seed: u64,
}

/// Examples that nobody trains on, with what the weak supervisor says of them and the truth. M examples, K classes.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// Weak soft labels, M rows of K.
    pub weak: Vec<Vec<f32>>,
    /// True classes.
    pub truth: Vec<u8>,
}

impl Pool {
    /// Number of classes K.
    pub fn classes(&self) -> usize {
        self.weak.first().map_or(0, Vec::len)
    }
}

/// What a strategy needs from the engine. A method pays for what its parts declare and for nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Embeddings of the pretrained strong model over the whole data set, in [`Pool::embeddings`].
    pub embeddings: bool,
    /// The strong model's own answers, in [`Batch::self_labels`].
    pub self_labels: bool,
    /// Ground truth of what is trained on, in [`Pool::truth`]: for controls alone (an oracle), and flagged in the results.
    pub truth: bool,
    /// Examples held out of the supervisor's ground truth, in [`Pool::calibration`]; a grid without `[data] n_validation` is refused.
    pub calibration: bool,
    /// On words, what the student makes of each answer before the step: [`Batch::student`], and for a loss
    /// [`weigh`](super::StudentLoss::weigh). On classes and candidates this is always there and costs nothing.
    pub student: bool,
}

impl Needs {
    /// What two parts of a method need together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            embeddings: self.embeddings || other.embeddings,
            self_labels: self.self_labels || other.self_labels,
            truth: self.truth || other.truth,
            calibration: self.calibration || other.calibration,
            student: self.student || other.student,
        }
    }
}
