//! The registry loses no strategy and holds no name twice.

use std::path::Path;

use serde_json::json;
use w2s_core::strategy::{Card, Kind, all, check_names, check_registry, find};

/// The folder that a card's file lies in belongs to this folder of the repository.
fn comes_from(card: &Card, folder: &str) -> bool {
    // Without the way to the repository, which may hold a folder of that name.
    let file = Path::new(card.file);
    let file = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(file);
    file.components().any(|part| part.as_os_str() == folder)
}

/// What comes with w2s; plugins come and go.
fn names() -> String {
    let own = all().into_iter().filter(|card| !comes_from(card, "plugins"));
    own.map(|card| format!("{} {}\n", card.kind, card.name)).collect()
}

#[test]
fn no_strategy_is_lost() {
    let (listed, found) = (include_str!("registry.txt"), names());
    assert!(
        found == listed,
        "tests/registry.txt does not list what is registered; if that is meant, it should read:\n{found}"
    );
}

#[test]
fn the_registry_holds_no_name_twice() {
    check_registry().unwrap();
}

#[test]
fn two_strategies_of_one_name_are_refused_with_both_places() {
    let twin = |file: &'static str, line: u32, kind: Kind| {
        let card = find(Kind::Loss, "cross-entropy").expect("is registered");
        let (schema, example, probe) = (card.schema, card.example, card.probe);
        Card {
            kind,
            name: "twice",
            paper: "original",
            version: 1,
            changed: &[],
            later: &[],
            aside: &[],
            file,
            line,
            schema,
            example,
            probe,
        }
    };
    let (first, second) = (twin("plugins/mine.rs", 3, Kind::Loss), twin("strategies/losses/theirs.rs", 40, Kind::Loss));
    let message = check_names(&[&first, &second]).unwrap_err().message().to_owned();
    for part in ["loss `twice`", "plugins/mine.rs:3", "strategies/losses/theirs.rs:40"] {
        assert!(message.contains(part), "{message:?} does not name {part}");
    }
    // The same name is free in another kind.
    check_names(&[&first, &twin("strategies/refiners/other.rs", 1, Kind::Refiner)]).unwrap();
}

#[test]
fn a_choice_whose_behaviour_changed_is_another_version() {
    for (configured, version) in [
        (json!({ "type": "product", "form": "logspace", "alpha": 1.0 }), 1),
        (json!({ "type": "product", "form": "openai", "alpha": 1.0 }), 2),
        (json!({ "type": "aux-confidence", "balance_batch": false }), 1),
        (json!({ "type": "aux-confidence", "balance_batch": true }), 2),
        (json!({ "type": "eleuther-entropy", "balance_batch": true }), 2),
        (json!({ "type": "gce" }), 1),
    ] {
        let name = configured["type"].as_str().unwrap();
        let identity = find(Kind::Loss, name).unwrap().identity(&configured).unwrap();
        assert_eq!(identity["version"], version, "{configured}");
        assert_eq!(identity["parameters"].get("type"), None);
    }
}

#[test]
fn the_example_of_the_plugin_guide_is_the_one_that_is_dropped_in() {
    let (guide, example) = (include_str!("../docs/plugin.md"), include_str!("../docs/focal.rs"));
    assert!(guide.contains(example), "docs/plugin.md does not hold docs/focal.rs as it is");
    assert!(example.lines().count() <= 60);
}
