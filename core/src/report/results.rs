//! `results.csv`: one row per (cell, split, metric), the only source of every number in a table.

use std::{collections::BTreeSet, fs, ops::Range, path::Path};

use serde::{Deserialize, Serialize};

use super::metrics::Measure;
use crate::{Error, Result, error::IoContext, stage::write_atomically, strategy::Split};

/// Version of the schema; raised when a column is added, removed or changes its meaning.
pub const SCHEMA_VERSION: u32 = 2;

/// The version before suites and steps: every student was trained on its task alone, and measured at its end.
const ALONE: u32 = 1;

/// The method name of the weak model's own rows, once per (task, pair, seed).
pub const WEAK: &str = "weak";
/// The method name of the strong ceiling's rows, once per (task, pair, seed).
pub const CEILING: &str = "ceiling";
/// What the method name of a further supervisor's rows begins with, where the methods of a grid have several: `weak: noisy-truth`.
pub const FURTHER_WEAK: &str = "weak: ";

/// Whether a method name is that of a weak supervisor.
pub fn is_weak(method: &str) -> bool {
    method == WEAK || method.starts_with(FURTHER_WEAK)
}

/// Whether a method name is that of a weak supervisor or of the ceiling: an end of the gap, not a method that is compared.
pub fn is_end(method: &str) -> bool {
    is_weak(method) || method == CEILING
}

/// The columns, in order: the fields of [`ResultRow`].
pub const COLUMNS: [&str; 24] = [
    "run",
    "cell",
    "suite",
    "task",
    "weak",
    "strong",
    "supervisor",
    "selector",
    "refiner",
    "loss",
    "method",
    "seed",
    "step",
    "split",
    "metric",
    "value",
    "n",
    "status",
    "device",
    "commit",
    "config_hash",
    "data_hash",
    "truth_used",
    "schema_version",
];

/// Whether a row has a value, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It has a value.
    #[default]
    Ok,
    /// The metric has no value on these items, e.g. AUROC with one class.
    Undefined,
    /// The value came out infinite or not a number, which is a defect worth a look.
    NotFinite,
    /// The cell failed.
    Failed,
}

impl Status {
    /// The word in results.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Undefined => "undefined",
            Status::NotFinite => "not-finite",
            Status::Failed => "failed",
        }
    }
}

/// One row of `results.csv`. No column holds a time of day or a duration: a grid that was killed and resumed ends with the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultRow {
    /// Name of the run, i.e. of the grid.
    pub run: String,
    /// Identity of the cell (task × pair × method × seed).
    pub cell: String,
    /// Name of the suite that the model was trained on; the task's where it was trained on that alone.
    #[serde(default)]
    pub suite: String,
    /// Task name.
    pub task: String,
    /// Weak model of the pair.
    pub weak: String,
    /// Strong model of the pair.
    pub strong: String,
    /// Registered name of the supervisor, with the parameters that tell it apart where a grid has several of that name; empty where there
    /// is none.
    pub supervisor: String,
    /// Registered name of the selector; empty where there is none.
    pub selector: String,
    /// Registered name of the refiner; empty where there is none.
    pub refiner: String,
    /// Registered name of the student's loss; empty where there is none.
    pub loss: String,
    /// Name of the method in the configuration; [`WEAK`], [`FURTHER_WEAK`] and [`CEILING`] are reserved.
    pub method: String,
    /// Root seed.
    pub seed: u64,
    /// The step of the training after which it is measured; empty at the end.
    #[serde(default)]
    pub step: Option<u64>,
    /// What it is measured on.
    pub split: Split,
    /// Name of the metric, as in [`METRICS`](super::metrics::METRICS).
    pub metric: String,
    /// The value, rates in [0, 1]; empty unless the status is `ok`.
    pub value: Option<f64>,
    /// Items that the value is measured on.
    pub n: u64,
    /// Whether there is a value.
    pub status: Status,
    /// Kind of device, e.g. `cpu`.
    pub device: String,
    /// Commit that the binary was built from.
    pub commit: String,
    /// Hash of the cell's configuration.
    pub config_hash: String,
    /// Hash of the cell's data.
    pub data_hash: String,
    /// Whether ground truth of the transfer split reached the student.
    pub truth_used: bool,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
}

