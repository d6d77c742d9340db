//! What several of these tests need: the binary, and models as files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use burn::tensor::Device;
use serde_json::{Map, Value, json};
use w2s_core::{
    Result,
    document::Document,
    grid::{Grid, Library, Places, Plan},
    learner::{Every, Execution},
    stage::{Bench, Numeric, Place, Store},
    task::Sources,
};

/// The binary in a folder, with nothing of the user's surroundings.
pub fn w2s_in(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_w2s"));
    command.current_dir(folder).env_remove("W2S_DATA").env_remove("W2S_MODELS");
    command.env("HF_HUB_OFFLINE", "1").env("NO_COLOR", "1");
    command
}

/// The binary in the repository.
pub fn w2s() -> Command {
    w2s_in(Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// Everything that it said.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether an error names a remedy, or is one: what a value must be.
pub fn says_what_to_do(said: &str) -> bool {
    // Lines of the file that is at fault are shown too, with their numbers.
    let mut own = said.lines().filter(|line| !line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    own.any(|line| ["help: ", "must be", "stands twice", "is empty"].iter().any(|part| line.contains(part)))
}

/// The folder of tiny grids, tasks, models and worlds.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny")
}

/// A copy of [`tiny`]'s tasks, models and worlds, to put others beside.
pub fn tiny_copy(to: &Path) {
    for kind in ["worlds", "tasks", "models", "suites"] {
        fs::create_dir_all(to.join(kind)).unwrap();
        for entry in fs::read_dir(tiny().join(kind)).unwrap().flatten() {
            fs::copy(entry.path(), to.join(kind).join(entry.file_name())).unwrap();
        }
    }
}

/// A grid of files that need no hub, with changes as on the command line; stages go to `stages` in a folder.
pub fn plan(grid: &Path, changes: &[&str], folder: &Path) -> Result<(Plan, Store)> {
    plan_for(grid, changes, folder, Numeric::default())
}

/// [`plan`] for another numeric mode.
pub fn plan_for(grid: &Path, changes: &[&str], folder: &Path, numeric: Numeric) -> Result<(Plan, Store)> {
    let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
    let document = Document::open(grid)?.with_overrides(&changes)?;
    let library = Library::beside(grid);
    let store = Store::open(folder.join("stages"))?;
    let places = Places { sources: Sources { roots: vec![], hub: None }, models: vec![] };
    Ok((Plan::make(Grid::read(&document, &library)?, &library, &places, &store, numeric)?, store))
}

/// Where the stages of a plan are done in this process.
pub fn bench<'a>(plan: &'a Plan, store: &'a Store) -> Bench<'a> {
    plan.bench(
        store,
        Place {
            device: Device::flex(),
            name: "cpu".to_owned(),
            execution: Execution::default(),
            checkpoint_every: Every::Never,
        },
    )
}

/// Every stage in this process, inputs first.
pub fn run_here(plan: &Plan, store: &Store) {
    let bench = bench(plan, store);
    for job in plan.jobs.values() {
        job.stage.make(&bench).unwrap();
    }
}

/// A `tokenizer.json` of whole words: the letter followed by 0 to 31, which are their ids.
pub fn word_tokenizer(letter: char) -> Value {
    let words: Map<String, Value> = (0..32).map(|id| (format!("{letter}{id}"), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": format!("{letter}0") }
    })
}

/// Type, shape and bytes of the tensors of a file.
pub type Tensors = BTreeMap<String, (&'static str, Vec<usize>, Vec<u8>)>;

pub fn bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Tensors from nested lists of numbers, as golden files have them.
pub fn tensors(weights: &Value) -> Tensors {
    fn walk(value: &Value, depth: usize, shape: &mut Vec<usize>, flat: &mut Vec<f32>) {
        let Value::Array(items) = value else { return flat.push(value.as_f64().unwrap() as f32) };
        if shape.len() == depth {
            shape.push(items.len());
        }
        items.iter().for_each(|item| walk(item, depth + 1, shape, flat));
    }
    let tensor = |(name, value): (&String, &Value)| {
        let (mut shape, mut flat) = (Vec::new(), Vec::new());
        walk(value, 0, &mut shape, &mut flat);
        (name.clone(), ("F32", shape, bytes(flat)))
    };
    weights.as_object().unwrap().iter().map(tensor).collect()
}

/// The bytes of a safetensors file.
pub fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let mut data = Vec::new();
    let mut header = Map::new();
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        data.extend(bytes);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file of any header.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}
