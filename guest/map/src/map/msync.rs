//! Synchronisation with backing storage: XNU `vm_map_msync`, with the handshake that its manual page promises.

mod sending;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use smallvec::SmallVec;

use super::{MapState, Step, VmMap, touched_pages};
use crate::flags::SyncFlags;
use crate::kern_return::KernReturn;
use crate::objects::{Extent, Found, ObjectId, Objects, Pager, Returns, Sending};
#[cfg(test)]
use crate::planted::{Mutant, is_planted};
use crate::ports::{Host, HostError, Ports};
use crate::units::PageRange;
use crate::vm::Vm;
use crate::wait::Wait;

pub(crate) use sending::{Outgoing, send};
use sending::{RamWrite, all, detach};

/// What a call has begun under the map's lock.
struct Begun<P: Ports> {
    /// What is to be sent, and awaited or left to itself.
    outgoing: SmallVec<[Outgoing<P>; 1]>,
    /// Memory whose home is guest RAM is among the range: what refuses every sync of that refuses this one.
    has_ram: bool,
    /// Why some pages could not be sent.
    refused: Option<HostError>,
    /// The range has a hole that is to be reported.
    has_hole: bool,
    /// The parts of the range that are other maps' to sync.
    submaps: Vec<(PageRange, Arc<VmMap<P>>)>,
}

impl<P: Ports> VmMap<P> {
    /// Gives the dirty and precious pages among those that `size` bytes from `address` touch back to their managers, and has
    /// them put on backing storage (XNU `vm_msync`; decisions D-A and D-B of the semantics table).
    ///
    /// Memory's manager is guest RAM itself unless it shows an object with another one.
    ///
    /// - [`SyncFlags::SYNCHRONOUS`]: returns when the bytes are on backing storage. Pages that were sent and
    ///   not written again meanwhile are clean then. A write that is already in flight is waited for.
    /// - [`SyncFlags::ASYNCHRONOUS`]: the writing is started. Pages are being cleaned until it ends, which makes them clean, or
    ///   dirty again; a later synchronous call waits for that. A manager that is a task is waited for all the same: what the flag
    ///   changes is when it answers (row K-05).
    /// - [`SyncFlags::INVALIDATE`]: unwired pages leave the cache: what was sent, when its write has succeeded; clean pages at
    ///   once. Without one of the flags above dirty pages are lost, and precious ones are sent and awaited. Where the manager is
    ///   guest RAM, the resident page *is* its copy, so the bytes stay as they are and dirty pages dirty. Wired pages stay
    ///   (rows M-03, M-04, Q-04), and mapped pages that share a 2 MiB mapping with others when no frame is left to split it with.
    /// - [`SyncFlags::KILLPAGES`]: unwired pages of memory that is no object's and that nobody shares need not be written any
    ///   more, whatever they hold (row M-05). The range ends at the first hole (row H-02). Nothing is synced, whatever else is
    ///   set (row M-07).
    /// - [`SyncFlags::DEACTIVATE`]: nothing is synced, and as no reference marks are kept nothing else happens.
    /// - [`SyncFlags::CONTIGUOUS`]: reports holes.
    ///
    /// Protections and wirings are not consulted (rows H-08 and H-09). What a private mapping has written is no object's page
    /// (row H-07). Unknown flags are ignored. A size of 0 succeeds whatever the flags are (row S-02). Submaps are synced from
    /// where the range meets them on (row H-05).
    ///
    /// # Errors
    /// - [`KernReturn::InvalidArgument`]: both SYNCHRONOUS and ASYNCHRONOUS.
    /// - [`KernReturn::InvalidAddress`]: address and size wrap; or a page is not allocated, with CONTIGUOUS.
    /// - [`KernReturn::Failure`]: a run could not be written, or its manager has failed or died. XNU would report success; FreeBSD
    ///   `vm_map_sync` does this (row D-B). Also where guest RAM has no stable storage, or that has failed before, even if
    ///   there is nothing to write. Comes before the report of a hole.
    ///
    /// # Partial effects
    /// The whole range is processed before any error but the argument errors is returned. Pages whose write
    /// failed stay dirty and resident, also under INVALIDATE.
    pub async fn msync(&self, address: u64, size: u64, flags: SyncFlags) -> Result<(), KernReturn> {
        if size == 0 {
            return Ok(());
        }
        if flags.contains(SyncFlags::SYNCHRONOUS | SyncFlags::ASYNCHRONOUS) {
            return Err(KernReturn::InvalidArgument);
        }
        let range = touched_pages(address, size).ok_or(KernReturn::InvalidAddress)?;
        self.sync_pages(range, flags).await
    }