impl ResultRow {
    /// This row with another metric and value; the status follows from the value.
    pub fn with(&self, measure: &Measure) -> Self {
        let (value, status) = match measure.value {
            Some(value) if value.is_finite() => (Some(value), Status::Ok),
            Some(_) => (None, Status::NotFinite),
            None => (None, Status::Undefined),
        };
        Self { metric: measure.metric.to_owned(), value, n: measure.n as u64, status, ..self.clone() }
    }

    /// This row without a value, because the cell failed.
    pub fn failed(&self, metric: &str) -> Self {
        Self { metric: metric.to_owned(), value: None, n: 0, status: Status::Failed, ..self.clone() }
    }

    /// What a row may not be: the column and what is wrong with it.
    fn defect(&self) -> Option<(&'static str, String)> {
        match (self.status, self.value) {
            (Status::Ok, None) => Some(("value", "is empty although the status is `ok`".to_owned())),
            (Status::Ok, Some(value)) if !value.is_finite() => Some(("value", format!("is {value}, no finite number"))),
            (Status::Ok, Some(_)) if self.n == 0 => Some(("n", "is 0 although the status is `ok`".to_owned())),
            (Status::Ok, Some(_)) | (_, None) => None,
            (status, Some(value)) => Some(("value", format!("is {value} although the status is `{}`", status.name()))),
        }
    }

    /// What a row is about: cell, task, weak and strong model, method. Two names for the same task, model or method have the same cell.
    pub fn entry(&self) -> [&str; 5] {
        [&self.cell, &self.task, &self.weak, &self.strong, &self.method]
    }

    fn key(&self) -> (&str, [&str; 5], Option<u64>, Split, &str) {
        (&self.run, self.entry(), self.step, self.split, &self.metric)
    }
}

/// Writes all rows, in the order given, in place of what the file held; a reader sees the old file or the new one.
///
/// # Errors
/// As [`to_bytes`], or a file that cannot be written.
pub fn write(path: &Path, rows: &[ResultRow]) -> Result<()> {
    write_atomically(path, &to_bytes(rows, path)?)
}

/// The bytes of a `results.csv` with these rows, in the order given; `path` is for messages.
///
/// Floats are written in the shortest form that reads back equal, so equal rows give equal bytes.
///
/// # Errors
/// A row with a value that contradicts its status, or two rows for the same (run, cell, task, pair, method, step, split, metric).
pub fn to_bytes<'a>(rows: impl IntoIterator<Item = &'a ResultRow>, path: &Path) -> Result<Vec<u8>> {
    let mut seen = BTreeSet::new();
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(vec![]);
    let fail = |cause: csv::Error| Error::new(format!("cannot write results: {cause}")).in_file(path);
    writer.write_record(COLUMNS).map_err(fail)?;
    for row in rows {
        let name = || format!("cell `{}`, {} `{}`", row.cell, row.split.name(), row.metric);
        if let Some((column, wrong)) = row.defect() {
            return Err(Error::new(format!("`{column}` of {} {wrong}", name())).in_file(path));
        }
        if !seen.insert(row.key()) {
            return Err(Error::new(format!("there are two results for {}", name())).in_file(path));
        }
        writer.serialize(row).map_err(fail)?;
    }
    writer.into_inner().map_err(|cause| fail(cause.into_error().into()))
}

/// Reads `results.csv`.
///
/// # Errors
/// A file that cannot be read, another schema version, a missing or unknown column, a field that does not parse, a value that
/// contradicts its status, the same (run, cell, task, pair, method, step, split, metric) twice; with line and column.
pub fn read(path: &Path) -> Result<Vec<ResultRow>> {
    let bytes = fs::read(path).path("read results", path)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::new("results are not UTF-8 text").in_file(path));
    text.and_then(|text| parse(&text, path))
        .map_err(|error| error.or_else_help("the file is damaged or was edited: `w2s run` of its grid writes it anew"))
}

