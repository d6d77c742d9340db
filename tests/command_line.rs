//! The binary as a user meets it: a grid from start to table, again, killed and continued; and what it says to mistakes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use crate::support::{says_what_to_do, text, w2s};

fn run(arguments: &[&str]) -> Output {
    w2s().args(arguments).output().unwrap()
}

const TINY: &str = "tests/fixtures/tiny/grid.toml";

fn results(folder: &Path) -> String {
    fs::read_to_string(folder.join("tiny/results.csv")).unwrap()
}

#[test]
fn micro_batches_are_known_to_run_check_and_plan() {
    let folder = tempfile::tempdir().unwrap();
    let grid = [TINY, "methods=finetune", "seeds=0", "--device", "cpu", "--results", folder.path().to_str().unwrap()];
    let parts = [&grid[..], &["--micro-batch", "4"]].concat();
    let done = |command: &str, arguments: &[&str]| {
        let output = run(&[&[command], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    done("run", &parts);
    for command in ["plan", "check"] {
        assert!(done(command, &parts).contains(", 0 to do"), "{}", done(command, &parts));
        assert!(done(command, &grid).contains(", 0 done"), "{}", done(command, &grid));
    }
    assert!(done("run", &parts).contains("Nothing left to do"));
    // As many as in a batch are the whole batch.
    done("run", &[&grid[..], &["--micro-batch", "16"]].concat());
    assert!(done("plan", &grid).contains(", 0 to do"));
    assert!(done("run", &["--help"]).contains("stage of its own"));
}

#[test]
fn precisions_are_known_to_run_check_plan_and_submit() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let grid =
        [TINY, "methods=finetune", "seeds=0", "model.tiny-strong.lora.rank=2", "--device", "cpu", "--results", place];
    let half = [&grid[..], &["--precision", "bf16"]].concat();
    let done = |command: &str, arguments: &[&str]| {
        let output = run(&[&[command], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    // A cluster's stages are told, and so is whoever collects.
    done("submit", &[&half[..], &["--dry-run"]].concat());
    let submission = folder.path().join("tiny/submit/1");
    let files =
        fs::read_dir(&submission).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default());
    let files: Vec<String> = files.collect();
    assert!(files.iter().any(|file| file.starts_with('{') && file.contains(r#""precision":"bf16""#)), "{files:?}");
    assert!(files.iter().any(|file| file.contains(" collect ") && file.contains(" --precision bf16")), "{files:?}");

    done("run", &half);
    for command in ["plan", "check"] {
        assert!(done(command, &half).contains(", 0 to do"), "{}", done(command, &half));
        assert!(done(command, &grid).contains(", 0 done"), "{}", done(command, &grid));
    }
    assert!(done("run", &half).contains("Nothing left to do"));
    let stages = fs::read_dir(folder.path().join("stages")).unwrap().flatten();
    let manifests: Vec<serde_json::Value> = stages
        .filter_map(|stage| serde_json::from_str(&fs::read_to_string(stage.path().join("manifest.json")).ok()?).ok())
        .filter(|manifest: &serde_json::Value| manifest["parameters"]["numeric"].is_object())
        .collect();
    assert!(manifests.len() >= 3, "{manifests:?}");
    for manifest in &manifests {
        assert_eq!(manifest["parameters"]["numeric"], serde_json::json!({ "precision": "bf16" }));
    }
    // A cell is made again in the precision that it was made in, to the byte, on other threads.
    let replayed = done("replay", &["finetune 0", "--results", place, "--workers", "2"]);
    assert!(replayed.contains("the same: "), "{replayed}");

    let refused = run(&[&["run"], &grid[..], &["--precision", "fp16"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused);
    assert!(said.contains("`fp16` is no precision: choose `f32`, `bf16`"), "{said}");

    // All weights trained in bfloat16, which what merely answers has as ever.
    let truly: Vec<&str> = grid.iter().filter(|word| !word.contains("lora")).copied().collect();
    let truly = [&truly[..], &["--precision", "bf16-true"]].concat();
    done("run", &truly);
    assert!(done("plan", &truly).contains(", 0 to do"));
    let stages = fs::read_dir(folder.path().join("stages")).unwrap().flatten();
    let named = stages.filter(|stage| {
        let manifest = fs::read_to_string(stage.path().join("manifest.json")).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&manifest)
            .is_ok_and(|manifest| manifest["parameters"]["numeric"] == serde_json::json!({ "precision": "bf16-true" }))
    });
    assert!(named.count() >= 3);
    let replayed = done("replay", &["finetune 0", "--results", place, "--workers", "2"]);
    assert!(replayed.contains("the same: "), "{replayed}");
}

/// Table 3 of the paper in 80 GB, with neither weights nor data: adapters fit, all weights do in bfloat16 with little beside them, and not otherwise.
#[test]
fn memory_is_planned_from_the_shapes_of_models_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (name, hidden, inner, layers, vocabulary) in
        [("qwen-1.8b", 2048, 11_008, 24, 151_936), ("qwen-14b", 5120, 27_392, 40, 152_064)]
    {
        let config = serde_json::json!({
            "model_type": "qwen", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": hidden / 128, "kv_channels": 128, "vocab_size": vocabulary, "seq_length": 2048,
            "max_position_embeddings": 8192, "tie_word_embeddings": false, "no_bias": true, "rotary_pct": 1.0,
            "rotary_emb_base": 10_000, "layer_norm_epsilon": 1e-6, "use_dynamic_ntk": true, "use_logn_attn": true,
        });
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("config.json"), config.to_string()).unwrap();
    }
    let models = folder.path().to_str().unwrap();
    let plan = |more: &[&str]| {
        let grid = ["plan", "configs/paper/table3.toml", "--shapes", "--memory", "80G", "--models", models];
        let output = run(&[&grid[..], &["--device", "cpu", "--micro-batch", "auto"], more].concat());
        assert!(output.status.success(), "{}", text(&output));
        let said = text(&output);
        let of =
            |what: &str| said.lines().find(|line| line.starts_with("sciq") && line.contains(what)).unwrap().to_owned();
        ["weak model", "ceiling, finetune", "asked as it is"].map(of)
    };
    let [weak, strong, asked] = plan(&[]);
    assert!(
        weak.contains("1.8B parameters, all trained")
            && weak.contains("8 at a time")
            && weak.contains(", fits 80.0 GB"),
        "{weak}"
    );
    assert!(strong.contains("14.2B parameters, all trained") && strong.contains("MORE THAN 80.0 GB"), "{strong}");
    assert!(asked.contains("gradients and moments 0.0 MB") && asked.contains(", fits"), "{asked}");
    let [_, adapters, _] = plan(&["model.qwen-14b.lora.rank=8", "--recompute"]);
    assert!(adapters.contains("27.9M trained  8 at a time") && adapters.contains(", fits 80.0 GB"), "{adapters}");
    let [_, adapters, asked] = plan(&["model.qwen-14b.lora.rank=8", "--recompute", "--precision", "bf16"]);
    assert!(adapters.contains("weights 26.5 GB") && adapters.contains(", fits 80.0 GB"), "{adapters}");
    assert!(asked.contains("weights 26.4 GB"), "{asked}");
    let small = ["model.qwen-14b.train.optimizer=adafactor", "--recompute", "--precision"];
    let [_, strong, _] = plan(&[&small[..], &["bf16-true"]].concat());
    assert!(
        strong.contains("all trained") && strong.contains("weights 26.4 GB") && strong.contains(", fits 80.0 GB"),
        "{strong}"
    );
    let [_, strong, _] = plan(&[&small[..], &["bf16"]].concat());
    assert!(strong.contains("MORE THAN 80.0 GB"), "{strong}");
}

#[test]
fn a_grid_runs_to_a_table_and_the_second_run_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let first = run(&["run", TINY, "--results", place, "--device", "cpu"]);
    assert!(first.status.success(), "{}", text(&first));
    for part in ["Finetune", "Aux. confidence", "gce", "Ceiling", "Weak"] {
        assert!(text(&first).contains(part), "no `{part}` in\n{}", text(&first));
    }
    let rows = results(folder.path());
    for (method, count) in [("weak", 2), ("finetune", 2), ("aux-confidence", 2), ("gce", 2), ("ceiling", 2)] {
        let found =
            rows.lines().filter(|row| row.contains(&format!(",{method},")) && row.contains(",test,accuracy,")).count();
        assert_eq!(found, count, "rows of `{method}` in\n{rows}");
    }

    let again = run(&["run", TINY, "--results", place, "--device", "cpu"]);
    assert!(again.status.success() && text(&again).contains("Nothing left to do: 6 cells"), "{}", text(&again));
    assert_eq!(results(folder.path()), rows);

    // Token ids lie with the data, for every split of both seeds.
    let stages = fs::read_dir(folder.path().join("stages")).unwrap().flatten();
    let of_data = stages.filter(|stage| stage.file_name().to_string_lossy().starts_with("data-"));
    let files = of_data.flat_map(|stage| fs::read_dir(stage.path()).unwrap().flatten());
    assert_eq!(files.filter(|file| file.file_name().to_string_lossy().starts_with("tokens-")).count(), 8);

    // Execution changes no bit: another store, one worker, other threads, micro-batches aside.
    let other = tempfile::tempdir().unwrap();
    let arguments = ["run", TINY, "--device", "cpu", "--workers", "1", "--results", other.path().to_str().unwrap()];
    let ends = [&arguments[..], &["--no-students"]].concat();
    let first = run(&ends);
    assert!(first.status.success() && text(&first).contains("Ceiling"), "{}", text(&first));
    let is_end = |row: &&str| row.contains(",weak,") || row.contains(",ceiling,") || row.starts_with("run,");
    let of_ends: Vec<&str> = rows.lines().filter(is_end).collect();
    assert_eq!(results(other.path()).lines().collect::<Vec<_>>(), of_ends);
    assert!(text(&run(&ends)).contains("Nothing left to do but students: 6 cells"));
    assert!(run(&arguments).status.success());
    assert_eq!(results(other.path()), rows);
    assert!(text(&run(&ends)).contains("Nothing left to do: 6 cells"));
    assert_eq!(results(other.path()), rows);

    // Nor do several devices.
    let several = tempfile::tempdir().unwrap();
    let arguments = ["run", TINY, "--devices", "cpu,cpu,cpu", "--per-device", "1", "--results"];
    let output = run(&[&arguments[..], &[several.path().to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(results(several.path()), rows);
    // Nor do several that share each training.
    let in_parts = |devices: &[&str]| {
        let place = tempfile::tempdir().unwrap();
        let arguments = ["run", TINY, "methods=aux-confidence", "--micro-batch", "5", "--results"];
        let output = run(&[&arguments[..], &[place.path().to_str().unwrap()], devices].concat());
        assert!(output.status.success(), "{}", text(&output));
        results(place.path())
    };
    let shared = in_parts(&["--devices", "cpu,cpu,cpu,cpu", "--data-parallel", "2", "--per-device", "1"]);
    assert_eq!(shared, in_parts(&["--device", "cpu"]));

    for (format, part) in [("markdown", "| Finetune"), ("csv", "Finetune"), ("latex", "\\toprule")] {
        let table = run(&["table", TINY, "--results", place, "--format", format]);
        assert!(table.status.success(), "{}", text(&table));
        let path = folder.path().join("tiny/results.csv");
        let direct = run(&["table", path.to_str().unwrap(), "--format", format]);
        assert_eq!(table.stdout, direct.stdout);
        assert!(text(&table).contains(part), "{format}: {}", text(&table));
    }
    let by_seed =
        ["table", TINY, "--results", place, "--metric", "brier", "--rows", "method", "--columns", "task,seed"];
    let by_seed = run(&[&by_seed[..], &["--methods", "gce", "--format", "csv"]].concat());
    let brier = String::from_utf8_lossy(&by_seed.stdout).into_owned();
    assert!(brier.lines().any(|line| line.starts_with("gce,false,0.")) && !brier.contains("finetune"), "{brier}");
}

/// Standard output is a pipe that nobody reads from, as behind `| head`.
#[test]
fn output_that_nobody_reads_is_no_panic() {
    let mut child =
        w2s().args(["list"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{}", text(&output));
}

#[test]
fn methods_are_compared_item_by_item() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let output = run(&["run", TINY, "--results", place, "--device", "cpu"]);
    assert!(output.status.success(), "{}", text(&output));
    let compare = ["compare", TINY, "--results", place, "--draws", "50"];
    let said = run(&compare);
    assert!(said.status.success() && text(&said).contains("against Finetune"), "{}", text(&said));
    let full = run(&[&compare[..], &["--format", "csv", "--methods", "gce"]].concat());
    let full = String::from_utf8_lossy(&full.stdout).into_owned();
    let lines: Vec<Vec<&str>> = full.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| lines[0].iter().position(|column| *column == name).unwrap();
    assert_eq!(lines.len(), 4, "weak, gce and ceiling in\n{full}");
    // What is compared is what results.csv says.
    let rows = results(folder.path());
    let accuracy = |method: &str| -> f64 {
        let own = rows.lines().filter(|row| row.contains(&format!(",{method},")) && row.contains(",test,accuracy,"));
        let values: Vec<f64> = own.map(|row| row.split(',').nth(15).unwrap().parse().unwrap()).collect();
        assert_eq!(values.len(), 2);
        values.iter().sum::<f64>() / 2.0
    };
    let gce = lines.iter().find(|line| line[column("method")] == "gce").unwrap();
    let difference: f64 = gce[column("difference")].parse().unwrap();
    assert!((difference - (accuracy("gce") - accuracy("finetune"))).abs() < 1e-6, "{difference}");

    let unknown = run(&[&compare[..], &["--against", "finetun"]].concat());
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown).contains("did you mean `finetune`?"), "{}", text(&unknown));
    fs::remove_dir_all(folder.path().join("stages")).unwrap();
    let gone = run(&compare);
    assert!(gone.status.code() == Some(2) && text(&gone).contains("stages"), "{}", text(&gone));
}

#[test]
fn a_sweep_is_one_method_for_each_value() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let sweep = ["methods=gce", "grid.seeds=[0]", "sweep.gce={ \"loss.q\" = [0.7, 0.2] }"];
    let output = run(&[&["run", TINY, "--results", place, "--device", "cpu"], &sweep[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let rows = results(folder.path());
    let accuracies = |method: &str| -> Vec<&str> {
        rows.lines().filter(|row| row.contains(&format!(",{method},0,,test,brier,"))).collect()
    };
    let value = |method: &str| accuracies(method)[0].split(',').nth(15).unwrap().to_owned();
    assert_eq!(value("gce"), value("gce loss.q=0.7"), "0.7 is the default");
    assert_ne!(value("gce"), value("gce loss.q=0.2"));
    let swept = value("gce loss.q=0.2");
    // A loss by its own name is a method, too.
    let changed = ["methods=gce", "grid.seeds=[0]", "method.gce.loss.q=0.2"];
    let output = run(&[&["run", TINY, "--results", place, "--device", "cpu"], &changed[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    let rows = results(folder.path());
    let row = rows.lines().find(|row| row.contains(",gce,0,,test,brier,")).unwrap();
    assert_eq!(row.split(',').nth(15), Some(&*swept));
}

#[test]
fn a_grid_killed_at_any_moment_ends_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let arguments =
        |folder: &Path| ["run", TINY, "--device", "cpu", "--results", folder.to_str().unwrap()].map(str::to_owned);
    assert!(w2s().args(arguments(whole.path())).output().unwrap().status.success());

    let killed = tempfile::tempdir().unwrap();
    for wait in [60, 150, 300, 450, 700, 1000] {
        let mut child =
            w2s().args(arguments(killed.path())).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        // It may have finished in time; the comparison below is the same then.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let end = w2s().args(arguments(killed.path())).output().unwrap();
    assert!(end.status.success(), "{}", text(&end));
    assert_eq!(results(killed.path()), results(whole.path()));
    let left = fs::read_dir(killed.path().join("stages")).unwrap().flatten();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(".making")).collect();
    assert!(left.is_empty(), "{left:?}");
}

const SELECTIVE: &str = "tests/fixtures/tiny/selective.toml";

#[test]
fn a_stage_that_is_gone_is_made_again_and_no_result_changes() {
    let folder = tempfile::tempdir().unwrap();
    let again = || {
        let output = run(&["run", SELECTIVE, "--device", "cpu", "--results", folder.path().to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output));
        fs::read_to_string(folder.path().join("selective/results.csv")).unwrap()
    };
    let rows = again();
    let stages: Vec<_> = fs::read_dir(folder.path().join("stages")).unwrap().flatten().collect();
    let stages: Vec<_> = stages.iter().filter(|stage| stage.path().join("manifest.json").exists()).collect();
    assert!(stages.len() > 6, "{stages:?}");
    for stage in stages {
        fs::remove_dir_all(stage.path()).unwrap();
        assert_eq!(again(), rows, "without {stage:?}");
    }
}

/// What the only student of a selective grid left behind: its stage, its predictions and its decisions.
fn selective(folder: &Path, changes: &[&str]) -> (String, String, String) {
    let place = folder.to_str().unwrap();
    let output = run(&[&["run", SELECTIVE, "--results", place, "--device", "cpu"], changes].concat());
    assert!(output.status.success(), "{changes:?}: {}", text(&output));
    let record = fs::read_to_string(folder.join("selective/grid.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let stage = record["cells"][0]["student"].as_str().unwrap().to_owned();
    let file = |name: &str| fs::read_to_string(folder.join("stages").join(&stage).join(name)).unwrap();
    (stage.clone(), file("test.csv"), file("decisions.csv"))
}

#[test]
fn every_choice_of_selective_generalization_is_a_key_that_changes_something() {
    let folder = tempfile::tempdir().unwrap();
    let base = selective(folder.path(), &[]);
    let rows = fs::read_to_string(folder.path().join("selective/results.csv")).unwrap();
    for metric in ["p_ik_auroc", "coverage", "trusted_accuracy", "weak_accuracy_rest", "refined_right_to_wrong"] {
        assert!(rows.lines().any(|row| row.contains(&format!(",{metric},"))), "no `{metric}` in\n{rows}");
    }
    let analysis = run(&["analyse", SELECTIVE, "--results", folder.path().to_str().unwrap()]);
    let said = text(&analysis);
    assert!(
        analysis.status.success() && said.contains("What the numbers say") && said.contains("right (IK)"),
        "{said}"
    );
    let place = folder.path().to_str().unwrap();
    let figures = run(&["figure", SELECTIVE, "--results", place]);
    let said = text(&figures);
    assert!(figures.status.success() && said.contains("no sensitivity: nothing to draw"), "{said}");
    for kind in ["p-ik", "coverage", "reliability", "pgr"] {
        let figure = fs::read_to_string(folder.path().join(format!("selective/figures/{kind}.svg"))).unwrap();
        assert!(
            figure.starts_with("<svg") && figure.trim_end().ends_with("</svg>") && figure.contains("mine"),
            "{kind}"
        );
    }
    let missing = run(&["figure", SELECTIVE, "sensitivity", "--results", place]);
    assert!(!missing.status.success() && text(&missing).contains("sweep one"), "{}", text(&missing));
    assert!(!folder.path().join("selective/figures/sensitivity.svg").exists());

    for changes in [
        &["method.mine.selector.gamma=0.6"][..],
        &["method.mine.refiner.alpha=0.5"],
        &["method.mine.refiner.tau=0.5"],
        &["method.mine.refiner.normalize=none"],
        &["method.mine.refiner.center=batch-mean"],
        &["method.mine.refiner.self_loop=false"],
        &["method.mine.refiner.scope=bank"],
        &["method.mine.refiner.scope=dataset"],
        &["self_labels.source=current-head"],
        &["self_labels.source=ema-head"],
        &["self_labels.source=pik-stage-head"],
        &["self_labels.kind=soft"],
        &["self_labels.shots=1"],
        &["p_ik.shots=1"],
        &["p_ik.samples=0"],
        &["p_ik.samples=4", "p_ik.label=fraction"],
        &["p_ik.temperature=3.0"],
        &["p_ik.balance=none"],
        &["p_ik.input=prompt", "p_ik.shots=1"],
        &["p_ik.input=few-shot-prompt", "p_ik.shots=1"],
        &["p_ik.answers=classifier"],
        &["p_ik.schedule=joint"],
        &["p_ik.schedule=pretrain-then-freeze"],
        &["p_ik.epochs=2"],
        &["p_ik.warmup_fraction=0.5"],
        &["p_ik.batch_size=8"],
        &["p_ik.batch_size=40", "p_ik.epoch_mismatch=truncate"],
        &["p_ik.splits=supervise,transfer", "p_ik.n_train=60"],
        &["p_ik.lambda=0.5"],
        &["p_ik.task=tiny-home", "p_ik.allow_leakage=true"],
    ] {
        let (stage, predictions, decisions) = selective(folder.path(), changes);
        assert_ne!(stage, base.0, "{changes:?} leaves the stage's identity as it is");
        assert!(predictions != base.1 || decisions != base.2, "{changes:?} changes nothing");
    }
    let rows = fs::read_to_string(folder.path().join("selective/results.csv")).unwrap();
    assert!(
        rows.lines().filter(|row| row.contains(",mine,")).all(|row| row.contains(",true,")),
        "leakage is not flagged"
    );

    // What changes a method that the grid does not write changes the one of the library, and nothing else of it.
    let of_library = ["methods=selective", "method.selective.selector.gamma=0.45"];
    assert_eq!(selective(folder.path(), &of_library).0, base.0);
}

#[test]
fn a_stage_that_fails_leaves_a_record_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    // A step of this size leaves no finite weights.
    let change =
        "method.broken={ loss = { type = \"cross-entropy\" }, train = { learning_rate = 1e30, optimizer = \"sgd\" } }";
    let output =
        run(&["run", TINY, "--results", place, "--device", "cpu", "methods=finetune,broken", "seeds=0", change]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("broken") && said.contains("1 stage failed"), "{said}");
    let rows = results(folder.path());
    assert!(rows.lines().any(|row| row.contains(",broken,") && row.contains(",failed,")), "{rows}");
    assert!(rows.lines().any(|row| row.contains(",finetune,") && row.contains(",ok,")), "{rows}");
}

#[test]
fn what_a_failed_stage_was_for_is_recorded_and_nothing_else_is_lost() {
    let broken = "{ learning_rate = 1e30, optimizer = \"sgd\" }";
    let run_with = |changes: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap();
        let arguments = ["run", TINY, "--results", place, "--device", "cpu", "seeds=0", "methods=finetune"];
        let output = run(&[&arguments[..], changes].concat());
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let rows = results(folder.path());
        let status = |method: &str| -> Vec<String> {
            let rows = rows.lines().filter(|row| row.contains(&format!(",{method},0,,test,")));
            rows.map(|row| row.split(',').skip(14).step_by(3).take(2).collect::<Vec<_>>().join(" ")).collect()
        };
        (text(&output), ["weak", "finetune", "ceiling"].map(status))
    };
    let ok = |rows: &[String]| rows.iter().any(|row| row.starts_with("accuracy ok"));
    let failed = |rows: &[String]| rows == ["accuracy failed"];

    // No ceiling: the student is measured all the same, and has no PGR.
    let sane = "method.finetune={ loss = { type = \"cross-entropy\" }, train = { learning_rate = 1e-3, optimizer = \"adam\" } }";
    let (said, [weak, student, ceiling]) = run_with(&[&format!("model.tiny-strong.train={broken}"), sane]);
    assert!(ok(&weak) && ok(&student) && failed(&ceiling), "{said}\n{weak:?}\n{student:?}\n{ceiling:?}");
    assert!(student.contains(&"pgr undefined".to_owned()), "{student:?}");
    assert!(said.contains("finetune"), "{said}");

    // No weak model: the ceiling is measured, and the student that needs weak labels has failed.
    let (said, [weak, student, ceiling]) = run_with(&[&format!("model.tiny-weak.train={broken}")]);
    assert!(failed(&weak) && failed(&student) && ok(&ceiling), "{said}\n{weak:?}\n{student:?}\n{ceiling:?}");

    // Nothing at all: the cause is said, in place of a table.
    let pretrained = |name: &str| {
        let config = "{ model_type = \"gpt2\", n_embd = 8, n_layer = 1, n_head = 2, n_positions = 24 }";
        format!("model.{name}.pretrain={{ world = \"tiny\", config = {config}, train = {broken} }}")
    };
    let (said, ends) = run_with(&[&pretrained("tiny-weak"), &pretrained("tiny-strong")]);
    assert!(ends.iter().all(|rows| failed(rows)), "{said}\n{ends:?}");
    assert!(said.contains("1 stage failed") && said.contains(".log"), "{said}");
}

#[test]
fn output_that_cannot_be_written_is_no_panic() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let output = w2s().args(["list"]).stdout(full).output().unwrap();
    let said = text(&output);
    assert!(output.status.code() == Some(1) && said.contains("cannot write") && !said.contains("panicked"), "{said}");
}

#[test]
fn a_record_that_is_no_record_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tiny")).unwrap();
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/reference/p-ik-world/results.csv");
    fs::copy(reference, folder.path().join("tiny/results.csv")).unwrap();
    fs::write(folder.path().join("tiny/grid.json"), "[]").unwrap();
    for command in ["compare", "analyse"] {
        let output = run(&[command, TINY, "--results", folder.path().to_str().unwrap()]);
        let said = text(&output);
        assert!(output.status.code() == Some(2) && said.contains("has no cells") && said.contains("help"), "{said}");
    }
}

#[test]
fn results_of_other_cells_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let whole = ["run", TINY, "--results", place, "--device", "cpu"];
    assert!(run(&whole).status.success());
    let rows = results(folder.path());
    let less = run(&[&whole[..], &["seeds=0"]].concat());
    assert!(less.status.success() && text(&less).contains("earlier"), "{}", text(&less));
    assert!(results(folder.path()).len() < rows.len());
    let kept: Vec<_> = fs::read_dir(folder.path().join("tiny/earlier")).unwrap().flatten().collect();
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(fs::read_to_string(kept.path().join("results.csv")).unwrap(), rows);
    let table = run(&["table", kept.path().join("results.csv").to_str().unwrap()]);
    assert!(text(&table).contains("Finetune"), "{}", text(&table));
    // More of the same is no other grid.
    assert!(run(&whole).status.success());
    assert_eq!(results(folder.path()), rows);
    assert_eq!(fs::read_dir(folder.path().join("tiny/earlier")).unwrap().count(), 1);
}

#[test]
fn results_that_cannot_be_written_are_found_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    for (blocked, is_folder) in [("tiny/results.csv", true), ("tiny", false)] {
        let path = folder.path().join(blocked);
        if is_folder { fs::create_dir_all(&path) } else { fs::write(&path, "") }.unwrap();
        for command in ["check", "run"] {
            let output = run(&[command, TINY, "--results", place]);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(blocked) && said.contains("--results"), "{said}");
        }
        if is_folder { fs::remove_dir_all(folder.path().join("tiny")) } else { fs::remove_file(&path) }.unwrap();
    }
}

/// A mistake: arguments after `run`, and what must be said of it.
pub struct Mistake {
    pub name: &'static str,
    pub grid: String,
    pub arguments: Vec<String>,
    pub says: &'static [&'static str],
}

fn grid(from: &str, to: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(TINY)).unwrap();
    assert!(text.contains(from), "the grid has no `{from}`");
    text.replace(from, to)
}

#[test]
fn mistakes_end_before_anything_runs() {
    let scratch = tempfile::tempdir().unwrap();
    lay_out(&scratch);
    let results = scratch.path().join("results");
    let mut failures = Vec::new();
    for Mistake { name, grid, arguments, says } in mistakes(scratch.path()) {
        let path: PathBuf = scratch.path().join("grid.toml");
        fs::write(&path, grid).unwrap();
        let mut command = w2s();
        command.args(["run", path.to_str().unwrap()]);
        if !arguments.iter().any(|argument| argument == "--results") {
            command.args(["--results", results.to_str().unwrap()]);
        }
        let output = command.args(&arguments).output().unwrap();
        let said = text(&output);
        if !says_what_to_do(&said) {
            failures.push(format!("{name}: no remedy in\n{said}"));
        }
        let missing: Vec<_> = says.iter().filter(|part| !said.contains(**part)).collect();
        if output.status.code() != Some(2) || !missing.is_empty() || said.contains("panicked") {
            failures.push(format!("{name}: exit {:?}, without {missing:?}:\n{said}", output.status.code()));
        }
        assert!(!results.join("tiny").exists(), "{name} left results behind");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// The tasks and models that some of the [`mistakes`] are about, and a file where none should be.
fn lay_out(scratch: &tempfile::TempDir) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny");
    for kind in ["worlds", "tasks", "models"] {
        fs::create_dir(scratch.path().join(kind)).unwrap();
        for entry in fs::read_dir(fixtures.join(kind)).unwrap().flatten() {
            fs::copy(entry.path(), scratch.path().join(kind).join(entry.file_name())).unwrap();
        }
    }
    let write = |name: &str, text: &str| fs::write(scratch.path().join(name), text).unwrap();
    let task = |source: &str| {
        format!(
            "name = \"own\"\ntitle = \"x\"\nlicence = \"x\"\ncitation = \"x\"\nclasses = [\"no\", \"yes\"]\ntemplate = \"{{{{ text }}}}\"\n\n[source]\n{source}\n\n\
             [splits]\ntrain = \"train\"\ntest = \"test\"\n\n[label.column]\nname = \"label\"\n"
        )
    };
    write("tasks/own.toml", &task("path = \"nowhere.csv\""));
    write("rows.csv", "text,lable\nhello,1\nworld,0\n");
    write(
        "tasks/column.toml",
        &task("files = { train = \"../rows.csv\", test = \"../rows.csv\" }").replace("\"own\"", "\"column\""),
    );
    let three = task("path = \"nowhere.csv\"").replace("\"own\"", "\"three\"");
    write("tasks/three.toml", &three.replace("[\"no\", \"yes\"]", "[\"no\", \"perhaps\", \"yes\"]"));
    write("models/empty.toml", "title = \"nothing\"\n");
    let weak = fs::read_to_string(fixtures.join("models/tiny-weak.toml")).unwrap();
    write("models/short.toml", &weak.replace("n_positions = 24", "n_positions = 2"));
    write("models/endless.toml", &weak.replace("epochs = 1", "epochs = 1000000000000"));
    write("models/huge.toml", &weak.replace("n_embd = 8, n_layer = 1", "n_embd = 800000, n_layer = 1000"));
    write("models/encoder.toml", &weak.replace(
        "model_type = \"gpt2\", n_embd = 8, n_layer = 1, n_head = 2, n_positions = 24",
        "model_type = \"bert\", hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 16, max_position_embeddings = 24",
    ));
    write("models/lost.toml", "path = \"no-such-folder\"\n");
    write("file", "");
}

/// Grids with a mistake each, and arguments with one.
pub fn mistakes(scratch: &Path) -> Vec<Mistake> {
    let plain = grid("\"finetune\"", "\"finetune\"");
    let with = |extra: &str| format!("{plain}\n{extra}");
    let blocked = scratch.join("file/results").to_str().unwrap().to_owned();
    let mistake = |name, grid: &str, says| Mistake { name, grid: grid.to_owned(), arguments: vec![], says };
    vec![
        mistake("no phase", &with("[method.finetune]\nphases = []"), &["`phases` is empty", "phases = [{}, {"]),
        mistake(
            "a phase of what no phase has",
            &with("[method.finetune]\nphases = [{ supervisor = { type = \"fine-tuned\" } }]"),
            &["unknown key `supervisor`"],
        ),
        mistake(
            "a phase out of range",
            &with("[method.finetune]\nphases = [{}, { train = { epochs = 0 } }]"),
            &["`epochs` must be at least 1"],
        ),
        mistake(
            "a column that nobody makes",
            &with("[method.finetune]\nselector = { type = \"judged\", column = \"agree\" }"),
            &["reads the column `agree`", "did you mean `agrees`?"],
        ),
        mistake(
            "one fold",
            &with("[agrees]\nfolds = 1\n[method.finetune]\nselector = { type = \"judged\" }"),
            &["`folds = 1`", "write 0 for one judge"],
        ),
        mistake(
            "a judge's training out of range",
            &with("[method.finetune]\nselector = { type = \"judged\" }\nagrees = { train = { batch_size = 0 } }"),
            &["`batch_size`"],
        ),
        mistake(
            "more folds than examples",
            &with("[agrees]\nfolds = 1000\n[method.finetune]\nselector = { type = \"judged\" }"),
            &["cannot be judged in 1000 folds", "lower `folds`"],
        ),
        mistake(
            "a judge that takes no step",
            &with("[agrees]\ntrain = { batch_size = 5000 }\n[method.finetune]\nselector = { type = \"judged\" }"),
            &["the judge, `agrees`", "do not fill one batch of 5000"],
        ),
        mistake(
            "a judge of another kind",
            &with("[agrees]\nloss = \"hinge\"\n[method.finetune]\nselector = { type = \"judged\" }"),
            &["hinge", "cross-entropy"],
        ),
        mistake(
            "unknown method",
            &grid("\"gce\"", "\"gcee\""),
            &["there is no method and no loss `gcee`", ":7:42", "did you mean `gce`?"],
        ),
        mistake(
            "unknown loss",
            &with("[method.gce]\nloss = { type = \"gcee\" }"),
            &["there is no loss `gcee`", "did you mean `gce`?"],
        ),
        mistake(
            "unknown selector",
            &with("[method.gce]\nselector = { type = \"al\" }"),
            &["there is no selector `al`", "did you mean `all`?"],
        ),
        mistake(
            "unknown parameter",
            &with("[method.gce]\nloss = { type = \"gce\", p = 1 }"),
            &["unknown key `p`", ":15:24"],
        ),
        mistake(
            "parameter of the wrong type",
            &with("[method.gce]\nloss = { type = \"gce\", q = \"x\" }"),
            &["invalid type", ":15:28", "write a number"],
        ),
        mistake(
            "number in quotes",
            &with("[method.gce]\nloss = { type = \"gce\", q = \"0.5\" }"),
            &["invalid type", ":15:28", "without quotes: `0.5`"],
        ),
        mistake("seeds that are no list", &grid("[0, 1]", "0"), &["invalid type", ":8:9", "write a list: `[0]`"]),
        mistake(
            "pairs that are names",
            &grid("[{ weak = \"tiny-weak\", strong = \"tiny-strong\" }]", "[\"a\"]"),
            &[":6:10", "write a table"],
        ),
        mistake(
            "name of the store",
            &with("[model.x]").replace("\"tiny\"", "\"stages\""),
            &["cannot be called `stages`"],
        ),
        mistake(
            "head from a negative deviation",
            &with("[model.tiny-strong]\nhead = { init = { type = \"normal\", std = -1.0 } }"),
            &["head of `tiny-strong`", "at least 0"],
        ),
        mistake(
            "head from one word",
            &with("[model.tiny-strong]\nhead = { init = { type = \"unembedding\", tokens = [\"reef\"] } }"),
            &["head of `tiny-strong`", "2 classes", "one word for each class"],
        ),
        mistake(
            "head from a word that is none",
            &with("[model.tiny-strong]\nhead = { init = { type = \"unembedding\", tokens = [\"reef\", \"zzz\"] } }"),
            &["head of `tiny-strong`", "does not know `zzz`"],
        ),
        mistake(
            "documents longer than the model reads",
            &grid("tiny-weak", "short"),
            &["short", "24 tokens", "2 at most"],
        ),
        mistake("pretraining without end", &grid("tiny-weak", "endless"), &["endless", "lower `epochs`"]),
        mistake("training without end", &grid("epochs = 2", "epochs = 1000000000000"), &["lower `epochs`"]),
        mistake(
            "model larger than any machine",
            &grid("tiny-weak", "huge"),
            &["huge", "parameters", "make it smaller"],
        ),
        mistake("encoder that is to learn to speak", &grid("tiny-weak", "encoder"), &["encoder", "no language model"]),
        mistake(
            "parameter out of range",
            &with("[method.gce]\nloss = { type = \"gce\", q = 7.0 }"),
            &["`q`", ":15:28"],
        ),
        mistake(
            "sweep of a method that is not there",
            &with("[sweep.js]\n\"loss.q\" = [0.5]"),
            &["`js` is swept and not among `methods`", ":14:1"],
        ),
        mistake(
            "sweep over an unknown parameter",
            &with("[sweep.gce]\n\"loss.p\" = [0.5]"),
            &["unknown key `p`", ":15:13"],
        ),
        mistake("sweep out of range", &with("[sweep.gce]\n\"loss.q\" = [0.5, 7.0]"), &["`loss.q` = 7.0", ":15:18"]),
        mistake("method without a type", &with("[method.gce]\nloss = { q = 0.5 }"), &["lacks `type`"]),
        mistake(
            "unknown key of a method",
            &with("[method.gce]\nlos = { type = \"gce\" }"),
            &["unknown key `los`", "did you mean `loss`?"],
        ),
        mistake("unknown table", &with("[trian]\nepochs = 1"), &["unknown key `trian`", "did you mean `train`?"]),
        mistake(
            "unknown training key",
            &grid("epochs = 2", "epoch = 2"),
            &["unknown key `epoch`", "did you mean `epochs`?", ":11:1"],
        ),
        mistake(
            "training key out of range",
            &grid("batch_size = 16", "batch_size = 0"),
            &["`batch_size` must be at least 1", ":12:14"],
        ),
        mistake(
            "unknown optimizer",
            &with("optimizer = \"adamm\""),
            &["unknown variant `adamm`", "did you mean `adam`?"],
        ),
        mistake(
            "unknown task",
            &grid("tiny-home", "tiny-hom"),
            &["there is no task `tiny-hom`", "did you mean `tiny-home`?", ":5:"],
        ),
        mistake(
            "unknown model",
            &grid("weak = \"tiny-weak\"", "weak = \"tiny-wek\""),
            &["there is no model `tiny-wek`", "did you mean `tiny-weak`?"],
        ),
        mistake(
            "model that says nothing",
            &grid("weak = \"tiny-weak\"", "weak = \"empty\""),
            &["`empty` says neither"],
        ),
        mistake("model whose folder is missing", &grid("weak = \"tiny-weak\"", "weak = \"lost\""), &["config.json"]),
        mistake("missing seeds", &grid("seeds = [0, 1]", "seeds = []"), &["`seeds` is empty"]),
        mistake("a seed twice", &grid("seeds = [0, 1]", "seeds = [0, 0]"), &["`0` stands twice in `seeds`"]),
        mistake("a negative seed", &grid("seeds = [0, 1]", "seeds = [-1]"), &[":8:10"]),
        mistake(
            "no methods",
            &grid("methods = [\"finetune\", \"aux-confidence\", \"gce\"]", "methods = []"),
            &["`methods` is empty"],
        ),
        mistake("no pairs", &grid("pairs = [", "pairs = [] # ["), &["`pairs` is empty"]),
        mistake("pair without strong", &grid(", strong = \"tiny-strong\"", ""), &["lacks `strong`"]),
        mistake(
            "γ outside of its range",
            &with("[method.gce]\nselector = { type = \"p-ik\", gamma = 1.5 }"),
            &["`gamma` must be between 0 and 1", ":15:"],
        ),
        mistake(
            "τ that is not positive",
            &with("[method.gce]\nrefiner = { type = \"graph-smoothing\", tau = 0.0 }"),
            &["`tau`", ":15:"],
        ),
        mistake(
            "P(IK) learnt on nothing",
            &with("[method.gce]\nselector = { type = \"p-ik\" }"),
            &["no task says what that is learnt on", "[p_ik]"],
        ),
        mistake(
            "P(IK) learnt on an evaluated task",
            &with("[method.gce]\nselector = { type = \"p-ik\" }\n[p_ik]\ntask = \"tiny-home\""),
            &["`tiny-home` is evaluated", ":17:", "allow_leakage"],
        ),
        mistake(
            "auxiliary task that does not exist",
            &with("[method.gce]\nselector = { type = \"p-ik\" }\n[p_ik]\ntask = \"tiny-fod\""),
            &["there is no task `tiny-fod`", ":17:"],
        ),
        mistake(
            "negative λ",
            &with("[method.gce]\np_ik = { task = \"tiny-food\", lambda = -1.0 }"),
            &["`lambda` must be at least 0", ":15:"],
        ),
        mistake(
            "soft labels of the own head",
            &with(
                "[method.gce]\nselector = { type = \"agreement\" }\nself_labels = { source = \"current-head\", kind = \"soft\" }",
            ),
            &["exactly", ":16:"],
        ),
        mistake(
            "a fraction of one answer",
            &with("[method.gce]\np_ik = { task = \"tiny-food\", label = \"fraction\" }"),
            &["needs more than one answer"],
        ),
        mistake(
            "settings of a task that does not exist",
            &with("[task.tiny-hom]\nn_train = 5"),
            &["there is no task `tiny-hom`"],
        ),
        mistake(
            "a task's template in the grid, of another column",
            &with("[task.tiny-home]\ntemplate = \"{{ promt }}\""),
            &["the data has no column `promt`", ":15:12", "prompt"],
        ),
        mistake(
            "a task's template in the grid that does not end",
            &with("[task.tiny-home]\ntemplate = \"{{ prompt\""),
            &[":15:12"],
        ),
        mistake("not TOML", &grid("[grid]", "[grid"), &[":3:"]),
        mistake("missing data file", &grid("tiny-home", "own"), &["nowhere.csv"]),
        mistake("missing column", &grid("tiny-home", "column"), &["label", "lable"]),
        mistake("data set that is nowhere", &grid("tiny-home", "sst2"), &["sst2", "--data"]),
        mistake(
            "calibration with nothing held out",
            &with("[method.gce]\nrefiner = { type = \"calibration\" }"),
            &["`tiny-home` holds none out", ":15:11", "`[data] n_validation = 500`"],
        ),
        mistake(
            "calibration with nothing held out of one task",
            &with(
                "[method.gce]\nrefiner = { type = \"calibration\" }\n[data]\nn_validation = 10\n[task.tiny-home]\nn_validation = 0",
            ),
            &["`tiny-home` holds none out", ":15:11"],
        ),
        mistake(
            "more held out than there are",
            &with("[data]\nn_validation = 30"),
            &["`n_validation` is 30", "half has 30", "`n_train`"],
        ),
        mistake(
            "too few held out for both classes",
            &with("[data]\nn_validation = 1"),
            &["none of the examples", "`n_validation", "`dry`"],
        ),
        mistake(
            "P(IK) learnt from what is held out",
            &with("[method.gce]\np_ik = { task = \"tiny-food\", splits = [\"validation\"] }"),
            &["`splits` must be `supervise`", ":15:"],
        ),
        mistake(
            "a ceiling trained on the test",
            &with("[data]\nceiling_split = \"test\""),
            &["`ceiling_split` must be `transfer` or `supervise`", ":15:17"],
        ),
        mistake("too many tokens for nobody", &with("[data]\nmax_tokens = 0"), &["must be at least 1"]),
        mistake(
            "unknown order",
            &with("[data]\norder = \"opnai\""),
            &["unknown variant `opnai`", "did you mean `openai`?"],
        ),
        mistake(
            "a method called as results call the weak model",
            &grid("\"gce\"", "\"weak\""),
            &["cannot be called `weak`", ":7:42"],
        ),
        mistake("a method called as the ceiling", &grid("\"gce\"", "\"ceiling\""), &["cannot be called `ceiling`"]),
        mistake(
            "a method called as a further weak model",
            &grid("\"gce\"", "\"weak: gce\""),
            &["cannot be called `weak: gce`"],
        ),
        mistake(
            "a name that acts on a terminal",
            &grid("\"gce\"", "\"g\\u001b[2Jce\""),
            &["control character", ":7:42"],
        ),
        mistake("a name of two lines", &grid("\"gce\"", "\"g\\nce\""), &["control character", ":7:42"]),
        mistake("a name that is a formula", &grid("\"gce\"", "\"=gce\""), &["spreadsheet", ":7:42"]),
        mistake("an empty name", &grid("\"tiny-strong\"", "\" \""), &["is empty", ":6:41"]),
        mistake("a grid's name that acts on a terminal", &grid("\"tiny\"", "\"ti\\u0007ny\""), &["control character"]),
        mistake(
            "a title of two lines",
            &with("[method.gce]\ntitle = \"a\\nb\"\nloss = { type = \"gce\" }"),
            &["title of `gce`", "control character"],
        ),
        mistake(
            "a task outside of its folder",
            &grid("tiny-home", "../../grid"),
            &["is not the name of a task", "a name, not a path", ":5:"],
        ),
        mistake(
            "a method for two classes on three",
            &grid("tiny-home", "three"),
            &["`aux-confidence` cannot be used on task `three`", "task has 3 classes; `variant", ":7:24"],
        ),
        mistake(
            "self-labels of a head with other classes",
            &with(
                "[method.gce]\nselector = { type = \"agreement\" }\nself_labels = { source = \"pik-stage-head\" }\np_ik = { task = \"three\", answers = \"classifier\" }",
            ),
            &["the head of `three` has 3 classes", "cannot answer for 2", ":14:"],
        ),
        mistake(
            "P(IK) from the words of three classes",
            &(grid("tiny-home", "three").replace("\"finetune\", \"aux-confidence\", ", "")
                + "[method.gce]\np_ik = { task = \"tiny-food\", schedule = \"pretrain-then-joint\" }\n\
                   [model.tiny-strong]\nhead = { init = { type = \"unembedding\", tokens = [\"reef\", \"cave\", \"marsh\"] } }"),
            &["`gce` cannot be used on task `three`", "P(IK) has 2 classes", "cannot start from 3 words"],
        ),
        mistake(
            "a paper's numbers for another pair",
            &with("[published]\nsource = \"x\"\n[[published.pairs]]\nweak = \"gpt2\"\nstrong = \"tiny-strong\""),
            &["`gpt2` → `tiny-strong` is no pair of this grid", ":16:"],
        ),
        Mistake {
            name: "unwritable results",
            grid: plain.clone(),
            arguments: vec!["--results".to_owned(), blocked],
            says: &["cannot create the results folder", "--results"],
        },
        Mistake {
            name: "a GPU that is not there",
            grid: plain.clone(),
            arguments: vec!["--device".to_owned(), "cuda:7".to_owned()],
            says: &["--device cpu"],
        },
        Mistake {
            name: "a GPU that is not there among several devices",
            grid: plain.clone(),
            arguments: vec!["--devices".to_owned(), "cpu,vulkan:99".to_owned()],
            says: &["docs/gpu.md"],
        },
        Mistake {
            name: "devices that are no groups",
            grid: plain.clone(),
            arguments: "--devices cpu,cpu,cpu --data-parallel 2 --micro-batch 4"
                .split(' ')
                .map(str::to_owned)
                .collect(),
            says: &["3 devices are no groups of 2", "multiple of `--data-parallel`"],
        },
        Mistake {
            name: "a shared training in parts of any size",
            grid: plain.clone(),
            arguments: "--devices cpu,cpu --data-parallel 2 --micro-batch auto".split(' ').map(str::to_owned).collect(),
            says: &["does not know of devices that share", "--micro-batch 8"],
        },
        Mistake {
            name: "several devices that nobody names",
            grid: plain.clone(),
            arguments: vec!["--devices".to_owned(), "auto,auto".to_owned()],
            says: &["`auto` is no device", "--devices cuda:0,cuda:1"],
        },
        Mistake {
            name: "no such device",
            grid: plain.clone(),
            arguments: vec!["--device".to_owned(), "tpu".to_owned()],
            says: &["tpu", "auto"],
        },
        Mistake {
            name: "broken change",
            grid: plain.clone(),
            arguments: vec!["train.epochs".to_owned()],
            says: &["key=value"],
        },
        Mistake {
            name: "change of the wrong type",
            grid: plain.clone(),
            arguments: vec!["train.epochs=many".to_owned()],
            says: &["command line", "many"],
        },
    ]
}

#[test]
fn lists_and_explanations_come_from_the_cards() {
    let list = run(&["list", "losses", "--format", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let losses = list["losses"].as_array().unwrap();
    assert!(
        losses.iter().any(|card| card["name"] == "js" && card["paper"].as_str().is_some_and(|paper| !paper.is_empty()))
    );
    let explained = text(&run(&["explain", "loss/gce"]));
    for part in ["gce", "Source:", "q = 0.7", "Origin:", "[method.mine]"] {
        assert!(explained.contains(part), "no `{part}` in\n{explained}");
    }
    let unknown = run(&["explain", "loss/gcee"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown).contains("did you mean `gce`?"));
    for what in ["tasks", "models", "supervisors", "selectors", "refiners"] {
        assert!(run(&["list", what]).status.success(), "{what}");
    }
}
