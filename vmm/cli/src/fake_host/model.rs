//! The model's end of the contract.

use std::sync::Arc;

use wirevm_abi::Status;
use wirevm_devices::pin::{LockFaults, lock_error_status};
use wirevm_devices::sync::Wait;
use wirevm_map::fake::{FakeHost, block_on};
use wirevm_map::{FrameRun, Host, HostError, SyncMode, SyncRun};

use super::ram::ModelRam;
use crate::in_process::HostServices;

/// A ledger of wired frames with a quota, orders for failures, and storage that never fails.
#[derive(Debug)]
pub(super) struct Model {
    ledger: Arc<FakeHost>,
    ram: Arc<ModelRam>,
    lock_faults: LockFaults,
    quota_pages: u64,
    durable: bool,
}

impl Model {
    /// Makes a host over a RAM. `durable` tells whether it has storage to sync to.
    pub(super) fn new(ram: Arc<ModelRam>, lock_faults: LockFaults, quota_pages: u64, durable: bool) -> Self {
        let ledger = Arc::new(FakeHost::new(Arc::clone(ram.bytes())));
        ledger.set_quota(quota_pages);
        Self { ledger, ram, lock_faults, quota_pages, durable }
    }

    /// Returns the ledger, for questions.
    pub(super) fn ledger(&self) -> Arc<FakeHost> {
        Arc::clone(&self.ledger)
    }
}

/// Returns how many frames a ledger has wired.
pub(super) fn wired_pages(ledger: &FakeHost) -> u64 {
    ledger.wired().iter().map(|run| run.pages).sum()
}

const fn status_of(error: HostError) -> Status {
    match error {
        HostError::Rejected => Status::INVALID_ARGUMENT,
        HostError::Shortage => Status::RESOURCE_SHORTAGE,
        HostError::Quota => Status::QUOTA,
        HostError::Io => Status::IO_ERROR,
        HostError::Poisoned => Status::POISONED,
        HostError::Unsupported => Status::UNSUPPORTED,
        HostError::Busy => Status::BUSY,
    }
}

impl HostServices for Model {
    fn wire(&self, run: FrameRun) -> Status {
        // As with a real host, what the quota refuses never comes to a lock.
        if wired_pages(&self.ledger) + run.pages > self.quota_pages {
            return Status::QUOTA;
        }
        if let Err(error) = self.lock_faults.strike() {
            return lock_error_status(&error);
        }
        block_on(self.ledger.wire(&[run])).map_or_else(status_of, |()| Status::OK)
    }

    fn unwire(&self, run: FrameRun) -> Status {
        block_on(self.ledger.unwire(&[run]));
        Status::OK
    }

    fn sync(&self, runs: &[FrameRun], wait: Wait) -> Vec<Status> {
        if !self.durable {
            return vec![Status::UNSUPPORTED; runs.len()];
        }
        let (mode, granted) = match wait {
            Wait::Wait => (SyncMode::Wait, Status::OK),
            Wait::NoWait => (SyncMode::NoWait, Status::PENDING),
        };
        let asked = |run: &FrameRun| SyncRun { run: *run, result: Err(HostError::Rejected) };
        let mut items: Vec<SyncRun> = runs.iter().map(asked).collect();
        block_on(self.ledger.sync(&mut items, mode));
        let answer = |item: &SyncRun| match (item.result, wait) {
            (Ok(()), Wait::Wait) => {
                self.ram.unmark(item.run);
                granted
            }
            (Ok(()), Wait::NoWait) => granted,
            (Err(error), _) => status_of(error),
        };
        items.iter().map(answer).collect()
    }

    fn offers_sync(&self) -> bool {
        self.durable
    }

    fn check(&self, wired: Option<&[FrameRun]>) -> Result<(), String> {
        // Nobody reads the log; it must not grow for ever.
        drop(self.ledger.take_log());
        if let Some(violation) = self.ledger.violations().first() {
            return Err(format!("the host's contract was broken: {violation}"));
        }
        let (Some(wired), ledger) = (wired, self.ledger.wired()) else { return Ok(()) };
        let frames = |runs: &[FrameRun]| runs.iter().flat_map(|run| run.first..run.end()).collect::<Vec<_>>();
        if frames(wired) == frames(&ledger) {
            Ok(())
        } else {
            Err(format!("the host has wired {ledger:?}, the guest {wired:?}"))
        }
    }
}

#[cfg(test)]
mod test {
    use std::num::NonZero;
    use std::sync::Arc;

    use wirevm_abi::Status;
    use wirevm_devices::pin::LockFaults;
    use wirevm_devices::sync::Wait;
    use wirevm_map::FrameRun;

    use super::{Model, wired_pages};
    use crate::fake_host::ram::ModelRam;
    use crate::in_process::{FrameBytes, HostServices};

    fn model(durable: bool) -> (Arc<ModelRam>, LockFaults, Model) {
        let (ram, faults) = (Arc::new(ModelRam::default()), LockFaults::default());
        let model = Model::new(Arc::clone(&ram), faults.clone(), 8, durable);
        (ram, faults, model)
    }

    #[test]
    fn wire_is_refused_by_quota_first_and_then_by_the_order() {
        let (_, faults, model) = model(true);
        faults.fail_nth(NonZero::<u64>::MIN, libc::ENOMEM);
        assert_eq!(model.wire(FrameRun::new(0, 9)), Status::QUOTA);
        assert_eq!(model.wire(FrameRun::new(0, 8)), Status::RESOURCE_SHORTAGE);
        assert_eq!(model.wire(FrameRun::new(0, 8)), Status::OK);
        assert_eq!(wired_pages(&model.ledger()), 8);
        let halves = [FrameRun::new(0, 4), FrameRun::new(4, 4)];
        assert_eq!((model.check(None), model.check(Some(&halves))), (Ok(()), Ok(())));
        assert!(model.check(Some(&halves[..1])).is_err_and(|reason| reason.contains("the host has wired")));
        assert_eq!((model.unwire(FrameRun::new(0, 8)), model.check(Some(&[]))), (Status::OK, Ok(())));
        assert_eq!(model.unwire(FrameRun::new(0, 8)), Status::OK);
        assert!(model.check(None).is_err_and(|reason| reason.contains("contract")));
    }

    #[test]
    fn sync_takes_marks_off_where_it_waits_for_storage() {
        let (ram, _, model) = model(true);
        let run = FrameRun::new(3, 2);
        ram.write(4, 9, &[1]);
        ram.write(5, 0, &[1]);
        assert_eq!(model.sync(&[run], Wait::NoWait), [Status::PENDING]);
        assert_eq!(ram.dirty_pages(FrameRun::new(0, 10)), 2);
        assert_eq!(model.sync(&[run], Wait::Wait), [Status::OK]);
        assert_eq!(ram.dirty_pages(FrameRun::new(0, 10)), 1);
    }

    #[test]
    fn sync_without_storage_is_unsupported() {
        let (_, _, model) = model(false);
        assert!(!model.offers_sync());
        assert_eq!(model.sync(&[FrameRun::new(3, 2)], Wait::Wait), [Status::UNSUPPORTED]);
    }
}
