//! `votes`: how many of several say what the weak label says, be they a supervisor's models or a language model's drawn answers.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Asked, Column, Known, on_candidates};
use crate::{
    Error, Result,
    grid::{
        asked::{Knowledge, Made},
        config::{Grid, Method},
    },
    learner,
    stage::{
        Bench, DataRef, Labels, Predictions, Stage, StageId,
        kinds::{
            answers::{Answerer, Answers, DRAWS},
            student,
        },
    },
    strategy::{Ask, Form, Invalid, Split},
};

/// `votes` of a method or a grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// `supervisor`: the models that the supervisor asked, such as the members of an ensemble. `samples`: answers that are drawn from the
    /// pretrained strong model. Origin: original.
    by: By,
    /// Answers drawn for each question. Origin: original, 8.
    samples: usize,
    /// Temperature of the draws. Origin: 1, the model's own probabilities.
    temperature: f64,
    /// Answered examples before each question, of the supervisor's half. Origin: as for self-labels, 4.
    shots: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { by: By::default(), samples: 8, temperature: 1.0, shots: 4 }
    }
}

/// Who votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum By {
    /// Whoever the supervisor asked.
    #[default]
    Supervisor,
    /// Drawn answers of the pretrained strong model.
    Samples,
}

inventory::submit! {
    Known { name: "votes", title: "the votes for the weak label", read, schema: |generator| generator.subschema_for::<Settings>() }
}

/// A method's table over the grid's.
fn read(asked: &Asked) -> Result<Box<dyn Column>> {
    let settings: Settings = asked.settings()?;
    if settings.samples < 2 {
        return Err(asked
            .error("samples", "`samples` must be at least 2: one answer alone is no vote")
            .help("8 or more are usual"));
    }
    Invalid::unless_within("", settings.temperature, f64::MIN_POSITIVE, f64::INFINITY)
        .map_err(|invalid| asked.error("temperature", format!("`temperature` {}", invalid.message)))?;
    Ok(Box::new(settings))
}

impl Column for Settings {
    fn make(&self, around: &Knowledge, made: &mut Made) -> Result<student::Column> {
        let weak = around.supervision()?.clone();
        let votes = match self.by {
            By::Supervisor => {
                let of = made.voters.get(&weak).cloned().unwrap_or_default();
                Votes { weak, of, drawn: false, data: around.data.clone() }
            }
            By::Samples => {
                let Self { samples, temperature, shots, .. } = *self;
                let answerer = Answerer::LanguageModel { model: around.strong.clone(), shots, samples, temperature };
                let parts = if around.parts.is_empty() { std::slice::from_ref(around.data) } else { around.parts };
                let answers = |data: &DataRef| {
                    let (answerer, data) = (answerer.clone(), data.clone());
                    Ok(vec![made.push(Answers { answerer, data, seed: around.seed, validation: false, keep: true })?])
                };
                let of = parts.iter().map(answers).collect::<Result<_>>()?;
                Votes { weak, of, drawn: true, data: around.data.clone() }
            }
        };
        Ok(student::Column::Stage { scores: made.push(votes)? })
    }

    fn of_weak_labels(&self) -> bool {
        true
    }

    fn speaks(&self) -> Option<&'static str> {
        (self.by == By::Samples).then_some("`votes.by` to `supervisor`")
    }

    fn fits(&self, form: Form) -> Result<()> {
        match self.by {
            By::Supervisor => Ok(()),
            By::Samples => on_candidates(form),
        }
    }

    fn check(&self, grid: &Grid, method: &Method, task: usize) -> Result<()> {
        if self.by == By::Samples {
            return Ok(());
        }
        let asks = method.supervisor_of(grid.tasks[task].name()).asks();
        let voters = asks.iter().filter(|ask| !matches!(ask, Ask::Truth | Ask::Wrong)).count();
        match voters {
            0 | 1 => {
                let message = format!("its supervisor asks {voters} model, and one alone is no vote");
                Err(Error::new(message)
                    .help("take a supervisor of several, such as { type = \"ensemble\", copies = 4 }, or `votes.by = \"samples\"`"))
            }
            _ => Ok(()),
        }
    }
}

