//! A store's file as Linux would serve it, over a disk that fails when told to: what is in the cache, what on the disk, and which
//! description was told of which error.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wirevm_abi::{PAGE_SIZE, StoreName};

use super::error::OpenStoreError;
use super::file::{OpenedStore, StoreFile, StoreFolder};

/// Longest wait, so that a test that fails also ends.
const LIMIT: Duration = Duration::from_secs(20);

/// A call to storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Read,
    Write,
    Punch,
    Start,
    Sync,
}

/// A mistake that a file can make, for controls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mistake {
    #[default]
    None,
    /// Calls storage again when it fails, and believes the second answer.
    BelievesTheSecondSync,
    /// Every description is the same one.
    SharesTheDescription,
    /// A look at the file's health sees nothing.
    IsBlind,
}

type Hook = Box<dyn FnOnce() + Send>;

/// The cache and the disk.
#[derive(Default)]
pub(crate) struct Disk {
    /// A page is its first byte: all tests fill pages evenly.
    disk: Vec<u8>,
    /// What the cache has instead.
    cache: BTreeMap<u64, u8>,
    dirty: BTreeSet<u64>,
    /// Errors so far, and whether somebody was told of the last.
    errors: u64,
    is_seen: bool,
    /// Pages whose writing out fails, once.
    pub(crate) bad: BTreeSet<u64>,
    /// Calls of a kind to grant before one fails, and its errno.
    pub(crate) fail: Option<(Call, usize, i32)>,
    /// Bytes that a write has room for, once.
    pub(crate) room: Option<usize>,
    /// Bytes of the file that are left; all where none.
    pub(crate) cut: Option<u64>,
    /// While set, calls of that kind wait after they were recorded.
    pub(crate) held: Option<Call>,
    /// All calls but looks and reads of the length, with their pages.
    pub(crate) calls: Vec<(Call, Range<u64>)>,
    /// Run once by a call that tells of an error, after its description was told.
    pub(crate) before_error_returns: Option<Hook>,
    /// Run once by a sync after it has looked whether something has failed.
    pub(crate) before_sync_returns: Option<Hook>,
    /// Run once by a sync before the kernel looks whether something has failed.
    pub(crate) before_sync_looks: Option<Hook>,
    /// Descriptions that can still be opened; any number where none.
    pub(crate) descriptions: Option<usize>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("calls", &self.calls).finish_non_exhaustive()
    }
}

/// The disk as tests reach it; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScriptedDisk(Arc<(Mutex<Disk>, Condvar)>);

/// A description.
#[derive(Debug)]
pub(crate) struct ScriptedFile {
    disk: ScriptedDisk,
    cursor: Arc<AtomicU64>,
    mistake: Mistake,
}

impl Disk {
    fn write_out(&mut self, page: u64) {
        if !self.dirty.remove(&page) {
            return;
        }
        if self.bad.remove(&page) {
            // Clean, and told once: as if it were on the disk.
            self.errors += 1;
            self.is_seen = false;
        } else if let Some(byte) = self.cache.get(&page) {
            self.disk[usize::try_from(page).expect("small")] = *byte;
        }
    }
}

