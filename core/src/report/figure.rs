//! Figures of a finished run as SVG: plain data in, text out. docs/figures.md says what each kind shows.
//!
//! Every function gives an error with a remedy where the data hold nothing to draw, so that no empty figure is ever written.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::{IndexMap, IndexSet};

use super::{
    analysis::{calibration, histogram, over_gamma, reliability},
    chart::{Axis, COLOURS, GREY, Key, Mark, Panel, Point, SHAPES, Series, Shape, Sheet, fitted, step, svg},
    metrics::{ACCURACY, Part},
    results::{CEILING, FURTHER_WEAK, ResultRow, Status, WEAK, is_end, is_weak},
    statistics::{Summary, wilson},
};
use crate::{Error, Result, strategy::Split};

/// Titles of tasks, models and methods, by name.
pub type Titles = BTreeMap<String, String>;

/// A task and a pair of models.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Setting {
    /// Name of the task.
    pub task: String,
    /// Name of the weak model.
    pub weak: String,
    /// Name of the strong model.
    pub strong: String,
}

/// P(IK) on the test items of one setting and method.
#[derive(Clone, Debug, PartialEq)]
pub struct KnowledgeSet {
    /// Task and pair.
    pub setting: Setting,
    /// Name of the method.
    pub method: String,
    /// Root seeds.
    pub seeds: BTreeSet<u64>,
    /// P(IK), and whether the strong model's own answer is right; the items of all seeds.
    pub items: Vec<(f32, bool)>,
}

/// One fact of a generated world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fact {
    /// How often the strong model's pretraining text tells it.
    pub told: u32,
    /// Share of its questions that the strong model answers right before any fine-tuning.
    pub strong: f64,
    /// Share that the weak supervisor answers right.
    pub weak: Option<f64>,
}

/// The facts that a task on a generated world asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct FactSet {
    /// Task and pair.
    pub setting: Setting,
    /// Root seeds.
    pub seeds: BTreeSet<u64>,
    /// Questions about them, each counted once.
    pub questions: usize,
    /// The facts.
    pub facts: Vec<Fact>,
}

/// Width and height of a panel, and of one with long names below.
const CELL: (f64, f64) = (340.0, 280.0);
const TALL: (f64, f64) = (430.0, 400.0);
const PERCENT: (f64, f64) = (0.0, 100.0);
const UNIT: (f64, f64) = (0.0, 1.0);

/// A method's name without its last changes, and each change: `selective selector.gamma=0.5` is `selective` with `selector.gamma` at 0.5.
fn changes(method: &str) -> (&str, Vec<(&str, &str)>) {
    let mut words = method.split(' ');
    let base = words.next().unwrap_or_default();
    let changes: Option<Vec<_>> = words.map(|word| word.split_once('=')).collect();
    match changes {
        Some(changes) => (base, changes),
        None => (method, vec![]),
    }
}

/// Whether a method is one of a sweep, named `BASE KEY=VALUE`.
pub fn is_variant(method: &str) -> bool {
    !changes(method).1.is_empty()
}

fn nothing(what: &str, help: &str) -> Error {
    Error::new(format!("nothing to draw: {what}")).help(help)
}

/// Settings in the order of their first appearance.
fn settings<'a>(all: impl Iterator<Item = &'a Setting>) -> Vec<&'a Setting> {
    let mut found: Vec<&Setting> = Vec::new();
    for setting in all {
        if !found.contains(&setting) {
            found.push(setting);
        }
    }
    found
}

/// What settings and methods are called.
struct Names<'a> {
    titles: &'a Titles,
    /// Whether there is more than one pair, so that it has to be said.
    pairs: bool,
}

impl<'a> Names<'a> {
    fn new(titles: &'a Titles, settings: &[&Setting]) -> Self {
        let pairs: BTreeSet<_> = settings.iter().map(|setting| (&setting.weak, &setting.strong)).collect();
        Self { titles, pairs: pairs.len() > 1 }
    }

    fn title<'n>(&'n self, name: &'n str) -> &'n str {
        self.titles.get(name).map_or(name, String::as_str)
    }

    fn method(&self, name: &str) -> String {
        let (base, _) = changes(name);
        match self.titles.get(name) {
            Some(title) => title.clone(),
            None => name.replacen(base, self.title(base), 1),
        }
    }

    fn setting(&self, setting: &Setting) -> String {
        let task = self.title(&setting.task);
        match self.pairs {
            true => format!("{task}, {} → {}", self.title(&setting.weak), self.title(&setting.strong)),
            false => task.to_owned(),
        }
    }
}

/// `seed 0`, `seeds 0, 1, 4`, `seeds 0–9`.
fn seeds_in_words(seeds: &BTreeSet<u64>) -> String {
    let list: Vec<String> = seeds.iter().map(u64::to_string).collect();
    match (seeds.first(), seeds.last()) {
        (Some(first), Some(last)) if seeds.len() > 2 && last - first + 1 == seeds.len() as u64 => {
            format!("seeds {first}–{last}")
        }
        _ if seeds.len() == 1 => format!("seed {}", list[0]),
        _ => format!("seeds {}", list.join(", ")),
    }
}

/// `900`, or `450 to 900`.
fn range_in_words(counts: impl Iterator<Item = usize> + Clone) -> String {
    match (counts.clone().min(), counts.max()) {
        (Some(low), Some(high)) if low != high => format!("{low} to {high}"),
        (Some(low), _) => low.to_string(),
        _ => "0".to_owned(),
    }
}

fn key(name: &str, colour: usize, mark: Mark) -> Key {
    Key { name: name.to_owned(), colour: COLOURS[colour % COLOURS.len()], mark }
}

fn axis(title: &str, range: (f64, f64), step: f64) -> Axis {
    Axis { title: title.to_owned(), range, step, ..Axis::default() }
}

