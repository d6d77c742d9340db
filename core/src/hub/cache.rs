//! The folder in which `huggingface_hub` keeps what it downloaded, in its layout:
//!
//! ```text
//! models--ORGANISATION--NAME/refs/main              the commit that the branch stood for
//!                            blobs/ETAG             a file's content, under its SHA-256 or its hash in Git
//!                            snapshots/COMMIT/FILE  a link to it
//! .locks/models--ORGANISATION--NAME/ETAG.lock       whoever downloads a blob holds this file's lock
//! ```
//!
//! One thing is our own: `models--…/.w2s/COMMIT.json` lists what the repository has at a commit, so that what is missing from an
//! interrupted download is known without asking. Newer Python clients keep such a list too, in `trees/COMMIT.json`.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{Listing, Repo, is_commit, is_commit_hash, is_etag, is_inside};
use crate::{Error, Result, error::IoContext};

/// Such a folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    /// Whether files are links to blobs, as they are unless `HF_HUB_DISABLE_SYMLINKS` is set.
    links: bool,
}

/// The files of a repository at one commit, as far as they were downloaded.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where they are.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// All files that the repository has at this commit, if that was recorded.
    pub files: Option<Vec<String>>,
}

impl Snapshot {
    /// The files among `wanted` that are not on this machine.
    pub fn missing<'a>(&self, wanted: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
        let absent = |file: &&String| !is_inside(file) || !self.folder.join(file).is_file();
        wanted.into_iter().filter(absent).map(String::as_str).collect()
    }

    /// Whether a Python client looked for these files and recorded that the repository does not have them.
    pub fn says_absent(&self, files: &[&str]) -> bool {
        let repository = self.folder.ancestors().nth(2).unwrap_or(&self.folder);
        let marks = repository.join(".no_exist").join(&self.commit);
        files.iter().all(|file| marks.join(file).exists())
    }
}

impl Cache {
    /// The cache in a folder, which need not be there.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), links: true }
    }

    /// The same cache, with copies in place of links if `links` is false.
    pub(super) fn with_links(self, links: bool) -> Self {
        Self { links, ..self }
    }

    /// A repository's folder. The id must have been checked.
    fn folder(&self, repo: &Repo) -> PathBuf {
        self.root.join(folder_name(repo))
    }

    /// The commit that a revision stands for on this machine: a commit hash for itself, a branch for what it was when it was first
    /// asked for.
    pub fn commit(&self, repo: &Repo) -> Option<String> {
        repo.check().ok()?;
        if is_commit_hash(&repo.revision) {
            return Some(repo.revision.clone());
        }
        let commit = fs::read_to_string(self.reference(repo)).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// The file that says which commit a branch or tag stands for.
    pub(super) fn reference(&self, repo: &Repo) -> PathBuf {
        self.folder(repo).join("refs").join(&repo.revision)
    }

    /// What there is of a repository at its revision; `None` if there is nothing.
    pub fn snapshot(&self, repo: &Repo) -> Option<Snapshot> {
        repo.check().ok()?;
        // A short commit hash has no file in `refs` if the folder was made by hand.
        let commit = self.commit(repo).or_else(|| is_commit(&repo.revision).then(|| repo.revision.clone()))?;
        let folder = self.folder(repo).join("snapshots").join(&commit);
        folder.is_dir().then(|| Snapshot { files: self.listing(repo, &commit), folder, commit })
    }

    /// The files that a repository has at a commit, if that was recorded by us or by a Python client.
    pub(super) fn listing(&self, repo: &Repo, commit: &str) -> Option<Vec<String>> {
        let read = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok();
        let inside = |files: Vec<String>| files.into_iter().filter(|file| is_inside(file)).collect();
        if let Some(files) = read(self.listing_file(repo, commit)).and_then(|own| serde_json::from_value(own).ok()) {
            return Some(inside(files));
        }
        let mut tree = read(self.folder(repo).join("trees").join(format!("{commit}.json")))?;
        let files: Map<String, Value> = serde_json::from_value(tree.get_mut("files")?.take()).ok()?;
        Some(inside(files.into_iter().map(|(file, _)| file).collect()))
    }

    fn listing_file(&self, repo: &Repo, commit: &str) -> PathBuf {
        self.folder(repo).join(".w2s").join(format!("{commit}.json"))
    }

    /// Records what a revision stands for, and which files there are. A list without files is not kept: somebody may have made a mistake.
    pub(super) fn record(&self, repo: &Repo, listing: &Listing) -> Result<()> {
        check_commit(&listing.commit)?;
        let files = serde_json::to_string(&listing.files).map_err(|cause| Error::new(cause.to_string()))?;
        if !listing.files.is_empty() {
            write(&self.listing_file(repo, &listing.commit), &files)?;
        }
        if repo.revision == listing.commit { Ok(()) } else { write(&self.reference(repo), &listing.commit) }
    }

    /// Where a file of a commit is, or will be.
    pub(super) fn pointer(&self, repo: &Repo, commit: &str, file: &str) -> Result<PathBuf> {
        repo.check()?;
        check_commit(commit)?;
        if !is_inside(file) {
            let message = format!("`{}` is not a path inside a repository", super::printable(file));
            return Err(Error::new(message));
        }
        Ok(self.folder(repo).join("snapshots").join(commit).join(file))
    }

    /// Where the content with this ETag is, or will be. Its folder is made.
    pub(super) fn blob(&self, repo: &Repo, etag: &str) -> Result<PathBuf> {
        check_etag(etag)?;
        let folder = self.folder(repo).join("blobs");
        make(&folder)?;
        Ok(folder.join(etag))
    }

    /// Takes a lock; dropping the file releases it. That of a blob, by its ETag, Python clients take too; ours begin with a `.`, as no
    /// ETag does. `wait` is called when another process has it. `None` where the file system has no locks.
    pub(super) fn lock(&self, repo: &Repo, name: &str, wait: impl FnOnce()) -> Result<Option<File>> {
        check_etag(name.trim_start_matches('.'))?;
        let folder = self.root.join(".locks").join(folder_name(repo));
        make(&folder)?;
        let path = folder.join(format!("{name}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.path("open the lock of a download", &path)?;
        let taken = match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                wait();
                file.lock()
            }
            Err(fs::TryLockError::Error(cause)) => Err(cause),
            Ok(()) => Ok(()),
        };
        match taken {
            Ok(()) => Ok(Some(file)),
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => Ok(None),
            Err(cause) => Err(cause).path("take the lock of a download", &path),
        }
    }

    /// Puts a blob under its file's name. `fresh` says that nobody else can have linked to it, so that it may be moved where there are
    /// no links.
    pub(super) fn link(&self, blob: &Path, pointer: &Path, fresh: bool) -> Result<()> {
        let folder = pointer.parent().unwrap_or(pointer);
        make(folder)?;
        let place = |path: &Path| match self.links.then(|| symlink(blob, folder, path)) {
            Some(Ok(())) => Ok(()),
            _ if fresh => fs::rename(blob, path),
            _ => fs::copy(blob, path).map(drop),
        };
        // Under another name first: whoever looks sees the old file or the new one.
        let made = tempfile::Builder::new().prefix(".w2s-").make_in(folder, place);
        let made = made.path("put a download in its place", pointer)?;
        made.into_temp_path()
            .persist(pointer)
            .map_err(|failed| failed.error)
            .path("put a download in its place", pointer)
    }
}

