//! A worker: carries out one request at a time.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use wirevm_abi::completion::NO_PAGE;
use wirevm_abi::{PAGE_SIZE, RamRange, Status};

use super::book::Verdict;
use super::held::{Slot, Store};
use super::request::{Order, Work};
use crate::faults::HostFaults;
use crate::guest_memory::GuestMemory;
use crate::page_run::PageRun;

/// Bytes that are copied at a time.
const SLICE_BYTES: usize = 256 << 10;

/// What became of a request.
pub(super) type Outcome = (Status, u64);

/// Pages that were copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// From stores to RAM.
    pub(super) pages_in: AtomicU64,
    /// From RAM to stores.
    pub(super) pages_out: AtomicU64,
    /// Requests to storage that made a whole store stable.
    pub(super) flushes: AtomicU64,
}

/// What one worker works with.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    /// Which one it is.
    pub(super) number: usize,
    pub(super) memory: &'a dyn GuestMemory,
    pub(super) copied: &'a Copied,
    pub(super) faults: &'a HostFaults,
    /// The bounce buffer.
    bytes: Vec<u8>,
}

/// A copy that came to an end.
struct Copy {
    /// Pages copied in full.
    pages: u64,
    /// The page, counted from the start of the copy, that could not be, and why; or all could.
    failed: Option<(u64, CopyError)>,
}

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("{0}")]
    Host(#[from] io::Error),
    #[error("the file ends early")]
    End,
    #[error("{0}")]
    Memory(#[from] crate::guest_memory::BackingLostError),
    /// A page was written in part.
    #[error("{0}, in the middle of a page")]
    Torn(io::Error),
}

impl<'a> Worker<'a> {
    pub(super) fn new(number: usize, memory: &'a dyn GuestMemory, copied: &'a Copied, faults: &'a HostFaults) -> Self {
        Self { number, memory, copied, faults, bytes: vec![0; SLICE_BYTES] }
    }

    /// Carries a request out.
    pub(super) fn carry_out(&mut self, order: &Order) -> Outcome {
        let store = &*order.store;
        let mut slot = match store.slot(self.number) {
            Ok(slot) => slot,
            Err(error) => {
                complain(store, order.run, "opened again", &error);
                return (Status::IO_ERROR, NO_PAGE);
            }
        };
        let outcome = match order.work {
            Work::Request(ram) => self.request(store, &slot, order.run, ram),
            Work::Return(ram) => self.give_back(store, &slot, order.run, ram),
            Work::Synchronize => self.synchronize(store, &slot, order.run),
        };
        // Before the answer: what the guest does next must not meet an old error.
        store.renew_all(&mut slot);
        outcome
    }

    fn request(&mut self, store: &Store, slot: &Slot, run: PageRun, ram: RamRange) -> Outcome {
        if let Some(page) = store.book().lost_page(run) {
            return (Status::IO_ERROR, page);
        }
        let copy = self.copy_in(slot, run, ram);
        self.copied.pages_in.fetch_add(copy.pages, Ordering::Relaxed);
        // After the bytes were read: an error for which they reverted was there before they did.
        store.look(slot);
        if let Some((page, error)) = copy.failed {
            complain(store, run, "read", &error);
            if matches!(error, CopyError::End)
                && let Err(error) = store.note_cut(slot)
            {
                complain(store, run, "looked at", &error);
            }
            return (Status::IO_ERROR, run.first() + page);
        }
        if let Some(page) = store.book().lost_page(run) {
            return (Status::IO_ERROR, page);
        }
        if store.is_exclusive {
            match slot.file().punch(run.first() * PAGE_SIZE, run.pages() * PAGE_SIZE) {
                Ok(()) => store.book().give_up(run),
                // The store keeps a copy that nobody will ask for before it is replaced.
                Err(error) => complain(store, run, "given up", &error),
            }
        }
        (Status::OK, NO_PAGE)
    }

    fn give_back(&mut self, store: &Store, slot: &Slot, run: PageRun, ram: RamRange) -> Outcome {
        match store.note_cut(slot) {
            // A write would make the file longer again, with zeros where there were bytes.
            Ok(Some(cut)) if cut < run.end() => return (Status::IO_ERROR, cut.max(run.first())),
            Ok(_) => {}
            Err(error) => {
                complain(store, run, "looked at", &error);
                return (Status::IO_ERROR, NO_PAGE);
            }
        }
        let ticket = store.book().begin_return(run);
        let copy = self.copy_out(slot, run, ram);
        self.copied.pages_out.fetch_add(copy.pages, Ordering::Relaxed);
        store.look(slot);
        let end = run.first() + copy.pages;
        let torn = matches!(copy.failed, Some((_, CopyError::Torn(_)))).then_some(end);
        let noted = store.book().end_return(ticket, PageRun::new(run.first(), end), torn);
        if let Some((_, error)) = &copy.failed {
            complain(store, run, "written", error);
        }
        match (noted, copy.failed) {
            (Err(page), _) => (Status::IO_ERROR, page),
            (Ok(()), Some(_)) => (Status::IO_ERROR, end),
            (Ok(()), None) => (Status::OK, NO_PAGE),
        }
    }

    fn synchronize(&self, store: &Store, slot: &Slot, run: PageRun) -> Outcome {
        let ticket = store.book().begin_sync();
        let (offset, bytes) = (run.first() * PAGE_SIZE, run.pages() * PAGE_SIZE);
        let file = slot.file();
        self.copied.flushes.fetch_add(1, Ordering::Relaxed);
        // Every call's error counts, and an error of an earlier one is not taken back by a success of a later one.
        let synced = (self.faults.strike())
            .and_then(|()| file.start(offset, bytes))
            .and_then(|()| file.wait(offset, bytes))
            .and_then(|()| file.sync());
        if let Err(error) = &synced {
            store.fail(error, "a synchronize");
        }
        let cut = store.note_cut(slot);
        if let Err(error) = &cut {
            complain(store, run, "looked at", error);
        }
        match store.book().end_sync(ticket, run, synced.is_ok() && cut.is_ok()) {
            Verdict::Stable => (Status::OK, NO_PAGE),
            Verdict::Lost(page) => (Status::IO_ERROR, page),
            Verdict::Unknown => (Status::IO_ERROR, NO_PAGE),
        }
    }

    /// Copies pages of a store to RAM, in slices.
    fn copy_in(&mut self, slot: &Slot, run: PageRun, ram: RamRange) -> Copy {
        let mut done = 0;
        while let Some((pages, ram)) = slice(run, ram, done) {
            let bytes = buffer(&mut self.bytes, pages);
            let (read, error) = read_full(slot, bytes, (run.first() + done) * PAGE_SIZE);
            if let Some(error) = error {
                return Copy { pages: done, failed: Some((done + read / PAGE_SIZE, error)) };
            }
            if let Err(error) = self.memory.write(ram, bytes) {
                return Copy { pages: done, failed: Some((done, error.into())) };
            }
            done += pages;
        }
        Copy { pages: done, failed: None }
    }

    /// Copies pages of RAM to a store, in slices.
    fn copy_out(&mut self, slot: &Slot, run: PageRun, ram: RamRange) -> Copy {
        let mut done = 0;
        while let Some((pages, ram)) = slice(run, ram, done) {
            let bytes = buffer(&mut self.bytes, pages);
            if let Err(error) = self.memory.read(ram, bytes) {
                return Copy { pages: done, failed: Some((done, error.into())) };
            }
            let (written, error) = write_full(slot, bytes, (run.first() + done) * PAGE_SIZE);
            if let Some(error) = error {
                let is_torn = !written.is_multiple_of(PAGE_SIZE);
                let error = if is_torn { CopyError::Torn(error) } else { error.into() };
                done += written / PAGE_SIZE;
                return Copy { pages: done, failed: Some((done, error)) };
            }
            done += pages;
        }
        Copy { pages: done, failed: None }
    }
}

/// Returns how many pages the next slice has and which RAM pages they are; `None` when all are done.
fn slice(run: PageRun, ram: RamRange, done: u64) -> Option<(u64, RamRange)> {
    let pages = (run.pages() - done).min(SLICE_BYTES as u64 / PAGE_SIZE);
    let ram = RamRange::new(ram.first() + done, pages, ram.end()).ok()?;
    Some((pages, ram))
}

fn buffer(bytes: &mut [u8], pages: u64) -> &mut [u8] {
    let length = usize::try_from(pages * PAGE_SIZE).unwrap_or(usize::MAX).min(bytes.len());
    bytes.split_at_mut(length).0
}

/// Reads until the buffer is full; returns the bytes read and why not all.
fn read_full(slot: &Slot, bytes: &mut [u8], offset: u64) -> (u64, Option<CopyError>) {
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match slot.file().read_at(rest, offset + read as u64) {
            Ok(0) => return (read as u64, Some(CopyError::End)),
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (read as u64, Some(error.into())),
        }
    }
    (read as u64, None)
}

/// Writes all of the buffer; returns the bytes written and why not all.
fn write_full(slot: &Slot, bytes: &[u8], offset: u64) -> (u64, Option<io::Error>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match slot.file().write_at(rest, offset + written as u64) {
            Ok(0) => return (written as u64, Some(io::Error::from_raw_os_error(libc::ENOSPC))),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written as u64, Some(error)),
        }
    }
    (written as u64, None)
}

fn complain(store: &Store, run: PageRun, what: &str, error: &dyn std::error::Error) {
    if let Some(number) = store.complaints.count() {
        log::warn!("store '{}': pages {run} cannot be {what} ({number} complaints so far): {error}", store.name());
    }
}
