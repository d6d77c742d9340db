//! Build script of `core`, `strategies` and `plugins`: a file in the right folder is enough to exist. For the binary it finds the commit.
//!
//! A registry that needs a `mod` line beside the file can lose a strategy silently. So every `.rs` file of `strategies` and
//! `plugins`, and every architecture, kind of stage, column, label rule and further metric of `core`,
//! becomes a module by being there; and `core` carries `configs/` inside.
#![allow(clippy::print_stdout)] // How a build script talks to cargo.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let write = |name: &str, text: String| fs::write(out.join(name), text).expect("OUT_DIR is writable");
    let package = env::var("CARGO_PKG_NAME").unwrap_or_default();
    if package == "w2s" {
        // Here and not in a library: every commit would compile that again.
        return commit(&root);
    }
    let core = package == "w2s-core";
    let modules = |folder: &Path| {
        let mut modules = String::new();
        declare(folder, folder, &mut modules);
        modules
    };
    if core {
        write("modules.rs", modules(&root.join("src/model/arch")));
        write("kinds.rs", modules(&root.join("src/stage/kinds")));
        write("rules.rs", modules(&root.join("src/task/rules")));
        write("measures.rs", modules(&root.join("src/report/measures")));
        write("columns.rs", modules(&root.join("src/grid/columns")));
    } else {
        write("modules.rs", modules(&root));
    }
    if core {
        let configs = root.join("../configs");
        let mut entries = String::from("&[\n");
        embed(&configs, &configs, &mut entries);
        entries.push(']');
        write("configs.rs", entries);
    }
}

/// The entries of a folder, in the order of their names.
fn entries(folder: &Path) -> Vec<PathBuf> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut entries: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("the crate's folder is readable").path())
        .collect();
    entries.sort();
    entries
}

/// Declares the modules of one folder: `name.rs`, `name/mod.rs`, or a folder of further files.
fn declare(root: &Path, folder: &Path, code: &mut String) {
    for path in entries(folder) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
        let top = folder == root;
        if path.is_dir() {
            if name.starts_with('.') || name == "tests" || name == "target" || name == "src" {
                continue;
            }
            let whole = path.join("mod.rs");
            if whole.exists() {
                writeln!(code, "#[path = {whole:?}] pub mod {name};").expect("writing to a string");
            } else if top {
                writeln!(code, "#[allow(missing_docs)] pub mod {name} {{").expect("writing to a string");
                declare(root, &path, code);
                code.push_str("}\n");
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !(top && matches!(name.as_str(), "lib" | "build" | "mod"))
        {
            writeln!(code, "#[path = {path:?}] pub mod {name};").expect("writing to a string");
        }
    }
}

/// Lists every `.toml` below a folder as `(path below it, include_str!(…))`.
fn embed(root: &Path, folder: &Path, code: &mut String) {
    for path in entries(folder) {
        if path.is_dir() {
            embed(root, &path, code);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            println!("cargo:rerun-if-changed={}", path.display());
            let name = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
            let path = path.canonicalize().expect("just listed");
            writeln!(code, "({name:?}, include_str!({path:?})),").expect("writing to a string");
        }
    }
}

/// Hands the commit to the code, with `+` when tracked files differ from it.
fn commit(root: &Path) {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    println!("cargo:rustc-env=W2S_COMMIT={head}{}", if changed { "+" } else { "" });
    if let Some(folder) = git(&["rev-parse", "--git-dir"]) {
        let folder = root.join(folder);
        println!("cargo:rerun-if-changed={}", folder.join("HEAD").display());
        println!("cargo:rerun-if-changed={}", folder.join("index").display());
    }
}
