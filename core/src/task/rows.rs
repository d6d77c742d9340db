//! Rows of splits: which are meant, where they are, and how to get at them without holding all of them in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use indexmap::{IndexMap, IndexSet};
use serde_json::{Map, Value};

use super::{
    SourceFile,
    order::permute,
    read::{DataFile, Dialect, Types, Wanted},
};
use crate::{Error, Result};

/// A row: column name to value.
pub type Row = Map<String, Value>;

/// Rows of one or more splits, in an order, and the files they are in. Values are read when they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Numbers of the rows, in the order in which they are used. They run on from 0 through all parts.
    pub(super) numbers: Vec<u32>,
    /// The files in which the numbers run on.
    pub files: Vec<SourceFile>,
    /// What should be known about how the files were read.
    pub(super) notes: Vec<String>,
    /// What columns of text hold, as far as it was [asked](Self::find_types) for.
    pub(super) types: Types,
    parts: Vec<Part>,
}

/// Rows that follow each other in one file or in memory.
#[derive(Clone, Debug)]
struct Part {
    /// Number of its first row.
    first: u32,
    count: u32,
    stored: Stored,
}

#[derive(Clone, Debug)]
enum Stored {
    Here(Arc<Vec<Row>>),
    InFile(Arc<DataFile>),
}

impl Rows {
    /// Numbers rows that come from no file.
    pub fn generated(rows: Vec<Row>) -> Self {
        let columns = columns_of(&rows);
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let part = Part { first: 0, count, stored: Stored::Here(Arc::new(rows)) };
        Self { columns, numbers: (0..count).collect(), parts: vec![part], ..Self::default() }
    }

    /// Opens a file, of which at most `limit` rows count. `name` is what the file is called in its data set.
    ///
    /// # Errors
    /// It cannot be read, or what it holds are no rows.
    pub(super) fn open(path: &Path, name: &str, dialect: &Dialect, limit: Option<usize>) -> Result<Self> {
        let (file, source) = DataFile::open(path, name, dialect, limit).map_err(|error| error.in_file(path))?;
        let (columns, notes, count) = (file.columns.clone(), file.notes.clone(), source.rows);
        let parts = vec![Part { first: 0, count, stored: Stored::InFile(Arc::new(file)) }];
        Ok(Self { columns, numbers: (0..count).collect(), notes, files: vec![source], parts, ..Self::default() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Adds the rows of another split after these.
    pub(super) fn append(&mut self, other: Self) -> Result<()> {
        let too_many = || Error::new(format!("the splits have more than {} rows", u32::MAX));
        let next = match self.parts.last() {
            Some(part) => part.first.checked_add(part.count).ok_or_else(too_many)?,
            None => 0,
        };
        for number in other.numbers {
            self.numbers.push(next.checked_add(number).ok_or_else(too_many)?);
        }
        let known: BTreeSet<String> = self.columns.iter().cloned().collect();
        self.columns.extend(other.columns.into_iter().filter(|column| !known.contains(column)));
        self.files.extend(other.files);
        self.notes.extend(other.notes);
        self.parts.extend(other.parts.into_iter().map(|part| Part { first: next + part.first, ..part }));
        Ok(())
    }

    /// Takes out `n` rows in the order in which `train_test_split(test_size=n, seed=0)` of the `datasets` library puts them into its
    /// test set; puts the others into the order of its training set. `None` if nothing would be left.
    pub(super) fn take_at_random(&mut self, n: usize) -> Option<Self> {
        if n >= self.numbers.len() {
            return None;
        }
        let mut taken = permute(std::mem::take(&mut self.numbers), 0);
        self.numbers = taken.split_off(n);
        Some(Self { numbers: taken, notes: Vec::new(), ..self.clone() })
    }

    /// As [`take_at_random`](Self::take_at_random), but rows of one group, by their numbers, all stay or go: as many groups as fit, in the
    /// order of their first rows. A row without a group stands alone.
    pub(super) fn take_groups_at_random(&mut self, n: usize, groups: &BTreeMap<u32, u128>) -> Option<Self> {
        if n >= self.numbers.len() {
            return None;
        }
        let mixed = permute(std::mem::take(&mut self.numbers), 0);
        let alone = |number: u32| (1, u128::from(number));
        let group = |number: &u32| groups.get(number).map_or(alone(*number), |group| (0, *group));
        let mut sizes: IndexMap<(u8, u128), usize> = IndexMap::new();
        mixed.iter().for_each(|number| *sizes.entry(group(number)).or_default() += 1);
        let (mut taken, mut there) = (BTreeSet::new(), 0);
        for (group, size) in sizes {
            if there + size <= n {
                there += size;
                taken.insert(group);
            }
        }
        let (test, train) = mixed.into_iter().partition(|number| taken.contains(&group(number)));
        self.numbers = train;
        Some(Self { numbers: test, notes: Vec::new(), ..self.clone() })
    }

    /// Finds out which of these columns hold nothing but numbers or truth values, where files hold texts alone.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn find_types(&mut self, columns: &BTreeSet<String>) -> Result<()> {
        let mut found: Option<Types> = None;
        for part in &self.parts {
            let Stored::InFile(file) = &part.stored else { continue };
            if let Some(types) = file.types(columns).map_err(|error| error.in_file(&file.path))? {
                match &mut found {
                    Some(known) => known.retain(|name, kind| types.get(name) == Some(kind)),
                    None => found = Some(types),
                }
            }
        }
        self.types = found.unwrap_or_default();
        Ok(())
    }

    /// Visits rows in the order in which they are stored, with the columns that are wanted.
    ///
    /// # Errors
    /// A file cannot be read, or `visit` fails.
    pub(super) fn visit(
        &self,
        numbers: &[u32],
        wanted: &Wanted,
        visit: &mut dyn FnMut(u32, Row) -> Result<()>,
    ) -> Result<()> {
        let mut sorted = numbers.to_vec();
        sorted.sort_unstable();
        let mut rest = &sorted[..];
        for part in &self.parts {
            let here;
            (here, rest) = rest.split_at(rest.partition_point(|number| number - part.first < part.count));
            match &part.stored {
                _ if here.is_empty() => {}
                Stored::Here(rows) => {
                    for number in here {
                        visit(*number, rows[(number - part.first) as usize].clone())?;
                    }
                }
                Stored::InFile(file) => {
                    let picks: Vec<u32> = here.iter().map(|number| number - part.first).collect();
                    let read = file.visit(wanted, &picks, &mut |number, row| visit(part.first + number, row));
                    read.map_err(|error| error.in_file(&file.path))?;
                }
            }
        }
        Ok(())
    }

    /// Leaves out the rows for which `keeps` is false. It gets these rows, a row's number, and what it holds of the wanted columns.
    ///
    /// # Errors
    /// A file cannot be read, or `keeps` fails on a row.
    pub(super) fn keep(
        &mut self,
        wanted: &Wanted,
        mut keeps: impl FnMut(&Self, u32, Row) -> Result<bool>,
    ) -> Result<()> {
        let mut kept = Vec::new();
        self.visit(&self.numbers, wanted, &mut |number, row| {
            if keeps(self, number, row)? {
                kept.push(number);
            }
            Ok(())
        })?;
        self.numbers.retain(|number| kept.binary_search(number).is_ok());
        Ok(())
    }

    /// Reads the rows with these numbers, with the columns that are wanted.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn load(&self, numbers: &[u32], wanted: &Wanted) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        self.visit(numbers, wanted, &mut |number, row| loaded.push(number, &row))?;
        Ok(loaded)
    }

    /// Every row with all columns that are texts or numbers.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn read_whole(&self) -> Result<InMemory> {
        let mut rows = Vec::with_capacity(self.numbers.len());
        self.visit(&self.numbers, &Wanted::All, &mut |number, row| {
            rows.push((number, row));
            Ok(())
        })?;
        let mut columns = self.columns.clone();
        for part in &self.parts {
            if let Stored::InFile(file) = &part.stored {
                columns.retain(|name| !file.binary.contains(name));
            }
        }
        Ok(InMemory { columns, rows })
    }

