//! Trainings that are killed or asked to stop, and go on from their checkpoints as if nothing had happened.

use std::path::Path;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor},
};
use serde_json::{Value, json};
use w2s_core::{
    Result,
    learner::{
        Answering, Checkpoints, Encoded, Execution, Objective, OwnLabels, Passage, Recipe, Texts, TrainLog, Trained,
        train_classifier, train_words,
    },
    model::{Classifier, HeadConfig, Spec, Transformer},
    rng::Rng,
    strategy::{
        Calibration, Card, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, Form, Kind, LabelRefiner, Selector,
        StudentLoss, all,
    },
};

const VOCABULARY: usize = 20;
const EXAMPLES: usize = 40;

fn spec() -> Spec {
    let config = json!({
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2,
    });
    Spec::parse(&config.to_string(), Path::new("config.json")).unwrap()
}

fn model() -> Transformer {
    Transformer::init(&spec(), 1, &Device::flex()).unwrap()
}

fn texts(name: &str) -> Vec<Vec<u32>> {
    let mut rng = Rng::named(7, name);
    let mut text = || (0..1 + rng.below(4)).map(|_| rng.below(VOCABULARY) as u32).collect();
    (0..EXAMPLES).map(|_| text()).collect()
}

fn rows(name: &str, width: usize) -> Vec<Vec<f32>> {
    let mut rng = Rng::named(8, name);
    let mut row = || {
        let row: Vec<f32> = (0..width).map(|_| 0.05 + rng.uniform() as f32).collect();
        let sum: f32 = row.iter().sum();
        row.into_iter().map(|value| value / sum).collect()
    };
    (0..EXAMPLES).map(|_| row()).collect()
}

/// A method of one strategy, with all that it may ask for.
fn objective(card: &Card, form: Form) -> Option<Objective> {
    let configured = json!({ "type": card.name });
    let read = |what: &Value| -> Box<dyn ConfiguredLoss> { serde_json::from_value(what.clone()).unwrap() };
    let mut loss: Box<dyn StudentLoss> = read(&json!({ "type": "cross-entropy" }));
    let mut selector: Option<Box<dyn Selector>> = None;
    let mut refiner: Option<Box<dyn LabelRefiner>> = None;
    let fits = match card.kind {
        Kind::Loss => {
            loss = read(&configured);
            loss.fits(form)
        }
        Kind::Selector => {
            let configured: Box<dyn ConfiguredSelector> = serde_json::from_value(configured).unwrap();
            let fits = configured.fits(form);
            selector = Some(configured);
            fits
        }
        Kind::Refiner => {
            let configured: Box<dyn ConfiguredRefiner> = serde_json::from_value(configured).unwrap();
            let fits = configured.fits(form);
            refiner = Some(configured);
            fits
        }
        Kind::Supervisor => return None,
    };
    fits.ok()?;
    let words = form == Form::Words;
    let one_hot = |column: usize| vec![(0..2).map(|other| f32::from(other == column)).collect::<Vec<f32>>(); EXAMPLES];
    let labels = if words { one_hot(0) } else { rows("labels", 2) };
    let columns = selector.as_ref().map(|selector| selector.columns()).unwrap_or_default();
    let columns = columns.into_iter().chain(refiner.as_ref().map(|refiner| refiner.columns()).unwrap_or_default());
    let numbers = |name: &str| rows(name, 2).into_iter().map(|row| row[0]).collect::<Vec<f32>>();
    Some(Objective {
        self_labels: Some(OwnLabels::Given(if words { one_hot(1) } else { rows("own", 2) })),
        truth: Some((0..EXAMPLES).map(|row| (row % 3 == 0).into()).collect()),
        calibration: (!words).then(|| Calibration {
            weak: rows("held out", 2),
            truth: (0..EXAMPLES).map(|row| (row % 2).try_into().unwrap()).collect(),
        }),
        embeddings: Some(rows("embeddings", 8)),
        columns: columns.chain(loss.columns()).map(|name| (name.clone(), numbers(&name))).collect(),
        selector,
        refiner,
        record: true,
        ..Objective::new(labels, loss)
    })
}

/// Every bit of a model.
fn bits(model: &impl Module) -> Vec<u32> {
    struct Bits(Vec<u32>);
    impl ModuleVisitor for Bits {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>().map(f32::to_bits));
        }
    }
    let mut bits = Bits(Vec::new());
    model.visit(&mut bits);
    bits.0
}

