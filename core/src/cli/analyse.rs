//! `w2s analyse`: a finished run, looked into.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use comfy_table::{LineStyle, TableStyle};

use super::{
    items::{Item, ItemSet, cells, items},
    run::results_of,
};
use crate::{
    Result,
    report::{
        analysis::{Calibration, ReliabilityBin, calibration, histogram, over_gamma, reliability, signatures},
        figure::Setting,
        results::{ResultRow, read},
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
    print_summary(&rows);
    for set in items(&cells(&path)?, &args.results.join(crate::stage::STORE))? {
        print_p_ik(&set, args.examples);
    }
    let found = signatures(&rows);
    println!("What the numbers say");
    if found.is_empty() {
        println!("  no sign of an underconfident P(IK), over-smoothing, or a selector that never selects");
    }
    found.iter().for_each(|sentence| println!("  {sentence}"));
    Ok(ExitCode::SUCCESS)
}

/// Means over seeds, in percent: tasks × methods × metrics.
fn print_summary(rows: &[ResultRow]) {
    let mut tasks: Vec<&str> = Vec::new();
    for row in rows {
        if !tasks.contains(&row.task.as_str()) {
            tasks.push(&row.task);
        }
    }
    for task in tasks {
        let rule = LineStyle::none().fill('─').junction('─');
        let mut table = comfy_table::Table::new();
        table.load_style(TableStyle::new().top_border(rule).header_separator(rule).bottom_border(rule)).force_no_tty();
        table.set_header([task].into_iter().chain(SUMMARY.iter().map(|(_, head)| *head)));
        let mut methods: Vec<&str> = Vec::new();
        for row in rows.iter().filter(|row| row.task == task) {
            if !methods.contains(&row.method.as_str()) {
                methods.push(&row.method);
            }
        }
        for method in methods {
            let cell = |metric: &str| {
                let own = rows.iter().filter(|row| row.task == task && row.method == method && row.metric == metric);
                let values: Vec<f64> = own.filter_map(|row| row.value).collect();
                match values.len() {
                    0 => String::new(),
                    n => format!("{:.1}", 100.0 * values.iter().sum::<f64>() / n as f64),
                }
            };
            table.add_row([method.to_owned()].into_iter().chain(SUMMARY.iter().map(|(metric, _)| cell(metric))));
        }
        println!("{table}\n");
    }
    println!(
        "Means over seeds, in percent; docs/results.md defines them. Agreement where the weak model is wrong is copied errors.\n"
    );
}

fn print_p_ik(set: &ItemSet, examples: usize) {
    let pairs = set.pairs();
    let Setting { task, weak, strong } = &set.setting;
    println!("{task}, {weak} → {strong}, {}: P(IK) on {} test items of all seeds", set.method, pairs.len());
    const BINS: usize = 10;
    const WIDTH: usize = 30;
    let bins = histogram(&pairs, BINS);
    let most = bins.iter().flatten().copied().max().unwrap_or(0).max(1);
    let bar = |count: usize| "█".repeat((count * WIDTH).div_ceil(most));
    println!("  {:9}  {:>5} {:WIDTH$}  {:>5} right (IK)", "P(IK)", "wrong", "(IDK)", "");
    for (bin, [wrong, right]) in bins.iter().enumerate() {
        let low = bin as f64 / BINS as f64;
        println!("  {:.1} – {:.1}  {wrong:>5} {:WIDTH$}  {right:>5} {}", low, low + 0.1, bar(*wrong), bar(*right));
    }
    println!("  {:>5}  {:>8}  {:>18}", "γ", "coverage", "right where above");
    for at in over_gamma(&pairs, &GAMMAS) {
        let accuracy = at.accuracy.map_or("–".to_owned(), |accuracy| format!("{:.1} %", 100.0 * accuracy));
        println!("  {:>5}  {:>6.1} %  {accuracy:>18}", at.gamma, 100.0 * at.coverage);
    }
    let bins = reliability(&pairs, BINS);
    let line = |of: &dyn Fn(&ReliabilityBin) -> f64| -> String {
        bins.iter().map(|bin| format!("{:>6.1}", 100.0 * of(bin))).collect()
    };
    println!("  in {} bins of equal mass, %", bins.len());
    println!("  {:>10}{}", "mean P(IK)", line(&|bin| bin.predicted));
    println!("  {:>10}{}", "right", line(&|bin| bin.right));
    if let Some(Calibration { ece, sweep: (sweep, count), brier }) = calibration(&pairs) {
        let (ece, sweep) = (100.0 * ece, 100.0 * sweep);
        println!("  ECE {ece:.1} % over these bins, {sweep:.1} % by monotonic sweep ({count} bins); Brier {brier:.3}");
    }
    let mut order: Vec<&Item> = set.items.iter().collect();
    order.sort_by(|a, b| b.p_ik.total_cmp(&a.p_ik));
    for (what, shown) in [
        ("highest", order.iter().take(examples).collect::<Vec<_>>()),
        ("lowest", order.iter().rev().take(examples).collect()),
    ] {
        println!("  {what}:");
        for item in shown {
            let line: String = item.text.replace('\n', " ").chars().take(100).collect();
            println!("    {:.3} {} {line}", item.p_ik, if item.right { "right" } else { "wrong" });
        }
    }
    println!();
}
