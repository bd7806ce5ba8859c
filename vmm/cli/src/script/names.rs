//! What the lines above a line have named.

mod objects;

use std::collections::{BTreeMap, HashMap};

use wirevm_map::KernReturn;

use super::ast::{Allocation, Backing, Expectation, ObjectChange, Operation, Statement, Task, Value};
use super::scopes::{MAIN, Scopes};
use super::syntax_error::Fault;

/// What is named so far. Tasks, objects, threads and the first task's memory share their names; other tasks' memory has
/// names of its own in each.
#[derive(Debug)]
pub(super) struct Names {
    things: HashMap<String, Thing>,
    memory: Scopes<Memory>,
    /// Threads that are not joined, by the lines that start them.
    running: BTreeMap<usize, Running>,
}

#[derive(Debug)]
enum Thing {
    Task { scope: usize, state: TaskState, role: Role },
    Object { awaits: Option<String>, is_dropped: bool, behind: Behind },
    Thread(Thread),
}

#[derive(Debug)]
enum TaskState {
    Lives,
    Ended,
    /// It is made by a thread that is not joined yet.
    Awaits(String),
}

/// What a task is beside a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nothing.
    Plain,
    /// A manager of memory objects.
    Manager,
    /// A program runs in it, or did.
    Program,
}

/// What is behind a memory object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Behind {
    /// The line that makes it has an error, so that nothing is known.
    Unknown,
    /// Nothing but the guest's own pager.
    Guest,
    /// A store of the host's.
    Store,
    /// The manager of that name.
    Manager(String),
}

/// Memory, and the thread, not joined yet, that makes it.
#[derive(Debug)]
struct Memory {
    awaits: Option<String>,
}

#[derive(Debug)]
struct Thread {
    line: usize,
    /// What it does; `None` where its line has an error.
    operation: Option<Operation>,
    /// What will have a name when the thread is joined.
    makes: Option<(Task, String)>,
    is_joined: bool,
}

/// A thread that is not joined, and the place that says so if it never is.
#[derive(Debug)]
struct Running {
    name: String,
    text: String,
    fault: Fault,
}

/// What a line names, whether it makes sense otherwise or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Defined<'a> {
    /// The thread in front of `:`.
    pub(super) thread: Option<&'a str>,
    /// The task and the name in front of `=`.
    pub(super) name: Option<(Option<&'a str>, &'a str)>,
    /// What has the name.
    pub(super) kind: Kind,
}

/// Kinds of what can be named by a `=`, and a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Memory,
    Object,
    Task,
}

impl Names {
    pub(super) fn new() -> Self {
        Self { things: HashMap::new(), memory: Scopes::new(), running: BTreeMap::new() }
    }

    /// Says what is in the way of a name: of memory in `task`, or of anything else.
    pub(super) fn is_taken(&self, task: &Task, name: &str) -> bool {
        match task {
            None => self.things.contains_key(name) || self.memory.get(MAIN, name).is_some(),
            Some(task) => self.scope(task).is_some_and(|scope| self.memory.get(scope, name).is_some()),
        }
    }

    fn scope(&self, task: &str) -> Option<usize> {
        match self.things.get(task) {
            Some(Thing::Task { scope, .. }) => Some(*scope),
            _ => None,
        }
    }

    /// Tells whether the name is one of a task, alive or not.
    pub(super) fn is_task(&self, name: &str) -> bool {
        name == "main" || matches!(self.things.get(name), Some(Thing::Task { .. }))
    }

    /// Tells whether the name is one of a program's task.
    pub(super) fn is_program(&self, name: &str) -> bool {
        matches!(self.things.get(name), Some(Thing::Task { role: Role::Program, .. }))
    }

