//! How a process ends that can do nothing more: with a word about why, soon, and with an exit code of its own.
//!
//! Memory that cannot be had aborts a Rust program, and a panic in one thread may leave another waiting for it for ever. Whoever started the
//! process is to learn which of the two it was. What is done here once memory is gone takes none.

use std::{
    ffi::CString,
    fmt::Write as _,
    os::raw::c_int,
    panic,
    path::Path,
    ptr,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicPtr, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    alloc,
    error::{self, ErrorKind, is_about_memory},
    locks,
};

/// Exit code of a stage's process that ran out of memory.
pub const NO_MEMORY: i32 = 70;
/// Exit code of a stage's process in which a thread panicked while others waited for it.
pub const PANICKED: i32 = 71;

/// Between two looks at what another thread does.
#[cfg(unix)]
const MOMENT: Duration = Duration::from_millis(1);

/// Who ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A stage's process, which speaks to its parent on standard output.
    Stage,
    /// Any other command, which speaks to a person; with this exit code.
    Command(u8),
}

static ROLE: OnceLock<Role> = OnceLock::new();
/// Where a run records failures.
static RECORD: AtomicPtr<Record> = AtomicPtr::new(ptr::null_mut());

/// A file of lines, the folder that it is in and the one around that, as the system wants them.
struct Record {
    around: CString,
    folder: CString,
    file: CString,
}

