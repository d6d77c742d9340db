//! A task's examples, ready for models: what is in them, their fingerprint, and how they are stored.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    label::brief,
    matching::{Matcher, Matching},
    order::{Balance, DataOptions, Order},
    union::{Matchers, Portion},
};
use crate::{
    Error, Result,
    error::IoContext,
    strategy::{self, Split},
};

/// The splits in the order of [`TaskData::parts`].
const SPLITS: [Split; 4] = [Split::Supervise, Split::Transfer, Split::Validation, Split::Test];

/// From this many examples on, a part with a single class is a mistake and not chance.
const ONE_CLASS: usize = 32;

/// What a task asks for. Each form has its own way to be stored in [`Example`]; the names of `class_names` belong to the first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Form {
    /// One of K fixed classes: [`Example::label`] is its index.
    #[default]
    Classify,
    /// One of an example's own [`candidates`](Example::candidates): [`Example::label`] is the index of the right one.
    Choose {
        /// Most candidates of an example, M. Those with fewer have their places from 0 on; the others are to be masked.
        candidates: usize,
    },
    /// Words: [`Example::reference`] is what a right answer looks like.
    Generate(Generation),
}

impl Form {
    fn is_classify(&self) -> bool {
        *self == Self::Classify
    }

    /// As task files and messages call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Choose { .. } => "choose",
            Self::Generate(_) => "generate",
        }
    }
}

/// How words are generated and compared.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// How answers are found and compared.
    pub answer: Matching,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Texts at which an answer ends; they do not belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// One of the texts that an example chooses among.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// What a model scores: question and answer together.
    pub text: String,
    /// Bytes of `text` that may be shortened from the left, the same text for all candidates of an example; empty if none may.
    pub context: Range<usize>,
    /// The answer alone.
    pub answer: String,
}

/// One example.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What a model reads: the text to classify, the prompt that an answer follows; of a choice the question, without an answer.
    pub text: String,
    /// Bytes of `text` that may be shortened from the left; empty if none may.
    pub context: Range<usize>,
    /// Index of the true class, or of the right one of the candidates; 0 where words are generated.
    pub label: u8,
    /// Row of the source's split (of all its pooled splits, one after the other), from 0.
    pub source_row: u32,
    /// The same question for a language model, if the task has a `[prompt]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptText>,
    /// What is chosen among, at least two; empty in the other forms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// Probability of each candidate to be the right one, where the data say more than which it is; they sum to 1. Else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preference: Vec<f32>,
    /// By how much the right candidate is the better one, in the data's own unit, at least 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f32>,
    /// What is learnt where words are generated: it follows `text` directly, and holds the answer, perhaps after a chain of thought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The same for examples that belong together, such as the answers to one question; for metrics of whole groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u64>,
}

