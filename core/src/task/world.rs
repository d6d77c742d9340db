//! Generated worlds: invented entities with attributes, text about them, and tasks that ask about them.
//!
//! A world makes weak-to-strong generalization a real question without any download. Language models are pretrained on its text; how
//! often an entity occurs decides which models know its facts. A task asks for the class of an attribute's value at the very place
//! where the value would come next, so that fine-tuning teaches how to answer, never a fact: facts are split, and none is in two parts.
//! docs/world.md says why it is made like this, and what did not work.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Row, RowSource, Rows};
use crate::{Error, Result, rng::Rng};

/// `configs/worlds/NAME.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// What is known about every entity.
    pub attributes: Vec<Attribute>,
}

/// One attribute of every entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Sentence beginnings that end just before the value; `{}` is the entity.
    pub phrases: Vec<String>,
    /// Class names, each with its values. Every entity gets one value at random.
    pub classes: BTreeMap<String, Vec<String>>,
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
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// Name of the world; whoever opens the world reads it.
    #[serde(rename = "name")]
    _name: String,
    /// Attribute that is asked for.
    attribute: String,
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
        Ok(())
    }

    /// Names of the entities, the most frequent first: three syllables each, all different.
    pub fn entities(&self) -> Vec<String> {
        const CONSONANTS: &[u8] = b"bdfgklmnprstvz";
        const VOWELS: &[u8] = b"aeiou";
        let (rows, syllables) = (VOWELS.len(), CONSONANTS.len() * VOWELS.len());
        let syllable = |n: usize| format!("{}{}", CONSONANTS[n / rows] as char, VOWELS[n % rows] as char);
        let mut numbers: Vec<usize> = (0..syllables.pow(3)).collect();
        Rng::named(self.seed, "world/entities").shuffle(&mut numbers);
        let name = |n: &usize| [n / syllables / syllables, n / syllables % syllables, n % syllables].map(syllable).concat();
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

    /// Every word of the world, in the order of token ids.
    fn vocabulary(&self) -> Vec<String> {
        let mut vocabulary = vec![UNKNOWN.to_owned(), STOP.to_owned()];
        let mut known: std::collections::BTreeSet<String> = vocabulary.iter().cloned().collect();
        let phrases = self.attributes.iter().flat_map(|attribute| &attribute.phrases).map(String::as_str);
        let spoken = phrases.chain(ABOUT).flat_map(|phrase| phrase.split(' ')).filter(|word| *word != "{}");
        let classes = self.attributes.iter().flat_map(|attribute| &attribute.classes);
        let valued = classes.flat_map(|(class, values)| values.iter().chain([class])).map(String::as_str);
        let entities = self.entities();
        for word in spoken.chain(valued).chain(entities.iter().map(String::as_str)) {
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
        let ids: BTreeMap<String, u32> = self.vocabulary().into_iter().zip(0..).collect();
        let (entities, facts) = (self.entities(), self.attributes.iter().map(|a| self.facts(a)).collect::<Vec<_>>());
        let mut reach = 0.0;
        let reaches: Vec<f64> = (1..=self.entities)
            .map(|rank| {
                reach += (rank as f64).powf(-self.zipf);
                reach
            })
            .collect();
        let mut rng = Rng::named(self.seed, "world/text");
        let (mut corpus, mut document, mut written) = (Vec::new(), Vec::new(), 0);
        while written < self.tokens {
            let number = rng.below(self.attributes.len());
            let attribute = &self.attributes[number];
            let (beginning, subject, end) = if rng.uniform() < self.about_values {
                let classes: Vec<_> = attribute.classes.iter().collect();
                let (class, values) = classes[rng.below(classes.len())];
                (ABOUT[rng.below(ABOUT.len())], values[rng.below(values.len())].as_str(), class.as_str())
            } else {
                let at = rng.uniform() * reach;
                let entity = reaches.partition_point(|reach| *reach <= at).min(self.entities - 1);
                let phrase = attribute.phrases[rng.below(attribute.phrases.len())].as_str();
                (phrase, entities[entity].as_str(), facts[number][entity].1)
            };
            let said = beginning.split(' ').map(|word| if word == "{}" { subject } else { word }).chain([end, STOP]);
            let sentence: Vec<u32> = said.map(|word| ids[word]).collect();
            if document.len() + sentence.len() > self.document {
                corpus.push(std::mem::take(&mut document));
            }
            written += sentence.len();
            document.extend(sentence);
        }
        corpus.push(document);
        Generated { corpus, tokenizer: self.tokenizer_json() }
    }

    /// The rows of a task on this world. `seed` decides which facts are in which part.
    ///
    /// Splits are `supervise`, `transfer` and `test`; columns `prompt`, `class`, `value`, `entity` and `rank` (1 is the most frequent).
    ///
    /// # Errors
    /// A table that names no attribute of this world.
    pub fn source(&self, question: &Map<String, Value>, seed: u64) -> Result<Box<dyn RowSource>> {
        let question: Question = serde_json::from_value(Value::Object(question.clone()))
            .map_err(|cause| Error::new(format!("[source.world]: {cause}")))?;
        let attribute = self.attributes.iter().find(|attribute| attribute.name == question.attribute).ok_or_else(|| {
            let names: Vec<_> = self.attributes.iter().map(|attribute| attribute.name.as_str()).collect();
            Error::new(format!("[source.world]: the world has no attribute `{}`", question.attribute))
                .help(format!("choose from {}", names.join(", ")))
        })?;
        let (entities, facts) = (self.entities(), self.facts(attribute));
        let classes: Vec<&String> = attribute.classes.keys().collect();
        let mut order: Vec<usize> = (0..self.entities).collect();
        Rng::named(seed, &format!("world/parts/{}", attribute.name)).shuffle(&mut order);
        let mut parts = BTreeMap::new();
        let mut rest = order.as_slice();
        for (name, share) in ["supervise", "transfer", "test"].into_iter().zip(PARTS.into_iter().map(Some).chain([None])) {
            let n = share.map_or(rest.len(), |share| (share * self.entities as f64) as usize);
            let (part, others) = rest.split_at(n);
            rest = others;
            let mut rows: Vec<Row> = Vec::new();
            for &entity in part {
                let (class, value) = facts[entity];
                for phrase in &attribute.phrases {
                    let row = json!({
                        "prompt": phrase.replace("{}", &entities[entity]),
                        "class": classes[class],
                        "value": value,
                        "entity": entities[entity],
                        "rank": entity + 1,
                    });
                    rows.extend(row.as_object().cloned());
                }
            }
            // Paraphrases of a fact do not stand side by side in a batch.
            Rng::named(seed, &format!("world/order/{}/{name}", attribute.name)).shuffle(&mut rows);
            parts.insert(name, rows);
        }
        Ok(Box::new(Parts(parts)))
    }
}

fn words(phrase: &str) -> usize {
    phrase.split(' ').count()
}

/// Rows by split.
struct Parts(BTreeMap<&'static str, Vec<Row>>);

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

    fn question(attribute: &str) -> Map<String, Value> {
        json!({ "name": "test", "attribute": attribute }).as_object().cloned().unwrap()
    }

    fn part(split: &str, seed: u64) -> Vec<Row> {
        let source = world().source(&question("home"), seed).unwrap();
        source.rows(split, None).unwrap().rows.into_iter().map(|(_, row)| row).collect()
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
        let of = |ranks: std::ops::Range<usize>| ranks.map(|rank| counts.get(entities[rank].as_str()).unwrap_or(&0.0)).sum::<f64>();
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
        ] {
            let error = World::parse(&TEXT.replace(from, to), Path::new("world.toml")).unwrap_err();
            assert!(error.message().contains(message), "{error}");
        }
        assert!(world().source(&question("color"), 0).err().unwrap().remedy().unwrap().contains("home, food"));
    }
}
