//! Lists that may be longer than one reply of the guest can be.

use wirevm_agent::{Command, FrameRow, LayoutRow, Reply};
use wirevm_map::{FrameRun, KernReturn, PAGE_SIZE, PageRange};

use super::ast::Span;
use super::target::{Target, TargetError};

/// What came of asking for a list.
pub(super) enum Listing<T> {
    /// The rows, in order.
    Rows(Vec<T>),
    /// The guest answered with a code instead.
    Code(KernReturn),
    /// The guest answered with something else.
    Unexpected(Reply),
}

/// Returns the pages that the bytes from `start` to before `end` touch.
pub(super) const fn touched(start: u64, end: u64) -> PageRange {
    let last = end.div_ceil(PAGE_SIZE);
    PageRange::new(start / PAGE_SIZE, last)
}

/// Asks for `pages`, and for halves of them for as long as the answer would be too long.
fn list<T>(
    target: &mut dyn Target,
    pages: PageRange,
    command: fn(u64, u64) -> Command,
    rows: fn(Reply) -> Result<Vec<T>, Reply>,
) -> Result<Listing<T>, TargetError> {
    let mut all = Vec::new();
    let mut waiting = vec![pages];
    while let Some(pages) = waiting.pop() {
        // The page behind the last address has no address: its number times 4096 is 2^64.
        let bytes = |page: u64| page.saturating_mul(PAGE_SIZE);
        match target.call(&command(bytes(pages.start), bytes(pages.end)))? {
            Reply::Malformed if pages.len() > 1 => {
                let middle = pages.start + pages.len() / 2;
                waiting.push(PageRange::new(middle, pages.end));
                waiting.push(PageRange::new(pages.start, middle));
            }
            Reply::Done(code) if code != KernReturn::Success => return Ok(Listing::Code(code)),
            reply => match rows(reply) {
                Ok(rows) => all.extend(rows),
                Err(reply) => return Ok(Listing::Unexpected(reply)),
            },
        }
    }
    Ok(Listing::Rows(all))
}

/// Lists the entries of `pages`, with page numbers from the start of `pages`. What lies outside is left out.
pub(super) fn layout(target: &mut dyn Target, pages: PageRange) -> Result<Listing<Span>, TargetError> {
    let rows = |reply| match reply {
        Reply::Layout(rows) => Ok(rows),
        other => Err(other),
    };
    let listing = list(target, pages, |start, end| Command::Layout { start, end }, rows)?;
    Ok(match listing {
        Listing::Rows(rows) => Listing::Rows(spans(&rows, pages)),
        Listing::Code(code) => Listing::Code(code),
        Listing::Unexpected(reply) => Listing::Unexpected(reply),
    })
}

/// Turns rows into spans; joins what only the cutting into several questions kept apart.
fn spans(rows: &[LayoutRow], pages: PageRange) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for row in rows {
        let part = row.pages.intersection(pages);
        if part.is_empty() {
            continue;
        }
        let LayoutRow { wired_count, user_wired, .. } = *row;
        let (start, end) = (part.start - pages.start, part.end - pages.start);
        match spans.last_mut() {
            Some(last) if (last.end, last.wired_count, last.user_wired) == (start, wired_count, user_wired) => {
                last.end = end;
            }
            _ => spans.push(Span { start, end, wired_count, user_wired }),
        }
    }
    spans
}

/// Lists the frames behind `pages`, in order, cut to `pages`; rows without frames may be missing.
pub(super) fn frames(target: &mut dyn Target, pages: PageRange) -> Result<Listing<FrameRow>, TargetError> {
    let rows = |reply| match reply {
        Reply::Frames(rows) => Ok(rows),
        other => Err(other),
    };
    if pages.is_empty() {
        return Ok(Listing::Rows(Vec::new()));
    }
    let listing = list(target, pages, |start, end| Command::Frames { start, end }, rows)?;
    Ok(match listing {
        Listing::Rows(rows) => Listing::Rows(rows.into_iter().filter_map(|row| cut(row, pages)).collect()),
        other => other,
    })
}

/// Returns the part of a row that lies in `pages`.
fn cut(row: FrameRow, pages: PageRange) -> Option<FrameRow> {
    let part = row.pages.intersection(pages);
    let skipped = part.start - row.pages.start.min(part.start);
    let frames = row.frames.map(|run| FrameRun::new(run.first + skipped, part.len()));
    (!part.is_empty()).then_some(FrameRow { pages: part, frames })
}

/// Returns the runs of frames behind rows, adjacent ones joined.
pub(super) fn runs(rows: &[FrameRow]) -> Vec<FrameRun> {
    let mut runs: Vec<FrameRun> = Vec::new();
    for run in rows.iter().filter_map(|row| row.frames) {
        match runs.last_mut() {
            Some(last) if last.end() == run.first => last.pages += run.pages,
            _ => runs.push(run),
        }
    }
    runs
}
