//! Reading files of rows: Parquet, JSON, tables of text; the text formats also packed with gzip and in other encodings than UTF-8.
//!
//! A file is opened once, which checks it and counts its rows, and then visited as often as need be: only the rows and columns that are
//! asked for are ever in memory.

mod json;
mod parquet;
mod table;
mod text;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

pub(super) use self::table::{Dialect, Kind, Types, is_missing, number, truth};
use self::{json::Json, table::Table, text::Text};
use super::{Row, SourceFile};
use crate::{Error, Result, error::survive};

const DAMAGED: &str = "the file is damaged or not complete: get it again";

/// The columns that are read.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// All that are texts or numbers.
    All,
    /// Those of these that are there.
    These(BTreeSet<String>),
}

impl Wanted {
    /// Whether a column is one of them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// What is done with each row that is visited.
type Visit<'a> = dyn FnMut(u32, Row) -> Result<()> + 'a;

/// A file of rows that was opened and found to be one.
#[derive(Debug)]
pub(super) struct DataFile {
    pub path: PathBuf,
    pub columns: Vec<String>,
    /// Columns that hold no texts but bytes.
    pub binary: BTreeSet<String>,
    /// The line on which each row begins, from 1; empty for files without lines.
    pub lines: Vec<u32>,
    pub notes: Vec<String>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Parquet,
    Json(Json),
    Table(Table),
}

/// What opening a file finds out.
#[derive(Debug, Default)]
struct Found {
    columns: Vec<String>,
    count: usize,
    lines: Vec<u32>,
    notes: Vec<String>,
}

impl DataFile {
    /// Opens a file, of which at most `limit` rows count. `name` is what the file is called in its data set.
    pub fn open(path: &Path, name: &str, dialect: &Dialect, limit: Option<usize>) -> Result<(Self, SourceFile)> {
        let limit = limit.unwrap_or(usize::MAX);
        let (blake3, sha256) = hashes(path)?;
        let mut binary = BTreeSet::new();
        let (found, format) = match kind(path, dialect)? {
            FileKind::Parquet => {
                let (found, bytes) = survived(|| parquet::open(path, limit))?;
                binary = bytes;
                (found, Format::Parquet)
            }
            FileKind::JsonLines(text) => {
                let (found, json) = Json::lines(text, limit)?;
                (found, Format::Json(json))
            }
            FileKind::Json(text) => {
                let (found, json) = Json::document(text, limit)?;
                (found, Format::Json(json))
            }
            FileKind::Table(text, tabs) => {
                let (found, table) = Table::open(text, tabs, dialect, limit)?;
                (found, Format::Table(table))
            }
        };
        let Found { columns, count, lines, notes } = found;
        let rows = u32::try_from(count).map_err(|_| Error::new(format!("the file has more than {} rows", u32::MAX)))?;
        let notes = notes.into_iter().map(|note| format!("{name}: {note}")).collect();
        let file = Self { path: path.into(), columns, binary, lines, notes, format };
        Ok((file, SourceFile { name: name.into(), path: path.into(), blake3, sha256, commit: None, rows }))
    }

    /// Visits rows, whose numbers are in ascending order, with the columns that are wanted.
    pub fn visit(&self, wanted: &Wanted, picks: &[u32], visit: &mut Visit) -> Result<()> {
        let mut left = picks.len();
        let mut counted = |number: u32, row: Row| {
            left -= 1;
            visit(number, row)
        };
        match &self.format {
            Format::Parquet => survived(|| parquet::visit(&self.path, wanted, &self.binary, picks, &mut counted)),
            Format::Json(json) => json.visit(wanted, picks, &mut counted),
            Format::Table(table) => table.visit(wanted, picks, &mut counted),
        }?;
        match left {
            0 => Ok(()),
            _ => Err(Error::new("the file changed while it was read").help("leave it alone meanwhile")),
        }
    }

