//! Qwen3 (Yang et al. 2025), dense: Llama with normalised queries and keys.

use super::{Architecture, llama, qwen2};
use crate::{
    Result,
    model::spec::{Bias, Config, Spec},
};

fn spec(config: &Config) -> Result<Spec> {
    let attention = config.flag_or("attention_bias", false)?;
    let bias = Bias { qkv: attention, output: attention, mlp: false };
    qwen2::without_sliding(config, Spec { bias, qk_norm: true, ..llama::family("qwen3", config)? })
}

inventory::submit! {
    Architecture {
        name: "qwen3",
        spec,
        layers_key: "num_hidden_layers",
        rules: llama::RULES,
        prefixes: ["model.", ""],
        lm_head: "lm_head",
        ignored: llama::IGNORED,
        base_class: "Qwen3Model",
        lm_class: "Qwen3ForCausalLM",
        classifier_class: "Qwen3ForSequenceClassification",
    }
}
