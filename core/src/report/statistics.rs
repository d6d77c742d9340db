//! Statistics over seeds and items. docs/results.md gives the rules in words.

use std::ops::Range;

use rayon::prelude::*;
use statrs::function::{beta::beta_reg, erf::erfc};

use super::metrics::{Estimate, binomial_standard_error, pgr};
use crate::{Error, Result, rng::Rng};

/// How many standard errors a gap or an advantage must measure to count as there.
pub const RESOLVED: f64 = 2.0;

/// Mean and spread over seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (divisor n − 1); `None` for one value.
    pub s: Option<f64>,
    /// Number of values.
    pub n: usize,
}

impl Summary {
    /// Summary of the values; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (n > 0).then(|| Self { mean, s: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n })
    }

    /// s / √n.
    pub fn standard_error(&self) -> Option<f64> {
        self.s.map(|s| s / (self.n as f64).sqrt())
    }

    /// Student's t interval of the mean at `level`, e.g. 0.95.
    pub fn interval(&self, level: f64) -> Option<(f64, f64)> {
        let half = self.standard_error()? * t_quantile(1.0 - (1.0 - level) / 2.0, (self.n - 1) as f64);
        Some((self.mean - half, self.mean + half))
    }
}

/// Wilson's 95 % interval of a rate on `n` items (Wilson 1927): inside [0, 1] and never empty, also at rates of 0 and 1.
pub fn wilson(rate: f64, n: usize) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let n = n.max(1) as f64;
    let (middle, scale) = (rate + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    let half = Z * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).max(0.0).sqrt();
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

/// A difference with its standard error, such as ceiling − weak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// The difference.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

impl Gap {
    /// `to − from` of two rates on `n` items each, as if the items were not the same: √(SE² + SE²), too large for models that
    /// agree on many items, hence on the safe side.
    pub fn of_rates(from: f64, to: f64, n: usize) -> Self {
        let standard_error = binomial_standard_error(from, n).hypot(binomial_standard_error(to, n));
        Self { value: to - from, standard_error }
    }

    /// Whether the difference is positive and at least [`RESOLVED`] standard errors.
    pub fn resolved(&self) -> bool {
        self.value > 0.0 && self.value >= RESOLVED * self.standard_error
    }

    /// The mean over seeds. Seeds share their test items, whose share of the error does not average out, so
    /// SE² = (mean SE of a seed)² + s² / n with s the spread over seeds. `None` without seeds.
    pub fn over_seeds(gaps: &[Gap]) -> Option<Self> {
        let values: Vec<f64> = gaps.iter().map(|gap| gap.value).collect();
        let summary = Summary::of(&values)?;
        let items = gaps.iter().map(|gap| gap.standard_error).sum::<f64>() / gaps.len() as f64;
        Some(Self { value: summary.mean, standard_error: items.hypot(summary.standard_error().unwrap_or(0.0)) })
    }
}

impl From<Estimate> for Gap {
    fn from(difference: Estimate) -> Self {
        Self { value: difference.value, standard_error: difference.standard_error }
    }
}

/// One seed's weak model and ceiling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reference {
    /// Accuracy of the weak model.
    pub weak: f64,
    /// Ceiling − weak.
    pub gap: Gap,
}

/// PGR of a method on one task and pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recovered {
    /// Mean and spread of the PGRs of the seeds whose gap is resolved.
    Value(Summary),
    /// The gap is not resolved: over all seeds, or in each seed of this method.
    Unresolved,
    /// No seed has this method's accuracy, the weak model's and the ceiling's.
    Absent,
}

/// PGR over seeds, each seed with its own weak model and ceiling.
///
/// `references` are all seeds that have a weak model and a ceiling, `students` the accuracies of this method with their seeds.
/// * No value when the mean gap over `references` is not [resolved](Gap::resolved): same for every method of a column.
/// * A seed whose own gap is not resolved is left out. Weak model and ceiling alone decide that, never the method's own result.
pub fn recovered(references: &[(u64, Reference)], students: &[(u64, f64)]) -> Recovered {
    let both: Vec<(&Reference, f64)> = (students.iter())
        .filter_map(|(seed, accuracy)| {
            let reference = references.iter().find(|(other, _)| other == seed)?;
            Some((&reference.1, *accuracy))
        })
        .collect();
    if both.is_empty() {
        return Recovered::Absent;
    }
    let gaps: Vec<Gap> = references.iter().map(|(_, reference)| reference.gap).collect();
    if !Gap::over_seeds(&gaps).is_some_and(|gap| gap.resolved()) {
        return Recovered::Unresolved;
    }
    let values: Vec<f64> = (both.into_iter())
        .filter(|(reference, _)| reference.gap.resolved())
        .filter_map(|(reference, accuracy)| pgr(reference.weak, accuracy, reference.weak + reference.gap.value))
        .collect();
    Summary::of(&values).map_or(Recovered::Unresolved, Recovered::Value)
}