    /// Looks for the program's task of that name.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn program(&self, name: &str) -> Result<(), String> {
        match self.things.get(name) {
            Some(Thing::Task { role: Role::Program, .. }) => self.task(name).map(|_| ()),
            None if !self.is_taken(&None, name) => {
                Err(format!("there is no program '{name}': 'program {name} kv 1000' starts one"))
            }
            _ => Err(format!("'{name}' is no program")),
        }
    }

    /// Returns the task of that name.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn task(&self, name: &str) -> Result<Task, String> {
        if name == "main" {
            return Ok(None);
        }
        match self.things.get(name) {
            Some(Thing::Task { state: TaskState::Lives, .. }) => Ok(Some(name.to_owned())),
            Some(Thing::Task { state: TaskState::Ended, .. }) => Err(format!("the task '{name}' has ended")),
            Some(Thing::Task { state: TaskState::Awaits(thread), .. }) => Err(awaits("task", name, thread)),
            None if !self.is_taken(&None, name) => {
                Err(format!("there is no task '{name}': 'task {name}' makes one, and so does '{name} = fork'"))
            }
            _ => Err(format!("'{name}' is no task")),
        }
    }

    /// Looks for the object of that name.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn object(&self, name: &str) -> Result<(), String> {
        match self.things.get(name) {
            Some(Thing::Object { is_dropped: true, .. }) => Err(format!("the object '{name}' was dropped")),
            Some(Thing::Object { awaits: None, .. }) => Ok(()),
            Some(Thing::Object { awaits: Some(thread), .. }) => Err(awaits("object", name, thread)),
            None if !self.is_taken(&None, name) => Err(format!(
                "there is no memory object '{name}': '{name} = file(8)' makes one, 'object {name} store NAME 8 pages' another"
            )),
            _ => Err(format!("'{name}' is no memory object")),
        }
    }

    /// Looks for memory of that name in a task that lives.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn memory(&self, task: &Task, name: &str) -> Result<(), String> {
        let scope = task.as_ref().map_or(Some(MAIN), |task| self.scope(task)).unwrap_or(MAIN);
        match self.memory.get(scope, name) {
            Some(Memory { awaits: None }) => return Ok(()),
            Some(Memory { awaits: Some(thread) }) => return Err(awaits("memory", name, thread)),
            None => {}
        }
        let told = self.memory.told(scope);
        Err(match (task, self.things.get(name)) {
            (None, Some(Thing::Task { .. })) => format!("'{name}' is a task; its memory has names such as '{name}.a'"),
            (None, Some(Thing::Object { .. })) => format!("'{name}' is a memory object; 'map' makes it memory"),
            (None, Some(Thing::Thread(_))) => format!("'{name}' is a thread and no memory"),
            (None, None) if told.is_empty() => format!("there is no '{name}': no line above defines a name"),
            (None, None) => format!("there is no '{name}': the lines above define {told}"),
            (Some(task), _) if told.is_empty() => {
                format!("there is no '{name}' in {task}: no line above defines a name there")
            }
            (Some(task), _) => format!("there is no '{name}' in {task}: the lines above define {told} there"),
        })
    }

    /// Returns what a thread that is not joined does; `None` where that is not known.
    ///
    /// # Errors
    /// Why there is no such thread.
    pub(super) fn thread(&self, name: &str) -> Result<Option<&Operation>, String> {
        match self.things.get(name) {
            Some(Thing::Thread(Thread { is_joined: false, operation, .. })) => Ok(operation.as_ref()),
            Some(Thing::Thread(_)) => Err(format!("the thread '{name}' is joined already")),
            None if !self.is_taken(&None, name) => {
                Err(format!("there is no thread '{name}': '{name}: wire a user' would start one"))
            }
            _ => Err(format!("'{name}' is no thread")),
        }
    }

    /// Tells whether joining a thread gives something its name.
    pub(super) fn makes_something(&self, thread: &str) -> bool {
        matches!(self.things.get(thread), Some(Thing::Thread(Thread { makes: Some(_), .. })))
    }

    /// Returns a thread that is not joined and its line.
    pub(super) fn first_running(&self) -> Option<(&str, usize)> {
        self.running.first_key_value().map(|(line, running)| (running.name.as_str(), *line))
    }

    /// Takes the threads that are never joined: line, text, and what is wrong.
    pub(super) fn take_running(&mut self) -> impl Iterator<Item = (usize, String, Fault)> {
        std::mem::take(&mut self.running).into_iter().map(|(line, running)| (line, running.text, running.fault))
    }

    /// Takes note of a line. Its names count from the next line on, even if it has an error.
    pub(super) fn note(&mut self, line: usize, text: &str, defined: &Defined<'_>, statement: Option<&Statement>) {
        match statement.map(|statement| &statement.operation) {
            Some(Operation::Reset) => return *self = Self::new(),
            Some(Operation::EndTask(task)) => {
                if let Some(Thing::Task { state, .. }) = self.things.get_mut(task) {
                    *state = TaskState::Ended;
                }
            }
            Some(Operation::Join(thread)) => self.join(thread),
            Some(Operation::Object { object, change: ObjectChange::Drop }) => {
                if let Some(Thing::Object { is_dropped, .. }) = self.things.get_mut(object) {
                    *is_dropped = true;
                }
            }
            _ => {}
        }
        let thread = defined.thread.filter(|thread| !self.is_taken(&None, thread));
        if let Some((task, name)) = defined.name.filter(|_| statement.is_none_or(Statement::defines_its_name)) {
            let task = task.filter(|task| *task != "main").map(str::to_owned);
            if thread == Some(name) || self.is_taken(&task, name) {
                return;
            }
            let awaits = thread.filter(|_| statement.is_some()).map(str::to_owned);
            self.define(&task, name, defined.kind, awaits, statement);
        }
        let Some(thread) = thread else { return };
        // A program's task is there while the thread waits for its end.
        let is_program = matches!(statement, Some(Statement { operation: Operation::Program { .. }, .. }));
        let makes = defined.name.filter(|_| !is_program);
        let makes = makes.map(|(task, name)| (task.map(str::to_owned), name.to_owned()));
        let operation = statement.map(|statement| statement.operation.clone());
        if operation.is_some() {
            let column = text.chars().take_while(|c| c.is_whitespace()).count() + 1;
            let reason = format!("the thread '{thread}' is never joined: 'join {thread}' takes its result");
            let fault = Fault { column, width: thread.chars().count(), reason };
            self.running.insert(line, Running { name: thread.to_owned(), text: text.to_owned(), fault });
        }
        let record = Thread { line, operation, makes, is_joined: false };
        self.things.insert(thread.to_owned(), Thing::Thread(record));
    }

    fn define(&mut self, task: &Task, name: &str, kind: Kind, awaits: Option<String>, statement: Option<&Statement>) {
        let thing = match kind {
            Kind::Memory => {
                let scope = task.as_ref().map_or(Some(MAIN), |task| self.scope(task));
                return scope.map_or((), |scope| self.memory.define(scope, name, Memory { awaits }));
            }
            Kind::Object => {
                let behind = match statement.map(|statement| &statement.operation) {
                    Some(Operation::NewObject { .. }) => Behind::Guest,
                    Some(Operation::NewBackedObject { backing: Backing::Store(..), .. }) => Behind::Store,
                    Some(Operation::NewBackedObject { backing: Backing::Manager(manager), .. }) => {
                        if let Some(scope) = self.scope(manager) {
                            self.memory.define(scope, name, Memory { awaits: None });
                        }
                        Behind::Manager(manager.clone())
                    }
                    _ => Behind::Unknown,
                };
                Thing::Object { awaits, is_dropped: false, behind }
            }
            Kind::Task => {
                let parent = match statement.map(|statement| &statement.operation) {
                    Some(Operation::Fork(None)) => Some(MAIN),
                    Some(Operation::Fork(Some(parent))) => self.scope(parent),
                    _ => None,
                };
                let role = match statement.map(|statement| &statement.operation) {
                    Some(Operation::NewManager(_)) => Role::Manager,
                    Some(Operation::Program { .. }) => Role::Program,
                    _ => Role::Plain,
                };
                let awaits = awaits.filter(|_| role != Role::Program);
                let state = awaits.map_or(TaskState::Lives, TaskState::Awaits);
                Thing::Task { scope: self.memory.add(parent), state, role }
            }
        };
        self.things.insert(name.to_owned(), thing);
    }

    fn join(&mut self, thread: &str) {
        let Some(Thing::Thread(joined)) = self.things.get_mut(thread) else { return };
        joined.is_joined = true;
        self.running.remove(&joined.line);
        let (makes, operation) = (joined.makes.take(), joined.operation.take());
        let Some((task, name)) = makes else { return };
        match self.things.get_mut(&name).filter(|_| !matches!(operation, Some(Operation::Allocate(_)))) {
            Some(Thing::Task { state, .. }) => *state = TaskState::Lives,
            Some(Thing::Object { awaits, .. }) => *awaits = None,
            _ => {
                let task = task.filter(|task| task != "main");
                let scope = task.as_ref().map_or(Some(MAIN), |task| self.scope(task)).unwrap_or(MAIN);
                self.memory.define(scope, &name, Memory { awaits: None });
            }
        }
    }
}

