//! From finished stages to `results.csv`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{
    plan::{Cell, Plan},
    run::Outcome,
};
use crate::{
    Error, Result,
    error::IoContext,
    report::{
        Measure, Predictions, knowledge,
        metrics::{self, ACCURACY},
        results::{CEILING, ResultRow, SCHEMA_VERSION, Status, WEAK, parse, write},
    },
    stage::{self, Finished, Job, REMARKS, StageId, Store, write_atomically},
    strategy::Split,
    task::TaskData,
};

/// The books of a run: which stages are finished, what they measured, and the files that say so.
///
/// `results.csv` is a view of finished stages in the order of the plan, written anew whenever a cell is complete: a grid that was
/// killed and continued ends with the same bytes as one that was not.
#[derive(Debug)]
pub struct Books {
    folder: PathBuf,
    finished: IndexMap<StageId, Finished>,
    /// Rows of finished entries, by their place in the table.
    rows: BTreeMap<usize, Vec<ResultRow>>,
    /// Entries measured while the stages they are compared with were not finished.
    alone: BTreeSet<usize>,
    /// What `grid.json` says.
    record: String,
    /// Every cell that can be in the results, weak models and ceilings included.
    cells: BTreeSet<String>,
    set_aside: Option<PathBuf>,
    truths: BTreeMap<String, Vec<u8>>,
}

/// One entry of the results: a weak model, a student or a ceiling, with one seed.
struct Entry<'a> {
    cell: &'a Cell,
    method: String,
    stage: &'a StageId,
}

