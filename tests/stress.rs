//! A run under stress: no memory, no room, damage, signals, other processes, readers that are gone.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use w2s_core::stage::Store;

use crate::support::{plan, says_what_to_do, text, tiny, w2s};

const TINY: &str = "tests/fixtures/tiny/grid.toml";
/// A part of the tiny grid: six stages.
const PART: [&str; 2] = ["seeds=0", "methods=finetune,gce"];

fn command(verb: &str, results: &Path) -> Command {
    let mut command = w2s();
    command.args([verb, TINY]).arg("--results").arg(results).args(PART);
    if verb == "run" {
        command.args(["--device", "cpu"]);
    }
    command
}

fn whole(results: &Path) -> String {
    let output = command("run", results).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    rows(results)
}

fn rows(results: &Path) -> String {
    fs::read_to_string(results.join("tiny/results.csv")).unwrap()
}

/// The records of what failed.
fn failures(results: &Path) -> Vec<Value> {
    let text = fs::read_to_string(results.join("tiny/failures.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Folders of finished stages, by name.
fn stages(results: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(results.join("stages")).unwrap().flatten();
    let whole = entries.filter(|entry| entry.path().join("manifest.json").is_file());
    whole.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn stage(results: &Path, kind: &str) -> PathBuf {
    let stages = stages(results);
    results.join("stages").join(stages.iter().find(|name| name.starts_with(kind)).unwrap())
}

/// What may never be left once no process is at work.
fn leftovers(results: &Path) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for folder in ["stages", "stages/locks", "tiny", "tiny/logs"] {
        for entry in fs::read_dir(results.join(folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(".making")
                || name.starts_with(".tmp")
                || name.ends_with(".lock") && !matches!(&*name, "store.lock" | ".lock")
            {
                left.push(entry.path());
            }
        }
    }
    left
}

#[test]
fn a_stage_without_memory_is_a_record_and_nothing_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let expected = whole(folder.path());
    // Places of the refusal, drawn from the allocations of a stage, of which the first half a hundred are those of the start.
    let mut place = 7_u64;
    let mut failed = 0;
    for round in 0..8 {
        place = place.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = 50 + (place >> 33) % 3000;
        let once = if round % 2 == 0 { "" } else { "+" };
        let results = tempfile::tempdir().unwrap();
        let refuse = format!("stage:{at}{once}");
        let output = command("run", results.path()).env("W2S_REFUSE_ALLOCATION", &refuse).output().unwrap();
        let said = text(&output);
        let records = failures(results.path());
        assert_eq!(output.status.code(), Some(i32::from(!records.is_empty())), "{refuse}: {said}");
        for record in &records {
            failed += 1;
            assert_eq!(record["kind"], "out-of-memory", "{refuse}: {record}");
            assert!(said.contains("out of memory") && says_what_to_do(&said), "{refuse}: {said}");
            assert!(Path::new(record["log"].as_str().unwrap()).is_file(), "{refuse}: {record}");
        }
        // What failed is made once there is memory again.
        assert_eq!(whole(results.path()), expected, "{refuse}");
        assert!(failures(results.path()).is_empty() && leftovers(results.path()).is_empty(), "{refuse}");
    }
    assert!(failed >= 4, "{failed} failures: the refusals hit nothing");
}

/// What results say of accuracy and loss, without the stages that they came from.
fn measured(results: &Path) -> Vec<(String, f64)> {
    let text = fs::read_to_string(results.join("tiny/results.csv")).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|column| *column == name).unwrap();
    let (value, keys) = (column("value"), ["task", "method", "seed", "split", "metric"].map(column));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        Some((keys.map(|key| cells[key]).join(" "), cells[value].parse().ok()?))
    };
    lines.filter_map(row).collect()
}

/// Bytes of a block of memory that a step on all of a batch needs, and one on a part of it does not.
const LARGEST: usize = 8_000_000;

/// A strong model whose largest tensors are those of a step, and not its weights.
const WIDE: &str = r#"model.tiny-strong.pretrain={world="tiny",config={model_type="gpt2",n_embd=16,n_inner=8192,n_layer=2,n_head=2,n_positions=24},train={epochs=1,batch_size=16,optimizer="adamw",learning_rate=5e-3}}"#;

/// `--micro-batch auto` of a run whose stages get no block of memory that is larger than so many bytes.
fn auto(results: &Path, largest: usize) -> Output {
    let mut command = command("run", results);
    command.args([WIDE, "--micro-batch", "auto", "--memory", "8G"]);
    command.env("W2S_REFUSE_ALLOCATION", format!("larger:{largest}")).output().unwrap()
}

/// Half as many examples at a time where all were too many: the same mathematics, in stages that say so.
#[test]
fn a_stage_without_memory_is_given_fewer_examples_at_a_time() {
    let (whole_at_once, results) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = auto(whole_at_once.path(), usize::MAX);
    let said = text(&output);
    assert!(output.status.success() && said.contains("with whole batches") && !said.contains("at a time;"), "{said}");
    assert!(command("run", results.path()).arg(WIDE).output().unwrap().status.success());
    assert_eq!(stages(whole_at_once.path()), stages(results.path()), "all fitted at once");

    let results = tempfile::tempdir().unwrap();
    let output = auto(results.path(), LARGEST);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("out of memory with 16 examples at a time; it is planned again with 8"), "{said}");
    assert!(failures(results.path()).is_empty() && leftovers(results.path()).is_empty(), "{said}");
    let sizes: BTreeSet<u64> = stages(results.path())
        .iter()
        .filter_map(|name| {
            let manifest = fs::read_to_string(results.path().join("stages").join(name).join("manifest.json")).unwrap();
            serde_json::from_str::<Value>(&manifest).unwrap()["parameters"]["numeric"]["micro_batch"].as_u64()
        })
        .collect();
    assert!(!sizes.is_empty() && sizes.iter().all(|rows| [8, 4, 2].contains(rows)), "{sizes:?}");
    let (all, parts) = (measured(whole_at_once.path()), measured(results.path()));
    assert_eq!(all.len(), parts.len());
    for ((key, a), (other, b)) in all.iter().zip(&parts) {
        assert!(key == other && (a - b).abs() < 1e-3, "{key}: {a}, in parts {b}");
    }

    // What was found out is remembered.
    let again = auto(results.path(), LARGEST);
    let said = text(&again);
    assert!(
        again.status.success() && said.contains("Nothing left to do") && said.contains("out-of-memory.json"),
        "{said}"
    );
}

