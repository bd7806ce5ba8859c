//! The byte routines that compiled code calls, and a search of the kernel's own.

wirevm_strings::routines!("");
wirevm_strings::first_nonzero!("");
