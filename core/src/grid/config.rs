//! The grid as its TOML file says it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::library::Library;
use crate::{
    Error, Result,
    document::{Document, Section, did_you_mean},
    learner::Recipe,
    model::HeadConfig,
    strategy::{
        self, ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, ConfiguredSupervisor, Invalid, Kind, LabelRefiner,
        Needs, Selector, Split, StudentLoss, Supervisor,
    },
    task::{Balance, Order, OverLong, Task},
};

/// A grid: every task with every pair, every method and every seed.
#[derive(Debug)]
pub struct Grid {
    /// Name of the results folder.
    pub name: String,
    /// One sentence for whoever lists grids.
    pub title: String,
    /// Tasks, in the order of the file.
    pub tasks: Vec<Task>,
    /// Weak and strong model.
    pub pairs: Vec<Pair>,
    /// Methods, in the order of the file.
    pub methods: Vec<Method>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// How data are read, ordered and split.
    pub data: Data,
    /// Whether fine-tuned students are kept on disk.
    pub save_students: bool,
    /// The grid's own training settings, which go before a model's.
    train: toml::Table,
    /// Everything as it was resolved, for the record.
    pub source: Value,
}

/// A weak and a strong model.
#[derive(Debug)]
pub struct Pair {
    /// The supervisor's model.
    pub weak: ModelConfig,
    /// The student's and the ceiling's model.
    pub strong: ModelConfig,
}

/// `[data]`: how data are read, ordered, split and cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Order and halves of the data: `openai` (the reference's, bit for bit), `eleuther`, or `k-points`.
    pub order: Order,
    /// Rows of the training split that are read, before anything is shuffled; all when absent.
    pub n_train: Option<usize>,
    /// Rows of the test split; all when absent.
    pub n_test: Option<usize>,
    /// How classes are balanced: `none` or `undersample`; what the order's protocol does when absent.
    pub balance: Option<Balance>,
    /// Longest text in tokens of either model; the models' own limit when that is shorter.
    pub max_tokens: usize,
    /// What happens to longer ones: `truncate` (from the left of the context, the same text for every model) or `drop`.
    pub over_long: OverLong,
    /// What the ceiling is trained on: `transfer` (the reference's half 2) or `supervise` (half 1).
    pub ceiling_split: Split,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            order: Order::default(),
            n_train: None,
            n_test: None,
            balance: None,
            max_tokens: 1024,
            over_long: OverLong::default(),
            ceiling_split: Split::Transfer,
        }
    }
}

/// `configs/models/NAME.toml`, with what a grid changes about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Training settings that belong to this model, above all its learning rate.
    pub train: toml::Table,
    /// A model that is pretrained in the run, on the text of a generated world.
    pub pretrain: Option<Pretrain>,
}

/// `[pretrain]` of a model: trained from scratch on a generated world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrain {
    /// Name of the world, `configs/worlds/NAME.toml`.
    pub world: String,
    /// How much of the world's text is read, in tokens from its beginning; all of it when absent.
    #[serde(default)]
    pub tokens: Option<usize>,
    /// The model's `config.json`; the vocabulary size comes from the world.
    pub config: toml::Table,
    /// Training settings.
    #[serde(default)]
    pub train: toml::Table,
    /// Seed of the initial weights and the order of the text.
    #[serde(default)]
    pub seed: u64,
}

/// A model under its name.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Name of the file.
    pub name: String,
    /// Its content.
    pub file: ModelFile,
    /// Folder that relative paths start from.
    pub folder: PathBuf,
}

/// A method: what stands between weak labels and a student.
#[derive(Debug)]
pub struct Method {
    /// Name in configurations and results.
    pub name: String,
    /// Name in tables.
    pub title: String,
    /// Who labels.
    pub supervisor: Box<dyn ConfiguredSupervisor>,
    /// Which labels are trusted.
    pub selector: Box<dyn ConfiguredSelector>,
    /// How labels are refined.
    pub refiner: Box<dyn ConfiguredRefiner>,
    /// What the student minimises.
    pub loss: Box<dyn ConfiguredLoss>,
    /// Training settings of this method.
    pub train: toml::Table,
}

