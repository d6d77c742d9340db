//! `w2s submit`, `cancel` and `work`: a grid on a cluster.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use indexmap::IndexMap;

use super::{
    FAILED, GridArgs, PlaceArgs,
    run::{PlanArgs, Prepared, count, prepare},
    say, show,
    signals::Interruption,
    table::print,
};
use crate::{
    Error, Result,
    error::{ErrorKind, IoContext},
    grid::{self, Bytes, Event, Failure, Failures, Grid, STOPPED, results::Books, slurm},
    learner::Every,
    stage::{Job, Store},
};

#[derive(Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Slurm's partition
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// GPUs of each stage; with any, stages run on the first of them unless `--device` says otherwise
    #[arg(long, value_name = "N", default_value_t = 0)]
    gpus: usize,
    /// Cores of each stage
    #[arg(long, value_name = "N", default_value = "2")]
    cpus: NonZeroUsize,
    /// Memory of each stage
    #[arg(long, value_name = "SIZE", default_value = "16G")]
    memory: String,
    /// Time of each stage; a training that needs more saves what it has, and is continued
    #[arg(long, value_name = "TIME", default_value = "04:00:00")]
    time: String,
    /// Stages at a time
    #[arg(long, value_name = "N", default_value = "8")]
    throttle: NonZeroUsize,
    /// How often a stage whose time was not enough is started again
    #[arg(long, value_name = "N", default_value_t = 5)]
    attempts: usize,
    /// A further option of sbatch, as in `--sbatch=--account=mine`; may be given several times
    #[arg(long = "sbatch", value_name = "OPTION", allow_hyphen_values = true)]
    options: Vec<String>,
    /// Another script than the one that comes with w2s (docs/slurm.md)
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Save trainings that are under way so often: a time (`5m`), steps (`500steps`), or `off`
    #[arg(long, value_name = "INTERVAL", default_value = "5m")]
    checkpoint_every: Every,
    /// Print one command for each stage, for another scheduler, and submit nothing
    #[arg(long, conflicts_with = "dry_run")]
    print: bool,
    /// Write the scripts, and submit nothing
    #[arg(long)]
    dry_run: bool,
}

