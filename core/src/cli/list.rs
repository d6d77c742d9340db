//! `w2s list` and `w2s explain`: what there is, from the cards and the configurations.

use std::{path::Path, process::ExitCode};

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, TableStyle};
use serde_json::{Value, json};

use super::ListFormat;
use crate::{
    Error, Result,
    document::did_you_mean,
    grid::Library,
    strategy::{self, Card, Kind},
};

#[derive(Args)]
pub struct ListArgs {
    /// What to list; everything when absent
    what: Option<What>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: ListFormat,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    Supervisors,
    Selectors,
    Refiners,
    Losses,
    Tasks,
    Suites,
    Models,
}

impl What {
    const ALL: [What; 7] =
        [What::Supervisors, What::Selectors, What::Refiners, What::Losses, What::Tasks, What::Suites, What::Models];

    fn kind(self) -> Option<Kind> {
        match self {
            What::Supervisors => Some(Kind::Supervisor),
            What::Selectors => Some(Kind::Selector),
            What::Refiners => Some(Kind::Refiner),
            What::Losses => Some(Kind::Loss),
            What::Tasks | What::Suites | What::Models => None,
        }
    }

    fn folder(self) -> &'static str {
        match self {
            What::Tasks => "tasks",
            What::Suites => "suites",
            _ => "models",
        }
    }

    fn heading(self) -> &'static str {
        match self.kind() {
            Some(kind) => kind.plural(),
            None => self.folder(),
        }
    }
}

#[derive(Args)]
pub struct ExplainArgs {
    /// What to explain, as KIND/NAME: loss/js, selector/all, task/sst2, model/gpt2
    what: String,
}

/// The library of whoever stands in a folder.
pub fn library() -> Library {
    Library::beside(Path::new("configs/grid.toml"))
}

/// One line of a list: name, summary, source.
fn entries(what: What, library: &Library) -> Vec<Value> {
    if let Some(kind) = what.kind() {
        return strategy::of_kind(kind).into_iter().map(card_json).collect();
    }
    let described = |name: String| {
        let text = |key: &str| {
            let document = library.open(what.folder(), &name).ok()?;
            document.root().get(key)?.text().ok().map(str::to_owned)
        };
        json!({ "name": name, "summary": text("title").unwrap_or_default(), "licence": text("licence").unwrap_or_default() })
    };
    library.names(what.folder()).into_iter().map(described).collect()
}

fn card_json(card: &Card) -> Value {
    json!({
        "kind": card.kind.name(),
        "name": card.name,
        "summary": card.summary(),
        "paper": card.paper,
        "version": card.version,
        "parameters": card.parameters(),
        "example": (card.example)(),
        "source": card.source(),
    })
}

/// `w2s list`.
pub fn list(args: &ListArgs) -> Result<ExitCode> {
    let library = library();
    let whats: Vec<What> = args.what.map_or_else(|| What::ALL.to_vec(), |what| vec![what]);
    if args.format == ListFormat::Json {
        let lists: serde_json::Map<String, Value> =
            whats.iter().map(|what| (what.heading().to_owned(), entries(*what, &library).into())).collect();
        let text = serde_json::to_string_pretty(&lists).map_err(|error| Error::new(error.to_string()))?;
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    for what in whats {
        let entries = entries(what, &library);
        println!("{} ({})", what.heading(), entries.len());
        let mut table = Table::new();
        table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic);
        if table.width().is_none() {
            table.set_width(120);
        }
        for entry in entries {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let source = if what.kind().is_some() { text("paper") } else { text("licence") };
            table.add_row([format!("  {}", text("name")), text("summary"), source]);
        }
        println!("{table}\n");
    }
    println!("hint: `w2s explain KIND/NAME` says more, e.g. `w2s explain loss/cross-entropy`");
    Ok(ExitCode::SUCCESS)
}

/// `w2s explain`.
pub fn explain(args: &ExplainArgs) -> Result<ExitCode> {
    let Some((kind, name)) = args.what.split_once('/') else {
        return Err(Error::new(format!("`{}` is not of the form KIND/NAME", args.what))
            .help("e.g. `w2s explain loss/js`; `w2s list` shows the names"));
    };
    if let Some(kind) = Kind::ALL.into_iter().find(|known| known.name() == kind || known.plural() == kind) {
        let card = strategy::find(kind, name).ok_or_else(|| {
            let cards = strategy::of_kind(kind);
            Error::new(format!("there is no {kind} `{name}`"))
                .help(did_you_mean(name, cards.iter().map(|card| card.name)))
        })?;
        print!("{}", card_text(card));
        return Ok(ExitCode::SUCCESS);
    }
    let folder = match kind {
        "task" | "tasks" => "tasks",
        "suite" | "suites" => "suites",
        "model" | "models" => "models",
        "world" | "worlds" => "worlds",
        _ => {
            let kinds = ["supervisor", "selector", "refiner", "loss", "task", "suite", "model", "world"];
            return Err(Error::new(format!("there is no kind `{kind}`")).help(did_you_mean(kind, kinds)));
        }
    };
    let document = library().open(folder, name)?;
    println!("# {}", document.file().display());
    print!("{}", document.source_text());
    Ok(ExitCode::SUCCESS)
}

/// A card as text: what, formula, source, parameters, example.
fn card_text(card: &Card) -> String {
    let mut text = format!("{} `{}`\n\n{}\n\nSource: {}\n", card.kind, card.name, card.text().trim(), card.paper);
    let parameters = card.parameters();
    if !parameters.is_empty() {
        text.push_str("\nParameters:\n");
    }
    for parameter in &parameters {
        let default = match &parameter.default {
            Value::Null => "absent".to_owned(),
            value => value.to_string(),
        };
        text.push_str(&format!("  {} = {default}\n      {}\n", parameter.name, parameter.text));
        text.push_str(&format!("      Origin: {}\n", parameter.origin));
    }
    text.push_str(&format!("\nExample:\n  [method.mine]\n  {} = {}\n", card.kind, example(card)));
    text.push_str(&format!("\nDefined in {}\n", card.source()));
    text
}

/// The default configuration as an inline TOML table.
fn example(card: &Card) -> String {
    let mut table = toml::Table::new();
    table.insert("type".into(), card.name.into());
    if let Value::Object(fields) = (card.example)() {
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
            if let Ok(value) = toml::Value::try_from(value) {
                table.insert(name, value);
            }
        }
    }
    toml::Value::Table(table).to_string()
}
