//! Faults that tests plant into the core to see that they are found, and pauses where an operation holds no lock. None of it is
//! part of any other build.

use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

use crate::fake::yield_now;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Who lets go of an entry does not wake those who wait for it (row T-02).
    ReleaseForgetsToWake,
    /// Who has waited for an entry takes it to be where and as long as it was (rows T-03 to T-06).
    TrustsPlaceAfterWait,
    /// A wire takes its entry to be as long as it was before its pages came in (row T-07).
    TrustsPlaceAfterPageIn,
    /// A wire counts on the pages before an obstacle once more behind it (row B-01).
    CountsAgainAfterPageIn,
    /// Who lets go clears the marks of others too (row T-01).
    ReleaseClearsForeignMarks,
    /// The user bit is set before the last page is there (rows W-11, B-02).
    UserBitBeforeFaults,
    /// A wait begins when it is awaited, not under the lock.
    WaitBeginsLate,
    /// A wire does not wait for the host's answer about a page that somebody else has asked about.
    PinsIgnoreCallsUnderWay,
    /// An unwire passes over entries in transition (row X-07).
    UnwireSkipsMarked,
    /// A copied page replaces the old one in the faulting map alone (row Y-04).
    CopyReplacesOwnMappingOnly,
    /// A copy of a wired page is not wired (row B-05).
    CopyLosesWiring,
    /// A page whose wiring went to a copy while the host was asked to hold it stays held.
    CopyLeavesPageHeld,
    /// A user wire of what is wired already leaves it needing a copy (row N4).
    WireLeavesNeedForCopy,
    /// A failed wire takes the user bit from what the user had wired before (row F-05).
    RollBackTakesOlderWiring,
    /// Fork does not wait while pages are brought in (row T-10).
    ForkIgnoresBusy,
    /// A failed wire lets its entries go before all is undone (row D-H).
    MarksGoBeforeRollBack,
    /// A failed wire keeps its charge (row F-03).
    RollBackKeepsCharge,
    /// A page that has come wakes nobody.
    PageInForgetsToWake,
    /// An operation that is busy no more wakes nobody.
    BusyForgetsToWake,
    /// Protect waits for nothing (rows P-07, B-02).
    ProtectIgnoresMarks,
    /// Deallocate does not wait for system wirings to end (row D-01).
    DeallocateIgnoresSystemWirings,
    /// A page counts as let go before the host has let go of it.
    PinGoesBeforeHost,
    /// A fault does not wait for the mark on its entry (row T-08).
    FaultIgnoresMarks,
    /// A sync that begins within a submap begins where the submap does (row H-05).
    SubmapSyncsFromItsStart,
    /// What a map does to page tables reaches into its submaps.
    MarksOfSubmapsAreLost,
    /// Pages that could not be returned count as clean (row E-02, decision D-B).
    FailedReturnMakesClean,
    /// What is written to a page during its write is forgotten when that ends (row Z-01).
    WriteMakesCleanWhatItMissed,
    /// INVALIDATE drops pages that could not be returned (row E-02).
    FlushDropsWhatFailed,
    /// INVALIDATE drops wired pages (row Q-04).
    FlushDropsWired,
    /// INVALIDATE alone does not return precious pages (row M-04, decision D-A).
    PreciousIsLostByInvalidate,
    /// A completion ends every synchronization that it overlaps (row K-06).
    CompletionNeedNotMatch,
    /// Synchronizations that overlap are out at the same time (row K-03).
    SynchronizationsOverlap,
    /// The next synchronization begins while the pages do not show yet that the one before has failed (row K-03).
    SynchronizationIsOverBeforeItShows,
    /// Who waits for a manager that dies is not told (row K-08).
    DeathForgetsWaiters,
    /// Pages that nobody has asked for are taken (row O-03).
    SupplyIsTakenUnasked,
    /// The end of an object returns nothing (row O-10).
    EndReturnsNothing,
    /// ASYNCHRONOUS begins no write (row M-02).
    AsynchronousBeginsNothing,
    /// KILLPAGES reaches wired pages (row M-05).
    KillReachesWired,
    /// What was written through other mappings of a manager's pages is not collected (row M-01).
    MarksElsewhereAreLost,
    /// What was returned counts as synchronized although that has failed (row K-02).
    FailedSyncCountsAsDone,
    /// A fork copies pages that other processors may write meanwhile.
    CopiesWhatIsWritten,
    /// Pages that a fork is still to copy can be written.
    StillPagesAreWritten,
    /// The objects are unlocked between the look for syncs under way and the beginning of another.
    SyncLooksUnderAnotherLock,
    /// A new entry is not held until it is wired, if all that is new is to be.
    NewEntriesAreWiredLater,
    /// Entering a mapping again forgets that it was written (dirty mark).
    EnterForgetsMark,
    /// A processor keeps translations that it has changed itself.
    NoInvlpg,
    /// The other processors are not told of changed translations.
    NoIpi,
    /// The other processors are told, and not waited for.
    ReturnsBeforeAcknowledgement,
}

std::thread_local! {
    static OF_THREAD: core::cell::Cell<Option<Mutant>> = const { core::cell::Cell::new(None) };
}

/// Plants `mutant` into whatever this thread does from now on, beside what is planted into single systems.
pub(crate) fn plant_in_thread(mutant: Option<Mutant>) {
    OF_THREAD.set(mutant);
}

/// Tells whether `mutant` is planted into what this thread does.
pub(crate) fn is_planted(mutant: Mutant) -> bool {
    OF_THREAD.get() == Some(mutant)
}

/// Lets other threads do something where a mutant does not keep them out, however few can run at a time.
pub(crate) fn let_others_in() {
    std::thread::sleep(core::time::Duration::from_micros(50));
}

/// What is planted into a system.
#[derive(Debug, Default)]
pub(crate) struct Planted {
    mutant: Mutex<Option<Mutant>>,
    pauses: AtomicBool,
}

impl Planted {
    pub(crate) fn set(&self, mutant: Option<Mutant>, pauses: bool) {
        *self.mutant.lock() = mutant;
        self.pauses.store(pauses, Ordering::Relaxed);
    }

    pub(crate) fn has(&self, mutant: Mutant) -> bool {
        *self.mutant.lock() == Some(mutant)
    }

    /// Lets others run where they could on a machine with several processors, if the test wants that.
    pub(crate) async fn pause(&self) {
        if self.pauses.load(Ordering::Relaxed) {
            yield_now().await;
        }
    }
}
