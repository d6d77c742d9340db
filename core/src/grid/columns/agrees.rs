//! `agrees`: whether weak model and student would agree on a label, by a judge that is trained on where they do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Asked, Column, Known};
use crate::{
    Error, Result,
    grid::{
        asked::{Knowledge, Made, trains},
        config::recipe_table,
    },
    learner::Recipe,
    stage::{
        DataRef, JudgeBalance, JudgeInit, JudgeLoss, JudgeSettings, StageId,
        kinds::{gather::Gather, judge::Judge, portion::Portion, student},
    },
    strategy::Split,
};

/// `agrees` of a method or a grid (multi-capabilities W2SG, section 4): how a judge of labels is trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Agrees {
    /// In how many parts the examples are cut, each judged by a judge that was trained on the others; 0 lets one judge, trained on all of
    /// them, judge all: [`JudgeSettings::folds`].
    folds: usize,
    /// `cross-entropy`, or `difference`: [`JudgeSettings::loss`].
    loss: JudgeLoss,
    /// `none`, `undersample` or `weight`: [`JudgeSettings::balance`].
    balance: JudgeBalance,
    /// `pretrained`, or `student`: [`JudgeSettings::init`].
    init: JudgeInit,
    /// In a suite, `suite` for one judge on the answers to all its tasks, or `task` for one on those to each. Origin: the paper's one reward model.
    per: Per,
    /// Training settings of the judge, over those of the strong model.
    #[schemars(with = "Recipe")]
    train: toml::Table,
}

/// What one judge is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Per {
    /// Everything that the student learns.
    #[default]
    Suite,
    /// A single task.
    Task,
}

inventory::submit! {
    Known { name: "agrees", title: "the judge, `agrees`", read, schema: |generator| generator.subschema_for::<Agrees>() }
}

/// A method's table over the grid's.
fn read(asked: &Asked) -> Result<Box<dyn Column>> {
    asked.tables().try_for_each(|table| recipe_table(table).map(|_| ()))?;
    let settings: Agrees = asked.settings()?;
    if settings.folds == 1 {
        return Err(asked
            .error("folds", "`folds = 1` would leave a judge nothing to learn from")
            .help("write 0 for one judge that judges what it was trained on, as the paper reads, or at least 2"));
    }
    Ok(Box::new(settings))
}

impl Column for Agrees {
    fn make(&self, around: &Knowledge, made: &mut Made) -> Result<student::Column> {
        let supervision = around.supervision()?;
        let recipe = around.grid.recipe_over(around.config, around.on, &self.train)?;
        let (student, own) = around.relabelled(supervision, made)?;
        let judge = |data: &DataRef, weak: StageId, own: StageId, made: &mut Made| {
            let rows = data.examples.get(Split::Transfer.name()).copied().unwrap_or(0);
            if self.folds > rows {
                let message = format!("task `{}`: {rows} examples cannot be judged in {} folds", data.task, self.folds);
                return Err(Error::new(message).help("lower `folds` in `agrees`; 5 or 10 are usual"));
            }
            trains(&recipe, data, Split::Transfer).map_err(|error| error.context(super::title("agrees")))?;
            let Self { folds, loss, balance, init, .. } = *self;
            made.push(Judge {
                model: around.strong.clone(),
                recipe: recipe.clone(),
                data: data.clone(),
                weak,
                student: student.clone(),
                own,
                settings: JudgeSettings { folds, loss, balance, init },
                seed: around.seed,
            })
        };
        if self.per == Per::Suite || around.parts.is_empty() {
            return Ok(student::Column::Stage { scores: judge(around.data, supervision.clone(), own, made)? });
        }
        let rows = around.data.read(around.desk.store)?.portion_rows(Split::Transfer);
        let mut of = Vec::with_capacity(around.parts.len());
        for (place, (data, rows)) in around.parts.iter().zip(rows).enumerate() {
            let suite = around.data;
            let mut part =
                |of: &StageId| made.push(Portion { of: of.clone(), suite: suite.clone(), data: data.clone(), place });
            // Of a task that the student is left without nothing is judged.
            of.push(match rows.is_empty() {
                true => supervision.clone(),
                false => {
                    let (weak, own) = (part(supervision)?, part(&own)?);
                    judge(data, weak, own, made)?
                }
            });
        }
        Ok(student::Column::Stage { scores: made.push(Gather { of, data: around.data.clone() })? })
    }

    fn compares(&self, around: &Knowledge, made: &mut Made) -> Result<Option<StageId>> {
        let (_, own) = around.relabelled(around.supervision()?, made)?;
        Ok(Some(own))
    }

    fn of_weak_labels(&self) -> bool {
        true
    }

    fn train(&self) -> Option<&toml::Table> {
        Some(&self.train)
    }
}
