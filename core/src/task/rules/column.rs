//! `[label.column]`: a column holds the class.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Rule, rule};
use crate::{
    Error, Result,
    task::{
        definition::{quoted, shown},
        format::kind,
        label::{TRUTHS, brief, find, hidden, misnumbered, numbers, plain, same_keys},
    },
};

/// A column holds the class: what `values` says, the name of the class, its number, or a truth value (class 0 or 1).
///
/// `1`, `1.0` and `"1"` are one value, and so are `true` and `"True"`. A name counts before a number; a number whose class has the name of
/// another number is refused.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnRule {
    /// The column.
    pub name: String,
    /// Class name of each value that the column can have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
}

rule!("column" for ColumnRule);

#[typetag::serde(name = "column")]
impl Rule for ColumnRule {
    fn columns(&self) -> Vec<(&'static str, &str)> {
        vec![("name", &self.name)]
    }

    fn check(&self, classes: &[String]) -> Result<(), (Vec<&str>, Error)> {
        for (value, class) in &self.values {
            if !classes.contains(class) {
                let help = format!("the classes are {}", quoted(classes));
                return Err((vec!["values", value], Error::new(format!("`{class}` is not a class")).help(help)));
            }
        }
        match same_keys(&self.values) {
            Some((first, second)) => {
                let message = format!("`{first}` and `{second}` are one value, and name two classes");
                Err((vec!["values"], Error::new(message).help("leave one of them out")))
            }
            None => Ok(()),
        }
    }

    fn class(&self, classes: &[String], values: &[&Json]) -> Result<usize> {
        self.class_of(classes, values.first().copied().unwrap_or(&Json::Null))
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl ColumnRule {
    /// The class that a value means.
    ///
    /// What `values` says counts, else a class of that name. A number without one is a class's number and a truth value class 0 or 1, if no
    /// name says otherwise: of the classes `1 star`, `2 stars` and `3 stars`, 1 is not the second.
    ///
    /// # Errors
    /// It means none, or it may mean two.
    fn class_of(&self, classes: &[String], value: &Json) -> Result<usize> {
        let Some(text) = shown(value) else {
            let held = kind(value);
            return Err(Error::new(format!("column `{}` holds {held}, not one value", self.name)));
        };
        let names = || classes.iter().map(String::as_str);
        if !self.values.is_empty() {
            let place = find(self.values.keys().map(String::as_str).collect::<Vec<_>>(), &text);
            let class = place.and_then(|place| self.values.values().nth(place));
            let class = class.and_then(|class| classes.iter().position(|name| name == class));
            return class.ok_or_else(|| self.unknown(classes, &text));
        }
        if let Some(class) = find(names().collect::<Vec<_>>(), &text) {
            return Ok(class);
        }
        let said = plain(&text);
        if let Some(truth) = ["false", "true"].iter().position(|truth| *truth == said) {
            let other = |class: usize| TRUTHS[1 - class].iter().any(|word| classes[class].eq_ignore_ascii_case(word));
            return match classes.len() {
                2 if !other(0) && !other(1) => Ok(truth),
                2 => Err(self.unclear(classes, &said, truth)),
                n => {
                    let message = format!("column `{}` is `{said}`, which says nothing of {n} classes", self.name);
                    Err(Error::new(message).help(self.say(classes, &["false", "true"])))
                }
            };
        }
        match said.parse::<usize>() {
            Ok(number) if number < classes.len() && misnumbered(classes) => Err(self.unclear(classes, &said, number)),
            Ok(number) if number < classes.len() => Ok(number),
            _ => Err(self.unknown(classes, &text)),
        }
    }

    /// The error about a number or truth value whose class has a name that says otherwise.
    fn unclear(&self, classes: &[String], said: &str, class: usize) -> Error {
        let (name, by_number) = (&self.name, &classes[class]);
        let why = "the names of the classes say otherwise";
        let message =
            format!("column `{name}` is `{said}`: by its number that would be the class `{by_number}`, but {why}");
        let numbers: Vec<String> = numbers(classes).into_iter().flatten().map(|n| n.to_string()).collect();
        let values: Vec<&str> = match said.parse::<usize>() {
            Err(_) if TRUTHS[0].iter().any(|word| classes[1].eq_ignore_ascii_case(word)) => vec!["true", "false"],
            Err(_) => vec!["false", "true"],
            Ok(_) if numbers.len() == classes.len() => numbers.iter().map(String::as_str).collect(),
            Ok(_) => vec!["0", "1"],
        };
        Error::new(message).help(self.say(classes, &values))
    }

    /// How the task file says which value is which class.
    fn say(&self, classes: &[String], values: &[&str]) -> String {
        let pairs: Vec<String> =
            values.iter().zip(classes).map(|(value, class)| format!("{value:?} = {class:?}")).collect();
        let more = if values.len() < classes.len() { ", …" } else { "" };
        format!(
            "say which value is which class under `[label.column]`, e.g. `values = {{ {}{more} }}`",
            pairs.join(", ")
        )
    }

    fn unknown(&self, classes: &[String], text: &str) -> Error {
        let name = &self.name;
        let error = Error::new(format!("column `{name}` is `{}`, which names no class", brief(text)));
        if let Some(hint) = hidden(name, text) {
            return error.help(format!("{hint}; if it is a class, name it with `values` under `[label.column]`"));
        }
        if !self.values.is_empty() {
            return error.help(format!("the `values` are {}", quoted(self.values.keys())));
        }
        let first = plain(text).parse::<usize>().is_ok_and(|number| number == classes.len());
        let counted = if first { "classes are counted from 0; if the data count from 1, say so: " } else { "" };
        error.help(format!(
            "{counted}the classes are {}; name others with `values` under `[label.column]`",
            quoted(classes)
        ))
    }
}
