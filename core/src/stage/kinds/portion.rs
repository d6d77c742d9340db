//! What a model that was trained on a suite says of one of its tasks.

use std::{ops::Range, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{gather::LABELLED, student::judged_column};
use crate::{
    Result,
    learner::Choice,
    stage::{
        DECISIONS, DataRef, Labels, Predictions, Stage, StageId,
        bench::Bench,
        decisions::write_decisions,
        labels::{ALL_STEPS, after, steps_of},
        read_decisions,
    },
    strategy::{Form, Split},
};

/// Takes what concerns one task out of what a student or a ceiling left behind that was trained on a suite: from here on it is measured as
/// if it had been trained on that task.
///
/// Files: [`Labels`] of the splits, [`DECISIONS`] and what judges say of the test, as far as the other stage has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Portion {
    /// The stage.
    pub of: StageId,
    /// The suite's data.
    pub suite: DataRef,
    /// The task's.
    pub data: DataRef,
    /// Place of the task in the suite.
    pub place: usize,
}

#[typetag::serde(name = "portion")]
impl Stage for Portion {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({ "of": self.of, "data": self.data.fingerprint, "place": self.place }))
    }

    fn title(&self) -> String {
        format!("portion  {}  {}", self.suite.task, self.data.task)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let suite = self.suite.read(bench.store)?;
        let stage = bench.stage(&self.of)?;
        let rows = |split: Split| suite.portion_rows(split)[self.place].clone();
        for split in LABELLED {
            let own = rows(split);
            if let Some(labels) = Labels::of(&stage, split)?.filter(|_| !own.is_empty()) {
                self.cut(&labels, own).write(split, folder)?;
            }
        }
        let mut summary = json!({});
        for step in steps_of(&stage) {
            let labels = Labels::read(&stage.folder.join(after(step)), Split::Test)?;
            self.cut(&labels, rows(Split::Test)).write(Split::Test, &folder.join(after(step)))?;
            summary[ALL_STEPS] = stage.manifest.summary[ALL_STEPS].clone();
        }
        let there = |name: &str| stage.manifest.files.contains_key(name).then(|| stage.file(name));
        for name in stage.manifest.files.keys().filter(|name| judged_column(name).is_some()) {
            let own = &Predictions::read(&stage.file(name))?.into_rows()[rows(Split::Test)];
            Predictions::new(own.to_vec())?.write(&folder.join(name))?;
        }
        if let Some(file) = there(DECISIONS) {
            let own = rows(Split::Transfer);
            let decisions = read_decisions(&file)?;
            let own = decisions.into_iter().filter(|choice| own.contains(&(choice.row as usize)));
            let first = rows(Split::Transfer).start as u32;
            let own: Vec<Choice> = own.map(|choice| Choice { row: choice.row - first, ..choice }).collect();
            write_decisions(own.iter(), &folder.join(DECISIONS))?;
        }
        Ok(summary)
    }
}

impl Portion {
    /// What is said of the task's own examples.
    fn cut(&self, labels: &Labels, own: Range<usize>) -> Labels {
        let labels = labels.part(&own.collect::<Vec<_>>());
        match self.data.form {
            Form::Candidates(most) => labels.resized(most),
            Form::Classes(_) | Form::Words => labels,
        }
    }
}
