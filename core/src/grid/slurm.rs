//! A grid for a scheduler: its stages in waves, a manifest of them that any machine which sees the folder of results can work off, and the scripts
//! and commands of Slurm.
//!
//! A stage of the manifest is done by a process of its own, `w2s work MANIFEST --index N`, as a run would do it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use indexmap::IndexMap;
use minijinja::context;
use serde::{Deserialize, Serialize};

use super::run::{Devices, RunOptions};
use crate::{
    Error, Result,
    error::IoContext,
    learner::Every,
    model::Precision,
    stage::{Folders, Job, Stage, StageId, any_path, write_atomically},
};

/// The script that comes with w2s: a template with the names of [`Resources`], `name`, `tasks` (absent where the script is one job), `logs` and
/// `command`.
pub const TEMPLATE: &str = include_str!("slurm.sbatch");
/// How many tasks an array may have where Slurm does not say.
const USUAL_ARRAY: usize = 1001;
const JOBS: &str = "jobs.json";

/// Stages that can be done at the same time, by their place among the jobs: each needs only those of waves before its own, or what is done
/// already. Within a wave they stand in the order of the plan.
pub fn waves(jobs: &IndexMap<StageId, &Job>) -> Vec<Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut wave_of = Vec::with_capacity(jobs.len());
    for (place, job) in jobs.values().enumerate() {
        // Inputs stand before what needs them.
        let inputs = job.reads.iter().filter_map(|input| jobs.get_index_of(input)).filter(|input| *input < place);
        let wave = inputs.map(|input| wave_of[input] + 1).max().unwrap_or(0);
        wave_of.push(wave);
        if waves.len() <= wave {
            waves.push(Vec::new());
        }
        waves[wave].push(place);
    }
    waves
}

/// What all stages of a manifest have in common; its first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The grid's folder of results, where logs and failures go.
    #[serde(with = "any_path")]
    pub results: PathBuf,
    /// Folder of the store.
    #[serde(with = "any_path")]
    pub store: PathBuf,
    /// Where stages run: `cpu`, or as `cuda:0` the first of the GPUs that the scheduler gives them.
    pub device: String,
    /// Whether the blocks of a model are computed again on the way back.
    #[serde(default)]
    pub recompute: bool,
    /// In which numbers the matrices of models are.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// Where models are that no stage makes.
    pub folders: Folders,
    /// How often a training that is under way is saved.
    pub checkpoint_every: Every,
}

impl Head {
    /// How one of its stages is run, with so many threads.
    pub fn options(&self, threads: usize) -> RunOptions {
        RunOptions {
            devices: Devices::one(&self.device, 1),
            threads,
            recompute: self.recompute,
            precision: self.precision,
            folders: self.folders.clone(),
            max_fails: 1,
            fail_fast: false,
            // The scheduler has a limit of its own.
            patience: None,
            timeout: None,
            checkpoint_every: self.checkpoint_every,
        }
    }
}

/// One stage of a manifest; a line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task<S = Box<dyn Stage>> {
    /// Its identity.
    pub id: StageId,
    /// What it is, for people.
    pub what: String,
    /// The stage.
    pub stage: S,
    /// Examples per forward pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
}

/// Writes a manifest: the stages wave by wave.
///
/// # Errors
/// A file that cannot be written.
pub fn write_manifest(
    path: &Path,
    head: &Head,
    jobs: &IndexMap<StageId, &Job>,
    waves: &[Vec<usize>],
    labels: &IndexMap<StageId, String>,
) -> Result<()> {
    let line = |value: serde_json::Result<String>| value.map_err(|error| Error::new(error.to_string()).in_file(path));
    let mut lines = vec![line(serde_json::to_string(head))?];
    for (id, job) in waves.iter().flatten().filter_map(|place| jobs.get_index(*place)) {
        let what = labels.get(id).cloned().unwrap_or_else(|| job.stage.title());
        lines.push(line(serde_json::to_string(&Task {
            id: id.clone(),
            what,
            stage: &job.stage,
            micro_batch: job.micro_batch,
        }))?);
    }
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
        file.into_inner()?.sync_all()
    };
    write().path("write the manifest", path)
}

