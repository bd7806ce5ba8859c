//! Tests of the tests of synchronisation: faults that are planted into the core make them fail.

use std::panic::catch_unwind;

use super::{managers, owed, stores};
use crate::map::msync;
use crate::planted::{Mutant, plant_in_thread};

/// Asserts that `test` succeeds, and fails with `mutant`.
fn finds(mutant: Mutant, test: fn()) {
    test();
    plant_in_thread(Some(mutant));
    let outcome = catch_unwind(test);
    plant_in_thread(None);
    assert!(outcome.is_err(), "{mutant:?} lives");
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident by $($test:ident)::+,)*) => {
        $(#[test]
        fn $name() {
            finds(Mutant::$mutant, $($test)::+);
        })*
    };
}

mutants! {
    e_02_failed_return_that_becomes_clean_is_found: FailedReturnMakesClean
        by managers::synchronized::k_07_e_01_and_e_02_completion_carries_a_status_and_a_failure_leaves_everything_dirty,
    d_b_failed_return_to_a_store_that_becomes_clean_is_found: FailedReturnMakesClean
        by stores::d_b_failed_return_or_synchronization_is_a_failure_and_a_retry_makes_good,
    z_01_write_that_makes_clean_what_it_missed_is_found: WriteMakesCleanWhatItMissed
        by managers::returned::z_01_page_written_during_its_write_stays_dirty_and_resident_under_invalidate,
    e_02_flush_that_drops_what_failed_is_found: FlushDropsWhatFailed
        by managers::synchronized::k_07_e_01_and_e_02_completion_carries_a_status_and_a_failure_leaves_everything_dirty,
    d_b_flush_that_drops_what_a_store_refused_is_found: FlushDropsWhatFailed
        by stores::d_b_failed_return_or_synchronization_is_a_failure_and_a_retry_makes_good,
    q_04_flush_that_drops_wired_pages_is_found: FlushDropsWired
        by managers::returned::q_04_wired_pages_are_returned_and_never_dropped,
    m_04_invalidate_that_loses_precious_pages_is_found: PreciousIsLostByInvalidate
        by managers::returned::m_04_and_d_a_invalidate_alone_returns_precious_pages_and_loses_dirty_ones,
    k_06_completion_that_need_not_match_is_found: CompletionNeedNotMatch
        by managers::synchronized::k_06_completion_that_matches_no_request_exactly_is_refused_and_wakes_nobody,
    k_03_synchronizations_that_overlap_are_found: SynchronizationsOverlap
        by managers::synchronized::k_03_disjoint_parts_are_synchronized_in_parallel_and_overlapping_ones_one_after_the_other,
    k_03_synchronization_that_is_over_before_it_shows_is_found: SynchronizationIsOverBeforeItShows
        by owed::k_03_synchronization_waits_until_the_failure_of_the_one_before_shows,
    k_08_death_that_forgets_waiters_is_found: DeathForgetsWaiters
        by managers::synchronized::k_08_death_of_the_manager_wakes_everybody_with_an_error,
    o_03_supply_that_is_taken_unasked_is_found: SupplyIsTakenUnasked
        by managers::asked::o_03_supply_of_what_was_not_asked_for_is_refused_whole,
    o_10_end_that_returns_nothing_is_found: EndReturnsNothing
        by managers::returned::o_10_last_use_returns_what_is_owed_and_then_terminates,
    o_10_end_that_returns_nothing_to_a_store_is_found: EndReturnsNothing
        by stores::o_10_end_of_the_object_returns_what_it_owes_and_closes_the_store,
    m_02_asynchronous_call_that_begins_nothing_is_found: AsynchronousBeginsNothing
        by stores::m_02_asynchronous_call_returns_while_the_store_works_and_a_synchronous_one_awaits_it,
    m_05_kill_that_reaches_wired_pages_is_found: KillReachesWired
        by msync::test::m_05_and_m_07_killpages_wins_over_sync_and_spares_the_write_of_unwired_pages,
    m_01_marks_that_are_lost_elsewhere_are_found: MarksElsewhereAreLost
        by owed::m_01_what_another_map_has_written_comes_back,
    k_02_failed_synchronization_that_counts_as_done_is_found: FailedSyncCountsAsDone
        by stores::page_that_the_store_has_lost_is_an_error_until_it_is_returned_again,
}