impl Example {
    /// The texts that a model reads, each with its context: the candidates, or the one text.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &Range<usize>)> {
        let alone = self.candidates.is_empty().then_some((self.text.as_str(), &self.context));
        alone.into_iter().chain(self.candidates.iter().map(|candidate| (candidate.text.as_str(), &candidate.context)))
    }

    /// What tells its text from other texts of the same row. Of what may be shortened from the left only the end has a part in it.
    fn digits(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (text, context) in self.texts() {
            const END: usize = 32;
            let shortened = text.get(context.clone()).unwrap_or_default();
            let end = shortened.char_indices().rev().take(END).last().map_or("", |(at, _)| &shortened[at..]);
            for part in [text.get(..context.start), Some(end), text.get(context.end..)] {
                let part = part.unwrap_or_default();
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
        }
        hasher.finalize().to_hex()[..8].to_owned()
    }

    /// What is wrong with a stored example of a task of this form.
    fn check(&self, form: &Form, classes: usize) -> Result<(), String> {
        let Self { text, context, label, prompt, candidates, preference, margin, reference, .. } = self;
        let label = usize::from(*label);
        match form {
            Form::Classify if label >= classes => return Err(format!("label {label} of {classes} classes")),
            Form::Choose { candidates: most } if !(2..=*most).contains(&candidates.len()) => {
                return Err(format!("{} candidates where there are 2 to {most}", candidates.len()));
            }
            Form::Choose { .. } if label >= candidates.len() => {
                return Err(format!("number {label} of {} candidates is right", candidates.len()));
            }
            Form::Generate(_) if reference.is_none() => return Err("it has no reference".into()),
            _ => {}
        }
        if !preference.is_empty() && (preference.len() != candidates.len() || preference.iter().any(|p| !p.is_finite()))
        {
            return Err(format!("{} preferences for {} candidates", preference.len(), candidates.len()));
        }
        if margin.is_some_and(|margin| !margin.is_finite()) {
            return Err("its margin is no number".into());
        }
        let prompt = prompt.iter().map(|prompt| (prompt.text.as_str(), &prompt.context));
        let mut parts = prompt.chain([(text.as_str(), context)]).chain(self.texts());
        match parts.any(|(text, range)| text.get(range.clone()).is_none()) {
            true => Err("its context is not a part of its text".into()),
            false => Ok(()),
        }
    }

    /// The truth as probabilities of the candidates: their [`preference`](Self::preference), or all on the right one.
    pub fn target(&self) -> Vec<f32> {
        if !self.preference.is_empty() {
            return self.preference.clone();
        }
        (0..self.candidates.len()).map(|place| f32::from(u8::from(place == usize::from(self.label)))).collect()
    }
}

/// A question for a language model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PromptText {
    /// The question; the model's answer follows directly.
    pub text: String,
    /// Bytes of `text` that may be shortened from the left; empty if none may.
    pub context: Range<usize>,
    /// The correct free-form answer, if the task has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// How the task asks a language model; what [`PromptText`] is not about one example.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PromptStyle {
    /// What stands once before the first question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    /// The words that mean each class; empty if the task names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Vec<String>>,
}

/// A task's examples, split. Serialised, it is everything but the examples.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TaskData {
    /// Name of the task.
    pub task: String,
    /// What it asks for.
    #[serde(default, skip_serializing_if = "Form::is_classify")]
    pub form: Form,
    /// Names of the classes; none if the task has another form.
    pub class_names: Vec<String>,
    /// How the task asks a language model, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptStyle>,
    /// The tasks that these are the data of, if they are a [union](Self::union).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub portions: Vec<Portion>,
    /// Ground truth for the weak supervisor (half 1).
    #[serde(skip)]
    pub supervise: Vec<Example>,
    /// What the weak supervisor labels and the student is trained on (half 2).
    #[serde(skip)]
    pub transfer: Vec<Example>,
    /// Held out of the supervisor's half, if [`super::DataOptions::n_validation`] asks for it: nothing is trained on it.
    #[serde(skip)]
    pub validation: Vec<Example>,
    /// What everything is tested on.
    #[serde(skip)]
    pub test: Vec<Example>,
    /// Where the examples went, and how they are distributed.
    pub counts: Counts,
    /// The files they came from.
    pub files: Vec<SourceFile>,
}

/// A file that rows were read from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its name in the data set, without this machine's folders.
    pub name: String,
    /// Where it was read.
    pub path: PathBuf,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub blake3: String,
    /// SHA-256 of its bytes, in hexadecimal: what the hub calls a large file by.
    #[serde(default)]
    pub sha256: String,
    /// The commit on the hub that it is a file of, if it came from there or from its cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Rows read from it.
    pub rows: u32,
}

/// What was read, what was dropped and why, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// By the source's splits: rows read, examples dropped, examples left.
    pub pools: BTreeMap<String, PoolCounts>,
    /// By part (`supervise`, `transfer`, `validation`, `test`): examples of each class; of a choice those whose right candidate is at each
    /// place; none where words are generated.
    pub labels: BTreeMap<String, Vec<usize>>,
    /// By part, where words are generated: what the references say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, Frequent>,
    /// Examples that have fewer candidates to choose among than others have.
    #[serde(default, skip_serializing_if = "is_none")]
    pub fewer: usize,
    /// Examples of `transfer` that ask what an example of `supervise` or `validation` asks.
    pub transfer_in_supervise: usize,
    /// Examples of `test` that ask what an example of `supervise`, `transfer` or `validation` asks.
    pub test_in_train: usize,
    /// What should be looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What was done to over-long examples, once [`super::fit`] has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<FitCounts>,
}

