//! Phi-3 (Abdin et al. 2024): Llama with one matrix for queries, keys and values and one for gate and value.

use super::{Architecture, Layout, Rule, llama, qwen2};
use crate::{
    Result,
    model::spec::{Config, Extras, Spec},
};

const RULES: &[Rule] = &[
    ("embed_tokens", "tokens", Layout::Same),
    ("layers.{}.input_layernorm", "blocks.{}.attention_norm", Layout::Norm),
    ("layers.{}.self_attn.qkv_proj", "blocks.{}.attention.qkv.0", Layout::Linear),
    ("layers.{}.self_attn.o_proj", "blocks.{}.attention.output", Layout::Linear),
    ("layers.{}.post_attention_layernorm", "blocks.{}.mlp_norm", Layout::Norm),
    ("layers.{}.mlp.gate_up_proj", "blocks.{}.mlp.input.0", Layout::Linear),
    ("layers.{}.mlp.down_proj", "blocks.{}.mlp.output", Layout::Linear),
    ("norm", "final_norm", Layout::Norm),
];

fn spec(config: &Config) -> Result<Spec> {
    let fraction = config.number_or("partial_rotary_factor", 1.0)?;
    let family = llama::with_positions("phi3", config, |head_dim| config.rotary(head_dim, "rope_theta", fraction))?;
    qwen2::within_window(
        config,
        Spec {
            fused_qkv: true,
            norm_eps: config.number_or("rms_norm_eps", 1e-5)?,
            extras: Extras { fused_gate: true, ..Extras::default() },
            ..family
        },
    )
}

inventory::submit! {
    Architecture {
        name: "phi3",
        spec,
        layers_key: "num_hidden_layers",
        rules: RULES,
        prefixes: ["model.", ""],
        lm_head: "lm_head",
        ignored: llama::IGNORED,
        base_class: "Phi3Model",
        lm_class: "Phi3ForCausalLM",
        classifier_class: "Phi3ForSequenceClassification",
    }
}
