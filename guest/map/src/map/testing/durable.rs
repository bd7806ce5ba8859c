//! Whatever a synchronisation has reported as stable is stable, with everything else going on at the same time.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;
use spin::Mutex;

use super::Bed;
use crate::fake::{Executor, FakeConfig, FakeMachine, block_on, yield_now};
use crate::flags::{SyncFlags, WireFlags};
use crate::map::Placement;
use crate::ports::HostError;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

/// What one task does, on pages from `start` to `end`.
#[derive(Clone, Copy, Debug)]
enum Work {
    Write,
    Msync(SyncFlags),
    Invalidate,
    Protect(Prot),
    Wire,
    Unwire,
    /// Wires for the system, lets others run, and unwires again.
    Hold,
    Replace,
    /// Lets one run of a later synchronisation fail.
    FailSync(u64),
    /// Leaves frames for that many page tables.
    Tables(Option<u64>),
}

/// The machine and what was written to it.
struct World {
    bed: Bed,
    next_number: Mutex<u64>,
    /// The numbers written, in the order of their writes; each is written once.
    written: Mutex<Vec<u64>>,
    /// How often each page was deallocated.
    replaced: Mutex<BTreeMap<u64, u64>>,
}

impl World {
    fn machine(&self) -> &FakeMachine {
        &self.bed.machine
    }

    /// Returns the number in the frame of `page`, as a program sees it and as stable storage holds it.
    fn numbers(&self, page: u64) -> Option<(u64, u64)> {
        let frame = self.bed.frame(page)?;
        let (mut now, mut stable) = ([0; 8], [0; 8]);
        self.machine().ram.read(frame, 0, &mut now);
        self.machine().ram.read_stable(frame, 0, &mut stable);
        Some((u64::from_le_bytes(now), u64::from_le_bytes(stable)))
    }

    fn replacements(&self, page: u64) -> u64 {
        self.replaced.lock().get(&page).copied().unwrap_or(0)
    }

    async fn msync(&self, start: u64, end: u64, flags: SyncFlags) {
        // A page that has no frame yet has no bytes that could be stable.
        let known = |page| Some((page, self.replacements(page), self.numbers(page)?.0));
        let before: Vec<_> = (start..end).filter_map(known).collect();
        let outcome = self.machine().map.msync(self.bed.at(start), (end - start) << PAGE_SHIFT, flags).await;
        if outcome.is_err() || !flags.contains(SyncFlags::SYNCHRONOUS) {
            return;
        }
        for (page, replacements, expected) in before {
            if let Some((_, stable)) = self.numbers(page)
                && replacements == self.replacements(page)
            {
                let written = self.written.lock();
                let turn = |number| written.iter().position(|written| *written == number);
                let later = stable % 4096 == page && turn(stable) > turn(expected);
                assert!(stable == expected || later, "page {page}: {expected} reported, {stable} stable");
            }
        }
    }

    async fn run(&self, start: u64, end: u64, work: Work) {
        let map = &self.machine().map;
        let (first, last) = (self.bed.at(start), self.bed.at(end));
        match work {
            Work::Write => {
                let number = {
                    let mut next = self.next_number.lock();
                    *next += 4096;
                    *next + start
                };
                if self.machine().write(first, &number.to_le_bytes()).await.is_ok() {
                    self.written.lock().push(number);
                }
            }
            Work::Msync(flags) => self.msync(start, end, flags).await,
            Work::Invalidate => self.msync(start, end, SyncFlags::INVALIDATE).await,
            Work::Protect(prot) => map.protect(first, last - first, false, prot).await.unwrap_or_default(),
            Work::Wire => map.wire(first, last, WireFlags::USER | WireFlags::HOLESOK).await.unwrap_or_default(),
            Work::Unwire => map.unwire(first, last, WireFlags::USER | WireFlags::HOLESOK).await.unwrap_or_default(),
            Work::Hold => {
                if map.wire(first, last, WireFlags::SYSTEM).await.is_ok() {
                    yield_now().await;
                    assert_eq!(map.unwire(first, last, WireFlags::SYSTEM).await, Ok(()));
                }
            }
            Work::Replace => {
                (start..end).for_each(|page| *self.replaced.lock().entry(page).or_default() += 1);
                assert_eq!(map.deallocate(first, last - first).await, Ok(()));
                (start..end).for_each(|page| *self.replaced.lock().entry(page).or_default() += 1);
                map.allocate(Placement::Fixed(first), last - first).await.unwrap_or_default();
            }
            Work::FailSync(after) => self.bed.host().fail_sync(after, HostError::Io),
            Work::Tables(left) => map.with_pmap(|pmap| pmap.limit_tables(left)),
        }
    }
}

fn work() -> impl Strategy<Value = Work> {
    let sync = select(&[2, 2, 2, 6, 1, 5][..]).prop_map(SyncFlags::from_bits);
    prop_oneof![
        8 => Just(Work::Write),
        6 => sync.prop_map(Work::Msync),
        2 => Just(Work::Invalidate),
        2 => select(&[Prot::DEFAULT, Prot::DEFAULT, Prot::READ, Prot::NONE][..]).prop_map(Work::Protect),
        3 => Just(Work::Wire),
        2 => Just(Work::Unwire),
        2 => Just(Work::Hold),
        1 => Just(Work::Replace),
        1 => (0..4_u64).prop_map(Work::FailSync),
        1 => prop::option::of(0..2_u64).prop_map(Work::Tables),
    ]
}

/// Runs `works` in an order that `seed` decides, at most 6 at the same time.
fn storm(seed: u64, base: u64, pages: u64, works: &[(u64, u64, Work)]) -> TestCaseResult {
    let bed = Bed::with(FakeConfig {
        frame_pages: 512 + pages,
        map_pages: PageRange::new(base, base + pages),
        ..FakeConfig::default()
    });
    bed.allocate(0, pages);
    bed.host().set_yielding(true);
    let world =
        Arc::new(World { bed, next_number: Mutex::default(), written: Mutex::default(), replaced: Mutex::default() });
    let mut executor = Executor::new(seed);
    for &(a, b, work) in works {
        while executor.remaining() >= 6 && executor.step() {
            while let Some(work) = world.machine().vm.take_background() {
                executor.spawn(work);
            }
        }
        let (start, end) = (a.min(b), a.max(b).max(a.min(b) + 1));
        let task = Arc::clone(&world);
        executor.spawn(async move { task.run(start, end, work).await });
        executor.step();
        prop_assert_eq!(world.machine().check(), Ok(()));
    }
    prop_assert_eq!(world.machine().run(&mut executor), Ok(()));
    prop_assert_eq!(world.machine().check_quiet(), Ok(()));
    world.bed.host().withdraw_failures();
    block_on(world.msync(0, pages, SyncFlags::SYNCHRONOUS));
    for page in 0..pages {
        if let Some((now, stable)) = world.numbers(page) {
            prop_assert_eq!(now, stable, "page {}", page);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn msync_among_other_operations_reports_nothing_as_stable_that_is_not(
        seed in any::<u64>(),
        works in prop::collection::vec((0..8_u64, 0..=8_u64, work()), 1..60),
    ) {
        storm(seed, 508, 8, &works)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn msync_of_2_mib_mappings_among_other_operations_reports_nothing_as_stable_that_is_not(
        seed in any::<u64>(),
        works in prop::collection::vec(
            (select(&[0, 1, 511, 512, 700, 1023][..]), select(&[0, 1, 512, 513, 700, 1024][..]), work()),
            1..40,
        ),
    ) {
        storm(seed, 512, 1024, &works)?;
    }
}
