//! How much memory a stage needs, from what it says of itself and the shape of its model.

use serde_json::{Map, Value};

use super::bench::{DataRef, ModelRef};
use super::phases::{Aim, Training};
use crate::{
    Result,
    learner::{Manner, Memory, PREDICT_BATCH, Purpose, Recipe, Workload},
    model::{Learns, Lora, Pooling, Spec},
    strategy::Form,
};

/// What a stage does with its model, as far as memory depends on it.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// The model.
    pub model: Shape<'a>,
    /// How the model is trained, one time after the other; it answers alone where it is not.
    pub recipes: Vec<&'a Recipe>,
    /// How it is trained on the texts themselves, all of it or its adapters, between or before these.
    pub texts_learnt: Vec<&'a Recipe>,
    /// The adapters that are trained in place of its weights.
    pub lora: Option<&'a Lora>,
    /// Whether nothing of it is trained but its head.
    pub frozen: bool,
    /// Which vector of a text its head sees, where that is said.
    pub pooling: Option<Pooling>,
    /// Outputs of its heads; none where it says tokens.
    pub outputs: Option<usize>,
    /// Tokens of the longest text.
    pub longest: usize,
    /// Texts of an example.
    pub texts: usize,
    /// Examples of a second batch of each step, and tokens of the longest.
    pub beside: Option<(usize, usize)>,
}

/// What says what a model looks like.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    /// Its weights, as a [`ModelRef`] names them.
    Of(&'a str),
    /// Its `config.json`.
    Config(&'a Map<String, Value>),
}

impl<'a> Demand<'a> {
    /// That of a model that answers a task's questions.
    pub fn answering(model: &'a ModelRef, data: &DataRef) -> Self {
        let (outputs, texts) = match data.form {
            Form::Classes(classes) => (Some(classes), 1),
            Form::Candidates(most) => (Some(1), most),
            Form::Words => (None, 1),
        };
        Self {
            model: Shape::Of(&model.weights),
            recipes: Vec::new(),
            texts_learnt: Vec::new(),
            lora: model.lora.as_ref(),
            frozen: model.head.freeze_backbone,
            pooling: model.head.pooling,
            outputs,
            longest: data.longest(),
            texts,
            beside: None,
        }
    }

    /// The same where it is trained before.
    pub fn trained(self, recipe: &'a Recipe) -> Self {
        let mut recipes = self.recipes;
        recipes.push(recipe);
        Self { recipes, ..self }
    }

    /// The same where it is trained phase by phase before.
    pub fn through(mut self, phases: impl IntoIterator<Item = &'a Training>) -> Self {
        for phase in phases {
            match phase.aim {
                Aim::Answer => self.recipes.push(&phase.recipe),
                Aim::Text => self.texts_learnt.push(&phase.recipe),
            }
        }
        self
    }

    /// Rows that go through the model at once, unless somebody asks for fewer.
    pub fn batch(&self) -> usize {
        let beside = self.beside.map_or(0, |(rows, _)| rows);
        let all = self.recipes.iter().chain(&self.texts_learnt);
        let rows = all.map(|recipe| recipe.batch_size).fold(beside, usize::max);
        if rows == 0 { PREDICT_BATCH } else { rows }
    }

    /// What it needs with a model of this shape and so many rows at once.
    ///
    /// # Errors
    /// Adapters that do not fit the model.
    pub fn memory(&self, spec: &Spec, micro_batch: Option<usize>, manner: Manner) -> Result<Memory> {
        let learns = match self.lora {
            Some(lora) => Learns::Adapters(lora.clone()),
            None if self.frozen => Learns::Nothing,
            None => Learns::All,
        };
        let purpose = match self.outputs {
            Some(outputs) => {
                let pooling = self.pooling.unwrap_or(if spec.causal { Pooling::Last } else { Pooling::Mean });
                Purpose::Classes { outputs: outputs + if self.beside.is_some() { 2 } else { 0 }, pooling }
            }
            None => Purpose::Tokens { answer: self.longest },
        };
        let training = |recipe| Workload {
            spec,
            learns: learns.clone(),
            purpose,
            longest: self.longest,
            texts: self.texts,
            recipe,
            micro_batch,
            manner,
            beside: self.beside,
        };
        let rows = micro_batch.map_or(PREDICT_BATCH, |rows| rows.clamp(1, PREDICT_BATCH));
        let mut most = Memory::default();
        let texts = Purpose::Tokens { answer: self.longest };
        let whole = if self.lora.is_some() { learns.clone() } else { Learns::All };
        let on_texts = |recipe| Workload { purpose: texts, learns: whole.clone(), beside: None, ..training(recipe) };
        let answering = self.recipes.iter().map(|recipe| training(recipe));
        for training in answering.chain(self.texts_learnt.iter().map(|recipe| on_texts(recipe))) {
            let memory = training.memory()?;
            if memory.peak > most.peak {
                most = memory;
            }
        }
        let plain = Recipe::default();
        let answering = Workload {
            learns: if self.recipes.is_empty() { Learns::Nothing } else { learns.clone() },
            ..training(&plain)
        }
        .answering(rows)?;
        Ok(if self.recipes.is_empty() { answering } else { Memory { peak: most.peak.max(answering.peak), ..most } })
    }

    /// The most rows at once, a power of two, with which what it needs `fits`; none where that is all of them. Where one row alone is too much, one.
    ///
    /// # Errors
    /// As [`memory`](Self::memory).
    pub fn rows_within(&self, spec: &Spec, manner: Manner, fits: impl Fn(u64) -> bool) -> Result<Option<usize>> {
        if fits(self.memory(spec, None, manner)?.peak) {
            return Ok(None);
        }
        let mut rows = self.batch().next_power_of_two();
        while rows > 1 {
            rows /= 2;
            if fits(self.memory(spec, Some(rows), manner)?.peak) {
                break;
            }
        }
        Ok(Some(rows))
    }
}