/// Result of a test of mean difference zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// Mean difference.
    pub difference: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Degrees of freedom of Student's t.
    pub freedom: f64,
    /// Two-sided p-value.
    pub p: f64,
    /// Seeds compared.
    pub seeds: usize,
}

impl Test {
    fn new(difference: f64, standard_error: f64, freedom: f64, seeds: usize) -> Option<Self> {
        // Rounding leaves about 1e-16 where all differences are equal: such a sample says nothing about its error.
        let p = if difference == 0.0 && standard_error == 0.0 {
            1.0
        } else if standard_error <= difference.abs() * 1e-12 {
            return None;
        } else {
            t_two_sided(difference / standard_error, freedom)
        };
        Some(Self { difference, standard_error, freedom, p, seeds })
    }

    /// Confidence interval of the difference at `level`, e.g. 0.95.
    pub fn interval(&self, level: f64) -> (f64, f64) {
        let half = t_quantile(1.0 - (1.0 - level) / 2.0, self.freedom) * self.standard_error;
        (self.difference - half, self.difference + half)
    }
}

/// Paired t-test over seeds. It takes the test items as given: for a claim about the task use [`crossed_t`].
///
/// `None` for fewer than two seeds, and for equal differences other than zero, whose error cannot be estimated.
pub fn paired_t(differences: &[f64]) -> Option<Test> {
    let summary = Summary::of(differences)?;
    Test::new(summary.mean, summary.standard_error()?, (summary.n - 1) as f64, summary.n)
}

/// Test of mean difference zero with seeds and test items both random and crossed: every seed answers the same items.
///
/// `differences[seed][item]` is what one method scores on an item minus what the other does. With mean squares MS over S seeds,
/// N items and the rest, A = max(MS_seed, MS_rest) and B = max(MS_item − MS_rest, 0): SE² = (A + B) / (S N) with
/// (A + B)² (S − 1) / A² degrees of freedom. This is the test for several readers of the same cases (Obuchowski and Rockette 1995,
/// freedom of Hillis 2007), with no variance component below zero, without which it is wrong on up to 6 % of null data with five
/// seeds. Its error is at least that of [`paired_t`], which ignores that a method may be ahead on these items by luck in every seed.
///
/// `None` for fewer than two seeds or items, or if seeds have different numbers of items, or if nothing varies.
pub fn crossed_t(differences: &[Vec<f64>]) -> Option<Test> {
    let (seeds, items) = (differences.len(), differences.first()?.len());
    if seeds < 2 || items < 2 || differences.iter().any(|row| row.len() != items) {
        return None;
    }
    let (s, n) = (seeds as f64, items as f64);
    let by_seed: Vec<f64> = differences.iter().map(|row| row.iter().sum::<f64>() / n).collect();
    let by_item: Vec<f64> = (0..items).map(|item| differences.iter().map(|row| row[item]).sum::<f64>() / s).collect();
    let mean = by_seed.iter().sum::<f64>() / s;
    let squares = |values: &[f64]| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    let ms_seed = n * squares(&by_seed) / (s - 1.0);
    let ms_item = s * squares(&by_item) / (n - 1.0);
    let rest: f64 = (differences.iter().zip(&by_seed))
        .flat_map(|(row, seed)| row.iter().zip(&by_item).map(move |(value, item)| (value - seed - item + mean).powi(2)))
        .sum();
    let ms_rest = rest / ((s - 1.0) * (n - 1.0));
    let by_seeds = ms_seed.max(ms_rest);
    let total = by_seeds + (ms_item - ms_rest).max(0.0);
    let freedom = if by_seeds > 0.0 { (total / by_seeds).powi(2) * (s - 1.0) } else { s - 1.0 };
    Test::new(mean, (total / (s * n)).sqrt(), freedom, seeds)
}