/// Prepares for the end of this process.
pub fn prepare(role: Role) {
    // Only the first call counts.
    let _ = ROLE.set(role);
    #[cfg(unix)]
    // SAFETY: the handler only writes to open files and ends the process, which is allowed in a signal handler.
    unsafe {
        libc::signal(libc::SIGABRT, on_abort as *const () as libc::sighandler_t);
        // A file beyond the limit of its size is an error of whoever writes it.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    alloc::refuse_for_a_test(if role == Role::Stage { "stage" } else { "command" });
}

/// Names the file of lines to which a run that ends without memory adds a record, in place of one named before; its folder is made if
/// need be, within one that is made too.
pub fn record_in(path: &Path) {
    #[cfg(unix)]
    {
        let c_string = |path: &Path| CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).ok();
        let parent = path.parent();
        let folders = parent.and_then(c_string).zip(parent.and_then(Path::parent).and_then(c_string));
        if let Some(((folder, around), file)) = folders.zip(c_string(path)) {
            // Never freed: the process may be about to read it.
            RECORD.store(Box::into_raw(Box::new(Record { around, folder, file })), Ordering::SeqCst);
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// A text of limited length that needs no memory.
struct Line {
    bytes: [u8; 1024],
    length: usize,
}

impl Line {
    fn new() -> Self {
        Self { bytes: [0; 1024], length: 0 }
    }

    #[cfg(unix)]
    fn send(&self, to: c_int) {
        // SAFETY: the bytes are initialised, and `write` may be called in a signal handler. Nothing can be done about a failure.
        unsafe { libc::write(to, self.bytes.as_ptr().cast(), self.length) };
    }
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = (self.length + text.len()).min(self.bytes.len());
        self.bytes[self.length..end].copy_from_slice(&text.as_bytes()[..end - self.length]);
        self.length = end;
        Ok(())
    }
}

/// Adds to the file of a run's failures, if there is one, that memory did not suffice; the message holds nothing that JSON would escape.
/// This needs no memory, and may be called in a signal handler.
#[cfg(unix)]
fn enter(message: std::fmt::Arguments) {
    /// Several threads may find at once that there is no memory; the first one enters it.
    static BEGUN: AtomicBool = AtomicBool::new(false);
    static ENTERED: AtomicBool = AtomicBool::new(false);
    /// How many times somebody looks for what another thread enters.
    const LOOKS: usize = 2000;
    // SAFETY: it is null, or was made by `record_in` and is never freed.
    let Some(Record { around, folder, file }) = (unsafe { RECORD.load(Ordering::SeqCst).as_ref() }) else { return };
    if BEGUN.swap(true, Ordering::SeqCst) {
        // Who comes second may be about to end the process.
        (0..LOOKS).take_while(|_| !ENTERED.load(Ordering::SeqCst)).for_each(|_| thread::sleep(MOMENT));
        return;
    }
    let (mut line, help) = (Line::new(), error::OUT_OF_MEMORY);
    let _ = writeln!(
        line,
        "{{\"stage\":null,\"what\":\"the run\",\"kind\":\"out-of-memory\",\"message\":\"{message}\",\"help\":\"{help}\",\
         \"attempts\":1,\"log\":null}}"
    );
    // SAFETY: the paths end with a nul; `mkdir` and `open` may be called in a signal handler, and the file is closed with the process.
    let file = unsafe {
        // There may be both.
        libc::mkdir(around.as_ptr(), 0o755);
        libc::mkdir(folder.as_ptr(), 0o755);
        libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT, 0o644)
    };
    line.send(file);
    ENTERED.store(true, Ordering::SeqCst);
}

/// Adds to the file of a run's failures, if there is one, that a command ends for want of memory without having aborted.
pub fn enter_want_of_memory() {
    #[cfg(unix)]
    match alloc::refused() {
        Some(size) => enter(format_args!("out of memory: {size} bytes could not be had")),
        None => enter(format_args!("out of memory")),
    }
}

/// An abort after memory was refused is an abort for want of memory; any other takes its usual course when this returns.
#[cfg(unix)]
extern "C" fn on_abort(_signal: c_int) {
    static ENDING: AtomicBool = AtomicBool::new(false);
    let Some(size) = alloc::refused() else { return };
    // Several threads may find at once that there is no memory: the first one ends the process.
    while ENDING.swap(true, Ordering::SeqCst) {
        thread::sleep(MOMENT);
    }
    let (mut text, mut record) = (Line::new(), Line::new());
    let help = error::OUT_OF_MEMORY;
    let message = format_args!("out of memory: {size} bytes could not be had");
    let code = match ROLE.get() {
        Some(Role::Stage) => {
            // Another thread may have stopped within a line.
            let _ = writeln!(
                record,
                "\n{{\"failed\":{{\"kind\":\"out-of-memory\",\"message\":\"{message}\",\"help\":\"{help}\"}}}}"
            );
            record.send(libc::STDOUT_FILENO);
            let _ = writeln!(text, "{message}");
            NO_MEMORY
        }
        role => {
            let _ = writeln!(text, "\n  × {message}\n  help: {help}");
            enter(message);
            match role {
                Some(Role::Command(code)) => (*code).into(),
                _ => 1,
            }
        }
    };
    text.send(libc::STDERR_FILENO);
    // SAFETY: ends the process at once; nothing of ours must run any more.
    unsafe { libc::_exit(code) };
}

/// The first panic of this process that nobody expected.
static PANIC: Mutex<Option<String>> = Mutex::new(None);
static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

/// What a panic says of itself, and what kind of failure that is.
pub fn classify(message: &str) -> (ErrorKind, String, Option<&'static str>) {
    if alloc::refused().is_some() || is_about_memory(message) {
        (ErrorKind::OutOfMemory, format!("out of memory: {message}"), Some(error::OUT_OF_MEMORY))
    } else {
        (ErrorKind::Panic, format!("the computation panicked: {message}"), None)
    }
}

/// How long a process may stand still after a panic before it is ended: a panic may be expected by the library that it happens in, which
/// then goes on (cubecl tries kernels that may not run), and one that nobody expects ends the stage much sooner.
const PATIENCE: Duration = Duration::from_secs(40);

/// Watches for a panic after which nothing moves any more, as `position` tells; then `say` is told of it and the process ends.
///
/// # Errors
/// No thread can be started.
pub fn watch_panics(
    position: impl Fn() -> u64 + Send + 'static,
    say: impl Fn(ErrorKind, String, Option<&'static str>) + Send + 'static,
) -> std::io::Result<()> {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        usual(info);
        if error::surviving() {
            return;
        }
        if let Ok(mut first) = PANIC.try_lock() {
            first.get_or_insert_with(|| error::panic_message(info.payload()).to_owned());
        }
        HAS_PANICKED.store(true, Ordering::SeqCst);
    }));
    let watch = move || {
        const STEP: Duration = Duration::from_millis(500);
        /// Who still makes progress after this has survived the panic.
        const SURVIVED: Duration = Duration::from_secs(5);
        let (mut last, mut still, mut since) = (position(), Duration::ZERO, Duration::ZERO);
        loop {
            thread::sleep(STEP);
            let now = position();
            let panicked = HAS_PANICKED.load(Ordering::SeqCst);
            since = if panicked { since + STEP } else { Duration::ZERO };
            still = if panicked && now == last { still + STEP } else { Duration::ZERO };
            if now != last && since > SURVIVED {
                HAS_PANICKED.store(false, Ordering::SeqCst);
            }
            last = now;
            if still >= PATIENCE {
                let message = PANIC.try_lock().ok().and_then(|message| message.clone()).unwrap_or_default();
                let (kind, message, help) = classify(&message);
                say(kind, message, help);
                end(PANICKED);
            }
        }
    };
    thread::Builder::new().name("panic-watch".into()).spawn(watch).map(|_| ())
}

/// Ends the process without waiting for any of its threads.
pub fn end(code: i32) -> ! {
    locks::release_all();
    #[cfg(unix)]
    // SAFETY: ends the process at once.
    unsafe {
        libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_about_memory_is_no_other_panic() {
        for message in [
            "CUDA_ERROR_OUT_OF_MEMORY",
            "failed to spawn thread: Os { code: 11, message: \"Resource temporarily unavailable\" }",
        ] {
            assert_eq!(classify(message).0, ErrorKind::OutOfMemory, "{message}");
        }
        assert_eq!(classify("index out of bounds").0, ErrorKind::Panic);
    }

    #[test]
    fn a_line_ends_where_its_room_does() {
        let mut line = Line::new();
        write!(line, "{}{}", "x".repeat(1000), "y".repeat(1000)).unwrap();
        assert_eq!(line.length, 1024);
        assert_eq!(line.bytes[1023], b'y');
    }
}
