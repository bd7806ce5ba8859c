//! The AST as text in its plainest form, which reads back as the same AST.

use std::fmt;

use wirevm_agent::ObjectKind;
use wirevm_map::{Advice, Inheritance, MapMode, PagerFault, Prot};

use super::ast::{
    Address, Allocation, AllocationKind, Expectation, FlagWord, Flags, Limit, ObjectChange, Operation, PageState,
    PageValue, Place, Question, Range, Script, Span, Statement, Task, Value,
};

mod manage;
mod program;

pub(super) use self::program::Quoted;

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.statements.iter().try_for_each(|statement| writeln!(f, "{statement}"))
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(thread) = &self.thread {
            write!(f, "{thread}: ")?;
        }
        if let Some(name) = &self.name {
            match &self.operation {
                Operation::Allocate(Allocation { task: Some(task), .. }) => write!(f, "{task}.{name} = ")?,
                _ => write!(f, "{name} = ")?,
            }
        }
        write!(f, "{}", self.operation)?;
        if let (None, Operation::Allocate(allocation)) = (&self.name, &self.operation) {
            write_task(f, &allocation.task, allocation.at.as_ref())?;
        }
        match &self.expected {
            Some(expected) => write!(f, " => {expected}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value)?;
        match &self.otherwise {
            Some(otherwise) => write!(f, " if durable else {otherwise}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocate(allocation) => write!(f, "{allocation}"),
            Self::Deallocate(range) => write!(f, "deallocate {range}"),
            Self::Protect { range, set_maximum, prot } => {
                write!(f, "protect {range}{} {}", if *set_maximum { " max" } else { "" }, Rights(*prot))
            }
            Self::Write(range, pattern) => write!(f, "write {range} {pattern}"),
            Self::Read(range) => write!(f, "read {range}"),
            Self::Expect(range, pattern) => write!(f, "expect {range} {pattern}"),
            Self::Wire(range, flags) => write!(f, "wire {range}{flags}"),
            Self::Unwire(range, flags) => write!(f, "unwire {range}{flags}"),
            Self::Sync(range, flags) => write!(f, "sync {range}{flags}"),
            Self::Msync(range, flags) => write!(f, "msync {range}{flags}"),
            Self::Inherit(range, inheritance) => write!(f, "inherit {range} {}", inheritance_word(*inheritance)),
            Self::Advise(range, advice) => write!(f, "madvise {range} {}", advice_word(*advice)),
            Self::Lock(locking, range) => write!(f, "{} {range}", locking.word()),
            Self::Mlockall(task, flags) => write!(f, "mlockall{}{flags}", Behind(task)),
            Self::Munlockall(task) => write!(f, "munlockall{}", Behind(task)),
            Self::Show(showing, range) => write!(f, "{} {range}", showing.word()),
            Self::Residents(range) => write!(f, "residents {range}"),
            Self::WireTotal => f.write_str("wire-total"),
            Self::NewTask(task) => write!(f, "task {task}"),
            Self::Fork(task) => write!(f, "fork{}", Behind(task)),
            Self::Submap { name, size, task, at } => {
                write!(f, "submap {name} {size}")?;
                write_at(f, task, at.as_ref())?;
                write_task(f, task, at.as_ref())
            }
            Self::NewManager(name) => write!(f, "manager {name} task"),
            Self::Program { name, wanted } => write!(f, "program {name} {}", program::Command(wanted)),
            Self::KillProgram(task) => write!(f, "kill {task}"),
            Self::Output(task) => write!(f, "output {task}"),
            Self::Manage { manager, managing } => write!(f, "{manager} {managing}"),
            Self::EndTask(task) => write!(f, "end {task}"),
            Self::Limit(Limit::Memlock(task, pages)) => write!(f, "limit memlock{} {pages} pages", Behind(task)),
            Self::Limit(Limit::Privilege(task, true)) => write!(f, "limit privileged{}", Behind(task)),
            Self::Limit(Limit::Privilege(task, false)) => write!(f, "limit unprivileged{}", Behind(task)),
            Self::Limit(Limit::Wire(pages)) => write!(f, "limit wire {pages} pages"),
            Self::NewObject { kind: ObjectKind::Anonymous, pages } => write!(f, "anonymous({pages})"),
            Self::NewObject { kind: ObjectKind::File { readahead }, pages } => {
                write!(f, "file({pages}) readahead {readahead}")
            }
            Self::NewBackedObject { name, backing, pages } => write!(f, "object {name} {backing} {pages} pages"),
            Self::DirtyRanges(object) => write!(f, "dirty-ranges {object}"),
            Self::Object { object, change } => match change {
                ObjectChange::Gate(page) => write!(f, "gate {object} {page}"),
                ObjectChange::Release(page) => write!(f, "release {object} {page}"),
                ObjectChange::Fail(page, PagerFault::Io) => write!(f, "fail {object} {page} io"),
                ObjectChange::Fail(page, PagerFault::Refused) => write!(f, "fail {object} {page} refused"),
                ObjectChange::Heal(page) => write!(f, "heal {object} {page}"),
                ObjectChange::Kill => write!(f, "kill {object}"),
                ObjectChange::Truncate(pages) => write!(f, "truncate {object} {pages}"),
                ObjectChange::Drop => write!(f, "drop {object}"),
            },
            Self::Thread { thread, has_ended } => {
                write!(f, "{thread} {}", if *has_ended { "ended" } else { "blocked" })
            }
            Self::Join(thread) => write!(f, "join {thread}"),
            Self::Host(Question::Locked) => f.write_str("host locked"),
            Self::Host(Question::Resident(range)) => write!(f, "host resident {range}"),
            Self::Host(Question::Dirty(range)) => write!(f, "host dirty {range}"),
            Self::Host(Question::File(range)) => write!(f, "host file {range}"),
            Self::Host(Question::Store(name, (start, end))) => {
                write!(f, "host store {} [{start},{end})", manage::StoreWord(*name))
            }
            Self::FailHost(fault) => write!(f, "host fail mlock nth {} {}", fault.nth, fault.errno.name()),
            Self::FailStorage(fault) => write!(f, "host fail sync nth {} {}", fault.nth, fault.errno.name()),
            Self::HoldStorage(hold) => write!(f, "host {} sync", if *hold { "hold" } else { "release" }),
            Self::Completions => f.write_str("completions"),
            Self::Stat(selector) => write!(f, "stat {}", manage::stat_name(*selector)),
            Self::Trim => f.write_str("trim"),
            Self::Check => f.write_str("check"),
            Self::Reset => f.write_str("reset"),
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Crash(crash) => write!(f, "crash {}", crash.name()),
        }
    }
}

/// Shows what is made and where, without the task.
impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            AllocationKind::Plain { size } => write!(f, "allocate {size}")?,
            AllocationKind::Large { size } => write!(f, "allocate {size} large")?,
            AllocationKind::Guard { size } => write!(f, "guard {size}")?,
            AllocationKind::Stack { size, initial } => write!(f, "stack {size} initial {initial}")?,
            AllocationKind::Object { object, pages, mode, prot } => {
                write!(f, "map {object}")?;
                if let Some((start, end)) = pages {
                    write!(f, "[{start},{end})")?;
                }
                write!(f, " {} {}", mode_word(*mode), Rights(*prot))?;
            }
            AllocationKind::Heap { size } => write!(f, "brk {size}")?,
        }
        write_at(f, &self.task, self.at.as_ref())
    }
}

