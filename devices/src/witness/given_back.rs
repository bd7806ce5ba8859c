//! Memory that a program needs to start and not to go on.

use std::ops::ControlFlow;

use super::WitnessError;
use super::smaps::{Mapping, Smaps};
use crate::sys;

/// A mapping that holds what is in its file and nothing else: private, not writable, and nothing was ever stored to it. It stays so as
/// long as this program neither unmaps it nor makes it writable, and it does neither with its own files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UntouchedFile {
    address: usize,
    bytes: usize,
}

impl UntouchedFile {
    /// Returns the mapping if it is such a one.
    fn of(mapping: &Mapping) -> Option<Self> {
        let is_private_file = mapping.inode != 0 && !mapping.is_shared && !mapping.is_locked;
        let is_untouched = is_private_file && !mapping.is_writable && mapping.stored_bytes == 0;
        is_untouched.then(|| Self { address: mapping.start, bytes: mapping.end - mapping.start })
    }

    /// Returns the first address.
    pub(crate) const fn address(self) -> usize {
        self.address
    }

    /// Returns the number of bytes.
    pub(crate) const fn bytes(self) -> usize {
        self.bytes
    }
}

/// Gives the memory of this program's own files back: its code and constants, and those of its libraries. What is needed again comes
/// back out of the kernel's cache, some pages in a microsecond. Whoever has read a command line, or has copied an image that is part of
/// the program, needs most of it no more. Returns how many bytes were resident in what was given back.
///
/// It is for programs that unload no libraries meanwhile. A mapping that something was stored to, as debuggers do, is left as it is.
///
/// # Errors
/// [`WitnessError::Kernel`] when the mappings cannot be listed or the kernel refuses. Nothing is lost then.
pub fn give_program_back() -> Result<u64, WitnessError> {
    let mut own = Vec::new();
    let mut bytes = 0;
    Smaps::of_this_process()?.each(|mapping| {
        if let Some(file) = UntouchedFile::of(&mapping) {
            bytes += mapping.resident_bytes;
            own.push(file);
        }
        ControlFlow::Continue(())
    })?;
    for file in own {
        sys::drop_pages(file).map_err(|source| WitnessError::Kernel { what: "how to give pages back", source })?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod test {
    use super::super::smaps::Mapping;
    use super::{UntouchedFile, give_program_back};

    /// More than what the test harness needs at any time.
    static CONSTANTS: [u8; 4 << 20] = {
        let mut bytes = [7; 4 << 20];
        bytes[1] = 1;
        bytes
    };

    fn sum() -> u64 {
        CONSTANTS.iter().map(|byte| u64::from(std::hint::black_box(*byte))).sum()
    }

    #[test]
    fn constants_are_given_back_and_are_the_same_again() {
        let before = sum();
        let given = give_program_back().expect("/proc");
        assert!(given >= 4 << 20, "{given} bytes");
        let again = give_program_back().expect("/proc");
        assert!(again < given - (3 << 20), "{given} bytes, then {again}");
        assert_eq!(sum(), before);
    }

    #[test]
    fn mapping_that_could_hold_anything_else_is_left_alone() {
        let code = Mapping { start: 4096, end: 12288, inode: 5, resident_bytes: 8192, ..Mapping::default() };
        assert_eq!(UntouchedFile::of(&code), Some(UntouchedFile { address: 4096, bytes: 8192 }));
        for other in [
            Mapping { inode: 0, ..code },
            Mapping { is_shared: true, ..code },
            Mapping { is_writable: true, ..code },
            Mapping { stored_bytes: 4096, ..code },
            Mapping { is_locked: true, ..code },
        ] {
            assert_eq!(UntouchedFile::of(&other), None, "{other:?}");
        }
    }
}
