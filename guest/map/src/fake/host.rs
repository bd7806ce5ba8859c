//! The fake's host.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::executor::yield_now;
use super::ram::FakeRam;
use super::stores::FakeStores;
use super::{Failure, strike};
use crate::ports::{Host, HostError, StoreId, StoreKind, StoreRun, SyncRun};
use crate::units::{FrameRun, PageRange};
use crate::wait::WaitQueue;

/// A call that the host received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// [`Host::wire`] of these runs.
    Wire(Vec<FrameRun>),
    /// [`Host::unwire`] of these runs.
    Unwire(Vec<FrameRun>),
    /// [`Host::sync`] of these runs.
    Sync(Vec<FrameRun>),
    /// [`Host::data_request`] of these pages of a store.
    DataRequest(StoreId, PageRange),
    /// [`Host::data_return`] of these pages of a store.
    DataReturn(StoreId, Vec<PageRange>),
    /// [`Host::synchronize`] of these pages of a store.
    Synchronize(StoreId, PageRange),
}

/// A host that does as scripted, keeps its own ledger and notes what breaks the contract.
#[derive(Debug)]
pub struct FakeHost {
    ram: Arc<FakeRam>,
    state: Mutex<HostState>,
    gate: WaitQueue,
}

#[derive(Debug, Default)]
struct HostState {
    /// The frames that are wired, as runs that don't overlap: first frame to pages.
    wired: BTreeMap<u64, u64>,
    quota_pages: Option<u64>,
    wire_failure: Option<Failure<HostError>>,
    sync_failure: Option<Failure<HostError>>,
    sync_refusal: Option<HostError>,
    store_failure: Option<Failure<HostError>>,
    stores: FakeStores,
    /// Calls under way.
    outstanding: u64,
    /// Calls about storage that have ended.
    answered: u64,
    /// The synchronizations under way.
    synchronizing: Vec<(StoreId, PageRange)>,
    is_held: bool,
    yields: bool,
    log: Vec<HostCall>,
    violations: Vec<String>,
}

impl FakeHost {
    /// Returns a host where nothing is wired and every call succeeds at once.
    #[must_use]
    pub fn new(ram: Arc<FakeRam>) -> Self {
        Self { ram, state: Mutex::default(), gate: WaitQueue::new() }
    }

    /// Lets one wire call fail with `error`, after `after` more have succeeded.
    pub fn fail_wire(&self, after: u64, error: HostError) {
        self.state.lock().wire_failure = Some(Failure { after, error });
    }

    /// Lets every sync be refused with that error from now on, or none any more.
    pub fn refuse_sync(&self, error: Option<HostError>) {
        self.state.lock().sync_refusal = error;
    }

    /// Lets one run of a sync call fail with `error`, after `after` more have succeeded.
    pub fn fail_sync(&self, after: u64, error: HostError) {
        self.state.lock().sync_failure = Some(Failure { after, error });
    }

    /// Lets one call about a store fail with `error`, after `after` more have succeeded: a request, one run of a return, or a
    /// synchronization, which loses what it was about.
    pub fn fail_store(&self, after: u64, error: HostError) {
        self.state.lock().store_failure = Some(Failure { after, error });
    }

    /// Makes the file of a store, each byte of its `pages` pages being `byte`, all stable.
    pub fn fill_store(&self, name: &str, pages: u64, byte: u8) {
        self.state.lock().stores.fill(name, pages, byte);
    }

    /// Returns the first byte of a store's page as a reader of its file sees it, and as a power cut leaves it; `None` where there is
    /// no such page.
    pub fn store_byte(&self, name: &str, page: u64) -> Option<(u8, u8)> {
        self.state.lock().stores.byte(name, page)
    }

    /// Reads a store's page as a reader of its file sees it; `false` where there is none.
    pub fn read_store(&self, name: &str, page: u64, into: &mut [u8; 4096]) -> bool {
        self.state.lock().stores.read(name, page, into)
    }

    /// Returns how many pages a store's file has; 0 where there is none.
    pub fn store_pages(&self, name: &str) -> u64 {
        self.state.lock().stores.pages(name)
    }

    /// Tells whether a store is open.
    pub fn is_store_open(&self, name: &str) -> bool {
        self.state.lock().stores.is_open(name)
    }

    /// Returns how many stores are open.
    pub fn open_stores(&self) -> usize {
        self.state.lock().stores.open_stores()
    }

