//! Synchronisation with stable storage: XNU `vm_map_msync`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{MapState, Step, VmMap, touched_pages};
use crate::flags::SyncFlags;
use crate::kern_return::KernReturn;
use crate::objects::{Extent, Found, ObjectId, Pager};
use crate::ports::{Host, HostError, Ports, SyncMode, SyncRun};
use crate::units::PageRange;
use crate::vm::Vm;
use crate::wait::Wait;

/// Pages on their way to stable storage. Dropping it ends the writes by their results.
struct WriteBack<'a, P: Ports> {
    vm: &'a Vm<P>,
    mode: SyncMode,
    /// Which pages of which object each of `runs` holds; the objects are held.
    pages: Vec<(ObjectId, PageRange)>,
    /// Why some dirty pages were not sent.
    refused: Option<HostError>,
    /// Failures until the host says otherwise, so that a call that ends early leaves the pages dirty.
    runs: Vec<SyncRun>,
}

impl<P: Ports> VmMap<P> {
    /// Puts the dirty pages among those that `size` bytes from `address` touch on stable storage (XNU
    /// `vm_msync`).
    ///
    /// - [`SyncFlags::SYNCHRONOUS`]: returns when the bytes are on stable storage. Pages that were sent and
    ///   not written again meanwhile are clean then. A write that is already in flight is waited for.
    /// - [`SyncFlags::ASYNCHRONOUS`]: the writing is started; the pages stay dirty.
    /// - [`SyncFlags::INVALIDATE`]: unmaps the pages of unwired entries first. The pages' home is guest RAM, and
    ///   the resident page *is* the home's copy, so the bytes stay as they are, dirty pages stay dirty, and
    ///   wired pages are not touched (rows M-03, M-04, Q-04). Pages that share a 2 MiB mapping with others stay
    ///   mapped when no frame is left to split it with.
    /// - [`SyncFlags::KILLPAGES`], [`SyncFlags::DEACTIVATE`]: nothing is synced, whatever else is set (row M-07).
    ///   Objects with guest RAM as pager count as external, and no reference marks are kept, so nothing else
    ///   happens either.
    /// - [`SyncFlags::CONTIGUOUS`]: reports holes.
    ///
    /// Protections and wirings are not consulted (rows H-08 and H-09). Unknown flags are ignored. A size of 0
    /// succeeds whatever the flags are (row S-02).
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: both SYNCHRONOUS and ASYNCHRONOUS.
    /// - [`KernReturn::InvalidAddress`]: address and size wrap; or a page is not allocated, with CONTIGUOUS.
    /// - [`KernReturn::Failure`]: the host failed to write a run. XNU would report success; FreeBSD `vm_map_sync` does this
    ///   (row D-B). Also where the host keeps nothing stable, or storage has failed before, even if there is nothing to
    ///   write. Comes before the report of a hole.
    ///
    /// # Partial effects
    /// The whole range is processed before any error but the argument errors is returned. Pages whose write
    /// failed stay dirty and resident. With KILLPAGES the range ends at the first hole (row H-02).
    pub async fn msync(&self, address: u64, size: u64, flags: SyncFlags) -> Result<(), KernReturn> {
        if size == 0 {
            return Ok(());
        }
        if flags.contains(SyncFlags::SYNCHRONOUS | SyncFlags::ASYNCHRONOUS) {
            return Err(KernReturn::InvalidArgument);
        }
        let range = touched_pages(address, size).ok_or(KernReturn::InvalidAddress)?;
        let (mut writes, has_hole) = loop {
            match self.locked(|state| self.begin_msync(state, range, flags)) {
                Step::Wait(wait) => wait.await,
                Step::Done(begun) => break begun,
            }
        };
        let mut failed = writes.refused;
        if !writes.runs.is_empty() {
            self.vm.host().sync(&mut writes.runs, writes.mode).await;
            failed = writes.runs.iter().find_map(|sync| sync.result.err()).or(failed);
        } else if flags.sends() {
            failed = self.vm.host().refuses_sync().or(failed);
        }
        drop(writes);
        let mut result = Ok(());
        if let Some(error) = failed {
            self.note_host_error(error);
            result = Err(KernReturn::from_sync_error(error));
        }
        self.debug_check();
        if has_hole {
            result = result.and(Err(KernReturn::InvalidAddress));
        }
        result
    }

