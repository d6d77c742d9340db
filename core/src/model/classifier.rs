//! A backbone with a linear head.

use std::path::Path;

use burn::{
    module::{Module, Param},
    nn::Linear,
    tensor::{Device, Tensor, TensorData},
};
use safetensors::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::{
    arch::{self, Layout},
    peft::Heads,
    pretrained::{Extra, Pretrained, floats},
    spec::{LmHead, Spec},
    tokenizer::Tokenizer,
    transformer::{Pooling, Tape, Tokens, Transformer},
    weights::Outgoing,
};
use crate::{Error, Result, ops, rng::Rng, strategy::Settings};

/// Names of a head's matrix `[classes, hidden]` in the files: where transformers has the same head, and elsewhere.
pub(super) const HEAD_NAMES: [&str; 2] = ["score.weight", "w2s_head.weight"];
/// Name of the judging head's matrix `[2, hidden]` in the files: the first was that of P(IK).
pub(super) const JUDGE_NAME: &str = "w2s_p_ik.weight";
/// Key of our own settings in `config.json`.
pub(super) const KEY: &str = "w2s";

/// The classification head: a linear layer without bias on one vector per sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// First weights. Zero by default, as openai/weak-to-strong has it: all first logits are 0, and the first step trains the head
    /// alone.
    pub init: HeadInit,
    /// Which vector of a sequence the head sees. By default the last token of a causal model and the mean of an encoder.
    pub pooling: Option<Pooling>,
    /// Trains the head alone and leaves the backbone as it is (linear probe).
    pub freeze_backbone: bool,
}

impl Settings for HeadConfig {}

/// First weights of a head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", deny_unknown_fields, rename_all = "kebab-case")]
pub enum HeadInit {
    /// Zeros.
    Zero {},
    /// Normal around 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Rows of the language-model head (Burns et al. 2023, appendix A: the rows of "0" and "1").
    Unembedding {
        /// One word per class, each a single token.
        tokens: Vec<String>,
    },
}

impl Default for HeadInit {
    fn default() -> Self {
        Self::Zero {}
    }
}

impl HeadInit {
    fn check(&self, classes: usize) -> Result<()> {
        if classes == 0 {
            return Err(Error::new("a classifier needs at least one output"));
        }
        match self {
            HeadInit::Normal { std } if !(std.is_finite() && *std >= 0.0) => {
                Err(Error::new(format!("the standard deviation of a head must be at least 0, not {std}")))
            }
            HeadInit::Unembedding { tokens } if tokens.len() != classes => {
                Err(Error::new(format!("a head for {classes} classes cannot start from {} words", tokens.len()))
                    .help("give `init.tokens` one word for each class"))
            }
            _ => Ok(()),
        }
    }
}

impl HeadConfig {
    /// Whether a model can be given such a head, as far as can be said before its weights are read.
    ///
    /// # Errors
    /// As [`Classifier::new`].
    pub fn check(&self, classes: usize, tokenizer: &Tokenizer, spec: &Spec) -> Result<()> {
        self.init.check(classes)?;
        let HeadInit::Unembedding { tokens } = &self.init else { return Ok(()) };
        if spec.lm_head == LmHead::Absent {
            let message = format!("this `{}` model has no language-model head to start from", spec.architecture);
            return Err(Error::new(message).help("choose `init = { type = \"zero\" }`"));
        }
        tokens.iter().try_for_each(|token| tokenizer.single(token).map(|_| ()))
    }
}

/// A [`Transformer`] that classifies sequences. It knows nothing of losses.
#[derive(Module, Debug)]
pub struct Classifier {
    /// The model below the head.
    pub backbone: Transformer,
    /// `[H, K]`, no bias; K is 1 where texts are scored.
    pub head: Linear,
    /// `[H, 2]`, no bias: a judge of whether something is not so (0) or so (1) of a text, if one is trained along.
    pub judge: Option<Linear>,
    #[module(skip)]
    pooling: Pooling,
}

