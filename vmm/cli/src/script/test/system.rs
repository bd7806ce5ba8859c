//! Tasks, threads, objects, limits and failures over a scripted target.

use std::num::NonZero;

use wirevm_agent::{Command, LayoutRow, Limit, ObjectKind, Reply, Request};
use wirevm_map::{Advice, Errno, Inheritance, KernReturn, MapMode, PageRange, PagerFault, Prot};

use super::runner::{complete, mismatch, results};
use super::scripted::{BASE, Model};
use crate::script::target::{HostErrno, HostFault};

#[test]
fn every_operation_reaches_the_guest_in_the_task_that_it_names() {
    let mut target = Model::new();
    complete(
        &mut target,
        "task t\nt.a = allocate 2 pages\nc = fork t\nwire c.a[0,1) user\nunwire @c.a..c.a+1 page user\nmlock t.@0x1000+2\n\
         allocate 1 page large at t.a\nguard 1 page in t\nt.k = stack 8 pages\nk = stack 8 pages initial 2 pages at 0x5000\n\
         madvise t.k free\ninherit c.a none\nmunlock c.a\nvslock c.a\nvsunlock c.a\nmlockall t current onfault\n\
         mlockall future flags 8\nmunlockall c\nlimit memlock t 2 pages\nlimit unprivileged\nlimit privileged c\n\
         limit wire 64K\nend c\nbrk 3 pages in t => any\nfork => any\nresidents t.a\nmincore t.a",
    );
    let (task, size, page) = (1, 8192, 4096);
    let child = 2;
    let k = BASE + ((8 * page) << 20);
    let expected = [
        (0, Command::NewTask),
        (task, Command::Allocate { address: None, size }),
        (task, Command::Fork),
        (child, Command::Wire { start: BASE, end: BASE + page, flags: 1 }),
        (child, Command::Unwire { start: BASE, end: BASE + page, flags: 1 }),
        (task, Command::Mlock { address: page, size: 2 }),
        (task, Command::AllocateLarge { address: Some(BASE), size: page }),
        (task, Command::Guard { address: None, size: page }),
        (task, Command::Stack { address: None, size: 8 * page, initial: page }),
        (0, Command::Stack { address: Some(0x5000), size: 8 * page, initial: 2 * page }),
        (task, Command::Advise { address: k, size: 8 * page, advice: Advice::Free }),
        (child, Command::Inherit { address: BASE, size, inheritance: Inheritance::None }),
        (child, Command::Munlock { address: BASE, size }),
        (child, Command::Vslock { address: BASE, size }),
        (child, Command::Vsunlock { address: BASE, size }),
        (task, Command::Mlockall { flags: 5 }),
        (0, Command::Mlockall { flags: 10 }),
        (child, Command::Munlockall),
        (task, Command::Limit(Limit::Memlock { pages: 2 })),
        (0, Command::Limit(Limit::Privilege { may_lock: false })),
        (child, Command::Limit(Limit::Privilege { may_lock: true })),
        (0, Command::Limit(Limit::Global { pages: 16 })),
        (child, Command::EndTask),
        (task, Command::Brk { size: 3 * page }),
        (0, Command::Fork),
        (task, Command::Residents { start: BASE, end: BASE + size }),
        (task, Command::Mincore { address: BASE, size }),
    ];
    let asked: Vec<_> = target.requests.iter().map(|request| (request.task, request.command)).collect();
    assert_eq!(asked, expected);
    assert_eq!(target.checked, expected.len() + 1, "one check a line, and one at the end");
}

