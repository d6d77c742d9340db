//! A judge of labels: the strong model, trained to tell answers on which weak model and student agree from the student's others
//! (multi-capabilities W2SG, section 4, "reward model").

use std::path::Path;

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    learner::{self, Encoded, Objective, Recipe},
    model::{Classifier, HeadConfig, HeadInit, Pretrained, Tokenizer},
    rng::{self, Rng},
    stage::{
        DataRef, Demand, Labels, ModelRef, Predictions, Stage, StageId,
        bench::{Bench, add_remarks, part, write_log},
    },
    strategy::{Memory, Progress, Settings, Split, StudentLoss, math},
    task::{CountTokens, Example, Shortened, TaskData, shorten},
};

/// How a judge is trained. The paper names a binary classifier on question and answer, and leaves the rest open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeSettings {
    /// In how many parts the examples are cut, each judged by a judge that was trained on the others; 0 lets one judge, trained on all of
    /// them, judge all. Origin: the paper has one, which has seen the answers it keeps.
    pub folds: usize,
    /// `cross-entropy`, or `difference`: mean score of what was disagreed on minus mean score of what was agreed on, which has no bound.
    /// Origin: the paper's words, and its equation 7.
    pub loss: JudgeLoss,
    /// `none`, `undersample` (some of the more frequent kind are left out), or `weight` (each kind counts half). Origin: the paper does not say.
    pub balance: JudgeBalance,
    /// `pretrained`, or `student`: where the judge starts. Origin: the paper, "initialized from the strong model".
    pub init: JudgeInit,
}

impl Settings for JudgeSettings {}

/// What a judge minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JudgeLoss {
    /// Binary cross-entropy.
    #[default]
    CrossEntropy,
    /// Difference of the mean scores, a score being the difference of the two logits.
    Difference,
}

/// Whether what was agreed on and what was not count the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JudgeBalance {
    /// As many as there are.
    #[default]
    None,
    /// Some of the more frequent kind, drawn at random, are left out.
    Undersample,
    /// Each kind counts half.
    Weight,
}

/// Where a judge starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JudgeInit {
    /// The pretrained strong model.
    #[default]
    Pretrained,
    /// The student whose answers are compared with the weak ones.
    Student,
}

/// Trains a judge on where weak labels and a student's agree, and lets it judge every weak label.
///
/// Files: `transfer.csv` has `[P(not), P(the label is one that is agreed on)]` of every weak label; `log.csv`, `log-2.csv` … of every fold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judge {
    /// The strong model.
    pub model: ModelRef,
    /// Training settings.
    pub recipe: Recipe,
    /// The examples.
    pub data: DataRef,
    /// The stage that holds the weak labels.
    pub weak: StageId,
    /// The stage that keeps the student.
    pub student: StageId,
    /// The stage that holds the student's labels.
    pub own: StageId,
    /// The open questions.
    pub settings: JudgeSettings,
    /// Seed of the cell.
    pub seed: u64,
}

