//! The cells of a grid, and the stages that make them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    rc::Rc,
};

use super::{
    asked::{Knowledge, Labelling, Made, all_train, trains},
    columns::{self, About},
    config::{self, EndPhase, Grid, Method, ModelConfig, On, SelfSource, Suite},
    desk::Desk,
    found::FoundModel,
    plan::Cell,
};
use crate::{
    Error, Result,
    learner::Recipe,
    stage::{
        self, Aim, DataRef, ModelRef, Numbers, StageId, Training, copy,
        kinds::{
            fine_tune::FineTune,
            gather::Gather,
            portion::Portion,
            student::{Column, Phase, SelfLabels, Student},
        },
    },
    strategy::{Ask, Form, Role, Split, whole},
    task::Task,
};

/// Makes the cells of a grid, in the order of tables; the stages that they need join those that are `made`.
pub(super) fn make<'a>(
    grid: &'a Grid,
    models: &'a BTreeMap<String, FoundModel>,
    desk: Desk<'a>,
    made: &mut Made<'a>,
    notes: &mut Vec<String>,
) -> Result<Vec<Cell>> {
    let desk = Rc::new(desk);
    let (supervisions, suites, students) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut maker = Maker { grid, models, desk, made, cells: Vec::new(), notes, supervisions, suites, students };
    let seats = |pair: usize| grid.seeds.iter().map(move |seed| Seat { pair, seed: *seed });
    let seats: Vec<Seat> = (0..grid.pairs.len()).flat_map(seats).collect();
    let [places, _] = &grid.places;
    for (task, place) in places.iter().enumerate() {
        for seat in &seats {
            maker.share_reading(task, *seat).map_err(|error| error.or_at(place))?;
        }
    }
    let mut grounds = BTreeMap::new();
    for (task, place) in places.iter().enumerate() {
        for seat in &seats {
            let ground = maker.ground(task, *seat).map_err(|error| error.or_at(place))?;
            grounds.insert((task, *seat), ground);
        }
    }
    for (task, place) in places.iter().enumerate() {
        for seat in &seats {
            maker.add_cells(task, *seat, &grounds).map_err(|error| error.or_at(place))?;
        }
    }
    // Tables go by task, pair, method, seed.
    maker.cells.sort_by_key(|cell| (cell.task, cell.pair, cell.method));
    Ok(maker.cells)
}

/// Which models learn, and with which seed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    pair: usize,
    seed: u64,
}

/// What the cells of a task, or of a suite, share in one seat: data, and the models as they are used on them.
struct Ground<'a> {
    on: On<'a>,
    tasks: Vec<&'a Task>,
    data: DataRef,
    /// The data of each task, where `data` are those of a suite.
    parts: Vec<DataRef>,
    /// What columns are learnt on, by the task's name and how much of it is read.
    auxiliary: BTreeMap<(String, Option<usize>), DataRef>,
    /// The models, and how each is trained where a supervisor asks for it.
    weak: (ModelRef, Vec<Training>),
    strong: (ModelRef, Vec<Training>),
    named: BTreeMap<String, (ModelRef, Vec<Training>)>,
    /// How the strong model is trained where nobody says more, and as the ceiling.
    plain: Recipe,
    ceiling: Vec<Training>,
    seat: Seat,
}

type Grounds<'a> = BTreeMap<(usize, Seat), Ground<'a>>;

/// A student, whose answers its columns are about, and with whose they compare the weak labels.
#[derive(Clone)]
struct Learnt {
    student: StageId,
    answers: Option<StageId>,
    compared: Option<StageId>,
}

