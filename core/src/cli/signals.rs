//! What a run and its stages do when they are asked to stop.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
    low_level::signal_name,
};

use super::INTERRUPTED;
use crate::{Error, Result, grid::wind_up, learner::Stop};

/// Whether a run was asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Interruption {
    /// Set by the first signal once stages run.
    pub stop: Arc<AtomicBool>,
    /// Whether there is anything that must be ended in order.
    at_work: Arc<AtomicBool>,
}

impl Interruption {
    /// Watches for signals from now on. Until stages [run](Self::at_work), and again at a second one, the process says so and ends.
    ///
    /// # Errors
    /// Signals cannot be watched.
    pub fn watch() -> Result<Self> {
        let interruption = Self::default();
        let seen = interruption.clone();
        on_signals(move |signal| {
            let name = signal_name(signal).unwrap_or("a signal");
            if !seen.at_work.load(Ordering::SeqCst) {
                end(&format!("interrupted by {name} before anything was trained: run the same command to start again"));
            }
            if seen.stop.swap(true, Ordering::SeqCst) {
                end(&format!("interrupted again by {name}: run the same command to continue"));
            }
        })?;
        Ok(interruption)
    }

    /// Says that stages run: they are ended in order from now on.
    pub fn at_work(&self) {
        self.at_work.store(true, Ordering::SeqCst);
    }
}

/// A stage that is asked to stop saves what it has done, whether the run passes the wish on or the stage alone got the signal, and ends with a code
/// that interrupts the run; what it leaves behind is removed by that.
///
/// # Errors
/// Signals cannot be watched.
pub fn pass_on(stop: Stop) -> Result<()> {
    on_signals(move |_| wind_up(&stop))
}

/// Acts on the signals that ask a process to end. SIGUSR1 is how Slurm announces the end of a job's time.
fn on_signals(act: impl Fn(i32) + Send + 'static) -> Result<()> {
    let signals = [SIGINT, SIGTERM, SIGUSR1].into_iter().chain((!is_ignored(SIGHUP)).then_some(SIGHUP));
    let cannot = |error| Error::new(format!("cannot watch for interruptions: {error}"));
    let mut signals = Signals::new(signals).map_err(cannot)?;
    let watch = move || signals.forever().for_each(act);
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(cannot).map(|_| ())
}

#[expect(clippy::exit, reason = "the thread that would return is at work on what is no longer wanted")]
fn end(why: &str) {
    // Nobody may be reading.
    let _ = writeln!(std::io::stderr(), "{why}");
    std::process::exit(INTERRUPTED.into());
}

/// Whether whoever started this process wants a signal to be ignored, as `nohup` does.
fn is_ignored(signal: i32) -> bool {
    #[cfg(unix)]
    {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action, `sigaction` only writes the old one, for which there is room; zeros are a valid value of it.
        unsafe {
            libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }
    #[cfg(not(unix))]
    {
        let _ = signal;
        false
    }
}
