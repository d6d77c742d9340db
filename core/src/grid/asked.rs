//! What methods ask to be made: labels by a supervisor, and what the strong model knows of itself.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::{
    columns::Auxiliary,
    config::{self, Grid, Hardness, ModelConfig, On, SelfSource},
    desk::Desk,
    fitting::{Fitting, spec_of},
};
use crate::{
    Error, Result,
    learner::{Recipe, Sampler},
    model::Spec,
    stage::{
        DataRef, Job, ModelRef, Numeric, Stage, StageId, Training,
        kinds::{
            answers::{Answerer, Answers},
            embeddings::Embeddings,
            fine_tune::FineTune,
            gather::Gather,
            label::Label,
            student::{Phase, SelfLabels, Student},
            supervise::Supervise,
            teach::Teach,
        },
    },
    strategy::{Ask, ConfiguredSupervisor, Role, Split},
    task::Task,
};

/// What a supervisor of a cell can ask for.
pub(super) struct Labelling<'a> {
    /// The pair's models as they are used on the task, and how each is trained if a supervisor asks for it.
    pub(super) weak: &'a (ModelRef, Vec<Training>),
    pub(super) strong: &'a (ModelRef, Vec<Training>),
    /// The same of the models that supervisors name.
    pub(super) named: &'a BTreeMap<String, (ModelRef, Vec<Training>)>,
    pub(super) task: &'a Task,
    pub(super) data: &'a DataRef,
    pub(super) seed: u64,
    /// Where files are read.
    pub(super) desk: &'a Desk<'a>,
}

impl Labelling<'_> {
    /// Makes what a supervisor asks for, and lets it label.
    pub(super) fn supervise(&self, supervisor: Box<dyn ConfiguredSupervisor>, made: &mut Made) -> Result<StageId> {
        let given = supervisor.asks().iter().map(|ask| self.answer(ask, made)).collect::<Result<Vec<_>>>()?;
        let (weak, strong) = (self.weak.clone(), self.strong.clone());
        let asked = given.iter().flatten().cloned().collect();
        let id = made.push(Supervise { supervisor, given, weak, strong, data: self.data.clone(), seed: self.seed })?;
        made.voters.insert(id.clone(), vec![asked]);
        Ok(id)
    }

    /// The stage that answers; none for ground truth.
    fn answer(&self, ask: &Ask, made: &mut Made) -> Result<Option<StageId>> {
        let (data, seed) = (self.data.clone(), self.seed);
        Ok(Some(match ask {
            Ask::Truth | Ask::Wrong => return Ok(None),
            Ask::FineTuned { role, on, copy, bagged } => {
                let (model, phases) = self.model(role)?;
                all_train(&phases, &data, *on)?;
                made.push(FineTune { model, phases, data, on: *on, seed, save: false, copy: *copy, bagged: *bagged })?
            }
            Ask::Taught { by, role, halves } => {
                let (model, phases) = self.model(role)?;
                let labels = self.answer(by, made)?;
                let rows = data.examples.get(Split::Transfer.name()).copied().unwrap_or(0);
                let rows = if *halves { rows / 2 } else { rows };
                phases
                    .iter()
                    .try_for_each(|Training { recipe, .. }| Sampler::check(rows, recipe.batch_size, recipe.epochs))
                    .map_err(|error| error.context(format!("task `{}`, a link of a chain", data.task)))?;
                made.push(Teach { model, phases, data, labels, halves: *halves, seed })?
            }
            Ask::Prompted { role, shots } => {
                let answerer = likeliest(&self.model(role)?.0, *shots);
                let validation = data.examples.get(Split::Validation.name()).is_some_and(|rows| *rows > 0);
                made.push(Answers { answerer, data, seed, validation, keep: false })?
            }
            Ask::File { path, others } => self.desk.labels(path, *others, self.task, &data, seed)?,
        }))
    }

    fn model(&self, role: &Role) -> Result<(ModelRef, Vec<Training>)> {
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
    pub(super) grid: &'a Grid,
    pub(super) on: On<'a>,
    pub(super) tasks: &'a [&'a Task],
    /// The strong model, as the grid names it and as it is used here, and how it is trained.
    pub(super) config: &'a ModelConfig,
    pub(super) strong: &'a ModelRef,
    pub(super) plain: &'a Recipe,
    pub(super) data: &'a DataRef,
    /// The data of each task, where `data` are those of a suite.
    pub(super) parts: &'a [DataRef],
    /// What is learnt beside this, by the task's name and how much of it is read.
    pub(super) beside: &'a BTreeMap<(String, Option<usize>), DataRef>,
    /// The weak labels, for columns about them.
    pub(super) supervision: Option<StageId>,
    /// Where data are looked up.
    pub(super) desk: &'a Desk<'a>,
    pub(super) seed: u64,
}

/// The strong model as it is trained on an auxiliary task, and how.
pub(super) struct OnAuxiliary<'a> {
    pub(super) model: ModelRef,
    pub(super) recipe: Recipe,
    pub(super) data: &'a DataRef,
    /// Number of classes of the task.
    pub(super) classes: usize,
}

