//! The registry: one card per strategy, collected at link time.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{ConfiguredLoss, ConfiguredRefiner, ConfiguredSelector, ConfiguredSupervisor, settings::settled};
use crate::{Error, Result};

/// Which of the four traits a strategy implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Supervisor`](super::Supervisor)
    Supervisor,
    /// [`Selector`](super::Selector)
    Selector,
    /// [`LabelRefiner`](super::LabelRefiner)
    Refiner,
    /// [`StudentLoss`](super::StudentLoss)
    Loss,
}

impl Kind {
    /// All kinds, in the order in which a student uses them.
    pub const ALL: [Kind; 4] = [Kind::Supervisor, Kind::Selector, Kind::Refiner, Kind::Loss];

    /// The word in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Supervisor => "supervisor",
            Kind::Selector => "selector",
            Kind::Refiner => "refiner",
            Kind::Loss => "loss",
        }
    }

    /// The word for many of them.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Supervisor => "supervisors",
            Kind::Selector => "selectors",
            Kind::Refiner => "refiners",
            Kind::Loss => "losses",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known about a strategy besides its behaviour. Made by [`register!`](crate::register).
#[derive(Debug)]
pub struct Card {
    /// Which trait it implements.
    pub kind: Kind,
    /// Its name in configurations.
    pub name: &'static str,
    /// Paper and equation it comes from, or `original`.
    pub paper: &'static str,
    /// Raised when its behaviour changes, so that old results are kept apart.
    pub version: u32,
    /// Choices, as parameter and JSON value, whose behaviour changed alone: each raises the version of configurations that make it.
    pub changed: &'static [(&'static str, &'static str)],
    /// Parameters that were added after results existed: at their default they leave identities as they were.
    pub later: &'static [&'static str],
    /// Parameters that enter no identity: results depend on what is asked for by them, such as a file's content, and not on them.
    pub aside: &'static [&'static str],
    /// Source file of the registration.
    pub file: &'static str,
    /// Line of the registration.
    pub line: u32,
    /// JSON schema of its parameters, as one of several.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Its default configuration.
    pub example: fn() -> Value,
    /// Reads its parameters as the concrete type, for an error that knows the exact place.
    pub probe: Probe,
}

/// Reads a strategy's parameters as the concrete type: the path inside the table and the parser's error, if it does not parse.
pub type Probe = fn(toml::de::Deserializer<'_>) -> Result<(), (String, toml::de::Error)>;

inventory::collect!(Card);

#[doc(hidden)]
pub fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// Null where the default does not serialise; an identity refuses that.
#[doc(hidden)]
pub fn example<T: Serialize + Default>() -> Value {
    serde_json::to_value(T::default()).unwrap_or_default()
}

#[doc(hidden)]
pub fn probe<T: DeserializeOwned>(table: toml::de::Deserializer<'_>) -> Result<(), (String, toml::de::Error)> {
    match serde_path_to_error::deserialize::<_, T>(table) {
        Ok(_) => Ok(()),
        Err(error) => Err((error.path().to_string(), error.into_inner())),
    }
}

/// A parameter of a strategy, as its card shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parameter {
    /// Name in the configuration.
    pub name: String,
    /// What it does, in the words of the field's doc comment.
    pub text: String,
    /// Its default.
    pub default: Value,
    /// Where the default comes from: the `Origin:` line of the field's doc comment.
    pub origin: String,
}

impl Card {
    /// JSON schema of its parameters, by itself.
    pub fn schema(&self) -> Schema {
        let mut generator = SchemaGenerator::default();
        let mut schema = (self.schema)(&mut generator);
        schema.insert("$defs".to_owned(), generator.take_definitions(true).into());
        schema
    }

    /// First paragraph of the struct's doc comment: one sentence.
    pub fn summary(&self) -> String {
        self.text().split("\n\n").next().unwrap_or_default().replace('\n', " ")
    }

    /// Where it is registered, from the root of the repository: `file:line`.
    pub fn source(&self) -> String {
        // The compiler knows the file by the path that the build script gave it.
        let folders = ["/strategies/", "/plugins/", "/core/", "/docs/"];
        let start = folders.iter().filter_map(|folder| self.file.rfind(folder)).max();
        format!("{}:{}", start.map_or(self.file, |start| &self.file[start + 1..]), self.line)
    }

    /// The struct's whole doc comment.
    pub fn text(&self) -> String {
        let schema = self.schema();
        schema.get("description").and_then(|text| text.as_str()).unwrap_or_default().to_owned()
    }

