//! `w2s run`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{IsTerminal, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clap::Args;
use indexmap::IndexMap;
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::{Value, json};

use super::{
    FAILED, GridArgs, PlaceArgs,
    plan::{FittedArgs, Sizes, print_plan, say_sizes},
    say, show,
    signals::{Interruption, pass_on},
    status::post_text,
    table::{print, read, recorded},
};
use crate::{
    Error, Result, device,
    error::ErrorKind,
    grid::{
        self, Devices, Event, Failure, Failures, Fitting, Grid, Outcome, Places, Plan, Post, Refused, RunOptions,
        STOPPED, Word, results,
    },
    last_words,
    learner::{Every, Stop, time},
    model::Precision,
    report::Table,
    stage::{Finished, Job, Numeric, STORE, StageId, Store},
    task::Sources,
};

#[derive(Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub grid: GridArgs,
    #[command(flatten)]
    pub numeric: NumericArgs,
    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// What of the execution decides how much memory it needs, and no result.
#[derive(Args)]
pub struct MemoryArgs {
    /// Compute the blocks of a model again on the way back: much less memory, about a third more time, and not a bit differs on the CPU
    #[arg(long)]
    pub recompute: bool,
}

/// What of the execution results depend on.
#[derive(Args)]
pub struct NumericArgs {
    /// Where to run: cpu, cuda:N, vulkan:N, metal:N, wgpu:N, or auto (a GPU if there is one)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Examples per forward pass, for less memory; `auto` is as many as fit, stage by stage, and half as many where they did not. Sums in another
    /// order: a result may differ in its last digits, and is a stage of its own
    #[arg(long, value_name = "N|auto")]
    pub micro_batch: Option<MicroBatch>,
    /// Numbers in which a model's matrices are held where they are frozen, and multiplied with: `f32`, or `bf16` for half the memory of frozen
    /// weights; `bf16-true` also where they are trained, for half the memory of those and of their gradients. Rounded weights give other results,
    /// which are stages of their own
    #[arg(long, value_name = "f32|bf16|bf16-true", default_value_t)]
    pub precision: Precision,
}

/// How many examples go through a model at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatch {
    /// So many, in every stage.
    Rows(NonZeroUsize),
    /// As many as fit.
    Auto,
}

impl FromStr for MicroBatch {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => {
                text.parse().map(Self::Rows).map_err(|_| format!("`{text}` is neither a number of examples nor `auto`"))
            }
        }
    }
}

