//! Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values.

use super::{Architecture, llama};
use crate::{
    Result,
    model::spec::{Bias, Config, Spec},
};

/// Keeps sequences within the sliding window, if there is one: up to there it changes nothing.
pub fn without_sliding(config: &Config, spec: Spec) -> Result<Spec> {
    if config.flag_or("use_sliding_window", false)? {
        return within_window(config, spec);
    }
    config.only_items("layer_types", "full_attention")?;
    Ok(spec)
}

/// The longest sequence that no sliding window cuts.
pub fn within_window(config: &Config, spec: Spec) -> Result<Spec> {
    let window = config.count_or("sliding_window", spec.max_positions)?;
    Ok(Spec { max_positions: spec.max_positions.min(window), ..spec })
}

fn spec(config: &Config) -> Result<Spec> {
    let bias = Bias { qkv: true, output: false, mlp: false };
    without_sliding(config, Spec { bias, ..llama::family("qwen2", config)? })
}

inventory::submit! {
    Architecture {
        name: "qwen2",
        spec,
        layers_key: "num_hidden_layers",
        rules: llama::RULES,
        prefixes: ["model.", ""],
        lm_head: "lm_head",
        ignored: llama::IGNORED,
        base_class: "Qwen2Model",
        lm_class: "Qwen2ForCausalLM",
        classifier_class: "Qwen2ForSequenceClassification",
    }
}
