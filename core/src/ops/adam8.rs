//! Adam and AdamW whose moments are kept in 8 bits a number, block by block: in place on the CPU, one block in float32 at a time.
//!
//! What is kept is numbers of a table (`Map`), four to an integer of 32 bits, because not every device computes with bytes; and of each block
//! the largest absolute value.

use std::sync::LazyLock;

use burn::optim::{AdaptiveMomentumState, LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::adam::{Adam, Factors, step_composed, step_slices};
use super::kernel::{CHUNK, each, from_plain, from_plain_int, fusable, into_plain, into_plain_int, values};
use super::math::vectorised;

/// Numbers that share a scale.
pub(super) const BLOCK: usize = 256;
/// Integers that hold the codes of a block.
const WORDS: usize = BLOCK / 4;
/// Blocks that are worked on at a time where that is not in place.
const BLOCKS_AT_ONCE: usize = 16 * 1024;

/// [`Adam`] with both moments in 8 bits a number, quantised in blocks of 256 numbers (row by row through a tensor) to the dynamic map, signed for the
/// first and unsigned for the second. A step widens a block's moments to float32, takes [`Adam`]'s step with them, and rounds them again.
///
/// Source: Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit Optimizers via Block-wise Quantization", 2022, sections 2.1 and 2.2; map, size of
/// blocks, rounding and the exception of small tensors are those of bitsandbytes (`create_dynamic_map`, `kOptimizerStatic8bit2StateBlockwise`,
/// `min_8bit_size`). Where weights decay, the step is PyTorch's, as everywhere here: bitsandbytes shrinks a parameter after its step, and decouples
/// the decay of Adam, too.
#[derive(Debug, Clone, PartialEq)]
pub struct Adam8bit {
    /// Its numbers.
    pub adam: Adam,
    /// Tensors with fewer numbers keep their moments in float32.
    pub smallest: usize,
}

impl Adam8bit {
    /// What bitsandbytes sets [`smallest`](Self::smallest) to.
    pub const SMALLEST: usize = 4096;

    /// Bytes that the moments of a tensor of so many numbers take, where [`smallest`](Self::smallest) is [`SMALLEST`](Self::SMALLEST).
    pub fn bytes(numbers: u64) -> u64 {
        let (block, float) = (BLOCK as u64, size_of::<f32>() as u64);
        let each =
            if numbers < Self::SMALLEST as u64 { numbers * float } else { numbers.div_ceil(block) * (block + float) };
        2 * each
    }
}

/// What a tensor's moments are between two steps.
#[derive(Clone)]
pub enum Moments<const D: usize> {
    /// Of a small tensor: float32.
    Whole(AdaptiveMomentumState<D>),
    /// 8 bits a number.
    Coded {
        /// Steps so far.
        time: usize,
        /// The first moment.
        first: Coded,
        /// The second moment.
        second: Coded,
    },
}

/// Numbers in 8 bits each.
#[derive(Debug, Clone)]
pub struct Coded {
    /// Of each block 64 integers of 32 bits, with the codes of four numbers in a row in each, the first in the lowest bits; the last block is filled
    /// up with zeros.
    pub(super) codes: Tensor<2, Int>,
    /// The largest absolute value of each block.
    pub(super) scales: Tensor<1>,
}

impl Coded {
    pub(super) fn zeros(map: &Map, numbers: usize, device: &Device) -> Self {
        let blocks = numbers.div_ceil(BLOCK);
        let zeros = i32::from_le_bytes([map.zero; 4]);
        Self {
            codes: Tensor::full([blocks, WORDS], zeros, (device, DType::I32)),
            scales: Tensor::zeros([blocks], device),
        }
    }

    fn on(self, device: &Device) -> Self {
        Self { codes: self.codes.to_device(device), scales: self.scales.to_device(device) }
    }

    /// So many blocks from one on.
    fn narrow(&self, start: usize, blocks: usize) -> Self {
        Self {
            codes: self.codes.clone().narrow(0, start, blocks),
            scales: self.scales.clone().narrow(0, start, blocks),
        }
    }

    fn cat(parts: Vec<Self>) -> Self {
        let (codes, scales) = parts.into_iter().map(|part| (part.codes, part.scales)).unzip();
        Self { codes: Tensor::cat(codes, 0), scales: Tensor::cat(scales, 0) }
    }

    /// Block after block, in float32.
    pub(super) fn widen(&self, map: &Map) -> Tensor<2> {
        let [blocks, _] = self.codes.dims();
        let byte = |place: i32| self.codes.clone().bitwise_right_shift_scalar(8 * place).bitwise_and_scalar(255);
        let codes = Tensor::stack::<3>((0..4).map(byte).collect(), 2).reshape([blocks * BLOCK]);
        let values = Tensor::<1>::from_floats(map.values, &self.scales.device()).select(0, codes);
        values.reshape([blocks, BLOCK]) * self.scales.clone().unsqueeze_dim::<2>(1)
    }

    /// The nearest that can be kept of blocks in float32.
    pub(super) fn nearest(map: &Map, moment: Tensor<2>) -> Self {
        let [blocks, _] = moment.dims();
        let scales = moment.clone().abs().max_dim(1);
        let parts = moment / (scales.clone() + scales.clone().equal_elem(0.0).float());
        let parts = parts.reshape([blocks * BLOCK]);
        let bounds = Tensor::<1>::from_floats(map.bounds, &scales.device());
        let mut codes = Tensor::<1, Int>::zeros([blocks * BLOCK], (&scales.device(), DType::I32));
        for step in HALVES {
            let bound = bounds.clone().select(0, codes.clone() + (step - 1));
            codes = codes + parts.clone().greater(bound).int() * step;
        }
        let codes = codes.reshape([blocks, WORDS, 4]);
        let byte = |place| {
            let codes = codes.clone().narrow(2, place, 1).reshape([blocks, WORDS]);
            if place == 0 { codes } else { codes.bitwise_left_shift_scalar(8 * place as i32) }
        };
        let codes = (1..4).map(byte).fold(byte(0), Tensor::bitwise_or);
        Self { codes, scales: scales.reshape([blocks]) }
    }
}

impl<const D: usize> RecordState for Moments<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        match self {
            Self::Whole(state) => state.state_flatten(prefix, out),
            Self::Coded { time, first, second } => {
                out.push_scalar(prefix, "time", (*time).into());
                for (name, Coded { codes, scales }) in [("1", first), ("2", second)] {
                    out.push_tensor(prefix, &format!("codes_{name}"), codes.clone().into_data());
                    out.push_tensor(prefix, &format!("scales_{name}"), scales.clone().into_data());
                }
            }
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let mut coded = |name: &str| {
            let codes: TensorData = src.take_tensor(prefix, &format!("codes_{name}"))?;
            let scales = src.take_tensor(prefix, &format!("scales_{name}"))?;
            Some(Coded {
                codes: Tensor::from_data(codes, (device, DType::I32)),
                scales: Tensor::from_data(scales, (device, DType::F32)),
            })
        };
        match (coded("1"), coded("2")) {
            (Some(first), Some(second)) => {
                let time = usize::try_from(src.take_scalar(prefix, "time")?).ok()?;
                Some(Self::Coded { time, first, second })
            }
            _ => AdaptiveMomentumState::state_unflatten(prefix, src, device).map(Self::Whole),
        }
    }
}