impl<'a> Entry<'a> {
    /// The stages that its measures need beside its own: the weak model's for agreement, the ceiling's for PGR, the strong model's own
    /// answers for P(IK).
    fn compared_with(&self) -> Vec<&'a StageId> {
        let Cell { supervision, ceiling, .. } = self.cell;
        if self.stage == supervision {
            vec![]
        } else if self.stage == ceiling {
            vec![supervision]
        } else {
            [supervision, ceiling].into_iter().chain(&self.cell.answers).collect()
        }
    }
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
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn open(plan: &Plan, folder: &Path, finished: IndexMap<StageId, Finished>) -> Result<Self> {
        std::fs::create_dir_all(folder).path("create the results folder", folder)?;
        let record = json!({
            "name": plan.grid.name,
            "config": plan.grid.source,
            "titles": plan.grid.titles(),
            "config_hash": stage::hash(&plan.grid.source),
            "version": env!("CARGO_PKG_VERSION"),
            "commit": crate::commit(),
            "models": plan.models,
            "cells": plan.cells.iter().map(|cell| json!({
                "cell": cell.id(),
                "task": plan.grid.tasks[cell.task].name(),
                "weak": plan.grid.pairs[cell.pair].weak.name,
                "strong": plan.grid.pairs[cell.pair].strong.name,
                "method": plan.grid.methods[cell.method].name,
                "seed": cell.seed,
                "data": cell.data.fingerprint,
                "data_stage": cell.data.folder.file_name().map(|name| name.to_string_lossy()),
                "answers": cell.answers,
                "supervision": cell.supervision,
                "ceiling": cell.ceiling,
                "student": cell.student,
            })).collect::<Vec<_>>(),
        });
        let mut books = Self {
            folder: folder.to_owned(),
            record: serde_json::to_string_pretty(&record).map_err(|error| Error::new(error.to_string()))?,
            cells: entries(plan).iter().map(|entry| blank(plan, entry, None).cell).collect(),
            finished,
            rows: BTreeMap::new(),
            alone: BTreeSet::new(),
            set_aside: None,
            truths: BTreeMap::new(),
        };
        books.set_others_aside()?;
        write_atomically(&folder.join("grid.json"), books.record.as_bytes())?;
        books.update(plan)?;
        Ok(books)
    }

    /// Enters a stage that has just been finished, and writes the results again if that completes an entry.
    ///
    /// # Errors
    /// A stage that cannot be read, or a file that cannot be written.
    pub fn enter(&mut self, plan: &Plan, store: &Store, id: &StageId) -> Result<()> {
        let finished = store.take(id)?;
        self.finished.insert(id.clone(), finished);
        self.update(plan)
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
            if job.inputs().iter().any(|input| broken.contains(input)) {
                broken.insert(id);
            }
        }
        for (place, entry) in entries(plan).iter().enumerate() {
            if broken.contains(entry.stage) && !self.rows.contains_key(&place) {
                let row = blank(plan, entry, None);
                self.rows.insert(place, vec![row.failed(ACCURACY)]);
            }
        }
        self.write()?;
        let labels = plan.labels();
        let mut timings = String::from("stage,what,seconds,device,commit\n");
        for id in plan.jobs.keys() {
            let Some(Finished { manifest, .. }) = self.finished.get(id) else { continue };
            let what = labels.get(id).map_or("", String::as_str);
            timings.push_str(&format!(
                "{id},\"{what}\",{:.1},{},{}\n",
                manifest.seconds, manifest.device, manifest.commit
            ));
        }
        write_atomically(&self.folder.join("timings.csv"), timings.as_bytes())
    }

    /// Where results of cells that this grid does not have were put.
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// Whether there is anything to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Measures every entry that is finished and not yet measured, again when what it is compared with is finished too.
    fn update(&mut self, plan: &Plan) -> Result<()> {
        let mut changed = false;
        for (place, entry) in entries(plan).iter().enumerate() {
            let measured = self.rows.contains_key(&place) && !self.alone.contains(&place);
            if measured || !self.finished.contains_key(entry.stage) {
                continue;
            }
            let compared = entry.compared_with().into_iter().all(|id| self.finished.contains_key(id));
            if compared || !self.rows.contains_key(&place) {
                let rows = self.measure(plan, entry)?;
                self.rows.insert(place, rows);
                changed = true;
            }
            if compared {
                self.alone.remove(&place)
            } else {
                self.alone.insert(place)
            };
        }
        if changed { self.write() } else { Ok(()) }
    }

    /// Copies results that hold cells of another grid, or of this one with other settings, to `earlier/HASH/` before they are overwritten,
    /// be they from an earlier run or from one beside this: nothing that was measured is replaced by less.
    fn set_others_aside(&mut self) -> Result<()> {
        let [path, record, timings] = FILES.map(|name| self.folder.join(name));
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            bytes => bytes.path("read earlier results", &path)?,
        };
        // What cannot be read was not written by this program, or not wholly.
        let rows = std::str::from_utf8(&bytes).ok().and_then(|text| parse(text, &path).ok());
        if rows.is_some_and(|rows| rows.iter().all(|row| self.cells.contains(&row.cell))) {
            return Ok(());
        }
        let record = std::fs::read(&record).unwrap_or_default();
        let config = serde_json::from_slice::<Value>(&record).ok();
        let config = config.and_then(|record| Some(record.get("config_hash")?.as_str()?.to_owned()));
        let content = blake3::hash(&bytes).to_hex().to_string();
        let shelves = self.folder.join("earlier");
        // The same run again, further on; what is there and longer is something else.
        let further =
            |shelf: &PathBuf| shelf.join(FILES[0]).metadata().map_or(0, |file| file.len()) <= bytes.len() as u64;
        let shelf = config.map(|hash| shelves.join(hash.chars().take(8).collect::<String>())).filter(further);
        let shelf = shelf.unwrap_or_else(|| shelves.join(&content[..8]));
        std::fs::create_dir_all(&shelf).path("create a folder", &shelf)?;
        let timings = std::fs::read(timings).unwrap_or_default();
        for (name, bytes) in FILES.into_iter().zip([&bytes, &record, &timings]) {
            if !bytes.is_empty() {
                write_atomically(&shelf.join(name), bytes)?;
            }
        }
        // Results and record belong together at any moment.
        write(&path, &[])?;
        write_atomically(&self.folder.join(FILES[1]), self.record.as_bytes())?;
        self.set_aside = Some(shelf);
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.set_others_aside()?;
        let rows: Vec<ResultRow> = self.rows.values().flatten().cloned().collect();
        write(&self.folder.join("results.csv"), &rows)
    }

    fn predictions(&self, id: &StageId, split: Split) -> Result<Vec<Vec<f32>>> {
        Ok(stage::Predictions::read(&self.finished[id].checked(&format!("{}.csv", split.name()))?)?.into_rows())
    }

    fn measure(&mut self, plan: &Plan, entry: &Entry) -> Result<Vec<ResultRow>> {
        let cell = entry.cell;
        let fingerprint = &cell.data.fingerprint;
        if !self.truths.contains_key(fingerprint) {
            let data = TaskData::read(&cell.data.folder)?;
            self.truths.insert(
                fingerprint.clone(),
                stage::part(&data, Split::Test).iter().map(|example| example.label).collect(),
            );
        }
        let truth = &self.truths[fingerprint];
        let read = |id: &StageId| {
            let there = self.finished.contains_key(id);
            there.then(|| self.predictions(id, Split::Test)).transpose()
        };
        let (own, weak, ceiling) =
            (self.predictions(entry.stage, Split::Test)?, read(&cell.supervision)?, read(&cell.ceiling)?);
        let own = Predictions::new(&own, truth)?;
        let weak = weak.as_ref().map(|rows| Predictions::new(rows, truth)).transpose()?;
        let ceiling = ceiling.as_ref().map(|rows| Predictions::new(rows, truth)).transpose()?;
        let mut measures = metrics::measure(&own, weak.as_ref().filter(|_| entry.stage != &cell.supervision))?;
        if entry.stage == &cell.student {
            // Without one of its ends a gap is undefined.
            let rate = |of: &Predictions| of.accuracy().value;
            let value = weak.as_ref().zip(ceiling.as_ref());
            let value = value.and_then(|(weak, ceiling)| metrics::pgr(rate(weak), rate(&own), rate(ceiling)));
            measures.push(Measure { metric: metrics::PGR, value, n: truth.len() });
        }
        let row = blank(plan, entry, Some(&self.finished[entry.stage]));
        let mut rows: Vec<ResultRow> = measures.iter().map(|measure| row.with(measure)).collect();
        if entry.stage == &cell.student {
            rows.extend(self.knowledge(entry, &row)?);
        }
        Ok(rows)
    }

    /// What a method knew, trusted and changed, if it is of that kind.
    fn knowledge(&self, entry: &Entry, row: &ResultRow) -> Result<Vec<ResultRow>> {
        let (cell, student) = (entry.cell, &self.finished[entry.stage]);
        let mut rows = Vec::new();
        let truths = &self.truths[&cell.data.fingerprint];
        let path = student.file(stage::P_IK_TEST);
        if let Some(answers) = cell.answers.as_ref().filter(|id| path.is_file() && self.finished.contains_key(*id)) {
            let knows = stage::Predictions::read(&student.checked(stage::P_IK_TEST)?)?.into_rows();
            let own = self.predictions(answers, Split::Test)?;
            let right: Vec<u8> =
                own.iter().zip(truths).map(|(row, truth)| u8::from(metrics::argmax(row) == *truth)).collect();
            rows.extend(knowledge::p_ik(&knows, &right)?.iter().map(|measure| row.with(measure)));
        }
        let path = student.file(stage::DECISIONS);
        if path.is_file() && self.finished.contains_key(&cell.supervision) {
            let data = TaskData::read(&cell.data.folder)?;
            let truth: Vec<u8> = stage::part(&data, Split::Transfer).iter().map(|example| example.label).collect();
            let weak = self.predictions(&cell.supervision, Split::Transfer)?;
            let row = ResultRow { split: Split::Transfer, ..row.clone() };
            let measures =
                knowledge::decisions(&stage::read_decisions(&student.checked(stage::DECISIONS)?)?, &weak, &truth);
            rows.extend(measures.iter().map(|measure| row.with(measure)));
        }
        Ok(rows)
    }
}

