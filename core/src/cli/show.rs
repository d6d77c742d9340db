//! How errors look.

use std::{io::IsTerminal, ops::Range};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use crate::{Error, error::printable};

/// An error as miette draws it.
struct Report<'a> {
    error: &'a Error,
    source: Option<NamedSource<String>>,
    span: Option<Range<usize>>,
    /// The column, where the line is shown from its middle on.
    column: Option<usize>,
}

impl std::fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.error, f)
    }
}

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&plain(self.error.message()))?;
        if let Some(column) = self.column {
            write!(f, " (column {column} of the line)")?;
        }
        match self.error.place() {
            Some(place) if self.source.is_none() => write!(f, ": `{}`", plain(&place.file.display().to_string())),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.error.remedy().map(|help| Box::new(plain(help)) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, span.start, span.len().max(1)))))
    }
}

/// A text as it may be shown: [`printable`].
pub fn plain(text: &str) -> String {
    printable(text.to_owned())
}

/// Bytes of a line that are shown.
const SHOWN: usize = 160;

/// A file's text as it can be shown, and where a span of it is then: lines are cut to what a person reads of them, around the span where
/// it is, and what would act on the terminal is a question mark.
fn excerpt(text: &str, span: Range<usize>) -> (String, Range<usize>) {
    let mut out = String::new();
    let (mut from, mut to) = (None, 0);
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let length = line.trim_end_matches(['\n', '\r']).len();
        let here = (start..start + line.len()).contains(&span.start) && length > SHOWN;
        let first = if here { (span.start - start).min(length).saturating_sub(SHOWN / 2) } else { 0 };
        let mut cut = false;
        for (byte, c) in line.char_indices() {
            if byte < length && !(first..first + SHOWN).contains(&byte) {
                if !cut {
                    out.push('…');
                }
                cut = true;
                continue;
            }
            cut = false;
            if start + byte >= span.start {
                from.get_or_insert(out.len());
            }
            let shown = c == '\r' || plain(c.encode_utf8(&mut [0; 4])).chars().eq([c]);
            out.push(if shown { c } else { '?' });
            if start + byte < span.end {
                to = out.len();
            }
        }
        start += line.len();
    }
    let from = from.unwrap_or(out.len());
    (out, from..to.max(from))
}

/// Prints an error to standard error: message, place with the line itself, and the likely remedy.
pub fn error(error: &Error) {
    super::say!("{}", text(error, std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()));
}

fn text(error: &Error, colour: bool) -> String {
    let place = error.place();
    let source = place.and_then(|place| {
        let (text, span) = excerpt(place.text.as_ref()?, place.span.clone()?);
        Some((NamedSource::new(plain(&place.file.display().to_string()), text), span))
    });
    let (source, span) = source.map_or((None, None), |(source, span)| (Some(source), Some(span)));
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    let column =
        place.and_then(|place| Some(place.line_column()?.1)).filter(|column| *column > SHOWN / 2 && source.is_some());
    let cut = |column: &usize| {
        place
            .and_then(|place| place.text.as_deref()?.lines().nth(place.line_column()?.0 - 1))
            .is_some_and(|line| line.len() > SHOWN && line.len() > *column)
    };
    let report = Report { error, source, span, column: column.filter(cut) };
    // Writing to a string cannot fail.
    let _ = GraphicalReportHandler::new_themed(theme).with_width(110).render_report(&mut text, &report);
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_acts_on_the_terminal() {
        let source = "[grid]\nname = \"\u{1b}[2Jx\u{7}\"\n";
        let error = Error::new("no \u{1b}]0;x\u{9c} here").at("a\u{8}.toml", source, 7..11).help("press \u{202e}x");
        let text = text(&error, false);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
        for part in ["\\u{1b}]0;x", "name = \"?[2Jx?\"", "a\\u{8}.toml:2:1", "\\u{202e}x"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(plain("ä\n\tb\r"), "ä\n\tb\\u{d}");
    }

    #[test]
    fn long_lines_are_cut_around_what_is_wrong() {
        let numbers: Vec<String> = (0..3000).map(|n| format!("{n:04}é")).collect();
        let source = format!("first = \"{}\"\r\nseeds = [{}]\n", "x".repeat(5000), numbers.join(", "));
        let at = source.find("1500é").unwrap();
        let (shown, span) = excerpt(&source, at..at + 6);
        assert_eq!(&shown[span], "1500é");
        assert!(shown.lines().all(|line| line.chars().count() < 170), "{shown}");
        let whole = text(&Error::new("no").at("a.toml", source.as_str(), at..at + 6), false);
        assert!(
            whole.len() < 2000
                && whole.contains("a.toml:2:")
                && whole.contains("(column 10510 of the line)")
                && whole.contains("1500é"),
            "{whole}"
        );
        for span in [0..0, 3..9, source.len()..source.len()] {
            let (shown, now) = excerpt(&source, span.clone());
            assert!(now.end <= shown.len() && shown[now].len() == span.len().min(source.len() - span.start));
        }
        assert_eq!(excerpt("a\nbc", 2..4), ("a\nbc".to_owned(), 2..4));
    }

    #[test]
    fn an_error_shows_file_line_and_remedy() {
        let source = "[train]\nepoch = 3\n";
        let error = Error::new("unknown key `epoch`").at("grid.toml", source, 8..13).help("did you mean `epochs`?");
        let text = text(&error, false);
        for part in ["unknown key `epoch`", "grid.toml:2:1", "epoch = 3", "did you mean `epochs`?"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
