//! What failed in a run, and how often: `failures.jsonl` beside the results, one line of JSON for each stage that has not been done since.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::run::Failure;
use crate::{
    Error, Result,
    error::{ErrorKind, IoContext},
    locks::Lock,
    stage::{StageId, any_path, write_atomically},
};

/// Name of the file.
const FAILURES: &str = "failures.jsonl";

/// A stage that failed, or the run itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which stage; none if the run itself failed.
    pub stage: Option<StageId>,
    /// What it is, for people.
    pub what: String,
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// What went wrong.
    pub message: String,
    /// The likely remedy.
    pub help: Option<String>,
    /// How often it has been tried and failed, over all runs.
    pub attempts: usize,
    /// What its process wrote.
    pub log: Option<Log>,
}

impl Record {
    /// The failure that stands here of a stage.
    pub fn failure(&self, stage: &StageId) -> Failure {
        Failure {
            stage: stage.clone(),
            kind: self.kind,
            message: self.message.clone(),
            help: self.help.clone(),
            log: self.log.as_ref().map(|log| log.0.clone()).unwrap_or_default(),
        }
    }
}

/// Path of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Log(#[serde(with = "any_path")] pub PathBuf);

/// The records of a grid's folder of results.
#[derive(Debug)]
pub struct Failures {
    path: PathBuf,
    records: IndexMap<StageId, Record>,
}

impl Failures {
    /// Where they are recorded in a grid's folder of results.
    pub fn file_in(folder: &Path) -> PathBuf {
        folder.join(FAILURES)
    }

    /// What is recorded in a folder of results; a line that is no record is none.
    pub fn recorded(folder: &Path) -> Vec<Record> {
        let text = std::fs::read_to_string(Self::file_in(folder)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Reads what failed in earlier runs and `is_open` still. A line that is no record is left behind, as are failures of a run itself.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn open(folder: &Path, is_open: impl Fn(&StageId) -> bool) -> Result<Self> {
        let path = Self::file_in(folder);
        let records = Self::recorded(folder).into_iter().filter_map(|record| Some((record.stage.clone()?, record)));
        let mut failures = Self { records: records.filter(|(id, _)| is_open(id)).collect(), path };
        if failures.path.exists() {
            failures.write()?;
        }
        Ok(failures)
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a failure; `what` is the stage for people.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn enter(&mut self, failure: &Failure, what: &str) -> Result<()> {
        let attempts = self.records.get(&failure.stage).map_or(0, |record| record.attempts) + 1;
        let record = Record {
            stage: Some(failure.stage.clone()),
            what: what.to_owned(),
            kind: failure.kind,
            message: failure.message.clone(),
            help: failure.help.clone(),
            attempts,
            log: Some(Log(failure.log.clone())),
        };
        self.records.insert(failure.stage.clone(), record);
        self.write()
    }

    /// Takes out a stage that is done.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn done(&mut self, id: &StageId) -> Result<()> {
        if self.records.shift_remove(id).is_some() { self.write() } else { Ok(()) }
    }

    /// Whether a stage of the grid whose results are in `folder` is on record.
    pub fn has(folder: &Path, id: &StageId) -> bool {
        // Every line is a whole record.
        std::fs::read_to_string(Self::file_in(folder)).is_ok_and(|text| text.contains(&format!("\"{id}\"")))
    }

    /// Adds a failure for a process that does one stage of a grid, beside others that do others.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn add(folder: &Path, failure: &Failure, what: &str) -> Result<()> {
        Self::alone(folder, |failures| failures.enter(failure, what))
    }

    /// As [`done`](Self::done), for a process that does one stage of a grid.
    ///
    /// # Errors
    /// As [`done`](Self::done).
    pub fn strike_out(folder: &Path, id: &StageId) -> Result<()> {
        if Self::has(folder, id) { Self::alone(folder, |failures| failures.done(id)) } else { Ok(()) }
    }

    /// Changes the records while no other process does.
    fn alone(folder: &Path, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        std::fs::create_dir_all(folder).path("create the results folder", folder)?;
        let path = folder.join(".failures.lock");
        let lock = Lock::open(&path)?;
        lock.lock()?;
        change(&mut Self::open(folder, |_| true)?)
    }

    /// The stages that failed and are not done, with what is known of each.
    pub fn stages(&self) -> impl Iterator<Item = (&StageId, &Record)> {
        self.records.iter()
    }

    /// How often a stage has failed.
    pub fn attempts(&self, id: &StageId) -> usize {
        self.records.get(id).map_or(0, |record| record.attempts)
    }

    fn write(&mut self) -> Result<()> {
        if self.records.is_empty() {
            // There may be none.
            let _ = std::fs::remove_file(&self.path);
            return Ok(());
        }
        let mut text = String::new();
        for record in self.records.values() {
            let line =
                serde_json::to_string(record).map_err(|error| Error::new(error.to_string()).in_file(&self.path))?;
            text.push_str(&line);
            text.push('\n');
        }
        write_atomically(&self.path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stage_is_recorded_until_it_is_done_and_every_attempt_counts() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = [1, 2].map(|n| StageId::new("test", 1, &json!({ "n": n })));
        let fails = |stage: &StageId, kind| Failure {
            stage: stage.clone(),
            kind,
            message: "it broke\nin two".to_owned(),
            help: None,
            log: folder.path().join("logs/x.log"),
        };
        let lines = || std::fs::read_to_string(folder.path().join(FAILURES)).unwrap();
        let mut failures = Failures::open(folder.path(), |_| true).unwrap();
        failures.enter(&fails(&first, ErrorKind::OutOfMemory), "the first").unwrap();
        failures.enter(&fails(&second, ErrorKind::NotFinite), "the second").unwrap();
        assert!(
            lines().contains(r#""kind":"out-of-memory","message":"it broke\nin two","help":null,"attempts":1,"log":""#),
            "{}",
            lines()
        );

        // A run that ended without memory added a line of its own, and perhaps a part of one.
        let of_run = "{\"stage\":null,\"what\":\"the run\",\"kind\":\"out-of-memory\",\"message\":\"m\",\"help\":\"h\",\"attempts\":1,\"log\":null}";
        assert_eq!(serde_json::from_str::<Record>(of_run).unwrap().kind, ErrorKind::OutOfMemory);
        std::fs::write(folder.path().join(FAILURES), format!("{}{of_run}\n{{\"stage", lines())).unwrap();
        let mut failures = Failures::open(folder.path(), |id| *id != second).unwrap();
        assert_eq!(lines().lines().count(), 1);
        failures.enter(&fails(&first, ErrorKind::Killed), "the first").unwrap();
        assert!(lines().contains("\"attempts\":2") && lines().contains("killed"), "{}", lines());
        assert_eq!((failures.attempts(&first), failures.attempts(&second)), (2, 0));
        failures.done(&first).unwrap();
        assert!(!folder.path().join(FAILURES).exists());
    }
}
