//! A task's page tables: the hardware end of [`PageTables`].
//!
//! Every processor has some root loaded, a task's or the kernel's own, which maps no task: whoever needs a task's mappings loads
//! its [`Space`]. All roots share the kernel's half, so the kernel does not care which is.

use alloc::sync::Arc;
use core::ops::Range;

use wirevm_map::{FrameRun, Frames, OutOfFrames, PageRange, Pmap, Prot};

use crate::address_space;
use crate::frames::{Frame, KernelFrames};
use crate::mem::{exchange_table, fill_table, first_used, read_table, swap_table, write_table};
use crate::page_table::{ENTRIES, PageTables, TableMemory};
use crate::space::Space;

/// Tables in RAM, reached through the direct map, and the processors that have them loaded.
#[derive(Debug)]
pub struct HardwareTables {
    space: Arc<Space>,
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

    fn swap(&mut self, frame: u64, index: u64, entry: u64) -> u64 {
        swap_table(frame, index, entry)
    }

    fn replace(&mut self, frame: u64, index: u64, expected: u64, entry: u64) -> Result<(), u64> {
        exchange_table(frame, index, expected, entry)
    }

    fn first_used(&self, frame: u64, indices: Range<u64>) -> Option<(u64, u64)> {
        first_used(frame, indices)
    }

    fn fill(&mut self, frame: u64, entry: u64, step: u64) {
        fill_table(frame, 0..ENTRIES, entry, step);
    }

    fn invalidate(&mut self, pages: PageRange) {
        // Of tables that are not loaded a processor knows nothing: loading a root forgets whatever came from the one before, as no
        // mapping below the kernel's half is global and no translations are kept apart by PCID; and it reads tables ahead
        // only from the root that is loaded.
        self.space.invalidate(pages);
    }

    fn is_shared(&self) -> bool {
        self.space.is_shared()
    }
}

/// The page tables of one task.
#[derive(Debug)]
pub struct KernelPmap {
    tables: PageTables<HardwareTables>,
    space: Arc<Space>,
}

impl KernelPmap {
    /// Makes an address space that shares the kernel's half of `home`.
    ///
    /// # Errors
    /// [`OutOfFrames`] when there is no frame for the root.
    pub fn beside(home: Frame, frames: &'static KernelFrames) -> Result<Self, OutOfFrames> {
        let root = address_space::root_beside(home, frames).ok_or(OutOfFrames)?;
        let space = Arc::new(Space::new(root));
        let tables = HardwareTables { space: Arc::clone(&space), frames };
        Ok(Self { tables: PageTables::new(root.0, tables), space })
    }

    /// Returns what to load to use the mappings. It can outlive the page tables, and maps nothing then.
    pub const fn space(&self) -> &Arc<Space> {
        &self.space
    }
}

impl Drop for KernelPmap {
    fn drop(&mut self) {
        // A loaded root must not become a frame of something else.
        self.space.end();
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

    fn enter_absent(&mut self, page: u64, frame: u64, prot: Prot) -> bool {
        self.tables.enter_absent(page, frame, prot)
    }

    fn translate(&self, page: u64) -> Option<(u64, Prot)> {
        self.tables.translate(page)
    }
}