fn learn(card: &Card, form: Form, execution: &Execution) -> Option<Result<(Vec<u32>, TrainLog)>> {
    fn end<M: Module>(trained: Trained<M>) -> (Vec<u32>, TrainLog) {
        (bits(&trained.model), trained.log)
    }
    let objective = objective(card, form)?;
    let recipe = Recipe { epochs: 1, batch_size: 8, learning_rate: 1e-2, ..Recipe::default() };
    let data = Encoded::new(texts("prompts"), &spec()).unwrap();
    Some(if form == Form::Words {
        let texts =
            Texts { answers: vec![texts("weak"), texts("own")], end_token: Some(0), answering: Answering::default() };
        train_words(model(), &data, objective, texts, &recipe, 3, execution).map(end)
    } else {
        let model = Classifier::new(model(), &HeadConfig::default(), 2, 1, None).unwrap();
        train_classifier(model, &data, objective, &recipe, 3, execution).map(end)
    })
}

/// Whatever a strategy carries from step to step lies in its `Memory`, or a training that goes on would end otherwise.
#[test]
fn every_registered_strategy_goes_on_as_if_nothing_had_happened() {
    let forms = [Form::Classes(2), Form::Words];
    let mut count = 0;
    for (card, form) in all().into_iter().flat_map(|card| forms.map(|form| (card, form))) {
        let Some(whole) = learn(card, form, &Execution::default()) else { continue };
        let whole = whole.unwrap_or_else(|error| panic!("{} on {form}: {error}", card.name));
        let steps = whole.1.steps.len();
        let folder = tempfile::tempdir().unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        let checkpoints = Checkpoints {
            folder: folder.path().join("checkpoints"),
            aside: folder.path().join("aside"),
            training: json!(card.name),
            every: "2steps".parse().unwrap(),
            tell: std::sync::Arc::new(move |passage| said.send(passage).unwrap()),
        };
        let execution = Execution { checkpoints: Some(checkpoints), ..Execution::default() };
        // Once to write them, once to go on from the last.
        for _ in 0..2 {
            assert!(learn(card, form, &execution).unwrap().unwrap() == whole, "{} on {form}", card.name);
        }
        let last = (steps - 1) / 2 * 2;
        let resumed = (last > 0).then_some(Passage::Resumed { step: last, steps });
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), resumed.into_iter().collect::<Vec<_>>(), "{}", card.name);
        count += usize::from(last > 0);
    }
    assert!(count > 60, "{count} strategies and forms");
}

