//! What the host asks.

use alloc::vec::Vec;

use wirevm_map::Prot;

use crate::codec::{Malformed, Reader, put_bytes};
use crate::pattern::Pattern;

/// Most bytes that one [`Command::Read`] returns.
pub const MAX_READ_BYTES: u64 = 4096;

/// An operation on the guest's task. Addresses and sizes are in bytes; flags carry the numbers of the
/// operation's own flag type, unknown bits included, because how those are answered is the map's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Allocates zero-filled memory: anywhere, or at `address`. Answered by `Address`.
    Allocate {
        /// Where; `None` lets the map choose.
        address: Option<u64>,
        /// How much.
        size: u64,
    },
    /// Gives a range back. Answered by `Done`.
    Deallocate {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// Sets the protection, or the maximum protection. Answered by `Done`.
    Protect {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// Lower the maximum instead of setting the current protection.
        set_maximum: bool,
        /// The protection.
        prot: Prot,
    },
    /// Stores a pattern through the task's mapping, faulting pages in. Answered by `Done`; on failure the part
    /// in front of the failing address is written.
    Write {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// What to store.
        pattern: Pattern,
    },
    /// Compares memory with a pattern through the task's mapping. Answered by `Done` or `Mismatch`.
    Expect {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// What should be there.
        pattern: Pattern,
    },
    /// Reads up to [`MAX_READ_BYTES`] through the task's mapping. Answered by `Bytes`.
    Read {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
    },
    /// `vm_map_wire`. Answered by `Done`.
    Wire {
        /// Start.
        start: u64,
        /// End.
        end: u64,
        /// `WireFlags` bits.
        flags: u64,
    },
    /// `vm_map_unwire`. Answered by `Done`.
    Unwire {
        /// Start.
        start: u64,
        /// End.
        end: u64,
        /// `WireFlags` bits.
        flags: u64,
    },
    /// `vm_msync`. Answered by `Done`.
    Sync {
        /// Start.
        address: u64,
        /// Length.
        size: u64,
        /// `SyncFlags` bits.
        flags: u64,
    },
    /// Lists the entries of a range. Answered by `Layout`.
    Layout {
        /// Start.
        start: u64,
        /// End.
        end: u64,
    },
    /// Lists the frames behind a range. Answered by `Frames`.
    Frames {
        /// Start.
        start: u64,
        /// End.
        end: u64,
    },
    /// Checks every invariant of the VM system. Answered by `Done`, or by `Violation` with the reason.
    Check,
    /// Ends the guest with that exit code. Not answered: the machine stops.
    Exit {
        /// The code.
        code: u8,
    },
    /// Ends the guest the hard way, to see what its host makes of it. Not answered.
    Crash(Crash),
}

/// Ways for a guest to end that no guest wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The kernel panics.
    Panic,
    /// The kernel touches memory that is not there.
    Trap,
    /// The processor gives up.
    TripleFault,
    /// The kernel hangs.
    Hang,
}

impl Crash {
    /// All of them, in the order of their numbers from 0 on.
    pub const ALL: [Self; 4] = [Self::Panic, Self::Trap, Self::TripleFault, Self::Hang];

    /// Returns the way of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|crash| crash.name() == name)
    }

    /// Returns the name that scripts use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Trap => "trap",
            Self::TripleFault => "triplefault",
            Self::Hang => "hang",
        }
    }
}

impl Command {
    /// Appends the command's words.
    pub fn encode(&self, words: &mut Vec<u64>) {
        match *self {
            Self::Allocate { address, size } => {
                words.extend([1, u64::from(address.is_some()), address.unwrap_or(0), size]);
            }
            Self::Deallocate { address, size } => words.extend([2, address, size]),
            Self::Protect { address, size, set_maximum, prot } => {
                words.extend([3, address, size, u64::from(set_maximum), prot.bits()]);
            }
            Self::Write { address, size, pattern } => {
                words.extend([4, address, size]);
                put_bytes(words, pattern.bytes());
            }
            Self::Expect { address, size, pattern } => {
                words.extend([5, address, size]);
                put_bytes(words, pattern.bytes());
            }
            Self::Read { address, size } => words.extend([6, address, size]),
            Self::Wire { start, end, flags } => words.extend([7, start, end, flags]),
            Self::Unwire { start, end, flags } => words.extend([8, start, end, flags]),
            Self::Sync { address, size, flags } => words.extend([9, address, size, flags]),
            Self::Layout { start, end } => words.extend([10, start, end]),
            Self::Frames { start, end } => words.extend([11, start, end]),
            Self::Check => words.push(12),
            Self::Exit { code } => words.extend([13, u64::from(code)]),
            Self::Crash(crash) => words.extend([14, crash as u64]),
        }
    }

