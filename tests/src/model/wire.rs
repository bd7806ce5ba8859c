//! Wiring and unwiring, page by page (rows A, W, U, F and L-05).

use std::ops::Range;

use super::access::Touch;
use super::state::{END_PAGE, FIRST_PAGE, Model, PAGE, Page, R, W, X};

/// The user's wiring.
pub const USER: u32 = 1;
/// Holes and unreadable pages are passed over.
pub const HOLESOK: u32 = 2;
/// Pages that can't be written count as unreadable.
pub const WRITE: u32 = 4;

/// What wire and unwire make of their arguments.
enum Arguments {
    Refused(&'static str),
    Nothing,
    Pages(Range<u64>),
}

/// Checks arguments in the order of rows.
fn arguments(start: u64, end: u64, flags: u32) -> Arguments {
    if start == end {
        return Arguments::Nothing;
    }
    if start > end || !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || flags & !7 != 0 {
        return Arguments::Refused("INVALID_ARGUMENT");
    }
    let pages = (start / PAGE).max(FIRST_PAGE)..(end / PAGE).min(END_PAGE);
    match (pages.is_empty(), flags & HOLESOK != 0) {
        (false, _) => Arguments::Pages(pages),
        (true, true) => Arguments::Nothing,
        (true, false) => Arguments::Refused("INVALID_ADDRESS"),
    }
}

impl Model {
    /// Returns the range without what lies in front of and behind all of the task's pages, where holes don't matter.
    fn narrowed(&self, task: usize, range: Range<u64>, flags: u32) -> Range<u64> {
        let pages = &self.tasks[task].pages;
        let first = pages.keys().next().copied().unwrap_or(range.end);
        let end = pages.keys().next_back().map_or(range.start, |last| last + 1);
        let start = range.start.max(first);
        if flags & HOLESOK == 0 { range } else { start..range.end.min(end).max(start) }
    }

    /// `wire`. A code of `any` stands for a failure whose code depends on how entries are cut.
    pub(super) fn wire(&mut self, task: usize, start: u64, end: u64, flags: u32) -> Option<&'static str> {
        let range = match arguments(start, end, flags) {
            Arguments::Refused(code) => return Some(code),
            Arguments::Nothing => return Some("SUCCESS"),
            Arguments::Pages(range) => self.narrowed(task, range, flags),
        };
        let mut after = self.clone();
        for at in range.clone() {
            if let Err(code) = after.wire_page(task, at, flags)? {
                let code =
                    if self.charge_fails_behind(task, at..range.end, &after, flags, code) { "any" } else { code };
                if self.rules.failed_wires_stay {
                    *self = after;
                } else {
                    self.forget_after_failure(task, range, flags);
                }
                return Some(code);
            }
        }
        *self = after;
        Some("SUCCESS")
    }

