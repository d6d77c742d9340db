//! What a method knew, trusted and changed: measures of Selective W2SG and its kind.

use super::metrics::{Bins, Estimate, Measure, Part, Predictions, argmax, find};
use crate::{Result, learner::Choice};

/// How well a judge says which of the strong model's own answers are right; N items of the test split. Metrics begin with the name of the
/// column that it makes.
///
/// # Errors
/// Unequal lengths, or a value that is no probability.
pub fn judged(column: &str, says: &[Vec<f32>], right: &[u8]) -> Result<Vec<Measure>> {
    let (n, key) = (right.len(), column.replace('-', "_"));
    let says = Predictions::new(says, right)?;
    let measures = [
        (format!("{key}_auroc"), says.binary().and_then(|binary| binary.auroc())),
        (format!("{key}_brier"), Some(says.brier())),
        (format!("{key}_ece"), Some(says.calibration_error(Bins::EqualMass(10)))),
        ("self_label_accuracy".to_owned(), Some(says.truth_rate())),
    ];
    let known = measures.into_iter().filter_map(|(name, value)| Some((find(&name)?.name, value)));
    Ok(known.map(|(metric, value)| Measure { metric, value, n }).collect())
}

/// What the last decisions about the student's examples were worth. `weak` has a row per example, `right` says whether a class of a row is
/// the true one; `choices` name theirs. Examples that were dropped (weight 0) count in `kept` alone, which is there when some were.
pub fn decisions(choices: &[Choice], weak: &[Vec<f32>], right: impl Fn(usize, u8) -> bool) -> Vec<Measure> {
    let known = || choices.iter().filter(|choice| (choice.row as usize) < weak.len());
    let rows = || known().filter(|choice| choice.weight > 0.0);
    let right = |label: &[f32], choice: &Choice| right(choice.row as usize, argmax(label));
    let weak_of = |choice: &Choice| weak[choice.row as usize].as_slice();
    let share = |metric, estimate: Option<Estimate>| Measure {
        metric,
        value: estimate.map(|estimate| estimate.value),
        n: estimate.map_or(0, |estimate| estimate.n),
    };
    let own = |choice: &&Choice| choice.own;
    let theirs = |choice: &&Choice| !choice.own;
    let mut measures = vec![
        share("coverage", Estimate::of(rows().map(|choice| choice.own))),
        share("weak_accuracy_trusted", Estimate::of(rows().filter(own).map(|choice| right(weak_of(choice), choice)))),
        share("weak_accuracy_rest", Estimate::of(rows().filter(theirs).map(|choice| right(weak_of(choice), choice)))),
    ];
    let with_own = || rows().filter_map(|choice| Some((choice, choice.self_label.as_deref()?)));
    if with_own().next().is_some() {
        let trusted = with_own().filter(|(choice, _)| choice.own);
        measures.push(share("trusted_accuracy", Estimate::of(trusted.map(|(choice, label)| right(label, choice)))));
        let rest = with_own().filter(|(choice, _)| !choice.own);
        measures.push(share("self_accuracy_rest", Estimate::of(rest.map(|(choice, label)| right(label, choice)))));
    }
    // What refining did to the labels that were selected.
    let selected = |choice: &Choice| -> Vec<f32> {
        match (&choice.self_label, choice.own) {
            (Some(label), true) => label.clone(),
            _ => weak_of(choice).to_vec(),
        }
    };
    let flips = |from: bool| {
        Estimate::of(
            rows().map(|choice| right(&selected(choice), choice) == from && right(&choice.refined, choice) != from),
        )
    };
    measures.push(share("refined_right_to_wrong", flips(true)));
    measures.push(share("refined_wrong_to_right", flips(false)));
    measures.push(share("label_accuracy", Estimate::of(rows().map(|choice| right(&choice.refined, choice)))));
    if known().any(|choice| choice.weight == 0.0) {
        measures.push(share("kept", Estimate::of(known().map(|choice| choice.weight > 0.0))));
    }
    measures
}

