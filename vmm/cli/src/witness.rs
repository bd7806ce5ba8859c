//! The real host's answers to a script's questions about RAM.

use wirevm_abi::RamRange;
use wirevm_devices::witness::{Witness, WitnessError};
use wirevm_map::FrameRun;

use crate::exit_code::{CommandError, ExitCode};
use crate::script::target::{TargetError, WitnessAnswer, WitnessQuery};

/// Asks the witness of a RAM of `ram_pages` pages.
///
/// # Errors
/// [`TargetError`] when it can't look, or when the guest named frames that RAM does not have.
pub fn answer(witness: &Witness, ram_pages: u64, query: &WitnessQuery) -> Result<WitnessAnswer, TargetError> {
    Ok(match query {
        WitnessQuery::Locked => WitnessAnswer::Pages(witness.locked_pages().map_err(blind)?),
        WitnessQuery::Resident(runs) => {
            let mut pages = 0;
            for range in ranges(runs, ram_pages)? {
                pages += witness.resident(range).map_err(blind)?;
            }
            WitnessAnswer::Pages(pages)
        }
        WitnessQuery::Dirty(runs) => {
            let mut pages = Some(0);
            for range in ranges(runs, ram_pages)? {
                let dirty = witness.dirty(range).map_err(blind)?;
                pages = pages.zip(dirty).map(|(sum, dirty)| sum + dirty);
            }
            pages.map_or(WitnessAnswer::Unsupported, WitnessAnswer::Pages)
        }
        WitnessQuery::Page(frame) => WitnessAnswer::Page(Box::new(witness.bytes(*frame).map_err(blind)?)),
    })
}

fn ranges(runs: &[FrameRun], ram_pages: u64) -> Result<Vec<RamRange>, TargetError> {
    let range = |run: &FrameRun| {
        RamRange::new(run.first, run.pages, ram_pages).map_err(|_| {
            let reason = format!("the guest's agent answered with frames {run:?}, which RAM does not have");
            CommandError::new(ExitCode::Failure, reason)
        })
    };
    runs.iter().map(range).collect()
}

/// Returns the error of a question that the host could not answer.
pub fn blind(error: WitnessError) -> CommandError {
    CommandError::new(ExitCode::Failure, error)
}