#[typetag::serde(name = "judge")]
impl Stage for Judge {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({
            "model": self.model.identity()?,
            "recipe": self.recipe.identity()?,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
            "weak": self.weak,
            "student": self.student,
            "own": self.own,
            "settings": self.settings.identity()?,
            "seed": self.seed,
        }))
    }

    fn title(&self) -> String {
        format!("judge  {}  {}  seed {}", self.data.task, self.model.name, self.seed)
    }

    fn batch(&self) -> usize {
        self.recipe.batch_size
    }

    fn demand(&self) -> Option<Demand<'_>> {
        let demand = Demand::answering(&self.model, &self.data).trained(&self.recipe);
        Some(Demand { outputs: Some(2), texts: 1, ..demand })
    }

    fn model(&self) -> Option<&ModelRef> {
        Some(&self.model)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let data = self.data.read(bench.store)?;
        let pretrained = bench.model(&self.model)?;
        let labels = |stage: &StageId| Labels::read(&bench.stage(stage)?.folder, Split::Transfer);
        let (weak, own) = (labels(&self.weak)?, labels(&self.own)?);
        let agreed = weak.agree(&own);
        let agree = agreed.iter().filter(|agreed| **agreed).count();
        let mut summary = json!({ "examples": agreed.len(), "agreed": agree });
        if agree == agreed.len() {
            // Nothing was learnt from, and nothing speaks against any label.
            Predictions::new(vec![vec![0.0, 1.0]; weak.len()])?
                .write(&folder.join(Predictions::file(Split::Transfer)))?;
            let remark = "weak model and student agree on every example: there was nothing to tell apart, and every label is believed";
            add_remarks(&mut summary, &[remark.to_owned()]);
            return Ok(summary);
        }
        // What is learnt from are the student's answers; where both agree they are the weak ones too.
        let (learnt, judged) = (self.read(&data, &pretrained, &own)?, self.read(&data, &pretrained, &weak)?);
        let mut scores = vec![Vec::new(); weak.len()];
        let mut remarks = Vec::new();
        for (fold, held_out) in self.folds(weak.len()).iter().enumerate() {
            // Without folds, everything is learnt from and judged.
            let whole = self.settings.folds == 0;
            let rows: Vec<usize> =
                (0..weak.len()).filter(|row| whole || held_out.binary_search(row).is_err()).collect();
            let rows = self.balanced(rows, &agreed, fold)?;
            let loss = self.loss(&rows, &agreed);
            let targets = rows.iter().map(|&row| if agreed[row] { vec![0.0, 1.0] } else { vec![1.0, 0.0] }).collect();
            let (examples, seed) = (learnt.part(&rows), rng::derive(self.seed, &format!("judge-{fold}/order")));
            let objective = Objective::new(targets, Box::new(loss));
            let trained = bench.train(self.start(bench, &pretrained, fold)?, |judge, execution| {
                learner::train_classifier(judge, &examples, objective, &self.recipe, seed, execution)
            })?;
            write_log(&trained, fold, folder)?;
            remarks.extend(trained.log.remarks.iter().cloned());
            let predicted = learner::predict(&trained.model, &judged.part(held_out), &bench.place.execution)?;
            for (row, judgement) in held_out.iter().zip(predicted.probabilities) {
                scores[*row] = judgement;
            }
        }
        Predictions::new(scores)?.write(&folder.join(Predictions::file(Split::Transfer)))?;
        add_remarks(&mut summary, &remarks);
        Ok(summary)
    }
}

impl Judge {
    /// The rows of each fold, in their order; all of them in one where there are no folds.
    fn folds(&self, rows: usize) -> Vec<Vec<usize>> {
        let folds = self.settings.folds.max(1);
        let mut order: Vec<usize> = (0..rows).collect();
        Rng::named(self.seed, "judge/folds").shuffle(&mut order);
        let mut parts = vec![Vec::new(); folds];
        for (place, row) in order.into_iter().enumerate() {
            parts[place % folds].push(row);
        }
        parts.iter_mut().for_each(|part| part.sort_unstable());
        parts
    }

    /// The rows that are learnt from. Both kinds must be among them.
    fn balanced(&self, mut rows: Vec<usize>, agreed: &[bool], fold: usize) -> Result<Vec<usize>> {
        let kinds = |rows: &[usize]| -> [Vec<usize>; 2] {
            let (yes, no) = rows.iter().partition(|row| agreed[**row]);
            [yes, no]
        };
        let [yes, no] = kinds(&rows);
        if yes.is_empty() || no.is_empty() {
            let on = if yes.is_empty() { "none" } else { "every one" };
            return Err(Error::new(format!(
                "weak model and student agree on {on} of the {} examples that a judge would learn from",
                rows.len()
            ))
            .help("take fewer `folds`, or more examples: a judge learns from both kinds"));
        }
        if self.settings.balance == JudgeBalance::Undersample {
            Rng::named(self.seed, &format!("judge-{fold}/balance")).shuffle(&mut rows);
            let [yes, no] = kinds(&rows);
            let each = yes.len().min(no.len());
            rows = [&yes[..each], &no[..each]].concat();
            rows.sort_unstable();
        }
        Ok(rows)
    }

