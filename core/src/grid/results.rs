//! From finished stages to `results.csv`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{
    config::{Grid, Phase},
    plan::{Cell, Plan},
    recorded::{CellRecord, write_stages},
    run::Outcome,
};
use crate::{
    Error, Result, device,
    error::IoContext,
    locks::Lock,
    report::{
        Measure, Part, Predictions, knowledge,
        measures::{self, Measured},
        metrics::{self, ACCURACY},
        results::{CEILING, FURTHER_WEAK, ResultRow, SCHEMA_VERSION, Status, WEAK, parse, to_bytes},
        seal,
    },
    stage::{self, Finished, Job, Labels, REMARKS, StageId, Store, Truth, write_atomically},
    strategy::Split,
    task::TaskData,
};

/// Bytes of results that a run may write freely. Beyond them `results.csv` is written again when a second has passed for each
/// [`PER_SECOND`] bytes of it, or [`AT_LEAST_EVERY`], and at the end: what a run writes in all stays a small multiple of what it leaves behind.
const FREELY: u64 = 2 << 20;
const PER_SECOND: u64 = 20_000;
const AT_LEAST_EVERY: Duration = Duration::from_secs(600);
/// Predictions of weak models and ceilings that are kept: several students are compared with each.
const KEPT: usize = 16;

/// The books of a run: which stages are finished, what they measured, and the files that say so.
///
/// `results.csv` is a view of finished stages in the order of the plan, written anew when cells are complete: a grid that was killed
/// and continued ends with the same bytes as one that was not. What was measured is never replaced by less: results of this grid whose
/// stages are gone stay, those of another grid go to `earlier/`.
///
/// One run at a time, or several with the same cells: see [`Books::open`].
#[derive(Debug)]
pub struct Books {
    folder: PathBuf,
    finished: IndexMap<StageId, Finished>,
    entries: Vec<Entry>,
    supervisors: Supervisors,
    /// The entries that a stage is needed for.
    concerned: BTreeMap<StageId, Vec<usize>>,
    /// The place of each entry, by what its rows are about.
    places: BTreeMap<[String; 5], usize>,
    /// Rows of entries, by their place in the table.
    rows: BTreeMap<usize, Vec<ResultRow>>,
    /// Entries whose rows are not the last word: measured while the stages they are compared with were not finished, or found in the
    /// file.
    open: BTreeSet<usize>,
    /// Entries whose rows were found in the file, measured by an earlier run or by one beside this.
    found: BTreeSet<usize>,
    /// What `grid.json` says.
    record: String,
    writing: Writing,
    notes: Vec<String>,
    truths: BTreeMap<String, Truths>,
    ends: VecDeque<(StageId, Arc<Labels>)>,
    /// Held shared while this run is at work.
    _running: Lock,
    /// Held while files are replaced.
    gate: Lock,
}

/// What has been written of `results.csv`.
#[derive(Debug)]
struct Writing {
    bytes: u64,
    /// Size and rows of the file as it was written last.
    last: (u64, usize),
    hash: Option<blake3::Hash>,
    at: Instant,
}

/// Ground truth of a task's data.
#[derive(Debug)]
struct Truths {
    transfer: Truth,
    test: Truth,
    /// Which items of the test belong together, if the task says so.
    groups: Option<Vec<u64>>,
}

/// One entry of the results: a weak model, a student or a ceiling, with one seed.
#[derive(Debug)]
struct Entry {
    /// Index into the plan's cells: the first one that it belongs to.
    cell: usize,
    method: String,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Weak,
    Student,
    Ceiling,
}

impl Entry {
    fn stage<'p>(&self, plan: &'p Plan) -> &'p StageId {
        let Cell { supervision, ceiling, student, .. } = &plan.cells[self.cell];
        match self.role {
            Role::Weak => supervision,
            Role::Student => student,
            Role::Ceiling => ceiling,
        }
    }

    /// The stages that its measures need beside its own: the weak model's for agreement, the ceiling's for PGR, the strong model's own
    /// answers for what a judge says of them, and those that weak labels are compared with for what is kept of which.
    fn compared_with<'p>(&self, plan: &'p Plan) -> Vec<&'p StageId> {
        let cell = &plan.cells[self.cell];
        match self.role {
            Role::Weak => vec![],
            Role::Ceiling => vec![&cell.supervision],
            Role::Student => {
                [&cell.supervision, &cell.ceiling].into_iter().chain(&cell.answers).chain(&cell.compared).collect()
            }
        }
    }
}

