//! Embeddings of the pretrained strong model for the student's examples.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Result,
    error::IoContext,
    learner,
    model::HeadConfig,
    stage::{
        DataRef, Demand, ModelRef, Stage,
        bench::Bench,
        store::{Finished, write_atomically},
    },
    strategy::Split,
};

/// Embeddings of the pretrained strong model for the student's examples.
///
/// File: `transfer.f32`, rows of little-endian f32; `width` in the summary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Embeddings {
    /// The strong model.
    pub model: ModelRef,
    /// The examples.
    pub data: DataRef,
}

#[typetag::serde(name = "embeddings")]
impl Stage for Embeddings {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({
            "model": self.model.identity()?,
            "data": self.data.fingerprint,
            "max_tokens": self.data.max_tokens,
        }))
    }

    fn title(&self) -> String {
        format!("embeddings  {}", self.data.task)
    }

    fn demand(&self) -> Option<Demand<'_>> {
        Some(Demand::answering(&self.model, &self.data))
    }

    fn model(&self) -> Option<&ModelRef> {
        Some(&self.model)
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let trainer = bench.trainer(&self.data, 0)?;
        let pretrained = bench.model(&self.model)?;
        // Nothing is trained.
        let head = HeadConfig { freeze_backbone: true, ..self.model.head.clone() };
        let model = ModelRef { head, ..self.model.clone() };
        let outputs = trainer.data.asks().choices().unwrap_or(1);
        let classifier = trainer.classifier(&model, &pretrained, outputs, None)?;
        let data = trainer.encode(&pretrained, Split::Transfer)?;
        let rows = learner::embed(&classifier, &data, &bench.place.execution)?;
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        write_atomically(&folder.join(EMBEDDINGS), &bytes)?;
        Ok(json!({ "width": rows.first().map_or(0, Vec::len) }))
    }
}

const EMBEDDINGS: &str = "transfer.f32";

/// What [`Embeddings`] wrote.
pub(super) fn read_embeddings(stage: &Finished) -> Result<Vec<Vec<f32>>> {
    let path = stage.file(EMBEDDINGS);
    let bytes = std::fs::read(&path).path("read embeddings", &path)?;
    let width = stage.manifest.summary["width"].as_u64().unwrap_or(0) as usize;
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
    Ok(values.chunks_exact(width.max(1)).map(<[f32]>::to_vec).collect())
}
