//! Tables of text: CSV, TSV and their relatives.
//!
//! CSV is read as RFC 4180 has it. In TSV quotation marks stand for themselves, as in most academic data sets, unless the whole file
//! agrees that they are quotes. Whatever is decided, lines and rows have to agree: a mark that swallows lines is an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead},
};

use csv::StringRecord;
use encoding_rs::Encoding;
use serde_json::Value;

use super::{
    DAMAGED, Found, Visit, Wanted,
    text::{self, Text},
};
use crate::{
    Error, Result,
    task::definition::{Header, Source},
};

/// Longest line that is read.
const LONGEST_LINE: u64 = 64 << 20;
/// Different values of a column by which its lines are known again; a label has fewer.
const FEW: usize = 64;
/// Rows over several lines that are looked at, and lines of each.
const SUSPECTS: (usize, usize) = (100, 50);
const NO_QUOTES: &str = "`quote = \"\"` under `[source]` reads quotation marks as they stand";

/// How tables are written, as far as the task says it under `[source]`.
#[derive(Clone, Debug, Default)]
pub(in crate::task) struct Dialect {
    pub separator: Option<u8>,
    /// `Some(None)`: there are no quotes.
    pub quote: Option<Option<u8>>,
    pub header: Option<Header>,
    pub encoding: Option<&'static Encoding>,
}

impl Dialect {
    /// What a task says; errors come with the key that is wrong.
    pub fn of(source: &Source) -> Result<Self, (&'static str, Error)> {
        let one = |key: &'static str, text: &str| match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(*byte),
            _ => Err((key, Error::new(format!("`{text}` is not one ASCII character")))),
        };
        let separator = source.separator.as_deref().map(|text| {
            one("separator", text).map_err(|(key, error)| (key, error.help("e.g. \"\\t\", \";\" or \"|\"")))
        });
        let quote = source.quote.as_deref().map(|text| match text {
            "" => Ok(None),
            text => one("quote", text)
                .map(Some)
                .map_err(|(key, error)| (key, error.help("e.g. '\"', or \"\" where nothing is quoted"))),
        });
        let encoding = source.encoding.as_deref().map(|name| text::encoding(name).map_err(|error| ("encoding", error)));
        let (separator, quote) = (separator.transpose()?, quote.transpose()?);
        if separator.is_some() && quote.flatten() == separator {
            return Err(("quote", Error::new("`quote` and `separator` are the same character")));
        }
        if let Some(Header::Names(names)) = &source.header
            && let Some((_, twice)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name))
        {
            return Err(("header", Error::new(format!("two columns are called `{twice}`"))));
        }
        Ok(Self { separator, quote, header: source.header.clone(), encoding: encoding.transpose()?.flatten() })
    }
}

/// What a column of texts holds in every row that has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::task) enum Kind {
    Number,
    Truth,
}

/// The columns of texts that hold numbers or truth values.
pub(in crate::task) type Types = BTreeMap<String, Kind>;

/// A number that is written out. Names such as `inf` are none, and codes such as `007` or a card's twenty digits are texts.
pub(in crate::task) fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.trim_start_matches(['+', '-']);
    let whole = digits.bytes().all(|byte| byte.is_ascii_digit());
    let code = whole && (digits.len() > 1 && digits.starts_with('0') || text.parse::<i64>().is_err());
    let plain = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.len() + 1 >= text.len();
    text.parse().ok().filter(|number: &f64| plain && !code && number.is_finite())
}

/// A truth value as programs write it.
pub(in crate::task) fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Whether a text stands for a value that is missing, as pandas takes it.
pub(in crate::task) fn is_missing(text: &str) -> bool {
    const WORDS: [&str; 18] = [
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
        "NULL", "NaN", "None", "n/a", "nan",
    ];
    let text = text.trim();
    WORDS.contains(&text) || text == "null"
}

/// A table that was found to be one.
#[derive(Debug)]
pub(super) struct Table {
    text: Text,
    separator: u8,
    quote: Option<u8>,
    /// Whether the first line holds the columns' names.
    header: bool,
    columns: Vec<String>,
}

