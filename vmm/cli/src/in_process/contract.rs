//! The guest's end of the contract without a call page: what the guest kernel's hypercall client does, by function call.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use wirevm_abi::Status;
use wirevm_abi::call::MAX_ENTRIES;
use wirevm_devices::sync::Wait;
use wirevm_map::{FrameRun, Host, HostError, SyncMode, SyncRun};

/// The host's end of the contract, one entry of a call at a time.
pub trait HostServices: fmt::Debug + Send + Sync + 'static {
    /// Carries a `WIRE` entry out.
    fn wire(&self, run: FrameRun) -> Status;

    /// Carries an `UNWIRE` entry out.
    fn unwire(&self, run: FrameRun) -> Status;

    /// Carries `SYNC` entries out as one request; as many statuses as runs.
    fn sync(&self, runs: &[FrameRun], wait: Wait) -> Vec<Status>;

    /// Tells whether there is stable storage behind RAM.
    fn offers_sync(&self) -> bool;

    /// Checks the host's own books. `wired` are the frames that the memory system keeps wired, ascending; it is missing
    /// while an operation is under way, which may have asked for more or for less already.
    ///
    /// # Errors
    /// A sentence about the first thing found wrong.
    fn check(&self, wired: Option<&[FrameRun]>) -> Result<(), String>;
}

/// A host as the map sees it.
#[derive(Debug)]
pub struct ServiceHost<S> {
    services: S,
    /// Whether storage has failed: from then on no sync is promised.
    poisoned: AtomicBool,
}

impl<S: HostServices> ServiceHost<S> {
    /// Puts the map's view on services.
    pub const fn new(services: S) -> Self {
        Self { services, poisoned: AtomicBool::new(false) }
    }

    /// Returns the services.
    pub const fn services(&self) -> &S {
        &self.services
    }

    /// Wires one call's worth of runs, or none of them. As in a call, an entry that is refused keeps no other from being
    /// carried out; those that were are undone, and the first refusal is told.
    fn wire_call(&self, call: &[FrameRun]) -> Result<(), HostError> {
        let mut wired = Vec::with_capacity(call.len());
        let mut refused = None;
        for run in call {
            match self.services.wire(*run) {
                Status::OK => wired.push(*run),
                status => refused = refused.or(Some(status)),
            }
        }
        let Some(status) = refused else { return Ok(()) };
        self.unwire_all(&wired);
        Err(error_of(status))
    }

    fn unwire_all(&self, runs: &[FrameRun]) {
        for run in runs {
            let status = self.services.unwire(*run);
            assert!(status == Status::OK, "the host refused to unwire {run:?}: {status}");
        }
    }
}

/// Returns what a status is to the map; the same as in the guest kernel.
const fn error_of(status: Status) -> HostError {
    match status {
        Status::RESOURCE_SHORTAGE => HostError::Shortage,
        Status::QUOTA => HostError::Quota,
        Status::IO_ERROR => HostError::Io,
        Status::POISONED => HostError::Poisoned,
        Status::UNSUPPORTED => HostError::Unsupported,
        Status::BUSY => HostError::Busy,
        _ => HostError::Rejected,
    }
}

