//! A map and a submap of it: random operations through both, one after the other against a model, and at the same time.

use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

use super::{Bed, Outcome};
use crate::fake::{Executor, FakeConfig, FakeMachine, FakePorts, block_on, check_maps, yield_now};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::map::{Advice, Placement, VmMap};
use crate::units::{PAGE_SHIFT, PageRange};

const PAGES: u64 = 24;
const PLACES: usize = 24;
/// The pages that the submap rules over, with the border of a 2 MiB block in the midst.
const INSIDE: PageRange = PageRange { start: 8, end: 16 };

#[derive(Clone, Copy, Debug)]
enum Operation {
    Allocate,
    Deallocate,
    Write(u8),
    Wire,
    /// Wires for the system, lets others run, and unwires again.
    Hold,
    Unwire,
    Msync(SyncFlags),
    Mincore,
    Advise,
}

/// First page, page behind the last, whether it goes through the submap and not through its parent, and what.
type Call = (u64, u64, bool, Operation);

fn calls(most: usize) -> impl Strategy<Value = Vec<Call>> {
    let sync = select(&[2, 6, 2, 6, 1, 5][..]).prop_map(SyncFlags::from_bits);
    let operation = prop_oneof![
        4 => Just(Operation::Allocate),
        2 => Just(Operation::Deallocate),
        8 => any::<u8>().prop_map(Operation::Write),
        2 => Just(Operation::Wire),
        1 => Just(Operation::Hold),
        2 => Just(Operation::Unwire),
        4 => sync.prop_map(Operation::Msync),
        1 => Just(Operation::Mincore),
        1 => Just(Operation::Advise),
    ];
    let range = (0..PAGES, 1..=PAGES).prop_map(|(a, b)| (a.min(b), b.max(a + 1)));
    // Often enough exactly the submap's range.
    let range = prop_oneof![5 => range, 1 => Just((INSIDE.start, INSIDE.end))];
    prop::collection::vec((range, any::<bool>(), operation).prop_map(|((a, b), c, d)| (a, b, c, d)), 1..most)
}

fn new_bed() -> (Bed, Arc<VmMap<FakePorts>>) {
    let map_pages = PageRange::new(500, 500 + PAGES);
    let bed = Bed::with(FakeConfig { frame_pages: 2 * PAGES, map_pages, user_wire_limit_pages: 100 });
    let submap = make(&bed);
    (bed, submap)
}

fn make(bed: &Bed) -> Arc<VmMap<FakePorts>> {
    let submap = bed.machine.map.submap(Placement::Fixed(bed.at(INSIDE.start)), INSIDE.len() << PAGE_SHIFT);
    block_on(submap).expect("its range is free")
}

async fn call(machine: &FakeMachine, map: &VmMap<FakePorts>, first: u64, last: u64, operation: Operation) -> Outcome {
    let size = last - first;
    match operation {
        Operation::Allocate => map.allocate(Placement::Fixed(first), size).await.map(|_| ()),
        Operation::Deallocate => map.deallocate(first, size).await,
        Operation::Write(byte) => machine.write_in(map, first, &[byte]).await,
        Operation::Wire => map.wire(first, last, WireFlags::USER | WireFlags::HOLESOK).await,
        Operation::Unwire => map.unwire(first, last, WireFlags::USER | WireFlags::HOLESOK).await,
        Operation::Hold => {
            map.wire(first, last, WireFlags::SYSTEM).await?;
            yield_now().await;
            let undone = map.unwire(first, last, WireFlags::SYSTEM).await;
            assert_eq!(undone, Ok(()), "what the system has wired can't go away");
            undone
        }
        Operation::Msync(flags) => map.msync(first, size, flags).await,
        Operation::Mincore => map.mincore(first, size).await.map(|_| ()).map_err(|_| KernReturn::InvalidAddress),
        Operation::Advise => map.advise(first, size, Advice::DontNeed).await,
    }
}

/// The bytes of allocated pages.
type Model = [Option<u8>; PLACES];

/// Returns what an operation must come to, and does it to the model. `None` where that is not foretold.
fn foretell(model: &mut Model, range: PageRange, is_inside: bool, operation: Operation) -> Option<Outcome> {
    let bounds = if is_inside { INSIDE } else { PageRange::new(0, PAGES) };
    let own = range.intersection(bounds);
    let pages = |range: PageRange| usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
    let meets = !is_inside && !range.intersection(INSIDE).is_empty();
    let covers = range.intersection(INSIDE) == INSIDE;
    match operation {
        Operation::Allocate if own != range => Some(Err(KernReturn::InvalidAddress)),
        Operation::Allocate if meets || model[pages(range)].iter().any(Option::is_some) => {
            Some(Err(KernReturn::NoSpace))
        }
        Operation::Allocate => {
            model[pages(range)].fill(Some(0));
            Some(Ok(()))
        }
        Operation::Deallocate if meets && !covers => {
            // What lies before the submap is gone.
            model[pages(PageRange::new(range.start, INSIDE.start.max(range.start)))].fill(None);
            Some(Err(KernReturn::InvalidArgument))
        }
        Operation::Deallocate => {
            // A map does not reach beyond its bounds.
            model[pages(own)].fill(None);
            Some(Ok(()))
        }
        Operation::Write(byte) => {
            let page = usize::try_from(range.start).unwrap();
            let exists = bounds.contains(range.start) && model[page].is_some();
            if exists {
                model[page] = Some(byte);
            }
            Some(if exists { Ok(()) } else { Err(KernReturn::InvalidAddress) })
        }
        Operation::Msync(_) | Operation::Advise => Some(Ok(())),
        Operation::Wire | Operation::Unwire if meets && !covers => Some(Err(KernReturn::InvalidArgument)),
        Operation::Wire | Operation::Unwire => Some(Ok(())),
        Operation::Hold | Operation::Mincore => None,
    }
}

