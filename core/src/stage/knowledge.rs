//! What the strong model knows: its own answers, and P(IK) learnt from them (Selective W2SG, section 3, stage 1).

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    StageId,
    job::{Bench, DataRef, ModelRef, Place, part, summary_of, write_log},
    predictions::Predictions,
    store::{Finished, Store, write_atomically},
};
use crate::{
    Error, Result,
    error::IoContext,
    learner::{self, Encoded, Objective, Recipe},
    model::{Classifier, Pretrained, Tokenizer},
    rng::Rng,
    strategy::{ConfiguredLoss, Settings, Split},
    task::{CountTokens, Example, Shortened, TaskData, shorten},
};

/// Who answers for the strong model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Answerer {
    /// The pretrained model itself, by the probabilities that its language-model head gives to the task's answers.
    LanguageModel {
        /// The model.
        model: ModelRef,
        /// Answered examples before each question.
        shots: usize,
        /// Answers drawn for each question; 0 takes the likeliest.
        samples: usize,
        /// Temperature of the draws.
        temperature: f64,
    },
    /// The strong model fine-tuned on the auxiliary task's ground truth, for models without a language-model head.
    Classifier {
        /// The stage that fine-tunes and keeps it.
        stage: StageId,
    },
}

/// What the strong model is asked about: no strategy needs its answers to a validation split.
const ASKED: [Split; 3] = [Split::Supervise, Split::Transfer, Split::Test];

/// Lets the strong model answer the examples of a task, and notes which answers are right.
///
/// Files: `SPLIT.csv` has class probabilities; `known-SPLIT.csv` the share of drawn answers that are right.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnswerJob {
    /// Who answers.
    pub answerer: Answerer,
    /// The questions.
    pub data: DataRef,
    /// Seed of the examples shown and of the answers drawn.
    pub seed: u64,
}

impl AnswerJob {
    pub(super) fn parameters(&self) -> Value {
        let answerer = match &self.answerer {
            Answerer::LanguageModel { model, shots, samples, temperature } => json!({
                "by": "language-model", "weights": model.fingerprint, "shots": shots, "samples": samples,
                "temperature": temperature,
            }),
            Answerer::Classifier { stage } => json!({ "by": "classifier", "stage": stage }),
        };
        json!({
            "answerer": answerer,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
            "seed": self.seed,
        })
    }

    pub(super) fn inputs(&self) -> Vec<StageId> {
        match &self.answerer {
            Answerer::LanguageModel { model, .. } => model.stage.iter().cloned().collect(),
            Answerer::Classifier { stage } => vec![stage.clone()],
        }
    }

    pub(super) fn run(&self, folder: &Path, store: &Store, place: &Place) -> Result<Value> {
        let data = TaskData::read(&self.data.folder)?;
        match &self.answerer {
            Answerer::LanguageModel { model, shots, samples, temperature } => {
                self.ask(&data, model, *shots, (*samples, *temperature), folder, place)
            }
            Answerer::Classifier { stage } => {
                let pretrained = Pretrained::open(&finished(store, stage)?.folder.join("model"))?;
                let classifier = Classifier::load(&pretrained, &place.device)?;
                if classifier.classes() != data.classes() {
                    return Err(Error::new(format!(
                        "the auxiliary task has {} classes and this one {}: its head cannot answer here",
                        classifier.classes(),
                        data.classes()
                    ))
                    .help("take an auxiliary task with as many classes"));
                }
                let bench = Bench::with(data, place, self.seed);
                let mut known = serde_json::Map::new();
                for split in ASKED {
                    bench.predict(&pretrained, &classifier, split, folder)?;
                    let rows = Predictions::read(&folder.join(Predictions::file(split)))?.into_rows();
                    let right: Vec<f32> = rows
                        .iter()
                        .zip(part(&bench.data, split))
                        .map(|(row, example)| f32::from(learner::argmax(row) == usize::from(example.label)))
                        .collect();
                    write_known(folder, split, &right)?;
                    known.insert(split.name().to_owned(), mean(&right).into());
                }
                Ok(json!({ "known": known }))
            }
        }
    }

