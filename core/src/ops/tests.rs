//! Every fused operation against the same one composed from Burn's, and against itself on other numbers of threads.

use burn::optim::{AdaptiveMomentumState, Optimizer};
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor, TensorData};
use serde_json::Value;

use super::adam8::{BLOCK, Coded, Map, Moments, SIGNED, UNSIGNED, decode, encode, step_in_parts};
use super::kernel::{fusable, split_rows};
use super::*;

/// Numbers between -1 and 1 that a seed decides.
fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn matrix(seed: u32, rows: usize, columns: usize, scale: f32) -> (Vec<f32>, [usize; 2]) {
    (noise(seed, rows * columns).into_iter().map(|x| x * scale).collect(), [rows, columns])
}

type Matrices = Vec<(Vec<f32>, [usize; 2])>;

/// The result of `f`, and the gradients of a weighted sum of it.
fn result_and_gradients(inputs: &Matrices, f: &dyn Fn(&[Tensor<2>]) -> Tensor<2>) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let tensors: Vec<Tensor<2>> = inputs
        .iter()
        .map(|(values, shape)| Tensor::<1>::from_floats(values.as_slice(), &device).reshape(*shape).require_grad())
        .collect();
    let output = f(&tensors);
    let [rows, columns] = output.dims();
    let weights = Tensor::<1>::from_floats(noise(77, rows * columns).as_slice(), &device).reshape([rows, columns]);
    let grads = (output.clone() * weights).sum().backward();
    let vector = |x: Tensor<2>| x.into_data().try_to_vec::<f32>().unwrap();
    let gradients = tensors.iter().map(|x| x.grad(&grads).map(vector).unwrap_or_default());
    let gradients: Vec<_> = gradients.collect();
    std::iter::once(vector(output)).chain(gradients).collect()
}

#[track_caller]
fn assert_close(what: &str, left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len(), "{what}: lengths");
    for (i, (a, b)) in left.iter().zip(right).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}: element {i} is {a} instead of {b}");
    }
}

/// Checks a fused operation: forward within 1e-6 and gradients within 1e-5 of the composed one, the same without automatic
/// differentiation, and the same bits on 1, 2 and 5 threads.
#[track_caller]
fn check(
    inputs: Matrices,
    fused: impl Fn(&[Tensor<2>]) -> Tensor<2> + Sync,
    composed: impl Fn(&[Tensor<2>]) -> Tensor<2>,
) {
    let right = result_and_gradients(&inputs, &composed);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| result_and_gradients(&inputs, &fused))
    };
    let one = on(1);
    assert_close("result", &one[0], &right[0], 1e-6);
    for (i, (one, right)) in one.iter().zip(&right).enumerate().skip(1) {
        assert_close(&format!("gradient of input {i}"), one, right, 1e-5);
    }
    for threads in [2, 5] {
        let many = on(threads);
        let same = one.iter().flatten().zip(many.iter().flatten()).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{threads} threads give other bits than 1");
    }
    let device = Device::flex();
    let tensors: Vec<Tensor<2>> =
        inputs.iter().map(|(x, shape)| Tensor::<1>::from_floats(x.as_slice(), &device).reshape(*shape)).collect();
    assert_eq!(fused(&tensors).into_data().try_to_vec::<f32>().unwrap(), one[0]);
}

fn vector(x: &Tensor<2>) -> Tensor<1> {
    let [rows, columns] = x.dims();
    x.clone().reshape([rows * columns])
}

#[test]
fn activations_match() {
    for (rows, columns) in [(3, 5), (200, 513)] {
        let input = vec![matrix(1, rows, columns, 6.0)];
        for f in [Activation::GeluTanh, Activation::GeluErf, Activation::Silu] {
            check(input.clone(), |x| activate(f, x[0].clone()), |x| composed::activate(f, x[0].clone()));
        }
        let inputs = vec![matrix(2, rows, columns, 6.0), matrix(3, rows, columns, 1.0)];
        check(inputs, |x| gated_silu(x[0].clone(), x[1].clone()), |x| composed::gated_silu(x[0].clone(), x[1].clone()));
        let capped = vec![matrix(1, rows, columns, 9.0)];
        check(capped, |x| soft_cap(x[0].clone(), 3.0), |x| composed::soft_cap(x[0].clone(), 3.0));
    }
}

#[test]
fn activations_keep_their_limits() {
    let x = Tensor::<1>::from_floats([-200.0, -10.0, 0.0, 10.0, 200.0, f32::NAN], &Device::flex());
    for f in [gelu_tanh, gelu_erf, silu] {
        let y = f(x.clone()).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(y[0], 0.0);
        assert!(y[1].abs() < 5e-4 && y[2] == 0.0 && (y[3] - 10.0).abs() < 5e-4);
        assert_eq!(y[4], 200.0);
        assert!(y[5].is_nan());
    }
}

#[test]
fn softmax_matches() {
    for (rows, columns) in [(1, 1), (7, 20), (300, 257)] {
        check(
            vec![matrix(4, rows, columns, 8.0)],
            |x| softmax_last(x[0].clone()),
            |x| composed::softmax_last(x[0].clone()),
        );
    }
}

#[test]
fn softmax_of_masked_rows_is_what_the_documentation_says() {
    let low = f32::NEG_INFINITY;
    let x = Tensor::<2>::from_floats([[0.0, low, 0.0], [low, low, low]], &Device::flex());
    let y = softmax_last(x).into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(y[..3], [0.5, 0.0, 0.5]);
    assert!(y[3..].iter().all(|x| x.is_nan()));
}

#[test]
fn norms_match() {
    for (rows, columns) in [(2, 3), (300, 129), (130, 768)] {
        let inputs = vec![matrix(5, rows, columns, 3.0), matrix(6, 1, columns, 1.0), matrix(7, 1, columns, 1.0)];
        check(
            inputs.clone(),
            |x| layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-5),
            |x| composed::layer_norm(x[0].clone(), vector(&x[1]), vector(&x[2]), 1e-5),
        );
        check(
            inputs[..2].to_vec(),
            |x| rms_norm(x[0].clone(), vector(&x[1]), 1e-6),
            |x| composed::rms_norm(x[0].clone(), vector(&x[1]), 1e-6),
        );
    }
}

