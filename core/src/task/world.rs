//! Generated worlds: invented entities with attributes, text about them, and tasks that ask about them.
//!
//! A world makes weak-to-strong generalization a real question without any download. Language models are pretrained on its text; how
//! often an entity occurs decides which models know its facts. A task asks for the class of an attribute's value at the very place
//! where the value would come next, so that fine-tuning teaches how to answer, never a fact: facts are split, and none is in two parts.
//! docs/world.md says why it is made like this, and what did not work.

mod exercises;

use std::{collections::BTreeMap, path::Path, sync::OnceLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::exercises::{Exercise, Kind, Operation};
use super::{OneOrMany, Row, RowSource, Rows};
use crate::{Error, Result, rng::Rng, strategy::Settings};

/// `configs/worlds/NAME.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// One sentence for people.
    #[serde(default, skip_serializing)]
    pub title: String,
    /// Seed of everything: names, facts, text.
    #[serde(default)]
    pub seed: u64,
    /// Number of entities. Their frequency in the text falls with their rank.
    pub entities: usize,
    /// Zipf's exponent: an entity of rank r occurs in proportion to r to the power of minus this.
    pub zipf: f64,
    /// Tokens of text, about.
    pub tokens: usize,
    /// Tokens of a document: whole sentences up to this length. At most the positions of the models.
    pub document: usize,
    /// Share of sentences that say which class a value belongs to. Without them a weak model learns whole values backwards.
    pub about_values: f64,
    /// Share of the entities that are kept for auxiliary tasks, such as what columns are learnt on. They occur in the text like all others.
    #[serde(default)]
    pub reserved: f64,
    /// What is known about every entity.
    pub attributes: Vec<Attribute>,
    /// Passages in which facts are told about entities that are not named again.
    #[serde(default)]
    pub passages: Vec<Passage>,
    /// What follows from two things that are known.
    #[serde(default)]
    pub hops: Vec<Hop>,
    /// Questions whose answer follows from the question alone, by name.
    #[serde(default)]
    pub exercises: BTreeMap<String, Exercise>,
    /// Words that the text never says and that texts of other sources do: they have tokens of their own.
    #[serde(default)]
    pub words: Vec<String>,
    #[serde(skip)]
    told: Told,
}

/// How often a world's text tells each fact, once somebody has asked: the whole text is written for that.
#[derive(Clone, Debug, Default)]
struct Told(OnceLock<Vec<Vec<u32>>>);

/// It follows from the rest of the world.
impl PartialEq for Told {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Settings for World {
    fn later() -> Vec<(&'static str, Value)> {
        vec![
            ("reserved", 0.0.into()),
            ("passages", Value::Array(Vec::new())),
            ("hops", Value::Array(Vec::new())),
            ("exercises", Value::Object(Map::new())),
            ("words", Value::Array(Vec::new())),
        ]
    }
}

/// One attribute of every entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Sentence beginnings that end just before the value; `{}` is the entity.
    pub phrases: Vec<String>,
    /// Class names, each with its values. Every entity gets one value at random.
    pub classes: BTreeMap<String, Vec<String>>,
}

/// A sentence about two entities, then a fact about one of them, who has to be found in the sentence: reading, then knowing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Passage {
    /// Its name.
    pub name: String,
    /// Share of the text's sentences.
    pub share: f64,
    /// First sentences; `{}` is the entity that the fact is about, `{other}` any other one.
    pub openings: Vec<String>,
    /// What stands for the entity in the phrase of the fact; an article before it in the phrase is left out.
    pub subject: String,
}

/// The class of an entity's value: who lives in the reef lives where it is wet. The text says it of some entities, and says of every value
/// which class it is of (`about_values`); tasks ask it of the other entities, of whom it has to be put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// Its name.
    pub name: String,
    /// The attribute whose classes are said.
    pub attribute: String,
    /// Sentence beginnings that end just before the class; `{}` is the entity.
    pub phrases: Vec<String>,
    /// Share of the text's sentences.
    pub share: f64,
    /// Share of the entities of whom the text says it.
    pub told: f64,
}

/// Text and tokenizer of a world.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Documents as token ids.
    pub corpus: Vec<Vec<u32>>,
    /// A `tokenizer.json`: one token per word.
    pub tokenizer: String,
}

/// Which examples of a world a task consists of: the task's `[source.world]`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = also_attribute)]
pub(super) struct Question {
    /// Name of the world; whoever opens the world reads it.
    #[serde(rename = "name")]
    _name: String,
    /// Attributes that are asked for, one or a list.
    #[serde(alias = "attribute", default = "none")]
    attributes: OneOrMany<String>,
    /// Instead of attributes: the hop that is asked for.
    hop: Option<String>,
    /// Instead of attributes: the exercise that is asked.
    exercise: Option<String>,
    /// Passage in which the question stands; without one it is asked directly.
    passage: Option<String>,
    /// Ask about the entities kept for auxiliary tasks, instead of about all others.
    #[serde(default)]
    reserved: bool,
    /// At most so many phrases per fact, the first ones (with a passage: so many passages). Default: all.
    phrases: Option<usize>,
}

/// An alias is a key, too.
fn also_attribute(schema: &mut schemars::Schema) {
    if let Some(keys) = schema.get_mut("properties").and_then(Value::as_object_mut)
        && let Some(attributes) = keys.get("attributes").cloned()
    {
        keys.insert("attribute".to_owned(), attributes);
    }
}

fn none() -> OneOrMany<String> {
    OneOrMany::Many(Vec::new())
}

/// Sentences about values, `{}` being the value.
const ABOUT: [&str; 2] = ["every {} is", "all of the {} is"];
/// Parts of the facts for weak supervision and for the student; the rest is for testing.
const PARTS: [f64; 2] = [0.25, 0.5];
const UNKNOWN: &str = "[UNK]";
const STOP: &str = ".";

