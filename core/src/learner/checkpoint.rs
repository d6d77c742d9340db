//! Checkpoints of a training that is under way: everything that its next step depends on, on disk, so that a process which is killed loses no more
//! than what it did since the last one. A continued training ends with the same bits as one that was never interrupted (on the CPU).
//!
//! A checkpoint is a folder `step-N` after N steps: `model.bpk` and `optimizer.bpk` as Burn writes them (every bit of a float, and the identities of
//! parameters, by which the optimizer finds its moments again), `state.json` with the log and what the kind of training carries along, and
//! `manifest.json`, written last, with the hash of each and of itself. The order of examples and the learning rate are functions of the step, and all
//! random numbers are drawn by name, so that no generator has a state to save.
//!
//! It is made under a temporary name, written through to the disk, then renamed; the last [`KEPT`] stay. Whoever trains holds the lock of the stage
//! that it trains for, so no two processes meet here.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use burn::{
    module::Module,
    optim::ModuleOptimizer,
    store::{BurnpackStore, ModuleSnapshot},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::run::{Execution, guard, lock};
use crate::{Error, Result, error::IoContext};

/// How many checkpoints of a training are kept: if the last one turns out to be damaged, there is the one before it.
const KEPT: usize = 2;
/// Raised when what is written changes its form.
const FORMAT: u32 = 1;
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";
const MANIFEST: &str = "manifest.json";
/// How folders of finished checkpoints begin; the number of steps follows.
const STEP: &str = "step-";
/// How folders begin that are being written or removed.
const TEMPORARY: &str = ".tmp-";

/// How often checkpoints are written: `5m` (also `s` and `h`), `500steps`, or `off`. It changes no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Every {
    /// When so much time has passed since the last one.
    Time(Duration),
    /// After so many steps.
    Steps(NonZeroUsize),
    /// Not at all, not even when somebody asks to stop.
    Never,
}

impl Default for Every {
    fn default() -> Self {
        Self::Time(Duration::from_secs(300))
    }
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("`{text}` is no interval: give a time such as `5m`, steps such as `500steps`, or `off`");
        if text == "off" {
            return Ok(Self::Never);
        }
        if let Some(number) = text.strip_suffix("steps").or_else(|| text.strip_suffix("step")) {
            return number.trim().parse().map(Self::Steps).map_err(|_| refused());
        }
        time(text).map(Self::Time).ok_or_else(refused)
    }
}

/// A time as people write it: `30s`, `5m`, `1.5h`. None is no time.
pub fn time(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let time = Duration::try_from_secs_f64(seconds * number.parse::<f64>().ok()?).ok()?;
    (!time.is_zero()).then_some(time)
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "{}s", time.as_secs_f64()),
            Self::Steps(steps) => write!(f, "{steps}steps"),
            Self::Never => f.write_str("off"),
        }
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        every.to_string()
    }
}

/// A wish from outside that work ends, and whether somebody is to be waited for who saves what was done. Clones are the same wish.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(AtomicBool, AtomicUsize)>);

impl Stop {
    /// Asks everybody to stop at the next good moment.
    pub fn ask(&self) {
        self.0.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }

    /// Whether there is somebody who saves what was done before stopping; otherwise nothing is lost by an end at once.
    pub fn is_awaited(&self) -> bool {
        self.0.1.load(Ordering::SeqCst) > 0
    }

    /// Has whoever asks wait until what this returns is dropped.
    pub fn wait_for_me(&self) -> Awaited {
        self.0.1.fetch_add(1, Ordering::SeqCst);
        Awaited(self.clone())
    }
}

/// Work that is waited for when somebody [asks to stop](Stop).
#[derive(Debug)]
pub struct Awaited(Stop);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.0.1.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What happens to checkpoints that a user should know.
#[derive(Clone, Debug, PartialEq)]
pub enum Passage {
    /// Training goes on after so many steps of so many.
    Resumed {
        /// Steps that were done before.
        step: usize,
        /// All steps.
        steps: usize,
    },
    /// A checkpoint is damaged, or that of another training, and was put aside.
    PutAside {
        /// Where it is now.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint cannot be written; training goes on.
    NotWritten(String),
}

type Listener = dyn Fn(Passage) + Send + Sync;

/// Where a training keeps its checkpoints, and how often it writes one.
#[derive(Clone)]
pub struct Checkpoints {
    /// Their folder, which nobody else uses at the same time. It is made when the first one is written.
    pub folder: PathBuf,
    /// Where those are put that are damaged or another training's.
    pub aside: PathBuf,
    /// What tells this training from every other: only its checkpoints are taken up.
    pub training: Value,
    /// How often.
    pub every: Every,
    /// Who is told.
    pub tell: Arc<Listener>,
}

impl fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoints({}, every {})", self.folder.display(), self.every)
    }
}

/// Everything that a checkpoint must have in common with the training that takes it up.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Owner {
    format: u32,
    version: String,
    commit: String,
    training: Value,
    steps: usize,
    /// Rows at once change the order of sums.
    micro_batch: Option<usize>,
    predict_batch: usize,
}

