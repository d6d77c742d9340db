//! Exercises: questions whose answer follows by a rule from the question alone. Not what is known of somebody is asked, but whether the
//! rule was learnt.
//!
//! The text of a world says exercises with their answers, and a task asks for answers. A quarter of all possible questions are kept for
//! tasks: the text says none of them, so that a right answer is the rule's and not a sentence learnt by heart.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Attribute;
use crate::{Error, Result, rng::Rng};

/// One sort of exercises, `[exercises.NAME]` of a world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exercise {
    /// Share of the text's sentences.
    pub share: f64,
    /// What is asked.
    pub kind: Kind,
    /// Number of different questions that tasks ask.
    pub questions: usize,
    /// Each begins a document, as a prompt does: where a word stands is then known from its position alone. Small models do not learn to
    /// read lists without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opens: bool,
}

/// What an exercise asks. Every question and answer is a few words, and a word is a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kind {
    /// Sums and differences from left to right: `three plus four minus two is five`. Every result on the way is a number from zero to
    /// `largest`.
    Arithmetic {
        /// Largest number.
        largest: usize,
        /// At most so many numbers in a question, at least two.
        terms: usize,
    },
    /// The largest or smallest of different numbers: `largest of nine two twelve is twelve`.
    Comparison {
        /// Largest number.
        largest: usize,
        /// At most so many numbers in a question, at least two.
        terms: usize,
    },
    /// What is done to a list of words: `reverse of key cup hat is hat cup key`.
    Lists {
        /// Words that lists are made of. One stands once in a list.
        items: Vec<String>,
        /// At most so many words in a list, at least two.
        longest: usize,
        /// What is asked for.
        operations: Vec<Operation>,
    },
    /// Commands and the actions that carry them out, after SCAN (Lake and Baroni 2018): `walk left twice and jump means LEFT WALK LEFT
    /// WALK JUMP`. A half is a verb, a direction or none, and `twice`, `thrice` or nothing; two halves are joined by `and`, or by `after`,
    /// which has the second carried out first.
    Commands {
        /// Verbs. The action of one is the verb in capital letters.
        verbs: Vec<String>,
        /// All of SCAN's commands: with `turn`, which has no action but the turns, and with directions `opposite` and `around`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        whole: bool,
    },
    /// Which of three values is of another attribute than both others: `odd one of reef figs marsh is figs`. With the world's attributes.
    OddOneOut {},
}

/// What is done to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Its first word.
    First,
    /// Its last word.
    Last,
    /// All words, the last one first.
    Reverse,
    /// All but the first.
    Rest,
    /// How many words it has, as a word.
    Length,
}

/// A question that ends just before its answer, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) question: String,
    pub(super) answer: String,
}

/// Share of the possible questions that the text never says.
const KEPT: f64 = 0.25;
/// Times, each with how often an action is repeated.
const TIMES: [(&str, usize); 3] = [("", 1), ("twice", 2), ("thrice", 3)];
/// Directions, each with the turn that is made before the action.
const DIRECTIONS: [(&str, &str); 3] = [("", ""), ("left", "LEFT"), ("right", "RIGHT")];
/// What has no action but the turns.
const TURN: &str = "turn";
/// Ways of going in a direction, each with its turns and how often all is done: Lake and Baroni 2018, figure 6.
const WAYS: [(&str, usize, usize); 3] = [("", 1, 1), ("opposite", 2, 1), ("around", 1, 4)];
const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

/// A number below 100 in words: `seven`, `forty two`.
fn number(n: usize) -> String {
    match (n / 10, n % 10) {
        (0 | 1, _) => ONES[n].to_owned(),
        (tens, 0) => TENS[tens].to_owned(),
        (tens, ones) => format!("{} {}", TENS[tens], ONES[ones]),
    }
}

/// Different elements, in random order.
fn different<T: Clone>(from: &[T], n: usize, rng: &mut Rng) -> Vec<T> {
    let mut from = from.to_vec();
    rng.shuffle(&mut from);
    from.truncate(n);
    from
}

/// A number of parts between two and the most.
fn parts(most: usize, rng: &mut Rng) -> usize {
    2 + rng.below(most - 1)
}

fn join(words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut said = String::new();
    for word in words {
        let word = word.as_ref();
        if !word.is_empty() {
            if !said.is_empty() {
                said.push(' ');
            }
            said.push_str(word);
        }
    }
    said
}

