//! `wirevm bench`: what wiring and syncing cost, beside what the plain system calls cost on the same kind of file in the same minute.
//!
//! A benchmark is a list of [cases](plan::Planned). A case takes [samples](sample) of ours and of its limit in turns, on the
//! [host's side](host_side) of a machine or through a [guest], and checks what was promised. What comes of them is a
//! [document](Document), which is [shown](show) and [compared](compare).

mod about;
mod case;
mod compare;
mod document;
mod guest;
mod host_side;
mod measure;
mod memory_group;
mod output;
mod plan;
pub mod pressure_inside;
mod progress;
mod ranges;
mod read;
mod sample;
mod show;
mod statistics;
mod timed;

use std::error::Error;

pub use self::compare::Comparison;
pub use self::document::Document;
pub use self::measure::measure;
pub use self::output::Findings;
pub use self::show::{exceeded, text};
use crate::exit_code::{CommandError, ExitCode};

/// Why a case has no result.
#[derive(Debug)]
enum BenchError {
    /// It can't be measured here, for that reason.
    Skip(String),
    /// Something failed that should not.
    Failed(CommandError),
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for BenchError {
    fn from(error: E) -> Self {
        match error.into().downcast::<CommandError>() {
            Ok(error) => Self::Failed(*error),
            Err(error) => Self::Failed(CommandError::new(ExitCode::Failure, error)),
        }
    }
}