/// The head of a manifest and its stage number `index`, from 0.
///
/// # Errors
/// A file that cannot be read or is no manifest, and a number that it does not have.
pub fn read_manifest(path: &Path, index: usize) -> Result<(Head, Task)> {
    let damaged = |cause: &dyn std::fmt::Display| {
        Error::new(format!("not a manifest: {cause}")).in_file(path).help("`w2s submit` writes another")
    };
    let mut lines = BufReader::new(File::open(path).path("open the manifest", path)?).lines();
    let mut next = |skip: usize| lines.nth(skip).transpose().path("read the manifest", path);
    let head = next(0)?.ok_or_else(|| damaged(&"it is empty"))?;
    let head = serde_json::from_str(&head).map_err(|cause| damaged(&cause))?;
    let Some(line) = next(index)? else {
        return Err(Error::new(format!("it has no stage {index}")).in_file(path).help("stages are counted from 0"));
    };
    Ok((head, serde_json::from_str(&line).map_err(|cause| damaged(&cause))?))
}

/// What each job asks for.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Slurm's partition; its default when absent.
    pub partition: Option<String>,
    /// GPUs of a stage.
    pub gpus: usize,
    /// Cores of a stage.
    pub cpus: usize,
    /// Memory of a stage, as Slurm writes it.
    pub memory: String,
    /// Time of a stage, as Slurm writes it. A training that needs more is continued.
    pub time: String,
    /// Stages at a time.
    pub throttle: usize,
    /// How often a stage whose time was not enough is started again.
    pub attempts: usize,
    /// Further options of `sbatch`.
    pub options: Vec<String>,
}

/// One script that is to be submitted, after the one before it.
#[derive(Clone, Debug)]
pub struct Script {
    /// Where it stands.
    pub path: PathBuf,
    /// How many stages it does; none for the one that collects results.
    pub stages: usize,
}

/// Where a submission's files are.
#[derive(Debug)]
pub struct Submission {
    folder: PathBuf,
}

