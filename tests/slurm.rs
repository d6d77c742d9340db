//! Grids on a real Slurm. `tests/tools/slurm-one-node.sh up` starts one; where none starts a job, these tests say so and look at nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::support::{says_what_to_do, text, w2s};

const TINY: &str = "tests/fixtures/tiny/grid.toml";
/// Trainings of seconds, in six stages.
const LONG: [&str; 3] = ["seeds=0", "methods=finetune", "train.epochs=1500"];

/// What a command of Slurm prints.
fn slurm(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output));
    text(&output)
}

/// The node for one test at a time, if there is one.
#[expect(clippy::print_stderr, reason = "who reads the tests' output is to know that these looked at nothing")]
fn node() -> Option<MutexGuard<'static, ()>> {
    static NODE: Mutex<()> = Mutex::new(());
    let node = NODE.lock().unwrap_or_else(|broken| broken.into_inner());
    // One that answers and starts nothing is none.
    let mut trial = Command::new("timeout");
    trial.args(["30", "srun", "--partition=low", "--mem=50", "--time=1", "true"]);
    let why = match trial.output() {
        Ok(output) if output.status.success() => return Some(node),
        Ok(output) => text(&output),
        Err(error) => error.to_string(),
    };
    eprintln!("skipped: no Slurm starts a job (srun: {}); tests/tools/slurm-one-node.sh up starts one", why.trim());
    None
}

fn submit(results: &Path, more: &[&str]) -> String {
    let mut command = w2s();
    command.args(["submit", TINY, "--device", "cpu", "--memory", "300M", "--partition", "low"]).args(more);
    let output = command.arg("--results").arg(results).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// The results of the same grid without a cluster.
fn alone(more: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = w2s().args(["run", TINY, "--device", "cpu"]).args(more).arg("--results").arg(folder.path()).output();
    assert!(output.as_ref().unwrap().status.success(), "{}", text(&output.unwrap()));
    rows(folder.path())
}

fn rows(results: &Path) -> String {
    fs::read_to_string(results.join("tiny/results.csv")).unwrap()
}

fn logs(results: &Path, number: usize) -> String {
    let folder = results.join("tiny/submit").join(number.to_string()).join("logs");
    let logs = fs::read_dir(folder).into_iter().flatten().flatten();
    logs.map(|log| fs::read_to_string(log.path()).unwrap()).collect()
}

/// Looks every half second until `there` says that it is.
fn until(what: &str, mut there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(started.elapsed() < Duration::from_secs(300), "{what} did not come: {}", slurm("squeue"));
        sleep(Duration::from_millis(500));
    }
}

/// Waits for the end of all jobs; those that were started again need not wait their two minutes.
fn until_all_is_done() {
    until("the end", || {
        let queue = slurm("squeue -h -o %i|%T|%r");
        for line in queue.lines().filter(|line| line.ends_with("|BeginTime")) {
            let job = line.split('|').next().unwrap();
            slurm(&format!("scontrol update JobId={job} StartTime=now"));
        }
        queue.trim().is_empty()
    });
}

/// The one job of a wave that trains and is saved already.
fn until_a_training_is_saved(results: &Path) -> String {
    let mut running = String::new();
    until("a checkpoint", || {
        let entries = fs::read_dir(results.join("stages")).into_iter().flatten().flatten();
        let saved = |name: &str| name.starts_with(".checkpoints-") || name.starts_with("checkpoints-");
        let saved = entries.filter(|entry| saved(&entry.file_name().to_string_lossy()));
        running = slurm("squeue -h -t RUNNING -o %F_%K").lines().next().unwrap_or_default().to_owned();
        !running.is_empty() && saved.count() > 0
    });
    running
}

