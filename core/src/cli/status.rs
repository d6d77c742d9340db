//! `w2s status`: how far grids are, from what lies in their folders of results.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::{Value, json};

use super::table::{print, results_of};
use crate::{
    Error, Result,
    grid::{
        Post, Recorded, Standing, State,
        slurm::{self, Queued},
    },
    stage::{GRID, STORE, Store, grids_in},
};

#[derive(Args)]
pub struct StatusArgs {
    /// A grid: its file, its name, or its folder of results; or a folder of several. All of `--results` if absent
    grid: Option<PathBuf>,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Print JSON, with the state of every cell
    #[arg(long)]
    json: bool,
}

/// The grids in a folder of results, without what earlier runs left there.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn grids(results: &Path) -> Result<Vec<Recorded>> {
    let is_earlier = |name: &str| name.split('/').any(|part| part == "earlier");
    let found = grids_in(results)?.into_iter().filter(|(name, _)| !is_earlier(name));
    let grids: Vec<Recorded> = found.map(|(name, folder)| Recorded::read(&name, &folder)).collect::<Result<_>>()?;
    if grids.is_empty() {
        return Err(Error::new("there is no grid with results")
            .in_file(results)
            .help("run `w2s run CONFIG` first, or give another folder with `--results DIR`"));
    }
    Ok(grids)
}

/// The store in a folder of results, to look into; where there is none, an empty one.
///
/// # Errors
/// A store that cannot be read.
pub fn store(results: &Path) -> Result<Store> {
    let root = results.join(STORE);
    match root.is_dir() {
        true => Store::open_to_look(root),
        false => Err(Error::new("there is no store of stages")
            .in_file(root)
            .help("give the folder of results, `--results DIR`; without its `stages/` nobody knows what is done")),
    }
}

/// The folder of all results that the folder of a grid is in.
fn results_above(folder: &Path) -> Option<PathBuf> {
    let folder = std::path::absolute(folder).ok()?;
    folder.ancestors().find(|above| above.join(STORE).is_dir()).map(Path::to_owned)
}

/// The grids that are meant, and the folder of results that they are in.
fn meant(args: &StatusArgs) -> Result<(Vec<Recorded>, PathBuf)> {
    let StatusArgs { grid, results, .. } = args;
    let Some(given) = grid else { return Ok((grids(results)?, results.clone())) };
    if given.is_dir() {
        let above = results_above(given).unwrap_or_else(|| given.clone());
        let name = given.file_name().unwrap_or_default().to_string_lossy();
        let grids = match given.join(GRID).is_file() {
            true => vec![Recorded::read(&name, given)?],
            false => grids(given)?,
        };
        return Ok((grids, above));
    }
    let folder = match results.join(given).join(GRID).is_file() {
        true => results.join(given),
        // A run that has only begun has its results all the same, though none in them.
        false => results_of(given, results)?.parent().map(Path::to_owned).unwrap_or_default(),
    };
    let name = folder.strip_prefix(results).unwrap_or(&folder).to_string_lossy().into_owned();
    Ok((vec![Recorded::read(&name, &folder)?], results.clone()))
}