#[test]
fn linear_layers_match() {
    for (rows, inside, out) in [(1, 3, 2), (37, 24, 50), (300, 128, 96)] {
        let scale = 1.0 / (inside as f32).sqrt();
        let x = matrix(8, rows, inside, 1.0);
        let weight = matrix(9, inside, out, scale);
        let (bias, residual) = (matrix(10, 1, out, 1.0), matrix(11, rows, out, 1.0));
        let inputs = vec![x.clone(), weight.clone(), bias.clone()];
        check(
            inputs.clone(),
            |x| linear(x[0].clone(), x[1].clone(), Some(vector(&x[2]))),
            |x| composed::linear(x[0].clone(), x[1].clone(), Some(vector(&x[2]))),
        );
        for f in [Activation::GeluTanh, Activation::GeluErf, Activation::Silu] {
            check(
                inputs.clone(),
                |x| linear_then(x[0].clone(), x[1].clone(), Some(vector(&x[2])), Some(f)),
                |x| composed::activate(f, composed::linear(x[0].clone(), x[1].clone(), Some(vector(&x[2])))),
            );
        }
        check(
            vec![x.clone(), weight.clone(), bias, residual.clone()],
            |x| linear_residual(x[0].clone(), x[1].clone(), Some(vector(&x[2])), x[3].clone()),
            |x| composed::linear(x[0].clone(), x[1].clone(), Some(vector(&x[2]))) + x[3].clone(),
        );
        check(
            vec![x.clone(), weight.clone(), residual],
            |x| linear_residual(x[0].clone(), x[1].clone(), None, x[2].clone()),
            |x| composed::linear(x[0].clone(), x[1].clone(), None) + x[2].clone(),
        );
        check(
            vec![x.clone(), weight],
            |x| linear(x[0].clone(), x[1].clone(), None),
            |x| composed::linear(x[0].clone(), x[1].clone(), None),
        );
        check(
            vec![x, matrix(12, out, inside, scale)],
            |x| linear_tied(x[0].clone(), x[1].clone()),
            |x| composed::linear(x[0].clone(), x[1].clone().transpose(), None),
        );
    }
}

#[test]
fn frozen_weights_get_no_gradient_and_inputs_still_do() {
    let device = Device::flex().autodiff();
    let x = Tensor::<1>::from_floats(noise(1, 12).as_slice(), &device).reshape([4, 3]).require_grad();
    let weight = Tensor::<1>::from_floats(noise(2, 6).as_slice(), &device).reshape([3, 2]);
    // A tensor of the plain device is a constant.
    let bias = Tensor::<1>::from_floats(noise(3, 2).as_slice(), &Device::flex());
    let grads = linear(x.clone(), weight.clone(), Some(bias)).sum().backward();
    assert!(weight.grad(&grads).is_none());
    let rows: Vec<f32> = weight.sum_dim(1).into_data().try_to_vec().unwrap();
    assert_close("gradient", &x.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap(), &rows.repeat(4), 1e-6);
}

#[test]
fn a_node_with_two_users_gets_both_gradients() {
    // The gradient of `x` is shared by the two branches when the fused step overwrites its own.
    let input = vec![matrix(13, 40, 24, 1.0), matrix(14, 24, 24, 0.2)];
    let f = |silu: fn(Tensor<2>) -> Tensor<2>, x: &[Tensor<2>]| {
        let y = silu(x[0].clone());
        let z = silu(y.clone().matmul(x[1].clone()));
        y + z.clone() + silu(z)
    };
    check(input, |x| f(silu, x), |x| f(composed::silu, x));
}

/// Spans of packed rows: `lengths` one after the other, with `gap` rows of nobody between them.
fn spans(lengths: &[usize], gap: usize) -> (Vec<Span>, usize) {
    let mut at = 0;
    let mut spans = Vec::new();
    for &length in lengths {
        spans.push(Span::ending(at..at + length, at..at + length));
        at += length + gap;
    }
    (spans, at)
}

#[test]
fn attention_matches() {
    // (heads, kv heads, head width): even and odd widths, shared heads.
    for (heads, kv_heads, width) in [(4, 4, 32), (2, 1, 5), (6, 2, 16)] {
        for (lengths, gap) in [(vec![1], 0), (vec![3, 40, 17], 0), (vec![70, 5], 2)] {
            for causal in [false, true] {
                let (spans, rows) = spans(&lengths, gap);
                let how = Attention::plain(heads, kv_heads, 1.0 / (width as f64).sqrt(), causal, spans);
                let (q, kv) = (heads * width, kv_heads * width);
                let inputs = vec![matrix(15, rows, q, 2.0), matrix(16, rows, kv, 2.0), matrix(17, rows, kv, 1.0)];
                let composed = |x: &[Tensor<2>]| composed::attention(x[0].clone(), x[1].clone(), x[2].clone(), &how);
                check(inputs, |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), &how), composed);
                check(
                    vec![matrix(18, rows, q + 2 * kv, 2.0)],
                    |x| self_attention(x[0].clone(), &how),
                    |x| {
                        let part = |start, len| x[0].clone().narrow(1, start, len);
                        composed(&[part(0, q), part(q, kv), part(q + kv, kv)])
                    },
                );
            }
        }
    }
}

#[test]
fn attention_with_fewer_queries_than_keys_matches() {
    for causal in [false, true] {
        let spans = vec![Span::ending(0..1, 2..9), Span::ending(1..4, 9..30)];
        let how = Attention::plain(3, 3, 0.3, causal, spans);
        check(
            vec![matrix(19, 5, 24, 2.0), matrix(20, 33, 24, 2.0), matrix(21, 33, 24, 1.0)],
            |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), &how),
            |x| composed::attention(x[0].clone(), x[1].clone(), x[2].clone(), &how),
        );
    }
}

#[test]
fn attention_within_a_window_and_with_a_cap_matches() {
    for causal in [false, true] {
        for (window, cap) in [(Some(1), None), (Some(7), None), (None, Some(1.5)), (Some(30), Some(0.5))] {
            let (spans, rows) = spans(&[3, 70, 17], 1);
            let how = Attention { window, cap, ..Attention::plain(4, 2, 0.3, causal, spans) };
            let inputs = vec![matrix(15, rows, 32, 2.0), matrix(16, rows, 16, 2.0), matrix(17, rows, 16, 1.0)];
            let composed = |x: &[Tensor<2>]| composed::attention(x[0].clone(), x[1].clone(), x[2].clone(), &how);
            check(inputs, |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), &how), composed);
        }
        // One query in the midst of its keys, and two at the end of them.
        let first = Span { first: 4, ..Span::ending(0..1, 2..9) };
        let how = Attention {
            window: Some(3),
            ..Attention::plain(3, 3, 0.3, causal, vec![first, Span::ending(1..3, 9..30)])
        };
        check(
            vec![matrix(19, 3, 24, 2.0), matrix(20, 33, 24, 2.0), matrix(21, 33, 24, 1.0)],
            |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), &how),
            |x| composed::attention(x[0].clone(), x[1].clone(), x[2].clone(), &how),
        );
    }
    let how = Attention { window: Some(2), ..Attention::plain(1, 1, 1.0, false, Vec::new()) };
    let seen =
        |how: &Attention, span: &Span| (0..span.queries.len()).map(|row| how.visible(span, row)).collect::<Vec<_>>();
    assert_eq!(seen(&how, &Span::ending(0..4, 0..4)), [0..2, 0..3, 1..4, 2..4]);
    assert_eq!(seen(&Attention { causal: true, ..how }, &Span::ending(0..2, 0..4)), [1..3, 2..4]);
}

