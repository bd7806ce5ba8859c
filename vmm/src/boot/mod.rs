//! From an image to a guest that can be started: checks, placement, boot info, page tables.

mod archive;
mod image;
mod layout;
mod tables;

pub use archive::{ArchiveBuilder, ArchiveError};
pub use image::{Image, ImageError};
pub use layout::{BootLayout, Placement, place};

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::Elf;
use std::io::Cursor;
use wirevm_abi::boot::{BootInfo, MAGIC, PageRun};
use wirevm_abi::{PAGE_SIZE, RAM_BASE, VERSION};
use zerocopy::IntoBytes;

use crate::memory::{GuestRam, clear_before_boot, write_before_boot};

/// Interrupt vector of the rings.
pub const RING_VECTOR: u8 = 0x30;
/// Interrupt vector of the console.
pub const SERIAL_VECTOR: u8 = 0x31;
/// Interrupt vector of the completion ring.
pub const COMPLETION_VECTOR: u8 = 0x32;

/// What a guest boots with besides its image.
#[derive(Clone, Copy, Debug)]
pub struct BootWith<'a> {
    /// Most detailed level that it logs.
    pub log_level: u64,
    /// Rate of every vCPU's time-stamp counter in kHz; 0 where it is not known.
    pub tsc_khz: u64,
    /// The archive of programs, of the size that the layout was made for; empty for none.
    pub archive: &'a [u8],
}

/// Loads an image and everything else that a guest finds in RAM. `fresh` says that RAM is all zero, on stable storage too.
///
/// # Errors
/// [`ImageError`] when the image does not load into this RAM. RAM may hold part of it then; the guest must not run.
pub fn load(
    ram: &GuestRam,
    image: &Image<'_>,
    layout: &BootLayout,
    fresh: bool,
    with: BootWith<'_>,
) -> Result<(), ImageError> {
    if !fresh {
        // The image's zero-initialised part, the rings and the tables count on zero pages; an older file holds anything.
        clear_before_boot(ram, layout.reserved_pages())
            .map_err(|error| ImageError::Place(vm_memory::GuestMemoryError::IOError(error)))?;
    }
    // The loader places every segment where its physical address says; `Image` has checked that this is RAM.
    Elf::load(ram.loader(), None, &mut Cursor::new(image.bytes()), None).map_err(ImageError::Load)?;
    tables::write_tables(ram, layout.boot_tables().first, image)?;
    let place = RAM_BASE + layout.archive().first * PAGE_SIZE;
    write_before_boot(ram, place, with.archive).map_err(ImageError::Place)?;
    let info = BootInfo {
        magic: MAGIC,
        version: VERSION,
        ram_pages: ram.pages(),
        vcpus: layout.vcpus(),
        reserved_pages: layout.reserved_pages(),
        boot_tables: layout.boot_tables(),
        call_page: layout.call_page(),
        report_page: layout.report_page(),
        command_ring: layout.command_ring(),
        reply_ring: layout.reply_ring(),
        completion_ring: layout.completion_ring(),
        completion_vector: u64::from(COMPLETION_VECTOR),
        ring_vector: u64::from(RING_VECTOR),
        serial_vector: u64::from(SERIAL_VECTOR),
        log_level: with.log_level,
        tsc_khz: with.tsc_khz,
        archive: layout.archive(),
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

#[cfg(test)]
mod test {
    use wirevm_abi::boot::{BootInfo, PageRun};
    use wirevm_abi::{RAM_BASE, RamRange};
    use wirevm_devices::guest_memory::GuestMemory;
    use wirevm_devices::ramfile::RamFile;
    use zerocopy::FromBytes;

    use super::{BootWith, Image, image, load, place};
    use crate::memory::GuestRam;

    const RAM_PAGES: u64 = 512;

    #[test]
    fn guest_finds_archive_and_clock_in_used_ram_as_in_fresh_one() {
        let archive: Vec<u8> = (0..5000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let bytes = image::test::image(RAM_BASE, 16);
        let image = Image::new(&bytes, RAM_PAGES).expect("an image");
        let layout = place(&image, RAM_PAGES, 5, archive.len() as u64).expect("fits");
        for fresh in [true, false] {
            let ram = GuestRam::map(&RamFile::memfd(RAM_PAGES * 4096).expect("a memfd")).expect("mapped");
            let read = |run: PageRun| {
                let mut content = vec![0xee; usize::try_from(run.pages).expect("small") * 4096];
                let range = RamRange::new(run.first, run.pages, RAM_PAGES).expect("inside RAM");
                ram.read(range, &mut content).expect("there");
                content
            };
            if !fresh {
                let all = RamRange::new(0, RAM_PAGES, RAM_PAGES).expect("inside RAM");
                ram.write(all, &vec![0x5a; 512 * 4096]).expect("there");
            }
            let with = BootWith { log_level: 3, tsc_khz: 2_500_000, archive: &archive };
            load(&ram, &image, &layout, fresh, with).expect("loaded");
            let page = read(PageRun { first: (layout.info_page() - RAM_BASE) / 4096, pages: 1 });
            let (info, _) = BootInfo::read_from_prefix(&page).expect("a page");
            assert_eq!((info.vcpus, info.tsc_khz, info.log_level), (5, 2_500_000, 3));
            assert_eq!((info.boot_tables, info.archive), (layout.boot_tables(), layout.archive()));
            assert_eq!((info.archive.pages, info.archive.first + 2), (2, info.reserved_pages));
            let content = read(info.archive);
            assert_eq!(content[..archive.len()], archive);
            assert!(content[archive.len()..].iter().all(|byte| *byte == 0), "the rest of the last page is zero");
        }
    }
}
