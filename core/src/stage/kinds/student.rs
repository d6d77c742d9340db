//! Fine-tunes the strong model on weak labels.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{embeddings::read_embeddings, p_ik::PikExamples};
use crate::{
    Error, Result,
    learner::{self, Knowing, Objective, OwnLabels, Recipe},
    model::Pretrained,
    stage::{
        DECISIONS, DataRef, Demand, Labels, ModelRef, Predictions, Stage, StageId, Truth,
        bench::{Bench, MODEL, add_remarks, copied, write_log},
        decisions::write_decisions,
        job::{copy, default_strategy, strategy_identity, strategy_name},
        labels::over_answers,
        store::Finished,
        trainer::{Lesson, Trainer},
    },
    strategy::{Calibration, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, Kind, Settings, Split},
};

/// Fine-tunes the strong model on weak labels.
///
/// Files: [`Labels`] of the test split, [`DECISIONS`] what the method decided about each example, [`P_IK_TEST`] whether the model knows;
/// `model/` where the model is kept.
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
    /// Whether the model knows, if the method uses it.
    #[serde(default)]
    pub p_ik: Option<StudentPik>,
    /// The stage that holds embeddings of the pretrained strong model, if the method uses them.
    #[serde(default)]
    pub embeddings: Option<StageId>,
    /// The stages that hold numbers of each example, by the names under which strategies ask for them.
    #[serde(default)]
    pub columns: BTreeMap<String, StageId>,
    /// Whether the method is a control that sees ground truth.
    #[serde(default)]
    pub truth: bool,
    /// Whether the method learns from the validation split how far weak labels can be trusted.
    #[serde(default)]
    pub calibration: bool,
    /// Seed of the cell.
    pub seed: u64,
    /// Whether the fine-tuned model is kept.
    pub save: bool,
}

