//! The POSIX-shaped calls over the same pages (rows L-01 to L-08).

use super::state::{END_PAGE, FIRST_PAGE, Model, PAGE};
use super::wire::{HOLESOK, USER};

impl Model {
    /// Returns how many pages of the task are wired; `None` where a limit that lies between two readings of that decides.
    ///
    /// FreeBSD counts what is wired in the page tables, where pages without rights are not.
    fn already_wired(&self, task: usize, more: u64) -> Option<u64> {
        let this = &self.tasks[task];
        let wired = |page: &&super::state::Page| page.count() > 0;
        let all = this.pages.values().filter(wired).count() as u64;
        let mapped = this.pages.values().filter(wired).filter(|page| page.prot != 0).count() as u64;
        ((all + more > this.memlock) == (mapped + more > this.memlock)).then_some(all)
    }

    /// Rounds outwards to pages; `None` where that wraps.
    fn rounded(start: u64, end: u64) -> Option<(u64, u64)> {
        let last = start.checked_add(end.wrapping_sub(start))?.checked_next_multiple_of(PAGE)?;
        Some((start - start % PAGE, last))
    }

    /// `mlock` (rows L-01 and L-10).
    pub(super) fn mlock(&mut self, task: usize, start: u64, end: u64) -> Option<&'static str> {
        if !self.tasks[task].may_lock {
            return Some("EPERM");
        }
        let Some((start, end)) = Self::rounded(start, end) else { return Some("EINVAL") };
        let pages = (end - start) / PAGE;
        if pages > self.wire_limit {
            return Some("ENOMEM");
        }
        if self.already_wired(task, pages)? + pages > self.tasks[task].memlock {
            // Nothing to lock, and too much locked already: the formula says no, the sense of it yes.
            return (pages > 0).then_some("ENOMEM");
        }
        Some(match self.wire(task, start, end, USER)? {
            "SUCCESS" => "SUCCESS",
            "INVALID_ARGUMENT" => "EINVAL",
            _ => "ENOMEM",
        })
    }

    /// `munlock` (row L-02).
    pub(super) fn munlock(&mut self, task: usize, start: u64, end: u64) -> &'static str {
        let Some((start, end)) = Self::rounded(start, end) else { return "EINVAL" };
        if self.unwire(task, start, end, USER) == "SUCCESS" { "SUCCESS" } else { "ENOMEM" }
    }

    /// `mlockall` (row L-03), which leaves nothing behind when it fails (row B-13).
    pub(super) fn mlockall(&mut self, task: usize, current: bool, future: bool) -> Option<&'static str> {
        if !current && !future {
            return Some("EINVAL");
        }
        let this = &self.tasks[task];
        // Whether the privilege is asked for, whether guards count as size, and whether a flag set by an earlier call stays
        // when a later one fails, the rows do not say.
        let guards = this.pages.values().any(|page| page.guard);
        if !this.may_lock || (guards && this.memlock < u64::MAX) {
            return None;
        }
        if current && this.pages.len() as u64 > this.memlock {
            return (!this.future).then_some("ENOMEM");
        }
        if current {
            let was_future = this.future;
            match self.wire(task, FIRST_PAGE * PAGE, END_PAGE * PAGE, USER | HOLESOK)? {
                "SUCCESS" => {}
                _ if was_future => return None,
                "RESOURCE_SHORTAGE" => return Some("ENOMEM"),
                // One of two failures, of which one is a shortage.
                "any" => return Some("any"),
                _ => return Some("EAGAIN"),
            }
        }
        self.tasks[task].future |= future;
        Some("SUCCESS")
    }

    /// `munlockall` (row L-04).
    pub(super) fn munlockall(&mut self, task: usize) -> &'static str {
        self.tasks[task].future = false;
        self.unwire(task, FIRST_PAGE * PAGE, END_PAGE * PAGE, USER | HOLESOK)
    }

    /// `vslock` (row L-07).
    pub(super) fn vslock(&mut self, task: usize, start: u64, end: u64) -> Option<&'static str> {
        let Some((start, end)) = Self::rounded(start, end) else { return Some("EINVAL") };
        if (end - start) / PAGE > self.wire_limit {
            return Some("ENOMEM");
        }
        Some(if self.wire(task, start, end, 0)? == "SUCCESS" { "SUCCESS" } else { "EFAULT" })
    }

    /// `vsunlock`, which ignores what comes of it (row L-07).
    pub(super) fn vsunlock(&mut self, task: usize, start: u64, end: u64) -> Option<&'static str> {
        let (start, end) = Self::rounded(start, end)?;
        self.unwire(task, start, end, 0);
        Some("SUCCESS")
    }

    /// Wires what was just mapped into a task that locks what it maps: the result is ignored (row L-08).
    pub(super) fn wire_future(&mut self, task: usize, pages: std::ops::Range<u64>) -> Option<()> {
        if self.tasks[task].future {
            self.wire(task, pages.start * PAGE, pages.end * PAGE, USER)?;
        }
        Some(())
    }

    /// Tells whether a task that locks what it maps may map that many pages more; `None` where the limit forbids it, because
    /// how Mach's operations say ENOMEM is open.
    pub(super) fn may_map(&self, task: usize, pages: u64) -> Option<()> {
        if self.tasks[task].future && self.already_wired(task, pages)? + pages > self.tasks[task].memlock {
            return None;
        }
        Some(())
    }
}
