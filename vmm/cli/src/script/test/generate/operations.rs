//! Operations, with what may be expected of each.

use std::num::NonZero;

use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::{collection, option, sample};
use wirevm_abi::StoreName;
use wirevm_agent::Behaviour;
use wirevm_map::{Advice, Inheritance, KernReturn, PagerFault};

use super::expected::{code, counts, layout, messages, pages as expected_pages, posix, states, value, waiting};
use super::parts::{allocation, flags, number, object, object_page, pattern, prot, range, task, wire_flags};
use super::{BACKED, Line, OBJECTS};
use crate::program::Wanted;
use crate::script::ast::{
    AllocationKind, Expectation, Flags, Limit, Locking, Managing, ObjectChange, Operation, Place, Question, RETURNS,
    Range, Showing, Value,
};
use crate::script::target::{HostErrno, HostFault, StorageErrno, StorageFault};

/// A program with arguments of all kinds.
pub(super) fn program() -> BoxedStrategy<Operation> {
    let name = sample::select(vec!["hello", "kv", "./my.elf", "/tmp/a b"]);
    let argument = prop_oneof![
        sample::select(vec!["1000", "0x10", "ud2", "a-b", "-v", "1U", "hex", "exit", "if"]).prop_map(str::to_owned),
        "[^\\x00]{1,9}",
    ];
    (name, collection::vec(argument, 0..4))
        .prop_map(|(program, arguments)| {
            let wanted = Wanted::new(program, arguments).expect("a program");
            Operation::Program { name: String::new(), wanted }
        })
        .boxed()
}

/// What a manager does that may have to wait.
pub(super) fn managing() -> BoxedStrategy<Operation> {
    let returns = sample::select(RETURNS.map(|(_, which)| which).to_vec());
    let pages = option::of((object_page(), object_page()));
    let request = (pages, returns, any::<bool>(), option::of(prot())).prop_map(
        |(pages, should_return, should_flush, forbidden)| Managing::Request {
            object: "o".to_owned(),
            pages,
            should_return,
            should_flush,
            forbidden,
        },
    );
    let answer = (number(), number(), sample::select(&KernReturn::ALL[..]))
        .prop_map(|(offset, length, status)| Managing::Answer { object: "o".to_owned(), offset, length, status });
    prop_oneof![Just(Managing::Die), request, answer]
        .prop_map(|managing| Operation::Manage { manager: "m".to_owned(), managing })
        .boxed()
}

/// What a thread can do as well.
pub(super) fn changes_memory() -> BoxedStrategy<Line> {
    let protect = (range(), any::<bool>(), prot()).prop_map(|(range, set_maximum, prot)| Operation::Protect {
        range,
        set_maximum,
        prot,
    });
    let inheritance = sample::select(vec![Inheritance::Share, Inheritance::Copy, Inheritance::None]);
    let advice = sample::select(vec![Advice::DontNeed, Advice::Free]);
    let on_range = prop_oneof![
        range().prop_map(Operation::Deallocate),
        protect,
        (range(), pattern()).prop_map(|(range, pattern)| Operation::Write(range, pattern)),
        (range(), wire_flags()).prop_map(|(range, flags)| Operation::Wire(range, flags)),
        (range(), wire_flags()).prop_map(|(range, flags)| Operation::Unwire(range, flags)),
        (range(), flags(&Flags::SYNC)).prop_map(|(range, flags)| Operation::Sync(range, flags)),
        managing(),
        (range(), inheritance).prop_map(|(range, inheritance)| Operation::Inherit(range, inheritance)),
        (range(), advice).prop_map(|(range, advice)| Operation::Advise(range, advice)),
        task().prop_map(Operation::Fork),
        (object(), object_page())
            .prop_map(|(object, pages)| Operation::Object { object, change: ObjectChange::Truncate(pages) }),
    ];
    let locks = prop_oneof![
        (sample::select(&Locking::ALL[..]), range()).prop_map(|(locking, range)| Operation::Lock(locking, range)),
        (task(), flags(&Flags::LOCK_ALL)).prop_map(|(task, flags)| Operation::Mlockall(task, flags)),
        task().prop_map(Operation::Munlockall),
        (range(), flags(&Flags::MSYNC)).prop_map(|(range, flags)| Operation::Msync(range, flags)),
    ];
    let allocations = allocation().prop_flat_map(|allocation| {
        let address = || number().prop_map(Value::Number);
        let expected = match allocation.kind {
            AllocationKind::Heap { .. } => posix(address()),
            _ => value(prop_oneof![address(), Just(Value::Blocked)]),
        };
        expected.prop_map(move |expected| (Operation::Allocate(allocation.clone()), expected))
    });
    let expect = (range(), pattern()).prop_map(|(range, pattern)| Operation::Expect(range, pattern));
    prop_oneof![
        6 => (on_range, waiting()),
        2 => (locks, posix(Just(Value::Any))),
        2 => allocations,
        1 => (expect, value(Just(Value::Mismatch))),
    ]
    .boxed()
}

pub(super) fn object_changes() -> BoxedStrategy<Operation> {
    let fault = sample::select(vec![PagerFault::Io, PagerFault::Refused]);
    let change = prop_oneof![
        object_page().prop_map(ObjectChange::Gate),
        object_page().prop_map(ObjectChange::Release),
        (object_page(), fault).prop_map(|(page, fault)| ObjectChange::Fail(page, fault)),
        object_page().prop_map(ObjectChange::Heal),
        Just(ObjectChange::Kill),
    ];
    (object(), change).prop_map(|(object, change)| Operation::Object { object, change }).boxed()
}