/// Whether results of about `size` bytes are to be written before the end of a run that has written so much of them already.
fn due(written: u64, size: u64, since: Duration) -> bool {
    written <= FREELY || since >= AT_LEAST_EVERY.min(Duration::from_secs(size / PER_SECOND))
}

/// Rows that hold a number.
fn worth(rows: &[ResultRow]) -> usize {
    rows.iter().filter(|row| row.status == Status::Ok).count()
}

fn owned(entry: [&str; 5]) -> [String; 5] {
    entry.map(str::to_owned)
}

impl Books {
    /// Whether the results of a grid can be written: its folder, or the one that this is made in, and the files inside.
    ///
    /// # Errors
    /// They cannot.
    pub fn check(folder: &Path) -> Result<()> {
        let logs = folder.join("logs");
        for place in [folder, &logs] {
            if place.exists() {
                stage::writable(place)?;
            }
        }
        if let Some(results) = folder.parent().filter(|_| !folder.exists()) {
            stage::writable(results)?;
        }
        for name in FILES {
            let path = folder.join(name);
            if path.is_dir() {
                let message = format!("`{name}` is a folder, and results are to be written there");
                return Err(Error::new(message)
                    .in_file(&path)
                    .help("move it, or choose another folder with `--results DIR`"));
            }
        }
        Ok(())
    }

    /// Opens the results folder of a grid and records what was resolved. Results of cells that this grid does not have are set aside.
    /// The folder belongs to this run, and to others with the same cells, until the books are dropped.
    ///
    /// # Errors
    /// A folder that cannot be written, or in which a run with other cells is at work.
    pub fn open(plan: &Plan, folder: &Path, finished: IndexMap<StageId, Finished>) -> Result<Self> {
        fs::create_dir_all(folder).path("create the results folder", folder)?;
        let record = json!({
            "name": plan.grid.name,
            "config": plan.grid.source,
            "titles": plan.grid.titles(),
            "config_hash": stage::hash(&plan.grid.source),
            "version": env!("CARGO_PKG_VERSION"),
            "commit": crate::commit(),
            "models": plan.models,
            "cells": CellRecord::all(plan),
        });
        let supervisors = Supervisors::new(&plan.grid);
        let entries = entries(plan, &supervisors);
        let mut concerned: BTreeMap<StageId, Vec<usize>> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (place, entry) in entries.iter().enumerate() {
            for stage in entry.compared_with(plan).into_iter().chain([entry.stage(plan)]) {
                concerned.entry(stage.clone()).or_default().push(place);
            }
            places.insert(owned(blank(plan, entry, &supervisors, None).entry()), place);
        }
        let cells: Vec<&[String; 5]> = places.keys().collect();
        let (gate, running) = enter_folder(plan, folder, &stage::hash(&json!([cells, plan.grid.source])))?;
        let mut books = Self {
            folder: folder.to_owned(),
            finished,
            entries,
            supervisors,
            concerned,
            places,
            rows: BTreeMap::new(),
            open: BTreeSet::new(),
            found: BTreeSet::new(),
            record: serde_json::to_string_pretty(&record).map_err(|error| Error::new(error.to_string()))?,
            writing: Writing { bytes: 0, last: (0, 0), hash: None, at: Instant::now() },
            notes: Vec::new(),
            truths: BTreeMap::new(),
            ends: VecDeque::new(),
            _running: running,
            gate,
        };
        for place in 0..books.entries.len() {
            books.update(plan, place)?;
        }
        books.write(true)?;
        write_stages(plan, folder)?;
        Ok(books)
    }

    /// Enters a stage that has just been finished, and what that completes.
    ///
    /// # Errors
    /// A stage that cannot be read, or a file that cannot be written.
    pub fn enter(&mut self, plan: &Plan, store: &Store, id: &StageId) -> Result<()> {
        let finished = store.take(id)?;
        self.finished.insert(id.clone(), finished);
        let mut changed = false;
        for place in self.concerned.get(id).cloned().unwrap_or_default() {
            changed |= self.update(plan, place)?;
        }
        if changed { self.write(false) } else { Ok(()) }
    }

