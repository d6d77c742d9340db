//! `w2s task check` and `w2s task new` as a user meets them.

use std::{fs, path::Path, process::Output};

use serde_json::Value;

use crate::support::{text, w2s_in};

/// Runs the binary in a folder.
fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    w2s_in(folder).env("HF_HOME", folder.join("no-such-home")).args(arguments).output().unwrap()
}

fn run(arguments: &[&str]) -> Output {
    run_in(Path::new(env!("CARGO_MANIFEST_DIR")), arguments)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{}", text(output)))
}

/// A folder in the hub's layout that holds the hand-written rows of some tasks.
fn data() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tasks");
    for (name, files) in [
        ("sst2", ["nyu-mll/glue/sst2/train.jsonl", "nyu-mll/glue/sst2/validation.jsonl"]),
        ("sciq", ["allenai/sciq/default/train.jsonl", "allenai/sciq/default/test.jsonl"]),
    ] {
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(fixtures.join(format!("{name}.jsonl")), path).unwrap();
        }
    }
    root
}

#[test]
fn check_reports_rows_labels_lengths_repetitions_and_examples() {
    let data = data();
    let place = data.path().to_str().unwrap();
    let output = run(&["task", "check", "sst2", "--data", place]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "SST-2 (configs/tasks/sst2.toml)",
        "cite: Socher",
        "train.jsonl",
        "median",
        "characters",
        "an AUROC of 0.111",
        "3 (50.0 %)",
        "6 (100.0 %) of `test` ask what an example of the other parts asks",
        "example 3 of `supervise`: ",
        "example 1 as a prompt",
        "  | Sentiment:",
    ] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }

    let report = json(&run(&["task", "check", "sst2", "n_train=4", "--data", place, "--format", "json"]));
    assert_eq!(report["counts"]["pools"]["train"]["left"], 4);
    assert_eq!(report["counts"]["labels"]["test"], serde_json::json!([3, 3]));
    assert_eq!(report["counts"]["test_in_train"], 4);
    assert_eq!(report["options"]["n_train"], 4);
    assert_eq!(report["classes"], serde_json::json!(["negative", "positive"]));
    // Ten texts of 2 to 8 words: four for training, six for testing.
    let words = &report["lengths"][0];
    assert_eq!((&words["unit"], &words["median"], &words["longest"]), (&"words".into(), &5.into(), &6.into()));
    assert_eq!(report["examples"].as_array().unwrap().len(), 2);

    // A task's own keys can be changed too, and several tasks give a list.
    let reports = json(&run(&[
        "task",
        "check",
        "sciq",
        "configs/tasks/sst2.toml",
        "order=k-points",
        "~splits.test",
        "splits.test_from_train=2",
        "--data",
        place,
        "--format",
        "json",
    ]));
    assert_eq!(reports[0]["counts"]["labels"]["test"], serde_json::json!([2, 2]));
    assert_eq!(reports[1]["counts"]["pools"]["train"]["read"], 4);
    let table = text(&run(&["task", "check", "sst2", "sciq", "--data", place, "--format", "markdown"]));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(
        lines[2].starts_with("| SST-2 (`sst2`) | 3 | 3 | 6 | – | negative 50.0 %, positive 50.0 % | 6 | 0.111 |"),
        "{table}"
    );
    assert!(lines.iter().all(|line| line.matches('|').count() == lines[0].matches('|').count()), "{table}");
}

#[test]
fn check_counts_the_tokens_of_models_and_knows_generated_worlds() {
    let report = json(&run(&["task", "check", "world-home", "--model", "world-weak", "seed=3", "--format", "json"]));
    let length = &report["lengths"][0];
    assert_eq!(length["unit"], "world-weak");
    assert!(length["limit"][0].as_u64().unwrap() > length["longest"].as_u64().unwrap(), "{length}");
    assert_eq!(length["limit"][1], 0);
    assert!(report["files"].as_array().unwrap().is_empty());
}