/// Where one example alone is too much, the record says what was tried.
#[test]
fn what_does_not_fit_alone_says_what_was_tried() {
    let results = tempfile::tempdir().unwrap();
    let output = auto(results.path(), 2_000);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let records = failures(results.path());
    assert!(!records.is_empty(), "{said}");
    for record in records {
        let message = record["message"].as_str().unwrap();
        assert!(message.contains("ran out of memory with 16, 8, 4, 2 examples at a time, too"), "{message}");
        assert_eq!(record["kind"], "out-of-memory");
    }
}

/// Weak model and ceiling die over their predictions; then nothing can be trained, and both are finished all the same.
#[test]
fn a_stage_that_dies_over_its_predictions_need_not_train_again() {
    let folder = tempfile::tempdir().unwrap();
    let expected = whole(folder.path());
    let results = tempfile::tempdir().unwrap();
    let run = |refuse: &str| {
        let output = command("run", results.path()).env("W2S_REFUSE_ALLOCATION", refuse).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let of_kind = |kind: &str| stages(results.path()).into_iter().filter(|name| name.starts_with(kind)).count();
        (of_kind("fine-tune"), of_kind("training"))
    };
    assert_eq!(run("predict:1+"), (0, 2));
    assert!(failures(results.path()).iter().all(|record| record["kind"] == "out-of-memory"));
    assert_eq!(run("train:1+"), (2, 0));
    assert_eq!(whole(results.path()), expected);
    assert!(leftovers(results.path()).is_empty() && stages(results.path()) == stages(folder.path()));
    let files = |kind| {
        let [a, b] = [folder.path(), results.path()].map(|results| stage(results, kind).join("test.csv"));
        [a, b].map(|path| fs::read(path).unwrap())
    };
    for kind in ["fine-tune", "student"] {
        let [one, other] = files(kind);
        assert!(one == other, "{kind}");
    }
}

