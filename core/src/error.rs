//! The one error type that reaches a user.

use std::{
    any::Any,
    cell::Cell,
    fmt,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{Arc, Once},
};

use serde::{Deserialize, Serialize};

/// `Result` with w2s's own [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do about it.
///
/// The message says what is wrong in one sentence without a full stop; [`help`](Error::help) says the likely remedy.
#[derive(Clone, Debug)]
pub struct Error(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    message: String,
    help: Option<String>,
    place: Option<Place>,
    kind: Option<ErrorKind>,
}

/// What kind of failure it is, as the records of failed stages say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// A setting that cannot be.
    Config,
    /// A file that is not what it should be.
    Data,
    /// A file that the system does not let us read or write: a full disk, a permission, a drive that is away.
    Disk,
    /// The system has no more memory, or gives this process no more.
    OutOfMemory,
    /// A loss, a gradient or a prediction is no finite number.
    NotFinite,
    /// Code that should not have failed: a panic, an abort, a crash.
    Panic,
    /// No progress for too long, or more time than was allowed.
    TimeOut,
    /// A signal from outside.
    Killed,
}

impl ErrorKind {
    /// Whether the same may go well when it is tried again at once. Memory may not: what needs less of it (a smaller micro-batch) is another
    /// stage.
    pub fn may_pass(self) -> bool {
        self == Self::Killed
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Data => "data",
            Self::Disk => "disk",
            Self::OutOfMemory => "out of memory",
            Self::NotFinite => "not finite",
            Self::Panic => "panic",
            Self::TimeOut => "time-out",
            Self::Killed => "killed",
        })
    }
}

/// Where in which file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file as the user wrote it.
    pub file: PathBuf,
    /// Its text, when a span can be shown.
    pub text: Option<Arc<str>>,
    /// Byte range in `text`.
    pub span: Option<Range<usize>>,
}

impl Place {
    /// One-based line and column of the span's start.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        let (text, span) = (self.text.as_deref()?, self.span.as_ref()?);
        let before = text.get(..span.start)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        Some((line, column))
    }
}

