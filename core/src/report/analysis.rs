//! Looking into a finished run: what P(IK) was worth, and what went wrong, in words.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    metrics::{Binary, equal_mass, mean_of, sorted_by},
    results::{ResultRow, Status, is_end},
    statistics::wilson,
};
use crate::strategy::Split;

/// Coverage and accuracy at one threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AtGamma {
    /// Threshold γ.
    pub gamma: f64,
    /// Share of items with P(IK) > γ.
    pub coverage: f64,
    /// Share of those that the strong model answers right; `None` without any.
    pub accuracy: Option<f64>,
}

/// What trusting the strong model above a threshold would mean, for each threshold. Items: P(IK), and whether the answer is right.
pub fn over_gamma(items: &[(f32, bool)], gammas: &[f64]) -> Vec<AtGamma> {
    let at = |&gamma: &f64| {
        let trusted = items.iter().filter(|(p_ik, _)| f64::from(*p_ik) > gamma);
        let (n, right) = trusted.fold((0, 0), |(n, right), (_, is_right)| (n + 1, right + usize::from(*is_right)));
        AtGamma {
            gamma,
            coverage: n as f64 / items.len().max(1) as f64,
            accuracy: (n > 0).then(|| right as f64 / n as f64),
        }
    };
    gammas.iter().map(at).collect()
}

/// Numbers of wrong and right answers in bins of equal width over P(IK), the first from 0 on.
pub fn histogram(items: &[(f32, bool)], bins: usize) -> Vec<[usize; 2]> {
    let mut counts = vec![[0, 0]; bins.max(1)];
    let last = counts.len() - 1;
    for (p_ik, right) in items {
        let bin = ((f64::from(*p_ik) * bins as f64) as usize).min(last);
        counts[bin][usize::from(*right)] += 1;
    }
    counts
}

/// Items of similar P(IK).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReliabilityBin {
    /// Mean P(IK).
    pub predicted: f64,
    /// Share that the strong model answers right.
    pub right: f64,
    /// Wilson's 95 % interval of that share.
    pub interval: (f64, f64),
    /// Items.
    pub n: usize,
}

/// The reliability curve: items in bins of equal mass over P(IK), the lowest first; as many bins as items if those are fewer.
pub fn reliability(items: &[(f32, bool)], bins: usize) -> Vec<ReliabilityBin> {
    let (p, y) = columns(items);
    let groups = equal_mass(&sorted_by(&p), bins.min(items.len()));
    let bin = |group: &Vec<usize>| {
        let right = mean_of(&y, group);
        ReliabilityBin { predicted: mean_of(&p, group), right, interval: wilson(right, group.len()), n: group.len() }
    };
    groups.iter().filter(|group| !group.is_empty()).map(bin).collect()
}

/// How far P(IK) is from the share of right answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Expected calibration error: mean |predicted − right| over 10 bins of [`reliability`], weighted by items. Unlike the metric
    /// `p_ik_ece`, which looks at the likelier of the two answers, it is about P(IK) itself.
    pub ece: f64,
    /// Calibration error by monotonic sweep (Roelofs et al. 2022), and its number of bins.
    pub sweep: (f64, usize),
    /// Mean (P(IK) − right)².
    pub brier: f64,
}

/// Calibration of P(IK); `None` without items.
pub fn calibration(items: &[(f32, bool)]) -> Option<Calibration> {
    let (p, y) = columns(items);
    let squares: f64 = p.iter().zip(&y).map(|(p, y)| (f64::from(*p) - f64::from(*y)).powi(2)).sum();
    let gaps = reliability(items, 10);
    let gaps = gaps.iter().map(|bin| bin.n as f64 / items.len() as f64 * (bin.predicted - bin.right).abs());
    let ece = gaps.sum();
    let sweep = Binary::new(p, y).ok()?.sweep_calibration_error();
    Some(Calibration { ece, sweep, brier: squares / items.len() as f64 })
}

fn columns(items: &[(f32, bool)]) -> (Vec<f32>, Vec<f32>) {
    items.iter().map(|(p_ik, right)| (*p_ik, f32::from(u8::from(*right)))).unzip()
}

