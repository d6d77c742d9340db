//! What a model looks like: read from a Hugging Face `config.json`, never guessed.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Largest number accepted for any size in a configuration: what fits the 32-bit integers of the CPU backend.
const LARGEST: u64 = i32::MAX as u64;

/// Shape and options of a [`Transformer`](super::Transformer): everything that distinguishes one family from another.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Name of the architecture, which is `model_type` in `config.json`.
    pub architecture: &'static str,
    /// Number of token ids; ids are below it.
    pub vocab: usize,
    /// Width H of the hidden states.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width inside the feed-forward part of a block.
    pub inner: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Whether a token sees only itself and what is before it.
    pub causal: bool,
    /// How positions enter.
    pub positions: Positions,
    /// Number of token types (segments) of an encoder; 0 where there are none. All tokens have type 0.
    pub token_types: usize,
    /// Which normalisation.
    pub norm: Norm,
    /// Added to the variance before the square root.
    pub norm_eps: f64,
    /// Where normalisation and residual connections are.
    pub residual: Residual,
    /// Non-linearity of the feed-forward part.
    pub activation: Activation,
    /// Whether the feed-forward part multiplies its activation with a second projection (SwiGLU and its kind).
    pub gated: bool,
    /// Whether queries, keys and values come from one matrix; otherwise from three.
    pub fused_qkv: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Which linear layers of a block have a bias.
    pub bias: Bias,
    /// Where the language-model head is.
    pub lm_head: LmHead,
    /// Standard deviation of freshly initialised weights.
    pub initializer_range: f64,
    /// What only few families have.
    pub extras: Extras,
    /// The `config.json` this was read from; it is what is saved again.
    pub config: Map<String, Value>,
}

/// What only few families have; by default nothing of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// What the embeddings of tokens are multiplied with.
    pub embedding_scale: Option<f64>,
    /// Whether embeddings are normalised though blocks normalise what they read ([`Residual::Pre`]); the first block's attention then
    /// has no norm of its own.
    pub embedding_norm: bool,
    /// Whether gate and value of a gated feed-forward part come from one matrix, the gate first.
    pub fused_gate: bool,
    /// What attention scores are multiplied with; `1 / sqrt(head_dim)` if `None`.
    pub attention_scale: Option<f64>,
    /// What attention scores are softly capped at ([`soft_cap`](crate::ops::soft_cap)).
    pub attention_cap: Option<f64>,
    /// What the logits of the language-model head are softly capped at.
    pub logit_cap: Option<f64>,
    /// Layers whose tokens see only what is near.
    pub local: Option<Local>,
    /// What becomes of positions in texts longer than those of the pretraining.
    pub beyond: Option<Beyond>,
}

/// How the first Qwen takes texts longer than those of its pretraining; while it trains, as any others.
///
/// Source: `modeling_qwen.py` of Qwen/Qwen-7B.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beyond {
    /// The longest text of the pretraining, in tokens (`seq_length`).
    pub length: usize,
    /// Whether queries behind it are multiplied, the `n`-th token's by the logarithm of `n` to the base of that length (`use_logn_attn`).
    pub log_n: bool,
    /// Whether the base of the rotations grows with the text (`use_dynamic_ntk`).
    pub ntk: bool,
}

impl Beyond {
    /// How much the base of the rotations grows for a text of so many tokens: 1 up to the length of the pretraining, 3 up to twice that, 7 up to
    /// four times.
    pub fn growth(self, tokens: usize) -> usize {
        let reached = |doublings: &u32| self.length.saturating_mul(1 << doublings) >= tokens;
        let doublings = (0..32).find(reached).filter(|_| self.ntk).unwrap_or(0);
        if doublings == 0 { 1 } else { (2 << doublings) - 1 }
    }

    /// What the query at a position is multiplied by.
    pub fn scale(self, position: usize) -> f32 {
        let count = position + 1;
        if self.log_n && count > self.length { ((count as f64).ln() / (self.length as f64).ln()) as f32 } else { 1.0 }
    }
}

/// Layers whose tokens see only what is near.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// For each layer, whether it is one of them.
    pub layers: Vec<bool>,
    /// Tokens less than this many positions away are seen.
    pub window: usize,
    /// How positions enter these layers, where it is not as in the others.
    pub positions: Option<Positions>,
}

