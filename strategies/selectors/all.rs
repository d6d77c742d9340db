use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, Form, Memory, Selection, Selector};

/// Every example counts once and keeps its weak label.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct All {}

impl Selector for All {
    fn select(&self, batch: &Batch, _memory: &mut Memory) -> Selection {
        Selection::weak(batch)
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }
}

register!(selector "all" for All, paper = "Burns et al. 2023 (arXiv 2312.09390)");
