//! The one network: embeddings, blocks, final norm, language-model head.

use std::{ops::Range, sync::Arc};

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    nn::{Embedding, Linear},
    tensor::{DType, Device, FloatDType, Shape, Tensor, TensorData, activation::relu},
};
use half::bf16;

use super::{
    arch,
    generate::{Cache, Past},
    lora::{self, Adapter, Dense, Lora},
    spec::{self, LmHead, Positions, Residual, Spec},
};
use crate::{Error, Result, ops, rng::Rng};

mod beyond;
mod precision;
mod recompute;

pub use precision::Precision;
pub(super) use precision::is_matrix;
pub use recompute::Tape;
pub(crate) use recompute::is_trained;

/// A batch of token sequences, one after the other. There is no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids of all sequences, N of them.
    pub ids: Vec<u32>,
    /// Number of tokens per sequence, each at least 1; they sum to N.
    pub lengths: Vec<usize>,
}

impl Tokens {
    /// Puts sequences into one batch.
    ///
    /// # Errors
    /// No sequences, or one that the model cannot take ([`Spec::check_ids`]).
    pub fn new<S: AsRef<[u32]>>(sequences: &[S], spec: &Spec) -> Result<Self> {
        if sequences.is_empty() {
            return Err(Error::new("a batch has no sequences"));
        }
        for (row, sequence) in sequences.iter().enumerate() {
            spec.check_ids(sequence.as_ref()).map_err(|error| error.context(format!("sequence {row}")))?;
        }
        Ok(Self::packed(sequences))
    }

    /// Puts sequences into one batch that are known to be fit for the model; otherwise it will panic.
    pub fn packed<S: AsRef<[u32]>>(sequences: &[S]) -> Self {
        let lengths = sequences.iter().map(|sequence| sequence.as_ref().len()).collect();
        let ids = sequences.iter().flat_map(|sequence| sequence.as_ref()).copied().collect();
        Self { ids, lengths }
    }

    /// Rows of each sequence.
    fn spans(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        let mut start = 0;
        self.lengths.iter().map(move |length| {
            start += length;
            start - length..start
        })
    }
}

/// Which vector of a sequence stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The last token, which is the only one that has seen all others in a causal model.
    Last,
    /// The first token (`[CLS]` of BERT).
    First,
    /// The mean over all tokens of the sequence, as sentence encoders such as MiniLM are trained with.
    Mean,
}

/// A transformer of any supported family. What distinguishes them is in its [`Spec`].
#[derive(Module, Debug)]
pub struct Transformer {
    tokens: Embedding,
    positions: Option<Embedding>,
    token_types: Option<Embedding>,
    embedding_norm: Option<Norm>,
    /// What stands for distances, where positions are relative.
    distances: Option<Embedding>,
    distance_norm: Option<Norm>,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    lm_head: Option<Linear>,
    #[module(skip)]
    spec: Arc<Spec>,
    /// What its adapters are, if it has any.
    #[module(skip)]
    lora: Option<Arc<Lora>>,
    #[module(skip)]
    precision: Precision,
}

/// Gain and bias of a normalisation; only the usual layer normalisation has a bias.
#[derive(Module, Debug)]
struct Norm {
    gamma: Param<Tensor<1>>,
    beta: Option<Param<Tensor<1>>>,
    #[module(skip)]
    kind: spec::Norm,
}

/// The norms `after` are of blocks that normalise what they add, too ([`Residual::Sandwich`]).
#[derive(Module, Debug)]
struct Block {
    attention_norm: Option<Norm>,
    attention: Attention,
    attention_after: Option<Norm>,
    mlp_norm: Norm,
    mlp: Mlp,
    mlp_after: Option<Norm>,
    /// Whether its tokens see only what is near.
    #[module(skip)]
    local: bool,
}

/// `qkv` is one fused matrix or three, as in the model's files, so that optimizers with a state per matrix see the same ones.
#[derive(Module, Debug)]
struct Attention {
    qkv: Vec<Dense>,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    output: Dense,
}

/// `input` is one matrix, which may hold gate and value, or one for each.
#[derive(Module, Debug)]
struct Mlp {
    input: Vec<Dense>,
    output: Dense,
}

/// Gives the values of a parameter from its path and shape, in float32 or bfloat16; `None` leaves it uninitialised.
type Values<'a> = dyn FnMut(&str, &[usize]) -> Result<Option<TensorData>> + 'a;

