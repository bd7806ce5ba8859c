//! What processors remember of page tables: no test here needs a second thread, so each schedule is the same every time.

use crate::fake::{FakeMachine, FakeProcessor, block_on};
use crate::flags::SyncFlags;
use crate::kern_return::KernReturn;
use crate::map::Placement;
use crate::map::testing::parallel::load;
use crate::ports::Pmap;
use crate::units::{FrameRun, PAGE_SHIFT, Prot};

const PAGE: u64 = 1 << PAGE_SHIFT;
const AT: u64 = 16 << PAGE_SHIFT;

/// Returns a machine with a page at [`AT`], and two processors that have the map loaded.
fn machine() -> (FakeMachine, [FakeProcessor; 2]) {
    let machine = FakeMachine::default();
    assert_eq!(block_on(machine.map.allocate(Placement::Fixed(AT), PAGE)), Ok(AT));
    let processors = [FakeProcessor::new(1), FakeProcessor::new(2)];
    processors.iter().for_each(|processor| load(processor, &machine.map));
    (machine, processors)
}

fn write(machine: &FakeMachine, processor: &FakeProcessor, byte: u8) -> Result<(), KernReturn> {
    block_on(machine.write_on(processor, &machine.map, AT, &[byte]))
}

/// A write by a processor that remembers the page as dirty, after the page was cleaned, is written too.
fn write_after_clean(own: bool) {
    let (machine, [first, second]) = machine();
    let playing = own.then(|| first.play());
    for byte in 1..20 {
        // The one that syncs is the one that writes, or another.
        let writer = if own { &first } else { &second };
        assert_eq!(write(&machine, writer, byte), Ok(()));
        assert_eq!(block_on(machine.map.msync(AT, PAGE, SyncFlags::SYNCHRONOUS)), Ok(()));
        assert_eq!(machine.stable_byte(AT), Some(byte));
    }
    drop(playing);
}

/// A page that was given up, and its frame to somebody else, is out of reach of a processor that remembers it.
fn access_after_deallocate(own: bool) {
    let (machine, [first, second]) = machine();
    let playing = own.then(|| first.play());
    let writer = if own { &first } else { &second };
    assert_eq!(write(&machine, writer, 1), Ok(()));
    let frame = writer.cached(AT >> PAGE_SHIFT);
    assert!(frame.is_some());
    assert_eq!(block_on(machine.map.deallocate(AT, PAGE)), Ok(()));
    let other = AT + (64 << PAGE_SHIFT);
    assert_eq!(block_on(machine.map.allocate(Placement::Fixed(other), 16 * PAGE)), Ok(other));
    assert_eq!(write(&machine, writer, 2), Err(KernReturn::InvalidAddress));
    drop(playing);
}

/// What a processor remembers permits no write after the page was protected.
fn write_after_protect(own: bool) {
    let (machine, [first, second]) = machine();
    let playing = own.then(|| first.play());
    let writer = if own { &first } else { &second };
    assert_eq!(write(&machine, writer, 1), Ok(()));
    assert_eq!(block_on(machine.map.protect(AT, PAGE, false, Prot::READ)), Ok(()));
    assert_eq!(write(&machine, writer, 2), Err(KernReturn::ProtectionFailure));
    drop(playing);
}

#[test]
pub(super) fn own_translations_are_forgotten_when_a_change_returns() {
    write_after_clean(true);
    access_after_deallocate(true);
    write_after_protect(true);
}

#[test]
pub(super) fn translations_of_other_processors_are_forgotten_when_a_change_returns() {
    write_after_clean(false);
    access_after_deallocate(false);
    write_after_protect(false);
}

#[test]
pub(super) fn page_that_is_entered_again_keeps_its_mark() {
    let (machine, [_, second]) = machine();
    assert_eq!(write(&machine, &second, 1), Ok(()));
    let page = AT >> PAGE_SHIFT;
    let frame = second.cached(page).expect("it was written");
    machine.map.with_pmap(|pmap| {
        // Between the look at the marks and this, the other processor has written.
        assert_eq!(pmap.enter(page, FrameRun::new(frame, 1), Prot::READ), Ok(()));
        assert!(pmap.translation(page).is_some_and(|at| at.dirty), "its write is forgotten");
    });
}

#[test]
fn processor_remembers_what_the_tables_say_no_more_until_it_is_told() {
    let (machine, [first, _]) = machine();
    assert_eq!(write(&machine, &first, 1), Ok(()));
    let page = AT >> PAGE_SHIFT;
    let dirty = || machine.map.with_pmap(|pmap| pmap.translation(page).is_some_and(|at| at.dirty));
    assert!(dirty());
    // A mark that goes without the processor's knowing is not set again: this is what the fake is for.
    crate::planted::plant_in_thread(Some(crate::planted::Mutant::NoIpi));
    assert_eq!(block_on(machine.map.msync(AT, PAGE, SyncFlags::SYNCHRONOUS)), Ok(()));
    crate::planted::plant_in_thread(None);
    assert_eq!((write(&machine, &first, 2), dirty()), (Ok(()), false));
}
