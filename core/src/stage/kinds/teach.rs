//! A link of a chain: a model that is fine-tuned on the labels of another and labels in its turn.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    learner::{self, Encoded, Objective, Recipe},
    rng::{self, Rng},
    stage::{
        DataRef, ModelRef, Predictions, Stage, StageId,
        bench::{Bench, REMARKS, Trainer, add_remarks, part, summary_of, write_log},
        job::default_strategy,
    },
    strategy::{ConfiguredLoss, Kind, Labels, Settings, Split, Supervision},
};

/// Fine-tunes a model on the labels that a stage has for the student's examples, and labels these and what is held out (bootstrapping, Burns et
/// al. 2023, section 4.3.1).
///
/// Files: `SPLIT.csv` has class probabilities.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Teach {
    /// The model.
    pub model: ModelRef,
    /// Training settings.
    pub recipe: Recipe,
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
        Ok(json!({
            "model": self.model.identity()?,
            "recipe": self.recipe.identity()?,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
            "labels": self.labels,
            "halves": self.halves,
            "seed": self.seed,
        }))
    }

    fn title(&self) -> String {
        let halves = if self.halves { "  in halves" } else { "" };
        format!("teach  {}  {}  seed {}{halves}", self.data.task, self.model.name, self.seed)
    }

    fn batch(&self) -> usize {
        self.recipe.batch_size
    }

    fn model(&self) -> Option<&ModelRef> {
        Some(&self.model)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let trainer = bench.trainer(&self.data, self.seed)?;
        let labels = match &self.labels {
            Some(stage) => Predictions::read(&bench.stage(stage)?.file(&Predictions::file(Split::Transfer)))?.into_rows(),
            None => trainer.truth(Split::Transfer),
        };
        if labels.len() != trainer.data.transfer.len() {
            let message = format!("{} labels for {} examples", labels.len(), trainer.data.transfer.len());
            return Err(Error::new(message).help("the stage of the labels belongs to other data: remove its folder"));
        }
        let all: Vec<usize> = (0..labels.len()).collect();
        let (said, summary) = if self.halves {
            let mut mixed = all;
            Rng::named(self.seed, "halves").shuffle(&mut mixed);
            let (first, second) = mixed.split_at(mixed.len() / 2);
            let mut transfer = vec![Vec::new(); labels.len()];
            let (mut others, mut summaries) = (Vec::new(), Vec::new());
            for (number, (trained_on, labelled)) in [(first, second), (second, first)].into_iter().enumerate() {
                let trainer = bench.trainer(&self.data, rng::derive(self.seed, &format!("half-{}", number + 1)))?;
                let (said, summary) = self.link(number, (&trainer, bench), &labels, [trained_on, labelled], folder)?;
                for (row, label) in labelled.iter().zip(said.transfer) {
                    transfer[*row] = label;
                }
                others.push(Supervision { transfer: Labels::new(), ..said });
                summaries.push(summary);
            }
            (Supervision { transfer, ..Supervision::mean(&others) }, both(&summaries))
        } else {
            self.link(0, (&trainer, bench), &labels, [&all, &all], folder)?
        };
        for split in [Split::Transfer, Split::Test, Split::Validation] {
            let labels = said.of(split);
            if !labels.is_empty() {
                Predictions::new(labels.clone())?.write(&folder.join(Predictions::file(split)))?;
            }
        }
        Ok(summary)
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
        (trainer, bench): (&Trainer, &Bench),
        labels: &Labels,
        [trained_on, labelled]: [&[usize]; 2],
        folder: &Path,
    ) -> Result<(Supervision, Value)> {
        let model = bench.model(&self.model)?;
        let classes = trainer.data.classes();
        let own = trained_on.iter().map(|row| labels[*row].clone()).collect();
        let cross_entropy: Box<dyn ConfiguredLoss> = default_strategy(Kind::Loss, "cross-entropy")?;
        let objective = Objective::new(own, cross_entropy);
        let classifier = trainer.classifier(&self.model, &model, classes, None)?;
        let examples = trainer.encode(&model, Split::Transfer)?;
        let trained = trainer.train_on(classifier, &examples.part(trained_on), &self.recipe, objective, 0)?;
        write_log(&trained, number, folder)?;
        let says = |data: &Encoded| learner::predict(&trained.model, data, &bench.place.execution).map(|said| said.probabilities);
        let held_out = |split| match part(&trainer.data, split).is_empty() {
            true => Ok(Labels::new()),
            false => says(&trainer.encode(&model, split)?),
        };
        let said = Supervision {
            transfer: says(&examples.part(labelled))?,
            test: held_out(Split::Test)?,
            validation: held_out(Split::Validation)?,
        };
        Ok((said, summary_of(&trained, json!({}))))
    }
}
