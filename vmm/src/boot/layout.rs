//! Where things go in RAM: the image where it says, everything else behind it, in one run from page 0.

use wirevm_abi::boot::{PageRun, least_free_pages};
use wirevm_abi::{PAGE_SIZE, RAM_BASE, RamRange, Status, completion, ring};

use super::image::{Image, ImageError};
use super::tables::table_pages;

/// Pages of RAM that booting takes; page numbers count from page 0 of RAM.
#[derive(Clone, Copy, Debug)]
pub struct BootLayout {
    vcpus: u64,
    ram_pages: u64,
    /// First page behind the image: the boot info.
    info: u64,
    tables: u64,
    /// First page behind the tables: the archive, if there is one.
    archive: u64,
    end: u64,
}

/// A structure's place: guest-physical address.
pub type Placement = u64;

const fn address(page: u64) -> Placement {
    RAM_BASE + page * PAGE_SIZE
}

/// Lays out RAM for an image on so many vCPUs, with an archive of `archive_bytes` bytes; 0 for none.
///
/// # Errors
/// [`ImageError::TooLarge`] or [`ImageError::ProgramsTooLarge`] when fewer than [`least_free_pages`] would be left for the guest.
pub fn place(image: &Image<'_>, ram_pages: u64, vcpus: u64, archive_bytes: u64) -> Result<BootLayout, ImageError> {
    let info = image.pages();
    // Boot info, call pages, report page, two message rings, completion ring.
    let tables = info + 1 + vcpus + 1 + 2 * ring::PAGES + completion::PAGES;
    let archive = tables + table_pages(ram_pages, image);
    let need = archive + least_free_pages(ram_pages, vcpus);
    if need > ram_pages {
        return Err(ImageError::TooLarge { need, vcpus, ram_pages });
    }
    let archive_pages = archive_bytes.div_ceil(PAGE_SIZE);
    // No sum of a number of pages and one of bytes in pages is too large.
    if need + archive_pages > ram_pages {
        return Err(ImageError::ProgramsTooLarge { archive_pages, other_pages: need, vcpus, ram_pages });
    }
    Ok(BootLayout { vcpus, ram_pages, info, tables, archive, end: archive + archive_pages })
}

impl BootLayout {
    /// Returns the number of vCPUs.
    #[must_use]
    pub const fn vcpus(&self) -> u64 {
        self.vcpus
    }

    /// Returns the boot info's address.
    #[must_use]
    pub const fn info_page(&self) -> Placement {
        address(self.info)
    }

    /// Returns the address of vCPU 0's call page.
    #[must_use]
    pub const fn call_page(&self) -> Placement {
        address(self.info + 1)
    }

    /// Returns the call page of each vCPU.
    ///
    /// # Errors
    /// Never for a layout that [`place`] made.
    pub fn call_pages(&self) -> Result<Vec<RamRange>, Status> {
        (0..self.vcpus).map(|vcpu| RamRange::new(self.info + 1 + vcpu, 1, self.ram_pages)).collect()
    }

    /// Returns the report page's address.
    #[must_use]
    pub const fn report_page(&self) -> Placement {
        address(self.info + 1 + self.vcpus)
    }

    /// Returns the report page as a range of RAM.
    ///
    /// # Errors
    /// Never for a layout that [`place`] made.
    pub const fn report_range(&self) -> Result<RamRange, Status> {
        RamRange::new(self.info + 1 + self.vcpus, 1, self.ram_pages)
    }

    /// Returns the command ring's address.
    #[must_use]
    pub const fn command_ring(&self) -> Placement {
        address(self.info + 2 + self.vcpus)
    }

    /// Returns the reply ring's address.
    #[must_use]
    pub const fn reply_ring(&self) -> Placement {
        address(self.info + 2 + self.vcpus + ring::PAGES)
    }

    /// Returns the completion ring's address.
    #[must_use]
    pub const fn completion_ring(&self) -> Placement {
        address(self.info + 2 + self.vcpus + 2 * ring::PAGES)
    }

    /// Returns the completion ring as a range of RAM.
    ///
    /// # Errors
    /// Never for a layout that [`place`] made.
    pub const fn completion_range(&self) -> Result<RamRange, Status> {
        RamRange::new(self.info + 2 + self.vcpus + 2 * ring::PAGES, completion::PAGES, self.ram_pages)
    }

    /// Returns the first page of the page tables; the first one is the top level.
    #[must_use]
    pub const fn tables_page(&self) -> u64 {
        self.tables
    }

    /// Returns the pages of the page tables.
    #[must_use]
    pub const fn boot_tables(&self) -> PageRun {
        PageRun { first: self.tables, pages: self.archive - self.tables }
    }

