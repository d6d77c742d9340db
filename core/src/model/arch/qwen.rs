//! The first Qwen (Bai et al. 2023): Llama with one matrix for queries, keys and values, and names of its own.
//!
//! transformers does not have it; its repositories bring code. That code takes texts longer than `seq_length` in another way (log-n scaling of
//! queries, dynamic NTK), but not while it trains; so does this ([`Beyond`]).

use super::{Architecture, Layout, Rule};
use crate::{
    Result,
    model::spec::{Activation, Beyond, Bias, Config, Extras, LmHead, Norm, Residual, Spec},
};

// `w1(x) * silu(w2(x))`: the gate is the second.
const RULES: &[Rule] = &[
    ("wte", "tokens", Layout::Same),
    ("h.{}.ln_1", "blocks.{}.attention_norm", Layout::Norm),
    ("h.{}.attn.c_attn", "blocks.{}.attention.qkv.0", Layout::Linear),
    ("h.{}.attn.c_proj", "blocks.{}.attention.output", Layout::Linear),
    ("h.{}.ln_2", "blocks.{}.mlp_norm", Layout::Norm),
    ("h.{}.mlp.w2", "blocks.{}.mlp.input.0", Layout::Linear),
    ("h.{}.mlp.w1", "blocks.{}.mlp.input.1", Layout::Linear),
    ("h.{}.mlp.c_proj", "blocks.{}.mlp.output", Layout::Linear),
    ("ln_f", "final_norm", Layout::Norm),
];

fn spec(config: &Config) -> Result<Spec> {
    config.only("scale_attn_weights", true)?;
    config.only("use_cache_quantization", false)?;
    let hidden = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    let head_dim = config.head_dim(hidden, heads)?;
    // The published code cuts the fused matrix as if both were one.
    config.only("kv_channels", head_dim)?;
    let both = config.count("intermediate_size")?;
    let bias = !config.flag_or("no_bias", true)?;
    let length = config.count_or("seq_length", 2048)?;
    let longest = config.count_or("max_position_embeddings", length)?;
    let (ntk, log_n) = (config.flag_or("use_dynamic_ntk", true)?, config.flag_or("use_logn_attn", true)?);
    let beyond = Beyond { length, log_n, ntk };
    Ok(Spec {
        architecture: "qwen",
        vocab: config.count("vocab_size")?,
        hidden,
        layers: config.layers("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim,
        inner: config.head_dim(both, 2)?,
        max_positions: longest,
        causal: true,
        positions: config.rotary(head_dim, "rotary_emb_base", config.number_or("rotary_pct", 1.0)?)?,
        token_types: 0,
        norm: Norm::Rms,
        norm_eps: config.number_or("layer_norm_epsilon", 1e-6)?,
        residual: Residual::Pre,
        activation: Activation::Silu,
        gated: true,
        fused_qkv: true,
        qk_norm: false,
        bias: Bias { qkv: true, output: bias, mlp: bias },
        lm_head: if config.flag_or("tie_word_embeddings", false)? { LmHead::Tied } else { LmHead::Separate },
        initializer_range: config.number_or("initializer_range", 0.02)?,
        extras: Extras { beyond: Some(beyond), ..Extras::default() },
        config: config.values().clone(),
    })
}

inventory::submit! {
    Architecture {
        name: "qwen",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["transformer.", ""],
        lm_head: "lm_head",
        ignored: &["h.{}.attn.masked_bias", "rotary_emb.inv_freq", "h.{}.attn.rotary_emb.inv_freq"],
        base_class: "QWenModel",
        lm_class: "QWenLMHeadModel",
        classifier_class: "",
    }
}
