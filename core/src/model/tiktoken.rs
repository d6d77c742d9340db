//! `qwen.tiktoken`: the vocabulary of the first Qwen, as `tiktoken` reads it, made into a tokenizer.
//!
//! A line has the bytes of a token in base64 and its rank, which is its id. `tiktoken` puts neighbours together whose union has the lowest rank,
//! whichever way the union falls apart; here every such way is a merge, in the order of ranks. A piece of text that is a token by itself is taken
//! whole, as there.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokenizers::{
    AddedToken, SplitDelimiterBehavior, Tokenizer,
    decoders::byte_level::ByteLevel,
    models::bpe::{BPE, Merges, Vocab},
    normalizers::NFC,
    pre_tokenizers::{
        PreTokenizerWrapper,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::auto_tokenizer::QWEN;
use crate::{Error, Result};

/// Name of the file.
pub(super) const FILE: &str = "qwen.tiktoken";
/// Tokens without a name, which come last (`<|extra_0|>` …).
const EXTRA: usize = 205;

/// The tokenizer of a file: its tokens, then those that mark texts.
///
/// Source: `tokenization_qwen.py` of `Qwen/Qwen-7B`.
///
/// # Errors
/// A line that is no token with its rank, ranks that do not count up from 0, a byte that no token stands for.
pub(super) fn read(bytes: &[u8]) -> Result<Tokenizer> {
    let tokens = tokens(bytes)?;
    let letters = letters();
    let written = |token: &[u8]| token.iter().map(|&byte| letters[usize::from(byte)]).collect::<String>();
    let ranks: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    if ranks.len() < tokens.len() {
        return Err(Error::new("a token is in it twice: the file is damaged"));
    }
    if let Some(byte) = (0..=u8::MAX).find(|byte| !ranks.contains_key([*byte].as_slice())) {
        return Err(Error::new(format!("no token stands for the byte {byte} alone: the file is not complete")));
    }
    let mut merges: Merges = Vec::new();
    for token in &tokens {
        let parts = |at| token.split_at_checked(at).filter(|(left, right)| !left.is_empty() && !right.is_empty());
        let known = |(left, right)| Some(((*ranks.get(left)?, *ranks.get(right)?), (left, right)));
        let mut ways: Vec<_> = (1..token.len()).filter_map(|at| parts(at).and_then(known)).collect();
        ways.sort_unstable();
        merges.extend(ways.into_iter().map(|(_, (left, right))| (written(left), written(right))));
    }
    let vocab: Vocab = tokens.iter().map(|token| written(token)).zip(0..).collect();
    let unusable = |cause| Error::new(format!("the tokenizer cannot be used: {cause}"));
    let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(true).build().map_err(unusable)?;
    let mut tokenizer = Tokenizer::new(model);
    let split = Split::new(SplitPattern::Regex(QWEN.to_owned()), SplitDelimiterBehavior::Isolated, false);
    let split = PreTokenizerWrapper::Split(split.map_err(unusable)?);
    let as_letters = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false));
    tokenizer
        .with_normalizer(Some(NFC))
        .map_err(unusable)?
        .with_pre_tokenizer(Some(Sequence::new(vec![split, as_letters])))
        .with_decoder(Some(ByteLevel::default()));
    let marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned).into_iter();
    let marks = marks.chain((0..EXTRA).map(|extra| format!("<|extra_{extra}|>")));
    let marks: Vec<AddedToken> = marks.map(|mark| AddedToken::from(mark, true)).collect();
    tokenizer.add_special_tokens(marks).map_err(unusable)?;
    Ok(tokenizer)
}

/// The tokens of a file, by their ranks.
fn tokens(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let text = std::str::from_utf8(bytes).map_err(|cause| Error::new(format!("it is no text: {cause}")))?;
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let number = index + 1;
        let wrong = || Error::new(format!("line {number} is not a token in base64 with its rank"));
        let (token, rank) = line.split_once(' ').ok_or_else(wrong)?;
        let token = STANDARD.decode(token).ok().filter(|token| !token.is_empty()).ok_or_else(wrong)?;
        let rank: usize = rank.trim_end().parse().map_err(|_| wrong())?;
        if rank != tokens.len() {
            let message =
                format!("line {number} has rank {rank}, and {} comes next: the file is not complete", tokens.len());
            return Err(Error::new(message));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// The letter that stands for each byte: itself where it is printable, else one from U+0100 on, as GPT-2 has them.
fn letters() -> [char; 256] {
    let mut next = 0x100..;
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    std::array::from_fn(|byte| {
        let byte = byte as u32;
        let code = if printable(byte) { byte } else { next.next().unwrap_or(byte) };
        char::from_u32(code).unwrap_or_default()
    })
}
