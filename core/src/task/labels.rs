//! Labels of a task's examples that stand in a file: those of people, or of any other source.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;

use super::{
    Row, Rows, TaskData,
    read::{Dialect, number},
};
use crate::{Error, Result, strategy::Labels};

const FORM: &str = "docs/supervisors.md describes the file; `w2s task ids TASK` writes the ids of a task's examples";

/// Labels by the ids of examples.
#[derive(Debug)]
pub struct LabelFile {
    rows: Rows,
    /// Of each id, in which row it stands and what it says.
    labels: BTreeMap<String, (u32, Vec<f32>)>,
}

/// What a file says of an example.
enum Says {
    /// A class, and with which probability where there is a column for that.
    Class { confidence: bool },
    /// The probability of each class.
    Probabilities(Vec<String>),
}

impl LabelFile {
    /// Reads a table with the columns `id` and `label`, perhaps `confidence`; or `id` and the probabilities `p0`, `p1`, … of the classes, in
    /// their order. Other columns are left alone.
    ///
    /// # Errors
    /// A file that cannot be read or has other columns; a row without an id or label, with an id that had its row, with a label that is no
    /// class or with numbers that are no probabilities. The message names the line.
    pub fn read(path: &Path, classes: &[String]) -> Result<Self> {
        let file = |error: Error| error.context("labels").or_else_help(FORM);
        let rows = Rows::open(path, &path.to_string_lossy(), &Dialect::default(), None).map_err(file)?;
        let wrong = |message: String| Error::new(message).in_file(path).help(FORM);
        let says = Says::of(&rows.columns, classes).map_err(wrong)?;
        let mut labels = BTreeMap::new();
        for (row, cells) in rows.read_whole().map_err(file)?.rows {
            let read = || {
                let id = text(&cells, "id").ok_or("it has no `id`")?;
                Ok::<_, String>((id, says.label(&cells, classes)?))
            };
            let at = |message: String| rows.at(row, Error::new(message)).or_else_help(FORM);
            let (id, label) = read().map_err(at)?;
            if labels.contains_key(&id) {
                let help = "leave one label of each example; what several people said can be put into `p0`, `p1`, …";
                return Err(rows.at(row, Error::new(format!("the id `{id}` stands twice"))).help(help));
            }
            labels.insert(id, (row, label));
        }
        Ok(Self { rows, labels })
    }

    /// BLAKE3 of the file's bytes.
    pub fn blake3(&self) -> &str {
        self.rows.files.first().map_or("", |file| &file.blake3)
    }

    /// Labels of the examples of some parts, in their order.
    ///
    /// # Errors
    /// An example without a label; with `others` false also a label of something that is no example of this task.
    pub fn of<const N: usize>(&self, data: &TaskData, parts: [&'static str; N], others: bool) -> Result<[Labels; N]> {
        if !others {
            let known: BTreeSet<String> =
                data.parts().into_iter().flat_map(|(name, part)| data.ids(name, part)).collect();
            let unknown = self.labels.iter().filter(|(id, _)| !known.contains(*id)).min_by_key(|(_, (row, _))| *row);
            if let Some((id, (row, _))) = unknown {
                let error = Error::new(format!("`{id}` is no example of task `{}` as this grid uses it", data.task));
                return Err(self.rows.at(*row, error).help(
                    "`w2s task ids TASK` writes the ids, with the seed and the `[data]` of the grid as KEY=VALUE; if the file is for more examples than this grid uses, set `others = \"ignore\"` beside `path`",
                ));
            }
        }
        let mut found = parts.map(|_| Labels::new());
        for (labels, name) in found.iter_mut().zip(parts) {
            let part = data.parts().into_iter().find(|(part, _)| *part == name).map_or(&[][..], |(_, part)| part);
            let ids = data.ids(name, part);
            let missing: Vec<&String> = ids.iter().filter(|id| !self.labels.contains_key(*id)).collect();
            if let Some(first) = missing.first() {
                let (n, all) = (missing.len(), ids.len());
                let message = format!("{n} of the {all} examples of the {name} split have no label, first `{first}`");
                let error = match self.rows.files.first() {
                    Some(file) => Error::new(message).in_file(&file.path),
                    None => Error::new(message),
                };
                return Err(error.help(format!(
                    "add them: `w2s task ids {}` writes the ids beside the texts, with the seed and the `[data]` of the grid as KEY=VALUE",
                    data.task
                )));
            }
            *labels = ids.iter().filter_map(|id| Some(self.labels.get(id)?.1.clone())).collect();
        }
        Ok(found)
    }
}

impl Says {
    fn of(columns: &[String], classes: &[String]) -> Result<Self, String> {
        let has = |name: &str| columns.iter().any(|column| column == name);
        let shares: Vec<String> = (0..classes.len()).map(|class| format!("p{class}")).collect();
        let there = columns.join("`, `");
        if !has("id") {
            return Err(format!("there is no column `id` among `{there}`"));
        }
        match (has("label"), shares.iter().all(|share| has(share))) {
            (true, true) => {
                Err("it has both a `label` and the probabilities `p0`, …: one of them is too much".to_owned())
            }
            (true, false) => Ok(Says::Class { confidence: has("confidence") }),
            (false, true) => Ok(Says::Probabilities(shares)),
            (false, false) => {
                Err(format!("there is no column `label`, nor all of `{}`, among `{there}`", shares.join("`, `")))
            }
        }
    }

