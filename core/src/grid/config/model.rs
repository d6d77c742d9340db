//! Models and how they are trained: `configs/models/NAME.toml`, `[model.NAME]`, `train`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Method, Pair,
    file::WorldName,
    names::{At, check_name, place},
};
use crate::{
    Error, Result,
    document::Section,
    error::Place,
    grid::library::Library,
    learner::Recipe,
    model::{HeadConfig, Lora, Spec},
};

/// `configs/models/NAME.toml`, with what a grid changes about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelFile {
    /// Name for people.
    pub title: String,
    /// Repository on the hub, `organisation/name`.
    pub hub: Option<String>,
    /// Revision on the hub; `main` when absent.
    pub revision: Option<String>,
    /// A local folder with `config.json`, `tokenizer.json` and `*.safetensors`, looked at before anything else.
    pub path: Option<PathBuf>,
    /// The weights' licence.
    pub licence: String,
    /// Whom to cite.
    pub citation: String,
    /// Classification head.
    pub head: HeadConfig,
    /// A folder with an adapter in `peft`'s format, which the weights are read with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Adapters that are trained in place of the weights; without this table, the weights are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// Training settings that belong to this model, above all its learning rate.
    #[schemars(with = "Recipe")]
    pub train: toml::Table,
    /// A model that is pretrained in the run, on the text of a generated world.
    pub pretrain: Option<Pretrain>,
}

/// `[pretrain]` of a model: trained from scratch on a generated world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Name of the world, `configs/worlds/NAME.toml`.
    #[schemars(with = "WorldName")]
    pub world: String,
    /// How much of the world's text is read, in tokens from its beginning; all of it when absent.
    #[serde(default)]
    pub tokens: Option<usize>,
    /// The model's `config.json`; the vocabulary size comes from the world.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub config: toml::Table,
    /// Training settings.
    #[serde(default)]
    #[schemars(with = "Recipe")]
    pub train: toml::Table,
    /// Seed of the initial weights and the order of the text.
    #[serde(default)]
    pub seed: u64,
}

/// A model under its name.
#[derive(Clone, Debug, Default)]
pub struct ModelConfig {
    /// Name of the file.
    pub name: String,
    /// Its content.
    pub file: ModelFile,
    /// Folder that relative paths start from.
    pub folder: PathBuf,
    /// What the grid itself says of this model's training, in `[model.NAME] train`.
    pub train_here: toml::Table,
    /// Where `lora.targets`, `lora` and `adapter` stand, as far as they do.
    pub(in crate::grid) places: BTreeMap<&'static str, Place>,
}

/// The models that supervisors name and no pair has, with the places where they do.
pub(super) fn further_models(
    root: &Section,
    methods: &[Method],
    pairs: &[Pair],
    library: &Library,
) -> Result<Vec<(ModelConfig, Place)>> {
    let mut known: BTreeSet<String> =
        pairs.iter().flat_map(|pair| [&pair.weak, &pair.strong]).map(|model| model.name.clone()).collect();
    let mut further = Vec::new();
    for method in methods {
        let table = root.get("method").and_then(|methods| methods.get(&method.name));
        let at = table
            .and_then(|table| table.get("supervisor"))
            .or_else(|| root.get("grid"))
            .unwrap_or_else(|| root.clone());
        for ask in method.asks() {
            for name in ask.named() {
                if known.insert(name.to_owned()) {
                    let own = root.get("model").and_then(|own| own.get(name));
                    further.push((ModelConfig::read(name, library, own, &at)?, at.place()));
                }
            }
        }
    }
    Ok(further)
}

/// A head with the keys of a table over it.
pub(super) fn over_head(head: &HeadConfig, here: &toml::Table, model: &str) -> Result<HeadConfig> {
    let said = |error: String| Error::new(error).context(format!("head of `{model}`"));
    let mut table = toml::Table::try_from(head).map_err(|error| said(error.to_string()))?;
    table.extend(here.clone());
    table.try_into().map_err(|error: toml::de::Error| said(error.message().to_owned()))
}

