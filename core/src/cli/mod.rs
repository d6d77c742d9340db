//! The command line: the only place that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod analyse;
mod cell;
mod compare;
mod figure;
mod items;
mod list;
mod plan;
mod run;
mod schema;
mod shell;
mod show;
mod signals;
mod status;
mod store;
mod submit;
mod table;
mod task;

use std::{
    ffi::OsString,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    Error, Result,
    document::Document,
    error::{ErrorKind, panic_message},
    grid::{Library, embedded_grid, with_changes},
    last_words::{self, Role},
};

/// Exit code of a mistake that was found before anything ran.
const REFUSED: u8 = 2;
/// Exit code of a run in which something failed.
const FAILED: u8 = 1;
/// Exit code of a run that was interrupted before anything was trained, or again while it was [ending in order](crate::grid::STOPPED).
const INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(name = "w2s", version, about = "Weak-to-strong generalization: experiments from a config to a table", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  w2s run configs/quickstart.toml                     run a grid, or continue it
  w2s run configs/quickstart.toml seeds=0,1,2,3,4     change a key from the command line
  w2s check configs/quickstart.toml                   find mistakes without running anything
  w2s status                                          how far every grid is
  w2s table configs/quickstart.toml --format latex    the table of the paper
  w2s explain loss/js                                 what a loss computes and where it comes from
  w2s task check sst2 --data DATA                     what a task's data look like
  w2s task new tickets.csv                            a task file for new data";

#[derive(Subcommand)]
enum Command {
    /// Runs a grid, or what is left of it
    Run(run::RunArgs),
    /// Finds every mistake that can be found before training
    Check(plan::FittedArgs),
    /// Prints the stages of a grid: done, shared, and to do
    Plan(plan::ShowArgs),
    /// Says how far grids are, while they run too: done, running, failed, waiting
    Status(status::StatusArgs),
    /// Prints what the processes of a cell's stages wrote
    Logs(cell::LogsArgs),
    /// Says what two cells differ in, key by key
    Why(cell::WhyArgs),
    /// Makes a finished cell again, from the folder of results alone, and compares byte by byte
    Replay(cell::ReplayArgs),
    /// Gives a grid's stages to Slurm, or prints them as commands for another scheduler
    Submit(submit::SubmitArgs),
    /// Cancels the jobs of a grid that was submitted
    Cancel(GridArgs),
    /// Writes the results of the stages that are finished, and starts nothing
    Collect(plan::FittedArgs),
    /// Does one stage of a submission
    #[command(hide = true)]
    Work(submit::WorkArgs),
    /// Prints a grid's table from its results.csv
    Table(table::TableArgs),
    /// Looks into a finished grid: P(IK), trust, smoothing, and what went wrong
    Analyse(analyse::AnalyseArgs),
    /// Compares methods with a baseline, paired by seed and test item
    Compare(compare::CompareArgs),
    /// Draws a finished grid as SVG: P(IK), coverage, reliability, accuracies, sweeps, what a world's models know
    Figure(figure::FigureArgs),
    /// Lists what a grid can name
    List(list::ListArgs),
    /// Explains one strategy, task or model: `w2s explain loss/js`
    Explain(list::ExplainArgs),
    /// Looks into the store of finished stages, and clears what no grid needs
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Looks at a task's data, or writes a task file for new data
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Prints the JSON Schema of a kind of file, by which editors complete and check
    Schema(schema::SchemaArgs),
    /// Prints a script by which a shell completes commands
    Completions(shell::CompletionsArgs),
    /// Prints the manual page, or writes those of all commands
    Man(shell::ManArgs),
    /// Does one stage; for w2s itself
    #[command(hide = true)]
    Stage,
}

/// What names a grid and where its inputs and outputs are.
#[derive(Args, Clone)]
struct GridArgs {
    /// The grid: a TOML file, or the name of one that comes with w2s
    config: PathBuf,
    /// Changes, e.g. seeds=0,1 or method.finetune.train.epochs=3
    #[arg(value_name = "KEY=VALUE")]
    changes: Vec<String>,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Where things are.
#[derive(Args, Clone)]
struct PlaceArgs {
    /// Folder of data sets in hub layout, looked in before the hub; may be given several times [env: W2S_DATA]
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Folder of models, looked in before the hub; may be given several times [env: W2S_MODELS]
    #[arg(long, value_name = "DIR")]
    models: Vec<PathBuf>,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// The folders of models: from the command line, then from `W2S_MODELS`, then what `huggingface_hub` has downloaded.
///
/// # Errors
/// A folder of the command line that is none.
fn model_folders(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if let Some(missing) = given.iter().find(|folder| !folder.is_dir()) {
        return Err(Error::new("not a folder with models").in_file(missing).help("check the path after `--models`"));
    }
    let mut folders = given.to_vec();
    if let Some(paths) = std::env::var_os("W2S_MODELS") {
        folders.extend(std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()));
    }
    folders.extend(crate::hub::cache_folder());
    Ok(folders)
}

impl GridArgs {
    /// Reads the grid's file, or the one of that name that the binary carries, with the changes of the command line.
    fn document(&self) -> Result<(Document, Library)> {
        let document = if self.config.exists() {
            Document::open(&self.config)?
        } else if let Some(document) = embedded_grid(&self.config.to_string_lossy()) {
            document?
        } else {
            return Err(Error::new("there is no such grid")
                .in_file(&self.config)
                .help("give the path of a TOML file, or `quickstart`, which comes with w2s"));
        };
        let library = Library::beside(document.file());
        Ok((with_changes(document, &library, &self.changes)?, library))
    }
}

/// Output format of a list.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ListFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Ends this process without a word when nobody reads its output any more, as in `w2s analyse GRID | head`, where printing would panic.
fn end_with_the_reader() {
    #[cfg(unix)]
    // SAFETY: the default action of a signal is always valid, and no thread has been started that relies on another.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// What cannot be printed, on a full disk say, ends the process with a sentence: `println!` panics.
#[expect(clippy::exit, reason = "there is nothing to return to from a panic")]
fn end_without_output() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(message) =
            panic.payload().downcast_ref::<String>().filter(|text| text.starts_with("failed printing"))
        {
            // Standard error may be as full.
            let _ = writeln!(std::io::stderr(), "cannot write what is to be printed: {message}");
            std::process::exit(FAILED.into());
        }
        usual(panic);
    }));
}

