//! Methods against a baseline, paired by seed and test item.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use super::{
    metrics::pgr,
    results::{CEILING, WEAK, is_end},
    statistics::{
        Bootstrap, Gap, Interval, Recovered, Reference, Summary, Test, crossed_t, hierarchical_bootstrap, holm,
        mcnemar, paired_t, recovered, sign_flip, stars, wilcoxon,
    },
};
use crate::{Error, Result};

/// A test item, the same in every seed that has the same text: a hash of the text, and which of the items with that text it is.
pub type Item = (u64, u32);

/// What one method answered in one cell, by item: 1 where it is right, 0 where it is wrong. Over several tasks, what is right counts so that
/// each task counts the same.
pub type Answers = BTreeMap<Item, f32>;

/// A method on a task and a pair of models, over seeds. Weak supervisors and [`CEILING`] are methods here.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Task name.
    pub task: String,
    /// Weak model.
    pub weak: String,
    /// Strong model.
    pub strong: String,
    /// Method name.
    pub method: String,
    /// Method name of the weak supervisor whose labels it was trained on.
    pub supervisor: String,
    /// What it answered, by seed.
    pub answers: BTreeMap<u64, Answers>,
}

/// A method against the baseline, on one task and pair, over the seeds that both have.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Task name.
    pub task: String,
    /// Weak model.
    pub weak: String,
    /// Strong model.
    pub strong: String,
    /// Method name.
    pub method: String,
    /// Seeds that both have.
    pub seeds: Vec<u64>,
    /// Test items of a seed (the smallest number over seeds).
    pub items: usize,
    /// Whether every seed is tested on the same items.
    pub shared_items: bool,
    /// Accuracy of the method over seeds.
    pub accuracy: Summary,
    /// Mean difference in accuracy, method − baseline.
    pub difference: f64,
    /// The test that counts: over seeds and items where seeds share items, over seeds where each has its own. `None` below two
    /// seeds, or where all differences are equal and not zero.
    pub test: Option<Test>,
    /// Its p-value after Holm's correction over all comparisons.
    pub adjusted: Option<f64>,
    /// Whether it is significant: [`STAR_SEEDS`](super::statistics::STAR_SEEDS) seeds and an adjusted p-value of at most the level.
    pub star: bool,
    /// Paired t-test over seeds: two-sided p. It takes luck with shared items for skill.
    pub paired_t: Option<f64>,
    /// Wilcoxon signed-rank test over seeds: two-sided p.
    pub wilcoxon: f64,
    /// Sign-flip permutation over seeds: two-sided p.
    pub sign_flip: f64,
    /// Exact McNemar test of each seed: two-sided p.
    pub mcnemar: Vec<f64>,
    /// Difference in accuracy with its bootstrap interval, over seeds and items.
    pub bootstrap: Interval,
    /// PGR of the method: that of the mean accuracies, with its bootstrap interval; `None` where the gap is not resolved or weak or ceiling is missing.
    pub pgr: Option<Interval>,
}

