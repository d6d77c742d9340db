//! Reading rows from Parquet, JSONL, JSON and CSV files, the latter three also packed with gzip.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use parquet::{
    file::{
        metadata::ParquetMetaData,
        reader::{FileReader, SerializedFileReader},
    },
    record::Field,
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::SourceFile;
use crate::{
    Error, Result,
    error::{IoContext, survive},
};

/// A row: column name to value.
pub type Row = Map<String, Value>;

/// Longest line of JSON that is read: a longer one is no row, and would be kept in memory whole.
const LONGEST_LINE: u64 = 64 << 20;
/// Largest JSON list that is read: it has to be in memory whole.
const LARGEST_LIST: u64 = 4 << 30;
/// A packed file that becomes larger than this and than [`DENSEST`] times its own size is an attack, or damaged.
const LARGE: u64 = 1 << 30;
/// Text becomes 3 to 20 times smaller; nothing becomes more than 1032 times smaller.
const DENSEST: u64 = 200;
const DAMAGED: &str = "the file is damaged or not complete: get it again";

/// Rows of one or more splits, with the number of each and the files they came from.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows with their numbers, from 0.
    pub rows: Vec<(u32, Row)>,
    /// The files in which the numbers run on.
    pub files: Vec<SourceFile>,
    /// The lines, from 1, at which the rows of each file begin; none for files without lines.
    lines: Vec<Vec<u32>>,
}

impl Rows {
    /// Numbers rows that come from no file.
    pub fn generated(rows: Vec<Row>) -> Self {
        Self { columns: columns_of(&rows), rows: (0..).zip(rows).collect(), ..Self::default() }
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
        self.lines.extend(other.lines);
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
        Some(Self { columns: self.columns.clone(), rows: taken, files: self.files.clone(), lines: self.lines.clone() })
    }

    /// Says of an error in which row of which file it is, and on which line if the file has lines.
    pub(super) fn at(&self, number: u32, error: Error) -> Error {
        let mut row = number;
        for (i, file) in self.files.iter().enumerate() {
            if row < file.rows {
                let line = self.lines.get(i).and_then(|lines| lines.get(row as usize));
                let place = match line {
                    Some(line) => format!("line {line}"),
                    None => format!("row {row}, counted from 0"),
                };
                return error.context(place).in_file(&file.path);
            }
            row -= file.rows;
        }
        error.context(format!("row {number}, counted from 0"))
    }
}

/// What one file holds.
#[derive(Default)]
struct Content {
    columns: Vec<String>,
    rows: Vec<Row>,
    lines: Vec<u32>,
}

/// Reads a file, at most `limit` rows of it. `name` is what the file is called in its data set.
pub(super) fn read_file(path: &Path, name: &str, limit: Option<usize>) -> Result<Rows> {
    if !path.metadata().path("read the data", path)?.is_file() {
        return Err(Error::new("not a file of rows").in_file(path));
    }
    let mut file = File::open(path).path("read the data", path)?;
    let (mut hasher, mut sha256) = (blake3::Hasher::new(), Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).path("read the data", path)? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                sha256.update(&buffer[..n]);
            }
        }
    }
    file.rewind().path("read the data", path)?;
    let content = read(file, path, limit.unwrap_or(usize::MAX)).map_err(|error| error.in_file(path))?;
    let count = u32::try_from(content.rows.len())
        .map_err(|_| Error::new(format!("the file has more than {} rows", u32::MAX)).in_file(path))?;
    let blake3 = hasher.finalize().to_hex().to_string();
    let sha256 = format!("{:x}", sha256.finalize());
    let files = vec![SourceFile { name: name.into(), path: path.into(), blake3, sha256, commit: None, rows: count }];
    Ok(Rows { columns: content.columns, rows: (0..).zip(content.rows).collect(), files, lines: vec![content.lines] })
}

fn read(mut file: File, path: &Path, limit: usize) -> Result<Content> {
    refuse_stand_ins(&mut file)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (name, packed) = match name.strip_suffix(".gz") {
        Some(name) => (name.to_owned(), true),
        None => (name, false),
    };
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    if extension == Some("parquet") && !packed {
        // The reader's assembly of records panics on some damaged files instead of returning an error.
        return survive(|| parquet(file, limit)).unwrap_or_else(|_| {
            Err(Error::new("not a readable Parquet file: its pages contradict its description").help(DAMAGED))
        });
    }
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let input: Box<dyn Read> = match packed {
        true => Box::new(Unpacked { inner: MultiGzDecoder::new(BufReader::new(file)), packed: size, read: 0 }),
        false => Box::new(file),
    };
    let input = BufReader::new(input);
    match extension {
        Some("jsonl" | "ndjson") => json_lines(input, limit),
        Some("json") => json(input, limit),
        Some("csv") => csv(input, b',', limit),
        Some("tsv") => csv(input, b'\t', limit),
        _ => Err(Error::new("the data are in an unknown format")
            .help("files end in .parquet, .jsonl, .json, .csv or .tsv; the text files may be packed as .gz")),
    }
}