impl fmt::Display for MicroBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "{rows}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl NumericArgs {
    /// The device that is meant, which must be there, and its numeric mode.
    pub fn choose(&self) -> Result<(String, Numeric)> {
        let device::Choice { name, note } = device::choose(&self.device)?;
        note.iter().for_each(|note| say!("note: {note}"));
        Ok((name.clone(), self.mode(&name)))
    }

    /// Several devices, all of which must be there and of one kind, and their numeric mode.
    fn choose_all(&self, wanted: &[String]) -> Result<(Vec<String>, Numeric)> {
        let mut names: Vec<String> = Vec::new();
        for wanted in wanted {
            if wanted == "auto" {
                return Err(Error::new("`auto` is no device").help("say which, as in `--devices cuda:0,cuda:1`"));
            }
            let device::Choice { name, note } = device::choose(wanted)?;
            let kind = device::kind_of(&name);
            if let Some(other) = names.iter().find(|other| device::kind_of(other) != kind) {
                return Err(Error::new(format!("`{other}` and `{name}` are two kinds of device")).help(
                    "another kind of device may differ in rounding, so its results are other stages: give devices of one kind",
                ));
            }
            if kind != "cpu" && names.contains(&name) {
                return Err(Error::new(format!("`{name}` stands twice among the devices"))
                    .help("to run several stages at a time on each, give `--per-device N`"));
            }
            note.iter().for_each(|note| say!("note: {note}"));
            names.push(name);
        }
        let mode = self.mode(names.first().map_or("cpu", String::as_str));
        Ok((names, mode))
    }

    /// The device on another machine, which need not be there on this one, and its numeric mode. `auto` is a GPU where `gpus` are asked for.
    pub fn elsewhere(&self, gpus: bool) -> Result<(String, Numeric)> {
        let name = match self.device.as_str() {
            "auto" if gpus => device::usual_gpu(),
            "auto" => "cpu".to_owned(),
            name => name.to_owned(),
        };
        let name = device::named(&name)?;
        Ok((name.clone(), self.mode(&name)))
    }

    /// Whether examples at a time are to be as many as fit.
    pub fn is_auto(&self) -> bool {
        self.micro_batch == Some(MicroBatch::Auto)
    }

    fn mode(&self, device: &str) -> Numeric {
        let rows = match self.micro_batch {
            Some(MicroBatch::Rows(rows)) => Some(rows.get()),
            Some(MicroBatch::Auto) | None => None,
        };
        Numeric::new(device, rows).in_precision(self.precision)
    }
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    fitted: FittedArgs,
    /// Several devices of one kind, such as `cuda:0,cuda:1`: each is given stages as it gets free
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["device", "workers"])]
    devices: Vec<String>,
    /// Devices that share each training, each with parts of a batch: needs `--devices`, and `--micro-batch`, which says how large parts are
    #[arg(long, value_name = "N", requires = "devices", requires = "micro_batch")]
    data_parallel: Option<NonZeroUsize>,
    /// Stages at a time on each of the devices [default: half of the cores on the CPU, 1 on a GPU]
    #[arg(long, value_name = "N")]
    per_device: Option<NonZeroUsize>,
    /// Stages at a time on one device: the same as `--per-device`
    #[arg(long, value_name = "N", conflicts_with = "per_device")]
    workers: Option<NonZeroUsize>,
    /// Stop starting stages after this many failures
    #[arg(long, value_name = "N")]
    max_fails: Option<NonZeroUsize>,
    /// End the run at the first failure: what is at work is asked to stop, and trainings are saved
    #[arg(long, conflicts_with = "max_fails")]
    fail_fast: bool,
    /// End a stage that takes longer than that, e.g. `2h`
    #[arg(long, value_name = "TIME", value_parser = limit)]
    timeout: Option<Duration>,
    /// End a stage that makes no progress for so long; 0 waits for ever
    #[arg(long, value_name = "MINUTES", default_value_t = 120.0)]
    patience: f64,
    /// Save trainings that are under way so often, from where they go on after a kill: a time (`5m`), steps (`500steps`), or `off`
    #[arg(long, value_name = "INTERVAL", default_value = "5m")]
    checkpoint_every: Every,
    /// Do again: `failed`, only what failed before and its cells; METHOD or TASK, what their results are made of and no others need
    #[arg(long, value_name = "failed|METHOD|TASK")]
    rerun: Option<String>,
    /// Weak models and ceilings alone: is there a gap to recover?
    #[arg(long)]
    no_students: bool,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
    /// Say nothing while it runs: the table, and what failed, at the end
    #[arg(long)]
    quiet: bool,
    /// Print what happens as JSON, one event a line, in place of progress and table
    #[arg(long, conflicts_with_all = ["quiet", "dry_run"])]
    json: bool,
}

impl RunArgs {
    /// Where stages run, and the numeric mode of all of it.
    fn choose(&self) -> Result<(Devices, Numeric)> {
        let numeric = &self.fitted.plan.numeric;
        let (names, mode) = if self.devices.is_empty() {
            let (name, mode) = numeric.choose()?;
            (vec![name], mode)
        } else {
            numeric.choose_all(&self.devices)?
        };
        let together = self.data_parallel.map_or(1, NonZeroUsize::get);
        if together > 1 && numeric.is_auto() {
            return Err(Error::new("`--micro-batch auto` does not know of devices that share a training")
                .help("say how many examples each has at a time: `--micro-batch 8`"));
        }
        if !names.len().is_multiple_of(together) {
            return Err(Error::new(format!("{} devices are no groups of {together}", names.len()))
                .help("give `--devices` a multiple of `--data-parallel`"));
        }
        let groups = names.chunks(together).map(<[_]>::to_vec).collect();
        let stages = self.per_device.or(self.workers);
        let stages = stages.map_or_else(|| usual_workers(mode.device()), NonZeroUsize::get);
        Ok((Devices { groups, stages }, mode))
    }
}

fn limit(text: &str) -> std::result::Result<Duration, String> {
    time(text).ok_or_else(|| format!("`{text}` is no time: give one such as `30s`, `5m` or `2h`"))
}

/// What every command on a grid starts with: the plan, and where its results go.
pub struct Prepared {
    pub plan: Plan,
    pub store: Store,
    pub folder: PathBuf,
    /// How examples at a time were chosen, if they were.
    pub fitting: Option<Fitting>,
}

