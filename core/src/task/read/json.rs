//! JSON: an object per line, a list of objects, or one object that holds the rows.

use std::{
    fmt,
    io::{self, BufRead},
};

use indexmap::IndexSet;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Deserializer, Map, Value, error::Category};

use super::{DAMAGED, Found, Visit, Wanted, text, text::Text, unreadable};
use crate::{Error, Result, task::Row};

/// Longest line of JSON that is read: a longer one is no row, and would be kept in memory whole.
const LONGEST_LINE: u64 = 64 << 20;
const LINE: &str = "each line has to be one JSON object, such as {\"text\": \"good\", \"label\": 1}";
const LIST: &str = "each line has to be one JSON object; a file that is one list of rows ends in .json";

/// How a file of JSON holds its rows.
#[derive(Debug)]
pub(super) enum Json {
    Lines(Text),
    List {
        text: Text,
        /// It has Python's NaN and Infinity, which are no JSON.
        python: bool,
    },
    /// Rows that are not one after the other in the file.
    Held(Vec<Row>),
}

impl Json {
    /// An object per line.
    pub fn lines(text: Text, limit: usize) -> Result<(Found, Self)> {
        let (mut found, mut columns) = (Found::default(), IndexSet::new());
        let mut halved = None;
        if limit > 0 {
            each_line(text.open()?, &mut |number, line| {
                parse_line(line, number, &Wanted::These([].into()), Some(&mut columns))?;
                if line.contains("\\ud") || line.contains("\\uD") {
                    let halves = python_to_json(line.as_bytes()).map_or(0, |(_, halves)| halves);
                    if halves > 0 {
                        halved.get_or_insert((0, number)).0 += halves;
                    }
                }
                found.lines.push(number);
                Ok(found.lines.len() < limit)
            })?;
        }
        found.count = found.lines.len();
        found.columns = columns.into_iter().collect();
        found.notes.extend(halved.map(|(count, line)| self::halved(count, &format!(", the first on line {line}"))));
        Ok((found, Self::Lines(text)))
    }

    /// A list of objects, objects one per line as the hub's `.json` files often are, or one object that holds the rows.
    pub fn document(text: Text, limit: usize) -> Result<(Found, Self)> {
        let mut input = text.open()?;
        if first_byte(&mut input)? == Some(b'[') {
            return Self::list(text, limit);
        }
        // One line is one object, unless the first one goes on below.
        let mut alone = None;
        let mut lines = 0;
        let read = each_line(input, &mut |number, line| {
            lines += 1;
            alone = Some(parse_line(line, number, &Wanted::All, None)?);
            Ok(lines < 2)
        });
        let whole = match (read, alone) {
            (Ok(()), Some(row)) if lines == 1 => vec![row],
            (Err(_), None) => match objects(&text) {
                Some(rows) => rows,
                None => return Self::lines(text, limit),
            },
            _ => return Self::lines(text, limit),
        };
        let (rows, note) = unwrapped(whole)?;
        let rows: Vec<Row> = rows.into_iter().take(limit).collect();
        let columns: IndexSet<&String> = rows.iter().flat_map(Map::keys).collect();
        let columns = columns.into_iter().cloned().collect();
        let notes = note.into_iter().collect();
        Ok((Found { columns, count: rows.len(), notes, ..Found::default() }, Self::Held(rows)))
    }

    fn list(text: Text, limit: usize) -> Result<(Found, Self)> {
        let open = |python: bool| {
            let (mut count, mut columns) = (0, IndexSet::new());
            let none = Wanted::These([].into());
            let read = each_item(&text, python, &none, Some(&mut columns), &mut |_| {
                count += 1;
                Ok(count < limit)
            });
            read.map(|halves| (count, columns, halves))
        };
        let (python, (count, columns, halves)) = match (limit, open(false)) {
            (0, _) => (false, (0, IndexSet::new(), 0)),
            (_, Ok(found)) => (false, found),
            (_, Err(error)) => (true, open(true).map_err(|_| error)?),
        };
        let columns = columns.into_iter().collect();
        let notes = (halves > 0).then(|| halved(halves, "")).into_iter().collect();
        Ok((Found { columns, count, notes, ..Found::default() }, Self::List { text, python }))
    }

