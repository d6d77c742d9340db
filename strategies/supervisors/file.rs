use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Invalid, Supervision, Supervisor};

/// Labels that come from outside: those of people, of a larger model behind an API, of any rule.
///
/// A table (Parquet, JSONL, JSON, CSV, TSV) with a row for each example: `id`, and either `label` with or without `confidence`, or the
/// probabilities `p0`, `p1`, …. docs/supervisors.md says more; `w2s task ids` writes the ids beside the texts. What the file says of the
/// test is scored as the weak performance.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// Where the file is, from the folder in which w2s runs; `{task}` and `{seed}` stand for those of the cell. Its content is part of an
    /// identity, its path is not. Origin: original.
    pub path: String,
    /// What is done with labels of examples that the grid does not use: `refuse` them, or `ignore` them. Origin: original.
    pub others: Others,
}

/// What is done with labels of other examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Others {
    /// They are an error.
    #[default]
    Refuse,
    /// They are left alone.
    Ignore,
}

impl Default for File {
    fn default() -> Self {
        Self { path: "labels.csv".to_owned(), others: Others::default() }
    }
}

impl Supervisor for File {
    fn asks(&self) -> Vec<Ask> {
        vec![Ask::File { path: self.path.clone(), others: self.others == Others::Ignore }]
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        Ok(given.answers[0].clone())
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        match form {
            Form::Classes(_) => Ok(()),
            _ => Err("labels in a file are those of classes".to_owned()),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        if self.path.trim().is_empty() { Err(Invalid::new("path", "must be the path of a file")) } else { Ok(()) }
    }
}

register!(supervisor "file" for File, paper = "original", aside = ["path", "others"]);
