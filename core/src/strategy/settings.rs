//! How settings enter identities: whole, and without what was added later and is not used.

use serde::Serialize;
use serde_json::Value;

use crate::{Error, Result};

/// Settings on which results depend.
///
/// A key that is added when there are results already must leave their identities alone while it stands at its default: it goes into
/// [`later`](Settings::later). `tests/golden/parameters.txt` notices one that does not.
pub trait Settings: Serialize {
    /// Keys that were added after results existed, each with the default that it was added with.
    fn later() -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// The part of an identity.
    ///
    /// # Errors
    /// Settings that JSON cannot hold.
    fn identity(&self) -> Result<Value> {
        Ok(settled(whole(self)?, &Self::later()))
    }
}

/// Settings without the keys that were added later and stand at the default that they were added with.
pub(super) fn settled(mut settings: Value, later: &[(&'static str, Value)]) -> Value {
    if let Some(table) = settings.as_object_mut() {
        table.retain(|name, value| !later.iter().any(|(later, default)| later == name && default == value));
    }
    settings
}

/// Settings as JSON, all of them: what JSON cannot hold, infinite numbers for one, it would write as null, and then two settings were one.
///
/// # Errors
/// A number that is not finite, with the key it stands at, or a value that does not serialise.
pub fn whole<T: Serialize + ?Sized>(settings: &T) -> Result<Value> {
    let lost = |why: String| Error::new(format!("settings cannot be written down whole: {why}"));
    let json = serde_json::to_value(settings).map_err(|error| lost(error.to_string()))?;
    // TOML has such numbers. What it lacks, such as empty values in lists, JSON has.
    match toml::Value::try_from(settings).ok().as_ref().and_then(not_finite) {
        Some((key, number)) => Err(lost(format!("`{key}` is {number}")).help("give a finite number")),
        None => Ok(json),
    }
}

/// The first number that is not finite, and the key it stands at.
fn not_finite(value: &toml::Value) -> Option<(String, f64)> {
    match value {
        toml::Value::Float(number) if !number.is_finite() => Some((String::new(), *number)),
        toml::Value::Array(items) => items.iter().find_map(not_finite),
        toml::Value::Table(table) => table.iter().find_map(|(key, value)| {
            let (below, number) = not_finite(value)?;
            Some((if below.is_empty() { key.clone() } else { format!("{key}.{below}") }, number))
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    struct Old {
        a: f64,
        b: Option<f64>,
        c: Vec<f64>,
        d: bool,
    }

    impl Settings for Old {
        fn later() -> Vec<(&'static str, Value)> {
            vec![("d", json!(false)), ("c", json!([]))]
        }
    }

    #[test]
    fn a_key_that_came_later_counts_when_it_is_used() {
        let at_default = Old { a: 1.0, b: None, c: vec![], d: false };
        assert_eq!(at_default.identity().unwrap(), json!({ "a": 1.0, "b": null }));
        let used = Old { d: true, c: vec![0.5], ..at_default };
        assert_eq!(used.identity().unwrap(), json!({ "a": 1.0, "b": null, "c": [0.5], "d": true }));
    }

    #[test]
    fn what_json_cannot_hold_is_an_error_and_not_null() {
        let fine = || Old { a: 1.0, b: Some(2.0), c: vec![3.0], d: false };
        for (settings, key) in [
            (Old { a: f64::NAN, ..fine() }, "`a` is NaN"),
            (Old { b: Some(f64::INFINITY), ..fine() }, "`b` is inf"),
            (Old { c: vec![1.0, f64::NEG_INFINITY], ..fine() }, "`c` is -inf"),
        ] {
            let error = settings.identity().unwrap_err();
            assert!(error.message().ends_with(key), "{error}");
        }
        let wrong = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(whole(&wrong).unwrap_err().message().contains("key must be a string"));
        assert!(fine().identity().is_ok());
    }
}
