//! Managers, stores, submaps, and orders to storage, over a scripted target.

use std::num::NonZero;

use wirevm_abi::StoreName;
use wirevm_agent::{Behaviour, Command, Reply};
use wirevm_map::{Errno, KernReturn, Prot, ShouldReturn, StoreKind};

use super::runner::{complete, mismatch, results, stopped};
use super::scripted::{BASE, Model};
use crate::exit_code::ExitCode;
use crate::script::ast::{Operation, Place};
use crate::script::parse;
use crate::script::target::{StorageErrno, StorageFault, WitnessQuery};

const PAGE: u64 = 4096;

#[test]
fn every_operation_reaches_the_guest_in_the_task_that_it_names() {
    let mut target = Model::new();
    complete(
        &mut target,
        "task t\nmanager m task\nobject o manager m 8 pages\nobject d store \"disk-0\" 64K\nobject e exclusive \"1.img\" 1 page\n\
         m delays\nm prompt\nm precious\nm plain\nm traps-writes\nm allows-writes\n\
         m answers 1 page 0x2000 KERN_FAILURE\nm answers o 0 8 pages SUCCESS\nm requests o[1,3) dirty\n\
         m requests o anything flush forbid none\nm requests o none forbid w\nm dies\nmsync m.o\nmsync m.o[0,1) async sync invalidate flags 8\n\
         submap s 16 pages\nsubmap q 8K in t\nsubmap z 1 page at m.o+1 page\ns.x = allocate 1 page\ncompletions\nstat sync-flushes\ntrim",
    );
    let object = 3;
    let behave = [
        Behaviour::Delays,
        Behaviour::Prompt,
        Behaviour::Precious,
        Behaviour::Plain,
        Behaviour::TrapsWrites,
        Behaviour::AllowsWrites,
    ];
    let store = |name: &str| StoreName::new(name).expect("a name").to_words();
    let request = |pages: (u64, u64), should_return, should_flush, forbidden| Command::LockRequest {
        object,
        first_page: pages.0,
        end_page: pages.1,
        should_return,
        should_flush,
        forbidden,
    };
    let answer = |offset, length, status| Command::SynchronizeCompleted { object, offset, length, status };
    let mut expected = vec![
        (0, Command::NewTask),
        (0, Command::NewManager),
        (2, Command::Allocate { address: None, size: 8 * PAGE }),
        (2, Command::NewManagedObject { pages: 8, address: BASE }),
        (0, Command::NewStoreObject { name: store("disk-0"), pages: 16, kind: StoreKind::Store }),
        (0, Command::NewStoreObject { name: store("1.img"), pages: 1, kind: StoreKind::Exclusive }),
    ];
    expected.extend(behave.map(|behaviour| (2, Command::Behave(behaviour))));
    expected.extend([
        (2, answer(PAGE, 0x2000, KernReturn::Failure)),
        (2, answer(0, 8 * PAGE, KernReturn::Success)),
        (2, request((1, 3), ShouldReturn::Dirty, false, None)),
        (2, request((0, 8), ShouldReturn::Anything, true, Some(Prot::NONE))),
        (2, request((0, 8), ShouldReturn::Nothing, false, Some(Prot::WRITE))),
        (2, Command::Die),
        (2, Command::Msync { address: BASE, size: 8 * PAGE, flags: 0 }),
        (2, Command::Msync { address: BASE, size: PAGE, flags: 15 }),
        (0, Command::Submap { address: None, size: 16 * PAGE }),
        (1, Command::Submap { address: None, size: 2 * PAGE }),
        (2, Command::Submap { address: Some(BASE + PAGE), size: PAGE }),
        (6, Command::Allocate { address: None, size: PAGE }),
        (0, Command::Completions),
        (0, Command::Stat { selector: wirevm_abi::stat::SYNC_FLUSHES }),
        (0, Command::Trim),
    ]);
    let asked: Vec<_> = target
        .requests
        .iter()
        .filter(|request| !matches!(request.command, Command::Frames { .. }))
        .map(|request| (request.task, request.command))
        .collect();
    assert_eq!(asked, expected);
}

#[test]
fn answers_are_shown_and_compared_in_their_forms() {
    let mut target = Model::new();
    let steps = complete(
        &mut target,
        "manager m task\nobject o manager m 8 pages\na = allocate 9 pages\nm messages\n\
         m messages => init data_request [ 0 , 1 ) r data_return[0,2)dirty , kept\ndirty-ranges o => [2,5)1\n\
         page-states a => [0,1)clean [1,2)dirty [2,3)precious [3,4)precious,dirty [4,5)cleaning [5,6)cleaning,dirty \
         [6,7)precious,cleaning [7,8)dirty,precious,cleaning [8,9)error\n\
         completions => 3\nstat wired => 1\ntrim => 0\npage-states a[3,3) => none\nhost store disk [0,2) => 0x07 0x08\n\
         host store \"disk\" [0,3) => unsupported\nhost store disk [1,1) => none",
    );
    let shown = results(&steps);
    assert_eq!(shown[3], "init data_request[0,1)r data_return[0,2)dirty,kept");
    assert_eq!(shown[5], "[2,5)1");
    assert!(shown[6].ends_with("[3,4)dirty,precious [4,5)cleaning [5,6)dirty,cleaning [6,7)precious,cleaning [7,8)dirty,precious,cleaning [8,9)error"));
    assert_eq!(shown[11..], ["0x07 0x08", "unsupported", "none"]);
    let name = StoreName::new("disk").expect("a name");
    let asked: Vec<_> =
        target.questions.iter().filter(|query| matches!(query, WitnessQuery::StorePage { .. })).collect();
    assert_eq!(asked[..2], [&WitnessQuery::StorePage { name, page: 0 }, &WitnessQuery::StorePage { name, page: 1 }]);
    let mut target = Model::new();
    target.instead.extend([Reply::Number(1), Reply::Text(String::new())]);
    complete(&mut target, "manager m task\nm messages => none");
    let wrong = [
        ("manager m task\nm messages => init", "init data_request[0,1)r data_return[0,2)dirty,kept", "init"),
        ("manager m task\nm messages => none", "init data_request[0,1)r data_return[0,2)dirty,kept", "none"),
        ("a = allocate 2 pages\npage-states a => [0,2)clean", "[0,1)clean [1,2)dirty", "[0,2)clean"),
        ("completions => 2", "3", "2"),
        ("host store disk [0,2) => 0x07", "0x07 0x08", "0x07"),
        ("host store disk [0,1025)", "more than 1024 pages", "SUCCESS"),
    ];
    for (text, result, expected) in wrong {
        let step = mismatch(&mut Model::new(), text);
        assert_eq!((step.result.as_str(), step.expected.as_str()), (result, expected), "{text}");
    }
}