impl Classifier {
    /// Puts a fresh head on a backbone, on the same device: an output for each class, or a single one that scores candidates.
    ///
    /// `seed` is used by [`HeadInit::Normal`] alone and `tokenizer` by [`HeadInit::Unembedding`] alone.
    ///
    /// # Errors
    /// No output, a standard deviation that is negative or not finite, a number of words that is not the number of
    /// classes, a word that is not one token, no tokenizer or no language-model head where they are needed.
    pub fn new(
        backbone: Transformer,
        config: &HeadConfig,
        classes: usize,
        seed: u64,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Self> {
        config.init.check(classes)?;
        let hidden = backbone.spec().hidden;
        let device = backbone.device();
        let weights: Vec<f32> = match &config.init {
            HeadInit::Zero {} => vec![0.0; hidden * classes],
            HeadInit::Normal { std } => {
                let mut rng = Rng::named(seed, "head.weight");
                (0..hidden * classes).map(|_| (rng.normal() * std) as f32).collect()
            }
            HeadInit::Unembedding { tokens } => {
                let tokenizer =
                    tokenizer.ok_or_else(|| Error::new("a head that starts from words needs the model's tokenizer"))?;
                let ids = tokens.iter().map(|token| tokenizer.single(token)).collect::<Result<Vec<_>>>()?;
                floats(&backbone.unembedding(&ids)?.transpose())
            }
        };
        let pooling = config.pooling.unwrap_or(if backbone.spec().causal { Pooling::Last } else { Pooling::Mean });
        let backbone = if config.freeze_backbone { backbone.frozen() } else { backbone };
        Ok(Self { backbone, head: linear(weights, hidden, classes, &device), judge: None, pooling })
    }

    /// Puts a judge beside the other head: zeros, or the weights of a head that has been trained, `[H, 2]` row by row.
    #[must_use]
    pub fn with_judge(self, weights: Option<Vec<f32>>) -> Self {
        let hidden = self.backbone.spec().hidden;
        let weights = weights.filter(|weights| weights.len() == 2 * hidden).unwrap_or_else(|| vec![0.0; 2 * hidden]);
        let device = self.backbone.device();
        Self { judge: Some(linear(weights, hidden, 2, &device)), ..self }
    }

    /// Logits `[B, 2]` of not so and so, from embeddings; `None` without a judge.
    pub fn judge_logits(&self, embedding: Tensor<2>) -> Option<Tensor<2>> {
        self.judge.as_ref().map(|head| ops::linear(embedding, head.weight.val(), None))
    }

    /// The same heads on a backbone that was changed.
    #[must_use]
    pub fn on_backbone(self, change: impl FnOnce(Transformer) -> Transformer) -> Self {
        Self { backbone: change(self.backbone), ..self }
    }

    /// Its backbone, and what puts the heads on one again.
    pub fn apart(self) -> (Transformer, impl FnOnce(Transformer) -> Self) {
        let Self { backbone, head, judge, pooling } = self;
        (backbone, move |backbone| Self { backbone, head, judge, pooling })
    }

    /// Which vector of a sequence the head sees.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Number of classes K.
    pub fn classes(&self) -> usize {
        self.head.weight.dims()[1]
    }

    /// Logits `[B, K]`, and the embeddings `[B, H]` they come from: pooled, after the final norm. Gradients flow through both.
    pub fn forward(&self, tokens: &Tokens) -> (Tensor<2>, Tensor<2>) {
        let embedding = self.embed(tokens);
        (self.logits(embedding.clone()), embedding)
    }

    /// Embeddings `[B, H]` alone.
    pub fn embed(&self, tokens: &Tokens) -> Tensor<2> {
        self.backbone.pooled(tokens, self.pooling)
    }

    /// The same with the way back, as [`Transformer::hidden_with`].
    pub fn embed_with(&self, tokens: &Tokens, recompute: bool) -> (Tensor<2>, Tape<'_>) {
        self.backbone.pooled_with(tokens, self.pooling, recompute)
    }

    /// Logits `[B, K]` from embeddings `[B, H]`, which may have been kept from an earlier pass of a frozen backbone.
    pub fn logits(&self, embedding: Tensor<2>) -> Tensor<2> {
        ops::linear(embedding, self.head.weight.val(), None)
    }

    /// Writes backbone and head into a folder, as [`Transformer::save`] does.
    ///
    /// Where transformers has the same head (last token of GPT-2, Llama and their kind), the folder also loads with
    /// `AutoModelForSequenceClassification`. It takes the last token that is not `pad_token_id`, which is set to the end-of-text
    /// token, or to 0, where the model has no padding token in its vocabulary.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn save(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
        let spec = self.backbone.spec();
        let class = arch::find(spec.architecture)?.classifier_class;
        let classes = self.classes();
        let same = self.pooling == Pooling::Last && !class.is_empty();
        let mut config = Map::new();
        config.insert(KEY.to_owned(), json!({ "pooling": self.pooling, "classes": classes }));
        if same {
            config.insert("architectures".to_owned(), vec![class].into());
        }
        let label = |k: usize| format!("LABEL_{k}");
        config.insert(
            "id2label".to_owned(),
            (0..classes).map(|k| (k.to_string(), label(k).into())).collect::<Map<_, _>>().into(),
        );
        config.insert("label2id".to_owned(), (0..classes).map(|k| (label(k), k.into())).collect::<Map<_, _>>().into());
        let known =
            |key: &str| spec.config.get(key).filter(|id| id.as_u64().is_some_and(|id| id < spec.vocab as u64)).cloned();
        let padding = known("pad_token_id").or_else(|| known("eos_token_id")).unwrap_or_else(|| 0.into());
        config.insert("pad_token_id".to_owned(), padding);
        let tensors = self.heads(same);
        self.backbone.save_with(folder, tokenizer, Extra { tensors, config })
    }

