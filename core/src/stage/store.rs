//! Finished stages on disk: complete or absent, never in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use super::{
    identity::StageId,
    manifest::{Look, MANIFEST, Manifest, files_below, hash_file, look},
    remembered::Remembered,
};
use crate::{
    Error, Result,
    error::{ErrorKind, IoContext},
    locks::{self, Lock},
};

/// The store's folder, in the folder of results.
pub const STORE: &str = "stages";
/// Folder of locks, in the store.
pub(super) const LOCKS: &str = "locks";
/// Folder of damaged stages, in the store.
pub(super) const QUARANTINE: &str = "quarantine";
/// How the folder of a stage in the making begins; its identity and a random word follow.
pub(super) const MAKING: &str = ".making-";
/// How the folder begins with the checkpoints of a training that is not finished; the stage's identity and the training's number follow. It
/// belongs to whoever holds the stage's lock.
pub(super) const CHECKPOINTS: &str = ".checkpoints-";

/// A folder of finished stages, one folder each. Several processes may share it.
///
/// A stage is written under a temporary name; its manifest, which holds the hash of every file, is written last; then the folder is
/// renamed. A folder without a manifest does not exist for anybody.
///
/// Looking at a stage ([`find`](Self::find)) compares sizes and times of change with those of the last time that its bytes were hashed;
/// using it ([`take`](Self::take), [`begin`](Self::begin)) hashes them. Looking moves nothing: a damaged stage is put into quarantine by
/// whoever holds its lock and has looked again.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Where new stages go when the store itself cannot be written.
    aside: Option<Arc<tempfile::TempDir>>,
    // Says that a process is at work in the store. Absent where the store cannot be written.
    user: Option<Arc<Lock>>,
    remembered: Arc<Mutex<Remembered>>,
    /// Damaged stages that have been spoken of.
    told: Arc<Mutex<BTreeSet<StageId>>>,
    tell: Tell,
}

/// What a store does on the way that a user should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A stage does not match its manifest, and will be made again.
    Damaged {
        /// Which.
        stage: StageId,
        /// What is wrong with it.
        reason: String,
    },
    /// A damaged stage was moved.
    Quarantined {
        /// Which.
        stage: StageId,
        /// What is wrong with it.
        reason: String,
        /// Where it is now.
        folder: PathBuf,
    },
    /// Another process makes a stage that is needed.
    Waiting(StageId),
    /// That process has ended.
    Resumed(StageId),
    /// Another process looks something up that is needed here, too.
    InTurn(String),
    /// A training goes on from a checkpoint.
    Continued {
        /// The stage that it is for.
        stage: StageId,
        /// Steps that were done before.
        step: usize,
        /// All steps.
        steps: usize,
    },
    /// A checkpoint is damaged or another training's, and was put aside.
    PutAside {
        /// The stage that it is for.
        stage: StageId,
        /// What is wrong with it.
        reason: String,
        /// Where it is now.
        folder: PathBuf,
    },
    /// A checkpoint cannot be written.
    NotSaved {
        /// The stage that it is for.
        stage: StageId,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { stage, reason } => write!(f, "stage `{stage}` is damaged and counts as not done: {reason}"),
            Self::Quarantined { stage, reason, folder } => {
                write!(f, "stage `{stage}` was damaged and is now in {}: {reason}", folder.display())
            }
            Self::Waiting(stage) => write!(f, "waiting for another process that makes stage `{stage}`"),
            Self::InTurn(what) => write!(f, "waiting for another process that reads {what}"),
            Self::Resumed(stage) => write!(f, "the other process that made stage `{stage}` has ended"),
            Self::Continued { stage, step, steps } => {
                write!(f, "stage `{stage}` goes on from its checkpoint after step {step} of {steps}")
            }
            Self::PutAside { stage, reason, folder } => {
                write!(f, "a checkpoint of stage `{stage}` cannot be used and is now in {}: {reason}", folder.display())
            }
            Self::NotSaved { stage, reason } => {
                write!(f, "a checkpoint of stage `{stage}` could not be written, and training goes on: {reason}")
            }
        }
    }
}

type Listener = dyn Fn(&Notice) + Send + Sync;

/// Whom the store tells.
#[derive(Clone)]
struct Tell(Arc<Listener>);

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
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

    /// Path of one of its files, whose bytes are now what the manifest says.
    ///
    /// # Errors
    /// They are not, or cannot be read.
    pub fn checked(&self, name: &str) -> Result<PathBuf> {
        let path = self.file(name);
        if self.manifest.files.get(name) == Some(&hash_file(&path)?) {
            return Ok(path);
        }
        if let Some(root) = self.folder.parent() {
            Remembered::open(Store::memory_in(root)).set(self.manifest.id.as_str(), "-");
        }
        Err(Error::new("the file is not the one that was written").in_file(path).help(AGAIN))
    }
}

