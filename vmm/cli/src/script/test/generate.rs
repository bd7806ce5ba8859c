//! Scripts by chance.

use std::num::NonZero;

use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::{collection, option, sample};

use wirevm_abi::StoreName;
use wirevm_agent::{Behaviour, Crash, ObjectKind, Pattern};
use wirevm_map::{Advice, Errno, Inheritance, KernReturn, MapMode, PagerFault, Prot, StoreKind};

use crate::program::Wanted;
use crate::script::Script;
use crate::script::ast::{
    Address, Allocation, AllocationKind, Backing, Expectation, FlagWord, Flags, Limit, Locking, Managing, ObjectChange,
    Operation, PageState, PageValue, Place, Question, RETURNS, Range, Showing, Span, Statement, Task, Value,
};
use crate::script::target::{HostErrno, HostFault, StorageErrno, StorageFault};

/// Memory of the first task, of the others, and objects.
const NAMES: [&str; 3] = ["a", "_b1", "sizes"];
const OTHER_NAMES: [&str; 2] = ["x", "a"];
const TASKS: [&str; 2] = ["t", "child"];
const OBJECTS: [&str; 2] = ["f", "s"];
/// An object that a store backs, and one that the manager `m` backs.
const BACKED: [&str; 2] = ["d", "o"];

/// What stands on a line, but for its thread and name.
type Line = (Operation, Option<Expectation>);

/// Lines that go together.
#[derive(Clone, Debug)]
enum Group {
    /// One line.
    Line(Line),
    /// A thread with that operation, and whether it is asked for in between; its result, if that is written.
    Thread(Operation, Option<bool>, Option<Option<Expectation>>),
    /// What makes something that gets a name, in a thread or not.
    Named(Operation, bool),
    /// What makes something whose name stands within the line, and what is expected of it. The name is to be another.
    Behind(Operation, Option<Expectation>),
}

/// A script that defines its names first and then uses them, once or, with a reset in between, twice.
pub(super) fn script() -> impl Strategy<Value = Script> {
    let crash = sample::select(&Crash::ALL[..]).prop_map(Operation::Crash);
    let end = prop_oneof![any::<u8>().prop_map(Operation::Exit), crash].prop_map(|end| Some((end, None)));
    let groups = || collection::vec(group(), 0..8);
    (groups(), option::of(groups()), prop_oneof![Just(None), end]).prop_map(|(first, second, end)| {
        let mut statements = part(first);
        if let Some(second) = second {
            statements.push(line((Operation::Reset, None)));
            statements.extend(part(second));
        }
        statements.extend(end.map(line));
        Script { statements }
    })
}

fn line((operation, expected): Line) -> Statement {
    Statement { line: 0, text: String::new(), thread: None, name: None, operation, expected }
}

fn named(name: &str, operation: Operation) -> Statement {
    Statement { name: Some(name.to_owned()), ..line((operation, None)) }
}

