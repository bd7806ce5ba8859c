//! Memory objects: the pages that entries show, and the page tables through which they show them.
//!
//! All objects of a system and all page tables live in one place behind one lock ([`Objects`]), because what happens to a
//! page concerns every map that shows it: a copied page must replace the old one in all of them, a shadow takes over the pages of
//! the object it hides. Objects are named by number ([`ObjectId`]); an operation that gives up the lock keeps the objects it will
//! come back to alive by a hold.

mod chain;
mod collapse;
mod copy;
mod count;
mod extent;
mod fill;
mod managed;
mod pager;
mod populate;
mod ready;
mod returns;
mod still;
mod view;
mod window;
mod withdraw;

use alloc::sync::Arc;
use core::fmt;
use core::ops::{Index, IndexMut};
use core::sync::atomic::AtomicU64;

use slab::Slab;

pub(crate) use chain::Found;
pub(crate) use copy::Transfer;
pub(crate) use count::{Counts, PinList};
pub(crate) use extent::{Extent, Pin, Resident};
pub(crate) use fill::Filling;
pub(crate) use managed::{Coming, Managed, Manager, StoreIn};
pub(crate) use pager::{FilePager, PageIn};
pub(crate) use populate::{BLOCK_PAGES, MOST_FILLED_PAGES, Obstacle};
pub(crate) use returns::{Returns, Sending, Sent};
pub(crate) use still::Copies;
pub(crate) use view::View;
pub(crate) use window::Window;

use crate::ports::{Frames, Ports};

/// Names an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectId(u32);

impl ObjectId {
    pub(crate) const fn number(self) -> u32 {
        self.0
    }
}

/// Names the page tables of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SpaceId(u32);

/// Who supplies an object's pages and takes them back.
///
/// Whatever depends on it matches on it, so a further kind can't be forgotten anywhere.
#[derive(Debug)]
pub(crate) enum Pager {
    /// Guest RAM itself is the pages' home: an absent page is zero, and writing a page back is to sync its
    /// frame. The pager's copy *is* the resident page, so emptying the cache changes no byte.
    Ram,
    /// A file whose content is made up.
    File(FilePager),
    /// A manager that keeps a copy somewhere else.
    Managed(Managed),
}

/// The object that an object without a page of its own shows instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    pub(crate) object: ObjectId,
    /// The page of it that page 0 of the shadow hides.
    pub(crate) offset: u64,
}

/// Pages that belong together, whichever entries show them.
///
/// An object with shadows, or that an entry shows which needs a copy, is never written: it only gains pages where there were none.
#[derive(Debug)]
pub(crate) struct VmObject {
    pub(crate) pager: Pager,
    /// One past the last page.
    pub(crate) pages: u64,
    pub(crate) resident: Resident,
    /// What shines through where no page is resident: this object is its shadow.
    pub(crate) backing: Option<Backing>,
    /// The objects that this one backs.
    pub(crate) shadows: alloc::vec::Vec<ObjectId>,
    /// Where entries show the object.
    pub(crate) views: alloc::vec::Vec<View>,
    /// How many wired entries that show *this* object count on a page of an object below.
    pub(crate) below: Counts,
    /// Handles that name the object from outside.
    pub(crate) handles: u32,
    /// Operations that will come back to the object.
    pub(crate) holds: u32,
    /// Faults fail from now on.
    pub(crate) is_dead: bool,
}

impl VmObject {
    pub(crate) const fn new(pager: Pager, pages: u64) -> Self {
        Self {
            pager,
            pages,
            resident: Resident::new(),
            backing: None,
            shadows: alloc::vec::Vec::new(),
            views: alloc::vec::Vec::new(),
            below: Counts::new(),
            handles: 0,
            holds: 0,
            is_dead: false,
        }
    }

    /// Tells whether somebody shows the object, names it, or will come back to it.
    pub(crate) const fn is_used(&self) -> bool {
        !self.views.is_empty() || self.handles > 0 || self.holds > 0
    }

