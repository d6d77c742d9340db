//! Build script of `strategies` and `plugins`: every `.rs` file in the crate's folders is a module of the crate. In `core` it does the
//! same for the model architectures alone.
//!
//! A registry that needs a `mod` line beside the file can lose a strategy silently; here the file is enough.

use std::{env, fmt::Write as _, fs, path::Path};

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let architectures = Path::new(&root).join("src/model/arch");
    let root = if architectures.is_dir() { &architectures } else { Path::new(&root) };
    let mut code = String::new();
    declare(root, root, &mut code);
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("modules.rs"), code).expect("OUT_DIR is writable");
}

/// Declares the modules of one folder: `name.rs`, `name/mod.rs`, or a folder of further files.
fn declare(root: &Path, folder: &Path, code: &mut String) {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("the crate's folder is readable")
        .map(|entry| entry.expect("the crate's folder is readable").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
        let top = folder == root;
        if path.is_dir() {
            if name.starts_with('.') || name == "tests" || name == "target" {
                continue;
            }
            let whole = path.join("mod.rs");
            if whole.exists() {
                println!("cargo:rerun-if-changed={}", path.display());
                writeln!(code, "#[path = {whole:?}] pub mod {name};").expect("writing to a string");
            } else if top {
                writeln!(code, "#[allow(missing_docs)] pub mod {name} {{").expect("writing to a string");
                declare(root, &path, code);
                code.push_str("}\n");
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !(top && matches!(name.as_str(), "lib" | "mod" | "build"))
        {
            writeln!(code, "#[path = {path:?}] pub mod {name};").expect("writing to a string");
        }
    }
}
