//! What a strategy author writes against: four traits, what they see, and one line that registers.
//!
//! A strategy is a serde struct (the configured value) and a pure function. It never trains, downloads, caches or reads a
//! file: it declares what it [needs](Needs), and the engine provides it. `docs/plugin.md` walks through one.

mod batch;
mod card;
pub mod conformance;
mod form;
pub mod math;
mod memory;
mod settings;
mod supervisor;
mod tokens;

use burn::tensor::Tensor;

pub use batch::{Batch, Calibration, ExampleId, Needs, Pool, Progress, Selection};
pub use card::{Card, Kind, Parameter, Probe, all, check_names, check_registry, find, of_kind};
pub use form::{Form, no_words, only_classes, two_classes};
pub use memory::Memory;
pub use settings::{Settings, whole};
pub(crate) use supervisor::mean;
pub use supervisor::{Ask, Given, Labels, Role, Split, Supervision};
pub use tokens::{TokenNumbers, TokenView};

// What `register!` names, so that a plugin needs no further line.
#[doc(hidden)]
pub mod __private {
    pub use super::card::{example, probe, schema};
    pub use inventory;
}

/// A parameter that is out of its range: the parameter's name and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Name of the parameter as in the configuration.
    pub parameter: &'static str,
    /// What is wrong, e.g. `must be between 0 and 1, not 1.5`.
    pub message: String,
}

impl Invalid {
    /// Refuses `parameter` with a message.
    pub fn new(parameter: &'static str, message: impl Into<String>) -> Self {
        Self { parameter, message: message.into() }
    }

    /// Checks that a number lies in a closed range (and is finite).
    ///
    /// # Errors
    /// Names the parameter, the range and the value.
    pub fn unless_within(parameter: &'static str, value: f64, low: f64, high: f64) -> Result<(), Self> {
        if value.is_finite() && (low..=high).contains(&value) {
            return Ok(());
        }
        let message = match (low.is_finite(), high.is_finite()) {
            (true, false) => format!("must be at least {low}, not {value}"),
            (false, true) => format!("must be at most {high}, not {value}"),
            _ => format!("must be between {low} and {high}, not {value}"),
        };
        Err(Self::new(parameter, message))
    }
}

/// What strategies of every kind promise, written down once: methods with defaults, which each trait takes as its own.
///
/// A macro instead of a trait above the four, so that an author writes one `impl` and overrides in it what matters.
macro_rules! promises {
    (trained) => {
        /// Called once, before training, with everything that will be trained on: for statistics of the whole data set.
        ///
        /// # Errors
        /// A sentence for the user, when the method cannot work on this data.
        fn prepare(&mut self, _pool: &Pool) -> Result<(), String> {
            Ok(())
        }

        /// Called once, after training: what the user should know, in one sentence. Nothing, unless overridden.
        fn remark(&self, _memory: &mut Memory) -> Option<String> {
            None
        }

        /// What the engine must provide besides the weak labels.
        fn needs(&self) -> Needs {
            Needs::default()
        }

        /// Names of the columns that it reads: numbers of each example, made by stages of their own or by a head that is trained along. They are
        /// in [`Batch::column`], and before training in [`Pool::columns`].
        fn columns(&self) -> Vec<String> {
            Vec::new()
        }

        /// Refuses numbers of a [column](Self::columns) that it reads: before anything runs where they are known then, as those that the data
        /// have of each example, and before training where they are not. Any numbers will do, unless overridden.
        ///
        /// # Errors
        /// A sentence for the user.
        fn reads(&self, _column: &str, _numbers: &[f32]) -> Result<(), String> {
            Ok(())
        }
    };
    (checked) => {
        /// Refuses tasks that it cannot be used on, before anything runs. Any number of classes and of candidates fits, unless overridden, and
        /// words do not: what a strategy does there it says by letting them pass.
        ///
        /// # Errors
        /// A sentence for the user; [`two_classes`], [`no_words`] and [`only_classes`] have some.
        fn fits(&self, form: Form) -> Result<(), String> {
            no_words(form, form::SILENT)
        }

        /// Refuses parameters outside their range, before anything runs.
        ///
        /// # Errors
        /// The parameter and what is wrong with it.
        fn validate(&self) -> Result<(), Invalid> {
            Ok(())
        }
    };
}