#[test]
fn check_shows_candidates_and_words() {
    let data = data();
    let place = data.path().to_str().unwrap();
    let output = run(&["task", "check", "sciq-choose", "--data", place]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for part in
        ["right is 4", "the longest candidate is right in ", "one at random in 25.0 %", "\n  + Q: ", "\n  - Q: "]
    {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
    let said = text(&run(&["task", "check", "sciq-words", "--model", "world-weak", "--data", place]));
    for part in [
        "most frequent",
        "the answer: whole text, lowercase, strip-punctuation, collapse-space (rules 1)",
        "generated: at most 32 tokens, up to \"\\n\"",
        "  | Options:",
        "\n  >  ",
    ] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
    let reports = json(&run(&["task", "check", "sciq-choose", "sciq-words", "--data", place, "--format", "json"]));
    assert_eq!((&reports[0]["form"], &reports[1]["form"]), (&"choose".into(), &"generate".into()));
    assert_eq!(reports[0]["examples"][0]["candidates"].as_array().unwrap().len(), 4);
    let found = &reports[1]["counts"]["references"]["test"];
    assert!(found["examples"].as_u64() >= found["distinct"].as_u64() && found["count"].as_u64() > Some(0), "{found}");
    let table =
        text(&run(&["task", "check", "sciq", "sciq-choose", "sciq-words", "--data", place, "--format", "markdown"]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[3].contains("number 1 ") && lines[4].contains("most frequent of "), "{table}");
    assert!(lines.iter().all(|line| line.matches('|').count() == lines[0].matches('|').count()), "{table}");
}

#[test]
fn new_drafts_other_forms() {
    let root = tempfile::tempdir().unwrap();
    let rows: String = (0..40)
        .map(|i| format!("{{\"prompt\": \"question {i}\", \"chosen\": \"good {i}\", \"rejected\": \"bad {i}\"}}\n"))
        .collect();
    fs::write(root.path().join("pairs.jsonl"), rows).unwrap();
    let new = |more: &[&str]| text(&run_in(root.path(), &[&["task", "new", "pairs.jsonl"][..], more].concat()));
    let said = new(&["--form", "choose", "--name", "rewards"]);
    assert!(said.contains("`chosen` is better than `rejected`") && said.contains("  + question"), "{said}");
    let said = new(&["--form", "generate", "--label", "chosen", "--name", "replies"]);
    assert!(said.contains("`chosen` is what a model should write") && said.contains("  >  good"), "{said}");
    let check = text(&run_in(root.path(), &["task", "check", "tasks/rewards.toml", "tasks/replies.toml"]));
    assert!(check.contains("right is 2") && check.contains("most frequent"), "{check}");
    let said = new(&["--form", "generate", "--name", "other"]);
    assert!(said.contains("no column looks like what a model should write") && said.contains("--label"), "{said}");
}

#[test]
fn new_writes_a_task_that_runs() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("data")).unwrap();
    let rows: String =
        (0..40).map(|i| format!("t{i},\"ticket {i}, please help\",{}\n", ["low", "high"][i % 2])).collect();
    fs::write(root.path().join("data/My Tickets.csv"), format!("id,body,urgency\n{rows}")).unwrap();
    let output = run_in(root.path(), &["task", "new", "data/My Tickets.csv"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("written: tasks/my-tickets.toml") && said.contains("urgency: text, 2 different"), "{said}");
    let written = fs::read_to_string(root.path().join("tasks/my-tickets.toml")).unwrap();
    for part in
        ["path = \"../data/My Tickets.csv\"", "name = \"urgency\"", "{{ body | context }}", "[prompt]", "# Guessed:"]
    {
        assert!(written.contains(part), "no `{part}` in\n{written}");
    }
    assert!(!written.contains("TODO"));
    let report = json(&run_in(root.path(), &["task", "check", "tasks/my-tickets.toml", "--format", "json"]));
    assert_eq!(report["counts"]["labels"]["test"].as_array().unwrap().len(), 2);
    assert_eq!(report["counts"]["pools"]["test"]["read"], 8);

    let again = run_in(root.path(), &["task", "new", "data/My Tickets.csv"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again).contains("--force"), "{}", text(&again));
    let forced = run_in(root.path(), &["task", "new", "data/My Tickets.csv", "--force", "--text", "id"]);
    assert!(forced.status.success(), "{}", text(&forced));
    assert!(fs::read_to_string(root.path().join("tasks/my-tickets.toml")).unwrap().contains("{{ id | context }}"));
    let bare = run_in(root.path(), &["task", "new", "data/My Tickets.csv", "--output", "mine.toml", "--name", "mine"]);
    assert!(bare.status.success(), "{}", text(&bare));
    assert!(fs::read_to_string(root.path().join("mine.toml")).unwrap().contains("path = \"data/My Tickets.csv\""));
    assert!(run_in(root.path(), &["task", "check", "mine.toml"]).status.success());
    // A guess that does not fit leaves nothing behind.
    fs::write(root.path().join("data/odd.csv"), "text,label\na b,1\nc d,1\ne f,1\n").unwrap();
    let odd = run_in(root.path(), &["task", "new", "data/odd.csv", "--label", "label", "--output", "odd/odd.toml"]);
    assert_eq!(odd.status.code(), Some(2));
    assert!(!root.path().join("odd").exists());

    // Every format that rows can have, with the tasks where grids look for them.
    fs::create_dir(root.path().join("configs")).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tasks");
    for name in ["boolq", "arc", "piqa", "anthropic_hh"] {
        let file = fixtures.join(format!("{name}.jsonl"));
        let output = run_in(root.path(), &["task", "new", file.to_str().unwrap()]);
        assert!(output.status.success(), "{name}: {}", text(&output));
        let output = run_in(root.path(), &["task", "check", name]);
        assert!(output.status.success(), "{name}: {}", text(&output));
    }
}

#[test]
fn mistakes_are_refused_with_a_remedy() {
    let data = data();
    let place = data.path().to_str().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (broken, nothing) = (file("broken.parquet", "PAR1"), file("nothing.csv", "a,b\nx y,z w\nu v,s t\nq r,o p\n"));
    let bad_task = file("bad.toml", "name = \"bad\"\ntemplat = \"x\"\n");
    let cases: Vec<(Vec<&str>, &[&str])> = vec![
        (vec!["check", "sst3", "--data", place], &["there is no task `sst3`", "did you mean `sst2`?"]),
        (vec!["check", "../tasks/sst2", "--data", place], &["`../tasks/sst2` is not the name of a task", "not a path"]),
        (vec!["check", "a\u{1b}[2Jb", "--data", place], &["`a\\u{1b}[2Jb` is not the name of a task"]),
        (vec!["check", "boolq", "--data", place], &["is not on this machine", "--data"]),
        (vec!["check", "sst2", "--data", "no/such/folder"], &["not a folder with data sets", "--data"]),
        (vec!["check", "n_train=3", "--data", place], &["no task is named"]),
        (vec!["check", "sst2", "n_train=many", "--data", place], &["command line", "many"]),
        (vec!["check", "sst2", "n_train=0", "--data", place], &["must be at least 1"]),
        (vec!["check", "sst2", "n_trian=3", "--data", place], &["n_trian"]),
        (vec!["check", "sst2", "order=openia", "--data", place], &["did you mean `openai`?"]),
        (vec!["check", "sst2", "splits.test=tset", "--data", place], &["tset"]),
        (
            vec!["check", "sst2", "label.column.name=lable", "--data", place],
            &["no column `lable`", "did you mean `label`?"],
        ),
        (
            vec!["check", "sst2", "--model", "gtp2", "--data", place],
            &["there is no model `gtp2`", "did you mean `gpt2`?"],
        ),
        (vec!["check", "sst2", "--model", "gpt2", "--data", place], &["model `gpt2`", "--models"]),
        (vec!["check", &bad_task, "--data", place], &["unknown field `templat`", "did you mean `template`?"]),
        (vec!["check", "no-such-file.toml"], &["no-such-file.toml"]),
        (vec!["new", "no-such-file.csv"], &["cannot read the data", "no-such-file.csv"]),
        (vec!["new", &broken], &["not a readable Parquet file", "get it again"]),
        (vec!["new", &nothing], &["no column looks like a label", "--label COLUMN"]),
        (vec!["new", &nothing, "--label", "c"], &["have no column `c`", "the columns are"]),
        (vec!["new", &nothing, "--name", "Bad Name"], &["not a task's name"]),
    ];
    for (arguments, expected) in cases {
        let arguments: Vec<&str> = ["task"].into_iter().chain(arguments).collect();
        let output = run(&arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(expected.iter().all(|part| said.contains(part)), "{arguments:?} without {expected:?}:\n{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    assert!(!Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/tasks/nothing.toml").exists());
}