    /// What there was to say after training, each sentence with the methods, or the other stages, that it is about.
    pub fn remarks(&self, plan: &Plan) -> BTreeMap<String, BTreeSet<String>> {
        let mut remarks: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let methods: BTreeMap<&StageId, &str> =
            plan.cells.iter().map(|cell| (&cell.student, plan.grid.methods[cell.method].name.as_str())).collect();
        for (id, label) in plan.labels() {
            let Some(finished) = self.finished.get(&id) else { continue };
            for remark in finished.manifest.summary[REMARKS].as_array().into_iter().flatten().filter_map(Value::as_str)
            {
                let what = methods.get(&id).map_or_else(|| label.replace("  ", " "), |method| (*method).to_owned());
                remarks.entry(remark.to_owned()).or_default().insert(what);
            }
        }
        remarks
    }

    /// Writes the last state: failed cells as such, and how long every stage took.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn close(&mut self, plan: &Plan, outcome: &Outcome) -> Result<()> {
        let mut broken: BTreeSet<&StageId> = outcome.failed.iter().map(|failure| &failure.stage).collect();
        // Inputs stand before what needs them.
        for (id, job) in &plan.jobs {
            if job.reads.iter().any(|input| broken.contains(input)) {
                broken.insert(id);
            }
        }
        for (place, entry) in self.entries.iter().enumerate() {
            if broken.contains(entry.stage(plan)) && !self.rows.contains_key(&place) {
                let row = blank(plan, entry, &self.supervisors, None);
                self.rows.insert(place, vec![row.failed(ACCURACY)]);
            }
        }
        self.write(true)?;
        if !self.found.is_empty() {
            self.notes.push(format!(
                "{} of {} lines of results are those of an earlier run: their stages are not there, and were not made again",
                self.found.len(),
                self.entries.len()
            ));
        }
        let labels = plan.labels();
        let mut timings = csv::Writer::from_writer(vec![]);
        let path = self.folder.join(FILES[2]);
        let fail = |cause: csv::Error| Error::new(format!("cannot write timings: {cause}")).in_file(&path);
        timings.write_record(["stage", "what", "seconds", "device", "commit"]).map_err(fail)?;
        for id in plan.jobs.keys() {
            let Some(Finished { manifest, .. }) = self.finished.get(id) else { continue };
            let what = labels.get(id).map_or("", String::as_str);
            let seconds = format!("{:.1}", manifest.seconds);
            timings.write_record([id.as_str(), what, &seconds, &manifest.device, &manifest.commit]).map_err(fail)?;
        }
        let bytes = timings.into_inner().map_err(|cause| fail(cause.into_error().into()))?;
        write_atomically(&path, &bytes)
    }

    /// What became of results that were there before, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether there is anything to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Measures an entry if it is finished and not yet measured, again when what it is compared with is finished too. Whether its rows
    /// changed.
    fn update(&mut self, plan: &Plan, place: usize) -> Result<bool> {
        let entry = &self.entries[place];
        let there = self.rows.get(&place);
        if there.is_some() && !self.open.contains(&place) || !self.finished.contains_key(entry.stage(plan)) {
            return Ok(false);
        }
        let whole = entry.compared_with(plan).into_iter().all(|id| self.finished.contains_key(id));
        if !whole && there.is_some() && !self.found.contains(&place) {
            return Ok(false);
        }
        let rows = self.measure(plan, place)?;
        if !whole && self.rows.get(&place).is_some_and(|there| worth(there) >= worth(&rows)) {
            return Ok(false);
        }
        self.found.remove(&place);
        if whole {
            self.open.remove(&place);
        } else {
            self.open.insert(place);
        }
        self.rows.insert(place, rows);
        Ok(true)
    }

    /// Looks at the results in the folder before they are replaced, be they from an earlier run or from one beside this: nothing that was
    /// measured is replaced by less.
    ///
    /// Rows of our own entries stay until we have measured these ourselves. A file with cells of another grid, or of this one with other
    /// settings, or that was edited, is copied to `earlier/HASH/`.
    fn keep_what_is_there(&mut self) -> Result<()> {
        let [path, record, timings] = FILES.map(|name| self.folder.join(name));
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            bytes => bytes.path("read earlier results", &path)?,
        };
        if self.writing.hash == Some(blake3::hash(&bytes)) {
            return Ok(());
        }
        let sound = seal::fits(&self.folder, FILES[0], &bytes)?;
        // What cannot be read was not written by this program, or not wholly.
        let rows = std::str::from_utf8(&bytes).ok().and_then(|text| parse(text, &path).ok());
        let mut of_others = rows.is_none();
        let mut ours: BTreeMap<usize, Vec<ResultRow>> = BTreeMap::new();
        for row in rows.into_iter().flatten() {
            match self.places.get(&owned(row.entry())) {
                Some(place) => ours.entry(*place).or_default().push(row),
                None => of_others = true,
            }
        }
        if of_others || !sound {
            self.set_aside(&bytes, &record, &timings, sound)?;
        }
        for (place, rows) in ours.into_iter().filter(|_| sound) {
            let have = self.rows.get(&place).map_or(0, |rows| worth(rows));
            let last_word = self.rows.contains_key(&place) && !self.open.contains(&place);
            if !last_word && worth(&rows) > have {
                self.rows.insert(place, rows);
                self.open.insert(place);
                self.found.insert(place);
            }
        }
        Ok(())
    }

    fn set_aside(&mut self, bytes: &[u8], record: &Path, timings: &Path, sound: bool) -> Result<()> {
        let record = fs::read(record).unwrap_or_default();
        let config = serde_json::from_slice::<Value>(&record).ok();
        let config = config.and_then(|record| Some(record.get("config_hash")?.as_str()?.to_owned()));
        let content = blake3::hash(bytes).to_hex().to_string();
        let shelves = self.folder.join("earlier");
        // The same run again, further on; what is there and longer is something else.
        let further =
            |shelf: &PathBuf| shelf.join(FILES[0]).metadata().map_or(0, |file| file.len()) <= bytes.len() as u64;
        let shelf = config.filter(|_| sound).map(|hash| shelves.join(hash.chars().take(8).collect::<String>()));
        let shelf = shelf.filter(further).unwrap_or_else(|| shelves.join(&content[..8]));
        fs::create_dir_all(&shelf).path("create a folder", &shelf)?;
        let timings = fs::read(timings).unwrap_or_default();
        for (name, bytes) in FILES.into_iter().zip([bytes, &record, &timings]) {
            if !bytes.is_empty() {
                write_atomically(&shelf.join(name), bytes)?;
            }
        }
        // Results and record belong together at any moment.
        seal::write(&self.folder, FILES[0], &to_bytes([], Path::new(FILES[0]))?)?;
        seal::write(&self.folder, FILES[1], self.record.as_bytes())?;
        let why = match sound {
            true => "results.csv had results that this grid, as it is now, does not have",
            false => "results.csv was edited or damaged after it was written, and is written anew",
        };
        let note = format!("{why}; what it was is kept in {}", shelf.display());
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
        Ok(())
    }

    /// Writes results and record, if they changed; unless `now`, only if that is not too much writing for a run of this size.
    fn write(&mut self, now: bool) -> Result<()> {
        let Writing { bytes, last: (size, count), at, .. } = self.writing;
        let rows = self.rows.values().map(Vec::len).sum::<usize>();
        let expected = size * rows as u64 / count.max(1) as u64;
        if !now && !due(bytes, expected, at.elapsed()) {
            return Ok(());
        }
        let path = self.folder.join(FILES[0]);
        // Runs beside this one wait: each keeps what the others have measured.
        self.gate.lock()?;
        let written = self.replace(&path);
        self.gate.unlock()?;
        written
    }

    fn replace(&mut self, path: &Path) -> Result<()> {
        self.keep_what_is_there()?;
        let bytes = to_bytes(self.rows.values().flatten(), path)?;
        if fs::read(self.folder.join(FILES[1])).ok().as_deref() != Some(self.record.as_bytes()) {
            seal::write(&self.folder, FILES[1], self.record.as_bytes())?;
        }
        if fs::read(path).ok().as_ref() != Some(&bytes) {
            seal::write(&self.folder, FILES[0], &bytes)?;
            self.writing.bytes += bytes.len() as u64;
        }
        self.writing.last = (bytes.len() as u64, self.rows.values().map(Vec::len).sum());
        self.writing.hash = Some(blake3::hash(&bytes));
        self.writing.at = Instant::now();
        Ok(())
    }

    fn labels(&self, id: &StageId, split: Split) -> Result<Labels> {
        Labels::checked(&self.finished[id], split)
    }

    /// What a weak model or a ceiling says of the test, if it is finished.
    fn end(&mut self, id: &StageId) -> Result<Option<Arc<Labels>>> {
        if !self.finished.contains_key(id) {
            return Ok(None);
        }
        if let Some((_, kept)) = self.ends.iter().find(|(kept, _)| kept == id) {
            return Ok(Some(kept.clone()));
        }
        let rows = Arc::new(self.labels(id, Split::Test)?);
        self.ends.truncate(KEPT - 1);
        self.ends.push_front((id.clone(), rows.clone()));
        Ok(Some(rows))
    }

    fn measure(&mut self, plan: &Plan, place: usize) -> Result<Vec<ResultRow>> {
        let Entry { cell, role, .. } = self.entries[place];
        let cell = &plan.cells[cell];
        let fingerprint = &cell.data.fingerprint;
        if !self.truths.contains_key(fingerprint) {
            let data = TaskData::read(&plan.store.join(cell.data.stage.as_str()))?;
            let of = |split| Truth::of(&data, split);
            let groups = data.test.iter().map(|example| example.group).collect();
            let truth = Truths { transfer: of(Split::Transfer)?, test: of(Split::Test)?, groups };
            self.truths.insert(fingerprint.clone(), truth);
        }
        let (weak, ceiling) = (self.end(&cell.supervision)?, self.end(&cell.ceiling)?);
        let Truths { test: truth, groups, .. } = &self.truths[fingerprint];
        let entry = &self.entries[place];
        let finished = &self.finished[entry.stage(plan)];
        // Without one of its ends a gap is undefined.
        let rate = |of: &Labels| {
            let right = of.right(truth);
            right.iter().filter(|right| **right).count() as f64 / right.len() as f64
        };
        let ends = weak.as_ref().zip(ceiling.as_ref()).map(|(weak, ceiling)| (rate(weak), rate(ceiling)));
        let scores = |own: &Labels, row: &ResultRow| -> Result<Vec<ResultRow>> {
            let weak = weak.as_deref().filter(|_| role != Role::Weak);
            let mut measures = measure(own, weak, truth)?;
            if role == Role::Student {
                let value = ends.and_then(|(weak, ceiling)| metrics::pgr(weak, rate(own), ceiling));
                measures.push(Measure { metric: metrics::PGR, value, n: truth.len() });
            }
            let measured = Measured { own, weak, truth, groups: groups.as_deref() };
            measures.extend(measures::measure(&measured));
            Ok(measures.iter().map(|measure| row.with(measure)).collect())
        };
        let row = blank(plan, entry, &self.supervisors, Some(finished));
        let own = self.labels(entry.stage(plan), Split::Test)?;
        let mut rows = scores(&own, &row)?;
        if role == Role::Student {
            rows.extend(self.knowledge(cell, &row)?);
            let at = |step: u64| ResultRow { step: Some(step), ..row.clone() };
            let steps = stage::steps_of(finished);
            for step in &steps {
                rows.extend(scores(&Labels::checked_after(finished, *step, Split::Test)?, &at(*step))?);
            }
            // The end is a point of the curve, too.
            let end = finished.manifest.summary[stage::ALL_STEPS].as_u64();
            if let Some(end) = end.filter(|end| !steps.contains(end)) {
                rows.extend(scores(&own, &at(end))?);
            }
        }
        Ok(rows)
    }

    /// What a method knew, trusted and changed, if it is of that kind.
    fn knowledge(&self, cell: &Cell, row: &ResultRow) -> Result<Vec<ResultRow>> {
        let student = &self.finished[&cell.student];
        let mut rows = Vec::new();
        let truth = &self.truths[&cell.data.fingerprint];
        let judged = student.manifest.files.keys().filter_map(|name| Some((name, stage::judged_column(name)?)));
        for (name, column) in judged {
            let Some(answers) = cell.answers.as_ref().filter(|id| self.finished.contains_key(*id)) else { continue };
            let says = stage::Predictions::read(&student.checked(name)?)?.into_rows();
            let right = self.labels(answers, Split::Test)?.right(&truth.test);
            let right: Vec<u8> = right.into_iter().map(u8::from).collect();
            rows.extend(knowledge::judged(column, &says, &right)?.iter().map(|measure| row.with(measure)));
        }
        let path = student.file(stage::DECISIONS);
        if path.is_file() && self.finished.contains_key(&cell.supervision) {
            let weak = self.labels(&cell.supervision, Split::Transfer)?;
            let row = ResultRow { split: Split::Transfer, ..row.clone() };
            let decisions = stage::read_decisions(&student.checked(stage::DECISIONS)?)?;
            // Until the strong model's own answers are there (of a suite they are a stage of each task), decisions are measured without.
            let own = cell.answers.as_ref().filter(|id| **id != cell.student && self.finished.contains_key(*id));
            let own = own.map(|id| self.labels(id, Split::Transfer)).transpose()?;
            let compared = cell.compared.as_ref().filter(|id| self.finished.contains_key(*id));
            let compared = compared.map(|id| self.labels(id, Split::Transfer)).transpose()?;
            let parts =
                own.as_ref().or(compared.as_ref()).filter(|_| decisions.iter().any(|choice| choice.weight == 0.0)).map(
                    |own| {
                        let [own_right, weak_right] = [own, &weak].map(|labels| labels.right(&truth.transfer));
                        let right = own_right.into_iter().zip(weak_right).zip(own.agree(&weak));
                        right.map(|((own, weak), same)| Part::of(own, weak, same)).collect::<Vec<_>>()
                    },
                );
            let mut measures = match (weak, &truth.transfer) {
                (Labels::Soft(weak), Truth::Choices(truth)) => {
                    knowledge::decisions(&decisions, &weak, |row, class| truth.get(row) == Some(&class))
                }
                (weak, truth) => {
                    // The weak answer is the first of those that decisions are about, the strong model's own the second.
                    let right: Vec<Vec<bool>> =
                        std::iter::once(&weak).chain(&own).map(|labels| labels.right(truth)).collect();
                    let first = vec![(0..right.len()).map(|place| f32::from(place == 0)).collect(); weak.len()];
                    knowledge::decisions(&decisions, &first, |row, place| {
                        right.get(usize::from(place)).and_then(|of| of.get(row)) == Some(&true)
                    })
                }
            };
            measures.extend(parts.iter().flat_map(|parts| knowledge::retention(&decisions, parts)));
            rows.extend(measures.iter().map(|measure| row.with(measure)));
            // Of some tasks of a suite nothing may be left out; their average is over all.
            if cell.suite.is_some() && !measures.iter().any(|measure| measure.metric == "kept") {
                rows.push(row.with(&Measure { metric: "kept", value: Some(1.0), n: decisions.len() }));
            }
        }
        Ok(rows)
    }
}

