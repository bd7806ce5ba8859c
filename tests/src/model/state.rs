//! What the model knows: tasks of pages, slots, cells.
//!
//! A page of a task shows a *slot*; tasks that share memory share the slot. A slot shows a *cell*, the place of one page's
//! bytes; several slots may show one cell copy-on-write, or it may be a page of an object.

use std::collections::BTreeMap;

/// First page of a task's address space.
pub const FIRST_PAGE: u64 = 16;
/// One past the last.
pub const END_PAGE: u64 = 1 << 35;
/// Rights: read.
pub const R: u8 = 1;
/// Rights: write.
pub const W: u8 = 2;
/// Rights: execute.
pub const X: u8 = 4;
/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// Rules of the model that a test of the tests may break.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// User wirings nest, as they do not.
    pub user_wirings_nest: bool,
    /// A failed wire keeps what it had wired in front of the failure, as it must not.
    pub failed_wires_stay: bool,
    /// A child's memory is its parent's, as only shared memory is.
    pub forks_share_all: bool,
}

/// Number of a cell.
pub type CellId = usize;
/// Number of a slot.
pub type SlotId = usize;

/// The place of one page's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// The byte that fills the page; `None` when it can't be told.
    pub byte: Option<u8>,
    /// Whether the page has a frame; `None` when it can't be told.
    pub resident: Option<bool>,
    /// The object that the page belongs to, and where in it.
    pub origin: Option<(usize, usize)>,
    /// A failed call, or a fork, may have copied `twin`, or not: this cell is either the copy or the same page.
    pub twin: Option<CellId>,
    /// The page was wired when its object was cut off in front of it: whether it counts as resident is open.
    pub murky: bool,
}

/// What a page of a task shows.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The bytes.
    pub cell: CellId,
    /// Whether the first write makes a copy.
    pub cow: bool,
    /// Whether writes are meant for the object.
    pub shared: bool,
}

/// What a child gets of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherit {
    /// The same memory.
    Share,
    /// A copy.
    Copy,
    /// Nothing.
    Nothing,
}

/// An allocated page.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// What is permitted.
    pub prot: u8,
    /// What can ever be.
    pub max_prot: u8,
    /// What a child gets.
    pub inherit: Inherit,
    /// The system's wirings.
    pub system: u32,
    /// The user's wirings: 0 or 1, more only under a wrong rule.
    pub user: u32,
    /// Whether it is a guard, which no access reaches.
    pub guard: bool,
    /// The memory.
    pub slot: SlotId,
}

impl Page {
    /// Returns the wired count of the page's entry.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.system + self.user
    }

    /// Tells whether nothing but memory tells the two apart, so that they may lie in one entry.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let attributes = |page: &Self| (page.prot, page.max_prot, page.inherit, page.system, page.user, page.guard);
        attributes(self) == attributes(other)
    }
}

/// A task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name in the script; empty for main.
    pub name: String,
    /// Its pages, by number.
    pub pages: BTreeMap<u64, Page>,
    /// Whether memory is locked as it is mapped.
    pub future: bool,
    /// Most pages that it may lock.
    pub memlock: u64,
    /// Whether it may lock at all.
    pub may_lock: bool,
}

/// How a pager fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It could not read.
    Io,
    /// It refuses.
    Refused,
}

/// A memory object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its name in the script.
    pub name: String,
    /// Whether a pager fills it.
    pub file: bool,
    /// Its pages, those that were cut off included.
    pub cells: Vec<CellId>,
    /// Its size now, in pages.
    pub pages: usize,
    /// Whether it was killed.
    pub dead: bool,
    /// Pages that its pager can't supply.
    pub failing: BTreeMap<usize, Fault>,
}

/// The whole system.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) rules: Rules,
    pub(super) base: u64,
    pub(super) tasks: Vec<Task>,
    pub(super) objects: Vec<Object>,
    pub(super) cells: Vec<Cell>,
    pub(super) slots: Vec<Slot>,
    pub(super) wire_limit: u64,
    pub(super) names: usize,
}

impl Model {
    /// Returns the system after a reset, with a window of pages from page `base` on.
    #[must_use]
    pub fn new(base: u64, rules: Rules) -> Self {
        let mut model = Self {
            rules,
            base,
            tasks: Vec::new(),
            objects: Vec::new(),
            cells: Vec::new(),
            slots: Vec::new(),
            wire_limit: u64::MAX,
            names: 0,
        };
        model.tasks.push(Task::new(String::new()));
        model
    }

    pub(super) fn cell_of(&self, page: &Page) -> &Cell {
        &self.cells[self.slots[page.slot].cell]
    }

    pub(super) fn new_cell(&mut self, byte: Option<u8>, resident: Option<bool>) -> CellId {
        self.cells.push(Cell { byte, resident, origin: None, twin: None, murky: false });
        self.cells.len() - 1
    }

    /// Returns a cell that is either a copy of `cell` or the same.
    pub(super) fn new_twin(&mut self, cell: CellId) -> CellId {
        let Cell { byte, twin, .. } = self.cells[cell];
        let maybe = self.new_cell(byte, None);
        self.cells[maybe].twin = Some(twin.unwrap_or(cell));
        maybe
    }

    pub(super) fn new_slot(&mut self, cell: CellId, cow: bool, shared: bool) -> SlotId {
        self.slots.push(Slot { cell, cow, shared });
        self.slots.len() - 1
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = &Page> {
        self.tasks.iter().flat_map(|task| task.pages.values())
    }

    /// Returns how many wired pages of tasks show the cell: its wire count (row N5).
    pub(super) fn wires(&self, cell: CellId) -> u32 {
        let shows = |page: &&Page| page.count() > 0 && self.slots[page.slot].cell == cell;
        self.pages().filter(shows).map(|_| 1).sum()
    }

    /// Tells whether the wire count of the cell's page can be told.
    pub(super) fn is_clear(&self, cell: CellId) -> bool {
        let this = &self.cells[cell];
        let twin = |page: &Page| page.count() > 0 && self.cell_of(page).twin == Some(cell);
        this.twin.is_none() && !this.murky && !self.pages().any(twin)
    }

    /// Returns how many pages of tasks show the slot.
    pub(super) fn shows(&self, slot: SlotId) -> usize {
        self.pages().filter(|page| page.slot == slot).count()
    }

    /// Returns the total of user-wired pages (row N7).
    #[must_use]
    pub fn user_total(&self) -> u64 {
        self.pages().filter(|page| page.user > 0).count() as u64
    }

    /// Returns how many frames the host has locked, if that can be told.
    #[must_use]
    pub fn host_locked(&self) -> Option<usize> {
        let mut wired: Vec<CellId> = Vec::new();
        for page in self.pages().filter(|page| page.count() > 0) {
            let cell = self.slots[page.slot].cell;
            if !self.is_clear(cell) || self.is_dead(cell) {
                return None;
            }
            wired.push(cell);
        }
        wired.sort_unstable();
        wired.dedup();
        Some(wired.len())
    }

    pub(super) fn is_dead(&self, cell: CellId) -> bool {
        self.cells[cell].origin.is_some_and(|(object, _)| self.objects[object].dead)
    }
}

impl Task {
    /// Returns a task without memory, and without limits.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self { name, pages: BTreeMap::new(), future: false, memlock: u64::MAX, may_lock: true }
    }
}
