//! Low-rank adapters (Hu et al. 2021, LoRA): `x W + s (x A) B` with `W` as it was pretrained, and only `A` and `B` trained.
//!
//! The update `s A B` is never there as a matrix while a model trains or answers, nor is its gradient. `W` has no gradient and no moments, and
//! what lies before the first adapter leaves no graph behind.

use burn::{
    module::{Module, Param},
    tensor::{Device, FloatDType, Tensor, TensorData, activation::relu},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    arch,
    spec::{Activation, Spec},
    transformer::Precision,
};
use crate::{Error, Result, ops, rng::Rng, strategy::Settings};

/// All linear layers of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

/// `[lora]` of a model: what of it is trained, in place of its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rank r of the update.
    ///
    /// Origin: peft, 8.
    pub rank: usize,
    /// The update is multiplied by `alpha / rank`.
    ///
    /// Origin: peft, 8.
    pub alpha: f64,
    /// Multiply by `alpha / √rank` instead (Kalajdzievski 2023, rsLoRA).
    ///
    /// Origin: peft, false.
    pub rslora: bool,
    /// Dropout before the adapters; 0 alone, as models are trained without any here.
    ///
    /// Origin: peft, 0.
    pub dropout: f64,
    /// The linear layers that get an adapter, by the end of their names in transformers (`q_proj`, `mlp.down_proj`), or `all-linear`.
    ///
    /// Origin: Dettmers et al. 2023 (QLoRA), section 4: all linear layers.
    pub targets: Vec<String>,
}

impl Default for Lora {
    fn default() -> Self {
        Self { rank: 8, alpha: 8.0, rslora: false, dropout: 0.0, targets: vec![ALL_LINEAR.to_owned()] }
    }
}

impl Settings for Lora {}

impl Lora {
    /// Refuses values out of their range. The message names the key first.
    ///
    /// # Errors
    /// A rank of 0, an alpha that is not above 0, dropout, no targets.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::new("`rank` must be at least 1, not 0").help("leave `[lora]` out to train all weights"));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            let message = format!("`alpha` must be a number above 0, not {}", self.alpha);
            return Err(Error::new(message).help("`alpha` equal to `rank` multiplies the update by 1"));
        }
        if self.dropout != 0.0 {
            let message = format!("`dropout` must be 0, not {}: models are trained without dropout here", self.dropout);
            return Err(Error::new(message).help("leave it out"));
        }
        if self.targets.is_empty() {
            return Err(Error::new("`targets` is empty: nothing would be trained but the head").help(
                "leave it out for all linear layers, or set `head = { freeze_backbone = true }` in place of `[lora]`",
            ));
        }
        Ok(())
    }

    /// The same with the targets by their names in a model's files, sorted: two ways of saying one thing become one.
    ///
    /// # Errors
    /// Values out of their range, a target that is no linear layer of the model's blocks (names those that are), a rank that is no smaller
    /// than a layer.
    pub fn on(&self, spec: &Spec) -> Result<Self> {
        self.validate()?;
        let known = arch::find(spec.architecture)?.adaptable();
        let mut targets = Vec::new();
        for target in &self.targets {
            let meant = known.iter().filter(|name| target == ALL_LINEAR || fits(name, target));
            let before = targets.len();
            targets.extend(meant.map(|name| (*name).to_owned()));
            if targets.len() == before {
                let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let message =
                    format!("`targets` names `{target}`, which is no linear layer of a `{}`", spec.architecture);
                return Err(Error::new(message).help(format!("choose among {names}, or `{ALL_LINEAR}`")));
            }
        }
        targets.sort_unstable();
        targets.dedup();
        if spec.layers == 0 {
            return Err(Error::new("`[lora]` has nothing to adapt in a model without layers").help("leave it out"));
        }
        let widest = spec.hidden.min(spec.inner);
        if self.rank > widest {
            let message = format!("`rank` = {} is more than the {widest} dimensions of a layer", self.rank);
            return Err(
                Error::new(message).help("choose a smaller one, such as 8; leave `[lora]` out to train all weights")
            );
        }
        Ok(Self { targets, ..self.clone() })
    }

    /// What the update is multiplied by.
    pub(super) fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// Whether a module's name ends in a target, at a dot: peft's rule for lists.
