//! What stages compute, beside the identity that they compute it under.
//!
//! An identity says that a result need not be computed again. Where a result changes and its identity does not, old results are passed off as
//! new ones; so this test runs a small stage of every kind, and a student with every strategy at its defaults, and compares what they left
//! behind with `golden/outputs.txt`. Whoever means to change a result raises the version of the stage (`Stage::version`) or of the strategy
//! (`register!`), for exactly the configurations that it concerns, and then this file.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use burn::tensor::Device;
use w2s_core::{
    document::Document,
    grid::{Grid, Library, Places, Plan},
    learner::{Every, Execution, Recipe},
    model::HeadConfig,
    stage::{Numeric, Place, Store, canonical},
    strategy::{Kind, Settings, all},
    task::Sources,
};

/// CPUs differ in the last digits, and training adds to that: adding in another order moves these numbers by less than 1e-6, what a method does by
/// 1e-5 at least, mostly by more than 1e-3.
const TOLERANCE: f64 = 5e-6;

/// What the defaults of some strategies refuse on data this small, or cannot do without.
fn with(kind: Kind, name: &str) -> &'static str {
    match (kind, name) {
        (Kind::Selector, "confidence") => ", threshold = 0.5",
        (Kind::Selector, "lm-confidence") => ", threshold = 0.5",
        (Kind::Selector, "p-ik" | "random-own") => ", gamma = 0.4",
        (Kind::Selector, "window") => ", radius = 0.4",
        _ => "",
    }
}

/// Strategies that another grid has, or that need a file, which tests/supervisors.rs writes.
const ELSEWHERE: [(Kind, &str); 5] = [
    (Kind::Supervisor, "chain"),
    (Kind::Supervisor, "ensemble"),
    (Kind::Supervisor, "file"),
    (Kind::Supervisor, "prompted"),
    (Kind::Loss, "margin"),
];

/// What came later than the first grid: supervisors that ask for more than one model, and answers in words.
const FURTHER: &str = r#"
[grid]
name = "further"
tasks = ["tiny-home", "tiny-home-words"]
pairs = [{ weak = "tiny-weak", strong = "tiny-hasty" }]
methods = ["bagged", "chained", "prompted", "own", "judged", "numbered"]
seeds = [0]
[train]
epochs = 10
batch_size = 8
[model.tiny-weak.train]
learning_rate = 1e-2
[model.tiny-hasty.train]
learning_rate = 4e-3
[agrees]
balance = "weight"
train = { epochs = 5 }
[method.bagged]
supervisor = { type = "ensemble", copies = 2, rows = "bagged" }
[method.chained]
supervisor = { type = "chain" }
[method.prompted]
supervisor = { type = "prompted", model = "strong", shots = 2 }
[method.own]
selector = { type = "agreement" }
self_labels = { source = "precomputed-generation", shots = 2 }
[method.judged]
supervisor = { type = "mixed-truth", share = 0.5 }
selector = { type = "judged", threshold = 0.3 }
phases = [{ selector = { type = "all" } }, {}]
[method.numbered]
lm_confidence = { shots = 2 }
agreement = { shots = 2 }
"#;

/// Several tasks with one student.
const SUITE: &str = r#"
[grid]
name = "suite"
suites = ["tiny-words"]
pairs = [{ weak = "tiny-weak", strong = "tiny-hasty" }]
methods = ["cross-entropy", "relabelled", "without"]
seeds = [0]
[train]
epochs = 10
batch_size = 8
[model.tiny-weak.train]
learning_rate = 1e-2
[model.tiny-hasty.train]
learning_rate = 4e-3
[method.relabelled]
selector = { type = "own", share = 0.5 }
self_labels = { source = "student" }
[method.without]
without = ["tiny-food-words"]
"#;

/// A loss that reads a column, texts that are learnt before answers, and votes.
const LATER: &str = r#"
[grid]
name = "later"
tasks = ["tiny-home"]
pairs = [{ weak = "tiny-weak", strong = "tiny-hasty" }]
methods = ["margin", "texts", "votes"]
seeds = [0]
[data]
n_validation = 10
[train]
epochs = 3
batch_size = 8
[model.tiny-weak.train]
learning_rate = 1e-2
[model.tiny-hasty.train]
learning_rate = 4e-3
[method.margin]
loss = { type = "margin", column = "lm-confidence" }
lm_confidence = { shots = 2 }
[method.texts]
phases = [{ aim = "text" }, {}]
[method.votes]
votes = { by = "samples", shots = 2 }
"#;

