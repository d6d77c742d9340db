//! Every loss against values and gradients of the reference implementations (`golden/golden_losses.json`, computed in float64),
//! in float32 and on the way training takes: labels, then targets on the whole batch, then the loss and its mean.

use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};
use w2s_core::strategy::{
    Batch, ConfiguredLoss, ConfiguredRefiner, ExampleId, Memory, Pool, Progress, Selection, math,
};

const TOLERANCE: f64 = 1e-6;

#[derive(Deserialize)]
struct Golden {
    inputs: std::collections::BTreeMap<String, Input>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Input {
    logits: Vec<[f64; 2]>,
    labels: Vec<[f64; 2]>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    input: String,
    params: Value,
    loss: f64,
    grad: Vec<Vec<f64>>,
    grad_wrt: String,
}

impl Case {
    fn number(&self, name: &str) -> f64 {
        self.params[name].as_f64().unwrap_or_else(|| panic!("{} has no number `{name}`", self.id))
    }

    fn whole(&self, name: &str) -> usize {
        self.params[name].as_u64().unwrap_or_else(|| panic!("{} has no whole number `{name}`", self.id)) as usize
    }

    /// The reference's `step_frac`, if the case has one.
    fn fraction(&self) -> Progress {
        let fraction = self.params["step_frac"].as_f64().unwrap_or(0.0);
        at((fraction * 1e6).round() as usize, 1_000_000)
    }
}

/// How a case is said in our words.
struct Said {
    loss: Value,
    at: Progress,
    /// The window's content before this batch.
    window: Vec<f32>,
    /// Rows whose label is the student's own prediction, and whether that is hard.
    own: Option<(Vec<usize>, bool)>,
}

fn at(step: usize, total_steps: usize) -> Progress {
    Progress { step, total_steps, epoch: 0, epochs: 1 }
}

/// Strategy and parameters of a case; `None` for a case nobody has mapped.
fn say(case: &Case) -> Option<Said> {
    let number = |name: &str| case.number(name);
    let mut progress = case.fraction();
    let mut window = Vec::new();
    let mut own = None;
    let aux = |variant: &str, max: &str| json!({ "type": "aux-confidence", "variant": variant, "max": number(max), "warmup": number("warmup_frac") });
    let loss = match case.id.as_str() {
        "oai_xent" | "eleuther_w2s_xent" | "bregman_bce" => json!({ "type": "cross-entropy" }),
        "eleuther_wts_kl" | "eleuther_w2s_kl" | "forward_kl" => json!({ "type": "forward-kl" }),
        "bregman_kl" => json!({ "type": "forward-kl", "variant": "bregman" }),
        "oai_logconf" | "oai_logconf_aux1_warm0" => aux("openai", "aux_coef"),
        "eleuther_wts_logconf" => aux("eleuther", "aux_coef"),
        "burns_conf_half" => aux("paper", "alpha_max"),
        "raven_logconf" => aux("raven", "aux_coef"),
        "bregman_aux_conf" => aux("bregman", "aux_coef"),
        "eleuther_w2s_logconf" | "eleuther_w2s_entropy" => {
            progress = at(case.whole("step"), 1000);
            let common = json!({
                "max": number("aux_coef"), "warmup_steps": case.whole("warmup_steps"), "balance_batch": case.params["balance_batch"],
            });
            let mut said = if case.params["harden"] == json!(true) {
                let buffer = case.params["buffer"].as_array().expect("a list");
                window = buffer.iter().map(|value| value.as_f64().expect("a number") as f32).collect();
                // The reference was called with the whole input as one micro-batch.
                json!({
                    "type": "aux-confidence", "variant": "eleuther-w2s", "buffer": case.whole("buffer_size"), "threshold_rows": case.grad.len(),
                })
            } else {
                json!({ "type": "eleuther-entropy" })
            };
            said.as_object_mut().expect("a table").extend(common.as_object().cloned().expect("a table"));
            said
        }
        "eleuther_w2s_window" => json!({ "type": "window", "radius": number("radius") }),
        // The stored radius is what the reference measured; ours measures it again, on the same labels.
        "eleuther_w2s_window_midweak" => json!({ "type": "window", "radius": "midweak" }),
        "conf_fixed_t05" => {
            json!({ "type": "threshold-confidence", "alpha": number("alpha"), "threshold": number("t") })
        }
        "oai_product" => {
            json!({ "type": "product", "form": "openai", "alpha": number("alpha"), "beta": number("beta") })
        }
        "product_logspace" => json!({
            "type": "product", "alpha": number("alpha"), "beta": number("beta"), "label_floor": number("label_clamp"),
        }),
        "guo_adaptconf" => json!({
            "type": "adaptive-confidence", "temperature": number("superalignment_threshold"), "tau": number("kd_temperature"),
        }),
        // The reference counts epochs of 100; a step per epoch is the same fraction.
        "guo_adaptconf_warm25" => {
            progress = at(case.whole("epoch"), case.whole("total_epochs"));
            json!({
                "type": "adaptive-confidence", "temperature": number("threshold"), "tau": number("temperature"), "warmup": number("warm_frac"),
            })
        }
        "guo_augconf" => {
            progress = at(case.whole("epoch"), case.whole("epochs"));
            json!({
                "type": "augmented-confidence", "max": number("superalignment_threshold"), "warmup": number("superalignment_rate"), "tau": number("kd_temperature"),
            })
        }
        "raven_adapt_logconf" => json!({ "type": "adaptive-confidence", "variant": "raven" }),
        "raven_edl" => json!({ "type": "edl", "gamma": number("gamma") }),
        "reverse_kl" => json!({ "type": "reverse-kl" }),
        "reverse_kl_clamped" => json!({ "type": "reverse-kl", "floor": number("clamp") }),
        "reverse_kl_smoothed" => json!({ "type": "reverse-kl", "smoothing": number("epsilon") }),
        "bregman_reverse_kl" => {
            json!({ "type": "reverse-kl", "variant": "bregman", "smoothing": number("epsilon") })
        }
        "reverse_ce" => json!({ "type": "reverse-ce" }),
        "bregman_reverse_bce" => json!({ "type": "reverse-ce", "smoothing": number("epsilon") }),
        "symmetric_ce" => json!({ "type": "symmetric-ce", "alpha": number("a"), "beta": number("b") }),
        "bregman_sl" => json!({
            "type": "symmetric-ce", "alpha": number("alpha"), "beta": number("beta"), "smoothing": number("epsilon"),
        }),
        // Inputs A and D hold labels 0.6 and 0.4, whose distance from 1/2 is 0.09999999999999998 in float64 and 0.10000002 in
        // float32: a threshold of 0.1 falls between the two. A millionth more decides as float64 does.
        "bregman_cace" => json!({
            "type": "cace", "threshold": number("confidence_threshold") + 1e-6, "smoothing": number("epsilon"),
        }),
        "js" => json!({ "type": "js" }),
        "jeffreys" => json!({ "type": "jeffreys" }),
        "pearson_chi2" => json!({ "type": "pearson-chi2" }),
        "neyman_chi2" => json!({ "type": "neyman-chi2" }),
        "sq_hellinger_f" => json!({ "type": "squared-hellinger" }),
        "total_variation" => json!({ "type": "total-variation" }),
        "mae" => json!({ "type": "total-variation", "scale": 2.0 }),
        "mse_prob" => json!({ "type": "brier" }),
        "gce" => json!({ "type": "gce", "q": number("q") }),
        "label_smoothing_ce" => json!({ "type": "label-smoothing", "epsilon": number("epsilon") }),
        "entropy_min_true" => json!({ "type": "entropy-minimization", "alpha": number("alpha") }),
        "bootstrap_soft" => json!({ "type": "bootstrap", "prediction": "soft", "beta": number("beta") }),
        "bootstrap_hard" => json!({ "type": "bootstrap", "prediction": "hard", "beta": number("beta") }),
        "small_loss_selection" => json!({ "type": "small-loss", "forget": number("forget_rate") }),
        "selective_gen_hard_self" | "selective_gen_soft_self" => {
            own = Some((vec![0, 3], case.id.ends_with("hard_self")));
            json!({ "type": "cross-entropy" })
        }
        _ => return None,
    };
    Some(Said { loss, at: progress, window, own })
}

fn tensor(rows: &[[f64; 2]], device: &Device) -> Tensor<2> {
    let flat: Vec<f32> = rows.iter().flatten().map(|value| *value as f32).collect();
    Tensor::<1>::from_floats(flat.as_slice(), device).reshape([rows.len(), 2])
}

/// Labels as selector and (identity) refiner hand them on: the student's own in the given rows.
fn labels(weak: Tensor<2>, logits: Tensor<2>, at: Progress, own: &Option<(Vec<usize>, bool)>) -> Tensor<2> {
    let ids: Vec<ExampleId> = (0..weak.dims()[0] as u32).map(ExampleId).collect();
    let student = math::softmax(logits);
    let self_labels =
        own.as_ref().map(|(_, hard)| if *hard { math::one_hot_argmax(student.clone()) } else { student.clone() });
    let batch = Batch::new(&ids, weak).at(at).with_student(student).with_self_labels(self_labels);
    let mut selection = Selection::weak(&batch);
    if let Some((rows, _)) = own {
        let trusted: Vec<f32> = (0..batch.len()).map(|row| f32::from(u8::from(rows.contains(&row)))).collect();
        selection.own = Tensor::from_floats(trusted.as_slice(), &batch.weak.device());
    }
    let identity: Box<dyn ConfiguredRefiner> = serde_json::from_value(json!({ "type": "identity" })).unwrap();
    identity.refine(&batch, &selection, &mut Memory::default())
}

/// Mean loss and its gradient in the coordinates of the case.
fn compute(case: &Case, said: &Said, input: &Input) -> (f64, Vec<Vec<f64>>) {
    let device = Device::flex().autodiff();
    let mut loss: Box<dyn ConfiguredLoss> = serde_json::from_value(said.loss.clone()).unwrap();
    loss.validate().unwrap_or_else(|invalid| panic!("{}: {} {}", case.id, invalid.parameter, invalid.message));
    let weak = input.labels.iter().map(|row| row.map(|value| value as f32).to_vec()).collect();
    let ids = (0..input.labels.len() as u32).map(ExampleId).collect();
    loss.prepare(&Pool { ids, weak, ..Pool::default() }).unwrap();
    let mut memory = Memory::default();
    memory.push("p0", &said.window, usize::MAX);

    // W2SG-Bregman has one logit d = z₁ − z₀ per row, and its gradients are with respect to d.
    let scalar = case.grad_wrt.starts_with("scalar logit");
    let two = tensor(&input.logits, &device);
    let leaf =
        if scalar { math::column(two.clone(), 1) - math::column(two, 0) } else { two.reshape([-1]) }.require_grad();
    let rows = input.logits.len();
    let logits = if scalar { math::two_logits(leaf.clone()) } else { leaf.clone().reshape([rows, 2]) };

    let detached = logits.clone().detach();
    let labels = labels(tensor(&input.labels, &device), detached.clone(), said.at, &said.own);
    let targets = loss.targets(detached, labels, &said.at, &mut memory).detach();
    let value = loss.loss(logits, targets, &said.at).mean();
    let gradients = value.backward();
    let gradient: Vec<f64> = leaf.grad(&gradients).unwrap().into_data().iter::<f64>().collect();
    (value.into_scalar::<f32>().into(), gradient.chunks(gradient.len() / rows).map(<[f64]>::to_vec).collect())
}

#[derive(Deserialize)]
struct Extreme {
    loss: Value,
    step: usize,
    logits: Vec<Vec<f32>>,
    labels: Vec<Vec<f32>>,
    value: f64,
    gradient: Vec<Vec<f64>>,
}

/// Where products and quotients of probabilities leave float32, and where predictions tie: value and gradient of the published formulas in
/// float64 (`golden/golden_extremes.json`, computed from logarithms by a program of its own).
#[test]
fn extreme_inputs_keep_their_loss_and_gradient() {
    // exp of a logarithm around −100 has five digits in float32.
    const TOLERANCE: f64 = 2e-5;
    let cases: Vec<Extreme> = serde_json::from_str(include_str!("golden/golden_extremes.json")).unwrap();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let device = Device::flex().autodiff();
        let mut loss: Box<dyn ConfiguredLoss> = serde_json::from_value(case.loss.clone()).unwrap();
        let [rows, classes] = [case.logits.len(), case.logits[0].len()];
        let ids = (0..rows as u32).map(ExampleId).collect();
        loss.prepare(&Pool { ids, weak: case.labels.clone(), ..Pool::default() }).unwrap();
        let tensor = |rows: &[Vec<f32>]| {
            Tensor::<1>::from_floats(rows.concat().as_slice(), &device).reshape([-1, classes as i32])
        };
        let logits = tensor(&case.logits).require_grad();
        let (now, detached) = (at(case.step, 1000), logits.clone().detach());
        let targets = loss.targets(detached, tensor(&case.labels), &now, &mut Memory::default()).detach();
        let value = loss.loss(logits.clone(), targets, &now).mean();
        let gradient = logits.grad(&value.backward()).unwrap().into_data().iter::<f64>().collect::<Vec<_>>();
        let mut pairs = vec![(f64::from(value.into_scalar::<f32>()), case.value)];
        pairs.extend(gradient.iter().copied().zip(case.gradient.concat()));
        assert_eq!(pairs.len(), 1 + rows * classes);
        let far = |(got, expected): &(f64, f64)| {
            let far = (got - expected).abs() / expected.abs().max(1.0);
            far.is_nan() || far > TOLERANCE
        };
        if let Some((got, expected)) = pairs.into_iter().find(far) {
            wrong.push(format!("case {number}, {}: {got} instead of {expected}", case.loss));
        }
    }
    assert!(cases.len() >= 20 && wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn all_golden_losses_and_gradients() {
    let golden: Golden = serde_json::from_str(include_str!("golden/golden_losses.json")).unwrap();
    assert_eq!(golden.cases.len(), 164);
    let mut wrong = Vec::new();
    for case in &golden.cases {
        let Some(said) = say(case) else {
            wrong.push(format!("{} is mapped to no strategy", case.id));
            continue;
        };
        let (value, gradient) = compute(case, &said, &golden.inputs[&case.input]);
        let name = format!("{} on {} ({})", case.id, case.input, case.params);
        let off = |got: f64, expected: f64| (got - expected).abs() / expected.abs().max(1.0);
        let of_value = off(value, case.loss);
        if of_value.is_nan() || of_value > TOLERANCE {
            wrong.push(format!("{name}: the loss is {value} instead of {}", case.loss));
        }
        assert_eq!(gradient.len(), case.grad.len(), "{name}");
        let pairs = gradient.iter().flatten().zip(case.grad.iter().flatten());
        let of_gradient = pairs
            .map(|(got, expected)| off(*got, *expected))
            .fold(0.0, |a, b| if b.is_nan() { b } else { f64::max(a, b) });
        if of_gradient.is_nan() || of_gradient > TOLERANCE {
            wrong.push(format!("{name}: the gradient is {gradient:?} instead of {:?}", case.grad));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), golden.cases.len(), wrong.join("\n"));
}
