//! What is in a store, which grids need it, and what can go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{
    identity::StageId,
    manifest::{Look, Manifest, files_below},
    store::{CHECKPOINTS, LOCKS, MAKING, QUARANTINE, STORE, Store, entries, remove},
};
use crate::{Error, Result, error::IoContext};

/// A stage in a store.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its identity, which is the name of its folder.
    pub id: StageId,
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When it was finished.
    pub finished: SystemTime,
    /// Folders of results, relative to the folder of all results, whose grids have it among their stages or need it for one of them.
    pub grids: BTreeSet<String>,
    /// What its manifest says, if that can be read.
    pub manifest: Option<Manifest>,
}

/// A folder of the store that is no stage: what was put aside as damaged, or checkpoints.
#[derive(Clone, Debug)]
pub struct Shelved {
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When it was put there.
    pub since: SystemTime,
}

impl Store {
    /// Every stage, in the order of their names. Sizes and manifests are read, bytes are not verified.
    ///
    /// # Errors
    /// A folder that cannot be read, or a `grid.json` that cannot: nobody knows what its grid needs.
    pub fn inventory(&self) -> Result<Vec<Entry>> {
        let mut stages = Vec::new();
        for (name, folder) in entries(self.root())? {
            if name.starts_with('.') || [LOCKS, QUARANTINE].contains(&name.as_str()) || !folder.is_dir() {
                continue;
            }
            let Ok(id) = name.parse();
            let manifest = Manifest::read(&folder);
            let finished = match &manifest {
                Some(manifest) => SystemTime::UNIX_EPOCH + Duration::from_secs(manifest.finished),
                None => changed(&folder)?,
            };
            stages.push(Entry { id, bytes: size(&folder)?, folder, finished, grids: BTreeSet::new(), manifest });
        }
        let manifests: Vec<_> = stages.iter().filter_map(|stage| Some((&stage.id, stage.manifest.as_ref()?))).collect();
        let mut grids: BTreeMap<StageId, BTreeSet<String>> = BTreeMap::new();
        for (grid, record) in self.grids()? {
            for id in needed(&record, &manifests) {
                grids.entry(id.clone()).or_default().insert(grid.clone());
            }
        }
        for stage in &mut stages {
            stage.grids = grids.remove(&stage.id).unwrap_or_default();
        }
        Ok(stages)
    }

    /// Damaged stages that were put aside.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn quarantined(&self) -> Result<Vec<Shelved>> {
        let shelf = entries(&self.root().join(QUARANTINE))?.into_iter();
        let folder =
            |(_, folder): (String, PathBuf)| Ok(Shelved { bytes: size(&folder)?, since: changed(&folder)?, folder });
        shelf.map(folder).collect()
    }

    /// Checkpoints of trainings that are under way, or wait to be taken up.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<Shelved>> {
        let waiting = entries(self.root())?.into_iter().filter(|(name, _)| name.starts_with(CHECKPOINTS));
        let folder =
            |(_, folder): (String, PathBuf)| Ok(Shelved { bytes: size(&folder)?, since: changed(&folder)?, folder });
        waiting.map(folder).collect()
    }

    /// What is wrong with a stage's bytes, if anything is. A damaged stage stays where it is, and is made again by the next run that needs it.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn verify(&self, id: &StageId) -> Result<Option<String>> {
        Ok(match self.look(id, true)? {
            (_, Look::Damaged(reason)) => {
                self.forget(id);
                Some(reason)
            }
            _ => None,
        })
    }

    /// Removes a stage or a quarantined one. Killed meanwhile, it leaves what [`sweep`](Self::sweep) removes. To be done
    /// [`alone`](Self::alone).
    ///
    /// # Errors
    /// A folder that cannot be removed.
    pub fn discard(&self, folder: &Path) -> Result<()> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let out = self.root().join(format!("{MAKING}{name}-removed"));
        fs::rename(folder, &out).path("remove a stage", folder)?;
        remove(&out)
    }

    /// As [`discard`](Self::discard), if there is such a folder.
    pub(super) fn discard_if_there(&self, folder: &Path) -> Result<()> {
        if folder.exists() { self.discard(folder) } else { Ok(()) }
    }

    /// The records of all grids beside the store: folder and `grid.json`.
    fn grids(&self) -> Result<Vec<(String, Value)>> {
        let Some(results) = self.root().parent() else { return Ok(Vec::new()) };
        let read = |(name, folder): (String, PathBuf)| {
            let path = folder.join(GRID);
            let text = fs::read(&path).path("read what a grid needs", &path)?;
            let record = serde_json::from_slice(&text).map_err(|error| {
                Error::new(format!("cannot tell which stages this grid needs: {error}"))
                    .in_file(&path)
                    .help("run its grid again, or remove the file if its results are no longer wanted")
            })?;
            Ok((name, record))
        };
        grids_in(results)?.into_iter().map(read).collect()
    }
}