struct Maker<'a, 'm> {
    grid: &'a Grid,
    models: &'a BTreeMap<String, FoundModel>,
    desk: Rc<Desk<'a>>,
    made: &'m mut Made<'a>,
    cells: Vec<Cell>,
    notes: &'m mut Vec<String>,
    /// Methods share supervisors; what a stage is called is found out once.
    supervisions: BTreeMap<(usize, Seat, String), StageId>,
    /// Suites by name and seat, without some of their tasks.
    suites: BTreeMap<(&'a str, Seat, &'a [String]), Rc<Ground<'a>>>,
    /// Their students, by suite, method and seat.
    students: BTreeMap<(&'a str, usize, Seat), Learnt>,
}

impl<'a> Maker<'a, '_> {
    /// Who reads the texts of a seat: they are cut so that whoever is asked can read them.
    fn readers(&self, seat: Seat) -> Vec<&'a FoundModel> {
        let pair = &self.grid.pairs[seat.pair];
        let named = self.grid.named().into_iter().map(|model| &model.name);
        [&pair.weak.name, &pair.strong.name].into_iter().chain(named).map(|name| &self.models[name]).collect()
    }

    /// Has the data of a task in one seat read, with those that columns are learnt on, unless another process is at it.
    fn share_reading(&self, task: usize, seat: Seat) -> Result<()> {
        let (grid, on, readers) = (self.grid, self.grid.on(task), self.readers(seat));
        self.check_speakers(readers[0], readers[1])?;
        self.check_readers(readers[0], readers[1])?;
        self.desk.share(&grid.tasks[task], on.data, &readers, seat.seed)?;
        for learnt_on in grid.methods.iter().flat_map(Method::auxiliaries) {
            if let Some(task) = grid.auxiliary.get(learnt_on.task_for(on.name)) {
                self.desk.share(task, &grid.auxiliary_data(on, &learnt_on)?, &readers[..2], seat.seed)?;
            }
        }
        Ok(())
    }

    /// Reads the data of a task and looks whether the models can be used on them.
    fn ground(&mut self, task: usize, seat: Seat) -> Result<Ground<'a>> {
        let (grid, on) = (self.grid, self.grid.on(task));
        let readers = self.readers(seat);
        let data = self.desk.data(&grid.tasks[task], on.data, &readers, seat.seed, self.notes)?;
        let auxiliary = self.auxiliary(on, seat)?;
        if let Form::Candidates(_) = data.form {
            grid.methods.iter().try_for_each(|method| grid.check_form(method, on.name, data.form, data.fewer))?;
        }
        let tasks = vec![&grid.tasks[task]];
        self.grounded(on, tasks, data, auxiliary, seat)
    }

    /// The models as they are used on data.
    fn grounded(
        &self,
        on: On<'a>,
        tasks: Vec<&'a Task>,
        data: DataRef,
        auxiliary: BTreeMap<(String, Option<usize>), DataRef>,
        seat: Seat,
    ) -> Result<Ground<'a>> {
        let pair = &self.grid.pairs[seat.pair];
        let grid = self.grid;
        let here = |config: &ModelConfig| -> Result<(ModelRef, Vec<Training>)> {
            Ok((self.model_on(config, on, data.form)?, grid.trainings(config, on, &grid.weak)?))
        };
        let (weak, strong) = (here(&pair.weak)?, here(&pair.strong)?);
        let (plain, ceiling) = (grid.recipe(&pair.strong, on, None)?, grid.trainings(&pair.strong, on, &grid.ceiling)?);
        let named = grid.named().into_iter().map(|config| Ok((config.name.clone(), here(config)?)));
        let named = named.collect::<Result<_>>()?;
        Ok(Ground { on, tasks, data, parts: Vec::new(), auxiliary, weak, strong, named, plain, ceiling, seat })
    }

    /// A model as it is used on data of a form.
    fn model_on(&self, config: &ModelConfig, on: On, form: Form) -> Result<ModelRef> {
        let model = &self.models[&config.name];
        let outputs = match form {
            Form::Classes(classes) => classes,
            Form::Candidates(_) => 1,
            Form::Words => {
                let writing = Some(model.writing(&self.grid.words)?);
                return Ok(ModelRef { writing, ..model.reference.clone() });
            }
        };
        let head = self.grid.head(config, on)?;
        if head.freeze_backbone && model.reference.lora.is_some() {
            let message = format!("`freeze_backbone` leaves nothing of `{}` for `[lora]` to train", config.name);
            return Err(Error::new(message).help("leave one of the two out"));
        }
        let place = || format!("head of `{}` on `{}`", config.name, on.name);
        head.check(outputs, &model.tokenizer, &model.spec).map_err(|error| error.context(place()))?;
        Ok(ModelRef { head, ..model.reference.clone() })
    }

    /// Whoever learns texts must be a language model.
    fn check_readers(&self, weak: &FoundModel, strong: &FoundModel) -> Result<()> {
        let grid = self.grid;
        let of_methods = grid.methods.iter().flat_map(|method| {
            let named = format!("method `{}` has", method.name);
            method.phases.iter().map(move |phase| (named.clone(), strong, phase.aim, &phase.aim_at))
        });
        let of_end = |named: &'static str, model, phases: &'a [EndPhase]| {
            phases.iter().map(move |phase| (named.to_owned(), model, phase.aim, &phase.aim_at))
        };
        let of_ends = of_end("`[ceiling]` has", strong, &grid.ceiling).chain(of_end("`[weak]` has", weak, &grid.weak));
        let asks: Vec<Ask> = grid.methods.iter().flat_map(Method::asks).collect();
        let asked = asks.iter().flat_map(Ask::all).filter_map(|ask| match ask {
            Ask::FineTuned { role: Role::Strong, .. } | Ask::Taught { role: Role::Strong, .. } => Some(strong),
            Ask::FineTuned { role: Role::Named(name), .. } | Ask::Taught { role: Role::Named(name), .. } => {
                self.models.get(name)
            }
            _ => None,
        });
        let of_asked = asked.flat_map(|model| of_end("`[weak]` has", model, &grid.weak));
        let mut reading = of_methods.chain(of_ends).chain(of_asked).filter(|(_, _, aim, _)| *aim == Aim::Text);
        match reading.find(|(_, model, ..)| !model.spec.speaks()) {
            None => Ok(()),
            Some((who, model, _, at)) => {
                let name = &model.reference.name;
                let error = Error::new(format!("{who} `{name}` learn the texts, and that is no language model"));
                let error = error.help("take a decoder in its place, or leave out the phase with `aim = \"text\"`");
                Err(at.iter().fold(error, |error, at| error.or_at(at)))
            }
        }
    }

    /// Whoever is asked in words must be a language model.
    fn check_speakers(&self, weak: &FoundModel, strong: &FoundModel) -> Result<()> {
        if let Some(method) =
            self.grid.methods.iter().find(|method| method.asks_language_model()).filter(|_| !strong.spec.speaks())
        {
            return Err(Error::new(format!(
                "method `{}` asks `{}` in words, and that is no language model",
                method.name, strong.reference.name
            ))
            .help(silenced(method)));
        }
        for method in &self.grid.methods {
            for role in method.prompted() {
                let model = match &role {
                    Role::Weak => weak,
                    Role::Strong => strong,
                    Role::Named(name) => &self.models[name],
                };
                if !model.spec.speaks() {
                    return Err(Error::new(format!(
                        "method `{}` asks `{}` in words, and that is no language model",
                        method.name, model.reference.name
                    ))
                    .help("let a decoder answer, or use another supervisor than `prompted`"));
                }
            }
        }
        Ok(())
    }

    /// The data that columns are learnt on where this is evaluated.
    fn auxiliary(&mut self, on: On, seat: Seat) -> Result<BTreeMap<(String, Option<usize>), DataRef>> {
        let (grid, readers) = (self.grid, self.readers(seat));
        let mut auxiliary = BTreeMap::new();
        for learnt_on in grid.methods.iter().flat_map(Method::auxiliaries) {
            let name = learnt_on.task_for(on.name);
            let Some(task) = grid.auxiliary.get(name) else { continue };
            if let Entry::Vacant(vacant) = auxiliary.entry((name.to_owned(), learnt_on.rows)) {
                let settings = grid.auxiliary_data(on, &learnt_on)?;
                vacant.insert(self.desk.data(task, &settings, &readers[..2], seat.seed, self.notes)?);
            }
        }
        Ok(auxiliary)
    }

    /// The cells of a task in one seat, one for each method.
    fn add_cells(&mut self, task: usize, seat: Seat, grounds: &Grounds<'a>) -> Result<()> {
        let grid = self.grid;
        let ground = &grounds[&(task, seat)];
        let within = grid.suite_of(task);
        let ceiling = match grid.ceiling_of(task) {
            None => self.ceiling(ground, grid.data[task].ceiling_split)?,
            Some((suite, place)) => {
                let split = self.ceiling_split(suite)?;
                let whole = self.in_suite(suite, seat, &[], grounds)?;
                let ceiling = self.ceiling(&whole, split)?;
                self.portion(&ceiling, &whole, place)?
            }
        };
        for (index, method) in grid.methods.iter().enumerate() {
            let together = within.filter(|_| method.together);
            let learnt = match together {
                None => self.student(ground, method, |maker| maker.supervision(task, ground, method))?,
                Some((suite, place)) => self.student_of_suite(suite, place, index, seat, grounds)?,
            };
            let supervision = self.supervision(task, ground, method)?;
            self.cells.push(Cell {
                task,
                pair: seat.pair,
                method: index,
                seed: seat.seed,
                data: ground.data.clone(),
                suite: together.map(|(suite, _)| suite.name.clone()),
                supervision,
                ceiling: ceiling.clone(),
                student: learnt.student,
                answers: learnt.answers,
                compared: learnt.compared,
            });
        }
        Ok(())
    }

    /// The strong model on ground truth.
    fn ceiling(&mut self, ground: &Ground, on: Split) -> Result<StageId> {
        let (model, phases) = (ground.strong.0.clone(), ground.ceiling.clone());
        all_train(&phases, &ground.data, on)?;
        let (data, seed) = (ground.data.clone(), ground.seat.seed);
        self.made.push(FineTune { model, phases, data, on, seed, save: false, copy: 0, bagged: false })
    }

    /// The labels of a method's supervisor of a task.
    fn supervision(&mut self, task: usize, ground: &Ground, method: &Method) -> Result<StageId> {
        let supervisor = method.supervisor_of(ground.on.name);
        let key = (task, ground.seat, stage::canonical(&whole(supervisor)?));
        if let Some(known) = self.supervisions.get(&key) {
            return Ok(known.clone());
        }
        let labelling = Labelling {
            named: &ground.named,
            weak: &ground.weak,
            strong: &ground.strong,
            task: &self.grid.tasks[task],
            data: &ground.data,
            seed: ground.seat.seed,
            desk: &self.desk,
        };
        let id = labelling.supervise(copy(supervisor)?, self.made)?;
        self.supervisions.insert(key, id.clone());
        Ok(id)
    }
}

