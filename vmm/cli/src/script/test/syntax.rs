//! Errors: where they are found and what they say.

use crate::script::parse;

/// Returns line, column, width and reason of every error.
fn errors(script: &str) -> Vec<(usize, usize, usize, String)> {
    let errors = parse(script.as_bytes()).expect_err(script);
    errors.errors().iter().map(|e| (e.line, e.column, e.width, e.reason.clone())).collect()
}

fn assert_error(line: &str, column: usize, width: usize, reason: &str) {
    let script = format!("a = allocate 8 pages\n{line}");
    let found = errors(&script);
    let [(2, found_column, found_width, found_reason)] = &found[..] else {
        panic!("{line}: {found:?}");
    };
    assert_eq!((*found_column, *found_width), (column, width), "{line}: {found_reason}");
    assert!(found_reason.contains(reason), "{line}: {found_reason}");
}

#[test]
fn errors_name_the_place_and_what_would_be_right() {
    assert_error("wire b user", 6, 1, "there is no 'b': the lines above define a");
    assert_error("wire", 5, 1, "expected a range");
    assert_error("wire a[0,4", 11, 1, "expected ')' at the end of the line");
    assert_error("wire a[0,4) usr", 13, 3, "user, system, holesok, noholes, write");
    assert_error("wire a user user", 13, 4, "'user' stands here twice");
    assert_error("wire a holesok noholes", 8, 7, "'holesok' and 'noholes' contradict each other");
    assert_error("sync a user", 8, 4, "reusablepages, or 'flags' and a number");
    assert_error("protect a rwz", 11, 3, "none, r, w, x");
    assert_error("frobnicate a", 1, 10, "expected an operation (allocate");
    assert_error("host warm a", 6, 4, "locked, resident, dirty or file");
    assert_error("write a 0x100", 9, 5, "a byte is at most 255");
    assert_error("write a hex:123", 9, 7, "two hexadecimal digits for every byte");
    assert_error("write a \"\"", 9, 2, "1 to 64 bytes, not 0");
    assert_error("write a", 8, 1, "expected a pattern");
    assert_error("b = wire a", 5, 4, "'allocate', the only operation");
    assert_error("wire = allocate 1 page", 1, 4, "a word of the language");
    assert_error("a = allocate 1 page", 1, 1, "defined above already");
    assert_error("b = allocate 1 page => NO_SPACE", 21, 2, "can't have a name");
    assert_error("b = allocate 1 page => 0 if durable else any", 21, 2, "can't have a name");
    assert_error("allocate 5KB", 10, 3, "'KB' is not a size suffix");
    assert_error("allocate 4K pages", 10, 2, "a number of pages has no suffix");
    assert_error("allocate 0x10000000000000 pages", 10, 16, "more than 2^64 - 1 bytes");
    assert_error("read @a", 8, 1, "'+' and a length, or '..' and an end");
    assert_error("read a[0,0x10000000000000)", 10, 16, "too large");
    assert_error("exit 256", 6, 3, "an exit code is at most 255");
    assert_error("exit 0 => SUCCESS", 11, 7, "an operation that ends the guest has no result");
    assert_error("check => 0", 10, 1, "a return code such as SUCCESS");
    assert_error("check => success", 10, 7, "a return code such as SUCCESS");
    assert_error("check => SUCCESS if", 20, 1, "'durable', the only condition");
    assert_error("layout a => [0,2)0 [1,4)0", 24, 1, "the pages of a layout ascend");
    assert_error("layout a => [0,2)V", 18, 1, "a wired count");
    assert_error("host file a =>", 15, 1, "contents of pages");
    assert_error("check check", 7, 5, "expected the end of the line");
    assert_error("é", 1, 1, "'é' has no meaning here");
}

#[test]
fn all_lines_are_looked_at_and_bad_definitions_still_define() {
    let found = errors("a = allocate 8 pagez\nwire a\n\n# b\nwire b\nexit 0\ncheck");
    let places: Vec<_> = found.iter().map(|(line, column, ..)| (*line, *column)).collect();
    assert_eq!(places, [(1, 16), (5, 6), (7, 1)], "{found:?}");
    assert!(found[2].3.contains("nothing can follow an operation that ends the guest"), "{found:?}");
}

#[test]
fn a_name_is_not_known_on_its_own_line() {
    assert!(errors("a = allocate 1 page at a")[0].3.contains("no line above defines a name"));
}

#[test]
fn bytes_that_are_no_text_and_lines_that_are_too_long_are_refused() {
    let errors = parse(b"check # \xc3\xa9\xff\ncheck").expect_err("not UTF-8");
    assert_eq!(errors.errors()[0].column, 10);
    assert!(errors.to_string().contains("the byte 0xff is not UTF-8"), "{errors}");
    let longest = format!("check #{}", "é".repeat(4096 - 7));
    assert_eq!(parse(longest.as_bytes()).map(|script| script.statements.len()), Ok(1));
    let errors = parse(format!("{longest}é").as_bytes()).expect_err("too long");
    assert_eq!(errors.errors()[0].column, 4097);
}

#[test]
fn statements_keep_their_line_and_text() {
    let script = parse(b"\r\n  a = allocate 8 pages   # eight\r\n\twire a  user=> any\r\n").expect("a script");
    let kept: Vec<_> = script.statements.iter().map(|s| (s.line, s.text.as_str())).collect();
    assert_eq!(kept, [(2, "a = allocate 8 pages"), (3, "wire a  user")]);
}
