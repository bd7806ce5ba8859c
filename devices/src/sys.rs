//! The system calls of this crate that neither std nor a library offers in a safe form.
//!
//! Every function here is safe to call. Those that take an [`AddressRange`] ask for pages to be locked, read
//! in, let go of, written out or counted; none changes what an address holds or whether it is mapped, so a wrong range
//! can only give an error. The one that drops pages takes a type that says that they are in a file.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]
// UNSAFETY: libc calls; each passes descriptors borrowed for the call, integers, and pointers to live locals.

mod locking;

use std::ffi::{CStr, CString, c_int, c_long, c_uint, c_void};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr;

pub(crate) use self::locking::{
    AdviseMany, ExactFaults, RANGES_PER_CALL, advise_no_huge_pages, drop_locked, mlock_on_fault,
};
use crate::view::AddressRange;
use crate::witness::UntouchedFile;

/// Extent that another file shares (reflink, snapshot).
pub(crate) const EXTENT_SHARED: u32 = 0x2000;
/// Extent that is allocated and was never written.
pub(crate) const EXTENT_UNWRITTEN: u32 = 0x800;
/// Last extent of the file.
pub(crate) const EXTENT_LAST: u32 = 0x1;

const EXTENTS_PER_CALL: usize = 32;
const FS_IOC_FIEMAP: c_uint = 0xc020_660b;
const FIEMAP_FLAG_SYNC: u32 = 0x1;
const FS_NOCOW_FL: c_int = 0x0080_0000;
const SYS_CACHESTAT: c_long = 451;

/// What `fstatfs` says about a file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileSystemStat {
    /// Magic number of the file system's type.
    pub(crate) magic: u64,
    /// Bytes that an unprivileged process may still allocate.
    pub(crate) free_bytes: u64,
}

/// One extent of a file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    /// First byte in the file.
    pub(crate) logical: u64,
    physical: u64,
    /// Length in bytes.
    pub(crate) length: u64,
    reserved64: [u64; 2],
    /// `EXTENT_…` flags.
    pub(crate) flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS_PER_CALL],
}

#[repr(C)]
struct CachestatRange {
    off: u64,
    len: u64,
}

/// State of a file range in the page cache, in pages (`struct cachestat`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cachestat {
    /// Pages in the cache.
    pub(crate) cache: u64,
    /// Dirty pages.
    pub(crate) dirty: u64,
    /// Pages being written back.
    pub(crate) writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn pointer(range: AddressRange) -> *mut c_void {
    ptr::with_exposed_provenance_mut(range.address())
}

/// Allocates blocks for the first `bytes` bytes of the file and sets its size.
pub(crate) fn fallocate(file: &File, bytes: u64) -> io::Result<()> {
    fallocate_range(file, 0, 0, bytes)
}

/// Allocates blocks for a file range, and makes the file as long as it needs.
pub(crate) fn allocate_range(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    fallocate_range(file, 0, offset, bytes)
}

/// Gives the blocks of a file range back; it reads as zeros then. The file keeps its size.
pub(crate) fn punch_hole(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    fallocate_range(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, bytes)
}

fn fallocate_range(file: &File, mode: c_int, offset: u64, bytes: u64) -> io::Result<()> {
    let (offset, bytes) = (signed(offset)?, signed(bytes)?);
    // SAFETY: the descriptor is open for the call; the other arguments are integers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, bytes) })
}

/// Asks the kernel to drop the file's clean pages from its cache.
pub(crate) fn drop_clean_cache(file: &File) -> io::Result<()> {
    advise_file(file, 0, 0, libc::POSIX_FADV_DONTNEED)
}

/// Starts reading a file range into the cache, in single pages and large requests.
pub(crate) fn start_reading(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    advise_file(file, offset, bytes, libc::POSIX_FADV_WILLNEED)
}

/// Tells the kernel not to read ahead of reads through this description: what they bring in are single pages.
pub(crate) fn advise_file_random(file: &File) -> io::Result<()> {
    advise_file(file, 0, 0, libc::POSIX_FADV_RANDOM)
}

fn advise_file(file: &File, offset: u64, bytes: u64, advice: c_int) -> io::Result<()> {
    let (offset, bytes) = (signed(offset)?, signed(bytes)?);
    // SAFETY: the descriptor is open for the call; the other arguments are integers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, bytes, advice) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Renames a file; fails with `EEXIST` when the new name is taken.
pub(crate) fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // SAFETY: both strings end in NUL and live until the call is over.
    check(unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_NOREPLACE)
    })
}

