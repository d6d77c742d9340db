use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Pool, Selection, Selector, math, no_words};

/// Keeps the examples of middle confidence.
///
/// An example counts where maxₖ pₖ < 1/2 + radius, p being the student's probabilities. The loss of the same name, the published form, masks
/// the same examples but takes the mean over the whole batch, so that a batch with few of them weighs little; here it is over those that count.
/// With `of = "weak"`, p is the weak label, and what the supervisor is sure of is dropped from the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// Half the window's width around 1/2, or `midweak`: the (lower) median of maxₖ yₖ − 1/2 over the weak labels. Origin: EleutherAI/w2s, configuration.
    pub radius: Radius,
    /// Whose confidence. Origin: EleutherAI/w2s, `confidence_window_loss`; the weak label's is original.
    pub of: Of,
    /// The radius that `prepare` measured.
    #[serde(skip)]
    measured: Option<f64>,
}

/// The window's half width.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number or \"midweak\"")]
pub enum Radius {
    /// A number.
    Fixed(f64),
    /// Measured on the training labels.
    Measured(Midweak),
}

/// The word for a measured radius.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Midweak {
    /// Lower median of the weak labels' distance from 1/2.
    Midweak,
}

impl Default for Radius {
    fn default() -> Self {
        Radius::Fixed(0.15)
    }
}

/// Whose confidence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// The student's at this step.
    #[default]
    Student,
    /// The weak supervisor's.
    Weak,
}

impl Window {
    fn radius(&self) -> f64 {
        match self.radius {
            Radius::Fixed(radius) => radius,
            Radius::Measured(_) => self.measured.unwrap_or(0.5),
        }
    }
}

impl Selector for Window {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let p = match self.of {
            Of::Student => &batch.student,
            Of::Weak => &batch.weak,
        };
        let weight = math::row_max(p.clone()).lower_scalar((0.5 + self.radius()) as f32).float();
        Selection { weight, ..Selection::weak(batch) }
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "answers come without probabilities, so that nobody is known to be sure of one")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let largest = |row: &Vec<f32>| row.iter().copied().fold(0.0, f32::max);
        let mut confidences: Vec<f32> = pool.weak.iter().map(largest).collect();
        confidences.sort_by(f32::total_cmp);
        let median = confidences.get(confidences.len().saturating_sub(1) / 2);
        self.measured = median.map(|median| f64::from(*median) - 0.5);
        let (radius, least) = (self.radius(), confidences.first());
        match self.of {
            Of::Weak if least.is_some_and(|least| *least >= (0.5 + radius) as f32) => {
                Err(format!("no weak label has its largest probability below {}; raise `radius`", 0.5 + radius))
            }
            _ => Ok(()),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        match self.radius {
            Radius::Fixed(radius) => Invalid::unless_within("radius", radius, 0.0, 1.0),
            Radius::Measured(_) => Ok(()),
        }
    }
}

register!(selector "window" for Window, paper = "EleutherAI/w2s, the examples of `confidence_window_loss`");

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use w2s_core::strategy::ExampleId;

    use super::*;

    const WEAK: [[f32; 2]; 4] = [[0.9, 0.1], [0.25, 0.75], [0.5, 0.5], [0.375, 0.625]];

    fn weights(selector: &Window) -> Vec<f32> {
        let device = Device::flex();
        let ids = [0, 1, 2, 3].map(ExampleId);
        let batch = Batch::new(&ids, Tensor::from_floats(WEAK, &device))
            .with_student(Tensor::from_floats([[0.64, 0.36], [0.36, 0.64], [0.3, 0.7], [0.99, 0.01]], &device));
        math::to_host(selector.select(&batch, &mut Memory::default()).weight)
    }

    fn pool() -> Pool {
        Pool { weak: WEAK.iter().map(|row| row.to_vec()).collect(), ..Pool::default() }
    }

    #[test]
    fn keeps_the_middle() {
        assert_eq!(weights(&Window::default()), [1.0, 1.0, 0.0, 0.0]);
        let weak = |radius| Window { of: Of::Weak, radius: Radius::Fixed(radius), measured: None };
        assert_eq!(weights(&weak(0.2)), [0.0, 0.0, 1.0, 1.0]);
        // The edge is outside.
        assert_eq!(weights(&weak(0.25)), [0.0, 0.0, 1.0, 1.0]);
        assert!(weak(0.0).prepare(&pool()).unwrap_err().contains("radius"));
        assert!(weak(0.01).prepare(&pool()).is_ok());
    }

    #[test]
    fn midweak_is_the_lower_median() {
        let mut window = Window { radius: Radius::Measured(Midweak::Midweak), ..Window::default() };
        window.prepare(&pool()).unwrap();
        assert_eq!(window.measured, Some(0.125));
        assert_eq!(weights(&window), [0.0, 0.0, 0.0, 0.0]);
    }
}