    /// Returns the pages of the archive; page 0 and no pages where there is none.
    #[must_use]
    pub const fn archive(&self) -> PageRun {
        match self.end - self.archive {
            0 => PageRun { first: 0, pages: 0 },
            pages => PageRun { first: self.archive, pages },
        }
    }

    /// Returns the number of pages, from page 0 on, that booting takes.
    #[must_use]
    pub const fn reserved_pages(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod test {
    use wirevm_abi::RAM_BASE;
    use wirevm_abi::boot::{PAGES_PER_FURTHER_VCPU, least_free_pages};

    use super::{BootLayout, place};
    use crate::boot::image::test::image;
    use crate::boot::{Image, ImageError};

    const RAM_PAGES: u64 = 512;

    fn placed(vcpus: u64, archive_bytes: u64) -> Result<BootLayout, ImageError> {
        placed_in(RAM_PAGES, vcpus, archive_bytes)
    }

    fn placed_in(ram_pages: u64, vcpus: u64, archive_bytes: u64) -> Result<BootLayout, ImageError> {
        place(&Image::new(&image(RAM_BASE, 16), ram_pages).expect("an image"), ram_pages, vcpus, archive_bytes)
    }

    #[test]
    fn archive_lies_behind_the_tables_and_ends_what_is_reserved() {
        let without = placed(3, 0).expect("fits");
        let tables = without.boot_tables();
        assert_eq!((without.archive().first, without.archive().pages), (0, 0));
        assert_eq!(tables.first + tables.pages, without.reserved_pages());
        for (bytes, pages) in [(1, 1), (4096, 1), (4097, 2)] {
            let with = placed(3, bytes).expect("fits");
            assert_eq!(with.boot_tables(), tables);
            assert_eq!((with.archive().first, with.archive().pages), (without.reserved_pages(), pages));
            assert_eq!(with.reserved_pages(), without.reserved_pages() + pages);
        }
        let [three, sixteen] = [3, 16].map(|vcpus| placed_in(2048, vcpus, 0).expect("fits").reserved_pages());
        assert_eq!(sixteen, three + 13);
    }

    #[test]
    fn each_vcpu_has_a_call_page_of_its_own() {
        let layout = placed_in(2048, 16, 0).expect("fits");
        let pages = layout.call_pages().expect("inside RAM");
        assert_eq!(pages.len(), 16);
        for (page, vcpu) in pages.iter().zip(0..) {
            assert_eq!(RAM_BASE + page.first() * 4096, layout.call_page() + vcpu * 4096);
        }
        assert_eq!(layout.report_page(), layout.call_page() + 16 * 4096);
    }

    #[test]
    fn archive_must_leave_what_the_guest_starts_with() {
        for vcpus in [1, 2, 5] {
            let spare =
                RAM_PAGES - placed(vcpus, 0).expect("fits").reserved_pages() - least_free_pages(RAM_PAGES, vcpus);
            let most = placed(vcpus, spare * 4096).expect("enough is left");
            assert_eq!(RAM_PAGES - most.reserved_pages(), least_free_pages(RAM_PAGES, vcpus));
            for bytes in [spare * 4096 + 1, (spare + 1) * 4096, u64::MAX] {
                let refused = placed(vcpus, bytes).expect_err("too large");
                let ImageError::ProgramsTooLarge { archive_pages, other_pages, vcpus: told, ram_pages } = refused
                else {
                    panic!("{refused}")
                };
                assert_eq!((archive_pages, other_pages + spare, ram_pages), (bytes.div_ceil(4096), 512, 512));
                assert_eq!(told, vcpus);
            }
        }
        let large = image(RAM_BASE, 500 * 4096);
        let large = Image::new(&large, RAM_PAGES).expect("an image");
        assert!(matches!(place(&large, RAM_PAGES, 1, 1), Err(ImageError::TooLarge { .. })));
    }

    #[test]
    fn further_vcpus_must_have_pages_to_start_in() {
        let refused = placed(16, 0).expect_err("2 MiB are not enough for 16");
        let ImageError::TooLarge { need, vcpus: 16, ram_pages: RAM_PAGES } = refused else { panic!("{refused}") };
        // The calls of 15 more have a page each.
        let one = placed(1, 0).expect("fits").reserved_pages() + least_free_pages(RAM_PAGES, 1);
        assert_eq!(need, one + 15 * (1 + PAGES_PER_FURTHER_VCPU));
        for (ram_pages, vcpus) in [(1024, 8), (2048, 16), ((1 << 31) - 512, 16)] {
            let layout = placed_in(ram_pages, vcpus, 0).expect("fits");
            assert!(ram_pages - layout.reserved_pages() >= least_free_pages(ram_pages, vcpus));
        }
    }
}