pub(super) fn fits(name: &str, target: &str) -> bool {
    name.strip_suffix(target).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A linear layer of a block, `[inputs, outputs]`, with an adapter or without.
#[derive(Module, Debug)]
pub(super) struct Dense {
    pub weight: Param<Tensor<2>>,
    pub bias: Option<Param<Tensor<1>>>,
    pub lora: Option<Adapter>,
    #[module(skip)]
    pub precision: Precision,
}

/// `A` `[inputs, rank]` and `B` `[rank, outputs]`.
#[derive(Module, Debug)]
pub(super) struct Adapter {
    pub a: Param<Tensor<2>>,
    pub b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
}

impl Adapter {
    /// From values that lie as in the model.
    pub fn of(a: Vec<f32>, b: Vec<f32>, [inputs, rank, outputs]: [usize; 3], scale: f64, device: &Device) -> Self {
        let param = |values, shape: [usize; 2]| Param::from_data(TensorData::new(values, shape), device);
        Self { a: param(a, [inputs, rank]), b: param(b, [rank, outputs]), scale }
    }

    /// A fresh one, which changes nothing yet: `A` uniform within ±1/√inputs, `B` zero.
    ///
    /// Source: `LoraLayer.reset_lora_parameters` of peft (`kaiming_uniform_` with a = √5).
    fn fresh([inputs, outputs]: [usize; 2], lora: &Lora, path: &str, seed: u64, device: &Device) -> Self {
        let mut rng = Rng::named(seed, &format!("{path}.lora.a"));
        let bound = (inputs as f64).sqrt().recip();
        let a = (0..inputs * lora.rank).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
        Self::of(a, vec![0.0; lora.rank * outputs], [inputs, lora.rank, outputs], lora.scale(), device)
    }

    /// `s x A`.
    fn narrow<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let inner = ops::linear(x, self.a.val(), None);
        if self.scale == 1.0 { inner } else { inner.mul_scalar(self.scale) }
    }

    /// `y + s (x A) B`.
    fn onto<const D: usize>(&self, x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
        ops::linear_residual(self.narrow(x), self.b.val(), None, y)
    }
}

impl Dense {
    fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(|bias| bias.val())
    }

    /// `W` as it is computed with.
    fn matrix(&self) -> Tensor<2> {
        self.precision.of(self.weight.val())
    }

    /// `x W + b`, and what the adapter adds.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let Some(adapter) = &self.lora else { return ops::linear(x, self.matrix(), self.bias()) };
        let y = ops::linear(x.clone(), self.matrix(), self.bias());
        adapter.onto(x, y)
    }

    /// The layer and an activation; `None` is max(x, 0).
    pub fn activated(&self, x: Tensor<2>, f: Option<ops::Activation>) -> Tensor<2> {
        let y = match (&self.lora, f) {
            (None, _) => ops::linear_then(x, self.matrix(), self.bias(), f),
            (Some(_), None) => self.forward(x),
            (Some(_), Some(f)) => ops::activate(f, self.forward(x)),
        };
        if f.is_none() { relu(y) } else { y }
    }

    /// The layer added to the residual stream.
    pub fn onto(&self, x: Tensor<2>, stream: Tensor<2>) -> Tensor<2> {
        let Some(adapter) = &self.lora else {
            return ops::linear_residual(x, self.matrix(), self.bias(), stream);
        };
        let y = ops::linear_residual(x.clone(), self.matrix(), self.bias(), stream);
        adapter.onto(x, y)
    }

    /// The outputs `start..start + width` alone.
    pub fn columns(&self, start: usize, width: usize, x: Tensor<2>) -> Tensor<2> {
        let bias = self.bias().map(|bias| bias.narrow(0, start, width));
        let weight = self.precision.of(ops::columns(self.weight.val(), start, width));
        let Some(adapter) = &self.lora else { return ops::linear(x, weight, bias) };
        let y = ops::linear(x.clone(), weight, bias);
        ops::linear_residual(adapter.narrow(x), adapter.b.val().narrow(1, start, width), None, y)
    }

    /// Puts a fresh adapter on it.
    pub fn adapt(&mut self, lora: &Lora, path: &str, seed: u64) {
        let weight = self.weight.val();
        self.lora = Some(Adapter::fresh(weight.dims(), lora, path, seed, &weight.device()));
    }

    /// Lets its adapter be trained, if it has one.
    pub fn train_adapter(&mut self) {
        let trained = |param: Param<Tensor<2>>| param.set_require_grad(true);
        self.lora = self.lora.take().map(|of| Adapter { a: trained(of.a), b: trained(of.b), scale: of.scale });
    }

    /// Takes its adapter into its weight, `W + s A B` in float32, which is then held as what is trained.
    pub fn merge(&mut self) {
        let Some(adapter) = self.lora.take() else { return };
        let device = self.weight.val().device();
        let inner = |param: &Param<Tensor<2>>| match device.is_autodiff() {
            true => param.val().inner(),
            false => param.val(),
        };
        let a = inner(&adapter.a).mul_scalar(adapter.scale);
        let weight = inner(&self.weight).cast(FloatDType::F32);
        let merged = ops::linear_residual(a, inner(&adapter.b), None, weight);
        self.weight = self.precision.trained(Param::from_data(merged.into_data(), &device));
    }
}

/// The activations that have an operation of their own.
pub(super) fn fused(activation: Activation) -> Option<ops::Activation> {
    match activation {
        Activation::GeluTanh => Some(ops::Activation::GeluTanh),
        Activation::GeluErf => Some(ops::Activation::GeluErf),
        Activation::Silu => Some(ops::Activation::Silu),
        Activation::Relu => None,
    }
}
