//! Which rows are used, in which order, and how they are split: three protocols.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Example, Form, Generation, PoolCounts, PromptStyle, Rows, TaskData,
    definition::{Draw, LabelRule, OneOrMany, Task},
    format::{Drawn, Formatter, NO_ANSWER, Odd, Outline, Point, Trouble},
    read::Wanted,
    rng::{NumpyRng, PythonRng},
    source::RowSource,
};
use crate::{
    Error, Result,
    rng::{Rng, derive},
};

/// Which examples are made of a task's rows. Part of every identity that depends on data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataOptions {
    /// The protocol. Default: `openai`.
    pub order: Order,
    /// Seed of the order, of the answers shown and of the halves. Default: 0.
    pub seed: u64,
    /// At most this many training examples, both halves together. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_train: Option<usize>,
    /// Examples held out of the supervisor's half, with its share of each class; rows and facts stay whole, so there may be a few less.
    /// The student's half and the test set are the same for any number. Order `eleuther` takes them as its original does: the first
    /// ones, beside `n_train`, before there are halves. Default: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub n_validation: usize,
    /// At most this many test examples. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_test: Option<usize>,
    /// Default: what the protocol does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// How rows become an ordered, split list of examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// openai/weak-to-strong: the first n rows, one answer each, shuffled, halved; all with the same seed. Not balanced. The same
    /// examples in the same order as the original, bit for bit, but for wrong answers that read like the right one: another is shown.
    #[default]
    Openai,
    /// EleutherAI/w2s: shuffled, one answer each, balanced, then the first n; halved with seed 42.
    Eleuther,
    /// As the paper on selective weak-to-strong generalization (arXiv 2511.14166) describes its data: each question gives equally many
    /// correct and incorrect answers, so one of each. No question is in both halves.
    KPoints,
}

/// How classes are balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Not at all.
    None,
    /// Examples of the larger classes are dropped at random until all are as large as the smallest, as EleutherAI/w2s does.
    Undersample,
}

impl DataOptions {
    fn balance(&self) -> Balance {
        self.balance.unwrap_or(match self.order {
            Order::Openai | Order::KPoints => Balance::None,
            Order::Eleuther => Balance::Undersample,
        })
    }

    /// What a wrong answer is drawn from.
    fn draw(&self) -> Draw {
        match self.order {
            Order::Eleuther => Draw::Place,
            Order::Openai | Order::KPoints => Draw::Text,
        }
    }

    /// Seed of the halves.
    fn halves_seed(&self) -> u64 {
        match self.order {
            Order::Eleuther => 42,
            Order::Openai | Order::KPoints => self.seed,
        }
    }
}