/// What the blocks of one forward pass share.
struct Plan {
    /// How blocks attend.
    whole: Sight,
    /// How those attend whose tokens see only what is near.
    near: Sight,
    /// What stands for the distances that occur, with the least of them in buckets.
    distances: Option<(Tensor<2>, i64)>,
    /// Position of each row in its sequence, or where its rotations are ([`reaching`](Transformer::reaching)).
    keys: Vec<u32>,
    /// The same of the rows that are asked for.
    queries: Vec<u32>,
    /// The one row per sequence that is asked for; all rows if `None`.
    rows: Option<Vec<u32>>,
}

/// What attention sees, and how positions turn it.
struct Sight {
    how: ops::Attention,
    rotary: Option<ops::Rotary>,
}

/// The rotations of all blocks, and of those whose tokens see only what is near.
pub(super) type Rotaries = [Option<ops::Rotary>; 2];

impl Transformer {
    /// A model with fresh weights, as GPT-2 initialises them: normal with the configuration's `initializer_range` (divided by the
    /// square root of the number of residual additions for matrices that write to the residual stream), biases 0, gains 1.
    ///
    /// Each parameter draws from its own stream, named by `seed` and its path, so none depends on another.
    pub fn init(spec: &Spec, seed: u64, device: &Device) -> Result<Self> {
        Self::init_to_train(spec, seed, device, Precision::F32)
    }

