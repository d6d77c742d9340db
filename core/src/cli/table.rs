//! `w2s table`, and how results are found, read and printed.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{
    compare::{Choice, arms},
    show::plain,
};
use crate::{
    Error, Result,
    document::Document,
    report::{
        Table,
        averages::with_averages,
        compare::compare,
        results::{self, ResultRow},
        seal,
        statistics::Bootstrap,
        table::{Key, MainOptions, Pivot, Stars},
    },
    stage::STORE,
    strategy::Split,
};

#[derive(Args)]
pub struct TableArgs {
    /// The grid, or a results.csv
    config: PathBuf,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Output format
    #[arg(long, value_enum, default_value = "terminal")]
    format: TableFormat,
    #[command(flatten)]
    choice: Choice,
    /// Mark what differs from this method significantly (at five seeds or more)
    #[arg(long, value_name = "METHOD")]
    against: Option<String>,
    /// A table of another metric, or `pgr`: docs/results.md lists them
    #[arg(long, value_name = "METRIC", conflicts_with = "against")]
    metric: Option<String>,
    /// Split of the metric
    #[arg(long, value_name = "SPLIT", requires = "metric")]
    split: Option<String>,
    /// Columns of results.csv that make the rows of a metric's table
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,…", requires = "metric", default_value = "method")]
    rows: Vec<String>,
    /// Columns of results.csv that make its columns
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,…", requires = "metric", default_value = "task")]
    columns: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum TableFormat {
    Terminal,
    Markdown,
    Csv,
    Latex,
}

/// `w2s table`.
pub fn table(args: &TableArgs) -> Result<ExitCode> {
    const LEVEL: f64 = 0.05;
    let path = results_of(&args.config, &args.results)?;
    let rows = read_with_steps(&path)?;
    if let Some(metric) = &args.metric {
        let keys = |names: &[String]| names.iter().map(|name| name.parse()).collect::<Result<Vec<Key>>>();
        let (lines, columns) = (keys(&args.rows)?, keys(&args.columns)?);
        let by_step = lines.iter().chain(&columns).any(|key| *key == Key::Step);
        let chosen =
            |row: &ResultRow| row.step.is_some() == by_step && args.choice.has(&row.task, &row.method, row.seed);
        let rows: Vec<ResultRow> = rows.into_iter().filter(chosen).collect();
        let pivot = Pivot {
            rows: lines,
            columns,
            metric: metric.clone(),
            split: split_of(&rows, metric, args.split.as_deref())?,
            published: recorded(&path).published,
        };
        return render(&Table::pivot(&rows, &pivot)?, args.format).map(|()| ExitCode::SUCCESS);
    }
    let rows: Vec<ResultRow> = rows.into_iter().filter(|row| row.step.is_none()).collect();
    let stars = match &args.against {
        None => None,
        Some(against) => {
            // What is not in the table is not in its family of tests.
            let arms = arms(&path, &args.results.join(STORE), &args.choice, against)?;
            let compared = compare(&arms, against, LEVEL, &Bootstrap { draws: 1, ..Bootstrap::default() })?;
            let starred = compared.into_iter().filter(|one| one.star);
            let starred = starred.map(|one| [one.task, one.weak, one.strong, one.method]).collect();
            Some(Stars { against: against.clone(), level: LEVEL, starred })
        }
    };
    let Choice { tasks, methods, seeds } = args.choice.clone();
    let options = MainOptions { tasks, methods, seeds, stars, ..recorded(&path) };
    render(&Table::main(&rows, &options)?, args.format)?;
    Ok(ExitCode::SUCCESS)
}

/// The split that was asked for, or the first that has the metric.
fn split_of(rows: &[ResultRow], metric: &str, asked: Option<&str>) -> Result<Split> {
    const SPLITS: [Split; 3] = [Split::Test, Split::Transfer, Split::Supervise];
    let measured = if metric == "pgr" { "accuracy" } else { metric };
    let has = |split: &Split| rows.iter().any(|row| row.metric == measured && row.split == *split);
    match asked {
        None => Ok(SPLITS.into_iter().find(has).unwrap_or(Split::Test)),
        Some(name) => SPLITS.into_iter().find(|split| split.name() == name).ok_or_else(|| {
            Error::new(format!("there is no split `{name}`")).help("choose `test`, `transfer` or `supervise`")
        }),
    }
}

/// The results of a grid, or the results.csv that was given itself.
pub fn results_of(given: &Path, results: &Path) -> Result<PathBuf> {
    let path = if given.extension().is_some_and(|extension| extension == "csv") {
        given.to_owned()
    } else {
        // A grid may name its folder itself.
        let document = given.is_file().then(|| Document::open(given)).transpose()?;
        let grid = document.as_ref().and_then(|document| document.root().get("grid"));
        let name: Option<String> = grid.map(|grid| grid.read_key("name")).transpose()?.flatten();
        let folder = name.map_or_else(|| given.file_stem().unwrap_or_default().into(), std::ffi::OsString::from);
        results.join(folder).join("results.csv")
    };
    if path.is_file() {
        return Ok(path);
    }
    if !given.exists() && crate::grid::embedded_grid(&given.to_string_lossy()).is_none() {
        return Err(Error::new("there is no such file").in_file(given).help("name a grid's file, or a results.csv"));
    }
    let help = format!("run `w2s run {}` first", given.display());
    Err(Error::new("there are no results yet").in_file(&path).help(help))
}

/// Rows of a run at the ends of trainings, and averages over its suites. A file that is not as its run wrote it is shown all the same, and said.
///
/// # Errors
/// As [`results::read`].
pub fn read(path: &Path) -> Result<Vec<ResultRow>> {
    let rows = read_with_steps(path)?;
    Ok(rows.into_iter().filter(|row| row.step.is_none()).collect())
}

/// The same with what was measured in the midst of trainings.
///
/// # Errors
/// As [`read`].
pub fn read_with_steps(path: &Path) -> Result<Vec<ResultRow>> {
    let record = path.with_file_name("grid.json");
    for file in [Some(path), Some(&*record).filter(|record| record.is_file())].into_iter().flatten() {
        if let Some(wrong) = seal::broken(file)? {
            eprintln!("warning: {}", plain(&wrong));
        }
    }
    Ok(with_averages(&results::read(path)?))
}

/// Characters that a line of the terminal has: what `COLUMNS` says, or the terminal; none where output goes elsewhere.
pub fn room() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.trim().parse().ok());
    // Some terminals say that they are 0 columns wide.
    told.or_else(|| comfy_table::Table::new().width().map(usize::from)).filter(|columns| *columns > 0)
}

