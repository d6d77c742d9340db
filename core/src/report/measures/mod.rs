//! Metrics beside those of [`metrics`](super::metrics). One file here makes one: what it is, and how it is computed. Nothing else lists them.

include!(concat!(env!("OUT_DIR"), "/measures.rs"));

use super::metrics::{Estimate, Measure, Metric};
use crate::stage::{Labels, Truth};

/// What is measured: what a weak model, a student or a ceiling says of the test, beside the truth.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// What it says of each item.
    pub own: &'a Labels,
    /// What the weak model says of it; none where that is what is measured, or not there.
    pub weak: Option<&'a Labels>,
    /// The truth.
    pub truth: &'a Truth,
    /// Which items belong together, if the task says so.
    pub groups: Option<&'a [u64]>,
}

/// A metric that there is, as its file registers it with `inventory::submit!`.
#[derive(Debug)]
pub struct Further {
    /// What is known about it by name.
    pub metric: Metric,
    /// Its value; none where it is not defined on what is measured, of which there is no row in the results then.
    pub of: fn(&Measured) -> Option<Estimate>,
}

inventory::collect!(Further);

/// Every one of them, by its name.
pub fn all() -> Vec<&'static Further> {
    let mut all: Vec<&Further> = inventory::iter::<Further>.into_iter().collect();
    all.sort_by_key(|further| further.metric.name);
    all
}

/// All that are defined on what is measured.
pub fn measure(measured: &Measured) -> Vec<Measure> {
    let of = |further: &Further| {
        let Estimate { value, n, .. } = (further.of)(measured)?;
        Some(Measure { metric: further.metric.name, value: Some(value), n })
    };
    all().into_iter().filter_map(of).collect()
}
