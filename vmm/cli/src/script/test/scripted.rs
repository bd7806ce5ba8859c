//! A target that answers from a small model of a guest and its host.

use std::collections::{BTreeMap, VecDeque};

use wirevm_agent::{Command, FrameRow, LayoutRow, ProgramEnd, Reply, Request};
use wirevm_map::{FrameRun, KernReturn, PAGE_SIZE, PageRange};

use crate::exit_code::ExitCode;
use crate::script::target::{HostFault, StorageFault, Target, TargetError, WitnessAnswer, WitnessQuery};

/// Pages of memory that have frames as soon as they are allocated; wiring is one count per page.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Frame and wired count of each page that is allocated.
    pub(super) pages: BTreeMap<u64, (Option<u64>, u64)>,
    pub(super) bytes: BTreeMap<u64, u8>,
    /// Rows that a reply can hold.
    pub(super) most_rows: usize,
    /// What is answered instead of the next replies to anything but checks.
    pub(super) instead: VecDeque<Reply>,
    /// What is answered instead of the next replies to checks, unasked ones included.
    pub(super) checks: VecDeque<Reply>,
    /// After how many calls the machine ends, checks left out.
    pub(super) dies_after: Option<usize>,
    /// What was asked, checks left out.
    pub(super) requests: Vec<Request>,
    /// How many checks were asked for.
    pub(super) checked: usize,
    /// Failures of the host that were ordered.
    pub(super) faults: Vec<HostFault>,
    /// Failures of storage that were ordered.
    pub(super) storage_faults: Vec<StorageFault>,
    /// What every program has printed.
    pub(super) printed: String,
    /// Whether storage was to be held, each time it was said.
    pub(super) holds: Vec<bool>,
    /// How many tasks and objects were made.
    pub(super) made: u64,
    pub(super) questions: Vec<WitnessQuery>,
    pub(super) dirty: WitnessDirty,
}

/// What the host says about dirtiness.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum WitnessDirty {
    /// Every frame is dirty.
    #[default]
    All,
    /// It can't tell.
    Unsupported,
    /// It answers something else.
    Senseless,
}

pub(super) const BASE: u64 = 0x10_0000;

impl Model {
    pub(super) fn new() -> Self {
        Self { most_rows: usize::MAX, ..Self::default() }
    }

    /// Allocates pages at [`BASE`], each with a frame of its own, the frames in descending order.
    fn allocate(&mut self, pages: u64) -> u64 {
        let first = BASE / PAGE_SIZE;
        self.pages.extend((0..pages).map(|page| (first + page, (Some(1000 - page), 0))));
        BASE
    }

    /// Returns the commands that were given, checks left out.
    pub(super) fn calls(&self) -> Vec<Command> {
        self.requests.iter().map(|request| request.command).collect()
    }

    /// Takes the frame from a page.
    pub(super) fn unback(&mut self, page: u64) {
        self.pages.insert(page, (None, 0));
    }

    fn wire(&mut self, start: u64, end: u64, by: u64) -> KernReturn {
        let pages = start / PAGE_SIZE..(end / PAGE_SIZE).max(start / PAGE_SIZE);
        if pages.clone().any(|page| !self.pages.contains_key(&page)) {
            return KernReturn::InvalidAddress;
        }
        self.pages.range_mut(pages).for_each(|(_, (_, count))| *count = by);
        KernReturn::Success
    }

    fn range(&self, start: u64, end: u64) -> Vec<(u64, Option<u64>, u64)> {
        let pages = start / PAGE_SIZE..(end / PAGE_SIZE).max(start / PAGE_SIZE);
        self.pages.range(pages).map(|(page, (frame, count))| (*page, *frame, *count)).collect()
    }