impl World {
    /// Parses and checks a world; `path` is named in errors.
    ///
    /// # Errors
    /// Text that is no world, or numbers and words that make none.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let world: Self = toml::from_str(text).map_err(|cause| {
            let error = Error::new(format!("not a world: {}", cause.message().trim_end()));
            match cause.span() {
                Some(span) => error.at(path, text, span),
                None => error.in_file(path),
            }
        })?;
        world.check().map_err(|error| error.in_file(path))?;
        Ok(world)
    }

    /// The passage of a name.
    fn passage(&self, name: &str) -> Result<&Passage> {
        let found = self.passages.iter().find(|passage| passage.name == name);
        found.ok_or_else(|| unknown("passage", name, self.passages.iter().map(|passage| passage.name.as_str())))
    }

    /// Which entities are kept for auxiliary tasks, in the order of [`World::entities`].
    fn reserved(&self) -> Vec<bool> {
        self.drawn("world/reserved", self.reserved)
    }

    /// A share of the entities, drawn at random.
    fn drawn(&self, stream: &str, share: f64) -> Vec<bool> {
        let mut order: Vec<usize> = (0..self.entities).collect();
        Rng::named(self.seed, stream).shuffle(&mut order);
        let mut drawn = vec![false; self.entities];
        for entity in order.into_iter().take((share * self.entities as f64).round() as usize) {
            drawn[entity] = true;
        }
        drawn
    }

    fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::new(message));
        if !(8..=9_000).contains(&self.entities) {
            return refuse(format!("`entities` must be between 8 and 9000, not {}", self.entities));
        }
        if !(0.0..=10.0).contains(&self.zipf) || !(0.0..1.0).contains(&self.about_values) {
            return refuse("`zipf` must be between 0 and 10, and `about_values` at least 0 and less than 1".to_owned());
        }
        if !(8..=4_096).contains(&self.document) || !(self.document..=1_000_000_000).contains(&self.tokens) {
            return refuse("`document` must be between 8 and 4096, and `tokens` at least one document".to_owned());
        }
        let others =
            self.hops.iter().map(|hop| hop.share).chain(self.exercises.values().map(|exercise| exercise.share));
        let shares: Vec<f64> = self.passages.iter().map(|passage| passage.share).chain(others).collect();
        let total = shares.iter().sum::<f64>() + self.about_values;
        if !shares.iter().all(|share| (0.0..1.0).contains(share)) || total >= 1.0 {
            return refuse(
                "shares of passages, hops, exercises and `about_values` must be at least 0 and add up to less than 1"
                    .to_owned(),
            );
        }
        if let Some(word) = self.words.iter().find(|word| word.is_empty() || word.contains(char::is_whitespace)) {
            return refuse(format!("`words`: `{word}` is not one word"));
        }
        if !(0.0..1.0).contains(&self.reserved) {
            return refuse("`reserved` must be at least 0 and less than 1".to_owned());
        }
        let longest = self.attributes.iter().flat_map(|attribute| &attribute.phrases).map(|phrase| words(phrase));
        let longest = longest.max().unwrap_or(0);
        let mut names = std::collections::BTreeSet::new();
        for Passage { name, openings, subject, .. } in &self.passages {
            if !names.insert(name) {
                return refuse(format!("two passages are called `{name}`"));
            }
            if subject.trim().is_empty() || openings.is_empty() {
                return refuse(format!("passage `{name}` needs a subject and at least one opening"));
            }
            for opening in openings {
                let times = |slot: &str| opening.split(' ').filter(|word| *word == slot).count();
                if times("{}") != 1 || times("{other}") != 1 {
                    return refuse(format!("opening `{opening}` must hold `{{}}` and `{{other}}` once, as words"));
                }
                if words(opening) + words(subject) + longest + 1 > self.document {
                    return refuse(format!("passage `{name}` does not fit a document with `{opening}`"));
                }
            }
        }
        let mut names = std::collections::BTreeSet::new();
        for Hop { name, attribute, phrases, told, .. } in &self.hops {
            if !names.insert(name) {
                return refuse(format!("two hops are called `{name}`"));
            }
            if !self.attributes.iter().any(|known| known.name == *attribute) {
                return refuse(format!("hop `{name}`: the world has no attribute `{attribute}`"));
            }
            let n = (told * self.entities as f64).round();
            if phrases.is_empty() || !(1.0..self.entities as f64).contains(&n) {
                return refuse(format!(
                    "hop `{name}` needs a phrase, and `told` for some of the entities, not for all"
                ));
            }
            for phrase in phrases {
                if phrase.split(' ').filter(|word| *word == "{}").count() != 1 || words(phrase) + 2 > self.document {
                    return refuse(format!("phrase `{phrase}` must hold `{{}}` once, as a word, and fit a document"));
                }
            }
        }
        if self.attributes.is_empty() {
            return refuse("a world needs at least one [[attributes]]".to_owned());
        }
        let mut owners = BTreeMap::new();
        for attribute in &self.attributes {
            let name = &attribute.name;
            if attribute.classes.len() < 2 || attribute.phrases.is_empty() {
                return refuse(format!("attribute `{name}` needs at least 2 classes and 1 phrase"));
            }
            for phrase in &attribute.phrases {
                if phrase.split(' ').filter(|word| *word == "{}").count() != 1 || words(phrase) + 2 > self.document {
                    return refuse(format!("phrase `{phrase}` must hold `{{}}` once, as a word, and fit a document"));
                }
            }
            for (class, values) in &attribute.classes {
                if values.is_empty() {
                    return refuse(format!("class `{class}` of `{name}` has no values"));
                }
                for word in values.iter().chain([class]) {
                    if word.is_empty() || word.contains(char::is_whitespace) {
                        return refuse(format!("`{word}` is not one word"));
                    }
                }
                for value in values {
                    if let Some(other) = owners.insert(value, name) {
                        return refuse(format!("value `{value}` belongs to `{other}` and to `{name}`"));
                    }
                }
            }
        }
        exercises::check(&self.exercises, self.seed, &self.attributes, self.document)
    }

    /// Of which entities the text says a hop, in the order of [`World::entities`].
    fn told_of(&self, hop: &Hop) -> Vec<bool> {
        self.drawn(&format!("world/hops/{}", hop.name), hop.told)
    }

    /// Names of the entities, the most frequent first: three syllables each, all different.
    pub fn entities(&self) -> Vec<String> {
        const CONSONANTS: &[u8] = b"bdfgklmnprstvz";
        const VOWELS: &[u8] = b"aeiou";
        let (rows, syllables) = (VOWELS.len(), CONSONANTS.len() * VOWELS.len());
        let syllable = |n: usize| format!("{}{}", CONSONANTS[n / rows] as char, VOWELS[n % rows] as char);
        let mut numbers: Vec<usize> = (0..syllables.pow(3)).collect();
        Rng::named(self.seed, "world/entities").shuffle(&mut numbers);
        let name =
            |n: &usize| [n / syllables / syllables, n / syllables % syllables, n % syllables].map(syllable).concat();
        numbers.iter().take(self.entities).map(name).collect()
    }

    /// Class and value of every entity, in the order of [`World::entities`].
    fn facts<'a>(&self, attribute: &'a Attribute) -> Vec<(usize, &'a str)> {
        let values: Vec<(usize, &str)> = (attribute.classes.values().enumerate())
            .flat_map(|(class, values)| values.iter().map(move |value| (class, value.as_str())))
            .collect();
        let mut rng = Rng::named(self.seed, &format!("world/facts/{}", attribute.name));
        (0..self.entities).map(|_| values[rng.below(values.len())]).collect()
    }

    /// The class of every entity's value that a hop says; `None` if the world lacks its attribute.
    fn classes(&self, hop: &Hop) -> Option<Vec<&str>> {
        let attribute = self.attributes.iter().find(|attribute| attribute.name == hop.attribute)?;
        let names: Vec<&str> = attribute.classes.keys().map(String::as_str).collect();
        Some(self.facts(attribute).into_iter().map(|(class, _)| names[class]).collect())
    }

    /// Every word of the world, in the order of token ids.
    fn vocabulary(&self) -> Vec<String> {
        let entities = self.entities();
        let exercises: Vec<String> = self.exercises.values().flat_map(Exercise::words).collect();
        let mut vocabulary = vec![UNKNOWN.to_owned(), STOP.to_owned()];
        let mut known: std::collections::BTreeSet<String> = vocabulary.iter().cloned().collect();
        let phrases = self.attributes.iter().flat_map(|attribute| &attribute.phrases).map(String::as_str);
        let passages = (self.passages.iter())
            .flat_map(|passage| passage.openings.iter().chain([&passage.subject]))
            .map(String::as_str);
        let hops = self.hops.iter().flat_map(|hop| &hop.phrases).map(String::as_str);
        let exercises = exercises.iter().map(String::as_str);
        let spoken = phrases.chain(ABOUT).chain(passages).chain(hops).chain(exercises);
        let spoken = spoken.flat_map(|phrase| phrase.split(' '));
        let spoken = spoken.filter(|word| !["{}", "{other}"].contains(word));
        let classes = self.attributes.iter().flat_map(|attribute| &attribute.classes);
        let valued = classes.flat_map(|(class, values)| values.iter().chain([class])).map(String::as_str);
        let named = entities.iter().chain(&self.words).map(String::as_str);
        for word in spoken.chain(valued).chain(named) {
            if known.insert(word.to_owned()) {
                vocabulary.push(word.to_owned());
            }
        }
        vocabulary
    }

    /// Number of token ids.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary().len()
    }

    /// A `tokenizer.json` with one token per word.
    pub fn tokenizer_json(&self) -> String {
        let vocabulary: Map<String, Value> =
            self.vocabulary().into_iter().zip(0u32..).map(|(word, id)| (word, id.into())).collect();
        let special = json!({
            "id": 0, "content": UNKNOWN, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        });
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [special],
            "normalizer": null,
            "pre_tokenizer": { "type": "WhitespaceSplit" },
            "post_processor": null,
            "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN },
        });
        tokenizer.to_string()
    }

    /// The text and its tokenizer. The same world gives the same bits everywhere.
    pub fn generate(&self) -> Generated {
        Generated { corpus: self.write().0, tokenizer: self.tokenizer_json() }
    }

    /// The text, and how often it tells each fact: by attribute, then entity.
    fn write(&self) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
        let ids: BTreeMap<String, u32> = self.vocabulary().into_iter().zip(0..).collect();
        let (entities, facts) = (self.entities(), self.attributes.iter().map(|a| self.facts(a)).collect::<Vec<_>>());
        let mut told = vec![vec![0; self.entities]; self.attributes.len()];
        let all = Crowd::of(0..self.entities, self.zipf);
        let hop = |hop| {
            let told = self.told_of(hop);
            Some((hop, Crowd::of((0..self.entities).filter(|entity| told[*entity]), self.zipf), self.classes(hop)?))
        };
        let hops: Vec<(&Hop, Crowd, Vec<&str>)> = self.hops.iter().filter_map(hop).collect();
        let mut rng = Rng::named(self.seed, "world/text");
        let (mut corpus, mut document, mut written) = (Vec::new(), Vec::new(), 0);
        while written < self.tokens {
            let number = rng.below(self.attributes.len());
            let attribute = &self.attributes[number];
            let mut kind = rng.uniform();
            let mut falls = |share: f64| {
                kind -= share;
                kind < 0.0
            };
            let said = if falls(self.about_values) {
                let classes: Vec<_> = attribute.classes.iter().collect();
                let (class, values) = classes[rng.below(classes.len())];
                let beginning = ABOUT[rng.below(ABOUT.len())].replace("{}", &values[rng.below(values.len())]);
                format!("{beginning} {class}")
            } else if let Some((hop, crowd, classes)) = hops.iter().find(|(hop, ..)| falls(hop.share)) {
                let entity = crowd.somebody(&mut rng);
                let phrase = &hop.phrases[rng.below(hop.phrases.len())];
                format!("{} {}", phrase.replace("{}", &entities[entity]), classes[entity])
            } else if let Some((name, exercise)) = self.exercises.iter().find(|(_, exercise)| falls(exercise.share)) {
                if exercise.opens && !document.is_empty() {
                    corpus.push(std::mem::take(&mut document));
                }
                let said = exercise.tell(name, self.seed, &self.attributes, &mut rng);
                format!("{} {}", said.question, said.answer)
            } else {
                let entity = all.somebody(&mut rng);
                told[number][entity] += 1;
                let phrase = &attribute.phrases[rng.below(attribute.phrases.len())];
                let beginning = match self.passages.iter().find(|passage| falls(passage.share)) {
                    Some(passage) => passage.tell(phrase, entity, &entities, &mut rng),
                    None => phrase.replace("{}", &entities[entity]),
                };
                format!("{beginning} {}", facts[number][entity].1)
            };
            let sentence: Vec<u32> = said.split(' ').chain([STOP]).map(|word| ids[word]).collect();
            if document.len() + sentence.len() > self.document {
                corpus.push(std::mem::take(&mut document));
            }
            written += sentence.len();
            document.extend(sentence);
        }
        corpus.push(document);
        (corpus, told)
    }

    /// How often the text tells each fact: by attribute, then entity, in the order of [`World::entities`].
    pub fn told(&self) -> &[Vec<u32>] {
        self.told.0.get_or_init(|| self.write().1)
    }

    /// Which fact each question asks for: places of attribute and entity, as in [`World::told`]; `None` for what is no question of
    /// this world.
    pub fn asked<'q>(&self, questions: impl IntoIterator<Item = &'q str>) -> Vec<Option<(usize, usize)>> {
        let entities = self.entities();
        let places: BTreeMap<&str, usize> = entities.iter().map(String::as_str).zip(0..).collect();
        let mut patterns: Vec<(usize, String)> = Vec::new();
        for (number, attribute) in self.attributes.iter().enumerate() {
            for phrase in &attribute.phrases {
                patterns.push((number, phrase.clone()));
                for passage in &self.passages {
                    let fact = passage.subject_in(phrase);
                    patterns.extend(passage.openings.iter().map(|opening| (number, format!("{opening} {fact}"))));
                }
            }
        }
        // The entity in the place of `{}`, if every other word is as in the pattern.
        let entity_in = |pattern: &str, question: &str| -> Option<usize> {
            let mut entity = None;
            let mut said = question.split(' ');
            for word in pattern.split(' ') {
                let here = said.next()?;
                match word {
                    "{}" => entity = Some(*places.get(here)?),
                    "{other}" => drop(places.get(here)?),
                    _ if word == here => {}
                    _ => return None,
                }
            }
            if said.next().is_none() { entity } else { None }
        };
        let fact = |question: &str| {
            patterns.iter().find_map(|(number, pattern)| Some((*number, entity_in(pattern, question)?)))
        };
        questions.into_iter().map(fact).collect()
    }

    /// The rows of a task on this world. `seed` decides which facts are in which part.
    ///
    /// Splits are `supervise`, `transfer` and `test`; columns `prompt`, `attribute`, `class`, `value`, `entity`, `rank` (1 is the most
    /// frequent) and `told` (how often the text tells the fact).
    ///
    /// # Errors
    /// A table that names no attribute or passage of this world.
    pub fn source(&self, question: &Map<String, Value>, seed: u64) -> Result<Box<dyn RowSource>> {
        let question: Question = serde_json::from_value(Value::Object(question.clone()))
            .map_err(|cause| Error::new(format!("[source.world]: {cause}")))?;
        match (question.attributes.as_slice(), &question.hop, &question.exercise) {
            (_, None, None) => {}
            ([], Some(hop), None) => return self.hop_source(hop, &question, seed),
            ([], None, Some(exercise)) => return self.exercise_source(exercise, &question, seed),
            _ => return Err(Error::new("[source.world]: a task asks for attributes, for a hop or for an exercise")),
        }
        let mut asked = Vec::new();
        for name in question.attributes.as_slice() {
            let number = self.attributes.iter().position(|attribute| attribute.name == *name).ok_or_else(|| {
                unknown("attribute", name, self.attributes.iter().map(|attribute| attribute.name.as_str()))
            })?;
            if asked.contains(&number) {
                return Err(Error::new(format!("[source.world]: `{name}` is asked for twice")));
            }
            asked.push(number);
        }
        if asked.is_empty() || question.phrases == Some(0) {
            return Err(Error::new("[source.world]: a task asks for at least one attribute, in at least one phrase"));
        }
        let passage = question.passage.as_deref().map(|name| self.passage(name)).transpose()?;
        let (entities, reserved, told) = (self.entities(), self.reserved(), self.told());
        let facts: Vec<_> = self.attributes.iter().map(|attribute| self.facts(attribute)).collect();
        // Names of random streams; a task that asks for one attribute directly has the attribute's name.
        let mut stream = question.attributes.as_slice().join("+");
        stream.extend(question.passage.iter().flat_map(|name| ["/", name.as_str()]));
        let mut order: Vec<(usize, usize)> = (asked.iter())
            .flat_map(|number| (0..self.entities).map(move |entity| (*number, entity)))
            .filter(|(_, entity)| reserved[*entity] == question.reserved)
            .collect();
        if order.is_empty() {
            return Err(
                Error::new("[source.world]: the world has no reserved entities").help("set `reserved` in the world")
            );
        }
        Rng::named(seed, &format!("world/parts/{stream}")).shuffle(&mut order);
        Ok(Box::new(Parts::cut(&order, &stream, seed, |&(number, entity)| {
            let attribute = &self.attributes[number];
            let (class, value) = facts[number][entity];
            // The other entities of a fact's passages are the same for every seed: a seed moves the split alone.
            let mut others = Rng::named(self.seed, &format!("world/others/{stream}/{number}/{entity}"));
            let phrases = attribute.phrases.iter().take(question.phrases.unwrap_or(usize::MAX));
            let row = |phrase: &String| {
                let prompt = match passage {
                    Some(passage) => passage.tell(phrase, entity, &entities, &mut others),
                    None => phrase.replace("{}", &entities[entity]),
                };
                json!({
                    "prompt": prompt,
                    "attribute": attribute.name,
                    "class": attribute.classes.keys().nth(class),
                    "value": value,
                    "entity": entities[entity],
                    "rank": entity + 1,
                    "told": told[number][entity],
                })
            };
            phrases.map(row).collect()
        })))
    }

    /// The rows of a task that asks for a hop, of entities of whom the text does not say it.
    fn hop_source(&self, name: &str, question: &Question, seed: u64) -> Result<Box<dyn RowSource>> {
        let found = self.hops.iter().find(|hop| hop.name == name);
        let Some((hop, classes)) = found.and_then(|hop| Some((hop, self.classes(hop)?))) else {
            return Err(unknown("hop", name, self.hops.iter().map(|hop| hop.name.as_str())));
        };
        question.plain("hop")?;
        let (entities, reserved, told) = (self.entities(), self.reserved(), self.told_of(hop));
        let asked = |entity: &usize| !told[*entity] && reserved[*entity] == question.reserved;
        let mut order: Vec<usize> = (0..self.entities).filter(asked).collect();
        if order.is_empty() {
            return Err(Error::new(format!("[source.world]: there is nobody to ask of for hop `{name}`"))
                .help("lower its `told`, or set `reserved` in the world"));
        }
        Rng::named(seed, &format!("world/parts/hop/{name}")).shuffle(&mut order);
        Ok(Box::new(Parts::cut(&order, &format!("hop/{name}"), seed, |&entity| {
            let phrases = hop.phrases.iter().take(question.phrases.unwrap_or(usize::MAX));
            let row = |phrase: &String| {
                json!({
                    "prompt": phrase.replace("{}", &entities[entity]),
                    "attribute": hop.attribute,
                    "value": classes[entity],
                    "entity": entities[entity],
                    "rank": entity + 1,
                })
            };
            phrases.map(row).collect()
        })))
    }

    /// The rows of a task that asks exercises, of which the text says none.
    fn exercise_source(&self, name: &str, question: &Question, seed: u64) -> Result<Box<dyn RowSource>> {
        let Some(exercise) = self.exercises.get(name) else {
            return Err(unknown("exercise", name, self.exercises.keys().map(String::as_str)));
        };
        question.plain("exercise")?;
        if question.reserved || question.phrases.is_some() {
            return Err(Error::new("[source.world]: an exercise is about nobody: no `reserved`, no `phrases`"));
        }
        let mut asked = exercise.asked(name, self.seed, &self.attributes)?;
        Rng::named(seed, &format!("world/parts/exercise/{name}")).shuffle(&mut asked);
        Ok(Box::new(Parts::cut(&asked, &format!("exercise/{name}"), seed, |said| {
            vec![json!({ "prompt": said.question, "value": said.answer })]
        })))
    }
}

