use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Form, Invalid, Memory, Progress, StudentLoss, TokenView, math, two_classes};

/// Auxiliary confidence loss: cross-entropy with a mixture of the labels and the student's own hardened predictions.
///
/// l = CE((1 − c) y + c ŝ, z). The coefficient c rises during the warm-up; ŝ is the student's prediction in this batch, hardened
/// at a threshold that makes the share of positives match the labels (the balancing trick), without gradient.
///
/// Six implementations share the name and differ in both; all are here, by `variant`:
///
/// | variant | c at fraction f of the run | class 1 where |
/// |---|---|---|
/// | openai | max if f > warmup, else max · f: it jumps, 0.05 → 0.5 | p₀ < quantile of p₀ at the batch's mean y₁ |
/// | eleuther | max · min(1, f / warmup) | the same, over `threshold_rows` rows |
/// | eleuther-w2s | max · min(1, step / warmup_steps) | the same, over the last `buffer` rows |
/// | raven | max · min(1, f / warmup) | argmax, no balancing; any number of classes |
/// | bregman | max · min(1, f / warmup) | p₁ ≥ quantile of p₁ at the batch's mean y₀: a row at the threshold is class 1, not class 0 |
/// | paper | max · min(1, f / warmup) | the half of the batch with the largest p₁ |
///
/// Helps where the gap between student and supervisor is large; max = 0.75 is for the largest students and has hurt small ones.
/// With a zero head every p₀ is equal and the reference rule then makes every ŝ class 0; `tie_break = "rank"` does not.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuxConfidence {
    /// Whose implementation to follow. Origin: openai/weak-to-strong is what most results were made with.
    pub variant: Variant,
    /// Largest coefficient of the student's own predictions. Origin: 0.5 in all six; Burns et al., Appendix A.4, use 0.75 for the largest students.
    pub max: f64,
    /// Share of the run over which the coefficient rises: 0.1 for openai and eleuther, 0.2 for raven, bregman and paper.
    /// Origin: the variant's code; for `paper` Burns et al., Appendix A.4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<f64>,
    /// Optimizer steps over which the coefficient rises, for eleuther-w2s alone: 100. Origin: EleutherAI/w2s, configuration (its function says 200).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// Consecutive rows that share one threshold: the whole batch, except 1 for eleuther-w2s.
    /// Origin: the micro-batch of either Eleuther code, which is part of its method; ours otherwise never changes a result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold_rows: Option<usize>,
    /// Rows in the rolling window of eleuther-w2s: 32. Origin: EleutherAI/w2s, `w2s/loss.py`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer: Option<usize>,
    /// For eleuther-w2s: shift the labels' logits to mean zero and put the threshold at the median. Origin: EleutherAI/w2s, off by default.
    pub balance_batch: bool,
    /// What to do with equal predictions: `reference` compares with the interpolated quantile, `rank` gives exactly round(m B) positives, earlier rows
    /// first. Origin: reference is the published rule; rank is original (`paper` always ranks).
    pub tie_break: TieBreak,
}

/// Whose implementation to follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// openai/weak-to-strong.
    #[default]
    Openai,
    /// EleutherAI/weak-to-strong.
    Eleuther,
    /// EleutherAI/w2s.
    EleutherW2s,
    /// mlbio-epfl/raven.
    Raven,
    /// Gengze/W2SG-Bregman, `aux_conf_loss`.
    Bregman,
    /// Burns et al. 2023, Appendix A.4.
    Paper,
}

/// What to do with equal predictions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TieBreak {
    /// As published: class 0 at or above the interpolated quantile.
    #[default]
    Reference,
    /// Exactly round(m B) positives.
    Rank,
}

impl Default for AuxConfidence {
    fn default() -> Self {
        Self {
            variant: Variant::Openai,
            max: 0.5,
            warmup: None,
            warmup_steps: None,
            threshold_rows: None,
            buffer: None,
            balance_batch: false,
            tie_break: TieBreak::Reference,
        }
    }
}

impl AuxConfidence {
    /// The coefficient c of the student's own predictions.
    fn coefficient(&self, at: &Progress) -> f64 {
        let share = |default: f64| self.warmup.unwrap_or(default);
        self.max
            * match self.variant {
                Variant::Openai if at.fraction() > share(0.1) => 1.0,
                Variant::Openai => at.fraction(),
                Variant::Eleuther => math::warm_up_share(at, share(0.1)),
                Variant::EleutherW2s => math::warm_up(at.step as f64, self.warmup_steps.unwrap_or(100) as f64),
                Variant::Raven | Variant::Bregman | Variant::Paper => math::warm_up_share(at, share(0.2)),
            }
    }