    /// Tells whether pages that are absent come from somewhere else than zero.
    pub(crate) const fn is_external(&self) -> bool {
        match self.pager {
            Pager::Ram => false,
            Pager::File(_) | Pager::Managed(_) => true,
        }
    }
}

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct ObjectTable {
    objects: Slab<VmObject>,
    /// Objects that nobody uses any more and whose managers have not been told. Each is held.
    terminating: alloc::vec::Vec<ObjectId>,
    /// Counts what waits for whoever works in the background; those objects are part of it.
    background: Arc<AtomicU64>,
    #[cfg(test)]
    pub(crate) mutant: Option<crate::planted::Mutant>,
}

/// All objects and all page tables of a system.
pub(crate) struct Objects<P: Ports> {
    pub(crate) table: ObjectTable,
    spaces: Slab<P::Pmap>,
}

impl Index<ObjectId> for ObjectTable {
    type Output = VmObject;
    fn index(&self, id: ObjectId) -> &VmObject {
        &self.objects[id.0 as usize]
    }
}

impl IndexMut<ObjectId> for ObjectTable {
    fn index_mut(&mut self, id: ObjectId) -> &mut VmObject {
        &mut self.objects[id.0 as usize]
    }
}

impl ObjectTable {
    /// Adds an object that nothing shows yet.
    pub(crate) fn add(&mut self, object: VmObject) -> ObjectId {
        ObjectId(u32::try_from(self.objects.insert(object)).unwrap_or(u32::MAX))
    }

    /// Returns the object of that number, if there is one.
    pub(crate) fn by_number(&self, number: u64) -> Option<ObjectId> {
        let id = ObjectId(u32::try_from(number).ok()?);
        self.objects.contains(id.0 as usize).then_some(id)
    }

    /// Returns all objects.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ObjectId, &VmObject)> {
        self.objects.iter().map(|(id, object)| (ObjectId(u32::try_from(id).unwrap_or(u32::MAX)), object))
    }

    /// Ends the object if nothing refers to it any more, and then whatever only it referred to; or lets its last
    /// shadow take its pages over.
    pub(crate) fn settle(&mut self, id: ObjectId, frames: &impl Frames) {
        let mut next = Some(id);
        while let Some(id) = next.take() {
            let object = &self[id];
            if object.is_used() {
                return;
            }
            match object.shadows.as_slice() {
                [] => {
                    // The manager gets back what is its own before its object ends (row O-10).
                    if self.begin_termination(id) {
                        return;
                    }
                    let mut object = self.objects.remove(id.0 as usize);
                    object.resident.remove_all(|run| frames.free(run));
                    if let Some(Backing { object: below, .. }) = object.backing {
                        self[below].shadows.retain(|shadow| *shadow != id);
                        next = Some(below);
                    }
                }
                [shadow] => self.collapse(id, *shadow, frames),
                _ => {}
            }
        }
    }

    /// Gives a hold back.
    pub(crate) fn let_go(&mut self, id: ObjectId, frames: &impl Frames) {
        let object = &mut self[id];
        object.holds -= 1;
        if !object.is_used() {
            self.settle(id, frames);
        }
    }
}

impl<P: Ports> Objects<P> {
    /// Returns no objects; `background` counts what waits for whoever works in the background.
    pub(crate) fn new(background: Arc<AtomicU64>) -> Self {
        Self { table: ObjectTable { background, ..ObjectTable::default() }, spaces: Slab::new() }
    }

    /// Takes over page tables.
    pub(crate) fn add_space(&mut self, pmap: P::Pmap) -> SpaceId {
        SpaceId(u32::try_from(self.spaces.insert(pmap)).unwrap_or(u32::MAX))
    }

    /// Gives page tables up.
    pub(crate) fn remove_space(&mut self, space: SpaceId) -> P::Pmap {
        self.spaces.remove(space.0 as usize)
    }

    pub(crate) fn pmap(&mut self, space: SpaceId) -> &mut P::Pmap {
        &mut self.spaces[space.0 as usize]
    }

    /// Returns the objects and one map's page tables.
    pub(crate) fn split(&mut self, space: SpaceId) -> (&mut ObjectTable, &mut P::Pmap) {
        (&mut self.table, &mut self.spaces[space.0 as usize])
    }
}

impl<P: Ports> fmt::Debug for Objects<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("objects", &self.table.objects.len()).finish_non_exhaustive()
    }
}
