//! What two cells differ in: their identities compared key by key, down to where the difference comes from.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::recorded::{CellRecord, Recorded};
use crate::{
    Result,
    stage::{StageId, Store, canonical},
};

/// A key that two identities do not have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The way to it; ` → ` leads into a stage that is named.
    pub key: String,
    /// The value on either side; none where the key is absent, which is its default.
    pub values: [Option<Value>; 2],
}

/// Whose stages are compared.
struct Why<'a> {
    grids: [&'a Recorded; 2],
    store: &'a Store,
    /// Pairs of stages that were compared.
    seen: BTreeSet<[StageId; 2]>,
    found: Vec<Difference>,
}

/// What two cells of grids differ in; nothing if they are the same.
///
/// # Errors
/// Stages that cannot be read.
pub fn why(a: (&Recorded, &CellRecord), b: (&Recorded, &CellRecord), store: &Store) -> Result<Vec<Difference>> {
    let mut why = Why { grids: [a.0, b.0], store, seen: BTreeSet::new(), found: Vec::new() };
    // What the others are made from comes first: it is told of once.
    why.stages("data", [&a.1.data_stage, &b.1.data_stage])?;
    for ((what, of_a), (_, of_b)) in a.1.ends().into_iter().zip(b.1.ends()) {
        why.stages(what, [of_a, of_b])?;
    }
    Ok(why.found)
}

impl Why<'_> {
    fn stages(&mut self, key: &str, ids: [&StageId; 2]) -> Result<()> {
        if ids[0] == ids[1] || !self.seen.insert(ids.map(StageId::clone)) {
            return Ok(());
        }
        let mut parameters = Vec::new();
        for (id, grid) in ids.into_iter().zip(self.grids) {
            let finished = self.store.find(id)?;
            let record = grid.stages.iter().find(|stage| stage.id == *id).filter(|record| !record.stage.is_null());
            parameters.extend(match (finished, record) {
                (Some(finished), _) => Some(finished.manifest.parameters),
                (None, Some(record)) => {
                    let job = record.job()?;
                    Some(job.stage.whole_parameters(&grid.numeric.in_parts(job.micro_batch))?)
                }
                (None, None) => None,
            });
        }
        let before = self.found.len();
        let told = self.seen.len();
        match &parameters[..] {
            [a, b] if kind(ids[0]) == kind(ids[1]) => self.values(key, Some(a), Some(b))?,
            // Of what is not there any more nothing is known but its name.
            _ => return self.differ(key, ids.map(|id| Some(id.as_str().into()))),
        }
        if before == self.found.len() && told == self.seen.len() {
            let versions = ids.map(|id| Some(format!("another version of what computes `{id}`").into()));
            self.differ(key, versions)?;
        }
        Ok(())
    }

    fn differ(&mut self, key: &str, values: [Option<Value>; 2]) -> Result<()> {
        self.found.push(Difference { key: key.to_owned(), values });
        Ok(())
    }

    fn values(&mut self, key: &str, a: Option<&Value>, b: Option<&Value>) -> Result<()> {
        match (a, b) {
            (Some(Value::Object(a)), Some(Value::Object(b))) => self.objects(key, a, b),
            (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
                let both = a.iter().zip(b).enumerate();
                both.into_iter().try_for_each(|(n, (a, b))| self.values(&format!("{key}[{n}]"), Some(a), Some(b)))
            }
            _ if a.map(canonical) == b.map(canonical) => Ok(()),
            (Some(Value::String(a)), Some(Value::String(b))) => match (StageId::recognise(a), StageId::recognise(b)) {
                (Some(a), Some(b)) => self.stages(&format!("{key} →"), [&a, &b]),
                _ => self.differ(key, [Some(a.as_str().into()), Some(b.as_str().into())]),
            },
            _ => self.differ(key, [a.cloned(), b.cloned()]),
        }
    }

    fn objects(&mut self, key: &str, a: &Map<String, Value>, b: &Map<String, Value>) -> Result<()> {
        let only_b = b.keys().filter(|key| !a.contains_key(*key));
        for name in a.keys().chain(only_b) {
            let joint = if key.ends_with('→') { " " } else { "." };
            self.values(&format!("{key}{joint}{name}"), a.get(name), b.get(name))?;
        }
        Ok(())
    }
}

fn kind(id: &StageId) -> &str {
    id.as_str().rsplit_once('-').map_or("", |(kind, _)| kind)
}