fn sequence(calls: &[Call]) -> TestCaseResult {
    let (bed, mut submap) = new_bed();
    let mut model: Model = [None; PLACES];
    for &(start, end, is_inside, operation) in calls {
        let range = PageRange::new(start, end);
        if is_inside && matches!(operation, Operation::Write(_)) && !INSIDE.contains(start) {
            // The page tables are the parent's too: whatever is mapped can be reached.
            continue;
        }
        let map: &VmMap<FakePorts> = if is_inside { &submap } else { &bed.machine.map };
        let expected = foretell(&mut model, range, is_inside, operation);
        let outcome = block_on(call(&bed.machine, map, bed.at(start), bed.at(end), operation));
        while let Some(work) = bed.machine.vm.take_background() {
            block_on(work);
        }
        prop_assert!(
            expected.is_none_or(|expected| expected == outcome),
            "{operation:?}: {outcome:?}, not {expected:?}"
        );
        prop_assert_eq!(bed.machine.check_quiet_with(&[&submap]), Ok(()), "{:?}", operation);
        if submap.is_detached() {
            submap = make(&bed);
        }
        for (page, byte) in (0..PAGES).zip(model) {
            let owner: &VmMap<FakePorts> = if INSIDE.contains(page) { &submap } else { &bed.machine.map };
            let at = bed.at(page) >> PAGE_SHIFT;
            let frame = owner.frames(at, at + 1)[0].frames;
            let (Some(byte), Some(frame)) = (byte, frame) else { continue };
            let mut found = [0];
            bed.machine.ram.read(frame.first, 0, &mut found);
            prop_assert_eq!(found, [byte], "page {}", page);
            let reached = if is_inside { range.intersection(INSIDE) } else { range };
            if matches!(operation, Operation::Msync(_)) && reached.contains(page) {
                bed.machine.ram.read_stable(frame.first, 0, &mut found);
                prop_assert_eq!(found, [byte], "page {} was synced", page);
            }
        }
    }
    block_on(bed.machine.map.destroy());
    prop_assert_eq!(bed.machine.check_quiet_with(&[&submap]), Ok(()));
    prop_assert_eq!(bed.machine.frames().free_pages(), 2 * PAGES);
    Ok(())
}

fn storm(seed: u64, calls: &[Call]) -> TestCaseResult {
    let (bed, submap) = new_bed();
    bed.allocate(0, 8);
    assert_eq!(block_on(submap.allocate(Placement::Fixed(bed.at(9)), 6 << PAGE_SHIFT)), Ok(bed.at(9)));
    bed.host().set_yielding(true);
    let Bed { machine, base } = bed;
    let machine = Arc::new(machine);
    let mut executor = Executor::new(seed);
    for &(start, end, is_inside, operation) in calls {
        let (machine, submap) = (Arc::clone(&machine), Arc::clone(&submap));
        let (first, last) = ((base + start) << PAGE_SHIFT, (base + end) << PAGE_SHIFT);
        executor.spawn(async move {
            let map: &VmMap<FakePorts> = if is_inside { &submap } else { &machine.map };
            // Whatever it comes to is right for some order; the checks judge the effects.
            call(&machine, map, first, last, operation).await.unwrap_or_default();
        });
    }
    while executor.step() {
        prop_assert_eq!(check_maps(&[&machine.map, &submap]), Ok(()));
        while let Some(work) = machine.vm.take_background() {
            executor.spawn(work);
        }
    }
    prop_assert_eq!(executor.remaining(), 0, "tasks wait and nothing will wake them");
    prop_assert_eq!(machine.check_quiet_with(&[&submap]), Ok(()));
    block_on(machine.map.destroy());
    prop_assert_eq!(machine.check_quiet_with(&[&submap]), Ok(()));
    prop_assert_eq!(machine.frames().free_pages(), 2 * PAGES);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_through_a_map_and_its_submap_agree_with_the_model(calls in calls(40)) {
        sequence(&calls)?;
    }

    #[test]
    fn operations_on_a_map_and_its_submap_at_the_same_time_keep_every_invariant_and_all_end(
        seed in any::<u64>(),
        calls in calls(12),
    ) {
        storm(seed, &calls)?;
    }
}
