//! Locks between processes that share a folder, on one machine or on several.
//!
//! Where the system's own locks (`flock`) hold between all who share the folder, they are used: a process that dies releases them at once, however
//! it dies. Some network file systems know them on one machine alone, or not at all. There, a lock is a file that is made atomically beside
//! the locked one, a *lease*: whoever holds it writes it again every few seconds, and once it has stood still for [`LEASE`] (by the
//! file system's own clock), or its process is seen to be dead, it counts for nothing. All who share a folder must lock in the same way, so
//! that the one who finds leases necessary leaves a file there that says so ([`MARK`]).

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{
        self,
        ErrorKind::{AlreadyExists, NotFound, PermissionDenied, ReadOnlyFilesystem, StaleNetworkFileHandle},
        Write as _,
    },
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{Result, error::IoContext};

/// How long a lease holds that nobody writes again.
pub const LEASE: Duration = Duration::from_secs(90);
/// The file that says that a folder is locked by leases. It holds their length in seconds, when that is not [`LEASE`].
pub const MARK: &str = ".leases";
/// The variable of the environment by which a user chooses leases: `W2S_LOCKS=leases`.
pub const CHOICE: &str = "W2S_LOCKS";

/// How often within its length a lease is written again.
const BEATS: u32 = 6;
/// How often somebody who waits for a lease looks.
const PAUSE: Duration = Duration::from_millis(200);

/// A file that processes lock. Dropping it releases the lock.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
    lease: Option<Lease>,
}

impl Lock {
    /// Opens a file to lock, making it if it is not there.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = match File::options().create(true).truncate(false).write(true).open(path) {
            // The lock of another user can be taken all the same.
            Err(error) if error.kind() == PermissionDenied && path.exists() => File::open(path),
            file => file,
        };
        Ok(Self::of(file.path("open a lock", path)?, path))
    }

    /// Opens a file to lock, if it is there.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn open_existing(path: &Path) -> Result<Option<Self>> {
        match File::open(path) {
            Err(error) if error.kind() == NotFound => Ok(None),
            file => Ok(Some(Self::of(file.path("open a lock", path)?, path))),
        }
    }

    fn of(file: File, path: &Path) -> Self {
        let lease = length_in(path.parent().unwrap_or(Path::new("."))).map(|length| Lease::new(path, length));
        Self { path: path.to_owned(), file, lease }
    }

    /// The file itself. What stands in it is up to whoever holds the lock.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn tried(&self, flock: impl FnOnce(&File) -> Result<(), TryLockError>, shared: bool) -> Result<bool> {
        let taken = match &self.lease {
            Some(lease) => lease.take(shared),
            None => match flock(&self.file) {
                Ok(()) => Ok(true),
                Err(TryLockError::WouldBlock) => Ok(false),
                Err(TryLockError::Error(error)) => Err(error),
            },
        };
        taken.path("take a lock", &self.path)
    }

    /// Takes the lock for this handle alone, unless somebody holds it.
    ///
    /// # Errors
    /// A file system that refuses.
    pub fn try_lock(&self) -> Result<bool> {
        self.tried(File::try_lock, false)
    }

    /// Takes the lock together with others who share it, unless somebody holds it alone.
    ///
    /// # Errors
    /// A file system that refuses.
    pub fn try_lock_shared(&self) -> Result<bool> {
        self.tried(File::try_lock_shared, true)
    }

    fn waited(&self, flock: impl FnOnce(&File) -> io::Result<()>, shared: bool) -> Result<()> {
        let Some(lease) = &self.lease else { return flock(&self.file).path("take a lock", &self.path) };
        while !lease.take(shared).path("take a lock", &self.path)? {
            thread::sleep(PAUSE.min(lease.length / BEATS));
        }
        Ok(())
    }

    /// Takes the lock for this handle alone, as soon as nobody holds it.
    ///
    /// # Errors
    /// A file system that refuses.
    pub fn lock(&self) -> Result<()> {
        self.waited(File::lock, false)
    }

    /// Takes the lock together with others who share it, as soon as nobody holds it alone.
    ///
    /// # Errors
    /// A file system that refuses.
    pub fn lock_shared(&self) -> Result<()> {
        self.waited(File::lock_shared, true)
    }

    /// Releases the lock.
    ///
    /// # Errors
    /// A file system that refuses.
    pub fn unlock(&self) -> Result<()> {
        match &self.lease {
            Some(lease) => {
                lease.release();
                Ok(())
            }
            None => self.file.unlock().path("release a lock", &self.path),
        }
    }

    /// Whether what was taken is still held. Under leases, a process that stood still for longer than a lease (asleep, suspended, cut off from its
    /// files) may have lost it to another.
    pub fn is_held(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::is_held)
    }
}

