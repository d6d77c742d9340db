//! What Burn's optimizers lack: decay by rank, Adafactor's own step size, parameters in bfloat16, clipping by the global norm.

use burn::{
    module::{Module, ModuleVisitor, Param, ParamGroup},
    optim::{GradientsParams, ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource},
    tensor::{DType, Device, FloatDType, Tensor},
};

use crate::{ops, rng};

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

/// An optimizer of the parameters of a module, of which those at some paths are in bfloat16.
pub(super) fn of_module(optimizer: impl Optimizer, narrow: &[String]) -> ModuleOptimizer {
    narrow.iter().fold(optimizer.clone().into(), |all: ModuleOptimizer, path| {
        let rounding = Rounding { inner: optimizer.clone(), salt: rng::derive(0, path) };
        all.with_group(ParamGroup::from_path(path), rounding, None)
    })
}

/// The paths of a module's parameters that are trained in bfloat16, where the module itself is at `root`.
pub(super) fn narrow(model: &impl Module, root: &str) -> Vec<String> {
    struct Narrow(Vec<String>, Vec<String>);
    impl ModuleVisitor for Narrow {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() && param.val().dtype() == DType::BF16 {
                self.1.push(self.0.join("."));
            }
        }
    }
    let mut found = Narrow(vec![root.to_owned()], Vec::new());
    model.visit(&mut found);
    found.1
}

/// An optimizer of a parameter in bfloat16, which computes in float32: parameter and gradient are widened, and what comes of a step is
/// [rounded by chance](ops::round_by_chance). To the nearest number, steps below half a unit in the last place would be lost one and all.
///
/// Source: Gupta et al. 2015, "Deep Learning with Limited Numerical Precision", section 3; of weights alone, with all else in float32, Zamirai et al.
/// 2020, "Revisiting BFloat16 Training", section 4.
#[derive(Clone)]
struct Rounding<O> {
    inner: O,
    /// What tells the parameter from others, in every run.
    salt: u64,
}

/// The state of an optimizer, and how many times its parameter was rounded.
#[derive(Clone)]
struct Rounded<S> {
    inner: S,
    steps: u64,
}

/// Name of the number of steps in a record.
const STEPS: &str = "rounded";

impl<S: RecordState> RecordState for Rounded<S> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        self.inner.state_flatten(prefix, out);
        out.push_scalar(prefix, STEPS, self.steps.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let steps = src.take_scalar(prefix, STEPS)?.try_into().ok()?;
        Some(Self { inner: S::state_unflatten(prefix, src, device)?, steps })
    }
}

impl<O: Optimizer> Optimizer for Rounding<O> {
    type State<const D: usize> = Rounded<O::State<D>>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (steps, inner) = state.map_or((0, None), |state| (state.steps, Some(state.inner)));
        let (tensor, inner) = self.inner.step(lr, ops::widen(tensor), ops::widen(grad), inner);
        let key = rng::derive(self.salt, &steps.to_string());
        (ops::round_by_chance(tensor, key), inner.map(|inner| Rounded { inner, steps: steps + 1 }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        Rounded { inner: O::to_device(state.inner, device), ..state }
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

/// A gradient that is changed as float32, in the numbers that it is in.
fn scaled<const D: usize>(grad: Tensor<D>, change: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    let numbers = grad.dtype();
    let grad = change(ops::widen(grad));
    if grad.dtype() == numbers { grad } else { grad.cast(FloatDType::from(numbers)) }
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
            self.grads.register(param.id, scaled(grad, |grad| grad * self.factor));
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
            let factor = self.factor.clone().reshape([1; D]);
            self.grads.register(param.id, scaled(grad, |grad| grad * factor));
        }
    }
}