fn write_at(f: &mut fmt::Formatter<'_>, task: &Task, at: Option<&Address>) -> fmt::Result {
    at.map_or(Ok(()), |at| write!(f, " at {}", Within(task, at)))
}

/// Names the task where nothing else does.
fn write_task(f: &mut fmt::Formatter<'_>, task: &Task, at: Option<&Address>) -> fmt::Result {
    let is_told = at.is_some_and(|at| at.name.is_some());
    match task {
        Some(task) if !is_told => write!(f, " in {task}"),
        _ => Ok(()),
    }
}

/// The words for values of the map's own types, each beside its value.
pub(super) const MODES: [(&str, MapMode); 2] = [("private", MapMode::Private), ("shared", MapMode::Shared)];
pub(super) const INHERITANCES: [(&str, Inheritance); 3] =
    [("share", Inheritance::Share), ("copy", Inheritance::Copy), ("none", Inheritance::None)];
pub(super) const ADVICES: [(&str, Advice); 2] = [("dontneed", Advice::DontNeed), ("free", Advice::Free)];

pub(super) fn word_of<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| *word)
}

fn mode_word(mode: MapMode) -> &'static str {
    word_of(&MODES, mode)
}

fn inheritance_word(inheritance: Inheritance) -> &'static str {
    word_of(&INHERITANCES, inheritance)
}

