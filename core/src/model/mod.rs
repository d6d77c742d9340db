//! Models: one [`Transformer`] for all families, read from and written to the files of Hugging Face transformers.
//!
//! A [`Pretrained`] is a folder; it is checked when opened and [loads](Pretrained::load) into a [`Transformer`], on which a
//! [`Classifier`] puts its head. What distinguishes families is a [`Spec`], read from `config.json` by one file per family
//! in [`arch`]. There is no dropout: nothing here draws random numbers but the initialisation.

pub mod arch;
mod auto_tokenizer;
mod classifier;
mod footprint;
mod generate;
mod lora;
mod peft;
mod pretrained;
pub mod spec;
mod tiktoken;
mod tokenizer;
mod transformer;
mod weights;

#[cfg(test)]
mod tests;

pub use classifier::{Classifier, HeadConfig, HeadInit};
pub use footprint::{Footprint, Learns, Numbers, Trained};
pub use generate::Decoder;
pub(crate) use generate::can_write;
pub use lora::Lora;
pub use peft::is_adapter;
pub use pretrained::Pretrained;
pub use spec::Spec;
pub use tokenizer::Tokenizer;
pub(crate) use transformer::is_trained;
pub use transformer::{Pooling, Precision, Tape, Tokens, Transformer};