    /// Writes adapters and head into a folder, as [`Transformer::save_adapter`] does; `base` names the model that they are on.
    ///
    /// Where transformers has the same head, `PeftModel.from_pretrained` loads the folder onto `AutoModelForSequenceClassification`,
    /// the head with it.
    ///
    /// # Errors
    /// A backbone without adapters, or a folder that cannot be written to.
    pub fn save_adapter(&self, folder: &Path, tokenizer: &Tokenizer, base: &str) -> Result<()> {
        let known = self.pooling == Pooling::Last
            && !arch::find(self.backbone.spec().architecture)?.classifier_class.is_empty();
        let ours = Some(json!({ "pooling": self.pooling, "classes": self.classes() }));
        self.backbone.save_adapter_with(folder, tokenizer, base, Heads { tensors: self.heads(known), known, ours })
    }

    /// The heads on their way into a file; `known` where transformers has the same head.
    fn heads(&self, known: bool) -> Vec<Outgoing> {
        let outgoing = |name: &str, head: &Linear| {
            let weight = head.weight.val();
            Outgoing {
                name: name.to_owned(),
                shape: weight.dims().to_vec(),
                layout: Layout::Linear,
                heads: 1,
                dtype: Dtype::F32,
                values: Box::new(move || floats(&weight)),
            }
        };
        let head = outgoing(HEAD_NAMES[usize::from(!known)], &self.head);
        std::iter::once(head).chain(self.judge.as_ref().map(|judge| outgoing(JUDGE_NAME, judge))).collect()
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// A folder without a head, or one whose head does not fit.
    pub fn load(pretrained: &Pretrained, device: &Device) -> Result<Self> {
        Self::load_with(pretrained, device, || pretrained.load(device))
    }

    /// The same with the backbone as `load` reads it from the folder.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(pretrained: &Pretrained, device: &Device, load: impl Fn() -> Result<Transformer>) -> Result<Self> {
        let spec = pretrained.spec();
        let fault = |message: String| Error::new(message).in_file(pretrained.folder());
        let settings = spec.config.get(KEY).and_then(|settings| settings.get("pooling"));
        let pooling = settings
            .and_then(|pooling| Pooling::deserialize(pooling).ok())
            .ok_or_else(|| fault("there is no classifier of w2s in this model's folder".to_owned()))?;
        for name in HEAD_NAMES {
            if let Some((values, classes)) = pretrained.head(name)? {
                let backbone = load()?;
                let head = linear(values, spec.hidden, classes, device);
                let judge = pretrained.head(JUDGE_NAME)?.map(|(values, _)| linear(values, spec.hidden, 2, device));
                return Ok(Self { backbone, head, judge, pooling });
            }
        }
        Err(fault(format!("there is no tensor `{}`", HEAD_NAMES.join("` or `"))))
    }
}

fn linear(weights: Vec<f32>, inputs: usize, outputs: usize, device: &Device) -> Linear {
    Linear { weight: Param::from_data(TensorData::new(weights, [inputs, outputs]), device), bias: None }
}
