//! Calls that meet on an entry.

use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use spin::Mutex;

use crate::fake::{Executor, FakePorts, HostCall, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::map::testing::Bed;
use crate::map::{Placement, VmMap};
use crate::ports::HostError;
use crate::units::Prot;

const USER: WireFlags = WireFlags::USER;
const SYSTEM: WireFlags = WireFlags::SYSTEM;
const HOLESOK: WireFlags = WireFlags::HOLESOK;

/// Every operation's future can move between processors.
#[test]
fn operations_are_send() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let bed = Bed::of(4);
    let map = &bed.machine.map;
    block_on(async {
        assert_eq!(send(map.allocate(Placement::Anywhere, 1)).await, Ok(bed.at(4)));
        assert_eq!(send(map.wire(bed.at(0), bed.at(1), USER)).await, Ok(()));
        assert_eq!(send(map.unwire(bed.at(0), bed.at(1), USER)).await, Ok(()));
        assert_eq!(send(map.protect(bed.at(0), 1, false, Prot::READ)).await, Ok(()));
        assert_eq!(send(map.fault(bed.at(0), Prot::READ)).await, Ok(()));
        assert_eq!(send(map.msync(bed.at(0), 1, SyncFlags::SYNCHRONOUS)).await, Ok(()));
        assert_eq!(send(map.deallocate(bed.at(0), 1)).await, Ok(()));
        send(map.destroy()).await;
    });
}