impl Error {
    /// An error with a message and nothing else.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Parts { message: printable(message.into()), help: None, place: None, kind: None }))
    }

    /// The error about a file that holds something else in place of `what`: a pointer of Git LFS, or a web page. `start` is how it begins.
    pub fn stand_in(start: &[u8], what: &str) -> Option<Self> {
        let start = String::from_utf8_lossy(&start[..start.len().min(64)]).to_lowercase();
        if start.starts_with("version https://git-lfs") {
            let error = Self::new(format!("the file is a pointer of Git LFS, not the {what}"));
            return Some(error.help(format!("`git lfs pull` gets the {what}")));
        }
        let page = ["<!doctype html", "<html"].iter().any(|sign| start.trim_start().starts_with(sign));
        page.then(|| {
            Self::new(format!("the file is a web page, not the {what}")).help("get the file itself, not its page")
        })
    }

    /// An error about a number that is not finite.
    pub fn not_finite(message: impl Into<String>) -> Self {
        Self::new(message).of_kind(ErrorKind::NotFinite)
    }

    /// The error of the operating system while `action` was done to `file`: `cannot <action>: <cause>`.
    pub fn of_io(action: &str, cause: &std::io::Error, file: impl Into<PathBuf>) -> Self {
        let error = Self::new(format!("cannot {action}: {cause}")).in_file(file);
        match nature(cause) {
            Some((kind, remedy)) => error.of_kind(kind).help(remedy),
            None => error,
        }
    }

    /// Adds the likely remedy.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(printable(help.into()));
        self
    }

    /// Says what kind of failure it is, where none is known.
    pub fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind.get_or_insert(kind);
        self
    }

    /// What kind of failure it is; where nobody said so, a fault of the file that it is about, or else of the settings.
    pub fn kind(&self) -> ErrorKind {
        let of_file = if self.0.place.is_some() { ErrorKind::Data } else { ErrorKind::Config };
        self.0.kind.unwrap_or(of_file)
    }

    /// Adds a remedy where none is known.
    pub fn or_else_help(self, help: impl Into<String>) -> Self {
        if self.remedy().is_some() { self } else { self.help(help) }
    }

    /// Adds another remedy behind the one that is known: `first; or second`.
    pub fn or_help(self, help: impl fmt::Display) -> Self {
        let both = self.remedy().map(|first| format!("{first}; or {help}"));
        self.help(both.unwrap_or_else(|| help.to_string()))
    }

    /// Names the file it is about; keeps a place that is already known.
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.0.place.get_or_insert_with(|| Place { file: file.into(), text: None, span: None });
        self
    }

    /// Points at a span of a file's text; replaces a vaguer place.
    pub fn at(self, file: impl Into<PathBuf>, text: impl Into<Arc<str>>, span: Range<usize>) -> Self {
        self.at_place(Place { file: file.into(), text: Some(text.into()), span: Some(span) })
    }

    /// Points at a place; replaces a vaguer one.
    pub fn at_place(mut self, place: Place) -> Self {
        if self.0.place.as_ref().is_none_or(|place| place.span.is_none()) {
            self.0.place = Some(place);
        }
        self
    }

    /// Points at a place where no file is known.
    pub fn or_at(self, place: &Place) -> Self {
        if self.place().is_some() { self } else { self.at_place(place.clone()) }
    }

    /// Puts what was being done in front of the message: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{}: {}", printable(context.to_string()), self.0.message);
        self
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The remedy, if one is known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// Where it is.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(place) = &self.0.place {
            write!(f, " ({}", place.file.display())?;
            if let Some((line, column)) = place.line_column() {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(")")?;
        }
        if let Some(help) = &self.0.help {
            write!(f, "\nhint: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// A text from outside as it may be shown: what a terminal would obey (escape sequences, marks that turn the direction of writing) is
/// written out, line ends and tabs stay.
pub fn printable(text: String) -> String {
    let obeyed = |c: char| {
        c.is_control() && c != '\n' && c != '\t' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(obeyed) {
        return text;
    }
    text.chars().map(|c| if obeyed(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// Input and output errors name what was being done and to which path.
pub trait IoContext<T> {
    /// Turns an error of the operating system into ours: `cannot <action>: <cause>`, in `file`.
    fn path(self, action: &str, file: impl Into<PathBuf>) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn path(self, action: &str, file: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|cause| Error::of_io(action, &cause, file))
    }
}

/// What an error of the operating system says about the machine rather than about the file, and what helps.
fn nature(cause: &std::io::Error) -> Option<(ErrorKind, &'static str)> {
    use std::io::ErrorKind as Io;
    #[cfg(unix)]
    match cause.raw_os_error() {
        Some(libc::EMFILE) => {
            return Some((ErrorKind::Disk, "this process has too many files open: raise the limit (`ulimit -n 4096`)"));
        }
        Some(libc::ENFILE) => {
            return Some((
                ErrorKind::Disk,
                "all processes together have too many files open: try again when fewer run",
            ));
        }
        Some(libc::EIO) => {
            return Some((ErrorKind::Disk, "the disk or its connection is faulty: see the system's log"));
        }
        _ => {}
    }
    Some(match cause.kind() {
        Io::StorageFull | Io::QuotaExceeded => (
            ErrorKind::Disk,
            "make room (`w2s store gc` shows what no grid needs), or choose another folder with `--results DIR`",
        ),
        Io::FileTooLarge => (ErrorKind::Disk, "raise the limit of a file's size (`ulimit -f`), or choose another disk"),
        Io::ReadOnlyFilesystem => (ErrorKind::Disk, "choose another folder with `--results DIR`"),
        Io::PermissionDenied => (ErrorKind::Disk, "give this user the permission, or run as the user whose file it is"),
        Io::StaleNetworkFileHandle | Io::TimedOut => {
            (ErrorKind::Disk, "the network drive is away or was remounted: try again when it is back")
        }
        // A thread or process that cannot be started has no room for its stack.
        Io::OutOfMemory | Io::WouldBlock => (ErrorKind::OutOfMemory, OUT_OF_MEMORY),
        _ => return None,
    })
}

/// What helps where memory does not suffice.
pub const OUT_OF_MEMORY: &str =
    "try fewer `--workers`, a smaller `--micro-batch`, or a machine or a limit (`ulimit -v`) with more memory";

/// Whether a message, be it of a panic or of a device, is about memory that could not be had.
pub fn is_about_memory(message: &str) -> bool {
    let message = message.to_lowercase();
    let signs =
        ["out of memory", "out_of_memory", "cannot allocate", "memory allocation", "resource temporarily unavailable"];
    signs.iter().any(|sign| message.contains(sign))
}

/// Whether this thread runs code whose panics are expected.
pub(crate) fn surviving() -> bool {
    SURVIVING.get()
}

thread_local! {
    static SURVIVING: Cell<bool> = const { Cell::new(false) };
}

/// Runs foreign code that is known to panic on some input; the panic's message becomes the error, and nothing is printed.
///
/// # Errors
/// It panicked.
pub fn survive<T>(work: impl FnOnce() -> T) -> Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !SURVIVING.get() {
                hook(panic);
            }
        }));
    });
    let before = SURVIVING.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    SURVIVING.set(before);
    done.map_err(|panic| Error::new(panic_message(panic.as_ref())))
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("no message")
}
