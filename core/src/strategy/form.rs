//! What a task asks for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a task asks for, and so what a strategy works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// One of K named classes, the same for every example. Labels and the student's probabilities are `[B, K]`, from an output per class.
    Classes(usize),
    /// One of M candidate texts that each example brings along. Labels and probabilities are `[B, M]`, from one score per text.
    Candidates(usize),
    /// An answer in words. Labels `[B, M]` say which of the answers that were given is learnt: 0 is the weak supervisor's, 1 the strong model's
    /// own. What is learnt are its tokens ([`TokenView`](super::TokenView)).
    Words,
}

impl Form {
    /// Among how many answers an example chooses; of words there are too many to count.
    pub fn choices(self) -> Option<usize> {
        match self {
            Form::Classes(count) | Form::Candidates(count) => Some(count),
            Form::Words => None,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Classes(count) => write!(f, "{count} classes"),
            Form::Candidates(count) => write!(f, "{count} candidate answers"),
            Form::Words => f.write_str("answers in words"),
        }
    }
}

/// What a strategy that is defined on two classes answers in `fits`; `remedy` is the sentence's second half. Two candidates count as two classes.
///
/// # Errors
/// Any other form.
pub fn two_classes(form: Form, remedy: &str) -> Result<(), String> {
    match form.choices() {
        Some(2) => Ok(()),
        Some(_) => Err(format!("it is defined for two classes and this task has {form}; {remedy}")),
        None => Err(format!("it is defined for two classes and this task asks for {form}; {remedy}")),
    }
}

/// Why a strategy is not for words that says nothing about them.
pub(super) const SILENT: &str = "it does not say what it does there";

/// What a strategy that makes no sense of words answers in `fits`: `why` is a sentence without its full stop, and the remedy, if there is one.
///
/// # Errors
/// Answers in words.
pub fn no_words(form: Form, why: &str) -> Result<(), String> {
    match form {
        Form::Words => Err(format!("it is not for {form}: {why}")),
        Form::Classes(_) | Form::Candidates(_) => Ok(()),
    }
}

/// What a strategy answers in `fits` that takes one example's label for another's: on words, and on candidates, of which each example has its
/// own, that makes no sense. `why` is a sentence without its full stop, and the remedy, if there is one.
///
/// # Errors
/// Any form but classes.
pub fn only_classes(form: Form, why: &str) -> Result<(), String> {
    match form {
        Form::Classes(_) => Ok(()),
        Form::Candidates(_) | Form::Words => Err(format!("it is not for {form}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_classes_are_two_classes_or_two_candidates() {
        assert_eq!(two_classes(Form::Classes(2), "x"), Ok(()));
        assert_eq!(two_classes(Form::Candidates(2), "x"), Ok(()));
        assert!(
            two_classes(Form::Candidates(3), "use y")
                .unwrap_err()
                .ends_with("this task has 3 candidate answers; use y")
        );
        assert!(two_classes(Form::Words, "use y").unwrap_err().ends_with("asks for answers in words; use y"));
        assert!(no_words(Form::Classes(9), "").is_ok());
        assert!(only_classes(Form::Classes(9), "").is_ok());
        assert!(
            only_classes(Form::Candidates(2), "none is another's").unwrap_err().contains("2 candidate answers: none")
        );
        assert!(no_words(Form::Words, "no word is near another").unwrap_err().ends_with("no word is near another"));
    }
}
