//! One open store: its book, and a description for each worker.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use wirevm_abi::{PAGE_SIZE, StoreName};

use super::book::Book;
use super::file::{self, OpenedStore, StoreFile};
use crate::log_limit::LogLimit;
use crate::page_run::PageRun;

/// A worker's own description of a store.
#[derive(Debug)]
pub(super) struct Slot {
    file: Box<dyn StoreFile>,
    /// Failures that the book knew of when the description was new.
    failures: u64,
}

/// An open store.
///
/// Lock order: a worker's slot, then the book. The book is never held during a call to storage; a slot is, by the worker whose
/// it is. Another worker only tries to take it.
#[derive(Debug)]
pub(super) struct Store {
    name: StoreName,
    pages: u64,
    pub(super) is_durable: bool,
    pub(super) is_exclusive: bool,
    book: Mutex<Book>,
    slots: Vec<Mutex<Slot>>,
    /// Holds the lock against other machines for as long as the store is open.
    _owner: Box<dyn StoreFile>,
    pub(super) complaints: LogLimit,
    /// Number of the first error of any store's storage.
    first_error: Arc<OnceLock<i32>>,
}

impl Store {
    /// Opens a description for each worker.
    ///
    /// # Errors
    /// What the host said.
    pub(super) fn new(
        name: StoreName,
        opened: OpenedStore,
        is_exclusive: bool,
        workers: usize,
        first_error: Arc<OnceLock<i32>>,
    ) -> io::Result<Self> {
        let OpenedStore { file, pages, is_durable } = opened;
        let slot = || Ok(Mutex::new(Slot { file: file.reopen()?, failures: 0 }));
        let slots = (0..workers).map(|_| slot()).collect::<io::Result<_>>()?;
        Ok(Self {
            name,
            pages,
            is_durable,
            is_exclusive,
            book: Mutex::default(),
            slots,
            _owner: file,
            complaints: LogLimit::new(),
            first_error,
        })
    }

    pub(super) const fn name(&self) -> StoreName {
        self.name
    }

    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a worker's description, made anew if storage has failed since it was opened.
    ///
    /// # Errors
    /// What the host said; without a new description nothing that is said about storage can be believed.
    pub(super) fn slot(&self, worker: usize) -> io::Result<MutexGuard<'_, Slot>> {
        let slot = self.slots.get(worker).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.failures != self.book().failures() {
            // The others too, before this request's work begins: an error that one of them has not told of is not about it.
            self.renew_all(&mut slot);
            self.renew(&mut slot)?;
        }
        Ok(slot)
    }

    /// Looks at the file's health through a worker's description, and notes what it tells.
    pub(super) fn look(&self, slot: &Slot) {
        if let Err(error) = file::look(slot.file()) {
            self.fail(&error, "a look at the file's health");
        }
    }

    /// Notes that storage told of an error, before anybody is answered.
    pub(super) fn fail(&self, error: &io::Error, during: &str) {
        self.book().fail();
        let _first = self.first_error.get_or_init(|| error.raw_os_error().unwrap_or(libc::EIO));
        if let Some(number) = self.complaints.count() {
            log::error!(
                "store '{}': storage failed during {during} ({number} complaints so far): {error}; pages returned and not \
                 synchronized are lost",
                self.name
            );
        }
    }

    /// Notes the pages that somebody else has cut off the file; tells the first of them.
    ///
    /// # Errors
    /// What the host said when asked for the length.
    pub(super) fn note_cut(&self, slot: &Slot) -> io::Result<Option<u64>> {
        let whole = slot.file().length()? / PAGE_SIZE;
        let cut = PageRun::new(whole, self.pages);
        if let Some(cut) = cut {
            self.book().lose(cut);
            if let Some(number) = self.complaints.count() {
                log::error!(
                    "store '{}': somebody has cut its file, pages {cut} are gone ({number} complaints so far)",
                    self.name
                );
            }
        }
        Ok(cut.map(PageRun::first))
    }

    /// Makes the descriptions anew that are older than the last failure: the given one, and those that no worker uses now.
    ///
    /// An error shows once a description, so one that has not shown the last failure yet would show it later, for pages that
    /// the guest has returned again by then. One that a worker uses is made anew by that worker before it answers.
    pub(super) fn renew_all(&self, mine: &mut Slot) {
        self.renew_or_complain(mine);
        for slot in &self.slots {
            // The caller's own one is locked.
            if let Ok(mut slot) = slot.try_lock() {
                self.renew_or_complain(&mut slot);
            }
        }
    }

    fn renew_or_complain(&self, slot: &mut Slot) {
        if let Err(error) = self.renew(slot)
            && let Some(number) = self.complaints.count()
        {
            // It stays old, and whoever is to use it tries again.
            log::warn!("store '{}' cannot be opened again ({number} complaints so far): {error}", self.name);
        }
    }

    /// Makes a description anew if it is older than the last failure.
    fn renew(&self, slot: &mut Slot) -> io::Result<()> {
        let failures = self.book().failures();
        if slot.failures == failures {
            return Ok(());
        }
        let new = slot.file.reopen()?;
        let old = std::mem::replace(&mut slot.file, new);
        slot.failures = failures;
        // The new one stands where it was opened, and may have skipped an error that somebody outside was told of; the old one
        // is asked after that. So an error is before the question, and the old one tells, or behind it, and the new one will.
        if let Err(error) = file::look(old.as_ref()) {
            self.fail(&error, "a last look through an old description");
            slot.failures = self.book().failures();
        }
        Ok(())
    }
}

impl Slot {
    pub(super) fn file(&self) -> &dyn StoreFile {
        self.file.as_ref()
    }
}
