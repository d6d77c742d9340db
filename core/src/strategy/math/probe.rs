//! Labels predicted from embeddings: probes, which say what the labels of similar examples, or a linear function, make of an example.
//!
//! Source: EleutherAI/w2s, `probe.py`, `topo.py` and `logistic.py`, generalised to K classes so that K = 2 gives the published numbers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::{Nearness, Neighbours, Points, nearest};
use crate::strategy::{Batch, ExampleId, Pool, Selection};

/// Labels that were computed once for every example.
#[derive(Debug, Clone, Default)]
pub struct LabelTable(BTreeMap<ExampleId, Vec<f32>>);

impl LabelTable {
    /// Labels of the pool's examples, in their order.
    pub fn new(pool: &Pool, labels: Vec<Vec<f32>>) -> Self {
        Self(pool.ids.iter().copied().zip(labels).collect())
    }

    /// The labels of a batch `[B, K]`: `selected` where the own label is trusted and for unknown examples, the table's elsewhere.
    pub fn relabel(&self, batch: &Batch, selection: &Selection, selected: Tensor<2>) -> Tensor<2> {
        let [rows, classes] = selected.dims();
        let zeros = vec![0.0; classes];
        let found: Vec<Option<&Vec<f32>>> = batch.ids.iter().map(|id| self.0.get(id)).collect();
        let known: Vec<f32> = found.iter().map(|label| f32::from(u8::from(label.is_some()))).collect();
        let labels: Vec<f32> = found.iter().flat_map(|label| label.unwrap_or(&zeros)).copied().collect();
        let device = selected.device();
        let labels = Tensor::<2>::from_data(TensorData::new(labels, [rows, classes]), &device);
        let unknown = Tensor::<1>::from_floats(known.as_slice(), &device).equal_elem(0.0);
        let relabelled = labels.mask_where(unknown.unsqueeze_dim::<2>(1).expand([rows, classes]), selected.clone());
        where_weak(selection, relabelled, selected)
    }
}

/// `refined` in rows whose weak label stands (`own` is 0), `selected` in the others; `[B, K]`.
pub fn where_weak(selection: &Selection, refined: Tensor<2>, selected: Tensor<2>) -> Tensor<2> {
    let weak = selection.own.clone().equal_elem(0.0).unsqueeze_dim::<2>(1).expand(selected.dims());
    selected.mask_where(weak, refined)
}

/// A row's likeliest class, the lowest of equals.
pub fn likeliest(row: &[f32]) -> usize {
    row.iter().enumerate().fold((0, f32::MIN), |best, (class, p)| if *p > best.1 { (class, *p) } else { best }).0
}

/// How far two labels are apart: total variation ½ Σₖ |aₖ − bₖ|, which is |a₁ − b₁| for two classes.
pub fn disagreement(a: &[f32], b: &[f32]) -> f64 {
    0.5 * a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum::<f64>()
}

/// Mean label of each point's neighbours.
fn mean_labels(labels: &[Vec<f32>], neighbours: &Neighbours, points: usize) -> Vec<Vec<f32>> {
    let mean = |point: usize| {
        let among = neighbours.of(point);
        let share = |class: usize| among.iter().map(|row| f64::from(labels[*row as usize][class])).sum::<f64>();
        (0..labels[0].len()).map(|class| (share(class) / among.len() as f64) as f32).collect()
    };
    if labels.is_empty() || neighbours.each() == 0 { Vec::new() } else { (0..points).map(mean).collect() }
}

/// Mean label of the `k` points nearest to each point, itself among them.
///
/// Source: EleutherAI/w2s, `KnnProbe`.
pub fn knn_labels(points: &Points, labels: &[Vec<f32>], k: usize) -> Vec<Vec<f32>> {
    mean_labels(labels, &nearest(points, points, k, Nearness::Euclidean, true), points.len())
}

