//! Where things go in RAM: the image where it says, everything else behind it, in one run from page 0.

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
    end: u64,
}

/// A structure's place: guest-physical address.
pub type Placement = u64;

const fn address(page: u64) -> Placement {
    RAM_BASE + page * PAGE_SIZE
}

/// Lays out RAM for an image.
///
/// # Errors
/// [`ImageError::TooLarge`] when nothing would be left for the guest.
pub fn place(image: &Image<'_>, ram_pages: u64, vcpus: u64) -> Result<BootLayout, ImageError> {
    let info = image.pages();
    // Boot info, call pages, report page, two message rings, completion ring.
    let tables = info + 1 + vcpus + 1 + 2 * ring::PAGES + completion::PAGES;
    let end = tables + table_pages(ram_pages);
    if end >= ram_pages {
        return Err(ImageError::TooLarge { need: end + 1, ram_pages });
    }
    Ok(BootLayout { vcpus, ram_pages, info, tables, end })
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

    /// Returns the number of pages, from page 0 on, that booting takes.
    #[must_use]
    pub const fn reserved_pages(&self) -> u64 {
        self.end
    }
}
