//! What methods ask to be made: labels by a supervisor, and what the strong model knows of itself.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::{
    config::{self, AnswersBy, Hardness, Mismatch, PikSchedule, SelfSource},
    desk::Desk,
    fitting::{Fitting, spec_of},
};
use crate::{
    Error, Result,
    learner::{Recipe, Sampler},
    model::Spec,
    stage::{
        DataRef, Job, ModelRef, Numeric, Stage, StageId,
        kinds::{
            answers::{Answerer, Answers},
            embeddings::Embeddings,
            fine_tune::FineTune,
            gather::Gather,
            judge::Judge,
            label::Label,
            p_ik::{Pik, PikExamples},
            p_ik_scores::PikScores,
            student::{Phase, SelfLabels, Student, StudentPik},
            supervise::Supervise,
            teach::Teach,
        },
    },
    strategy::{Ask, ConfiguredSupervisor, Role, Split},
    task::Task,
};

/// What a supervisor of a cell can ask for.
pub(super) struct Labelling<'a> {
    /// The pair's models as they are used on the task, and how each is trained.
    pub(super) weak: &'a (ModelRef, Recipe),
    pub(super) strong: &'a (ModelRef, Recipe),
    /// The same of the models that supervisors name.
    pub(super) named: &'a BTreeMap<String, (ModelRef, Recipe)>,
    pub(super) task: &'a Task,
    pub(super) data: &'a DataRef,
    pub(super) seed: u64,
    /// Where files are read.
    pub(super) desk: &'a Desk<'a>,
}

impl Labelling<'_> {
    /// Makes what a supervisor asks for, and lets it label.
    pub(super) fn supervise(&self, supervisor: Box<dyn ConfiguredSupervisor>, made: &mut Made) -> Result<StageId> {
        let given = supervisor.asks().iter().map(|ask| self.answer(ask, made)).collect::<Result<_>>()?;
        let (weak, strong) = (self.weak.clone(), self.strong.clone());
        made.push(Supervise { supervisor, given, weak, strong, data: self.data.clone(), seed: self.seed })
    }

    /// The stage that answers; none for ground truth.
    fn answer(&self, ask: &Ask, made: &mut Made) -> Result<Option<StageId>> {
        let (data, seed) = (self.data.clone(), self.seed);
        Ok(Some(match ask {
            Ask::Truth => return Ok(None),
            Ask::FineTuned { role, on, copy, bagged } => {
                let (model, recipe) = self.model(role)?;
                trains(&recipe, &data, *on)?;
                made.push(FineTune { model, recipe, data, on: *on, seed, save: false, copy: *copy, bagged: *bagged })?
            }
            Ask::Taught { by, role, halves } => {
                let (model, recipe) = self.model(role)?;
                let labels = self.answer(by, made)?;
                let rows = data.examples.get(Split::Transfer.name()).copied().unwrap_or(0);
                let rows = if *halves { rows / 2 } else { rows };
                Sampler::check(rows, recipe.batch_size, recipe.epochs)
                    .map_err(|error| error.context(format!("task `{}`, a link of a chain", data.task)))?;
                made.push(Teach { model, recipe, data, labels, halves: *halves, seed })?
            }
            Ask::Prompted { role, shots } => {
                let answerer = likeliest(&self.model(role)?.0, *shots);
                let validation = data.examples.get(Split::Validation.name()).is_some_and(|rows| *rows > 0);
                made.push(Answers { answerer, data, seed, validation })?
            }
            Ask::File { path, others } => self.desk.labels(path, *others, self.task, &data, seed)?,
        }))
    }

    fn model(&self, role: &Role) -> Result<(ModelRef, Recipe)> {
        match role {
            Role::Weak => Ok(self.weak.clone()),
            Role::Strong => Ok(self.strong.clone()),
            Role::Named(name) => {
                self.named.get(name).cloned().ok_or_else(|| Error::new(format!("there is no model `{name}`")))
            }
        }
    }
}

/// Makes the stages from which a student learns what it knows, and tells the student where they are.
pub(super) struct Knowledge<'a> {
    pub(super) strong: &'a ModelRef,
    /// The same model as it is trained on the auxiliary task, and how.
    pub(super) on_auxiliary: &'a ModelRef,
    pub(super) recipe: &'a Recipe,
    pub(super) data: &'a DataRef,
    /// The data of each task, where `data` are those of a suite.
    pub(super) parts: &'a [DataRef],
    pub(super) seed: u64,
}

