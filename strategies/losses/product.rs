use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{self, Invalid, Memory, Progress, StudentLoss, math, no_words};

/// Product of experts: cross-entropy with the normalised product of the labels and the student's own prediction.
///
/// l = CE(t, z), tₖ ∝ pₖ^β yₖ^α, without gradient through t. Where student and supervisor agree the target is sharper than either.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Product {
    /// Exponent of the labels. Origin: openai/weak-to-strong, `product_loss_fn`.
    pub alpha: f64,
    /// Exponent of the student's prediction. Origin: openai/weak-to-strong, `product_loss_fn`.
    pub beta: f64,
    /// What a label of 0 says: `logspace` raises it to `label_floor`, `openai` forbids the class. Either is computed from logarithms: as a
    /// product of probabilities, a confident student against a hard label is 0/0 in the published code.
    /// Origin: logspace is original; openai is `product_loss_fn`.
    pub form: Form,
    /// Smallest label in `logspace`. Origin: original; 0 would forbid the student every class that a hard label excludes.
    pub label_floor: f64,
}

/// What a label of 0 says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// softmax(β log p + α log y), y at least `label_floor`.
    #[default]
    Logspace,
    /// p^β y^α / Σ p^β y^α: a class of label 0 has target 0, unless α is 0.
    Openai,
}

impl Default for Product {
    fn default() -> Self {
        Self { alpha: 1.0, beta: 1.0, form: Form::Logspace, label_floor: 1e-12 }
    }
}

impl StudentLoss for Product {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn fits(&self, form: strategy::Form) -> Result<(), String> {
        no_words(form, "of a hard label nothing is left but `cross-entropy`; use that")
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let own = math::log_softmax(logits) * self.beta;
        match self.form {
            Form::Logspace => math::softmax(own + labels.clamp_min(self.label_floor).log() * self.alpha),
            Form::Openai if self.alpha == 0.0 => math::softmax(own),
            Form::Openai => {
                // The logarithm of a product of 0: so low that nothing is left of it beside any other class.
                const NOTHING: f64 = -1e30;
                let excluded = labels.clone().equal_elem(0.0);
                math::softmax((own + math::log(labels) * self.alpha).mask_fill(excluded, NOTHING))
            }
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("alpha", self.alpha, 0.0, f64::INFINITY)?;
        Invalid::unless_within("beta", self.beta, 0.0, f64::INFINITY)?;
        Invalid::unless_within("label_floor", self.label_floor, f64::from(f32::MIN_POSITIVE), 0.5)
    }
}

register!(loss "product" for Product, paper = "`product` of openai/weak-to-strong", changed = [form = "openai"]);

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_confident_student_against_a_hard_label_gives_a_number_in_either_form() {
        let at = Progress { step: 0, total_steps: 1, epoch: 0, epochs: 1 };
        for form in [Form::Logspace, Form::Openai] {
            let device = Device::flex();
            let logits = Tensor::<2>::from_floats([[500.0, -500.0]], &device);
            let label = Tensor::<2>::from_floats([[0.0, 1.0]], &device);
            let product = Product { form, ..Product::default() };
            let targets = product.targets(logits, label, &at, &mut Memory::default());
            let row: Vec<f32> = targets.into_data().iter::<f32>().collect();
            assert!((row[0] + row[1] - 1.0).abs() < 1e-6, "{form:?}: {row:?}");
        }
    }
}
