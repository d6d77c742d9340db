//! What a supervisor or a model says of the examples of a split, and whether it is right.

use std::{collections::BTreeSet, fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    bench::part,
    predictions::Predictions,
    store::{Finished, write_atomically},
};
use crate::{
    Error, Result,
    error::IoContext,
    learner,
    rng::Rng,
    strategy,
    strategy::Split,
    task::{Example, Extracted, TaskData},
};

/// What somebody says of the examples of a split, in the split's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Probabilities of each class, or of each candidate. File: `SPLIT.csv`.
    Soft(Vec<Vec<f32>>),
    /// Answers in words. File: `SPLIT.jsonl`.
    Texts(Vec<Answer>),
}

/// An answer in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// What was written, without the end of the text or the stop string.
    pub raw: String,
    /// The answer in it, the rule by which it was found, and whether there is none.
    pub answer: Extracted,
    /// log p of every token that was written, in nats, the end among them; none of what no model wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_p: Option<f64>,
    /// Whether it was cut off for its length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// Ground truth of a split, for whoever measures.
#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    /// The true class of each example, or the place of the right candidate.
    Choices(Vec<u8>),
    /// The answers of the references.
    Texts(Vec<Extracted>),
}

impl Truth {
    /// The truth of a split.
    ///
    /// # Errors
    /// A stored expression does not compile.
    pub fn of(data: &TaskData, split: Split) -> Result<Self> {
        let examples = part(data, split).iter();
        let Some(matchers) = data.matchers(split)? else {
            return Ok(Self::Choices(examples.map(|example| example.label).collect()));
        };
        let answer = |(row, example): (usize, &Example)| {
            matchers.of(row).reference(example.reference.as_deref().unwrap_or_default())
        };
        Ok(Self::Texts(examples.enumerate().map(answer).collect()))
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Self::Choices(classes) => classes.len(),
            Self::Texts(answers) => answers.len(),
        }
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Labels {
    /// Ground truth of a split, as whoever knows it would label.
    pub(super) fn true_of(data: &TaskData, split: Split) -> Result<Self> {
        let examples = part(data, split).iter();
        let Some(matchers) = data.matchers(split)? else {
            let width = data.asks().choices().unwrap_or(0);
            let one_hot = |label: u8| (0..width).map(|class| f32::from(class == usize::from(label))).collect();
            let soft = |example: &Example| match example.candidates.is_empty() {
                true => one_hot(example.label),
                false => {
                    let mut shares = example.target();
                    shares.resize(width, 0.0);
                    shares
                }
            };
            return Ok(Self::Soft(examples.map(soft).collect()));
        };
        let text = |(row, example): (usize, &Example)| {
            let raw = example.reference.clone().unwrap_or_default();
            Answer { answer: matchers.of(row).reference(&raw), raw, log_p: None, cut: false }
        };
        Ok(Self::Texts(examples.enumerate().map(text).collect()))
    }

    /// On words a wrong answer to each example, which is right of another one: the first from a place on that a seed draws. Where all references
    /// say the same, it is their answer. Of classes and candidates ground truth.
    pub(super) fn wrong_of(data: &TaskData, split: Split, seed: u64) -> Result<Self> {
        let right = Self::true_of(data, split)?;
        let Self::Texts(answers) = &right else { return Ok(right) };
        let n = answers.len();
        let wrong = |row: usize| {
            let start = Rng::named(seed, &format!("{}/{row}", split.name())).below(n);
            let mut others = (start..start + n).map(|place| &answers[place % n]);
            others.find(|other| !other.answer.same(&answers[row].answer)).unwrap_or(&answers[row]).clone()
        };
        Ok(Self::Texts((0..n).map(wrong).collect()))
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Self::Soft(rows) => rows.len(),
            Self::Texts(answers) => answers.len(),
        }
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same for places up to `width` of each example: those beyond are of no candidate, and those that are missing have no share.
    #[must_use]
    pub(super) fn resized(self, width: usize) -> Self {
        let resized = |mut row: Vec<f32>| {
            row.resize(width, 0.0);
            row
        };
        match self {
            Self::Soft(rows) => Self::Soft(rows.into_iter().map(resized).collect()),
            texts @ Self::Texts(_) => texts,
        }
    }

    /// Those of some of the examples.
    #[must_use]
    pub fn part(&self, rows: &[usize]) -> Self {
        match self {
            Self::Soft(all) => Self::Soft(rows.iter().map(|row| all[*row].clone()).collect()),
            Self::Texts(all) => Self::Texts(rows.iter().map(|row| all[*row].clone()).collect()),
        }
    }

    /// These, and others behind them.
    pub(super) fn then(self, others: Self) -> Self {
        match (self, others) {
            (Self::Soft(first), Self::Soft(second)) => Self::Soft([first, second].concat()),
            (Self::Texts(first), Self::Texts(second)) => Self::Texts([first, second].concat()),
            (first, _) => first,
        }
    }

    /// The mean of two, example by example; of answers in words, of which there is none, the first.
    pub(super) fn mean(self, other: Self) -> Self {
        match (self, other) {
            (Self::Soft(one), Self::Soft(other)) => Self::Soft(strategy::mean(&[&one, &other])),
            (first, _) => first,
        }
    }

    /// Which examples are answered right. Of equally likely classes the first is meant.
    pub fn right(&self, truth: &Truth) -> Vec<bool> {
        match (self, truth) {
            (Self::Soft(rows), Truth::Choices(classes)) => {
                rows.iter().zip(classes).map(|(row, class)| learner::argmax(row) == usize::from(*class)).collect()
            }
            (Self::Texts(answers), Truth::Texts(references)) => {
                answers.iter().zip(references).map(|(own, reference)| own.answer.same(reference)).collect()
            }
            _ => vec![false; self.len()],
        }
    }

    /// On which examples both give the same answer. Where there is none, nothing agrees with it.
    pub fn agree(&self, other: &Self) -> Vec<bool> {
        match (self, other) {
            (Self::Soft(own), Self::Soft(other)) => {
                own.iter().zip(other).map(|(own, other)| learner::argmax(own) == learner::argmax(other)).collect()
            }
            (Self::Texts(own), Self::Texts(other)) => {
                own.iter().zip(other).map(|(own, other)| own.answer.same(&other.answer)).collect()
            }
            _ => vec![false; self.len()],
        }
    }

    /// The probabilities, if it is those.
    pub fn soft(&self) -> Option<&[Vec<f32>]> {
        match self {
            Self::Soft(rows) => Some(rows),
            Self::Texts(_) => None,
        }
    }

    /// The answers in words, if it is those.
    pub fn texts(&self) -> Option<&[Answer]> {
        match self {
            Self::Texts(answers) => Some(answers),
            Self::Soft(_) => None,
        }
    }

    /// What was written, word for word, if answers are in words.
    pub(super) fn into_texts(self) -> Option<Vec<String>> {
        match self {
            Self::Texts(answers) => Some(answers.into_iter().map(|answer| answer.raw).collect()),
            Self::Soft(_) => None,
        }
    }

    /// What each answer says: the name of the likeliest class, the likeliest candidate, or the words.
    pub(super) fn in_words<'l>(&'l self, data: &'l TaskData, split: Split) -> Vec<&'l str> {
        match self {
            Self::Texts(answers) => answers.iter().map(|answer| answer.raw.as_str()).collect(),
            Self::Soft(rows) => {
                let said = |(number, (row, example)): (usize, (&Vec<f32>, &'l Example))| {
                    let place = learner::argmax(row);
                    let candidate = example.candidates.get(place).map(|candidate| candidate.answer.as_str());
                    candidate.or_else(|| data.class_name(split, number, place)).unwrap_or_default()
                };
                rows.iter().zip(part(data, split)).enumerate().map(said).collect()
            }
        }
    }

    /// The probabilities.
    ///
    /// # Errors
    /// Words have none.
    pub fn into_soft(self) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Soft(rows) => Ok(rows),
            Self::Texts(_) => Err(Error::new("answers in words have no probabilities of classes")),
        }
    }