/// One panel per setting and method: methods below each other, settings side by side.
fn knowledge(
    sets: &[KnowledgeSet],
    titles: &Titles,
    title: &str,
    caption: &str,
    draw: impl Fn(&KnowledgeSet) -> (String, Axis, Axis, Vec<Series>),
) -> Result<String> {
    let sets: Vec<&KnowledgeSet> = sets.iter().filter(|set| !set.items.is_empty()).collect();
    if sets.is_empty() {
        return Err(nothing(
            "no method of this run has P(IK)",
            "add one that learns it, such as `selective`; docs/selective.md says how",
        ));
    }
    let settings = settings(sets.iter().map(|set| &set.setting));
    let names = Names::new(titles, &settings);
    let mut methods: Vec<&str> = Vec::new();
    for set in &sets {
        if !methods.contains(&set.method.as_str()) {
            methods.push(&set.method);
        }
    }
    let mut panels = Vec::new();
    for method in &methods {
        for setting in &settings {
            let set = sets.iter().find(|set| set.method == *method && set.setting == **setting);
            panels.extend(set.map(|set| {
                let (subtitle, x, y, series) = draw(set);
                let subtitle = format!("{}; {subtitle}; {}", names.setting(setting), seeds_in_words(&set.seeds));
                Panel { title: names.method(method), subtitle, x, y, series, levels: vec![] }
            }));
        }
    }
    let columns = match settings.len() {
        1 => 3,
        n => n.min(4),
    };
    let caption = caption.to_owned();
    Ok(svg(&Sheet { title: title.to_owned(), caption, columns, cell: CELL, panels }))
}

/// `p-ik`: histograms of P(IK) on test items, where the strong model's own answer is right (IK) and where it is wrong (IDK); figure 2 of
/// Selective W2SG (arXiv 2511.14166).
///
/// # Errors
/// No method with P(IK).
pub fn p_ik(sets: &[KnowledgeSet], titles: &Titles) -> Result<String> {
    const BINS: usize = 10;
    let shares = |set: &KnowledgeSet| -> ([usize; 2], Vec<[f64; 2]>) {
        let bins = histogram(&set.items, BINS);
        let totals = [0, 1].map(|kind| bins.iter().map(|bin| bin[kind]).sum::<usize>());
        let share = |bin: &[usize; 2]| [0, 1].map(|kind| 100.0 * bin[kind] as f64 / totals[kind].max(1) as f64);
        (totals, bins.iter().map(share).collect())
    };
    let most = sets.iter().flat_map(|set| shares(set).1).flatten().fold(0.0, f64::max);
    let y = fitted("share of items of the kind (%)", [0.0, most].into_iter(), PERCENT);
    knowledge(
        sets,
        titles,
        "P(IK) where the strong model's own answer is right and where it is wrong",
        "Share of the right (IK) and of the wrong (IDK) test items in each tenth of P(IK); items of all seeds together.",
        |set| {
            let ([wrong, right], shares) = shares(set);
            let bars = |kind: usize, shift: f64| {
                let middle = |bin: usize| (bin as f64 + 0.5) / BINS as f64 + shift;
                let point = |(bin, share): (usize, &[f64; 2])| Point { x: middle(bin), y: share[kind], error: None };
                shares.iter().enumerate().map(point).collect()
            };
            let series = vec![
                Series { key: key("IDK: own answer wrong", 1, Mark::Bars(0.04)), points: bars(0, -0.02) },
                Series { key: key("IK: own answer right", 0, Mark::Bars(0.04)), points: bars(1, 0.02) },
            ];
            (format!("{right} IK, {wrong} IDK items"), axis("P(IK)", UNIT, 0.2), y.clone(), series)
        },
    )
}

/// `coverage`: the share of test items above a threshold γ of P(IK), and the accuracy of the strong model's own answers there.
///
/// # Errors
/// No method with P(IK).
pub fn coverage(sets: &[KnowledgeSet], titles: &Titles) -> Result<String> {
    let gammas: Vec<f64> = (0..20).map(|step| f64::from(step) / 20.0).chain([0.99]).collect();
    knowledge(
        sets,
        titles,
        "What is trusted above a threshold γ of P(IK), and how often it is right",
        "Test items, all seeds together. Accuracy is drawn where any item is above γ; its bars are Wilson's 95 % intervals over items.",
        |set| {
            let curve = over_gamma(&set.items, &gammas);
            let part = |share: f64| Point { y: 100.0 * share, ..Point::default() };
            let covered = curve.iter().map(|at| Point { x: at.gamma, ..part(at.coverage) }).collect();
            let right = curve.iter().filter_map(|at| {
                let accuracy = at.accuracy?;
                let n = (at.coverage * set.items.len() as f64).round() as usize;
                Some(Point { x: at.gamma, error: Some(bars(accuracy, n)), ..part(accuracy) })
            });
            let series = vec![
                Series {
                    key: key("coverage: share of items above γ", 0, Mark::Joined(Shape::Circle)),
                    points: covered,
                },
                Series {
                    key: key("accuracy of own answers above γ", 1, Mark::Joined(Shape::Square)),
                    points: right.collect(),
                },
            ];
            let n = set.items.len();
            (format!("{n} items"), axis("γ", UNIT, 0.2), axis("test items (%)", PERCENT, 20.0), series)
        },
    )
}

/// How far Wilson's interval reaches below and above a rate, in percent.
fn bars(rate: f64, n: usize) -> (f64, f64) {
    let (low, high) = wilson(rate, n);
    (100.0 * (rate - low).max(0.0), 100.0 * (high - rate).max(0.0))
}

/// `reliability`: the share of right answers over mean P(IK), in ten bins of equal mass, with the diagonal.
///
/// # Errors
/// No method with P(IK).
pub fn reliability_curve(sets: &[KnowledgeSet], titles: &Titles) -> Result<String> {
    knowledge(
        sets,
        titles,
        "Reliability of P(IK)",
        "Test items of all seeds in ten bins of equal mass; bars are Wilson's 95 % intervals over items. Above the diagonal P(IK) is \
         underconfident. ECE: mean distance from the diagonal over these bins.",
        |set| {
            let bins = reliability(&set.items, 10);
            let points = bins.iter().map(|bin| {
                let error = Some(bars(bin.right, bin.n));
                Point { x: 100.0 * bin.predicted, y: 100.0 * bin.right, error }
            });
            let ends = [0.0, 100.0].map(|at| Point { x: at, y: at, error: None });
            let diagonal = Key { name: "calibrated".to_owned(), colour: GREY, mark: Mark::Dashed };
            let series = vec![
                Series { key: diagonal, points: ends.to_vec() },
                Series { key: key("P(IK)", 0, Mark::Joined(Shape::Circle)), points: points.collect() },
            ];
            let found = calibration(&set.items).map(|c| format!(", ECE {:.1} %, Brier {:.3}", 100.0 * c.ece, c.brier));
            let subtitle = format!("{} items{}", set.items.len(), found.unwrap_or_default());
            (subtitle, axis("mean P(IK) (%)", PERCENT, 20.0), axis("own answer right (%)", PERCENT, 20.0), series)
        },
    )
}

