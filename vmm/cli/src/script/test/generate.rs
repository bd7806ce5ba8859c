//! Scripts by chance.

mod expected;
mod operations;
mod parts;

use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::{collection, option, sample};

use wirevm_abi::StoreName;
use wirevm_agent::{Crash, ObjectKind};
use wirevm_map::StoreKind;

use self::expected::{code, ends, waiting};
use self::operations::{changes_memory, lines, program};
use self::parts::{address, allocation, number, object_kind, task};
use crate::program::Wanted;
use crate::script::Script;
use crate::script::ast::{Allocation, AllocationKind, Backing, Expectation, Operation, Statement, Value};

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