/// `w2s status`.
pub fn status(args: &StatusArgs) -> Result<ExitCode> {
    let (grids, results) = meant(args)?;
    let store = store(&results)?;
    let mut told = Vec::new();
    for grid in &grids {
        let standing = grid.standing(&store)?;
        let waits = standing.cells.iter().any(|state| *state != State::Done);
        let jobs = if waits { slurm::jobs_of(&grid.folder)? } else { vec![] };
        let queued = || if jobs.is_empty() { Ok(vec![]) } else { slurm::queued(&jobs) };
        if args.json {
            let mut grid = as_json(grid, &standing)?;
            if !jobs.is_empty() {
                // Null where Slurm cannot be asked.
                grid["slurm"] = queued().map_or(Value::Null, |queued| json!(queued));
            }
            told.push(grid);
        } else {
            // What our own files say comes first: Slurm may take its time.
            print(&as_text(grid, &standing)?)?;
            let said =
                queued().map_or_else(|error| vec![format!("  slurm    {}", error.message())], |all| in_lines(&all));
            said.iter().try_for_each(|line| print(line))?;
        }
    }
    if args.json {
        print(&format!("{:#}", json!(told)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How many are in a state.
fn count<'a>(states: impl IntoIterator<Item = &'a State>, state: State) -> usize {
    states.into_iter().filter(|one| **one == state).count()
}

const STATES: [(State, &str); 4] =
    [(State::Done, "done"), (State::Running, "running"), (State::Failed, "failed"), (State::Waiting, "waiting")];

/// How far a stage is, for people.
pub fn post_text(post: Option<&Post>) -> String {
    let Some(post) = post else { return "starts".to_owned() };
    let mut parts = vec![format!("{} of {}", post.progress.done, post.progress.total)];
    parts.extend(Some(post.progress.message.clone()).filter(|message| !message.is_empty()));
    parts.extend(post.left().map(|left| format!("{:#} left", indicatif::HumanDuration(left))));
    parts.join("  ")
}

fn as_text(grid: &Recorded, standing: &Standing) -> Result<String> {
    /// Stages that wait and are named.
    const SHOWN: usize = 8;
    let of = |states: &[State]| {
        let parts = STATES.map(|(state, name)| (count(states, state), name));
        let parts = parts.iter().filter(|(number, name)| *number > 0 || *name == "done");
        parts.map(|(number, name)| format!("{number} {name}")).collect::<Vec<_>>().join(", ")
    };
    let stages: Vec<State> = standing.stages.values().copied().collect();
    let (is_run, cells) = (grid.is_run()?, grid.cells.len());
    let work = if is_run { "a run is at work" } else { "no run is at work" };
    let mut text = format!(
        "{}: {cells} cells: {}; {} stages: {}; {work}\n",
        grid.name,
        of(&standing.cells),
        stages.len(),
        of(&stages),
    );
    let in_state = |state: State| grid.stages.iter().filter(move |one| standing.stages.get(&one.id) == Some(&state));
    for stage in in_state(State::Running) {
        let post = standing.posts.get(&stage.id).and_then(Option::as_ref);
        text += &format!("  running  {}  {}\n", stage.what, post_text(post));
    }
    for failure in &standing.failures {
        let message = failure.message.lines().next().unwrap_or_default();
        let times = if failure.attempts > 1 { format!(", {} times", failure.attempts) } else { String::new() };
        text += &format!("  failed   {}  {}{times}: {message}\n", failure.what, failure.kind);
    }
    // Results that came without their stages, such as those of the repository, wait for nothing.
    if !is_run && count(&stages, State::Waiting) == stages.len() {
        return Ok(text + "  none of its stages is in this store\n");
    }
    let waiting: Vec<&str> = in_state(State::Waiting).map(|stage| stage.what.as_str()).collect();
    for what in waiting.iter().take(SHOWN) {
        text += &format!("  waiting  {what}\n");
    }
    if waiting.len() > SHOWN {
        text += &format!("  waiting  {} more\n", waiting.len() - SHOWN);
    }
    Ok(text)
}

/// What Slurm says, a line for each job.
fn in_lines(queued: &[Queued]) -> Vec<String> {
    let of_job = |tasks: &[Queued]| {
        let job = tasks.first().map(|one| one.job.clone()).unwrap_or_default();
        let counts = tasks.iter().map(|Queued { state, reason, tasks, .. }| match reason {
            Some(reason) => format!("{tasks} {state} ({reason})"),
            None => format!("{tasks} {state}"),
        });
        format!("  slurm    job {job}: {}", counts.collect::<Vec<_>>().join(", "))
    };
    queued.chunk_by(|one, other| one.job == other.job).map(of_job).collect()
}

fn as_json(grid: &Recorded, standing: &Standing) -> Result<Value> {
    let counts = |states: &[State]| -> Value {
        STATES.into_iter().map(|(state, name)| (name.to_owned(), Value::from(count(states, state)))).collect()
    };
    let running = |(id, post): (&crate::stage::StageId, &Option<Post>)| {
        let what = grid.stages.iter().find(|stage| stage.id == *id).map(|stage| &stage.what);
        let left = post.as_ref().and_then(Post::left).map(|left| left.as_secs_f64());
        let mut told = json!({ "stage": id, "what": what, "left": left });
        let post = serde_json::to_value(post).unwrap_or_default();
        for key in ["process", "done", "total", "message", "at"] {
            told[key] = post[key].clone();
        }
        told
    };
    let stages: Vec<State> = standing.stages.values().copied().collect();
    let cells = grid.cells.iter().zip(&standing.cells).map(|(cell, state)| {
        json!({
            "cell": cell.cell, "task": cell.task, "weak": cell.weak, "strong": cell.strong, "method": cell.method,
            "seed": cell.seed, "state": state,
        })
    });
    Ok(json!({
        "grid": grid.name,
        "folder": grid.folder.to_string_lossy(),
        "at_work": grid.is_run()?,
        "cells": counts(&standing.cells),
        "stages": counts(&stages),
        "running": standing.posts.iter().map(running).collect::<Vec<_>>(),
        "failed": standing.failures,
        "states": cells.collect::<Vec<_>>(),
    }))
}
