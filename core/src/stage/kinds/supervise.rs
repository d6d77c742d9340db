//! Lets a supervisor label the student's examples.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    learner::Recipe,
    rng,
    stage::{
        DataRef, ModelRef, Predictions, Stage, StageId,
        bench::{Bench, part, truth},
        job::strategy_identity,
    },
    strategy::{Ask, ConfiguredSupervisor, Given, Kind, Labels, Settings, Split, Supervision},
    task::TaskData,
};

/// Lets a supervisor label the student's examples, from what it asked for.
///
/// Files: `SPLIT.csv` has soft labels of the transfer and the test split, and of the validation split where there is one.
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
        let answers =
            self.given.iter().map(|stage| self.answer(stage.as_ref(), &data, bench)).collect::<Result<_>>()?;
        let given = Given { answers, seed: rng::derive(self.seed, "supervisor") };
        let refused = |message: String| Error::new(message).context("the supervisor");
        let labels = self.supervisor.supervise(&given).map_err(refused)?;
        for split in LABELLED {
            let (labels, expected) = (labels.of(split), part(&data, split).len());
            if labels.len() != expected {
                return Err(Error::new(format!(
                    "the supervisor gave {} labels for the {expected} examples of the {} split",
                    labels.len(),
                    split.name()
                )));
            }
            if expected > 0 {
                Predictions::new(labels.clone())?.write(&folder.join(Predictions::file(split)))?;
            }
        }
        Ok(json!({}))
    }
}

impl Supervise {
    /// Labels of every split, made by a stage or true.
    fn answer(&self, stage: Option<&StageId>, data: &TaskData, bench: &Bench) -> Result<Supervision> {
        let made = stage.map(|stage| bench.stage(stage)).transpose()?;
        let labels = |split: Split| -> Result<Labels> {
            match &made {
                _ if part(data, split).is_empty() => Ok(Labels::new()),
                Some(made) => Ok(Predictions::read(&made.file(&Predictions::file(split)))?.into_rows()),
                None => Ok(truth(data, split)),
            }
        };
        let [transfer, test, validation] = LABELLED.map(labels);
        Ok(Supervision { transfer: transfer?, test: test?, validation: validation? })
    }
}