/// Every metric that applies to labels of a test.
fn measure(own: &Labels, weak: Option<&Labels>, truth: &Truth) -> Result<Vec<Measure>> {
    let other = || Error::new("results of another form than the task's are not measured: remove their stages");
    match truth {
        Truth::Choices(classes) => {
            let own = Predictions::new(own.soft().ok_or_else(other)?, classes)?;
            let weak = weak.map(|weak| Predictions::new(weak.soft().ok_or_else(other)?, classes)).transpose()?;
            metrics::measure(&own, weak.as_ref())
        }
        Truth::Texts(references) => {
            let own = own.texts().ok_or_else(other)?.iter().map(|answer| (&answer.answer, answer.cut));
            let weak = weak.map(|weak| weak.texts().ok_or_else(other)).transpose()?;
            let weak: Option<Vec<_>> = weak.map(|weak| weak.iter().map(|answer| &answer.answer).collect());
            metrics::measure_words(&own.collect::<Vec<_>>(), weak.as_deref(), references)
        }
    }
}

/// Takes the results folder of a grid for a run with these cells: the lock that is held while files are replaced, and the one that is
/// held as long as the run is at work. Both are free when the process ends, however it ends.
fn enter_folder(plan: &Plan, folder: &Path, cells: &str) -> Result<(Lock, Lock)> {
    let [gate, running] = RUNNING.map(|name| folder.join(name));
    let path = running.clone();
    let (gate, running) = (Lock::open(&gate)?, Lock::open(&running)?);
    // Nobody else looks at `running` meanwhile.
    gate.lock()?;
    if running.try_lock()? {
        let who = json!({ "cells": cells, "process": std::process::id() }).to_string();
        let told = running.file().set_len(0).and_then(|()| running.file().write_all(who.as_bytes()));
        told.path("write the lock of the results", &path)?;
        // On a network file system others see it only then; where that is not to be had, they say that they know nothing of this run.
        let _ = running.file().sync_all();
        running.unlock()?;
    } else {
        let who = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let who = who.unwrap_or_default();
        if who["cells"].as_str() != Some(cells) {
            let process = who["process"].as_u64().map_or(String::new(), |id| format!(" (process {id})"));
            let name = &plan.grid.name;
            return Err(Error::new(format!("another run of `{name}`, with other settings, is at work{process}"))
                .in_file(folder)
                .help("wait for it to end, or give this one a name of its own: `name=NAME`"));
        }
    }
    running.lock_shared()?;
    gate.unlock()?;
    Ok((gate, running))
}