/// Two models are trained in one stage, each on half of the rows: that both are kept until it is done must not make one of them the other.
#[test]
fn every_training_of_a_stage_is_kept_for_itself() {
    let labels = |kept: bool| {
        let folder = tempfile::tempdir().unwrap();
        let mut run = command("run", folder.path());
        run.args(["methods=finetune", "method.finetune.supervisor={ type = \"chain\" }", "train.learning_rate=0.01"]);
        if kept {
            // Nothing is ever refused at this place; in a test of refusals every training is kept, as short as it may be.
            run.env("W2S_REFUSE_ALLOCATION", "nowhere:1");
        }
        let output = run.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert!(stages(folder.path()).iter().all(|name| !name.starts_with("training")));
        ["transfer.csv", "test.csv", "log.csv", "log-2.csv"]
            .map(|name| fs::read_to_string(stage(folder.path(), "teach").join(name)).unwrap())
    };
    let alone = labels(false);
    assert_ne!(alone[2], alone[3], "the halves are trained apart");
    assert_eq!(labels(true), alone);
}

#[test]
fn a_run_without_memory_says_so() {
    let refused = |at: &str| {
        let folder = tempfile::tempdir().unwrap();
        let output = command("run", folder.path()).env("W2S_REFUSE_ALLOCATION", at).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{at}: {said}");
        assert!(said.contains("out of memory") && says_what_to_do(&said), "{at}: {said}");
        // Before the grid is read, its folder is guessed by the name of the file.
        let record =
            |name: &str| fs::read_to_string(folder.path().join(name).join("failures.jsonl")).unwrap_or_default();
        assert!([record("tiny"), record("grid")].concat().contains("out-of-memory"), "{at}");
        folder
    };
    for at in ["command:300", "command:2000+", "command:5000+"] {
        whole(refused(at).path());
    }
    // Two threads may be refused at once; neither may end the process while the other one records why.
    (0..100).for_each(|_| drop(refused("command:2000+")));
}

#[test]
fn a_damaged_stage_is_told_of_with_its_reason_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let expected = whole(folder.path());
    let append = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, format!("{text}0.5,0.5\n")).unwrap();
    };
    let edit = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("\"device\": \"cpu\"", "\"device\": \"gpu\"")).unwrap();
    };
    type Damage<'a> = (&'a str, &'a str, &'a dyn Fn(&Path));
    let damages: [Damage; 3] = [
        ("student", "test.csv", &append),
        ("supervise", "manifest.json", &edit),
        ("data", "train.jsonl", &|path| {
            fs::remove_file(path).or_else(|_| fs::remove_file(path.with_file_name("test.jsonl"))).unwrap()
        }),
    ];
    for (kind, file, damage) in damages {
        let stage = stage(folder.path(), kind);
        let name = stage.file_name().unwrap().to_str().unwrap().to_owned();
        damage(&stage.join(file));
        if kind != "data" {
            let plan = command("plan", folder.path()).output().unwrap();
            let said = text(&plan);
            assert!(said.contains(&name) && said.contains("damaged") && said.contains("to do"), "{kind}: {said}");
            assert!(stage.exists() && !folder.path().join("stages/quarantine").join(format!("{name}.0")).exists());
        }
        let output = command("run", folder.path()).output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{kind}: {said}");
        assert!(said.contains(&name) && said.contains("quarantine"), "{kind}: {said}");
        assert_eq!(rows(folder.path()), expected, "{kind}");
        assert!(folder.path().join("stages/quarantine").join(format!("{name}.0/reason.txt")).exists());
    }
}