/// How positions enter the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector per position, added to the token's; `offset` rows of the table come before position 0.
    Learned {
        /// Unused rows at the start of the table (2 in OPT).
        offset: usize,
        /// A token that takes no position: it has the vector before the first one (RoBERTa's padding).
        padding: Option<u32>,
    },
    /// A learned vector per distance, which attention compares with contents (He et al. 2021, DeBERTa). Distances are put into buckets.
    Relative(Buckets),
    /// Queries and keys are rotated (Su et al. 2021, RoFormer, equation 34), halves paired as in `rotate_half`.
    Rotary {
        /// How many of a head's dimensions are rotated, from the front.
        dims: usize,
        /// Base of the frequencies (`rope_theta`).
        base: f64,
        /// How frequencies are stretched for texts longer than those of the first pretraining.
        stretched: Option<Llama3Rope>,
    },
}

/// Buckets of distances: up to half of their number each has its own, beyond it ever more share one, on a logarithmic scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// Buckets to either side.
    pub count: usize,
    /// The distance that ends the scale (`max_relative_positions`).
    pub longest: usize,
}

impl Buckets {
    /// The bucket of a distance, of the same sign; always inside `-count..count`.
    ///
    /// Source: `make_log_bucket_position` of transformers, operation by operation.
    pub fn of(self, distance: i64) -> i64 {
        let limit = self.count as i64;
        let middle = limit / 2;
        let far = distance.unsigned_abs() as f32;
        if distance.abs() <= middle || middle == 0 {
            return distance.clamp(-limit, limit - 1);
        }
        let scale = ((self.longest as f64 - 1.0) / middle as f64) as f32;
        let bucket = ((far / middle as f32).ln() / scale.ln() * (middle - 1) as f32).ceil() + middle as f32;
        (distance.signum() * bucket as i64).clamp(-limit, limit - 1)
    }
}

/// The stretching of Llama 3.1 (`rope_type` = `llama3`): slow frequencies are divided by `factor`, fast ones kept, those between
/// interpolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Rope {
    /// Divisor of slow frequencies.
    pub factor: f64,
    /// Wavelengths of more than `positions / low` tokens are slow.
    pub low: f64,
    /// Wavelengths of less than `positions / high` tokens are fast.
    pub high: f64,
    /// Longest sequence of the first pretraining (`original_max_position_embeddings`).
    pub positions: f64,
}

impl Positions {
    /// These positions with a base that has [grown](Beyond::growth).
    ///
    /// Source: "NTK-aware" scaling, as in `RotaryEmbedding` of `modeling_qwen.py`.
    pub fn grown(self, growth: usize) -> Self {
        match self {
            Self::Rotary { dims, base, stretched } if growth > 1 && dims > 2 => {
                let base = base * (growth as f64).powf(dims as f64 / (dims as f64 - 2.0));
                Self::Rotary { dims, base, stretched }
            }
            other => other,
        }
    }

    /// Angle per position of each pair of a head's rotated dimensions; none where nothing is rotated.
    ///
    /// Float32 as transformers computes them.
    pub fn frequencies(&self) -> Option<Vec<f32>> {
        let Self::Rotary { dims, base, stretched } = *self else { return None };
        let plain = (0..dims / 2).map(|pair| (base as f32).powf((2 * pair) as f32 / dims as f32).recip());
        Some(match stretched {
            None => plain.collect(),
            Some(how) => plain.map(|frequency| how.stretch(frequency)).collect(),
        })
    }
}

impl Llama3Rope {
    /// Source: `_compute_llama3_parameters` of transformers, operation by operation.
    fn stretch(self, frequency: f32) -> f32 {
        let [factor, low, high] = [self.factor, self.low, self.high].map(|number| number as f32);
        let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
        if f64::from(wavelength) > self.positions / self.low {
            frequency / factor
        } else if f64::from(wavelength) < self.positions / self.high {
            frequency
        } else {
            let smooth = (self.positions as f32 / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}

/// Which normalisation a model uses throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// Layer normalisation with gain and bias (Ba et al. 2016).
    Layer,
    /// The same without bias.
    LayerWithoutBias,
    /// Root-mean-square normalisation with gain (Zhang and Sennrich 2019).
    Rms,
    /// The same, where the parameter is what the gain is above 1 (Gemma).
    RmsAboveOne,
}

/// Where normalisation and residual connections are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x + attention(norm(x))`, then `x + mlp(norm(x))`; one more norm at the end of the model.
    Pre,
    /// `x + attention(norm1(x)) + mlp(norm2(x))`; one more norm at the end of the model.
    Parallel,
    /// `norm(x + attention(x))`, then `norm(x + mlp(x))`; one more norm after the embeddings.
    Post,
    /// `x + norm2(attention(norm1(x)))`, then `x + norm4(mlp(norm3(x)))`; one more norm at the end of the model.
    Sandwich,
}

/// Non-linearity of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU with the tanh approximation.
    GeluTanh,
    /// GELU with the error function.
    GeluErf,
    /// SiLU, also called swish.
    Silu,
    /// max(x, 0).
    Relu,
}

