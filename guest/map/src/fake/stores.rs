//! The fake's stores: what each file holds, and what of it is stable.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::ports::{HostError, StoreId, StoreKind};
use crate::units::{PAGE_SHIFT, PageRange};

/// Bytes in a page.
const PAGE_BYTES: usize = 1 << PAGE_SHIFT;

/// The bytes of a page; none for one of zeros.
type Page = Option<Vec<u8>>;

/// A file: zeros where nothing was ever written.
#[derive(Clone, Debug, Default)]
struct Store {
    pages: u64,
    /// What a reader of the file sees.
    cached: BTreeMap<u64, Vec<u8>>,
    /// What a power cut leaves.
    stable: BTreeMap<u64, Vec<u8>>,
    /// Pages that were returned and not synchronized since.
    unsynced: BTreeSet<u64>,
    /// Pages whose last return storage has lost.
    lost: BTreeSet<u64>,
    open: Option<StoreKind>,
}

/// All stores of a fake host, open or not.
#[derive(Debug, Default)]
pub(super) struct FakeStores {
    by_name: BTreeMap<String, Store>,
    /// The names of the stores that are open, or were, by number.
    numbers: Vec<String>,
}

impl FakeStores {
    pub(super) fn open(&mut self, name: &str, pages: u64, kind: StoreKind) -> Result<StoreId, HostError> {
        let number = u16::try_from(self.numbers.len()).map_err(|_| HostError::Quota)?;
        let store = self.by_name.entry(name.to_string()).or_default();
        if store.open.is_some() {
            return Err(HostError::Busy);
        }
        store.open = Some(kind);
        store.pages = store.pages.max(pages);
        self.numbers.push(name.to_string());
        Ok(StoreId(number))
    }

    /// Closes a store; `false` for one that is not open.
    pub(super) fn close(&mut self, id: StoreId) -> bool {
        self.get(id).is_some_and(|store| store.open.take().is_some())
    }

    fn get(&mut self, id: StoreId) -> Option<&mut Store> {
        let name = self.numbers.get(usize::from(id.0))?;
        self.by_name.get_mut(name)
    }

    fn get_open(&mut self, id: StoreId, pages: PageRange) -> Result<&mut Store, HostError> {
        let store = self.get(id).filter(|store| store.open.is_some());
        store.filter(|store| pages.end <= store.pages).ok_or(HostError::Rejected)
    }

    /// Supplies a page, which an exclusive store does not have any more then.
    pub(super) fn supply(&mut self, id: StoreId, page: u64) -> Result<Page, HostError> {
        let store = self.get_open(id, PageRange::new(page, page + 1))?;
        if store.lost.contains(&page) {
            return Err(HostError::Io);
        }
        Ok(match store.open {
            Some(StoreKind::Exclusive) => store.cached.remove(&page),
            _ => store.cached.get(&page).cloned(),
        })
    }

    /// Takes a page back.
    pub(super) fn take_back(&mut self, id: StoreId, page: u64, bytes: Page) -> Result<(), HostError> {
        let store = self.get_open(id, PageRange::new(page, page + 1))?;
        put(&mut store.cached, page, bytes);
        store.lost.remove(&page);
        store.unsynced.insert(page);
        Ok(())
    }

    /// Puts what was returned of `pages` on stable storage, or loses it.
    pub(super) fn synchronize(
        &mut self,
        id: StoreId,
        pages: PageRange,
        failure: Option<HostError>,
    ) -> Result<(), HostError> {
        let store = self.get_open(id, pages)?;
        if let Some(error) = failure {
            // As Linux does: nobody knows any more which of them were written.
            store.lost.append(&mut store.unsynced);
            return Err(error);
        }
        let synced: Vec<u64> = store.unsynced.range(pages.start..pages.end).copied().collect();
        for page in synced {
            store.unsynced.remove(&page);
            put(&mut store.stable, page, store.cached.get(&page).cloned());
        }
        let is_lost = store.lost.range(pages.start..pages.end).next().is_some();
        if is_lost { Err(HostError::Io) } else { Ok(()) }
    }

    /// Returns the first byte of a page as a reader of the file sees it, and as a power cut leaves it.
    pub(super) fn byte(&self, name: &str, page: u64) -> Option<(u8, u8)> {
        let store = self.by_name.get(name).filter(|store| page < store.pages)?;
        let first =
            |pages: &BTreeMap<u64, Vec<u8>>| pages.get(&page).and_then(|bytes| bytes.first().copied()).unwrap_or(0);
        Some((first(&store.cached), first(&store.stable)))
    }

    /// Reads a page as a reader of the file sees it; `false` where there is none.
    pub(super) fn read(&self, name: &str, page: u64, into: &mut [u8; PAGE_BYTES]) -> bool {
        let Some(store) = self.by_name.get(name).filter(|store| page < store.pages) else { return false };
        match store.cached.get(&page) {
            Some(bytes) => into.copy_from_slice(bytes),
            None => into.fill(0),
        }
        true
    }

    /// Makes a file that holds `byte` in every page, as if it had been there before.
    pub(super) fn fill(&mut self, name: &str, pages: u64, byte: u8) {
        let content: BTreeMap<u64, Vec<u8>> = (0..pages).map(|page| (page, alloc::vec![byte; PAGE_BYTES])).collect();
        let store = Store { pages, cached: content.clone(), stable: content, ..Store::default() };
        self.by_name.insert(name.to_string(), store);
    }

    /// Returns how many pages a file has; 0 where there is none.
    pub(super) fn pages(&self, name: &str) -> u64 {
        self.by_name.get(name).map_or(0, |store| store.pages)
    }

    /// Tells whether a store is open.
    pub(super) fn is_open(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|store| store.open.is_some())
    }

    /// Returns how many stores are open.
    pub(super) fn open_stores(&self) -> usize {
        self.by_name.values().filter(|store| store.open.is_some()).count()
    }
}

fn put(pages: &mut BTreeMap<u64, Vec<u8>>, page: u64, bytes: Page) {
    match bytes {
        Some(bytes) => pages.insert(page, bytes),
        None => pages.remove(&page),
    };
}