impl Knowledge<'_> {
    /// The strong model on an auxiliary task.
    pub(super) fn auxiliary(&self, auxiliary: &Auxiliary) -> Result<OnAuxiliary<'_>> {
        let name = auxiliary.task_for(self.on.name);
        let there = self.beside.get(&(name.to_owned(), auxiliary.rows)).zip(self.grid.auxiliary.get(name));
        let (data, task) = there.ok_or_else(|| Error::new(format!("the data of task `{name}` were not read")))?;
        // Whatever is learnt there is a choice, however the evaluated task is answered.
        let head = self.grid.auxiliary_head(self.config, self.on, auxiliary)?;
        let model = ModelRef { head, writing: None, ..self.strong.clone() };
        let recipe = self.grid.auxiliary_recipe(self.config, self.on, auxiliary)?;
        Ok(OnAuxiliary { model, recipe, data, classes: task.classes.len() })
    }

    /// The weak labels.
    pub(super) fn supervision(&self) -> Result<&StageId> {
        self.supervision.as_ref().ok_or_else(|| Error::new("the weak labels are not made yet"))
    }

    /// The strong model, fine-tuned on an auxiliary task.
    pub(super) fn auxiliary_head(&self, on: &OnAuxiliary, made: &mut Made) -> Result<StageId> {
        made.push(FineTune {
            model: on.model.clone(),
            phases: vec![Training::plain(on.recipe.clone())],
            data: on.data.clone(),
            on: Split::Supervise,
            seed: self.seed,
            save: true,
            copy: 0,
            bagged: false,
        })
    }

    /// Answers to what is evaluated; each task of a suite asks in its own words.
    pub(super) fn answers(&self, answerer: Answerer, made: &mut Made) -> Result<StageId> {
        if self.parts.is_empty() {
            return self.answers_to(self.data, answerer, made);
        }
        let of = self.parts.iter().map(|data| self.answers_to(data, answerer.clone(), made));
        let of = of.collect::<Result<_>>()?;
        made.push(Gather { of, data: self.data.clone() })
    }

    pub(super) fn answers_to(&self, data: &DataRef, answerer: Answerer, made: &mut Made) -> Result<StageId> {
        made.push(Answers { answerer, data: data.clone(), seed: self.seed, validation: false, keep: false })
    }

    pub(super) fn self_labels(
        &self,
        settings: &config::SelfLabels,
        auxiliary: Option<Auxiliary>,
        made: &mut Made,
    ) -> Result<SelfLabels> {
        let hard = settings.kind == Hardness::Hard;
        let answerer = match (settings.source, auxiliary) {
            (SelfSource::CurrentHead, _) => return Ok(SelfLabels::CurrentHead { hard, decay: 0.0 }),
            (SelfSource::EmaHead, _) => return Ok(SelfLabels::CurrentHead { hard, decay: settings.decay }),
            (SelfSource::StageHead, Some(auxiliary)) => {
                Answerer::Classifier { stage: self.auxiliary_head(&self.auxiliary(&auxiliary)?, made)? }
            }
            (SelfSource::PrecomputedGeneration | SelfSource::StageHead | SelfSource::Student, _) => {
                likeliest(self.strong, settings.shots)
            }
        };
        Ok(SelfLabels::Answers { stage: self.answers(answerer, made)?, hard })
    }

    /// What a plain student of the weak labels says.
    pub(super) fn relabels(
        &self,
        settings: &config::SelfLabels,
        supervision: &StageId,
        made: &mut Made,
    ) -> Result<SelfLabels> {
        let (_, stage) = self.relabelled(supervision, made)?;
        Ok(SelfLabels::Answers { stage, hard: settings.kind == Hardness::Hard })
    }

    /// The plain student, and what it says of the examples that it was trained on.
    pub(super) fn relabelled(&self, supervision: &StageId, made: &mut Made) -> Result<(StageId, StageId)> {
        let student = made.push(Student {
            model: self.strong.clone(),
            phases: vec![Phase::plain(self.plain)?],
            data: self.data.clone(),
            supervision: supervision.clone(),
            self_labels: None,
            embeddings: None,
            columns: BTreeMap::new(),
            truth: false,
            calibration: false,
            evaluate: Vec::new(),
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
pub(super) fn likeliest(model: &ModelRef, shots: usize) -> Answerer {
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
    /// Whose labels a supervision is made of: of each task the stages that were asked, ground truth left out.
    pub(super) voters: BTreeMap<StageId, Vec<Vec<StageId>>>,
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

/// Whether a split is large enough for one step of each phase.
pub(super) fn all_train(phases: &[Training], data: &DataRef, on: Split) -> Result<()> {
    phases.iter().try_for_each(|phase| trains(&phase.recipe, data, on))
}

/// Whether a split is large enough for one step of a recipe.
pub(super) fn trains(recipe: &Recipe, data: &DataRef, on: Split) -> Result<()> {
    let rows = data.examples.get(on.name()).copied().unwrap_or(0);
    Sampler::check(rows, recipe.batch_size, recipe.epochs)
        .map_err(|error| error.context(format!("task `{}`, `{}`", data.task, on.name())))
}
