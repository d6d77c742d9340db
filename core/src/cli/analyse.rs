//! `w2s analyse`: a finished run, looked into.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    items::{Item, ItemSet, cells, items},
    show::plain,
    table::{print, read, results_of, room},
};
use crate::{
    Result,
    report::{
        analysis::{Calibration, ReliabilityBin, calibration, histogram, over_gamma, reliability, signatures},
        figure::Setting,
        results::ResultRow,
        sheet::{Sheet, fill},
        table::{in_order, line_title},
    },
};

#[derive(Args)]
pub struct AnalyseArgs {
    /// The grid, or its results.csv
    config: PathBuf,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Examples shown from either end of P(IK)
    #[arg(long, value_name = "N", default_value_t = 3)]
    examples: usize,
}

/// Metrics of the summary, with their headings.
const SUMMARY: [(&str, &str); 13] = [
    ("accuracy", "acc."),
    ("label_accuracy", "labels"),
    ("p_ik_auroc", "AUROC"),
    ("p_ik_ece", "ECE"),
    ("self_label_accuracy", "own acc."),
    ("coverage", "trusted"),
    ("trusted_accuracy", "own | trusted"),
    ("weak_accuracy_trusted", "weak | trusted"),
    ("weak_accuracy_rest", "weak | rest"),
    ("refined_right_to_wrong", "right→wrong"),
    ("refined_wrong_to_right", "wrong→right"),
    ("agreement_weak_right", "agree | weak right"),
    ("agreement_weak_wrong", "agree | weak wrong"),
];

/// Thresholds of the table over γ.
const GAMMAS: [f64; 8] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];

/// `w2s analyse`.
pub fn analyse(args: &AnalyseArgs) -> Result<ExitCode> {
    let path = results_of(&args.config, &args.results)?;
    let rows = read(&path)?;
    print_summary(&rows)?;
    for set in items(&cells(&path)?, &args.results.join(crate::stage::STORE))? {
        print_p_ik(&set, args.examples)?;
    }
    let found = signatures(&rows);
    println!("What the numbers say");
    let width = room().unwrap_or(usize::MAX);
    if found.is_empty() {
        let none = "  no sign of an underconfident P(IK), over-smoothing, or a selector that never selects";
        println!("{}", fill(none, width));
    }
    for sentence in found {
        println!("{}", fill(&format!("  {}", plain(&sentence)), width));
    }
    Ok(ExitCode::SUCCESS)
}

/// Means over seeds, in percent: tasks and pairs of models × methods × metrics.
fn print_summary(rows: &[ResultRow]) -> Result<()> {
    let setting = |row: &ResultRow| (row.run.clone(), row.task.clone(), row.weak.clone(), row.strong.clone());
    let settings = in_order(rows, setting);
    let runs = in_order(rows, |row| row.run.clone()).len();
    for here in settings {
        let rows: Vec<&ResultRow> = rows.iter().filter(|row| setting(row) == here).collect();
        let (run, task, weak, strong) = here;
        let run = if runs > 1 { format!(", {run}") } else { String::new() };
        let heading = format!("{task}, {weak} → {strong}{run}");
        let mut sheet = Sheet::new(1, ["method"].into_iter().chain(SUMMARY.iter().map(|(_, head)| *head)));
        for method in in_order(rows.iter().copied(), |row| row.method.as_str()) {
            let cell = |metric: &str| {
                let own = rows.iter().filter(|row| row.method == method && row.metric == metric);
                let values: Vec<f64> = own.filter_map(|row| row.value).collect();
                match values.len() {
                    0 => String::new(),
                    n => format!("{:.1}", 100.0 * values.iter().sum::<f64>() / n as f64),
                }
            };
            let name = line_title(method, str::to_owned);
            sheet.push([name].into_iter().chain(SUMMARY.iter().map(|(metric, _)| cell(metric))));
        }
        sheet.drop_empty();
        let heading = room().map_or_else(|| heading.clone(), |room| fill(&heading, room));
        print(&format!("{heading}\n{}", sheet.to_terminal(room())))?;
        println!();
    }
    let note = "Means over seeds, in percent; docs/results.md defines them. Agreement where the weak model is wrong is copied errors.";
    println!("{}\n", fill(note, room().unwrap_or(usize::MAX)));
    Ok(())
}

fn print_p_ik(set: &ItemSet, examples: usize) -> Result<()> {
    let pairs = set.pairs();
    let Setting { task, weak, strong } = &set.setting;
    let heading =
        format!("{task}, {weak} → {strong}, {}: P(IK) on {} test items of all seeds", set.method, pairs.len());
    print(&fill(&heading, room().unwrap_or(usize::MAX)))?;
    const BINS: usize = 10;
    let room = room().unwrap_or(usize::MAX);
    // Beside the bars stand 27 characters of bounds and counts.
    let width = (room.saturating_sub(27) / 2).clamp(1, 30);
    let lines = |text: &str| println!("{}", fill(text, room));
    let bins = histogram(&pairs, BINS);
    let most = bins.iter().flatten().copied().max().unwrap_or(0).max(1);
    let bar = |count: usize| "█".repeat((count * width).div_ceil(most));
    lines(&format!("  {:9}  {:>5} {:width$}  {:>5} right (IK)", "P(IK)", "wrong", "(IDK)", ""));
    for (bin, [wrong, right]) in bins.iter().enumerate() {
        let low = bin as f64 / BINS as f64;
        let line =
            format!("  {:.1} – {:.1}  {wrong:>5} {:width$}  {right:>5} {}", low, low + 0.1, bar(*wrong), bar(*right));
        lines(&line);
    }
    lines(&format!("  {:>5}  {:>8}  {:>18}", "γ", "coverage", "right where above"));
    for at in over_gamma(&pairs, &GAMMAS) {
        let accuracy = at.accuracy.map_or("–".to_owned(), |accuracy| format!("{:.1} %", 100.0 * accuracy));
        lines(&format!("  {:>5}  {:>6.1} %  {accuracy:>18}", at.gamma, 100.0 * at.coverage));
    }
    let bins = reliability(&pairs, BINS);
    let line = |of: &dyn Fn(&ReliabilityBin) -> f64| -> String {
        bins.iter().map(|bin| format!("{:>6.1}", 100.0 * of(bin))).collect()
    };
    lines(&format!("  in {} bins of equal mass, %", bins.len()));
    lines(&format!("  {:>10}{}", "mean P(IK)", line(&|bin| bin.predicted)));
    lines(&format!("  {:>10}{}", "right", line(&|bin| bin.right)));
    if let Some(Calibration { ece, sweep: (sweep, count), brier }) = calibration(&pairs) {
        let (ece, sweep) = (100.0 * ece, 100.0 * sweep);
        lines(&format!(
            "  ECE {ece:.1} % over these bins, {sweep:.1} % by monotonic sweep ({count} bins); Brier {brier:.3}"
        ));
    }
    let mut order: Vec<&Item> = set.items.iter().collect();
    order.sort_by(|a, b| b.p_ik.total_cmp(&a.p_ik));
    for (what, shown) in [
        ("highest", order.iter().take(examples).collect::<Vec<_>>()),
        ("lowest", order.iter().rev().take(examples).collect()),
    ] {
        if !shown.is_empty() {
            println!("  {what}:");
        }
        for item in shown {
            let line: String = item.text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(100).collect();
            lines(&format!("    {:.3} {} {}", item.p_ik, if item.right { "right" } else { "wrong" }, plain(&line)));
        }
    }
    println!();
    Ok(())
}
