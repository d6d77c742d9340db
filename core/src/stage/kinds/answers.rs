//! What the strong model answers, and which answers are right (Selective W2SG, section 3, stage 1).

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    error::IoContext,
    learner::{self, Encoded},
    model::{Classifier, Pretrained},
    rng::Rng,
    stage::{
        DataRef, Demand, Labels, ModelRef, Predictions, Stage, StageId, Truth,
        asking::{Answers as Words, Asker},
        bench::{Bench, part},
        store::{Finished, write_atomically},
        trainer::Writer,
    },
    strategy::{Form, Split},
    task::Example,
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

/// The tokens with which a model's texts end.
fn ends(model: &ModelRef) -> Result<Vec<u32>> {
    let writing = model.writing.as_ref();
    let ends = writing.map(|writing| writing.ends.clone());
    ends.ok_or_else(|| Error::new(format!("nobody says how model `{}` is to write", model.name)))
}

/// What the strong model is asked about; the validation split only where somebody needs that.
const ASKED: [Split; 3] = [Split::Supervise, Split::Transfer, Split::Test];

/// Lets the strong model answer the examples of a task, and notes which answers are right.
///
/// Files: [`Labels`] of each split; `known-SPLIT.csv` the share of drawn answers that are right; [`DRAWS`] if these are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answers {
    /// Who answers.
    pub answerer: Answerer,
    /// The questions.
    pub data: DataRef,
    /// Seed of the examples shown and of the answers drawn.
    pub seed: u64,
    /// Whether the language model is asked about the validation split, too.
    #[serde(default)]
    pub validation: bool,
    /// Whether the answers that are drawn to the student's examples are kept.
    #[serde(default)]
    pub keep: bool,
}

/// Folder of an [`Answers`] with what it kept of its draws: [`Labels`] of the transfer split, of classes how often each was drawn, of words all
/// answers to the first example, to the second, and so on.
pub const DRAWS: &str = "draws";

#[typetag::serde(name = "answers")]
impl Stage for Answers {
    fn parameters(&self) -> Result<Value> {
        let answerer = match &self.answerer {
            Answerer::LanguageModel { model, shots, samples, temperature } => json!({
                "by": "language-model", "weights": model.weights, "shots": shots, "samples": samples,
                "temperature": temperature,
            }),
            Answerer::Classifier { stage } => json!({ "by": "classifier", "stage": stage }),
        };
        let mut parameters = json!({
            "answerer": answerer,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
            "seed": self.seed,
        });
        if let Answerer::LanguageModel { model: ModelRef { writing: Some(writing), .. }, .. } = &self.answerer {
            // How answers are learnt is nothing to a model that is asked as it is.
            parameters["ends"] = json!(writing.ends);
        }
        if self.validation {
            parameters["validation"] = true.into();
        }
        if self.keep {
            parameters["keep"] = true.into();
        }
        Ok(parameters)
    }

    fn title(&self) -> String {
        format!("answers  {}  seed {}", self.data.task, self.seed)
    }

    fn demand(&self) -> Option<Demand<'_>> {
        let Answerer::LanguageModel { model, .. } = &self.answerer else { return None };
        // It reads prompts, with answered examples before them.
        let longest = self.data.max_tokens;
        Some(Demand { lora: None, frozen: true, outputs: None, longest, ..Demand::answering(model, &self.data) })
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        match &self.answerer {
            Answerer::LanguageModel { model, shots, samples, temperature } => {
                let draws = (*samples, *temperature);
                match self.data.form {
                    Form::Words => self.ask_for_words(model, *shots, draws, bench, folder),
                    Form::Classes(_) | Form::Candidates(_) => self.ask(model, *shots, draws, bench, folder),
                }
            }
            Answerer::Classifier { stage } => self.classify(stage, bench, folder),
        }
    }
}