    fn answer(&mut self, command: &Command) -> Reply {
        match *command {
            Command::Allocate { size, .. } | Command::AllocateLarge { size, .. } => {
                Reply::Address(self.allocate(size / PAGE_SIZE))
            }
            Command::Wire { start, end, .. } => Reply::Done(self.wire(start, end, 1)),
            Command::Unwire { start, end, .. } => Reply::Done(self.wire(start, end, 0)),
            Command::Write { address, size, pattern } => {
                self.bytes.extend((0..size).map(|offset| (address + offset, pattern.at(offset))));
                Reply::Done(KernReturn::Success)
            }
            Command::Read { address, size } => {
                let byte = |address| self.bytes.get(&address).copied().unwrap_or(0);
                Reply::Bytes((address..address + size).map(byte).collect())
            }
            // One row a page: the runner has to join them.
            Command::Layout { start, end } => {
                let row = |(page, _, wired_count)| LayoutRow {
                    pages: PageRange::new(page, page + 1),
                    wired_count,
                    user_wired: wired_count > 0,
                };
                let rows: Vec<_> = self.range(start, end).into_iter().map(row).collect();
                if rows.len() > self.most_rows { Reply::Malformed } else { Reply::Layout(rows) }
            }
            Command::Frames { start, end } => {
                let row = |(page, frame, _): (u64, Option<u64>, u64)| FrameRow {
                    pages: PageRange::new(page, page + 1),
                    frames: frame.map(|frame| FrameRun::new(frame, 1)),
                };
                let rows: Vec<_> = self.range(start, end).into_iter().map(row).collect();
                if rows.len() > self.most_rows { Reply::Malformed } else { Reply::Frames(rows) }
            }
            Command::Brk { .. } => Reply::Address(BASE),
            Command::Mincore { .. } => Reply::Layout(vec![]),
            Command::Guard { size, .. } | Command::Stack { size, .. } | Command::MapObject { end_page: size, .. } => {
                Reply::Address(BASE + (size << 20))
            }
            Command::NewTask
            | Command::Fork
            | Command::NewObject { .. }
            | Command::Submap { .. }
            | Command::NewManager
            | Command::NewStoreObject { .. }
            | Command::NewManagedObject { .. }
            | Command::Program { .. } => {
                self.made += 1;
                Reply::Number(self.made)
            }
            Command::Residents { start, end } => Reply::Number(self.range(start, end).len() as u64),
            Command::Completions => Reply::Number(3),
            Command::Stat { selector } => Reply::Number(selector),
            Command::Trim => Reply::Number(0),
            Command::Messages => Reply::Text("init data_request[0,1)r data_return[0,2)dirty,kept".into()),
            Command::DirtyRanges { .. } => {
                Reply::Layout(vec![LayoutRow { pages: PageRange::new(2, 5), wired_count: 1, user_wired: false }])
            }
            // The page's number in its range is its state.
            Command::PageStates { start, end } => {
                let row = |(page, _, _)| LayoutRow {
                    pages: PageRange::new(page, page + 1),
                    wired_count: page - start / PAGE_SIZE,
                    user_wired: false,
                };
                Reply::Layout(self.range(start, end).into_iter().map(row).collect())
            }
            Command::WireTotal => Reply::Number(self.pages.values().map(|(_, count)| count).sum()),
            Command::Poll { .. } => Reply::Ended,
            Command::AwaitProgram { .. } => Reply::Program(ProgramEnd::Exited(0)),
            _ => Reply::Done(KernReturn::Success),
        }
    }
}

impl Target for Model {
    fn call(&mut self, request: &Request) -> Result<Reply, TargetError> {
        if let Command::Check | Command::Quiesce = request.command {
            self.checked += 1;
            return Ok(self.checks.pop_front().unwrap_or(Reply::Done(KernReturn::Success)));
        }
        self.requests.push(*request);
        if self.dies_after.is_some_and(|calls| self.requests.len() > calls) {
            return Err(TargetError::new(ExitCode::GuestPanic, "the guest panicked: boom"));
        }
        let reply = if request.thread == 0 { self.answer(&request.command) } else { Reply::Started };
        Ok(self.instead.pop_front().unwrap_or(reply))
    }

    fn output(&mut self, _: u64) -> Result<String, TargetError> {
        Ok(self.printed.clone())
    }

    fn fail_host(&mut self, fault: HostFault) -> Result<(), TargetError> {
        self.faults.push(fault);
        Ok(())
    }

    fn fail_storage(&mut self, fault: StorageFault) -> Result<(), TargetError> {
        self.storage_faults.push(fault);
        Ok(())
    }

    fn hold_storage(&mut self, hold: bool) -> Result<(), TargetError> {
        self.holds.push(hold);
        Ok(())
    }

    fn witness(&mut self, query: WitnessQuery) -> Result<WitnessAnswer, TargetError> {
        self.questions.push(query.clone());
        let pages = |runs: &[FrameRun]| runs.iter().map(|run| run.pages).sum();
        Ok(match (query, self.dirty) {
            (WitnessQuery::Locked, _) => {
                WitnessAnswer::Pages(self.pages.values().filter(|(_, count)| *count > 0).count() as u64)
            }
            (WitnessQuery::Resident(runs), _) | (WitnessQuery::Dirty(runs), WitnessDirty::All) => {
                WitnessAnswer::Pages(pages(&runs))
            }
            // The store has two pages.
            (WitnessQuery::StorePage { page, .. }, _) if page < 2 => {
                WitnessAnswer::Page(Box::new([7 + u8::from(page > 0); 4096]))
            }
            (WitnessQuery::StorePage { .. }, _) | (WitnessQuery::Dirty(_), WitnessDirty::Unsupported) => {
                WitnessAnswer::Unsupported
            }
            (WitnessQuery::Dirty(_), WitnessDirty::Senseless) => WitnessAnswer::Page(Box::new([0; 4096])),
            (WitnessQuery::Page(frame), _) => {
                let page = self.pages.iter().find(|(_, (found, _))| *found == Some(frame)).map_or(0, |(page, _)| *page);
                let byte = |offset| self.bytes.get(&(page * PAGE_SIZE + offset as u64)).copied().unwrap_or(0);
                WitnessAnswer::Page(Box::new(std::array::from_fn(byte)))
            }
        })
    }
}
