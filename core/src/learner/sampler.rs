//! Which examples each step sees: a function of the recipe and the seed, known before training starts.

use std::{ops::Range, sync::Arc};

use burn::{
    data::{
        dataloader::{DataLoader, DataLoaderIterator, Progress as Position},
        dataset::DatasetError,
    },
    tensor::Device,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::Recipe;
use crate::{Error, Result, rng::Rng, strategy::Progress};

/// Most examples of one training: their order is kept in memory.
const MOST: usize = 1 << 32;

/// Order of the examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// As they are stored, the same in every epoch (openai/weak-to-strong).
    #[default]
    Stored,
    /// A new permutation in every epoch.
    Shuffled,
    /// Shuffled, then sorted by length within pools of 50 batches; the batches of a pool come in random order. Saves time where
    /// attention pads to the longest of a batch, as on GPUs.
    Bucketed,
}

/// Batches that are sorted by length together under [`Order::Bucketed`].
const POOL: usize = 50;

/// The examples of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Minibatch {
    /// Where training stands.
    pub progress: Progress,
    /// Rows of the data set, in the batch's order.
    pub rows: Vec<u32>,
}

/// The examples of every step: `floor(rows * epochs / batch)` batches over the concatenated epochs, as in openai/weak-to-strong.
/// A batch may span the end of an epoch; what does not fill the last batch is dropped.
///
/// The whole order is drawn up at once, so that any step can be looked up: a resumed run sees what an uninterrupted one sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    rows: usize,
    batch: usize,
    epochs: usize,
    order: Vec<u32>,
}

impl Sampler {
    /// The order of `lengths.len()` examples with so many tokens each.
    ///
    /// # Errors
    /// Fewer examples than one batch needs, or more than 2³² − 1.
    pub fn new(lengths: &[usize], batch: usize, epochs: usize, order: Order, seed: u64) -> Result<Self> {
        let rows = lengths.len();
        let count = u32::try_from(rows).map_err(|_| Error::new(format!("{rows} examples are too many")))?;
        Self::check(rows, batch, epochs)?;
        let mut stream: Vec<u32> = Vec::with_capacity(rows * epochs);
        for epoch in 0..epochs {
            let start = stream.len();
            stream.extend(0..count);
            if order != Order::Stored {
                Rng::named(seed, &format!("order/{epoch}")).shuffle(&mut stream[start..]);
            }
            if order == Order::Bucketed {
                // Only batches that lie within this epoch: sorted with the next one, an example would meet its double.
                let whole = start.next_multiple_of(batch)..stream.len() / batch * batch;
                let mut rng = Rng::named(seed, &format!("order/{epoch}/pools"));
                if let Some(epoch) = stream.get_mut(whole) {
                    for pool in epoch.chunks_mut(POOL * batch) {
                        bucket(pool, lengths, batch, &mut rng);
                    }
                }
            }
        }
        stream.truncate(rows * epochs / batch * batch);
        Ok(Self { rows, batch, epochs, order: stream })
    }

    /// Whether there is a step to take.
    ///
    /// # Errors
    /// Fewer examples than one batch needs.
    pub fn check(rows: usize, batch: usize, epochs: usize) -> Result<()> {
        if batch == 0 || rows.saturating_mul(epochs) < batch {
            return Err(Error::new(format!("{rows} examples in {epochs} epochs do not fill one batch of {batch}"))
                .help("lower `batch_size` or use more examples"));
        }
        if rows.saturating_mul(epochs) > MOST {
            return Err(Error::new(format!("{epochs} epochs of {rows} examples are more than any training takes"))
                .help("lower `epochs`"));
        }
        Ok(())
    }

