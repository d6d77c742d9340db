//! Numbers that the data have of examples: a column of the rows that they were made of, such as a rating.

use std::collections::BTreeMap;

use super::{
    Example, OneOrMany, RowSource, Rows, Sources, Task,
    definition::{nearest, quoted},
    format::{Formatter, Trouble},
};
use crate::{Error, Result};

impl Task {
    /// A number of each of the student's examples, from a column of their rows: one of the data, one that the task computes or names anew, or a
    /// path into a nested one. A text that reads as a number is one.
    ///
    /// # Errors
    /// No such column, or a row in which it holds no number; the message names the file and the row.
    pub fn field(&self, sources: &Sources, column: &str, examples: &[Example]) -> Result<Vec<f32>> {
        self.field_from(&*sources.open(self)?, column, examples)
    }

    /// As [`field`](Self::field), from rows that are given.
    pub fn field_from(&self, source: &dyn RowSource, column: &str, examples: &[Example]) -> Result<Vec<f32>> {
        let in_task = |error: Error| error.context(format!("task `{}`, field `{column}`", self.name));
        self.numbers(source, column, examples).map_err(in_task)
    }

    fn numbers(&self, source: &dyn RowSource, column: &str, examples: &[Example]) -> Result<Vec<f32>> {
        let splits = &self.splits;
        let pool = if splits.supervise.is_some() { &splits.transfer } else { &splits.train };
        let mut rows = Rows::default();
        for split in pool.iter().flat_map(OneOrMany::as_slice) {
            rows.append(source.rows(split, None)?)?;
        }
        let formatter = Formatter::new(self)?;
        if !formatter.knows(column, &rows.columns) {
            let help = match nearest(column, rows.columns.iter().map(String::as_str)) {
                Some(name) => format!("did you mean `{name}`? The columns are {}", quoted(&rows.columns)),
                None => format!("the columns are {}", quoted(&rows.columns)),
            };
            return Err(Error::new(format!("the data has no column `{column}`")).help(help));
        }
        if formatter.tells_truth(column) {
            let message =
                format!("`{column}` is the column that the label is read from: the student would be told the truth");
            return Err(Error::new(message)
                .help("name another column; a supervisor such as `mixed-truth` gives it truth, and results say so"));
        }
        rows.find_types(&formatter.counted())?;
        let formatter = formatter.with_types(rows.types.clone());
        let wanted = formatter.wanted_by(column);
        let mut asked: Vec<u32> = examples.iter().map(|example| example.source_row).collect();
        asked.sort_unstable();
        asked.dedup();
        let mut numbers = BTreeMap::new();
        rows.visit(&asked, &wanted, &mut |number, row| {
            match formatter.completed(row, &wanted).and_then(|row| formatter.decimal(&row, column)) {
                Ok(value) => {
                    numbers.insert(number, value as f32);
                    Ok(())
                }
                Err(Trouble::Row(_, error) | Trouble::Task(error)) => Err(rows.at(number, error).or_else_help(
                    "every row of the student's half needs a number there: leave out those without with `filter` in the task, or compute one with `[compute]`",
                )),
            }
        })?;
        let number = |example: &Example| {
            let row = example.source_row;
            numbers.get(&row).copied().ok_or_else(|| Error::new(format!("there is no row {row}, counted from 0")))
        };
        examples.iter().map(number).collect()
    }
}
