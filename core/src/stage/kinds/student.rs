//! Fine-tunes the strong model on weak labels.

use std::{collections::BTreeMap, fmt::Debug, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::embeddings::read_embeddings;
use crate::{
    Error, Result,
    learner::{self, Along, Encoded, Objective, OwnLabels, Recipe},
    model::Pretrained,
    stage::{
        Aim, DECISIONS, DataRef, Demand, Labels, ModelRef, Numbers, Predictions, Stage, StageId, Training, Truth,
        bench::{Bench, MODEL, copied},
        decisions::write_decisions,
        job::{copy, default_strategy, strategy_identity, strategy_name},
        labels::{ALL_STEPS, after, over_answers},
        phases::{extend, summary_of, together},
        store::Finished,
        trainer::{Answerer, Lesson, Trainer},
    },
    strategy::{Calibration, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, Kind, Split},
};

/// Fine-tunes the strong model on weak labels.
///
/// Files: [`Labels`] of the test split, and in `steps/N/` after N steps; [`DECISIONS`] what the method decided about each example, [`judged_file`] what a judge among its columns
/// says of the test; `model/` where the model is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct Student {
    /// The strong model.
    pub model: ModelRef,
    /// What it is trained on one after the other, at least one.
    pub phases: Vec<Phase>,
    /// The task's data.
    pub data: DataRef,
    /// The stage that holds the weak labels.
    pub supervision: StageId,
    /// The strong model's own labels, if the method uses them.
    #[serde(default)]
    pub self_labels: Option<SelfLabels>,
    /// The stage that holds embeddings of the pretrained strong model, if the method uses them.
    #[serde(default)]
    pub embeddings: Option<StageId>,
    /// Numbers of each example, by the names under which strategies ask for them.
    #[serde(default)]
    pub columns: BTreeMap<String, Column>,
    /// Whether the method is a control that sees ground truth.
    #[serde(default)]
    pub truth: bool,
    /// Whether the method learns from the validation split how far weak labels can be trusted.
    #[serde(default)]
    pub calibration: bool,
    /// After which parts of each phase the test is answered, too: above 0 and at most 1, which of the last phase is the end.
    #[serde(default)]
    pub evaluate: Vec<f64>,
    /// Seed of the cell.
    pub seed: u64,
    /// Whether the fine-tuned model is kept.
    pub save: bool,
}

/// One training of a student. The next one goes on with the model, with an optimizer and an order of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Phase {
    /// Training settings, and what is learnt; where that are the texts, nothing else of the phase counts.
    pub training: Training,
    /// Which labels are trusted.
    pub selector: Box<dyn ConfiguredSelector>,
    /// How labels are refined.
    pub refiner: Box<dyn ConfiguredRefiner>,
    /// What is minimised.
    pub loss: Box<dyn ConfiguredLoss>,
}

impl Phase {
    /// Every weak label as it is, with cross-entropy.
    ///
    /// # Errors
    /// A binary without these strategies.
    pub fn plain(recipe: &Recipe) -> Result<Self> {
        Ok(Self {
            training: Training::plain(recipe.clone()),
            selector: default_strategy(Kind::Selector, "all")?,
            refiner: default_strategy(Kind::Refiner, "identity")?,
            loss: default_strategy(Kind::Loss, "cross-entropy")?,
        })
    }

    fn identity(&self) -> Result<Value> {
        self.training.identity(json!({
            "selector": strategy_identity(Kind::Selector, &self.selector)?,
            "refiner": strategy_identity(Kind::Refiner, &self.refiner)?,
            "loss": strategy_identity(Kind::Loss, &self.loss)?,
        }))
    }

    /// Whether it may do anything but train on every weak label as it is.
    fn decides(&self) -> bool {
        strategy_name(&self.selector) != "all" || strategy_name(&self.refiner) != "identity"
    }
}

/// Where a student's self-labels come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum SelfLabels {
    /// The model's answers before training.
    Answers {
        /// The stage that holds them.
        stage: StageId,
        /// 1 for the likeliest class instead of the probabilities.
        hard: bool,
    },
    /// The student's own head while it trains.
    CurrentHead {
        /// 1 for the likeliest class instead of the probabilities.
        hard: bool,
        /// Decay per step of the head's moving average; 0 is the head itself.
        decay: f64,
    },
}

