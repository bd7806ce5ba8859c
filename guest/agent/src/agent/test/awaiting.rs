//! Waiting for the host, and what the system does for nobody.

use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec;
use alloc::vec::Vec;
use core::pin::pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use wirevm_abi::StoreName;
use wirevm_map::{KernReturn, MapMode, MsyncFlags, PAGE_SIZE, Prot, StoreKind, SyncFlags};

use super::{Answer, Bed, SUCCESS, SYSTEM, USER, at, deallocate, is_violation, unwire, wire};
use crate::command::{Command, Request};
use crate::pattern::Pattern;
use crate::reply::Reply;

const SYNC: u64 = SyncFlags::SYNCHRONOUS.bits() as u64;
const ASYNC: u64 = SyncFlags::ASYNCHRONOUS.bits() as u64;

const fn sync(start: u64, end: u64, flags: u64) -> Command {
    Command::Sync { address: at(start), size: (end - start) * PAGE_SIZE, flags }
}

fn write(start: u64, end: u64, byte: u8) -> Command {
    Command::Write { address: at(start), size: (end - start) * PAGE_SIZE, pattern: Pattern::byte(byte) }
}

/// Returns a system with 8 pages, all written.
fn written() -> Bed {
    let bed = Bed::new();
    bed.allocate(0, 8);
    assert_eq!(bed.main(write(0, 8, 1)), SUCCESS);
    bed
}

fn await_host(bed: &Bed) -> Reply {
    bed.main(Command::AwaitHost)
}

