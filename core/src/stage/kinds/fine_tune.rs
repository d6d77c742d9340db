//! Fine-tunes a model on ground truth: the weak model, and the ceiling.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Result,
    error::IoContext,
    rng::{self, Rng},
    stage::{
        DataRef, Demand, Labels, ModelRef, Stage, StageId, Training,
        bench::{Bench, copied, part},
        job::default_strategy,
        phases::{extend, summary_of},
        store::Finished,
        trainer::{Answerer, Lesson},
    },
    strategy::{ConfiguredLoss, Kind, Split},
};

/// Fine-tunes a model on ground truth and labels what it was not trained on: the weak model, and the ceiling.
///
/// Files: [`Labels`] of each split; `model/` where the model is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FineTune {
    /// The model.
    pub model: ModelRef,
    /// What it is trained on one after the other, at least one; texts are those of its split.
    pub phases: Vec<Training>,
    /// The task's data.
    pub data: DataRef,
    /// What it is trained on.
    pub on: Split,
    /// Seed of the cell.
    pub seed: u64,
    /// Whether the fine-tuned model is kept.
    #[serde(default)]
    pub save: bool,
    /// Which of several such models, from 0: each of the others draws from a seed of its own.
    #[serde(default)]
    pub copy: usize,
    /// Whether it is trained on as many rows drawn from the split with replacement.
    #[serde(default)]
    pub bagged: bool,
}

/// What a fine-tuned model labels, where there is any: the student's examples, the test, and what was held out; not those that the weak
/// model was trained on itself.
const LABELLED: [Split; 3] = [Split::Transfer, Split::Test, Split::Validation];

#[typetag::serde(name = "fine-tune")]
impl Stage for FineTune {
    fn parameters(&self) -> Result<Value> {
        let mut parameters = json!({
            "model": self.model.identity()?,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
            "on": self.on,
            "seed": self.seed,
        });
        extend(&mut parameters, Training::identities(&self.phases)?);
        if self.save {
            parameters["save"] = true.into();
        }
        if self.copy > 0 {
            parameters["copy"] = self.copy.into();
        }
        if self.bagged {
            parameters["bagged"] = true.into();
        }
        Ok(parameters)
    }

    fn title(&self) -> String {
        let copy = if self.copy > 0 { format!("  copy {}", self.copy) } else { String::new() };
        let bagged = if self.bagged { "  bagged" } else { "" };
        format!("fine-tune  {}  {}  seed {}{copy}{bagged}", self.data.task, self.model.name, self.seed)
    }

    fn batch(&self) -> usize {
        Training::batch(&self.phases)
    }

    fn demand(&self) -> Option<Demand<'_>> {
        Some(Demand::answering(&self.model, &self.data).through(&self.phases))
    }

    fn model(&self) -> Option<&ModelRef> {
        Some(&self.model)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        if let Some(twin) = self.twin(bench)? {
            return copied(&twin, folder, |_| true);
        }
        let trainer = bench.trainer(&self.data, self.own_seed())?;
        let mut labels = Labels::true_of(&trainer.data, self.on)?;
        let model = bench.model(&self.model)?;
        let fresh = trainer.fresh(&self.model, &model, None)?;
        let mut examples = trainer.encode(&model, self.on)?;
        if let Some(rows) = self.rows(labels.len()) {
            (examples, labels) = (examples.part(&rows), labels.part(&rows));
        }
        let lesson = |_, _: &Answerer| {
            let cross_entropy: Box<dyn ConfiguredLoss> = default_strategy(Kind::Loss, "cross-entropy")?;
            Ok(Lesson::new(labels.clone(), cross_entropy))
        };
        let (trained, logs) =
            trainer.through(fresh, model.tokenizer(), &examples, &self.phases, lesson, (folder, 0))?;
        for split in LABELLED.into_iter().filter(|split| !part(&trainer.data, *split).is_empty()) {
            trainer.answer_into(&model, &trained, split, folder)?;
        }
        if self.save {
            trained.save(folder, model.tokenizer(), &self.model)?;
        }
        Ok(summary_of(&logs))
    }
}

impl FineTune {
    /// The rows that it is trained on, where these are not all in their order. A head may start from zeros and a recipe may keep the order of the
    /// data; copies would then be one model.
    fn rows(&self, n: usize) -> Option<Vec<usize>> {
        let mut rng = Rng::named(self.own_seed(), "rows");
        if self.bagged {
            return Some((0..n).map(|_| rng.below(n)).collect());
        }
        let mut rows: Vec<usize> = (0..n).collect();
        rng.shuffle(&mut rows);
        (self.copy > 0).then_some(rows)
    }

    /// The seed that it draws from.
    fn own_seed(&self) -> u64 {
        match self.copy {
            0 => self.seed,
            copy => rng::derive(self.seed, &format!("copy-{copy}")),
        }
    }

    /// The same training, done for a pair whose other model has another limit of tokens: the limit is in its identity, and where it cut no
    /// text it changed nothing.
    fn twin(&self, bench: &Bench) -> Result<Option<Finished>> {
        let but_limit = |mut parameters: Value| {
            parameters.as_object_mut().map(|parameters| parameters.remove("max_tokens"));
            parameters
        };
        let stage: &dyn Stage = self;
        let wanted = but_limit(stage.whole_parameters(&bench.numeric())?);
        let root = bench.store.root();
        let mut others: Vec<StageId> = std::fs::read_dir(root)
            .path("read the results folder", root)?
            .flatten()
            .filter_map(|entry| StageId::recognise(&entry.file_name().to_string_lossy()))
            .filter(|id| id.as_str().starts_with(stage.kind()))
            .collect();
        others.sort();
        for id in others {
            // What is damaged or being moved is no twin, and no reason to fail.
            let Ok(Some(twin)) = bench.store.find(&id) else { continue };
            let parameters = &twin.manifest.parameters;
            // The identity holds the version too.
            if but_limit(parameters.clone()) == wanted && StageId::new(stage.kind(), self.version(), parameters) == id {
                return Ok(Some(twin));
            }
        }
        Ok(None)
    }
}
