//! Finding a task's files: local folders first, then the hub.

use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
};

use super::{
    Rows, Task,
    definition::{OneOrMany, Source, nearest, quoted},
    read::Dialect,
};
use crate::{
    Error, Result,
    hub::{self, Cache, HfHub, Hub, Kind, Repo},
};

/// Where data sets are looked for.
pub struct Sources {
    /// Folders in the hub's layout, in order: `ORGANISATION/NAME/CONFIG/SPLIT-00000-of-00001.parquet`, or a cache of `huggingface_hub`.
    pub roots: Vec<PathBuf>,
    /// Where what is in no folder is downloaded from; `None` to stay offline.
    pub hub: Option<Box<dyn Hub>>,
}

/// Something that has rows.
pub trait RowSource {
    /// The rows of a split in stored order, at most `limit` of them.
    fn rows(&self, split: &str, limit: Option<usize>) -> Result<Rows>;
}

impl Sources {
    /// The folders given, those in `W2S_DATA` (separated like `PATH`), the hub's cache, and the hub unless [`hub::is_offline`].
    pub fn from_env(folders: &[PathBuf]) -> Result<Self> {
        let mut roots = folders.to_vec();
        for root in folders {
            if !root.is_dir() {
                return Err(Error::new("not a folder with data sets")
                    .in_file(root)
                    .help("check the path after `--data`"));
            }
        }
        if let Some(paths) = env::var_os("W2S_DATA") {
            roots.extend(env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()));
        }
        roots.extend(hub::cache_folder());
        let hub = HfHub::from_env()?.map(|hub| Box::new(hub) as Box<dyn Hub>);
        Ok(Self { roots, hub })
    }

    /// Every file that a task's rows are read from, fetched if it is not on this machine; none for a generated world.
    ///
    /// # Errors
    /// A file that is not to be had.
    pub fn files(&self, task: &Task) -> Result<Vec<PathBuf>> {
        if task.source.world.is_some() {
            return Ok(Vec::new());
        }
        let files = Files { sources: self, task };
        let super::definition::Splits { train, test, supervise, transfer, .. } = &task.splits;
        let splits = [train, test, supervise, transfer].into_iter().flatten().flat_map(OneOrMany::as_slice);
        let found: Vec<Vec<Found>> = splits.map(|split| files.find(split)).collect::<Result<_>>()?;
        Ok(found.into_iter().flatten().map(|found| found.path).collect())
    }

    /// What a task reads its rows from.
    pub(super) fn open<'a>(&'a self, task: &'a Task) -> Result<Box<dyn RowSource + 'a>> {
        match &task.source.world {
            // A world has a file of its own, found where grids look names up: see `Task::read_from`.
            Some(_) => Err(task.locate(&["source", "world"], Error::new("rows of a generated world are in no file"))),
            None => Ok(Box::new(Files { sources: self, task })),
        }
    }
}

/// Rows from files.
struct Files<'a> {
    sources: &'a Sources,
    task: &'a Task,
}

/// A file of a data set.
struct Found {
    /// What its data set calls it.
    name: String,
    path: PathBuf,
    /// The commit on the hub that it is of.
    commit: Option<String>,
    /// What is to be said of files beside it.
    note: Option<String>,
}

impl Found {
    fn here(name: String, path: PathBuf) -> Self {
        Self { name, path, commit: None, note: None }
    }
}

impl RowSource for Files<'_> {
    fn rows(&self, split: &str, limit: Option<usize>) -> Result<Rows> {
        let dialect = Dialect::of(self.source()).map_err(|(key, error)| self.task.locate(&["source", key], error))?;
        let mut rows = Rows::default();
        for Found { name, path, commit, note } in self.find(split)? {
            let wanted = limit.map(|limit| limit.saturating_sub(rows.len()));
            if wanted == Some(0) {
                break;
            }
            let mut read = Rows::open(&path, &name, &dialect, wanted)?;
            read.files.iter_mut().for_each(|file| file.commit.clone_from(&commit));
            read.notes.extend(note);
            rows.append(read)?;
        }
        Ok(rows)
    }
}

