//! What a label's value says: one reading, whatever the format of the file that it was read from.

use std::{borrow::Cow, collections::BTreeMap};

/// Numbers as class names say them.
const WORDS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
/// Names of what a false and of what a true value means.
pub(super) const TRUTHS: [&[&str]; 2] = [&["false", "no", "n", "f", "off"], &["true", "yes", "y", "t", "on"]];

/// A value's text without what only its file's format gave it: `1`, `1.0`, `"1"` and `" 1.0"` are the same number, `true` and `"True"` the
/// same truth value. Other texts stay as they are.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    /// Whole numbers up to here are exact in a float.
    const EXACT: f64 = (1_u64 << 53) as f64;
    let trimmed = text.trim();
    if let Ok(number) = trimmed.parse::<i64>() {
        return number.to_string().into();
    }
    // `inf` and `nan` are words, too.
    if trimmed.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
        && let Ok(number) = trimmed.parse::<f64>()
        && number.fract() == 0.0
        && number.abs() < EXACT
    {
        return (number as i64).to_string().into();
    }
    match ["false", "true"].into_iter().find(|truth| trimmed.eq_ignore_ascii_case(truth)) {
        Some(truth) => truth.into(),
        None => text.into(),
    }
}

/// The place of the name that a value has: the one that reads exactly so, else the only one that says the same.
pub(super) fn find<'n>(names: impl IntoIterator<Item = &'n str> + Clone, text: &str) -> Option<usize> {
    names.clone().into_iter().position(|name| name == text).or_else(|| {
        let text = plain(text);
        let mut same = names.into_iter().enumerate().filter(|(_, name)| plain(name) == text).map(|(place, _)| place);
        same.next().filter(|_| same.next().is_none())
    })
}

/// What to do about a label that stands for none: −1, as the hub has it in test splits whose labels are hidden.
pub(super) fn hidden(column: &str, text: &str) -> Option<String> {
    (plain(text) == "-1").then(|| {
        format!("-1 is no label: leave such rows out with `filter = \"{column} != -1\"`, or name a split whose labels are not hidden")
    })
}

/// The beginning of a text, for a message.
pub(super) fn brief(text: &str) -> Cow<'_, str> {
    const LONG: usize = 80;
    match text.char_indices().nth(LONG) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// Whether a class has the name of another class's number.
pub(super) fn misnumbered(classes: &[String]) -> bool {
    numbers(classes).iter().enumerate().any(|(class, number)| number.is_some_and(|number| number != class as i64))
}

/// The number that each class's name says it has: `1 star`, `two`, `false`; and `level 1`, `level 2` where all are numbered like this.
pub(super) fn numbers(classes: &[String]) -> Vec<Option<i64>> {
    let ahead = |name: &str| {
        let name = name.trim();
        let word = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let digits = name.strip_prefix('-').unwrap_or(name).split(|c: char| !c.is_alphanumeric()).next();
        let sign = if name.starts_with('-') { -1 } else { 1 };
        let spelled = WORDS.iter().position(|known| word.eq_ignore_ascii_case(known)).map(|n| n as i64);
        let truth = || ["false", "true"].iter().position(|known| name.eq_ignore_ascii_case(known)).map(|n| n as i64);
        let number = || digits.and_then(|digits| digits.parse::<i64>().ok()).map(|n| sign * n);
        spelled.or_else(number).or_else(truth)
    };
    let leading: Vec<Option<i64>> = classes.iter().map(|name| ahead(name)).collect();
    let trailing: Vec<(&str, Option<i64>)> = classes
        .iter()
        .map(|name| {
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
            (stem, name[stem.len()..].parse().ok())
        })
        .collect();
    let series = trailing.iter().all(|(stem, number)| number.is_some() && *stem == trailing[0].0);
    if series && leading.iter().all(Option::is_none) { trailing.into_iter().map(|(_, n)| n).collect() } else { leading }
}

/// Two keys of `values` that say the same and mean two classes: which one counts would depend on the file's format.
pub(super) fn same_keys(values: &BTreeMap<String, String>) -> Option<(&String, &String)> {
    let keys: Vec<&String> = values.keys().collect();
    keys.iter().enumerate().find_map(|(i, key)| {
        let twin = keys[..i].iter().find(|other| plain(other) == plain(key) && values[**other] != values[*key])?;
        Some((*twin, *key))
    })
}
