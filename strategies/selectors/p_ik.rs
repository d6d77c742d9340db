use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Needs, Selection, Selector, math::Compare};

/// Trusts the strong model's own answer where it probably knows it.
///
/// The own label stands where P(IK) > γ, the weak label elsewhere; every example counts. P(IK) is the probability, by a head that is trained
/// along, that the strong model's own answer is right. While there is no such head yet, all labels are weak.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PIk {
    /// Threshold γ. Origin: selective W2SG, implementation details.
    pub gamma: f64,
    /// Whether γ itself passes (`>=`) or not (`>`). Origin: selective W2SG says "above"; equality is not defined there.
    pub compare: Compare,
}

impl Default for PIk {
    fn default() -> Self {
        Self { gamma: 0.8, compare: Compare::default() }
    }
}

impl Selector for PIk {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let selection = Selection::weak(batch);
        match batch.column("p-ik") {
            Some(p_ik) => Selection { own: self.compare.passes(p_ik, self.gamma), ..selection },
            None => selection,
        }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("gamma", self.gamma, 0.0, 1.0)
    }

    fn columns(&self) -> Vec<String> {
        vec!["p-ik".to_owned()]
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

register!(selector "p-ik" for PIk, paper = "Lang et al., Selective Weak-to-Strong Generalization, AAAI 2026, 40(44), 37556–37564 (arXiv 2511.14166), training to predict P(IK)");

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use w2s_core::strategy::{ExampleId, math};

    use super::*;

    #[test]
    fn own_labels_where_the_threshold_is_passed() {
        let device = Device::flex();
        let ids = [0, 1, 2].map(ExampleId);
        let before = Batch::new(&ids, Tensor::from_floats([[0.4, 0.6]; 3], &device))
            .with_self_labels(Tensor::from_floats([[1.0, 0.0]; 3], &device));
        let batch = before.clone().with_column("p-ik", Tensor::from_floats([0.9, 0.8, 0.2], &device));
        let select = |compare| PIk { compare, ..PIk::default() }.select(&batch, &mut Memory::default());
        assert_eq!(math::to_host(select(Compare::Above).own), [1.0, 0.0, 0.0]);
        let selection = select(Compare::AtLeast);
        assert_eq!(math::to_host(selection.own.clone()), [1.0, 1.0, 0.0]);
        assert_eq!(math::to_host(selection.weight.clone()), [1.0; 3]);
        assert_eq!(math::rows_to_host(selection.labels(&batch)), [1.0, 0.0, 1.0, 0.0, 0.4, 0.6]);
        assert_eq!(math::to_host(PIk::default().select(&before, &mut Memory::default()).own), [0.0; 3]);
    }
}