    /// The order of a recipe among the rows that a selector chose, or all of them; `lengths` are those of all.
    pub(super) fn among_chosen(lengths: &[usize], chosen: Option<&[u32]>, recipe: &Recipe, seed: u64) -> Result<Self> {
        let new = |lengths: &[usize]| Self::new(lengths, recipe.batch_size, recipe.epochs, recipe.order, seed);
        let Some(rows) = chosen else { return new(lengths) };
        let among: Vec<usize> = rows.iter().map(|&row| lengths[row as usize]).collect();
        let mut sampler = new(&among)
            .map_err(|error| error.context(format!("the selector keeps {} of {}", rows.len(), lengths.len())))?;
        sampler.order.iter_mut().for_each(|place| *place = rows[*place as usize]);
        Ok(sampler)
    }

    /// Number of optimizer steps.
    pub fn steps(&self) -> usize {
        self.order.len() / self.batch
    }

    /// Where training stands at a step.
    pub fn progress(&self, step: usize) -> Progress {
        let epoch = step * self.batch / self.rows;
        Progress { step, total_steps: self.steps(), epoch, epochs: self.epochs }
    }

    /// The examples of a step, if there is such a step.
    pub fn minibatch(&self, step: usize) -> Option<Minibatch> {
        let rows = self.order.get(step * self.batch..(step + 1) * self.batch)?;
        Some(Minibatch { progress: self.progress(step), rows: rows.to_vec() })
    }
}

/// Sorts a pool by length and puts its batches in random order.
fn bucket(pool: &mut [u32], lengths: &[usize], batch: usize, rng: &mut Rng) {
    // Stable: among equal lengths the shuffled order stays.
    pool.sort_by_key(|&row| lengths[row as usize]);
    let mut batches: Vec<&[u32]> = pool.chunks(batch).collect();
    rng.shuffle(&mut batches);
    let order = batches.concat();
    pool.copy_from_slice(&order);
}

/// Some steps of a [`Sampler`] as burn-train reads them. One item is one step.
#[derive(Clone, Debug)]
pub(super) struct Loader {
    sampler: Arc<Sampler>,
    steps: Range<usize>,
}

impl Loader {
    /// The given steps of a sampler.
    pub(super) fn new(sampler: Arc<Sampler>, steps: Range<usize>) -> Self {
        Self { sampler, steps }
    }
}

impl DataLoader<Minibatch> for Loader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Minibatch> + 'a> {
        Box::new(Steps { sampler: &self.sampler, steps: self.steps.clone(), all: self.steps.len() })
    }

    fn num_items(&self) -> usize {
        self.steps.len()
    }

    // Rows of the data set live on no device; the step makes the tensors.
    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<Minibatch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Minibatch>> {
        let place = |step: usize| (self.steps.start + step).min(self.steps.end);
        Arc::new(Self { sampler: self.sampler.clone(), steps: place(start)..place(end) })
    }
}

struct Steps<'a> {
    sampler: &'a Sampler,
    steps: Range<usize>,
    all: usize,
}

impl Iterator for Steps<'_> {
    type Item = Result<Minibatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.steps.next().and_then(|step| self.sampler.minibatch(step)).map(Ok)
    }
}