impl Method {
    /// What all its parts together ask of the engine.
    pub fn needs(&self) -> Needs {
        self.selector.needs().and(self.refiner.needs()).and(self.loss.needs())
    }
}

impl Grid {
    /// Reads a grid and everything it names.
    ///
    /// # Errors
    /// Anything that does not parse, does not exist or is out of range, with file, line and the likely fix.
    pub fn read(document: &Document, library: &Library) -> Result<Self> {
        let root = document.root();
        root.only(&["grid", "data", "train", "method", "model", "output"])?;
        let grid = root.need("grid")?;
        grid.only(&["name", "title", "tasks", "pairs", "methods", "seeds"])?;

        let stem = document.file().file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let name: String = grid.read_key("name")?.unwrap_or(stem);
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(grid.error(format!("`{name}` cannot be the name of a folder")).help("set `name` in `[grid]`"));
        }
        let seeds: Vec<u64> = grid.read_key("seeds")?.unwrap_or_else(|| vec![0]);
        no_repetition(&grid, "seeds", &seeds)?;

        let train = recipe_table(&root)?;
        let data = root.get("data").map(|section| section.read::<Data>()).transpose()?.unwrap_or_default();
        if data.max_tokens == 0 || data.n_train == Some(0) || data.n_test == Some(0) {
            return Err(root.need("data")?.error("`max_tokens`, `n_train` and `n_test` must be at least 1"));
        }
        let output = root.get("output");
        if let Some(output) = &output {
            output.only(&["save_students"])?;
        }
        let save_students =
            output.map(|section| section.read_key("save_students")).transpose()?.flatten().unwrap_or_default();

        let own_models = root.get("model");
        let own_methods = root.get("method");
        let tasks = names(&grid, "tasks")?
            .into_iter()
            .map(|(name, at)| {
                let document = library.open("tasks", &name).map_err(|error| at.place(error))?;
                Task::parse(document.source_text(), document.file())
            })
            .collect::<Result<_>>()?;
        let pairs = grid
            .need("pairs")?
            .items()?
            .iter()
            .map(|pair| {
                pair.only(&["weak", "strong"])?;
                let model = |role: &str| {
                    let at = pair.need(role)?;
                    let name = at.text()?;
                    ModelConfig::read(name, library, own_models.as_ref().and_then(|own| own.get(name)), &at)
                };
                Ok(Pair { weak: model("weak")?, strong: model("strong")? })
            })
            .collect::<Result<Vec<_>>>()?;
        if pairs.is_empty() {
            return Err(grid
                .need("pairs")?
                .error("`pairs` is empty")
                .help("write e.g. pairs = [{ weak = \"gpt2\", strong = \"gpt2-xl\" }]"));
        }
        let shelf = library.open_file(Path::new("methods.toml")).transpose()?;
        let methods = names(&grid, "methods")?
            .into_iter()
            .map(|(name, at)| Method::read(&name, own_methods.as_ref(), shelf.as_ref(), &at))
            .collect::<Result<_>>()?;
        let grid = Self {
            name,
            title: grid.read_key("title")?.unwrap_or_default(),
            tasks,
            pairs,
            methods,
            seeds,
            data,
            save_students,
            train,
            source: root.to_json(),
        };
        grid.recipes().map_err(|error| error.in_file(document.file()))?;
        Ok(grid)
    }

    /// How a model is trained here: the defaults, then the model's own settings, then the grid's, then the method's.
    ///
    /// # Errors
    /// Settings out of their range.
    pub fn recipe(&self, model: &ModelConfig, method: Option<&Method>) -> Result<Recipe> {
        let mut table = model.file.train.clone();
        table.extend(self.train.clone());
        table.extend(method.map(|method| method.train.clone()).unwrap_or_default());
        let recipe: Recipe =
            table.try_into().map_err(|error: toml::de::Error| Error::new(error.message().to_owned()))?;
        recipe.validate().map_err(|error| error.context(format!("training settings of `{}`", model.name)))?;
        Ok(recipe)
    }

    /// Names for people of tasks, models and methods, by their names.
    pub fn titles(&self) -> BTreeMap<String, String> {
        let tasks = self.tasks.iter().map(|task| (task.name.clone(), task.title.clone()));
        let models = self.pairs.iter().flat_map(|pair| [&pair.weak, &pair.strong]);
        let models = models.map(|model| (model.name.clone(), model.title().to_owned()));
        let methods = self.methods.iter().map(|method| (method.name.clone(), method.title.clone()));
        tasks.chain(models).chain(methods).filter(|(_, title)| !title.is_empty()).collect()
    }

    /// Every recipe of the grid is in range.
    fn recipes(&self) -> Result<()> {
        for pair in &self.pairs {
            self.recipe(&pair.weak, None)?;
            self.recipe(&pair.strong, None)?;
            for method in &self.methods {
                self.recipe(&pair.strong, Some(method))?;
            }
        }
        Ok(())
    }
}

