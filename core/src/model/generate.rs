//! Writing with a language model, one token after the other: keys and values of what stands there already are kept, not computed again.

use std::{collections::BTreeSet, fs};

use burn::tensor::Tensor;
use serde_json::{Map, Value};

use super::{Pretrained, Spec, Tokens, Transformer, transformer::Rotaries};
use crate::{Error, Result, error::IoContext, ops};

/// Some texts that a language model goes on with, each by itself; see [`Transformer::decoder`].
///
/// On the CPU the logits of a row have the same bits whatever rows are beside it, and the same as without a cache, unless a text gets longer than
/// those of a model's pretraining ([`Beyond`](super::spec::Beyond)).
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Transformer,
    cache: Cache,
    /// Rows that somebody asked for; more may go along ([`fewest`]).
    rows: usize,
}

/// The fewest rows that go through a model at once; where fewer are wanted, the last one goes several times.
///
/// Products of one row, and those of at most 256 elements with a table of embeddings, are added up in another order than all others, and a
/// row's last digits are not to depend on how many are beside it.
fn fewest(spec: &Spec) -> usize {
    2.max(256 / spec.vocab.max(1) + 1)
}

/// `rows`, with the last one again until there are `fewest`.
fn filled_up<T: Clone>(rows: &[T], fewest: usize) -> Vec<T> {
    let twins = fewest.saturating_sub(rows.len());
    rows.iter().chain(rows.last().into_iter().cycle().take(twins)).cloned().collect()
}

impl Transformer {
    /// Reads prompts of any lengths: what goes on with them, and the logits `[B, V]` of the first token after each.
    ///
    /// The model should be on the plain device; otherwise graphs of all steps are kept.
    ///
    /// # Errors
    /// The model is no language model, or there is no prompt. Prompts that the model cannot take are a panic ([`Tokens::new`]).
    pub fn decoder(&self, prompts: &Tokens) -> Result<(Decoder<'_>, Tensor<2>)> {
        let spec = self.spec();
        can_write(spec)?;
        if prompts.lengths.is_empty() {
            return Err(Error::new("there is no prompt to go on with"));
        }
        let rows = prompts.lengths.len();
        let lengths = filled_up(&prompts.lengths, fewest(spec));
        let mut ids = prompts.ids.clone();
        let last = &prompts.ids[ids.len() - prompts.lengths[rows - 1]..];
        (rows..lengths.len()).for_each(|_| ids.extend_from_slice(last));
        let places: Vec<usize> = lengths.iter().map(|length| length - 1).collect();
        let prompts = Tokens { ids, lengths };
        let mut cache = Cache::new(&prompts, self);
        let hidden = self.at(&prompts, &places, Some(&mut cache));
        let decoder = Decoder { model: self, cache, rows };
        let logits = decoder.logits(hidden)?;
        Ok((decoder, logits))
    }
}

/// Refuses a model that cannot go on with a text.
///
/// # Errors
/// It reads in both directions, or has no language-model head.
pub(crate) fn can_write(spec: &Spec) -> Result<()> {
    let why = match (spec.causal, spec.speaks()) {
        (false, _) => "reads in both directions and cannot write",
        (true, false) => "has no language-model head and cannot write",
        (true, true) => return Ok(()),
    };
    Err(Error::new(format!("this `{}` model {why}", spec.architecture)).help("take a causal language model"))
}

