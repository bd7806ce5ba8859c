//! Random sequences: small numbers that become operations, so that they are cheap to make and shrink to simple ones.

use proptest::collection::{VecStrategy, vec};
use proptest::strategy::Strategy;

use super::operation::{Operation, Where};
use super::state::{Fault, Inherit};

/// Most operations of a sequence.
pub const LONGEST: usize = 30;

/// The numbers of one operation: what, where, how far, two details, who.
pub type Draw = (u8, u8, u8, u8, u8, u8);

/// A sequence: where its window lies, what it begins with, and its operations' numbers.
pub type Draws = (u8, u8, Vec<Draw>);

type Small = std::ops::Range<u8>;

/// Ranges of the numbers of one operation.
pub type Numbers = (Small, Small, Small, Small, Small, Small);

/// The strategy for sequences.
pub type Strategies = (Small, Small, VecStrategy<Numbers>);

/// Returns the strategy for sequences.
pub fn sequences() -> Strategies {
    (0..3, 0..BEGINNINGS, vec((0..KINDS, 0..PLACES, 0..LENGTHS, 0..64, 0..64, 0..6), 1..=LONGEST))
}

/// Makes sure that [`sequences`] is a strategy for [`Draws`].
const _: fn() = || {
    fn is_for_draws<S: Strategy<Value = Draws>>(_: fn() -> S) {}
    is_for_draws(sequences);
};

/// Starts of ranges, the edges of the window among them; the first are what shrinking ends at.
const STARTS: [i64; 26] = [0, 0, 1, 2, 4, 3, 4, 5, 6, 8, 7, 8, 9, 11, 12, 12, 13, 15, 16, 18, 20, 22, 23, 24, -1, -2];
/// Lengths of ranges in pages: reversed and empty ones are among them.
const SIZES: [i64; 26] = [1, 1, 2, 2, 3, 4, 4, 4, 5, 6, 8, 8, 8, 10, 12, 12, 16, 16, 20, 24, 24, 24, 26, 0, -1, -3];
const PLACES: u8 = 26;
const LENGTHS: u8 = 26;
/// Kinds of operations, each as often as its weight says.
const KINDS: u8 = 105;

/// Returns the operations of a sequence.
#[must_use]
pub fn operations(draws: &Draws) -> Vec<Operation> {
    beginning(draws.1).into_iter().chain(draws.2.iter().map(operation)).collect()
}

/// What sequences can begin with.
const BEGINNINGS: u8 = 10;

/// Returns what a sequence begins with, so that most of what follows finds memory: nothing, plain memory, mappings of objects,
/// several tasks.
fn beginning(which: u8) -> Vec<Operation> {
    const FILE: Operation = Operation::NewObject(true, 8);
    let allocate = |task, start, end| Operation::Allocate(task, Where::pages(start, end));
    let map = |task, at, object, private, prot| Operation::Map { task, at, object, from: 0, pages: 8, private, prot };
    match which {
        0 => vec![],
        1 => vec![allocate(0, 0, 24)],
        2 => vec![allocate(0, 0, 8), allocate(0, 10, 24), Operation::Write(0, Where::pages(4, 8), 0x77)],
        3 => vec![FILE, map(0, 0, 0, false, 3), allocate(0, 8, 16), map(0, 16, 0, true, 3)],
        4 => vec![FILE, map(0, 0, 0, true, 1), map(0, 8, 0, true, 3), map(0, 16, 0, false, 1)],
        5 => vec![allocate(0, 0, 24), Operation::Write(0, Where::pages(0, 12), 0x77), Operation::Fork(0)],
        6 => vec![
            FILE,
            map(0, 0, 0, true, 3),
            allocate(0, 8, 20),
            Operation::Inherit(0, Where::pages(0, 14), Inherit::Share),
            Operation::Fork(0),
        ],
        7 => vec![FILE, Operation::NewTask, map(0, 0, 0, false, 3), map(1, 4, 0, false, 3), map(1, 12, 0, true, 3)],
        8 => vec![
            Operation::NewObject(false, 8),
            FILE,
            map(0, 0, 0, false, 3),
            map(0, 8, 1, true, 3),
            Operation::Guard(0, Where::pages(16, 18)),
            allocate(0, 18, 24),
        ],
        _ => vec![
            allocate(0, 0, 24),
            Operation::Protect(0, Where::pages(6, 9), false, 0),
            Operation::Protect(0, Where::pages(12, 16), false, 1),
            Operation::Wire(0, Where::pages(2, 5), 0, false),
            Operation::Wire(0, Where::pages(4, 6), 1, false),
        ],
    }
}