/// Makes a task's examples from its rows.
pub(super) fn assemble(task: &Task, source: &dyn RowSource, options: &DataOptions) -> Result<TaskData> {
    let prompt = task.prompt.as_ref().map(|prompt| PromptStyle {
        instruction: prompt.instruction.clone(),
        answers: prompt.answers.iter().map(|words| words.as_slice().to_vec()).collect(),
    });
    let (form, class_names) = (form(task), task.classes.clone());
    let mut data = TaskData { task: task.name.clone(), form, class_names, prompt, ..TaskData::default() };
    let maker = Maker { formatter: Formatter::new(task)?, task, source, options };
    let splits = &task.splits;
    let n_validation = options.n_validation;
    let mut held_out = None;
    let mut validation = Vec::new();
    let (mut supervise, transfer) = match (&splits.supervise, &splits.transfer) {
        (first @ Some(_), second @ Some(_)) => {
            let n_first = options.n_train.map(|n| n / 2);
            let n_second = options.n_train.map(|n| n - n / 2);
            let rows = maker.rows(first, n_first, &mut data)?;
            let first = maker.pool("supervise", rows, n_first, &mut data)?;
            let rows = maker.rows(second, n_second, &mut data)?;
            let second = maker.pool("transfer", rows, n_second, &mut data)?;
            (first, second)
        }
        _ => {
            // Taken ahead of the halves, the first ones may belong to rows in either.
            let together = splits.together.is_some();
            let ahead = if options.order == Order::Eleuther && !together { n_validation } else { 0 };
            let n_train = options.n_train.map(|n| n.saturating_add(ahead));
            let mut rows =
                maker.rows(&splits.train, n_train.filter(|_| splits.test_from_train.is_none()), &mut data)?;
            if let Some(n) = splits.test_from_train {
                let (there, message) = (rows.len(), "test rows are to be taken from the");
                let taken = match maker.groups(&rows)? {
                    None => rows.take_at_random(n),
                    Some(groups) => rows.take_groups_at_random(n, &groups),
                };
                let taken = taken.ok_or_else(|| {
                    task.wrong(&["splits", "test_from_train"], format!("{n} {message} {there} rows of training"))
                })?;
                if taken.len() < n {
                    let (there, column) = (taken.len(), splits.together.as_deref().unwrap_or_default());
                    let why = format!("rows of one `{column}` stay together");
                    data.counts
                        .notes
                        .push(format!("{n} rows were asked for of `test_from_train`, there are {there}: {why}"));
                }
                held_out = Some(taken);
            }
            validation = maker.pool("train", rows, n_train, &mut data)?;
            let rest = validation.split_off(ahead.min(validation.len()));
            maker.halves(rest)?
        }
    };
    let test = match held_out {
        Some(rows) => rows,
        None => maker.rows(&splits.test, options.n_test, &mut data)?,
    };
    let test = maker.pool("test", test, options.n_test, &mut data)?;
    let (there, left) = (supervise.len() + validation.len(), n_validation - validation.len());
    if n_validation > 0 && left >= supervise.len() {
        let message = format!("`n_validation` is {n_validation} and the supervisor's half has {there} examples");
        return Err(Error::new(format!("{message}: none would be left to train the weak model on"))
            .help("ask for fewer, or for more rows of training (`n_train`)"));
    }
    if left > 0 {
        (validation, supervise) = hold_out(supervise, left);
    }
    if validation.len() < n_validation {
        let (there, why) = (validation.len(), "rows and facts stay whole");
        data.counts
            .notes
            .push(format!("{n_validation} examples were asked for of `validation`, there are {there}: {why}"));
    }
    if let (Some(column), Some(_)) = (&splits.together, &splits.transfer) {
        let known: BTreeSet<u128> = supervise.iter().chain(&validation).map(|point| point.whole).collect();
        let both = transfer.iter().filter(|point| known.contains(&point.whole)).count();
        if both > 0 {
            let note = "the splits that the task names for the two halves part what `together` would keep";
            data.counts
                .notes
                .push(format!("{both} examples of `transfer` share their `{column}` with `supervise`: {note}"));
        }
    }

    let questions = |parts: &[&Vec<Point>]| -> BTreeSet<u128> {
        parts.iter().copied().flatten().map(|point| point.question).collect()
    };
    let shared =
        |part: &[Point], others: &BTreeSet<u128>| part.iter().filter(|point| others.contains(&point.question)).count();
    data.counts.transfer_in_supervise = shared(&transfer, &questions(&[&supervise, &validation]));
    data.counts.test_in_train = shared(&test, &questions(&[&supervise, &transfer, &validation]));
    let examples = |points: Vec<Point>| points.into_iter().map(|point| point.example).collect();
    data.supervise = examples(supervise);
    data.transfer = examples(transfer);
    data.validation = examples(validation);
    data.test = examples(test);
    if let Form::Choose { .. } = data.form {
        let of_part = |(_, part): (_, &Vec<Example>)| part.iter().map(|example| example.candidates.len()).max();
        data.form = Form::Choose { candidates: data.parts().into_iter().filter_map(of_part).max().unwrap_or(0) };
    }
    data.recount()?;
    note_words(&mut data);
    data.check_classes(options)?;
    Ok(data)
}

