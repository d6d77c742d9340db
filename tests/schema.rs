//! What editors are told of the files that users write is what w2s reads. By a validator of JSON Schema: every file that comes with w2s is
//! one of its kind, and mistakes that can be seen in a file alone are refused, as they are by w2s.

use std::{
    fs,
    path::{Path, PathBuf},
};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};
use w2s_core::{
    document::Document,
    grid::{FileKind, Library},
    strategy::{self, Kind},
};

use crate::{
    command_line::{Mistake, mistakes},
    support::{says_what_to_do, text, tiny, w2s},
};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

fn schema(kind: FileKind) -> Value {
    kind.schema(&Library::beside(&configs().join("grid.toml")))
}

/// A schema, ready to judge.
struct Judge {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Judge {
    fn new(schema: Value) -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("w2s.json", schema).unwrap();
        let index = compiler.compile("w2s.json", &mut schemas).unwrap_or_else(|error| panic!("{error:#}"));
        Self { schemas, index }
    }

    fn of(kind: FileKind) -> Self {
        Self::new(schema(kind))
    }

    fn judge(&self, value: &Value) -> Result<(), String> {
        self.schemas.validate(value, self.index).map_err(|error| error.to_string())
    }
}

fn toml_in(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn every_file_that_comes_with_w2s_is_one_of_its_kind() {
    let grids = ["", "small", "paper", "paper/multi"].map(|folder| configs().join(folder));
    let mut count = 0;
    for kind in FileKind::ALL {
        let folders = match kind {
            FileKind::Grid => [&grids[..], &[tiny()]].concat(),
            FileKind::Methods => vec![configs()],
            kind => [configs(), tiny()].map(|folder| folder.join(format!("{}s", kind.name()))).to_vec(),
        };
        let judge = Judge::of(kind);
        for file in folders.iter().flat_map(|folder| toml_in(folder)) {
            if matches!(kind, FileKind::Grid | FileKind::Methods)
                && file.ends_with("methods.toml") != (kind == FileKind::Methods)
            {
                continue;
            }
            let value = Document::open(&file).unwrap().root().to_json();
            judge.judge(&value).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            count += 1;
        }
    }
    assert!(count > 160, "{count}");
}

#[test]
fn mistakes_that_stand_in_the_file_alone_are_refused() {
    /// What is said of them.
    const SEEN: [&str; 8] = [
        "unknown key",
        "unknown variant",
        "invalid type",
        "there is no loss",
        "there is no selector",
        "lacks `",
        "write a table",
        "says nothing of",
    ];
    /// What else there is, under the names of the mistakes.
    const AND: [&str; 2] = ["a negative seed", "a judge of another kind"];
    // The key is two: a parameter of a strategy that stands elsewhere.
    const UNSEEN: &str = "sweep over an unknown parameter";
    let judge = Judge::of(FileKind::Grid);
    let (mut seen, mut passed) = (0, Vec::new());
    for Mistake { name, grid, arguments, says } in mistakes(Path::new("nowhere")) {
        let of_the_file = AND.contains(&name) || says.iter().any(|said| SEEN.iter().any(|part| said.contains(part)));
        if !arguments.is_empty() || !of_the_file || name == UNSEEN {
            continue;
        }
        seen += 1;
        let value = Document::parse("grid.toml", &grid).unwrap().root().to_json();
        if judge.judge(&value).is_ok() {
            passed.push(name);
        }
    }
    assert!(seen >= 17 && passed.is_empty(), "of {seen} mistakes pass: {passed:?}");
}

#[test]
fn mistakes_in_other_files_are_refused() {
    let open = |file: &str| Document::open(&configs().join(file)).unwrap().root().to_json();
    let changes: [(FileKind, &str, &str, Value); 14] = [
        (FileKind::Task, "tasks/sst2.toml", "/licens", json!("MIT")),
        (FileKind::Task, "tasks/sst2.toml", "/classes", json!("yes")),
        (FileKind::Task, "tasks/sst2.toml", "/source/hup", json!("a/b")),
        (FileKind::Task, "tasks/sst2.toml", "/label", json!({ "colunm": { "name": "label" } })),
        (FileKind::Task, "tasks/world-home.toml", "/source/world/attribut", json!("home")),
        (FileKind::Task, "tasks/gsm8k-words.toml", "/generate/answer/rules", json!(["numbers"])),
        (FileKind::Model, "models/gpt2.toml", "/hup", json!("gpt2")),
        (FileKind::Model, "models/gpt2.toml", "/train", json!({ "learning_rat": 1e-5 })),
        (FileKind::Model, "models/gpt2.toml", "/head", json!({ "init": { "type": "zeros" } })),
        (FileKind::Model, "models/gpt2.toml", "/lora", json!({ "rank": -1 })),
        (FileKind::Model, "models/world-weak.toml", "/pretrain/word", json!("quickstart")),
        (FileKind::Suite, "suites/capabilities.toml", "/ceiling", json!("all")),
        (FileKind::World, "worlds/quickstart.toml", "/entitys", json!(5)),
        (FileKind::Methods, "methods.toml", "/method/finetune/loss", json!({ "type": "cross-entropi" })),
    ];
    for (kind, file, pointer, value) in changes {
        let judge = Judge::of(kind);
        let mut changed = open(file);
        judge.judge(&changed).unwrap();
        let (above, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(above).unwrap()[key] = value;
        assert!(judge.judge(&changed).is_err(), "{file}: {pointer} passes");
    }
}

/// A strategy is in the schema because it is registered: this is about plugins too.
#[test]
fn every_strategy_is_known_with_its_parameters() {
    let judge = Judge::of(FileKind::Grid);
    let of = |kind: Kind, table: &Value| {
        let grid = json!({ "pairs": [{ "weak": "a", "strong": "b" }], "methods": ["m"], "tasks": ["t"] });
        let phase = json!({ kind.name(): table });
        let method = if kind == Kind::Supervisor { phase } else { json!({ "phases": [phase] }) };
        judge.judge(&json!({ "grid": grid, "method": { "m": method } }))
    };
    for card in strategy::all() {
        let mut table = (card.example)();
        let parameters = table.as_object_mut().unwrap();
        parameters.retain(|_, value| !value.is_null());
        let names: Vec<String> = card.parameters().into_iter().map(|parameter| parameter.name).collect();
        parameters.insert("type".to_owned(), card.name.into());
        of(card.kind, &table).unwrap_or_else(|error| panic!("{} {}: {error}", card.kind, card.name));
        of(card.kind, &json!({ "type": card.name })).unwrap();
        for (key, value) in [("type", json!(format!("{}x", card.name))), ("parameter", json!(1))] {
            let mut wrong = table.clone();
            wrong[key] = value;
            assert!(of(card.kind, &wrong).is_err(), "{} {}: {wrong} passes", card.kind, card.name);
        }
        for name in names {
            let mut wrong = table.clone();
            wrong[format!("{name}x")] = (card.example)()[&name].clone();
            assert!(of(card.kind, &wrong).is_err(), "{} {}: {wrong} passes", card.kind, card.name);
            let mut wrong = table.clone();
            wrong[&name] = json!({ "no": "such thing" });
            assert!(of(card.kind, &wrong).is_err(), "{} {}: {wrong} passes", card.kind, card.name);
        }
    }
    // The other way round, what is offered is registered.
    let schema = schema(FileKind::Grid);
    let offered = schema["definitions"].as_object().unwrap().keys().filter(|name| name.contains('.')).count();
    assert_eq!(offered, strategy::all().len());
}

#[test]
fn keys_are_explained_and_names_suggested() {
    let schema = schema(FileKind::Grid);
    let text = |pointer: &str| schema.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}"));
    assert!(text("/definitions/Recipe/properties/learning_rate/description").contains("Origin: "));
    assert!(text("/definitions/loss.gce/description").contains('\n'), "no formula");
    for (of, name) in [("TaskName", "sst2"), ("ModelName", "gpt2"), ("MethodName", "selective"), ("MethodName", "js")] {
        let named = &schema["definitions"][of]["anyOf"];
        assert!(named[0]["enum"].as_array().unwrap().contains(&json!(name)), "{of}: {named}");
        // Others may be beside the grid.
        assert_eq!(named[1]["type"], "string");
    }
    // Everything that a person can hover over says something, in words of the field and not of the source.
    fn walk(at: &str, value: &Value, silent: &mut Vec<String>) {
        for (key, field) in value["properties"].as_object().into_iter().flatten() {
            let said = field["description"].as_str().unwrap_or_default();
            // What is elsewhere is explained there.
            if said.is_empty() && field["const"].is_null() && field["$ref"].is_null() {
                silent.push(format!("{at}.{key}"));
            }
            assert!(!said.contains("[`"), "{at}.{key}: {said}");
            walk(&format!("{at}.{key}"), field, silent);
        }
        for choice in ["oneOf", "anyOf"].iter().flat_map(|key| value[*key].as_array().into_iter().flatten()) {
            walk(at, choice, silent);
        }
    }
    for kind in FileKind::ALL {
        let schema = self::schema(kind);
        let mut silent = Vec::new();
        walk(kind.name(), &schema, &mut silent);
        for (name, definition) in schema["definitions"].as_object().into_iter().flatten() {
            walk(name, definition, &mut silent);
        }
        assert!(silent.is_empty(), "without a word: {silent:?}");
        let text = schema.to_string();
        assert!(!text.contains("\"null\"") && !text.contains(":null"), "TOML has no null");
    }
}

#[test]
fn schemas_are_printed_and_written() {
    let output = w2s().args(["schema", "task"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), schema(FileKind::Task));
    let folder = tempfile::tempdir().unwrap();
    let output = w2s().args(["schema", "--out"]).arg(folder.path().join("new")).output().unwrap();
    assert!(output.status.success() && text(&output).contains("#:schema"), "{}", text(&output));
    for kind in FileKind::ALL {
        let file = folder.path().join("new").join(format!("{}.schema.json", kind.name()));
        let written: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(written, schema(kind), "{}", kind.name());
    }
    let output = w2s().arg("schema").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let blocked = folder.path().join("file");
    fs::write(&blocked, "").unwrap();
    let output = w2s().args(["schema", "grid", "--out"]).arg(&blocked).output().unwrap();
    assert!(output.status.code() == Some(2) && says_what_to_do(&text(&output)), "{}", text(&output));
}
