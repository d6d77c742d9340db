//! `w2s run`, `check`, `plan` and `table`.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::{Args, ValueEnum};
use indexmap::IndexMap;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::{
    FAILED, GridArgs, INTERRUPTED, PlaceArgs,
    compare::{Choice, arms},
    say, show,
    signals::{Interruption, pass_on},
};
use crate::{
    Error, Result,
    document::Document,
    error::ErrorKind,
    grid::{self, Event, Failures, Grid, Outcome, Places, Plan, RunOptions, Word, results},
    last_words,
    report::{
        Table,
        compare::compare,
        results::{ResultRow, read},
        statistics::Bootstrap,
        table::{MainOptions, Pivot, Stars},
    },
    stage::{Finished, Job, STORE, StageId, Store},
    strategy::Split,
    task::Sources,
};

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    grid: GridArgs,
    /// Where to run: cpu, cuda:N, or auto (a GPU if there is one)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Stages at a time [default: half of the cores on the CPU, 1 on a GPU]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Examples per forward pass; the result is the same, the memory less
    #[arg(long, value_name = "N")]
    micro_batch: Option<NonZeroUsize>,
    /// Stop starting stages after this many failures
    #[arg(long, value_name = "N")]
    max_fails: Option<NonZeroUsize>,
    /// End a stage that makes no progress for so long; 0 waits for ever
    #[arg(long, value_name = "MINUTES", default_value_t = 120.0)]
    patience: f64,
    /// Weak models and ceilings alone: is there a gap to recover?
    #[arg(long)]
    no_students: bool,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

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

/// What every command on a grid starts with: the plan, and where its results go.
struct Prepared {
    plan: Plan,
    store: Store,
    folder: PathBuf,
}

/// Reads a grid and plans it. To look, results need not be such that they can be written.
fn prepare(args: &GridArgs, to_look: bool) -> Result<Prepared> {
    let (document, library) = args.document()?;
    let grid = Grid::read(&document, &library)?;
    let PlaceArgs { data, models, results } = &args.places;
    let root = results.join(STORE);
    let store = if to_look { Store::open_to_look(root)? } else { Store::open(root)? };
    let store = store.telling(|notice| say!("note: {notice}"));
    let folder = results.join(&grid.name);
    match results::Books::check(&folder) {
        Err(error) if to_look && is_about_access(&error) => {
            say!("note: {}: a run needs another folder, `--results DIR`", error.message());
        }
        checked => checked?,
    }
    let places = Places { sources: Sources::from_env(data)?, models: super::model_folders(models)? };
    let plan = Plan::make(grid, &library, &places, &store)?;
    Ok(Prepared { plan, store, folder })
}

/// Whether an error is about who may write where, not about what is there.
fn is_about_access(error: &Error) -> bool {
    error.kind() == ErrorKind::Disk || error.place().is_some_and(|place| !place.file.exists())
}

fn count(n: usize, what: &str) -> String {
    let many = what.strip_suffix('y').map_or_else(|| format!("{what}s"), |stem| format!("{stem}ies"));
    if n == 1 { format!("1 {what}") } else { format!("{n} {many}") }
}

fn headline(plan: &Plan, finished: &IndexMap<StageId, Finished>, pending: &IndexMap<StageId, &Job>) -> String {
    let grid = &plan.grid;
    format!(
        "{}: {} × {} × {} × {} = {}; {}, {} done, {} to do",
        grid.name,
        count(grid.tasks.len(), "task"),
        count(grid.pairs.len(), "pair"),
        count(grid.methods.len(), "method"),
        count(grid.seeds.len(), "seed"),
        count(plan.cells.len(), "cell"),
        count(plan.jobs.len(), "stage"),
        finished.len(),
        pending.len(),
    )
}

/// `w2s check`.
pub fn check(args: &GridArgs) -> Result<ExitCode> {
    let Prepared { plan, store, .. } = prepare(args, true)?;
    let finished = plan.finished(&store)?;
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    println!("{}", headline(&plan, &finished, &plan.pending(&finished, true)));
    println!("no mistake found");
    Ok(ExitCode::SUCCESS)
}

/// `w2s plan`.
pub fn plan(args: &GridArgs) -> Result<ExitCode> {
    let Prepared { plan, store, .. } = prepare(args, true)?;
    let finished = plan.finished(&store)?;
    print_plan(&plan, &finished, &plan.pending(&finished, true));
    Ok(ExitCode::SUCCESS)
}

fn print_plan(plan: &Plan, finished: &IndexMap<StageId, Finished>, pending: &IndexMap<StageId, &Job>) {
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    println!("{}", headline(plan, finished, pending));
    let concerned = |id: &StageId| finished.contains_key(id) || pending.contains_key(id);
    for (id, label) in plan.labels().iter().filter(|(id, _)| concerned(id)) {
        let state = if pending.contains_key(id) { "to do" } else { "done " };
        let uses = plan.cells.iter().filter(|cell| cell.stages().contains(&id)).count();
        let shared = if uses > 1 { format!("  for {uses} cells") } else { String::new() };
        println!("  {state}  {label}{shared}");
    }
}

