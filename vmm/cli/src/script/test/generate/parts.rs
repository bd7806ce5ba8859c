//! What operations are about: tasks, names, places, numbers, flags.

use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::{collection, option, sample};
use wirevm_agent::{ObjectKind, Pattern};
use wirevm_map::{MapMode, Prot};

use super::{NAMES, OBJECTS, OTHER_NAMES, TASKS};
use crate::script::ast::{Address, Allocation, AllocationKind, FlagWord, Flags, Place, Range, Task};

pub(super) fn number() -> BoxedStrategy<u64> {
    prop_oneof![0..20_u64, Just(u64::MAX), any::<u64>()].boxed()
}

pub(super) fn object_page() -> BoxedStrategy<u64> {
    prop_oneof![0..9_u64, Just(1 << 40)].boxed()
}

pub(super) fn task() -> BoxedStrategy<Task> {
    option::of(sample::select(&TASKS[..]).prop_map(str::to_owned)).boxed()
}

pub(super) fn object() -> BoxedStrategy<String> {
    sample::select(&OBJECTS[..]).prop_map(str::to_owned).boxed()
}

pub(super) fn name(task: &Task) -> BoxedStrategy<String> {
    let names = if task.is_some() { &OTHER_NAMES[..] } else { &NAMES[..] };
    sample::select(names).prop_map(str::to_owned).boxed()
}

pub(super) fn address(task: &Task) -> BoxedStrategy<Address> {
    (option::of(name(task)), number()).prop_map(|(name, offset)| Address { name, offset }).boxed()
}

pub(super) fn range() -> BoxedStrategy<Range> {
    task().prop_flat_map(|task| place(&task).prop_map(move |place| Range { task: task.clone(), place })).boxed()
}

pub(super) fn place(task: &Task) -> BoxedStrategy<Place> {
    let page = || prop_oneof![0..9_u64, Just(u64::MAX / 4096)];
    prop_oneof![
        name(task).prop_map(Place::Whole),
        (name(task), page(), page()).prop_map(|(name, start, end)| Place::Pages { name, start, end }),
        (address(task), number()).prop_map(|(address, bytes)| Place::Length(address, bytes)),
        (address(task), address(task)).prop_map(|(start, end)| Place::Bounds(start, end)),
    ]
    .boxed()
}

pub(super) fn prot() -> BoxedStrategy<Prot> {
    (0..8_u64).prop_map(|bits| Prot::from_bits(bits).expect("three bits")).boxed()
}

pub(super) fn object_kind() -> BoxedStrategy<(ObjectKind, u64)> {
    let file = (1..9_u64).prop_map(|readahead| ObjectKind::File { readahead });
    (prop_oneof![Just(ObjectKind::Anonymous), file], object_page()).boxed()
}

pub(super) fn allocation() -> BoxedStrategy<Allocation> {
    let mode = prop_oneof![Just(MapMode::Shared), Just(MapMode::Private)];
    let mapping = (object(), option::of((object_page(), object_page())), mode, prot())
        .prop_map(|(object, pages, mode, prot)| AllocationKind::Object { object, pages, mode, prot });
    let kind = prop_oneof![
        number().prop_map(|size| AllocationKind::Plain { size }),
        number().prop_map(|size| AllocationKind::Large { size }),
        number().prop_map(|size| AllocationKind::Guard { size }),
        (number(), number()).prop_map(|(size, initial)| AllocationKind::Stack { size, initial }),
        mapping,
        number().prop_map(|size| AllocationKind::Heap { size }),
    ];
    let task_and_address = task().prop_flat_map(|task| {
        let at = option::of(address(&task));
        at.prop_map(move |at| (task.clone(), at))
    });
    (kind, task_and_address)
        .prop_map(|(kind, (task, at))| {
            let at = at.filter(|_| !matches!(kind, AllocationKind::Heap { .. }));
            Allocation { task, kind, at }
        })
        .boxed()
}

pub(super) fn pattern() -> BoxedStrategy<Pattern> {
    collection::vec(any::<u8>(), 1..=64).prop_map(|bytes| Pattern::new(&bytes).expect("1 to 64 bytes")).boxed()
}

pub(super) fn flags(known: &'static [FlagWord]) -> BoxedStrategy<Flags> {
    let words = sample::subsequence(known, 0..=known.len());
    let bits = collection::vec(any::<u32>().prop_map(FlagWord::Bits), 0..2);
    (words, bits).prop_map(|(words, bits)| Flags { words: words.into_iter().chain(bits).collect() }).boxed()
}

/// Flags of wire that don't contradict each other.
pub(super) fn wire_flags() -> BoxedStrategy<Flags> {
    const FLAGS: [&[FlagWord]; 2] = [Flags::WIRE.split_at(1).0, Flags::WIRE.split_at(4).1];
    prop_oneof![flags(FLAGS[0]), flags(FLAGS[1])].boxed()
}
