//! Every call to a port that an operation makes fails once, on memory of every kind: nothing has changed then.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::judge::{Outcome, conclude};
use super::scenario::{Memory, Scenario};
use super::world::{BASE, PAGES, World, at};
use crate::fake::{FakePmap, block_on, check_quiet_maps};
use crate::flags::WireFlags;
use crate::handle::PagerFault;
use crate::kern_return::KernReturn;
use crate::ports::HostError;
use crate::units::{FrameRun, PAGE_SHIFT, PageRange, Prot};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    HostWire,
    Allocation,
    PageIn(PagerFault),
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Wire(u64, u64, WireFlags),
    Protect(u64, u64),
    /// Forks; the child ends at once.
    Fork,
}

fn world(memory: Memory) -> World {
    let scenario = Scenario { memory, refused: None, pauses: false, tasks: Vec::new() };
    let world = World::new(&scenario, None, None);
    if let Some(object) = &world.object {
        (0..4).for_each(|page| object.fail(page, None));
        (0..4).for_each(|page| object.release(page));
    }
    // Single frames make many allocations, each of which can fail.
    world.machine.frames().fragment(1);
    world
}

/// Returns what a failure must not change: every wiring and charge in every map, and what the host holds.
fn visible(world: &World) -> (Vec<String>, Vec<FrameRun>, u64) {
    let whole = PageRange::new(BASE, BASE + PAGES);
    let row = |map: &Arc<_>| {
        let map: &crate::map::VmMap<_> = map;
        let wires: Vec<_> = map.page_wires(whole).into_iter().filter(|(_, count)| *count > 0).collect();
        let layout = map.layout(whole.start, whole.end);
        let entries = map.entries().into_iter().map(|entry| (entry.prot, entry.inheritance, entry.wired_on_fault));
        let mut entries: Vec<_> = entries.collect();
        entries.dedup();
        format!("{layout:?} {wires:?} {entries:?} {}", map.user_wired_pages())
    };
    let maps = world.maps();
    let quiet = check_quiet_maps(&maps.iter().map(Arc::as_ref).collect::<Vec<_>>());
    assert_eq!(quiet, Ok(()));
    (maps.iter().map(row).collect(), world.machine.host().wired(), world.machine.vm.user_wired_pages())
}

fn perform(world: &World, doing: Doing) -> Result<(), KernReturn> {
    let map = &world.machine.map;
    block_on(async {
        match doing {
            Doing::Wire(start, end, flags) => map.wire(at(start), at(end), flags).await,
            Doing::Protect(start, end) => {
                map.protect(at(start), (end - start) << PAGE_SHIFT, false, Prot::DEFAULT).await
            }
            Doing::Fork => {
                map.fork(FakePmap::new()).await?.destroy().await;
                Ok(())
            }
        }
    })
}

/// Lets the `nth` call that may fail do so.
fn script(world: &World, failing: Failing, nth: u64) {
    match failing {
        Failing::HostWire => world.machine.host().fail_wire(nth, HostError::Quota),
        Failing::Allocation => world.machine.frames().fail_allocation(nth),
        Failing::PageIn(fault) => {
            if let Some(object) = world.object.as_ref().filter(|_| nth < 4) {
                object.fail(nth, Some(fault));
            }
        }
    }
}

fn withdraw(world: &World) {
    world.machine.host().withdraw_failures();
    world.machine.frames().withdraw_failure();
    if let Some(object) = &world.object {
        (0..4).for_each(|page| object.fail(page, None));
    }
}

/// Lets each call fail in turn; returns how many failures were told.
fn sweep(memory: Memory, failing: Failing, doing: Doing) -> u64 {
    let finish = |world| -> Outcome { conclude(world, Vec::new()).unwrap() };
    let untouched = finish(world(memory));
    let mut failures = 0;
    for nth in 0.. {
        let here = || format!("{memory:?}, {failing:?} {nth}, {doing:?}");
        let world = world(memory);
        let before = visible(&world);
        script(&world, failing, nth);
        let outcome = perform(&world, doing);
        withdraw(&world);
        if outcome.is_ok() {
            // A page that is there already or lies outside can't fail to come.
            if matches!(failing, Failing::PageIn(_)) && nth < 4 {
                continue;
            }
            break;
        }
        let code = match failing {
            Failing::PageIn(PagerFault::Io) => KernReturn::OutOfBounds,
            Failing::PageIn(PagerFault::Refused) => KernReturn::Failure,
            Failing::HostWire | Failing::Allocation => KernReturn::ResourceShortage,
        };
        assert_eq!(outcome, Err(code), "{}", here());
        assert_eq!(visible(&world), before, "{}", here());
        failures += 1;
        if nth % 2 == 0 {
            assert_eq!(finish(world), untouched, "{}", here());
        } else {
            assert_eq!(perform(&world, doing), Ok(()), "{}, repeated", here());
            visible(&world);
            finish(world);
        }
    }
    failures
}

#[test]
fn wire_with_any_one_call_failing_changes_nothing_on_memory_of_every_kind() {
    let (user, system, holes) = (WireFlags::USER, WireFlags::SYSTEM, WireFlags::HOLESOK);
    let io = Failing::PageIn(PagerFault::Io);
    let refused = Failing::PageIn(PagerFault::Refused);
    let sweeps = |memory, failing| -> u64 {
        let wires = [(0, 6, user | holes), (0, 4, user), (1, 3, user), (0, 4, system), (2, 6, system | holes)];
        wires.into_iter().map(|(start, end, flags)| sweep(memory, failing, Doing::Wire(start, end, flags))).sum()
    };
    for memory in Memory::ALL {
        // What the other map has wired the host holds already; all else it is asked about, at once.
        let calls = sweeps(memory, Failing::HostWire);
        assert!((4..=5).contains(&calls), "{memory:?}: {calls} calls to the host");
        let allocations = sweeps(memory, Failing::Allocation);
        assert_eq!(
            allocations > 0,
            memory != Memory::Wired,
            "{memory:?}: {allocations} frames; all are there if wired"
        );
        if matches!(memory, Memory::File | Memory::Failing) {
            assert!(sweeps(memory, io) >= 6, "{memory:?}");
            assert!(sweeps(memory, refused) >= 6, "{memory:?}");
        }
    }
}

#[test]
fn protect_with_any_one_call_failing_changes_nothing() {
    let writable = Doing::Protect(0, 4);
    assert_eq!(sweep(Memory::ForkedWired, Failing::HostWire, writable), 1, "page 3 is wired, and the child's too");
    assert_eq!(sweep(Memory::ForkedWired, Failing::Allocation, writable), 1);
    assert_eq!(sweep(Memory::ForkedWired, Failing::HostWire, Doing::Protect(3, 5)), 1);
    assert_eq!(sweep(Memory::ForkedWired, Failing::Allocation, Doing::Protect(3, 5)), 2);
    assert_eq!(sweep(Memory::Wired, Failing::HostWire, writable), 0, "nothing is copied");
}

#[test]
fn fork_with_any_one_frame_missing_changes_nothing_and_leaves_no_child() {
    for memory in Memory::ALL {
        let frames = sweep(memory, Failing::Allocation, Doing::Fork);
        let copies_now = matches!(memory, Memory::Wired | Memory::OnFault);
        assert_eq!(frames > 0, copies_now, "{memory:?}: {frames} frames");
    }
}