    /// Decodes a command from all of `words`.
    ///
    /// # Errors
    /// [`Malformed`] for an unknown number, too few or too many words, or a value out of its range.
    pub fn decode(words: &[u64]) -> Result<Self, Malformed> {
        let mut from = Reader::new(words);
        let command = match from.word()? {
            1 => {
                let [placed, address, size] = from.words()?;
                let address = match placed {
                    0 => None,
                    1 => Some(address),
                    _ => return Err(Malformed),
                };
                Self::Allocate { address, size }
            }
            2 => {
                let [address, size] = from.words()?;
                Self::Deallocate { address, size }
            }
            3 => {
                let [address, size, maximum, prot] = from.words()?;
                let prot = Prot::from_bits(prot).ok_or(Malformed)?;
                Self::Protect { address, size, set_maximum: flag(maximum)?, prot }
            }
            4 => {
                let [address, size] = from.words()?;
                Self::Write { address, size, pattern: from.pattern()? }
            }
            5 => {
                let [address, size] = from.words()?;
                Self::Expect { address, size, pattern: from.pattern()? }
            }
            6 => {
                let [address, size] = from.words()?;
                Self::Read { address, size }
            }
            7 => {
                let [start, end, flags] = from.words()?;
                Self::Wire { start, end, flags }
            }
            8 => {
                let [start, end, flags] = from.words()?;
                Self::Unwire { start, end, flags }
            }
            9 => {
                let [address, size, flags] = from.words()?;
                Self::Sync { address, size, flags }
            }
            10 => {
                let [start, end] = from.words()?;
                Self::Layout { start, end }
            }
            11 => {
                let [start, end] = from.words()?;
                Self::Frames { start, end }
            }
            12 => Self::Check,
            13 => Self::Exit { code: u8::try_from(from.word()?).map_err(|_| Malformed)? },
            14 => {
                let number = usize::try_from(from.word()?).map_err(|_| Malformed)?;
                Self::Crash(*Crash::ALL.get(number).ok_or(Malformed)?)
            }
            _ => return Err(Malformed),
        };
        from.end(command)
    }
}

const fn flag(word: u64) -> Result<bool, Malformed> {
    match word {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod test {
    use super::{Command, Crash};
    use crate::codec::Malformed;
    use crate::pattern::Pattern;
    use alloc::vec::Vec;
    use wirevm_map::Prot;

    fn all() -> [Command; 17] {
        let pattern = Pattern::new(b"nine byte").expect("nine bytes");
        [
            Command::Allocate { address: None, size: 4096 },
            Command::Allocate { address: Some(0x1000), size: u64::MAX },
            Command::Deallocate { address: 1, size: 2 },
            Command::Protect { address: 1, size: 2, set_maximum: false, prot: Prot::READ },
            Command::Protect { address: 1, size: 2, set_maximum: true, prot: Prot::ALL },
            Command::Write { address: 1, size: 2, pattern },
            Command::Expect { address: 1, size: 2, pattern: Pattern::byte(7) },
            Command::Read { address: 1, size: 2 },
            Command::Wire { start: 1, end: 2, flags: u64::MAX },
            Command::Unwire { start: 1, end: 2, flags: 3 },
            Command::Sync { address: 1, size: 2, flags: 3 },
            Command::Layout { start: 1, end: 2 },
            Command::Frames { start: 1, end: 2 },
            Command::Check,
            Command::Exit { code: 255 },
            Command::Crash(Crash::Panic),
            Command::Crash(Crash::Hang),
        ]
    }

    #[test]
    fn every_command_round_trips_and_no_cut_or_longer_one_decodes() {
        for command in all() {
            let mut words = Vec::new();
            command.encode(&mut words);
            assert_eq!(Command::decode(&words), Ok(command));
            for cut in 0..words.len() {
                assert_eq!(Command::decode(&words[..cut]), Err(Malformed), "{command:?} cut at {cut}");
            }
            words.push(0);
            assert_eq!(Command::decode(&words), Err(Malformed), "{command:?} and a word more");
        }
    }

    #[test]
    fn values_out_of_range_are_malformed() {
        assert_eq!(Command::decode(&[0]), Err(Malformed));
        assert_eq!(Command::decode(&[15]), Err(Malformed));
        assert_eq!(Command::decode(&[14, 4]), Err(Malformed));
        assert_eq!(Command::decode(&[1, 2, 0, 0]), Err(Malformed));
        assert_eq!(Command::decode(&[3, 0, 0, 0, 8]), Err(Malformed));
        assert_eq!(Command::decode(&[4, 0, 0, u64::MAX]), Err(Malformed));
        assert_eq!(Command::decode(&[4, 0, 0, 0]), Err(Malformed));
        assert_eq!(Command::decode(&[13, 256]), Err(Malformed));
    }
}
