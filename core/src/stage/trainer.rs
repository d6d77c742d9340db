//! Models as they learn a task and answer its questions, whatever it asks for: the one place where a form decides what is trained.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::module::Module;

use super::{
    bench::{Bench, MODEL, ModelRef, Writing, part},
    identity::StageId,
    labels::{Answer, Labels},
    tokens,
};
use crate::{
    Error, Result,
    learner::{self, Decoding, Encoded, Ending, Evaluate, Execution, Halfway, Objective, Recipe, Texts, Trained},
    model::{Classifier, Pretrained, Tokenizer, Transformer},
    rng,
    strategy::{Form, Split},
    task::{self, TaskData},
};

/// Trains models on one task, and lets them answer.
pub(super) struct Trainer<'a> {
    pub(super) data: Arc<TaskData>,
    /// The data's stage, which holds their token ids.
    folder: PathBuf,
    bench: &'a Bench<'a>,
    seed: u64,
}

/// A model that answers the questions of a task.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and its weights are larger by far")]
pub(super) enum Answerer {
    /// Gives every class, or every candidate, a probability.
    Chooses(Classifier),
    /// Writes words.
    Writes(Transformer, Writing),
}

/// A model that writes, with what it reads by and what ends its texts.
pub(super) struct Writer<'a> {
    pub(super) model: &'a Transformer,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) ends: &'a [u32],
}

/// Lets models write answers to a task's questions.
struct Scribe {
    data: Arc<TaskData>,
    seed: u64,
    execution: Execution,
}

/// What a training learns from.
pub(super) struct Lesson {
    pub(super) objective: Objective,
    /// Where words are learnt, the answers that its labels are shares of.
    pub(super) texts: Vec<Vec<String>>,
}

impl Lesson {
    /// Labels as they are, with one loss.
    pub(super) fn new(labels: Labels, loss: Box<dyn crate::strategy::StudentLoss>) -> Self {
        match labels {
            Labels::Soft(rows) => Self { objective: Objective::new(rows, loss), texts: Vec::new() },
            Labels::Texts(answers) => {
                let objective = Objective::new(vec![vec![1.0]; answers.len()], loss);
                Self { objective, texts: vec![answers.into_iter().map(|answer| answer.raw).collect()] }
            }
        }
    }
}

impl<'a> Trainer<'a> {
    pub(super) fn new(data: TaskData, folder: PathBuf, bench: &'a Bench<'a>, seed: u64) -> Self {
        Self { data: Arc::new(data), folder, bench, seed }
    }

    /// The texts of a split, as a model reads them.
    pub(super) fn encode(&self, model: &Pretrained, split: Split) -> Result<Encoded> {
        let rows = tokens::read(&self.data, model.tokenizer(), Some(&self.folder), split)?;
        let encoded = match self.data.asks() {
            Form::Classes(_) | Form::Words => Encoded::new(rows, model.spec()),
            Form::Candidates(most) => {
                let mut rows = rows.into_iter();
                let of = |example: &task::Example| rows.by_ref().take(example.candidates.len()).collect();
                Encoded::choosing(part(&self.data, split).iter().map(of).collect(), most, model.spec())
            }
        };
        encoded.map_err(|error| error.context(format!("the {} split", split.name())))
    }

    /// A model that has learnt nothing yet of the task: every method of a cell starts from the same one. With `start`, the stage's backbone
    /// and judge.
    pub(super) fn fresh(&self, model: &ModelRef, pretrained: &Pretrained, start: Option<&StageId>) -> Result<Answerer> {
        let outputs = match self.data.asks() {
            Form::Classes(classes) => classes,
            Form::Candidates(_) => 1,
            Form::Words => {
                let writing = model
                    .writing
                    .clone()
                    .ok_or_else(|| Error::new(format!("nobody says how model `{}` is to write", model.name)))?;
                let backbone = self.bench.begin(model, pretrained, rng::derive(self.seed, "lora"))?;
                return Ok(Answerer::Writes(backbone, writing));
            }
        };
        self.classifier(model, pretrained, outputs, start).map(Answerer::Chooses)
    }

