//! Scripts by chance.

use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::{collection, option, sample};

use wirevm_agent::{Crash, Pattern};
use wirevm_map::{KernReturn, Prot};

use crate::script::Script;
use crate::script::ast::{
    Address, Expectation, FlagWord, Flags, Operation, PageValue, Question, Range, Span, Statement, Value,
};

const NAMES: [&str; 3] = ["a", "_b1", "sizes"];

/// A script that defines its names first and then uses them.
pub(super) fn script() -> impl Strategy<Value = Script> {
    let crash = sample::select(&Crash::ALL[..]).prop_map(Operation::Crash);
    let end = prop_oneof![any::<u8>().prop_map(Operation::Exit), crash];
    (collection::vec(statement(), 0..12), end).prop_map(|(rest, end)| {
        let named = |name: &str| Operation::Allocate { name: Some(name.to_owned()), size: 4096, at: None };
        let defined = NAMES.map(|name| (named(name), None)).into_iter();
        let statement = |(operation, expected)| Statement { line: 0, text: String::new(), operation, expected };
        let last = (end, None);
        Script { statements: defined.chain(rest).chain([last]).map(statement).collect() }
    })
}

fn name() -> impl Strategy<Value = String> {
    sample::select(&NAMES[..]).prop_map(str::to_owned)
}

fn number() -> BoxedStrategy<u64> {
    prop_oneof![0..20_u64, Just(u64::MAX), any::<u64>()].boxed()
}

fn address() -> BoxedStrategy<Address> {
    (option::of(name()), number()).prop_map(|(name, offset)| Address { name, offset }).boxed()
}

fn range() -> BoxedStrategy<Range> {
    let page = || prop_oneof![0..9_u64, Just(u64::MAX / 4096)];
    prop_oneof![
        name().prop_map(Range::Whole),
        (name(), page(), page()).prop_map(|(name, start, end)| Range::Pages { name, start, end }),
        (address(), number()).prop_map(|(address, bytes)| Range::Length(address, bytes)),
        (address(), address()).prop_map(|(start, end)| Range::Bounds(start, end)),
    ]
    .boxed()
}

fn pattern() -> BoxedStrategy<Pattern> {
    collection::vec(any::<u8>(), 1..=64).prop_map(|bytes| Pattern::new(&bytes).expect("1 to 64 bytes")).boxed()
}

fn flags(known: &'static [FlagWord]) -> BoxedStrategy<Flags> {
    let words = sample::subsequence(known, 0..=known.len());
    let bits = collection::vec(any::<u32>().prop_map(FlagWord::Bits), 0..2);
    (words, bits).prop_map(|(words, bits)| Flags { words: words.into_iter().chain(bits).collect() }).boxed()
}

/// Flags of wire that don't contradict each other.
fn wire_flags() -> BoxedStrategy<Flags> {
    const FLAGS: [&[FlagWord]; 2] = [Flags::WIRE.split_at(1).0, Flags::WIRE.split_at(4).1];
    prop_oneof![flags(FLAGS[0]), flags(FLAGS[1])].boxed()
}

fn value(other: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Expectation>> {
    let code = sample::select(&KernReturn::ALL[..]).prop_map(Value::Code);
    let value = prop_oneof![Just(Value::Any), code, other].boxed();
    option::of((value.clone(), option::of(value)))
        .prop_map(|found| found.map(|(value, otherwise)| Expectation { value, otherwise }))
        .boxed()
}

fn layout() -> BoxedStrategy<Value> {
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

fn pages() -> BoxedStrategy<Value> {
    let page = prop_oneof![
        Just(PageValue::None),
        pattern().prop_map(PageValue::Filled),
        pattern().prop_map(PageValue::Starts),
    ];
    collection::vec(page, 1..5).prop_map(Value::Pages).boxed()
}

fn statement() -> BoxedStrategy<(Operation, Option<Expectation>)> {
    let code = || value(Just(Value::Code(KernReturn::Success)));
    let count = || value(prop_oneof![number().prop_map(Value::Number), Just(Value::None), Just(Value::Unsupported)]);
    let allocate =
        (number(), option::of(address())).prop_map(|(size, at)| Operation::Allocate { name: None, size, at });
    let protect = (range(), any::<bool>(), 0..8_u64).prop_map(|(range, set_maximum, bits)| {
        let prot = Prot::from_bits(bits).expect("three bits");
        Operation::Protect { range, set_maximum, prot }
    });
    let resident = range().prop_map(|range| Operation::Host(Question::Resident(range)));
    let dirty = range().prop_map(|range| Operation::Host(Question::Dirty(range)));
    let file = range().prop_map(|range| Operation::Host(Question::File(range)));
    prop_oneof![
        (allocate, value(number().prop_map(Value::Number))),
        (range().prop_map(Operation::Deallocate), code()),
        (protect, code()),
        ((range(), pattern()).prop_map(|(range, pattern)| Operation::Write(range, pattern)), code()),
        (range().prop_map(Operation::Read), value(pattern().prop_map(Value::Pattern))),
        (
            (range(), pattern()).prop_map(|(range, pattern)| Operation::Expect(range, pattern)),
            value(Just(Value::Mismatch))
        ),
        ((range(), wire_flags()).prop_map(|(range, flags)| Operation::Wire(range, flags)), code()),
        ((range(), wire_flags()).prop_map(|(range, flags)| Operation::Unwire(range, flags)), code()),
        ((range(), flags(&Flags::SYNC)).prop_map(|(range, flags)| Operation::Sync(range, flags)), code()),
        (range().prop_map(Operation::Layout), value(prop_oneof![layout(), Just(Value::None)])),
        (Just(Operation::Host(Question::Locked)), value(number().prop_map(Value::Number))),
        (resident, count()),
        (dirty, count()),
        (file, value(pages())),
        (Just(Operation::Check), code()),
    ]
    .boxed()
}
