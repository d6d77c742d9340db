//! Where a plan looks data up: read, split and cut once, and remembered.

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc, sync::OnceLock};

use indicatif::{ProgressBar, ProgressFinish};
use serde_json::{Value, json};

use super::{config::Data, found::FoundModel, library::Library, plan::Places};
use crate::{
    Error, Result, learner,
    stage::{self, Begin, DataRef, Finished, Numbers, Predictions, StageId, Store},
    strategy::{Form, Split},
    task::{CountTokens, DataOptions, Example, LabelFile, OverLong, Task, TaskData, cuts_words, fit, world::World},
};

/// A generated world, by its name.
///
/// # Errors
/// No such world, or a file that does not describe one.
pub fn open_world(library: &Library, name: &str) -> Result<World> {
    let document = library.open("worlds", name)?;
    World::parse(document.source_text(), document.file())
}

/// What the memory of looks is asked: `kind` of answer, everything that it depends on beside files, and the files. `None` where the files do
/// not tell whether they have been touched.
pub(super) fn question(kind: &str, about: &Value, files: impl IntoIterator<Item = impl AsRef<Path>>) -> Option<String> {
    // Another build may make something else of the same files.
    static PROGRAM: OnceLock<Option<String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| stage::stamp_of([std::env::current_exe().ok()?])).as_ref()?;
    let files = stage::stamp_of(files)?;
    Some(format!("{kind}-{}", &stage::hash(&json!([about, files, program]))[..32]))
}

