//! `agreement`: whether the weak label names the pretrained strong model's own answer.

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

/// `agreement` of a method or a grid.
#[derive(Debug)]
struct Agreed(Asking);

inventory::submit! {
    Known { name: "agreement", title: "the agreement of weak label and own answer", read, schema: |generator| generator.subschema_for::<Asking>() }
}

fn read(asked: &Asked) -> Result<Box<dyn Column>> {
    Ok(Box::new(Agreed(asked.settings()?)))
}

impl Agreed {
    /// The pretrained model's own answers.
    fn own(&self, around: &Knowledge, made: &mut Made) -> Result<StageId> {
        around.answers(likeliest(around.strong, self.0.shots), made)
    }
}

impl Column for Agreed {
    fn make(&self, around: &Knowledge, made: &mut Made) -> Result<student::Column> {
        let own = self.own(around, made)?;
        let weak = around.supervision()?.clone();
        Ok(student::Column::Stage { scores: made.push(Agreement { weak, own, data: around.data.clone() })? })
    }

    fn compares(&self, around: &Knowledge, made: &mut Made) -> Result<Option<StageId>> {
        self.own(around, made).map(Some)
    }

    fn of_weak_labels(&self) -> bool {
        true
    }

    fn speaks(&self) -> Option<&'static str> {
        Some("another column than `agreement`")
    }

    fn fits(&self, form: Form) -> Result<()> {
        on_candidates(form)
    }
}

/// Where two give the same answer, by the rules of the task.
///
/// Files: `transfer.csv` with `[0, 1]` where they do and `[1, 0]` elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Agreement {
    /// The stage that holds the weak labels.
    weak: StageId,
    /// The stage that holds the own answers.
    own: StageId,
    /// The examples.
    data: DataRef,
}

#[typetag::serde(name = "agreement")]
impl Stage for Agreement {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({ "weak": self.weak, "own": self.own, "data": self.data.fingerprint }))
    }

    fn title(&self) -> String {
        format!("agreement  {}", self.data.task)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let labels = |stage: &StageId| Labels::read(&bench.stage(stage)?.folder, Split::Transfer);
        let agreed = labels(&self.weak)?.agree(&labels(&self.own)?);
        let numbers: Vec<f32> = agreed.iter().map(|agreed| f32::from(*agreed)).collect();
        Predictions::of_numbers(&numbers)?.write(&folder.join(Predictions::file(Split::Transfer)))?;
        Ok(json!({ "examples": agreed.len(), "agreed": agreed.iter().filter(|agreed| **agreed).count() }))
    }
}