/// TopoCC: the points that hang together with many of their class, in ascending order.
///
/// An edge leads from each point to its `k` nearest others. Per class of the (hardened) labels only edges that leave a point of the class
/// count, and the class's largest strongly connected component stays; of equally large ones that of the earliest point.
///
/// Source: Wu et al. 2020, A Topological Filter for Learning with Label Noise, in the form of EleutherAI/w2s, `topo_cc`.
pub fn topo_cc(points: &Points, labels: &[Vec<f32>], k: usize) -> Vec<usize> {
    let classes: Vec<usize> = labels.iter().map(|label| likeliest(label)).collect();
    let graph = nearest(points, points, k, Nearness::Euclidean, false);
    // A point of another class has no edge of its own and lies on no cycle: following edges inside the class alone changes nothing.
    let class = |point: usize| classes[point];
    let component = components(points.len(), |from| {
        graph.of(from).iter().map(|to| *to as usize).filter(move |to| class(*to) == class(from))
    });
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    for component in &component {
        *sizes.entry(*component).or_default() += 1;
    }
    let mut largest: BTreeMap<usize, usize> = BTreeMap::new();
    for (point, class) in classes.iter().enumerate() {
        let best = largest.entry(*class).or_insert(component[point]);
        if sizes[&component[point]] > sizes[best] {
            *best = component[point];
        }
    }
    (0..points.len()).filter(|point| largest.get(&classes[*point]) == Some(&component[*point])).collect()
}

/// The strongly connected component of each of `count` nodes, as a number (Tarjan 1972, without recursion).
fn components<E: Iterator<Item = usize>>(count: usize, edges: impl Fn(usize) -> E) -> Vec<usize> {
    const NEW: usize = usize::MAX;
    let (mut order, mut low, mut component) = (vec![NEW; count], vec![0; count], vec![NEW; count]);
    let (mut visited, mut found) = (0, 0);
    let mut open = Vec::new();
    for start in 0..count {
        let mut path: Vec<(usize, E)> = Vec::new();
        let mut enter = (order[start] == NEW).then_some(start);
        loop {
            if let Some(node) = enter.take() {
                (order[node], low[node]) = (visited, visited);
                visited += 1;
                open.push(node);
                path.push((node, edges(node)));
            }
            let Some((node, rest)) = path.last_mut() else { break };
            let node = *node;
            if let Some(to) = rest.next() {
                if order[to] == NEW {
                    enter = Some(to);
                } else if component[to] == NEW {
                    low[node] = low[node].min(order[to]);
                }
                continue;
            }
            if low[node] == order[node] {
                while let Some(member) = open.pop() {
                    component[member] = found;
                    if member == node {
                        break;
                    }
                }
                found += 1;
            }
            path.pop();
            if let Some((above, _)) = path.last() {
                low[*above] = low[*above].min(low[node]);
            }
        }
    }
    component
}

/// TopoCC and its ζ-filter: the points that stay, in ascending order.
///
/// Of the points of [`topo_cc`] those leave whose label is farthest from the mean label of their `k_zeta` nearest others among them, until
/// `contamination` of all points are gone, those that [`topo_cc`] dropped included; none leaves if it dropped more.
///
/// Source: EleutherAI/w2s, `topofilter`.
pub fn topo_filter(points: &Points, labels: &[Vec<f32>], k_cc: usize, k_zeta: usize, contamination: f64) -> Vec<usize> {
    let core = topo_cc(points, labels, k_cc);
    let (near, own) = (points.select(&core), core.iter().map(|row| labels[*row].clone()).collect::<Vec<_>>());
    let means = mean_labels(&own, &nearest(&near, &near, k_zeta, Nearness::Euclidean, false), core.len());
    let dropped = points.len() - core.len();
    let surplus = super::share_of(contamination, points.len()).saturating_sub(dropped);
    let gone = farthest(&own, &means, surplus);
    core.into_iter().enumerate().filter(|(index, _)| !gone.contains(index)).map(|(_, point)| point).collect()
}

/// Mean label of the `k_zeta` points nearest to each point among those of [`topo_cc`].
///
/// Source: EleutherAI/w2s, `topolabel`.
pub fn topo_labels(points: &Points, labels: &[Vec<f32>], k_cc: usize, k_zeta: usize) -> Vec<Vec<f32>> {
    let core = topo_cc(points, labels, k_cc);
    let own: Vec<Vec<f32>> = core.iter().map(|row| labels[*row].clone()).collect();
    let neighbours = nearest(points, &points.select(&core), k_zeta, Nearness::Euclidean, true);
    mean_labels(&own, &neighbours, points.len())
}

