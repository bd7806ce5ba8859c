//! Guests written by hand, in machine code.

use wirevm_abi::RAM_BASE;
use wirevm_abi::boot::{DIRECT_BASE, IMAGE_BASE};
use wirevm_abi::note::ABI_NOTE;
use wirevm_abi::port::{LIFECYCLE, LIFECYCLE_CRASHED};
use wirevm_tests::image::elf;
use wirevm_vmm::boot::{BootLayout, Image, place};

use super::lab::PAGE;

/// Bytes of every guest made here, so that all of them find the boot structures in the same places.
const IMAGE_BYTES: u64 = 64 << 10;
/// Where the data begins that guests copy from.
const DATA: usize = 0x4000;
/// RAM of the guests made here, in pages.
pub const RAM_PAGES: u64 = (8 << 20) / PAGE;

/// Returns the address at which a guest finds a guest-physical address of RAM.
pub const fn direct(address: u64) -> u64 {
    address - RAM_BASE + DIRECT_BASE
}

/// Returns the places of what a guest made here boots with, in a RAM of `ram_pages` pages.
pub fn layout(ram_pages: u64) -> BootLayout {
    layout_with(ram_pages, 1, 0)
}

/// As [`layout`], with so many vCPUs and an archive of so many bytes.
pub fn layout_with(ram_pages: u64, vcpus: u64, archive_bytes: u64) -> BootLayout {
    let image = Code::default().halt().image();
    let image = Image::new(&image, ram_pages).expect("an image");
    place(&image, ram_pages, vcpus, archive_bytes).expect("a layout")
}

/// Instructions, one after the other, and data.
#[derive(Clone, Debug, Default)]
pub struct Code {
    text: Vec<u8>,
    data: Vec<u8>,
}

impl Code {
    /// Appends instructions as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.text.extend_from_slice(bytes);
        self
    }

    /// `out` of 32 bits.
    pub fn out(self, port: u16, value: u32) -> Self {
        // mov dx, port; mov eax, value; out dx, eax
        self.bytes(&[0x66, 0xba]).bytes(&port.to_le_bytes()).bytes(&[0xb8]).bytes(&value.to_le_bytes()).bytes(&[0xef])
    }

    /// Stores a word at a virtual address.
    pub fn store(self, address: u64, value: u64) -> Self {
        // mov rbx, address; mov rax, value; mov [rbx], rax
        let code = self.bytes(&[0x48, 0xbb]).bytes(&address.to_le_bytes());
        code.bytes(&[0x48, 0xb8]).bytes(&value.to_le_bytes()).bytes(&[0x48, 0x89, 0x03])
    }

    /// Loads the word at a virtual address.
    pub fn load(self, address: u64) -> Self {
        // mov rbx, address; mov rax, [rbx]
        self.bytes(&[0x48, 0xbb]).bytes(&address.to_le_bytes()).bytes(&[0x48, 0x8b, 0x03])
    }

    /// Copies bytes, a whole number of words, to a virtual address.
    pub fn copy(mut self, to: u64, bytes: &[u8]) -> Self {
        let from = IMAGE_BASE + (DATA + self.data.len()) as u64;
        let words = u32::try_from(bytes.len() / 8).expect("small");
        self.data.extend_from_slice(bytes);
        // mov rsi, from; mov rdi, to; mov ecx, words; rep movsq
        let code = self.bytes(&[0x48, 0xbe]).bytes(&from.to_le_bytes()).bytes(&[0x48, 0xbf]).bytes(&to.to_le_bytes());
        code.bytes(&[0xb9]).bytes(&words.to_le_bytes()).bytes(&[0xf3, 0x48, 0xa5])
    }

    /// Does all so far again, for ever.
    pub fn again(self) -> Self {
        self.again_from(0)
    }

    /// Does what stands behind the first `start` bytes again, for ever.
    pub fn again_from(self, start: usize) -> Self {
        let back = start.cast_signed() - (self.text.len() + 5).cast_signed();
        self.bytes(&[0xe9]).bytes(&i32::try_from(back).expect("near").to_le_bytes())
    }

    /// Returns the instructions.
    pub fn text(self) -> Vec<u8> {
        assert!(self.data.is_empty(), "the data would be lost");
        self.text
    }

    /// Returns how many bytes of instructions there are.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Says that the report page is filled in.
    pub fn crashed(self) -> Self {
        self.out(LIFECYCLE, LIFECYCLE_CRASHED)
    }

    /// Halts for ever with interrupts off.
    pub fn halt(self) -> Self {
        // hlt; jmp to it
        self.bytes(&[0xf4, 0xeb, 0xfd])
    }

    /// Returns the image of the guest.
    pub fn image(self) -> Vec<u8> {
        let mut bytes = self.text;
        assert!(bytes.len() <= DATA, "too many instructions");
        bytes.resize(DATA, 0xcc);
        bytes.extend(self.data);
        assert!(bytes.len() as u64 <= IMAGE_BYTES, "too much data");
        elf(&bytes, RAM_BASE, IMAGE_BYTES, &ABI_NOTE)
    }
}