fn advice_word(advice: Advice) -> &'static str {
    word_of(&ADVICES, advice)
}

/// A task behind a word; nothing for the first task.
struct Behind<'a>(&'a Task);

impl fmt::Display for Behind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |task| write!(f, " {task}"))
    }
}

/// A name, or an address, of a task.
struct Within<'a, T>(&'a Task, &'a T);

impl fmt::Display for Within<'_, String> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(task) => write!(f, "{task}.{}", self.1),
            None => f.write_str(self.1),
        }
    }
}

impl fmt::Display for Within<'_, Address> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { name, offset } = self.1;
        match (name, *offset) {
            (Some(name), 0) => write!(f, "{}", Within(self.0, name)),
            (Some(name), offset) => write!(f, "{}+{offset:#x}", Within(self.0, name)),
            (None, offset) => write!(f, "{offset:#x}"),
        }
    }
}

/// A protection as scripts write it.
pub(super) struct Rights(pub(super) Prot);

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_none() {
            return f.write_str("none");
        }
        let letter = |bit, letter| if self.0.contains(bit) { letter } else { "" };
        write!(f, "{}{}{}", letter(Prot::READ, "r"), letter(Prot::WRITE, "w"), letter(Prot::EXECUTE, "x"))
    }
}

/// Shows the flags with a blank in front of each.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.iter().try_for_each(|word| match word {
            FlagWord::Named(name, _) => write!(f, " {name}"),
            FlagWord::Bits(bits) => write!(f, " flags {bits:#x}"),
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, place } = self;
        let names = match place {
            Place::All => return f.write_str(task.as_deref().unwrap_or("main")),
            Place::Whole(_) | Place::Pages { .. } => true,
            Place::Length(start, _) => start.name.is_some(),
            Place::Bounds(start, end) => start.name.is_some() || end.name.is_some(),
        };
        // Without a name in it, only this tells the task.
        if let (Some(task), false) = (task, names) {
            write!(f, "{task}.")?;
        }
        match place {
            Place::All => Ok(()),
            Place::Whole(name) => write!(f, "{}", Within(task, name)),
            Place::Pages { name, start, end } => write!(f, "{}[{start},{end})", Within(task, name)),
            Place::Length(address, bytes) => write!(f, "@{}+{bytes:#x}", Within(task, address)),
            Place::Bounds(start, end) => write!(f, "@{}..{}", Within(task, start), Within(task, end)),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Code(code) => write!(f, "{code}"),
            Self::Errno(errno) => write!(f, "{errno}"),
            Self::Blocked => f.write_str("BLOCKED"),
            Self::Mismatch => f.write_str("MISMATCH"),
            Self::None => f.write_str("none"),
            Self::Unsupported => f.write_str("unsupported"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Pattern(pattern) => write!(f, "{pattern}"),
            Self::Layout(spans) => joined(f, spans),
            Self::Pages(pages) => joined(f, pages),
            Self::States(states) => joined(f, states),
            Self::Messages(words) => joined(f, words),
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Fault(None) => f.write_str("fault"),
            Self::Fault(Some(part)) => write!(f, "fault {}", Quoted(part)),
            Self::Killed => f.write_str("killed"),
            Self::Text(part) => write!(f, "{}", Quoted(part)),
        }
    }
}

/// Shows items with a blank between them.
pub(super) fn joined(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(place, item)| {
        f.write_str(if place == 0 { "" } else { " " })?;
        write!(f, "{item}")
    })
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.user_wired { "U" } else { "" };
        write!(f, "[{},{}){}{user}", self.start, self.end, self.wired_count)
    }
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{})", self.start, self.end)?;
        let mut words = Self::WORDS.iter().filter(|(_, bit)| self.bits & bit != 0).map(|(word, _)| *word);
        f.write_str(words.next().unwrap_or(Self::CLEAN))?;
        words.try_for_each(|word| write!(f, ",{word}"))
    }
}

impl fmt::Display for PageValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Filled(pattern) => write!(f, "{pattern}"),
            Self::Starts(pattern) => write!(f, "{pattern}…"),
        }
    }
}
