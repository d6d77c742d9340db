//! Text to token ids, as the model's own `tokenizer.json` says, or its `qwen.tiktoken`.

use std::{fs, path::Path, sync::Arc};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::{
    auto_tokenizer::{self, Beside},
    spec::Spec,
    tiktoken,
};
use crate::{
    Error, Result,
    error::{IoContext, survive},
};

const MAIN: &str = "tokenizer.json";
/// Files beside `tokenizer.json` that `AutoTokenizer` reads; kept so that a saved model has them again.
const SIDE: [&str; 3] = [auto_tokenizer::CONFIG, auto_tokenizer::SPECIAL, auto_tokenizer::ADDED];

/// Tokens of a prompt that decide how a text goes on after it.
const CONTEXT: usize = 4;

/// A tokenizer, as `AutoTokenizer` of transformers makes it of a model's files; always without truncation, padding and dropout.
///
/// Clones share it. Special tokens are added as the file's post-processor says: `[CLS]` and `[SEP]` by BERT's, none by GPT-2's.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    files: Arc<Vec<(String, Vec<u8>)>>,
    /// Largest id of the vocabulary, and of the vocabulary with the added tokens.
    largest: [Option<u32>; 2],
    /// Number of ids that the model knows, once it is [known](Self::within).
    known: Option<usize>,
    /// What the ids depend on beyond the files' bytes; empty where they are those of `tokenizer.json` alone.
    changed: Arc<str>,
    notes: Arc<[String]>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model's folder, or `qwen.tiktoken` where there is none.
    ///
    /// # Errors
    /// There is neither, or it cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let main = [MAIN, tiktoken::FILE].into_iter().find(|name| folder.join(name).exists()).unwrap_or(MAIN);
        let path = folder.join(main);
        if !path.exists() {
            return Err(Error::new(format!("there is no `{MAIN}`"))
                .in_file(folder)
                .help("`AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers writes one"));
        }
        let mut files = vec![(main.to_owned(), fs::read(&path).path("read the tokenizer", &path)?)];
        let parse = |name: &str, bytes: &[u8]| -> Result<Map<String, Value>> {
            let what = "`save_pretrained` of transformers writes it";
            serde_json::from_slice(bytes).map_err(|cause| {
                Error::new(format!("`{name}` is no JSON object: {cause}")).in_file(folder.join(name)).help(what)
            })
        };
        let mut beside = Beside::default();
        for (name, parsed) in SIDE.into_iter().zip([&mut beside.config, &mut beside.special, &mut beside.added]) {
            let path = folder.join(name);
            if path.exists() {
                let bytes = fs::read(&path).path("read", &path)?;
                *parsed = parse(name, &bytes)?;
                files.push((name.to_owned(), bytes));
            }
        }
        let model = folder.join("config.json");
        if model.exists() {
            beside.model = parse("config.json", &fs::read(&model).path("read", &model)?)?;
        }
        Self::from_files(files, &beside, &path)
    }

    /// From the text of a `tokenizer.json`; `file` is named in errors.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        Self::from_files(vec![(MAIN.to_owned(), text.into())], &Beside::default(), file)
    }

    fn from_files(files: Vec<(String, Vec<u8>)>, beside: &Beside, path: &Path) -> Result<Self> {
        let (name, main) = &files[0];
        let unreadable = |cause: String| {
            let stand_in = Error::stand_in(main, "tokenizer");
            stand_in.unwrap_or_else(|| Error::new(format!("the tokenizer cannot be read: {cause}"))).in_file(path)
        };
        attempt(|| {
            let mut inner = match name == tiktoken::FILE {
                true => tiktoken::read(main).map_err(|error| unreadable(error.message().to_owned()))?,
                false => tokenizers::Tokenizer::from_bytes(main).map_err(|cause| unreadable(cause.to_string()))?,
            };
            let unusable = |cause| Error::new(format!("the tokenizer cannot be used: {cause}"));
            // Files often carry the settings of their training; a text must not be cut or padded behind the user's back.
            inner.with_truncation(None).map_err(unusable)?.with_padding(None);
            let changes = auto_tokenizer::complete(&mut inner, beside)?;
            let changed = match changes.any {
                true => format!("{}{}", inner.get_encode_special_tokens(), inner.to_string(false).map_err(unusable)?),
                false => String::new(),
            };
            let largest = [false, true].map(|added| inner.get_vocab(added).into_values().max());
            let changed = if changed.is_empty() { changed } else { blake3::hash(changed.as_bytes()).to_string() };
            Ok(Self {
                inner: inner.into(),
                files: files.clone().into(),
                largest,
                known: None,
                changed: changed.into(),
                notes: changes.notes.into(),
            })
        })
        .map_err(|error| error.in_file(path))
    }

    /// What a user should know of how the files are read, such as a key that decides over `tokenizer.json`.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The same tokenizer for a model of `vocab` ids: a text with a token beyond them is an error.
    #[must_use]
    pub fn within(self, vocab: usize) -> Self {
        Self { known: Some(vocab), ..self }
    }

    /// Token ids of a text, with the special tokens that the tokenizer adds by default.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.run(text, true)
    }

    /// Where each token of a text begins, in bytes of the text; a special token that is put around it begins at 0.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text, or the model does not know a token of it.
    pub fn starts(&self, text: &str) -> Result<Vec<usize>> {
        attempt(|| match self.inner.encode(text, true) {
            Ok(encoding) => {
                self.know(encoding.get_ids())?;
                Ok(encoding.get_offsets().iter().map(|(start, _)| *start).collect())
            }
            Err(cause) => Err(Error::new(cause.to_string())),
        })
    }

    /// Token ids of many texts, in their order, with special tokens; all threads take part.
    ///
    /// # Errors
    /// The tokenizer cannot represent a text; the first such text is named.
    pub fn encode_all<'a>(
        &self,
        texts: impl IntoParallelIterator<Item = &'a str, Iter: IndexedParallelIterator>,
    ) -> Result<Vec<Vec<u32>>> {
        let encode =
            |(row, text): (usize, &str)| self.encode(text).map_err(|error| error.context(format!("example {row}")));
        let rows: Vec<Result<Vec<u32>>> = texts.into_par_iter().enumerate().map(encode).collect();
        rows.into_iter().collect()
    }

    /// Token ids of a text alone, without special tokens.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        self.run(text, false)
    }

    fn run(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let start = || text.chars().take(40).collect::<String>();
        attempt(|| match self.inner.encode_fast(text, special) {
            Ok(encoding) => self.know(encoding.get_ids()),
            Err(cause) => Err(Error::new(cause.to_string())),
        })
        .map_err(|error| error.context(format!("the tokenizer cannot encode `{}`", start())))
    }

    /// The ids, if the model knows them all.
    fn know(&self, ids: &[u32]) -> Result<Vec<u32>> {
        match self.known.and_then(|known| ids.iter().find(|id| **id as usize >= known).zip(Some(known))) {
            None => Ok(ids.to_vec()),
            Some((id, known)) => {
                let token = self.inner.id_to_token(*id).unwrap_or_default();
                Err(Error::new(format!("its token `{token}` has the id {id}, and the model has {known} from 0 on"))
                    .help("take the token out of the texts, or enlarge the model's embeddings (`resize_token_embeddings`)"))
            }
        }
    }

    /// Text of token ids; special tokens are left out.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        attempt(|| self.inner.decode(ids, true).map_err(|cause| Error::new(cause.to_string())))
            .map_err(|error| error.context("the tokenizer cannot decode"))
    }

    /// Text that token ids add to those of a prompt, with the space that it may begin with; special tokens are left out.
    ///
    /// With [`encode_after`](Self::encode_after) the one way from an answer to its tokens and back: many tokenizers put a space before a text,
    /// or take one away, unless something stands before it.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode_after(&self, prompt: &[u32], ids: &[u32]) -> Result<String> {
        let context = &prompt[prompt.len().saturating_sub(CONTEXT)..];
        let (before, whole) = (self.decode(context)?, self.decode(&[context, ids].concat())?);
        // The first ids may be part of the character that the prompt ends in.
        whole.strip_prefix(before.as_str()).map_or_else(|| self.decode(ids), |text| Ok(text.to_owned()))
    }

    /// Token ids that a text adds to those of a prompt, without special tokens; the prompt's stay as they are.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn encode_after(&self, prompt: &[u32], text: &str) -> Result<Vec<u32>> {
        let context = self.decode(&prompt[prompt.len().saturating_sub(CONTEXT)..])?;
        let (before, whole) = (self.encode_bare(&context)?, self.encode_bare(&format!("{context}{text}"))?);
        // Where the text's beginning would change the prompt's last token, it is read by itself.
        whole.strip_prefix(before.as_slice()).map_or_else(|| self.encode_bare(text), |ids| Ok(ids.to_vec()))
    }

    /// Id of a token by its name in the vocabulary, such as `<s>`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Id of the token that the files beside `tokenizer.json` name as the end of texts (`eos_token`), if they do.
    pub fn end(&self) -> Option<u32> {
        let named = |bytes: &[u8]| {
            let values: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
            let token = values.get("eos_token")?;
            self.id(token.as_str().or_else(|| token.get("content")?.as_str())?)
        };
        self.files().skip(1).find_map(|(_, bytes)| named(bytes))
    }

    /// The one token that a word is, e.g. a verbaliser such as ` Yes`.
    ///
    /// # Errors
    /// The word is more than one token; names them. Or it is none, and the tokenizer puts its token for the unknown in its place.
    pub fn single(&self, word: &str) -> Result<u32> {
        let ids = self.encode_bare(word)?;
        // A character that hardly any vocabulary holds; what stands for its bytes is more than one token.
        let unknown = self.encode_bare("\u{2A6D6}").ok();
        if self.id(word).is_none() && ids.len() == 1 && Some(&ids) == unknown.as_ref() {
            return Err(Error::new(format!("the tokenizer does not know `{word}`"))
                .help("choose a word that is in its vocabulary"));
        }
        match (ids.as_slice(), self.id(word)) {
            (&[id], _) | (_, Some(id)) => Ok(id),
            _ => {
                let parts: Vec<_> = ids.iter().filter_map(|&id| self.inner.id_to_token(id)).collect();
                Err(Error::new(format!("`{word}` is not one token but {}: `{}`", parts.len(), parts.join("`, `")))
                    .help("many tokenizers know a word only with a space before it"))
            }
        }
    }

    /// Checks that the tokenizer's vocabulary and what it puts around a text are in the model's, and that it gives at least half of
    /// the ids: vocabularies are rounded up for speed, and not by so much. A token that was added and has no place in the model is an
    /// error only in a text that holds it.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, spec: &Spec) -> Result<()> {
        // What is put around a text need not be in the vocabulary.
        let around = self.encode("a").unwrap_or_default().into_iter().max();
        let [vocabulary, with_added] = self.largest;
        let outside = |id: u32| id as usize >= spec.vocab;
        let needed = vocabulary.max(around).filter(|id| outside(*id));
        let largest = needed.or(with_added.max(around)).unwrap_or(0);
        if needed.is_some() || (largest as usize + 1) * 2 < spec.vocab {
            let message = format!("the tokenizer's ids end at {largest}, the model has {} from 0 on", spec.vocab);
            return Err(Error::new(message).help("do tokenizer and weights belong to the same model?"));
        }
        Ok(())
    }

    /// BLAKE3 hash, in hexadecimal, of the files it was read from and of how they are read.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, hash) in self.hashes() {
            hasher.update(name.as_bytes()).update(hash.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Names and hashes of what its ids depend on.
    pub(super) fn hashes(&self) -> impl Iterator<Item = (&str, blake3::Hash)> {
        // What `added_tokens.json` says shows in how the files are read.
        let files = self.files().filter(|(name, _)| *name != auto_tokenizer::ADDED);
        let changed = Some(("AutoTokenizer", self.changed.as_bytes())).filter(|(_, changed)| !changed.is_empty());
        files.chain(changed).map(|(name, bytes)| (name, blake3::hash(bytes)))
    }

    /// Contents of the files it was read from, the vocabulary's first.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Writes those files.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.files().try_for_each(|(name, bytes)| {
            let path = folder.join(name);
            fs::write(&path, bytes).path("write the tokenizer", path)
        })
    }
}

/// What the library does with a file. There are files that it reads and then cannot use, such as one whose template names a special token
/// that is not there; it panics on them.
fn attempt<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    survive(work).unwrap_or_else(|panic| {
        Err(panic
            .context("the tokenizer's file does not fit together")
            .help("get `tokenizer.json` again, or write it anew with `save_pretrained` of transformers"))
    })
}
