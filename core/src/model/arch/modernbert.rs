//! ModernBERT (Warner et al. 2024). The encoder alone: its heads are not read.

use super::{Architecture, Layout, Rule};
use crate::{
    Result,
    model::spec::{Activation, Bias, Config, Extras, LmHead, Local, Norm, Residual, Spec},
};

const RULES: &[Rule] = &[
    ("embeddings.tok_embeddings", "tokens", Layout::Same),
    ("embeddings.norm", "embedding_norm", Layout::Norm),
    ("layers.{}.attn_norm", "blocks.{}.attention_norm", Layout::Norm),
    ("layers.{}.attn.Wqkv", "blocks.{}.attention.qkv.0", Layout::Linear),
    ("layers.{}.attn.Wo", "blocks.{}.attention.output", Layout::Linear),
    ("layers.{}.mlp_norm", "blocks.{}.mlp_norm", Layout::Norm),
    ("layers.{}.mlp.Wi", "blocks.{}.mlp.input.0", Layout::Linear),
    ("layers.{}.mlp.Wo", "blocks.{}.mlp.output", Layout::Linear),
    ("final_norm", "final_norm", Layout::Norm),
];

fn spec(config: &Config) -> Result<Spec> {
    let hidden = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    let layers = config.layers("num_hidden_layers")?;
    let head_dim = config.head_dim(hidden, heads)?;
    let every = config.count_or("global_attn_every_n_layers", 3)?;
    let attention = config.flag_or("attention_bias", false)?;
    let local = Local {
        layers: config.local_layers(layers, |layer| !layer.is_multiple_of(every))?,
        // Half of the window is to either side, its ends included.
        window: config.count_or("local_attention", 128)? / 2 + 1,
        positions: Some(config.rotary_of("sliding_attention", head_dim, "local_rope_theta", 10_000.0)?),
    };
    Ok(Spec {
        architecture: "modernbert",
        vocab: config.count("vocab_size")?,
        hidden,
        layers,
        heads,
        kv_heads: heads,
        head_dim,
        inner: config.count("intermediate_size")?,
        max_positions: config.count("max_position_embeddings")?,
        causal: false,
        positions: config.rotary_of("full_attention", head_dim, "global_rope_theta", 160_000.0)?,
        token_types: 0,
        norm: if config.flag_or("norm_bias", false)? { Norm::Layer } else { Norm::LayerWithoutBias },
        norm_eps: config.number_or("norm_eps", 1e-5)?,
        residual: Residual::Pre,
        activation: config.activation_or("hidden_activation", Activation::GeluErf)?,
        gated: true,
        fused_qkv: true,
        qk_norm: false,
        bias: Bias { qkv: attention, output: attention, mlp: config.flag_or("mlp_bias", false)? },
        lm_head: LmHead::Absent,
        initializer_range: config.number_or("initializer_range", 0.02)?,
        extras: Extras { embedding_norm: true, fused_gate: true, local: Some(local), ..Extras::default() },
        config: config.values().clone(),
    })
}

inventory::submit! {
    Architecture {
        name: "modernbert",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["model.", ""],
        lm_head: "",
        ignored: &["head.*", "decoder.*", "classifier.*"],
        base_class: "ModernBertModel",
        lm_class: "",
        classifier_class: "",
    }
}
