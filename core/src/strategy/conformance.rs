//! What every strategy promises, as checks that run over the whole registry.
//!
//! A strategy cannot escape: [`check_all`] iterates the registry, so a file dropped into `plugins/` is checked by the same test as
//! everything that comes with w2s. [`check`] runs the checks of one card, for a plugin author's own test.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

use super::form::SILENT;
use super::{
    Ask, Batch, Calibration, Card, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, ConfiguredSupervisor,
    ExampleId, Form, Given, Invalid, Kind, Labels, Memory, Needs, Pool, Progress, Selection, Selector, Split,
    StudentLoss, Supervision, TokenView, all, math,
};
use crate::{error::panic_message, ops};

/// A promise that a strategy does not keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Kind, configuration and place of the strategy.
    pub strategy: String,
    /// Which promise.
    pub check: &'static str,
    /// What was seen.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fails `{}`: {}", self.strategy, self.check, self.message)
    }
}

/// What a check returns: nothing, or what was seen instead.
type Outcome = Result<(), String>;

/// A configuration: the table of a TOML file.
type Table = Map<String, Value>;

type Check = fn(&Card, &Table) -> Outcome;

/// Checks every registered strategy.
pub fn check_all() -> Vec<Failure> {
    all().into_iter().flat_map(check).collect()
}

