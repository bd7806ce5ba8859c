//! Stores: files of the host's that back memory objects of the guest.
//!
//! A [`StoreService`] opens files of one folder by name, and has worker threads that copy pages between them and guest RAM and
//! make them stable. It answers with the truth about storage even where Linux stops telling it: every store has a book of what
//! was returned and is not known to be stable, and of what storage has lost.

mod book;
mod error;
mod file;
mod folder;
mod held;
mod queue;
mod request;
#[cfg(test)]
pub(crate) mod scripted;
mod service;
#[cfg(test)]
mod test;
mod worker;

pub use self::error::{OpenStoreError, StoreStartError};
pub use self::file::{OpenedStore, StoreFile, StoreFolder};
pub use self::folder::HostFolder;
pub use self::request::Done;
pub use self::service::{StoreConfig, StoreService, StoreStats};