/// The form of a task's data; how many candidates there are is known once there are examples.
fn form(task: &Task) -> Form {
    match (&task.generate, &task.label) {
        (Some(generate), _) => Form::Generate(Generation {
            answer: generate.answer.clone(),
            max_new_tokens: generate.max_new_tokens,
            stop: generate.stop.clone(),
        }),
        (None, Some(LabelRule::Choose(_))) => Form::Choose { candidates: 0 },
        (None, _) => Form::Classify,
    }
}

/// Notes what makes references hard to learn, or impossible to give.
fn note_words(data: &mut TaskData) {
    let Form::Generate(Generation { stop, .. }) = &data.form else { return };
    let all = || data.parts().into_iter().flat_map(|(_, part)| part).filter_map(|e| Some((e, e.reference.as_ref()?)));
    let blank = |c: Option<char>| c.is_none_or(char::is_whitespace);
    let glued = |(example, reference): &(&Example, &String)| {
        !blank(example.text.chars().next_back()) && !blank(reference.chars().next())
    };
    let mut notes = Vec::new();
    if let Some((example, reference)) = all().find(glued) {
        let end: String = example.text.chars().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect();
        let start: String = reference.chars().take(12).collect();
        notes.push(format!(
            "no blank stands between prompt and reference: `{end}{start}`; write one at the beginning of `reference` if it should"
        ));
    }
    for stop in stop {
        let count = all().filter(|(_, reference)| reference.contains(stop.as_str())).count();
        if count > 0 {
            notes.push(format!("{count} references hold {stop:?}, at which answers end: no model can give them whole"));
        }
    }
    data.counts.notes.append(&mut notes);
}

/// Makes pools of examples.
struct Maker<'a> {
    task: &'a Task,
    formatter: Formatter<'a>,
    source: &'a dyn RowSource,
    options: &'a DataOptions,
}

