//! Lets a supervisor label the student's examples.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    learner::{self, Recipe},
    rng,
    stage::{
        Answer, DataRef, Labels, ModelRef, Stage, StageId,
        bench::{Bench, part},
        job::strategy_identity,
        labels::over_answers,
    },
    strategy::{Ask, ConfiguredSupervisor, Given, Kind, Settings, Split, Supervision},
    task::TaskData,
};

/// Lets a supervisor label the student's examples, from what it asked for.
///
/// Files: [`Labels`] of the transfer and the test split, and of the validation split where there is one. Of answers in words a supervisor sees
/// labels over what was given as answers, and what it gives the largest share is taken.
#[derive(Debug, Serialize, Deserialize)]
pub struct Supervise {
    /// Who labels.
    pub supervisor: Box<dyn ConfiguredSupervisor>,
    /// What it asked for, in its order: the stage that made it, or none for ground truth.
    pub given: Vec<Option<StageId>>,
    /// The pair's weak model and its training settings.
    pub weak: (ModelRef, Recipe),
    /// The pair's strong model and its training settings.
    pub strong: (ModelRef, Recipe),
    /// The task's data.
    pub data: DataRef,
    /// Seed of the cell.
    pub seed: u64,
}

const LABELLED: [Split; 3] = [Split::Transfer, Split::Test, Split::Validation];

#[typetag::serde(name = "supervise")]
impl Stage for Supervise {
    /// What it is given follows from the supervisor, the two models and the data; what does not, or came later, is named.
    fn parameters(&self) -> Result<Value> {
        let mut parameters = json!({
            "supervisor": strategy_identity(Kind::Supervisor, &self.supervisor)?,
            "weak": { "model": self.weak.0.identity()?, "recipe": self.weak.1.identity()? },
            "strong": { "model": self.strong.0.identity()?, "recipe": self.strong.1.identity()? },
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
            "seed": self.seed,
        });
        if self.supervisor.asks().iter().any(Ask::is_named) {
            parameters["given"] = json!(self.given);
        }
        Ok(parameters)
    }

    fn title(&self) -> String {
        format!("supervise  {}  seed {}", self.data.task, self.seed)
    }

    /// Of whichever of the two the supervisor lets train.
    fn batch(&self) -> usize {
        self.weak.1.batch_size.max(self.strong.1.batch_size)
    }

    fn model(&self) -> Option<&ModelRef> {
        Some(&self.weak.0)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let data = self.data.read(bench.store)?;
        let mut answers = vec![Supervision::default(); self.given.len()];
        let mut said = Vec::new();
        for split in LABELLED {
            let of_split = self.said(split, &data, bench)?;
            for (answer, labels) in answers.iter_mut().zip(over_answers(&of_split)?) {
                *answer.of_mut(split) = labels;
            }
            said.push(of_split);
        }
        let given = Given { answers, seed: rng::derive(self.seed, "supervisor") };
        let refused = |message: String| Error::new(message).context("the supervisor");
        let labels = self.supervisor.supervise(&given).map_err(refused)?;
        for (split, said) in LABELLED.into_iter().zip(&said) {
            let (labels, expected) = (labels.of(split), part(&data, split).len());
            if labels.len() != expected {
                return Err(Error::new(format!(
                    "the supervisor gave {} labels for the {expected} examples of the {} split",
                    labels.len(),
                    split.name()
                )));
            }
            if expected > 0 {
                picked(labels, said).write(split, folder)?;
            }
        }
        Ok(json!({}))
    }
}

impl Supervise {
    /// What each that was asked says of a split.
    fn said(&self, split: Split, data: &TaskData, bench: &Bench) -> Result<Vec<Labels>> {
        let said = |stage: &Option<StageId>| match stage {
            Some(stage) if !part(data, split).is_empty() => Labels::read(&bench.stage(stage)?.folder, split),
            // Of no examples nothing is said, and that is true.
            _ => Labels::true_of(data, split),
        };
        self.given.iter().map(said).collect()
    }
}

/// The labels as they are handed over: probabilities, or of words the answer with the largest share.
fn picked(labels: &[Vec<f32>], said: &[Labels]) -> Labels {
    let texts: Vec<&[Answer]> = said.iter().filter_map(Labels::texts).collect();
    if texts.is_empty() {
        return Labels::Soft(labels.to_vec());
    }
    let pick = |(row, shares): (usize, &Vec<f32>)| Some(texts.get(learner::argmax(shares))?.get(row)?.clone());
    Labels::Texts(labels.iter().enumerate().filter_map(pick).collect())
}