    /// A classifier with a fresh head.
    pub(super) fn classifier(
        &self,
        model: &ModelRef,
        pretrained: &Pretrained,
        outputs: usize,
        start: Option<&StageId>,
    ) -> Result<Classifier> {
        let (backbone, judge) = match start {
            None => (self.bench.begin(model, pretrained, rng::derive(self.seed, "lora"))?, None),
            Some(stage) => {
                let device = self.bench.place.device.clone().autodiff();
                let precision = self.bench.place.execution.precision;
                let kept = self.bench.model_of(stage)?;
                let known = Classifier::load_with(&kept, &device, || match &model.lora {
                    None => kept.load_to_train(&device, precision),
                    Some(_) => kept.load_frozen(&device, precision),
                })?;
                let head: Vec<f32> = known.head.weight.val().into_data().iter().collect();
                // What it keeps of a training goes on from what that stage kept: the same adapters, on the same weights.
                let backbone = match &model.lora {
                    None => known.backbone.merged(),
                    Some(_) => known.backbone.adapters_alone(),
                };
                (backbone, Some(head))
            }
        };
        let head_seed = rng::derive(self.seed, "head");
        let classifier = Classifier::new(backbone, &model.head, outputs, head_seed, Some(pretrained.tokenizer()))?;
        Ok(if judge.is_some() { classifier.with_judge(judge) } else { classifier })
    }

    /// Trains a model; every method of a cell sees the same order. Phases after the first draw from streams of their own.
    pub(super) fn train(
        &self,
        answerer: Answerer,
        tokenizer: &Tokenizer,
        data: &Encoded,
        recipe: &Recipe,
        lesson: Lesson,
        phase: usize,
    ) -> Result<Trained<Answerer>> {
        match answerer {
            Answerer::Chooses(classifier) => {
                let trained = self.train_classifier(classifier, data, recipe, lesson.objective, phase)?;
                Ok(trained.map(Answerer::Chooses))
            }
            Answerer::Writes(model, writing) => {
                let tokens = |(row, text): (usize, &String)| tokenizer.encode_after(data.row(row), text);
                let column = |texts: &Vec<String>| texts.iter().enumerate().map(tokens).collect::<Result<Vec<_>>>();
                let texts = Texts {
                    answers: lesson.texts.iter().map(column).collect::<Result<_>>()?,
                    end_token: writing.ends.first().copied(),
                    answering: writing.answering.clone(),
                };
                let seed = self.order(phase);
                let trained = self.bench.train(model, |model, execution| {
                    learner::train_words(model, data, lesson.objective, texts, recipe, seed, execution)
                })?;
                Ok(trained.map(|model| Answerer::Writes(model, writing)))
            }
        }
    }

    /// Trains a model on the texts of examples themselves, as a language model: the whole of it or its adapters, also where of a classifier the
    /// head alone is trained otherwise. Heads stay as they are.
    pub(super) fn train_on_texts(
        &self,
        answerer: Answerer,
        texts: &Encoded,
        recipe: &Recipe,
        phase: usize,
    ) -> Result<Trained<Answerer>> {
        let seed = self.order(phase);
        let train = |model| {
            self.bench.train(model, |model, execution| learner::train_texts(model, texts, recipe, seed, execution))
        };
        match answerer {
            Answerer::Writes(model, writing) => Ok(train(model)?.map(|model| Answerer::Writes(model, writing))),
            Answerer::Chooses(classifier) => {
                let (backbone, with_heads) = classifier.apart();
                let frozen = learner::is_frozen(&backbone);
                let trained = train(if frozen { backbone.all_trained() } else { backbone })?;
                let again = |backbone: Transformer| if frozen { backbone.no_grad() } else { backbone };
                Ok(trained.map(|backbone| Answerer::Chooses(with_heads(again(backbone)).valid())))
            }
        }
    }