/// Test accuracies in percent by setting and method, with seeds.
struct Accuracies {
    settings: Vec<Setting>,
    /// By setting: methods in the order of the results.
    methods: Vec<Vec<(String, BTreeMap<u64, f64>)>>,
    seeds: BTreeSet<u64>,
    items: Vec<usize>,
}

impl Accuracies {
    fn of(rows: &[ResultRow]) -> Self {
        Self::of_metric(rows, Split::Test, ACCURACY)
    }

    /// Another metric of a split, in percent.
    fn of_metric(rows: &[ResultRow], split: Split, metric: &str) -> Self {
        let mut all = Self { settings: vec![], methods: vec![], seeds: BTreeSet::new(), items: vec![] };
        let wanted = |row: &&ResultRow| {
            row.split == split && row.metric == metric && row.status == Status::Ok && row.step.is_none()
        };
        for row in rows.iter().filter(wanted) {
            let Some(value) = row.value else { continue };
            let setting = Setting { task: row.task.clone(), weak: row.weak.clone(), strong: row.strong.clone() };
            let place = all.settings.iter().position(|known| *known == setting).unwrap_or_else(|| {
                all.settings.push(setting);
                all.methods.push(vec![]);
                all.settings.len() - 1
            });
            let methods = &mut all.methods[place];
            let method = methods.iter().position(|(name, _)| *name == row.method).unwrap_or_else(|| {
                methods.push((row.method.clone(), BTreeMap::new()));
                methods.len() - 1
            });
            methods[method].1.insert(row.seed, 100.0 * value);
            all.seeds.insert(row.seed);
            all.items.push(row.n as usize);
        }
        all
    }

    fn get(&self, setting: usize, method: &str) -> Option<&BTreeMap<u64, f64>> {
        self.methods[setting].iter().find(|(name, _)| name == method).map(|(_, values)| values)
    }

    fn caption(&self) -> String {
        self.caption_of("Test accuracy", "items")
    }

    fn caption_of(&self, what: &str, of: &str) -> String {
        let (seeds, items) = (seeds_in_words(&self.seeds), range_in_words(self.items.iter().copied()));
        let spread = if self.seeds.len() > 1 {
            "points are means over seeds, bars ± one standard deviation s over seeds"
        } else {
            "one seed, so no spread is known"
        };
        let mut caption = format!("{what} on {items} {of}, {seeds}; {spread}.");
        let counts = self.methods.iter().flatten().map(|(_, values)| values.len());
        if counts.clone().min() != counts.clone().max() {
            caption.push_str(&format!(" Not every method has every seed: {} of them.", range_in_words(counts)));
        }
        caption
    }
}

fn mean_and_s(x: f64, values: &BTreeMap<u64, f64>) -> Option<Point> {
    let values: Vec<f64> = values.values().copied().collect();
    let summary = Summary::of(&values)?;
    Some(Point { x, y: summary.mean, error: summary.s.map(|s| (s, s)) })
}

/// `pgr`: test accuracy of every method between the weak model and the ceiling, a panel per task and pair.
///
/// # Errors
/// No test accuracy of a method.
pub fn pgr(rows: &[ResultRow], titles: &Titles) -> Result<String> {
    let all = Accuracies::of(rows);
    let names = Names::new(titles, &all.settings.iter().collect::<Vec<_>>());
    let seen: BTreeSet<&str> = rows.iter().filter(|row| row.truth_used).map(|row| row.method.as_str()).collect();
    let mut panels = Vec::new();
    let mut dagger = false;
    for (place, setting) in all.settings.iter().enumerate() {
        let methods = all.methods[place].iter().filter(|(name, _)| !is_end(name));
        let methods: Vec<_> = methods.collect();
        if methods.is_empty() {
            continue;
        }
        let (mut dots, mut means, mut labels) = (vec![], vec![], vec![]);
        for (number, (name, values)) in (1u32..).zip(&methods) {
            let x = f64::from(number);
            dots.extend(values.values().map(|&y| Point { x, y, error: None }));
            means.extend(mean_and_s(x, values));
            let saw_truth = seen.contains(name.as_str());
            dagger |= saw_truth;
            labels.push(format!("{}{}", names.method(name), if saw_truth { " †" } else { "" }));
        }
        let weak = all.methods[place].iter().map(|(name, _)| name.as_str()).filter(|name| is_weak(name));
        // The first supervisor has the colour of weak models, further ones have those that nothing else has.
        let ends = weak.zip([1, 3, 4, 5, 6].into_iter().cycle()).map(|(name, colour)| (name, colour, Mark::Dashed));
        let levels: Vec<(f64, Key)> = ends
            .chain([(CEILING, 2, Mark::Dotted)])
            .filter_map(|(name, colour, mark)| {
                let mean = mean_and_s(0.0, all.get(place, name)?)?.y;
                let called = match name.strip_prefix(FURTHER_WEAK) {
                    Some(supervisor) => format!("weak: {supervisor}"),
                    None if name == WEAK => "weak model".to_owned(),
                    None => "ceiling".to_owned(),
                };
                Some((mean, key(&format!("{called} (mean)"), colour, mark)))
            })
            .collect();
        let reach = means.iter().flat_map(|point| {
            let (below, above) = point.error.unwrap_or_default();
            [point.y - below, point.y + above]
        });
        let values = dots.iter().map(|point| point.y).chain(reach).chain(levels.iter().map(|(value, _)| *value));
        let y = fitted("test accuracy (%)", values, PERCENT);
        let x = Axis { range: (0.4, methods.len() as f64 + 0.6), names: labels, ..Axis::default() };
        let single = Key { name: "one seed".to_owned(), colour: GREY, mark: Mark::Points(Shape::Dot) };
        let called = if all.seeds.len() > 1 { "method: mean ± s over seeds" } else { "method" };
        let mean = key(called, 0, Mark::Points(Shape::Circle));
        let mut series = vec![Series { key: mean, points: means }];
        if all.seeds.len() > 1 {
            series.insert(0, Series { key: single, points: dots });
        }
        panels.push(Panel { title: names.setting(setting), subtitle: String::new(), x, y, series, levels });
    }
    if panels.is_empty() {
        return Err(nothing("no method has a test accuracy", "let `w2s run` finish at least one cell"));
    }
    let mut caption = all.caption();
    if dagger {
        caption.push_str(" † saw ground truth of the student's examples: a control, no method.");
    }
    let title = "Students between their weak supervisor and the ceiling".to_owned();
    Ok(svg(&Sheet { title, caption, columns: 3, cell: TALL, panels }))
}

