//! Finished stages on disk: complete or absent, never in between.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::identity::StageId;
use crate::{Error, Result, error::IoContext};

const MANIFEST: &str = "manifest.json";

/// The store's folder, in the folder of results.
pub const STORE: &str = "stages";

/// A folder of finished stages, one folder each. Several processes may share it.
///
/// A stage is written under a temporary name; its manifest, which holds the hash of every file, is written last; then the folder is
/// renamed. A folder without a manifest does not exist for anybody.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// What is recorded about a finished stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Identity of the stage.
    pub id: StageId,
    /// Everything the identity was made from.
    pub parameters: Value,
    /// Small results that a plan needs without opening files.
    pub summary: Value,
    /// BLAKE3 of every file.
    pub files: BTreeMap<String, String>,
    /// Version of w2s.
    pub version: String,
    /// Commit of w2s, or `unknown`.
    pub commit: String,
    /// The device it ran on.
    pub device: String,
    /// Wall time in seconds.
    pub seconds: f64,
    /// When it was finished, seconds since 1970.
    pub finished: u64,
}

/// A finished stage.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its folder.
    pub folder: PathBuf,
    /// What is recorded about it.
    pub manifest: Manifest,
}

impl Finished {
    /// Path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// What [`Store::begin`] found.
#[derive(Debug)]
pub enum Begin {
    /// The stage is there already.
    Finished(Box<Finished>),
    /// The stage is ours to make.
    Ours(Workspace),
}

/// A stage in the making: a temporary folder and the lock that keeps others away. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Workspace {
    id: StageId,
    folder: tempfile::TempDir,
    target: PathBuf,
    started: std::time::Instant,
    // The operating system releases the lock when the process ends, however it ends.
    _lock: File,
}

impl Store {
    /// Opens a store, making the folder if it is not there.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        for folder in [&root, &root.join("locks")] {
            fs::create_dir_all(folder).path("create the results folder", folder).map_err(choose_another)?;
        }
        writable(&root)?;
        Ok(Self { root })
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A finished stage, if it is there and whole. A damaged one is put into quarantine and counts as absent.
    ///
    /// # Errors
    /// A folder that cannot be read or moved.
    pub fn find(&self, id: &StageId) -> Result<Option<Finished>> {
        let folder = self.root.join(id.as_str());
        if !folder.exists() {
            return Ok(None);
        }
        match read_manifest(&folder).and_then(|manifest| verify(&folder, &manifest).map(|()| manifest)) {
            Ok(manifest) => Ok(Some(Finished { folder, manifest })),
            Err(reason) => {
                self.quarantine(&folder, &reason)?;
                Ok(None)
            }
        }
    }

    fn quarantine(&self, folder: &Path, reason: &Error) -> Result<()> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shelf = self.root.join("quarantine");
        fs::create_dir_all(&shelf).path("create the quarantine folder", &shelf)?;
        let target = (0..).map(|n| shelf.join(format!("{name}.{n}"))).find(|path| !path.exists()).unwrap_or_default();
        match fs::rename(folder, &target) {
            Ok(()) => {}
            // Another process was faster.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).path("put a damaged stage into quarantine", folder),
        }
        // The reason is a courtesy to whoever looks; the stage is out of the way in any case.
        let _ = fs::write(target.join("reason.txt"), format!("{reason}\n"));
        Ok(())
    }

    /// Finds a stage or takes its lock; waits while another process makes it, and takes over if that process dies.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn begin(&self, id: &StageId) -> Result<Begin> {
        let path = self.root.join("locks").join(format!("{id}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .path("open the lock of a stage", &path)?;
        lock.lock().path("take the lock of a stage", &path)?;
        if let Some(finished) = self.find(id)? {
            return Ok(Begin::Finished(Box::new(finished)));
        }
        // We hold the lock, so whoever began this stage before is dead.
        let prefix = format!(".making-{id}-");
        for entry in fs::read_dir(&self.root).path("read the results folder", &self.root)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path()).path("remove what a killed process left behind", entry.path())?;
            }
        }
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&self.root)
            .path("create a folder for a stage", &self.root)?;
        let target = self.root.join(id.as_str());
        Ok(Begin::Ours(Workspace { id: id.clone(), folder, target, started: std::time::Instant::now(), _lock: lock }))
    }
}

