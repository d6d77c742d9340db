//! Inputs that nobody wrote. A reader answers any of them with what it reads or with an error that says something; it never panics.
//!
//! Tests of this kind are called `any_…`; those of whole grids, which name strategies, are in `tests/configs.rs`. A few hundred cases of
//! each run with all tests; `PROPTEST_CASES=5000 cargo test --release --workspace any_` runs as many as asked.

use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;

use crate::{Error, task::world::World};

/// So many cases, unless `PROPTEST_CASES` asks for another number.
pub(crate) fn few(cases: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { cases }, failure_persistence: None, ..default }
}

/// A text with a part replaced.
pub(crate) fn spliced(text: &str, place: usize, length: usize, with: &str) -> String {
    let boundary = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = boundary(place % (text.len() + 1));
    format!("{}{with}{}", &text[..start], &text[boundary(start + length).max(start)..])
}

/// What may stand in for a part of a text.
pub(crate) fn scraps() -> impl Strategy<Value = String> {
    prop_oneof!["[\\]\\[{}|='\"%.a-c0-9\\n -]{0,12}", "\\PC{0,6}"]
}

/// Any small JSON value.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..70).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// JSON with one value replaced: each number chooses a child, and where there are none left stands the new value.
pub(crate) fn changed(mut json: Value, path: &[usize], with: Value) -> Value {
    let mut at = &mut json;
    for &choice in path {
        let children = match at {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        };
        if children == 0 {
            break;
        }
        at = match at {
            Value::Array(items) => &mut items[choice % children],
            Value::Object(map) => map.values_mut().nth(choice % children).unwrap(),
            _ => unreachable!("it has children"),
        };
    }
    *at = with;
    json
}

/// An error is one that says something.
pub(crate) fn says_something<T>(result: Result<T, Error>) -> Option<T> {
    result.map_err(|error| assert!(!error.message().is_empty())).ok()
}

fn shipped(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)).unwrap()
}

proptest! {
    #![proptest_config(few(128))]

    #[test]
    fn any_change_of_a_world_is_a_world_or_an_error(
        name in prop::sample::select(vec!["worlds/quickstart.toml", "worlds/partial.toml"]),
        place in any::<usize>(),
        length in 0_usize..40,
        with in scraps(),
    ) {
        says_something(World::parse(&spliced(&shipped(name), place, length, &with), Path::new("world.toml")));
    }
}
