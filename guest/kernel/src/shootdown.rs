//! How a processor makes the others forget translations, and knows that they have.
//!
//! The protocol is free of hardware, so it is tested on the host with threads. An address space counts as loaded, in a mask
//! with one bit a processor, from before its root is loaded until after another one is. Whoever changes its tables does this:
//!
//! 1. change the entries,
//! 2. read the mask ([`Shootdown::invalidate`]) and forget its own translations,
//! 3. post a request to every other processor in the mask and interrupt it,
//! 4. wait until each has served the request or has left the mask.
//!
//! A processor that sets its bit after step 2 walks the tables as they are after step 1, because it sets its bit before it
//! loads the root, and both sides use sequentially consistent operations. One that has left the mask has loaded another root
//! since, and remembers nothing.
//!
//! # Who may wait
//!
//! There is one request at a time. A processor serves the one posted to it ([`Shootdown::acknowledge`]) when the interrupt comes,
//! which is in ring 3 or at a halt, and otherwise at the next chance that the kernel gives it. So whoever waits for a lock that
//! a requester may hold must serve requests meanwhile, and whoever holds a lock that others wait for without serving
//! must not request.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use wirevm_map::PageRange;

/// Most processors that a machine has.
pub const MAX_CPUS: usize = 16;

/// What a processor is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Forget its translations of these pages, and all links between tables.
    Forget(PageRange),
    /// Load another root, if that of the space whose mask is at this address is loaded, and clear its own bit there.
    Leave(usize),
}

/// What the protocol needs of the processors.
pub trait Processors {
    /// Returns the index, below [`MAX_CPUS`], of the one that runs this.
    fn index(&self) -> usize;
    /// Does what is asked, on the processor that runs this.
    fn serve(&self, request: Request);
    /// Makes another processor acknowledge soon, wherever it runs or halts with interrupts on.
    fn interrupt(&self, cpu: usize);
    /// Waits a moment.
    fn relax(&self);
}

/// A mistake in the protocol that tests plant.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    NoOwnInvalidation,
    NoInterrupt,
    ReturnBeforeAcknowledgement,
}

/// A word on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Line(AtomicU64);

/// The request under way.
#[derive(Debug)]
pub struct Shootdown {
    /// Whether somebody makes a request.
    busy: AtomicBool,
    /// The number of the last request.
    number: AtomicU64,
    /// What it asks: pages from the first to before the second, or the address of a mask and 0.
    asked: [AtomicU64; 2],
    /// The number of the request that each processor has to serve; 0 for none.
    wanted: [Line; MAX_CPUS],
    #[cfg(test)]
    pub planted: Planted,
}

impl Shootdown {
    /// Returns the protocol with nothing under way.
    pub const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            number: AtomicU64::new(0),
            asked: [const { AtomicU64::new(0) }; 2],
            wanted: [const { Line(AtomicU64::new(0)) }; MAX_CPUS],
            #[cfg(test)]
            planted: Planted::Nothing,
        }
    }

    #[cfg(test)]
    fn is_planted(&self, planted: Planted) -> bool {
        self.planted == planted
    }

    /// Serves the request that this processor has to serve, if there is one.
    #[inline]
    pub fn acknowledge(&self, processors: &impl Processors) {
        if let Some(Line(wanted)) = self.wanted.get(processors.index())
            && wanted.load(Ordering::Acquire) != 0
        {
            self.serve(wanted, processors);
        }
    }

    #[cold]
    fn serve(&self, wanted: &AtomicU64, processors: &impl Processors) {
        loop {
            let number = wanted.load(Ordering::SeqCst);
            if number == 0 {
                return;
            }
            let [first, second] = self.asked.each_ref().map(|word| word.load(Ordering::SeqCst));
            let request = match (second, usize::try_from(first)) {
                (0, Ok(mask)) => Request::Leave(mask),
                _ => Request::Forget(PageRange::new(first, second)),
            };
            processors.serve(request);
            // If the requester did not wait, as this processor had left the mask, the next request may be under way and its
            // words mixed with these. But then its number stands here, and it is served next.
            if wanted.compare_exchange(number, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return;
            }
        }
    }

    /// Makes every processor that has the space with the mask `cpus` loaded forget `pages`, which are not none, and all
    /// links between tables. The entries have been changed. When this returns no processor uses what they were.
    pub fn invalidate(&self, processors: &impl Processors, cpus: &AtomicU64, pages: PageRange) {
        // The entries, whatever wrote them, before the mask.
        fence(Ordering::SeqCst);
        let loaded = cpus.load(Ordering::SeqCst);
        if loaded == 0 {
            return;
        }
        let own = 1 << processors.index();
        #[cfg(test)]
        let loaded = if self.is_planted(Planted::NoOwnInvalidation) { loaded & !own } else { loaded };
        if loaded & own != 0 {
            processors.serve(Request::Forget(pages));
        }
        if loaded & !own != 0 {
            self.request(processors, cpus, loaded & !own, [pages.start, pages.end]);
        }
    }

    /// Makes every processor leave the space with the mask `cpus`. Nobody loads it any more. When this returns no processor has
    /// it loaded, nor reads or writes the mask.
    pub fn evict(&self, processors: &impl Processors, cpus: &AtomicU64) {
        let loaded = cpus.load(Ordering::SeqCst);
        if loaded == 0 {
            return;
        }
        let own = 1 << processors.index();
        let mask = core::ptr::from_ref(cpus).addr();
        if loaded & own != 0 {
            processors.serve(Request::Leave(mask));
        }
        if loaded & !own != 0 {
            self.request(processors, cpus, loaded & !own, [mask as u64, 0]);
        }
    }

    /// Posts a request to the processors in `targets` and waits until none has to serve it any more.
    #[cold]
    fn request(&self, processors: &impl Processors, cpus: &AtomicU64, targets: u64, asked: [u64; 2]) {
        let leaves = asked[1] == 0;
        while self.busy.swap(true, Ordering::SeqCst) {
            // Whoever makes a request may wait for this processor.
            self.acknowledge(processors);
            processors.relax();
        }
        for (word, value) in self.asked.iter().zip(asked) {
            word.store(value, Ordering::SeqCst);
        }
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        let lines = || self.wanted.iter().enumerate().filter(|(cpu, _)| targets & 1 << cpu != 0);
        for (cpu, Line(wanted)) in lines() {
            wanted.store(number, Ordering::SeqCst);
            #[cfg(test)]
            if self.is_planted(Planted::NoInterrupt) {
                continue;
            }
            processors.interrupt(cpu);
        }
        for (cpu, Line(wanted)) in lines() {
            #[cfg(test)]
            if self.is_planted(Planted::ReturnBeforeAcknowledgement) {
                continue;
            }
            let is_loaded = || cpus.load(Ordering::SeqCst) & 1 << cpu != 0;
            // One that is to leave has done so only when its bit is clear. One that is to forget may also just have served.
            while is_loaded() && (leaves || wanted.load(Ordering::SeqCst) == number) {
                processors.relax();
            }
            // Withdrawn, if it has not been looked at: the space may soon be another, at the same address.
            wanted.compare_exchange(number, 0, Ordering::SeqCst, Ordering::SeqCst).ok();
        }
        self.busy.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod test;
