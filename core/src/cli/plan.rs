//! `w2s plan` and `check`: what would be done, with how much memory.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;
use indexmap::IndexMap;

use super::{
    PlaceArgs,
    run::{PlanArgs, Prepared, count, headline, prepare, usual_workers},
    say,
};
use crate::{
    Error, Result,
    grid::{self, Bytes, Cell, Counting, Fitting, Grid, Need, Places, Plan, Refused, machine_memory},
    learner::{Manner, Memory},
    stage::{Finished, Job, Numeric, StageId},
    task::Sources,
};

/// What is planned, and how much memory there is for it.
#[derive(Args)]
pub struct FittedArgs {
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Memory that each stage may have, such as `80G` [default: this machine's, shared by the stages at a time; of a GPU it must be said]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
}

impl FittedArgs {
    /// Bytes for each of so many stages at a time on a device, if they are known.
    pub fn room(&self, device: &str, workers: usize) -> Option<u64> {
        let machine = || if device == "cpu" { machine_memory().map(|all| all / workers.max(1) as u64) } else { None };
        self.memory.map(|Bytes(bytes)| bytes).or_else(machine)
    }

    /// How examples at a time are chosen, if they are.
    ///
    /// # Errors
    /// Nobody says how much memory there is.
    pub fn fitting(&self, device: &str, workers: usize) -> Result<Option<Fitting>> {
        self.plan.fitting(self.room(device, workers))
    }
}

impl PlanArgs {
    /// How examples at a time are chosen for stages with so much memory, if they are.
    ///
    /// # Errors
    /// Nobody says how much memory there is.
    pub fn fitting(&self, room: Option<u64>) -> Result<Option<Fitting>> {
        if !self.numeric.is_auto() {
            return Ok(None);
        }
        let room = room.ok_or_else(|| {
            Error::new("nobody says how much memory there is for `--micro-batch auto`")
                .help("give what each stage may have, e.g. `--memory 80G`")
        })?;
        Ok(Some(Fitting { room, recompute: self.memory.recompute, refused: Refused::default() }))
    }
}

#[derive(Args)]
pub struct ShowArgs {
    #[command(flatten)]
    fitted: FittedArgs,
    /// Memory alone, by the models' config.json: neither weights nor data need be there, and texts count as long as they may be
    #[arg(long)]
    shapes: bool,
}

/// `w2s check`.
pub fn check(args: &FittedArgs) -> Result<ExitCode> {
    let (device, mode) = args.plan.numeric.choose()?;
    let fitting = args.fitting(&device, usual_workers(&device))?;
    let Prepared { plan, store, .. } = prepare(&args.plan.grid, mode, fitting, true)?;
    let finished = plan.finished(&store)?;
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    println!("{}", headline(&plan, &finished, &plan.pending(&finished, true)));
    println!("no mistake found");
    Ok(ExitCode::SUCCESS)
}

/// `w2s plan`.
pub fn plan(args: &ShowArgs) -> Result<ExitCode> {
    let (args, shapes) = (&args.fitted, args.shapes);
    let (device, mode) = args.plan.numeric.choose()?;
    let workers = usual_workers(&device);
    if shapes {
        return by_shapes(args, &mode, args.room(&device, workers), args.fitting(&device, workers)?.as_ref());
    }
    let Prepared { plan, store, .. } = prepare(&args.plan.grid, mode, args.fitting(&device, workers)?, true)?;
    let finished = plan.finished(&store)?;
    let sizes = Sizes { room: args.room(&device, workers), recompute: args.plan.memory.recompute };
    print_plan(&plan, &finished, &plan.pending(&finished, true), sizes)?;
    Ok(ExitCode::SUCCESS)
}

/// `w2s plan --shapes`.
fn by_shapes(args: &FittedArgs, mode: &Numeric, room: Option<u64>, fitting: Option<&Fitting>) -> Result<ExitCode> {
    let (document, library) = args.plan.grid.document()?;
    let grid = Grid::read(&document, &library)?;
    let PlaceArgs { data, models, .. } = &args.plan.grid.places;
    let places = Places { sources: Sources::from_env(data)?, models: super::model_folders(models)? };
    let recompute = args.plan.memory.recompute;
    let manner = Manner { recompute, precision: mode.precision() };
    let counting = Counting { micro_batch: mode.micro_batch(), fitting, manner };
    let sizes = Sizes { room, recompute };
    for Need { of: [task, model], what, micro_batch, memory } in grid::needs(&grid, &library, &places, counting)? {
        let at_a_time = micro_batch.map_or_else(String::new, |rows| format!("  {rows} at a time"));
        let [weights, activations] = [memory.weights, memory.activations].map(Bytes);
        let learning = Bytes(memory.gradients + memory.moments);
        println!(
            "{task}  {model}  {}  {}{at_a_time}  {}: weights {weights}, gradients and moments {learning}, activations {activations}",
            what.join(", "),
            parameters(&memory),
            sizes.said(memory.peak),
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// What is said of a model's size.
fn parameters(memory: &Memory) -> String {
    let trained = match memory.trained {
        0 => String::new(),
        all if all == memory.parameters => ", all trained".to_owned(),
        some => format!(", {} trained", many(some)),
    };
    format!("{} parameters{trained}", many(memory.parameters))
}

/// How the memory of a plan's stages is counted.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Bytes for each stage, if they are known.
    pub room: Option<u64>,
    /// Whether the blocks of models are computed again on the way back.
    pub recompute: bool,
}

impl Sizes {
    /// What is said of a peak: it, and whether it fits.
    fn said(self, peak: u64) -> String {
        let fits = self.room.map(|room| {
            let fits = Fitting { room, recompute: self.recompute, refused: Refused::default() }.fits(peak);
            format!("{} {}", if fits { ", fits" } else { ", with the process MORE THAN" }, Bytes(room))
        });
        format!("peak {}{}", Bytes(peak), fits.unwrap_or_default())
    }
}

/// Prints the stages of a plan: what is done and to do, how large the models are, how much memory each needs, and how long one like it took.
pub fn print_plan(
    plan: &Plan,
    finished: &IndexMap<StageId, Finished>,
    pending: &IndexMap<StageId, &Job>,
    sizes: Sizes,
) -> Result<()> {
    plan.notes.iter().for_each(|note| say!("note: {note}"));
    println!("{}", headline(plan, finished, pending));
    let mut uses: BTreeMap<&StageId, usize> = BTreeMap::new();
    plan.cells.iter().flat_map(Cell::stages).for_each(|id| *uses.entry(id).or_default() += 1);
    let seconds = plan.seconds(finished)?;
    let concerned = |id: &StageId| finished.contains_key(id) || pending.contains_key(id);
    for ((id, label), job) in plan.labels().iter().zip(plan.jobs.values()).filter(|((id, _), _)| concerned(id)) {
        let state = if pending.contains_key(id) { "to do" } else { "done " };
        let mut told = Vec::new();
        told.extend(uses.get(id).filter(|uses| **uses > 1).map(|uses| format!("for {uses} cells")));
        if let Some(memory) = plan.memory(job, sizes.recompute)? {
            told.push(parameters(&memory));
            told.extend(
                job.micro_batch.filter(|rows| *rows < job.stage.batch()).map(|rows| format!("{rows} at a time")),
            );
            told.push(sizes.said(memory.peak));
        }
        // Nobody knows how long a stage takes that is like none that is finished.
        told.extend(seconds.get(id).map(|seconds| match pending.contains_key(id) {
            true => format!("about {}", lasting(*seconds)),
            false => format!("took {}", lasting(*seconds)),
        }));
        println!("  {state}  {label}{}", told.iter().map(|told| format!("  {told}")).collect::<String>());
    }
    Ok(())
}

/// A number of parameters for people.
pub fn many(count: u64) -> String {
    match count as f64 {
        n if n < 1e4 => count.to_string(),
        n if n < 1e6 => format!("{:.0}k", n / 1e3),
        n if n < 1e8 => format!("{:.1}M", n / 1e6),
        n if n < 1e9 => format!("{:.0}M", n / 1e6),
        n => format!("{:.1}B", n / 1e9),
    }
}

/// A length of time for people.
fn lasting(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Says how many examples at a time stages are given.
pub fn say_sizes(plan: &Plan, fitting: &Fitting) {
    let mut sizes: BTreeMap<Option<usize>, usize> = BTreeMap::new();
    for job in plan.jobs.values() {
        *sizes.entry(job.micro_batch.filter(|rows| *rows < job.stage.batch())).or_default() += 1;
    }
    let of = |(rows, stages): (&Option<usize>, &usize)| match rows {
        None => format!("{} with whole batches", count(*stages, "stage")),
        Some(rows) => format!("{} with {rows} at a time", count(*stages, "stage")),
    };
    let sizes = sizes.iter().map(of).collect::<Vec<_>>().join(", ");
    say!("examples at a time, for {} each: {sizes}", Bytes(fitting.room));
    if !fitting.refused.is_empty() {
        let (many, path) = (count(fitting.refused.len(), "stage"), fitting.refused.path().display().to_string());
        say!(
            "note: {many} ran out of memory before and have fewer: {path}; remove it to try again with what should fit"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_for_people() {
        let said: Vec<String> = [17, 31_500, 4_200_000, 124_439_808, 14_167_290_880].map(many).into();
        assert_eq!(said, ["17", "32k", "4.2M", "124M", "14.2B"]);
        assert_eq!([3.4, 600.0, 9000.0].map(lasting), ["3 s", "10 min", "2.5 h"]);
        let sizes = |gigabytes: u64| Sizes { room: Some(gigabytes << 30), recompute: false };
        assert_eq!(sizes(80).said(60 << 30), "peak 60.0 GB, fits 80.0 GB");
        assert_eq!(sizes(64).said(60 << 30), "peak 60.0 GB, with the process MORE THAN 64.0 GB");
    }
}
