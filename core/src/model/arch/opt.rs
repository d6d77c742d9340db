//! OPT (Zhang et al. 2022).

use super::{Architecture, Layout, Rule};
use crate::{
    Result,
    model::spec::{Activation, Bias, Config, Extras, LmHead, Norm, Positions, Residual, Spec},
};

const RULES: &[Rule] = &[
    ("embed_tokens", "tokens", Layout::Same),
    ("embed_positions", "positions", Layout::Same),
    ("layers.{}.self_attn_layer_norm", "blocks.{}.attention_norm", Layout::Norm),
    ("layers.{}.self_attn.q_proj", "blocks.{}.attention.qkv.0", Layout::Linear),
    ("layers.{}.self_attn.k_proj", "blocks.{}.attention.qkv.1", Layout::Linear),
    ("layers.{}.self_attn.v_proj", "blocks.{}.attention.qkv.2", Layout::Linear),
    ("layers.{}.self_attn.out_proj", "blocks.{}.attention.output", Layout::Linear),
    ("layers.{}.final_layer_norm", "blocks.{}.mlp_norm", Layout::Norm),
    ("layers.{}.fc1", "blocks.{}.mlp.input.0", Layout::Linear),
    ("layers.{}.fc2", "blocks.{}.mlp.output", Layout::Linear),
    ("final_layer_norm", "final_norm", Layout::Norm),
];

fn spec(config: &Config) -> Result<Spec> {
    let hidden = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    // OPT-350m alone has these otherwise.
    config.only("do_layer_norm_before", true)?;
    config.only("_remove_final_layer_norm", false)?;
    config.only("word_embed_proj_dim", hidden)?;
    config.only("layer_norm_elementwise_affine", true)?;
    Ok(Spec {
        architecture: "opt",
        vocab: config.count("vocab_size")?,
        hidden,
        layers: config.layers("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim: config.head_dim(hidden, heads)?,
        inner: config.count("ffn_dim")?,
        max_positions: config.count("max_position_embeddings")?,
        causal: true,
        positions: Positions::Learned { offset: 2, padding: None },
        token_types: 0,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        residual: Residual::Pre,
        activation: config.activation_or("activation_function", Activation::Relu)?,
        gated: false,
        fused_qkv: false,
        qk_norm: false,
        bias: Bias::all(config.flag_or("enable_bias", true)?),
        lm_head: if config.flag_or("tie_word_embeddings", true)? { LmHead::Tied } else { LmHead::Separate },
        initializer_range: config.number_or("init_std", 0.02)?,
        extras: Extras::default(),
        config: config.values().clone(),
    })
}

inventory::submit! {
    Architecture {
        name: "opt",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["model.decoder.", "decoder."],
        lm_head: "lm_head",
        ignored: &[],
        base_class: "OPTModel",
        lm_class: "OPTForCausalLM",
        classifier_class: "OPTForSequenceClassification",
    }
}
