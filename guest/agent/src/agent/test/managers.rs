//! Managers that are tasks.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use wirevm_map::{HostError, KernReturn, MapMode, PAGE_SIZE, PagerFault, Prot, ShouldReturn, SyncFlags};

use super::{Bed, SUCCESS, at, deallocate, is_violation};
use crate::command::{Behaviour, Command, ObjectKind, Request, page_state};
use crate::pattern::Pattern;
use crate::reply::Reply;

const SYNC: u64 = SyncFlags::SYNCHRONOUS.bits() as u64;
const INVALIDATE: u64 = SyncFlags::INVALIDATE.bits() as u64;
/// The manager's task and its object.
const M: u64 = 1;
const O: u64 = 1;

/// A manager whose copy of an object of 8 pages, each filled with 0x40 and its number, begins at [`at`] of 0 in its memory; the first
/// task shows the object at the same place.
fn managed() -> Bed {
    let bed = Bed::new();
    assert_eq!(bed.main(Command::NewManager), Reply::Number(M));
    bed.allocate(M, 8);
    for page in 0..8 {
        assert_eq!(bed.task(M, fill(page, 0x40 + u8::try_from(page).expect("8 pages"))), SUCCESS);
    }
    new_object(&bed, O);
    bed
}

/// Makes the manager's object, which gets that number, and maps it.
fn new_object(bed: &Bed, object: u64) {
    assert_eq!(bed.task(M, Command::NewManagedObject { pages: 8, address: at(0) }), Reply::Number(object));
    let (mode, prot) = (MapMode::Shared, Prot::DEFAULT);
    let map = Command::MapObject { address: Some(at(0)), object, first_page: 0, end_page: 8, mode, prot };
    assert_eq!(bed.main(map), Reply::Address(at(0)));
}

fn fill(page: u64, byte: u8) -> Command {
    Command::Write { address: at(page), size: PAGE_SIZE, pattern: Pattern::byte(byte) }
}

const fn sync(start: u64, end: u64, flags: u64) -> Command {
    Command::Sync { address: at(start), size: (end - start) * PAGE_SIZE, flags }
}

const fn lock(should_return: ShouldReturn, should_flush: bool, forbidden: Option<Prot>) -> Command {
    Command::LockRequest { object: O, first_page: 0, end_page: 8, should_return, should_flush, forbidden }
}

fn byte(bed: &Bed, task: u64, page: u64) -> u8 {
    match bed.task(task, Command::Read { address: at(page), size: 1 }) {
        Reply::Bytes(bytes) => bytes[0],
        reply => panic!("page {page}: {reply:?}"),
    }
}

fn heard(bed: &Bed) -> String {
    match bed.task(M, Command::Messages) {
        Reply::Text(text) => text,
        reply => panic!("{reply:?}"),
    }
}

fn behave(bed: &Bed, behaviour: Behaviour) {
    assert_eq!(bed.task(M, Command::Behave(behaviour)), SUCCESS);
}

fn states(bed: &Bed) -> Vec<(u64, u64, u64)> {
    match bed.main(Command::PageStates { start: at(0), end: at(8) }) {
        Reply::Layout(rows) => {
            rows.iter().map(|row| (row.pages.start - 16, row.pages.end - 16, row.wired_count)).collect()
        }
        reply => panic!("{reply:?}"),
    }
}

