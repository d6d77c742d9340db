//! Gemma 2 (Gemma Team 2024): norms before and after each part of a block, soft caps, every other layer with a sliding window.

use super::{Architecture, Layout, Rule, llama};
use crate::{
    Result,
    model::spec::{Activation, Bias, Config, Extras, LmHead, Local, Norm, Positions, Residual, Spec},
};

/// Names of the family's files; the norms of queries and keys are Gemma 3's.
pub const RULES: &[Rule] = &[
    ("embed_tokens", "tokens", Layout::Same),
    ("layers.{}.input_layernorm", "blocks.{}.attention_norm", Layout::Norm),
    ("layers.{}.self_attn.q_proj", "blocks.{}.attention.qkv.0", Layout::Linear),
    ("layers.{}.self_attn.k_proj", "blocks.{}.attention.qkv.1", Layout::Linear),
    ("layers.{}.self_attn.v_proj", "blocks.{}.attention.qkv.2", Layout::Linear),
    ("layers.{}.self_attn.q_norm", "blocks.{}.attention.query_norm", Layout::Norm),
    ("layers.{}.self_attn.k_norm", "blocks.{}.attention.key_norm", Layout::Norm),
    ("layers.{}.self_attn.o_proj", "blocks.{}.attention.output", Layout::Linear),
    ("layers.{}.post_attention_layernorm", "blocks.{}.attention_after", Layout::Norm),
    ("layers.{}.pre_feedforward_layernorm", "blocks.{}.mlp_norm", Layout::Norm),
    ("layers.{}.mlp.gate_proj", "blocks.{}.mlp.input.0", Layout::Linear),
    ("layers.{}.mlp.up_proj", "blocks.{}.mlp.input.1", Layout::Linear),
    ("layers.{}.mlp.down_proj", "blocks.{}.mlp.output", Layout::Linear),
    ("layers.{}.post_feedforward_layernorm", "blocks.{}.mlp_after", Layout::Norm),
    ("norm", "final_norm", Layout::Norm),
];

/// What Gemma 2 and 3 have in common; callers change the rest.
pub fn family(
    architecture: &'static str,
    config: &Config,
    positions: impl FnOnce(usize) -> Result<Positions>,
) -> Result<Spec> {
    config.only("use_bidirectional_attention", false)?;
    // transformers has numbers of its own where these are absent, whatever the others are.
    config.count("head_dim")?;
    config.count("num_key_value_heads")?;
    let llama = llama::with_positions(architecture, config, positions)?;
    let attention = config.flag_or("attention_bias", false)?;
    let scalar = config.number_or("query_pre_attn_scalar", 256.0)?;
    Ok(Spec {
        norm: Norm::RmsAboveOne,
        residual: Residual::Sandwich,
        activation: config.activation_or("hidden_activation", Activation::GeluTanh)?,
        bias: Bias { qkv: attention, output: attention, mlp: false },
        lm_head: if config.flag_or("tie_word_embeddings", true)? { LmHead::Tied } else { LmHead::Separate },
        extras: Extras {
            // As float32, which is what transformers multiplies with.
            embedding_scale: Some(f64::from((llama.hidden as f64).sqrt() as f32)),
            attention_scale: Some(scalar.sqrt().recip()),
            logit_cap: config.number("final_logit_softcapping")?,
            ..Extras::default()
        },
        ..llama
    })
}

fn spec(config: &Config) -> Result<Spec> {
    let family = family("gemma2", config, |head_dim| config.rotary(head_dim, "rope_theta", 1.0))?;
    let local = Local {
        layers: config.local_layers(family.layers, |layer| layer.is_multiple_of(2))?,
        window: config.count_or("sliding_window", 4096)?,
        positions: None,
    };
    // `null` is none; absent, they are what the 9B model has.
    let cap = |key: &str, default: f64| match config.values().contains_key(key) {
        true => config.number(key),
        false => Ok(Some(default)),
    };
    let extras = Extras {
        attention_cap: cap("attn_logit_softcapping", 50.0)?,
        logit_cap: cap("final_logit_softcapping", 30.0)?,
        local: Some(local),
        ..family.extras.clone()
    };
    Ok(Spec { extras, ..family })
}

inventory::submit! {
    Architecture {
        name: "gemma2",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["model.", ""],
        lm_head: "lm_head",
        ignored: llama::IGNORED,
        base_class: "Gemma2Model",
        lm_class: "Gemma2ForCausalLM",
        classifier_class: "Gemma2ForSequenceClassification",
    }
}
