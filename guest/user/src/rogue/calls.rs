//! Calls with arguments that are not to be believed.

use core::sync::atomic::{AtomicU64, Ordering};

use wirevm_abi::user;
use wirevm_user::process::{Ended, exit};
use wirevm_user::random::Random;
use wirevm_user::{Mode, Object, ObjectKind, PAGE_BYTES, Prot, Region, println, raw};

use super::ended;

/// One more than the highest number that is called.
const NUMBERS: u64 = 64;
/// Nanoseconds that a call which waits may take.
const SHORT: u64 = 100_000;
/// Most calls of one child of `random`. Few come that far: sooner or later one gives back the child's text, or starts a thread nowhere.
const CALLS_PER_CHILD: u64 = 200;
/// Calls of `random` for each child that may be ended by one. About every sixtieth call ends its child.
const CALLS_PER_LOSS: u64 = 20;

/// Addresses and sizes that lead nowhere, or into the kernel, or over the end.
const WILD: [u64; 20] = [
    0,
    1,
    7,
    0xfff,
    0x1000,
    0x3f_ffff,
    0x40_0000,
    0x7fff_ffff_f000,
    0x7fff_ffff_ffff,
    0x8000_0000_0000,
    0x8000_0000_0000_0000,
    0xffff_7fff_ffff_ffff,
    0xffff_8000_0000_0000,
    0xffff_8880_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ffff_e000,
    0xffff_ffff_ffff_f000,
    0xffff_ffff_ffff_fff8,
    u64::MAX - 1,
    u64::MAX,
];

/// What children report, in memory that they share with their parent.
struct Counts(Region);

impl Counts {
    fn new() -> Option<Self> {
        let object = Object::open(ObjectKind::Anonymous, 1).ok()?;
        Region::map(&object, 0, 1, Prot::READ_WRITE, Mode::Shared).ok().map(Self)
    }

    fn answered(&self) -> &AtomicU64 {
        self.0.word(0)
    }

    fn errors(&self) -> &AtomicU64 {
        self.0.word(8)
    }

    /// Makes a call and counts what it answers.
    fn call(&self, number: u64, arguments: [u64; 6]) {
        if matches!(number, user::EXIT | user::THREAD_EXIT) {
            return;
        }
        // SAFETY: none; whatever becomes of this program, it is a child that is there for this.
        let (code, value) = unsafe { raw::call(number, arguments) };
        if number == user::FORK && code == 0 && value == 0 {
            exit(0);
        }
        self.answered().fetch_add(1, Ordering::Relaxed);
        if code != 0 {
            self.errors().fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns the place of a call's time limit.
const fn time_limit(number: u64) -> Option<usize> {
    match number {
        user::SLEEP => Some(0),
        user::THREAD_JOIN => Some(1),
        user::FUTEX_WAIT => Some(2),
        _ => None,
    }
}

/// Bounds how long a call may wait.
fn bounded(number: u64, mut arguments: [u64; 6]) -> [u64; 6] {
    if let Some(limit) = time_limit(number).and_then(|place| arguments.get_mut(place)) {
        *limit = (*limit).min(SHORT);
    }
    arguments
}

/// Calls every number with every wild value in every place, all others being zero, and in all places at once.
pub fn wild() -> u8 {
    let Some(counts) = Counts::new() else {
        println!("rogue: wild: no memory to count in");
        return 1;
    };
    let mut lost = 0;
    for number in 0..NUMBERS {
        let end = ended(|| {
            for place in 0..6 {
                for value in WILD {
                    let mut arguments = [0; 6];
                    arguments[place] = value;
                    counts.call(number, bounded(number, arguments));
                }
            }
            WILD.iter().for_each(|value| counts.call(number, bounded(number, [*value; 6])));
            0
        });
        lost += u64::from(end != Some(Ended::Exit(0)));
    }
    // A number far beyond.
    counts.call(u64::MAX, [u64::MAX; 6]);
    tell("wild", &counts, lost)
}

/// Makes random calls, with arguments of which some make sense, until so many have been answered.
pub fn random(count: u64, seed: u64) -> u8 {
    let Some(counts) = Counts::new() else {
        println!("rogue: random: no memory to count in");
        return 1;
    };
    let (mut child, mut lost) = (0, 0);
    loop {
        let left = count.saturating_sub(counts.answered().load(Ordering::Relaxed));
        if left == 0 || lost > count / CALLS_PER_LOSS + 1 {
            break;
        }
        let calls = left.min(CALLS_PER_CHILD);
        let end = ended(|| {
            let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(child));
            // Twice what is aimed at, so that what follows is rarely met.
            let Ok(own) = Region::allocate(32 * PAGE_BYTES) else { return 1 };
            for _ in 0..calls {
                // Now and then a number that there is not.
                let number = if random.below(20) == 0 { random.next_word() } else { random.next_word() % NUMBERS };
                let arguments = core::array::from_fn(|_| argument(&mut random, own.address()));
                counts.call(number, bounded(number, arguments));
            }
            // Without giving anything back: it may be gone.
            core::mem::forget(own);
            0
        });
        child += 1;
        lost += u64::from(end != Some(Ended::Exit(0)));
    }
    tell("random", &counts, lost).max(u8::from(counts.answered().load(Ordering::Relaxed) != count))
}

/// Returns something wild, or an address of the child's own, or a size, or a small number.
fn argument(random: &mut Random, own: u64) -> u64 {
    let page_bytes = PAGE_BYTES as u64;
    match random.below(10) {
        0 => random.pick(&WILD),
        1 => random.next_word(),
        2..5 => own + random.next_word() % 16 * page_bytes,
        5 => own + random.next_word() % (16 * page_bytes),
        6 => (1 + random.next_word() % 8) * page_bytes,
        _ => random.next_word() % 8,
    }
}

fn tell(what: &str, counts: &Counts, lost: u64) -> u8 {
    let [answered, errors] = [counts.answered(), counts.errors()].map(|count| count.load(Ordering::Relaxed));
    println!("rogue: {what}: {answered} calls answered, {errors} of them with errors; {lost} children ended by it");
    // That nothing at all was answered would be no wonder if no child came to life.
    u8::from(answered == 0)
}
