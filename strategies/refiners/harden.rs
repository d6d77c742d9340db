use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, LabelRefiner, Memory, Selection, math, no_words};

/// Replaces each label by its likeliest class.
///
/// y ← one-hot argmax y; of equal classes the lowest wins. Throws away how sure the supervisor was.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Harden {}

impl LabelRefiner for Harden {
    fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
        math::one_hot_argmax(selection.labels(batch))
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "no answer is softer or harder than another; use `identity`")
    }
}

register!(refiner "harden" for Harden, paper = "standard; Burns et al. 2023 (arXiv 2312.09390) train on soft labels instead");
