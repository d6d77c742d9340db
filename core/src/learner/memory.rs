//! How much memory a training needs, before it begins: a formula of the model's shape, what is trained of it, the optimizer, and the tokens that go
//! through it at once. `tests/memory.rs` holds it against what trainings allocate.

use serde::Serialize;

use super::recipe::{Optimizer, Recipe};
use crate::{
    Result,
    model::{Footprint, Learns, Pooling, Precision, Spec, Trained},
    ops,
};

/// Bytes of a number.
const FLOAT: u64 = 4;
/// Bytes of a number in bfloat16.
const HALF: u64 = 2;

/// What a model is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Scores of texts, by a head on one vector of each.
    Classes {
        /// Outputs of the head, and of a second one if there is.
        outputs: usize,
        /// Which vector the head sees.
        pooling: Pooling,
    },
    /// The tokens of texts.
    Tokens {
        /// Of each text so many tokens are learnt, at most.
        answer: usize,
    },
}

/// What of an execution memory depends on, beside the rows at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Whether blocks are computed again on the way back.
    pub recompute: bool,
    /// In which numbers matrices are.
    pub precision: Precision,
}

/// A training, as far as its memory depends on it.
#[derive(Clone, Debug)]
pub struct Workload<'a> {
    /// The model.
    pub spec: &'a Spec,
    /// What of it is trained.
    pub learns: Learns,
    /// What for.
    pub purpose: Purpose,
    /// Tokens of the longest example.
    pub longest: usize,
    /// Texts of an example: more than one where it chooses among candidates.
    pub texts: usize,
    /// Its optimizer, and how many examples are in a batch.
    pub recipe: &'a Recipe,
    /// Examples that go through the model at once; the whole batch without a value.
    pub micro_batch: Option<usize>,
    /// What else of the execution it depends on.
    pub manner: Manner,
    /// Examples of a second batch of the same step, that a judge is learnt from, and tokens of the longest.
    pub beside: Option<(usize, usize)>,
}

/// Bytes that a training needs, by what they are for. `peak` is the most that is there at once, which is less than the sum of the others where not
/// all of them are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Parameters, not bytes.
    pub parameters: u64,
    /// Parameters that are trained, not bytes.
    pub trained: u64,
    /// Weights.
    pub weights: u64,
    /// Gradients; none of what is frozen.
    pub gradients: u64,
    /// What the optimizer keeps of each trained parameter.
    pub moments: u64,
    /// What one part of a batch keeps for its way back.
    pub activations: u64,
    /// Logits over the vocabulary that are there at once.
    pub logits: u64,
    /// The most that is there at once.
    pub peak: u64,
}

/// Rows that a product of matrices lays out anew at once (the panels of `gemm`).
const PANEL: u64 = 512;

