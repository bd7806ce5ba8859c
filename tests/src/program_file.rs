//! What an ELF file must be to run in a guest, looked at from outside.

/// Returns what is wrong with a program's ELF file.
#[must_use]
pub fn problems(file: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    // Ident, type EXEC, machine x86-64.
    if !file.starts_with(b"\x7fELF\x02\x01\x01") || half(file, 16) != 2 || half(file, 18) != 62 {
        return vec!["it is no static executable for x86-64".to_owned()];
    }
    let (entry, headers, count) = (word(file, 24), word(file, 32), half(file, 56));
    let mut entry_is_text = false;
    let mut end_before = 0;
    for index in 0..u64::from(count) {
        let at = usize::try_from(headers + index * 56).unwrap_or(usize::MAX);
        let (kind, flags) = (half(file, at), half(file, at.saturating_add(4)));
        let [offset, address, _, in_file, in_memory] = [8, 16, 24, 32, 40].map(|place| word(file, at + place));
        match kind {
            1 => {}
            2 | 3 => found.push("it asks for a dynamic linker".to_owned()),
            _ => continue,
        }
        let (can_write, can_execute) = (flags & 2 != 0, flags & 1 != 0);
        if can_write && can_execute {
            found.push(format!("the segment at {address:#x} can be written and executed"));
        }
        if !address.is_multiple_of(4096) || !offset.is_multiple_of(4096) || address < end_before {
            found.push(format!("the segment at {address:#x} shares a page"));
        }
        if offset + in_file > file.len() as u64 || in_file > in_memory {
            found.push(format!("the segment at {address:#x} is not in the file"));
        }
        end_before = (address + in_memory).next_multiple_of(4096);
        entry_is_text |= can_execute && (address..address + in_file).contains(&entry);
    }
    if !entry_is_text {
        found.push(format!("the entry point {entry:#x} is in no executable segment"));
    }
    found
}

fn half(file: &[u8], at: usize) -> u16 {
    file.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn word(file: &[u8], at: usize) -> u64 {
    file.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
