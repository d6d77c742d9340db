//! Every registered strategy keeps what a strategy promises.

use w2s_core::strategy::{all, conformance};

#[test]
fn every_registered_strategy_conforms() {
    assert!(all().len() > 30, "the strategies are not linked: {} cards", all().len());
    let failures: Vec<String> = conformance::check_all().iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
