//! Flag words of the calls.

use core::ops::BitOr;

use wirevm_abi::user;

macro_rules! flag_word {
    ($(#[$about:meta])* $Flags:ident { $($(#[$flag_about:meta])* $FLAG:ident = $bits:expr;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $Flags(u64);

        impl $Flags {
            $($(#[$flag_about])* pub const $FLAG: Self = Self($bits);)*

            /// Returns the word with exactly those bits, known or not: kernels are there to refuse what they do not know.
            #[must_use]
            pub const fn from_bits(bits: u64) -> Self {
                Self(bits)
            }

            /// Returns the bits.
            #[must_use]
            pub const fn bits(self) -> u64 {
                self.0
            }
        }

        impl BitOr for $Flags {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}

flag_word! {
    /// What a range permits; the bits are Mach's `VM_PROT_*`.
    Prot {
        /// Nothing.
        NONE = 0;
        /// Loads.
        READ = user::PROT_READ;
        /// Stores.
        WRITE = user::PROT_WRITE;
        /// Instruction fetches.
        EXECUTE = user::PROT_EXECUTE;
        /// Loads and stores.
        READ_WRITE = user::PROT_READ | user::PROT_WRITE;
        /// Loads and instruction fetches.
        READ_EXECUTE = user::PROT_READ | user::PROT_EXECUTE;
    }
}

flag_word! {
    /// How memory is wired and unwired: `VM_MAP_WIRE_*` of FreeBSD's `vm_map_wire(9)`.
    WireFlags {
        /// The system's wiring, which nests by count.
        SYSTEM = 0;
        /// The user's wiring, which is one bit and does not nest.
        USER = 1;
        /// Every page of the range must be allocated and readable.
        NOHOLES = 0;
        /// Holes and unreadable entries are passed over.
        HOLESOK = 2;
        /// Entries that may not be written count as unreadable ones.
        WRITE = 4;
    }
}

flag_word! {
    /// What `vm_msync` does: `VM_SYNC_*` of XNU `osfmk/mach/vm_sync.h`.
    SyncFlags {
        /// Start writing what is dirty; don't wait for stable storage.
        ASYNCHRONOUS = 0x01;
        /// Write what is dirty and wait until it is on stable storage.
        SYNCHRONOUS = 0x02;
        /// Empty the cache of the range afterwards, wired pages excepted. Alone it loses what was not synced.
        INVALIDATE = 0x04;
        /// Forget that unwired pages of internal objects are dirty.
        KILLPAGES = 0x08;
        /// Age unwired pages.
        DEACTIVATE = 0x10;
        /// Report holes, after the whole range has been processed.
        CONTIGUOUS = 0x20;
    }
}

flag_word! {
    /// What `msync` does: `MS_*` of Linux.
    MsyncFlags {
        /// Only start the writing.
        ASYNC = 1;
        /// Empty the cache of the range afterwards.
        INVALIDATE = 2;
        /// Wait until the bytes are on stable storage; also what no flag means.
        SYNC = 4;
    }
}

flag_word! {
    /// What `mlockall` locks: `MCL_*` of Linux.
    LockAllFlags {
        /// What is mapped now.
        CURRENT = 1;
        /// What will be mapped.
        FUTURE = 2;
        /// Pages only as they become resident.
        ONFAULT = 4;
    }
}
