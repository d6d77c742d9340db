//! GPT-2 (Radford et al. 2019).

use super::{Architecture, Layout, Rule};
use crate::{
    Result,
    model::spec::{Activation, Bias, Config, Extras, LmHead, Norm, Positions, Residual, Spec},
};

// `Conv1D` stores `[inputs, outputs]` already. Transposing it would go unnoticed where a matrix is square (`attn.c_proj`).
const RULES: &[Rule] = &[
    ("wte", "tokens", Layout::Same),
    ("wpe", "positions", Layout::Same),
    ("h.{}.ln_1", "blocks.{}.attention_norm", Layout::Norm),
    ("h.{}.attn.c_attn", "blocks.{}.attention.qkv.0", Layout::Same),
    ("h.{}.attn.c_proj", "blocks.{}.attention.output", Layout::Same),
    ("h.{}.ln_2", "blocks.{}.mlp_norm", Layout::Norm),
    ("h.{}.mlp.c_fc", "blocks.{}.mlp.input.0", Layout::Same),
    ("h.{}.mlp.c_proj", "blocks.{}.mlp.output", Layout::Same),
    ("ln_f", "final_norm", Layout::Norm),
];

fn spec(config: &Config) -> Result<Spec> {
    config.only("scale_attn_weights", true)?;
    config.only("scale_attn_by_inverse_layer_idx", false)?;
    config.only("add_cross_attention", false)?;
    let hidden = config.count("n_embd")?;
    let heads = config.count("n_head")?;
    Ok(Spec {
        architecture: "gpt2",
        vocab: config.count("vocab_size")?,
        hidden,
        layers: config.layers("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: config.head_dim(hidden, heads)?,
        inner: config.count_or("n_inner", 4 * hidden)?,
        max_positions: config.count("n_positions")?,
        causal: true,
        positions: Positions::Learned { offset: 0, padding: None },
        token_types: 0,
        norm: Norm::Layer,
        norm_eps: config.number_or("layer_norm_epsilon", 1e-5)?,
        residual: Residual::Pre,
        activation: config.activation_or("activation_function", Activation::GeluTanh)?,
        gated: false,
        fused_qkv: true,
        qk_norm: false,
        bias: Bias::all(true),
        lm_head: if config.flag_or("tie_word_embeddings", true)? { LmHead::Tied } else { LmHead::Separate },
        initializer_range: config.number_or("initializer_range", 0.02)?,
        extras: Extras::default(),
        config: config.values().clone(),
    })
}

inventory::submit! {
    Architecture {
        name: "gpt2",
        spec,
        layers_key: "n_layer",
        rules: RULES,
        prefixes: ["transformer.", ""],
        lm_head: "lm_head",
        // Causal masks that old files carry.
        ignored: &["h.{}.attn.bias", "h.{}.attn.masked_bias"],
        base_class: "GPT2Model",
        lm_class: "GPT2LMHeadModel",
        classifier_class: "GPT2ForSequenceClassification",
    }
}
