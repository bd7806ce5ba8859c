//! The guest's side of the contract: fills the call page, rings the doorbell, reads what became of it, now or by a
//! completion.

mod call_page;
mod completions;
mod requests;

use alloc::vec::Vec;
use core::fmt;
use core::future::{Future, ready};
use core::iter;
use core::sync::atomic::{AtomicBool, Ordering};

use log::warn;
use spin::{Mutex, MutexGuard};
use wirevm_abi::call::{CallEntry, MAX_ENTRIES};
use wirevm_abi::{Status, StoreName, VERSION, feature, op};
use wirevm_agent::host_error_of;
use wirevm_map::{FrameRun, Host, HostError, PageRange, StoreId, StoreKind, StoreRun, SyncRun};

use self::call_page::CallPage;
use self::completions::CompletionRing;
use self::requests::{Arrivals, Calls};
use crate::executor;
use crate::mem::SharedWords;
use crate::pending::Pending;
use crate::percpu;
use crate::timer;

/// What the host said in answer to `HELLO`.
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    /// Feature bits.
    pub features: u64,
    /// Pages that may be wired.
    pub wire_quota: u64,
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sync = if self.features & feature::SYNC != 0 { "sync" } else { "no sync" };
        let stores = if self.features & feature::STORES != 0 { "stores, " } else { "" };
        write!(f, "contract {VERSION}, {sync}, {stores}wire quota {} pages", self.wire_quota)
    }
}

/// Says hello on this processor's call page: the host listens to no call on a page before.
///
/// # Errors
/// The host's status when it does not speak this version.
pub fn greet(page: SharedWords) -> Result<Hello, Status> {
    let hello = CallPage::new(page).call(&CallEntry::new(op::HELLO, 0, [VERSION, 0, 0]))?;
    let [_, features, wire_quota] = hello.words;
    match hello.status() {
        Status::OK => Ok(Hello { features, wire_quota }),
        status => Err(status),
    }
}

/// The host behind the doorbell.
///
/// Each processor has a call page of its own, so a processor that waits for the host stops no other.
///
/// Lock order: a call page, what is under way, whom to wake. While a doorbell rings no lock but the processor's own call page is
/// held: completions come meanwhile, on other processors, and may be taken before the call that began them returns.
#[derive(Debug)]
pub struct KernelHost {
    pages: Vec<Mutex<CallPage>>,
    /// Feature bits of the host.
    features: u64,
    /// Whether storage of RAM has failed: from then on the host answers no sync with success.
    poisoned: AtomicBool,
    completions: Mutex<CompletionRing>,
    pending: Mutex<Pending>,
    arrivals: Arrivals,
    calls: Calls,
    refused_completions: Mutex<u64>,
}

impl KernelHost {
    /// Takes the processors' call pages, of which the first is this one's, and the completion ring, and says hello.
    ///
    /// # Errors
    /// The host's status when it does not speak this version.
    pub fn connect(
        first: SharedWords,
        further: &[SharedWords],
        completions: SharedWords,
    ) -> Result<(Self, Hello), Status> {
        let hello = greet(first)?;
        let host = Self {
            pages: iter::once(first)
                .chain(further.iter().copied())
                .map(|words| Mutex::new(CallPage::new(words)))
                .collect(),
            features: hello.features,
            poisoned: AtomicBool::new(false),
            completions: Mutex::new(CompletionRing::new(completions)),
            pending: Mutex::new(Pending::new()),
            arrivals: Arrivals::new(),
            calls: Calls::new(),
            refused_completions: Mutex::new(0),
        };
        Ok((host, hello))
    }

    /// Tells whether the host offers a feature.
    const fn offers(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Locks this processor's call page. The host may take long to answer, so the processor leaves the task whose tables it has
    /// loaded: nobody waits for it to forget translations. Neither does whoever waits for a moment: another processor looks after that.
    fn page(&self) -> MutexGuard<'_, CallPage> {
        percpu::leave_task();
        if timer::is_awaited() {
            executor::wake_idle();
        }
        let page = self.pages.get(percpu::index()).expect("each processor has a call page");
        page.lock()
    }

    /// Starts processor `index` at `entry`, with its index in `RDI`.
    ///
    /// # Errors
    /// As the host says.
    pub fn start_vcpu(&self, index: u64, entry: u64) -> Result<(), HostError> {
        self.ask(&CallEntry::new(op::START_VCPU, 0, [index, entry, index])).map(|_| ())
    }