    /// Trains a classifier.
    pub(super) fn train_classifier(
        &self,
        classifier: Classifier,
        data: &Encoded,
        recipe: &Recipe,
        objective: Objective,
        phase: usize,
    ) -> Result<Trained<Classifier>> {
        let seed = self.order(phase);
        self.bench.train(classifier, |classifier, execution| {
            learner::train_classifier(classifier, data, objective, recipe, seed, execution)
        })
    }

    /// Seed of the order of examples.
    fn order(&self, phase: usize) -> u64 {
        let stream = if phase == 0 { "order".to_owned() } else { format!("phase-{phase}/order") };
        rng::derive(self.seed, &stream)
    }

    /// Lets a model answer one split.
    pub(super) fn answer(&self, model: &Pretrained, answerer: &Answerer, split: Split) -> Result<Labels> {
        self.answer_to(&self.encode(model, split)?, model.tokenizer(), answerer, split)
    }

    /// Lets a model answer some examples of a split.
    pub(super) fn answer_to(
        &self,
        data: &Encoded,
        tokenizer: &Tokenizer,
        answerer: &Answerer,
        split: Split,
    ) -> Result<Labels> {
        match answerer {
            Answerer::Chooses(classifier) => {
                let predicted = learner::predict(classifier, data, &self.bench.place.execution)?;
                Ok(Labels::Soft(predicted.probabilities))
            }
            Answerer::Writes(model, writing) => {
                let writer = Writer { model, tokenizer, ends: &writing.ends };
                self.write(&writer, data, None, split).map(Labels::Texts)
            }
        }
    }

    /// How answers to the questions of the task, or of that at a place of a suite, are written: the likeliest token each time.
    ///
    /// # Errors
    /// It does not ask for words.
    pub(super) fn decoding(&self, place: usize) -> Result<Decoding> {
        decoding(&self.data, place)
    }

    /// Lets a model write an answer after each prompt, or as many as are asked for at a temperature.
    pub(super) fn write(
        &self,
        writer: &Writer,
        prompts: &Encoded,
        draws: Option<(usize, f64)>,
        split: Split,
    ) -> Result<Vec<Answer>> {
        let execution = self.bench.place.execution.clone();
        Scribe { data: self.data.clone(), seed: self.seed, execution }.write(writer, prompts, draws, split)
    }

    /// Asks a model for its answers to a split in the midst of its training; `answerer` is that model.
    pub(super) fn evaluation(
        &self,
        model: &Pretrained,
        answerer: &Answerer,
        at: Vec<f64>,
        split: Split,
    ) -> Result<Evaluate> {
        let (prompts, tokenizer) = (self.encode(model, split)?, model.tokenizer().clone());
        let ends = match answerer {
            Answerer::Chooses(_) => Vec::new(),
            Answerer::Writes(_, writing) => writing.ends.clone(),
        };
        // It answers to its end, whoever asks to stop; the bar is the training's.
        let execution = Execution { bar: None, stop: None, checkpoints: None, ..self.bench.place.execution.clone() };
        let scribe = Scribe { data: self.data.clone(), seed: self.seed, execution };
        let say = move |model: Halfway| {
            let labels = match model {
                Halfway::Chooses(model) => {
                    Labels::Soft(learner::predict(model, &prompts, &scribe.execution)?.probabilities)
                }
                Halfway::Writes(model) => {
                    let writer = Writer { model: &model.valid(), tokenizer: &tokenizer, ends: &ends };
                    Labels::Texts(scribe.write(&writer, &prompts, None, split)?)
                }
            };
            serde_json::to_value(labels).map_err(|error| Error::new(format!("answers cannot be kept: {error}")))
        };
        Ok(Evaluate { at, say: Arc::new(say) })
    }

    /// Lets a model answer one split, into its file.
    pub(super) fn answer_into(
        &self,
        model: &Pretrained,
        answerer: &Answerer,
        split: Split,
        folder: &Path,
    ) -> Result<()> {
        self.answer(model, answerer, split)?.write(split, folder)
    }

