//! In which numbers a model's matrices are held and multiplied with.
//!
//! In [`Precision::Bf16`], the matrices of its linear layers, its table of tokens and that of its language-model head enter every computation
//! as bfloat16, half as wide as float32 with as large a range. Where they are frozen they are held so. Where they are trained, the optimizer
//! has them in float32, and each pass rounds them anew (what PyTorch calls autocast; Micikevicius et al. 2018, "Mixed Precision Training",
//! section 3.1): a step smaller than the rounding would be lost otherwise. All else is float32: norms, biases, other tables, attention,
//! activations, heads, losses, adapters, gradients and the optimizer's state.

use std::{fmt, str::FromStr};

use burn::{
    module::{Module, Param, ParamId},
    nn::Linear,
    tensor::{DType, FloatDType, Tensor},
};
use serde::{Deserialize, Serialize};

use super::Transformer;

/// In which numbers a model's matrices are held and multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision: 32 bits, of which 24 are significant.
    #[default]
    F32,
    /// bfloat16: the upper half of those 32 bits, of which 8 are significant.
    Bf16,
}

impl Precision {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether it is the default, which no identity mentions.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// A matrix as computations take it. What is rounded here has the gradient of what it is rounded to.
    pub(in crate::model) fn of(self, matrix: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Bf16 if matrix.dtype() == DType::F32 => matrix.cast(FloatDType::BF16),
            _ => matrix,
        }
    }

    /// A matrix as it is held where it is frozen.
    pub(in crate::model) fn held(self, matrix: Param<Tensor<2>>) -> Param<Tensor<2>> {
        match self {
            Self::Bf16 if matrix.val().dtype() == DType::F32 => {
                let (id, matrix, _) = matrix.consume();
                constant(id, self.of(matrix.detach()))
            }
            _ => matrix,
        }
    }
}

/// Whether the parameter at a path is among the matrices that a [`Precision`] is of.
pub(in crate::model) fn is_matrix(path: &str) -> bool {
    let in_block = path.starts_with("blocks.") && path.ends_with(".weight");
    in_block || path == "tokens.weight" || path == "lm_head.weight"
}

/// A parameter that is not trained.
pub(super) fn constant<const D: usize>(id: ParamId, tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::initialized(id, tensor).set_require_grad(false)
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::F32, Self::Bf16];
        known.into_iter().find(|precision| precision.name() == text).ok_or_else(|| {
            format!("`{text}` is no precision: choose `f32`, or `bf16` for matrices of half the size (docs/memory.md)")
        })
    }
}

impl Transformer {
    /// The same model computing in a precision; its weights stay as they are held until they are [frozen](Self::frozen).
    #[must_use]
    pub fn in_precision(mut self, precision: Precision) -> Self {
        self.dense().into_iter().for_each(|(_, dense)| dense.precision = precision);
        Self { precision, ..self }
    }

    /// In which numbers its matrices are computed with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The same model with nothing to train, and its matrices [held](Self::held) in its precision.
    #[must_use]
    pub fn frozen(self) -> Self {
        self.no_grad().held()
    }

    /// The same model with its matrices held in its precision, to answer with: they are rounded once and not in every pass, and computations
    /// see the same numbers.
    #[must_use]
    pub fn held(mut self) -> Self {
        let precision = self.precision;
        if precision.is_default() {
            return self;
        }
        for (_, dense) in self.dense() {
            dense.weight = precision.held(dense.weight.clone());
        }
        self.tokens.weight = precision.held(self.tokens.weight);
        self.lm_head = self.lm_head.map(|head| Linear { weight: precision.held(head.weight), ..head });
        self
    }
}
