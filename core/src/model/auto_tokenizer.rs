//! What `AutoTokenizer.from_pretrained` of transformers makes of a tokenizer's files.
//!
//! A `tokenizer.json` is not all there is: `tokenizer_config.json` names a class, and the class puts its own pipeline together from the
//! vocabulary in the file and from keys beside it (`add_prefix_space`, `do_lower_case` …); special tokens that the files name are added.
//! Followed here is transformers 5.24. Where version 4.57 makes other ids of the same files, a key that is the reason is refused by name;
//! a class whose pipeline is another than the file's is noted, and the file is followed, as in version 4.

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use crate::{Error, Result};

/// The file beside `tokenizer.json` that names class and keys.
pub(super) const CONFIG: &str = "tokenizer_config.json";
/// The names of special tokens, which older versions wrote.
pub(super) const SPECIAL: &str = "special_tokens_map.json";
/// Tokens beyond the vocabulary, which older versions wrote.
pub(super) const ADDED: &str = "added_tokens.json";

const REMEDY: &str = "write `tokenizer.json` and `tokenizer_config.json` with transformers (`save_pretrained`) and set `tokenizer_class` to \
                      `PreTrainedTokenizerFast`, which reads `tokenizer.json` as it is";

/// Named special tokens, in the order in which they are added.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// How Qwen and Qwen2 split a text; their classes know no other way.
pub(super) const QWEN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Classes that read no `tokenizer.json` at all.
const IN_PYTHON: &[&str] = &[
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "ByT5Tokenizer",
    "CTRLTokenizer",
    "CanineTokenizer",
    "ClvpTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "DiaTokenizer",
    "EsmTokenizer",
    "FSMTTokenizer",
    "FlaubertTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "M2M100Tokenizer",
    "MarianTokenizer",
    "MgpstrTokenizer",
    "MyT5Tokenizer",
    "PLBartTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "RoCBertTokenizer",
    "SiglipTokenizer",
    "Speech2TextTokenizer",
    "SpeechT5Tokenizer",
    "TapasTokenizer",
    "VitsTokenizer",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2PhonemeCTCTokenizer",
    "XLMTokenizer",
];

/// Classes with a pipeline of their own that is not in [`Class`].
const OTHERS: &[&str] = &[
    "BarthezTokenizer",
    "BigBirdTokenizer",
    "BlenderbotTokenizer",
    "CLIPTokenizer",
    "CamembertTokenizer",
    "CodeLlamaTokenizer",
    "CohereTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "EsmcTokenizer",
    "FunnelTokenizer",
    "GemmaTokenizer",
    "HerbertTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LukeTokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MLukeTokenizer",
    "MPNetTokenizer",
    "MarkupLMTokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PegasusTokenizer",
    "Qwen3_5Tokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RoFormerTokenizer",
    "SeamlessM4TTokenizer",
    "Siglip2Tokenizer",
    "SplinterTokenizer",
    "UdopTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLNetTokenizer",
];

/// A class of transformers, as far as it decides ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// `PreTrainedTokenizerFast`: the file as it is.
    File,
    /// A class with another pipeline, which is not known here.
    Other,
    Gpt2,
    Roberta,
    NeoX,
    Qwen2,
    Llama,
    Bert,
    XlmRoberta,
    Albert,
    T5,
}

impl Class {
    /// The class of that name; one that transformers does not know either reads the file.
    fn named(name: &str) -> Result<Self, ()> {
        Ok(match name.strip_suffix("Fast").unwrap_or(name) {
            "GPT2Tokenizer" | "CodeGenTokenizer" => Self::Gpt2,
            "RobertaTokenizer" | "BartTokenizer" | "LEDTokenizer" | "LongformerTokenizer" | "MvpTokenizer" => {
                Self::Roberta
            }
            "GPTNeoXTokenizer" => Self::NeoX,
            "Qwen2Tokenizer" => Self::Qwen2,
            "LlamaTokenizer" => Self::Llama,
            "BertTokenizer"
            | "ConvBertTokenizer"
            | "DistilBertTokenizer"
            | "ElectraTokenizer"
            | "LayoutLMTokenizer"
            | "LxmertTokenizer"
            | "MobileBertTokenizer"
            | "RetriBertTokenizer"
            | "SqueezeBertTokenizer" => Self::Bert,
            "XLMRobertaTokenizer" => Self::XlmRoberta,
            "AlbertTokenizer" | "FNetTokenizer" => Self::Albert,
            "T5Tokenizer" => Self::T5,
            name if OTHERS.contains(&name) => Self::Other,
            name if IN_PYTHON.contains(&name) => return Err(()),
            _ => Self::File,
        })
    }

