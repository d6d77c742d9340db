//! A finished cell made again, from what the folders of results hold and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use indexmap::IndexMap;

use super::recorded::{CellRecord, Recorded};
use crate::{
    Error, Result,
    error::IoContext,
    stage::{Finished, Job, MANIFEST, StageId, Store, canonical},
};

/// What is to be made again, and what it was.
#[derive(Debug)]
pub struct Replay {
    jobs: IndexMap<StageId, Job>,
    were: BTreeMap<StageId, Finished>,
    labels: IndexMap<StageId, String>,
}

impl Replay {
    /// Reads what a cell of a grid was made of `from` a store, and puts its data into another one, `to` which the rest is to be made again.
    ///
    /// # Errors
    /// The cell is not finished, something that it was made from is not there or damaged, or stages cannot be read.
    pub fn prepare(grid: &Recorded, cell: &CellRecord, from: &Store, to: &Store) -> Result<Self> {
        let found = |id: &StageId| -> Result<Finished> {
            if let Some(reason) = from.verify(id)? {
                let help = "`w2s run` makes it again";
                return Err(Error::new(format!("stage `{id}` is damaged: {reason}")).help(help));
            }
            from.find(id)?.ok_or_else(|| {
                Error::new(format!("stage `{id}`, of which the cell is made, is not there"))
                    .in_file(from.root())
                    .help("only a finished cell can be made again: `w2s run` finishes it, `w2s status` tells")
            })
        };
        let (mut jobs, mut were, mut labels) = (IndexMap::new(), BTreeMap::new(), IndexMap::new());
        for record in grid.of_cell(cell) {
            were.insert(record.id.clone(), found(&record.id)?);
            if record.stage.is_null() {
                return Err(Error::new("this folder does not say how its stages are made")
                    .in_file(&grid.folder)
                    .help("it is of an earlier version of w2s: `w2s run` of the same grid writes it down, and makes nothing again"));
            }
            labels.insert(record.id.clone(), record.what.clone());
            jobs.insert(record.id.clone(), record.job()?);
        }
        let inputs: BTreeSet<&StageId> = jobs.values().flat_map(|job| &job.reads).collect();
        for id in inputs.into_iter().filter(|id| !jobs.contains_key(*id)) {
            let data = found(id)?;
            let folder = to.root().join(id.as_str());
            for name in data.manifest.files.keys().map(String::as_str).chain([MANIFEST]) {
                let path = folder.join(name);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).path("create a folder", parent)?;
                }
                fs::copy(data.file(name), &path).path("copy data", path)?;
            }
        }
        Ok(Self { jobs, were, labels })
    }

    /// The stages to run.
    pub fn jobs(&self) -> IndexMap<StageId, &Job> {
        self.jobs.iter().map(|(id, job)| (id.clone(), job)).collect()
    }

    /// What they are, for people.
    pub fn labels(&self) -> &IndexMap<StageId, String> {
        &self.labels
    }

    /// Files that were compared.
    pub fn files(&self) -> usize {
        self.were.values().map(|stage| stage.manifest.files.len()).sum()
    }

    /// Commits of w2s that made what there was.
    pub fn commits(&self) -> BTreeSet<&str> {
        self.were.values().map(|stage| stage.manifest.commit.as_str()).collect()
    }

    /// What became different in the store `to`: sentences, inputs first.
    ///
    /// # Errors
    /// Stages that cannot be read.
    pub fn differences(&self, to: &Store) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (id, what) in &self.labels {
            let was = &self.were[id].manifest;
            let Some(is) = to.find(id)?.map(|finished| finished.manifest) else {
                found.push(format!("{what}: stage `{id}` was not made"));
                continue;
            };
            let names: BTreeSet<&String> = was.files.keys().chain(is.files.keys()).collect();
            for name in names {
                let how = match (was.files.get(name), is.files.get(name)) {
                    (Some(was), Some(is)) if was == is => continue,
                    (Some(_), Some(_)) => "differs",
                    (Some(_), None) => "was there and is not made again",
                    (None, _) => "was not there",
                };
                found.push(format!("{what}: `{id}/{name}` {how}"));
            }
            if canonical(&was.summary) != canonical(&is.summary) {
                found.push(format!(
                    "{what}: the summary in `{id}/{MANIFEST}` differs: {} | {}",
                    was.summary, is.summary
                ));
            }
        }
        Ok(found)
    }
}
