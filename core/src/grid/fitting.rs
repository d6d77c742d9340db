//! Memory and time of a plan's stages: what each needs, whether that fits, and how many examples at a time do.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{plan::Plan, run::Failure};
use crate::{
    Error, Result,
    error::{ErrorKind, IoContext},
    learner::{Manner, Memory},
    model::Spec,
    stage::{Demand, Finished, Job, Numeric, Shape, Stage, StageId, hash, write_atomically},
};

/// Bytes of a stage's process beside its model: the program, texts, tokens and labels.
const PROCESS: u64 = 48 << 20;

/// How much memory a stage may have, and which had too little of it.
#[derive(Clone, Debug)]
pub struct Fitting {
    /// Bytes for each stage.
    pub room: u64,
    /// Whether the blocks of models are computed again on the way back.
    pub recompute: bool,
    /// What ran out of memory before.
    pub refused: Refused,
}

impl Fitting {
    /// Whether so many bytes fit, with the tenth more that a plan may be wrong by.
    pub fn fits(&self, peak: u64) -> bool {
        peak + peak / 10 + PROCESS <= self.room
    }

    /// How many examples a stage is given at a time: all of a batch without a number, else the largest power of two that fits, or that has not
    /// been refused.
    pub(super) fn rows(
        &self,
        stage: &(dyn Stage + 'static),
        numeric: &Numeric,
        spec: Option<&Spec>,
    ) -> Result<Option<usize>> {
        let fitting = match (stage.demand(), spec) {
            (Some(demand), Some(spec)) => {
                let manner = Manner { recompute: self.recompute, precision: numeric.precision() };
                demand.rows_within(spec, manner, |peak| self.fits(peak))?
            }
            _ => None,
        };
        let refused = self.refused.least(&stage.id(&numeric.in_parts(None))?);
        Ok(match (fitting, refused) {
            (Some(rows), Some(refused)) => Some(rows.min((refused / 2).max(1))),
            (rows, None) => rows,
            (None, Some(refused)) => Some((refused / 2).max(1)),
        })
    }
}

impl Fitting {
    /// A failure with what was tried of its stage before.
    pub fn tell(&self, plan: &Plan, failure: &Failure) -> Failure {
        let whole = |job: &Job| job.stage.id(&plan.numeric.in_parts(None)).ok();
        let tried = plan.jobs.get(&failure.stage).and_then(whole).map_or(&[][..], |id| self.refused.tried(&id));
        if tried.is_empty() {
            return failure.clone();
        }
        let tried = tried.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("{} (it ran out of memory with {tried} examples at a time, too)", failure.message);
        Failure { message, ..failure.clone() }
    }

    /// Records which of some failures were for want of memory though fewer examples at a time are left to be tried; gives these stages, and how
    /// many examples they had.
    ///
    /// # Errors
    /// A record that cannot be written.
    pub fn refuse(&mut self, plan: &Plan, failed: &[Failure]) -> Result<Vec<(StageId, usize)>> {
        let mut smaller = Vec::new();
        for failure in failed.iter().filter(|failure| failure.kind == ErrorKind::OutOfMemory) {
            let Some(job) = plan.jobs.get(&failure.stage) else { continue };
            let rows = job.micro_batch.unwrap_or(usize::MAX).min(job.stage.batch());
            if rows > 1 {
                self.refused.add(job.stage.id(&plan.numeric.in_parts(None))?, rows)?;
                smaller.push((failure.stage.clone(), rows));
            }
        }
        Ok(smaller)
    }
}

/// Stages that ran out of memory: what they are called with the whole batch at once, and how many examples were tried at a time.
///
/// They stand beside the results, so that the next run does not try again what this one has found out.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    path: PathBuf,
    tried: BTreeMap<StageId, Vec<usize>>,
}

/// Name of the file.
const REFUSED: &str = "out-of-memory.json";

impl Refused {
    /// What is recorded in a grid's folder of results.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(REFUSED);
        if !path.exists() {
            return Ok(Self { path, tried: BTreeMap::new() });
        }
        let text = std::fs::read(&path).path("read what ran out of memory", &path)?;
        let tried = serde_json::from_slice(&text).map_err(|error| {
            Error::new(format!("not a record of what ran out of memory: {error}"))
                .in_file(&path)
                .help("remove it, and every stage is tried with as many examples at a time as should fit")
        })?;
        Ok(Self { path, tried })
    }

    /// How many stages there are.
    pub fn len(&self) -> usize {
        self.tried.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tried.is_empty()
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many examples at a time were too many, the last try last.
    pub fn tried(&self, id: &StageId) -> &[usize] {
        self.tried.get(id).map_or(&[], Vec::as_slice)
    }

    fn least(&self, id: &StageId) -> Option<usize> {
        self.tried(id).iter().copied().min()
    }

    /// Adds that so many examples at a time were too many for a stage.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn add(&mut self, id: StageId, rows: usize) -> Result<()> {
        self.tried.entry(id).or_default().push(rows);
        let text = serde_json::to_vec_pretty(&self.tried).map_err(|error| Error::new(error.to_string()))?;
        write_atomically(&self.path, &text)
    }
}