/// Parts of the consistency partition, as results call them and as the figure does, with their colours; the first stands lowest.
const PARTITION: [(Part, &str, usize); 5] = [
    (Part::BothRight, "both right", 2),
    (Part::OnlyMethodRight, "the method alone right", 0),
    (Part::OnlyWeakRight, "the weak model alone right", 4),
    (Part::SameError, "the same error", 1),
    (Part::DifferentErrors, "different errors", 3),
];

/// Bars of a panel, each with its name and how much of it, in percent, is of each part of [`PARTITION`].
fn stacked(bars: Vec<(String, [f64; 5])>, title: String, what: &str) -> Panel {
    let mut series = Vec::new();
    for (place, (_, called, colour)) in PARTITION.into_iter().enumerate() {
        let top = |(x, (_, parts)): (u32, &(String, [f64; 5]))| {
            let y = parts[..=place].iter().sum();
            Point { x: f64::from(x), y, error: None }
        };
        series.push(Series { key: key(called, colour, Mark::Bars(0.7)), points: (1..).zip(&bars).map(top).collect() });
    }
    // Each bar reaches from the ground to the top of its part: the highest is drawn first.
    series.reverse();
    let names: Vec<String> = bars.into_iter().map(|(name, _)| name).collect();
    let x = Axis { range: (0.4, names.len() as f64 + 0.6), names, ..Axis::default() };
    Panel { title, subtitle: String::new(), x, y: axis(what, PERCENT, 20.0), series, levels: vec![] }
}

/// The parts of [`PARTITION`], each with a metric of it, in percent.
fn of_parts(rows: &[ResultRow], split: Split, metric: fn(Part) -> &'static str) -> [Accuracies; 5] {
    PARTITION.map(|(part, ..)| Accuracies::of_metric(rows, split, metric(part)))
}

/// `partition`: shares of test items on which a method and its weak supervisor are right, or wrong in the same way (multi-capabilities W2SG,
/// Figures 5 and 6), a stacked bar per method, a panel per task and pair.
///
/// # Errors
/// No method with a partition.
pub fn partition(rows: &[ResultRow], titles: &Titles) -> Result<String> {
    let shares = of_parts(rows, Split::Test, Part::metric);
    let all = &shares[0];
    let names = Names::new(titles, &all.settings.iter().collect::<Vec<_>>());
    let mut panels = Vec::new();
    for (place, setting) in all.settings.iter().enumerate() {
        let bar = |method: &str| {
            let mean = |share: &Accuracies| {
                let values = share.get(share.settings.iter().position(|known| known == setting)?, method)?;
                mean_and_s(0.0, values).map(|mean| mean.y)
            };
            (names.method(method), shares.each_ref().map(|share| mean(share).unwrap_or(0.0)))
        };
        let methods = all.methods[place].iter().map(|(name, _)| name.as_str()).filter(|name| !is_end(name));
        let bars: Vec<_> = methods.map(bar).collect();
        if !bars.is_empty() {
            panels.push(stacked(bars, names.setting(setting), "share of test items (%)"));
        }
    }
    if panels.is_empty() {
        return Err(nothing("no method has a partition", "let `w2s run` finish at least one cell"));
    }
    let (title, caption) = ("What method and weak supervisor have right".to_owned(), all.caption());
    Ok(svg(&Sheet { title, caption, columns: 3, cell: TALL, panels }))
}

/// `kept`: the student's examples by who had them right before it learnt from them, the strong model by itself or the weak supervisor, and what a
/// method keeps of each part (multi-capabilities W2SG, Figure 12): two stacked bars per method, a panel per task and pair.
///
/// # Errors
/// No method that leaves examples out and knows the strong model's own answers.
pub fn kept(rows: &[ResultRow], titles: &Titles) -> Result<String> {
    let sizes = of_parts(rows, Split::Transfer, Part::metric);
    let shares = of_parts(rows, Split::Transfer, Part::kept);
    let all = &sizes[0];
    let names = Names::new(titles, &all.settings.iter().collect::<Vec<_>>());
    let mut panels = Vec::new();
    for (place, setting) in all.settings.iter().enumerate() {
        let mut bars = Vec::new();
        for (method, _) in &all.methods[place] {
            let of = |share: &Accuracies, seed: u64| {
                let place = share.settings.iter().position(|known| known == setting)?;
                share.get(place, method)?.get(&seed).copied()
            };
            let over_seeds = |value: &dyn Fn(usize, u64) -> f64| -> [f64; 5] {
                let seeds: Vec<u64> = all.get(place, method).into_iter().flatten().map(|(seed, _)| *seed).collect();
                let mean = |part| seeds.iter().map(|seed| value(part, *seed)).sum::<f64>() / seeds.len().max(1) as f64;
                std::array::from_fn(mean)
            };
            let size = |part: usize, seed: u64| of(&sizes[part], seed).unwrap_or(0.0);
            let kept = |part: usize, seed: u64| size(part, seed) * of(&shares[part], seed).unwrap_or(0.0) / 100.0;
            bars.push((format!("{}: all", names.method(method)), over_seeds(&size)));
            bars.push((format!("{}: kept", names.method(method)), over_seeds(&kept)));
        }
        panels.push(stacked(bars, names.setting(setting), "share of examples (%)"));
    }
    if panels.is_empty() {
        let remedy = "those with the selector `agreement` do, such as `consistent`";
        return Err(nothing("no method leaves examples out by what the strong model answers", remedy));
    }
    let caption = all.caption_of("Weak labels and the strong model's own answers", "examples");
    let title = "What is kept of the examples that either had right".to_owned();
    Ok(svg(&Sheet { title, caption, columns: 3, cell: TALL, panels }))
}