    async fn sync_pages(&self, range: PageRange, flags: SyncFlags) -> Result<(), KernReturn> {
        let Begun { outgoing, has_ram, refused, has_hole, submaps } = loop {
            match self.locked(|state| self.begin_msync(state, range, flags)) {
                Step::Wait(wait) => wait.await,
                Step::Done(begun) => break begun,
            }
        };
        let mut failed = refused;
        let is_asynchronous = flags.contains(SyncFlags::ASYNCHRONOUS);
        // Whoever does not wait for what is sent learns here that nothing will come of it.
        if flags.sends() && has_ram && (is_asynchronous || !outgoing.iter().any(Outgoing::is_ram)) {
            failed = self.vm.host().refuses_sync().or(failed);
        }
        // All are begun before any is awaited (row K-05).
        let (mut sending, mut error) = (Vec::new(), None);
        for item in outgoing {
            let left_alone = is_asynchronous && !item.is_task();
            #[cfg(test)]
            if left_alone && is_planted(Mutant::AsynchronousBeginsNothing) {
                continue;
            }
            let future = send(Arc::clone(&self.vm), item);
            match detach(&self.vm, Box::pin(future), left_alone).await {
                Ok(result) => error = error.or(result.err()),
                Err(future) => sending.push(future),
            }
        }
        if !sending.is_empty() {
            error = error.or(all(sending).await.into_iter().find_map(Result::err));
        }
        failed = error.or(failed);
        let mut result = Ok(());
        if let Some(error) = failed {
            self.note_host_error(error);
            result = Err(KernReturn::from_sync_error(error));
        }
        self.debug_check();
        let mut has_hole = has_hole;
        for (part, submap) in submaps {
            // Other results than a hole are not lost either (row H-04).
            match Box::pin(submap.sync_pages(part, flags)).await {
                Ok(()) => {}
                Err(KernReturn::InvalidAddress) => has_hole = true,
                Err(code) => result = result.and(Err(code)),
            }
        }
        if has_hole {
            result = result.and(Err(KernReturn::InvalidAddress));
        }
        result
    }

    /// Does all that happens before anybody is called.
    fn begin_msync(&self, state: &mut MapState<P>, range: PageRange, flags: SyncFlags) -> Step<Wait<'_>, Begun<P>> {
        let has_hole = flags.contains(SyncFlags::CONTIGUOUS) && state.entries.next_gap(range).is_some();
        // With KILLPAGES nothing behind the first hole is looked at (row H-02).
        let end = if flags.contains(SyncFlags::KILLPAGES) { state.entries.next_gap(range) } else { None };
        let looked_at = PageRange::new(range.start, end.map_or(range.end, |hole| hole.start));
        let submaps = state.submaps_in(looked_at);
        let mut begun = Begun { outgoing: SmallVec::new(), has_ram: false, refused: None, has_hole, submaps };
        // Killing pages or letting them age wins over syncing (row M-07).
        if flags.discards() {
            if flags.contains(SyncFlags::KILLPAGES) {
                state.kill_pages(looked_at);
            }
            return Step::Done(begun);
        }
        let flushes = flags.contains(SyncFlags::INVALIDATE);
        if flags.sends() || flushes {
            // One hold from the look to the marks: others that sync the same objects through other maps must find these busy.
            let mut objects = self.vm.objects();
            // Nothing is held while this waits, so calls that wait for each other's writes can't lock each other out. Begun
            // before the look: a write ends under the objects' lock alone.
            let wait = self.vm.idle().wait();
            if state.any_busy(&mut objects, range, flags) {
                return Step::Wait(wait);
            }
            #[cfg(test)]
            let mut objects = self.vm.unlock_if(objects, Mutant::SyncLooksUnderAnotherLock);
            if flushes {
                state.invalidate(&mut objects, range);
            }
            state.begin_returns(&mut objects, range, flags, &mut begun);
        }
        Step::Done(begun)
    }
}

