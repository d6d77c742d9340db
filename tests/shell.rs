//! What shells and `man` are told of the command line.

use std::{fs, process::Command};

use crate::support::{text, w2s};

fn said(arguments: &[&str]) -> String {
    let output = w2s().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that the help names.
fn commands() -> Vec<String> {
    let help = said(&["--help"]);
    let list = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let lines = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<String> = lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(commands.len() > 20, "{commands:?}");
    commands
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = said(&["completions", shell]);
        let words: Vec<&str> = script.split(|c: char| !(c.is_alphanumeric() || c == '-')).collect();
        for command in commands() {
            assert!(words.contains(&command.as_str()), "{shell} does not know `{command}`");
        }
        for option in ["rerun", "older-than", "down-to"] {
            assert!(words.iter().any(|word| word.trim_start_matches('-') == option), "{shell}: {option}");
        }
    }
    // What is for w2s itself is offered to nobody.
    let script = said(&["completions", "bash"]);
    assert!(script.contains("w2s,store") && !script.contains("w2s,stage") && !script.contains("w2s,work"));
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let file = folder.path().join(shell);
        fs::write(&file, said(&["completions", shell])).unwrap();
        // Only bash is everywhere.
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", text(&output)),
            Err(error) => assert!(shell != "bash", "{error}"),
        }
    }
    assert_eq!(w2s().args(["completions", "tcsh"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn every_command_has_a_page_of_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    said(&["man", "--out", pages.to_str().unwrap()]);
    let page = |name: &str| {
        fs::read_to_string(pages.join(format!("{name}.1"))).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    for command in commands().iter().filter(|command| *command != "help") {
        assert!(page(&format!("w2s-{command}")).contains(".TH "), "{command}");
    }
    assert!(page("w2s-run").contains("rerun") && page("w2s-store-gc").contains("down\\-to"));
    for hidden in ["stage", "work"] {
        assert!(!pages.join(format!("w2s-{hidden}.1")).exists(), "{hidden} is for w2s itself");
    }
    let first = said(&["man"]);
    assert_eq!(first.trim_end(), page("w2s").trim_end());
    assert!(first.contains("w2s\\-run") && first.contains("w2s run configs/quickstart.toml"), "{first}");
}