/// Returns the lines that define the names, and the groups' lines.
fn part(groups: Vec<Group>) -> Vec<Statement> {
    let memory = |task: Option<&str>| {
        let kind = AllocationKind::Plain { size: 4096 };
        Operation::Allocate(Allocation { task: task.map(str::to_owned), kind, at: None })
    };
    let mut statements: Vec<_> = NAMES.iter().map(|name| named(name, memory(None))).collect();
    statements.push(line((Operation::NewTask("t".to_owned()), None)));
    statements.extend(OTHER_NAMES.iter().map(|name| named(name, memory(Some("t")))));
    statements.push(named("child", Operation::Fork(Some("t".to_owned()))));
    statements.push(line((Operation::NewManager("m".to_owned()), None)));
    let wanted = Wanted::new("hello", vec![]).expect("a program");
    statements.push(line((Operation::Program { name: "p".to_owned(), wanted }, None)));
    let disk = Backing::Store(StoreName::new("disk-0").expect("a name"), StoreKind::Store);
    for (name, backing) in BACKED.into_iter().zip([disk, Backing::Manager("m".to_owned())]) {
        statements.push(line((Operation::NewBackedObject { name: name.to_owned(), backing, pages: 8 }, None)));
    }
    statements.push(named("f", Operation::NewObject { kind: ObjectKind::File { readahead: 4 }, pages: 8 }));
    statements.push(named("s", Operation::NewObject { kind: ObjectKind::Anonymous, pages: 8 }));
    for (number, group) in groups.into_iter().enumerate() {
        let thread = format!("h{number}");
        let started = |statement: Statement| Statement { thread: Some(thread.clone()), ..statement };
        let join = |expected| line((Operation::Join(thread.clone()), expected));
        match group {
            Group::Line(only) => statements.push(line(only)),
            Group::Thread(operation, question, expected) => {
                statements.push(started(line((operation, None))));
                let question = question.map(|has_ended| Operation::Thread { thread: thread.clone(), has_ended });
                statements.extend(question.map(|question| line((question, None))));
                statements.push(join(expected.unwrap_or(None)));
            }
            Group::Behind(mut operation, expected) => {
                if let Operation::Submap { name, .. }
                | Operation::NewManager(name)
                | Operation::Program { name, .. }
                | Operation::NewBackedObject { name, .. } = &mut operation
                {
                    *name = format!("made{number}");
                }
                statements.push(line((operation, expected)));
            }
            Group::Named(operation, in_thread) => {
                let made = named(&format!("made{number}"), operation);
                if in_thread && !matches!(made.operation, Operation::NewObject { .. }) {
                    statements.extend([started(made), join(None)]);
                } else {
                    statements.push(made);
                }
            }
        }
    }
    statements
}

fn group() -> BoxedStrategy<Group> {
    let made = prop_oneof![
        allocation().prop_map(Operation::Allocate),
        task().prop_map(Operation::Fork),
        object_kind().prop_map(|(kind, pages)| Operation::NewObject { kind, pages }),
    ];
    let thread = (changes_memory(), option::of(any::<bool>()));
    prop_oneof![
        6 => lines().prop_map(Group::Line),
        2 => thread.prop_map(|((operation, expected), question)| {
            // A thread that is joined is not blocked.
            let blocked = |value: &Value| *value == Value::Blocked;
            let expected = expected.filter(|it| !blocked(&it.value) && !it.otherwise.as_ref().is_some_and(blocked));
            Group::Thread(operation, question, Some(expected))
        }),
        1 => behind(),
        1 => (made, any::<bool>()).prop_map(|(operation, in_thread)| Group::Named(operation, in_thread)),
    ]
    .boxed()
}

/// What has its name within the line.
fn behind() -> BoxedStrategy<Group> {
    let store =
        (sample::select(vec!["a", "_x", "0.img", "a-b", "hex"]), any::<bool>()).prop_map(|(name, exclusive)| {
            let kind = if exclusive { StoreKind::Exclusive } else { StoreKind::Store };
            Backing::Store(StoreName::new(name).expect("a name"), kind)
        });
    let object = (prop_oneof![store, Just(Backing::Manager("m".to_owned()))], 1..=1_u64 << 40)
        .prop_map(|(backing, pages)| Operation::NewBackedObject { name: String::new(), backing, pages });
    let task_and_address = task().prop_flat_map(|task| {
        let at = option::of(address(&task));
        at.prop_map(move |at| (task.clone(), at))
    });
    let submap = (number(), task_and_address).prop_map(|(size, (task, at))| Operation::Submap {
        name: String::new(),
        size,
        task,
        at,
    });
    let manager = Just(Operation::NewManager(String::new()));
    prop_oneof![(object, code()), (submap, waiting()), (manager, code()), (program(), ends())]
        .prop_map(|(operation, expected)| Group::Behind(operation, expected))
        .boxed()
}

