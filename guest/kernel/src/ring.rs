//! The guest's ends of the two message rings.

use alloc::vec::Vec;

use wirevm_abi::ring::{self, Broken, CAPACITY};

use crate::mem::SharedWords;

const HEAD: usize = (ring::HEAD_OFFSET / 8) as usize;
const TAIL: usize = (ring::TAIL_OFFSET / 8) as usize;

const fn place(count: u64) -> usize {
    (ring::word_offset(count) / 8) as usize
}

/// The guest's end of the ring that the host fills.
#[derive(Debug)]
pub struct Receiver {
    words: SharedWords,
    head: u64,
}

impl Receiver {
    /// Takes the consumer's end.
    pub fn new(words: SharedWords) -> Self {
        let head = words.load(HEAD);
        Self { words, head }
    }

    /// Takes the next message, if one is there.
    ///
    /// # Errors
    /// [`Broken`] when the host broke the ring's rules.
    pub fn receive(&mut self) -> Result<Option<Vec<u64>>, Broken> {
        let used = ring::used(self.head, self.words.load(TAIL))?;
        if used == 0 {
            return Ok(None);
        }
        let length = self.words.load(place(self.head));
        ring::check_length(length, used)?;
        let first = self.head + 1;
        let message = (first..first + length).map(|count| self.words.load(place(count))).collect();
        self.head = first + length;
        self.words.store(HEAD, self.head);
        Ok(Some(message))
    }
}

/// The guest's end of the ring that the host empties.
#[derive(Debug)]
pub struct Sender {
    words: SharedWords,
    tail: u64,
}

impl Sender {
    /// Takes the producer's end.
    pub fn new(words: SharedWords) -> Self {
        let tail = words.load(TAIL);
        Self { words, tail }
    }

    /// Sends a message of 1 to [`ring::MAX_MESSAGE`] words; `false` when there is no room now for it and `spare` words beside.
    ///
    /// # Errors
    /// [`Broken`] when the host broke the ring's rules.
    pub fn send(&mut self, message: &[u64], spare: u64) -> Result<bool, Broken> {
        let length = message.len() as u64;
        if CAPACITY - ring::used(self.words.load(HEAD), self.tail)? < length + 1 + spare {
            return Ok(false);
        }
        self.words.store(place(self.tail), length);
        for (count, word) in (self.tail + 1..).zip(message) {
            self.words.store(place(count), *word);
        }
        self.tail += length + 1;
        self.words.store(TAIL, self.tail);
        Ok(true)
    }
}
