//! `w2s task check`, `ids` and `new`: what a task's data look like, what its examples are called, and a task file for data that have none.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, Table, TableStyle};
use serde::Serialize;
use serde_json::Value;

use super::{REFUSED, show};
use crate::{
    Error, Result,
    document::Document,
    error::{IoContext, printable},
    grid::{Library, Places, find_tokenizer, open_world},
    report::metrics::Binary,
    task::{
        Counts, DataOptions, DraftForm, DraftOptions, Example, Form, Matcher, SourceFile, Sources, Task, TaskData,
        TokenCounts, draft, lengths,
    },
};

#[derive(Subcommand)]
pub enum TaskCommand {
    /// Reads tasks' data and reports what there is: rows, labels, lengths, repetitions, examples
    Check(CheckArgs),
    /// Writes the names of a task's examples beside their texts, as CSV: what a file of labels refers to
    Ids(IdsArgs),
    /// Writes a task file for a Parquet, JSONL, JSON, CSV or TSV file
    New(NewArgs),
}

#[derive(Args)]
pub struct CheckArgs {
    /// Tasks, by name or file; and changes of keys, of how data are read (n_train=1000 order=eleuther) or of the tasks
    /// (splits.test=validation)
    #[arg(required = true, value_name = "TASK|KEY=VALUE")]
    what: Vec<String>,
    /// Folder of data sets in hub layout, looked in before the hub; may be given several times [env: W2S_DATA]
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Folder of models, looked in before the hub; may be given several times [env: W2S_MODELS]
    #[arg(long, value_name = "DIR")]
    models: Vec<PathBuf>,
    /// Count the tokens of this model; may be given several times. Words and characters are counted without it
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Args)]
pub struct IdsArgs {
    /// The task, by name or file; and changes of keys, of how data are read (n_train=1000 seed=1, as the grid has them in `[data]`) or of
    /// the task (splits.test=validation)
    #[arg(required = true, value_name = "TASK|KEY=VALUE")]
    what: Vec<String>,
    /// Folder of data sets in hub layout, looked in before the hub; may be given several times [env: W2S_DATA]
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// A table with a row for each task
    Markdown,
}

#[derive(Args)]
pub struct NewArgs {
    /// The data
    file: PathBuf,
    /// Name of the task [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// Column to show [default: guessed]
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// Column of the label [default: guessed]
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// What the task asks for. Of a choice the candidates are guessed, as are the answers otherwise; words are those of the column that
    /// `--label` names
    #[arg(long, value_enum, default_value = "classify")]
    form: AskFor,
    /// Where to write the task file [default: configs/tasks/NAME.toml where there is a folder configs, else tasks/NAME.toml]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum AskFor {
    /// One of a few classes; of several answers, whether the one shown is right
    Classify,
    /// The right one of several candidates, or the better one of two
    Choose,
    /// Words
    Generate,
}

/// `w2s task`.
pub fn task(command: &TaskCommand) -> Result<ExitCode> {
    match command {
        TaskCommand::Check(args) => check(args),
        TaskCommand::Ids(args) => ids(args),
        TaskCommand::New(args) => new(args),
    }
}

/// What is reported of one task.
#[derive(Serialize)]
struct Report {
    task: String,
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<String>,
    licence: String,
    citation: String,
    file: PathBuf,
    options: DataOptions,
    /// Commit, tag or branch on the hub that the task names.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// Of the examples, as `results.csv` has it where none is cut to a model's length.
    data_hash: String,
    files: Vec<FileReport>,
    /// `classify`, `choose` or `generate`.
    form: &'static str,
    classes: Vec<String>,
    /// How answers in words are found and compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Answers>,
    counts: Counts,
    lengths: Vec<Length>,
    /// How well the number of characters alone tells class 1 from class 0: area under the ROC curve, 0.5 for not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    auroc_of_length: Option<f64>,
    /// Share of the choices in which the right candidate is the longest, and the share by chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_is_right: Option<(f64, f64)>,
    examples: Vec<Shown>,
}

/// How answers in words are found and compared.
#[derive(Serialize)]
struct Answers {
    rule: String,
    max_new_tokens: usize,
    stop: Vec<String>,
}

