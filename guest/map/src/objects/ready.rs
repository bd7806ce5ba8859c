//! Wiring pages that are there already, as most are.

use super::count::Topmost;
use super::{Objects, Pin, PinList, SpaceId, Window};
use crate::ports::{OutOfFrames, Ports};
use crate::units::Prot;

impl<P: Ports> Objects<P> {
    /// Maps pages that the window begins with and counts one more wired entry on each, at one look, where nothing else has to be done for
    /// `access`: they are a run of the window's own object (all of the window, where neighbouring runs may be mapped as 2 MiB), and no
    /// call to the host about them is under way. Those that the host does not hold are added to `pins`, if there is such a list. Returns
    /// how many there are; none, with nothing changed, where it is not so.
    ///
    /// Where the pages are mapped already it is to the same frames, and such mappings keep their marks: nobody has to collect them.
    ///
    /// # Errors
    /// [`OutOfFrames`] when no frame is left for a table; some of the pages may be mapped then, and none is counted.
    pub(crate) fn wire_ready(
        &mut self,
        space: SpaceId,
        window: &Window,
        access: Prot,
        pins: Option<&mut PinList>,
    ) -> Option<Result<u64, OutOfFrames>> {
        let (table, pmap) = self.split(space);
        let object = &mut table[window.object];
        if object.is_dead || object.backing.is_none() && window.indices.end > object.pages {
            return None;
        }
        let (start, end) = (window.pages.start, object.pages);
        let mut is_held = false;
        let (pages, entered) = object.resident.change_first_run(window.indices, |pages, extent| {
            let denied = extent.denied();
            if pages.len() < window.pages.len() && window.holds_large_page() {
                return None;
            }
            if extent.pin == Pin::Going || !(denied & (access | Prot::READ)).is_none() {
                return None;
            }
            let rights = window.rights(window.object, denied);
            if super::window::enter_run(pmap, start, extent.frames, rights).is_err() {
                return Some(Err(OutOfFrames));
            }
            extent.wires += 1;
            if let Some(list) = pins
                && extent.pin == Pin::No
            {
                is_held = list.mark(&Topmost { owner: window.object, pages, end }, extent, true);
            }
            Some(Ok(()))
        })?;
        object.holds += u32::from(is_held);
        Some(entered?.map(|()| pages))
    }
}