#[test]
fn the_store_is_listed_verified_and_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path();
    let expected = whole(results);
    let store = |arguments: &[&str]| {
        let output = w2s().args(["store"]).args(arguments).arg("--results").arg(results).output().unwrap();
        (output.status.code(), text(&output))
    };
    let (code, said) = store(&["ls"]);
    let count = stages(results).len();
    assert!(code == Some(0) && said.contains(&format!("{count} stages")) && said.contains("  tiny"), "{said}");
    assert!(said.contains("of them 0,"), "everything is the grid's: {said}");
    let (code, said) = store(&["ls", "--grid", "other"]);
    assert!(code == Some(2) && said.contains("tiny"), "{said}");
    let (_, said) = store(&["ls", "--grid", "tiny"]);
    assert!(said.contains(&format!("of them {count},")) && said.contains("for it alone"), "{said}");
    let (_, json) = store(&["ls", "--sort", "size", "--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let sizes: Vec<u64> = json.as_array().unwrap().iter().map(|stage| stage["bytes"].as_u64().unwrap()).collect();
    assert!(sizes.len() == count && sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");

    assert_eq!(store(&["verify"]).0, Some(0));
    let student = stage(results, "student");
    fs::write(student.join("test.csv"), "").unwrap();
    let (code, said) = store(&["verify"]);
    assert!(code == Some(1) && said.contains("test.csv") && student.exists(), "{said}");
    assert_eq!(store(&["verify", "--grid", "tiny"]).0, Some(1));
    let (code, said) = store(&["verify", "--unused"]);
    assert!(code == Some(0) && said.contains("0 stages"), "{said}");
    whole(results);

    // What the grid needs stays, whatever its age; what no grid needs goes, and so does what was put aside.
    let removes = |said: &str| said.lines().filter(|line| line.contains(" MB  ")).count();
    let (code, said) = store(&["gc", "--older-than", "0", "--dry-run"]);
    assert!(code == Some(0) && removes(&said) == 1 && said.contains("quarantine"), "{said}");
    let less = w2s()
        .args(["run", TINY, "--device", "cpu", "seeds=0", "methods=finetune", "name=less", "--results"])
        .arg(results)
        .output()
        .unwrap();
    assert!(less.status.success());
    fs::remove_dir_all(results.join("tiny")).unwrap();
    let (_, said) = store(&["gc"]);
    assert_eq!(removes(&said), 0, "nothing is a day old: {said}");
    // No more than it takes.
    let down_to =
        |megabytes: f64| store(&["gc", "--older-than", "0", "--dry-run", "--down-to", &megabytes.to_string()]).1;
    fn bytes(path: &Path) -> u64 {
        match path.is_dir() {
            true => fs::read_dir(path).unwrap().flatten().map(|entry| bytes(&entry.path())).sum(),
            false => path.metadata().unwrap().len(),
        }
    }
    let all: u64 = stages(results).iter().map(|name| bytes(&results.join("stages").join(name))).sum();
    let all = all + bytes(&results.join("stages/quarantine"));
    assert_eq!(removes(&down_to(all as f64 / 1e6)), 0, "{}", down_to(all as f64 / 1e6));
    let said = down_to((all - 1) as f64 / 1e6);
    assert!(removes(&said) == 1 && !said.contains("stay"), "{said}");
    let said = down_to(0.0);
    assert!(removes(&said) == 2 && said.contains("grids need them"), "{said}");
    fs::write(results.join("less/.tmpAbCdEf"), "").unwrap();
    let before = stages(results);
    let (code, said) = store(&["gc", "--older-than", "0"]);
    assert!(code == Some(0) && removes(&said) == 2, "the quarantined and the other student: {said}");
    assert_eq!(stages(results).len(), before.len() - 1);
    assert!(
        !results.join("less/.tmpAbCdEf").exists()
            && !results.join("stages/quarantine").read_dir().unwrap().any(|_| true)
    );
    assert_eq!(whole(results), expected);

    let (code, said) = {
        let output = w2s().args(["store", "ls", "--results", "no/where"]).output().unwrap();
        (output.status.code(), text(&output))
    };
    assert!(code == Some(2) && says_what_to_do(&said), "{said}");
}

#[cfg(unix)]
#[test]
fn a_path_need_not_be_text() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"r\xe9sultats \xff\n"));
    let plain = tempfile::tempdir().unwrap();
    assert_eq!(whole(&odd), whole(plain.path()));
    let output = command("run", &odd).output().unwrap();
    assert!(text(&output).contains("Nothing left to do"), "{}", text(&output));
}

#[test]
fn looking_needs_no_folder_that_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let nowhere = file.join("results");
    for verb in ["check", "plan"] {
        let output = command(verb, &nowhere).output().unwrap();
        let said = text(&output);
        assert!(output.status.success() && said.contains("7 to do") && said.contains("--results"), "{verb}: {said}");
    }
    let dry = command("run", &nowhere).arg("--dry-run").output().unwrap();
    assert!(dry.status.success() && text(&dry).contains("7 to do"), "{}", text(&dry));
    assert_eq!(command("run", &nowhere).output().unwrap().status.code(), Some(2));
}

