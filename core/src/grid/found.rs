//! Models that a grid names, opened.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    asked::Made,
    config::{self, ModelConfig},
    desk::{open_world, question},
    library::Library,
    models::{ModelFolder, config_file, model_folder},
    plan::Places,
};
use crate::{
    Error, Result,
    document::Document,
    error::IoContext,
    learner::{Answering, Recipe, Sampler},
    model::{Pretrained, Spec, Tokenizer, can_write},
    stage::{ModelRef, Store, Writing, kinds},
    strategy::whole,
    task::{Counter, TokenCounts, world::World},
};

/// Beyond this many parameters, weights, gradients and moments are more than the memory of any one machine.
const LARGEST_PRETRAINED: f64 = 1e11;

/// A model that has been found.
pub(super) struct FoundModel {
    pub(super) reference: ModelRef,
    /// Where its files are; none for a model that is pretrained in the run.
    folder: PathBuf,
    /// How they were found; none for a model that is pretrained in the run.
    pub(super) origin: Option<ModelFolder>,
    pub(super) tokenizer: Tokenizer,
    /// Hash of the tokenizer's files.
    pub(super) tokens: String,
    /// Shared by the models with the same tokenizer.
    pub(super) counts: Arc<TokenCounts>,
    pub(super) spec: Spec,
    /// The tokens with which its texts end.
    pub(super) ends: Vec<u32>,
    /// What a user should know of how its files are read.
    pub(super) notes: Vec<String>,
}

