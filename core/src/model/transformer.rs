//! The one network: embeddings, blocks, final norm, language-model head.

use std::sync::Arc;

use burn::{
    module::{Module, Param, ParamId},
    nn::{Embedding, Linear},
    tensor::{Device, Int, Shape, Tensor, TensorData, activation::relu},
};

use super::spec::{self, Activation, LmHead, Positions, Residual, Spec};
use crate::{Error, Result, ops, rng::Rng};

/// A batch of token sequences, padded on the right.
///
/// What is padding is known from the lengths alone, never from the id: id 0 is a token like any other.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[B, T]`; positions at and after a sequence's length hold any id of the vocabulary.
    pub ids: Tensor<2, Int>,
    /// Number of tokens per sequence, each from 1 to T.
    pub lengths: Vec<usize>,
}

impl Tokens {
    /// Pads sequences to the longest of them.
    ///
    /// # Errors
    /// No sequences, or one that the model cannot take ([`Spec::check_ids`]).
    pub fn new<S: AsRef<[u32]>>(sequences: &[S], spec: &Spec, device: &Device) -> Result<Self> {
        let mut lengths = Vec::with_capacity(sequences.len());
        for (row, sequence) in sequences.iter().enumerate() {
            spec.check_ids(sequence.as_ref()).map_err(|error| error.context(format!("sequence {row}")))?;
            lengths.push(sequence.as_ref().len());
        }
        let longest = lengths.iter().copied().max().ok_or_else(|| Error::new("a batch has no sequences"))?;
        let mut ids = vec![0_i32; lengths.len() * longest];
        for (row, sequence) in ids.chunks_exact_mut(longest).zip(sequences) {
            row.iter_mut().zip(sequence.as_ref()).for_each(|(to, &id)| *to = id as i32);
        }
        let ids = Tensor::from_data(TensorData::new(ids, [lengths.len(), longest]), device);
        Ok(Self { ids, lengths })
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
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    lm_head: Option<Linear>,
    #[module(skip)]
    spec: Arc<Spec>,
}

/// Gain and bias of a normalisation; without bias it is the root-mean-square one.
#[derive(Module, Debug)]
struct Norm {
    gamma: Param<Tensor<1>>,
    beta: Option<Param<Tensor<1>>>,
}

#[derive(Module, Debug)]
struct Block {
    attention_norm: Norm,
    attention: Attention,
    mlp_norm: Norm,
    mlp: Mlp,
}

/// `qkv` is one fused matrix or three, as in the model's files, so that optimizers with a state per matrix see the same ones.
#[derive(Module, Debug)]
struct Attention {
    qkv: Vec<Linear>,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    output: Linear,
}

/// `input` is one matrix, or gate and value.
#[derive(Module, Debug)]
struct Mlp {
    input: Vec<Linear>,
    output: Linear,
}

/// What all blocks of one forward pass share.
struct Plan {
    how: ops::Attention,
    /// Rotations of the keys, and of the queries where those are fewer.
    rotary: Option<(Rotary, Rotary)>,
    /// The one row per sequence that is asked for, as indices into `[B * T]`; all rows if `None`.
    rows: Option<Tensor<1, Int>>,
}

/// Cosines and sines, `[1 or B, T, 1, dims / 2]`.
#[derive(Clone)]
struct Rotary {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Transformer {
    /// A model with fresh weights, as GPT-2 initialises them: normal with the configuration's `initializer_range` (divided by the
    /// square root of the number of residual additions for matrices that write to the residual stream), biases 0, gains 1.
    ///
    /// Each parameter draws from its own stream, named by `seed` and its path, so none depends on another.
    pub fn init(spec: &Spec, seed: u64, device: &Device) -> Result<Self> {
        let residual = spec.initializer_range / (2.0 * spec.layers.max(1) as f64).sqrt();
        Self::assemble(spec, device, &mut |path, shape| {
            let count = shape.iter().product();
            let std = match path.rsplit('.').next() {
                Some("gamma") => return Ok(Some(vec![1.0; count])),
                Some("beta" | "bias") => return Ok(Some(vec![0.0; count])),
                _ if path.ends_with(".output.weight") => residual,
                _ => spec.initializer_range,
            };
            let mut rng = Rng::named(seed, path);
            Ok(Some((0..count).map(|_| (rng.normal() * std) as f32).collect()))
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
    pub(super) fn assemble(
        spec: &Spec,
        device: &Device,
        values: &mut dyn FnMut(&str, &[usize]) -> Result<Option<Vec<f32>>>,
    ) -> Result<Self> {
        let mut make = Maker { device, values };
        let (hidden, inner) = (spec.hidden, spec.inner);
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let rms = spec.norm == spec::Norm::Rms;
        let post = spec.residual == Residual::Post;
        let tokens = make.embedding("tokens", spec.vocab, hidden)?;
        let positions = match spec.positions {
            Positions::Learned { offset } => Some(make.embedding("positions", spec.max_positions + offset, hidden)?),
            Positions::Rotary { .. } => None,
        };
        let token_types = match spec.token_types {
            0 => None,
            types => Some(make.embedding("token_types", types, hidden)?),
        };
        let embedding_norm = if post { Some(make.norm("embedding_norm", hidden, rms)?) } else { None };
        let mut blocks = Vec::with_capacity(spec.layers);
        for layer in 0..spec.layers {
            let at = |part: &str| format!("blocks.{layer}.{part}");
            let widths = if spec.fused_qkv { vec![queries + 2 * keys] } else { vec![queries, keys, keys] };
            let attention_norm = make.norm(&at("attention_norm"), hidden, rms)?;
            let mut qkv = Vec::with_capacity(widths.len());
            for (part, width) in widths.into_iter().enumerate() {
                qkv.push(make.linear(&at(&format!("attention.qkv.{part}")), hidden, width, spec.bias.qkv)?);
            }
            let mut qk_norm = |name: &str| match spec.qk_norm {
                true => make.norm(&at(name), spec.head_dim, rms).map(Some),
                false => Ok(None),
            };
            let query_norm = qk_norm("attention.query_norm")?;
            let key_norm = qk_norm("attention.key_norm")?;
            let output = make.linear(&at("attention.output"), queries, hidden, spec.bias.output)?;
            let attention = Attention { qkv, query_norm, key_norm, output };
            let mlp_norm = make.norm(&at("mlp_norm"), hidden, rms)?;
            let mut input = vec![make.linear(&at("mlp.input.0"), hidden, inner, spec.bias.mlp)?];
            if spec.gated {
                input.push(make.linear(&at("mlp.input.1"), hidden, inner, spec.bias.mlp)?);
            }
            let mlp = Mlp { input, output: make.linear(&at("mlp.output"), inner, hidden, spec.bias.mlp)? };
            blocks.push(Block { attention_norm, attention, mlp_norm, mlp });
        }
        let final_norm = if post { None } else { Some(make.norm("final_norm", hidden, rms)?) };
        let lm_head = match spec.lm_head {
            LmHead::Separate => Some(make.linear("lm_head", hidden, spec.vocab, false)?),
            LmHead::Tied | LmHead::Absent => None,
        };
        let spec = Arc::new(spec.clone());
        Ok(Self { tokens, positions, token_types, embedding_norm, blocks, final_norm, lm_head, spec })
    }

    /// What the model looks like.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where the parameters are; also says whether they take part in differentiation.
    pub fn device(&self) -> Device {
        self.tokens.weight.val().device()
    }

    /// Hidden states `[B, T, H]` after the final norm. Rows of padding are finite but mean nothing.
    pub fn hidden(&self, tokens: &Tokens) -> Tensor<3> {
        let plan = self.plan(tokens, None);
        let hidden = self.blocks.iter().fold(self.embed(tokens), |x, block| block.forward(x, &plan, &self.spec));
        self.finish(hidden)
    }

    /// The states that transformers calls `hidden_states`: embeddings, then after each block, the last one after the final norm.
    #[cfg(test)]
    pub(super) fn states(&self, tokens: &Tokens) -> Vec<Tensor<3>> {
        let plan = self.plan(tokens, None);
        let mut states = vec![self.embed(tokens)];
        for (index, block) in self.blocks.iter().enumerate() {
            let x = block.forward(states[index].clone(), &plan, &self.spec);
            states.push(x);
        }
        let last = states.pop().map(|x| self.finish(x));
        states.extend(last);
        states
    }

    /// The state after the last block, before the final norm.
    #[cfg(test)]
    pub(super) fn blocks_alone(&self, tokens: &Tokens) -> Tensor<3> {
        let plan = self.plan(tokens, None);
        self.blocks.iter().fold(self.embed(tokens), |x, block| block.forward(x, &plan, &self.spec))
    }

    /// One vector `[B, H]` per sequence, after the final norm.
    ///
    /// For a single token per sequence, the last block computes keys and values for all tokens and everything else for that one.
    pub fn pooled(&self, tokens: &Tokens, pooling: Pooling) -> Tensor<2> {
        let [batch, time] = tokens.ids.dims();
        let hidden = self.spec.hidden;
        let at: Vec<usize> = match pooling {
            Pooling::Last => tokens.lengths.iter().map(|length| length - 1).collect(),
            Pooling::First => vec![0; batch],
            Pooling::Mean => return mean_of_tokens(self.hidden(tokens), &tokens.lengths),
        };
        let everything = self.plan(tokens, None);
        let one_row = self.plan(tokens, Some(&at));
        let x = self.embed(tokens);
        let x = match self.blocks.split_last() {
            Some((last, rest)) => {
                let x = rest.iter().fold(x, |x, block| block.forward(x, &everything, &self.spec));
                last.forward(x, &one_row, &self.spec)
            }
            None => one_row.select(x),
        };
        debug_assert_eq!(x.dims(), [batch, 1, hidden], "{time} tokens");
        self.finish(x).reshape([batch, hidden])
    }

    /// Logits over the vocabulary from hidden states of any rank: `[.., H]` gives `[.., V]`.
    ///
    /// # Errors
    /// The model has no language-model head ([`LmHead::Absent`]).
    pub fn lm_logits<const D: usize>(&self, hidden: Tensor<D>) -> Result<Tensor<D>> {
        match (&self.lm_head, self.spec.lm_head) {
            (Some(head), _) => Ok(head.forward(hidden)),
            (None, LmHead::Tied) => {
                Ok(burn::tensor::module::linear(hidden, self.tokens.weight.val().transpose(), None))
            }
            (None, _) => Err(self.no_lm_head()),
        }
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
        Ok(matrix.detach().select(0, rows))
    }

    fn no_lm_head(&self) -> Error {
        Error::new(format!("this `{}` model has no language-model head", self.spec.architecture))
    }

    /// Embeddings `[B, T, H]`: what the first block sees.
    fn embed(&self, tokens: &Tokens) -> Tensor<3> {
        let [_, time] = tokens.ids.dims();
        let mut x = self.tokens.forward(tokens.ids.clone());
        if let (Some(table), Positions::Learned { offset }) = (&self.positions, self.spec.positions) {
            x = x + table.weight.val().narrow(0, offset, time).unsqueeze::<3>();
        }
        if let Some(table) = &self.token_types {
            x = x + table.weight.val().narrow(0, 0, 1).unsqueeze::<3>();
        }
        match &self.embedding_norm {
            Some(norm) => norm.forward(x, self.spec.norm_eps),
            None => x,
        }
    }

    fn finish(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.final_norm {
            Some(norm) => norm.forward(x, self.spec.norm_eps),
            None => x,
        }
    }

    /// Plans a pass over all tokens, or one that asks for the token at `at` of each sequence.
    fn plan(&self, tokens: &Tokens, at: Option<&[usize]>) -> Plan {
        let [batch, time] = tokens.ids.dims();
        let device = self.device();
        let spec = &self.spec;
        let lengths = match at {
            // A lone query sees what its place sees: causally that is all up to it, which is a shorter sequence.
            Some(at) if spec.causal => at.iter().map(|at| at + 1).collect(),
            _ => tokens.lengths.clone(),
        };
        let rotary = match spec.positions {
            Positions::Rotary { dims, base } => {
                let table = |positions: &[usize], shape: [usize; 4]| Rotary::new(positions, dims, base, shape, &device);
                let keys = table(&(0..time).collect::<Vec<_>>(), [1, time, 1, dims / 2]);
                let queries = at.map_or_else(|| keys.clone(), |at| table(at, [batch, 1, 1, dims / 2]));
                Some((keys, queries))
            }
            Positions::Learned { .. } => None,
        };
        let rows = at.map(|at| {
            let rows: Vec<i32> = at.iter().enumerate().map(|(row, at)| (row * time + at) as i32).collect();
            Tensor::from_data(TensorData::new(rows, [batch]), &device)
        });
        let scale = (spec.head_dim as f64).sqrt().recip();
        let span = |(row, &length): (usize, &usize)| ops::Span {
            queries: if at.is_some() { row..row + 1 } else { row * time..row * time + length },
            keys: row * time..row * time + length,
        };
        let spans = lengths.iter().enumerate().map(span).collect();
        let how = ops::Attention { heads: spec.heads, kv_heads: spec.kv_heads, scale, causal: spec.causal, spans };
        Plan { how, rotary, rows }
    }
}

/// Mean over the tokens of each sequence, `[B, T, H]` to `[B, H]`, as one product with the weights `1 / length`.
fn mean_of_tokens(hidden: Tensor<3>, lengths: &[usize]) -> Tensor<2> {
    let [batch, time, width] = hidden.dims();
    let mut weights = vec![0.0_f32; batch * time];
    for (row, &length) in weights.chunks_exact_mut(time).zip(lengths) {
        row[..length].fill(1.0 / length as f32);
    }
    let weights = Tensor::<3>::from_data(TensorData::new(weights, [batch, 1, time]), &hidden.device());
    weights.matmul(hidden).reshape([batch, width])
}

impl Plan {
    /// The rows that are asked for: `[B, T, H]` as it is, or `[B, 1, H]`.
    fn select(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.rows {
            None => x,
            Some(rows) => {
                let [batch, time, width] = x.dims();
                x.reshape([batch * time, width]).select(0, rows.clone()).reshape([batch, 1, width])
            }
        }
    }
}

impl Rotary {
    /// Tables for the given positions. Angles are float32 products, as transformers computes them.
    fn new(positions: &[usize], dims: usize, base: f64, shape: [usize; 4], device: &Device) -> Self {
        let frequencies: Vec<f32> =
            (0..dims / 2).map(|i| (base as f32).powf((2 * i) as f32 / dims as f32).recip()).collect();
        let angles: Vec<f32> =
            positions.iter().flat_map(|&at| frequencies.iter().map(move |frequency| at as f32 * frequency)).collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().copied().map(f).collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// Rotates the first dimensions of each head of `[B, T, heads, width]`, pairing dimension i with i + dims / 2
    /// (`rotate_half`; the interleaved pairing of the paper is a different model).
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = self.cos.dims()[3];
        let width = x.dims()[3];
        let (a, b) = (x.clone().narrow(3, 0, half), x.clone().narrow(3, half, half));
        let mut parts = vec![
            a.clone() * self.cos.clone() - b.clone() * self.sin.clone(),
            b * self.cos.clone() + a * self.sin.clone(),
        ];
        if width > 2 * half {
            parts.push(x.narrow(3, 2 * half, width - 2 * half));
        }
        Tensor::cat(parts, 3)
    }
}

impl Norm {
    fn forward<const D: usize>(&self, x: Tensor<D>, eps: f64) -> Tensor<D> {
        match &self.beta {
            Some(beta) => ops::layer_norm(x, self.gamma.val(), beta.val(), eps),
            None => ops::rms_norm(x, self.gamma.val(), eps),
        }
    }
}

impl Block {
    fn forward(&self, x: Tensor<3>, plan: &Plan, spec: &Spec) -> Tensor<3> {
        let attention = |x| self.attention.forward(x, plan, spec);
        let mlp = |x| self.mlp.forward(x, spec);
        let norm = |norm: &Norm, x| norm.forward(x, spec.norm_eps);
        match spec.residual {
            Residual::Pre => {
                let x = plan.select(x.clone()) + attention(norm(&self.attention_norm, x));
                x.clone() + mlp(norm(&self.mlp_norm, x))
            }
            Residual::Parallel => {
                let rows = plan.select(x.clone());
                rows.clone() + attention(norm(&self.attention_norm, x)) + mlp(norm(&self.mlp_norm, rows))
            }
            Residual::Post => {
                let x = norm(&self.attention_norm, plan.select(x.clone()) + attention(x));
                norm(&self.mlp_norm, x.clone() + mlp(x))
            }
        }
    }
}

impl Attention {
    /// `[B, T, H]` to `[B, rows, H]`.
    fn forward(&self, x: Tensor<3>, plan: &Plan, spec: &Spec) -> Tensor<3> {
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let (query, key, value) = match self.qkv.as_slice() {
            [query, key, value] => (query.forward(plan.select(x.clone())), key.forward(x.clone()), value.forward(x)),
            fused => {
                let all = fused[0].forward(x);
                let part = |start, width| all.clone().narrow(2, start, width);
                (plan.select(part(0, queries)), part(queries, keys), part(queries + keys, keys))
            }
        };
        let (query, key) = match &plan.rotary {
            None => (query, key),
            Some((key_rotary, query_rotary)) => (
                per_head(query, spec.heads, |x| query_rotary.rotate(normed(&self.query_norm, x, spec))),
                per_head(key, spec.kv_heads, |x| key_rotary.rotate(normed(&self.key_norm, x, spec))),
            ),
        };
        let [batch, rows, width] = query.dims();
        let seen = ops::attention(packed(query), packed(key), packed(value), &plan.how);
        self.output.forward(seen.reshape([batch, rows, width]))
    }
}

/// `[B, T, H]` to `[B * T, H]`.
fn packed(x: Tensor<3>) -> Tensor<2> {
    let [batch, time, width] = x.dims();
    x.reshape([batch * time, width])
}

fn normed(norm: &Option<Norm>, x: Tensor<4>, spec: &Spec) -> Tensor<4> {
    match norm {
        Some(norm) => norm.forward(x, spec.norm_eps),
        None => x,
    }
}

/// Applies `f` to `[B, T, heads, width]`, given and returned as `[B, T, heads * width]`.
fn per_head(x: Tensor<3>, heads: usize, f: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<3> {
    let [batch, time, width] = x.dims();
    f(x.reshape([batch, time, heads, width / heads])).reshape([batch, time, width])
}

impl Mlp {
    fn forward(&self, x: Tensor<3>, spec: &Spec) -> Tensor<3> {
        let activate = |x| match spec.activation {
            Activation::GeluTanh => ops::gelu_tanh(x),
            Activation::GeluErf => ops::gelu_erf(x),
            Activation::Silu => ops::silu(x),
            Activation::Relu => relu(x),
        };
        let inner = match self.input.as_slice() {
            [gate, value] => activate(gate.forward(x.clone())) * value.forward(x),
            only => activate(only[0].forward(x)),
        };
        self.output.forward(inner)
    }
}

/// Makes parameters, none of them lazy: the order of first use must not matter.
struct Maker<'a> {
    device: &'a Device,
    values: &'a mut dyn FnMut(&str, &[usize]) -> Result<Option<Vec<f32>>>,
}

impl Maker<'_> {
    fn param<const D: usize>(&mut self, path: &str, shape: [usize; D]) -> Result<Param<Tensor<D>>> {
        Ok(match (self.values)(path, &shape)? {
            Some(values) => Param::from_data(TensorData::new(values, shape), self.device),
            None => {
                let init = move |device: &Device, _: bool| Tensor::zeros(shape, device);
                Param::uninitialized(ParamId::new(), init, self.device.clone(), true, Shape::new(shape))
            }
        })
    }

    fn embedding(&mut self, path: &str, rows: usize, width: usize) -> Result<Embedding> {
        Ok(Embedding { weight: self.param(&format!("{path}.weight"), [rows, width])? })
    }

    fn linear(&mut self, path: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear> {
        let weight = self.param(&format!("{path}.weight"), [inputs, outputs])?;
        let bias = if bias { Some(self.param(&format!("{path}.bias"), [outputs])?) } else { None };
        Ok(Linear { weight, bias })
    }

    fn norm(&mut self, path: &str, width: usize, rms: bool) -> Result<Norm> {
        let gamma = self.param(&format!("{path}.gamma"), [width])?;
        let beta = if rms { None } else { Some(self.param(&format!("{path}.beta"), [width])?) };
        Ok(Norm { gamma, beta })
    }
}