    /// The class of a model's type where no file names one.
    fn of_model(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "bert" => Self::Bert,
            "gpt2" | "opt" => Self::Gpt2,
            "gpt_neox" => Self::NeoX,
            "qwen2" | "qwen3" => Self::Qwen2,
            // The class of Mistral's own library, or the file.
            "mistral" => Self::File,
            _ => return None,
        })
    }

    /// Special tokens that the class has where the files name none, in the order of [`NAMED`].
    fn specials(self) -> [Option<&'static str>; 7] {
        let end = Some("<|endoftext|>");
        match self {
            Self::File | Self::Other => [None; 7],
            Self::Gpt2 => [end, end, end, None, None, None, None],
            Self::NeoX => [end, end, end, None, Some("<|padding|>"), None, None],
            Self::Qwen2 => [None, end, end, None, end, None, None],
            Self::Llama => [Some("<s>"), Some("</s>"), Some("<unk>"), None, None, None, None],
            Self::Roberta | Self::XlmRoberta => {
                [Some("<s>"), Some("</s>"), Some("<unk>"), Some("</s>"), Some("<pad>"), Some("<s>"), Some("<mask>")]
            }
            Self::Bert => [None, None, Some("[UNK]"), Some("[SEP]"), Some("[PAD]"), Some("[CLS]"), Some("[MASK]")],
            Self::Albert => ["[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"].map(Some),
            Self::T5 => [None, Some("</s>"), Some("<unk>"), None, Some("<pad>"), None, None],
        }
    }

    /// Keys of `tokenizer_config.json` that change how the class splits a text.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::File => &["add_prefix_space"],
            Self::Bert => &["do_lower_case", "strip_accents", "tokenize_chinese_chars"],
            Self::Albert => &["add_prefix_space", "do_lower_case", "keep_accents"],
            Self::T5 => &[],
            Self::Other => {
                &["add_prefix_space", "do_lower_case", "strip_accents", "tokenize_chinese_chars", "keep_accents"]
            }
            _ => &["add_prefix_space"],
        }
    }
}

/// The files beside `tokenizer.json`, parsed; empty where there is none.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// `tokenizer_config.json`.
    pub config: Map<String, Value>,
    /// `special_tokens_map.json`.
    pub special: Map<String, Value>,
    /// `added_tokens.json`.
    pub added: Map<String, Value>,
    /// `model_type` and `tokenizer_class` of the model's `config.json`.
    pub model: Map<String, Value>,
}

/// What differs from the file alone.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Whether ids may be others than by `tokenizer.json` alone.
    pub any: bool,
    /// What a user should know.
    pub notes: Vec<String>,
}

fn refused(message: String) -> Error {
    Error::new(format!("{CONFIG}: {message}")).help(REMEDY)
}

/// The value under a key; `null` counts as absent.
fn get<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

