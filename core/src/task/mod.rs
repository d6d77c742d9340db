//! Tasks: from a data set's rows to examples with text and label, in a known order, split for the weak supervisor, the student and the
//! test.
//!
//! A task is a file, [`Task`]. Its rows come from [`Sources`] (local folders, then the Hugging Face hub) or from a generated [`world`];
//! [`Task::read`] makes [`TaskData`] of them by one of the protocols of [`Order`]; [`fit`] makes the examples fit the models.

mod data;
mod definition;
mod draft;
mod field;
mod fit;
mod format;
mod label;
mod labels;
mod matching;
mod order;
mod read;
pub mod rng;
mod rows;
pub mod rules;
mod source;
mod template;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bad_data;
#[cfg(test)]
mod tests_forms;
#[cfg(test)]
mod tests_library;
#[cfg(test)]
mod tests_readers;
#[cfg(test)]
mod tests_rules;
mod union;
mod uses;
pub mod world;

pub use self::{
    data::{
        Candidate, Counts, Example, FitCounts, FitPart, Form, Frequent, Generation, OverLong, PoolCounts, PromptStyle,
        PromptText, SourceFile, TaskData,
    },
    definition::{ChooseRule, CoinRule, Draw, Generate, Header, LabelRule, OneOrMany, Prompt, Source, Splits, Task},
    draft::{DraftForm, DraftOptions, draft},
    fit::{CountTokens, Counter, Shortened, Tick, TokenCounts, cuts_words, fit, lengths, shorten},
    labels::LabelFile,
    matching::{Extract, Extracted, Matcher, Matching, Rule, Which},
    order::{Balance, DataOptions, Order},
    rows::{Row, Rows},
    source::{RowSource, Sources},
    union::{Matchers, Portion},
};
use crate::Result;

impl Task {
    /// Reads the task's rows and makes its examples.
    pub fn read(&self, sources: &Sources, options: &DataOptions) -> Result<TaskData> {
        self.read_from(&*sources.open(self)?, options)
    }

    /// As [`read`](Self::read), from rows that are given: those of a generated [`world`], say.
    pub fn read_from(&self, source: &dyn RowSource, options: &DataOptions) -> Result<TaskData> {
        order::assemble(self, source, options).map_err(|error| error.context(format!("task `{}`", self.name)))
    }
}