/// A half of any of SCAN's commands, and its actions.
fn any_half(verbs: &[String], rng: &mut Rng) -> (String, String) {
    let verb = verbs.get(rng.below(verbs.len() + 1));
    // Without a direction nothing is turned to.
    let [without, directions @ ..] = DIRECTIONS;
    let drawn = rng.below(DIRECTIONS.len() - usize::from(verb.is_none()));
    let direction = directions.get(drawn).copied().unwrap_or(without);
    let ways = if direction == without { 1 } else { WAYS.len() };
    let (way, turns, rounds) = WAYS[rng.below(ways)];
    let (times, repeated) = TIMES[rng.below(TIMES.len())];
    let action = verb.map(|verb| verb.to_uppercase());
    let once = join(std::iter::repeat_n(direction.1, turns).chain(action.as_deref()));
    let command = join([verb.map_or(TURN, String::as_str), way, direction.0, times]);
    (command, join(std::iter::repeat_n(once, rounds * repeated)))
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
            Self::Reverse => "reverse",
            Self::Rest => "rest",
            Self::Length => "length",
        }
    }

    fn of(self, list: &[String]) -> String {
        match self {
            Self::First => list.first().cloned().unwrap_or_default(),
            Self::Last => list.last().cloned().unwrap_or_default(),
            Self::Reverse => join(list.iter().rev()),
            Self::Rest => join(list.iter().skip(1)),
            Self::Length => number(list.len()),
        }
    }
}

impl Kind {
    fn draw(&self, attributes: &[Attribute], rng: &mut Rng) -> Said {
        match self {
            Self::Arithmetic { largest, terms } => {
                let mut result = rng.below(largest + 1);
                let mut question = number(result);
                for _ in 1..parts(*terms, rng) {
                    // Of all numbers that may be added or taken away, each as often.
                    let next = rng.below(largest + 1);
                    let (sign, by) = if next >= result { ("plus", next - result) } else { ("minus", result - next) };
                    question = format!("{question} {sign} {}", number(by));
                    result = next;
                }
                Said { question: format!("{question} is"), answer: number(result) }
            }
            Self::Comparison { largest, terms } => {
                let all: Vec<usize> = (0..=*largest).collect();
                let numbers = different(&all, parts(*terms, rng), rng);
                let (what, answer) = if rng.below(2) == 0 {
                    ("largest", numbers.iter().max())
                } else {
                    ("smallest", numbers.iter().min())
                };
                let answer = number(answer.copied().unwrap_or_default());
                Said { question: format!("{what} of {} is", join(numbers.into_iter().map(number))), answer }
            }
            Self::Lists { items, longest, operations } => {
                let operation = operations[rng.below(operations.len())];
                let list = different(items, parts(*longest, rng), rng);
                Said { question: format!("{} of {} is", operation.name(), join(&list)), answer: operation.of(&list) }
            }
            Self::Commands { verbs, whole } => {
                let half = |rng: &mut Rng| {
                    if *whole {
                        return any_half(verbs, rng);
                    }
                    let (verb, direction, times) = (
                        &verbs[rng.below(verbs.len())],
                        DIRECTIONS[rng.below(DIRECTIONS.len())],
                        TIMES[rng.below(TIMES.len())],
                    );
                    let action = join([direction.1, &verb.to_uppercase()]);
                    (join([verb, direction.0, times.0]), join(std::iter::repeat_n(action, times.1)))
                };
                let (command, actions) = half(rng);
                let (command, answer) = match rng.below(3) {
                    0 => (command, actions),
                    joined => {
                        let (other, then) = half(rng);
                        if joined == 1 {
                            (format!("{command} and {other}"), join([actions, then]))
                        } else {
                            (format!("{command} after {other}"), join([then, actions]))
                        }
                    }
                };
                Said { question: format!("{command} means"), answer }
            }
            Self::OddOneOut {} => {
                let two = different(attributes, 2, rng);
                let values = |attribute: &Attribute| attribute.classes.values().flatten().cloned().collect::<Vec<_>>();
                let mut words = different(&values(&two[0]), 2, rng);
                let odd = different(&values(&two[1]), 1, rng).concat();
                words.push(odd.clone());
                rng.shuffle(&mut words);
                Said { question: format!("odd one of {} is", join(words)), answer: odd }
            }
        }
    }

