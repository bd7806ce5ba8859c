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
    assert_error("host warm a", 6, 4, "locked, resident, dirty, file or store");
    assert_error("write a 0x100", 9, 5, "a byte is at most 255");
    assert_error("write a hex:123", 9, 7, "two hexadecimal digits for every byte");
    assert_error("write a \"\"", 9, 2, "1 to 64 bytes, not 0");
    assert_error("write a", 8, 1, "expected a pattern");
    assert_error("b = wire a", 5, 4, "an operation that makes something to name (allocate");
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
fn errors_about_tasks_objects_and_threads_name_the_place() {
    let line = |line: &str, column: usize, width: usize, reason: &str| {
        let script = "a = allocate 8 pages\ntask t\nt.b = allocate 1 page\nf = file(8)\nt1: wire a\n\
                      task gone\nend gone\nt2: wire a\njoin t2\nt3: c = fork\nlost = file(4)\ndrop lost\n"
            .to_owned()
            + line;
        let found = errors(&script);
        let [(13, found_column, found_width, found_reason)] = &found[..] else { panic!("{line}: {found:?}") };
        assert_eq!((*found_column, *found_width), (column, width), "{line}: {found_reason}");
        assert!(found_reason.contains(reason), "{line}: {found_reason}");
    };
    line("wire t.a", 8, 1, "there is no 'a' in t: the lines above define b there");
    line("wire b", 6, 1, "there is no 'b': the lines above define a");
    line("wire x.a", 6, 1, "there is no task 'x'");
    line("wire gone.a", 6, 4, "the task 'gone' has ended");
    line("wire f.a", 6, 1, "'f' is no task");
    line("wire t", 6, 1, "'t' is a task; its memory has names such as 't.a'");
    line("wire f", 6, 1, "'f' is a memory object; 'map' makes it memory");
    line("wire t1", 6, 2, "'t1' is a thread and no memory");
    line("gate lost 1", 6, 4, "the object 'lost' was dropped");
    line("map lost private", 5, 4, "the object 'lost' was dropped");
    line("wire c.a", 6, 1, "the task 'c' is there when 'join t3' says so");
    line("wire @a..t.b", 10, 1, "'b' is memory of t, and this is about main");
    line("wire t.@a+1", 9, 1, "'a' is memory of main, and this is about t");
    line("t.d = allocate 1 page at a", 26, 1, "'a' is memory of main, and this is about t");
    line("allocate 1 page at a in t", 25, 1, "the address is of another task");
    line("t.d = allocate 1 page in t", 23, 2, "expected the end of the line");
    line("t.b = allocate 1 page", 3, 1, "defined above already");
    line("t = allocate 1 page", 1, 1, "defined above already");
    line("task a", 6, 1, "defined above already");
    line("task main", 6, 4, "a word of the language");
    line("t1: wire a", 1, 2, "defined above already");
    line("t4: t4 = fork", 10, 4, "'t4' is the name of the thread");
    line("t.d = fork", 7, 4, "only memory has a name within a task");
    line("file(4)", 1, 4, "a memory object needs a name in front");
    line("g = file 4", 10, 1, "expected '('");
    line("g = file(4) readahead 0", 23, 1, "a pager supplies at least 1 page");
    line("g = file(0x10000000001)", 10, 13, "too large");
    line("d = map a private", 9, 1, "'a' is no memory object");
    line("d = map f", 10, 1, "expected whose pages they are (private, shared)");
    line("gate f", 7, 1, "expected a page number");
    line("fail f 3", 9, 1, "expected how the pager fails (io, refused)");
    line("inherit a some", 11, 4, "expected what a fork gives (share, copy, none)");
    line("t1 dead", 1, 2, "expected an operation");
    line("t9 blocked", 1, 2, "there is no thread 't9'");
    line("t2 ended", 1, 2, "the thread 't2' is joined already");
    line("join t2", 6, 2, "the thread 't2' is joined already");
    line("join a", 6, 1, "'a' is no thread");
    line("t4: wire a => SUCCESS", 15, 7, "a thread that is started has no result yet");
    line("t1 blocked => any", 15, 3, "the line itself says what is expected");
    line("join t1 => BLOCKED", 12, 7, "a return code such as SUCCESS");
    line("join t3 => NO_SPACE", 9, 2, "what may fail can't have a name");
    line("t4: check", 5, 5, "a thread can't do this");
    line("t4: read a", 5, 4, "it can 'expect'");
    line("reset", 1, 5, "the thread 't1' of line 5 is not joined");
    line("end main", 5, 4, "'main' can't end");
    line("limit all", 7, 3, "expected a limit (memlock, privileged, unprivileged, wire)");
    line("mlock a => INVALID_ARGUMENT", 12, 16, "SUCCESS or an error such as ENOMEM");
    line("wire a => ENOMEM", 11, 6, "a return code");
    line("page-wc a => [0,1)1U", 19, 2, "expected a count");
    line("residents a => none", 16, 4, "expected a number");
    line("host fail mlock nth 0 EIO", 21, 1, "calls are counted from 1");
    line("host fail mlock nth 1 EINVAL", 23, 6, "expected an error (ENOMEM, EAGAIN, EPERM, EIO)");
    line("page-wd = allocate 1 page", 1, 7, "a name has letters, digits and '_'");
    line("mlockall gone", 10, 4, "the task 'gone' has ended");
    line("mlockall now", 10, 3, "a flag (current, future, onfault, or 'flags' and a number)");
}

