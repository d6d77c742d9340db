//! What a person sees while a model trains: one line, or nothing when standard error is not a terminal.

use std::io::IsTerminal;

use burn::train::{
    logger::{EvaluationProgressLogger, MetricLogger, TrainingProgressLogger},
    metric::{
        MetricDefinition, NumericEntry,
        store::{EpochSummary, MetricsUpdate, Split},
    },
    renderer::{EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining},
};
use indicatif::{ProgressBar, ProgressStyle};

use super::run::{SharedMeter, lock};

/// A progress line on standard error under a title, if that is a terminal.
pub fn bar(title: &str) -> Option<ProgressBar> {
    std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::no_length().with_prefix(title.to_owned());
        style(&bar, 24);
        bar
    })
}

/// Gives a bar our look, `width` characters wide.
pub fn style(bar: &ProgressBar, width: usize) {
    let template = format!("{{prefix}}  {{bar:{width}}} {{pos}}/{{len}}  {{msg}}  {{eta}} left");
    bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
}

/// Shows the steps of burn-train on a bar.
pub(super) struct Display {
    bar: Option<ProgressBar>,
    meter: SharedMeter,
    /// Steps that were done before.
    first: usize,
}

impl Display {
    /// A display of `meter` on `bar`, if there is one, after so many steps that were done before.
    pub(super) fn new(bar: Option<ProgressBar>, meter: SharedMeter, first: usize) -> Self {
        Self { bar, meter, first }
    }

    /// Loss and agreement of the last steps, and speed.
    fn message(&self) -> String {
        const STEPS: usize = 20;
        let meter = lock(&self.meter);
        let steps = &meter.log.steps;
        let last = &steps[steps.len().saturating_sub(STEPS)..];
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
            (count > 0).then(|| sum / f64::from(count))
        };
        let mut parts = Vec::new();
        if let Some(loss) = mean(&mut last.iter().map(|step| step.loss)) {
            parts.push(format!("loss {loss:.4}"));
        }
        if let Some(agreement) = mean(&mut last.iter().filter_map(|step| step.accuracy)) {
            parts.push(format!("agreement {:.1} %", 100.0 * agreement));
        }
        parts.push(format!("{:.0} tokens/s", meter.speed()));
        parts.join("  ")
    }
}

impl TrainingProgressLogger for Display {
    fn start(&mut self, _epochs: usize, _first: usize, _items: Option<usize>, _label: Option<&str>) {}

    fn start_split(&mut self, _split: &str, items: usize) {
        if let Some(bar) = self.bar.as_ref().filter(|_| items > 0) {
            bar.set_length((self.first + items) as u64);
            bar.set_position(self.first as u64);
            bar.reset_eta();
        }
    }

    fn update_split(&mut self, items: usize) {
        // A hidden bar too: a stage's process has one, which its parent shows.
        if let Some(bar) = &self.bar {
            bar.set_message(self.message());
            bar.set_position((self.first + items) as u64);
        }
    }

    fn end_split(&mut self) {}

    fn update_epoch(&mut self, _epoch: usize) {}

    fn end(&mut self) {}

    fn log_event_training(&mut self, _event: String) {}
}

impl MetricsRendererTraining for Display {
    fn update_train(&mut self, _state: MetricState) {}

    fn update_valid(&mut self, _state: MetricState) {}
}

impl MetricsRendererEvaluation for Display {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl EvaluationProgressLogger for Display {
    fn start_global_progress(&mut self, _tests: usize) {}

    fn start_test(&mut self, _name: &str, _items: usize) {}

    fn update_test_progress(&mut self, _items: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRenderer for Display {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _definition: MetricDefinition) {}
}

/// Keeps no metric: [`TrainLog`](super::TrainLog) has them all. Without a logger burn-train would write files.
pub(super) struct Nowhere;

impl MetricLogger for Nowhere {
    fn log(&mut self, _update: MetricsUpdate, _epoch: usize, _split: &Split) {}

    fn read_numeric(&mut self, _name: &str, _epoch: usize, _split: &Split) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, _definition: MetricDefinition) {}

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::learner::{StepLog, run::Meter};

    #[test]
    fn the_line_says_how_the_last_steps_went() {
        let mut meter = Meter::default();
        for step in 0..30 {
            // The first ten are forgotten.
            let loss = if step < 10 { 100.0 } else { 0.5 };
            let accuracy = (step % 2 == 0).then_some(0.75);
            meter.log.steps.push(StepLog { step, loss, accuracy, learning_rate: 0.1, gradient_norm: None });
        }
        let bar = ProgressBar::hidden();
        let mut display = Display::new(Some(bar.clone()), Arc::new(Mutex::new(meter)), 0);
        let line = display.message();
        assert!(line.starts_with("loss 0.5000  agreement 75.0 %  0 tokens/s"), "{line}");
        // A stage's own bar is hidden, and its parent reads it.
        display.start_split("train", 30);
        display.update_split(3);
        assert_eq!((bar.length(), bar.position()), (Some(30), 3));
        assert!(bar.message().starts_with("loss 0.5000"), "{}", bar.message());
        display.start_split("valid", 0);
        assert_eq!(bar.length(), Some(30));
        // Tests do not run in a terminal.
        assert!(super::bar("a title").is_none() || std::io::stderr().is_terminal());
    }
}
