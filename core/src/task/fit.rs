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

use unicode_segmentation::UnicodeSegmentation;

use super::{Example, FitCounts, FitPart, Form, OverLong, TaskData};
use crate::{Error, Result};

/// What one model's tokenizer says of a text's length, special tokens included.
pub trait Counter: Sync {
    /// How many tokens it makes of a text.
    ///
    /// # Errors
    /// It cannot represent the text.
    fn count(&self, text: &str) -> Result<usize>;

    /// Where in the text, in bytes, each of its tokens begins, as far as it can be said. A search begins there; nothing depends on it.
    fn starts(&self, _text: &str) -> Option<Vec<usize>> {
        None
    }
}

impl<F: Fn(&str) -> Result<usize> + Sync> Counter for F {
    fn count(&self, text: &str) -> Result<usize> {
        self(text)
    }
}

/// One of several tokenizers that a text must fit.
pub type CountTokens<'a> = &'a dyn Counter;
/// Is told that one more example is done: whoever waits for many long texts wants to see it.
pub type Tick<'a> = &'a (dyn Fn() + Sync);

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

/// The tokens of every example, part after part, in one tokenizer's count: of a choice those of its longest candidate; where words are
/// generated, those of prompt and reference together.
///
/// # Errors
/// Those of the tokenizer.
pub fn lengths(data: &TaskData, count_tokens: impl Fn(&str) -> Result<usize> + Sync) -> Result<Vec<usize>> {
    let examples: Vec<&Example> = data.parts().into_iter().flat_map(|(_, part)| part).collect();
    let length = |example: &&Example| {
        let more = match &example.reference {
            Some(reference) => bare(&count_tokens, reference)?,
            None => 0,
        };
        example.texts().try_fold(0, |most, (text, _)| Ok(most.max(count_tokens(text)? + more)))
    };
    examples.par_iter().map(length).collect()
}

/// The tokens of a text without the special ones around it.
fn bare(count: &impl Fn(&str) -> Result<usize>, text: &str) -> Result<usize> {
    Ok(count(text)?.saturating_sub(count("")?))
}

/// A tokenizer for prompts that leave room for something behind them.
struct Before<'a> {
    count: CountTokens<'a>,
    /// The tokens of what follows.
    room: usize,
}

impl Counter for Before<'_> {
    fn count(&self, text: &str) -> Result<usize> {
        Ok(self.count.count(text)? + self.room)
    }
}

/// What [`shorten`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortened {
    /// It fitted as it was.
    Not,
    /// Words, or characters where there are no spaces, were taken off the context's left.
    Yes,
    /// With nothing but the end of its context it is still too long. The text is unchanged.
    TooLong,
}

/// A longer word is an address, or a text without spaces, and may be cut.
const LONGEST_WORD: usize = 32;
/// A text is counted in pieces of so many bytes if it is more than four: a tokenizer needs a hundred times a text's memory.
const PIECE: usize = 1 << 18;
/// Where a text has more bytes than this for each token that may stay, where its tokens begin is asked at once, which counts them too.
const SHORT_TOKEN: usize = 6;

/// Takes as few words off the left of `context` as make every tokenizer count at most `limit` tokens; keeps the last word. A last word
/// that may be [cut](cuts_last_word) loses as few characters as need be, and keeps the last.
///
/// Returns also the most tokens that any tokenizer counted at first; of a text of more than a mebibyte, about. Words are what white space
/// separates, characters are grapheme clusters (Unicode Standard Annex 29).
pub fn shorten(
    text: &mut String,
    context: &mut Range<usize>,
    count_tokens: &[CountTokens],
    limit: usize,
) -> Result<(Shortened, usize)> {
    let (mut before, mut starts) = (0, Vec::with_capacity(count_tokens.len()));
    for count in count_tokens {
        let searched = before > limit || text.len() > SHORT_TOKEN * limit;
        let asked = searched && context.start < context.end && text.len() <= end_that_may_fit(limit);
        let found = if asked { count.starts(text) } else { None };
        let tokens = found.as_ref().map_or_else(|| count_in_pieces(*count, text, limit), |starts| Ok(starts.len()))?;
        before = before.max(tokens);
        starts.push(found);
    }
    if before <= limit {
        return Ok((Shortened::Not, before));
    }
    let place = {
        let search = Search { text, context: context.clone(), count_tokens, starts, limit };
        let words = word_starts(text, context);
        match search.first_that_fits(&words)? {
            None if cuts_last_word(text, context) => {
                search.first_that_fits(&character_starts(text, last_word(text, context)))?
            }
            found => found,
        }
    };
    let Some(place) = place else { return Ok((Shortened::TooLong, before)) };
    text.replace_range(context.start..place, "");
    context.end -= place - context.start;
    Ok((Shortened::Yes, before))
}