impl Statement {
    /// Tells whether the name behind the operation's word stands for something from here on: not where a line of the newer kind
    /// expects that nothing is made.
    fn defines_its_name(&self) -> bool {
        match &self.operation {
            Operation::NewBackedObject { .. }
            | Operation::NewManager(_)
            | Operation::Submap { .. }
            | Operation::Program { .. } => !self.expected.as_ref().is_some_and(may_lack_value),
            _ => true,
        }
    }
}

/// Tells whether what is expected of an operation includes that nothing is made.
pub(super) fn may_lack_value(expected: &Expectation) -> bool {
    let gives_one = |value: &Value| {
        let is_end = matches!(value, Value::Exit(_) | Value::Fault(_) | Value::Killed);
        is_end || matches!(value, Value::Number(_) | Value::Code(KernReturn::Success))
    };
    !gives_one(&expected.value) || expected.otherwise.as_ref().is_some_and(|value| !gives_one(value))
}

fn awaits(what: &str, name: &str, thread: &str) -> String {
    format!("the {what} '{name}' is there when 'join {thread}' says so, and not before")
}

impl Operation {
    /// Returns what the operation makes that can have a name in front of `=`.
    pub(super) const fn makes(&self) -> Option<Kind> {
        match self {
            Self::Allocate(Allocation { .. }) => Some(Kind::Memory),
            Self::NewObject { .. } => Some(Kind::Object),
            Self::Fork(_) => Some(Kind::Task),
            _ => None,
        }
    }
}
