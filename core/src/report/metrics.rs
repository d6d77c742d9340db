//! Metrics of one set of predictions: f32 in, f64 sums in item order, so equal on every machine.

use std::collections::BTreeMap;

use super::measures;
use crate::{Error, Result, task::Extracted};

/// A rate or mean measured on items, with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error over items.
    pub standard_error: f64,
    /// Items it is measured on.
    pub n: usize,
}

impl Estimate {
    /// The rate `successes / n` with the binomial standard error √(r (1 − r) / n); `None` without items.
    pub fn rate(successes: usize, n: usize) -> Option<Self> {
        let value = successes as f64 / n as f64;
        (n > 0).then(|| Self { value, standard_error: binomial_standard_error(value, n), n })
    }

    pub(super) fn of(hits: impl IntoIterator<Item = bool>) -> Option<Self> {
        let (mut successes, mut n) = (0, 0);
        for hit in hits {
            successes += usize::from(hit);
            n += 1;
        }
        Self::rate(successes, n)
    }
}

/// √(r (1 − r) / n), the standard error of a rate (the population form, as openai/weak-to-strong and EleutherAI print it).
pub fn binomial_standard_error(rate: f64, n: usize) -> f64 {
    (rate * (1.0 - rate)).max(0.0).sqrt() / (n as f64).sqrt()
}

/// What is known about a metric by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name in results.
    pub name: &'static str,
    /// Whether tables show it in percent.
    pub percent: bool,
    /// Which direction is good; `None` when neither is.
    pub higher_is_better: Option<bool>,
    /// What it is, and where from.
    pub about: &'static str,
}

/// Test accuracy, the metric of the main table.
pub const ACCURACY: &str = "accuracy";
/// Share of the most frequent class among the same items.
pub const MAJORITY_RATE: &str = "majority_rate";
/// Paired standard error of this method's accuracy minus the weak model's; on the ceiling it is the standard error of the gap.
pub const GAIN_SE: &str = "gain_se";

/// Performance gap recovered by a student, from the weak model and the ceiling of its own cell; no value where the ceiling is not better.
pub const PGR: &str = "pgr";

const fn metric(name: &'static str, percent: bool, higher_is_better: Option<bool>, about: &'static str) -> Metric {
    Metric { name, percent, higher_is_better, about }
}

/// Every metric that [`measure`] may give, in its order, [`PGR`], and those of what a method knew; further ones are in [`measures`].
pub static METRICS: [Metric; 41] = [
    metric(ACCURACY, true, Some(true), "share of items whose most probable class is the true one"),
    metric(MAJORITY_RATE, true, None, "share of the most frequent true class: what a constant answer scores"),
    metric("auroc", true, Some(true), "area under the ROC curve of P(class 1); ties count half; two classes only"),
    metric("ece", true, Some(false), "expected calibration error of the predicted class, 10 bins of equal mass"),
    metric("ece_equal_width", true, Some(false), "the same with 10 bins of equal width (Guo et al. 2017)"),
    metric("ece_sweep", true, Some(false), "calibration error of P(class 1), monotonic sweep (Roelofs et al. 2022)"),
    metric(
        "brier",
        false,
        Some(false),
        "half the squared distance to the true one-hot label; (p - y)^2 for two classes",
    ),
    metric("eoe", true, None, "overconfidence: mean of p - y where p > 0.5, else y - p (EleutherAI); two classes only"),
    metric("cdr", true, Some(false), "confident disagreement with the truth among p > 0.95 or p < 0.05 (EleutherAI)"),
    metric("cdr_weak", true, None, "the same against the weak labels"),
    metric("agreement", true, None, "share of items on which method and weak model answer the same"),
    metric("agreement_weak_right", true, None, "agreement where the weak model is right"),
    metric("agreement_weak_wrong", true, None, "agreement where the weak model is wrong: imitated errors"),
    metric("both_right", true, None, "share of items: True Con. of the consistency partition"),
    metric("same_error", true, None, "share of items: both wrong with the same answer (False Con.)"),
    metric("only_method_right", true, None, "share of items: weak errors corrected (WTS True)"),
    metric("only_weak_right", true, None, "share of items: right weak answers lost (Weak True)"),
    metric("different_errors", true, None, "share of items: both wrong, differently (False Incon.)"),
    metric(
        "car_given_incorrect",
        true,
        None,
        "confident agreement with weak labels among the method's errors (EleutherAI)",
    ),
    metric("no_answer", true, Some(false), "share of items in whose text no answer was found; words only"),
    metric("cut_short", true, None, "share of items whose text was cut off at its longest allowed length; words only"),
    metric(GAIN_SE, true, None, "paired standard error of accuracy minus the weak model's accuracy on the same items"),
    metric(PGR, true, Some(true), "performance gap recovered: (student - weak) / (ceiling - weak) of the same cell"),
    metric(
        "p_ik_auroc",
        true,
        Some(true),
        "how well P(IK) separates the strong model's right answers from its wrong ones",
    ),
    metric("p_ik_brier", false, Some(false), "Brier score of P(IK) against whether the answer is right"),
    metric("p_ik_ece", true, Some(false), "expected calibration error of P(IK), 10 bins of equal mass"),
    metric("self_label_accuracy", true, Some(true), "share of items that the strong model answers right by itself"),
    metric("coverage", true, None, "share of the student's examples whose own label was trusted, at its last decision"),
    metric("trusted_accuracy", true, Some(true), "accuracy of the strong model's own labels where they were trusted"),
    metric("self_accuracy_rest", true, None, "accuracy of the strong model's own labels where they were not"),
    metric(
        "weak_accuracy_trusted",
        true,
        None,
        "accuracy of the weak labels where the strong model's own were trusted",
    ),
    metric("weak_accuracy_rest", true, None, "accuracy of the weak labels elsewhere"),
    metric(
        "refined_right_to_wrong",
        true,
        Some(false),
        "share of the student's examples whose right label refining made wrong",
    ),
    metric(
        "refined_wrong_to_right",
        true,
        Some(true),
        "share of the student's examples whose wrong label refining made right",
    ),
    metric(
        "label_accuracy",
        true,
        Some(true),
        "accuracy of the labels that the student was trained towards, after refining",
    ),
    metric(
        "kept",
        true,
        None,
        "share of the student's examples that were not dropped; only where some were, and no other share counts those",
    ),
    metric(
        "kept_both_right",
        true,
        None,
        "share that was not dropped of the student's examples that weak model and strong model's own answer have right",
    ),
    metric("kept_same_error", true, None, "the same of those that both have wrong with the same answer"),
    metric(
        "kept_only_method_right",
        true,
        None,
        "the same of those that the strong model's own answer alone has right",
    ),
    metric("kept_only_weak_right", true, None, "the same of those that the weak model alone has right"),
    metric("kept_different_errors", true, None, "the same of those that both have wrong, differently"),
];

