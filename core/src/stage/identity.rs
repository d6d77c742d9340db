//! What makes two stages the same stage.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::Precision;

/// Identity of a stage: BLAKE3 over the canonical JSON of everything that its result depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageId(String);

impl StageId {
    /// Identity of `{kind, version, parameters}`. Parameters hold the configuration, the identities of inputs and the seed.
    pub fn new(kind: &str, version: u32, parameters: &Value) -> Self {
        // The canonical JSON of all three, without a copy of the parameters, which may be large.
        let kind_of_it = Value::from(kind);
        let whole = format!(r#"{{"kind":{kind_of_it},"parameters":{},"version":{version}}}"#, canonical(parameters));
        Self(format!("{kind}-{}", &blake3::hash(whole.as_bytes()).to_hex()[..32]))
    }

    /// Whether this is the identity of a stage with these parameters, of its kind and of any version.
    pub fn is_of(&self, parameters: &Value) -> bool {
        /// More than any kind of stage has had.
        const VERSIONS: u32 = 64;
        let kind = self.0.rsplit_once('-').map_or("", |(kind, _)| kind);
        (1..=VERSIONS).any(|version| Self::new(kind, version, parameters) == *self)
    }

    /// A text, if it has the form of an identity: words, a dash, 128 bits in hexadecimal.
    pub fn recognise(text: &str) -> Option<Self> {
        let (kind, hash) = text.rsplit_once('-')?;
        let hexadecimal = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let is_kind = !kind.is_empty() && kind.bytes().all(|c| c == b'-' || c.is_ascii_lowercase());
        (is_kind && hash.len() == 32 && hash.bytes().all(hexadecimal)).then(|| Self(text.to_owned()))
    }

    /// The identity as text: the kind, a dash, 128 bits in hexadecimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What of the execution the bits of a result depend on. Where it is not the default, the whole batch at once in float32 on the CPU, it is part of the
/// identity of every stage that it reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numeric {
    /// Kind of device, if it is not the CPU.
    device: Option<String>,
    /// Rows that go through a model at once, if somebody asked for so few.
    micro_batch: Option<usize>,
    /// In which numbers matrices are held and multiplied with.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    precision: Precision,
}

impl Numeric {
    /// That of a device, by the name that goes into results (`cpu`, `cuda:0`, `vulkan:1`), and of micro-batches.
    pub fn new(device: &str, micro_batch: Option<usize>) -> Self {
        // One GPU is like another.
        let kind = crate::device::kind_of(device);
        let precision = Precision::default();
        Self { device: (kind != "cpu").then(|| kind.to_owned()), micro_batch, precision }
    }

    /// The same in a precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same with so many rows at once.
    #[must_use]
    pub fn in_parts(&self, micro_batch: Option<usize>) -> Self {
        Self { micro_batch, ..self.clone() }
    }

    /// Kind of device.
    pub fn device(&self) -> &str {
        self.device.as_deref().unwrap_or("cpu")
    }

    /// In which numbers matrices are held and multiplied with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Rows that go through a model at once, if somebody asked for so few.
    pub fn micro_batch(&self) -> Option<usize> {
        self.micro_batch
    }

    /// Rows at once in a stage that takes `batch` of them by default, if they are fewer. As many or more are the default, for predictions too.
    pub(super) fn parts(&self, batch: usize) -> Option<usize> {
        self.micro_batch.filter(|rows| *rows < batch)
    }

    /// What enters the identity of a stage that takes `batch` rows at once by default: `{ "device": KIND, "micro_batch": ROWS, "precision":
    /// NAME }`, each where it makes a difference, and nothing where none does.
    pub(super) fn of(&self, batch: usize) -> Option<Value> {
        let device = self.device.iter().map(|device| ("device".to_owned(), Value::from(device.as_str())));
        let parts = self.parts(batch).map(|rows| ("micro_batch".to_owned(), Value::from(rows)));
        let precision = Some(self.precision).filter(|precision| !precision.is_default());
        let precision = precision.map(|precision| ("precision".to_owned(), Value::from(precision.name())));
        let entry: Map<String, Value> = device.chain(parts).chain(precision).collect();
        (!entry.is_empty()).then_some(Value::Object(entry))
    }
}

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StageId {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// BLAKE3 of a value's [canonical](canonical) JSON, in hexadecimal.
pub fn hash(value: &Value) -> String {
    blake3::hash(canonical(value).as_bytes()).to_hex().to_string()
}

/// JSON with sorted keys and no spaces, in which a whole number is written the same whether it came as `1` or `1.0`.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_text(key, text);
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Number(number) => {
            let whole = number.as_f64().filter(|x| number.is_f64() && x.fract() == 0.0 && x.abs() < 9e15);
            match whole {
                Some(x) => text.push_str(&(x as i64).to_string()),
                None => text.push_str(&number.to_string()),
            }
        }
        Value::String(string) => write_text(string, text),
        Value::Null | Value::Bool(_) => text.push_str(&value.to_string()),
    }
}

