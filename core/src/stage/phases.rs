//! Phases: what a model is trained on one after the other, be it a student, the weak model, the ceiling or a link of a chain.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    bench::{add_remarks, write_log},
    trainer::{Answerer, Lesson, Trainer},
};
use crate::{
    Error, Result,
    learner::{Encoded, Recipe, TrainLog},
    model::Tokenizer,
    strategy::Settings,
};

/// One training of a model. The next one goes on with the model, with an optimizer and an order of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Training settings.
    pub recipe: Recipe,
    /// What is learnt.
    #[serde(default)]
    pub aim: Aim,
}

/// What a phase learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// To answer as the labels say.
    #[default]
    Answer,
    /// The texts themselves, token by token, as a language model does: no label is looked at (Burns et al. 2023, section 5.2.2, generative
    /// finetuning).
    Text,
}

impl Training {
    /// One that learns to answer.
    pub fn plain(recipe: Recipe) -> Self {
        Self { recipe, aim: Aim::Answer }
    }

    /// What enters identities; `more` is what an answering phase has beside its recipe.
    pub(super) fn identity(&self, more: Value) -> Result<Value> {
        let mut identity = match self.aim {
            Aim::Answer => more,
            Aim::Text => json!({ "aim": self.aim }),
        };
        identity["recipe"] = self.recipe.identity()?;
        Ok(identity)
    }

    /// What enters identities of all that a model is trained on: a single one as it was when there was but one.
    pub(super) fn identities(phases: &[Self]) -> Result<Value> {
        together(phases.iter().map(|phase| phase.identity(json!({}))).collect::<Result<_>>()?)
    }

    /// Rows that go through the model at once in the largest step.
    pub(super) fn batch(phases: &[Self]) -> usize {
        phases.iter().map(|phase| phase.recipe.batch_size).max().unwrap_or(1)
    }
}

/// The identities of phases as keys of a stage: those of the only one, or a list of them.
pub(super) fn together(mut phases: Vec<Value>) -> Result<Value> {
    match phases.len() {
        0 => Err(Error::new("a model without a phase is not trained")),
        1 => Ok(phases.remove(0)),
        _ => Ok(json!({ "phases": phases })),
    }
}

/// Puts the keys of one object into another.
pub(super) fn extend(parameters: &mut Value, more: Value) {
    if let (Value::Object(parameters), Value::Object(more)) = (parameters, more) {
        parameters.extend(more);
    }
}

impl Trainer<'_> {
    /// Trains a model phase by phase on some examples; `lesson` says what an answering phase learns from, by its number. Logs go into the
    /// stage's folder, where `before` others stand already.
    ///
    /// # Errors
    /// Those of the trainings, of `lesson`, or a log that cannot be written.
    pub(super) fn through<'p>(
        &self,
        fresh: Answerer,
        tokenizer: &Tokenizer,
        examples: &Encoded,
        phases: impl IntoIterator<Item = &'p Training>,
        mut lesson: impl FnMut(usize, &Answerer) -> Result<Lesson>,
        (folder, before): (&Path, usize),
    ) -> Result<(Answerer, Vec<TrainLog>)> {
        let (mut model, mut logs) = (fresh, Vec::new());
        for (number, phase) in phases.into_iter().enumerate() {
            let in_phase =
                |error: Error| if number > 0 { error.context(format!("phase {}", number + 1)) } else { error };
            let trained = match phase.aim {
                Aim::Answer => {
                    let lesson = lesson(number, &model)?;
                    self.train(model, tokenizer, examples, &phase.recipe, lesson, number)
                }
                Aim::Text => self.train_on_texts(model, examples, &phase.recipe, number),
            };
            let trained = trained.map_err(in_phase)?;
            write_log(&trained, before + number, folder)?;
            model = trained.model;
            logs.push(trained.log);
        }
        Ok((model, logs))
    }
}

/// What a manifest says of trainings: the loss at the end, and remarks if there are any.
pub(super) fn summary_of(logs: &[TrainLog]) -> Value {
    let end = logs.last().and_then(|log| log.steps.last());
    let mut summary = json!({ "loss": end.map(|step| step.loss) });
    add_remarks(&mut summary, &logs.iter().flat_map(|log| log.remarks.clone()).collect::<Vec<_>>());
    summary
}
