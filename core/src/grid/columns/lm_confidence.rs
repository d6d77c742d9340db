//! `lm-confidence`: how sure the pretrained strong model is of its own answer.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Asked, Asking, Column, Known, on_candidates};
use crate::{
    Result,
    grid::asked::{Knowledge, Made, likeliest},
    stage::{Bench, DataRef, Labels, Predictions, Stage, StageId, kinds::student},
    strategy::{Form, Split},
};

/// `lm_confidence` of a method or a grid.
#[derive(Debug)]
struct Sure(Asking);

inventory::submit! {
    Known { name: "lm-confidence", title: "the language model's confidence", read, schema: |generator| generator.subschema_for::<Asking>() }
}

fn read(asked: &Asked) -> Result<Box<dyn Column>> {
    Ok(Box::new(Sure(asked.settings()?)))
}

impl Column for Sure {
    fn make(&self, around: &Knowledge, made: &mut Made) -> Result<student::Column> {
        let of = around.answers(likeliest(around.strong, self.0.shots), made)?;
        Ok(student::Column::Stage { scores: made.push(Confidence { of, data: around.data.clone() })? })
    }

    fn speaks(&self) -> Option<&'static str> {
        Some("another column than `lm-confidence`")
    }

    fn fits(&self, form: Form) -> Result<()> {
        on_candidates(form)
    }
}

/// The probability of each answer that somebody gives: of the likeliest class, or of a text as a whole.
///
/// Files: `transfer.csv` with `[1 − p, p]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Confidence {
    /// The stage that holds the answers.
    of: StageId,
    /// The examples.
    data: DataRef,
}

#[typetag::serde(name = "lm-confidence")]
impl Stage for Confidence {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({ "of": self.of, "data": self.data.fingerprint }))
    }

    fn title(&self) -> String {
        format!("lm-confidence  {}", self.data.task)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let sure: Vec<f32> = match Labels::read(&bench.stage(&self.of)?.folder, Split::Transfer)? {
            Labels::Soft(rows) => rows.iter().map(|row| row.iter().copied().fold(0.0, f32::max)).collect(),
            Labels::Texts(answers) => {
                answers.iter().map(|answer| answer.log_p.map_or(0.0, |log_p| log_p.exp() as f32)).collect()
            }
        };
        Predictions::of_numbers(&sure)?.write(&folder.join(Predictions::file(Split::Transfer)))?;
        Ok(json!({}))
    }
}
