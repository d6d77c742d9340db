//! `w2s analyse`: a finished run, looked into.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use comfy_table::{LineStyle, TableStyle};
use serde_json::Value;

use super::run::results_of;
use crate::{
    Error, Result,
    report::{
        analysis::{histogram, over_gamma, signatures},
        metrics,
        results::{ResultRow, read},
    },
    stage,
    strategy::Split,
    task::TaskData,
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
const SUMMARY: [(&str, &str); 12] = [
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
    ("agreement_weak_wrong", "copied errors"),
];

/// Thresholds of the table over γ.
const GAMMAS: [f64; 8] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];

/// One test item: P(IK), whether the strong model's own answer is right, and where it stands.
struct Item {
    p_ik: f32,
    right: bool,
    text: String,
}

/// `w2s analyse`.
pub fn analyse(args: &AnalyseArgs) -> Result<ExitCode> {
    let path = results_of(&args.config, &args.results)?;
    let rows = read(&path)?;
    print_summary(&rows);
    let items = items(&path, &args.results.join("stages"))?;
    for ((task, method), items) in &items {
        print_p_ik(task, method, items, args.examples);
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
    println!("Means over seeds, in percent; docs/results.md defines them.\n");
}

/// Test items of every task and method with P(IK), over all seeds.
fn items(results: &Path, store: &Path) -> Result<BTreeMap<(String, String), Vec<Item>>> {
    let path = results.with_file_name("grid.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Error::new(format!("cannot read the record of the run: {error}")).in_file(&path))?;
    let record: Value = serde_json::from_str(&text)
        .map_err(|error| Error::new(format!("not the record of a run: {error}")).in_file(&path))?;
    let mut all: BTreeMap<(String, String), Vec<Item>> = BTreeMap::new();
    for cell in record["cells"].as_array().into_iter().flatten() {
        let text = |key: &str| cell[key].as_str().unwrap_or_default();
        let file = store.join(text("student")).join(stage::P_IK_TEST);
        if !file.is_file() {
            continue;
        }
        let knows = stage::Predictions::read(&file)?.into_rows();
        let answers = store.join(text("answers")).join(stage::Predictions::file(Split::Test));
        let answers = stage::Predictions::read(&answers)?.into_rows();
        let data = TaskData::read(&store.join(text("data_stage")))?;
        let entry = all.entry((text("task").to_owned(), text("method").to_owned())).or_default();
        for ((knows, answer), example) in knows.iter().zip(&answers).zip(&data.test) {
            entry.push(Item {
                p_ik: knows[1],
                right: metrics::argmax(answer) == example.label,
                text: example.text.clone(),
            });
        }
    }
    Ok(all)
}

fn print_p_ik(task: &str, method: &str, items: &[Item], examples: usize) {
    let pairs: Vec<(f32, bool)> = items.iter().map(|item| (item.p_ik, item.right)).collect();
    println!("{task}, {method}: P(IK) on {} test items of all seeds", items.len());
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
    let mut order: Vec<&Item> = items.iter().collect();
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
