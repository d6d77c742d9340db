//! What a person at a terminal sees while something takes its time.
#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    io::Read,
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use crate::support::{tiny, tiny_copy, w2s, w2s_in};

/// Both ends of a terminal of a hundred columns: ours, and that of whoever thinks to be on one.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the two numbers are valid for writing, the name and the settings may be null, and the size is read alone.
    let opened = unsafe { libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both are open, and nobody else has them.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// How a command ends whose standard error is a terminal, and everything that it draws there.
fn watched(mut command: Command) -> (ExitStatus, String) {
    let (mut ours, theirs) = terminal();
    let mut child =
        command.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::null()).stderr(theirs).spawn().unwrap();
    // It holds the other end, too.
    drop(command);
    let (mut drawn, mut some) = (Vec::new(), [0; 4096]);
    // The end of a terminal is an error.
    while let Ok(n @ 1..) = ours.read(&mut some) {
        drawn.extend_from_slice(&some[..n]);
    }
    (child.wait().unwrap(), String::from_utf8_lossy(&drawn).into_owned())
}

fn run(results: &Path) -> Command {
    let mut command = w2s();
    command.args(["run", "tests/fixtures/tiny/grid.toml", "seeds=0", "methods=finetune", "train.epochs=20"]);
    command.args(["--device", "cpu", "--workers", "1", "--results"]).arg(results);
    command
}

#[test]
fn a_run_at_a_terminal_draws_its_stages_and_how_many_are_done() {
    let folder = tempfile::tempdir().unwrap();
    let (status, drawn) = watched(run(folder.path()));
    assert!(status.success(), "{drawn}");
    for part in ["student  tiny-home  seed 0", "loss ", "tokens/s", " stages, 00:00:", " left"] {
        assert!(drawn.contains(part), "no `{part}` in {drawn:?}");
    }
    // One bar that fills, and is taken away in the end.
    assert!(drawn.contains('█') && drawn.contains("\u{1b}[2K"), "{drawn:?}");
    let last = drawn.rsplit('\n').find(|line| !line.trim().is_empty()).unwrap();
    assert!(last.contains("results: ") && !last.contains('█'), "{last:?}");
}

#[test]
fn whoever_waits_for_long_texts_to_become_tokens_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    tiny_copy(folder.path());
    fs::copy(tiny().join("grid.toml"), folder.path().join("grid.toml")).unwrap();
    let task = folder.path().join("tasks/tiny-home.toml");
    let text = fs::read_to_string(&task).unwrap();
    let long = text.replacen("{{ prompt | context }}", "{{ ((prompt ~ ' ') * 400) | context }}", 1);
    assert_ne!(text, long);
    fs::write(&task, long).unwrap();
    let plan = |seed: &str| {
        let mut command = w2s_in(folder.path());
        command.args(["plan", "grid.toml", seed]);
        watched(command)
    };
    let (status, drawn) = plan("seeds=0");
    assert!(status.success(), "{drawn}");
    assert!(drawn.contains("tiny-home  seed 0: texts to tokens") && drawn.contains('█'), "{drawn:?}");
    // What is known takes no time.
    let (_, drawn) = plan("seeds=0");
    assert!(!drawn.contains("texts to tokens"), "{drawn:?}");
}