impl Submission {
    /// Makes the next folder of a grid's submissions, with a copy of this program: what is submitted does not change when w2s is built again.
    ///
    /// # Errors
    /// A folder that cannot be made, a program that cannot be copied.
    pub fn new(results: &Path) -> Result<Self> {
        let all = results.join("submit");
        fs::create_dir_all(&all).path("create the folder of submissions", &all)?;
        let mut number = 1;
        // Another submission may be made at the same time.
        let folder = loop {
            let folder = all.join(number.to_string());
            match fs::create_dir(&folder) {
                Ok(()) => break folder,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).path("create the folder of a submission", &folder),
            }
        };
        let this = std::env::current_exe().path("find this program", "w2s")?;
        let submission = Self { folder };
        fs::copy(&this, submission.program()).path("copy this program", &this)?;
        Ok(submission)
    }

    /// The copy of the program.
    pub fn program(&self) -> PathBuf {
        self.folder.join("w2s")
    }

    /// The manifest.
    pub fn manifest(&self) -> PathBuf {
        self.folder.join("manifest.jsonl")
    }

    /// The command that does stage `index` (a number, or an expression of the shell).
    pub fn work(&self, index: &str) -> String {
        format!("{} work {} --index {index}", quoted(&self.program()), quoted(&self.manifest()))
    }

    /// Writes the scripts: arrays of at most `most` stages of one wave, and `collect` at the end, a command that writes the results.
    ///
    /// # Errors
    /// A template that cannot be rendered, a file that cannot be written.
    pub fn scripts(
        &self,
        template: &str,
        name: &str,
        resources: &Resources,
        waves: &[Vec<usize>],
        collect: &str,
        most: usize,
    ) -> Result<Vec<Script>> {
        let logs = self.folder.join("logs");
        fs::create_dir_all(&logs).path("create the folder of logs", &logs)?;
        let mut scripts = Vec::new();
        let mut write = |file: String, tasks: Option<usize>, command: String| -> Result<()> {
            let Resources { partition, gpus, cpus, memory, time, throttle, options, .. } = resources;
            let log = logs.join(if tasks.is_some() { "%A_%a.log" } else { "%j.log" });
            let values = context! {
                name, tasks, command, partition, cpus, memory, time, throttle, options,
                logs => log.to_string_lossy(),
                // Results are collected without one.
                gpus => if tasks.is_some() { *gpus } else { 0 },
            };
            let mut environment = minijinja::Environment::new();
            environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
            let text = environment.render_str(template, values).map_err(|cause| {
                Error::new(format!("the template of the script: {cause}")).help("see docs/slurm.md for its names")
            })?;
            let path = self.folder.join(file);
            fs::write(&path, text + "\n").path("write a script", &path)?;
            scripts.push(Script { path, stages: tasks.unwrap_or(0) });
            Ok(())
        };
        let mut first = 0;
        for (wave, stages) in waves.iter().enumerate() {
            for (part, chunk) in stages.chunks(most.max(1)).enumerate() {
                let part = if stages.len() > most { format!("-{}", part + 1) } else { String::new() };
                let work = self.work(&format!("$((SLURM_ARRAY_TASK_ID + {first}))"));
                let command = format!("{work} --attempt ${{SLURM_RESTART_COUNT:-0}} --attempts {}", resources.attempts);
                write(format!("wave-{}{part}.sbatch", wave + 1), Some(chunk.len()), command)?;
                first += chunk.len();
            }
        }
        write("collect.sbatch".to_owned(), None, collect.to_owned())?;
        Ok(scripts)
    }

    /// Gives the scripts to Slurm, each after the one before it, whatever became of that: what its stages need is looked for when they start.
    ///
    /// # Errors
    /// Slurm is not there, or refuses; what was submitted before is recorded, and can be cancelled.
    pub fn submit(&self, scripts: &[Script]) -> Result<Vec<String>> {
        let mut jobs: Vec<String> = Vec::new();
        for script in scripts {
            let mut command = Command::new("sbatch");
            command.arg("--parsable");
            if let Some(before) = jobs.last() {
                command.arg(format!("--dependency=afterany:{before}"));
            }
            let answer = ask(command.arg(&script.path))?;
            // With several clusters: `id;cluster`.
            jobs.push(answer.split(';').next().unwrap_or_default().trim().to_owned());
            let text = serde_json::to_string(&jobs).map_err(|error| Error::new(error.to_string()))?;
            write_atomically(&self.folder.join(JOBS), text.as_bytes())?;
        }
        Ok(jobs)
    }
}

/// The jobs of all submissions of a grid, from its folder of results, in the order in which they were submitted.
///
/// # Errors
/// A record that cannot be read.
pub fn jobs_of(results: &Path) -> Result<Vec<String>> {
    let all = results.join("submit");
    let entries = fs::read_dir(&all).into_iter().flatten().flatten();
    let mut records: BTreeMap<usize, PathBuf> = BTreeMap::new();
    for entry in entries {
        if let Ok(number) = entry.file_name().to_string_lossy().parse() {
            records.insert(number, entry.path().join(JOBS));
        }
    }
    let mut jobs = Vec::new();
    for record in records.into_values().filter(|record| record.exists()) {
        let text = fs::read(&record).path("read the jobs of a submission", &record)?;
        let read: Vec<String> =
            serde_json::from_slice(&text).map_err(|cause| Error::new(cause.to_string()).in_file(&record))?;
        jobs.extend(read);
    }
    Ok(jobs)
}

