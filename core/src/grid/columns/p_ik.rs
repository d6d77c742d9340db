//! `p-ik`: P(IK), the probability that the strong model knows an answer, by a judge that is trained on which of its own are right.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{About, Asked, Auxiliary, Column, Known};
use crate::{
    Error, Result,
    grid::{
        asked::{Knowledge, Made, OnAuxiliary, likeliest},
        config::{Grid, Method, SelfSource, TaskName},
    },
    learner::Recipe,
    model::HeadInit,
    stage::kinds::{
        answers::Answerer,
        p_ik::{KnownLabel, Pik, PikBalance, PikExamples, PikInput},
        p_ik_scores::PikScores,
        student,
    },
    strategy::{Form, Invalid, Split},
};

/// `p_ik` of a method or a grid: P(IK), the probability that the model knows (Selective W2SG, arXiv 2511.14166, section 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PIk")]
struct Settings {
    /// The auxiliary task that P(IK) is learnt on, or [`EVALUATED`](super::EVALUATED). Origin: the paper takes ARC.
    #[schemars(with = "TaskName")]
    task: String,
    /// Rows of its training split; all when absent.
    n_train: Option<usize>,
    /// λ: what the P(IK) loss counts. Origin: the paper, 1.
    lambda: f64,
    /// Answered examples before each question. Origin: the paper, 4, "only for format".
    shots: usize,
    /// Answers drawn for each question; 0 takes the likeliest. Origin: the paper draws one.
    samples: usize,
    /// Temperature of the draws. Origin: Kadavath et al. 2022, 1.
    temperature: f64,
    /// `language-model`: the pretrained model answers by itself. `classifier`: it is first fine-tuned on half of the auxiliary task and
    /// answers the other half, for models without a language-model head.
    answers: AnswersBy,
    /// `hard`, or the `fraction` of right answers. Origin: the paper, hard.
    label: KnownLabel,
    /// `none` or `undersample`. Origin: the paper does not say.
    balance: PikBalance,
    /// `text`, `prompt` or `few-shot-prompt`. Origin: the paper's Table 1 scores the text; its section 3.2 reads like the last.
    input: PikInput,
    /// `joint`, `pretrain-then-joint` or `pretrain-then-freeze`. Origin: the paper trains jointly.
    schedule: Schedule,
    /// Part of the steps during which nothing counts as known. Origin: the paper has none.
    warmup_fraction: f64,
    /// Passes over the auxiliary examples when P(IK) is trained first; the strong model's own when absent.
    epochs: Option<usize>,
    /// P(IK) examples in each step. Origin: the paper's batch size, 32.
    batch_size: usize,
    /// `cycle` or `truncate`: what happens when the auxiliary examples are used up. Origin: the paper does not say.
    epoch_mismatch: Mismatch,
    /// Parts of the auxiliary task that are learnt from; its `test` shows how well. With `answers = "classifier"`, `transfer` alone.
    /// Origin: the paper takes its training split.
    splits: Vec<Split>,
    /// Allows the evaluated task to be the auxiliary one, whose ground truth then reaches the student. Results say so.
    allow_leakage: bool,
}

impl Default for Settings {
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
            schedule: Schedule::default(),
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
enum AnswersBy {
    /// The pretrained language model.
    #[default]
    LanguageModel,
    /// A classifier, fine-tuned on half of the auxiliary task.
    Classifier,
}

/// When P(IK) is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Schedule {
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
enum Mismatch {
    /// They start again in another order.
    #[default]
    Cycle,
    /// P(IK) is trained no further.
    Truncate,
}


inventory::submit! {
    Known { name: "p-ik", title: "P(IK)", read, schema: |generator| generator.subschema_for::<Settings>() }
}

/// A method's table over the grid's.
fn read(asked: &Asked) -> Result<Box<dyn Column>> {
    let mut settings: Settings = asked.settings()?;
    if settings.task.is_empty() {
        return Err(asked.error("task", format!("method `{}` uses P(IK), and no task says what that is learnt on", asked.method))
            .help("add `[p_ik]` with `task = \"NAME\"` to the grid: a task that is not evaluated"));
    }
    for (key, value, low, high) in [
        ("lambda", settings.lambda, 0.0, f64::INFINITY),
        ("temperature", settings.temperature, f64::MIN_POSITIVE, f64::INFINITY),
        ("warmup_fraction", settings.warmup_fraction, 0.0, 1.0),
    ] {
        Invalid::unless_within("", value, low, high)
            .map_err(|invalid| asked.error(key, format!("`{key}` {}", invalid.message)))?;
    }
    for (key, value) in
        [("batch_size", Some(settings.batch_size)), ("epochs", settings.epochs), ("n_train", settings.n_train)]
    {
        if value == Some(0) {
            return Err(asked.error(key, format!("`{key}` must be at least 1")));
        }
    }
    if settings.label == KnownLabel::Fraction && settings.samples < 2 {
        return Err(asked.error("samples", "a `fraction` of right answers needs more than one answer".to_owned())
            .help("set `samples = 30` as Kadavath et al. 2022, or `label = \"hard\"`"));
    }
    let learnt_from = |split: &Split| matches!(split, Split::Supervise | Split::Transfer);
    if settings.splits.is_empty() || !settings.splits.iter().all(learnt_from) {
        return Err(asked.error("splits", "`splits` must be `supervise`, `transfer`, or both".to_owned()));
    }
    if settings.answers == AnswersBy::Classifier {
        // What a classifier was trained on it knows anyway.
        settings.splits = vec![Split::Transfer];
    }
    if settings.answers == AnswersBy::Classifier && settings.input != PikInput::Text {
        return Err(
            asked.error("input", "a classifier reads texts, not prompts".to_owned()).help("leave `input` at `text`")
        );
    }
    Ok(Box::new(settings))
}

impl Column for Settings {
    fn make(&self, around: &Knowledge, made: &mut Made) -> Result<student::Column> {
        let on = around.auxiliary(&self.learnt_on())?;
        let answers = around.answers_to(on.data, self.answerer(around, &on, made)?, made)?;
        let examples = PikExamples {
            answers,
            data: on.data.clone(),
            splits: self.splits.clone(),
            label: self.label,
            balance: self.balance,
            input: self.input,
            seed: around.seed,
        };
        let first = (self.schedule != Schedule::Joint).then(|| {
            let recipe = Recipe { epochs: self.epochs.unwrap_or(on.recipe.epochs), ..on.recipe.clone() };
            made.push(Pik { model: on.model.clone(), recipe, examples: examples.clone(), seed: around.seed })
        });
        Ok(match (self.schedule, first.transpose()?) {
            (Schedule::PretrainThenFreeze, Some(p_ik)) => {
                student::Column::Frozen { scores: made.push(PikScores { p_ik, data: around.data.clone() })? }
            }
            (_, start) => student::Column::Joint {
                examples: Box::new(examples),
                lambda: self.lambda,
                batch_size: self.batch_size,
                once: self.epoch_mismatch == Mismatch::Truncate,
                warmup_fraction: self.warmup_fraction,
                start,
            },
        })
    }