/// The `count` rows in which two lists of labels disagree most; of equals the earlier.
pub fn farthest(a: &[Vec<f32>], b: &[Vec<f32>], count: usize) -> BTreeSet<usize> {
    let mut order: Vec<(f64, usize)> =
        a.iter().zip(b).map(|(a, b)| disagreement(a, b)).enumerate().map(|(row, far)| (far, row)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    order.into_iter().take(count).map(|(_, row)| row).collect()
}

/// A fitted logistic regression: P(k) = softmax(Wx + b)ₖ. With two classes class 0 has logit 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    classes: usize,
    /// Per free class: H weights, then the bias, of points about `origin`.
    weights: Vec<Vec<f64>>,
    origin: Vec<f64>,
}

impl Logistic {
    /// Fits labels `[N][K]` to points: minimises mean cross-entropy + l2 · ‖W‖², the biases free.
    ///
    /// L-BFGS in double precision with the same bits for any number of threads; numbers of very different size are no trouble, because
    /// each is scaled by its curvature first (which leaves the minimum where it is).
    ///
    /// # Errors
    /// A fit that does not converge.
    ///
    /// Source: EleutherAI/w2s, `logistic.py`.
    pub fn fit(points: &Points, labels: &[Vec<f32>], l2: f64) -> Result<Self, String> {
        let (classes, width, origin) = (labels.first().map_or(2, Vec::len), points.width(), points.mean());
        let mut variance = vec![0.0; width];
        for row in points.rows() {
            for ((sum, value), origin) in variance.iter_mut().zip(row).zip(&origin) {
                *sum += (f64::from(*value) - origin).powi(2) / points.len() as f64;
            }
        }
        let scale: Vec<f64> = variance
            .iter()
            .map(|variance| if *variance > 0.0 { (0.25 * variance + 2.0 * l2).sqrt().recip() } else { 0.0 })
            .collect();
        let problem = Regression {
            points: &points.clone().moved(&origin, |column| scale[column]),
            labels,
            free: if classes == 2 { 1 } else { classes },
            penalty: scale.iter().map(|scale| l2 * scale * scale).collect(),
        };
        let solution = minimise(vec![0.0; problem.free * (width + 1)], |at| problem.evaluate(at))
            .ok_or("the logistic regression does not converge; raise `l2`")?;
        let unscaled = |row: &[f64]| row.iter().zip(scale.iter().chain([&1.0])).map(|(w, scale)| w * scale).collect();
        Ok(Self { classes, weights: solution.chunks_exact(width + 1).map(unscaled).collect(), origin })
    }

    /// Probabilities `[N][K]` of points.
    pub fn predict(&self, points: &Points) -> Vec<Vec<f32>> {
        let of = |row: &[f32]| {
            let logit = |weights: &Vec<f64>| {
                let terms =
                    row.iter().zip(&self.origin).zip(weights).map(|((x, origin), w)| w * (f64::from(*x) - origin));
                terms.sum::<f64>() + weights[row.len()]
            };
            let free: Vec<f64> = self.weights.iter().map(logit).collect();
            softmax_of(&free, self.classes).0.into_iter().map(|p| p as f32).collect()
        };
        points.rows().map(of).collect()
    }
}

/// Probabilities of all classes from the logits of the free ones, and the logarithm of their denominator.
fn softmax_of(free: &[f64], classes: usize) -> (Vec<f64>, f64) {
    let mut logits = vec![0.0; classes - free.len()];
    logits.extend_from_slice(free);
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    let normaliser = largest + sum.ln();
    (logits.into_iter().map(|logit| (logit - normaliser).exp()).collect(), normaliser)
}

/// The function that a logistic regression minimises.
struct Regression<'a> {
    points: &'a Points,
    labels: &'a [Vec<f32>],
    /// Classes with weights of their own: one of two, all of more.
    free: usize,
    /// l2 of each weight.
    penalty: Vec<f64>,
}