/// Fewest seeds that may earn a star.
pub const STAR_SEEDS: usize = 5;

/// The star rule: which of a family of comparisons are significant. A star needs [`STAR_SEEDS`] seeds and a [`crossed_t`] p-value
/// that is at most `level` after Holm's correction over the whole family (every comparison of the table, starred or not), so that a
/// table without any true difference carries a star with probability `level` at most.
pub fn stars(family: &[Option<Test>], level: f64) -> Vec<bool> {
    let eligible = |test: &Option<Test>| test.filter(|test| test.seeds >= STAR_SEEDS);
    let p: Vec<f64> = family.iter().map(|test| eligible(test).map_or(1.0, |test| test.p)).collect();
    holm(&p).into_iter().map(|p| p <= level).collect()
}

/// Holm's step-down adjustment: p-values that may each be compared with the level of the whole family (Holm 1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        least = least.max(p[index] * (p.len() - rank) as f64).min(1.0);
        adjusted[index] = least;
    }
    adjusted
}

/// Exact McNemar test: two-sided binomial p-value that, of the items only one of two models gets right, `only_a` or fewer (or more)
/// belong to one of them. For one seed; 1 if there is no such item.
pub fn mcnemar(only_a: usize, only_b: usize) -> f64 {
    let (few, many) = (only_a.min(only_b) as f64, only_a.max(only_b) as f64);
    // P(X <= few) of Binomial(few + many, 1/2).
    if few == many { 1.0 } else { (2.0 * beta_reg(many, few + 1.0, 0.5)).min(1.0) }
}

/// Wilcoxon signed-rank test; zeros are dropped (Wilcoxon's own rule), ties get mid-ranks.
///
/// Exact, ties included, up to [`WILCOXON_EXACT`] differences; beyond, the normal approximation with correction for ties.
/// Returns the sum of positive ranks and the two-sided p-value; p is 1 without non-zero differences.
pub fn wilcoxon(differences: &[f64]) -> (f64, f64) {
    let mut values: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    values.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    // Twice the ranks, so that mid-ranks are whole numbers.
    let mut doubled = vec![];
    let (mut positive, mut ties) = (0usize, 0.0);
    for tied in values.chunk_by(|a, b| a.abs() == b.abs()) {
        let rank = 2 * doubled.len() + tied.len() + 1;
        positive += rank * tied.iter().filter(|d| **d > 0.0).count();
        ties += (tied.len() as f64).powi(3) - tied.len() as f64;
        doubled.extend(std::iter::repeat_n(rank, tied.len()));
    }
    let n = doubled.len();
    let w = positive as f64 / 2.0;
    if n == 0 {
        return (0.0, 1.0);
    }
    if n > WILCOXON_EXACT {
        let n = n as f64;
        let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
        return (w, erfc(((w - n * (n + 1.0) / 4.0) / variance.sqrt()).abs() / std::f64::consts::SQRT_2));
    }
    // Probability of each value of twice the rank sum, adding one rank at a time with either sign.
    let mut chance = vec![0.0; doubled.iter().sum::<usize>() + 1];
    chance[0] = 1.0;
    let mut top = 0;
    for rank in doubled {
        top += rank;
        for sum in (0..=top).rev() {
            let with = if sum >= rank { chance[sum - rank] } else { 0.0 };
            chance[sum] = (chance[sum] + with) / 2.0;
        }
    }
    let (low, high): (f64, f64) = (chance[..=positive].iter().sum(), chance[positive..].iter().sum());
    (w, (2.0 * low.min(high)).min(1.0))
}

/// Most non-zero differences for which [`wilcoxon`] is exact.
pub const WILCOXON_EXACT: usize = 200;

/// Most differences for which [`sign_flip`] tries every sign.
pub const SIGN_FLIP_EXACT: usize = 20;

