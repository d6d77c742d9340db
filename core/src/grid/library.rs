//! Where the names in a grid are looked up: tasks, models, worlds and methods.

use std::path::{Component, Path, PathBuf};

use crate::{Error, Result, document::Document};

/// The configurations that the binary carries, so that the quickstart runs from anywhere: `(path below configs/, text)`.
static EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/configs.rs"));

/// Folders of configurations, looked in first to last, and behind them those that the binary carries.
#[derive(Clone, Debug, Default)]
pub struct Library {
    roots: Vec<PathBuf>,
}

impl Library {
    /// The library of a grid: the folder of the grid's file and those above it that hold the same kinds of folders, then `configs/`.
    pub fn beside(grid: &Path) -> Self {
        let mut roots = Vec::new();
        let folder = grid.parent().unwrap_or(Path::new(""));
        for ancestor in folder.ancestors().take(3) {
            if ["tasks", "models", "worlds", "suites"].iter().any(|kind| ancestor.join(kind).is_dir()) {
                roots.push(ancestor.to_owned());
            }
        }
        let configs = PathBuf::from("configs");
        if configs.is_dir() && !roots.contains(&configs) {
            roots.push(configs);
        }
        Self { roots }
    }

    /// Reads the configuration `<kind>/<name>.toml`, e.g. `tasks/sst2.toml`.
    ///
    /// # Errors
    /// Something that is no name, no such file in any folder (with the names there are), or a file that does not parse.
    pub fn open(&self, kind: &str, name: &str) -> Result<Document> {
        if !is_name(name) {
            let singular = kind.trim_end_matches('s');
            return Err(Error::new(format!("`{name}` is not the name of a {singular}"))
                .help(format!("a name, not a path: it is looked up as `{kind}/NAME.toml`")));
        }
        let file = Path::new(kind).join(format!("{name}.toml"));
        if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::new(format!("`{name}` leads out of the folder of {kind}"))
                .help(format!("give the name of a file in a folder `{kind}`, without `.toml`")));
        }
        self.open_file(&file).unwrap_or_else(|| {
            let names = self.names(kind);
            let singular = kind.trim_end_matches('s');
            Err(Error::new(format!("there is no {singular} `{name}`"))
                .help(crate::document::did_you_mean(name, names.iter().map(String::as_str))))
        })
    }

    /// Reads a configuration by its path below the folders, if there is one.
    pub fn open_file(&self, file: &Path) -> Option<Result<Document>> {
        for root in &self.roots {
            let path = root.join(file);
            if path.is_file() {
                return Some(Document::open(&path));
            }
        }
        let key = file.to_string_lossy();
        let (name, text) = EMBEDDED.iter().find(|(name, _)| *name == key)?;
        Some(Document::parse(Path::new("configs").join(name), text))
    }

    /// Every name of a kind (`tasks`, `models`, `worlds`, `suites`), sorted.
    pub fn names(&self, kind: &str) -> Vec<String> {
        let mut names: Vec<String> = EMBEDDED
            .iter()
            .filter_map(|(path, _)| {
                path.strip_prefix(kind)?.strip_prefix('/')?.strip_suffix(".toml").map(str::to_owned)
            })
            .collect();
        for root in &self.roots {
            for entry in std::fs::read_dir(root.join(kind)).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|extension| extension == "toml") {
                    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
                    names.extend(stem.filter(|stem| is_name(stem)));
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }
}

/// Whether a text may stand in a file's name and in a table: one part of a path, with nothing that a terminal obeys.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| !c.is_control() && c != '/' && c != '\\';
    !text.is_empty() && text.len() <= 200 && !text.starts_with('.') && text.chars().all(plain)
}

/// A grid that the binary carries, by name or path: `quickstart` or `configs/quickstart.toml`.
pub fn embedded_grid(name: &str) -> Option<Result<Document>> {
    let name = name.strip_prefix("configs/").unwrap_or(name).trim_end_matches(".toml");
    let (path, text) = EMBEDDED.iter().find(|(path, _)| path.strip_suffix(".toml") == Some(name))?;
    Some(Document::parse(Path::new("configs").join(path), text))
}
