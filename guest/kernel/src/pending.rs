//! What the host has accepted and not completed yet.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::{Poll, Waker};

use smallvec::SmallVec;
use spin::Mutex;
use wirevm_abi::Status;

/// What became of entries: mostly of one, which takes no memory.
pub type Statuses = SmallVec<[Status; 1]>;

/// The entries of one request, whose caller waits for all of them together.
///
/// Whoever gives the request up drops its own reference; those of the entries under way go with their completions.
#[derive(Debug)]
pub struct Group {
    /// Whether the entries put RAM itself on stable storage.
    about_ram: bool,
    state: Mutex<GroupState>,
}

#[derive(Debug)]
struct GroupState {
    /// What became of each entry; *not done* until that is known.
    statuses: Statuses,
    /// How many have not ended.
    left: usize,
    waker: Option<Waker>,
}

impl Group {
    /// Returns a group of `count` entries that have not ended.
    pub fn new(count: usize, about_ram: bool) -> Arc<Self> {
        let statuses = SmallVec::from_elem(Status::NOT_DONE, count);
        Arc::new(Self { about_ram, state: Mutex::new(GroupState { statuses, left: count, waker: None }) })
    }

    /// Tells whether the entries put RAM itself on stable storage.
    pub const fn is_about_ram(&self) -> bool {
        self.about_ram
    }

    /// Notes how an entry ended; returns whom to wake if it was the last one.
    #[must_use]
    pub fn finish(&self, index: usize, status: Status) -> Option<Waker> {
        let mut state = self.state.lock();
        if let Some(place) = state.statuses.get_mut(index) {
            *place = status;
        }
        state.left = state.left.saturating_sub(1);
        if state.left == 0 { state.waker.take() } else { None }
    }

    /// Takes what became of the entries once all have ended; until then `waker` is noted.
    pub fn poll(&self, waker: &Waker) -> Poll<Statuses> {
        let mut state = self.state.lock();
        if state.left == 0 {
            return Poll::Ready(core::mem::take(&mut state.statuses));
        }
        state.waker = Some(waker.clone());
        Poll::Pending
    }
}

/// Why a completion is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No entry that is under way has its token.
    Token,
    /// No entry ends with its status. The entry stays under way.
    Status,
}

/// The entries under way, by token.
///
/// A token is a slot's number in the lower half and, in the upper half, how often the slot has been used: one that comes back
/// twice, or late, is not mistaken for the slot's next.
#[derive(Debug, Default)]
pub struct Pending {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// How many entries the host is known to have accepted: each of them ends with a completion.
    accepted: u64,
}

#[derive(Debug)]
struct Slot {
    uses: u32,
    is_accepted: bool,
    /// The entry: its group and its place there.
    entry: Option<(Arc<Group>, usize)>,
}

const fn token_of(slot: u32, uses: u32) -> u64 {
    (uses as u64) << 32 | slot as u64
}

impl Pending {
    /// Returns an empty table.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), accepted: 0 }
    }

    /// Returns how many entries the host is known to have accepted and not to have completed. Entries that some processor is just
    /// asking for are not among them: the host may turn out to be too busy for those.
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Returns how many entries are under way.
    #[cfg(test)]
    pub const fn count(&self) -> u64 {
        (self.slots.len() - self.free.len()) as u64
    }

    /// Notes an entry that the host is about to be asked for, and returns its token.
    pub fn begin(&mut self, group: &Arc<Group>, index: usize) -> u64 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { uses: 0, is_accepted: false, entry: None });
            // As many slots as entries can be under way: the ring's places, and a call's entries while it is made.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(slot) = usize::try_from(number).ok().and_then(|number| self.slots.get_mut(number)) else { return 0 };
        slot.uses = slot.uses.wrapping_add(1);
        slot.is_accepted = false;
        slot.entry = Some((Arc::clone(group), index));
        token_of(number, slot.uses)
    }

    /// Notes that the host has accepted an entry. Its completion may have been taken before.
    pub fn accept(&mut self, token: u64) {
        if let Some(slot) = self.slot(token)
            && slot.entry.is_some()
        {
            slot.is_accepted = true;
            self.accepted += 1;
        }
    }

    /// Forgets an entry that the host did not accept, or that has ended.
    pub fn end(&mut self, token: u64) -> Option<(Arc<Group>, usize)> {
        let slot = self.slot(token)?;
        let entry = slot.entry.take()?;
        let was_accepted = slot.is_accepted;
        self.accepted -= u64::from(was_accepted);
        self.free.push(halves(token)[0]);
        Some(entry)
    }

    /// Returns the slot of a token that has not been used since.
    fn slot(&mut self, token: u64) -> Option<&mut Slot> {
        let [number, uses] = halves(token);
        let slot = usize::try_from(number).ok().and_then(|number| self.slots.get_mut(number))?;
        (slot.uses == uses).then_some(slot)
    }

    /// Ends the entry that a completion is about.
    ///
    /// # Errors
    /// [`Refused`]; nothing is changed then.
    pub fn complete(&mut self, token: u64, status: Status) -> Result<(Arc<Group>, usize), Refused> {
        let possible = !matches!(status, Status::PENDING | Status::BUSY | Status::NOT_DONE) && status.name().is_some();
        if !possible {
            return Err(Refused::Status);
        }
        self.end(token).ok_or(Refused::Token)
    }
}

/// Returns a token's lower and upper half.
#[expect(clippy::cast_possible_truncation, reason = "halves of a word are cut out on purpose")]
const fn halves(token: u64) -> [u32; 2] {
    [token as u32, (token >> 32) as u32]
}