/// Turns the student's logits and the refined labels into a loss.
///
/// Two steps, because some losses decide on the whole batch what each row's target is (the auxiliary confidence loss takes a
/// quantile over it) while gradients may be accumulated over micro-batches: [`targets`](StudentLoss::targets) sees the whole
/// batch and no gradient, [`loss`](StudentLoss::loss) sees any part of it, row by row.
pub trait StudentLoss: std::fmt::Debug + Send + Sync {
    /// Row-wise loss `[B]`, in nats, from logits `[B, K]` (gradients flow) and this loss's own targets `[B, M]` (detached).
    ///
    /// Rows must not see each other here: the engine may call it on parts of a batch. The engine takes the mean.
    fn loss(&self, logits: Tensor<2>, targets: Tensor<2>, at: &Progress) -> Tensor<1>;

    /// Targets from the whole batch: detached logits `[B, K]` and labels `[B, K]`. The labels themselves, unless overridden.
    ///
    /// The engine only cuts targets into rows, so a loss may put more than K columns into them when its
    /// [`loss`](StudentLoss::loss) needs two things side by side. A row need not sum to one; a row of zeros drops out of
    /// losses that are linear in the target. Whatever is computed from the logits but must carry no gradient belongs here.
    fn targets(&self, _logits: Tensor<2>, labels: Tensor<2>, _at: &Progress, _memory: &mut Memory) -> Tensor<2> {
        labels
    }

    /// The same for a loss that reads what else is known of the rows, such as a [column](Batch::column): [`targets`](StudentLoss::targets)
    /// alone, unless overridden. The engine calls this one.
    fn targets_of(&self, batch: &Batch, logits: Tensor<2>, labels: Tensor<2>, memory: &mut Memory) -> Tensor<2> {
        self.targets(logits, labels, &batch.progress, memory)
    }

    /// On words: the loss of each answer token `[T]`, in nats. A loss that has one also lets [`Form::Words`] pass in `fits`.
    ///
    /// Labels are hard here, and the tokens of an answer are taken one by one, each as if it were a row with a class per word. Where the same loss
    /// is defined on classes, both must agree: on answers of one token over a vocabulary of K words this is the loss of K classes with a hard
    /// label. Tokens must not see each other: the engine calls it on parts of a batch, and takes the mean. What must carry no gradient is taken
    /// from [`TokenView::still`].
    fn tokens(&self, _tokens: &TokenView, _at: &Progress) -> Option<Tensor<1>> {
        None
    }

    /// On words: how much each row of the whole batch counts `[B]`, beside what the selector says. `surprise` `[B]` is the mean of −log p over
    /// the tokens of the row's answer, without gradient; it takes a pass of its own through the model, so the engine asks only those that
    /// [need](Needs::student) it.
    fn weigh(&self, surprise: Tensor<1>, _at: &Progress, _memory: &mut Memory) -> Tensor<1> {
        surprise.ones_like()
    }

    promises!(trained);
    promises!(checked);
}

/// Decides per row of a batch whose label is trusted, and how much the row counts.
pub trait Selector: std::fmt::Debug + Send + Sync {
    /// Per row: the weak label or the student's own, and a weight (0 drops the row).
    fn select(&self, batch: &Batch, memory: &mut Memory) -> Selection;

    /// The examples that are trained on, decided once before training: one flag for each of the pool, or all of them. What is left out here
    /// takes no part in any step, so that training is shorter; a weight of 0 in [`select`](Selector::select) leaves its step as it is.
    fn choose(&self, _pool: &Pool) -> Option<Vec<bool>> {
        None
    }

    promises!(trained);
    promises!(checked);
}

/// Turns selected labels into refined ones.
pub trait LabelRefiner: std::fmt::Debug + Send + Sync {
    /// Refined labels `[B, K]`, detached. Start from [`Selection::labels`].
    fn refine(&self, batch: &Batch, selection: &Selection, memory: &mut Memory) -> Tensor<2>;

    promises!(trained);
    promises!(checked);
}

/// Produces weak labels for the student's examples: says what must be made first, and is then a pure function of it.
pub trait Supervisor: std::fmt::Debug + Send + Sync {
    /// What must be made before it labels. What is asked for here is a stage of its own, shared with whoever asks for the same.
    fn asks(&self) -> Vec<Ask>;