/// `retention`: the share of its examples that a method learns from, and how often their labels are right (multi-capabilities W2SG, Figure 11); a
/// panel per task and pair, with the methods whose decisions are known.
///
/// # Errors
/// No method that leaves examples out.
pub fn retention(rows: &[ResultRow], titles: &Titles) -> Result<String> {
    let kept = Accuracies::of_metric(rows, Split::Transfer, "kept");
    let right = Accuracies::of_metric(rows, Split::Transfer, "label_accuracy");
    let names = Names::new(titles, &right.settings.iter().collect::<Vec<_>>());
    let mut panels = Vec::new();
    for (place, setting) in right.settings.iter().enumerate() {
        let Some(own) = kept.settings.iter().position(|known| known == setting) else { continue };
        let (mut bars, mut means, mut labels) = (vec![], vec![], vec![]);
        for (number, (method, values)) in (1u32..).zip(&right.methods[place]) {
            let x = f64::from(number);
            // Who leaves nothing out says nothing of it.
            let share = kept.get(own, method).and_then(|shares| mean_and_s(x, shares));
            bars.push(Point { x, y: share.map_or(100.0, |share| share.y), error: None });
            means.extend(mean_and_s(x, values));
            labels.push(names.method(method));
        }
        let series = vec![
            Series {
                key: Key { name: "examples that are kept".to_owned(), colour: GREY, mark: Mark::Bars(0.7) },
                points: bars,
            },
            Series { key: key("right labels among them", 0, Mark::Points(Shape::Circle)), points: means },
        ];
        let x = Axis { range: (0.4, labels.len() as f64 + 0.6), names: labels, ..Axis::default() };
        let y = axis("share (%)", PERCENT, 20.0);
        panels.push(Panel { title: names.setting(setting), subtitle: String::new(), x, y, series, levels: vec![] });
    }
    if panels.is_empty() {
        return Err(nothing("no method leaves examples out", "methods with the selector `agreement` or a judge do"));
    }
    let caption = right.caption_of("Labels that students were trained towards", "examples");
    let title = "What students learn from, and how much of it is right".to_owned();
    Ok(svg(&Sheet { title, caption, columns: 3, cell: TALL, panels }))
}

/// `sizes`: test accuracy over the strong model, in the order of the grid's pairs (multi-capabilities W2SG, Figures 1, 2, 8 and 13): a line for
/// each method and weak model, and one for the ceiling; a panel per task.
///
/// # Errors
/// Not two strong models.
pub fn sizes(rows: &[ResultRow], titles: &Titles) -> Result<String> {
    let all = Accuracies::of(rows);
    let names = Names::new(titles, &all.settings.iter().collect::<Vec<_>>());
    let strong: IndexSet<&str> = all.settings.iter().map(|setting| setting.strong.as_str()).collect();
    let tasks: IndexSet<&str> = all.settings.iter().map(|setting| setting.task.as_str()).collect();
    if strong.len() < 2 {
        return Err(nothing(
            "there are not two strong models",
            "a grid with several `pairs` shows what their sizes do",
        ));
    }
    let weak: IndexSet<&str> = all.settings.iter().map(|setting| setting.weak.as_str()).collect();
    let mut panels = Vec::new();
    for task in tasks {
        let mut methods: IndexSet<&str> = IndexSet::new();
        let mut lines: IndexMap<String, Series> = IndexMap::new();
        for (place, setting) in all.settings.iter().enumerate().filter(|(_, setting)| setting.task == task) {
            let x = strong.get_index_of(setting.strong.as_str()).unwrap_or(0) as f64 + 1.0;
            let shape = SHAPES[weak.get_index_of(setting.weak.as_str()).unwrap_or(0) % SHAPES.len()];
            for (method, values) in all.methods[place].iter().filter(|(method, _)| !is_weak(method)) {
                let (name, mark) = match method.as_str() {
                    CEILING => ("ceiling".to_owned(), Mark::Dotted),
                    _ => (format!("{}, by {}", names.method(method), names.title(&setting.weak)), Mark::Joined(shape)),
                };
                let look = key(&name, methods.insert_full(method).0, mark);
                let line = lines.entry(name).or_insert_with(|| Series { key: look, points: Vec::new() });
                // Pairs of one strong model share a ceiling.
                if !line.points.iter().any(|point| point.x == x) {
                    line.points.extend(mean_and_s(x, values));
                }
            }
        }
        let series: Vec<Series> = lines.into_values().collect();
        let reach = series.iter().flat_map(|series| &series.points).flat_map(|point| {
            let (below, above) = point.error.unwrap_or_default();
            [point.y - below, point.y + above]
        });
        let y = fitted("test accuracy (%)", reach, PERCENT);
        let labels = strong.iter().map(|name| names.title(name).to_owned()).collect();
        let x = Axis { range: (0.6, strong.len() as f64 + 0.4), names: labels, ..Axis::default() };
        panels.push(Panel {
            title: names.title(task).to_owned(),
            subtitle: String::new(),
            x,
            y,
            series,
            levels: vec![],
        });
    }
    let (title, caption) = ("Students over the size of the strong model".to_owned(), all.caption());
    Ok(svg(&Sheet { title, caption, columns: 3, cell: TALL, panels }))
}

/// `sensitivity`: test accuracy over a key of a method, for methods named `BASE KEY=VALUE`; a panel per (BASE, KEY), a line per task
/// and pair.
///
/// # Errors
/// No key with two numeric values.
pub fn sensitivity(rows: &[ResultRow], titles: &Titles) -> Result<String> {
    let all = Accuracies::of(rows);
    let names = Names::new(titles, &all.settings.iter().collect::<Vec<_>>());
    // By method with all other changes and key: values, with the method of each.
    let mut sweeps: IndexMap<(String, &str), Vec<(f64, &str)>> = IndexMap::new();
    for (method, _) in all.methods.iter().flatten() {
        let (base, changed) = changes(method);
        for (place, (key, value)) in changed.iter().enumerate() {
            let Some(value) = value.parse::<f64>().ok().filter(|value| value.is_finite()) else { continue };
            let rest = changed.iter().enumerate().filter(|(other, _)| *other != place);
            let rest = rest.map(|(_, (key, value))| format!(" {key}={value}"));
            let sweep = sweeps.entry((base.to_owned() + &rest.collect::<String>(), *key)).or_default();
            if !sweep.iter().any(|(_, known)| known == method) {
                sweep.push((value, method));
            }
        }
    }
    let mut panels = Vec::new();
    for ((base, name), mut values) in sweeps {
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (Some(&(low, _)), Some(&(high, _))) = (values.first(), values.last()) else { continue };
        if low == high {
            continue;
        }
        let mut series = Vec::new();
        for (place, setting) in all.settings.iter().enumerate() {
            let points = values.iter().filter_map(|(x, method)| mean_and_s(*x, all.get(place, method)?));
            let mark = Mark::Joined(SHAPES[place % SHAPES.len()]);
            let points: Vec<Point> = points.collect();
            if !points.is_empty() {
                series.push(Series { key: key(&names.setting(setting), place, mark), points });
            }
        }
        let reach = series.iter().flat_map(|series| &series.points).flat_map(|point| {
            let (below, above) = point.error.unwrap_or_default();
            [point.y - below, point.y + above]
        });
        let y = fitted("test accuracy (%)", reach, PERCENT);
        // Values over orders of magnitude are tried in steps of a factor.
        let log = low > 0.0 && high / low >= 50.0;
        let room = if log { (high / low).powf(0.05) } else { (high - low) * 0.05 };
        let range = if log { (low / room, high * room) } else { (low - room, high + room) };
        let x = Axis { log, ..axis(name, range, if log { 0.0 } else { step(range) }) };
        panels.push(Panel { title: names.method(&base), subtitle: name.to_owned(), x, y, series, levels: vec![] });
    }
    if panels.is_empty() {
        return Err(nothing(
            "no method of this run was tried with two values of a key",
            "sweep one: methods named `BASE KEY=VALUE`, such as `selective selector.gamma=0.5`; docs/grids.md says how",
        ));
    }
    let (title, caption) = ("Sensitivity to a method's parameters".to_owned(), all.caption());
    Ok(svg(&Sheet { title, caption, columns: 3, cell: CELL, panels }))
}