impl Workload<'_> {
    /// What it needs.
    ///
    /// # Errors
    /// Adapters that do not fit the model.
    pub fn memory(&self) -> Result<Memory> {
        let mut model = Footprint::new(self.spec, &self.learns)?;
        let of_head = match self.purpose {
            Purpose::Classes { outputs, .. } => model.hidden * outputs as u64,
            Purpose::Tokens { .. } => 0,
        };
        let (parameters, trained) = (model.parameters + of_head, model.trained.total() + of_head);
        // Bytes.
        let moments = match self.recipe.optimizer {
            Optimizer::Adam | Optimizer::Adamw => 2 * FLOAT * trained,
            Optimizer::Adam8bit | Optimizer::Adamw8bit => {
                model.learnt.iter().chain([&of_head]).map(|numbers| ops::Adam8bit::bytes(*numbers)).sum()
            }
            Optimizer::Sgd => {
                if self.recipe.momentum == 0.0 {
                    0
                } else {
                    FLOAT * trained
                }
            }
            Optimizer::Adafactor => FLOAT * (model.factored + of_head.min(2 * model.hidden)),
        };
        let weights = FLOAT * parameters - self.narrower(&model);
        let resident = (weights + moments).div_ceil(FLOAT);
        let at_step = self.at_step(&model);
        // From here on what is trained counts as its gradients, half of a number where they are in bfloat16.
        if self.narrow_gradients() {
            let Trained { embeddings, blocks, top } = &mut model.trained;
            let halves = &model.matrices;
            *embeddings -= halves.embeddings / 2;
            blocks.iter_mut().zip(&halves.blocks).for_each(|(block, matrices)| *block -= matrices / 2);
            *top -= halves.top / 2;
        }
        let gradients = model.trained.total() + of_head;
        let batch = self.recipe.batch_size.max(1);
        let rows = self.micro_batch.unwrap_or(batch).clamp(1, batch);
        let own = self.pass(&model, rows, self.longest);
        let again = if rows < batch || self.beside.is_some() { gradients } else { 0 };
        let beside = self.beside.map(|(rows, longest)| {
            let at_once = self.micro_batch.map_or(rows, |most| most.min(rows));
            self.pass(&model, at_once, longest)
        });
        let way_back = beside.iter().map(|pass| pass.peak).fold(own.peak, u64::max);
        let peak = resident + (again + way_back.max(gradients)).max(gradients + at_step);
        Ok(Memory {
            parameters,
            trained,
            weights,
            gradients: FLOAT * gradients,
            moments,
            activations: FLOAT * own.kept,
            logits: FLOAT * own.logits,
            peak: FLOAT * peak,
        })
    }

    /// Bytes that matrices are less than they were in float32.
    fn narrower(&self, model: &Footprint) -> u64 {
        match self.manner.precision.narrows(self.learns == Learns::All) {
            true => (FLOAT - HALF) * model.matrices.total(),
            false => 0,
        }
    }

    /// Whether matrices have gradients in bfloat16.
    fn narrow_gradients(&self) -> bool {
        self.learns == Learns::All && self.manner.precision.narrows(true)
    }

    /// Whether each pass has the matrices that are trained in half as wide a copy, too.
    fn rounds(&self) -> bool {
        self.learns == Learns::All && self.manner.precision.narrows(false) && !self.narrow_gradients()
    }

    /// Numbers that are there beside weights, gradients and moments while the optimizer has the largest matrix and its gradient in float32, if it
    /// must.
    fn at_step(&self, model: &Footprint) -> u64 {
        match (self.narrow_gradients(), self.recipe.optimizer) {
            (false, _) => 0,
            // What is squared, and what is divided by its mean.
            (true, Optimizer::Adafactor) => 2 * model.largest,
            (true, _) => model.largest + model.largest / 2,
        }
    }

    /// What a pass of so many examples and its way back need beside weights and moments.
    fn pass(&self, model: &Footprint, rows: usize, longest: usize) -> Pass {
        let texts = (rows * self.texts) as u64;
        let (every, hidden) = (texts * longest as u64, model.hidden);
        if self.learns == Learns::Nothing {
            // Nothing is kept, and of each text one vector at most.
            let kept = texts * hidden;
            return Pass { kept, logits: 0, peak: every * model.forward + kept };
        }
        // Tokens that the last block is asked for, and those that the head sees.
        let (asked, read) = match self.purpose {
            Purpose::Classes { pooling: Pooling::Mean, .. } => (None, every),
            Purpose::Classes { .. } => (Some(texts), texts),
            Purpose::Tokens { answer } => (None, texts * (answer.min(longest) as u64)),
        };
        let mut blocks: Vec<u64> = model.blocks.iter().map(|block| block.of(every, every)).collect();
        if let (Some(asked), Some(last)) = (asked, blocks.last_mut()) {
            *last = model.last.of(every, asked);
        }
        let rounds = self.rounds();
        if rounds {
            blocks.iter_mut().zip(&model.matrices.blocks).for_each(|(block, matrices)| *block += matrices / 2);
        }
        let top = asked.unwrap_or(every) * (2 * hidden + 2) + if read < every { read * hidden } else { 0 };
        let embeddings = model.embeddings.of(every, 0);
        let logits = match self.purpose {
            Purpose::Tokens { .. } => ops::logits_at_once(read as usize, (self.spec.hidden, self.spec.vocab)) as u64,
            Purpose::Classes { .. } => 0,
        };
        let capped = if self.spec.extras.logit_cap.is_some() { 2 } else { 1 };
        // The gradient of the language-model head is there before any other.
        let is_head_trained = self.learns == Learns::All && matches!(self.purpose, Purpose::Tokens { .. });
        let of_head = if is_head_trained { model.lm_head } else { 0 };
        let rounded_head = if rounds { of_head / 2 } else { 0 };
        let inputs = if self.manner.recompute { blocks.len() as u64 * every * hidden } else { blocks.iter().sum() };
        let top = top + rounded_head;
        let kept = inputs + embeddings + top;
        // It is summed in float32, and for that the logits are laid out a second time.
        let rounded = if self.narrow_gradients() { of_head / 2 } else { 0 };
        let laid_out = if is_head_trained { logits.min(PANEL * self.spec.vocab as u64) } else { 0 };
        let mut peak = kept + (logits * capped + laid_out).max(rounded) + of_head + read * hidden;
        let of_head = of_head - rounded;
        let mut gradients =
            of_head + if model.tied { model.trained.top } else { model.trained.top.saturating_sub(of_head) };
        let mut left = kept - top;
        for (layer, block) in blocks.iter().enumerate().rev() {
            let at_work = match asked.filter(|_| layer + 1 == blocks.len()) {
                Some(asked) => asked * model.backward + every * model.backward_last,
                None => every * model.backward,
            };
            let recomputed = if self.manner.recompute { *block } else { 0 };
            peak = peak.max(left + recomputed + at_work + gradients);
            gradients += model.trained.blocks[layer];
            left -= if self.manner.recompute { every * hidden } else { *block };
            peak = peak.max(left + every * hidden + gradients);
        }
        // The table of embeddings has a gradient of its own, and the head's is added to it.
        peak = peak.max(left + every * hidden + gradients + model.trained.embeddings);
        Pass { kept, logits, peak }
    }

    /// What such a model needs to answer `rows` texts at a time, before training or after it.
    ///
    /// # Errors
    /// As [`memory`](Self::memory).
    pub fn answering(&self, rows: usize) -> Result<Memory> {
        let model = Footprint::new(self.spec, &self.learns)?;
        let every = (rows * self.texts * self.longest) as u64;
        // Whoever writes keeps the keys and values of all tokens.
        let cache = match self.purpose {
            Purpose::Tokens { .. } => 2 * (self.spec.layers * self.spec.kv_heads * self.spec.head_dim) as u64,
            Purpose::Classes { .. } => 0,
        };
        let activations = every * (model.forward + model.hidden + cache);
        // What was trained stays beside what it is rounded to.
        let rounded = if self.rounds() { HALF * model.matrices.total() } else { 0 };
        let weights = FLOAT * model.parameters - self.narrower(&model) + rounded;
        Ok(Memory {
            parameters: model.parameters,
            weights,
            activations: FLOAT * activations,
            peak: weights + FLOAT * activations,
            ..Memory::default()
        })
    }
}

/// Numbers of a pass and its way back.
struct Pass {
    kept: u64,
    logits: u64,
    peak: u64,
}