#[test]
fn w_01_second_wire_waits_for_the_first_and_counts_on() {
    let bed = Bed::of(8);
    bed.host().hold();
    let mut executor = Executor::new(1);
    let first = executor.spawn(bed.machine.map.wire(bed.at(2), bed.at(6), SYSTEM));
    assert_eq!(executor.run_until_stalled(), 1);
    let second = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(8), SYSTEM));
    assert_eq!(executor.run_until_stalled(), 2);
    assert!(bed.machine.map.entries().iter().any(|entry| entry.in_transition && entry.needs_wakeup), "T-02");
    assert_eq!(bed.host().take_log().len(), 1, "the second has not come to the host");
    bed.host().release();
    assert_eq!((executor.run(), first.take(), second.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!((bed.settled(bed.layout()).as_str(), bed.wired_by_host()), ("[0,2)1 [2,6)2 [6,8)1", 8));
    assert!(bed.machine.map.entries().iter().all(|entry| !entry.needs_wakeup));
}

#[test]
fn w_01_second_wire_goes_on_alone_when_the_first_fails() {
    let bed = Bed::of(4);
    bed.host().hold();
    bed.host().fail_wire(0, HostError::Quota);
    let mut executor = Executor::new(1);
    let first = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(4), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let second = executor.spawn(bed.machine.map.wire(bed.at(1), bed.at(3), USER));
    assert_eq!(executor.run_until_stalled(), 2);
    assert_eq!(bed.layout(), "[0,4)1", "D-H: the first call's count stands until it is undone");
    bed.host().release();
    assert_eq!(executor.run(), Ok(()));
    assert_eq!((first.take(), second.take()), (Some(Err(KernReturn::ResourceShortage)), Some(Ok(()))));
    assert_eq!(bed.settled(bed.layout()), "[0,1)0 [1,3)1U [3,4)0");
}

#[test]
fn u_01_unwire_waits_for_the_wire_and_undoes_it() {
    let bed = Bed::of(4);
    bed.host().hold();
    let mut executor = Executor::new(1);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(4), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let unwire = executor.spawn(bed.machine.map.unwire(bed.at(0), bed.at(4), USER));
    assert_eq!(executor.run_until_stalled(), 2, "X-07: it does not skip the entry");
    bed.host().release();
    assert_eq!((executor.run(), wire.take(), unwire.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!(bed.settled(bed.layout()), "[0,4)0");
}

#[test]
fn wire_waits_until_the_host_knows_of_the_unwire_before() {
    let bed = Bed::of(4);
    assert_eq!(bed.wire(0, 4, USER), Ok(()));
    bed.host().take_log();
    bed.host().hold();
    let mut executor = Executor::new(1);
    let unwire = executor.spawn(bed.machine.map.unwire(bed.at(0), bed.at(4), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(4), USER));
    assert_eq!(executor.run_until_stalled(), 2);
    assert!(matches!(bed.host().take_log().as_slice(), [HostCall::Unwire(_)]));
    bed.host().release();
    assert_eq!((executor.run(), unwire.take(), wire.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!((bed.settled(bed.layout()).as_str(), bed.wired_by_host()), ("[0,4)1U", 4));
}

/// Returns `[0,6)` with `[2,4)` wired, and a host that keeps the end of that wiring pending.
fn held() -> Bed {
    let bed = Bed::of(6);
    assert_eq!(bed.wire(2, 4, USER), Ok(()));
    bed.host().hold();
    bed
}

#[test]
fn t_04_wire_whose_next_entry_is_gone_is_invalid_address_and_undone() {
    let bed = held();
    let mut executor = Executor::new(1);
    let deallocate = executor.spawn(bed.machine.map.deallocate(bed.at(2), 2 << 12));
    assert_eq!(executor.run_until_stalled(), 1);
    let all = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(6), USER));
    assert_eq!(executor.run_until_stalled(), 2);
    let first = executor.spawn(bed.machine.map.wire(bed.at(3), bed.at(4), SYSTEM));
    assert_eq!(executor.run_until_stalled(), 3);
    bed.host().release();
    assert_eq!((executor.run(), deallocate.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(
        (all.take(), first.take()),
        (Some(Err(KernReturn::InvalidAddress)), Some(Err(KernReturn::InvalidAddress)))
    );
    assert_eq!((bed.settled(bed.layout()).as_str(), bed.wired_by_host()), ("[0,2)0 [4,6)0", 0));
}

#[test]
fn t_05_wire_with_holesok_goes_on_behind_an_entry_that_is_gone() {
    let bed = held();
    let mut executor = Executor::new(1);
    let deallocate = executor.spawn(bed.machine.map.deallocate(bed.at(2), 2 << 12));
    assert_eq!(executor.run_until_stalled(), 1);
    let all = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(6), USER | HOLESOK));
    let last = executor.spawn(bed.machine.map.unwire(bed.at(2), bed.at(4), USER | HOLESOK));
    assert_eq!(executor.run_until_stalled(), 3);
    bed.host().release();
    assert_eq!((executor.run(), deallocate.take()), (Ok(()), Some(Ok(()))));
    assert_eq!((all.take(), last.take()), (Some(Ok(())), Some(Ok(()))));
    assert_eq!(bed.settled(bed.layout()), "[0,2)1U [4,6)1U");
}

#[test]
fn t_06_wire_continues_with_the_entry_that_took_the_place_of_the_lost_one() {
    let bed = held();
    let mut executor = Executor::new(1);
    let deallocate = executor.spawn(bed.machine.map.deallocate(bed.at(2), 2 << 12));
    assert_eq!(executor.run_until_stalled(), 1);
    let all = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(6), USER));
    assert_eq!(executor.run_until_stalled(), 2);
    bed.host().release();
    while !deallocate.is_ready() {
        assert!(executor.step());
    }
    let place = Placement::Fixed(bed.at(2));
    assert_eq!(block_on(bed.machine.map.allocate(place, 2 << 12)), Ok(bed.at(2)));
    assert_eq!((executor.run(), all.take()), (Ok(()), Some(Ok(()))));
    assert_eq!((bed.settled(bed.layout()).as_str(), bed.wired_by_host()), ("[0,6)1U", 6));
}

#[test]
fn t_01_entry_that_appears_in_a_hole_during_the_call_is_not_touched() {
    let bed = Bed::of(2);
    bed.allocate(4, 6);
    bed.host().hold();
    let mut executor = Executor::new(1);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(6), USER | HOLESOK));
    assert_eq!(executor.run_until_stalled(), 1);
    assert_eq!(block_on(bed.machine.map.allocate(Placement::Fixed(bed.at(2)), 2 << 12)), Ok(bed.at(2)));
    bed.host().release();
    assert_eq!((executor.run(), wire.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(bed.settled(bed.layout()), "[0,2)1U [2,4)0 [4,6)1U");
}

#[test]
fn t_08_fault_on_an_entry_in_transition_waits_and_then_proceeds() {
    let bed = Bed::of(4);
    bed.host().hold();
    let mut executor = Executor::new(1);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(2), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let beside = executor.spawn(bed.machine.map.fault(bed.at(2), Prot::WRITE));
    let within = executor.spawn(bed.machine.map.fault(bed.at(1), Prot::WRITE));
    assert_eq!(executor.run_until_stalled(), 2);
    assert_eq!((beside.take(), within.is_ready()), (Some(Ok(())), false));
    bed.host().release();
    assert_eq!((executor.run(), wire.take(), within.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
}

#[test]
fn p_07_protect_waits_for_an_entry_in_transition_and_b_02_finds_the_user_bit_set() {
    let bed = Bed::of(4);
    bed.host().hold();
    let mut executor = Executor::new(1);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(0), bed.at(2), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let protect = executor.spawn(bed.machine.map.protect(bed.at(0), 4 << 12, false, Prot::NONE));
    assert_eq!(executor.run_until_stalled(), 2);
    assert!(bed.machine.map.entries().iter().all(|entry| entry.prot == Prot::DEFAULT));
    bed.host().release();
    assert_eq!((executor.run(), wire.take(), protect.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!(bed.settled(bed.layout()), "[0,2)1U [2,4)0");
    assert!(bed.machine.map.entries().iter().all(|entry| entry.prot == Prot::NONE));
}

#[test]
fn d_01_deallocate_waits_for_a_wire_and_then_removes_what_it_wired() {
    let bed = Bed::of(4);
    bed.host().hold();
    let mut executor = Executor::new(1);
    let wire = executor.spawn(bed.machine.map.wire(bed.at(1), bed.at(3), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let deallocate = executor.spawn(bed.machine.map.deallocate(bed.at(0), 4 << 12));
    assert_eq!(executor.run_until_stalled(), 2);
    bed.host().release();
    assert_eq!((executor.run(), wire.take(), deallocate.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!((bed.settled(bed.layout()).as_str(), bed.wired_by_host()), ("", 0));
}

#[test]
fn d_01_deallocate_keeps_the_frames_until_the_host_knows_of_the_unwire_before() {
    let bed = Bed::of(4);
    assert_eq!(bed.wire(0, 4, USER), Ok(()));
    bed.host().hold();
    let mut executor = Executor::new(1);
    let unwire = executor.spawn(bed.machine.map.unwire(bed.at(0), bed.at(4), USER));
    assert_eq!(executor.run_until_stalled(), 1);
    let deallocate = executor.spawn(bed.machine.map.deallocate(bed.at(0), 4 << 12));
    assert_eq!(executor.run_until_stalled(), 2);
    assert_eq!(bed.machine.frames().free_pages(), 4092, "another entry could wire a freed frame too early");
    bed.host().release();
    assert_eq!((executor.run(), unwire.take(), deallocate.take()), (Ok(()), Some(Ok(())), Some(Ok(()))));
    assert_eq!(bed.settled(bed.layout()), "");
}

/// A waker that looks whether the map is locked when it is called.
struct Looking {
    map: Arc<VmMap<FakePorts>>,
    calls: Mutex<Vec<bool>>,
}

impl Wake for Looking {
    fn wake(self: Arc<Self>) {
        self.calls.lock().push(self.map.state.is_locked());
    }
}

#[test]
fn t_02_waiters_are_woken_with_the_map_unlocked() {
    for ends_with_unwire in [true, false] {
        let bed = held();
        let map = Arc::clone(&bed.machine.map);
        let (first, last) = (bed.at(2), bed.at(4));
        let mut executor = Executor::new(1);
        let outcome = if ends_with_unwire {
            executor.spawn(map.unwire(first, last, USER))
        } else {
            executor.spawn(map.deallocate(first, last - first))
        };
        assert_eq!(executor.run_until_stalled(), 1);
        let looking = Arc::new(Looking { map: Arc::clone(&map), calls: Mutex::default() });
        let waker = Waker::from(Arc::clone(&looking));
        let mut fault = pin!(map.fault(first, Prot::READ));
        assert!(fault.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        bed.host().release();
        assert_eq!((executor.run(), outcome.take()), (Ok(()), Some(Ok(()))));
        assert_eq!(*looking.calls.lock(), [false]);
        let expected = if ends_with_unwire { Ok(()) } else { Err(KernReturn::InvalidAddress) };
        assert_eq!(fault.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(expected));
    }
}

#[test]
fn wires_of_overlapping_ranges_never_wait_for_each_other_in_a_circle() {
    for seed in 0..200 {
        let bed = Bed::of(12);
        bed.host().set_yielding(true);
        let mut executor = Executor::new(seed);
        let ranges = [(0, 8), (4, 12), (2, 10), (6, 7), (0, 12)];
        let wires: Vec<_> = ranges
            .iter()
            .map(|&(start, end)| executor.spawn(bed.machine.map.wire(bed.at(start), bed.at(end), SYSTEM)))
            .collect();
        while executor.step() {
            assert_eq!(bed.machine.check(), Ok(()));
        }
        assert_eq!(executor.remaining(), 0, "seed {seed}");
        assert!(wires.iter().all(|wire| wire.take() == Some(Ok(()))));
        assert_eq!(bed.settled(bed.layout()), "[0,2)2 [2,4)3 [4,6)4 [6,7)5 [7,8)4 [8,10)3 [10,12)2");
    }
}
