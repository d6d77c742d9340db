//! Methods: `[method.NAME]`, `configs/methods.toml`, and `[sweep]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    file::{EndPhaseTable, EndTable, MethodTable, PhaseTable},
    knowing::{SelfLabels, SelfSource, Shared},
    model::recipe_table,
    names::{At, check_name, check_title},
};
use crate::{
    Error, Result,
    document::{Document, Section, did_you_mean},
    error::Place,
    grid::{
        columns::{self, Asked, Auxiliary, Column},
        library::Library,
    },
    stage::Aim,
    strategy::{
        self, Ask, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, ConfiguredSupervisor, Invalid, Kind,
        LabelRefiner, Needs, Role, Selector, StudentLoss, Supervisor,
    },
};

/// A method: what stands between weak labels and a student.
#[derive(Debug)]
pub struct Method {
    /// Name in configurations and results.
    pub name: String,
    /// Name in tables.
    pub title: String,
    /// Who labels.
    pub supervisor: Box<dyn ConfiguredSupervisor>,
    /// Who labels instead, by task.
    pub supervisors: BTreeMap<String, Box<dyn ConfiguredSupervisor>>,
    /// Whether the tasks of a suite have one student.
    pub together: bool,
    /// The tasks of a suite that its student is not trained on.
    pub without: Vec<String>,
    /// What the student is trained on one after the other; without any it is the pretrained model, which answers as its self-labels say.
    pub phases: Vec<Phase>,
    /// Where the strong model's own labels come from, if the method uses them.
    pub self_labels: Option<SelfLabels>,
    /// The columns that it reads or spells out, by their names, and how they are made.
    pub(in crate::grid) columns: BTreeMap<&'static str, Box<dyn Column>>,
}

/// One training of a method's student: an entry of `phases`, over what the method says of all of them.
#[derive(Debug)]
pub struct Phase {
    /// What is learnt. Where it is the texts, the three strategies are those that do nothing.
    pub aim: Aim,
    /// Where that stands, if it does.
    pub(in crate::grid) aim_at: Option<Place>,
    /// Which labels are trusted.
    pub selector: Box<dyn ConfiguredSelector>,
    /// How labels are refined.
    pub refiner: Box<dyn ConfiguredRefiner>,
    /// What the student minimises.
    pub loss: Box<dyn ConfiguredLoss>,
    /// Training settings.
    pub train: toml::Table,
}

impl Phase {
    /// Reads an entry of `phases`, or the method alone.
    fn read(method: Option<&Section>, entry: Option<&Section>, aim: Aim, loss: &str) -> Result<Self> {
        const STRATEGIES: [&str; 3] = ["selector", "refiner", "loss"];
        let of_entry = |key: &str| entry.and_then(|entry| entry.get(key));
        if let (Aim::Text, Some((key, given))) =
            (aim, STRATEGIES.into_iter().find_map(|key| Some((key, of_entry(key)?))))
        {
            let message = format!("a phase that learns the texts looks at no label, so it has no {key}");
            return Err(given.error(message).help(format!("leave `{key}` out, or put it into a phase without `aim`")));
        }
        // What the method says of its phases is about labels, too.
        let strategies = if aim == Aim::Text { None } else { method };
        let part = |key: &str| [entry, strategies].into_iter().flatten().find_map(|section: &Section| section.get(key));
        let mut train = method.map(recipe_table).transpose()?.unwrap_or_default();
        train.extend(entry.map(recipe_table).transpose()?.unwrap_or_default());
        let loss = if aim == Aim::Text { "cross-entropy" } else { loss };
        Ok(Self {
            aim,
            aim_at: of_entry("aim").map(|at| at.place()),
            selector: configured(Kind::Selector, part("selector"), "all", Selector::validate)?,
            refiner: configured(Kind::Refiner, part("refiner"), "identity", LabelRefiner::validate)?,
            loss: configured(Kind::Loss, part("loss"), loss, StudentLoss::validate)?,
            train,
        })
    }

