//! Whether the files of a run are still what the run wrote.
//!
//! Beside them lies [`SEALS`]: BLAKE3 and name of each, as `b3sum --check` reads it. Files of a folder without it are taken as they are.

use std::{fs, path::Path};

use crate::{Error, Result, error::IoContext, stage::write_atomically};

/// The file of hashes.
pub const SEALS: &str = "checksums.txt";

/// Hash and name of every file that is sealed. While a file is replaced it has two: what it was, and what it becomes.
fn seals(folder: &Path) -> Result<Vec<(String, String)>> {
    let path = folder.join(SEALS);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).path("read the checksums of a run", path),
    };
    let line = |line: &str| line.split_once("  ").map(|(hash, name)| (hash.to_owned(), name.to_owned()));
    Ok(text.lines().filter_map(line).collect())
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Replaces a file by `bytes` and seals it; whoever reads in between, or is killed, finds a file that fits its seal.
///
/// Two processes that write to one folder do it one after the other.
///
/// # Errors
/// A folder that cannot be read or written.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let mut others = seals(folder)?;
    let before: Vec<_> = others.extract_if(.., |(_, sealed)| sealed == name).collect();
    let new = (digest(bytes), name.to_owned());
    let write = |lines: &mut dyn Iterator<Item = &(String, String)>| {
        let mut lines: Vec<String> = lines.map(|(hash, name)| format!("{hash}  {name}\n")).collect();
        lines.sort_by(|a, b| a.split_once("  ").map(|line| line.1).cmp(&b.split_once("  ").map(|line| line.1)));
        lines.dedup();
        write_atomically(&folder.join(SEALS), lines.concat().as_bytes())
    };
    let path = folder.join(name);
    if path.exists() {
        write(&mut others.iter().chain(&before).chain([&new]))?;
    }
    write_atomically(&path, bytes)?;
    write(&mut others.iter().chain([&new]))
}

/// Whether a file is what was sealed; true where there is no seal. `bytes` is its content.
///
/// # Errors
/// Checksums that cannot be read.
pub fn fits(folder: &Path, name: &str, bytes: &[u8]) -> Result<bool> {
    let mut sealed = seals(folder)?.into_iter().filter(|(_, sealed)| sealed == name).peekable();
    if sealed.peek().is_none() {
        return Ok(true);
    }
    let hash = digest(bytes);
    Ok(sealed.any(|(sealed, _)| sealed == hash))
}

/// What is wrong with a file of a run, in a sentence, if it is not what the run wrote.
///
/// # Errors
/// A file that cannot be read.
pub fn broken(path: &Path) -> Result<Option<String>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::new("this is no file").in_file(path));
    };
    // A run may replace file and seal between our two looks.
    for _ in 0..4 {
        let bytes = fs::read(path).path("read a file of a run", path)?;
        if fits(folder, name, &bytes)? {
            return Ok(None);
        }
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    Ok(Some(format!(
        "{} is not as its run wrote it: it was edited or damaged since ({SEALS} beside it); `w2s run` of its grid writes it anew",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_file_is_told_from_one_that_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        fs::write(&path, "never sealed").unwrap();
        assert_eq!(broken(&path).unwrap(), None);
        write(folder.path(), "results.csv", b"first").unwrap();
        write(folder.path(), "grid.json", b"{}").unwrap();
        write(folder.path(), "results.csv", b"second").unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), broken(&path).unwrap()), (b"second".as_slice(), None));
        // One line each, whatever was written before.
        let sums = fs::read_to_string(folder.path().join(SEALS)).unwrap();
        let names: Vec<_> = sums.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        assert_eq!(names, ["grid.json", "results.csv"]);
        for (name, wrong) in [("results.csv", "secund"), ("grid.json", "{ }")] {
            fs::write(folder.path().join(name), wrong).unwrap();
            let said = broken(&folder.path().join(name)).unwrap().unwrap();
            assert!(said.contains(name) && said.contains("w2s run"), "{said}");
        }
    }

    #[test]
    fn a_run_that_is_killed_while_it_writes_leaves_nothing_that_looks_edited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        write(folder.path(), "results.csv", b"old").unwrap();
        // Killed after the announcement: both are what the run wrote.
        let line = |bytes: &[u8]| format!("{}  results.csv\n", digest(bytes));
        fs::write(folder.path().join(SEALS), line(b"old") + &line(b"new")).unwrap();
        for bytes in [b"old", b"new"] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(broken(&path).unwrap(), None);
        }
        fs::write(&path, "nor").unwrap();
        assert!(broken(&path).unwrap().is_some());
    }
}
