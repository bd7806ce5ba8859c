//! A slab that grows in small pieces.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::iter;

use slab::Slab;

/// Values, each in a place of its own as long as it stays.
///
/// [`Slab`] is one piece of memory that doubles, and a kernel whose heap is nearly full has no such piece, for all it may
/// have left. This is a slab of up to [`PIECE`] values, and pieces of so many for all others: values are never in an allocation of
/// more than a few kilobytes, and places without values take next to no memory.
#[derive(Clone, Debug)]
pub(crate) struct Slots<T> {
    /// The first [`PIECE`] values: mostly there are no others.
    first: Slab<T>,
    further: Further<T>,
}

/// All values but the first, in places from [`PIECE`] on.
#[derive(Clone, Debug)]
struct Further<T> {
    /// [`PIECE`] pieces together, numbered in order.
    rows: Vec<Vec<Piece<T>>>,
    /// The number of the first piece that has room; each names the next.
    roomy: usize,
}

#[derive(Clone, Debug)]
struct Piece<T> {
    /// [`PIECE`] of them, or none at all.
    values: Box<[Option<T>]>,
    /// Which of them are there, a bit each.
    taken: u32,
    /// The number of the next piece that has room, while this one has.
    next_roomy: usize,
}

/// Values of a piece, and pieces of a row.
const PIECE: usize = u32::BITS as usize;

/// No place, and the number of no piece.
pub(crate) const NOWHERE: usize = usize::MAX;

/// Returns the piece of a place, and the value's index there; or the row of a piece, and its index there.
const fn split(number: usize) -> (usize, usize) {
    (number / PIECE, number % PIECE)
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { first: Slab::new(), further: Further { rows: Vec::new(), roomy: NOWHERE } }
    }

    /// Returns the value in a place, if there is one.
    #[inline(always)]
    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        match self.first.get(place) {
            None if place != NOWHERE => self.further.get(place),
            found => found,
        }
    }

    /// As [`Slots::get`], to change it.
    #[inline(always)]
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        match self.first.get_mut(place) {
            None if place != NOWHERE => self.further.get_mut(place),
            found => found,
        }
    }

    /// Puts a value into a place that is free, and returns that.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        if self.first.len() < PIECE { self.first.insert(value) } else { self.further.insert(value) }
    }

    /// Takes the value out of a place, if there is one.
    pub(crate) fn remove(&mut self, place: usize) -> Option<T> {
        if place >= PIECE {
            return self.further.remove(place);
        }
        let value = self.first.try_remove(place);
        if self.first.is_empty() {
            self.first = Slab::new();
        }
        value
    }
}

impl<T> Further<T> {
    #[inline(never)]
    fn get(&self, place: usize) -> Option<&T> {
        let (number, index) = split(place);
        let (row, column) = split(number);
        self.rows.get(row)?.get(column)?.values.get(index)?.as_ref()
    }

    #[inline(never)]
    fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        let (number, index) = split(place);
        self.piece(number)?.values.get_mut(index)?.as_mut()
    }

    #[inline(always)]
    fn piece(&mut self, number: usize) -> Option<&mut Piece<T>> {
        let (row, column) = split(number);
        self.rows.get_mut(row)?.get_mut(column)
    }

    fn insert(&mut self, value: T) -> usize {
        if self.roomy == NOWHERE {
            self.add_piece();
        }
        let number = self.roomy;
        let piece = self.piece(number).expect("a piece that has room is there");
        let index = piece.insert(value);
        if piece.taken == u32::MAX {
            self.roomy = piece.next_roomy;
        }
        number * PIECE + index
    }

    /// Adds a piece without values behind all others; none has room.
    #[cold]
    fn add_piece(&mut self) {
        let empty = || Piece { values: Box::default(), taken: 0, next_roomy: NOWHERE };
        match self.rows.last_mut() {
            Some(row) if row.len() < PIECE => row.push(empty()),
            Some(_) => self.rows.push(vec![empty()]),
            // Number 0 stays empty: its places are those of the first values.
            None => self.rows.push(vec![empty(), empty()]),
        }
        let last = self.rows.len() - 1;
        self.roomy = last * PIECE + self.rows[last].len() - 1;
    }

    fn remove(&mut self, place: usize) -> Option<T> {
        let (number, index) = split(place);
        let roomy = self.roomy;
        let piece = self.piece(number)?;
        let was_full = piece.taken == u32::MAX;
        let value = piece.remove(index)?;
        if was_full {
            piece.next_roomy = roomy;
            self.roomy = number;
        }
        Some(value)
    }
}

