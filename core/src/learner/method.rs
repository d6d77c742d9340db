//! A method as a training uses it: whose label is trusted, how it is refined, what loss is taken; and what the three remember.

use std::{collections::BTreeMap, sync::Mutex};

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::run::{Choice, lock};
use crate::{
    Error, Result,
    strategy::{Batch, Form, LabelRefiner, Memory, Needs, Pool, Progress, Selection, Selector, StudentLoss, math},
};

/// Selector, refiner and loss of one training.
#[derive(Debug)]
pub(super) struct Method {
    selector: Option<Box<dyn Selector>>,
    refiner: Option<Box<dyn LabelRefiner>>,
    loss: Box<dyn StudentLoss>,
    memory: Mutex<Memories>,
    /// Whether decisions are kept.
    record: bool,
}

/// What each strategy remembers; apart, so that no two share a name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Memories {
    selector: Memory,
    refiner: Memory,
    loss: Memory,
}

impl Method {
    /// Without a selector, the weak label of every row; without a refiner, labels as they are.
    pub(super) fn new(
        selector: Option<Box<dyn Selector>>,
        refiner: Option<Box<dyn LabelRefiner>>,
        loss: Box<dyn StudentLoss>,
        record: bool,
    ) -> Self {
        Self { selector, refiner, loss, memory: Mutex::default(), record }
    }

