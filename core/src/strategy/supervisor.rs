//! What a supervisor asks for, and what it hands over.

/// The parts of a task's data.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Ground truth for the weak model (the reference's half 1).
    Supervise,
    /// What the student trains on (half 2); its ground truth is hidden from every method that does not declare it.
    Transfer,
    /// What everybody is tested on.
    Test,
    /// Examples cut out of the supervisor's half, on which no model is trained: their ground truth says how often the supervisor is right.
    /// Empty unless the grid asks for it (`[data] n_validation`).
    Validation,
}

impl Split {
    /// The name in results and files.
    pub fn name(self) -> &'static str {
        match self {
            Split::Supervise => "supervise",
            Split::Transfer => "transfer",
            Split::Test => "test",
            Split::Validation => "validation",
        }
    }
}

/// Soft labels of one split, one row of K probabilities per example. On words they are shares of what was given as answers: K is how many a
/// supervisor [asked](super::Supervisor::asks) for, and the same answer is in the same place.
pub type Labels = Vec<Vec<f32>>;

/// Which model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The pair's weak model.
    Weak,
    /// The pair's strong model.
    Strong,
    /// A model by its name: `[model.NAME]` of the grid, or `configs/models/NAME.toml`.
    Named(String),
}

impl Role {
    /// The model that a configuration means by a word: `weak` and `strong` are the pair's, any other is a name.
    pub fn of(word: &str) -> Self {
        match word {
            "weak" => Role::Weak,
            "strong" => Role::Strong,
            name => Role::Named(name.to_owned()),
        }
    }
}

/// Labels of the splits that the student and the tests see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Supervision {
    /// Labels for [`Split::Transfer`].
    pub transfer: Labels,
    /// Labels for [`Split::Test`], which are scored as the weak model's performance.
    pub test: Labels,
    /// Labels for [`Split::Validation`], with which methods learn how far the others can be trusted; none where that split is empty.
    pub validation: Labels,
}

impl Supervision {
    /// The labels of a split; none of the one that the weak model is trained on.
    pub fn of(&self, split: Split) -> &Labels {
        static NONE: Labels = Labels::new();
        match split {
            Split::Supervise => &NONE,
            Split::Transfer => &self.transfer,
            Split::Test => &self.test,
            Split::Validation => &self.validation,
        }
    }

    /// The same, to be changed; of [`Split::Supervise`], which has none, those of the transfer split.
    pub(crate) fn of_mut(&mut self, split: Split) -> &mut Labels {
        match split {
            Split::Supervise | Split::Transfer => &mut self.transfer,
            Split::Test => &mut self.test,
            Split::Validation => &mut self.validation,
        }
    }

    /// The mean of several, example by example; empty of none.
    pub fn mean(all: &[Self]) -> Self {
        let of = |split: Split| mean(&all.iter().map(|one| one.of(split)).collect::<Vec<_>>());
        Self { transfer: of(Split::Transfer), test: of(Split::Test), validation: of(Split::Validation) }
    }

    /// The same done to the labels of every split.
    pub fn map(&self, mut change: impl FnMut(Split, &Labels) -> Labels) -> Self {
        Self {
            transfer: change(Split::Transfer, &self.transfer),
            test: change(Split::Test, &self.test),
            validation: change(Split::Validation, &self.validation),
        }
    }
}

/// The mean of several labels of the same examples; empty of none.
pub(crate) fn mean(all: &[&Labels]) -> Labels {
    let Some(first) = all.first() else { return Labels::new() };
    let mean = |(row, label): (usize, &Vec<f32>)| {
        let mut sums = vec![0.0; label.len()];
        for labels in all {
            sums.iter_mut().zip(&labels[row]).for_each(|(sum, share)| *sum += f64::from(*share));
        }
        sums.into_iter().map(|sum: f64| (sum / all.len() as f64) as f32).collect()
    };
    first.iter().enumerate().map(mean).collect()
}