/// A pipe for standard error that nobody reads.
#[cfg(unix)]
#[test]
fn a_run_goes_on_when_nobody_reads_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let broken =
        "method.broken={ loss = { type = \"cross-entropy\" }, train = { learning_rate = 1e30, optimizer = \"sgd\" } }";
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = w2s();
    command.args(["run", TINY, "--device", "cpu", "--workers", "1", "seeds=0", "methods=broken,finetune", broken]);
    let status = command.arg("--results").arg(folder.path()).stdout(Stdio::null()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
    let rows = rows(folder.path());
    assert!(rows.lines().any(|row| row.contains(",broken,") && row.contains(",failed,")), "{rows}");
    assert!(rows.lines().any(|row| row.contains(",finetune,") && row.contains(",ok,")), "{rows}");
    let [record] = &failures(folder.path())[..] else { panic!("{:?}", failures(folder.path())) };
    assert_eq!((&record["kind"], &record["attempts"]), (&"not-finite".into(), &1.into()), "{record}");
    assert!(
        record["what"].as_str().unwrap().contains("broken") && record["message"].as_str().unwrap().contains("step")
    );
}

#[cfg(unix)]
#[test]
fn files_that_may_not_grow_fail_a_run_with_the_cause() {
    let mut codes = BTreeSet::new();
    for kilobytes in [1, 4, 8, 12, 24] {
        let folder = tempfile::tempdir().unwrap();
        let mut limited = Command::new("bash");
        limited.args(["-c", "ulimit -f $0; exec \"$@\"", &kilobytes.to_string()]);
        let inner = command("run", folder.path());
        limited.arg(inner.get_program()).args(inner.get_args()).current_dir(inner.get_current_dir().unwrap());
        let output = limited.env("NO_COLOR", "1").output().unwrap();
        let said = text(&output);
        let ran =
            said.lines().any(|line| line.starts_with("failed: ")) || folder.path().join("tiny/results.csv").exists();
        let code = output.status.code();
        assert!(code == Some(if ran { 1 } else { 2 }), "{kilobytes}: {code:?} {said}");
        assert!(
            said.contains("File too large") && says_what_to_do(&said) && !said.contains("panicked"),
            "{kilobytes}: {said}"
        );
        codes.insert(code);
        whole(folder.path());
    }
    assert_eq!(codes.len(), 2, "{codes:?}");
}

/// Processes that a process has started.
#[cfg(target_os = "linux")]
pub fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let of_task = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let pids = of_task.flat_map(|pids| pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>());
    // Between its making and the start of its program it is its parent still, and one that is stopped there stops both.
    let started = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0stage\0"));
    pids.filter(started).collect()
}

#[cfg(target_os = "linux")]
pub fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// Waits for something that comes sooner or later.
#[cfg(target_os = "linux")]
pub fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(it) = there() {
            return it;
        }
        assert!(started.elapsed() < Duration::from_secs(300), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(target_os = "linux")]
fn ended(mut child: Child) -> Output {
    let mut said = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut said).unwrap();
    Output { status: child.wait().unwrap(), stdout: Vec::new(), stderr: said }
}