impl Files<'_> {
    fn source(&self) -> &Source {
        &self.task.source
    }

    fn configs(&self) -> Vec<&str> {
        match &self.source().config {
            Some(configs) => configs.as_slice().iter().map(String::as_str).collect(),
            None => vec!["default"],
        }
    }

    /// A file that `source.files` names.
    fn beside_task(&self, file: &str) -> Result<Found> {
        let path = self.task.folder().join(file);
        if path.is_file() {
            return Ok(Found::here(file.to_owned(), path));
        }
        let found = if path.is_dir() { "is a folder" } else { "is not there" };
        let error = self.task.wrong(&["source", "files"], format!("the file `{}` {found}", path.display()));
        Err(error.help("the path starts at the task file's folder"))
    }

    /// The files of a split, all configurations in order.
    fn find(&self, split: &str) -> Result<Vec<Found>> {
        if let Some(id) = &self.source().hub {
            return self.find_on_hub(id, split);
        }
        let folder = self.task.folder();
        match &self.source().path {
            Some(path) if folder.join(path).is_file() => {
                let splits = &self.task.splits;
                if splits.train.as_ref().is_none_or(|names| names.as_slice().len() != 1) || splits.test.is_some() {
                    let message = "one file holds all rows, so there is one split to name";
                    let help = "give `train = \"train\"` and `test_from_train`, or name the files of each split under `source.files`";
                    return Err(self.task.wrong(&["splits"], message).help(help));
                }
                Ok(vec![Found::here(path.to_string_lossy().into_owned(), folder.join(path))])
            }
            Some(path) => {
                let folder = folder.join(path);
                if !folder.is_dir() {
                    let message = format!("`{}` is neither a file nor a folder", folder.display());
                    return Err(self
                        .task
                        .wrong(&["source", "path"], message)
                        .help("the path starts at the task file's folder"));
                }
                let listing = list(&folder)?;
                match self.choose(&listing, split)? {
                    Some(files) => {
                        let mut note = aside(split, &listing, &files);
                        let found =
                            |file: String| Found { note: note.take(), ..Found::here(file.clone(), folder.join(file)) };
                        Ok(files.into_iter().map(found).collect())
                    }
                    None => {
                        let message = format!("`{}` has no split `{split}`", folder.display());
                        Err(self.missing(message, split, &listing))
                    }
                }
            }
            None => match self.source().files.get(split) {
                Some(files) => files.as_slice().iter().map(|file| self.beside_task(file)).collect(),
                None => {
                    let known: Vec<&String> = self.source().files.keys().collect();
                    let error =
                        self.task.wrong(&["splits"], format!("`source.files` names no files of a split `{split}`"));
                    Err(error.help(format!("it has {}", quoted(known))))
                }
            },
        }
    }

    fn find_on_hub(&self, id: &str, split: &str) -> Result<Vec<Found>> {
        let revision = self.source().revision.clone().unwrap_or_else(|| "main".into());
        let repo = Repo { kind: Kind::Dataset, id: id.into(), revision };
        let mut looked = Vec::new();
        for root in &self.sources.roots {
            let places = candidates(root, &repo)?;
            if places.is_empty() {
                looked.push(format!("{} (not there)", root.display()));
            }
            for Place { folder, commit, listing } in places {
                let name = folder.display();
                let files = match self.choose(&listing, split) {
                    Ok(Some(files)) => files,
                    Ok(None) => {
                        looked.push(format!("{name} (no such split)"));
                        continue;
                    }
                    // What a cache has in part, the hub has the rest of.
                    Err(error) if commit.is_some() => {
                        looked.push(format!("{name} ({})", error.message()));
                        continue;
                    }
                    Err(error) => return Err(error.in_file(&folder)),
                };
                match files.iter().filter(|file| !folder.join(file).is_file()).count() {
                    0 => {
                        let follows = commit.as_deref().and_then(|commit| follows(&repo, commit));
                        let mut note = both(aside(split, &listing, &files), follows);
                        let found = |file: String| {
                            let path = folder.join(&file);
                            Found { name: format!("{id}/{file}"), path, commit: commit.clone(), note: note.take() }
                        };
                        return Ok(files.into_iter().map(found).collect());
                    }
                    missing => looked.push(format!("{name} (without {missing} of the split's {} files)", files.len())),
                }
            }
        }
        let configs = self.configs();
        let what = format!("the split `{split}` of `{id}` (config {})", quoted(&configs));
        let places = if looked.is_empty() { "no folder".into() } else { looked.join(", ") };
        let absent = format!("{what} is not on this machine; looked in {places}");
        let ending = if configs == ["default"] { "default".into() } else { configs.join(" or ") };
        let by_hand = format!(
            "put the files from https://huggingface.co/datasets/{id} into DIR/{id}/{ending}/{split}-00000-of-00001.parquet and pass --data DIR"
        );
        let Some(hub) = &self.sources.hub else {
            let help = format!("downloading is off (HF_HUB_OFFLINE): turn it on, or {by_hand}");
            return Err(Error::new(absent).help(help));
        };
        let not_here = |error: Error| error.context(&absent).or_help(&by_hand);
        let hub::Listing { commit, files } = hub.list(&repo).map_err(not_here)?;
        let Some(chosen) = self.choose(&files, split)? else {
            let message = format!("`{id}` has no files for the split `{split}` (config {})", quoted(&configs));
            return Err(self.missing(message, split, &files));
        };
        let mut note = both(aside(split, &files, &chosen), follows(&repo, &commit));
        let fetch = |file: String| {
            let path = hub.fetch(&repo, &commit, &file).map_err(not_here)?;
            Ok(Found { name: format!("{id}/{file}"), path, commit: Some(commit.clone()), note: note.take() })
        };
        chosen.into_iter().map(fetch).collect()
    }

    fn missing(&self, message: String, split: &str, listing: &[String]) -> Error {
        if listing.iter().any(|file| file.ends_with(".arrow")) {
            let message = format!("{message}: it holds Arrow files, as `datasets` writes them with `save_to_disk`");
            return self.task.wrong(&["source"], message).help(
                "write Parquet in Python: `for name, rows in datasets.load_from_disk(FOLDER).items(): rows.to_parquet(f\"NEW/{name}.parquet\")`, and name that folder",
            );
        }
        let names: BTreeSet<String> = listing.iter().filter_map(|file| data_stem(file)).collect();
        let error = self.task.wrong(&["splits"], message);
        match nearest(split, names.iter().map(String::as_str)) {
            _ if names.is_empty() => error.help("it has no data files; name them under `source.files`"),
            Some(name) => error.help(format!("did you mean `{name}`? It has {}", quoted(&names))),
            None => error.help(format!("it has {}", quoted(&names))),
        }
    }

    /// The files of a split among a repository's files: those that the task names, or those named after config and split.
    fn choose(&self, listing: &[String], split: &str) -> Result<Option<Vec<String>>> {
        let files = &self.source().files;
        if !files.is_empty() {
            let named = files.get(split).map_or(&[][..], OneOrMany::as_slice);
            let there = !named.is_empty() && named.iter().all(|file| listing.contains(file));
            return Ok(there.then(|| named.to_vec()));
        }
        let mut chosen = Vec::new();
        for config in self.configs() {
            match split_files(listing, config, split)? {
                Some(files) => chosen.extend(files),
                None => return Ok(None),
            }
        }
        Ok(Some(chosen))
    }
}