impl FoundModel {
    fn new(reference: ModelRef, tokenizer: Tokenizer, spec: Spec) -> Self {
        let tokens = tokenizer.fingerprint();
        Self {
            reference,
            folder: PathBuf::new(),
            origin: None,
            tokenizer,
            tokens,
            counts: Arc::default(),
            spec,
            ends: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// How it learns words, and ends a text.
    ///
    /// # Errors
    /// It cannot write, or does not know how a text ends.
    pub(super) fn writing(&self, answering: &Answering) -> Result<Writing> {
        let fault = |error: Error| error.context(format!("model `{}`", self.reference.name));
        can_write(&self.spec).map_err(fault)?;
        if answering.end && self.ends.is_empty() {
            return Err(fault(Error::new(
                "answers are to end in the end-of-text token, and none of its files names one",
            ))
            .help("set `end = false` under `[words]`, and give the task a `stop` at which answers end"));
        }
        Ok(Writing { ends: self.ends.clone(), answering: answering.clone() })
    }

    /// Whether it makes the same tokens of a text as another model, and knows as many.
    pub(super) fn reads_as(&self, other: &Self) -> bool {
        self.tokens == other.tokens && self.spec.vocab == other.spec.vocab
    }
}

impl Counter for FoundModel {
    fn starts(&self, text: &str) -> Option<Vec<usize>> {
        self.tokenizer.starts(text).ok()
    }

    fn count(&self, text: &str) -> Result<usize> {
        let unreadable = |error: Error| {
            error.context(format!("model `{}`", self.reference.name)).in_file(self.folder.join("tokenizer.json")).or_else_help(
                "is it the model's own tokenizer? It has no token for something in the text, and none for the unknown",
            )
        };
        self.counts.get(text, |text| self.tokenizer.encode(text).map(|ids| ids.len()).map_err(unreadable))
    }
}

pub(super) fn find_model(
    model: &ModelConfig,
    library: &Library,
    places: &Places,
    store: &Store,
    made: &mut Made,
) -> Result<FoundModel> {
    let Some(pretrain) = &model.file.pretrain else {
        let found = model_folder(model, places)?;
        let mut pretrained = Pretrained::open(&found.folder)?;
        let mut folders = vec![&found.folder];
        if let Some(folder) = &model.file.adapter {
            pretrained = pretrained.with_adapter(folder).map_err(|error| model.blame("adapter", error))?;
            folders.push(folder);
        }
        let mut files = Vec::new();
        for folder in &folders {
            let entries = folder.read_dir().path("read the model's folder", folder)?;
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        let asked = if folders.len() > 1 { json!(folders) } else { json!(found.folder) };
        let question = question("weights", &asked, files);
        let reference = ModelRef {
            name: model.name.clone(),
            weights: match question.as_ref().and_then(|question| store.known(question)) {
                Some(fingerprint) => fingerprint,
                None => {
                    let fingerprint = pretrained.fingerprint()?;
                    question.iter().for_each(|question| store.learn(question, fingerprint));
                    fingerprint.to_owned()
                }
            },
            head: model.file.head.clone(),
            writing: None,
            lora: model.lora(pretrained.spec())?,
        };
        let ends = pretrained.ends()?;
        let model = FoundModel::new(reference, pretrained.tokenizer().clone(), pretrained.spec().clone());
        return Ok(FoundModel {
            folder: found.folder.clone(),
            origin: Some(found),
            notes: pretrained.notes()?,
            ends,
            ..model
        });
    };
    let (world, spec, tokenizer) = world_model(pretrain, library)?;
    let recipe: Recipe = pretrain
        .train
        .clone()
        .try_into()
        .map_err(|error: toml::de::Error| Error::new(format!("`pretrain.train`: {}", error.message())))?;
    let documents = world.tokens / world.document.max(1);
    let trains = || Sampler::check(documents, recipe.batch_size, recipe.epochs);
    recipe.validate().and_then(|()| trains()).map_err(|error| error.context("`pretrain.train`"))?;
    let id =
        made.push(kinds::pretrain::Pretrain { world, config: spec.config.clone(), recipe, seed: pretrain.seed })?;
    let (name, weights, head) = (model.name.clone(), id.to_string(), model.file.head.clone());
    // What a world says ends in a full stop.
    let ends = tokenizer.id(".");
    let lora = model.lora(&spec)?;
    let found = FoundModel::new(ModelRef { name, weights, head, writing: None, lora }, tokenizer, spec);
    Ok(FoundModel { ends: ends.into_iter().collect(), ..found })
}

/// The world, the shape and the tokenizer of a model that is pretrained in the run.
fn world_model(pretrain: &config::Pretrain, library: &Library) -> Result<(World, Spec, Tokenizer)> {
    let mut world = open_world(library, &pretrain.world)?;
    if let Some(tokens) = pretrain.tokens {
        if !(world.document..=world.tokens).contains(&tokens) {
            return Err(Error::new(format!(
                "`pretrain.tokens` must be between {} and {}",
                world.document, world.tokens
            )));
        }
        // The text is written from its beginning, so a shorter world is a part of the longer one.
        world.tokens = tokens;
    }
    let tokenizer = Tokenizer::parse(&world.tokenizer_json(), Path::new("tokenizer.json"))?;
    let Value::Object(mut config) = whole(&pretrain.config).map_err(|error| error.context("`pretrain.config`"))? else {
        return Err(Error::new("`pretrain.config` is not a table"));
    };
    config.insert("vocab_size".to_owned(), world.vocabulary_size().into());
    let spec = Spec::from_config(&config, Path::new("pretrain.config"))?;
    if !spec.speaks() {
        let message = format!("a `{}` is no language model, and pretraining makes one", spec.architecture);
        return Err(Error::new(message).help("choose a decoder, such as `model_type = \"gpt2\"`, in `pretrain.config`"));
    }
    if spec.max_positions < world.document {
        let message = format!(
            "the world's documents have {} tokens, and the model reads {} at most",
            world.document, spec.max_positions
        );
        return Err(
            Error::new(message).help("raise the positions in `pretrain.config`, or lower `document` in the world")
        );
    }
    if spec.parameters() > LARGEST_PRETRAINED {
        let message = format!("`pretrain.config` describes a model of {:.1e} parameters", spec.parameters());
        return Err(Error::new(message).help("what is pretrained in a run fits in memory four times; make it smaller"));
    }
    Ok((world, spec, tokenizer))
}

/// A model's tokenizer and the longest text it reads, in tokens, by the name that grids give it.
///
/// # Errors
/// No such model, or files that are missing or damaged.
pub fn find_tokenizer(name: &str, library: &Library, places: &Places) -> Result<(Tokenizer, usize)> {
    let document = Document::parse("command line", &format!("model = {}", toml::Value::from(name)))?;
    let model = ModelConfig::read(name, library, None, &document.root().need("model")?)?;
    let find = || match &model.file.pretrain {
        None => {
            let pretrained = Pretrained::open(&model_folder(&model, places)?.folder)?;
            Ok((pretrained.tokenizer().clone(), pretrained.spec().max_positions))
        }
        Some(pretrain) => world_model(pretrain, library).map(|(_, spec, tokenizer)| (tokenizer, spec.max_positions)),
    };
    find().map_err(|error: Error| error.context(format!("model `{name}`")))
}

/// What a model looks like, by its `config.json` alone.
///
/// # Errors
/// No such file, or one that is damaged.
pub(super) fn shape_of(model: &ModelConfig, library: &Library, places: &Places) -> Result<Spec> {
    if let Some(pretrain) = &model.file.pretrain {
        return world_model(pretrain, library).map(|(_, spec, _)| spec);
    }
    let file = config_file(model, places)?;
    let text = std::fs::read_to_string(&file).path("read the model's configuration", &file)?;
    Spec::parse(&text, &file)
}
