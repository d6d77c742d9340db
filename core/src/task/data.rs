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

use super::order::{DataOptions, Order};
use crate::{Error, Result, error::IoContext};

/// From this many examples on, a part with a single class is a mistake and not chance.
const ONE_CLASS: usize = 32;

/// One example.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What a model classifies.
    pub text: String,
    /// Bytes of `text` that may be shortened from the left; empty if none may.
    pub context: Range<usize>,
    /// Index of the true class.
    pub label: u8,
    /// Row of the source's split (of all its pooled splits, one after the other), from 0.
    pub source_row: u32,
    /// The same question for a language model, if the task has a `[prompt]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptText>,
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
    /// Names of the classes; none if the task is generation only.
    pub class_names: Vec<String>,
    /// How the task asks a language model, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptStyle>,
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
    /// By part (`supervise`, `transfer`, `validation`, `test`): examples of each class.
    pub labels: BTreeMap<String, Vec<usize>>,
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

impl TaskData {
    /// Number of classes K.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// The parts with their names, in fixed order.
    pub fn parts(&self) -> [(&'static str, &Vec<Example>); 4] {
        let Self { supervise, transfer, validation, test, .. } = self;
        [("supervise", supervise), ("transfer", transfer), ("validation", validation), ("test", test)]
    }

    /// The parts with their names, in fixed order.
    pub fn parts_mut(&mut self) -> [(&'static str, &mut Vec<Example>); 4] {
        let Self { supervise, transfer, validation, test, .. } = self;
        [("supervise", supervise), ("transfer", transfer), ("validation", validation), ("test", test)]
    }

    /// Counts the labels anew; an error if there is nothing to train or test on.
    pub(super) fn recount(&mut self) -> Result<()> {
        let classes = self.classes();
        let mut labels = BTreeMap::new();
        for (name, examples) in self.parts() {
            if examples.is_empty() {
                if name == "validation" {
                    continue;
                }
                return Err(self.emptied(name));
            }
            let mut count = vec![0; classes];
            for example in examples {
                if let Some(count) = count.get_mut(usize::from(example.label)) {
                    *count += 1;
                }
            }
            labels.insert(name.to_owned(), count);
        }
        self.counts.labels = labels;
        Ok(())
    }

    /// The error about a part without examples.
    fn emptied(&self, part: &str) -> Error {
        let message = format!("no example is left in `{part}`");
        if let Some(fit) = &self.counts.fit
            && let dropped @ 1.. = fit.parts.values().map(|part| part.dropped).sum::<usize>()
        {
            let why = format!("{dropped} are longer than {} tokens without their context", fit.limit);
            return Error::new(format!("{message}: {why}")).help("raise `max_tokens`, or shorten the template");
        }
        let became = |(pool, counts): (&String, &PoolCounts)| {
            let dropped = counts.dropped.iter().map(|(why, count)| format!("{count} by {why}, "));
            format!("`{pool}`: {} read, {}{} left", counts.read, dropped.collect::<String>(), counts.left)
        };
        let became: Vec<String> = self.counts.pools.iter().map(became).collect();
        let help = "look at the task's `filter`, label rule and splits, and at what became of the rows";
        Error::new(message).help(format!("{help}: {}", became.join("; ")))
    }

    /// A part of which every example has the same class: an error where that cannot be chance, a note where it can.
    pub(super) fn check_classes(&mut self, options: &DataOptions) -> Result<()> {
        for (name, labels) in &self.counts.labels {
            let total: usize = labels.iter().sum();
            let Some(only) = labels.iter().position(|count| *count > 0 && *count == total) else { continue };
            let message = format!("every example of `{name}` has the class `{}`", self.class_names[only]);
            if total >= ONE_CLASS {
                let sorted = options.order == Order::Openai && (options.n_train.is_some() || options.n_test.is_some());
                return Err(Error::new(format!("{message}, all {total} of them")).help(if sorted {
                    "is the file sorted by label? Order `openai` takes its first rows: leave out `n_train` and `n_test`, or use `order = \"eleuther\"`"
                } else {
                    "does the label rule name the right column and value?"
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

    /// BLAKE3, in hexadecimal, of everything that can change a result: classes, prompt style and the examples in their order. Not of
    /// counts, and not of the files' places.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("w2s 2026 task data");
        let mut hash = || -> io::Result<()> {
            write_line(&mut hasher, &(&self.class_names, &self.prompt))?;
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
        let classes = data.classes().max(1);
        for (name, examples) in data.parts_mut() {
            let path = folder.join(format!("{name}.jsonl"));
            let file = fs::File::open(&path).path("read examples", &path)?;
            for (number, line) in BufReader::new(file).lines().enumerate() {
                let line = line.path("read examples", &path)?;
                let bad = |why: &str| Error::new(format!("line {} is no example: {why}", number + 1)).in_file(&path);
                let example: Example = serde_json::from_str(&line).map_err(|cause| bad(&cause.to_string()))?;
                if usize::from(example.label) >= classes {
                    return Err(bad(&format!("label {} of {classes} classes", example.label)));
                }
                let prompt = example.prompt.iter().map(|prompt| (&prompt.text, &prompt.context));
                if prompt
                    .chain([(&example.text, &example.context)])
                    .any(|(text, range)| text.get(range.clone()).is_none())
                {
                    return Err(bad("its context is not a part of its text"));
                }
                examples.push(example);
            }
        }
        Ok(data)
    }
}

fn write_line(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")
}
