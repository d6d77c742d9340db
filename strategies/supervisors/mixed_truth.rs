use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use w2s_core::register;
use w2s_core::strategy::{Ask, Form, Given, Invalid, Labels, Role, Split, Supervision, Supervisor, math, no_words};

/// The weak model's labels, a share of them replaced by the truth.
///
/// It asks what clean data are worth beside weak labels. Exactly round(share · N) examples of the student's half, chosen by the stage's seed, get a label of their own. The tests and held-out
/// examples keep the weak model's answers, which are the weak performance. Results are marked, because truth reaches the student.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MixedTruth {
    /// Share of the examples that get another label. Origin: mayankmahajan24's study takes 0.01 to 1.
    pub share: f64,
    /// Which examples: `random`, or those that the weak model has `wrong`, first of all (at random among them; the rest at random elsewhere).
    /// Origin: the same study, "naive" and "oracle".
    pub placement: Placement,
    /// What they get: the `truth`, or a class at `random`, the placebo. Origin: the same study, "random_labels".
    pub labels: Label,
}

/// Which examples get another label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Any.
    #[default]
    Random,
    /// Those that the weak model has wrong.
    Wrong,
}

/// What these examples get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// Their true class.
    #[default]
    Truth,
    /// A class drawn at random.
    Random,
}

impl Default for MixedTruth {
    fn default() -> Self {
        Self { share: 0.1, placement: Placement::default(), labels: Label::default() }
    }
}

/// Class of the highest probability.
fn class(label: &[f32]) -> usize {
    (1..label.len()).fold(0, |best, class| if label[class] > label[best] { class } else { best })
}

impl MixedTruth {
    fn mix(&self, mut weak: Labels, truth: &Labels, seed: u64) -> Labels {
        let count = math::share_of(self.share, weak.len());
        let is_wrong = |row: &u32| class(&weak[*row as usize]) != class(&truth[*row as usize]);
        let rows = 0..weak.len() as u32;
        let chosen = match self.placement {
            Placement::Random => math::choose(seed, rows, count),
            Placement::Wrong => {
                let (wrong, right): (Vec<u32>, Vec<u32>) = rows.partition(is_wrong);
                let rest = count.saturating_sub(wrong.len());
                let mut chosen = math::choose(seed, wrong, count);
                chosen.extend(math::choose(!seed, right, rest));
                chosen
            }
        };
        for row in chosen {
            let (label, classes) = (&mut weak[row as usize], truth[row as usize].len() as u64);
            *label = truth[row as usize].clone();
            if self.labels == Label::Random {
                label.fill(0.0);
                label[(math::draw(seed ^ 0x5eed, row.into()) % classes.max(1)) as usize] = 1.0;
            }
        }
        weak
    }
}

impl Supervisor for MixedTruth {
    fn asks(&self) -> Vec<Ask> {
        vec![Ask::fine_tuned(Role::Weak, Split::Supervise), Ask::Truth]
    }

    fn supervise(&self, given: &Given) -> Result<Supervision, String> {
        let [weak, truth] = [given.answers[0].clone(), given.answers[1].clone()];
        Ok(Supervision { transfer: self.mix(weak.transfer, &truth.transfer, given.seed), ..weak })
    }

    fn fits(&self, form: Form) -> Result<(), String> {
        match self.labels {
            Label::Truth => Ok(()),
            Label::Random => {
                no_words(form, "there is no list of answers to draw from, as `labels = \"random\"` wants it")
            }
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_within("share", self.share, 0.0, 1.0)
    }
}

register!(supervisor "mixed-truth" for MixedTruth, paper = "mayankmahajan24/weak-to-strong: a share of clean labels among weak ones, and a placebo");

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 examples of class 1, of which the weak model has every fourth wrong.
    fn example() -> (Labels, Labels) {
        let weak = (0..100).map(|row| if row % 4 == 0 { vec![0.6, 0.4] } else { vec![0.3, 0.7] }).collect();
        (weak, vec![vec![0.0, 1.0]; 100])
    }

    fn hard(labels: &Labels) -> Vec<usize> {
        (0..labels.len()).filter(|row| labels[*row].contains(&1.0)).collect()
    }

    #[test]
    fn exactly_the_share_is_true_and_the_rest_is_weak() {
        let (weak, truth) = example();
        let naive = MixedTruth { share: 0.3, ..MixedTruth::default() };
        let mixed = naive.mix(weak.clone(), &truth, 5);
        assert_eq!(hard(&mixed).len(), 30);
        assert!((0..100).all(|row| mixed[row] == truth[row] || mixed[row] == weak[row]));
        assert_eq!(naive.mix(weak.clone(), &truth, 5), mixed);
        assert_ne!(naive.mix(weak.clone(), &truth, 6), mixed);

        // First what is wrong, then others.
        let oracle = MixedTruth { placement: Placement::Wrong, ..naive };
        let mended = hard(&oracle.mix(weak.clone(), &truth, 5));
        assert_eq!(mended.iter().filter(|row| *row % 4 == 0).count(), 25);
        assert_eq!(mended.len(), 30);

        let placebo = MixedTruth { share: 1.0, labels: Label::Random, ..MixedTruth::default() };
        let right = placebo.mix(weak.clone(), &truth, 5).iter().filter(|label| label[1] == 1.0).count();
        assert!((30..70).contains(&right), "{right}");
        assert_eq!(MixedTruth { share: 0.0, ..MixedTruth::default() }.mix(weak.clone(), &truth, 5), weak);
    }
}