/// The locks in a folder of results: that which is held while files are replaced, and that of a run as long as it is at work.
pub(super) const RUNNING: [&str; 2] = [".lock", ".running"];

/// The files of results, beside their logs.
const FILES: [&str; 3] = ["results.csv", "grid.json", "timings.csv"];

/// What supervisors are called in results: the registered name, with the parameters that tell one apart where the grid has several of that
/// name.
#[derive(Debug)]
struct Supervisors {
    /// By method.
    usual: Vec<String>,
    /// Of the tasks for which a method has another.
    others: BTreeMap<(usize, String), String>,
}

impl Supervisors {
    fn new(grid: &Grid) -> Self {
        let plain = |supervisor| serde_json::to_value(supervisor).unwrap_or_default();
        let usual: Vec<Value> = grid.methods.iter().map(|method| plain(&method.supervisor)).collect();
        let others = grid.methods.iter().enumerate().flat_map(|(index, method)| {
            method.supervisors.iter().map(move |(task, own)| ((index, task.clone()), plain(own)))
        });
        let others: BTreeMap<(usize, String), Value> = others.collect();
        let all: Vec<&Value> = usual.iter().chain(others.values()).collect();
        let label = |one: &Value| {
            let differs = |key: &String| all.iter().any(|other| other["type"] == one["type"] && other[key] != one[key]);
            let parameters = one.as_object().into_iter().flatten().filter(|(key, _)| differs(key));
            let parameters = parameters
                .map(|(key, value)| format!(" {key}={}", value.as_str().map_or(value.to_string(), str::to_owned)));
            one["type"].as_str().unwrap_or_default().to_owned() + &parameters.collect::<String>()
        };
        let labelled = others.iter().map(|(key, one)| (key.clone(), label(one))).collect();
        Self { usual: usual.iter().map(label).collect(), others: labelled }
    }