/// Prints a line on standard error if somebody reads it: a run does not end because nobody does. Names in it do not act on the terminal.
macro_rules! say {
    ($($part:tt)*) => {{
        // Nothing can be done about it, and nothing is lost that matters.
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", $crate::cli::show::plain(&format!($($part)*))));
    }};
}
use say;

/// The folder of results that a run will probably have: for a failure before the arguments are parsed and the grid has told its name.
fn likely_folder(arguments: &[OsString]) -> Option<PathBuf> {
    let following = arguments.iter().skip_while(|argument| *argument != "--results").nth(1);
    let equal = || arguments.iter().find_map(|argument| argument.to_str()?.strip_prefix("--results="));
    let results = following.map(Path::new).or_else(|| equal().map(Path::new)).unwrap_or(Path::new("results"));
    let is_grid = |path: &&Path| path.extension().is_some_and(|extension| extension == "toml");
    let grid = arguments.iter().map(Path::new).find(is_grid).or_else(|| arguments.first().map(Path::new))?;
    Some(results.join(grid.file_stem()?))
}

/// Runs the command line and returns the process's exit code. `commit` is what the binary was built from, if that is known.
pub fn main(commit: Option<&'static str>) -> ExitCode {
    crate::alloc::keep_freed_memory();
    crate::COMMIT.get_or_init(|| commit.unwrap_or("unknown"));
    let command = std::env::args_os().nth(1).unwrap_or_default();
    last_words::prepare(if command == "stage" { Role::Stage } else { Role::Command(FAILED) });
    end_without_output();
    if command == "run"
        && let Some(folder) = likely_folder(&std::env::args_os().skip(2).collect::<Vec<_>>())
    {
        // Until the arguments and the grid are read.
        last_words::record_in(&crate::grid::Failures::file_in(&folder));
    }
    // Before anything else that takes time.
    let interruption = if ["run", "replay", "work"].iter().any(|verb| command == *verb) {
        signals::Interruption::watch()
    } else {
        Ok(signals::Interruption::default())
    };
    let cli = Cli::parse();
    // A run writes to processes that may die before they listen, and must not die of it.
    if !matches!(cli.command, Command::Run(_) | Command::Replay(_) | Command::Work(_) | Command::Stage) {
        end_with_the_reader();
    }
    let act = || {
        crate::strategy::check_registry()?;
        match cli.command {
            Command::Run(args) => run::run(&args, &interruption?),
            Command::Check(args) => plan::check(&args),
            Command::Plan(args) => plan::plan(&args),
            Command::Status(args) => status::status(&args),
            Command::Logs(args) => cell::logs(&args),
            Command::Why(args) => cell::why(&args),
            Command::Replay(args) => cell::replay(&args, &interruption?),
            Command::Submit(args) => submit::submit(&args),
            Command::Cancel(args) => submit::cancel(&args),
            Command::Collect(args) => run::collect(&args),
            Command::Work(args) => submit::work(&args, &interruption?),
            Command::Table(args) => table::table(&args),
            Command::Compare(args) => compare::run(&args),
            Command::Analyse(args) => analyse::analyse(&args),
            Command::Figure(args) => figure::figure(&args),
            Command::List(args) => list::list(&args),
            Command::Explain(args) => list::explain(&args),
            Command::Store(command) => store::store(&command),
            Command::Task(command) => task::task(&command),
            Command::Schema(args) => schema::schema(&args),
            Command::Completions(args) => shell::completions(&args),
            Command::Man(args) => shell::man(&args),
            Command::Stage => Ok(run::stage()),
        }
    };
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) if error.kind() == ErrorKind::OutOfMemory => {
            last_words::enter_want_of_memory();
            show::error(&error);
            ExitCode::from(FAILED)
        }
        Ok(Err(error)) => {
            show::error(&error);
            ExitCode::from(REFUSED)
        }
        Err(panic) => {
            let (kind, message, help) = last_words::classify(panic_message(panic.as_ref()));
            if kind == ErrorKind::OutOfMemory {
                last_words::enter_want_of_memory();
            }
            let help = help.unwrap_or("this is a fault in w2s: please report it, with the lines above");
            show::error(&Error::new(message).help(help));
            ExitCode::from(FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_run_will_record_is_guessed_from_its_arguments() {
        let folder = |line: &str| likely_folder(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).unwrap();
        assert_eq!(folder("quickstart"), PathBuf::from("results/quickstart"));
        assert_eq!(folder("--workers 2 configs/x.toml --results out seeds=0"), PathBuf::from("out/x"));
        assert_eq!(folder("x.toml --results=/a/b"), PathBuf::from("/a/b/x"));
    }
}
