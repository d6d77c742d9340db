//! `agrees` of a method or a grid: a judge of labels, trained on where the student agrees with them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    knowing::{Shared, over},
    model::recipe_table,
};
use crate::{
    Result,
    document::Section,
    learner::Recipe,
    stage::{JudgeBalance, JudgeInit, JudgeLoss, JudgeSettings},
};

/// Name of the column.
pub const AGREES: &str = "agrees";

/// `agrees` of a method or a grid (multi-capabilities W2SG, section 4): how a judge of labels is trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Agrees {
    /// In how many parts the examples are cut, each judged by a judge that was trained on the others; 0 lets one judge, trained on all of
    /// them, judge all: [`JudgeSettings::folds`].
    pub folds: usize,
    /// `cross-entropy`, or `difference`: [`JudgeSettings::loss`].
    pub loss: JudgeLoss,
    /// `none`, `undersample` or `weight`: [`JudgeSettings::balance`].
    pub balance: JudgeBalance,
    /// `pretrained`, or `student`: [`JudgeSettings::init`].
    pub init: JudgeInit,
    /// Training settings of the judge, over those of the strong model.
    #[schemars(with = "Recipe")]
    pub train: toml::Table,
}

impl Agrees {
    /// What enters the judge's identity.
    pub fn settings(&self) -> JudgeSettings {
        let Self { folds, loss, balance, init, .. } = *self;
        JudgeSettings { folds, loss, balance, init }
    }
}

impl Shared<'_> {
    /// A method's table over the grid's.
    pub(super) fn agrees(&self, own: Option<&Section>) -> Result<Agrees> {
        let tables = [self.agrees.as_ref(), own];
        for table in tables.into_iter().flatten() {
            recipe_table(table)?;
        }
        let (settings, at): (Agrees, _) = over(tables)?;
        match at.filter(|_| settings.folds == 1) {
            Some(at) => {
                Err(at.get("folds").unwrap_or(at).error("`folds = 1` would leave a judge nothing to learn from").help(
                    "write 0 for one judge that judges what it was trained on, as the paper reads, or at least 2",
                ))
            }
            None => Ok(settings),
        }
    }
}