#[test]
fn orders_to_storage_reach_the_host_and_not_the_guest() {
    let mut target = Model::new();
    let steps = complete(
        &mut target,
        "host hold sync\nhost fail sync nth 3 ENOSPC\nhost release sync\nhost fail sync nth 1 EDQUOT\nhost fail sync nth 2 EIO",
    );
    assert!(steps.iter().all(|step| step.asks_host && step.result == "SUCCESS"));
    let faults = [(3, StorageErrno::NoSpace), (1, StorageErrno::Quota), (2, StorageErrno::Io)];
    let faults = faults.map(|(nth, errno)| StorageFault { nth: NonZero::new(nth).expect("not 0"), errno });
    assert_eq!((target.storage_faults, target.holds), (faults.to_vec(), vec![true, false]));
    assert!(target.requests.is_empty());
    assert_eq!(faults.map(|fault| fault.errno.number()), [libc::ENOSPC, libc::EDQUOT, libc::EIO]);
}

#[test]
fn waiting_operations_can_be_threads_and_can_be_blocked() {
    let mut target = Model::new();
    let text = "manager m task\nobject o manager m 8 pages\na = map o shared\nt1: msync a\nt2: m requests o none\n\
                t3: m answers 0 1 page SUCCESS\nt4: m dies\njoin t1 => ENOMEM\njoin t2\njoin t3\njoin t4\ncompletions => BLOCKED";
    // Behind the lines up to the threads, which are answered as usual.
    let usual = [Reply::Number(1), Reply::Address(BASE), Reply::Number(2), Reply::Address(BASE)];
    target.instead.extend(usual);
    target.instead.extend([const { Reply::Started }; 4]);
    target.instead.push_back(Reply::Errno(Errno::NoMem));
    target.instead.extend([const { Reply::Done(KernReturn::Success) }; 3]);
    target.instead.push_back(Reply::Blocked);
    complete(&mut target, text);
    let errors = parse(b"t1: completions\njoin t1").expect_err("it asks");
    assert!(errors.errors()[0].reason.contains("a thread can't do this"), "{errors}");
}

#[test]
fn object_that_cannot_be_made_leaves_no_name_and_no_memory() {
    let mut target = Model::new();
    let refused = Reply::Done(KernReturn::ResourceShortage);
    let done = Reply::Done(KernReturn::Success);
    target.instead.extend([
        Reply::Number(1),
        Reply::Address(BASE),
        refused.clone(),
        done,
        refused,
        Reply::Address(BASE),
        Reply::Number(2),
    ]);
    complete(
        &mut target,
        "manager m task\nobject o manager m 2 pages => RESOURCE_SHORTAGE\nobject o store s 1 page => RESOURCE_SHORTAGE\n\
         object o manager m 1 page => any\no = file(2)",
    );
    let calls = target.calls();
    assert_eq!(calls[3], Command::Deallocate { address: BASE, size: 2 * PAGE });
    let (line, exit, error) = {
        let mut target = Model::new();
        target.instead.extend([Reply::Number(1), Reply::Text("init".into())]);
        stopped(&mut target, "manager m task\nm delays")
    };
    assert_eq!((line, exit), (2, ExitCode::Failure));
    assert!(error.contains("is no answer to it"), "{error}");
}

#[test]
fn older_scripts_may_have_used_the_newer_words_as_names() {
    let text = "manager = allocate 1 page\nobject: wire manager user\nobject ended\njoin object\nplain = allocate 1 page\n\
                wire plain\ntask stat\nstat.delays = allocate 1 page\nwire stat.delays\ntrim = file(2)\nmap trim private\n\
                drop trim\ntask submap\nmsync = fork submap\nmlockall submap\ncompletions: wire plain\ncompletions blocked\n\
                join completions\nstat wired\nend stat\nforbid = allocate 1 page\nmanager m task\nm delays";
    complete(
        &mut Model { dies_after: None, ..Model::new() },
        &text.replace("completions blocked", "completions ended"),
    );
    // A task wins over an operation where both could be meant.
    let script =
        parse(b"manager stat task\nstat dies\nstat wired\nmanager object task\nobject delays\nobject messages")
            .expect("a script");
    let manages = |at: usize| matches!(&script.statements[at].operation, Operation::Manage { .. });
    assert_eq!([1, 2, 4, 5].map(manages), [true, false, true, true]);
    let script = parse(b"manager m task\nobject o manager m 1 page\nwire m.o").expect("a script");
    let Operation::Wire(range, _) = &script.statements[2].operation else { panic!("{script:?}") };
    assert_eq!((range.task.as_deref(), &range.place), (Some("m"), &Place::Whole("o".into())));
}
