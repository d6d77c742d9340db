//! How many numbers a model's parameters are, and how many a pass through it keeps, from its shape alone.
//!
//! What is counted here is what the fused operations of [`ops`](crate::ops) keep for their way back. Other devices, and attention by relative
//! distances (DeBERTa), keep more.

use std::ops::Add;

use super::{
    Transformer, arch,
    lora::{self, Lora},
    spec::{LmHead, Positions, Residual, Spec},
    transformer::is_matrix,
};
use crate::Result;

/// What of a model is trained, beside the head of a classifier.
#[derive(Clone, Debug, PartialEq)]
pub enum Learns {
    /// All weights.
    All,
    /// Adapters on its linear layers.
    Adapters(Lora),
    /// Nothing.
    Nothing,
}

/// Numbers of a pass, for each token that goes in and for each that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// For each token that goes in.
    pub every: u64,
    /// For each token that is asked for.
    pub asked: u64,
}

impl Numbers {
    /// Those of so many tokens.
    pub fn of(self, every: u64, asked: u64) -> u64 {
        self.every * every + self.asked * asked
    }
}

impl Add for Numbers {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { every: self.every + other.every, asked: self.asked + other.asked }
    }
}

/// How many numbers a model is, and how many a pass keeps of its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    /// All parameters, adapters among them.
    pub parameters: u64,
    /// The gradients and parameters of what is trained: of the embeddings, each block, and what follows the blocks.
    pub trained: Trained,
    /// The same of the matrices that a [`Precision`](super::Precision) is of, trained or not.
    pub matrices: Trained,
    /// The matrix of the language-model head; 0 where there is none.
    pub lm_head: u64,
    /// Whether that is the table of embeddings.
    pub tied: bool,
    /// What is kept of each block for the way back.
    pub blocks: Vec<Numbers>,
    /// The same of a pass that asks for some tokens alone: of its last block.
    pub last: Numbers,
    /// What the embeddings keep beside the first block's input.
    pub embeddings: Numbers,
    /// What is there for a moment while a block is computed, beside what is kept of it.
    pub forward: u64,
    /// The same on the way back through it.
    pub backward: u64,
    /// The same on the way back through a last block that is asked for some tokens alone: the slopes of keys and values.
    pub backward_last: u64,
    /// Width of the hidden states.
    pub hidden: u64,
    /// The largest parameter.
    pub largest: u64,
    /// What factored second moments are (Adafactor).
    pub factored: u64,
    /// The numbers of each parameter that is trained.
    pub learnt: Vec<u64>,
}

/// How many parameters are trained, or are of a kind, by where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trained {
    /// Tables and the norm after them.
    pub embeddings: u64,
    /// Each block.
    pub blocks: Vec<u64>,
    /// The last norm and a language-model head of its own.
    pub top: u64,
}

impl Trained {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.embeddings + self.blocks.iter().sum::<u64>() + self.top
    }
}

/// Which of a block's linear layers keep what they read, for a gradient of their weight or of an adapter.
#[derive(Clone, Copy)]
struct Keeps {
    qkv: bool,
    output: bool,
    input: bool,
    inner: bool,
}

