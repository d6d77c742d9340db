//! Whether two texts say the same answer: where the answer stands in a text, how it is made plain, and when two are equal.
//!
//! A *raw* text is what a model generated, or a reference that may hold a chain of thought before its answer. [`Matcher::answer`] looks
//! for the answer in it ([`Extract`]; without one the whole text is the answer), then applies the task's [`Rule`]s in their order. Two
//! texts are the same answer if what is left is equal, character for character.
//!
//! **A failure equals nothing.** Where the marker or the expression is not found, or nothing is left once the rules have run, the
//! extraction has failed: it is not right, and two failures do not agree. (The harnesses that turn a failure into a text such as
//! `[invalid]` count two broken generations as one answer.) There is no second attempt by another rule.
//!
//! White space is what Unicode calls so (`White_Space`), here and in every rule.

use std::{fmt, sync::LazyLock};

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Raised when the same declaration begins to mean something else.
const VERSION: u32 = 1;

/// How answers are found in texts and compared: `[generate.answer]` of a task file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Matching {
    /// Where in a text the answer stands. Default: the whole text is the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<Extract>,
    /// Where in a reference the answer stands, if otherwise than in a generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract_reference: Option<Extract>,
    /// What is done to an answer before it is compared, one after the other. Default: nothing but white space is taken off its ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// Where in a text the answer stands: after a marker, or where an expression matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extract {
    /// A marker: the answer is the rest of its line, or the next line that is not blank, as far as another marker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// A [regular expression](https://docs.rs/regex/latest/regex/#syntax): the answer is what its first group that took part matched;
    /// the whole match if it has no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Which of several counts. Default: `last`, since models recite examples before they answer.
    #[serde(default)]
    pub which: Which,
}

/// Which of several places in a text counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The first from the left.
    First,
    /// The last; of an expression the last of the matches that do not overlap, from the left.
    #[default]
    Last,
}

/// One step that makes an answer plain. White space is taken off the ends before the first and after each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Lower case, by Unicode.
    Lowercase,
    /// Takes punctuation off both ends: ASCII's, with `$`, `+` and the like, and Unicode's category P. It takes the sign off a number, too.
    StripPunctuation,
    /// Takes out the same characters wherever they stand.
    StripPunctuationInside,
    /// Takes out the words `a`, `an` and `the`, whatever their case, and leaves one blank between the others. Words are what white space
    /// parts: put it after the rules on punctuation.
    StripArticles,
    /// Takes out commas that part thousands: after a digit and before exactly three (`1,000`, not `3,5`).
    StripCommas,
    /// Writes a decimal number in one way: `5.`, `05`, `+5` and `5.00` become `5`, `.50` becomes `0.5`, a minus sign becomes `-`, and zero
    /// has none. What is no number stays as it is. Signs of currency and commas are for other rules before it.
    Number,
    /// One blank for each stretch of white space.
    CollapseSpace,
    /// Takes out all that each of these regular expressions matches, one after the other.
    Delete(Vec<String>),
}

/// An answer, as it was found in a raw text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Extracted {
    /// The answer after all rules; empty if the extraction failed.
    pub text: String,
    /// What was looked for and done, with the version of the rules: [`Matcher::name`].
    pub rule: String,
    /// Whether there is no answer: no marker, no match, or nothing left.
    pub failed: bool,
}

impl Extracted {
    /// Whether both are the same answer. A failure is the same as nothing, another failure included.
    pub fn same(&self, other: &Self) -> bool {
        !self.failed && !other.failed && self.text == other.text
    }
}

/// [`Matching`] with its expressions compiled. Pure: the same texts give the same answers everywhere.
#[derive(Clone, Debug)]
pub struct Matcher {
    generation: Finder,
    reference: Finder,
    steps: Vec<Step>,
    name: String,
}

/// A step that can be run.
#[derive(Clone, Debug)]
enum Step {
    Plain(Rule),
    Delete(Vec<Regex>),
}

/// Finds the raw answer in a text.
#[derive(Clone, Debug)]
enum Finder {
    Whole,
    After(String, Which),
    Regex(Regex, Which),
}

/// A key under `[generate.answer]`, and what is wrong there.
pub(super) type Wrong = (&'static [&'static str], Error);

