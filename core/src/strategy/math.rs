//! Mathematics that strategies share, so that none of them needs another one.
//!
//! B examples, K classes. Tensor functions run on the device of their arguments, without reading anything back, and
//! differentiate through whatever is tracked. Probabilities are handled as logarithms wherever they can underflow.

mod neighbours;
mod probe;

use std::collections::BTreeSet;

use burn::tensor::{Bool, DType, FloatDType, Int, Tensor, activation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Batch, ExampleId, Progress};
use crate::ops;

pub use neighbours::{Nearness, Neighbours, Points, nearest};
pub use probe::{
    LabelTable, Logistic, disagreement, farthest, knn_labels, likeliest, topo_cc, topo_filter, topo_labels, where_weak,
};

/// A matrix in at least f32: half-precision numbers are widened.
pub fn widen(matrix: Tensor<2>) -> Tensor<2> {
    match matrix.dtype() {
        DType::F16 | DType::BF16 => matrix.cast(FloatDType::F32),
        _ => matrix,
    }
}

/// Log-probabilities `[B, K]` from logits `[B, K]`; half-precision logits are widened to f32 first.
pub fn log_softmax(logits: Tensor<2>) -> Tensor<2> {
    activation::log_softmax(widen(logits), 1)
}

/// Probabilities `[B, K]` from logits `[B, K]`, in at least f32.
pub fn softmax(logits: Tensor<2>) -> Tensor<2> {
    log_softmax(logits).exp()
}

/// Sum over the columns: `[B, M]` to `[B]`.
pub fn rows(terms: Tensor<2>) -> Tensor<1> {
    row_sums(terms).squeeze_dim::<1>(1)
}

/// Sum over the columns: `[B, M]` to `[B, 1]`.
///
/// Unlike Burn's `sum_dim` it adds in the same order on every processor; so do [`rows`], [`total`] and [`mean`].
pub fn row_sums(terms: Tensor<2>) -> Tensor<2> {
    ops::sum_last(terms)
}

/// Sum of all elements, as `[1]`.
pub fn total(values: Tensor<1>) -> Tensor<1> {
    ops::total(values)
}

/// Mean of all elements, as `[1]`; NaN of none.
pub fn mean(values: Tensor<1>) -> Tensor<1> {
    let n = values.dims()[0];
    total(values) / n as f64
}

/// Cross-entropy `[B]`: −Σₖ tₖ log softmax(z)ₖ. Linear in the targets, which need not sum to one.
pub fn cross_entropy(targets: Tensor<2>, logits: Tensor<2>) -> Tensor<1> {
    rows(targets * log_softmax(logits)).neg()
}

/// Reverse cross-entropy `[B]`: −Σₖ pₖ log yₖ, with labels smoothed by `smoothing` ([`smooth`]) and then raised to at least `floor`.
pub fn reverse_cross_entropy(labels: Tensor<2>, logits: Tensor<2>, smoothing: f64, floor: f64) -> Tensor<1> {
    let log_y = smooth(labels, smoothing).clamp_min(floor).log();
    rows(softmax(logits) * log_y).neg()
}

/// Distillation beside trust in oneself `[B]`: w τ² KL(y ‖ p_τ) + CE(s, z), where the targets `[B, 2K]` hold w y (w is the row's sum) beside s.
///
/// Source: Guo et al. 2024, whose losses weigh the two terms per row.
pub fn distill_and_trust(logits: Tensor<2>, targets: Tensor<2>, tau: f64) -> Tensor<1> {
    let classes = logits.dims()[1];
    let (weak, own) = (targets.clone().narrow(1, 0, classes), targets.narrow(1, classes, classes));
    let weight = row_sums(weak.clone());
    let negative_entropy = rows(x_log_x(weak.clone())) - rows(x_log_x(weight));
    let divergence = negative_entropy + cross_entropy(weak, logits.clone() / tau);
    divergence * (tau * tau) + cross_entropy(own, logits)
}

/// x log x element by element, with 0 log 0 = 0. For labels; for probabilities of a model use p · [`log_softmax`].
pub fn x_log_x(x: Tensor<2>) -> Tensor<2> {
    x.clone() * log(x)
}

/// The logarithm, with log 0 read as the logarithm of the smallest positive f32 (−87.3), so that 0 · log 0 is 0.
pub fn log(x: Tensor<2>) -> Tensor<2> {
    x.clamp_min(f32::MIN_POSITIVE).log()
}