    /// Writes the labels of a split.
    ///
    /// # Errors
    /// Rows that are no probabilities, or a file that cannot be written.
    pub fn write(self, split: Split, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).path("create a folder of a stage", folder)?;
        match self {
            Self::Soft(rows) => Predictions::new(rows)?.write(&folder.join(Predictions::file(split))),
            Self::Texts(answers) => {
                let path = folder.join(texts_file(split));
                let mut lines = String::new();
                for answer in &answers {
                    let line = serde_json::to_string(answer).map_err(|error| Error::new(error.to_string()))?;
                    lines.push_str(&line);
                    lines.push('\n');
                }
                write_atomically(&path, lines.as_bytes())
            }
        }
    }

    /// Reads the labels of a split from a stage's folder.
    ///
    /// # Errors
    /// A file that is missing or not of this form.
    pub fn read(folder: &Path, split: Split) -> Result<Self> {
        let path = folder.join(texts_file(split));
        if !path.is_file() {
            return Ok(Self::Soft(Predictions::read(&folder.join(Predictions::file(split)))?.into_rows()));
        }
        let text = fs::read_to_string(&path).path("read answers", &path)?;
        let wrong = |(line, error): (usize, serde_json::Error)| {
            Error::new(format!("line {} is no answer: {error}", line + 1))
                .in_file(&path)
                .help("the file is damaged or was edited: remove its folder, and `w2s run` makes it anew")
        };
        let answer = |(line, text): (usize, &str)| serde_json::from_str(text).map_err(|error| wrong((line, error)));
        Ok(Self::Texts(text.lines().enumerate().map(answer).collect::<Result<_>>()?))
    }

    /// Reads the labels that a stage has of a split, if it has any.
    ///
    /// # Errors
    /// A file that is not of this form.
    pub(super) fn of(stage: &Finished, split: Split) -> Result<Option<Self>> {
        let files = [texts_file(split), Predictions::file(split)];
        let there = files.iter().any(|name| stage.manifest.files.contains_key(name));
        there.then(|| Self::read(&stage.folder, split)).transpose()
    }

    /// As [`read`](Self::read), of a finished stage whose bytes are looked at first.
    ///
    /// # Errors
    /// A file that is missing, changed, or not of this form.
    pub fn checked(stage: &Finished, split: Split) -> Result<Self> {
        Self::checked_in(stage, "", split)
    }

    /// The same of what its model said after some steps of its training.
    ///
    /// # Errors
    /// As [`checked`](Self::checked).
    pub fn checked_after(stage: &Finished, step: u64, split: Split) -> Result<Self> {
        Self::checked_in(stage, &format!("{}/", after(step)), split)
    }

    fn checked_in(stage: &Finished, folder: &str, split: Split) -> Result<Self> {
        let texts = format!("{folder}{}", texts_file(split));
        let name = match stage.manifest.files.contains_key(&texts) {
            true => texts,
            false => format!("{folder}{}", Predictions::file(split)),
        };
        stage.checked(&name)?;
        Self::read(&stage.folder.join(folder), split)
    }
}