/// A name with the place it was written at, for errors about what it names.
struct At<'a>(Section<'a>);

impl At<'_> {
    /// Points an error that has no place of its own at the name.
    fn place(&self, error: Error) -> Error {
        if error.place().is_some() { error } else { place(&self.0, &error) }
    }
}

/// The same error, pointing at a section.
fn place(section: &Section, error: &Error) -> Error {
    let placed = section.error(error.message());
    match error.remedy() {
        Some(help) => placed.help(help),
        None => placed,
    }
}

/// The strings of a list in `[grid]`, none empty, none twice.
fn names<'a>(grid: &Section<'a>, key: &str) -> Result<Vec<(String, At<'a>)>> {
    let list = grid.need(key)?;
    let items =
        list.items()?.into_iter().map(|item| Ok((item.text()?.to_owned(), At(item)))).collect::<Result<Vec<_>>>()?;
    if items.is_empty() {
        return Err(list.error(format!("`{key}` is empty: there would be nothing to run")));
    }
    no_repetition(grid, key, &items.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())?;
    Ok(items)
}

fn no_repetition<T: PartialEq + std::fmt::Display>(grid: &Section, key: &str, items: &[T]) -> Result<()> {
    for (index, item) in items.iter().enumerate() {
        if items[..index].contains(item) {
            return Err(grid.need(key)?.error(format!("`{item}` stands twice in `{key}`")));
        }
    }
    if items.is_empty() {
        return Err(grid.need(key)?.error(format!("`{key}` is empty: there would be nothing to run")));
    }
    Ok(())
}

/// `train` of a section: checked as a recipe, kept as the table of what was really said.
fn recipe_table(section: &Section) -> Result<toml::Table> {
    let Some(train) = section.get("train") else { return Ok(toml::Table::new()) };
    let recipe: Recipe = train.read()?;
    recipe.validate().map_err(|error| {
        // The message names the key first.
        let key = error.message().split('`').nth(1).unwrap_or_default();
        place(&train.get(key).unwrap_or_else(|| train.clone()), &error)
    })?;
    train.to_table()
}

/// Points at the parameter that is out of range, or at the table where it stands at its default.
fn invalid_at(table: &Section, invalid: &Invalid) -> Error {
    table
        .get(invalid.parameter)
        .unwrap_or_else(|| table.clone())
        .error(format!("`{}` {}", invalid.parameter, invalid.message))
}

