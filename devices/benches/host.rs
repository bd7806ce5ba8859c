//! What the host's own bookkeeping costs, without a system call: `cargo bench -p wirevm-devices --bench host`.
//!
//! Ledger and page runs are this crate's interval maps; a call of 126 entries is decoded as the doorbell does it; completions are posted to
//! a ring in memory that nobody else uses.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use wirevm_abi::call::{CallEntry, MAX_ENTRIES};
use wirevm_abi::completion::{Completion, HEAD_OFFSET, NO_PAGE, PAGES, TAIL_OFFSET};
use wirevm_abi::request::decode;
use wirevm_abi::{PAGE_SIZE, RamRange, Status, op};
use wirevm_devices::completion::CompletionRing;
use wirevm_devices::guest_memory::{BackingLostError, GuestMemory};
use wirevm_devices::interrupt::Interrupt;
use wirevm_devices::page_run::PageRun;
use wirevm_devices::pin::Ledger;

/// Pages of the RAM that ledgers are about: 16 GiB.
const RAM_PAGES: u64 = 1 << 22;

fn range(first: u64, pages: u64) -> RamRange {
    RamRange::new(first, pages, RAM_PAGES).expect("inside RAM")
}

/// Counts a page up and down between two runs that are wired, where so many are.
fn ledger(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger, wire and unwire a page");
    for runs in [10, 1_000, 100_000, 1_000_000] {
        let mut ledger = Ledger::new(RAM_PAGES);
        for run in 0..runs {
            ledger.wire(range(2 * run, 1)).expect("below the limit");
        }
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(runs), |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % (runs - 1);
                let page = range(2 * next + 1, 1);
                black_box(ledger.wire(page).expect("below the limit"));
                black_box(ledger.unwire(page).expect("wired"));
            });
        });
    }
    group.finish();
}

/// Decodes the entries of a full call.
fn decoding(criterion: &mut Criterion) {
    let entries: Vec<CallEntry> =
        (0..MAX_ENTRIES as u64).map(|place| CallEntry::new(op::WIRE, 0, [2 * place, 1, 0])).collect();
    criterion.bench_function("decode 126 entries", |bencher| {
        bencher.iter(|| entries.iter().filter(|entry| decode(black_box(entry), RAM_PAGES).is_ok()).count());
    });
}

/// Sorts and joins the runs of a full call.
fn joining(criterion: &mut Criterion) {
    let scattered: Vec<PageRun> =
        (0..MAX_ENTRIES as u64).map(|place| PageRun::from(range(place * 7919 % 1009 * 2, 1))).collect();
    criterion.bench_function("join 126 scattered runs", |bencher| {
        bencher.iter_batched(|| scattered.clone(), PageRun::join, BatchSize::SmallInput);
    });
}

/// The pages of a completion ring, from page 0 on.
#[derive(Debug)]
struct Words(Vec<AtomicU64>);

impl Words {
    fn word(&self, offset: u64) -> Result<&AtomicU64, BackingLostError> {
        usize::try_from(offset / 8).ok().and_then(|place| self.0.get(place)).ok_or(BackingLostError { page: 0 })
    }
}

impl GuestMemory for Words {
    fn read(&self, range: RamRange, bytes: &mut [u8]) -> Result<(), BackingLostError> {
        for (to, offset) in bytes.chunks_exact_mut(8).zip((range.first() * PAGE_SIZE..).step_by(8)) {
            to.copy_from_slice(&self.word(offset)?.load(Ordering::Acquire).to_le_bytes());
        }
        Ok(())
    }

    fn write(&self, range: RamRange, _: &[u8]) -> Result<(), BackingLostError> {
        Err(BackingLostError { page: range.first() })
    }

    fn load_word(&self, _: RamRange, offset: u64) -> Result<u64, BackingLostError> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    fn store_word(&self, _: RamRange, offset: u64, word: u64) -> Result<(), BackingLostError> {
        self.word(offset)?.store(word, Ordering::Release);
        Ok(())
    }
}

#[derive(Debug)]
struct Nobody;

impl Interrupt for Nobody {
    fn raise(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Promises places, completes them, and takes them as a guest does.
fn completions(criterion: &mut Criterion) {
    let words = Arc::new(Words((0..PAGES * 512).map(|_| AtomicU64::new(0)).collect()));
    let pages = range(0, PAGES);
    let ring = Arc::new(CompletionRing::new(Arc::clone(&words) as _, pages, Box::new(Nobody)));
    let mut group = criterion.benchmark_group("completions, reserve and post");
    for count in [1, 126] {
        let done = vec![Completion { token: 7, status: Status::OK, first_failed_page: NO_PAGE }; count];
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                let place = ring.reserve(count as u64).expect("the guest takes all");
                place.complete(&done);
                let tail = words.load_word(pages, TAIL_OFFSET).expect("in the ring");
                words.store_word(pages, HEAD_OFFSET, tail).expect("in the ring");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ledger, decoding, joining, completions);
criterion_main!(benches);
