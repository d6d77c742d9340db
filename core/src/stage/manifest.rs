//! What is recorded about a finished stage, and whether its folder is what was recorded.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::identity::{StageId, hash};
use crate::{Error, Result, error::IoContext};

/// Name of the file.
pub const MANIFEST: &str = "manifest.json";

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

/// The key of a manifest's own hash. Manifests that were written before there was one have none.
const OWN_HASH: &str = "hash";

impl Manifest {
    /// Its text, sealed with the BLAKE3 of everything else that it says.
    pub fn sealed(&self) -> serde_json::Result<String> {
        let mut whole = serde_json::to_value(self)?;
        let seal = hash(&whole);
        whole[OWN_HASH] = seal.into();
        serde_json::to_string_pretty(&whole)
    }

    /// The manifest in a stage's folder, if there is one that can be read.
    pub fn read(folder: &Path) -> Option<Self> {
        Self::parse(&fs::read(folder.join(MANIFEST)).ok()?).ok()
    }

    /// Reads the text of a manifest; what is wrong with it, if anything is: it does not match its own hash, or its parameters are not those
    /// of its identity.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let damaged = |error: serde_json::Error| format!("the manifest is damaged: {error}");
        let mut whole: Value = serde_json::from_slice(text).map_err(damaged)?;
        let seal = whole.as_object_mut().and_then(|whole| whole.shift_remove(OWN_HASH));
        if seal.is_some_and(|seal| seal != hash(&whole).as_str()) {
            return Err("the manifest is not the one that was written".to_owned());
        }
        let manifest: Self = serde_json::from_value(whole).map_err(damaged)?;
        if !manifest.id.is_of(&manifest.parameters) {
            return Err("the manifest's parameters are not those of its identity".to_owned());
        }
        Ok(manifest)
    }
}

/// What a look at a stage's folder found.
pub enum Look {
    /// There is none.
    Absent,
    /// The folder is what its manifest says.
    Whole(Box<Manifest>),
    /// It is not, and why.
    Damaged(String),
}

/// A file of a stage that is not as it was written, or the error that keeps it from being read.
enum Fault {
    Damage(String),
    Unreadable(Error),
}

impl Fault {
    /// A file that is not there, or is a folder, is damage. Whatever else keeps it from being read (a permission, a limit, a drive that is
    /// away) says nothing about what is stored.
    fn of(cause: io::Error, path: &Path) -> Self {
        use io::ErrorKind::{InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound};
        match cause.kind() {
            NotFound | NotADirectory | IsADirectory | InvalidFilename | InvalidInput => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Self::Damage(format!("`{name}` is missing"))
            }
            _ => Self::Unreadable(
                Error::of_io("read a finished stage, which is left as it is", &cause, path)
                    .or_help("remove the stage's folder to have it made again"),
            ),
        }
    }
}

/// Looks at the folder of stage `id`. `known(stamp)` says whether files of that [stamp](stamp) have been hashed before and were right;
/// otherwise they are hashed now, and `learn(stamp)` is told if they are right.
///
/// # Errors
/// A file that cannot be read for any reason but that it is not there. That is no damage, and the stage stays where it is.
pub fn look(folder: &Path, id: &StageId, known: impl Fn(&str) -> bool, learn: impl FnOnce(&str)) -> Result<Look> {
    match inspect(folder, id, known, learn) {
        Ok(None) => Ok(Look::Absent),
        Ok(Some(manifest)) => Ok(Look::Whole(Box::new(manifest))),
        // A folder that went away meanwhile was moved by another process.
        Err(Fault::Damage(_)) if is_gone(folder) => Ok(Look::Absent),
        Err(Fault::Damage(reason)) => Ok(Look::Damaged(reason)),
        Err(Fault::Unreadable(error)) => Err(error),
    }
}

fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn inspect(
    folder: &Path,
    id: &StageId,
    known: impl Fn(&str) -> bool,
    learn: impl FnOnce(&str),
) -> Result<Option<Manifest>, Fault> {
    match fs::metadata(folder) {
        Ok(_) => {}
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(folder) {
            Ok(there) if there.is_symlink() => {
                let error = Error::new("the stage's folder is a link to what is not there").in_file(folder);
                return Err(Fault::Unreadable(error.help("mount the disk that it points to, or remove the link")));
            }
            // Another process has put it there in this very moment.
            Ok(_) => {}
            Err(_) => return Ok(None),
        },
        Err(cause) => return Err(Fault::of(cause, folder)),
    }
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(|cause| Fault::of(cause, &path))?;
    let manifest = Manifest::parse(&text).map_err(Fault::Damage)?;
    if manifest.id != *id {
        return Err(Fault::Damage("the manifest is that of another stage".to_owned()));
    }
    let mut stamped = blake3::Hasher::new();
    stamped.update(&text);
    let mut settled = true;
    for name in manifest.files.keys() {
        let path = folder.join(name);
        let metadata = fs::metadata(&path).map_err(|cause| Fault::of(cause, &path))?;
        settled &= stamp(name, &metadata, &mut stamped);
    }
    let stamped = stamped.finalize().to_hex()[..32].to_owned();
    if known(&stamped) {
        return Ok(Some(manifest));
    }
    for (name, expected) in &manifest.files {
        let path = folder.join(name);
        if digest(&path).map_err(|cause| Fault::of(cause, &path))? != *expected {
            return Err(Fault::Damage(format!("`{name}` is not the file that was written")));
        }
    }
    if settled {
        learn(&stamped);
    }
    Ok(Some(manifest))
}

/// Adds what tells whether a file has been touched to a hash: its size, its times of change, its number on the disk. Whether the file is
/// old enough that a later change cannot fall within the same tick of the clock.
#[cfg(unix)]
fn stamp(name: &str, metadata: &Metadata, into: &mut blake3::Hasher) -> bool {
    use std::{
        os::unix::fs::MetadataExt,
        time::{Duration, SystemTime},
    };
    /// Longer than the coarsest tick of a file system's clock that is common.
    const TICK: Duration = Duration::from_millis(20);
    into.update(name.as_bytes());
    for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
        into.update(&number.to_le_bytes());
    }
    into.update(&metadata.size().to_le_bytes());
    into.update(&metadata.ino().to_le_bytes());
    let changed = Duration::new(
        u64::try_from(metadata.ctime()).unwrap_or_default(),
        u32::try_from(metadata.ctime_nsec()).unwrap_or_default(),
    );
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed).is_ok_and(|age| age > TICK)
}

/// Elsewhere there is no time of change that a program cannot set: every look hashes.
#[cfg(not(unix))]
fn stamp(_name: &str, _metadata: &Metadata, _into: &mut blake3::Hasher) -> bool {
    false
}

/// What tells whether files have been touched, as one line: their paths, sizes, times of change and numbers on the disk. `None` where that
/// cannot be told: a file is not there, or so young that a change may fall within the same tick of the clock.
pub fn stamp_of(files: impl IntoIterator<Item = impl AsRef<Path>>) -> Option<String> {
    let mut stamped = blake3::Hasher::new();
    for file in files {
        let file = file.as_ref();
        let metadata = fs::metadata(file).ok()?;
        if !stamp(&file.to_string_lossy(), &metadata, &mut stamped) {
            return None;
        }
    }
    Some(stamped.finalize().to_hex()[..32].to_owned())
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// BLAKE3 of a file, in hexadecimal.
///
/// # Errors
/// A file that cannot be read.
pub fn hash_file(path: &Path) -> Result<String> {
    digest(path).path("read a file", path)
}

/// Every file below a folder, in order.
///
/// # Errors
/// A folder that cannot be read.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
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
