//! `w2s run`, `check` and `plan`.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::Args;
use indexmap::IndexMap;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{
    FAILED, GridArgs, PlaceArgs, say, show,
    signals::{Interruption, pass_on},
    table::{print, read, recorded},
};
use crate::{
    Error, Result, device,
    error::ErrorKind,
    grid::{self, Cell, Event, Failures, Grid, Outcome, Places, Plan, RunOptions, STOPPED, Word, results},
    last_words,
    learner::{Every, Stop},
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
}

/// What of the execution results depend on.
#[derive(Args)]
pub struct NumericArgs {
    /// Where to run: cpu, cuda:N, or auto (a GPU if there is one)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Examples per forward pass, for less memory. Sums in another order: a result may differ in its last digits, and is a stage of its own
    #[arg(long, value_name = "N")]
    pub micro_batch: Option<NonZeroUsize>,
}

impl NumericArgs {
    /// The device that is meant, which must be there, and its numeric mode.
    fn choose(&self) -> Result<(String, Numeric)> {
        let device::Choice { name, note } = device::choose(&self.device)?;
        note.iter().for_each(|note| say!("note: {note}"));
        Ok((name.clone(), self.mode(&name)))
    }

    /// The device on another machine, which need not be there on this one, and its numeric mode. `auto` is a GPU where `gpus` are asked for.
    pub fn elsewhere(&self, gpus: bool) -> Result<(String, Numeric)> {
        let name = match self.device.as_str() {
            "auto" if gpus => "cuda:0",
            "auto" => "cpu",
            name => name,
        };
        let name = device::named(name)?;
        Ok((name.clone(), self.mode(&name)))
    }