impl Footprint {
    /// That of a model of which this is trained.
    ///
    /// # Errors
    /// Adapters that do not fit the model.
    pub fn new(spec: &Spec, learns: &Learns) -> Result<Self> {
        let all = Transformer::parameters(spec)?;
        let entries = arch::find(spec.architecture)?.entries(spec.layers, false);
        let adapters = match learns {
            Learns::Adapters(lora) => Some(lora.on(spec)?),
            Learns::All | Learns::Nothing => None,
        };
        let adapted = |path: &str| {
            let module = entries.get(path).map_or("", |entry| entry.module());
            adapters.as_ref().filter(|lora| lora.targets.iter().any(|target| lora::fits(module, target)))
        };
        let mut trained = Trained { blocks: vec![0; spec.layers], ..Trained::default() };
        let mut matrices = trained.clone();
        let (mut parameters, mut largest, mut factored, mut ranks) = (0, 0, 0, vec![0; spec.layers]);
        let mut learnt = Vec::new();
        for (path, shape) in &all {
            let count: u64 = shape.iter().map(|n| *n as u64).product();
            parameters += count;
            largest = count.max(largest);
            let layer = path.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            let before = learnt.len();
            match (learns, adapted(path), shape.as_slice()) {
                (Learns::All, _, [rows, columns]) => {
                    learnt.push(count);
                    factored += (rows + columns) as u64;
                }
                (Learns::All, ..) => {
                    learnt.push(count);
                    factored += count;
                }
                (Learns::Adapters(_), Some(lora), [inputs, outputs]) => {
                    let (rank, sides) = (lora.rank as u64, [inputs, outputs].map(|side| *side as u64));
                    learnt.extend(sides.map(|side| rank * side));
                    factored += sides.iter().map(|side| side + rank).sum::<u64>();
                    parameters += learnt[before..].iter().sum::<u64>();
                    layer.iter().for_each(|layer| ranks[*layer] += rank);
                }
                _ => {}
            }
            let of_path = learnt[before..].iter().sum();
            for (kind, count) in [(&mut trained, of_path), (&mut matrices, if is_matrix(path) { count } else { 0 })] {
                match layer {
                    Some(layer) => kind.blocks[layer] += count,
                    None if path.starts_with("final_norm") || path.starts_with("lm_head") => kind.top += count,
                    None => kind.embeddings += count,
                }
            }
        }
        let lm_head = if spec.lm_head == LmHead::Absent { 0 } else { (spec.vocab * spec.hidden) as u64 };
        let keeps = |layer: usize| {
            let any = |part: &str| {
                let path = format!("blocks.{layer}.{part}.weight");
                *learns == Learns::All || adapted(&path).is_some()
            };
            let either = |part: &str| any(&format!("{part}.0")) || any(&format!("{part}.1"));
            Keeps {
                qkv: either("attention.qkv") || any("attention.qkv.2"),
                output: any("attention.output"),
                input: either("mlp.input"),
                inner: any("mlp.output"),
            }
        };
        let mut tracked = *learns == Learns::All;
        let mut blocks = Vec::with_capacity(spec.layers);
        let mut last = Numbers::default();
        for (layer, rank) in ranks.iter().enumerate() {
            let keeps = keeps(layer);
            let [every, asked] = kept(spec, keeps, tracked, layer);
            let whole = every + asked + rank;
            blocks.push(Numbers { every: whole, asked: 0 });
            last = Numbers { every, asked: asked + rank };
            tracked |= keeps.qkv || keeps.output || keeps.input || keeps.inner;
        }
        let [hidden, inner] = [spec.hidden, spec.inner].map(|n| n as u64);
        let (queries, keys) = widths(spec);
        let heads = queries + 2 * keys;
        let gates = if spec.gated { 3 } else { 2 };
        Ok(Self {
            parameters,
            trained,
            matrices,
            lm_head,
            tied: spec.lm_head == LmHead::Tied,
            blocks,
            last,
            embeddings: match *learns == Learns::All && (spec.residual == Residual::Post || spec.extras.embedding_norm)
            {
                true => Numbers { every: hidden + 2, asked: 0 },
                false => Numbers::default(),
            },
            forward: 2 * hidden + (gates * inner).max(2 * heads),
            // What is read by a weight and by an adapter has a gradient from each.
            backward: 2 * hidden
                + (if spec.gated || adapters.is_some() { 2 * inner } else { inner }).max(heads + queries),
            backward_last: hidden + 4 * keys,
            hidden,
            largest,
            factored,
            learnt,
        })
    }
}

/// Widths of queries, and of keys and values each.
fn widths(spec: &Spec) -> (u64, u64) {
    ((spec.heads * spec.head_dim) as u64, (spec.kv_heads * spec.head_dim) as u64)
}

/// Numbers that a block keeps for its way back: for each token that it reads, and for each that it is asked for, where these are not all.
/// `tracked` is whether what it reads has a gradient.
fn kept(spec: &Spec, keeps: Keeps, tracked: bool, layer: usize) -> [u64; 2] {
    let [hidden, inner] = [spec.hidden, spec.inner].map(|n| n as u64);
    let (queries, keys) = widths(spec);
    // Mean and spread of each row.
    let moments = 2;
    let when = |condition: bool, count: u64| if condition { count } else { 0 };
    let norm = |tracked: bool| when(tracked, hidden + moments);
    let seen = tracked || keeps.qkv;
    let after = seen || keeps.output;
    let normed = !(layer == 0 && spec.extras.embedding_norm);
    // Norms of each head keep what they read, beside what is rotated.
    let per_head = when(spec.qk_norm && seen && matches!(spec.positions, Positions::Rotary { .. }), queries);
    let per_key = when(per_head > 0, keys);
    let mut every = when(seen, 2 * keys) + per_key + when(keeps.qkv, hidden);
    let mut asked = when(seen, queries) + per_head + when(keeps.output, queries);
    match spec.residual {
        Residual::Pre | Residual::Parallel => {
            every += when(normed, norm(tracked));
            asked += match spec.residual {
                // Both branches read the same.
                Residual::Parallel => when(tracked, moments),
                _ => norm(after),
            };
        }
        // What it reads is what its queries, keys and values keep.
        Residual::Post => asked += norm(after) + norm(after || keeps.input || keeps.inner),
        Residual::Sandwich => {
            every += norm(tracked);
            asked += norm(after) + norm(after) + norm(after || keeps.input || keeps.inner);
        }
    }
    let inside = after || keeps.input;
    let fused = super::lora::fused(spec.activation);
    let silu = fused == Some(crate::ops::Activation::Silu);
    asked += when(keeps.input, hidden);
    asked += match (spec.gated, silu) {
        // Gate and value.
        (true, true) => when(inside, 2 * inner),
        // What the activation read and gave, and the value.
        (true, false) => when(inside, 3 * inner),
        (false, _) => when(inside, inner),
    };
    asked += when(keeps.inner, inner);
    [every, asked]
}