impl Table {
    /// Opens a table, whose fields are separated by tabs or commas where the dialect does not say by what.
    pub fn open(text: Text, tabs: bool, dialect: &Dialect, limit: usize) -> Result<(Found, Self)> {
        let separator = dialect.separator.unwrap_or(if tabs { b'\t' } else { b',' });
        let header = !matches!(dialect.header, Some(Header::Line(false) | Header::Names(_)));
        let mut table =
            Self { text, separator, quote: dialect.quote.unwrap_or(Some(b'"')), header, columns: Vec::new() };
        let mut notes = Vec::new();
        if let Some(quote) = table.quote {
            let marks = Marks::find(&table.text, separator, quote)?;
            if dialect.quote.is_none() && separator == b'\t' && !marks.are_quotes() {
                table.quote = None;
                notes.extend(marks.stand_for_themselves());
            } else {
                notes.extend(table.check(marks)?);
            }
        }
        let mut reader = table.reader()?;
        let mut first = StringRecord::new();
        let read = match header {
            true => reader.headers().map(|names| first.clone_from(names)),
            false => reader.read_record(&mut first).map(drop),
        };
        read.map_err(|cause| table.explain(&cause))?;
        table.columns = table.names(&first, dialect)?;
        let mut found = Found { notes, ..Found::default() };
        table.each(&mut |line, _| {
            if found.lines.len() < limit {
                found.lines.push(u32::try_from(line).unwrap_or(u32::MAX));
            }
            Ok(found.lines.len() < limit)
        })?;
        found.count = found.lines.len();
        found.columns.clone_from(&table.columns);
        Ok((found, table))
    }

    fn reader(&self) -> Result<csv::Reader<Box<dyn BufRead>>> {
        let mut builder = csv::ReaderBuilder::new();
        builder.delimiter(self.separator).has_headers(self.header).quoting(self.quote.is_some());
        Ok(builder.quote(self.quote.unwrap_or(b'"')).from_reader(self.text.open()?))
    }

    /// The columns' names.
    fn names(&self, first: &StringRecord, dialect: &Dialect) -> Result<Vec<String>> {
        let names: Vec<String> = match &dialect.header {
            Some(Header::Names(names)) if names.len() == first.len() || first.is_empty() => return Ok(names.clone()),
            Some(Header::Names(names)) => {
                let message = format!("`header` names {} columns, the first line has {}", names.len(), first.len());
                return Err(Error::new(message).help("name every column, in order"));
            }
            Some(Header::Line(false)) => return Ok((1..=first.len()).map(|n| format!("column_{n}")).collect()),
            // Spreadsheets leave empty columns at the end, pandas its index at the beginning: called as pandas calls them.
            _ => first.iter().enumerate().map(|(i, name)| match name {
                "" => format!("Unnamed: {i}"),
                name => name.to_owned(),
            }),
        }
        .collect();
        if let Some((_, twice)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            return Err(Error::new(format!("two columns are called `{twice}`"))
                .help("the first line of the table has to name its columns; if there is no such line, `header = [\"text\", \"label\"]` under `[source]` names them"));
        }
        if let ([only], None) = (&names[..], dialect.separator)
            && let Some(other) = [';', '\t', '|', ','].into_iter().find(|other| only.contains(*other))
        {
            let message = format!("the table has one column, `{only}`: its fields are separated otherwise");
            return Err(Error::new(message).help(format!("put `separator = {:?}` under `[source]`", other.to_string())));
        }
        Ok(names)
    }

    fn explain(&self, cause: &csv::Error) -> Error {
        let error = Error::new(format!("not a readable table: {cause}"));
        match cause.kind() {
            csv::ErrorKind::Utf8 { pos, .. } => {
                let line = pos.as_ref().map_or(1, csv::Position::line);
                Error::new(format!("not a readable table: line {line} is not UTF-8")).help(text::ENCODING)
            }
            csv::ErrorKind::UnequalLengths { .. } => error.help(match self.quote {
                Some(_) => format!(
                    "a field that holds the separator, a quote or a line break stands in double quotes, its own quotes doubled; if quotation marks are part of the text, {NO_QUOTES}"
                ),
                None => "is one of its fields quoted? `quote = '\"'` under `[source]` takes quotation marks off".into(),
            }),
            csv::ErrorKind::Io(cause) => broken(cause),
            _ => error,
        }
    }