/// Bytes of memory, as people write them: `80G`, `512M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes(pub u64);

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let fault = || format!("`{text}` is no amount of memory: give one such as `80G` or `512M`");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match text[digits.len()..].to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
            "k" => 1u64 << 10,
            "m" => 1 << 20,
            "g" => 1 << 30,
            "t" => 1 << 40,
            _ => return Err(fault()),
        };
        let number: f64 = digits.trim().parse().map_err(|_| fault())?;
        let bytes = number * unit as f64;
        if (1.0..1e18).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(fault()) }
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mut number, mut unit) = (self.0 as f64 / f64::from(1 << 20), "MB");
        if number >= 1024.0 {
            (number, unit) = (number / 1024.0, "GB");
        }
        let digits = usize::from(number < 100.0);
        write!(f, "{number:.digits$} {unit}")
    }
}

/// All memory of this machine, or as much of it as this process may have.
pub fn machine_memory() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    });
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let group = group.into_iter().filter_map(|path| read(path)?.trim().parse().ok());
    total.into_iter().chain(group).min()
}

impl Plan {
    /// What a stage of this plan needs; none where it has no model of its own, or nobody has counted.
    ///
    /// # Errors
    /// Adapters that do not fit their model.
    pub fn memory(&self, job: &Job, recompute: bool) -> Result<Option<Memory>> {
        let Some(demand) = job.stage.demand() else { return Ok(None) };
        let Some(spec) = spec_of(&demand, &self.specs)? else { return Ok(None) };
        let manner = Manner { recompute, precision: self.numeric.precision() };
        demand.memory(&spec, job.micro_batch, manner).map(Some)
    }

    /// Seconds of a finished stage that differs in nothing but its seed and what it is made from, the mean where there are several; by the
    /// stages of this plan that have such a one.
    ///
    /// # Errors
    /// Settings that cannot be written down whole.
    pub fn seconds(&self, finished: &IndexMap<StageId, Finished>) -> Result<BTreeMap<StageId, f64>> {
        let mut known: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut alike = BTreeMap::new();
        for (id, job) in &self.jobs {
            let mut parameters = job.stage.whole_parameters(&self.numeric.in_parts(job.micro_batch))?;
            but_seed(&mut parameters);
            let key = format!("{} {}", job.stage.kind(), hash(&parameters));
            if let Some(stage) = finished.get(id) {
                known.entry(key.clone()).or_default().push(stage.manifest.seconds);
            }
            alike.insert(id, key);
        }
        let mean = |seconds: &Vec<f64>| seconds.iter().sum::<f64>() / seconds.len() as f64;
        Ok(alike.into_iter().filter_map(|(id, key)| Some((id.clone(), mean(known.get(&key)?)))).collect())
    }
}

/// Takes out what is different from seed to seed: seeds, stages, and the hash of the data.
fn but_seed(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|key, _| key != "seed" && key != "data");
            entries.values_mut().for_each(but_seed);
        }
        Value::Array(items) => items.iter_mut().for_each(but_seed),
        Value::String(text) if StageId::recognise(text).is_some() => text.truncate(text.rfind('-').unwrap_or(0)),
        _ => {}
    }
}

/// The shape of a stage's model, among those of a grid's models.
pub(super) fn spec_of(demand: &Demand, specs: &BTreeMap<String, Spec>) -> Result<Option<Spec>> {
    Ok(match demand.model {
        Shape::Of(weights) => specs.get(weights).cloned(),
        Shape::Config(config) => Some(Spec::from_config(config, Path::new("config.json"))?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_of_memory_are_read_and_said() {
        for (text, bytes) in [("80G", 80 << 30), ("80GiB", 80 << 30), ("512M", 512 << 20), ("1.5gb", 3 << 29)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "80", "G", "-1G", "80X", "1e40G", "0G", "é"] {
            assert!(text.parse::<Bytes>().unwrap_err().contains("80G"), "{text}");
        }
        assert_eq!(Bytes(80 << 30).to_string(), "80.0 GB");
        assert_eq!(Bytes(700 << 20).to_string(), "700 MB");
        assert!(machine_memory().unwrap() > 64 << 20);
    }

    #[test]
    fn what_differs_by_seed_alone_is_alike() {
        let stage = |seed: u32| StageId::new("supervise", 1, &json!({ "seed": seed }));
        let of = |seed: u32, epochs: u32| {
            let mut parameters =
                json!({ "seed": seed, "supervision": stage(seed), "recipe": { "epochs": epochs }, "data": seed });
            but_seed(&mut parameters);
            parameters
        };
        assert_eq!(of(0, 2), of(1, 2));
        assert_ne!(of(0, 2), of(0, 3));
    }

    #[test]
    fn what_was_refused_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let id = StageId::new("student", 1, &json!({}));
        let mut refused = Refused::read(folder.path()).unwrap();
        assert!(refused.is_empty());
        refused.add(id.clone(), 32).unwrap();
        refused.add(id.clone(), 16).unwrap();
        let again = Refused::read(folder.path()).unwrap();
        assert_eq!((again.tried(&id), again.least(&id), again.len()), (&[32, 16][..], Some(16), 1));
        std::fs::write(folder.path().join(REFUSED), "{").unwrap();
        assert!(Refused::read(folder.path()).unwrap_err().to_string().contains("remove it"));
    }
}
