//! `[label.equals]`: class 1 if a column has a certain value.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Rule, rule, two_classes};
use crate::{
    Error, Result,
    task::{definition::shown, format::kind, label::plain},
};

/// Class 1 if a column has a certain value, else class 0.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EqualsRule {
    /// The column.
    pub name: String,
    /// The value of class 1.
    pub value: Json,
}

rule!("equals" for EqualsRule);

#[typetag::serde(name = "equals")]
impl Rule for EqualsRule {
    fn columns(&self) -> Vec<(&'static str, &str)> {
        vec![("name", &self.name)]
    }

    fn check(&self, classes: &[String]) -> Result<(), (Vec<&str>, Error)> {
        if shown(&self.value).is_none() {
            return Err((vec!["value"], Error::new("a column cannot equal a list or a table")));
        }
        two_classes(classes)
    }

    fn class(&self, _classes: &[String], values: &[&Json]) -> Result<usize> {
        let held = values.first().copied().unwrap_or(&Json::Null);
        let Some(text) = shown(held) else {
            return Err(Error::new(format!("column `{}` holds {}, not one value", self.name, kind(held))));
        };
        Ok(usize::from(plain(&text) == plain(&shown(&self.value).unwrap_or_default())))
    }

    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}