impl<P: Ports> MapState<P> {
    /// Tells whether something is under way that a call must wait for.
    fn any_busy(&mut self, objects: &mut Objects<P>, range: PageRange, flags: SyncFlags) -> bool {
        let waits = !flags.contains(SyncFlags::ASYNCHRONOUS);
        if !waits {
            // What is being cleaned and was written since must be written again, and not at the same time.
            self.collect_all_dirty(objects, range);
        }
        let mut busy = false;
        for (start, entry) in self.entries.meeting(range) {
            let Some(window) = entry.window(start, entry.range(start).intersection(range)) else { continue };
            let managed = objects.table[window.object].managed().filter(|_| !window.needs_copy);
            busy |= managed.is_some_and(|managed| managed.is_syncing(window.indices));
            let waits = waits || managed.is_some();
            #[cfg(test)]
            if is_planted(Mutant::SynchronizationsOverlap) {
                continue;
            }
            objects.table.for_each(window.object, window.indices, |_, found| {
                let Found::Resident { owner, extent, .. } = found else { return };
                // What a private mapping hides is not its own (row H-07).
                let is_own = managed.is_some() && owner == window.object || objects.table[owner].managed().is_none();
                busy |= is_own && extent.cleaning && (waits || extent.dirty);
                // What a fork is to copy could not go.
                busy |= is_own && extent.still > 0 && flags.contains(SyncFlags::INVALIDATE);
            });
        }
        busy
    }

    /// Unmaps the unwired entries of `range`, those that touch in one go, so that a 2 MiB mapping which they share
    /// is not split.
    fn invalidate(&mut self, objects: &mut Objects<P>, range: PageRange) {
        let mut rest = range;
        while let Some(unwired) = self.entries.next_where(rest, |entry| entry.wired_count == 0) {
            // Without a frame to split a 2 MiB mapping with, the pages stay mapped: the bytes are the same either
            // way, and a wired page in the same mapping must not go (row Q-04).
            self.try_unmap(objects, unwired).unwrap_or_default();
            rest.start = unwired.end;
        }
    }

    /// Notes that loose pages of `range` need not be written (row M-05).
    fn kill_pages(&mut self, range: PageRange) {
        let vm = Arc::clone(&self.vm);
        let mut objects = vm.objects();
        self.collect_dirty(&mut objects, range);
        for (start, entry) in self.entries.meeting(range) {
            let Some(window) = entry.window(start, entry.range(start).intersection(range)) else { continue };
            let object = &objects.table[window.object];
            let is_own = objects.table.is_unshared(window.object) && object.backing.is_none() && !window.needs_copy;
            if is_own && matches!(object.pager, Pager::Ram) {
                objects.table[window.object].resident.forget_dirty(window.indices);
            }
        }
    }

