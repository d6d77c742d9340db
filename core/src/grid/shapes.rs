//! What the trainings of a grid need of memory, from its settings and the shapes of its models alone: neither weights nor data need be there, and
//! texts count as long as they may be.

use super::{
    columns,
    config::{Grid, ModelConfig, On, Phase},
    fitting::Fitting,
    found::shape_of,
    library::Library,
    plan::Places,
};
use crate::{
    Result,
    learner::{Manner, Memory},
    model::{Lora, Spec},
    stage::{Demand, Shape, Training},
    strategy::Form,
};

/// What one kind of stage needs, whatever its seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// What it is about: a task, and a model.
    pub of: [String; 2],
    /// What is done, and for which methods.
    pub what: Vec<String>,
    /// Rows that go through the model at once, where these are not all of a batch.
    pub micro_batch: Option<usize>,
    /// Bytes.
    pub memory: Memory,
}

/// A model as it is used in a grid.
struct Model<'a> {
    config: &'a ModelConfig,
    spec: Spec,
    lora: Option<Lora>,
}

/// How the memory of [`needs`] is counted.
#[derive(Clone, Copy, Debug)]
pub struct Counting<'a> {
    /// Rows that go through a model at once, if somebody asked for so few.
    pub micro_batch: Option<usize>,
    /// Where examples at a time are chosen.
    pub fitting: Option<&'a Fitting>,
    /// What else memory depends on.
    pub manner: Manner,
}

/// What is trained and asked for each task and pair of a grid; methods that need the same are one.
///
/// # Errors
/// A model whose `config.json` is nowhere, or settings that do not fit it.
pub fn needs(grid: &Grid, library: &Library, places: &Places, counting: Counting) -> Result<Vec<Need>> {
    let mut needs: Vec<Need> = Vec::new();
    for pair in &grid.pairs {
        let model = |config: &'_ ModelConfig| -> Result<Spec> {
            shape_of(config, library, places).map_err(|error| error.context(format!("model `{}`", config.name)))
        };
        let model = |config| -> Result<Model> {
            let spec = model(config)?;
            Ok(Model { lora: config.lora(&spec)?, spec, config })
        };
        let (weak, strong) = (model(&pair.weak)?, model(&pair.strong)?);
        for task in 0..grid.tasks.len() {
            let (on, form) = (grid.on(task), grid.tasks[task].form());
            let longest = on.data.max_tokens.min(weak.spec.max_positions).min(strong.spec.max_positions);
            let mut add = |what: &str, model: &Model, demand: Demand| -> Result<()> {
                let micro_batch = match counting.fitting {
                    Some(fitting) => demand.rows_within(&model.spec, counting.manner, |peak| fitting.fits(peak))?,
                    None => counting.micro_batch.filter(|rows| *rows < demand.batch()),
                };
                let memory = demand.memory(&model.spec, micro_batch, counting.manner)?;
                let of = [on.name.to_owned(), model.config.name.clone()];
                match needs.iter_mut().find(|need| need.of == of && need.memory == memory) {
                    Some(need) => need.what.push(what.to_owned()),
                    None => needs.push(Need { of, what: vec![what.to_owned()], micro_batch, memory }),
                }
                Ok(())
            };
            for (what, model, phases) in [("weak model", &weak, &grid.weak), ("ceiling", &strong, &grid.ceiling)] {
                let phases = grid.trainings(model.config, on, phases)?;
                add(what, model, demand(grid, model, on, form, longest)?.through(&phases))?;
            }
            for method in &grid.methods {
                let training = |phase: &Phase| {
                    Ok(Training { recipe: grid.recipe(strong.config, on, Some(phase))?, aim: phase.aim })
                };
                let phases = method.phases.iter().map(training).collect::<Result<Vec<_>>>()?;
                let along = method.columns.values().find_map(|column| column.trained_along());
                let beside = along.map(|batch| (batch, longest));
                let student = demand(grid, &strong, on, form, longest)?;
                add(&method.name, &strong, Demand { beside, ..student.through(&phases) })?;
                for (name, column) in method.columns.iter().filter(|(_, column)| column.trained_before()) {
                    let Some(learnt_on) = column.auxiliary() else { continue };
                    let recipe = grid.auxiliary_recipe(strong.config, on, &learnt_on)?;
                    let alone = demand(grid, &strong, on, Form::Classes(2), longest)?;
                    add(&format!("{} of {}", columns::title(name), method.name), &strong, alone.trained(&recipe))?;
                }
                if method.asks_language_model() {
                    let asked = demand(grid, &strong, on, Form::Words, longest)?;
                    add("asked as it is", &strong, Demand { lora: None, frozen: true, ..asked })?;
                }
            }
        }
    }
    Ok(needs)
}

/// What a model does on a task before anything is trained of it.
fn demand<'a>(grid: &Grid, model: &'a Model, on: On, form: Form, longest: usize) -> Result<Demand<'a>> {
    let head = grid.head(model.config, on)?;
    let (outputs, texts) = match form {
        Form::Classes(classes) => (Some(classes), 1),
        // How many there are the data say; a choice has two at least.
        Form::Candidates(most) => (Some(1), most.max(2)),
        Form::Words => (None, 1),
    };
    Ok(Demand {
        model: Shape::Config(&model.spec.config),
        recipes: Vec::new(),
        texts_learnt: Vec::new(),
        lora: model.lora.as_ref(),
        frozen: head.freeze_backbone,
        pooling: head.pooling,
        outputs,
        longest,
        texts,
        beside: None,
    })
}