/// A folder in which a data set may be.
struct Place {
    folder: PathBuf,
    /// The commit that it is a snapshot of.
    commit: Option<String>,
    /// The data set's files. A snapshot may not have all of them.
    listing: Vec<String>,
}

/// Folders of a root in which a data set may be: a plain mirror, or snapshots of `huggingface_hub`'s cache.
fn candidates(root: &Path, repo: &Repo) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let plain = root.join(&repo.id);
    if plain.is_dir() {
        places.push(Place { listing: list(&plain)?, folder: plain, commit: None });
    }
    for root in [root.to_path_buf(), root.join("hub")] {
        if let Some(hub::Snapshot { folder, commit, files }) = Cache::new(root).snapshot(repo) {
            let listing = files.map_or_else(|| list(&folder), Ok)?;
            places.push(Place { listing, folder, commit: Some(commit) });
        }
    }
    Ok(places)
}

/// What is to be said of files that hold a split, too, and are not read.
fn aside(split: &str, listing: &[String], files: &[String]) -> Option<String> {
    let stems: BTreeSet<String> = files.iter().filter_map(|file| data_stem(file)).collect();
    let is_aside = |file: &&String| !files.contains(file) && data_stem(file).is_some_and(|stem| stems.contains(&stem));
    let aside: Vec<&String> = listing.iter().filter(is_aside).collect();
    (!aside.is_empty()).then(|| {
        format!(
            "the split `{split}` is read from {}; {} left aside (`source.files` names others)",
            quoted(files),
            quoted(aside)
        )
    })
}

/// What to say of a data set that is not pinned: tomorrow, or elsewhere, the same task may have other rows.
fn follows(repo: &Repo, commit: &str) -> Option<String> {
    (!hub::is_commit_hash(&repo.revision)).then(|| {
        format!(
            "`{}` follows `{}`, which is the commit {commit} on this machine; `source.revision = \"{commit}\"` pins it",
            repo.id, repo.revision
        )
    })
}

fn both(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    }
}

