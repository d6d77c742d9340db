//! `w2s compare`: methods against a baseline, with the tests that count.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    items,
    table::{print, read, recorded, results_of, room},
};
use crate::{
    Error, Result,
    report::{
        averages::suites,
        compare::{Answers, Arm, Comparison, averaged, compare},
        results::{CEILING, WEAK, is_end, is_weak},
        sheet::{Sheet, fill},
        statistics::{Bootstrap, Interval, STAR_SEEDS},
        table::{check_choice, in_order, line_title},
    },
    stage,
    strategy::Split,
    task::TaskData,
};
use clap::{Args, ValueEnum};

#[derive(Args)]
pub struct CompareArgs {
    /// The grid, or its results.csv
    config: PathBuf,
    /// Method that the others are compared with
    #[arg(long, value_name = "METHOD", default_value = "finetune")]
    against: String,
    #[command(flatten)]
    choice: Choice,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Level of the stars, over the whole table
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    level: f64,
    /// Resamples of the bootstrap
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    draws: usize,
    /// Output format
    #[arg(long, value_enum, default_value = "terminal")]
    format: CompareFormat,
}

/// Which of a run's results are looked at.
#[derive(Args, Clone, Default)]
pub struct Choice {
    /// Tasks, in order [default: all]
    #[arg(long, value_delimiter = ',', value_name = "TASK,…")]
    pub tasks: Vec<String>,
    /// Methods between weak and ceiling, in order [default: all]
    #[arg(long, value_delimiter = ',', value_name = "METHOD,…")]
    pub methods: Vec<String>,
    /// Seeds [default: all]
    #[arg(long, value_delimiter = ',', value_name = "SEED,…")]
    pub seeds: Vec<u64>,
}