/// Every metric there is.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().chain(measures::all().into_iter().map(|further| &further.metric))
}

/// The metric of that name.
pub fn find(name: &str) -> Option<&'static Metric> {
    all().find(|metric| metric.name == name)
}

/// One value of one metric. `None` means that the metric has no value on these items, e.g. AUROC with one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Name, from [`METRICS`].
    pub metric: &'static str,
    /// The value, finite.
    pub value: Option<f64>,
    /// Items it is measured on.
    pub n: usize,
}

/// Class of the highest probability; the lowest class of those that tie, so two classes at 0.5 give class 0 (`p > 0.5`).
pub fn argmax(row: &[f32]) -> u8 {
    let mut best = 0;
    for (class, &value) in row.iter().enumerate() {
        if value > row[best] {
            best = class;
        }
    }
    best as u8
}

/// Predicted probabilities and the truth: N items, K classes. Checked once, here.
#[derive(Clone, Debug)]
pub struct Predictions<'a> {
    probabilities: &'a [Vec<f32>],
    truth: &'a [u8],
    predicted: Vec<u8>,
    classes: usize,
}

/// How [`Predictions::calibration_error`] groups items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bins {
    /// This many bins of as many items each (the first ones take one more when it does not divide); ties stay in item order.
    EqualMass(usize),
    /// This many bins of equal width over [0, 1], closed above, as Guo et al. 2017.
    EqualWidth(usize),
}

impl<'a> Predictions<'a> {
    /// Takes N rows of K probabilities and the N true classes.
    ///
    /// # Errors
    /// No items, unequal lengths, fewer than two classes, a probability outside [0, 1] or not finite, a row that does not sum to
    /// one within 0.001, a class that does not exist.
    pub fn new(probabilities: &'a [Vec<f32>], truth: &'a [u8]) -> Result<Self> {
        if probabilities.len() != truth.len() {
            let (rows, labels) = (probabilities.len(), truth.len());
            return Err(Error::new(format!("predictions have {rows} rows but there are {labels} true labels")));
        }
        let classes = probabilities.first().map_or(0, Vec::len);
        if classes == 0 {
            return Err(Error::new("there are no predictions to score")
                .help("the split is empty; check the task's splits, filters and limits"));
        }
        if !(2..=256).contains(&classes) {
            return Err(Error::new(format!("predictions need 2 to 256 classes, not {classes}")));
        }
        for (item, (row, &class)) in probabilities.iter().zip(truth).enumerate() {
            let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
            let wrong = if row.len() != classes {
                format!("has {} probabilities, the first row has {classes}", row.len())
            } else if let Some(p) = row.iter().find(|p| !(0.0..=1.0 + 1e-4).contains(*p)) {
                format!("holds the probability {p}")
            } else if (sum - 1.0).abs() > 1e-3 {
                format!("sums to {sum}")
            } else if usize::from(class) >= classes {
                format!("has true class {class}, but there are {classes} classes")
            } else {
                continue;
            };
            return Err(Error::new(format!("row {item} of the predictions {wrong}")));
        }
        let predicted = probabilities.iter().map(|row| argmax(row)).collect();
        Ok(Self { probabilities, truth, predicted, classes })
    }