/// Checks one strategy: its card, and its behaviour in every configuration that its enumerated and boolean parameters can form.
pub fn check(card: &Card) -> Vec<Failure> {
    let of_card: [(&'static str, Check); 6] = [
        ("name", name_is_kebab_case),
        ("card", card_is_complete),
        ("default", default_is_valid),
        ("unknown field", unknown_field_is_refused),
        ("wrong type", wrong_type_is_refused),
        ("refusal", refusal_is_a_sentence),
    ];
    let of_behaviour: &[(&'static str, Check)] = match card.kind {
        Kind::Loss => &[
            ("round trip", configuration_round_trip),
            ("finite", loss_is_finite),
            ("gradient", loss_gradient_is_the_derivative),
            ("row independence", loss_rows_are_independent),
            ("determinism", loss_is_deterministic),
            ("words", loss_says_what_it_does_on_words),
            ("words: gradient", loss_gradient_on_words_is_the_derivative),
            ("words: one token", loss_on_one_token_is_that_of_classes),
        ],
        Kind::Selector => &[
            ("round trip", configuration_round_trip),
            ("selection", selector_selects),
            ("words", selector_selects_answers),
        ],
        Kind::Refiner => &[
            ("round trip", configuration_round_trip),
            ("labels", refiner_gives_probabilities),
            ("words", refiner_chooses_answers),
        ],
        Kind::Supervisor => &[("round trip", configuration_round_trip), ("supervision", supervisor_labels)],
    };
    let default = default_table(card);
    let mut failures: Vec<Failure> = of_card.iter().filter_map(|check| run(card, &default, check)).collect();
    for table in configurations(card) {
        failures.extend(of_behaviour.iter().filter_map(|check| run(card, &table, check)));
    }
    failures
}

/// Runs one check and turns what it reports, or a panic, into a failure.
fn run(card: &Card, table: &Table, (check, promise): &(&'static str, Check)) -> Option<Failure> {
    let message = match catch_unwind(AssertUnwindSafe(|| promise(card, table))) {
        Ok(Ok(())) => return None,
        Ok(Err(message)) => message,
        Err(panic) => format!("panicked: {}", panic_message(panic.as_ref())),
    };
    let strategy = format!("{} {} ({}:{})", card.kind, Value::Object(table.clone()), card.file, card.line);
    Some(Failure { strategy, check, message })
}

// Configuration, the same for all kinds.

/// The default configuration as a table, with the strategy's name, without the options that are not set.
fn default_table(card: &Card) -> Table {
    let mut table = Map::from_iter([("type".to_owned(), json!(card.name))]);
    let example = (card.example)();
    table.extend(example.as_object().cloned().unwrap_or_default().into_iter().filter(|(_, value)| !value.is_null()));
    table
}

/// The default and every other combination of the values that the schema enumerates, as far as `validate()` accepts it.
fn configurations(card: &Card) -> Vec<Table> {
    const MOST: usize = 200;
    let schema = card.schema().to_value();
    let mut tables = vec![default_table(card)];
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let mut values = Vec::new();
        enumerated(&schema, property, &mut values);
        let default = tables[0].get(name).cloned();
        for table in tables.clone() {
            for value in values.iter().filter(|value| Some(*value) != default.as_ref()) {
                let mut other = table.clone();
                other.insert(name.clone(), value.clone());
                tables.push(other);
            }
        }
        tables.truncate(MOST);
    }
    let accepted = |table: &Table| matches!(read(card.kind, table), Ok((_, Ok(()))));
    let default = tables.remove(0);
    // The default stays whether it is valid or not: it must be, and its failures are worth seeing.
    std::iter::once(default).chain(tables.into_iter().filter(accepted)).collect()
}

/// The values that a property's schema lists: words of an enumeration, true and false.
fn enumerated(schema: &Value, property: &Value, values: &mut Vec<Value>) {
    if property["type"] == "boolean" {
        values.extend([json!(false), json!(true)]);
    }
    values.extend(property.get("const").cloned());
    values.extend(property["enum"].as_array().into_iter().flatten().filter(|value| !value.is_null()).cloned());
    for alternative in ["oneOf", "anyOf"].iter().filter_map(|key| property[*key].as_array()).flatten() {
        enumerated(schema, alternative, values);
    }
    if let Some(target) =
        property["$ref"].as_str().and_then(|reference| schema.pointer(reference.trim_start_matches('#')))
    {
        enumerated(schema, target, values);
    }
}

fn parsed<T: serde::de::DeserializeOwned>(table: &Table) -> Result<T, String> {
    let text = toml::to_string(table).map_err(|error| format!("cannot be written as TOML: {error}"))?;
    toml::from_str(&text).map_err(|error| error.to_string())
}

/// Reads a table (through TOML) as a strategy of its kind, and gives back what the strategy validates and serializes to.
fn read(kind: Kind, table: &Table) -> Result<(Value, Result<(), Invalid>), String> {
    macro_rules! read {
        ($configured:ident) => {{
            let strategy: Box<dyn $configured> = parsed(table)?;
            (serde_json::to_value(&strategy), strategy.validate())
        }};
    }
    let (value, valid) = match kind {
        Kind::Loss => read!(ConfiguredLoss),
        Kind::Selector => read!(ConfiguredSelector),
        Kind::Refiner => read!(ConfiguredRefiner),
        Kind::Supervisor => read!(ConfiguredSupervisor),
    };
    Ok((value.map_err(|error| error.to_string())?, valid))
}

fn name_is_kebab_case(card: &Card, _: &Table) -> Outcome {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let letter = card.name.starts_with(|first: char| first.is_ascii_lowercase());
    ensure(letter && card.name.split('-').all(word), || "the name must be lower-case words joined by `-`".to_owned())
}

fn card_is_complete(card: &Card, _: &Table) -> Outcome {
    let summary = card.summary();
    let sentence = summary.len() > 10 && summary.ends_with('.') && !summary.trim_end_matches('.').contains(". ");
    ensure(sentence, || format!("the doc comment's first paragraph must be one sentence, not {summary:?}"))?;
    ensure(!card.paper.trim().is_empty(), || "`paper` is empty; say `original` if there is none".to_owned())?;
    for parameter in card.parameters() {
        let name = &parameter.name;
        ensure(!parameter.text.is_empty(), || format!("parameter `{name}` has no doc comment"))?;
        ensure(!parameter.origin.is_empty(), || format!("the doc comment of `{name}` has no line `Origin: …`"))?;
    }
    let known: Vec<String> = card.parameters().into_iter().map(|parameter| parameter.name).collect();
    if let Some(name) = card.later.iter().find(|name| !known.iter().any(|known| known == *name)) {
        return Err(format!("`later` names `{name}`, which is no parameter"));
    }
    match card.changed.iter().find(|(name, _)| !known.iter().any(|known| known == name)) {
        Some((name, _)) => Err(format!("`changed` names `{name}`, which is no parameter")),
        None => Ok(()),
    }
}

fn default_is_valid(card: &Card, table: &Table) -> Outcome {
    let (_, valid) = read(card.kind, table)?;
    valid.map_err(|invalid| format!("validate() refuses the default: {} {}", invalid.parameter, invalid.message))?;
    let bare = Map::from_iter([("type".to_owned(), json!(card.name))]);
    read(card.kind, &bare).map(drop).map_err(|error| format!("does not parse without parameters: {error}"))
}

fn configuration_round_trip(card: &Card, table: &Table) -> Outcome {
    let (back, _) = read(card.kind, table)?;
    let mut back = back.as_object().cloned().unwrap_or_default();
    back.retain(|_, value| !value.is_null());
    ensure(back == *table, || format!("{} became {}", Value::Object(table.clone()), Value::Object(back)))
}

fn unknown_field_is_refused(card: &Card, table: &Table) -> Outcome {
    let mut table = table.clone();
    table.insert("no-such-parameter".to_owned(), json!(1));
    ensure(read(card.kind, &table).is_err(), || {
        "accepts a parameter it does not have; add `#[serde(default, deny_unknown_fields)]`".to_owned()
    })
}

fn wrong_type_is_refused(card: &Card, table: &Table) -> Outcome {
    for parameter in card.parameters() {
        let mut table = table.clone();
        table.insert(parameter.name.clone(), json!({ "no-such-parameter": [1] }));
        ensure(read(card.kind, &table).is_err(), || format!("`{}` accepts a table", parameter.name))?;
    }
    Ok(())
}

/// What `fits` says of any form is nothing, or half a sentence that the user can do something with.
fn refusal_is_a_sentence(card: &Card, table: &Table) -> Outcome {
    for form in [Form::Classes(2), Form::Classes(3), Form::Candidates(2), Form::Candidates(4), Form::Words] {
        let fits = match card.kind {
            Kind::Loss => parsed::<Box<dyn ConfiguredLoss>>(table)?.fits(form),
            Kind::Selector => parsed::<Box<dyn ConfiguredSelector>>(table)?.fits(form),
            Kind::Refiner => parsed::<Box<dyn ConfiguredRefiner>>(table)?.fits(form),
            Kind::Supervisor => parsed::<Box<dyn ConfiguredSupervisor>>(table)?.fits(form),
        };
        let Err(why) = fits else { continue };
        ensure(why.len() > 20 && why.contains(' ') && !why.ends_with('.'), || {
            format!("refuses {form} with {why:?}; say why in a sentence without its full stop")
        })?;
    }
    Ok(())
}

// Data the strategies are tried on.

/// A batch with a name: logits and labels, row by row.
struct Sample {
    name: String,
    logits: Vec<Vec<f32>>,
    labels: Labels,
}

impl Sample {
    fn new(name: impl Into<String>, logits: Vec<Vec<f32>>, labels: Labels) -> Self {
        Self { name: name.into(), logits, labels }
    }
}

/// A number in (0, 1) from an index.
fn unit(index: usize) -> f32 {
    ((math::draw(17, index as u64) >> 40) as f32 + 0.5) / (1u64 << 24) as f32
}

/// Ordinary rows: logits in (−1.5, 1.5), labels between 0.05 and 0.95, nothing equal to anything else.
fn ordinary(rows: usize, classes: usize) -> Sample {
    let logits = grid(rows, classes, |index| 3.0 * unit(index) - 1.5);
    let labels = grid(rows, classes, |index| 0.1 + unit(index + 1000)).into_iter().map(normalised).collect();
    Sample::new(format!("{rows} ordinary rows"), logits, labels)
}

/// `rows` × `classes` numbers by running index.
fn grid(rows: usize, classes: usize, number: impl Fn(usize) -> f32) -> Vec<Vec<f32>> {
    (0..rows).map(|row| (0..classes).map(|class| number(row * classes + class)).collect()).collect()
}

fn normalised(row: Vec<f32>) -> Vec<f32> {
    let sum: f32 = row.iter().sum();
    row.into_iter().map(|value| value / sum).collect()
}

fn one_hot(class: usize, classes: usize) -> Vec<f32> {
    (0..classes).map(|other| if other == class { 1.0 } else { 0.0 }).collect()
}

/// The batches on which a loss must be finite.
fn samples(classes: usize) -> Vec<Sample> {
    let hard = |rows: usize| (0..rows).map(|row| one_hot(row % classes, classes)).collect::<Labels>();
    let zero = |rows: usize| vec![vec![0.0; classes]; rows];
    let ordinary_rows = ordinary(8, classes);
    let mut samples = vec![
        Sample::new("hard labels", ordinary_rows.logits.clone(), hard(8)),
        Sample::new("the zero head", zero(6), ordinary(6, classes).labels),
        Sample::new("the zero head with hard labels", zero(6), hard(6)),
        Sample::new("uniform labels", ordinary_rows.logits, vec![vec![1.0 / classes as f32; classes]; 8]),
        ordinary(8, classes),
        ordinary(1, classes),
        Sample::new("one row of the zero head", zero(1), hard(1)),
    ];
    for scale in [40.0, 1e4] {
        // Right, wrong and undecided, against hard and soft labels.
        let logits: Vec<Vec<f32>> = (0..8)
            .map(|row| (0..classes).map(|class| if class == row % classes { scale } else { -scale }).collect())
            .collect();
        let wrong = (0..8).map(|row| one_hot((row / 2) % classes, classes)).collect();
        let soft = ordinary(8, classes).labels;
        samples.push(Sample::new(format!("logits of ±{scale} with hard labels"), logits.clone(), wrong));
        samples.push(Sample::new(format!("logits of ±{scale} with soft labels"), logits, soft));
    }
    samples
}

/// Early, in the middle and at the end of training.
fn moments() -> [Progress; 3] {
    [0, 5, 9].map(|step| Progress { step, total_steps: 10, epoch: step / 5, epochs: 2 })
}

fn tensor(values: &[Vec<f32>], device: &Device) -> Tensor<2> {
    let rows: Vec<Tensor<2>> =
        values.iter().map(|row| Tensor::<1>::from_floats(row.as_slice(), device).unsqueeze_dim::<2>(0)).collect();
    Tensor::cat(rows, 0)
}

fn numbers(tensor: Tensor<2>) -> Vec<Vec<f32>> {
    let columns = tensor.dims()[1].max(1);
    let flat: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    flat.chunks(columns).map(<[f32]>::to_vec).collect()
}

/// A data set with what a strategy asked for, and nothing else.
fn pool(labels: &Labels, needs: &Needs, columns: &[String]) -> Pool {
    let (rows, classes) = (labels.len(), labels.first().map_or(2, Vec::len));
    let truth = |from: usize| (0..rows).map(|row| (unit(row + from) * classes as f32) as u8).collect::<Vec<u8>>();
    Pool {
        ids: (0..rows as u32).map(ExampleId).collect(),
        weak: labels.clone(),
        embeddings: needs.embeddings.then(|| grid(rows, 4, |index| unit(index + 5000) - 0.5)),
        // Soft, because a strategy may work with how sure the strong model is.
        self_labels: needs.self_labels.then(|| {
            let soft = grid(rows, classes, |index| 0.05 + unit(index + 6000));
            soft.into_iter().map(normalised).collect()
        }),
        truth: needs.truth.then(|| truth(7000)),
        calibration: needs.calibration.then(|| Calibration { weak: labels.clone(), truth: truth(8000) }),
        columns: columns.iter().map(|name| (name.clone(), (0..rows).map(|row| unit(row + 9000)).collect())).collect(),
        tasks: Vec::new(),
        seed: 7,
    }
}

/// A fresh strategy that has seen the data. `Ok(None)`: it refuses tasks with this many classes, which is its right beyond two.
macro_rules! prepared {
    ($table:expr, $configured:ident, $labels:expr) => {{
        let mut strategy: Box<dyn $configured> = parsed($table)?;
        let needs = strategy.needs();
        let labels: &Labels = $labels;
        let classes = labels.first().map_or(2, Vec::len);
        match strategy
            .fits(Form::Classes(classes))
            .and_then(|()| strategy.prepare(&pool(labels, &needs, &strategy.columns())))
        {
            Ok(()) => Some(strategy),
            Err(_) if classes > 2 => None,
            Err(message) => return Err(format!("an ordinary data set of two classes is refused: {message}")),
        }
    }};
}

// Losses.

/// Targets as the engine makes them, on the device on which the loss is then taken.
fn targets(loss: &dyn StudentLoss, sample: &Sample, at: &Progress, memory: &mut Memory, device: &Device) -> Tensor<2> {
    let (logits, labels) = (tensor(&sample.logits, device).detach(), tensor(&sample.labels, device));
    let ids: Vec<ExampleId> = (0..sample.labels.len() as u32).map(ExampleId).collect();
    let columns = loss.columns();
    let pool = pool(&sample.labels, &loss.needs(), &columns);
    let batch = Batch::new(&ids, labels.clone()).at(*at);
    let batch = columns.iter().fold(batch, |batch, name| {
        batch.with_column(name.as_str(), Tensor::<1>::from_floats(pool.columns[name].as_slice(), device).detach())
    });
    loss.targets_of(&batch, logits, labels, memory).detach()
}

/// Row-wise losses.
fn values(loss: &dyn StudentLoss, logits: &[Vec<f32>], targets: Tensor<2>, at: &Progress) -> Vec<f32> {
    let logits = tensor(logits, &targets.device());
    math::to_host(loss.loss(logits, targets, at))
}

/// Row-wise losses, and the gradient of their sum row by row.
type Evaluation = (Vec<f32>, Vec<Vec<f32>>);

/// Row-wise losses and the gradient of their sum.
fn values_and_gradient(
    loss: &dyn StudentLoss,
    sample: &Sample,
    at: &Progress,
    memory: &mut Memory,
) -> Result<Evaluation, String> {
    let device = Device::flex().autodiff();
    let targets = targets(loss, sample, at, memory, &device);
    let logits = tensor(&sample.logits, &device).require_grad();
    let value = loss.loss(logits.clone(), targets, at);
    let [rows] = value.dims();
    ensure(rows == sample.logits.len(), || format!("{rows} losses for {} rows", sample.logits.len()))?;
    let gradients = value.clone().sum().backward();
    let gradient = logits.grad(&gradients).ok_or("no gradient reaches the logits")?;
    Ok((math::to_host(value), numbers(gradient)))
}

fn loss_is_finite(_: &Card, table: &Table) -> Outcome {
    for classes in [2, 3] {
        for sample in samples(classes) {
            let Some(loss) = prepared!(table, ConfiguredLoss, &sample.labels) else { continue };
            let mut memory = Memory::default();
            for at in moments() {
                let (value, gradient) = values_and_gradient(&*loss, &sample, &at, &mut memory)
                    .map_err(|error| format!("on {}: {error}", sample.name))?;
                let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
                ensure(finite(&value), || format!("on {}: losses {value:?}", sample.name))?;
                ensure(gradient.iter().all(|row| finite(row)), || {
                    format!("on {}: gradient {gradient:?}", sample.name)
                })?;
            }
        }
    }
    Ok(())
}

/// Central differences with the targets held still. What a loss stops the gradient of must therefore be in its targets.
fn loss_gradient_is_the_derivative(_: &Card, table: &Table) -> Outcome {
    const STEP: f32 = 1e-2;
    for classes in [2, 3] {
        let sample = ordinary(12, classes);
        let Some(loss) = prepared!(table, ConfiguredLoss, &sample.labels) else { continue };
        for at in moments() {
            let (_, gradient) = values_and_gradient(&*loss, &sample, &at, &mut Memory::default())?;
            let targets = targets(&*loss, &sample, &at, &mut Memory::default(), &Device::flex());
            for class in 0..classes {
                let moved = |by: f32| {
                    let mut logits = sample.logits.clone();
                    logits.iter_mut().for_each(|row| row[class] += by);
                    values(&*loss, &logits, targets.clone(), &at)
                };
                let (up, down) = (moved(STEP), moved(-STEP));
                for (row, (up, down)) in up.iter().zip(&down).enumerate() {
                    let (difference, given) = ((up - down) / (2.0 * STEP), gradient[row][class]);
                    ensure((difference - given).abs() <= 2e-3 * difference.abs().max(1.0), || {
                        format!(
                            "row {row}, class {class}: the gradient is {given}, central differences give {difference}"
                        )
                    })?;
                }
            }
        }
    }
    Ok(())
}

fn loss_rows_are_independent(_: &Card, table: &Table) -> Outcome {
    let sample = ordinary(6, 2);
    let Some(loss) = prepared!(table, ConfiguredLoss, &sample.labels) else { return Ok(()) };
    for at in moments() {
        let targets = targets(&*loss, &sample, &at, &mut Memory::default(), &Device::flex());
        let together = values(&*loss, &sample.logits, targets.clone(), &at);
        for (row, logits) in sample.logits.iter().enumerate() {
            let alone = values(&*loss, std::slice::from_ref(logits), targets.clone().narrow(0, row, 1), &at);
            ensure(alone.len() == 1 && (alone[0] - together[row]).abs() <= 1e-6 * alone[0].abs().max(1.0), || {
                format!("row {row} is {} in its batch and {alone:?} alone", together[row])
            })?;
        }
    }
    Ok(())
}

fn loss_is_deterministic(_: &Card, table: &Table) -> Outcome {
    let run = || -> Result<Vec<Evaluation>, String> {
        let sample = ordinary(8, 2);
        let Some(loss) = prepared!(table, ConfiguredLoss, &sample.labels) else { return Ok(Vec::new()) };
        let mut memory = Memory::default();
        moments().iter().map(|at| values_and_gradient(&*loss, &sample, at, &mut memory)).collect()
    };
    ensure(run()? == run()?, || "two equal runs differ".to_owned())
}

// Losses on words.

/// A loss that takes answers in words and has seen the data, whose labels are hard. `None`: it refuses words, which is its right.
fn on_words(table: &Table, rows: usize) -> Result<Option<Box<dyn ConfiguredLoss>>, String> {
    let mut loss: Box<dyn ConfiguredLoss> = parsed(table)?;
    if loss.fits(Form::Words).is_err() {
        return Ok(None);
    }
    let labels: Labels = vec![one_hot(0, 2); rows];
    let pool = pool(&labels, &loss.needs(), &loss.columns());
    loss.prepare(&pool).map_err(|message| format!("ordinary answers are refused: {message}"))?;
    Ok(Some(loss))
}

/// Logits of T tokens over small vocabularies, among them extreme ones, with the label of each.
fn token_samples() -> Vec<(Sample, Vec<u32>)> {
    let classes = [2, 3, 40];
    let samples = classes.into_iter().flat_map(samples);
    samples
        .map(|sample| {
            let labels = sample.labels.iter().map(|label| math::likeliest(label) as u32).collect();
            (sample, labels)
        })
        .collect()
}

/// Token-wise losses.
fn token_losses(loss: &dyn StudentLoss, tokens: &TokenView, at: &Progress) -> Result<Tensor<1>, String> {
    let losses = loss.tokens(tokens, at).ok_or("`fits` lets words pass and `tokens` gives nothing")?;
    let [count] = losses.dims();
    ensure(count == tokens.len(), || format!("{count} losses for {} tokens", tokens.len()))?;
    Ok(losses)
}

/// Token-wise losses times what [`StudentLoss::weigh`] makes them count as answers of one token, and the gradient of their sum along the logits.
fn token_values_and_gradient(
    loss: &dyn StudentLoss,
    logits: &[Vec<f32>],
    labels: &[u32],
    at: &Progress,
) -> Result<Evaluation, String> {
    let device = Device::flex().autodiff();
    let logits = tensor(logits, &device).require_grad();
    let tokens = TokenView::of(logits.clone(), labels);
    let losses = token_losses(loss, &tokens, at)?;
    let losses = if loss.needs().student {
        let weight = loss.weigh(tokens.still.label.clone().neg(), at, &mut Memory::default());
        let mean = math::mean(weight.clone());
        losses * weight / mean.expand([labels.len()])
    } else {
        losses
    };
    let gradient = logits.grad(&losses.clone().sum().backward()).ok_or("no gradient reaches the logits")?;
    Ok((math::to_host(losses), numbers(gradient)))
}

fn loss_says_what_it_does_on_words(_: &Card, table: &Table) -> Outcome {
    for (sample, labels) in token_samples() {
        let Some(loss) = on_words(table, labels.len())? else {
            let loss: Box<dyn ConfiguredLoss> = parsed(table)?;
            let tokens = TokenView::of(tensor(&sample.logits, &Device::flex()), &labels);
            // Other configurations of the same loss may fit, and this one then has a reason of its own.
            let forgotten = loss.fits(Form::Words).is_err_and(|why| why.ends_with(SILENT));
            return ensure(!forgotten || loss.tokens(&tokens, &moments()[1]).is_none(), || {
                "has a loss for tokens that is never used: let words pass in `fits`".to_owned()
            });
        };
        for at in moments() {
            let (value, gradient) = token_values_and_gradient(&*loss, &sample.logits, &labels, &at)
                .map_err(|error| format!("on {}: {error}", sample.name))?;
            let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
            ensure(finite(&value), || format!("on {}: losses {value:?}", sample.name))?;
            ensure(gradient.iter().all(|row| finite(row)), || format!("on {}: gradient {gradient:?}", sample.name))?;
            // In two parts, as the engine may take them.
            let whole = TokenView::of(tensor(&sample.logits, &Device::flex()), &labels);
            let whole = math::to_host(token_losses(&*loss, &whole, &at)?);
            let (first, second) = sample.logits.split_at(labels.len() / 2);
            let mut parts = Vec::new();
            for (logits, labels) in [(first, &labels[..first.len()]), (second, &labels[first.len()..])] {
                if !labels.is_empty() {
                    let part = TokenView::of(tensor(logits, &Device::flex()), labels);
                    parts.extend(math::to_host(token_losses(&*loss, &part, &at)?));
                }
            }
            let same = whole.iter().zip(&parts).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs().max(1.0));
            ensure(same, || format!("on {}: {whole:?} together and {parts:?} in two parts", sample.name))?;
        }
    }
    Ok(())
}

/// Central differences with [`TokenView::still`] held still.
fn loss_gradient_on_words_is_the_derivative(_: &Card, table: &Table) -> Outcome {
    const STEP: f32 = 1e-2;
    let (tokens, vocabulary) = (12, 5);
    let sample = ordinary(tokens, vocabulary);
    let labels: Vec<u32> = (0..tokens).map(|token| (token % vocabulary) as u32).collect();
    let Some(loss) = on_words(table, tokens)? else { return Ok(()) };
    let table_of = |logits: &[Vec<f32>], device: &Device| ops::statistics(tensor(logits, device), &labels);
    for at in moments() {
        let still = table_of(&sample.logits, &Device::flex());
        let logits = tensor(&sample.logits, &Device::flex().autodiff()).require_grad();
        let view = TokenView::new(ops::statistics(logits.clone(), &labels), vocabulary);
        let losses = token_losses(&*loss, &view, &at)?;
        let gradient = numbers(logits.grad(&losses.sum().backward()).ok_or("no gradient reaches the logits")?);
        for token in 0..vocabulary {
            let moved = |by: f32| {
                let mut logits = sample.logits.clone();
                logits.iter_mut().for_each(|row| row[token] += by);
                let live = table_of(&logits, &Device::flex());
                token_losses(&*loss, &TokenView::beside(live, still.clone(), vocabulary), &at).map(math::to_host)
            };
            let (up, down) = (moved(STEP)?, moved(-STEP)?);
            for (row, (up, down)) in up.iter().zip(&down).enumerate() {
                let (difference, given) = ((up - down) / (2.0 * STEP), gradient[row][token]);
                ensure((difference - given).abs() <= 2e-3 * difference.abs().max(1.0), || {
                    format!("row {row}, token {token}: the gradient is {given}, central differences give {difference}")
                })?;
            }
        }
    }
    Ok(())
}

/// An answer of one token over a vocabulary of K words is one of K classes with a hard label: value and gradient must agree.
fn loss_on_one_token_is_that_of_classes(_: &Card, table: &Table) -> Outcome {
    for (mut sample, labels) in token_samples() {
        let classes = sample.logits[0].len();
        let Some(loss) = on_words(table, labels.len())? else { return Ok(()) };
        if loss.fits(Form::Classes(classes)).is_err() {
            continue;
        }
        sample.labels = labels.iter().map(|label| one_hot(*label as usize, classes)).collect();
        for at in moments() {
            let (value, gradient) = token_values_and_gradient(&*loss, &sample.logits, &labels, &at)?;
            let (right, slopes) = values_and_gradient(&*loss, &sample, &at, &mut Memory::default())?;
            let near = |a: &f32, b: &f32| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
            ensure(value.iter().zip(&right).all(|(a, b)| near(a, b)), || {
                format!("on {}: {value:?} where the loss of {classes} classes is {right:?}", sample.name)
            })?;
            let (gradient, slopes) = (gradient.concat(), slopes.concat());
            ensure(gradient.iter().zip(&slopes).all(|(a, b)| near(a, b)), || {
                format!("on {}: gradient {gradient:?} where that of {classes} classes is {slopes:?}", sample.name)
            })?;
        }
    }
    Ok(())
}

// Selectors and refiners.

/// A batch with some number of each example in every column.
fn with_columns<'a>(batch: Batch<'a>, names: &[String]) -> Batch<'a> {
    let numbers: Tensor<1> = Tensor::from_floats(grid(1, batch.len(), unit)[0].as_slice(), &batch.weak.device());
    names.iter().fold(batch, |batch, name| batch.with_column(name, numbers.clone()))
}