    /// The supervisor of a method on a task.
    fn of(&self, method: usize, task: &str) -> &str {
        self.others.get(&(method, task.to_owned())).unwrap_or(&self.usual[method])
    }

    /// Whether there is more than one.
    fn several(&self) -> bool {
        self.usual.iter().chain(self.others.values()).any(|name| *name != self.usual[0])
    }
}

/// Every entry of the results, in the order of tables: per task and pair the weak models, the methods, the ceiling; seeds inside.
fn entries(plan: &Plan, supervisors: &Supervisors) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut from = 0;
    for group in plan.cells.chunk_by(|a, b| (a.task, a.pair) == (b.task, b.pair)) {
        let mut seen = BTreeSet::new();
        let (mut weak, mut students, mut ceilings) = (Vec::new(), Vec::new(), Vec::new());
        let task = plan.grid.tasks[group[0].task].name();
        let first = supervisors.of(group[0].method, task);
        for (cell, of) in (from..).zip(group) {
            if seen.insert(&of.supervision) {
                // Further supervisors have their own line.
                let own = supervisors.of(of.method, task);
                let method = if own == first { WEAK.to_owned() } else { format!("{FURTHER_WEAK}{own}") };
                weak.push(Entry { cell, method, role: Role::Weak });
            }
            students.push(Entry { cell, method: plan.grid.methods[of.method].name.clone(), role: Role::Student });
            if seen.insert(&of.ceiling) {
                ceilings.push(Entry { cell, method: CEILING.to_owned(), role: Role::Ceiling });
            }
        }
        from += group.len();
        entries.extend(weak.into_iter().chain(students).chain(ceilings));
    }
    entries
}