/// The answers in the references of one part. Who always gives the most frequent one is right as often as it occurs, as with the majority class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Frequent {
    /// Examples.
    pub examples: usize,
    /// Different answers.
    pub distinct: usize,
    /// The most frequent answer, after the task's rules; the first in alphabetical order of several.
    pub answer: String,
    /// How often it occurs.
    pub count: usize,
}

/// What became of the rows of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PoolCounts {
    /// Rows read.
    pub read: usize,
    /// Dropped, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, usize>,
    /// Examples left.
    pub left: usize,
}

impl PoolCounts {
    pub(super) fn drop(&mut self, reason: &str, count: usize) {
        if count > 0 {
            *self.dropped.entry(reason.into()).or_default() += count;
        }
    }
}

/// What to do with an example that is too long for a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OverLong {
    /// Shorten its context from the left; drop it only if the rest alone is too long.
    #[default]
    Truncate,
    /// Drop it.
    Drop,
}

/// What [`super::fit`] did, by part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FitCounts {
    /// The limit, in tokens.
    pub limit: usize,
    /// By part (`supervise`, `transfer`, `validation`, `test`).
    pub parts: BTreeMap<String, FitPart>,
}

/// What [`super::fit`] did to one part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FitPart {
    /// Examples whose context was shortened.
    pub shortened: usize,
    /// Examples dropped: over-long, with a context that could not help or was not to be shortened.
    pub dropped: usize,
    /// Most tokens of an example before, with the tokenizer that needs most; of a text of more than a mebibyte, about.
    pub longest: usize,
}

impl Frequent {
    fn of(examples: &[Example], matchers: &Matchers) -> Self {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (row, reference) in examples.iter().map(|example| example.reference.as_deref()).enumerate() {
            let answer = reference.map(|reference| matchers.of(row).reference(reference).text);
            answer.into_iter().for_each(|answer| *counts.entry(answer).or_default() += 1);
        }
        let distinct = counts.len();
        let most = counts.into_iter().rev().max_by_key(|(_, count)| *count).unwrap_or_default();
        Self { examples: examples.len(), distinct, answer: most.0, count: most.1 }
    }
}

impl TaskData {
    /// Number of classes K; 0 unless the task is to classify.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// Whether examples have one of fixed classes.
    pub fn is_classification(&self) -> bool {
        self.form.is_classify()
    }

    /// What a strategy is asked about.
    pub fn asks(&self) -> strategy::Form {
        match &self.form {
            Form::Classify => strategy::Form::Classes(self.classes()),
            Form::Choose { candidates } => strategy::Form::Candidates(*candidates),
            Form::Generate(_) => strategy::Form::Words,
        }
    }

    /// What finds and compares answers, if words are generated by a task alone; [`matchers`](Self::matchers) knows every row's.
    ///
    /// # Errors
    /// A stored expression does not compile.
    pub fn matcher(&self) -> Result<Option<Matcher>> {
        match &self.form {
            Form::Generate(generation) => Matcher::new(&generation.answer).map(Some),
            Form::Classify | Form::Choose { .. } => Ok(None),
        }
    }

