//! Times training steps and inference of three transformers; `compare.py` runs PyTorch on the same shapes beside it.
//!
//! `w2s-bench SHAPE PHASE STEPS` prints one line per timed step: milliseconds. Shapes and phases are those of `SHAPES` below.
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use w2s_core::ops::{self, Activation, Attention, Span};

#[derive(Module, Debug)]
struct Block {
    norm_1: [Param<Tensor<1>>; 2],
    qkv: Param<Tensor<2>>,
    qkv_bias: Param<Tensor<1>>,
    out: Param<Tensor<2>>,
    out_bias: Param<Tensor<1>>,
    norm_2: [Param<Tensor<1>>; 2],
    up: Param<Tensor<2>>,
    up_bias: Param<Tensor<1>>,
    down: Param<Tensor<2>>,
    down_bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Gpt {
    tokens: Param<Tensor<2>>,
    positions: Param<Tensor<2>>,
    blocks: Vec<Block>,
    norm: [Param<Tensor<1>>; 2],
    head: Param<Tensor<2>>,
    heads: usize,
}

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32) / (1 << 24) as f32
    }
}

impl Gpt {
    fn new(vocab: usize, d: usize, layers: usize, heads: usize, positions: usize, device: &Device) -> Self {
        let mut rng = Rng(1);
        let mut matrix = |r: usize, c: usize| {
            let x: Vec<f32> = (0..r * c).map(|_| (rng.next() - 0.5) * 0.08).collect();
            Param::from_tensor(Tensor::<1>::from_floats(x.as_slice(), device).reshape([r, c]))
        };
        let ones = |n| Param::from_tensor(Tensor::<1>::ones([n], device));
        let zeros = |n| Param::from_tensor(Tensor::<1>::zeros([n], device));
        let blocks = (0..layers)
            .map(|_| Block {
                norm_1: [ones(d), zeros(d)],
                qkv: matrix(d, 3 * d),
                qkv_bias: zeros(3 * d),
                out: matrix(d, d),
                out_bias: zeros(d),
                norm_2: [ones(d), zeros(d)],
                up: matrix(d, 4 * d),
                up_bias: zeros(4 * d),
                down: matrix(4 * d, d),
                down_bias: zeros(d),
            })
            .collect();
        Self {
            tokens: matrix(vocab, d),
            positions: matrix(positions, d),
            blocks,
            norm: [ones(d), zeros(d)],
            head: matrix(d, 2),
            heads,
        }
    }

    fn rows(&self, ids: &[u32], lengths: &[usize], causal: bool) -> Tensor<2> {
        let positions: Vec<u32> = lengths.iter().flat_map(|&n| 0..n as u32).collect();
        let mut x = ops::lookup(self.tokens.val(), ids) + ops::lookup(self.positions.val(), &positions);
        let mut at = 0;
        let spans: Vec<Span> = lengths
            .iter()
            .map(|&n| {
                at += n;
                Span { queries: at - n..at, keys: at - n..at }
            })
            .collect();
        let d = x.dims()[1];
        let how = Attention {
            heads: self.heads,
            kv_heads: self.heads,
            scale: 1.0 / ((d / self.heads) as f64).sqrt(),
            causal,
            spans,
        };
        let norm = |x: Tensor<2>, n: &[Param<Tensor<1>>; 2]| ops::layer_norm(x, n[0].val(), n[1].val(), 1e-5);
        for b in &self.blocks {
            let y = ops::linear(norm(x.clone(), &b.norm_1), b.qkv.val(), Some(b.qkv_bias.val()));
            let y = ops::self_attention(y, &how);
            x = ops::linear_residual(y, b.out.val(), Some(b.out_bias.val()), x);
            let y = ops::linear_then(
                norm(x.clone(), &b.norm_2),
                b.up.val(),
                Some(b.up_bias.val()),
                Some(Activation::GeluTanh),
            );
            x = ops::linear_residual(y, b.down.val(), Some(b.down_bias.val()), x);
        }
        norm(x, &self.norm)
    }

