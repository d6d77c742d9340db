use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Memory, Needs, Selection, Selector, math};

/// Keeps the examples on which the weak supervisor and the strong model's own answer agree.
///
/// They agree where argmax of the weak label and of the self-label are one class (of equal classes the lowest). Where they do not, the example
/// is dropped, or the own answer is trusted with `otherwise = "own"`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Agreement {
    /// Which label stands where they agree: they have one class but may be soft. Origin: original.
    pub label: Label,
    /// What becomes of the others. Origin: original.
    pub otherwise: Otherwise,
}

/// Which label stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// The weak one.
    #[default]
    Weak,
    /// The strong model's own.
    Own,
}

/// What becomes of examples without agreement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Otherwise {
    /// They do not count.
    #[default]
    Drop,
    /// The own label stands.
    Own,
}

impl Selector for Agreement {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        let selection = Selection::weak(batch);
        let Some(answers) = &batch.self_labels else { return selection };
        let agree = math::rows(math::one_hot_argmax(answers.clone()) * math::one_hot_argmax(batch.weak.clone()));
        let own = match (self.label, self.otherwise) {
            (Label::Weak, Otherwise::Drop) => selection.own,
            (Label::Weak, Otherwise::Own) => agree.clone().neg() + 1.0,
            (Label::Own, _) => selection.weight.clone(),
        };
        let weight = match self.otherwise {
            Otherwise::Drop => agree,
            Otherwise::Own => selection.weight,
        };
        Selection { own, weight }
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { self_labels: true, ..Needs::default() }
    }
}

register!(selector "agreement" for Agreement, paper = "original; consensus of teacher and student as in co-supervised learning (Liu and Alahi 2024)");

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use w2s_core::strategy::ExampleId;

    use super::*;

    #[test]
    fn every_form_of_agreement() {
        let device = Device::flex();
        let ids = [0, 1, 2].map(ExampleId);
        let batch = Batch::new(&ids, Tensor::from_floats([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]], &device))
            .with_self_labels(Tensor::from_floats([[0.0, 1.0], [0.0, 1.0], [0.9, 0.1]], &device));
        let select = |label, otherwise| {
            let selection = Agreement { label, otherwise }.select(&batch, &mut Memory::default());
            (math::to_host(selection.own), math::to_host(selection.weight))
        };
        let (none, all) = (vec![0.0; 3], vec![1.0; 3]);
        assert_eq!(select(Label::Weak, Otherwise::Drop), (none, vec![1.0, 0.0, 1.0]));
        assert_eq!(select(Label::Weak, Otherwise::Own), (vec![0.0, 1.0, 0.0], all.clone()));
        assert_eq!(select(Label::Own, Otherwise::Drop), (all.clone(), vec![1.0, 0.0, 1.0]));
        assert_eq!(select(Label::Own, Otherwise::Own), (all.clone(), all));
    }
}
