//! The fake's host.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use super::executor::yield_now;
use super::ram::FakeRam;
use super::{Failure, strike};
use crate::ports::{Host, HostError, SyncMode, SyncRun};
use crate::units::FrameRun;
use crate::wait::WaitQueue;

/// A call that the host received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// [`Host::wire`] of these runs.
    Wire(Vec<FrameRun>),
    /// [`Host::unwire`] of these runs.
    Unwire(Vec<FrameRun>),
    /// [`Host::sync`] of these runs.
    Sync(Vec<FrameRun>, SyncMode),
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

    /// Withdraws the failures that have not happened.
    pub fn withdraw_failures(&self) {
        let mut state = self.state.lock();
        (state.wire_failure, state.sync_failure) = (None, None);
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

    async fn sync(&self, runs: &mut [SyncRun], mode: SyncMode) {
        let frames: Vec<FrameRun> = runs.iter().map(|sync| sync.run).collect();
        let snapshots: Vec<_> = frames.iter().map(|&run| self.ram.snapshot(run)).collect();
        self.state.lock().check_runs(&frames);
        self.state.lock().log.push(HostCall::Sync(frames, mode));
        self.pass().await;
        for (sync, snapshot) in runs.iter_mut().zip(snapshots) {
            let failure = strike(&mut self.state.lock().sync_failure);
            sync.result = failure.map_or(Ok(()), Err);
            if failure.is_none() && mode == SyncMode::Wait {
                self.ram.persist(sync.run, snapshot);
            }
        }
    }
}

#[cfg(test)]
mod test {
    use alloc::sync::Arc;

    use super::{FakeHost, HostCall};
    use crate::fake::{Executor, FakeRam, block_on};
    use crate::ports::{Host, HostError, SyncMode, SyncRun};
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
    fn sync_held_makes_the_bytes_of_its_call_stable_after_release() {
        let ram = Arc::new(FakeRam::default());
        let host = FakeHost::new(Arc::clone(&ram));
        ram.write(3, 0, &[1]);
        host.hold();
        let mut runs = [SyncRun { run: FrameRun::new(3, 1), result: Err(HostError::Rejected) }];
        let mut executor = Executor::new(0);
        executor.spawn(host.sync(&mut runs, SyncMode::Wait));
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
        assert_eq!(host.take_log(), [HostCall::Sync([FrameRun::new(3, 1)].to_vec(), SyncMode::Wait)]);
    }
}