#[test]
fn composed_attention_is_the_formula() {
    // One head of width 2, two keys; the first query sees one key, the second both.
    let device = Device::flex();
    let t = |x: [[f32; 2]; 2]| Tensor::<2>::from_floats(x, &device);
    let (q, k, v) = (t([[1.0, 0.0], [0.0, 1.0]]), t([[1.0, 2.0], [3.0, 4.0]]), t([[5.0, 6.0], [7.0, 8.0]]));
    let spans = vec![Span::ending(0..2, 0..2)];
    let how = Attention::plain(1, 1, 0.5, true, spans);
    // Scores of the second query: 0.5 * [2, 4]; weights 1 / (1 + e) and e / (1 + e).
    let w = 1.0_f32.exp() / (1.0 + 1.0_f32.exp());
    let right = [5.0, 6.0, 5.0 + 2.0 * w, 6.0 + 2.0 * w];
    for y in [composed::attention(q.clone(), k.clone(), v.clone(), &how), attention(q, k, v, &how)] {
        assert_close("attention", &y.into_data().try_to_vec::<f32>().unwrap(), &right, 1e-6);
    }
}

#[test]
#[should_panic(expected = "must lie within its rows")]
fn spans_beyond_the_rows_are_refused() {
    let x = Tensor::<2>::zeros([3, 4], &Device::flex());
    let how = Attention::plain(1, 1, 1.0, false, vec![Span::ending(0..3, 0..4)]);
    attention(x.clone(), x.clone(), x, &how);
}

#[test]
#[should_panic(expected = "must not overlap")]
fn overlapping_rows_are_refused() {
    split_rows(&mut [0; 9], 1, [0..4, 3..5].into_iter());
}

#[test]
fn rotation_matches() {
    // All of the head, and part of it (GPT-NeoX).
    for (heads, first, width, rotated) in [(3, 3, 8, 8), (2, 2, 10, 4), (6, 4, 10, 4)] {
        let frequencies: Vec<f32> =
            (0..rotated / 2).map(|i| 10_000_f32.powf(-2.0 * i as f32 / rotated as f32)).collect();
        let rotary = Rotary::new(&frequencies, 50, 1.0);
        assert_eq!((rotary.positions(), rotary.rotated()), (50, rotated));
        let positions: Vec<u32> = (0..200).map(|i| (i * 7) % 50).collect();
        check(
            vec![matrix(22, 200, heads * width, 1.0)],
            |x| rotate(x[0].clone(), heads, first, &positions, &rotary),
            |x| composed::rotate(x[0].clone(), heads, first, &positions, &rotary),
        );
    }
    // A quarter turn of the pair (first half, second half).
    let quarter = Rotary::new(&[std::f32::consts::FRAC_PI_2], 2, 1.0);
    let x = Tensor::<2>::from_floats([[1.0, 2.0], [1.0, 2.0]], &Device::flex());
    let y = rotate(x, 1, 1, &[0, 1], &quarter).into_data().try_to_vec::<f32>().unwrap();
    assert_close("rotation", &y, &[1.0, 2.0, -2.0, 1.0], 1e-6);
}

#[test]
fn lookup_matches() {
    let ids: Vec<u32> = (0..700).map(|i| (i * i + 3) % 50).collect();
    check(vec![matrix(23, 53, 130, 1.0)], |x| lookup(x[0].clone(), &ids), |x| composed::lookup(x[0].clone(), &ids));
}

#[test]
fn cross_entropy_matches() {
    let targets: Vec<u32> = (0..100).map(|i| (i * 31) % 700).collect();
    check(
        vec![matrix(24, 100, 700, 5.0)],
        |x| cross_entropy(x[0].clone(), &targets).unsqueeze(),
        |x| composed::cross_entropy(x[0].clone(), &targets).unsqueeze(),
    );
    // Equal logits: the logarithm of the number of classes.
    let loss = cross_entropy(Tensor::zeros([1, 8], &Device::flex()), &[3]).into_scalar::<f32>();
    assert!((loss - 8.0_f32.ln()).abs() < 1e-6);
}

/// Hidden states, a head and labels: in one part, in three, with a head that is too narrow to be cut, and with capped logits.
fn vocabularies() -> Vec<(Tensor<2>, Head, Vec<u32>)> {
    let device = Device::flex();
    let tensor = |seed, rows: usize, columns: usize| {
        Tensor::<1>::from_floats(noise(seed, rows * columns).as_slice(), &device).reshape([rows, columns])
    };
    let case = |rows: usize, vocabulary: usize, transposed, cap| {
        let weight = if transposed { tensor(2, vocabulary, 24) } else { tensor(2, 24, vocabulary) } * 2.0;
        let labels = (0..rows).map(|i| ((i * 31) % vocabulary) as u32).collect();
        (tensor(1, rows, 24), Head { weight, transposed, cap }, labels)
    };
    let capped = [case(1300, 70, true, Some(2.5)), case(600, 9, false, Some(2.5))];
    let plain =
        [case(40, 700, true, None), case(1300, 70, true, None), case(1300, 70, false, None), case(600, 9, false, None)];
    plain.into_iter().chain(capped).collect()
}