    fn auxiliary(&self) -> Option<Auxiliary<'_>> {
        Some(self.learnt_on())
    }

    fn trained_along(&self) -> Option<usize> {
        (self.schedule != Schedule::PretrainThenFreeze).then_some(self.batch_size)
    }

    fn trained_before(&self) -> bool {
        self.schedule != Schedule::Joint
    }

    fn speaks(&self) -> Option<&'static str> {
        (self.answers == AnswersBy::LanguageModel).then_some("`p_ik.answers = \"classifier\"`")
    }

    /// The likeliest answers to the evaluated task of whoever answers the auxiliary one.
    fn about(&self, around: &Knowledge, made: &mut Made) -> Result<About> {
        let on = around.auxiliary(&self.learnt_on())?;
        let answerer = match self.answers {
            AnswersBy::LanguageModel if around.tasks.iter().all(|task| task.is_asked()) => {
                likeliest(around.strong, self.shots)
            }
            AnswersBy::Classifier if around.tasks.iter().all(|task| task.classes.len() == on.classes) => {
                self.answerer(around, &on, made)?
            }
            AnswersBy::LanguageModel | AnswersBy::Classifier => {
                return Ok(About::Nobody(
                    "no `[prompt]` says how the task is asked, or the auxiliary task has other classes",
                ));
            }
        };
        around.answers(answerer, made).map(About::Answers)
    }

    fn fits(&self, form: Form) -> Result<()> {
        let refused = |message: &str, help: &str| Err(Error::new(message).help(help));
        if form != Form::Words {
            let message = format!("it is learnt of classes and of words, and this task has {form}");
            return refused(&message, "leave one of the two out of this grid");
        }
        if self.schedule != Schedule::PretrainThenFreeze {
            let message = "a student that writes has no head beside it, to learn P(IK) along";
            return refused(message, "let it be learnt beforehand: `p_ik.schedule = \"pretrain-then-freeze\"`");
        }
        if self.answers == AnswersBy::Classifier {
            let message = "it would be about a classifier's answers, and this task has answers in words";
            return refused(message, "set `p_ik.answers = \"language-model\"`");
        }
        Ok(())
    }

    /// A head that starts from words must have as many as it has outputs.
    fn check(&self, grid: &Grid, method: &Method, task: usize) -> Result<()> {
        let on = grid.on(task);
        let learnt_on = self.learnt_on();
        let Some(auxiliary) = grid.auxiliary.get(learnt_on.task_for(on.name)) else { return Ok(()) };
        let by_stage = method.self_labels.as_ref().is_some_and(|own| own.source == SelfSource::StageHead);
        let heads = [
            (by_stage || self.answers == AnswersBy::Classifier, "the auxiliary task", auxiliary.classes.len()),
            (self.schedule != Schedule::Joint, "P(IK)", 2),
        ];
        for pair in &grid.pairs {
            let HeadInit::Unembedding { tokens } = grid.auxiliary_head(&pair.strong, on, &learnt_on)?.init else {
                continue;
            };
            if let Some((_, what, wanted)) = heads.iter().find(|(used, _, wanted)| *used && tokens.len() != *wanted) {
                let message = format!(
                    "a head of `{}` for {what} has {wanted} classes and cannot start from {} words",
                    pair.strong.name,
                    tokens.len()
                );
                return Err(Error::new(message).help(format!(
                    "set `[task.{}.model.{}] head = {{ init = {{ type = \"zero\" }} }}`, or `p_ik.schedule = \"joint\"` with answers of the language model",
                    auxiliary.name(),
                    pair.strong.name
                )));
            }
        }
        Ok(())
    }
}

impl Settings {
    fn learnt_on(&self) -> Auxiliary<'_> {
        Auxiliary { task: &self.task, rows: self.n_train, may_leak: self.allow_leakage }
    }

    /// Who answers for the strong model; a classifier is first fine-tuned on the auxiliary task.
    fn answerer(&self, around: &Knowledge, on: &OnAuxiliary, made: &mut Made) -> Result<Answerer> {
        Ok(match self.answers {
            AnswersBy::LanguageModel => Answerer::LanguageModel {
                model: around.strong.clone(),
                shots: self.shots,
                samples: self.samples,
                temperature: self.temperature,
            },
            AnswersBy::Classifier => Answerer::Classifier { stage: around.auxiliary_head(on, made)? },
        })
    }
}
