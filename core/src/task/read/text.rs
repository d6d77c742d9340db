//! Files of text: unpacked, and decoded to UTF-8.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
};

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8};
use flate2::read::MultiGzDecoder;

use super::open;
use crate::{Error, Result};

/// A packed file that becomes larger than this and than [`DENSEST`] times its own size is an attack, or damaged.
const LARGE: u64 = 1 << 30;
/// Text becomes 3 to 20 times smaller; nothing becomes more than 1032 times smaller.
const DENSEST: u64 = 200;
/// The mark at the beginning of some files of UTF-8.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";
/// What to do about text that is not UTF-8.
pub(super) const ENCODING: &str = "save the file as UTF-8, or say under `[source]` what it is in, such as `encoding = \"windows-1252\"` (which many call Latin-1) or \"utf-16\"";

/// Where a text is and how it is stored.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub path: PathBuf,
    pub packed: bool,
    /// `None`: UTF-8, which is checked where it is read, so that errors name a line.
    pub encoding: Option<&'static Encoding>,
}

impl Text {
    /// Its bytes, UTF-8 unless the file says so wrongly.
    pub fn open(&self) -> Result<Box<dyn BufRead>> {
        let file = open(&self.path)?;
        let packed = file.metadata().map_or(0, |metadata| metadata.len());
        let file = BufReader::with_capacity(1 << 16, file);
        let bytes: Box<dyn Read> = match self.packed {
            true => Box::new(Unpacked { inner: MultiGzDecoder::new(file), packed, read: 0 }),
            false => Box::new(file),
        };
        let bytes: Box<dyn Read> = match self.encoding {
            None => bytes,
            Some(encoding) => {
                let decoder = encoding.new_decoder();
                Box::new(Decoded {
                    inner: bytes,
                    decoder,
                    encoding,
                    raw: vec![0; 1 << 16],
                    from: 0,
                    to: 0,
                    ended: false,
                    finished: false,
                })
            }
        };
        Ok(Box::new(BufReader::with_capacity(1 << 16, bytes)))
    }
}

/// The encoding of a name, as in the WHATWG's list; `None` for UTF-8.
pub(super) fn encoding(name: &str) -> Result<Option<&'static Encoding>> {
    let plain = name.to_lowercase().replace('_', "-");
    let found = match plain.as_str() {
        "utf-8-sig" => Some(UTF_8),
        // Python's names of encodings that the list knows by others.
        "latin-1" | "iso8859-1" => Encoding::for_label(b"latin1"),
        "utf-16-le" => Encoding::for_label(b"utf-16le"),
        "utf-16-be" => Encoding::for_label(b"utf-16be"),
        "mac-roman" => Encoding::for_label(b"macintosh"),
        "cp932" => Encoding::for_label(b"shift_jis"),
        "cp936" => Encoding::for_label(b"gbk"),
        "cp949" => Encoding::for_label(b"euc-kr"),
        "cp950" => Encoding::for_label(b"big5"),
        _ => Encoding::for_label_no_replacement(plain.as_bytes()),
    };
    let help = "e.g. \"utf-8\", \"windows-1252\" (Latin-1), \"utf-16\", \"gb18030\", \"shift_jis\" or \"euc-kr\"";
    let found = found.ok_or_else(|| Error::new(format!("`{name}` is no known encoding")).help(help))?;
    Ok((found != UTF_8).then_some(found))
}

/// What a packed file holds, watched for being impossibly much.
struct Unpacked<R> {
    inner: R,
    packed: u64,
    read: u64,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        if self.read > LARGE && self.read / DENSEST > self.packed {
            return Err(io::Error::other(format!("it unpacks to more than {DENSEST} times its size")));
        }
        Ok(n)
    }
}

/// Text of another encoding as UTF-8. What the encoding does not allow is an error, not a replacement.
struct Decoded<R> {
    inner: R,
    decoder: Decoder,
    encoding: &'static Encoding,
    raw: Vec<u8>,
    /// What of `raw` is still to be decoded.
    from: usize,
    to: usize,
    ended: bool,
    finished: bool,
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.finished {
            if self.from == self.to && !self.ended {
                (self.from, self.to) = (0, self.inner.read(&mut self.raw)?);
                self.ended = self.to == 0;
            }
            let rest = &self.raw[self.from..self.to];
            let (result, read, written) = self.decoder.decode_to_utf8_without_replacement(rest, buffer, self.ended);
            self.from += read;
            match result {
                DecoderResult::Malformed(..) => {
                    return Err(io::Error::other(format!("it is not in {}", self.encoding.name())));
                }
                DecoderResult::InputEmpty if self.ended => self.finished = true,
                DecoderResult::InputEmpty | DecoderResult::OutputFull => {}
            }
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unpacks_to_impossibly_much_is_an_error() {
        let unpack = |packed: u64| {
            let mut bomb = Unpacked { inner: io::repeat(b' ').take(LARGE + (1 << 20)), packed, read: 0 };
            io::copy(&mut bomb, &mut io::sink())
        };
        let error = unpack(LARGE / 1000).unwrap_err();
        assert!(error.to_string().contains("more than 200 times its size"), "{error}");
        assert_eq!(unpack(LARGE / 20).unwrap(), LARGE + (1 << 20));
    }
}