/// What stands where a file should be: a pointer of Git LFS, or a web page.
fn refuse_stand_ins(file: &mut File) -> Result<()> {
    let mut start = [0; 64];
    let mut read = 0;
    while let n @ 1.. = file.read(&mut start[read..]).map_err(|cause| unreadable(&cause))? {
        read += n;
    }
    file.rewind().map_err(|cause| unreadable(&cause))?;
    Error::stand_in(&start[..read], "data").map_or(Ok(()), Err)
}

/// What a packed file holds, watched for being impossibly much.
struct Unpacked<R> {
    inner: R,
    packed: u64,
    read: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        if self.read > LARGE && self.read / DENSEST > self.packed {
            return Err(io::Error::other(format!("it unpacks to more than {DENSEST} times its size")));
        }
        Ok(n)
    }
}

fn unreadable(cause: &io::Error) -> Error {
    Error::new(format!("cannot read the data: {cause}")).help(DAMAGED)
}

fn parquet(file: File, limit: usize) -> Result<Content> {
    let explain = |cause: parquet::errors::ParquetError| {
        let text = cause.to_string();
        let text = text.strip_prefix("Parquet error: ").unwrap_or(&text);
        let packed = text.contains("feature");
        Error::new(format!("not a readable Parquet file: {text}")).help(if packed {
            "write it again, packed with Zstandard, Snappy or not at all"
        } else {
            DAMAGED
        })
    };
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let reader = SerializedFileReader::new(file).map_err(explain)?;
    check_sizes(reader.metadata(), size)?;
    let metadata = reader.metadata().file_metadata();
    let expected = usize::try_from(metadata.num_rows()).unwrap_or(usize::MAX).min(limit);
    let mut columns: Vec<String> = metadata.schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    if let Some(twice) = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name)).map(|(_, name)| name)
    {
        return Err(Error::new(format!("there are two columns `{twice}`")).help("give one of them another name"));
    }
    let (mut rows, mut binary) = (Vec::<Row>::new(), BTreeSet::new());
    for row in reader.get_row_iter(None).map_err(explain)?.take(limit) {
        let row = row.map_err(|cause| explain(cause).context(format!("row {}, counted from 0", rows.len())))?;
        let mut cells = Map::new();
        for (name, field) in row.into_columns() {
            match text_or_number(&field) {
                Some(value) => _ = cells.insert(name, value),
                None => _ = binary.insert(name),
            }
        }
        rows.push(cells);
    }
    if rows.len() != expected {
        let message = format!("not a readable Parquet file: it has {} of its {expected} rows", rows.len());
        return Err(Error::new(message).help(DAMAGED));
    }
    // Pictures and the like are no part of a text; to a task the column is not there.
    columns.retain(|name| !binary.contains(name));
    rows.iter_mut().for_each(|row| binary.iter().for_each(|name| _ = row.shift_remove(name)));
    Ok(Content { columns, rows, lines: Vec::new() })
}

/// A value of a Parquet file; `None` where it is made of bytes that are not UTF-8. Some programs store texts as bytes and do not say that
/// they are texts.
fn text_or_number(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok()?.into(),
        Field::ListInternal(list) => list.elements().iter().map(text_or_number).collect::<Option<Vec<Value>>>()?.into(),
        Field::Group(row) => {
            let columns = row.get_column_iter().map(|(name, field)| Some((name.clone(), text_or_number(field)?)));
            Value::Object(columns.collect::<Option<_>>()?)
        }
        other => other.to_json_value(),
    })
}

/// What a Parquet file says of its own sizes has to be possible: memory is asked for by it.
fn check_sizes(metadata: &ParquetMetaData, size: u64) -> Result<()> {
    let impossible = || Error::new("not a readable Parquet file: it describes more than it holds").help(DAMAGED);
    let mut rows: i64 = 0;
    for group in metadata.row_groups() {
        rows = rows.checked_add(group.num_rows()).ok_or_else(impossible)?;
        for column in group.columns() {
            let (start, length) = (column.data_page_offset(), column.compressed_size());
            let fits = |n: i64| u64::try_from(n).is_ok_and(|n| n <= size);
            if !fits(start) || !fits(length) || column.uncompressed_size() < 0 {
                return Err(impossible());
            }
        }
    }
    if rows != metadata.file_metadata().num_rows() || rows < 0 { Err(impossible()) } else { Ok(()) }
}

/// The union of the rows' columns, in order of first appearance.
fn columns_of(rows: &[Row]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = rows.iter().flat_map(Map::keys);
    names.filter(|name| seen.insert(name.as_str())).cloned().collect()
}

