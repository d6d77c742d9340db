//! Training on burn-train: what is learnt (recipe, objective), in which order, and what may not go wrong.
//!
//! The way of one step, from the loader to the optimizer:
//!
//! ```text
//! Sampler ─ Minibatch ─▶ Trainee::step ─▶ Work::step ─▶ gradients ─▶ Trainee::optimize ─▶ clip ─▶ optimizer
//!  (rows)                 (burn-train)     classifier, answers          (burn-train)
//!                                          or language model
//! ```
//!
//! A kind of training is one implementation of the private trait `Work`: from model and rows to gradients. burn-train owns the loop, the
//! optimizer, the learning rate and interruption; the log is ours, because results are computed from stored predictions and
//! nothing may reach the disk but through a stage. What a training is continued from after an interruption is ours too (`checkpoint.rs`).

mod answers;
mod checkpoint;
mod classify;
mod encoded;
mod evaluate;
mod generate;
mod language;
mod memory;
mod method;
mod optimizer;
mod parallel;
mod predict;
mod progress;
mod reading;
mod recipe;
mod run;
mod sampler;
mod schedule;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_checkpoint;
#[cfg(test)]
mod tests_execution;
#[cfg(test)]
mod tests_generate;
#[cfg(test)]
mod tests_words;
mod words;

pub use answers::{log_p, score};
pub use checkpoint::{Awaited, Checkpoints, Every, Passage, Stop, time};
pub use classify::{Along, Objective, OwnLabels, argmax, is_frozen, passes_over_absent, train_classifier};
pub use encoded::Encoded;
pub use evaluate::{Evaluate, Halfway};
pub use generate::{Decoding, Ending, Written, generate};
pub use language::{Packing, train_lm, train_texts};
pub use memory::{Manner, Memory, Purpose, Workload};
pub use predict::{Predictions, embed, judge, predict};
pub use progress::{bar, style};
pub use recipe::{Decayed, Optimizer, Recipe};
pub use run::{Choice, Execution, PREDICT_BATCH, StepLog, TrainLog, Trained, interrupted};
pub use sampler::{Minibatch, Order, Sampler};
pub use schedule::{Schedule, Shape};
pub use words::{Answering, Mean, Texts, train_words};