/// One-hot rows `[B, K]` at each row's largest entry; of equal entries the lowest class wins. Carries no gradient.
pub fn one_hot_argmax(scores: Tensor<2>) -> Tensor<2> {
    let [batch, classes] = scores.dims();
    let device = scores.device();
    let best = scores.detach().argmax(1).expand([batch, classes]);
    let class = Tensor::<1, Int>::arange(0..classes as i64, &device).unsqueeze_dim::<2>(0).expand([batch, classes]);
    class.equal(best).float()
}

/// One column of a matrix: `[B, M]` to `[B]`.
pub fn column(matrix: Tensor<2>, index: usize) -> Tensor<1> {
    matrix.narrow(1, index, 1).squeeze_dim::<1>(1)
}

/// Each row's largest entry: `[B, K]` to `[B]`.
pub fn row_max(matrix: Tensor<2>) -> Tensor<1> {
    matrix.max_dim(1).squeeze_dim::<1>(1)
}

/// Multiplies each row of a matrix `[B, M]` with its weight `[B]`.
pub fn weigh_rows(matrix: Tensor<2>, weights: Tensor<1>) -> Tensor<2> {
    matrix * weights.unsqueeze_dim::<2>(1)
}

/// Two-class labels `[B, 2]` from the probability of class 1 `[B]`.
pub fn binary(positive: Tensor<1>) -> Tensor<2> {
    let positive = positive.unsqueeze_dim::<2>(1);
    Tensor::cat(vec![positive.clone().neg() + 1.0, positive], 1)
}

/// Two-class logits `[B, 2]` from one scalar logit d per row, P(1) = σ(d): the column of zeros and d.
///
/// For code that follows an implementation with a single output (W2SG-Bregman): ∂l/∂d is the gradient's second column.
pub fn two_logits(scalar: Tensor<1>) -> Tensor<2> {
    let scalar = scalar.unsqueeze_dim::<2>(1);
    Tensor::cat(vec![scalar.zeros_like(), scalar], 1)
}

/// Label smoothing: y (1 − ε) + ε / K.
pub fn smooth(labels: Tensor<2>, epsilon: f64) -> Tensor<2> {
    let classes = labels.dims()[1];
    labels * (1.0 - epsilon) + epsilon / classes as f64
}

/// Labels at another temperature: yₖ^(1/T) / Σⱼ yⱼ^(1/T), which is softmax(log y / T). Zeros stay zero.
pub fn temper(labels: Tensor<2>, temperature: f64) -> Tensor<2> {
    if temperature == 1.0 {
        return labels;
    }
    let largest = labels.clone().max_dim(1).clamp_min(f32::MIN_POSITIVE);
    let powers = (labels / largest).powf_scalar(1.0 / temperature);
    powers.clone() / row_sums(powers)
}

/// Two-class labels moved so that their mean logit is zero: σ(l − mean l), l = log(y₁ + 1e-7) − log(y₀ + 1e-7).
///
/// Source: `balance_batch` of EleutherAI/w2s, `w2s/loss.py`.
pub fn balance(labels: Tensor<2>) -> Tensor<2> {
    // Both columns, because 1 − y₁ has no digits left where y₁ is nearly 1.
    let logs = (labels + 1e-7).log();
    let logit = column(logs.clone(), 1) - column(logs, 0);
    let mean = mean(logit.clone());
    binary(activation::sigmoid(logit - mean))
}

/// How many values come before each one in ascending order: `[N]` to `[N]`. Of equal values the earlier comes first, so every
/// rank 0 … N − 1 is given once.
///
/// Compares all pairs instead of sorting, because Burn sorts on the host: for batches, not for data sets.
pub fn rank(values: Tensor<1>) -> Tensor<1> {
    let n = values.dims()[0];
    let index = Tensor::<1, Int>::arange(0..n as i64, &values.device());
    let earlier: Tensor<2, Bool> =
        index.clone().unsqueeze_dim::<2>(0).expand([n, n]).lower(index.unsqueeze_dim::<2>(1).expand([n, n]));
    let other = values.clone().unsqueeze_dim::<2>(0).expand([n, n]);
    let own = values.unsqueeze_dim::<2>(1).expand([n, n]);
    let before = other.clone().lower(own.clone()).bool_or(other.equal(own).bool_and(earlier));
    rows(before.float())
}