/// Reads a grid and plans it. To look, results need not be such that they can be written.
pub fn prepare(args: &GridArgs, numeric: Numeric, fitting: Option<Fitting>, to_look: bool) -> Result<Prepared> {
    let PlaceArgs { data, models, results } = &args.places;
    let (document, library) = args.document()?;
    let grid = Grid::read(&document, &library)?;
    let root = results.join(STORE);
    let store = if to_look { Store::open_to_look(root)? } else { Store::open(root)? };
    let store = store.telling(|notice| say!("note: {notice}"));
    let folder = results.join(&grid.name);
    if !to_look {
        last_words::record_in(&Failures::file_in(&folder));
    }
    match results::Books::check(&folder) {
        Err(error) if to_look && is_about_access(&error) => {
            say!("note: {}: a run needs another folder, `--results DIR`", error.message());
        }
        checked => checked?,
    }
    let places = Places { sources: Sources::from_env(data)?, models: super::model_folders(models)? };
    let mut fitting = fitting;
    if let Some(fitting) = &mut fitting {
        fitting.refused = Refused::read(&folder)?;
    }
    let mut grid = grid;
    loop {
        let plan = Plan::fitted(grid, &library, &places, &store, numeric.clone(), fitting.as_ref())?;
        // Who works on a cluster does not plan: what ran out of memory there is found in its records.
        let smaller = match &mut fitting {
            Some(fitting) if !to_look => {
                let records = Failures::recorded(&folder);
                let failed = records.iter().filter_map(|record| Some(record.failure(record.stage.as_ref()?)));
                fitting.refuse(&plan, &failed.collect::<Vec<_>>())?
            }
            _ => vec![],
        };
        if smaller.is_empty() {
            return Ok(Prepared { plan, store, folder, fitting });
        }
        say_smaller(&plan, &smaller);
        grid = plan.grid;
    }
}

/// Says which stages ran out of memory and are tried with fewer examples at a time.
fn say_smaller(plan: &Plan, smaller: &[(StageId, usize)]) {
    let labels = plan.labels();
    for (id, rows) in smaller {
        let (label, next) = (labels.get(id).map_or(id.as_str(), String::as_str), rows / 2);
        say!("note: {label}: out of memory with {rows} examples at a time; it is planned again with {next}");
    }
}

/// Whether an error is about who may write where, not about what is there.
fn is_about_access(error: &Error) -> bool {
    error.kind() == ErrorKind::Disk || error.place().is_some_and(|place| !place.file.exists())
}

pub fn count(n: usize, what: &str) -> String {
    let many = what.strip_suffix('y').map_or_else(|| format!("{what}s"), |stem| format!("{stem}ies"));
    if n == 1 { format!("1 {what}") } else { format!("{n} {many}") }
}

