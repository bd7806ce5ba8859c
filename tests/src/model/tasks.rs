//! Tasks: children, ends, inheritance, protections.

use super::state::{Inherit, Model, Page, Task, W};

impl Model {
    /// `protect` of at least one page.
    pub(super) fn protect(&mut self, task: usize, start: u64, end: u64, max: bool, prot: u8) -> Option<&'static str> {
        let pages = &self.tasks[task].pages;
        // What a guard's protection may become, the rows do not say.
        if pages.range(start..end).any(|(_, page)| page.guard) {
            return None;
        }
        for at in start..end {
            let Some(page) = pages.get(&at) else { return Some("INVALID_ADDRESS") };
            if page.max_prot & prot != prot {
                return Some("PROTECTION_FAILURE");
            }
        }
        for at in start..end {
            let old = *self.tasks[task].pages.get(&at)?;
            let new = if max { Page { max_prot: prot, prot: old.prot & prot, ..old } } else { Page { prot, ..old } };
            let gains_write = new.prot & W != 0 && old.prot & W == 0;
            if gains_write && old.count() > 0 && self.slots[old.slot].cow {
                // Row P-03 copies a user-wired page now; when the system's is copied, the rows leave open.
                let whole = self.touch(self.slots[old.slot].cell, false) == super::access::Touch::Fine;
                if old.user == 0 || !whole {
                    return None;
                }
                self.copy_on_write(&old);
            }
            self.tasks[task].pages.insert(at, new);
        }
        Some("SUCCESS")
    }

    /// `deallocate`: user wirings end with the memory (row D-02). `None` when a system wiring would block it (row D-01).
    pub(super) fn deallocate(&mut self, task: usize, start: u64, end: u64) -> Option<()> {
        let pages = &mut self.tasks[task].pages;
        if pages.range(start..end).any(|(_, page)| page.system > 0) {
            return None;
        }
        pages.retain(|at, _| !(start..end).contains(at));
        Some(())
    }

    /// `inherit` over pages without holes and guards.
    pub(super) fn inherit(&mut self, task: usize, start: u64, end: u64, inherit: Inherit) -> Option<()> {
        for at in start..end {
            self.tasks[task].pages.get_mut(&at).filter(|page| !page.guard)?.inherit = inherit;
        }
        Some(())
    }

    /// `fork` (rows D-03 to D-07).
    pub(super) fn fork(&mut self, parent: usize, name: String) -> Option<()> {
        let mut child = Task::new(name);
        let pages: Vec<(u64, Page)> = self.tasks[parent].pages.iter().map(|(at, page)| (*at, *page)).collect();
        // Copying what is shared changes, in FreeBSD, what the parent shares from then on.
        let copied = |page: &Page| page.inherit == Inherit::Copy && !page.guard;
        if pages.iter().any(|(_, page)| copied(page) && (self.slots[page.slot].shared || self.shows(page.slot) > 1)) {
            return None;
        }
        for (at, page) in pages {
            let fresh = Page { system: 0, user: 0, ..page };
            let slot = match page.inherit {
                Inherit::Nothing => continue,
                Inherit::Share => page.slot,
                Inherit::Copy if self.rules.forks_share_all => page.slot,
                Inherit::Copy if page.guard => page.slot,
                Inherit::Copy if page.count() > 0 && page.prot & W != 0 => {
                    // The parent keeps its very pages (row D-04).
                    let cell = self.slots[page.slot].cell;
                    if self.slots[page.slot].cow || self.cells[cell].origin.is_some() {
                        return None;
                    }
                    let copy = self.new_cell(self.cells[cell].byte, Some(true));
                    self.new_slot(copy, false, false)
                }
                Inherit::Copy => {
                    // The bytes are those of the moment; whether they are copied now or at the first write is open, but for
                    // the parent, who keeps its pages.
                    self.slots[page.slot].cow = true;
                    let cell = self.slots[page.slot].cell;
                    let maybe = self.new_twin(cell);
                    self.new_slot(maybe, true, false)
                }
            };
            child.pages.insert(at, Page { slot, ..fresh });
        }
        self.tasks.push(child);
        Some(())
    }
}