    /// Adds what is to be sent of `range` to `begun`, and marks it.
    fn begin_returns(&mut self, objects: &mut Objects<P>, range: PageRange, flags: SyncFlags, begun: &mut Begun<P>) {
        let vm = Arc::clone(&self.vm);
        self.collect_all_dirty(objects, range);
        let sending = Sending { dirty: flags.sends(), precious: true, flush: flags.contains(SyncFlags::INVALIDATE) };
        #[cfg(test)]
        let precious = flags.sends() || !is_planted(Mutant::PreciousIsLostByInvalidate);
        #[cfg(test)]
        let sending = Sending { precious, ..sending };
        // Row K-01: the manager is not told whether holes are reported.
        let told = flags.bits() & !SyncFlags::CONTIGUOUS.bits();
        let mut ram = RamWrite::new(&vm);
        let mut parts: Vec<(ObjectId, PageRange)> = Vec::new();
        for (start, entry) in self.entries.meeting(range) {
            let Some(window) = entry.window(start, entry.range(start).intersection(range)) else {
                // An entry without an object has nothing to send (row H-06), but RAM for a home.
                begun.has_ram |= entry.kind.has_pages();
                continue;
            };
            let is_managed = objects.table[window.object].managed().is_some() && !window.needs_copy;
            if is_managed {
                let known = PageRange::new(0, objects.table[window.object].pages);
                parts.push((window.object, window.indices.intersection(known)));
                continue;
            }
            begun.has_ram = true;
            if flags.sends() {
                collect_ram(objects, window.object, window.indices, &mut ram, &mut begun.refused);
            }
        }
        for (object, part) in joined(parts) {
            let returns = objects.begin_returns(object, part, sending, told, vm.frames());
            begun.refused = returns.as_ref().and_then(|returns| returns.refused).or(begun.refused);
            begun.outgoing.extend(returns.map(|returns| Outgoing::returning(&vm, returns)));
        }
        ram.begin(objects);
        if !ram.is_empty() {
            begun.outgoing.push(Outgoing::Ram(ram));
        }
    }
}

/// Joins the parts of each object that overlap or touch: a page that is shown twice is returned once, and that wiring has clipped
/// an entry is nothing that its manager need know.
fn joined(mut parts: Vec<(ObjectId, PageRange)>) -> Vec<(ObjectId, PageRange)> {
    parts.retain(|(_, part)| !part.is_empty());
    parts.sort_by_key(|(object, part)| (*object, part.start));
    let mut joined: Vec<(ObjectId, PageRange)> = Vec::new();
    for (object, part) in parts {
        match joined.last_mut() {
            Some((known, last)) if *known == object && part.start <= last.end => last.end = last.end.max(part.end),
            _ => joined.push((object, part)),
        }
    }
    joined
}

/// Adds the dirty pages to `ram` whose home is guest RAM.
fn collect_ram<P: Ports>(
    objects: &Objects<P>,
    top: ObjectId,
    indices: PageRange,
    ram: &mut RamWrite<P>,
    refused: &mut Option<HostError>,
) {
    objects.table.for_each(top, indices, |_, found| {
        let Found::Resident { owner, index, extent: extent @ Extent { dirty: true, cleaning: false, .. } } = found
        else {
            return;
        };
        match objects.table[owner].pager {
            Pager::Ram => ram.add(owner, index, extent),
            // Nobody keeps what is written to a made-up file, so nobody can make it stable.
            Pager::File(_) => *refused = Some(HostError::Unsupported),
            // Behind a private mapping (row H-07).
            Pager::Managed(_) => {}
        }
    });
}

/// Returns the last pages of an object that nobody uses any more to its manager, and tells the manager of its end (row O-10).
pub(crate) async fn terminate<P: Ports>(vm: Arc<Vm<P>>, id: ObjectId) {
    let returns: Option<Returns> = {
        let mut objects = vm.objects();
        let whole = PageRange::new(0, objects.table[id].pages);
        let sending = Sending { dirty: true, precious: true, flush: true };
        let is_dead = objects.table[id].is_dead;
        let flags = SyncFlags::SYNCHRONOUS | SyncFlags::INVALIDATE;
        #[cfg(test)]
        let is_dead = is_dead || is_planted(Mutant::EndReturnsNothing);
        if is_dead { None } else { objects.begin_returns(id, whole, sending, flags.bits(), vm.frames()) }
    };
    if let Some(returns) = returns {
        let refused = returns.refused;
        let result = send(Arc::clone(&vm), Outgoing::returning(&vm, returns)).await;
        if result.is_err() || refused.is_some() {
            vm.note_lost();
        }
    }
    sending::end_object(&vm, id);
}

#[cfg(test)]
pub(super) mod test;