pub fn headline(plan: &Plan, finished: &IndexMap<StageId, Finished>, pending: &IndexMap<StageId, &Job>) -> String {
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

/// `w2s run`.
pub fn run(args: &RunArgs, interruption: &Interruption) -> Result<ExitCode> {
    // A device that is not there is said before data are read.
    let (devices, mode) = args.choose()?;
    let fitting = args.fitted.fitting(mode.device(), devices.workers())?;
    let mut before = None;
    loop {
        match round(args, (&devices, &mode), fitting.clone(), before, interruption)? {
            Round::Over(code) => return Ok(code),
            Round::Smaller(stages) => before = Some(stages),
        }
    }
}

/// How one way through a grid's stages ended.
enum Round {
    /// There is no more to do.
    Over(ExitCode),
    /// Stages ran out of memory: those of their cells are to be planned again, with fewer examples at a time. These were planned before.
    Smaller(BTreeSet<StageId>),
}

/// Plans a grid and runs what is left of it, or of the cells that are planned otherwise than they were `before`.
fn round(
    args: &RunArgs,
    (devices, mode): (&Devices, &Numeric),
    fitting: Option<Fitting>,
    before: Option<BTreeSet<StageId>>,
    interruption: &Interruption,
) -> Result<Round> {
    let again = before.is_some();
    let grid = &args.fitted.plan.grid;
    let Prepared { plan, store, folder, mut fitting } = prepare(grid, mode.clone(), fitting, args.dry_run)?;
    let mut finished = plan.finished(&store)?;
    let mut outdated = BTreeSet::new();
    if let Some(name) = args.rerun.as_deref().filter(|name| *name != FAILURES && !again) {
        outdated = plan.made_for(name)?;
        finished.retain(|id, _| !outdated.contains(id));
    }
    let mut pending = plan.pending(&finished, !args.no_students);
    let only_failed = args.rerun.as_deref() == Some(FAILURES);
    if let Some(before) = &before {
        let concerned = plan.with_cells_of(|id| !before.contains(id));
        pending.retain(|id, _| concerned.contains(id));
    } else if only_failed {
        let records = Failures::recorded(&folder);
        let failed: BTreeSet<&StageId> = records.iter().filter_map(|record| record.stage.as_ref()).collect();
        let concerned = plan.with_cells_of(|id| failed.contains(id) && pending.contains_key(id));
        pending.retain(|id, _| concerned.contains(id));
    }
    let but = if only_failed {
        " of what failed"
    } else if args.no_students && !plan.pending(&finished, true).is_empty() {
        " but students"
    } else {
        ""
    };
    if args.dry_run {
        let room = args.fitted.room(mode.device(), devices.workers());
        let sizes = Sizes { room, recompute: args.fitted.plan.memory.recompute };
        print_plan(&plan, &finished, &pending, sizes)?;
        return Ok(Round::Over(ExitCode::SUCCESS));
    }
    if !args.quiet && !again {
        plan.notes.iter().for_each(|note| say!("note: {note}"));
        say!("{}", headline(&plan, &finished, &pending));
        fitting.iter().for_each(|fitting| say_sizes(&plan, fitting));
    }
    let open: BTreeSet<StageId> = plan.jobs.keys().filter(|id| !finished.contains_key(*id)).cloned().collect();
    let mut books = results::Books::open(&plan, &folder, finished)?;
    put_aside(&store, &outdated, args.rerun.as_deref().unwrap_or_default())?;
    let mut failures = Failures::open(&folder, |id| open.contains(id))?;
    interruption.at_work();

    let tried =
        |failure: &Failure| fitting.as_ref().map_or_else(|| failure.clone(), |fitting| fitting.tell(&plan, failure));
    let mut begun = false;
    let mut carried_out = || -> Result<Outcome> {
        let mut outcome = if pending.is_empty() {
            Outcome::default()
        } else {
            let options = options(args, devices, &plan);
            let view = match (args.quiet, args.json) {
                (true, _) => View::Nothing,
                (_, true) => View::Events,
                _ => View::of_terminal(),
            };
            let mut screen = Screen::new(view, plan.labels(), pending.len());
            grid::run(&pending, &store, &folder.join("logs"), &options, &interruption.stop, |event| {
                screen.show(&event)?;
                begun = true;
                match event {
                    Event::Done(id, _) => {
                        failures.done(id)?;
                        books.enter(&plan, &store, id)?;
                    }
                    Event::Again(failure) | Event::Failed(failure) => {
                        if let Err(error) = failures.enter(&tried(failure), &screen.label(&failure.stage)) {
                            screen.line(&format!("note: the failure cannot be recorded: {error}"));
                        }
                    }
                    _ => {}
                }
                Ok(())
            })?
        };
        books.close(&plan, &outcome)?;
        outcome.failed = outcome.failed.iter().map(&tried).collect();
        Ok(outcome)
    };
    let outcome = match carried_out() {
        Ok(outcome) => outcome,
        Err(error) if begun => {
            show::error(&error);
            return Ok(Round::Over(ExitCode::from(FAILED)));
        }
        Err(error) => return Err(error),
    };
    // What killed stages left behind is removed.
    store.leave();
    books.notes().iter().for_each(|note| say!("note: {note}"));
    if let Some(fitting) = fitting.as_mut().filter(|_| !outcome.interrupted) {
        let smaller = fitting.refuse(&plan, &outcome.failed)?;
        if args.json {
            let labels = plan.labels();
            for (id, rows) in &smaller {
                let what = labels.get(id).map_or(id.as_str(), String::as_str);
                let told = json!({ "event": "smaller", "stage": id, "what": what, "tried": rows, "next": rows / 2 });
                print(&told.to_string())?;
            }
        } else if !args.quiet {
            say_smaller(&plan, &smaller);
        }
        if !smaller.is_empty() {
            return Ok(Round::Smaller(plan.jobs.keys().cloned().collect()));
        }
    }

    if args.json {
        let ended = json!({
            "event": "ended", "done": outcome.done.len(), "failed": outcome.failed.len(), "left": outcome.left.len(),
            "interrupted": outcome.interrupted, "results": folder.join("results.csv").to_string_lossy(),
        });
        print(&ended.to_string())?;
        return report(&plan, &outcome, &failures).map(Round::Over);
    }
    if pending.is_empty() {
        let cells = count(plan.cells.len(), "cell");
        print(&format!("Nothing left to do{but}: {cells} in {}", folder.join("results.csv").display()))?;
        print("")?;
    }
    show_results(&plan, &books, &folder, &outcome, args.quiet)?;
    report(&plan, &outcome, &failures).map(Round::Over)
}

/// The table of what is there, and what is to be known of it.
fn show_results(plan: &Plan, books: &results::Books, folder: &Path, outcome: &Outcome, quiet: bool) -> Result<()> {
    let path = folder.join("results.csv");
    if !books.is_empty() {
        let table = read(&path).and_then(|rows| Table::main(&rows, &recorded(&path)));
        // What failed is said below in any case.
        match table {
            Ok(table) => print(&table.to_terminal(super::table::room()))?,
            Err(error) if outcome.failed.is_empty() && !outcome.interrupted => return Err(error),
            Err(error) => show::error(&error.context("there is no table of these results")),
        }
    }
    for (remark, methods) in books.remarks(plan) {
        say!("\nnote: {}: {remark}", methods.into_iter().collect::<Vec<_>>().join(", "));
    }
    if !quiet {
        say!("\nresults: {}", path.display());
    }
    Ok(())
}

/// `w2s collect`: the results of what is finished, whoever did it.
pub fn collect(args: &FittedArgs) -> Result<ExitCode> {
    let (device, mode) = args.plan.numeric.elsewhere(false)?;
    let fitting = args.fitting(&device, usual_workers(&device))?;
    let Prepared { plan, store, folder, .. } = prepare(&args.plan.grid, mode, fitting, false)?;
    let finished = plan.finished(&store)?;
    let pending = plan.pending(&finished, true);
    say!("{}", headline(&plan, &finished, &pending));
    let mut books = results::Books::open(&plan, &folder, finished)?;
    let failures = Failures::open(&folder, |id| pending.contains_key(id))?;
    let failed = failures.stages().map(|(id, record)| record.failure(id)).collect();
    let left = pending.keys().filter(|id| failures.attempts(id) == 0).cloned().collect();
    let outcome = Outcome { failed, left, ..Outcome::default() };
    books.close(&plan, &outcome)?;
    books.notes().iter().for_each(|note| say!("note: {note}"));
    show_results(&plan, &books, &folder, &outcome, false)?;
    report(&plan, &outcome, &failures)
}

/// What `--rerun` calls stages that failed before.
const FAILURES: &str = "failed";

/// Puts finished stages out of the way that are to be made again.
fn put_aside(store: &Store, outdated: &BTreeSet<StageId>, name: &str) -> Result<()> {
    let mut count = 0;
    for id in outdated {
        count += usize::from(store.put_aside(id, &format!("made again by `w2s run --rerun {name}`"))?.is_some());
    }
    if count > 0 {
        let shelf = store.root().join("quarantine");
        say!("note: to be made again: {}; what there was is kept in {}", self::count(count, "stage"), shelf.display());
        say!("note: to continue, run the same command without `--rerun {name}`");
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Stages at a time, where nobody says how many.
pub fn usual_workers(device: &str) -> usize {
    let cores = cores();
    if device == "cpu" { cores.div_ceil(2).max(2).min(cores) } else { 1 }
}

fn options(args: &RunArgs, devices: &Devices, plan: &Plan) -> RunOptions {
    RunOptions {
        devices: devices.clone(),
        threads: (cores() / devices.workers()).max(1),
        recompute: args.fitted.plan.memory.recompute,
        precision: plan.numeric.precision(),
        folders: plan.folders.clone(),
        max_fails: if args.fail_fast { 1 } else { args.max_fails.map_or(usize::MAX, NonZeroUsize::get) },
        fail_fast: args.fail_fast,
        timeout: args.timeout,
        patience: Duration::try_from_secs_f64(60.0 * args.patience).ok().filter(|patience| !patience.is_zero()),
        checkpoint_every: args.checkpoint_every,
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
        return Ok(ExitCode::from(STOPPED));
    }
    Ok(if outcome.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
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
    let stop = Stop::default();
    match pass_on(stop.clone()).and_then(|()| grid::obey(&stop, say.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        // What failed besides will fail again when it is continued.
        Err(_) if stop.is_asked() => ExitCode::from(STOPPED),
        Err(error) => {
            // The parent first: the log may be on a disk that is full.
            let help = error.remedy().map(str::to_owned);
            say(&Word::Failed { kind: error.kind(), message: error.message().to_owned(), help });
            show::error(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// How a run is looked at while it runs.
#[derive(Clone, Copy, PartialEq)]
pub enum View {
    /// In a terminal: a bar for each stage that is at work, and one for the whole.
    Bars,
    /// Elsewhere: notes as they come, and how far stages are once a minute.
    Lines,
    /// By a program: an event a line, on standard output.
    Events,
    /// Not at all.
    Nothing,
}

impl View {
    /// The one that fits where standard error goes.
    pub fn of_terminal() -> Self {
        if std::io::stderr().is_terminal() { Self::Bars } else { Self::Lines }
    }
}

/// How long the rest of a run takes if its stages take as long as those that ended; nobody knows before one has.
fn left(ended: u64, of: u64, gone: Duration) -> Option<Duration> {
    let rest = of.checked_sub(ended).filter(|rest| *rest > 0)?;
    (ended > 0).then(|| gone.mul_f64(rest as f64 / ended as f64))
}

/// What is said of [`left`] behind how far the whole is.
fn left_text(ended: u64, of: u64, gone: Duration) -> String {
    left(ended, of, gone).map_or_else(String::new, |left| format!(", {:#} left", HumanDuration(left)))
}

/// What a run looks like while it runs.
pub struct Screen {
    view: View,
    bars: MultiProgress,
    whole: ProgressBar,
    /// The bar of each stage that is at work, and how far it is.
    running: BTreeMap<StageId, (ProgressBar, Option<Post>)>,
    labels: IndexMap<StageId, String>,
    began: Instant,
    /// When lines were printed last.
    told: Instant,
}

impl Screen {
    /// Of a run of so many stages.
    pub fn new(view: View, labels: IndexMap<StageId, String>, left: usize) -> Self {
        let target = if view == View::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        let whole = bars.add(ProgressBar::new(left as u64));
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} stages, {elapsed_precise} gone{left}") {
            let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(&left_text(state.pos(), state.len().unwrap_or(0), state.elapsed()));
            };
            whole.set_style(style.with_key("left", left));
        }
        if view == View::Bars {
            whole.enable_steady_tick(Duration::from_secs(1));
        }
        let now = Instant::now();
        Self { view, bars, whole, running: BTreeMap::new(), labels, began: now, told: now }
    }

    fn label(&self, id: &StageId) -> String {
        self.labels.get(id).cloned().unwrap_or_else(|| id.to_string())
    }

    /// Shows what happens.
    ///
    /// # Errors
    /// Events that cannot be printed.
    pub fn show(&mut self, event: &Event) -> Result<()> {
        if self.view == View::Events {
            return print(&self.as_json(event).to_string());
        }
        self.draw(event);
        if self.view == View::Lines {
            self.due(Instant::now()).iter().for_each(|line| self.line(line));
        }
        Ok(())
    }

    /// What is to be printed now where there are no bars: once a minute how far every stage at work is, and the whole.
    fn due(&mut self, now: Instant) -> Vec<String> {
        const MINUTE: Duration = Duration::from_secs(60);
        if now.duration_since(self.told) < MINUTE {
            return Vec::new();
        }
        self.told = now;
        let stage =
            |(bar, post): &(ProgressBar, Option<Post>)| format!("{}  {}", bar.prefix(), post_text(post.as_ref()));
        let mut lines: Vec<String> = self.running.values().map(stage).collect();
        let (ended, of) = (self.whole.position(), self.whole.length().unwrap_or(0));
        lines.push(format!("{ended} of {of} stages{}", left_text(ended, of, now.duration_since(self.began))));
        lines
    }

    fn as_json(&self, event: &Event) -> Value {
        let of = |name: &str, id: &StageId| json!({ "event": name, "stage": id, "what": self.label(id) });
        let with = |mut told: Value, more: Value| {
            more.as_object().into_iter().flatten().for_each(|(key, value)| told[key] = value.clone());
            told
        };
        let failed = |name: &str, Failure { stage, kind, message, help, .. }: &Failure| {
            with(of(name, stage), json!({ "kind": kind, "message": message, "help": help }))
        };
        match event {
            Event::Started(id) => of("started", id),
            Event::Progress(id, progress) => with(of("progress", id), json!(progress)),
            Event::Note(note) => json!({ "event": "note", "message": note }),
            Event::Waiting(ids) => json!({ "event": "waiting", "stages": ids }),
            Event::PutOff(id) => of("put-off", id),
            Event::Done(id, took) => with(of("done", id), json!({ "seconds": took.as_secs_f64() })),
            Event::Again(failure) => failed("again", failure),
            Event::Failed(failure) => failed("failed", failure),
        }
    }

    fn draw(&mut self, event: &Event) {
        match event {
            Event::Started(id) => {
                let bar = self.bars.insert_before(&self.whole, ProgressBar::no_length());
                if let Ok(style) = ProgressStyle::with_template("{prefix}  starts") {
                    bar.set_style(style);
                }
                bar.set_prefix(self.label(id));
                bar.tick();
                self.running.insert((*id).clone(), (bar, None));
            }
            Event::Progress(id, progress) => {
                if let Some((bar, post)) = self.running.get_mut(*id) {
                    if bar.length().is_none() {
                        crate::learner::style(bar, 16);
                        bar.reset_eta();
                    }
                    bar.set_length(progress.total);
                    bar.set_position(progress.done);
                    bar.set_message(progress.message.clone());
                    *post = Some(Post::new((*progress).clone(), post.as_ref()));
                }
            }
            Event::Note(note) => self.line(&format!("note: {note}")),
            Event::Waiting(ids) => {
                let labels: Vec<String> = ids.iter().map(|id| self.label(id)).collect();
                self.line(&format!("waiting for another process, which makes: {}", labels.join(", ")));
            }
            Event::PutOff(id) => self.clear(id),
            Event::Done(id, _) => self.end(id, None),
            Event::Again(failure) => {
                self.clear(&failure.stage);
                self.line(&format!("note: {}: {}; it is tried once more", self.label(&failure.stage), failure.message));
            }
            Event::Failed(failure) => self.end(&failure.stage.clone(), Some(&failure.message)),
        }
    }

    fn clear(&mut self, id: &StageId) {
        if let Some((bar, _)) = self.running.remove(id) {
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
        match self.view {
            // The bars redraw themselves below the line.
            View::Bars => drop(self.bars.println(show::plain(line))),
            View::Lines => say!("{line}"),
            View::Events | View::Nothing => {}
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.whole.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::Progress;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_left_is_not_known_before_a_stage_has_ended() {
        assert_eq!(left(0, 7, Duration::ZERO), None);
        assert_eq!(left(0, 7, 3600 * SECOND), None);
        assert_eq!(left_text(0, 7, 3600 * SECOND), "");
        assert_eq!(left(1, 7, 10 * SECOND), Some(60 * SECOND));
        assert_eq!(left(4, 7, 10 * SECOND), Some(Duration::from_millis(7500)));
        assert_eq!(left_text(1, 7, 20 * SECOND), ", 2m left");
        // And there is nothing to say when nothing is left.
        assert_eq!(left_text(7, 7, 10 * SECOND), "");
    }

    #[test]
    fn lines_come_once_a_minute() {
        let [first, second] = ["a", "b"].map(|name| StageId::new(name, 1, &json!({})));
        let labels =
            IndexMap::from([(first.clone(), "ceiling  sst2".to_owned()), (second.clone(), "student".to_owned())]);
        let mut screen = Screen::new(View::Lines, labels, 2);
        let began = screen.began;
        for id in [&first, &second] {
            screen.draw(&Event::Started(id));
        }
        let progress = |done| Progress { done, total: 100, message: "loss 0.5".to_owned() };
        screen.draw(&Event::Progress(&first, &progress(30)));
        assert!(screen.due(began + 59 * SECOND).is_empty());
        let lines = ["ceiling  sst2  30 of 100  loss 0.5", "student  starts", "0 of 2 stages"];
        assert_eq!(screen.due(began + 60 * SECOND), lines);
        assert!(screen.due(began + 119 * SECOND).is_empty());

        screen.draw(&Event::Done(&first, 90 * SECOND));
        assert_eq!(screen.due(began + 120 * SECOND), ["student  starts", "1 of 2 stages, 2m left"]);
    }
}