    /// Refuses a form that one of the parts cannot work on.
    pub(super) fn check_form(&self, form: Form) -> Result<()> {
        let refused = |part: &'static str| {
            move |message: String| Error::new(format!("{part} cannot be used on {form}: {message}"))
        };
        self.loss.fits(form).map_err(refused("the loss"))?;
        self.selector.as_ref().map_or(Ok(()), |selector| selector.fits(form)).map_err(refused("the selector"))?;
        self.refiner.as_ref().map_or(Ok(()), |refiner| refiner.fits(form)).map_err(refused("the refiner"))
    }

    /// What the parts need together.
    pub(super) fn needs(&self) -> Needs {
        let selector = self.selector.as_ref().map(|selector| selector.needs()).unwrap_or_default();
        let refiner = self.refiner.as_ref().map(|refiner| refiner.needs()).unwrap_or_default();
        self.loss.needs().and(selector).and(refiner)
    }

    /// Checks that what the parts need is `given`, and lets them look at the whole data set; the pool does not have the column that is
    /// made `along`.
    pub(super) fn prepare(&mut self, pool: &Pool, given: &Needs, along: Option<&str>) -> Result<()> {
        let columns = [
            self.loss.columns(),
            self.selector.as_ref().map(|selector| selector.columns()).unwrap_or_default(),
            self.refiner.as_ref().map(|refiner| refiner.columns()).unwrap_or_default(),
        ];
        if let Some(name) =
            columns.concat().iter().find(|name| !pool.columns.contains_key(*name) && along != Some(*name))
        {
            return Err(Error::new(format!("the method reads the column `{name}`, which was not provided")));
        }
        met("loss", &self.loss.needs(), given)?;
        self.selector.as_ref().map_or(Ok(()), |selector| met("selector", &selector.needs(), given))?;
        self.refiner.as_ref().map_or(Ok(()), |refiner| met("refiner", &refiner.needs(), given))?;
        let refused = |part: &'static str| move |message: String| Error::new(message).context(part);
        for (name, numbers) in &pool.columns {
            self.read(name, numbers)?;
        }
        self.loss.prepare(pool).map_err(refused("the loss"))?;
        if let Some(selector) = &mut self.selector {
            selector.prepare(pool).map_err(refused("the selector"))?;
        }
        if let Some(refiner) = &mut self.refiner {
            refiner.prepare(pool).map_err(refused("the refiner"))?;
        }
        Ok(())
    }

    /// Has those who read a column look at its numbers.
    fn read(&self, column: &str, numbers: &[f32]) -> Result<()> {
        let reads = |columns: Vec<String>| columns.iter().any(|name| name == column);
        let refused = |part: &'static str| move |message: String| Error::new(message).context(part);
        if reads(self.loss.columns()) {
            self.loss.reads(column, numbers).map_err(refused("the loss"))?;
        }
        if let Some(selector) = self.selector.as_ref().filter(|selector| reads(selector.columns())) {
            selector.reads(column, numbers).map_err(refused("the selector"))?;
        }
        if let Some(refiner) = self.refiner.as_ref().filter(|refiner| reads(refiner.columns())) {
            refiner.reads(column, numbers).map_err(refused("the refiner"))?;
        }
        Ok(())
    }

    /// The examples that the selector trains on, if it leaves some out.
    pub(super) fn chosen(&self, pool: &Pool) -> Result<Option<Vec<u32>>> {
        let Some(flags) = self.selector.as_ref().and_then(|selector| selector.choose(pool)) else { return Ok(None) };
        if flags.len() != pool.ids.len() {
            return Err(Error::new(format!(
                "the selector decides about {} examples, and there are {}",
                flags.len(),
                pool.ids.len()
            )));
        }
        Ok(Some((0..).zip(flags).filter(|(_, chosen)| *chosen).map(|(row, _)| row).collect()))
    }

    /// The loss.
    pub(super) fn loss(&self) -> &dyn StudentLoss {
        &*self.loss
    }

    /// What selector and refiner make of a whole batch: the decision about each row, the labels `[B, K]`, and the record of both.
    pub(super) fn decide(&self, rows: &[u32], batch: &Batch) -> (Selection, Tensor<2>, Vec<Choice>) {
        let memory = &mut *lock(&self.memory);
        let selection = match &self.selector {
            Some(selector) => selector.select(batch, &mut memory.selector),
            None => Selection::weak(batch),
        };
        let labels = match &self.refiner {
            Some(refiner) => refiner.refine(batch, &selection, &mut memory.refiner),
            None => selection.labels(batch),
        };
        let choices = if self.record { choices(rows, batch, &selection, &labels) } else { Vec::new() };
        (selection, labels, choices)
    }

    /// [`StudentLoss::targets_of`].
    pub(super) fn targets(&self, batch: &Batch, logits: Tensor<2>, labels: Tensor<2>) -> Tensor<2> {
        self.loss.targets_of(batch, logits, labels, &mut lock(&self.memory).loss)
    }

    /// [`StudentLoss::weigh`].
    pub(super) fn weigh(&self, surprise: Tensor<1>, at: &Progress) -> Tensor<1> {
        self.loss.weigh(surprise, at, &mut lock(&self.memory).loss)
    }

    /// What the parts remember.
    pub(super) fn memories(&self) -> Memories {
        lock(&self.memory).clone()
    }

    /// Goes on with what the parts remembered.
    pub(super) fn restore(&self, memories: Memories) {
        *lock(&self.memory) = memories;
    }

    /// What the parts say after training.
    pub(super) fn remarks(&self) -> Vec<String> {
        let memory = &mut *lock(&self.memory);
        let remarks = [
            self.selector.as_ref().and_then(|selector| selector.remark(&mut memory.selector)),
            self.refiner.as_ref().and_then(|refiner| refiner.remark(&mut memory.refiner)),
            self.loss.remark(&mut memory.loss),
        ];
        remarks.into_iter().flatten().collect()
    }
}

/// Refuses a part of a method that needs more than is given.
fn met(part: &str, needs: &Needs, given: &Needs) -> Result<()> {
    let unmet = [
        (needs.embeddings && !given.embeddings, "embeddings of the strong model, which were not provided"),
        (needs.self_labels && !given.self_labels, "self-labels, which were not provided"),
        (needs.truth && !given.truth, "ground truth, which was not provided"),
        (needs.calibration && !given.calibration, "held-out examples, which were not provided"),
    ];
    match unmet.into_iter().find(|(unmet, _)| *unmet) {
        Some((_, what)) => Err(Error::new(format!("the {part} needs {what}"))),
        None => Ok(()),
    }
}

