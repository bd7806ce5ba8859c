//! A machine on a disk of which one block can't be written.

use std::os::unix::fs::FileExt;

use wirevm_devices::durability::Durability;
use wirevm_devices::ramfile::RamFile;

use crate::disk::Disk;
use crate::folder::RAM_BYTES;
use crate::machine::{MAP_ENTRIES, Machine, RAM_PAGES, range};

/// The page whose block can't be written.
pub const BAD_PAGE: u64 = 500;

/// Sets a machine up on a disk with all of its RAM wired, and takes the bad page's block away; returns its place as well.
pub fn spoiled_machine(disk: &Disk) -> (Machine, u64) {
    let path = disk.mounted().join("guest.ram");
    let ram = RamFile::create(&path, RAM_BYTES, Durability::Shared).expect("a RAM file");
    let machine = Machine::new(ram, MAP_ENTRIES);
    machine.pins.wire(range(0, RAM_PAGES)).expect("wired");
    let pattern: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let second = machine.ram.reopen().expect("a description");
    second.write_all_at(&pattern, machine.ram.data_offset() + BAD_PAGE * 4096).expect("a store");
    second.sync_all().expect("the disk is still good");
    let at = disk.block_of(&pattern);
    disk.spoil(at);
    (machine, at)
}