    /// Why one of its strategies cannot use the numbers of a column that it reads, if it cannot.
    pub(in crate::grid) fn refuses(&self, column: &str, numbers: &[f32]) -> Option<(&'static str, String)> {
        let reads = |columns: Vec<String>| columns.iter().any(|name| name == column);
        let loss = reads(self.loss.columns()).then(|| self.loss.reads(column, numbers));
        let selector = reads(self.selector.columns()).then(|| self.selector.reads(column, numbers));
        let refiner = reads(self.refiner.columns()).then(|| self.refiner.reads(column, numbers));
        let looked = [("the loss", loss), ("the selector", selector), ("the refiner", refiner)];
        looked.into_iter().find_map(|(part, looked)| Some((part, looked?.err()?)))
    }

    fn needs(&self) -> Needs {
        self.selector.needs().and(self.refiner.needs()).and(self.loss.needs())
    }
}

impl Method {
    /// Whether ground truth of the evaluated task's student half reaches the student: by the supervisor, a control, or a column.
    pub fn uses_truth(&self, task: &str) -> bool {
        let leaks = self.auxiliaries().any(|auxiliary| auxiliary.task_for(task) == task);
        // What stands in a student's union reaches every task of it.
        let asks = if self.together { self.asks() } else { self.supervisor_of(task).asks() };
        asks.iter().any(Ask::uses_truth_of_transfer) || self.needs().truth || leaks
    }

    /// What its supervisors ask for.
    pub fn asks(&self) -> Vec<Ask> {
        let all = std::iter::once(&self.supervisor).chain(self.supervisors.values());
        all.flat_map(|supervisor| supervisor.asks()).collect()
    }

    /// Who labels a task.
    #[expect(clippy::borrowed_box, reason = "what is read back from its own text is the box")]
    pub fn supervisor_of(&self, task: &str) -> &Box<dyn ConfiguredSupervisor> {
        self.supervisors.get(task).unwrap_or(&self.supervisor)
    }

    /// Whether the strong model must answer in words.
    pub fn asks_language_model(&self) -> bool {
        self.self_labels.as_ref().is_some_and(|own| own.source == SelfSource::PrecomputedGeneration)
            || self.columns.values().any(|column| column.speaks().is_some())
    }

    /// The tasks beside the evaluated one from which its columns learn.
    pub(in crate::grid) fn auxiliaries(&self) -> impl Iterator<Item = Auxiliary<'_>> {
        self.columns.values().filter_map(|column| column.auxiliary())
    }

    /// The models that its supervisor asks in words.
    pub fn prompted(&self) -> Vec<Role> {
        let asks = self.asks();
        let prompted = |ask: &Ask| match ask {
            Ask::Prompted { role, .. } => Some(role.clone()),
            _ => None,
        };
        asks.iter().flat_map(Ask::all).filter_map(prompted).collect()
    }

    /// What all its parts together ask of the engine.
    pub fn needs(&self) -> Needs {
        self.phases.iter().map(Phase::needs).fold(Needs::default(), Needs::and)
    }

    /// Names of the columns that its parts read.
    pub fn reads(&self) -> BTreeSet<String> {
        let of = |phase: &Phase| [phase.selector.columns(), phase.refiner.columns(), phase.loss.columns()].concat();
        self.phases.iter().flat_map(of).collect()
    }

    /// The phase that the student ends with, which results name; none if it is not trained.
    pub fn last(&self) -> Option<&Phase> {
        self.phases.last()
    }
}

/// Points at the parameter that is out of range, or at the table where it stands at its default.
pub(super) fn invalid_at(table: &Section, invalid: &Invalid) -> Error {
    table
        .get(invalid.parameter)
        .unwrap_or_else(|| table.clone())
        .error(format!("`{}` {}", invalid.parameter, invalid.message))
}

