//! Mappings of the RAM image for the host's own use.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vm_memory::FileOffset;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder, MmapRegionError};
use wirevm_abi::PAGE_SIZE;

use crate::folio::FolioPolicy;
use crate::page_run::PageRun;
use crate::ramfile::{RamFile, RamFileError};
use crate::sys;
use crate::witness::{BlockDevice, PAGE_BYTES};

/// A range of this process's addresses, to hand to system calls. It gives no access to what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    address: usize,
    bytes: usize,
}

/// Error of making or using a [`View`].
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The RAM file could not be opened a second time.
    #[error("cannot open the RAM file again for a view of it")]
    Reopen(#[source] RamFileError),
    /// A view's file could not be opened once more.
    #[error("cannot open the file of a view again")]
    ReopenView(#[source] io::Error),
    /// The image does not fit this process's address space.
    #[error("a view of {bytes} bytes does not fit the address space")]
    TooLarge {
        /// Size of the image.
        bytes: u64,
    },
    /// The mapping failed.
    #[error("cannot map {bytes} bytes of guest RAM")]
    Map {
        /// Size of the image.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: MmapRegionError,
    },
    /// Advice for the new mapping was refused.
    #[error("the kernel refused advice {advice} for a view of {bytes} bytes")]
    Advice {
        /// Name of the advice.
        advice: &'static str,
        /// Size of the image.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A run of pages ends past the image.
    #[error("pages {run} end past guest RAM, which has {ram_pages} pages")]
    Outside {
        /// The run asked for.
        run: PageRun,
        /// Pages in guest RAM.
        ram_pages: u64,
    },
}

/// One shared mapping of the whole RAM image through an open file description of its own.
///
/// The description is open for reading and writing, because `msync` through a read-only one writes nothing
/// and reports success; the mapping itself is read-only, because the host's services never store to guest RAM.
#[derive(Debug)]
pub struct View {
    region: MmapRegion<()>,
    file: Arc<File>,
    image: Image,
}

/// Where the RAM image lies in its file.
#[derive(Clone, Copy, Debug)]
struct Image {
    data_offset: u64,
    pages: u64,
    /// None for a memfd, whose memory is not a file's.
    folio: Option<FolioPolicy>,
    /// How many pages the kernel reads ahead of the file, where it matters and is known.
    read_ahead_pages: Option<u64>,
}

impl AddressRange {
    /// Returns the addresses of a mapping.
    #[must_use]
    pub fn of(region: &MmapRegion<()>) -> Self {
        Self { address: region.as_ptr().expose_provenance(), bytes: region.size() }
    }

    /// Returns the first address.
    #[must_use]
    pub const fn address(self) -> usize {
        self.address
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bytes
    }

    /// Returns the address one past the last byte.
    #[must_use]
    pub const fn end(self) -> usize {
        self.address + self.bytes
    }

    /// Returns the addresses of a run of pages, counted from the first address; none outside the range.
    pub(crate) fn part(self, run: PageRun) -> Option<Self> {
        let [offset, bytes] =
            [run.first(), run.pages()].map(|pages| usize::try_from(pages.checked_mul(PAGE_SIZE)?).ok());
        let (offset, bytes) = (offset?, bytes?);
        (offset.checked_add(bytes)? <= self.bytes).then_some(Self { address: self.address + offset, bytes })
    }

    /// Returns the first of the range's pages, at most that many.
    #[must_use]
    pub fn up_to_pages(self, pages: usize) -> Self {
        Self { bytes: self.bytes.min(pages.saturating_mul(PAGE_BYTES)), ..self }
    }

    /// Returns the number of whole pages.
    #[must_use]
    pub const fn pages(self) -> usize {
        self.bytes / PAGE_BYTES
    }
}

impl View {
    /// Maps the image of a RAM file anew.
    ///
    /// A view of a file is told once, before anything touches it, that access is random, unless the RAM's [`FolioPolicy`] is
    /// [`FolioPolicy::Bulk`]: faults then bring in single pages, and a small sync writes a small amount (rule D7). Views stay
    /// out of core dumps.
    ///
    /// # Errors
    /// [`ViewError`] when the file can't be opened again, mapped, or advised.
    pub fn new(ram: &RamFile) -> Result<Self, ViewError> {
        let file = ram.reopen().map_err(ViewError::Reopen)?;
        let folio = ram.is_file().then_some(ram.folio());
        let read_ahead_pages = match folio {
            // Where it is not to be had, folios are smaller than they might be.
            Some(FolioPolicy::Balanced) => {
                BlockDevice::under(&file).ok().flatten().and_then(|device| device.read_ahead_pages())
            }
            _ => None,
        };
        let image = Image { data_offset: ram.data_offset(), pages: ram.pages(), folio, read_ahead_pages };
        Self::map(file, image, libc::PROT_READ)
    }

    /// Maps the same image anew through another description, for dirtying pages without storing to them. Short-lived: it
    /// is the one kind of view that is writable.
    pub(crate) fn fresh_writable(&self) -> Result<Self, ViewError> {
        let file = self.reopen().map_err(ViewError::ReopenView)?;
        Self::map(file, self.image, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn map(file: File, image: Image, prot: i32) -> Result<Self, ViewError> {
        let bytes = image.pages.saturating_mul(PAGE_SIZE);
        let size = usize::try_from(bytes).map_err(|_| ViewError::TooLarge { bytes })?;
        let file = Arc::new(file);
        let region = MmapRegionBuilder::new(size)
            .with_mmap_prot(prot)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::from_arc(Arc::clone(&file), image.data_offset))
            .build()
            .map_err(|source| ViewError::Map { bytes, source })?;
        let view = Self { region, file, image };
        let refused = |advice| move |source| ViewError::Advice { advice, bytes, source };
        if image.folio.is_some_and(FolioPolicy::is_read_by_pages) {
            sys::advise_random(view.addresses()).map_err(refused("random"))?;
        }
        sys::advise_no_dump(view.addresses()).map_err(refused("no dump"))?;
        Ok(view)
    }

    /// Returns the addresses of the whole view.
    #[must_use]
    pub fn addresses(&self) -> AddressRange {
        AddressRange::of(&self.region)
    }

    /// Returns the addresses of a run of RAM pages.
    ///
    /// # Errors
    /// [`ViewError::Outside`] when the run ends past the image.
    pub fn addresses_of(&self, run: PageRun) -> Result<AddressRange, ViewError> {
        self.addresses().part(run).ok_or(ViewError::Outside { run, ram_pages: self.image.pages })
    }

    /// Returns the byte offset in the file and the length in bytes of a run of RAM pages.
    ///
    /// # Errors
    /// [`ViewError::Outside`] when the run ends past the image.
    pub fn file_range(&self, run: PageRun) -> Result<(u64, u64), ViewError> {
        if run.end() > self.image.pages {
            return Err(ViewError::Outside { run, ram_pages: self.image.pages });
        }
        Ok((self.image.data_offset + run.first() * PAGE_SIZE, run.pages() * PAGE_SIZE))
    }

    /// Opens a description of the file that knows of no advice.
    pub(crate) fn reopen(&self) -> io::Result<File> {
        sys::reopen(&self.file)
    }

    /// Returns the policy for the folios of a file; none for a memfd.
    #[must_use]
    pub const fn folio(&self) -> Option<FolioPolicy> {
        self.image.folio
    }

    /// Returns how many pages the kernel reads ahead of the file; none where it is not known, or does not matter.
    pub(crate) const fn read_ahead_pages(&self) -> Option<u64> {
        self.image.read_ahead_pages
    }

    /// Returns the view's own open file description.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the number of RAM pages in the view.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.image.pages
    }
}
