//! What a strategy carries from one step to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Named rows of numbers that a strategy carries from step to step of one training.
///
/// Strategies are pure: whatever must outlive a step (a rolling window of confidences, a memory bank) lives here, where the engine can see
/// and save it. Every training starts with none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Bits", into = "Bits")]
pub struct Memory(BTreeMap<String, Vec<f32>>);

/// The numbers of a [`Memory`] as it is saved: infinities and what is no number are kept, too.
#[derive(Serialize, Deserialize)]
struct Bits(BTreeMap<String, Vec<u32>>);

impl From<Memory> for Bits {
    fn from(memory: Memory) -> Self {
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        Self(memory.0.into_iter().map(|(name, values)| (name, bits(values))).collect())
    }
}

impl From<Bits> for Memory {
    fn from(bits: Bits) -> Self {
        let values = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
        Self(bits.0.into_iter().map(|(name, bits)| (name, values(bits))).collect())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_saved() {
        let mut memory = Memory::default();
        let numbers = [0.1, -0.0, f32::MIN_POSITIVE / 3.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        memory.push("numbers", &numbers, 100);
        let mut back: Memory = serde_json::from_str(&serde_json::to_string(&memory).unwrap()).unwrap();
        let bits = |memory: &mut Memory| memory.entry("numbers").iter().map(|n| n.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&mut back), bits(&mut memory));
    }
}