impl Regression<'_> {
    /// Value and gradient.
    fn evaluate(&self, at: &[f64]) -> (f64, Vec<f64>) {
        /// Rows that are summed one after the other. Fixed, because it decides the order of additions.
        const CHUNK: usize = 256;
        let (width, count) = (self.points.width(), self.points.len());
        let sum = |chunk: usize| {
            let (mut value, mut gradient) = (0.0, vec![0.0; at.len()]);
            for row in chunk * CHUNK..count.min((chunk + 1) * CHUNK) {
                let (point, label) = (self.points.row(row), &self.labels[row]);
                let logits: Vec<f64> = at.chunks_exact(width + 1).map(|w| dot(point, w) + w[width]).collect();
                let fixed = label.len() - self.free;
                let (p, normaliser) = softmax_of(&logits, label.len());
                // A label may sum to a little more or less than one.
                let total: f64 = label.iter().map(|y| f64::from(*y)).sum();
                value += total * normaliser;
                for (class, gradient) in gradient.chunks_exact_mut(width + 1).enumerate() {
                    let y = f64::from(label[fixed + class]);
                    value -= y * logits[class];
                    let slope = total * p[fixed + class] - y;
                    for (gradient, x) in gradient.iter_mut().zip(point) {
                        *gradient += slope * f64::from(*x);
                    }
                    gradient[width] += slope;
                }
            }
            (value, gradient)
        };
        let parts: Vec<(f64, Vec<f64>)> = (0..count.div_ceil(CHUNK)).into_par_iter().map(sum).collect();
        let (mut value, mut gradient) = (0.0, vec![0.0; at.len()]);
        for (part, slopes) in &parts {
            value += part / count as f64;
            gradient.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope / count as f64);
        }
        for (weights, gradient) in at.chunks_exact(width + 1).zip(gradient.chunks_exact_mut(width + 1)) {
            for ((weight, gradient), penalty) in weights.iter().zip(gradient).zip(&self.penalty) {
                value += penalty * weight * weight;
                *gradient += 2.0 * penalty * weight;
            }
        }
        (value, gradient)
    }
}

