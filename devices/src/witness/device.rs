//! The block device under a file, as `/sys` tells of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use wirevm_abi::PAGE_SIZE;

use super::WitnessError;

/// Bytes of a sector as `/sys` counts them, whatever the device's own are.
const SECTOR_BYTES: u64 = 512;

/// What a block device has done since it appeared. It counts what anybody has it do, so a difference is about one file only while
/// nothing else writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Write requests, after the kernel merged adjacent ones.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes of the device's cache; none before Linux 5.5. A device without a cache of its own may be sent none.
    pub flushes: Option<u64>,
}

impl DeviceCounts {
    /// Returns what was done since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            writes: self.writes.saturating_sub(earlier.writes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            flushes: self.flushes.zip(earlier.flushes).map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

/// The block device under a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its folder in `/sys`.
    folder: PathBuf,
}

impl BlockDevice {
    /// Finds the block device under a file; none where the file's file system is not on one device that `/sys` knows: tmpfs, btrfs, a
    /// network.
    ///
    /// Looking at the file has a price: the kernel gives its next change a time of its own, and the next sync writes that as well. So find
    /// the device once, before there is something to count.
    ///
    /// # Errors
    /// [`WitnessError::Kernel`].
    pub fn under(file: &File) -> Result<Option<Self>, WitnessError> {
        let failed = |source| WitnessError::Kernel { what: "which device a file is on", source };
        let device = file.metadata().map_err(failed)?.dev();
        let number = format!("{}:{}", libc::major(device), libc::minor(device));
        let folder: PathBuf = ["/sys/dev/block", &number].iter().collect();
        Ok(folder.try_exists().map_err(failed)?.then_some(Self { folder }))
    }

    /// Returns what the device has done. Costs one read of `/sys` and writes nothing.
    ///
    /// # Errors
    /// [`WitnessError::Kernel`].
    pub fn counts(&self) -> Result<DeviceCounts, WitnessError> {
        let failed = |source| WitnessError::Kernel { what: "what a block device has done", source };
        let text = fs::read_to_string(self.folder.join("stat")).map_err(failed)?;
        parse(&text).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }

    /// Returns how many pages the kernel reads ahead at most; none where it doesn't tell.
    pub(crate) fn read_ahead_pages(&self) -> Option<u64> {
        // A partition has no queue of its own: its disk has.
        let read = |name: &&str| fs::read_to_string(self.folder.join(name)).ok();
        let text = ["queue/read_ahead_kb", "../queue/read_ahead_kb"].iter().find_map(read)?;
        Some(text.trim().parse::<u64>().ok()?.saturating_mul(1024) / PAGE_SIZE)
    }
}

/// Reads `stat`: writes are field 5, sectors written field 7, flushes field 16.
fn parse(text: &str) -> Option<DeviceCounts> {
    let fields: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(DeviceCounts {
        writes: *fields.get(4)?,
        written_bytes: fields.get(6)?.checked_mul(SECTOR_BYTES)?,
        flushes: fields.get(15).copied(),
    })
}

#[cfg(test)]
mod test {
    use super::{DeviceCounts, parse};

    #[test]
    fn counts_are_read_with_and_without_flushes() {
        let old = "7 1 56 3 11 2 88 9 0 4 12 1 0 0 0";
        let without = DeviceCounts { writes: 11, written_bytes: 88 * 512, flushes: None };
        assert_eq!(parse(old), Some(without));
        let with = DeviceCounts { flushes: Some(5), ..without };
        assert_eq!(parse(&format!("{old} 5 6\n")), Some(with));
        for text in ["", "1 2 3", "a 1 56 3 11 2 88 9", "7 1 56 3 11 2 36028797018963968"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let later = DeviceCounts { writes: 12, written_bytes: 88 * 512 + 4096, flushes: Some(6) };
        assert_eq!(later.since(with), DeviceCounts { writes: 1, written_bytes: 4096, flushes: Some(1) });
        assert_eq!(later.since(without).flushes, None);
    }
}
