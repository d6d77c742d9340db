//! Makes every example fit every model, with the same text for all of them.
//!
//! The reference drops what is too long for one tokenizer, so that weak and strong models are trained and tested on different examples
//! (their data differ as their tokenizers do). Here an example is shortened until all tokenizers accept it, or dropped for all.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{PoisonError, RwLock},
};

use rayon::prelude::*;

use super::{Example, FitCounts, FitPart, OverLong, TaskData};
use crate::Result;

/// Number of tokens that one model's tokenizer makes of a text, special tokens included.
pub type CountTokens<'a> = &'a (dyn Fn(&str) -> Result<usize> + Sync);

/// How many tokens one tokenizer makes of texts that were counted before.
///
/// Several seeds and pairs of models ask for the same texts again and again, and a tokenizer is slow.
#[derive(Debug, Default)]
pub struct TokenCounts(RwLock<HashMap<u128, usize>>);

impl TokenCounts {
    /// What `count` says of a text; it is asked only once.
    ///
    /// # Errors
    /// Those of `count`, which are not remembered.
    pub fn get(&self, text: &str, count: impl FnOnce(&str) -> Result<usize>) -> Result<usize> {
        let hash = blake3::hash(text.as_bytes());
        let key = u128::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]));
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*known);
        }
        let tokens = count(text)?;
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, tokens);
        Ok(tokens)
    }
}

/// The tokens of every example, part after part, in one tokenizer's count.
///
/// # Errors
/// Those of the tokenizer.
pub fn lengths(data: &TaskData, count_tokens: CountTokens) -> Result<Vec<usize>> {
    let texts: Vec<&str> = data.parts().into_iter().flat_map(|(_, part)| part).map(|e| e.text.as_str()).collect();
    texts.par_iter().map(|text| count_tokens(text)).collect()
}

/// What [`shorten`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortened {
    /// It fitted as it was.
    Not,
    /// Words were taken off the context's left.
    Yes,
    /// Without all but the last word of its context it is still too long. The text is unchanged.
    TooLong,
}

/// Takes as few words off the left of `context` as make every tokenizer count at most `limit` tokens; keeps the last word.
///
/// Returns also the most tokens that any tokenizer counted at first. Words are what white space separates.
pub fn shorten(
    text: &mut String,
    context: &mut Range<usize>,
    count_tokens: &[CountTokens],
    limit: usize,
) -> Result<(Shortened, usize)> {
    let most =
        |text: &str| -> Result<usize> { count_tokens.iter().try_fold(0, |most, count| Ok(most.max(count(text)?))) };
    let before = most(text)?;
    if before <= limit {
        return Ok((Shortened::Not, before));
    }
    let from = |place: usize| format!("{}{}", &text[..context.start], &text[place..]);
    let (mut low, starts) = (0, word_starts(text, context));
    let mut high = starts.len();
    while low < high {
        let middle = low.midpoint(high);
        if most(&from(starts[middle]))? <= limit {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let Some(place) = starts.get(low) else { return Ok((Shortened::TooLong, before)) };
    *text = from(*place);
    context.end -= place - context.start;
    Ok((Shortened::Yes, before))
}

/// Where words begin in a part of a text, the first left out.
fn word_starts(text: &str, part: &Range<usize>) -> Vec<usize> {
    let mut after_space = false;
    let mut seen = false;
    let mut starts = Vec::new();
    for (place, c) in text[part.clone()].char_indices() {
        if !c.is_whitespace() {
            if seen && after_space {
                starts.push(part.start + place);
            }
            seen = true;
        }
        after_space = c.is_whitespace();
    }
    starts
}

/// Makes every example at most `limit` tokens long for every tokenizer: shortens contexts from the left or drops examples.
///
/// An example that is too long without its context is dropped and counted. Prompts are left alone, since their room depends on the
/// examples put before them; use [`shorten`] there. The reference's `len < max_ctx` is `limit = max_ctx - 1`. The counts are also put
/// into the data.
pub fn fit(data: &mut TaskData, count_tokens: &[CountTokens], limit: usize, over_long: OverLong) -> Result<FitCounts> {
    let mut counts = FitCounts { limit, ..FitCounts::default() };
    for (name, examples) in data.parts_mut() {
        let done: Vec<(Shortened, usize)> = examples
            .par_iter_mut()
            .map(|example| fit_one(example, count_tokens, limit, over_long))
            .collect::<Result<_>>()?;
        let part = FitPart {
            shortened: done.iter().filter(|(shortened, _)| *shortened == Shortened::Yes).count(),
            dropped: done.iter().filter(|(shortened, _)| *shortened == Shortened::TooLong).count(),
            longest: done.iter().map(|(_, before)| *before).max().unwrap_or(0),
        };
        let mut fate = done.into_iter();
        examples.retain(|_| fate.next().is_none_or(|(shortened, _)| shortened != Shortened::TooLong));
        counts.parts.insert(name.into(), part);
    }
    data.counts.fit = Some(counts.clone());
    data.recount()?;
    Ok(counts)
}

fn fit_one(
    example: &mut Example,
    count_tokens: &[CountTokens],
    limit: usize,
    over_long: OverLong,
) -> Result<(Shortened, usize)> {
    let Example { text, context, .. } = example;
    match over_long {
        OverLong::Truncate => shorten(text, context, count_tokens, limit),
        // Nothing may be shortened where the context is empty.
        OverLong::Drop => shorten(text, &mut (0..0), count_tokens, limit),
    }
}