    /// The same computing in a precision, its matrices held as those of a model that is trained in it.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn init_to_train(spec: &Spec, seed: u64, device: &Device, precision: Precision) -> Result<Self> {
        Ok(Self::init_held(spec, seed, device, precision.narrows(true))?.in_precision(precision))
    }

    /// The same with nothing to train, its matrices held in a precision: a model of which the weights do not matter, such as one whose memory
    /// is measured.
    pub fn init_frozen(spec: &Spec, seed: u64, device: &Device, precision: Precision) -> Result<Self> {
        Ok(Self::init_held(spec, seed, device, precision.narrows(false))?.in_precision(precision).frozen())
    }

    fn init_held(spec: &Spec, seed: u64, device: &Device, narrow: bool) -> Result<Self> {
        let residual = spec.initializer_range / (2.0 * spec.layers.max(1) as f64).sqrt();
        Self::assemble(spec, device, &mut |path, shape| {
            let count = shape.iter().product();
            let data = |values: Vec<f32>| {
                let data = TensorData::new(values, shape.to_vec());
                Ok(Some(if narrow && is_matrix(path) { data.convert::<bf16>() } else { data }))
            };
            let std = match path.rsplit('.').next() {
                Some("gamma") => {
                    let gain = if spec.norm == spec::Norm::RmsAboveOne { 0.0 } else { 1.0 };
                    return data(vec![gain; count]);
                }
                Some("beta" | "bias") => return data(vec![0.0; count]),
                _ if path.ends_with(".output.weight") => residual,
                _ => spec.initializer_range,
            };
            let mut rng = Rng::named(seed, path);
            data((0..count).map(|_| (rng.normal() * std) as f32).collect())
        })
    }

    /// Path and shape of every parameter that a model of this kind has, in the order in which they are made.
    pub(super) fn parameters(spec: &Spec) -> Result<Vec<(String, Vec<usize>)>> {
        let mut all = Vec::new();
        Self::assemble(spec, &Device::flex(), &mut |path, shape| {
            all.push((path.to_owned(), shape.to_vec()));
            Ok(None)
        })?;
        Ok(all)
    }

    /// Builds a model from values that `values` gives for each parameter's path and shape.
    ///
    /// With `None` the parameter is left uninitialised, which is only good for listing them.
    pub(super) fn assemble(spec: &Spec, device: &Device, values: &mut Values) -> Result<Self> {
        let mut make = Maker { device, values };
        let (hidden, inner) = (spec.hidden, spec.inner);
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let kind = spec.norm;
        let (post, sandwich) = (spec.residual == Residual::Post, spec.residual == Residual::Sandwich);
        let tokens = make.embedding("tokens", spec.vocab, hidden)?;
        let positions = match spec.positions {
            Positions::Learned { offset, .. } => {
                Some(make.embedding("positions", spec.max_positions + offset, hidden)?)
            }
            Positions::Rotary { .. } | Positions::Relative(_) => None,
        };
        let token_types = match spec.token_types {
            0 => None,
            types => Some(make.embedding("token_types", types, hidden)?),
        };
        let early = post || spec.extras.embedding_norm;
        let embedding_norm = if early { Some(make.norm("embedding_norm", hidden, kind)?) } else { None };
        let (distances, distance_norm) = match spec.positions {
            Positions::Relative(buckets) => (
                Some(make.embedding("distances", 2 * buckets.count, hidden)?),
                Some(make.norm("distance_norm", hidden, kind)?),
            ),
            _ => (None, None),
        };
        let mut blocks = Vec::with_capacity(spec.layers);
        for layer in 0..spec.layers {
            let at = |part: &str| format!("blocks.{layer}.{part}");
            let widths = if spec.fused_qkv { vec![queries + 2 * keys] } else { vec![queries, keys, keys] };
            let normed = layer == 0 && spec.extras.embedding_norm;
            let attention_norm = if normed { None } else { Some(make.norm(&at("attention_norm"), hidden, kind)?) };
            let mut qkv = Vec::with_capacity(widths.len());
            for (part, width) in widths.into_iter().enumerate() {
                qkv.push(make.dense(&at(&format!("attention.qkv.{part}")), hidden, width, spec.bias.qkv)?);
            }
            let mut qk_norm = |name: &str| match spec.qk_norm {
                true => make.norm(&at(name), spec.head_dim, kind).map(Some),
                false => Ok(None),
            };
            let query_norm = qk_norm("attention.query_norm")?;
            let key_norm = qk_norm("attention.key_norm")?;
            let output = make.dense(&at("attention.output"), queries, hidden, spec.bias.output)?;
            let attention = Attention { qkv, query_norm, key_norm, output };
            let after = |make: &mut Maker, name: &str| match sandwich {
                true => make.norm(&at(name), hidden, kind).map(Some),
                false => Ok(None),
            };
            let attention_after = after(&mut make, "attention_after")?;
            let mlp_norm = make.norm(&at("mlp_norm"), hidden, kind)?;
            let both = spec.gated && spec.extras.fused_gate;
            let width = if both { 2 * inner } else { inner };
            let mut input = vec![make.dense(&at("mlp.input.0"), hidden, width, spec.bias.mlp)?];
            if spec.gated && !both {
                input.push(make.dense(&at("mlp.input.1"), hidden, inner, spec.bias.mlp)?);
            }
            let mlp = Mlp { input, output: make.dense(&at("mlp.output"), inner, hidden, spec.bias.mlp)? };
            let mlp_after = after(&mut make, "mlp_after")?;
            let local = spec.extras.local.as_ref().is_some_and(|local| local.layers.get(layer) == Some(&true));
            blocks.push(Block { attention_norm, attention, attention_after, mlp_norm, mlp, mlp_after, local });
        }
        let final_norm = if post { None } else { Some(make.norm("final_norm", hidden, kind)?) };
        let lm_head = match spec.lm_head {
            LmHead::Separate => Some(make.linear("lm_head", hidden, spec.vocab)?),
            LmHead::Tied | LmHead::Absent => None,
        };
        let spec = Arc::new(spec.clone());
        Ok(Self {
            tokens,
            positions,
            token_types,
            embedding_norm,
            distances,
            distance_norm,
            blocks,
            final_norm,
            lm_head,
            spec,
            lora: None,
            precision: Precision::default(),
        })
    }

    /// What the model looks like.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where the parameters are; also says whether they take part in differentiation.
    pub fn device(&self) -> Device {
        self.tokens.weight.val().device()
    }

    /// The same model with its weights frozen and fresh adapters on the linear layers that `lora` names; until they are trained it computes
    /// what it did. Adapters that it has are taken into the weights first.
    ///
    /// # Errors
    /// Settings that do not fit the model ([`Lora::on`]).
    pub fn with_lora(self, lora: &Lora, seed: u64) -> Result<Self> {
        let lora = lora.on(&self.spec)?;
        let mut model = self.merged().frozen();
        let entries = arch::find(model.spec.architecture)?.entries(model.spec.layers, false);
        for (path, dense) in model.dense() {
            let module = entries.get(&format!("{path}.weight")).map_or("", |entry| entry.module());
            if lora.targets.iter().any(|target| lora::fits(module, target)) {
                dense.adapt(&lora, &path, seed);
            }
        }
        Ok(model.adapted_by(lora))
    }

    /// The same model without adapters: each is taken into the weight that it is on.
    #[must_use]
    pub fn merged(mut self) -> Self {
        self.dense().into_iter().for_each(|(_, dense)| dense.merge());
        Self { lora: None, ..self }
    }

    /// The same model with nothing to train but its adapters.
    #[must_use]
    pub fn adapters_alone(self) -> Self {
        let mut model = self.frozen();
        model.dense().into_iter().for_each(|(_, dense)| dense.train_adapter());
        model
    }

    /// The same model with all its parameters to be trained.
    #[must_use]
    pub fn all_trained(self) -> Self {
        struct Trained;
        impl ModuleMapper for Trained {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.set_require_grad(true)
            }
        }
        // Those that were held as frozen ones are may be too narrow to be trained.
        let precision = self.precision;
        let model = if precision.is_default() { self } else { self.map_matrices(|matrix| precision.trained(matrix)) };
        model.map(&mut Trained)
    }

    /// What its adapters are, if it has any.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_deref()
    }

    /// Remembers what its adapters are.
    pub(super) fn adapted_by(self, lora: Lora) -> Self {
        Self { lora: Some(lora.into()), ..self }
    }

    /// Its adapters, with the paths of the layers that they are on.
    pub(super) fn adapters(&self) -> impl Iterator<Item = (String, &Adapter)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.flat_map(|(layer, block)| {
            block
                .dense()
                .filter_map(move |(path, dense)| Some((format!("blocks.{layer}.{path}"), dense.lora.as_ref()?)))
        })
    }

    /// The linear layers of its blocks, with their paths.
    pub(super) fn dense(&mut self) -> Vec<(String, &mut Dense)> {
        let blocks = self.blocks.iter_mut().enumerate();
        blocks
            .flat_map(|(layer, block)| {
                block.dense_mut().into_iter().map(move |(path, dense)| (format!("blocks.{layer}.{path}"), dense))
            })
            .collect()
    }

    /// Hidden states `[N, H]` of all tokens, after the final norm.
    pub fn hidden(&self, tokens: &Tokens) -> Tensor<2> {
        let plan = self.plan(tokens, None);
        let x =
            self.blocks.iter().fold(self.embed(tokens, &plan), |x, block| block.forward(x, &plan, &self.spec, None));
        self.finish(x)
    }

    /// The states that transformers calls `hidden_states`: embeddings, then after each block; the final norm has seen none of them.
    #[cfg(test)]
    pub(super) fn states(&self, tokens: &Tokens) -> Vec<Tensor<2>> {
        let plan = self.plan(tokens, None);
        let mut states = vec![self.embed(tokens, &plan)];
        for (index, block) in self.blocks.iter().enumerate() {
            states.push(block.forward(states[index].clone(), &plan, &self.spec, None));
        }
        states
    }

    /// One vector `[B, H]` per sequence, after the final norm.
    ///
    /// For a single token per sequence, the last block computes keys and values for all tokens and everything else for that one.
    pub fn pooled(&self, tokens: &Tokens, pooling: Pooling) -> Tensor<2> {
        match places_of(tokens, pooling) {
            Some(places) => self.at(tokens, &places, None),
            None => mean_of_tokens(self.hidden(tokens), tokens),
        }
    }

    /// Hidden states `[B, H]` of the tokens at `places` of each sequence, after the final norm. A cache takes in the keys and values of all
    /// tokens.
    pub(super) fn at(&self, tokens: &Tokens, places: &[usize], mut cache: Option<&mut Cache>) -> Tensor<2> {
        let every = self.plan(tokens, None);
        let one = self.plan(tokens, Some(places));
        let mut x = self.embed(tokens, &every);
        let Some(last) = self.blocks.len().checked_sub(1) else { return self.finish(one.select(x)) };
        for (layer, block) in self.blocks.iter().enumerate() {
            let plan = if layer == last { &one } else { &every };
            x = block.forward(x, plan, &self.spec, cache.as_deref_mut().map(|cache| cache.layer(layer)));
        }
        self.finish(x)
    }

    /// Hidden states `[B, H]` of one more token per sequence of a cache that is [open](Cache::open) for them.
    pub(super) fn next(&self, ids: &[u32], cache: &mut Cache) -> Tensor<2> {
        let positions = cache.positions();
        let [whole, near] = self.sights(cache.spans(), cache.rotaries());
        let plan = Plan { whole, near, distances: None, keys: positions.clone(), queries: positions, rows: None };
        let tokens = Tokens { ids: ids.to_vec(), lengths: vec![1; ids.len()] };
        let plan = self.reaching(plan, &tokens.lengths, cache.growths(), cache.longest());
        let mut x = self.embed(&tokens, &plan);
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &plan, &self.spec, Some(cache.layer(layer)));
        }
        self.finish(x)
    }

    /// Logits over the vocabulary from hidden states of any rank: `[.., H]` gives `[.., V]`.
    ///
    /// # Errors
    /// The model has no language-model head ([`LmHead::Absent`]).
    pub fn lm_logits<const D: usize>(&self, hidden: Tensor<D>) -> Result<Tensor<D>> {
        let (matrix, transposed) = self.lm_matrix()?;
        let matrix = self.precision.of(matrix.val());
        let logits = match transposed {
            false => ops::linear(hidden, matrix, None),
            true => ops::linear_tied(hidden, matrix),
        };
        Ok(match self.spec.extras.logit_cap {
            Some(cap) => ops::soft_cap(logits, cap),
            None => logits,
        })
    }

    /// The same head on the plain device, for passes that never have all logits.
    ///
    /// # Errors
    /// As [`lm_logits`](Self::lm_logits).
    pub fn vocabulary(&self) -> Result<ops::Head> {
        let (matrix, transposed) = self.lm_matrix()?;
        let matrix = if self.device().is_autodiff() { matrix.val().inner() } else { matrix.val() };
        Ok(ops::Head { weight: self.precision.of(matrix), transposed, cap: self.spec.extras.logit_cap })
    }

    /// Rows of the language-model head's matrix, `[tokens, H]`, detached.
    ///
    /// # Errors
    /// The model has no language-model head, or a token is outside the vocabulary.
    pub fn unembedding(&self, tokens: &[u32]) -> Result<Tensor<2>> {
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= self.spec.vocab) {
            let message = format!("token id {id} is outside the model's vocabulary of {} ids", self.spec.vocab);
            return Err(Error::new(message));
        }
        let matrix = match (&self.lm_head, self.spec.lm_head) {
            (Some(head), _) => head.weight.val().transpose(),
            (None, LmHead::Tied) => self.tokens.weight.val(),
            (None, _) => return Err(self.no_lm_head()),
        };
        let rows: Vec<i32> = tokens.iter().map(|&id| id as i32).collect();
        let rows = Tensor::from_data(TensorData::new(rows, [tokens.len()]), &matrix.device());
        Ok(matrix.detach().select(0, rows).cast(FloatDType::F32))
    }

    /// The matrix of the language-model head, and whether it is the table of embeddings `[V, H]`; its own is `[H, V]`.
    ///
    /// # Errors
    /// The model has no language-model head.
    pub fn lm_matrix(&self) -> Result<(&Param<Tensor<2>>, bool)> {
        match (&self.lm_head, self.spec.lm_head) {
            (Some(head), _) => Ok((&head.weight, false)),
            (None, LmHead::Tied) => Ok((&self.tokens.weight, true)),
            (None, _) => Err(self.no_lm_head()),
        }
    }

    fn no_lm_head(&self) -> Error {
        Error::new(format!("this `{}` model has no language-model head", self.spec.architecture))
    }

    /// Embeddings `[N, H]`: what the first block sees.
    fn embed(&self, tokens: &Tokens, plan: &Plan) -> Tensor<2> {
        let mut x = ops::lookup(self.precision.of(self.tokens.weight.val()), &tokens.ids);
        if let Some(scale) = self.spec.extras.embedding_scale {
            x = x.mul_scalar(scale);
        }
        if let (Some(table), Positions::Learned { offset, padding }) = (&self.positions, self.spec.positions) {
            let offset = offset as u32;
            let mut rows: Vec<u32> = plan.keys.iter().map(|position| position + offset).collect();
            if let Some(padding) = padding {
                for span in tokens.spans() {
                    let mut next = offset;
                    for row in span {
                        let takes_none = tokens.ids[row] == padding;
                        rows[row] = if takes_none { offset - 1 } else { next };
                        next += u32::from(!takes_none);
                    }
                }
            }
            x = x + ops::lookup(table.weight.val(), &rows);
        }
        if let Some(table) = &self.token_types {
            x = x + table.weight.val().narrow(0, 0, 1);
        }
        match &self.embedding_norm {
            Some(norm) => norm.forward(x, self.spec.norm_eps),
            None => x,
        }
    }

    fn finish(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.final_norm {
            Some(norm) => norm.forward(x, self.spec.norm_eps),
            None => x,
        }
    }

    /// The rotations to positions below `positions`, as far as the model rotates.
    pub(super) fn rotaries(&self, positions: usize) -> Rotaries {
        let table = |of: Positions| of.frequencies().map(|frequencies| ops::Rotary::new(&frequencies, positions, 1.0));
        let whole = table(self.spec.positions);
        let own = self.spec.extras.local.as_ref().and_then(|local| local.positions);
        let near = own.map_or_else(|| whole.clone(), table);
        [whole, near]
    }

    /// What the blocks see, and what those see whose tokens see only what is near.
    fn sights(&self, spans: Vec<ops::Span>, [of_all, of_near]: Rotaries) -> [Sight; 2] {
        let Spec { heads, kv_heads, causal, ref extras, .. } = *self.spec;
        let scale = extras.attention_scale.unwrap_or_else(|| (self.spec.head_dim as f64).sqrt().recip());
        let plain = ops::Attention::plain(heads, kv_heads, scale, causal, spans);
        let how = ops::Attention { cap: extras.attention_cap, ..plain };
        let window = extras.local.as_ref().map(|local| local.window);
        let near = ops::Attention { window, ..how.clone() };
        [Sight { how, rotary: of_all }, Sight { how: near, rotary: of_near }]
    }

    /// Plans a pass over all tokens, or one that asks for the token at `places` of each sequence.
    fn plan(&self, tokens: &Tokens, places: Option<&[usize]>) -> Plan {
        let keys: Vec<u32> = tokens.lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let longest = tokens.lengths.iter().copied().max().unwrap_or(0);
        let spans = match places {
            None => tokens.spans().map(|span| ops::Span::ending(span.clone(), span)).collect(),
            Some(places) => {
                let span = |(query, (keys, &place)): (usize, (Range<usize>, &usize))| {
                    // A lone query counts as the last of its keys: causally, it sees none of those that follow it.
                    let end = if self.spec.causal { keys.start + place + 1 } else { keys.end };
                    ops::Span { queries: query..query + 1, keys: keys.start..end, first: place }
                };
                tokens.spans().zip(places).enumerate().map(span).collect()
            }
        };
        let [whole, near] = self.sights(spans, self.rotaries(longest));
        let distances = self.distances(longest);
        let queries = places.map_or_else(|| keys.clone(), |places| places.iter().map(|&place| place as u32).collect());
        let row = |(span, place): (Range<usize>, &usize)| (span.start + place) as u32;
        let rows = places.map(|places| tokens.spans().zip(places).map(row).collect());
        let plan = Plan { whole, near, distances, keys, queries, rows };
        self.reaching(plan, &tokens.lengths, &self.growths(&tokens.lengths), longest)
    }

    /// What stands for the distances in texts of up to `longest` tokens, `[2 d + 1, H]`, with the least of them in buckets, `-d`.
    fn distances(&self, longest: usize) -> Option<(Tensor<2>, i64)> {
        let Positions::Relative(buckets) = self.spec.positions else { return None };
        let (table, norm) = (self.distances.as_ref()?, self.distance_norm.as_ref()?);
        let farthest = longest.saturating_sub(1) as i64;
        let (least, most) = (buckets.of(-farthest), buckets.of(farthest));
        let rows = table.weight.val().narrow(0, (buckets.count as i64 + least) as usize, (most - least + 1) as usize);
        Some((norm.forward(rows, self.spec.norm_eps), least))
    }
}

