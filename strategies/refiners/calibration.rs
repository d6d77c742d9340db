use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{
    Batch, Calibration as HeldOut, Form, LabelRefiner, Memory, Needs, Pool, Selection,
    math::{self, Logistic, Points}, two_classes,
};

/// Replaces the weak supervisor's confidence by how often it is right, as measured on held-out examples (`[data] n_validation`).
///
/// P(1) = f(y₁), where f is fitted to weak labels and truth of examples that nobody trains on: `platt` f = σ(a logit y₁ + b) with Platt's
/// softened targets and probabilities below 1e-7 taken for 1e-7, `isotonic` the rising step function with the smallest squared error, linear
/// between the steps. Labels that the selector trusts stay. Two classes. The order of labels stays (unless a < 0: a supervisor that is worse
/// than chance); their distance from 1/2, and by b the class, may change.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Calibration {
    /// Form of f. Origin: Platt 1999; Zadrozny and Elkan 2002 for the isotonic one, which wants a thousand held-out examples.
    pub method: Method,
    /// The function that `prepare` fitted.
    #[serde(skip)]
    fitted: Fitted,
}

/// Form of the calibrating function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A logistic function of the logit.
    #[default]
    Platt,
    /// Any function that does not fall.
    Isotonic,
}

/// A calibrating function.
#[derive(Debug, Clone, Default)]
enum Fitted {
    #[default]
    Nothing,
    Platt(Logistic),
    /// Corners (y₁, P(1)), both ascending; linear between them, constant outside.
    Isotonic(Vec<(f32, f32)>),
}

/// log(y₁ / y₀), with probabilities kept from 0.
fn logit(label: &[f32]) -> f32 {
    let [no, yes] = [label[0], label[1]].map(|p| p.max(1e-7).ln());
    yes - no
}

/// Platt's function from weak labels and truth.
fn platt(held_out: &HeldOut) -> Result<Logistic, String> {
    let positive = held_out.truth.iter().filter(|class| **class == 1).count() as f32;
    let negative = held_out.truth.len() as f32 - positive;
    // Not 1 and 0, but what the means of so many would be with one example more on either side.
    let (yes, no) = ((positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0));
    let target = |class: &u8| if *class == 1 { vec![1.0 - yes, yes] } else { vec![1.0 - no, no] };
    let targets: Vec<Vec<f32>> = held_out.truth.iter().map(target).collect();
    Logistic::fit(&logits(&held_out.weak)?, &targets, 0.0)
}

fn logits(labels: &[Vec<f32>]) -> Result<Points, String> {
    Points::new(&labels.iter().map(|label| vec![logit(label)]).collect::<Vec<_>>())
}

/// Corners of the isotonic function from weak labels and truth, by pooling adjacent violators (Ayer et al. 1955).
fn isotonic(held_out: &HeldOut) -> Vec<(f32, f32)> {
    let mut pairs: Vec<(f32, f64)> =
        held_out.weak.iter().zip(&held_out.truth).map(|(label, class)| (label[1], f64::from(*class))).collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Blocks of neighbours: first and last y₁, sum of truth, count.
    let mut blocks: Vec<(f32, f32, f64, f64)> = Vec::new();
    for (at, truth) in pairs {
        match blocks.last_mut() {
            // Equal labels are one point.
            Some((_, last, sum, count)) if *last == at => {
                *sum += truth;
                *count += 1.0;
            }
            _ => blocks.push((at, at, truth, 1.0)),
        }
    }
    let mut rising: Vec<(f32, f32, f64, f64)> = Vec::new();
    for mut block in blocks {
        while let Some((first, _, sum, count)) = rising.pop_if(|(_, _, sum, count)| *sum * block.3 >= block.2 * *count) {
            block = (first, block.1, sum + block.2, count + block.3);
        }
        rising.push(block);
    }
    let corners = rising.into_iter().flat_map(|(first, last, sum, count)| {
        let value = (sum / count) as f32;
        [(first, value), (last, value)]
    });
    let mut corners: Vec<(f32, f32)> = corners.collect();
    corners.dedup();
    corners
}

/// The value at `x` of the function with these corners.
fn interpolated(corners: &[(f32, f32)], x: f32) -> f32 {
    let after = corners.partition_point(|(at, _)| *at < x);
    match (after.checked_sub(1).and_then(|before| corners.get(before)), corners.get(after)) {
        (Some((x0, y0)), Some((x1, y1))) if *x1 > x => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
        (_, Some((_, value))) | (Some((_, value)), None) => *value,
        (None, None) => x,
    }
}

impl Fitted {
    /// P(1) of labels.
    fn positive(&self, labels: &[Vec<f32>]) -> Vec<f32> {
        match self {
            Fitted::Nothing => labels.iter().map(|label| label[1]).collect(),
            Fitted::Isotonic(corners) => labels.iter().map(|label| interpolated(corners, label[1])).collect(),
            Fitted::Platt(logistic) => {
                let points = logits(labels).unwrap_or_default();
                logistic.predict(&points).into_iter().map(|label| label[1]).collect()
            }
        }
    }
}

impl LabelRefiner for Calibration {
    fn refine(&self, batch: &Batch, selection: &Selection, _memory: &mut Memory) -> Tensor<2> {
        let selected = selection.labels(batch);
        let [rows, classes] = selected.dims();
        let labels: Vec<Vec<f32>> =
            math::rows_to_host(selected.clone()).chunks_exact(classes).map(<[f32]>::to_vec).collect();
        let calibrated: Vec<f32> = self.fitted.positive(&labels).into_iter().flat_map(|yes| [1.0 - yes, yes]).collect();
        let calibrated = Tensor::from_data(TensorData::new(calibrated, [rows, 2]), &selected.device());
        math::where_weak(selection, calibrated, selected)
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        two_classes(form, "use `temperature`, which is for any number")
    }

    fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        let held_out = pool.calibration.as_ref().ok_or("it needs held-out examples, which were not provided")?;
        if held_out.weak.len() != held_out.truth.len() || held_out.weak.iter().any(|label| label.len() != 2) {
            return Err("the held-out examples do not have one label of two classes each".to_owned());
        }
        for class in [0, 1] {
            if !held_out.truth.contains(&class) {
                return Err(format!("none of the {} held-out examples is of class {class}", held_out.truth.len()));
            }
        }
        self.fitted = match self.method {
            Method::Platt => Fitted::Platt(platt(held_out)?),
            Method::Isotonic => Fitted::Isotonic(isotonic(held_out)),
        };
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { calibration: true, ..Needs::default() }
    }
}

register!(refiner "calibration" for Calibration, paper = "Platt 1999, Probabilistic Outputs for Support Vector Machines; Zadrozny and Elkan 2002");

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use w2s_core::strategy::ExampleId;

    use super::*;

    const POSITIVE: [f32; 10] = [0.02, 0.1, 0.2, 0.3, 0.35, 0.5, 0.6, 0.7, 0.85, 0.97];
    const TRUTH: [u8; 10] = [0, 0, 1, 0, 0, 1, 0, 1, 1, 1];

    fn label(positive: f32) -> Vec<f32> {
        vec![1.0 - positive, positive]
    }

    fn pool() -> Pool {
        let weak: Vec<Vec<f32>> = POSITIVE.into_iter().map(label).collect();
        let calibration = Some(HeldOut { weak: weak.clone(), truth: TRUTH.into() });
        Pool { ids: (0..10).map(ExampleId).collect(), weak, calibration, ..Pool::default() }
    }

    fn calibrated(method: Method, positive: &[f32]) -> Vec<f32> {
        let mut refiner = Calibration { method, ..Calibration::default() };
        refiner.prepare(&pool()).unwrap();
        refiner.fitted.positive(&positive.iter().copied().map(label).collect::<Vec<_>>())
    }

    #[test]
    fn platt_is_the_maximum_of_the_likelihood() {
        // From scipy's BFGS on the same likelihood.
        let expected = [
            0.122215911, 0.258619664, 0.351229737, 0.420308593, 0.450712452, 0.534376021, 0.588430256, 0.644958073,
            0.746088803, 0.88306046,
        ];
        for (got, expected) in calibrated(Method::Platt, &POSITIVE).iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{got} instead of {expected}");
        }
        let extreme = calibrated(Method::Platt, &[0.0, 1.0]);
        assert!(extreme[0] > 0.0 && extreme[0] < 0.01 && extreme[1] < 1.0 && extreme[1] > 0.99, "{extreme:?}");
    }

    #[test]
    fn isotonic_pools_what_falls() {
        // From scipy's isotonic_regression.
        let third = 1.0 / 3.0;
        let expected = [0.0, 0.0, third, third, third, 0.5, 0.5, 1.0, 1.0, 1.0];
        assert_eq!(calibrated(Method::Isotonic, &POSITIVE), expected);
        // Between the blocks, inside a block, outside.
        let got = calibrated(Method::Isotonic, &[0.15, 0.25, 0.65, 0.0, 1.0]);
        for (got, expected) in got.iter().zip([third / 2.0, third, 0.75, 0.0, 1.0]) {
            assert!((got - expected).abs() < 1e-6, "{got} instead of {expected}");
        }
        // Equal labels are one point, whatever the order of their truth; a falling data set is its mean.
        let held_out = |positive: &[f32], truth: &[u8]| HeldOut {
            weak: positive.iter().copied().map(label).collect(),
            truth: truth.into(),
        };
        assert_eq!(isotonic(&held_out(&[0.3, 0.3, 0.3, 0.3], &[1, 0, 0, 0])), [(0.3, 0.25)]);
        assert_eq!(isotonic(&held_out(&[0.1, 0.2, 0.3, 0.4], &[1, 1, 0, 0])), [(0.1, 0.5), (0.4, 0.5)]);
    }

    #[test]
    fn trusted_labels_stay() {
        let device = Device::flex();
        let ids = [ExampleId(0), ExampleId(1)];
        let batch = Batch::new(&ids, Tensor::from_floats([[0.75, 0.25], [0.75, 0.25]], &device))
            .with_self_labels(Tensor::from_floats([[0.1, 0.9], [0.1, 0.9]], &device));
        let mut refiner = Calibration { method: Method::Isotonic, ..Calibration::default() };
        refiner.prepare(&pool()).unwrap();
        let selection = Selection { own: Tensor::from_floats([0.0, 1.0], &device), ..Selection::weak(&batch) };
        let got = math::rows_to_host(refiner.refine(&batch, &selection, &mut Memory::default()));
        for (got, expected) in got.iter().zip([2.0 / 3.0, 1.0 / 3.0, 0.1, 0.9]) {
            assert!((got - expected).abs() < 1e-6, "{got} instead of {expected}");
        }
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let refused = |pool: Pool| Calibration::default().prepare(&pool).unwrap_err();
        assert!(refused(Pool { calibration: None, ..pool() }).contains("were not provided"));
        assert!(Calibration::default().fits(Form::Classes(3)).unwrap_err().contains("two classes"));
        let one_class = HeldOut { weak: vec![label(0.3); 2], truth: vec![0, 0] };
        assert!(refused(Pool { calibration: Some(one_class), ..pool() }).contains("class 1"));
    }
}
