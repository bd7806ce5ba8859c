//! From an ELF file to a program that can be entered.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD};
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;
use wirevm_abi::archive::Entry;
use wirevm_map::{KernReturn, PAGE_SIZE, Placement, Prot};

use super::copy::USER_END;
use super::process::Process;
use crate::arch::UserContext;

/// Bytes of a program's first stack, of which only what is used is taken.
const STACK_BYTES: u64 = 8 << 20;
/// Bytes of it that are there at once.
const FIRST_STACK_BYTES: u64 = 16 << 10;
/// Most loadable segments.
const MAX_SEGMENTS: usize = 16;

fn refused(what: &str) -> impl Fn(KernReturn) -> String {
    move |code| format!("{what}: {code}")
}

/// Puts a program into its map, which is empty, and returns the registers that it starts with.
///
/// # Errors
/// What is wrong with the file, or with the memory for it; the map holds a part of it then.
pub async fn load(process: &Process, entry: &Entry<'_>) -> Result<Box<UserContext>, String> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(entry.image).map_err(|error| format!("no ELF file: {error}"))?;
    if file.ehdr.e_type != ET_EXEC || file.ehdr.e_machine != EM_X86_64 {
        return Err("no static executable for x86-64".to_string());
    }
    let headers = file.segments().ok_or("it has no segments")?;
    if headers.iter().any(|segment| segment.p_type == PT_INTERP) {
        return Err("it wants a dynamic linker".to_string());
    }
    let segments: Vec<ProgramHeader> =
        headers.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0).collect();
    if segments.len() > MAX_SEGMENTS {
        return Err(format!("it has more than {MAX_SEGMENTS} segments"));
    }
    let starts_in = |segment: &ProgramHeader| {
        segment.p_flags & PF_X != 0
            && file.ehdr.e_entry.checked_sub(segment.p_vaddr).is_some_and(|offset| offset < segment.p_filesz)
    };
    if !segments.iter().any(starts_in) {
        return Err("its entry point is in no segment that may run".to_string());
    }
    for segment in &segments {
        let bytes = file.segment_data(segment).map_err(|error| format!("a segment is cut: {error}"))?;
        load_segment(process, segment, bytes).await?;
    }
    let map = process.map();
    let stack = map.stack(Placement::Anywhere, STACK_BYTES, FIRST_STACK_BYTES).await.map_err(refused("its stack"))?;
    // The program's name and its arguments, joined by zero bytes, above all else on the stack.
    let mut arguments = Vec::with_capacity(entry.name.len() + 1 + entry.arguments.len());
    arguments.extend_from_slice(entry.name.as_bytes());
    if !entry.arguments.is_empty() {
        arguments.push(0);
        arguments.extend_from_slice(entry.arguments.as_bytes());
    }
    let at = (stack + STACK_BYTES - arguments.len() as u64) & !0xf;
    process.copy_out(at, &arguments).await.map_err(refused("its arguments"))?;
    Ok(Box::new(UserContext::new(file.ehdr.e_entry, at, at, arguments.len() as u64)))
}

/// Allocates, fills and protects one segment.
async fn load_segment(process: &Process, segment: &ProgramHeader, bytes: &[u8]) -> Result<(), String> {
    let what = format!("its segment at {:#x}", segment.p_vaddr);
    let has = |flag| segment.p_flags & flag != 0;
    if has(PF_W) && has(PF_X) {
        return Err(format!("{what} is writable and executable"));
    }
    let end = segment.p_vaddr.checked_add(segment.p_memsz).filter(|end| *end <= USER_END);
    let (Some(end), true) = (end, bytes.len() as u64 <= segment.p_memsz) else {
        return Err(format!("{what} does not fit"));
    };
    let start = segment.p_vaddr & !(PAGE_SIZE - 1);
    let size = end.next_multiple_of(PAGE_SIZE) - start;
    let map = process.map();
    map.allocate(Placement::Fixed(start), size).await.map_err(refused(&what))?;
    process.copy_out(segment.p_vaddr, bytes).await.map_err(refused(&what))?;
    let mut prot = Prot::NONE;
    for (flag, right) in [(PF_R, Prot::READ), (PF_W, Prot::WRITE), (PF_X, Prot::EXECUTE)] {
        if has(flag) {
            prot = prot | right;
        }
    }
    map.protect(start, size, false, prot).await.map_err(refused(&what))
}