/// Name of the record in a grid's folder of results.
pub const GRID: &str = "grid.json";

/// The folders of all grids in a folder of results, and their names relative to it, in order; what an `earlier` run had among them.
///
/// # Errors
/// A folder that cannot be read.
pub fn grids_in(results: &Path) -> Result<Vec<(String, PathBuf)>> {
    /// `results/reference/NAME/earlier/HASH`.
    const DEPTH: usize = 5;
    let mut folders = vec![(results.to_owned(), 0)];
    let mut grids = Vec::new();
    while let Some((folder, depth)) = folders.pop() {
        if folder.join(GRID).is_file() {
            let name = folder.strip_prefix(results).unwrap_or(&folder);
            grids.push((name.to_string_lossy().into_owned(), folder.clone()));
        }
        if depth < DEPTH {
            let below = entries(&folder)?.into_iter().map(|(_, path)| path);
            let below = below.filter(|path| path.is_dir() && !path.is_symlink() && *path != results.join(STORE));
            folders.extend(below.map(|path| (path, depth + 1)));
        }
    }
    grids.sort();
    Ok(grids)
}

/// The stages that a grid's record names, and those that these were made from. Rather too many than too few: a stage counts as named by
/// its identity, data by their fingerprint, and what a supervisor fine-tuned by its model, data and seed.
fn needed<'a>(record: &Value, manifests: &[(&'a StageId, &'a Manifest)]) -> BTreeSet<&'a StageId> {
    let mut named = BTreeSet::new();
    strings(&record["cells"], &mut named);
    let mut needed: BTreeSet<&StageId> = BTreeSet::new();
    loop {
        let before = needed.len();
        for (id, manifest) in manifests {
            let fingerprint = manifest.summary["fingerprint"].as_str();
            let is_named = named.contains(id.as_str()) || fingerprint.is_some_and(|it| named.contains(it));
            if !needed.contains(id) && (is_named || trained_for(manifest, &needed, manifests)) {
                needed.insert(id);
                strings(&manifest.parameters, &mut named);
            }
        }
        if needed.len() == before {
            return needed;
        }
    }
}

/// Whether a fine-tuned model is that of a supervisor whose labels are needed: these name the model, not the stage.
fn trained_for(manifest: &Manifest, needed: &BTreeSet<&StageId>, manifests: &[(&StageId, &Manifest)]) -> bool {
    let own = &manifest.parameters;
    // What a model was fine-tuned on is a parameter of that kind of stage alone.
    if own["on"].is_null() {
        return false;
    }
    let same = |other: &Value| {
        ["weak", "strong"].iter().any(|role| other[role]["model"] == own["model"])
            && ["data", "seed"].iter().all(|key| other[key] == own[key])
    };
    manifests.iter().any(|(id, other)| needed.contains(id) && same(&other.parameters))
}

fn strings(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            into.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, into)),
        Value::Object(map) => map.values().for_each(|item| strings(item, into)),
        _ => {}
    }
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for path in files_below(folder)? {
        bytes += fs::symlink_metadata(&path).path("look at a file", &path)?.len();
    }
    Ok(bytes)
}