#[derive(Serialize)]
struct FileReport {
    path: PathBuf,
    rows: u32,
    blake3: String,
    sha256: String,
    /// The commit on the hub that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

/// How long examples are, over all parts.
#[derive(Serialize)]
struct Length {
    /// `words`, `characters` or the model's name.
    unit: String,
    median: usize,
    /// Of 95 of 100 examples, at most.
    percentile_95: usize,
    longest: usize,
    /// The longest text that the model reads, and how many examples are longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<(usize, usize)>,
    /// Answers of the prompt that are not one token for the model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    long_answers: Vec<String>,
    /// References of more tokens than may be generated, if there are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    long_references: Option<usize>,
}

#[derive(Serialize)]
struct Shown {
    /// Its class, the number of its right candidate, or the answer in its reference.
    label: String,
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
}

/// Rows on which a new task file is tried.
const TRIED: usize = 100_000;

/// Keys that say how data are read; the others are a task's.
const OPTIONS: [&str; 6] = ["order", "seed", "n_train", "n_validation", "n_test", "balance"];

/// What a command line names: tasks, how their data are read, and changes of the tasks themselves.
fn named(what: &[String]) -> Result<(Vec<&String>, DataOptions, Vec<String>)> {
    let (changes, names): (Vec<&String>, Vec<&String>) =
        what.iter().partition(|word| word.contains('=') || word.starts_with('~'));
    if names.is_empty() {
        return Err(Error::new("no task is named").help("e.g. `w2s task check sst2`; `w2s list tasks` shows the names"));
    }
    let (options, changes): (Vec<String>, Vec<String>) = changes.into_iter().cloned().partition(|change| {
        OPTIONS.contains(&change.split(['=', '.']).next().unwrap_or_default().trim_start_matches('~'))
    });
    let options: DataOptions =
        Document::parse("command line", "")?.with_overrides(&options)?.root().read::<DataOptions>()?;
    if options.n_train == Some(0) || options.n_test == Some(0) {
        return Err(Error::new("`n_train` and `n_test` must be at least 1"));
    }
    Ok((names, options, changes))
}

/// `w2s task ids`.
fn ids(args: &IdsArgs) -> Result<ExitCode> {
    let (names, options, changes) = named(&args.what)?;
    let [name] = names[..] else {
        return Err(Error::new(format!("{} tasks are named", names.len()))
            .help("name one: examples of several have the same ids"));
    };
    let (_, data) = examples(name, &changes, &options, &Sources::from_env(&args.data)?)?;
    let failed = |cause: csv::Error| Error::new(format!("cannot write the ids: {cause}"));
    let mut writer = csv::Writer::from_writer(std::io::stdout().lock());
    writer.write_record(["id", "split", "text"]).map_err(failed)?;
    for (split, part) in data.parts() {
        for (id, example) in data.ids(split, part).iter().zip(part) {
            writer.write_record([id, split, &example.text]).map_err(failed)?;
        }
    }
    writer.flush().map_err(|cause| failed(cause.into()))?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> Result<ExitCode> {
    let (names, options, changes) = named(&args.what)?;
    let places = Places { sources: Sources::from_env(&args.data)?, models: super::model_folders(&args.models)? };
    let mut reports = Vec::new();
    let mut failed = Vec::new();
    for name in names {
        match report(name, &changes, &options, args, &places) {
            Ok(report) => reports.push(report),
            Err(error) => failed.push(error),
        }
    }
    match args.format {
        _ if reports.is_empty() => {}
        Format::Text => reports.iter().for_each(|report| println!("{}", printable(text(report)))),
        Format::Markdown => println!("{}", printable(markdown(&reports))),
        Format::Json => {
            let json = match &reports[..] {
                [only] => serde_json::to_string_pretty(only),
                _ => serde_json::to_string_pretty(&reports),
            };
            println!("{}", json.map_err(|cause| Error::new(cause.to_string()))?);
        }
    }
    // What can be read is shown, whatever else was named.
    failed.iter().for_each(show::error);
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// The document of a task that is named or whose file is given, and where names in it are looked up.
fn open(name: &str) -> Result<(Document, Library)> {
    let path = Path::new(name);
    if path.extension().is_some_and(|extension| extension == "toml") || path.is_file() {
        return Ok((Document::open(path)?, Library::beside(path)));
    }
    let library = Library::beside(Path::new("configs/grid.toml"));
    Ok((library.open("tasks", name)?, library))
}

/// A task that is named or whose file is given, with changes, and its examples.
fn examples(name: &str, changes: &[String], options: &DataOptions, sources: &Sources) -> Result<(Opened, TaskData)> {
    let (document, library) = open(name)?;
    let file = document.file().to_owned();
    let task = if changes.is_empty() {
        Task::parse(document.source_text(), &file)?
    } else {
        let table = document.clone().with_overrides(changes)?.root().to_table()?;
        let changed = toml::to_string(&table).map_err(|cause| Error::new(cause.to_string()))?;
        // The file itself is sound, and has no such line.
        Task::parse(document.source_text(), &file)?;
        Task::parse(&changed, &file).map_err(|error| {
            let blamed = Error::new(error.message()).in_file("command line");
            blamed.help(error.remedy().unwrap_or("configs/tasks/README.md says what a task file can hold"))
        })?
    };
    let data = match &task.source.world {
        None => task.read(sources, options)?,
        Some(table) => {
            let world = table.get("name").and_then(Value::as_str).unwrap_or_default();
            task.read_from(&*open_world(&library, world)?.source(table, options.seed)?, options)?
        }
    };
    Ok((Opened { task, file, library }, data))
}

/// A task, its file, and where names in it are looked up.
struct Opened {
    task: Task,
    file: PathBuf,
    library: Library,
}

fn report(name: &str, changes: &[String], options: &DataOptions, args: &CheckArgs, places: &Places) -> Result<Report> {
    let (Opened { task, file, library }, data) = examples(name, changes, options, &places.sources)?;
    let mut measured = Vec::new();
    for model in &args.model {
        let (tokenizer, limit) = find_tokenizer(model, &library, places)?;
        let counts = TokenCounts::default();
        let count = |text: &str| counts.get(text, |text| tokenizer.encode(text).map(|ids| ids.len()));
        let tokens = lengths(&data, count)?;
        let over = tokens.iter().filter(|tokens| **tokens > limit).count();
        let answers = data.prompt.iter().flat_map(|prompt| prompt.answers.iter().flatten());
        let long_answers = answers.filter(|word| tokenizer.single(word).is_err()).cloned().collect();
        let long_references = long_references(&data, |text| tokenizer.encode_bare(text).map(|ids| ids.len()))?;
        measured.push(Length { limit: Some((limit, over)), long_answers, long_references, ..length(model, tokens) });
    }
    if measured.is_empty() {
        measured.push(length("words", lengths(&data, |text| Ok(text.split_whitespace().count()))?));
        measured.push(length("characters", lengths(&data, |text| Ok(text.chars().count()))?));
    }
    let characters: Vec<f32> = lengths(&data, |text| Ok(text.chars().count()))?.into_iter().map(|n| n as f32).collect();
    let most = characters.iter().copied().fold(1.0, f32::max);
    let labels = data.parts().into_iter().flat_map(|(_, part)| part).map(|example| f32::from(example.label)).collect();
    let auroc_of_length = match data.classes() {
        2 => Binary::new(characters.iter().map(|n| n / most).collect(), labels)?.auroc(),
        _ => None,
    };
    let matcher = data.matcher()?;
    let examples = data.supervise.iter().take(5).map(|example| Shown::new(example, &data, matcher.as_ref())).collect();
    let (form, longest_is_right) = (data.form.name(), longest_is_right(&data));
    let answers = match &data.form {
        Form::Generate(generation) => Some(Answers {
            rule: generation.answer.to_string(),
            max_new_tokens: generation.max_new_tokens,
            stop: generation.stop.clone(),
        }),
        Form::Classify | Form::Choose { .. } => None,
    };
    let data_hash = data.fingerprint();
    let TaskData { files, class_names: classes, counts, .. } = data;
    let files = files
        .into_iter()
        .map(|SourceFile { path, rows, blake3, sha256, commit, .. }| FileReport { path, rows, blake3, sha256, commit })
        .collect();
    Ok(Report {
        task: task.name,
        title: task.title,
        about: task.about,
        licence: task.licence,
        citation: task.citation,
        file,
        options: options.clone(),
        revision: task.source.revision,
        data_hash,
        files,
        form,
        classes,
        answers,
        counts,
        lengths: measured,
        auroc_of_length,
        longest_is_right,
        examples,
    })
}

impl Shown {
    fn new(example: &Example, data: &TaskData, matcher: Option<&Matcher>) -> Self {
        let label = match (matcher, &example.reference) {
            (Some(matcher), Some(reference)) => matcher.reference(reference).text,
            _ if !example.candidates.is_empty() => (example.label + 1).to_string(),
            _ => data.class_names.get(usize::from(example.label)).cloned().unwrap_or_default(),
        };
        Self {
            label,
            text: example.text.clone(),
            candidates: example.candidates.iter().map(|candidate| candidate.text.clone()).collect(),
            reference: example.reference.clone(),
            prompt: example.prompt.as_ref().map(|prompt| prompt.text.clone()),
        }
    }

    /// What a terminal shows of it.
    fn lines(&self) -> Vec<String> {
        let block = |mark: char, text: &str| -> String {
            shorten(text).lines().map(|line| format!("  {mark} {line}\n")).collect()
        };
        if !self.candidates.is_empty() {
            let right = self.label.parse().unwrap_or(0);
            let mark = |place: usize| if place + 1 == right { '+' } else { '-' };
            return self.candidates.iter().enumerate().map(|(place, text)| block(mark(place), text)).collect();
        }
        let reference = self.reference.as_ref().map(|reference| block('>', reference));
        [block('|', &self.text)].into_iter().chain(reference).collect()
    }
}

/// References that are longer than what may be generated, if there are some.
fn long_references(data: &TaskData, count: impl Fn(&str) -> Result<usize>) -> Result<Option<usize>> {
    let Form::Generate(generation) = &data.form else { return Ok(None) };
    let mut long = 0;
    for reference in data.parts().into_iter().flat_map(|(_, part)| part).filter_map(|e| e.reference.as_ref()) {
        long += usize::from(count(reference)? > generation.max_new_tokens);
    }
    Ok(Some(long).filter(|long| *long > 0))
}

/// How often the longest candidate is the right one, in characters, and how often one drawn at random is. Of several longest ones each
/// counts in part.
fn longest_is_right(data: &TaskData) -> Option<(f64, f64)> {
    let examples = || data.parts().into_iter().flat_map(|(_, part)| part).filter(|e| !e.candidates.is_empty());
    let share = |example: &Example| {
        let lengths: Vec<usize> = example.candidates.iter().map(|candidate| candidate.text.chars().count()).collect();
        let most = lengths.iter().copied().max().unwrap_or(0);
        let longest = lengths.iter().filter(|length| **length == most).count();
        if lengths[usize::from(example.label)] == most { 1.0 / longest as f64 } else { 0.0 }
    };
    let count = examples().count() as f64;
    let chance: f64 = examples().map(|example| 1.0 / example.candidates.len() as f64).sum();
    (count > 0.0).then(|| (examples().map(share).sum::<f64>() / count, chance / count))
}

/// Examples of a part.
fn size(counts: &Counts, part: &str) -> usize {
    let labelled = counts.labels.get(part).map_or(0, |labels| labels.iter().sum());
    counts.references.get(part).map_or(labelled, |found| found.examples)
}

fn length(unit: &str, mut values: Vec<usize>) -> Length {
    values.sort_unstable();
    // The smallest value that at least this share of examples does not exceed.
    let rank = |percent: usize| values.get((values.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(0);
    let (median, percentile_95, longest) = (rank(50), rank(95), rank(100));
    Length {
        unit: unit.into(),
        median,
        percentile_95,
        longest,
        limit: None,
        long_answers: Vec::new(),
        long_references: None,
    }
}

/// `12 (3.4 %)`.
fn share(n: usize, of: usize) -> String {
    format!("{n} ({:.1} %)", 100.0 * n as f64 / of.max(1) as f64)
}

/// What was dropped, and why.
fn dropped(dropped: &BTreeMap<String, usize>) -> String {
    dropped.iter().map(|(reason, n)| format!("{n} {reason}")).collect::<Vec<_>>().join(", ")
}

/// A table whose columns, but for the first and the last, hold numbers.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.add_row(header.iter().map(|name| (*name).to_owned()));
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    for column in table.column_iter_mut().skip(1).take(header.len().saturating_sub(2)) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let text = table.to_string();
    text.lines().map(|line| format!("  {}\n", line.trim())).collect()
}

fn text(report: &Report) -> String {
    let Report { counts, classes, options, .. } = report;
    let mut out = vec![format!("{} ({})", report.title, report.file.display())];
    out.extend(report.about.iter().cloned());
    out.push(format!("licence: {}", report.licence));
    out.push(format!("cite: {}", report.citation));
    let options = serde_json::to_value(options).unwrap_or_default();
    let options = options.as_object().into_iter().flatten();
    let options: Vec<String> = options.map(|(key, value)| format!("{key}={value}").replace('"', "")).collect();
    out.push(format!("read with {}\n", options.join(" ")));
    if !report.files.is_empty() {
        let rows = report.files.iter().map(|file| {
            let commit = file.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
            let hash = format!("sha256 {}{commit}", &file.sha256[..16]);
            vec![file.path.display().to_string(), file.rows.to_string(), hash]
        });
        out.push(table(&["files", "rows", ""], rows));
    }
    let revision = report.revision.as_ref().map(|revision| format!("revision {revision} on the hub, "));
    out.push(format!("  {}hash of the examples {}\n", revision.unwrap_or_default(), &report.data_hash[..16]));
    let pools = ["train", "supervise", "transfer", "test"].into_iter();
    let rows = pools.filter_map(|name| Some((name, counts.pools.get(name)?))).map(|(name, pool)| {
        vec![name.to_owned(), pool.read.to_string(), pool.left.to_string(), dropped(&pool.dropped)]
    });
    out.push(table(&["rows for", "read", "examples", "dropped"], rows));
    let order = ["supervise", "transfer", "validation", "test"];
    if counts.references.is_empty() {
        // Of a choice the places at which the right candidate is.
        let most = counts.labels.values().map(Vec::len).max().unwrap_or(0);
        let names: Vec<String> = match classes.is_empty() {
            true => (1..=most).map(|place| format!("right is {place}")).collect(),
            false => classes.clone(),
        };
        let header: Vec<&str> =
            ["part", "examples"].into_iter().chain(names.iter().map(String::as_str)).chain([""]).collect();
        let rows = order.into_iter().filter_map(|part| {
            let labels = counts.labels.get(part)?;
            let total: usize = labels.iter().sum();
            let mut row = vec![part.to_owned(), total.to_string()];
            row.extend(labels.iter().map(|n| share(*n, total)));
            row.push(String::new());
            Some(row)
        });
        out.push(table(&header, rows));
    } else {
        let rows = order.into_iter().filter_map(|part| {
            let found = counts.references.get(part)?;
            let most = share(found.count, found.examples);
            let answer: String = found.answer.chars().take(40).collect();
            Some(vec![part.to_owned(), found.examples.to_string(), found.distinct.to_string(), most, answer])
        });
        out.push(table(&["part", "examples", "answers", "most frequent", "which"], rows));
    }
    if let Some(Answers { rule, max_new_tokens, stop }) = &report.answers {
        let stop: Vec<String> = stop.iter().map(|text| format!("{text:?}")).collect();
        let stop = if stop.is_empty() { String::new() } else { format!(", up to {}", stop.join(" or ")) };
        out.push(format!("  the answer: {rule}"));
        out.push(format!("  generated: at most {max_new_tokens} tokens{stop}\n"));
    }
    let rows = report.lengths.iter().map(|length| {
        let over = length.limit.map(|(limit, over)| format!("{over} longer than the {limit} that it reads"));
        let numbers = [length.median, length.percentile_95, length.longest].map(|n| n.to_string());
        let unit = if over.is_some() { format!("tokens of {}", length.unit) } else { length.unit.clone() };
        [unit].into_iter().chain(numbers).chain([over.unwrap_or_default()]).collect()
    });
    out.push(table(&["length in", "median", "95 %", "longest", ""], rows));
    if let Some(auroc) = report.auroc_of_length {
        out.push(format!("  the length alone tells the classes apart with an AUROC of {auroc:.3}"));
    }
    if let Some((right, chance)) = report.longest_is_right {
        let (right, chance) = (100.0 * right, 100.0 * chance);
        out.push(format!(
            "  the longest candidate is right in {right:.1} % of the choices, one at random in {chance:.1} %"
        ));
    }
    let parts = |what: &str, n: usize, others: &str| {
        let total = size(counts, what);
        format!(
            "  {} of `{what}` ask what an example of {others} asks",
            if total > 0 { share(n, total) } else { n.to_string() }
        )
    };
    out.push(parts("transfer", counts.transfer_in_supervise, "`supervise`"));
    out.push(parts("test", counts.test_in_train, "the other parts"));
    out.push(String::new());
    for note in &counts.notes {
        out.push(format!("  note: {note}"));
    }
    for length in report.lengths.iter().filter(|length| !length.long_answers.is_empty()) {
        let words: Vec<String> = length.long_answers.iter().map(|word| format!("`{word}`")).collect();
        out.push(format!("  note: the answers {} are more than one token of {}", words.join(", "), length.unit));
    }
    for length in &report.lengths {
        if let (Some(long), Some(answers)) = (length.long_references, &report.answers) {
            let (most, unit) = (answers.max_new_tokens, &length.unit);
            out.push(format!(
                "  note: {long} references have more than the {most} tokens of {unit} that are generated"
            ));
        }
    }
    if out.last().is_some_and(|last| last.starts_with("  note")) {
        out.push(String::new());
    }
    for (number, example) in report.examples.iter().enumerate() {
        let label: String = example.label.chars().take(80).collect();
        out.push(format!("example {} of `supervise`: {label}", number + 1));
        out.append(&mut example.lines());
    }
    if let Some(prompt) = report.examples.first().and_then(|example| example.prompt.as_ref()) {
        out.push("example 1 as a prompt".into());
        out.push(shorten(prompt).lines().map(|line| format!("  | {line}\n")).collect());
    }
    out.join("\n")
}

/// A text of the data for a terminal, a long one without its middle.
fn shorten(text: &str) -> String {
    const LONG: usize = 800;
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= LONG {
        return printable(text.to_owned());
    }
    let (start, end) = (&characters[..LONG / 2], &characters[characters.len() - LONG / 2..]);
    printable(format!("{} […] {}", start.iter().collect::<String>(), end.iter().collect::<String>()))
}

fn markdown(reports: &[Report]) -> String {
    let mut lines = Vec::new();
    let units: Vec<&str> =
        reports.first().map_or(Vec::new(), |report| report.lengths.iter().map(|length| length.unit.as_str()).collect());
    let header = format!(
        "| task | supervise | transfer | test | dropped | share of each class in test | repeated in test | AUROC of the length | {} | licence |",
        units.iter().map(|unit| format!("median {unit}")).collect::<Vec<_>>().join(" | ")
    );
    let columns = header.matches('|').count() - 1;
    lines.push(header);
    lines.push(format!("|{}", " --- |".repeat(columns)));
    for report in reports {
        let counts = &report.counts;
        let total = |part: &str| size(counts, part);
        let percent = |n: usize| format!("{:.1} %", 100.0 * n as f64 / total("test").max(1) as f64);
        let test = counts.labels.get("test").into_iter().flatten();
        let class =
            |place: usize| report.classes.get(place).cloned().unwrap_or_else(|| format!("number {}", place + 1));
        let classes = test.enumerate().map(|(place, n)| format!("{} {}", class(place), percent(*n)));
        let words = counts.references.get("test");
        let words = words.map(|found| format!("most frequent of {}: {}", found.distinct, percent(found.count)));
        let balance = classes.chain(words);
        let all: Vec<String> = counts
            .pools
            .iter()
            .filter(|(_, pool)| !pool.dropped.is_empty())
            .map(|(name, pool)| format!("{name}: {}", dropped(&pool.dropped)))
            .collect();
        let cells = [
            format!("{} (`{}`)", report.title, report.task),
            total("supervise").to_string(),
            total("transfer").to_string(),
            total("test").to_string(),
            if all.is_empty() { "–".into() } else { all.join("; ") },
            balance.collect::<Vec<_>>().join(", "),
            counts.test_in_train.to_string(),
            report.auroc_of_length.map_or("–".into(), |auroc| format!("{auroc:.3}")),
        ];
        let medians = report.lengths.iter().map(|length| length.median.to_string());
        let cells: Vec<String> = cells.into_iter().chain(medians).chain([report.licence.clone()]).collect();
        lines.push(format!("| {} |", cells.join(" | ")));
    }
    lines.join("\n")
}

/// `w2s task new`.
fn new(args: &NewArgs) -> Result<ExitCode> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let file = args.file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            let stem = file.split('.').next().unwrap_or_default();
            stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
        }
    };
    Task::check_name(&name)?;
    let output = args.output.clone().unwrap_or_else(|| {
        let folder = if Path::new("configs").is_dir() { "configs/tasks" } else { "tasks" };
        Path::new(folder).join(format!("{name}.toml"))
    });
    if output.exists() && !args.force {
        return Err(Error::new("the file is there already")
            .in_file(&output)
            .help("give another `--name` or `--output`, or `--force` to replace it"));
    }
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = relative(&args.file, folder)?;
    let form = match args.form {
        AskFor::Classify => DraftForm::Classify,
        AskFor::Choose => DraftForm::Choose,
        AskFor::Generate => DraftForm::Generate,
    };
    let options =
        DraftOptions { name: &name, path: &path, text: args.text.as_deref(), label: args.label.as_deref(), form };
    let text = draft(&args.file, &options)?;
    // Paths that go up from the folder lead nowhere before it is there.
    let there = folder.exists();
    if !there {
        fs::create_dir_all(folder).path("create the folder of tasks", folder)?;
    }
    // The guess has to run: only the file's own rows are looked at.
    let sources = Sources { roots: Vec::new(), hub: None };
    let some = DataOptions { n_train: Some(TRIED), ..DataOptions::default() };
    let data = Task::parse(&text, &output).and_then(|task| task.read(&sources, &some));
    let data = data.map_err(|error| {
        if !there {
            // What is not empty stays; nothing is lost by that.
            let _ = fs::remove_dir(folder);
        }
        let error = error.context("the guess does not fit the data");
        if error.remedy().is_some() { error } else { error.help("name columns with `--text` and `--label`") }
    })?;
    fs::write(&output, &text).path("write the task file", &output)?;
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        println!("{}", line.trim_start_matches('#').trim_start_matches(' '));
    }
    if let Some(example) = data.supervise.first() {
        let shown = Shown::new(example, &data, data.matcher()?.as_ref());
        println!("\nexample: {}", printable(shown.label.clone()));
        shown.lines().iter().for_each(|block| print!("{}", printable(block.clone())));
    }
    println!("\nwritten: {}\nnext: w2s task check {}", output.display(), output.display());
    Ok(ExitCode::SUCCESS)
}

/// A path as it has to be written in a file of `folder`; always with `/`.
fn relative(path: &Path, folder: &Path) -> Result<String> {
    if path.is_absolute() {
        return Ok(path.to_string_lossy().replace('\\', "/"));
    }
    let whole = |path: &Path| -> Result<Vec<String>> {
        let path = std::path::absolute(path).path("find", path)?;
        let mut parts: Vec<String> = Vec::new();
        for part in path.components() {
            match part {
                Component::ParentDir => drop(parts.pop()),
                Component::CurDir => {}
                part => parts.push(part.as_os_str().to_string_lossy().into_owned()),
            }
        }
        Ok(parts)
    };
    let (path, folder) = (whole(path)?, whole(folder)?);
    let same = path.iter().zip(&folder).take_while(|(a, b)| a == b).count();
    let up = vec!["..".to_owned(); folder.len() - same];
    Ok(up.iter().chain(&path[same..]).cloned().collect::<Vec<_>>().join("/"))
}
