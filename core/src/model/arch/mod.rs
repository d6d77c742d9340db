//! The architectures: one file each, found by the build script and registered by themselves.
//!
//! A file says how `config.json` becomes a [`Spec`], and which tensor of the files is which parameter of a
//! [`Transformer`](super::Transformer). The same table reads and writes.

use std::collections::BTreeMap;

use super::spec::{Config, Spec};
use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// One family of models.
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub name: &'static str,
    /// Reads `config.json`; refuses what the model would not compute as transformers does.
    pub spec: fn(&Config) -> Result<Spec>,
    /// Key of the number of layers in `config.json`.
    pub layers_key: &'static str,
    /// Which part of the files is which part of the model.
    pub rules: &'static [Rule],
    /// What comes before the names in `rules`: in files of a model with a head, such as `transformer.`, and in those of a bare one.
    pub prefixes: [&'static str; 2],
    /// Name of the language-model head's matrix, without `.weight`; empty where there is none.
    pub lm_head: &'static str,
    /// Tensors of the files that are not parameters; `{}` stands for a layer's number, a final `*` for anything.
    pub ignored: &'static [&'static str],
    /// Class of the bare model in transformers.
    pub base_class: &'static str,
    /// Class of the language model in transformers; empty where there is none.
    pub lm_class: &'static str,
    /// Class in transformers whose head is a linear layer `score` without bias on the last token; empty where there is none.
    pub classifier_class: &'static str,
}

inventory::collect!(Architecture);

/// Name in the files, path in the model, and how the matrix lies; `{}` stands for the layer's number in both.
///
/// A rule covers weight and bias, as far as the [`Spec`] has them.
pub type Rule = (&'static str, &'static str, Layout);

/// How values lie in the files. In the model, a matrix is `[inputs, outputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in the model: embeddings, and GPT-2's `Conv1D`.
    Same,
    /// A normalisation: gain and bias are called `weight` and `bias` (`gamma` and `beta` in old files).
    Norm,
    /// `[outputs, inputs]`: `torch.nn.Linear`.
    Linear,
    /// As `Linear`, with outputs ordered by (head, query/key/value, dimension); in the model it is (query/key/value, head, dimension).
    LinearPerHead,
}

impl Layout {
    /// Whether it is the layout of a linear layer, which may have an adapter.
    fn is_linear(self) -> bool {
        self != Self::Norm
    }
}

/// One tensor of the files for one parameter of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names under which it may be in the files; the first is the one to write.
    pub names: Vec<String>,
    /// How values lie in the files.
    pub layout: Layout,
}

impl Entry {
    /// The module in transformers that the tensor belongs to.
    pub fn module(&self) -> &str {
        self.names[0].rsplit_once('.').map_or(self.names[0].as_str(), |(module, _)| module)
    }
}

/// The architecture of that name.
///
/// # Errors
/// There is none; lists those that are.
pub fn find(name: &str) -> Result<&'static Architecture> {
    inventory::iter::<Architecture>().find(|architecture| architecture.name == name).ok_or_else(|| {
        Error::new(format!("models of type `{name}` are not supported"))
            .help(format!("supported are {}", names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")))
    })
}

/// Names of all architectures, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<_> = inventory::iter::<Architecture>().map(|architecture| architecture.name).collect();
    names.sort_unstable();
    names.into_iter()
}

impl Architecture {
    /// For every path of the model that `layers` layers may have: its tensor in the files. `bare` writes names of a model without head.
    pub fn entries(&self, layers: usize, bare: bool) -> BTreeMap<String, Entry> {
        let mut entries = BTreeMap::new();
        for &(theirs, ours, layout) in self.rules {
            let repeated = if ours.contains("{}") { 0..layers } else { 0..1 };
            for layer in repeated {
                let theirs = theirs.replace("{}", &layer.to_string());
                let ours = ours.replace("{}", &layer.to_string());
                let parts: [(&str, &[&str]); 2] = match layout {
                    Layout::Norm => [("gamma", &["weight", "gamma"]), ("beta", &["bias", "beta"])],
                    _ => [("weight", &["weight"]), ("bias", &["bias"])],
                };
                for (part, their_parts) in parts {
                    let [full, short] = self.prefixes;
                    let prefixes = if bare { [short, full] } else { [full, short] };
                    let names = their_parts
                        .iter()
                        .flat_map(|their_part| prefixes.map(|prefix| format!("{prefix}{theirs}.{their_part}")))
                        .collect();
                    entries.insert(format!("{ours}.{part}"), Entry { names, layout });
                }
            }
        }
        if !self.lm_head.is_empty() {
            let names = vec![format!("{}.weight", self.lm_head)];
            entries.insert("lm_head.weight".to_owned(), Entry { names, layout: Layout::Linear });
        }
        entries
    }

    /// The linear layers of a block, by their names in it.
    pub fn adaptable(&self) -> Vec<&'static str> {
        let layers = self.rules.iter().filter(|(_, ours, layout)| ours.starts_with("blocks.") && layout.is_linear());
        layers.filter_map(|(theirs, ..)| theirs.split_once("{}.")).map(|(_, name)| name).collect()
    }

    /// Whether a tensor of the files is known not to be a parameter.
    pub fn ignores(&self, name: &str) -> bool {
        let bare = self.bare(name);
        self.ignored.iter().any(|pattern| matches(pattern, bare))
    }

    /// Whether a tensor of the files is a part of some model of this architecture. If it is no part of this one, the configuration
    /// describes another.
    pub fn describes(&self, name: &str) -> bool {
        let Some((bare, _)) = self.bare(name).rsplit_once('.') else { return false };
        self.rules.iter().any(|(theirs, _, _)| matches(theirs, bare))
    }

    fn bare<'a>(&self, name: &'a str) -> &'a str {
        self.prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
    }
}

/// Whether a dotted name fits a pattern in which `{}` is a number and a final `*` anything.
fn matches(pattern: &str, name: &str) -> bool {
    if let Some(start) = pattern.strip_suffix('*') {
        return name.starts_with(start);
    }
    let (mut pattern, mut name) = (pattern.split('.'), name.split('.'));
    loop {
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some("{}"), Some(part)) if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) => {}
            (Some(expected), Some(part)) if expected == part => {}
            _ => return false,
        }
    }
}