/// Quantile of N values with linear interpolation at q (N − 1), like `torch.quantile`; `q` holds one number, and so does the result.
///
/// Equal values give exactly that value, whatever q is.
pub fn quantile(values: Tensor<1>, q: Tensor<1>) -> Tensor<1> {
    let n = values.dims()[0];
    let ranks = rank(values.clone());
    let position = q.clamp(0.0, 1.0) * (n as f64 - 1.0);
    let low = position.clone().floor();
    let high = (low.clone() + 1.0).clamp_max(n as f64 - 1.0);
    let at = |place: Tensor<1>| (values.clone() * ranks.clone().equal(place.expand([n])).float()).sum();
    let (below, above) = (at(low.clone()), at(high));
    below.clone() + (above - below) * (position - low)
}

/// [`quantile`] of numbers on the host; NaN for no numbers.
pub fn quantile_of(values: &[f32], q: f32) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let position = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f32;
    let at = |place: f32| sorted.get(place as usize).copied();
    let Some(below) = at(position.floor()) else { return f32::NAN };
    let above = at(position.floor() + 1.0).unwrap_or(below);
    below + (above - below) * (position - position.floor())
}

/// Numbers of a tensor on the host, in f32. Waits for the device.
pub fn to_host(values: Tensor<1>) -> Vec<f32> {
    values.into_data().iter::<f32>().collect()
}

/// [`to_host`] for a matrix, row by row.
pub fn rows_to_host(matrix: Tensor<2>) -> Vec<f32> {
    matrix.into_data().iter::<f32>().collect()
}

/// 1 for the batch's examples that are among `kept`, 0 for the others `[B]`.
pub fn among(batch: &Batch, kept: &BTreeSet<ExampleId>) -> Tensor<1> {
    let kept: Vec<f32> = batch.ids.iter().map(|id| f32::from(u8::from(kept.contains(id)))).collect();
    Tensor::from_floats(kept.as_slice(), &batch.weak.device())
}

/// Which side of a threshold the threshold itself is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compare {
    /// Above the threshold.
    #[default]
    #[serde(rename = ">")]
    Above,
    /// The threshold or above.
    #[serde(rename = ">=")]
    AtLeast,
}

impl Compare {
    /// 1 where a value passes the threshold, 0 elsewhere `[B]`.
    pub fn passes(self, values: Tensor<1>, threshold: f64) -> Tensor<1> {
        // In f32 like the values, so that a value of exactly the threshold equals it.
        let threshold = threshold as f32;
        match self {
            Compare::Above => values.greater_scalar(threshold).float(),
            Compare::AtLeast => values.greater_equal_scalar(threshold).float(),
        }
    }
}

/// Share of attention rows `[B, M]` that put 99 % or more of their weight on one column; 0 for no rows.
pub fn one_hot_share(attention: Tensor<2>) -> f32 {
    let [queries, keys] = attention.dims();
    if queries * keys == 0 {
        return 0.0;
    }
    row_max(attention).greater_equal_scalar(0.99f32).float().mean().into_scalar()
}

/// Linear warm-up: rises from 0 to 1 while `done` rises from 0 to `end`, then stays at 1; 1 throughout when `end` is 0.
pub fn warm_up(done: f64, end: f64) -> f64 {
    if end > 0.0 { (done / end).min(1.0) } else { 1.0 }
}

/// [`warm_up`] over the first `share` of a run's steps.
pub fn warm_up_share(at: &Progress, share: f64) -> f64 {
    warm_up(at.fraction(), share)
}

/// KL divergence `[B]` of Dirichlet distributions with concentrations `[B, K]` (at least 1) from the uniform Dirichlet(1, …, 1).
///
/// ln Γ(S) − ln Γ(K) − Σ ln Γ(αₖ) + Σ (αₖ − 1)(ψ(αₖ) − ψ(S)), S = Σ αₖ, arranged so that the terms of order α ln α, which cancel, never
/// appear: exact to f32 for any concentration. Differentiable.
pub fn dirichlet_kl_to_uniform(concentration: Tensor<2>) -> Tensor<1> {
    let classes = concentration.dims()[1];
    let total = row_sums(concentration.clone());
    let ln_gamma_k: f64 = (1..classes).map(|k| (k as f64).ln()).sum();
    let (of_total, psi) = dirichlet_terms(total);
    let (of_each, _) = dirichlet_terms(concentration);
    rows(of_total + psi * (classes as f64 - 1.0)) - rows(of_each) - ln_gamma_k
}

