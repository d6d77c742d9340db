//! How errors look.

use std::io::IsTerminal;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use crate::Error;

/// An error as miette draws it.
struct Report<'a> {
    error: &'a Error,
    source: Option<NamedSource<String>>,
}

impl std::fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.error, f)
    }
}

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.error.message())?;
        match self.error.place() {
            Some(place) if self.source.is_none() => write!(f, ": `{}`", place.file.display()),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.error.remedy().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.error.place()?.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, span.start, span.len().max(1)))))
    }
}

/// Prints an error to standard error: message, place with the line itself, and the likely remedy.
pub fn error(error: &Error) {
    super::say!("{}", text(error, std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()));
}

fn text(error: &Error, colour: bool) -> String {
    let place = error.place();
    let source = place.and_then(|place| {
        let (text, _) = (place.text.as_ref()?, place.span.as_ref()?);
        Some(NamedSource::new(place.file.display().to_string(), text.to_string()))
    });
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    let report = Report { error, source };
    // Writing to a string cannot fail.
    let _ = GraphicalReportHandler::new_themed(theme).with_width(110).render_report(&mut text, &report);
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