/// x · w in lanes, so that it compiles to vector instructions; `w` may be longer.
fn dot(x: &[f32], w: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (xs, ws) = (x.chunks_exact(LANES), w[..x.len()].chunks_exact(LANES));
    let rest: f64 = xs.remainder().iter().zip(ws.remainder()).map(|(x, w)| f64::from(*x) * w).sum();
    for (x, w) in xs.zip(ws) {
        for lane in 0..LANES {
            sums[lane] += f64::from(x[lane]) * w[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Minimises a smooth convex function of value and gradient by L-BFGS (Nocedal and Wright 2006, algorithm 7.5) with backtracking.
/// `None` if the gradient does not vanish.
fn minimise(mut at: Vec<f64>, f: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Option<Vec<f64>> {
    const HISTORY: usize = 10;
    const STEPS: usize = 2000;
    const GRADIENT: f64 = 1e-8;
    const DECREASE: f64 = 1e-4;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let add = |a: &mut [f64], factor: f64, b: &[f64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
    let (mut value, mut gradient) = f(&at);
    let mut pairs: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::new();
    for _ in 0..STEPS {
        if gradient.iter().all(|slope| slope.abs() <= GRADIENT) {
            return Some(at);
        }
        let mut direction = gradient.clone();
        let mut factors = Vec::new();
        for (step, change, curvature) in pairs.iter().rev() {
            let factor = product(step, &direction) / curvature;
            add(&mut direction, -factor, change);
            factors.push(factor);
        }
        if let Some((_, change, curvature)) = pairs.back() {
            let scale = curvature / product(change, change);
            direction.iter_mut().for_each(|value| *value *= scale);
        }
        for ((step, change, curvature), factor) in pairs.iter().zip(factors.iter().rev()) {
            let correction = factor - product(change, &direction) / curvature;
            add(&mut direction, correction, step);
        }
        let slope = product(&gradient, &direction);
        // Halved until the value falls by a part of what the slope promises, or no digit of it is left.
        let mut length = 1.0;
        let (next, next_value, next_gradient) = loop {
            let mut next = at.clone();
            add(&mut next, -length, &direction);
            let (next_value, next_gradient) = f(&next);
            if next_value <= value - DECREASE * length * slope {
                break (next, next_value, next_gradient);
            }
            length *= 0.5;
            if length < 1e-12 {
                // So flat that rounding decides: as good as it gets.
                let flat = gradient.iter().all(|slope| slope.abs() <= 100.0 * GRADIENT);
                return flat.then_some(at);
            }
        };
        let step: Vec<f64> = next.iter().zip(&at).map(|(next, at)| next - at).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(next, now)| next - now).collect();
        let curvature = product(&step, &change);
        if curvature > 0.0 {
            pairs.push_back((step, change, curvature));
            if pairs.len() > HISTORY {
                pairs.pop_front();
            }
        }
        (at, value, gradient) = (next, next_value, next_gradient);
    }
    None
}

#[cfg(test)]
mod tests {
    //! Expected numbers are from the published functions (PyTorch, scipy) in float64 on the same points.

    use super::*;

    /// Sixty points and soft labels that follow them, with noise.
    fn data() -> (Points, Vec<Vec<f32>>) {
        let x = |i: usize, j: usize| (1.3 * i as f64 + 2.1 * j as f64 + 0.7 * (i * j) as f64).sin();
        let rows: Vec<Vec<f32>> = (0..60).map(|i| (0..3).map(|j| x(i, j) as f32).collect()).collect();
        let label = |i: usize| 1.0 / (1.0 + (-(3.0 * x(i, 0) - 2.0 * x(i, 1) + 1.5 * (5.0 * i as f64).sin())).exp());
        let labels = (0..60).map(|i| vec![(1.0 - label(i)) as f32, label(i) as f32]).collect();
        (Points::new(&rows).unwrap(), labels)
    }

    #[track_caller]
    fn close(labels: &[Vec<f32>], class: usize, expected: &[f64], tolerance: f64) {
        for (row, expected) in expected.iter().enumerate() {
            let got = f64::from(labels[row][class]);
            assert!((got - expected).abs() <= tolerance, "row {row}: {got} instead of {expected}");
        }
    }

    /// What is not in a list of kept rows.
    fn dropped(kept: &[usize]) -> Vec<usize> {
        (0..60).filter(|row| !kept.contains(row)).collect()
    }

    #[test]
    fn knn_labels_are_the_published_ones() {
        let (points, labels) = data();
        let expected = [0.210444474, 0.949028202, 0.80544326, 0.063087624, 0.471032865, 0.865825258];
        let near = knn_labels(&points, &labels, 5);
        close(&near, 1, &expected, 1e-6);
        assert_eq!(farthest(&near, &labels, 6), [27, 31, 48, 51, 58, 59].into());
        // With all points as neighbours every label is the mean; more than there are means all.
        assert_eq!(knn_labels(&points, &labels, 60), knn_labels(&points, &labels, 1000));
    }

    #[test]
    fn topo_cc_is_the_published_one() {
        let (points, labels) = data();
        let two = [0, 5, 7, 12, 19, 21, 26, 28, 35, 40, 47, 49, 54, 56];
        let three = [0, 3, 5, 7, 9, 12, 16, 19, 21, 26, 28, 35, 37, 38, 40, 44, 47, 49, 54, 56, 59];
        assert_eq!(topo_cc(&points, &labels, 2), two);
        assert_eq!(topo_cc(&points, &labels, 3), three);
        assert_eq!(dropped(&topo_cc(&points, &labels, 5)), [42, 51]);
    }

    #[test]
    fn topo_filter_and_labels_are_the_published_ones() {
        let (points, labels) = data();
        let half = [
            5, 7, 12, 15, 18, 19, 21, 22, 23, 24, 27, 29, 30, 31, 32, 34, 38, 41, 42, 43, 44, 46, 48, 49, 50, 51, 52,
            54, 58, 59,
        ];
        assert_eq!(dropped(&topo_filter(&points, &labels, 5, 4, 0.5)), half);
        // The components alone dropped more than was asked for.
        assert_eq!(dropped(&topo_filter(&points, &labels, 5, 4, 0.02)), [42, 51]);
        let expected =
            [0.121789475, 0.947413086, 0.847828911, 0.038211686, 0.542572293, 0.842437538, 0.399249189, 0.842437538];
        close(&topo_labels(&points, &labels, 5, 4), 1, &expected, 1e-6);
    }

    #[test]
    fn components_are_strongly_connected() {
        // Two cycles, joined one way, and two nodes that no cycle holds; the second is entered before the first is closed.
        let edges: [&[usize]; 7] = [&[1], &[2, 3], &[0], &[4], &[5, 6], &[3], &[]];
        let found = components(7, |node| edges[node].iter().copied());
        assert!(found[0] == found[1] && found[1] == found[2]);
        assert!(found[3] == found[4] && found[4] == found[5]);
        assert!(found[0] != found[3] && found[6] != found[3] && found[6] != found[0]);
        // A long chain must not need a deep stack.
        let chain = components(200_000, |node| std::iter::once(if node < 199_999 { node + 1 } else { 0 }));
        assert!(chain.iter().all(|component| *component == chain[0]));
    }

    #[test]
    fn points_that_hang_on_nothing_stay_as_the_first_of_their_class() {
        let points = Points::new(&[vec![0.0], vec![1.0], vec![2.0]]).unwrap();
        let labels = vec![vec![0.1, 0.9], vec![0.8, 0.2], vec![0.3, 0.7]];
        assert_eq!(topo_cc(&points, &labels, 1), [0, 1]);
        assert_eq!(topo_cc(&points.select(&[1]), &labels[1..2], 5), [0]);
        assert_eq!(topo_cc(&Points::default(), &[], 5), [] as [usize; 0]);
    }

    #[test]
    fn the_logistic_probe_is_the_published_one() {
        let (points, labels) = data();
        let fit = |points: &Points, labels: &[Vec<f32>], l2| Logistic::fit(points, labels, l2).unwrap().predict(points);
        close(&fit(&points, &labels, 1e-3), 1, &[0.175132187, 0.955336041, 0.765852549, 0.054206234], 1e-6);
        close(&fit(&points, &labels, 1e-1), 1, &[0.404003015, 0.699993315, 0.586875861, 0.315711066], 1e-6);
        // Columns of very different size and mean: the penalty is on the weights as they are.
        let (factor, shift) = ([100.0, 1.0, 0.01], [50.0, -3.0, 2.0]);
        let origin: Vec<f64> = (0..3).map(|column| -shift[column] / factor[column]).collect();
        let stretched = points.clone().moved(&origin, |column| factor[column]);
        let expected = [0.170761677, 0.958581199, 0.771371444, 0.050940279];
        close(&fit(&stretched, &labels, 1e-3), 1, &expected, 2e-6);
    }

    #[test]
    fn three_classes_have_weights_of_their_own() {
        let (points, _) = data();
        let label = |(i, x): (usize, &[f32])| {
            let third = f64::from(x[2]) * 0.5 + (5.0 * i as f64).sin();
            softmax_of(&[2.0 * f64::from(x[0]), -f64::from(x[1]), third], 3).0.into_iter().map(|p| p as f32).collect()
        };
        let labels: Vec<Vec<f32>> = points.rows().enumerate().map(label).collect();
        let got = Logistic::fit(&points, &labels, 1e-2).unwrap().predict(&points);
        for (row, expected) in
            [[0.46623661, 0.210560897, 0.323202492], [0.660764854, 0.246388809, 0.092846338]].iter().enumerate()
        {
            for class in 0..3 {
                assert!((f64::from(got[row][class]) - expected[class]).abs() < 1e-6, "{row}: {:?}", got[row]);
            }
        }
    }

    #[test]
    fn hard_labels_that_a_plane_divides_are_fitted() {
        let (points, _) = data();
        let hard = |x: &[f32]| if x[0] > 0.0 { vec![0.0, 1.0] } else { vec![1.0, 0.0] };
        let labels: Vec<Vec<f32>> = points.rows().map(hard).collect();
        for l2 in [0.0, 1e-6] {
            let got = Logistic::fit(&points, &labels, l2).unwrap().predict(&points);
            assert!(got.iter().zip(&labels).all(|(got, label)| disagreement(got, label) < 0.5), "l2 {l2}");
        }
        // A column that never changes says nothing and divides by nothing.
        let flat = Points::new(&vec![vec![4.0]; 4]).unwrap();
        let labels = vec![vec![0.4, 0.6], vec![0.2, 0.8], vec![0.4, 0.6], vec![0.2, 0.8]];
        close(&Logistic::fit(&flat, &labels, 0.0).unwrap().predict(&flat), 1, &[0.7; 4], 1e-6);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit_of_a_fit() {
        let (points, labels) = data();
        let repeated: Vec<usize> = (0..3000).map(|row| row % 60).collect();
        let many = points.select(&repeated);
        let many_labels: Vec<Vec<f32>> = repeated.iter().map(|row| labels[*row].clone()).collect();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Logistic::fit(&many, &many_labels, 1e-3).unwrap())
        };
        let one = with(1);
        assert_eq!(one, with(2));
        assert_eq!(one, with(3));
    }
}