/// The place of the token that stands for each sequence; none where all do.
fn places_of(tokens: &Tokens, pooling: Pooling) -> Option<Vec<usize>> {
    match pooling {
        Pooling::Last => Some(tokens.lengths.iter().map(|length| length - 1).collect()),
        Pooling::First => Some(vec![0; tokens.lengths.len()]),
        Pooling::Mean => None,
    }
}

/// Mean over the tokens of each sequence, `[N, H]` to `[B, H]`, as one product with the weights `1 / length`.
fn mean_of_tokens(hidden: Tensor<2>, tokens: &Tokens) -> Tensor<2> {
    let [count, _] = hidden.dims();
    let mut weights = vec![0.0_f32; tokens.lengths.len() * count];
    for (row, span) in weights.chunks_exact_mut(count).zip(tokens.spans()) {
        row[span.clone()].fill(1.0 / span.len() as f32);
    }
    let weights = TensorData::new(weights, [tokens.lengths.len(), count]);
    Tensor::<2>::from_data(weights, &hidden.device()).matmul(hidden)
}

impl Plan {
    /// The rows that are asked for.
    fn select(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.rows {
            None => x,
            Some(rows) => ops::lookup(x, rows),
        }
    }
}

impl Norm {
    fn forward<const D: usize>(&self, x: Tensor<D>, eps: f64) -> Tensor<D> {
        let gamma = self.gamma.val();
        match (self.kind, &self.beta) {
            (spec::Norm::Layer, Some(beta)) => ops::layer_norm(x, gamma, beta.val(), eps),
            (spec::Norm::Layer | spec::Norm::LayerWithoutBias, _) => {
                let zeros = Tensor::zeros(gamma.dims(), (&x.device(), x.dtype()));
                ops::layer_norm(x, gamma, zeros, eps)
            }
            (spec::Norm::Rms, _) => ops::rms_norm(x, gamma, eps),
            (spec::Norm::RmsAboveOne, _) => ops::rms_norm(x, gamma.add_scalar(1.0), eps),
        }
    }
}

