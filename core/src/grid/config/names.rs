//! Names in a grid, and errors that point at them.

use std::collections::BTreeSet;

use crate::{Error, Result, document::Section};

/// Whether a name can stand in results, folders, tables and figures as it is.
pub(super) fn check_name(name: &str) -> Result<()> {
    let wrong = if name.trim().is_empty() {
        "is empty"
    } else if name.chars().any(acts) {
        "has a control character"
    } else if name.trim() != name {
        "begins or ends with a space"
    } else if name.starts_with(['=', '+', '-', '@']) {
        "begins with a sign that makes a formula of it in a spreadsheet"
    } else {
        return Ok(());
    };
    Err(Error::new(format!("the name {name:?} {wrong}")).help("choose a name of letters, digits and dashes"))
}

/// Whether a title can be shown.
pub(super) fn check_title(title: &str) -> Result<()> {
    match title.chars().find(|c| acts(*c)) {
        Some(found) => Err(Error::new(format!("{title:?} has the control character {found:?}"))
            .help("write it on one line, in plain text")),
        None => Ok(()),
    }
}

/// Characters that act on what shows them instead of being shown: control characters, and those that turn the direction of text around.
pub(super) fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name with the place it was written at, for errors about what it names.
pub(super) struct At<'a>(pub(super) Section<'a>);

impl At<'_> {
    /// Points an error that has no place of its own at the name.
    pub(super) fn place(&self, error: Error) -> Error {
        if error.place().is_some() { error } else { place(&self.0, &error) }
    }
}

/// The same error, pointing at a section.
pub(super) fn place(section: &Section, error: &Error) -> Error {
    let placed = section.error(error.message());
    match error.remedy() {
        Some(help) => placed.help(help),
        None => placed,
    }
}

/// The strings of a list in `[grid]`, none empty, none twice.
pub(super) fn names<'a>(grid: &Section<'a>, key: &str) -> Result<Vec<(String, At<'a>)>> {
    let list = grid.need(key)?;
    let items =
        list.items()?.into_iter().map(|item| Ok((item.text()?.to_owned(), At(item)))).collect::<Result<Vec<_>>>()?;
    for (name, at) in &items {
        check_name(name).map_err(|error| place(&at.0, &error))?;
    }
    if items.is_empty() {
        return Err(list.error(format!("`{key}` is empty: there would be nothing to run")));
    }
    no_repetition(grid, key, &items.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())?;
    Ok(items)
}

pub(super) fn no_repetition<T: Ord + std::fmt::Display>(grid: &Section, key: &str, items: &[T]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for item in items {
        if !seen.insert(item) {
            return Err(grid.need(key)?.error(format!("`{item}` stands twice in `{key}`")));
        }
    }
    if items.is_empty() {
        return Err(grid.need(key)?.error(format!("`{key}` is empty: there would be nothing to run")));
    }
    Ok(())
}
