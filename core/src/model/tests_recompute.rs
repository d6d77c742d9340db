//! Blocks that are computed again on the way back: the gradients of a pass that keeps everything, bit by bit.

use burn::optim::GradientsParams;

use super::*;

/// The bits of every gradient, by path.
fn bits<M: Module>(module: &M, grads: GradientsParams) -> BTreeMap<String, Vec<u32>> {
    struct All(GradientsParams, Vec<String>, BTreeMap<String, Vec<u32>>);
    impl ModuleVisitor for All {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.1.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.get::<D>(param.id) {
                self.2.insert(self.1.join("."), floats(&grad).into_iter().map(f32::to_bits).collect());
            }
        }
    }
    let mut all = All(grads, Vec::new(), BTreeMap::new());
    module.visit(&mut all);
    all.2
}

/// Gradients of a loss that reads the pooled states by two heads.
fn classified(tiny: &Tiny, classifier: &Classifier, recompute: bool) -> (BTreeMap<String, Vec<u32>>, bool) {
    let (embedding, tape) = classifier.embed_with(&tiny.tokens(), recompute);
    let again = tape.recomputes();
    let loss = cross_entropy(classifier.logits(embedding.clone()), &tiny.case["soft_labels"]);
    let known = cross_entropy(classifier.judge_logits(embedding).unwrap(), &tiny.case["soft_labels"]);
    (bits(classifier, tape.gradients(classifier, (loss + known).backward())), again)
}

/// Gradients of a loss that reads the states of all tokens in two places.
fn read(tiny: &Tiny, model: &Transformer, recompute: bool) -> (BTreeMap<String, Vec<u32>>, bool) {
    let (states, tape) = model.hidden_with(&tiny.tokens(), recompute);
    let again = tape.recomputes();
    let loss = (states.clone() * states.clone()).sum() + (states.tanh() * 0.5).sum();
    (bits(model, tape.gradients(model, loss.backward())), again)
}

/// A classifier with two heads on a backbone.
fn on(backbone: &Transformer, pooling: Pooling) -> Classifier {
    let init = HeadInit::Normal { std: 0.5 };
    let head = HeadConfig { pooling: Some(pooling), init, ..HeadConfig::default() };
    let classifier = Classifier::new(backbone.clone(), &head, 2, 0, None).unwrap();
    let mut other = floats(&classifier.head.weight.val());
    other.reverse();
    classifier.with_judge(Some(other))
}

#[test]
fn blocks_that_are_computed_again_have_the_same_gradients() {
    let device = Device::flex().autodiff();
    for kind in FAMILIES {
        let tiny = Tiny::new(kind);
        let plain = tiny.model(&device);
        // Relative positions are one table for all blocks.
        let expected = kind != "deberta-v2";
        let adapters = |targets: &[&str]| {
            let targets = targets.iter().map(|target| (*target).to_owned()).collect();
            plain.clone().with_lora(&Lora { rank: 2, alpha: 3.0, targets, ..Lora::default() }, 0).unwrap()
        };
        let last = arch::find(plain.spec().architecture).unwrap().adaptable().pop().unwrap();
        let models = [plain.clone(), adapters(&["all-linear"]), adapters(&[last])];
        for (model, what) in models.iter().zip(["all weights", "adapters", "some adapters"]) {
            for pooling in [Pooling::Last, Pooling::First, Pooling::Mean] {
                let model = on(model, pooling);
                let (kept, never) = classified(&tiny, &model, false);
                let (again, did) = classified(&tiny, &model, true);
                assert_eq!((never, did), (false, expected), "{kind}");
                assert_eq!(kept.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>(), "{kind}, {what}");
                for (path, grad) in &kept {
                    assert_eq!(grad, &again[path], "{kind}, {what}, {pooling:?}: {path}");
                }
                let blocks = kept.iter().filter(|(path, _)| path.contains("blocks."));
                assert!(blocks.flat_map(|(_, bits)| bits).any(|bits| f32::from_bits(*bits) != 0.0), "{kind}, {what}");
            }
            assert_eq!(read(&tiny, model, false).0, read(&tiny, model, true).0, "{kind}, {what}");
        }
        // What is not trained is neither kept nor computed again.
        let (heads, did) = classified(&tiny, &on(&plain.clone().no_grad(), Pooling::Last), true);
        assert_eq!((heads.len(), did), (2, false), "{kind}");
        // What predicts has no way back.
        let still = plain.valid();
        let (states, tape) = still.pooled_with(&tiny.tokens(), Pooling::Last, true);
        let whole = still.pooled(&tiny.tokens(), Pooling::Last);
        assert_eq!((floats(&states), tape.recomputes()), (floats(&whole), false), "{kind}");
    }
}
