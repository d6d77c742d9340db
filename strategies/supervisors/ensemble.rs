use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Invalid, Labels, Role, Split, Supervision, Supervisor};

/// Several models, each fine-tuned on ground truth of the other half of the data, who label together.
///
/// Members differ in their models, in the seeds of their heads and of the order of their examples, and, when bagged, in their examples. Each
/// is a stage of its own. Labels are the mean of their probabilities, or the class that most of them vote for.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ensemble {
    /// Who is a member: `weak` and `strong` are the pair's models, any other word is a model of `configs/models` or of the grid. Origin:
    /// original; the ensembles of the field are made of the weak model.
    pub models: Vec<String>,
    /// Members of each model, from seeds of their own. Origin: arXiv 2501.13124, which fine-tunes four weak models.
    pub copies: usize,
    /// What each member is trained on: `all` rows of the supervisor's half, or `bagged`, as many drawn from them with replacement. Origin: Breiman
    /// 1996, Bagging predictors; ADaM-BJTU/W2SG.
    pub rows: Rows,
    /// How members make one label: the `mean` of their probabilities, or the `majority` of their votes as a hard label, ties broken by the mean.
    /// Origin: arXiv 2501.13124, the mean of soft labels.
    pub combine: Combine,
}

/// What each member is trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// Every row.
    #[default]
    All,
    /// As many rows, drawn with replacement.
    Bagged,
}

/// How members make one label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Combine {
    /// The mean of their probabilities.
    #[default]
    Mean,
    /// The class that most of them find likeliest.
    Majority,
}

impl Default for Ensemble {
    fn default() -> Self {
        Self { models: vec!["weak".to_owned()], copies: 4, rows: Rows::default(), combine: Combine::default() }
    }
}

/// Class of the highest number, the first of several.
fn highest(numbers: &[f32]) -> usize {
    (1..numbers.len()).fold(0, |best, class| if numbers[class] > numbers[best] { class } else { best })
}

/// One-hot of the class that most members find likeliest; of several such the one with the highest mean.
fn majority<'a>(members: impl Iterator<Item = &'a Vec<f32>>, mean: &[f32]) -> Vec<f32> {
    let mut votes = vec![0usize; mean.len()];
    members.for_each(|label| votes[highest(label)] += 1);
    let most = votes.iter().copied().max().unwrap_or(0);
    let tied: Vec<f32> = votes.iter().zip(mean).map(|(n, mean)| if *n == most { *mean } else { -1.0 }).collect();
    let winner = highest(&tied);
    (0..mean.len()).map(|class| f32::from(u8::from(class == winner))).collect()
}

impl Supervisor for Ensemble {
    fn asks(&self) -> Vec<Ask> {
        let bagged = self.rows == Rows::Bagged;
        let member =
            |model: &String, copy| Ask::FineTuned { role: Role::of(model), on: Split::Supervise, copy, bagged };
        self.models.iter().flat_map(|model| (0..self.copies).map(move |copy| member(model, copy))).collect()
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        let mean = Supervision::mean(&given.answers);
        Ok(match self.combine {
            Combine::Mean => mean,
            Combine::Majority => mean.map(|split, mean| -> Labels {
                let voted = |(row, mean): (usize, &Vec<f32>)| {
                    majority(given.answers.iter().map(|member| &member.of(split)[row]), mean)
                };
                mean.iter().enumerate().map(voted).collect()
            }),
        })
    }

    fn fits(&self, _form: Form) -> Result<(), String> {
        Ok(())
    }

    fn validate(&self) -> Result<(), Invalid> {
        if self.models.is_empty() {
            return Err(Invalid::new("models", "must name at least one model, such as \"weak\""));
        }
        if let Some((_, twice)) = self.models.iter().enumerate().find(|(n, model)| self.models[..*n].contains(model)) {
            return Err(Invalid::new("models", format!("must not name `{twice}` twice: `copies` makes more of each")));
        }
        Invalid::unless_within("copies", self.copies as f64, 1.0, 1000.0)
    }
}

register!(supervisor "ensemble" for Ensemble, paper = "Breiman 1996, Bagging predictors; debate helps weak-to-strong generalization (arXiv 2501.13124), an ensemble of weak models");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_votes_win_and_the_mean_breaks_ties() {
        let vote = |members: [[f32; 3]; 4]| {
            let members = members.map(|label| label.to_vec());
            let given = members.clone().map(|label| Supervision { transfer: vec![label], ..Supervision::default() });
            let by = Ensemble { combine: Combine::Majority, ..Ensemble::default() };
            let voted = by.supervise(&Given { answers: given.to_vec(), seed: 0 }).unwrap();
            highest(&voted.transfer[0])
        };
        let [a, b, c] = [[0.6, 0.4, 0.0], [0.0, 0.6, 0.4], [0.0, 0.1, 0.9]];
        // Two of four, although the mean prefers the third.
        assert_eq!(vote([a, a, c, b]), 0);
        assert_eq!(vote([b, b, c, c]), 2);
        assert_eq!(vote([a, a, b, b]), 1);
        assert_eq!(vote([c, c, c, a]), 2);
    }
}