/// A grid with every strategy that comes with w2s, one at a time.
fn grid() -> String {
    let mut methods = String::new();
    let mut names = vec!["joint".to_owned(), "frozen".to_owned(), "own-head".to_owned(), "encoder".to_owned()];
    for card in all().into_iter().filter(|card| card.source().starts_with("strategies/")) {
        if ELSEWHERE.contains(&(card.kind, card.name)) {
            continue;
        }
        let name = format!("{}-{}", card.kind, card.name);
        let parameters = with(card.kind, card.name);
        let _ = writeln!(methods, "[method.{name}]\n{} = {{ type = \"{}\"{parameters} }}", card.kind, card.name);
        names.push(name);
    }
    format!(
        "[grid]\nname = \"outputs\"\ntasks = [\"tiny-home\"]\npairs = [{{ weak = \"tiny-weak\", strong = \"tiny-hasty\" }}]\n\
         methods = {names:?}\nseeds = [0]\n[data]\nn_validation = 10\n[train]\nepochs = 3\nbatch_size = 8\n\
         [model.tiny-weak.train]\nlearning_rate = 1e-2\n[model.tiny-hasty.train]\nlearning_rate = 4e-3\n\
         [p_ik]\ntask = \"tiny-food\"\nshots = 2\nbatch_size = 8\nschedule = \"pretrain-then-joint\"\n\
         [self_labels]\nshots = 2\nkind = \"soft\"\n\
         [method.joint]\np_ik = {{ schedule = \"joint\" }}\n[method.frozen]\np_ik = {{ schedule = \"pretrain-then-freeze\" }}\n\
         [method.own-head]\nself_labels = {{ source = \"ema-head\" }}\n[method.encoder]\np_ik = {{ answers = \"classifier\" }}\n\
         {methods}"
    )
}

/// All numbers of a stage's file, in order.
fn numbers(file: &Path) -> Vec<f64> {
    let bytes = fs::read(file).unwrap();
    if file.extension().is_some_and(|extension| extension == "f32") {
        return bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
    }
    let text = String::from_utf8(bytes).unwrap();
    if file.extension().is_some_and(|extension| extension == "jsonl") {
        let answer = |line: &str| -> Vec<f64> {
            let answer: serde_json::Value = serde_json::from_str(line).unwrap();
            let letters = answer["raw"].as_str().unwrap().bytes().map(|byte| f64::from(byte) / 100.0);
            letters.chain(answer["log_p"].as_f64()).collect()
        };
        return text.lines().flat_map(answer).collect();
    }
    // Numbers of rows and steps say nothing and outweigh everything.
    let counted = text.starts_with("row,") || text.starts_with("step,");
    let cells = text.lines().skip(1).flat_map(|line| line.split(',').skip(usize::from(counted)));
    cells.filter_map(|cell| cell.parse().ok()).collect()
}

/// Mean of squares, and mean with weights that no two neighbours share: in another order it is another one.
fn digest(numbers: &[f64]) -> [f64; 2] {
    let mean = |term: &dyn Fn(usize, f64) -> f64| {
        let terms = numbers.iter().enumerate().map(|(place, number)| term(place, *number));
        terms.sum::<f64>() / numbers.len().max(1) as f64
    };
    [mean(&|_, number| number * number), mean(&|place, number| number * (place * 37 % 101) as f64 / 101.0)]
}

fn golden(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

fn plans(store: &Store) -> [Plan; 4] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny/outputs.toml");
    [grid(), FURTHER.to_owned(), SUITE.to_owned(), LATER.to_owned()].map(|text| {
        let document = Document::parse(&path, &text).unwrap();
        let library = Library::beside(&path);
        let places = Places { sources: Sources { roots: vec![], hub: None }, models: vec![] };
        let grid = Grid::read(&document, &library).unwrap();
        Plan::make(grid, &library, &places, store, Numeric::default()).unwrap()
    })
}