    /// Every word that questions and answers are made of, the values of attributes aside.
    fn words(&self) -> Vec<String> {
        let numbers = |largest: usize| (0..=largest).map(number);
        let mut said: Vec<String> = Vec::new();
        match self {
            Self::Arithmetic { largest, .. } => {
                said.extend(["plus", "minus", "is"].map(String::from));
                said.extend(numbers(*largest));
            }
            Self::Comparison { largest, .. } => {
                said.extend(["largest", "smallest", "of", "is"].map(String::from));
                said.extend(numbers(*largest));
            }
            Self::Lists { items, longest, operations } => {
                said.extend(["of", "is"].map(String::from));
                said.extend(operations.iter().map(|operation| operation.name().to_owned()));
                said.extend(items.iter().cloned());
                if operations.contains(&Operation::Length) {
                    said.extend((2..=*longest).map(number));
                }
            }
            Self::Commands { verbs, whole } => {
                said.extend(["and", "after", "means"].map(String::from));
                if *whole {
                    said.push(TURN.to_owned());
                    said.extend(WAYS.iter().map(|(word, ..)| word.to_string()));
                }
                said.extend(verbs.iter().flat_map(|verb| [verb.clone(), verb.to_uppercase()]));
                said.extend(DIRECTIONS.iter().flat_map(|(word, turn)| [word.to_string(), turn.to_string()]));
                said.extend(TIMES.iter().map(|(word, _)| word.to_string()));
            }
            Self::OddOneOut {} => said.extend(["odd", "one", "of", "is"].map(String::from)),
        }
        said.iter().flat_map(|words| words.split(' ')).filter(|word| !word.is_empty()).map(String::from).collect()
    }

    /// Words of the longest question and answer together, with the full stop.
    fn longest(&self) -> usize {
        let number = |largest: usize| if largest > 20 { 2 } else { 1 };
        match self {
            Self::Arithmetic { largest, terms } => terms * number(*largest) + terms - 1 + 1 + number(*largest) + 1,
            Self::Comparison { largest, terms } => 2 + terms * number(*largest) + 1 + number(*largest) + 1,
            Self::Lists { longest, .. } => 2 + longest + 1 + longest + 1,
            Self::Commands { whole: false, .. } => 3 + 1 + 3 + 1 + 2 * 6 + 1,
            Self::Commands { whole: true, .. } => 4 + 1 + 4 + 1 + 2 * 24 + 1,
            Self::OddOneOut {} => 9,
        }
    }

    fn check(&self, attributes: &[Attribute]) -> std::result::Result<(), String> {
        let counts = |largest: usize, terms: usize| {
            if !(2..100).contains(&largest) {
                return Err(format!("`largest` must be between 2 and 99, not {largest}"));
            }
            if !(2..=9).contains(&terms) || terms > largest {
                return Err(format!("`terms` must be between 2 and 9, and at most `largest`, not {terms}"));
            }
            Ok(())
        };
        let words = |what: &str, least: usize, words: &[String]| {
            let all: BTreeSet<_> = words.iter().collect();
            if words.len() < least || all.len() != words.len() {
                return Err(format!("`{what}` needs at least {least} words, all different"));
            }
            match words.iter().find(|word| word.is_empty() || word.contains(char::is_whitespace)) {
                Some(word) => Err(format!("`{word}` is not one word")),
                None => Ok(()),
            }
        };
        match self {
            Self::Arithmetic { largest, terms } | Self::Comparison { largest, terms } => counts(*largest, *terms),
            Self::Lists { items, longest, operations } => {
                if !(2..=20).contains(longest) {
                    return Err(format!("`longest` must be between 2 and 20, not {longest}"));
                }
                if operations.is_empty() {
                    return Err("`operations` must name at least one".to_owned());
                }
                words("items", *longest, items)
            }
            Self::Commands { verbs, .. } => words("verbs", 1, verbs),
            Self::OddOneOut {} => {
                let enough = |attribute: &&Attribute| attribute.classes.values().flatten().count() > 1;
                if attributes.iter().filter(enough).count() != attributes.len() || attributes.len() < 2 {
                    return Err("needs two attributes of the world, each with two values".to_owned());
                }
                Ok(())
            }
        }
    }
}

/// Whether a question is kept for tasks.
fn kept(seed: u64, name: &str, question: &str) -> bool {
    Rng::named(seed, &format!("world/exercises/{name}/{question}")).uniform() < KEPT
}

impl Exercise {
    /// An exercise as the text says it: none that is kept for tasks.
    pub(super) fn tell(&self, name: &str, seed: u64, attributes: &[Attribute], rng: &mut Rng) -> Said {
        loop {
            let said = self.kind.draw(attributes, rng);
            if !kept(seed, name, &said.question) {
                return said;
            }
        }
    }

