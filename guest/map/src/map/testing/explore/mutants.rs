//! Tests of the test: faults that are planted into the core are found.

use std::println;
use std::time::Instant;

use super::scenario::Scenario;
use super::schedule::{Course, going_on, show};
use super::{Stage, explore, kept, normal};
use crate::planted::Mutant;

/// Asserts that the normal run of `scenarios` finds `mutant`, and prints after how many schedules.
fn finds(mutant: Mutant, scenarios: &[Scenario]) {
    let begun = Instant::now();
    let (done, found) = explore(scenarios, Some(mutant), &[1, 3, 8]);
    let Some((scenario, failure)) = found else { panic!("{mutant:?} lives through {done} schedules") };
    let choices = &failure.choices;
    let known = Stage::new(scenario, None).run(0, &mut |at, runnable| {
        choices.get(at).copied().map_or_else(
            || going_on(0, runnable),
            |choice| if runnable & 1 << choice == 0 { going_on(0, runnable) } else { choice },
        )
    });
    assert_eq!(known.failure, None, "the schedule goes well without the mutant");
    let (name, schedule) = (scenario.name(), show(&failure.choices));
    println!("{mutant:?}: schedule {done}, {:?}: {name} @ {schedule}\n    {}", begun.elapsed(), failure.what);
}

macro_rules! mutants {
    ($scenarios:ident, $($test:ident: $mutant:ident,)*) => {
        $(#[test]
        fn $test() {
            finds(Mutant::$mutant, &$scenarios());
        })*
    };
}

mutants! {
    normal,
    t_02_release_that_forgets_to_wake_is_found: ReleaseForgetsToWake,
    t_03_place_trusted_after_a_wait_is_found: TrustsPlaceAfterWait,
    t_07_place_trusted_after_a_page_in_is_found: TrustsPlaceAfterPageIn,
    b_01_pages_counted_again_after_a_page_in_are_found: CountsAgainAfterPageIn,
    t_01_release_of_foreign_marks_is_found: ReleaseClearsForeignMarks,
    w_11_user_bit_before_the_last_fault_is_found: UserBitBeforeFaults,
    t_02_wait_that_begins_after_unlocking_is_found: WaitBeginsLate,
    pins_that_ignore_calls_under_way_are_found: PinsIgnoreCallsUnderWay,
    x_07_unwire_that_skips_marked_entries_is_found: UnwireSkipsMarked,
    y_04_copy_that_replaces_its_own_mapping_only_is_found: CopyReplacesOwnMappingOnly,
    b_05_copy_that_loses_its_wiring_is_found: CopyLosesWiring,
    y_04_page_held_for_nobody_after_a_copy_is_found: CopyLeavesPageHeld,
    n4_wired_memory_that_needs_a_copy_is_found: WireLeavesNeedForCopy,
    f_05_roll_back_that_takes_older_wirings_is_found: RollBackTakesOlderWiring,
    t_10_fork_that_ignores_busy_maps_is_found: ForkIgnoresBusy,
    d_h_marks_that_go_before_the_roll_back_are_found: MarksGoBeforeRollBack,
    f_03_roll_back_that_keeps_its_charge_is_found: RollBackKeepsCharge,
    page_in_that_forgets_to_wake_is_found: PageInForgetsToWake,
    busy_operation_that_forgets_to_wake_is_found: BusyForgetsToWake,
    b_02_protect_that_ignores_marks_is_found: ProtectIgnoresMarks,
    d_01_deallocate_that_ignores_system_wirings_is_found: DeallocateIgnoresSystemWirings,
    pin_that_goes_before_the_host_knows_is_found: PinGoesBeforeHost,
    t_08_fault_that_ignores_marks_is_found: FaultIgnoresMarks,
}

mutants! {
    kept,
    d_b_failed_return_that_becomes_clean_is_found: FailedReturnMakesClean,
    z_01_write_that_makes_clean_what_it_missed_is_found: WriteMakesCleanWhatItMissed,
    d_b_flush_that_drops_what_failed_is_found: FlushDropsWhatFailed,
    q_04_flush_that_drops_wired_pages_is_found: FlushDropsWired,
    k_03_synchronizations_that_overlap_are_found: SynchronizationsOverlap,
    k_03_synchronization_that_is_over_before_it_shows_is_found: SynchronizationIsOverBeforeItShows,
    k_08_death_that_forgets_waiters_is_found: DeathForgetsWaiters,
    m_01_marks_that_are_lost_elsewhere_are_found: MarksElsewhereAreLost,
    k_02_failed_synchronization_that_counts_as_done_is_found: FailedSyncCountsAsDone,
}
