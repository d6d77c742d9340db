//! What stored stages say about single items, for commands that look into a finished run. Reads only.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use indexmap::IndexMap;
use serde_json::Value;

use crate::{
    Error, Result,
    error::IoContext,
    report::figure::{Fact, FactSet, Setting},
    stage,
    strategy::Split,
    task::{TaskData, world::World},
};

/// One test item: P(IK), whether the strong model's own answer is right, and where it stands.
pub struct Item {
    pub p_ik: f32,
    pub right: bool,
    pub text: String,
}

/// The test items of a setting and method with P(IK), over all seeds.
pub struct ItemSet {
    pub setting: Setting,
    pub method: String,
    pub seeds: BTreeSet<u64>,
    pub items: Vec<Item>,
}

impl ItemSet {
    /// P(IK) and whether the answer is right.
    pub fn pairs(&self) -> Vec<(f32, bool)> {
        self.items.iter().map(|item| (item.p_ik, item.right)).collect()
    }
}

/// Cells of the run whose results.csv this is.
pub fn cells(results: &Path) -> Result<Vec<Value>> {
    let path = results.with_file_name("grid.json");
    let mut record =
        json(&path).map_err(|error| error.help("single items need what `w2s run` wrote beside results.csv"))?;
    match record.get_mut("cells").map(Value::take) {
        Some(Value::Array(cells)) => Ok(cells),
        _ => Err(Error::new("the record of the run has no cells").in_file(path).help("`w2s run` writes it anew")),
    }
}

/// Refuses a run of which no stage is here, such as published results.
pub fn check_stages(cells: &[Value], store: &Path) -> Result<()> {
    let has = |stage: &str| cells.iter().any(|cell| store.join(name(cell, stage)).is_dir());
    if has("student") {
        return Ok(());
    }
    if has("ceiling") || has("supervision") {
        return Err(Error::new("no student of this run is there yet").help("`w2s run` of its grid trains them"));
    }
    Err(Error::new("the stages of this run are not here")
        .in_file(store)
        .help("name the folder of results that holds `stages` with `--results`, or let `w2s run` make them"))
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).path("read a record", path)?;
    serde_json::from_str(&text).map_err(|error| Error::new(format!("not a record: {error}")).in_file(path))
}

fn name<'a>(cell: &'a Value, key: &str) -> &'a str {
    cell[key].as_str().unwrap_or_default()
}

fn setting(cell: &Value) -> Setting {
    let [task, weak, strong] = ["task", "weak", "strong"].map(|key| name(cell, key).to_owned());
    Setting { task, weak, strong }
}

/// Which examples of a split a stage answers right.
fn right(store: &Path, stage: &str, data: &TaskData, split: Split) -> Result<Vec<bool>> {
    Ok(stage::Labels::read(&store.join(stage), split)?.right(&stage::Truth::of(data, split)?))
}

/// Test items of every setting and method with P(IK), over all finished seeds.
pub fn items(cells: &[Value], store: &Path) -> Result<Vec<ItemSet>> {
    let mut all: IndexMap<(Setting, String), ItemSet> = IndexMap::new();
    let mut read: BTreeMap<&str, TaskData> = BTreeMap::new();
    for cell in cells {
        let file = store.join(name(cell, "student")).join(stage::judged_file("p-ik"));
        // P(IK) may be about answers that nobody gave.
        if !file.is_file() || cell["answers"].is_null() {
            continue;
        }
        let knows = stage::Predictions::read(&file)?.into_rows();
        let data = match read.entry(name(cell, "data_stage")) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let data = TaskData::read(&store.join(entry.key()))?;
                entry.insert(data)
            }
        };
        let right = right(store, name(cell, "answers"), data, Split::Test)?;
        let (setting, method) = (setting(cell), name(cell, "method").to_owned());
        let set = all.entry((setting.clone(), method.clone())).or_insert_with(|| {
            let (seeds, items) = (BTreeSet::new(), vec![]);
            ItemSet { setting, method, seeds, items }
        });
        set.seeds.extend(cell["seed"].as_u64());
        for ((knows, right), example) in knows.iter().zip(right).zip(&data.test) {
            set.items.push(Item { p_ik: knows.get(1).copied().unwrap_or(0.0), right, text: example.text.clone() });
        }
    }
    Ok(all.into_values().collect())
}