/// The tasks that a cell's student is trained on: its own, or all of its suite.
fn learnt_on<'p>(plan: &'p Plan, cell: &Cell) -> impl Iterator<Item = &'p str> {
    let whole = plan.grid.suite_of(cell.task).filter(|_| cell.suite.is_some());
    let method = &plan.grid.methods[cell.method];
    let tasks = whole.map_or_else(|| vec![cell.task], |(suite, _)| suite.tasks.clone());
    let names = tasks.into_iter().map(|task| plan.grid.tasks[task].name());
    names.filter(|name| !method.without.iter().any(|left_out| left_out == name))
}

/// A row of an entry without a metric.
fn blank(plan: &Plan, entry: &Entry, supervisors: &Supervisors, finished: Option<&Finished>) -> ResultRow {
    let cell = &plan.cells[entry.cell];
    let (pair, method) = (&plan.grid.pairs[cell.pair], &plan.grid.methods[cell.method]);
    let task = plan.grid.tasks[cell.task].name();
    let is_student = entry.role == Role::Student;
    let suite = match entry.role {
        Role::Weak => None,
        Role::Student => cell.suite.as_deref(),
        Role::Ceiling => plan.grid.ceiling_of(cell.task).map(|(suite, _)| suite.name.as_str()),
    };
    let part = |name: String, there: bool| if there { name } else { String::new() };
    let of_phase = |name: fn(&Phase) -> String| method.last().filter(|_| is_student).map(name).unwrap_or_default();
    ResultRow {
        run: plan.grid.name.clone(),
        // Pairs may share a ceiling or a weak model; their rows are rows of their own.
        cell: if is_student {
            cell.id()
        } else {
            let stage = entry.stage(plan);
            stage::hash(&json!([stage, entry.method, pair.weak.name, pair.strong.name]))[..16].to_owned()
        },
        suite: suite.unwrap_or(task).to_owned(),
        task: task.to_owned(),
        weak: pair.weak.name.clone(),
        strong: pair.strong.name.clone(),
        supervisor: part(supervisors.of(cell.method, task).to_owned(), entry.role != Role::Ceiling),
        selector: of_phase(|phase| stage::strategy_name(&phase.selector)),
        refiner: of_phase(|phase| stage::strategy_name(&phase.refiner)),
        loss: of_phase(|phase| stage::strategy_name(&phase.loss)),
        method: entry.method.clone(),
        seed: cell.seed,
        step: None,
        split: Split::Test,
        metric: String::new(),
        value: None,
        n: 0,
        status: Status::Undefined,
        // Which of several it ran on is another thing in every run.
        device: finished.map_or_else(String::new, |finished| device::kind_of(&finished.manifest.device).to_owned()),
        commit: finished.map_or_else(String::new, |finished| finished.manifest.commit.clone()),
        config_hash: entry.stage(plan).to_string(),
        data_hash: cell.data.fingerprint.clone(),
        truth_used: is_student && learnt_on(plan, cell).any(|task| method.uses_truth(task)),
        schema_version: SCHEMA_VERSION,
    }
}

