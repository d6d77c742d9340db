//! Every grid that comes with w2s can be read: tasks, models, methods and settings exist and are in range. Any other text is a grid or an
//! error that says something.

use std::{fs, path::Path};

use proptest::prelude::*;
use w2s_core::{
    document::Document,
    grid::{Grid, Library, Method},
    model::Pooling,
    task::world::World,
};

use crate::arbitrary::{few, scraps, spliced};

#[test]
fn every_grid_that_comes_with_w2s_can_be_read() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut read = Vec::new();
    for folder in ["", "small", "paper", "paper/multi"] {
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
    for name in ["quickstart", "table1", "table2", "table3", "table4", "table5", "table6", "figure2", "gpt2-five-seeds"]
    {
        assert!(read.iter().any(|read| read == name), "no grid `{name}` among {read:?}");
    }
}

#[test]
fn every_model_that_comes_with_w2s_can_be_read() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let file = configs.join("small/own.toml");
    for entry in fs::read_dir(configs.join("models")).unwrap().flatten() {
        let name = entry.path().file_stem().unwrap().to_string_lossy().into_owned();
        let other = if name == "gpt2" { "gpt2-medium" } else { "gpt2" };
        let text = format!(
            "[grid]\ntasks = [\"sst2\"]\npairs = [{{ weak = \"{other}\", strong = \"{name}\" }}]\nmethods = [\"finetune\"]\nseeds = [0]\n"
        );
        let grid = Grid::read(&Document::parse(&file, &text).unwrap(), &Library::beside(&file));
        let grid = grid.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let model = &grid.pairs[0].strong;
        assert!(!model.file.title.is_empty() && !model.file.licence.is_empty(), "{name}");
        grid.recipe(model, grid.on(0), None).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(model.file.lora.iter().all(|lora| lora.validate().is_ok()), "{name}");
    }
}

#[test]
fn the_nearest_setting_of_training_counts() {
    let text = "[grid]\ntasks = [\"tiny-home\", \"tiny-food\"]\npairs = [{ weak = \"tiny-weak\", strong = \"tiny-strong\" }]\nmethods = [\"finetune\", \"mine\"]\nseeds = [0]\n\
                [train]\nepochs = 2\n[model.tiny-weak.train]\nepochs = 5\n[task.tiny-food.train]\nepochs = 3\n\
                [task.tiny-food.model.tiny-weak]\ntrain = { epochs = 4 }\nhead = { pooling = \"mean\" }\n[method.mine]\ntrain = { epochs = 7 }\n";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny/own.toml");
    let read = |text: &str| Grid::read(&Document::parse(&file, text).unwrap(), &Library::beside(&file));
    let grid = read(text).unwrap();
    let pair = &grid.pairs[0];
    let mine = grid.methods.iter().find(|method| method.name == "mine");
    assert!(mine.is_some());
    let epochs = |task| {
        [(&pair.weak, None), (&pair.strong, None), (&pair.strong, mine.and_then(Method::last))]
            .map(|(model, method)| grid.recipe(model, grid.on(task), method).unwrap().epochs)
    };
    assert_eq!([epochs(0), epochs(1)], [[5, 2, 7], [4, 3, 7]]);
    let pooling = |task| [&pair.weak, &pair.strong].map(|model| grid.head(model, grid.on(task)).unwrap().pooling);
    assert_eq!([pooling(0), pooling(1)], [[None, None], [Some(Pooling::Mean), None]]);
    for (from, to, says) in [
        ("epochs = 3", "epochs = 0", "`epochs` must be at least 1"),
        ("epochs = 3", "epoch = 3", "unknown key `epoch`"),
        ("[task.tiny-food.train]", "[data.train]", "`[data]` says nothing of `train`"),
        ("[train]", "[data]\ntemplate = \"{{ prompt }}\"\n[train]", "`[data]` says nothing of `template`"),
        ("model.tiny-weak]\ntrain", "model.tiny-week]\ntrain", "there is no model `tiny-week`"),
        ("pooling = \"mean\"", "poling = \"mean\"", "unknown key `poling`"),
        ("epochs = 4", "epochs = 0", "`epochs` must be at least 1"),
    ] {
        let error = read(&text.replace(from, to)).unwrap_err();
        assert!(error.message().contains(says) && error.place().is_some(), "{error}");
    }
}

#[test]
fn a_grid_may_give_a_task_another_template_wherever_it_uses_the_task() {
    let text = "[grid]\ntasks = [\"tiny-home\"]\npairs = [{ weak = \"tiny-weak\", strong = \"tiny-strong\" }]\nmethods = [\"mine\"]\n\
                [task.tiny-home]\ntemplate = \"Where? {{ prompt }}\"\n[task.tiny-food]\ntemplate = \"What? {{ prompt }}\"\n\
                [method.mine]\nselector = { type = \"p-ik\" }\np_ik = { task = \"tiny-food\" }\nself_labels = {}\n";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny/own.toml");
    let grid = Grid::read(&Document::parse(&file, text).unwrap(), &Library::beside(&file)).unwrap();
    assert_eq!(grid.tasks[0].template, "Where? {{ prompt }}");
    assert_eq!(grid.auxiliary["tiny-food"].template, "What? {{ prompt }}");
}

fn shipped(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)).unwrap()
}

/// An error has to say something.
fn says_something<T>(result: w2s_core::Result<T>) {
    if let Err(error) = result {
        assert!(!error.message().is_empty());
    }
}

/// Reads a text as a grid.
fn read(text: &str, overrides: &[String]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/small/any.toml");
    let document = Document::parse(&file, text).and_then(|document| document.with_overrides(overrides));
    says_something(document.and_then(|document| Grid::read(&document, &Library::beside(&file))));
}

proptest! {
    #![proptest_config(few(128))]

    #[test]
    fn any_text_is_a_grid_or_an_error(text in "[ -~\\n]{0,120}") {
        read(&text, &[]);
    }

    #[test]
    fn any_change_of_a_grid_is_a_grid_or_an_error(
        name in prop::sample::select(vec!["quickstart.toml", "small/selective-world.toml", "small/sensitivity-world.toml", "paper/table2.toml"]),
        place in any::<usize>(),
        length in 0_usize..40,
        with in scraps(),
    ) {
        read(&spliced(&shipped(name), place, length, &with), &[]);
    }

    #[test]
    fn any_change_of_a_world_is_a_world_or_an_error(
        name in prop::sample::select(vec!["worlds/quickstart.toml", "worlds/partial.toml", "worlds/capabilities.toml"]),
        place in any::<usize>(),
        length in 0_usize..40,
        with in scraps(),
    ) {
        says_something(World::parse(&spliced(&shipped(name), place, length, &with), Path::new("world.toml")));
    }

    #[test]
    fn any_override_is_a_grid_or_an_error(
        key in prop_oneof!["\\PC{0,12}", prop::sample::select(vec![
            "seeds", "grid.tasks", "train.epochs", "method.selective.selector.gamma", "sweep.selective", "p_ik.task", "data", "published.source",
        ]).prop_map(String::from)],
        value in prop_oneof!["\\PC{0,12}", "[0-9,.\\[\\]{}\"a-c=-]{0,12}"],
        sign in prop::sample::select(vec!["", "~", "+"]),
    ) {
        read(&shipped("small/selective-world.toml"), &[format!("{sign}{key}={value}")]);
        read(&shipped("quickstart.toml"), &[format!("{sign}{key}")]);
    }
}
