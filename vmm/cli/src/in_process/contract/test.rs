//! The map's view on scripted services.

use std::sync::Mutex;

use wirevm_abi::call::MAX_ENTRIES;
use wirevm_abi::op::MAX_DATA_PAGES;
use wirevm_abi::{Status, StoreName, stat};
use wirevm_map::fake::block_on;
use wirevm_map::{FrameRun, Host, HostError, PageRange, StoreId, StoreKind, StoreRun, SyncRun};

use super::{Answer, HostServices, ServiceHost, StoreRequest};

/// Answers from a list and remembers what is wired.
#[derive(Debug, Default)]
struct Scripted {
    answers: Mutex<Vec<Status>>,
    wired: Mutex<Vec<u64>>,
    asked: Mutex<usize>,
    /// Runs of each sync, and requests about stores.
    syncs: Mutex<Vec<usize>>,
    requests: Mutex<Vec<StoreRequest>>,
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
    fn sync(&self, runs: &[FrameRun], answer: Answer) -> Result<(), Status> {
        self.syncs.lock().expect("one thread").push(runs.len());
        answer.give(runs.iter().map(|_| self.next()).collect());
        Ok(())
    }
    fn open_store(&self, _: StoreName, _: u64, _: StoreKind) -> Result<u16, Status> {
        Ok(7)
    }
    fn close_store(&self, _: u16) -> Status {
        self.next()
    }
    fn about_store(&self, store: u16, request: StoreRequest, answer: Answer) -> Result<(), Status> {
        assert_eq!(store, 7);
        self.requests.lock().expect("one thread").push(request);
        answer.give(vec![self.next()]);
        Ok(())
    }
    fn stat(&self, selector: u64) -> Result<u64, Status> {
        if selector == stat::WIRED_PAGES { Ok(3) } else { Err(Status::INVALID_ARGUMENT) }
    }
    fn discard(&self, _: FrameRun) -> Status {
        self.next()
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
fn sync_of_more_runs_than_a_call_holds_is_several_requests() {
    let host = host(vec![]);
    let mut items: Vec<SyncRun> =
        runs(MAX_ENTRIES + 3).into_iter().map(|run| SyncRun { run, result: Err(HostError::Busy) }).collect();
    block_on(host.sync(&mut items));
    assert!(items.iter().all(|item| item.result == Ok(())));
    assert_eq!(*host.services().syncs.lock().expect("one thread"), [MAX_ENTRIES, 3]);
    assert_eq!((host.answered(), host.outstanding()), (1, 0));
    assert_eq!(host.stat(stat::COMPLETIONS), Ok(MAX_ENTRIES as u64 + 3));
}

#[test]
fn returns_are_cut_to_entries_and_each_run_has_its_own_result() {
    let long = FrameRun::new(100, MAX_DATA_PAGES + 1);
    let host = host(vec![Status::OK, Status::IO_ERROR, Status::OK]);
    let run = |first, frames| StoreRun { first, frames, result: Err(HostError::Busy) };
    let mut items = [run(5, long), run(9, FrameRun::new(0, 2))];
    let store = host.open_store("s", 8, StoreKind::Store).expect("a store");
    block_on(host.data_return(store, &mut items));
    assert_eq!(items.map(|item| item.result), [Err(HostError::Io), Ok(())]);
    let part = |first, frames| StoreRequest::Return { first, frames };
    let asked = host.services().requests.lock().expect("one thread").clone();
    assert_eq!(
        asked,
        [
            part(5, FrameRun::new(100, MAX_DATA_PAGES)),
            part(5 + MAX_DATA_PAGES, FrameRun::new(100 + MAX_DATA_PAGES, 1)),
            part(9, FrameRun::new(0, 2)),
        ]
    );
    assert_eq!(host.refuses_sync(), None, "a store's trouble is not RAM's");
}

#[test]
fn store_calls_answer_with_the_map_s_errors() {
    let host = host(vec![Status::OK, Status::POISONED, Status::UNSUPPORTED]);
    assert_eq!(host.open_store("Not a name", 8, StoreKind::Store), Err(HostError::Rejected));
    assert_eq!(block_on(host.data_request(StoreId(7), 3, FrameRun::new(0, 2))), Ok(()));
    assert_eq!(block_on(host.synchronize(StoreId(7), PageRange::new(3, 5))), Err(HostError::Poisoned));
    assert_eq!(host.discard(FrameRun::new(0, 1)), Err(HostError::Unsupported));
    assert_eq!((host.stat(stat::WIRED_PAGES), host.stat(99)), (Ok(3), Err(HostError::Rejected)));
}

#[test]
fn sync_statuses_are_results_by_mode_and_an_error_poisons() {
    let answers = [Status::OK, Status::PENDING, Status::IO_ERROR, Status::NOT_DONE];
    let results = || {
        let host = host(answers.to_vec());
        let mut items: Vec<SyncRun> =
            runs(4).into_iter().map(|run| SyncRun { run, result: Err(HostError::Busy) }).collect();
        assert_eq!(host.refuses_sync(), None);
        block_on(host.sync(&mut items));
        assert_eq!(host.refuses_sync(), Some(HostError::Poisoned));
        items.into_iter().map(|item| item.result).collect::<Vec<_>>()
    };
    let rejected = Err(HostError::Rejected);
    assert_eq!(results(), [Ok(()), rejected, Err(HostError::Io), rejected]);
}
