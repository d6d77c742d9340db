//! A link of a chain: a model that is fine-tuned on the labels of another and labels in its turn.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    rng::{self, Rng},
    stage::{
        DataRef, Demand, Labels, ModelRef, Stage, StageId, Training,
        bench::{Bench, REMARKS, add_remarks, part},
        job::default_strategy,
        phases::{extend, summary_of},
        trainer::{Answerer, Lesson, Trainer},
    },
    strategy::{ConfiguredLoss, Kind, Split},
};

/// Fine-tunes a model on the labels that a stage has for the student's examples, and labels these and what is held out (bootstrapping, Burns et
/// al. 2023, section 4.3.1).
///
/// Files: [`Labels`] of each split.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Teach {
    /// The model.
    pub model: ModelRef,
    /// What it is trained on one after the other, at least one; texts are those that it has labels of.
    pub phases: Vec<Training>,
    /// The task's data.
    pub data: DataRef,
    /// The stage whose labels it learns; none for ground truth.
    pub labels: Option<StageId>,
    /// Whether two models are trained, each on one half of the student's examples, and label the other half.
    pub halves: bool,
    /// Seed of the cell.
    pub seed: u64,
}

#[typetag::serde(name = "teach")]
impl Stage for Teach {
    fn parameters(&self) -> Result<Value> {
        let mut parameters = json!({
            "model": self.model.identity()?,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
            "labels": self.labels,
            "halves": self.halves,
            "seed": self.seed,
        });
        extend(&mut parameters, Training::identities(&self.phases)?);
        Ok(parameters)
    }

    fn title(&self) -> String {
        let halves = if self.halves { "  in halves" } else { "" };
        format!("teach  {}  {}  seed {}{halves}", self.data.task, self.model.name, self.seed)
    }

    fn batch(&self) -> usize {
        Training::batch(&self.phases)
    }

    fn demand(&self) -> Option<Demand<'_>> {
        Some(Demand::answering(&self.model, &self.data).through(&self.phases))
    }

    fn model(&self) -> Option<&ModelRef> {
        Some(&self.model)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let trainer = bench.trainer(&self.data, self.seed)?;
        let labels = match &self.labels {
            Some(stage) => Labels::read(&bench.stage(stage)?.folder, Split::Transfer)?,
            None => Labels::true_of(&trainer.data, Split::Transfer)?,
        };
        if labels.len() != trainer.data.transfer.len() {
            let message = format!("{} labels for {} examples", labels.len(), trainer.data.transfer.len());
            return Err(Error::new(message).help("the stage of the labels belongs to other data: remove its folder"));
        }
        let all: Vec<usize> = (0..labels.len()).collect();
        if !self.halves {
            let (said, summary) = self.link(0, &trainer, bench, &labels, [&all, &all], folder)?;
            said.into_iter().try_for_each(|(split, labels)| labels.write(split, folder))?;
            return Ok(summary);
        }
        let mut mixed = all;
        Rng::named(self.seed, "halves").shuffle(&mut mixed);
        let (first, second) = mixed.split_at(mixed.len() / 2);
        let of_half = |number: usize, halves: [&[usize]; 2]| {
            let trainer = bench.trainer(&self.data, rng::derive(self.seed, &format!("half-{}", number + 1)))?;
            self.link(number, &trainer, bench, &labels, halves, folder)
        };
        let (one, of_one) = of_half(0, [first, second])?;
        let (other, of_other) = of_half(1, [second, first])?;
        // Back into the order of the examples: one labelled the second half, the other the first.
        let mut places: Vec<(usize, usize)> = mixed.iter().copied().enumerate().map(|(at, row)| (row, at)).collect();
        places.sort_unstable();
        let order: Vec<usize> = places.into_iter().map(|(_, at)| at).collect();
        for ((split, one), (_, other)) in one.into_iter().zip(other) {
            let labels = match split {
                Split::Transfer => other.then(one).part(&order),
                _ => one.mean(other),
            };
            labels.write(split, folder)?;
        }
        Ok(both(&[of_one, of_other]))
    }
}

/// One record of two trainings: the mean of their losses, and what there is to say of either.
fn both(summaries: &[Value]) -> Value {
    let losses: Vec<f64> = summaries.iter().filter_map(|summary| summary["loss"].as_f64()).collect();
    let remarks = summaries.iter().filter_map(|summary| summary[REMARKS].as_array()).flatten();
    let remarks: Vec<String> = remarks.filter_map(|remark| remark.as_str().map(str::to_owned)).collect();
    let mut both = json!({ "loss": losses.iter().sum::<f64>() / losses.len().max(1) as f64 });
    add_remarks(&mut both, &remarks);
    both
}

impl Teach {
    /// Trains on some rows; what the model then says of other rows of the split, and of all that is held out.
    fn link(
        &self,
        number: usize,
        trainer: &Trainer,
        bench: &Bench,
        labels: &Labels,
        [trained_on, labelled]: [&[usize]; 2],
        folder: &Path,
    ) -> Result<(Vec<(Split, Labels)>, Value)> {
        let model = bench.model(&self.model)?;
        let lesson = |_, _: &Answerer| {
            let cross_entropy: Box<dyn ConfiguredLoss> = default_strategy(Kind::Loss, "cross-entropy")?;
            Ok(Lesson::new(labels.part(trained_on), cross_entropy))
        };
        let fresh = trainer.fresh(&self.model, &model, None)?;
        let examples = trainer.encode(&model, Split::Transfer)?;
        let tokenizer = model.tokenizer();
        let (own, logs) = (examples.part(trained_on), (folder, number * self.phases.len()));
        let (trained, logs) = trainer.through(fresh, tokenizer, &own, &self.phases, lesson, logs)?;
        let others = examples.part(labelled);
        let mut said = vec![(Split::Transfer, trainer.answer_to(&others, tokenizer, &trained, Split::Transfer)?)];
        for split in [Split::Test, Split::Validation] {
            if !part(&trainer.data, split).is_empty() {
                said.push((split, trainer.answer(&model, &trained, split)?));
            }
        }
        Ok((said, summary_of(&logs)))
    }
}
