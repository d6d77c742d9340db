use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Invalid, Role, Split, Supervision, Supervisor};

/// Bootstrapping: the weak model's labels teach a model, whose labels teach the next, and the last one's labels teach the student.
///
/// Each link is fine-tuned on what the one before says of the student's half, and is a stage of its own.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Chain {
    /// The links after the weak model, in their order: `weak` and `strong` are the pair's models, any other word is a model of `configs/models`
    /// or of the grid. Origin: multi-capabilities W2SG, WTS-2, and EleutherAI/w2s, `s2s`: one link, the strong model itself; Burns et al. take two
    /// of sizes between weak and strong.
    pub through: Vec<String>,
    /// What a link is trained on and labels: `halves` trains it twice, on one half of the rows each, and lets each label the other half;
    /// `same` trains it on all rows and lets it label these. Origin: original; nothing readable says how Burns et al. do it on NLP, in chess each
    /// link has new rows.
    pub rows: Rows,
    /// Whose predictions on the test split are the weak performance, from which the gap is counted: the `weak-model`, or the `last-link`. Origin:
    /// Burns et al. 2023, whose gap of a chain is that of its two ends.
    pub gap_from: End,
}

/// What a link is trained on and labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// Two models, each trained on one half and labelling the other.
    #[default]
    Halves,
    /// One model that labels what it was trained on.
    Same,
}

/// From where the gap is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The beginning of the chain.
    #[default]
    WeakModel,
    /// Its end.
    LastLink,
}

impl Default for Chain {
    fn default() -> Self {
        Self { through: vec!["strong".to_owned()], rows: Rows::default(), gap_from: End::default() }
    }
}

impl Supervisor for Chain {
    fn asks(&self) -> Vec<Ask> {
        let weak = Ask::fine_tuned(Role::Weak, Split::Supervise);
        let halves = self.rows == Rows::Halves;
        let link = |by, model: &String| Ask::Taught { by: Box::new(by), role: Role::of(model), halves };
        vec![self.through.iter().fold(weak.clone(), link), weak]
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        let [last, weak] = [&given.answers[0], &given.answers[1]].map(Supervision::clone);
        Ok(match self.gap_from {
            End::WeakModel => Supervision { test: weak.test, ..last },
            End::LastLink => last,
        })
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        match self.through.is_empty() {
            true => Err(Invalid::new("through", "must name at least one model; without links it is `fine-tuned`")),
            false => Ok(()),
        }
    }
}

register!(supervisor "chain" for Chain, paper = "Burns et al. 2023 (arXiv 2312.09390), Section 4.3.1, bootstrapping");