    fn ask(
        &self,
        data: &TaskData,
        model: &ModelRef,
        shots: usize,
        (samples, temperature): (usize, f64),
        folder: &Path,
        place: &Place,
    ) -> Result<Value> {
        let pretrained = Pretrained::open(&model.folder)?;
        let backbone = pretrained.load(&place.device)?;
        let answers = Answers::of(data, pretrained.tokenizer())?;
        let asker = Asker::new(data, &answers, pretrained.tokenizer(), shots, self.data.max_tokens, self.seed)?;
        let tokens: Vec<Vec<u32>> = answers.tokens.clone();
        let mut known = serde_json::Map::new();
        let mut hasher = blake3::Hasher::new();
        let (mut shortened, mut cut, mut mass) = (0, 0, Vec::new());
        for split in ASKED {
            let examples = part(data, split);
            let mut rows = Vec::with_capacity(examples.len());
            for example in examples {
                let prompt = asker.prompt(example)?;
                hasher.update(prompt.text.as_bytes()).update(&[0]);
                shortened += usize::from(prompt.shortened);
                cut += usize::from(prompt.shots < asker.shots.len());
                rows.push(pretrained.tokenizer().encode(&prompt.text)?);
            }
            let prompts = Encoded::new(rows, pretrained.spec())?;
            let scores = learner::score(&backbone, &prompts, &tokens, &place.execution)?;
            let mut probabilities = Vec::with_capacity(scores.len());
            let mut right = Vec::with_capacity(scores.len());
            for (row, (scores, example)) in scores.iter().zip(examples).enumerate() {
                mass.push(scores.iter().map(|score| score.exp()).sum::<f32>());
                let mut classes = vec![0.0; data.classes()];
                for (share, class) in softmax(scores, 1.0).iter().zip(&answers.classes) {
                    classes[*class] += share;
                }
                probabilities.push(classes);
                let draws: Vec<usize> = if samples == 0 {
                    vec![learner::argmax(scores)]
                } else {
                    let shares = softmax(scores, temperature as f32);
                    let mut rng = Rng::named(self.seed, &format!("answers/{}/{row}", split.name()));
                    (0..samples).map(|_| draw(&shares, rng.uniform() as f32)).collect()
                };
                let hits = draws.iter().filter(|&&answer| answers.is_right(answer, example)).count();
                right.push(hits as f32 / draws.len() as f32);
            }
            Predictions::new(probabilities)?.write(&folder.join(Predictions::file(split)))?;
            write_known(folder, split, &right)?;
            known.insert(split.name().to_owned(), mean(&right).into());
        }
        Ok(json!({
            "known": known,
            "answers": answers.texts,
            "shots": asker.shots,
            "prompt_hash": hasher.finalize().to_hex().to_string(),
            "shortened": shortened,
            "fewer_shots": cut,
            "probability_of_the_answers": mean(&mass),
        }))
    }
}

/// The answers that a task knows, each with its class.
struct Answers {
    texts: Vec<String>,
    classes: Vec<usize>,
    tokens: Vec<Vec<u32>>,
}

impl Answers {
    fn of(data: &TaskData, tokenizer: &Tokenizer) -> Result<Self> {
        let words = data.prompt.as_ref().map(|style| style.answers.as_slice()).unwrap_or_default();
        if words.is_empty() {
            return Err(Error::new(format!("task `{}` does not say how a language model is asked", data.task))
                .help("give it a `[prompt]` with `template` and `answers`"));
        }
        let mut answers = Self { texts: Vec::new(), classes: Vec::new(), tokens: Vec::new() };
        for (class, words) in words.iter().enumerate() {
            for word in words {
                answers.texts.push(word.clone());
                answers.classes.push(class);
                answers.tokens.push(tokenizer.encode_bare(word)?);
            }
        }
        Ok(answers)
    }

    /// Right is what the example's own reference says, where it has one among the answers; else any answer of the true class.
    fn is_right(&self, answer: usize, example: &Example) -> bool {
        match self.reference(example) {
            Some(reference) => self.texts[answer].trim() == self.texts[reference].trim(),
            None => self.classes[answer] == usize::from(example.label),
        }
    }

    fn reference(&self, example: &Example) -> Option<usize> {
        let reference = example.prompt.as_ref()?.reference.as_ref()?;
        self.texts.iter().position(|text| text.trim() == reference.trim())
    }

    /// The answer that is shown for an example.
    fn shown(&self, example: &Example) -> Option<&str> {
        let first = || self.classes.iter().position(|class| *class == usize::from(example.label));
        self.reference(example).or_else(first).map(|answer| self.texts[answer].as_str())
    }
}

/// Writes few-shot prompts.
struct Asker<'a> {
    tokenizer: &'a Tokenizer,
    instruction: String,
    /// Rows of the supervise split that are shown as answered.
    shots: Vec<usize>,
    shown: Vec<String>,
    limit: usize,
}

/// A question as the model reads it.
struct Asked {
    text: String,
    shortened: bool,
    shots: usize,
}