impl Answers {
    fn classify(&self, stage: &StageId, bench: &Bench, folder: &Path) -> Result<Value> {
        let trainer = bench.trainer(&self.data, self.seed)?;
        let (pretrained, answerer) = trainer.kept(stage)?;
        let classes = answerer.classifier().map_or(0, Classifier::classes);
        if classes != trainer.data.classes() {
            return Err(Error::new(format!(
                "the auxiliary task has {classes} classes and this one {}: its head cannot answer here",
                trainer.data.classes()
            ))
            .help("take an auxiliary task with as many classes"));
        }
        let mut known = serde_json::Map::new();
        for split in ASKED {
            let labels = trainer.answer(&pretrained, &answerer, split)?;
            let right: Vec<f32> = labels.right(&Truth::of(&trainer.data, split)?).into_iter().map(f32::from).collect();
            labels.write(split, folder)?;
            write_known(folder, split, &right)?;
            known.insert(split.name().to_owned(), mean(&right).into());
        }
        Ok(json!({ "known": known }))
    }

    /// What the model writes after few-shot prompts: its likeliest answer, and how many of its `samples` are right.
    fn ask_for_words(
        &self,
        model: &ModelRef,
        shots: usize,
        (samples, temperature): (usize, f64),
        bench: &Bench,
        folder: &Path,
    ) -> Result<Value> {
        let trainer = bench.trainer(&self.data, self.seed)?;
        let pretrained = bench.model(model)?;
        let backbone = bench.load(&pretrained)?;
        let room = trainer.decoding(0)?.max_new_tokens;
        let tokenizer = pretrained.tokenizer();
        let asker = Asker::for_words(&trainer.data, tokenizer, shots, (self.data.max_tokens, room), self.seed);
        let mut known = serde_json::Map::new();
        let mut record = Record::default();
        for split in self.splits() {
            let prompts = record.prompts(&asker, part(&trainer.data, split), &pretrained)?;
            let writer = Writer { model: &backbone, tokenizer, ends: &ends(model)? };
            let labels = Labels::Texts(trainer.write(&writer, &prompts, None, split)?);
            let truth = Truth::of(&trainer.data, split)?;
            let mut hits: Vec<f32> = labels.right(&truth).into_iter().map(f32::from).collect();
            if samples > 0 {
                let drawn = trainer.write(&writer, &prompts, Some((samples, temperature)), split)?;
                // Answers stand prompt by prompt.
                let of = |sample: usize| Labels::Texts(drawn.iter().skip(sample).step_by(samples).cloned().collect());
                hits.fill(0.0);
                if self.keep && split == Split::Transfer {
                    Labels::Texts(drawn.clone()).write(split, &folder.join(DRAWS))?;
                }
                for right in (0..samples).map(|sample| of(sample).right(&truth)) {
                    hits.iter_mut().zip(right).for_each(|(hits, right)| *hits += f32::from(right) / samples as f32);
                }
            }
            labels.write(split, folder)?;
            write_known(folder, split, &hits)?;
            known.insert(split.name().to_owned(), mean(&hits).into());
        }
        Ok(record.summary(known, &asker))
    }

    fn ask(
        &self,
        model: &ModelRef,
        shots: usize,
        (samples, temperature): (usize, f64),
        bench: &Bench,
        folder: &Path,
    ) -> Result<Value> {
        let data = &self.data.read(bench.store)?;
        let pretrained = bench.model(model)?;
        let backbone = bench.load(&pretrained)?;
        let answers = Words::of(data, pretrained.tokenizer())?;
        let asker = Asker::new(data, &answers, pretrained.tokenizer(), shots, self.data.max_tokens, self.seed)?;
        let tokens: Vec<Vec<u32>> = answers.tokens.clone();
        let mut known = serde_json::Map::new();
        let (mut record, mut mass) = (Record::default(), Vec::new());
        for split in self.splits() {
            let examples = part(data, split);
            let prompts = record.prompts(&asker, examples, &pretrained)?;
            let scores = learner::score(&backbone, &prompts, &tokens, &bench.place.execution)?;
            let mut probabilities = Vec::with_capacity(scores.len());
            let mut right = Vec::with_capacity(scores.len());
            let mut drawn = Vec::new();
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
                let mut shares = vec![0.0; data.classes()];
                draws.iter().for_each(|answer| shares[answers.classes[*answer]] += 1.0 / draws.len() as f32);
                drawn.push(shares);
            }
            if self.keep && split == Split::Transfer {
                Labels::Soft(drawn).write(split, &folder.join(DRAWS))?;
            }
            Predictions::new(probabilities)?.write(&folder.join(Predictions::file(split)))?;
            write_known(folder, split, &right)?;
            known.insert(split.name().to_owned(), mean(&right).into());
        }
        let mut summary = record.summary(known, &asker);
        summary["answers"] = json!(answers.texts);
        summary["probability_of_the_answers"] = json!(mean(&mass));
        Ok(summary)
    }

    /// What is asked about.
    fn splits(&self) -> impl Iterator<Item = Split> {
        ASKED.into_iter().chain(self.validation.then_some(Split::Validation))
    }
}

