//! The page tables a guest starts on: all of RAM at the direct map's base, its first gigabyte at the image's. What of the image is not
//! writable is so at neither.

use std::collections::BTreeMap;

use wirevm_abi::boot::{DIRECT_BASE, IMAGE_BASE};
use wirevm_abi::{LARGE_PAGE_SIZE, PAGE_SIZE, RAM_BASE};
use zerocopy::IntoBytes;

use super::image::{Image, ImageError};
use crate::memory::{GuestRam, write_before_boot};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const ENTRIES: u64 = 512;

/// Pages in a 2 MiB page.
const LARGE_PAGES: u64 = LARGE_PAGE_SIZE / PAGE_SIZE;

type Table = [u64; 512];

/// Pages that the tables of a RAM of that size take: top level; image pointers and directory; direct-map pointers (one
/// table a 512 GiB) and directories (one a GiB); a table for every 2 MiB with something of the image that is not writable.
pub(super) fn table_pages(ram_pages: u64, image: &Image<'_>) -> u64 {
    let directories = ram_pages.div_ceil(LARGE_PAGES * ENTRIES);
    3 + directories.div_ceil(ENTRIES) + directories + image.blocks_with_read_only(LARGE_PAGES).count() as u64
}

const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level) & 0x1ff) as usize
}

const fn table_at(page: u64) -> u64 {
    (RAM_BASE + page * PAGE_SIZE) | PRESENT | WRITABLE
}

/// A directory for RAM from 2 MiB block `first` on: 2 MiB pages, but where `small` has a block's table.
fn directory(first: u64, ram_bytes: u64, small: &BTreeMap<u64, u64>) -> Table {
    let mut table = [0; 512];
    for (slot, block) in table.iter_mut().zip(first..) {
        let start = block * LARGE_PAGE_SIZE;
        if let Some(table) = small.get(&block) {
            *slot = table_at(*table);
        } else if start < ram_bytes {
            *slot = (RAM_BASE + start) | PRESENT | WRITABLE | LARGE;
        }
    }
    table
}

/// A table of the pages of a 2 MiB block.
fn small_pages(block: u64, image: &Image<'_>) -> Table {
    let pages = block * LARGE_PAGES..(block + 1) * LARGE_PAGES;
    let mut table = [0; 512];
    for ((slot, page), read_only) in table.iter_mut().zip(pages.clone()).zip(image.read_only(pages)) {
        *slot = (RAM_BASE + page * PAGE_SIZE) | PRESENT | if read_only { 0 } else { WRITABLE };
    }
    table
}

/// Writes the tables from page `first` on; the first one is the top level.
///
/// # Errors
/// [`ImageError::Place`] when RAM cannot be written.
pub(super) fn write_tables(ram: &GuestRam, first: u64, image: &Image<'_>) -> Result<(), ImageError> {
    let ram_bytes = ram.pages() * PAGE_SIZE;
    let directories = ram.pages().div_ceil(LARGE_PAGES * ENTRIES);
    let pointer_tables = directories.div_ceil(ENTRIES);
    let (image_pointers, image_directory, direct) = (first + 1, first + 2, first + 3);
    let first_directory = direct + pointer_tables;
    let small: BTreeMap<u64, u64> =
        image.blocks_with_read_only(LARGE_PAGES).zip(first_directory + directories..).collect();
    let write = |page: u64, table: &Table| {
        write_before_boot(ram, RAM_BASE + page * PAGE_SIZE, table.as_bytes()).map_err(ImageError::Place)
    };

    let mut top = [0; 512];
    top[index(IMAGE_BASE, 3)] = table_at(image_pointers);
    for (slot, table) in top.iter_mut().skip(index(DIRECT_BASE, 3)).zip(direct..first_directory) {
        *slot = table_at(table);
    }
    write(first, &top)?;

    let mut pointers = [0; 512];
    pointers[index(IMAGE_BASE, 2)] = table_at(image_directory);
    write(image_pointers, &pointers)?;
    write(image_directory, &directory(0, ram_bytes, &small))?;

    for table in 0..pointer_tables {
        let mut pointers = [0; 512];
        for (slot, number) in pointers.iter_mut().zip(table * ENTRIES..directories) {
            *slot = table_at(first_directory + number);
        }
        write(direct + table, &pointers)?;
    }
    for number in 0..directories {
        write(first_directory + number, &directory(number * ENTRIES, ram_bytes, &small))?;
    }
    for (block, table) in &small {
        write(*table, &small_pages(*block, image))?;
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use wirevm_abi::boot::{DIRECT_BASE, IMAGE_BASE};
    use wirevm_abi::{PAGE_SIZE, RAM_BASE, RamRange};
    use wirevm_devices::guest_memory::GuestMemory;
    use wirevm_devices::ramfile::RamFile;

    use super::{LARGE, PRESENT, WRITABLE, index, table_pages, write_tables};
    use crate::boot::Image;
    use crate::boot::image::test::image;
    use crate::memory::GuestRam;

    const RAM_PAGES: u64 = 2048;
    const FIRST: u64 = 1000;

    /// Returns what the tables say of a virtual address: guest-physical address of the page, whether it is large, and writable.
    fn translate(ram: &GuestRam, address: u64) -> Option<(u64, bool, bool)> {
        let mut page = FIRST;
        let mut writable = true;
        for level in (0..4).rev() {
            let mut table = [0; 4096];
            ram.read(RamRange::new(page, 1, RAM_PAGES).expect("inside RAM"), &mut table).expect("there");
            let at = 8 * index(address, level);
            let entry = u64::from_le_bytes(table[at..at + 8].try_into().expect("a word"));
            if entry & PRESENT == 0 {
                return None;
            }
            writable &= entry & WRITABLE != 0;
            let is_large = entry & LARGE != 0;
            if is_large || level == 0 {
                return Some((entry & !0xfff, is_large, writable));
            }
            page = ((entry & !0xfff) - RAM_BASE) / PAGE_SIZE;
        }
        None
    }

    #[test]
    fn ram_is_there_twice_and_writable_but_for_what_the_image_has_read_only() {
        let ram = GuestRam::map(&RamFile::memfd(RAM_PAGES * PAGE_SIZE).expect("a memfd")).expect("mapped");
        // From the last page of one 2 MiB block to the first two of the next.
        let bytes = image(RAM_BASE + 0x1f_f000, 0x2001);
        let image = Image::new(&bytes, RAM_PAGES).expect("an image");
        write_tables(&ram, FIRST, &image).expect("written");
        for base in [DIRECT_BASE, IMAGE_BASE] {
            for page in [0, 2, 510, 511, 512, 513, 514, 1023] {
                let expected = Some((RAM_BASE + page * PAGE_SIZE, false, !(511..514).contains(&page)));
                assert_eq!(translate(&ram, base + page * PAGE_SIZE), expected, "page {page} at {base:#x}");
            }
            for block in [2, 3] {
                let expected = Some((RAM_BASE + block * (2 << 20), true, true));
                assert_eq!(translate(&ram, base + block * (2 << 20)), expected);
            }
            assert_eq!(translate(&ram, base + RAM_PAGES * PAGE_SIZE), None);
        }
        let mut behind = [0; 4096];
        let end = FIRST + table_pages(RAM_PAGES, &image);
        ram.read(RamRange::new(end - 1, 1, RAM_PAGES).expect("inside RAM"), &mut behind).expect("there");
        assert!(behind.iter().any(|byte| *byte != 0), "the last table");
        ram.read(RamRange::new(end, 1, RAM_PAGES).expect("inside RAM"), &mut behind).expect("there");
        assert_eq!(behind, [0; 4096], "behind it");
    }
}
