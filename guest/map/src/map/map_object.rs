//! Mapping memory objects.

use super::{Placement, VmMap};
use crate::entry::{Inheritance, MapEntry};
use crate::handle::ObjectHandle;
use crate::kern_return::KernReturn;
use crate::ports::Ports;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

/// Whether what is written through a mapping reaches the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapMode {
    /// It does, and whoever maps the object sees it. Children share the mapping.
    Shared,
    /// It goes into a copy. Children get copies.
    Private,
}

impl<P: Ports> VmMap<P> {
    /// Maps pages `pages` of `object` and returns the address in bytes (FreeBSD `vm_map_find` with an object).
    ///
    /// The range may reach past the end of the object: accesses there fail with [`KernReturn::OutOfBounds`]. The mapping may get
    /// any protection later. Where future memory of the map is to be wired it is, as with [`VmMap::allocate`].
    ///
    /// # Errors
    /// As for [`VmMap::allocate`]; also [`KernReturn::InvalidArgument`] for an empty range.
    ///
    /// # Partial effects
    /// None: an error changes nothing.
    ///
    /// # Panics
    /// When the object belongs to another [`Vm`](crate::Vm).
    pub async fn map_object(
        &self,
        placement: Placement,
        object: &ObjectHandle<P>,
        pages: PageRange,
        mode: MapMode,
        prot: Prot,
    ) -> Result<u64, KernReturn> {
        assert!(object.is_of(&self.vm), "an object is mapped in its own system");
        if pages.is_empty() {
            return Err(KernReturn::InvalidArgument);
        }
        let (start, claimed) = self.exclusive(|state| {
            let start = state.place(placement, pages.len())?;
            let is_private = mode == MapMode::Private;
            let entry = MapEntry {
                object: Some(object.id()),
                offset: pages.start,
                needs_copy: is_private,
                prot,
                inheritance: if is_private { Inheritance::Copy } else { Inheritance::Share },
                ..MapEntry::new(pages.len())
            };
            self.vm.objects().table.show(object.id(), state.space, start, pages);
            state.entries.insert(start, entry);
            Ok((start, state.claim_new(start)))
        })?;
        self.wire_new(claimed, PageRange::new(start, start + pages.len())).await;
        Ok(start << PAGE_SHIFT)
    }
}
