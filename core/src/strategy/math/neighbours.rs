//! Points on the host, and the nearest of them.

use std::cmp::Ordering;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::strategy::Pool;

/// Embeddings on the host: N points of equal width H.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Points {
    width: usize,
    values: Vec<f32>,
}

impl Points {
    /// Points from rows.
    ///
    /// # Errors
    /// Rows of different widths, or numbers that are not finite.
    pub fn new(rows: &[Vec<f32>]) -> Result<Self, String> {
        let width = rows.first().map_or(0, Vec::len);
        for (row, point) in rows.iter().enumerate() {
            if point.len() != width {
                return Err(format!("embedding {row} has {} numbers and the first has {width}", point.len()));
            }
            if !point.iter().all(|value| value.is_finite()) {
                return Err(format!("embedding {row} is not finite"));
            }
        }
        Ok(Self { width, values: rows.concat() })
    }

    /// The embeddings of everything that will be trained on.
    ///
    /// # Errors
    /// [`Points::new`]'s, and a pool without embeddings or with too few of them.
    pub fn of(pool: &Pool) -> Result<Self, String> {
        match &pool.embeddings {
            Some(rows) if rows.len() == pool.ids.len() => Self::new(rows),
            Some(rows) => Err(format!("there are {} embeddings for {} examples", rows.len(), pool.ids.len())),
            None => Err("it needs embeddings of the strong model, which were not provided".to_owned()),
        }
    }

    /// Number of points N.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers per point H.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One point.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// All points, in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// Some of the points.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let values = indices.iter().flat_map(|&index| self.row(index)).copied().collect();
        Self { width: self.width, values }
    }

    /// Mean of the points, H numbers; zeros if there is none.
    pub fn mean(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.width];
        for row in self.rows() {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        sums.into_iter().map(|sum| sum / self.len().max(1) as f64).collect()
    }

    /// The points x as (x − origin) · scale, number by number.
    #[must_use]
    pub fn moved(mut self, origin: &[f64], scale: impl Fn(usize) -> f64) -> Self {
        let scale: Vec<f64> = (0..self.width).map(scale).collect();
        for row in self.values.chunks_exact_mut(self.width.max(1)) {
            for ((value, origin), scale) in row.iter_mut().zip(origin).zip(&scale) {
                *value = ((f64::from(*value) - origin) * scale) as f32;
            }
        }
        self
    }

    /// The points divided by their Euclidean norms; the point 0 stays.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        for row in self.values.chunks_exact_mut(self.width.max(1)) {
            let norm = squared_norm(row).sqrt().max(1e-12);
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
        }
        self
    }

    /// The points with one more number each.
    fn extended(self, number: impl Fn(&[f32]) -> f32) -> Self {
        let width = self.width + 1;
        let mut values = Vec::with_capacity(self.len() * width);
        for row in self.rows() {
            values.extend_from_slice(row);
            values.push(number(row));
        }
        Self { width, values }
    }

    fn into_tensor(self) -> Tensor<2> {
        let shape = [self.len(), self.width];
        Tensor::from_data(TensorData::new(self.values, shape), &Device::flex())
    }
}

fn squared_norm(row: &[f32]) -> f64 {
    row.iter().map(|value| f64::from(*value).powi(2)).sum()
}

/// What makes points near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearness {
    /// A large dot product.
    Dot,
    /// A small Euclidean distance.
    Euclidean,
}

/// The nearest keys of every query, the nearest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Neighbours {
    each: usize,
    keys: Vec<u32>,
    scores: Vec<f32>,
}

impl Neighbours {
    /// Neighbours per query.
    pub fn each(&self) -> usize {
        self.each
    }

    /// The neighbours of a query: their indices among the keys.
    pub fn of(&self, query: usize) -> &[u32] {
        &self.keys[query * self.each..][..self.each]
    }

    /// What [`of`](Neighbours::of) was ranked by: dot products q · k, or q · k − ‖k‖² / 2 about the keys' mean for Euclidean distance.
    pub fn scores(&self, query: usize) -> &[f32] {
        &self.scores[query * self.each..][..self.each]
    }
}

