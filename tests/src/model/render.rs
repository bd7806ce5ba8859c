//! Sequences as scripts.

use super::operation::Operation;
use super::state::{END_PAGE, FIRST_PAGE, Model, PAGE, Rules};
use super::step::{UNLIMITED, WINDOW};

/// Where windows of pages lie: at the start of the address space, somewhere in it, at its end.
const WINDOWS: [u64; 3] = [0x10000, FIRST_PAGE, END_PAGE - WINDOW];

/// How often a sequence looks at what has become of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// After every operation that can change wirings.
    Often,
    /// At the end, for hosts where every line takes its time.
    Once,
}

/// Returns a sequence as a script that begins and ends with nothing, with what the model expects of every line.
#[must_use]
pub fn script(window: usize, operations: &[Operation], rules: Rules, looks: Looks) -> String {
    let base = WINDOWS[window % WINDOWS.len()];
    let mut model = Model::new(base, rules);
    let mut lines = vec![format!("w = allocate 1 page at {:#x}", base * PAGE), "deallocate w".to_owned()];
    for operation in operations {
        let Some(step) = model.step(operation) else { continue };
        lines.extend(step);
        if let Some(task) = model.looked_at(operation).filter(|_| looks == Looks::Often) {
            lines.push(model.layout_line(task));
            // Not after every one, for the sake of speed: what is wrong once stays wrong.
            if lines.len() % 3 == 0 {
                lines.push(model.total_line());
            }
        }
    }
    lines.extend(model.last_look());
    lines.extend(model.clean_up());
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

impl Model {
    /// Returns the task whose layout an operation may have changed.
    fn looked_at(&self, operation: &Operation) -> Option<usize> {
        match *operation {
            Operation::Wire(task, ..)
            | Operation::Unwire(task, ..)
            | Operation::Mlock(task, _)
            | Operation::Munlock(task, _)
            | Operation::Mlockall(task, ..)
            | Operation::Munlockall(task)
            | Operation::Protect(task, ..)
            | Operation::Vslock(task, _) => Some(task % self.tasks.len()),
            Operation::Fork(_) => Some(self.tasks.len() - 1),
            _ => None,
        }
    }

    fn layout_line(&self, task: usize) -> String {
        let mut spans: Vec<(u64, u64, u32, bool)> = Vec::new();
        for (&at, page) in self.tasks[task].pages.range(self.base..self.base + WINDOW + 4) {
            let at = at - self.base;
            let (count, user) = (page.count(), page.user > 0);
            match spans.last_mut() {
                Some((_, end, was, had)) if *end == at && *was == count && *had == user => *end += 1,
                _ => spans.push((at, at + 1, count, user)),
            }
        }
        let span = |(start, end, count, user): &(u64, u64, u32, bool)| {
            format!("[{start},{end}){count}{}", if *user { "U" } else { "" })
        };
        let spans: Vec<String> = spans.iter().map(span).collect();
        let shown = if spans.is_empty() { "none".to_owned() } else { spans.join(" ") };
        format!("layout {}[0,{}) => {shown}", self.window_of(task), self.shown_pages())
    }

    /// Returns how many pages of the window and behind it lie in the address space.
    fn shown_pages(&self) -> u64 {
        (END_PAGE - self.base).min(WINDOW + 4)
    }

    fn total_line(&self) -> String {
        format!("wire-total => {}", self.user_total())
    }

    /// Returns everything that can be seen and told at the end of a sequence.
    fn last_look(&mut self) -> Vec<String> {
        let mut lines = vec![self.total_line()];
        if let Some(pages) = self.host_locked() {
            lines.push(format!("host locked => {pages}"));
        }
        for task in 0..self.tasks.len() {
            lines.push(self.layout_line(task));
            lines.extend(self.wires_line(task));
            lines.extend(self.residents_line(task));
        }
        for task in 0..self.tasks.len() {
            lines.extend(self.bytes_lines(task));
        }
        lines
    }

    /// Returns the lines for what a task's pages hold; neighbours that hold the same are one line.
    fn bytes_lines(&mut self, task: usize) -> Vec<String> {
        let mut runs: Vec<(u64, u64, String)> = Vec::new();
        let pages: Vec<u64> = self.tasks[task].pages.keys().copied().collect();
        for at in pages {
            let mut after = self.clone();
            let Some(bytes) = after.read(task, at) else { continue };
            *self = after;
            match runs.last_mut() {
                Some((_, end, same)) if *end == at && *same == bytes && bytes.starts_with("0x") => *end += 1,
                _ => runs.push((at, at + 1, bytes)),
            }
        }
        let line = |(start, end, bytes): (u64, u64, String)| {
            let range = match start.checked_sub(self.base) {
                Some(page) => format!("{}[{page},{})", self.window_of(task), end - self.base),
                None if task == 0 => format!("@{:#x}..{:#x}", start * PAGE, end * PAGE),
                None => format!("{}.@{:#x}..{:#x}", self.tasks[task].name, start * PAGE, end * PAGE),
            };
            if bytes.starts_with("0x") { format!("expect {range} {bytes}") } else { format!("read {range} => {bytes}") }
        };
        runs.into_iter().map(line).collect()
    }

    /// Returns the line for the wire counts of a task's first pages, as far as they can be told.
    fn wires_line(&self, task: usize) -> Option<String> {
        let mut spans: Vec<(u64, u64, u32)> = Vec::new();
        let mut end = 0;
        for at in 0..self.shown_pages() {
            if let Some(page) = self.tasks[task].pages.get(&(self.base + at)) {
                let cell = self.slots[page.slot].cell;
                if !self.is_clear(cell) || self.is_dead(cell) {
                    break;
                }
                let count = self.wires(cell);
                match (self.cells[cell].resident, spans.last_mut()) {
                    (None, _) => break,
                    (Some(false), _) => {}
                    (Some(true), Some((_, end, was))) if *end == at && *was == count => *end += 1,
                    (Some(true), _) => spans.push((at, at + 1, count)),
                }
            }
            end = at + 1;
        }
        let spans: Vec<String> = spans.iter().map(|(start, end, count)| format!("[{start},{end}){count}")).collect();
        let shown = if spans.is_empty() { "none".to_owned() } else { spans.join(" ") };
        (end > 0).then(|| format!("page-wc {}[0,{end}) => {shown}", self.window_of(task)))
    }

    /// Returns the line for how many of a task's first pages are resident, as far as that can be told.
    fn residents_line(&self, task: usize) -> Option<String> {
        let (mut end, mut count) = (0, 0);
        for at in 0..self.shown_pages() {
            if let Some(page) = self.tasks[task].pages.get(&(self.base + at)) {
                let cell = self.cell_of(page);
                match cell.resident.filter(|_| !cell.murky && !self.is_dead(self.slots[page.slot].cell)) {
                    None => break,
                    Some(resident) => count += u64::from(resident),
                }
            }
            end = at + 1;
        }
        (end > 0).then(|| format!("residents {}[0,{end}) => {count}", self.window_of(task)))
    }

    /// Returns the lines that leave nothing of a sequence behind.
    fn clean_up(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let main = &self.tasks[0];
        if main.future {
            lines.push("munlockall".to_owned());
        }
        if main.memlock != u64::MAX {
            lines.push(format!("limit memlock {UNLIMITED} pages"));
        }
        if !main.may_lock {
            lines.push("limit privileged".to_owned());
        }
        if self.wire_limit != u64::MAX {
            // What every host's quota allows.
            lines.push("limit wire 1024 pages".to_owned());
        }
        lines.push("reset".to_owned());
        lines
    }
}