/// What helps when a stage that was there turns out to be damaged.
const AGAIN: &str = "run the same command again: the stage is put into quarantine and made anew";

/// What [`Store::begin`] found.
#[derive(Debug)]
pub enum Begin {
    /// The stage is there already.
    Finished(Box<Finished>),
    /// The stage is ours to make.
    Ours(Box<Workspace>),
}

/// A stage in the making: a temporary folder and the lock that keeps others away. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Workspace {
    id: StageId,
    folder: tempfile::TempDir,
    target: PathBuf,
    started: std::time::Instant,
    // Free again when the process ends, however it ends.
    lock: Lock,
}

/// The right to find something out, which one process has at a time. It ends when this is dropped, or the process ends.
#[derive(Debug)]
pub struct Turn {
    _lock: Lock,
}

/// What an unused store would give back.
#[derive(Debug, Default, PartialEq)]
pub struct Leftovers {
    /// Folders of stages whose makers are dead, temporary files of dead writers.
    pub paths: Vec<PathBuf>,
    /// Locks that nobody holds.
    pub locks: Vec<PathBuf>,
}

impl Store {
    /// Opens a store to work in, making the folder if it is not there. What killed processes left behind is removed, if no other process is
    /// at work in it.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let store = Self::enter(root.into())?;
        store.sweep();
        Ok(store)
    }

    /// Opens a store to look into, in which nothing is changed but by [`begin`](Self::begin): a folder that cannot be written, or is not
    /// there, is as good as any. New stages then go into a temporary folder, which is removed with the store.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn open_to_look(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        if let Ok(store) = Self::enter(root.clone()) {
            return Ok(store);
        }
        let aside = tempfile::Builder::new().prefix("w2s-").tempdir();
        let aside = aside.path("create a temporary folder", std::env::temp_dir()).map_err(|error| {
            error.or_help("set TMPDIR to a folder that can be written, or choose another folder with `--results DIR`")
        })?;
        let locks = aside.path().join(LOCKS);
        fs::create_dir_all(&locks).path("create a temporary folder", &locks)?;
        Ok(Self::at(root, Some(Arc::new(aside))))
    }

    fn enter(root: PathBuf) -> Result<Self> {
        for folder in [&root, &root.join(LOCKS)] {
            fs::create_dir_all(folder).path("create the results folder", folder).map_err(choose_another)?;
        }
        writable(&root)?;
        let mut store = Self::at(root, None);
        let path = store.lock_path("store");
        let user = Lock::open(&path)?;
        user.lock_shared()?;
        store.user = Some(Arc::new(user));
        Ok(store)
    }

    fn at(root: PathBuf, aside: Option<Arc<tempfile::TempDir>>) -> Self {
        let remembered = Arc::new(Mutex::new(Remembered::open(Self::memory_in(&root))));
        Self { root, aside, user: None, remembered, told: Arc::default(), tell: Tell(Arc::new(|_| {})) }
    }

    /// Where the store keeps what it [knows](Self::known).
    fn memory_in(root: &Path) -> PathBuf {
        root.join(LOCKS).join("remembered")
    }

    /// Tells `listener` what happens on the way.
    pub fn telling(mut self, listener: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.tell = Tell(Arc::new(listener));
        self
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether new stages are kept.
    pub fn keeps(&self) -> bool {
        self.aside.is_none()
    }

    /// Where new stages go.
    fn workshop(&self) -> &Path {
        self.aside.as_ref().map_or(&self.root, |aside| aside.path())
    }

    /// Where a stage is once it is made here.
    pub(super) fn folder_of(&self, id: &StageId) -> PathBuf {
        self.workshop().join(id.as_str())
    }

    /// Where checkpoints are of a training that a stage makes.
    pub(super) fn checkpoints_of(&self, id: &StageId, number: usize) -> PathBuf {
        self.workshop().join(format!("{CHECKPOINTS}{id}-{number}"))
    }

    /// Tells the listener what happens.
    pub(super) fn tell(&self, notice: &Notice) {
        (self.tell.0)(notice);
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.workshop().join(LOCKS).join(format!("{name}.lock"))
    }

    /// What was found out before about `key`, which says everything that the answer depends on and holds no space.
    pub fn known(&self, key: &str) -> Option<String> {
        lock(&self.remembered).get(key).map(str::to_owned)
    }

    /// Remembers what was found out about `key`: one line, for this and later looks. Costs nothing but another look if it is lost.
    pub fn learn(&self, key: &str, answer: &str) {
        lock(&self.remembered).set(key, answer);
    }

    /// Keeps other processes from finding out about `key` too, for as long as the turn is held. `None` if another has its turn, unless it is
    /// said what for: then it is waited for. What others have [learnt](Self::learn) is [known](Self::known) from then on.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn turn(&self, key: &str, wait_for: Option<&str>) -> Result<Option<Turn>> {
        let lock = Lock::open(&self.lock_path(key))?;
        if !lock.try_lock()? {
            let Some(what) = wait_for else { return Ok(None) };
            (self.tell.0)(&Notice::InTurn(what.to_owned()));
            lock.lock()?;
        }
        *self::lock(&self.remembered) = Remembered::open(Self::memory_in(&self.root));
        Ok(Some(Turn { _lock: lock }))
    }

    /// Forgets that a stage's bytes were right.
    pub(super) fn forget(&self, id: &StageId) {
        self.learn(id.as_str(), "-");
    }

    /// Looks at a stage; with `bytes`, whatever is remembered.
    pub(super) fn look(&self, id: &StageId, bytes: bool) -> Result<(PathBuf, Look)> {
        let known = |stamp: &str| !bytes && self.known(id.as_str()).is_some_and(|known| known == stamp);
        let learn = |stamp: &str| self.learn(id.as_str(), stamp);
        let folder = self.root.join(id.as_str());
        match (look(&folder, id, known, learn)?, &self.aside) {
            (Look::Absent | Look::Damaged(_), Some(aside)) if aside.path().join(id.as_str()).exists() => {
                let folder = aside.path().join(id.as_str());
                Ok((folder.clone(), look(&folder, id, known, |_| {})?))
            }
            (found, _) => Ok((folder, found)),
        }
    }

    /// A finished stage, if it is there and, by sizes and times of change, as it was when its bytes were hashed last; they are hashed now
    /// if they never were. A damaged one counts as absent, and the listener is told.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn find(&self, id: &StageId) -> Result<Option<Finished>> {
        Ok(match self.look(id, false)? {
            (_, Look::Absent) => None,
            (folder, Look::Whole(manifest)) => Some(Finished { folder, manifest: *manifest }),
            (_, Look::Damaged(reason)) => {
                self.forget(id);
                if lock(&self.told).insert(id.clone()) {
                    (self.tell.0)(&Notice::Damaged { stage: id.clone(), reason });
                }
                None
            }
        })
    }

    /// A finished stage that is about to be used: its bytes are what the manifest says. A damaged one is put into quarantine.
    ///
    /// # Errors
    /// It is not there or damaged, or cannot be read.
    pub fn take(&self, id: &StageId) -> Result<Finished> {
        match self.look(id, true)? {
            (folder, Look::Whole(manifest)) => Ok(Finished { folder, manifest: *manifest }),
            (folder, Look::Absent) => Err(Error::new(format!("stage `{id}` was there and is gone"))
                .in_file(folder)
                .help("run the same command again: the stage is made anew")),
            (folder, Look::Damaged(reason)) => {
                self.forget(id);
                // Whoever holds the lock is about to find out the same, or has remade the stage.
                if let Some(_lock) = self.try_lock(id)? {
                    self.make_way(id)?;
                }
                Err(Error::new(format!("stage `{id}` is damaged: {reason}")).in_file(folder).help(AGAIN))
            }
        }
    }

    /// A finished stage, or `None` once nothing stands where it belongs: a damaged one is put into quarantine. The caller holds the lock.
    fn make_way(&self, id: &StageId) -> Result<Option<Finished>> {
        match self.look(id, true)? {
            (_, Look::Absent) => Ok(None),
            (folder, Look::Whole(manifest)) => Ok(Some(Finished { folder, manifest: *manifest })),
            (folder, Look::Damaged(reason)) => {
                if self.keeps()
                    && let Some(folder) = self.quarantine(id, &folder, &reason)?
                {
                    (self.tell.0)(&Notice::Quarantined { stage: id.clone(), reason, folder });
                }
                Ok(None)
            }
        }
    }

    /// Puts a finished stage into quarantine, so that it is made again. Where it is now, if it was there.
    ///
    /// # Errors
    /// Another process is about to make it, or its folder cannot be moved.
    pub fn put_aside(&self, id: &StageId, reason: &str) -> Result<Option<PathBuf>> {
        match self.try_lock(id)? {
            Some(_lock) => self.quarantine(id, &self.folder_of(id), reason),
            None => {
                Err(Error::new(format!("another process makes stage `{id}` at present")).help("wait for it to end"))
            }
        }
    }

    fn quarantine(&self, id: &StageId, folder: &Path, reason: &str) -> Result<Option<PathBuf>> {
        let shelf = self.root.join(QUARANTINE);
        fs::create_dir_all(&shelf).path("create the quarantine folder", &shelf)?;
        let target = (0..).map(|n| shelf.join(format!("{id}.{n}"))).find(|path| !path.exists()).unwrap_or_default();
        match fs::rename(folder, &target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).path("put a stage into quarantine", folder),
        }
        self.forget(id);
        // The reason is a courtesy to whoever looks; the stage is out of the way in any case.
        let _ = fs::write(target.join("reason.txt"), format!("{reason}\n"));
        Ok(Some(target))
    }

    /// Finds a stage or takes its lock; waits while another process makes it, and takes over if that process dies.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn begin(&self, id: &StageId) -> Result<Begin> {
        let lock = match self.try_lock_for_a_moment(id)? {
            Some(lock) => lock,
            None => {
                (self.tell.0)(&Notice::Waiting(id.clone()));
                let lock = Lock::open(&self.lock_path(id.as_str()))?;
                lock.lock()?;
                (self.tell.0)(&Notice::Resumed(id.clone()));
                lock
            }
        };
        if let Some(finished) = self.make_way(id)? {
            return Ok(Begin::Finished(Box::new(finished)));
        }
        // We hold the lock, so whoever began this stage before is dead. What that one posted is worth nothing if it cannot be removed, either.
        let _ = lock.file().set_len(0);
        let root = self.workshop();
        let prefix = format!("{MAKING}{id}-");
        for entry in fs::read_dir(root).path("read the results folder", root)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path()).path("remove what a killed process left behind", entry.path())?;
            }
        }
        let folder =
            tempfile::Builder::new().prefix(&prefix).tempdir_in(root).path("create a folder for a stage", root)?;
        let target = self.folder_of(id);
        let started = std::time::Instant::now();
        Ok(Begin::Ours(Box::new(Workspace { id: id.clone(), folder, target, started, lock })))
    }

    /// As [`begin`](Self::begin), for a stage that is looked at rather than used: its bytes are not hashed again.
    ///
    /// # Errors
    /// As of [`begin`](Self::begin).
    pub fn find_or_begin(&self, id: &StageId) -> Result<Begin> {
        match self.find(id)? {
            Some(finished) => Ok(Begin::Finished(Box::new(finished))),
            None => self.begin(id),
        }
    }

    /// Whether another process makes this stage at present.
    ///
    /// # Errors
    /// A lock that cannot be opened.
    pub fn is_busy(&self, id: &StageId) -> Result<bool> {
        Ok(self.try_lock(id)?.is_none())
    }

    /// Writes into the lock of a stage, which this process holds, how far the stage is, for whoever asks for what is [posted](Self::posted).
    pub fn post(&self, id: &StageId, text: &str) {
        // Nobody needs it.
        let _ = File::options().write(true).open(self.lock_path(id.as_str())).and_then(|mut lock| {
            lock.write_all(text.as_bytes())?;
            lock.set_len(text.len() as u64)
        });
    }

    /// What the process that makes a stage at present [posts](Self::post) of it; `None` if there is no such process.
    ///
    /// # Errors
    /// A lock that cannot be opened.
    pub fn posted(&self, id: &StageId) -> Result<Option<String>> {
        let path = self.root.join(LOCKS).join(format!("{id}.lock"));
        let Some(lock) = Lock::open_existing(&path)? else { return Ok(None) };
        // It may be written to in this very moment.
        Ok((!lock.try_lock_shared()?).then(|| fs::read_to_string(&path).unwrap_or_default()))
    }

    /// The lock of a stage, unless another process makes it: who only asks whether it [is busy](Self::is_busy) holds it for a moment.
    fn try_lock_for_a_moment(&self, id: &StageId) -> Result<Option<Lock>> {
        for _ in 0..10 {
            if let Some(lock) = self.try_lock(id)? {
                return Ok(Some(lock));
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Ok(None)
    }

    /// The lock of a stage, unless another process holds it.
    fn try_lock(&self, id: &StageId) -> Result<Option<Lock>> {
        let lock = Lock::open(&self.lock_path(id.as_str()))?;
        Ok(lock.try_lock()?.then_some(lock))
    }

    /// Runs `work` while no other process is at work in the store, or not at all. Other processes that open it wait meanwhile.
    ///
    /// # Errors
    /// Those of `work`, or a lock that cannot be taken.
    pub fn alone<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let Some(user) = &self.user else { return Ok(None) };
        // A lock that is held is not converted: what happens to it in that is up to the system.
        user.unlock()?;
        let done = if user.try_lock()? { work().map(Some) } else { Ok(None) };
        user.unlock().and_then(|()| user.lock_shared())?;
        done
    }

    /// Removes what killed processes left behind, unless another process is at work in the store. What cannot be removed stays.
    pub fn sweep(&self) {
        // Nobody needs it, and nobody is hindered by it.
        let _ = self.alone(|| self.leftovers()?.remove());
    }

    /// [`sweep`](Self::sweep) by a process that has done its work: of several that end together the last one finds itself alone, since none
    /// of them comes back.
    pub fn leave(self) {
        let Some(user) = &self.user else { return };
        if user.unlock().is_ok() && user.try_lock().is_ok_and(|alone| alone) {
            // As with every sweep, what cannot be removed stays.
            let _ = self.leftovers().and_then(|left| left.remove());
        }
    }

    /// What killed processes left behind; to be asked [`alone`](Self::alone), or it lists what live processes hold.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn leftovers(&self) -> Result<Leftovers> {
        let mut left = Leftovers::default();
        // Versions before there was a lock of the store hold that of their stage alone.
        let is_free = |id: &str| id.parse::<StageId>().is_ok_and(|id| self.is_busy(&id).is_ok_and(|busy| !busy));
        for (name, path) in entries(&self.root)? {
            let of = |prefix| name.strip_prefix(prefix).and_then(|name| name.rsplit_once('-'));
            // Checkpoints wait for somebody to take them up, until their stage is there.
            let outlived = of(CHECKPOINTS).filter(|(id, _)| self.root.join(id).join(MANIFEST).exists());
            if of(MAKING).or(outlived).is_some_and(|(id, _)| is_free(id)) || is_temporary(&name, &path) {
                left.paths.push(path);
            }
        }
        for (name, path) in entries(&self.root.join(LOCKS))? {
            let stage = name.strip_suffix(".lock").filter(|stage| *stage != "store");
            if is_temporary(&name, &path) || locks::is_spent(&path) {
                left.paths.push(path);
            } else if stage.is_some_and(is_free) {
                left.locks.push(path);
            }
        }
        // Beside the store are the results of grids; beside a folder of another name, anything.
        let results = self.root.parent().filter(|_| self.root.file_name().is_some_and(|name| name == STORE));
        for (_, grid) in results.map(entries).transpose()?.unwrap_or_default() {
            let shelves = entries(&grid.join("earlier"))?.into_iter().map(|(_, shelf)| shelf);
            let of_grid = |folder: &PathBuf| ["results.csv", "grid.json"].iter().any(|file| folder.join(file).exists());
            for folder in [grid].into_iter().chain(shelves).filter(of_grid) {
                let files = entries(&folder)?.into_iter().filter(|(name, path)| is_temporary(name, path));
                left.paths.extend(files.map(|(_, path)| path));
            }
        }
        Ok(left)
    }
}

