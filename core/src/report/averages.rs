//! Averages over the tasks of a suite, as results of a task of the suite's name.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    metrics::{GAIN_SE, PGR},
    results::{ResultRow, Status, WEAK},
};

/// The tasks of each suite, as far as a model was trained on it.
pub fn suites(rows: &[ResultRow]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut suites: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.suite != row.task) {
        suites.entry(&row.suite).or_default().insert(&row.task);
    }
    suites
}

/// The rows, and behind them those of every suite: the plain mean over its tasks, where all of them have a value for the same pair, method and
/// seed.
///
/// The gap of the averages is what their PGR is of, with the standard error of a mean of independent tasks; a mean of PGRs would weigh most
/// the tasks with the smallest gaps.
pub fn with_averages(rows: &[ResultRow]) -> Vec<ResultRow> {
    let mut all = rows.to_vec();
    for (suite, tasks) in suites(rows).iter().filter(|(suite, _)| !rows.iter().any(|row| row.task == **suite)) {
        let mut groups: BTreeMap<_, Vec<&ResultRow>> = BTreeMap::new();
        // In the order in which the first of its tasks names them.
        let mut order = Vec::new();
        for row in rows.iter().filter(|row| tasks.contains(row.task.as_str()) && row.metric != PGR) {
            let key = (&row.run, &row.weak, &row.strong, &row.method, row.seed, row.step, row.split, &row.metric);
            let group = groups.entry(key).or_default();
            if group.is_empty() {
                order.push(key);
            }
            group.push(row);
        }
        for group in order.into_iter().filter_map(|key| groups.get(&key)) {
            let values: Vec<f64> = group.iter().filter_map(|row| row.value).collect();
            if values.len() < tasks.len() {
                continue;
            }
            let count = values.len() as f64;
            let value = match group[0].metric.as_str() {
                GAIN_SE => values.iter().map(|error| error * error).sum::<f64>().sqrt() / count,
                _ => values.iter().sum::<f64>() / count,
            };
            // A method may have another supervisor on some of the tasks; the usual one is that of the weak line.
            let usual = |row: &&&ResultRow| {
                rows.iter()
                    .any(|weak| weak.method == WEAK && weak.task == row.task && weak.supervisor == row.supervisor)
            };
            let first = group.iter().find(usual).unwrap_or(&group[0]);
            all.push(ResultRow {
                suite: (*suite).to_owned(),
                task: (*suite).to_owned(),
                value: Some(value),
                n: group.iter().map(|row| row.n).sum(),
                status: Status::Ok,
                truth_used: group.iter().any(|row| row.truth_used),
                data_hash: String::new(),
                ..(*first).clone()
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::row, *};

    #[test]
    fn an_average_is_that_of_all_tasks_or_of_none() {
        let of = |task: &str, suite: &str, method: &str, value: f64| ResultRow {
            suite: suite.to_owned(),
            ..row(task, "w", "s", method, 0, value)
        };
        let error =
            |task: &str, value: f64| ResultRow { metric: GAIN_SE.to_owned(), ..of(task, "both", "ceiling", value) };
        let rows = [
            of("a", "a", "weak", 0.5),
            of("a", "both", "wts", 0.6),
            of("a", "both", "ceiling", 0.9),
            of("b", "b", "weak", 0.3),
            of("b", "both", "wts", 0.5),
            of("b", "both", "ceiling", 0.5),
            of("a", "a", "alone", 0.7),
            of("c", "c", "alone", 0.7),
            error("a", 0.03),
            error("b", 0.04),
        ];
        let all = with_averages(&rows);
        assert_eq!(all[..rows.len()], rows);
        let averages: Vec<_> = all[rows.len()..]
            .iter()
            .map(|row| (row.task.as_str(), row.method.as_str(), (row.value.unwrap() * 1e6).round() / 1e6, row.n))
            .collect();
        assert_eq!(
            averages,
            [
                ("both", "weak", 0.4, 2000),
                ("both", "wts", 0.55, 2000),
                ("both", "ceiling", 0.7, 2000),
                ("both", "ceiling", 0.025, 2000)
            ]
        );
        assert_eq!(with_averages(&rows[..1]), rows[..1]);
    }
}