    /// Says of an error in which row of which file it is, and on which line if the file has lines.
    pub(super) fn at(&self, number: u32, error: Error) -> Error {
        let row = |part: &Part| number.checked_sub(part.first).filter(|row| *row < part.count);
        let found = self.parts.iter().find_map(|part| Some((row(part)?, &part.stored)));
        match found {
            Some((row, Stored::InFile(file))) => error.context(file.place(row)).in_file(&file.path),
            _ => error.context(format!("row {number}, counted from 0")),
        }
    }
}

/// Opens a file as tests do.
#[cfg(test)]
pub(super) fn read_file(path: &Path, name: &str, limit: Option<usize>) -> Result<Rows> {
    Rows::open(path, name, &Dialect::default(), limit)
}

/// Rows with all their values.
#[derive(Debug)]
pub(super) struct InMemory {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows with their numbers.
    pub rows: Vec<(u32, Row)>,
}

/// Rows that were read, in little memory: each as the JSON of its values, whose names are kept once.
#[derive(Default)]
pub(super) struct Loaded {
    names: IndexSet<String>,
    /// In ascending order.
    numbers: Vec<u32>,
    rows: Vec<Box<[u8]>>,
}

impl Loaded {
    fn push(&mut self, number: u32, row: &Row) -> Result<()> {
        for name in row.keys() {
            if !self.names.contains(name) {
                self.names.insert(name.clone());
            }
        }
        let values: Vec<Option<&Value>> = self.names.iter().map(|name| row.get(name)).collect();
        let packed = serde_json::to_vec(&values).map_err(|cause| Error::new(cause.to_string()))?;
        self.numbers.push(number);
        self.rows.push(packed.into_boxed_slice());
        Ok(())
    }

    /// Takes a row out; what has no value is not in it.
    ///
    /// # Errors
    /// The row was not loaded, or was taken out before.
    pub fn take(&mut self, number: u32) -> Result<Row> {
        let packed = self.numbers.binary_search(&number).ok().map(|place| std::mem::take(&mut self.rows[place]));
        let values: Vec<Value> = serde_json::from_slice(&packed.unwrap_or_default())
            .map_err(|cause| Error::new(format!("row {number} is not at hand: {cause}")))?;
        let cells = self.names.iter().cloned().zip(values);
        Ok(cells.filter(|(_, value)| !value.is_null()).collect())
    }
}

/// The union of the rows' columns, in order of first appearance.
fn columns_of(rows: &[Row]) -> Vec<String> {
    let names: IndexSet<&String> = rows.iter().flat_map(Map::keys).collect();
    names.into_iter().cloned().collect()
}