fn bits(x: Tensor<2>) -> Vec<u32> {
    x.into_data().try_to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn token_numbers_match() {
    for (hidden, head, labels) in vocabularies() {
        let [rows, _] = hidden.dims();
        let slopes = Tensor::<1>::from_floats(noise(7, rows * 5).as_slice(), &hidden.device()).reshape([rows, 5]);
        let fused = || {
            let numbers = token_statistics(hidden.clone(), &head, &labels);
            let (a, b) = token_gradients(hidden.clone(), &head, &labels, numbers.clone(), slopes.clone(), true);
            [numbers, a, b.unwrap()]
        };
        let right = composed::token_statistics(hidden.clone(), &head, &labels);
        let (of_hidden, of_head) = composed::token_gradients(hidden.clone(), &head, &labels, slopes.clone(), true);
        for (what, (got, right)) in
            ["numbers", "hidden", "head"].iter().zip(fused().into_iter().zip([right, of_hidden, of_head.unwrap()]))
        {
            let vector = |x: Tensor<2>| x.into_data().try_to_vec::<f32>().unwrap();
            assert_close(what, &vector(got), &vector(right), 1e-5);
        }
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let one = on(1).install(|| fused().map(bits));
        assert!([2, 5].into_iter().all(|threads| on(threads).install(|| fused().map(bits)) == one));
    }
}

/// The log-probability of the label and its gradients have the bits that all logits at once give.
#[test]
fn parts_of_a_vocabulary_are_the_whole() {
    for (hidden, head, labels) in vocabularies() {
        let [rows, _] = hidden.dims();
        let numbers = token_statistics(hidden.clone(), &head, &labels);
        let slope = Tensor::<1>::from_floats(noise(8, rows).as_slice(), &hidden.device()).reshape([rows, 1]);
        let slopes = Tensor::cat(vec![slope.clone(), Tensor::zeros([rows, 4], &hidden.device())], 1);
        let (of_hidden, of_head) = token_gradients(hidden.clone(), &head, &labels, numbers.clone(), slopes, true);

        let x = Tensor::<2>::from_inner(hidden.clone()).require_grad();
        let weight = Tensor::<2>::from_inner(head.weight.clone()).require_grad();
        let whole = Head { weight: weight.clone(), ..head.clone() };
        let losses = cross_entropy(whole.logits(x.clone()), &labels).unsqueeze_dim::<2>(1);
        let grads = (losses.clone() * Tensor::from_inner(slope.neg())).sum().backward();
        assert_eq!(bits(numbers.narrow(1, 0, 1)), bits(losses.inner().neg()));
        assert_eq!(bits(of_hidden), bits(x.grad(&grads).unwrap()));
        assert_eq!(bits(of_head.unwrap()), bits(weight.grad(&grads).unwrap()));
    }
}

#[test]
fn the_numbers_of_a_certain_and_of_an_undecided_distribution() {
    let device = Device::flex();
    // Two hidden states: one makes all logits equal, the other makes one of them tower above the rest.
    let hidden = Tensor::<2>::from_floats([[0.0], [1.0]], &device);
    let head = Head { weight: Tensor::from_floats([[0.0, 200.0, 0.0, 0.0]], &device), transposed: false, cap: None };
    let numbers = token_statistics(hidden, &head, &[3, 3]).into_data().try_to_vec::<f32>().unwrap();
    let quarter = 0.25_f32.ln();
    assert_close("undecided", &numbers[..5], &[quarter, quarter, -quarter, quarter, 0.25], 1e-6);
    assert_close("certain", &numbers[5..], &[-200.0, 0.0, 0.0, -150.0, 1.0], 1e-6);
    let nothing = Tensor::<2>::zeros([0, 1], &device);
    assert_eq!(token_statistics(nothing.clone(), &head, &[]).dims(), [0, 5]);
    let numbers = Tensor::zeros([0, 5], &device);
    let (of_hidden, of_head) = token_gradients(nothing, &head, &[], numbers.clone(), numbers, true);
    assert_eq!((of_hidden.dims(), of_head.unwrap().sum().into_scalar::<f32>()), ([0, 1], 0.0));
}

#[test]
fn other_number_formats_run_composed() {
    let device = Device::flex();
    let x = Tensor::<2>::from_floats([[0.5, -1.5]], &device).cast(burn::tensor::FloatDType::F64);
    assert!(!fusable(&x));
    let y = gelu_erf(x.clone());
    assert_eq!(y.dtype(), burn::tensor::DType::F64);
    assert!(fusable(&Tensor::<2>::random([2, 2], Distribution::Default, &device)));
}

/// `torch.optim.Adam` and `AdamW` of PyTorch 2 on these numbers: parameter after each of three steps (lr 0.1, 0.1, 0.05).
#[test]
fn adam_is_that_of_pytorch() {
    let start = [1.0_f32, -2.0, 0.5];
    let grads = [[0.3_f32, -0.1, 2.0], [-0.2, 0.4, 1.0], [0.0, 0.5, -3.0]];
    let cases = [(false, 0.0, ADAM), (false, 0.1, ADAM_L2), (true, 0.1, ADAM_W)];
    for (decoupled, weight_decay, right) in cases {
        let adam = Adam { weight_decay, decoupled, ..Adam::default() };
        let device = Device::flex();
        let mut x = Tensor::<1>::from_floats(start, &device);
        let mut state = None;
        for ((grad, right), lr) in grads.into_iter().zip(right).zip([0.1, 0.1, 0.05]) {
            (x, state) = adam.step(lr, x, Tensor::<1>::from_floats(grad, &device), state);
            assert_close("parameter", &x.to_data().try_to_vec::<f32>().unwrap(), &right, 2e-7);
        }
        assert_eq!(state.map(|state| state.time), Some(3));
    }
}

const ADAM: [[f32; 3]; 3] = [
    [0.900000036, -1.89999998, 0.400000006],
    [0.885547996, -1.95595026, 0.306782037],
    [0.879962265, -1.99435186, 0.31088087],
];
const ADAM_L2: [[f32; 3]; 3] = [
    [0.899999976, -1.89999998, 0.400000006],
    [0.855135322, -1.88780344, 0.306570113],
    [0.831698418, -1.90490723, 0.30974254],
];
const ADAM_W: [[f32; 3]; 3] = [
    [0.890000045, -1.88, 0.395000011],
    [0.866648018, -1.91715026, 0.297832042],
    [0.856729031, -1.94596624, 0.300441712],
];

#[test]
fn adam_has_the_same_bits_on_any_number_of_threads_and_works_in_place() {
    let adam = Adam { weight_decay: 0.01, decoupled: true, ..Adam::default() };
    let len = 100_003;
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let device = Device::flex();
            let tensor = |seed| Tensor::<1>::from_floats(noise(seed, len).as_slice(), &device);
            let (mut x, mut state) = (tensor(1), None);
            for seed in 2..5 {
                (x, state) = adam.step(0.01, x, tensor(seed), state);
            }
            x.into_data().try_to_vec::<f32>().unwrap()
        })
    };
    let one = run(1);
    assert!(one.iter().zip(run(3)).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn adam_leaves_a_shared_parameter_alone() {
    let device = Device::flex();
    let x = Tensor::<1>::from_floats([1.0, 2.0], &device);
    let kept = x.clone();
    let state = AdaptiveMomentumState::new(0, x.zeros_like(), x.zeros_like());
    let (y, _) = Adam::default().step(0.5, x, Tensor::<1>::from_floats([1.0, 1.0], &device), Some(state));
    assert_eq!(kept.into_data().try_to_vec::<f32>().unwrap(), [1.0, 2.0]);
    assert_close("parameter", &y.into_data().try_to_vec::<f32>().unwrap(), &[0.5, 1.5], 1e-6);
}

fn golden_adam8() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/golden_adam8.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn line(values: &[f32]) -> Tensor<1> {
    Tensor::from_floats(values, &Device::flex())
}

/// The codes of a moment, those that fill up its last block among them.
fn codes(moment: &Coded) -> Vec<u8> {
    let words = moment.codes.clone().into_data().try_to_vec::<i32>().unwrap();
    words.into_iter().flat_map(i32::to_le_bytes).collect()
}

fn coded(state: &Moments<1>) -> [&Coded; 2] {
    match state {
        Moments::Coded { first, second, .. } => [first, second],
        Moments::Whole(_) => panic!("its moments are in float32"),
    }
}

/// bitsandbytes computes them in float32, in an order that depends on the processor: they are the same but for two units in the last place.
#[test]
fn maps_of_8_bits_are_those_of_bitsandbytes() {
    let golden = golden_adam8();
    for (name, map) in [("signed", &SIGNED), ("unsigned", &UNSIGNED)] {
        let right = floats(&golden[name]);
        assert_eq!(right.len(), 256);
        for (ours, right) in map.values.iter().zip(right) {
            assert!((ours - right).abs() <= 2.0 * f32::EPSILON * right.abs(), "{name}: {ours} instead of {right}");
        }
        assert!(map.values.is_sorted_by(|a, b| a < b));
    }
}

/// Whatever a number is, no other code is nearer, but that nothing below zero becomes zero; blocks of zeros stay zeros. By Burn's operations the
/// same bits.
#[test]
fn numbers_get_the_nearest_code() {
    for (map, signed) in [(&*SIGNED, true), (&*UNSIGNED, false)] {
        let map: &Map = map;
        let least = map.values.iter().copied().find(|value| *value > 0.0).map(f64::from).unwrap();
        let mut values: Vec<f32> = noise(3, 4 * BLOCK);
        // Small ones, all alike, zeros, and all codes themselves.
        values.iter_mut().enumerate().for_each(|(place, value)| *value *= 10_f32.powi(-((place / 7) as i32 % 9)));
        values.extend([0.0; BLOCK]);
        values.extend([0.25; BLOCK]);
        values.extend(map.values.map(|value| value * 3.0));
        if !signed {
            values.iter_mut().for_each(|value| *value = value.abs());
        }
        let blocks = values.len() / BLOCK;
        let composed = Coded::nearest(map, line(&values).reshape([blocks, BLOCK]));
        let (kept, scales) = (codes(&composed), composed.scales.clone().into_data().try_to_vec::<f32>().unwrap());
        let widened = composed.widen(map).into_data().try_to_vec::<f32>().unwrap();
        for (block, values) in values.chunks(BLOCK).enumerate() {
            let mut words = [0; BLOCK / 4];
            let scale = encode(map, values.try_into().unwrap(), &mut words);
            let found: Vec<u8> = words.into_iter().flat_map(i32::to_le_bytes).collect();
            assert_eq!((scale.to_bits(), &found[..]), (scales[block].to_bits(), &kept[block * BLOCK..][..BLOCK]));
            let mut back = [f32::NAN; BLOCK];
            decode(map, &words, scale, &mut back);
            assert_eq!(back, widened[block * BLOCK..][..BLOCK]);
            for (value, back) in values.iter().zip(back) {
                let part = f64::from(*value) / f64::from(if scale == 0.0 { 1.0 } else { scale });
                let far = |code: f32| (f64::from(code) - part).abs();
                let nearest = map.values.iter().copied().map(far).fold(f64::MAX, f64::min);
                let ours = far(back / if scale == 0.0 { 1.0 } else { scale });
                assert!(ours <= nearest + 1e-7 || (part < 0.0 && -part < least), "{value}: {ours} {nearest}");
                assert!(*value >= 0.0 || back < 0.0, "{value} became {back}");
            }
        }
        assert_eq!(kept[(blocks - 1) * BLOCK..], std::array::from_fn::<u8, BLOCK, _>(|code| code as u8));
    }
}

/// Against an implementation by PyTorch of what bitsandbytes does, ten steps: parameters, codes and scales. Here in place and by Burn's operations.
#[test]
fn moments_of_8_bits_are_those_of_bitsandbytes() {
    let golden = golden_adam8();
    let numbers = floats(&golden["weight"]).len();
    for case in golden["cases"].as_array().unwrap() {
        let (weight_decay, decoupled) = (case["decay"].as_f64().unwrap(), case["decoupled"].as_bool().unwrap());
        let adam = Adam8bit { adam: Adam { weight_decay, decoupled, ..Adam::default() }, smallest: 0 };
        for in_place in [true, false] {
            let mut x = line(&floats(&golden["weight"]));
            let mut state = None;
            let mut after = case["after"].as_array().unwrap().iter();
            for (step, rate) in golden["rates"].as_array().unwrap().iter().enumerate() {
                let (rate, grad) = (rate.as_f64().unwrap(), line(&floats(&golden["grads"][step])));
                if in_place {
                    (x, state) = adam.step(rate, x, grad, state);
                } else {
                    let moments = state.map_or_else(
                        || [&SIGNED, &UNSIGNED].map(|map| Coded::zeros(map, numbers, &Device::flex())),
                        |state: Moments<1>| coded(&state).map(Clone::clone),
                    );
                    let (y, first, second) = step_in_parts(adam.adam.factors(rate, step + 1), x, grad, moments);
                    (x, state) = (y, Some(Moments::Coded { time: step + 1, first, second }));
                }
                if [0, 5, 9].contains(&step) {
                    let right = floats(after.next().unwrap());
                    assert_close("parameter", &x.to_data().try_to_vec::<f32>().unwrap(), &right, 1e-5);
                }
            }
            for (moment, name) in coded(&state.unwrap()).into_iter().zip([0, 1]) {
                let right: Vec<u8> = serde_json::from_value(case["codes"][name].clone()).unwrap();
                let same = codes(moment).iter().zip(&right).filter(|(a, b)| a == b).count();
                assert!(same * 200 >= right.len() * 199, "{same} of {} codes", right.len());
                let scales = moment.scales.to_data().try_to_vec::<f32>().unwrap();
                for (scale, right) in scales.iter().zip(floats(&case["scales"][name])) {
                    assert!((scale - right).abs() <= 1e-2 * right, "{scale} {right}");
                }
            }
        }
    }
}

#[test]
fn moments_of_8_bits_are_the_same_on_any_number_of_threads_and_by_burns_operations() {
    let adam = Adam { weight_decay: 0.01, decoupled: true, ..Adam::default() };
    let adam = Adam8bit { adam, smallest: Adam8bit::SMALLEST };
    let len = 100_003;
    let bits = |x: Tensor<1>| x.into_data().try_to_vec::<f32>().unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut x, mut state) = (line(&noise(1, len)), None);
            for seed in 2..5 {
                (x, state) = adam.step(0.01, x, line(&noise(seed, len)), state);
            }
            let kept = coded(state.as_ref().unwrap()).map(|moment| (codes(moment), bits(moment.scales.clone())));
            (bits(x), kept)
        })
    };
    let one = run(1);
    assert_eq!(one, run(3));
    let (mut x, mut moments) =
        (line(&noise(1, len)), [&SIGNED, &UNSIGNED].map(|map| Coded::zeros(map, len, &Device::flex())));
    for (step, seed) in (2..5).enumerate() {
        let f = adam.adam.factors(0.01, step + 1);
        let (y, first, second) = step_in_parts(f, x, line(&noise(seed, len)), moments);
        (x, moments) = (y, [first, second]);
    }
    let x = bits(x);
    let far = one.0.iter().zip(&x).filter(|(a, b)| (*a - *b).abs() > 1e-5).count();
    // Where a number lies between two codes, rounding chooses.
    assert!(far * 1000 < len, "{far}");
    for (moment, (right, _)) in moments.iter().zip(&one.1) {
        let other = codes(moment).iter().zip(right).filter(|(a, b)| a != b).count();
        assert!(other * 1000 < len, "{other}");
    }
}

