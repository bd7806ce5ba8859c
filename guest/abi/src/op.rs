//! Operation numbers (entry word 0, bits 0–15) and what their words mean.
//!
//! Numbers that stand here without being offered are reserved for the operation named and answer
//! [`Status::UNSUPPORTED`](crate::Status::UNSUPPORTED), as does every number that does not stand here.

/// Opens the conversation. Word 1: the guest's [`VERSION`](crate::VERSION); words 2 and 3: zero. Results: word 1
/// the host's version, word 2 the [`feature`](crate::feature) bits, word 3 the wire quota in pages.
/// *Unsupported* (with word 1 filled in) when the versions differ. May be repeated.
pub const HELLO: u16 = 1;
/// Keeps pages in physical memory. Word 1: first page; word 2: page count; word 3: zero. Counts nest: a page
/// stays until it was unwired as often as it was wired. All pages or none. Flags: [`WIRE_ON_FAULT`].
pub const WIRE: u16 = 2;
/// Takes back one [`WIRE`] of every page of a range. Words as for `WIRE`, no flag. *Invalid argument*, and
/// nothing is unwired, when a page of the range is not wired.
pub const UNWIRE: u16 = 3;
/// Puts pages on stable storage. Word 1: first page; word 2: page count; word 3: a token that the host hands
/// back untouched with a [completion](crate::completion). Flags: exactly one of [`SYNC_WAIT`] and [`SYNC_NO_WAIT`]. A lower
/// bound: other pages may become stable as well.
pub const SYNC: u16 = 4;
/// Ends the virtual machine. Word 1: exit code, 0 to 255; words 2 and 3: zero.
pub const EXIT: u16 = 5;
/// Fills pages of RAM from a store. Word 1: [`pack_run`] of the RAM pages; word 2: first page of the store; word 3: a
/// token. Flags: bits 16 to 31 the store's number. Answered *pending*, and with a completion once RAM holds the bytes. From a
/// store opened with [`STORE_EXCLUSIVE`], the host gives up its own copy of the pages then. *Io error* for pages that can't be
/// read, or whose last [`DATA_RETURN`] was lost by storage; RAM's content is unknown then.
pub const DATA_REQUEST: u16 = 6;
/// Writes pages of RAM to a store. Words and flags as for [`DATA_REQUEST`]. The completion says that the store has the bytes;
/// whether they are stable only [`SYNCHRONIZE`] tells. RAM must not change until it comes, or the store has either.
pub const DATA_RETURN: u16 = 7;
/// Puts what was returned to a store on stable storage. Word 1: first page of the store; word 2: page count; word 3: a token.
/// Flags: bits 16 to 31 the store's number. A lower bound like [`SYNC`]. *Io error* as long as a returned page of the range
/// was lost by storage and not returned again.
pub const SYNCHRONIZE: u16 = 8;
/// Asks for a number. Word 1: a [`selector`](crate::stat); words 2 and 3: zero. Result: word 1 the number. *Invalid argument*
/// for a selector that the host does not know.
pub const STAT: u16 = 9;
/// Gives the content of pages of RAM back to the host; they are zero afterwards. Word 1: first page; word 2: page count;
/// word 3: zero. *Busy*, and nothing is given back, when one of them is wired. Offered where
/// [`feature::DISCARD`](crate::feature::DISCARD) is set: not where RAM is a file.
pub const DISCARD: u16 = 10;
/// Opens a store: a file of the host's that backs a memory object. Words 1 and 2: its [name](crate::StoreName); word 3: how
/// many pages it must have at least; one that is new, or shorter, gets them as zeros. Flags: [`STORE_EXCLUSIVE`] or none.
/// Result: word 1 its number, below 65,536. Answered at once. *Unsupported* without a folder for stores (feature bit
/// [`STORES`](crate::feature::STORES) clear); *busy* when it is open already, here or in another machine; *quota* beyond what
/// the machine may have in stores, those included that it has closed; *io error* for one that can't be opened or made.
pub const OPEN_STORE: u16 = 11;
/// Closes a store, whose number means nothing any more. Word 1: its number; words 2 and 3: zero. *Busy* while a request
/// about it has no completion. What was returned and not synchronized is not known to be stable.
pub const CLOSE_STORE: u16 = 12;
/// Starts a vCPU that has not run yet. Word 1: its index, at least 1; word 2: the virtual address of its first instruction,
/// canonical; word 3: what it finds in `RDI`. The rest of its state is that of [vCPU 0 at entry](crate::boot). Answered at once.
/// *Invalid argument* for an index or an address that can't be; *busy* when it has been started before.
pub const START_VCPU: u16 = 13;

/// `WIRE` flag: wire pages as they appear instead of making them present at once. Offered where
/// [`feature::WIRE_ON_FAULT`](crate::feature::WIRE_ON_FAULT) is set.
pub const WIRE_ON_FAULT: u32 = 1;
/// `SYNC` flag: answer when the pages are on stable storage (or are known not to be).
pub const SYNC_WAIT: u32 = 1;
/// `SYNC` flag: start the writing, answer *pending*, and post a completion when the pages are on stable storage (or are
/// known not to be).
pub const SYNC_NO_WAIT: u32 = 2;
/// `OPEN_STORE` flag: the host keeps no copy of a page that it has supplied. The guest must return such a page even if
/// it never wrote to it.
pub const STORE_EXCLUSIVE: u32 = 1;

/// Shift of a store's number in the flags of the operations on it.
pub const STORE_SHIFT: u32 = 16;
/// Most pages in one [`DATA_REQUEST`] or [`DATA_RETURN`].
pub const MAX_DATA_PAGES: u64 = 1 << 16;

/// Bits of a packed run that hold the first page.
const RUN_FIRST_BITS: u32 = 40;

/// Packs a run of RAM pages into a word: bits 0 to 39 the first page, bits 40 to 63 the count. `None` for a run that does
/// not fit or is longer than [`MAX_DATA_PAGES`].
#[must_use]
pub const fn pack_run(first: u64, pages: u64) -> Option<u64> {
    if first >> RUN_FIRST_BITS == 0 && pages <= MAX_DATA_PAGES { Some(first | pages << RUN_FIRST_BITS) } else { None }
}

/// Returns first page and count of a word that [`pack_run`] made.
#[must_use]
pub const fn unpack_run(word: u64) -> (u64, u64) {
    (word & ((1 << RUN_FIRST_BITS) - 1), word >> RUN_FIRST_BITS)
}