    /// Probabilities of the classes.
    fn label(&self, cells: &Row, classes: &[String]) -> Result<Vec<f32>, String> {
        let share = |column: &str| {
            let text = text(cells, column).ok_or_else(|| format!("it has no `{column}`"))?;
            let share = number(&text).filter(|share| (0.0..=1.0).contains(share));
            share.ok_or_else(|| format!("`{column}` is `{text}`, and a probability is a number between 0 and 1"))
        };
        match self {
            Says::Class { confidence } => {
                let label = text(cells, "label").ok_or("it has no `label`")?;
                let class = class(&label, classes)?;
                let sure = if *confidence { share("confidence")? } else { 1.0 };
                let even = 1.0 / classes.len() as f64;
                if sure < even {
                    return Err(format!(
                        "the confidence {sure} in `{label}` is less than {even:.3}, what each of {} classes has by chance: another label would be the likelier one",
                        classes.len()
                    ));
                }
                let rest = (1.0 - sure) / (classes.len() - 1).max(1) as f64;
                Ok((0..classes.len()).map(|one| (if one == class { sure } else { rest }) as f32).collect())
            }
            Says::Probabilities(columns) => {
                let shares = columns.iter().map(|column| share(column)).collect::<Result<Vec<f64>, _>>()?;
                let sum: f64 = shares.iter().sum();
                if (sum - 1.0).abs() > 1e-3 {
                    return Err(format!("its probabilities sum to {sum} and not to 1"));
                }
                Ok(shares.into_iter().map(|share| (share / sum) as f32).collect())
            }
        }
    }
}

/// A class by its name, or by its number from 0 where no class has a number for a name.
fn class(label: &str, classes: &[String]) -> Result<usize, String> {
    let named = classes.iter().position(|class| class.trim() == label);
    let numbered = || match classes.iter().any(|class| number(class).is_some()) {
        true => None,
        false => label.parse().ok().filter(|class| *class < classes.len()),
    };
    named.or_else(numbered).ok_or_else(|| format!("`{label}` is none of the classes `{}`", classes.join("`, `")))
}

/// What stands in a cell, if anything does.
fn text(cells: &Row, column: &str) -> Option<String> {
    let text = match cells.get(column)? {
        Value::Null => return None,
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Example;

    fn data() -> TaskData {
        let example = |row: u32| Example { text: format!("text {row}"), source_row: row, ..Example::default() };
        TaskData {
            task: "mine".to_owned(),
            class_names: vec!["no".to_owned(), "yes".to_owned(), "maybe".to_owned()],
            supervise: vec![example(0)],
            transfer: vec![example(2), example(1)],
            test: vec![example(0)],
            ..TaskData::default()
        }
    }

    fn read(text: &str, name: &str, others: bool) -> Result<[Labels; 3]> {
        let (folder, data) = (tempfile::tempdir().unwrap(), data());
        let path = folder.path().join(name);
        let ids = |part: &str| data.ids(part, data.parts().into_iter().find(|(name, _)| *name == part).unwrap().1);
        let [a, b] = <[String; 2]>::try_from(ids("transfer")).unwrap();
        let text = text.replace("A,", &format!("{a},")).replace("B,", &format!("{b},"));
        let text =
            text.replace("T,", &format!("{},", ids("test")[0])).replace("S,", &format!("{},", ids("supervise")[0]));
        std::fs::write(&path, text).unwrap();
        LabelFile::read(&path, &data.class_names)?.of(&data, ["transfer", "validation", "test"], others)
    }

    #[test]
    fn labels_go_to_their_examples() {
        let one = |class: usize| (0..3).map(|k| f32::from(u8::from(k == class))).collect::<Vec<f32>>();
        let [transfer, validation, test] = read("id,label,note\nB,yes,x\nT,2,\nA,no,y\n", "a.csv", false).unwrap();
        assert_eq!((transfer, validation, test), (vec![one(0), one(1)], vec![], vec![one(2)]));
        let [transfer, ..] =
            read("id,label,confidence\nB,yes,0.5\nT,no,1\nA,no,0.8\nS,no,1\n", "a.csv", false).unwrap();
        assert_eq!(transfer, [vec![0.8, 0.1, 0.1], vec![0.25, 0.5, 0.25]]);
        let [transfer, _, test] = read("id,p0,p1,p2\nB,0.25,0.5,0.25\nT,0,1,0\nA,1,0,0\n", "a.csv", false).unwrap();
        assert_eq!((transfer, test), (vec![one(0), vec![0.25, 0.5, 0.25]], vec![one(1)]));
        assert!(read("id,label\nB,yes\nT,no\nA,no\ntrain-7-00000000,no\n", "a.csv", true).is_ok());
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_line() {
        for (text, what) in [
            (
                "id,label\nA,no\nB,yes\nT,no\ntrain-9-00000000,no\n",
                "line 5: `train-9-00000000` is no example of task `mine`",
            ),
            ("id,label\nA,no\nT,no\n", "1 of the 2 examples of the transfer split have no label, first `train-1-"),
            ("id,label\nA,no\nB,no\n", "1 of the 1 examples of the test split have no label"),
            ("id,label\nA,no\nB,yes\nA,no\nT,no\n", "line 4: the id `train-2-"),
            ("id,label\nA,no\nB,never\nT,no\n", "line 3: `never` is none of the classes `no`, `yes`, `maybe`"),
            ("id,label\nA,no\nB,3\nT,no\n", "line 3: `3` is none of"),
            ("id,label\nA,\nB,no\nT,no\n", "line 2: it has no `label`"),
            (
                "id,label,confidence\nA,no,0.2\nB,no,1\nT,no,1\n",
                "line 2: the confidence 0.2 in `no` is less than 0.333",
            ),
            ("id,label,confidence\nA,no,1.5\nB,no,1\nT,no,1\n", "line 2: `confidence` is `1.5`"),
            ("id,p0,p1,p2\nA,0.5,0.5,0.5\nB,1,0,0\nT,1,0,0\n", "line 2: its probabilities sum to 1.5"),
            ("id,label,p0,p1,p2\nA,no,1,0,0\n", "both a `label` and the probabilities"),
            ("id,p0,p1\nA,1,0\n", "there is no column `label`, nor all of `p0`, `p1`, `p2`"),
            ("name,label\nA,no\n", "there is no column `id` among `name`, `label`"),
        ] {
            let error = read(text, "a.csv", false).unwrap_err();
            assert!(error.message().contains(what), "{text}: {error}");
            assert!(error.remedy().is_some() && error.place().is_some(), "{text}: {error}");
        }
    }

    #[test]
    fn a_number_is_no_class_where_classes_are_called_by_numbers() {
        let classes = ["1".to_owned(), "0".to_owned()];
        assert_eq!(class("0", &classes), Ok(1));
        assert!(class("2", &["1".to_owned(), "5".to_owned(), "7".to_owned()]).is_err());
    }
}