impl Workspace {
    /// Where the stage's files go.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Hashes every file, writes the manifest, and makes the stage visible under its identity.
    ///
    /// # Errors
    /// A disk that is full or a folder that cannot be written; the stage then stays absent.
    pub fn finish(self, parameters: Value, summary: Value, device: &str) -> Result<Finished> {
        let folder = self.folder.path();
        let mut files = BTreeMap::new();
        for path in files_below(folder)? {
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, hash_file(&path)?);
            File::open(&path).and_then(|file| file.sync_all()).path("write a stage's file to disk", &path)?;
        }
        let manifest = Manifest {
            id: self.id.clone(),
            parameters,
            summary,
            files,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: crate::commit().to_owned(),
            device: device.to_owned(),
            seconds: self.started.elapsed().as_secs_f64(),
            finished: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        };
        let path = folder.join(MANIFEST);
        let text = serde_json::to_string_pretty(&manifest)
            .map_err(|error| Error::new(format!("cannot write a manifest: {error}")).in_file(&path))?;
        let mut file = File::create(&path).path("write a manifest", &path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).path("write a manifest", &path)?;
        match fs::rename(folder, &self.target) {
            Ok(()) => {}
            // A folder is in the way that `find` did not know: only a damaged one can be, and it has been moved by now.
            Err(error) => return Err(error).path("put a finished stage into its place", &self.target),
        }
        if let Some(parent) = self.target.parent() {
            File::open(parent).and_then(|dir| dir.sync_all()).path("write the results folder to disk", parent)?;
        }
        // The folder has moved: there is nothing left to remove.
        let _ = self.folder.keep();
        Ok(Finished { folder: self.target, manifest })
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path).path("read the manifest of a stage", &path)?;
    serde_json::from_str(&text).map_err(|error| Error::new(format!("damaged manifest: {error}")).in_file(path))
}

fn verify(folder: &Path, manifest: &Manifest) -> Result<()> {
    for (name, expected) in &manifest.files {
        let path = folder.join(name);
        if hash_file(&path)? != *expected {
            return Err(Error::new("the file is not the one that was written").in_file(path));
        }
    }
    Ok(())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).path("read a stage's folder", folder)? {
        let path = entry.path("read a stage's folder", folder)?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// BLAKE3 of a file, in hexadecimal.
///
/// # Errors
/// A file that cannot be read.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).path("read a file", path)?;
    hasher.update_reader(file).path("read a file", path)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Whether files can be made in a folder of results.
///
/// # Errors
/// They cannot; names the folder and the option that chooses another.
pub fn writable(folder: &Path) -> Result<()> {
    tempfile::tempfile_in(folder).path("write to the results folder", folder).map_err(choose_another).map(|_| ())
}

fn choose_another(error: Error) -> Error {
    error.help("choose another folder with `--results DIR`, or make this one writable")
}

/// Writes a file so that a reader sees the old one or the new one, whatever happens in between.
///
/// # Errors
/// A folder that cannot be written or a disk that is full; the old file is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let action = "write a file";
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; this one is to become as readable as any other, i.e. as the umask allows.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).path(action, path)?;
    file.write_all(bytes).path(action, path)?;
    file.as_file().sync_all().path(action, path)?;
    file.persist(path).map_err(|error| error.error).path(action, path)?;
    File::open(folder).and_then(|dir| dir.sync_all()).path(action, folder)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    fn id() -> StageId {
        StageId::new("test", 1, &json!({"n": 1}))
    }

    fn make(store: &Store) -> Finished {
        match store.begin(&id()).unwrap() {
            Begin::Ours(workspace) => {
                fs::write(workspace.folder().join("a.csv"), "1,2\n").unwrap();
                workspace.finish(json!({"n": 1}), json!({"rows": 1}), "cpu").unwrap()
            }
            Begin::Finished(finished) => *finished,
        }
    }

    #[test]
    fn a_stage_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(store.find(&id()).unwrap().is_none());
        let first = make(&store);
        let again = store.find(&id()).unwrap().unwrap();
        assert_eq!(first.manifest, again.manifest);
        assert_eq!(fs::read_to_string(again.file("a.csv")).unwrap(), "1,2\n");
    }

    #[test]
    fn an_abandoned_stage_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        drop(store.begin(&id()).unwrap());
        assert!(store.find(&id()).unwrap().is_none());
        let left = fs::read_dir(folder.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "locks").count();
        assert_eq!(left, 0);
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let left = folder.path().join(format!(".making-{}-x", id()));
        fs::create_dir(&left).unwrap();
        make(&store);
        assert!(!left.exists());
    }

    #[test]
    fn a_flipped_byte_is_noticed_and_the_stage_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let stage = make(&store);
        fs::write(stage.file("a.csv"), "1,3\n").unwrap();
        assert!(store.find(&id()).unwrap().is_none());
        assert!(folder.path().join("quarantine").join(format!("{}.0", id())).join("reason.txt").exists());
        make(&store);
        assert!(store.find(&id()).unwrap().is_some());
    }

    #[test]
    fn a_stage_without_manifest_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fs::create_dir(folder.path().join(id().as_str())).unwrap();
        assert!(store.find(&id()).unwrap().is_none());
    }

    #[test]
    fn eight_threads_make_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match store.begin(&id()).unwrap() {
                    Begin::Ours(workspace) => {
                        made.fetch_add(1, Ordering::SeqCst);
                        fs::write(workspace.folder().join("a"), "x").unwrap();
                        workspace.finish(json!({}), json!({}), "cpu").unwrap();
                    }
                    Begin::Finished(_) => {}
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_store_that_cannot_be_written_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(file.join("store")).unwrap_err();
        assert!(error.message().starts_with("cannot create the results folder"), "{error}");
        assert!(error.remedy().unwrap().contains("--results"));
    }

    #[test]
    fn a_file_written_atomically_is_as_readable_as_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_atomically(&ours, b"text").unwrap();
        fs::write(&plain, b"text").unwrap();
        assert_eq!(fs::metadata(ours).unwrap().permissions(), fs::metadata(plain).unwrap().permissions());
    }
}
