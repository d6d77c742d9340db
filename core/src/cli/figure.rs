//! `w2s figure`: a finished run, drawn.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use indexmap::IndexSet;

use super::{
    FAILED,
    items::{cells, check_stages, facts, items},
    table::{read_with_steps, recorded, results_of},
};
use crate::{
    Error, Result,
    error::IoContext,
    report::{
        figure::{self, KnowledgeSet, is_variant},
        results::{ResultRow, is_end},
    },
    stage::write_atomically,
};

#[derive(Args)]
pub struct FigureArgs {
    /// The grid, or its results.csv
    config: PathBuf,
    /// What to draw [default: everything that the run has data for]
    #[arg(value_enum, value_name = "KIND")]
    kinds: Vec<Kind>,
    /// Folder of results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Where the figures go [default: `figures` beside results.csv]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Draw this method; may be repeated [default: all but those of a sweep, which only `sensitivity` shows]
    #[arg(long = "method", value_name = "NAME")]
    methods: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// Histograms of P(IK) where the strong model's own answer is right and where it is wrong
    PIk,
    /// What is trusted above each threshold of P(IK), and how often it is right
    Coverage,
    /// Share of right answers over P(IK)
    Reliability,
    /// Methods between the weak model and the ceiling
    Pgr,
    /// What method and weak supervisor have right, alone and together
    Partition,
    /// Which share of its examples a method keeps, and how often their labels are right
    Retention,
    /// What a method keeps of the examples that weak supervisor and strong model have right, alone and together
    Kept,
    /// Accuracy over the strong models of several pairs
    Sizes,
    /// Accuracy over a swept key of a method
    Sensitivity,
    /// Accuracy over the steps of training, where the grid asked for it (`[output] evaluate`)
    Steps,
    /// What the models of a generated world know, over how often they were told
    Known,
}

impl Kind {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// `w2s figure`.
pub fn figure(args: &FigureArgs) -> Result<ExitCode> {
    let path = results_of(&args.config, &args.results)?;
    let whole = read_with_steps(&path)?;
    let mut rows: Vec<ResultRow> = whole.iter().filter(|row| row.step.is_none()).cloned().collect();
    let chosen = |method: &str| args.methods.iter().any(|name| name == method);
    if let Some(unknown) = args.methods.iter().find(|name| !rows.iter().any(|row| row.method == **name)) {
        let known: IndexSet<&str> = rows.iter().map(|row| row.method.as_str()).collect();
        let known: Vec<&str> = known.into_iter().collect();
        return Err(
            Error::new(format!("this run has no method `{unknown}`")).help(format!("it has {}", known.join(", ")))
        );
    }
    // A run of nothing but a sweep is drawn whole.
    let plain = rows.iter().any(|row| !is_end(&row.method) && !is_variant(&row.method));
    let shown = |method: &str| match args.methods.is_empty() {
        true => !plain || !is_variant(method),
        false => chosen(method),
    };
    let titles = recorded(&path).titles;
    let store = args.results.join(crate::stage::STORE);
    let all = args.kinds.is_empty();
    let kinds = if all { Kind::value_variants().to_vec() } else { args.kinds.clone() };
    let of_items = [Kind::PIk, Kind::Coverage, Kind::Reliability, Kind::Known];
    let cells = match kinds.iter().any(|kind| of_items.contains(kind)) {
        true => cells(&path).and_then(|cells| check_stages(&cells, &store).map(|()| cells)),
        false => Ok(vec![]),
    };
    let knowledge = || -> Result<Vec<KnowledgeSet>> {
        let sets = items(cells.as_ref().map_err(Clone::clone)?, &store)?;
        let sets = sets.into_iter().filter(|set| shown(&set.method)).map(|set| {
            let items = set.pairs();
            KnowledgeSet { setting: set.setting, method: set.method, seeds: set.seeds, items }
        });
        Ok(sets.collect())
    };
    // Read once, for three kinds.
    let sets = if kinds.iter().any(|kind| of_items[..3].contains(kind)) { knowledge() } else { Ok(vec![]) };
    let sets = || sets.as_ref().map_err(Clone::clone);
    if !args.methods.is_empty() {
        rows.retain(|row| is_end(&row.method) || chosen(&row.method));
    }
    let drawn =
        || -> Vec<ResultRow> { rows.iter().filter(|row| is_end(&row.method) || shown(&row.method)).cloned().collect() };
    let followed: Vec<ResultRow> =
        whole.iter().filter(|row| is_end(&row.method) || shown(&row.method)).cloned().collect();
    let draw = |kind: Kind| match kind {
        Kind::PIk => figure::p_ik(sets()?, &titles),
        Kind::Coverage => figure::coverage(sets()?, &titles),
        Kind::Reliability => figure::reliability_curve(sets()?, &titles),
        Kind::Pgr => figure::pgr(&drawn(), &titles),
        Kind::Partition => figure::partition(&drawn(), &titles),
        Kind::Retention => figure::retention(&drawn(), &titles),
        Kind::Kept => figure::kept(&drawn(), &titles),
        Kind::Sizes => figure::sizes(&drawn(), &titles),
        Kind::Sensitivity => figure::sensitivity(&rows, &titles),
        Kind::Steps => figure::steps(&followed, &titles),
        Kind::Known => figure::known(&facts(cells.as_ref().map_err(Clone::clone)?, &store)?, &titles),
    };
    let folder = args.out.clone().unwrap_or_else(|| path.with_file_name("figures"));
    let mut made = 0;
    for kind in kinds {
        match draw(kind) {
            Ok(svg) => {
                std::fs::create_dir_all(&folder).path("create the folder of figures", &folder)?;
                let file = folder.join(format!("{}.svg", kind.name()));
                write_atomically(&file, svg.as_bytes())?;
                println!("{}", file.display());
                made += 1;
            }
            // What was asked for by name is missed; the others are told.
            Err(error) if !all => return Err(error),
            Err(error) => {
                let help = error.remedy().map(|help| format!("; {help}")).unwrap_or_default();
                eprintln!("no {}: {}{help}", kind.name(), error.message());
            }
        }
    }
    Ok(if made == 0 { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}
