//! What is said of a grid from its folder of results, while it runs and afterwards: status, logs, why, replay; and doing parts of it again.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Output, Stdio},
};

use serde_json::Value;
use w2s_core::stage::hash_file;

use crate::support::{self, says_what_to_do, text, w2s, w2s_in};

const TINY: &str = "tests/fixtures/tiny/grid.toml";

fn run(results: &Path, more: &[&str]) -> Output {
    w2s().args(["run", TINY, "--device", "cpu"]).args(more).arg("--results").arg(results).output().unwrap()
}

fn ask(results: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = w2s().args(arguments).arg("--results").arg(results).output().unwrap();
    (output.status.code(), text(&output))
}

fn failures(results: &Path) -> Vec<Value> {
    let text = fs::read_to_string(results.join("tiny/failures.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn status_tells_of_a_run_of_another_process() {
    use crate::stress::{children, signal, until};

    let folder = tempfile::tempdir().unwrap();
    let (code, said) = ask(folder.path(), &["status"]);
    assert!(code == Some(2) && says_what_to_do(&said), "{said}");

    let mut command = w2s();
    command.args(["run", TINY, "--device", "cpu", "--workers", "1", "seeds=0", "methods=finetune,gce"]);
    // It would go on for minutes.
    command.arg("train.epochs=100000").arg("--results").arg(folder.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = || -> Option<Value> {
        let output = w2s().args(["status", "--json", "--results"]).arg(folder.path()).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).ok().map(|grids| grids[0].clone())
    };
    let seen = until("a stage that trains and knows how long", || {
        let of_task = |stage: &Value| stage["what"].as_str().is_some_and(|what| what.contains("tiny-home"));
        status().filter(|status| !status["running"][0]["left"].is_null() && of_task(&status["running"][0]))
    });
    let stage = &seen["running"][0];
    assert!(seen["at_work"] == true && seen["cells"]["done"] == 0, "{seen:#}");
    assert!(stage["done"].as_u64() > Some(0) && stage["done"].as_u64() < stage["total"].as_u64(), "{seen:#}");
    assert!(stage["message"].as_str().is_some_and(|message| message.contains("loss")), "{seen:#}");
    assert!(children(child.id()).iter().any(|process| stage["process"] == *process), "{seen:#}");
    // By the grid's file, by its name, and by its folder.
    let of_grid = folder.path().join("tiny");
    for grid in [TINY, "tiny", of_grid.to_str().unwrap()] {
        let (code, said) = ask(folder.path(), &["status", grid]);
        let running = said.lines().any(|line| line.contains("  running  ") && line.contains("loss"));
        assert!(code == Some(0) && said.contains("a run is at work") && running, "{grid}: {said}");
        assert!(said.contains("0 done") && said.contains("  waiting  student  tiny-home  gce"), "{grid}: {said}");
    }
    signal("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let seen = status().unwrap();
    assert!(seen["at_work"] == false && seen["running"] == serde_json::json!([]), "{seen:#}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_stage_that_is_killed_is_tried_once_more() {
    use crate::stress::children;

    let folder = tempfile::tempdir().unwrap();
    let mut command = w2s();
    command.args(["run", TINY, "--device", "cpu", "--workers", "1", "--max-fails", "1", "seeds=0", "methods=finetune"]);
    command.arg("--results").arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        for stage in children(child.id()) {
            // It may have ended by itself.
            let _ = std::process::Command::new("kill").args(["-KILL", &stage.to_string()]).output().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert!(output.status.code() == Some(1) && said.contains("tried once more"), "{said}");
    let [record] = &failures(folder.path())[..] else { panic!("{:?}", failures(folder.path())) };
    assert!(record["kind"] == "killed" && record["attempts"] == 2, "{record}");
    let output = run(folder.path(), &["seeds=0", "methods=finetune", "--quiet"]);
    assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{}", text(&output));
    assert!(output.status.success() && failures(folder.path()).is_empty(), "{}", text(&output));
}

#[test]
fn the_first_failure_ends_a_run_if_that_is_wished() {
    let folder = tempfile::tempdir().unwrap();
    let broken =
        "method.broken={ loss = { type = \"cross-entropy\" }, train = { learning_rate = 1e30, optimizer = \"sgd\" } }";
    // It would go on for minutes.
    let slow = "method.slow={ loss = { type = \"cross-entropy\" }, train = { epochs = 100000 } }";
    let grid = ["seeds=0", "methods=slow,broken", slow, broken, "--workers", "2"];
    let output = run(folder.path(), &[&grid[..], &["--fail-fast"]].concat());
    let said = text(&output);
    assert!(output.status.code() == Some(1) && !said.contains("interrupted"), "{said}");
    let [record] = &failures(folder.path())[..] else { panic!("{:?}", failures(folder.path())) };
    assert!(record["kind"] == "not-finite" && record["attempts"] == 1, "{record}");

    // What failed is tried again, and its cell made whole; nothing else is started.
    let output = run(folder.path(), &[&grid[..], &["--rerun", "failed"]].concat());
    let said = text(&output);
    let [record] = &failures(folder.path())[..] else { panic!("{:?}", failures(folder.path())) };
    assert!(output.status.code() == Some(1) && record["attempts"] == 2, "{said} {record}");
    let rows = fs::read_to_string(folder.path().join("tiny/results.csv")).unwrap();
    assert!(rows.contains(",ceiling,") && !rows.contains(",slow,"), "{rows}");
    let (_, said) = ask(folder.path(), &["status"]);
    assert!(said.contains("1 failed, 1 waiting") && said.contains("not finite, 2 times"), "{said}");
}

#[test]
fn what_is_made_again_is_of_that_task_or_method_alone() {
    let folder = tempfile::tempdir().unwrap();
    let changes = ["tasks=tiny-home,tiny-food", "methods=finetune,gce", "seeds=0"];
    let (plan, _) = support::plan(&support::tiny().join("grid.toml"), &changes, folder.path()).unwrap();
    let labels = plan.labels();
    let again =
        |name: &str| -> BTreeSet<&str> { plan.made_for(name).unwrap().iter().map(|id| labels[id].as_str()).collect() };
    let all = |of: &dyn Fn(&str) -> bool| -> BTreeSet<&str> {
        labels.values().map(String::as_str).filter(|label| of(label)).collect()
    };
    let food = again("tiny-food");
    assert_eq!(food, all(&|label| label.contains("tiny-food")));
    for kind in ["weak labels", "ceiling", "finetune", "gce"] {
        assert!(food.iter().any(|label| label.contains(kind)), "{kind}: {food:?}");
    }
    let gce = again("gce");
    assert_eq!(gce, all(&|label| label.contains("gce")));
    assert_eq!(gce.len(), 2);
    assert!(again("tiny-home").is_disjoint(&food));
}

#[test]
fn a_finished_cell_is_looked_into_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path();
    let grid = ["seeds=0,1", "methods=finetune,gce"];
    // What happens is told event by event.
    let output = run(results, &[&grid[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    let ended = events.last().unwrap();
    assert!(ended["event"] == "ended" && ended["done"] == of("done") && ended["failed"] == 0, "{lines}");
    assert!(of("started") == of("done") && of("done") >= 8, "{lines}");
    let record: Value = serde_json::from_slice(&fs::read(results.join("tiny/grid.json")).unwrap()).unwrap();
    let cells = record["cells"].as_array().unwrap();
    let cell = |method: &str, seed: u64| cells.iter().find(|cell| cell["method"] == method && cell["seed"] == seed);
    let name = |method: &str, seed: u64, what: &str| cell(method, seed).unwrap()[what].as_str().unwrap().to_owned();

    // Names are words, or the beginning of an identity.
    let (code, said) = ask(results, &["logs", "gce", "tiny-home", "1"]);
    assert!(code == Some(0) && said.contains(&name("gce", 1, "student")) && said.contains("== pretrain"), "{said}");
    assert!(!said.contains(&name("finetune", 1, "student")) && !said.contains("no log"), "{said}");
    for (words, part) in [("gce", "2 cells are called"), ("gce tiny-hom", "no cell is called")] {
        let (code, said) = ask(results, &["logs", words]);
        assert!(code == Some(2) && said.contains(part) && said.contains(&name("gce", 1, "cell")), "{words}: {said}");
    }

    let [a, b] = ["finetune", "gce"].map(|method| format!("tiny/{}", &name(method, 0, "cell")[..8]));
    let (_, said) = ask(results, &["why", &a, &b]);
    let keys = |said: &str| {
        said.lines().filter(|line| line.contains('.') && !line.starts_with(' ')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(said.contains("\"gce\"") && keys(&said).iter().all(|key| key.starts_with("student.")), "{said}");
    let (_, said) = ask(results, &["why", "gce 0", "gce 1"]);
    assert!(said.contains("supervision.seed\n  A  0\n  B  1") && !said.contains("loss"), "{said}");
    let (_, said) = ask(results, &["why", &a, &a]);
    assert!(said.contains("the same"), "{said}");

    // The folder of results is enough, wherever one stands.
    let elsewhere = tempfile::tempdir().unwrap();
    let replay = || {
        let output = w2s_in(elsewhere.path()).args(["replay", &b, "--results"]).arg(results).output().unwrap();
        (output.status.code(), text(&output))
    };
    let (code, said) = replay();
    assert!(code == Some(0) && said.contains("the same: "), "{said}");
    let student = results.join("stages").join(name("gce", 0, "student"));
    let (file, manifest) = (student.join("test.csv"), student.join("manifest.json"));
    let before = [&file, &manifest].map(|path| fs::read_to_string(path).unwrap());
    // As if another program had made it.
    fs::write(&file, before[0].replacen("0.", "0.0", 1)).unwrap();
    let mut other: Value = serde_json::from_str(&before[1]).unwrap();
    other.as_object_mut().unwrap().remove("hash");
    other["files"]["test.csv"] = hash_file(&file).unwrap().into();
    fs::write(&manifest, other.to_string()).unwrap();
    let (code, said) = replay();
    let different: Vec<&str> = said.lines().filter(|line| line.ends_with("differs")).collect();
    assert!(code == Some(1) && different.len() == 1 && different[0].contains("/test.csv`"), "{said}");
    let kept = said.split("is kept in ").nth(1).unwrap().trim();
    fs::remove_dir_all(kept).unwrap();
    for (path, text) in [&file, &manifest].into_iter().zip(&before) {
        fs::write(path, text).unwrap();
    }

    // A method's students again, and nothing else.
    let rows = fs::read_to_string(results.join("tiny/results.csv")).unwrap();
    let output = run(results, &[&grid[..], &["--rerun", "gce"]].concat());
    assert!(output.status.success() && text(&output).contains("to be made again: 2 stages"), "{}", text(&output));
    assert_eq!(fs::read_dir(results.join("stages/quarantine")).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(results.join("tiny/results.csv")).unwrap(), rows);
    // And all that a task's results are made of, but for the models that were pretrained.
    let output = run(results, &[&grid[..], &["--rerun", "tiny-home"]].concat());
    assert!(output.status.success() && text(&output).contains("to be made again"), "{}", text(&output));
    let shelf = fs::read_dir(results.join("stages/quarantine")).unwrap().flatten();
    let shelf: Vec<String> = shelf.map(|one| one.file_name().to_string_lossy().into_owned()).collect();
    let of = |kind: &str| shelf.iter().filter(|name| name.starts_with(kind)).count();
    // Two of them are from before.
    assert_eq!([of("student"), of("supervise"), of("pretrain"), of("data")], [6, 2, 0, 0], "{shelf:?}");
    assert_eq!(fs::read_to_string(results.join("tiny/results.csv")).unwrap(), rows);
    let output = run(results, &[&grid[..], &["--rerun", "finetun"]].concat());
    assert!(output.status.code() == Some(2) && says_what_to_do(&text(&output)), "{}", text(&output));
    let output = run(results, &[&grid[..], &["--rerun", "failed"]].concat());
    assert!(output.status.success() && text(&output).contains("Nothing left to do"), "{}", text(&output));
}
