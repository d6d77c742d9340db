//! Gemma 3 (Gemma Team 2025), the models of text alone: Gemma 2 with normalised queries and keys in place of soft caps, and rotary positions of
//! another base in layers with a sliding window.

use super::{Architecture, gemma2, llama};
use crate::{
    Result,
    model::spec::{Config, Extras, Local, Spec},
};

fn spec(config: &Config) -> Result<Spec> {
    let family = gemma2::family("gemma3_text", config, |head_dim| {
        config.rotary_of("full_attention", head_dim, "rope_theta", 1e6)
    })?;
    let pattern = config.count_or("sliding_window_pattern", 6)?;
    let local = Local {
        layers: config.local_layers(family.layers, |layer| !(layer + 1).is_multiple_of(pattern))?,
        window: config.count_or("sliding_window", 4096)?,
        positions: Some(config.rotary_of("sliding_attention", family.head_dim, "rope_local_base_freq", 10_000.0)?),
    };
    let extras = Extras { local: Some(local), ..family.extras.clone() };
    Ok(Spec { qk_norm: true, extras, ..family })
}

inventory::submit! {
    Architecture {
        name: "gemma3_text",
        spec,
        layers_key: "num_hidden_layers",
        rules: gemma2::RULES,
        prefixes: ["model.", ""],
        lm_head: "lm_head",
        ignored: llama::IGNORED,
        base_class: "Gemma3TextModel",
        lm_class: "Gemma3ForCausalLM",
        classifier_class: "Gemma3TextForSequenceClassification",
    }
}