/// Those of `jobs` that Slurm still has.
///
/// # Errors
/// Slurm is not there.
pub fn alive(jobs: &[String]) -> Result<BTreeSet<String>> {
    // An unknown job among others is no error of `squeue`, an unknown job alone is.
    let all = ask(Command::new("squeue").args(["--noheader", "--me", "--format=%F"]))?;
    let all: BTreeSet<&str> = all.split_whitespace().collect();
    Ok(jobs.iter().filter(|job| all.contains(job.as_str())).cloned().collect())
}

/// Tasks of one job of which Slurm says the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Queued {
    /// The job.
    pub job: String,
    /// Its state, in Slurm's words: `pending`, `running`, `timeout`, `out_of_memory` …
    pub state: String,
    /// Why it does not run, in Slurm's words: `Resources`, `Priority`, `Dependency`, `JobArrayTaskLimit` (the throttle) …
    pub reason: Option<String>,
    /// How many tasks.
    pub tasks: usize,
}

/// What Slurm says of jobs: of those that it has from `squeue`, of those that ended otherwise than well from `sacct`, where there is accounting.
///
/// # Errors
/// Slurm is not there, or does not answer.
pub fn queued(jobs: &[String]) -> Result<Vec<Queued>> {
    let now = ask(Command::new("squeue").args(["--noheader", "--me", "--array", "--format=%F|%T|%r"]))?;
    let mut accounts = Command::new("sacct");
    accounts.args(["--noheader", "--parsable2", "--allocations", "--format=JobID,State", "--jobs"]).arg(jobs.join(","));
    // Many clusters keep no accounts.
    let then = ask(&mut accounts).unwrap_or_default();
    Ok(counted(jobs, &now, &then))
}

/// Lines of `squeue` and `sacct`, counted.
fn counted(jobs: &[String], now: &str, then: &str) -> Vec<Queued> {
    /// States of which `squeue` knows better, or that need no word.
    const KNOWN: [&str; 4] = ["COMPLETED", "PENDING", "RUNNING", "REQUEUED"];
    let mut counts: IndexMap<(usize, String, Option<String>), usize> = IndexMap::new();
    let mut count = |job: &str, state: &str, reason: Option<&str>| {
        if let Some(place) = jobs.iter().position(|one| one == job) {
            *counts.entry((place, state.to_lowercase(), reason.map(str::to_owned))).or_default() += 1;
        }
    };
    for line in now.lines() {
        if let [job, state, reason] = line.trim().splitn(3, '|').collect::<Vec<_>>()[..] {
            count(job, state, Some(reason).filter(|reason| *reason != "None"));
        }
    }
    for line in then.lines() {
        let Some((id, state)) = line.trim().split_once('|') else { continue };
        // `CANCELLED by 1000`
        let state = state.split(' ').next().unwrap_or_default();
        if !KNOWN.contains(&state) {
            count(id.split('_').next().unwrap_or_default(), state, None);
        }
    }
    counts.sort_by(|one, _, other, _| one.0.cmp(&other.0));
    let queued = |((place, state, reason), tasks): ((usize, String, Option<String>), usize)| Queued {
        job: jobs[place].clone(),
        state,
        reason,
        tasks,
    };
    counts.into_iter().map(queued).collect()
}

/// Cancels jobs.
///
/// # Errors
/// Slurm is not there, or refuses.
pub fn cancel(jobs: &BTreeSet<String>) -> Result<()> {
    if jobs.is_empty() { Ok(()) } else { ask(Command::new("scancel").args(jobs)).map(drop) }
}

/// How many tasks an array may have.
pub fn largest_array() -> usize {
    let config = ask(Command::new("scontrol").args(["show", "config"])).unwrap_or_default();
    let line = config.lines().find_map(|line| line.strip_prefix("MaxArraySize"));
    let size = line.and_then(|line| line.trim_start_matches([' ', '=']).trim().parse().ok());
    size.filter(|size| *size > 0).unwrap_or(USUAL_ARRAY)
}

