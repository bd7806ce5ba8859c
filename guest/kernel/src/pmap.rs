//! A task's page tables: the hardware end of [`PageTables`].

use wirevm_map::{FrameRun, OutOfFrames, PageRange, Pmap, Prot};

use crate::arch;
use crate::frames::{Frame, KernelFrames};
use crate::mem::{read_table, write_table};
use crate::page_table::{PageTables, TableMemory};

/// Pages up to which each translation is forgotten by name; beyond, all are.
const FLUSH_BY_PAGE: u64 = 16;

/// Tables in RAM, reached through the direct map; translations of this processor, the only one.
#[derive(Debug)]
pub struct HardwareTables(&'static KernelFrames);

impl TableMemory for HardwareTables {
    fn allocate(&mut self) -> Option<u64> {
        self.0.table().map(|frame| frame.0)
    }

    fn free(&mut self, frame: u64) {
        wirevm_map::Frames::free(&self.0, FrameRun::new(frame, 1));
    }

    fn read(&self, frame: u64, index: u64) -> u64 {
        read_table(frame, index)
    }

    fn write(&mut self, frame: u64, index: u64, entry: u64) {
        write_table(frame, index, entry);
    }

    fn invalidate(&mut self, pages: PageRange) {
        if pages.len() <= FLUSH_BY_PAGE {
            (pages.start..pages.end).for_each(arch::flush_page);
        } else {
            arch::flush_translations();
        }
    }
}

/// The page tables of one task.
#[derive(Debug)]
pub struct KernelPmap(PageTables<HardwareTables>);

impl KernelPmap {
    /// Takes over the address space with that root.
    pub const fn new(root: Frame, frames: &'static KernelFrames) -> Self {
        Self(PageTables::new(root.0, HardwareTables(frames)))
    }
}

impl Drop for KernelPmap {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Pmap for KernelPmap {
    fn enter(&mut self, page: u64, run: FrameRun, prot: Prot) -> Result<(), OutOfFrames> {
        self.0.enter(page, run, prot)
    }

    fn remove(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) -> Result<(), OutOfFrames> {
        self.0.remove(pages, dirty)
    }

    fn protect(&mut self, pages: PageRange, prot: Prot) -> Result<(), OutOfFrames> {
        self.0.protect(pages, prot)
    }

    fn clean(&mut self, pages: PageRange, dirty: &mut dyn FnMut(PageRange)) {
        self.0.clean(pages, dirty);
    }
}