    /// Number of items N, at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.truth.len()
    }

    /// Number of classes K.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The most probable class of each item.
    pub fn predicted(&self) -> &[u8] {
        &self.predicted
    }

    /// Whether each item is answered correctly.
    pub fn correct(&self) -> Vec<bool> {
        self.predicted.iter().zip(self.truth).map(|(predicted, truth)| predicted == truth).collect()
    }

    /// Share of correct items.
    pub fn accuracy(&self) -> Estimate {
        self.rate(self.correct())
    }

    /// Share of items of class 1.
    pub fn truth_rate(&self) -> f64 {
        self.truth.iter().filter(|class| **class == 1).count() as f64 / self.truth.len() as f64
    }

    /// Share of the most frequent true class.
    pub fn majority_rate(&self) -> Estimate {
        let mut counts = vec![0; self.classes];
        for &class in self.truth {
            counts[usize::from(class)] += 1;
        }
        let most = counts.into_iter().max().unwrap_or(0);
        let value = most as f64 / self.len() as f64;
        Estimate { value, standard_error: binomial_standard_error(value, self.len()), n: self.len() }
    }

    /// Half the squared distance between probabilities and the one-hot truth, mean over items; (p − y)² for two classes (Brier 1950).
    pub fn brier(&self) -> f64 {
        let total: f64 = (self.probabilities.iter().zip(self.truth))
            .map(|(row, &truth)| {
                let squares = row.iter().enumerate().map(|(class, &p)| {
                    let y = f64::from(u8::from(class == usize::from(truth)));
                    (f64::from(p) - y).powi(2)
                });
                squares.sum::<f64>() / 2.0
            })
            .sum();
        total / self.len() as f64
    }

    /// Expected calibration error: mean over bins, weighted by items, of |accuracy − mean probability of the predicted class|.
    pub fn calibration_error(&self, bins: Bins) -> f64 {
        let confidence: Vec<f32> =
            self.probabilities.iter().zip(&self.predicted).map(|(row, &class)| row[usize::from(class)]).collect();
        let correct: Vec<f32> = self.correct().into_iter().map(|hit| f32::from(u8::from(hit))).collect();
        let groups = match bins {
            Bins::EqualMass(count) => equal_mass(&sorted_by(&confidence), count),
            Bins::EqualWidth(count) => {
                let mut groups = vec![vec![]; count.max(1)];
                for (item, &p) in confidence.iter().enumerate() {
                    // In f32, so that a probability written as 0.7 is the upper edge of its bin.
                    let bin = (p * count as f32).ceil() as usize;
                    groups[bin.clamp(1, count.max(1)) - 1].push(item);
                }
                groups
            }
        };
        let gaps = groups.iter().filter(|group| !group.is_empty()).map(|group| {
            group.len() as f64 / self.len() as f64 * (mean_of(&correct, group) - mean_of(&confidence, group)).abs()
        });
        gaps.sum()
    }

    /// P(class 1) against the truth; `None` unless there are two classes.
    pub fn binary(&self) -> Option<Binary> {
        let p = self.positive()?;
        Some(Binary { p, y: self.truth.iter().map(|&class| f32::from(class)).collect() })
    }

    /// P(class 1) against the weak model's P(class 1); `None` unless both have two classes and the same items.
    pub fn against(&self, weak: &Predictions) -> Option<Binary> {
        let (p, y) = (self.positive()?, weak.positive()?);
        (p.len() == y.len()).then_some(Binary { p, y })
    }

    fn positive(&self) -> Option<Vec<f32>> {
        (self.classes == 2).then(|| self.probabilities.iter().map(|row| row[1]).collect())
    }

    fn rate(&self, hits: Vec<bool>) -> Estimate {
        let value = hits.iter().filter(|hit| **hit).count() as f64 / self.len() as f64;
        Estimate { value, standard_error: binomial_standard_error(value, self.len()), n: self.len() }
    }
}

/// P(class 1) of each item and the soft label y it is compared with: metrics for two classes (EleutherAI/weak-to-strong).
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    p: Vec<f32>,
    y: Vec<f32>,
}

impl Binary {
    /// Takes predicted P(class 1) and the soft labels, which may be the truth or another model's P(class 1).
    ///
    /// # Errors
    /// No items, unequal lengths, or a value outside [0, 1].
    pub fn new(p: Vec<f32>, y: Vec<f32>) -> Result<Self> {
        if p.len() != y.len() || p.is_empty() {
            return Err(Error::new(format!("cannot compare {} predictions with {} labels", p.len(), y.len())));
        }
        match p.iter().chain(&y).find(|value| !(0.0..=1.0 + 1e-4).contains(*value)) {
            Some(value) => Err(Error::new(format!("{value} is no probability"))),
            None => Ok(Self { p, y }),
        }
    }

    /// Share of items on which both sides fall on the same side of 0.5.
    pub fn accuracy(&self) -> Option<Estimate> {
        Estimate::of(self.pairs().map(|(p, y)| (p > 0.5) == (y > 0.5)))
    }

    /// Area under the ROC curve for y > 0.5, from mid-ranks, so that ties count half; `None` with one class.
    pub fn auroc(&self) -> Option<f64> {
        let order = sorted_by(&self.p);
        let positives = self.y.iter().filter(|y| **y > 0.5).count() as u64;
        let negatives = self.y.len() as u64 - positives;
        // Twice the Mann-Whitney U, exact in integers: each positive beats the negatives below it, and half of those that tie.
        let (mut twice_u, mut below) = (0u64, 0u64);
        for tied in order.chunk_by(|&a, &b| self.p[a] == self.p[b]) {
            let positive = tied.iter().filter(|&&item| self.y[item] > 0.5).count() as u64;
            let negative = tied.len() as u64 - positive;
            twice_u += positive * (2 * below + negative);
            below += negative;
        }
        (positives > 0 && negatives > 0).then(|| twice_u as f64 / (2.0 * positives as f64 * negatives as f64))
    }