#[test]
fn operation_that_waits_for_the_host_awaits_it_and_is_gone_on_with() {
    let bed = written();
    bed.host().hold();
    assert_eq!(bed.main(sync(0, 2, SYNC)), Reply::Awaits);
    assert_eq!((await_host(&bed), await_host(&bed)), (Reply::Awaits, Reply::Awaits));
    bed.host().release();
    assert_eq!((await_host(&bed), await_host(&bed)), (SUCCESS, Reply::Malformed));
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn result_that_came_while_others_were_asked_is_still_told() {
    let bed = written();
    bed.host().hold();
    assert_eq!(bed.main(sync(0, 2, SYNC)), Reply::Awaits);
    bed.host().release();
    assert_eq!(bed.main(Command::Check), SUCCESS, "the operation ends in this request");
    assert_eq!(await_host(&bed), SUCCESS);
}

#[test]
fn questions_await_the_host_where_its_answer_may_change_theirs() {
    let bed = written();
    let questions = [Command::Poll { thread: 1 }, Command::Completions, Command::Join { thread: 1 }, Command::Quiesce];
    let answers = [Reply::Ended, Reply::Number(1), SUCCESS, SUCCESS];
    for (which, (question, answer)) in questions.into_iter().zip(answers).enumerate() {
        bed.main(Command::Completions);
        assert_eq!(bed.main(write(0, 8, 2)), SUCCESS);
        bed.host().hold();
        bed.start(1, sync(0, 2, SYNC));
        assert_eq!((bed.main(question), await_host(&bed)), (Reply::Awaits, Reply::Awaits), "{question:?}");
        bed.host().release();
        if which == 3 {
            assert!(is_violation(&await_host(&bed), "the result of thread 1 was not taken"));
        } else {
            assert_eq!(await_host(&bed), answer, "{question:?}");
        }
        assert_eq!(bed.poll(1) == Reply::Malformed, which == 2);
        bed.join(1);
    }
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn reset_awaits_the_host_and_then_empties_the_system() {
    let bed = written();
    bed.host().hold();
    bed.start(1, sync(0, 2, SYNC));
    assert_eq!((bed.main(Command::Reset), await_host(&bed)), (Reply::Awaits, Reply::Awaits));
    bed.host().release();
    assert_eq!(await_host(&bed), SUCCESS);
    assert_eq!((bed.layout(0), bed.poll(1)), (vec![], Reply::Malformed));
}

#[test]
fn what_the_host_can_not_change_is_blocked_once_it_has_answered() {
    let bed = written();
    assert_eq!(bed.main(wire(6, 8, SYSTEM)), SUCCESS);
    assert_eq!(bed.main(deallocate(6, 8)), Reply::Blocked, "nothing is asked of the host");
    assert_eq!(await_host(&bed), Reply::Malformed);
    bed.host().hold();
    assert_eq!(bed.main(sync(0, 2, SYNC)), Reply::Awaits);
    bed.start(1, deallocate(6, 7));
    assert_eq!(bed.poll(1), Reply::Awaits);
    bed.host().release();
    assert_eq!(await_host(&bed), Reply::Blocked);
    assert_eq!((bed.main(unwire(6, 8, SYSTEM)), bed.join(1)), (SUCCESS, SUCCESS));
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
}

#[test]
fn task_ends_when_the_host_has_answered() {
    let bed = Bed::new();
    assert_eq!(bed.main(Command::NewTask), Reply::Number(1));
    bed.allocate(1, 4);
    assert_eq!(bed.task(1, write(0, 4, 1)), SUCCESS);
    bed.host().hold();
    assert_eq!(bed.ask(Request { task: 1, thread: 5, command: sync(0, 4, SYNC) }), Reply::Started);
    assert_eq!(bed.task(1, Command::EndTask), Reply::Awaits);
    bed.host().release();
    assert_eq!((await_host(&bed), bed.join(5)), (SUCCESS, SUCCESS));
    assert_eq!(bed.agent.maps().len(), 1);
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What awaits an answer may go from one processor to another.
const fn sendable<T: Send>(future: T) -> T {
    future
}

#[test]
fn await_host_is_not_answered_before_something_has_woken_a_thread() {
    let bed = written();
    bed.host().hold();
    bed.start(1, sync(0, 2, SYNC));
    bed.start(2, wire(4, 6, USER));
    assert_eq!(bed.poll(1), Reply::Awaits);
    let mut words = Vec::new();
    Request::new(0, Command::AwaitHost).encode(&mut words);
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let mut context = Context::from_waker(&waker);
    let mut answer = pin!(sendable(bed.agent.answer(&words)));
    assert!(answer.as_mut().poll(&mut context).is_pending());
    assert!(!flag.0.load(Ordering::Relaxed));
    assert_eq!(bed.main(Command::Check), SUCCESS, "nothing is locked meanwhile");
    assert!(answer.as_mut().poll(&mut context).is_pending());
    bed.host().release();
    assert!(flag.0.load(Ordering::Relaxed));
    let Poll::Ready(Answer::Reply(reply)) = answer.poll(&mut context) else { panic!("it was woken") };
    assert_eq!((reply, bed.join(1), bed.join(2)), (Reply::Ended, SUCCESS, SUCCESS));
}

#[test]
fn answer_pends_for_nothing_but_await_host() {
    let bed = written();
    bed.host().hold();
    let mut context = Context::from_waker(Waker::noop());
    for command in [sync(0, 2, SYNC), Command::Quiesce, Command::AwaitHost] {
        let mut words = Vec::new();
        Request::new(0, command).encode(&mut words);
        let answer = pin!(bed.agent.answer(&words)).poll(&mut context);
        assert_eq!(answer.is_pending(), command == Command::AwaitHost, "{command:?}");
    }
    bed.host().release();
}

#[test]
fn asynchronous_sync_is_over_at_once_and_what_it_began_is_waited_for_by_whoever_asks() {
    let bed = written();
    bed.host().hold();
    assert_eq!(bed.main(sync(0, 4, ASYNC)), SUCCESS);
    let counts = |bed: &Bed| match bed.main(Command::PageStates { start: at(0), end: at(8) }) {
        Reply::Layout(rows) => rows.iter().map(|row| (row.pages.len(), row.wired_count)).collect::<Vec<_>>(),
        reply => panic!("{reply:?}"),
    };
    assert_eq!(counts(&bed), [(4, 4), (4, 1)], "cleaning, dirty");
    assert_eq!((bed.main(Command::Quiesce), bed.main(Command::Completions)), (Reply::Awaits, Reply::Awaits));
    bed.host().release();
    assert_eq!(bed.main(Command::Completions), Reply::Number(1));
    assert_eq!(counts(&bed), [(4, 0), (4, 1)]);
    assert_eq!((bed.main(Command::Completions), bed.main(Command::Quiesce)), (Reply::Number(0), SUCCESS));
}

#[test]
fn completions_count_what_the_host_has_answered_since_the_last_time() {
    let bed = written();
    assert_eq!(bed.main(Command::Completions), Reply::Number(0));
    assert_eq!((bed.main(sync(0, 2, SYNC)), bed.main(sync(4, 5, SYNC))), (SUCCESS, SUCCESS));
    assert_eq!(bed.main(sync(0, 2, SYNC)), SUCCESS, "there was nothing to ask for");
    assert_eq!((bed.main(Command::Completions), bed.main(Command::Completions)), (Reply::Number(2), Reply::Number(0)));
}

#[test]
fn s_01_and_s_04_sync_of_a_task_that_is_not_there_is_invalid_task() {
    let bed = Bed::new();
    let msync = Command::Msync { address: at(0), size: PAGE_SIZE, flags: 0 };
    for command in [sync(0, 1, SYNC), sync(0, 0, SYNC), msync] {
        assert_eq!(bed.task(7, command), Reply::Done(KernReturn::InvalidTask), "{command:?}");
        assert_eq!(bed.ask(Request { task: 7, thread: 1, command }), Reply::Started);
        assert_eq!(bed.join(1), Reply::Done(KernReturn::InvalidTask));
    }
}

#[test]
fn posix_msync_answers_errnos() {
    let bed = written();
    let msync = |address, flags| bed.main(Command::Msync { address, size: PAGE_SIZE, flags });
    let invalid = Reply::Errno(wirevm_map::Errno::Inval);
    assert_eq!((msync(at(0), u64::from(MsyncFlags::SYNC.bits())), msync(at(0), 1 << 32)), (SUCCESS, invalid.clone()));
    assert_eq!((msync(at(0) + 1, 0), msync(at(8), 0)), (invalid, Reply::Errno(wirevm_map::Errno::NoMem)));
}

#[test]
fn store_is_written_by_sync_and_closed_when_nobody_uses_its_object() {
    let bed = Bed::new();
    let name = StoreName::new("data").expect("a name").to_words();
    let new = |name, kind| bed.main(Command::NewStoreObject { name, pages: 4, kind });
    assert_eq!(new(name, StoreKind::Store), Reply::Number(1));
    assert_eq!(new([u64::MAX; 2], StoreKind::Store), Reply::Done(KernReturn::InvalidArgument));
    assert!(matches!(new(name, StoreKind::Store), Reply::Done(_)), "it is in use");
    let (mode, prot) = (MapMode::Shared, Prot::DEFAULT);
    let map = Command::MapObject { address: Some(at(0)), object: 1, first_page: 0, end_page: 4, mode, prot };
    assert_eq!(bed.main(map), Reply::Address(at(0)));
    assert_eq!((bed.main(write(1, 2, 7)), bed.main(sync(0, 4, SYNC))), (SUCCESS, SUCCESS));
    assert_eq!(bed.host().store_byte("data", 1), Some((7, 7)));
    assert_eq!(bed.main(write(2, 3, 8)), SUCCESS);
    let row = |reply| match reply {
        Reply::Layout(rows) => rows.iter().map(|row| (row.pages.start, row.pages.end)).collect::<Vec<_>>(),
        reply => panic!("{reply:?}"),
    };
    assert_eq!(row(bed.main(Command::DirtyRanges { object: 1 })), [(2, 3)]);
    bed.host().hold();
    assert_eq!((bed.main(Command::DropObject { object: 1 }), bed.main(deallocate(0, 4))), (SUCCESS, SUCCESS));
    assert_eq!((bed.main(Command::Quiesce), bed.host().open_stores()), (Reply::Awaits, 1));
    bed.host().release();
    assert_eq!((await_host(&bed), bed.host().open_stores()), (SUCCESS, 0));
    assert_eq!(bed.host().store_byte("data", 2), Some((8, 8)));
}

#[test]
fn store_that_is_in_use_at_a_reset_is_closed_by_it() {
    let bed = Bed::new();
    let name = StoreName::new("data").expect("a name").to_words();
    assert_eq!(bed.main(Command::NewStoreObject { name, pages: 4, kind: StoreKind::Exclusive }), Reply::Number(1));
    let (mode, prot) = (MapMode::Shared, Prot::DEFAULT);
    let map = Command::MapObject { address: Some(at(0)), object: 1, first_page: 0, end_page: 4, mode, prot };
    assert_eq!((bed.main(map), bed.main(write(0, 4, 3))), (Reply::Address(at(0)), SUCCESS));
    bed.host().hold();
    assert_eq!((bed.main(Command::Reset), bed.host().open_stores()), (Reply::Awaits, 1));
    bed.host().release();
    assert_eq!((await_host(&bed), bed.host().open_stores()), (SUCCESS, 0));
    assert_eq!((bed.host().store_byte("data", 3), bed.agent.vm().frames().free_pages()), (Some((3, 3)), 512));
}

#[test]
fn host_without_numbers_and_without_discard_refuses() {
    let bed = Bed::new();
    assert_eq!(bed.main(Command::Stat { selector: 0 }), Reply::Done(KernReturn::Failure));
    assert_eq!(bed.main(Command::Trim), Reply::Number(0), "the fake's frames are zero");
}

#[test]
fn submap_is_a_task_until_its_range_goes() {
    let bed = Bed::new();
    bed.allocate(0, 2);
    let submap = |size| bed.main(Command::Submap { address: Some(at(4)), size });
    assert_eq!((submap(0), submap(8 * PAGE_SIZE)), (Reply::Done(KernReturn::InvalidArgument), Reply::Number(1)));
    assert_eq!(submap(PAGE_SIZE), Reply::Done(KernReturn::NoSpace));
    let allocate = Command::Allocate { address: Some(at(5)), size: 2 * PAGE_SIZE };
    assert_eq!((bed.task(1, allocate), bed.main(write(5, 6, 9))), (Reply::Address(at(5)), SUCCESS));
    assert_eq!(bed.task(1, Command::Read { address: at(5), size: 1 }), Reply::Bytes(vec![9]));
    assert_eq!((bed.main(Command::Check), bed.main(Command::Quiesce)), (SUCCESS, SUCCESS));
    assert_eq!(bed.main(deallocate(5, 6)), Reply::Done(KernReturn::InvalidArgument));
    assert_eq!(bed.main(deallocate(4, 12)), SUCCESS);
    assert_eq!(bed.task(1, Command::Read { address: at(5), size: 1 }), Reply::Malformed);
    assert_eq!(bed.main(Command::Quiesce), SUCCESS);
    assert_eq!((submap(PAGE_SIZE), bed.task(2, Command::EndTask)), (Reply::Number(2), SUCCESS));
    assert_eq!((bed.main(Command::Reset), bed.layout(0)), (SUCCESS, vec![]));
}
