//! How a model is trained: the part of a method that is not its loss.

use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdafactorConfig, ModuleOptimizer, SgdConfig, decay::WeightDecayConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    optimizer::{ByRank, FixedRate, of_module},
    sampler::Order,
    schedule::{Schedule, Shape},
};
use crate::{Error, Result, ops, strategy::Settings};

/// Which optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Adam as in PyTorch; `weight_decay` is an L2 penalty.
    #[default]
    Adam,
    /// AdamW as in PyTorch: the decay is decoupled from the gradient.
    Adamw,
    /// `adam` with moments in 8 bits a number, by blocks of 256 as in bitsandbytes; tensors with fewer than 4096 numbers keep float32.
    #[serde(rename = "adam-8bit")]
    Adam8bit,
    /// `adamw` with moments in 8 bits a number, as `adam-8bit`.
    #[serde(rename = "adamw-8bit")]
    Adamw8bit,
    /// Adafactor as in `torch_optimizer`: with `relative_step`, its own step size instead of the learning rate.
    Adafactor,
    /// Stochastic gradient descent as in PyTorch, with `momentum`.
    Sgd,
}

impl Optimizer {
    /// Whether weight decay shrinks parameters instead of joining the gradient.
    fn decouples(self) -> bool {
        matches!(self, Self::Adamw | Self::Adamw8bit)
    }
}

/// Which parameters weight decay applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decayed {
    /// All of them.
    #[default]
    All,
    /// Those with two or more dimensions: no gains of norms and no biases.
    Matrices,
}

/// How a model is trained. The defaults are those of openai/weak-to-strong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Passes over the data; the optimizer takes `floor(rows * epochs / batch_size)` steps.
    ///
    /// Origin: openai/weak-to-strong, 2.
    pub epochs: usize,
    /// Examples in one optimizer step.
    ///
    /// Origin: openai/weak-to-strong, 32.
    pub batch_size: usize,
    /// Peak learning rate.
    ///
    /// Origin: openai/weak-to-strong, 1e-5 for its larger models; models usually bring their own.
    pub learning_rate: f64,
    /// Which optimizer: `adam`, `adamw`, `adafactor` or `sgd`, or with moments in 8 bits `adam-8bit` or `adamw-8bit`.
    ///
    /// Origin: openai/weak-to-strong, `adam`.
    pub optimizer: Optimizer,
    /// Decay of the first and second moment of `adam` and `adamw`, in 8 bits or not.
    ///
    /// Origin: PyTorch, 0.9 and 0.999.
    pub betas: [f64; 2],
    /// Added to the denominator of `adam` and `adamw`, in 8 bits or not.
    ///
    /// Origin: PyTorch, 1e-8.
    pub epsilon: f64,
    /// Weight decay; without a value, 0.01 for `adamw` and `adamw-8bit` and 0 for the others.
    ///
    /// Origin: PyTorch.
    pub weight_decay: Option<f64>,
    /// What decays: `all` parameters or `matrices` alone (neither norms nor biases).
    ///
    /// Origin: PyTorch, `all`.
    pub decayed: Decayed,
    /// Momentum of `sgd`.
    ///
    /// Origin: PyTorch, 0.
    pub momentum: f64,
    /// For `adafactor`: take `min(0.01, 1 / sqrt(step))` for the step size and ignore learning rate and schedule.
    ///
    /// Origin: `torch_optimizer`, true; openai/weak-to-strong leaves it on.
    pub relative_step: bool,
    /// For `adafactor`: multiply the step size by the parameter's root mean square, at least 0.001.
    ///
    /// Origin: `torch_optimizer`, true.
    pub scale_parameter: bool,
    /// How the learning rate falls: `cosine`, `linear` or `constant`.
    ///
    /// Origin: openai/weak-to-strong, `cosine`.
    pub schedule: Shape,
    /// Steps over which the learning rate rises from 0.
    ///
    /// Origin: openai/weak-to-strong, 0.
    pub warmup_steps: usize,
    /// The same as a part of all steps, rounded up; give one of the two.
    ///
    /// Origin: openai/weak-to-strong, 0.
    pub warmup_fraction: f64,
    /// Scales the gradient down to this norm over all parameters, as PyTorch's `clip_grad_norm_`; without a value, never.
    ///
    /// Origin: openai/weak-to-strong, none.
    pub clip: Option<f64>,
    /// Order of the examples: `stored`, `shuffled` or `bucketed` (shuffled, then batches of similar length).
    ///
    /// Origin: openai/weak-to-strong, `stored`.
    pub order: Order,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 2,
            batch_size: 32,
            learning_rate: 1e-5,
            optimizer: Optimizer::Adam,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: None,
            decayed: Decayed::All,
            momentum: 0.0,
            relative_step: true,
            scale_parameter: true,
            schedule: Shape::Cosine,
            warmup_steps: 0,
            warmup_fraction: 0.0,
            clip: None,
            order: Order::Stored,
        }
    }
}

impl Settings for Recipe {}