impl DataLoaderIterator<Minibatch> for Steps<'_> {
    fn progress(&self) -> Position {
        Position::new(self.all - self.steps.len(), self.all, Some("steps".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [Order; 3] = [Order::Stored, Order::Shuffled, Order::Bucketed];

    fn all(sampler: &Sampler) -> Vec<Vec<u32>> {
        (0..sampler.steps()).map(|step| sampler.minibatch(step).unwrap().rows).collect()
    }

    #[test]
    fn stored_is_the_reference() {
        let sampler = Sampler::new(&[1; 5], 4, 2, Order::Stored, 0).unwrap();
        assert_eq!(all(&sampler), [vec![0, 1, 2, 3], vec![4, 0, 1, 2]]);
        assert_eq!(sampler.minibatch(2), None);
        let epochs: Vec<usize> = (0..sampler.steps()).map(|step| sampler.progress(step).epoch).collect();
        assert_eq!(epochs, [0, 0]);
        assert_eq!(sampler.progress(1), Progress { step: 1, total_steps: 2, epoch: 0, epochs: 2 });
        // SciQ in openai/weak-to-strong: 364 steps.
        assert_eq!(Sampler::new(&vec![1; 5839], 32, 2, Order::Stored, 0).unwrap().steps(), 364);
    }

    #[test]
    fn every_order_visits_every_example_once_per_epoch() {
        // The lengths vary, so that sorting by them moves rows.
        for (rows, batch) in [(12, 4), (13, 4), (500, 4), (7, 7), (3, 2)] {
            let lengths: Vec<usize> = (0..rows).map(|row| row * 7919 % 31).collect();
            for order in ORDERS {
                let sampler = Sampler::new(&lengths, batch, 3, order, 5).unwrap();
                assert_eq!(sampler.steps(), rows * 3 / batch);
                let stream = all(&sampler).concat();
                for epoch in 0..3 {
                    let end = ((epoch + 1) * rows).min(stream.len());
                    let mut seen = stream[epoch * rows..end].to_vec();
                    seen.sort_unstable();
                    seen.dedup();
                    assert_eq!(seen.len(), end - epoch * rows, "{order:?} {rows} {batch} {epoch}");
                }
            }
        }
    }

    #[test]
    fn orders_depend_on_seed_and_epoch() {
        let lengths: Vec<usize> = (0..64).collect();
        for order in [Order::Shuffled, Order::Bucketed] {
            let make = |seed| all(&Sampler::new(&lengths, 8, 2, order, seed).unwrap());
            assert_eq!(make(1), make(1));
            assert_ne!(make(1), make(2));
            assert_ne!(make(1)[..8], make(1)[8..]);
        }
        // A later epoch's order does not depend on how many there are.
        let two = all(&Sampler::new(&lengths, 8, 2, Order::Shuffled, 3).unwrap());
        let five = all(&Sampler::new(&lengths, 8, 5, Order::Shuffled, 3).unwrap());
        assert_eq!(two[..], five[..16]);
    }

    #[test]
    fn buckets_hold_similar_lengths() {
        let lengths: Vec<usize> = (0..1600).map(|row| (row * 7919) % 200 + 1).collect();
        let padding = |order| {
            let batches = all(&Sampler::new(&lengths, 32, 1, order, 0).unwrap());
            let padded = |rows: &Vec<u32>| {
                let longest = rows.iter().map(|&row| lengths[row as usize]).max().unwrap();
                rows.iter().map(|&row| longest - lengths[row as usize]).sum::<usize>()
            };
            let longest_first: Vec<usize> = batches.iter().map(|rows| lengths[rows[0] as usize]).collect();
            (batches.iter().map(padded).sum::<usize>(), longest_first.is_sorted())
        };
        let (shuffled, _) = padding(Order::Shuffled);
        let (bucketed, sorted) = padding(Order::Bucketed);
        assert!(bucketed * 10 < shuffled, "{bucketed} of {shuffled}");
        assert!(!sorted, "batches come in random order");
    }

    #[test]
    fn too_little_data_is_an_error() {
        let error = Sampler::new(&[1; 10], 32, 3, Order::Stored, 0).unwrap_err();
        assert_eq!(error.message(), "10 examples in 3 epochs do not fill one batch of 32");
        assert!(Sampler::new(&[], 1, 3, Order::Stored, 0).is_err());
    }

    #[test]
    fn the_loader_hands_out_steps() {
        let sampler = Arc::new(Sampler::new(&[1; 10], 2, 1, Order::Stored, 0).unwrap());
        let loader = Loader::new(sampler, 1..4);
        let mut steps = loader.iter();
        assert_eq!(steps.next().unwrap().unwrap().rows, [2, 3]);
        assert_eq!((steps.progress().items_processed, steps.progress().items_total), (1, 3));
        let slice = loader.slice(2, 9);
        assert_eq!(slice.num_items(), 1);
        assert_eq!(slice.to_device(&Device::flex()).iter().next().unwrap().unwrap().progress.step, 3);
    }
}