/// (ln Γ(x) − (x − 1) ψ(x) + x, ψ(x)) for x ≥ 1, by Stirling's series at y = x + 3 and the recurrences back to x.
fn dirichlet_terms(x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    const SHIFT: f64 = 3.0;
    let y = x.clone() + SHIFT;
    let r = y.clone().recip();
    let r2 = r.clone() * r.clone();
    // Σ B₂ₙ / (2n (2n − 1) y²ⁿ⁻¹) and Σ B₂ₙ / (2n y²ⁿ), four terms each: below 1e-8 for y ≥ 4.
    let series = |a: f64, b: f64, c: f64, d: f64| {
        let tail = (r2.clone() * -d + c) * r2.clone();
        ((tail.neg() + b) * r2.clone()).neg() + a
    };
    let gamma_series = series(1.0 / 12.0, 1.0 / 360.0, 1.0 / 1260.0, 1.0 / 1680.0) * r.clone();
    let psi_series = series(1.0 / 12.0, 1.0 / 120.0, 1.0 / 252.0, 1.0 / 240.0) * r2.clone();
    let steps = [x.clone(), x.clone() + 1.0, x.clone() + 2.0];
    let [first, second, third] = steps.clone().map(|step| step.recip());
    let reciprocals = first + second + third;
    let [first, second, third] = steps;
    let logs = (first * second * third).log();
    let ln_y = y.log();
    let falls = r * 0.5 + psi_series + reciprocals;
    let psi = ln_y.clone() - falls.clone();
    let half_ln_two_pi = 0.5 * std::f64::consts::TAU.ln();
    let excess = ln_y * (SHIFT + 0.5) + gamma_series + (x - 1.0) * falls - logs + (half_ln_two_pi - SHIFT);
    (excess, psi)
}