impl Matcher {
    /// Compiles the declaration.
    ///
    /// # Errors
    /// A marker is empty, an expression does not compile or also matches nothing at all, or both ways to find the answer are given.
    pub fn new(matching: &Matching) -> Result<Self, Error> {
        Self::located(matching).map_err(|(keys, error)| error.context(format!("`{}` of the answer", keys.join("."))))
    }

    /// The same, with the key that an error is about.
    pub(super) fn located(matching: &Matching) -> Result<Self, Wrong> {
        let Matching { extract, extract_reference, rules } = matching;
        let generation = Finder::new(extract.as_ref(), [&["extract"], &["extract", "after"], &["extract", "regex"]])?;
        let keys: [&'static [&'static str]; 3] =
            [&["extract_reference"], &["extract_reference", "after"], &["extract_reference", "regex"]];
        let reference = match extract_reference {
            None => generation.clone(),
            other => Finder::new(other.as_ref(), keys)?,
        };
        let step = |rule: &Rule| match rule {
            Rule::Delete(expressions) if expressions.is_empty() => {
                Err((&["rules"][..], Error::new("`delete` has nothing to take out")))
            }
            Rule::Delete(expressions) => {
                let compiled = expressions.iter().map(|expression| compile(expression));
                Ok(Step::Delete(compiled.collect::<Result<_, _>>().map_err(|error| (&["rules"][..], error))?))
            }
            plain => Ok(Step::Plain(plain.clone())),
        };
        let steps = rules.iter().map(step).collect::<Result<_, _>>()?;
        Ok(Self { generation, reference, steps, name: matching.to_string() })
    }

    /// What is looked for and done, in words, with the version of the rules.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The answer in a generation.
    pub fn answer(&self, raw: &str) -> Extracted {
        self.extracted(&self.generation, raw)
    }

    /// The answer in a reference.
    pub fn reference(&self, raw: &str) -> Extracted {
        self.extracted(&self.reference, raw)
    }

    /// Whether a generation has the reference's answer.
    pub fn right(&self, raw: &str, reference: &str) -> bool {
        self.answer(raw).same(&self.reference(reference))
    }

    /// Whether two generations have the same answer.
    pub fn agree(&self, one: &str, other: &str) -> bool {
        self.answer(one).same(&self.answer(other))
    }

    fn extracted(&self, finder: &Finder, raw: &str) -> Extracted {
        let found = finder.find(raw).map(|found| {
            self.steps.iter().fold(found.trim().to_owned(), |text, step| match step {
                Step::Plain(rule) => rule.apply(&text).trim().to_owned(),
                Step::Delete(expressions) => {
                    let delete = |text: String, regex: &Regex| regex.replace_all(&text, "").into_owned();
                    expressions.iter().fold(text, delete).trim().to_owned()
                }
            })
        });
        let text = found.unwrap_or_default();
        Extracted { failed: text.is_empty(), text, rule: self.name.clone() }
    }
}

impl Finder {
    /// `keys`: of the table, of its marker and of its expression.
    fn new(extract: Option<&Extract>, keys: [&'static [&'static str]; 3]) -> Result<Self, Wrong> {
        let Some(Extract { after, regex, which }) = extract else { return Ok(Self::Whole) };
        let one = "give `after`, a marker, or `regex`, an expression; without `extract` the whole text is the answer";
        match (after, regex) {
            (Some(_), Some(_)) => {
                Err((keys[0], Error::new("the answer is looked for by a marker and by an expression").help(one)))
            }
            (None, None) => Err((keys[0], Error::new("nothing says where the answer stands").help(one))),
            (Some(marker), None) if marker.trim().is_empty() => {
                Err((keys[1], Error::new("the marker is empty, and stands everywhere").help(one)))
            }
            (Some(marker), None) => Ok(Self::After(marker.clone(), *which)),
            (None, Some(expression)) => {
                let regex = compile(expression).map_err(|error| (keys[2], error))?;
                if regex.is_match("") {
                    let message = "the expression also matches nothing at all, so an answer could be found in any text";
                    return Err((
                        keys[2],
                        Error::new(message).help("ask for one character at least: `+` in place of `*`"),
                    ));
                }
                Ok(Self::Regex(regex, *which))
            }
        }
    }

    fn find<'r>(&self, raw: &'r str) -> Option<&'r str> {
        match self {
            Self::Whole => Some(raw),
            Self::After(marker, which) => {
                let place = match which {
                    Which::First => raw.find(marker.as_str()),
                    Which::Last => raw.rfind(marker.as_str()),
                }?;
                let rest = raw[place + marker.len()..].trim_start();
                let line = rest.split(['\n', '\r']).next().unwrap_or_default();
                Some(line.split(marker.as_str()).next().unwrap_or_default())
            }
            Self::Regex(regex, which) => {
                let mut found = regex.captures_iter(raw);
                let captures = match which {
                    Which::First => found.next(),
                    Which::Last => found.last(),
                }?;
                let group = captures.iter().skip(1).flatten().next();
                group.or_else(|| captures.get(0).filter(|_| captures.len() == 1)).map(|group| group.as_str())
            }
        }
    }
}

