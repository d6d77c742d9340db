//! Mistral (Jiang et al. 2023): Llama, with a sliding window that sequences are kept within.

use super::{Architecture, llama, qwen2};
use crate::{
    Result,
    model::spec::{Config, Spec},
};

fn spec(config: &Config) -> Result<Spec> {
    qwen2::within_window(config, llama::family("mistral", config)?)
}

inventory::submit! {
    Architecture {
        name: "mistral",
        spec,
        layers_key: "num_hidden_layers",
        rules: llama::RULES,
        prefixes: ["model.", ""],
        lm_head: "lm_head",
        ignored: llama::IGNORED,
        base_class: "MistralModel",
        lm_class: "MistralForCausalLM",
        classifier_class: "MistralForSequenceClassification",
    }
}
