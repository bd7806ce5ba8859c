//! Requests that the host carries out while the guest goes on.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Poll, Waker};

use log::warn;
use smallvec::SmallVec;
use spin::Mutex;
use wirevm_abi::Status;
use wirevm_abi::call::{CallEntry, MAX_ENTRIES};
use wirevm_abi::completion::Completion;

use super::KernelHost;
use crate::pending::{Group, Refused, Statuses};

/// How often a host is asked again that is busy although it has nothing to do for this guest.
const RETRIES: u32 = 16;

/// Completions so far, and everybody who waits for the next one.
#[derive(Debug)]
pub struct Arrivals(Mutex<(u64, Vec<Waker>)>);

impl Arrivals {
    pub const fn new() -> Self {
        Self(Mutex::new((0, Vec::new())))
    }

    fn count(&self) -> u64 {
        self.0.lock().0
    }

    fn announce(&self) {
        let wakers = {
            let mut inner = self.0.lock();
            inner.0 += 1;
            core::mem::take(&mut inner.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until there have been more than `seen`.
    async fn after(&self, seen: u64) {
        poll_fn(|context| {
            let mut inner = self.0.lock();
            if inner.0 != seen {
                return Poll::Ready(());
            }
            if !inner.1.iter().any(|waker| waker.will_wake(context.waker())) {
                inner.1.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Calls that wait for the host, and those that have ended.
#[derive(Debug)]
pub struct Calls {
    under_way: AtomicU64,
    ended: AtomicU64,
}

/// A call that is under way until this is dropped.
pub struct UnderWay<'a>(&'a Calls);

impl Calls {
    pub const fn new() -> Self {
        Self { under_way: AtomicU64::new(0), ended: AtomicU64::new(0) }
    }

    /// Counts a call.
    pub fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(self)
    }

    /// Returns how many have not ended.
    pub fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Acquire)
    }

    /// Returns how many have ended.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl KernelHost {
    /// Asks for `count` entries, whose tokens are put into their last words, and waits until each has ended. Returns what became
    /// of each.
    ///
    /// All that the host takes is begun when this is first polled. What it is too busy for is asked again behind each
    /// completion. Whoever drops this gives up the answers, not the work.
    pub(super) async fn carry_out(
        &self,
        about_ram: bool,
        count: usize,
        entry: impl Fn(usize) -> CallEntry + Send,
    ) -> Statuses {
        let _under_way = self.calls.begin();
        let group = Group::new(count, about_ram);
        let mut seen = self.arrivals.count();
        let mut busy = self.begin(&group, &mut (0..count), &entry);
        let mut retries = 0;
        while !busy.is_empty() {
            if self.pending.lock().accepted() > 0 {
                self.arrivals.after(seen).await;
            } else if retries < RETRIES {
                retries += 1;
                crate::executor::give_way().await;
            } else {
                self.end_all(&group, &busy, Status::BUSY);
                break;
            }
            seen = self.arrivals.count();
            busy = self.begin(&group, &mut busy.into_iter(), &entry);
        }
        poll_fn(|context| group.poll(context.waker())).await
    }

    /// Asks for entries in as few calls as hold them; returns those that the host is too busy for.
    fn begin(
        &self,
        group: &Arc<Group>,
        indices: &mut dyn Iterator<Item = usize>,
        entry: &dyn Fn(usize) -> CallEntry,
    ) -> Vec<usize> {
        let mut busy = Vec::new();
        loop {
            let page = self.page();
            let asked: SmallVec<[(usize, u64); 1]> = {
                let mut pending = self.pending.lock();
                indices.take(MAX_ENTRIES).map(|index| (index, pending.begin(group, index))).collect()
            };
            if asked.is_empty() {
                return busy;
            }
            for (place, (index, token)) in asked.iter().enumerate() {
                let mut entry = entry(*index);
                let [_, _, last] = &mut entry.words;
                *last = *token;
                page.put(place, &entry);
            }
            let outcome = page.ring(asked.len());
            let mut pending = self.pending.lock();
            for (place, (index, token)) in asked.iter().enumerate() {
                let status = outcome.map_or_else(|status| status, |()| page.status(place));
                if status == Status::PENDING {
                    pending.accept(*token);
                    continue;
                }
                drop(pending.end(*token));
                if status == Status::BUSY {
                    busy.push(*index);
                } else {
                    self.end_all(group, &[*index], status);
                }
            }
        }
    }

    /// Notes how entries ended, and wakes who waits for the last of them.
    fn end_all(&self, group: &Group, indices: &[usize], status: Status) {
        if group.is_about_ram() {
            self.note_storage(status);
        }
        for index in indices {
            if let Some(waker) = group.finish(*index, status) {
                waker.wake();
            }
        }
    }

    /// Takes the completions that are there.
    ///
    /// # Panics
    /// When the host broke the ring's rules.
    pub fn take_completions(&self) {
        let drained = self.completions.lock().drain(|completion| self.complete(completion));
        if let Err(broken) = drained {
            panic!("completion ring: {broken}");
        }
    }

    fn complete(&self, completion: Completion) {
        let Completion { token, status, .. } = completion;
        let ended = self.pending.lock().complete(token, status);
        match ended {
            Ok((group, index)) => {
                self.end_all(&group, &[index], status);
                self.arrivals.announce();
            }
            Err(why) => self.refuse(completion, why),
        }
    }

    /// Says that a completion is nobody's: the first time, and ever more rarely.
    #[cold]
    fn refuse(&self, completion: Completion, why: Refused) {
        let mut refused = self.refused_completions.lock();
        *refused += 1;
        if refused.is_power_of_two() {
            let Completion { token, status, .. } = completion;
            let what = match why {
                Refused::Token => "which nothing waits for",
                Refused::Status => "with which nothing ends",
            };
            warn!("{refused} completion(s) refused, the last of token {token:#x} with status '{status}', {what}");
        }
    }
}
