//! What a strategy carries from one step to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Named rows of numbers that a strategy carries from step to step of one training.
///
/// Strategies are pure: whatever must outlive a step (a rolling window of confidences, a memory bank) lives here, where the engine can see
/// and save it. Every training starts with none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory(BTreeMap<String, Vec<f32>>);

impl Memory {
    /// The numbers under a name; empty at first.
    pub fn entry(&mut self, name: &str) -> &mut Vec<f32> {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Vec::new());
        }
        self.0.get_mut(name).expect("inserted above")
    }

    /// Appends numbers and forgets all but the last `capacity`.
    pub fn push(&mut self, name: &str, values: &[f32], capacity: usize) {
        let kept = self.entry(name);
        kept.extend_from_slice(values);
        let surplus = kept.len().saturating_sub(capacity);
        kept.drain(..surplus);
    }
}
