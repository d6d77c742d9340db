//! What Burn's optimizers lack: decay by rank, Adafactor's own step size, clipping by the global norm.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{GradientsParams, Optimizer},
    tensor::{Device, FloatDType, Tensor},
};

use crate::ops;

/// One setting for parameters of two or more dimensions, another for gains and biases.
#[derive(Clone)]
pub(super) struct ByRank<O> {
    pub(super) matrices: O,
    pub(super) rest: O,
}

impl<O: Optimizer> Optimizer for ByRank<O> {
    type State<const D: usize> = O::State<D>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let chosen = if D >= 2 { &self.matrices } else { &self.rest };
        chosen.step(lr, tensor, grad, state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        O::to_device(state, device)
    }
}

/// An optimizer that is always given the same learning rate.
#[derive(Clone)]
pub(super) struct FixedRate<O>(pub(super) O, pub(super) f64);

impl<O: Optimizer> Optimizer for FixedRate<O> {
    type State<const D: usize> = O::State<D>;

    fn step<const D: usize>(
        &self,
        _lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        self.0.step(self.1, tensor, grad, state)
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        O::to_device(state, device)
    }
}

/// Scales all gradients by one factor so that their common norm is at most `limit`, and returns the norm before (PyTorch's
/// `clip_grad_norm_`). A norm that is not finite is returned and changes nothing.
///
/// Burn's own `GradientClipping::Norm` limits each tensor by itself, which is another method.
pub(super) fn clip<M: Module>(model: &M, grads: &mut GradientsParams, limit: f64) -> f64 {
    let mut squares = Squares { grads, sums: Vec::new() };
    model.visit(&mut squares);
    let sums = squares.sums;
    if sums.is_empty() {
        return 0.0;
    }
    // One transfer for all tensors; the sum over them on the host, in the module's order.
    let sums = Tensor::cat(sums, 0).cast(FloatDType::F32).into_data();
    let norm = sums.iter::<f32>().map(f64::from).sum::<f64>().sqrt();
    if norm.is_finite() {
        let factor = limit / (norm + 1e-6);
        if factor < 1.0 {
            model.visit(&mut Scale { grads, factor });
        }
    }
    norm
}

/// The same without a look at the norm, which comes back as `[1]`: a device need not wait for the host. None where there are no gradients.
///
/// A norm that is not finite makes gradients that are not: the model is lost, and whoever looks at the norm must say so.
pub(super) fn clip_unseen<M: Module>(model: &M, grads: &mut GradientsParams, limit: f64) -> Option<Tensor<1>> {
    let mut squares = Squares { grads, sums: Vec::new() };
    model.visit(&mut squares);
    let sums = squares.sums;
    if sums.is_empty() {
        return None;
    }
    let norm = Tensor::cat(sums, 0).cast(FloatDType::F32).sum().sqrt();
    let factor = (norm.clone() + 1e-6).recip().mul_scalar(limit).clamp_max(1.0);
    model.visit(&mut ScaleBy { grads, factor });
    Some(norm)
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            self.sums.push(ops::squared_norm(grad));
        }
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad * self.factor);
        }
    }
}

/// The same by a factor `[1]` that only the device knows.
struct ScaleBy<'a> {
    grads: &'a mut GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for ScaleBy<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            let factor = self.factor.clone().reshape([1; D]).cast(grad.dtype());
            self.grads.register(param.id, grad * factor);
        }
    }
}
