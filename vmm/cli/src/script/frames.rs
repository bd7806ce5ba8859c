//! Lists that may be longer than one reply of the guest can be.

use wirevm_agent::{Command, FrameRow, LayoutRow, MAIN_TASK, Reply, Request};
use wirevm_map::{FrameRun, PAGE_SIZE, PageRange};

use super::ast::{Showing, Span};
use super::target::{Target, TargetError};
use crate::exit_code::ExitCode;

/// What came of asking for a list.
pub(super) enum Listing<T> {
    /// The rows, in order.
    Rows(Vec<T>),
    /// The guest answered one of the commands with something else.
    Other(Command, Reply),
}

/// Returns the pages that the bytes from `start` to before `end` touch.
pub(super) const fn touched(start: u64, end: u64) -> PageRange {
    let last = end.div_ceil(PAGE_SIZE);
    PageRange::new(start / PAGE_SIZE, last)
}

/// Asks for the bytes from `start` to before `end`, and for halves of their pages for as long as the answer would be too
/// long.
fn list<T>(
    target: &mut dyn Target,
    task: u64,
    range: (u64, u64),
    command: impl Fn(u64, u64) -> Command,
    rows: fn(Reply) -> Result<Vec<T>, Reply>,
) -> Result<Listing<T>, TargetError> {
    let mut all = Vec::new();
    let mut waiting = vec![range];
    while let Some((start, end)) = waiting.pop() {
        let pages = touched(start, end);
        let command = command(start, end);
        match target.call(&Request::new(task, command))? {
            Reply::Malformed if pages.len() > 1 => {
                let middle = (pages.start + pages.len() / 2) * PAGE_SIZE;
                waiting.push((middle, end));
                waiting.push((start, middle));
            }
            reply => match rows(reply) {
                Ok(rows) => all.extend(rows),
                Err(reply) => return Ok(Listing::Other(command, reply)),
            },
        }
    }
    Ok(Listing::Rows(all))
}

/// The page behind the last address has no address: its number times 4096 is 2^64.
const fn first_byte(page: u64) -> u64 {
    page.saturating_mul(PAGE_SIZE)
}

/// Lists the frames of all wired pages of the system, adjacent ones joined.
///
/// # Errors
/// [`TargetError`] when the target can't be asked, or says something else.
pub fn wired(target: &mut dyn Target, ram_pages: u64) -> Result<Vec<FrameRun>, TargetError> {
    let rows = |reply| match reply {
        Reply::Frames(rows) => Ok(rows),
        other => Err(other),
    };
    let frames = |start: u64, end: u64| Command::WiredFrames { start: start / PAGE_SIZE, end: end / PAGE_SIZE };
    match list(target, MAIN_TASK, (0, first_byte(ram_pages)), frames, rows)? {
        Listing::Rows(rows) => Ok(runs(&rows)),
        Listing::Other(command, reply) => Err(unexpected(command, &reply)),
    }
}

/// Lists the frames behind pages of a task, adjacent ones joined.
///
/// # Errors
/// As for [`wired`].
pub fn frames_of(target: &mut dyn Target, task: u64, pages: PageRange) -> Result<Vec<FrameRun>, TargetError> {
    match frames(target, task, pages)? {
        Listing::Rows(rows) => Ok(runs(&rows)),
        Listing::Other(command, reply) => Err(unexpected(command, &reply)),
    }
}

fn unexpected(command: Command, reply: &Reply) -> TargetError {
    TargetError::new(ExitCode::Failure, format!("the guest answered {reply:?} to {command:?}"))
}

/// Shows something of the pages of a range, with page numbers from the page that the range starts in. What lies outside
/// is left out.
pub(super) fn spans(
    target: &mut dyn Target,
    task: u64,
    showing: Showing,
    (start, end): (u64, u64),
) -> Result<Listing<Span>, TargetError> {
    let pages = touched(start, end);
    let whole_pages = (first_byte(pages.start), first_byte(pages.end));
    let rows = |reply| match reply {
        Reply::Layout(rows) => Ok(rows),
        other => Err(other),
    };
    let listing = match showing {
        Showing::Layout => list(target, task, whole_pages, |start, end| Command::Layout { start, end }, rows)?,
        Showing::Entries => list(target, task, whole_pages, |start, end| Command::Entries { start, end }, rows)?,
        Showing::PageWires => list(target, task, whole_pages, |start, end| Command::PageWires { start, end }, rows)?,
        Showing::PageStates => list(target, task, whole_pages, |start, end| Command::PageStates { start, end }, rows)?,
        // How it takes a range that is not made of pages is its own business.
        Showing::Mincore => {
            let command = |start: u64, end: u64| Command::Mincore { address: start, size: end.wrapping_sub(start) };
            list(target, task, (start, end), command, rows)?
        }
    };
    Ok(match listing {
        Listing::Rows(rows) if showing == Showing::Entries => Listing::Rows(entries(&rows, pages)),
        Listing::Rows(rows) => Listing::Rows(joined(&rows, pages)),
        Listing::Other(command, reply) => Listing::Other(command, reply),
    })
}

/// Returns the part of a row that lies in `pages`, with page numbers from their start.
fn span(row: &LayoutRow, pages: PageRange) -> Option<Span> {
    let part = row.pages.intersection(pages);
    let LayoutRow { wired_count, user_wired, .. } = *row;
    let (start, end) = (part.start - pages.start.min(part.start), part.end - pages.start.min(part.end));
    (!part.is_empty()).then_some(Span { start, end, wired_count, user_wired })
}

/// Turns rows into spans; joins what only the cutting into several questions kept apart.
fn joined(rows: &[LayoutRow], pages: PageRange) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for span in rows.iter().filter_map(|row| span(row, pages)) {
        match spans.last_mut() {
            Some(last)
                if (last.end, last.wired_count, last.user_wired) == (span.start, span.wired_count, span.user_wired) =>
            {
                last.end = span.end;
            }
            _ => spans.push(span),
        }
    }
    spans
}

/// Turns whole entries into spans; one that came in two answers is one.
fn entries(rows: &[LayoutRow], pages: PageRange) -> Vec<Span> {
    let mut rows = rows.to_vec();
    rows.dedup_by_key(|row| row.pages);
    rows.iter().filter_map(|row| span(row, pages)).collect()
}

/// Lists the frames behind `pages`, in order, cut to `pages`; rows without frames may be missing.
pub(super) fn frames(target: &mut dyn Target, task: u64, pages: PageRange) -> Result<Listing<FrameRow>, TargetError> {
    let rows = |reply| match reply {
        Reply::Frames(rows) => Ok(rows),
        other => Err(other),
    };
    if pages.is_empty() {
        return Ok(Listing::Rows(Vec::new()));
    }
    let range = (first_byte(pages.start), first_byte(pages.end));
    let listing = list(target, task, range, |start, end| Command::Frames { start, end }, rows)?;
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