impl Leftovers {
    /// Removes it all.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn remove(&self) -> Result<()> {
        for path in self.paths.iter().chain(&self.locks) {
            remove(path)?;
        }
        Ok(())
    }
}

/// Removes a file, or a folder with all that is in it; it may be gone already.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.path("remove what is no longer needed", path),
    }
}

/// Names and paths of what is in a folder, in order; of none, nothing.
pub(super) fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let read = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(Vec::new()),
        read => read.path("read a folder of results", folder)?,
    };
    let mut found: Vec<_> =
        read.flatten().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect();
    found.sort();
    Ok(found)
}

/// Whether this is a temporary file of [`write_atomically`], or what a network file system leaves of a file that was removed while somebody
/// had it open.
fn is_temporary(name: &str, path: &Path) -> bool {
    let random = name.strip_prefix(".tmp").filter(|random| random.len() == 6);
    let ours = random.is_some_and(|random| random.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    (ours || [".nfs", ".fuse_hidden"].iter().any(|prefix| name.starts_with(prefix))) && path.is_file()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workspace {
    /// Where the stage's files go.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What came of work on the stage; where it failed and another process has taken the stage over meanwhile, that is what is said.
    ///
    /// # Errors
    /// Those of the work, or that one.
    pub fn unless_lost<T>(&self, made: Result<T>) -> Result<T> {
        made.map_err(|error| {
            if self.lock.is_held() {
                return error;
            }
            Error::new("another process has taken over the stage, since this one stood still for too long")
                .of_kind(ErrorKind::Killed)
                .help("run the same command again")
        })
    }

    /// Hashes every file, writes the manifest, and makes the stage visible under its identity.
    ///
    /// # Errors
    /// A disk that is full or a folder that cannot be written, the stage being another process's by now; it then stays absent.
    pub fn finish(self, parameters: Value, summary: Value, device: &str) -> Result<Finished> {
        let written = self.write(parameters, summary, device);
        let manifest = self.unless_lost(written)?;
        // The folder has moved: there is nothing left to remove.
        let _ = self.folder.keep();
        Ok(Finished { folder: self.target, manifest })
    }

    fn write(&self, parameters: Value, summary: Value, device: &str) -> Result<Manifest> {
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
        let text = manifest
            .sealed()
            .map_err(|error| Error::new(format!("cannot write a manifest: {error}")).in_file(&path))?;
        let mut file = File::create(&path).path("write a manifest", &path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).path("write a manifest", &path)?;
        // Whatever stood in the way was moved when the lock was taken.
        fs::rename(folder, &self.target).path("put a finished stage into its place", &self.target)?;
        if let Some(parent) = self.target.parent() {
            File::open(parent).and_then(|dir| dir.sync_all()).path("write the results folder to disk", parent)?;
        }
        Ok(manifest)
    }
}

/// Whether files can be made in a folder of results.
///
/// # Errors
/// They cannot; names the folder and the option that chooses another.
pub fn writable(folder: &Path) -> Result<()> {
    tempfile::tempfile_in(folder).path("write to the results folder", folder).map_err(choose_another).map(|_| ())
}

fn choose_another(error: Error) -> Error {
    error.or_help("choose another folder with `--results DIR`, or make this one writable")
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
    fn what_one_process_finds_out_in_its_turn_the_next_one_knows() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| Store::open(folder.path()).unwrap());
        let turn = one.turn("look-1", None).unwrap().unwrap();
        assert!(other.turn("look-1", None).unwrap().is_none());
        assert!(other.turn("look-2", None).unwrap().is_some());
        let (other, said) = listen(other);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| other.turn("look-1", Some("a task")).map(|turn| turn.is_some()));
            while said.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            assert!(!waits.is_finished());
            one.learn("look-1", "found");
            drop(turn);
            assert!(waits.join().unwrap().unwrap());
        });
        assert_eq!(other.known("look-1").as_deref(), Some("found"));
        assert_eq!(*said.lock().unwrap(), ["waiting for another process that reads a task"]);
    }

    #[test]
    fn an_abandoned_stage_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        drop(store.begin(&id()).unwrap());
        assert!(store.find(&id()).unwrap().is_none());
        let left = fs::read_dir(folder.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "locks").count();
        assert_eq!(left, 0);
        store.sweep();
        assert_eq!(store.leftovers().unwrap(), Leftovers::default());
    }

    #[test]
    fn what_network_file_systems_leave_of_removed_files_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let made = make(&store);
        let left = [".nfs000000000123", "locks/.fuse_hidden0000007c0000000a"].map(|name| folder.path().join(name));
        left.iter().for_each(|path| fs::write(path, "x").unwrap());
        store.sweep();
        assert!(left.iter().all(|path| !path.exists()) && made.file("a.csv").exists());
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

    /// What a store said.
    fn listen(store: Store) -> (Store, Arc<Mutex<Vec<String>>>) {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = said.clone();
        (store.telling(move |notice| heard.lock().unwrap().push(notice.to_string())), said)
    }

    fn rewrite(path: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "no `{from}` in {text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    #[test]
    fn what_does_not_match_its_manifest_is_noticed_said_and_made_again() {
        type Damage = (&'static str, fn(&Path));
        let damages: [Damage; 10] = [
            ("`a.csv` is not the file", |stage| fs::write(stage.join("a.csv"), "1,3\n").unwrap()),
            ("`a.csv` is not the file", |stage| fs::write(stage.join("a.csv"), "").unwrap()),
            ("`a.csv` is missing", |stage| fs::remove_file(stage.join("a.csv")).unwrap()),
            ("`manifest.json` is missing", |stage| fs::remove_file(stage.join(MANIFEST)).unwrap()),
            ("manifest is damaged", |stage| fs::write(stage.join(MANIFEST), "{").unwrap()),
            ("manifest is damaged", |stage| fs::write(stage.join(MANIFEST), [0xff, 0xfe]).unwrap()),
            ("not the one that was written", |stage| rewrite(&stage.join(MANIFEST), "\"cpu\"", "\"gpu\"")),
            ("not the one that was written", |stage| {
                rewrite(&stage.join(MANIFEST), "\"commit\": \"", "\"commit\": \"0")
            }),
            ("not the one that was written", |stage| rewrite(&stage.join(MANIFEST), "\"rows\": 1", "\"rows\": 2")),
            ("not the one that was written", |stage| rewrite(&stage.join(MANIFEST), "\"n\": 1", "\"n\": 2")),
        ];
        for (says, damage) in damages {
            let folder = tempfile::tempdir().unwrap();
            let (store, said) = listen(Store::open(folder.path()).unwrap());
            let stage = make(&store);
            assert!(store.find(&id()).unwrap().is_some());
            damage(&stage.folder);
            assert!(store.find(&id()).unwrap().is_none(), "{says}");
            assert!(stage.folder.exists(), "a look moves nothing: {says}");
            make(&store);
            assert!(store.find(&id()).unwrap().is_some(), "{says}");
            assert!(folder.path().join("quarantine").join(format!("{}.0", id())).join("reason.txt").exists());
            let said = said.lock().unwrap();
            let [damaged, moved] = &said[..] else { panic!("{said:?}") };
            assert!(damaged.contains(says) && moved.contains(says) && moved.contains("quarantine"), "{said:?}");
        }
    }

    #[test]
    fn a_manifest_without_a_hash_is_as_good_but_for_what_its_identity_says() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let path = make(&store).file(MANIFEST);
        let mut old: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(old.as_object_mut().unwrap().remove("hash").is_some());
        fs::write(&path, serde_json::to_string_pretty(&old).unwrap()).unwrap();
        assert!(store.find(&id()).unwrap().is_some() && store.take(&id()).is_ok());
        old["parameters"]["n"] = 2.into();
        fs::write(&path, serde_json::to_string_pretty(&old).unwrap()).unwrap();
        assert!(store.find(&id()).unwrap().is_none());
        // And the stage of another identity under this name.
        old["parameters"]["n"] = 1.into();
        let other = StageId::new("test", 1, &json!({"n": 2}));
        fs::create_dir(folder.path().join(other.as_str())).unwrap();
        fs::write(folder.path().join(other.as_str()).join(MANIFEST), serde_json::to_string(&old).unwrap()).unwrap();
        assert!(store.find(&other).unwrap().is_none());
    }

    /// A file that cannot be read, for whomever the tests run: a link to itself.
    #[cfg(unix)]
    fn unreadable(path: &Path) {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_read_is_an_error_and_stays_where_it_is() {
        for name in ["a.csv", MANIFEST] {
            let folder = tempfile::tempdir().unwrap();
            let (store, said) = listen(Store::open(folder.path()).unwrap());
            let path = make(&store).file(name);
            unreadable(&path);
            let errors =
                [store.find(&id()).unwrap_err(), store.take(&id()).unwrap_err(), store.begin(&id()).unwrap_err()];
            for error in errors {
                assert_eq!(error.place().unwrap().file, path, "{error}");
                assert!(
                    error.message().contains("left as it is") && error.remedy().unwrap().contains("remove"),
                    "{error}"
                );
            }
            assert!(fs::symlink_metadata(&path).is_ok() && !folder.path().join("quarantine").exists());
            assert_eq!(*said.lock().unwrap(), [""; 0]);
        }
        // A stage that lies on a disk that is not there.
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join(id().as_str())).unwrap();
        assert!(store.find(&id()).unwrap_err().remedy().unwrap().contains("mount"));
    }

    #[test]
    fn a_look_hashes_once_and_a_use_always() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let stage = make(&store);
        std::thread::sleep(std::time::Duration::from_millis(60));
        let hashed = |store: &Store| {
            let known = |stamp: &str| store.known(id().as_str()).is_some_and(|known| known == stamp);
            let asked = std::cell::Cell::new(false);
            let found = look(&stage.folder, &id(), known, |_| asked.set(true)).unwrap();
            assert!(matches!(found, Look::Whole(_)));
            asked.get()
        };
        assert!(hashed(&store));
        assert!(store.find(&id()).unwrap().is_some());
        assert_eq!(hashed(&store), cfg!(not(unix)));
        // It is remembered beside the store, whoever opens it.
        assert_eq!(hashed(&Store::open(folder.path()).unwrap()), cfg!(not(unix)));
        // Bytes that go bad without a trace are found when they are used, and then no look is satisfied with less.
        store.forget(&id());
        assert!(hashed(&store));
        fs::write(stage.file("a.csv"), "1,3\n").unwrap();
        assert!(stage.checked("a.csv").unwrap_err().remedy().unwrap().contains("again"));
        let error = store.take(&id()).unwrap_err();
        assert!(error.message().contains("damaged") && error.remedy().unwrap().contains("again"), "{error}");
        assert!(!stage.folder.exists() && store.take(&id()).unwrap_err().message().contains("gone"));
    }

    #[test]
    fn a_damaged_stage_that_another_process_is_remaking_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let stage = make(&store);
        fs::write(stage.file("a.csv"), "1,3\n").unwrap();
        let lock = store.try_lock(&id()).unwrap();
        assert!(store.is_busy(&id()).unwrap());
        assert!(store.take(&id()).is_err());
        assert!(stage.folder.exists());
        drop(lock);
        assert!(!store.is_busy(&id()).unwrap());
    }

    #[test]
    fn a_store_that_cannot_be_written_can_be_looked_into() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let store = Store::open_to_look(file.join("stages")).unwrap();
        assert!(!store.keeps() && store.find(&id()).unwrap().is_none());
        let made = make(&store);
        assert!(made.file("a.csv").exists() && store.find(&id()).unwrap().is_some());
        assert!(matches!(store.begin(&id()).unwrap(), Begin::Finished(_)));
        drop(store);
        assert!(!made.folder.exists());
        assert!(Store::open_to_look(folder.path().join("stages")).unwrap().keeps());
    }

    #[test]
    fn leftovers_go_when_nobody_is_at_work_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join(STORE);
        let store = Store::open(&root).unwrap();
        let stage = make(&store);
        let grid = folder.path().join("grid");
        let earlier = grid.join("earlier/0");
        fs::create_dir_all(&earlier).unwrap();
        fs::create_dir_all(folder.path().join("other")).unwrap();
        let left = [
            root.join(".tmpAb12xy"),
            grid.join(".tmpAb12xy"),
            earlier.join(".tmp000000"),
            root.join(LOCKS).join("x.lock"),
            root.join(".making-test-0-abcdef"),
        ];
        let kept = [
            stage.file("a.csv"),
            grid.join("results.csv"),
            earlier.join("results.csv"),
            grid.join(".tmpold"),
            // No results of a grid.
            folder.path().join("other/.tmpAb12xy"),
        ];
        for path in left[..4].iter().chain(&kept) {
            fs::write(path, "1,2\n").unwrap();
        }
        fs::create_dir(&left[4]).unwrap();
        let other = Store::open(&root).unwrap();
        store.sweep();
        assert!(left.iter().all(|path| path.exists()), "somebody else is at work");
        // Of two that end, whoever is second does it.
        other.leave();
        assert!(left.iter().all(|path| path.exists()), "somebody else is at work");
        store.leave();
        let store = Store::open_to_look(&root).unwrap();
        assert_eq!(left.iter().filter(|path| path.exists()).count(), 0);
        assert!(kept.iter().all(|path| path.exists()), "{kept:?}");
        assert!(store.find(&id()).unwrap().is_some());
    }

    #[test]
    fn a_stage_without_manifest_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fs::create_dir(folder.path().join(id().as_str())).unwrap();
        assert!(store.find(&id()).unwrap().is_none());
        make(&store);
        assert!(store.find(&id()).unwrap().is_some());
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
                        workspace.finish(json!({"n": 1}), json!({}), "cpu").unwrap();
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

    /// Checkpoints outlive the process that wrote them, and nothing but a sweep after the stage was finished or whoever made it removes them.
    #[test]
    fn checkpoints_stay_until_their_stage_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let checkpoints = store.checkpoints_of(&id(), 0);
        fs::create_dir_all(checkpoints.join("step-2")).unwrap();
        assert_eq!(store.leftovers().unwrap().paths, Vec::<PathBuf>::new());
        let shelved = store.checkpoints().unwrap();
        assert_eq!(shelved.iter().map(|shelved| &shelved.folder).collect::<Vec<_>>(), [&checkpoints]);
        // The next process that begins the stage finds them.
        drop(store.begin(&id()).unwrap());
        assert!(checkpoints.exists());
        make(&store);
        assert_eq!(store.leftovers().unwrap().paths, std::slice::from_ref(&checkpoints));
        // Whoever holds the lock of the stage may be at work with them.
        let held = store.try_lock(&id()).unwrap();
        assert_eq!(store.leftovers().unwrap().paths, Vec::<PathBuf>::new());
        drop(held);
        store.sweep();
        assert!(!checkpoints.exists() && store.checkpoints().unwrap().is_empty());
    }
}
