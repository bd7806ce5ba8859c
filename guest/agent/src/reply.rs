//! What the guest answers.

use alloc::string::String;
use alloc::vec::Vec;

use wirevm_map::{Errno, FrameRun, KernReturn, PageRange};

use crate::codec::{Malformed, Reader, put_bytes};
use crate::program::ProgramEnd;

/// Neighbouring pages with the same count: of an entry's or of a page's wirings, or what `mincore` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutRow {
    /// Virtual pages.
    pub pages: PageRange,
    /// The count.
    pub wired_count: u64,
    /// Whether the user wiring is among them.
    pub user_wired: bool,
}

/// Virtual pages that have adjacent frames, or have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRow {
    /// Virtual pages.
    pub pages: PageRange,
    /// The frames, as many as `pages`, or `None`.
    pub frames: Option<FrameRun>,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The operation's result.
    Done(KernReturn),
    /// The address that was allocated.
    Address(u64),
    /// Memory.
    Bytes(Vec<u8>),
    /// The first byte that differs from what was expected.
    Mismatch {
        /// Its address.
        address: u64,
        /// What the pattern says.
        expected: u8,
        /// What memory holds.
        got: u8,
    },
    /// Entries, in order.
    Layout(Vec<LayoutRow>),
    /// Frames, in order.
    Frames(Vec<FrameRow>),
    /// An invariant of the VM system is broken.
    Violation(String),
    /// The command did not decode, names a task, a thread or an object that is not there, or asks for more than an answer
    /// can hold.
    Malformed,
    /// A thread was started; all threads have run until they ended or could not go on.
    Started,
    /// The operation waits for something that nobody is about to do. It goes on when it can.
    Blocked,
    /// The thread has ended.
    Ended,
    /// A count, or the number of what was made.
    Number(u64),
    /// How a POSIX-shaped operation failed.
    Errno(Errno),
    /// The operation waits, and the host, which has been asked, or a program, which runs, may let it go on.
    /// [`Command::AwaitHost`](crate::Command::AwaitHost) goes on with it.
    Awaits,
    /// Words.
    Text(String),
    /// How a program ended.
    Program(ProgramEnd),
}

impl Reply {
    /// Appends the reply's words.
    pub fn encode(&self, words: &mut Vec<u64>) {
        match self {
            Self::Done(code) => words.extend([1, u64::from(code.code())]),
            Self::Address(address) => words.extend([2, *address]),
            Self::Bytes(bytes) => {
                words.push(3);
                put_bytes(words, bytes);
            }
            Self::Mismatch { address, expected, got } => {
                words.extend([4, *address, u64::from(*expected), u64::from(*got)]);
            }
            Self::Layout(rows) => {
                words.extend([5, rows.len() as u64]);
                for row in rows {
                    words.extend([row.pages.start, row.pages.end, row.wired_count << 1 | u64::from(row.user_wired)]);
                }
            }
            Self::Frames(rows) => {
                words.extend([6, rows.len() as u64]);
                for row in rows {
                    words.extend([row.pages.start, row.pages.end, row.frames.map_or(u64::MAX, |run| run.first)]);
                }
            }
            Self::Violation(text) => {
                words.push(7);
                put_bytes(words, text.as_bytes());
            }
            Self::Malformed => words.push(8),
            Self::Started => words.push(9),
            Self::Blocked => words.push(10),
            Self::Ended => words.push(11),
            Self::Number(number) => words.extend([12, *number]),
            Self::Errno(errno) => words.extend([13, u64::from(errno.code())]),
            Self::Awaits => words.push(14),
            Self::Text(text) => {
                words.push(15);
                put_bytes(words, text.as_bytes());
            }
            Self::Program(ProgramEnd::Exited(code)) => words.extend([16, 0, u64::from(*code)]),
            Self::Program(ProgramEnd::Faulted(text)) => {
                words.extend([16, 1]);
                put_bytes(words, text.as_bytes());
            }
            Self::Program(ProgramEnd::Killed) => words.extend([16, 2]),
        }
    }

    /// Decodes a reply from all of `words`.
    ///
    /// # Errors
    /// [`Malformed`] for an unknown number, too few or too many words, or a value out of its range.
    pub fn decode(words: &[u64]) -> Result<Self, Malformed> {
        let mut from = Reader::new(words);
        let reply = match from.word()? {
            1 => {
                let code = u32::try_from(from.word()?).ok().and_then(KernReturn::from_code);
                Self::Done(code.ok_or(Malformed)?)
            }
            2 => Self::Address(from.word()?),
            3 => Self::Bytes(from.bytes()?),
            4 => {
                let [address, expected, got] = from.words()?;
                Self::Mismatch { address, expected: byte(expected)?, got: byte(got)? }
            }
            5 => Self::Layout(rows(&mut from, |pages, word| {
                Some(LayoutRow { pages, wired_count: word >> 1, user_wired: word & 1 == 1 })
            })?),
            6 => Self::Frames(rows(&mut from, |pages, first| {
                let run = FrameRun::new(first, pages.len());
                let none = first == u64::MAX;
                (none || first.checked_add(pages.len()).is_some())
                    .then_some(FrameRow { pages, frames: (!none).then_some(run) })
            })?),
            7 => Self::Violation(String::from_utf8(from.bytes()?).map_err(|_| Malformed)?),
            8 => Self::Malformed,
            9 => Self::Started,
            10 => Self::Blocked,
            11 => Self::Ended,
            12 => Self::Number(from.word()?),
            13 => {
                let errno = u32::try_from(from.word()?).ok().and_then(Errno::from_code);
                Self::Errno(errno.ok_or(Malformed)?)
            }
            14 => Self::Awaits,
            15 => Self::Text(String::from_utf8(from.bytes()?).map_err(|_| Malformed)?),
            16 => Self::Program(match from.word()? {
                0 => ProgramEnd::Exited(byte(from.word()?)?),
                1 => ProgramEnd::Faulted(String::from_utf8(from.bytes()?).map_err(|_| Malformed)?),
                2 => ProgramEnd::Killed,
                _ => return Err(Malformed),
            }),
            _ => return Err(Malformed),
        };
        from.end(reply)
    }
}