impl<'a> Asker<'a> {
    fn new(
        data: &TaskData,
        answers: &Answers,
        tokenizer: &'a Tokenizer,
        shots: usize,
        max_tokens: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut pool: Vec<usize> = (0..data.supervise.len()).collect();
        Rng::named(seed, "shots").shuffle(&mut pool);
        pool.truncate(shots);
        let shown = pool.iter().filter_map(|&row| {
            let example = &data.supervise[row];
            Some(format!("{}{}\n\n", example.prompt.as_ref()?.text, answers.shown(example)?))
        });
        let longest = answers.tokens.iter().map(Vec::len).max().unwrap_or(0);
        let instruction = data.prompt.as_ref().and_then(|style| style.instruction.clone());
        Ok(Self {
            tokenizer,
            instruction: instruction.map(|text| format!("{text}\n\n")).unwrap_or_default(),
            shown: shown.collect(),
            shots: pool,
            limit: max_tokens.saturating_sub(longest),
        })
    }

    /// Leaves out shots, first those farthest from the question, until it fits; then words from the left of the question's context.
    fn prompt(&self, example: &Example) -> Result<Asked> {
        let question = example.prompt.as_ref().ok_or_else(|| {
            Error::new("an example has no prompt").help("give the task a `[prompt]` with `template` and `answers`")
        })?;
        let count = |text: &str| self.tokenizer.encode(text).map(|ids| ids.len());
        let counters: [CountTokens; 1] = [&count];
        for left_out in 0..=self.shown.len() {
            let before = format!("{}{}", self.instruction, self.shown[left_out..].concat());
            let mut text = format!("{before}{}", question.text);
            let shots = self.shown.len() - left_out;
            if count(&text)? <= self.limit {
                return Ok(Asked { text, shortened: false, shots });
            }
            if shots == 0 {
                let mut context = question.context.start + before.len()..question.context.end + before.len();
                return match shorten(&mut text, &mut context, &counters, self.limit)?.0 {
                    Shortened::TooLong => {
                        Err(Error::new(format!("a question does not fit into {} tokens", self.limit))
                            .help("mark a part of the prompt's template as `context`, or raise `max_tokens`"))
                    }
                    done => Ok(Asked { text, shortened: done == Shortened::Yes, shots }),
                };
            }
        }
        Err(Error::new("a question does not fit"))
    }
}

/// What the label of an example of P(IK) is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KnownLabel {
    /// 1 if more than half of the drawn answers are right (with one answer: if it is right), else 0.
    #[default]
    Hard,
    /// The share of drawn answers that are right (Kadavath et al. 2022).
    Fraction,
}

/// Whether known and unknown examples are made equally many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PikBalance {
    /// As many as there are.
    #[default]
    None,
    /// Some of the larger kind, drawn at random, are left out.
    Undersample,
}

/// What P(IK) is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PikInput {
    /// The text that classifiers see.
    #[default]
    Text,
    /// The language model's question.
    Prompt,
    /// The language model's question behind its few-shot examples: the paper's words, read literally.
    FewShotPrompt,
}

/// The training set of P(IK): examples of the auxiliary task, each with whether the strong model knew the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PikExamples {
    /// The stage that holds the answers.
    pub answers: StageId,
    /// The auxiliary task's data.
    pub data: DataRef,
    /// Which parts are learnt from.
    pub splits: Vec<Split>,
    /// What an example's label is.
    pub label: KnownLabel,
    /// Whether the two kinds are made equally many.
    pub balance: PikBalance,
    /// What the head reads.
    pub input: PikInput,
    /// Seed of the answers, and of what is left out.
    pub seed: u64,
}

impl PikExamples {
    pub(super) fn identity(&self) -> Value {
        json!({
            "answers": self.answers,
            "data": self.data.fingerprint,
            "splits": self.splits,
            "label": self.label,
            "balance": self.balance,
            "input": self.input,
            "seed": self.seed,
        })
    }