/// Where the numbers of a column come from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Column {
    /// A stage that made them: its [`Numbers`], or the second of two columns of its `transfer.csv`.
    Stage {
        /// That stage.
        scores: StageId,
    },
    /// The same, of a judge that was trained beforehand and says of the test, too, how probable it is: it is measured there.
    Frozen {
        /// The stage that holds what it says.
        scores: StageId,
    },
    /// A judge beside the student's head, trained along.
    Joint {
        /// What it learns from.
        examples: Box<dyn Judged>,
        /// λ.
        lambda: f64,
        /// Examples per step.
        batch_size: usize,
        /// Whether its examples are seen once only.
        once: bool,
        /// Part of the steps in which strategies are told 0.
        warmup_fraction: f64,
        /// A model trained on the same alone, from whose backbone and head both start.
        start: Option<StageId>,
    },
}

/// What a judge is trained on: texts, each with whether something is so of it.
#[typetag::serde(tag = "of")]
pub trait Judged: Debug + Send + Sync {
    /// What enters identities.
    fn identity(&self) -> Value;

    /// Tokens of the longest text.
    fn longest(&self) -> usize;

    /// Tokens, their labels `[not so, so]`, and what they are for the record.
    ///
    /// # Errors
    /// Examples that are missing, damaged, or all of one kind.
    fn read(&self, bench: &Bench, model: &Pretrained) -> Result<(Encoded, Vec<Vec<f32>>, Value)>;
}

impl Column {
    fn identity(&self) -> Value {
        match self {
            Column::Stage { scores } => json!(scores),
            Column::Joint { examples, lambda, batch_size, once, warmup_fraction, start } => json!({
                "from": "joint",
                "examples": examples.identity(),
                "lambda": lambda,
                "batch_size": batch_size,
                "once": once,
                "warmup_fraction": warmup_fraction,
                "start": start,
            }),
            Column::Frozen { scores } => json!({ "from": "frozen", "scores": scores }),
        }
    }

    /// The key of a judge, by the name of its column, in identities and summaries.
    fn key(name: &str) -> String {
        name.replace('-', "_")
    }
}

#[typetag::serde(name = "student")]
impl Stage for Student {
    fn parameters(&self) -> Result<Value> {
        let mut parameters = json!({
            "model": self.model.identity()?,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
            "supervision": self.supervision,
            "seed": self.seed,
        });
        extend(&mut parameters, together(self.phases.iter().map(Phase::identity).collect::<Result<_>>()?)?);
        // What a method does not use is not among them: results from before it existed stay valid.
        if let Some(own) = &self.self_labels {
            parameters["self_labels"] = json!(own);
        }
        if let Some(embeddings) = &self.embeddings {
            parameters["embeddings"] = json!(embeddings);
        }
        for (name, column) in &self.columns {
            match column {
                Column::Stage { .. } => parameters["columns"][name] = column.identity(),
                Column::Frozen { .. } | Column::Joint { .. } => parameters[Column::key(name)] = column.identity(),
            }
        }
        if !self.evaluate.is_empty() {
            parameters["evaluate"] = json!(self.evaluate);
        }
        if self.save {
            parameters["save"] = true.into();
        }
        Ok(parameters)
    }

    fn title(&self) -> String {
        let kept = if self.save { " (kept)" } else { "" };
        format!("student{kept}  {}  seed {}", self.data.task, self.seed)
    }

    fn version(&self) -> u32 {
        // 2: the examples of a judge come in an order of their own, no more in the student's.
        let learns = |column: &Column| matches!(column, Column::Joint { lambda, .. } if *lambda != 0.0);
        if self.columns.values().any(learns) { 2 } else { 1 }
    }

    fn batch(&self) -> usize {
        let beside = match self.along() {
            Some((_, Column::Joint { batch_size, .. })) => *batch_size,
            _ => 0,
        };
        self.trainings().map(|training| training.recipe.batch_size).fold(beside, usize::max)
    }

