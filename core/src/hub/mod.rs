//! The Hugging Face hub, and the folder in which Python's `huggingface_hub` keeps what it downloaded.
//!
//! [`Cache`] reads and writes that folder in its own layout, so that neither program downloads what the other has; [`HfHub`] downloads into
//! it. Both follow the environment variables of the Python client. What a server says is not trusted: its answers are bounded in length
//! and time, its names become paths only after they were checked, and a file is put in its place only when it is whole.

mod cache;
mod client;
mod settings;
#[cfg(test)]
mod tests;

use std::path::{Component, Path, PathBuf};

pub use self::{
    cache::{Cache, Snapshot},
    client::HfHub,
    settings::{cache_folder, is_offline},
};
use crate::{Error, Result};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A data set.
    Dataset,
    /// A model.
    Model,
}

impl Kind {
    /// As in the hub's addresses and in the names of the cache's folders.
    fn plural(self) -> &'static str {
        match self {
            Self::Dataset => "datasets",
            Self::Model => "models",
        }
    }
}

/// A repository on the hub at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// What it holds.
    pub kind: Kind,
    /// `organisation/name`.
    pub id: String,
    /// Commit, tag or branch.
    pub revision: String,
}

impl Repo {
    /// An error if id or revision cannot be those of a repository: both become parts of addresses and paths.
    fn check(&self) -> Result<()> {
        let allowed = |part: &str| {
            let inner = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            inner && !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("--") && !part.contains("..")
        };
        if self.id.split('/').count() > 2 || !self.id.split('/').all(allowed) {
            let message = format!("`{}` is not the id of a repository on the hub", printable(&self.id));
            return Err(Error::new(message).help("ids look like `organisation/name`"));
        }
        if !is_inside(&self.revision) {
            let message = format!("`{}` is not a revision of `{}`", printable(&self.revision), self.id);
            return Err(Error::new(message).help("a revision is a commit, a tag or a branch, such as `main`"));
        }
        Ok(())
    }
}

/// What a repository has at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision stood for.
    pub commit: String,
    /// Its files, as paths with `/` from its root.
    pub files: Vec<String>,
}

/// A place that repositories can be downloaded from.
pub trait Hub: Send + Sync {
    /// Finds the commit that a revision stands for, and its files. A commit's files never change, so they are asked for once.
    ///
    /// # Errors
    /// No such repository or revision, no permission, or no answer.
    fn list(&self, repo: &Repo) -> Result<Listing>;

    /// The file of a commit, downloaded if it is not on this machine; returns where it is.
    ///
    /// # Errors
    /// No such file, no permission, no answer, a download that is damaged, or a folder that cannot be written.
    fn fetch(&self, repo: &Repo, commit: &str, file: &str) -> Result<PathBuf>;
}

/// Whether a revision is a whole commit hash, which always means the same files.
pub fn is_commit_hash(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether what is said to be a commit can be the name of a folder. Those of git are hexadecimal; mirrors may number theirs otherwise.
fn is_commit(commit: &str) -> bool {
    (1..=64).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether an ETag, without its quotation marks, can be the name of a file: a Git or SHA-256 hash on the hub.
fn is_etag(etag: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=128).contains(&etag.len()) && !etag.starts_with('.') && etag.bytes().all(allowed)
}

/// Whether a path that somebody else names stays inside its repository, on any operating system.
fn is_inside(file: &str) -> bool {
    let plain = !file.contains(['\\', ':']) && !file.chars().any(char::is_control) && file.len() <= 1024;
    // What `components` passes over, an empty part or a `.`, would give one file two names.
    let parts = file.split('/').all(|part| !part.is_empty() && part != "." && part.len() <= 255);
    plain && parts && Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

/// What a server said, for an error: short, and without anything that moves a cursor.
fn printable(text: &str) -> String {
    const LONGEST: usize = 120;
    let clean: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    let clean = clean.replace("\\\"", "\"").replace("\\'", "'");
    if text.chars().nth(LONGEST).is_some() { clean + "…" } else { clean }
}