/// The `k` nearest keys of every query (all of them, if there are fewer). Of equally near keys the earlier comes first.
///
/// `own` says whether a query may find the key of its own index, which is itself where the queries are the keys. Exact, with the same bits
/// for any number of threads. Time grows with queries × keys; memory does not, because products are taken tile by tile.
pub fn nearest(queries: &Points, keys: &Points, k: usize, by: Nearness, own: bool) -> Neighbours {
    /// One tile of products is 8 MiB.
    const TILE: (usize, usize) = (1024, 2048);
    let each = k.min(if own { keys.len() } else { keys.len().saturating_sub(1) });
    if each == 0 || queries.is_empty() {
        return Neighbours { each: 0, ..Neighbours::default() };
    }
    let (count, total) = (queries.len(), keys.len());
    let (queries, keys) = match by {
        Nearness::Dot => (queries.clone(), keys.clone()),
        Nearness::Euclidean => {
            // ‖q − k‖² = ‖q‖² − 2 (q · k − ‖k‖² / 2): the bracket is a dot product with one more number per point. Distances do not depend
            // on the origin, and digits are lost to large norms, so the origin is the mean.
            let origin = keys.mean();
            let about = |points: &Points| points.clone().moved(&origin, |_| 1.0);
            let half_norm = |row: &[f32]| (-0.5 * squared_norm(row)) as f32;
            (about(queries).extended(|_| 1.0), about(keys).extended(half_norm))
        }
    };
    let (queries, keys) = (queries.into_tensor(), keys.into_tensor().transpose());
    let mut found =
        Neighbours { each, keys: Vec::with_capacity(count * each), scores: Vec::with_capacity(count * each) };
    for first_query in (0..count).step_by(TILE.0) {
        let height = TILE.0.min(count - first_query);
        let some = queries.clone().narrow(0, first_query, height);
        let mut best = vec![Best::new(each); height];
        for first_key in (0..total).step_by(TILE.1) {
            let width = TILE.1.min(total - first_key);
            let tile: Tensor<2> = some.clone().matmul(keys.clone().narrow(1, first_key, width));
            let tile = tile.into_data();
            let Ok(scores) = tile.as_slice::<f32>() else { unreachable!("products of f32 are f32") };
            best.par_iter_mut().zip(scores.par_chunks_exact(width)).enumerate().for_each(|(row, (best, scores))| {
                let without = if own { usize::MAX } else { first_query + row };
                best.look_at(scores, first_key, without);
            });
        }
        for best in &mut best {
            for (score, key) in best.take() {
                found.keys.push(*key);
                found.scores.push(*score);
            }
        }
    }
    found
}

/// The best so far of a stream of scores.
#[derive(Clone)]
struct Best {
    wanted: usize,
    /// More than are wanted, so that most of the time nothing is sorted.
    candidates: Vec<(f32, u32)>,
    /// Scores up to this one are not among the best.
    bar: f32,
}

impl Best {
    fn new(wanted: usize) -> Self {
        Self { wanted, candidates: Vec::with_capacity(2 * wanted), bar: f32::NEG_INFINITY }
    }

    /// Looks at scores of keys in ascending order from `first` on.
    fn look_at(&mut self, scores: &[f32], first: usize, without: usize) {
        const LANES: usize = 32;
        for (chunk, scores) in scores.chunks(LANES).enumerate() {
            // Hardly any chunk holds a score above the bar, and without branches the comparison is a vector instruction.
            if !scores.iter().fold(false, |above, score| above | (*score > self.bar)) {
                continue;
            }
            for (lane, &score) in scores.iter().enumerate() {
                let key = first + chunk * LANES + lane;
                if score > self.bar && key != without {
                    if self.candidates.len() == 2 * self.wanted {
                        self.prune();
                    }
                    // Pruning may have raised the bar above this score.
                    if score > self.bar {
                        self.candidates.push((score, key as u32));
                    }
                }
            }
        }
    }

    fn prune(&mut self) {
        // Keys come in ascending order: a later one that equals the bar is behind all that are kept.
        let (_, last, _) = self.candidates.select_nth_unstable_by(self.wanted - 1, better);
        self.bar = last.0;
        self.candidates.truncate(self.wanted);
    }

    fn take(&mut self) -> &[(f32, u32)] {
        self.candidates.sort_unstable_by(better);
        self.candidates.truncate(self.wanted);
        &self.candidates
    }
}

