use burn::tensor::{Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Progress, StudentLoss, TokenView, math, no_words};

/// Adaptive confidence loss: each example weighs the labels against the student's own hard prediction by how surprising each is.
///
/// l = (1 − β) τ² KL(y_τ ‖ p_τ) + β CE(ŝ, z), with ŝ the student's argmax, β = σ((CE(ŝ, z) − CE(argmax y, z)) / T) and no gradient through
/// either; `raven` takes CE((1 − β) y + β ŝ, z) instead, which differs by the constant (1 − β) H(y) and has the same gradient at τ = 1.
/// β is 1/2 where both agree and less where they do not: the surer the student's disagreement, the more it follows its teacher.
/// In Selective W2SG's tables it recovers little from a weak GPT-2: 32, −8 and 3 % of the gap on three tasks.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConfidence {
    /// `guo` or `raven`. Origin: Guo et al. 2024 is the paper.
    pub variant: Variant,
    /// Temperature T of β: 0.5 for guo, 1 for raven. Origin: `superalignment_threshold` of ggjy/vision_weak_to_strong; raven's code has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Temperature τ of the distillation term, for guo. Origin: `kd_temperature` of ggjy/vision_weak_to_strong.
    pub tau: f64,
    /// Share of the run over which β rises from 0. Origin: 0 in the paper's main experiments; 0.25 in its noisy-label and few-shot code, there by epoch.
    pub warmup: f64,
}

/// Which form of the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Two terms: a divergence from the labels and a cross-entropy.
    #[default]
    Guo,
    /// One cross-entropy with the mixed target.
    Raven,
}

impl Default for AdaptiveConfidence {
    fn default() -> Self {
        Self { variant: Variant::Guo, temperature: None, tau: 1.0, warmup: 0.0 }
    }
}

impl AdaptiveConfidence {
    /// T of β.
    fn temperature(&self) -> f64 {
        self.temperature.unwrap_or(if self.variant == Variant::Guo { 0.5 } else { 1.0 })
    }
}

impl StudentLoss for AdaptiveConfidence {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        match self.variant {
            Variant::Raven => math::cross_entropy(targets, logits),
            Variant::Guo => math::distill_and_trust(logits, targets, self.tau),
        }
    }

    fn tokens(&self, tokens: &TokenView, at: &Progress) -> Option<Tensor<1>> {
        let difference = tokens.still.label.clone() - tokens.still.own.clone();
        let beta = activation::sigmoid(difference / self.temperature()) * math::warm_up_share(at, self.warmup);
        Some(tokens.cross_entropy() * (beta.clone().neg() + 1.0) + tokens.own_cross_entropy() * beta)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        match self.tau == 1.0 {
            true => Ok(()),
            false => no_words(form, "`tau` takes the whole distribution at another temperature; leave it at 1"),
        }
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        let own = math::one_hot_argmax(logits.clone());
        let surprise = |of: Tensor<2>| math::cross_entropy(of, logits.clone());
        let difference = surprise(own.clone()) - surprise(math::one_hot_argmax(labels.clone()));
        let beta = activation::sigmoid(difference / self.temperature());
        let beta = beta * math::warm_up_share(at, self.warmup);
        let (trusted, own) = (beta.clone().neg() + 1.0, math::weigh_rows(own, beta));
        match self.variant {
            Variant::Raven => math::weigh_rows(labels, trusted) + own,
            Variant::Guo => Tensor::cat(vec![math::weigh_rows(math::temper(labels, self.tau), trusted), own], 1),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("temperature", self.temperature.unwrap_or(1.0), 1e-3, f64::INFINITY)?;
        Invalid::unless_within("tau", self.tau, 1e-2, f64::INFINITY)?;
        Invalid::unless_within("warmup", self.warmup, 0.0, 1.0)?;
        if self.variant == Variant::Raven && self.tau != 1.0 {
            return Err(Invalid::new("tau", "does not apply to `raven`, which has no distillation term"));
        }
        Ok(())
    }
}

register!(loss "adaptive-confidence" for AdaptiveConfidence, paper = "Guo et al. 2024, `AdaptConf` of ggjy/vision_weak_to_strong; `adapt_logconf` of mlbio-epfl/raven");

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// β of one row, read off the targets' second half.
    fn beta(logits: [f32; 2], label: [f32; 2], loss: &AdaptiveConfidence, step: usize) -> f32 {
        let device = Device::flex();
        let at = Progress { step, total_steps: 100, epoch: 0, epochs: 1 };
        let (logits, labels) = (Tensor::from_floats([logits], &device), Tensor::from_floats([label], &device));
        let targets = loss.targets(logits, labels, &at, &mut Memory::default());
        math::to_host(math::rows(targets.narrow(1, 2, 2)))[0]
    }

    #[test]
    fn beta_is_one_half_where_both_agree_and_falls_with_the_surety_of_a_disagreement() {
        let loss = AdaptiveConfidence::default();
        assert_eq!(beta([0.1, 0.0], [0.6, 0.4], &loss, 0), 0.5);
        assert_eq!(beta([9.0, 0.0], [0.9, 0.1], &loss, 0), 0.5);
        let [mild, sure] = [1.0, 3.0].map(|surety| beta([0.0, surety], [0.9, 0.1], &loss, 0));
        // CE(ŝ) − CE(argmax y) = −surety, divided by T = 1/2.
        assert!((mild - 1.0 / (1.0 + 2.0_f32.exp())).abs() < 1e-6 && sure < mild && sure > 0.0, "{mild} {sure}");
        // The literal quotient of exponentials would overflow here.
        assert_eq!(beta([0.0, 5000.0], [0.9, 0.1], &loss, 0), 0.0);
    }

    #[test]
    fn the_warm_up_scales_beta() {
        let loss = AdaptiveConfidence { warmup: 0.25, ..AdaptiveConfidence::default() };
        let at = |step: usize| beta([0.1, 0.0], [0.6, 0.4], &loss, step);
        assert_eq!([at(0), at(10), at(25), at(60)], [0.0, 0.2, 0.5, 0.5]);
    }
}