/// Sign-flip permutation test: how often is |mean| at least the observed one when each difference may have either sign?
///
/// Exact for up to [`SIGN_FLIP_EXACT`] differences, else (1 + hits) / (1 + draws) with that many random `draws`. Two-sided; with five
/// seeds the least possible p is 2/32, so it cannot reach 0.05.
pub fn sign_flip(differences: &[f64], draws: usize, seed: u64) -> f64 {
    /// Counts the sign assignments of `rest` whose total is extreme.
    fn count(rest: &[f64], total: f64, bound: f64) -> u64 {
        match rest {
            [] => u64::from(total.abs() >= bound),
            [first, rest @ ..] => count(rest, total + first, bound) + count(rest, total - first, bound),
        }
    }
    let observed = differences.iter().sum::<f64>().abs();
    // Sums of the same terms in another order differ in the last bits.
    let bound = observed - 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    match differences {
        [] => 1.0,
        [first, rest @ ..] if rest.len() < SIGN_FLIP_EXACT => {
            // The mirror image of each assignment is as extreme, so the first sign stays.
            count(rest, *first, bound) as f64 / (1u64 << rest.len()) as f64
        }
        _ => {
            let mut rng = Rng::named(seed, "report/sign-flip");
            let hits = (0..draws)
                .filter(|_| {
                    let signed = |d: &f64| if rng.bits() >> 63 == 0 { *d } else { -d };
                    differences.iter().map(signed).sum::<f64>().abs() >= bound
                })
                .count();
            (1 + hits) as f64 / (1 + draws) as f64
        }
    }
}

/// Settings of [`hierarchical_bootstrap`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Resamples.
    pub draws: usize,
    /// Level of the interval.
    pub level: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Whether all seeds are tested on the same items.
    pub shared_items: bool,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { draws: 10_000, level: 0.95, seed: 0, shared_items: true }
    }
}

/// What [`hierarchical_bootstrap`] finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The statistic on the data as they are; `None` if it has no value there.
    pub value: Option<f64>,
    /// Percentile bounds; `None` if the statistic has no value in more resamples than the interval leaves out, e.g. PGR when the
    /// gap is not resolved.
    pub bounds: Option<(f64, f64)>,
    /// Resamples in which the statistic has no value.
    pub undefined: usize,
}

/// Bootstrap over seeds and test items, for a statistic of the accuracies of several arms (e.g. weak, student, ceiling).
///
/// `arms[arm][seed][item]` are scores such as 0 or 1. Each resample draws seeds with replacement and items with replacement, the same
/// ones for all arms, so differences stay paired. With `shared_items` the items are drawn once per resample (crossed, "pigeonhole":
/// Owen 2007), else anew within each drawn seed (nested). The statistic gets one mean per arm. The same bits for any thread count.
///
/// # Errors
/// No arm, no seed, no item, arms of different shape, or seeds with different numbers of items though items are shared.
pub fn hierarchical_bootstrap(
    arms: &[Vec<Vec<f32>>],
    settings: &Bootstrap,
    statistic: impl Fn(&[f64]) -> Option<f64> + Sync,
) -> Result<Interval> {
    let shape: Vec<usize> = arms.first().map(|arm| arm.iter().map(Vec::len).collect()).unwrap_or_default();
    let even = shape.iter().all(|items| *items == shape[0]);
    if shape.is_empty() || shape.contains(&0) || settings.draws == 0 {
        return Err(Error::new("the bootstrap needs at least one arm, seed, item and resample"));
    }
    if arms.iter().any(|arm| !arm.iter().map(Vec::len).eq(shape.iter().copied())) || settings.shared_items && !even {
        return Err(Error::new("the bootstrap needs the same seeds and items in every arm"));
    }
    // Means per arm when seed `picks[i]` counts items `weights[i]` times.
    let means = |picks: &[usize], weights: &dyn Fn(usize) -> Range<usize>, counts: &[u32]| -> Vec<f64> {
        let mean_of_arm = |arm: &Vec<Vec<f32>>| {
            let seeds = picks.iter().enumerate().map(|(place, &pick)| {
                let items = arm[pick].iter().zip(&counts[weights(place)]);
                items.map(|(score, count)| f64::from(*score) * f64::from(*count)).sum::<f64>() / arm[pick].len() as f64
            });
            seeds.sum::<f64>() / picks.len() as f64
        };
        arms.iter().map(mean_of_arm).collect()
    };
    let all: Vec<usize> = (0..shape.len()).collect();
    let ones = vec![1; shape.iter().copied().max().unwrap_or(0)];
    let value = statistic(&means(&all, &|place| 0..shape[place], &ones)).filter(|value| value.is_finite());

    let resample = |draw: usize| {
        let mut rng = Rng::named(settings.seed, &format!("report/bootstrap/{draw}"));
        let picks: Vec<usize> = all.iter().map(|_| rng.below(shape.len())).collect();
        let mut counts = vec![];
        let mut starts = vec![];
        for (place, pick) in picks.iter().enumerate() {
            if place > 0 && settings.shared_items {
                starts.push(0);
                continue;
            }
            let start = counts.len();
            starts.push(start);
            counts.resize(start + shape[*pick], 0u32);
            for _ in 0..shape[*pick] {
                counts[start + rng.below(shape[*pick])] += 1;
            }
        }
        let range = |place: usize| starts[place]..starts[place] + shape[picks[place]];
        statistic(&means(&picks, &range, &counts)).filter(|value| value.is_finite())
    };
    let mut values: Vec<f64> = (0..settings.draws).into_par_iter().filter_map(resample).collect();
    values.sort_by(f64::total_cmp);
    let undefined = settings.draws - values.len();
    let tail = (1.0 - settings.level) / 2.0;
    let defined = undefined as f64 <= 2.0 * tail * settings.draws as f64 && !values.is_empty();
    let bounds = defined.then(|| (quantile(&values, tail), quantile(&values, 1.0 - tail)));
    Ok(Interval { value, bounds, undefined })
}