impl Maker<'_> {
    /// The rows of some splits, one after the other. `limit`: more rows than that are not needed.
    fn rows(&self, splits: &Option<OneOrMany<String>>, limit: Option<usize>, data: &mut TaskData) -> Result<Rows> {
        // The other protocols choose among all rows.
        let limit = limit.filter(|_| self.options.order == Order::Openai && self.task.filter.is_none());
        let mut rows = Rows::default();
        for split in splits.iter().flat_map(OneOrMany::as_slice) {
            let wanted = limit.map(|limit| limit.saturating_sub(rows.len()));
            if wanted == Some(0) {
                break;
            }
            let more = self.source.rows(split, wanted)?;
            if more.is_empty() {
                let error = Error::new(format!("the split `{split}` of the task `{}` has no rows", self.task.name));
                let error = error.help("is it the right file, and is it complete?");
                return Err(match more.files.first() {
                    Some(file) => error.in_file(&file.path),
                    None => error,
                });
            }
            self.formatter.check_columns(&more.columns)?;
            rows.append(more)?;
        }
        rows.find_types(&self.formatter.counted())?;
        data.files.extend(rows.files.iter().cloned());
        data.counts.notes.append(&mut rows.notes);
        Ok(rows)
    }

    /// Examples of some rows, in the protocol's order, at most `limit`.
    fn pool(&self, name: &str, mut rows: Rows, limit: Option<usize>, data: &mut TaskData) -> Result<Vec<Point>> {
        let seed = self.options.seed;
        let mut counts = PoolCounts { read: rows.len(), ..PoolCounts::default() };
        let mut odd = OddRows::default();
        let formatter = Formatter::new(self.task)?.with_types(rows.types.clone());
        if self.task.filter.is_some() {
            let wanted = formatter.wanted_by_filter();
            let mut refused = 0;
            rows.keep(&wanted, |rows, index, row| {
                let kept = formatter.completed(row, &wanted).and_then(|row| formatter.keeps(&row));
                let kept = odd.keep(kept, index, rows)?;
                refused += usize::from(kept == Some(false));
                Ok(kept == Some(true))
            })?;
            counts.drop("filter", refused);
        }
        let considered = rows.len() + odd.count;
        let limit = limit.unwrap_or(usize::MAX);
        let wanted = formatter.wanted();
        let making = Making { formatter: &formatter, rows: &rows, wanted: &wanted, draw: self.options.draw(), seed };
        let mut prospects = match self.options.order {
            Order::Eleuther => making.all(&permute(rows.numbers.clone(), seed), limit, &mut odd)?,
            Order::Openai | Order::KPoints => making.first(self.options.order, limit, &mut odd, &mut counts)?,
        };
        if prospects.is_empty() && odd.all(NO_ANSWER) {
            return Err(odd.no_answer(self.task, name));
        }
        odd.settle(self.task, name, considered, &mut counts, &mut data.counts.notes)?;
        let there = prospects.len();
        prospects.retain(|prospect| !prospect.is_empty());
        counts.drop("empty text", there - prospects.len());
        if self.options.balance() == Balance::Undersample && self.task.is_classification() {
            let there = prospects.len();
            let places = undersample(prospects.iter().map(Prospect::label), &self.task.classes, seed)
                .map_err(|error| error.context(format!("the rows for `{name}` cannot be balanced")))?;
            prospects = taken(prospects, places);
            counts.drop("balance", there - prospects.len());
        }
        match self.options.order {
            Order::Openai => prospects = permute(prospects, seed),
            Order::Eleuther => {
                counts.drop("not asked for", prospects.len().saturating_sub(limit));
                prospects.truncate(limit);
            }
            Order::KPoints => Rng::named(seed, "task/k-points/points").shuffle(&mut prospects),
        }
        let points = making.points(prospects)?;
        counts.left = points.len();
        if limit != usize::MAX && counts.left < limit && !counts.dropped.contains_key("not asked for") {
            let note = format!("{limit} examples were asked for of `{name}`, there are {}: all are used", counts.left);
            data.counts.notes.push(note);
        }
        data.counts.pools.insert(name.into(), counts);
        Ok(points)
    }

    /// What keeps each of some rows together with others, by the rows' numbers; none if each stands alone.
    fn groups(&self, rows: &Rows) -> Result<Option<BTreeMap<u32, u128>>> {
        if self.task.splits.together.is_none() {
            return Ok(None);
        }
        let formatter = Formatter::new(self.task)?.with_types(rows.types.clone());
        let wanted = formatter.wanted_by_together();
        let mut groups = BTreeMap::new();
        rows.clone().keep(&wanted, |rows, index, row| {
            match formatter.completed(row, &wanted).and_then(|row| formatter.together(&row)) {
                Ok(group) => _ = groups.insert(index, group),
                // It makes no example either, and is counted there.
                Err(Trouble::Row(..)) => {}
                Err(Trouble::Task(error)) => return Err(rows.at(index, error)),
            }
            Ok(true)
        })?;
        Ok(Some(groups))
    }

    /// Half 1 (supervise) and half 2 (transfer, the larger by one if need be).
    fn halves(&self, pool: Vec<Point>) -> Result<(Vec<Point>, Vec<Point>)> {
        if let Some(column) = &self.task.splits.together {
            return self.halves_of_groups(pool, column);
        }
        if self.options.order == Order::KPoints {
            let mut places = BTreeMap::new();
            for point in &pool {
                let next = places.len();
                places.entry(point.example.source_row).or_insert(next);
            }
            let half = places.len() / 2;
            return Ok(pool.into_iter().partition(|point| places[&point.example.source_row] < half));
        }
        let n = pool.len();
        let mut mixed = permute(pool, self.options.halves_seed());
        let supervise = mixed.split_off(n.div_ceil(2));
        Ok((supervise, mixed))
    }

    /// The halves where rows of one value of a column stay together: groups in random order fill half 2 until the next one would bring it
    /// farther from a half. Examples are in the order that they have without groups.
    fn halves_of_groups(&self, pool: Vec<Point>, column: &str) -> Result<(Vec<Point>, Vec<Point>)> {
        let refused = |message: String| self.task.wrong(&["splits", "together"], message);
        let mut sizes: BTreeMap<u128, usize> = BTreeMap::new();
        pool.iter().for_each(|point| *sizes.entry(point.whole).or_default() += 1);
        let n = pool.len();
        let largest = sizes.values().copied().max().unwrap_or(0);
        if sizes.len() == 1 {
            return Err(refused(format!("every row has the same `{column}`, so there are no two halves"))
                .help("name the column of the question or premise that a few rows share"));
        }
        if largest > n.div_ceil(2) {
            return Err(refused(format!("{largest} of {n} rows have the same `{column}`, more than a half holds"))
                .help("name a column that fewer rows share, or leave such rows out with `filter`"));
        }
        // Not by who comes first: in shuffled rows large groups do.
        let mut groups: Vec<u128> = sizes.keys().copied().collect();
        let seed = self.options.halves_seed();
        Rng::named(seed, "task/together").shuffle(&mut groups);
        let (mut transfer, mut there) = (BTreeSet::new(), 0);
        for group in groups {
            // Twice the distance from the half, before and after.
            let nearer = |size: usize| (2 * size).abs_diff(n);
            if nearer(there + sizes[&group]) <= nearer(there) || there == 0 {
                there += sizes[&group];
                transfer.insert(group);
            } else {
                break;
            }
        }
        let mixed = if self.options.order == Order::KPoints { pool } else { permute(pool, seed) };
        Ok(mixed.into_iter().partition(|point| !transfer.contains(&point.whole)))
    }
}

