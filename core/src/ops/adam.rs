//! Adam and AdamW as PyTorch computes them, one pass over a parameter and its moments, in place where nobody else holds them.

use burn::optim::{AdaptiveMomentumState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};

use super::kernel::{CHUNK, Floats, each, from_plain, fusable, into_plain, values};
use super::math::vectorised;

/// Adam or AdamW with the semantics of `torch.optim.Adam` and `torch.optim.AdamW` (without AMSGrad). Goes where Burn's optimizers go:
/// `ModuleOptimizer::from(adam)`, or `with_group` for parameters with other settings.
///
/// Source: Kingma and Ba, "Adam", 2015, algorithm 1; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
/// algorithm 2.
#[derive(Debug, Clone, PartialEq)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay; 0 for none.
    pub weight_decay: f64,
    /// Whether the decay shrinks the parameters directly (AdamW) instead of joining the gradient (Adam).
    pub decoupled: bool,
}

impl Default for Adam {
    /// PyTorch's defaults for `Adam`: 0.9, 0.999, 1e-8, no decay.
    fn default() -> Self {
        Self { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decoupled: false }
    }
}

/// The numbers of one step, rounded to `f32` as late as PyTorch rounds them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    /// What parameters are multiplied with first (AdamW).
    shrink: f32,
    /// What parameters add to the gradient (Adam).
    decay: f32,
    gain_1: f32,
    beta_2: f32,
    gain_2: f32,
    /// Root of the second bias correction.
    correction: f32,
    epsilon: f32,
    step: f32,
}

impl Adam {
    pub(super) fn factors(&self, lr: LearningRate, time: usize) -> Factors {
        let time = i32::try_from(time).unwrap_or(i32::MAX);
        let (shrink, decay) =
            if self.decoupled { (1.0 - lr * self.weight_decay, 0.0) } else { (1.0, self.weight_decay) };
        Factors {
            shrink: shrink as f32,
            decay: decay as f32,
            gain_1: (1.0 - self.beta_1) as f32,
            beta_2: self.beta_2 as f32,
            gain_2: (1.0 - self.beta_2) as f32,
            correction: (1.0 - self.beta_2.powi(time)).sqrt() as f32,
            epsilon: self.epsilon as f32,
            step: (lr / (1.0 - self.beta_1.powi(time))) as f32,
        }
    }
}

vectorised! {
    pub(super) fn step_slices(f: Factors, parameter: &mut [f32], grad: &[f32], moment_1: &mut [f32], moment_2: &mut [f32]) {
        let moments = moment_1.iter_mut().zip(moment_2);
        for ((parameter, &grad), (m, v)) in parameter.iter_mut().zip(grad).zip(moments) {
            let p = *parameter * f.shrink;
            let g = p.mul_add(f.decay, grad);
            *m = (g - *m).mul_add(f.gain_1, *m);
            *v = (g * g).mul_add(f.gain_2, *v * f.beta_2);
            *parameter = p - f.step * (*m / (v.sqrt() / f.correction + f.epsilon));
        }
    }
}

fn step_fused(f: Factors, parameter: &mut Floats, grad: &Floats, moment_1: &mut Floats, moment_2: &mut Floats) {
    let grad = values(grad);
    let parameter = parameter.storage_mut::<f32>();
    let (m, v) = (moment_1.storage_mut::<f32>(), moment_2.storage_mut::<f32>());
    assert!(
        parameter.len() == grad.len() && m.len() == grad.len() && v.len() == grad.len(),
        "a parameter, its gradient and its moments must have one shape"
    );
    let moments = m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK));
    each(8 * grad.len(), parameter.chunks_mut(CHUNK).zip(grad.chunks(CHUNK)).zip(moments), |((p, g), (m, v))| {
        step_slices(f, p, g, m, v);
    });
}

impl Optimizer for Adam {
    type State<const D: usize> = AdaptiveMomentumState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let mut state = state.unwrap_or_else(|| AdaptiveMomentumState::new(0, grad.zeros_like(), grad.zeros_like()));
        state.time += 1;
        let f = self.factors(lr, state.time);
        let (tensor, moment_1, moment_2) = if fusable(&tensor) && fusable(&grad) && fusable(&state.moment_1) {
            let mut parameter = into_plain(tensor);
            let (mut m, mut v) = (into_plain(state.moment_1), into_plain(state.moment_2));
            step_fused(f, &mut parameter, &into_plain(grad), &mut m, &mut v);
            (from_plain(parameter), from_plain(m), from_plain(v))
        } else {
            step_composed(f, tensor, grad, state.moment_1, state.moment_2)
        };
        (tensor, Some(AdaptiveMomentumState::new(state.time, moment_1, moment_2)))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.to_device(device)
    }
}

pub(super) fn step_composed<const D: usize>(
    f: Factors,
    parameter: Tensor<D>,
    grad: Tensor<D>,
    m: Tensor<D>,
    v: Tensor<D>,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let p = parameter * f.shrink;
    let grad = if f.decay == 0.0 { grad } else { p.clone() * f.decay + grad };
    let m = m.clone() + (grad.clone() - m) * f.gain_1;
    let v = v * f.beta_2 + grad.clone() * grad * f.gain_2;
    let p = p - m.clone() / (v.clone().sqrt() / f.correction + f.epsilon) * f.step;
    (p, m, v)
}
