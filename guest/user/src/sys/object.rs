//! Memory objects.

use wirevm_abi::{StoreName, user};

use super::raw::safe_call;
use crate::{KernReturn, Prot};

/// What is behind an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Zero pages in guest RAM.
    Anonymous,
    /// A store of the host's.
    Store(StoreName),
    /// The same, of which the host keeps no copy of what it has supplied.
    Exclusive(StoreName),
}

/// Where stores through a mapping go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To the object, where whoever maps it sees them. Children share the mapping.
    Shared,
    /// Into a copy. Children get copies.
    Private,
}

/// A memory object that is open; dropping this closes it, and what is mapped of it stays.
#[derive(Debug)]
pub struct Object(u64);

impl Object {
    /// Opens an object of so many pages.
    ///
    /// # Errors
    /// [`KernReturn::FAILURE`]: the host has no such store, or gives it to nobody else. [`KernReturn::RESOURCE_SHORTAGE`].
    pub fn open(kind: ObjectKind, pages: u64) -> Result<Self, KernReturn> {
        let (kind, [low, high]) = match kind {
            ObjectKind::Anonymous => (user::OBJECT_ANONYMOUS, [0; 2]),
            ObjectKind::Store(name) => (user::OBJECT_STORE, name.to_words()),
            ObjectKind::Exclusive(name) => (user::OBJECT_EXCLUSIVE, name.to_words()),
        };
        let (code, value) = safe_call(user::OBJECT_OPEN, [kind, pages, low, high]);
        KernReturn::check(code).map(|()| Self(value))
    }

    /// Maps pages of the object wherever there is room, and returns the address in bytes.
    ///
    /// # Errors
    /// [`KernReturn::NO_SPACE`]; [`KernReturn::INVALID_ARGUMENT`] for no page. Nothing is changed then.
    pub fn map(&self, first_page: u64, pages: u64, prot: Prot, mode: Mode) -> Result<u64, KernReturn> {
        self.map_at(user::ANYWHERE, first_page, pages, prot, mode)
    }

    /// As [`Object::map`], in the pages from `address` on.
    ///
    /// # Errors
    /// As for [`Object::map`]; [`KernReturn::NO_SPACE`] also where something is there already.
    pub fn map_at(&self, address: u64, first_page: u64, pages: u64, prot: Prot, mode: Mode) -> Result<u64, KernReturn> {
        let mode = match mode {
            Mode::Shared => user::MAP_SHARED,
            Mode::Private => user::MAP_PRIVATE,
        };
        // Nothing that is mapped is replaced, so no memory that lives changes.
        let (code, value) = safe_call(user::VM_MAP, [self.0, address, first_page, pages, prot.bits(), mode]);
        KernReturn::check(code).map(|()| value)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        safe_call(user::OBJECT_CLOSE, [self.0]);
    }
}