/// A program with arguments of all kinds.
fn program() -> BoxedStrategy<Operation> {
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

fn ends() -> BoxedStrategy<Option<Expectation>> {
    value(prop_oneof![
        any::<u8>().prop_map(Value::Exit),
        option::of("\\PC{0,9}\n?").prop_map(Value::Fault),
        Just(Value::Killed),
        Just(Value::Blocked),
    ])
}

/// What a manager does that may have to wait.
fn managing() -> BoxedStrategy<Operation> {
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

fn states() -> BoxedStrategy<Value> {
    collection::vec((1..9_u64, 0..9_u64, 0..16_u64), 1..5)
        .prop_map(|rows| {
            let mut end = 0;
            let states = rows.into_iter().map(|(pages, gap, bits)| {
                let start = end + gap;
                end = start + pages;
                PageState { start, end, bits }
            });
            Value::States(states.collect())
        })
        .boxed()
}

fn messages() -> BoxedStrategy<Value> {
    let words = [
        "init",
        "terminate",
        "data_request[0,4)rw",
        "data_unlock[1,2)w",
        "data_return[0,2)dirty,kept",
        "synchronize[0,8)",
        "lock_completed[3,4)",
    ];
    collection::vec(sample::select(words.map(str::to_owned).to_vec()), 1..5).prop_map(Value::Messages).boxed()
}

fn number() -> BoxedStrategy<u64> {
    prop_oneof![0..20_u64, Just(u64::MAX), any::<u64>()].boxed()
}

fn object_page() -> BoxedStrategy<u64> {
    prop_oneof![0..9_u64, Just(1 << 40)].boxed()
}

fn task() -> BoxedStrategy<Task> {
    option::of(sample::select(&TASKS[..]).prop_map(str::to_owned)).boxed()
}

fn object() -> BoxedStrategy<String> {
    sample::select(&OBJECTS[..]).prop_map(str::to_owned).boxed()
}

fn name(task: &Task) -> BoxedStrategy<String> {
    let names = if task.is_some() { &OTHER_NAMES[..] } else { &NAMES[..] };
    sample::select(names).prop_map(str::to_owned).boxed()
}

fn address(task: &Task) -> BoxedStrategy<Address> {
    (option::of(name(task)), number()).prop_map(|(name, offset)| Address { name, offset }).boxed()
}

fn range() -> BoxedStrategy<Range> {
    task().prop_flat_map(|task| place(&task).prop_map(move |place| Range { task: task.clone(), place })).boxed()
}

fn place(task: &Task) -> BoxedStrategy<Place> {
    let page = || prop_oneof![0..9_u64, Just(u64::MAX / 4096)];
    prop_oneof![
        name(task).prop_map(Place::Whole),
        (name(task), page(), page()).prop_map(|(name, start, end)| Place::Pages { name, start, end }),
        (address(task), number()).prop_map(|(address, bytes)| Place::Length(address, bytes)),
        (address(task), address(task)).prop_map(|(start, end)| Place::Bounds(start, end)),
    ]
    .boxed()
}

fn prot() -> BoxedStrategy<Prot> {
    (0..8_u64).prop_map(|bits| Prot::from_bits(bits).expect("three bits")).boxed()
}

fn object_kind() -> BoxedStrategy<(ObjectKind, u64)> {
    let file = (1..9_u64).prop_map(|readahead| ObjectKind::File { readahead });
    (prop_oneof![Just(ObjectKind::Anonymous), file], object_page()).boxed()
}

fn allocation() -> BoxedStrategy<Allocation> {
    let mode = prop_oneof![Just(MapMode::Shared), Just(MapMode::Private)];
    let mapping = (object(), option::of((object_page(), object_page())), mode, prot())
        .prop_map(|(object, pages, mode, prot)| AllocationKind::Object { object, pages, mode, prot });
    let kind = prop_oneof![
        number().prop_map(|size| AllocationKind::Plain { size }),
        number().prop_map(|size| AllocationKind::Large { size }),
        number().prop_map(|size| AllocationKind::Guard { size }),
        (number(), number()).prop_map(|(size, initial)| AllocationKind::Stack { size, initial }),
        mapping,
        number().prop_map(|size| AllocationKind::Heap { size }),
    ];
    let task_and_address = task().prop_flat_map(|task| {
        let at = option::of(address(&task));
        at.prop_map(move |at| (task.clone(), at))
    });
    (kind, task_and_address)
        .prop_map(|(kind, (task, at))| {
            let at = at.filter(|_| !matches!(kind, AllocationKind::Heap { .. }));
            Allocation { task, kind, at }
        })
        .boxed()
}

fn pattern() -> BoxedStrategy<Pattern> {
    collection::vec(any::<u8>(), 1..=64).prop_map(|bytes| Pattern::new(&bytes).expect("1 to 64 bytes")).boxed()
}

fn flags(known: &'static [FlagWord]) -> BoxedStrategy<Flags> {
    let words = sample::subsequence(known, 0..=known.len());
    let bits = collection::vec(any::<u32>().prop_map(FlagWord::Bits), 0..2);
    (words, bits).prop_map(|(words, bits)| Flags { words: words.into_iter().chain(bits).collect() }).boxed()
}

/// Flags of wire that don't contradict each other.
fn wire_flags() -> BoxedStrategy<Flags> {
    const FLAGS: [&[FlagWord]; 2] = [Flags::WIRE.split_at(1).0, Flags::WIRE.split_at(4).1];
    prop_oneof![flags(FLAGS[0]), flags(FLAGS[1])].boxed()
}

fn value(other: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Expectation>> {
    let code = sample::select(&KernReturn::ALL[..]).prop_map(Value::Code);
    let value = prop_oneof![Just(Value::Any), code, other].boxed();
    option::of((value.clone(), option::of(value)))
        .prop_map(|found| found.map(|(value, otherwise)| Expectation { value, otherwise }))
        .boxed()
}

fn layout() -> BoxedStrategy<Value> {
    let row = (1..9_u64, 0..9_u64, any::<u64>(), any::<bool>());
    collection::vec(row, 1..5)
        .prop_map(|rows| {
            let mut end = 0;
            let spans = rows.into_iter().map(|(pages, gap, wired_count, user_wired)| {
                let start = end + gap;
                end = start + pages;
                Span { start, end, wired_count, user_wired }
            });
            Value::Layout(spans.collect())
        })
        .boxed()
}

fn pages() -> BoxedStrategy<Value> {
    let page = prop_oneof![
        Just(PageValue::None),
        pattern().prop_map(PageValue::Filled),
        pattern().prop_map(PageValue::Starts),
    ];
    collection::vec(page, 1..5).prop_map(Value::Pages).boxed()
}

/// Counts without user bits.
fn counts() -> BoxedStrategy<Value> {
    let without = |value| match value {
        Value::Layout(spans) => {
            Value::Layout(spans.into_iter().map(|span| Span { user_wired: false, ..span }).collect())
        }
        other => other,
    };
    prop_oneof![layout().prop_map(without), Just(Value::None)].boxed()
}

/// Values of an operation whose failures are error numbers.
fn posix(other: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Expectation>> {
    let errno = sample::select(&Errno::ALL[..]).prop_map(Value::Errno);
    let success = Just(Value::Code(KernReturn::Success));
    let value = prop_oneof![Just(Value::Any), success, errno, Just(Value::Blocked), other];
    option::of(value.prop_map(|value| Expectation { value, otherwise: None })).boxed()
}

fn code() -> BoxedStrategy<Option<Expectation>> {
    value(Just(Value::Code(KernReturn::Success)))
}

/// Return codes of what may have to wait.
fn waiting() -> BoxedStrategy<Option<Expectation>> {
    value(Just(Value::Blocked))
}

/// What a thread can do as well.
fn changes_memory() -> BoxedStrategy<Line> {
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

fn object_changes() -> BoxedStrategy<Operation> {
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

fn lines() -> BoxedStrategy<Line> {
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
        (file, value(self::pages())),
        (fault, code()),
        (storage_fault, code()),
        (any::<bool>().prop_map(Operation::HoldStorage), code()),
        (store, only(prop_oneof![self::pages(), Just(Value::Unsupported)].boxed())),
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
