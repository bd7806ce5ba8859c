//! What is known about a store's pages: which may not be on stable storage yet, and which storage has lost.
//!
//! Linux calls pages clean whose writing failed, tells each open description once, and may drop them from its cache, so that
//! the file shows older bytes. So the book remembers:
//!
//! - A page is **unstable** from the end of its return until a sync that *began* after that has succeeded. Such a sync covers the
//!   pages that are unstable when it begins, and no longer those that are returned once more while it runs.
//! - When storage tells of an error, by whatever call and to whichever worker, every unstable page, and every page of a return
//!   that is under way, is **lost**: nobody can tell which of them it was about. Pages that were stable stay as they are.
//! - A lost page comes back by a return that began after the error; it is unstable then. A return during which an error was
//!   told is in vain, whatever its own calls said.
//!
//! A range is stable when none of its pages is unstable or lost. That is the only thing that a sync's answer is made of, so no
//! interleaving of several workers' calls can give a false one: the calls of a worker that sees no error only ever take pages
//! out that were unstable before the first of them began, and only if no other worker saw one meanwhile.

use crate::page_run::PageRun;
use crate::run_set::RunSet;

/// One store's pages. All others than those in it are stable.
#[derive(Debug, Default)]
pub(super) struct Book {
    unstable: RunSet,
    lost: RunSet,
    /// How often storage told of an error.
    failures: u64,
    next: u64,
    returning: Vec<(Ticket, PageRun)>,
    /// What each sync under way will have made stable.
    syncing: Vec<(Ticket, RunSet)>,
}

/// A return or sync that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    serial: u64,
    failures: u64,
}

/// What is known about a range after a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it is stable.
    Stable,
    /// This page, the first of the lost ones, is lost.
    Lost(u64),
    /// It is not known to be.
    Unknown,
}

impl Book {
    /// Returns how often storage told of an error.
    pub(super) const fn failures(&self) -> u64 {
        self.failures
    }

    /// Returns the first of a range's pages that is lost.
    pub(super) fn lost_page(&self, range: PageRun) -> Option<u64> {
        self.lost.first_in(range)
    }

    /// Notes that storage told of an error.
    pub(super) fn fail(&mut self) {
        self.failures += 1;
        for run in self.unstable.to_runs() {
            self.lost.insert(run);
        }
        self.unstable = RunSet::default();
        for (_, run) in &self.returning {
            self.lost.insert(*run);
        }
    }

    /// Notes pages whose bytes are gone or torn.
    pub(super) fn lose(&mut self, run: PageRun) {
        self.lost.insert(run);
        self.unstable.remove(run);
    }

    /// Notes pages that the store has given up: there is nothing to be stable or lost.
    pub(super) fn give_up(&mut self, run: PageRun) {
        self.lost.remove(run);
        self.unstable.remove(run);
    }

    /// Notes that a return of these pages begins.
    pub(super) fn begin_return(&mut self, run: PageRun) -> Ticket {
        let ticket = self.ticket();
        self.returning.push((ticket, run));
        ticket
    }

    /// Notes that a return has ended, of which the pages of `written` were written, and one behind them in part. Fails with
    /// the page that is lost when it was in vain.
    pub(super) fn end_return(
        &mut self,
        ticket: Ticket,
        written: Option<PageRun>,
        torn: Option<u64>,
    ) -> Result<(), u64> {
        let place = self.returning.iter().position(|(held, _)| *held == ticket);
        let run = place.map(|place| self.returning.swap_remove(place).1);
        if ticket.failures != self.failures {
            return run.map_or(Ok(()), |run| Err(run.first()));
        }
        if let Some(written) = written {
            self.lost.remove(written);
            self.unstable.insert(written);
            for (_, covered) in &mut self.syncing {
                covered.remove(written);
            }
        }
        if let Some(torn) = torn.and_then(|page| PageRun::new(page, page.checked_add(1)?)) {
            self.lose(torn);
        }
        Ok(())
    }

    /// Notes that a sync begins, before its first system call.
    pub(super) fn begin_sync(&mut self) -> Ticket {
        let ticket = self.ticket();
        self.syncing.push((ticket, self.unstable.clone()));
        ticket
    }

    /// Notes that a sync has ended, and tells what is known about its range now.
    pub(super) fn end_sync(&mut self, ticket: Ticket, range: PageRun, succeeded: bool) -> Verdict {
        let place = self.syncing.iter().position(|(held, _)| *held == ticket);
        let covered = place.map(|place| self.syncing.swap_remove(place).1).unwrap_or_default();
        // After an error these pages are lost, and those that were returned since are not covered: nothing is left to take out.
        if succeeded {
            for run in covered.to_runs() {
                self.unstable.remove(run);
            }
        }
        match (self.lost.first_in(range), self.unstable.first_in(range)) {
            (Some(page), _) => Verdict::Lost(page),
            (None, Some(_)) => Verdict::Unknown,
            (None, None) => Verdict::Stable,
        }
    }

    const fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket { serial: self.next, failures: self.failures }
    }
}
