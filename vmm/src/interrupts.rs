//! Which vCPU takes a device's interrupt: one that is in the guest.
//!
//! A vCPU that has left the guest, for a call that may wait for the host's memory or storage, takes no interrupt before it comes
//! back. What a device has to say is for the whole guest, so it goes to another vCPU meanwhile; where every one is away, the first
//! to come back takes it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;
use wirevm_devices::interrupt::Interrupt;

/// Tells whether the guest has not yet seen what an interrupt was raised for.
type IsUnseen = Box<dyn Fn() -> bool + Send + Sync>;

/// One device's interrupt.
struct Line {
    vector: u8,
    /// By index of the vCPU: written, it interrupts that one.
    events: Vec<EventFd>,
    is_unseen: IsUnseen,
}

/// The interrupts of a machine's devices, and where its vCPUs are.
///
/// `away` and the other words are used in one order of all threads (`SeqCst`): a vCPU says that it is away and then looks at what was
/// sent to it, and whoever sends writes that down and then looks at who is away. One of the two sees the other.
pub struct Interrupts {
    lines: Vec<Line>,
    /// Bit n: vCPU n is not in the guest, or has not yet shown that it takes interrupts.
    away: AtomicU32,
    /// By index of the vCPU, bit n: line n was raised there since the vCPU came back last.
    sent: Vec<AtomicU32>,
    /// Bit n: line n is to be raised at the first vCPU that comes back.
    held: AtomicU32,
}

impl fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupts")
            .field("away", &self.away)
            .field("sent", &self.sent)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

/// One line, as its device has it.
#[derive(Debug)]
struct LineOf {
    interrupts: Arc<Interrupts>,
    line: usize,
}

impl Interrupt for LineOf {
    fn raise(&self) -> io::Result<()> {
        self.interrupts.raise(self.line)
    }
}

/// A vCPU's time outside the guest; over when it is dropped.
#[derive(Debug)]
pub struct Away<'a> {
    interrupts: &'a Interrupts,
    vcpu: usize,
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.interrupts.come_back(self.vcpu);
    }
}

impl Interrupts {
    /// Makes the lines of a machine with `vcpus` vCPUs, 1 to 16, all of them away but the first. Each line is given by its vector
    /// and by what tells whether the guest has not yet seen what it was raised for; where nobody can tell, that is always false.
    ///
    /// A vCPU counts as away until it comes back to the guest for the first time: before, it need not take interrupts.
    ///
    /// # Errors
    /// When the kernel refuses an event.
    pub fn new(vcpus: u32, lines: Vec<(u8, IsUnseen)>) -> io::Result<Self> {
        let event = |_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let line = |(vector, is_unseen)| {
            let events = (0..vcpus).map(event).collect::<io::Result<_>>()?;
            Ok(Line { vector, events, is_unseen })
        };
        Ok(Self {
            lines: lines.into_iter().map(line).collect::<io::Result<_>>()?,
            away: AtomicU32::new(!1),
            sent: (0..vcpus).map(|_| AtomicU32::new(0)).collect(),
            held: AtomicU32::new(0),
        })
    }

    /// Returns the number of a vCPU, a vector, and the event whose write is to raise it there, for each line and vCPU.
    pub fn events(&self) -> impl Iterator<Item = (u32, u8, &EventFd)> {
        self.lines.iter().flat_map(|line| (0..).zip(&line.events).map(|(vcpu, event)| (vcpu, line.vector, event)))
    }

    /// Returns line `line` for its device.
    #[must_use]
    pub fn line(self: &Arc<Self>, line: usize) -> Box<dyn Interrupt> {
        Box::new(LineOf { interrupts: Arc::clone(self), line })
    }