impl Knowledge<'_> {
    pub(super) fn p_ik(&self, settings: &config::Pik, auxiliary: &DataRef, made: &mut Made) -> Result<StudentPik> {
        let answers = self.answers_to(auxiliary, self.answerer(settings, auxiliary, made)?, made)?;
        let examples = PikExamples {
            answers,
            data: auxiliary.clone(),
            splits: settings.splits.clone(),
            label: settings.label,
            balance: settings.balance,
            input: settings.input,
            seed: self.seed,
        };
        let first = (settings.schedule != PikSchedule::Joint).then(|| {
            let epochs = settings.epochs.unwrap_or(self.recipe.epochs);
            let recipe = Recipe { epochs, ..self.recipe.clone() };
            made.push(Pik { model: self.on_auxiliary.clone(), recipe, examples: examples.clone(), seed: self.seed })
        });
        Ok(match (settings.schedule, first.transpose()?) {
            (PikSchedule::PretrainThenFreeze, Some(p_ik)) => {
                StudentPik::Frozen { scores: made.push(PikScores { p_ik, data: self.data.clone() })? }
            }
            (_, start) => StudentPik::Joint {
                examples: Box::new(examples),
                lambda: settings.lambda,
                batch_size: settings.batch_size,
                once: settings.epoch_mismatch == Mismatch::Truncate,
                warmup_fraction: settings.warmup_fraction,
                start,
            },
        })
    }

    /// Who answers for the strong model; a classifier is first fine-tuned on the auxiliary task.
    fn answerer(&self, settings: &config::Pik, auxiliary: &DataRef, made: &mut Made) -> Result<Answerer> {
        Ok(match settings.answers {
            AnswersBy::LanguageModel => Answerer::LanguageModel {
                model: self.strong.clone(),
                shots: settings.shots,
                samples: settings.samples,
                temperature: settings.temperature,
            },
            AnswersBy::Classifier => Answerer::Classifier { stage: self.auxiliary_head(auxiliary, made)? },
        })
    }

    /// What P(IK) is about in a method without self-labels: the likeliest answers to the evaluated task of whoever answers the auxiliary one.
    pub(super) fn own_answers(&self, settings: &config::Pik, auxiliary: &DataRef, made: &mut Made) -> Result<StageId> {
        let answerer = match settings.answers {
            AnswersBy::LanguageModel => likeliest(self.strong, settings.shots),
            AnswersBy::Classifier => self.answerer(settings, auxiliary, made)?,
        };
        self.answers(answerer, made)
    }

    fn auxiliary_head(&self, auxiliary: &DataRef, made: &mut Made) -> Result<StageId> {
        made.push(FineTune {
            model: self.on_auxiliary.clone(),
            recipe: self.recipe.clone(),
            data: auxiliary.clone(),
            on: Split::Supervise,
            seed: self.seed,
            save: true,
            copy: 0,
            bagged: false,
        })
    }

    /// Answers to what is evaluated; each task of a suite asks in its own words.
    fn answers(&self, answerer: Answerer, made: &mut Made) -> Result<StageId> {
        if self.parts.is_empty() {
            return self.answers_to(self.data, answerer, made);
        }
        let of = self.parts.iter().map(|data| self.answers_to(data, answerer.clone(), made));
        let of = of.collect::<Result<_>>()?;
        made.push(Gather { of, data: self.data.clone() })
    }

    fn answers_to(&self, data: &DataRef, answerer: Answerer, made: &mut Made) -> Result<StageId> {
        made.push(Answers { answerer, data: data.clone(), seed: self.seed, validation: false })
    }

    pub(super) fn self_labels(
        &self,
        settings: &config::SelfLabels,
        p_ik: Option<(&config::Pik, &DataRef)>,
        made: &mut Made,
    ) -> Result<SelfLabels> {
        let hard = settings.kind == Hardness::Hard;
        let answerer = match (settings.source, p_ik) {
            (SelfSource::CurrentHead, _) => return Ok(SelfLabels::CurrentHead { hard, decay: 0.0 }),
            (SelfSource::EmaHead, _) => return Ok(SelfLabels::CurrentHead { hard, decay: settings.decay }),
            (SelfSource::PikStageHead, Some((_, auxiliary))) => {
                Answerer::Classifier { stage: self.auxiliary_head(auxiliary, made)? }
            }
            (SelfSource::PrecomputedGeneration | SelfSource::PikStageHead | SelfSource::Student, _) => {
                likeliest(self.strong, settings.shots)
            }
        };
        Ok(SelfLabels::Answers { stage: self.answers(answerer, made)?, hard })
    }

    /// What a plain student of the weak labels says.
    pub(super) fn relabels(
        &self,
        settings: &config::SelfLabels,
        plain: &Recipe,
        supervision: &StageId,
        made: &mut Made,
    ) -> Result<SelfLabels> {
        let (_, stage) = self.relabelled(plain, supervision, made)?;
        Ok(SelfLabels::Answers { stage, hard: settings.kind == Hardness::Hard })
    }

    /// A judge of the weak labels, and the plain student whose labels they are compared with.
    pub(super) fn judge(
        &self,
        agrees: &config::Agrees,
        recipe: Recipe,
        plain: &Recipe,
        supervision: &StageId,
        made: &mut Made,
    ) -> Result<StageId> {
        let rows = self.data.examples.get(Split::Transfer.name()).copied().unwrap_or(0);
        if agrees.folds > rows {
            return Err(Error::new(format!(
                "task `{}`: {rows} examples cannot be judged in {} folds",
                self.data.task, agrees.folds
            ))
            .help("lower `folds` in `agrees`; 5 or 10 are usual"));
        }
        trains(&recipe, self.data, Split::Transfer).map_err(|error| error.context("the judge, `agrees`"))?;
        let (student, own) = self.relabelled(plain, supervision, made)?;
        made.push(Judge {
            model: self.strong.clone(),
            recipe,
            data: self.data.clone(),
            weak: supervision.clone(),
            student,
            own,
            settings: agrees.settings(),
            seed: self.seed,
        })
    }

    /// The plain student, and what it says of the examples that it was trained on.
    fn relabelled(&self, plain: &Recipe, supervision: &StageId, made: &mut Made) -> Result<(StageId, StageId)> {
        let student = made.push(Student {
            model: self.strong.clone(),
            phases: vec![Phase::plain(plain)?],
            data: self.data.clone(),
            supervision: supervision.clone(),
            self_labels: None,
            p_ik: None,
            embeddings: None,
            columns: BTreeMap::new(),
            truth: false,
            calibration: false,
            seed: self.seed,
            save: true,
        })?;
        let own = made.push(Label { by: student.clone(), data: self.data.clone() })?;
        Ok((student, own))
    }

    pub(super) fn embeddings(&self, made: &mut Made) -> Result<StageId> {
        made.push(Embeddings { model: self.strong.untrained(), data: self.data.clone() })
    }
}