/// A key that is added to any settings must leave identities alone while it stands at its default: it goes into `Settings::later`, or into the
/// `later` of `register!`.
#[test]
fn what_enters_identities_stays() {
    let folder = tempfile::tempdir().unwrap();
    let plans = plans(&Store::open(folder.path()).unwrap());
    let line = |name: &str, value: &serde_json::Value| format!("{name}  {}", canonical(value));
    let mut lines = vec![
        line("recipe", &Recipe::default().identity().unwrap()),
        line("head", &HeadConfig::default().identity().unwrap()),
    ];
    let mut kinds = BTreeSet::new();
    for job in plans.iter().flat_map(|plan| plan.jobs.values()) {
        // Each kind once, on classes and on words, and the student of each way to know.
        let parameters = job.stage.whole_parameters(&Numeric::default()).unwrap();
        let p_ik = match (&parameters["p_ik"]["from"], &parameters["p_ik"]["start"]) {
            (from, _) if from == "frozen" => " frozen",
            (from, start) if from == "joint" && start.is_null() => " joint",
            (from, _) if from == "joint" => " started",
            _ => "",
        };
        let words = parameters["model"].get("writing").is_some() || parameters.get("ends").is_some();
        let name = format!("{}{p_ik}{}", job.stage.kind(), if words { " words" } else { "" });
        if kinds.insert(name.clone()) {
            lines.push(line(&name, &parameters));
        }
    }
    for card in all().into_iter().filter(|card| card.source().starts_with("strategies/")) {
        lines.push(line(&format!("{}/{}", card.kind, card.name), &card.identity(&(card.example)()).unwrap()));
    }
    let golden = golden("parameters.txt");
    let differ: Vec<&String> = lines.iter().filter(|line| !golden.lines().any(|known| known == *line)).collect();
    assert!(
        differ.is_empty() && lines.len() == golden.lines().count(),
        "these differ:\n{differ:#?}\n\nAll of them now:\n{}\n",
        lines.join("\n")
    );
}

#[test]
fn outputs_stay_under_their_identities() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let plans = plans(&store);
    let mut seen = BTreeSet::new();
    let place = Place {
        device: Device::flex(),
        name: "cpu".to_owned(),
        execution: Execution::default(),
        checkpoint_every: Every::Never,
    };
    let mut lines = Vec::new();
    let stages =
        plans.iter().flat_map(|plan| plan.labels().into_iter().zip(plan.jobs.values()).map(move |of| (plan, of)));
    for (plan, ((id, label), job)) in stages {
        if !seen.insert(id.clone()) {
            continue;
        }
        let stage =
            job.stage.make(&plan.bench(&store, place.clone())).unwrap_or_else(|error| panic!("{label}: {error}"));
        for name in stage.manifest.files.keys().filter(|name| !name.contains('/')) {
            let found = numbers(&stage.file(name));
            let [squares, weighted] = digest(&found);
            lines.push(format!(
                "{}  {id}  {name}  {}  {squares:.7} {weighted:.7}",
                label.replace("  ", " "),
                found.len()
            ));
        }
    }
    let golden = golden("outputs.txt");
    let golden: Vec<&str> = golden.lines().collect();
    let same = |(now, then): (&String, &&str)| {
        let parts = |line: &str| -> (String, Vec<f64>) {
            let (what, numbers) = line.rsplit_once("  ").unwrap();
            (what.to_owned(), numbers.split(' ').map(|number| number.parse().unwrap()).collect())
        };
        let ((now, ours), (then, theirs)) = (parts(now), parts(then));
        now == then && ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= TOLERANCE)
    };
    let differ: Vec<String> = lines
        .iter()
        .zip(&golden)
        .filter(|pair| !same(*pair))
        .map(|(now, then)| format!("now  {now}\nthen {then}"))
        .collect();
    assert!(
        lines.len() == golden.len() && differ.is_empty(),
        "{} lines, {} known; these differ:\n{}\n\nAll of them now:\n{}\n",
        lines.len(),
        golden.len(),
        differ.join("\n"),
        lines.join("\n")
    );
}
