//! The house stands: no floor imports from one above it, no two floors lean on each other, and strategies see the strategy floor alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The floors of `core/src`, lowest first, as ARCHITECTURE.md lists them. Modules of one line know each other's line only downwards too.
const FLOORS: [&str; 17] = [
    "error",
    "alloc",
    "locks",
    "last_words",
    "hub",
    "rng",
    "device",
    "ops",
    "strategy",
    "document",
    "task",
    "model",
    "learner",
    "stage",
    "report",
    "grid",
    "cli",
];

/// What every floor may name: what stands in `lib.rs` itself, the macro, and the generator of arbitrary inputs.
const COMMON: [&str; 6] = ["Error", "Result", "commit", "COMMIT", "register", "arbitrary"];

/// A place in the source where something of the crate is named.
struct Use {
    file: PathBuf,
    line: usize,
    /// The first word after `crate::`.
    target: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the source is readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The text without comments and strings, line by line as before.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            rest[start..].find(&end).map_or(rest.len(), |found| start + found + end.len())
        } else if c == '"' {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |(at, _)| at + 1)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |at| at + 2)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].matches('\n'));
        rest = &rest[skipped..];
    }
    code
}

/// The number of `#` of a raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// The words that follow `prefix`, those of a group `{…}` included, with their lines.
fn named(code: &str, prefix: &str) -> Vec<(usize, String)> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at]
            .chars()
            .next_back()
            .is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
        {
            continue;
        }
        let after = &code[at + prefix.len()..];
        let line = code[..at].matches('\n').count() + 1;
        if !after.starts_with('{') {
            found.push((line, word(after)));
            continue;
        }
        let (mut depth, mut first) = (0, false);
        for (at, c) in after.char_indices() {
            match c {
                '{' => (depth, first) = (depth + 1, depth == 0),
                '}' => depth -= 1,
                ',' => first = depth == 1,
                _ if c.is_whitespace() => {}
                _ if first => {
                    found.push((line + after[..at].matches('\n').count(), word(&after[at..])));
                    first = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found.retain(|(_, word)| !word.is_empty() && word != "self");
    found
}

/// Everything of the crate that a file names, whether as `crate::…` or up the folders as `super::super::…`.
fn uses(source: &Path) -> (String, Vec<Use>) {
    let core = root().join("core/src");
    let below: Vec<String> = source
        .strip_prefix(&core)
        .expect("below core/src")
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    let depth = below.len() - usize::from(below.last().is_some_and(|name| name == "mod"));
    let text = fs::read_to_string(source).expect("the source is readable");
    let code = code(&text);
    // A test module within the file is one level deeper: its `super::` is the file itself.
    let own = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    // In any other module within a file too, so that only the name of a floor is one.
    let above = named(own, &"super::".repeat(depth)).into_iter().filter(|(_, word)| floor(word).is_some());
    let found = named(&code, "crate::").into_iter().chain(above);
    let uses = found.map(|(line, target)| Use { file: source.to_owned(), line, target }).collect();
    (below[0].clone(), uses)
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| *floor == name)
}

#[test]
fn no_floor_imports_from_one_above_it() {
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    let mut below: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for source in sources(&root().join("core/src")) {
        let (own, uses) = uses(&source);
        if own == "lib" {
            continue;
        }
        let Some(here) = floor(&own) else {
            wrong.push(format!("{} is on no floor: add it to FLOORS and to ARCHITECTURE.md", source.display()));
            continue;
        };
        seen.insert(here);
        for Use { file, line, target } in uses {
            match floor(&target) {
                Some(there) if there > here => {
                    wrong.push(format!(
                        "{}:{line}: `{own}` imports from `{target}`, which stands above it",
                        file.display()
                    ));
                }
                Some(there) => drop(below.entry(here).or_default().insert(there)),
                None if COMMON.contains(&target.as_str()) => {}
                None => wrong.push(format!("{}:{line}: `{target}` is on no floor", file.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The reading above finds what it should: every floor, and the many arrows between them.
    assert_eq!(seen.len(), FLOORS.len());
    assert!(below[&floor("cli").expect("listed")].len() >= 8, "{below:?}");
    assert!(below[&floor("stage").expect("listed")].contains(&floor("learner").expect("listed")));
}

#[test]
fn strategies_and_plugins_see_the_strategy_floor_alone() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for source in ["strategies", "plugins"].iter().flat_map(|folder| sources(&root().join(folder))) {
        let code = code(&fs::read_to_string(&source).expect("the source is readable"));
        for (line, target) in named(&code, "w2s_core::") {
            seen += 1;
            // `register!` is a macro of the strategy floor; macros live at the crate's root, as the error does that supervisors return.
            if !matches!(target.as_str(), "strategy" | "register" | "Error" | "Result") {
                wrong.push(format!("{}:{line}: imports `w2s_core::{target}`", source.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60, "{seen}");
}

#[test]
fn the_reader_sees_groups_chains_and_neither_comments_nor_strings() {
    let text = "use crate::{\n    Error, task::{Rows, Task},\n    grid,\n};\n// crate::cli\nlet x = \"crate::report::y\"; crate::model::Spec; my_crate::no; r#\"crate::no\"#";
    let found: Vec<(usize, String)> = named(&code(text), "crate::");
    let found: Vec<(usize, &str)> = found.iter().map(|(line, word)| (*line, word.as_str())).collect();
    assert_eq!(found, [(2, "Error"), (2, "task"), (3, "grid"), (6, "model")]);
    let found = named("use super::super::stage::Store;\nuse super::run;", "super::super::");
    assert_eq!(found, [(1, "stage".to_owned())]);
}
