//! The gist of many bytes: enough to show them and to compare them with a pattern.

use std::fmt;

use wirevm_agent::Pattern;

use super::print::joined;

/// Bytes that are shown of what has more.
const SHOWN: usize = 16;
/// Most bytes that are shown whole.
const WHOLE: usize = 64;

/// A byte that is not the one expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// Bytes in front of it.
    pub(super) offset: u64,
    pub(super) expected: u8,
    pub(super) got: u8,
}

/// What is kept of bytes that come in pieces.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    length: u64,
    first: Vec<u8>,
    is_one_byte: bool,
    pattern: Option<Pattern>,
    difference: Option<Difference>,
}

impl Sample {
    /// Returns the sample of no bytes, which will be compared with `pattern`.
    pub(super) const fn new(pattern: Option<Pattern>) -> Self {
        Self { length: 0, first: Vec::new(), is_one_byte: true, pattern, difference: None }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if let Some(pattern) = self.pattern
            && self.difference.is_none()
        {
            let pairs = (self.length..).zip(bytes).map(|(offset, got)| (offset, pattern.at(offset), *got));
            let different = pairs.into_iter().find(|(_, expected, got)| expected != got);
            self.difference = different.map(|(offset, expected, got)| Difference { offset, expected, got });
        }
        let room = WHOLE.saturating_sub(self.first.len());
        self.first.extend(bytes.iter().take(room));
        let first = self.first.first().copied();
        self.is_one_byte &= bytes.iter().all(|byte| Some(*byte) == first);
        self.length += bytes.len() as u64;
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Returns the first byte that is not the pattern's.
    pub(super) const fn difference(&self) -> Option<Difference> {
        self.difference
    }
}

/// Shows one repeated byte as `0x5a`, up to 64 bytes whole and the first 16 of more with `…` behind them; `none`
/// stands for no bytes.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first.first() {
            None => f.write_str("none"),
            Some(byte) if self.is_one_byte => write!(f, "{byte:#04x}"),
            Some(_) if self.length <= WHOLE as u64 => hex(f, &self.first),
            Some(_) => {
                hex(f, self.first.get(..SHOWN).unwrap_or(&[]))?;
                f.write_str("…")
            }
        }
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("hex:")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Contents of one page; `None` where there is no frame.
pub(super) struct Page(pub(super) Option<Box<[u8; 4096]>>);

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sample = Sample::new(None);
        if let Some(bytes) = &self.0 {
            sample.push(bytes.as_slice());
        }
        write!(f, "{sample}")
    }
}

/// Contents of pages, with a blank between them.
pub(super) struct Pages(pub(super) Vec<Page>);

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("none") } else { joined(f, &self.0) }
    }
}

#[cfg(test)]
mod test {
    use super::{Difference, Page, Pages, Sample};
    use wirevm_agent::Pattern;

    fn shown(pieces: &[&[u8]]) -> String {
        let mut sample = Sample::new(None);
        pieces.iter().for_each(|piece| sample.push(piece));
        sample.to_string()
    }

    #[test]
    fn sample_shows_one_byte_few_bytes_and_many_bytes() {
        assert_eq!(shown(&[]), "none");
        assert_eq!(shown(&[&[0; 4096], &[0; 4096]]), "0x00");
        assert_eq!(shown(&[&[7; 8], &[8; 2]]), "hex:07070707070707070808");
        assert_eq!(shown(&[&[7; 64], &[8]]), format!("hex:{}…", "07".repeat(16)));
        assert_eq!(shown(&[&[1], &[2; 63]]), format!("hex:01{}", "02".repeat(63)));
    }

    #[test]
    fn sample_finds_the_first_difference_across_pieces() {
        let mut sample = Sample::new(Some(Pattern::new(b"abc").expect("three bytes")));
        sample.push(b"abca");
        sample.push(b"bc");
        assert_eq!(sample.difference(), None);
        sample.push(b"aXX");
        sample.push(b"Y");
        assert_eq!(sample.difference(), Some(Difference { offset: 7, expected: b'b', got: b'X' }));
        assert_eq!(sample.length(), 10);
    }

    #[test]
    fn pages_without_frame_are_none() {
        let page = |byte| Page(Some(Box::new([byte; 4096])));
        assert_eq!(Pages(vec![page(0x5a), Page(None), page(0)]).to_string(), "0x5a none 0x00");
        assert_eq!(Pages(vec![]).to_string(), "none");
    }
}
