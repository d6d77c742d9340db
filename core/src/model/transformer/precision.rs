//! In which numbers a model's matrices are held and multiplied with.
//!
//! In [`Precision::Bf16`], the matrices of its linear layers, its table of tokens and that of its language-model head enter every computation
//! as bfloat16, half as wide as float32 with as large a range. Where they are frozen they are held so. Where they are trained, the optimizer
//! has them in float32, and each pass rounds them anew (what PyTorch calls autocast; Micikevicius et al. 2018, "Mixed Precision Training",
//! section 3.1): a step smaller than the rounding would be lost otherwise. All else is float32: norms, biases, other tables, attention,
//! activations, heads, losses, adapters, gradients and the optimizer's state.
//!
//! In [`Precision::Bf16True`] they are held so where they are trained, too, and so are their gradients; there is no float32 of them. The optimizer
//! computes in float32, and what it gives is rounded by chance, so that no step is lost in the mean (Zamirai et al. 2020, "Revisiting BFloat16
//! Training", section 4).

use std::{fmt, str::FromStr};

use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::{DType, FloatDType, Tensor},
};
use serde::{Deserialize, Serialize};

use super::Transformer;

/// In which numbers a model's matrices are held and multiplied with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE single precision: 32 bits, of which 24 are significant.
    #[default]
    F32,
    /// bfloat16: the upper half of those 32 bits, of which 8 are significant.
    Bf16,
    /// The same, also of what is trained, and of its gradients.
    Bf16True,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Bf16True];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Bf16True => "bf16-true",
        }
    }

    /// Whether it is the default, which no identity mentions.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether matrices are held in bfloat16 where they are trained, or where they are not.
    pub fn narrows(self, trained: bool) -> bool {
        match self {
            Self::F32 => false,
            Self::Bf16 => !trained,
            Self::Bf16True => true,
        }
    }

    /// A matrix as computations take it. What is rounded here has the gradient of what it is rounded to.
    pub(in crate::model) fn of(self, matrix: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Bf16 | Self::Bf16True if matrix.dtype() == DType::F32 => matrix.cast(FloatDType::BF16),
            _ => matrix,
        }
    }

    /// A matrix as it is held where it is frozen.
    pub(in crate::model) fn held(self, matrix: Param<Tensor<2>>) -> Param<Tensor<2>> {
        match self.narrows(false) && matrix.val().dtype() == DType::F32 {
            true => in_numbers(FloatDType::BF16, matrix).set_require_grad(false),
            false => matrix,
        }
    }

    /// A matrix as it is held where it is trained; whether it is stays as it was.
    pub(in crate::model) fn trained(self, matrix: Param<Tensor<2>>) -> Param<Tensor<2>> {
        let held = matrix.val().dtype();
        let wanted = if self.narrows(true) { DType::BF16 } else { DType::F32 };
        if held == wanted { matrix } else { in_numbers(FloatDType::from(wanted), matrix) }
    }
}

/// The same parameter in other numbers.
fn in_numbers(numbers: FloatDType, matrix: Param<Tensor<2>>) -> Param<Tensor<2>> {
    let is_trained = matrix.is_require_grad();
    let (id, matrix, _) = matrix.consume();
    // What it was made from is no part of it.
    Param::initialized(id, matrix.detach().cast(numbers).detach()).set_require_grad(is_trained)
}

/// Whether the parameter at a path is among the matrices that a [`Precision`] is of.
pub(in crate::model) fn is_matrix(path: &str) -> bool {
    let in_block = path.starts_with("blocks.") && path.ends_with(".weight");
    in_block || path == "tokens.weight" || path == "lm_head.weight"
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|precision| precision.name() == text).ok_or_else(|| {
            let what = "choose `f32`, `bf16` for matrices of half the size where they are frozen, or `bf16-true` where they are trained, too";
            format!("`{text}` is no precision: {what} (docs/memory.md)")
        })
    }
}

impl Transformer {
    /// The same model computing in a precision; its weights stay as they are held until they are [frozen](Self::frozen), unless it is one that holds
    /// what is trained in numbers of its own.
    #[must_use]
    pub fn in_precision(mut self, precision: Precision) -> Self {
        self.dense().into_iter().for_each(|(_, dense)| dense.precision = precision);
        let model = Self { precision, ..self };
        if precision.narrows(true) { model.map_matrices(|matrix| precision.trained(matrix)) } else { model }
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
    pub fn held(self) -> Self {
        let precision = self.precision;
        if precision.is_default() { self } else { self.map_matrices(|matrix| precision.held(matrix)) }
    }

    /// The same model with each of the matrices that a precision is of changed.
    pub(super) fn map_matrices(mut self, change: impl Fn(Param<Tensor<2>>) -> Param<Tensor<2>>) -> Self {
        for (_, dense) in self.dense() {
            dense.weight = change(dense.weight.clone());
        }
        self.tokens.weight = change(self.tokens.weight);
        self.lm_head = self.lm_head.map(|head| Linear { weight: change(head.weight), ..head });
        self
    }
}