/// A pipeline's part as the library writes it, without what does not touch ids.
fn part(component: Option<&impl serde::Serialize>) -> Value {
    let mut value = component.map_or(Value::Null, |component| serde_json::to_value(component).unwrap_or_default());
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("trim_offsets");
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

/// Brings a tokenizer that was read from `tokenizer.json` into the state in which `AutoTokenizer` has it for inference.
///
/// # Errors
/// A key that cannot be followed, named with the remedy.
pub(super) fn complete(tokenizer: &mut Tokenizer, beside: &Beside) -> Result<Changes> {
    let mut changes = Changes::default();
    without_chance(tokenizer, &mut changes);
    let (mut class, named) = class_of(tokenizer, beside)?;
    if !shape(tokenizer, class, named.is_some(), beside, &mut changes)? && named.is_none() {
        // The model's family has another class; nobody says that these files are its.
        class = Class::File;
    }
    if let Some(value) = beside.config.get("split_special_tokens").and_then(Value::as_bool)
        && value != tokenizer.get_encode_special_tokens()
    {
        tokenizer.set_encode_special_tokens(value);
        changes.any = true;
    }
    around(tokenizer, class, beside, &mut changes)?;
    add_tokens(tokenizer, class, beside, &mut changes)?;
    Ok(changes)
}

/// Takes out what makes ids a matter of chance. Training with dropout leaves it in the file.
fn without_chance(tokenizer: &mut Tokenizer, changes: &mut Changes) {
    let ModelWrapper::BPE(bpe) = tokenizer.get_model() else { return };
    let Some(dropout) = bpe.dropout else { return };
    let mut bpe = bpe.clone();
    bpe.dropout = None;
    tokenizer.with_model(bpe);
    if dropout > 0.0 {
        changes.any = true;
        changes.notes.push(format!("tokenizer.json: the dropout of {dropout} is for training and left out"));
    }
}

/// The class that reads the files, with its name where one of them names it.
fn class_of(tokenizer: &Tokenizer, beside: &Beside) -> Result<(Class, Option<String>)> {
    let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    let by_model = text(&beside.model, "model_type").and_then(|name| Class::of_model(&name));
    let Some(name) = text(&beside.config, "tokenizer_class").or_else(|| text(&beside.model, "tokenizer_class")) else {
        return Ok((by_model.unwrap_or(Class::File), None));
    };
    let class = Class::named(&name).map_err(|()| {
        refused(format!("`{name}` is written in Python and reads no `tokenizer.json`; its ids would be others"))
    })?;
    let parts =
        [part(tokenizer.get_pre_tokenizer()), part(tokenizer.get_post_processor()), part(tokenizer.get_decoder())];
    let byte_level = parts.iter().any(|part| part.to_string().contains("\"ByteLevel\""));
    let class = match (class, by_model) {
        // Files of these kinds name a class by mistake, and transformers knows.
        _ if beside.model.get("model_type").is_some_and(|name| name == "qwen2") => Class::Qwen2,
        (Class::Llama, _) if byte_level => Class::File,
        (_, Some(Class::File)) => Class::File,
        (class, _) => class,
    };
    Ok((class, Some(name)))
}

/// Gives the tokenizer the class's normalizer and pre-tokenizer where the file's are the class's own up to its keys. Returns whether they are.
fn shape(tokenizer: &mut Tokenizer, class: Class, named: bool, beside: &Beside, changes: &mut Changes) -> Result<bool> {
    let flag = |key: &str, default: bool| get(&beside.config, key).and_then(Value::as_bool).unwrap_or(default);
    let found = [part(tokenizer.get_normalizer()), part(tokenizer.get_pre_tokenizer())];
    let model = match tokenizer.get_model() {
        ModelWrapper::BPE(bpe) => {
            let plain = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
            let plain = plain(&bpe.continuing_subword_prefix) && plain(&bpe.end_of_word_suffix);
            if bpe.byte_fallback && !bpe.ignore_merges {
                "fallback"
            } else if plain && !bpe.ignore_merges {
                "BPE"
            } else {
                "another"
            }
        }
        ModelWrapper::WordPiece(_) => "WordPiece",
        ModelWrapper::WordLevel(_) => "WordLevel",
        ModelWrapper::Unigram(_) => "Unigram",
    };
    let kind = |value: &Value| value["type"].as_str().map(str::to_owned);
    let byte_level =
        |prefix: bool, regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "use_regex": regex });
    let metaspace = |scheme: &str, split: bool| json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split });
    let words = |prefix: bool| {
        let scheme = if prefix { "always" } else { "never" };
        json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace(scheme, true)] })
    };
    let prefix = flag("add_prefix_space", false);
    // What the class puts together, and whether what it would change here is what both versions change.
    let (made, own) = match class {
        Class::File => {
            // Version 5 leaves the file alone, and version 4 follows the key.
            if let Some(asked) = get(&beside.config, "add_prefix_space").and_then(Value::as_bool)
                && found[1]["add_prefix_space"].as_bool().is_some_and(|has| has != asked)
            {
                return Err(refused(format!(
                    "`add_prefix_space` = {asked} contradicts `tokenizer.json`, and what is done then depends on the version of transformers"
                )));
            }
            return Ok(true);
        }
        Class::Other => (None, false),
        Class::Gpt2 | Class::Roberta => {
            let own =
                model == "BPE" && kind(&found[1]).as_deref() == Some("ByteLevel") && found[1]["use_regex"] != false;
            (Some([Value::Null, byte_level(prefix, true)]), own && found[0].is_null())
        }
        Class::NeoX => {
            let own =
                model == "BPE" && kind(&found[1]).as_deref() == Some("ByteLevel") && found[1]["use_regex"] != false;
            let composed = json!({ "type": "NFC" });
            let own = own && (found[0].is_null() || found[0] == composed);
            (Some([composed, byte_level(prefix, true)]), own)
        }
        Class::Qwen2 => {
            let split =
                json!({ "type": "Split", "pattern": { "Regex": QWEN }, "behavior": "Isolated", "invert": false });
            let made = json!({ "type": "Sequence", "pretokenizers": [split, byte_level(prefix, false)] });
            (Some([json!({ "type": "NFC" }), made]), false)
        }
        Class::Llama => {
            let legacy = flag("legacy", false);
            let scheme = match (flag("add_prefix_space", true), legacy) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            let normalizers = match &found[0] {
                Value::Null => true,
                other => {
                    let parts = other["normalizers"].as_array().cloned().unwrap_or_else(|| vec![other.clone()]);
                    parts.iter().all(|part| {
                        *part == json!({ "type": "Prepend", "prepend": "▁" })
                            || *part == json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" })
                    })
                }
            };
            let split =
                found[1].is_null() || kind(&found[1]).as_deref() == Some("Metaspace") && found[1]["split"] == false;
            // A file that neither prepends nor replaces knows no spaces at all; it is not the class's.
            let knows_spaces = !(found[0].is_null() && found[1].is_null());
            (Some([Value::Null, metaspace(scheme, false)]), model == "fallback" && normalizers && split && knows_spaces)
        }
        Class::Bert => {
            let normalizer = json!({
                "type": "BertNormalizer",
                "clean_text": true,
                "handle_chinese_chars": flag("tokenize_chinese_chars", true),
                "strip_accents": get(&beside.config, "strip_accents"),
                "lowercase": flag("do_lower_case", true),
            });
            let own = model == "WordPiece"
                && kind(&found[0]).as_deref() == Some("BertNormalizer")
                && found[0]["clean_text"] == true
                && kind(&found[1]).as_deref() == Some("BertPreTokenizer");
            (Some([normalizer, json!({ "type": "BertPreTokenizer" })]), own)
        }
        Class::XlmRoberta | Class::T5 => {
            let precompiled =
                if kind(&found[0]).as_deref() == Some("Precompiled") { found[0].clone() } else { Value::Null };
            let prefix = class == Class::T5 || flag("add_prefix_space", true);
            (Some([precompiled, words(prefix)]), false)
        }
        Class::Albert => {
            let quote = |from: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": "\"" });
            let mut parts = vec![quote("``"), quote("''")];
            if !flag("keep_accents", false) {
                parts.extend([json!({ "type": "NFKD" }), json!({ "type": "StripAccents" })]);
            }
            if flag("do_lower_case", true) {
                parts.push(json!({ "type": "Lowercase" }));
            }
            let last = found[0]["normalizers"].as_array().and_then(|parts| parts.last());
            parts.extend(last.filter(|part| kind(part).as_deref() == Some("Precompiled")).cloned());
            let normalizer = json!({ "type": "Sequence", "normalizers": parts });
            (Some([normalizer, words(flag("add_prefix_space", true))]), false)
        }
    };
    let Some(made) = made.filter(|made| own || *made == found) else {
        return elsewhere(class, named, beside, &found, changes).map(|()| false);
    };
    if made == found {
        return Ok(true);
    }
    let [normalizer, splitter] = made;
    if normalizer != found[0] {
        let normalizer = read::<NormalizerWrapper>(normalizer)?;
        tokenizer
            .with_normalizer(normalizer)
            .map_err(|cause| Error::new(format!("the tokenizer cannot be used: {cause}")))?;
    }
    if splitter != found[1] {
        let mut splitter = splitter;
        if splitter["type"] == "ByteLevel" {
            splitter["trim_offsets"] = true.into();
        }
        tokenizer.with_pre_tokenizer(read::<PreTokenizerWrapper>(splitter)?);
    }
    changes.any = true;
    let keys = class.keys().iter().filter(|key| get(&beside.config, key).is_some());
    let keys: Vec<_> = keys.map(|key| format!("`{key}`")).collect();
    changes.notes.push(match keys.as_slice() {
        [] => "the class of tokenizer that transformers takes for it decides over tokenizer.json, here too".to_owned(),
        keys => format!("{CONFIG}: {} decides over tokenizer.json, as in transformers", keys.join(", ")),
    });
    Ok(true)
}