/// `w2s run`.
pub fn run(args: &RunArgs, interruption: &Interruption) -> Result<ExitCode> {
    // A device that is not there is said before data are read.
    let (_, device) = crate::device::open(&args.device)?;
    let Prepared { plan, store, folder } = prepare(&args.grid, args.dry_run)?;
    let finished = plan.finished(&store)?;
    let pending = plan.pending(&finished, !args.no_students);
    if args.dry_run {
        print_plan(&plan, &finished, &pending);
        return Ok(ExitCode::SUCCESS);
    }
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    say!("{}", headline(&plan, &finished, &pending));
    let mut books = results::Books::open(&plan, &folder, finished)?;
    let mut failures = Failures::open(&folder, |id| pending.contains_key(id))?;
    last_words::record_in(failures.path());
    interruption.at_work();

    let mut begun = false;
    let carried_out = || -> Result<Outcome> {
        let outcome = if pending.is_empty() {
            Outcome::default()
        } else {
            let options = options(args, device);
            let mut screen = Screen::new(&plan, pending.len());
            grid::run(&pending, &store, &folder.join("logs"), &options, &interruption.stop, |event| {
                screen.show(&event);
                begun = true;
                match event {
                    Event::Done(id, _) => {
                        failures.done(id)?;
                        books.enter(&plan, &store, id)?;
                    }
                    Event::Failed(failure) => {
                        if let Err(error) = failures.enter(failure, &screen.label(&failure.stage)) {
                            screen.line(&format!("note: the failure cannot be recorded: {error}"));
                        }
                    }
                    _ => {}
                }
                Ok(())
            })?
        };
        books.close(&plan, &outcome)?;
        // What killed stages left behind.
        store.sweep();
        Ok(outcome)
    };
    let outcome = match carried_out() {
        Ok(outcome) => outcome,
        Err(error) if begun => {
            show::error(&error);
            return Ok(ExitCode::from(FAILED));
        }
        Err(error) => return Err(error),
    };
    if let Some(shelf) = books.set_aside() {
        say!(
            "note: results.csv had results that this grid, as it is now, does not have; they are kept in {}",
            shelf.display()
        );
    }

    let path = folder.join("results.csv");
    if pending.is_empty() {
        let but = if args.no_students { " but students" } else { "" };
        let cells = count(plan.cells.len(), "cell");
        print_text(&format!("Nothing left to do{but}: {cells} in {}\n", path.display()))?;
    }
    if !books.is_empty() {
        print(&Table::main(&read(&path)?, &recorded(&path))?, TableFormat::Terminal)?;
    }
    for (remark, methods) in books.remarks(&plan) {
        say!("\nnote: {}: {remark}", methods.into_iter().collect::<Vec<_>>().join(", "));
    }
    say!("\nresults: {}", path.display());
    report(&plan, &outcome, &failures)
}

fn options(args: &RunArgs, device: String) -> RunOptions {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let usual = if device == "cpu" { cores.div_ceil(2).max(2).min(cores) } else { 1 };
    let workers = args.workers.map_or(usual, NonZeroUsize::get);
    RunOptions {
        workers,
        threads: (cores / workers).max(1),
        device,
        micro_batch: args.micro_batch.map(NonZeroUsize::get),
        max_fails: args.max_fails.map_or(usize::MAX, NonZeroUsize::get),
        patience: Duration::try_from_secs_f64(60.0 * args.patience).ok().filter(|patience| !patience.is_zero()),
    }
}