/// A link in `folder`, relative to it, so that the cache may be moved.
fn symlink(blob: &Path, folder: &Path, path: &Path) -> io::Result<()> {
    let repository = blob.ancestors().nth(2).unwrap_or(blob);
    let inner = |path: &Path| path.strip_prefix(repository).map(Path::to_owned).map_err(io::Error::other);
    let up: PathBuf = inner(folder)?.components().map(|_| "..").collect();
    let target = up.join(inner(blob)?);
    #[cfg(unix)]
    return std::os::unix::fs::symlink(target, path);
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(target, path);
    #[cfg(not(any(unix, windows)))]
    return Err(io::Error::from(io::ErrorKind::Unsupported));
}

/// Name of a repository's folder.
fn folder_name(repo: &Repo) -> String {
    format!("{}--{}", repo.kind.plural(), repo.id.replace('/', "--"))
}

fn check_commit(commit: &str) -> Result<()> {
    let wrong = || Error::new(format!("`{}` is not a commit", super::printable(commit)));
    if is_commit(commit) { Ok(()) } else { Err(wrong().help(super::client::NO_HUB)) }
}

fn check_etag(etag: &str) -> Result<()> {
    let wrong = || Error::new(format!("`{}` is not the hash of a file", super::printable(etag)));
    if is_etag(etag) { Ok(()) } else { Err(wrong().help(super::client::NO_HUB)) }
}

fn make(folder: &Path) -> Result<()> {
    let made = fs::create_dir_all(folder).path("make the folder for downloads", folder);
    made.map_err(|error| {
        error.help("downloads are kept in the folder that `HF_HUB_CACHE` or `HF_HOME` names: one that you can write to")
    })
}

/// Writes a small file so that whoever reads it sees the old or the new text.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path);
    make(folder)?;
    let made = tempfile::Builder::new().prefix(".w2s-").make_in(folder, |path| fs::write(path, text));
    let made = made.path("write to the folder for downloads", path)?;
    made.into_temp_path().persist(path).map_err(|failed| failed.error).path("write to the folder for downloads", path)
}