/// Tells type and free space of the file system that holds an open file or folder.
pub(crate) fn file_system_stat(file: &File) -> io::Result<FileSystemStat> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open for the call and the pointer is to a local of the right type.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: every bit pattern, zero included, is a valid statfs, which holds integers only.
    let stat = unsafe { stat.assume_init() };
    let fragment = if stat.f_frsize > 0 { stat.f_frsize } else { stat.f_bsize };
    Ok(FileSystemStat {
        magic: stat.f_type.cast_unsigned(),
        free_bytes: stat.f_bavail.saturating_mul(fragment.cast_unsigned()),
    })
}

/// Reads the file's extents from byte `start` on, after writing out what is still delayed.
pub(crate) fn extents(file: &File, start: u64) -> io::Result<Vec<Extent>> {
    let mut map = Fiemap {
        start,
        length: u64::MAX,
        flags: FIEMAP_FLAG_SYNC,
        extent_count: c_uint::try_from(EXTENTS_PER_CALL).unwrap_or(0),
        ..Fiemap::default()
    };
    // SAFETY: the kernel writes the header and at most `extent_count` extents, for which the local has room.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP.into(), ptr::from_mut(&mut map)) })?;
    let mapped = usize::try_from(map.mapped_extents).unwrap_or(EXTENTS_PER_CALL);
    Ok(map.extents.into_iter().take(mapped).collect())
}

/// Tells whether the file is marked "no copy on write".
pub(crate) fn is_nocow(file: &File) -> io::Result<bool> {
    Ok(inode_flags(file)? & FS_NOCOW_FL != 0)
}

/// Marks an empty file "no copy on write".
pub(crate) fn set_nocow(file: &File) -> io::Result<()> {
    let mut flags = inode_flags(file)? | FS_NOCOW_FL;
    // SAFETY: the kernel reads one int from the local.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, ptr::from_mut(&mut flags)) })
}

fn inode_flags(file: &File) -> io::Result<c_int> {
    let mut flags: c_int = 0;
    // SAFETY: the kernel writes one int to the local.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, ptr::from_mut(&mut flags)) })?;
    Ok(flags)
}

/// Takes a write lock on the whole file for its open file description; false when another holds one.
pub(crate) fn try_lock_whole(file: &File) -> io::Result<bool> {
    try_lock(file, libc::F_WRLCK)
}

/// Takes a read lock on the whole file for its open file description; false when another holds a write lock.
pub(crate) fn try_share_whole(file: &File) -> io::Result<bool> {
    try_lock(file, libc::F_RDLCK)
}

fn try_lock(file: &File, kind: c_int) -> io::Result<bool> {
    let lock = libc::flock {
        l_type: kind.try_into().unwrap_or_default(),
        l_whence: libc::SEEK_SET.try_into().unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the kernel reads the local; `l_pid` is 0 as OFD locks demand.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, ptr::from_ref(&lock)) }) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a new description of the same file for reading and writing, whatever became of its name.
pub(crate) fn reopen(file: &File) -> io::Result<File> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(link)
}

/// Tells whether the description is open for reading and writing.
pub(crate) fn is_read_write(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open for the call; F_GETFL takes no argument.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    check(flags)?;
    Ok(flags & libc::O_ACCMODE == libc::O_RDWR)
}

/// Makes an anonymous memory file of `bytes` bytes whose size can never change.
pub(crate) fn sealed_memfd(name: &CStr, bytes: u64) -> io::Result<File> {
    // SAFETY: the name ends in NUL and lives until the call is over.
    let descriptor = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC) };
    check(descriptor)?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    let file = unsafe { File::from_raw_fd(descriptor) };
    file.set_len(bytes)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the descriptor is open for the call; the other arguments are integers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file)
}

fn advise(range: AddressRange, advice: c_int) -> io::Result<()> {
    // SAFETY: the callers give only advice that leaves contents as they are, and mappings but for what is faulted in again.
    check(unsafe { libc::madvise(pointer(range), range.bytes(), advice) })
}

/// Tells the kernel not to read around faults in the range.
pub(crate) fn advise_random(range: AddressRange) -> io::Result<()> {
    advise(range, libc::MADV_RANDOM)
}