    /// The parts with their names, in fixed order.
    pub fn parts(&self) -> [(&'static str, &Vec<Example>); 4] {
        let Self { supervise, transfer, validation, test, .. } = self;
        [("supervise", supervise), ("transfer", transfer), ("validation", validation), ("test", test)]
    }

    /// Names by which people and files call the examples of a part: the split of the source that its rows come from, the row's number in it, from
    /// 0, and 8 digits for its text, of which a seed may have chosen one of several. A text that was shortened keeps its name.
    pub fn ids(&self, part: &str, examples: &[Example]) -> Vec<String> {
        let pool = if self.counts.pools.contains_key(part) || part == "test" { part } else { "train" };
        examples.iter().map(|example| format!("{pool}-{}-{}", example.source_row, example.digits())).collect()
    }

    /// The parts with their names, in fixed order.
    pub fn parts_mut(&mut self) -> [(&'static str, &mut Vec<Example>); 4] {
        let Self { supervise, transfer, validation, test, .. } = self;
        [("supervise", supervise), ("transfer", transfer), ("validation", validation), ("test", test)]
    }

    /// Counts the labels anew; an error if there is nothing to train or test on.
    pub(super) fn recount(&mut self) -> Result<()> {
        let options = self.asks().choices().unwrap_or(0);
        let mut labels = BTreeMap::new();
        let mut references = BTreeMap::new();
        for (split, (name, examples)) in SPLITS.into_iter().zip(self.parts()) {
            if examples.is_empty() {
                if name == "validation" {
                    continue;
                }
                return Err(self.emptied(name));
            }
            let mut count = vec![0; options];
            for example in examples {
                if let Some(count) = count.get_mut(usize::from(example.label)) {
                    *count += 1;
                }
            }
            labels.insert(name.to_owned(), count);
            if let Some(matchers) = self.matchers(split)? {
                references.insert(name.to_owned(), Frequent::of(examples, &matchers));
            }
        }
        let fewer = |example: &&Example| !example.candidates.is_empty() && example.candidates.len() < options;
        self.counts.fewer = self.parts().into_iter().flat_map(|(_, part)| part).filter(fewer).count();
        self.counts.labels = labels;
        self.counts.references = references;
        Ok(())
    }

    /// The error about a part without examples.
    fn emptied(&self, part: &str) -> Error {
        let message = format!("no example is left in `{part}`");
        if let Some(fit) = &self.counts.fit
            && let dropped @ 1.. = fit.parts.values().map(|part| part.dropped).sum::<usize>()
        {
            let why = format!("{dropped} are longer than {} tokens without their context", fit.limit);
            return Error::new(format!("{message}: {why}")).help(match &self.form {
                Form::Generate(generation) => format!(
                    "an answer may have {} tokens: lower `max_new_tokens` in the task, raise `max_tokens`, or shorten the template",
                    generation.max_new_tokens
                ),
                Form::Classify | Form::Choose { .. } => "raise `max_tokens`, or shorten the template".to_owned(),
            });
        }
        let became = |(pool, counts): (&String, &PoolCounts)| {
            let dropped = counts.dropped.iter().map(|(why, count)| format!("{count} by {why}, "));
            format!("`{pool}`: {} read, {}{} left", counts.read, dropped.collect::<String>(), counts.left)
        };
        let became: Vec<String> = self.counts.pools.iter().map(became).collect();
        let help = "look at the task's `filter`, label rule and splits, and at what became of the rows";
        Error::new(message).help(format!("{help}: {}", became.join("; ")))
    }

    /// A part of which every example has the same class or answer: an error where that cannot be chance, a note where it can.
    pub(super) fn check_classes(&mut self, options: &DataOptions) -> Result<()> {
        if !self.is_classification() && options.balance == Some(Balance::Undersample) {
            let form = self.form.name();
            self.counts.notes.push(format!("`balance` does nothing here: a task of the form `{form}` has no classes"));
        }
        let mut uniform: Vec<(String, usize, &str)> = Vec::new();
        for (part, labels) in &self.counts.labels {
            let total: usize = labels.iter().sum();
            let Some(only) = labels.iter().position(|count| *count > 0 && *count == total) else { continue };
            uniform.push(match self.class_names.get(only) {
                Some(class) => (
                    format!("every example of `{part}` has the class `{class}`"),
                    total,
                    "does the label rule name the right column and value?",
                ),
                None => (
                    format!("the right candidate of every example of `{part}` is number {}", only + 1),
                    total,
                    "put `shuffle = true` under `[label.choose]`, or look whether `answer` is the right column",
                ),
            });
        }
        for (part, found) in &self.counts.references {
            if found.distinct == 1 {
                let message = format!("every reference of `{part}` has the answer `{}`", brief(&found.answer));
                let help = "are `reference` and `[generate.answer]` about the right part of the data?";
                uniform.push((message, found.examples, help));
            }
        }
        for (message, total, help) in uniform {
            if total >= ONE_CLASS {
                let sorted = options.order == Order::Openai && (options.n_train.is_some() || options.n_test.is_some());
                return Err(Error::new(format!("{message}, all {total} of them")).help(if sorted {
                    "is the file sorted by label? Order `openai` takes its first rows: leave out `n_train` and `n_test`, or use `order = \"eleuther\"`"
                } else {
                    help
                }));
            }
            self.counts.notes.push(message);
        }
        let trained = |class: usize| {
            ["supervise", "transfer"].iter().filter_map(|part| self.counts.labels.get(*part)?.get(class)).sum::<usize>()
        };
        if self.classes() > 2
            && let Some(empty) = (0..self.classes()).find(|class| trained(*class) == 0)
        {
            let hint = if empty == 0 { ": do the labels count from 1?" } else { "" };
            let name = &self.class_names[empty];
            self.counts.notes.push(format!("no example for training has the class `{name}`, number {empty}{hint}"));
        }
        Ok(())
    }

    /// BLAKE3, in hexadecimal, of everything that can change a result: form, classes, prompt style and the examples in their order. Not of
    /// counts, and not of the files' places.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("w2s 2026 task data");
        let mut hash = || -> io::Result<()> {
            write_line(&mut hasher, &(&self.class_names, &self.prompt))?;
            // Before there were other forms none was written.
            if !self.form.is_classify() {
                write_line(&mut hasher, &self.form)?;
            }
            if !self.portions.is_empty() {
                write_line(&mut hasher, &self.portions)?;
            }
            for (name, examples) in self.parts() {
                write_line(&mut hasher, &(name, examples.len()))?;
                examples.iter().try_for_each(|example| write_line(&mut hasher, example))?;
            }
            Ok(())
        };
        hash().expect("a hasher takes every byte");
        hasher.finalize().to_hex().to_string()
    }

    /// Writes `task.json` and a JSONL file for each part into an existing folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join("task.json");
        let head = serde_json::to_string_pretty(self).map_err(io::Error::from).path("write the task", &path)?;
        fs::write(&path, head + "\n").path("write the task", &path)?;
        for (name, examples) in self.parts() {
            let path = folder.join(format!("{name}.jsonl"));
            let write = || {
                let mut out = BufWriter::new(fs::File::create(&path)?);
                examples.iter().try_for_each(|example| write_line(&mut out, example))?;
                out.flush()
            };
            write().path("write examples", &path)?;
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("task.json");
        let text = fs::read_to_string(&path).path("read the task", &path)?;
        let mut data: Self = serde_json::from_str(&text)
            .map_err(|cause| Error::new(format!("not a stored task: {cause}")).in_file(&path))?;
        data.matchers(Split::Test).map_err(|error| error.in_file(&path))?;
        let (form, classes) = (data.form.clone(), data.classes().max(1));
        for (name, examples) in data.parts_mut() {
            let path = folder.join(format!("{name}.jsonl"));
            let file = fs::File::open(&path).path("read examples", &path)?;
            for (number, line) in BufReader::new(file).lines().enumerate() {
                let line = line.path("read examples", &path)?;
                let bad = |why: &str| Error::new(format!("line {} is no example: {why}", number + 1)).in_file(&path);
                let example: Example = serde_json::from_str(&line).map_err(|cause| bad(&cause.to_string()))?;
                example.check(&form, classes).map_err(|why| bad(&why))?;
                examples.push(example);
            }
        }
        Ok(data)
    }
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

fn write_line(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")
}