/// What a supervisor asks the engine to make before it labels. Every answer has labels for the transfer, the test and the validation split.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ask {
    /// Soft labels of a model, fine-tuned on the ground truth of a split with the grid's recipe.
    FineTuned {
        /// Which model.
        role: Role,
        /// What it is trained on: [`Split::Supervise`], or [`Split::Transfer`], which results then say.
        on: Split,
        /// Which of several such models, from 0, which has the cell's seed: each other has its own seed and order of rows.
        copy: usize,
        /// Whether it is trained on as many rows drawn from the split with replacement, from that seed.
        bagged: bool,
    },
    /// Soft labels of a model that is fine-tuned on the labels that another answer has for the transfer split: a link of a chain.
    Taught {
        /// Whose labels it learns.
        by: Box<Ask>,
        /// Which model.
        role: Role,
        /// Whether two of them are trained, on one half of the split each, so that none labels what it was trained on; on other splits their
        /// mean counts. Else one is trained on the whole split, and labels it.
        halves: bool,
    },
    /// Soft labels of a pretrained language model that is not fine-tuned: the probabilities it gives to the words that the task has for each
    /// class, after examples of the supervisor's half with their answers.
    Prompted {
        /// Which model.
        role: Role,
        /// How many answered examples it is shown, the same before each question.
        shots: usize,
    },
    /// Labels of people, or of anything else outside: what stands in a file (docs/supervisors.md).
    File {
        /// Where it is. `{task}` and `{seed}` stand for those of the cell.
        path: String,
        /// Whether the file may have labels for examples that the task does not use.
        others: bool,
    },
    /// Ground truth as one-hot labels; results then say that it reached the student.
    Truth,
    /// On words a wrong answer to each example: what is right of another one, drawn by the stage's seed. Elsewhere, where wrong answers need not
    /// be looked for, ground truth again. Results say that truth was used.
    Wrong,
}

impl Ask {
    /// One model, fine-tuned on the ground truth of a split.
    pub fn fine_tuned(role: Role, on: Split) -> Self {
        Ask::FineTuned { role, on, copy: 0, bagged: false }
    }

    /// Whether ground truth of the student's examples is in the answer.
    pub fn uses_truth_of_transfer(&self) -> bool {
        match self {
            Ask::Truth | Ask::Wrong => true,
            Ask::FineTuned { on, .. } => *on == Split::Transfer,
            Ask::Taught { by, .. } => by.uses_truth_of_transfer(),
            Ask::File { .. } | Ask::Prompted { .. } => false,
        }
    }

    /// The model that answers, if one does.
    pub fn model(&self) -> Option<&Role> {
        match self {
            Ask::FineTuned { role, .. } | Ask::Taught { role, .. } | Ask::Prompted { role, .. } => Some(role),
            Ask::File { .. } | Ask::Truth | Ask::Wrong => None,
        }
    }

    /// It, and those that must be answered before it.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |ask| match ask {
            Ask::Taught { by, .. } => Some(by),
            _ => None,
        })
    }

    /// Names of the models that it wants beside the pair's.
    pub fn named(&self) -> Vec<&str> {
        fn name(ask: &Ask) -> Option<&str> {
            match ask.model() {
                Some(Role::Named(name)) => Some(name),
                _ => None,
            }
        }
        self.all().filter_map(name).collect()
    }

    /// Whether the stage that answers enters the identity of the labels that are made of it. Ground truth and models of the pair, fine-tuned on it,
    /// do not: they follow from the supervisor's parameters, the pair and the data, and were there before anything else could be asked for.
    pub fn is_named(&self) -> bool {
        !matches!(self, Ask::Truth | Ask::Wrong | Ask::FineTuned { role: Role::Weak | Role::Strong, .. })
    }
}

/// What a supervisor labels with.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The answers to what it [asked](super::Supervisor::asks) for, in that order.
    pub answers: Vec<Supervision>,
    /// Seed of this stage, for a supervisor that draws at random.
    pub seed: u64,
}
