//! Tests of the tests: faults that are planted into the core or into the fake's page tables are found.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::println;
use std::time::Instant;

use super::{races, stress, translations};
use crate::planted::{Mutant, plant_in_thread};

/// Most runs of a test that a mutant may live through.
const MOST_RUNS: u64 = 3000;

/// Asserts that `test` fails before long with `mutant`.
fn finds(mutant: Mutant, test: fn(u64, Option<Mutant>)) {
    let begun = Instant::now();
    for run in 0..MOST_RUNS {
        plant_in_thread(Some(mutant));
        let outcome = catch_unwind(AssertUnwindSafe(|| test(1000 + run, Some(mutant))));
        plant_in_thread(None);
        if outcome.is_err() {
            println!("{mutant:?}: run {run}, {:?}", begun.elapsed());
            return;
        }
    }
    panic!("{mutant:?} lives");
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident by $test:path,)*) => {
        $(#[test]
        fn $name() {
            finds(Mutant::$mutant, $test);
        })*
    };
}

fn own(_: u64, _: Option<Mutant>) {
    translations::own_translations_are_forgotten_when_a_change_returns();
}

fn others(_: u64, _: Option<Mutant>) {
    translations::translations_of_other_processors_are_forgotten_when_a_change_returns();
}

fn entering(_: u64, _: Option<Mutant>) {
    translations::page_that_is_entered_again_keeps_its_mark();
}

mutants! {
    translation_that_the_changing_processor_keeps_is_found: NoInvlpg by own,
    translation_that_others_are_not_told_of_is_found: NoIpi by others,
    change_that_returns_before_the_acknowledgement_is_found: ReturnsBeforeAcknowledgement by others,
    translation_that_the_changing_processor_keeps_is_found_under_stress: NoInvlpg by stress::short,
    translation_that_others_are_not_told_of_is_found_in_a_race: NoIpi by races::access_and_unmap,
    copy_of_what_is_being_written_is_found: CopiesWhatIsWritten by races::fork_and_write,
    write_of_what_is_still_to_be_copied_is_found: StillPagesAreWritten by races::much_forked_and_write,
    sync_that_looks_under_another_lock_is_found: SyncLooksUnderAnotherLock by races::sync_and_sync,
    new_entry_that_is_wired_later_is_found: NewEntriesAreWiredLater by races::allocate_and_munlockall,
    mark_that_entering_forgets_is_found: EnterForgetsMark by entering,
}