/// The stage that pretrained the model which was fine-tuned in this stage, if the run did.
fn pretrained(store: &Path, fine_tuned: &str) -> Result<Option<String>> {
    let manifest = json(&store.join(fine_tuned).join("manifest.json"))?;
    let weights = manifest["parameters"]["model"]["weights"].as_str();
    Ok(weights.filter(|stage| store.join(stage).join("manifest.json").is_file()).map(str::to_owned))
}

/// The world that a pretraining stage learnt, generated again.
fn world_of(store: &Path, pretrained: &str) -> Result<Option<World>> {
    let mut manifest = json(&store.join(pretrained).join("manifest.json"))?;
    Ok(serde_json::from_value(manifest["parameters"]["world"].take()).ok())
}

/// How often questions about a fact were asked and answered right.
#[derive(Default)]
struct Tally {
    asked: usize,
    strong: usize,
    weak: usize,
}

/// The questions of a setting, by fact.
#[derive(Default)]
struct Questions {
    seeds: BTreeSet<u64>,
    texts: BTreeSet<String>,
    tallies: BTreeMap<(usize, usize), Tally>,
}

/// The facts of every setting on a generated world of whose strong model there are answers from before fine-tuning.
///
/// Questions are those of the transfer and test splits: the weak model was taught the others. Seeds share the strong model and differ in
/// how facts are split, so a fact that several seeds ask for is one fact.
pub fn facts(cells: &[Value], store: &Path) -> Result<Vec<FactSet>> {
    let mut worlds: BTreeMap<String, Option<World>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut all: IndexMap<(Setting, String), Questions> = IndexMap::new();
    for cell in cells {
        let [ceiling, answers, supervision, data] =
            ["ceiling", "answers", "supervision", "data_stage"].map(|key| name(cell, key));
        // Without a stage of answers, a cell names its student.
        let own = answers != name(cell, "student");
        let there =
            [ceiling, answers, supervision].iter().all(|stage| store.join(stage).join("manifest.json").is_file());
        let setting = setting(cell);
        if !own || !there || !seen.insert((setting.clone(), cell["seed"].as_u64())) {
            continue;
        }
        let Some(stage) = pretrained(store, ceiling)? else { continue };
        if !worlds.contains_key(&stage) {
            worlds.insert(stage.clone(), world_of(store, &stage)?);
        }
        let Some(Some(world)) = worlds.get(&stage) else { continue };
        let data = TaskData::read(&store.join(data))?;
        for split in [Split::Transfer, Split::Test] {
            let examples = stage::part(&data, split);
            let facts = world.asked(examples.iter().map(|example| example.text.trim()));
            let (strong, weak) = (right(store, answers, &data, split)?, right(store, supervision, &data, split)?);
            for (((example, fact), strong), weak) in examples.iter().zip(facts).zip(&strong).zip(&weak) {
                let Some(fact) = fact else { continue };
                let questions = all.entry((setting.clone(), stage.clone())).or_default();
                questions.seeds.extend(cell["seed"].as_u64());
                questions.texts.insert(example.text.clone());
                let tally = questions.tallies.entry(fact).or_default();
                tally.asked += 1;
                tally.strong += usize::from(*strong);
                tally.weak += usize::from(*weak);
            }
        }
    }
    let set = |((setting, stage), Questions { seeds, texts, tallies }): ((Setting, String), Questions)| {
        let told = worlds.get(&stage)?.as_ref()?.told();
        let fact = |((attribute, entity), tally): ((usize, usize), Tally)| Fact {
            told: told[attribute][entity],
            strong: tally.strong as f64 / tally.asked as f64,
            weak: Some(tally.weak as f64 / tally.asked as f64),
        };
        let facts = tallies.into_iter().map(fact).collect();
        Some(FactSet { setting, seeds, questions: texts.len(), facts })
    };
    Ok(all.into_iter().filter_map(set).collect())
}