    /// As [`super::DataFile::visit`].
    pub fn visit(&self, wanted: &Wanted, mut picks: &[u32], visit: &mut Visit) -> Result<()> {
        let mut row = 0;
        // Whether the row that comes next is picked, and whether others are still to come.
        let mut picked = || {
            let is = picks.first() == Some(&row);
            picks = &picks[usize::from(is)..];
            row += 1;
            (is.then_some(row - 1), !picks.is_empty())
        };
        match self {
            Self::Lines(text) => each_line(text.open()?, &mut |number, line| {
                let (this, more) = picked();
                if let Some(this) = this {
                    visit(this, parse_line(line, number, wanted, None)?)?;
                }
                Ok(more)
            }),
            Self::List { text, python } => each_item(text, *python, wanted, None, &mut |row| {
                let (this, more) = picked();
                this.map_or(Ok(()), |this| visit(this, row))?;
                Ok(more)
            })
            .map(drop),
            Self::Held(rows) => rows.iter().try_for_each(|row| {
                let Some(this) = picked().0 else { return Ok(()) };
                let cells = row.iter().filter(|(name, _)| wanted.has(name));
                visit(this, cells.map(|(name, value)| (name.clone(), value.clone())).collect())
            }),
        }
    }
}

fn halved(count: usize, place: &str) -> String {
    format!("escapes of one half of a character, such as `\\ud83d` alone: {count}{place}; they are read as U+FFFD")
}

/// The first byte that is no blank, which is left to be read.
fn first_byte(input: &mut dyn BufRead) -> Result<Option<u8>> {
    let mut start = true;
    loop {
        let buffer = input.fill_buf().map_err(|cause| unreadable(&cause))?;
        let skip = match start && buffer.starts_with(text::BOM) {
            true => text::BOM.len(),
            false => buffer.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(buffer.len()),
        };
        match buffer.get(skip) {
            Some(byte) if !byte.is_ascii_whitespace() => return Ok(Some(*byte)),
            _ if buffer.is_empty() => return Ok(None),
            _ => input.consume(skip),
        }
        start = false;
    }
}

/// Visits the lines that are not blank, with their numbers from 1, until `visit` says that it has enough.
fn each_line(mut input: impl BufRead, visit: &mut dyn FnMut(u32, &str) -> Result<bool>) -> Result<()> {
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        number += 1;
        let wrong = |cause: &dyn fmt::Display| Error::new(format!("line {number} is no row: {cause}"));
        let read = io::Read::take(&mut input, LONGEST_LINE + 1).read_until(b'\n', &mut line);
        let read = read.map_err(|cause| unreadable(&cause).context(format!("after line {}", number - 1)))?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 > LONGEST_LINE {
            return Err(wrong(&format!("it is longer than {} MiB", LONGEST_LINE >> 20))
                .help("each line has to be one JSON object"));
        }
        let text = std::str::from_utf8(&line).map_err(|cause| wrong(&cause).help(text::ENCODING))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if !text.trim().is_empty() && !visit(number, text)? {
            return Ok(());
        }
    }
}

fn parse_line(line: &str, number: u32, wanted: &Wanted, mut columns: Option<&mut IndexSet<String>>) -> Result<Row> {
    let mut parse = |line: &str| {
        let mut parser = Deserializer::from_str(line);
        let row = Cells { wanted, columns: columns.as_deref_mut() }.deserialize(&mut parser)?;
        parser.end().map(|()| row)
    };
    let parsed = parse(line).or_else(|cause| match python_to_json(line.as_bytes()) {
        Some((json, _)) => parse(&String::from_utf8_lossy(&json)).map_err(|_| cause),
        None => Err(cause),
    });
    parsed.map_err(|cause| {
        // The parser counts lines too; here there is only one.
        let cause = cause.to_string().replace("line 1 column", "column");
        let list = number == 1 && line.trim_start().starts_with('[');
        Error::new(format!("line {number} is no row: {cause}")).help(if list { LIST } else { LINE })
    })
}