    fn demand(&self) -> Option<Demand<'_>> {
        let beside = match self.along() {
            Some((_, Column::Joint { examples, batch_size, .. })) => Some((*batch_size, examples.longest())),
            _ => None,
        };
        let student = Demand::answering(&self.model, &self.data).through(self.trainings());
        Some(Demand { beside, ..student })
    }

    fn model(&self) -> Option<&ModelRef> {
        Some(&self.model)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        if let Some(saved) = self.saved(bench)? {
            return copied(&saved, folder, |name| !name.starts_with(MODEL));
        }
        let trainer = bench.trainer(&self.data, self.seed)?;
        let model = bench.model(&self.model)?;
        let examples = trainer.encode(&model, Split::Transfer)?;
        let start = match self.along() {
            Some((_, Column::Joint { start, .. })) => start.as_ref(),
            _ => None,
        };
        let fresh = trainer.fresh(&self.model, &model, start)?;
        let mut counts = json!({});
        let lesson = |number: usize, student: &Answerer| {
            let mut lesson = self.lesson(&self.phases[number], bench, &trainer, &model, &mut counts)?;
            let last = number + 1 == self.phases.len();
            let at: Vec<f64> = self.evaluate.iter().copied().filter(|part| !last || *part < 1.0).collect();
            if !at.is_empty() {
                lesson.objective.evaluate = Some(trainer.evaluation(&model, student, at, Split::Test)?);
            }
            Ok(lesson)
        };
        let (student, mut logs) =
            trainer.through(fresh, model.tokenizer(), &examples, self.trainings(), lesson, (folder, 0))?;
        let mut summary = summary_of(&logs);
        extend(&mut summary, counts);
        let mut steps = 0;
        for (phase, log) in self.phases.iter().zip(&mut logs) {
            if phase.training.aim == Aim::Answer && self.decides(phase) {
                write_decisions(log.choices.values(), &folder.join(DECISIONS))?;
            }
            for (step, said) in std::mem::take(&mut log.said) {
                let labels: Labels = serde_json::from_value(said)
                    .map_err(|error| Error::new(format!("answers after step {step} were not kept: {error}")))?;
                labels.write(Split::Test, &folder.join(after((steps + step) as u64)))?;
            }
            steps += log.steps.len();
        }
        if !self.evaluate.is_empty() {
            summary[ALL_STEPS] = steps.into();
        }
        trainer.answer_into(&model, &student, Split::Test, folder)?;
        for (name, column) in &self.columns {
            let judged = match (column, student.classifier()) {
                (Column::Joint { .. }, Some(classifier)) => {
                    let data = trainer.encode(&model, Split::Test)?;
                    Predictions::new(learner::judge(classifier, &data, &bench.place.execution)?)?
                }
                (Column::Frozen { scores }, _) => {
                    Predictions::read(&bench.stage(scores)?.file(&Predictions::file(Split::Test)))?
                }
                (Column::Joint { .. } | Column::Stage { .. }, _) => continue,
            };
            judged.write(&folder.join(judged_file(name)))?;
        }
        if self.save {
            student.save(folder, model.tokenizer(), &self.model)?;
        }
        Ok(summary)
    }
}

impl Student {
    /// The same student with its model kept, if there is one: then nothing need be trained.
    fn saved(&self, bench: &Bench) -> Result<Option<Finished>> {
        let stage: &dyn Stage = self;
        let mut parameters = stage.whole_parameters(&bench.numeric())?;
        if self.save {
            return Ok(None);
        }
        parameters["save"] = true.into();
        bench.store.find(&StageId::new(stage.kind(), self.version(), &parameters))
    }

    /// What it is trained on, without what a method makes of labels.
    fn trainings(&self) -> impl Iterator<Item = &Training> {
        self.phases.iter().map(|phase| &phase.training)
    }

    /// Whether a phase may do anything but train on every weak label as it is.
    fn decides(&self, phase: &Phase) -> bool {
        let judged = self.columns.values().any(|column| !matches!(column, Column::Stage { .. }));
        phase.decides() || judged || self.self_labels.is_some()
    }

    /// The column that a judge makes which is trained along, and its name.
    fn along(&self) -> Option<(&str, &Column)> {
        let mut columns = self.columns.iter().map(|(name, column)| (name.as_str(), column));
        columns.find(|(_, column)| matches!(column, Column::Joint { .. }))
    }

