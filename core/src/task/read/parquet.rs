//! Parquet: only the row groups and columns that are asked for are unpacked.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use parquet::{
    basic::{ConvertedType, Type as Physical},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    file::{
        metadata::ParquetMetaData,
        reader::{FileReader, RowGroupReader, SerializedFileReader},
    },
    record::{Field, reader::RowIter},
    schema::types::{ColumnDescPtr, Type},
};
use serde_json::{Map, Value};

use super::{DAMAGED, Found, Visit, Wanted, open as open_file};
use crate::{Error, Result};

/// Values by which a column of bytes is told from one of texts.
const ENOUGH: usize = 64;
/// So many cells of a column are unpacked at once.
const AT_ONCE: usize = 256;
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
    cells(reader, &wanted, &BTreeSet::new(), enough, &mut |_, row| {
        row.for_each(|_, field| {
            if !matches!(field, Some(Field::Null)) {
                all += 1;
                bad += usize::from(field.and_then(text_or_number).is_none());
            }
            Ok(())
        })
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
    cells(&reader, wanted, binary, picks, &mut |number, cells| {
        let mut row = Map::new();
        cells.for_each(|name, field| {
            let value = field.and_then(text_or_number).ok_or_else(|| not_utf8(number, name))?;
            row.insert(name.to_owned(), value);
            Ok(())
        })?;
        visit(number, row)
    })
}

fn not_utf8(row: u32, column: &str) -> Error {
    Error::new(format!("row {row}, counted from 0: column `{column}` holds bytes that are not UTF-8")).help(BYTES)
}

/// Visits rows by their cells.
fn cells(
    reader: &dyn FileReader,
    wanted: &Wanted,
    binary: &BTreeSet<String>,
    mut picks: &[u32],
    visit: &mut dyn FnMut(u32, RowCells) -> Result<()>,
) -> Result<()> {
    let schema = reader.metadata().file_metadata().schema();
    let has = |field: &Type| match wanted {
        Wanted::All => !binary.contains(field.name()),
        Wanted::These(names) => names.contains(field.name()),
    };
    let chosen: Vec<&Arc<Type>> = schema.get_fields().iter().filter(|field| has(field)).collect();
    let mut first: u32 = 0;
    for group in 0..reader.num_row_groups() {
        let count = u32::try_from(reader.metadata().row_group(group).num_rows()).unwrap_or(u32::MAX);
        let mut here;
        (here, picks) = picks.split_at(picks.partition_point(|row| row - first < count));
        if !here.is_empty() {
            let read = reader.get_row_group(group).map_err(|cause| explain(&cause))?;
            let open = |field: &&Arc<Type>| Column::open(schema.name(), field, &*read);
            let mut columns = chosen.iter().map(open).collect::<Result<Vec<_>>>()?;
            let mut next = first;
            while let Some(start) = here.first().copied() {
                let run = here.iter().zip(start..).take(AT_ONCE).take_while(|(row, number)| **row == *number).count();
                for column in &mut columns {
                    column
                        .cells
                        .move_on((start - next) as usize, run)
                        .map_err(|cause| column.explain(start, &cause))?;
                }
                for row in &here[..run] {
                    visit(*row, RowCells { row: *row, columns: &mut columns })?;
                }
                next = here[run - 1] + 1;
                here = &here[run..];
            }
        }
        first = first.saturating_add(count);
    }
    Ok(())
}

/// The cells of one row.
struct RowCells<'a, 'b> {
    row: u32,
    columns: &'a mut [Column<'b>],
}

impl RowCells<'_, '_> {
    /// Visits each cell with the name of its column; `None` for a text that is not UTF-8.
    fn for_each(self, mut visit: impl FnMut(&str, Option<Field>) -> Result<()>) -> Result<()> {
        for column in self.columns {
            let field = match column.cells.next() {
                Ok(Some(field)) => Some(field),
                Ok(None) => {
                    let error = Error::new("not a readable Parquet file: it has fewer rows than it says");
                    return Err(error.help(DAMAGED));
                }
                Err(cause) if cause.to_string().contains("as String") => None,
                Err(cause) => return Err(column.explain(self.row, &cause)),
            };
            visit(&column.name, field)?;
        }
        Ok(())
    }
}

/// One column of a row group.
struct Column<'a> {
    name: String,
    cells: Box<dyn Cells + 'a>,
}

impl<'a> Column<'a> {
    fn open(schema: &str, field: &Arc<Type>, group: &'a dyn RowGroupReader) -> Result<Self> {
        let name = field.name().to_owned();
        let cells = match Self::leaf(&name, field, group) {
            Some(place) => flat(group, place),
            None => nested(schema, field, group),
        };
        Ok(Self { cells: cells.map_err(|cause| explain(&cause))?, name })
    }

    /// The place of a column whose cells are single values.
    fn leaf(name: &str, field: &Type, group: &dyn RowGroupReader) -> Option<usize> {
        let single = |description: &ColumnDescPtr| {
            let path = description.path().parts();
            description.max_rep_level() == 0 && path.len() == 1 && path[0] == name
        };
        field.is_primitive().then(|| group.metadata().schema_descr().columns().iter().position(single)).flatten()
    }

