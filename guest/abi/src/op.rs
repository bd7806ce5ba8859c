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
/// back untouched with a completion. Flags: exactly one of [`SYNC_WAIT`] and [`SYNC_NO_WAIT`]. A lower bound:
/// other pages may become stable as well.
pub const SYNC: u16 = 4;
/// Ends the virtual machine. Word 1: exit code, 0 to 255; words 2 and 3: zero.
pub const EXIT: u16 = 5;
/// Reserved: page-in from a host file.
pub const DATA_REQUEST: u16 = 6;
/// Reserved: page-out to a host file.
pub const DATA_RETURN: u16 = 7;
/// Reserved: stable storage for a host file.
pub const SYNCHRONIZE: u16 = 8;
/// Reserved: a host counter by selector.
pub const STAT: u16 = 9;
/// Reserved: give pages of RAM back to the host.
pub const DISCARD: u16 = 10;

/// `WIRE` flag: wire pages as they appear instead of making them present at once. Offered where
/// [`feature::WIRE_ON_FAULT`](crate::feature::WIRE_ON_FAULT) is set.
pub const WIRE_ON_FAULT: u32 = 1;
/// `SYNC` flag: answer when the pages are on stable storage (or are known not to be).
pub const SYNC_WAIT: u32 = 1;
/// `SYNC` flag: start the writing and answer *pending*.
pub const SYNC_NO_WAIT: u32 = 2;