/// Which linear layers of a block have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bias {
    /// The projections to queries, keys and values.
    pub qkv: bool,
    /// The projection of the attention's output.
    pub output: bool,
    /// The feed-forward part.
    pub mlp: bool,
}

impl Bias {
    /// Everywhere, or nowhere.
    pub const fn all(on: bool) -> Self {
        Self { qkv: on, output: on, mlp: on }
    }
}

/// Where the language-model head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LmHead {
    /// The token embedding, transposed.
    Tied,
    /// A matrix of its own, without bias.
    Separate,
    /// There is none: an encoder, or files that hold no head.
    Absent,
}

impl Spec {
    /// Reads the text of a `config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// Text that is not a JSON object, an architecture that is not known, a value that is missing, out of range or not supported.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let config = Config::parse(text, file)?;
        let name = config.text("model_type")?;
        let architecture = super::arch::find(&name).map_err(|error| config.blame("model_type", error))?;
        let spec = (architecture.spec)(&config)?;
        spec.check(&config)?;
        Ok(spec)
    }

    /// As [`parse`](Self::parse), from values that were read elsewhere, such as a table of a grid's configuration.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn from_config(config: &Map<String, Value>, file: &Path) -> Result<Self> {
        let text = serde_json::to_string_pretty(config).map_err(|cause| Error::new(cause.to_string()))?;
        Self::parse(&text, file)
    }

    /// The same model with only its first `layers` blocks, as a weaker model of the same pretraining.
    ///
    /// # Errors
    /// More layers than there are. Zero is allowed: embeddings and the final norm alone.
    pub fn truncated(mut self, layers: usize) -> Result<Self> {
        if layers > self.layers {
            let message = format!("cannot keep {layers} layers of a model that has {}", self.layers);
            return Err(Error::new(message));
        }
        self.layers = layers;
        let key = super::arch::find(self.architecture)?.layers_key;
        self.config.insert(key.to_owned(), layers.into());
        if let Some(Value::Array(kinds)) = self.config.get_mut("layer_types") {
            kinds.truncate(layers);
        }
        Ok(self)
    }

    /// Whether it is a language model: causal, with a head for the next token.
    pub fn speaks(&self) -> bool {
        self.causal && self.lm_head != LmHead::Absent
    }

    /// About how many parameters such a model has: its matrices, without biases and norms.
    pub fn parameters(&self) -> f64 {
        let [hidden, inner] = [self.hidden, self.inner].map(|n| n as f64);
        let attention = 2.0 * hidden * ((self.heads + self.kv_heads) * self.head_dim) as f64;
        let feed_forward = if self.gated { 3.0 } else { 2.0 } * hidden * inner;
        let positions = match self.positions {
            Positions::Learned { .. } | Positions::Rotary { .. } => self.max_positions,
            Positions::Relative(buckets) => 2 * buckets.count,
        };
        let tables = (self.vocab + positions) as f64 * hidden;
        self.layers as f64 * (attention + feed_forward) + tables
    }

    /// Checks that a sequence can be fed to the model: not empty, not too long, every id in the vocabulary.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::new("a sequence has no tokens"));
        }
        if ids.len() > self.max_positions {
            let message = format!(
                "a sequence of {} tokens is longer than the {} positions of the model",
                ids.len(),
                self.max_positions
            );
            return Err(Error::new(message));
        }
        match ids.iter().find(|&&id| id as usize >= self.vocab) {
            Some(id) => {
                Err(Error::new(format!("token id {id} is outside the model's vocabulary of {} ids", self.vocab))
                    .help("does the tokenizer belong to this model?"))
            }
            None => Ok(()),
        }
    }

    fn check(&self, config: &Config) -> Result<()> {
        let fault = |message: String| Err(Error::new(message).in_file(&config.file));
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fault(format!("{} attention heads cannot share {} key and value heads", self.heads, self.kv_heads));
        }
        let local = self.extras.local.as_ref().and_then(|local| local.positions);
        for positions in std::iter::once(self.positions).chain(local) {
            let Positions::Rotary { dims, base, stretched } = positions else { continue };
            if let Some(Llama3Rope { factor, low, high, positions }) = stretched
                && !(factor >= 1.0
                    && factor.is_finite()
                    && low > 0.0
                    && low < high
                    && high.is_finite()
                    && positions >= 1.0)
            {
                let message = format!(
                    "a `llama3` rotary embedding needs a factor of at least 1 and `low_freq_factor` below `high_freq_factor`, \
                     not {factor}, {low} and {high}"
                );
                return fault(message);
            }
            if dims == 0 || dims % 2 == 1 || dims > self.head_dim {
                return fault(format!("cannot rotate {dims} of the {} dimensions of a head", self.head_dim));
            }
            if !(base.is_finite() && base > 0.0) {
                return fault(format!("the base of the rotary embedding must be positive, not {base}"));
            }
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return fault(format!("the epsilon of the normalisation must be positive, not {}", self.norm_eps));
        }
        let Extras { embedding_scale, attention_scale, attention_cap, logit_cap, .. } = self.extras;
        for (what, number) in [
            ("scale of the embeddings", embedding_scale),
            ("scale of attention scores", attention_scale),
            ("soft cap of attention scores", attention_cap),
            ("soft cap of logits", logit_cap),
        ] {
            if let Some(number) = number.filter(|number| !(number.is_finite() && *number > 0.0)) {
                return fault(format!("the {what} must be positive, not {number}"));
            }
        }
        if let Positions::Relative(Buckets { count, longest }) = self.positions
            && longest <= count / 2 + 1
        {
            let message =
                format!("distances of up to {longest} are too few for {count} buckets on a logarithmic scale");
            return fault(message);
        }
        if self.layers > 10_000 {
            return fault(format!("{} layers are more than any model has", self.layers));
        }
        Ok(())
    }
}