/// A class whose pipeline is another than the file's: noted, and refused where a key asks for what the file does not do.
fn elsewhere(class: Class, named: bool, beside: &Beside, found: &[Value; 2], changes: &mut Changes) -> Result<()> {
    let text = format!("{}{}", found[0], found[1]);
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    for key in class.keys() {
        let Some(asked) = get(&beside.config, key).and_then(Value::as_bool) else { continue };
        let does = match *key {
            "add_prefix_space" => has(&[
                r#""add_prefix_space":true"#,
                r#""prepend_scheme":"first""#,
                r#""prepend_scheme":"always""#,
                r#""Prepend""#,
            ]),
            "do_lower_case" => has(&[r#""lowercase":true"#, r#""Lowercase""#]),
            "strip_accents" => has(&[r#""strip_accents":true"#, r#""StripAccents""#]),
            "keep_accents" => !has(&[r#""StripAccents""#]),
            _ => has(&[r#""handle_chinese_chars":true"#]),
        };
        if asked != does {
            return Err(refused(format!(
                "`{key}` = {asked} contradicts `tokenizer.json`, and what is done then depends on the version of transformers"
            )));
        }
    }
    if named {
        let name = get(&beside.config, "tokenizer_class").or_else(|| get(&beside.model, "tokenizer_class"));
        changes.notes.push(format!(
            "{CONFIG}: the pipeline of {} is another than that of tokenizer.json, which is followed, as in transformers 4; \
             `tokenizer_class` = \"PreTrainedTokenizerFast\" says so to version 5",
            name.unwrap_or(&Value::Null)
        ));
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<Option<T>> {
    serde_json::from_value(value).map_err(|cause| Error::new(format!("the tokenizer cannot be used: {cause}")))
}

/// Looks at the tokens that are put around a text: by the file, whatever the keys say, but for GPT-NeoX, whose class puts none.
fn around(tokenizer: &mut Tokenizer, class: Class, beside: &Beside, changes: &mut Changes) -> Result<()> {
    let placed = tokenizer.get_post_processor().map(|processor| part(Some(processor)).to_string()).unwrap_or_default();
    let token = |key: &str| content(get(&beside.config, key).or_else(|| get(&beside.special, key))?);
    if matches!(class, Class::Llama | Class::NeoX) {
        let [bos, eos] =
            class.specials().map(|token| token.unwrap_or_default()).first_chunk::<2>().copied().unwrap_or_default();
        for (key, name, default) in [("add_bos_token", "bos_token", bos), ("add_eos_token", "eos_token", eos)] {
            let Some(asked) = get(&beside.config, key).and_then(Value::as_bool) else { continue };
            let token = token(name).unwrap_or_else(|| default.to_owned());
            let has = class == Class::Llama && placed.contains(&format!("{}", Value::from(token)));
            if asked != has {
                let message = format!("`{key}` = {asked} contradicts what `tokenizer.json` puts around a text");
                return Err(refused(message));
            }
        }
    }
    if class == Class::NeoX && matches!(tokenizer.get_post_processor(), Some(PostProcessorWrapper::Template(_))) {
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        changes.any = true;
    }
    let framed: &[&str] = match class {
        Class::Bert | Class::Roberta | Class::Albert => &["cls_token", "sep_token"],
        Class::XlmRoberta => &["bos_token", "eos_token"],
        _ => &[],
    };
    for key in framed {
        if let Some(token) = token(key)
            && !placed.contains(&Value::from(token.as_str()).to_string())
        {
            return Err(refused(format!("`{key}` = \"{token}\" is not what `tokenizer.json` puts around a text")));
        }
    }
    let unknown = match tokenizer.get_model() {
        ModelWrapper::WordPiece(model) if class == Class::Bert => Some(model.unk_token.clone()),
        _ => None,
    };
    match (token("unk_token"), unknown) {
        (Some(asked), Some(has)) if asked != has => {
            Err(refused(format!("`unk_token` = \"{asked}\" contradicts `tokenizer.json`, which has \"{has}\"")))
        }
        _ => Ok(()),
    }
}

/// The text of a token that is given as a text or as an object.
fn content(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// An added token that is given as an object.
fn added(value: &Value, special: Option<bool>) -> Option<AddedToken> {
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = special.or_else(|| flag("special")).unwrap_or(false);
    Some(AddedToken {
        content: value.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}

/// Adds the tokens that the files name and `tokenizer.json` does not have.
fn add_tokens(tokenizer: &mut Tokenizer, class: Class, beside: &Beside, changes: &mut Changes) -> Result<()> {
    let mut present: Vec<(u32, AddedToken)> = tokenizer.get_added_tokens_decoder().into_iter().collect();
    present.sort_by_key(|(id, _)| *id);
    let known = |token: &AddedToken| present.iter().any(|(_, other)| other == token);
    let decoder = get(&beside.config, "added_tokens_decoder").and_then(Value::as_object);
    // With that key, the older files are not read.
    let older = |key: &str| if decoder.is_none() { get(&beside.special, key) } else { None };
    let named: Vec<Option<Value>> = NAMED
        .iter()
        .zip(class.specials())
        .map(|(key, default)| {
            let value = older(key).or_else(|| beside.config.get(*key)).cloned();
            value.or_else(|| default.map(Value::from)).filter(|value| !value.is_null())
        })
        .collect();
    let mut extra: Vec<Value> = Vec::new();
    for key in ["extra_special_tokens", "additional_special_tokens"] {
        match older(key).or_else(|| get(&beside.config, key)) {
            Some(Value::Array(items)) => extra.extend(items.iter().cloned()),
            Some(Value::Object(map)) => extra.extend(map.values().cloned()),
            _ => {}
        }
    }
    if class == Class::T5 && extra.is_empty() {
        let count = get(&beside.config, "extra_ids").and_then(Value::as_u64).unwrap_or(100).min(10_000);
        extra.extend((0..count).map(|i| Value::from(format!("<extra_id_{i}>"))));
    }
    // Names that a model alone has, such as `image_token`, come before those without a name.
    let own = beside.config.iter().filter(|(key, _)| key.ends_with("_token") && !NAMED.contains(&key.as_str()));
    extra.splice(0..0, own.map(|(_, value)| value).filter(|value| content(value).is_some()).cloned());
    let mut first: Vec<(u32, AddedToken)> = Vec::new();
    for (id, value) in decoder.into_iter().flatten() {
        let token = id.parse().ok().zip(added(value, None));
        first.push(token.ok_or_else(|| refused(format!("`added_tokens_decoder.{id}` is no token")))?);
    }
    if decoder.is_none() {
        let special: Vec<String> = named.iter().flatten().chain(&extra).filter_map(content).collect();
        for (text, id) in &beside.added {
            let special = special.contains(text);
            let token = AddedToken { content: text.clone(), normalized: !special, special, ..AddedToken::default() };
            // What `tokenizer.json` itself says of the token comes after this file, and counts.
            if !present.iter().any(|(_, other)| other.content == *text) {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                first.push((id.ok_or_else(|| Error::new(format!("{ADDED}: `{text}` has no id")).help(REMEDY))?, token));
            }
        }
    } else if !matches!(class, Class::File | Class::Other) {
        // The class builds anew and takes added tokens from the key alone.
        let texts: Vec<String> = named.iter().flatten().chain(&extra).filter_map(content).collect();
        let kept = |token: &AddedToken| {
            texts.contains(&token.content) || first.iter().any(|(_, other)| other.content == token.content)
        };
        if let Some((_, token)) = present.iter().find(|(_, token)| !kept(token)) {
            return Err(refused(format!(
                "`added_tokens_decoder` lacks `{}`, which `tokenizer.json` has among its added tokens",
                token.content
            )));
        }
    }
    first.sort_by_key(|(id, _)| *id);
    let mut tokens: Vec<AddedToken> =
        first.iter().map(|(_, token)| token.clone()).filter(|token| !known(token)).collect();
    let names: Vec<String> = named.iter().flatten().filter_map(content).collect();
    for value in named.iter().flatten().chain(&extra) {
        let Some(text) = content(value) else { continue };
        let taken =
            present.iter().any(|(_, token)| token.content == text) || tokens.iter().any(|token| token.content == text);
        if !taken && !text.is_empty() {
            tokens.push(if value.is_string() {
                AddedToken::from(text, true)
            } else {
                added(value, Some(true)).unwrap_or_else(|| AddedToken::from(text, true))
            });
        }
    }
    for token in &mut tokens {
        token.special |= names.contains(&token.content);
    }
    if tokens.is_empty() {
        return Ok(());
    }
    // What the class alone would add, no text is written for.
    let silent = tokens.iter().all(|token| class.specials().contains(&Some(token.content.as_str())));
    tokenizer
        .add_tokens(tokens.clone())
        .map_err(|cause| Error::new(format!("the tokenizer cannot be used: {cause}")))?;
    changes.any = true;
    if !silent {
        let list: Vec<_> = tokens.iter().take(3).map(|token| format!("`{}`", token.content)).collect();
        let more = if tokens.len() > 3 { ", …" } else { "" };
        changes
            .notes
            .push(format!("{CONFIG} adds tokens that tokenizer.json does not have: {}{more}", list.join(", ")));
    }
    Ok(())
}