impl Method {
    /// Reads a method: the grid's own `[method.NAME]`, one of `configs/methods.toml`, or a loss by its own name.
    pub(super) fn read(
        name: &str,
        own: Option<&Section>,
        shelf: Option<&Document>,
        at: &At,
        shared: &Shared,
    ) -> Result<Self> {
        let on_shelf = shelf.and_then(|document| document.root().get("method"));
        let section = own.and_then(|own| own.get(name)).or_else(|| on_shelf.as_ref().and_then(|shelf| shelf.get(name)));
        let Some(section) = section else {
            if strategy::find(Kind::Loss, name).is_some() {
                return Self::assemble(name, None, Some(name), shared).map_err(|error| at.place(error));
            }
            let mut known: Vec<String> = Vec::new();
            for methods in [own, on_shelf.as_ref()].into_iter().flatten() {
                known.extend(methods.entries().into_iter().map(|(name, _)| name));
            }
            known.extend(strategy::of_kind(Kind::Loss).iter().map(|card| card.name.to_owned()));
            let help = did_you_mean(name, known.iter().map(String::as_str));
            return Err(at.place(Error::new(format!("there is no method and no loss `{name}`")).help(help)));
        };
        Self::assemble(name, Some(&section), None, shared)
    }

    fn assemble(name: &str, section: Option<&Section>, loss: Option<&str>, shared: &Shared) -> Result<Self> {
        let part = |key: &str| section.and_then(|section| section.get(key));
        let (title, together, without) = match section {
            Some(section) => {
                let MethodTable { title, together, without, .. } = section.read_beside(&columns::keys())?;
                (title, together, without)
            }
            None => Default::default(),
        };
        let mut method = Self {
            name: name.to_owned(),
            title: title.unwrap_or_else(|| name.to_owned()),
            supervisor: configured(Kind::Supervisor, part("supervisor"), "fine-tuned", Supervisor::validate)?,
            supervisors: supervisors(part("supervisors"))?,
            together: together.unwrap_or(true),
            without,
            phases: phases(section, loss.unwrap_or("cross-entropy"))?,
            self_labels: None,
            columns: BTreeMap::new(),
        };
        let needs = method.needs();
        // What a method spells out it gets, what its parts need it gets too; the grid's own tables say how.
        let reads = method.reads();
        let known = columns::all();
        if let Some(unknown) = reads.iter().find(|name| !known.contains_key(name.as_str())) {
            let error =
                Error::new(format!("method `{name}` reads the column `{unknown}`, and there is none of that name"));
            let error = section.map_or(error.clone(), |section| section.error(error.message()));
            return Err(error.help(did_you_mean(unknown, known.keys().copied())));
        }
        for (column, known) in known {
            let own = part(&known.key());
            if reads.contains(column) || own.is_some() {
                let (own, shared) = (own.as_ref(), shared.columns.get(column));
                method.columns.insert(column, (known.read)(&Asked { method: name, section, own, shared })?);
            }
        }
        let self_labels = part("self_labels");
        if needs.self_labels || self_labels.is_some() {
            method.self_labels = Some(shared.self_labels(name, section, self_labels.as_ref(), &method)?);
        }
        let by_itself = |own: &SelfLabels| own.source == SelfSource::PrecomputedGeneration;
        let answers = method.self_labels.as_ref().is_some_and(by_itself) && method.columns.is_empty();
        if method.phases.is_empty() && !answers {
            let message = format!("`phases` is empty: nothing says what the student of `{name}` answers");
            let error = part("phases").map_or_else(|| Error::new(&message), |at| at.error(&message));
            return Err(error.help(
                "leave it out for one phase, write phases = [{}, { selector = { type = \"judged\" } }] for two, or say how the pretrained model is asked: self_labels = { source = \"precomputed-generation\", shots = 3 }",
            ));
        }
        if let Some(task) = shared.without_validation.as_ref().filter(|_| needs.calibration) {
            let of_phase = |phase: &Phase| {
                [("selector", phase.selector.needs()), ("refiner", phase.refiner.needs()), ("loss", phase.loss.needs())]
            };
            let of_parts = method.phases.iter().flat_map(of_phase);
            let asks = of_parts.filter(|(_, needs)| needs.calibration).find_map(|(key, _)| part(key));
            let message =
                format!("method `{name}` needs held-out examples with their truth, and `{task}` holds none out");
            let error = asks.as_ref().or(section).map_or_else(|| Error::new(&message), |at| at.error(&message));
            return Err(error.help(
                "add `[data] n_validation = 500` to the grid: so many examples of the supervisor's half, which the weak model is then not trained on",
            ));
        }
        Ok(method)
    }
}

