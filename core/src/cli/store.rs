//! `w2s store`: what is in the store of finished stages, whether it is whole, and clearing what no grid needs.

use std::{
    cmp::Reverse,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{FAILED, ListFormat};
use crate::{
    Error, Result,
    stage::{Entry, STORE, Store, writable},
};

#[derive(Subcommand)]
pub enum StoreCommand {
    /// Lists finished stages: size, age, and the grids that need them
    Ls(LsArgs),
    /// Hashes every byte of every stage and names what is damaged
    Verify(ResultsArgs),
    /// Removes what killed runs left behind, what is in quarantine, checkpoints that nobody came back for, and stages that no grid in the folder
    /// of results needs
    Gc(GcArgs),
}

#[derive(Args)]
pub struct ResultsArgs {
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// Which stages.
#[derive(Args)]
struct Filter {
    /// Stages of at least so many megabytes
    #[arg(long, value_name = "MB")]
    larger_than: Option<f64>,
    #[command(flatten)]
    place: ResultsArgs,
}

#[derive(Args)]
pub struct LsArgs {
    #[command(flatten)]
    filter: Filter,
    /// Stages that were finished at least so many days ago
    #[arg(long, value_name = "DAYS", default_value_t = 0.0)]
    older_than: f64,
    /// Stages that this grid needs: the name of its folder of results
    #[arg(long, value_name = "NAME", conflicts_with = "unused")]
    grid: Option<String>,
    /// Stages that no grid needs
    #[arg(long)]
    unused: bool,
    /// Order
    #[arg(long, value_enum, default_value = "name")]
    sort: Sort,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: ListFormat,
}

#[derive(Args)]
pub struct GcArgs {
    #[command(flatten)]
    filter: Filter,
    /// What was finished, saved or put into quarantine at least so many days ago
    #[arg(long, value_name = "DAYS", default_value_t = 1.0)]
    older_than: f64,
    /// Print what would be removed, and stop
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Sort {
    /// By name, i.e. by kind of stage
    Name,
    /// Oldest first
    Age,
    /// Largest first
    Size,
}

/// Runs one of the commands.
pub fn store(command: &StoreCommand) -> Result<ExitCode> {
    match command {
        StoreCommand::Ls(args) => ls(args),
        StoreCommand::Verify(args) => verify(args),
        StoreCommand::Gc(args) => gc(args),
    }
}

fn root(args: &ResultsArgs) -> Result<PathBuf> {
    let root = args.results.join(STORE);
    if root.is_dir() {
        return Ok(root);
    }
    Err(Error::new("there is no store of stages").in_file(root).help("give the folder of results, `--results DIR`"))
}

impl Filter {
    fn fits(&self, bytes: u64, since: SystemTime, older_than: f64) -> bool {
        let age = since.elapsed().unwrap_or_default().as_secs_f64() / 86400.0;
        age >= older_than && self.larger_than.is_none_or(|least| bytes as f64 >= least * 1e6)
    }
}

fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes >= 1e9 { format!("{:.1} GB", bytes / 1e9) } else { format!("{:.2} MB", bytes / 1e6) }
}

fn age(since: SystemTime) -> String {
    let age: Duration = since.elapsed().unwrap_or_default();
    match age.as_secs() {
        seconds if seconds < 2 * 3600 => format!("{} min", seconds / 60),
        seconds if seconds < 2 * 86400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86400),
    }
}

fn line(bytes: u64, since: SystemTime, rest: &str) -> String {
    format!("{:>10}  {:>7}  {rest}", size(bytes), age(since))
}

fn users(entry: &Entry) -> String {
    let damaged = if entry.manifest.is_none() { "damaged; " } else { "" };
    let grids: Vec<&str> = entry.grids.iter().map(String::as_str).collect();
    format!("{damaged}{}", if grids.is_empty() { "no grid".to_owned() } else { grids.join(", ") })
}

fn ls(args: &LsArgs) -> Result<ExitCode> {
    let store = Store::open_to_look(root(&args.filter.place)?)?;
    let mut stages = store.inventory()?;
    if let Some(grid) = &args.grid
        && !stages.iter().any(|stage| stage.grids.contains(grid))
    {
        let known: std::collections::BTreeSet<&String> = stages.iter().flat_map(|stage| &stage.grids).collect();
        let known: Vec<&str> = known.into_iter().map(String::as_str).collect();
        return Err(Error::new(format!("no stage is needed by a grid `{grid}`"))
            .help(format!("grids with stages here: {}", known.join(", "))));
    }
    stages.retain(|stage| {
        args.filter.fits(stage.bytes, stage.finished, args.older_than)
            && args.grid.as_ref().is_none_or(|grid| stage.grids.contains(grid))
            && (!args.unused || stage.grids.is_empty())
    });
    match args.sort {
        Sort::Name => {}
        Sort::Age => stages.sort_by_key(|stage| stage.finished),
        Sort::Size => stages.sort_by_key(|stage| Reverse(stage.bytes)),
    }
    if args.format == ListFormat::Json {
        let stage = |stage: &Entry| {
            json!({
                "stage": stage.id,
                "bytes": stage.bytes,
                "finished": stage.manifest.as_ref().map(|manifest| manifest.finished),
                "device": stage.manifest.as_ref().map(|manifest| &manifest.device),
                "commit": stage.manifest.as_ref().map(|manifest| &manifest.commit),
                "grids": stage.grids,
                "damaged": stage.manifest.is_none(),
            })
        };
        println!("{:#}", json!(stages.iter().map(stage).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    for stage in &stages {
        println!("{}", line(stage.bytes, stage.finished, &format!("{}  {}", stage.id, users(stage))));
    }
    let unused: Vec<&Entry> = stages.iter().filter(|stage| stage.grids.is_empty()).collect();
    let total = |stages: &mut dyn Iterator<Item = u64>| size(stages.sum());
    println!(
        "{} stages, {}; of them {}, {}, for no grid",
        stages.len(),
        total(&mut stages.iter().map(|stage| stage.bytes)),
        unused.len(),
        total(&mut unused.iter().map(|stage| stage.bytes)),
    );
    let quarantined = store.quarantined()?;
    if !quarantined.is_empty() {
        println!("{} in quarantine, {}", quarantined.len(), total(&mut quarantined.iter().map(|one| one.bytes)));
    }
    let checkpoints = store.checkpoints()?;
    if !checkpoints.is_empty() {
        let bytes = total(&mut checkpoints.iter().map(|one| one.bytes));
        println!("{} trainings that are not finished, with checkpoints of {bytes}", checkpoints.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &ResultsArgs) -> Result<ExitCode> {
    let store = Store::open_to_look(root(args)?)?;
    let stages = store.inventory()?;
    let mut bad = 0;
    for stage in &stages {
        let reason = match store.verify(&stage.id) {
            Ok(None) => continue,
            Ok(Some(reason)) => reason,
            Err(error) => error.to_string(),
        };
        bad += 1;
        println!("{}: {reason}; for {}", stage.id, users(stage));
    }
    println!("{} stages, {bad} damaged or unreadable", stages.len());
    if bad > 0 {
        println!("`w2s run` puts damaged stages into quarantine and makes them again");
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

fn gc(args: &GcArgs) -> Result<ExitCode> {
    let root = root(&args.filter.place)?;
    writable(&root)?;
    let store = Store::open_to_look(root)?;
    let fits = |bytes, since| args.filter.fits(bytes, since, args.older_than);
    let done = store.alone(|| {
        let left = store.leftovers()?;
        let (mut bytes, mut count) = (0, 0);
        for path in &left.paths {
            println!("{:>10}  {:>7}  {}", "", "left", path.display());
        }
        let stages = store.inventory()?.into_iter();
        let unused = stages.filter(|stage| stage.grids.is_empty() && fits(stage.bytes, stage.finished));
        let unused = unused.map(|stage| (stage.bytes, stage.finished, stage.folder));
        let shelf = store.quarantined()?.into_iter().chain(store.checkpoints()?);
        let shelf = shelf.filter(|one| fits(one.bytes, one.since) && !left.paths.contains(&one.folder));
        let goes: Vec<_> = unused.chain(shelf.map(|one| (one.bytes, one.since, one.folder))).collect();
        for (size, since, folder) in &goes {
            println!("{}", line(*size, *since, &folder.display().to_string()));
            bytes += size;
            count += 1;
            if !args.dry_run {
                store.discard(folder)?;
            }
        }
        if !args.dry_run {
            left.remove()?;
        }
        let would = if args.dry_run { "would be removed" } else { "removed" };
        println!("{would}: {count} stages, {}; {} leftovers", size(bytes), left.paths.len() + left.locks.len());
        Ok(())
    })?;
    if done.is_none() {
        return Err(Error::new("another process is at work in this store")
            .in_file(store.root())
            .help("wait until no run, plan or check is at work in this folder of results, and try again"));
    }
    Ok(ExitCode::SUCCESS)
}