    /// Parameters with default and origin, in the order of the struct's fields.
    pub fn parameters(&self) -> Vec<Parameter> {
        let schema = self.schema();
        let example = (self.example)();
        let Some(properties) = schema.get("properties").and_then(|p| p.as_object()) else {
            return Vec::new();
        };
        properties
            .iter()
            .map(|(name, field)| {
                let text = field.get("description").and_then(|text| text.as_str()).unwrap_or_default();
                let (text, origin) = text.split_once("Origin:").unwrap_or((text, ""));
                let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
                Parameter {
                    name: name.clone(),
                    text: flat(text),
                    default: example.get(name).cloned().unwrap_or_default(),
                    origin: flat(origin),
                }
            })
            .collect()
    }

    /// What enters an identity: name, version, and a configured value's parameters without [`later`](Card::later) ones that stand at their
    /// default and without [`aside`](Card::aside).
    ///
    /// # Errors
    /// A default that does not serialise, which the conformance suite refuses.
    pub fn identity(&self, configured: &Value) -> Result<Value> {
        let defaults = (self.example)();
        if !defaults.is_object() {
            return Err(Error::new(format!("the default of {} `{}` does not serialise", self.kind, self.name)));
        }
        let later: Vec<(&str, Value)> =
            self.later.iter().filter_map(|name| Some((*name, defaults.get(*name)?.clone()))).collect();
        let mut parameters = settled(configured.clone(), &later);
        if let Some(parameters) = parameters.as_object_mut() {
            parameters.retain(|name, _| name != "type" && !self.aside.contains(&name.as_str()));
        }
        let made = |(name, value): &&(&str, &str)| {
            configured
                .get(*name)
                .is_some_and(|made| serde_json::from_str::<Value>(value).is_ok_and(|value| value == *made))
        };
        let version = self.version + self.changed.iter().filter(made).count() as u32;
        Ok(json!({ "name": self.name, "version": version, "parameters": parameters }))
    }
}

/// The schema of a strategy's table in a configuration: that of any card of its kind, with the name under `type`. So whatever is linked is in it.
fn schema_of(kind: Kind, generator: &mut SchemaGenerator) -> Schema {
    let known = of_kind(kind).into_iter().map(|card| {
        let mut schema = (card.schema)(generator);
        let mut properties =
            Map::from_iter([("type".to_owned(), json!({ "const": card.name, "description": card.paper }))]);
        if let Some(Value::Object(own)) = schema.remove("properties") {
            properties.extend(own);
        }
        schema.insert("title".to_owned(), format!("{kind} {}", card.name).into());
        schema.insert("properties".to_owned(), properties.into());
        schema.insert("required".to_owned(), json!(["type"]));
        let name = format!("{kind}.{}", card.name);
        let reference = format!("#{}/{name}", generator.settings().definitions_path);
        generator.definitions_mut().insert(name, schema.to_value());
        json!({ "$ref": reference })
    });
    let known: Vec<Value> = known.collect();
    json_schema!({ "oneOf": known })
}

/// What typetag reads, the registry describes.
macro_rules! described {
    ($($configured:ident $kind:ident),*) => {$(
        impl JsonSchema for dyn $configured {
            fn schema_name() -> Cow<'static, str> {
                Kind::$kind.name().into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                schema_of(Kind::$kind, generator)
            }
        }
    )*};
}
described!(ConfiguredSupervisor Supervisor, ConfiguredSelector Selector, ConfiguredRefiner Refiner, ConfiguredLoss Loss);

/// Every card, by kind and name.
pub fn all() -> Vec<&'static Card> {
    let mut cards: Vec<&Card> = inventory::iter::<Card>.into_iter().collect();
    cards.sort_by_key(|card| (card.kind, card.name, card.file, card.line));
    cards
}

/// Every card of one kind, by name.
pub fn of_kind(kind: Kind) -> Vec<&'static Card> {
    all().into_iter().filter(|card| card.kind == kind).collect()
}

/// The card of a strategy.
pub fn find(kind: Kind, name: &str) -> Option<&'static Card> {
    inventory::iter::<Card>.into_iter().find(|card| card.kind == kind && card.name == name)
}

/// Refuses two strategies of one kind under one name. Called at start-up.
///
/// # Errors
/// Names both registrations.
pub fn check_registry() -> Result<()> {
    check_names(&all())
}

/// [`check_registry`] for any list of cards, in any order.
///
/// # Errors
/// Names both registrations.
pub fn check_names(cards: &[&Card]) -> Result<()> {
    let mut sorted = cards.to_vec();
    sorted.sort_by_key(|card| (card.kind, card.name, card.file, card.line));
    for pair in sorted.windows(2) {
        let [first, second] = pair else { continue };
        if (first.kind, first.name) == (second.kind, second.name) {
            return Err(Error::new(format!(
                "two strategies are registered as {} `{}`: at {} and at {}",
                first.kind,
                first.name,
                first.source(),
                second.source()
            ))
            .help("rename one of them in its `register!` line"));
        }
    }
    Ok(())
}