    /// Withdraws the failures that have not happened.
    pub fn withdraw_failures(&self) {
        let mut state = self.state.lock();
        (state.wire_failure, state.sync_failure, state.store_failure) = (None, None, None);
    }

    /// Refuses wires with [`HostError::Quota`] that would wire more than `pages` pages in all.
    pub fn set_quota(&self, pages: u64) {
        self.state.lock().quota_pages = Some(pages);
    }

    /// Keeps calls pending until [`FakeHost::release`]. Their effect comes then; a sync's bytes are those of
    /// the moment it was called.
    pub fn hold(&self) {
        self.state.lock().is_held = true;
    }

    /// Lets the calls go on that [`FakeHost::hold`] has stopped.
    pub fn release(&self) {
        self.state.lock().is_held = false;
        self.gate.wake_all();
    }

    /// Decides whether every call lets other tasks run before it takes effect.
    pub fn set_yielding(&self, yields: bool) {
        self.state.lock().yields = yields;
    }

    /// Takes the calls received since the last time, in order.
    pub fn take_log(&self) -> Vec<HostCall> {
        core::mem::take(&mut self.state.lock().log)
    }

    /// Returns what broke the contract so far.
    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// Returns the wired frames in order, adjacent ones joined.
    pub fn wired(&self) -> Vec<FrameRun> {
        let mut runs: Vec<FrameRun> = Vec::new();
        for (&first, &pages) in &self.state.lock().wired {
            match runs.last_mut() {
                Some(run) if run.end() == first => run.pages += pages,
                _ => runs.push(FrameRun::new(first, pages)),
            }
        }
        runs
    }

    /// Notes that a call is under way until what this returns is dropped.
    fn enter(&self) -> Outstanding<'_> {
        self.state.lock().outstanding += 1;
        Outstanding(self)
    }

    /// Stays pending as long as the script wants.
    async fn pass(&self) {
        if self.state.lock().yields {
            yield_now().await;
        }
        loop {
            let wait = {
                let state = self.state.lock();
                if !state.is_held {
                    return;
                }
                self.gate.wait()
            };
            wait.await;
        }
    }
}

/// A call under way.
struct Outstanding<'a>(&'a FakeHost);

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.outstanding -= 1;
        state.answered += 1;
    }
}

impl HostState {
    /// Notes a call that names no frames or an empty run.
    fn check_runs(&mut self, runs: &[FrameRun]) {
        if runs.is_empty() || runs.iter().any(|run| run.pages == 0) {
            self.violations.push(alloc::format!("a call names no frames: {runs:?}"));
        }
    }

    fn wire(&mut self, run: FrameRun) {
        let before = self.wired.range(..run.end()).next_back().map(|(first, pages)| first + pages);
        if before.is_some_and(|end| end > run.first) {
            self.violations.push(alloc::format!("wired twice: {run:?}"));
        }
        self.wired.insert(run.first, run.pages);
    }

    fn unwire(&mut self, run: FrameRun) {
        let mut missing = run.pages;
        while let Some((&first, &pages)) = self.wired.range(..run.end()).next_back()
            && first + pages > run.first
        {
            self.wired.remove(&first);
            let end = first + pages;
            if first < run.first {
                self.wired.insert(first, run.first - first);
            }
            if end > run.end() {
                self.wired.insert(run.end(), end - run.end());
            }
            missing -= end.min(run.end()) - first.max(run.first);
        }
        if missing > 0 {
            self.violations.push(alloc::format!("unwired without being wired: {missing} pages of {run:?}"));
        }
    }
}

impl Host for FakeHost {
    fn refuses_sync(&self) -> Option<HostError> {
        self.state.lock().sync_refusal
    }

    async fn wire(&self, runs: &[FrameRun]) -> Result<(), HostError> {
        self.state.lock().log.push(HostCall::Wire(runs.to_vec()));
        self.pass().await;
        let mut state = self.state.lock();
        state.check_runs(runs);
        if let Some(error) = strike(&mut state.wire_failure) {
            return Err(error);
        }
        let total: u64 = state.wired.values().sum::<u64>() + runs.iter().map(|run| run.pages).sum::<u64>();
        if state.quota_pages.is_some_and(|quota| total > quota) {
            return Err(HostError::Quota);
        }
        for &run in runs {
            state.wire(run);
        }
        Ok(())
    }

    async fn unwire(&self, runs: &[FrameRun]) {
        self.state.lock().log.push(HostCall::Unwire(runs.to_vec()));
        self.pass().await;
        let mut state = self.state.lock();
        state.check_runs(runs);
        for &run in runs {
            state.unwire(run);
        }
    }

