use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Batch, ExampleId, Form, Invalid, LabelRefiner, Memory, Needs, Pool, Selection, math::{self, Nearness, Points}, only_classes};

/// Mixes the label of each example that the student does not know with the labels of similar examples.
///
/// l(x) = α l_p(x) + (1 − α) Σⱼ aⱼ l_p(xⱼ) with a = softmax(z · zⱼ / τ) over the graph's examples (equations 1 and 2), where l_p is the selected
/// label: the student's own where it is trusted, else the weak one. Trusted labels stay as they are and take part in the sum; examples that
/// the selector dropped take no part, and where nobody is left the label stays.
///
/// With `normalize = "none"`, the formula to the letter, dot products of hidden states are in the thousands and a is one-hot: with a self-loop
/// nothing is smoothed, without one a single neighbour's label is copied. The same happens when no two embeddings are alike. `Memory` keeps
/// `one-hot attention`: the sum of the shares of one-hot rows over the batches looked at, and their number.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GraphSmoothing {
    /// Weight α of the example's own label. Origin: selective W2SG, implementation details (CoMatch has the same).
    pub alpha: f64,
    /// Temperature τ of the attention. Origin: selective W2SG, implementation details.
    pub tau: f64,
    /// What the graph holds: the batch, the batch and a bank of earlier ones, or the nearest of the whole data set. Origin: the batch in selective W2SG.
    pub scope: Scope,
    /// Examples that the bank remembers, with their embeddings and labels of then; for `scope = "bank"`. Origin: CoMatch on CIFAR-10, 2560.
    pub bank_size: usize,
    /// Nearest examples that are taken into account; for `scope = "dataset"`. Origin: EleutherAI/w2s, k of its kNN probe.
    pub neighbours: usize,
    /// Length of embeddings. Origin: CoMatch, whose α and τ the paper shares; the paper's formula has none.
    pub normalize: Normalize,
    /// What is subtracted from embeddings before that; over the data set both means are the data set's. Origin: original; the paper subtracts nothing.
    pub center: Center,
    /// Whether an example is its own neighbour. Origin: selective W2SG, whose sum runs over all examples.
    pub self_loop: bool,
    /// Whose embeddings; unless set, the student's of this step, and the pretrained model's for `scope = "dataset"`. Origin: selective W2SG, as far as it says.
    pub embedding: Option<Embedding>,
    /// What `prepare` computed from the data set.
    #[serde(skip)]
    data: Data,
}

/// What the graph holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The examples of the batch.
    #[default]
    Batch,
    /// The examples of the batch and of earlier ones, with the embeddings and labels that they had.
    Bank,
    /// The nearest examples of the whole data set, with the labels that they had last.
    Dataset,
}

/// Length of embeddings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Euclidean length 1: the attention depends on angles.
    #[default]
    L2,
    /// As they are.
    None,
}

/// What is subtracted from embeddings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Center {
    /// Nothing.
    #[default]
    None,
    /// The mean of the batch: hidden states of language models share a large component.
    BatchMean,
    /// A running mean of the batches' means, which keeps nine tenths of itself at each step.
    RunningMean,
}

/// Whose embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Embedding {
    /// The student's of this step.
    Current,
    /// The pretrained strong model's.
    Pretrained,
}

impl Default for GraphSmoothing {
    fn default() -> Self {
        Self {
            alpha: 0.9,
            tau: 0.1,
            scope: Scope::default(),
            bank_size: 2560,
            neighbours: 50,
            normalize: Normalize::default(),
            center: Center::default(),
            self_loop: true,
            embedding: None,
            data: Data::default(),
        }
    }
}

/// Name in `Memory` of what is known about one-hot attention: the sum of shares, and over how many batches.
const ONE_HOT: &str = "one-hot attention";
/// Every how many steps the attention is looked at, because looking waits for the device.
const LOOK_EVERY: usize = 16;
/// How much of itself the running mean keeps at each step.
const KEPT: f32 = 0.9;

/// What the data set says.
#[derive(Debug, Clone, Default)]
struct Data {
    /// Where each example is among the following.
    rows: BTreeMap<ExampleId, usize>,
    /// Embeddings as they are, for the batch and the bank.
    points: Points,
    /// The graph of the whole data set.
    graph: Graph,
}