    /// Wires one page; `None` when what happens can't be told.
    fn wire_page(&mut self, task: usize, at: u64, flags: u32) -> Option<Result<(), &'static str>> {
        let refused = if flags & HOLESOK != 0 { Ok(()) } else { Err("INVALID_ADDRESS") };
        let Some(&page) = self.tasks[task].pages.get(&at) else { return Some(refused) };
        if !is_wirable(&page, flags) {
            return Some(refused);
        }
        let user = flags & USER != 0;
        if user && page.user > 0 && !self.rules.user_wirings_nest {
            return Some(Ok(()));
        }
        if user && page.user == 0 && !self.may_charge(task, 1) {
            return Some(Err("RESOURCE_SHORTAGE"));
        }
        if page.count() == 0 {
            match self.touch(self.slots[page.slot].cell, true) {
                Touch::Open => return None,
                Touch::Fails(code) => return Some(Err(code)),
                Touch::Fine => {}
            }
            if page.prot & W != 0 && self.slots[page.slot].cow {
                // Row P-01; a page that can't be written is wired where it is, row P-02.
                self.copy_on_write(&page);
            } else {
                let cell = self.slots[page.slot].cell;
                self.bring_in(cell);
            }
        }
        let page = self.tasks[task].pages.get_mut(&at)?;
        if user {
            page.user += 1;
        } else {
            page.system += 1;
        }
        Some(Ok(()))
    }

    /// Tells whether a charge that fails further on may come before the fault that has failed with `code`: an entry is
    /// charged as a whole before its first page is faulted in, and where entries end can't be told from their pages.
    fn charge_fails_behind(&self, task: usize, rest: Range<u64>, after: &Self, flags: u32, code: &str) -> bool {
        if flags & USER == 0 || matches!(code, "INVALID_ADDRESS" | "RESOURCE_SHORTAGE") {
            return false;
        }
        let pages = &self.tasks[task].pages;
        let Some(first) = pages.get(&rest.start) else { return false };
        let alike = rest.map_while(|at| pages.get(&at).filter(|page| page.is_like(first)));
        !after.may_charge(task, alike.count() as u64)
    }

    /// Tells whether the limits, that of all tasks and the task's own, admit that many more user-wired pages (row L-05).
    fn may_charge(&self, task: usize, pages: u64) -> bool {
        let own = self.tasks[task].pages.values().filter(|page| page.user > 0).count() as u64;
        self.user_total() + pages <= self.wire_limit && own + pages <= self.tasks[task].memlock
    }

    /// Notes what a failed wire leaves open: which of the pages it came past are resident (row F-06), and which are copied.
    fn forget_after_failure(&mut self, task: usize, range: Range<u64>, flags: u32) {
        let pages: Vec<Page> = self.tasks[task].pages.range(range).map(|(_, page)| *page).collect();
        for page in pages {
            if !is_wirable(&page, flags) || page.count() > 0 {
                continue;
            }
            let slot = self.slots[page.slot];
            let real = self.cells[slot.cell].twin.unwrap_or(slot.cell);
            if self.cells[real].resident == Some(false) {
                self.cells[real].resident = None;
            }
            if slot.cow && page.prot & W != 0 && self.cells[slot.cell].twin.is_none() {
                self.slots[page.slot].cell = self.new_twin(slot.cell);
            }
        }
    }

    /// Returns how many frames a successful wire would be the first to wire.
    pub(super) fn would_lock(&self, task: usize, start: u64, end: u64, flags: u32) -> Option<usize> {
        let mut after = self.clone();
        let before = self.host_locked()?;
        (after.wire(task, start, end, flags)? == "SUCCESS").then_some(())?;
        after.host_locked()?.checked_sub(before)
    }

    /// `wire` with the host refusing at the end of it.
    pub(super) fn wire_refused_by_host(&mut self, task: usize, start: u64, end: u64, flags: u32) {
        let Arguments::Pages(range) = arguments(start, end, flags) else { return };
        self.forget_after_failure(task, range, flags);
    }

    /// `unwire`: all or nothing. A code of `any` stands for a failure whose code depends on how entries are cut.
    pub(super) fn unwire(&mut self, task: usize, start: u64, end: u64, flags: u32) -> &'static str {
        let range = match arguments(start, end, flags) {
            Arguments::Refused(code) => return code,
            Arguments::Nothing => return "SUCCESS",
            Arguments::Pages(range) => self.narrowed(task, range, flags),
        };
        let pages = &mut self.tasks[task].pages;
        for at in range.clone() {
            let Some(page) = pages.get(&at) else {
                if flags & HOLESOK != 0 {
                    continue;
                }
                return "INVALID_ADDRESS";
            };
            if flags & USER == 0 && page.system == 0 {
                // The hole behind an entry comes before what is wrong with the entry (rows U-03 and U-04).
                let behind = (at..range.end).find(|at| !pages.get(at).is_some_and(|other| other.is_like(page)));
                let hole = flags & HOLESOK == 0 && behind.is_some_and(|at| !pages.contains_key(&at));
                return if hole { "any" } else { "INVALID_ARGUMENT" };
            }
        }
        for (_, page) in pages.range_mut(range) {
            if flags & USER != 0 {
                page.user = page.user.saturating_sub(1);
            } else {
                page.system -= 1;
            }
        }
        "SUCCESS"
    }
}

/// Rows W-03 and W-04.
fn is_wirable(page: &Page, flags: u32) -> bool {
    page.prot & (R | X) != 0 && (flags & WRITE == 0 || page.prot & W != 0)
}
