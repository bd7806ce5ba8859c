//! What benchmarks have found, as people look at it: a table, a page, plots.

mod about;
mod goals;
mod html;
mod plot;
mod table;
mod units;

pub use self::goals::exceeded;
pub use self::html::page;
pub use self::plot::plots;
pub use self::table::text;
pub use self::units::{amount, change, ratio};

#[cfg(test)]
pub mod sample;
