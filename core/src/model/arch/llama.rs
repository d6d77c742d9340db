//! Llama (Touvron et al. 2023), and what Qwen2, Qwen3 and Mistral share with it.

use super::{Architecture, Layout, Rule};
use crate::{
    Result,
    model::spec::{Activation, Bias, Config, Extras, LmHead, Norm, Positions, Residual, Spec},
};

/// Names of the family's files; the norms of queries and keys are Qwen3's.
pub const RULES: &[Rule] = &[
    ("embed_tokens", "tokens", Layout::Same),
    ("layers.{}.input_layernorm", "blocks.{}.attention_norm", Layout::Norm),
    ("layers.{}.self_attn.q_proj", "blocks.{}.attention.qkv.0", Layout::Linear),
    ("layers.{}.self_attn.k_proj", "blocks.{}.attention.qkv.1", Layout::Linear),
    ("layers.{}.self_attn.v_proj", "blocks.{}.attention.qkv.2", Layout::Linear),
    ("layers.{}.self_attn.q_norm", "blocks.{}.attention.query_norm", Layout::Norm),
    ("layers.{}.self_attn.k_norm", "blocks.{}.attention.key_norm", Layout::Norm),
    ("layers.{}.self_attn.o_proj", "blocks.{}.attention.output", Layout::Linear),
    ("layers.{}.post_attention_layernorm", "blocks.{}.mlp_norm", Layout::Norm),
    ("layers.{}.mlp.gate_proj", "blocks.{}.mlp.input.0", Layout::Linear),
    ("layers.{}.mlp.up_proj", "blocks.{}.mlp.input.1", Layout::Linear),
    ("layers.{}.mlp.down_proj", "blocks.{}.mlp.output", Layout::Linear),
    ("norm", "final_norm", Layout::Norm),
];

/// Tables of frequencies that old files carry.
pub const IGNORED: &[&str] = &["layers.{}.self_attn.rotary_emb.inv_freq"];

/// What the family has in common; callers change the rest.
pub fn family(architecture: &'static str, config: &Config) -> Result<Spec> {
    with_positions(architecture, config, |head_dim| config.rotary(head_dim, "rope_theta", 1.0))
}

/// As [`family`], with positions that `positions` makes of the width of a head.
pub fn with_positions(
    architecture: &'static str,
    config: &Config,
    positions: impl FnOnce(usize) -> Result<Positions>,
) -> Result<Spec> {
    let hidden = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    let head_dim = config.count_or("head_dim", config.head_dim(hidden, heads)?)?;
    Ok(Spec {
        architecture,
        vocab: config.count("vocab_size")?,
        hidden,
        layers: config.layers("num_hidden_layers")?,
        heads,
        kv_heads: config.count_or("num_key_value_heads", heads)?,
        head_dim,
        inner: config.count("intermediate_size")?,
        max_positions: config.count("max_position_embeddings")?,
        causal: true,
        positions: positions(head_dim)?,
        token_types: 0,
        norm: Norm::Rms,
        norm_eps: config.number_or("rms_norm_eps", 1e-6)?,
        residual: Residual::Pre,
        activation: config.activation_or("hidden_act", Activation::Silu)?,
        gated: true,
        fused_qkv: false,
        qk_norm: false,
        bias: Bias::all(false),
        lm_head: if config.flag_or("tie_word_embeddings", false)? { LmHead::Tied } else { LmHead::Separate },
        initializer_range: config.number_or("initializer_range", 0.02)?,
        extras: Extras::default(),
        config: config.values().clone(),
    })
}

fn spec(config: &Config) -> Result<Spec> {
    let attention = config.flag_or("attention_bias", false)?;
    let mlp = config.flag_or("mlp_bias", false)?;
    Ok(Spec { bias: Bias { qkv: attention, output: attention, mlp }, ..family("llama", config)? })
}

inventory::submit! {
    Architecture {
        name: "llama",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["model.", ""],
        lm_head: "lm_head",
        ignored: IGNORED,
        base_class: "LlamaModel",
        lm_class: "LlamaForCausalLM",
        classifier_class: "LlamaForSequenceClassification",
    }
}
