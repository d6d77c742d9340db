//! How a fused operation joins Burn: an operation is a [`Kernel`] over slices of `f32`, and [`run`] gives it to the Flex (CPU)
//! backend, with or without automatic differentiation around it.
//!
//! Results do not depend on the number of threads: work is cut into pieces whose size is fixed ([`CHUNK`] and the row counts in the
//! kernels), every element is computed by one piece, and partial sums are added in the order of the pieces.

use std::fmt::Debug;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    Autodiff, BackendTensor, DispatchAutodiffContext, DispatchDevice, DispatchKindConversion, DispatchTensor, Flex,
    GradientCheckpointingStrategy,
};
use burn::tensor::{DType, Element, Int, Shape, Tensor, TensorData};
use half::bf16;
use rayon::prelude::*;

/// A tensor of the Flex backend.
pub(super) type Floats = FloatTensor<Flex>;
/// A tensor of integers of the Flex backend.
pub(super) type Integers = IntTensor<Flex>;

/// Elements per piece of element-wise work.
pub(super) const CHUNK: usize = 16 * 1024;

/// Work, in element operations, below which handing pieces to other threads costs more than it saves.
const WORTH_SHARING: usize = 64 * 1024;

/// An operation on N tensors with a derivative of its own.
pub(super) trait Kernel<const N: usize>: Debug + Clone + Send + 'static {
    /// What the backward pass needs from the forward pass.
    type Saved: Debug + Clone + Send + 'static;

    /// Computes the result, and what to keep if `keep`. Inputs are contiguous.
    fn forward(&self, inputs: [Floats; N], keep: bool) -> (Floats, Option<Self::Saved>);

    /// The same operation where only the `wanted` inputs have a gradient: what the others' would need is not worth keeping.
    #[must_use]
    fn wanting(self, _wanted: [bool; N]) -> Self {
        self
    }

    /// Turns the gradient of the result (contiguous) into those of the `wanted` inputs.
    fn backward(&self, saved: Self::Saved, grad: Floats, wanted: [bool; N]) -> [Option<Floats>; N];
}

static COMPOSED: AtomicBool = AtomicBool::new(false);

/// Runs Burn's own operations in place of the fused ones from here on, in the whole process: what a benchmark compares with.
pub fn use_composed(composed: bool) {
    COMPOSED.store(composed, Ordering::Relaxed);
}

/// Whether fused operations take this tensor: `f32` on the Flex backend. All others run Burn's own operations.
pub(super) fn fusable<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_flex(x)
}

/// Whether fused operations take this tensor as a matrix of weights: those of linear layers and tables may be `bf16`, too.
pub(super) fn fusable_weight(weight: &Tensor<2>) -> bool {
    matches!(weight.dtype(), DType::F32 | DType::BF16) && is_flex(weight)
}

/// Whether a tensor is where fused operations run.
fn is_flex<const D: usize>(x: &Tensor<D>) -> bool {
    if COMPOSED.load(Ordering::Relaxed) {
        return false;
    }
    let device = x.device();
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(inner) => matches!(**inner, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// Applies a kernel to tensors that are [`fusable`].
pub(super) fn run<K: Kernel<N>, const N: usize>(kernel: K, inputs: [DispatchTensor; N]) -> DispatchTensor {
    let context =
        inputs.iter().fold(DispatchAutodiffContext::Disabled, |context, tensor| context.merge(tensor.autodiff));
    match context {
        DispatchAutodiffContext::Disabled => {
            let (output, _) = kernel.forward(inputs.map(|tensor| plain(tensor).to_contiguous()), false);
            <DispatchTensor as DispatchKindConversion<Flex>>::from_backend(BackendTensor::Float(output))
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Disabled) => {
            tracked::<K, NoCheckpointing, N>(kernel, inputs)
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced) => {
            tracked::<K, BalancedCheckpointing, N>(kernel, inputs)
        }
    }
}

/// The primitive of a tensor without automatic differentiation.
fn plain(tensor: DispatchTensor) -> Floats {
    on_flex(tensor).float()
}

/// A tensor of the Flex backend, without automatic differentiation.
fn on_flex(tensor: DispatchTensor) -> BackendTensor<Flex> {
    match <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(tensor) {
        Ok(tensor) => tensor,
        Err(message) => unreachable!("a fusable tensor is on the Flex backend: {message}"),
    }
}

/// The primitive of a [`fusable`] tensor that takes no part in automatic differentiation.
pub(super) fn into_plain<const D: usize>(tensor: Tensor<D>) -> Floats {
    plain(tensor.into_dispatch()).to_contiguous()
}

/// The primitive of a tensor of integers beside [`fusable`] ones.
pub(super) fn into_plain_int<const D: usize>(tensor: Tensor<D, Int>) -> Integers {
    on_flex(tensor.into_dispatch()).int().to_contiguous()
}

/// The tensor of a primitive of integers.
pub(super) fn from_plain_int<const D: usize>(tensor: Integers) -> Tensor<D, Int> {
    Tensor::from_dispatch(<DispatchTensor as DispatchKindConversion<Flex>>::from_backend(BackendTensor::Int(tensor)))
}

/// The tensor of a primitive.
pub(super) fn from_plain<const D: usize>(tensor: Floats) -> Tensor<D> {
    Tensor::from_dispatch(<DispatchTensor as DispatchKindConversion<Flex>>::from_backend(BackendTensor::Float(tensor)))
}

fn tracked<K, C, const N: usize>(kernel: K, inputs: [DispatchTensor; N]) -> DispatchTensor
where
    K: Kernel<N>,
    C: CheckpointStrategy,
    DispatchTensor: DispatchKindConversion<Autodiff<Flex, C>>,
{
    let inputs = inputs.map(|tensor| match tensor.autodiff {
        // A constant among differentiable inputs.
        DispatchAutodiffContext::Disabled => <FloatTensor<Autodiff<Flex, C>>>::new(plain(tensor)),
        DispatchAutodiffContext::Enabled(_) => {
            match <DispatchTensor as DispatchKindConversion<Autodiff<Flex, C>>>::try_into_backend(tensor) {
                Ok(tensor) => tensor.float(),
                Err(message) => unreachable!("a fusable tensor is on the Flex backend: {message}"),
            }
        }
    });
    let nodes = inputs.each_ref().map(|tensor| tensor.node());
    let wanted = inputs.each_ref().map(|tensor| tensor.is_tracked());
    let values = inputs.map(|tensor| tensor.into_primitive().to_contiguous());
    let output = match Step(kernel.clone()).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (output, saved) = kernel.wanting(wanted).forward(values, true);
            match saved {
                Some(saved) => prepared.finish(saved, output),
                None => unreachable!("a kernel saves what it was asked to keep"),
            }
        }
        OpsKind::UnTracked(prepared) => prepared.finish(kernel.forward(values, false).0),
    };
    <DispatchTensor as DispatchKindConversion<Autodiff<Flex, C>>>::from_backend(BackendTensor::Float(output))
}