/// Where a plan looks things up.
pub(super) struct Desk<'a> {
    pub(super) library: &'a Library,
    pub(super) places: &'a Places,
    pub(super) store: &'a Store,
    /// Worlds that were opened, by name: what several seeds ask of one is made once.
    worlds: RefCell<BTreeMap<String, Rc<World>>>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(library: &'a Library, places: &'a Places, store: &'a Store) -> Self {
        Self { library, places, store, worlds: RefCell::default() }
    }

    fn world(&self, name: &str) -> Result<Rc<World>> {
        if let Some(world) = self.worlds.borrow().get(name) {
            return Ok(world.clone());
        }
        let world = Rc::new(open_world(self.library, name)?);
        self.worlds.borrow_mut().insert(name.to_owned(), world.clone());
        Ok(world)
    }

    /// What decides which data [`read`](Self::read) makes, so that nothing need be read, generated or cut again while it stands.
    pub(super) fn question(
        &self,
        task: &Task,
        options: &DataOptions,
        cut: &Value,
        models: &[&FoundModel],
    ) -> Option<String> {
        let files = self.places.sources.files(task).ok()?;
        let world = task.source.world.as_ref().map(|table| {
            let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
            self.library.open("worlds", name).map(|document| document.source_text().to_owned())
        });
        let world = world.transpose().ok()?;
        question("look", &json!([task, world, options, cut, tokens(models)]), files)
    }

    /// Reads, splits and cuts the data of a task for the two models of a pair, as a stage.
    fn read(
        &self,
        task: &Task,
        options: &DataOptions,
        over_long: OverLong,
        max_tokens: usize,
        models: &[&FoundModel],
    ) -> Result<Finished> {
        let Self { places, store, .. } = self;
        let mut data = match &task.source.world {
            None => task.read(&places.sources, options)?,
            Some(table) => {
                let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
                task.read_from(&*self.world(name)?.source(table, options.seed)?, options)?
            }
        };
        let mut parameters = json!({
            "data": data.fingerprint(),
            "max_tokens": max_tokens,
            "over_long": over_long,
            "tokenizers": tokens(models),
        });
        // Once such examples were dropped; identities of other data stay what they were.
        if over_long == OverLong::Truncate && cuts_words(&data) {
            parameters["last_word"] = "cut".into();
        }
        match store.find_or_begin(&StageId::new("data", 1, &parameters))? {
            Begin::Finished(finished) => Ok(*finished),
            Begin::Ours(workspace) => {
                let models = unlike(models);
                let counters: Vec<CountTokens> = models.iter().map(|model| *model as CountTokens).collect();
                let bar = progress(task, options.seed, &data, counters.len());
                let tick = || bar.iter().for_each(|bar| bar.inc(1));
                fit(&mut data, &counters, max_tokens, over_long, &tick)?;
                data.write(workspace.folder())?;
                for model in models {
                    stage::tokens::write(&data, &model.tokenizer, workspace.folder(), &tick)?;
                }
                let summary = json!({ "fingerprint": data.fingerprint(), "counts": data.counts });
                workspace.finish(parameters, summary, "cpu")
            }
        }
    }

    /// Reads, splits and cuts the data of a task for the two models of a pair and those that supervisors name beside them, unless that has been
    /// done; the cut data are a stage of their own. What another process is about is waited for or, without `wait`, left to it: then there is
    /// nothing.
    fn cut(
        &self,
        task: &Task,
        settings: &Data,
        models: &[&FoundModel],
        seed: u64,
        wait: bool,
    ) -> Result<Option<(Finished, usize)>> {
        let store = self.store;
        let max_tokens = models.iter().map(|model| model.spec.max_positions).fold(settings.max_tokens, usize::min);
        let options = DataOptions {
            order: settings.order,
            seed,
            n_train: settings.n_train,
            n_validation: settings.n_validation,
            n_test: settings.n_test,
            balance: settings.balance,
        };
        // Beside the pair only those count that read in another way.
        let (pair, further) = models.split_at(2.min(models.len()));
        let other = |model: &&&FoundModel| !pair.iter().any(|of_pair| of_pair.reads_as(model));
        let models = &[pair, &unlike(&further.iter().filter(other).copied().collect::<Vec<_>>())].concat();
        let read = || self.read(task, &options, settings.over_long, max_tokens, models);
        let Some(question) = self.question(task, &options, &json!([max_tokens, settings.over_long]), models) else {
            return Ok(Some((read()?, max_tokens)));
        };
        let known = || -> Result<Option<Finished>> {
            let looked = store.known(&question).and_then(|id| id.parse().ok());
            Ok(looked.map(|id| store.find(&id)).transpose()?.flatten())
        };
        if let Some(finished) = known()? {
            return Ok(Some((finished, max_tokens)));
        }
        let what = format!("task `{}` (seed {seed})", task.name());
        let Some(_turn) = store.turn(&question, wait.then_some(&what))? else { return Ok(None) };
        // Whoever had the turn before has found it out.
        let finished = match known()? {
            Some(finished) => finished,
            None => {
                let finished = read()?;
                store.learn(&question, finished.manifest.id.as_str());
                finished
            }
        };
        Ok(Some((finished, max_tokens)))
    }

    /// Has data made that no other process is making: several that plan the same share the work.
    pub(super) fn share(&self, task: &Task, settings: &Data, models: &[&FoundModel], seed: u64) -> Result<()> {
        self.cut(task, settings, models, seed, false).map(|_| ())
    }

    /// Data of a task, [cut](Self::cut), and what is to be said of them.
    pub(super) fn data(
        &self,
        task: &Task,
        settings: &Data,
        models: &[&FoundModel],
        seed: u64,
        notes: &mut Vec<String>,
    ) -> Result<DataRef> {
        let cut = self.cut(task, settings, models, seed, true)?;
        let (finished, max_tokens) = cut.ok_or_else(|| Error::new("the data were left to another process"))?;
        let summary = &finished.manifest.summary;
        for (part, counts) in summary["counts"]["fit"]["parts"].as_object().into_iter().flatten() {
            for (what, words) in [("shortened", "shortened to"), ("dropped", "dropped: longer than")] {
                if let Some(n) = counts[what].as_u64().filter(|n| *n > 0) {
                    notes.push(format!(
                        "{} (seed {seed}, {part}): {n} examples {words} {max_tokens} tokens",
                        task.name()
                    ));
                }
            }
        }
        if settings.n_validation > 0 {
            let held_out = &summary["counts"]["labels"]["validation"];
            if let Some(class) = (0..task.classes.len()).find(|class| held_out[*class].as_u64().is_none_or(|n| n == 0))
            {
                return Err(Error::new(format!(
                    "task `{}` (seed {seed}): none of the examples that `n_validation = {}` holds out is of the class `{}`",
                    task.name(),
                    settings.n_validation,
                    task.classes[class]
                ))
                .help("raise `n_validation` in `[data]`"));
            }
        }
        for note in summary["counts"]["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let note = format!("{}: {note}", task.name());
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        self.described(&finished, task.name(), max_tokens, task.form())
    }

    /// Data as stages use them, from the record of their stage.
    fn described(&self, finished: &Finished, name: &str, max_tokens: usize, form: Form) -> Result<DataRef> {
        let summary = &finished.manifest.summary;
        let fingerprint = summary["fingerprint"].as_str().map(str::to_owned);
        let fingerprint = fingerprint.ok_or_else(|| {
            Error::new("the record of this data set does not say what it holds")
                .in_file(finished.folder.join("manifest.json"))
                .help("remove the folder, and the data are read again")
        })?;
        let counts = &summary["counts"];
        let sum =
            |labels: &Value| labels.as_array().into_iter().flatten().filter_map(Value::as_u64).sum::<u64>() as usize;
        let in_words = |part: &str| counts["references"][part]["examples"].as_u64().unwrap_or(0) as usize;
        let labels = counts["labels"].as_object().into_iter().flatten();
        let examples = labels.map(|(part, labels)| (part.clone(), sum(labels).max(in_words(part)))).collect();
        let form = match form {
            Form::Candidates(_) => Form::Candidates(counts["labels"]["test"].as_array().map_or(0, Vec::len)),
            known => known,
        };
        let (stage, task) = (finished.manifest.id.clone(), name.to_owned());
        let fewer = counts["fewer"].as_u64().unwrap_or(0) as usize;
        let parts = counts["fit"]["parts"].as_object().into_iter().flatten();
        let longest = parts.filter_map(|(_, part)| part["longest"].as_u64()).max().map(|longest| longest as usize);
        Ok(DataRef { task, stage, fingerprint, max_tokens, form, fewer, examples, longest })
    }
}