    async fn sync(&self, runs: &mut [SyncRun]) {
        let frames: Vec<FrameRun> = runs.iter().map(|sync| sync.run).collect();
        let snapshots: Vec<_> = frames.iter().map(|&run| self.ram.snapshot(run)).collect();
        self.state.lock().check_runs(&frames);
        self.state.lock().log.push(HostCall::Sync(frames));
        let _under_way = self.enter();
        self.pass().await;
        for (sync, snapshot) in runs.iter_mut().zip(snapshots) {
            let failure = strike(&mut self.state.lock().sync_failure);
            sync.result = failure.map_or(Ok(()), Err);
            if failure.is_none() {
                self.ram.persist(sync.run, snapshot);
            }
        }
    }

    fn outstanding(&self) -> u64 {
        self.state.lock().outstanding
    }

    fn answered(&self) -> u64 {
        self.state.lock().answered
    }

    fn open_store(&self, name: &str, pages: u64, kind: StoreKind) -> Result<StoreId, HostError> {
        let mut state = self.state.lock();
        if let Some(error) = strike(&mut state.store_failure) {
            return Err(error);
        }
        state.stores.open(name, pages, kind)
    }

    fn close_store(&self, store: StoreId) {
        let mut state = self.state.lock();
        if !state.stores.close(store) {
            state.violations.push(alloc::format!("{store:?} was closed and is not open"));
        }
    }

    async fn data_request(&self, store: StoreId, first: u64, frames: FrameRun) -> Result<(), HostError> {
        let pages = PageRange::new(first, first + frames.pages);
        self.state.lock().check_runs(&[frames]);
        self.state.lock().log.push(HostCall::DataRequest(store, pages));
        let _under_way = self.enter();
        self.pass().await;
        if let Some(error) = strike(&mut self.state.lock().store_failure) {
            return Err(error);
        }
        for (page, frame) in (pages.start..pages.end).zip(frames.first..) {
            let supplied = self.state.lock().stores.supply(store, page)?;
            self.ram.write(frame, 0, &supplied.unwrap_or_else(|| alloc::vec![0; 4096]));
        }
        Ok(())
    }

    /// What the store gets is what the frames hold when it is called.
    async fn data_return(&self, store: StoreId, runs: &mut [StoreRun]) {
        let frames: Vec<FrameRun> = runs.iter().map(|run| run.frames).collect();
        let pages = runs.iter().map(|run| PageRange::new(run.first, run.first + run.frames.pages)).collect();
        let snapshots: Vec<_> = frames.iter().map(|&run| self.ram.snapshot(run)).collect();
        self.state.lock().check_runs(&frames);
        self.state.lock().log.push(HostCall::DataReturn(store, pages));
        let _under_way = self.enter();
        self.pass().await;
        for (run, mut snapshot) in runs.iter_mut().zip(snapshots) {
            let mut state = self.state.lock();
            run.result = strike(&mut state.store_failure).map_or(Ok(()), Err);
            for (page, frame) in (run.first..).zip(run.frames.first..run.frames.end()) {
                let bytes =
                    snapshot.iter_mut().find(|(known, _)| *known == frame).map(|(_, bytes)| core::mem::take(bytes));
                if run.result.is_ok() {
                    run.result = state.stores.take_back(store, page, bytes);
                }
            }
        }
    }

    /// What is given back is zero on stable storage as well.
    fn discard(&self, run: FrameRun) -> Result<(), HostError> {
        let before = self.state.lock().wired.range(..run.end()).next_back().map(|(first, pages)| first + pages);
        if before.is_some_and(|end| end > run.first) {
            return Err(HostError::Busy);
        }
        self.ram.discard(run);
        Ok(())
    }

    async fn synchronize(&self, store: StoreId, pages: PageRange) -> Result<(), HostError> {
        {
            let mut state = self.state.lock();
            state.log.push(HostCall::Synchronize(store, pages));
            let overlaps =
                |&(other, known): &(StoreId, PageRange)| other == store && !known.intersection(pages).is_empty();
            if state.synchronizing.iter().any(overlaps) {
                state.violations.push(alloc::format!("synchronizations of {store:?} overlap at {pages}"));
            }
            state.synchronizing.push((store, pages));
        }
        let _under_way = self.enter();
        self.pass().await;
        let mut state = self.state.lock();
        let ended = state.synchronizing.iter().position(|known| *known == (store, pages));
        ended.map(|at| state.synchronizing.swap_remove(at));
        let failure = strike(&mut state.store_failure);
        state.stores.synchronize(store, pages, failure)
    }
}

