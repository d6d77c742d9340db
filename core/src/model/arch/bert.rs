//! BERT (Devlin et al. 2019), which MiniLM and other sentence encoders are. The encoder alone: its pooler and its heads are not read.

use super::{Architecture, Layout, Rule};
use crate::{
    Result,
    model::spec::{Activation, Bias, Config, Extras, LmHead, Norm, Positions, Residual, Spec},
};

/// Names of the family's files.
pub const RULES: &[Rule] = &[
    ("embeddings.word_embeddings", "tokens", Layout::Same),
    ("embeddings.position_embeddings", "positions", Layout::Same),
    ("embeddings.token_type_embeddings", "token_types", Layout::Same),
    ("embeddings.LayerNorm", "embedding_norm", Layout::Norm),
    ("encoder.layer.{}.attention.self.query", "blocks.{}.attention.qkv.0", Layout::Linear),
    ("encoder.layer.{}.attention.self.key", "blocks.{}.attention.qkv.1", Layout::Linear),
    ("encoder.layer.{}.attention.self.value", "blocks.{}.attention.qkv.2", Layout::Linear),
    ("encoder.layer.{}.attention.output.dense", "blocks.{}.attention.output", Layout::Linear),
    ("encoder.layer.{}.attention.output.LayerNorm", "blocks.{}.attention_norm", Layout::Norm),
    ("encoder.layer.{}.intermediate.dense", "blocks.{}.mlp.input.0", Layout::Linear),
    ("encoder.layer.{}.output.dense", "blocks.{}.mlp.output", Layout::Linear),
    ("encoder.layer.{}.output.LayerNorm", "blocks.{}.mlp_norm", Layout::Norm),
];

/// What BERT and RoBERTa have in common; callers change the rest.
pub fn family(architecture: &'static str, config: &Config) -> Result<Spec> {
    config.only("position_embedding_type", "absolute")?;
    config.only("is_decoder", false)?;
    config.only("add_cross_attention", false)?;
    let hidden = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    Ok(Spec {
        architecture,
        vocab: config.count("vocab_size")?,
        hidden,
        layers: config.layers("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim: config.head_dim(hidden, heads)?,
        inner: config.count("intermediate_size")?,
        max_positions: config.count("max_position_embeddings")?,
        causal: false,
        positions: Positions::Learned { offset: 0, padding: None },
        token_types: config.count_or("type_vocab_size", 2)?,
        norm: Norm::Layer,
        norm_eps: config.number_or("layer_norm_eps", 1e-12)?,
        residual: Residual::Post,
        activation: config.activation_or("hidden_act", Activation::GeluErf)?,
        gated: false,
        fused_qkv: false,
        qk_norm: false,
        bias: Bias::all(true),
        lm_head: LmHead::Absent,
        initializer_range: config.number_or("initializer_range", 0.02)?,
        extras: Extras::default(),
        config: config.values().clone(),
    })
}

fn spec(config: &Config) -> Result<Spec> {
    family("bert", config)
}

inventory::submit! {
    Architecture {
        name: "bert",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["bert.", ""],
        lm_head: "",
        ignored: &["embeddings.position_ids", "pooler.*", "cls.*", "classifier.*"],
        base_class: "BertModel",
        lm_class: "",
        classifier_class: "",
    }
}