/// `w2s submit`.
pub fn submit(args: &SubmitArgs) -> Result<ExitCode> {
    let (device, mode) = args.plan.numeric.elsewhere(args.gpus > 0)?;
    // What Slurm gives a stage is what it may have, of its own memory; of a GPU's nobody here knows.
    let room = args.memory.parse().ok().filter(|_| device == "cpu").map(|Bytes(bytes)| bytes);
    let fitting = args.plan.fitting(room)?;
    let template = match &args.template {
        Some(path) => std::fs::read_to_string(path)
            .path("read the template", path)
            .map_err(|error| error.help("check the path after `--template`"))?,
        None => slurm::TEMPLATE.to_owned(),
    };
    let Prepared { plan, store, folder, .. } = prepare(&args.plan.grid, mode, fitting, false)?;
    let finished = plan.finished(&store)?;
    let pending = plan.pending(&finished, true);
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    if pending.is_empty() {
        print(&format!("Nothing left to do: {} in {}", count(plan.cells.len(), "cell"), folder.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let whole = |path: &Path| std::path::absolute(path).path("find the folder", path);
    let folder = whole(&folder)?;
    let head = slurm::Head {
        results: folder.clone(),
        store: whole(store.root())?,
        device: device.clone(),
        recompute: args.plan.memory.recompute,
        precision: plan.numeric.precision(),
        folders: plan.folders.clone(),
        checkpoint_every: args.checkpoint_every,
    };
    let waves = slurm::waves(&pending);
    if !args.dry_run {
        // From here on `w2s status` knows the grid.
        Books::open(&plan, &folder, finished.clone())?;
    }
    let submission = slurm::Submission::new(&folder)?;
    slurm::write_manifest(&submission.manifest(), &head, &pending, &waves, &plan.labels())?;
    if args.print {
        // Inputs come first, and whoever comes too early waits for them.
        for index in 0..pending.len() {
            print(&format!("{} --wait", submission.work(&index.to_string())))?;
        }
        say!("then, for results.csv: {}", collect(args, &submission.program(), &device));
        return Ok(ExitCode::SUCCESS);
    }
    let resources = slurm::Resources {
        partition: args.partition.clone(),
        gpus: args.gpus,
        cpus: args.cpus.get(),
        memory: args.memory.clone(),
        time: args.time.clone(),
        throttle: args.throttle.get(),
        attempts: args.attempts,
        options: args.options.clone(),
    };
    let collect = collect(args, &submission.program(), &device);
    let most = slurm::largest_array();
    let name = format!("w2s-{}", plan.grid.name);
    let scripts = submission
        .scripts(&template, &name, &resources, &waves, &collect, most)
        .map_err(|error| args.template.iter().fold(error, |error, path| error.in_file(path)))?;
    let jobs = if args.dry_run { vec![] } else { submission.submit(&scripts)? };
    for (place, script) in scripts.iter().enumerate() {
        let what = match script.stages {
            0 => "results".to_owned(),
            stages => count(stages, "stage"),
        };
        let job = jobs.get(place).map_or_else(String::new, |job| format!("job {job}  "));
        print(&format!("{job}{what}  {}", script.path.display()))?;
    }
    if !args.dry_run {
        say!("`w2s cancel` with the same grid and places cancels them");
    }
    Ok(ExitCode::SUCCESS)
}

/// The command that writes the results of what is finished.
fn collect(args: &SubmitArgs, program: &Path, device: &str) -> String {
    let PlanArgs { grid, numeric, memory } = &args.plan;
    let GridArgs { config, changes, places: PlaceArgs { data, models, results } } = grid;
    let mut words = vec![slurm::quoted(program), "collect".to_owned(), slurm::quoted(config)];
    words.extend(changes.iter().map(|change| slurm::word(change)));
    words.extend(["--device".to_owned(), device.to_owned(), "--results".to_owned(), slurm::quoted(results)]);
    words.extend(data.iter().flat_map(|folder| ["--data".to_owned(), slurm::quoted(folder)]));
    words.extend(models.iter().flat_map(|folder| ["--models".to_owned(), slurm::quoted(folder)]));
    words.extend(numeric.micro_batch.iter().flat_map(|size| ["--micro-batch".to_owned(), size.to_string()]));
    if !numeric.precision.is_default() {
        words.extend(["--precision".to_owned(), numeric.precision.to_string()]);
    }
    if numeric.is_auto() {
        // The same choices are the same stages.
        words.extend(["--memory".to_owned(), args.memory.clone()]);
        words.extend(memory.recompute.then(|| "--recompute".to_owned()));
    }
    words.join(" ")
}

/// `w2s cancel`.
pub fn cancel(args: &GridArgs) -> Result<ExitCode> {
    let (document, library) = args.document()?;
    let grid = Grid::read(&document, &library)?;
    let jobs = slurm::jobs_of(&args.places.results.join(&grid.name))?;
    let alive = if jobs.is_empty() { BTreeSet::new() } else { slurm::alive(&jobs)? };
    slurm::cancel(&alive)?;
    let said = match alive.len() {
        0 => "Nothing to cancel: no job of this grid waits or runs".to_owned(),
        n => format!("{} cancelled; `w2s submit` continues", count(n, "job")),
    };
    print(&said)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub struct WorkArgs {
    /// The manifest of a submission
    manifest: PathBuf,
    /// Which of its stages, from 0
    #[arg(long, value_name = "N")]
    index: usize,
    /// How often it has been started before
    #[arg(long, value_name = "N", default_value_t = 0)]
    attempt: usize,
    /// How often it may be started again
    #[arg(long, value_name = "N", default_value_t = usize::MAX)]
    attempts: usize,
    /// Wait until what it needs is there, or has failed
    #[arg(long)]
    wait: bool,
}

/// How often somebody who waits looks.
const PAUSE: Duration = Duration::from_secs(2);

/// `w2s work`: one stage of a manifest, as a run would do it.
pub fn work(args: &WorkArgs, interruption: &Interruption) -> Result<ExitCode> {
    let (head, slurm::Task { id, what, stage, micro_batch }) = slurm::read_manifest(&args.manifest, args.index)?;
    let store = Store::open(head.store.clone())?.telling(|notice| say!("note: {notice}"));
    let job = Job::of(stage, micro_batch)?;
    say!("{what}: {id}");
    for input in &job.reads {
        while store.find(input)?.is_none() {
            let failed = Failures::has(&head.results, input);
            if failed || !args.wait {
                let why = if failed { "it failed" } else { "it was not made" };
                return Err(Error::new(format!("{what}: what it needs is not there: {input}: {why}"))
                    .in_file(Failures::file_in(&head.results))
                    .help("failures and logs of the grid's folder tell why; mend it, and submit again"));
            }
            interruption.at_work();
            std::thread::sleep(PAUSE);
            if interruption.stop.load(std::sync::atomic::Ordering::SeqCst) {
                return Ok(ExitCode::from(STOPPED));
            }
        }
    }
    interruption.at_work();
    // As many as Slurm gives; the system may count those of the whole machine.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let given = std::env::var("SLURM_CPUS_PER_TASK").ok().and_then(|cpus| cpus.parse().ok());
    let threads = given.unwrap_or(cores).clamp(1, cores);
    let jobs = IndexMap::from([(id.clone(), &job)]);
    let outcome =
        grid::run(&jobs, &store, &head.results.join("logs"), &head.options(threads), &interruption.stop, |event| {
            match event {
                Event::Note(note) => say!("note: {note}"),
                Event::Waiting(_) => say!("waiting for another process, which makes it"),
                Event::Done(done, _) => Failures::strike_out(&head.results, done)?,
                Event::Again(failure) | Event::Failed(failure) => Failures::add(&head.results, failure, &what)?,
                _ => {}
            }
            Ok(())
        })?;
    store.leave();
    let mut failed = outcome.failed;
    if outcome.interrupted && failed.is_empty() {
        if args.attempt < args.attempts {
            say!("interrupted: it is continued when it is started again");
            return Ok(ExitCode::from(STOPPED));
        }
        let failure = Failure {
            stage: id,
            kind: ErrorKind::TimeOut,
            message: format!("its time was not enough, {} times", args.attempt + 1),
            help: Some("submit again to continue where it stopped, with more `--time` or `--attempts`".to_owned()),
            log: args.manifest.with_file_name("logs"),
        };
        Failures::add(&head.results, &failure, &what)?;
        failed.push(failure);
    }
    if let Some(failure) = failed.first() {
        let error = Error::new(format!("{what}: {} ({})", failure.message, failure.kind)).in_file(&failure.log);
        show::error(&failure.help.iter().fold(error, |error, help| error.help(help)));
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}
