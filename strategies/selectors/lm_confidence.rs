use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Needs, Pool, Selection, Selector, math::{self, Compare}, no_words};

/// Trusts the strong model's own answer where it gives it a large probability.
///
/// The own label stands where maxₖ of it ≥ threshold, the weak label elsewhere. Needs soft self-labels: a hard one is certain of itself
/// everywhere, and a data set of those is refused. The baseline that needs no head for P(IK).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LmConfidence {
    /// Smallest probability of the likeliest answer. Origin: original; the threshold that selective W2SG has for P(IK).
    pub threshold: f64,
}

impl Default for LmConfidence {
    fn default() -> Self {
        Self { threshold: 0.8 }
    }
}

impl Selector for LmConfidence {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let selection = Selection::weak(batch);
        match &batch.self_labels {
            Some(answers) => {
                let own = Compare::AtLeast.passes(math::row_max(answers.clone()), self.threshold);
                Selection { own, ..selection }
            }
            None => selection,
        }
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "answers come without probabilities, so that nobody is known to be sure of one")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let certain = |label: &Vec<f32>| label.iter().any(|p| *p > 1.0 - 1e-6);
        match &pool.self_labels {
            Some(labels) if !labels.is_empty() && labels.iter().all(certain) => {
                Err("every self-label is hard and therefore certain; use soft self-labels".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("threshold", self.threshold, 0.0, 1.0)
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

register!(selector "lm-confidence" for LmConfidence, paper = "original: a baseline for selective W2SG (AAAI 2026, arXiv 2511.14166)");

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use w2s_core::strategy::ExampleId;

    use super::*;

    #[test]
    fn trusts_sure_answers_and_refuses_hard_ones() {
        let device = Device::flex();
        let ids = [0, 1, 2].map(ExampleId);
        let batch = Batch::new(&ids, Tensor::from_floats([[0.99, 0.01]; 3], &device))
            .with_self_labels(Tensor::from_floats([[0.2, 0.8], [0.21, 0.79], [0.9, 0.1]], &device));
        let selection = LmConfidence::default().select(&batch, &mut Memory::default());
        assert_eq!(math::to_host(selection.own), [1.0, 0.0, 1.0]);
        let prepare = |labels: Vec<Vec<f32>>| {
            LmConfidence::default().prepare(&Pool { self_labels: Some(labels), ..Pool::default() })
        };
        assert!(prepare(vec![vec![1.0, 0.0], vec![0.0, 1.0]]).unwrap_err().contains("soft"));
        assert!(prepare(vec![vec![1.0, 0.0], vec![0.3, 0.7]]).is_ok());
    }
}