impl Owner {
    /// What of `other` is not ours, if anything is.
    fn differs(&self, other: &Self) -> Option<String> {
        let (own, others) = (serde_json::to_value(self).ok()?, serde_json::to_value(other).ok()?);
        let (key, value) = others.as_object()?.iter().find(|(key, value)| own[key.as_str()] != **value)?;
        Some(format!("it is of another training: {} is {value} and should be {}", key.replace('_', " "), own[key]))
    }
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    owner: Owner,
    step: usize,
    /// BLAKE3 of every other file.
    files: BTreeMap<String, String>,
    /// BLAKE3 of this one without this line.
    hash: String,
}

impl Manifest {
    fn seal(&self) -> Result<String> {
        let rest = serde_json::to_vec(&(&self.owner, self.step, &self.files)).map_err(unfit)?;
        Ok(blake3::hash(&rest).to_hex().to_string())
    }
}

/// What is read of a checkpoint.
pub(super) struct Resumed<M, S> {
    pub(super) model: M,
    pub(super) optimizer: ModuleOptimizer,
    pub(super) state: S,
}

/// What a training is saved and continued with.
#[derive(Debug)]
pub(super) struct Saver {
    checkpoints: Checkpoints,
    owner: Owner,
    last: Mutex<Instant>,
}

impl Saver {
    /// For a training of so many steps, if its checkpoints are wanted.
    pub(super) fn new(execution: &Execution, steps: usize) -> Option<Self> {
        let checkpoints = execution.checkpoints.clone().filter(|checkpoints| checkpoints.every != Every::Never)?;
        let owner = Owner {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: crate::commit().to_owned(),
            training: checkpoints.training.clone(),
            steps,
            micro_batch: execution.micro_batch,
            predict_batch: execution.predict_batch,
        };
        Some(Self { checkpoints, owner, last: Mutex::new(Instant::now()) })
    }

    /// Whether it is time for a checkpoint, after so many steps.
    pub(super) fn is_due(&self, done: usize) -> bool {
        match self.checkpoints.every {
            Every::Time(time) => lock(&self.last).elapsed() >= time,
            Every::Steps(steps) => done.is_multiple_of(steps.get()),
            Every::Never => false,
        }
    }

    /// Writes a checkpoint after so many steps. One that cannot be written is said; training loses nothing by it.
    pub(super) fn save<M: Module>(&self, done: usize, model: &M, optimizer: &ModuleOptimizer, state: &impl Serialize) {
        // A device that reads its tensors back may panic.
        let written = guard(|| self.write(done, model, optimizer, state)).flatten();
        if let Err(error) = written {
            (self.checkpoints.tell)(Passage::NotWritten(error.to_string()));
        }
        *lock(&self.last) = Instant::now();
    }

    fn write<M: Module>(
        &self,
        done: usize,
        model: &M,
        optimizer: &ModuleOptimizer,
        state: &impl Serialize,
    ) -> Result<()> {
        let home = &self.checkpoints.folder;
        fs::create_dir_all(home).path("create the folder of checkpoints", home)?;
        let folder = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(home).path("create a checkpoint", home)?;
        let at = folder.path();
        // The optimizer first: what it is read back into is gone before the model is.
        optimizer.save(at.join(OPTIMIZER)).map_err(unfit)?;
        model.save_into(&mut BurnpackStore::from_file(at.join(MODEL))).map_err(unfit)?;
        fs::write(at.join(STATE), serde_json::to_vec(state).map_err(unfit)?).path("write a checkpoint", at)?;
        let mut files = BTreeMap::new();
        for name in [MODEL, OPTIMIZER, STATE] {
            let path = at.join(name);
            files.insert(name.to_owned(), hash(&path)?);
            File::open(&path).and_then(|file| file.sync_all()).path("write a checkpoint to disk", &path)?;
        }
        let mut manifest = Manifest { owner: self.owner.clone(), step: done, files, hash: String::new() };
        manifest.hash = manifest.seal()?;
        let path = at.join(MANIFEST);
        let mut file = File::create(&path).path("write a checkpoint", &path)?;
        let text = serde_json::to_vec_pretty(&manifest).map_err(unfit)?;
        file.write_all(&text).and_then(|()| file.sync_all()).path("write a checkpoint", &path)?;
        let target = home.join(format!("{STEP}{done}"));
        remove(&target)?;
        fs::rename(at, &target).path("put a checkpoint into its place", &target)?;
        // It has moved: there is nothing left to remove.
        let _ = folder.keep();
        File::open(home).and_then(|dir| dir.sync_all()).path("write a checkpoint to disk", home)?;
        steps_in(home).into_iter().skip(KEPT).try_for_each(|(_, old)| remove(&old))
    }

