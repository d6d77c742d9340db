//! From predictions to numbers, from numbers to `results.csv`, from `results.csv` to tables.
//!
//! [`metrics`] turns predictions into measures, [`results`] keeps one row per (cell, split, metric), [`statistics`] summarises
//! seeds and compares methods, [`table`] renders, and [`figure`] draws. Everything here is a pure function over plain data; a table
//! sees the rows of `results.csv` and nothing else. docs/results.md describes schema and rules, docs/figures.md the figures.

pub mod analysis;
pub mod averages;
mod chart;
pub mod compare;
pub mod figure;
pub mod knowledge;
pub mod measures;
pub mod metrics;
pub mod results;
pub mod seal;
pub mod sheet;
pub mod statistics;
pub mod table;

pub use metrics::{Measure, Metric, Part, Predictions};
pub use results::{ResultRow, Status};
pub use table::Table;

#[cfg(test)]
mod tests {
    use super::{metrics, results::COLUMNS};

    #[test]
    fn the_manual_names_every_column_and_metric() {
        let manual = include_str!("../../../docs/results.md");
        for name in COLUMNS.into_iter().chain(metrics::all().map(|metric| metric.name)) {
            assert!(manual.contains(&format!("`{name}`")), "docs/results.md does not name `{name}`");
        }
    }
}
