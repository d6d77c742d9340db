//! DeBERTa-v3 (He et al. 2023), whose `model_type` is `deberta-v2`: BERT with places that attention compares with contents, in place of
//! vectors of positions. The encoder alone: its pooler and its heads are not read.

use super::{Architecture, Layout, Rule};
use crate::{
    Result,
    model::spec::{Activation, Bias, Buckets, Config, Extras, LmHead, Norm, Positions, Residual, Spec},
};

const RULES: &[Rule] = &[
    ("embeddings.word_embeddings", "tokens", Layout::Same),
    ("embeddings.token_type_embeddings", "token_types", Layout::Same),
    ("embeddings.LayerNorm", "embedding_norm", Layout::Norm),
    ("encoder.rel_embeddings", "distances", Layout::Same),
    ("encoder.LayerNorm", "distance_norm", Layout::Norm),
    ("encoder.layer.{}.attention.self.query_proj", "blocks.{}.attention.qkv.0", Layout::Linear),
    ("encoder.layer.{}.attention.self.key_proj", "blocks.{}.attention.qkv.1", Layout::Linear),
    ("encoder.layer.{}.attention.self.value_proj", "blocks.{}.attention.qkv.2", Layout::Linear),
    ("encoder.layer.{}.attention.output.dense", "blocks.{}.attention.output", Layout::Linear),
    ("encoder.layer.{}.attention.output.LayerNorm", "blocks.{}.attention_norm", Layout::Norm),
    ("encoder.layer.{}.intermediate.dense", "blocks.{}.mlp.input.0", Layout::Linear),
    ("encoder.layer.{}.output.dense", "blocks.{}.mlp.output", Layout::Linear),
    ("encoder.layer.{}.output.LayerNorm", "blocks.{}.mlp_norm", Layout::Norm),
];

fn spec(config: &Config) -> Result<Spec> {
    // Version 2 and what others trained have these otherwise, and transformers takes other values where there are none.
    config.must("relative_attention", true)?;
    config.must("position_biased_input", false)?;
    config.must("share_att_key", true)?;
    config.must("norm_rel_ebd", "layer_norm")?;
    config.only("conv_kernel_size", 0)?;
    let kinds = config.values().get("pos_att_type");
    let named = |kind: &str| match kinds {
        Some(serde_json::Value::Array(kinds)) => kinds.iter().any(|named| named == kind),
        Some(serde_json::Value::String(kinds)) => kinds.to_lowercase().split('|').any(|named| named.trim() == kind),
        _ => false,
    };
    if !(named("c2p") && named("p2c")) {
        config.must("pos_att_type", "p2c|c2p")?;
    }
    let hidden = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    let head_dim = config.head_dim(hidden, heads)?;
    config.only("embedding_size", hidden)?;
    config.only("attention_head_size", head_dim)?;
    let max_positions = config.count("max_position_embeddings")?;
    let longest = match config.number_or("max_relative_positions", -1.0)? {
        below if below < 1.0 => max_positions,
        _ => config.count("max_relative_positions")?,
    };
    Ok(Spec {
        architecture: "deberta-v2",
        vocab: config.count("vocab_size")?,
        hidden,
        layers: config.layers("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim,
        inner: config.count("intermediate_size")?,
        max_positions,
        causal: false,
        positions: Positions::Relative(Buckets { count: config.count("position_buckets")?, longest }),
        token_types: config.whole_or("type_vocab_size", 0)?,
        norm: Norm::Layer,
        norm_eps: config.number_or("layer_norm_eps", 1e-7)?,
        residual: Residual::Post,
        activation: config.activation_or("hidden_act", Activation::GeluErf)?,
        gated: false,
        fused_qkv: false,
        qk_norm: false,
        bias: Bias::all(true),
        lm_head: LmHead::Absent,
        initializer_range: config.number_or("initializer_range", 0.02)?,
        // Content to content, content to place, place to content.
        extras: Extras { attention_scale: Some((3.0 * head_dim as f64).sqrt().recip()), ..Extras::default() },
        config: config.values().clone(),
    })
}

inventory::submit! {
    Architecture {
        name: "deberta-v2",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["deberta.", ""],
        lm_head: "",
        ignored: &[
            "embeddings.position_ids",
            "pooler.*",
            "cls.*",
            "lm_predictions.*",
            "mask_predictions.*",
            "classifier.*",
        ],
        base_class: "DebertaV2Model",
        lm_class: "",
        classifier_class: "",
    }
}