/// An example that may be among those that are chosen.
enum Prospect {
    Made(Box<Point>),
    /// One that has a text and can be made.
    Outlined {
        number: u32,
        label: u8,
        drawn: Drawn,
    },
}

impl Prospect {
    fn label(&self) -> u8 {
        match self {
            Self::Made(point) => point.example.label,
            Self::Outlined { label, .. } => *label,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Made(point) if point.example.text.is_empty())
    }
}

/// What a pool's examples are made of.
struct Making<'a> {
    formatter: &'a Formatter<'a>,
    rows: &'a Rows,
    wanted: &'a Wanted,
    draw: Draw,
    seed: u64,
}

impl Making<'_> {
    /// The examples of the first rows of an order, as many as are asked for.
    fn first(&self, order: Order, limit: usize, odd: &mut OddRows, counts: &mut PoolCounts) -> Result<Vec<Prospect>> {
        let Self { formatter, rows, wanted, draw, seed } = *self;
        let mut numbers = rows.numbers.clone();
        let (mut rng, mut draws) = (PythonRng::new(seed), PythonRng::new(derive(seed, "task/k-points")));
        if order == Order::KPoints {
            Rng::named(seed, "task/k-points/rows").shuffle(&mut numbers);
        }
        let (mut points, mut used) = (Vec::new(), 0);
        // Most rows give an example, so those that are asked for are read at once.
        'enough: for some in numbers.chunks(limit.clamp(1 << 10, 1 << 30)) {
            if order == Order::Openai && points.len() >= limit {
                break;
            }
            let mut loaded = rows.load(some, wanted)?;
            for index in some {
                let completed = formatter.completed(loaded.take(*index)?, wanted);
                if order == Order::KPoints {
                    let pair = completed.and_then(|row| formatter.pair(&row, *index, draw, seed, &mut draws));
                    if let Some(pair) = odd.keep(pair, *index, rows)? {
                        if points.len() + pair.len() > limit {
                            break 'enough;
                        }
                        counts.drop("no answer counts as correct", usize::from(pair.is_empty()));
                        points.extend(pair);
                    }
                } else if points.len() >= limit {
                    break 'enough;
                } else {
                    let point = completed.and_then(|row| formatter.point(&row, *index, draw, seed, &mut rng));
                    points.extend(odd.keep(point, *index, rows)?.map(|(point, _)| point));
                }
                used += 1;
            }
        }
        counts.drop("not asked for", numbers.len() - used);
        Ok(points.into_iter().map(|point| Prospect::Made(Box::new(point))).collect())
    }

    /// The examples of all rows, in the order of these. Where few are asked for, they are outlined: they are chosen by their labels, and
    /// the others need not be made.
    fn all(&self, numbers: &[u32], limit: usize, odd: &mut OddRows) -> Result<Vec<Prospect>> {
        /// So many are made in any case.
        const FEW: usize = 1 << 12;
        let Self { formatter, rows, wanted, draw, seed } = *self;
        let choosy = numbers.len() > limit.max(FEW);
        let outlines = if choosy { self.outlines(numbers)? } else { Vec::new() };
        let outline = |number: u32| outlines.get(number as usize).copied().flatten();
        let unclear: Vec<u32> = numbers.iter().copied().filter(|number| outline(*number).is_none()).collect();
        let mut loaded = rows.load(&unclear, wanted)?;
        let mut rng = PythonRng::new(seed);
        let mut prospects = Vec::with_capacity(numbers.len());
        for number in numbers.iter().copied() {
            prospects.extend(match outline(number) {
                Some(Outline::Label(label)) => Some(Prospect::Outlined { number, label, drawn: Drawn::default() }),
                Some(Outline::Lot(lot)) => {
                    let drawn = formatter.draw(&lot, &mut rng);
                    Some(Prospect::Outlined { number, label: drawn.label(), drawn })
                }
                None => {
                    let completed = formatter.completed(loaded.take(number)?, wanted);
                    let point = completed.and_then(|row| formatter.point(&row, number, draw, seed, &mut rng));
                    odd.keep(point, number, rows)?.map(|(point, drawn)| match point.example.text.is_empty() {
                        false if choosy => Prospect::Outlined { number, label: point.example.label, drawn },
                        _ => Prospect::Made(Box::new(point)),
                    })
                }
            });
        }
        Ok(prospects)
    }

    /// Outlines by the rows' numbers, of those of which there are any.
    fn outlines(&self, numbers: &[u32]) -> Result<Vec<Option<Outline>>> {
        let Self { formatter, rows, wanted, draw, seed } = *self;
        if !formatter.outlines() {
            return Ok(Vec::new());
        }
        let mut outlines = vec![None; numbers.iter().max().map_or(0, |last| *last as usize + 1)];
        // An error of the task itself stands at the first row in the order of the examples, not in that of the file.
        let mut sound = true;
        rows.visit(numbers, wanted, &mut |number, row| {
            if sound {
                let row = formatter.completed(row, wanted);
                match row.and_then(|row| formatter.outline(&row, number, draw, seed)) {
                    Ok(outline) => outlines[number as usize] = outline,
                    Err(Trouble::Row(..)) => {}
                    Err(Trouble::Task(_)) => sound = false,
                }
            }
            Ok(())
        })?;
        Ok(outlines)
    }

    /// The examples that were chosen.
    fn points(&self, prospects: Vec<Prospect>) -> Result<Vec<Point>> {
        let Self { formatter, rows, wanted, draw, seed } = *self;
        let outlined = |prospect: &Prospect| match prospect {
            Prospect::Made(_) => None,
            Prospect::Outlined { number, .. } => Some(*number),
        };
        let numbers: Vec<u32> = prospects.iter().filter_map(outlined).collect();
        let mut loaded = rows.load(&numbers, wanted)?;
        let make = |prospect| {
            let (number, drawn) = match prospect {
                Prospect::Made(point) => return Ok(*point),
                Prospect::Outlined { number, drawn, .. } => (number, drawn),
            };
            let completed = formatter.completed(loaded.take(number)?, wanted);
            let point = completed.and_then(|row| formatter.point_as_drawn(&row, number, draw, seed, &drawn));
            point.map_err(|(Trouble::Row(_, error) | Trouble::Task(error))| rows.at(number, error))
        };
        prospects.into_iter().map(make).collect()
    }
}

