//! Time: what it is, who waits for which moment, and the end of a thread's turn.
//!
//! There is no tick. Each processor sets its own timer when it halts, to the next moment that somebody waits for, and when it
//! lets a thread run, to the end of the thread's turn if that comes first; behind a call for which the thread did not wait it is
//! still set, unless the turn has become a shorter one. Whoever makes the next moment an earlier one is on a processor that will do
//! either; one that asks the host instead, which may take long, wakes one that halts, which sets its timer anew before it halts
//! again; so does one that serves the agent. So no moment is passed over; only where every other processor runs a thread, one
//! may come late by the rest of a turn, up to 40 ms.

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use spin::Mutex;

use crate::arch;

/// How long a thread runs before others get their turn.
const TURN_NS: u64 = 10_000_000;
/// How long it runs at most before the kernel looks whether there are others. The longer nobody came, the longer: a look takes a
/// millisecond where ring 0 is emulated. What another processor makes ready, and then can't run as it waits for the host, may wait so long.
const LONGEST_TURN_NS: u64 = 40_000_000;
/// How long a thread runs at least before it gives way to a device's event.
const SHORTEST_TURN_NS: u64 = 500_000;
/// What is taken for the counter's rate where the host does not know it.
const DEFAULT_KHZ: u64 = 1_000_000;
const NS_PER_MS: u128 = 1_000_000;

/// Ticks of the counter in a millisecond.
static KHZ: AtomicU64 = AtomicU64::new(DEFAULT_KHZ);
/// [`TURN_NS`], [`LONGEST_TURN_NS`] and [`SHORTEST_TURN_NS`] in ticks: a thread's ways in and out need them, and a division costs more than
/// the rest.
static TURN: AtomicU64 = AtomicU64::new(0);
static LONGEST_TURN: AtomicU64 = AtomicU64::new(0);
static SHORTEST_TURN: AtomicU64 = AtomicU64::new(0);
/// The counter when the machine started.
static START: AtomicU64 = AtomicU64::new(0);
/// The first moment that somebody waits for, in ticks.
static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);
/// Who waits for which moment; the second number tells apart who waits for the same.
static WAITING: Mutex<BTreeMap<(u64, u64), Waker>> = Mutex::new(BTreeMap::new());
static ALARMS: AtomicU64 = AtomicU64::new(0);

/// Begins to count time. Called once, before any other processor runs.
pub fn init(tsc_khz: u64) {
    if tsc_khz != 0 {
        KHZ.store(tsc_khz, Ordering::Relaxed);
    }
    TURN.store(ticks_of(TURN_NS), Ordering::Relaxed);
    LONGEST_TURN.store(ticks_of(LONGEST_TURN_NS), Ordering::Relaxed);
    SHORTEST_TURN.store(ticks_of(SHORTEST_TURN_NS), Ordering::Relaxed);
    START.store(arch::ticks(), Ordering::Relaxed);
}

/// Returns nanoseconds since the machine started.
pub fn now() -> u64 {
    let ticks = arch::ticks().wrapping_sub(START.load(Ordering::Relaxed));
    let ns = u128::from(ticks) * NS_PER_MS / u128::from(KHZ.load(Ordering::Relaxed));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Returns how many ticks `ns` nanoseconds have.
fn ticks_of(ns: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(KHZ.load(Ordering::Relaxed)) / NS_PER_MS).unwrap_or(u64::MAX)
}

/// Wakes whoever waits for a moment that has come.
pub fn expire() {
    // Nothing but a look where nobody waits: every processor comes by here often.
    if NEXT.load(Ordering::Acquire) > arch::ticks() {
        return;
    }
    loop {
        let mut waiting = WAITING.lock();
        let due = waiting.first_entry().filter(|first| first.key().0 <= arch::ticks());
        let Some(due) = due else {
            note_next(&waiting);
            return;
        };
        let waker = due.remove();
        drop(waiting);
        waker.wake();
    }
}

fn note_next(waiting: &BTreeMap<(u64, u64), Waker>) {
    let next = waiting.first_key_value().map_or(u64::MAX, |((at, _), _)| *at);
    NEXT.store(next, Ordering::Release);
}

/// Tells whether somebody waits for a moment.
#[inline]
pub fn is_awaited() -> bool {
    NEXT.load(Ordering::Acquire) != u64::MAX
}

/// Sets this processor's timer before it halts.
pub fn before_halt() {
    let next = NEXT.load(Ordering::Acquire);
    if next != u64::MAX {
        arch::set_timer(next);
    }
}

