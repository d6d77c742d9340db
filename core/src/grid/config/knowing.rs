//! What a method has the strong model know of itself: `p_ik` and `self_labels`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Method, file::TaskName};
use crate::{
    Error, Result,
    document::Section,
    stage::{KnownLabel, PikBalance, PikInput},
    strategy::{Invalid, Split},
};

/// `p_ik` of a method or a grid: P(IK), the probability that the model knows (Selective W2SG, arXiv 2511.14166, section 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pik {
    /// The auxiliary task that P(IK) is learnt on, or [`EVALUATED`]. Origin: the paper takes ARC.
    #[schemars(with = "TaskName")]
    pub task: String,
    /// Rows of its training split; all when absent.
    pub n_train: Option<usize>,
    /// λ: what the P(IK) loss counts. Origin: the paper, 1.
    pub lambda: f64,
    /// Answered examples before each question. Origin: the paper, 4, "only for format".
    pub shots: usize,
    /// Answers drawn for each question; 0 takes the likeliest. Origin: the paper draws one.
    pub samples: usize,
    /// Temperature of the draws. Origin: Kadavath et al. 2022, 1.
    pub temperature: f64,
    /// `language-model`: the pretrained model answers by itself. `classifier`: it is first fine-tuned on half of the auxiliary task and
    /// answers the other half, for models without a language-model head.
    pub answers: AnswersBy,
    /// `hard`, or the `fraction` of right answers. Origin: the paper, hard.
    pub label: KnownLabel,
    /// `none` or `undersample`. Origin: the paper does not say.
    pub balance: PikBalance,
    /// `text`, `prompt` or `few-shot-prompt`. Origin: the paper's Table 1 scores the text; its section 3.2 reads like the last.
    pub input: PikInput,
    /// `joint`, `pretrain-then-joint` or `pretrain-then-freeze`. Origin: the paper trains jointly.
    pub schedule: PikSchedule,
    /// Part of the steps during which nothing counts as known. Origin: the paper has none.
    pub warmup_fraction: f64,
    /// Passes over the auxiliary examples when P(IK) is trained first; the strong model's own when absent.
    pub epochs: Option<usize>,
    /// P(IK) examples in each step. Origin: the paper's batch size, 32.
    pub batch_size: usize,
    /// `cycle` or `truncate`: what happens when the auxiliary examples are used up. Origin: the paper does not say.
    pub epoch_mismatch: Mismatch,
    /// Parts of the auxiliary task that are learnt from; its `test` shows how well. With `answers = "classifier"`, `transfer` alone.
    /// Origin: the paper takes its training split.
    pub splits: Vec<Split>,
    /// Allows the evaluated task to be the auxiliary one, whose ground truth then reaches the student. Results say so.
    pub allow_leakage: bool,
}

/// The name that stands for whatever task is evaluated: P(IK) in distribution, as in the left half of the paper's Table 6.
pub const EVALUATED: &str = "evaluated";

impl Pik {
    /// Name of the task that P(IK) is learnt on where `evaluated` is.
    pub fn task_for<'a>(&'a self, evaluated: &'a str) -> &'a str {
        if self.task == EVALUATED { evaluated } else { &self.task }
    }
}

impl Default for Pik {
    fn default() -> Self {
        Self {
            task: String::new(),
            n_train: None,
            lambda: 1.0,
            shots: 4,
            samples: 1,
            temperature: 1.0,
            answers: AnswersBy::default(),
            label: KnownLabel::default(),
            balance: PikBalance::default(),
            input: PikInput::default(),
            schedule: PikSchedule::default(),
            warmup_fraction: 0.0,
            epochs: None,
            batch_size: 32,
            epoch_mismatch: Mismatch::default(),
            splits: vec![Split::Supervise, Split::Transfer],
            allow_leakage: false,
        }
    }
}

/// Who answers the auxiliary task's questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnswersBy {
    /// The pretrained language model.
    #[default]
    LanguageModel,
    /// A classifier, fine-tuned on half of the auxiliary task.
    Classifier,
}

/// When P(IK) is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PikSchedule {
    /// Along with the student, from its first step.
    #[default]
    Joint,
    /// First alone, then along with the student, which starts from it.
    PretrainThenJoint,
    /// Alone; the student is told what that model says.
    PretrainThenFreeze,
}

/// What happens when the auxiliary examples are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mismatch {
    /// They start again in another order.
    #[default]
    Cycle,
    /// P(IK) is trained no further.
    Truncate,
}

/// `self_labels` of a method or a grid: the strong model's own labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SelfLabels {
    /// `precomputed-generation`: what the pretrained language model answers. `current-head`: what the student says now. `ema-head`: what
    /// a moving average of its head says. `pik-stage-head`: what the strong model says when fine-tuned on the auxiliary task. `student`: what
    /// a plain student of the same weak labels says (multi-capabilities W2SG, relabelling).
    /// Origin: the paper says "generated by the strong model".
    pub source: SelfSource,
    /// `hard` (the likeliest class) or `soft`. Origin: the paper does not say.
    pub kind: Hardness,
    /// Answered examples before each question, of the supervisor's half. Origin: as for P(IK).
    pub shots: usize,
    /// Decay per step of `ema-head`.
    pub decay: f64,
}

impl Default for SelfLabels {
    fn default() -> Self {
        Self { source: SelfSource::default(), kind: Hardness::default(), shots: 4, decay: 0.99 }
    }
}