fn quiet(bed: &Bed) {
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn o_02_manager_supplies_pages_from_its_own_memory() {
    let bed = managed();
    assert_eq!((byte(&bed, 0, 3), byte(&bed, 0, 7)), (0x43, 0x47));
    let messages = heard(&bed);
    assert!(messages.starts_with("init data_request[3,4)"), "{messages}");
    assert_eq!((heard(&bed), states(&bed)), (String::new(), vec![(3, 4, 0), (7, 8, 0)]));
    // The copy is the kernel's own.
    assert_eq!((bed.main(fill(3, 1)), byte(&bed, M, 3)), (SUCCESS, 0x43));
    quiet(&bed);
}

#[test]
fn o_07_and_o_09_sync_returns_pages_into_the_managers_memory_and_puts_that_on_stable_storage() {
    let bed = managed();
    for page in [1, 2, 5] {
        assert_eq!(bed.main(fill(page, 0x10 + u8::try_from(page).expect("8 pages"))), SUCCESS);
    }
    heard(&bed);
    assert_eq!(bed.main(sync(0, 8, SYNC)), SUCCESS);
    assert_eq!(heard(&bed), "data_return[1,3)dirty,kept data_return[5,6)dirty,kept synchronize[0,8)");
    assert_eq!([0, 1, 2, 5].map(|page| byte(&bed, M, page)), [0x40, 0x11, 0x12, 0x15]);
    let Reply::Frames(rows) = bed.task(M, Command::Frames { start: at(1), end: at(2) }) else { panic!("no frames") };
    let mut stable = [0];
    bed.agent.platform().ram.read_stable(rows[0].frames.expect("resident").first, 0, &mut stable);
    assert_eq!((stable, states(&bed)), ([0x11], vec![(1, 3, 0), (5, 6, 0)]));
    quiet(&bed);
}

#[test]
fn manager_that_delays_hears_and_answers_when_it_is_prompt_again() {
    let bed = managed();
    behave(&bed, Behaviour::Delays);
    assert_eq!(bed.main(Command::Read { address: at(0), size: 1 }), Reply::Blocked);
    bed.start(1, Command::Read { address: at(2), size: 1 });
    assert!(is_violation(&bed.main(Command::Quiesce), "operations wait"));
    let messages = heard(&bed);
    assert!(messages.contains("data_request[0,1)") && messages.contains("data_request[2,3)"), "{messages}");
    assert_eq!(bed.poll(1), Reply::Blocked);
    behave(&bed, Behaviour::Prompt);
    assert_eq!((bed.join(1), heard(&bed)), (Reply::Bytes(vec![0x42]), String::new()));
    quiet(&bed);
}

#[test]
fn precious_pages_leave_the_manager_and_come_back_even_if_nobody_wrote_to_them() {
    let bed = managed();
    behave(&bed, Behaviour::Precious);
    assert_eq!((byte(&bed, 0, 1), byte(&bed, M, 1)), (0x41, 0));
    assert_eq!(states(&bed), [(1, 2, page_state::PRECIOUS)]);
    assert_eq!(bed.main(fill(2, 7)), SUCCESS);
    heard(&bed);
    assert_eq!(bed.main(sync(0, 8, SYNC | INVALIDATE)), SUCCESS);
    assert_eq!((states(&bed), byte(&bed, M, 1), byte(&bed, M, 2)), (vec![], 0x41, 7));
    assert!(heard(&bed).contains("data_return[1,2)precious"));
    behave(&bed, Behaviour::Plain);
    assert_eq!((byte(&bed, 0, 1), byte(&bed, M, 1)), (0x41, 0x41));
    quiet(&bed);
}

#[test]
fn z_04_manager_that_traps_writes_is_asked_before_each_first_write() {
    let bed = managed();
    behave(&bed, Behaviour::TrapsWrites);
    assert_eq!(byte(&bed, 0, 1), 0x41);
    assert!(!heard(&bed).contains("data_unlock"));
    assert_eq!((bed.main(fill(1, 2)), bed.main(fill(1, 3))), (SUCCESS, SUCCESS));
    assert_eq!(heard(&bed).matches("data_unlock[1,2)").count(), 1);
    assert_eq!((bed.main(sync(0, 8, SYNC)), bed.main(fill(1, 4))), (SUCCESS, SUCCESS));
    assert_eq!(heard(&bed).matches("data_unlock[1,2)").count(), 1);
    behave(&bed, Behaviour::AllowsWrites);
    assert_eq!(bed.main(fill(2, 4)), SUCCESS);
    assert!(!heard(&bed).contains("data_unlock"));
    quiet(&bed);
}

#[test]
fn o_04_page_that_the_manager_fails_at_is_a_memory_error_until_it_heals() {
    let bed = managed();
    let read = Command::Read { address: at(3), size: 1 };
    assert_eq!(bed.main(Command::Fail { object: O, page: 3, fault: PagerFault::Io }), SUCCESS);
    assert_eq!((bed.main(read), byte(&bed, 0, 4)), (Reply::Done(KernReturn::MemoryError), 0x44));
    assert_eq!(bed.main(Command::Fail { object: O, page: 3, fault: PagerFault::Refused }), SUCCESS);
    assert_eq!(bed.main(read), Reply::Done(KernReturn::Failure));
    assert_eq!((bed.main(Command::Heal { object: O, page: 3 }), byte(&bed, 0, 3)), (SUCCESS, 0x43));
    quiet(&bed);
}

#[test]
fn page_that_is_gone_from_the_managers_memory_can_not_be_supplied() {
    let bed = managed();
    assert_eq!(bed.task(M, deallocate(5, 6)), SUCCESS);
    let read = Command::Read { address: at(5), size: 1 };
    assert_eq!((bed.main(read), byte(&bed, 0, 4)), (Reply::Done(KernReturn::MemoryError), 0x44));
    quiet(&bed);
}

#[test]
fn page_that_the_manager_can_not_take_back_fails_the_sync() {
    let bed = managed();
    assert_eq!((bed.main(fill(5, 1)), bed.task(M, deallocate(5, 6))), (SUCCESS, SUCCESS));
    assert_eq!(bed.main(sync(0, 8, SYNC)), Reply::Done(KernReturn::Failure));
    quiet(&bed);
}

#[test]
fn o_11_manager_that_dies_wakes_whoever_waits_for_it() {
    let bed = managed();
    assert_eq!(bed.main(fill(1, 1)), SUCCESS);
    behave(&bed, Behaviour::Delays);
    bed.start(1, Command::Read { address: at(0), size: 1 });
    bed.start(2, sync(0, 8, SYNC));
    assert_eq!((bed.poll(1), bed.poll(2)), (Reply::Blocked, Reply::Blocked));
    assert_eq!(bed.task(M, Command::Die), SUCCESS);
    assert!(matches!(bed.join(1), Reply::Done(code) if code != KernReturn::Success));
    assert_eq!(bed.join(2), Reply::Done(KernReturn::Failure));
    let new = Command::NewManagedObject { pages: 8, address: at(0) };
    assert_eq!(bed.task(M, new), Reply::Done(KernReturn::Failure));
    assert_eq!((bed.task(M, Command::Die), byte(&bed, M, 1)), (SUCCESS, 0x41), "its memory is still there");
    quiet(&bed);
    assert_eq!((bed.main(Command::Reset), bed.agent.vm().frames().free_pages()), (SUCCESS, 512));
}

#[test]
fn k_06_completion_must_match_and_can_come_before_the_managers_own() {
    let bed = managed();
    assert_eq!(bed.main(fill(1, 9)), SUCCESS);
    behave(&bed, Behaviour::Delays);
    bed.start(1, sync(0, 4, SYNC));
    let answer =
        |offset, length, status| bed.task(M, Command::SynchronizeCompleted { object: O, offset, length, status });
    let invalid = Reply::Done(KernReturn::InvalidArgument);
    for (offset, length) in [(0, 8 * PAGE_SIZE), (PAGE_SIZE, 3 * PAGE_SIZE), (0, 4 * PAGE_SIZE - 1), (u64::MAX, 2)] {
        assert_eq!(answer(offset, length, KernReturn::Success), invalid, "{offset} {length}");
    }
    assert_eq!(bed.poll(1), Reply::Blocked);
    assert_eq!(answer(0, 4 * PAGE_SIZE, KernReturn::Failure), SUCCESS);
    assert_eq!(
        (bed.join(1), answer(0, 4 * PAGE_SIZE, KernReturn::Success)),
        (Reply::Done(KernReturn::Failure), invalid)
    );
    behave(&bed, Behaviour::Prompt);
    assert_eq!((bed.main(sync(0, 4, SYNC)), byte(&bed, M, 1)), (SUCCESS, 9));
    quiet(&bed);
}

#[test]
fn o_08_lock_request_returns_and_flushes_what_it_asks_for() {
    let bed = managed();
    assert_eq!((bed.main(fill(1, 9)), byte(&bed, 0, 2)), (SUCCESS, 0x42));
    heard(&bed);
    assert_eq!(bed.task(M, lock(ShouldReturn::Dirty, false, None)), SUCCESS);
    assert_eq!(heard(&bed), "data_return[1,2)dirty,kept lock_completed[0,8)");
    assert_eq!((states(&bed), byte(&bed, M, 1)), (vec![(1, 3, 0)], 9));
    assert_eq!(bed.task(M, lock(ShouldReturn::Nothing, true, None)), SUCCESS);
    assert_eq!((states(&bed), byte(&bed, 0, 1)), (vec![], 9));
    let backwards = Command::LockRequest {
        object: O,
        first_page: 3,
        end_page: 2,
        should_return: ShouldReturn::All,
        should_flush: false,
        forbidden: None,
    };
    assert_eq!(bed.task(M, backwards), Reply::Done(KernReturn::InvalidArgument));
    quiet(&bed);
}

#[test]
fn o_06_access_that_is_forbidden_is_asked_for_and_permitted() {
    let bed = managed();
    assert_eq!(byte(&bed, 0, 1), 0x41);
    assert_eq!(bed.task(M, lock(ShouldReturn::Nothing, false, Some(Prot::WRITE))), SUCCESS);
    heard(&bed);
    assert_eq!((bed.main(fill(1, 5)), byte(&bed, 0, 1)), (SUCCESS, 5));
    assert!(heard(&bed).starts_with("data_unlock[1,2)"));
    quiet(&bed);
}

#[test]
fn o_10_object_that_nobody_uses_comes_back_and_is_terminated_and_its_number_serves_again() {
    let bed = managed();
    assert_eq!(bed.main(fill(1, 9)), SUCCESS);
    heard(&bed);
    assert_eq!((bed.main(Command::DropObject { object: O }), bed.main(deallocate(0, 8))), (SUCCESS, SUCCESS));
    let messages = heard(&bed);
    assert!(messages.starts_with("data_return[1,2)dirty") && messages.ends_with("terminate"), "{messages}");
    assert_eq!(byte(&bed, M, 1), 9);
    quiet(&bed);
    new_object(&bed, 2);
    assert_eq!((byte(&bed, 0, 1), heard(&bed).starts_with("init")), (9, true));
    quiet(&bed);
}

#[test]
fn frames_that_a_manager_has_not_taken_back_are_free_after_a_reset() {
    for kept in [false, true] {
        let bed = managed();
        assert_eq!((bed.main(fill(1, 9)), bed.main(fill(2, 9))), (SUCCESS, SUCCESS));
        behave(&bed, Behaviour::Delays);
        // Nobody waits for what comes back like this.
        assert_eq!(bed.task(M, lock(ShouldReturn::All, !kept, None)), SUCCESS);
        assert_eq!(bed.main(Command::Reset), SUCCESS);
        assert_eq!((bed.agent.vm().frames().free_pages(), bed.agent.maps().len()), (512, 1));
        assert_eq!(bed.task(M, Command::Messages), Reply::Malformed);
    }
}

#[test]
fn task_that_is_a_manager_takes_its_objects_with_it() {
    let bed = managed();
    assert_eq!((bed.main(fill(1, 9)), bed.task(M, Command::EndTask)), (SUCCESS, SUCCESS));
    assert!(matches!(bed.main(Command::Read { address: at(1), size: 1 }), Reply::Done(_)));
    assert_eq!((bed.main(deallocate(0, 8)), bed.main(Command::DropObject { object: O })), (SUCCESS, SUCCESS));
    quiet(&bed);
    assert_eq!(bed.agent.vm().frames().free_pages(), 512);
}

#[test]
fn d_b_storage_that_fails_below_a_manager_fails_the_sync() {
    let bed = managed();
    assert_eq!(bed.main(fill(1, 9)), SUCCESS);
    bed.host().fail_sync(0, HostError::Io);
    assert_eq!(bed.main(sync(0, 8, SYNC)), Reply::Done(KernReturn::Failure));
    assert_eq!(bed.main(fill(1, 10)), SUCCESS);
    assert_eq!((bed.main(sync(0, 8, SYNC)), byte(&bed, M, 1)), (SUCCESS, 10));
    quiet(&bed);
}

#[test]
fn manager_without_stable_storage_below_it_has_what_it_took_back() {
    let bed = managed();
    bed.host().refuse_sync(Some(HostError::Unsupported));
    assert_eq!((bed.main(fill(1, 9)), bed.main(sync(0, 8, SYNC)), byte(&bed, M, 1)), (SUCCESS, SUCCESS, 9));
    quiet(&bed);
}

#[test]
fn manager_that_waits_for_the_host_is_awaited() {
    let bed = managed();
    assert_eq!(bed.main(fill(1, 9)), SUCCESS);
    bed.host().hold();
    assert_eq!((bed.main(sync(0, 8, SYNC)), bed.main(Command::Quiesce)), (Reply::Awaits, Reply::Awaits));
    bed.host().release();
    assert_eq!((bed.main(Command::Quiesce), byte(&bed, M, 1)), (SUCCESS, 9));
}

#[test]
fn manager_that_misses_a_page_itself_is_at_work_until_it_has_come() {
    let bed = managed();
    let file = Command::NewObject { kind: ObjectKind::File { readahead: 1 }, pages: 4 };
    assert_eq!(bed.main(file), Reply::Number(2));
    let (mode, prot) = (MapMode::Shared, Prot::DEFAULT);
    let map = |task, object, address| {
        let map = Command::MapObject { address: Some(address), object, first_page: 0, end_page: 4, mode, prot };
        assert_eq!(bed.task(task, map), Reply::Address(address));
    };
    map(M, 2, at(8));
    assert_eq!(bed.task(M, Command::NewManagedObject { pages: 4, address: at(8) }), Reply::Number(3));
    map(0, 3, at(8));
    assert_eq!(bed.main(Command::Gate { object: 2, page: 1 }), SUCCESS);
    bed.start(1, Command::Read { address: at(9), size: 1 });
    assert!(is_violation(&bed.main(Command::Quiesce), "2 operations wait"));
    assert_eq!((bed.poll(1), bed.main(Command::Check)), (Reply::Blocked, SUCCESS));
    assert_eq!(bed.main(Command::Release { object: 2, page: 1 }), SUCCESS);
    assert_eq!(bed.join(1), Reply::Bytes(vec![0x11]));
    quiet(&bed);
}

#[test]
fn messages_that_no_answer_holds_are_malformed_and_those_behind_them_are_told() {
    let bed = managed();
    for round in 0..400 {
        assert_eq!(
            (byte(&bed, 0, 1), bed.task(M, lock(ShouldReturn::Nothing, true, None))),
            (0x41, SUCCESS),
            "{round}"
        );
    }
    assert_eq!((bed.task(M, Command::Messages), heard(&bed)), (Reply::Malformed, String::new()));
    assert_eq!(byte(&bed, 0, 1), 0x41);
    assert!(heard(&bed).starts_with("data_request[1,2)"));
    quiet(&bed);
}

#[test]
fn only_managers_are_spoken_to_and_only_about_their_objects() {
    let bed = managed();
    assert_eq!(bed.main(Command::NewManager), Reply::Number(2));
    let commands = [
        Command::Messages,
        Command::Die,
        Command::Behave(Behaviour::Delays),
        Command::NewManagedObject { pages: 1, address: 0 },
        lock(ShouldReturn::All, false, None),
    ];
    for command in commands {
        assert_eq!(bed.main(command), Reply::Malformed, "{command:?}");
    }
    let answer = Command::SynchronizeCompleted { object: O, offset: 0, length: 0, status: KernReturn::Success };
    for command in [lock(ShouldReturn::All, false, None), answer] {
        assert_eq!(bed.task(2, command), Reply::Malformed, "{command:?}");
    }
    assert_eq!(bed.main(Command::DirtyRanges { object: 9 }), Reply::Malformed);
    let thread = Request { task: M, thread: 3, command: lock(ShouldReturn::All, false, None) };
    assert_eq!((bed.ask(thread), bed.join(3)), (Reply::Started, SUCCESS));
    quiet(&bed);
}