/// Each example's neighbours with their attention, K weak labels and whether they count, row by row.
#[derive(Debug, Clone, Default)]
struct Graph {
    each: usize,
    neighbours: Vec<u32>,
    attention: Vec<f32>,
    labels: Vec<f32>,
    one_hot: f32,
}

/// Attention `[B, M]` of queries `[B, H]` to keys `[M, H]`: softmax(q · k / τ) over the keys that `allowed` `[B, M]` marks with 1; zeros where
/// there is none.
fn attention(queries: Tensor<2>, keys: Tensor<2>, allowed: Tensor<2>, tau: f64) -> Tensor<2> {
    let products = queries.matmul(keys.transpose());
    // Small enough to be no maximum of any dot product, and still a number.
    let products = products.mask_fill(allowed.clone().equal_elem(0.0), -1e30);
    let largest = products.clone().max_dim(1);
    let powers = ((products - largest) / tau).exp() * allowed;
    let sum = math::row_sums(powers.clone()).clamp_min(f32::MIN_POSITIVE);
    powers / sum
}

/// α l + (1 − α) A L: labels l `[B, K]` mixed with the nodes' labels L `[M, K]` by attention A `[B, M]`. Rows without attention keep l.
fn smooth(labels: Tensor<2>, attention: Tensor<2>, nodes: Tensor<2>, alpha: f64) -> Tensor<2> {
    let alone = math::row_sums(attention.clone()).equal_elem(0.0).expand(labels.dims());
    let mixed = labels.clone() * alpha + attention.matmul(nodes) * (1.0 - alpha);
    mixed.mask_where(alone, labels)
}

impl GraphSmoothing {
    fn pretrained(&self) -> bool {
        self.scope == Scope::Dataset || self.embedding == Some(Embedding::Pretrained)
    }

    /// Embeddings of the batch `[B, H]` as they are.
    fn embeddings(&self, batch: &Batch) -> Tensor<2> {
        if !self.pretrained() {
            return math::widen(batch.embedding.clone());
        }
        let width = self.data.points.width();
        let zeros = vec![0.0; width];
        let row = |id: &ExampleId| self.data.rows.get(id).map_or(zeros.as_slice(), |row| self.data.points.row(*row));
        let values: Vec<f32> = batch.ids.iter().flat_map(row).copied().collect();
        Tensor::from_data(TensorData::new(values, [batch.len(), width]), &batch.weak.device())
    }

    /// What is subtracted, `[1, H]`.
    fn origin(&self, embeddings: &Tensor<2>, memory: &mut Memory) -> Option<Tensor<2>> {
        let mean = || embeddings.clone().mean_dim(0);
        match self.center {
            Center::None => None,
            Center::BatchMean => Some(mean()),
            Center::RunningMean => {
                let now = math::rows_to_host(mean());
                let running = memory.entry("running mean");
                if running.is_empty() {
                    running.clone_from(&now);
                } else {
                    running.iter_mut().zip(&now).for_each(|(running, now)| *running += (1.0 - KEPT) * (now - *running));
                }
                Some(Tensor::<1>::from_floats(running.as_slice(), &embeddings.device()).unsqueeze_dim::<2>(0))
            }
        }
    }

    /// Smoothed labels from the batch and the bank.
    fn over_batch(&self, batch: &Batch, selection: &Selection, labels: &Tensor<2>, memory: &mut Memory) -> Tensor<2> {
        let (rows, device) = (batch.len(), labels.device());
        let embeddings = self.embeddings(batch);
        let counts = selection.weight.clone().greater_scalar(0.0).float();
        let mut allowed = counts.clone().unsqueeze_dim::<2>(0).expand([rows, rows]);
        if !self.self_loop {
            // By number and not by place, because a batch that spans two epochs may hold an example twice.
            let other = batch.ids.iter().flat_map(|a| batch.ids.iter().map(move |b| f32::from(u8::from(a != b))));
            let other: Vec<f32> = other.collect();
            allowed = allowed * Tensor::<2>::from_data(TensorData::new(other, [rows, rows]), &device);
        }
        let (mut nodes, mut node_labels) = (embeddings.clone(), labels.clone());
        if self.scope == Scope::Bank {
            let mut bank = Bank { memory, width: embeddings.dims()[1], classes: labels.dims()[1] };
            if let Some((earlier, their_labels)) = bank.without(batch.ids, &device) {
                let beside = Tensor::ones([rows, earlier.dims()[0]], &device);
                allowed = Tensor::cat(vec![allowed, beside], 1);
                nodes = Tensor::cat(vec![nodes, earlier], 0);
                node_labels = Tensor::cat(vec![node_labels, their_labels], 0);
            }
            bank.push(batch.ids, &embeddings, labels, &math::to_host(counts), self.bank_size);
        }
        if let Some(origin) = self.origin(&embeddings, memory) {
            nodes = nodes - origin;
        }
        if self.normalize == Normalize::L2 {
            let norm = math::row_sums(nodes.clone().powi_scalar(2)).sqrt().clamp_min(1e-12);
            nodes = nodes / norm;
        }
        let attention = attention(nodes.clone().narrow(0, 0, rows), nodes, allowed, self.tau);
        if batch.progress.step.is_multiple_of(LOOK_EVERY) {
            note(memory, math::one_hot_share(attention.clone()));
        }
        smooth(labels.clone(), attention, node_labels, self.alpha)
    }