fn changed(path: &Path) -> Result<SystemTime> {
    fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).path("look at a folder", path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stage::{Begin, STORE};

    fn make(store: &Store, kind: &str, parameters: Value, summary: Value) -> StageId {
        let id = StageId::new(kind, 1, &parameters);
        let Begin::Ours(workspace) = store.begin(&id).unwrap() else { panic!("{id} is there") };
        fs::write(workspace.folder().join("a"), "12345").unwrap();
        workspace.finish(parameters, summary, "cpu").unwrap();
        id
    }

    #[test]
    fn what_a_grid_needs_is_everything_that_its_stages_came_from() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join(STORE)).unwrap();
        let data = make(&store, "data", json!({"data": "raw"}), json!({"fingerprint": "f1"}));
        let auxiliary = make(&store, "data", json!({"data": "other"}), json!({"fingerprint": "f2"}));
        let pretrain = make(&store, "pretrain", json!({"seed": 0}), json!({}));
        let model = json!({"weights": pretrain, "head": {}});
        let recipe = json!({"epochs": 1});
        let tuned = |seed| json!({"model": model, "recipe": recipe, "data": "f1", "on": "supervise", "seed": seed});
        let weak = make(&store, "fine-tune", tuned(0), json!({}));
        let of_another_seed = make(&store, "fine-tune", tuned(1), json!({}));
        let both = json!({"model": model, "recipe": recipe});
        let labels =
            make(&store, "supervise", json!({"weak": both, "strong": both, "data": "f1", "seed": 0}), json!({}));
        let answers = make(&store, "answers", json!({"data": "f2"}), json!({}));
        let student = make(&store, "student", json!({"supervision": labels, "known": {"answers": answers}}), json!({}));
        let nobody = json!({"model": model, "recipe": recipe, "data": "f1", "seed": 0, "supervision": labels});
        let nobody = make(&store, "student", nobody, json!({}));

        let grid = folder.path().join("deep/grid");
        fs::create_dir_all(&grid).unwrap();
        let record = json!({"cells": [{"student": student, "seed": 0}]});
        fs::write(grid.join("grid.json"), record.to_string()).unwrap();
        let inventory = store.inventory().unwrap();
        assert_eq!(inventory.len(), 9);
        let needed: BTreeSet<&StageId> = inventory.iter().filter(|e| !e.grids.is_empty()).map(|e| &e.id).collect();
        assert_eq!(needed, [&data, &auxiliary, &pretrain, &weak, &labels, &answers, &student].into());
        assert!(!needed.contains(&of_another_seed) && !needed.contains(&nobody));
        let entry = inventory.iter().find(|entry| entry.id == student).unwrap();
        assert_eq!(entry.grids, ["deep/grid".to_owned()].into());
        assert!(entry.bytes > 5 && entry.finished <= SystemTime::now());

        store.discard(&store.root().join(nobody.as_str())).unwrap();
        assert!(store.find(&nobody).unwrap().is_none() && store.inventory().unwrap().len() == 8);
        // Nobody knows what this grid needs.
        fs::write(grid.join("grid.json"), "{").unwrap();
        assert!(store.inventory().unwrap_err().remedy().is_some());
    }

    #[test]
    fn verifying_finds_what_a_look_does_not_and_moves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join(STORE)).unwrap();
        let id = make(&store, "test", json!({}), json!({}));
        assert_eq!(store.verify(&id).unwrap(), None);
        let file = store.root().join(id.as_str()).join("a");
        fs::write(&file, "12346").unwrap();
        assert!(store.verify(&id).unwrap().unwrap().contains("`a`"));
        assert!(file.exists() && store.quarantined().unwrap().is_empty());
        assert!(store.take(&id).is_err());
        assert_eq!(store.quarantined().unwrap().len(), 1);
        assert!(store.inventory().unwrap().is_empty());
    }
}