#[test]
fn small_tensors_keep_their_moments_in_float32() {
    let adam = Adam { weight_decay: 0.1, ..Adam::default() };
    for (numbers, whole) in [(Adam8bit::SMALLEST - 1, true), (Adam8bit::SMALLEST, false)] {
        let eight = Adam8bit { adam: adam.clone(), smallest: Adam8bit::SMALLEST };
        let (mut x, mut state) = (line(&noise(1, numbers)), None);
        let (mut y, mut right) = (x.clone(), None);
        for seed in 2..5 {
            (x, state) = eight.step(0.01, x, line(&noise(seed, numbers)), state);
            (y, right) = adam.step(0.01, y, line(&noise(seed, numbers)), right);
        }
        assert_eq!(matches!(state, Some(Moments::Whole(_))), whole);
        let [x, y] = [x, y].map(|x| x.into_data().try_to_vec::<f32>().unwrap());
        assert_eq!(x == y, whole);
        assert_close("parameter", &x, &y, 2e-3);
    }
    assert_eq!([Adam8bit::bytes(4095), Adam8bit::bytes(4096), Adam8bit::bytes(4097)], [32760, 8320, 8840]);
}

/// What decides the order of additions must not be the processor: a product deeper than one cut is that of its cuts, added in order.
#[test]
fn deep_products_are_cut_alike_on_every_processor() {
    let device = Device::flex();
    let tensor = |seed, rows: usize, columns: usize| {
        Tensor::<1>::from_floats(noise(seed, rows * columns).as_slice(), &device).reshape([rows, columns])
    };
    let bits = |x: Tensor<2>| x.into_data().try_to_vec::<f32>().unwrap();
    for (depth, cuts) in [(512, vec![512]), (1024, vec![512, 512]), (1300, vec![434, 434, 432])] {
        let (x, weight) = (tensor(1, 130, depth), tensor(2, depth, 70));
        let mut at = 0;
        let mut sum: Option<Tensor<2>> = None;
        for cut in cuts {
            let (x, weight) = (x.clone().slice([0..130, at..at + cut]), weight.clone().slice([at..at + cut, 0..70]));
            sum = Some(match sum {
                None => linear(x, weight, None),
                Some(sum) => linear_residual(x, weight, None, sum),
            });
            at += cut;
        }
        assert_eq!(at, depth);
        assert_eq!(bits(linear(x, weight, None)), bits(sum.unwrap()), "{depth}");
    }
}