impl Desk<'_> {
    /// The data of several tasks as those of one, as a stage; of tasks that are not `trained` on, nothing is there for the student.
    pub(super) fn union(&self, name: &str, parts: &[(&DataRef, bool)], models: &[&FoundModel]) -> Result<DataRef> {
        let stages: Vec<(&StageId, bool)> = parts.iter().map(|(data, trained)| (&data.stage, *trained)).collect();
        let parameters = json!({ "union": stages });
        let id = StageId::new("data", 1, &parameters);
        let finished = match self.store.find_or_begin(&id)? {
            Begin::Finished(finished) => *finished,
            Begin::Ours(workspace) => {
                let read = |(data, trained): &(&DataRef, bool)| Ok((data.read(self.store)?, *trained));
                let union = TaskData::union(name, parts.iter().map(read).collect::<Result<_>>()?)?;
                union.write(workspace.folder())?;
                for model in unlike(models) {
                    stage::tokens::write(&union, &model.tokenizer, workspace.folder(), &|| ())?;
                }
                let summary = json!({ "fingerprint": union.fingerprint(), "counts": union.counts });
                workspace.finish(parameters, summary, "cpu")?
            }
        };
        let max_tokens = parts.iter().map(|(data, _)| data.max_tokens).max().unwrap_or(0);
        self.described(&finished, name, max_tokens, parts.first().map_or(Form::Words, |(data, _)| data.form))
    }

    /// A number of each of the student's examples that stands in a column of the data, as a stage; of a suite task by task.
    pub(super) fn field(
        &self,
        column: &str,
        absolute: bool,
        tasks: &[&Task],
        data: &DataRef,
        seed: u64,
    ) -> Result<StageId> {
        let about = json!([tasks, data.stage, column, absolute]);
        let files: Result<Vec<_>> = tasks.iter().map(|task| self.places.sources.files(task)).collect();
        let question = files.ok().and_then(|files| question("field", &about, files.concat()));
        let looked = question.as_ref().and_then(|question| self.store.known(question));
        let known = looked.and_then(|id| id.parse().ok()).map(|id| self.store.find(&id)).transpose()?.flatten();
        if let Some(finished) = known {
            return Ok(finished.manifest.id);
        }
        let whole = data.read(self.store)?;
        let mut numbers = Vec::with_capacity(whole.transfer.len());
        for (task, rows) in tasks.iter().zip(whole.portion_rows(Split::Transfer)) {
            let examples = &whole.transfer[rows];
            // Nobody learns from a task that is left out.
            if examples.is_empty() {
                continue;
            }
            numbers.extend(match &task.source.world {
                None => task.field(&self.places.sources, column, examples)?,
                Some(table) => {
                    let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
                    task.field_from(&*self.world(name)?.source(table, seed)?, column, examples)?
                }
            });
        }
        if absolute {
            numbers.iter_mut().for_each(|number| *number = number.abs());
        }
        let hash = stage::hash(&json!(numbers));
        let parameters = json!({ "data": data.fingerprint, "column": column, "absolute": absolute, "numbers": hash });
        let id = match self.store.find_or_begin(&StageId::new("field", 1, &parameters))? {
            Begin::Finished(finished) => finished.manifest.id,
            Begin::Ours(workspace) => {
                Numbers(numbers).write(workspace.folder())?;
                workspace.finish(parameters, json!({}), "cpu")?.manifest.id
            }
        };
        question.iter().for_each(|question| self.store.learn(question, id.as_str()));
        Ok(id)
    }

    /// The labels of a task's examples that stand in a file, as a stage. `{task}` and `{seed}` in its path are those of the cell; labels of
    /// `others` than the task's examples are let pass or refused.
    pub(super) fn labels(&self, path: &str, others: bool, task: &Task, data: &DataRef, seed: u64) -> Result<StageId> {
        const LABELLED: [Split; 3] = [Split::Transfer, Split::Test, Split::Validation];
        let path = path.replace("{task}", task.name()).replace("{seed}", &seed.to_string());
        let file = LabelFile::read(Path::new(&path), &task.classes)?;
        // Looked at every time: what is refused today must not pass because an equal file passed once.
        let labels = file.of(&data.read(self.store)?, LABELLED.map(Split::name), others)?;
        let parameters = json!({ "file": file.blake3(), "data": data.fingerprint });
        match self.store.find_or_begin(&StageId::new("labels", 1, &parameters))? {
            Begin::Finished(finished) => Ok(finished.manifest.id),
            Begin::Ours(workspace) => {
                for (split, labels) in LABELLED.into_iter().zip(labels).filter(|(_, labels)| !labels.is_empty()) {
                    Predictions::new(labels)?.write(&workspace.folder().join(Predictions::file(split)))?;
                }
                Ok(workspace.finish(parameters, json!({}), "cpu")?.manifest.id)
            }
        }
    }
}