/// Quantile of sorted values with linear interpolation (NumPy's default).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// P(|T| ≥ |t|) of Student's t.
fn t_two_sided(t: f64, freedom: f64) -> f64 {
    let square = t * t;
    beta_reg(freedom / 2.0, 0.5, (freedom / (freedom + square)).min(1.0))
}

/// Quantile of Student's t for `p` above one half; by bisection on [`t_two_sided`], so that tests and intervals agree.
fn t_quantile(p: f64, freedom: f64) -> f64 {
    let tails = 2.0 * (1.0 - p);
    let (mut low, mut high) = (0.0, 1.0);
    while t_two_sided(high, freedom) > tails && high < 1e300 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = low + (high - low) / 2.0;
        if t_two_sided(middle, freedom) > tails { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert, proptest};
    use serde_json::Value;

    use super::*;

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../../tests/golden/golden_statistics.json")).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    }

    fn table(value: &Value) -> Vec<Vec<f64>> {
        value.as_array().unwrap().iter().map(numbers).collect()
    }

    #[track_caller]
    fn close(ours: f64, golden: &Value, tolerance: f64) {
        let golden = golden.as_f64().unwrap();
        assert!((ours - golden).abs() <= tolerance, "{ours} is not {golden} within {tolerance}");
    }

    #[test]
    fn wilson_intervals_are_those_of_the_textbook() {
        // statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson"), and of (0, 10).
        let (low, high) = wilson(0.8, 10);
        assert!((low - 0.490162).abs() < 1e-6 && (high - 0.943318).abs() < 1e-6, "{low} {high}");
        let (low, high) = wilson(0.0, 10);
        assert!(low.abs() < 1e-12 && (high - 0.277533).abs() < 1e-6, "{low} {high}");
    }

    #[test]
    fn tests_equal_scipy() {
        let golden = golden();
        for case in golden["paired_t"].as_array().unwrap() {
            let test = paired_t(&numbers(&case["differences"])).unwrap();
            close(test.p, &case["p"], 1e-9);
            close(test.freedom, &case["df"], 0.0);
            let (low, high) = test.interval(0.95);
            close(low, &case["low"], 1e-9);
            close(high, &case["high"], 1e-9);
        }
        for case in golden["crossed_t"].as_array().unwrap() {
            let test = crossed_t(&table(&case["differences"])).unwrap();
            close(test.standard_error, &case["standard_error"], 1e-12);
            close(test.freedom, &case["df"], 1e-8);
            close(test.p, &case["p"], 1e-9);
            let (low, high) = test.interval(0.95);
            close(low, &case["low"], 1e-9);
            close(high, &case["high"], 1e-9);
        }
        for case in golden["wilcoxon"].as_array().unwrap() {
            let (w, p) = wilcoxon(&numbers(&case["differences"]));
            close(w, &case["w_plus"], 1e-12);
            close(p, &case["p"], 1e-9);
        }
        for case in golden["sign_flip"].as_array().unwrap() {
            close(sign_flip(&numbers(&case["differences"]), 0, 0), &case["p"], 1e-9);
        }
        for case in golden["mcnemar"].as_array().unwrap() {
            let at = |name: &str| case[name].as_u64().unwrap() as usize;
            close(mcnemar(at("only_a"), at("only_b")), &case["p"], 1e-9);
            assert_eq!(mcnemar(at("only_a"), at("only_b")), mcnemar(at("only_b"), at("only_a")));
        }
        for case in golden["holm"].as_array().unwrap() {
            let adjusted = holm(&numbers(&case["p"]));
            for (ours, golden) in adjusted.iter().zip(case["adjusted"].as_array().unwrap()) {
                close(*ours, golden, 1e-12);
            }
        }
        for case in golden["t_quantile"].as_array().unwrap() {
            close(t_quantile(case["p"].as_f64().unwrap(), case["df"].as_f64().unwrap()), &case["t"], 1e-9);
        }
    }

    /// The golden bounds come from 400,000 resamples of another generator. With 20,000 of ours a bound's own standard error is below
    /// 0.0015 here (√(0.025 · 0.975 / 20000) / density), so 0.006 is four of them.
    #[test]
    fn bootstrap_equals_numpy_up_to_its_draws() {
        for case in golden()["bootstrap"].as_array().unwrap() {
            let arms: Vec<Vec<Vec<f32>>> = (case["arms"].as_array().unwrap().iter())
                .map(|arm| table(arm).iter().map(|row| row.iter().map(|x| *x as f32).collect()).collect())
                .collect();
            let shared_items = case["shared_items"].as_bool().unwrap();
            let settings = Bootstrap { draws: 20_000, seed: 7, shared_items, ..Bootstrap::default() };
            let difference = |means: &[f64]| Some(means[1] - means[0]);
            let found = hierarchical_bootstrap(&arms, &settings, difference).unwrap();
            close(found.value.unwrap(), &case["value"], 1e-7); // f32 scores
            let (low, high) = found.bounds.unwrap();
            close(low, &case["low"], 0.006);
            close(high, &case["high"], 0.006);
            let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            let again = one_thread.install(|| hierarchical_bootstrap(&arms, &settings, difference).unwrap());
            assert_eq!(found, again);
            let other = Bootstrap { seed: 8, ..settings };
            assert_ne!(found.bounds, hierarchical_bootstrap(&arms, &other, difference).unwrap().bounds);
        }
    }

    #[test]
    fn bootstrap_of_pgr_has_no_bounds_without_a_gap() {
        let arm = |rate: usize| vec![(0..100).map(|item| f32::from(u8::from(item % 10 < rate))).collect(); 3];
        let pgr_of = |means: &[f64]| pgr(means[0], means[1], means[2]);
        let settings = Bootstrap { draws: 500, ..Bootstrap::default() };
        let found = hierarchical_bootstrap(&[arm(5), arm(7), arm(9)], &settings, pgr_of).unwrap();
        let (low, high) = found.bounds.unwrap();
        assert!((found.value.unwrap() - 0.5).abs() < 1e-12 && low < 0.5 && high > 0.5 && found.undefined == 0);
        let none = hierarchical_bootstrap(&[arm(5), arm(7), arm(5)], &settings, pgr_of).unwrap();
        assert_eq!((none.value, none.bounds, none.undefined), (None, None, 500));
        assert!(hierarchical_bootstrap(&[arm(5), arm(7)[..2].to_vec()], &settings, pgr_of).is_err());
        assert!(hierarchical_bootstrap(&[], &settings, pgr_of).is_err());
    }

    #[test]
    fn tests_without_information_say_so() {
        assert_eq!(paired_t(&[]), None);
        assert_eq!(paired_t(&[0.1]), None);
        assert_eq!(paired_t(&[0.1; 5]), None, "equal differences have no error to compare with");
        assert_eq!(paired_t(&[0.0; 5]).unwrap().p, 1.0);
        assert_eq!(crossed_t(&[vec![0.0; 4], vec![0.0; 4]]).unwrap().p, 1.0);
        assert_eq!(crossed_t(&[vec![0.0; 4], vec![0.0; 3]]), None);
        assert_eq!(wilcoxon(&[0.0, 0.0]), (0.0, 1.0));
        assert_eq!(sign_flip(&[], 10, 0), 1.0);
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[0.5]).unwrap().s, None);
        assert_eq!(Summary::of(&[0.5]).unwrap().interval(0.95), None);
    }

    #[test]
    fn many_sign_flips_are_drawn() {
        let differences: Vec<f64> = (0..40).map(|i| f64::from(i % 7) - 2.5).collect();
        let p = sign_flip(&differences, 20_000, 3);
        // Of a normal with the same second moment: 0.121.
        let z = differences.iter().sum::<f64>() / differences.iter().map(|d| d * d).sum::<f64>().sqrt();
        let normal = erfc(z.abs() / std::f64::consts::SQRT_2);
        assert!((p - normal).abs() < 0.02, "{p} is not near {normal}");
        assert_eq!(p, sign_flip(&differences, 20_000, 3));
    }

    fn reference(weak: f64, ceiling: f64, n: usize) -> Reference {
        Reference { weak, gap: Gap::of_rates(weak, ceiling, n) }
    }

    #[test]
    fn pgr_needs_a_gap_of_two_standard_errors() {
        // 1000 items at 0.8 and 0.85: SE of the gap is 0.0170, so 0.05 is resolved and 0.03 is not.
        let (wide, narrow) = (reference(0.8, 0.85, 1000), reference(0.8, 0.83, 1000));
        assert!(wide.gap.resolved() && !narrow.gap.resolved());
        let (references, students) = ([(0, wide), (1, wide), (2, narrow)], [(0, 0.82), (1, 0.83), (2, 0.9)]);
        let Recovered::Value(summary) = recovered(&references, &students) else { panic!("the mean gap is resolved") };
        // The third seed's PGR of 3.33 is left out, because of its gap.
        assert_eq!(summary.n, 2);
        assert!((summary.mean - 0.5).abs() < 1e-9 && (summary.s.unwrap() - 0.02f64.sqrt()).abs() < 1e-9);
        // A seed below zero pulls the mean gap under two standard errors.
        let below = reference(0.85, 0.8, 1000);
        assert_eq!(recovered(&[(0, wide), (1, below), (2, narrow)], &students), Recovered::Unresolved);
        assert_eq!(recovered(&references, &[(2, 0.9)]), Recovered::Unresolved);
        assert_eq!(recovered(&references, &[(3, 0.9)]), Recovered::Absent);
        assert_eq!(recovered(&[], &students), Recovered::Absent);
        // A method that gets worse than weak has a negative PGR, not none.
        let Recovered::Value(summary) = recovered(&[(0, wide)], &[(0, 0.7)]) else { panic!("the gap is resolved") };
        assert!((summary.mean + 2.0).abs() < 1e-9 && summary.s.is_none());
    }

    #[test]
    fn paired_items_resolve_smaller_gaps() {
        // 30 of 1000 items won, none lost: unpaired the gap of 0.03 is noise, paired it is not.
        let correct = |from: usize| (0..1000).map(|item| item >= from).collect::<Vec<_>>();
        let paired = super::super::metrics::paired_difference(&correct(170), &correct(200)).unwrap();
        assert!(Gap::from(paired).resolved());
        assert!(!Gap::of_rates(0.8, 0.83, 1000).resolved());
    }

    /// One comparison of two methods that are equally good in the population: `item_luck` is how much an item favours one of them,
    /// `seed_luck` how much a seed does.
    fn null(rng: &mut Rng, seeds: usize, items: usize, item_luck: f64, seed_luck: f64) -> Vec<Vec<f64>> {
        let favour: Vec<(f64, f64)> =
            (0..items).map(|_| (0.3 + 0.5 * rng.uniform(), item_luck * (2.0 * rng.uniform() - 1.0))).collect();
        let hit = |rng: &mut Rng, p: f64| f64::from(u8::from(rng.uniform() < p));
        (0..seeds)
            .map(|_| {
                let shift = seed_luck * rng.normal();
                (favour.iter()).map(|(p, d)| hit(rng, p + d / 2.0 + shift) - hit(rng, p - d / 2.0 - shift)).collect()
            })
            .collect()
    }

    /// On null data a star is given in at most 5 % of 10,000 comparisons.
    #[test]
    fn stars_on_null_data_are_rare() {
        let mut rng = Rng::named(11, "null");
        let (simulations, items) = (10_000, 60);
        for (item_luck, seed_luck) in [(0.0, 0.0), (0.4, 0.0), (0.0, 0.04), (0.8, 0.04)] {
            let (mut starred, mut by_seeds_alone) = (0, 0);
            for _ in 0..simulations {
                let differences = null(&mut rng, STAR_SEEDS, items, item_luck, seed_luck);
                starred += usize::from(stars(&[crossed_t(&differences)], 0.05)[0]);
                let means: Vec<f64> = differences.iter().map(|row| row.iter().sum::<f64>() / items as f64).collect();
                by_seeds_alone += usize::from(paired_t(&means).is_some_and(|test| test.p <= 0.05));
            }
            let rate = |count: usize| count as f64 / simulations as f64;
            assert!(rate(starred) <= 0.05, "{item_luck} {seed_luck}: {}", rate(starred));
            if item_luck > 0.0 {
                // Why items count: over seeds alone, luck with these items passes for skill.
                assert!(rate(by_seeds_alone) > 0.08, "{item_luck} {seed_luck}: {}", rate(by_seeds_alone));
            }
        }
    }

    #[test]
    fn stars_on_a_null_table_are_rare_and_real_differences_get_one() {
        let mut rng = Rng::named(12, "null");
        let simulations = 1_000;
        let mut tables = 0;
        for _ in 0..simulations {
            let family: Vec<Option<Test>> = (0..6).map(|_| crossed_t(&null(&mut rng, 5, 60, 0.8, 0.0))).collect();
            tables += usize::from(stars(&family, 0.05).contains(&true));
        }
        assert!(tables as f64 / simulations as f64 <= 0.05, "{tables}");
        // Not because nothing ever gets a star.
        assert!(tables > 0);

        let better: Vec<Vec<f64>> =
            null(&mut rng, 5, 400, 0.0, 0.0).into_iter().map(|row| row.iter().map(|d| d + 0.2).collect()).collect();
        assert_eq!(stars(&[crossed_t(&better), None], 0.05), [true, false]);
        assert_eq!(stars(&[crossed_t(&better[..4])], 0.05), [false], "four seeds earn no star");
    }

    proptest! {
        #[test]
        fn mean_and_s_equal_the_textbook(values in prop::collection::vec(-1e3..1e3f64, 2..30)) {
            let n = values.len() as f64;
            let (sum, squares) = values.iter().fold((0.0, 0.0), |(a, b), x| (a + x, b + x * x));
            let naive = ((squares - sum * sum / n) / (n - 1.0)).max(0.0).sqrt();
            let summary = Summary::of(&values).unwrap();
            prop_assert!((summary.mean - sum / n).abs() < 1e-9);
            prop_assert!((summary.s.unwrap() - naive).abs() < 1e-4);
        }

        #[test]
        fn recovered_is_never_infinite(
            cells in prop::collection::vec((0.0..=1.0f64, 0.0..=1.0f64, 0.0..=1.0f64), 0..6), n in 1usize..2000
        ) {
            let references: Vec<_> =
                cells.iter().zip(0..).map(|((weak, _, ceiling), seed)| (seed, reference(*weak, *ceiling, n))).collect();
            let students: Vec<_> = cells.iter().zip(0..).map(|((_, student, _), seed)| (seed, *student)).collect();
            if let Recovered::Value(summary) = recovered(&references, &students) {
                prop_assert!(summary.mean.is_finite() && summary.s.is_none_or(f64::is_finite));
            }
        }

        #[test]
        fn p_values_are_probabilities(differences in prop::collection::vec(-3i8..4, 1..12)) {
            let differences: Vec<f64> = differences.into_iter().map(f64::from).collect();
            let ps = [paired_t(&differences).map_or(1.0, |t| t.p), wilcoxon(&differences).1, sign_flip(&differences, 9, 1)];
            prop_assert!(ps.iter().all(|p| (0.0..=1.0).contains(p) && *p > 0.0), "{:?}", ps);
        }
    }
}
