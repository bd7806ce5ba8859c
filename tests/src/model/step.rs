//! One operation: what it comes to, and how a script says so.

use super::operation::{Operation, Where};
use super::state::{Fault, Inherit, Model, PAGE, Task};
use super::wire::{HOLESOK, USER, WRITE};

/// Pages of the window.
pub const WINDOW: u64 = 24;
/// Most tasks at a time.
const TASKS: usize = 3;
/// Most objects of a sequence.
const OBJECTS: usize = 3;

impl Model {
    /// Carries an operation out and returns the script's lines for it; `None`, and nothing is changed, when what comes of it
    /// can't be told.
    pub fn step(&mut self, operation: &Operation) -> Option<Vec<String>> {
        let mut after = self.clone();
        let lines = after.attempt(operation)?;
        *self = after;
        Some(lines)
    }

    fn attempt(&mut self, operation: &Operation) -> Option<Vec<String>> {
        match *operation {
            Operation::Allocate(task, at) => self.attempt_allocate(task, at, false),
            Operation::Guard(task, at) => self.attempt_allocate(task, at, true),
            Operation::Map { .. } => self.attempt_map(operation),
            Operation::Mlock(..)
            | Operation::Munlock(..)
            | Operation::Mlockall(..)
            | Operation::Munlockall(_)
            | Operation::Vslock(..)
            | Operation::Vsunlock(..)
            | Operation::LimitMemlock(..)
            | Operation::LimitPrivilege(..)
            | Operation::LimitWire(_) => self.attempt_lock(operation),
            Operation::NewTask | Operation::Fork(_) | Operation::End(_) => self.attempt_task(operation),
            Operation::NewObject(..)
            | Operation::Truncate(..)
            | Operation::Fail(..)
            | Operation::Heal(..)
            | Operation::Kill(_) => self.attempt_object(operation),
            _ => self.attempt_memory(operation),
        }
    }

    fn attempt_allocate(&mut self, task: usize, at: Where, guard: bool) -> Option<Vec<String>> {
        let task = task % self.tasks.len();
        let (start, end) = (self.page(at.start)?, self.page(at.end)?);
        if end <= start {
            return None;
        }
        let what = if guard { "guard" } else { "allocate" };
        let line = format!("{what} {} pages at {}", end - start, self.address(task, at.start)?);
        match self.allocate(task, start, end, guard)? {
            Ok(()) => Some(vec![line]),
            Err(code) => Some(vec![expecting(line, code)]),
        }
    }

    fn attempt_map(&mut self, operation: &Operation) -> Option<Vec<String>> {
        let Operation::Map { task, at, object, from, pages, private, prot } = *operation else { return None };
        let task = task % self.tasks.len();
        let object = object.checked_rem(self.objects.len())?;
        let size = self.objects[object].cells.len();
        let from = from % size;
        let pages = pages.min(size - from);
        let mode = if private { "private" } else { "shared" };
        let name = self.objects[object].name.clone();
        let line = format!("map {name}[{from},{}) {mode} {}", from + pages, rights(prot));
        let line = format!("{line} at {}", self.address(task, at)?);
        let start = self.page(at)?;
        match self.map(task, start, object, from..from + pages, private, prot)? {
            Ok(()) => Some(vec![line]),
            Err(code) => Some(vec![expecting(line, code)]),
        }
    }

    fn attempt_memory(&mut self, operation: &Operation) -> Option<Vec<String>> {
        let line = |text: String, code: &str| Some(vec![expecting(text, code)]);
        match *operation {
            Operation::Wire(task, at, flags, refused) => self.attempt_wire(task % self.tasks.len(), at, flags, refused),
            Operation::Unwire(task, at, flags) => {
                let (task, start, end, range) = self.range(task, at)?;
                line(format!("unwire {range}{}", wire_flags(flags)), self.unwire(task, start, end, flags))
            }
            Operation::Deallocate(task, at) => {
                let (task, start, end, range) = self.range(task, at)?;
                let text = format!("deallocate {range}");
                if start == end {
                    return line(text, "SUCCESS");
                }
                let Some(pages) = Self::touched(start, end) else { return line(text, "INVALID_ARGUMENT") };
                self.deallocate(task, pages.start, pages.end)?;
                line(text, "SUCCESS")
            }
            Operation::Protect(task, at, max, prot) => {
                let (task, start, end, range) = self.range(task, at)?;
                let text = format!("protect {range}{} {}", if max { " max" } else { "" }, rights(prot));
                if start == end {
                    return line(text, "SUCCESS");
                }
                let Some(pages) = Self::touched(start, end) else { return line(text, "INVALID_ARGUMENT") };
                let code = self.protect(task, pages.start, pages.end, max, prot)?;
                line(text, code)
            }
            Operation::Write(task, at, byte) if at.is_aligned() && at.start < at.end => {
                let (task, start, end, range) = self.range(task, at)?;
                let code = self.write(task, start / PAGE..end / PAGE, byte)?;
                line(format!("write {range} {byte:#04x}"), code)
            }
            Operation::Read(task, at) => {
                let (task, start, _, range) = self.range(task, Where::pages(at, at + 1))?;
                let bytes = self.read(task, start / PAGE)?;
                line(format!("read {range}"), &bytes)
            }
            Operation::Inherit(task, at, inherit) if at.is_aligned() && at.start < at.end => {
                let (task, start, end, range) = self.range(task, at)?;
                self.inherit(task, start / PAGE, end / PAGE, inherit)?;
                let word = match inherit {
                    Inherit::Share => "share",
                    Inherit::Copy => "copy",
                    Inherit::Nothing => "none",
                };
                line(format!("inherit {range} {word}"), "SUCCESS")
            }
            Operation::Advise(task, at, free) if at.is_aligned() && at.start < at.end => {
                let (task, start, end, range) = self.range(task, at)?;
                self.advise(task, start / PAGE, end / PAGE, free)?;
                line(format!("madvise {range} {}", if free { "free" } else { "dontneed" }), "SUCCESS")
            }
            _ => None,
        }
    }