/// Where self-labels come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SelfSource {
    /// The pretrained language model's answer.
    #[default]
    PrecomputedGeneration,
    /// The student's head now.
    CurrentHead,
    /// A moving average of the student's head.
    EmaHead,
    /// The strong model, fine-tuned on the auxiliary task.
    PikStageHead,
    /// A student that was fine-tuned on the weak labels as they are.
    Student,
}

/// Whether labels are classes or probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hardness {
    /// The likeliest class.
    #[default]
    Hard,
    /// Probabilities.
    Soft,
}

/// What a grid says once for all methods that use P(IK) or self-labels.
pub(super) struct Shared<'a> {
    pub(super) p_ik: Option<Section<'a>>,
    pub(super) self_labels: Option<Section<'a>>,
    pub(super) agrees: Option<Section<'a>>,
    /// A task of which nothing is held out.
    pub(super) without_validation: Option<String>,
}

/// The tables of a setting, the later over the earlier, and the place to point at.
pub(super) fn over<'a, T: DeserializeOwned>(tables: [Option<&Section<'a>>; 2]) -> Result<(T, Option<Section<'a>>)> {
    let mut table = toml::Table::new();
    for section in tables.into_iter().flatten() {
        section.read::<T>()?;
        table.extend(section.to_table()?);
    }
    let settings = table.try_into().map_err(|error: toml::de::Error| Error::new(error.message().to_owned()))?;
    Ok((settings, tables.into_iter().flatten().next_back().cloned()))
}

impl Shared<'_> {
    pub(super) fn p_ik(&self, name: &str, method: Option<&Section>, own: Option<&Section>) -> Result<Pik> {
        let (mut settings, at): (Pik, _) = over([self.p_ik.as_ref(), own])?;
        let place = |key: &str, message: String| {
            let section =
                [own, self.p_ik.as_ref()].into_iter().flatten().find_map(|table| table.get(key)).or(at.clone());
            match section.as_ref().or(method) {
                Some(section) => section.error(message),
                None => Error::new(message),
            }
        };
        if settings.task.is_empty() {
            return Err(place("task", format!("method `{name}` uses P(IK), and no task says what that is learnt on"))
                .help("add `[p_ik]` with `task = \"NAME\"` to the grid: a task that is not evaluated"));
        }
        for (key, value, low, high) in [
            ("lambda", settings.lambda, 0.0, f64::INFINITY),
            ("temperature", settings.temperature, f64::MIN_POSITIVE, f64::INFINITY),
            ("warmup_fraction", settings.warmup_fraction, 0.0, 1.0),
        ] {
            Invalid::unless_within("", value, low, high)
                .map_err(|invalid| place(key, format!("`{key}` {}", invalid.message)))?;
        }
        for (key, value) in
            [("batch_size", Some(settings.batch_size)), ("epochs", settings.epochs), ("n_train", settings.n_train)]
        {
            if value == Some(0) {
                return Err(place(key, format!("`{key}` must be at least 1")));
            }
        }
        if settings.label == KnownLabel::Fraction && settings.samples < 2 {
            return Err(place("samples", "a `fraction` of right answers needs more than one answer".to_owned())
                .help("set `samples = 30` as Kadavath et al. 2022, or `label = \"hard\"`"));
        }
        let learnt_from = |split: &Split| matches!(split, Split::Supervise | Split::Transfer);
        if settings.splits.is_empty() || !settings.splits.iter().all(learnt_from) {
            return Err(place("splits", "`splits` must be `supervise`, `transfer`, or both".to_owned()));
        }
        if settings.answers == AnswersBy::Classifier {
            // What a classifier was trained on it knows anyway.
            settings.splits = vec![Split::Transfer];
        }
        if settings.answers == AnswersBy::Classifier && settings.input != PikInput::Text {
            return Err(
                place("input", "a classifier reads texts, not prompts".to_owned()).help("leave `input` at `text`")
            );
        }
        Ok(settings)
    }

    pub(super) fn self_labels(
        &self,
        name: &str,
        section: Option<&Section>,
        own: Option<&Section>,
        method: &Method,
    ) -> Result<SelfLabels> {
        let (settings, at): (SelfLabels, _) = over([self.self_labels.as_ref(), own])?;
        let place = |key: &str, message: String| {
            let tables = [own, self.self_labels.as_ref()].into_iter().flatten();
            let section = tables.filter_map(|table| table.get(key)).next().or(at.clone()).or(section.cloned());
            section.map_or_else(|| Error::new(&message), |section| section.error(&message))
        };
        if settings.source == SelfSource::CurrentHead && settings.kind == Hardness::Soft {
            let message = format!(
                "method `{name}` trains towards the soft labels of its own head in the same step: their gradient is exactly zero"
            );
            return Err(place("kind", message).help(
                "use `kind = \"hard\"`, or a source that is not the head itself (`ema-head`, `precomputed-generation`)",
            ));
        }
        if !(0.0..1.0).contains(&settings.decay) {
            return Err(place("decay", format!("`decay` must be at least 0 and below 1, not {}", settings.decay)));
        }
        if settings.source == SelfSource::PikStageHead && method.p_ik.is_none() {
            return Err(place("source", format!("method `{name}` has no P(IK), so there is no head of its stage"))
                .help("add `p_ik = { task = \"NAME\" }` to the method, or take another source"));
        }
        Ok(settings)
    }
}