    /// Tokens and `[IDK, IK]` labels, and what they are for the record.
    pub(super) fn read(&self, store: &Store, model: &Pretrained) -> Result<(Encoded, Vec<Vec<f32>>, Value)> {
        let answers = finished(store, &self.answers)?;
        let data = TaskData::read(&self.data.folder)?;
        let shots = shots(&answers)?;
        let tokenizer = model.tokenizer();
        let words = match self.input {
            PikInput::Text => None,
            PikInput::Prompt | PikInput::FewShotPrompt => Some(Answers::of(&data, tokenizer)?),
        };
        let asker = words
            .map(|words| {
                let shots = if self.input == PikInput::FewShotPrompt { shots.len() } else { 0 };
                Asker::new(&data, &words, tokenizer, shots, self.data.max_tokens, self.seed)
            })
            .transpose()?;
        let mut examples: Vec<(String, f32)> = Vec::new();
        for &split in &self.splits {
            let known = read_known(&answers.folder, split)?;
            for (row, (example, known)) in part(&data, split).iter().zip(known).enumerate() {
                // What was shown with its answer says nothing of what the model knows.
                if split == Split::Supervise && shots.contains(&row) {
                    continue;
                }
                let text = match &asker {
                    None => example.text.clone(),
                    Some(asker) => asker.prompt(example)?.text,
                };
                let label = match self.label {
                    KnownLabel::Hard => f32::from(known > 0.5),
                    KnownLabel::Fraction => known,
                };
                examples.push((text, label));
            }
        }
        let all = examples.len();
        if self.balance == PikBalance::Undersample {
            let mut order: Vec<usize> = (0..examples.len()).collect();
            Rng::named(self.seed, "p-ik/balance").shuffle(&mut order);
            let (known, unknown): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&row| examples[row].1 > 0.5);
            let each = known.len().min(unknown.len());
            let mut kept = [&known[..each], &unknown[..each]].concat();
            kept.sort_unstable();
            examples = kept.into_iter().map(|row| examples[row].clone()).collect();
        }
        let share = mean(&examples.iter().map(|(_, known)| *known).collect::<Vec<_>>());
        if examples.is_empty() || share == 0.0 || share == 1.0 {
            let which = if share == 1.0 { "every" } else { "no" };
            return Err(Error::new(format!(
                "the strong model answers {which} question of the auxiliary task right: P(IK) cannot be learnt from {all} examples"
            ))
            .help("take an auxiliary task of which it knows a part, or draw more answers (`samples`)"));
        }
        let rows = examples.iter().map(|(text, _)| tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let labels = examples.iter().map(|(_, known)| vec![1.0 - known, *known]).collect();
        let summary = json!({ "examples": examples.len(), "of": all, "known": share });
        Ok((Encoded::new(rows, model.spec())?, labels, summary))
    }
}

/// Rows of the supervise split that were shown as answered before the questions of an [`AnswerJob`]. A classifier is shown none.
fn shots(answers: &Finished) -> Result<Vec<usize>> {
    if answers.manifest.parameters["answerer"]["by"] == "classifier" {
        return Ok(Vec::new());
    }
    serde_json::from_value(answers.manifest.summary["shots"].clone()).map_err(|error| {
        Error::new(format!("the record of these answers does not say which examples were shown: {error}"))
            .in_file(answers.file("manifest.json"))
            .help("remove the folder, and the answers are made again")
    })
}

/// Trains the strong model on P(IK) alone, and keeps it.
///
/// Files: `model/`; `test.csv` holds `[P(IDK), P(IK)]` of the auxiliary task's test split.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PikJob {
    /// The strong model.
    pub model: ModelRef,
    /// Training settings.
    pub recipe: Recipe,
    /// What it learns from.
    pub examples: PikExamples,
    /// Seed of the cell.
    pub seed: u64,
}

impl PikJob {
    pub(super) fn parameters(&self) -> Result<Value> {
        Ok(json!({
            "model": self.model.identity()?,
            "recipe": self.recipe.identity()?,
            "examples": self.examples.identity(),
            "seed": self.seed,
        }))
    }

    pub(super) fn inputs(&self) -> Vec<StageId> {
        [self.examples.answers.clone()].into_iter().chain(self.model.stage.clone()).collect()
    }

    pub(super) fn run(&self, folder: &Path, store: &Store, place: &Place) -> Result<Value> {
        let bench = Bench::open(&self.examples.data, self.seed, place)?;
        let pretrained = Pretrained::open(&self.model.folder)?;
        let (data, labels, summary) = self.examples.read(store, &pretrained)?;
        let loss: Box<dyn ConfiguredLoss> = super::job::default_strategy(crate::strategy::Kind::Loss, "cross-entropy")?;
        let classifier = bench.classifier(&self.model, &pretrained, 2, None)?;
        let trained = bench.train_on(classifier, &data, &self.recipe, Objective::new(labels, loss))?;
        write_log(&trained, folder)?;
        bench.predict(&pretrained, &trained.model, Split::Test, folder)?;
        trained.model.save(&folder.join("model"), pretrained.tokenizer())?;
        Ok(summary_of(&trained, json!({ "p_ik": summary })))
    }
}

