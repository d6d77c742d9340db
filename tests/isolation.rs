//! Strategies that fail in every way there is, among others that do not. This program is a `w2s` that has them, and the test that runs it: the
//! strategies of w2s itself behave.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    hint::black_box,
    path::Path,
    process::{Command, ExitCode, Output},
    time::Duration,
};

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use w2s_core::{
    register,
    strategy::{Progress, StudentLoss, math},
};
// A crate that is only listed in Cargo.toml is not linked, and its strategies would not exist.
use w2s_strategies as _;

#[global_allocator]
static ALLOCATOR: w2s_core::alloc::Allocator = w2s_core::alloc::Allocator;

/// A loss that does not work.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Bad {
    how: How,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum How {
    #[default]
    Panics,
    NotFinite,
    Aborts,
    Allocates,
    Hangs,
}

impl StudentLoss for Bad {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        match self.how {
            How::Panics => panic!("nobody expected this"),
            How::NotFinite => math::rows(targets * logits * f32::NAN),
            How::Aborts => std::process::abort(),
            // More than any machine has.
            How::Allocates => math::rows(targets * black_box(Vec::<u8>::with_capacity(1 << 60)).len() as f32),
            How::Hangs => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
        }
    }
}

register!(loss "bad" for Bad, paper = "original");

/// Set for this program when it is to be `w2s`.
const IS_W2S: &str = "W2S_TEST_IS_W2S";
const NAME: &str = "five_bad_strategies_leave_seven_good_cells_alone";

#[expect(clippy::print_stdout, reason = "a test that brings its own `main` says itself what became of it")]
fn main() -> ExitCode {
    if env::var_os(IS_W2S).is_some() {
        return w2s_core::cli::main(None);
    }
    // What the usual harness takes: filters, what is to be left out, and the wish for a list.
    let (mut filters, mut wanted, mut words) = (Vec::new(), true, env::args().skip(1));
    while let Some(word) = words.next() {
        match word.as_str() {
            "--list" => {
                println!("{NAME}: test");
                return ExitCode::SUCCESS;
            }
            "--skip" => wanted &= !words.next().is_some_and(|name| NAME.contains(&name)),
            "--test-threads" | "--color" | "--format" => drop(words.next()),
            option if option.starts_with('-') => {}
            _ => filters.push(word),
        }
    }
    if wanted && (filters.is_empty() || filters.iter().any(|filter| NAME.contains(filter.as_str()))) {
        five_bad_strategies_leave_seven_good_cells_alone();
        println!("test {NAME} ... ok");
    }
    ExitCode::SUCCESS
}

fn w2s(arguments: &[&str], results: &Path) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("W2S_DATA").env_remove("W2S_MODELS");
    command.env(IS_W2S, "1").env("HF_HUB_OFFLINE", "1").env("NO_COLOR", "1");
    command.args(arguments).arg("--results").arg(results).output().unwrap()
}

/// What fails: method, kind of failure, and a part of what is said.
const BAD: [(&str, &str, &str); 5] = [
    // First, so that others are made while it is waited for.
    ("hangs", "time-out", "longer than 20 seconds"),
    ("panics", "panic", "nobody expected this"),
    ("not-finite", "not-finite", "step"),
    ("aborts", "panic", "signal 6"),
    ("allocates", "out-of-memory", "1152921504606846976 bytes"),
];
const GOOD: [&str; 7] = ["cross-entropy", "gce", "brier", "js", "reverse-kl", "total-variation", "cace"];

fn five_bad_strategies_leave_seven_good_cells_alone() {
    let folder = tempfile::tempdir().unwrap();
    let bad = BAD.map(|(how, ..)| format!("method.{how}={{ loss = {{ type = \"bad\", how = \"{how}\" }} }}"));
    let good = GOOD.map(|loss| format!("method.{loss}={{ loss = {{ type = \"{loss}\" }} }}"));
    let methods: Vec<&str> = BAD.iter().map(|(how, ..)| *how).chain(GOOD).collect();
    let methods = format!("methods={}", methods.join(","));
    let mut arguments = vec!["run", "tests/fixtures/tiny/grid.toml", "--device", "cpu", "--timeout", "20s", "seeds=0"];
    arguments.push(&methods);
    arguments.extend(bad.iter().chain(&good).map(String::as_str));
    let output = w2s(&arguments, folder.path());
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(output.status.code(), Some(1), "{said}");

    let lines = fs::read_to_string(folder.path().join("tiny/failures.jsonl")).unwrap_or_default();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), BAD.len(), "{records:#?}\n{said}");
    for (method, kind, message) in BAD {
        let of_method = |record: &&Value| record["what"].as_str().unwrap().split("  ").any(|part| part == method);
        let record = records.iter().find(of_method).unwrap_or_else(|| panic!("{method}: {records:#?}"));
        assert!(record["kind"] == kind && record["message"].as_str().unwrap().contains(message), "{method}: {record}");
        assert!(record["attempts"] == 1 && Path::new(record["log"].as_str().unwrap()).is_file(), "{method}: {record}");
    }
    let rows = fs::read_to_string(folder.path().join("tiny/results.csv")).unwrap();
    let measured = |method: &&str| rows.lines().any(|row| row.contains(&format!(",{method},")) && row.contains(",ok,"));
    assert!(GOOD.iter().all(measured) && !BAD.iter().any(|(method, ..)| measured(method)), "{rows}");

    let status = w2s(&["status", "--json"], folder.path());
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let cells = status[0]["states"].as_array().unwrap().iter();
    let states: BTreeMap<&str, &str> =
        cells.map(|cell| (cell["method"].as_str().unwrap(), cell["state"].as_str().unwrap())).collect();
    let in_state = |state| states.iter().filter(|(_, is)| **is == state).map(|(method, _)| *method).collect();
    let (done, failed): (BTreeSet<&str>, BTreeSet<&str>) = (in_state("done"), in_state("failed"));
    assert_eq!((done, failed), (GOOD.into(), BAD.map(|(method, ..)| method).into()), "{status:#}");
}