impl Question {
    /// Refuses what only questions about attributes have.
    fn plain(&self, what: &str) -> Result<()> {
        match (&self.passage, self.phrases) {
            (Some(_), _) => Err(Error::new(format!("[source.world]: no {what} is told in a passage"))),
            (None, Some(0)) => Err(Error::new("[source.world]: a task asks in at least one phrase")),
            _ => Ok(()),
        }
    }
}

/// What a task asks for and the world lacks.
fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known: Vec<_> = known.collect();
    let help = if known.is_empty() { "it has none".to_owned() } else { format!("choose from {}", known.join(", ")) };
    Error::new(format!("[source.world]: the world has no {what} `{name}`")).help(help)
}

impl Passage {
    /// An opening and the beginning of the fact, with another entity drawn uniformly.
    fn tell(&self, phrase: &str, entity: usize, entities: &[String], rng: &mut Rng) -> String {
        let other = (entity + 1 + rng.below(entities.len() - 1)) % entities.len();
        let opening = &self.openings[rng.below(self.openings.len())];
        let opening = opening.replace("{other}", &entities[other]).replace("{}", &entities[entity]);
        format!("{opening} {}", self.subject_in(phrase))
    }

    /// The phrase about the subject: `the {} eats` becomes `it eats`.
    fn subject_in(&self, phrase: &str) -> String {
        let mut said: Vec<&str> = Vec::new();
        for word in phrase.split(' ') {
            if word == "{}" {
                if ["a", "the"].contains(&said.last().copied().unwrap_or_default()) {
                    said.pop();
                }
                said.push(&self.subject);
            } else {
                said.push(word);
            }
        }
        said.join(" ")
    }
}

