//! What is printed reads back, and what is not a script is an error and nothing worse.

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::generate;
use crate::script::ast::Statement;
use crate::script::parse;

/// The statements without what depends on how they were written.
fn essence(statements: &[Statement]) -> Vec<Statement> {
    let bare = |statement: &Statement| Statement { line: 0, text: String::new(), ..statement.clone() };
    statements.iter().map(bare).collect()
}

/// Lines made of the language's own words and marks, in any order.
fn word_salad() -> impl Strategy<Value = String> {
    let words = "a = allocate 8 pages at 64K wire unwire sync layout a[0,4) @a+1 @a .. + [ ) , => [0,2)1U user system \
                 flags 0x80 host locked file dirty none any if durable else hex:00 hex: \"x\" \" … ... # \n \n \n exit 0 \
                 SUCCESS KERN_FAILURE protect max rwx read expect write check 18446744073709551616 1U \\ é : . t t.a \
                 task t fork end t1: t1 blocked ended join f = file(8) readahead map f private shared guard stack initial \
                 brk large in gate 3 fail io mlockall current limit memlock wire-total page-wc entries mincore BLOCKED ENOMEM \
                 program p kv killed fault output p kill hello reset \n a = allocate 1 page \n \n f = file(2) \n \n task t \n manager m task \n object o \
                 store disk exclusive manager m delays answers requests messages dies none all flush forbid submap msync async page-states \
                 clean precious, dirty-ranges completions stat wired trim hold release sync nth 1 EIO init data_request[0,1)r";
    let words: Vec<_> = words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    proptest::collection::vec(proptest::sample::select(words), 0..40).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn printed_script_parses_to_the_same_statements(script in generate::script()) {
        let text = script.to_string();
        match parse(text.as_bytes()) {
            Ok(again) => prop_assert_eq!(essence(&again.statements), essence(&script.statements), "{}", text),
            Err(errors) => prop_assert!(false, "{}{text}", errors.render("printed")),
        }
    }

    #[test]
    fn any_bytes_parse_or_are_errors_that_can_be_shown(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(errors) = parse(&bytes) {
            prop_assert!(!errors.render("bytes").is_empty());
        }
    }

    #[test]
    fn any_words_parse_or_are_errors_that_can_be_shown(text in word_salad()) {
        match parse(text.as_bytes()) {
            Ok(script) => prop_assert!(parse(script.to_string().as_bytes()).is_ok()),
            Err(errors) => {
                let error = &errors.errors()[0];
                prop_assert!(error.column <= error.text.chars().count() + 1, "{errors:?}");
            }
        }
    }
}
