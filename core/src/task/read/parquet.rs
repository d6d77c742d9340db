//! Parquet: only the row groups and columns that are asked for are unpacked.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use parquet::{
    basic::{ConvertedType, Type as Physical},
    errors::ParquetError,
    file::{
        metadata::ParquetMetaData,
        reader::{FileReader, SerializedFileReader},
    },
    record::{Field, reader::RowIter},
    schema::types::Type,
};
use serde_json::{Map, Value};

use super::{DAMAGED, Found, Visit, Wanted, open as open_file};
use crate::{Error, Result};

/// Values by which a column of bytes is told from one of texts.
const ENOUGH: usize = 64;
/// What to do about bytes in place of a text.
const BYTES: &str = "write the column again as texts, decoded from what they are in";

fn explain(cause: &ParquetError) -> Error {
    let text = cause.to_string();
    let text = text.strip_prefix("Parquet error: ").unwrap_or(&text);
    // Some messages hold a whole value.
    let short: String = text.chars().take(200).collect();
    let feature = text.contains("feature");
    Error::new(format!("not a readable Parquet file: {short}")).help(match feature {
        true => "write it again, packed with Zstandard, Snappy or not at all",
        false => DAMAGED,
    })
}

fn reader(path: &Path) -> Result<SerializedFileReader<std::fs::File>> {
    let file = open_file(path)?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let reader = SerializedFileReader::new(file).map_err(|cause| explain(&cause))?;
    check_sizes(reader.metadata(), size)?;
    Ok(reader)
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
            if group.num_rows() < 0 || !fits(start) || !fits(length) || column.uncompressed_size() < 0 {
                return Err(impossible());
            }
        }
    }
    if rows != metadata.file_metadata().num_rows() { Err(impossible()) } else { Ok(()) }
}

/// Opens a file; also says which columns hold bytes that are no texts, such as pictures.
pub(super) fn open(path: &Path, limit: usize) -> Result<(Found, BTreeSet<String>)> {
    let reader = reader(path)?;
    let metadata = reader.metadata().file_metadata();
    let fields = metadata.schema().get_fields();
    let columns: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    if let Some(twice) = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name)).map(|(_, name)| name)
    {
        return Err(Error::new(format!("there are two columns `{twice}`")).help("give one of them another name"));
    }
    let mut binary = BTreeSet::new();
    let enough: Vec<u32> =
        (0..).take(usize::try_from(metadata.num_rows()).unwrap_or(0).min(limit).min(ENOUGH)).collect();
    for field in fields {
        let mut bytes = false;
        any_leaf(field, &mut |leaf| {
            let info = leaf.get_basic_info();
            let kind = leaf.get_physical_type();
            bytes |= matches!(kind, Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY)
                && info.converted_type() == ConvertedType::NONE
                && info.logical_type_ref().is_none();
        });
        if bytes && is_binary(&reader, field.name(), &enough)? {
            binary.insert(field.name().to_owned());
        }
    }
    let count = usize::try_from(metadata.num_rows()).unwrap_or(usize::MAX).min(limit);
    Ok((Found { columns, count, ..Found::default() }, binary))
}

fn any_leaf(kind: &Type, visit: &mut dyn FnMut(&Type)) {
    match kind.is_group() {
        true => kind.get_fields().iter().for_each(|inner| any_leaf(inner, visit)),
        false => visit(kind),
    }
}

/// Whether at least half of a column's first values are bytes that are not UTF-8.
fn is_binary(reader: &dyn FileReader, name: &str, enough: &[u32]) -> Result<bool> {
    let wanted = Wanted::These([name.to_owned()].into());
    let (mut bad, mut all) = (0, 0);
    fields(reader, &wanted, &BTreeSet::new(), enough, &mut |_, cells| {
        for (_, field) in &cells {
            if !matches!(field, Field::Null) {
                all += 1;
                bad += usize::from(text_or_number(field).is_none());
            }
        }
        Ok(())
    })?;
    Ok(bad > 0 && bad * 2 >= all)
}

