//! `w2s run`, `check` and `plan`.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use clap::Args;
use indexmap::IndexMap;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{
    FAILED, GridArgs, INTERRUPTED, PlaceArgs, show,
    table::{print, read, recorded},
};
use crate::{
    Error, Result,
    grid::{self, Event, Grid, Outcome, Places, Plan, RunOptions, Word, results},
    report::Table,
    stage::{Finished, Job, STORE, StageId, Store},
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
    /// Weak models and ceilings alone: is there a gap to recover?
    #[arg(long)]
    no_students: bool,
    /// Print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

/// What every command on a grid starts with: the plan, and where its results go.
struct Prepared {
    plan: Plan,
    store: Store,
    folder: PathBuf,
}

fn prepare(args: &GridArgs) -> Result<Prepared> {
    let (document, library) = args.document()?;
    let grid = Grid::read(&document, &library)?;
    let PlaceArgs { data, models, results } = &args.places;
    let store = Store::open(results.join(STORE))?;
    let folder = results.join(&grid.name);
    results::Books::check(&folder)?;
    let places = Places { sources: Sources::from_env(data)?, models: super::model_folders(models)? };
    let plan = Plan::make(grid, &library, &places, &store)?;
    Ok(Prepared { plan, store, folder })
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
    let Prepared { plan, store, .. } = prepare(args)?;
    let finished = plan.finished(&store)?;
    plan.notes.iter().for_each(|note| eprintln!("note: {}", show::plain(note)));
    println!("{}", headline(&plan, &finished, &plan.pending(&finished, true)));
    println!("no mistake found");
    Ok(ExitCode::SUCCESS)
}

/// `w2s plan`.
pub fn plan(args: &GridArgs) -> Result<ExitCode> {
    let Prepared { plan, store, .. } = prepare(args)?;
    let finished = plan.finished(&store)?;
    print_plan(&plan, &finished, &plan.pending(&finished, true));
    Ok(ExitCode::SUCCESS)
}

fn print_plan(plan: &Plan, finished: &IndexMap<StageId, Finished>, pending: &IndexMap<StageId, &Job>) {
    plan.notes.iter().for_each(|note| eprintln!("note: {}", show::plain(note)));
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
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    // A device that is not there is said before data are read.
    let (_, device) = crate::device::open(&args.device)?;
    let Prepared { plan, store, folder } = prepare(&args.grid)?;
    let finished = plan.finished(&store)?;
    let pending = plan.pending(&finished, !args.no_students);
    let but = if args.no_students && !plan.pending(&finished, true).is_empty() { " but students" } else { "" };
    if args.dry_run {
        print_plan(&plan, &finished, &pending);
        return Ok(ExitCode::SUCCESS);
    }
    plan.notes.iter().for_each(|note| eprintln!("note: {}", show::plain(note)));
    eprintln!("{}", headline(&plan, &finished, &pending));
    let mut books = results::Books::open(&plan, &folder, finished)?;

    let outcome = if pending.is_empty() {
        Outcome::default()
    } else {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let usual = if device == "cpu" { cores.div_ceil(2).max(2).min(cores) } else { 1 };
        let workers = args.workers.map_or(usual, NonZeroUsize::get);
        let options = RunOptions {
            workers,
            threads: (cores / workers).max(1),
            device: device.clone(),
            micro_batch: args.micro_batch.map(NonZeroUsize::get),
            max_fails: args.max_fails.map_or(usize::MAX, NonZeroUsize::get),
        };
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, stop.clone())
                .map_err(|error| Error::new(format!("cannot watch for interruptions: {error}")))?;
        }
        let mut screen = Screen::new(&plan, pending.len());
        grid::run(&pending, &store, &folder.join("logs"), &options, &stop, |event| {
            screen.show(&event);
            if let Event::Done(id, _) = event {
                books.enter(&plan, &store, id)?;
            }
            Ok(())
        })?
    };
    books.close(&plan, &outcome)?;
    books.notes().iter().for_each(|note| eprintln!("note: {}", show::plain(note)));
    super::end_with_the_reader();

    let path = folder.join("results.csv");
    if pending.is_empty() {
        println!("Nothing left to do{but}: {} in {}\n", count(plan.cells.len(), "cell"), path.display());
    }
    if !books.is_empty() {
        let table = read(&path).and_then(|rows| Table::main(&rows, &recorded(&path)));
        // What failed is said below in any case.
        match table {
            Ok(table) => print(&table.to_terminal(super::table::room())),
            Err(error) if outcome.failed.is_empty() && !outcome.interrupted => return Err(error),
            Err(error) => show::error(&error.context("there is no table of these results")),
        }
    }
    for (remark, methods) in books.remarks(&plan) {
        let methods = methods.into_iter().collect::<Vec<_>>().join(", ");
        eprintln!("\nnote: {}", show::plain(&format!("{methods}: {remark}")));
    }
    eprintln!("\nresults: {}", path.display());
    if outcome.interrupted {
        eprintln!("interrupted: run the same command to continue");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if !outcome.failed.is_empty() {
        let labels = plan.labels();
        for failure in &outcome.failed {
            let label = labels.get(&failure.stage).cloned().unwrap_or_else(|| failure.stage.to_string());
            let error = Error::new(format!("{label}: {}", failure.message)).in_file(&failure.log);
            show::error(&match &failure.help {
                Some(help) => error.help(help),
                None => error,
            });
        }
        eprintln!("{} failed; run the same command to try again", count(outcome.failed.len(), "stage"));
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
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
    match grid::obey(say.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show::error(&error);
            say(&Word::Failed { message: error.message().to_owned(), help: error.remedy().map(str::to_owned) });
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
        whole.enable_steady_tick(Duration::from_secs(1));
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
            Event::Done(id, _) => self.end(id, None),
            Event::Failed(failure) => self.end(&failure.stage.clone(), Some(&failure.message)),
        }
    }

    fn end(&mut self, id: &StageId, failure: Option<&str>) {
        if let Some(bar) = self.running.remove(id) {
            bar.finish_and_clear();
        }
        self.whole.inc(1);
        if let Some(message) = failure {
            let line = show::plain(&format!("failed: {}: {message}", self.label(id)));
            if self.watched {
                // The bars redraw themselves below the line.
                let _ = self.bars.println(line);
            } else {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.whole.finish_and_clear();
    }
}