fn byte(word: u64) -> Result<u8, Malformed> {
    u8::try_from(word).map_err(|_| Malformed)
}

/// Reads a count and that many rows of three words; page ranges must be ascending.
fn rows<T>(from: &mut Reader<'_>, row: impl Fn(PageRange, u64) -> Option<T>) -> Result<Vec<T>, Malformed> {
    let count = from.word()?;
    let mut rows = Vec::new();
    let mut last_end = 0;
    for _ in 0..count {
        let [start, end, word] = from.words()?;
        if start < last_end || end <= start {
            return Err(Malformed);
        }
        last_end = end;
        rows.push(row(PageRange::new(start, end), word).ok_or(Malformed)?);
    }
    Ok(rows)
}

#[cfg(test)]
mod test {
    use super::{FrameRow, LayoutRow, Reply};
    use crate::codec::Malformed;
    use crate::program::ProgramEnd;
    use alloc::vec;
    use alloc::vec::Vec;
    use wirevm_map::{Errno, FrameRun, KernReturn, PageRange};

    #[test]
    fn every_reply_round_trips_and_no_cut_or_longer_one_decodes() {
        let pages = PageRange::new(5, 9);
        let replies = [
            Reply::Done(KernReturn::OutOfBounds),
            Reply::Address(0x7000),
            Reply::Bytes(vec![1, 2, 3, 4, 5, 6, 7, 8, 9]),
            Reply::Mismatch { address: 3, expected: 4, got: 5 },
            Reply::Layout(vec![
                LayoutRow { pages, wired_count: 3, user_wired: true },
                LayoutRow { pages: PageRange::new(9, 10), wired_count: 0, user_wired: false },
            ]),
            Reply::Frames(vec![
                FrameRow { pages, frames: Some(FrameRun::new(77, 4)) },
                FrameRow { pages: PageRange::new(9, 10), frames: None },
            ]),
            Reply::Violation("N1 is broken".into()),
            Reply::Malformed,
            Reply::Started,
            Reply::Blocked,
            Reply::Ended,
            Reply::Number(u64::MAX),
            Reply::Errno(Errno::NoMem),
            Reply::Awaits,
            Reply::Text("init terminate".into()),
            Reply::Program(ProgramEnd::Exited(255)),
            Reply::Program(ProgramEnd::Faulted("write to 0x8".into())),
            Reply::Program(ProgramEnd::Killed),
        ];
        for reply in replies {
            let mut words = Vec::new();
            reply.encode(&mut words);
            assert_eq!(Reply::decode(&words), Ok(reply.clone()));
            for cut in 0..words.len() {
                assert_eq!(Reply::decode(&words[..cut]), Err(Malformed), "{reply:?} cut at {cut}");
            }
            words.push(0);
            assert_eq!(Reply::decode(&words), Err(Malformed), "{reply:?} and a word more");
        }
    }

    #[test]
    fn lies_about_counts_ranges_and_codes_are_malformed() {
        assert_eq!(Reply::decode(&[1, 8]), Err(Malformed));
        assert_eq!(Reply::decode(&[1, 1 << 32]), Err(Malformed));
        assert_eq!(Reply::decode(&[3, u64::MAX]), Err(Malformed));
        assert_eq!(Reply::decode(&[4, 0, 256, 0]), Err(Malformed));
        assert_eq!(Reply::decode(&[5, u64::MAX]), Err(Malformed));
        assert_eq!(Reply::decode(&[5, 1, 2, 2, 0]), Err(Malformed));
        assert_eq!(Reply::decode(&[5, 2, 2, 4, 0, 3, 5, 0]), Err(Malformed));
        assert_eq!(Reply::decode(&[6, 1, 0, 2, u64::MAX - 1]), Err(Malformed));
        assert_eq!(Reply::decode(&[7, 1, 0xff]), Err(Malformed));
        assert_eq!(Reply::decode(&[13, 2]), Err(Malformed));
        assert_eq!(Reply::decode(&[13, 1 << 32]), Err(Malformed));
        assert_eq!(Reply::decode(&[15, 1, 0xff]), Err(Malformed));
        assert_eq!(Reply::decode(&[16, 0, 256]), Err(Malformed));
        assert_eq!(Reply::decode(&[16, 1, 1, 0xff]), Err(Malformed));
        assert_eq!(Reply::decode(&[16, 3]), Err(Malformed));
        assert_eq!(Reply::decode(&[17]), Err(Malformed));
    }
}