/// Of this many rows one may be odd: more are a pattern.
const ODD_ROWS: usize = 20;

/// Rows of a pool that make no example, by what is the matter with them.
#[derive(Default)]
struct OddRows {
    count: usize,
    reasons: BTreeMap<&'static str, usize>,
    /// How many rows say the same, and the first of them with its place among these. Not for more than can be read.
    messages: BTreeMap<String, (usize, usize, Error)>,
    first: Option<Error>,
}

impl OddRows {
    fn add(&mut self, (index, reason, error): Odd, rows: &Rows) {
        const MESSAGES: usize = 1000;
        self.count += 1;
        *self.reasons.entry(reason).or_default() += 1;
        if let Some((count, ..)) = self.messages.get_mut(error.message()) {
            *count += 1;
        } else if self.messages.len() < MESSAGES {
            let message = error.message().to_owned();
            let located = rows.at(index, error);
            self.first.get_or_insert_with(|| located.clone());
            self.messages.insert(message, (1, self.messages.len(), located));
        }
    }

    /// What was made of a row, if it is not odd.
    fn keep<T>(&mut self, made: Result<T, Trouble>, index: u32, rows: &Rows) -> Result<Option<T>> {
        match made {
            Ok(made) => Ok(Some(made)),
            Err(Trouble::Row(reason, error)) => {
                self.add((index, reason, error), rows);
                Ok(None)
            }
            Err(Trouble::Task(error)) => Err(rows.at(index, error)),
        }
    }

