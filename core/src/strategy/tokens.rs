//! What a loss sees of answers in words.

use burn::tensor::Tensor;

use crate::ops;

/// What the student says of T answer tokens: for each, its distribution over the vocabulary where the label's token stands, in five numbers.
///
/// A loss never sees the distributions themselves, of which there would be T × V numbers. These five are enough for every loss between a hard
/// label and p that is a function of p of the label's token and of sums over the vocabulary that all tokens share.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenView {
    /// With gradient.
    pub live: TokenNumbers,
    /// The same numbers, held still: for whatever decides and must carry no gradient, as [`targets`](super::StudentLoss::targets) do.
    pub still: TokenNumbers,
    /// Number of tokens V in the vocabulary: the K of a loss on classes.
    pub vocabulary: usize,
}

/// Numbers of T distributions, each `[T]`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenNumbers {
    /// log p of the label's token.
    pub label: Tensor<1>,
    /// log p of the token that the student would say, the likeliest one. Which one that is carries no gradient.
    pub own: Tensor<1>,
    /// Entropy H(p) in nats.
    pub entropy: Tensor<1>,
    /// Mean of log p over the vocabulary.
    pub mean: Tensor<1>,
    /// Σ p² over the vocabulary.
    pub square: Tensor<1>,
}

impl TokenView {
    /// From a table `[T, 5]` of [`ops::token_statistics`].
    pub fn new(numbers: Tensor<2>, vocabulary: usize) -> Self {
        let still = numbers.clone().detach();
        Self::beside(numbers, still, vocabulary)
    }

    /// From a table with gradient and one that is held still.
    pub(super) fn beside(live: Tensor<2>, still: Tensor<2>, vocabulary: usize) -> Self {
        Self { live: TokenNumbers::new(live), still: TokenNumbers::new(still), vocabulary }
    }

    /// From logits `[T, V]` that are there anyway, and T labels. For tests; the engine has no such logits.
    pub fn of(logits: Tensor<2>, labels: &[u32]) -> Self {
        let vocabulary = logits.dims()[1];
        Self::new(ops::statistics(super::math::widen(logits), labels), vocabulary)
    }

    /// Number of tokens T.
    pub fn len(&self) -> usize {
        self.live.label.dims()[0]
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cross-entropy with the label, −log p `[T]`.
    pub fn cross_entropy(&self) -> Tensor<1> {
        self.live.label.clone().neg()
    }

    /// Cross-entropy with the token that the student would say `[T]`; its gradient makes the student surer of it.
    pub fn own_cross_entropy(&self) -> Tensor<1> {
        self.live.own.clone().neg()
    }

    /// Reverse cross-entropy with the label `[T]`, which is smoothed and floored as in
    /// [`reverse_cross_entropy`](super::math::reverse_cross_entropy): −p log y − (1 − p) log y′, y′ being the label of any other token.
    pub fn reverse_cross_entropy(&self, smoothing: f64, floor: f64) -> Tensor<1> {
        let [label, other] = self.smoothed(smoothing).map(|label| label.max(floor).ln());
        let p = self.live.label.clone().exp();
        (p.clone() * label + (p.neg() + 1.0) * other).neg()
    }

    /// A hard label with a share ε spread over the vocabulary: what the label's token has, and what every other has.
    pub fn smoothed(&self, epsilon: f64) -> [f64; 2] {
        let each = epsilon / self.vocabulary as f64;
        [1.0 - epsilon + each, each]
    }
}

impl TokenNumbers {
    fn new(numbers: Tensor<2>) -> Self {
        let [label, own, entropy, mean, square] =
            [0, 1, 2, 3, 4].map(|index| super::math::column(numbers.clone(), index));
        Self { label, own, entropy, mean, square }
    }
}
