//! Locking a whole view once, and faulting in what is to be held.

use std::io;
use std::sync::Arc;

use procfs::sys::kernel::Version;

use super::{LockFailure, PinMethod, PinMethodError};
use crate::page_run::PageRun;
use crate::pin::populate::Populate;
use crate::pin::read_ahead::read_ahead;
use crate::sys::{self, AdviseMany, ExactFaults, RANGES_PER_CALL};
use crate::view::{AddressRange, View};

/// The first kernel that maps no 2 MiB at once where it was told not to.
const KERNEL: (u8, u8) = (6, 12);
/// From this many pages on a run is faulted in as fast as the kernel can. Asking for that takes two calls, and longer than a
/// few pages' faults.
const LARGE_PAGES: u64 = 64;

/// A view can't be locked as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ViewMethodError {
    /// The kernel is too old.
    #[error("pinning through a locked view needs Linux {}.{}, and this is Linux {found}", KERNEL.0, KERNEL.1)]
    Kernel {
        /// The kernel's version.
        found: String,
    },
    /// The kernel or a sandbox does not let it fault in single pages.
    #[error("pinning through a locked view needs userfaultfd with asynchronous write protection, which is refused")]
    ExactFaults(#[source] io::Error),
    /// The view could not be locked.
    #[error("cannot lock a view of {bytes} bytes as a whole")]
    Lock {
        /// Size of the view.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Locks a view once and for all, so that every page in its page tables is held, and wires a page by faulting it in.
///
/// The view stays one map entry, whatever is wired, and many runs take one system call. What is held is exactly what is
/// wired: the kernel is kept from mapping pages around one that is asked for, and a page is taken out of the page tables by its
/// own unwiring only. (Dropping a neighbourhood and faulting part of it in again would let go of wired pages for a moment,
/// in which they may leave memory.)
#[derive(Debug)]
pub struct ViewMethod {
    view: Arc<View>,
    populate: Populate,
    exact: ExactFaults,
    /// None where the kernel takes one range a call.
    many: Option<AdviseMany>,
}

impl ViewMethod {
    /// Tells whether this kernel has what the method needs.
    ///
    /// # Errors
    /// [`ViewMethodError`] for what it lacks.
    pub fn check_kernel() -> Result<(), ViewMethodError> {
        Self::exact_faults().map(|_| ())
    }

    /// Makes the method over a view that nothing else locks or syncs through.
    ///
    /// # Errors
    /// [`ViewMethodError`], also when the limit on locked memory is less than the view.
    pub fn new(view: Arc<View>) -> Result<Self, ViewMethodError> {
        let exact = Self::exact_faults()?;
        let all = view.addresses();
        exact.begin(all).map_err(ViewMethodError::ExactFaults)?;
        let locked = sys::advise_no_huge_pages(all).and_then(|()| sys::mlock_on_fault(all));
        locked.map_err(|source| ViewMethodError::Lock { bytes: all.bytes(), source })?;
        Ok(Self { populate: Populate::new(Arc::clone(&view)), view, exact, many: AdviseMany::new().ok() })
    }

    fn exact_faults() -> Result<ExactFaults, ViewMethodError> {
        // One that can't be read may be anything; the next call tells more.
        if let Ok(version) = Version::current()
            && (version.major, version.minor) < KERNEL
        {
            let found = format!("{}.{}.{}", version.major, version.minor, version.patch);
            return Err(ViewMethodError::Kernel { found });
        }
        ExactFaults::new().map_err(ViewMethodError::ExactFaults)
    }

    fn addresses_of(&self, run: PageRun) -> io::Result<AddressRange> {
        self.view.addresses_of(run).map_err(io::Error::other)
    }

    /// Returns where runs are; what lies outside of RAM is left to [`Self::lock_one`] and [`Self::unlock_one`] to refuse.
    fn all_addresses_of(&self, runs: &[PageRun]) -> Vec<AddressRange> {
        runs.iter().map_while(|run| self.addresses_of(*run).ok()).collect()
    }

    /// Faults in a run by itself: page by page, or, where that pays, with all that the kernel has for large runs. What
    /// it maps around a fault lies inside of the run then, since it stops at the edges of a map entry.
    fn lock_one(&self, run: PageRun) -> Result<(), PinMethodError> {
        let populate_failed = |source| PinMethodError::Populate { run, source };
        if run.pages() < LARGE_PAGES {
            return self.populate.run(run).map_err(populate_failed);
        }
        let range = self.addresses_of(run).map_err(populate_failed)?;
        // Two map entries more for a while, if there are any to be had.
        let is_fast = self.exact.end(range).is_ok();
        let populated = self.populate.run(run).map_err(populate_failed);
        if is_fast {
            // In any case, and before anybody unlocks what has failed.
            self.exact.begin(range).map_err(|source| PinMethodError::Lock { run, source })?;
        }
        populated
    }

    /// Faults in small runs, as far as the kernel does it in one call; returns how many.
    fn lock_many(&self, many: &AdviseMany, runs: &[PageRun]) -> usize {
        for run in runs {
            read_ahead(&self.view, *run);
        }
        let ranges = self.all_addresses_of(runs);
        // Whatever has gone wrong is told, and put right if it was a signal, when the run is asked for by itself.
        whole(&ranges, many.populate_read(&ranges).unwrap_or(0))
    }

    fn unlock_one(&self, run: PageRun) -> io::Result<()> {
        sys::drop_locked(self.addresses_of(run)?)
    }
}

impl PinMethod for ViewMethod {
    /// A page that can't be had is an error of its own kind (rule D9).
    fn lock(&self, runs: &[PageRun]) -> Result<(), LockFailure> {
        let mut index = 0;
        while let Some(rest) = runs.get(index..).filter(|rest| !rest.is_empty()) {
            let small = rest.iter().take(RANGES_PER_CALL).take_while(|run| run.pages() < LARGE_PAGES).count();
            if let (Some(many), Some(small @ [_, _, ..])) = (&self.many, rest.get(..small)) {
                index += self.lock_many(many, small);
            }
            if let Some(run) = runs.get(index) {
                self.lock_one(*run).map_err(|source| LockFailure { index, source })?;
                index += 1;
            }
        }
        Ok(())
    }

    fn unlock(&self, runs: &[PageRun]) -> Vec<(PageRun, io::Error)> {
        let mut failed = Vec::new();
        let mut index = 0;
        while let Some(rest) = runs.get(index..).filter(|rest| !rest.is_empty()) {
            if let (Some(many), [_, _, ..]) = (&self.many, rest) {
                let ranges = self.all_addresses_of(rest.get(..RANGES_PER_CALL).unwrap_or(rest));
                index += whole(&ranges, many.drop_locked(&ranges).unwrap_or(0));
            }
            if let Some(run) = runs.get(index) {
                failed.extend(self.unlock_one(*run).err().map(|error| (*run, error)));
                index += 1;
            }
        }
        failed
    }
}

impl Drop for ViewMethod {
    /// The view may have other users, to whom it is not to look locked.
    fn drop(&mut self) {
        if let Err(error) = sys::munlock(self.view.addresses()) {
            log::warn!("a view of guest RAM stays locked: {error}");
        }
    }
}

/// Returns how many whole ranges so many bytes are.
fn whole(ranges: &[AddressRange], bytes: usize) -> usize {
    let mut left = bytes;
    ranges.iter().take_while(|range| left.checked_sub(range.bytes()).map(|rest| left = rest).is_some()).count()
}
