//! A task's page tables: the hardware end of [`PageTables`].
//!
//! Any task's tables may be loaded, and stay loaded until another's are: whoever needs a task's mappings loads them with
//! [`KernelPmap::load`]. All roots share the kernel's half, so the kernel does not care which is.

use core::ops::Range;

use wirevm_map::{FrameRun, Frames, OutOfFrames, PageRange, Pmap, Prot};

use crate::address_space;
use crate::arch;
use crate::frames::{Frame, KernelFrames};
use crate::mem::{fill_table, first_used, read_table, write_table};
use crate::page_table::{ENTRIES, PageTables, TableMemory};

/// Pages up to which each translation is forgotten by name; beyond, all are.
const FLUSH_BY_PAGE: u64 = 16;

/// Tables in RAM, reached through the direct map; translations of this processor, the only one.
#[derive(Debug)]
pub struct HardwareTables {
    root: Frame,
    frames: &'static KernelFrames,
}

impl TableMemory for HardwareTables {
    fn allocate(&mut self) -> Option<u64> {
        self.frames.table().map(|frame| frame.0)
    }

    fn free(&mut self, frame: u64) {
        Frames::free(&self.frames, FrameRun::new(frame, 1));
    }

    fn read(&self, frame: u64, index: u64) -> u64 {
        read_table(frame, index)
    }

    fn write(&mut self, frame: u64, index: u64, entry: u64) {
        write_table(frame, index, entry);
    }

    fn first_used(&self, frame: u64, indices: Range<u64>) -> Option<(u64, u64)> {
        first_used(frame, indices)
    }

    fn fill(&mut self, frame: u64, entry: u64, step: u64) {
        fill_table(frame, 0..ENTRIES, entry, step);
    }

    fn invalidate(&mut self, pages: PageRange) {
        // Of tables that are not loaded the processor knows nothing: loading a root forgets whatever came from the one
        // before, as no mapping below the kernel's half is global and no translations are kept apart by PCID; and it
        // reads tables ahead only from the root that is loaded.
        if !arch::is_loaded(self.root) {
            return;
        }
        if pages.len() <= FLUSH_BY_PAGE {
            (pages.start..pages.end).for_each(arch::flush_page);
        } else {
            arch::flush_translations();
        }
    }
}

/// The page tables of one task.
#[derive(Debug)]
pub struct KernelPmap {
    tables: PageTables<HardwareTables>,
    root: Frame,
    /// The root to go back to, which is never freed.
    home: Frame,
}

impl KernelPmap {
    /// Takes over the address space with the root `home`, the kernel's first.
    pub const fn at_home(home: Frame, frames: &'static KernelFrames) -> Self {
        Self::new(home, home, frames)
    }

    /// Makes an address space with a root of its own, which shares the kernel's half of `home`.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for the root.
    pub fn beside(home: Frame, frames: &'static KernelFrames) -> Result<Self, OutOfFrames> {
        let root = address_space::root_beside(home, frames).ok_or(OutOfFrames)?;
        Ok(Self::new(root, home, frames))
    }

    const fn new(root: Frame, home: Frame, frames: &'static KernelFrames) -> Self {
        Self { tables: PageTables::new(root.0, HardwareTables { root, frames }), root, home }
    }

    /// Loads the tables into the processor, unless they are loaded: that would only make it forget translations.
    pub fn load(&self) {
        if !arch::is_loaded(self.root) {
            arch::switch_to(self.root);
        }
    }
}

impl Drop for KernelPmap {
    fn drop(&mut self) {
        if self.root == self.home {
            self.tables.release();
            return;
        }
        // A loaded root must not become a frame of something else. The kernel's own stays behind.
        if arch::is_loaded(self.root) {
            arch::switch_to(self.home);
        }
        self.tables.release_all();
    }
}

impl Pmap for KernelPmap {
    fn enter(&mut self, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames> {
        self.tables.enter(page, run, prot)
    }

    fn remove(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) -> Result<(), OutOfFrames> {
        self.tables.remove(pages, dirty)
    }

    fn protect(&mut self, pages: PageRange, prot: Prot) -> Result<(), OutOfFrames> {
        self.tables.protect(pages, prot)
    }

    fn clean(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) {
        self.tables.clean(pages, dirty);
    }

    fn translate(&self, page: u64) -> Option<(u64, Prot)> {
        self.tables.translate(page)
    }
}