/// What a thread has of its processor before others get theirs.
///
/// From an interrupt on, only time in the thread's own hands counts, and what the kernel does for it without having to wait. Where ring 0 is
/// emulated, the way into ring 3 takes longer than many an interrupt needs to come; a thread whose turn ran out on the way would never
/// do anything.
#[derive(Debug)]
pub struct Turn {
    /// When the thread was first entered in it, in ticks; 0 before.
    began: u64,
    /// How long it is, in ticks, unless something urgent comes.
    share: u64,
    /// How long the thread has had since, in ticks, when the timer was last set.
    ran: u64,
    /// When that was.
    entered: u64,
    /// The timer is set to its end, or to an earlier moment.
    is_set: bool,
}

impl Turn {
    /// Returns a turn that begins when the thread is entered: while it waits for that, others have the processor.
    pub fn next() -> Self {
        Self::of(TURN.load(Ordering::Relaxed))
    }

    fn of(share: u64) -> Self {
        Self { began: 0, share, ran: 0, entered: 0, is_set: false }
    }

    /// Tells whether the timer is set for it. Then the thread has been entered and nobody else had the processor since; an interrupt
    /// that has come meanwhile is taken once the thread is entered again.
    pub const fn is_set(&self) -> bool {
        self.is_set
    }

    /// Says that the thread is entered next: sets the timer to the end of its turn, or to an earlier moment that somebody waits for.
    pub fn enter(&mut self) {
        // A turn that was made a shorter one behind a call goes on.
        if self.began != 0 {
            self.interrupted();
        }
        self.set_timer(self.share);
    }

    fn set_timer(&mut self, share: u64) {
        self.entered = arch::ticks();
        if self.began == 0 {
            self.began = self.entered;
        }
        self.is_set = true;
        let left = share.saturating_sub(self.ran);
        arch::set_timer(self.entered.saturating_add(left).min(NEXT.load(Ordering::Acquire)));
    }

    /// Takes note that an interrupt got the thread out of ring 3, or that the timer is to be set anew.
    pub fn interrupted(&mut self) {
        self.ran = self.ran.saturating_add(arch::ticks().saturating_sub(self.entered));
    }

    /// Says after that whether the thread gives way: to what is urgent as soon as it has had a little, so that what
    /// never ends doesn't keep it from going on for ever; to other threads that are ready once it has had its share. If it
    /// doesn't, it is entered next.
    pub fn is_over(&mut self, has_urgent: bool, others_are_ready: bool) -> bool {
        let share = self.share_beside(has_urgent, others_are_ready);
        if self.ran >= share {
            if has_urgent || others_are_ready {
                return true;
            }
            *self = Self::of((2 * share).min(LONGEST_TURN.load(Ordering::Relaxed)));
            self.enter();
            return false;
        }
        self.set_timer(share);
        false
    }

    /// Says whether a thread that the kernel has just done something for gives way. What the kernel does for it counts. If it goes on
    /// beside something urgent, the timer is set to the end of a turn that is the shorter for it.
    pub fn is_used_up(&mut self, has_urgent: bool, others_are_ready: bool) -> bool {
        let share = self.share_beside(has_urgent, others_are_ready);
        if !has_urgent && !others_are_ready {
            return false;
        }
        let is_used_up = arch::ticks().saturating_sub(self.began) >= share;
        if has_urgent && !is_used_up {
            // What is urgent does not wait for the end of the turn.
            self.interrupted();
            self.set_timer(share);
        }
        is_used_up
    }

    /// Returns how long the turn is beside those who wait. Where others are ready, it is a long one no more.
    fn share_beside(&mut self, has_urgent: bool, others_are_ready: bool) -> u64 {
        if others_are_ready {
            let share = TURN.load(Ordering::Relaxed);
            self.is_set &= self.share <= share;
            self.share = share;
        }
        if has_urgent { SHORTEST_TURN.load(Ordering::Relaxed) } else { self.share }
    }
}

/// Wakes once a moment has come.
#[derive(Debug)]
pub struct Alarm {
    /// The moment in ticks.
    at: u64,
    /// The second number of its place among those that wait, once it has one.
    number: Option<u64>,
}

impl Alarm {
    /// Returns the alarm of the moment `ns` nanoseconds from now; none that ever comes for the largest number.
    pub fn after(ns: u64) -> Self {
        let at = if ns == u64::MAX { u64::MAX } else { arch::ticks().saturating_add(ticks_of(ns)) };
        Self { at, number: None }
    }

    /// Tells whether the moment has come; the context's waker is woken when it does.
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.at == u64::MAX {
            return Poll::Pending;
        }
        if arch::ticks() >= self.at {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| ALARMS.fetch_add(1, Ordering::Relaxed));
        let mut waiting = WAITING.lock();
        waiting.insert((self.at, number), context.waker().clone());
        note_next(&waiting);
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut waiting = WAITING.lock();
            waiting.remove(&(self.at, number));
            note_next(&waiting);
        }
    }
}