    /// Says that a vCPU has left the guest, until the result is dropped. What was sent to it and the guest has not seen goes to
    /// another one.
    pub fn leave(&self, vcpu: usize) -> Away<'_> {
        if self.has_several() {
            self.away.fetch_or(bit(vcpu), Ordering::SeqCst);
            if let Some(sent) = self.sent.get(vcpu) {
                let unseen = self.lines_in(sent).filter(|(_, line)| (line.is_unseen)());
                unseen.for_each(|(index, _)| unless_lost(self.raise(index)));
            }
        }
        Away { interrupts: self, vcpu }
    }

    fn come_back(&self, vcpu: usize) {
        if self.has_several() {
            self.away.fetch_and(!bit(vcpu), Ordering::SeqCst);
            self.lines_in(&self.held).for_each(|(index, _)| unless_lost(self.send(vcpu, index)));
        }
    }

    /// Raises a line at a vCPU that is in the guest, the first of them, or else leaves it to the one that comes back first.
    fn raise(&self, line: usize) -> io::Result<()> {
        loop {
            let Some(vcpu) = self.present() else {
                self.held.fetch_or(bit(line), Ordering::SeqCst);
                // One that has come back since either took it or left it to this.
                if self.present().is_none() || !take(&self.held, line) {
                    return Ok(());
                }
                continue;
            };
            self.send(vcpu, line)?;
            let has_left = self.away.load(Ordering::SeqCst) & bit(vcpu) != 0;
            // One that has left since either looked after it or left it to this.
            if !has_left || !self.sent.get(vcpu).is_some_and(|sent| take(sent, line)) {
                return Ok(());
            }
        }
    }

    fn send(&self, vcpu: usize, line: usize) -> io::Result<()> {
        let (Some(sent), Some(raised)) = (self.sent.get(vcpu), self.lines.get(line)) else { return Ok(()) };
        sent.fetch_or(bit(line), Ordering::SeqCst);
        raised.events.get(vcpu).map_or(Ok(()), |event| event.write(1))
    }

    /// Returns the first vCPU that is in the guest. An only one always counts as that: what is sent to it waits for it.
    fn present(&self) -> Option<usize> {
        if !self.has_several() {
            return Some(0);
        }
        let away = self.away.load(Ordering::SeqCst);
        (0..self.sent.len()).find(|vcpu| away & bit(*vcpu) == 0)
    }

    /// With an only vCPU there is nothing to choose.
    fn has_several(&self) -> bool {
        self.sent.len() > 1
    }

    /// Takes all lines out of a word.
    fn lines_in(&self, word: &AtomicU32) -> impl Iterator<Item = (usize, &Line)> {
        let taken = word.swap(0, Ordering::SeqCst);
        self.lines.iter().enumerate().filter(move |(index, _)| taken & bit(*index) != 0)
    }
}

/// Takes a line out of a word; tells whether it was there.
fn take(word: &AtomicU32, line: usize) -> bool {
    word.fetch_and(!bit(line), Ordering::SeqCst) & bit(line) != 0
}

/// Returns the bit of a line or a vCPU, of which there are at most 32.
const fn bit(index: usize) -> u32 {
    1 << index
}

fn unless_lost(raised: io::Result<()>) {
    if let Err(error) = raised {
        log::error!("an interrupt is lost: {error}");
    }
}

#[cfg(test)]
mod test {
    use std::hint;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::thread;

    use super::Interrupts;

    const FIRST: u8 = 0x30;
    const SECOND: u8 = 0x31;

    /// A machine's interrupts, two lines of them; what the second is raised for nobody can tell.
    struct Rig {
        interrupts: Arc<Interrupts>,
        is_unseen: Arc<AtomicBool>,
    }

    impl Rig {
        fn new(vcpus: u32) -> Self {
            let is_unseen = Arc::new(AtomicBool::new(true));
            let flag = Arc::clone(&is_unseen);
            let lines: Vec<(u8, super::IsUnseen)> =
                vec![(FIRST, Box::new(move || flag.load(Ordering::SeqCst))), (SECOND, Box::new(|| false))];
            Self { interrupts: Arc::new(Interrupts::new(vcpus, lines).expect("events")), is_unseen }
        }

        /// All vCPUs have shown themselves.
        fn running(vcpus: u32) -> Self {
            let rig = Self::new(vcpus);
            (0..vcpus as usize).for_each(|vcpu| drop(rig.interrupts.leave(vcpu)));
            rig
        }

        fn raise(&self, line: usize) {
            self.interrupts.line(line).raise().expect("raised");
        }

        /// How often a line was raised at each vCPU since this was last asked.
        fn taken(&self, line: usize) -> Vec<u64> {
            let vector = [FIRST, SECOND][line];
            let events = self.interrupts.events().filter(|(_, raises, _)| *raises == vector);
            events.map(|(_, _, event)| event.read().unwrap_or(0)).collect()
        }
    }

