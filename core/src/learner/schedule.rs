//! The learning rate of each step.

use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Half a cosine wave, from 1 towards 0.
    #[default]
    Cosine,
    /// A straight line, from 1 towards 0.
    Linear,
    /// Not at all.
    Constant,
}

/// A learning rate per step, in closed form: `cosine_anneal` of openai/weak-to-strong, and with a warm-up the schedules of
/// `transformers` (`get_cosine_schedule_with_warmup`, `get_linear_schedule_with_warmup`).
///
/// Burn's own schedulers reach the same values by recurrence, but refuse rates outside (0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    shape: Shape,
    peak: f64,
    warmup: usize,
    steps: usize,
    next: usize,
}

impl Schedule {
    /// A schedule over `steps` steps, `warmup` of which rise linearly from 0 to `peak`.
    pub fn new(shape: Shape, peak: f64, warmup: usize, steps: usize) -> Self {
        Self { shape, peak, warmup, steps, next: 0 }
    }

    /// The same, whose next step is this one.
    pub(super) fn starting_at(self, next: usize) -> Self {
        Self { next, ..self }
    }

    /// Learning rate of a step, counted from 0; 0 from the last step on, except for a constant one.
    pub fn rate(&self, step: usize) -> f64 {
        let factor = if step < self.warmup {
            step as f64 / self.warmup as f64
        } else if self.shape == Shape::Constant {
            1.0
        } else {
            let rest = self.steps.saturating_sub(self.warmup).max(1);
            let done = ((step - self.warmup) as f64 / rest as f64).min(1.0);
            match self.shape {
                Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
                Shape::Linear => 1.0 - done,
                Shape::Constant => 1.0,
            }
        };
        self.peak * factor
    }
}

impl LrScheduler for Schedule {
    fn step(&mut self) -> f64 {
        self.next += 1;
        self.rate(self.next - 1)
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("next", self.next)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        self.next = record.scalar("next").unwrap_or(self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(case: &str) -> Vec<f64> {
        let text = include_str!("../../../tests/golden/golden_metrics.json");
        let golden: serde_json::Value = serde_json::from_str(text).unwrap();
        golden["lr_multiplier"][case].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    }

    #[track_caller]
    fn assert_equal(schedule: &Schedule, golden: &[(usize, f64)]) {
        for (step, value) in golden {
            let rate = schedule.rate(*step);
            assert!((rate - value).abs() < 1e-12, "step {step}: {rate} instead of {value}");
        }
    }

    fn numbered(values: &[f64]) -> Vec<(usize, f64)> {
        values.iter().copied().enumerate().collect()
    }

    #[test]
    fn cosine_is_the_reference() {
        let ten = golden("cosine_anneal_T10");
        assert_equal(&Schedule::new(Shape::Cosine, 1.0, 0, 10), &numbered(&ten));
        let long = golden("cosine_anneal_T364_first3_last2");
        let steps = [0, 1, 2, 362, 363];
        let cases: Vec<_> = steps.into_iter().zip(long).collect();
        assert_equal(&Schedule::new(Shape::Cosine, 1.0, 0, 364), &cases);
    }

    #[test]
    fn warm_up_is_that_of_transformers() {
        assert_equal(&Schedule::new(Shape::Linear, 1.0, 3, 10), &numbered(&golden("linear_with_warmup_w3_T10")));
        assert_equal(&Schedule::new(Shape::Cosine, 1.0, 4, 12), &numbered(&golden("hf_cosine_warmup_w4_T12")));
        assert_equal(&Schedule::new(Shape::Constant, 2.0, 2, 4), &[(0, 0.0), (1, 1.0), (2, 2.0), (9, 2.0)]);
    }

    #[test]
    fn any_rate_and_any_length_is_finite() {
        for shape in [Shape::Cosine, Shape::Linear, Shape::Constant] {
            for peak in [0.0, 1e-300, 7.0, 1e3] {
                for (warmup, steps) in [(0, 0), (0, 1), (3, 2), (2, 2)] {
                    let schedule = Schedule::new(shape, peak, warmup, steps);
                    for step in 0..6 {
                        let rate = schedule.rate(step);
                        assert!((0.0..=peak).contains(&rate), "{schedule:?} {step}: {rate}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_carries_the_step() {
        let mut schedule = Schedule::new(Shape::Linear, 1.0, 0, 10);
        let rates: Vec<f64> = (0..4).map(|_| schedule.step()).collect();
        assert_eq!(rates, [1.0, 0.9, 0.8, 0.7]);
        let mut resumed = Schedule::new(Shape::Linear, 1.0, 0, 10);
        resumed.load_record(schedule.to_record());
        assert_eq!(resumed, schedule);
    }
}
