//! A file is enough: in a copy of the repository, the example of docs/plugin.md is put into `plugins/` as it is, and one file of each other kind
//! of part into its folder. Then all of them are listed, run in a grid, and the strategies pass the tests of every strategy, with nothing else
//! edited.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::text;

/// Makes a folder the copy of another, leaving alone what is the same already: cargo goes by the time of a file.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for gone in fs::read_dir(to).unwrap().flatten().filter(|entry| !from.join(entry.file_name()).exists()) {
        let path = gone.path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            write(&to, &fs::read(&from).unwrap());
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    if fs::read(path).ok().as_deref() != Some(bytes) {
        fs::write(path, bytes).unwrap();
    }
}

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", text(&output));
    output
}

/// What is added, and how many files are edited or added for it: one of each. ARCHITECTURE.md has the table.
const PARTS: [(&str, &str, &str); 7] = [
    ("a kind of stage", "kind.rs", "core/src/stage/kinds/lengths.rs"),
    ("a column", "column.rs", "core/src/grid/columns/length.rs"),
    ("a supervisor", "supervisor.rs", "plugins/contrary.rs"),
    ("a label rule", "rule.rs", "core/src/task/rules/among.rs"),
    ("a metric", "metric.rs", "core/src/report/measures/first_class_rate.rs"),
    ("an architecture", "architecture.rs", "core/src/model/arch/twin.rs"),
    ("a task", "task.toml", "tests/fixtures/tiny/tasks/among.toml"),
];

/// Files of a folder that are not those of another.
fn differing(one: &Path, other: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(one).unwrap().flatten() {
        let (ours, theirs) = (entry.path(), other.join(entry.file_name()));
        if ours.is_dir() {
            differing(&ours, &theirs, found);
        } else if fs::read(&ours).ok() != fs::read(&theirs).ok() {
            found.push(ours);
        }
    }
}

#[test]
fn one_file_is_enough_for_every_kind_of_part() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scratch-copy");
    for folder in ["core", "strategies", "plugins", "benches", "configs", "tests", "docs"] {
        copy(&repository.join(folder), &scratch.join(folder));
    }
    for file in ["modules.rs", "Cargo.lock"] {
        write(&scratch.join(file), &fs::read(repository.join(file)).unwrap());
    }
    // Another name for the binary, so that the dependencies' build can be shared without overwriting the one under test.
    let manifest = fs::read_to_string(repository.join("Cargo.toml")).unwrap();
    let manifest = manifest.replace("[[bin]]\nname = \"w2s\"", "[[bin]]\nname = \"w2s-scratch\"");
    write(&scratch.join("Cargo.toml"), manifest.as_bytes());
    let support = fs::read_to_string(repository.join("tests/support.rs")).unwrap();
    let support = support.replace("CARGO_BIN_EXE_w2s", "CARGO_BIN_EXE_w2s-scratch");
    write(&scratch.join("tests/support.rs"), support.as_bytes());

    let example = fs::read_to_string(repository.join("docs/focal.rs")).unwrap();
    assert!(example.lines().count() < 60, "the example has grown");
    write(&scratch.join("plugins/focal.rs"), example.as_bytes());
    let mut edited = Vec::new();
    for (part, file, place) in PARTS {
        assert!(!repository.join(place).exists(), "{part}");
        let content = fs::read(repository.join("tests/fixtures/one_file").join(file)).unwrap();
        write(&scratch.join(place), &content);
        edited.push(scratch.join(place));
    }
    // Nothing else differs: one place to edit for each.
    let mut found = Vec::new();
    for folder in ["core", "strategies", "plugins", "configs", "tests/fixtures"] {
        differing(&scratch.join(folder), &repository.join(folder), &mut found);
    }
    found.retain(|path| !path.ends_with("plugins/focal.rs"));
    found.sort();
    edited.sort();
    assert_eq!(found, edited);

    let target: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    // The whole workspace's tests, as this one is built: any other choice of targets resolves other features, and Burn is built again.
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(&scratch)
            .args(["test", "--workspace", "--test", "integration", "--release", "--offline", "--target-dir"])
            .arg(&target)
            .args(arguments);
        for package in ["w2s", "w2s-core", "w2s-strategies", "w2s-plugins"] {
            // What is looked at here is not speed.
            command.args(["--config", &format!("profile.release.package.{package}.opt-level=0")]);
        }
        command
    };
    done(&mut cargo(&["--no-run"]));
    let binary = target.join("release/w2s-scratch");

    let list = done(Command::new(&binary).current_dir(&scratch).args(["list", "losses", "--format", "json"]));
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let card = list["losses"].as_array().unwrap().iter().find(|card| card["name"] == "focal").unwrap();
    assert_eq!(card["paper"], "Lin et al. 2017, Focal Loss for Dense Object Detection");
    assert!(card["source"].as_str().unwrap().starts_with("plugins/focal.rs:"), "{card}");

    let schema = done(Command::new(&binary).current_dir(&scratch).args(["schema", "grid"]));
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["definitions"]["loss.focal"]["properties"]["gamma"]["default"], 2.0);

    let results = tempfile::tempdir().unwrap();
    let run = done(
        Command::new(&binary)
            .current_dir(&scratch)
            .args(["run", "tests/fixtures/tiny/grid.toml", "methods=focal", "seeds=0", "--device", "cpu", "--results"])
            .arg(results.path()),
    );
    assert!(String::from_utf8_lossy(&run.stdout).contains("focal"));
    let rows = fs::read_to_string(results.path().join("tiny/results.csv")).unwrap();
    assert!(rows.lines().any(|row| row.contains(",focal,") && row.contains(",accuracy,")), "{rows}");

    // A grid with one part of each kind, beside the tiny ones.
    let grid = fs::read(repository.join("tests/fixtures/one_file/grid.toml")).unwrap();
    write(&scratch.join("tests/fixtures/tiny/one-file.toml"), &grid);
    done(
        Command::new(&binary)
            .current_dir(&scratch)
            .args(["run", "tests/fixtures/tiny/one-file.toml", "--device", "cpu", "--results"])
            .arg(results.path()),
    );
    fs::remove_file(scratch.join("tests/fixtures/tiny/one-file.toml")).unwrap();
    let rows = fs::read_to_string(results.path().join("one-file/results.csv")).unwrap();
    for (method, supervisor) in [("mine", "contrary"), ("weak", "contrary"), ("ceiling", "")] {
        let is = |row: &&str| row.contains(",first_class_rate,") && row.contains(&format!(",{method},0,,test,"));
        let row = rows.lines().find(is).unwrap_or_else(|| panic!("{method}\n{rows}"));
        assert!(row.contains(",among,among,twin,tiny-strong,") && row.contains(supervisor), "{row}");
    }
    // The column left out the shorter texts, and its stage is one like any other.
    let kept = rows.lines().find(|row| row.contains(",kept,")).unwrap_or_else(|| panic!("{rows}"));
    assert!(kept.contains(",judged,") && !kept.contains(",kept,1.0,"), "{kept}");
    let stages = fs::read_to_string(results.path().join("one-file/timings.csv")).unwrap();
    assert!(stages.contains("lengths-"), "{stages}");

    let tests = done(cargo(&[]).args(["--", "conformance::", "registry::"]));
    let said = String::from_utf8_lossy(&tests.stdout).into_owned();
    assert!(said.contains("test result: ok") && !said.contains(" 0 passed"), "{said}");
}