/// Whether a file is a lease, or what is left of one, that counts for nothing any more.
pub fn is_spent(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(Path::new("."));
    (name.ends_with(ALONE) || name.ends_with(BREAKING) || name.contains(SHARED))
        && length_in(folder).is_none_or(|length| is_stale(path, length).unwrap_or(false))
}

/// Ends of the names of leases: that of a single holder, that of one of several (their token follows), that of whoever removes a stale one.
const ALONE: &str = ".lease";
const SHARED: &str = ".lease-";
const BREAKING: &str = ".breaking";

/// The right to a file for as long as it is written again.
#[derive(Debug)]
struct Lease {
    alone: PathBuf,
    shared: PathBuf,
    holder: Holder,
    length: Duration,
}

/// What a lease says of who holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Holder {
    /// Names the machine for people.
    host: String,
    /// The same for all processes that see each other by their numbers.
    place: String,
    process: u32,
    /// Of this handle alone.
    token: String,
}

/// The leases of this process, and whether each is still ours.
static HELD: Mutex<BTreeMap<PathBuf, Beat>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Beat {
    text: String,
    length: Duration,
    lost: bool,
}

fn held() -> MutexGuard<'static, BTreeMap<PathBuf, Beat>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease {
    fn new(path: &Path, length: Duration) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (host, place) = here();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        // Two machines may count their processes alike, and one may count them anew.
        let seed = format!("{host} {place} {} {since}", process::id());
        let word = &blake3::hash(seed.as_bytes()).to_hex()[..12];
        let token = format!("{word}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let holder = Holder { host: host.clone(), place: place.clone(), process: process::id(), token };
        let with = |end: String| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(end);
            path.with_file_name(name)
        };
        Self { alone: with(ALONE.into()), shared: with(format!("{SHARED}{}", holder.token)), holder, length }
    }

    /// Takes it, unless others stand in the way.
    fn take(&self, shared: bool) -> io::Result<bool> {
        if shared {
            // First made known, then looked: of a process that shares and one that wants to be alone, at least one sees the other.
            match self.make(&self.shared) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // Who may only look sees at least whether somebody is alone there.
                Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => {
                    return is_stale(&self.alone, self.length);
                }
                Err(error) => return Err(error),
            }
            if self.stands(&self.alone)? {
                self.drop_file(&self.shared);
                return Ok(false);
            }
            return Ok(true);
        }
        if !self.make(&self.alone)? {
            return Ok(false);
        }
        let name = self.alone.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let prefix = format!("{}{SHARED}", name.trim_end_matches(ALONE));
        for entry in fs::read_dir(self.alone.parent().unwrap_or(Path::new(".")))?.flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with(&prefix) && path != self.shared && self.stands(&path)? {
                self.drop_file(&self.alone);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes a lease, unless somebody has it.
    fn make(&self, path: &Path) -> io::Result<bool> {
        let text = serde_json::to_string(&self.holder)?;
        for _ in 0..2 {
            // Whoever of this process looks at it meanwhile waits until it is known to be ours.
            let mut held = held();
            match File::create_new(path) {
                Ok(mut file) => {
                    if let Err(error) = file.write_all(text.as_bytes()) {
                        // If it cannot be removed it grows stale.
                        let _ = fs::remove_file(path);
                        return Err(error);
                    }
                    held.insert(path.to_owned(), Beat { text, length: self.length, lost: false });
                    drop(held);
                    keep_alive();
                    return Ok(true);
                }
                Err(error) if error.kind() == AlreadyExists => {
                    drop(held);
                    if self.stands(path)? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether a lease counts; a stale one is removed.
    fn stands(&self, path: &Path) -> io::Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        if !is_stale(path, self.length)? {
            return Ok(true);
        }
        // One at a time, or the second would remove what has been made anew since the first one looked.
        let mut breaking = path.as_os_str().to_owned();
        breaking.push(BREAKING);
        let breaking = PathBuf::from(breaking);
        match File::create_new(&breaking) {
            Ok(mut file) => serde_json::to_string(&self.holder).map(|text| file.write_all(text.as_bytes()))??,
            Err(error) if error.kind() == AlreadyExists => {
                if is_stale(&breaking, self.length)? {
                    gone(fs::remove_file(&breaking))?;
                }
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        let removed = match is_stale(path, self.length) {
            Ok(true) => gone(fs::remove_file(path)).map(|()| true),
            still => still,
        };
        gone(fs::remove_file(&breaking))?;
        removed.map(|removed| !removed && path.exists())
    }

    /// Looks, too: it may have been lost since it was written last.
    fn is_held(&self) -> bool {
        let mut held = held();
        for path in [&self.alone, &self.shared] {
            if let Some(beat) = held.get_mut(path) {
                beat.lost |= !is_renewed(path, beat);
                return !beat.lost;
            }
        }
        false
    }

    fn release(&self) {
        for path in [&self.alone, &self.shared] {
            self.drop_file(path);
        }
    }

    /// Gives a lease back, if it is ours.
    fn drop_file(&self, path: &Path) {
        let mut held = held();
        let Ok(ours) = serde_json::to_string(&self.holder) else { return };
        if held.get(path).is_none_or(|beat| beat.text != ours) {
            return;
        }
        let lost = held.remove(path).is_some_and(|beat| beat.lost);
        // What is in its place may have been made by another since. If it cannot be removed it grows stale.
        if !lost && fs::read_to_string(path).is_ok_and(|text| text == ours || text.is_empty()) {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}

/// Whether an error says that a file is not there any more. On network file systems that may be heard of an open file, too, which another machine
/// has removed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), NotFound | StaleNetworkFileHandle)
}

/// The same, where what was to be removed is gone already.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

/// Writes the leases of this process again, in a thread of its own, and gives them back when the process ends.
fn keep_alive() {
    static THREAD: OnceLock<Option<thread::Thread>> = OnceLock::new();
    let start = || {
        #[cfg(unix)]
        // SAFETY: the function may be called at any time; that it is not called is no harm.
        unsafe {
            libc::atexit(give_all_back);
        }
        let beat = || loop {
            for (path, beat) in held().iter_mut() {
                beat.lost |= !is_renewed(path, beat);
            }
            let length = held().values().map(|beat| beat.length).min().unwrap_or(LEASE);
            thread::park_timeout(length / (2 * BEATS));
        };
        // Without the thread, leases grow stale: what is made is the same, and may be made twice.
        let started = thread::Builder::new().name("leases".into()).spawn(beat);
        started.ok().map(|handle| handle.thread().clone())
    };
    // A short one among long ones is not to wait for their turn.
    THREAD.get_or_init(start).as_ref().inspect(|thread| thread.unpark());
}

#[cfg(unix)]
extern "C" fn give_all_back() {
    release_all();
}

/// Gives back all leases of a process that is about to end. What others hold at that moment grows stale instead.
pub fn release_all() {
    let Ok(mut held) = HELD.try_lock() else { return };
    for (path, beat) in std::mem::take(&mut *held) {
        if !beat.lost && fs::read_to_string(&path).is_ok_and(|text| text == beat.text) {
            // As above.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a lease again when it is time; false if it is another's.
fn is_renewed(path: &Path, beat: &Beat) -> bool {
    let renew = || -> io::Result<bool> {
        if fs::read_to_string(path)? != beat.text {
            return Ok(false);
        }
        let mut file = File::options().write(true).open(path)?;
        let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        // Other clocks may go otherwise: only what is surely young is left alone.
        if age > Duration::ZERO && age < beat.length / (2 * BEATS) {
            return Ok(true);
        }
        file.write_all(beat.text.as_bytes())?;
        Ok(true)
    };
    // A drive that is away for a moment has taken nothing from us.
    renew().unwrap_or_else(|error| !is_gone(&error))
}

/// Whether a lease counts for nothing: its process is dead, as far as can be seen from here, or nobody has written it for too long.
fn is_stale(path: &Path, length: Duration) -> io::Result<bool> {
    // Opened, so that network file systems ask the server for the time of change.
    let look = || -> io::Result<(String, SystemTime)> {
        let file = File::open(path)?;
        let text = io::read_to_string(&file).unwrap_or_default();
        Ok((text, file.metadata()?.modified()?))
    };
    let (text, changed) = match look() {
        Err(error) if is_gone(&error) => return Ok(true),
        looked => looked?,
    };
    if let Ok(holder) = serde_json::from_str::<Holder>(&text)
        && holder.place == here().1
    {
        let mine = holder.process == process::id();
        if mine && held().get(path).is_none_or(|beat| beat.text != text) || !mine && !is_alive(holder.process) {
            return Ok(true);
        }
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    // By the clock that the time of change is from.
    let now = tempfile::tempfile_in(folder).and_then(|file| file.metadata()?.modified());
    let age = now.unwrap_or_else(|_| SystemTime::now()).duration_since(changed);
    Ok(age.unwrap_or_default() > length)
}

#[cfg(unix)]
fn is_alive(process: u32) -> bool {
    let Ok(process) = libc::pid_t::try_from(process) else { return true };
    // SAFETY: signal 0 is sent to nobody.
    unsafe { libc::kill(process, 0) == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH) }
}

#[cfg(not(unix))]
fn is_alive(_process: u32) -> bool {
    true
}

/// The name of this machine, if the system says it.
#[cfg(feature = "gpu")]
pub fn machine() -> &'static str {
    &here().0
}

/// The name of this machine, and what is the same for all processes whose numbers mean the same.
fn here() -> &'static (String, String) {
    static HERE: OnceLock<(String, String)> = OnceLock::new();
    HERE.get_or_init(|| {
        let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let host = read("/proc/sys/kernel/hostname");
        let boot = read("/proc/sys/kernel/random/boot_id");
        let numbers = fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned());
        let place = match (boot.is_empty(), numbers) {
            (false, Ok(numbers)) => format!("{boot} {numbers}"),
            // Unknown: no process is taken for one of our own machine.
            _ => format!("{host} {} {:?}", process::id(), SystemTime::now()),
        };
        (host, place)
    })
}

/// How long leases hold in a folder; `None` where the system's locks are used.
fn length_in(folder: &Path) -> Option<Duration> {
    static KNOWN: Mutex<BTreeMap<PathBuf, Option<Duration>>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(length) = known().get(folder) {
        return *length;
    }
    let length = marked(folder).or_else(|| {
        let chosen = std::env::var_os(CHOICE).is_some_and(|choice| choice == "leases");
        if !chosen && !are_local(folder) {
            return None;
        }
        // In a folder that cannot be written nothing is locked.
        File::options().create(true).append(true).open(folder.join(MARK)).ok().map(|_| LEASE)
    });
    known().insert(folder.to_owned(), length);
    length
}

fn marked(folder: &Path) -> Option<Duration> {
    let text = fs::read_to_string(folder.join(MARK)).ok()?;
    let seconds = text.trim().parse::<f64>().ok().filter(|seconds| *seconds > 0.0 && seconds.is_finite());
    Some(seconds.map_or(LEASE, Duration::from_secs_f64))
}

/// Whether the system's locks are unknown in a folder, or known to this machine alone though others may share it.
fn are_local(folder: &Path) -> bool {
    let mounted = fs::read_to_string("/proc/self/mountinfo").ok().zip(folder.canonicalize().ok());
    if mounted.is_some_and(|(table, folder)| are_local_by(&table, &folder)) {
        return true;
    }
    let tried = tempfile::tempfile_in(folder).map(|file| file.try_lock());
    matches!(tried, Ok(Err(TryLockError::Error(error))) if is_unknown(&error))
}

/// Whether a file system says that it has no locks.
fn is_unknown(error: &io::Error) -> bool {
    #[cfg(unix)]
    if matches!(error.raw_os_error(), Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP)) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
}

/// The same by the system's table of mounts (`proc_pid_mountinfo(5)`).
fn are_local_by(table: &str, folder: &Path) -> bool {
    let mounts = table.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?.replace("\\040", " ").replace("\\134", "\\");
        let mut system = system.split(' ');
        let kind = system.next()?;
        Some((PathBuf::from(point), kind, system.nth(1).unwrap_or_default()))
    });
    // Of two at the same place the later one covers the earlier.
    let Some((_, kind, options)) =
        mounts.filter(|(point, ..)| folder.starts_with(point)).max_by_key(|(point, ..)| point.components().count())
    else {
        return false;
    };
    let has = |wanted: &str| options.split(',').any(|option| option == wanted);
    match kind {
        "nfs" | "nfs4" => ["nolock", "local_lock=all", "local_lock=flock"].into_iter().any(has),
        "lustre" => !has("flock"),
        "9p" | "afs" | "beegfs" | "cifs" | "smb3" | "smbfs" | "vboxsf" | "virtiofs" => true,
        _ => kind.starts_with("fuse.") && !["fuse.ceph", "fuse.glusterfs"].contains(&kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with leases of so many seconds.
    fn leased(seconds: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MARK), format!("{seconds}\n")).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A lease as another machine would hold it, written so many seconds ago.
    fn foreign(path: &Path, name: &str, ago: u64) -> PathBuf {
        let holder = Holder { host: "other".into(), place: "other".into(), process: 1, token: "other-0".into() };
        let file = path.with_file_name(format!("{}{name}", path.file_name().unwrap().to_str().unwrap()));
        fs::write(&file, serde_json::to_string(&holder).unwrap()).unwrap();
        let written = SystemTime::now() - Duration::from_secs(ago);
        File::options().write(true).open(&file).unwrap().set_modified(written).unwrap();
        file
    }

    #[test]
    fn both_kinds_of_lock_keep_the_same_rules() {
        for folder in [leased(60), tempfile::tempdir().unwrap()] {
            let path = folder.path().join("it.lock");
            let [a, b, c] = [0; 3].map(|_| Lock::open(&path).unwrap());
            assert!(a.try_lock().unwrap());
            assert!(!b.try_lock().unwrap() && !b.try_lock_shared().unwrap());
            a.unlock().unwrap();
            assert!(b.try_lock_shared().unwrap() && c.try_lock_shared().unwrap());
            assert!(!a.try_lock().unwrap());
            b.unlock().unwrap();
            assert!(!a.try_lock().unwrap());
            drop(c);
            assert!(a.try_lock().unwrap() && a.is_held());
            drop((a, b));
            let left: Vec<_> = names(folder.path()).into_iter().filter(|name| name != MARK).collect();
            assert_eq!(left, ["it.lock"]);
            // One that is not there is not made.
            assert!(Lock::open_existing(&folder.path().join("other")).unwrap().is_none());
        }
    }

    #[test]
    fn who_waits_for_a_lease_gets_it() {
        let folder = leased(60);
        let path = folder.path().join("it.lock");
        let first = Lock::open(&path).unwrap();
        assert!(first.try_lock().unwrap());
        let waiting = thread::spawn(move || {
            let second = Lock::open(&path).unwrap();
            second.lock().unwrap();
            second.is_held()
        });
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn a_lease_of_another_machine_counts_until_it_stands_still() {
        let folder = leased(60);
        let path = folder.path().join("it.lock");
        let lock = Lock::open(&path).unwrap();
        for (name, shares) in [(ALONE, false), (".lease-other-0", true)] {
            for ago in [0, 30] {
                let lease = foreign(&path, name, ago);
                assert!(!lock.try_lock().unwrap() && !is_spent(&lease), "{name}, {ago} seconds ago");
                assert_eq!(lock.try_lock_shared().unwrap(), shares, "{name}, {ago} seconds ago");
                lock.unlock().unwrap();
            }
            let lease = foreign(&path, name, 61);
            assert!(is_spent(&lease), "{name}");
            assert!(lock.try_lock().unwrap(), "{name}");
            lock.unlock().unwrap();
            assert!(!lease.exists(), "{name}");
        }
        // Who was about to remove a stale one and died counts for nothing after a while, either.
        foreign(&path, ALONE, 61);
        let breaking = foreign(&path, ".lease.breaking", 0);
        assert!(!lock.try_lock().unwrap() && breaking.exists());
        foreign(&path, ".lease.breaking", 61);
        assert!(!lock.try_lock().unwrap() && !breaking.exists());
        assert!(lock.try_lock().unwrap());
    }

    #[test]
    fn a_lease_that_is_held_is_written_again() {
        let folder = leased(3);
        let path = folder.path().join("it.lock");
        let [a, b] = [0; 2].map(|_| Lock::open(&path).unwrap());
        assert!(a.try_lock().unwrap());
        for _ in 0..5 {
            thread::sleep(Duration::from_secs(1));
            assert!(!b.try_lock().unwrap());
        }
        assert!(a.is_held());
    }

    #[test]
    fn who_slept_too_long_learns_that_another_took_over() {
        let folder = leased(3);
        let path = folder.path().join("it.lock");
        let lock = Lock::open(&path).unwrap();
        assert!(lock.try_lock().unwrap());
        let lease = foreign(&path, ALONE, 0);
        assert!(!lock.is_held());
        // What is the other's stays.
        drop(lock);
        assert!(fs::read_to_string(lease).unwrap().contains("other"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_lease_of_a_dead_process_is_free_at_once() {
        let mut child = process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let folder = leased(60);
        let path = folder.path().join("it.lock");
        let lock = Lock::open(&path).unwrap();
        // Of another process, and of an earlier one with our own number.
        for process in [child.id(), process::id()] {
            let holder = Holder { host: String::new(), place: here().1.clone(), process, token: "dead".into() };
            fs::write(folder.path().join("it.lock.lease"), serde_json::to_string(&holder).unwrap()).unwrap();
            assert!(lock.try_lock().unwrap(), "{process}");
            lock.unlock().unwrap();
        }
        assert_eq!(names(folder.path()), [MARK, "it.lock"]);
    }

    #[test]
    fn file_systems_whose_locks_are_local_are_known() {
        let row = |point: &str, system: &str| format!("36 35 98:0 / {point} rw,noatime master:1 - {system}\n");
        let table: String = [
            ("/", "ext4 /dev/vda rw"),
            ("/nfs", "nfs4 server:/x rw,vers=4.2,local_lock=none"),
            ("/nfs/old", "nfs server:/x rw,vers=3,local_lock=all"),
            ("/scratch", "lustre a@tcp:/x rw,localflock"),
            ("/data", "lustre a@tcp:/x rw,flock,lazystatfs"),
            ("/my\\040disk", "fuse.sshfs me@there:/ rw"),
            ("/gluster", "fuse.glusterfs x rw"),
        ]
        .map(|(point, system)| row(point, system))
        .concat();
        for (folder, local) in [
            ("/home/me", false),
            ("/nfs/me", false),
            ("/nfs/old/me", true),
            ("/nfs/older", false),
            ("/scratch/me", true),
            ("/data/me", false),
            ("/my disk/results", true),
            ("/gluster/a", false),
        ] {
            assert_eq!(are_local_by(&table, Path::new(folder)), local, "{folder}");
        }
    }
}