impl Block {
    /// Its linear layers.
    fn dense(&self) -> impl Iterator<Item = (String, &Dense)> {
        let Self { attention, mlp, .. } = self;
        let qkv = attention.qkv.iter().enumerate().map(|(part, dense)| (format!("attention.qkv.{part}"), dense));
        let input = mlp.input.iter().enumerate().map(|(part, dense)| (format!("mlp.input.{part}"), dense));
        let outputs = [("attention.output", &attention.output), ("mlp.output", &mlp.output)];
        qkv.chain(input).chain(outputs.map(|(path, dense)| (path.to_owned(), dense)))
    }

    /// The same, to change them.
    fn dense_mut(&mut self) -> Vec<(String, &mut Dense)> {
        let Self { attention, mlp, .. } = self;
        let qkv = attention.qkv.iter_mut().enumerate().map(|(part, dense)| (format!("attention.qkv.{part}"), dense));
        let input = mlp.input.iter_mut().enumerate().map(|(part, dense)| (format!("mlp.input.{part}"), dense));
        let outputs = [("attention.output", &mut attention.output), ("mlp.output", &mut mlp.output)];
        qkv.chain(input).chain(outputs.map(|(path, dense)| (path.to_owned(), dense))).collect()
    }

    /// `[N, H]` to the rows that `plan` asks for, which see what came before if there is a `past`.
    fn forward(&self, x: Tensor<2>, plan: &Plan, spec: &Spec, past: Option<Past>) -> Tensor<2> {
        let (attention, mlp) = (&self.attention, &self.mlp);
        let norm = |norm: &Norm, x| norm.forward(x, spec.norm_eps);
        let perhaps = |norm: &Option<Norm>, x| match norm {
            Some(norm) => norm.forward(x, spec.norm_eps),
            None => x,
        };
        let sight = if self.local { &plan.near } else { &plan.whole };
        let attend = |x, past| attention.forward(x, plan, sight, spec, past);
        match spec.residual {
            Residual::Pre => {
                let seen = attend(perhaps(&self.attention_norm, x.clone()), past);
                let x = attention.output.onto(seen, plan.select(x));
                mlp.output.onto(mlp.forward(norm(&self.mlp_norm, x.clone()), spec), x)
            }
            Residual::Parallel => {
                let seen = attend(perhaps(&self.attention_norm, x.clone()), past);
                let x = plan.select(x);
                let inner = mlp.forward(norm(&self.mlp_norm, x.clone()), spec);
                mlp.output.onto(inner, attention.output.onto(seen, x))
            }
            Residual::Post => {
                let seen = attend(x.clone(), past);
                let x = perhaps(&self.attention_norm, attention.output.onto(seen, plan.select(x)));
                norm(&self.mlp_norm, mlp.output.onto(mlp.forward(x.clone(), spec), x))
            }
            Residual::Sandwich => {
                let seen = attend(perhaps(&self.attention_norm, x.clone()), past);
                let x = plan.select(x) + perhaps(&self.attention_after, attention.output.forward(seen));
                let inner = mlp.forward(norm(&self.mlp_norm, x.clone()), spec);
                x + perhaps(&self.mlp_after, mlp.output.forward(inner))
            }
        }
    }
}

