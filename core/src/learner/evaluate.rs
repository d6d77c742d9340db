//! What a model says in the midst of its training. It is kept in the log, as it is: what it is worth is found out when results are measured, so
//! that truth stays out of trainings, and a training that is taken up has what was said before.

use std::{fmt, sync::Arc};

use serde_json::Value;

use crate::{
    Result,
    model::{Classifier, Transformer},
};

/// A model that is being trained.
#[derive(Clone, Copy, Debug)]
pub enum Halfway<'a> {
    /// It gives classes, or candidates, probabilities.
    Chooses(&'a Classifier),
    /// It writes.
    Writes(&'a Transformer),
}

type Say = dyn Fn(Halfway) -> Result<Value> + Send + Sync;

/// When a model is asked while it is trained, and what.
#[derive(Clone)]
pub struct Evaluate {
    /// After which parts of the steps, above 0 and at most 1.
    pub at: Vec<f64>,
    /// What it says. It must change nothing of the model, and end also where somebody asks to stop: whoever goes on begins behind it.
    pub say: Arc<Say>,
}

impl fmt::Debug for Evaluate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evaluate({:?})", self.at)
    }
}

impl Evaluate {
    /// What it says after so many steps of so many, if it is asked then.
    ///
    /// # Errors
    /// Whatever it fails at.
    pub(super) fn after(&self, done: usize, steps: usize, model: Halfway) -> Result<Option<Value>> {
        let is_due = self.at.iter().any(|part| (part * steps as f64 - 1e-9).ceil().max(1.0) as usize == done);
        is_due.then(|| (self.say)(model)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::learner::tests::classifier_of;

    #[test]
    fn parts_of_a_training_are_whole_steps() {
        let model = classifier_of(&crate::learner::tests::spec(8, 1), false);
        assert_eq!(model.backbone.device(), Device::flex());
        let evaluate = Evaluate { at: vec![0.001, 0.25, 0.3, 1.0], say: Arc::new(|_| Ok(Value::Null)) };
        let asked = |steps: usize| -> Vec<usize> {
            let is = |done: &usize| evaluate.after(*done, steps, Halfway::Chooses(&model)).unwrap().is_some();
            (1..=steps).filter(is).collect()
        };
        assert_eq!(asked(10), [1, 3, 10]);
        assert_eq!(asked(20), [1, 5, 6, 20]);
        assert_eq!(asked(1), [1]);
    }
}