/// Entities, of whom the frequent are met more often.
struct Crowd {
    entities: Vec<usize>,
    /// The frequency of each, on top of all before it.
    reaches: Vec<f64>,
}

impl Crowd {
    fn of(entities: impl Iterator<Item = usize>, zipf: f64) -> Self {
        let mut reach = 0.0;
        let (entities, reaches) = entities
            .map(|entity| {
                reach += ((entity + 1) as f64).powf(-zipf);
                (entity, reach)
            })
            .unzip();
        Self { entities, reaches }
    }

    fn somebody(&self, rng: &mut Rng) -> usize {
        let at = rng.uniform() * self.reaches.last().copied().unwrap_or_default();
        self.entities[self.reaches.partition_point(|reach| *reach <= at).min(self.entities.len() - 1)]
    }
}

fn words(phrase: &str) -> usize {
    phrase.split(' ').count()
}

/// Rows by split.
struct Parts(BTreeMap<&'static str, Vec<Row>>);

impl Parts {
    /// Cuts what is asked, in this order, into the parts for supervision, transfer and testing, and writes each part's rows. The rows of
    /// one element are in one part; where they stand in it, `stream` and `seed` decide.
    fn cut<T>(asked: &[T], stream: &str, seed: u64, mut rows_of: impl FnMut(&T) -> Vec<Value>) -> Self {
        let mut parts = BTreeMap::new();
        let (total, mut rest) = (asked.len(), asked);
        for (name, share) in
            ["supervise", "transfer", "test"].into_iter().zip(PARTS.into_iter().map(Some).chain([None]))
        {
            let n = share.map_or(rest.len(), |share| (share * total as f64) as usize);
            let (part, after) = rest.split_at(n);
            rest = after;
            let rows = part.iter().flat_map(&mut rows_of);
            let mut rows: Vec<Row> = rows.filter_map(|row| row.as_object().cloned()).collect();
            // Paraphrases of a fact do not stand side by side in a batch.
            Rng::named(seed, &format!("world/order/{stream}/{name}")).shuffle(&mut rows);
            parts.insert(name, rows);
        }
        Self(parts)
    }
}

impl RowSource for Parts {
    fn rows(&self, split: &str, limit: Option<usize>) -> Result<Rows> {
        let rows = self.0.get(split).ok_or_else(|| {
            Error::new(format!("a world has no split `{split}`")).help("choose from supervise, transfer, test")
        })?;
        Ok(Rows::generated(rows.iter().take(limit.unwrap_or(usize::MAX)).cloned().collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TEXT: &str = r#"
        entities = 200
        zipf = 1.0
        tokens = 40000
        document = 32
        about_values = 0.15

        [[attributes]]
        name = "home"
        phrases = ["the {} lives in the", "home of the {} is the"]
        classes = { wet = ["reef", "marsh", "lake"], dry = ["desert", "cave", "heath"] }

        [[attributes]]
        name = "food"
        phrases = ["the {} eats", "dinner of the {} is"]
        classes = { sweet = ["honey", "figs"], sour = ["limes", "kefir"] }
    "#;

    fn world() -> World {
        World::parse(TEXT, Path::new("world.toml")).unwrap()
    }

    const PASSAGES: &str = r#"
        [[passages]]
        name = "first"
        share = 0.2
        openings = ["the {} met the {other} .", "the {} saw the {other} ."]
        subject = "it"

        [[passages]]
        name = "second"
        share = 0.1
        openings = ["the {other} met the {} ."]
        subject = "the other"
    "#;

    fn larger() -> World {
        let text = TEXT.replace(
            "[[attributes]]\n        name = \"home\"",
            "reserved = 0.2\n\n        [[attributes]]\n        name = \"home\"",
        );
        World::parse(&format!("{text}{PASSAGES}"), Path::new("world.toml")).unwrap()
    }

    const CAPABILITIES: &str = r#"
        [[hops]]
        name = "weather"
        attribute = "home"
        phrases = ["the {} sleeps where it is"]
        share = 0.1
        told = 0.5

        [exercises.sums]
        share = 0.1
        kind = { type = "arithmetic", largest = 30, terms = 3 }
        questions = 200

        [exercises.most]
        share = 0.1
        kind = { type = "comparison", largest = 30, terms = 3 }
        questions = 200

        [exercises.lists]
        share = 0.1
        kind = { type = "lists", items = ["key", "cup", "hat", "bell", "rope"], longest = 4, operations = ["first", "last", "reverse", "rest", "length"] }
        questions = 100

        [exercises.commands]
        share = 0.1
        kind = { type = "commands", verbs = ["walk", "jump", "look"] }
        questions = 100

        [exercises.odd]
        share = 0.1
        kind = { type = "odd-one-out" }
        questions = 40
    "#;

    fn capable() -> World {
        World::parse(&format!("{TEXT}{CAPABILITIES}"), Path::new("world.toml")).unwrap()
    }

    fn rows(world: &World, table: Value, split: &str, seed: u64) -> Vec<Row> {
        let source = world.source(table.as_object().unwrap(), seed).unwrap();
        source.rows(split, None).unwrap().read_whole().unwrap().rows.into_iter().map(|(_, row)| row).collect()
    }

    fn said(world: &World) -> String {
        let vocabulary = world.vocabulary();
        let ids = world.generate().corpus.concat();
        ids.iter().map(|id| vocabulary[*id as usize].as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_world_that_gains_nothing_keeps_its_identity() {
        let json = world().identity().unwrap();
        for later in ["passages", "reserved", "hops", "exercises"] {
            assert!(json.get(later).is_none(), "{json}");
        }
        let json = capable().identity().unwrap();
        assert_eq!((json["hops"].as_array().unwrap().len(), json["exercises"].as_object().unwrap().len()), (1, 5));
        let json = larger().identity().unwrap();
        assert_eq!((json["reserved"].as_f64(), json["passages"].as_array().unwrap().len()), (Some(0.2), 2));
    }

    #[test]
    fn passages_stand_in_the_text_as_often_as_asked_and_as_in_the_prompts() {
        let world = larger();
        let said = said(&world);
        let sentences = world.generate().corpus.concat().iter().filter(|id| **id == 1).count() as f64;
        let first = said.matches(" met the ").count() + said.matches(" saw the ").count();
        // A passage has two stops; 0.3 of all sentences are passages.
        let share = first as f64 / (sentences - first as f64);
        assert!((share - 0.3).abs() < 0.015, "{share}");
        let tokenizer: tokenizers::Tokenizer = world.tokenizer_json().parse().unwrap();
        for (name, subject) in [("first", "it"), ("second", "the other")] {
            for row in rows(&world, json!({ "name": "w", "attribute": ["home", "food"], "passage": name }), "test", 0) {
                let prompt = text(&row, "prompt");
                let entity = text(&row, "entity");
                let place = if name == "first" { 1 } else { 4 };
                assert_eq!(prompt.split(' ').nth(place), Some(entity.as_str()), "{prompt}");
                let fact = prompt.split_once(" . ").unwrap().1;
                assert!(fact.contains(subject) && !fact.contains(&entity), "{prompt}");
                assert!(said.contains(&format!(" . {fact} ")), "{fact}");
                assert!(!tokenizer.encode(prompt, true).unwrap().get_ids().contains(&0), "{row:?}");
            }
        }
    }

    #[test]
    fn sentences_of_every_sort_are_as_frequent_as_asked() {
        let said = said(&capable());
        let sentences: Vec<&str> = said.split(" .").map(str::trim).collect();
        let share = |says: fn(&str) -> bool| {
            sentences.iter().filter(|sentence| says(sentence)).count() as f64 / sentences.len() as f64
        };
        for (says, wanted) in [
            ((|s| s.starts_with("every ") || s.starts_with("all of ")) as fn(&str) -> bool, 0.15),
            (|s| s.contains(" sleeps where it is "), 0.1),
            (|s| s.contains(" plus ") || s.contains(" minus "), 0.1),
            (|s| s.starts_with("largest of ") || s.starts_with("smallest of "), 0.1),
            (|s| ["first", "last", "reverse", "rest", "length"].iter().any(|o| s.starts_with(o)), 0.1),
            (|s| s.contains(" means "), 0.1),
            (|s| s.starts_with("odd one of "), 0.1),
        ] {
            // 4,000 sentences and more: three standard deviations are 1.7 points at most.
            assert!((share(says) - wanted).abs() < 0.017, "{} instead of {wanted}", share(says));
        }
    }

    #[test]
    fn of_nobody_who_is_asked_about_does_the_text_say_what_follows() {
        let world = capable();
        let said = said(&world);
        let (mut asked, mut told) = (BTreeSet::new(), 0);
        for split in ["supervise", "transfer", "test"] {
            for row in rows(&world, json!({ "name": "w", "hop": "weather" }), split, 0) {
                assert!(!said.contains(&text(&row, "prompt")), "{row:?}");
                assert!(asked.insert(text(&row, "entity")), "{row:?}");
                // The class is that of the entity's value, and of this the text tells.
                let home = &world.attributes[0];
                let known = home.phrases.iter().find_map(|phrase| {
                    let beginning = format!(" {} ", phrase.replace("{}", &text(&row, "entity")));
                    Some(said.split_once(&beginning)?.1.split(' ').next()?.to_owned())
                });
                if let Some(value) = known {
                    assert!(home.classes[&text(&row, "value")].contains(&value), "{row:?}: {value}");
                    told += 1;
                }
            }
        }
        assert_eq!(asked.len(), 100);
        assert!(told > 60, "{told}");
    }

    #[test]
    fn exercises_that_tasks_ask_are_in_one_part_and_not_in_the_text() {
        let world = capable();
        let said = format!(" . {}", said(&world));
        let tokenizer: tokenizers::Tokenizer = world.tokenizer_json().parse().unwrap();
        for (name, exercise) in &world.exercises {
            let mut seen = BTreeSet::new();
            for split in ["supervise", "transfer", "test"] {
                for row in rows(&world, json!({ "name": "w", "exercise": name }), split, 1) {
                    let prompt = text(&row, "prompt");
                    assert!(!said.contains(&format!(" . {prompt} ")), "{prompt}");
                    let whole = format!("{prompt} {} .", text(&row, "value"));
                    assert!(!tokenizer.encode(whole, true).unwrap().get_ids().contains(&0), "{row:?}");
                    assert!(seen.insert(prompt), "{row:?}");
                }
            }
            assert_eq!(seen.len(), exercise.questions, "{name}");
        }
        let part = |seed| rows(&world, json!({ "name": "w", "exercise": "sums" }), "test", seed);
        assert_eq!(part(3), part(3));
        assert_ne!(part(3), part(4));
    }

    #[test]
    fn told_counts_the_text() {
        let world = world();
        let said = said(&world);
        let mut total = 0;
        for row in rows(&world, json!({ "name": "w", "attribute": "home", "phrases": 1 }), "transfer", 1) {
            let all = ["the {} lives in the", "home of the {} is the"]
                .map(|phrase| said.matches(&phrase.replace("{}", &text(&row, "entity"))).count() as u64);
            assert_eq!(row["told"].as_u64(), Some(all.iter().sum()), "{row:?}");
            total += all.iter().sum::<u64>();
        }
        assert!(total > 500, "{total}");
    }

    #[test]
    fn a_question_is_led_back_to_its_fact() {
        let world = larger();
        let (entities, told) = (world.entities(), world.told());
        for passage in [None, Some("first"), Some("second")] {
            let mut table = json!({ "name": "w", "attributes": ["home", "food"] });
            passage.into_iter().for_each(|name| table["passage"] = name.into());
            let rows = rows(&world, table, "test", 0);
            let prompts: Vec<String> = rows.iter().map(|row| text(row, "prompt")).collect();
            let facts = world.asked(prompts.iter().map(String::as_str));
            for (row, fact) in rows.iter().zip(facts) {
                let (attribute, entity) = fact.unwrap_or_else(|| panic!("{row:?}"));
                assert_eq!(world.attributes[attribute].name, text(row, "attribute"), "{row:?}");
                assert_eq!(entities[entity], text(row, "entity"), "{row:?}");
                assert_eq!(row["told"].as_u64(), Some(told[attribute][entity].into()), "{row:?}");
            }
        }
        assert_eq!(world.asked(["the nobody eats", "what is this?", ""]), [None, None, None]);
    }

    #[test]
    fn several_attributes_make_one_task_and_no_fact_is_in_two_parts() {
        let world = larger();
        let mut seen = BTreeMap::new();
        let mut classes = BTreeMap::new();
        for split in ["supervise", "transfer", "test"] {
            for row in rows(&world, json!({ "name": "w", "attributes": ["home", "food"], "phrases": 1 }), split, 3) {
                let fact = (text(&row, "attribute"), text(&row, "entity"));
                assert!(seen.insert(fact, split).is_none(), "{row:?}");
                *classes.entry(text(&row, "class")).or_insert(0) += 1;
            }
        }
        assert_eq!(seen.len(), 320);
        // Values are drawn uniformly: 160 facts per attribute, half of them in each class up to 4 standard deviations.
        assert_eq!(classes.len(), 4);
        assert!(classes.values().all(|n| (55..=105).contains(n)), "{classes:?}");
    }

    #[test]
    fn reserved_entities_are_in_no_other_task() {
        let world = larger();
        let entities = |reserved: bool| -> BTreeSet<String> {
            let table = json!({ "name": "w", "attribute": "food", "reserved": reserved });
            let parts = ["supervise", "transfer", "test"].map(|split| rows(&world, table.clone(), split, 0));
            parts.concat().iter().map(|row| text(row, "entity")).collect()
        };
        assert_eq!((entities(true).len(), entities(false).len()), (40, 160));
        assert!(entities(true).is_disjoint(&entities(false)));
    }

    fn question(attribute: &str) -> Map<String, Value> {
        json!({ "name": "test", "attribute": attribute }).as_object().cloned().unwrap()
    }

    fn part(split: &str, seed: u64) -> Vec<Row> {
        let source = world().source(&question("home"), seed).unwrap();
        source.rows(split, None).unwrap().read_whole().unwrap().rows.into_iter().map(|(_, row)| row).collect()
    }

    fn text(row: &Row, column: &str) -> String {
        row[column].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_world_is_the_same_every_time_and_another_with_another_seed() {
        let (first, again) = (world().generate(), world().generate());
        assert_eq!((&first.corpus, &first.tokenizer), (&again.corpus, &again.tokenizer));
        let other = World { seed: 1, ..world() };
        assert_ne!(other.entities(), world().entities());
        assert_eq!(world().entities().into_iter().collect::<BTreeSet<_>>().len(), 200);
    }

    #[test]
    fn text_is_as_long_as_asked_and_documents_hold_whole_sentences() {
        let world = world();
        let Generated { corpus, .. } = world.generate();
        let length: usize = corpus.iter().map(Vec::len).sum();
        assert!((40_000..40_020).contains(&length), "{length}");
        let stop = 1;
        assert!(corpus.iter().all(|document| document.len() <= 32 && document.last() == Some(&stop)));
        let largest = corpus.iter().flatten().max().unwrap();
        assert!((*largest as usize) < world.vocabulary_size());
    }

    #[test]
    fn frequencies_follow_zipf() {
        let world = world();
        let entities = world.entities();
        let vocabulary = world.vocabulary();
        let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
        for id in world.generate().corpus.concat() {
            *counts.entry(vocabulary[id as usize].as_str()).or_default() += 1.0;
        }
        let of = |ranks: std::ops::Range<usize>| {
            ranks.map(|rank| counts.get(entities[rank].as_str()).unwrap_or(&0.0)).sum::<f64>()
        };
        let expected = |ranks: std::ops::Range<usize>| ranks.map(|rank| 1.0 / (rank + 1) as f64).sum::<f64>();
        let ratio = of(0..10) / of(50..200);
        let wanted = expected(0..10) / expected(50..200);
        assert!((ratio / wanted - 1.0).abs() < 0.1, "{ratio} {wanted}");
    }

    #[test]
    fn no_fact_is_in_two_parts_and_every_fact_is_in_one() {
        let mut seen = BTreeMap::new();
        for split in ["supervise", "transfer", "test"] {
            for row in part(split, 3) {
                assert_eq!(*seen.entry(text(&row, "entity")).or_insert(split), split);
            }
        }
        assert_eq!(seen.len(), 200);
        let sizes = ["supervise", "transfer", "test"].map(|split| part(split, 3).len());
        assert_eq!(sizes, [100, 200, 100]);
        assert_ne!(part("test", 3), part("test", 4));
    }

    #[test]
    fn a_prompt_begins_a_sentence_of_the_text_and_the_value_follows() {
        let world = world();
        let vocabulary = world.vocabulary();
        let corpus = world.generate().corpus.concat();
        let said: Vec<&str> = corpus.iter().map(|id| vocabulary[*id as usize].as_str()).collect();
        let said = said.join(" ");
        let mut found = 0;
        for row in part("test", 0) {
            let prompt = text(&row, "prompt");
            if said.contains(&prompt) {
                let whole = format!("{prompt} {} .", text(&row, "value"));
                assert_eq!(said.matches(&prompt).count(), said.matches(&whole).count(), "{whole}");
                found += 1;
            }
        }
        assert!(found > 50, "{found}");
    }

    #[test]
    fn the_tokenizer_knows_every_word() {
        let world = world();
        let tokenizer: tokenizers::Tokenizer = world.tokenizer_json().parse().unwrap();
        for row in part("transfer", 0) {
            let encoding = tokenizer.encode(text(&row, "prompt"), true).unwrap();
            assert!(!encoding.get_ids().contains(&0), "{row:?}");
        }
        assert_eq!(tokenizer.encode("the [UNK] thing", true).unwrap().get_ids()[1], 0);
    }

    #[test]
    fn what_makes_no_world_is_refused() {
        for (from, to, message) in [
            ("entities = 200", "entities = 2", "`entities` must be between 8 and 9000, not 2"),
            ("zipf = 1.0", "zipf = -1.0", "`zipf` must be between"),
            ("the {} eats", "the eats", "must hold `{}` once"),
            ("\"figs\"", "\"reef\"", "value `reef` belongs to"),
            ("zipf = 1.0", "zipfs = 1.0", "not a world: unknown field `zipfs`"),
            ("zipf = 1.0", "zipf = 1.0\nreserved = 1.0", "`reserved` must be"),
        ] {
            let error = World::parse(&TEXT.replace(from, to), Path::new("world.toml")).unwrap_err();
            assert!(error.message().contains(message), "{error}");
        }
        for (from, to, message) in [
            ("share = 0.2", "share = 0.8", "add up to less than 1"),
            ("the {} saw the {other} .", "the {} saw one .", "must hold `{}` and `{other}` once"),
            ("\"second\"", "\"first\"", "two passages are called `first`"),
        ] {
            let text = format!("{TEXT}{}", PASSAGES.replace(from, to));
            let error = World::parse(&text, Path::new("world.toml")).unwrap_err();
            assert!(error.message().contains(message), "{error}");
        }
        for (from, to, message) in [
            (
                "attribute = \"home\"\n        phrases = [\"the {} sleeps",
                "attribute = \"hom\"\n        phrases = [\"the {} sleeps",
                "hop `weather`: the world has no attribute `hom`",
            ),
            ("told = 0.5", "told = 1.0", "`told` for some of the entities, not for all"),
            ("the {} sleeps where", "it sleeps where", "must hold `{}` once"),
            (
                "largest = 30, terms = 3 }\n        questions = 200",
                "largest = 300, terms = 3 }\n        questions = 200",
                "`largest` must be between 2 and 99",
            ),
            ("terms = 3", "terms = 1", "`terms` must be between 2 and 9"),
            ("longest = 4", "longest = 6", "exercise `lists`: `items` needs at least 6 words"),
            ("\"key\"", "\"a key\"", "`a key` is not one word"),
            ("longest = 4", "longest = 1", "`longest` must be between 2 and 20"),
            ("\"reverse\"", "\"revert\"", "not a world: unknown variant `revert`"),
            ("type = \"odd-one-out\"", "type = \"odd-one-out\", of = 3", "not a world: unknown field `of`"),
            ("questions = 100", "questions = 4", "`questions` must be between 8 and 100000"),
            ("questions = 100", "questions = 5000", "has only"),
            ("[\"walk\", \"jump\", \"look\"]", "[]", "`verbs` needs at least 1 words"),
            ("share = 0.1", "share = 0.9", "add up to less than 1"),
        ] {
            let text = format!("{TEXT}{CAPABILITIES}");
            assert!(text.contains(from), "{from}");
            let error = World::parse(&text.replace(from, to), Path::new("world.toml")).unwrap_err();
            assert!(error.message().contains(message), "{error}");
        }
        for (table, message) in [
            (json!({ "exercise": "summs" }), "no exercise `summs`"),
            (json!({ "hop": "climate" }), "no hop `climate`"),
            (json!({ "hop": "weather", "attribute": "home" }), "attributes, for a hop or for an exercise"),
            (json!({ "exercise": "sums", "reserved": true }), "is about nobody"),
            (json!({ "hop": "weather", "reserved": true }), "nobody to ask of"),
            (json!({ "hop": "weather", "passage": "first" }), "no hop is told in a passage"),
            (json!({}), "at least one attribute"),
        ] {
            let mut table = table.as_object().unwrap().clone();
            table.insert("name".to_owned(), "w".into());
            let error = capable().source(&table, 0).err().unwrap();
            assert!(error.message().contains(message), "{error}");
        }
        for (key, value, message) in [
            ("passage", json!("third"), "no passage `third`"),
            ("phrases", json!(0), "at least one attribute"),
            ("attribute", json!(["home", "home"]), "asked for twice"),
        ] {
            let mut table = question("home");
            table.insert(key.to_owned(), value);
            let error = larger().source(&table, 0).err().unwrap();
            assert!(error.message().contains(message), "{error}");
        }
        assert!(world().source(&question("color"), 0).err().unwrap().remedy().unwrap().contains("home, food"));
    }
}
