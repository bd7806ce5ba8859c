//! The byte routines that compiled code calls and that a C library would bring, for code that has none: a kernel, and programs in ring 3.
//! And a search that a kernel does of its page tables.
//!
//! They are string instructions: where ring 0 is emulated, one of those counts as one instruction however long it runs, and a quadword
//! element costs as much as a byte. In assembly because a loop in Rust may be compiled into a call of the routine that it implements. They
//! also take the place of the ones that the bare target's standard library brings and the host's target does not.
#![no_std]
#![cfg_attr(test, expect(unsafe_code, reason = "assembly"))]
// UNSAFETY: the routines keep the C library's contracts; the tests call them as those want it.

#[cfg(test)]
extern crate std;

/// Defines `memcpy`, `memmove`, `memset`, `memcmp` and `bcmp` under names that begin with `prefix`, as the C library has them. The direction
/// flag is clear again when they return.
#[macro_export]
macro_rules! routines {
    ($prefix:literal) => {
        core::arch::global_asm!(
            ".pushsection .text.strings, \"ax\"",
            // memcpy(to: rdi, from: rsi, bytes: rdx) -> to
            concat!(".global ", $prefix, "memcpy"),
            concat!($prefix, "memcpy:"),
            "mov rax, rdi",
            "mov rcx, rdx",
            "shr rcx, 3",
            "rep movsq",
            "mov ecx, edx",
            "and ecx, 7",
            "rep movsb",
            "ret",
            // memmove(to: rdi, from: rsi, bytes: rdx) -> to; downwards where `to` lies inside the source.
            concat!(".global ", $prefix, "memmove"),
            concat!($prefix, "memmove:"),
            "mov rax, rdi",
            "sub rax, rsi",
            "cmp rax, rdx",
            concat!("jae ", $prefix, "memcpy"),
            "mov rax, rdi",
            "lea rdi, [rdi + rdx - 1]",
            "lea rsi, [rsi + rdx - 1]",
            "mov ecx, edx",
            "and ecx, 7",
            "std",
            "rep movsb",
            "mov rcx, rdx",
            "shr rcx, 3",
            "sub rdi, 7",
            "sub rsi, 7",
            "rep movsq",
            "cld",
            "ret",
            // memset(to: rdi, byte: esi, bytes: rdx) -> to
            concat!(".global ", $prefix, "memset"),
            concat!($prefix, "memset:"),
            "mov r8, rdi",
            "movzx eax, sil",
            "movabs rcx, 0x0101010101010101",
            "imul rax, rcx",
            "mov rcx, rdx",
            "shr rcx, 3",
            "rep stosq",
            "mov ecx, edx",
            "and ecx, 7",
            "rep stosb",
            "mov rax, r8",
            "ret",
            // memcmp(a: rdi, b: rsi, bytes: rdx) -> difference of the first two bytes that differ
            concat!(".global ", $prefix, "memcmp"),
            concat!(".global ", $prefix, "bcmp"),
            concat!($prefix, "memcmp:"),
            concat!($prefix, "bcmp:"),
            "xor eax, eax",
            "mov rcx, rdx",
            "cmp rcx, rcx",
            "repe cmpsb",
            "je 2f",
            "movzx eax, byte ptr [rdi - 1]",
            "movzx ecx, byte ptr [rsi - 1]",
            "sub eax, ecx",
            "2: ret",
            ".popsection",
        );
    };
}

/// Defines `first_nonzero` under a name that begins with `prefix`: `usize first_nonzero(const uint64_t *words, size_t count)` returns the
/// index of the first of `count` words that is not zero, or `count`.
#[macro_export]
macro_rules! first_nonzero {
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

#[cfg(test)]
mod test {
    use std::vec;
    use std::vec::Vec;

    // Under names of their own: the host's process has routines of these names already.
    routines!("guest_");
    first_nonzero!("guest_");

    unsafe extern "C" {
        fn guest_memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
        fn guest_memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
        fn guest_memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8;
        fn guest_memcmp(a: *const u8, b: *const u8, bytes: usize) -> i32;
        fn guest_first_nonzero(words: *const u64, count: usize) -> usize;
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at * 7 % 251).expect("below 251")).collect()
    }

    #[test]
    fn copies_and_moves_agree_with_the_standard_library() {
        for length in (0..70).chain([255, 256, 4095]) {
            for (from, to) in [(0, 0), (0, 1), (1, 0), (0, 7), (7, 0), (0, 8), (9, 3), (3, 9), (0, 100), (100, 0)] {
                let mut ours = sample(length + 200);
                let mut theirs = ours.clone();
                theirs.copy_within(from..from + length, to);
                // SAFETY: both ranges lie inside the vector.
                let result = unsafe { guest_memmove(ours.as_mut_ptr().add(to), ours.as_ptr().add(from), length) };
                assert_eq!(result, ours.as_mut_ptr().wrapping_add(to));
                assert_eq!(ours, theirs, "{length} bytes from {from} to {to}");

                let source = sample(length);
                let mut copy = vec![0; length + 1];
                // SAFETY: two vectors of at least `length` bytes.
                unsafe { guest_memcpy(copy.as_mut_ptr(), source.as_ptr(), length) };
                assert_eq!((copy.get(..length), copy.last()), (Some(&*source), Some(&0)));
            }
        }
    }

    #[test]
    fn fills_use_the_low_byte_and_stay_inside() {
        for length in 0..70 {
            let mut bytes = vec![1; length + 1];
            // SAFETY: the vector has more than `length` bytes.
            unsafe { guest_memset(bytes.as_mut_ptr(), 0x5a5, length) };
            assert!(bytes.iter().take(length).all(|byte| *byte == 0xa5));
            assert_eq!(bytes.last(), Some(&1));
        }
    }

    #[test]
    fn comparison_finds_the_first_difference_and_its_sign() {
        for length in 0..70 {
            let a = sample(length);
            // SAFETY: two slices of `length` bytes.
            let compare = |b: &[u8]| unsafe { guest_memcmp(a.as_ptr(), b.as_ptr(), length) };
            assert_eq!(compare(&a), 0);
            for at in 0..length {
                let mut b = a.clone();
                b[at] = 255;
                assert!(compare(&b) < 0, "{length} bytes, difference at {at}");
            }
        }
        // SAFETY: two slices of 2 bytes.
        assert!(unsafe { guest_memcmp([0xff, 0].as_ptr(), [1, 9].as_ptr(), 2) } > 0);
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
