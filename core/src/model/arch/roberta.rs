//! RoBERTa (Liu et al. 2019): BERT with positions that begin after the padding token's. The encoder alone: its pooler and its heads are not
//! read.

use super::{Architecture, bert};
use crate::{
    Error, Result,
    model::spec::{Config, Positions, Spec},
};

fn spec(config: &Config) -> Result<Spec> {
    let bert = bert::family("roberta", config)?;
    let padding = config.whole_or("pad_token_id", 1)?;
    let offset = padding + 1;
    let Some(positions) = bert.max_positions.checked_sub(offset).filter(|positions| *positions > 0) else {
        let message = format!("{} positions are none after that of the padding token {padding}", bert.max_positions);
        return Err(config.blame("pad_token_id", Error::new(message)));
    };
    let padding = u32::try_from(padding).ok();
    Ok(Spec { max_positions: positions, positions: Positions::Learned { offset, padding }, ..bert })
}

inventory::submit! {
    Architecture {
        name: "roberta",
        spec,
        layers_key: "num_hidden_layers",
        rules: bert::RULES,
        prefixes: ["roberta.", ""],
        lm_head: "",
        ignored: &["embeddings.position_ids", "pooler.*", "lm_head.*", "classifier.*"],
        base_class: "RobertaModel",
        lm_class: "",
        classifier_class: "",
    }
}