fn json_lines(mut input: impl BufRead, limit: usize) -> Result<Content> {
    let mut content = Content::default();
    let (mut line, mut number) = (Vec::new(), 0);
    while content.rows.len() < limit {
        line.clear();
        number += 1;
        let wrong = |cause: &dyn std::fmt::Display| Error::new(format!("line {number} is no row: {cause}"));
        let read = input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line);
        let read = read.map_err(|cause| unreadable(&cause).context(format!("after line {}", number - 1)))?;
        if read == 0 {
            break;
        }
        if read as u64 > LONGEST_LINE {
            return Err(wrong(&format!("it is longer than {} MiB", LONGEST_LINE >> 20))
                .help("each line has to be one JSON object"));
        }
        let text = std::str::from_utf8(&line).map_err(|cause| wrong(&cause).help("save the file as UTF-8"))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if !text.trim().is_empty() {
            let row = serde_json::from_str(text).map_err(|cause| {
                // The parser counts lines too; here there is only one.
                let cause = cause.to_string().replace("line 1 column", "column");
                wrong(&cause).help("each line has to be one JSON object, such as {\"text\": \"good\", \"label\": 1}")
            })?;
            content.rows.push(row);
            content.lines.push(number);
        }
    }
    content.columns = columns_of(&content.rows);
    Ok(content)
}

/// A list of objects, or objects one per line as the hub's `.json` files often are.
fn json(mut input: impl BufRead, limit: usize) -> Result<Content> {
    let mut start = Vec::new();
    // Enough to see what it begins with, whatever blanks stand before.
    input.by_ref().take(4096).read_to_end(&mut start).map_err(|cause| unreadable(&cause))?;
    let mark = if start.starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
    if start[mark..].iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return json_lines(start.chain(input), limit);
    }
    let mut bytes = start.split_off(mark);
    let read = input.take(LARGEST_LIST + 1).read_to_end(&mut bytes).map_err(|cause| unreadable(&cause))?;
    if read as u64 > LARGEST_LIST {
        return Err(Error::new(format!("the list of rows is larger than {} GiB", LARGEST_LIST >> 30))
            .help("write one object per line into a .jsonl file"));
    }
    let mut rows: Vec<Row> = serde_json::from_slice(&bytes).map_err(|cause| {
        let error = Error::new(format!("not a list of rows: {cause}"));
        if cause.is_eof() { error.help(DAMAGED) } else { error.help("it has to be a list of objects, in UTF-8") }
    })?;
    rows.truncate(limit);
    Ok(Content { columns: columns_of(&rows), rows, lines: Vec::new() })
}

fn csv(input: impl BufRead, delimiter: u8, limit: usize) -> Result<Content> {
    let explain = |cause: csv::Error| {
        let error = Error::new(format!("not a readable table: {cause}"));
        match cause.kind() {
            csv::ErrorKind::Utf8 { .. } => error.help("save the file as UTF-8"),
            csv::ErrorKind::UnequalLengths { .. } => error.help(
                "a field that holds the separator, a quote or a line break stands in double quotes, its own quotes doubled",
            ),
            csv::ErrorKind::Io(_) => error.help(DAMAGED),
            _ => error,
        }
    };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(input);
    let columns: Vec<String> = reader.headers().map_err(explain)?.iter().map(str::to_owned).collect();
    if let Some(twice) = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name)) {
        return Err(Error::new(format!("two columns are called `{}`", twice.1))
            .help("the first line of the table has to name its columns"));
    }
    let mut content = Content { columns, ..Content::default() };
    for record in reader.records().take(limit) {
        let record = record.map_err(explain)?;
        let line = record.position().map_or(0, csv::Position::line);
        content.lines.push(u32::try_from(line).unwrap_or(u32::MAX));
        content.rows.push(content.columns.iter().cloned().zip(record.iter().map(Value::from)).collect());
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unpacks_to_impossibly_much_is_an_error() {
        let unpack = |packed: u64| {
            let mut bomb = Unpacked { inner: io::repeat(b' ').take(LARGE + (1 << 20)), packed, read: 0 };
            io::copy(&mut bomb, &mut io::sink())
        };
        let error = unpack(LARGE / 1000).unwrap_err();
        assert!(error.to_string().contains("more than 200 times its size"), "{error}");
        assert_eq!(unpack(LARGE / 20).unwrap(), LARGE + (1 << 20));
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let endless = BufReader::with_capacity(1 << 20, io::repeat(b'x').take(LONGEST_LINE + 9));
        let error = json_lines(endless, 1).err().unwrap();
        assert_eq!(error.message(), "line 1 is no row: it is longer than 64 MiB");
        assert!(error.remedy().is_some());
    }
}
