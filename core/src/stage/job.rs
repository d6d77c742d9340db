//! What a stage is: a value that says everything its result depends on, and how the result is made.

use std::{fmt::Debug, path::Path};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    bench::Bench,
    demand::Demand,
    identity::{Numeric, StageId},
    store::{Begin, Finished},
};
use crate::{
    Error, Result,
    learner::{Execution, PREDICT_BATCH},
    strategy::{self, Kind, whole},
};

/// One kind of step of an experiment. A kind is one file in `kinds/`: a struct that is plain data, and this.
///
/// A process that is given the struct, a store and the folders of models can do it. Other stages are named by their identity, as
/// [`StageId`] anywhere in the struct; what is named is made first.
#[typetag::serde(tag = "kind")]
pub trait Stage: Debug + Send + Sync {
    /// Everything that the result depends on but the numeric mode. A key that is added later must be absent while it stands at its default.
    ///
    /// # Errors
    /// Settings that cannot be written down whole.
    fn parameters(&self) -> Result<Value>;

    /// What it is, for people: kind, data and seed.
    fn title(&self) -> String;

    /// Does it: files go into `folder`, and what is returned becomes the summary in the manifest.
    ///
    /// # Errors
    /// Whatever its parts refuse or fail at; the stage then stays absent.
    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value>;

    /// Raised for exactly those stages whose outputs change, so that old results are kept apart. `tests/golden/outputs.txt` notices outputs
    /// that change without it.
    fn version(&self) -> u32 {
        1
    }

    /// How many rows go through a model at once, if nobody asks for fewer: the largest batch that it is trained on, or what is predicted
    /// at once.
    fn batch(&self) -> usize {
        PREDICT_BATCH
    }

    /// What it does with its [model](Self::model), as far as memory depends on it; none where it has none.
    fn demand(&self) -> Option<Demand<'_>> {
        None
    }

    /// The weights that it makes or works with, and what people call them.
    fn model(&self) -> Option<&super::ModelRef> {
        None
    }
}

impl dyn Stage {
    /// Word for people, and the beginning of identities.
    pub fn kind(&self) -> &'static str {
        self.typetag_name()
    }

    /// [`parameters`](Stage::parameters), with the numeric mode where it is not the default; index of the device, threads, workers and
    /// folders are not among it.
    ///
    /// # Errors
    /// Settings that cannot be written down whole.
    pub fn whole_parameters(&self, numeric: &Numeric) -> Result<Value> {
        let mut parameters = self.parameters()?;
        if let Some(numeric) = numeric.of(self.batch()) {
            parameters["numeric"] = numeric;
        }
        Ok(parameters)
    }

    /// Identity of the stage.
    ///
    /// # Errors
    /// Settings that cannot be written down whole.
    pub fn id(&self, numeric: &Numeric) -> Result<StageId> {
        Ok(StageId::new(self.kind(), self.version(), &self.whole_parameters(numeric)?))
    }

    /// Every stage that it names, and whose files it therefore reads.
    ///
    /// # Errors
    /// Settings that cannot be written down whole.
    pub fn reads(&self) -> Result<Vec<StageId>> {
        let mut found = Vec::new();
        named(&whole(self)?, &mut found);
        Ok(found)
    }

    /// Does the stage, unless it is done already.
    ///
    /// # Errors
    /// Whatever its parts refuse or fail at; the stage then stays absent.
    pub fn make(&self, bench: &Bench) -> Result<Finished> {
        let numeric = bench.numeric();
        let id = self.id(&numeric)?;
        let workspace = match bench.store.begin(&id)? {
            Begin::Finished(finished) => return Ok(*finished),
            Begin::Ours(workspace) => workspace,
        };
        let execution = Execution::in_parts(numeric.parts(self.batch()), &bench.place.execution);
        let bench = bench.to_make(id, execution);
        let summary = workspace.unless_lost(self.run(&bench, workspace.folder()))?;
        let finished = workspace.finish(self.whole_parameters(&numeric)?, summary, &bench.place.name)?;
        // What stays is no more than another stage that no grid needs.
        let _ = bench.making.iter().try_for_each(|making| making.discard(bench.store));
        Ok(finished)
    }
}

/// Collects the strings of a value that are identities of stages.
fn named(value: &Value, found: &mut Vec<StageId>) {
    match value {
        Value::String(text) => found.extend(StageId::recognise(text).filter(|id| !found.contains(id))),
        Value::Array(items) => items.iter().for_each(|item| named(item, found)),
        Value::Object(entries) => entries.values().for_each(|entry| named(entry, found)),
        _ => {}
    }
}

/// A stage of a plan.
#[derive(Debug)]
pub struct Job {
    /// What is done.
    pub stage: Box<dyn Stage>,
    /// The stages that it [reads](Stage), data among them.
    pub reads: Vec<StageId>,
    /// Rows that go through a model at once, if somebody asked for so few.
    pub micro_batch: Option<usize>,
}

impl Job {
    /// A stage, with what it reads.
    ///
    /// # Errors
    /// Settings that cannot be written down whole.
    pub fn new(stage: impl Stage + 'static) -> Result<Self> {
        Self::of(Box::new(stage), None)
    }

    /// A stage of any kind, with what it reads, to be done with so many rows at once.
    ///
    /// # Errors
    /// As [`Job::new`].
    pub fn of(stage: Box<dyn Stage>, micro_batch: Option<usize>) -> Result<Self> {
        Ok(Self { reads: stage.reads()?, stage, micro_batch })
    }
}

/// A strategy's part in an identity: name, version, and parameters without those that were added later and stand at their default.
pub(super) fn strategy_identity<T: Serialize>(kind: Kind, strategy: &T) -> Result<Value> {
    let configured = whole(strategy).map_err(|error| error.context(format!("the {kind}")))?;
    match strategy::find(kind, configured["type"].as_str().unwrap_or_default()) {
        Some(card) => card.identity(&configured),
        None => Ok(configured),
    }
}

/// A registered strategy at its defaults.
pub(super) fn default_strategy<T: serde::de::DeserializeOwned>(kind: Kind, name: &str) -> Result<T> {
    serde_json::from_value(json!({ "type": name }))
        .map_err(|_| Error::new(format!("{kind} `{name}` is not linked into this binary")))
}

/// A configured strategy again, by way of its serialised form: it is plain data.
///
/// # Errors
/// A strategy that does not survive being written and read, which the conformance suite refuses.
pub fn copy<T: Serialize + serde::de::DeserializeOwned>(strategy: &T) -> Result<T> {
    serde_json::from_value(whole(strategy)?)
        .map_err(|error| Error::new(format!("a strategy does not survive being written and read: {error}")))
}

/// Registered name of a configured strategy.
pub fn strategy_name<T: Serialize>(strategy: &T) -> String {
    let configured = serde_json::to_value(strategy).unwrap_or_default();
    configured.get("type").and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_found_wherever_they_are_named() {
        let id = |kind: &str| StageId::new(kind, 1, &json!({}));
        let [a, b] = [id("student"), id("fine-tune")];
        let value = json!({
            "x": [{ "y": a }, "student", "student-0123", a], "z": { "deep": { "er": b } },
            "path": format!("/folder/{a}"), "hash": "f265686d95751faca2da426932a84dec", "n": 3,
        });
        let mut found = Vec::new();
        named(&value, &mut found);
        assert_eq!(found, [a, b]);
    }
}