    /// Smoothed labels from the nearest of the whole data set, on the host.
    fn over_dataset(&self, batch: &Batch, selection: &Selection, labels: &Tensor<2>, memory: &mut Memory) -> Tensor<2> {
        let (graph, [count, classes]) = (&self.data.graph, labels.dims());
        let width = classes + 1;
        let mut refined = math::rows_to_host(labels.clone());
        let weights = math::to_host(selection.weight.clone());
        let known = memory.entry("labels");
        if known.is_empty() {
            known.clone_from(&graph.labels);
        }
        let rows: Vec<Option<usize>> = batch.ids.iter().map(|id| self.data.rows.get(id).copied()).collect();
        for (place, row) in rows.iter().enumerate() {
            if let Some(entry) = row.and_then(|row| known.get_mut(row * width..(row + 1) * width)) {
                entry[..classes].copy_from_slice(&refined[place * classes..][..classes]);
                entry[classes] = f32::from(u8::from(weights[place] > 0.0));
            }
        }
        for (label, row) in refined.chunks_exact_mut(classes).zip(&rows) {
            let Some(at) = row.map(|row| row * graph.each) else { continue };
            let mut sums = vec![0.0_f64; width];
            for (neighbour, attention) in graph.neighbours[at..].iter().zip(&graph.attention[at..]).take(graph.each) {
                let entry = &known[*neighbour as usize * width..][..width];
                let attention = f64::from(attention * entry[classes]);
                sums[classes] += attention;
                for (sum, label) in sums.iter_mut().zip(&entry[..classes]) {
                    *sum += attention * f64::from(*label);
                }
            }
            if sums[classes] > 0.0 {
                for (label, sum) in label.iter_mut().zip(&sums) {
                    *label = (self.alpha * f64::from(*label) + (1.0 - self.alpha) * sum / sums[classes]) as f32;
                }
            }
        }
        if memory.entry(ONE_HOT).is_empty() {
            note(memory, graph.one_hot);
        }
        Tensor::from_data(TensorData::new(refined, [count, classes]), &labels.device())
    }

    /// The graph of the whole data set, with the weak labels as first labels.
    fn graph(&self, points: Points, weak: &[Vec<f32>]) -> Graph {
        let points = match self.center {
            Center::None => points,
            Center::BatchMean | Center::RunningMean => {
                let origin = points.mean();
                points.moved(&origin, |_| 1.0)
            }
        };
        let points = if self.normalize == Normalize::L2 { points.normalised() } else { points };
        let found = math::nearest(&points, &points, self.neighbours, Nearness::Dot, self.self_loop);
        let mut graph = Graph { each: found.each(), ..Graph::default() };
        let mut one_hot = 0_usize;
        for row in 0..points.len() {
            let scores = found.scores(row);
            // The first is the largest.
            let power = |score: &f32| ((f64::from(*score) - f64::from(scores[0])) / self.tau).exp();
            let sum: f64 = scores.iter().map(power).sum();
            graph.neighbours.extend_from_slice(found.of(row));
            graph.attention.extend(scores.iter().map(|score| (power(score) / sum) as f32));
            one_hot += usize::from(sum <= 1.0 / 0.99 && !scores.is_empty());
        }
        graph.one_hot = one_hot as f32 / points.len().max(1) as f32;
        graph.labels = weak.iter().flat_map(|label| label.iter().copied().chain([1.0])).collect();
        graph
    }
}