/// Reads the text of a `results.csv`; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, path: &Path) -> Result<Vec<ResultRow>> {
    let mut reader = csv::ReaderBuilder::new().from_reader(text.as_bytes());
    let at = |span: Range<usize>, message: String| Error::new(message).at(path, text, span);
    let headers =
        reader.headers().map_err(|cause| Error::new(format!("cannot read results: {cause}")).in_file(path))?;
    let headers = headers.clone();
    let column = |name: &str| headers.iter().position(|header| header == name);

    let Some(version_column) = column("schema_version") else {
        return Err(at(0..0, "this is no file of results: it has no column `schema_version`".to_owned())
            .help("give the `results.csv` that `w2s run` wrote"));
    };
    let mut rows: Vec<ResultRow> = vec![];
    let mut places = vec![];
    for record in reader.records() {
        let record = record.map_err(|cause| {
            let start = cause.position().map_or(0, |position| position.byte() as usize);
            let message = match cause.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    format!("this row has {len} fields, the header has {expected_len}")
                }
                other => format!("cannot read this row: {other:?}"),
            };
            at(field(text, start, 0), message)
        })?;
        let start = record.position().map_or(0, |position| position.byte() as usize);
        let version = &record[version_column];
        let known = [ALONE, SCHEMA_VERSION].into_iter().find(|known| known.to_string() == version);
        let Some(version) = known else {
            let message =
                format!("results have schema version `{version}`, this w2s reads {ALONE} and {SCHEMA_VERSION}");
            return Err(at(field(text, start, version_column), message).help(
                "`w2s run` writes the file anew from finished stages; or read it with the w2s of its `commit` column",
            ));
        };
        // Only now: another version has other columns.
        if rows.is_empty() {
            check_header(&headers, version).map_err(|(index, message)| at(field(text, 0, index), message))?;
        }
        let mut row: ResultRow = record.deserialize(Some(&headers)).map_err(|cause| {
            let (index, why) = match cause.kind() {
                csv::ErrorKind::Deserialize { err, .. } => (err.field(), err.kind().to_string()),
                other => (None, format!("{other:?}")),
            };
            // An unknown word does not say in which field it stands.
            let unknown = |field: &str| why.starts_with(&format!("unknown variant `{field}`"));
            let index = index.map(|index| index as usize).or_else(|| record.iter().position(unknown)).unwrap_or(0);
            let (name, value) = (headers.get(index).unwrap_or("?"), record.get(index).unwrap_or(""));
            at(field(text, start, index), format!("`{name}` cannot be `{value}`: {why}"))
        })?;
        if version == ALONE {
            (row.suite, row.schema_version) = (row.task.clone(), SCHEMA_VERSION);
        }
        if let Some((name, wrong)) = row.defect() {
            return Err(at(field(text, start, column(name).unwrap_or(0)), format!("`{name}` {wrong}")));
        }
        rows.push(row);
        places.push(start);
    }
    if rows.is_empty() {
        check_header(&headers, SCHEMA_VERSION).map_err(|(index, message)| at(field(text, 0, index), message))?;
    }
    let mut seen = BTreeSet::new();
    for (row, start) in rows.iter().zip(places) {
        if !seen.insert(row.key()) {
            let message = format!("a second result for cell `{}`, {} `{}`", row.cell, row.split.name(), row.metric);
            return Err(at(field(text, start, 1), message).help("`w2s run` writes the file anew from finished stages"));
        }
    }
    Ok(rows)
}

/// Columns are found by name, so their order is free; but each must be there once, and no other.
fn check_header(headers: &csv::StringRecord, version: u32) -> Result<(), (usize, String)> {
    let since = |name: &&&str| version != ALONE || !["suite", "step"].contains(*name);
    let columns: Vec<&str> = COLUMNS.iter().filter(since).copied().collect();
    for (index, name) in headers.iter().enumerate() {
        if !columns.contains(&name) {
            return Err((index, format!("unknown column `{name}`")));
        }
        if headers.iter().take(index).any(|earlier| earlier == name) {
            return Err((index, format!("column `{name}` is there twice")));
        }
    }
    match columns.iter().find(|name| !headers.iter().any(|header| header == **name)) {
        Some(missing) => Err((0, format!("column `{missing}` is missing"))),
        None => Ok(()),
    }
}