    /// Whether there are some, all for one reason.
    fn all(&self, reason: &str) -> bool {
        self.reasons.len() == 1 && self.reasons.contains_key(reason)
    }

    /// The error about references none of which has an answer.
    fn no_answer(self, task: &Task, pool: &str) -> Error {
        let (count, first) = (self.count, self.first);
        let message =
            format!("none of the {count} references for `{pool}` holds an answer where `answer` looks for one");
        let help = first.as_ref().and_then(Error::remedy).unwrap_or("look at the data").to_owned();
        task.wrong(&["generate", "answer"], message).help(format!("the first: {help}"))
    }

    /// Counts odd rows as dropped and notes them.
    ///
    /// # Errors
    /// There are too many among the `considered` ones, or the task wants none.
    fn settle(
        self,
        task: &Task,
        pool: &str,
        considered: usize,
        counts: &mut PoolCounts,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        if task.strict {
            return Err(
                first.or_else_help("leave such rows out with `filter`, or all that are odd with `strict = false`")
            );
        }
        let Some((alike, _, error)) =
            self.messages.into_values().max_by_key(|(count, place, _)| (*count, Reverse(*place)))
        else {
            return Ok(());
        };
        if self.count * ODD_ROWS > considered {
            let error = error.or_else_help("`filter` leaves rows out, if it is right that they are there");
            return Err(match (self.count, alike) {
                (1, _) => error,
                (odd, alike) => {
                    let alike =
                        if alike == odd { "all for this reason".into() } else { format!("{alike} for this reason") };
                    error.context(format!("{odd} of {considered} rows for `{pool}` make no example, {alike}"))
                }
            });
        }
        let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let file =
            first.place().and_then(|place| place.file.file_name()).map(|name| name.to_string_lossy().into_owned());
        let place = file.map(|name| format!("{name}, ")).unwrap_or_default();
        let (odd, what) = (self.count, if self.count == 1 { "row is" } else { "rows are" });
        notes.push(format!(
            "{odd} {what} left out of the {considered} for `{pool}` ({}), the first in {place}{}; `strict = true` in the task file makes this an error",
            reasons.join(", "),
            first.message()
        ));
        self.reasons.iter().for_each(|(reason, count)| counts.drop(reason, *count));
        Ok(())
    }
}