impl Recipe {
    /// Refuses values out of their range and keys that the chosen optimizer does not read.
    ///
    /// # Errors
    /// Names the key, what is allowed and the value.
    pub fn validate(&self) -> Result<()> {
        let positive = |key: &str, value: usize| match value {
            0 => Err(Error::new(format!("`{key}` must be at least 1, not 0"))),
            _ => Ok(()),
        };
        let within = |key: &str, value: f64, low: f64, high: f64| {
            let inside = value.is_finite() && (low..=high).contains(&value);
            let message = if high.is_finite() {
                format!("`{key}` must be between {low} and {high}, not {value}")
            } else {
                format!("`{key}` must be a number of at least {low}, not {value}")
            };
            if inside { Ok(()) } else { Err(Error::new(message)) }
        };
        let only = |key: &str, used: bool, optimizer: &str| {
            let hint = format!("set `optimizer = \"{optimizer}\"` or leave `{key}` out");
            if used { Err(Error::new(format!("`{key}` is for `{optimizer}` alone")).help(hint)) } else { Ok(()) }
        };
        positive("epochs", self.epochs)?;
        positive("batch_size", self.batch_size)?;
        within("learning_rate", self.learning_rate, 0.0, f64::INFINITY)?;
        within("epsilon", self.epsilon, 0.0, f64::INFINITY)?;
        for beta in self.betas {
            within("betas", beta, 0.0, 1.0 - f64::EPSILON)?;
        }
        within("weight_decay", self.decay(), 0.0, f64::INFINITY)?;
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("warmup_fraction", self.warmup_fraction, 0.0, 1.0)?;
        if self.warmup_steps > 0 && self.warmup_fraction > 0.0 {
            return Err(Error::new("`warmup_steps` and `warmup_fraction` are both set").help("keep one of them"));
        }
        if let Some(clip) = self.clip {
            within("clip", clip, f64::MIN_POSITIVE, f64::INFINITY)?;
        }
        only("momentum", self.momentum != 0.0 && self.optimizer != Optimizer::Sgd, "sgd")?;
        let adafactor = self.optimizer == Optimizer::Adafactor;
        only("relative_step", !self.relative_step && !adafactor, "adafactor")?;
        only("scale_parameter", !self.scale_parameter && !adafactor, "adafactor")?;
        if adafactor && self.decay() != 0.0 {
            return Err(Error::new("`weight_decay` is not available for `adafactor`").help("leave it out"));
        }
        Ok(())
    }

    /// The weight decay that applies.
    pub fn decay(&self) -> f64 {
        self.weight_decay.unwrap_or(if self.optimizer.decouples() { 0.01 } else { 0.0 })
    }

    /// The learning rate of each of `steps` steps.
    pub fn schedule(&self, steps: usize) -> Schedule {
        let fraction = (self.warmup_fraction * steps as f64).ceil() as usize;
        Schedule::new(self.schedule, self.learning_rate, self.warmup_steps.max(fraction), steps)
    }

    /// The optimizer, without state, of a module whose parameters at some paths are in bfloat16.
    pub(super) fn optimizer(&self, narrow: &[String]) -> ModuleOptimizer {
        // One weight decay for matrices and another for the rest.
        let matrices = self.decay();
        let rest = if self.decayed == Decayed::All { matrices } else { 0.0 };
        let ([beta_1, beta_2], epsilon, decoupled) = (self.betas, self.epsilon, self.optimizer.decouples());
        let adam = |weight_decay| ops::Adam { beta_1, beta_2, epsilon, weight_decay, decoupled };
        match self.optimizer {
            Optimizer::Adam | Optimizer::Adamw => {
                of_module(ByRank { matrices: adam(matrices), rest: adam(rest) }, narrow)
            }
            Optimizer::Adam8bit | Optimizer::Adamw8bit => {
                let with = |decay| ops::Adam8bit { adam: adam(decay), smallest: ops::Adam8bit::SMALLEST };
                of_module(ByRank { matrices: with(matrices), rest: with(rest) }, narrow)
            }
            Optimizer::Sgd => {
                // PyTorch's momentum: no dampening, no Nesterov.
                let momentum = MomentumConfig::new().with_momentum(self.momentum).with_dampening(0.0);
                let momentum = (self.momentum != 0.0).then_some(momentum);
                let penalty = |decay: f64| (decay != 0.0).then(|| WeightDecayConfig::new(decay as f32));
                let sgd = SgdConfig::new().with_momentum(momentum);
                let with = |decay| sgd.clone().with_weight_decay(penalty(decay)).build();
                of_module(ByRank { matrices: with(matrices), rest: with(rest) }, narrow)
            }
            Optimizer::Adafactor => {
                let adafactor = AdafactorConfig::new()
                    .with_relative_step(self.relative_step)
                    .with_scale_parameter(self.scale_parameter)
                    .build();
                // torch_optimizer caps its own step size by 0.01 where Burn caps it by the learning rate.
                match self.relative_step {
                    true => of_module(FixedRate(adafactor, 1e-2), narrow),
                    false => of_module(adafactor, narrow),
                }
            }
        }
    }
}
