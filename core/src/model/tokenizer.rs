//! Text to token ids, as the model's own `tokenizer.json` says.

use std::{fs, path::Path, sync::Arc};

use rayon::prelude::*;

use super::spec::Spec;
use crate::{
    Error, Result,
    error::{IoContext, survive},
};

const MAIN: &str = "tokenizer.json";
/// Files beside `tokenizer.json` that `AutoTokenizer` reads; kept so that a saved model has them again.
const SIDE: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// A tokenizer, always without truncation and padding.
///
/// Clones share it. Special tokens are added as the file's post-processor says: `[CLS]` and `[SEP]` by BERT's, none by GPT-2's.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    files: Arc<Vec<(String, Vec<u8>)>>,
    largest: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model's folder.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MAIN);
        if !path.exists() {
            return Err(Error::new(format!("there is no `{MAIN}`"))
                .in_file(folder)
                .help("`AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers writes one"));
        }
        let mut files = vec![(MAIN.to_owned(), fs::read(&path).path("read the tokenizer", &path)?)];
        for name in SIDE {
            let path = folder.join(name);
            if path.exists() {
                files.push((name.to_owned(), fs::read(&path).path("read", &path)?));
            }
        }
        Self::from_files(files, &path)
    }

    /// From the text of a `tokenizer.json`; `file` is named in errors.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        Self::from_files(vec![(MAIN.to_owned(), text.into())], file)
    }

    fn from_files(files: Vec<(String, Vec<u8>)>, path: &Path) -> Result<Self> {
        let main = &files[0].1;
        let unreadable = |cause| {
            let stand_in = Error::stand_in(main, "tokenizer");
            stand_in.unwrap_or_else(|| Error::new(format!("the tokenizer cannot be read: {cause}"))).in_file(path)
        };
        let (inner, largest) = attempt(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(main).map_err(unreadable)?;
            // Files often carry the settings of their training; a text must not be cut or padded behind the user's back.
            inner
                .with_truncation(None)
                .map_err(|cause| Error::new(format!("the tokenizer cannot be used: {cause}")).in_file(path))?
                .with_padding(None);
            let largest = inner.get_vocab(true).into_values().max();
            Ok((inner, largest))
        })
        .map_err(|error| error.in_file(path))?;
        Ok(Self { inner: inner.into(), files: files.into(), largest })
    }

    /// Token ids of a text, with the special tokens that the tokenizer adds by default.
    ///
    /// # Errors
    /// The tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.run(text, true)
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
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(cause) => Err(Error::new(cause.to_string())),
        })
        .map_err(|error| error.context(format!("the tokenizer cannot encode `{}`", start())))
    }

    /// Text of token ids; special tokens are left out.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        attempt(|| self.inner.decode(ids, true).map_err(|cause| Error::new(cause.to_string())))
            .map_err(|error| error.context("the tokenizer cannot decode"))
    }

    /// Id of a token by its name in the vocabulary, such as `<s>`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
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

    /// Checks that every id the tokenizer can give is in the model's vocabulary, and that it gives at least half of these: vocabularies
    /// are rounded up for speed, and not by so much.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, spec: &Spec) -> Result<()> {
        // What is put around a text need not be in the vocabulary.
        let around = self.encode("a").unwrap_or_default().into_iter().max();
        let largest = self.largest.max(around).unwrap_or(0) as usize;
        if largest >= spec.vocab || (largest + 1) * 2 < spec.vocab {
            let message = format!("the tokenizer's ids end at {largest}, the model has {} from 0 on", spec.vocab);
            return Err(Error::new(message).help("do tokenizer and weights belong to the same model?"));
        }
        Ok(())
    }

    /// BLAKE3 hash of the files it was read from, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, bytes) in self.files() {
            hasher.update(name.as_bytes()).update(blake3::hash(bytes).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Contents of the files it was read from, `tokenizer.json` first.
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