impl ModelConfig {
    /// Reads a model by name, with the grid's own `[model.NAME]` over it. A model may stand in the grid alone.
    pub(super) fn read(name: &str, library: &Library, own: Option<Section>, at: &Section) -> Result<Self> {
        let at = At(at.clone());
        let shelf = match library.open("models", name) {
            Ok(document) => Some(document),
            Err(_) if own.is_some() => None,
            Err(error) => return Err(at.place(error)),
        };
        let mut folder = PathBuf::new();
        let mut table = toml::Table::new();
        if let Some(document) = &shelf {
            folder = document.file().parent().map(Path::to_owned).unwrap_or_default();
            document.root().read::<ModelFile>()?;
            recipe_table(&document.root())?;
            table = document.root().to_table()?;
        }
        if let Some(own) = own {
            own.read::<ModelFile>()?;
            recipe_table(&own)?;
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
        Ok(Self { name: name.to_owned(), file, folder })
    }

    /// Name for people.
    pub fn title(&self) -> &str {
        if self.file.title.is_empty() { &self.name } else { &self.file.title }
    }
}

impl Method {
    /// Reads a method: the grid's own `[method.NAME]`, one of `configs/methods.toml`, or a loss by its own name.
    fn read(name: &str, own: Option<&Section>, shelf: Option<&Document>, at: &At) -> Result<Self> {
        let on_shelf = shelf.and_then(|document| document.root().get("method"));
        let section = own.and_then(|own| own.get(name)).or_else(|| on_shelf.as_ref().and_then(|shelf| shelf.get(name)));
        let Some(section) = section else {
            if strategy::find(Kind::Loss, name).is_some() {
                return Self::assemble(name, None, Some(name));
            }
            let mut known: Vec<String> = Vec::new();
            for methods in [own, on_shelf.as_ref()].into_iter().flatten() {
                known.extend(methods.entries().into_iter().map(|(name, _)| name));
            }
            known.extend(strategy::of_kind(Kind::Loss).iter().map(|card| card.name.to_owned()));
            let help = did_you_mean(name, known.iter().map(String::as_str));
            return Err(at.place(Error::new(format!("there is no method and no loss `{name}`")).help(help)));
        };
        section.only(&["title", "supervisor", "selector", "refiner", "loss", "train"])?;
        Self::assemble(name, Some(&section), None)
    }

    fn assemble(name: &str, section: Option<&Section>, loss: Option<&str>) -> Result<Self> {
        let part = |key: &str| section.and_then(|section| section.get(key));
        let title = section.map(|section| section.read_key("title")).transpose()?.flatten();
        let method = Self {
            name: name.to_owned(),
            title: title.unwrap_or_else(|| name.to_owned()),
            supervisor: configured(Kind::Supervisor, part("supervisor"), "fine-tuned", Supervisor::validate)?,
            selector: configured(Kind::Selector, part("selector"), "all", Selector::validate)?,
            refiner: configured(Kind::Refiner, part("refiner"), "identity", LabelRefiner::validate)?,
            loss: configured(Kind::Loss, part("loss"), loss.unwrap_or("cross-entropy"), StudentLoss::validate)?,
            train: section.map(recipe_table).transpose()?.unwrap_or_default(),
        };
        let needs = method.needs();
        for (wanted, what) in [
            (needs.p_ik, "P(IK)"),
            (needs.self_labels, "the strong model's own labels"),
            (needs.embeddings, "embeddings of the whole data set"),
        ] {
            if wanted {
                let message = format!("method `{name}` needs {what}, which this version does not compute");
                return Err(section.map_or_else(|| Error::new(&message), |section| section.error(&message)));
            }
        }
        Ok(method)
    }
}

/// A strategy from its table, or the default of its kind; places errors inside the table exactly.
fn configured<T>(
    kind: Kind,
    section: Option<Section>,
    default: &str,
    validate: fn(&T) -> Result<(), Invalid>,
) -> Result<Box<T>>
where
    T: ?Sized,
    Box<T>: DeserializeOwned,
{
    let read = |value: Value| serde_json::from_value::<Box<T>>(value).map_err(|error| Error::new(error.to_string()));
    let Some(section) = section else {
        return read(serde_json::json!({ "type": default }))
            .map_err(|error| error.help(format!("is the crate with {kind} `{default}` linked into this binary?")));
    };
    let named =
        section.need("type").map_err(|error| error.help(format!("write {kind} = {{ type = \"{default}\" }}")))?;
    let name = named.text()?;
    let Some(card) = strategy::find(kind, name) else {
        let cards = strategy::of_kind(kind);
        let help = did_you_mean(name, cards.iter().map(|card| card.name));
        return Err(named.error(format!("there is no {kind} `{name}`")).help(help));
    };
    section.probe(card.probe)?;
    let strategy = read(section.to_json()).map_err(|error| section.error(error.message()))?;
    validate(&strategy).map_err(|invalid| invalid_at(&section, &invalid))?;
    Ok(strategy)
}
