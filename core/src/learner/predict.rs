//! What a trained model says about a split.

use burn::{
    module::Module,
    tensor::{FloatDType, Tensor},
};

use super::{
    encoded::Encoded,
    run::{DIVERGED, Execution, guard, interrupted},
};
use crate::{
    Error, Result, alloc,
    model::{Classifier, Transformer},
};

/// Predictions for one split, in the split's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// One row of K logits per example.
    pub logits: Vec<Vec<f32>>,
    /// Softmax of the logits.
    pub probabilities: Vec<Vec<f32>>,
}

/// Logits and probabilities of every example.
///
/// # Errors
/// A number that is not finite (the model diverged), a panic inside of Burn, or an interruption.
pub fn predict(model: &Classifier, data: &Encoded, execution: &Execution) -> Result<Predictions> {
    let logits = map(model, data, execution, |model, rows| data.logits(rows, model.forward(&data.tokens(rows)).0))?;
    let probabilities = logits.iter().map(|row| softmax(row)).collect();
    Ok(Predictions { logits, probabilities })
}

/// What the judge beside a model's head says of each example: probabilities of not so and so, one row per example.
///
/// # Errors
/// No judge, a number that is not finite, a panic inside of Burn, or an interruption.
pub fn judge(model: &Classifier, data: &Encoded, execution: &Execution) -> Result<Vec<Vec<f32>>> {
    if model.judge.is_none() {
        return Err(Error::new("the model has no judge beside its head"));
    }
    let logits = map(model, data, execution, |model, rows| {
        let embedding = data.mean(rows, model.embed(&data.tokens(rows)));
        model.judge_logits(embedding.clone()).unwrap_or(embedding)
    })?;
    Ok(logits.iter().map(|row| softmax(row)).collect())
}

/// The pooled hidden state of every example: what the head sees; of examples that choose the mean over their candidates.
///
/// # Errors
/// A number that is not finite (the model diverged), a panic inside of Burn, or an interruption.
pub fn embed(model: &Classifier, data: &Encoded, execution: &Execution) -> Result<Vec<Vec<f32>>> {
    map(model, data, execution, |model, rows| data.mean(rows, model.embed(&data.tokens(rows))))
}

/// Applies a function of B examples `→ [B, width]` to every example on the plain device; similar lengths share a batch.
fn map(
    model: &Classifier,
    data: &Encoded,
    execution: &Execution,
    function: impl Fn(&Classifier, &[u32]) -> Tensor<2>,
) -> Result<Vec<Vec<f32>>> {
    alloc::refuse_for_a_test("predict");
    let model = model.valid().on_backbone(Transformer::held);
    let mut order: Vec<u32> = (0..data.len() as u32).collect();
    order.sort_by_key(|&row| data.length(row as usize));
    execution.begins("predicting", data.len() as u64);
    let mut results = vec![Vec::new(); data.len()];
    let compute = |rows: &[u32]| -> Result<Vec<f32>> {
        let result = function(&model, rows).cast(FloatDType::F32);
        Ok(result.into_data().iter::<f32>().collect())
    };
    for rows in order.chunks(execution.predict_batch.max(1)) {
        if execution.stopped() {
            return Err(interrupted());
        }
        let values = in_halves(rows, &compute)?;
        for (&row, values) in rows.iter().zip(values.chunks_exact(values.len() / rows.len())) {
            if values.iter().any(|value| !value.is_finite()) {
                return Err(
                    Error::not_finite(format!("the model's answer to example {row} is not finite")).help(DIVERGED)
                );
            }
            results[row as usize] = values.to_vec();
        }
        if let Some(bar) = &execution.bar {
            bar.inc(rows.len() as u64);
        }
    }
    Ok(results)
}

/// Computes all rows at once or, where that panics for want of memory, half of them after the other: a training that is done is not lost
/// because its model cannot predict so many at a time. What panics for a single row is an error.
pub(super) fn in_halves<T>(rows: &[u32], compute: &impl Fn(&[u32]) -> Result<Vec<T>>) -> Result<Vec<T>> {
    match guard(|| compute(rows)) {
        Err(_) if rows.len() > 1 => {
            let (first, second) = rows.split_at(rows.len() / 2);
            let mut values = in_halves(first, compute)?;
            values.extend(in_halves(second, compute)?);
            Ok(values)
        }
        done => done?,
    }
}

/// Softmax in f32, shifted by the largest logit.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