    /// 1 where a row of these is class 1: `p` the student's probabilities `[B, 2]`, `m` the labels' mean of class 1 `[1]`.
    fn positive(&self, p: Tensor<2>, m: Tensor<1>) -> Tensor<1> {
        let (rows, p0) = (p.dims()[0], math::column(p.clone(), 0));
        let first = |count: Tensor<1>| math::rank(p0.clone()).lower(count.expand([rows])).float();
        match (self.variant, self.tie_break) {
            (Variant::Paper, _) => first((m.zeros_like() + 0.5 * rows as f64 + 0.5).floor()),
            (_, TieBreak::Rank) => first((m * rows as f64 + 0.5).floor()),
            (Variant::Bregman, _) => {
                let p1 = math::column(p, 1);
                let threshold = math::quantile(p1.clone(), m.neg() + 1.0);
                p1.greater_equal(threshold.expand([rows])).float()
            }
            _ => p0.clone().lower(math::quantile(p0.clone(), m).expand([rows])).float(),
        }
    }

    /// The same by the rolling window of eleuther-w2s, `rows` rows at a time. On the host, where the window lives.
    fn positive_by_window(&self, p0: Tensor<1>, y1: Tensor<1>, rows: usize, memory: &mut Memory) -> Tensor<1> {
        let device = p0.device();
        let (p0, y1, window) = (math::to_host(p0), math::to_host(y1), self.buffer.unwrap_or(32));
        let mut positive = Vec::with_capacity(p0.len());
        for (p0, y1) in p0.chunks(rows).zip(y1.chunks(rows)) {
            memory.push("p0", p0, window);
            let share = match p0.len() {
                1 => 0.5,
                _ if self.balance_batch => 0.5,
                rows => y1.iter().sum::<f32>() / rows as f32,
            };
            let threshold = math::quantile_of(memory.entry("p0"), share);
            positive.extend(p0.iter().map(|p| if *p < threshold { 1.0 } else { 0.0 }));
        }
        Tensor::from_floats(positive.as_slice(), &device)
    }
}

impl StudentLoss for AuxConfidence {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        math::cross_entropy(targets, logits)
    }

    fn targets(&self, logits: Tensor<2>, labels: Tensor<2>, at: &Progress, memory: &mut Memory) -> Tensor<2> {
        let c = self.coefficient(at);
        let p = math::softmax(logits);
        let whole = if self.variant == Variant::EleutherW2s { 1 } else { labels.dims()[0] };
        let rows = self.threshold_rows.unwrap_or(whole).max(1);
        let parts = |of: &Tensor<2>| of.clone().split(rows, 0).into_iter();
        let labels = match self.balance_batch {
            true => Tensor::cat(parts(&labels).map(math::balance).collect(), 0),
            false => labels,
        };
        let own = match self.variant {
            Variant::Raven => math::one_hot_argmax(p),
            Variant::EleutherW2s => {
                let (p0, y1) = (math::column(p, 0), math::column(labels.clone(), 1));
                math::binary(self.positive_by_window(p0, y1, rows, memory))
            }
            Variant::Openai | Variant::Eleuther | Variant::Bregman | Variant::Paper => {
                let decide = |(p, y)| self.positive(p, math::mean(math::column(y, 1)));
                math::binary(Tensor::cat(parts(&p).zip(parts(&labels)).map(decide).collect(), 0))
            }
        };
        labels * (1.0 - c) + own * c
    }

    fn tokens(&self, tokens: &TokenView, at: &Progress) -> Option<Tensor<1>> {
        let c = self.coefficient(at);
        Some(tokens.cross_entropy() * (1.0 - c) + tokens.own_cross_entropy() * c)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        match self.variant {
            Variant::Raven => Ok(()),
            _ => two_classes(form, "`variant = \"raven\"`, which balances nothing, takes any number and words"),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("max", self.max, 0.0, 1.0)?;
        Invalid::unless_within("warmup", self.warmup.unwrap_or(0.0), 0.0, 1.0)?;
        let window = self.variant == Variant::EleutherW2s;
        let whole = matches!(self.variant, Variant::Raven | Variant::EleutherW2s);
        let refusals = [
            ("warmup", window && self.warmup.is_some(), "does not apply to `eleuther-w2s`, which counts `warmup_steps`"),
            ("warmup_steps", !window && self.warmup_steps.is_some(), "applies to `eleuther-w2s` alone"),
            ("buffer", !window && self.buffer.is_some(), "applies to `eleuther-w2s` alone"),
            ("balance_batch", !window && self.balance_batch, "applies to `eleuther-w2s` alone"),
            ("buffer", self.buffer == Some(0), "must be at least 1"),
            ("threshold_rows", self.threshold_rows == Some(0), "must be at least 1"),
            ("threshold_rows", self.variant == Variant::Raven && self.threshold_rows.is_some(), "does not apply to `raven`, which has no threshold"),
            ("tie_break", whole && self.tie_break == TieBreak::Rank, "cannot be `rank` here: this variant does not rank a batch"),
        ];
        match refusals.into_iter().find(|(_, refused, _)| *refused) {
            Some((parameter, _, message)) => Err(Invalid::new(parameter, message)),
            None => Ok(()),
        }
    }
}