/// Runs a check on a batch of answers in words, with nothing in it that was not asked for. Weak answers are column 0, own ones column 1.
fn on_answers((needs, columns): (&Needs, &[String]), mut run: impl FnMut(&Batch) -> Outcome) -> Outcome {
    let device = Device::flex();
    for rows in [1, 8] {
        let ids: Vec<ExampleId> = (0..rows as u32).map(ExampleId).collect();
        let student = if needs.student { grid(rows, 2, unit) } else { vec![vec![f32::NAN; 2]; rows] };
        for progress in moments() {
            let batch = Batch::new(&ids, tensor(&vec![one_hot(0, 2); rows], &device))
                .at(progress)
                .with_student(tensor(&student, &device))
                .with_self_labels(needs.self_labels.then(|| tensor(&vec![one_hot(1, 2); rows], &device)));
            let batch = with_columns(batch, columns);
            run(&batch).map_err(|error| format!("on {rows} answers in words: {error}"))?;
        }
    }
    Ok(())
}

fn selector_selects_answers(_: &Card, table: &Table) -> Outcome {
    let mut selector: Box<dyn ConfiguredSelector> = parsed(table)?;
    if selector.fits(Form::Words).is_err() {
        return Ok(());
    }
    let needs = selector.needs();
    selector.prepare(&pool(&vec![one_hot(0, 2); 8], &needs, &selector.columns()))?;
    on_answers((&needs, &selector.columns()), |batch| selection_is_sound(&*selector, batch))
}

