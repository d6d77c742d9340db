//! The engine of w2s: what a strategy sees, tasks, models, the learner, stages, grids, reports and the command line.
//!
//! Each module imports only from those above it in this list (ARCHITECTURE.md, "Floors").
#![recursion_limit = "256"]

pub mod alloc;
#[cfg(test)]
#[path = "../../tests/arbitrary.rs"]
mod arbitrary;
pub mod cli;
pub mod device;
pub mod document;
pub mod error;
pub mod grid;
pub mod hub;
pub mod last_words;
pub mod learner;
pub mod locks;
pub mod model;
pub mod ops;
pub mod report;
pub mod rng;
pub mod stage;
pub mod strategy;
pub mod task;

pub use error::{Error, Result};

static COMMIT: std::sync::OnceLock<&'static str> = std::sync::OnceLock::new();

/// Commit that this binary was built from, with `+` when files had been changed; `unknown` outside a git checkout.
pub fn commit() -> &'static str {
    COMMIT.get().copied().unwrap_or("unknown")
}