#[cfg(test)]
mod test {
    use alloc::sync::Arc;

    use super::{FakeHost, HostCall};
    use crate::fake::{Executor, FakeRam, block_on};
    use crate::ports::{Host, HostError, SyncRun};
    use crate::units::FrameRun;

    fn host() -> FakeHost {
        FakeHost::new(Arc::default())
    }

    #[test]
    fn unwire_inside_a_run_leaves_both_sides_wired() {
        let host = host();
        assert_eq!(block_on(host.wire(&[FrameRun::new(10, 10)])), Ok(()));
        block_on(host.unwire(&[FrameRun::new(12, 3)]));
        assert_eq!(host.wired(), [FrameRun::new(10, 2), FrameRun::new(15, 5)]);
        block_on(host.unwire(&[FrameRun::new(10, 2), FrameRun::new(15, 5)]));
        assert_eq!(host.wired(), []);
        assert!(host.violations().is_empty());
    }

    #[test]
    fn wire_twice_and_unwire_of_nothing_are_violations() {
        let host = host();
        assert_eq!(block_on(host.wire(&[FrameRun::new(10, 10)])), Ok(()));
        assert_eq!(block_on(host.wire(&[FrameRun::new(19, 2)])), Ok(()));
        assert_eq!(host.violations().len(), 1);
        block_on(host.unwire(&[FrameRun::new(30, 1)]));
        assert_eq!(host.violations().len(), 2);
        assert_eq!(block_on(host.wire(&[])), Ok(()));
        assert_eq!(host.violations().len(), 3);
    }

    #[test]
    fn wire_beyond_the_quota_or_as_scripted_fails_and_wires_nothing() {
        let host = host();
        host.set_quota(4);
        host.fail_wire(1, HostError::Shortage);
        assert_eq!(block_on(host.wire(&[FrameRun::new(0, 4)])), Ok(()));
        assert_eq!(block_on(host.wire(&[FrameRun::new(8, 1)])), Err(HostError::Shortage));
        assert_eq!(block_on(host.wire(&[FrameRun::new(8, 1)])), Err(HostError::Quota));
        assert_eq!(host.wired(), [FrameRun::new(0, 4)]);
    }

    #[test]
    fn discard_is_refused_where_a_frame_is_wired_and_zeroes_all_copies_elsewhere() {
        let ram = Arc::new(FakeRam::default());
        let host = FakeHost::new(Arc::clone(&ram));
        ram.write(4, 0, &[1]);
        let mut runs = [SyncRun { run: FrameRun::new(4, 1), result: Err(HostError::Rejected) }];
        block_on(host.sync(&mut runs));
        assert_eq!(block_on(host.wire(&[FrameRun::new(2, 1)])), Ok(()));
        assert_eq!(host.discard(FrameRun::new(2, 3)), Err(HostError::Busy));
        assert_eq!((host.discard(FrameRun::new(3, 2)), host.answered()), (Ok(()), 1));
        let mut bytes = [[9], [9]];
        ram.read(4, 0, &mut bytes[0]);
        ram.read_stable(4, 0, &mut bytes[1]);
        assert_eq!(bytes, [[0], [0]]);
    }

    #[test]
    fn sync_held_makes_the_bytes_of_its_call_stable_after_release() {
        let ram = Arc::new(FakeRam::default());
        let host = FakeHost::new(Arc::clone(&ram));
        ram.write(3, 0, &[1]);
        host.hold();
        let mut runs = [SyncRun { run: FrameRun::new(3, 1), result: Err(HostError::Rejected) }];
        let mut executor = Executor::new(0);
        executor.spawn(host.sync(&mut runs));
        assert_eq!(executor.run_until_stalled(), 1);
        ram.write(3, 0, &[2]);
        let mut byte = [9];
        ram.read_stable(3, 0, &mut byte);
        assert_eq!(byte, [0]);
        host.release();
        assert_eq!(executor.run(), Ok(()));
        drop(executor);
        ram.read_stable(3, 0, &mut byte);
        assert_eq!((byte, runs[0].result), ([1], Ok(())));
        assert_eq!(host.take_log(), [HostCall::Sync([FrameRun::new(3, 1)].to_vec())]);
    }
}