fn refiner_chooses_answers(_: &Card, table: &Table) -> Outcome {
    let mut refiner: Box<dyn ConfiguredRefiner> = parsed(table)?;
    if refiner.fits(Form::Words).is_err() {
        return Ok(());
    }
    let needs = Needs { self_labels: true, ..refiner.needs() };
    refiner.prepare(&pool(&vec![one_hot(0, 2); 8], &needs, &refiner.columns()))?;
    on_answers((&needs, &refiner.columns()), |batch| {
        let mut selection = Selection::weak(batch);
        selection.own = math::rank(selection.own).lower_scalar(batch.len() as f64 / 2.0).float();
        probabilities(&numbers(refiner.refine(batch, &selection, &mut Memory::default())), batch.len(), 2)
    })
}

/// Runs a check on batches of ordinary, hard and equal labels with two and three classes, and on one row alone.
fn on_batches(
    (needs, columns): (&Needs, &[String]),
    mut run: impl FnMut(&Batch, &str) -> Outcome,
    classes: usize,
) -> Outcome {
    let device = Device::flex();
    for sample in samples(classes) {
        let rows = sample.labels.len();
        let ids: Vec<ExampleId> = (0..rows as u32).map(ExampleId).collect();
        for progress in moments() {
            let own = needs.self_labels.then(|| math::one_hot_argmax(tensor(&sample.logits, &device)));
            let batch = Batch::new(&ids, tensor(&sample.labels, &device))
                .at(progress)
                .with_student(math::softmax(tensor(&sample.logits, &device)))
                .with_embedding(tensor(&grid(rows, 4, |index| unit(index + 5000) - 0.5), &device))
                .with_self_labels(own);
            let batch = with_columns(batch, columns);
            run(&batch, &sample.name).map_err(|error| format!("on {}: {error}", sample.name))?;
        }
    }
    Ok(())
}