/// As [`super::DataFile::visit`]; columns of bytes are left out unless they are wanted by name.
pub(super) fn visit(
    path: &Path,
    wanted: &Wanted,
    binary: &BTreeSet<String>,
    picks: &[u32],
    visit: &mut Visit,
) -> Result<()> {
    let reader = reader(path)?;
    fields(&reader, wanted, binary, picks, &mut |number, cells| {
        let mut row = Map::new();
        for (name, field) in cells {
            let value = match field {
                Field::Str(text) => Some(Value::String(text)),
                field => text_or_number(&field),
            };
            match value {
                Some(value) => _ = row.insert(name, value),
                None => return Err(not_utf8(number, &name)),
            }
        }
        visit(number, row)
    })
}

fn not_utf8(row: u32, column: &str) -> Error {
    Error::new(format!("row {row}, counted from 0: column `{column}` holds bytes that are not UTF-8")).help(BYTES)
}

/// Visits the cells of rows.
fn fields(
    reader: &dyn FileReader,
    wanted: &Wanted,
    binary: &BTreeSet<String>,
    mut picks: &[u32],
    visit: &mut dyn FnMut(u32, Vec<(String, Field)>) -> Result<()>,
) -> Result<()> {
    let schema = reader.metadata().file_metadata().schema();
    let has = |field: &Type| match wanted {
        Wanted::All => !binary.contains(field.name()),
        Wanted::These(names) => names.contains(field.name()),
    };
    let chosen: Vec<Arc<Type>> = schema.get_fields().iter().filter(|field| has(field)).cloned().collect();
    if chosen.is_empty() {
        return picks.iter().try_for_each(|row| visit(*row, Vec::new()));
    }
    let names: Vec<String> = chosen.iter().map(|field| field.name().to_owned()).collect();
    let chosen =
        Type::group_type_builder(schema.name()).with_fields(chosen).build().map_err(|cause| explain(&cause))?;
    let mut first: u32 = 0;
    for group in 0..reader.num_row_groups() {
        let count = u32::try_from(reader.metadata().row_group(group).num_rows()).unwrap_or(u32::MAX);
        let here;
        (here, picks) = picks.split_at(picks.partition_point(|row| row - first < count));
        let Some(last) = here.last() else {
            first = first.saturating_add(count);
            continue;
        };
        let read = reader.get_row_group(group).map_err(|cause| explain(&cause))?;
        let rows = RowIter::from_row_group(Some(chosen.clone()), &*read).map_err(|cause| explain(&cause))?;
        let mut here = here.iter().peekable();
        for (number, row) in (first..=*last).zip(rows) {
            let row = row.map_err(|cause| wrong_row(reader, &names, number, &cause))?;
            if here.next_if_eq(&&number).is_some() {
                visit(number, row.into_columns())?;
            }
        }
        if here.next().is_some() {
            let error = Error::new("not a readable Parquet file: it has fewer rows than it says");
            return Err(error.help(DAMAGED));
        }
        first = first.saturating_add(count);
    }
    Ok(())
}

/// The error about a row that cannot be read: where it is a text that is not UTF-8, with its column.
fn wrong_row(reader: &dyn FileReader, names: &[String], row: u32, cause: &ParquetError) -> Error {
    if !cause.to_string().contains("as String") {
        return explain(cause).context(format!("row {row}, counted from 0"));
    }
    let fails = |name: &&String| {
        let only = Wanted::These([(*name).clone()].into());
        names.len() == 1 || fields(reader, &only, &BTreeSet::new(), &[row], &mut |_, _| Ok(())).is_err()
    };
    names.iter().find(fails).map_or_else(|| explain(cause), |name| not_utf8(row, name))
}

/// A value of a Parquet file; `None` where it is made of bytes that are not UTF-8. Some programs store texts as bytes and do not say that
/// they are texts.
fn text_or_number(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok()?.into(),
        Field::ListInternal(list) => list.elements().iter().map(text_or_number).collect::<Option<Vec<Value>>>()?.into(),
        Field::Group(row) => {
            let columns = row.get_column_iter().map(|(name, field)| Some((name.clone(), text_or_number(field)?)));
            Value::Object(columns.collect::<Option<_>>()?)
        }
        other => other.to_json_value(),
    })
}
