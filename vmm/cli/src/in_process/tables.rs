//! Whether page tables map nothing but what their map shows.

use wirevm_map::fake::FakePmap;
use wirevm_map::{EntryKind, Ports, Prot, VmMap};

/// Checks that every mapping leads to the frame that the map shows for its page, with no right that its entry lacks.
///
/// # Errors
/// A sentence about the first mapping that does not.
pub(super) fn check<P: Ports<Pmap = FakePmap>>(map: &VmMap<P>) -> Result<(), String> {
    let mapped: Vec<_> =
        map.with_pmap(|pmap| pmap.mapped_pages().into_iter().map(|page| (page, pmap.translation(page))).collect());
    let bounds = map.bounds();
    let entries = map.entries();
    let frames = map.frames(bounds.start, bounds.end);
    for (page, translation) in mapped {
        let entry = entries.get(entries.partition_point(|entry| entry.pages.end <= page));
        let entry = entry.filter(|entry| entry.pages.contains(page));
        if map.is_detached() || !bounds.contains(page) || entry.is_some_and(|entry| entry.kind == EntryKind::Submap) {
            // Another map's, which has the same page tables.
            continue;
        }
        let row = frames.get(frames.partition_point(|row| row.pages.end <= page));
        let frame = row.and_then(|row| Some(row.frames?.first + (page - row.pages.start)));
        let agrees = match (translation, entry) {
            (Some(mapped), Some(entry)) => {
                let writes = mapped.prot.contains(Prot::WRITE);
                // Pages that others see too are mapped without the right to write, until they are copied.
                entry.prot.contains(mapped.prot) && !(writes && entry.needs_copy) && frame == Some(mapped.frame)
            }
            _ => false,
        };
        if !agrees {
            return Err(format!("page {page} is mapped as {translation:?}, entry {entry:?}, frame {frame:?}"));
        }
    }
    Ok(())
}
