//! Questions about a map, which take no time.

use alloc::string::String;
use alloc::vec::Vec;

use wirevm_abi::ring::MAX_MESSAGE;
use wirevm_map::{FrameRun, PAGE_SIZE, PageRange, PageState, Ports, Vm, VmMap};

use crate::command::page_state;
use crate::reply::{FrameRow, LayoutRow, Reply};

/// Rows of three words that an answer can hold, behind its id and two words of its own.
const MAX_ROWS: usize = ((MAX_MESSAGE - 3) / 3) as usize;

/// Bytes of words that an answer can hold, behind its id and two words of its own.
pub(crate) const MAX_TEXT_BYTES: usize = MAX_ROWS * 24;

/// Returns the pages that the bytes from `start` to before `end` touch.
const fn touched(start: u64, end: u64) -> PageRange {
    PageRange::new(start / PAGE_SIZE, end.div_ceil(PAGE_SIZE))
}

fn listed(rows: Vec<LayoutRow>) -> Reply {
    if rows.len() <= MAX_ROWS { Reply::Layout(rows) } else { Reply::Malformed }
}

/// Turns counts of pages into rows.
pub(crate) fn counts(rows: Vec<(PageRange, u32)>) -> Reply {
    let row = |(pages, count)| LayoutRow { pages, wired_count: u64::from(count), user_wired: false };
    listed(rows.into_iter().map(row).collect())
}

/// Answers words, as far as an answer holds them.
pub(crate) fn text(words: String) -> Reply {
    if words.len() <= MAX_TEXT_BYTES { Reply::Text(words) } else { Reply::Malformed }
}

pub(crate) fn layout<P: Ports>(map: &VmMap<P>, start: u64, end: u64) -> Reply {
    let PageRange { start, end } = touched(start, end);
    let rows = map.layout(start, end).into_iter().map(|row| LayoutRow {
        pages: row.pages,
        wired_count: u64::from(row.wired_count),
        user_wired: row.user_wired,
    });
    listed(rows.collect())
}

/// Lists entries whole, so that whoever asks in pieces can tell that one entry was in two of them.
pub(crate) fn entries<P: Ports>(map: &VmMap<P>, start: u64, end: u64) -> Reply {
    let range = touched(start, end);
    let meets = |pages: PageRange| !pages.intersection(range).is_empty();
    let rows = map.entries().into_iter().filter(|entry| meets(entry.pages)).map(|entry| LayoutRow {
        pages: entry.pages,
        wired_count: u64::from(entry.wired_count),
        user_wired: entry.user_wired,
    });
    listed(rows.collect())
}

pub(crate) fn page_wires<P: Ports>(map: &VmMap<P>, start: u64, end: u64) -> Reply {
    counts(map.page_wires(touched(start, end)))
}

pub(crate) fn residents<P: Ports>(map: &VmMap<P>, start: u64, end: u64) -> Reply {
    Reply::Number(map.residents(touched(start, end)))
}

pub(crate) fn page_states<P: Ports>(map: &VmMap<P>, start: u64, end: u64) -> Reply {
    let PageRange { start, end } = touched(start, end);
    let bit = |is_set: bool, bit| if is_set { bit } else { 0 };
    let row = |(pages, state): (PageRange, PageState)| LayoutRow {
        pages,
        wired_count: bit(state.is_dirty, page_state::DIRTY)
            | bit(state.is_precious, page_state::PRECIOUS)
            | bit(state.is_cleaning, page_state::CLEANING)
            | bit(state.is_error, page_state::ERROR),
        user_wired: false,
    };
    listed(map.page_states(start, end).into_iter().map(row).collect())
}

pub(crate) fn frames<P: Ports>(map: &VmMap<P>, start: u64, end: u64) -> Reply {
    let PageRange { start, end } = touched(start, end);
    let rows: Vec<FrameRow> =
        map.frames(start, end).into_iter().map(|row| FrameRow { pages: row.pages, frames: row.frames }).collect();
    if rows.len() <= MAX_ROWS { Reply::Frames(rows) } else { Reply::Malformed }
}

pub(crate) fn wired_frames<P: Ports>(vm: &Vm<P>, range: PageRange) -> Reply {
    let part = |run: FrameRun| PageRange::new(run.first, run.end()).intersection(range);
    let rows: Vec<FrameRow> = vm
        .wired_frames()
        .into_iter()
        .map(part)
        .filter(|pages| !pages.is_empty())
        .map(|pages| FrameRow { pages, frames: Some(FrameRun::new(pages.start, pages.len())) })
        .collect();
    if rows.len() <= MAX_ROWS { Reply::Frames(rows) } else { Reply::Malformed }
}