pub(super) fn lines() -> BoxedStrategy<Line> {
    let count = || value(prop_oneof![number().prop_map(Value::Number), Just(Value::None), Just(Value::Unsupported)]);
    let resident = range().prop_map(|range| Operation::Host(Question::Resident(range)));
    let dirty = range().prop_map(|range| Operation::Host(Question::Dirty(range)));
    let file = range().prop_map(|range| Operation::Host(Question::File(range)));
    let total = || {
        let value = prop_oneof![number().prop_map(Value::Number), Just(Value::Any)];
        option::of(value.prop_map(|value| Expectation { value, otherwise: None }))
    };
    let counted = || option::of(counts().prop_map(|value| Expectation { value, otherwise: None }));
    let pages = 0..=u64::MAX / 4096;
    let limit = prop_oneof![
        (task(), pages.clone()).prop_map(|(task, pages)| Limit::Memlock(task, pages)),
        (task(), any::<bool>()).prop_map(|(task, may_lock)| Limit::Privilege(task, may_lock)),
        pages.prop_map(Limit::Wire),
    ];
    let fault = (1..=u64::MAX, sample::select(&HostErrno::ALL[..]))
        .prop_map(|(nth, errno)| Operation::FailHost(HostFault { nth: NonZero::new(nth).expect("at least 1"), errno }));
    let storage_fault = (1..=u64::MAX, sample::select(&StorageErrno::ALL[..])).prop_map(|(nth, errno)| {
        Operation::FailStorage(StorageFault { nth: NonZero::new(nth).expect("at least 1"), errno })
    });
    let store = (object_page(), object_page())
        .prop_map(|pages| Operation::Host(Question::Store(StoreName::new("disk.0").expect("a name"), pages)));
    let behaviour = sample::select(&Behaviour::ALL[..])
        .prop_map(|behaviour| Operation::Manage { manager: "m".to_owned(), managing: Managing::Behave(behaviour) });
    let heard = Operation::Manage { manager: "m".to_owned(), managing: Managing::Messages };
    let success = || Just(Value::Code(KernReturn::Success));
    let only = |value: BoxedStrategy<Value>| option::of(value.prop_map(|value| Expectation { value, otherwise: None }));
    let selector = 1..=wirevm_abi::stat::NAMES.len() as u64;
    let object = || sample::select([OBJECTS, BACKED].concat()).prop_map(str::to_owned);
    let show = |showing: Showing| range().prop_map(move |range| Operation::Show(showing, range));
    let all = task().prop_map(|task| Range { task, place: Place::All });
    let show_all = (sample::select(vec![Showing::Layout, Showing::Entries]), all.clone())
        .prop_map(|(showing, range)| Operation::Show(showing, range));
    let printed = prop_oneof![any::<String>().prop_map(Value::Text), Just(Value::None), success()].boxed();
    let asks_programs = prop_oneof![
        (show_all, value(prop_oneof![layout(), Just(Value::None)])),
        (all.prop_map(Operation::Residents), total()),
        (Just(Operation::Output("p".to_owned())), only(printed)),
        (Just(Operation::KillProgram("p".to_owned())), code()),
    ];
    let asks_guest = prop_oneof![
        (range().prop_map(Operation::Read), value(pattern().prop_map(Value::Pattern))),
        (show(Showing::Layout), value(prop_oneof![layout(), Just(Value::None)])),
        (show(Showing::Entries), value(prop_oneof![layout(), Just(Value::None)])),
        (show(Showing::PageWires), counted()),
        (show(Showing::Mincore), posix(counts())),
        (range().prop_map(Operation::Residents), total()),
        (Just(Operation::WireTotal), total()),
        (
            Just(Operation::Completions),
            option::of(
                prop_oneof![number().prop_map(Value::Number), Just(Value::Blocked)]
                    .prop_map(|value| Expectation { value, otherwise: None })
            )
        ),
        (selector.prop_map(Operation::Stat), value(number().prop_map(Value::Number))),
        (Just(Operation::Trim), value(number().prop_map(Value::Number))),
        (object().prop_map(Operation::DirtyRanges), counted()),
        (show(Showing::PageStates), value(prop_oneof![states(), Just(Value::None)])),
        (Just(heard), only(prop_oneof![messages(), Just(Value::None), success()].boxed())),
    ];
    let asks_host = prop_oneof![
        (Just(Operation::Host(Question::Locked)), value(number().prop_map(Value::Number))),
        (resident, count()),
        (dirty, count()),
        (file, value(expected_pages())),
        (fault, code()),
        (storage_fault, code()),
        (any::<bool>().prop_map(Operation::HoldStorage), code()),
        (store, only(prop_oneof![expected_pages(), Just(Value::Unsupported)].boxed())),
        (behaviour, code()),
    ];
    prop_oneof![
        4 => changes_memory(),
        3 => asks_guest,
        1 => asks_programs,
        2 => asks_host,
        1 => (limit.prop_map(Operation::Limit), code()),
        1 => (object_changes(), code()),
        1 => (Just(Operation::Check), code()),
    ]
    .boxed()
}
