//! Finding a task's files: local folders first, then the hub.

use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
};

use super::{
    Hub, Rows, Task,
    definition::{OneOrMany, Source, nearest, quoted},
    hub::{self, HfHub, Kind, Repo},
    read::Dialect,
};
use crate::{Error, Result};

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
    /// The folders given, those in `W2S_DATA` (separated like `PATH`), the hub's cache, and the hub unless `HF_HUB_OFFLINE` is set.
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

/// A file: what its data set calls it, and where it is.
type Found = (String, PathBuf);

/// The files of a split, as they are called in their data set, and what is to be said of others.
struct Chosen {
    files: Vec<String>,
    notes: Vec<String>,
}

impl Chosen {
    fn found(self, place: impl Fn(String) -> Result<Found>) -> Result<(Vec<Found>, Vec<String>)> {
        Ok((self.files.into_iter().map(place).collect::<Result<_>>()?, self.notes))
    }
}

impl RowSource for Files<'_> {
    fn rows(&self, split: &str, limit: Option<usize>) -> Result<Rows> {
        let dialect = Dialect::of(self.source()).map_err(|(key, error)| self.task.locate(&["source", key], error))?;
        let (files, aside) = self.find(split)?;
        let mut rows = Rows::default();
        rows.notes.extend(aside);
        for (name, path) in files {
            let wanted = limit.map(|limit| limit.saturating_sub(rows.len()));
            if wanted == Some(0) {
                break;
            }
            rows.append(Rows::open(&path, &name, &dialect, wanted)?)?;
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
            return Ok((file.to_owned(), path));
        }
        let found = if path.is_dir() { "is a folder" } else { "is not there" };
        let error = self.task.wrong(&["source", "files"], format!("the file `{}` {found}", path.display()));
        Err(error.help("the path starts at the task file's folder"))
    }

    /// The files of a split, all configurations in order, and what is to be said of others.
    fn find(&self, split: &str) -> Result<(Vec<Found>, Vec<String>)> {
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
                Ok((vec![(path.to_string_lossy().into_owned(), folder.join(path))], Vec::new()))
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
                    Some(chosen) => chosen.found(|file| Ok((file.clone(), folder.join(file)))),
                    None => {
                        let message = format!("`{}` has no split `{split}`", folder.display());
                        Err(self.missing(message, split, &listing))
                    }
                }
            }
            None => match self.source().files.get(split) {
                Some(files) => {
                    let found = files.as_slice().iter().map(|file| self.beside_task(file));
                    Ok((found.collect::<Result<_>>()?, Vec::new()))
                }
                None => {
                    let known: Vec<&String> = self.source().files.keys().collect();
                    let error =
                        self.task.wrong(&["splits"], format!("`source.files` names no files of a split `{split}`"));
                    Err(error.help(format!("it has {}", quoted(known))))
                }
            },
        }
    }

    fn find_on_hub(&self, id: &str, split: &str) -> Result<(Vec<Found>, Vec<String>)> {
        let revision = self.source().revision.as_deref().unwrap_or("main");
        let mut looked = Vec::new();
        for root in &self.sources.roots {
            let folders = candidates(root, id, revision);
            if folders.is_empty() {
                looked.push(format!("{} (not there)", root.display()));
            }
            for folder in folders {
                let listing = list(&folder)?;
                if let Some(chosen) = self.choose(&listing, split).map_err(|error| error.in_file(&folder))? {
                    return chosen.found(|file| Ok((format!("{id}/{file}"), folder.join(file))));
                }
                looked.push(format!("{} (no such split)", folder.display()));
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
        let repo = Repo { kind: Kind::Dataset, id: id.into(), revision: revision.into() };
        let not_here = |error: Error| error.context(&absent).or_help(&by_hand);
        let listing = hub.list(&repo).map_err(not_here)?;
        match self.choose(&listing, split)? {
            Some(chosen) => {
                chosen.found(|file| Ok((format!("{id}/{file}"), hub.fetch(&repo, &file).map_err(not_here)?)))
            }
            None => {
                let message = format!("`{id}` has no files for the split `{split}` (config {})", quoted(&configs));
                Err(self.missing(message, split, &listing))
            }
        }
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
    fn choose(&self, listing: &[String], split: &str) -> Result<Option<Chosen>> {
        let files = &self.source().files;
        if !files.is_empty() {
            let named = files.get(split).map_or(&[][..], OneOrMany::as_slice);
            let there = !named.is_empty() && named.iter().all(|file| listing.contains(file));
            return Ok(there.then(|| Chosen { files: named.to_vec(), notes: Vec::new() }));
        }
        let mut chosen = Chosen { files: Vec::new(), notes: Vec::new() };
        for config in self.configs() {
            let Some(files) = split_files(listing, config, split)? else { return Ok(None) };
            let stem = files.first().and_then(|file| data_stem(file));
            let aside: Vec<&String> =
                listing.iter().filter(|file| data_stem(file) == stem && !files.contains(file)).collect();
            if let (Some(first), false) = (files.first(), aside.is_empty()) {
                chosen.notes.push(format!(
                    "the split `{split}` is read from `{first}`; {} left aside (`source.files` names others)",
                    quoted(aside)
                ));
            }
            chosen.files.extend(files);
        }
        Ok(Some(chosen))
    }
}

/// Folders of a root in which a data set may be: a plain mirror, or snapshots of `huggingface_hub`'s cache.
fn candidates(root: &Path, id: &str, revision: &str) -> Vec<PathBuf> {
    let mut folders = vec![root.join(id)];
    for cache in [root.to_path_buf(), root.join("hub")] {
        let repo = cache.join(format!("datasets--{}", id.replace('/', "--")));
        let snapshots = repo.join("snapshots");
        let commit = fs::read_to_string(repo.join("refs").join(revision));
        folders.push(snapshots.join(commit.as_deref().map_or(revision, str::trim)));
    }
    folders.retain(|folder| folder.is_dir());
    folders
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