    /// Makes one call of one entry that is answered at once; returns the words that the host left.
    fn ask(&self, entry: &CallEntry) -> Result<[u64; 3], HostError> {
        let answer = self.page().call(entry).map_err(host_error_of)?;
        match answer.status() {
            Status::OK => Ok(answer.words),
            status => Err(host_error_of(status)),
        }
    }

    /// Notes what a sync of RAM ended with.
    fn note_storage(&self, status: Status) {
        if matches!(status, Status::IO_ERROR | Status::POISONED) {
            self.poisoned.store(true, Ordering::Release);
        }
    }

    /// Syncs on a host without completions: each call returns when storage has answered.
    fn sync_at_once(&self, runs: &mut [SyncRun]) {
        let _under_way = self.calls.begin();
        for batch in runs.chunks_mut(MAX_ENTRIES) {
            let page = self.page();
            for (index, item) in batch.iter().enumerate() {
                page.put(index, &CallEntry::new(op::SYNC, op::SYNC_WAIT, [item.run.first, item.run.pages, 0]));
            }
            let outcome = page.ring(batch.len());
            for (index, item) in batch.iter_mut().enumerate() {
                let status = outcome.map_or_else(|status| status, |()| page.status(index));
                self.note_storage(status);
                // Without completions, *pending* cannot stand for stable storage.
                item.result = result_of(status);
            }
        }
    }

    /// Ends the machine with an exit code.
    pub fn exit(&self, code: u8) -> ! {
        let answer = self.page().call(&CallEntry::new(op::EXIT, 0, [u64::from(code), 0, 0]));
        panic!("the host let the guest go on after its exit: {answer:?}")
    }