/// The first `n` points of a half that has been shuffled, and the others, both in its order. Of each class there are as many as its share
/// of the half demands (largest remainders); what belongs together stays so, and where that does not fit the next one is taken.
fn hold_out(half: Vec<Point>, n: usize) -> (Vec<Point>, Vec<Point>) {
    let mut classes: BTreeMap<u8, usize> = BTreeMap::new();
    let mut places: BTreeMap<u128, usize> = BTreeMap::new();
    let mut groups: Vec<(u128, BTreeMap<u8, usize>)> = Vec::new();
    for point in &half {
        let class = point.example.label;
        *classes.entry(class).or_default() += 1;
        let place = *places.entry(point.whole).or_insert(groups.len());
        if place == groups.len() {
            groups.push((point.whole, BTreeMap::new()));
        }
        *groups[place].1.entry(class).or_default() += 1;
    }
    let total = half.len() as u128;
    let share = |count: usize| (n as u128 * count as u128 / total, n as u128 * count as u128 % total);
    let mut room: BTreeMap<u8, usize> =
        classes.iter().map(|(class, count)| (*class, share(*count).0 as usize)).collect();
    let mut by_remainder: Vec<u8> = classes.keys().copied().collect();
    by_remainder.sort_by_key(|class| Reverse(share(classes[class]).1));
    let missing = n - room.values().sum::<usize>();
    for class in by_remainder.into_iter().take(missing) {
        *room.entry(class).or_default() += 1;
    }
    let mut held_out = BTreeSet::new();
    for (whole, counts) in groups {
        if counts.iter().all(|(class, count)| room[class] >= *count) {
            counts.iter().for_each(|(class, count)| *room.entry(*class).or_default() -= count);
            held_out.insert(whole);
        }
    }
    half.into_iter().partition(|point| held_out.contains(&point.whole))
}

/// What `Dataset.shuffle(seed)` of the `datasets` library does.
pub(super) fn permute<T>(items: Vec<T>, seed: u64) -> Vec<T> {
    let order = NumpyRng::new(seed).permutation(items.len());
    taken(items, order)
}

/// The items at these places.
fn taken<T>(items: Vec<T>, places: Vec<usize>) -> Vec<T> {
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    places.into_iter().filter_map(|place| items[place].take()).collect()
}

/// The places of examples, by their labels, after dropping those of the larger classes at random until all classes are as large as the
/// smallest; bit for bit what EleutherAI/w2s does with two classes: the smaller class in its order, the larger shuffled and cut, then
/// both shuffled together. Of two classes of the same size, the one seen first counts as the larger.
fn undersample(labels: impl Iterator<Item = u8>, classes: &[String], seed: u64) -> Result<Vec<usize>> {
    let mut by_class: Vec<Vec<usize>> = classes.iter().map(|_| Vec::new()).collect();
    let mut seen = Vec::new();
    for (place, label) in labels.enumerate() {
        let class = usize::from(label);
        if !seen.contains(&class) {
            seen.push(class);
        }
        by_class[class].push(place);
    }
    if let Some(empty) = by_class.iter().position(Vec::is_empty) {
        return Err(Error::new(format!("no example has the class `{}`", classes[empty])));
    }
    let Some(&smallest) = seen.iter().rev().min_by_key(|class| by_class[**class].len()) else { return Ok(Vec::new()) };
    let mut balanced = std::mem::take(&mut by_class[smallest]);
    let n = balanced.len();
    for class in by_class {
        let mut shuffled = permute(class, seed);
        shuffled.truncate(n);
        balanced.extend(shuffled);
    }
    Ok(permute(balanced, seed))
}