    /// What a phase learns from.
    fn lesson(
        &self,
        phase: &Phase,
        bench: &Bench,
        trainer: &Trainer,
        model: &Pretrained,
        summary: &mut Value,
    ) -> Result<Lesson> {
        let supervision = bench.stage(&self.supervision)?;
        let mut said = vec![Labels::read(&supervision.folder, Split::Transfer)?];
        if let Some(SelfLabels::Answers { stage, .. }) = &self.self_labels {
            said.push(Labels::read(&bench.stage(stage)?.folder, Split::Transfer)?);
        }
        let mut labels = over_answers(&said)?.into_iter();
        let weak = labels.next().unwrap_or_default();
        let mut objective = Objective::new(weak, copy::<Box<dyn ConfiguredLoss>>(&phase.loss)?);
        objective.selector = Some(copy::<Box<dyn ConfiguredSelector>>(&phase.selector)?);
        objective.refiner = Some(copy::<Box<dyn ConfiguredRefiner>>(&phase.refiner)?);
        objective.record = self.decides(phase);
        objective.self_labels = match &self.self_labels {
            None => None,
            Some(SelfLabels::CurrentHead { hard, decay }) => Some(OwnLabels::Current { hard: *hard, decay: *decay }),
            Some(SelfLabels::Answers { hard, .. }) => {
                let rows = labels.next().unwrap_or_default();
                Some(OwnLabels::Given(if *hard { rows.iter().map(|row| one_hot(row)).collect() } else { rows }))
            }
        };
        // Numbers as they are, or the probability of the second of two answers: that it is so.
        let second = |stage: &StageId| -> Result<Vec<f32>> {
            let stage = bench.stage(stage)?;
            if stage.manifest.files.contains_key(Numbers::FILE) {
                return Ok(Numbers::read(&stage.folder)?.0);
            }
            let file = stage.file(&Predictions::file(Split::Transfer));
            Ok(Predictions::read(&file)?.rows().iter().map(|row| row[1]).collect())
        };
        if let Some(stage) = &self.embeddings {
            objective.embeddings = Some(read_embeddings(&bench.stage(stage)?)?);
        }
        for (name, column) in &self.columns {
            match column {
                Column::Stage { scores } | Column::Frozen { scores } => {
                    objective.columns.insert(name.clone(), second(scores)?);
                }
                Column::Joint { examples, lambda, batch_size, once, warmup_fraction, .. } => {
                    let (data, labels, counts) = examples.read(bench, model)?;
                    summary[Column::key(name)] = counts;
                    let (lambda, batch_size, once, warmup_fraction) = (*lambda, *batch_size, *once, *warmup_fraction);
                    let column = name.clone();
                    let along = Along { column, data, labels, lambda, batch_size, once, warmup_fraction };
                    if let Some(other) = objective.along.replace(along) {
                        let message = format!("`{name}` and `{}` are both to be learnt along", other.column);
                        return Err(Error::new(message).help("let one of them be made beforehand"));
                    }
                }
            }
        }
        let of_tasks = trainer.data.portion_rows(Split::Transfer);
        if of_tasks.len() > 1 {
            let of_task = |(task, rows): (u32, std::ops::Range<usize>)| std::iter::repeat_n(task, rows.len());
            objective.tasks = (0..).zip(of_tasks).flat_map(of_task).collect();
        }
        if self.truth {
            objective.truth = Some(right_places(&said, &Truth::of(&trainer.data, Split::Transfer)?));
        }
        if self.calibration {
            let said = [Labels::read(&supervision.folder, Split::Validation)?];
            let truth = right_places(&said, &Truth::of(&trainer.data, Split::Validation)?);
            let weak = over_answers(&said)?.into_iter().next().unwrap_or_default();
            objective.calibration = Some(Calibration { weak, truth });
        }
        let texts = said.into_iter().filter_map(Labels::into_texts);
        Ok(Lesson { objective, texts: texts.collect() })
    }
}

/// The true class of each example; of answers in words the first that is right, and a number beyond all of them where none is.
fn right_places(said: &[Labels], truth: &Truth) -> Vec<u8> {
    if let Truth::Choices(classes) = truth {
        return classes.clone();
    }
    let right: Vec<Vec<bool>> = said.iter().map(|labels| labels.right(truth)).collect();
    let place = |row: usize| right.iter().position(|of| of[row]).and_then(|place| u8::try_from(place).ok());
    (0..truth.len()).map(|row| place(row).unwrap_or(u8::MAX)).collect()
}

/// End of the name of a file with what a judge says of the test split.
const JUDGED: &str = "-test.csv";

/// File of a student with `[P(not so), P(so)]` of the test split, by a judge that makes this column.
pub fn judged_file(column: &str) -> String {
    format!("{column}{JUDGED}")
}

/// The column whose [`judged_file`] this is, if it is one.
pub fn judged_column(file: &str) -> Option<&str> {
    file.strip_suffix(JUDGED)
}

/// 1 for the first of the largest values.
fn one_hot(row: &[f32]) -> Vec<f32> {
    let best = learner::argmax(row);
    (0..row.len()).map(|class| f32::from(class == best)).collect()
}