impl Attention {
    /// What each row that is asked for sees, `[rows, heads * width]`; the output projection is the caller's, with the residual.
    fn forward(&self, x: Tensor<2>, plan: &Plan, sight: &Sight, spec: &Spec, past: Option<Past>) -> Tensor<2> {
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let (query, key, value) = match self.qkv.as_slice() {
            [query, key, value] => (query.forward(plan.select(x.clone())), key.forward(x.clone()), value.forward(x)),
            fused if plan.rows.is_some() => {
                let query = fused[0].columns(0, queries, plan.select(x.clone()));
                let rest = fused[0].columns(queries, 2 * keys, x);
                (query, rest.clone().narrow(1, 0, keys), rest.narrow(1, keys, keys))
            }
            fused
                if past.is_none()
                    && self.query_norm.is_none()
                    && self.key_norm.is_none()
                    && plan.queries == plan.keys =>
            {
                let all = fused[0].forward(x);
                let (turned, heads) = (spec.heads + spec.kv_heads, spec.heads + 2 * spec.kv_heads);
                let all = match &sight.rotary {
                    None => all,
                    Some(rotary) => ops::rotate(all, heads, turned, &plan.keys, rotary),
                };
                return ops::self_attention(all, &sight.how);
            }
            fused => {
                let all = fused[0].forward(x);
                let part = |start, width| all.clone().narrow(1, start, width);
                (part(0, queries), part(queries, keys), part(queries + keys, keys))
            }
        };
        let (query, key) = match &sight.rotary {
            None => (query, key),
            Some(rotary) => {
                let query = per_head(&self.query_norm, query, spec);
                let key = per_head(&self.key_norm, key, spec);
                (
                    ops::rotate(query, spec.heads, spec.heads, &plan.queries, rotary),
                    ops::rotate(key, spec.kv_heads, spec.kv_heads, &plan.keys, rotary),
                )
            }
        };
        if let (Some((rows, least)), Positions::Relative(buckets), [of_queries, of_keys, _]) =
            (&plan.distances, spec.positions, self.qkv.as_slice())
        {
            let places = [of_keys.forward(rows.clone()), of_queries.forward(rows.clone())];
            let row = |distance| (buckets.of(distance) - least) as usize;
            return ops::disentangled_attention([query, key, value], &plan.queries, places, row, &sight.how);
        }
        let (key, value) = match past {
            None => (key, value),
            Some(past) => past.see(key, value),
        };
        ops::attention(query, key, value, &sight.how)
    }
}