/// Bytes of the `index`-th field of the record that starts at `start`.
fn field(text: &str, start: usize, index: usize) -> Range<usize> {
    let bytes = text.as_bytes();
    // A record's position may be that of the line end before it.
    let first = bytes.iter().skip(start).position(|byte| !matches!(byte, b'\r' | b'\n'));
    let mut from = first.map_or(bytes.len(), |skipped| start + skipped);
    let (mut quoted, mut passed) = (false, 0);
    for (here, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted && passed < index => {
                passed += 1;
                from = here + 1;
            }
            b',' | b'\r' | b'\n' if !quoted => return from..here,
            _ => {}
        }
    }
    from..bytes.len()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A made-up row; tests change what they are about.
    pub fn row(task: &str, weak: &str, strong: &str, method: &str, seed: u64, value: f64) -> ResultRow {
        ResultRow {
            run: "made-up".to_owned(),
            cell: format!("{task}/{weak}/{strong}/{method}/{seed}"),
            suite: task.to_owned(),
            task: task.to_owned(),
            weak: weak.to_owned(),
            strong: strong.to_owned(),
            supervisor: "fine-tune".to_owned(),
            selector: String::new(),
            refiner: String::new(),
            loss: "cross-entropy".to_owned(),
            method: method.to_owned(),
            seed,
            step: None,
            split: Split::Test,
            metric: "accuracy".to_owned(),
            value: Some(value),
            n: 1000,
            status: Status::Ok,
            device: "cpu".to_owned(),
            commit: "0123abc".to_owned(),
            config_hash: "c0ffee".to_owned(),
            data_hash: "da7a".to_owned(),
            truth_used: false,
            schema_version: SCHEMA_VERSION,
        }
    }

    fn written(rows: &[ResultRow]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        write(&path, rows).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        text
    }

    fn example() -> String {
        written(&[
            row("sciq", "gpt2", "gpt2-xl", "naïve, \"soft\"\nlabels", 0, 0.5),
            row("sciq", "a", "b", "c", 1, 0.25),
        ])
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        parse(text, Path::new("results.csv")).unwrap_err().to_string()
    }

    #[test]
    fn the_format_is_fixed() {
        let undefined = Measure { metric: "auroc", value: None, n: 3 };
        let first = row("sciq", "gpt2", "gpt2-xl", "weak", 0, 0.1 + 0.2);
        let text = written(&[first.clone(), first.with(&undefined)]);
        assert_eq!(
            text,
            "run,cell,suite,task,weak,strong,supervisor,selector,refiner,loss,method,seed,step,split,metric,value,n,status,device,commit,\
             config_hash,data_hash,truth_used,schema_version\n\
             made-up,sciq/gpt2/gpt2-xl/weak/0,sciq,sciq,gpt2,gpt2-xl,fine-tune,,,cross-entropy,weak,0,,test,accuracy,\
             0.30000000000000004,1000,ok,cpu,0123abc,c0ffee,da7a,false,2\n\
             made-up,sciq/gpt2/gpt2-xl/weak/0,sciq,sciq,gpt2,gpt2-xl,fine-tune,,,cross-entropy,weak,0,,test,auroc,\
             ,3,undefined,cpu,0123abc,c0ffee,da7a,false,2\n"
        );
        assert_eq!(parse(&text, Path::new("")).unwrap()[0], first);
        assert_eq!(parse(&written(&[]), Path::new("")).unwrap(), []);
    }

    #[test]
    fn no_number_that_is_none_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        write(&path, &[row("t", "w", "s", "m", 0, 0.5)]).unwrap();
        let before = fs::read(&path).unwrap();
        for value in [f64::NAN, f64::INFINITY] {
            let row = row("t", "w", "s", "m", 0, value);
            assert!(write(&path, std::slice::from_ref(&row)).is_err());
            let measure = Measure { metric: "accuracy", value: Some(value), n: 7 };
            let kept = row.with(&measure);
            assert_eq!((kept.value, kept.status, kept.n), (None, Status::NotFinite, 7));
        }
        let failed = row("t", "w", "s", "m", 0, 0.5).failed("accuracy");
        assert_eq!((failed.value, failed.status), (None, Status::Failed));
        let twice = [row("t", "w", "s", "m", 0, 0.5), row("t", "w", "s", "m", 0, 0.6)];
        assert!(write(&path, &twice).unwrap_err().message().contains("two results"));
        assert_eq!(fs::read(&path).unwrap(), before, "a refused write leaves the old file");
    }

    #[test]
    fn errors_name_line_and_column() {
        // The first record spans lines 2 to 4.
        let text = example();
        let value = text.replace(",0.25,", ",abc,");
        let message = refused(&value);
        let column = text.lines().nth(4).unwrap().find(",0.25,").unwrap() + 2;
        assert!(message.starts_with("`value` cannot be `abc`: "), "{message}");
        assert!(message.contains(&format!("(results.csv:5:{column})")), "{message}");
        let carriage = refused(&value.replace('\n', "\r\n"));
        assert!(carriage.contains(&format!("(results.csv:5:{column})")), "{carriage}");

        assert!(
            refused(&text.replace(",0.25,", ",NaN,")).starts_with("`value` is NaN, no finite number (results.csv:5:")
        );
        assert!(refused(&text.replace(",0.25,", ",,")).starts_with("`value` is empty although the status is `ok`"));
        assert!(refused(&text.replace(",0.25,1000,", ",0.25,0,")).starts_with("`n` is 0 although"));
        assert!(
            refused(&text.replace(",ok,", ",failed,")).starts_with("`value` is 0.5 although the status is `failed`")
        );
        assert!(refused(&text.replace(",ok,", ",fine,")).contains("`status` cannot be `fine`"));
        assert!(refused(&text.replace(",test,", ",dev,")).contains("`split` cannot be `dev`"));
        assert!(refused(&text.replace(",false,2\n", ",false\n")).contains("this row has 23 fields, the header has 24"));
        assert!(refused(&text.replace("truth_used", "truth")).contains("unknown column `truth` (results.csv:1:"));
        let doubled = format!("{text}{}", text.lines().nth(4).unwrap());
        assert!(
            refused(&doubled).starts_with("a second result for cell `sciq/a/b/c/1`, test `accuracy` (results.csv:6:")
        );
    }

    #[test]
    fn another_schema_version_is_told_before_anything_else() {
        let text = example().replace("truth_used", "truth").replace(",false,2\n", ",false,3\n");
        let message = refused(&text);
        assert!(
            message.starts_with("results have schema version `3`, this w2s reads 1 and 2 (results.csv:4:"),
            "{message}"
        );
        assert!(message.contains("\nhint: `w2s run` writes the file anew"), "{message}");
        assert!(refused("a,b\n1,2\n").starts_with("this is no file of results"));
        assert!(refused("").starts_with("this is no file of results"));
        assert!(refused("schema_version\n").contains("column `run` is missing"));
    }

    #[test]
    fn results_from_before_suites_are_those_of_single_tasks() {
        let rows = [row("sciq", "a", "b", "c", 1, 0.25), row("boolq", "a", "b", "c", 1, 0.5)];
        let mut old = String::new();
        for line in written(&rows).lines() {
            let mut fields: Vec<&str> = line.split(',').collect();
            fields.remove(12);
            fields.remove(2);
            old.push_str(&fields.join(",").replace(",false,2", ",false,1"));
            old.push('\n');
        }
        assert!(old.starts_with("run,cell,task,weak,"), "{old}");
        assert_eq!(parse(&old, Path::new("")).unwrap(), rows);
        // Each version has its own columns.
        assert!(refused(&old.replace(",false,1", ",false,2")).contains("column `suite` is missing"));
        assert!(refused(&written(&rows).replace(",false,2", ",false,1")).contains("unknown column `suite`"));
    }

    #[test]
    fn the_order_of_columns_is_free() {
        let row = row("t", "w", "s", "m", 3, 0.5);
        let text = written(std::slice::from_ref(&row));
        let turned: Vec<String> =
            text.lines().map(|line| line.split(',').rev().collect::<Vec<_>>().join(",")).collect();
        assert_eq!(parse(&turned.join("\n"), Path::new("")).unwrap(), [row]);
    }

    proptest! {
        #[test]
        fn rows_read_back_equal(
            rows in prop::collection::vec((any::<String>(), any::<String>(), any::<u64>(), any::<f64>(), any::<bool>()), 0..8)
        ) {
            let rows: Vec<ResultRow> = rows
                .into_iter()
                .enumerate()
                .map(|(index, (task, method, seed, value, truth_used))| {
                    let measure = Measure { metric: "accuracy", value: Some(value), n: index + 1 };
                    let cell = format!("{index},\n\"{method}");
                    ResultRow { cell, truth_used, ..row(&task, "w", "s", &method, seed, 0.0) }.with(&measure)
                })
                .collect();
            let text = written(&rows);
            prop_assert_eq!(parse(&text, Path::new("")).unwrap(), rows);
        }
    }
}