    /// Visits records with the lines on which they begin, until `visit` says that it has enough.
    fn each(&self, visit: &mut dyn FnMut(u64, &StringRecord) -> Result<bool>) -> Result<()> {
        let mut reader = self.reader()?;
        let mut record = StringRecord::new();
        while reader.read_record(&mut record).map_err(|cause| self.explain(&cause))? {
            let line = record.position().map_or(0, csv::Position::line);
            if !visit(line, &record)? {
                break;
            }
        }
        Ok(())
    }

    /// As [`super::DataFile::visit`].
    pub fn visit(&self, wanted: &Wanted, mut picks: &[u32], visit: &mut Visit) -> Result<()> {
        let columns: Vec<(usize, &String)> =
            self.columns.iter().enumerate().filter(|(_, name)| wanted.has(name)).collect();
        let mut row = 0;
        self.each(&mut |_, record| {
            if picks.first() == Some(&row) {
                picks = &picks[1..];
                let cell = |(i, name): &(usize, &String)| Some(((*name).clone(), Value::from(record.get(*i)?)));
                visit(row, columns.iter().filter_map(cell).collect())?;
            }
            row += 1;
            Ok(!picks.is_empty())
        })
    }

    /// Which of some columns hold nothing but numbers, or nothing but truth values, in the whole file.
    pub fn types(&self, columns: &BTreeSet<String>) -> Result<Types> {
        let places = self.columns.iter().enumerate().filter(|(_, name)| columns.contains(*name));
        let mut open: Vec<(usize, &String, Option<Kind>)> = places.map(|(i, name)| (i, name, None)).collect();
        let none = open.is_empty();
        if none {
            return Ok(Types::new());
        }
        self.each(&mut |_, record| {
            open.retain_mut(|(i, _, kind)| {
                let text = record.get(*i).unwrap_or_default();
                if is_missing(text) {
                    return true;
                }
                let this = match (number(text), truth(text)) {
                    (Some(_), _) => Kind::Number,
                    (None, Some(_)) => Kind::Truth,
                    (None, None) => return false,
                };
                *kind.get_or_insert(this) == this
            });
            Ok(!open.is_empty())
        })?;
        Ok(open.into_iter().filter_map(|(_, name, kind)| Some((name.clone(), kind?))).collect())
    }

    /// Whether lines and rows agree where quotation marks are quotes; what is to be said if so.
    fn check(&self, marks: Marks) -> Result<Option<String>> {
        let remedy = |error: Error| {
            error.help(format!("if quotation marks are part of the text, {NO_QUOTES}; else close or double the mark"))
        };
        if let Some(line) = marks.open {
            let message = format!("line {line}: a quotation mark opens a field there and is never closed");
            return Err(remedy(Error::new(message)));
        }
        if let Some((from, to)) = marks.loose_over_lines {
            let message = format!(
                "line {from}: a quotation mark opens a field there that ends on line {to}, in the middle of a text"
            );
            return Err(remedy(Error::new(message)));
        }
        if let Some((from, to)) = self.swallowed(&marks.suspects)? {
            let message =
                format!("lines {from} to {to} become one row by a quotation mark, though each looks like a row");
            return Err(remedy(Error::new(message)));
        }
        Ok(marks.loose.map(|(count, line)| {
            format!("quoted fields that go on behind the closing mark: {count}, the first on line {line}; the marks are left out")
        }))
    }