/// The files of results, beside their logs.
const FILES: [&str; 3] = ["results.csv", "grid.json", "timings.csv"];

/// Every entry of the results, in the order of tables: per task and pair the weak model, the methods, the ceiling; seeds inside.
fn entries(plan: &Plan) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    for group in plan.cells.chunk_by(|a, b| (a.task, a.pair) == (b.task, b.pair)) {
        let mut seen = BTreeSet::new();
        let mut weak = Vec::new();
        let mut ceilings = Vec::new();
        for cell in group {
            if seen.insert(&cell.supervision) {
                let method = &plan.grid.methods[cell.method];
                let first = plan.supervisor_name(&plan.grid.methods[group[0].method]);
                let name = plan.supervisor_name(method);
                // Further supervisors have their own line; PGR goes against the first.
                let name = if name == first { WEAK.to_owned() } else { format!("{WEAK}: {name}") };
                weak.push(Entry { cell, method: name, stage: &cell.supervision });
            }
            if seen.insert(&cell.ceiling) {
                ceilings.push(Entry { cell, method: CEILING.to_owned(), stage: &cell.ceiling });
            }
        }
        entries.extend(weak);
        entries.extend(group.iter().map(|cell| Entry {
            cell,
            method: plan.grid.methods[cell.method].name.clone(),
            stage: &cell.student,
        }));
        entries.extend(ceilings);
    }
    entries
}