/// Hashes of the models' tokenizers.
fn tokens<'a>(models: &[&'a FoundModel]) -> Vec<&'a str> {
    models.iter().map(|model| model.tokens.as_str()).collect()
}

/// Those of some models that make other tokens than each one before.
fn unlike<'a>(models: &[&'a FoundModel]) -> Vec<&'a FoundModel> {
    let mut unlike: Vec<&FoundModel> = Vec::new();
    for model in models {
        if !unlike.iter().any(|other| other.reads_as(model)) {
            unlike.push(model);
        }
    }
    unlike
}

/// A line that shows how far texts are cut and tokenized, if somebody is there to see it and it takes long enough.
fn progress(task: &Task, seed: u64, data: &TaskData, tokenizers: usize) -> Option<ProgressBar> {
    /// About a second's worth.
    const WORTH_WATCHING: usize = 2 << 20;
    let examples = || data.parts().into_iter().flat_map(|(_, part)| part);
    let bytes: usize = examples().flat_map(Example::texts).map(|(text, _)| text.len()).sum();
    let title = format!("{}  seed {seed}: texts to tokens", task.name());
    let bar = (bytes > WORTH_WATCHING).then(|| learner::bar(&title)).flatten()?;
    // Once to cut, and once for each tokenizer to keep.
    bar.set_length((examples().count() * (1 + tokenizers)) as u64);
    Some(bar.with_finish(ProgressFinish::AndClear))
}
