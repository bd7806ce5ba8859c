//! The guest's end of the completion ring.

use wirevm_abi::completion::{self, Completion};
use wirevm_abi::ring::Broken;

use crate::mem::SharedWords;

const HEAD: usize = (completion::HEAD_OFFSET / 8) as usize;
const TAIL: usize = (completion::TAIL_OFFSET / 8) as usize;
const QUIET: usize = (completion::QUIET_OFFSET / 8) as usize;

/// The consumer's end.
#[derive(Debug)]
pub struct CompletionRing {
    words: SharedWords,
    head: u64,
}

impl CompletionRing {
    /// Takes the consumer's end.
    pub fn new(words: SharedWords) -> Self {
        Self { words, head: words.load(HEAD) }
    }

    /// Hands out every completion that is there, and tells the host that their places are free again. The host raises no
    /// interrupt meanwhile.
    ///
    /// # Errors
    /// [`Broken`] when the host broke the ring's rules.
    pub fn drain(&mut self, mut take: impl FnMut(Completion)) -> Result<(), Broken> {
        let mut tail = self.words.load(TAIL);
        while completion::used(self.head, tail)? > 0 {
            self.words.store(QUIET, 1);
            while self.head != tail {
                let at = usize::try_from(completion::offset(self.head) / 8).unwrap_or(0);
                let words = core::array::from_fn(|offset| self.words.load(at + offset));
                self.head += 1;
                take(Completion::from_words(words));
            }
            self.words.store(HEAD, self.head);
            // The host looks at the word behind the tail that it publishes; this looks at the tail behind the word. One of
            // the two sees the other, as long as neither look goes ahead of its store.
            self.words.exchange(QUIET, 0);
            tail = self.words.load(TAIL);
        }
        Ok(())
    }
}