#[test]
fn thread_that_is_never_joined_is_an_error_of_its_line() {
    let found = errors("a = allocate 1 page\n  t1: wire a user\nt2: wire a\njoin t2");
    let [(2, 3, 2, reason)] = &found[..] else { panic!("{found:?}") };
    assert!(reason.contains("the thread 't1' is never joined"), "{reason}");
    // The end of the guest is the end of its threads.
    assert_eq!(parse(b"t1: wire @0+1\nexit 0").map(|script| script.statements.len()), Ok(2));
    assert_eq!(errors("t1: wire @0+1\njoin t1 x").len(), 1, "the line that would join has the error");
}

#[test]
fn names_of_a_fork_are_those_of_its_time() {
    let found = errors(
        "a = allocate 1 page\nc = fork\nb = allocate 1 page\nc.b = allocate 1 page\nd = fork c\nwire d.a\nwire d.b\n\
         c.e = allocate 1 page\nc.a = allocate 1 page\nwire d.e\nend c\nwire d.a",
    );
    let places: Vec<_> = found.iter().map(|(line, column, ..)| (*line, *column)).collect();
    assert_eq!(places, [(9, 3), (10, 8)], "{found:?}");
}

#[test]
fn reset_forgets_every_name() {
    let again = "a = allocate 1 page\ntask t\nf = file(1)\nreset\nt = allocate 1 page\nf = fork\nwire f.t";
    assert_eq!(parse(again.as_bytes()).map(|script| script.statements.len()), Ok(7));
    let found = errors("a = allocate 1 page\nreset\nwire a");
    assert!(found[0].3.contains("no line above defines a name"), "{found:?}");
}

