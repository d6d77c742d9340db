//! Gradients without the memory of a whole pass: what blocks compute is not kept, but computed again on the way back (Chen et al. 2016,
//! "Training Deep Nets with Sublinear Memory Cost"). The pass runs outside automatic differentiation and keeps each block's input; what follows
//! the blocks is differentiated as ever, and then one block after the other, from the last to the first. No bit changes: each gradient is the
//! same sum in the same order.

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Gradients, Tensor},
};

use super::{Plan, Pooling, Tokens, Transformer, mean_of_tokens, places_of};

/// The way back of a pass, from a loss on the states that it gave to the gradients of the model's parameters; by default one without blocks to
/// compute again.
#[must_use]
#[derive(Default)]
pub struct Tape<'a>(Option<Kept<'a>>);

/// What is kept of a pass whose blocks are computed again.
struct Kept<'a> {
    model: &'a Transformer,
    tokens: Tokens,
    every: Plan,
    /// That of the last block, where it computes some rows alone.
    last: Option<Plan>,
    /// What each block saw, outside automatic differentiation.
    inputs: Vec<Tensor<2>>,
    /// What the last block made of it: where the gradient of everything that follows arrives.
    states: Tensor<2>,
    /// The first part that is trained: 0 is the embeddings, 1 the first block.
    first: usize,
}

impl Transformer {
    /// [`hidden`](Self::hidden) with the way back. With `recompute`, blocks are computed again on it, and what they compute now is not kept.
    pub fn hidden_with(&self, tokens: &Tokens, recompute: bool) -> (Tensor<2>, Tape<'_>) {
        self.keeping(tokens, None, recompute).unwrap_or_else(|| (self.hidden(tokens), Tape::default()))
    }

    /// [`pooled`](Self::pooled) with the way back, as [`hidden_with`](Self::hidden_with).
    pub fn pooled_with(&self, tokens: &Tokens, pooling: Pooling, recompute: bool) -> (Tensor<2>, Tape<'_>) {
        let places = places_of(tokens, pooling);
        match self.keeping(tokens, places.as_deref(), recompute) {
            None => (self.pooled(tokens, pooling), Tape::default()),
            Some((states, tape)) if places.is_some() => (states, tape),
            Some((states, tape)) => (mean_of_tokens(states, tokens), tape),
        }
    }

    /// Whether its blocks can be computed again: not where they share what is trained, which is the table of relative positions (DeBERTa) alone.
    pub fn can_recompute(&self) -> bool {
        self.distances.is_none() && !self.blocks.is_empty()
    }

    /// States after the final norm, of all tokens or of one per sequence, with the way back; none where everything is to be kept.
    fn keeping(&self, tokens: &Tokens, places: Option<&[usize]>, recompute: bool) -> Option<(Tensor<2>, Tape<'_>)> {
        if !recompute || !self.device().is_autodiff() || !self.can_recompute() {
            return None;
        }
        // Without what is trained there is no way back, and nothing is kept in any case.
        let first = self.first_trained()?;
        let (every, last) = (self.plan(tokens, None), places.map(|places| self.plan(tokens, Some(places))));
        let still = self.valid();
        let mut x = still.embed(tokens, &every);
        let mut inputs = Vec::with_capacity(still.blocks.len());
        for (layer, block) in still.blocks.iter().enumerate() {
            inputs.push(x.clone());
            let plan = last.as_ref().filter(|_| layer + 1 == still.blocks.len()).unwrap_or(&every);
            x = block.forward(x, plan, &self.spec, None);
        }
        let states = Tensor::from_inner(x).require_grad();
        let tokens = tokens.clone();
        let kept = Kept { model: self, tokens, every, last, inputs, states: states.clone(), first };
        Some((self.finish(states), Tape(Some(kept))))
    }

    /// The first part of it that is trained, of the embeddings and the blocks.
    fn first_trained(&self) -> Option<usize> {
        let embeddings = is_trained(&self.tokens)
            || is_trained(&self.positions)
            || is_trained(&self.token_types)
            || is_trained(&self.embedding_norm);
        let block = || self.blocks.iter().position(is_trained).map(|layer| layer + 1);
        if embeddings { Some(0) } else { block() }
    }
}

/// Whether any parameter of a module is trained; of one on the differentiating device.
pub(crate) fn is_trained(module: &impl Module) -> bool {
    struct Trained(bool);
    impl ModuleVisitor for Trained {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut trained = Trained(false);
    module.visit(&mut trained);
    trained.0
}

impl Tape<'_> {
    /// Whether blocks are computed again on the way back.
    pub fn recomputes(&self) -> bool {
        self.0.is_some()
    }

    /// The gradients of all parameters of `module`, of which the pass's model is a part, from those that a loss on the pass's states had.
    pub fn gradients<M: Module>(self, module: &M, mut found: Gradients) -> GradientsParams {
        let mut all = GradientsParams::from_module(&mut found, module);
        let Some(Kept { model, tokens, every, last, mut inputs, states, first }) = self.0 else { return all };
        let mut slope = states.grad_remove(&mut found);
        drop((states, found));
        while let (Some(along), Some(input)) = (slope.take(), inputs.pop()) {
            let layer = inputs.len();
            let plan = last.as_ref().filter(|_| layer + 1 == model.blocks.len()).unwrap_or(&every);
            let input = Tensor::from_inner(input);
            let (input, block) = (if first <= layer { input.require_grad() } else { input }, &model.blocks[layer]);
            let mut found = descend(block.forward(input.clone(), plan, &model.spec, None), along);
            block.visit(&mut Collect { from: &mut found, to: &mut all });
            slope = input.grad_remove(&mut found);
            if layer == 0
                && let Some(along) = slope.take()
            {
                let mut found = descend(model.embed(&tokens, &every), along);
                model.visit(&mut Collect { from: &mut found, to: &mut all });
            }
        }
        all
    }
}

/// Goes back from states whose gradient is `along`: Σ h · g, g held still, is the number whose gradient along h is g.
fn descend(states: Tensor<2>, along: Tensor<2>) -> Gradients {
    (states * Tensor::from_inner(along)).sum().backward()
}

/// Puts gradients to those that are there.
struct Collect<'a> {
    from: &'a mut Gradients,
    to: &'a mut GradientsParams,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = param.val().grad_remove(self.from) {
            let sum = match self.to.remove::<D>(param.id) {
                Some(other) => other + grad,
                None => grad,
            };
            self.to.register(param.id, sum);
        }
    }
}