fn write_text(string: &str, text: &mut String) {
    // What needs no escape stands as it is.
    if string.bytes().all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\')) {
        text.push('"');
        text.push_str(string);
        text.push('"');
    } else {
        text.push_str(&Value::from(string).to_string());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_of_keys_and_spelling_of_numbers_do_not_matter() {
        assert_eq!(canonical(&json!({"b": 1.0, "a": [true, null, "x\""]})), r#"{"a":[true,null,"x\""],"b":1}"#);
        assert_eq!(hash(&json!({"a": 1, "b": 0.5})), hash(&json!({"b": 0.5, "a": 1.0})));
    }

    #[test]
    fn every_part_counts() {
        let base = StageId::new("student", 1, &json!({"seed": 0}));
        assert_ne!(base, StageId::new("student", 2, &json!({"seed": 0})));
        assert_ne!(base, StageId::new("ceiling", 1, &json!({"seed": 0})));
        assert_ne!(base, StageId::new("student", 1, &json!({"seed": 1})));
        assert_eq!(base.as_str().len(), "student-".len() + 32);
    }

    #[test]
    fn an_identity_knows_its_parameters() {
        let parameters = json!({"seed": 0, "x": 0.1});
        for version in [1, 7] {
            assert!(StageId::new("fine-tune", version, &parameters).is_of(&parameters));
        }
        assert!(!StageId::new("student", 1, &parameters).is_of(&json!({"seed": 1, "x": 0.1})));
        assert!(!StageId("x".to_owned()).is_of(&parameters));
    }

    #[test]
    fn numeric_modes_count_where_they_make_a_difference() {
        let of = |device: &str, micro_batch, batch| Numeric::new(device, micro_batch).of(batch);
        for micro_batch in [None, Some(32), Some(64)] {
            assert_eq!(of("cpu", micro_batch, 32), None);
            assert_eq!(of("cuda:0", micro_batch, 32), Some(json!({ "device": "cuda" })));
        }
        assert_eq!(of("cpu", Some(8), 32), Some(json!({ "micro_batch": 8 })));
        assert_eq!(of("cuda:1", Some(8), 16), Some(json!({ "device": "cuda", "micro_batch": 8 })));
        assert_eq!(of("cuda:0", Some(8), 32), of("cuda:3", Some(8), 32));
        let half = Numeric::new("cpu", Some(8)).in_precision(Precision::Bf16);
        assert_eq!(half.of(32), Some(json!({ "micro_batch": 8, "precision": "bf16" })));
        assert_eq!(half.in_parts(None).of(32), Some(json!({ "precision": "bf16" })));
        let truly = half.in_parts(None).in_precision(Precision::Bf16True);
        assert_eq!(truly.of(32), Some(json!({ "precision": "bf16-true" })));
        assert_eq!(half.in_precision(Precision::F32), Numeric::new("cpu", Some(8)));
        // Records of grids from before there were precisions, and of those with none.
        let old = json!({ "device": null, "micro_batch": null });
        assert_eq!(serde_json::to_value(Numeric::default()).unwrap(), old);
        assert_eq!(serde_json::from_value::<Numeric>(old).unwrap(), Numeric::default());
        // The same GPU by another interface runs other kernels.
        for kind in ["wgpu", "vulkan", "metal"] {
            assert_eq!(of(&format!("{kind}:1"), None, 32), Some(json!({ "device": kind })));
        }
    }

    #[test]
    fn an_identity_never_changes() {
        // A changed value here throws away every result that anybody has.
        assert_eq!(StageId::new("t", 1, &json!({"x": 0.1, "n": 3})).as_str(), "t-f265686d95751faca2da426932a84dec");
    }
}