    /// Does all that happens before the host is called; tells whether the range has a hole that is to be reported.
    fn begin_msync(
        &self,
        state: &mut MapState<P>,
        range: PageRange,
        flags: SyncFlags,
    ) -> Step<Wait<'_>, (WriteBack<'_, P>, bool)> {
        let mode = if flags.contains(SyncFlags::SYNCHRONOUS) { SyncMode::Wait } else { SyncMode::NoWait };
        let mut writes = WriteBack { vm: &self.vm, mode, pages: Vec::new(), refused: None, runs: Vec::new() };
        let has_hole = flags.contains(SyncFlags::CONTIGUOUS) && state.entries.next_gap(range).is_some();
        // Killing pages or letting them age wins over syncing (row M-07), and does nothing to pages in RAM.
        if flags.discards() {
            return Step::Done((writes, has_hole));
        }
        let sends = flags.sends();
        // Nothing is held while this waits, so calls that wait for each other's writes can't lock each other out.
        if sends && mode == SyncMode::Wait {
            // Begun before the look: a write ends under the objects' lock alone.
            let wait = self.vm.idle().wait();
            if state.any_cleaning(range) {
                return Step::Wait(wait);
            }
        }
        if flags.contains(SyncFlags::INVALIDATE) {
            state.invalidate(range);
        }
        if sends {
            state.begin_writes(range, &mut writes);
        }
        Step::Done((writes, has_hole))
    }
}

impl<P: Ports> MapState<P> {
    fn any_cleaning(&self, range: PageRange) -> bool {
        let objects = self.vm.objects();
        let mut cleaning = false;
        for (start, entry) in self.entries.meeting(range) {
            let Some(window) = entry.window(start, entry.range(start).intersection(range)) else { continue };
            objects.table.for_each(window.object, window.indices, |_, found| {
                cleaning |= matches!(found, Found::Resident { extent, .. } if extent.cleaning);
            });
        }
        cleaning
    }

    /// Unmaps the unwired entries of `range`, those that touch in one go, so that a 2 MiB mapping which they share
    /// is not split.
    fn invalidate(&mut self, range: PageRange) {
        let vm = Arc::clone(&self.vm);
        let mut objects = vm.objects();
        let mut rest = range;
        while let Some(unwired) = self.entries.next_where(rest, |entry| entry.wired_count == 0) {
            // Without a frame to split a 2 MiB mapping with, the pages stay mapped: the bytes are the same either
            // way, and a wired page in the same mapping must not go (row Q-04).
            self.try_unmap(&mut objects, unwired).unwrap_or_default();
            rest.start = unwired.end;
        }
    }

    /// Adds the dirty pages of `range` to `writes` and, if they will be waited for, marks them.
    fn begin_writes(&mut self, range: PageRange, writes: &mut WriteBack<'_, P>) {
        let vm = Arc::clone(&self.vm);
        let mut objects = vm.objects();
        self.collect_all_dirty(&mut objects, range);
        for (start, entry) in self.entries.meeting(range) {
            if let Some(window) = entry.window(start, entry.range(start).intersection(range)) {
                objects.table.for_each(window.object, window.indices, |_, found| {
                    if let Found::Resident { owner, index, extent } = found {
                        writes.add(owner, &objects.table[owner].pager, index, extent);
                    }
                });
            }
        }
        for (object, pages) in &writes.pages {
            objects.table[*object].holds += 1;
            if writes.mode == SyncMode::Wait {
                objects.table[*object].resident.begin_cleaning(*pages);
            }
        }
    }
}

impl<P: Ports> WriteBack<'_, P> {
    /// Adds the pages of `extent`, from page `index` of `object` on, if they are dirty; adjacent frames as one run.
    fn add(&mut self, object: ObjectId, pager: &Pager, index: u64, extent: Extent) {
        if !extent.dirty {
            return;
        }
        match pager {
            Pager::Ram => {}
            // Nobody keeps what is written to a made-up file, so nobody can make it stable.
            Pager::File(_) => {
                self.refused = Some(HostError::Unsupported);
                return;
            }
        }
        let pages = PageRange::new(index, index + extent.frames.pages);
        match (self.pages.last_mut(), self.runs.last_mut()) {
            (Some((known, last)), Some(sync))
                if *known == object && last.end == pages.start && sync.run.end() == extent.frames.first =>
            {
                last.end = pages.end;
                sync.run.pages += pages.len();
            }
            _ => {
                self.pages.push((object, pages));
                self.runs.push(SyncRun { run: extent.frames, result: Err(HostError::Rejected) });
            }
        }
    }
}

impl<P: Ports> Drop for WriteBack<'_, P> {
    fn drop(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let mut objects = self.vm.objects();
        for ((object, pages), sync) in self.pages.iter().zip(&self.runs) {
            if self.mode == SyncMode::Wait {
                objects.table[*object].resident.end_cleaning(*pages, sync.result.is_err());
            }
            objects.table.let_go(*object, self.vm.frames());
        }
        drop(objects);
        self.vm.idle().wake_all();
    }
}

#[cfg(test)]
mod test;