/// The arms over all tasks of a suite, for every method that answered all of them in a seed: items of different tasks are different items, and
/// the mean over items is the plain mean over tasks.
pub fn averaged(arms: &[Arm], suite: &str, tasks: &BTreeSet<&str>) -> Vec<Arm> {
    let mut groups: IndexMap<(&str, &str, &str), Vec<&Arm>> = IndexMap::new();
    for arm in arms.iter().filter(|arm| tasks.contains(arm.task.as_str())) {
        groups.entry((&arm.weak, &arm.strong, &arm.method)).or_default().push(arm);
    }
    let whole = groups.into_values().filter(|group| group.len() == tasks.len());
    let average = |group: Vec<&Arm>| {
        let first = group[0];
        let seeds = first.answers.keys().filter(|seed| group.iter().all(|arm| arm.answers.contains_key(seed)));
        let of_seed = |seed: &u64| {
            let all: usize = group.iter().map(|arm| arm.answers[seed].len()).sum();
            let of_task = |(place, arm): (usize, &&Arm)| {
                let own = &arm.answers[seed];
                let weight = (all as f64 / (group.len() * own.len().max(1)) as f64) as f32;
                // Two tasks may ask the same.
                let apart = (place as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                own.iter().map(|(item, right)| ((item.0 ^ apart, item.1), right * weight)).collect::<Vec<_>>()
            };
            (*seed, group.iter().enumerate().flat_map(of_task).collect())
        };
        let same = group.iter().all(|arm| arm.supervisor == first.supervisor);
        Arm {
            task: suite.to_owned(),
            supervisor: if same { first.supervisor.clone() } else { WEAK.to_owned() },
            answers: seeds.map(of_seed).collect(),
            ..first.clone()
        }
    };
    whole.map(average).filter(|arm| !arm.answers.is_empty()).collect()
}

/// Compares every method with `baseline`, on every task and pair where both have at least one seed. Weak and ceiling are compared too.
///
/// `level` is that of stars and of nothing else; intervals are those of `bootstrap.level`.
///
/// # Errors
/// No arm of that name, or nothing to compare it with; two answers about different items in the same seed.
pub fn compare(arms: &[Arm], baseline: &str, level: f64, bootstrap: &Bootstrap) -> Result<Vec<Comparison>> {
    if !arms.iter().any(|arm| arm.method == baseline) {
        let known: BTreeSet<&str> = arms.iter().map(|arm| arm.method.as_str()).collect();
        let known: Vec<&str> = known.into_iter().collect();
        return Err(Error::new(format!("there is no method `{baseline}` to compare with"))
            .help(crate::document::did_you_mean(baseline, known)));
    }
    let place = |arm: &Arm| (arm.task.clone(), arm.weak.clone(), arm.strong.clone());
    let find = |arm: &Arm, method: &str| arms.iter().find(|other| place(other) == place(arm) && other.method == method);
    let pairs: Vec<(&Arm, &Arm)> =
        arms.iter().filter(|arm| arm.method != baseline).filter_map(|arm| Some((arm, find(arm, baseline)?))).collect();
    let mut compared: Vec<Comparison> = pairs
        .into_iter()
        .filter(|(arm, base)| arm.answers.keys().any(|seed| base.answers.contains_key(seed)))
        .map(|(arm, base)| one(arm, base, find(arm, &arm.supervisor), find(arm, CEILING), bootstrap))
        .collect::<Result<_>>()?;
    if compared.is_empty() {
        return Err(Error::new(format!("no other method shares a task, a pair and a seed with `{baseline}`"))
            .help("name another method with `--against`"));
    }
    // Weak and ceiling are no candidates: what they differ by is the setting, and would cost the others power.
    let candidate = |comparison: &Comparison| !is_end(&comparison.method);
    let mut family: Vec<&mut Comparison> = compared.iter_mut().filter(|comparison| candidate(comparison)).collect();
    let tests: Vec<Option<Test>> = family.iter().map(|comparison| comparison.test).collect();
    let p: Vec<f64> = tests.iter().map(|test| test.map_or(1.0, |test| test.p)).collect();
    for ((comparison, adjusted), star) in family.iter_mut().zip(holm(&p)).zip(stars(&tests, level)) {
        comparison.adjusted = comparison.test.map(|_| adjusted);
        comparison.star = star;
    }
    Ok(compared)
}

fn one(arm: &Arm, base: &Arm, weak: Option<&Arm>, ceiling: Option<&Arm>, bootstrap: &Bootstrap) -> Result<Comparison> {
    let seeds: Vec<u64> = arm.answers.keys().filter(|seed| base.answers.contains_key(seed)).copied().collect();
    for seed in &seeds {
        if !arm.answers[seed].keys().eq(base.answers[seed].keys()) {
            let message =
                format!("`{}` and `{}` were tested on different items of `{}`", arm.method, base.method, arm.task);
            return Err(Error::new(format!("{message}, seed {seed}"))
                .help("they come from different data: run the grid again with one `[data]`"));
        }
    }
    let of = |arm: &Arm, seeds: &[u64]| -> Vec<Vec<f32>> {
        seeds.iter().map(|seed| arm.answers[seed].values().copied().collect()).collect()
    };
    let keys = |seed: &u64| arm.answers[seed].keys();
    let shared_items = seeds.iter().all(|seed| keys(seed).eq(keys(&seeds[0])));
    let (own, other) = (of(arm, &seeds), of(base, &seeds));
    let differences: Vec<Vec<f64>> = (own.iter().zip(&other))
        .map(|(own, other)| own.iter().zip(other).map(|(a, b)| f64::from(a - b)).collect())
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let by_seed: Vec<f64> = differences.iter().map(|items| mean(items)).collect();
    let accuracies: Vec<f64> = own
        .iter()
        .map(|scores| scores.iter().map(|score| f64::from(*score)).sum::<f64>() / scores.len().max(1) as f64)
        .collect();
    let settings = Bootstrap { shared_items, ..*bootstrap };
    let accuracy = Summary::of(&accuracies).ok_or_else(|| Error::new("there is no seed to compare"))?;
    let exact = |(own, other): (&Vec<f32>, &Vec<f32>)| {
        let only = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a > b).count();
        mcnemar(only(own, other), only(other, own))
    };
    Ok(Comparison {
        task: arm.task.clone(),
        weak: arm.weak.clone(),
        strong: arm.strong.clone(),
        method: arm.method.clone(),
        items: differences.iter().map(Vec::len).min().unwrap_or(0),
        shared_items,
        accuracy,
        difference: mean(&by_seed),
        test: if shared_items { crossed_t(&differences) } else { paired_t(&by_seed) },
        adjusted: None,
        star: false,
        paired_t: paired_t(&by_seed).map(|test| test.p),
        wilcoxon: wilcoxon(&by_seed).1,
        sign_flip: sign_flip(&by_seed, 10_000, bootstrap.seed),
        mcnemar: own.iter().zip(&other).map(exact).collect(),
        bootstrap: hierarchical_bootstrap(&[other, own], &settings, |means| Some(means[1] - means[0]))?,
        pgr: match (weak, ceiling) {
            (Some(weak), Some(ceiling)) if !is_end(&arm.method) => {
                interval_of_pgr(arm, weak, ceiling, &accuracies, &seeds, &settings, of)?
            }
            _ => None,
        },
        seeds,
    })
}