/// Adds the share of one-hot rows of one batch to what is known.
fn note(memory: &mut Memory, share: f32) {
    let known = memory.entry(ONE_HOT);
    known.resize(2, 0.0);
    known[0] += share;
    known[1] += 1.0;
}

/// Earlier examples: embeddings and selected labels as they were.
struct Bank<'a> {
    memory: &'a mut Memory,
    width: usize,
    classes: usize,
}

impl Bank<'_> {
    const EMBEDDINGS: &'static str = "bank embeddings";
    const LABELS: &'static str = "bank labels";
    const IDS: &'static str = "bank ids";

    /// An example's number in two halves, because f32 has 24 digits.
    fn halves(id: ExampleId) -> [f32; 2] {
        [(id.0 >> 16) as f32, (id.0 & 0xffff) as f32]
    }

    /// Embeddings `[M, H]` and labels `[M, K]` of what the bank holds, but for examples of the batch, whose new ones count.
    fn without(&mut self, ids: &[ExampleId], device: &burn::tensor::Device) -> Option<(Tensor<2>, Tensor<2>)> {
        let present: BTreeSet<ExampleId> = ids.iter().copied().collect();
        let id = |halves: &[f32]| ExampleId((halves[0] as u32) << 16 | halves[1] as u32);
        let kept: Vec<bool> =
            self.memory.entry(Self::IDS).chunks_exact(2).map(|halves| !present.contains(&id(halves))).collect();
        let count = kept.iter().filter(|kept| **kept).count();
        let mut read = |name: &str, width: usize| {
            let rows = self.memory.entry(name).chunks_exact(width).zip(&kept).filter(|(_, kept)| **kept);
            let values: Vec<f32> = rows.flat_map(|(row, _)| row).copied().collect();
            Tensor::from_data(TensorData::new(values, [count, width]), device)
        };
        (count > 0).then(|| (read(Self::EMBEDDINGS, self.width), read(Self::LABELS, self.classes)))
    }

    /// Remembers the rows of a batch that count.
    fn push(
        &mut self,
        ids: &[ExampleId],
        embeddings: &Tensor<2>,
        labels: &Tensor<2>,
        counts: &[f32],
        capacity: usize,
    ) {
        let mut write = |name: &str, width: usize, values: Vec<f32>| {
            let rows = values.chunks_exact(width).zip(counts).filter(|(_, counts)| **counts > 0.0);
            let values: Vec<f32> = rows.flat_map(|(row, _)| row).copied().collect();
            self.memory.push(name, &values, capacity * width);
        };
        write(Self::EMBEDDINGS, self.width, math::rows_to_host(embeddings.clone()));
        write(Self::LABELS, self.classes, math::rows_to_host(labels.clone()));
        write(Self::IDS, 2, ids.iter().flat_map(|id| Self::halves(*id)).collect());
    }
}

impl LabelRefiner for GraphSmoothing {
    fn refine(&self, batch: &Batch, selection: &Selection, memory: &mut Memory) -> Tensor<2> {
        let labels = selection.labels(batch);
        let smoothed = match self.scope {
            Scope::Batch | Scope::Bank => self.over_batch(batch, selection, &labels, memory),
            Scope::Dataset => self.over_dataset(batch, selection, &labels, memory),
        };
        math::where_weak(selection, smoothed, labels)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        only_classes(form, "the answer of one example cannot stand for that of another; use `identity`")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        if !self.pretrained() {
            return Ok(());
        }
        let points = Points::of(pool)?;
        self.data.rows = pool.ids.iter().copied().enumerate().map(|(row, id)| (id, row)).collect();
        if self.scope == Scope::Dataset {
            self.data.graph = self.graph(points, &pool.weak);
        } else {
            self.data.points = points;
        }
        Ok(())
    }