/// `steps`: test accuracy over the steps of the students' training, a line for each method; a panel per task and pair, with the weak model and
/// the ceiling as levels.
///
/// # Errors
/// No student was measured while it was trained.
pub fn steps(rows: &[ResultRow], titles: &Titles) -> Result<String> {
    let all = Accuracies::of(rows);
    let names = Names::new(titles, &all.settings.iter().collect::<Vec<_>>());
    let mut curves: BTreeMap<(usize, &str, u64), BTreeMap<u64, f64>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.split == Split::Test && row.metric == ACCURACY) {
        let (Some(step), Some(value)) = (row.step, row.value) else { continue };
        let setting = Setting { task: row.task.clone(), weak: row.weak.clone(), strong: row.strong.clone() };
        if let Some(place) = all.settings.iter().position(|known| *known == setting) {
            curves.entry((place, &row.method, step)).or_default().insert(row.seed, 100.0 * value);
        }
    }
    let mut panels = Vec::new();
    for (place, setting) in all.settings.iter().enumerate() {
        let mut series = Vec::new();
        for (number, (method, _)) in all.methods[place].iter().filter(|(name, _)| !is_end(name)).enumerate() {
            let of_method = curves.range((place, method.as_str(), 0)..=(place, method.as_str(), u64::MAX));
            let points: Vec<Point> =
                of_method.filter_map(|((_, _, step), values)| mean_and_s(*step as f64, values)).collect();
            if !points.is_empty() {
                let mark = Mark::Joined(SHAPES[number % SHAPES.len()]);
                series.push(Series { key: key(&names.method(method), number, mark), points });
            }
        }
        let last = series.iter().flat_map(|series| &series.points).map(|point| point.x).fold(0.0, f64::max);
        if series.is_empty() {
            continue;
        }
        let ends = [(WEAK, "weak model (mean)", Mark::Dashed), (CEILING, "ceiling (mean)", Mark::Dotted)];
        let level = |(name, called, mark): (&str, &str, Mark)| {
            Some((mean_and_s(0.0, all.get(place, name)?)?.y, Key { name: called.to_owned(), colour: GREY, mark }))
        };
        let levels: Vec<(f64, Key)> = ends.into_iter().filter_map(level).collect();
        let reach = series.iter().flat_map(|series| &series.points).flat_map(|point| {
            let (below, above) = point.error.unwrap_or_default();
            [point.y - below, point.y + above]
        });
        let y = fitted("test accuracy (%)", reach.chain(levels.iter().map(|(value, _)| *value)), PERCENT);
        let range = (0.0, last * 1.05);
        let x = axis("step", range, step(range));
        panels.push(Panel { title: names.setting(setting), subtitle: String::new(), x, y, series, levels });
    }
    if panels.is_empty() {
        return Err(nothing(
            "no student of this run was measured while it was trained",
            "ask for it in the grid, such as [output] evaluate = [0.25, 0.5, 0.75]",
        ));
    }
    let (title, caption) = ("Accuracy over the steps of training".to_owned(), all.caption());
    Ok(svg(&Sheet { title, caption, columns: 3, cell: CELL, panels }))
}

/// Facts told about equally often.
#[derive(Clone, Debug, PartialEq)]
pub struct FrequencyBin {
    /// Fewest and most times that one of them is told.
    pub told: (u32, u32),
    /// Facts.
    pub n: usize,
    /// Share of them that the strong model answers right.
    pub strong: f64,
    /// Share of them that the weak model answers right, if it was asked about all of them.
    pub weak: Option<f64>,
}

/// Facts in bins whose bounds double (0, 1, 2–3, 4–7, …), the rarest first; a bin of fewer than `least` facts is put to the next.
pub fn over_frequency(facts: &[Fact], least: usize) -> Vec<FrequencyBin> {
    let mut groups: BTreeMap<u32, Vec<&Fact>> = BTreeMap::new();
    for fact in facts {
        groups.entry(u32::BITS - fact.told.leading_zeros()).or_default().push(fact);
    }
    let mut merged: Vec<Vec<&Fact>> = Vec::new();
    for group in groups.into_values() {
        match merged.last_mut() {
            Some(last) if last.len() < least => last.extend(group),
            _ => merged.push(group),
        }
    }
    if merged.len() > 1 && merged.last().is_some_and(|last| last.len() < least) {
        let rest = merged.pop().unwrap_or_default();
        merged.last_mut().into_iter().for_each(|last| last.extend(&rest));
    }
    let bin = |group: &Vec<&Fact>| {
        let n = group.len();
        let told = group.iter().map(|fact| fact.told);
        let weak: Option<f64> = group.iter().map(|fact| fact.weak).sum();
        FrequencyBin {
            told: (told.clone().min().unwrap_or(0), told.max().unwrap_or(0)),
            n,
            strong: group.iter().map(|fact| fact.strong).sum::<f64>() / n as f64,
            weak: weak.map(|sum| sum / n as f64),
        }
    };
    merged.iter().map(bin).collect()
}