#[test]
fn sums_have_the_same_bits_everywhere() {
    let first = |x: Tensor<1>| x.into_data().try_to_vec::<f32>().unwrap()[0];
    let tensor = |x: &[f32]| Tensor::<1>::from_floats(x, &Device::flex());
    let norm = |x: &[f32]| first(squared_norm(tensor(x)));
    // The order of additions as it is written down: eight vectors of eight lanes, pairs of vectors, the rest, pairs of lanes.
    let slowly = |x: &[f32]| {
        let mut sums = [[0.0_f32; 8]; 8];
        let whole = x.len() / 64 * 64;
        x[..whole].iter().enumerate().for_each(|(i, x)| sums[i / 8 % 8][i % 8] += x);
        let add = |a: [f32; 8], b: [f32; 8]| std::array::from_fn(|i| a[i] + b[i]);
        let [a, b, c, d, e, f, g, h] = sums;
        let mut lanes: [f32; 8] = add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h)));
        let vectors = x.len() / 8 * 8;
        x[whole..vectors].iter().enumerate().for_each(|(i, x)| lanes[i % 8] += x);
        let [a, b, c, d, e, f, g, h] = lanes;
        ((a + e) + (c + g)) + ((b + f) + (d + h)) + x[vectors..].iter().sum::<f32>()
    };
    for len in [0, 1, 7, 8, 32, 63, 64, 65, 200, 1000, 70_001] {
        let x = noise(len as u32 + 3, len);
        let squares: Vec<f32> = x.iter().map(|x| x * x).collect();
        let exact: f64 = squares.iter().copied().map(f64::from).sum();
        assert!((f64::from(norm(&x)) - exact).abs() <= 1e-6 * exact, "{len}");
        assert_eq!(norm(&x).to_bits(), slowly(&squares).to_bits(), "{len}");
        assert_eq!(first(total(tensor(&x))).to_bits(), slowly(&x).to_bits(), "{len}");
        if len == 0 {
            continue;
        }
        let rows: Vec<f32> = [x.clone(), squares.clone()].concat();
        let sums = sum_last(tensor(&rows).reshape([2, len])).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(
            sums.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            [slowly(&x), slowly(&squares)].map(f32::to_bits)
        );
    }
    let x = noise(5, 4 * 1024 * 1024 + 77);
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| norm(&x));
    let one = on(1);
    assert!((f64::from(one) / x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() - 1.0).abs() < 1e-6);
    assert!([2, 3, 5].into_iter().all(|threads| on(threads).to_bits() == one.to_bits()));
}

#[test]
fn sums_over_rows_match() {
    for (rows, columns) in [(1, 1), (5, 3), (32, 64), (7, 130)] {
        check(vec![matrix(40, rows, columns, 1.0)], |x| sum_last(x[0].clone()), |x| composed::sum_last(x[0].clone()));
    }
}

/// Threads share the columns of a product of few rows, and change no bit of it.
#[test]
fn threads_share_a_few_rows() {
    for (rows, wide, narrow) in [(2, 768, 1024), (8, 1500, 700), (130, 300, 65)] {
        let tensor = |seed, len| Tensor::<1>::from_floats(noise(seed, len).as_slice(), &Device::flex());
        let x = tensor(1, rows * wide).reshape([rows, wide]);
        for transposed in [false, true] {
            let weight = tensor(2, wide * narrow);
            let product = || match transposed {
                true => bits(linear_tied(x.clone(), weight.clone().reshape([narrow, wide]))),
                false => {
                    let bias = tensor(3, narrow);
                    bits(linear(x.clone(), weight.clone().reshape([wide, narrow]), Some(bias)))
                }
            };
            let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let one = on(1).install(product);
            assert!([2, 3, 5].into_iter().all(|threads| on(threads).install(product) == one), "{rows} {transposed}");
        }
    }
}

