//! Reading a run in: small runs at once, large ones in slices on several CPUs.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;

use wirevm_abi::PAGE_SIZE;

use crate::folio::FolioPolicy;
use crate::page_run::PageRun;
use crate::pin::read_ahead::read_ahead;
use crate::sys;
use crate::view::View;

/// Pages in a slice: 32 MiB.
const SLICE_PAGES: u64 = (32 << 20) / PAGE_SIZE;

/// Reads runs in.
#[derive(Debug)]
pub(super) struct Populate {
    /// Threads that may help with a large run. Asking for it takes longer than locking a page.
    helpers: usize,
}

impl Populate {
    /// Lets as many threads read as there are CPUs for.
    pub(super) fn new() -> Self {
        Self::with_threads(thread::available_parallelism().map_or(1, NonZero::get))
    }

    /// Lets that many threads read, the caller's included.
    pub(super) const fn with_threads(threads: usize) -> Self {
        Self { helpers: threads.saturating_sub(1) }
    }

    /// Faults all of a run in for reading, on this thread and as many more as may help. Dirties nothing.
    ///
    /// # Errors
    /// The first error that a slice met, by time; the rest is then not read in.
    pub(super) fn run(&self, view: &View, run: PageRun) -> io::Result<()> {
        // The kernel's own read-ahead takes its larger folios for one reader of one run.
        let helpers = if view.folio() == Some(FolioPolicy::Bulk) { 0 } else { self.helpers };
        in_slices(run, SLICE_PAGES, helpers, &|slice| {
            read_ahead(view, slice);
            sys::populate_read(view.addresses_of(slice).map_err(io::Error::other)?)
        })
    }
}

/// Calls `work` for each slice of a run, on this thread and up to `helpers` more.
///
/// All threads exist before the first slice is touched: making one takes the lock of this process's memory map
/// for writing, which faults hold for reading.
fn in_slices(
    run: PageRun,
    slice_pages: u64,
    helpers: usize,
    work: &(dyn Fn(PageRun) -> io::Result<()> + Sync),
) -> io::Result<()> {
    let slices = run.pages().div_ceil(slice_pages);
    if slices == 1 {
        return work(run);
    }
    let next = AtomicU64::new(run.first());
    let failed = AtomicBool::new(false);
    let first_error = Mutex::new(None);
    let take = || {
        while !failed.load(Ordering::Relaxed) {
            let first = next.fetch_add(slice_pages, Ordering::Relaxed);
            let Some(slice) = PageRun::new(first, run.end().min(first.saturating_add(slice_pages))) else { return };
            if let Err(error) = work(slice) {
                failed.store(true, Ordering::Relaxed);
                first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    let gate = RwLock::new(());
    thread::scope(|scope| {
        let closed = gate.write();
        for _ in 0..usize::try_from(slices - 1).unwrap_or(helpers).min(helpers) {
            let helper = thread::Builder::new().name("wirevm-populate".to_owned()).spawn_scoped(scope, || {
                drop(gate.read());
                take();
            });
            if helper.is_err() {
                // No more threads to be had: fewer do the work.
                break;
            }
        }
        drop(closed);
        take();
    });
    first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod test {
    use std::io;
    use std::sync::Mutex;

    use super::in_slices;
    use crate::page_run::PageRun;

    fn run(first: u64, end: u64) -> PageRun {
        PageRun::new(first, end).expect("not empty")
    }

    #[test]
    fn in_slices_every_page_is_touched_once() {
        for (helpers, end, pieces) in [(0, 107, 10), (3, 107, 10), (3, 17, 1), (3, 18, 2), (1, 8, 1)] {
            let seen = Mutex::new(Vec::new());
            in_slices(run(7, end), 10, helpers, &|slice| {
                seen.lock().expect("no panic").push(slice);
                Ok(())
            })
            .expect("nothing fails");
            let seen = seen.into_inner().expect("no panic");
            assert_eq!(seen.len(), pieces);
            assert_eq!(seen.iter().map(|slice| slice.pages()).sum::<u64>(), end - 7);
            assert_eq!(PageRun::join(seen), [run(7, end)]);
        }
    }

    #[test]
    fn in_slices_an_error_ends_the_work_and_is_returned() {
        for helpers in [0, 3] {
            let error = in_slices(run(0, 100), 10, helpers, &|slice| match slice.first() {
                50 => Err(io::Error::from_raw_os_error(libc::EFAULT)),
                _ => Ok(()),
            })
            .expect_err("slice 50 fails");
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        }
    }
}