    fn remark(&self, memory: &mut Memory) -> Option<String> {
        let [sum, batches] = memory.entry(ONE_HOT)[..] else { return None };
        let share = sum / batches;
        (share > 0.9).then(|| {
            let percent = 100.0 * share;
            let remedy = match self.normalize {
                Normalize::None => "dot products of hidden states are in the thousands; set `normalize = \"l2\"`",
                Normalize::L2 => "no two embeddings are alike enough; raise `tau`, or set `self_loop = false`",
            };
            format!("the attention of graph smoothing was one-hot in {percent:.0} % of rows, so it smoothed hardly anything: {remedy}")
        })
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("alpha", self.alpha, 0.0, 1.0)?;
        Invalid::unless_within("tau", self.tau, 1e-6, f64::INFINITY)?;
        Invalid::unless_within("bank_size", self.bank_size as f64, 1.0, f64::INFINITY)?;
        Invalid::unless_within("neighbours", self.neighbours as f64, 1.0, f64::INFINITY)?;
        if self.scope == Scope::Dataset && self.embedding == Some(Embedding::Current) {
            let message = "must be `pretrained` for `scope = \"dataset\"`: the student's embeddings of the whole data set change at every step";
            return Err(Invalid::new("embedding", message));
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { embeddings: self.pretrained(), ..Needs::default() }
    }
}

register!(refiner "graph-smoothing" for GraphSmoothing, paper = "Lang et al., Selective Weak-to-Strong Generalization, AAAI 2026, 40(44), 37556–37564 (arXiv 2511.14166), equations 1 and 2");

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        graph_smoothing: Smoothing,
    }

    #[derive(Deserialize)]
    struct Smoothing {
        z: Vec<Vec<f32>>,
        prior_labels: Vec<Vec<f32>>,
        is_ik: Vec<bool>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        l2_normalise: bool,
        self_loop: bool,
        tau: f64,
        alpha: f64,
        attention: Vec<Vec<f64>>,
        graph_label_all_rows: Vec<Vec<f64>>,
        final_label: Vec<Vec<f64>>,
    }

    fn golden() -> Smoothing {
        let file: Golden = serde_json::from_str(include_str!("../../tests/golden/golden_losses.json")).unwrap();
        file.graph_smoothing
    }

    fn tensor(rows: &[Vec<f32>]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &Device::flex())
    }

    fn batch<'a>(ids: &'a [ExampleId], weak: &[Vec<f32>], embedding: &[Vec<f32>]) -> Batch<'a> {
        Batch::new(ids, tensor(weak)).with_embedding(tensor(embedding))
    }

    fn ids(range: std::ops::Range<u32>) -> Vec<ExampleId> {
        range.map(ExampleId).collect()
    }

    fn numbers(matrix: Tensor<2>) -> Vec<Vec<f32>> {
        let width = matrix.dims()[1];
        math::rows_to_host(matrix).chunks_exact(width).map(<[f32]>::to_vec).collect()
    }

    #[track_caller]
    fn assert_close(got: &[Vec<f32>], expected: &[Vec<f64>], tolerance: f64, what: &str) {
        assert_eq!(got.len(), expected.len());
        for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
            for (got, expected) in got.iter().zip(expected) {
                assert!((f64::from(*got) - expected).abs() <= tolerance, "{what}, row {row}: {got} instead of {expected}");
            }
        }
    }

    fn doubles(rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
        rows.iter().map(|row| row.iter().copied().map(f64::from).collect()).collect()
    }

    fn refined(refiner: &GraphSmoothing, batch: &Batch, own: &[f32], memory: &mut Memory) -> Vec<Vec<f32>> {
        let own = Tensor::from_floats(own, &Device::flex());
        numbers(refiner.refine(batch, &Selection { own, ..Selection::weak(batch) }, memory))
    }

    /// Six examples with embeddings of four numbers, and labels that the golden file holds.
    fn pool(golden: &Smoothing) -> Pool {
        let embeddings = Some(golden.z.clone());
        Pool { ids: ids(0..6), weak: golden.prior_labels.clone(), embeddings, ..Pool::default() }
    }

    #[test]
    fn every_golden_case_in_every_scope() {
        let golden = golden();
        assert_eq!(golden.cases.len(), 12);
        let ids = ids(0..6);
        let batch = batch(&ids, &golden.prior_labels, &golden.z);
        let own: Vec<f32> = golden.is_ik.iter().map(|ik| f32::from(u8::from(*ik))).collect();
        for case in &golden.cases {
            let what = format!("l2 {} loop {} τ {} α {}", case.l2_normalise, case.self_loop, case.tau, case.alpha);
            for (scope, embedding) in [
                (Scope::Batch, None),
                (Scope::Batch, Some(Embedding::Pretrained)),
                (Scope::Bank, None),
                (Scope::Dataset, None),
            ] {
                let what = format!("{what} {scope:?} {embedding:?}");
                let mut refiner = GraphSmoothing {
                    alpha: case.alpha,
                    tau: case.tau,
                    scope,
                    normalize: if case.l2_normalise { Normalize::L2 } else { Normalize::None },
                    self_loop: case.self_loop,
                    embedding,
                    ..GraphSmoothing::default()
                };
                refiner.prepare(&pool(&golden)).unwrap();
                let mut memory = Memory::default();
                // Twice, because what is remembered of these examples must not count beside them.
                for _ in 0..2 {
                    assert_close(&refined(&refiner, &batch, &own, &mut memory), &case.final_label, 1e-6, &what);
                }
                let all = refined(&refiner, &batch, &[0.0; 6], &mut memory);
                assert_close(&all, &case.graph_label_all_rows, 1e-6, &what);
            }
            let nodes = if case.l2_normalise {
                let points = Points::new(&golden.z).unwrap().normalised();
                tensor(&points.rows().map(<[f32]>::to_vec).collect::<Vec<_>>())
            } else {
                tensor(&golden.z)
            };
            let looped = if case.self_loop { 0.0 } else { 1.0 };
            let allowed = Tensor::<2>::eye(6, &Device::flex()) * -looped + 1.0;
            let got = numbers(attention(nodes.clone(), nodes, allowed, case.tau));
            assert_close(&got, &case.attention, 1e-6, &what);
        }
    }

    #[test]
    fn raw_dot_products_of_hidden_states_stay_finite_and_are_seen_to_be_one_hot() {
        // Norms as after a final norm of 768 numbers: exponents of some thousands.
        let row = |index: u64| (0..768).map(|j| (math::draw(index, j) >> 40) as f32 / (1u64 << 22) as f32 - 2.0).collect();
        let embedding: Vec<Vec<f32>> = (0..8).map(row).collect();
        let weak: Vec<Vec<f32>> = (0..8).map(|i| vec![0.1 * i as f32, 1.0 - 0.1 * i as f32]).collect();
        let ids = ids(0..8);
        let batch = batch(&ids, &weak, &embedding);
        let mut memory = Memory::default();
        let raw = GraphSmoothing { normalize: Normalize::None, ..GraphSmoothing::default() };
        assert_close(&refined(&raw, &batch, &[0.0; 8], &mut memory), &doubles(&weak), 1e-6, "nothing is smoothed");
        assert_eq!(*memory.entry(ONE_HOT), [1.0, 1.0]);
        refined(&raw, &batch, &[0.0; 8], &mut memory);
        assert_eq!(*memory.entry(ONE_HOT), [2.0, 2.0]);
        // Without the common component nothing is alike; with it everything is.
        let alike: Vec<Vec<f32>> = embedding.iter().map(|row| row.iter().map(|x| x + 10.0).collect()).collect();
        let share = |center: Center| {
            let mut memory = Memory::default();
            let refiner = GraphSmoothing { center, ..GraphSmoothing::default() };
            refined(&refiner, &batch.clone().with_embedding(tensor(&alike)), &[0.0; 8], &mut memory);
            memory.entry(ONE_HOT)[0]
        };
        assert_eq!((share(Center::None), share(Center::BatchMean), share(Center::RunningMean)), (0.0, 1.0, 1.0));
    }

    #[test]
    fn the_same_share_is_known_of_the_data_set() {
        let golden = golden();
        for case in &golden.cases {
            let mut refiner = GraphSmoothing {
                tau: case.tau,
                scope: Scope::Dataset,
                normalize: if case.l2_normalise { Normalize::L2 } else { Normalize::None },
                self_loop: case.self_loop,
                ..GraphSmoothing::default()
            };
            refiner.prepare(&pool(&golden)).unwrap();
            let one_hot = case.attention.iter().filter(|row| row.iter().any(|a| *a >= 0.99)).count();
            assert_eq!(refiner.data.graph.one_hot, one_hot as f32 / 6.0);
        }
    }

    #[test]
    fn a_bank_is_a_larger_batch() {
        let golden = golden();
        let (all, first, second) = (ids(0..6), ids(0..3), ids(3..6));
        let part = |ids, rows: std::ops::Range<usize>| batch(ids, &golden.prior_labels[rows.clone()], &golden.z[rows]);
        for self_loop in [true, false] {
            let whole = GraphSmoothing { self_loop, ..GraphSmoothing::default() };
            let bank = GraphSmoothing { scope: Scope::Bank, ..whole.clone() };
            let expected = refined(&whole, &part(&all, 0..6), &[0.0; 6], &mut Memory::default());
            let mut memory = Memory::default();
            refined(&bank, &part(&first, 0..3), &[0.0; 3], &mut memory);
            let got = refined(&bank, &part(&second, 3..6), &[0.0; 3], &mut memory);
            assert_close(&got, &doubles(&expected[3..]), 1e-6, "second half");
            // The first half again: what the bank holds of it gives way to what the batch says.
            let got = refined(&bank, &part(&first, 0..3), &[0.0; 3], &mut memory);
            assert_close(&got, &doubles(&expected[..3]), 1e-6, "first half");
        }
        // A bank of three has forgotten all but the last three.
        let small = GraphSmoothing { scope: Scope::Bank, bank_size: 3, ..GraphSmoothing::default() };
        let mut memory = Memory::default();
        refined(&small, &part(&all, 0..6), &[0.0; 6], &mut memory);
        assert_eq!(*memory.entry(Bank::IDS), [0.0, 3.0, 0.0, 4.0, 0.0, 5.0]);
        assert_eq!(*memory.entry(Bank::LABELS), golden.prior_labels[3..].concat());
        assert_eq!(memory.entry(Bank::EMBEDDINGS).len(), 3 * 4);
        assert_eq!(Bank::halves(ExampleId(u32::MAX)), [65535.0, 65535.0]);
    }

    #[test]
    fn the_data_set_remembers_the_latest_labels() {
        let golden = golden();
        let mut refiner = GraphSmoothing { alpha: 0.0, tau: 1.0, scope: Scope::Dataset, ..GraphSmoothing::default() };
        refiner.prepare(&pool(&golden)).unwrap();
        let (first, last) = (ids(0..3), ids(5..6));
        let mut memory = Memory::default();
        let alone = |memory: &mut Memory| {
            refined(&refiner, &batch(&last, &golden.prior_labels[5..], &golden.z[5..]), &[0.0], memory)[0].clone()
        };
        let before = alone(&mut memory);
        let changed = vec![vec![0.0, 1.0]; 3];
        refined(&refiner, &batch(&first, &changed, &golden.z[..3]), &[0.0; 3], &mut memory);
        let after = alone(&mut memory);
        let case = golden.cases.iter().find(|case| case.l2_normalise && case.self_loop && case.tau == 1.0).unwrap();
        let mix = |labels: &[Vec<f32>]| -> f64 {
            case.attention[5].iter().zip(labels).map(|(a, label)| a * f64::from(label[0])).sum()
        };
        let new = [changed, golden.prior_labels[3..].to_vec()].concat();
        assert!((f64::from(before[0]) - mix(&golden.prior_labels)).abs() < 1e-6, "{before:?}");
        assert!((f64::from(after[0]) - mix(&new)).abs() < 1e-6, "{after:?}");
    }

    #[test]
    fn fewer_neighbours_are_the_nearest() {
        let golden = golden();
        let case = golden.cases.iter().find(|case| case.l2_normalise && !case.self_loop && case.tau == 1.0).unwrap();
        let mut refiner = GraphSmoothing {
            alpha: 0.0,
            tau: 1.0,
            scope: Scope::Dataset,
            neighbours: 2,
            self_loop: false,
            ..GraphSmoothing::default()
        };
        refiner.prepare(&pool(&golden)).unwrap();
        let ids = ids(0..6);
        let got = refined(&refiner, &batch(&ids, &golden.prior_labels, &golden.z), &[0.0; 6], &mut Memory::default());
        let expected: Vec<Vec<f64>> = (0..6)
            .map(|row| {
                let mut nearest: Vec<(f64, f32)> =
                    case.attention[row].iter().copied().zip(golden.prior_labels.iter().map(|label| label[0])).collect();
                nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
                let [(a, y), (b, z)] = [nearest[0], nearest[1]];
                vec![(a * f64::from(y) + b * f64::from(z)) / (a + b)]
            })
            .collect();
        assert_close(&got, &expected, 1e-6, "two nearest");
    }

    #[test]
    fn dropped_rows_take_no_part_and_who_is_alone_keeps_its_label() {
        let golden = golden();
        let ids = ids(0..6);
        let batch = batch(&ids, &golden.prior_labels, &golden.z);
        let device = Device::flex();
        for scope in [Scope::Batch, Scope::Bank, Scope::Dataset] {
            let mut refiner = GraphSmoothing { scope, alpha: 0.5, tau: 1.0, ..GraphSmoothing::default() };
            refiner.prepare(&pool(&golden)).unwrap();
            let refine = |weights: [f32; 6], memory: &mut Memory| {
                let selection = Selection { weight: Tensor::from_floats(weights, &device), ..Selection::weak(&batch) };
                numbers(refiner.refine(&batch, &selection, memory))
            };
            let mut memory = Memory::default();
            let got = refine([1.0, 0.0, 0.5, 0.0, 0.0, 0.0], &mut memory);
            let whole = GraphSmoothing { scope: Scope::Batch, data: Data::default(), ..refiner.clone() };
            let two = [ExampleId(0), ExampleId(2)];
            let rows = |from: &[Vec<f32>]| vec![from[0].clone(), from[2].clone()];
            let pair = super::tests::batch(&two, &rows(&golden.prior_labels), &rows(&golden.z));
            let expected = refined(&whole, &pair, &[0.0; 2], &mut Memory::default());
            assert_close(&rows(&got), &doubles(&expected), 1e-6, "the two that are left");
            assert_close(&refine([0.0; 6], &mut memory), &doubles(&golden.prior_labels), 0.0, "nobody left");
        }
        // One row without itself, and one example twice.
        let alone = GraphSmoothing { self_loop: false, ..GraphSmoothing::default() };
        let twice = [ExampleId(3), ExampleId(3)];
        for count in [1, 2] {
            let weak = vec![golden.prior_labels[3].clone(); count];
            let batch = super::tests::batch(&twice[..count], &weak, &vec![golden.z[3].clone(); count]);
            assert_close(&refined(&alone, &batch, &vec![0.0; count], &mut Memory::default()), &doubles(&weak), 0.0, "alone");
        }
    }

    #[test]
    fn the_running_mean_follows_the_batches() {
        let weak = vec![vec![0.5, 0.5]; 2];
        let refiner = GraphSmoothing { center: Center::RunningMean, ..GraphSmoothing::default() };
        let mut memory = Memory::default();
        let ids = ids(0..2);
        for (value, expected) in [(4.0, 4.0), (14.0, 5.0)] {
            let embedding = vec![vec![value - 1.0], vec![value + 1.0]];
            refined(&refiner, &batch(&ids, &weak, &embedding), &[0.0; 2], &mut memory);
            assert!((memory.entry("running mean")[0] - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let base = GraphSmoothing::default;
        let refused = |refiner: GraphSmoothing| refiner.validate().unwrap_err().parameter;
        assert_eq!(refused(GraphSmoothing { alpha: 1.1, ..base() }), "alpha");
        assert_eq!(refused(GraphSmoothing { alpha: -0.1, ..base() }), "alpha");
        assert_eq!(refused(GraphSmoothing { alpha: f64::NAN, ..base() }), "alpha");
        assert_eq!(refused(GraphSmoothing { tau: 0.0, ..base() }), "tau");
        assert_eq!(refused(GraphSmoothing { tau: -1.0, ..base() }), "tau");
        assert_eq!(refused(GraphSmoothing { bank_size: 0, ..base() }), "bank_size");
        assert_eq!(refused(GraphSmoothing { neighbours: 0, ..base() }), "neighbours");
        let current = GraphSmoothing { scope: Scope::Dataset, embedding: Some(Embedding::Current), ..base() };
        assert_eq!(refused(current), "embedding");
        assert!(!base().needs().embeddings);
        assert!(GraphSmoothing { scope: Scope::Dataset, ..base() }.needs().embeddings);
        assert!(GraphSmoothing { scope: Scope::Dataset, ..base() }.prepare(&Pool::default()).is_err());
    }
}
