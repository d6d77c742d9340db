//! Lets a supervisor label the student's examples.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result, learner, rng,
    stage::{
        Answer, DataRef, Labels, ModelRef, Stage, StageId, Training,
        bench::{Bench, part},
        job::strategy_identity,
        labels::over_answers,
        phases::extend,
    },
    strategy::{Ask, ConfiguredSupervisor, Given, Kind, Split, Supervision},
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
    /// The pair's weak model, and what it is trained on where it is asked to be.
    pub weak: (ModelRef, Vec<Training>),
    /// The same of the pair's strong model.
    pub strong: (ModelRef, Vec<Training>),
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
        let of = |(model, phases): &(ModelRef, Vec<Training>)| -> Result<Value> {
            let mut of = json!({ "model": model.identity()? });
            extend(&mut of, Training::identities(phases)?);
            Ok(of)
        };
        let mut parameters = json!({
            "supervisor": strategy_identity(Kind::Supervisor, &self.supervisor)?,
            "weak": of(&self.weak)?,
            "strong": of(&self.strong)?,
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
        Training::batch(&self.weak.1).max(Training::batch(&self.strong.1))
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
        let said = |(ask, stage): (&Ask, &Option<StageId>)| match stage {
            None if *ask == Ask::Wrong => Labels::wrong_of(data, split, rng::derive(self.seed, "wrong")),
            Some(stage) if !part(data, split).is_empty() => Labels::read(&bench.stage(stage)?.folder, split),
            // Of no examples nothing is said, and that is true.
            _ => Labels::true_of(data, split),
        };
        self.supervisor.asks().iter().zip(&self.given).map(said).collect()
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