    /// Labels for [`Split::Transfer`] (the student trains on them), [`Split::Test`] (the weak score) and [`Split::Validation`] (empty in
    /// most grids; never trained on), from the answers to what it asked for.
    ///
    /// # Errors
    /// A sentence for the user, where answers cannot be made into labels.
    fn supervise(&self, given: &Given) -> Result<Supervision, String>;

    promises!(checked);
}

// The configured values: what a configuration holds and typetag knows by name. `register!` implements them.

/// A [`StudentLoss`] as a configuration holds it. Implemented by [`register!`](crate::register) alone.
#[typetag::serde(tag = "type")]
pub trait ConfiguredLoss: StudentLoss {}

/// A [`Selector`] as a configuration holds it. Implemented by [`register!`](crate::register) alone.
#[typetag::serde(tag = "type")]
pub trait ConfiguredSelector: Selector {}

/// A [`LabelRefiner`] as a configuration holds it. Implemented by [`register!`](crate::register) alone.
#[typetag::serde(tag = "type")]
pub trait ConfiguredRefiner: LabelRefiner {}

/// A [`Supervisor`] as a configuration holds it. Implemented by [`register!`](crate::register) alone.
#[typetag::serde(tag = "type")]
pub trait ConfiguredSupervisor: Supervisor {}

/// Registers a strategy under one name: typetag entry, card and conformance tests.
///
/// ```ignore
/// register!(loss "js" for Js, paper = "Yao et al. 2025a, f-divergence with generator of Jensen–Shannon");
/// ```
///
/// The struct derives `Debug, Clone, Default, Serialize, Deserialize, JsonSchema` with `#[serde(default, deny_unknown_fields)]`;
/// its doc comment is the card's text, and each field's doc comment ends in a line `Origin: …` that says where the default is from.
/// `version = 2` marks a change of behaviour (old results are kept apart), `changed = [field = "value"]` one that only configurations with
/// that value see; `later = ["field"]` names parameters that were added
/// after results existed, so that their defaults leave old identities as they are; `aside = ["field"]` those on which results do not depend by
/// themselves, such as where a file is; they enter no identity.
#[macro_export]
macro_rules! register {
    ($kind:ident $name:literal for $type:ty, paper = $paper:expr $(, version = $version:expr)? $(, changed = [$($choice:ident = $value:literal),*])? $(, later = [$($later:expr),*])? $(, aside = [$($aside:expr),*])? $(,)?) => {
        $crate::register!(@configured $kind $name $type);
        $crate::strategy::__private::inventory::submit! {
            $crate::strategy::Card {
                kind: $crate::register!(@kind $kind),
                name: $name,
                paper: $paper,
                version: { #[allow(unused_mut, unused_assignments)] let mut version = 1u32; $(version = $version;)? version },
                changed: &[$($((stringify!($choice), stringify!($value))),*)?],
                later: &[$($($later),*)?],
                aside: &[$($($aside),*)?],
                file: file!(),
                line: line!(),
                schema: $crate::strategy::__private::schema::<$type>,
                example: $crate::strategy::__private::example::<$type>,
                probe: $crate::strategy::__private::probe::<$type>,
            }
        }
    };
    (@kind loss) => { $crate::strategy::Kind::Loss };
    (@kind selector) => { $crate::strategy::Kind::Selector };
    (@kind refiner) => { $crate::strategy::Kind::Refiner };
    (@kind supervisor) => { $crate::strategy::Kind::Supervisor };
    (@configured loss $name:literal $type:ty) => {
        #[typetag::serde(name = $name)]
        impl $crate::strategy::ConfiguredLoss for $type {}
    };
    (@configured selector $name:literal $type:ty) => {
        #[typetag::serde(name = $name)]
        impl $crate::strategy::ConfiguredSelector for $type {}
    };
    (@configured refiner $name:literal $type:ty) => {
        #[typetag::serde(name = $name)]
        impl $crate::strategy::ConfiguredRefiner for $type {}
    };
    (@configured supervisor $name:literal $type:ty) => {
        #[typetag::serde(name = $name)]
        impl $crate::strategy::ConfiguredSupervisor for $type {}
    };
}