impl Mlp {
    /// `[N, H]` to `[N, inner]`; the output projection is the caller's, with the residual.
    fn forward(&self, x: Tensor<2>, spec: &Spec) -> Tensor<2> {
        let f = lora::fused(spec.activation);
        match (self.input.as_slice(), f) {
            ([both], f) if spec.gated => {
                let both = both.forward(x);
                let (gate, up) = (both.clone().narrow(1, 0, spec.inner), both.narrow(1, spec.inner, spec.inner));
                match f {
                    Some(ops::Activation::Silu) => ops::gated_silu(gate, up),
                    Some(f) => ops::activate(f, gate) * up,
                    None => relu(gate) * up,
                }
            }
            ([gate, up], Some(ops::Activation::Silu)) => ops::gated_silu(gate.forward(x.clone()), up.forward(x)),
            ([gate, up], _) => gate.activated(x.clone(), f) * up.forward(x),
            (only, _) => only[0].activated(x, f),
        }
    }
}

/// Normalises each head of `[N, heads * width]` by itself.
fn per_head(norm: &Option<Norm>, x: Tensor<2>, spec: &Spec) -> Tensor<2> {
    let Some(norm) = norm else { return x };
    let [rows, width] = x.dims();
    let heads = x.reshape([rows, width / spec.head_dim, spec.head_dim]);
    norm.forward(heads, spec.norm_eps).reshape([rows, width])
}