/// What a run's own numbers say went wrong, one sentence per finding: task, pair of models, method, what, and the likely reason. Numbers
/// are means over seeds.
///
/// Sources: the failure modes named by Selective W2SG (arXiv 2511.14166), section 5 and its limitations.
pub fn signatures(rows: &[ResultRow]) -> Vec<String> {
    /// Run, task, weak model, strong model, method.
    fn key(row: &ResultRow) -> [&str; 5] {
        [&row.run, &row.task, &row.weak, &row.strong, &row.method]
    }
    let mut means: BTreeMap<([&str; 5], &str), Vec<f64>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.status == Status::Ok) {
        let on_transfer = row.split == Split::Transfer;
        if on_transfer || row.split == Split::Test {
            means.entry((key(row), &row.metric)).or_default().extend(row.value);
        }
    }
    let mean = |key: [&str; 5], metric: &str| {
        means
            .get(&(key, metric))
            .filter(|values| !values.is_empty())
            .map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for row in rows {
        if is_end(&row.method) || !seen.insert(key(row)) {
            continue;
        }
        let get = |metric: &str| mean(key(row), metric);
        let percent = |value: f64| format!("{:.1} %", 100.0 * value);
        let [_, task, weak, strong, method] = key(row);
        let mut say = |what: String| found.push(format!("{task}, {weak} → {strong}, {method}: {what}"));
        // A P(IK) head that nobody asks, as in MTL, selects nothing by design.
        let asks = get("p_ik_auroc").is_some() && row.selector != "all";
        match get("coverage") {
            Some(coverage) if asks && coverage == 0.0 => say(
                "no example was trusted: P(IK) never passes the threshold, so this is training on weak labels. P(IK) is \
                 underconfident; lower `gamma`, or look at the known share of the auxiliary task"
                    .to_owned(),
            ),
            Some(coverage) if asks && coverage < 0.05 => say(format!(
                "only {} of the examples were trusted: the selector hardly ever selects. Lower `gamma`, or train P(IK) longer",
                percent(coverage)
            )),
            Some(coverage) if asks && coverage > 0.98 => say(format!(
                "{} of the examples were trusted: P(IK) says yes to nearly everything. Is the auxiliary task known almost \
                 completely (`p_ik.balance = \"undersample\"`)?",
                percent(coverage)
            )),
            _ => {}
        }
        if let (Some(own), Some(weak)) = (get("trusted_accuracy"), get("weak_accuracy_trusted"))
            && own < weak
        {
            say(format!(
                "where it was trusted, the strong model was right in {}, the weak labels it replaced in {}: selection lost \
                     right labels",
                percent(own),
                percent(weak)
            ));
        }
        if let (Some(trusted), Some(rest)) = (get("weak_accuracy_trusted"), get("weak_accuracy_rest"))
            && asks
            && trusted > rest + 0.05
        {
            say(format!(
                "the weak labels were right in {} where the strong model was trusted, and in {} elsewhere: it is trusted where \
                 little is to be gained",
                percent(trusted),
                percent(rest)
            ));
        }
        if let Some(auroc) = get("p_ik_auroc").filter(|auroc| *auroc < 0.6) {
            say(format!("P(IK) hardly separates right from wrong answers (AUROC {auroc:.2}); 0.5 is chance"));
        }
        if let (Some(lost), Some(won)) = (get("refined_right_to_wrong"), get("refined_wrong_to_right")) {
            // A label or two in a thousand is no finding.
            if lost > won + 0.002 {
                say(format!(
                    "refining made {} of the labels wrong and {} right: over-smoothing. A larger `alpha`, or a smaller `tau`, \
                     changes less",
                    percent(lost),
                    percent(won)
                ));
            } else if lost.max(won) < 0.002 && row.refiner != "identity" {
                say("refining changed the class of hardly any label; at most their confidence".to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Measure, results::SCHEMA_VERSION};

    const ITEMS: [(f32, bool); 5] = [(0.95, true), (0.85, false), (0.6, true), (0.25, false), (1.0, true)];

    #[test]
    fn coverage_falls_with_gamma() {
        let curve = over_gamma(&ITEMS, &[0.0, 0.8, 0.9, 1.0]);
        let told: Vec<_> = curve.iter().map(|at| (at.coverage, at.accuracy)).collect();
        assert_eq!(told, [(1.0, Some(0.6)), (0.6, Some(2.0 / 3.0)), (0.4, Some(1.0)), (0.0, None)]);
    }

    #[test]
    fn every_item_is_in_one_bin() {
        let bins = histogram(&ITEMS, 4);
        assert_eq!(bins, [[0, 0], [1, 0], [0, 1], [1, 2]]);
    }

    #[test]
    fn reliability_has_bins_of_equal_mass_and_calibration_is_their_distance() {
        let bins = reliability(&ITEMS, 2);
        let told: Vec<_> = bins.iter().map(|bin| (bin.n, bin.right)).collect();
        assert_eq!(told, [(3, 1.0 / 3.0), (2, 1.0)]);
        assert!((bins[0].predicted - (0.25 + 0.6 + 0.85) / 3.0).abs() < 1e-6);
        assert!(bins.iter().all(|bin| bin.interval.0 < bin.right && bin.right <= bin.interval.1));
        // Five items, one in each bin: the distances are .25, .4, .85, .05 and 0.
        let found = calibration(&ITEMS).unwrap();
        assert!((found.ece - 1.55 / 5.0).abs() < 1e-6, "{found:?}");
        let squares = 0.25f64.powi(2) + 0.4f64.powi(2) + 0.85f64.powi(2) + 0.05f64.powi(2);
        assert!((found.brier - squares / 5.0).abs() < 1e-6, "{found:?}");
        assert_eq!((reliability(&[], 10), calibration(&[])), (vec![], None));
    }

    fn rows(measures: &[(&'static str, f64)]) -> Vec<ResultRow> {
        let row = ResultRow {
            run: "r".into(),
            cell: "c".into(),
            suite: "task".into(),
            task: "task".into(),
            weak: "w".into(),
            strong: "s".into(),
            supervisor: "fine-tuned".into(),
            selector: "p-ik".into(),
            refiner: "graph-smoothing".into(),
            loss: "cross-entropy".into(),
            method: "selective".into(),
            seed: 0,
            step: None,
            split: Split::Transfer,
            metric: String::new(),
            value: None,
            n: 0,
            status: Status::Undefined,
            device: "cpu".into(),
            commit: "x".into(),
            config_hash: "x".into(),
            data_hash: "x".into(),
            truth_used: false,
            schema_version: SCHEMA_VERSION,
        };
        measures.iter().map(|&(metric, value)| row.with(&Measure { metric, value: Some(value), n: 10 })).collect()
    }

    #[test]
    fn pairs_of_models_are_not_mixed() {
        let never = rows(&[("p_ik_auroc", 0.8), ("coverage", 0.0)]);
        let often = rows(&[("p_ik_auroc", 0.8), ("coverage", 0.6)]);
        let often = often.into_iter().map(|row| ResultRow { strong: "larger".into(), ..row });
        let said = signatures(&never.into_iter().chain(often).collect::<Vec<_>>());
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("task, w → s, selective: no example was trusted"), "{said:?}");
    }

    #[test]
    fn failures_are_said_in_words() {
        let said = |measures: &[(&'static str, f64)]| signatures(&rows(measures)).join("\n");
        assert!(said(&[("p_ik_auroc", 0.8), ("coverage", 0.0)]).contains("no example was trusted"));
        assert!(said(&[("p_ik_auroc", 0.55), ("coverage", 0.5)]).contains("hardly separates"));
        assert!(said(&[("trusted_accuracy", 0.7), ("weak_accuracy_trusted", 0.8)]).contains("lost right labels"));
        assert!(said(&[("refined_right_to_wrong", 0.1), ("refined_wrong_to_right", 0.05)]).contains("over-smoothing"));
        assert!(
            said(&[("refined_right_to_wrong", 0.0), ("refined_wrong_to_right", 0.001)]).contains("hardly any label")
        );
        let trusted = [("p_ik_auroc", 0.8), ("weak_accuracy_trusted", 0.9), ("weak_accuracy_rest", 0.7)];
        assert!(said(&trusted).contains("little is to be gained"));
        assert_eq!(
            said(&[
                ("p_ik_auroc", 0.9),
                ("coverage", 0.5),
                ("refined_wrong_to_right", 0.1),
                ("refined_right_to_wrong", 0.05)
            ]),
            ""
        );
    }
}
