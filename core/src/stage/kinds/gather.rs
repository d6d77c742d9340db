//! What is said of the tasks of a suite, task by task, as what is said of all of them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    stage::{DataRef, Labels, Stage, StageId, bench::Bench},
    strategy::{Form, Split},
};

/// Puts labels of single tasks together as those of a suite's [union](crate::task::TaskData::union).
///
/// Files: [`Labels`] of every split that all of the stages have labels of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gather {
    /// The stages that hold the labels, task by task.
    pub of: Vec<StageId>,
    /// The union.
    pub data: DataRef,
}

/// What labels are read of.
pub(super) const LABELLED: [Split; 3] = [Split::Transfer, Split::Test, Split::Validation];

#[typetag::serde(name = "gather")]
impl Stage for Gather {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({ "of": self.of, "data": self.data.fingerprint }))
    }

    fn title(&self) -> String {
        format!("gather  {}", self.data.task)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let data = self.data.read(bench.store)?;
        let stages = self.of.iter().map(|id| bench.stage(id)).collect::<Result<Vec<_>>>()?;
        // Tasks may have examples with fewer candidates each than another has.
        let most = match data.asks() {
            Form::Candidates(most) => Some(most),
            Form::Classes(_) | Form::Words => None,
        };
        for split in LABELLED {
            let mut all: Option<Labels> = None;
            let mut whole = true;
            for (stage, rows) in stages.iter().zip(data.portion_rows(split)) {
                // Nobody learns from a task that is left out.
                if rows.is_empty() {
                    continue;
                }
                let Some(labels) = Labels::of(stage, split)? else {
                    whole = false;
                    break;
                };
                if labels.len() != rows.len() {
                    let (n, id) = (labels.len(), &stage.manifest.id);
                    return Err(Error::new(format!(
                        "`{id}` has {n} labels of {} examples of the {} split",
                        rows.len(),
                        split.name()
                    )));
                }
                let labels = match most {
                    Some(most) => labels.resized(most),
                    None => labels,
                };
                all = Some(match all {
                    None => labels,
                    Some(before) => before.then(labels),
                });
            }
            if let Some(labels) = all.filter(|_| whole) {
                labels.write(split, folder)?;
            }
        }
        Ok(json!({}))
    }
}