/// How many bytes of a text's end are looked at first where it is longer.
fn end_that_may_fit(limit: usize) -> usize {
    4096.max(8 * limit)
}

/// The tokens of a text. Of one that is very long, pieces of it are counted: a few, which stand for all, where they alone are more than
/// `limit`, else all of them, whose sum is off by a few tokens at most.
fn count_in_pieces(count: CountTokens, text: &str, limit: usize) -> Result<usize> {
    /// More than the cuts between a few pieces add.
    const OF_CUTS: usize = 100;
    if text.len() <= 4 * PIECE {
        return count.count(text);
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > PIECE {
        let end = rest.floor_char_boundary(PIECE);
        // Before a space, where tokenizers divide a text too.
        let end = rest[..end].rfind(' ').filter(|space| *space > 0).unwrap_or(end);
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    let sum = |pieces: &[&str]| -> Result<usize> { pieces.par_iter().map(|piece| count.count(piece)).sum() };
    let few: Vec<&str> = (0..4).map(|i| pieces[i * (pieces.len() - 1) / 3]).collect();
    let (tokens, bytes) = (sum(&few)?, few.iter().map(|piece| piece.len()).sum::<usize>());
    if tokens > limit + OF_CUTS {
        return Ok((tokens as f64 * text.len() as f64 / bytes as f64).round() as usize);
    }
    sum(&pieces)
}

/// Looks for the longest end of a context that fits.
struct Search<'a> {
    text: &'a str,
    context: Range<usize>,
    count_tokens: &'a [CountTokens<'a>],
    /// Where each tokenizer's tokens begin in the whole text, as far as it was asked.
    starts: Vec<Option<Vec<usize>>>,
    limit: usize,
}