impl ScriptedDisk {
    /// A disk of zeros.
    pub(crate) fn new(pages: usize) -> Self {
        let disk = Self::default();
        disk.with(|disk| (disk.disk, disk.is_seen) = (vec![0; pages], true));
        disk
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        let result = look(&mut self.lock());
        self.0.1.notify_all();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait_until(&self, reached: impl Fn(&Disk) -> bool) {
        let waited = self.0.1.wait_timeout_while(self.lock(), LIMIT, |disk| !reached(disk));
        let (_disk, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "storage was not asked within 20 s");
    }

    /// Writes a dirty page out, as the kernel does when it likes to.
    pub(crate) fn write_out(&self, page: u64) {
        self.with(|disk| disk.write_out(page));
    }

    /// Drops a clean page from the cache, as the kernel does when it likes to.
    pub(crate) fn evict(&self, page: u64) {
        self.with(|disk| {
            if !disk.dirty.contains(&page) {
                disk.cache.remove(&page);
            }
        });
    }

    /// What a power cut would leave of a page.
    pub(crate) fn stable(&self, page: u64) -> u8 {
        self.with(|disk| disk.disk[usize::try_from(page).expect("small")])
    }

    pub(crate) fn open(&self, mistake: Mistake) -> Box<dyn StoreFile> {
        Box::new(ScriptedFile { disk: self.clone(), cursor: Arc::default(), mistake })
    }
}

fn pages(offset: u64, bytes: u64) -> Range<u64> {
    offset / PAGE_SIZE..(offset + bytes).div_ceil(PAGE_SIZE)
}

impl ScriptedFile {
    fn ask(&self, call: Call, range: Range<u64>) -> io::Result<()> {
        self.disk.with(|disk| disk.calls.push((call, range)));
        let held = |disk: &mut Disk| disk.held == Some(call);
        let waited = self.disk.0.1.wait_timeout_while(self.disk.lock(), LIMIT, held);
        let (mut disk, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "the test has not let go of storage");
        match &mut disk.fail {
            Some((failing, granted, errno)) if *failing == call => {
                if let Some(left) = granted.checked_sub(1) {
                    *granted = left;
                    return Ok(());
                }
                let errno = *errno;
                disk.fail = None;
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }

    /// What a description is told: once, and each for itself.
    fn tell(&self) -> io::Result<()> {
        self.disk
            .with(|disk| {
                if self.cursor.swap(disk.errors, Ordering::Relaxed) == disk.errors {
                    return Ok(());
                }
                disk.is_seen = true;
                Err(disk.before_error_returns.take())
            })
            .map_err(|hook: Option<Hook>| {
                if let Some(hook) = hook {
                    hook();
                }
                io::Error::from_raw_os_error(libc::EIO)
            })
    }

    fn sync_once(&self) -> io::Result<()> {
        self.ask(Call::Sync, 0..0)?;
        let hook = self.disk.with(|disk| {
            for page in disk.dirty.clone() {
                disk.write_out(page);
            }
            disk.before_sync_looks.take()
        });
        if let Some(hook) = hook {
            hook();
        }
        let told = self.tell();
        if let Some(hook) = self.disk.with(|disk| disk.before_sync_returns.take()) {
            hook();
        }
        told
    }
}

impl StoreFile for ScriptedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.ask(Call::Read, pages(offset, bytes.len() as u64))?;
        self.disk.with(|disk| {
            let length = disk.cut.unwrap_or(disk.disk.len() as u64 * PAGE_SIZE);
            let read = length.saturating_sub(offset).min(bytes.len() as u64);
            let mut places = bytes.chunks_mut(4096);
            for page in pages(offset, read) {
                let byte = disk.cache.get(&page).copied();
                let byte = byte.unwrap_or(disk.disk[usize::try_from(page).expect("small")]);
                places.next().expect("room").fill(byte);
            }
            Ok(usize::try_from(read).expect("small"))
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.ask(Call::Write, pages(offset, bytes.len() as u64))?;
        self.disk.with(|disk| {
            let room = disk.room.take().unwrap_or(bytes.len()).min(bytes.len());
            for (page, bytes) in pages(offset, room as u64).zip(bytes.chunks(4096)) {
                disk.cache.insert(page, bytes[0]);
                disk.dirty.insert(page);
            }
            Ok(room)
        })
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.with(|disk| disk.cut.unwrap_or(disk.disk.len() as u64 * PAGE_SIZE)))
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.ask(Call::Punch, pages(offset, bytes))?;
        self.disk.with(|disk| {
            for page in pages(offset, bytes) {
                disk.cache.remove(&page);
                disk.dirty.remove(&page);
                disk.disk[usize::try_from(page).expect("small")] = 0;
            }
        });
        Ok(())
    }

    fn start(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.ask(Call::Start, pages(offset, bytes))?;
        pages(offset, bytes).for_each(|page| self.disk.write_out(page));
        Ok(())
    }

    fn wait(&self, _: u64, _: u64) -> io::Result<()> {
        match self.mistake {
            Mistake::IsBlind | Mistake::BelievesTheSecondSync => Ok(()),
            _ => self.tell(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.mistake {
            Mistake::BelievesTheSecondSync => self.sync_once().or_else(|_| self.sync_once()),
            _ => self.sync_once(),
        }
    }

    fn reopen(&self) -> io::Result<Box<dyn StoreFile>> {
        let cursor = self.disk.with(|disk| {
            if let Some(left) = &mut disk.descriptions {
                *left = left.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
            }
            Ok::<_, io::Error>(if disk.is_seen { disk.errors } else { disk.errors - 1 })
        })?;
        let cursor = match self.mistake {
            Mistake::SharesTheDescription => Arc::clone(&self.cursor),
            _ => Arc::new(AtomicU64::new(cursor)),
        };
        Ok(Box::new(Self { disk: self.disk.clone(), cursor, mistake: self.mistake }))
    }
}

/// A folder in which every store is the same disk.
#[derive(Debug)]
pub(crate) struct ScriptedFolder {
    pub(crate) disk: ScriptedDisk,
    pub(crate) is_durable: bool,
}

impl StoreFolder for ScriptedFolder {
    fn open(&self, name: StoreName, pages: u64, allowed_pages: u64) -> Result<OpenedStore, OpenStoreError> {
        if pages > allowed_pages {
            return Err(OpenStoreError::Quota { name, pages, allowed_pages });
        }
        Ok(OpenedStore { file: self.disk.open(Mistake::None), pages, is_durable: self.is_durable })
    }
}