/// A model's `config.json`, read key by key with errors that name the key.
#[derive(Debug)]
pub struct Config {
    values: Map<String, Value>,
    text: Arc<str>,
    file: PathBuf,
}

impl Config {
    /// Parses a JSON object.
    ///
    /// # Errors
    /// Text that is not a JSON object.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(Value::Object(values)) => Ok(Self { values, text: text.into(), file: file.into() }),
            Ok(_) => Err(Error::new("a model's configuration must be a JSON object").in_file(file)),
            Err(cause) => Err(Error::new(format!("the model's configuration is not JSON: {cause}"))
                .in_file(file)
                .help("the file is damaged or was cut short: copy or download it again")),
        }
    }

    /// All keys and values.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The value under a key; `null` counts as absent, as in transformers.
    fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Points an error at a key.
    pub fn blame(&self, key: &str, error: Error) -> Error {
        match self.span(key) {
            Some(span) => error.at(&self.file, self.text.clone(), span),
            None => error.in_file(&self.file),
        }
    }

    fn span(&self, key: &str) -> Option<Range<usize>> {
        let quoted = format!("\"{key}\"");
        self.text.find(&quoted).map(|start| start..start + quoted.len())
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.values.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        self.blame(key, Error::new(format!("`{key}` must be {expected}, not {found}")))
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::new(format!("the model's configuration has no `{key}`")).in_file(&self.file))
    }

    fn whole(&self, key: &str, least: u64) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if (least..=LARGEST).contains(&number) => Ok(Some(number as usize)),
            _ => Err(self.wrong(key, &format!("a whole number from {least} to {LARGEST}"))),
        }
    }

    /// A whole number, at least 1.
    ///
    /// # Errors
    /// The key is absent or its value something else.
    pub fn count(&self, key: &str) -> Result<usize> {
        self.required(key, self.whole(key, 1)?)
    }

    /// A whole number, at least 1, or `default` where the key is absent.
    ///
    /// # Errors
    /// The value is something else.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.whole(key, 1)?.unwrap_or(default))
    }

    /// A number of layers: a whole number, also 0.
    ///
    /// # Errors
    /// The key is absent or its value something else.
    pub fn layers(&self, key: &str) -> Result<usize> {
        self.required(key, self.whole(key, 0)?)
    }

    /// A whole number, also 0, or `default` where the key is absent.
    ///
    /// # Errors
    /// The value is something else.
    pub fn whole_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.whole(key, 0)?.unwrap_or(default))
    }

    /// A finite number, or `None` where the key is absent.
    ///
    /// # Errors
    /// The value is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|value| value.as_f64().ok_or_else(|| self.wrong(key, "a number"))).transpose()
    }

    /// A finite number, or `default` where the key is absent.
    ///
    /// # Errors
    /// The value is something else.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.number(key)?.unwrap_or(default))
    }

    /// `true` or `false`, or `default` where the key is absent.
    ///
    /// # Errors
    /// The value is something else.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// The key is absent or its value something else.
    pub fn text(&self, key: &str) -> Result<String> {
        match self.get(key) {
            None => self.required(key, None),
            Some(value) => Ok(value.as_str().ok_or_else(|| self.wrong(key, "a text"))?.to_owned()),
        }
    }

    /// Refuses any value but `supported` (or none) under a key, because the model would compute something else.
    ///
    /// # Errors
    /// Another value is there.
    pub fn only(&self, key: &str, supported: impl Into<Value>) -> Result<()> {
        let supported = supported.into();
        match self.get(key) {
            Some(value) if *value != supported => {
                let message = format!("`{key}` = {value} is not supported, only {supported}");
                Err(self.blame(key, Error::new(message)))
            }
            _ => Ok(()),
        }
    }

    /// Refuses any value but `supported` under a key, and none at all, where transformers takes another one for it.
    ///
    /// # Errors
    /// Another value is there, or none.
    pub fn must(&self, key: &str, supported: impl Into<Value>) -> Result<()> {
        let supported = supported.into();
        match self.get(key) {
            Some(value) if *value == supported => Ok(()),
            _ => Err(self.wrong(key, &format!("{supported} (nothing else is supported)"))),
        }
    }

    /// Which of `layers` layers see only what is near: by `layer_types`, or as `pattern` says of a layer's number where there is no such key.
    ///
    /// # Errors
    /// A kind of layer that is not known, or fewer than there are layers.
    pub fn local_layers(&self, layers: usize, pattern: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
        const KEY: &str = "layer_types";
        let Some(value) = self.get(KEY) else { return Ok((0..layers).map(pattern).collect()) };
        let kinds = value.as_array().filter(|kinds| kinds.len() >= layers);
        let kinds = kinds.ok_or_else(|| self.wrong(KEY, &format!("a list of {layers} kinds of layers")))?;
        let local = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => {
                let message = format!("`{KEY}` may only hold `full_attention` and `sliding_attention`, not {kind}");
                Err(self.blame(KEY, Error::new(message)))
            }
        };
        kinds.iter().map(local).collect()
    }

    /// Refuses a list under a key that holds anything but `supported`.
    ///
    /// # Errors
    /// It does.
    pub fn only_items(&self, key: &str, supported: &str) -> Result<()> {
        match self.get(key).and_then(Value::as_array) {
            Some(items) if items.iter().any(|item| item != supported) => {
                Err(self.blame(key, Error::new(format!("`{key}` may only hold `{supported}`"))))
            }
            _ => Ok(()),
        }
    }

    /// The width of one head, of `heads` that share `hidden`.
    ///
    /// # Errors
    /// `hidden` cannot be shared evenly.
    pub fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize> {
        if !hidden.is_multiple_of(heads) {
            let message = format!("a hidden size of {hidden} cannot be shared evenly by {heads} attention heads");
            return Err(Error::new(message).in_file(&self.file));
        }
        Ok(hidden / heads)
    }

    /// The activation function named under a key, or `default` where the key is absent.
    ///
    /// # Errors
    /// A name that is not known.
    pub fn activation_or(&self, key: &str, default: Activation) -> Result<Activation> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_str() {
            Some("gelu") => Ok(Activation::GeluErf),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("relu") => Ok(Activation::Relu),
            _ => {
                Err(self
                    .wrong(key, "one of `gelu`, `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`, `silu`, `swish`, `relu`"))
            }
        }
    }

    /// Rotary positions over `fraction` of a head: `rope_theta` (under `base_key` in older files), as they are or stretched as in
    /// Llama 3.1. Reads both the older keys and `rope_parameters`.
    ///
    /// # Errors
    /// Any other kind of scaling.
    pub fn rotary(&self, head_dim: usize, base_key: &str, fraction: f64) -> Result<Positions> {
        let mut rope = Rope { base: self.number_or(base_key, 10_000.0)?, fraction, stretched: None };
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(value) = self.get(key) else { continue };
            let values = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
            self.scaling(key, values, &mut rope)?;
        }
        Ok(rope.positions(head_dim))
    }

    /// As [`rotary`](Self::rotary), for the layers of one `kind` of two: `rope_parameters` has an object for each, or `base_key` the base in
    /// older files; `base` is it where there is neither. `rope_scaling` is of older files, and of the kind `full_attention`.
    ///
    /// # Errors
    /// Any other kind of scaling.
    pub fn rotary_of(&self, kind: &str, head_dim: usize, base_key: &str, base: f64) -> Result<Positions> {
        let mut rope = Rope { base: self.number_or(base_key, base)?, fraction: 1.0, stretched: None };
        const KEY: &str = "rope_parameters";
        if let Some(value) = self.get("rope_scaling").filter(|_| kind == "full_attention") {
            let values = value.as_object().ok_or_else(|| self.wrong("rope_scaling", "an object"))?;
            self.scaling("rope_scaling", values, &mut rope)?;
        }
        if let Some(value) = self.get(KEY) {
            let of = value.as_object().filter(|kinds| kinds.keys().all(|kind| kind.ends_with("_attention")));
            let of = of.ok_or_else(|| self.wrong(KEY, "an object with one object for each kind of layers"))?;
            if let Some(values) = of.get(kind).filter(|values| !values.is_null()) {
                let values = values.as_object().ok_or_else(|| self.wrong(KEY, "an object of objects"))?;
                self.scaling(KEY, values, &mut rope)?;
            }
        }
        Ok(rope.positions(head_dim))
    }

    /// Reads the object under a key that says how positions are rotated.
    fn scaling(&self, key: &str, values: &Map<String, Value>, rope: &mut Rope) -> Result<()> {
        let refused = |name: &str, value: &Value| {
            let message = format!(
                "`{key}` with `{name}` = {value} is not supported, only plain rotary positions and those of `llama3`"
            );
            Err(self.blame(key, Error::new(message)))
        };
        let kind = ["rope_type", "type"].into_iter().find_map(|name| Some((name, values.get(name)?)));
        let kind = kind.filter(|(_, kind)| !kind.is_null());
        // Before what belongs to it.
        if let Some((name, kind)) = kind.filter(|(_, kind)| *kind != "default" && *kind != "llama3") {
            return refused(name, kind);
        }
        let llama3 = kind.is_some_and(|(_, kind)| kind == "llama3");
        for (name, value) in values {
            match (name.as_str(), value) {
                ("rope_type" | "type", Value::String(kind)) if kind == "default" || kind == "llama3" => {}
                ("rope_theta", Value::Number(number)) => rope.base = number.as_f64().unwrap_or(f64::NAN),
                ("partial_rotary_factor", Value::Number(number)) => {
                    rope.fraction = number.as_f64().unwrap_or(f64::NAN);
                }
                (
                    "factor" | "low_freq_factor" | "high_freq_factor" | "original_max_position_embeddings",
                    Value::Number(_),
                ) if llama3 => {}
                _ => return refused(name, value),
            }
        }
        if llama3 {
            let number = |name: &str| {
                let missing = || self.blame(key, Error::new(format!("`{key}` of type `llama3` has no `{name}`")));
                values.get(name).and_then(Value::as_f64).ok_or_else(missing)
            };
            // As transformers: the key of the whole configuration comes first, and the model's own length is good enough.
            let length = "original_max_position_embeddings";
            let positions = match (self.whole(length, 1)?, values.get(length)) {
                (Some(positions), _) => positions as f64,
                (None, Some(_)) => number(length)?,
                (None, None) => self.count("max_position_embeddings")? as f64,
            };
            let [factor, low, high] = [number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?];
            rope.stretched = Some(Llama3Rope { factor, low, high, positions });
        }
        Ok(())
    }
}

/// Rotary positions while they are read.
struct Rope {
    base: f64,
    fraction: f64,
    stretched: Option<Llama3Rope>,
}

impl Rope {
    fn positions(self, head_dim: usize) -> Positions {
        let Self { base, fraction, stretched } = self;
        Positions::Rotary { dims: (head_dim as f64 * fraction) as usize, base, stretched }
    }
}