/// `supervisors` of a method: who labels instead of its supervisor, by task.
fn supervisors(section: Option<Section>) -> Result<BTreeMap<String, Box<dyn ConfiguredSupervisor>>> {
    let read = |(task, supervisor): (String, Section)| {
        Ok((task, configured(Kind::Supervisor, Some(supervisor), "fine-tuned", Supervisor::validate)?))
    };
    section.iter().flat_map(Section::entries).map(read).collect()
}

/// The phases of a method: its entries of `phases`, each over the method's own table, or the method alone.
fn phases(method: Option<&Section>, loss: &str) -> Result<Vec<Phase>> {
    let Some(list) = method.and_then(|method| method.get("phases")) else {
        return Ok(vec![Phase::read(method, None, Aim::Answer, loss)?]);
    };
    let entries = list.items()?;
    let read = |entry: &Section| {
        let PhaseTable { aim, .. } = entry.read()?;
        Phase::read(method, Some(entry), aim, loss)
    };
    let phases = entries.iter().map(read).collect::<Result<Vec<Phase>>>()?;
    ends_in_answers(&entries, phases.last().map(|phase| phase.aim))?;
    Ok(phases)
}

/// Refuses a list of phases whose last one leaves nothing that answers.
fn ends_in_answers(entries: &[Section], last: Option<Aim>) -> Result<()> {
    match (entries.last(), last) {
        (Some(entry), Some(Aim::Text)) => {
            let at = entry.get("aim").unwrap_or_else(|| entry.clone());
            let message = "the last phase learns the texts, and nothing learns to answer";
            Err(at.error(message).help("add a phase behind it: phases = [{ aim = \"text\" }, {}]"))
        }
        _ => Ok(()),
    }
}

/// One training of an end of the gap: an entry of `phases` in `[ceiling]` or `[weak]`.
#[derive(Debug, Default)]
pub struct EndPhase {
    /// What is learnt.
    pub aim: Aim,
    /// Where that stands, if it does.
    pub(in crate::grid) aim_at: Option<Place>,
    /// Training settings.
    pub train: toml::Table,
}

impl EndPhase {
    /// The phases of `[ceiling]` or `[weak]`; one where the table does not say.
    pub(super) fn read_all(root: &Section, key: &str) -> Result<Vec<Self>> {
        let list = match root.get(key) {
            Some(table) => {
                table.read::<EndTable>()?;
                table.get("phases")
            }
            None => None,
        };
        let Some(list) = list else { return Ok(vec![Self::default()]) };
        let entries = list.items()?;
        if entries.is_empty() {
            let message = format!("`phases` of `[{key}]` is empty: nothing would be trained");
            return Err(list
                .error(message)
                .help("leave it out for one phase, or write phases = [{ aim = \"text\" }, {}]"));
        }
        let read = |entry: &Section| {
            let EndPhaseTable { aim, .. } = entry.read()?;
            Ok(Self { aim, aim_at: entry.get("aim").map(|at| at.place()), train: recipe_table(entry)? })
        };
        let phases = entries.iter().map(read).collect::<Result<Vec<Self>>>()?;
        ends_in_answers(&entries, phases.last().map(|phase| phase.aim))?;
        Ok(phases)
    }
}

/// A grid's file with changes from the command line. One that reaches into a method of `configs/methods.toml`, or into a loss by its own name,
/// changes that: what it does not speak of stays.
///
/// # Errors
/// As [`Document::with_overrides`], or a `methods.toml` that cannot be read.
pub(crate) fn with_changes(mut document: Document, library: &Library, changes: &[String]) -> Result<Document> {
    let shelf = library.open_file(Path::new("methods.toml")).transpose()?;
    for change in changes {
        let path = change.trim_start_matches(['~', '+']).split('=').next().unwrap_or_default();
        let keys: Vec<&str> = path.split('.').map(|key| key.trim().trim_matches('"')).collect();
        if let ["method", name, _, ..] = keys[..]
            && let Some(written) = written_out(name, &document, shelf.as_ref())?
        {
            document = document.with_overrides(&[written])?;
        }
        document = document.with_overrides(std::slice::from_ref(change))?;
    }
    Ok(document)
}

