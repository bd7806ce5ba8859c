//! A naive model of tasks and memory, and random sequences of operations that it predicts.
//!
//! The model keeps one struct a page and knows no entries, so nothing of how the map cuts, shares and merges entries can be
//! wrong in both. Where the answer does depend on entries or on what the semantics leave open, it says so: an operation that
//! it cannot predict is left out of the sequence, and a result that it cannot predict is written as `any`.

pub mod access;
pub mod batch;
pub mod draw;
pub mod lock;
pub mod objects;
pub mod operation;
pub mod render;
pub mod shrink;
pub mod state;
pub mod step;
pub mod tasks;
pub mod wire;

pub use draw::{Draws, sequences};
pub use operation::{Operation, Where};
pub use render::{Looks, script};
pub use state::{Model, Rules};

#[cfg(test)]
mod test;