/// `known`: what the strong and the weak model answer right of a generated world, over how often the strong model's text tells it.
///
/// # Errors
/// No facts.
pub fn known(sets: &[FactSet], titles: &Titles) -> Result<String> {
    let sets: Vec<&FactSet> = sets.iter().filter(|set| !set.facts.is_empty()).collect();
    if sets.is_empty() {
        return Err(nothing(
            "no task of this run asks about a generated world that its strong model was pretrained on and was asked about",
            "use tasks and models of a world (docs/world.md), and a method with the strong model's own answers such as `selective`",
        ));
    }
    let settings = settings(sets.iter().map(|set| &set.setting));
    let names = Names::new(titles, &settings);
    let mut panels = Vec::new();
    for set in &sets {
        let bins = over_frequency(&set.facts, 20);
        // Side by side, so that intervals do not hide each other.
        let curve = |shift: f64, share: &dyn Fn(&FrequencyBin) -> Option<f64>| -> Vec<Point> {
            let point = |(number, bin): (u32, &FrequencyBin)| {
                let share = share(bin)?;
                Some(Point { x: f64::from(number) + shift, y: 100.0 * share, error: Some(bars(share, bin.n)) })
            };
            (1..).zip(&bins).filter_map(point).collect()
        };
        let label = |bin: &FrequencyBin| match bin.told {
            (low, high) if low == high => format!("{low} (n = {})", bin.n),
            (low, high) => format!("{low}–{high} (n = {})", bin.n),
        };
        let labels = bins.iter().map(label).collect();
        let range = (0.5, bins.len() as f64 + 0.5);
        let x = Axis { names: labels, ..axis("times the text tells the fact (n facts)", range, 0.0) };
        let mut series = vec![Series {
            key: key("strong model, before fine-tuning", 0, Mark::Joined(Shape::Circle)),
            points: curve(-0.07, &|bin| Some(bin.strong)),
        }];
        let weak = curve(0.07, &|bin| bin.weak);
        if !weak.is_empty() {
            series.push(Series { key: key("weak supervisor", 1, Mark::Joined(Shape::Square)), points: weak });
        }
        let subtitle =
            format!("{} facts, {} questions; {}", set.facts.len(), set.questions, seeds_in_words(&set.seeds));
        let y = axis("right class (%)", PERCENT, 20.0);
        panels.push(Panel { title: names.setting(&set.setting), subtitle, x, y, series, levels: vec![] });
    }
    let caption = "Facts of the transfer and test splits, which the weak model was not taught, by how often the strong model's \
                   pretraining text tells them. A fact counts by the share of its questions answered with the right class; bars are \
                   Wilson's 95 % intervals over facts.";
    let title = "What is known, over how often it was told".to_owned();
    let cell = (CELL.0 + 40.0, CELL.1 + 70.0);
    Ok(svg(&Sheet { title, caption: caption.to_owned(), columns: 3, cell, panels }))
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::row, *};

    fn set(task: &str, method: &str) -> KnowledgeSet {
        let setting = Setting { task: task.into(), weak: "small".into(), strong: "large".into() };
        let items = (0..40).map(|item| (item as f32 / 40.0, item % 4 != 0)).collect();
        KnowledgeSet { setting, method: method.into(), seeds: (0..3).collect(), items }
    }

    fn titles() -> Titles {
        [("home", "World: home"), ("selective", "Selective")].map(|(a, b)| (a.to_owned(), b.to_owned())).into()
    }

    /// Weak, ceiling and methods with three seeds each, around the given accuracy.
    fn rows(accuracies: &[(&str, f64)]) -> Vec<ResultRow> {
        let one = |(method, accuracy): &(&str, f64)| {
            [0u64, 1, 2].map(|seed| row("home", "small", "large", method, seed, accuracy + seed as f64 / 100.0))
        };
        accuracies.iter().flat_map(one).collect()
    }

    #[test]
    fn figures_of_p_ik_say_task_method_items_and_seeds() {
        let sets = [set("home", "selective"), set("food", "mtl"), set("food", "selective")];
        for draw in [p_ik, coverage, reliability_curve] {
            let text = draw(&sets, &titles()).unwrap();
            assert_eq!(text, draw(&sets, &titles()).unwrap());
            for part in [">Selective<", "World: home; ", ">mtl<", ">food; ", "seeds 0–2"] {
                assert!(text.contains(part), "{part}");
            }
        }
        assert!(p_ik(&sets, &titles()).unwrap().contains("30 IK, 10 IDK items"));
        assert!(reliability_curve(&sets, &titles()).unwrap().contains("40 items, ECE "));
    }

    #[test]
    fn accuracies_lie_between_weak_model_and_ceiling() {
        let mut rows = rows(&[("weak", 0.6), ("selective", 0.75), ("oracle", 0.85), ("ceiling", 0.9)]);
        rows.iter_mut().filter(|row| row.method == "oracle").for_each(|row| row.truth_used = true);
        let text = pgr(&rows, &titles()).unwrap();
        for part in ["World: home", ">Selective<", ">oracle †<", "ceiling (mean)", "1000 items, seeds 0–2", "a control"]
        {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("weak, "), "one pair needs no name");
        let other: Vec<_> = (rows.iter().cloned()).map(|row| ResultRow { strong: "huge".into(), ..row }).collect();
        rows.extend(other);
        assert!(pgr(&rows, &titles()).unwrap().contains("World: home, small → huge"));
    }

    #[test]
    fn partitions_are_stacked_to_their_sum() {
        let of = |metric: &str, value: f64| ResultRow {
            metric: metric.to_owned(),
            ..row("sciq", "small", "large", "js", 0, value)
        };
        let values = [0.5, 0.1, 0.05, 0.25, 0.1];
        let rows: Vec<ResultRow> =
            PARTITION.iter().zip(values).map(|((part, ..), value)| of(part.metric(), value)).collect();
        let svg = partition(&rows, &titles()).unwrap();
        for (_, called, colour) in PARTITION {
            assert!(svg.contains(called) && svg.to_uppercase().contains(&COLOURS[colour].to_uppercase()), "{called}");
        }
        assert!(partition(&rows[1..], &titles()).unwrap_err().message().contains("no method has a partition"));
    }

    #[test]
    fn what_is_kept_of_each_part_stands_beside_all_of_it() {
        let of = |metric: &str, seed: u64, value: f64| ResultRow {
            metric: metric.to_owned(),
            split: Split::Transfer,
            ..row("sciq", "small", "large", "js", seed, value)
        };
        let sizes = [0.5, 0.1, 0.15, 0.2, 0.05];
        let mut rows: Vec<ResultRow> =
            PARTITION.iter().zip(sizes).map(|((part, ..), value)| of(part.metric(), 0, value)).collect();
        rows.extend(PARTITION.iter().map(|(part, ..)| of(part.kept(), 0, 0.5)));
        let svg = kept(&rows, &titles()).unwrap();
        for part in [">js: all<", ">js: kept<", "the weak model alone right", "one seed"] {
            assert!(svg.contains(part), "{part}");
        }
        // A half of each part is kept: the tops of the second bar stand half as high.
        let bars = [("all".to_owned(), sizes), ("kept".to_owned(), sizes.map(|size| size / 2.0))];
        let panel = stacked(bars.to_vec(), String::new(), "");
        for series in &panel.series {
            assert!((series.points[1].y * 2.0 - series.points[0].y).abs() < 1e-12);
        }
        assert!((panel.series[0].points[0].y - 1.0).abs() < 1e-12, "the highest comes first");
        // Partitions of the test are another figure's.
        let tested: Vec<_> = rows.iter().map(|row| ResultRow { split: Split::Test, ..row.clone() }).collect();
        assert!(kept(&tested, &titles()).unwrap_err().message().contains("leaves examples out"));
    }

    #[test]
    fn what_is_kept_stands_under_how_right_it_is() {
        let of = |method: &str, metric: &str, value: f64| ResultRow {
            metric: metric.to_owned(),
            split: Split::Transfer,
            ..row("sciq", "small", "large", method, 0, value)
        };
        let rows = [of("js", "label_accuracy", 0.9), of("js", "kept", 0.6), of("gce", "label_accuracy", 0.7)];
        let svg = retention(&rows, &titles()).unwrap();
        for part in ["examples that are kept", "right labels among them", ">js<", ">gce<"] {
            assert!(svg.contains(part), "{part}");
        }
        // Of the test nothing is meant, and a task where everything is kept has nothing to show.
        let tested: Vec<_> = rows.iter().map(|row| ResultRow { split: Split::Test, ..row.clone() }).collect();
        for rows in [&tested[..], &rows[2..]] {
            assert!(retention(rows, &titles()).unwrap_err().message().contains("leaves examples out"));
        }
    }

    #[test]
    fn sizes_are_lines_over_strong_models() {
        let of = |weak: &str, strong: &str, method: &str, value: f64| row("sciq", weak, strong, method, 0, value);
        let rows = [
            of("a", "b", "weak", 0.5),
            of("a", "b", "js", 0.6),
            of("a", "b", "ceiling", 0.8),
            of("a", "c", "js", 0.7),
            of("a", "c", "ceiling", 0.9),
            of("b", "c", "js", 0.75),
        ];
        let svg = sizes(&rows, &titles()).unwrap();
        assert!(svg.contains(", by a") && svg.contains(", by b") && svg.contains("ceiling"), "{svg}");
        assert!(sizes(&rows[..3], &titles()).unwrap_err().remedy().is_some());
    }

    #[test]
    fn a_sweep_is_a_line_per_task_and_a_panel_per_key() {
        let swept = [
            ("selective", 0.7),
            ("selective selector.gamma=0.5", 0.71),
            ("selective selector.gamma=0.9", 0.72),
            ("selective refiner.alpha=0.9", 0.73),
            ("selective selector.type=all", 0.73),
            ("js batch=1", 0.6),
            ("js batch=100", 0.6),
        ];
        let text = sensitivity(&rows(&swept), &titles()).unwrap();
        for part in [">Selective<", ">selector.gamma<", ">js<", ">batch<", "World: home"] {
            assert!(text.contains(part), "{part}");
        }
        // Neither a single value nor a word is a sweep.
        assert!(!text.contains("refiner.alpha") && !text.contains("selector.type"));
        let error = sensitivity(&rows(&swept[..2]), &titles()).unwrap_err();
        assert!(error.message().contains("two values") && error.remedy().is_some());
    }

    #[test]
    fn two_changes_at_a_time_vary_one() {
        let swept = [("s a=1 b=1", 0.7), ("s a=2 b=1", 0.7), ("s a=2 b=2", 0.7)];
        let text = sensitivity(&rows(&swept), &titles()).unwrap();
        for part in [">s b=1<", ">s a=2<"] {
            assert!(text.contains(part), "{part}");
        }
        assert_eq!(changes("s a=1 b=1"), ("s", vec![("a", "1"), ("b", "1")]));
        assert!(is_variant("s a=1") && !is_variant("s") && !is_variant("weak: ensemble"));
    }

    #[test]
    fn facts_are_binned_by_how_often_they_are_told() {
        let fact = |told: u32, strong: f64| Fact { told, strong, weak: Some(0.5) };
        let facts: Vec<Fact> = [0, 0, 1, 2, 3, 3, 4, 7, 100].map(|told| fact(told, f64::from(told.min(1)))).into();
        let bins = over_frequency(&facts, 2);
        let told: Vec<_> = bins.iter().map(|bin| (bin.told, bin.n, bin.strong)).collect();
        // The one fact told once goes with those told twice and thrice, the one told 100 times with those before.
        assert_eq!(told, [((0, 0), 2, 0.0), ((1, 3), 4, 1.0), ((4, 100), 3, 1.0)]);
        assert_eq!(over_frequency(&facts, 1).len(), 5);
        let mut unasked = facts.clone();
        unasked[0].weak = None;
        assert_eq!((bins[0].weak, over_frequency(&unasked, 2)[0].weak), (Some(0.5), None));
        let setting = set("home", "").setting;
        let sets = [FactSet { setting, seeds: [4].into(), questions: 27, facts }];
        let text = known(&sets, &titles()).unwrap();
        for part in ["9 facts, 27 questions; seed 4", "0–100 (n = 9)", "weak supervisor"] {
            assert!(text.contains(part), "{part}");
        }
    }

    #[test]
    fn nothing_to_draw_is_said_with_a_remedy() {
        let none = Titles::new();
        let errors = [
            p_ik(&[], &none),
            coverage(&[], &none),
            reliability_curve(&[], &none),
            pgr(&[], &none),
            pgr(&rows(&[("weak", 0.5), ("ceiling", 0.8)]), &none),
            sensitivity(&[], &none),
            known(&[], &none),
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert!(error.message().starts_with("nothing to draw: ") && error.remedy().is_some(), "{error}");
        }
    }

    #[test]
    fn seeds_are_said_briefly() {
        let said = |seeds: &[u64]| seeds_in_words(&seeds.iter().copied().collect());
        assert_eq!(
            (said(&[3]), said(&[0, 1]), said(&[0, 1, 2]), said(&[0, 1, 4])),
            ("seed 3".into(), "seeds 0, 1".into(), "seeds 0–2".into(), "seeds 0, 1, 4".into())
        );
    }
}