register!(loss "aux-confidence" for AuxConfidence, paper = "Burns et al. 2023 (arXiv 2312.09390), Appendix A.4; `logconf` of openai/weak-to-strong, EleutherAI/weak-to-strong, EleutherAI/w2s and mlbio-epfl/raven, `aux_conf_loss` of Gengze/W2SG-Bregman", changed = [balance_batch = true]);

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    const HALF_WAY: Progress = Progress { step: 50, total_steps: 100, epoch: 0, epochs: 1 };

    fn rows(values: &[[f32; 2]]) -> Tensor<2> {
        Tensor::cat(values.iter().map(|row| Tensor::<2>::from_floats([*row], &Device::flex())).collect(), 0)
    }

    /// Which rows the loss takes for class 1.
    fn own(loss: &AuxConfidence, logits: &[[f32; 2]], labels: &[[f32; 2]], memory: &mut Memory) -> Vec<f32> {
        let only_own = AuxConfidence { max: 1.0, warmup_steps: loss.warmup_steps.map(|_| 0), ..loss.clone() };
        math::to_host(math::column(only_own.targets(rows(logits), rows(labels), &HALF_WAY, memory), 1))
    }

    #[test]
    fn ties_at_the_zero_head() {
        let (logits, labels) = ([[0.0, 0.0]; 4], [[0.25, 0.75]; 4]);
        let reference = AuxConfidence::default();
        assert_eq!(own(&reference, &logits, &labels, &mut Memory::default()), [0.0; 4]);
        let rank = AuxConfidence { tie_break: TieBreak::Rank, ..reference.clone() };
        assert_eq!(own(&rank, &logits, &labels, &mut Memory::default()), [1.0, 1.0, 1.0, 0.0]);
        let paper = AuxConfidence { variant: Variant::Paper, ..reference.clone() };
        assert_eq!(own(&paper, &logits, &labels, &mut Memory::default()), [1.0, 1.0, 0.0, 0.0]);
        let bregman = AuxConfidence { variant: Variant::Bregman, ..reference.clone() };
        assert_eq!(own(&bregman, &logits, &labels, &mut Memory::default()), [1.0; 4]);
        let raven = AuxConfidence { variant: Variant::Raven, ..reference };
        assert_eq!(own(&raven, &logits, &labels, &mut Memory::default()), [0.0; 4]);
    }

    #[test]
    fn rank_gives_exactly_the_labels_share_and_prefers_the_likeliest() {
        let logits = [[3.0, 0.0], [0.0, 3.0], [1.0, 0.0], [2.0, 0.0], [0.5, 0.0]];
        let rank = AuxConfidence { tie_break: TieBreak::Rank, ..AuxConfidence::default() };
        // m = 0.6, so three of five: the three with the smallest p₀.
        assert_eq!(own(&rank, &logits, &[[0.4, 0.6]; 5], &mut Memory::default()), [0.0, 1.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn the_quantile_of_one_row_is_the_row_itself() {
        // So a threshold over single rows always says class 0, however sure the student is of class 1.
        let alone = AuxConfidence { variant: Variant::Eleuther, threshold_rows: Some(1), ..AuxConfidence::default() };
        let (logits, labels) = ([[0.0, 5.0], [5.0, 0.0], [0.0, 1.0]], [[0.1, 0.9]; 3]);
        assert_eq!(own(&alone, &logits, &labels, &mut Memory::default()), [0.0; 3]);
        let together = AuxConfidence { threshold_rows: None, ..alone };
        assert_eq!(own(&together, &logits, &labels, &mut Memory::default()), [1.0, 0.0, 1.0]);
    }

    #[test]
    fn threshold_rows_cut_the_batch_in_order_and_the_last_part_may_be_short() {
        let two = AuxConfidence { variant: Variant::Eleuther, threshold_rows: Some(2), ..AuxConfidence::default() };
        let logits = [[0.0, 1.0], [0.0, 2.0], [3.0, 0.0], [2.0, 0.0], [0.0, 9.0]];
        assert_eq!(own(&two, &logits, &[[0.5, 0.5]; 5], &mut Memory::default()), [0.0, 1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn the_coefficient_jumps_in_openais_code_and_rises_in_the_others() {
        let at = |variant: Variant, step: usize| {
            let loss = AuxConfidence { variant, ..AuxConfidence::default() };
            loss.coefficient(&Progress { step, total_steps: 1000, epoch: 0, epochs: 1 })
        };
        assert_eq!([0, 50, 100, 101].map(|step| at(Variant::Openai, step)), [0.0, 0.025, 0.05, 0.5]);
        assert_eq!([0, 50, 100, 101].map(|step| at(Variant::Eleuther, step)), [0.0, 0.25, 0.5, 0.5]);
        assert_eq!([0, 50, 100, 200].map(|step| at(Variant::Paper, step)), [0.0, 0.125, 0.25, 0.5]);
        assert_eq!([0, 50, 100, 200].map(|step| at(Variant::Raven, step)), [0.0, 0.125, 0.25, 0.5]);
        assert_eq!([0, 50, 100, 200].map(|step| at(Variant::Bregman, step)), [0.0, 0.125, 0.25, 0.5]);
        assert_eq!([0, 50, 100, 200].map(|step| at(Variant::EleutherW2s, step)), [0.0, 0.25, 0.5, 0.5]);
    }

    #[test]
    fn the_window_rolls_over_steps_and_forgets() {
        let loss = AuxConfidence {
            variant: Variant::EleutherW2s,
            warmup_steps: Some(0),
            buffer: Some(3),
            ..AuxConfidence::default()
        };
        let mut memory = Memory::default();
        let (sure0, sure1, unsure, y) = ([4.0, 0.0], [0.0, 4.0], [0.0, 0.0], [[0.5, 0.5]]);
        // Alone: its own median, class 0. Then below the median of {high, 0.5}; then of {high, 0.5, low}.
        assert_eq!(own(&loss, &[sure0], &y, &mut memory), [0.0]);
        assert_eq!(own(&loss, &[unsure], &y, &mut memory), [1.0]);
        assert_eq!(own(&loss, &[unsure], &y, &mut memory), [0.0]);
        assert_eq!(own(&loss, &[sure1], &y, &mut memory), [1.0]);
        assert_eq!(memory.entry("p0").len(), 3);
        // One batch of four rows is the same as four batches of one row.
        let mut other = Memory::default();
        let together = own(&loss, &[sure0, unsure, unsure, sure1], &[[0.5, 0.5]; 4], &mut other);
        assert_eq!(together, [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(memory, other);
    }

    #[test]
    fn parameters_of_another_variant_are_refused() {
        let refused = |loss: AuxConfidence| loss.validate().map_err(|invalid| invalid.parameter);
        let default = AuxConfidence::default();
        assert_eq!(refused(AuxConfidence { buffer: Some(8), ..default.clone() }), Err("buffer"));
        assert_eq!(refused(AuxConfidence { balance_batch: true, ..default.clone() }), Err("balance_batch"));
        assert_eq!(refused(AuxConfidence { max: 1.5, ..default.clone() }), Err("max"));
        let window = AuxConfidence { variant: Variant::EleutherW2s, ..default };
        assert_eq!(refused(AuxConfidence { warmup: Some(0.1), ..window.clone() }), Err("warmup"));
        assert_eq!(refused(AuxConfidence { tie_break: TieBreak::Rank, ..window.clone() }), Err("tie_break"));
        assert_eq!(refused(AuxConfidence { balance_batch: true, buffer: Some(8), ..window }), Ok(()));
    }
}