#[test]
fn scripts_of_many_names_are_read_in_time_that_grows_with_them() {
    use std::fmt::Write;
    let mut script = String::new();
    for number in 0..100_000 {
        writeln!(script, "n{number} = allocate 1 page").expect("a string");
        writeln!(script, "wire n{} user", number / 2).expect("a string");
    }
    let began = std::time::Instant::now();
    assert_eq!(parse(script.as_bytes()).map(|script| script.statements.len()), Ok(200_000));
    // A hundredth of what looking through all names would take.
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
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

#[test]
fn errors_about_managers_stores_and_submaps_name_the_place() {
    let line = |line: &str, column: usize, width: usize, reason: &str| {
        let script =
            "a = allocate 8 pages\nmanager m task\nobject o manager m 8 pages\nobject d store s 1 page\nf = file(8)\n\
                      task t\nmanager n task\nobject p manager n 1 page\nobject q manager n 1 page\nmanager e task\n"
                .to_owned()
                + line;
        let found = errors(&script);
        let [(11, found_column, found_width, found_reason)] = &found[..] else { panic!("{line}: {found:?}") };
        assert_eq!((*found_column, *found_width), (column, width), "{line}: {found_reason}");
        assert!(found_reason.contains(reason), "{line}: {found_reason}");
    };
    line("manager m task", 9, 1, "defined above already");
    line("manager x", 10, 1, "expected 'task': a manager is one at the end");
    line("manager wire task", 9, 4, "a word of the language");
    line("object x tape y 1 page", 10, 4, "what is behind the object (store, exclusive, manager), not 'tape'");
    line("object x store S 1 page", 16, 1, "1 to 16 characters of a-z");
    line("object x store \"a/b\" 1 page", 16, 5, "1 to 16 characters of a-z");
    line("object x store 7 1 page", 16, 1, "the name of a store, as a word or as a string");
    line("object x store y 100", 18, 3, "a number of whole pages, at least 1");
    line("object x store y 0x2000000000000000", 18, 18, "at most 1099511627776 pages");
    line("object x manager t 1 page", 18, 1, "the task 't' is no manager");
    line("object x manager z 1 page", 18, 1, "there is no task 'z'");
    line("object o store y 1 page", 8, 1, "defined above already");
    line("object a manager n 1 page", 8, 1, "defined above already");
    line("x = object y store z 1 page", 5, 6, "an operation that makes something to name");
    line("nobody delays", 1, 6, "there is no task 'nobody'");
    line("t delays", 1, 1, "the task 't' is no manager: 'manager t task' would have made it one");
    line("main dies", 1, 4, "'main' is no manager");
    line("o delays", 1, 1, "'o' is no task");
    line("m delays now", 10, 3, "expected the end of the line");
    line("m answers 0 1 page", 19, 1, "what became of it (a return code such as SUCCESS)");
    line("m answers 0 1 page DONE", 20, 4, "what became of it (a return code such as SUCCESS)");
    line("m answers p 0 1 page SUCCESS", 11, 1, "'p' is no object of 'm'");
    line("n answers 0 1 page SUCCESS", 11, 1, "'n' has several objects, so one of them has to be named: p, q");
    line("e answers 0 1 page SUCCESS", 11, 1, "'e' has no object");
    line("m requests o", 13, 1, "which pages come back (none, dirty, all, anything)");
    line("m requests d all", 12, 1, "'d' is no object of 'm'");
    line("m requests o all forbid", 24, 1, "the accesses to forbid");
    line("gate o 1", 6, 1, "'m' is behind 'o': 'm delays' lets whoever needs it wait");
    line("release d 1", 9, 1, "a store is behind 'd'");
    line("fail d 1 io", 6, 1, "a store is behind 'd'");
    line("m messages => hello", 15, 5, "messages such as init");
    line("m messages => data_request", 27, 1, "expected '['");
    line("m messages => data_return[0,1)lost", 31, 4, "what else the message says");
    line("page-states a => [0,1)wet", 23, 3, "a state of pages, or 'clean'");
    line("page-states a => [0,1)dirty,dirty", 29, 5, "the state stands here twice");
    line("stat everything", 6, 10, "a number's name (wired, wire-quota");
    line("host hold mlock", 11, 5, "'sync': what storage is asked for");
    line("host fail sync nth 1 EPERM", 22, 5, "an error of storage (EIO, ENOSPC, EDQUOT)");
    line("host fail write nth 1 EIO", 11, 5, "what the host can be made to fail at (mlock, sync)");
    line("host store s", 13, 1, "pages of the store, as in [0,4)");
    line("submap s", 9, 1, "a size (as in submap s 16 pages)");
    line("submap m 1 page", 8, 1, "defined above already");
    line("submap x 1 page at a in t", 25, 1, "the address is of another task");
    line("msync a user", 9, 4, "a flag (async, sync, invalidate, or 'flags' and a number)");
    line("t1: m messages", 5, 1, "a thread can't do this");
    line("completions => none", 16, 4, "expected a number");
}