/// How large each part of the student's examples is, by who had them right before the student learnt, and which share of it was kept (multi-capabilities
/// W2SG, figure 12). `parts` has one for each example. Nothing where no example was left out.
pub fn retention(choices: &[Choice], parts: &[Part]) -> Vec<Measure> {
    let known: Vec<(Part, bool)> =
        (choices.iter()).filter_map(|choice| Some((*parts.get(choice.row as usize)?, choice.weight > 0.0))).collect();
    if known.iter().all(|(_, kept)| *kept) {
        return vec![];
    }
    let share = |metric, of: Option<Estimate>| Measure {
        metric,
        value: of.map(|estimate| estimate.value),
        n: of.map_or(0, |estimate| estimate.n),
    };
    let sizes = Part::ALL.map(|part| share(part.metric(), Estimate::of(known.iter().map(|(of, _)| *of == part))));
    let kept = Part::ALL.map(|part| {
        let within = known.iter().filter(|(of, _)| *of == part);
        share(part.kept(), Estimate::of(within.map(|(_, kept)| *kept)))
    });
    sizes.into_iter().chain(kept).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn value(measures: &[Measure], metric: &str) -> Option<f64> {
        measures.iter().find(|measure| measure.metric == metric).unwrap_or_else(|| panic!("{metric}")).value
    }

    #[test]
    fn a_judge_that_orders_the_answers_has_an_auroc_of_one() {
        let knows = [vec![0.9, 0.1], vec![0.4, 0.6], vec![0.7, 0.3], vec![0.2, 0.8]];
        let measures = judged("p-ik", &knows, &[0, 1, 0, 1]).unwrap();
        assert_eq!(value(&measures, "p_ik_auroc"), Some(1.0));
        assert_eq!(value(&measures, "self_label_accuracy"), Some(0.5));
        assert_eq!(value(&judged("p-ik", &knows, &[1, 0, 1, 0]).unwrap(), "p_ik_auroc"), Some(0.0));
        assert_eq!(value(&judged("p-ik", &knows, &[1, 1, 1, 1]).unwrap(), "p_ik_auroc"), None);
    }

    #[test]
    fn decisions_are_counted_against_the_truth() {
        let choice = |row: u32, own: bool, own_class: usize, refined: [f32; 2]| {
            let label = [vec![1.0, 0.0], vec![0.0, 1.0]][own_class].clone();
            let refined = refined.to_vec();
            Choice { row, own, weight: 1.0, columns: BTreeMap::new(), self_label: Some(label), refined }
        };
        let weak = vec![vec![0.9, 0.1], vec![0.8, 0.2], vec![0.4, 0.6], vec![0.45, 0.55]];
        let truth = [0, 1, 1, 0];
        let choices = [
            choice(0, true, 0, [1.0, 0.0]),    // trusted and right; so is the weak label
            choice(1, true, 0, [1.0, 0.0]),    // trusted and wrong; so is the weak label
            choice(2, false, 0, [0.6, 0.4]),   // weak label right, refining turns it
            choice(3, false, 1, [0.55, 0.45]), // weak label wrong, refining turns it
        ];
        let measures = decisions(&choices, &weak, |row, class| truth[row] == class);
        for (metric, expected) in [
            ("coverage", 0.5),
            ("weak_accuracy_trusted", 0.5),
            ("weak_accuracy_rest", 0.5),
            ("trusted_accuracy", 0.5),
            ("self_accuracy_rest", 0.0),
            ("refined_right_to_wrong", 0.25),
            ("refined_wrong_to_right", 0.25),
            ("label_accuracy", 0.5),
        ] {
            assert_eq!(value(&measures, metric), Some(expected), "{metric}");
        }
        assert!(measures.iter().all(|measure| measure.metric != "kept"));
    }

    #[test]
    fn what_was_dropped_counts_in_nothing_but_what_was_kept() {
        let choice = |row: u32, weight: f32, own: bool| {
            let refined = if own { vec![1.0, 0.0] } else { vec![0.3, 0.7] };
            Choice { row, own, weight, columns: BTreeMap::new(), self_label: Some(vec![1.0, 0.0]), refined }
        };
        let (weak, truth) = (vec![vec![0.3, 0.7]; 5], [0, 1, 1, 0, 1]);
        // The weight does not matter as long as there is one.
        let choices = [
            choice(0, 2.0, true),
            choice(1, 0.1, false),
            choice(2, 1.0, false),
            choice(3, 0.0, false),
            choice(4, 0.0, true),
        ];
        let measures = decisions(&choices, &weak, |row, class| truth[row] == class);
        let kept = decisions(&choices[..3], &weak, |row, class| truth[row] == class);
        assert_eq!(measures[..measures.len() - 1], kept[..]);
        for (metric, expected) in [
            ("coverage", 1.0 / 3.0),
            ("weak_accuracy_rest", 1.0),
            ("weak_accuracy_trusted", 0.0),
            ("label_accuracy", 1.0),
        ] {
            assert_eq!(value(&measures, metric), Some(expected), "{metric}");
        }
        let last = measures.last().unwrap();
        assert_eq!((last.metric, last.value, last.n), ("kept", Some(0.6), 5));
        // All of them dropped: nothing can be said.
        assert_eq!(value(&decisions(&choices[3..], &weak, |row, class| truth[row] == class), "label_accuracy"), None);
    }

    #[test]
    fn what_is_kept_is_counted_in_each_part() {
        use Part::*;
        let choice = |row: u32, weight: f32| Choice {
            row,
            own: false,
            weight,
            columns: BTreeMap::new(),
            self_label: None,
            refined: vec![1.0, 0.0],
        };
        let parts = [BothRight, BothRight, OnlyWeakRight, SameError, BothRight];
        let choices = [choice(0, 1.0), choice(1, 0.0), choice(2, 0.5), choice(3, 0.0), choice(4, 1.0), choice(9, 1.0)];
        let measures = retention(&choices, &parts);
        let shares = Part::ALL.map(|part| value(&measures, part.metric()));
        assert_eq!(shares, [Some(0.6), Some(0.2), Some(0.0), Some(0.2), Some(0.0)]);
        let kept = Part::ALL.map(|part| value(&measures, part.kept()));
        assert_eq!(kept, [Some(2.0 / 3.0), Some(0.0), None, Some(1.0), None]);
        assert!(measures.iter().all(|measure| find(measure.metric).is_some()));
        // Who leaves nothing out has nothing to say of it.
        assert_eq!(retention(&choices[..1], &parts), vec![]);
    }
}
