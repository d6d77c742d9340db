//! What a loss on answer tokens costs over a large vocabulary: from hidden states to their gradients and those of the language-model head.
//!
//! `w2s-bench-words VOCABULARY HIDDEN TOKENS parts|whole LOSS`: with `parts` as training does it, with `whole` by the logits of all tokens at once
//! (cross-entropy alone, whatever LOSS is). Prints milliseconds and peak resident megabytes, the head and its gradient among them.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;
use w2s_benches::peak_mb;
use w2s_core::ops::{self, Head};
use w2s_core::rng::Rng;
use w2s_core::strategy::{ConfiguredLoss, Progress, TokenView};
use w2s_strategies as _;

fn main() -> Result<(), Box<dyn Error>> {
    w2s_core::alloc::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vocabulary, width, tokens, how, loss] = arguments.as_slice() else {
        return Err("usage: w2s-bench-words VOCABULARY HIDDEN TOKENS parts|whole LOSS".into());
    };
    let (vocabulary, width, tokens) = (vocabulary.parse::<usize>()?, width.parse::<usize>()?, tokens.parse::<usize>()?);
    let loss: Box<dyn ConfiguredLoss> = serde_json::from_value(json!({ "type": loss }))?;
    let mut rng = Rng::named(1, "bench");
    let mut tensor = |rows: usize, columns: usize, std: f64| {
        let values: Vec<f32> = (0..rows * columns).map(|_| (rng.normal() * std) as f32).collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
    };
    let (hidden, weight) = (tensor(tokens, width, 1.0), tensor(vocabulary, width, 0.02));
    let labels: Vec<u32> = (0..tokens).map(|_| rng.below(vocabulary) as u32).collect();
    let before = peak_mb();
    let start = Instant::now();
    let (value, sum) = match how.as_str() {
        "parts" => {
            let head = Head { weight, transposed: true, cap: None };
            let numbers = ops::token_statistics(hidden.clone(), &head, &labels);
            let live = Tensor::from_inner(numbers.clone()).require_grad();
            let at = Progress { step: 1, total_steps: 2, epoch: 0, epochs: 1 };
            let losses =
                loss.tokens(&TokenView::new(live.clone(), vocabulary), &at).ok_or("this loss is not for words")?;
            let value = losses.mean();
            let slopes = live.grad(&value.backward()).ok_or("the loss has no gradient")?;
            let (of_hidden, of_head) = ops::token_gradients(hidden, &head, &labels, numbers, slopes, true);
            (value.inner(), of_head.ok_or("the head has no gradient")?.sum() + of_hidden.sum())
        }
        _ => {
            let hidden = Tensor::from_inner(hidden).require_grad();
            let weight = Tensor::from_inner(weight).require_grad();
            let value = ops::cross_entropy(ops::linear_tied(hidden.clone(), weight.clone()), &labels).mean();
            let grads = value.backward();
            let of_hidden = hidden.grad(&grads).ok_or("the hidden states have no gradient")?;
            (value.inner(), weight.grad(&grads).ok_or("the head has no gradient")?.sum() + of_hidden.sum())
        }
    };
    let (value, sum) = (value.into_scalar::<f32>(), sum.into_scalar::<f32>());
    let ms = start.elapsed().as_secs_f64() * 1e3;
    println!("{ms:.0} ms, peak {} MB, {before} of them before; loss {value}, sum of gradients {sum}", peak_mb());
    Ok(())
}