    fn explain(&self, row: u32, cause: &ParquetError) -> Error {
        explain(cause).context(format!("row {row}, counted from 0, column `{}`", self.name))
    }
}

/// Cells of a column, one after the other.
trait Cells {
    /// Passes over some cells, and gets ready to hand out some that follow.
    fn move_on(&mut self, over: usize, ready: usize) -> Result<(), ParquetError>;

    /// The next cell; `None` where there is none.
    fn next(&mut self) -> Result<Option<Field>, ParquetError>;
}

/// Cells that are single values, which can be passed over without looking at them.
struct Flat<T: DataType> {
    reader: ColumnReaderImpl<T>,
    description: ColumnDescPtr,
    field: fn(&ColumnDescPtr, T::T) -> Result<Field, ParquetError>,
    values: std::vec::IntoIter<T::T>,
    /// Of each cell, whether it has a value: [`ColumnDescPtr`]'s level if so.
    levels: std::vec::IntoIter<i16>,
}

impl<T: DataType> Cells for Flat<T> {
    fn move_on(&mut self, over: usize, ready: usize) -> Result<(), ParquetError> {
        let passed = self.reader.skip_records(over)?;
        let (mut levels, mut values) = (Vec::with_capacity(ready), Vec::with_capacity(ready));
        if passed == over {
            let (cells, ..) = self.reader.read_records(ready, Some(&mut levels), None, &mut values)?;
            // Where no cell may be empty, no levels are kept.
            levels.resize(cells, self.description.max_def_level());
        }
        (self.values, self.levels) = (values.into_iter(), levels.into_iter());
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Field>, ParquetError> {
        match self.levels.next() {
            None => Ok(None),
            Some(level) if level < self.description.max_def_level() => Ok(Some(Field::Null)),
            Some(_) => self.values.next().map(|value| (self.field)(&self.description, value)).transpose(),
        }
    }
}

fn flat(group: &dyn RowGroupReader, place: usize) -> Result<Box<dyn Cells>, ParquetError> {
    fn of<T: DataType>(
        reader: ColumnReaderImpl<T>,
        description: ColumnDescPtr,
        field: fn(&ColumnDescPtr, T::T) -> Result<Field, ParquetError>,
    ) -> Box<dyn Cells>
    where
        T::T: 'static,
    {
        let (values, levels) = (Vec::new().into_iter(), Vec::new().into_iter());
        Box::new(Flat { reader, description, field, values, levels })
    }
    let about = group.metadata().schema_descr().column(place);
    Ok(match group.get_column_reader(place)? {
        ColumnReader::BoolColumnReader(it) => of(it, about, |about, value| Ok(Field::convert_bool(about, value))),
        ColumnReader::Int32ColumnReader(it) => of(it, about, |about, value| Ok(Field::convert_int32(about, value))),
        ColumnReader::Int64ColumnReader(it) => of(it, about, |about, value| Ok(Field::convert_int64(about, value))),
        ColumnReader::Int96ColumnReader(it) => of(it, about, |about, value| Ok(Field::convert_int96(about, value))),
        ColumnReader::FloatColumnReader(it) => of(it, about, |about, value| Ok(Field::convert_float(about, value))),
        ColumnReader::DoubleColumnReader(it) => of(it, about, |about, value| Ok(Field::convert_double(about, value))),
        ColumnReader::ByteArrayColumnReader(it) => of(it, about, Field::convert_byte_array),
        ColumnReader::FixedLenByteArrayColumnReader(it) => {
            of(it, about, |about, value| Field::convert_byte_array(about, ByteArray::from(value)))
        }
    })
}

/// Cells that are lists or have parts, which have to be put together to be passed over.
struct Nested<'a>(RowIter<'a>);

impl Cells for Nested<'_> {
    fn move_on(&mut self, over: usize, _ready: usize) -> Result<(), ParquetError> {
        self.0.by_ref().take(over).try_for_each(|row| row.map(|_| ()))
    }

    fn next(&mut self) -> Result<Option<Field>, ParquetError> {
        let row = self.0.next().transpose()?;
        Ok(row.and_then(|row| row.into_columns().pop()).map(|(_, field)| field))
    }
}

fn nested<'a>(
    schema: &str,
    field: &Arc<Type>,
    group: &'a dyn RowGroupReader,
) -> Result<Box<dyn Cells + 'a>, ParquetError> {
    let alone = Type::group_type_builder(schema).with_fields(vec![field.clone()]).build()?;
    Ok(Box::new(Nested(RowIter::from_row_group(Some(alone), group)?)))
}

/// A value of a Parquet file; `None` where it is made of bytes that are not UTF-8. Some programs store texts as bytes and do not say that
/// they are texts.
fn text_or_number(field: Field) -> Option<Value> {
    Some(match field {
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok()?.into(),
        Field::ListInternal(list) => {
            list.elements().iter().cloned().map(text_or_number).collect::<Option<Vec<Value>>>()?.into()
        }
        Field::Group(row) => {
            let cells = row.into_columns().into_iter().map(|(name, field)| Some((name, text_or_number(field)?)));
            Value::Object(cells.collect::<Option<_>>()?)
        }
        other => other.to_json_value(),
    })
}
