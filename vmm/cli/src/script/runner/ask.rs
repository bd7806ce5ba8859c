//! Operations that show something, piece by piece where one reply does not hold it.

use wirevm_abi::StoreName;
use wirevm_agent::{Command, FrameRow, LayoutRow, MAIN_TASK, MAX_READ_BYTES, Pattern, Reply};
use wirevm_map::{FrameRun, KernReturn};

use super::{Bytes, RunError, Runner, unexpected};
use crate::script::ast::{PageState, Range, Showing, Span};
use crate::script::frames::{self, Listing};
use crate::script::outcome::Outcome;
use crate::script::sample::{Page, Pages, Sample};
use crate::script::target::{TargetError, WitnessAnswer, WitnessQuery};

/// Most pages that one `host file` shows.
const MAX_FILE_PAGES: u64 = 1024;

impl Runner<'_, '_> {
    /// Shows something of each page or entry of a range.
    pub(super) fn show(&mut self, showing: Showing, range: &Range) -> Result<Outcome, TargetError> {
        let place = self.resolve(range)?;
        let Bytes { task, start, end } = place;
        Ok(match frames::spans(self.target, task, showing, (start, end))? {
            Listing::Rows(spans) if showing == Showing::PageStates => {
                let state = |span: Span| PageState { start: span.start, end: span.end, bits: span.wired_count };
                Outcome::States(spans.into_iter().map(state).collect())
            }
            Listing::Rows(spans) => Outcome::Layout(spans),
            Listing::Other(_, Reply::Done(code)) if code != KernReturn::Success => Outcome::Code(code),
            Listing::Other(_, Reply::Errno(errno)) if showing == Showing::Mincore => Outcome::Errno(errno),
            Listing::Other(_, Reply::Blocked) => Outcome::Blocked,
            Listing::Other(command, reply) => return Err(unexpected(command, reply)),
        })
    }

    /// Lists the dirty pages of a memory object.
    pub(super) fn dirty_ranges(&mut self, object: &str) -> Result<Outcome, TargetError> {
        let command = Command::DirtyRanges { object: self.object(object)?.number };
        match self.call(MAIN_TASK, command)? {
            Reply::Layout(rows) => Ok(Outcome::Layout(rows.iter().map(object_span).collect())),
            reply => Err(unexpected(command, reply)),
        }
    }

    /// Asks the host what the file of a store holds.
    pub(super) fn store(&mut self, name: StoreName, (start, end): (u64, u64)) -> Result<Outcome, TargetError> {
        if end.saturating_sub(start) > MAX_FILE_PAGES {
            return Ok(Outcome::TooMany(MAX_FILE_PAGES));
        }
        let mut shown = Vec::new();
        for page in start..end {
            match self.target.witness(WitnessQuery::StorePage { name, page })? {
                WitnessAnswer::Page(bytes) => shown.push(Page(Some(bytes))),
                WitnessAnswer::Unsupported => return Ok(Outcome::Unsupported),
                answer => return Err(senseless("a page of a store", &answer)),
            }
        }
        Ok(Outcome::Pages(Pages(shown)))
    }

    /// Reads in as many pieces as it takes; the first that fails gives the result.
    pub(super) fn read(&mut self, range: Bytes, pattern: Option<Pattern>) -> Result<Outcome, TargetError> {
        let mut sample = Sample::new(pattern);
        loop {
            let size = (range.size() - sample.length()).min(MAX_READ_BYTES);
            let command = Command::Read { address: range.start.wrapping_add(sample.length()), size };
            match self.call(range.task, command)? {
                Reply::Bytes(bytes) if bytes.len() as u64 == size => sample.push(&bytes),
                Reply::Done(code) if code != KernReturn::Success => return Ok(Outcome::Code(code)),
                Reply::Blocked => return Ok(Outcome::Blocked),
                reply => return Err(unexpected(command, reply)),
            }
            if sample.length() == range.size() {
                return Ok(Outcome::Bytes(sample));
            }
        }
    }

    /// Lists the frames behind a range, or says why not.
    fn frames(&mut self, place: Bytes) -> Result<Result<Vec<FrameRow>, Outcome>, TargetError> {
        match frames::frames(self.target, place.task, place.pages())? {
            Listing::Rows(rows) => Ok(Ok(rows)),
            Listing::Other(_, Reply::Done(code)) if code != KernReturn::Success => Ok(Err(Outcome::Code(code))),
            Listing::Other(command, reply) => Err(unexpected(command, reply)),
        }
    }

    /// Asks the host about the frames behind a range; none has no count.
    pub(super) fn count(
        &mut self,
        range: &Range,
        question: &'static str,
        query: fn(Vec<FrameRun>) -> WitnessQuery,
    ) -> Result<Outcome, TargetError> {
        let place = self.resolve(range)?;
        let runs = match self.frames(place)? {
            Ok(rows) => frames::runs(&rows),
            Err(outcome) => return Ok(outcome),
        };
        if runs.is_empty() {
            return Ok(Outcome::Count(None));
        }
        match self.target.witness(query(runs))? {
            WitnessAnswer::Pages(pages) => Ok(Outcome::Count(Some(pages))),
            WitnessAnswer::Unsupported => Ok(Outcome::Unsupported),
            answer => Err(senseless(question, &answer)),
        }
    }

    pub(super) fn locked(&mut self) -> Result<u64, TargetError> {
        match self.target.witness(WitnessQuery::Locked)? {
            WitnessAnswer::Pages(pages) => Ok(pages),
            answer => Err(senseless("locked pages", &answer)),
        }
    }

    pub(super) fn file(&mut self, range: &Range) -> Result<Outcome, TargetError> {
        let place = self.resolve(range)?;
        let pages = place.pages();
        if pages.len() > MAX_FILE_PAGES {
            return Ok(Outcome::TooMany(MAX_FILE_PAGES));
        }
        let rows = match self.frames(place)? {
            Ok(rows) => rows,
            Err(outcome) => return Ok(outcome),
        };
        let mut shown = Vec::new();
        for page in pages.start..pages.end {
            let row = rows.iter().find(|row| row.pages.contains(page));
            let frame = row.and_then(|row| row.frames.map(|run| run.first + (page - row.pages.start)));
            let Some(frame) = frame else {
                shown.push(Page(None));
                continue;
            };
            match self.target.witness(WitnessQuery::Page(frame))? {
                WitnessAnswer::Page(bytes) => shown.push(Page(Some(bytes))),
                answer => return Err(senseless("a page of the file", &answer)),
            }
        }
        Ok(Outcome::Pages(Pages(shown)))
    }
}

fn object_span(row: &LayoutRow) -> Span {
    let LayoutRow { pages, wired_count, user_wired } = *row;
    Span { start: pages.start, end: pages.end, wired_count, user_wired }
}

fn senseless(question: &'static str, answer: &WitnessAnswer) -> TargetError {
    let answer = match answer {
        WitnessAnswer::Pages(pages) => format!("{pages} pages"),
        WitnessAnswer::Unsupported => "that it can't tell".to_owned(),
        WitnessAnswer::Page(_) => "the bytes of a page".to_owned(),
    };
    RunError::Answer { question, answer }.into()
}
