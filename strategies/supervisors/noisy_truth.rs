use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Invalid, Labels, Split, Supervision, Supervisor, math};

/// A simulated supervisor that is wrong at random: ground truth with a given share of the labels flipped.
///
/// Exactly round(rate · N) labels per split become another class, each of the others equally likely; on words, the right answer of another example. Errors are then independent of the input: the
/// student cannot learn to imitate them, unlike a weak model's. Comparing both tells how much of a method's gain is undoing plain noise.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NoisyTruth {
    /// Share of wrong labels; set it to the error rate of the weak model it stands for. Origin: original; Burns et al. match the weak model's accuracy.
    pub rate: f64,
}

impl Default for NoisyTruth {
    fn default() -> Self {
        Self { rate: 0.25 }
    }
}

impl NoisyTruth {
    /// Flips the chosen labels in place.
    fn flip(&self, mut labels: Labels, seed: u64) -> Labels {
        for wrong in math::choose(seed, 0..labels.len() as u32, math::share_of(self.rate, labels.len())) {
            let Some(row) = labels.get_mut(wrong as usize) else { continue };
            let others = row.len().saturating_sub(1) as u64;
            if others > 0 {
                row.rotate_right(1 + (math::draw(!seed, wrong.into()) % others) as usize);
            }
        }
        labels
    }
}

impl Supervisor for NoisyTruth {
    fn asks(&self) -> Vec<Ask> {
        vec![Ask::Truth, Ask::Wrong]
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        Ok(given.answers[0].map(|split, truth| {
            let stream = match split {
                Split::Test => 1,
                Split::Validation => 2,
                _ => 0,
            };
            self.flip(truth.clone(), math::draw(given.seed, stream))
        }))
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("rate", self.rate, 0.0, 1.0)
    }
}

register!(supervisor "noisy-truth" for NoisyTruth, paper = "Burns et al. 2023 (arXiv 2312.09390), error simulation: a supervisor with independent errors");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_rate_is_wrong_and_every_other_class_is_hit() {
        let truth: Labels = (0..300).map(|_| vec![0.0, 1.0, 0.0]).collect();
        let noisy = NoisyTruth { rate: 0.4 }.flip(truth.clone(), 3);
        let class = |class: usize| noisy.iter().filter(|row| row[class] == 1.0).count();
        assert_eq!(class(1), 180);
        assert_eq!(class(0) + class(2), 120);
        assert!(class(0) > 40 && class(2) > 40, "{} {}", class(0), class(2));
        assert_eq!(noisy, NoisyTruth { rate: 0.4 }.flip(truth.clone(), 3));
        assert_ne!(noisy, NoisyTruth { rate: 0.4 }.flip(truth.clone(), 4));
        assert_eq!(NoisyTruth { rate: 0.0 }.flip(truth.clone(), 3), truth);
    }
}