#[test]
fn a_submitted_grid_ends_with_the_same_bytes() {
    let Some(_node) = node() else { return };
    let results = tempfile::tempdir().unwrap();
    let template = results.path().join("mine.sbatch");
    let own = include_str!("../core/src/grid/slurm.sbatch").replacen(
        "# Slurm",
        "echo \"gpu $CUDA_VISIBLE_DEVICES\"\n# Slurm",
        1,
    );
    fs::write(&template, own).unwrap();
    let template = template.to_string_lossy().into_owned();
    // Long enough to be seen.
    let epochs = "train.epochs=200";
    let said =
        submit(results.path(), &[epochs, "--gpus", "1", "--cpus", "1", "--throttle", "2", "--template", &template]);
    let (mut most, mut waits, mut told) = (0, false, String::new());
    until("the end", || {
        let output = w2s().args(["status", "tiny", "--results"]).arg(results.path()).output().unwrap();
        told += &text(&output);
        let queue = slurm("squeue -h -o %T");
        most = most.max(queue.lines().filter(|state| *state == "RUNNING").count());
        waits |= queue.contains("PENDING");
        queue.trim().is_empty()
    });
    assert!(said.contains("4 stages") && waits && (1..=2).contains(&most), "{most} at a time: {said}");
    // Who asks in the meantime learns from Slurm why something waits.
    for why in [" running", "pending (Dependency)", "pending (JobArrayTaskLimit)"] {
        assert!(told.lines().any(|line| line.starts_with("  slurm    job ") && line.contains(why)), "{why}: {told}");
    }
    let gpus: BTreeSet<String> =
        logs(results.path(), 1).lines().filter_map(|line| line.strip_prefix("gpu ")).map(str::to_owned).collect();
    assert!(gpus.contains("0") && gpus.iter().all(|gpu| ["0", "1", ""].contains(&gpu.as_str())), "{gpus:?}");
    assert_eq!(rows(results.path()), alone(&[epochs]));
    // Nothing is left to do, and nothing to cancel.
    assert!(submit(results.path(), &[epochs]).contains("Nothing left to do"));
    let output = w2s().args(["cancel", TINY, "--results"]).arg(results.path()).output().unwrap();
    assert!(output.status.success() && text(&output).contains("Nothing to cancel"), "{}", text(&output));
}

#[test]
fn a_stage_that_is_preempted_or_out_of_time_is_continued() {
    let Some(_node) = node() else { return };
    let results = tempfile::tempdir().unwrap();
    submit(results.path(), &[&LONG[..], &["--cpus", "1", "--throttle", "1", "--checkpoint-every", "50steps"]].concat());
    // What Slurm sends before the time is over.
    let job = until_a_training_is_saved(results.path());
    slurm(&format!("scancel --signal=USR1 --batch {job}"));
    until("another start", || logs(results.path(), 1).contains("interrupted"));
    until("its place in the queue", || slurm("squeue -h -o %i|%T").contains(&format!("{job}|PENDING")));
    slurm(&format!("scontrol update JobId={job} StartTime=now"));
    until("another start", || slurm("squeue -h -t RUNNING -o %F_%K").contains(&job));
    // Somebody else needs the node.
    let other = slurm("sbatch --parsable --partition=high --exclusive --output=/dev/null --wrap true");
    until("the other's end", || !slurm("squeue -h -o %i").contains(other.trim()));
    until_all_is_done();
    assert!(logs(results.path(), 1).matches("interrupted").count() >= 2, "{}", logs(results.path(), 1));
    assert_eq!(rows(results.path()), alone(&LONG));
}

#[test]
fn a_stage_whose_time_is_never_enough_is_given_up_and_recorded() {
    let Some(_node) = node() else { return };
    let results = tempfile::tempdir().unwrap();
    submit(
        results.path(),
        &[&LONG[..], &["--cpus", "1", "--throttle", "1", "--checkpoint-every", "50steps", "--attempts", "0"]].concat(),
    );
    let job = until_a_training_is_saved(results.path());
    slurm(&format!("scancel --signal=USR1 --batch {job}"));
    until_all_is_done();
    let failures = fs::read_to_string(results.path().join("tiny/failures.jsonl")).unwrap();
    assert_eq!(failures.lines().count(), 1, "{failures}");
    assert!(failures.contains("\"time-out\"") && failures.contains("not enough, 1 times"), "{failures}");
    // It was the ceiling, which no other stage needs.
    assert!(logs(results.path(), 1).contains("student  tiny-home"), "{}", logs(results.path(), 1));
    assert!(rows(results.path()).contains("failed"));
    // Who submits again continues.
    submit(results.path(), &LONG);
    until_all_is_done();
    assert_eq!(rows(results.path()), alone(&LONG));
    assert!(!results.path().join("tiny/failures.jsonl").exists());
}