    /// The first row over several lines of which each looks like a row: in some column that has few values elsewhere, each has one of
    /// these.
    fn swallowed(&self, suspects: &[Suspect]) -> Result<Option<(u32, u32)>> {
        if suspects.is_empty() {
            return Ok(None);
        }
        let mut values: Vec<Option<BTreeSet<String>>> = Vec::new();
        let mut rows = 0;
        self.each(&mut |_, record| {
            values.resize(record.len(), Some(BTreeSet::new()));
            if record.iter().any(|field| field.contains('\n')) {
                return Ok(true);
            }
            rows += 1;
            for (field, known) in record.iter().zip(&mut values) {
                if let Some(set) = known
                    && !set.contains(field)
                {
                    set.insert(field.to_owned());
                    if set.len() > FEW {
                        *known = None;
                    }
                }
            }
            Ok(true)
        })?;
        let telling = |suspect: &&Suspect| {
            values.iter().enumerate().any(|(column, known)| {
                let Some(known) = known.as_ref().filter(|known| known.len() * 2 <= rows) else { return false };
                suspect.lines.iter().all(|line| {
                    let field = line.split(|byte| *byte == self.separator).nth(column).unwrap_or_default();
                    let field = String::from_utf8_lossy(field);
                    known.contains(field.trim_matches('"'))
                })
            })
        };
        Ok(suspects.iter().find(telling).map(|suspect| (suspect.from, suspect.to)))
    }
}

fn broken(cause: &io::Error) -> Error {
    let error = Error::new(format!("not a readable table: {cause}"));
    match cause.kind() {
        io::ErrorKind::Other => error.help("is `encoding` under `[source]` the right one, and the file whole?"),
        _ => error.help(DAMAGED),
    }
}

/// A row over several lines, each of which has as many fields as the first line of the file.
struct Suspect {
    from: u32,
    to: u32,
    /// The lines as they stand, some at least.
    lines: Vec<Vec<u8>>,
}

/// The quotation marks of a table, and what follows if they are quotes.
#[derive(Default)]
struct Marks {
    /// How many fields begin with one if marks mean nothing, and the line of the first.
    begun: Option<(usize, u32)>,
    /// Where a field begins that is never closed.
    open: Option<u32>,
    /// How many fields go on behind their closing mark, and the line of the first.
    loose: Option<(usize, u32)>,
    /// The first of these that began on another line, and the line on which its mark is closed.
    loose_over_lines: Option<(u32, u32)>,
    /// Quoted fields that hold nothing that has to be quoted.
    needless: usize,
    /// Fields that hold a mark and are not quoted.
    bare: usize,
    /// Lines that have more or fewer separators than the first one, if marks mean nothing.
    uneven: usize,
    /// Lines without a mark.
    unmarked: usize,
    /// By column, how many fields are quoted, and how many are neither quoted nor empty, in lines with marks.
    columns: Vec<(usize, usize)>,
    suspects: Vec<Suspect>,
}

/// Where in a field the reading of marks is.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Start,
    Plain,
    Quoted { line: u32, needed: bool },
    Closed { line: u32, needed: bool },
    Loose,
}

