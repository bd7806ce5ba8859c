//! Calls for a view that is locked as a whole: only what is faulted in is held, page by page.

use std::ffi::{c_int, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::{advise, check, pointer};
use crate::view::AddressRange;

/// Ranges that one call takes: `UIO_MAXIOV`.
pub(crate) const RANGES_PER_CALL: usize = 1024;

const MADV_DONTNEED_LOCKED: c_int = 24;
const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: c_int = 1;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_API: c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: c_ulong = 0xc020_aa00;
const UFFDIO_UNREGISTER: c_ulong = 0x8010_aa01;

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRange {
    start: u64,
    length: u64,
}

#[repr(C)]
struct UffdioRegister {
    range: UffdioRange,
    mode: u64,
    ioctls: u64,
}

impl From<AddressRange> for UffdioRange {
    fn from(range: AddressRange) -> Self {
        // Addresses and lengths of this process fit into 64 bits.
        Self { start: range.address() as u64, length: range.bytes() as u64 }
    }
}

/// Locks whatever of the range is or will be faulted in, without faulting anything in. The limit on locked memory is charged
/// with the whole range.
pub(crate) fn mlock_on_fault(range: AddressRange) -> io::Result<()> {
    // SAFETY: locking changes neither contents nor mappings; the kernel checks the range.
    check(unsafe { libc::mlock2(pointer(range), range.bytes(), libc::MLOCK_ONFAULT) })
}

/// Takes the range's pages out of this process's page tables, locked or not. They stay in the file, which has their contents:
/// the range is one of a shared mapping, as every [`AddressRange`] is.
pub(crate) fn drop_locked(range: AddressRange) -> io::Result<()> {
    advise(range, MADV_DONTNEED_LOCKED)
}

/// Keeps the kernel from mapping pages of the range 2 MiB at a time (Linux 6.12; others map some in spite of it). Fine where the
/// kernel knows no such pages.
pub(crate) fn advise_no_huge_pages(range: AddressRange) -> io::Result<()> {
    match advise(range, libc::MADV_NOHUGEPAGE) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result,
    }
}

/// Advice for many ranges of this process with one call (Linux 6.13).
#[derive(Debug)]
pub(crate) struct AdviseMany {
    /// This process.
    process: OwnedFd,
}

impl AdviseMany {
    /// Asks the kernel whether it takes lists.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the arguments are integers.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
        let many = Self { process: owned(descriptor)? };
        many.advise(&[], libc::MADV_POPULATE_READ)?;
        Ok(many)
    }

    /// Faults ranges in for reading, in order; returns how many bytes of them it has before one failed.
    pub(crate) fn populate_read(&self, ranges: &[AddressRange]) -> io::Result<usize> {
        self.advise(ranges, libc::MADV_POPULATE_READ)
    }

    /// Does [`drop_locked`] for ranges, in order; returns how many bytes of them it has before one failed.
    pub(crate) fn drop_locked(&self, ranges: &[AddressRange]) -> io::Result<usize> {
        self.advise(ranges, MADV_DONTNEED_LOCKED)
    }

    fn advise(&self, ranges: &[AddressRange], advice: c_int) -> io::Result<usize> {
        let vector = |range: &AddressRange| libc::iovec { iov_base: pointer(*range), iov_len: range.bytes() };
        let vectors: Vec<_> = ranges.iter().map(vector).collect();
        // SAFETY: the descriptor is open and the vectors live for the call; the advice is one of the two above, which leave
        // contents as they are, and mappings too but for what can be faulted in again.
        let result = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                self.process.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len(),
                advice,
                0,
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }
}

/// Has the kernel fault in a range page by page (Linux 6.7): it maps nothing around a page that is asked for.
///
/// That is what it does for ranges whose stores somebody wants to hear of. Nobody does: nothing is ever write-protected.
#[derive(Debug)]
pub(crate) struct ExactFaults(File);

impl ExactFaults {
    /// Asks the kernel for it.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the arguments are integers.
        let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY) };
        let faults = Self(owned(descriptor)?.into());
        let mut api = UffdioApi { api: UFFD_API, features: UFFD_FEATURE_WP_ASYNC, ioctls: 0 };
        // SAFETY: the kernel reads and writes the local, which has its layout.
        check(unsafe { libc::ioctl(faults.0.as_raw_fd(), UFFDIO_API, ptr::from_mut(&mut api)) })?;
        Ok(faults)
    }

    /// Begins with a range of a shared mapping of a file that is open for writing.
    pub(crate) fn begin(&self, range: AddressRange) -> io::Result<()> {
        let mut register = UffdioRegister { range: range.into(), mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: the kernel reads and writes the local, which has its layout. The asynchronous mode that was asked for resolves
        // every fault in the kernel, so no thread ever waits for somebody to read the descriptor.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, ptr::from_mut(&mut register)) })
    }

    /// Ends with a range. Its faults map what lies around them again, but nothing outside of it.
    pub(crate) fn end(&self, range: AddressRange) -> io::Result<()> {
        let mut range = UffdioRange::from(range);
        // SAFETY: the kernel reads the local, which has its layout.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_UNREGISTER, ptr::from_mut(&mut range)) })
    }
}

/// Takes a descriptor that a system call has just made.
fn owned(result: i64) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = c_int::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made the descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