fn compile(expression: &str) -> Result<Regex, Error> {
    Regex::new(expression).map_err(|cause| {
        let cause = cause.to_string();
        let last = cause.lines().last().unwrap_or_default().trim_start_matches("error: ");
        Error::new(format!("`{expression}` is not a regular expression: {last}"))
            .help("it is written as docs.rs/regex has it: no look-around and no back-references; TOML needs single quotes, or backslashes doubled")
    })
}

impl Rule {
    /// What the rule makes of an answer. [`Delete`](Rule::Delete) is compiled first and does nothing here.
    fn apply(&self, text: &str) -> String {
        match self {
            Self::Lowercase => text.to_lowercase(),
            Self::StripPunctuation => text.trim_matches(|c: char| is_punctuation(c) || c.is_whitespace()).to_owned(),
            Self::StripPunctuationInside => text.chars().filter(|c| !is_punctuation(*c)).collect(),
            Self::StripArticles => {
                let article = |word: &&str| ["a", "an", "the"].iter().any(|article| word.eq_ignore_ascii_case(article));
                text.split_whitespace().filter(|word| !article(word)).collect::<Vec<_>>().join(" ")
            }
            Self::StripCommas => without_thousands(text),
            Self::Number => number(text).unwrap_or_else(|| text.to_owned()),
            Self::CollapseSpace => text.split_whitespace().collect::<Vec<_>>().join(" "),
            Self::Delete(_) => text.to_owned(),
        }
    }
}

/// ASCII punctuation, and Unicode's category P.
fn is_punctuation(c: char) -> bool {
    // A fixed expression, which is one: the tests ask it.
    static PUNCTUATION: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{P}$").ok());
    let beyond = || PUNCTUATION.as_ref().is_some_and(|category| category.is_match(c.encode_utf8(&mut [0; 4])));
    if c.is_ascii() { c.is_ascii_punctuation() } else { beyond() }
}

/// Without the commas that stand after a digit and before exactly three.
fn without_thousands(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |place: usize| bytes.get(place).is_some_and(u8::is_ascii_digit);
    let parts_thousands =
        |comma: usize| comma > 0 && digit(comma - 1) && (1..=3).all(|ahead| digit(comma + ahead)) && !digit(comma + 4);
    text.char_indices().filter(|(place, c)| *c != ',' || !parts_thousands(*place)).map(|(_, c)| c).collect()
}

/// A decimal number as it is written once and for all; none if the text is no such number.
fn number(text: &str) -> Option<String> {
    let (negative, digits) = match text.strip_prefix(['-', '\u{2212}']) {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && (whole, fraction) != ("0", "") { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

/// What is looked for and done, with the version of the rules.
impl fmt::Display for Matching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = |extract: &Option<Extract>| match extract {
            None => "whole text".to_owned(),
            Some(Extract { after, regex, which }) => {
                let which = if *which == Which::First { "first" } else { "last" };
                match (after, regex) {
                    (Some(marker), _) => format!("after the {which} {marker:?}"),
                    (None, expression) => format!("{which} match of {:?}", expression.as_deref().unwrap_or_default()),
                }
            }
        };
        write!(f, "{}", found(&self.extract))?;
        if self.extract_reference.is_some() {
            write!(f, " (reference: {})", found(&self.extract_reference))?;
        }
        for rule in &self.rules {
            match rule {
                Rule::Delete(expressions) => write!(f, ", delete {expressions:?}")?,
                rule => {
                    let name = serde_json::to_value(rule).unwrap_or_default();
                    write!(f, ", {}", name.as_str().unwrap_or_default())?;
                }
            }
        }
        write!(f, " (rules {VERSION})")
    }
}