    /// The exercises that tasks ask: all different, and none in the text.
    ///
    /// # Errors
    /// There are fewer than `questions`.
    pub(super) fn asked(&self, name: &str, seed: u64, attributes: &[Attribute]) -> Result<Vec<Said>> {
        let mut rng = Rng::named(seed, &format!("world/questions/{name}"));
        let (mut asked, mut seen, mut vain) = (Vec::new(), BTreeSet::new(), 0);
        // What is rare is found late; after so many tries in vain there is hardly anything left.
        while vain < 20_000 {
            let said = self.kind.draw(attributes, &mut rng);
            if kept(seed, name, &said.question) && seen.insert(said.question.clone()) {
                vain = 0;
                asked.push(said);
                if asked.len() == self.questions {
                    return Ok(asked);
                }
            } else {
                vain += 1;
            }
        }
        let message = format!("exercise `{name}` has only {} questions for tasks, not {}", asked.len(), self.questions);
        Err(Error::new(message).help("lower `questions`, or let the exercise be longer or of more words"))
    }

    /// Every word that questions and answers are made of, the values of attributes aside.
    pub(super) fn words(&self) -> Vec<String> {
        self.kind.words()
    }
}

/// Checks a world's exercises.
pub(super) fn check(
    exercises: &BTreeMap<String, Exercise>,
    seed: u64,
    attributes: &[Attribute],
    document: usize,
) -> Result<()> {
    for (name, exercise) in exercises {
        let refuse = |message: String| Err(Error::new(format!("exercise `{name}`: {message}")));
        if let Err(message) = exercise.kind.check(attributes) {
            return refuse(message);
        }
        if exercise.kind.longest() > document {
            return refuse(format!("up to {} words do not fit a document of {document}", exercise.kind.longest()));
        }
        if !(8..=100_000).contains(&exercise.questions) {
            return refuse(format!("`questions` must be between 8 and 100000, not {}", exercise.questions));
        }
        let mut rng = Rng::named(seed, &format!("world/check/{name}"));
        if (0..1_000).all(|_| kept(seed, name, &exercise.kind.draw(attributes, &mut rng).question)) {
            return refuse("all of its few questions are kept for tasks; let it be longer or of more words".to_owned());
        }
        exercise.asked(name, seed, attributes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes() -> Vec<Attribute> {
        let attribute = |name: &str, values: [&str; 3]| Attribute {
            name: name.to_owned(),
            phrases: vec!["the {} has".to_owned()],
            classes: [("one".to_owned(), values.map(String::from).to_vec())].into(),
        };
        vec![attribute("home", ["reef", "marsh", "cave"]), attribute("food", ["honey", "figs", "limes"])]
    }

    /// What 300 draws of a kind say.
    fn drawn(kind: &Kind) -> Vec<(Vec<String>, Vec<String>)> {
        kind.check(&attributes()).unwrap();
        let mut rng = Rng::named(0, "test");
        let split = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let said: Vec<_> = (0..300).map(|_| kind.draw(&attributes(), &mut rng)).collect();
        let lengths = said.iter().map(|said| format!("{} {} .", said.question, said.answer).split(' ').count());
        let longest = lengths.max().unwrap();
        assert!(longest <= kind.longest() && longest + 2 >= kind.longest(), "{longest} of {}", kind.longest());
        said.iter().map(|said| (split(&said.question), split(&said.answer))).collect()
    }

    /// The number that words say.
    fn value(words: &[String]) -> i64 {
        let said = words.join(" ");
        (0..100).find(|n| number(*n) == said).unwrap_or_else(|| panic!("{said}")) as i64
    }

    #[test]
    fn numbers_are_said_in_english_and_no_two_alike() {
        let said = [0, 7, 13, 20, 42, 99].map(number);
        assert_eq!(said, ["zero", "seven", "thirteen", "twenty", "forty two", "ninety nine"]);
        assert_eq!((0..100).map(number).collect::<BTreeSet<_>>().len(), 100);
    }

    #[test]
    fn sums_are_right_at_every_step() {
        for (question, answer) in drawn(&Kind::Arithmetic { largest: 40, terms: 4 }) {
            let (mut result, mut sign, mut from) = (0, 1, 0);
            for (at, word) in question.iter().enumerate() {
                if ["plus", "minus", "is"].contains(&word.as_str()) {
                    result += sign * value(&question[from..at]);
                    assert!((0..=40).contains(&result), "{question:?}");
                    (sign, from) = (if word == "minus" { -1 } else { 1 }, at + 1);
                }
            }
            assert_eq!(value(&answer), result, "{question:?}");
        }
    }

    #[test]
    fn the_largest_is_the_largest() {
        for (question, answer) in drawn(&Kind::Comparison { largest: 20, terms: 4 }) {
            let numbers: Vec<i64> =
                question[2..question.len() - 1].iter().map(|word| value(std::slice::from_ref(word))).collect();
            let wanted = if question[0] == "largest" { numbers.iter().max() } else { numbers.iter().min() };
            assert_eq!(Some(&value(&answer)), wanted, "{question:?}");
        }
    }

    #[test]
    fn lists_are_as_asked() {
        let items = ["key", "cup", "hat", "bell", "rope"].map(String::from).to_vec();
        let operations =
            vec![Operation::First, Operation::Last, Operation::Reverse, Operation::Rest, Operation::Length];
        for (question, answer) in drawn(&Kind::Lists { items, longest: 5, operations }) {
            let mut list = question[2..question.len() - 1].to_vec();
            match question[0].as_str() {
                "first" => list.truncate(1),
                "last" => drop(list.drain(..list.len() - 1)),
                "reverse" => list.reverse(),
                "rest" => drop(list.remove(0)),
                _ => list = vec![number(list.len())],
            }
            assert_eq!(answer, list, "{question:?}");
        }
    }

    #[test]
    fn commands_are_carried_out_in_their_order() {
        let verbs = vec!["walk".to_owned(), "jump".to_owned()];
        for (question, answer) in drawn(&Kind::Commands { verbs, whole: false }) {
            let mut halves: Vec<Vec<String>> = vec![Vec::new()];
            let mut swapped = false;
            for word in &question {
                let half = halves.last_mut().unwrap();
                match word.as_str() {
                    "left" | "right" => half.insert(0, word.to_uppercase()),
                    "twice" => *half = [half.clone(), half.clone()].concat(),
                    "thrice" => *half = [half.clone(), half.clone(), half.clone()].concat(),
                    "and" | "after" => {
                        swapped = word == "after";
                        halves.push(Vec::new());
                    }
                    "means" => {}
                    verb => half.push(verb.to_uppercase()),
                }
            }
            if swapped {
                halves.reverse();
            }
            assert_eq!(answer, halves.concat(), "{question:?}");
        }
    }

    /// Whatever SCAN's grammar allows, by the rules of its interpretation (Lake and Baroni 2018, figures 6 and 7), in SCAN's own words.
    fn carried_out(command: &[&str]) -> Vec<String> {
        if let Some(at) = command.iter().position(|word| ["and", "after"].contains(word)) {
            let mut halves = [&command[..at], &command[at + 1..]].map(carried_out);
            if command[at] == "after" {
                halves.reverse();
            }
            return halves.concat();
        }
        match command {
            [first @ .., "twice"] => [(); 2].map(|()| carried_out(first)).concat(),
            [first @ .., "thrice"] => [(); 3].map(|()| carried_out(first)).concat(),
            [verb, "opposite", direction] => {
                [carried_out(&["turn", direction]), carried_out(&[verb, direction])].concat()
            }
            [verb, "around", direction] => [(); 4].map(|()| carried_out(&[verb, direction])).concat(),
            [verb, direction] => [vec![direction.to_uppercase()], carried_out(&[verb])].concat(),
            ["turn"] => vec![],
            [verb] => vec![verb.to_uppercase()],
            _ => panic!("{command:?}"),
        }
    }

    #[test]
    fn all_of_scans_commands_are_carried_out() {
        let verbs = ["walk", "look", "run", "jump"].map(String::from).to_vec();
        let drawn = drawn(&Kind::Commands { verbs, whole: true });
        for (question, answer) in &drawn {
            let command: Vec<&str> = question[..question.len() - 1].iter().map(String::as_str).collect();
            assert_eq!(*answer, carried_out(&command), "{question:?}");
        }
        let said = |word: &str| drawn.iter().any(|(question, _)| question.iter().any(|said| said == word));
        assert!(["turn", "opposite", "around", "thrice", "after"].into_iter().all(said));
    }

    #[test]
    fn the_odd_one_is_alone_of_its_attribute() {
        let of = |word: &String| attributes().iter().position(|a| a.classes["one"].contains(word)).unwrap();
        for (question, answer) in drawn(&Kind::OddOneOut {}) {
            let words = &question[3..6];
            let alike = words.iter().filter(|word| of(word) == of(&answer[0])).count();
            assert!(alike == 1 && words.contains(&answer[0]), "{question:?} {answer:?}");
            assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), 3, "{question:?}");
        }
    }
}
