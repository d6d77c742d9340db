use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, LabelRefiner, Memory, Selection, math, no_words};

/// Sharpens or flattens labels by a temperature.
///
/// y ← softmax(log y / T): T < 1 sharpens, T > 1 flattens, T = 1 changes nothing. Hard labels stay hard.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Temperature {
    /// Temperature T. Origin: original; the published methods use labels as they come.
    pub temperature: f64,
}

impl Default for Temperature {
    fn default() -> Self {
        Self { temperature: 2.0 }
    }
}

impl LabelRefiner for Temperature {
    fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
        math::temper(selection.labels(batch), self.temperature)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        no_words(form, "no answer is softer or harder than another; use `identity`")
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("temperature", self.temperature, 1e-2, f64::INFINITY)
    }
}

register!(refiner "temperature" for Temperature, paper = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network");