fn better(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::math::draw;

    fn random(count: usize, width: usize, seed: u64) -> Points {
        let number = |index: usize| (draw(seed, index as u64) >> 40) as f32 / (1u64 << 24) as f32 - 0.4;
        Points { width, values: (0..count * width).map(number).collect() }
    }

    /// Every key ranked in double precision.
    fn slowly(query: &[f32], keys: &Points, by: Nearness, without: Option<usize>) -> Vec<(f64, u32)> {
        let score = |key: &[f32]| -> f64 {
            let pairs = query.iter().zip(key).map(|(q, k)| (f64::from(*q), f64::from(*k)));
            match by {
                Nearness::Dot => pairs.map(|(q, k)| q * k).sum(),
                Nearness::Euclidean => -pairs.map(|(q, k)| (q - k).powi(2)).sum::<f64>(),
            }
        };
        let mut all: Vec<(f64, u32)> = keys
            .rows()
            .enumerate()
            .filter(|(key, _)| Some(*key) != without)
            .map(|(key, row)| (score(row), key as u32))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        all
    }

    #[test]
    fn finds_what_a_full_search_finds() {
        // More points than one tile is high and wide, and a mean far from the origin.
        let keys = random(2300, 7, 1).moved(&[-30.0; 7], |_| 1.0);
        let queries = random(1100, 7, 2).moved(&[-30.0; 7], |_| 1.0);
        for by in [Nearness::Dot, Nearness::Euclidean] {
            let found = nearest(&queries, &keys, 6, by, true);
            let among = nearest(&keys, &keys, 6, by, false);
            for index in (0..1100).step_by(37) {
                let check = |found: &Neighbours, query: &[f32], without| {
                    let expected = slowly(query, &keys, by, without);
                    let all: std::collections::BTreeMap<u32, f64> =
                        expected.iter().map(|(score, key)| (*key, *score)).collect();
                    // In f32 two that are nearly equally near may change places.
                    for (key, (score, _)) in found.of(index).iter().zip(&expected) {
                        assert!((all[key] - score).abs() <= 1e-6 * score.abs().max(1.0), "{by:?} {index}: {key}");
                    }
                };
                check(&found, queries.row(index), None);
                check(&among, keys.row(index), Some(index));
                assert!(!among.of(index).contains(&(index as u32)));
            }
        }
    }

    #[test]
    fn a_point_is_its_own_nearest_and_the_earlier_of_equals_comes_first() {
        let points =
            Points::new(&[vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0], vec![0.5, 0.5], vec![1.0, 0.0]]).unwrap();
        let found = nearest(&points, &points, 3, Nearness::Euclidean, true);
        assert_eq!((found.of(0), found.of(4), found.of(1)[0]), (&[0, 2, 4][..], &[0, 2, 4][..], 1));
        let found = nearest(&points, &points, 2, Nearness::Dot, false);
        assert_eq!((found.of(0), found.of(2), found.of(4)), (&[2, 4][..], &[0, 4][..], &[0, 2][..]));
        assert_eq!(found.scores(0), [1.0, 1.0]);
        // Among many equals the first are kept, however often the candidates are pruned.
        let equal = Points { width: 1, values: vec![1.0; 5000] };
        assert_eq!(nearest(&equal, &equal, 3, Nearness::Dot, true).of(4999), [0, 1, 2]);
    }

    #[test]
    fn few_points_have_few_neighbours() {
        let points = random(3, 2, 5);
        assert_eq!(nearest(&points, &points, 10, Nearness::Dot, false).each(), 2);
        assert_eq!(nearest(&points, &points, 10, Nearness::Dot, true).each(), 3);
        assert_eq!(nearest(&points.select(&[1]), &points.select(&[1]), 10, Nearness::Dot, false).each(), 0);
        assert_eq!(nearest(&Points::default(), &points, 2, Nearness::Dot, true), Neighbours::default());
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let points = random(1500, 33, 8);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| nearest(&points, &points, 9, Nearness::Euclidean, false))
        };
        let one = with(1);
        for threads in [2, 3, 5] {
            assert!(with(threads) == one, "{threads} threads");
        }
    }

    #[test]
    #[ignore = "takes a minute of two cores: the largest search that a task asks for"]
    fn a_full_search_of_a_hundred_thousand() {
        let points = random(100_000, 384, 3).moved(&[0.1; 384], |_| 1.0).normalised();
        let found = nearest(&points, &points, 50, Nearness::Dot, false);
        for query in [0, 4711, 99_999] {
            let expected = slowly(points.row(query), &points, Nearness::Dot, Some(query));
            for (score, (expected, _)) in found.scores(query).iter().zip(&expected) {
                assert!((f64::from(*score) - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn points_are_checked() {
        assert!(Points::new(&[vec![1.0], vec![1.0, 2.0]]).unwrap_err().contains("embedding 1 has 2"));
        assert!(Points::new(&[vec![1.0], vec![f32::NAN]]).unwrap_err().contains("not finite"));
        assert!(Points::of(&Pool::default()).unwrap_err().contains("were not provided"));
        let points = Points::new(&[vec![3.0, 4.0], vec![0.0, 0.0]]).unwrap();
        assert_eq!(points.clone().normalised().row(0), [0.6, 0.8]);
        assert_eq!(points.clone().normalised().row(1), [0.0, 0.0]);
        assert_eq!(points.mean(), [1.5, 2.0]);
        assert_eq!((points.len(), points.width(), Points::default().len()), (2, 2, 0));
    }
}