#[test]
fn objects_are_changed_and_mapped_by_their_names() {
    let mut target = Model::new();
    let steps = complete(
        &mut target,
        "f = file(8) readahead 4\ns = anonymous(3)\na = map f private\nb = map s[1,3) shared rx at 0x5000\nwire b => INVALID_ADDRESS\ngate f 3\n\
         release f 3\nfail f 5 io\nfail s 1 refused\nheal f 5\nkill s\ntruncate f 4\nmap f shared none\ndrop f",
    );
    assert_eq!((steps[0].result.as_str(), steps[2].result.as_str()), ("SUCCESS", "0x900000"));
    let (f, s) = (1, 2);
    let map = |object, first_page, end_page, mode, prot| Command::MapObject {
        address: (object == s).then_some(0x5000),
        object,
        first_page,
        end_page,
        mode,
        prot,
    };
    let b = BASE + (3 << 20);
    let expected = [
        Command::NewObject { kind: ObjectKind::File { readahead: 4 }, pages: 8 },
        Command::NewObject { kind: ObjectKind::Anonymous, pages: 3 },
        map(f, 0, 8, MapMode::Private, Prot::DEFAULT),
        map(s, 1, 3, MapMode::Shared, Prot::READ | Prot::EXECUTE),
        Command::Wire { start: b, end: b + 2 * 4096, flags: 0 },
        Command::Gate { object: f, page: 3 },
        Command::Release { object: f, page: 3 },
        Command::Fail { object: f, page: 5, fault: PagerFault::Io },
        Command::Fail { object: s, page: 1, fault: PagerFault::Refused },
        Command::Heal { object: f, page: 5 },
        Command::Kill { object: s },
        Command::Truncate { object: f, pages: 4 },
        map(f, 0, 4, MapMode::Shared, Prot::NONE),
        Command::DropObject { object: f },
    ];
    assert_eq!(target.calls(), expected);
}

#[test]
fn threads_are_started_looked_at_and_joined() {
    let mut target = Model::new();
    target.instead.extend([
        Reply::Address(BASE),
        Reply::Started,
        Reply::Started,
        Reply::Blocked,
        Reply::Ended,
        Reply::Done(KernReturn::Success),
        Reply::Number(7),
        Reply::Done(KernReturn::InvalidAddress),
    ]);
    let steps = complete(
        &mut target,
        "a = allocate 2 pages\nt1: wire a user\nt2: c = fork\nt1 blocked\nt2 ended\njoin t1\njoin t2\nwire c.a => INVALID_ADDRESS",
    );
    let results = results(&steps);
    assert_eq!(results[1..], ["started", "started", "blocked", "ended", "SUCCESS", "SUCCESS", "INVALID_ADDRESS"]);
    let (start, end) = (BASE, BASE + 8192);
    let expected = [
        Request { task: 0, thread: 1, command: Command::Wire { start, end, flags: 1 } },
        Request { task: 0, thread: 2, command: Command::Fork },
        Request::new(0, Command::Poll { thread: 1 }),
        Request::new(0, Command::Poll { thread: 2 }),
        Request::new(0, Command::Join { thread: 1 }),
        Request::new(0, Command::Join { thread: 2 }),
        Request::new(7, Command::Wire { start, end, flags: 0 }),
    ];
    assert_eq!(target.requests[1..], expected);
    assert_eq!(steps[1].host_locked_after, Some(0), "what a thread does may lock");
    let mut target = Model::new();
    target.instead.extend([Reply::Started, Reply::Ended]);
    let step = mismatch(&mut target, "t1: wire @0+1\nt1 blocked\njoin t1");
    assert_eq!((step.result.as_str(), step.expected.as_str()), ("ended", "blocked"));
    let mut target = Model::new();
    target.instead.extend([Reply::Started, Reply::Blocked]);
    let step = mismatch(&mut target, "t1: wire @0+1\njoin t1");
    assert_eq!((step.result.as_str(), step.expected.as_str()), ("BLOCKED", "SUCCESS"));
}

#[test]
fn join_is_judged_as_what_the_thread_did() {
    let mut target = Model::new();
    target.instead.extend([
        Reply::Started,
        Reply::Mismatch { address: 1, expected: 2, got: 3 },
        Reply::Started,
        Reply::Errno(Errno::NoMem),
        Reply::Started,
        Reply::Address(0x5000),
        Reply::Done(KernReturn::Success),
    ]);
    let steps = complete(
        &mut target,
        "t1: expect @0+1 2\njoin t1 => MISMATCH\nt2: mlock @0+1\njoin t2 => ENOMEM\nt3: a = allocate 2 pages\n\
         join t3 => 0x5000\nwire a user",
    );
    assert_eq!(results(&steps)[1], "MISMATCH at 0x1 (0x03 in place of 0x02)");
    assert!(target.calls().contains(&Command::Wire { start: 0x5000, end: 0x7000, flags: 1 }));
}