    fn attempt_wire(&mut self, task: usize, at: Where, flags: u32, refused: bool) -> Option<Vec<String>> {
        let (task, start, end, range) = self.range(task, at)?;
        let text = format!("wire {range}{}", wire_flags(flags));
        if refused {
            // The host is asked only by a wire that finds pages which nobody else has wired.
            if self.would_lock(task, start, end, flags)? == 0 {
                return None;
            }
            self.wire_refused_by_host(task, start, end, flags);
            let order = "host fail mlock nth 1 ENOMEM".to_owned();
            return Some(vec![order, expecting(text, "RESOURCE_SHORTAGE")]);
        }
        let code = self.wire(task, start, end, flags)?;
        Some(vec![expecting(text, code)])
    }

    fn attempt_lock(&mut self, operation: &Operation) -> Option<Vec<String>> {
        let (text, code) = match *operation {
            Operation::Mlock(task, at) => {
                let (task, start, end, range) = self.range(task, at)?;
                (format!("mlock {range}"), self.mlock(task, start, end)?)
            }
            Operation::Munlock(task, at) => {
                let (task, start, end, range) = self.range(task, at)?;
                (format!("munlock {range}"), self.munlock(task, start, end))
            }
            Operation::Vslock(task, at) => {
                let (task, start, end, range) = self.range(task, at)?;
                (format!("vslock {range}"), self.vslock(task, start, end)?)
            }
            Operation::Vsunlock(task, at) => {
                let (task, start, end, range) = self.range(task, at)?;
                (format!("vsunlock {range}"), self.vsunlock(task, start, end)?)
            }
            Operation::Mlockall(task, current, future) => {
                let task = task % self.tasks.len();
                let words = [(current, " current"), (future, " future")];
                let words: String = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
                (format!("mlockall{}{words}", self.task_word(task)), self.mlockall(task, current, future)?)
            }
            Operation::Munlockall(task) => {
                let task = task % self.tasks.len();
                (format!("munlockall{}", self.task_word(task)), self.munlockall(task))
            }
            Operation::LimitMemlock(task, pages) => {
                let task = task % self.tasks.len();
                self.tasks[task].memlock = pages;
                (format!("limit memlock{} {pages} pages", self.task_word(task)), "SUCCESS")
            }
            Operation::LimitPrivilege(task, may_lock) => {
                let task = task % self.tasks.len();
                self.tasks[task].may_lock = may_lock;
                let word = if may_lock { "privileged" } else { "unprivileged" };
                (format!("limit {word}{}", self.task_word(task)), "SUCCESS")
            }
            Operation::LimitWire(pages) => {
                self.wire_limit = pages;
                (format!("limit wire {pages} pages"), "SUCCESS")
            }
            _ => return None,
        };
        Some(vec![expecting(text, code)])
    }

    fn attempt_task(&mut self, operation: &Operation) -> Option<Vec<String>> {
        match *operation {
            Operation::NewTask if self.tasks.len() < TASKS => {
                let name = self.fresh_name("t");
                let lines = vec![
                    format!("task {name}"),
                    format!("{name}.w = allocate 1 page at {:#x}", self.base * PAGE),
                    format!("deallocate {name}.w"),
                ];
                self.tasks.push(Task::new(name));
                Some(lines)
            }
            Operation::Fork(parent) if self.tasks.len() < TASKS => {
                let parent = parent % self.tasks.len();
                let name = self.fresh_name("c");
                let mut lines = vec![format!("{name} = fork{}", self.task_word(parent))];
                // Whether limits are inherited, the rows do not say.
                let Task { memlock, may_lock, .. } = self.tasks[parent];
                if memlock != u64::MAX || !may_lock {
                    lines.push(format!("limit memlock {name} {UNLIMITED} pages"));
                    lines.push(format!("limit privileged {name}"));
                }
                self.fork(parent, name)?;
                Some(lines)
            }
            Operation::End(task) if self.tasks.len() > 1 => {
                let task = self.tasks.remove(1 + task % (self.tasks.len() - 1));
                Some(vec![format!("end {}", task.name)])
            }
            _ => None,
        }
    }

