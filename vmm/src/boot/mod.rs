//! From an image to a guest that can be started: checks, placement, boot info, page tables.

mod image;
mod layout;
mod tables;

pub use image::{Image, ImageError};
pub use layout::{BootLayout, Placement, place};

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;
use std::io::Cursor;
use wirevm_abi::boot::{BootInfo, MAGIC, PageRun};
use wirevm_abi::{PAGE_SIZE, RAM_BASE, VERSION};
use zerocopy::IntoBytes;

use crate::memory::{GuestRam, write_before_boot};

/// Interrupt vector of the rings.
pub const RING_VECTOR: u8 = 0x30;
/// Interrupt vector of the console.
pub const SERIAL_VECTOR: u8 = 0x31;
/// Interrupt vector of the completion ring.
pub const COMPLETION_VECTOR: u8 = 0x32;

/// Loads an image and everything else that a guest finds in RAM.
///
/// # Errors
/// [`ImageError`] when the image does not load into this RAM. RAM may hold part of it then; the guest must not run.
pub fn load(
    ram: &GuestRam,
    image: &Image<'_>,
    layout: &BootLayout,
    fresh: bool,
    log_level: u64,
) -> Result<(), ImageError> {
    if !fresh {
        clear_reserved(ram, layout)?;
    }
    // The loader places every segment where its physical address says; `Image` has checked that this is RAM.
    Elf::load(ram.loader(), None, &mut Cursor::new(image.bytes()), None).map_err(ImageError::Load)?;
    tables::write_tables(ram, layout.tables_page())?;
    let info = BootInfo {
        magic: MAGIC,
        version: VERSION,
        ram_pages: ram.pages(),
        vcpus: layout.vcpus(),
        reserved_pages: layout.reserved_pages(),
        boot_tables: PageRun { first: layout.tables_page(), pages: layout.reserved_pages() - layout.tables_page() },
        call_page: layout.call_page(),
        report_page: layout.report_page(),
        command_ring: layout.command_ring(),
        reply_ring: layout.reply_ring(),
        completion_ring: layout.completion_ring(),
        completion_vector: u64::from(COMPLETION_VECTOR),
        ring_vector: u64::from(RING_VECTOR),
        serial_vector: u64::from(SERIAL_VECTOR),
        log_level,
        zero_run_count: u64::from(fresh),
        zero_runs: zero_runs(ram.pages(), layout.reserved_pages(), fresh),
    };
    write_before_boot(ram, layout.info_page(), info.as_bytes()).map_err(ImageError::Place)
}

/// Everything behind the reserved pages of a fresh file is zero, in RAM and on stable storage; of an older file nothing
/// is known.
fn zero_runs(ram_pages: u64, reserved: u64, fresh: bool) -> [PageRun; wirevm_abi::boot::MAX_ZERO_RUNS] {
    let mut runs = [PageRun::default(); wirevm_abi::boot::MAX_ZERO_RUNS];
    if let ([first, ..], true) = (&mut runs, fresh) {
        *first = PageRun { first: reserved, pages: ram_pages - reserved };
    }
    runs
}

/// The image's zero-initialised part, the rings and the tables count on zero pages; an older file holds anything.
fn clear_reserved(ram: &GuestRam, layout: &BootLayout) -> Result<(), ImageError> {
    let zero = [0; 4096];
    for page in 0..layout.reserved_pages() {
        write_before_boot(ram, RAM_BASE + page * PAGE_SIZE, &zero).map_err(ImageError::Place)?;
    }
    Ok(())
}