    fn mode(&self, device: &str) -> Numeric {
        Numeric::new(device, self.micro_batch.map(NonZeroUsize::get))
    }
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Stages at a time [default: half of the cores on the CPU, 1 on a GPU]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Stop starting stages after this many failures
    #[arg(long, value_name = "N")]
    max_fails: Option<NonZeroUsize>,
    /// End a stage that makes no progress for so long; 0 waits for ever
    #[arg(long, value_name = "MINUTES", default_value_t = 120.0)]
    patience: f64,
    /// Save trainings that are under way so often, from where they go on after a kill: a time (`5m`), steps (`500steps`), or `off`
    #[arg(long, value_name = "INTERVAL", default_value = "5m")]
    checkpoint_every: Every,
    /// Weak models and ceilings alone: is there a gap to recover?
    #[arg(long)]
    no_students: bool,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// What every command on a grid starts with: the plan, and where its results go.
pub struct Prepared {
    pub plan: Plan,
    pub store: Store,
    pub folder: PathBuf,
}

/// Reads a grid and plans it. To look, results need not be such that they can be written.
pub fn prepare(args: &GridArgs, numeric: Numeric, to_look: bool) -> Result<Prepared> {
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
    let plan = Plan::make(grid, &library, &places, &store, numeric)?;
    Ok(Prepared { plan, store, folder })
}

/// Whether an error is about who may write where, not about what is there.
fn is_about_access(error: &Error) -> bool {
    error.kind() == ErrorKind::Disk || error.place().is_some_and(|place| !place.file.exists())
}

pub fn count(n: usize, what: &str) -> String {
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
pub fn check(args: &PlanArgs) -> Result<ExitCode> {
    let Prepared { plan, store, .. } = prepare(&args.grid, args.numeric.choose()?.1, true)?;
    let finished = plan.finished(&store)?;
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    println!("{}", headline(&plan, &finished, &plan.pending(&finished, true)));
    println!("no mistake found");
    Ok(ExitCode::SUCCESS)
}

/// `w2s plan`.
pub fn plan(args: &PlanArgs) -> Result<ExitCode> {
    let Prepared { plan, store, .. } = prepare(&args.grid, args.numeric.choose()?.1, true)?;
    let finished = plan.finished(&store)?;
    print_plan(&plan, &finished, &plan.pending(&finished, true));
    Ok(ExitCode::SUCCESS)
}

fn print_plan(plan: &Plan, finished: &IndexMap<StageId, Finished>, pending: &IndexMap<StageId, &Job>) {
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    println!("{}", headline(plan, finished, pending));
    let mut uses: BTreeMap<&StageId, usize> = BTreeMap::new();
    plan.cells.iter().flat_map(Cell::stages).for_each(|id| *uses.entry(id).or_default() += 1);
    let concerned = |id: &StageId| finished.contains_key(id) || pending.contains_key(id);
    for (id, label) in plan.labels().iter().filter(|(id, _)| concerned(id)) {
        let state = if pending.contains_key(id) { "to do" } else { "done " };
        let shared =
            uses.get(id).filter(|uses| **uses > 1).map_or_else(String::new, |uses| format!("  for {uses} cells"));
        println!("  {state}  {label}{shared}");
    }
}

/// `w2s run`.
pub fn run(args: &RunArgs, interruption: &Interruption) -> Result<ExitCode> {
    // A device that is not there is said before data are read.
    let PlanArgs { grid, numeric } = &args.plan;
    let (device, mode) = numeric.choose()?;
    let Prepared { plan, store, folder } = prepare(grid, mode, args.dry_run)?;
    let finished = plan.finished(&store)?;
    let pending = plan.pending(&finished, !args.no_students);
    let but = if args.no_students && !plan.pending(&finished, true).is_empty() { " but students" } else { "" };
    if args.dry_run {
        print_plan(&plan, &finished, &pending);
        return Ok(ExitCode::SUCCESS);
    }
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    say!("{}", headline(&plan, &finished, &pending));
    let mut books = results::Books::open(&plan, &folder, finished)?;
    let mut failures = Failures::open(&folder, |id| pending.contains_key(id))?;
    interruption.at_work();

    let mut begun = false;
    let carried_out = || -> Result<Outcome> {
        let outcome = if pending.is_empty() {
            Outcome::default()
        } else {
            let options = options(args, device, &plan);
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
    // What killed stages left behind is removed.
    store.leave();
    books.notes().iter().for_each(|note| say!("note: {note}"));

    if pending.is_empty() {
        let cells = count(plan.cells.len(), "cell");
        print(&format!("Nothing left to do{but}: {cells} in {}", folder.join("results.csv").display()))?;
        print("")?;
    }
    show_results(&plan, &books, &folder, &outcome)?;
    report(&plan, &outcome, &failures)
}

/// The table of what is there, and what is to be known of it.
fn show_results(plan: &Plan, books: &results::Books, folder: &Path, outcome: &Outcome) -> Result<()> {
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
    say!("\nresults: {}", path.display());
    Ok(())
}

/// `w2s collect`: the results of what is finished, whoever did it.
pub fn collect(args: &PlanArgs) -> Result<ExitCode> {
    let Prepared { plan, store, folder } = prepare(&args.grid, args.numeric.elsewhere(false)?.1, false)?;
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
    show_results(&plan, &books, &folder, &outcome)?;
    report(&plan, &outcome, &failures)
}

fn options(args: &RunArgs, device: String, plan: &Plan) -> RunOptions {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let usual = if device == "cpu" { cores.div_ceil(2).max(2).min(cores) } else { 1 };
    let workers = args.workers.map_or(usual, NonZeroUsize::get);
    RunOptions {
        workers,
        threads: (cores / workers).max(1),
        device,
        micro_batch: args.plan.numeric.micro_batch.map(NonZeroUsize::get),
        folders: plan.folders.clone(),
        max_fails: args.max_fails.map_or(usize::MAX, NonZeroUsize::get),
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
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} stages, {elapsed_precise} gone{left}") {
            // Nobody knows how long a stage takes before one is done.
            let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                if state.pos() > 0 {
                    let _ = write!(out, ", {:#} left", indicatif::HumanDuration(state.eta()));
                }
            };
            whole.set_style(style.with_key("left", left));
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
            let _ = self.bars.println(show::plain(line));
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