impl Choice {
    /// Whether a result is among them; weak and ceiling always are, as far as the task is.
    pub fn has(&self, task: &str, method: &str, seed: u64) -> bool {
        let named = |list: &[String], name: &str| list.is_empty() || list.iter().any(|listed| listed == name);
        named(&self.tasks, task)
            && (named(&self.methods, method) || is_end(method))
            && (self.seeds.is_empty() || self.seeds.contains(&seed))
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum CompareFormat {
    Terminal,
    Markdown,
    Csv,
}

/// `w2s compare`.
pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    if !(args.level > 0.0 && args.level < 1.0 && (1..=1_000_000).contains(&args.draws)) {
        return Err(Error::new("`--level` lies between 0 and 1, `--draws` between 1 and 1000000"));
    }
    let path = results_of(&args.config, &args.results)?;
    let arms = arms(&path, &args.results.join(crate::stage::STORE), &args.choice, &args.against)?;
    let settings = Bootstrap { draws: args.draws, ..Bootstrap::default() };
    let compared = compare(&arms, &args.against, args.level, &settings)?;
    let titles = recorded(&path).titles;
    let title = |name: &str| titles.get(name).cloned().unwrap_or_else(|| name.to_owned());
    if args.format == CompareFormat::Csv {
        print(&full(&compared, &args.against).to_csv())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut places: Vec<(&str, &str, &str)> = Vec::new();
    for one in &compared {
        if !places.contains(&(&one.task, &one.weak, &one.strong)) {
            places.push((&one.task, &one.weak, &one.strong));
        }
    }
    for place in places {
        let here: Vec<&Comparison> = compared
            .iter()
            .filter(|one| (one.task.as_str(), one.weak.as_str(), one.strong.as_str()) == place)
            .collect();
        let [task, weak, strong] = [place.0, place.1, place.2].map(title);
        let heading = format!("{task}: {weak} → {strong}, against {}", line_title(&args.against, title));
        let mut sheet = short(&here, &title);
        match args.format {
            CompareFormat::Markdown => print(&format!("{heading}\n\n{}", sheet.to_markdown()))?,
            _ => {
                sheet.drop_empty();
                let heading = room().map_or_else(|| heading.clone(), |room| fill(&heading, room));
                print(&format!("{heading}\n\n{}", sheet.to_terminal(room())))?;
            }
        }
        println!();
    }
    notes(&compared, args);
    Ok(ExitCode::SUCCESS)
}

/// A p-value with three digits.
fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

fn percent(value: f64) -> String {
    let text = format!("{:.2}", 100.0 * value);
    if text == "-0.00" { "0.00".to_owned() } else { text }
}

fn bounds(interval: Option<Interval>) -> String {
    let Some(interval) = interval else { return "n/a".to_owned() };
    match (interval.value, interval.bounds) {
        (Some(value), Some((low, high))) => format!("{} [{}, {}]", percent(value), percent(low), percent(high)),
        (Some(value), None) => format!("{} [n/a]", percent(value)),
        (None, _) => "n/a".to_owned(),
    }
}

fn short(here: &[&Comparison], title: &dyn Fn(&str) -> String) -> Sheet {
    let header = [
        "method",
        "acc.",
        "difference [95 %]",
        "p",
        "p (Holm)",
        "",
        "p (t)",
        "p (Wilcoxon)",
        "p (sign flip)",
        "McNemar",
        "PGR [95 %]",
    ];
    let mut sheet = Sheet::new(1, header);
    for one in here {
        let candidate = !is_end(&one.method);
        let few = one.mcnemar.iter().filter(|p| **p <= 0.05).count();
        let name = line_title(&one.method, title);
        let option = |p: Option<f64>| p.map_or("–".to_owned(), p_value);
        sheet.push([
            name,
            percent(one.accuracy.mean),
            bounds(Some(one.bootstrap)),
            option(one.test.map(|test| test.p)),
            option(one.adjusted),
            if one.star { "★" } else { "" }.to_owned(),
            option(one.paired_t),
            p_value(one.wilcoxon),
            p_value(one.sign_flip),
            format!("{few}/{}", one.mcnemar.len()),
            if candidate { bounds(one.pgr) } else { String::new() },
        ]);
    }
    sheet
}

/// Everything in full precision, one line per comparison.
fn full(compared: &[Comparison], against: &str) -> Sheet {
    let header = [
        "task",
        "weak",
        "strong",
        "method",
        "against",
        "seeds",
        "items",
        "shared_items",
        "accuracy",
        "difference",
        "difference_low",
        "difference_high",
        "t_low",
        "t_high",
        "p",
        "p_holm",
        "star",
        "p_paired_t",
        "p_wilcoxon",
        "p_sign_flip",
        "p_mcnemar",
        "pgr",
        "pgr_low",
        "pgr_high",
    ];
    let mut sheet = Sheet::new(header.len(), header);
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for one in compared {
        let interval = |interval: Option<Interval>| {
            let bounds = interval.and_then(|interval| interval.bounds);
            [number(bounds.map(|bounds| bounds.0)), number(bounds.map(|bounds| bounds.1))]
        };
        let t = one.test.map(|test| test.interval(0.95));
        let mut row = [&one.task, &one.weak, &one.strong, &one.method].map(Clone::clone).to_vec();
        row.extend([
            against.to_owned(),
            one.seeds.len().to_string(),
            one.items.to_string(),
            one.shared_items.to_string(),
        ]);
        row.extend([one.accuracy.mean.to_string(), one.difference.to_string()]);
        row.extend(interval(Some(one.bootstrap)));
        row.extend([number(t.map(|t| t.0)), number(t.map(|t| t.1))]);
        row.extend([number(one.test.map(|test| test.p)), number(one.adjusted), one.star.to_string()]);
        row.extend([number(one.paired_t), one.wilcoxon.to_string(), one.sign_flip.to_string()]);
        row.push(one.mcnemar.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
        row.push(number(one.pgr.and_then(|pgr| pgr.value)));
        row.extend(interval(one.pgr));
        sheet.push(row);
    }
    sheet
}

fn notes(compared: &[Comparison], args: &CompareArgs) {
    let seeds: BTreeSet<usize> = compared.iter().map(|one| one.seeds.len()).collect();
    let seeds: Vec<String> = seeds.iter().map(usize::to_string).collect();
    let mut lines = vec![format!(
        "Percent. Intervals: bootstrap over seeds and test items, {} draws; PGR of the mean accuracies. Seeds: {}.",
        args.draws,
        seeds.join(", ")
    )];
    if compared.iter().any(|one| one.shared_items) {
        lines.push(
            "p: t-test over seeds and the items they share. The next three look at seeds alone and take luck with the items for skill."
                .to_owned(),
        );
    }
    if compared.iter().any(|one| !one.shared_items) {
        lines.push("Where seeds are tested on different items, p is the paired t-test over seeds.".to_owned());
    }
    lines.push(
        "p (Holm): corrected over all methods and tasks here. McNemar: seeds with p ≤ 0.05 by the exact test."
            .to_owned(),
    );
    lines.push(format!(
        "★: at least {STAR_SEEDS} seeds and p (Holm) ≤ {}. docs/results.md has the reasons.",
        args.level
    ));
    for line in lines {
        println!("{}", room().map_or_else(|| line.clone(), |room| fill(&line, room)));
    }
}

/// What the chosen cells of a finished run answered, and those of the method that others are compared with.
///
/// # Errors
/// A run without its record, or whose stages are gone.
pub fn arms(results: &Path, store: &Path, choice: &Choice, against: &str) -> Result<Vec<Arm>> {
    // The rows say which cells are there; the stages, what was answered item by item.
    let rows = read(results)?;
    check_choice("task", &choice.tasks, &in_order(&rows, |row| row.task.clone()))?;
    check_choice("method", &choice.methods, &in_order(&rows, |row| row.method.clone()))?;
    check_choice("seed", &choice.seeds, &in_order(&rows, |row| row.seed))?;
    let cells = items::cells(results)?;
    items::check_stages(&cells, store)?;
    // Rows of a stage name it.
    let supervisors: BTreeMap<_, &str> = rows
        .iter()
        .filter(|row| is_weak(&row.method))
        .map(|row| ([&row.config_hash, &row.task, &row.weak, &row.strong].map(String::as_str), row.method.as_str()))
        .collect();
    let there: BTreeSet<(&str, &str, u64, &str, &str)> = rows
        .iter()
        .map(|row| (row.task.as_str(), row.method.as_str(), row.seed, row.weak.as_str(), row.strong.as_str()))
        .collect();
    let suites = suites(&rows);
    // An average needs all the tasks of its suite.
    let chosen = |task: &str, method: &str, seed: u64| {
        let of_suite =
            |(suite, tasks): (&&str, &BTreeSet<&str>)| tasks.contains(task) && choice.has(suite, method, seed);
        choice.has(task, method, seed) || suites.iter().any(of_suite)
    };
    let mut arms: Vec<Arm> = Vec::new();
    let mut data: BTreeMap<String, (Vec<(u64, u32)>, stage::Truth)> = BTreeMap::new();
    for cell in &cells {
        let text = |key: &str| cell[key].as_str().unwrap_or_default();
        let seed = cell["seed"].as_u64().unwrap_or_default();
        if !chosen(text("task"), text("method"), seed) && !chosen(text("task"), WEAK, seed) {
            continue;
        }
        if !data.contains_key(text("data_stage")) {
            data.insert(text("data_stage").to_owned(), test_items(&store.join(text("data_stage")))?);
        }
        let (items, truth) = &data[text("data_stage")];
        let supervisor = ["supervision", "task", "weak", "strong"].map(text);
        let supervisor = supervisors.get(&supervisor).copied().unwrap_or(WEAK);
        for (method, stage) in [(supervisor, "supervision"), (text("method"), "student"), (CEILING, "ceiling")] {
            let is_there = there.contains(&(text("task"), method, seed, text("weak"), text("strong")));
            let same = |arm: &Arm| {
                [&arm.task, &arm.weak, &arm.strong, &arm.method] == [text("task"), text("weak"), text("strong"), method]
            };
            let index = arms.iter().position(same).unwrap_or(arms.len());
            if index == arms.len() {
                let [task, weak, strong] = ["task", "weak", "strong"].map(|key| text(key).to_owned());
                let (method, supervisor) = (method.to_owned(), supervisor.to_owned());
                arms.push(Arm { task, weak, strong, method, supervisor, answers: BTreeMap::new() });
            }
            let folder = store.join(text(stage));
            if !is_there
                || method != against && !chosen(text("task"), method, seed)
                || arms[index].answers.contains_key(&seed)
                || !folder.join("manifest.json").is_file()
            {
                continue;
            }
            let right = stage::Labels::read(&folder, Split::Test)?.right(truth);
            let right = right.into_iter().map(|right| f32::from(u8::from(right)));
            let answers: Answers = items.iter().copied().zip(right).collect();
            arms[index].answers.insert(seed, answers);
        }
    }
    arms.retain(|arm| !arm.answers.is_empty());
    let averages: Vec<Arm> = suites.iter().flat_map(|(suite, tasks)| averaged(&arms, suite, tasks)).collect();
    arms.extend(averages);
    arms.retain(|arm| choice.tasks.is_empty() || choice.tasks.contains(&arm.task));
    arms.sort_by_key(|arm| match arm.method.as_str() {
        method if is_weak(method) => 0,
        CEILING => 2,
        _ => 1,
    });
    Ok(arms)
}

/// Test items, each by the hash of its text and which of those with that text it is, and what is true of them.
fn test_items(data: &Path) -> Result<(Vec<(u64, u32)>, stage::Truth)> {
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    let data = TaskData::read(data)?;
    let items = data.test.iter().map(|example| {
        let hash = blake3::hash(example.text.as_bytes());
        let hash = hash.as_bytes().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let which = seen.entry(hash).or_default();
        *which += 1;
        (hash, *which)
    });
    Ok((items.collect(), stage::Truth::of(&data, Split::Test)?))
}
