//! Addresses, ranges, patterns.

use wirevm_agent::Pattern;

use crate::script::ast::{Address, Place, Range, Task};
use crate::script::cursor::{Cursor, PAGE_SIZE};
use crate::script::lexer::Kind;
use crate::script::syntax_error::Fault;

/// Highest page number that still has an address.
const MAX_PAGE: u64 = u64::MAX / PAGE_SIZE;

/// Reads a range.
pub(super) fn range(cursor: &mut Cursor<'_>) -> Result<Range, Fault> {
    if cursor.takes_mark("@") {
        return bytes(cursor, None);
    }
    // Both `t.a` and `t.@0x1000+1` begin with their task.
    let mut task = cursor.task_in_front()?;
    if task.is_some() && cursor.takes_mark("@") {
        return bytes(cursor, task);
    }
    let task = task.take().unwrap_or(None);
    let Some(Kind::Word(name)) = cursor.kind() else {
        return Err(cursor.wanted("a range (a name, a name with pages as in a[0,4), @ADDRESS+LENGTH or @START..END)"));
    };
    cursor.names().memory(&task, name).map_err(|reason| cursor.fault(reason))?;
    cursor.step();
    let name = name.clone();
    let place = match pages(cursor, MAX_PAGE)? {
        None => Place::Whole(name),
        Some((start, end)) => Place::Pages { name, start, end },
    };
    Ok(Range { task, place })
}

/// Reads `[START,END)`, if it comes next.
pub(super) fn pages(cursor: &mut Cursor<'_>, most: u64) -> Result<Option<(u64, u64)>, Fault> {
    if !cursor.takes_mark("[") {
        return Ok(None);
    }
    let start = cursor.number("a page number", most)?;
    cursor.mark(",")?;
    let end = cursor.number("a page number", most)?;
    cursor.mark(")")?;
    Ok(Some((start, end)))
}

/// Reads what follows `@`. The terms of a sum belong to the start if `..` follows; otherwise the last of them is
/// the length.
fn bytes(cursor: &mut Cursor<'_>, mut task: Option<Task>) -> Result<Range, Fault> {
    let (name, base) = base(cursor, &mut task)?;
    let mut terms = terms(cursor)?;
    if cursor.takes_mark("..") {
        let start = Address { name, offset: sum(base, &terms) };
        let end = address(cursor, &mut task)?;
        return Ok(Range { task: task.unwrap_or(None), place: Place::Bounds(start, end) });
    }
    let Some(length) = terms.pop() else {
        return Err(cursor.wanted("'+' and a length, or '..' and an end"));
    };
    let start = Address { name, offset: sum(base, &terms) };
    Ok(Range { task: task.unwrap_or(None), place: Place::Length(start, length) })
}

/// Reads an address: a number or a name, and sizes to be added. The name tells the task, or must agree with it.
pub(super) fn address(cursor: &mut Cursor<'_>, task: &mut Option<Task>) -> Result<Address, Fault> {
    let (name, base) = base(cursor, task)?;
    let terms = terms(cursor)?;
    Ok(Address { name, offset: sum(base, &terms) })
}

fn base(cursor: &mut Cursor<'_>, task: &mut Option<Task>) -> Result<(Option<String>, u64), Fault> {
    let place = cursor.fault("");
    let Some((of, name)) = cursor.memory()? else {
        return Ok((None, cursor.size("an address (a number or a name)")?));
    };
    let known = task.get_or_insert_with(|| of.clone());
    if *known != of {
        let [known, of] = [known.as_ref(), of.as_ref()].map(|task| task.map_or("main", String::as_str));
        let reason = format!("'{name}' is memory of {of}, and this is about {known}");
        return Err(Fault { reason, ..place });
    }
    Ok((Some(name), 0))
}

fn terms(cursor: &mut Cursor<'_>) -> Result<Vec<u64>, Fault> {
    let mut terms = Vec::new();
    while cursor.takes_mark("+") {
        terms.push(cursor.size("a size")?);
    }
    Ok(terms)
}

fn sum(base: u64, terms: &[u64]) -> u64 {
    terms.iter().fold(base, |sum, term| sum.wrapping_add(*term))
}

/// What a pattern looks like, for messages.
pub(super) const PATTERN: &str = "a pattern (a byte as 0x5a, \"text\" or hex:0102ff)";

/// Reads a pattern.
pub(super) fn pattern(cursor: &mut Cursor<'_>) -> Result<Pattern, Fault> {
    let bytes = match cursor.kind() {
        Some(Kind::Number(_)) => {
            let byte = cursor.number("a byte", u8::MAX.into())?;
            return Ok(Pattern::byte(u8::try_from(byte).unwrap_or(u8::MAX)));
        }
        Some(Kind::Text(bytes)) => bytes.clone(),
        Some(Kind::Hex(digits)) => {
            let even = digits.len().is_multiple_of(2);
            let bytes = digits.as_bytes().chunks(2).map(hex_byte).collect::<Option<Vec<u8>>>();
            let bytes = bytes.filter(|_| even);
            bytes.ok_or_else(|| cursor.fault("'hex:' needs two hexadecimal digits for every byte"))?
        }
        _ => return Err(cursor.wanted(PATTERN)),
    };
    let pattern = Pattern::new(&bytes).map_err(|error| cursor.fault(format!("{error}, not {}", bytes.len())))?;
    cursor.step();
    Ok(pattern)
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else {
        return None;
    };
    let digit = |digit: &u8| char::from(*digit).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}
