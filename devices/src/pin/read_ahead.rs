//! Starting to read what a run will need, in large requests and into folios of the size that the policy wants.
//!
//! A view's own faults read single pages, one after another, because the kernel was told not to read around them (D7).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use wirevm_abi::PAGE_SIZE;

use crate::folio::FolioPolicy;
use crate::page_run::PageRun;
use crate::sys;
use crate::view::View;
use crate::witness::PAGE_BYTES;

/// Pages that one request for single pages reads ahead: 512 KiB, which the kernel's own limits leave whole.
const PIECE_PAGES: u64 = (512 << 10) / PAGE_SIZE;
/// Runs of fewer pages are not read ahead: a fault for each page costs less than asking.
const LEAST_PAGES: u64 = 16;
/// Pages of the read that a [`Ramp`] begins with.
const FIRST_READ_PAGES: u64 = 4;
/// Bytes of that read.
const FIRST_READ: usize = 4 * PAGE_BYTES;

const _: () = assert!(FIRST_READ_PAGES * PAGE_SIZE == 16 << 10 && FIRST_READ == 16 << 10);

/// Tells whether something of a run is to be read by [`read_ahead`], and not by the kernel when it is touched.
pub(super) fn needs_reading(view: &View, run: PageRun) -> bool {
    let is_ours = matches!(view.folio(), Some(FolioPolicy::SmallSync | FolioPolicy::Balanced));
    is_ours && run.pages() >= LEAST_PAGES && !is_cached(view, run)
}

/// Starts reading what of a run is not in memory. Advice only: where it is refused, populating reads by itself and tells what is
/// wrong.
pub(super) fn read_ahead(view: &View, run: PageRun) {
    if !needs_reading(view, run) {
        return;
    }
    if view.folio() == Some(FolioPolicy::Balanced)
        && let Some(ramp) = view.read_ahead_pages().and_then(Ramp::new)
        && let Err(error) = ramp.read(view, run)
    {
        log::debug!("pages {run} are read by single pages: {error}");
    }
    // Skips what is there already.
    read_single_pages(view, run);
}

fn is_cached(view: &View, run: PageRun) -> bool {
    let cached = |(at, bytes)| sys::cachestat(view.file(), at, bytes).is_ok_and(|stat| stat.cache == run.pages());
    view.file_range(run).is_ok_and(cached)
}

fn read_single_pages(view: &View, run: PageRun) {
    let mut first = run.first();
    while let Some(piece) = PageRun::new(first, run.end().min(first + PIECE_PAGES)) {
        let started =
            view.file_range(piece).is_ok_and(|(at, bytes)| sys::start_reading(view.file(), at, bytes).is_ok());
        if !started {
            return;
        }
        first = piece.end();
    }
}

/// A pattern of reads that makes the kernel's own read-ahead use folios of 64 KiB for most of what it brings in, and no larger ones.
///
/// The kernel reads a sequential reader ahead in windows, each several times as large as the one before. The first is in single pages,
/// and each time a reader reaches the mark at the start of a window, the next one is read in folios four times as large: 4, 16,
/// 64, 256 KiB. So a read of one byte at each mark gets three windows, and the reader then begins anew behind them. On a host that
/// reads 8 MiB ahead that is 76 % in folios of 64 KiB, 19 % of 16 KiB and 5 % in single pages; where a kernel does otherwise,
/// something is not read here, and is read by single pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ramp {
    /// Pages in each window.
    windows: [u64; 3],
}

impl Ramp {
    /// Works the windows out for a host that reads at most `most` pages ahead; none where that is too little for the pattern.
    fn new(most: u64) -> Option<Self> {
        let first = match FIRST_READ_PAGES {
            read if read <= most / 32 => read * 4,
            read if read <= most / 4 => read * 2,
            _ => return None,
        };
        let next = |window: u64| match window {
            window if window < most / 16 => window * 4,
            window if window <= most / 2 => window * 2,
            _ => most,
        };
        Some(Self { windows: [first, next(first), next(next(first))] })
    }

    fn pages(self) -> u64 {
        self.windows.iter().sum()
    }

    /// Reads a run, but for a rest in which the last window would hardly begin.
    fn read(self, view: &View, run: PageRun) -> io::Result<()> {
        let [first_window, second_window, _] = self.windows;
        if run.pages() <= first_window + second_window {
            return Ok(());
        }
        let (start, bytes) = view.file_range(run).map_err(io::Error::other)?;
        // The state of a reader is its description's, and the view's is told that access is random.
        let file = view.reopen()?;
        let page = |page: u64| start + page * PAGE_SIZE;
        let mut first = 0;
        while first + first_window + second_window < bytes / PAGE_SIZE {
            // To be taken for the sequential reader of what comes next.
            read(&file, &mut [0], page(first).saturating_sub(1))?;
            read(&file, &mut [0; FIRST_READ], page(first))?;
            read(&file, &mut [0], page(first + FIRST_READ_PAGES))?;
            read(&file, &mut [0], page(first + first_window))?;
            first += self.pages();
        }
        Ok(())
    }
}

fn read(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(bytes, at)
}

#[cfg(test)]
mod test {
    use super::Ramp;

    #[test]
    fn ramp_fits_what_the_host_reads_ahead() {
        // 8 MiB and 1 MiB, and the kernel's own default of 128 KiB.
        assert_eq!(Ramp::new(2048).map(|ramp| ramp.windows), Some([16, 64, 256]));
        assert_eq!(Ramp::new(256).map(|ramp| ramp.windows), Some([16, 32, 64]));
        assert_eq!(Ramp::new(32).map(|ramp| ramp.windows), Some([8, 16, 32]));
        assert_eq!(Ramp::new(16).map(|ramp| ramp.windows), Some([8, 16, 16]));
        // No read-ahead, or too little to have a third window in.
        assert_eq!([0, 1, 15].map(Ramp::new), [None; 3]);
    }
}