fn interval_of_pgr(
    arm: &Arm,
    weak: &Arm,
    ceiling: &Arm,
    accuracies: &[f64],
    seeds: &[u64],
    settings: &Bootstrap,
    of: impl Fn(&Arm, &[u64]) -> Vec<Vec<f32>>,
) -> Result<Option<Interval>> {
    let both = |seed: &u64| weak.answers.contains_key(seed) && ceiling.answers.contains_key(seed);
    let complete: Vec<u64> = seeds.iter().copied().filter(both).collect();
    let reference = |seed: &u64| {
        let (weak, ceiling) = (&weak.answers[seed], &ceiling.answers[seed]);
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / weak.len().max(1) as f64;
        let difference = || ceiling.values().zip(weak.values()).map(|(ceiling, weak)| f64::from(ceiling - weak));
        let value = mean(&mut difference());
        let variance = (mean(&mut difference().map(|one| one * one)) - value * value).max(0.0);
        let gap = Gap { value, standard_error: (variance / weak.len().max(1) as f64).sqrt() };
        (*seed, Reference { weak: mean(&mut weak.values().copied().map(f64::from)), gap })
    };
    let references: Vec<(u64, Reference)> = complete.iter().map(reference).collect();
    let students: Vec<(u64, f64)> = seeds.iter().copied().zip(accuracies.iter().copied()).collect();
    let resolved = matches!(recovered(&references, &students), Recovered::Value(_));
    if complete.is_empty() || !resolved {
        return Ok(None);
    }
    let arms = [of(weak, &complete), of(arm, &complete), of(ceiling, &complete)];
    hierarchical_bootstrap(&arms, settings, |means| pgr(means[0], means[1], means[2])).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Answers that are right with probability `rate`, by items that all methods of a seed share luck on.
    fn arm(method: &str, rate: f64, seeds: u64, first_item: impl Fn(u64) -> u64) -> Arm {
        let answers = (0..seeds).map(|seed| {
            let mut rng = Rng::named(seed, "compare/luck");
            let first = first_item(seed);
            (seed, (first..first + 400).map(|item| ((item, 0), f32::from(u8::from(rng.uniform() < rate)))).collect())
        });
        let [task, weak, strong] = ["task", "small", "large"].map(str::to_owned);
        let (method, supervisor) = (method.to_owned(), WEAK.to_owned());
        Arm { task, weak, strong, method, supervisor, answers: answers.collect() }
    }

    fn arms(seeds: u64, first_item: impl Fn(u64) -> u64 + Copy) -> Vec<Arm> {
        [(WEAK, 0.6), ("finetune", 0.7), ("better", 0.75), ("same", 0.7), (CEILING, 0.9)]
            .map(|(method, rate)| arm(method, rate, seeds, first_item))
            .to_vec()
    }

    fn found<'a>(compared: &'a [Comparison], method: &str) -> &'a Comparison {
        compared.iter().find(|comparison| comparison.method == method).unwrap()
    }

    #[test]
    fn what_is_better_gets_a_star_and_what_is_equal_does_not() {
        let arms = arms(5, |_| 0);
        let settings = Bootstrap { draws: 500, ..Bootstrap::default() };
        let compared = compare(&arms, "finetune", 0.05, &settings).unwrap();
        let (better, same) = (found(&compared, "better"), found(&compared, "same"));
        assert_eq!((better.seeds.len(), better.items, better.shared_items), (5, 400, true));
        // Luck is shared: what differs are the items between 0.70 and 0.75 alone.
        let by_hand: f64 = (0..5)
            .map(|seed| {
                let mut rng = Rng::named(seed, "compare/luck");
                (0..400).filter(|_| (0.7..0.75).contains(&rng.uniform())).count() as f64 / 400.0
            })
            .sum::<f64>()
            / 5.0;
        assert!((better.difference - by_hand).abs() < 1e-7, "{} {by_hand}", better.difference);
        assert!(better.star && better.adjusted.unwrap() <= 0.05 && better.mcnemar.iter().all(|p| *p < 0.01));
        assert!((better.sign_flip - 0.0625).abs() < 1e-12, "the smallest that five seeds allow");
        let (low, high) = better.bootstrap.bounds.unwrap();
        assert!(low > 0.0 && low < better.difference && better.difference < high);
        let pgr = better.pgr.unwrap();
        let (low, high) = pgr.bounds.unwrap();
        assert!(low < pgr.value.unwrap() && pgr.value.unwrap() < high && (pgr.value.unwrap() - 0.5).abs() < 0.1);
        assert!(!same.star && same.difference == 0.0 && same.mcnemar == [1.0; 5]);
        assert!(!found(&compared, CEILING).star, "the ceiling is no candidate");
        assert_eq!(found(&compared, CEILING).adjusted, None);
    }

    #[test]
    fn four_seeds_and_other_items_change_the_test() {
        let settings = Bootstrap { draws: 200, ..Bootstrap::default() };
        let four = compare(&arms(4, |_| 0), "finetune", 0.05, &settings).unwrap();
        assert!(!found(&four, "better").star && found(&four, "better").adjusted.unwrap() <= 0.05);
        let own_items = compare(&arms(5, |seed| 1000 * seed), "finetune", 0.05, &settings).unwrap();
        let better = found(&own_items, "better");
        assert!(!better.shared_items);
        assert_eq!(better.test.unwrap().p, better.paired_t.unwrap());
    }

    #[test]
    fn an_average_counts_every_task_the_same() {
        let of = |task: &str, method: &str, rate: f64, items: u64| {
            let mut arm = arm(method, rate, 5, |_| 0);
            arm.answers.values_mut().for_each(|answers| answers.retain(|(item, _), _| *item < items));
            Arm { task: task.to_owned(), ..arm }
        };
        let arms = [
            of("a", "x", 0.9, 400),
            of("b", "x", 0.3, 100),
            of("a", "y", 0.5, 400),
            of("b", "y", 0.2, 100),
            of("a", "only", 0.5, 400),
        ];
        let averages = averaged(&arms, "both", &["a", "b"].into());
        assert_eq!(averages.iter().map(|arm| arm.method.as_str()).collect::<Vec<_>>(), ["x", "y"]);
        let mean =
            |answers: &Answers| answers.values().map(|right| f64::from(*right)).sum::<f64>() / answers.len() as f64;
        for (average, [a, b]) in averages.iter().zip([[0, 1], [2, 3]]) {
            for (seed, answers) in &average.answers {
                assert_eq!(answers.len(), 500, "the same items of two tasks are two");
                let plain = (mean(&arms[a].answers[seed]) + mean(&arms[b].answers[seed])) / 2.0;
                assert!((mean(answers) - plain).abs() < 1e-6);
            }
        }
        let compared = compare(&averages, "y", 0.05, &Bootstrap { draws: 10, ..Bootstrap::default() }).unwrap();
        assert!(compared[0].task == "both" && compared[0].items == 500 && compared[0].star, "{compared:?}");
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let settings = Bootstrap { draws: 10, ..Bootstrap::default() };
        let error = compare(&arms(2, |_| 0), "finetun", 0.05, &settings).unwrap_err();
        assert!(error.remedy().unwrap().contains("finetune"), "{error:?}");
        let mut other = arms(2, |_| 0);
        other[2] = arm("better", 0.75, 2, |_| 7);
        let error = compare(&other, "finetune", 0.05, &settings).unwrap_err();
        assert!(error.message().contains("different items"), "{error:?}");
        assert!(compare(&other[1..2], "finetune", 0.05, &settings).is_err());
    }
}