#[cfg(test)]
mod test {
    use alloc::sync::Arc;
    use core::task::{Poll, Waker};

    use proptest::prelude::*;
    use wirevm_abi::Status;

    use super::{Group, Pending, Refused};
    use crate::wakes::Wakes;

    fn complete(pending: &mut Pending, token: u64, status: Status) -> Result<(), Refused> {
        let (group, index) = pending.complete(token, status)?;
        if let Some(waker) = group.finish(index, status) {
            waker.wake();
        }
        Ok(())
    }

    #[test]
    fn group_wakes_once_when_its_last_entry_ends_in_whatever_order() {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let (mut pending, group, wakes) = (Pending::new(), Group::new(3, true), Arc::new(Wakes::default()));
            let tokens = [0, 1, 2].map(|index| pending.begin(&group, index));
            assert!(group.is_about_ram());
            let waker = Waker::from(Arc::clone(&wakes));
            assert_eq!(group.poll(&waker), Poll::Pending);
            for (done, place) in order.into_iter().enumerate() {
                assert_eq!((wakes.count(), pending.count()), (0, 3 - done as u64));
                let status = if place == 1 { Status::IO_ERROR } else { Status::OK };
                assert_eq!(complete(&mut pending, tokens[place], status), Ok(()));
            }
            assert_eq!((wakes.count(), pending.count()), (1, 0));
            assert_eq!(group.poll(&waker), Poll::Ready(vec![Status::OK, Status::IO_ERROR, Status::OK].into()));
        }
    }

    #[test]
    fn completion_that_no_entry_waits_for_is_refused_and_changes_nothing() {
        let (mut pending, group) = (Pending::new(), Group::new(1, true));
        assert_eq!(complete(&mut pending, 0, Status::OK), Err(Refused::Token), "a zeroed completion names nobody");
        let token = pending.begin(&group, 0);
        for (token, status, why) in [
            (token + 1, Status::OK, Refused::Token),
            (token ^ 1 << 32, Status::OK, Refused::Token),
            (u64::MAX, Status::OK, Refused::Token),
            (token, Status::PENDING, Refused::Status),
            (token, Status::BUSY, Refused::Status),
            (token, Status::NOT_DONE, Refused::Status),
            (token, Status::from_bits(0x1234), Refused::Status),
        ] {
            assert_eq!(complete(&mut pending, token, status), Err(why), "{token:#x} {status}");
            assert_eq!((pending.count(), group.poll(Waker::noop())), (1, Poll::Pending));
        }
        assert_eq!(complete(&mut pending, token, Status::OK), Ok(()));
        assert_eq!(complete(&mut pending, token, Status::OK), Err(Refused::Token), "a completion comes once");
    }

    #[test]
    fn token_of_a_request_that_was_given_up_is_not_mistaken_for_a_later_one() {
        let mut pending = Pending::new();
        let given_up = pending.begin(&Group::new(1, true), 0);
        assert_eq!(pending.count(), 1, "the host still works on it");
        assert_eq!(complete(&mut pending, given_up, Status::OK), Ok(()));
        let group = Group::new(1, true);
        let later = pending.begin(&group, 0);
        assert_ne!(later, given_up);
        assert_eq!(complete(&mut pending, given_up, Status::OK), Err(Refused::Token));
        assert_eq!(group.poll(Waker::noop()), Poll::Pending);
        assert_eq!(complete(&mut pending, later, Status::POISONED), Ok(()));
        assert_eq!(group.poll(Waker::noop()), Poll::Ready(vec![Status::POISONED].into()));
    }

    #[test]
    fn completion_that_comes_before_the_call_returns_leaves_nothing_to_wait_for() {
        let (mut pending, group) = (Pending::new(), Group::new(2, true));
        let tokens = [0, 1].map(|index| pending.begin(&group, index));
        assert_eq!((pending.count(), pending.accepted()), (2, 0), "asked for, not accepted");
        assert_eq!(complete(&mut pending, tokens[0], Status::OK), Ok(()));
        tokens.into_iter().for_each(|token| pending.accept(token));
        assert_eq!((pending.count(), pending.accepted()), (1, 1));
        let reused = pending.begin(&group, 0);
        pending.accept(tokens[0]);
        assert_eq!(pending.accepted(), 1, "that was another use of the slot");
        drop(pending.end(reused));
        assert_eq!(complete(&mut pending, tokens[1], Status::OK), Ok(()));
        assert_eq!((pending.count(), pending.accepted()), (0, 0));
    }

    proptest! {
        #[test]
        fn table_agrees_with_a_list_of_tokens(steps in prop::collection::vec((any::<bool>(), any::<usize>()), 1..200)) {
            let (mut pending, group) = (Pending::new(), Group::new(0, false));
            let (mut alive, mut dead): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
            for (begins, which) in steps {
                if begins || alive.is_empty() {
                    let token = pending.begin(&group, which);
                    prop_assert!(!alive.contains(&token) && !dead.contains(&token));
                    alive.push(token);
                } else {
                    let token = alive.swap_remove(which % alive.len());
                    prop_assert!(pending.complete(token, Status::OK).is_ok());
                    dead.push(token);
                }
                prop_assert_eq!(pending.count(), alive.len() as u64);
                for token in &dead {
                    prop_assert!(pending.complete(*token, Status::OK).is_err());
                }
            }
            prop_assert!(pending.slots.len() <= 200);
        }
    }
}
