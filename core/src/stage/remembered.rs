//! Which stages have been hashed and were right, so that a look does not hash them again.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf};

use super::{identity::StageId, store::write_atomically};

/// A file of lines `ID STAMP`, the last of an identity counts: the [stamp](super::manifest::look) that a stage's files had when they were
/// hashed and right; `-` once they were found wrong.
///
/// It is a memory and no record: whatever is missing in it, be it for a folder that cannot be written, costs one more hashing.
#[derive(Debug)]
pub struct Verified {
    path: PathBuf,
    stamps: BTreeMap<String, String>,
}

impl Verified {
    /// Reads the file, if there is one.
    pub fn open(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines = || text.lines().filter_map(|line| line.split_once(' '));
        let stamps: BTreeMap<_, _> = lines().map(|(id, stamp)| (id.to_owned(), stamp.to_owned())).collect();
        let verified = Self { path, stamps };
        if lines().count() > 2 * verified.stamps.len() + 100 {
            let text: String = verified.stamps.iter().map(|(id, stamp)| format!("{id} {stamp}\n")).collect();
            // Another process may add a line in this moment, which is then forgotten.
            let _ = write_atomically(&verified.path, text.as_bytes());
        }
        verified
    }

    /// Whether the stage's files had this stamp when they were hashed and right.
    pub fn knows(&self, id: &StageId, stamp: &str) -> bool {
        self.stamps.get(id.as_str()).is_some_and(|known| known == stamp)
    }

    /// Remembers a stamp.
    pub fn learn(&mut self, id: &StageId, stamp: &str) {
        if !self.knows(id, stamp) {
            self.stamps.insert(id.to_string(), stamp.to_owned());
            let file = fs::File::options().append(true).create(true).open(&self.path);
            // One line is one write, so that lines of several processes do not mix.
            let _ = file.and_then(|mut file| file.write_all(format!("{id} {stamp}\n").as_bytes()));
        }
    }

    /// Forgets a stage that is not what it was.
    pub fn forget(&mut self, id: &StageId) {
        self.learn(id, "-");
    }
}
