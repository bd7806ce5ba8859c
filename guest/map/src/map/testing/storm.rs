//! Random operations at the same time, in random interleavings.

use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::Bed;
use crate::fake::{Executor, FakeConfig, FakeMachine, block_on, yield_now};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::map::Placement;
use crate::ports::HostError;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

const PAGES: u64 = 24;

/// What one task does, on pages from `start` to `end`.
#[derive(Clone, Copy, Debug)]
enum Work {
    Allocate,
    Deallocate,
    Protect(Prot),
    WireUser(u32),
    UnwireUser,
    /// Wires for the system, lets others run, and unwires again: a deallocation must wait meanwhile.
    Hold,
    Msync(SyncFlags),
    Write(u8),
}

async fn run(machine: Arc<FakeMachine>, base: u64, start: u64, end: u64, work: Work) {
    let map = &machine.map;
    let (first, last) = ((base + start) << PAGE_SHIFT, (base + end) << PAGE_SHIFT);
    let outcome = match work {
        Work::Allocate => map.allocate(Placement::Fixed(first), last - first).await.map(|_| ()),
        Work::Deallocate => map.deallocate(first, last - first).await,
        Work::Protect(prot) => map.protect(first, last - first, false, prot).await,
        Work::WireUser(flags) => map.wire(first, last, WireFlags::USER | WireFlags::from_bits(flags)).await,
        Work::UnwireUser => map.unwire(first, last, WireFlags::USER | WireFlags::HOLESOK).await,
        Work::Hold => match map.wire(first, last, WireFlags::SYSTEM).await {
            Ok(()) => {
                yield_now().await;
                let undone = map.unwire(first, last, WireFlags::SYSTEM).await;
                assert_eq!(undone, Ok(()), "what the system has wired can't go away");
                undone
            }
            refused => refused,
        },
        Work::Msync(flags) => map.msync(first, last - first, flags).await,
        Work::Write(byte) => machine.write(first, &[byte]).await,
    };
    if let Err(error) = outcome {
        assert!(work.possible_errors().contains(&error), "{work:?} answered {error}");
    }
}

impl Work {
    /// Which errors the others, the limit and the host can cause; the checks at every step judge the effects.
    fn possible_errors(self) -> &'static [KernReturn] {
        use KernReturn::{Failure, InvalidAddress, NoSpace, ProtectionFailure, ResourceShortage};
        match self {
            Self::Allocate => &[NoSpace],
            Self::Deallocate | Self::UnwireUser => &[],
            Self::Protect(_) => &[InvalidAddress],
            Self::WireUser(_) | Self::Hold => &[InvalidAddress, ResourceShortage, Failure],
            Self::Msync(_) => &[Failure],
            Self::Write(_) => &[InvalidAddress, ProtectionFailure],
        }
    }
}

fn work() -> impl Strategy<Value = Work> {
    let prot = prop::sample::select(&[Prot::DEFAULT, Prot::READ, Prot::NONE][..]);
    let sync = prop::sample::select(&[1, 2, 4, 5, 6][..]).prop_map(SyncFlags::from_bits);
    prop_oneof![
        3 => Just(Work::Allocate),
        3 => Just(Work::Deallocate),
        2 => prot.prop_map(Work::Protect),
        4 => prop::sample::select(&[0, 2, 4, 6][..]).prop_map(Work::WireUser),
        3 => Just(Work::UnwireUser),
        3 => Just(Work::Hold),
        4 => sync.prop_map(Work::Msync),
        5 => any::<u8>().prop_map(Work::Write),
    ]
}

fn storm(seed: u64, failing: Option<(u64, HostError)>, works: &[(u64, u64, Work)]) -> TestCaseResult {
    let bed = Bed::with(FakeConfig {
        frame_pages: PAGES,
        map_pages: PageRange::new(500, 500 + PAGES),
        user_wire_limit_pages: 12,
    });
    bed.allocate(0, 9);
    bed.allocate(9, PAGES);
    bed.host().set_yielding(true);
    if let Some((after, error)) = failing {
        bed.host().fail_wire(after, error);
        bed.host().fail_sync(after, error);
    }
    let Bed { machine, base } = bed;
    let machine = Arc::new(machine);
    let mut executor = Executor::new(seed);
    for &(a, b, work) in works {
        executor.spawn(run(Arc::clone(&machine), base, a.min(b), a.max(b).max(a.min(b) + 1), work));
    }
    while executor.step() {
        prop_assert_eq!(machine.check(), Ok(()));
        while let Some(work) = machine.vm.take_background() {
            executor.spawn(work);
        }
    }
    prop_assert_eq!(executor.remaining(), 0, "tasks wait and nothing will wake them");
    prop_assert_eq!(machine.check_quiet(), Ok(()));
    let entries = machine.map.entries();
    prop_assert!(entries.iter().all(|entry| !entry.needs_wakeup), "nobody is left to be woken");
    machine.host().withdraw_failures();
    prop_assert_eq!(
        block_on(machine.map.msync(base << PAGE_SHIFT, PAGES << PAGE_SHIFT, SyncFlags::SYNCHRONOUS)),
        Ok(())
    );
    for row in machine.map.frames(base, base + PAGES) {
        for frame in row.frames.into_iter().flat_map(|run| run.first..run.end()) {
            let (mut now, mut stable) = ([0], [0]);
            machine.ram.read(frame, 0, &mut now);
            machine.ram.read_stable(frame, 0, &mut stable);
            prop_assert_eq!(now, stable, "a write to frame {} was forgotten", frame);
        }
    }
    block_on(machine.map.destroy());
    prop_assert_eq!(machine.check_quiet(), Ok(()));
    prop_assert_eq!((machine.host().wired(), machine.frames().free_pages()), (Vec::new(), PAGES));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn operations_at_the_same_time_keep_every_invariant_and_all_end(
        seed in any::<u64>(),
        failing in prop::option::of((0..6_u64, prop::sample::select(&[HostError::Quota, HostError::Io][..]))),
        works in prop::collection::vec((0..PAGES, 0..=PAGES, work()), 1..24),
    ) {
        storm(seed, failing, &works)?;
    }
}