/// Prints what holds names, which are not to act on the terminal. A reader that is gone has seen enough.
///
/// # Errors
/// A disk that is full, and the like.
pub fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{}", plain(text.trim_end())) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::of_io("write what is to be printed", &error, "standard output")),
        Ok(()) => Ok(()),
    }
}

fn render(table: &Table, format: TableFormat) -> Result<()> {
    let text = match format {
        TableFormat::Terminal => table.to_terminal(room()),
        TableFormat::Markdown => table.to_markdown(),
        TableFormat::Csv => table.to_csv(),
        TableFormat::Latex => table.to_latex()?,
    };
    print(&text)
}

/// What the run recorded beside its results about how they are shown: titles of tasks, methods and models, a paper's numbers.
pub fn recorded(path: &Path) -> MainOptions {
    let record = path.with_file_name("grid.json");
    let text = match std::fs::read_to_string(&record) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return MainOptions::default(),
        text => text,
    };
    let record = match text.map(|text| serde_json::from_str::<Value>(&text)) {
        Ok(Ok(record)) => record,
        _ => {
            let path = record.display().to_string();
            eprintln!("warning: {} cannot be read: titles and a paper's numbers are left out", plain(&path));
            return MainOptions::default();
        }
    };
    MainOptions {
        titles: serde_json::from_value(record["titles"].clone()).unwrap_or_default(),
        published: serde_json::from_value(record["config"]["published"].clone()).ok(),
        ..MainOptions::default()
    }
}