fn selector_selects(_: &Card, table: &Table) -> Outcome {
    for classes in [2, 3] {
        let labels = ordinary(40, classes).labels;
        let Some(selector) = prepared!(table, ConfiguredSelector, &labels) else { continue };
        let check = |batch: &Batch, _: &str| selection_is_sound(&*selector, batch);
        on_batches((&selector.needs(), &selector.columns()), check, classes)?;
        let pool = pool(&labels, &selector.needs(), &selector.columns());
        let chosen = selector.choose(&pool);
        ensure(chosen.as_ref().is_none_or(|chosen| chosen.len() == labels.len()), || {
            format!("`choose` decides about {:?} of {} examples", chosen.as_ref().map(Vec::len), labels.len())
        })?;
        ensure(selector.choose(&pool) == chosen, || "`choose` chooses one thing and then another".to_owned())?;
    }
    Ok(())
}

/// One decision and one weight per row, in range, and the same twice.
fn selection_is_sound(selector: &dyn Selector, batch: &Batch) -> Outcome {
    let select = || {
        let selection = selector.select(batch, &mut Memory::default());
        (math::to_host(selection.own), math::to_host(selection.weight))
    };
    let (own, weight) = select();
    ensure(own.len() == batch.len() && weight.len() == batch.len(), || {
        format!("{} decisions and {} weights for {} rows", own.len(), weight.len(), batch.len())
    })?;
    ensure(own.iter().all(|own| (0.0..=1.0).contains(own)), || format!("`own` must lie in [0, 1]: {own:?}"))?;
    ensure(weight.iter().all(|weight| *weight >= 0.0 && weight.is_finite()), || format!("weights {weight:?}"))?;
    ensure((own, weight) == select(), || "two equal calls differ".to_owned())
}

