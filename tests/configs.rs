//! Every grid that comes with w2s can be read: tasks, models, methods and settings exist and are in range.

use std::{fs, path::Path};

use w2s_core::{
    document::Document,
    grid::{Grid, Library},
};

#[test]
fn every_grid_that_comes_with_w2s_can_be_read() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut read = Vec::new();
    for folder in ["", "small", "paper"] {
        for entry in fs::read_dir(configs.join(folder)).unwrap().flatten() {
            let file = entry.path();
            if file.extension().is_none_or(|extension| extension != "toml") || file.ends_with("methods.toml") {
                continue;
            }
            let document = Document::open(&file).unwrap();
            let grid =
                Grid::read(&document, &Library::beside(&file)).unwrap_or_else(|error| panic!("{file:?}: {error:?}"));
            assert!(!grid.title.is_empty(), "{file:?} has no title");
            read.push(grid.name);
        }
    }
    for name in ["quickstart", "table1", "table2", "table3", "table4", "table5", "table6", "figure2"] {
        assert!(read.iter().any(|read| read == name), "no grid `{name}` among {read:?}");
    }
}