/// What a trained P(IK) model says of a task's examples.
///
/// Files: `transfer.csv` and `test.csv` hold `[P(IDK), P(IK)]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PikScoreJob {
    /// The stage that trains it.
    pub p_ik: StageId,
    /// The examples.
    pub data: DataRef,
}

impl PikScoreJob {
    pub(super) fn parameters(&self) -> Value {
        json!({ "p_ik": self.p_ik, "data": self.data.fingerprint, "max_tokens": self.data.max_tokens })
    }

    pub(super) fn inputs(&self) -> Vec<StageId> {
        vec![self.p_ik.clone()]
    }

    pub(super) fn run(&self, folder: &Path, store: &Store, place: &Place) -> Result<Value> {
        let pretrained = Pretrained::open(&finished(store, &self.p_ik)?.folder.join("model"))?;
        let classifier = Classifier::load(&pretrained, &place.device)?;
        let bench = Bench::open(&self.data, 0, place)?;
        for split in [Split::Transfer, Split::Test] {
            bench.predict(&pretrained, &classifier, split, folder)?;
        }
        Ok(json!({}))
    }
}

/// Embeddings of the pretrained strong model for the student's examples.
///
/// File: `transfer.f32`, rows of little-endian f32; `width` in the summary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EmbedJob {
    /// The strong model.
    pub model: ModelRef,
    /// The examples.
    pub data: DataRef,
}

impl EmbedJob {
    pub(super) fn parameters(&self) -> Result<Value> {
        Ok(json!({
            "model": self.model.identity()?,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
        }))
    }

    pub(super) fn inputs(&self) -> Vec<StageId> {
        self.model.stage.iter().cloned().collect()
    }

    pub(super) fn run(&self, folder: &Path, place: &Place) -> Result<Value> {
        let bench = Bench::open(&self.data, 0, place)?;
        let pretrained = Pretrained::open(&self.model.folder)?;
        let classifier = bench.classifier(&self.model, &pretrained, bench.data.classes(), None)?;
        let rows = learner::embed(&classifier, &bench.encode(&pretrained, Split::Transfer)?, &place.execution)?;
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        write_atomically(&folder.join(EMBEDDINGS), &bytes)?;
        Ok(json!({ "width": rows.first().map_or(0, Vec::len) }))
    }
}

const EMBEDDINGS: &str = "transfer.f32";

/// What [`EmbedJob`] wrote.
pub(super) fn read_embeddings(stage: &Finished) -> Result<Vec<Vec<f32>>> {
    let path = stage.file(EMBEDDINGS);
    let bytes = std::fs::read(&path).path("read embeddings", &path)?;
    let width = stage.manifest.summary["width"].as_u64().unwrap_or(0) as usize;
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
    Ok(values.chunks_exact(width.max(1)).map(<[f32]>::to_vec).collect())
}

/// The stage that another one reads, which the grid has run before.
pub(super) fn finished(store: &Store, id: &StageId) -> Result<Finished> {
    store.take(id)
}

/// Name of the file that says what was known of a split.
pub fn known_file(split: Split) -> String {
    format!("known-{}.csv", split.name())
}

fn write_known(folder: &Path, split: Split, known: &[f32]) -> Result<()> {
    let lines: String = known.iter().map(|share| format!("{share}\n")).collect();
    write_atomically(&folder.join(known_file(split)), format!("known\n{lines}").as_bytes())
}

/// The share of right answers to each example of a split, as an [`AnswerJob`] wrote them.
///
/// # Errors
/// A file that is missing or not of that form.
pub fn read_known(folder: &Path, split: Split) -> Result<Vec<f32>> {
    let path = folder.join(known_file(split));
    let text = std::fs::read_to_string(&path).path("read what is known", &path)?;
    let wrong = |line: &str| Error::new(format!("`{line}` is no share of right answers")).in_file(&path);
    text.lines().skip(1).map(|line| line.parse().map_err(|_| wrong(line))).collect()
}

/// Softmax of scores at a temperature.
fn softmax(scores: &[f32], temperature: f32) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.iter().map(|score| ((score - largest) / temperature).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The place in a distribution at which a number in [0, 1) falls.
fn draw(shares: &[f32], at: f32) -> usize {
    let mut sum = 0.0;
    for (place, share) in shares.iter().enumerate() {
        sum += share;
        if at < sum {
            return place;
        }
    }
    shares.len() - 1
}

fn mean(values: &[f32]) -> f64 {
    values.iter().copied().map(f64::from).sum::<f64>() / values.len().max(1) as f64
}