fn refiner_gives_probabilities(_: &Card, table: &Table) -> Outcome {
    for classes in [2, 3] {
        let labels = ordinary(40, classes).labels;
        let Some(refiner) = prepared!(table, ConfiguredRefiner, &labels) else { continue };
        let needs = Needs { self_labels: true, ..refiner.needs() };
        let check = |batch: &Batch, _: &str| {
            let mut selection = Selection::weak(batch);
            selection.own =
                math::rank(math::column(batch.weak.clone(), 0)).lower_scalar(batch.len() as f64 / 2.0).float();
            let refine = || numbers(refiner.refine(batch, &selection, &mut Memory::default()));
            let refined = refine();
            probabilities(&refined, batch.len(), classes)?;
            ensure(refined == refine(), || "two equal calls differ".to_owned())
        };
        on_batches((&needs, &refiner.columns()), check, classes)?;
    }
    Ok(())
}

/// Rows of probabilities: as many as asked, each of K numbers in [0, 1] that sum to one.
fn probabilities(labels: &[Vec<f32>], rows: usize, classes: usize) -> Outcome {
    ensure(labels.len() == rows, || format!("{} rows of labels for {rows} examples", labels.len()))?;
    let fine = |row: &Vec<f32>| {
        row.len() == classes
            && row.iter().all(|value| (-1e-6..=1.0 + 1e-5).contains(value))
            && (row.iter().sum::<f32>() - 1.0).abs() < 1e-4
    };
    match labels.iter().find(|row| !fine(row)) {
        Some(row) => Err(format!("{row:?} is not a row of {classes} probabilities")),
        None => Ok(()),
    }
}

// Supervisors.

/// Examples of a split, with so many held out for validation.
fn rows_of(split: Split, held_out: usize) -> usize {
    match split {
        Split::Supervise => 12,
        Split::Transfer => 20,
        Split::Test => 16,
        Split::Validation => held_out,
    }
}