    /// EOE: mean of p − y where p > 0.5, else of y − p. Positive when too confident.
    pub fn overconfidence(&self) -> f64 {
        let total: f64 = self
            .pairs()
            .map(|(p, y)| f64::from(p) - f64::from(y))
            .zip(&self.p)
            .fold(0.0, |sum, (d, p)| if *p > 0.5 { sum + d } else { sum - d });
        total / self.p.len() as f64
    }

    /// CDR: among items with p > 0.95 or p < 0.05, the share whose label lies beyond the opposite bound; `None` if there are none.
    pub fn confident_disagreement(&self) -> Option<Estimate> {
        let confident = self.pairs().filter(|(p, _)| *p > 0.95 || *p < 0.05);
        Estimate::of(confident.map(|(p, y)| if p > 0.95 { y < 0.05 } else { y > 0.95 }))
    }

    /// Calibration error by monotonic sweep and its number of bins: the most bins of equal mass whose mean labels strictly increase
    /// and are neither 0 nor 1, tried from one bin up until the first failure (one bin is always taken);
    /// √(Σ_b w_b (mean label − mean p)²) (Roelofs et al. 2022, as in EleutherAI/weak-to-strong).
    pub fn sweep_calibration_error(&self) -> (f64, usize) {
        let order = sorted_by(&self.p);
        let mut best = equal_mass(&order, 1);
        for count in 2..=order.len() {
            let groups = equal_mass(&order, count);
            let means: Vec<f64> = groups.iter().map(|group| mean_of(&self.y, group)).collect();
            if !means.is_sorted_by(|a, b| a < b) || means[0] <= 0.0 || means[count - 1] >= 1.0 {
                break;
            }
            best = groups;
        }
        let squares = best.iter().map(|group| {
            group.len() as f64 / order.len() as f64 * (mean_of(&self.y, group) - mean_of(&self.p, group)).powi(2)
        });
        (squares.sum::<f64>().sqrt(), best.len())
    }

    fn pairs(&self) -> impl Iterator<Item = (f32, f32)> {
        self.p.iter().copied().zip(self.y.iter().copied())
    }
}

/// CAR given incorrect: among the student's errors with p > 0.55 or p < 0.45, the share where the weak label lies beyond the same
/// bound. All three hold one P(class 1) or class per item; `None` if no item qualifies.
pub fn confident_agreement_given_incorrect(student: &[f32], weak: &[f32], truth: &[u8]) -> Option<Estimate> {
    let items = student.iter().zip(weak).zip(truth);
    let wrong = items.filter(|((p, _), truth)| (**p > 0.5) != (**truth == 1)).map(|(pair, _)| pair);
    Estimate::of(
        wrong.filter(|(p, _)| **p > 0.55 || **p < 0.45).map(|(p, w)| if *p > 0.55 { *w > 0.55 } else { *w < 0.45 }),
    )
}

/// How often two models answer the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// On all items.
    pub overall: Option<Estimate>,
    /// Where the weak model is right.
    pub weak_right: Option<Estimate>,
    /// Where the weak model is wrong: imitation of its errors (Burns et al. 2023, section 5.1).
    pub weak_wrong: Option<Estimate>,
}

/// Agreement of a student with the weak model, from one class per item.
pub fn agreement(student: &[u8], weak: &[u8], truth: &[u8]) -> Agreement {
    let same_where = |keep: &dyn Fn(bool) -> bool| {
        let items = student.iter().zip(weak).zip(truth);
        Estimate::of(items.filter(|((_, weak), truth)| keep(weak == truth)).map(|((student, weak), _)| student == weak))
    };
    Agreement {
        overall: same_where(&|_| true),
        weak_right: same_where(&|right| right),
        weak_wrong: same_where(&|right| !right),
    }
}

/// A part of the consistency partition (multi-capabilities W2SG, figure 5; its names in brackets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Both right [True Con.].
    BothRight,
    /// Both wrong with the same answer [False Con.].
    SameError,
    /// The method is right, the weak model wrong [WTS True].
    OnlyMethodRight,
    /// The weak model is right, the method wrong [Weak True].
    OnlyWeakRight,
    /// Both wrong with different answers [False Incon.]; impossible with two classes.
    DifferentErrors,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::BothRight, Self::SameError, Self::OnlyMethodRight, Self::OnlyWeakRight, Self::DifferentErrors];

    /// The part of an item, by whether the method and the weak model are right, and whether they answer the same.
    pub fn of(method: bool, weak: bool, same: bool) -> Self {
        match (method, weak) {
            (true, true) => Self::BothRight,
            (true, false) => Self::OnlyMethodRight,
            (false, true) => Self::OnlyWeakRight,
            (false, false) if same => Self::SameError,
            (false, false) => Self::DifferentErrors,
        }
    }

    /// The metric of its share of the items.
    pub fn metric(self) -> &'static str {
        match self {
            Self::BothRight => "both_right",
            Self::OnlyMethodRight => "only_method_right",
            Self::OnlyWeakRight => "only_weak_right",
            Self::SameError => "same_error",
            Self::DifferentErrors => "different_errors",
        }
    }

    /// The metric of the share of it that a method keeps.
    pub fn kept(self) -> &'static str {
        match self {
            Self::BothRight => "kept_both_right",
            Self::OnlyMethodRight => "kept_only_method_right",
            Self::OnlyWeakRight => "kept_only_weak_right",
            Self::SameError => "kept_same_error",
            Self::DifferentErrors => "kept_different_errors",
        }
    }
}

