//! What can be wrong with options.

use std::io;
use std::path::PathBuf;

use wirevm_abi::archive::MAX_ENTRIES;
use wirevm_abi::boot::MAX_VCPUS;
use wirevm_devices::folio::FolioPolicy;

use super::check::MAX_RAM_BYTES;
use crate::hosts::On;
use crate::size::Bytes;

/// Error of reading or checking options.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file can't be read.
    #[error("cannot read the configuration file '{path}'")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The configuration file makes no sense.
    #[error("'{path}' is not a valid configuration: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Where and why, in one line.
        reason: String,
    },
    /// No RAM.
    #[error("guest memory must not be 0 bytes; the smallest size is 2 MiB")]
    NoMemory,
    /// RAM that is not made of large pages.
    #[error("guest memory must be a multiple of 2 MiB; {} is not", Bytes(*bytes))]
    MemorySize {
        /// The size asked for.
        bytes: u64,
    },
    /// RAM that KVM can't take.
    #[error("guest memory of {} is more than the {} that KVM takes", Bytes(*bytes), Bytes(MAX_RAM_BYTES))]
    TooMuchMemory {
        /// The size asked for.
        bytes: u64,
    },
    /// A mode that does not exist yet.
    #[error("durability=atomic is not available in this version; choose shared or none")]
    Atomic,
    /// A policy for the pieces of a file that syncs don't go to.
    #[error(
        "folio={folio} is about how a RAM file is kept in memory, and durability=none promises nothing of one; leave one of them out"
    )]
    Folio {
        /// The policy asked for.
        folio: FolioPolicy,
    },
    /// A quota that is not made of pages.
    #[error("the wire quota must be a multiple of 4 KiB; {} is not", Bytes(*bytes))]
    WireQuota {
        /// The quota asked for.
        bytes: u64,
    },
    /// A quota of stores that is not made of pages.
    #[error("the store quota must be a multiple of 4 KiB; {} is not", Bytes(*bytes))]
    StoreQuota {
        /// The quota asked for.
        bytes: u64,
    },
    /// A quota for what there is not.
    #[error("a store quota of {} means nothing without a folder for stores; name one with --store DIR", Bytes(*bytes))]
    NoStore {
        /// The quota asked for.
        bytes: u64,
    },
    /// A host with a RAM of its own was asked for, and a RAM file as well.
    #[error("--on {on} gives each host a fresh RAM of its own, so no RAM file can be named; leave '{file}' out")]
    RamFile {
        /// What is asked for.
        on: On,
        /// The file.
        file: PathBuf,
    },
    /// An image was asked for where none is booted.
    #[error("--on {on} boots no guest image; leave '{kernel}' out")]
    Kernel {
        /// What is asked for.
        on: On,
        /// The image.
        kernel: PathBuf,
    },
    /// More vCPUs than a machine can have, or none.
    #[error("a guest has 1 to {MAX_VCPUS} processors; {cpus} is not possible")]
    Cpus {
        /// How many were asked for.
        cpus: u64,
    },
    /// Processors were asked for where there is no machine.
    #[error("--on {on} has no processors of its own; leave cpus out")]
    CpusOn {
        /// What is asked for.
        on: On,
    },
    /// Programs were asked for where there is no machine.
    #[error("--on {on} has no ring 3 that programs could run in; they need the virtual machine of --on kvm")]
    ProgramsOn {
        /// What is asked for.
        on: On,
    },
    /// The demo, where pages are not kept one by one.
    #[error(
        "the demo shows that a sync writes the pages it is asked for and no others, which folio={folio} does not; leave folio out, or \
         name a script or a program"
    )]
    DemoFolio {
        /// What was asked for.
        folio: FolioPolicy,
    },
    /// A script and programs, each of which has the machine for itself.
    #[error("a script and programs can't be run together: a script starts its own, as in 'program p kv 1000'")]
    ScriptAndPrograms,
    /// More programs than can be passed to a guest.
    #[error("{count} programs are more than the {MAX_ENTRIES} that a guest takes")]
    TooManyPrograms {
        /// How many were asked for.
        count: usize,
    },
    /// A time limit that is none.
    #[error("the time limit must be more than 0 and at most 31622400 seconds; {seconds:?} is not")]
    Timeout {
        /// The limit asked for.
        seconds: f64,
    },
}

/// Error of reading `--memory`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// A key that does not exist.
    #[error("unknown key '{key}'; the keys are size, file, durability and folio")]
    Key {
        /// The key.
        key: String,
    },
    /// A key with nothing behind it.
    #[error("'{key}' has no value; write {key}=VALUE")]
    NoValue {
        /// The key.
        key: String,
    },
    /// A value that can't be read, or a key given twice.
    #[error("{0}")]
    Value(String),
}