/// Visits the items of a list of objects until `visit` says that it has enough. Returns how many halves of characters the file has, if it is
/// read as Python's.
fn each_item(
    text: &Text,
    python: bool,
    wanted: &Wanted,
    columns: Option<&mut IndexSet<String>>,
    visit: &mut dyn FnMut(Row) -> Result<bool>,
) -> Result<usize> {
    let mut input = text.open()?;
    first_byte(&mut input)?;
    let (mut failed, mut enough, mut halves) = (None, false, 0);
    let items = Items { wanted, columns, visit, failed: &mut failed, enough: &mut enough };
    let read = if python {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).map_err(|cause| unreadable(&cause))?;
        if let Some((json, count)) = python_to_json(&bytes) {
            (bytes, halves) = (json, count);
        }
        let mut parser = Deserializer::from_slice(&bytes);
        parser.deserialize_seq(items).and_then(|()| parser.end())
    } else {
        let mut parser = Deserializer::from_reader(input);
        parser.deserialize_seq(items).and_then(|()| parser.end())
    };
    match (failed, read) {
        (Some(error), _) => Err(error),
        (None, Err(cause)) if !enough => {
            let error = Error::new(format!("not a list of rows: {cause}"));
            Err(match cause.classify() {
                Category::Eof => error.help(DAMAGED),
                _ => error.help("it has to be a list of objects, in UTF-8"),
            })
        }
        _ => Ok(halves),
    }
}

struct Items<'a> {
    wanted: &'a Wanted,
    columns: Option<&'a mut IndexSet<String>>,
    visit: &'a mut dyn FnMut(Row) -> Result<bool>,
    failed: &'a mut Option<Error>,
    enough: &'a mut bool,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(row) =
            items.next_element_seed(Cells { wanted: self.wanted, columns: self.columns.as_deref_mut() })?
        {
            match (self.visit)(row) {
                Ok(true) => {}
                Ok(false) => {
                    *self.enough = true;
                    return Err(A::Error::custom("the rest is not needed"));
                }
                Err(error) => {
                    *self.failed = Some(error);
                    return Err(A::Error::custom("a row is wrong"));
                }
            }
        }
        Ok(())
    }
}

/// An object of which some values are kept; says what they are all called.
struct Cells<'a> {
    wanted: &'a Wanted,
    columns: Option<&'a mut IndexSet<String>>,
}

impl<'de> DeserializeSeed<'de> for Cells<'_> {
    type Value = Row;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Cells<'_> {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Row, A::Error> {
        let mut row = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.wanted.has(&name) {
                let value = map.next_value()?;
                if let Some(columns) = &mut self.columns {
                    columns.insert(name.clone());
                }
                row.insert(name, value);
            } else if let Some(columns) = &mut self.columns {
                map.next_value::<Looked>()?;
                if !columns.contains(&name) {
                    columns.insert(name);
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(row)
    }
}

/// A value that is not kept, but is such that it could be read: what is ignored may hold halves of characters.
struct Looked;

