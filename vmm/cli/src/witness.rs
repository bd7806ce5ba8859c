//! The real host's answers to a script's questions about RAM.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use wirevm_abi::{PAGE_SIZE, RamRange, StoreName};
use wirevm_devices::witness::{PAGE_BYTES, Witness, WitnessError};
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
        // Whoever knows the folder for stores answers it.
        WitnessQuery::StorePage { .. } => WitnessAnswer::Unsupported,
        WitnessQuery::Page(frame) => WitnessAnswer::Page(Box::new(witness.bytes(*frame).map_err(blind)?)),
    })
}

/// Reads a page of a store in that folder through a descriptor of its own.
///
/// # Errors
/// [`TargetError`] when the file is there and can't be read.
pub fn store_page(folder: Option<&Path>, name: StoreName, page: u64) -> Result<WitnessAnswer, TargetError> {
    let unreadable = |error: io::Error| {
        CommandError::new(ExitCode::Failure, format!("page {page} of the store '{name}' cannot be read: {error}"))
    };
    let Some(folder) = folder else { return Ok(WitnessAnswer::Unsupported) };
    // A store is a regular file, so neither a link nor a pipe is one.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(folder.join(name.as_str())) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(WitnessAnswer::Unsupported),
        Err(error) => return Err(unreadable(error)),
    };
    let length = file.metadata().map_err(unreadable)?.len();
    let place = page.checked_mul(PAGE_SIZE).filter(|start| start.saturating_add(PAGE_SIZE) <= length);
    let Some(start) = place else { return Ok(WitnessAnswer::Unsupported) };
    let mut bytes = Box::new([0; PAGE_BYTES]);
    file.read_exact_at(&mut *bytes, start).map_err(unreadable)?;
    Ok(WitnessAnswer::Page(bytes))
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

#[cfg(test)]
mod test {
    use wirevm_abi::StoreName;

    use super::store_page;
    use crate::script::target::WitnessAnswer;

    #[test]
    fn page_of_a_store_is_read_and_what_is_not_there_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = StoreName::new("s").expect("a name");
        let ask = |page| store_page(Some(folder.path()), name, page).map_err(|error| error.to_string());
        assert_eq!(ask(0), Ok(WitnessAnswer::Unsupported), "no file");
        std::fs::write(folder.path().join("s"), [[1; 4096], [2; 4096]].concat()).expect("a store");
        assert_eq!(ask(1), Ok(WitnessAnswer::Page(Box::new([2; 4096]))));
        assert_eq!((ask(2), ask(u64::MAX)), (Ok(WitnessAnswer::Unsupported), Ok(WitnessAnswer::Unsupported)));
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("l")).expect("a link");
        let link = StoreName::new("l").expect("a name");
        store_page(Some(folder.path()), link, 0).expect_err("a link is no store");
        assert_eq!(store_page(None, name, 0).map_err(|error| error.to_string()), Ok(WitnessAnswer::Unsupported));
    }
}
