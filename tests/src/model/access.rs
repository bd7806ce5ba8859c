//! Faults, reads and writes: what a touch of a page comes to.

use super::state::{Cell, CellId, Fault, Model, PAGE, Page, R, W};

/// What a fault on a cell comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// The page is there, or comes.
    Fine,
    /// The fault fails with that code.
    Fails(&'static str),
    /// That can't be told.
    Open,
}

impl Model {
    /// Says what a fault on the cell comes to (row F-02, in FreeBSD's order: the object's life, the page, the object's end,
    /// its pager).
    pub(super) fn touch(&self, cell: CellId, wiring: bool) -> Touch {
        let this = &self.cells[cell];
        if let Some(twin) = this.twin {
            // Copied or not: if the original is in order, it makes no difference.
            return if self.touch(twin, wiring) == Touch::Fine { Touch::Fine } else { Touch::Open };
        }
        let Some((number, page)) = this.origin else { return Touch::Fine };
        let object = &self.objects[number];
        let is_cut = page >= object.pages;
        if object.dead {
            // A page that was there when its object died may still be mapped. A wire has to fault, and then learns of the
            // death, unless another wiring keeps the page.
            let gone = this.resident == Some(false) || (wiring && self.wires(cell) == 0 && self.is_clear(cell));
            return if gone && !is_cut { Touch::Fails("PROTECTION_FAILURE") } else { Touch::Open };
        }
        if is_cut {
            return Touch::Fails("OUT_OF_BOUNDS");
        }
        match (this.resident, object.failing.get(&page)) {
            (Some(true), _) | (_, None) => Touch::Fine,
            (None, Some(_)) => Touch::Open,
            (Some(false), Some(Fault::Io)) => Touch::Fails("OUT_OF_BOUNDS"),
            (Some(false), Some(Fault::Refused)) => Touch::Fails("FAILURE"),
        }
    }

    /// Makes a cell resident that a fault for reading, or a copy, has touched.
    pub(super) fn bring_in(&mut self, cell: CellId) {
        match self.cells[cell].twin {
            None => self.cells[cell].resident = Some(true),
            // It may have come in for both.
            Some(twin) if self.cells[twin].resident == Some(false) => self.cells[twin].resident = None,
            Some(_) => {}
        }
    }

    /// Replaces the cell of a copy-on-write slot by a copy of its own.
    pub(super) fn copy_on_write(&mut self, page: &Page) {
        let old = self.slots[page.slot].cell;
        let real = self.cells[old].twin.unwrap_or(old);
        if self.cells[real].origin.is_some() {
            self.bring_in(old);
        }
        let copy = self.new_cell(self.cells[old].byte, Some(true));
        self.slots[page.slot].cell = copy;
        self.slots[page.slot].cow = false;
    }

    /// Notes that the bytes of a cell are about to change: whoever may have copied it shows one or the other from now on.
    pub(super) fn part_twins(&mut self, cell: CellId) {
        for twin in self.cells.iter_mut().filter(|it| it.twin == Some(cell)) {
            twin.byte = None;
        }
    }

    /// Stores a byte into a page whose rights permit it. `Err` holds the code of a failing fault; `None` when open.
    pub(super) fn store(&mut self, page: Page, byte: u8) -> Option<Result<(), &'static str>> {
        let slot = self.slots[page.slot];
        match self.touch(slot.cell, false) {
            Touch::Open => return None,
            Touch::Fails(code) => return Some(Err(code)),
            Touch::Fine => {}
        }
        if slot.cow {
            self.copy_on_write(&page);
        } else {
            self.part_twins(slot.cell);
        }
        let cell = self.slots[page.slot].cell;
        self.cells[cell] = Cell { byte: Some(byte), resident: Some(true), ..self.cells[cell] };
        Some(Ok(()))
    }

    /// `write` of whole pages; what lies in front of a failing page is written.
    pub(super) fn write(&mut self, task: usize, pages: std::ops::Range<u64>, byte: u8) -> Option<&'static str> {
        for at in pages {
            let Some(&page) = self.tasks[task].pages.get(&at) else { return Some("INVALID_ADDRESS") };
            if page.prot & W == 0 {
                return Some("PROTECTION_FAILURE");
            }
            if let Err(code) = self.store(page, byte)? {
                return Some(code);
            }
        }
        Some("SUCCESS")
    }

    /// `read` of one page.
    pub(super) fn read(&mut self, task: usize, at: u64) -> Option<String> {
        let Some(&page) = self.tasks[task].pages.get(&at) else { return Some("INVALID_ADDRESS".to_owned()) };
        if page.prot & R == 0 {
            // Hardware can't tell apart what may be executed or written from what may be read, so pages that are mapped
            // for either can be read on some hosts.
            return (page.prot == 0).then(|| "PROTECTION_FAILURE".to_owned());
        }
        let cell = self.slots[page.slot].cell;
        match self.touch(cell, false) {
            Touch::Open => return None,
            Touch::Fails(code) => return Some(code.to_owned()),
            Touch::Fine => self.bring_in(cell),
        }
        Some(self.cells[cell].byte.map_or_else(|| "any".to_owned(), |byte| format!("{byte:#04x}")))
    }

    /// Returns the pages that the bytes `start..end` touch; the size is taken modulo 2^64, as operations do that take a size.
    pub(super) fn touched(start: u64, end: u64) -> Option<std::ops::Range<u64>> {
        let end = start.checked_add(end.wrapping_sub(start))?.checked_next_multiple_of(PAGE)?;
        Some(start / PAGE..end / PAGE)
    }
}
