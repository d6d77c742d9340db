//! What a student's method decided about each of its examples, as a file.

use std::path::Path;

use super::store::write_atomically;
use crate::{Error, Result, learner::Choice};

/// File of a student with the last decision about each of its examples.
pub const DECISIONS: &str = "decisions.csv";

/// The column of numbers that stands in the file: the first that there was.
const COLUMN: &str = "p-ik";

/// Columns `row, own, weight, p_ik, self_0 …, refined_0 …`; empty where the method has no such thing.
pub(super) fn write_decisions<'a>(choices: impl Iterator<Item = &'a Choice>, path: &Path) -> Result<()> {
    let mut text = String::new();
    for choice in choices {
        let classes = choice.refined.len();
        if text.is_empty() {
            let columns = |name: &str| (0..classes).map(|class| format!(",{name}_{class}")).collect::<String>();
            text = format!("row,own,weight,p_ik{}{}\n", columns("self"), columns("refined"));
        }
        let number = choice.columns.get(COLUMN).map_or_else(String::new, f32::to_string);
        text.push_str(&format!("{},{},{},{number}", choice.row, u8::from(choice.own), choice.weight));
        for class in 0..classes {
            let own = choice.self_label.as_ref().map_or_else(String::new, |own| own[class].to_string());
            text.push_str(&format!(",{own}"));
        }
        for value in &choice.refined {
            text.push_str(&format!(",{value}"));
        }
        text.push('\n');
    }
    write_atomically(path, text.as_bytes())
}

/// The decisions that a student left behind, in the order of its examples.
///
/// # Errors
/// A file that is missing or not of that form.
pub fn read_decisions(path: &Path) -> Result<Vec<Choice>> {
    let wrong = |message: String| Error::new(format!("not a student's decisions: {message}")).in_file(path);
    let mut reader = csv::Reader::from_path(path).map_err(|error| wrong(error.to_string()))?;
    let classes = reader.headers().map_err(|error| wrong(error.to_string()))?.len().saturating_sub(4) / 2;
    let row = |record: csv::StringRecord| -> Option<Choice> {
        let number = |place: usize| record.get(place)?.parse::<f32>().ok();
        let numbers = |from: usize| (from..from + classes).map(number).collect::<Option<Vec<f32>>>();
        Some(Choice {
            row: record.get(0)?.parse().ok()?,
            own: record.get(1)? == "1",
            weight: number(2)?,
            columns: number(3).map(|number| (COLUMN.to_owned(), number)).into_iter().collect(),
            self_label: numbers(4),
            refined: numbers(4 + classes)?,
        })
    };
    reader
        .records()
        .map(|record| {
            let record = record.map_err(|error| wrong(error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            row(record).ok_or_else(|| wrong(format!("line {line}")))
        })
        .collect()
}
