//! Data of several tasks as those of one: what a suite's models are trained on and tested with.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{
    data::{Counts, Form, TaskData},
    matching::Matcher,
};
use crate::{Error, Result, strategy::Split};

/// A task's share of a union: its examples follow those of the tasks before it, part by part.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Portion {
    /// Name of the task.
    pub task: String,
    /// What it asks for.
    pub form: Form,
    /// Names of its classes.
    pub class_names: Vec<String>,
    /// Its examples in each of [`TaskData::parts`].
    pub rows: [usize; 4],
}

/// What finds and compares answers in words, row by row.
#[derive(Debug)]
pub struct Matchers(Vec<(usize, Matcher)>);

impl Matchers {
    /// That of a row.
    pub fn of(&self, row: usize) -> &Matcher {
        let place = self.0.partition_point(|(end, _)| *end <= row).min(self.0.len() - 1);
        &self.0[place].1
    }
}

impl TaskData {
    /// Data of several tasks that ask for the same form, one behind the other. Of a task that is not `trained` on, the student's examples are
    /// left out.
    ///
    /// # Errors
    /// Tasks of different forms, or with different numbers of classes.
    pub fn union(name: &str, parts: Vec<(Self, bool)>) -> Result<Self> {
        let mut union = Self { task: name.to_owned(), ..Self::default() };
        for (mut data, trained) in parts {
            if !trained {
                data.transfer.clear();
            }
            union.form = match (std::mem::take(&mut union.form), &data.form) {
                _ if union.portions.is_empty() => {
                    union.class_names.clone_from(&data.class_names);
                    data.form.clone()
                }
                (Form::Choose { candidates }, Form::Choose { candidates: own }) => {
                    Form::Choose { candidates: candidates.max(*own) }
                }
                (Form::Classify, Form::Classify) if data.classes() == union.classes() => Form::Classify,
                (first @ Form::Generate(_), Form::Generate(_)) => first,
                _ => {
                    let (first, task) = (&union.portions[0].task, &data.task);
                    return Err(Error::new(format!("`{task}` asks for something else than `{first}`")).help(
                        "the tasks of a suite have one form and as many classes: take others out, or train each alone with `together = false`",
                    ));
                }
            };
            union.portions.push(Portion {
                task: data.task.clone(),
                form: data.form.clone(),
                class_names: data.class_names.clone(),
                rows: data.parts().map(|(_, examples)| examples.len()),
            });
            for ((_, all), (_, own)) in union.parts_mut().into_iter().zip(data.parts_mut()) {
                all.append(own);
            }
            union.files.append(&mut data.files);
        }
        union.counts = Counts::default();
        union.recount()?;
        Ok(union)
    }

    /// The rows of each task of a union in a split; of a task alone all of them.
    pub fn portion_rows(&self, split: Split) -> Vec<Range<usize>> {
        let (part, mut from) = (place(split), 0);
        let range = |portion: &Portion| {
            let start = from;
            from += portion.rows[part];
            start..from
        };
        match self.portions.is_empty() {
            true => std::iter::once(0..self.parts()[part].1.len()).collect(),
            false => self.portions.iter().map(range).collect(),
        }
    }

    /// What finds and compares the answers of a split, if words are generated.
    ///
    /// # Errors
    /// A stored expression does not compile.
    pub fn matchers(&self, split: Split) -> Result<Option<Matchers>> {
        let rows = self.portion_rows(split);
        let mut matchers = Vec::with_capacity(rows.len());
        for (place, rows) in rows.iter().enumerate() {
            let Form::Generate(generation) = self.portion_form(place) else { return Ok(None) };
            matchers.push((rows.end, Matcher::new(&generation.answer)?));
        }
        Ok(Some(Matchers(matchers)))
    }

    /// What the task at a place of a union asks for; the task itself, if it is alone.
    pub fn portion_form(&self, place: usize) -> &Form {
        self.portions.get(place).map_or(&self.form, |portion| &portion.form)
    }

    /// Name of a class of an example of a split.
    pub fn class_name(&self, split: Split, row: usize, class: usize) -> Option<&str> {
        let place = self.portion_rows(split).iter().position(|rows| rows.contains(&row))?;
        let names = self.portions.get(place).map_or(&self.class_names, |portion| &portion.class_names);
        names.get(class).map(String::as_str)
    }
}

/// Place of a split among the [`parts`](TaskData::parts).
fn place(split: Split) -> usize {
    match split {
        Split::Supervise => 0,
        Split::Transfer => 1,
        Split::Validation => 2,
        Split::Test => 3,
    }
}