    /// Which of some columns hold nothing but numbers or truth values; `None` for a format that tells texts from numbers by itself.
    pub fn types(&self, columns: &BTreeSet<String>) -> Result<Option<Types>> {
        match &self.format {
            Format::Table(table) => table.types(columns).map(Some),
            Format::Parquet | Format::Json(_) => Ok(None),
        }
    }

    /// Where a row is.
    pub fn place(&self, row: u32) -> String {
        match self.lines.get(row as usize) {
            Some(line) => format!("line {line}"),
            None => format!("row {row}, counted from 0"),
        }
    }
}

/// The reader of Parquet panics on some damaged files instead of returning an error.
fn survived<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    survive(read).unwrap_or_else(|_| {
        Err(Error::new("not a readable Parquet file: its pages contradict its description").help(DAMAGED))
    })
}

/// BLAKE3 and SHA-256 of a file.
fn hashes(path: &Path) -> Result<(String, String)> {
    let mut file = open(path)?;
    let (mut blake3, mut sha256) = (blake3::Hasher::new(), Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    let mut first = true;
    loop {
        match file.read(&mut buffer).map_err(|cause| unreadable(&cause))? {
            0 => break,
            n => {
                if std::mem::take(&mut first)
                    && let Some(error) = Error::stand_in(&buffer[..n], "data")
                {
                    return Err(error);
                }
                blake3.update(&buffer[..n]);
                sha256.update(&buffer[..n]);
            }
        }
    }
    Ok((blake3.finalize().to_hex().to_string(), format!("{:x}", sha256.finalize())))
}

/// Opens a file, and says why if that cannot be.
fn open(path: &Path) -> Result<File> {
    let link = fs::read_link(path).ok();
    let explain = |cause: io::Error| {
        let error = Error::new(format!("cannot read the data: {cause}"));
        match (cause.kind(), &link) {
            (io::ErrorKind::NotFound, Some(target)) => {
                error.help(format!("it is a link to `{}`, which is not there: get the data again", target.display()))
            }
            (io::ErrorKind::PermissionDenied, _) => {
                error.help("you may not read it: ask its owner, or give yourself the right (`chmod u+r`)")
            }
            _ => error,
        }
    };
    if !path.metadata().map_err(explain)?.is_file() {
        return Err(Error::new("not a file of rows"));
    }
    File::open(path).map_err(explain)
}

fn unreadable(cause: &io::Error) -> Error {
    Error::new(format!("cannot read the data: {cause}")).help(DAMAGED)
}

enum FileKind {
    Parquet,
    JsonLines(Text),
    Json(Text),
    /// Whether fields are separated by tabs by default.
    Table(Text, bool),
}

/// What a file is, by its name.
fn kind(path: &Path, dialect: &Dialect) -> Result<FileKind> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (name, packed) = match name.strip_suffix(".gz") {
        Some(name) => (name.to_owned(), true),
        None => (name, false),
    };
    let text = Text { path: path.into(), packed, encoding: dialect.encoding };
    Ok(match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("parquet") if !packed => FileKind::Parquet,
        Some("jsonl" | "ndjson") => FileKind::JsonLines(text),
        Some("json") => FileKind::Json(text),
        Some("csv") => FileKind::Table(text, false),
        Some("tsv") => FileKind::Table(text, true),
        Some("arrow") => {
            return Err(Error::new("Arrow files, which `datasets` writes with `save_to_disk`, are not read").help(
                "write Parquet in Python: `datasets.load_from_disk(FOLDER)[SPLIT].to_parquet(\"SPLIT.parquet\")`",
            ));
        }
        Some(extension) if dialect.separator.is_some() && extension != "parquet" => FileKind::Table(text, false),
        _ => {
            let help = "files end in .parquet, .jsonl, .json, .csv or .tsv; the text files may be packed as .gz, and a table with another ending needs `separator` under `[source]`";
            return Err(Error::new("the data are in an unknown format").help(help));
        }
    })
}