impl Decoder<'_> {
    /// Puts one token after each row: the logits `[B, V]` of the one after it.
    ///
    /// # Errors
    /// Another number of tokens than there are rows, a token outside the vocabulary, or no position left.
    pub fn step(&mut self, tokens: &[u32]) -> Result<Tensor<2>> {
        let spec = self.model.spec();
        if tokens.len() != self.rows {
            return Err(Error::new(format!("{} tokens for {} rows", tokens.len(), self.rows)));
        }
        tokens.iter().try_for_each(|id| spec.check_ids(&[*id]))?;
        if self.cache.longest() >= spec.max_positions {
            let message = format!("a text is longer than the {} positions of the model", spec.max_positions);
            return Err(Error::new(message));
        }
        let tokens = filled_up(tokens, fewest(spec));
        self.cache.open(self.model);
        let hidden = self.model.next(&tokens, &mut self.cache);
        self.logits(hidden)
    }

    /// Goes on with these rows alone, in this order; one may come several times.
    ///
    /// # Panics
    /// If there are none, or one is not there.
    pub fn keep(&mut self, rows: &[usize]) {
        assert!(!rows.is_empty() && rows.iter().all(|row| *row < self.rows), "rows to keep must be there");
        self.rows = rows.len();
        let rows: Vec<u32> = filled_up(rows, fewest(self.model.spec())).into_iter().map(|row| row as u32).collect();
        self.cache.keep(&rows);
    }

    /// Number of tokens of each row, prompt and what was put after it.
    pub fn lengths(&self) -> &[usize] {
        &self.cache.lengths[..self.rows]
    }

    fn logits(&self, hidden: Tensor<2>) -> Result<Tensor<2>> {
        Ok(self.model.lm_logits(hidden)?.narrow(0, 0, self.rows))
    }
}

/// Places by which a cache that is full grows.
const ROOM: usize = 64;

/// Keys and values of all tokens so far, for every layer. Rows end at the same place, wherever they begin, so that one more token of each is
/// written in one go, in place where the backend can.
#[derive(Debug)]
pub(super) struct Cache {
    /// Keys and values `[rows, capacity, kv_heads * width]`.
    layers: Vec<[Tensor<3>; 2]>,
    /// Tokens of each row.
    lengths: Vec<usize>,
    /// What each row's prompt makes of rotations, which stays so ([`Beyond::growth`](super::spec::Beyond::growth)).
    growths: Vec<usize>,
    /// Places that are taken; the tokens of a row are in the last ones of them.
    taken: usize,
    capacity: usize,
    rotaries: Rotaries,
    /// While prompts are read, for each place the packed row that comes there, or any.
    prompt: Option<Vec<u32>>,
}

/// What one layer's attention sees of a [`Cache`].
pub(super) struct Past<'a> {
    cache: &'a mut Cache,
    layer: usize,
}

impl Cache {
    /// A cache that waits for the keys and values of these prompts.
    fn new(prompts: &Tokens, model: &Transformer) -> Self {
        let lengths = prompts.lengths.clone();
        let taken = lengths.iter().copied().max().unwrap_or(0);
        let mut places = Vec::with_capacity(lengths.len() * taken);
        let mut start = 0;
        for &length in &lengths {
            places.resize(places.len() + taken - length, 0);
            places.extend(start..start + length as u32);
            start += length as u32;
        }
        let layers = Vec::with_capacity(model.spec().layers);
        let growths = model.growths(&lengths);
        Self { layers, lengths, growths, taken, capacity: taken, rotaries: [None, None], prompt: Some(places) }
    }

    /// Makes room for one more token of each row.
    fn open(&mut self, model: &Transformer) {
        self.prompt = None;
        if self.taken == self.capacity {
            self.capacity += ROOM;
            for tensor in self.layers.iter_mut().flatten() {
                let [rows, _, width] = tensor.dims();
                let room = Tensor::zeros([rows, ROOM, width], (&tensor.device(), tensor.dtype()));
                tensor.inplace(|tensor| Tensor::cat(vec![tensor, room], 1));
            }
            self.rotaries = model.rotaries(self.capacity);
        }
        self.taken += 1;
        self.lengths.iter_mut().for_each(|length| *length += 1);
    }

    pub(super) fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Position of the newest token of each row.
    pub(super) fn positions(&self) -> Vec<u32> {
        self.lengths.iter().map(|length| *length as u32 - 1).collect()
    }

    /// What each row's prompt made of rotations.
    pub(super) fn growths(&self) -> &[usize] {
        &self.growths
    }

    /// The rotations to all of its positions, as far as the model rotates.
    pub(super) fn rotaries(&self) -> Rotaries {
        self.rotaries.clone()
    }

    /// The newest token of each row, and where its keys are.
    pub(super) fn spans(&self) -> Vec<ops::Span> {
        let span = |(row, length): (usize, &usize)| {
            let end = row * self.capacity + self.taken;
            ops::Span::ending(row..row + 1, end - length..end)
        };
        self.lengths.iter().enumerate().map(span).collect()
    }