/// Keeps the range out of core dumps.
pub(crate) fn advise_no_dump(range: AddressRange) -> io::Result<()> {
    advise(range, libc::MADV_DONTDUMP)
}

/// Faults the range in for reading; a page that cannot be had is an error, not a signal.
pub(crate) fn populate_read(range: AddressRange) -> io::Result<()> {
    populate(range, libc::MADV_POPULATE_READ)
}

/// Faults the range in for writing, which dirties every page of a shared mapping and stores nothing: whoever stores to the
/// pages meanwhile loses nothing. A page that cannot be had is an error, not a signal. The mapping must be writable.
pub(crate) fn populate_write(range: AddressRange) -> io::Result<()> {
    populate(range, libc::MADV_POPULATE_WRITE)
}

fn populate(range: AddressRange, advice: c_int) -> io::Result<()> {
    loop {
        match advise(range, advice) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Gives the pages of a mapping back that holds what is in its file: they come from there again when they are touched.
pub(crate) fn drop_pages(file: UntouchedFile) -> io::Result<()> {
    let address = ptr::with_exposed_provenance_mut(file.address());
    // SAFETY: the mapping is private and holds nothing but what its file does, says the type, so every address holds the same
    // behind this.
    check(unsafe { libc::madvise(address, file.bytes(), libc::MADV_DONTNEED) })
}

/// Locks the range in memory.
pub(crate) fn mlock(range: AddressRange) -> io::Result<()> {
    // SAFETY: locking changes neither contents nor mappings; the kernel checks the range.
    check(unsafe { libc::mlock(pointer(range), range.bytes()) })
}

/// Unlocks the range.
pub(crate) fn munlock(range: AddressRange) -> io::Result<()> {
    // SAFETY: unlocking changes neither contents nor mappings; the kernel checks the range.
    check(unsafe { libc::munlock(pointer(range), range.bytes()) })
}

/// Writes the range's dirty pages to storage and waits until they are stable.
pub(crate) fn msync(range: AddressRange) -> io::Result<()> {
    // SAFETY: writing out changes neither contents nor mappings; the kernel checks the range.
    check(unsafe { libc::msync(pointer(range), range.bytes(), libc::MS_SYNC) })
}

/// Starts writing a file range out, without waiting and without making it stable.
pub(crate) fn start_writeback(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    sync_file_range(file, offset, bytes, libc::SYNC_FILE_RANGE_WRITE)
}

/// Writes a file range's dirty pages out, those too that were dirtied again while they were being written, and waits for
/// them, without making them stable. Reports any error of the whole file that this description has not reported yet.
pub(crate) fn finish_writeback(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    // With all three flags, and only then, the kernel skips no page that is busy (WB_SYNC_ALL).
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_file_range(file, offset, bytes, all)
}

/// Waits for writeback under way in a file range and reports any error of the whole file that this
/// description has not reported yet.
pub(crate) fn poll_writeback_error(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    sync_file_range(file, offset, bytes, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

fn sync_file_range(file: &File, offset: u64, bytes: u64, flags: c_uint) -> io::Result<()> {
    let (offset, bytes) = (signed(offset)?, signed(bytes)?);
    // SAFETY: the descriptor is open for the call; the other arguments are integers.
    check(unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, flags) })
}

/// Keeps the calling thread, when it wakes, from taking a processor from a thread that runs. It still gets an idle one at once
/// and its share of a busy one.
pub(crate) fn wake_without_preempting() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the local; 0 is the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, ptr::from_ref(&parameter)) })
}

/// Tells for each page of the range whether it is in memory (bit 0).
pub(crate) fn mincore(range: AddressRange) -> io::Result<Vec<u8>> {
    let mut pages = vec![0_u8; range.pages()];
    // SAFETY: the kernel writes one byte a page of the range, for which the vector has room.
    check(unsafe { libc::mincore(pointer(range), range.bytes(), pages.as_mut_ptr()) })?;
    Ok(pages)
}

/// Counts the pages of a file range in the page cache by state (Linux 6.5).
pub(crate) fn cachestat(file: &File, offset: u64, bytes: u64) -> io::Result<Cachestat> {
    let range = CachestatRange { off: offset, len: bytes };
    let mut stat = Cachestat::default();
    // SAFETY: the kernel reads the range and writes the counts; both are locals with the kernel's layout.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), ptr::from_ref(&range), ptr::from_mut(&mut stat), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(stat) }
}