/// Weights in `bf16`, and the same numbers in `f32`.
fn halves(seed: u32, rows: usize, columns: usize) -> [Tensor<2>; 2] {
    let (values, shape) = matrix(seed, rows, columns, 0.5);
    let weight = Tensor::<2>::from_data(TensorData::new(values, shape), &Device::flex()).cast(FloatDType::BF16);
    [weight.clone(), weight.cast(FloatDType::F32)]
}

/// Checks an operation with weights in `bf16` against the same with these numbers in `f32`: result and gradient of the rows within 1e-6 of the
/// largest, and the same bits on any number of threads.
#[track_caller]
fn check_halves(
    rows: (Vec<f32>, [usize; 2]),
    weights: [Tensor<2>; 2],
    f: impl Fn(Tensor<2>, Tensor<2>) -> Tensor<2> + Sync,
) {
    let [narrow, wide] = weights;
    let run = |threads: usize, weight: &Tensor<2>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // What is frozen lies on the differentiating device, too.
        pool.install(|| {
            result_and_gradients(&vec![rows.clone()], &|x| f(x[0].clone(), Tensor::from_inner(weight.clone())))
        })
    };
    let (found, expected) = (run(1, &narrow), run(1, &wide));
    for (what, (found, expected)) in ["result", "gradient"].into_iter().zip(found.iter().zip(&expected)) {
        let largest = expected.iter().fold(1.0_f32, |most, x| x.abs().max(most));
        assert_close(what, found, expected, 1e-6 * largest);
    }
    for threads in [2, 5] {
        let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&run(threads, &narrow)), "{threads} threads");
    }
}

#[test]
fn weights_in_bf16_are_those_numbers() {
    // A vector, few rows, pieces, more than one depth and more than one block of columns, and none of these whole.
    for (count, inputs, outputs) in
        [(1, 700, 300), (3, 40, 17), (65, 513, 257), (600, 96, 520), (300, 1100, 33), (0, 5, 4)]
    {
        let rows = matrix(3, count, inputs, 1.0);
        let bias = Tensor::<1>::from_floats(noise(5, outputs).as_slice(), &Device::flex());
        check_halves(rows.clone(), halves(7, inputs, outputs), |x, w| linear(x, w, None));
        check_halves(rows.clone(), halves(7, inputs, outputs), |x, w| {
            linear_then(x, w, Some(Tensor::from_inner(bias.clone())), Some(Activation::GeluTanh))
        });
        check_halves(rows.clone(), halves(7, inputs, outputs), |x, w| {
            let stream = Tensor::<1>::from_floats(noise(9, count * outputs).as_slice(), &Device::flex());
            linear_residual(
                x,
                w,
                Some(Tensor::from_inner(bias.clone())),
                Tensor::from_inner(stream.reshape([count, outputs])),
            )
        });
        check_halves(rows.clone(), halves(8, outputs, inputs), linear_tied);
        // Some columns of a wider matrix, as of queries alone.
        check_halves(rows, halves(9, inputs, outputs + 11), |x, w| linear(x, w.narrow(1, 7, outputs), None));
    }
}

#[test]
fn trained_weights_in_bf16_have_the_gradient_of_what_they_are_rounded_to() {
    let [rows, weight] = [matrix(1, 130, 70, 1.0), matrix(2, 70, 290, 0.5)];
    let rounded = |weight: &Tensor<2>| weight.clone().cast(FloatDType::BF16);
    let found =
        result_and_gradients(&vec![rows.clone(), weight.clone()], &|x| linear(x[0].clone(), rounded(&x[1]), None));
    let wide = rounded(&Tensor::from_data(TensorData::new(weight.0, weight.1), &Device::flex())).cast(FloatDType::F32);
    let wide = (wide.into_data().try_to_vec::<f32>().unwrap(), [70, 290]);
    let expected = result_and_gradients(&vec![rows, wide], &|x| linear(x[0].clone(), x[1].clone(), None));
    for (what, (found, expected)) in ["result", "of rows", "of the weight"].into_iter().zip(found.iter().zip(&expected))
    {
        assert_close(what, found, expected, 1e-5);
    }
}

/// Checks an operation with a parameter in `bf16`: its gradient is one in `bf16`, that of the same numbers in `f32` rounded, and the same bits on any
/// number of threads.
#[track_caller]
fn check_parameter(weights: [Tensor<2>; 2], f: impl Fn(Tensor<2>) -> Tensor<2> + Sync) {
    let run = |threads: usize, weight: &Tensor<2>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let weight = Tensor::from_inner(weight.clone()).require_grad();
            let output = f(weight.clone());
            let [rows, columns] = output.dims();
            let slopes = Tensor::<1>::from_floats(noise(77, rows * columns).as_slice(), &Device::flex());
            let grads = (output * Tensor::from_inner(slopes.reshape([rows, columns]))).sum().backward();
            weight.grad(&grads).unwrap()
        })
    };
    let [narrow, wide] = weights;
    let (found, expected) = (run(1, &narrow), run(1, &wide));
    assert_eq!((found.dtype(), expected.dtype()), (DType::BF16, DType::F32));
    assert_eq!(found.dims(), expected.dims());
    for threads in [2, 5] {
        assert_eq!(found.to_data(), run(threads, &narrow).into_data(), "{threads} threads");
    }
    let values = |x: Tensor<2>| widen(x).into_data().try_to_vec::<f32>().unwrap();
    let (found, expected) = (values(found), values(expected));
    let largest = expected.iter().fold(1e-6_f32, |most, x| x.abs().max(most));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= expected.abs() / 256.0 + 1e-5 * largest, "{found} {expected}");
    }
}