    /// A model that a stage kept, ready to answer.
    pub(super) fn kept(&self, stage: &StageId) -> Result<(Pretrained, Answerer)> {
        if self.data.asks() != Form::Words {
            return self.kept_classifier(stage);
        }
        let pretrained = self.bench.model_of(stage)?;
        let manifest = self.bench.stage(stage)?.manifest;
        let writing = serde_json::from_value(manifest.parameters["model"]["writing"].clone());
        let writing = writing.map_err(|error| {
            Error::new(format!("the record of `{stage}` does not say how its model writes: {error}"))
        })?;
        let answerer = Answerer::Writes(self.bench.load(&pretrained)?, writing);
        Ok((pretrained, answerer))
    }

    /// A classifier that a stage kept.
    pub(super) fn kept_classifier(&self, stage: &StageId) -> Result<(Pretrained, Answerer)> {
        let pretrained = self.bench.model_of(stage)?;
        let classifier = Classifier::load_with(&pretrained, &self.bench.place.device, || self.bench.load(&pretrained))?;
        Ok((pretrained, Answerer::Chooses(classifier)))
    }
}

impl Scribe {
    fn write(
        &self,
        writer: &Writer,
        prompts: &Encoded,
        draws: Option<(usize, f64)>,
        split: Split,
    ) -> Result<Vec<Answer>> {
        let seed = rng::derive(self.seed, &format!("write/{}", split.name()));
        let Some(matchers) = self.data.matchers(split)? else { return Ok(Vec::new()) };
        let Writer { model, tokenizer, ends } = writer;
        let execution = &self.execution;
        let mut answers = Vec::new();
        for (place, rows) in self.data.portion_rows(split).into_iter().enumerate() {
            let mut decoding = decoding(&self.data, place)?;
            if let Some((samples, temperature)) = draws {
                (decoding.samples, decoding.temperature) = (samples, temperature);
            }
            let matcher = matchers.of(rows.start);
            // A task alone may be asked some of its questions.
            let own = (!self.data.portions.is_empty()).then(|| prompts.part(&rows.collect::<Vec<_>>()));
            let prompts = own.as_ref().unwrap_or(prompts);
            let seed = if place == 0 { seed } else { rng::derive(seed, &format!("task-{place}")) };
            let written = learner::generate(model, tokenizer, ends, prompts, &decoding, seed, execution)?;
            answers.extend(written.into_iter().flatten().map(|written| Answer {
                answer: matcher.answer(&written.text),
                log_p: Some(written.total()),
                cut: written.ending == Ending::Length,
                raw: written.text,
            }));
        }
        Ok(answers)
    }
}

/// How answers to the questions of a task, or of that at a place of a suite, are written.
fn decoding(data: &TaskData, place: usize) -> Result<Decoding> {
    let task::Form::Generate(generation) = data.portion_form(place) else {
        return Err(Error::new(format!("task `{}` does not ask for words", data.task)));
    };
    let (max_new_tokens, stop) = (generation.max_new_tokens, generation.stop.clone());
    Ok(Decoding { max_new_tokens, stop, ..Decoding::default() })
}

impl Answerer {
    /// Keeps the model in a stage's folder: where adapters alone were trained, those, and what they are on by its name.
    pub(super) fn save(&self, folder: &Path, tokenizer: &Tokenizer, model: &ModelRef) -> Result<()> {
        let (folder, base) = (folder.join(MODEL), &model.name);
        match (self, &model.lora) {
            (Self::Chooses(classifier), None) => classifier.save(&folder, tokenizer),
            (Self::Chooses(classifier), Some(_)) => classifier.save_adapter(&folder, tokenizer, base),
            (Self::Writes(model, _), None) => model.save(&folder, tokenizer),
            (Self::Writes(model, _), Some(_)) => model.save_adapter(&folder, tokenizer, base),
        }
    }

    /// The classifier, if it is one.
    pub(super) fn classifier(&self) -> Option<&Classifier> {
        match self {
            Self::Chooses(classifier) => Some(classifier),
            Self::Writes(..) => None,
        }
    }
}