/// Folder of a stage with what its model said after some steps of its training.
pub(super) fn after(step: u64) -> String {
    format!("{STEPS}{step}")
}

/// The steps after which the model of a stage was asked while it was trained, in ascending order.
pub fn steps_of(stage: &Finished) -> Vec<u64> {
    let step = |name: &String| name.strip_prefix(STEPS)?.split('/').next()?.parse().ok();
    let steps: BTreeSet<u64> = stage.manifest.files.keys().filter_map(step).collect();
    steps.into_iter().collect()
}

/// What names of such folders begin with.
const STEPS: &str = "steps/";

/// Key of a manifest's summary, where the model was asked while it was trained: number of its steps.
pub const ALL_STEPS: &str = "steps";

/// Name of the file with a split's answers in words.
fn texts_file(split: Split) -> String {
    format!("{}.jsonl", split.name())
}

/// Labels over what several gave as answers: row by row, each one's label is 1 at the first of them that says the same, itself at the latest.
///
/// So strategies that compare labels compare answers. Probabilities stay as they are.
pub(super) fn over_answers(given: &[Labels]) -> Result<Vec<strategy::Labels>> {
    if given.iter().all(|labels| matches!(labels, Labels::Soft(_))) {
        return given.iter().cloned().map(Labels::into_soft).collect();
    }
    let agree = |one: usize, other: usize| given[one].agree(&given[other]);
    let width = given.len();
    let label = |own: usize| -> strategy::Labels {
        let before: Vec<Vec<bool>> = (0..own).map(|other| agree(own, other)).collect();
        let place = |row: usize| before.iter().position(|same| same[row]).unwrap_or(own);
        let one_hot = |place: usize| (0..width).map(|other| f32::from(other == place)).collect();
        (0..given[own].len()).map(|row| one_hot(place(row))).collect()
    };
    Ok((0..width).map(label).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Matcher, Matching};

    fn texts(raw: &[&str]) -> Labels {
        let matcher = Matcher::new(&Matching::default()).unwrap();
        let answer = |raw: &&str| {
            let (answer, raw) = (matcher.answer(raw), (*raw).to_owned());
            Answer { raw, answer, log_p: Some(-1.5), cut: false }
        };
        Labels::Texts(raw.iter().map(answer).collect())
    }

    #[test]
    fn words_are_labelled_by_the_first_who_says_the_same() {
        let given = [texts(&["a", "b", " "]), texts(&["a ", "c", ""]), texts(&["x", "c", "d"])];
        let labels = over_answers(&given).unwrap();
        assert_eq!(labels[0], vec![vec![1.0, 0.0, 0.0]; 3]);
        // White space around it is no difference, and a failure agrees with nothing.
        assert_eq!(labels[1], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]);
        assert_eq!(labels[2], [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]);
        let soft = Labels::Soft(vec![vec![0.25, 0.75]]);
        assert_eq!(over_answers(&[soft]).unwrap(), [[[0.25, 0.75]]]);
        let truth = Truth::Texts(match texts(&["a", "c", ""]) {
            Labels::Texts(answers) => answers.into_iter().map(|answer| answer.answer).collect(),
            Labels::Soft(_) => unreachable!(),
        });
        assert_eq!(given[1].right(&truth), [true, true, false]);
        assert_eq!(given[0].right(&truth), [true, false, false]);
    }

    #[test]
    fn words_read_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let said = texts(&["two\nlines", "\"quoted\"", ""]);
        said.clone().write(Split::Test, folder.path()).unwrap();
        assert_eq!(Labels::read(folder.path(), Split::Test).unwrap(), said);
        fs::write(folder.path().join("test.jsonl"), "{}\n").unwrap();
        let error = Labels::read(folder.path(), Split::Test).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("remove its folder"), "{error}");
    }
}