    fn loss(&self, rows: &[usize], agreed: &[bool]) -> Judging {
        let yes = rows.iter().filter(|row| agreed[**row]).count();
        let each = |count: usize| (rows.len() as f64 / (2.0 * count.max(1) as f64)) as f32;
        let weighs = self.settings.balance == JudgeBalance::Weight || self.settings.loss == JudgeLoss::Difference;
        let weights = if weighs { [each(rows.len() - yes), each(yes)] } else { [1.0, 1.0] };
        Judging { loss: self.settings.loss, weights }
    }

    /// Each question with an answer.
    fn read(&self, data: &TaskData, model: &Pretrained, labels: &Labels) -> Result<Encoded> {
        let answers = labels.in_words(data, Split::Transfer);
        let examples = part(data, Split::Transfer).iter().zip(answers);
        let texts =
            examples.map(|(example, answer)| answered(example, answer, model.tokenizer(), self.data.max_tokens));
        let texts = texts.collect::<Result<Vec<String>>>()?;
        let rows = texts.iter().map(|text| model.tokenizer().encode(text)).collect::<Result<Vec<_>>>()?;
        Encoded::new(rows, model.spec())
    }

    /// The strong model with a head for two kinds.
    fn start(&self, bench: &Bench, pretrained: &Pretrained, fold: usize) -> Result<Classifier> {
        let seed = rng::derive(self.seed, &format!("judge-{fold}/lora"));
        let backbone = match self.settings.init {
            JudgeInit::Pretrained => bench.begin(&self.model, pretrained, seed)?,
            JudgeInit::Student => bench.begin(&self.model, &bench.model_of(&self.student)?, seed)?,
        };
        // Words of the task's classes say nothing of agreement.
        let head = HeadConfig { init: HeadInit::default(), ..self.model.head.clone() };
        let seed = rng::derive(self.seed, &format!("judge-{fold}/head"));
        Classifier::new(backbone, &head, 2, seed, Some(pretrained.tokenizer()))
    }
}

/// A question with an answer behind it, on a line of its own; the question's context is shortened where both do not fit.
fn answered(example: &Example, answer: &str, tokenizer: &Tokenizer, limit: usize) -> Result<String> {
    let mut text = format!("{}\n{answer}", example.text);
    let mut context = example.context.clone();
    let count = |text: &str| tokenizer.encode(text).map(|ids| ids.len());
    let counters: [CountTokens; 1] = [&count];
    match shorten(&mut text, &mut context, &counters, limit)?.0 {
        Shortened::TooLong => Err(Error::new(format!("a question with its answer does not fit into {limit} tokens"))
            .help("mark a part of the task's template as `context`, or raise `max_tokens`")),
        _ => Ok(text),
    }
}

/// The loss of a judge, with a weight for each kind.
#[derive(Debug)]
struct Judging {
    loss: JudgeLoss,
    weights: [f32; 2],
}

impl StudentLoss for Judging {
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, _at: &Progress) -> Tensor<1> {
        let weights =
            math::rows(targets.clone() * Tensor::<1>::from_floats(self.weights, &targets.device()).unsqueeze());
        weights
            * match self.loss {
                JudgeLoss::CrossEntropy => math::cross_entropy(targets, logits),
                JudgeLoss::Difference => {
                    // -1 where agreed, +1 elsewhere: scores of what was agreed on go up.
                    let sign = Tensor::<1>::from_floats([1.0, -1.0], &targets.device()).unsqueeze();
                    let sign = math::rows(targets * sign);
                    sign * (math::column(logits.clone(), 1) - math::column(logits, 0))
                }
            }
    }

    fn targets(&self, _logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        labels
    }
}