impl Marks {
    fn find(text: &Text, separator: u8, quote: u8) -> Result<Self> {
        let mut marks = Self::default();
        let mut input = text.open()?;
        let (mut line, mut number) = (Vec::new(), 0);
        let (mut at, mut column, mut bare) = (At::Start, 0, false);
        // The row that is being read, if it has several lines.
        let mut row = Suspect { from: 0, to: 0, lines: Vec::new() };
        let mut separators = None;
        loop {
            line.clear();
            let read = io::Read::take(&mut input, LONGEST_LINE + 1).read_until(b'\n', &mut line);
            if read.map_err(|cause| broken(&cause))? == 0 {
                break;
            }
            number += 1;
            if line.len() as u64 > LONGEST_LINE {
                let message = format!("line {number} is longer than {} MiB", LONGEST_LINE >> 20);
                return Err(Error::new(message).help("is it a table with a row per line?"));
            }
            let mut bytes = line.strip_suffix(b"\n").unwrap_or(&line);
            bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            if number == 1 {
                bytes = bytes.strip_prefix(text::BOM).unwrap_or(bytes);
            }
            let inside = matches!(at, At::Quoted { .. });
            if bytes.is_empty() && !inside {
                continue;
            }
            let there = bytes.iter().filter(|byte| **byte == separator).count();
            let even = there == *separators.get_or_insert(there);
            marks.uneven += usize::from(!even);
            if !inside {
                (at, column) = (At::Start, 0);
                row = Suspect { from: number, to: number, lines: Vec::new() };
                if !bytes.contains(&quote) {
                    marks.unmarked += 1;
                    continue;
                }
            }
            let fields = bytes.split(|byte| *byte == separator);
            let begun = fields.filter(|field| field.first() == Some(&quote)).count();
            if begun > 0 {
                marks.begun.get_or_insert((0, number)).0 += begun;
            }
            let mut rest = bytes.iter().copied().peekable();
            while let Some(byte) = rest.next() {
                at = match at {
                    At::Start if byte == quote => At::Quoted { line: number, needed: false },
                    At::Quoted { line, needed } => match byte {
                        byte if byte == quote && rest.next_if_eq(&quote).is_some() => At::Quoted { line, needed: true },
                        byte if byte == quote => At::Closed { line, needed },
                        byte => At::Quoted { line, needed: needed || byte == separator || byte == b'\r' },
                    },
                    _ if byte == separator => {
                        marks.end_of_field(at, column, std::mem::take(&mut bare));
                        column += 1;
                        At::Start
                    }
                    At::Closed { line, .. } => {
                        let (count, _) = marks.loose.get_or_insert((0, line));
                        *count += 1;
                        if line != number {
                            marks.loose_over_lines.get_or_insert((line, number));
                        }
                        At::Loose
                    }
                    At::Start | At::Plain => {
                        bare |= byte == quote;
                        At::Plain
                    }
                    At::Loose => At::Loose,
                };
            }
            if row.lines.len() < SUSPECTS.1 {
                row.lines.push(bytes.to_vec());
            }
            row.to = number;
            if let At::Quoted { line, .. } = at {
                at = At::Quoted { line, needed: true };
                continue;
            }
            marks.end_of_field(at, column, std::mem::take(&mut bare));
            at = At::Start;
            let count = |line: &Vec<u8>| line.iter().filter(|byte| **byte == separator).count();
            if row.from != row.to
                && marks.suspects.len() < SUSPECTS.0
                && row.lines.iter().all(|line| Some(count(line)) == separators)
            {
                marks.suspects.push(std::mem::replace(&mut row, Suspect { from: 0, to: 0, lines: Vec::new() }));
            }
        }
        if let At::Quoted { line, .. } = at {
            marks.open = Some(line);
        }
        Ok(marks)
    }

    fn end_of_field(&mut self, at: At, column: usize, bare: bool) {
        self.bare += usize::from(bare);
        if self.columns.len() <= column {
            self.columns.resize(column + 1, (0, 0));
        }
        let (quoted, other) = &mut self.columns[column];
        match at {
            At::Start => {}
            At::Closed { needed, .. } | At::Quoted { needed, .. } => {
                *quoted += 1;
                self.needless += usize::from(!needed);
            }
            At::Plain | At::Loose => *other += 1,
        }
    }

    /// Whether the whole file agrees that marks are quotes: all are closed, a field with a mark in it is quoted, and either only fields
    /// that have to be quoted are, or all of a column, or the lines make no table otherwise.
    fn are_quotes(&self) -> bool {
        let closed = self.open.is_none() && self.loose.is_none();
        // All but the name of the column.
        let whole_column = self.columns.iter().any(|(quoted, other)| *quoted > 1 && other + self.unmarked <= 1);
        self.begun.is_some() && closed && (self.uneven > 0 || self.bare == 0 && (self.needless == 0 || whole_column))
    }

    /// What is to be said where they are none.
    fn stand_for_themselves(&self) -> Option<String> {
        self.begun.map(|(count, line)| {
            format!(
                "fields that begin with a quotation mark: {count}, the first on line {line}; marks are read as they stand, as is usual in .tsv (`quote = '\"'` under `[source]` takes them off)"
            )
        })
    }
}