/// One training of a student. The next one goes on with the model, with an optimizer and an order of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Phase {
    /// Training settings.
    pub recipe: Recipe,
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
            recipe: recipe.clone(),
            selector: default_strategy(Kind::Selector, "all")?,
            refiner: default_strategy(Kind::Refiner, "identity")?,
            loss: default_strategy(Kind::Loss, "cross-entropy")?,
        })
    }

    fn identity(&self) -> Result<Value> {
        Ok(json!({
            "recipe": self.recipe.identity()?,
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

/// Where a student's P(IK) comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum StudentPik {
    /// A second head, trained along.
    Joint {
        /// What it learns from.
        examples: Box<PikExamples>,
        /// λ.
        lambda: f64,
        /// Examples per step.
        batch_size: usize,
        /// Whether its examples are seen once only.
        once: bool,
        /// Part of the steps in which nothing counts as known.
        warmup_fraction: f64,
        /// A P(IK) model that backbone and head start from.
        start: Option<StageId>,
    },
    /// A P(IK) model that stays as it is.
    Frozen {
        /// The stage that holds what it says of the student's examples.
        scores: StageId,
    },
}

impl StudentPik {
    fn identity(&self) -> Value {
        match self {
            StudentPik::Joint { examples, lambda, batch_size, once, warmup_fraction, start } => json!({
                "from": "joint",
                "examples": examples.identity(),
                "lambda": lambda,
                "batch_size": batch_size,
                "once": once,
                "warmup_fraction": warmup_fraction,
                "start": start,
            }),
            StudentPik::Frozen { scores } => json!({ "from": "frozen", "scores": scores }),
        }
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
        match self.phases.as_slice() {
            // As it was when there was but one.
            [only] => {
                if let (Value::Object(all), Value::Object(phase)) = (&mut parameters, only.identity()?) {
                    all.extend(phase);
                }
            }
            phases => parameters["phases"] = phases.iter().map(Phase::identity).collect::<Result<_>>()?,
        }
        // What a method does not use is not among them: results from before it existed stay valid.
        if let Some(own) = &self.self_labels {
            parameters["self_labels"] = json!(own);
        }
        if let Some(p_ik) = &self.p_ik {
            parameters["p_ik"] = p_ik.identity();
        }
        if let Some(embeddings) = &self.embeddings {
            parameters["embeddings"] = json!(embeddings);
        }
        if !self.columns.is_empty() {
            parameters["columns"] = json!(self.columns);
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
        match &self.p_ik {
            // 2: the examples of P(IK) come in an order of their own, no more in the student's.
            Some(StudentPik::Joint { lambda, .. }) if *lambda != 0.0 => 2,
            _ => 1,
        }
    }

    fn batch(&self) -> usize {
        let beside = match &self.p_ik {
            Some(StudentPik::Joint { batch_size, .. }) => *batch_size,
            _ => 0,
        };
        self.phases.iter().map(|phase| phase.recipe.batch_size).fold(beside, usize::max)
    }

    fn demand(&self) -> Option<Demand<'_>> {
        let beside = match &self.p_ik {
            Some(StudentPik::Joint { examples, batch_size, .. }) => Some((*batch_size, examples.data.longest())),
            _ => None,
        };
        let recipes = self.phases.iter().map(|phase| &phase.recipe).collect();
        Some(Demand { recipes, beside, ..Demand::answering(&self.model, &self.data) })
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
        let start = match &self.p_ik {
            Some(StudentPik::Joint { start, .. }) => start.as_ref(),
            _ => None,
        };
        let mut student = trainer.fresh(&self.model, &model, start)?;
        let mut summary = json!({});
        let mut remarks = Vec::new();
        for (number, phase) in self.phases.iter().enumerate() {
            let lesson = self.lesson(phase, bench, &trainer, &model, &mut summary)?;
            let in_phase =
                |error: Error| if number > 0 { error.context(format!("phase {}", number + 1)) } else { error };
            let trained = trainer
                .train(student, model.tokenizer(), &examples, &phase.recipe, lesson, number)
                .map_err(in_phase)?;
            write_log(&trained, number, folder)?;
            if self.decides(phase) {
                write_decisions(trained.log.choices.values(), &folder.join(DECISIONS))?;
            }
            summary["loss"] = json!(trained.final_loss());
            remarks.extend(trained.log.remarks);
            student = trained.model;
        }
        add_remarks(&mut summary, &remarks);
        trainer.answer_into(&model, &student, Split::Test, folder)?;
        if let Some(classifier) = student.classifier().filter(|classifier| classifier.p_ik.is_some()) {
            let data = trainer.encode(&model, Split::Test)?;
            let p_ik = learner::predict_p_ik(classifier, &data, &bench.place.execution)?;
            Predictions::new(p_ik)?.write(&folder.join(P_IK_TEST))?;
        } else if let Some(StudentPik::Frozen { scores }) = &self.p_ik {
            let scores = bench.stage(scores)?.file(&Predictions::file(Split::Test));
            Predictions::read(&scores)?.write(&folder.join(P_IK_TEST))?;
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

    /// Whether a phase may do anything but train on every weak label as it is.
    fn decides(&self, phase: &Phase) -> bool {
        phase.decides() || self.p_ik.is_some() || self.self_labels.is_some()
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
        // Probability of the second of two answers: that it is so.
        let second = |stage: &StageId| -> Result<Vec<f32>> {
            let file = bench.stage(stage)?.file(&Predictions::file(Split::Transfer));
            Ok(Predictions::read(&file)?.rows().iter().map(|row| row[1]).collect())
        };
        objective.p_ik = match &self.p_ik {
            None => None,
            Some(StudentPik::Frozen { scores }) => Some(Knowing::Given(second(scores)?)),
            Some(StudentPik::Joint { examples, lambda, batch_size, once, warmup_fraction, .. }) => {
                let (data, labels, counts) = examples.read(bench, model)?;
                summary["p_ik"] = counts;
                let (lambda, batch_size, once, warmup_fraction) = (*lambda, *batch_size, *once, *warmup_fraction);
                Some(Knowing::Trained { data, labels, lambda, batch_size, once, warmup_fraction })
            }
        };
        if let Some(stage) = &self.embeddings {
            objective.embeddings = Some(read_embeddings(&bench.stage(stage)?)?);
        }
        for (name, stage) in &self.columns {
            objective.columns.insert(name.clone(), second(stage)?);
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

/// File of a student with `[P(IDK), P(IK)]` of the test split.
pub const P_IK_TEST: &str = "p-ik-test.csv";

/// 1 for the first of the largest values.
fn one_hot(row: &[f32]) -> Vec<f32> {
    let best = learner::argmax(row);
    (0..row.len()).map(|class| f32::from(class == best)).collect()
}
