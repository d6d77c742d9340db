//! Trainings whose stage is not done yet. A process that dies over its predictions, for want of memory say, need not train again: the trained
//! model lies in the store as a stage of its own, as long as the stage that it belongs to is not finished. One that dies while it trains goes on
//! from its last checkpoint, in a folder beside those of stages.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use burn::{
    module::Module,
    store::{BurnpackStore, ModuleSnapshot},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    bench::{Bench, Making},
    identity::StageId,
    store::{Begin, Finished, Notice, QUARANTINE, Store},
};
use crate::{
    Error, Result, alloc,
    error::IoContext,
    learner::{Checkpoints, Every, Execution, Passage, Stop, TrainLog, Trained, interrupted},
};

/// Word that identities of trainings begin with.
const KIND: &str = "training";
/// Seconds: a shorter training is sooner done again than it is worth to write every model twice.
const WORTH_KEEPING: f64 = 60.0;
/// The model's parameters, as Burn writes them.
const WEIGHTS: &str = "weights.bpk";
/// What happened while it was trained.
const LOG: &str = "log.json";

/// What is kept of a training beside the model.
#[derive(Serialize, Deserialize)]
struct Record {
    log: TrainLog,
    seconds: f64,
}

/// Everything that tells a training: the stage, and which of its trainings. The stage's identity holds the rest.
fn parameters(stage: &StageId, number: usize) -> Value {
    json!({ "of": stage, "number": number })
}

fn id(stage: &StageId, number: usize) -> StageId {
    StageId::new(KIND, 1, &parameters(stage, number))
}

impl Bench<'_> {
    /// Trains a model, or takes up what an earlier try of the same stage, by the same commit of w2s, has trained, be it the whole or a part;
    /// `fresh` is the model before it, and `train` is told how to execute it. A stage trains in the same order in every try, so that the n-th
    /// training of one is that of another.
    ///
    /// # Errors
    /// Those of the training, an interruption, or a store that cannot be written.
    pub(super) fn train<M: Module>(
        &self,
        fresh: M,
        train: impl FnOnce(M, &Execution) -> Result<Trained<M>>,
    ) -> Result<Trained<M>> {
        let execution = &self.place.execution;
        let Some(Making { stage, trainings }) = &self.making else { return train(fresh, execution) };
        let number = trainings.fetch_add(1, Ordering::Relaxed);
        let id = id(stage, number);
        if let Some(kept) = self.store.find(&id)? {
            if let Ok(trained) = read(&kept, fresh.clone()) {
                return Ok(trained);
            }
            self.store.discard(&kept.folder)?;
        }
        let checkpoints = self.checkpoints(stage, number);
        let _awaited = checkpoints.as_ref().and(execution.stop.as_ref()).map(Stop::wait_for_me);
        let trained = train(fresh, &Execution { checkpoints, ..execution.clone() })?;
        let kept = if trained.seconds < WORTH_KEEPING && !alloc::is_tested() {
            Ok(())
        } else {
            self.keep(&trained, stage, number)
        };
        // It is an insurance: on a disk that is too full for it, the stage goes on without, and the last checkpoint is better than nothing.
        if kept.is_ok() {
            let _ = self.store.discard_if_there(&self.store.checkpoints_of(stage, number));
        }
        // Nobody waits for what comes now.
        if execution.stopped() { Err(interrupted()) } else { Ok(trained) }
    }

    fn keep<M: Module>(&self, trained: &Trained<M>, stage: &StageId, number: usize) -> Result<()> {
        if let Begin::Ours(workspace) = self.store.begin(&id(stage, number))? {
            write(trained, workspace.folder())?;
            workspace.finish(parameters(stage, number), json!({}), &self.place.name)?;
        }
        Ok(())
    }

    /// Where checkpoints of a training go, if it is to have some.
    fn checkpoints(&self, stage: &StageId, number: usize) -> Option<Checkpoints> {
        let (store, stage, every) = (self.store.clone(), stage.clone(), self.place.checkpoint_every);
        (every != Every::Never).then(|| Checkpoints {
            every,
            folder: store.checkpoints_of(&stage, number),
            aside: store.root().join(QUARANTINE),
            training: parameters(&stage, number),
            tell: Arc::new(move |passage| {
                let stage = stage.clone();
                store.tell(&match passage {
                    Passage::Resumed { step, steps } => Notice::Continued { stage, step, steps },
                    Passage::PutAside { folder, reason } => Notice::PutAside { stage, reason, folder },
                    Passage::NotWritten(reason) => Notice::NotSaved { stage, reason },
                });
            }),
        })
    }
}

impl Making {
    /// Removes the trainings that were kept of the stage, which is finished, and what is left of their checkpoints.
    pub(super) fn discard(&self, store: &Store) -> Result<()> {
        (0..self.trainings.load(Ordering::Relaxed)).try_for_each(|number| {
            store.discard_if_there(&store.folder_of(&id(&self.stage, number)))?;
            store.discard_if_there(&store.checkpoints_of(&self.stage, number))
        })
    }
}

fn write<M: Module>(trained: &Trained<M>, folder: &Path) -> Result<()> {
    let path = folder.join(LOG);
    let unfit = |error: String| Error::new(format!("cannot write down a training: {error}")).in_file(&path);
    let record = Record { log: trained.log.clone(), seconds: trained.seconds };
    let text = serde_json::to_vec(&record).map_err(|error| unfit(error.to_string()))?;
    // Numbers that are none do not survive this.
    match serde_json::from_slice::<Record>(&text) {
        Ok(back) if back.log == record.log => {}
        Ok(_) => return Err(unfit("it reads differently".to_owned())),
        Err(error) => return Err(unfit(error.to_string())),
    }
    std::fs::write(&path, text).path("write down a training", &path)?;
    let mut weights = BurnpackStore::from_file(folder.join(WEIGHTS));
    trained.model.save_into(&mut weights).map_err(|error| unfit(error.to_string()))
}

/// A training that was kept; `fresh` is the model as it was before.
fn read<M: Module>(kept: &Finished, mut fresh: M) -> Result<Trained<M>> {
    let path = kept.file(LOG);
    let unfit = |error: String| Error::new(format!("cannot take up a training: {error}")).in_file(&path);
    if kept.manifest.commit != crate::commit() {
        return Err(unfit("it is another commit's".to_owned()));
    }
    let text = std::fs::read(&path).path("read a training", &path)?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| unfit(error.to_string()))?;
    let loaded = fresh.load_from(&mut BurnpackStore::from_file(kept.file(WEIGHTS)));
    let loaded = loaded.map_err(|error| unfit(error.to_string()))?;
    if !loaded.is_success() || !loaded.unused.is_empty() {
        return Err(unfit("the model is another one".to_owned()));
    }
    Ok(Trained { model: fresh.valid(), log: record.log, seconds: record.seconds })
}