/// An answer without models: the truth, or what somebody says who is right most of the time. `place` tells answers apart.
fn answer(ask: &Ask, place: usize, classes: usize, held_out: usize) -> Supervision {
    Supervision::default().map(|split, _| {
        let rows = rows_of(split, held_out);
        match ask {
            Ask::Truth | Ask::Wrong => (0..rows).map(|row| one_hot(row % classes, classes)).collect(),
            _ => {
                let soft = grid(rows, classes, |index| 0.05 + unit(index + 100 * place));
                soft.into_iter().map(normalised).collect()
            }
        }
    })
}

fn supervisor_labels(_: &Card, table: &Table) -> Outcome {
    let supervisor: Box<dyn ConfiguredSupervisor> = parsed(table)?;
    for ask in supervisor.asks() {
        for ask in ask.all() {
            if let Ask::FineTuned { on: split @ (Split::Test | Split::Validation), .. } = ask {
                return Err(format!("fine-tunes a model on the {} split", split.name()));
            }
        }
    }
    ensure(supervisor.asks() == supervisor.asks(), || "asks for one thing and then for another".to_owned())?;
    for (classes, held_out) in [(2, 0), (2, 10), (3, 10)] {
        let asks = supervisor.asks();
        let answers = asks.iter().enumerate().map(|(place, ask)| answer(ask, place, classes, held_out)).collect();
        let given = Given { answers, seed: 7 };
        let supervision = supervisor.supervise(&given)?;
        for split in [Split::Transfer, Split::Test, Split::Validation] {
            probabilities(supervision.of(split), rows_of(split, held_out), classes)
                .map_err(|error| format!("labels for {}: {error}", split.name()))?;
        }
        ensure(supervisor.supervise(&given)? == supervision, || "two equal runs differ".to_owned())?;
    }
    Ok(())
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(message()) }
}

#[cfg(test)]
mod tests {
    //! The checks must be able to fail: strategies that break one promise each, with cards that no registry holds.

    use std::sync::atomic::{AtomicU32, Ordering};

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::strategy::{
        LabelRefiner, Role, Supervisor,
        card::{example, probe, schema},
    };

    fn card<T: JsonSchema + Serialize + Default + serde::de::DeserializeOwned>(kind: Kind, name: &'static str) -> Card {
        let (schema, example, probe) = (schema::<T>, example::<T>, probe::<T>);
        Card {
            kind,
            name,
            paper: "original",
            version: 1,
            changed: &[],
            later: &[],
            aside: &[],
            file: "here",
            line: 1,
            schema,
            example,
            probe,
        }
    }

