//! Requests that the host carries out while the memory system goes on: whom to tell when one has ended.

use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use wirevm_abi::Status;

/// How often a host is asked again that is busy although nothing of ours is under way.
const RETRIES: u32 = 16;

/// What is known of all requests of one memory system.
#[derive(Debug, Default)]
pub struct Requests {
    shared: Arc<Shared>,
    /// Calls that have not ended.
    outstanding: AtomicU64,
    /// Calls that have.
    answered: AtomicU64,
    /// Requests that were refused because the host was busy.
    busy: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    /// Requests that were accepted and not answered.
    accepted: AtomicU64,
    /// Entries of requests that were answered.
    completions: AtomicU64,
    arrivals: Mutex<Arrivals>,
}

/// Answers so far, and everybody who waits for the next one.
#[derive(Debug, Default)]
struct Arrivals {
    count: u64,
    wakers: Vec<Waker>,
}

/// What became of one request, and who waits for that.
#[derive(Debug, Default)]
struct Slot {
    statuses: Option<Vec<Status>>,
    waker: Option<Waker>,
}

/// The promise to say what became of a request, from whatever thread. Dropped without a word, it means that nobody knows.
pub struct Answer {
    slot: Arc<Mutex<Slot>>,
    shared: Arc<Shared>,
    is_given: bool,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answer {
    /// Gives the status of each entry of the request. Wakes whoever waits, and holds no lock meanwhile.
    pub fn give(mut self, statuses: Vec<Status>) {
        self.is_given = true;
        self.shared.completions.fetch_add(statuses.len() as u64, Ordering::Relaxed);
        self.end(statuses);
        let wakers = {
            let mut arrivals = locked(&self.shared.arrivals);
            arrivals.count += 1;
            mem::take(&mut arrivals.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn end(&self, statuses: Vec<Status>) {
        self.shared.accepted.fetch_sub(1, Ordering::AcqRel);
        let waker = {
            let mut slot = locked(&self.slot);
            slot.statuses = Some(statuses);
            slot.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.is_given {
            self.end(Vec::new());
        }
    }
}

/// A call that counts as outstanding until this is dropped.
struct UnderWay<'a>(&'a Requests);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::AcqRel);
        self.0.outstanding.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Requests {
    /// Returns how many calls have not ended.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Returns how many calls have ended.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    /// Returns how many requests were refused because the host was busy.
    pub fn busy(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }

    /// Returns how many entries of requests were answered.
    pub fn completions(&self) -> u64 {
        self.shared.completions.load(Ordering::Relaxed)
    }

    /// Makes requests, each of that many entries, and waits until each has ended. Returns the statuses of all entries, in order.
    ///
    /// `begin` makes the request of that number: it is accepted, or the status of all its entries is returned. All that the host
    /// takes is begun when this is first polled; what it is too busy for is asked again whenever something else has ended. Never
    /// ends when it is first polled.
    pub async fn carry_out(
        &self,
        entries: &[usize],
        begin: impl Fn(usize, Answer) -> Result<(), Status> + Send,
    ) -> Vec<Status> {
        self.outstanding.fetch_add(1, Ordering::AcqRel);
        let _under_way = UnderWay(self);
        let mut slots: Vec<Arc<Mutex<Slot>>> = entries.iter().map(|_| Arc::default()).collect();
        let mut waiting: Vec<usize> = (0..entries.len()).collect();
        let mut retries = 0;
        loop {
            let seen = locked(&self.shared.arrivals).count;
            waiting = self.begin_all(&waiting, entries, &mut slots, &begin);
            if waiting.is_empty() {
                break;
            }
            self.busy.fetch_add(waiting.len() as u64, Ordering::Relaxed);
            if self.shared.accepted.load(Ordering::Acquire) > 0 {
                self.arrival_after(seen).await;
            } else if retries < RETRIES {
                retries += 1;
                give_way().await;
            } else {
                let busy = |index: &usize| (*index, vec![Status::BUSY; entries.get(*index).copied().unwrap_or(0)]);
                waiting.iter().map(busy).for_each(|(index, statuses)| settle(&mut slots, index, statuses));
                break;
            }
        }
        // No answer is there yet when the call is first polled, however fast the host is: what is not waited for never depends on
        // which of the two was faster.
        give_way().await;
        let mut all = Vec::new();
        for (slot, count) in slots.iter().zip(entries) {
            let mut statuses = ended(slot).await;
            // Whoever promised an answer and gave none knows nothing.
            statuses.resize(*count, Status::IO_ERROR);
            all.append(&mut statuses);
        }
        all
    }

    /// Makes those requests; returns the ones that the host is too busy for.
    fn begin_all(
        &self,
        waiting: &[usize],
        entries: &[usize],
        slots: &mut [Arc<Mutex<Slot>>],
        begin: &impl Fn(usize, Answer) -> Result<(), Status>,
    ) -> Vec<usize> {
        let mut busy = Vec::new();
        for (index, count) in waiting.iter().filter_map(|index| Some((*index, *entries.get(*index)?))) {
            let slot = Arc::<Mutex<Slot>>::default();
            self.shared.accepted.fetch_add(1, Ordering::AcqRel);
            let answer = Answer { slot: Arc::clone(&slot), shared: Arc::clone(&self.shared), is_given: false };
            match begin(index, answer) {
                Ok(()) => {
                    if let Some(place) = slots.get_mut(index) {
                        *place = slot;
                    }
                }
                Err(Status::BUSY) => busy.push(index),
                Err(status) => settle(slots, index, vec![status; count]),
            }
        }
        busy
    }

    /// Waits until there have been more than `seen` answers.
    async fn arrival_after(&self, seen: u64) {
        poll_fn(|context| {
            let mut arrivals = locked(&self.shared.arrivals);
            if arrivals.count != seen {
                return Poll::Ready(());
            }
            if !arrivals.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                arrivals.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Gives a request a result in place of whatever its answer said.
fn settle(slots: &mut [Arc<Mutex<Slot>>], index: usize, statuses: Vec<Status>) {
    if let Some(place) = slots.get_mut(index) {
        *place = Arc::new(Mutex::new(Slot { statuses: Some(statuses), waker: None }));
    }
}

async fn ended(slot: &Mutex<Slot>) -> Vec<Status> {
    poll_fn(|context| {
        let mut slot = locked(slot);
        match slot.statuses.take() {
            Some(statuses) => Poll::Ready(statuses),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

/// Lets others run once.
async fn give_way() {
    let mut given = false;
    poll_fn(|context| {
        if mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod test {
    use std::sync::Mutex;

    use wirevm_abi::Status;
    use wirevm_map::fake::{Executor, block_on};

    use super::{Answer, Requests};

    /// Keeps answers back until they are wanted; takes no more than `room` requests at once.
    #[derive(Default)]
    struct Slow {
        kept: Mutex<Vec<(usize, Answer)>>,
        room: usize,
    }

    impl Slow {
        fn take(&self, index: usize, answer: Answer) -> Result<(), Status> {
            let mut kept = self.kept.lock().expect("one thread");
            if kept.len() == self.room {
                return Err(Status::BUSY);
            }
            kept.push((index, answer));
            Ok(())
        }

        /// Answers the request that was accepted at that place.
        fn answer(&self, place: usize, statuses: Vec<Status>) -> usize {
            let (index, answer) = self.kept.lock().expect("one thread").remove(place);
            answer.give(statuses);
            index
        }
    }

    const OK: Status = Status::OK;

    #[test]
    fn all_that_the_host_takes_is_begun_at_once_and_results_keep_their_order() {
        let (requests, slow) = (Requests::default(), Slow { room: 3, ..Slow::default() });
        let mut executor = Executor::new(0);
        let output = executor.spawn(requests.carry_out(&[1, 2, 1], |index, answer| slow.take(index, answer)));
        executor.run_until_stalled();
        assert_eq!(
            (slow.kept.lock().expect("one thread").len(), requests.outstanding(), requests.answered()),
            (3, 1, 0)
        );
        assert_eq!(slow.answer(2, vec![Status::IO_ERROR]), 2);
        assert_eq!(slow.answer(0, vec![OK]), 0);
        executor.run_until_stalled();
        assert_eq!((requests.outstanding(), output.is_ready()), (1, false));
        assert_eq!(slow.answer(0, vec![OK, Status::POISONED]), 1);
        assert_eq!(requests.outstanding(), 1, "the call has not been polled to its end");
        assert_eq!(executor.run(), Ok(()));
        assert_eq!(output.take(), Some(vec![OK, OK, Status::POISONED, Status::IO_ERROR]));
        drop(executor);
        assert_eq!((requests.outstanding(), requests.answered(), requests.completions()), (0, 1, 4));
    }

    #[test]
    fn busy_host_is_asked_again_behind_each_answer_and_no_sooner() {
        let (requests, slow) = (Requests::default(), Slow { room: 1, ..Slow::default() });
        let mut executor = Executor::new(0);
        let output = executor.spawn(requests.carry_out(&[1, 1, 1], |index, answer| slow.take(index, answer)));
        for (place, refused) in [(0, 2), (1, 3), (2, 3)] {
            executor.run_until_stalled();
            assert_eq!((requests.busy(), executor.remaining()), (refused, 1));
            assert_eq!(slow.answer(0, vec![OK]), place);
        }
        assert_eq!(executor.run(), Ok(()));
        assert_eq!(output.take(), Some(vec![OK; 3]));
    }

    #[test]
    fn host_that_is_busy_with_nothing_is_given_up() {
        let requests = Requests::default();
        let statuses = block_on(requests.carry_out(&[2], |_, _| Err(Status::BUSY)));
        assert_eq!((statuses, requests.outstanding(), requests.busy()), (vec![Status::BUSY; 2], 0, 17));
    }

    #[test]
    fn call_goes_on_in_a_second_poll_even_if_the_host_has_answered_at_once() {
        let requests = Requests::default();
        let mut executor = Executor::new(0);
        let output = executor.spawn(requests.carry_out(&[1], |_, answer| {
            answer.give(vec![OK]);
            Ok(())
        }));
        assert!(executor.poll(0) && !output.is_ready());
        assert_eq!(requests.outstanding(), 1);
        assert!(executor.poll(0) && output.is_ready());
    }

    #[test]
    fn refusal_is_the_status_of_all_entries_and_a_broken_promise_an_error() {
        let requests = Requests::default();
        let statuses = block_on(requests.carry_out(&[2, 1], |index, answer| match index {
            0 => Err(Status::UNSUPPORTED),
            _ => {
                drop(answer);
                Ok(())
            }
        }));
        assert_eq!(statuses, [Status::UNSUPPORTED, Status::UNSUPPORTED, Status::IO_ERROR]);
        assert_eq!(requests.completions(), 0);
    }
}