#[test]
fn posix_results_and_blocked_are_results_like_others() {
    let mut target = Model::new();
    let (blocked, fault) = (Reply::Blocked, Reply::Errno(Errno::Fault));
    target.instead.extend([Reply::Errno(Errno::Perm), fault, blocked.clone(), blocked.clone(), blocked]);
    let steps = complete(
        &mut target,
        "mlock @0+1 => EPERM\nvslock @0+1 => EFAULT\ndeallocate @0+1 => BLOCKED\nread @0+1 => BLOCKED\nmincore @0+1 => BLOCKED",
    );
    assert_eq!(results(&steps), ["EPERM", "EFAULT", "BLOCKED", "BLOCKED", "BLOCKED"]);
    let mut target = Model::new();
    target.instead.push_back(Reply::Errno(Errno::Again));
    assert_eq!(mismatch(&mut target, "munlockall").result, "EAGAIN");
    let mut target = Model::new();
    target.instead.push_back(Reply::Blocked);
    assert_eq!(mismatch(&mut target, "deallocate @0+1").result, "BLOCKED");
}

#[test]
fn counts_are_listed_and_entries_stay_apart() {
    let row = |start, end, wired_count| LayoutRow { pages: PageRange::new(start, end), wired_count, user_wired: false };
    let mut target = Model::new();
    let first = BASE / 4096;
    target.instead.extend([
        Reply::Address(BASE),
        // One entry in two answers, and one that continues beyond the range.
        Reply::Malformed,
        Reply::Layout(vec![row(first, first + 2, 0), row(first + 2, first + 6, 0)]),
        Reply::Layout(vec![row(first + 2, first + 6, 0), row(first + 6, first + 90, 0)]),
        Reply::Layout(vec![row(first, first + 2, 1), row(first + 2, first + 3, 1)]),
        Reply::Layout(vec![row(first, first + 2, 1), row(first + 2, first + 3, 3)]),
    ]);
    let steps = complete(
        &mut target,
        "a = allocate 8 pages\nentries a => [0,2)0 [2,6)0 [6,8)0\npage-wc a => [0,3)1\nmincore a => [0,2)1 [2,3)3",
    );
    assert_eq!(steps[1].result, "[0,2)0 [2,6)0 [6,8)0");
    let asked = target.calls();
    assert_eq!(asked[2], Command::Entries { start: BASE, end: BASE + 4 * 4096 });
    assert_eq!(asked[3], Command::Entries { start: BASE + 4 * 4096, end: BASE + 8 * 4096 });
    assert_eq!(asked[5], Command::Mincore { address: BASE, size: 8 * 4096 });
}

#[test]
fn host_failures_are_ordered_from_the_target() {
    let mut target = Model::new();
    let steps = complete(&mut target, "host fail mlock nth 2 EAGAIN");
    assert!(steps[0].asks_host && steps[0].result == "SUCCESS");
    assert_eq!(target.faults, [HostFault { nth: NonZero::<u64>::MIN.saturating_add(1), errno: HostErrno::Again }]);
}

#[test]
fn reset_takes_every_name() {
    let mut target = Model::new();
    let steps = complete(
        &mut target,
        "a = allocate 1 page\ntask t\nt1: wire a\njoin t1\nreset\na = allocate 3 pages\nt = file(2)\nt1: wire a user\njoin t1",
    );
    assert_eq!(steps[4].host_truth.as_deref(), Some("0 locked"));
    assert!(target.calls().contains(&Command::Wire { start: BASE, end: BASE + 3 * 4096, flags: 1 }));
    let mut target = Model::new();
    target.instead.push_back(Reply::Violation("an operation waits".into()));
    assert_eq!(mismatch(&mut target, "reset").result, "VIOLATION (an operation waits)");
}
