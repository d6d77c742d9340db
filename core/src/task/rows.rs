//! Reading rows from Parquet, JSONL, JSON and CSV files.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use super::SourceFile;
use crate::{Error, Result, error::IoContext};

/// A row: column name to value.
pub type Row = Map<String, Value>;

/// Rows of one or more splits, with the number of each and the files they came from.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows with their numbers, from 0.
    pub rows: Vec<(u32, Row)>,
    /// The files in which the numbers run on.
    pub files: Vec<SourceFile>,
}

impl Rows {
    /// Numbers rows that come from no file.
    pub fn generated(rows: Vec<Row>) -> Self {
        Self { columns: columns_of(&rows), rows: (0..).zip(rows).collect(), files: Vec::new() }
    }

    /// Adds the rows of another split after these.
    pub(super) fn append(&mut self, other: Rows) -> Result<()> {
        let next = self.rows.last().map_or(Some(0), |(last, _)| last.checked_add(1));
        for (number, row) in other.rows {
            let number = next.and_then(|next| next.checked_add(number));
            let number = number.ok_or_else(|| Error::new(format!("the splits have more than {} rows", u32::MAX)))?;
            self.rows.push((number, row));
        }
        let known: BTreeSet<String> = self.columns.iter().cloned().collect();
        self.columns.extend(other.columns.into_iter().filter(|column| !known.contains(column)));
        self.files.extend(other.files);
        Ok(())
    }

    /// Takes out `n` rows in the order in which `train_test_split(test_size=n, seed=0)` of the `datasets` library puts them into its
    /// test set; puts the others into the order of its training set. `None` if nothing would be left.
    pub(super) fn take_at_random(&mut self, n: usize) -> Option<Self> {
        if n >= self.rows.len() {
            return None;
        }
        let mut taken = super::order::permute(std::mem::take(&mut self.rows), 0);
        self.rows = taken.split_off(n);
        Some(Self { columns: self.columns.clone(), rows: taken, files: self.files.clone() })
    }

    /// Says of an error in which row of which file it is.
    pub(super) fn at(&self, number: u32, error: Error) -> Error {
        let mut row = number;
        for file in &self.files {
            if row < file.rows {
                return error.context(format!("row {row}, counted from 0")).in_file(&file.path);
            }
            row -= file.rows;
        }
        error.context(format!("row {number}, counted from 0"))
    }
}

/// Reads a file, at most `limit` rows of it. `name` is what the file is called in its data set.
pub(super) fn read_file(path: &Path, name: &str, limit: Option<usize>) -> Result<Rows> {
    let mut file = File::open(path).path("read the data", path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).path("read the data", path)?;
    file.rewind().path("read the data", path)?;
    let limit = limit.unwrap_or(usize::MAX);
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let (columns, rows) = match extension.as_deref() {
        // The reader's assembly of records panics on some damaged files instead of returning an error.
        Some("parquet") => catch_unwind(AssertUnwindSafe(|| parquet(file, limit)))
            .unwrap_or_else(|_| Err(Error::new("not a readable Parquet file: its pages contradict its description"))),
        Some("jsonl" | "ndjson") => json_lines(BufReader::new(file), limit),
        Some("json") => json(file, limit),
        Some("csv") => csv(file, b',', limit),
        Some("tsv") => csv(file, b'\t', limit),
        _ => Err(Error::new("the data are in an unknown format")
            .help("files end in .parquet, .jsonl, .json, .csv or .tsv, uncompressed")),
    }
    .map_err(|error| error.in_file(path))?;
    let count = u32::try_from(rows.len())
        .map_err(|_| Error::new(format!("the file has more than {} rows", u32::MAX)).in_file(path))?;
    let blake3 = hasher.finalize().to_hex().to_string();
    let files = vec![SourceFile { name: name.into(), path: path.into(), blake3, rows: count }];
    Ok(Rows { columns, rows: (0..).zip(rows).collect(), files })
}

fn parquet(file: File, limit: usize) -> Result<(Vec<String>, Vec<Row>)> {
    let explain = |cause: parquet::errors::ParquetError| {
        let text = cause.to_string();
        let text = text.strip_prefix("Parquet error: ").unwrap_or(&text);
        Error::new(format!("not a readable Parquet file: {text}"))
            .help("the file is damaged or not complete: get it again")
    };
    let reader = SerializedFileReader::new(file).map_err(explain)?;
    let metadata = reader.metadata().file_metadata();
    let expected = usize::try_from(metadata.num_rows()).unwrap_or(usize::MAX).min(limit);
    let columns = metadata.schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None).map_err(explain)?.take(limit) {
        let row = row.map_err(|cause| explain(cause).context(format!("row {}, counted from 0", rows.len())))?;
        rows.push(row.into_columns().into_iter().map(|(name, field)| (name, field.to_json_value())).collect());
    }
    if rows.len() != expected {
        let message = format!("not a readable Parquet file: it has {} of its {expected} rows", rows.len());
        return Err(Error::new(message).help("the file is damaged or not complete: get it again"));
    }
    Ok((columns, rows))
}

/// The union of the rows' columns, in order of first appearance.
fn columns_of(rows: &[Row]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = rows.iter().flat_map(Map::keys);
    names.filter(|name| seen.insert(name.as_str())).cloned().collect()
}

fn json_lines(mut input: impl BufRead, limit: usize) -> Result<(Vec<String>, Vec<Row>)> {
    let mut rows = Vec::new();
    let (mut line, mut number) = (Vec::new(), 0);
    while rows.len() < limit {
        line.clear();
        number += 1;
        let wrong = |cause: &dyn std::fmt::Display| Error::new(format!("line {number} is no row: {cause}"));
        if input.read_until(b'\n', &mut line).map_err(|cause| wrong(&cause))? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).map_err(|cause| wrong(&cause))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if !text.trim().is_empty() {
            rows.push(serde_json::from_str(text).map_err(|cause| wrong(&cause))?);
        }
    }
    Ok((columns_of(&rows), rows))
}

/// A list of objects, or objects one per line as the hub's `.json` files often are.
fn json(mut file: File, limit: usize) -> Result<(Vec<String>, Vec<Row>)> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|cause| Error::new(format!("cannot read the data: {cause}")))?;
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return json_lines(&bytes[..], limit);
    }
    let mut rows: Vec<Row> =
        serde_json::from_slice(&bytes).map_err(|cause| Error::new(format!("not a list of rows: {cause}")))?;
    rows.truncate(limit);
    Ok((columns_of(&rows), rows))
}

fn csv(file: File, delimiter: u8, limit: usize) -> Result<(Vec<String>, Vec<Row>)> {
    let explain = |cause: csv::Error| Error::new(format!("not a readable table: {cause}"));
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(BufReader::new(file));
    let columns: Vec<String> = reader.headers().map_err(explain)?.iter().map(str::to_owned).collect();
    if let Some(twice) = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name)) {
        return Err(Error::new(format!("two columns are called `{}`", twice.1)));
    }
    let mut rows = Vec::new();
    for record in reader.records().take(limit) {
        let record = record.map_err(explain)?;
        rows.push(columns.iter().cloned().zip(record.iter().map(Value::from)).collect());
    }
    Ok((columns, rows))
}
