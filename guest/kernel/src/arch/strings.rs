//! The byte routines that compiled code calls, and a search of the kernel's own as a string instruction: where ring 0 is emulated, one of
//! those counts as one instruction however long it runs.
#![expect(unsafe_code, reason = "assembly")]
// UNSAFETY: the routines keep the contracts of the symbols they define; the direction flag is clear again when they return.

macro_rules! search {
    ($prefix:literal) => {
        core::arch::global_asm!(
            ".pushsection .text.strings, \"ax\"",
            // first_nonzero(words: rdi, count: rsi) -> index of the first word that is not zero, or count
            concat!(".global ", $prefix, "first_nonzero"),
            concat!($prefix, "first_nonzero:"),
            "mov rcx, rsi",
            "xor eax, eax",
            "repe scasq",
            "mov rax, rsi",
            "je 2f",
            "sub rax, rcx",
            "dec rax",
            "2: ret",
            ".popsection",
        );
    };
}

#[cfg(guest_image)]
wirevm_strings::routines!("");
#[cfg(guest_image)]
search!("");

#[cfg(test)]
mod test {
    // Under a name of its own, as the routines are in their tests.
    search!("guest_");

    unsafe extern "C" {
        fn guest_first_nonzero(words: *const u64, count: usize) -> usize;
    }

    #[test]
    fn search_finds_the_first_word_that_is_not_zero() {
        for count in 0..20 {
            for first in 0..=count {
                let words: Vec<u64> = (0..count + 1).map(|at| if at < first { 0 } else { 1 << 63 }).collect();
                // SAFETY: the vector has more than `count` words.
                assert_eq!(unsafe { guest_first_nonzero(words.as_ptr(), count) }, first, "of {count} words");
            }
        }
    }
}
