//! GPT-NeoX (Black et al. 2022), which Pythia is.

use super::{Architecture, Layout, Rule};
use crate::{
    Result,
    model::spec::{Activation, Bias, Config, Extras, LmHead, Norm, Residual, Spec},
};

const RULES: &[Rule] = &[
    ("embed_in", "tokens", Layout::Same),
    ("layers.{}.input_layernorm", "blocks.{}.attention_norm", Layout::Norm),
    ("layers.{}.attention.query_key_value", "blocks.{}.attention.qkv.0", Layout::LinearPerHead),
    ("layers.{}.attention.dense", "blocks.{}.attention.output", Layout::Linear),
    ("layers.{}.post_attention_layernorm", "blocks.{}.mlp_norm", Layout::Norm),
    ("layers.{}.mlp.dense_h_to_4h", "blocks.{}.mlp.input.0", Layout::Linear),
    ("layers.{}.mlp.dense_4h_to_h", "blocks.{}.mlp.output", Layout::Linear),
    ("final_layer_norm", "final_norm", Layout::Norm),
];

fn spec(config: &Config) -> Result<Spec> {
    let hidden = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    let head_dim = config.head_dim(hidden, heads)?;
    let attention = config.flag_or("attention_bias", true)?;
    Ok(Spec {
        architecture: "gpt_neox",
        vocab: config.count("vocab_size")?,
        hidden,
        layers: config.layers("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim,
        inner: config.count("intermediate_size")?,
        max_positions: config.count("max_position_embeddings")?,
        causal: true,
        positions: config.rotary(head_dim, "rotary_emb_base", config.number_or("rotary_pct", 0.25)?)?,
        token_types: 0,
        norm: Norm::Layer,
        norm_eps: config.number_or("layer_norm_eps", 1e-5)?,
        residual: if config.flag_or("use_parallel_residual", true)? { Residual::Parallel } else { Residual::Pre },
        activation: config.activation_or("hidden_act", Activation::GeluErf)?,
        gated: false,
        fused_qkv: true,
        qk_norm: false,
        bias: Bias { qkv: attention, output: attention, mlp: true },
        lm_head: if config.flag_or("tie_word_embeddings", false)? { LmHead::Tied } else { LmHead::Separate },
        initializer_range: config.number_or("initializer_range", 0.02)?,
        extras: Extras::default(),
        config: config.values().clone(),
    })
}

inventory::submit! {
    Architecture {
        name: "gpt_neox",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["gpt_neox.", ""],
        lm_head: "embed_out",
        // Causal masks and tables of frequencies that old files carry.
        ignored: &[
            "layers.{}.attention.bias",
            "layers.{}.attention.masked_bias",
            "layers.{}.attention.rotary_emb.inv_freq",
        ],
        base_class: "GPTNeoXModel",
        lm_class: "GPTNeoXForCausalLM",
        classifier_class: "GPTNeoXForSequenceClassification",
    }
}
