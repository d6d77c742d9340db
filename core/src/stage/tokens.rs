//! A task's texts as token ids, candidates one by one: made once for each tokenizer when the data are cut, and read by every stage that trains or predicts on them.

use std::{fs, path::Path};

use rayon::prelude::*;

use super::part;
use crate::{
    Error, Result,
    error::IoContext,
    model::Tokenizer,
    strategy::Split,
    task::{Example, TaskData, Tick},
};

const SPLITS: [Split; 4] = [Split::Supervise, Split::Transfer, Split::Validation, Split::Test];

/// `tokens-TOKENIZER-SPLIT.bin`: little-endian `u32`, how many rows there are, the length of each, and all their ids.
fn file(tokenizer: &Tokenizer, split: Split) -> String {
    format!("tokens-{}-{}.bin", &tokenizer.fingerprint()[..16], split.name())
}

/// Writes the token ids of every split into a stage's folder; `tick` is told of every example.
///
/// # Errors
/// A text that the tokenizer cannot represent, or a file that cannot be written.
pub fn write(data: &TaskData, tokenizer: &Tokenizer, folder: &Path, tick: Tick) -> Result<()> {
    for split in SPLITS {
        let rows = encode(data, tokenizer, split, tick)?;
        let count = |n: usize| u32::try_from(n).map_err(|_| Error::new("a split of more than 4294967295 tokens"));
        let mut words = vec![count(rows.len())?];
        for row in &rows {
            words.push(count(row.len())?);
        }
        words.extend(rows.into_iter().flatten());
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let path = folder.join(file(tokenizer, split));
        fs::write(&path, bytes).path("write token ids", path)?;
    }
    Ok(())
}

/// The token ids of a split: those in the folder, or made now where it has none for this tokenizer.
///
/// # Errors
/// A text that the tokenizer cannot represent, or a file that is damaged.
pub fn read(data: &TaskData, tokenizer: &Tokenizer, folder: Option<&Path>, split: Split) -> Result<Vec<Vec<u32>>> {
    let path = folder.map(|folder| folder.join(file(tokenizer, split))).filter(|path| path.is_file());
    let Some(path) = path else { return encode(data, tokenizer, split, &|| ()) };
    let bytes = fs::read(&path).path("read token ids", &path)?;
    let texts = part(data, split).iter().flat_map(Example::texts).count();
    let rows = decode(&bytes).filter(|rows| rows.len() == texts);
    rows.ok_or_else(|| {
        let help = "remove its folder: `w2s run` makes it anew";
        Error::new("these are not the token ids of the data beside them").in_file(path).help(help)
    })
}

fn decode(bytes: &[u8]) -> Option<Vec<Vec<u32>>> {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
    let count = words.next()? as usize;
    let lengths: Vec<usize> = words.by_ref().take(count).map(|length| length as usize).collect();
    let whole = rest.is_empty() && lengths.len() == count && words.len() == lengths.iter().sum::<usize>();
    whole.then(|| lengths.iter().map(|length| words.by_ref().take(*length).collect()).collect())
}

fn encode(data: &TaskData, tokenizer: &Tokenizer, split: Split, tick: Tick) -> Result<Vec<Vec<u32>>> {
    // An example is done when its last text is.
    let mut texts: Vec<(&str, bool)> = Vec::new();
    for example in part(data, split) {
        texts.extend(example.texts().map(|(text, _)| (text, false)));
        texts.last_mut().into_iter().for_each(|(_, last)| *last = true);
    }
    let texts = texts.into_par_iter().map(|(text, last)| {
        if last {
            tick();
        }
        text
    });
    tokenizer.encode_all(texts).map_err(|error| error.context(format!("the {} split", split.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_no_token_ids() {
        let good: Vec<u8> = [2_u32, 2, 1, 7, 8, 9].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(decode(&good), Some(vec![vec![7, 8], vec![9]]));
        assert_eq!(decode(&0_u32.to_le_bytes()), Some(vec![]));
        for end in 0..good.len() {
            assert_eq!(decode(&good[..end]), None, "{end} bytes");
        }
        assert_eq!(decode(&[0xff; 24]), None);
    }
}
