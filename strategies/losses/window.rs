use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Pool, Progress, StudentLoss, TokenView, math, no_words};

/// Confidence window: cross-entropy on the examples of which the student is still unsure.
///
/// l = CE(y, z) where maxₖ pₖ < 1/2 + radius, else 0; the mean stays over the whole batch. What the student is sure of is left alone,
/// so it keeps its own opinion there. Not consistently better than cross-entropy on EleutherAI's 21 tasks.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// Half the window's width around 1/2, or `midweak`: the (lower) median of |y₁ − 1/2| over the training labels. Origin: EleutherAI/w2s, configuration.
    pub radius: Radius,
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

impl StudentLoss for Window {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        let radius = match self.radius {
            Radius::Fixed(radius) => radius,
            Radius::Measured(_) => self.measured.unwrap_or(0.5),
        };
        let inside = tokens.still.own.clone().exp().lower_scalar(0.5 + radius).float();
        Some(tokens.cross_entropy() * inside)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        match self.radius {
            Radius::Fixed(_) => Ok(()),
            Radius::Measured(_) => no_words(form, "the answers of the weak supervisor come without probabilities to measure; give `radius` a number"),
        }
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let radius = match self.radius {
            Radius::Fixed(radius) => radius,
            Radius::Measured(_) => self.measured.unwrap_or(0.5),
        };
        let inside = math::row_max(math::softmax(logits)).lower_scalar(0.5 + radius);
        math::weigh_rows(labels, inside.float())
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let largest = |row: &Vec<f32>| row.iter().copied().fold(0.0, f32::max);
        let mut distances: Vec<f32> = pool.weak.iter().map(|row| largest(row) - 0.5).collect();
        distances.sort_by(f32::total_cmp);
        self.measured = distances.get(distances.len().saturating_sub(1) / 2).map(|median| f64::from(*median));
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        match self.radius {
            Radius::Fixed(radius) => Invalid::unless_within("radius", radius, 0.0, 1.0),
            Radius::Measured(_) => Ok(()),
        }
    }
}

register!(loss "window" for Window, paper = "EleutherAI/w2s, `confidence_window_loss`");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midweak_is_the_lower_median_of_the_distance_from_one_half() {
        let mut window = Window { radius: Radius::Measured(Midweak::Midweak), measured: None };
        let weak = vec![vec![0.9, 0.1], vec![0.25, 0.75], vec![0.5, 0.5], vec![0.375, 0.625]];
        let pool = Pool { ids: Vec::new(), weak, ..Pool::default() };
        window.prepare(&pool).unwrap();
        assert_eq!(window.measured, Some(0.125));
    }
}
