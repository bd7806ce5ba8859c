//! Memory objects: mapping, cutting off, failing.

use std::collections::BTreeMap;

use super::state::{Cell, END_PAGE, FIRST_PAGE, Fault, Inherit, Model, Object, Page, R, W, X};

impl Model {
    /// `file` or `anonymous`.
    pub(super) fn new_object(&mut self, file: bool, pages: usize) {
        let number = self.objects.len();
        let mut cells = Vec::new();
        for page in 0..pages {
            let byte = if file { 0x10 + u8::try_from(page).unwrap_or(0) } else { 0 };
            let cell = self.new_cell(Some(byte), Some(false));
            self.cells[cell].origin = Some((number, page));
            cells.push(cell);
        }
        let name = format!("o{number}");
        self.objects.push(Object { name, file, cells, pages, dead: false, failing: BTreeMap::new() });
    }

    /// Checks that pages may be allocated: `allocate`, `guard` and `map` alike.
    pub(super) fn place(&self, task: usize, start: u64, end: u64) -> Result<(), &'static str> {
        if start < FIRST_PAGE || end > END_PAGE {
            return Err("INVALID_ADDRESS");
        }
        match self.tasks[task].pages.range(start..end).next() {
            Some(_) => Err("NO_SPACE"),
            None => Ok(()),
        }
    }

    /// `allocate` and `guard`, of at least one page.
    pub(super) fn allocate(
        &mut self,
        task: usize,
        start: u64,
        end: u64,
        guard: bool,
    ) -> Option<Result<(), &'static str>> {
        self.may_map(task, end - start)?;
        if let Err(code) = self.place(task, start, end) {
            return Some(Err(code));
        }
        let prot = if guard { 0 } else { R | W };
        let max_prot = if guard { 0 } else { R | W | X };
        for at in start..end {
            let cell = self.new_cell(Some(0), Some(false));
            let slot = self.new_slot(cell, false, false);
            let page = Page { prot, max_prot, inherit: Inherit::Copy, system: 0, user: 0, guard, slot };
            self.tasks[task].pages.insert(at, page);
        }
        if !guard {
            self.wire_future(task, start..end)?;
        }
        Some(Ok(()))
    }

    /// `map`
    pub(super) fn map(
        &mut self,
        task: usize,
        start: u64,
        object: usize,
        range: std::ops::Range<usize>,
        private: bool,
        prot: u8,
    ) -> Option<Result<(), &'static str>> {
        let this = &self.objects[object];
        // What a private mapping of anonymous memory shows of pages that are absent depends on what was copied around them.
        if range.is_empty() || range.end > this.cells.len() || this.dead || (private && !this.file) {
            return None;
        }
        let end = start + range.len() as u64;
        self.may_map(task, end - start)?;
        if let Err(code) = self.place(task, start, end) {
            return Some(Err(code));
        }
        let cells: Vec<usize> = self.objects[object].cells[range].to_vec();
        let inherit = if private { Inherit::Copy } else { Inherit::Share };
        for (at, cell) in (start..end).zip(cells) {
            let slot = self.new_slot(cell, private, !private);
            let page = Page { prot, max_prot: R | W | X, inherit, system: 0, user: 0, guard: false, slot };
            self.tasks[task].pages.insert(at, page);
        }
        self.wire_future(task, start..end)?;
        Some(Ok(()))
    }

    /// `truncate`: cuts pages off, or lets the object grow again up to the size it was made with (row P-10).
    pub(super) fn truncate(&mut self, object: usize, pages: usize) -> Option<()> {
        let this = &self.objects[object];
        if this.dead || pages > this.cells.len() {
            return None;
        }
        for cell in self.objects[object].cells.get(pages..this.pages).unwrap_or(&[]).to_vec() {
            self.part_twins(cell);
            let wired = self.wires(cell) > 0 || !self.is_clear(cell);
            let resident = if wired { None } else { Some(false) };
            let old = self.cells[cell];
            self.cells[cell] = Cell { byte: Some(0), resident, murky: old.murky || wired, ..old };
        }
        self.objects[object].pages = pages;
        Some(())
    }

    /// `fail` and `heal`
    pub(super) fn fail(&mut self, object: usize, page: usize, fault: Option<Fault>) -> Option<()> {
        let this = &mut self.objects[object];
        if !this.file || this.dead || page >= this.cells.len() {
            return None;
        }
        match fault {
            Some(fault) => this.failing.insert(page, fault),
            None => this.failing.remove(&page),
        };
        Some(())
    }

    /// `kill`
    pub(super) fn kill(&mut self, object: usize) -> Option<()> {
        if self.objects[object].dead {
            return None;
        }
        self.objects[object].dead = true;
        for cell in self.objects[object].cells.clone() {
            if self.cells[cell].resident == Some(true) {
                self.cells[cell].resident = None;
            }
        }
        Some(())
    }

    /// `madvise` over pages without holes. Wired pages are skipped (row P-11), contents of objects stay.
    pub(super) fn advise(&mut self, task: usize, start: u64, end: u64, free: bool) -> Option<()> {
        for at in start..end {
            let page = *self.tasks[task].pages.get(&at).filter(|page| !page.guard)?;
            let cell = self.slots[page.slot].cell;
            let real = self.cells[cell].twin.unwrap_or(cell);
            if self.wires(cell) > 0 {
                continue;
            }
            for absent in [cell, real] {
                if self.wires(absent) == 0 && self.cells[absent].resident == Some(true) {
                    self.cells[absent].resident = None;
                }
            }
            // Zero if nobody shares the memory; whether somebody does is a matter of objects, and pages tell for certain only
            // when one does. Nobody else's bytes change.
            let private = match self.cells[real].origin {
                Some((object, _)) => !self.objects[object].file || real != cell,
                None => self.shows(page.slot) == 1,
            };
            if free && private {
                self.cells[cell].byte = self.cells[cell].byte.filter(|&byte| byte == 0);
            }
        }
        Some(())
    }
}