impl<S: HostServices> Host for ServiceHost<S> {
    async fn wire(&self, runs: &[FrameRun]) -> Result<(), HostError> {
        for (index, call) in runs.chunks(MAX_ENTRIES).enumerate() {
            if let Err(error) = self.wire_call(call) {
                self.unwire_all(runs.get(..index * MAX_ENTRIES).unwrap_or(&[]));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn unwire(&self, runs: &[FrameRun]) {
        self.unwire_all(runs);
    }

    fn refuses_sync(&self) -> Option<HostError> {
        if !self.services.offers_sync() {
            return Some(HostError::Unsupported);
        }
        self.poisoned.load(Ordering::Acquire).then_some(HostError::Poisoned)
    }

    async fn sync(&self, runs: &mut [SyncRun], mode: SyncMode) {
        let wait = match mode {
            SyncMode::Wait => Wait::Wait,
            SyncMode::NoWait => Wait::NoWait,
        };
        for call in runs.chunks_mut(MAX_ENTRIES) {
            let frames: Vec<FrameRun> = call.iter().map(|item| item.run).collect();
            let statuses = self.services.sync(&frames, wait);
            for (item, status) in call.iter_mut().zip(statuses) {
                if matches!(status, Status::IO_ERROR | Status::POISONED) {
                    self.poisoned.store(true, Ordering::Release);
                }
                item.result = match (status, mode) {
                    (Status::OK, _) | (Status::PENDING, SyncMode::NoWait) => Ok(()),
                    _ => Err(error_of(status)),
                };
            }
        }
    }
}

#[cfg(test)]
mod test {
    use std::sync::Mutex;

    use wirevm_abi::Status;
    use wirevm_abi::call::MAX_ENTRIES;
    use wirevm_devices::sync::Wait;
    use wirevm_map::fake::block_on;
    use wirevm_map::{FrameRun, Host, HostError, SyncMode, SyncRun};

    use super::{HostServices, ServiceHost};

    /// Answers from a list and remembers what is wired.
    #[derive(Debug, Default)]
    struct Scripted {
        answers: Mutex<Vec<Status>>,
        wired: Mutex<Vec<u64>>,
        asked: Mutex<usize>,
    }

    impl Scripted {
        fn next(&self) -> Status {
            self.answers.lock().expect("one thread").pop().unwrap_or(Status::OK)
        }
    }

    impl HostServices for Scripted {
        fn wire(&self, run: FrameRun) -> Status {
            *self.asked.lock().expect("one thread") += 1;
            let status = self.next();
            if status == Status::OK {
                self.wired.lock().expect("one thread").push(run.first);
            }
            status
        }
        fn unwire(&self, run: FrameRun) -> Status {
            self.wired.lock().expect("one thread").retain(|first| *first != run.first);
            Status::OK
        }
        fn sync(&self, runs: &[FrameRun], _: Wait) -> Vec<Status> {
            runs.iter().map(|_| self.next()).collect()
        }
        fn offers_sync(&self) -> bool {
            true
        }
        fn check(&self, _: Option<&[FrameRun]>) -> Result<(), String> {
            Ok(())
        }
    }

    fn host(mut answers: Vec<Status>) -> ServiceHost<Scripted> {
        answers.reverse();
        ServiceHost::new(Scripted { answers: Mutex::new(answers), ..Scripted::default() })
    }

    fn runs(count: usize) -> Vec<FrameRun> {
        (0..count as u64).map(|run| FrameRun::new(run * 2, 1)).collect()
    }

    #[test]
    fn wire_refused_in_the_middle_undoes_all_and_tells_the_first_refusal() {
        let host = host(vec![Status::OK, Status::QUOTA, Status::RESOURCE_SHORTAGE, Status::OK]);
        assert_eq!(block_on(host.wire(&runs(5))), Err(HostError::Quota));
        assert_eq!(*host.services().asked.lock().expect("one thread"), 5, "the whole call is carried out");
        assert!(host.services().wired.lock().expect("one thread").is_empty());
    }

    #[test]
    fn wire_refused_in_a_later_call_undoes_the_earlier_ones_and_begins_no_other() {
        let mut answers = vec![Status::OK; MAX_ENTRIES];
        answers.push(Status::RESOURCE_SHORTAGE);
        let host = host(answers);
        assert_eq!(block_on(host.wire(&runs(2 * MAX_ENTRIES + 1))), Err(HostError::Shortage));
        assert_eq!(*host.services().asked.lock().expect("one thread"), 2 * MAX_ENTRIES);
        assert!(host.services().wired.lock().expect("one thread").is_empty());
    }

    #[test]
    fn sync_statuses_are_results_by_mode_and_an_error_poisons() {
        let answers = [Status::OK, Status::PENDING, Status::IO_ERROR, Status::NOT_DONE];
        let results = |mode| {
            let host = host(answers.to_vec());
            let mut items: Vec<SyncRun> =
                runs(4).into_iter().map(|run| SyncRun { run, result: Err(HostError::Busy) }).collect();
            assert_eq!(host.refuses_sync(), None);
            block_on(host.sync(&mut items, mode));
            assert_eq!(host.refuses_sync(), Some(HostError::Poisoned));
            items.into_iter().map(|item| item.result).collect::<Vec<_>>()
        };
        let rejected = Err(HostError::Rejected);
        assert_eq!(results(SyncMode::Wait), [Ok(()), rejected, Err(HostError::Io), rejected]);
        assert_eq!(results(SyncMode::NoWait), [Ok(()), Ok(()), Err(HostError::Io), rejected]);
    }
}
