//! What has been found out before and holds as long as nothing is touched, so that a look does not find it out again.

use std::{collections::BTreeMap, fs, io::Write, path::PathBuf};

use super::store::write_atomically;

/// A file of lines `KEY ANSWER`; the last line of a key counts. Keys hold no space.
///
/// It is a memory and no record: whatever is missing in it, be it for a folder that cannot be written, is found out once more. So whoever
/// asks puts everything into the key that the answer depends on.
#[derive(Debug)]
pub struct Remembered {
    path: PathBuf,
    answers: BTreeMap<String, String>,
}

impl Remembered {
    /// Reads the file, if there is one.
    pub fn open(path: PathBuf) -> Self {
        // A line that a full disk cut off may end within a character.
        let bytes = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines = || text.lines().filter_map(|line| line.split_once(' '));
        let answers: BTreeMap<_, _> = lines().map(|(key, answer)| (key.to_owned(), answer.to_owned())).collect();
        if lines().count() > 2 * answers.len() + 100 {
            let text: String = answers.iter().map(|(key, answer)| format!("{key} {answer}\n")).collect();
            // Another process may add a line in this moment, which is then forgotten.
            let _ = write_atomically(&path, text.as_bytes());
        }
        Self { path, answers }
    }

    /// The answer, if it is known.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.answers.get(key).map(String::as_str)
    }

    /// Remembers an answer, which holds no line break.
    pub fn set(&mut self, key: &str, answer: &str) {
        if self.get(key) != Some(answer) {
            self.answers.insert(key.to_owned(), answer.to_owned());
            let file = fs::File::options().append(true).create(true).open(&self.path);
            // One line is one write, so that lines of several processes do not mix.
            let _ = file.and_then(|mut file| file.write_all(format!("{key} {answer}\n").as_bytes()));
        }
    }
}