impl Plan {
    /// What every stage is, for people and in the order of the plan: `student world-home js seed 0`.
    pub fn labels(&self) -> IndexMap<StageId, String> {
        let mut known = BTreeMap::new();
        let supervisors = Supervisors::new(&self.grid);
        let several = supervisors.several();
        for cell in &self.cells {
            let (pair, method) = (&self.grid.pairs[cell.pair], &self.grid.methods[cell.method]);
            let task = self.grid.tasks[cell.task].name();
            let by = if several { format!(" by {}", supervisors.of(cell.method, task)) } else { String::new() };
            // Pairs that share a model have stages of their own.
            let (weak, strong) = (&pair.weak.name, &pair.strong.name);
            let of = if self.grid.pairs.len() > 1 { format!("  {weak} → {strong}") } else { String::new() };
            let weak = if of.is_empty() { format!("  {weak}") } else { of.clone() };
            for (id, what) in [
                (&cell.supervision, format!("weak labels{by}  {task}{weak}")),
                (&cell.ceiling, format!("ceiling  {task}  {strong}")),
                (&cell.student, format!("student  {task}  {}{of}", method.name)),
            ] {
                known.entry(id).or_insert_with(|| format!("{what}  seed {}", cell.seed));
            }
        }
        for model in self.jobs.values().filter_map(|job| job.stage.model()) {
            if let Some((id, _)) = StageId::recognise(&model.weights).and_then(|id| self.jobs.get_key_value(&id)) {
                known.insert(id, format!("pretrain  {}", model.name));
            }
        }
        let label =
            |(id, job): (&StageId, &Job)| (id.clone(), known.get(id).cloned().unwrap_or_else(|| job.stage.title()));
        self.jobs.iter().map(label).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_run_writes_a_small_multiple_of_its_results() {
        // Cells of a tenth of a second each.
        let total = |cells: u64, of_cell: u64| {
            let (mut written, mut times, mut last) = (0, 0, 0);
            for done in 1..=cells {
                if done == cells || due(written, done * of_cell, Duration::from_millis(100 * (done - last))) {
                    written += done * of_cell;
                    times += 1;
                    last = done;
                }
            }
            (written, times)
        };
        // A small run is always up to date, a large one costs little, as fast or slow as it may be.
        assert_eq!(total(36, 3000).1, 36);
        let (written, times) = total(1000, 7300);
        assert!(written < 12_000_000 && times > 20, "{written} bytes in {times} times");
        assert!(total(10_000, 7300).0 < 2 * 73_000_000);
        assert!(due(u64::MAX, u64::MAX, AT_LEAST_EVERY));
    }
}