/// A pretrained model, which gives its likeliest answer.
fn likeliest(model: &ModelRef, shots: usize) -> Answerer {
    Answerer::LanguageModel { model: model.clone(), shots, samples: 0, temperature: 1.0 }
}

/// The stages of a plan, as they come up: what is named by another stands before it.
pub(super) struct Made<'a> {
    pub(super) numeric: &'a Numeric,
    /// Where examples at a time are chosen stage by stage.
    pub(super) fitting: Option<&'a Fitting>,
    /// What the models look like, by their weights.
    pub(super) specs: BTreeMap<String, Spec>,
    pub(super) jobs: IndexMap<StageId, Job>,
}

impl Made<'_> {
    pub(super) fn push(&mut self, stage: impl Stage + 'static) -> Result<StageId> {
        let mut job = Job::new(stage)?;
        job.micro_batch = match self.fitting {
            None => self.numeric.micro_batch(),
            Some(fitting) => {
                let spec = job.stage.demand().map(|demand| spec_of(&demand, &self.specs)).transpose()?.flatten();
                fitting.rows(&*job.stage, self.numeric, spec.as_ref())?
            }
        };
        let id = job.stage.id(&self.numeric.in_parts(job.micro_batch))?;
        self.jobs.entry(id.clone()).or_insert(job);
        Ok(id)
    }
}

/// Whether a split is large enough for one step of a recipe.
pub(super) fn trains(recipe: &Recipe, data: &DataRef, on: Split) -> Result<()> {
    let rows = data.examples.get(on.name()).copied().unwrap_or(0);
    Sampler::check(rows, recipe.batch_size, recipe.epochs)
        .map_err(|error| error.context(format!("task `{}`, `{}`", data.task, on.name())))
}