impl Search<'_> {
    /// The first of some places in the context from which on every tokenizer finds the text short enough, by bisection.
    ///
    /// Counting is slow. So each tokenizer says once where its tokens begin, and a place that is clearly on one side of the limit is
    /// decided by that; a text whose beginning is cut off is counted otherwise in its first word alone.
    fn first_that_fits(&self, places: &[usize]) -> Result<Option<usize>> {
        let (head, tail) = (self.context.start, self.text.len() - self.context.end);
        if head + tail > PIECE && !places.last().map_or(Ok(false), |last| self.fits_at(*last))? {
            return Ok(None);
        }
        let first = self.clearly_too_long(places)?;
        let Some(start) = places.get(first) else { return Ok(None) };
        let starts = self.starts(*start);
        let guess = |at: usize| {
            let margin = 4 + places.get(at + 1).unwrap_or(&self.context.end) - places[at];
            let tokens = || starts.iter().map(|starts| self.about(starts, places[at]));
            let too_long = at < first || tokens().any(|tokens| tokens > self.limit + margin);
            let fits = starts.len() == self.count_tokens.len() && tokens().all(|tokens| tokens + margin <= self.limit);
            if too_long { Some(false) } else { fits.then_some(true) }
        };
        let found = bisect(places.len(), |at| guess(at).map_or_else(|| self.fits_at(places[at]), Ok))?;
        // A guess that was wrong after all is not what an example's length may rest on.
        let wrong = match places.get(found) {
            Some(place) if guess(found).is_some() => !self.fits_at(*place)?,
            Some(_) => false,
            None => guess(places.len() - 1).is_some(),
        };
        let found = if wrong { bisect(places.len(), |at| self.fits_at(places[at]))? } else { found };
        Ok(places.get(found).copied())
    }

    /// The first place that is not clearly too early: of a very long context only the end can stay.
    fn clearly_too_long(&self, places: &[usize]) -> Result<usize> {
        let mut width = end_that_may_fit(self.limit);
        let mut fitted = true;
        while let Some(from) = self.context.end.checked_sub(width).filter(|from| *from > self.context.start) {
            let inside = places.partition_point(|place| *place < from);
            let Some(place) = places.get(inside) else { return Ok(0) };
            // Twice as much as did not fit the first time.
            if !fitted {
                return Ok(inside);
            }
            fitted = self.fits_at(*place)?;
            width *= 2;
        }
        Ok(0)
    }

    /// The text without its context's beginning.
    fn from(&self, place: usize) -> String {
        format!("{}{}", &self.text[..self.context.start], &self.text[place..])
    }

    fn fits_at(&self, place: usize) -> Result<bool> {
        let text = self.from(place);
        for count in self.count_tokens {
            if count_in_pieces(*count, &text, self.limit)? > self.limit {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where each tokenizer's tokens begin in the text from a place of the context on, in bytes of the whole text.
    fn starts(&self, place: usize) -> Vec<Vec<usize>> {
        let (text, gone) = (self.from(place), place - self.context.start);
        let whole = |start: usize| if start < self.context.start { start } else { start + gone };
        let ask = |count: &CountTokens| Some(count.starts(&text)?.into_iter().map(whole).collect());
        let known = self.starts.iter().zip(self.count_tokens);
        known.filter_map(|(starts, count)| starts.clone().or_else(|| ask(count))).collect()
    }

    /// About how many tokens are left without the context's part before a place.
    fn about(&self, starts: &[usize], place: usize) -> usize {
        starts.iter().filter(|start| **start < self.context.start || **start >= place).count()
    }
}

/// The first of `count` indices that fits, if all before it do not and all behind it do.
fn bisect(count: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if fits(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
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

/// Where characters begin in a part of a text, the first left out.
fn character_starts(text: &str, part: Range<usize>) -> Vec<usize> {
    text[part.clone()].grapheme_indices(true).skip(1).map(|(place, _)| part.start + place).collect()
}

/// The last word of a part of a text, and the white space behind it.
fn last_word(text: &str, part: &Range<usize>) -> Range<usize> {
    let inside = text[part.clone()].trim_end();
    let start = inside.char_indices().rev().take_while(|(_, c)| !c.is_whitespace()).last();
    part.start + start.map_or(0, |(place, _)| place)..part.end
}

/// Whether the last word of a part of a text may be cut between characters: it is longer than words are, or of a script that puts no
/// spaces between words.
fn cuts_last_word(text: &str, part: &Range<usize>) -> bool {
    let word = text[last_word(text, part)].trim_end();
    word.chars().any(without_spaces) || word.graphemes(true).nth(LONGEST_WORD).is_some()
}

/// Whether the last word of some example's context may be cut.
pub fn cuts_words(data: &TaskData) -> bool {
    let examples = data.parts().into_iter().flat_map(|(_, part)| part);
    examples.into_iter().any(|example| example.texts().any(|(text, context)| cuts_last_word(text, context)))
}

/// Characters of Thai, Lao, Tibetan, Myanmar, Khmer, Chinese and Japanese, with their punctuation.
fn without_spaces(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{2e80}'..='\u{312f}' | '\u{3190}'..='\u{a4cf}'
        | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ff9f}' | '\u{1b000}'..='\u{1b16f}' | '\u{20000}'..='\u{3ffff}')
}

/// Makes every example at most `limit` tokens long for every tokenizer: shortens contexts from the left or drops examples.
///
/// An example that is too long without its context is dropped and counted. Of a choice every candidate has to fit, and all keep the same
/// context; a reference has to fit behind its text, with one token for its end, and so have as many tokens as a model may write. Prompts of `[prompt]` are left alone, since their room depends on the
/// examples put before them; use [`shorten`] there. The reference's `len < max_ctx` is `limit = max_ctx - 1`. The counts are also put
/// into the data.
pub fn fit(
    data: &mut TaskData,
    count_tokens: &[CountTokens],
    limit: usize,
    over_long: OverLong,
    tick: Tick,
) -> Result<FitCounts> {
    let mut counts = FitCounts { limit, ..FitCounts::default() };
    let new = match &data.form {
        Form::Generate(generation) => generation.max_new_tokens,
        Form::Classify | Form::Choose { .. } => 0,
    };
    for (name, examples) in data.parts_mut() {
        let done: Vec<(Shortened, usize)> = examples
            .par_iter_mut()
            .map(|example| fit_one(example, count_tokens, limit, over_long, new).inspect(|_| tick()))
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
    new: usize,
) -> Result<(Shortened, usize)> {
    if !example.candidates.is_empty() {
        return fit_candidates(example, count_tokens, limit, over_long);
    }
    let Example { text, context, reference, .. } = example;
    // Nothing may be shortened where the context is empty.
    let context = if over_long == OverLong::Truncate { context } else { &mut (0..0) };
    let Some(reference) = reference else { return shorten(text, context, count_tokens, limit) };
    // One more, for the token at which the answer ends; and what a model may write must have room, too.
    let room = |count: &CountTokens| Ok::<_, Error>((bare(&|text: &str| count.count(text), reference)? + 1).max(new));
    let before: Vec<Before> =
        count_tokens.iter().map(|count| Ok(Before { count: *count, room: room(count)? })).collect::<Result<_>>()?;
    let before: Vec<CountTokens> = before.iter().map(|before| before as CountTokens).collect();
    shorten(text, context, &before, limit)
}

/// Takes as much off the left of what the candidates share as the longest of them needs, so that all show the same. What is shortened is
/// all of them or none.
fn fit_candidates(
    example: &mut Example,
    count_tokens: &[CountTokens],
    limit: usize,
    over_long: OverLong,
) -> Result<(Shortened, usize)> {
    let mut texts: Vec<(String, Range<usize>)> =
        example.texts().map(|(text, context)| (text.to_owned(), context.clone())).collect();
    let (mut longest, mut gone) = (0, 0);
    loop {
        let mut more = 0;
        for (text, context) in &texts {
            let (mut text, mut context) = (text.clone(), context.clone());
            let whole = text.len();
            let context = if over_long == OverLong::Truncate { &mut context } else { &mut (0..0) };
            let (shortened, before) = shorten(&mut text, context, count_tokens, limit)?;
            if gone == 0 {
                longest = longest.max(before);
            }
            if shortened == Shortened::TooLong {
                return Ok((Shortened::TooLong, longest));
            }
            more = more.max(whole - text.len());
        }
        if more == 0 {
            break;
        }
        // A text may become longer in tokens where it becomes shorter in characters: looked at again.
        texts.iter_mut().for_each(|(text, context)| cut(text, context, more));
        gone += more;
    }
    if gone == 0 {
        return Ok((Shortened::Not, longest));
    }
    let shared = |text: &str, context: &Range<usize>| text[context.clone()].to_owned();
    let first = &example.candidates[0];
    if shared(&example.text, &example.context) == shared(&first.text, &first.context) {
        cut(&mut example.text, &mut example.context, gone);
    }
    for (candidate, (text, context)) in example.candidates.iter_mut().zip(texts) {
        (candidate.text, candidate.context) = (text, context);
    }
    Ok((Shortened::Yes, longest))
}

/// Takes bytes off the left of a context.
fn cut(text: &mut String, context: &mut Range<usize>, bytes: usize) {
    text.replace_range(context.start..context.start + bytes, "");
    context.end -= bytes;
}