impl<T> Piece<T> {
    /// Puts a value where there is none, which must be somewhere; returns its index.
    fn insert(&mut self, value: T) -> usize {
        if self.values.is_empty() {
            self.values = iter::repeat_with(|| None).take(PIECE).collect();
        }
        let bit = self.taken.trailing_ones();
        self.taken |= 1 << bit;
        self.values[bit as usize] = Some(value);
        bit as usize
    }

    fn remove(&mut self, index: usize) -> Option<T> {
        let value = self.values.get_mut(index)?.take()?;
        self.taken &= !(1 << index);
        if self.taken == 0 {
            self.values = Box::default();
        }
        Some(value)
    }
}

#[cfg(test)]
mod test {
    use alloc::collections::BTreeMap;

    use super::{NOWHERE, PIECE, Slots};

    #[test]
    fn values_stay_in_their_places_however_many_come_and_go() {
        let (mut slots, mut model) = (Slots::new(), BTreeMap::new());
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let mut most = 0;
        for step in 0..40_000_u64 {
            // More come than go, then more go than come.
            let goes = next() % 8 < if step % 20_000 < 10_000 { 3 } else { 5 };
            if let Some((&place, &value)) = model.range(usize::try_from(next()).unwrap_or(0) % 4096..).next()
                && goes
            {
                assert_eq!((slots.remove(place), slots.remove(place)), (Some(value), None), "after step {step}");
                model.remove(&place);
            } else {
                let place = slots.insert(step);
                assert_eq!(model.insert(place, step), None, "after step {step}");
            }
            assert_eq!(slots.get(NOWHERE), None);
            most = most.max(model.len());
        }
        assert!(most > 2 * PIECE * PIECE, "more than a row of pieces: {most}");
        for (place, value) in &model {
            assert_eq!(slots.get(*place), Some(value));
            assert_eq!(slots.get_mut(*place).copied(), Some(*value));
        }
        for (place, value) in model {
            assert_eq!(slots.remove(place), Some(value));
        }
        let places = 64 * PIECE * PIECE;
        assert!((0..places).all(|place| slots.get(place).is_none()));
    }

    #[test]
    fn places_that_were_left_are_taken_first_and_pieces_that_hold_nothing_take_no_memory() {
        let mut slots = Slots::new();
        let count = 3 * PIECE * PIECE;
        let last = (0..count).map(|value| slots.insert(value)).max();
        for place in PIECE..2 * PIECE {
            assert!(slots.remove(place).is_some());
        }
        let memory = |slots: &Slots<usize>| {
            slots.further.rows.iter().flatten().map(|piece| piece.values.len()).sum::<usize>() + slots.first.capacity()
        };
        assert_eq!(memory(&slots), count - PIECE);
        assert!(slots.further.rows.iter().flatten().all(|piece| piece.values.len() <= PIECE));
        assert!(slots.first.capacity() <= PIECE && slots.further.rows.iter().all(|row| row.capacity() <= PIECE));
        for value in 0..PIECE {
            assert!((PIECE..2 * PIECE).contains(&slots.insert(value)));
        }
        for place in 0..PIECE {
            assert!(slots.remove(place).is_some());
        }
        assert_eq!(slots.first.capacity(), 0);
        for value in 0..PIECE {
            assert!(slots.insert(value) < PIECE);
        }
        let next = slots.insert(count);
        assert_eq!(Some(next), last.map(|last| last + 1));
        for place in 0..=next {
            assert!(slots.remove(place).is_some());
        }
        assert_eq!(memory(&slots), 0);
    }
}