/// The part of each item, from one class per item.
pub fn partition(student: &[u8], weak: &[u8], truth: &[u8]) -> Vec<Part> {
    let items = student.iter().zip(weak).zip(truth);
    items.map(|((student, weak), truth)| Part::of(student == truth, weak == truth, student == weak)).collect()
}

/// Mean of `a − b` over the same items with its paired standard error √((n₁₀ + n₀₁) / n − d²) / √n, where n₁₀ and n₀₁ count the
/// items that only one of the two gets right; `None` without items.
pub fn paired_difference(a: &[bool], b: &[bool]) -> Option<Estimate> {
    let n = a.len().min(b.len());
    let (mut only_a, mut only_b) = (0usize, 0usize);
    for (a, b) in a.iter().zip(b) {
        only_a += usize::from(*a && !*b);
        only_b += usize::from(*b && !*a);
    }
    let value = (only_a as f64 - only_b as f64) / n as f64;
    let variance = ((only_a + only_b) as f64 / n as f64 - value * value).max(0.0);
    (n > 0).then(|| Estimate { value, standard_error: (variance / n as f64).sqrt(), n })
}

/// Performance gap recovered, (student − weak) / (ceiling − weak) (Burns et al. 2023, section 3); `None` unless ceiling > weak, so it
/// is never infinite or NaN. Whether the gap is more than noise is for [`statistics`](super::statistics) to say.
pub fn pgr(weak: f64, student: f64, ceiling: f64) -> Option<f64> {
    let gap = ceiling - weak;
    (gap > 0.0).then(|| (student - weak) / gap).filter(|pgr| pgr.is_finite())
}

/// Every metric of [`METRICS`] that applies. `weak` holds the same cell's weak model on the same items; leave it out for the weak
/// model itself. Metrics for two classes are left out for more.
///
/// # Errors
/// Weak predictions of other items.
pub fn measure(student: &Predictions, weak: Option<&Predictions>) -> Result<Vec<Measure>> {
    let n = student.len();
    let mut measures = vec![];
    let mut add = |metric, value: Option<f64>, n| measures.push(Measure { metric, value, n });
    let rate = |estimate: Option<Estimate>| (estimate.map(|e| e.value), estimate.map_or(0, |e| e.n));

    add(ACCURACY, Some(student.accuracy().value), n);
    add(MAJORITY_RATE, Some(student.majority_rate().value), n);
    let binary = student.binary();
    if let Some(binary) = &binary {
        add("auroc", binary.auroc(), n);
    }
    add("ece", Some(student.calibration_error(Bins::EqualMass(10))), n);
    add("ece_equal_width", Some(student.calibration_error(Bins::EqualWidth(10))), n);
    if let Some(binary) = &binary {
        add("ece_sweep", Some(binary.sweep_calibration_error().0), n);
    }
    add("brier", Some(student.brier()), n);
    if let Some(binary) = &binary {
        add("eoe", Some(binary.overconfidence()), n);
        let (value, confident) = rate(binary.confident_disagreement());
        add("cdr", value, confident);
    }
    let Some(weak) = weak else { return Ok(measures) };

    if weak.truth != student.truth || weak.classes != student.classes {
        return Err(Error::new("the weak model's predictions belong to other items than the method's"));
    }
    let against = student.against(weak);
    if let Some(against) = &against {
        let (value, confident) = rate(against.confident_disagreement());
        add("cdr_weak", value, confident);
    }
    compare(&student.predicted, &weak.predicted, student.truth, &mut add);
    if let Some(Binary { p, y }) = &against {
        let (value, n) = rate(confident_agreement_given_incorrect(p, y, student.truth));
        add("car_given_incorrect", value, n);
    }
    add(GAIN_SE, paired_difference(&student.correct(), &weak.correct()).map(|gain| gain.standard_error), n);
    Ok(measures)
}

/// Every metric of [`METRICS`] that applies to answers in words, each with whether its text was cut off; `weak` as for [`measure`].
///
/// # Errors
/// Answers to other items, or to none.
pub fn measure_words(
    answers: &[(&Extracted, bool)],
    weak: Option<&[&Extracted]>,
    truth: &[Extracted],
) -> Result<Vec<Measure>> {
    let n = truth.len();
    if n == 0 || answers.len() != n || weak.is_some_and(|weak| weak.len() != n) {
        let weak = weak.map_or(String::new(), |weak| format!(" and {} weak ones", weak.len()));
        return Err(Error::new(format!("{} answers{weak} are to be compared with {n} references", answers.len())));
    }
    let mut measures = vec![];
    let mut add = |metric, value: Option<f64>, n| measures.push(Measure { metric, value, n });
    let share = |hits: usize| Some(hits as f64 / n as f64);
    let own: Vec<u8> = answers.iter().zip(truth).map(|((own, _), truth)| u8::from(!own.same(truth))).collect();
    add(ACCURACY, share(own.iter().filter(|own| **own == 0).count()), n);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    truth.iter().filter(|truth| !truth.failed).for_each(|truth| *counts.entry(&truth.text).or_default() += 1);
    add(MAJORITY_RATE, share(counts.values().copied().max().unwrap_or(0)), n);
    add("no_answer", share(answers.iter().filter(|(own, _)| own.failed).count()), n);
    add("cut_short", share(answers.iter().filter(|(_, cut)| *cut).count()), n);
    let Some(weak) = weak else { return Ok(measures) };
    // Classes of each item by itself: 0 is right, and the same wrong answer is the same class.
    let theirs: Vec<u8> = (weak.iter().zip(answers).zip(truth))
        .map(|((weak, (own, _)), truth)| match (weak.same(truth), weak.same(own)) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        })
        .collect();
    compare(&own, &theirs, &vec![0; n], &mut add);
    let right = |classes: &[u8]| -> Vec<bool> { classes.iter().map(|class| *class == 0).collect() };
    add(GAIN_SE, paired_difference(&right(&own), &right(&theirs)).map(|gain| gain.standard_error), n);
    Ok(measures)
}