/// What a command of Slurm answers.
fn ask(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|cause| {
        let help = "run this where Slurm's commands are, or see `--print` for other schedulers";
        Error::new(format!("`{name}` cannot be started: {cause}")).help(help)
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(
            Error::new(format!("`{name}` refused: {said}")).help("its options are in the scripts of the submission")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A path as a word of the shell.
pub fn quoted(path: &Path) -> String {
    word(&path.to_string_lossy())
}

/// A text as a word of the shell.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Resources {
        Resources {
            partition: Some("a100".into()),
            gpus: 1,
            cpus: 4,
            memory: "8G".into(),
            time: "1:00:00".into(),
            throttle: 3,
            attempts: 2,
            options: vec!["--account=mine".into()],
        }
    }

    #[test]
    fn large_waves_are_cut_into_arrays_that_slurm_takes() {
        let results = tempfile::tempdir().unwrap();
        let submission = Submission::new(results.path()).unwrap();
        let waves = [(0..5).collect(), vec![5, 6]];
        let scripts = submission.scripts(TEMPLATE, "w2s-x", &resources(), &waves, "collect it", 2).unwrap();
        let names: Vec<_> = scripts.iter().map(|script| script.path.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["wave-1-1", "wave-1-2", "wave-1-3", "wave-2", "collect"]);
        assert_eq!(scripts.iter().map(|script| script.stages).collect::<Vec<_>>(), [2, 2, 1, 2, 0]);
        let text = |place: usize| fs::read_to_string(&scripts[place].path).unwrap();
        assert!(text(0).contains("#SBATCH --array=0-1%3\n") && text(2).contains("#SBATCH --array=0-0%3\n"));
        // Every stage of the manifest is somebody's.
        for (place, first) in [(0, 0), (1, 2), (2, 4), (3, 5)] {
            assert!(text(place).contains(&format!("--index $((SLURM_ARRAY_TASK_ID + {first})) --attempt")), "{place}");
            assert!(text(place).contains("#SBATCH --gres=gpu:1\n#SBATCH --cpus-per-task=4\n#SBATCH --mem=8G\n"));
            assert!(text(place).contains("#SBATCH --account=mine\n") && text(place).contains("--attempts 2 &\n"));
        }
        assert!(text(4).contains("\ncollect it &\n") && !text(4).contains("gpu") && !text(4).contains("--array"));
        // Another one lies beside it.
        assert!(Submission::new(results.path()).unwrap().program().ends_with("submit/2/w2s"));
    }

    #[test]
    fn what_slurm_says_of_a_job_is_counted() {
        let jobs = ["7", "9"].map(str::to_owned);
        let now = "9|PENDING|Dependency\n7|RUNNING|None\n7|PENDING|JobArrayTaskLimit\n7|PENDING|JobArrayTaskLimit\n8|RUNNING|None";
        let then = "7_1|COMPLETED\n7_2|OUT_OF_MEMORY\n7_3|CANCELLED by 1000\n7_4|RUNNING\n70|FAILED";
        let said: Vec<_> = counted(&jobs, now, then)
            .into_iter()
            .map(|Queued { job, state, reason, tasks }| (job, state, reason.unwrap_or_default(), tasks))
            .collect();
        let expected = [
            ("7", "running", "", 1),
            ("7", "pending", "JobArrayTaskLimit", 2),
            ("7", "out_of_memory", "", 1),
            ("7", "cancelled", "", 1),
            ("9", "pending", "Dependency", 1),
        ];
        assert_eq!(said, expected.map(|(job, state, reason, n)| (job.into(), state.into(), reason.into(), n)));
        assert_eq!(counted(&jobs, "", ""), []);
    }

    #[test]
    fn words_of_the_shell_are_one_word() {
        for text in ["plain/path-1.toml", "with space", "it's", "$HOME `x` \"y\"", "", "a;b"] {
            let output = Command::new("sh").args(["-c", &format!("printf %s {}", word(text))]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        }
    }
}