/// Says how a run ended that was not a success throughout.
fn report(plan: &Plan, outcome: &Outcome, failures: &Failures) -> Result<ExitCode> {
    let labels = plan.labels();
    for failure in &outcome.failed {
        let label = labels.get(&failure.stage).cloned().unwrap_or_else(|| failure.stage.to_string());
        let again = match failures.attempts(&failure.stage) {
            0 | 1 => String::new(),
            attempts => format!(", {attempts} times now"),
        };
        let message = format!("{label}: {} ({}{again})", failure.message, failure.kind);
        let error = Error::new(message).in_file(&failure.log);
        show::error(&match &failure.help {
            Some(help) => error.help(help),
            None => error,
        });
    }
    if !outcome.failed.is_empty() {
        say!("{} failed; run the same command to try again", count(outcome.failed.len(), "stage"));
        say!("failures: {}", failures.path().display());
    }
    if outcome.interrupted {
        say!("interrupted: run the same command to continue");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(if outcome.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// `w2s table`.
pub fn table(args: &TableArgs) -> Result<ExitCode> {
    const LEVEL: f64 = 0.05;
    let path = results_of(&args.config, &args.results)?;
    let rows = read(&path)?;
    if let Some(metric) = &args.metric {
        let keys = |names: &[String]| names.iter().map(|name| name.parse()).collect::<Result<Vec<_>>>();
        let chosen = |row: &ResultRow| args.choice.has(&row.task, &row.method, row.seed);
        let rows: Vec<ResultRow> = rows.into_iter().filter(chosen).collect();
        let pivot = Pivot {
            rows: keys(&args.rows)?,
            columns: keys(&args.columns)?,
            metric: metric.clone(),
            split: split_of(&rows, metric, args.split.as_deref())?,
            published: recorded(&path).published,
        };
        return print(&Table::pivot(&rows, &pivot)?, args.format).map(|()| ExitCode::SUCCESS);
    }
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
    print(&Table::main(&rows, &options)?, args.format)?;
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

fn print(table: &Table, format: TableFormat) -> Result<()> {
    // Some terminals say that they are 0 columns wide.
    let width = comfy_table::Table::new().width().filter(|width| *width >= 40).unwrap_or(140);
    let text = match format {
        TableFormat::Terminal => table.to_terminal(width),
        TableFormat::Markdown => table.to_markdown(),
        TableFormat::Csv => table.to_csv(),
        TableFormat::Latex => table.to_latex()?,
    };
    print_text(text.trim_end())
}

/// Prints lines on standard output. A reader that is gone has seen enough.
fn print_text(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::of_io("write what is to be printed", &error, "standard output")),
        Ok(()) => Ok(()),
    }
}

/// What the run recorded beside its results about how they are shown: titles of tasks, methods and models, a paper's numbers.
pub fn recorded(path: &Path) -> MainOptions {
    let record = path.with_file_name("grid.json");
    let record = std::fs::read_to_string(record).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let record = record.unwrap_or_default();
    MainOptions {
        titles: serde_json::from_value(record["titles"].clone()).unwrap_or_default(),
        published: serde_json::from_value(record["config"]["published"].clone()).ok(),
        ..MainOptions::default()
    }
}

/// `w2s stage`: one stage, for a parent process.
pub fn stage() -> ExitCode {
    let out = Arc::new(Mutex::new(std::io::stdout()));
    let say = move |word: &Word| {
        if let (Ok(mut out), Ok(line)) = (out.lock(), serde_json::to_string(word)) {
            // A parent that is gone no longer listens; the stage ends by itself then.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    };
    match pass_on().and_then(|()| grid::obey(say.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The parent first: the log may be on a disk that is full.
            let help = error.remedy().map(str::to_owned);
            say(&Word::Failed { kind: error.kind(), message: error.message().to_owned(), help });
            show::error(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// What a run looks like while it runs: one line per stage that is at work, one for the whole; quiet when nobody watches.
struct Screen {
    bars: MultiProgress,
    whole: ProgressBar,
    running: BTreeMap<StageId, ProgressBar>,
    labels: IndexMap<StageId, String>,
    watched: bool,
}

impl Screen {
    fn new(plan: &Plan, left: usize) -> Self {
        let watched = std::io::stderr().is_terminal();
        let bars = MultiProgress::with_draw_target(if watched {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        });
        let whole = bars.add(ProgressBar::new(left as u64));
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} stages, {elapsed_precise} gone, {eta} left")
        {
            whole.set_style(style);
        }
        if watched {
            whole.enable_steady_tick(Duration::from_secs(1));
        }
        Self { bars, whole, running: BTreeMap::new(), labels: plan.labels(), watched }
    }

    fn label(&self, id: &StageId) -> String {
        self.labels.get(id).cloned().unwrap_or_else(|| id.to_string())
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Started(id) => {
                let bar = self.bars.insert_before(&self.whole, ProgressBar::no_length());
                if let Ok(style) = ProgressStyle::with_template("{prefix}  starts") {
                    bar.set_style(style);
                }
                bar.set_prefix(self.label(id));
                bar.tick();
                self.running.insert((*id).clone(), bar);
            }
            Event::Progress(id, progress) => {
                if let Some(bar) = self.running.get(*id) {
                    if bar.length().is_none() {
                        crate::learner::style(bar, 16);
                        bar.reset_eta();
                    }
                    bar.set_length(progress.total);
                    bar.set_position(progress.done);
                    bar.set_message(progress.message.clone());
                }
            }
            Event::Note(note) => self.line(&format!("note: {note}")),
            Event::Waiting(ids) => {
                let labels: Vec<String> = ids.iter().map(|id| self.label(id)).collect();
                self.line(&format!("waiting for another process, which makes: {}", labels.join(", ")));
            }
            Event::PutOff(id) => self.clear(id),
            Event::Done(id, _) => self.end(id, None),
            Event::Failed(failure) => self.end(&failure.stage.clone(), Some(&failure.message)),
        }
    }

    fn clear(&mut self, id: &StageId) {
        if let Some(bar) = self.running.remove(id) {
            bar.finish_and_clear();
        }
    }

    fn end(&mut self, id: &StageId, failure: Option<&str>) {
        self.clear(id);
        self.whole.inc(1);
        if let Some(message) = failure {
            self.line(&format!("failed: {}: {message}", self.label(id)));
        }
    }

    fn line(&self, line: &str) {
        if self.watched {
            // The bars redraw themselves below the line.
            let _ = self.bars.println(line);
        } else {
            say!("{line}");
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.whole.finish_and_clear();
    }
}