impl<'de> Deserialize<'de> for Looked {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Looked {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// What Python's `json` writes and JSON does not know, in its words: NaN is no value, an infinity is the text of its name, half of a character
/// is U+FFFD; also how many such halves there are. `None` if there is nothing of the kind.
fn python_to_json(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    const WORDS: [(&[u8], &[u8]); 3] =
        [(b"NaN", b"null"), (b"Infinity", b"\"Infinity\""), (b"-Infinity", b"\"-Infinity\"")];
    let mut out = Vec::with_capacity(text.len() + 16);
    let (mut quoted, mut at, mut any, mut halves) = (false, 0, false, 0);
    // The unit of UTF-16 for which an escape stands.
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    while let Some(&byte) = text.get(at) {
        let word = WORDS.iter().find(|(word, _)| !quoted && text[at..].starts_with(word));
        if let Some((word, json)) = word {
            out.extend_from_slice(json);
            (at, any) = (at + word.len(), true);
            continue;
        }
        if quoted && byte == b'\\' {
            match (unit(at), unit(at + 6)) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => {
                    out.extend_from_slice(&text[at..at + 12]);
                    at += 12;
                    continue;
                }
                (Some(0xd800..=0xdfff), _) => {
                    out.extend_from_slice(b"\\ufffd");
                    (at, any, halves) = (at + 6, true, halves + 1);
                    continue;
                }
                _ => {}
            }
            out.push(byte);
            at += 1;
        } else if byte == b'"' {
            quoted = !quoted;
        }
        out.extend(text.get(at));
        at += 1;
    }
    any.then_some((out, halves))
}

/// Objects one after the other, over any number of lines; `None` if it is something else.
fn objects(text: &Text) -> Option<Vec<Row>> {
    let mut bytes = Vec::new();
    let mut input = text.open().ok()?;
    first_byte(&mut input).ok()?;
    input.read_to_end(&mut bytes).ok()?;
    let parse = |bytes: &[u8]| Deserializer::from_slice(bytes).into_iter::<Row>().collect::<Result<Vec<_>, _>>().ok();
    parse(&bytes).or_else(|| parse(&python_to_json(&bytes)?.0))
}

/// The rows of an object that holds all of them, and what is to be said of that: a list of rows under one name
/// (`{"version": …, "data": [{…}, …]}`), or a list or table of values for each column, as pandas and `datasets` write them.
fn unwrapped(mut rows: Vec<Row>) -> Result<(Vec<Row>, Option<String>)> {
    let [only] = &mut rows[..] else { return Ok((rows, None)) };
    let is_rows =
        |value: &Value| value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object));
    let lists: Vec<String> = only.iter().filter(|(_, value)| is_rows(value)).map(|(name, _)| name.clone()).collect();
    match &lists[..] {
        [] => {}
        [name] => {
            let items = match only.shift_remove(name) {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
            let inner = items.into_iter().filter_map(|item| match item {
                Value::Object(row) => Some(row),
                _ => None,
            });
            return Ok((inner.collect(), Some(format!("the rows are those of the list `{name}`"))));
        }
        several => {
            let names = super::super::definition::quoted(several);
            return Err(Error::new(format!("the file is one object with several lists of rows: {names}"))
                .help("write each list into a file of its own"));
        }
    }
    let values = |value: &Value| -> Option<Vec<Value>> {
        match value {
            Value::Array(values) => Some(values.clone()),
            Value::Object(values) => Some(values.values().cloned().collect()),
            _ => None,
        }
    };
    let same_keys = |a: &Value, b: &Value| match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.keys().eq(b.keys()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len(),
        _ => false,
    };
    let Some(first) = only.values().next().filter(|value| values(value).is_some_and(|values| values.len() > 1)) else {
        return Ok((rows, None));
    };
    if !only.values().all(|value| same_keys(first, value)) {
        return Ok((rows, None));
    }
    let columns: Option<Vec<(&String, Vec<Value>)>> =
        only.iter().map(|(name, value)| Some((name, values(value)?))).collect();
    let columns = columns.unwrap_or_default();
    let count = columns.first().map_or(0, |(_, values)| values.len());
    let row = |i: usize| columns.iter().map(|(name, values)| ((*name).clone(), values[i].clone())).collect();
    Ok(((0..count).map(row).collect(), Some(format!("it holds columns, of {count} values each"))))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn a_line_without_end_is_an_error() {
        let endless = BufReader::with_capacity(1 << 20, io::Read::take(io::repeat(b'x'), LONGEST_LINE + 9));
        let error = each_line(endless, &mut |_, _| Ok(true)).err().unwrap();
        assert_eq!(error.message(), "line 1 is no row: it is longer than 64 MiB");
        assert!(error.remedy().is_some());
    }

    #[test]
    fn words_of_python_are_replaced_outside_of_texts() {
        let json = |text: &str| python_to_json(text.as_bytes()).map(|(json, _)| String::from_utf8(json).unwrap());
        assert_eq!(json(r#"{"a": NaN, "b": [-Infinity]}"#).unwrap(), r#"{"a": null, "b": ["-Infinity"]}"#);
        assert_eq!(
            json(r#"{"NaN": "NaN \" Infinity", "b": Infinity}"#).unwrap(),
            r#"{"NaN": "NaN \" Infinity", "b": "Infinity"}"#
        );
        assert_eq!(json(r#"{"a": "NaN", "b": "\\"}"#), None);
        // Halves of characters: the first, the second, both the wrong way round, both as they belong together, and none at all.
        let halves = [
            (r#""a\ud83d b""#, Some((r#""a\ufffd b""#, 1))),
            (r#""a\uDE00""#, Some((r#""a\ufffd""#, 1))),
            (r#""\ude00\ud83d""#, Some((r#""\ufffd\ufffd""#, 2))),
            (r#""\ud83d\ud83d\ude00""#, Some((r#""\ufffd\ud83d\ude00""#, 1))),
            (r#""\ud83d\ude00""#, None),
            (r#""\\ud83d \u12""#, None),
        ];
        for (text, expected) in halves {
            let found = python_to_json(text.as_bytes());
            let found = found.as_ref().map(|(json, count)| (std::str::from_utf8(json).unwrap(), *count));
            assert_eq!(found, expected, "{text}");
        }
    }
}