    fn attempt_object(&mut self, operation: &Operation) -> Option<Vec<String>> {
        if let Operation::NewObject(file, pages) = *operation {
            if self.objects.len() == OBJECTS {
                return None;
            }
            self.new_object(file, pages);
            let kind = if file { "file" } else { "anonymous" };
            return Some(vec![format!("o{} = {kind}({pages})", self.objects.len() - 1)]);
        }
        let number = match *operation {
            Operation::Truncate(object, _)
            | Operation::Fail(object, ..)
            | Operation::Heal(object, _)
            | Operation::Kill(object) => object.checked_rem(self.objects.len())?,
            _ => return None,
        };
        let (name, size) = (self.objects[number].name.clone(), self.objects[number].cells.len());
        let line = match *operation {
            Operation::Truncate(_, pages) => {
                let pages = pages % (size + 1);
                self.truncate(number, pages)?;
                format!("truncate {name} {pages}")
            }
            Operation::Fail(_, page, fault) => {
                let page = page % size;
                self.fail(number, page, Some(fault))?;
                format!("fail {name} {page} {}", if fault == Fault::Io { "io" } else { "refused" })
            }
            Operation::Heal(_, page) => {
                let page = page % size;
                self.fail(number, page, None)?;
                format!("heal {name} {page}")
            }
            _ => {
                self.kill(number)?;
                format!("kill {name}")
            }
        };
        Some(vec![line])
    }

    fn fresh_name(&mut self, letter: &str) -> String {
        self.names += 1;
        format!("{letter}{}", self.names)
    }

    /// Returns the number of a page of the window.
    fn page(&self, page: i64) -> Option<u64> {
        self.base.checked_add_signed(page)
    }

    /// Returns a task, the bytes of a range of it, and how a script names the range.
    fn range(&self, task: usize, at: Where) -> Option<(usize, u64, u64, String)> {
        let task = task % self.tasks.len();
        let start = self.page(at.start)? * PAGE + at.start_bytes;
        let end = self.page(at.end)? * PAGE + at.end_bytes;
        let name = self.window_of(task);
        let text = if at.start < 0 || at.end < 0 {
            // No name lies in front of the window.
            let of = if task == 0 { String::new() } else { format!("{}.", self.tasks[task].name) };
            format!("{of}@{start:#x}..{end:#x}")
        } else if at.is_aligned() {
            format!("{name}[{},{})", at.start, at.end)
        } else {
            let part = |page: i64, bytes: u64| format!("{name}+{page} pages+{bytes}");
            format!("@{}..{}", part(at.start, at.start_bytes), part(at.end, at.end_bytes))
        };
        Some((task, start, end, text))
    }

    fn address(&self, task: usize, page: i64) -> Option<String> {
        if page < 0 {
            let of = if task == 0 { String::new() } else { format!(" in {}", self.tasks[task].name) };
            return Some(format!("{:#x}{of}", self.page(page)? * PAGE));
        }
        Some(format!("{}+{page} pages", self.window_of(task)))
    }

    pub(super) fn window_of(&self, task: usize) -> String {
        if task == 0 { "w".to_owned() } else { format!("{}.w", self.tasks[task].name) }
    }

    /// Returns the name of a task behind a blank; nothing for main.
    pub(super) fn task_word(&self, task: usize) -> String {
        if task == 0 { String::new() } else { format!(" {}", self.tasks[task].name) }
    }
}

/// Pages of a memlock limit that is none.
pub const UNLIMITED: u64 = 1 << 30;

/// Returns the line with its expectation, which success needs not.
pub fn expecting(line: String, expected: &str) -> String {
    if expected == "SUCCESS" { line } else { format!("{line} => {expected}") }
}

/// Returns how scripts write rights.
pub fn rights(prot: u8) -> &'static str {
    ["none", "r", "w", "rw", "x", "rx", "wx", "rwx"][usize::from(prot & 7)]
}

fn wire_flags(flags: u32) -> String {
    let words = [(USER, " user"), (HOLESOK, " holesok"), (WRITE, " write")];
    let mut text: String = words.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, word)| *word).collect();
    if flags & !7 != 0 {
        text.push_str(&format!(" flags {:#x}", flags & !7));
    }
    text
}