    #[test]
    fn only_vcpu_gets_everything_wherever_it_is() {
        let rig = Rig::new(1);
        let away = rig.interrupts.leave(0);
        rig.raise(0);
        assert_eq!(rig.taken(0), [1]);
        drop(away);
        assert_eq!(rig.taken(0), [0], "not again");
    }

    #[test]
    fn first_vcpu_in_the_guest_is_interrupted() {
        let rig = Rig::running(3);
        rig.raise(0);
        assert_eq!((rig.taken(0), rig.taken(1)), (vec![1, 0, 0], vec![0, 0, 0]));
        rig.is_unseen.store(false, Ordering::SeqCst);
        let _first = rig.interrupts.leave(0);
        rig.raise(1);
        let _second = rig.interrupts.leave(1);
        rig.raise(0);
        assert_eq!((rig.taken(0), rig.taken(1)), (vec![0, 0, 1], vec![0, 1, 0]));
    }

    #[test]
    fn vcpu_that_was_never_back_is_not_interrupted() {
        let rig = Rig::new(2);
        let away = rig.interrupts.leave(0);
        rig.raise(0);
        assert_eq!(rig.taken(0), [0, 0]);
        drop(away);
        assert_eq!(rig.taken(0), [1, 0]);
    }

    #[test]
    fn first_to_come_back_takes_what_came_while_all_were_away() {
        let rig = Rig::running(2);
        let (first, second) = (rig.interrupts.leave(0), rig.interrupts.leave(1));
        rig.raise(1);
        rig.raise(1);
        assert_eq!(rig.taken(1), [0, 0]);
        drop(second);
        assert_eq!(rig.taken(1), [0, 1]);
        drop(first);
        assert_eq!(rig.taken(1), [0, 0]);
    }

    #[test]
    fn what_a_leaving_vcpu_has_not_seen_goes_to_another_as_long_as_nobody_has() {
        let rig = Rig::running(2);
        rig.raise(0);
        rig.raise(1);
        assert_eq!((rig.taken(0), rig.taken(1)), (vec![1, 0], vec![1, 0]));
        let first = rig.interrupts.leave(0);
        assert_eq!((rig.taken(0), rig.taken(1)), (vec![0, 1], vec![0, 0]), "nobody can tell of the second line");
        let second = rig.interrupts.leave(1);
        assert_eq!(rig.taken(0), [0, 0]);
        drop(first);
        assert_eq!(rig.taken(0), [1, 0]);
        rig.is_unseen.store(false, Ordering::SeqCst);
        drop(second);
        drop(rig.interrupts.leave(0));
        assert_eq!(rig.taken(0), [0, 0], "it was seen");
    }

    /// Two threads go on together, as closely as they can.
    fn meet(arrived: &AtomicU64, round: u64) {
        arrived.fetch_add(1, Ordering::SeqCst);
        let mut looks = 0_u32;
        while arrived.load(Ordering::SeqCst) < 2 * round {
            looks += 1;
            if looks.is_multiple_of(4096) {
                thread::yield_now();
            } else {
                hint::spin_loop();
            }
        }
    }

    /// What was raised reaches a vCPU that is in the guest, however raising and leaving meet.
    #[test]
    fn no_interrupt_is_left_with_a_vcpu_that_stays_away() {
        const ROUNDS: u64 = 100_000;
        let rig = Rig::running(2);
        let (begun, ended, looked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    meet(&begun, round);
                    (0..round % 61).for_each(|_| hint::spin_loop());
                    rig.raise(0);
                    meet(&ended, round);
                    meet(&looked, round);
                }
            });
            let mut lost = 0;
            for round in 1..=ROUNDS {
                meet(&begun, round);
                (0..round % 53).for_each(|_| hint::spin_loop());
                let away = rig.interrupts.leave(0);
                meet(&ended, round);
                // The raise is over and vCPU 0 is away still: whatever it got, it has not seen.
                lost += u64::from(rig.taken(0)[1] == 0);
                drop(away);
                rig.taken(0);
                meet(&looked, round);
            }
            assert_eq!(lost, 0);
        });
    }
}