/// What a manifest says of the questions.
#[derive(Default)]
struct Record {
    hasher: blake3::Hasher,
    shortened: usize,
    fewer_shots: usize,
}

impl Record {
    /// The questions about some examples, as the model reads them.
    fn prompts(&mut self, asker: &Asker, examples: &[Example], model: &Pretrained) -> Result<Encoded> {
        let mut rows = Vec::with_capacity(examples.len());
        for example in examples {
            let prompt = asker.prompt(example)?;
            self.hasher.update(prompt.text.as_bytes()).update(&[0]);
            self.shortened += usize::from(prompt.shortened);
            self.fewer_shots += usize::from(prompt.shots < asker.shots.len());
            rows.push(model.tokenizer().encode(&prompt.text)?);
        }
        Encoded::new(rows, model.spec())
    }

    fn summary(&self, known: serde_json::Map<String, Value>, asker: &Asker) -> Value {
        json!({
            "known": known,
            "shots": asker.shots,
            "prompt_hash": self.hasher.finalize().to_hex().to_string(),
            "shortened": self.shortened,
            "fewer_shots": self.fewer_shots,
        })
    }
}

/// Rows of the supervise split that were shown as answered before the questions of an [`Answers`]. A classifier is shown none.
pub(super) fn shots(answers: &Finished) -> Result<Vec<usize>> {
    if answers.manifest.parameters["answerer"]["by"] == "classifier" {
        return Ok(Vec::new());
    }
    serde_json::from_value(answers.manifest.summary["shots"].clone()).map_err(|error| {
        Error::new(format!("the record of these answers does not say which examples were shown: {error}"))
            .in_file(answers.file("manifest.json"))
            .help("remove the folder, and the answers are made again")
    })
}

/// Name of the file that says what was known of a split.
pub fn known_file(split: Split) -> String {
    format!("known-{}.csv", split.name())
}

fn write_known(folder: &Path, split: Split, known: &[f32]) -> Result<()> {
    let lines: String = known.iter().map(|share| format!("{share}\n")).collect();
    write_atomically(&folder.join(known_file(split)), format!("known\n{lines}").as_bytes())
}

/// The share of right answers to each example of a split, as an [`Answers`] wrote them.
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

pub(super) fn mean(values: &[f32]) -> f64 {
    values.iter().copied().map(f64::from).sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Manifest;

    /// Examples that were shown with their answers must not be trained on: a record that does not name them is not taken for one of none.
    #[test]
    fn a_record_that_does_not_say_what_was_shown_is_an_error() {
        let shown = |parameters: Value, summary: Value| {
            let id = StageId::new("answers", 1, &parameters);
            let manifest = json!({
                "id": id, "parameters": parameters, "summary": summary, "files": {}, "version": "", "commit": "", "device": "", "seconds": 0.0,
                "finished": 0,
            });
            let manifest: Manifest = serde_json::from_value(manifest).unwrap();
            shots(&Finished { folder: "answers".into(), manifest })
        };
        let asked = json!({"answerer": {"by": "language-model"}});
        assert_eq!(shown(asked.clone(), json!({"shots": [4, 0, 9]})).unwrap(), [4, 0, 9]);
        assert_eq!(shown(asked.clone(), json!({"shots": []})).unwrap(), Vec::<usize>::new());
        for summary in [json!({}), json!({"shots": null}), json!({"shots": 3}), json!({"shots": [-1]}), json!(null)] {
            let error = shown(asked.clone(), summary).unwrap_err();
            assert!(error.message().contains("does not say which examples were shown"), "{error}");
            assert!(error.remedy().is_some() && error.place().is_some(), "{error}");
        }
        // A classifier is shown none.
        assert_eq!(shown(json!({"answerer": {"by": "classifier"}}), json!({})).unwrap(), Vec::<usize>::new());
    }
}