#[cfg(target_os = "linux")]
mod processes {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
        io::Read,
        path::{Path, PathBuf},
        process::{Command, Stdio},
    };

    use serde_json::Value;
    use w2s_core::rng::Rng;

    use crate::{
        stress::{children, signal, until},
        support::{text, w2s},
    };

    /// A grid of the tiny ones, or one in a file, that saves its trainings so often.
    fn run(grid: &str, results: &Path, every: &str) -> Command {
        let mut command = w2s();
        let file = if grid.ends_with(".toml") { grid.to_owned() } else { format!("tests/fixtures/tiny/{grid}.toml") };
        command.arg("run").arg(file).arg("--results").arg(results);
        command.args(["--device", "cpu", "--workers", "1", "--checkpoint-every", every]);
        match grid {
            "grid" => command.args(["seeds=0", "methods=finetune,gce", "train.epochs=8"]),
            "words" => command.args(["methods=finetune,two-stage,generative-finetune", "train.epochs=6"]),
            "selective" => &mut command,
            _ => command.arg("methods=js"),
        };
        command
    }

    /// Checkpoints by the stage that they are for, with the steps that were done.
    fn saved(results: &Path) -> BTreeSet<(String, usize)> {
        let within = |folder: &Path| -> Vec<(String, PathBuf)> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
        };
        let mut found = BTreeSet::new();
        for (name, folder) in within(&results.join("stages")) {
            let Some((stage, _)) = name.strip_prefix(".checkpoints-").and_then(|name| name.rsplit_once('-')) else {
                continue;
            };
            let steps = within(&folder).into_iter().filter_map(|(name, _)| name.strip_prefix("step-")?.parse().ok());
            found.extend(steps.map(|step| (stage.to_owned(), step)));
        }
        found
    }

    /// What every stage left behind, but for times.
    fn stages(results: &Path) -> BTreeMap<String, Value> {
        let entries = fs::read_dir(results.join("stages")).into_iter().flatten().flatten();
        let manifests = entries.filter_map(|entry| {
            let text = fs::read(entry.path().join("manifest.json")).ok()?;
            let manifest: Value = serde_json::from_slice(&text).unwrap();
            let content = serde_json::json!([manifest["files"], manifest["summary"], manifest["parameters"]]);
            Some((entry.file_name().to_string_lossy().into_owned(), content))
        });
        manifests.collect()
    }

    /// Starts a run and kills it and its stage once so many checkpoints have been seen; whether it lived so long.
    fn killed_after(command: &mut Command, results: &Path, moment: usize) -> bool {
        let mut parent = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut seen = BTreeSet::new();
        until("checkpoints or the end", || {
            seen.extend(saved(results));
            (seen.len() >= moment || parent.try_wait().unwrap().is_some()).then_some(())
        });
        let stages = children(parent.id());
        let lived = parent.try_wait().unwrap().is_none();
        parent.kill().unwrap();
        for stage in stages {
            // It may have ended by itself.
            let _ = Command::new("kill").args(["-KILL", &stage.to_string()]).stderr(Stdio::null()).status();
        }
        parent.wait().unwrap();
        lived
    }

    /// Checkpoints as often as a test sees them.
    const OFTEN: &str = "2steps";

    /// `W2S_KILLS` sets how often each grid is killed.
    #[test]
    fn a_run_that_is_killed_while_it_trains_goes_on_from_its_checkpoints() {
        let kills: usize = std::env::var("W2S_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(2);
        let mut rng = Rng::named(5, "kills");
        let choosing = tempfile::tempdir().unwrap();
        let choose = crate::forms::choosing(choosing.path());
        // Classes with a pretrained model, P(IK) trained along, words with a judge and two phases, candidates.
        for (grid, within) in [("grid", 12), ("selective", 8), ("words", 12), (choose.to_str().unwrap(), 12)] {
            let whole = tempfile::tempdir().unwrap();
            let output = run(grid, whole.path(), OFTEN).output().unwrap();
            assert!(output.status.success(), "{}", text(&output));
            let name = match grid {
                "grid" => "tiny",
                "selective" | "words" => grid,
                _ => "choose",
            };
            let results = |folder: &Path| fs::read_to_string(folder.join(name).join("results.csv")).unwrap();
            let (mut killed, mut resumed) = (0, 0);
            while killed < kills {
                let folder = tempfile::tempdir().unwrap();
                let (mut left, mut finished) = (BTreeSet::new(), BTreeSet::new());
                let mut end = None;
                while end.is_none() {
                    // The last one is left alone.
                    if killed < kills {
                        let moment = 2 + left.len() + rng.below(within);
                        let lived = killed_after(&mut run(grid, folder.path(), OFTEN), folder.path(), moment);
                        (left, finished) = (saved(folder.path()), stages(folder.path()).into_keys().collect());
                        if lived {
                            killed += 1;
                            continue;
                        }
                    }
                    end = Some(run(grid, folder.path(), OFTEN).output().unwrap());
                }
                let output = end.unwrap();
                let said = text(&output);
                assert!(output.status.success(), "{said}");
                // A stage may have been finished before what it no longer needs was removed.
                if let Some((stage, step)) = left.iter().rfind(|(stage, _)| !finished.contains(stage)) {
                    let from = format!("`{stage}` goes on from its checkpoint after step {step} of");
                    assert!(said.contains(&from), "{said}");
                    resumed += 1;
                }
                assert!(!said.contains("cannot be used"), "{said}");
                assert_eq!(results(folder.path()), results(whole.path()), "{grid}");
                assert_eq!(stages(folder.path()), stages(whole.path()), "{grid}");
                assert!(saved(folder.path()).is_empty());
            }
            assert!(resumed > 0, "{grid}: no run went on from a checkpoint");
        }
    }

    /// Steps between two checkpoints.
    const EVERY: usize = 50;

    /// Whether the run, its stage, or both are told, as a terminal tells them.
    #[test]
    fn a_run_that_is_asked_to_stop_saves_its_trainings_first() {
        let folder = tempfile::tempdir().unwrap();
        let long = || {
            let mut command = run("grid", folder.path(), &format!("{EVERY}steps"));
            command.args(["train.epochs=3000"]).stdout(Stdio::null()).stderr(Stdio::piped());
            command
        };
        let last = || saved(folder.path()).iter().map(|(_, step)| *step).max().unwrap_or(0);
        let (mut before, mut between) = (0, 0);
        for (name, to_run, to_stage) in [("TERM", true, false), ("INT", true, true), ("USR1", false, true)] {
            let mut child = long().spawn().unwrap();
            let stage = until("a checkpoint", || {
                let stage = *children(child.id()).first()?;
                (last() > before).then_some(stage)
            });
            to_run.then(|| signal(name, child.id()));
            to_stage.then(|| signal(name, stage));
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            let status = child.wait().unwrap();
            assert!(status.code() == Some(75) && said.contains("interrupted: run the same"), "{name} {status}: {said}");
            assert!(before == 0 || said.contains(&format!("after step {before} of")), "{name}: {said}");
            assert!(last() > before, "{name}: {} after {before}", last());
            before = last();
            between += usize::from(before % EVERY != 0);
        }
        assert!(between > 0, "no signal had a training saved that was between two checkpoints");
    }

    #[test]
    fn an_interval_that_is_none_is_refused() {
        for interval in ["5", "often", "0steps", "-1m"] {
            let output =
                w2s().args(["run", "quickstart"]).arg(format!("--checkpoint-every={interval}")).output().unwrap();
            let said = text(&output);
            assert!(output.status.code() == Some(2) && said.contains("give a time such as `5m`"), "{said}");
        }
    }
}