    /// The newest checkpoint that is sound and this training's, taken up with a model as it was before training and an optimizer without state.
    /// Others are put aside on the way.
    pub(super) fn newest<M: Module, S: DeserializeOwned>(
        &self,
        fresh: &M,
        optimizer: &ModuleOptimizer,
    ) -> Option<Resumed<M, S>> {
        let home = &self.checkpoints.folder;
        for entry in fs::read_dir(home).ok()?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                // A killed process wrote it. What cannot be removed stays.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        for (step, folder) in steps_in(home) {
            match guard(|| self.read(step, &folder, fresh.clone(), optimizer.clone())).flatten() {
                Ok(resumed) => {
                    (self.checkpoints.tell)(Passage::Resumed { step, steps: self.owner.steps });
                    return Some(resumed);
                }
                Err(error) => self.put_aside(step, &folder, error.message()),
            }
        }
        None
    }

    fn read<M: Module, S: DeserializeOwned>(
        &self,
        step: usize,
        folder: &Path,
        mut model: M,
        optimizer: ModuleOptimizer,
    ) -> Result<Resumed<M, S>> {
        let path = folder.join(MANIFEST);
        let text = fs::read(&path).path("read the manifest of a checkpoint", &path)?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(unfit)?;
        if manifest.hash != manifest.seal()? || manifest.step != step {
            return Err(Error::new("its manifest is not the one that was written"));
        }
        if let Some(difference) = self.owner.differs(&manifest.owner) {
            return Err(Error::new(difference));
        }
        for name in [MODEL, OPTIMIZER, STATE] {
            if manifest.files.get(name) != Some(&hash(&folder.join(name))?) {
                return Err(Error::new(format!("`{name}` is not the file that was written")));
            }
        }
        let loaded = model.load_from(&mut BurnpackStore::from_file(folder.join(MODEL))).map_err(unfit)?;
        if !loaded.is_success() || !loaded.unused.is_empty() {
            return Err(Error::new("its model is another one"));
        }
        let state = fs::read(folder.join(STATE)).path("read a checkpoint", folder)?;
        let state = serde_json::from_slice(&state).map_err(unfit)?;
        Ok(Resumed { model, optimizer: optimizer.load(folder.join(OPTIMIZER)).map_err(unfit)?, state })
    }

    /// Puts a checkpoint out of the way, with the reason beside it.
    fn put_aside(&self, step: usize, folder: &Path, reason: &str) {
        let shelf = &self.checkpoints.aside;
        let name = self.checkpoints.folder.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{}-{STEP}{step}", name.trim_start_matches('.'));
        let target = (0..).map(|n| shelf.join(format!("{name}.{n}"))).find(|path| !path.exists()).unwrap_or_default();
        let moved = fs::create_dir_all(shelf).and_then(|()| fs::rename(folder, &target));
        let folder = if moved.is_ok() { target } else { folder.to_owned() };
        // The reason is a courtesy to whoever looks.
        let _ = fs::write(folder.join("reason.txt"), format!("{reason}\n"));
        (self.checkpoints.tell)(Passage::PutAside { folder, reason: reason.to_owned() });
    }
}

/// Checkpoints in a folder, the newest first, by the number of steps.
fn steps_in(home: &Path) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let mut found: Vec<(usize, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.strip_prefix(STEP)?.parse().ok()?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found
}

/// Removes a checkpoint, if it is there: it is whole or not there at any moment.
fn remove(folder: &Path) -> Result<()> {
    let (Some(home), Some(name)) = (folder.parent(), folder.file_name()) else { return Ok(()) };
    let out = home.join(format!("{TEMPORARY}{}", name.to_string_lossy()));
    let removed = match fs::rename(folder, &out) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        moved => moved.and_then(|()| fs::remove_dir_all(&out)),
    };
    removed.path("remove a checkpoint", folder)
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ())).path("read a checkpoint", path)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn unfit(error: impl fmt::Display) -> Error {
    Error::new(format!("it cannot be written or read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_and_written() {
        let every = |text: &str| text.parse::<Every>();
        assert_eq!(every("5m"), Ok(Every::default()));
        assert_eq!(every("1.5h"), Ok(Every::Time(Duration::from_secs(5400))));
        assert_eq!(every("0.2s"), Ok(Every::Time(Duration::from_millis(200))));
        assert_eq!(every("off"), Ok(Every::Never));
        for text in ["1step", "500steps", "300s", "off"] {
            let parsed = every(text).unwrap();
            assert_eq!(every(&parsed.to_string()), Ok(parsed));
            assert_eq!(serde_json::from_value::<Every>(serde_json::to_value(parsed).unwrap()).unwrap(), parsed);
        }
        for text in ["", "5", "m", "0steps", "1.5steps", "0s", "-1m", "5 minutes", "1e9999h", "1..2s"] {
            assert!(every(text).unwrap_err().contains("is no interval: give a time such as `5m`"), "{text}");
        }
    }

    #[test]
    fn who_saves_is_waited_for() {
        let stop = Stop::default();
        let other = stop.clone();
        assert!(!other.is_asked() && !other.is_awaited());
        let awaited = stop.wait_for_me();
        other.ask();
        assert!(stop.is_asked() && other.is_awaited());
        drop(awaited);
        assert!(stop.is_asked() && !other.is_awaited());
    }
}
