//! Guest images made by hand, for guests that no honest kernel is.

use std::mem::offset_of;

use wirevm_abi::RAM_BASE;
use wirevm_abi::boot::{BootInfo, IMAGE_BASE};
use wirevm_abi::call::{CallEntry, CallHeader, CallPage};
use wirevm_abi::note::{ABI_NOTE, AbiNote};
use zerocopy::{FromZeros, IntoBytes};

/// Makes an ELF image of one segment, `code` at its start, `memory_size` bytes from guest-physical `address` on, entered at
/// its first byte at [`IMAGE_BASE`].
#[must_use]
pub fn elf(code: &[u8], address: u64, memory_size: u64, note: &AbiNote) -> Vec<u8> {
    const CODE: usize = 0x1000;
    const NOTE: usize = 0x200;
    let mut image = vec![0; CODE];
    image[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    // An executable for x86-64, entry point, program headers behind this header.
    image[16..20].copy_from_slice(&[2, 0, 62, 0]);
    image[20] = 1;
    image[24..32].copy_from_slice(&IMAGE_BASE.to_le_bytes());
    image[32..40].copy_from_slice(&64_u64.to_le_bytes());
    image[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
    let file_size = code.len() as u64;
    let segments = [
        (1_u32, 7_u32, [CODE as u64, IMAGE_BASE, address, file_size, memory_size.max(file_size), 0x1000]),
        (4, 4, [NOTE as u64, 0, 0, size_of::<AbiNote>() as u64, size_of::<AbiNote>() as u64, 4]),
    ];
    for (index, (kind, flags, words)) in segments.iter().enumerate() {
        let at = 64 + 56 * index;
        image[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        image[at + 4..at + 8].copy_from_slice(&flags.to_le_bytes());
        image[at + 8..at + 56].copy_from_slice(words.as_bytes());
    }
    image[NOTE..NOTE + size_of::<AbiNote>()].copy_from_slice(note.as_bytes());
    image.extend_from_slice(code);
    image
}

/// Says in an image of [`elf`] that the guest does not store to its segment.
///
/// # Panics
/// When it is shorter than such an image.
pub fn make_read_only(image: &mut [u8]) {
    // The flags of the first segment: readable and executable.
    image[64 + 4] = 5;
}

/// Bytes of each answer that [`caller`] writes to the console: the doorbell's word and the start of the call page.
pub const ANSWER_BYTES: usize = 8 + SHOWN_BYTES;
/// Bytes of the call page that an answer shows: the header and eight entries.
const SHOWN_BYTES: usize = 320;

/// What a guest of [`caller`] was answered.
#[derive(Clone, Debug)]
pub struct CallAnswer {
    /// What `in` on the doorbell port gave.
    pub doorbell: u64,
    /// The call page's header.
    pub header: CallHeader,
    /// Its first eight entries.
    pub entries: Vec<CallEntry>,
}

/// Makes a guest that puts each of `pages` into its call page, rings the doorbell, and writes what it finds then to the
/// console as [`ANSWER_BYTES`] bytes. At the end it reports a crash, unless a call has ended it.
///
/// # Panics
/// When the boot info is not laid out as the machine code below expects.
#[must_use]
pub fn caller(pages: &[CallPage]) -> Vec<u8> {
    const _: () = assert!(offset_of!(BootInfo, call_page) == 0x38);
    #[rustfmt::skip]
    const CODE: [u8; 0x6c] = [
        0x49, 0xbf, 0x00, 0x00, 0x00, 0x00, 0xff, 0xbf, 0xff, 0xff, //     mov r15, DIRECT_BASE - RAM_BASE
        0x4e, 0x8b, 0x74, 0x3f, 0x38,                               //     mov r14, [rdi + r15 + call_page]
        0x4d, 0x01, 0xfe,                                           //     add r14, r15
        0x4c, 0x8b, 0x2d, 0x5f, 0x00, 0x00, 0x00,                   //     mov r13, [rip + count]
        0x48, 0x8d, 0x35, 0xe0, 0x0f, 0x00, 0x00,                   //     lea rsi, [rip + pages]
        0x4c, 0x89, 0xf7,                                           // 1:  mov rdi, r14
        0xb9, 0x00, 0x02, 0x00, 0x00,                               //     mov ecx, 512
        0xf3, 0x48, 0xa5,                                           //     rep movsq
        0x49, 0x89, 0xf4,                                           //     mov r12, rsi
        0x66, 0xba, 0x00, 0x06,                                     //     mov dx, DOORBELL
        0xef,                                                       //     out dx, eax
        0xed,                                                       //     in eax, dx
        0x48, 0x89, 0x05, 0x35, 0x00, 0x00, 0x00,                   //     mov [rip + answer], rax
        0x66, 0xba, 0xf8, 0x03,                                     //     mov dx, SERIAL
        0x48, 0x8d, 0x35, 0x2a, 0x00, 0x00, 0x00,                   //     lea rsi, [rip + answer]
        0xb9, 0x08, 0x00, 0x00, 0x00,                               //     mov ecx, 8
        0xf3, 0x6e,                                                 //     rep outsb
        0x4c, 0x89, 0xf6,                                           //     mov rsi, r14
        0xb9, 0x40, 0x01, 0x00, 0x00,                               //     mov ecx, SHOWN_BYTES
        0xf3, 0x6e,                                                 //     rep outsb
        0x4c, 0x89, 0xe6,                                           //     mov rsi, r12
        0x49, 0xff, 0xcd,                                           //     dec r13
        0x75, 0xc1,                                                 //     jne 1b
        0x66, 0xba, 0x08, 0x06,                                     //     mov dx, LIFECYCLE
        0xb8, 0x02, 0x00, 0x00, 0x00,                               //     mov eax, LIFECYCLE_CRASHED
        0xef,                                                       //     out dx, eax
        0xf4,                                                       // 2:  hlt
        0xeb, 0xfd,                                                 //     jmp 2b
    ];
    let mut code = vec![0; 4096];
    code[..CODE.len()].copy_from_slice(&CODE);
    code[0x78..0x80].copy_from_slice(&(pages.len() as u64).to_le_bytes());
    code.extend(pages.iter().flat_map(|page| page.as_bytes().iter().copied()));
    let size = code.len() as u64;
    elf(&code, RAM_BASE, size, &ABI_NOTE)
}

/// Makes a call page of this version with those entries.
///
/// # Panics
/// For more than 126 entries.
#[must_use]
pub fn call_page(entries: &[CallEntry]) -> CallPage {
    let mut page = CallPage::new_zeroed();
    page.header = CallHeader::new(entries.len());
    page.entries[..entries.len()].copy_from_slice(entries);
    page
}

/// Splits what a guest of [`caller`] wrote into answers.
///
/// # Panics
/// When it is not a whole number of answers.
#[must_use]
pub fn answers(console: &[u8]) -> Vec<CallAnswer> {
    assert_eq!(console.len() % ANSWER_BYTES, 0, "the console holds {} bytes", console.len());
    console
        .chunks_exact(ANSWER_BYTES)
        .map(|answer| {
            let mut page = CallPage::new_zeroed();
            page.as_mut_bytes()[..SHOWN_BYTES].copy_from_slice(&answer[8..]);
            let doorbell = u64::from_le_bytes(answer[..8].try_into().expect("eight bytes"));
            CallAnswer { doorbell, header: page.header, entries: page.entries[..8].to_vec() }
        })
        .collect()
}
