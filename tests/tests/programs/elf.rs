//! A program of our own, without a compiler.

use wirevm_abi::user::{EXIT, PRINT};

/// Where its one segment begins.
const START: u64 = 0x40_0000;
/// Bytes of the headers in front of the code.
const HEADERS: u64 = 0x78;
/// Bytes of the code in front of the text.
const CODE: u64 = 36;

/// Returns a static executable that prints a text and exits with a code.
pub fn printing(text: &str, code: u8) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64.
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [START + HEADERS, 64, 0] {
        image.extend(word.to_le_bytes());
    }
    // One program header of 56 bytes behind the header of 64.
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // To be loaded, readable and executable.
    image.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let bytes = HEADERS + CODE + text.len() as u64;
    for word in [0, START, START, bytes, bytes, 4096] {
        image.extend(word.to_le_bytes());
    }
    assert_eq!(image.len() as u64, HEADERS);
    // mov rdi, text; mov esi, length; mov eax, PRINT; int 0x80
    image.extend([0x48, 0xbf]);
    image.extend((START + HEADERS + CODE).to_le_bytes());
    image.push(0xbe);
    image.extend(u32::try_from(text.len()).expect("short").to_le_bytes());
    image.push(0xb8);
    image.extend(number(PRINT));
    image.extend([0xcd, 0x80]);
    // mov edi, code; mov eax, EXIT; int 0x80; ud2
    image.push(0xbf);
    image.extend(u32::from(code).to_le_bytes());
    image.push(0xb8);
    image.extend(number(EXIT));
    image.extend([0xcd, 0x80]);
    image.extend([0x0f, 0x0b]);
    assert_eq!(image.len() as u64, HEADERS + CODE);
    image.extend(text.as_bytes());
    image
}

fn number(call: u64) -> [u8; 4] {
    u32::try_from(call).expect("a small number").to_le_bytes()
}