/// Agreement with the weak model and the partition of items, from one class per item.
fn compare(student: &[u8], weak: &[u8], truth: &[u8], add: &mut impl FnMut(&'static str, Option<f64>, usize)) {
    let n = truth.len();
    let same = agreement(student, weak, truth);
    for (metric, estimate) in [
        ("agreement", same.overall),
        ("agreement_weak_right", same.weak_right),
        ("agreement_weak_wrong", same.weak_wrong),
    ] {
        add(metric, estimate.map(|estimate| estimate.value), estimate.map_or(0, |estimate| estimate.n));
    }
    let parts = partition(student, weak, truth);
    for part in Part::ALL {
        let count = parts.iter().filter(|of| **of == part).count();
        add(part.metric(), Some(count as f64 / n as f64), n);
    }
}

/// Items in ascending order of their values; equal values keep item order.
pub(super) fn sorted_by(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}

/// Cuts an order into consecutive groups whose sizes differ by at most one, larger ones first (`numpy.array_split`).
pub(super) fn equal_mass(order: &[usize], count: usize) -> Vec<Vec<usize>> {
    let count = count.max(1);
    let (size, larger) = (order.len() / count, order.len() % count);
    let mut rest = order;
    (0..count)
        .map(|group| {
            let (head, tail) = rest.split_at(size + usize::from(group < larger));
            rest = tail;
            head.to_vec()
        })
        .collect()
}

pub(super) fn mean_of(values: &[f32], items: &[usize]) -> f64 {
    items.iter().map(|&item| f64::from(values[item])).sum::<f64>() / items.len() as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../../tests/golden/golden_metrics.json")).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    fn floats(value: &Value) -> Vec<f32> {
        numbers(value).into_iter().map(|x| x as f32).collect()
    }

    /// Rows of two probabilities, each rounded from f64, as the golden values were computed.
    fn rows(p1: &Value) -> Vec<Vec<f32>> {
        numbers(p1).into_iter().map(|p| vec![(1.0 - p) as f32, p as f32]).collect()
    }

    #[track_caller]
    fn close(ours: f64, golden: &Value, tolerance: f64) {
        let golden = golden.as_f64().unwrap();
        assert!((ours - golden).abs() <= tolerance, "{ours} is not {golden} within {tolerance}");
    }

    #[test]
    fn equal_the_reference() {
        let golden = golden();
        let inputs = &golden["binary_metrics_inputs"];
        let truth: Vec<u8> = numbers(&inputs["gt"]).into_iter().map(|y| y as u8).collect();
        let (student, weak) = (rows(&inputs["student_p1"]), rows(&inputs["weak_p1"]));
        let student = Predictions::new(&student, &truth).unwrap();
        let weak = Predictions::new(&weak, &truth).unwrap();
        let reference = &golden["eleuther_wts_compute_metrics (reference, src EleutherAI/weak-to-strong eval.py)"];

        let accuracy = student.accuracy();
        close(accuracy.value, &reference["acc"], 1e-12);
        close(accuracy.standard_error, &reference["acc_std_err"], 1e-12);
        close(accuracy.standard_error, &golden["agreement"]["acc_sem"], 1e-12);
        let (binary, against) = (student.binary().unwrap(), student.against(&weak).unwrap());
        for (binary, suffix) in [(&binary, ""), (&against, "_against_weak")] {
            let at = |name: &str| &reference[&format!("{name}{suffix}")];
            let disagreement = binary.confident_disagreement().unwrap();
            close(binary.accuracy().unwrap().value, at("acc"), 1e-12);
            close(binary.accuracy().unwrap().standard_error, at("acc_std_err"), 1e-12);
            close(binary.auroc().unwrap(), at("auroc"), 1e-12);
            close(disagreement.value, at("CDR"), 1e-12);
            close(disagreement.standard_error, at("CDR_std_err"), 1e-12);
            // The reference works in f32 here: 1e-7 is its rounding, and that of our f32 inputs.
            close(binary.overconfidence(), at("EOE"), 1e-7);
            let (error, bins) = binary.sweep_calibration_error();
            close(error, at("ECE"), 1e-7);
            close(bins as f64, at("ECE_num_bins"), 0.0);
        }
        let car = confident_agreement_given_incorrect(&against.p, &against.y, &truth).unwrap();
        close(car.value, &reference["CAR_given_incorrect"], 1e-12);
        close(car.standard_error, &reference["CAR_given_incorrect_std_err"], 1e-12);

        let calibration = &golden["calibration"];
        close(student.calibration_error(Bins::EqualWidth(10)), &calibration["ece10_equal_width"], 1e-7);
        close(student.calibration_error(Bins::EqualMass(10)), &calibration["ece10_equal_mass"], 1e-7);
        close(student.brier(), &calibration["brier"], 1e-7);

        let same = agreement(student.predicted(), weak.predicted(), &truth);
        close(weak.accuracy().value, &golden["agreement"]["weak_acc"], 1e-12);
        close(same.overall.unwrap().value, &golden["agreement"]["agreement"], 1e-12);
        close(same.weak_right.unwrap().value, &golden["agreement"]["agreement_when_weak_correct"], 1e-12);
        close(same.weak_wrong.unwrap().value, &golden["agreement"]["agreement_when_weak_wrong"], 1e-12);

        let expected = &golden["consistency_partition (seed 004 Fig 5, binary => False Incon. impossible)"];
        let parts = partition(student.predicted(), weak.predicted(), &truth);
        let names = ["true_con", "false_con", "wts_true", "weak_true", "false_incon"];
        for (part, name) in Part::ALL.into_iter().zip(names) {
            assert_eq!(parts.iter().filter(|of| **of == part).count(), expected[name], "{name}");
        }
    }

    #[test]
    fn auroc_counts_ties_half() {
        let golden = golden();
        let ties = &golden["auroc"]["ties_example"];
        let binary = Binary::new(floats(&ties["p"]), floats(&ties["y"])).unwrap();
        close(binary.auroc().unwrap(), &ties["tie_aware"], 0.0);
        // The order of tied items, on which the tie-unaware form depends, does not matter.
        let turned = Binary::new(vec![0.5; 4], vec![0.0, 0.0, 1.0, 1.0]).unwrap();
        assert_eq!(turned.auroc(), Some(0.5));
        assert_eq!(Binary::new(vec![0.2, 0.9], vec![1.0, 1.0]).unwrap().auroc(), None);
    }

    #[test]
    fn pgr_equals_the_reference_and_is_none_without_a_gap() {
        for case in golden()["pgr"].as_array().unwrap() {
            let at = |name: &str| case[name].as_f64().unwrap();
            match pgr(at("weak"), at("w2s"), at("ceiling")) {
                Some(ours) => close(ours, &case["pgr"], 1e-12),
                None => assert!(case["pgr"].is_null()),
            }
        }
        assert_eq!(pgr(0.9, 0.8, 0.7), None);
    }

    #[test]
    fn more_classes_than_two() {
        let rows = [vec![0.7, 0.2, 0.1], vec![0.1, 0.2, 0.7], vec![0.2, 0.5, 0.3], vec![0.4, 0.4, 0.2]];
        let truth = [0, 1, 1, 2];
        let predictions = Predictions::new(&rows, &truth).unwrap();
        assert_eq!(predictions.predicted(), [0, 2, 1, 0]);
        assert_eq!(predictions.accuracy().value, 0.5);
        // Half of (0.09+0.04+0.01), (0.01+0.64+0.49), (0.04+0.25+0.09), (0.16+0.16+0.64), over four items.
        assert!((predictions.brier() - (0.14 + 1.14 + 0.38 + 0.96) / 8.0).abs() < 1e-7);
        let weak_rows = [vec![1.0, 0.0, 0.0], vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]];
        let weak = Predictions::new(&weak_rows, &truth).unwrap();
        let measures = measure(&predictions, Some(&weak)).unwrap();
        let value = |name: &str| measures.iter().find(|m| m.metric == name).and_then(|m| m.value);
        assert_eq!(value("different_errors"), Some(0.25));
        assert_eq!(value("only_weak_right"), Some(0.25));
        assert_eq!(value("agreement_weak_wrong"), Some(0.0));
        assert!(measures.iter().all(|m| m.metric != "auroc" && m.metric != "cdr"));
    }

    #[test]
    fn words_are_compared_item_by_item() {
        let found = |text: &str| Extracted { text: text.to_owned(), rule: String::new(), failed: text.is_empty() };
        let truth = ["4", "4", "5", "6", "7"].map(found);
        // Right, right, both wrong alike, both without an answer, wrong differently.
        let own = ["4", "4", "9", "", "1"].map(found);
        let weak = ["4", "3", "9", "", "2"].map(found);
        let answers: Vec<(&Extracted, bool)> = own.iter().map(|own| (own, own.failed)).collect();
        let weak: Vec<&Extracted> = weak.iter().collect();
        let measures = measure_words(&answers, Some(&weak), &truth).unwrap();
        let value = |name: &str| measures.iter().find(|m| m.metric == name).unwrap().value.unwrap();
        for (name, expected) in [
            (ACCURACY, 0.4),
            (MAJORITY_RATE, 0.4),
            ("no_answer", 0.2),
            ("cut_short", 0.2),
            ("agreement", 0.4),
            ("agreement_weak_right", 1.0),
            ("agreement_weak_wrong", 0.25),
            ("both_right", 0.2),
            ("same_error", 0.2),
            ("only_method_right", 0.2),
            ("only_weak_right", 0.0),
            ("different_errors", 0.4),
        ] {
            assert_eq!(value(name), expected, "{name}");
        }
        // (1 / 5 - 0.04) / 5, and its root.
        assert!((value(GAIN_SE) - 0.032_f64.sqrt()).abs() < 1e-12);
        assert!(measures.iter().all(|measure| find(measure.metric).is_some()));
        assert!(measure_words(&answers[..4], None, &truth).is_err() && measure_words(&[], None, &[]).is_err());
    }

    #[test]
    fn a_cell_gets_every_metric_once_in_order() {
        let rows = [vec![0.5, 0.5], vec![0.1, 0.9]];
        let predictions = Predictions::new(&rows, &[0, 1]).unwrap();
        let measures = measure(&predictions, Some(&predictions)).unwrap();
        let names: Vec<_> = measures.iter().map(|m| m.metric).collect();
        // PGR needs the ceiling too, which is measured elsewhere.
        let pgr = METRICS.iter().position(|m| m.name == PGR).unwrap();
        let of_words = ["no_answer", "cut_short"];
        let all: Vec<_> = METRICS[..pgr].iter().map(|m| m.name).filter(|name| !of_words.contains(name)).collect();
        assert_eq!(names, all);
        // No confident error and no weak error: no value, not a made-up one.
        for name in ["agreement_weak_wrong", "car_given_incorrect"] {
            let measure = measures.iter().find(|m| m.metric == name).unwrap();
            assert_eq!((measure.value, measure.n), (None, 0));
        }
    }

    #[test]
    fn refuse_what_is_no_prediction() {
        let message = |rows: &[Vec<f32>], truth: &[u8]| Predictions::new(rows, truth).unwrap_err().message().to_owned();
        assert_eq!(message(&[], &[]), "there are no predictions to score");
        assert_eq!(message(&[vec![0.5, 0.5]], &[]), "predictions have 1 rows but there are 0 true labels");
        let good = vec![0.5, 0.5];
        assert_eq!(
            message(&[good.clone(), vec![f32::NAN, 1.0]], &[0, 0]),
            "row 1 of the predictions holds the probability NaN"
        );
        assert_eq!(message(&[vec![0.5, 0.25]], &[0]), "row 0 of the predictions sums to 0.75");
        assert_eq!(message(&[good], &[2]), "row 0 of the predictions has true class 2, but there are 2 classes");
    }

    #[test]
    fn paired_standard_error_uses_the_discordant_items() {
        // 10 items: 3 only a, 1 only b, so d = 0.2 and the variance of the difference is 0.4 - 0.04.
        let a = [true, true, true, false, true, true, true, false, false, true];
        let b = [false, false, false, true, true, true, true, false, false, true];
        let difference = paired_difference(&a, &b).unwrap();
        assert!((difference.value - 0.2).abs() < 1e-15);
        assert!((difference.standard_error - (0.36f64 / 10.0).sqrt()).abs() < 1e-15);
        assert_eq!(paired_difference(&[], &[]), None);
    }

    proptest! {
        #[test]
        fn pgr_is_never_infinite(weak in any::<f64>(), student in any::<f64>(), ceiling in any::<f64>()) {
            prop_assert!(pgr(weak, student, ceiling).is_none_or(f64::is_finite));
        }

        #[test]
        fn auroc_equals_counting_pairs(items in prop::collection::vec((0u8..6, any::<bool>()), 2..40)) {
            let p: Vec<f32> = items.iter().map(|(p, _)| f32::from(*p) / 5.0).collect();
            let y: Vec<f32> = items.iter().map(|(_, y)| f32::from(u8::from(*y))).collect();
            let (mut wins, mut pairs) = (0.0, 0.0);
            for (i, _) in items.iter().enumerate().filter(|(_, item)| item.1) {
                for (j, _) in items.iter().enumerate().filter(|(_, item)| !item.1) {
                    wins += if p[i] > p[j] { 1.0 } else if p[i] == p[j] { 0.5 } else { 0.0 };
                    pairs += 1.0;
                }
            }
            let ours = Binary::new(p, y).unwrap().auroc();
            prop_assert_eq!(ours.is_some(), pairs > 0.0);
            prop_assert!(ours.is_none_or(|ours| (ours - wins / pairs).abs() < 1e-12));
        }

        #[test]
        fn every_measure_is_finite(items in prop::collection::vec((0u16..=1000, 0u16..=1000, 0u8..2), 1..60)) {
            let rows = |p: u16| vec![1.0 - f32::from(p) / 1000.0, f32::from(p) / 1000.0];
            let student: Vec<_> = items.iter().map(|item| rows(item.0)).collect();
            let weak: Vec<_> = items.iter().map(|item| rows(item.1)).collect();
            let truth: Vec<u8> = items.iter().map(|item| item.2).collect();
            let weak = Predictions::new(&weak, &truth).unwrap();
            let measures = measure(&Predictions::new(&student, &truth).unwrap(), Some(&weak)).unwrap();
            for measure in measures {
                let bound = if measure.metric == "eoe" { -1.0 } else { 0.0 };
                prop_assert!(measure.value.is_none_or(|x| (bound..=1.0).contains(&x)), "{:?}", measure);
            }
        }
    }
}