/// Suites: their students are trained on the union of their tasks, and measured on each.
impl<'a> Maker<'a, '_> {
    /// The ground of a suite without some of its tasks; made once.
    fn in_suite(
        &mut self,
        suite: &'a Suite,
        seat: Seat,
        without: &'a [String],
        grounds: &Grounds<'a>,
    ) -> Result<Rc<Ground<'a>>> {
        let key = (suite.name.as_str(), seat, without);
        if let Some(known) = self.suites.get(&key) {
            return Ok(known.clone());
        }
        let grid = self.grid;
        let tasks: Vec<&Task> = suite.tasks.iter().map(|task| &grid.tasks[*task]).collect();
        let parts: Vec<&DataRef> = suite.tasks.iter().map(|task| &grounds[&(*task, seat)].data).collect();
        let trained = |task: &&Task| !without.iter().any(|name| name == task.name());
        let of: Vec<(&DataRef, bool)> = parts.iter().copied().zip(tasks.iter().map(trained)).collect();
        let pair = &grid.pairs[seat.pair];
        let mut readers = vec![&self.models[&pair.weak.name], &self.models[&pair.strong.name]];
        readers.extend(grid.named().iter().map(|model| &self.models[&model.name]));
        let data = self.desk.union(&suite.name, &of, &readers)?;
        let on = suite.on();
        if let Form::Candidates(_) = data.form {
            let together = grid.methods.iter().filter(|method| method.together);
            together.into_iter().try_for_each(|method| grid.check_form(method, on.name, data.form, data.fewer))?;
        }
        let auxiliary = self.auxiliary(on, seat)?;
        let parts = parts.into_iter().cloned().collect();
        let ground = Rc::new(Ground { parts, ..self.grounded(on, tasks, data, auxiliary, seat)? });
        self.suites.insert(key, ground.clone());
        Ok(ground)
    }

    /// What the ceiling of a suite is trained on, on which its tasks agree.
    fn ceiling_split(&self, suite: &Suite) -> Result<Split> {
        let mut splits = suite.tasks.iter().map(|task| self.grid.data[*task].ceiling_split);
        let first = splits.next().unwrap_or(Split::Transfer);
        match splits.all(|split| split == first) {
            true => Ok(first),
            false => {
                Err(Error::new(format!("the tasks of `{}` have one ceiling, and not one `ceiling_split`", suite.name))
                    .help("say the same for all of them, or `ceiling = \"each\"` in the suite"))
            }
        }
    }

    /// What a student or a ceiling of a suite says of the task at a place of it.
    fn portion(&mut self, of: &StageId, whole: &Ground, place: usize) -> Result<StageId> {
        let (suite, data) = (whole.data.clone(), whole.parts[place].clone());
        self.made.push(Portion { of: of.clone(), suite, data, place })
    }

    /// A method's student of a suite, as it is on the task at a place of it.
    fn student_of_suite(
        &mut self,
        suite: &'a Suite,
        place: usize,
        method: usize,
        seat: Seat,
        grounds: &Grounds<'a>,
    ) -> Result<Learnt> {
        let (grid, key) = (self.grid, (suite.name.as_str(), method, seat));
        let method = &grid.methods[method];
        let whole = self.in_suite(suite, seat, &method.without, grounds)?;
        let learnt = match self.students.get(&key) {
            Some(known) => known.clone(),
            None => {
                let learnt = self.student(&whole, method, |maker| {
                    let of = suite.tasks.iter().map(|task| maker.supervision(*task, &grounds[&(*task, seat)], method));
                    let of = of.collect::<Result<Vec<_>>>()?;
                    let voters =
                        of.iter().flat_map(|of| maker.made.voters.get(of).cloned().unwrap_or_default()).collect();
                    let gathered = maker.made.push(Gather { of, data: whole.data.clone() })?;
                    maker.made.voters.insert(gathered.clone(), voters);
                    Ok(gathered)
                })?;
                self.students.insert(key, learnt.clone());
                learnt
            }
        };
        let student = self.portion(&learnt.student, &whole, place)?;
        let mut portion = |of: Option<StageId>| match of {
            Some(own) if own == learnt.student => Ok(Some(student.clone())),
            Some(other) => self.portion(&other, &whole, place).map(Some),
            None => Ok(None),
        };
        let (answers, compared) = (portion(learnt.answers)?, portion(learnt.compared)?);
        Ok(Learnt { student, answers, compared })
    }
}