/// The backward pass of a kernel as Burn wants it.
#[derive(Debug)]
struct Step<K>(K);

impl<K: Kernel<N>, const N: usize> Backward<Flex, N> for Step<K> {
    type State = K::Saved;

    fn backward(self, ops: Ops<K::Saved, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = self.0.backward(ops.state, grad, wanted);
        for (parent, result) in ops.parents.into_iter().zip(results) {
            if let (Some(parent), Some(result)) = (parent, result) {
                grads.register::<Flex>(parent.id, result);
            }
        }
    }
}

/// Whether the gradient of a matrix of weights is to be as narrow as it is: where it is a parameter in `bf16` itself. What was made of a parameter
/// on the way has its gradient in `f32`, whatever it is in.
pub(super) fn rounds(weight: &Tensor<2>) -> bool {
    is_narrow(weight) && weight.is_require_grad()
}

/// Whether a tensor of any number of dimensions is one in `bf16` that operations of this module take.
pub(super) fn is_narrow<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::BF16 && is_flex(x)
}

/// A tensor that owns `values`.
pub(super) fn tensor<E: Element>(values: Vec<E>, shape: impl Into<Shape>) -> Floats {
    Floats::from_data(TensorData::new(values, shape))
}

/// The elements of a contiguous tensor.
pub(super) fn values(tensor: &Floats) -> &[f32] {
    tensor.storage::<f32>()
}

/// The elements of a contiguous matrix of weights.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weights<'a> {
    F32(&'a [f32]),
    /// Widened wherever they are computed with.
    Bf16(&'a [bf16]),
}

/// The elements of a contiguous tensor that is a [matrix of weights](fusable_weight).
pub(super) fn weights(tensor: &Floats) -> Weights<'_> {
    match tensor.dtype() {
        DType::BF16 => Weights::Bf16(tensor.storage::<bf16>()),
        _ => Weights::F32(values(tensor)),
    }
}

/// The shape of a tensor, and the width of its last dimension.
pub(super) fn shape(tensor: &Floats) -> (Shape, usize) {
    let shape = tensor.layout().shape().clone();
    let width = shape[shape.num_dims() - 1];
    (shape, width)
}

/// A vector of `len` elements that `fill` writes: large results are not zeroed first.
///
/// # Safety
/// `fill` must initialise every element.
pub(super) unsafe fn filled<T>(len: usize, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: capacity was reserved, and the caller promises that the elements are initialised.
    unsafe { values.set_len(len) };
    values
}

/// Runs `work` on every item, on several threads if `cost` (element operations in total) is worth it.
pub(super) fn each<T: Send>(cost: usize, items: impl ExactSizeIterator<Item = T>, work: impl Fn(T) + Sync + Send) {
    if shared(cost, items.len()) {
        let items: Vec<T> = items.collect();
        items.into_par_iter().with_max_len(1).for_each(work);
    } else {
        items.for_each(work);
    }
}

/// As [`each`], with a result per item, in order.
pub(super) fn map_each<T: Send, R: Send>(
    cost: usize,
    items: impl ExactSizeIterator<Item = T>,
    work: impl Fn(T) -> R + Sync + Send,
) -> Vec<R> {
    if shared(cost, items.len()) {
        let items: Vec<T> = items.collect();
        items.into_par_iter().with_max_len(1).map(work).collect()
    } else {
        items.map(work).collect()
    }
}

fn shared(cost: usize, items: usize) -> bool {
    cost >= WORTH_SHARING && items > 1 && rayon::current_num_threads() > 1
}

/// Cuts rows of `width` elements at the given ranges of rows, which must be in order and not overlap: the ranges, and the gaps before,
/// between and after them.
pub(super) fn split_rows<T>(
    mut rest: &mut [T],
    width: usize,
    ranges: impl Iterator<Item = Range<usize>>,
) -> (Vec<&mut [T]>, Vec<&mut [T]>) {
    let (mut pieces, mut gaps) = (Vec::new(), Vec::new());
    let mut at = 0;
    for range in ranges {
        assert!(at <= range.start && range.start <= range.end, "row ranges must be in order and must not overlap");
        let (gap, after) = rest.split_at_mut((range.start - at) * width);
        let (piece, after) = after.split_at_mut(range.len() * width);
        gaps.push(gap);
        pieces.push(piece);
        rest = after;
        at = range.end;
    }
    gaps.push(rest);
    (pieces, gaps)
}