    /// Wires all runs, or none of them.
    fn wire_all(&self, runs: &[FrameRun]) -> Result<(), HostError> {
        for (index, batch) in runs.chunks(MAX_ENTRIES).enumerate() {
            if let Err(error) = self.wire_batch(batch) {
                self.unwire_all(runs.get(..index * MAX_ENTRIES).unwrap_or(&[]));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Wires one call's worth of runs, or none of them.
    fn wire_batch(&self, batch: &[FrameRun]) -> Result<(), HostError> {
        let page = self.page();
        let mut refused = None;
        page.call_all(batch.iter().map(|run| run_entry(op::WIRE, run)), |_, status| {
            if status != Status::OK {
                refused = refused.or(Some(status));
            }
        });
        let Some(status) = refused else { return Ok(()) };
        // The statuses still stand in the page: collect the runs that were wired before the page is used again.
        let wired: Vec<FrameRun> = batch
            .iter()
            .enumerate()
            .filter(|(index, _)| page.status(*index) == Status::OK)
            .map(|(_, run)| *run)
            .collect();
        drop(page);
        self.unwire_all(&wired);
        Err(host_error_of(status))
    }

    fn unwire_all(&self, runs: &[FrameRun]) {
        for batch in runs.chunks(MAX_ENTRIES) {
            self.page().call_all(batch.iter().map(|run| run_entry(op::UNWIRE, run)), |index, status| {
                assert!(status == Status::OK, "the host refused to unwire {:?}: {status}", batch.get(index));
            });
        }
    }
}

/// Returns the entry of an operation on a run of frames.
const fn run_entry(op: u16, run: &FrameRun) -> CallEntry {
    CallEntry::new(op, 0, [run.first, run.pages, 0])
}

const fn result_of(status: Status) -> Result<(), HostError> {
    match status {
        Status::OK => Ok(()),
        status => Err(host_error_of(status)),
    }
}

/// Returns the flags of an operation on a store.
fn flags_of(store: StoreId) -> u32 {
    u32::from(store.0) << op::STORE_SHIFT
}

/// Pages of a store, and the frames that stand for them, no more than an entry takes.
#[derive(Clone, Copy)]
struct Piece {
    /// Which of the caller's runs it is of.
    run: usize,
    /// The frames, packed.
    frames: u64,
    first: u64,
}

/// Cuts a run into pieces, onto the end of `pieces`.
///
/// # Errors
/// [`HostError::Rejected`] for frames that no entry can name; then nothing is put there.
fn cut(pieces: &mut Vec<Piece>, run: usize, first: u64, frames: FrameRun) -> Result<(), HostError> {
    let before = pieces.len();
    let mut done = 0;
    while done < frames.pages {
        let pages = (frames.pages - done).min(op::MAX_DATA_PAGES);
        let Some(packed) = op::pack_run(frames.first + done, pages) else {
            pieces.truncate(before);
            return Err(HostError::Rejected);
        };
        pieces.push(Piece { run, frames: packed, first: first + done });
        done += pages;
    }
    Ok(())
}

impl KernelHost {
    /// Carries out an operation on pieces of a store; hands the index of the run and the result of each to `result`.
    async fn move_data(
        &self,
        op: u16,
        store: StoreId,
        pieces: &[Piece],
        mut result: impl FnMut(usize, Result<(), HostError>) + Send,
    ) {
        let entry = |index: usize| {
            let (frames, first) = pieces.get(index).map_or((0, 0), |piece| (piece.frames, piece.first));
            CallEntry::new(op, flags_of(store), [frames, first, 0])
        };
        let statuses = self.carry_out(false, pieces.len(), entry).await;
        for (piece, status) in pieces.iter().zip(statuses) {
            result(piece.run, result_of(status));
        }
    }
}

impl Host for KernelHost {
    // The host answers both at once, so there is nothing to come back to.
    fn wire(&self, runs: &[FrameRun]) -> impl Future<Output = Result<(), HostError>> + Send {
        ready(self.wire_all(runs))
    }

    fn unwire(&self, runs: &[FrameRun]) -> impl Future<Output = ()> + Send {
        self.unwire_all(runs);
        ready(())
    }

    fn refuses_sync(&self) -> Option<HostError> {
        if !self.offers(feature::SYNC) {
            return Some(HostError::Unsupported);
        }
        self.poisoned.load(Ordering::Acquire).then_some(HostError::Poisoned)
    }

    async fn sync(&self, runs: &mut [SyncRun]) {
        if !self.offers(feature::COMPLETIONS) {
            return self.sync_at_once(runs);
        }
        let entry = |index: usize| {
            let (first, pages) = runs.get(index).map_or((0, 0), |item| (item.run.first, item.run.pages));
            CallEntry::new(op::SYNC, op::SYNC_NO_WAIT, [first, pages, 0])
        };
        let statuses = self.carry_out(true, runs.len(), entry).await;
        for (item, status) in runs.iter_mut().zip(statuses) {
            item.result = result_of(status);
        }
    }

    fn outstanding(&self) -> u64 {
        self.calls.under_way()
    }

    fn answered(&self) -> u64 {
        self.calls.ended()
    }

    fn open_store(&self, name: &str, pages: u64, kind: StoreKind) -> Result<StoreId, HostError> {
        let [low, high] = StoreName::new(name).map_err(|_| HostError::Rejected)?.to_words();
        let flags = match kind {
            StoreKind::Store => 0,
            StoreKind::Exclusive => op::STORE_EXCLUSIVE,
        };
        let [number, ..] = self.ask(&CallEntry::new(op::OPEN_STORE, flags, [low, high, pages]))?;
        u16::try_from(number).map(StoreId).map_err(|_| HostError::Rejected)
    }

    fn close_store(&self, store: StoreId) {
        if let Err(error) = self.ask(&CallEntry::new(op::CLOSE_STORE, 0, [u64::from(store.0), 0, 0])) {
            warn!("store {} stays open: {error}", store.0);
        }
    }

    async fn data_request(&self, store: StoreId, first: u64, frames: FrameRun) -> Result<(), HostError> {
        let mut pieces = Vec::new();
        cut(&mut pieces, 0, first, frames)?;
        let mut outcome = Ok(());
        self.move_data(op::DATA_REQUEST, store, &pieces, |_, result| outcome = outcome.and(result)).await;
        outcome
    }

    async fn data_return(&self, store: StoreId, runs: &mut [StoreRun]) {
        let mut pieces = Vec::new();
        for (index, run) in runs.iter_mut().enumerate() {
            run.result = cut(&mut pieces, index, run.first, run.frames);
        }
        let note = |run: usize, result: Result<(), HostError>| {
            if let Some(run) = runs.get_mut(run) {
                run.result = run.result.and(result);
            }
        };
        self.move_data(op::DATA_RETURN, store, &pieces, note).await;
    }

    async fn synchronize(&self, store: StoreId, pages: PageRange) -> Result<(), HostError> {
        let entry = |_| CallEntry::new(op::SYNCHRONIZE, flags_of(store), [pages.start, pages.end - pages.start, 0]);
        let statuses = self.carry_out(false, 1, entry).await;
        statuses.into_iter().try_for_each(result_of)
    }

    fn stat(&self, selector: u64) -> Result<u64, HostError> {
        self.ask(&CallEntry::new(op::STAT, 0, [selector, 0, 0])).map(|[number, ..]| number)
    }

    fn discard(&self, run: FrameRun) -> Result<(), HostError> {
        self.ask(&run_entry(op::DISCARD, &run)).map(|_| ())
    }
}
