//! Inputs that nobody wrote, for the tests that are called `any_…`: a reader answers any of them with what it reads or with an error that
//! says something; it never panics.
//!
//! A few hundred cases of each run with all tests; `PROPTEST_CASES=5000 cargo test --release --workspace any_` runs as many as asked.

use proptest::prelude::*;

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