/// The change that writes a method into the grid, where it is not written there: as it stands on the shelf, or as the loss of its name.
fn written_out(name: &str, document: &Document, shelf: Option<&Document>) -> Result<Option<String>> {
    let in_grid = document.root().get("method").is_some_and(|all| all.get(name).is_some());
    let on_shelf = shelf.and_then(|shelf| shelf.root().get("method")).map(|all| all.get(name).map(|it| it.to_table()));
    Ok(match on_shelf.flatten().transpose()? {
        _ if in_grid => None,
        // An error in it is shown as of the command line, which nobody typed.
        Some(table) => Some(format!("method.{name:?}={} # as methods.toml has it", toml::Value::Table(table))),
        None => strategy::find(Kind::Loss, name).map(|_| format!("method.{name:?}.loss.type={name:?}")),
    })
}

/// `[sweep]`: a method's table → parameter → values. Each value gives one more method, `METHOD PARAMETER=VALUE`, everything else left alone.
pub(super) fn sweeps(
    document: &Document,
    shelf: Option<&Document>,
    methods: &[Method],
    shared: &Shared,
) -> Result<Vec<Method>> {
    let root = document.root();
    let mut swept: Vec<Method> = Vec::new();
    for (name, parameters) in root.get("sweep").iter().flat_map(Section::entries) {
        let Some(base) = methods.iter().find(|method| method.name == name) else {
            let help = did_you_mean(&name, methods.iter().map(|method| method.name.as_str()));
            return Err(parameters.error(format!("`{name}` is swept and not among `methods`")).help(help));
        };
        let mut changes: Vec<String> = written_out(&name, document, shelf)?.into_iter().collect();
        for (parameter, values) in parameters.entries() {
            for value in values.items()? {
                let text = value.to_json();
                let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
                let at = |error: Error| {
                    let placed = value.error(format!("`{parameter}` = {text}: {}", error.message()));
                    match error.remedy() {
                        Some(help) => placed.help(help),
                        None => placed,
                    }
                };
                changes.push(format!("method.{name}.{parameter}={text}"));
                let changed = document.clone().with_overrides(&changes).map_err(at)?;
                changes.pop();
                let own = changed.root().get("method");
                let mut method = Method::read(&name, own.as_ref(), None, &At(value.clone()), shared).map_err(at)?;
                method.name = format!("{name} {parameter}={text}");
                method.title = format!("{}, {parameter} = {text}", base.title);
                check_name(&method.name).and_then(|()| check_title(&method.title)).map_err(at)?;
                if swept.iter().any(|other| other.name == method.name) {
                    return Err(value.error(format!("`{text}` stands twice in `{parameter}`")));
                }
                swept.push(method);
            }
        }
    }
    Ok(swept)
}

/// A strategy from its table, or the default of its kind; places errors inside the table exactly.
pub(super) fn configured<T>(
    kind: Kind,
    section: Option<Section>,
    default: &str,
    validate: fn(&T) -> Result<(), Invalid>,
) -> Result<Box<T>>
where
    T: ?Sized,
    Box<T>: DeserializeOwned,
{
    let read = |value: Value| serde_json::from_value::<Box<T>>(value).map_err(|error| Error::new(error.to_string()));
    let Some(section) = section else {
        return read(serde_json::json!({ "type": default }))
            .map_err(|error| error.help(format!("is the crate with {kind} `{default}` linked into this binary?")));
    };
    let named =
        section.need("type").map_err(|error| error.help(format!("write {kind} = {{ type = \"{default}\" }}")))?;
    let name = named.text()?;
    let Some(card) = strategy::find(kind, name) else {
        let cards = strategy::of_kind(kind);
        let help = did_you_mean(name, cards.iter().map(|card| card.name));
        return Err(named.error(format!("there is no {kind} `{name}`")).help(help));
    };
    section.probe(card.probe)?;
    let strategy = read(section.to_json()).map_err(|error| section.error(error.message()))?;
    validate(&strategy).map_err(|invalid| invalid_at(&section, &invalid))?;
    Ok(strategy)
}
