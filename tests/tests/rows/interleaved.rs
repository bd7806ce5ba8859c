//! Rows about several operations at a time, over many orders of their steps.

use wirevm_map::fake::{Executor, FakeMachine, FakePmap};
use wirevm_map::{Inheritance, KernReturn, MapMode, PAGE_SIZE, PageRange, Placement, Prot, WireFlags};

use super::RowCase;
use super::alone::{allocate, at, entries};

/// Orders that each case tries.
const ORDERS: u64 = 300;

const USER: WireFlags = WireFlags::USER;
const SYSTEM: WireFlags = WireFlags::SYSTEM;

pub const CASES: &[RowCase] = &[
    (
        "waiter_that_finds_other_memory_in_the_old_place_takes_it_as_it_is",
        &["T-02", "T-03", "T-04", "T-06", "N2"],
        || {
            let mut outcomes = Vec::new();
            for seed in 0..ORDERS {
                let machine = FakeMachine::default();
                allocate(&machine, 0, 4);
                machine.host().set_yielding(true);
                let mut executor = Executor::new(seed);
                let first = executor.spawn(machine.map.wire(at(0), at(4), USER));
                let change = executor.spawn(async {
                    machine.map.deallocate(at(0), 4 * PAGE_SIZE).await?;
                    machine.map.allocate(Placement::Fixed(at(1)), 2 * PAGE_SIZE).await?;
                    machine.map.protect(at(1), PAGE_SIZE, false, Prot::READ).await
                });
                let second = executor.spawn(machine.map.wire(at(1), at(3), USER));
                executor.run().unwrap_or_else(|deadlock| panic!("order {seed}: {deadlock}"));
                drop(executor);
                assert_eq!(change.take(), Some(Ok(())), "order {seed}");
                let (first, second) = (first.take().expect("it ended"), second.take().expect("it ended"));
                for result in [first, second] {
                    assert!(matches!(result, Ok(()) | Err(KernReturn::InvalidAddress)), "order {seed}: {result:?}");
                }
                assert_eq!(machine.check_quiet(), Ok(()), "order {seed}");
                let wired = machine.map.entries().iter().filter(|entry| entry.user_wired).count();
                assert!(wired == 0 || second.is_ok(), "order {seed}: {}", entries(&machine));
                outcomes.push((first.is_ok(), second.is_ok(), wired > 0));
            }
            outcomes.sort_unstable();
            outcomes.dedup();
            assert!(outcomes.len() >= 2, "the orders make no difference: {outcomes:?}");
        },
    ),
    (
        "operations_on_one_range_end_in_every_order_and_leave_no_mark",
        &["W-01", "U-01", "T-02", "T-08", "P-07", "D-01"],
        || {
            for seed in 0..ORDERS {
                let machine = FakeMachine::default();
                allocate(&machine, 0, 8);
                machine.host().set_yielding(true);
                let map = &machine.map;
                let mut executor = Executor::new(seed);
                let wires = [
                    executor.spawn(map.wire(at(0), at(6), USER)),
                    executor.spawn(map.wire(at(2), at(8), USER)),
                    executor.spawn(map.wire(at(3), at(5), SYSTEM)),
                ];
                let unwire = executor.spawn(map.unwire(at(1), at(7), USER));
                let protect = executor.spawn(map.protect(at(2), 3 * PAGE_SIZE, false, Prot::READ));
                let fault = executor.spawn(map.fault(at(4), Prot::READ));
                executor.run().unwrap_or_else(|deadlock| panic!("order {seed}: {deadlock}"));
                drop(executor);
                for (which, wire) in wires.iter().enumerate() {
                    assert_eq!(wire.take(), Some(Ok(())), "order {seed}, wire {which}");
                }
                assert_eq!((unwire.take(), protect.take()), (Some(Ok(())), Some(Ok(()))), "order {seed}");
                assert_eq!(fault.take(), Some(Ok(())), "order {seed}");
                assert_eq!(machine.check_quiet(), Ok(()), "order {seed}: {}", entries(&machine));
            }
        },
    ),
    ("system_wiring_that_ends_wakes_the_deallocation_that_waits_for_it", &["D-01", "T-02"], || {
        for seed in 0..ORDERS {
            let machine = FakeMachine::default();
            allocate(&machine, 0, 6);
            machine.host().set_yielding(true);
            let map = &machine.map;
            let mut executor = Executor::new(seed);
            let held = executor.spawn(async {
                map.wire(at(1), at(5), SYSTEM).await?;
                map.wire(at(2), at(3), SYSTEM).await?;
                map.unwire(at(1), at(5), SYSTEM).await?;
                map.unwire(at(2), at(3), SYSTEM).await
            });
            let gone = executor.spawn(map.deallocate(at(0), 6 * PAGE_SIZE));
            executor.run().unwrap_or_else(|deadlock| panic!("order {seed}: {deadlock}"));
            drop(executor);
            assert_eq!(gone.take(), Some(Ok(())), "order {seed}");
            let held = held.take().expect("it ended");
            assert!(matches!(held, Ok(()) | Err(KernReturn::InvalidAddress)), "order {seed}: {held:?}");
            assert_eq!((entries(&machine).as_str(), machine.check_quiet()), ("", Ok(())), "order {seed}");
        }
    }),
    ("protection_never_slips_between_the_count_and_the_users_bit", &["B-02", "P-03", "P-07", "N4"], || {
        for seed in 0..ORDERS {
            let machine = FakeMachine::default();
            let file = machine.vm.file_object(4, 1);
            let placement = Placement::Fixed(at(0));
            let mut executor = Executor::new(seed);
            let map = &machine.map;
            let range = PageRange::new(0, 4);
            let ready = executor.spawn(async {
                map.map_object(placement, &file, range, MapMode::Private, Prot::READ).await?;
                map.inherit(at(2), 2 * PAGE_SIZE, Inheritance::None).await
            });
            assert_eq!(executor.run(), Ok(()));
            assert_eq!(ready.take(), Some(Ok(())));
            machine.host().set_yielding(true);
            let wire = executor.spawn(map.wire(at(0), at(4), USER));
            let protect = executor.spawn(map.protect(at(0), 2 * PAGE_SIZE, false, Prot::DEFAULT));
            executor.run().unwrap_or_else(|deadlock| panic!("order {seed}: {deadlock}"));
            assert_eq!((wire.take(), protect.take()), (Some(Ok(())), Some(Ok(()))), "order {seed}");
            // The pages that may be written now are wired copies: writing to them takes no fault.
            for page in [1000, 1001] {
                let mapped = map.with_pmap(|pmap| pmap.access(page, Prot::WRITE));
                assert!(mapped.is_ok(), "order {seed}: page {page} {mapped:?}");
            }
            drop(executor);
            assert_eq!(machine.check_quiet(), Ok(()), "order {seed}");
        }
    }),
    ("child_made_while_wiring_goes_on_has_none_of_it", &["D-03", "D-08", "T-10", "B-13"], || {
        for seed in 0..ORDERS {
            let machine = FakeMachine::default();
            allocate(&machine, 0, 8);
            machine.host().set_yielding(true);
            let map = &machine.map;
            let mut executor = Executor::new(seed);
            let wire = executor.spawn(map.wire(at(0), at(8), USER | WireFlags::HOLESOK));
            let fork = executor.spawn(map.fork(FakePmap::new()));
            let unwire = executor.spawn(map.unwire(at(2), at(4), USER));
            let protect = executor.spawn(map.protect(at(4), PAGE_SIZE, false, Prot::NONE));
            executor.run().unwrap_or_else(|deadlock| panic!("order {seed}: {deadlock}"));
            drop(executor);
            assert_eq!((wire.take(), unwire.take(), protect.take()), (Some(Ok(())), Some(Ok(())), Some(Ok(()))));
            let child = fork.take().expect("the fork ended").expect("a child");
            let clean = |row: &wirevm_map::EntryRow| {
                row.wired_count == 0 && !row.user_wired && !row.in_transition && !row.needs_wakeup
            };
            assert!(child.entries().iter().all(clean), "order {seed}: {:?}", child.entries());
            assert_eq!(machine.check_quiet_with(&[&child]), Ok(()), "order {seed}");
            wirevm_map::fake::block_on(child.destroy());
        }
    }),
];
