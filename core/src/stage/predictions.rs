//! Class probabilities of one split, as a file.

use std::{fs, path::Path};

use super::store::write_atomically;
use crate::{Error, Result, error::IoContext, strategy::Split};

/// Class probabilities, one row per example of a split, in the split's order.
///
/// The file is CSV with a header `p0,p1,…`; every number is the shortest text that reads back as the same `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions(Vec<Vec<f32>>);

impl Predictions {
    /// Takes rows of probabilities.
    ///
    /// # Errors
    /// Rows of unequal length, or numbers that are not finite or not in [0, 1].
    pub fn new(rows: Vec<Vec<f32>>) -> Result<Self> {
        let classes = rows.first().map_or(0, Vec::len);
        for (index, row) in rows.iter().enumerate() {
            let sum: f32 = row.iter().sum();
            let sound =
                row.len() == classes && row.iter().all(|p| (0.0..=1.0 + 1e-5).contains(p)) && (sum - 1.0).abs() < 1e-3;
            if !sound {
                return Err(Error::new(format!("prediction {index} is not a probability distribution: {row:?}")));
            }
        }
        Ok(Self(rows))
    }

    /// A number of each example, from 0 to 1, as the probability that something is so: `[1 − p, p]`. Columns are written like this.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_numbers(numbers: &[f32]) -> Result<Self> {
        Self::new(numbers.iter().map(|p| vec![1.0 - p, *p]).collect())
    }

    /// Name of a split's file in a stage.
    pub fn file(split: Split) -> String {
        format!("{}.csv", split.name())
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<f32>] {
        &self.0
    }

    /// The rows, taken.
    pub fn into_rows(self) -> Vec<Vec<f32>> {
        self.0
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A path that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        let classes = self.0.first().map_or(0, Vec::len);
        text.push_str(&(0..classes).map(|class| format!("p{class}")).collect::<Vec<_>>().join(","));
        text.push('\n');
        for row in &self.0 {
            text.push_str(&row.iter().map(f32::to_string).collect::<Vec<_>>().join(","));
            text.push('\n');
        }
        write_atomically(path, text.as_bytes())
    }

    /// Reads the file.
    ///
    /// # Errors
    /// A file that is missing or not of this form.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |message: String| {
            let help = "the file is damaged or was edited: remove its folder, and `w2s run` makes it anew";
            Error::new(message).in_file(path).help(help)
        };
        let mut reader =
            csv::Reader::from_path(path).map_err(|error| wrong(format!("cannot read predictions: {error}")))?;
        let rows = reader
            .deserialize::<Vec<f32>>()
            .map(|row| row.map_err(|error| wrong(format!("not a row of probabilities: {error}"))))
            .collect::<Result<Vec<_>>>()?;
        Self::new(rows).map_err(|error| wrong(error.message().to_owned()))
    }
}

/// Numbers of each of the student's examples that need be no probabilities, as a file: CSV with a header, in the split's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers(pub Vec<f32>);

impl Numbers {
    /// Name of the file in a stage.
    pub const FILE: &'static str = "numbers.csv";

    /// Writes the file into a stage's folder.
    ///
    /// # Errors
    /// A number that is not finite, or a folder that cannot be written to.
    pub fn write(&self, folder: &Path) -> Result<()> {
        if let Some((row, number)) = self.0.iter().enumerate().find(|(_, number)| !number.is_finite()) {
            return Err(Error::new(format!("the number of example {row} is {number}")));
        }
        let lines: String = self.0.iter().map(|number| format!("{number}\n")).collect();
        write_atomically(&folder.join(Self::FILE), format!("number\n{lines}").as_bytes())
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// A file that is missing or not of this form.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        let text = fs::read_to_string(&path).path("read numbers", &path)?;
        let wrong = |line: &str| {
            let error = Error::new(format!("`{line}` is no number")).in_file(&path);
            error.help("the file is damaged or was edited: remove its folder, and `w2s run` makes it anew")
        };
        text.lines().skip(1).map(|line| line.parse().map_err(|_| wrong(line))).collect::<Result<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.csv");
        let p = f32::from_bits(0x3e9a_3f21);
        let predictions =
            Predictions::new(vec![vec![1.0 - p, p], vec![0.5, 0.5], vec![1.0, 0.0], vec![1.0 - 1e-20, 1e-20]]).unwrap();
        predictions.write(&path).unwrap();
        assert_eq!(Predictions::read(&path).unwrap(), predictions);
    }

    #[test]
    fn refuses_what_is_no_distribution() {
        assert!(Predictions::new(vec![vec![0.5, f32::NAN]]).is_err());
        assert!(Predictions::new(vec![vec![0.5, 0.4]]).is_err());
        assert!(Predictions::new(vec![vec![0.5, 0.5], vec![1.0]]).is_err());
    }
}