/// A run whose stages take long enough to meet them.
#[cfg(target_os = "linux")]
fn long(results: &Path) -> Command {
    let mut command = command("run", results);
    command.args(["train.epochs=100", "--workers", "1"]).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_at_any_moment_ends_a_run_with_a_word() {
    let catches = |pid: u32, signal: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
        (mask >> (signal - 1) & 1 == 1).then_some(())
    };
    for (name, number) in [("HUP", 1), ("INT", 2), ("USR1", 10), ("TERM", 15)] {
        for at_work in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let child = long(folder.path()).spawn().unwrap();
            let pid = child.id();
            until("the handler", || catches(pid, number));
            if at_work {
                until("a stage", || children(pid).first().copied());
            }
            signal(name, pid);
            let output = ended(child);
            let said = text(&output);
            assert!(
                output.status.code() == Some(if at_work { 75 } else { 130 }) && said.contains("interrupted"),
                "{name}: {:?} {said}",
                output.status
            );
            whole(folder.path());
            assert!(leftovers(folder.path()).is_empty(), "{:?}", leftovers(folder.path()));
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_stage_that_is_interrupted_alone_interrupts_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let child = long(folder.path()).spawn().unwrap();
    let pid = child.id();
    let stage = until("a stage", || {
        let stage = *children(pid).first()?;
        let log = fs::read_dir(folder.path().join("stages")).ok()?.flatten();
        log.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".making")).then_some(stage)
    });
    signal("INT", stage);
    let output = ended(child);
    let said = text(&output);
    assert!(output.status.code() == Some(75) && said.contains("interrupted: run the same"), "{said}");
    assert!(failures(folder.path()).is_empty() && leftovers(folder.path()).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_stage_whose_parent_is_gone_ends_soon() {
    let folder = tempfile::tempdir().unwrap();
    // It would go on for minutes.
    let mut run = command("run", folder.path());
    run.args(["train.epochs=100000", "--workers", "1"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut parent = run.spawn().unwrap();
    let stage = until("a stage that trains", || {
        let stage = *children(parent.id()).first()?;
        let made = fs::read_dir(folder.path().join("stages")).ok()?.flatten();
        let trains = |name: &str| name.starts_with(".making-fine-tune-");
        made.into_iter().any(|entry| trains(&entry.file_name().to_string_lossy())).then_some(stage)
    });
    parent.kill().unwrap();
    parent.wait().unwrap();
    // Who takes it in may be slow to bury it.
    until("its end", || match fs::read_to_string(format!("/proc/{stage}/stat")) {
        Ok(stat) => stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z')).then_some(()),
        Err(_) => Some(()),
    });
    assert!(failures(folder.path()).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_stage_that_stands_still_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let child = long(folder.path()).args(["--patience", "0.02", "--max-fails", "1"]).spawn().unwrap();
    let pid = child.id();
    signal("STOP", until("a stage", || children(pid).first().copied()));
    let output = ended(child);
    let said = text(&output);
    assert!(output.status.code() == Some(1) && said.contains("no progress") && said.contains("--patience"), "{said}");
    assert_eq!(failures(folder.path())[0]["kind"], "time-out");
}

#[cfg(target_os = "linux")]
#[test]
fn a_stage_that_another_process_makes_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let expected = whole(folder.path());
    let record: Value = serde_json::from_slice(&fs::read(folder.path().join("tiny/grid.json")).unwrap()).unwrap();
    let cell = &record["cells"][0];
    let (ceiling, student) = (cell["ceiling"].as_str().unwrap(), cell["student"].as_str().unwrap());

    let shared = tempfile::tempdir().unwrap();
    let locks = shared.path().join("stages/locks");
    fs::create_dir_all(&locks).unwrap();
    // We are that process; it says that it is at work in the store, or its lock would be swept away.
    let [user, lock] = ["store", ceiling].map(|name| fs::File::create(locks.join(format!("{name}.lock"))).unwrap());
    user.lock_shared().unwrap();
    lock.lock().unwrap();
    let mut run = command("run", shared.path());
    let mut child = run.args(["--workers", "1"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let waits = lines.find(|line| line.contains("waiting for another process")).unwrap();
    assert!(waits.contains("ceiling"), "{waits}");
    assert!(shared.path().join("stages").join(student).is_dir(), "everything else is done meanwhile");
    drop((lock, user));
    let rest: Vec<String> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    assert_eq!(rows(shared.path()), expected);
}

#[test]
fn several_processes_make_each_stage_once() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut run = command("run", folder.path());
        run.args(["--workers", "1"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = (0..4).map(|_| start()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let shared = rows(folder.path());
    let alone = tempfile::tempdir().unwrap();
    assert_eq!(shared, whole(alone.path()));
    assert_eq!(stages(folder.path()), stages(alone.path()));
    assert!(leftovers(folder.path()).is_empty(), "{:?}", leftovers(folder.path()));
}

#[test]
fn processes_that_plan_the_same_grid_share_the_reading() {
    let grid = tiny().join("grid.toml");
    // In a folder of its own it is seen what is looked up: the data of two seeds, by what they depend on.
    let alone = tempfile::tempdir().unwrap();
    let (whole, _) = plan(&grid, &[], alone.path()).unwrap();
    let remembered = fs::read_to_string(alone.path().join("stages/locks/remembered")).unwrap();
    let looks = remembered.lines().filter_map(|line| Some(line.split_once(' ')?.0));
    let looks: Vec<&str> = looks.filter(|key| key.starts_with("look-")).collect();
    let data = |folder: &Path| stages(folder).iter().filter(|name| name.starts_with("data-")).count();
    let all = data(alone.path());
    assert!(looks.len() > 1 && all == looks.len());

    // Another process is at the first of them: whoever plans goes on with the others, and only then waits.
    let shared = tempfile::tempdir().unwrap();
    let other = Store::open(shared.path().join("stages")).unwrap();
    let turn = other.turn(looks[0], None).unwrap().unwrap();
    std::thread::scope(|scope| {
        let planning = scope.spawn(|| plan(&grid, &[], shared.path()).map(|(plan, _)| plan.jobs.len()));
        until("the rest to be read", || (data(shared.path()) == all - 1).then_some(()));
        assert!(!planning.is_finished());
        drop(turn);
        assert_eq!(planning.join().unwrap().unwrap(), whole.jobs.len());
    });
    assert_eq!(stages(shared.path()), stages(alone.path()));
}

/// Megabytes of a process that are in memory.
#[cfg(target_os = "linux")]
fn resident(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kb| kb / 1024.0)
}

#[cfg(target_os = "linux")]
#[test]
fn a_long_training_needs_no_more_memory_than_a_short_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = w2s();
    run.args(["run", TINY, "--device", "cpu", "--workers", "1", "seeds=0", "methods=finetune"]);
    // It would go on for minutes.
    run.arg("train.epochs=100000").arg("--results").arg(folder.path());
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Resident memory of the stage that trains on the task, after so many of its steps.
    let after = |steps: u64| {
        until("a stage that trains", || {
            let output = w2s().args(["status", "--json", "--results"]).arg(folder.path()).output().unwrap();
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let stage = &status[0]["running"][0];
            let trains = stage["what"].as_str()?.contains("tiny-home") && stage["done"].as_u64()? >= steps;
            if trains { resident(stage["process"].as_u64()?.try_into().ok()?) } else { None }
        })
    };
    let (early, late) = (after(500), after(3000));
    signal("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(late < early * 1.02 + 1.0, "{early:.1} MB after 500 steps, {late:.1} MB after 3,000");
}

/// Marks a folder of results as one whose file system has no locks between machines, with leases of so many seconds.
#[cfg(target_os = "linux")]
fn shared_by_machines(results: &Path, seconds: u32) {
    for folder in ["stages/locks", "tiny"] {
        fs::create_dir_all(results.join(folder)).unwrap();
        fs::write(results.join(folder).join(".leases"), format!("{seconds}\n")).unwrap();
    }
}

/// A command as on a machine of its own, whose processes nobody else can see, where the system lets us have one.
#[cfg(target_os = "linux")]
fn on_its_own_machine(command: &Command) -> Command {
    let apart = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let can = Command::new("unshare").args(apart).arg("true").output().is_ok_and(|output| output.status.success());
    let mut own = Command::new(if can { "unshare".as_ref() } else { command.get_program() });
    if can {
        own.args(apart).arg(command.get_program());
    }
    own.args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => own.env(name, value),
            None => own.env_remove(name),
        };
    }
    own.stdout(Stdio::null()).stderr(Stdio::piped());
    own
}

/// Everything that came of a process, itself included.
#[cfg(target_os = "linux")]
fn descendants(process: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let children: Vec<u32> =
        children.flat_map(|ids| ids.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect();
    [process].into_iter().chain(children.into_iter().flat_map(descendants)).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn machines_that_share_a_folder_without_locks_make_each_stage_once() {
    let folder = tempfile::tempdir().unwrap();
    shared_by_machines(folder.path(), 60);
    let start = |_| {
        let mut run = command("run", folder.path());
        run.args(["--workers", "1"]);
        on_its_own_machine(&run).spawn().unwrap()
    };
    let machines: Vec<Child> = (0..3).map(start).collect();
    for machine in machines {
        let output = ended(machine);
        assert!(output.status.success(), "{}", text(&output));
    }
    let alone = tempfile::tempdir().unwrap();
    assert_eq!(rows(folder.path()), whole(alone.path()));
    assert_eq!(stages(folder.path()), stages(alone.path()));
    assert!(leftovers(folder.path()).is_empty(), "{:?}", leftovers(folder.path()));
    let leases = |folder: &str| -> Vec<_> {
        let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name());
        entries.filter(|name| name.to_string_lossy().contains(".lease") && name != ".leases").collect()
    };
    for part in ["stages/locks", "tiny"] {
        assert_eq!(leases(folder.path().join(part).to_str().unwrap()), [""; 0], "{part}");
    }
}

/// Waits until a process that was told to stand still does so; not if it has ended.
#[cfg(target_os = "linux")]
fn stands_still(process: u32) -> bool {
    until("a process that stands still or ends", || {
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { return Some(false) };
        match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
            Some('T') => Some(true),
            Some('Z' | 'X') | None => Some(false),
            _ => None,
        }
    })
}

/// Whether a process, by the number that its own machine gives it, holds the lease of a stage that is not there yet, and has begun to work on it:
/// before that it looks, and takes what another one has made meanwhile without a word.
#[cfg(target_os = "linux")]
fn is_making(process: u32, kind: &str, stages: &Path) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let own = numbers.split_whitespace().last().unwrap_or_default();
    let held = format!("\"process\":{own},");
    fs::read_dir(stages.join("locks")).unwrap().flatten().any(|entry| {
        let name = entry.file_name().into_string().unwrap();
        let stage = name.strip_suffix(".lock.lease").filter(|stage| stage.starts_with(kind));
        let has_begun = |stage: &str| {
            let prefix = format!(".making-{stage}-");
            let mut folders = fs::read_dir(stages).unwrap().flatten();
            folders.any(|folder| folder.file_name().to_string_lossy().starts_with(&prefix))
        };
        stage.is_some_and(|stage| !stages.join(stage).exists() && has_begun(stage))
            && fs::read_to_string(entry.path()).is_ok_and(|lease| lease.contains(&held))
    })
}

/// The machine stands still in the middle of a training. Another one makes the stage in its place, and it takes note of that when it wakes.
#[cfg(target_os = "linux")]
#[test]
fn the_stage_of_a_machine_that_stands_still_is_taken_over() {
    let few = ["seeds=0", "methods=finetune", "train.epochs=300"];
    let run = |results: &Path| {
        let mut run = w2s();
        run.args(["run", TINY, "--device", "cpu", "--workers", "1"]).args(few).arg("--results").arg(results);
        run
    };
    let folder = tempfile::tempdir().unwrap();
    shared_by_machines(folder.path(), 2);
    let first = on_its_own_machine(&run(folder.path())).spawn().unwrap();
    let stages_made = folder.path().join("stages");
    let stage = until("a stage that trains and stands still", || {
        let is_stage =
            |id: &u32| fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.ends_with(b"\0stage\0"));
        let stage = descendants(first.id()).into_iter().find(is_stage)?;
        // Between a look and the signal it may have finished or ended: only what it holds once it stands still counts.
        let to_stage =
            |signal: &str| Command::new("kill").args([signal, &stage.to_string()]).stderr(Stdio::null()).status();
        to_stage("-STOP").unwrap();
        if stands_still(stage) && is_making(stage, "fine-tune", &stages_made) {
            return Some(stage);
        }
        to_stage("-CONT").unwrap();
        None
    });
    let second = ended(on_its_own_machine(&run(folder.path())).spawn().unwrap());
    assert!(second.status.success(), "{}", text(&second));
    signal("CONT", stage);
    let first = ended(first);
    let said = text(&first);
    assert!(first.status.success() && said.contains("has taken over the stage"), "{said}");

    let alone = tempfile::tempdir().unwrap();
    assert!(run(alone.path()).output().unwrap().status.success());
    assert_eq!(rows(folder.path()), rows(alone.path()));
    assert_eq!(stages(folder.path()), stages(alone.path()));
}