    fn lm_loss(&self, ids: &[u32], targets: &[u32], lengths: &[usize]) -> Tensor<1> {
        let x = self.rows(ids, lengths, true);
        ops::cross_entropy(ops::linear_tied(x, self.tokens.val()), targets).mean()
    }

    fn logits(&self, ids: &[u32], lengths: &[usize]) -> Tensor<2> {
        let x = self.rows(ids, lengths, true);
        let mut at = 0;
        let last: Vec<u32> = lengths
            .iter()
            .map(|n| {
                at += n;
                at as u32 - 1
            })
            .collect();
        ops::linear(ops::lookup(x, &last), self.head.val(), None)
    }
}

/// vocab, width, layers, heads, batch, shortest and longest sequence, language model
type Shape = (&'static str, usize, usize, usize, usize, usize, usize, usize, bool);

const SHAPES: &[Shape] = &[
    ("world", 700, 128, 2, 4, 32, 12, 32, true),
    ("world-classify", 700, 128, 2, 4, 32, 12, 32, false),
    ("minilm-128", 30522, 384, 6, 12, 32, 128, 128, false),
    ("minilm-sst2", 30522, 384, 6, 12, 32, 8, 40, false),
    ("gpt2", 50257, 768, 12, 12, 4, 64, 64, true),
];

/// Processor time of this process so far, all threads.
fn cpu_ms() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

fn main() {
    w2s_core::alloc::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().collect();
    let (name, phase, steps) = (&arguments[1], arguments[2].as_str(), arguments[3].parse::<usize>().unwrap_or(10));
    let &(_, vocab, d, layers, heads, batch, short, long, lm) =
        SHAPES.iter().find(|shape| shape.0 == name).unwrap_or(&SHAPES[0]);
    // The first thread takes part in the pool, so that a step on one thread never waits for another.
    if let Err(error) = rayon::ThreadPoolBuilder::new().use_current_thread().build_global() {
        eprintln!("{error}");
    }
    run(phase, steps, vocab, d, layers, heads, batch, short, long, lm);
}

#[allow(clippy::too_many_arguments)]
fn run(
    phase: &str,
    steps: usize,
    vocab: usize,
    d: usize,
    layers: usize,
    heads: usize,
    batch: usize,
    short: usize,
    long: usize,
    lm: bool,
) {
    let device = Device::flex();
    let train = phase == "train";
    let mut model = Gpt::new(vocab, d, layers, heads, long, &if train { device.clone().autodiff() } else { device });
    let mut optimizer = ModuleOptimizer::from(ops::Adam { decoupled: true, weight_decay: 0.01, ..Default::default() });
    let mut rng = Rng(2);
    for step in 0..steps + 3 {
        let lengths: Vec<usize> = (0..batch)
            .map(|_| short + (rng.next() * (long - short + 1) as f32) as usize)
            .map(|n| n.min(long))
            .collect();
        let total: usize = lengths.iter().sum();
        let ids: Vec<u32> = (0..total).map(|_| (rng.next() * vocab as f32) as u32).collect();
        let targets: Vec<u32> = (0..total).map(|_| (rng.next() * vocab as f32) as u32).collect();
        let (start, start_cpu) = (Instant::now(), cpu_ms());
        if train {
            let loss = if lm {
                model.lm_loss(&ids, &targets, &lengths)
            } else {
                let targets: Vec<u32> = targets[..batch].iter().map(|t| t % 2).collect();
                ops::cross_entropy(model.logits(&ids, &lengths), &targets).mean()
            };
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(1e-4, model, grads);
        } else if lm {
            let x = model.rows(&ids, &lengths, true);
            std::hint::black_box(ops::linear_tied(x, model.tokens.val()));
        } else {
            std::hint::black_box(model.logits(&ids, &lengths));
        }
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if step >= 3 {
            println!("{ms:.3} {:.3} {total}", cpu_ms() - start_cpu);
        }
    }
}
