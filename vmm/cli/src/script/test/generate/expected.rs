//! What may be expected of operations.

use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::{collection, option, sample};
use wirevm_map::{Errno, KernReturn};

use super::parts::pattern;
use crate::script::ast::{Expectation, PageState, PageValue, Span, Value};

pub(super) fn value(other: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Expectation>> {
    let code = sample::select(&KernReturn::ALL[..]).prop_map(Value::Code);
    let value = prop_oneof![Just(Value::Any), code, other].boxed();
    option::of((value.clone(), option::of(value)))
        .prop_map(|found| found.map(|(value, otherwise)| Expectation { value, otherwise }))
        .boxed()
}

/// Values of an operation whose failures are error numbers.
pub(super) fn posix(other: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Expectation>> {
    let errno = sample::select(&Errno::ALL[..]).prop_map(Value::Errno);
    let success = Just(Value::Code(KernReturn::Success));
    let value = prop_oneof![Just(Value::Any), success, errno, Just(Value::Blocked), other];
    option::of(value.prop_map(|value| Expectation { value, otherwise: None })).boxed()
}

pub(super) fn code() -> BoxedStrategy<Option<Expectation>> {
    value(Just(Value::Code(KernReturn::Success)))
}

/// Return codes of what may have to wait.
pub(super) fn waiting() -> BoxedStrategy<Option<Expectation>> {
    value(Just(Value::Blocked))
}

pub(super) fn ends() -> BoxedStrategy<Option<Expectation>> {
    value(prop_oneof![
        any::<u8>().prop_map(Value::Exit),
        option::of("\\PC{0,9}\n?").prop_map(Value::Fault),
        Just(Value::Killed),
        Just(Value::Blocked),
    ])
}

pub(super) fn layout() -> BoxedStrategy<Value> {
    let row = (1..9_u64, 0..9_u64, any::<u64>(), any::<bool>());
    collection::vec(row, 1..5)
        .prop_map(|rows| {
            let mut end = 0;
            let spans = rows.into_iter().map(|(pages, gap, wired_count, user_wired)| {
                let start = end + gap;
                end = start + pages;
                Span { start, end, wired_count, user_wired }
            });
            Value::Layout(spans.collect())
        })
        .boxed()
}

/// Counts without user bits.
pub(super) fn counts() -> BoxedStrategy<Value> {
    let without = |value| match value {
        Value::Layout(spans) => {
            Value::Layout(spans.into_iter().map(|span| Span { user_wired: false, ..span }).collect())
        }
        other => other,
    };
    prop_oneof![layout().prop_map(without), Just(Value::None)].boxed()
}

pub(super) fn pages() -> BoxedStrategy<Value> {
    let page = prop_oneof![
        Just(PageValue::None),
        pattern().prop_map(PageValue::Filled),
        pattern().prop_map(PageValue::Starts),
    ];
    collection::vec(page, 1..5).prop_map(Value::Pages).boxed()
}

pub(super) fn states() -> BoxedStrategy<Value> {
    collection::vec((1..9_u64, 0..9_u64, 0..16_u64), 1..5)
        .prop_map(|rows| {
            let mut end = 0;
            let states = rows.into_iter().map(|(pages, gap, bits)| {
                let start = end + gap;
                end = start + pages;
                PageState { start, end, bits }
            });
            Value::States(states.collect())
        })
        .boxed()
}

pub(super) fn messages() -> BoxedStrategy<Value> {
    let words = [
        "init",
        "terminate",
        "data_request[0,4)rw",
        "data_unlock[1,2)w",
        "data_return[0,2)dirty,kept",
        "synchronize[0,8)",
        "lock_completed[3,4)",
    ];
    collection::vec(sample::select(words.map(str::to_owned).to_vec()), 1..5).prop_map(Value::Messages).boxed()
}