/// `train` of a section: checked as a recipe, kept as the table of what was really said.
pub(in crate::grid) fn recipe_table(section: &Section) -> Result<toml::Table> {
    let Some(train) = section.get("train") else { return Ok(toml::Table::new()) };
    let recipe: Recipe = train.read()?;
    recipe.validate().map_err(|error| {
        // The message names the key first.
        let key = error.message().split('`').nth(1).unwrap_or_default();
        place(&train.get(key).unwrap_or_else(|| train.clone()), &error)
    })?;
    train.to_table()
}

/// `lora` and `adapter` of a section: what can be checked without the model, and where they stand.
fn adaptation(section: &Section, places: &mut BTreeMap<&'static str, Place>) -> Result<()> {
    if let Some(adapter) = section.get("adapter") {
        places.insert("adapter", adapter.place());
    }
    let Some(table) = section.get("lora") else { return Ok(()) };
    let lora: Lora = table.read()?;
    lora.validate().map_err(|error| {
        let key = error.message().split('`').nth(1).unwrap_or_default();
        place(&table.get(key).unwrap_or_else(|| table.clone()), &error)
    })?;
    places.insert("lora", table.place());
    for (known, key) in [("lora.targets", "targets"), ("lora.rank", "rank")] {
        places.extend(table.get(key).map(|at| (known, at.place())));
    }
    Ok(())
}

impl ModelConfig {
    /// Reads a model by name, with the grid's own `[model.NAME]` over it. A model may stand in the grid alone.
    pub(in crate::grid) fn read(name: &str, library: &Library, own: Option<Section>, at: &Section) -> Result<Self> {
        let at = At(at.clone());
        check_name(name).map_err(|error| at.place(error))?;
        let shelf = match library.open("models", name) {
            Ok(document) => Some(document),
            Err(_) if own.is_some() => None,
            Err(error) => return Err(at.place(error)),
        };
        let mut folder = PathBuf::new();
        let mut table = toml::Table::new();
        let mut train_here = toml::Table::new();
        let mut places = BTreeMap::new();
        if let Some(document) = &shelf {
            folder = document.file().parent().map(Path::to_owned).unwrap_or_default();
            document.root().read::<ModelFile>()?;
            recipe_table(&document.root())?;
            table = document.root().to_table()?;
            adaptation(&document.root(), &mut places)?;
            if let Some(toml::Value::String(adapter)) = table.get_mut("adapter") {
                *adapter = folder.join(&*adapter).to_string_lossy().into_owned();
            }
        }
        if let Some(own) = own {
            own.read::<ModelFile>()?;
            train_here = recipe_table(&own)?;
            adaptation(&own, &mut places)?;
            for (key, value) in own.to_table()? {
                if key == "path" {
                    folder = PathBuf::new();
                }
                match (table.get_mut(&key), value) {
                    (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => inner.extend(value),
                    (_, value) => {
                        table.insert(key, value);
                    }
                }
            }
        }
        let file: ModelFile =
            table.try_into().map_err(|error: toml::de::Error| at.place(Error::new(error.message().to_owned())))?;
        if file.hub.is_none() && file.path.is_none() && file.pretrain.is_none() {
            return Err(at.place(
                Error::new(format!("model `{name}` says neither `hub`, `path` nor `[pretrain]`"))
                    .help("name its repository on the hub, or a local folder"),
            ));
        }
        Ok(Self { name: name.to_owned(), file, folder, train_here, places })
    }

    /// Points an error at one of the keys whose places are known.
    pub(in crate::grid) fn blame(&self, key: &str, error: Error) -> Error {
        match self.places.get(key) {
            Some(place) => error.or_at(place),
            None => error,
        }
    }

    /// The adapters that are trained, with their targets by the names in the model's files.
    ///
    /// # Errors
    /// Settings that do not fit the model.
    pub(in crate::grid) fn lora(&self, spec: &Spec) -> Result<Option<Lora>> {
        let Some(lora) = &self.file.lora else { return Ok(None) };
        let fault = |error: Error| {
            let key = error.message().split('`').nth(1).unwrap_or_default();
            let key = ["lora.targets", "lora.rank"].into_iter().find(|known| known.ends_with(key)).unwrap_or("lora");
            self.blame(key, error)
        };
        lora.on(spec).map(Some).map_err(fault)
    }

    /// Name for people.
    pub fn title(&self) -> &str {
        if self.file.title.is_empty() { &self.name } else { &self.file.title }
    }
}