    /// The names of the checks that fail, each once.
    fn failing(card: Card) -> Vec<&'static str> {
        let mut failing: Vec<&'static str> = check(&card).into_iter().map(|failure| failure.check).collect();
        failing.dedup();
        failing
    }

    /// Declares a strategy without parameters and a card for it.
    macro_rules! broken {
        ($kind:ident $configured:ident $name:literal $type:ident, $imp:item) => {{
            /// A strategy that breaks one promise.
            #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
            #[serde(default, deny_unknown_fields)]
            struct $type {}
            $imp
            #[typetag::serde(name = $name)]
            impl $configured for $type {}
            card::<$type>(Kind::$kind, $name)
        }};
    }

    #[test]
    fn a_good_loss_passes() {
        let good = broken!(Loss ConfiguredLoss "test-good" Good, impl StudentLoss for Good {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                math::cross_entropy(targets, logits)
            }
        });
        assert_eq!(check(&good), []);
    }

    /// Declares a loss that is cross-entropy on classes, with something else on words.
    macro_rules! on_words {
        ($name:literal $type:ident, $tokens:item) => {
            broken!(Loss ConfiguredLoss $name $type, impl StudentLoss for $type {
                fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                    math::cross_entropy(targets, logits)
                }
                $tokens
                fn fits(&self, _form: Form) -> Result<(), String> {
                    Ok(())
                }
            })
        };
    }

    #[test]
    fn what_a_loss_does_on_words_is_checked() {
        // The example of docs/plugin.md.
        let good = broken!(Loss ConfiguredLoss "test-focal" Focal, impl StudentLoss for Focal {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                let log_p = math::log_softmax(logits);
                let doubt = (log_p.clone().exp().neg() + 1.0).clamp_min(1e-6).powf_scalar(2.0);
                math::rows(targets * doubt * log_p).neg()
            }
            fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
                let log_p = tokens.live.label.clone();
                let doubt = (log_p.clone().exp().neg() + 1.0).clamp_min(1e-6).powf_scalar(2.0);
                Some((doubt * log_p).neg())
            }
            fn fits(&self, _form: Form) -> Result<(), String> {
                Ok(())
            }
        });
        assert_eq!(check(&good), []);
        let silent = on_words!("test-silent" Silent, fn tokens(&self, _tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
            None
        });
        assert_eq!(failing(silent), ["words", "words: gradient", "words: one token"]);
        let other = on_words!("test-other" Other, fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
            Some(tokens.own_cross_entropy())
        });
        assert_eq!(failing(other), ["words: one token"]);
        let detached = on_words!("test-still" Still, fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
            Some(tokens.cross_entropy() * tokens.live.own.clone().detach().exp())
        });
        assert_eq!(failing(detached), ["words: gradient", "words: one token"]);
        let crowd = on_words!("test-token-crowd" TokenCrowd, fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
            Some(tokens.cross_entropy().mean().expand([tokens.len()]))
        });
        assert!(failing(crowd).contains(&"words"));
        let unused = broken!(Loss ConfiguredLoss "test-unused" Unused, impl StudentLoss for Unused {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                math::cross_entropy(targets, logits)
            }
            fn tokens(&self, tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
                Some(tokens.cross_entropy())
            }
        });
        assert_eq!(failing(unused), ["words"]);
        let bare = broken!(Loss ConfiguredLoss "test-bare" Bare, impl StudentLoss for Bare {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                math::cross_entropy(targets, logits)
            }
            fn fits(&self, form: Form) -> Result<(), String> {
                if form == Form::Words { Err("no".to_owned()) } else { Ok(()) }
            }
        });
        assert_eq!(failing(bare), ["refusal"]);
    }

    #[test]
    fn a_selector_sees_no_student_on_words_that_it_did_not_ask_for() {
        let peeks = broken!(Selector ConfiguredSelector "test-peeks" Peeks, impl Selector for Peeks {
            fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
                Selection { weight: math::row_max(batch.student.clone()), ..Selection::weak(batch) }
            }
            fn fits(&self, _form: Form) -> Result<(), String> {
                Ok(())
            }
        });
        assert_eq!(failing(peeks), ["words"]);
    }

    #[test]
    fn a_detached_factor_is_a_wrong_gradient() {
        let card = broken!(Loss ConfiguredLoss "test-detached" Detached, impl StudentLoss for Detached {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                let p = math::softmax(logits.clone()).detach();
                math::cross_entropy(targets * p, logits)
            }
        });
        assert_eq!(failing(card), ["gradient"]);
    }

    #[test]
    fn a_loss_without_gradient_fails() {
        let card = broken!(Loss ConfiguredLoss "test-blind" Blind, impl StudentLoss for Blind {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                math::cross_entropy(targets, logits.detach())
            }
        });
        assert!(failing(card).contains(&"finite"));
    }

    #[test]
    fn the_logarithm_of_a_softmax_is_not_finite() {
        let card = broken!(Loss ConfiguredLoss "test-overflow" Overflow, impl StudentLoss for Overflow {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                math::rows(targets * math::softmax(logits).log()).neg()
            }
        });
        assert_eq!(failing(card), ["finite"]);
    }

    #[test]
    fn rows_that_see_each_other_are_found() {
        let card = broken!(Loss ConfiguredLoss "test-crowd" Crowd, impl StudentLoss for Crowd {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                let rows = logits.dims()[0];
                math::cross_entropy(targets, logits).mean().expand([rows])
            }
        });
        assert!(failing(card).contains(&"row independence"));
    }

    #[test]
    fn hidden_state_is_found() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let card = broken!(Loss ConfiguredLoss "test-moody" Moody, impl StudentLoss for Moody {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                math::cross_entropy(targets, logits)
            }
            fn targets(&self, _logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
                labels * (1.0 + 0.01 * f64::from(CALLS.fetch_add(1, Ordering::Relaxed)))
            }
        });
        assert!(failing(card).contains(&"determinism"));
    }

    #[test]
    fn a_panic_is_a_failure_with_its_message() {
        let card = broken!(Loss ConfiguredLoss "test-panic" Panics, impl StudentLoss for Panics {
            fn loss(&self, _logits: Tensor<2>, _targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                panic!("no such class")
            }
        });
        let failures = check(&card);
        assert!(failures.iter().any(|failure| failure.to_string().contains("panicked: no such class")), "{failures:?}");
    }

    #[test]
    fn a_careless_card_is_found() {
        #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(default)]
        struct Careless {
            factor: f64,
            mode: serde_json::Value,
        }
        impl StudentLoss for Careless {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                math::cross_entropy(targets, logits)
            }
            fn validate(&self) -> Result<(), Invalid> {
                Invalid::unless_within("factor", self.factor, 0.5, 1.0)
            }
        }
        #[typetag::serde(name = "Test_Careless")]
        impl ConfiguredLoss for Careless {}
        let card = Card { paper: " ", ..card::<Careless>(Kind::Loss, "Test_Careless") };
        let failing = failing(card);
        for check in ["name", "card", "default", "unknown field", "wrong type"] {
            assert!(failing.contains(&check), "{check} is not among {failing:?}");
        }
    }

    #[test]
    fn every_enumerated_configuration_is_tried() {
        /// A loss that is wrong in one of its forms.
        #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        struct TwoFaced {
            /// Which form. Origin: original.
            form: Face,
            /// Whether to double. Origin: original.
            double: bool,
        }
        #[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        enum Face {
            #[default]
            Right,
            /// Wrong.
            Wrong,
        }
        impl StudentLoss for TwoFaced {
            fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
                match (self.form, self.double) {
                    (Face::Wrong, true) => math::rows(targets * math::softmax(logits).log()).neg(),
                    _ => math::cross_entropy(targets, logits),
                }
            }
        }
        #[typetag::serde(name = "test-two-faced")]
        impl ConfiguredLoss for TwoFaced {}
        let card = card::<TwoFaced>(Kind::Loss, "test-two-faced");
        assert_eq!(configurations(&card).len(), 4);
        let failures = check(&card);
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(failures[0].strategy.contains("wrong") && failures[0].strategy.contains("true"), "{failures:?}");
    }

    #[test]
    fn selectors_refiners_and_supervisors_are_tried() {
        let selector = broken!(Selector ConfiguredSelector "test-negative" Negative, impl Selector for Negative {
            fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
                let weight = math::row_max(batch.student.clone()) - 0.9;
                Selection { weight, ..Selection::weak(batch) }
            }
        });
        assert_eq!(failing(selector), ["selection"]);
        let refiner = broken!(Refiner ConfiguredRefiner "test-doubling" Doubling, impl LabelRefiner for Doubling {
            fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
                selection.labels(batch) * 2.0
            }
        });
        assert_eq!(failing(refiner), ["labels"]);
        let greedy = broken!(Supervisor ConfiguredSupervisor "test-greedy" Greedy, impl Supervisor for Greedy {
            fn asks(&self) -> Vec<Ask> {
                vec![Ask::fine_tuned(Role::Weak, Split::Validation)]
            }

            fn supervise(&self, given: &Given) -> Result<Supervision, String> {
                Ok(given.answers[0].clone())
            }
        });
        assert_eq!(failing(greedy), ["supervision"]);
        let short = broken!(Supervisor ConfiguredSupervisor "test-short" Short, impl Supervisor for Short {
            fn asks(&self) -> Vec<Ask> {
                vec![Ask::Truth]
            }

            fn supervise(&self, given: &Given) -> Result<Supervision, String> {
                Ok(Supervision { transfer: given.answers[0].test.clone(), ..given.answers[0].clone() })
            }
        });
        assert_eq!(failing(short), ["supervision"]);
    }
}