#[test]
fn parameters_in_bf16_have_gradients_in_bf16() {
    for (count, inputs, outputs) in [(1, 70, 30), (3, 40, 17), (65, 513, 257), (600, 96, 520), (0, 5, 4)] {
        let plain = |(values, shape): (Vec<f32>, [usize; 2])| -> Tensor<2> {
            Tensor::from_inner(Tensor::from_data(TensorData::new(values, shape), &Device::flex()))
        };
        let rows = plain(matrix(3, count, inputs, 1.0));
        let bias = || Some(Tensor::from_inner(Tensor::<1>::from_floats(noise(5, outputs).as_slice(), &Device::flex())));
        check_parameter(halves(7, inputs, outputs), |w| linear(rows.clone(), w, None));
        check_parameter(halves(7, inputs, outputs), |w| {
            linear_then(rows.clone(), w, bias(), Some(Activation::GeluTanh))
        });
        let stream = plain(matrix(9, count, outputs, 1.0));
        check_parameter(halves(7, inputs, outputs), |w| linear_residual(rows.clone(), w, bias(), stream.clone()));
        check_parameter(halves(8, outputs, inputs), |w| linear_tied(rows.clone(), w));
        // Parts of one matrix, each of which has a gradient.
        check_parameter(halves(9, inputs, outputs + 11), |w| {
            let part = |start, width| linear(rows.clone(), columns(w.clone(), start, width), None);
            Tensor::cat(vec![part(0, outputs), part(outputs, 11)], 1)
        });
        let ids: Vec<u32> = (0..3 * count as u32).map(|i| i * i % inputs as u32).collect();
        check_parameter(halves(10, inputs, outputs), |w| lookup(w, &ids));
        // What other devices run, but for the products, of which both sides are rounded there.
        check_parameter(halves(10, inputs, outputs), |w| composed::lookup(w, &ids));
    }
    let weight = Tensor::<2>::from_inner(halves(1, 60, 30)[0].clone()).require_grad();
    let rows = matrix(2, 9, 60, 1.0);
    let rows = Tensor::<2>::from_inner(Tensor::from_data(TensorData::new(rows.0, rows.1), &Device::flex()));
    let grads = composed::linear(rows, weight.clone(), None).sum().backward();
    assert_eq!(weight.grad(&grads).unwrap().dtype(), DType::BF16);
}

#[test]
fn norms_of_bf16_are_summed_in_f32() {
    for (rows, columns) in [(3, 7), (300, 700)] {
        let [narrow, wide] = halves(31, rows, columns);
        let norm = |x: Tensor<1>| x.into_scalar::<f32>();
        let expected = norm(squared_norm(wide));
        for found in [norm(squared_norm(narrow.clone())), norm(composed::squared_norm(narrow))] {
            assert!((found - expected).abs() <= 1e-5 * expected, "{found} {expected}");
        }
    }
}

#[test]
fn tables_in_bf16_are_those_numbers() {
    let [narrow, wide] = halves(11, 40, 24);
    let ids = [3, 39, 0, 3];
    assert_eq!(lookup(narrow.clone(), &ids).into_data(), lookup(wide.clone(), &ids).into_data());
    assert_eq!(composed::lookup(narrow.clone(), &ids).into_data(), lookup(wide.clone(), &ids).into_data());
    let (hidden, shape) = matrix(12, 9, 24, 1.0);
    let hidden = Tensor::<2>::from_data(TensorData::new(hidden, shape), &Device::flex());
    let labels: Vec<u32> = (0..9).collect();
    let (slopes, shape) = matrix(13, 9, 5, 1.0);
    let slopes = Tensor::<2>::from_data(TensorData::new(slopes, shape), &Device::flex());
    let values = |x: Tensor<2>| x.into_data().try_to_vec::<f32>().unwrap();
    for cap in [None, Some(2.0)] {
        let [narrow, wide] = [&narrow, &wide].map(|weight| Head { weight: weight.clone(), transposed: true, cap });
        let numbers = [&narrow, &wide].map(|head| token_statistics(hidden.clone(), head, &labels));
        let [found, expected] = numbers.clone().map(values);
        assert_close("numbers", &found, &expected, 1e-6);
        let gradients = |head: &Head, numbers: &Tensor<2>, with_head| {
            let (of_hidden, of_head) =
                token_gradients(hidden.clone(), head, &labels, numbers.clone(), slopes.clone(), with_head);
            [Some(of_hidden), of_head].map(|grad| grad.map(values).unwrap_or_default())
        };
        for with_head in [false, true] {
            let [found, expected] =
                [gradients(&narrow, &numbers[0], with_head), gradients(&wide, &numbers[1], with_head)];
            assert_close("gradient of hidden states", &found[0], &expected[0], 1e-5);
            assert_close("gradient of the head", &found[1], &expected[1], 1e-5);
        }
    }
}

/// What devices without fused operations run: both sides of a product are rounded, and so is the product; nothing else is.
#[test]
fn composed_operations_take_weights_in_bf16() {
    let [narrow, wide] = halves(21, 60, 30);
    let rows = matrix(22, 7, 60, 1.0);
    let bias = Tensor::<1>::from_floats(noise(23, 30).as_slice(), &Device::flex());
    let of = |weight: &Tensor<2>| {
        result_and_gradients(&vec![rows.clone()], &|x| {
            composed::linear(x[0].clone(), Tensor::from_inner(weight.clone()), Some(Tensor::from_inner(bias.clone())))
        })
    };
    let far = |found: &[f32], expected: &[f32]| {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
    };
    for (found, expected) in of(&narrow).iter().zip(&of(&wide)) {
        let far = far(found, expected);
        // Three roundings of at most one part in 256 each, and not none.
        assert!((1e-5..3.0 / 256.0).contains(&far), "{far}");
    }
    // A trained one: gradients come back in f32, as the optimizer wants them.
    let (weight, shape) = matrix(24, 60, 30, 0.5);
    let gradients = result_and_gradients(&vec![rows.clone(), (weight, shape)], &|x| {
        composed::linear(x[0].clone(), x[1].clone().cast(FloatDType::BF16), None)
    });
    let expected = result_and_gradients(&vec![rows.clone(), matrix(24, 60, 30, 0.5)], &|x| {
        composed::linear(x[0].clone(), x[1].clone(), None)
    });
    for (found, expected) in gradients.iter().zip(&expected) {
        assert!(far(found, expected) < 3.0 / 256.0);
    }
    let hidden = Tensor::<2>::from_data(TensorData::new(rows.0, rows.1), &Device::flex());
    let [narrow, wide] = [narrow, wide].map(|weight| Head { weight, transposed: false, cap: None });
    let labels: Vec<u32> = (0..7).collect();
    let numbers = [&narrow, &wide].map(|head| composed::token_statistics(hidden.clone(), head, &labels));
    let slopes = numbers[1].ones_like();
    for with_head in [false, true] {
        let gradients = [&narrow, &wide]
            .map(|head| composed::token_gradients(hidden.clone(), head, &labels, slopes.clone(), with_head));
        let values = |x: &Tensor<2>| x.clone().into_data().try_to_vec::<f32>().unwrap();
        assert!(far(&values(&gradients[0].0), &values(&gradients[1].0)) < 3.0 / 256.0);
        assert_eq!(gradients.iter().filter(|(_, of_head)| of_head.is_some()).count(), 2 * usize::from(with_head));
        if let [(_, Some(found)), (_, Some(expected))] = &gradients {
            assert!(far(&values(found), &values(expected)) < 3.0 / 256.0);
        }
    }
}