/// A row of an entry without a metric.
fn blank(plan: &Plan, entry: &Entry, finished: Option<&Finished>) -> ResultRow {
    let cell = entry.cell;
    let (pair, method) = (&plan.grid.pairs[cell.pair], &plan.grid.methods[cell.method]);
    let is_student = entry.stage == &cell.student;
    let is_weak = entry.stage == &cell.supervision;
    let part = |name: String, there: bool| if there { name } else { String::new() };
    ResultRow {
        run: plan.grid.name.clone(),
        // Pairs may share a ceiling or a weak model; their rows are rows of their own.
        cell: if is_student {
            cell.id()
        } else {
            stage::hash(&json!([entry.stage, entry.method, pair.weak.name, pair.strong.name]))[..16].to_owned()
        },
        task: plan.grid.tasks[cell.task].name().to_owned(),
        weak: pair.weak.name.clone(),
        strong: pair.strong.name.clone(),
        supervisor: part(plan.supervisor_name(method), is_student || is_weak),
        selector: part(stage::strategy_name(&method.selector), is_student),
        refiner: part(stage::strategy_name(&method.refiner), is_student),
        loss: part(stage::strategy_name(&method.loss), is_student),
        method: entry.method.clone(),
        seed: cell.seed,
        split: Split::Test,
        metric: String::new(),
        value: None,
        n: 0,
        status: Status::Undefined,
        device: finished.map_or_else(String::new, |finished| finished.manifest.device.clone()),
        commit: finished.map_or_else(String::new, |finished| finished.manifest.commit.clone()),
        config_hash: entry.stage.to_string(),
        data_hash: cell.data.fingerprint.clone(),
        truth_used: is_student && method.uses_truth(plan.grid.tasks[cell.task].name()),
        schema_version: SCHEMA_VERSION,
    }
}

impl Plan {
    /// Registered name of a method's supervisor.
    fn supervisor_name(&self, method: &super::Method) -> String {
        stage::strategy_name(&method.supervisor)
    }

    /// What every stage is, for people and in the order of the plan: `student world-home js seed 0`.
    pub fn labels(&self) -> IndexMap<StageId, String> {
        let mut known = BTreeMap::new();
        for cell in &self.cells {
            let (pair, method) = (&self.grid.pairs[cell.pair], &self.grid.methods[cell.method]);
            let task = self.grid.tasks[cell.task].name();
            for (id, what) in [
                (&cell.supervision, format!("weak labels  {task}  {}", pair.weak.name)),
                (&cell.ceiling, format!("ceiling  {task}  {}", pair.strong.name)),
                (&cell.student, format!("student  {task}  {}", method.name)),
            ] {
                known.entry(id).or_insert_with(|| format!("{what}  seed {}", cell.seed));
            }
        }
        for job in self.jobs.values() {
            let model = match job {
                Job::FineTune(job) => &job.model,
                Job::Supervise(job) => &job.weak.0,
                _ => continue,
            };
            if let Some(id) = &model.stage {
                known.insert(id, format!("pretrain  {}", model.name));
            }
        }
        let label = |(id, job): (&StageId, &Job)| (id.clone(), known.get(id).cloned().unwrap_or_else(|| job.title()));
        self.jobs.iter().map(label).collect()
    }
}