/// Files below a folder, as paths with `/` from it, sorted; hidden ones left out, and what lies more than six folders deep.
fn list(folder: &Path) -> Result<Vec<String>> {
    fn visit(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) -> Result<()> {
        let explain = |cause: io::Error| {
            let error = Error::new(format!("cannot look into the folder: {cause}")).in_file(folder);
            match cause.kind() {
                io::ErrorKind::PermissionDenied => {
                    error.help("you may not read it: ask its owner, or give yourself the right (`chmod u+rx`)")
                }
                _ => error,
            }
        };
        for entry in fs::read_dir(folder).map_err(explain)? {
            let entry = entry.map_err(explain)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if name.starts_with('.') {
                continue;
            } else if path.is_dir() {
                if depth < 6 {
                    visit(&path, &format!("{prefix}{name}/"), depth + 1, found)?;
                }
            } else {
                found.push(format!("{prefix}{name}"));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    visit(folder, "", 0, &mut found)?;
    found.sort();
    Ok(found)
}

const EXTENSIONS: [&str; 11] = [
    ".parquet",
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".tsv",
    ".jsonl.gz",
    ".ndjson.gz",
    ".json.gz",
    ".csv.gz",
    ".tsv.gz",
];

/// What `datasets` writes beside the rows.
const BOOKKEEPING: [&str; 4] = ["dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"];

/// `CONFIG/SPLIT` of a data file's name.
fn data_stem(file: &str) -> Option<String> {
    if BOOKKEEPING.contains(&file.rsplit('/').next().unwrap_or(file)) {
        return None;
    }
    let stem = EXTENSIONS.iter().find_map(|extension| file.strip_suffix(extension))?;
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let name = match shard(name) {
        Some((split, ..)) => split,
        None if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) => return Some(folder.into()),
        None => name,
    };
    Some(if folder.is_empty() { name.into() } else { format!("{folder}/{name}") })
}

/// Split, number and count of `SPLIT-00000-of-00001` and `SPLIT-00000-of-00001-HASH`.
fn shard(stem: &str) -> Option<(&str, usize, usize)> {
    let (before, after) = stem.rsplit_once("-of-")?;
    let (split, number) = before.rsplit_once('-')?;
    let count = after.split('-').next()?;
    Some((split, number.parse().ok()?, count.parse().ok()?))
}

/// The files of one split in the layouts that the hub knows, in order: `CONFIG/SPLIT-…`, `CONFIG/SPLIT/0000.parquet` (the hub's own
/// conversion), `CONFIG/SPLIT.jsonl`; for the configuration `default` also `data/…` and the root.
fn split_files(listing: &[String], config: &str, split: &str) -> Result<Option<Vec<String>>> {
    let mut folders = vec![format!("{config}/")];
    if config == "default" {
        folders.extend(["data/".into(), String::new()]);
    }
    for folder in folders {
        let stems = listing.iter().filter_map(|file| {
            let rest = file.strip_prefix(folder.as_str())?;
            let stem = EXTENSIONS.iter().find_map(|extension| rest.strip_suffix(extension))?;
            Some((file, stem))
        });
        let mut shards: Vec<(usize, usize, &String)> = stems
            .clone()
            .filter_map(|(file, stem)| shard(stem).map(|(name, number, count)| (name, number, count, file)))
            .filter(|(name, ..)| *name == split)
            .map(|(_, number, count, file)| (number, count, file))
            .collect();
        shards.sort();
        if let Some(&(_, count, _)) = shards.first() {
            let expected = (0..count).map(|number| (number, count));
            if !shards.iter().map(|(number, count, _)| (*number, *count)).eq(expected) {
                let message =
                    format!("the split `{split}` in `{folder}` is not complete: {} of {count} files", shards.len());
                return Err(
                    Error::new(message).help(format!("there are {}", quoted(shards.iter().map(|(.., file)| file))))
                );
            }
            return Ok(Some(shards.into_iter().map(|(.., file)| file.clone()).collect()));
        }
        let numbered: Vec<String> = stems
            .clone()
            .filter(|(_, stem)| {
                let number = stem.strip_prefix(split).and_then(|rest| rest.strip_prefix('/'));
                number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
            })
            .map(|(file, _)| file.clone())
            .collect();
        if !numbered.is_empty() {
            return Ok(Some(numbered));
        }
        if let Some((file, _)) = stems.clone().find(|(_, stem)| *stem == split) {
            return Ok(Some(vec![file.clone()]));
        }
    }
    Ok(None)
}
