//! Commands about one cell of a grid that was run: `w2s logs`, `w2s why` and `w2s replay`.

use std::{fs, num::NonZeroUsize, path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    FAILED, INTERRUPTED,
    run::{Screen, View},
    say, show,
    signals::Interruption,
    status::{grids, store},
    table::print,
};
use crate::{
    Error, Result, device,
    grid::{self, Devices, Difference, Recorded, Replay, RunOptions},
    learner::Every,
    stage::{Numeric, STORE, Store},
};

const CELL: &str =
    "RUN/CELL, the beginning of CELL, or its method, task and seed (names of models and RUN/ narrow it down)";

#[derive(Args)]
pub struct LogsArgs {
    #[arg(value_name = "CELL", required = true, help = CELL)]
    cell: Vec<String>,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// `w2s logs`: what the processes of a cell's stages wrote.
pub fn logs(args: &LogsArgs) -> Result<ExitCode> {
    let grids = grids(&args.results)?;
    let (grid, cell) = Recorded::find(&grids, &args.cell.join(" "))?;
    print(&format!("{}/{}", grid.name, cell.title()))?;
    for stage in grid.of_cell(cell) {
        let path = grid.log(&stage.id);
        print(&format!("\n== {}: {}", stage.what, path.display()))?;
        match fs::read(&path) {
            Ok(text) if text.is_empty() => print("(nothing was written)")?,
            Ok(text) => print(&String::from_utf8_lossy(&text))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                print("(no log: it was not started by a run of this grid)")?;
            }
            Err(error) => return Err(Error::of_io("read a log", &error, path)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub struct WhyArgs {
    #[arg(value_name = "A", help = CELL)]
    a: String,
    /// The other one; both in quotes where they are several words
    #[arg(value_name = "B")]
    b: String,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// `w2s why`: what two cells differ in.
pub fn why(args: &WhyArgs) -> Result<ExitCode> {
    let grids = grids(&args.results)?;
    let [a, b] = [Recorded::find(&grids, &args.a)?, Recorded::find(&grids, &args.b)?];
    let differences = grid::why(a, b, &store(&args.results)?)?;
    for (letter, (grid, cell)) in [("A", a), ("B", b)] {
        print(&format!("{letter}  {}/{}", grid.name, cell.title()))?;
    }
    if differences.is_empty() {
        print("\nthe same: every stage is shared")?;
        return Ok(ExitCode::SUCCESS);
    }
    let value =
        |value: &Option<Value>| value.as_ref().map_or_else(|| "(absent: the default)".to_owned(), Value::to_string);
    for Difference { key, values: [a, b] } in &differences {
        print(&format!("\n{key}\n  A  {}\n  B  {}", value(a), value(b)))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub struct ReplayArgs {
    #[arg(value_name = "CELL", required = true, help = CELL)]
    cell: Vec<String>,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Where to run: must be of the kind that the cell was made on [default: the first of that kind]
    #[arg(long)]
    device: Option<String>,
    /// Stages at a time
    #[arg(long, value_name = "N", default_value = "1")]
    workers: NonZeroUsize,
}

/// `w2s replay`: a finished cell again, from the folder of results alone, and whether it is the same.
pub fn replay(args: &ReplayArgs, interruption: &Interruption) -> Result<ExitCode> {
    let grids = grids(&args.results)?;
    let (grid, cell) = Recorded::find(&grids, &args.cell.join(" "))?;
    let numeric = &grid.numeric;
    let kind = numeric.device();
    let wanted =
        args.device.clone().unwrap_or_else(|| if kind == "cpu" { kind.to_owned() } else { format!("{kind}:0") });
    let device::Choice { name: device, note } = device::choose(&wanted)?;
    note.iter().for_each(|note| say!("note: {note}"));
    if Numeric::new(&device, numeric.micro_batch()).in_precision(numeric.precision()) != *numeric {
        return Err(Error::new(format!("the cell was made on `{kind}`, and `{device}` is another kind of device"))
            .help("another kind of device may differ in rounding, so its results are other stages"));
    }
    let from = store(&args.results)?;
    let scratch = tempfile::Builder::new().prefix("w2s-replay-").tempdir();
    let scratch = scratch.map_err(|error| Error::of_io("create a temporary folder", &error, std::env::temp_dir()))?;
    let to = Store::open(scratch.path().join(STORE))?.telling(|notice| say!("note: {notice}"));
    let replay = Replay::prepare(grid, cell, &from, &to)?;
    for commit in replay.commits().into_iter().filter(|commit| *commit != crate::commit()) {
        say!("note: made by commit {commit} of w2s; this is {}", crate::commit());
    }
    let (jobs, cores) = (replay.jobs(), std::thread::available_parallelism().map_or(1, usize::from));
    say!("{}/{}: {} stages again, in {}", grid.name, cell.title(), jobs.len(), scratch.path().display());
    let options = RunOptions {
        devices: Devices::one(&device, args.workers.get()),
        threads: (cores / args.workers.get()).max(1),
        recompute: false,
        precision: numeric.precision(),
        folders: grid.folders.clone(),
        max_fails: 1,
        fail_fast: true,
        patience: None,
        timeout: None,
        checkpoint_every: Every::Never,
    };
    interruption.at_work();
    let mut screen = Screen::new(View::of_terminal(), replay.labels().clone(), jobs.len());
    let outcome =
        grid::run(&jobs, &to, &scratch.path().join("logs"), &options, &interruption.stop, |event| screen.show(&event))?;
    drop(screen);
    if outcome.interrupted {
        say!("interrupted: nothing is left of it");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let different = if let [failure, ..] = &outcome.failed[..] {
        show::error(&Error::new(failure.message.clone()).in_file(&failure.log));
        true
    } else {
        let differences = replay.differences(&to)?;
        differences.iter().try_for_each(|difference| print(difference))?;
        !differences.is_empty()
    };
    if different {
        say!("what was made again is kept in {}", scratch.keep().display());
        return Ok(ExitCode::from(FAILED));
    }
    print(&format!("the same: {} stages, {} files, byte by byte", jobs.len(), replay.files()))?;
    Ok(ExitCode::SUCCESS)
}