impl Maker<'_, '_> {
    /// A method's student, and all that it needs beside weak labels.
    fn student(
        &mut self,
        ground: &Ground,
        method: &Method,
        supervise: impl Fn(&mut Self) -> Result<StageId>,
    ) -> Result<Learnt> {
        let grid = self.grid;
        let Ground { on, data, seat, strong: (strong, _), plain, .. } = ground;
        let config = &grid.pairs[seat.pair].strong;
        let desk = self.desk.clone();
        let mut knowledge = Knowledge {
            grid,
            on: *on,
            tasks: &ground.tasks,
            config,
            strong,
            plain,
            data,
            parts: &ground.parts,
            beside: &ground.auxiliary,
            supervision: None,
            desk: &desk,
            seed: seat.seed,
        };
        let mut columns: BTreeMap<String, Column> = BTreeMap::new();
        for (name, column) in method.columns.iter().filter(|(_, column)| !column.of_weak_labels()) {
            let made = column.make(&knowledge, self.made)?;
            if let (Column::Stage { scores }, true) = (&made, column.in_data()) {
                let numbers = Numbers::read(&desk.store.take(scores)?.folder)?;
                grid.check_numbers(method, on.name, name, &numbers.0)?;
            }
            columns.insert((*name).to_owned(), made);
        }
        let self_labels = match &method.self_labels {
            Some(own) if own.source == SelfSource::Student => {
                let supervision = supervise(self)?;
                Some(knowledge.relabels(own, &supervision, self.made)?)
            }
            Some(own) => Some(knowledge.self_labels(own, method.auxiliaries().next(), self.made)?),
            None => None,
        };
        if let (Some(SelfLabels::Answers { stage, .. }), []) = (&self_labels, method.phases.as_slice()) {
            let learnt = Learnt { student: stage.clone(), answers: Some(stage.clone()), compared: None };
            supervise(self)?;
            return Ok(learnt);
        }
        let mut answers = About::Student;
        if let Some(SelfLabels::Answers { stage, .. }) = &self_labels {
            answers = About::Answers(stage.clone());
        } else if self_labels.is_none() {
            for (name, column) in &method.columns {
                answers = column.about(&knowledge, self.made)?;
                if let About::Nobody(why) = answers {
                    let title = columns::title(name);
                    let note = format!("{}: {title} of `{}` is not measured: {why}", on.name, method.name);
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
                if !matches!(answers, About::Student) {
                    break;
                }
            }
        }
        let needs = method.needs();
        let embeddings = needs.embeddings.then(|| knowledge.embeddings(self.made)).transpose()?;
        let supervision = supervise(self)?;
        knowledge.supervision = Some(supervision.clone());
        let mut compared = None;
        for (name, column) in method.columns.iter().filter(|(_, column)| column.of_weak_labels()) {
            columns.insert((*name).to_owned(), column.make(&knowledge, self.made)?);
            if compared.is_none() && matches!(answers, About::Student) {
                compared = column.compares(&knowledge, self.made)?;
            }
        }
        let phase = |phase: &config::Phase| {
            let recipe = grid.recipe(config, *on, Some(phase))?;
            trains(&recipe, data, Split::Transfer)
                .map_err(|error| error.context(format!("method `{}`", method.name)))?;
            let (selector, refiner) = (copy(&phase.selector)?, copy(&phase.refiner)?);
            let training = Training { recipe, aim: phase.aim };
            Ok(Phase { training, selector, refiner, loss: copy(&phase.loss)? })
        };
        let student = self.made.push(Student {
            model: strong.clone(),
            phases: method.phases.iter().map(phase).collect::<Result<_>>()?,
            data: data.clone(),
            supervision,
            self_labels,
            embeddings,
            columns,
            truth: needs.truth,
            calibration: needs.calibration,
            evaluate: grid.evaluate.clone(),
            seed: seat.seed,
            save: grid.save_students,
        })?;
        let answers = match answers {
            About::Student => Some(student.clone()),
            About::Answers(stage) => Some(stage),
            About::Nobody(_) => None,
        };
        Ok(Learnt { student, answers, compared })
    }
}

/// How a method does without answers in words.
fn silenced(method: &Method) -> String {
    let columns = method.columns.values().filter_map(|column| column.speaks());
    let source = "`self_labels.source` to `current-head` or `ema-head`";
    let own = method.self_labels.as_ref().filter(|own| own.source == SelfSource::PrecomputedGeneration);
    let settings: Vec<&str> = columns.chain(own.map(|_| source)).collect();
    format!("set {}", settings.join(" and "))
}