    pub(super) fn layer(&mut self, layer: usize) -> Past<'_> {
        Past { cache: self, layer }
    }

    fn keep(&mut self, rows: &[u32]) {
        let count = self.lengths.len();
        if rows.iter().copied().eq(0..count as u32) {
            return;
        }
        self.lengths = rows.iter().map(|row| self.lengths[*row as usize]).collect();
        self.growths = rows.iter().map(|row| self.growths[*row as usize]).collect();
        for tensor in self.layers.iter_mut().flatten() {
            let [_, capacity, width] = tensor.dims();
            tensor.inplace(|tensor| {
                let kept = ops::lookup(tensor.reshape([count, capacity * width]), rows);
                kept.reshape([rows.len(), capacity, width])
            });
        }
    }
}

impl Past<'_> {
    /// Takes in keys and values of a pass's tokens `[N, kv_heads * width]`, and gives those that its queries see.
    pub(super) fn see(self, key: Tensor<2>, value: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let Self { cache, layer } = self;
        let rows = cache.lengths.len();
        let [_, width] = key.dims();
        if let Some(places) = &cache.prompt {
            let taken = cache.taken;
            let spread = |x: &Tensor<2>| ops::lookup(x.clone(), places).reshape([rows, taken, width]);
            cache.layers.push([spread(&key), spread(&value)]);
            return (key, value);
        }
        let (place, capacity) = (cache.taken - 1, cache.capacity);
        let seen = |tensor: &mut Tensor<3>, new: Tensor<2>| {
            tensor.inplace(|tensor| {
                tensor.slice_assign([0..rows, place..place + 1, 0..width], new.reshape([rows, 1, width]))
            });
            tensor.clone().reshape([rows * capacity, width])
        };
        let [keys, values] = &mut cache.layers[layer];
        (seen(keys, key), seen(values, value))
    }
}

impl Pretrained {
    /// The tokens with which its texts end: `eos_token_id` of `generation_config.json`, else of `config.json`, else the tokenizer's
    /// `eos_token`; none where no file names one. The first is the one to put after answers that are learnt: the tokenizer's, if it is among
    /// them. The others follow in ascending order.
    ///
    /// Answers depend on them, and [`fingerprint`](Self::fingerprint) does not hold them: they belong into the identity of what writes.
    ///
    /// Source: `GenerationConfig.from_pretrained` of transformers, which has the same order but for the tokenizer.
    ///
    /// # Errors
    /// A file that cannot be read, or a value that is no token.
    pub fn ends(&self) -> Result<Vec<u32>> {
        const FILE: &str = "generation_config.json";
        const KEY: &str = "eos_token_id";
        let path = self.folder().join(FILE);
        let mut generation = Map::new();
        if path.exists() {
            let bytes = fs::read(&path).path("read", &path)?;
            generation = serde_json::from_slice(&bytes).map_err(|cause| {
                let error = Error::new(format!("`{FILE}` is no JSON object: {cause}")).in_file(&path);
                error.help("get the file again, or remove it: `config.json` names the end of texts, too")
            })?;
        }
        let given = |values: &Map<String, Value>| values.get(KEY).filter(|value| !value.is_null()).cloned();
        let (file, value) = match (given(&generation), given(&self.spec().config)) {
            (Some(value), _) => (path, value),
            (None, Some(value)) => (self.folder().join("config.json"), value),
            (None, None) => return Ok(self.tokenizer().end().into_iter().collect()),
        };
        let id = |id: &Value| {
            let wrong =
                || Error::new(format!("`{KEY}` = {value} must be a token id, or a list of them")).in_file(&file);
            id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong)
        };
        let ids: BTreeSet<u32> = match &value {
            Value::Array(ids) => ids.iter().map(id).collect::<Result<_>>()?,
            one => [id(one)?].into(),
        };
        // One outside the vocabulary is never written.
        let mut ids: Vec<u32> = ids.into_iter().filter(|id| (*id as usize) < self.spec().vocab).collect();
        let first = self.tokenizer().end();
        ids.sort_by_key(|id| Some(*id) != first);
        Ok(ids)
    }
}