/// The share of several that give the same answer as the weak label, by the rules of the task.
///
/// Files: `transfer.csv` with `[1 − share, share]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Votes {
    /// The stage that holds the weak labels.
    weak: StageId,
    /// Of each task those who vote.
    of: Vec<Vec<StageId>>,
    /// Whether they are answers that were drawn.
    drawn: bool,
    /// The examples.
    data: DataRef,
}

#[typetag::serde(name = "votes")]
impl Stage for Votes {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({ "weak": self.weak, "of": self.of, "drawn": self.drawn, "data": self.data.fingerprint }))
    }

    fn title(&self) -> String {
        format!("votes  {}", self.data.task)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let weak = Labels::read(&bench.stage(&self.weak)?.folder, Split::Transfer)?;
        let rows = self.data.read(bench.store)?.portion_rows(Split::Transfer);
        let mut votes = Vec::with_capacity(weak.len());
        for (of, rows) in self.of.iter().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            let own = weak.part(&rows.collect::<Vec<_>>());
            let said = of.iter().map(|id| self.said(&bench.stage(id)?.folder)).collect::<Result<Vec<_>>>()?;
            votes.extend(if self.drawn { drawn(&own, &said)? } else { shares(&own, &said) });
        }
        if votes.len() != weak.len() {
            return Err(Error::new(format!("{} votes for {} weak labels", votes.len(), weak.len())));
        }
        let mean = votes.iter().copied().map(f64::from).sum::<f64>() / votes.len().max(1) as f64;
        Predictions::of_numbers(&votes)?.write(&folder.join(Predictions::file(Split::Transfer)))?;
        Ok(json!({ "examples": votes.len(), "mean": mean }))
    }
}

impl Votes {
    /// What one that votes says of the student's examples.
    fn said(&self, folder: &Path) -> Result<Labels> {
        if self.drawn {
            Labels::read(&folder.join(DRAWS), Split::Transfer)
        } else {
            Labels::read(folder, Split::Transfer)
        }
    }
}

/// The share of several that agree on each label.
fn shares(own: &Labels, said: &[Labels]) -> Vec<f32> {
    let agree: Vec<Vec<bool>> = said.iter().map(|said| said.agree(own)).collect();
    let share = |row: usize| agree.iter().filter(|agree| agree[row]).count() as f32 / agree.len().max(1) as f32;
    (0..own.len()).map(share).collect()
}

/// The share of each example's drawn answers that agree on its label.
fn drawn(own: &Labels, said: &[Labels]) -> Result<Vec<f32>> {
    let Some(draws) = said.first() else { return Ok(Vec::new()) };
    if let (Labels::Soft(shares), Labels::Soft(own)) = (draws, own) {
        return Ok(shares.iter().zip(own).map(|(shares, own)| shares[learner::argmax(own)].clamp(0.0, 1.0)).collect());
    }
    // Answers stand example by example.
    let samples = draws.len() / own.len().max(1);
    if samples * own.len() != draws.len() {
        return Err(Error::new(format!("{} drawn answers to {} questions", draws.len(), own.len())));
    }
    let of = |sample: usize| draws.part(&(sample..draws.len()).step_by(samples.max(1)).collect::<Vec<_>>());
    Ok(shares(own, &(0..samples).map(of).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_those_who_name_the_label() {
        let soft = |rows: &[[f32; 2]]| Labels::Soft(rows.iter().map(|row| row.to_vec()).collect());
        let own = soft(&[[0.9, 0.1], [0.2, 0.8]]);
        let said = [soft(&[[0.6, 0.4], [0.6, 0.4]]), soft(&[[0.4, 0.6], [0.1, 0.9]]), soft(&[[0.7, 0.3], [0.0, 1.0]])];
        assert_eq!(shares(&own, &said), [2.0 / 3.0, 2.0 / 3.0]);
        // Of drawn classes, how often the label's own was drawn.
        assert_eq!(drawn(&own, &[soft(&[[0.75, 0.25], [0.75, 0.25]])]).unwrap(), [0.75, 0.25]);
    }
}
