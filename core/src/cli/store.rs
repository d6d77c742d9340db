//! `w2s store`: what is in the store of finished stages, whether it is whole, and clearing what no grid needs.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
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
    /// Hashes every byte of stages and names what is damaged
    Verify(Which),
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

/// What of the store, by its size.
#[derive(Args)]
struct Filter {
    /// Stages of at least so many megabytes
    #[arg(long, value_name = "MB")]
    larger_than: Option<f64>,
    #[command(flatten)]
    place: ResultsArgs,
}

/// Which stages.
#[derive(Args)]
pub struct Which {
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
}

#[derive(Args)]
pub struct LsArgs {
    #[command(flatten)]
    which: Which,
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
    /// The oldest first, and no more of them than it takes to bring the store down to so many megabytes
    #[arg(long, value_name = "MB")]
    down_to: Option<f64>,
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

impl Which {
    /// The stages that are meant.
    fn of(&self, store: &Store) -> Result<Vec<Entry>> {
        let mut stages = store.inventory()?;
        if let Some(grid) = &self.grid
            && !stages.iter().any(|stage| stage.grids.contains(grid))
        {
            let known: BTreeSet<&str> = stages.iter().flat_map(|stage| &stage.grids).map(String::as_str).collect();
            return Err(Error::new(format!("no stage is needed by a grid `{grid}`"))
                .help(format!("grids with stages here: {}", Vec::from_iter(known).join(", "))));
        }
        stages.retain(|stage| {
            self.filter.fits(stage.bytes, stage.finished, self.older_than)
                && self.grid.as_ref().is_none_or(|grid| stage.grids.contains(grid))
                && (!self.unused || stage.grids.is_empty())
        });
        Ok(stages)
    }
}

/// What can go, since when it is there and how large it is.
type Goes = (u64, SystemTime, PathBuf);

/// Of what can go, the oldest of it that must go for a store of so many `bytes` to be no larger than `limit`.
fn oldest(mut goes: Vec<Goes>, bytes: u64, limit: f64) -> Vec<Goes> {
    goes.sort_by_key(|(_, since, _)| *since);
    let mut left = bytes;
    goes.retain(|(size, ..)| {
        let over = left as f64 > limit;
        if over {
            left = left.saturating_sub(*size);
        }
        over
    });
    goes
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
    let store = Store::open_to_look(root(&args.which.filter.place)?)?;
    let mut stages = args.which.of(&store)?;
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
    // What would go with the grid, or goes now.
    let (whose, most) = if args.which.grid.is_some() { ("it alone", 1) } else { ("no grid", 0) };
    let unused: Vec<&Entry> = stages.iter().filter(|stage| stage.grids.len() <= most).collect();
    let total = |stages: &mut dyn Iterator<Item = u64>| size(stages.sum());
    println!(
        "{} stages, {}; of them {}, {}, for {whose}",
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

fn verify(which: &Which) -> Result<ExitCode> {
    let store = Store::open_to_look(root(&which.filter.place)?)?;
    let stages = which.of(&store)?;
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
        let (mut gone, mut count) = (0, 0);
        for path in &left.paths {
            println!("{:>10}  {:>7}  {}", "", "left", path.display());
        }
        let stages = store.inventory()?;
        let shelf = [store.quarantined()?, store.checkpoints()?].concat();
        let all = stages.iter().map(|stage| stage.bytes).chain(shelf.iter().map(|one| one.bytes)).sum();
        let unused = stages.into_iter().filter(|stage| stage.grids.is_empty() && fits(stage.bytes, stage.finished));
        let unused = unused.map(|stage| (stage.bytes, stage.finished, stage.folder));
        let shelf = shelf.into_iter().filter(|one| fits(one.bytes, one.since) && !left.paths.contains(&one.folder));
        let mut goes: Vec<Goes> = unused.chain(shelf.map(|one| (one.bytes, one.since, one.folder))).collect();
        if let Some(limit) = args.down_to {
            goes = oldest(goes, all, 1e6 * limit);
        }
        for (bytes, since, folder) in &goes {
            println!("{}", line(*bytes, *since, &folder.display().to_string()));
            gone += bytes;
            count += 1;
            if !args.dry_run {
                store.discard(folder)?;
            }
        }
        if !args.dry_run {
            left.remove()?;
        }
        let would = if args.dry_run { "would be removed" } else { "removed" };
        println!("{would}: {count} stages, {}; {} leftovers", size(gone), left.paths.len() + left.locks.len());
        if let Some(limit) = args.down_to.filter(|limit| (all - gone) as f64 > 1e6 * limit) {
            println!(
                "{} stay, more than {}: grids need them, or they are younger than {} days (`--older-than`)",
                size(all - gone),
                size((1e6 * limit) as u64),
                args.older_than
            );
        }
        Ok(())
    })?;
    if done.is_none() {
        return Err(Error::new("another process is at work in this store")
            .in_file(store.root())
            .help("wait until no run, plan or check is at work in this folder of results, and try again"));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_until_the_store_is_small_enough() {
        let day = |day: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(86400 * day);
        let goes = || vec![(30, day(3), "c".into()), (10, day(1), "a".into()), (20, day(2), "b".into())];
        let names = |limit| -> Vec<String> {
            let gone = oldest(goes(), 100, limit);
            gone.into_iter().map(|(_, _, folder)| folder.display().to_string()).collect()
        };
        assert!(names(100.0).is_empty());
        assert_eq!(names(95.0), ["a"]);
        assert_eq!(names(90.0), ["a"]);
        assert_eq!(names(89.0), ["a", "b"]);
        // What is left then is needed.
        assert_eq!(names(0.0), ["a", "b", "c"]);
    }
}
