//! `wirevm ramfile`: what a RAM file that no machine uses says of itself, and what it holds.

use std::path::Path;

use wirevm_devices::ramfile::{PreviousEnd, RamFileError, RamFileView};

use crate::exit_code::{CommandError, ExitCode};
use crate::report::{PageReport, RamFileReport};

/// Bytes in a page.
const PAGE_BYTES: usize = 4096;
/// Most pages that one report shows.
pub const MAX_PAGES: u64 = 1 << 16;

/// Most pages that a search shows.
const MAX_FOUND: usize = 64;

/// Which pages are to be shown.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// None.
    Nothing,
    /// `count` pages from `first` on.
    Pages {
        /// The first.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The first ones that hold these bytes.
    Holding(&'a [u8]),
}

/// Pages that the file does not have, more than a report shows, or nothing to look for.
#[derive(Debug, thiserror::Error)]
enum PagesError {
    #[error("--find needs at least one byte to look for, and at most a page of them")]
    Text,
    #[error("--count must be 1 to {MAX_PAGES}; it is {count}")]
    Count { count: u64 },
    #[error("'{path}' has {pages} pages of RAM, 0 to {}, and {count} from page {first} on were asked for", pages - 1)]
    Beyond { path: String, pages: u64, first: u64, count: u64 },
}

/// Looks at a RAM file, and at those of its pages that are wanted.
///
/// # Errors
/// [`CommandError`] when the file can't be read as a RAM file, a machine uses it, or it has no such pages.
pub fn look(path: &Path, wanted: Wanted<'_>) -> Result<RamFileReport, CommandError> {
    let mistaken = |error: PagesError| CommandError::new(ExitCode::Config, error);
    match wanted {
        Wanted::Pages { count, .. } if !(1..=MAX_PAGES).contains(&count) => {
            return Err(mistaken(PagesError::Count { count }));
        }
        Wanted::Holding(text) if text.is_empty() || text.len() > PAGE_BYTES => return Err(mistaken(PagesError::Text)),
        _ => {}
    }
    // Whatever is wrong with it: it can't be shown.
    let refused = |error: RamFileError| CommandError::new(ExitCode::RamFile, error);
    let file = RamFileView::open(path).map_err(refused)?;
    let looked_at = match wanted {
        Wanted::Nothing => 0..0,
        Wanted::Pages { first, count } => match first.checked_add(count).filter(|end| *end <= file.pages()) {
            Some(end) => first..end,
            None => {
                let path = path.display().to_string();
                return Err(mistaken(PagesError::Beyond { path, pages: file.pages(), first, count }));
            }
        },
        Wanted::Holding(_) => 0..file.pages(),
    };
    let mut pages = Vec::new();
    for page in looked_at {
        let Some(bytes) = file.page(page).map_err(refused)? else { continue };
        match wanted {
            Wanted::Holding(text) if !bytes.windows(text.len()).any(|window| window == text) => {}
            Wanted::Holding(_) if pages.len() == MAX_FOUND => break,
            _ => pages.push(PageReport::new(page, &bytes)),
        }
    }
    let (errno, first_failed_page) = match file.previous_end() {
        PreviousEnd::Failed { errno, first_page } => (Some(errno), first_page),
        _ => (None, None),
    };
    Ok(RamFileReport {
        path: path.to_owned(),
        state: match file.previous_end() {
            PreviousEnd::Fresh => "fresh",
            PreviousEnd::Clean => "clean",
            PreviousEnd::NotClean => "open",
            PreviousEnd::Failed { .. } => "failed",
        },
        errno,
        first_failed_page,
        generation: file.generation(),
        ram_bytes: file.size_bytes(),
        ram_pages: file.pages(),
        data_offset: file.data_offset(),
        durability: file.durability().to_string(),
        pages,
    })
}
