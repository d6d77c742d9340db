use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Invalid, Memory, Progress, StudentLoss, math, two_classes};

/// Bradley–Terry with a margin: the better one of two must be ahead by as much as the data say it is better.
///
/// l = −Σₖ yₖ log σ(sₖ − s₁₋ₖ − m), with the scores s, the soft label y of who is the better one, and the margin m ≥ 0 of the pair: a strength of
/// preference in the data, which says nothing about who won. With m = 0 this is cross-entropy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Margin {
    /// Name of the column with the margins, at least 0. Origin: original; `[field]` reads it from the data.
    pub column: String,
    /// What a margin counts for, in the unit of the scores. Origin: Touvron et al. 2023 put their four grades of preference to margins between 0
    /// and 1, or 3; 1 takes the data's own unit.
    pub scale: f64,
}

impl Default for Margin {
    fn default() -> Self {
        Self { column: "field".to_owned(), scale: 1.0 }
    }
}

impl StudentLoss for Margin {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let (labels, margin) = (targets.clone().narrow(1, 0, 2), targets.narrow(1, 2, 1));
        // log σ(s − s′ − m) is the log-probability of the one whose score was lowered by the margin.
        let won = |place: usize| {
            let mut sides = [logits.clone().narrow(1, 0, 1), logits.clone().narrow(1, 1, 1)];
            sides[place] = sides[place].clone() - margin.clone();
            math::log_softmax(Tensor::cat(sides.to_vec(), 1)).narrow(1, place, 1)
        };
        math::rows(labels * Tensor::cat(vec![won(0), won(1)], 1)).neg()
    }

    /// Labels alone are those of a margin of 0.
    fn targets(&self, _logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let none = math::column(labels.clone(), 0).zeros_like();
        Tensor::cat(vec![labels, none.unsqueeze_dim(1)], 1)
    }

    fn targets_of(&self, batch: &Batch, _logits: Tensor<2>, labels: Tensor<2>, _memory: &mut Memory) -> Tensor<2> {
        let margin = batch.column(&self.column).unwrap_or_else(|| math::column(labels.clone(), 0).zeros_like());
        Tensor::cat(vec![labels, margin.mul_scalar(self.scale).unsqueeze_dim(1)], 1)
    }

    fn reads(&self, _column: &str, margins: &[f32]) -> Result<(), String> {
        match margins.iter().position(|margin| margin.is_nan() || *margin < 0.0) {
            None => Ok(()),
            Some(row) => Err(format!(
                "the margin of example {row} is {}, and one is at least 0: the sign of a difference would say who is right. Set `absolute = true` in `[field]`",
                margins[row]
            )),
        }
    }

    fn columns(&self) -> Vec<String> {
        vec![self.column.clone()]
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        two_classes(form, "use `cross-entropy`, which is this loss without a margin")
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("scale", self.scale, 0.0, f64::INFINITY)
    }
}

register!(loss "margin" for Margin, paper = "Touvron et al. 2023, Llama 2 (arXiv 2307.09288), equation 2; mixed by the soft label over both winners");

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use w2s_core::strategy::ExampleId;

    use super::*;

    fn losses(margins: &[f32], logits: &[[f32; 2]], labels: &[[f32; 2]]) -> Vec<f32> {
        let device = Device::flex();
        let rows = |values: &[[f32; 2]]| {
            Tensor::<1>::from_floats(values.concat().as_slice(), &device).reshape([values.len(), 2])
        };
        let ids: Vec<ExampleId> = (0..labels.len() as u32).map(ExampleId).collect();
        let batch = Batch::new(&ids, rows(labels)).with_column("field", Tensor::from_floats(margins, &device));
        let loss = Margin::default();
        let targets = loss.targets_of(&batch, rows(logits), rows(labels), &mut Memory::default());
        math::to_host(loss.loss(rows(logits), targets, &batch.progress))
    }

    #[test]
    fn the_better_one_must_be_ahead_by_the_margin() {
        let (logits, labels) = ([[0.4, -0.3], [2.0, 1.5], [-1.0, 0.25]], [[1.0, 0.0], [0.0, 1.0], [0.75, 0.25]]);
        let margins = [0.5, 2.0, 1.0];
        let log_sigmoid = |x: f64| -(1.0 + (-x).exp()).ln();
        for (row, loss) in losses(&margins, &logits, &labels).into_iter().enumerate() {
            let [ahead, margin] = [logits[row][0] - logits[row][1], margins[row]].map(f64::from);
            let [first, second] = labels[row].map(f64::from);
            let expected = -first * log_sigmoid(ahead - margin) - second * log_sigmoid(-ahead - margin);
            assert!((f64::from(loss) - expected).abs() < 1e-6, "{loss} {expected}");
        }
        // Without margins it is cross-entropy, bit by bit.
        let device = Device::flex();
        let rows = |values: [[f32; 2]; 3]| Tensor::<2>::from_floats(values, &device);
        let plain = math::to_host(math::cross_entropy(rows(labels), rows(logits)));
        assert_eq!(losses(&[0.0; 3], &logits, &labels), plain);
        let targets = Margin::default().targets(
            rows(logits),
            rows(labels),
            &Progress { step: 0, total_steps: 1, epoch: 0, epochs: 1 },
            &mut Memory::default(),
        );
        let at = Progress { step: 0, total_steps: 1, epoch: 0, epochs: 1 };
        assert_eq!(math::to_host(Margin::default().loss(rows(logits), targets, &at)), plain);
    }

    #[test]
    fn a_margin_below_nothing_is_refused() {
        let read = |margins: &[f32]| Margin::default().reads("field", margins);
        assert_eq!(read(&[0.0, 3.0]), Ok(()));
        assert!(read(&[0.0, -1.0]).unwrap_err().contains("example 1 is -1"));
        assert!(read(&[f32::NAN]).is_err());
    }
}
