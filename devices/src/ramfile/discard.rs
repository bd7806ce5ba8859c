//! Giving pages of RAM back to the host.

use std::fs::File;
use std::io;

use wirevm_abi::{PAGE_SIZE, RamRange};

use super::{RamFile, RamFileError};
use crate::sys;

/// Gives the content of pages of an anonymous RAM back to the host.
#[derive(Debug)]
pub struct RamDiscard {
    file: File,
}

impl RamFile {
    /// Returns what gives pages of this RAM back; none where RAM is in a file, whose blocks were allocated so that no store
    /// of the guest can meet a full disk.
    ///
    /// # Errors
    /// [`RamFileError`] when the RAM can't be opened again.
    pub fn discard(&self) -> Result<Option<RamDiscard>, RamFileError> {
        if self.is_file() {
            return Ok(None);
        }
        Ok(Some(RamDiscard { file: self.reopen()? }))
    }
}

impl RamDiscard {
    /// Gives pages back: they are zero from now on, and take no memory until they are touched.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Partial effects
    /// On error any of the pages may be zero.
    pub fn discard(&self, range: RamRange) -> io::Result<()> {
        // An anonymous RAM has no header in front of it.
        sys::punch_hole(&self.file, range.first() * PAGE_SIZE, range.pages() * PAGE_SIZE)
    }
}
