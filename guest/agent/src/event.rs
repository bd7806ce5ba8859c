//! What the guest says unasked.

use alloc::vec::Vec;

use wirevm_abi::ring::MAX_MESSAGE;

use crate::codec::{Malformed, Reader, put_bytes};

/// Something that happened in the guest. It travels among the replies, at any time between two of them; the first word of its
/// message is [`Event::ID`], which no request has for an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A program wrote to its output.
    Output {
        /// Its task. A child's output is that of the program that was started.
        task: u64,
        /// What it wrote, at most [`Event::MAX_OUTPUT_BYTES`]. Pieces are in order, and may part a character.
        bytes: Vec<u8>,
    },
}

impl Event {
    /// First word of an event's message.
    pub const ID: u64 = u64::MAX;

    /// Most bytes of output that one message holds.
    pub const MAX_OUTPUT_BYTES: u64 = (MAX_MESSAGE - 4) * 8;

    /// Appends the event's words, [`Event::ID`] included.
    pub fn encode(&self, words: &mut Vec<u64>) {
        match self {
            Self::Output { task, bytes } => {
                words.extend([Self::ID, 1, *task]);
                put_bytes(words, bytes);
            }
        }
    }

    /// Decodes an event from all words of a message. `None` where it is no event's.
    ///
    /// # Errors
    /// [`Malformed`] for an event of an unknown kind, and for too few or too many words.
    pub fn decode(words: &[u64]) -> Result<Option<Self>, Malformed> {
        let mut from = Reader::new(words);
        if from.word() != Ok(Self::ID) {
            return Ok(None);
        }
        let event = match from.word()? {
            1 => Self::Output { task: from.word()?, bytes: from.bytes()? },
            _ => return Err(Malformed),
        };
        from.end(Some(event))
    }
}

#[cfg(test)]
mod test {
    use super::Event;
    use crate::codec::Malformed;
    use alloc::vec;
    use alloc::vec::Vec;
    use wirevm_abi::ring::MAX_MESSAGE;

    fn words(event: &Event) -> Vec<u64> {
        let mut words = Vec::new();
        event.encode(&mut words);
        words
    }

    #[test]
    fn output_round_trips_and_no_cut_or_longer_one_decodes() {
        let event = Event::Output { task: 3, bytes: b"nine byte".to_vec() };
        let mut words = words(&event);
        let nine = u64::from_le_bytes(*b"nine byt");
        assert_eq!(words, [u64::MAX, 1, 3, 9, nine, u64::from(b'e')]);
        assert_eq!(Event::decode(&words), Ok(Some(event)));
        for cut in 1..words.len() {
            assert_eq!(Event::decode(&words[..cut]), Err(Malformed), "cut at {cut}");
        }
        words.push(0);
        assert_eq!(Event::decode(&words), Err(Malformed));
    }

    #[test]
    fn longest_output_fills_a_message() {
        let bytes = vec![7; usize::try_from(Event::MAX_OUTPUT_BYTES).expect("few")];
        assert_eq!(words(&Event::Output { task: 0, bytes }).len() as u64, MAX_MESSAGE);
    }

    #[test]
    fn replies_are_no_events_and_unknown_events_are_malformed() {
        assert_eq!(Event::decode(&[]), Ok(None));
        assert_eq!(Event::decode(&[7, 1, 0]), Ok(None));
        assert_eq!(Event::decode(&[u64::MAX]), Err(Malformed));
        assert_eq!(Event::decode(&[u64::MAX, 2, 0, 0]), Err(Malformed));
        assert_eq!(Event::decode(&[u64::MAX, 1, 0, u64::MAX]), Err(Malformed));
    }
}