#[test]
fn who_cancels_can_submit_again() {
    let Some(_node) = node() else { return };
    let results = tempfile::tempdir().unwrap();
    let more = [&LONG[..], &["--cpus", "1", "--checkpoint-every", "50steps"]].concat();
    submit(results.path(), &more);
    until_a_training_is_saved(results.path());
    let output = w2s().args(["cancel", TINY, "--results"]).arg(results.path()).output().unwrap();
    assert!(output.status.success() && text(&output).contains("cancelled"), "{}", text(&output));
    until("the end", || slurm("squeue -h -o %i").trim().is_empty());
    assert!(!rows(results.path()).contains(",ok,"));
    assert!(logs(results.path(), 1).contains("interrupted"));
    submit(results.path(), &more);
    until_all_is_done();
    assert_eq!(rows(results.path()), alone(&LONG));
}

/// Any scheduler can do it: one line for each stage, in any number of processes at once.
#[test]
fn printed_commands_do_the_grid() {
    let results = tempfile::tempdir().unwrap();
    let submit = |more: &[&str]| {
        let mut command = w2s();
        command.args(["submit", TINY, "--device", "cpu", "seeds=0"]).args(more).arg("--results").arg(results.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        output
    };
    let lines = String::from_utf8(submit(&["--print"]).stdout).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(root).env("HF_HUB_OFFLINE", "1");
        command
    };
    // The last ones first: they wait.
    let mut children: Vec<_> = lines.lines().rev().map(|line| shell(line).spawn().unwrap()).collect();
    assert_eq!(children.len(), 8, "{lines}");
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    let output = w2s().args(["collect", TINY, "seeds=0", "--results"]).arg(results.path()).output().unwrap();
    assert!(output.status.success() && text(&output).contains("Aux. confidence"), "{}", text(&output));
    assert_eq!(rows(results.path()), alone(&["seeds=0"]));
}

#[test]
fn a_submission_that_cannot_work_is_refused() {
    let results = tempfile::tempdir().unwrap();
    let submit = |more: &[&str]| {
        let output =
            w2s().args(["submit", TINY, "--dry-run"]).args(more).arg("--results").arg(results.path()).output().unwrap();
        (output.status.code(), text(&output))
    };
    let template = results.path().join("mine.sbatch");
    fs::write(&template, "#!/bin/bash\n{{ comand }}\n").unwrap();
    let template = template.to_string_lossy().into_owned();
    for more in
        [vec!["--template", &template], vec!["--template", "nowhere"], vec!["--device", "tpu"], vec!["train.epochs=no"]]
    {
        let (code, said) = submit(&more);
        assert!(code == Some(2) && says_what_to_do(&said), "{more:?}: {said}");
    }
    if !cfg!(feature = "cuda") {
        assert!(submit(&["--gpus", "1"]).1.contains("without CUDA"));
    }
    let (code, said) = submit(&["--gpus", "1", "--device", "cpu"]);
    let script =
        fs::read_to_string(results.path().join("tiny/submit").join(last(results.path())).join("wave-1.sbatch"));
    assert!(code == Some(0) && script.unwrap().contains("#SBATCH --gres=gpu:1\n"), "{said}");
    let work = |manifest: &Path, index: &str| {
        let output = w2s().arg("work").arg(manifest).args(["--index", index]).output().unwrap();
        (output.status.code(), text(&output))
    };
    let manifest = results.path().join("tiny/submit").join(last(results.path())).join("manifest.jsonl");
    for (index, expected) in [("99", "no stage 99"), ("13", "what it needs is not there")] {
        let (code, said) = work(&manifest, index);
        assert!(code == Some(2) && said.contains(expected) && says_what_to_do(&said), "{said}");
    }
    fs::write(&manifest, "{}\n").unwrap();
    assert!(work(&manifest, "0").1.contains("not a manifest"));
}

/// The latest submission.
fn last(results: &Path) -> String {
    let entries = fs::read_dir(results.join("tiny/submit")).unwrap().flatten();
    let numbers = entries.map(|entry| entry.file_name().to_string_lossy().parse::<usize>().unwrap());
    numbers.max().unwrap().to_string()
}