fn operation(draw: &Draw) -> Operation {
    let &(kind, start, length, detail, more, who) = draw;
    let who = usize::from(who);
    let (detail, more) = (usize::from(detail), usize::from(more));
    let first = STARTS[usize::from(start)];
    let size = SIZES[usize::from(length)];
    let pages = Where::pages(first, first + size);
    // Few ranges are not of whole pages.
    let bytes = match more {
        60 => Where { start_bytes: 1, ..pages },
        61 => Where { end_bytes: 1, ..pages },
        62 => Where { start_bytes: 0x800, end_bytes: 0x801, ..pages },
        63 => Where { start_bytes: 4095, ..pages },
        _ => pages,
    };
    let flags =
        u32::try_from(if detail < 56 { [1, 1, 0, 1, 3, 0, 2, 5][detail % 8] } else { detail - 56 }).unwrap_or(0);
    let unknown = if (detail, more % 2) == (56, 1) { 0x10 } else { 0 };
    match kind {
        0..=11 => Operation::Allocate(who, pages),
        12..=26 => Operation::Wire(who, bytes, flags | unknown, more % 16 == 5),
        27..=37 => Operation::Unwire(who, bytes, flags | unknown),
        38..=46 => Operation::Write(who, pages, u8::try_from(0x80 + more).unwrap_or(0x80)),
        47..=51 => Operation::Read(who, first),
        52..=57 => Operation::Deallocate(who, bytes),
        58..=65 => {
            let prot = [3, 1, 0, 3, 1, 5, 7, 2, 4, 6][detail % 10];
            Operation::Protect(who, bytes, more % 8 == 3, prot)
        }
        66 => Operation::Guard(who, pages),
        67..=69 => Operation::Mlock(who, bytes),
        70..=71 => Operation::Munlock(who, bytes),
        72..=73 => Operation::Mlockall(who, detail % 4 != 1, detail % 4 != 0 && detail % 4 != 3 || detail == 63),
        74 => Operation::Munlockall(who),
        75..=76 => Operation::Vslock(who, bytes),
        77 => Operation::Vsunlock(who, bytes),
        78..=79 => Operation::LimitMemlock(who, [4, 8, 0, 24, 1 << 20][detail % 5]),
        80 => Operation::LimitPrivilege(who, detail % 2 == 1),
        81..=82 => Operation::LimitWire([8, 4, 16, 0, 24, 1024][detail % 6]),
        83..=84 => Operation::NewTask,
        85..=87 => Operation::Fork(who),
        88 => Operation::End(who),
        89..=90 => Operation::NewObject(detail % 3 != 2, 1 + more % 8),
        91..=96 => Operation::Map {
            task: who,
            at: first,
            object: detail / 8,
            from: [0, 0, 1, 2][detail % 4],
            pages: usize::try_from(size.clamp(1, 8)).unwrap_or(1),
            private: more % 2 == 0,
            prot: [3, 1, 3, 5][more / 2 % 4],
        },
        97 => Operation::Truncate(who, more),
        98 => Operation::Fail(who, detail, if more % 2 == 0 { Fault::Io } else { Fault::Refused }),
        99 => Operation::Heal(who, detail),
        100 => Operation::Kill(who),
        101..=102 => Operation::Inherit(who, pages, [Inherit::Share, Inherit::Nothing, Inherit::Copy][detail % 3]),
        _ => Operation::Advise(who, pages, detail % 2 == 0),
    }
}