/// What selector and refiner decided about each row.
fn choices(rows: &[u32], batch: &Batch, selection: &Selection, refined: &Tensor<2>) -> Vec<Choice> {
    let table = |tensor: &Tensor<2>| -> Vec<Vec<f32>> {
        let width = tensor.dims()[1];
        tensor.to_data().iter::<f32>().collect::<Vec<f32>>().chunks(width).map(<[f32]>::to_vec).collect()
    };
    let (own, weight) = (math::to_host(selection.own.clone()), math::to_host(selection.weight.clone()));
    let columns: Vec<(&str, Vec<f32>)> =
        batch.columns().map(|(name, numbers)| (name, math::to_host(numbers.clone()))).collect();
    let self_labels = batch.self_labels.as_ref().map(table);
    let choice = |(place, refined): (usize, Vec<f32>)| Choice {
        row: rows[place],
        own: own[place] > 0.5,
        weight: weight[place],
        columns: columns.iter().map(|(name, numbers)| ((*name).to_owned(), numbers[place])).collect(),
        self_label: self_labels.as_ref().map(|labels| labels[place].clone()),
        refined,
    };
    table(refined).into_iter().enumerate().map(choice).collect()
}

/// The record of the examples that a selector left out of the training altogether; `chosen` are the others, in ascending order.
pub(super) fn left_out<'a>(chosen: &'a [u32], pool: &'a Pool) -> impl Iterator<Item = (u32, Choice)> + 'a {
    let rows = (0..pool.ids.len() as u32).filter(|row| chosen.binary_search(row).is_err());
    rows.map(|row| {
        let refined = pool.weak[row as usize].clone();
        (row, Choice { row, own: false, weight: 0.0, columns: BTreeMap::new(), self_label: None, refined })
    })
}

/// Rows of equal width on the host.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) width: usize,
    pub(super) values: Vec<f32>,
}

impl Table {
    pub(super) fn new(rows: &[Vec<f32>]) -> Self {
        Self { width: rows.first().map_or(0, Vec::len), values: rows.concat() }
    }

    pub(super) fn row(&self, row: u32) -> &[f32] {
        &self.values[row as usize * self.width..][..self.width]
    }

    /// Some rows as a tensor `[rows, width]`.
    pub(super) fn tensor(&self, rows: &[u32], device: &Device) -> Tensor<2> {
        let values: Vec<f32> = rows.iter().flat_map(|&row| self.row(row)).copied().collect();
        Tensor::from_data(TensorData::new(values, [rows.len(), self.width]), device)
    }
}

/// The columns that are known before training, as batches are cut from them.
pub(super) fn tables(pool: &Pool) -> BTreeMap<String, Table> {
    let table = |numbers: &Vec<f32>| Table { width: 1, values: numbers.clone() };
    pool.columns.iter().map(|(name, numbers)| (name.clone(), table(numbers))).collect()
}

/// A batch of some rows with their part of every column.
pub(super) fn with_columns<'a>(batch: Batch<'a>, columns: &BTreeMap<String, Table>, rows: &[u32]) -> Batch<'a> {
    let device = batch.weak.device();
    let cut = |table: &Table| table.tensor(rows, &device).squeeze_dim(1);
    columns.iter().fold(batch, |batch, (name, table)| batch.with_column(name, cut(table)))
}

/// What to say of a selector that gave some rows weights which are no weights.
pub(super) fn wrong_weights(rows: &[u32]) -> Error {
    Error::new(format!("the selector gave weights below 0 or not finite to {}", examples(rows)))
}

/// Names some examples: `example 3` or `examples 3, 5, 8, … (12 in all)`.
pub(super) fn examples(rows: &[u32]) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = rows.iter().take(SHOWN).map(u32::to_string).collect();
    let rest = if rows.len() > SHOWN { format!(", … ({} in all)", rows.len()) } else { String::new() };
    format!("example{} {}{rest}", if rows.len() == 1 { "" } else { "s" }, names.join(", "))
}