/// A random 64-bit number that is a pure function of a seed and an index.
///
/// For strategies that draw: no generator state, no dependence on the order in which examples are seen. SplitMix64's finaliser (Steele et al.
/// 2014), applied to the seed and again to the index.
pub fn draw(seed: u64, index: u64) -> u64 {
    fn mix(mut z: u64) -> u64 {
        z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    mix(mix(seed) ^ mix(!index))
}

/// Chooses `count` of the given ids at random, as a pure function of the seed and the set of ids.
pub fn choose(seed: u64, ids: impl IntoIterator<Item = u32>, count: usize) -> BTreeSet<u32> {
    let mut drawn: Vec<(u64, u32)> = ids.into_iter().map(|id| (draw(seed, id.into()), id)).collect();
    drawn.sort_unstable();
    drawn.into_iter().take(count).map(|(_, id)| id).collect()
}

/// The whole number nearest to `share · total`, halves up.
pub fn share_of(share: f64, total: usize) -> usize {
    (share * total as f64 + 0.5).floor() as usize
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn vector(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    #[test]
    fn rank_is_stable_and_gives_every_rank_once() {
        assert_eq!(to_host(rank(vector(&[0.3, 0.1, 0.3, 0.0]))), [2.0, 1.0, 3.0, 0.0]);
        assert_eq!(to_host(rank(vector(&[0.5; 4]))), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(to_host(rank(vector(&[7.0]))), [0.0]);
    }

    #[test]
    fn quantile_interpolates_and_is_exact_on_ties() {
        let values = [0.8_f32, 0.1, 0.4, 0.2];
        for (q, expected) in [(0.0_f32, 0.1_f32), (1.0, 0.8), (0.5, 0.3), (0.25, 0.175), (2.0, 0.8)] {
            let on_device = to_host(quantile(vector(&values), vector(&[q])))[0];
            assert!((on_device - expected).abs() < 1e-7, "q {q}: {on_device}");
            assert!((quantile_of(&values, q) - expected).abs() < 1e-7, "q {q}");
        }
        // 0.3 (1 − f) + 0.3 f is not 0.3 in floating point for every f; the threshold must be.
        for q in 0..100 {
            let q = q as f32 / 99.0;
            assert_eq!(to_host(quantile(vector(&[0.3; 7]), vector(&[q]))), [0.3]);
            assert_eq!(quantile_of(&[0.3; 7], q), 0.3);
        }
        assert!(quantile_of(&[], 0.5).is_nan());
    }

    #[test]
    fn the_lowest_class_wins_a_tie() {
        let scores = Tensor::<2>::from_floats([[0.2, 0.4, 0.4], [1.0, 1.0, 1.0], [0.0, 1.0, 2.0]], &Device::flex());
        let hot: Vec<f32> = one_hot_argmax(scores).into_data().iter::<f32>().collect();
        assert_eq!(hot, [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn zero_times_log_zero_is_zero() {
        let labels = Tensor::<2>::from_floats([[0.0, 1.0]], &Device::flex());
        assert_eq!(to_host(rows(x_log_x(labels))), [0.0]);
    }

    #[test]
    fn temper_sharpens_flattens_and_keeps_zeros() {
        let labels = Tensor::<2>::from_floats([[0.2, 0.8], [0.0, 1.0], [0.5, 0.5]], &Device::flex());
        let sharp: Vec<f32> = temper(labels.clone(), 0.5).into_data().iter::<f32>().collect();
        for (got, expected) in sharp.iter().zip([0.04 / 0.68, 0.64 / 0.68, 0.0, 1.0, 0.5, 0.5]) {
            assert!((got - expected).abs() < 1e-6, "{sharp:?}");
        }
        let flat: Vec<f32> = temper(labels, 1e6).into_data().iter::<f32>().collect();
        assert!((flat[0] - 0.5).abs() < 1e-5 && flat[2] == 0.0, "{flat:?}");
    }

    #[test]
    fn balance_moves_the_mean_logit_to_zero_and_survives_hard_labels() {
        let labels = Tensor::<2>::from_floats([[0.1, 0.9], [0.3, 0.7], [0.01, 0.99]], &Device::flex());
        let balanced = to_host(column(balance(labels), 1));
        let hard = Tensor::<2>::from_floats([[0.0, 1.0], [1.0, 0.0]], &Device::flex());
        let hard = to_host(column(balance(hard), 1));
        assert!((hard[0] - 1.0).abs() < 1e-6 && hard[1].abs() < 1e-6, "{hard:?}");
        let mean: f32 = balanced.iter().map(|p| (p / (1.0 - p)).ln()).sum::<f32>() / 3.0;
        assert!(mean.abs() < 1e-4, "{balanced:?}");
    }

    #[test]
    fn dirichlet_divergence_agrees_with_known_values_and_scales() {
        // KL(Dir(2, 1) ‖ Dir(1, 1)) = E ln 2x for density 2x = ln 2 − 1/2; Dir(3, 2, 1) and Dir(100, 1) from scipy.special.
        let check = |alpha: Tensor<2>, expected: f32| {
            let got = to_host(dirichlet_kl_to_uniform(alpha))[0];
            assert!((got - expected).abs() < 2e-6 * expected.abs().max(1.0), "{got} instead of {expected}");
        };
        let device = Device::flex();
        check(Tensor::from_floats([[2.0, 1.0]], &device), std::f32::consts::LN_2 - 0.5);
        check(Tensor::from_floats([[1.0, 1.0, 1.0, 1.0]], &device), 0.0);
        check(Tensor::from_floats([[3.0, 2.0, 1.0]], &device), 0.551_197_4);
        check(Tensor::from_floats([[100.0, 1.0]], &device), 100f32.ln() - 0.99);
        check(Tensor::from_floats([[20000.0, 10000.0]], &device), 4.487_599);
    }

    #[test]
    fn warm_up_reaches_one_and_survives_zero() {
        assert_eq!([warm_up(0.0, 0.2), warm_up(0.1, 0.2), warm_up(0.3, 0.2)], [0.0, 0.5, 1.0]);
        assert_eq!(warm_up(0.0, 0.0), 1.0);
    }

    #[test]
    fn draws_depend_on_seed_and_index_alone_and_choose_is_exact() {
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(2, 1));
        let mean = (0..10_000).map(|i| draw(3, i) as f64 / u64::MAX as f64).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let chosen = choose(5, 0..100, 30);
        assert_eq!(chosen.len(), 30);
        assert_eq!(chosen, choose(5, (0..100).rev(), 30));
        assert_ne!(chosen, choose(6, 0..100, 30));
    }

    #[test]
    fn one_hot_rows_are_counted() {
        let device = Device::flex();
        let attention = Tensor::<2>::from_floats([[0.99, 0.01], [0.98, 0.02], [0.0, 1.0], [0.0, 0.0]], &device);
        assert_eq!(one_hot_share(attention), 0.5);
        assert_eq!(one_hot_share(Tensor::zeros([3, 0], &device)), 0.0);
    }

    #[test]
    fn a_threshold_is_compared_in_single_precision() {
        let values = || vector(&[0.8, 0.800_001, 0.799_999]);
        assert_eq!(to_host(Compare::Above.passes(values(), 0.8)), [0.0, 1.0, 0.0]);
        assert_eq!(to_host(Compare::AtLeast.passes(values(), 0.8)), [1.0, 1.0, 0.0]);
    }

    #[test]
    fn scalar_logits_become_two() {
        let p = softmax(two_logits(vector(&[0.7])));
        let expected = 1.0 / (1.0 + (-0.7_f32).exp());
        assert!((to_host(column(p, 1))[0] - expected).abs() < 1e-6);
    }
}
