//! Trains a language model from scratch on a generated world.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Result,
    learner::{self, Packing, Recipe},
    model::{Spec, Tokenizer, Transformer},
    rng,
    stage::{
        Demand, Shape, Stage,
        bench::{Bench, MODEL, summary_of, write_log},
    },
    strategy::Settings,
    task::world::World,
};

/// Trains a language model from scratch on a generated world, and keeps it in `model/`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pretrain {
    /// The world whose text is learnt.
    pub world: World,
    /// `config.json` of the model.
    pub config: Map<String, Value>,
    /// Training settings.
    pub recipe: Recipe,
    /// Seed of the weights and the order.
    pub seed: u64,
}

#[typetag::serde(name = "pretrain")]
impl Stage for Pretrain {
    fn parameters(&self) -> Result<Value> {
        Ok(json!({
            "world": self.world.identity()?,
            "config": self.config,
            "recipe": self.recipe.identity()?,
            "seed": self.seed,
        }))
    }

    fn title(&self) -> String {
        "pretrain".to_owned()
    }

    fn batch(&self) -> usize {
        self.recipe.batch_size
    }

    fn demand(&self) -> Option<Demand<'_>> {
        Some(Demand {
            model: Shape::Config(&self.config),
            recipes: vec![&self.recipe],
            texts_learnt: Vec::new(),
            lora: None,
            frozen: false,
            pooling: None,
            outputs: None,
            longest: self.world.document,
            texts: 1,
            beside: None,
        })
    }

    fn run(&self, bench: &Bench, folder: &Path) -> Result<Value> {
        let world = self.world.generate();
        let tokenizer = Tokenizer::parse(&world.tokenizer, Path::new("tokenizer.json"))?;
        let spec = Spec::from_config(&self.config, Path::new("config.json"))?;
        // Parameters that gradients reach live on the differentiating device.
        let device = bench.place.device.clone().autodiff();
        let trained = learner::train_lm(
            Transformer::init_to_train(
                &spec,
                rng::derive(self.seed, "pretrain/weights"),
                &device,
                bench.place.execution.precision,
            )?,
            &world.corpus,
            Packing::Documents,
            &self.recipe,
            rng::derive(self.seed, "pretrain/order"),
            &bench.place.execution,
        )?;
        write_log(&trained, 0, folder)?;
        trained.model.save(&folder.join(MODEL), &tokenizer)?;
        Ok(summary_of(&trained, json!({})))
    }
}
