//! P(IK): whether the strong model knows an answer, learnt from which of its own are right (Selective W2SG, section 3, stage 1).

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answers::{mean, read_known, shots};
use crate::{
    Error, Result,
    learner::{Encoded, Objective, Recipe},
    model::Pretrained,
    rng::Rng,
    stage::{
        DataRef, Demand, ModelRef, Stage, StageId,
        asking::{Answers, Asker},
        bench::{Bench, part, summary_of, write_log},
        job::default_strategy,
        kinds::student::Judged,
        trainer::Answerer,
    },
    strategy::{ConfiguredLoss, Form, Kind, Settings, Split},
};

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

#[typetag::serde(name = "p-ik")]
impl Judged for PikExamples {
    fn identity(&self) -> Value {
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

    fn longest(&self) -> usize {
        self.data.longest()
    }

    /// Tokens and `[IDK, IK]` labels, and what they are for the record.
    fn read(&self, bench: &Bench, model: &Pretrained) -> Result<(Encoded, Vec<Vec<f32>>, Value)> {
        let answers = bench.stage(&self.answers)?;
        let data = self.data.read(bench.store)?;
        let shots = shots(&answers)?;
        let tokenizer = model.tokenizer();
        let shown = if self.input == PikInput::FewShotPrompt { shots.len() } else { 0 };
        let words = match (self.input, data.asks()) {
            (PikInput::Text, _) | (_, Form::Words) => None,
            _ => Some(Answers::of(&data, tokenizer)?),
        };
        let asker = match (self.input, &words) {
            (PikInput::Text, _) => None,
            (_, None) => Some(Asker::for_words(&data, tokenizer, shown, (self.data.max_tokens, 0), self.seed)),
            (_, Some(words)) => Some(Asker::new(&data, words, tokenizer, shown, self.data.max_tokens, self.seed)?),
        };
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

/// Trains the strong model on P(IK) alone, and keeps it.
///
/// Files: `model/`; `test.csv` holds `[P(IDK), P(IK)]` of the auxiliary task's test split.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pik {
    /// The strong model.
    pub model: ModelRef,
    /// Training settings.
    pub recipe: Recipe,
    /// What it learns from.
    pub examples: PikExamples,
    /// Seed of the cell.
    pub seed: u64,
}

#[typetag::serde(name = "p-ik")]
impl Stage for Pik {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({
            "model": self.model.identity()?,
            "recipe": self.recipe.identity()?,
            "examples": self.examples.identity(),
            "seed": self.seed,
        }))
    }

    fn title(&self) -> String {
        format!("p-ik  {}  seed {}", self.examples.data.task, self.seed)
    }

    fn batch(&self) -> usize {
        self.recipe.batch_size
    }

    fn demand(&self) -> Option<Demand<'_>> {
        let demand = Demand::answering(&self.model, &self.examples.data).trained(&self.recipe);
        Some(Demand { outputs: Some(2), ..demand })
    }

    fn model(&self) -> Option<&ModelRef> {
        Some(&self.model)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let trainer = bench.trainer(&self.examples.data, self.seed)?;
        let pretrained = bench.model(&self.model)?;
        let (data, labels, summary) = self.examples.read(bench, &pretrained)?;
        let loss: Box<dyn ConfiguredLoss> = default_strategy(Kind::Loss, "cross-entropy")?;
        let classifier = trainer.classifier(&self.model, &pretrained, 2, None)?;
        let objective = Objective::new(labels, loss);
        let trained = trainer.train_classifier(classifier, &data, &self.recipe, objective, 0)?;
        let trained = trained.map(Answerer::Chooses);
        write_log(&trained, 0, folder)?;
        trainer.answer_into(&pretrained, &trained.model, Split::Test, folder)?;
        trained.model.save(folder, pretrained.tokenizer(), &self.model)?;
        Ok(summary_of(&trained, json!({ "p_ik": summary })))
    }
}