/// Makes parameters, none of them lazy: the order of first use must not matter.
struct Maker<'a, 'v> {
    device: &'a Device,
    values: &'a mut Values<'v>,
}

impl Maker<'_, '_> {
    fn param<const D: usize>(&mut self, path: &str, shape: [usize; D]) -> Result<Param<Tensor<D>>> {
        Ok(match (self.values)(path, &shape)? {
            Some(data) if data.dtype() == DType::BF16 => {
                Param::from_tensor(Tensor::from_data(data, (self.device, DType::BF16)))
            }
            Some(data) => Param::from_data(data, self.device),
            None => {
                let init = move |device: &Device, _: bool| Tensor::zeros(shape, device);
                Param::uninitialized(ParamId::new(), init, self.device.clone(), true, Shape::new(shape))
            }
        })
    }

    fn embedding(&mut self, path: &str, rows: usize, width: usize) -> Result<Embedding> {
        Ok(Embedding { weight: self.param(&format!("{path}.weight"), [rows, width])? })
    }

    fn linear(&mut self, path: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear { weight: self.param(&format!("{path}.weight"), [inputs, outputs])?, bias: None })
    }

    fn dense(&mut self, path: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Dense> {
        let weight = self.param(&format!("{path}.weight"), [inputs, outputs])?;
        let bias = if bias { Some(self.param(&format!("{path}.bias"), [outputs])?) } else { None };
        Ok(Dense { weight, bias, lora: None, precision: Precision::default() })
    }

    fn norm(&mut self, path: &str, width: usize, kind: spec::Norm) -> Result<Norm> {
        let gamma = self.param(&format!("{path}.gamma"), [width])?;
        let beta = match kind {
            spec::Norm::Layer => Some(self.param(&format!("{path}.beta"), [width])?),
            _ => None,
        };
        Ok(Norm { gamma, beta, kind })
    }
}
