//! The page tables a guest starts on: all of RAM at the direct map's base, its first gigabyte at the image's.

use wirevm_abi::boot::{DIRECT_BASE, IMAGE_BASE};
use wirevm_abi::{LARGE_PAGE_SIZE, PAGE_SIZE, RAM_BASE};
use zerocopy::IntoBytes;

use super::image::ImageError;
use crate::memory::{GuestRam, write_before_boot};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const ENTRIES: u64 = 512;

/// Pages in a 2 MiB page.
const LARGE_PAGES: u64 = LARGE_PAGE_SIZE / PAGE_SIZE;

type Table = [u64; 512];

/// Pages that the tables of a RAM of that size take: top level; image pointers and directory; direct-map pointers (one
/// table a 512 GiB) and directories (one a GiB).
pub(super) const fn table_pages(ram_pages: u64) -> u64 {
    let directories = ram_pages.div_ceil(LARGE_PAGES * ENTRIES);
    3 + directories.div_ceil(ENTRIES) + directories
}

const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level) & 0x1ff) as usize
}

const fn table_at(page: u64) -> u64 {
    (RAM_BASE + page * PAGE_SIZE) | PRESENT | WRITABLE
}

/// A directory of 2 MiB pages for RAM from `offset` bytes on.
fn directory(offset: u64, ram_bytes: u64) -> Table {
    let mut table = [0; 512];
    for (slot, number) in table.iter_mut().zip(0..) {
        let start = offset + number * LARGE_PAGE_SIZE;
        if start < ram_bytes {
            *slot = (RAM_BASE + start) | PRESENT | WRITABLE | LARGE;
        }
    }
    table
}

/// Writes the tables from page `first` on; the first one is the top level.
///
/// # Errors
/// [`ImageError::Place`] when RAM cannot be written.
pub(super) fn write_tables(ram: &GuestRam, first: u64) -> Result<(), ImageError> {
    let ram_bytes = ram.pages() * PAGE_SIZE;
    let directories = ram.pages().div_ceil(LARGE_PAGES * ENTRIES);
    let pointer_tables = directories.div_ceil(ENTRIES);
    let (image_pointers, image_directory, direct) = (first + 1, first + 2, first + 3);
    let first_directory = direct + pointer_tables;
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
    write(image_directory, &directory(0, ram_bytes))?;

    for table in 0..pointer_tables {
        let mut pointers = [0; 512];
        for (slot, number) in pointers.iter_mut().zip(table * ENTRIES..directories) {
            *slot = table_at(first_directory + number);
        }
        write(direct + table, &pointers)?;
    }
    for number in 0..directories {
        write(first_directory + number, &directory(number << 30, ram_bytes))?;
    }
    Ok(())
}