impl Optimizer for Adam8bit {
    type State<const D: usize> = Moments<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let numbers = grad.shape().num_elements();
        let (time, first, second) = match state {
            Some(Moments::Coded { time, first, second }) => (time + 1, first, second),
            None if numbers >= self.smallest => {
                let zeros = |map| Coded::zeros(map, numbers, &grad.device());
                (1, zeros(&SIGNED), zeros(&UNSIGNED))
            }
            state => {
                let whole = state.and_then(|state| match state {
                    Moments::Whole(state) => Some(state),
                    Moments::Coded { .. } => None,
                });
                let (tensor, state) = self.adam.step(lr, tensor, grad, whole);
                return (tensor, state.map(Moments::Whole));
            }
        };
        let f = self.adam.factors(lr, time);
        let (tensor, first, second) = if fusable(&tensor) && fusable(&grad) && fusable(&first.scales) {
            step_in_place(f, tensor, grad, first, second)
        } else {
            step_in_parts(f, tensor, grad, [first, second])
        };
        (tensor, Some(Moments::Coded { time, first, second }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        match state {
            Moments::Whole(state) => Moments::Whole(state.to_device(device)),
            Moments::Coded { time, first, second } => {
                Moments::Coded { time, first: first.on(device), second: second.on(device) }
            }
        }
    }
}

/// What 256 codes mean, between -1 and 1, and when a number is nearer to the next.
#[derive(Debug)]
pub(super) struct Map {
    /// In order.
    pub(super) values: [f32; 256],
    /// A number has the code of how many of these it is above; the last one is above all numbers.
    bounds: [f32; 256],
    /// The code of 0.
    zero: u8,
}

/// Steps of a search through the bounds.
const HALVES: [i32; 8] = [128, 64, 32, 16, 8, 4, 2, 1];

pub(super) static SIGNED: LazyLock<Map> = LazyLock::new(|| Map::dynamic(true));
pub(super) static UNSIGNED: LazyLock<Map> = LazyLock::new(|| Map::dynamic(false));

impl Map {
    /// The dynamic map: between two powers of ten, from 1e-7 to 1, twice as many numbers in equal distances as between the two before, and beside them
    /// 0 and 1. bitsandbytes' own numbers differ from these in the last digit or two of float32, and from processor to processor.
    ///
    /// Source: Dettmers et al. 2022, section 1.3; Dettmers, "8-Bit Approximations for Parallelism in Deep Learning", 2016, section 2.2.
    fn dynamic(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for power in 0..7 {
            let count = 1 << if signed { power } else { power + 1 };
            for place in 0..count {
                let fraction = 0.1 + 0.9 * (f64::from(place) + 0.5) / f64::from(count);
                let value = (fraction / 10_f64.powi(6 - power)) as f32;
                values.push(value);
                if signed {
                    values.push(-value);
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let values: [f32; 256] = std::array::from_fn(|code| values[code]);
        let zero = values.iter().position(|value| *value == 0.0).unwrap_or_default();
        let mut bounds = [f32::INFINITY; 256];
        for (code, pair) in values.windows(2).enumerate() {
            // Halfway to the even code, which is where the search of bitsandbytes ends.
            let half = (pair[0] + pair[1]) * 0.5;
            bounds[code] = if code % 2 == 0 { half } else { half.next_down() };
        }
        if signed {
            // What is below zero stays below it. Beneath this, devices may take a number for zero.
            bounds[zero - 1] = -f32::MIN_POSITIVE;
        }
        Self { values, bounds, zero: zero as u8 }
    }
}

vectorised! {
    /// The moment of a block in float32.
    pub(super) fn decode(map: &Map, codes: &[i32], scale: f32, moment: &mut [f32; BLOCK]) {
        for (codes, moment) in codes.iter().zip(moment.chunks_exact_mut(4)) {
            for (code, value) in codes.to_le_bytes().into_iter().zip(moment) {
                *value = map.values[usize::from(code)] * scale;
            }
        }
    }
}

vectorised! {
    /// The nearest that can be kept of a block, and its scale.
    pub(super) fn encode(map: &Map, moment: &[f32; BLOCK], codes: &mut [i32]) -> f32 {
        let scale = moment.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let divisor = if scale == 0.0 { 1.0 } else { scale };
        let parts = moment.map(|value| value / divisor);
        let mut found = [0_u8; BLOCK];
        for step in HALVES {
            let step = step as u8;
            for (found, part) in found.iter_mut().zip(&parts) {
                let above = *part > map.bounds[usize::from(*found + (step - 1))];
                *found += if above { step } else { 0 };
            }
        }
        for (codes, found) in codes.iter_mut().zip(found.chunks_exact(4)) {
            *codes = i32::from_le_bytes([found[0], found[1], found[2], found[3]]);
        }
        scale
    }
}

/// One moment of some blocks.
struct Part<'a> {
    map: &'static Map,
    codes: &'a mut [i32],
    scales: &'a mut [f32],
}

fn step_blocks(f: Factors, parameter: &mut [f32], grad: &[f32], [first, second]: [Part<'_>; 2]) {
    let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
    let kept = first.codes.chunks_mut(WORDS).zip(first.scales).zip(second.codes.chunks_mut(WORDS).zip(second.scales));
    for ((p, g), ((m_codes, m_scale), (v_codes, v_scale))) in
        parameter.chunks_mut(BLOCK).zip(grad.chunks(BLOCK)).zip(kept)
    {
        decode(first.map, m_codes, *m_scale, &mut m);
        decode(second.map, v_codes, *v_scale, &mut v);
        // What fills up the last block is zero and stays so.
        step_slices(f, p, g, &mut m, &mut v);
        *m_scale = encode(first.map, &m, m_codes);
        *v_scale = encode(second.map, &v, v_codes);
    }
}

/// Element operations of a step for each number.
const COST: usize = 40;

fn step_in_place<const D: usize>(
    f: Factors,
    parameter: Tensor<D>,
    grad: Tensor<D>,
    first: Coded,
    second: Coded,
) -> (Tensor<D>, Coded, Coded) {
    const _: () = assert!(CHUNK.is_multiple_of(BLOCK));
    let (mut parameter, grad) = (into_plain(parameter), into_plain(grad));
    let mut kept = [first, second].map(|moment| (into_plain_int(moment.codes), into_plain(moment.scales)));
    {
        let (parameter, grad) = (parameter.storage_mut::<f32>(), values(&grad));
        let blocks = grad.len().div_ceil(BLOCK);
        let [first, second] = kept.each_mut().map(|(codes, scales)| (codes.storage_mut(), scales.storage_mut()));
        let fits = |(codes, scales): &(&mut [i32], &mut [f32])| codes.len() == blocks * WORDS && scales.len() == blocks;
        assert!(
            parameter.len() == grad.len() && fits(&first) && fits(&second),
            "a parameter, its gradient and its moments must have one shape"
        );
        let pieces = parameter.chunks_mut(CHUNK).zip(grad.chunks(CHUNK));
        let pieces = pieces.zip(cut(&SIGNED, first).zip(cut(&UNSIGNED, second)));
        each(COST * grad.len(), pieces, |((p, g), (first, second))| step_blocks(f, p, g, [first, second]));
    }
    let [first, second] =
        kept.map(|(codes, scales)| Coded { codes: from_plain_int(codes), scales: from_plain(scales) });
    (from_plain(parameter), first, second)
}

/// A moment in pieces of [`CHUNK`] numbers.
fn cut<'a>(
    map: &'static Map,
    (codes, scales): (&'a mut [i32], &'a mut [f32]),
) -> impl ExactSizeIterator<Item = Part<'a>> {
    let pieces = codes.chunks_mut(CHUNK / 4).zip(scales.chunks_mut(CHUNK / BLOCK));
    pieces.map(move |(codes, scales)| Part { map, codes, scales })
}

/// The same by Burn's operations, some blocks after the other: what they make in between is larger than what is kept.
pub(super) fn step_in_parts<const D: usize>(
    f: Factors,
    parameter: Tensor<D>,
    grad: Tensor<D>,
    moments: [Coded; 2],
) -> (Tensor<D>, Coded, Coded) {
    let shape = parameter.shape();
    let numbers = shape.num_elements();
    let blocks = numbers.div_ceil(BLOCK);
    let (parameter, grad) = (parameter.reshape([numbers]), grad.reshape([numbers]));
    let (mut stepped, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..blocks).step_by(BLOCKS_AT_ONCE) {
        let count = BLOCKS_AT_ONCE.min(blocks - start);
        let filled = count * BLOCK;
        let there = filled.min(numbers - start * BLOCK);
        let rows = |x: &Tensor<1>| {
            let x = x.clone().narrow(0, start * BLOCK, there);
            let x = if there < filled { x.pad([(0, filled - there)], 0.0) } else { x };
            x.reshape([count, BLOCK])
        };
        let [m, v] = [(&SIGNED, &moments[0]), (&UNSIGNED, &moments[1])]
            .map(|(map, moment)| moment.narrow(start, count).widen(map));
        let (p, m, v) = step_composed(f, rows(&parameter), rows(&grad), m, v);
        stepped.push(p.reshape([filled]).narrow(0, 0, there));
        first.push(Coded::nearest(&SIGNED, m));
        second.push(Coded::nearest(&UNSIGNED, v));
    }
    (Tensor::cat(stepped, 0).reshape(shape), Coded::cat(first), Coded::cat(second))
}
