//! Random operations against a model that keeps every page by itself.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

use super::{Bed, Outcome, Placement};
use crate::fake::{FakeConfig, block_on};
use crate::flags::{SyncFlags, WireFlags};
use crate::kern_return::KernReturn;
use crate::ports::HostError;
use crate::units::{PAGE_SHIFT, PageRange, Prot};

/// An operation on pages counted from the start of the map.
#[derive(Clone, Debug)]
enum Operation {
    Allocate(u64, u64),
    Deallocate(u64, u64),
    Protect(u64, u64, bool, Prot),
    Wire(u64, u64, WireFlags, Option<HostError>),
    Unwire(u64, u64, WireFlags),
    Msync(u64, u64, SyncFlags),
    Write(u64, u8),
    Read(u64),
}

/// What the model knows of an allocated page.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    prot: Prot,
    max_prot: Prot,
    system: u32,
    user: bool,
    byte: u8,
    /// It need not be written, and was not written to since: stable storage may have anything.
    killed: bool,
}

impl Page {
    const NEW: Self = Self { prot: Prot::DEFAULT, max_prot: Prot::ALL, system: 0, user: false, byte: 0, killed: false };

    fn count(self) -> u32 {
        self.system + u32::from(self.user)
    }

    fn is_like(self, other: Self) -> bool {
        Self { byte: 0, killed: false, ..self } == Self { byte: 0, killed: false, ..other }
    }
}

#[derive(Clone, Debug)]
struct Model {
    pages: Vec<Option<Page>>,
    user_limit: u64,
}

impl Model {
    fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    fn get(&self, page: u64) -> Option<Page> {
        usize::try_from(page).ok().and_then(|page| self.pages.get(page).copied().flatten())
    }

    fn set(&mut self, page: u64, to: Option<Page>) {
        self.pages[usize::try_from(page).unwrap()] = to;
    }

    fn user_pages(&self) -> u64 {
        self.pages.iter().flatten().filter(|page| page.user).count() as u64
    }

    fn wired_pages(&self) -> u64 {
        self.pages.iter().flatten().filter(|page| page.count() > 0).count() as u64
    }

    fn allocate(&mut self, start: u64, end: u64) -> Outcome {
        if end > self.len() {
            return Err(KernReturn::InvalidAddress);
        }
        if (start..end).any(|page| self.get(page).is_some()) {
            return Err(KernReturn::NoSpace);
        }
        (start..end).for_each(|page| self.set(page, Some(Page::NEW)));
        Ok(())
    }

    fn protect(&mut self, start: u64, end: u64, set_maximum: bool, prot: Prot) -> Outcome {
        for page in start..end {
            let page = self.get(page).ok_or(KernReturn::InvalidAddress)?;
            if !page.max_prot.contains(prot) {
                return Err(KernReturn::ProtectionFailure);
            }
        }
        for at in start..end {
            let page = self.get(at).map(|page| match set_maximum {
                true => Page { max_prot: prot, prot: page.prot & prot, ..page },
                false => Page { prot, ..page },
            });
            self.set(at, page);
        }
        Ok(())
    }

    /// Checks what wire and unwire have in common and clamps the range.
    fn wire_range(&self, start: u64, end: u64, flags: WireFlags) -> Result<(u64, u64), KernReturn> {
        if start == end {
            return Ok((0, 0));
        }
        if start > end || flags.has_unknown() {
            return Err(KernReturn::InvalidArgument);
        }
        let (start, end) = (start.min(self.len()), end.min(self.len()));
        if start == end && !flags.allows_holes() { Err(KernReturn::InvalidAddress) } else { Ok((start, end)) }
    }

    fn wire(&mut self, start: u64, end: u64, flags: WireFlags, failure: Option<HostError>) -> Outcome {
        let (start, end) = self.wire_range(start, end, flags)?;
        let mut after = self.clone();
        for at in start..end {
            let Some(page) = self.get(at) else {
                if flags.allows_holes() {
                    continue;
                }
                return Err(KernReturn::InvalidAddress);
            };
            let readable = page.prot.contains(Prot::READ) || page.prot.contains(Prot::EXECUTE);
            let permitted = readable && (!flags.contains(WireFlags::WRITE) || page.prot.contains(Prot::WRITE));
            if !permitted {
                if flags.allows_holes() {
                    continue;
                }
                return Err(KernReturn::InvalidAddress);
            }
            after.set(
                at,
                Some(match flags.is_user() {
                    true => Page { user: true, ..page },
                    false => Page { system: page.system + 1, ..page },
                }),
            );
            if after.user_pages() > self.user_limit {
                return Err(KernReturn::ResourceShortage);
            }
        }
        match failure {
            Some(error) if after.wired_pages() > self.wired_pages() => Err(KernReturn::from_wire_error(error)),
            _ => {
                *self = after;
                Ok(())
            }
        }
    }

    /// Returns the outcomes that are right: two where they depend on how entries happen to be cut.
    fn unwire(&mut self, start: u64, end: u64, flags: WireFlags) -> Vec<Outcome> {
        let (start, end) = match self.wire_range(start, end, flags) {
            Ok(range) => range,
            Err(error) => return vec![Err(error)],
        };
        for at in start..end {
            let Some(page) = self.get(at) else {
                if flags.allows_holes() {
                    continue;
                }
                return vec![Err(KernReturn::InvalidAddress)];
            };
            if !flags.is_user() && page.system == 0 {
                let alike = |next: &u64| self.get(*next).is_some_and(|next| next.is_like(page));
                let next = (at..end).find(|next| !alike(next));
                let hole = next.is_some_and(|next| self.get(next).is_none()) && !flags.allows_holes();
                let mut outcomes = vec![Err(KernReturn::InvalidArgument)];
                outcomes.extend(hole.then_some(Err(KernReturn::InvalidAddress)));
                return outcomes;
            }
        }
        for at in start..end {
            let page = self.get(at).map(|page| match flags.is_user() {
                true => Page { user: false, ..page },
                false => Page { system: page.system - 1, ..page },
            });
            self.set(at, page);
        }
        vec![Ok(())]
    }

    fn msync(&self, start: u64, end: u64, flags: SyncFlags) -> Outcome {
        let hole = (start..end).any(|page| self.get(page).is_none());
        if start < end && flags.contains(SyncFlags::SYNCHRONOUS | SyncFlags::ASYNCHRONOUS) {
            Err(KernReturn::InvalidArgument)
        } else if hole && flags.contains(SyncFlags::CONTIGUOUS) {
            Err(KernReturn::InvalidAddress)
        } else {
            Ok(())
        }
    }

    /// Rows M-05 and H-02.
    fn kill(&mut self, start: u64, end: u64, flags: SyncFlags) {
        if !flags.contains(SyncFlags::KILLPAGES) || flags.contains(SyncFlags::SYNCHRONOUS | SyncFlags::ASYNCHRONOUS) {
            return;
        }
        for at in start..end {
            match self.get(at) {
                None => return,
                Some(page) if page.count() == 0 => self.set(at, Some(Page { killed: true, ..page })),
                Some(_) => {}
            }
        }
    }

    fn access(&self, page: u64, access: Prot) -> Result<Page, KernReturn> {
        let page = self.get(page).ok_or(KernReturn::InvalidAddress)?;
        if page.prot.contains(access) { Ok(page) } else { Err(KernReturn::ProtectionFailure) }
    }

    fn layout(&self) -> String {
        let mut rows: Vec<(u64, u64, u32, bool)> = Vec::new();
        for (at, page) in (0..).zip(&self.pages) {
            let Some(page) = page else { continue };
            match rows.last_mut() {
                Some((_, end, count, user)) if (*end, *count, *user) == (at, page.count(), page.user) => *end += 1,
                _ => rows.push((at, at + 1, page.count(), page.user)),
            }
        }
        let row = |(start, end, count, user): &(u64, u64, u32, bool)| {
            format!("[{start},{end}){count}{}", if *user { "U" } else { "" })
        };
        rows.iter().map(row).collect::<Vec<_>>().join(" ")
    }
}

/// Applies `operation` to both and compares what they answer.
fn apply(bed: &Bed, model: &mut Model, operation: &Operation) -> TestCaseResult {
    let map = &bed.machine.map;
    let size = |start: u64, end: u64| (end - start) << PAGE_SHIFT;
    match *operation {
        Operation::Allocate(start, end) => {
            let got = block_on(map.allocate(Placement::Fixed(bed.at(start)), size(start, end)));
            let expected = if start == end { Ok(0) } else { model.allocate(start, end).map(|()| bed.at(start)) };
            prop_assert_eq!(got, expected);
        }
        Operation::Deallocate(start, end) => {
            // A system wiring would block the call for ever.
            if (start..end).all(|page| model.get(page).is_none_or(|page| page.system == 0)) {
                prop_assert_eq!(block_on(map.deallocate(bed.at(start), size(start, end))), Ok(()));
                (start..end.min(model.len())).for_each(|page| model.set(page, None));
            }
        }
        Operation::Protect(start, end, set_maximum, prot) => {
            let got = block_on(map.protect(bed.at(start), size(start, end), set_maximum, prot));
            prop_assert_eq!(got, model.protect(start, end, set_maximum, prot));
        }
        Operation::Wire(start, end, flags, failure) => {
            if let Some(error) = failure {
                bed.host().fail_wire(0, error);
            }
            let got = block_on(map.wire(bed.at(start), bed.at(end), flags));
            prop_assert_eq!(got, model.wire(start, end, flags, failure));
            bed.host().withdraw_failures();
        }
        Operation::Unwire(start, end, flags) => {
            let got = block_on(map.unwire(bed.at(start), bed.at(end), flags));
            let expected = model.unwire(start, end, flags);
            prop_assert!(expected.contains(&got), "{:?} is none of {:?}", got, expected);
        }
        Operation::Msync(start, end, flags) => {
            let got = block_on(map.msync(bed.at(start), size(start, end), flags));
            prop_assert_eq!(got, model.msync(start, end, flags));
            model.kill(start, end, flags);
        }
        Operation::Write(page, byte) => {
            let got = block_on(bed.machine.write(bed.at(page), &[byte]));
            let expected = model.access(page, Prot::WRITE);
            prop_assert_eq!(got, expected.map(|_| ()));
            if let Ok(known) = expected {
                model.set(page, Some(Page { byte, killed: false, ..known }));
            }
        }
        Operation::Read(page) => {
            let mut byte = [0xee];
            let got = block_on(bed.machine.read(bed.at(page), &mut byte));
            prop_assert_eq!(got.map(|()| byte[0]), model.access(page, Prot::READ).map(|page| page.byte));
        }
    }
    Ok(())
}

/// Compares all that can be seen, given what was stable before the operation.
fn compare(bed: &Bed, model: &Model, operation: &Operation, stable: &[Option<u8>]) -> TestCaseResult {
    prop_assert_eq!(bed.machine.check_quiet(), Ok(()));
    prop_assert_eq!(bed.layout(), model.layout());
    prop_assert_eq!(bed.wired_by_host(), model.wired_pages());
    prop_assert_eq!(bed.machine.vm.user_wired_pages(), model.user_pages());
    let synced = match *operation {
        Operation::Msync(start, end, flags) if is_synced(flags) => start..end,
        _ => 0..0,
    };
    for (page, before) in (0..).zip(stable) {
        let Some(frame) = bed.frame(page) else {
            prop_assert_eq!(model.get(page).map_or(0, |page| page.byte), 0, "page {} has no frame", page);
            continue;
        };
        let mut byte = [0xee];
        bed.machine.ram.read(frame, 0, &mut byte);
        prop_assert_eq!(Some(byte[0]), model.get(page).map(|page| page.byte), "bytes of page {}", page);
        let now = bed.stable(page);
        let killed = model.get(page).is_some_and(|page| page.killed);
        if synced.contains(&page) && !killed {
            prop_assert_eq!(now, Some(byte[0]), "page {} was synced", page);
        } else if before.is_some() && !synced.contains(&page) {
            prop_assert_eq!(now, *before, "page {} was not synced", page);
        }
    }
    Ok(())
}

/// Tells whether a successful msync with these flags makes all bytes of its range stable: before it returns, as this host
/// keeps nobody waiting.
fn is_synced(flags: SyncFlags) -> bool {
    flags.intersects(SyncFlags::SYNCHRONOUS | SyncFlags::ASYNCHRONOUS)
        && !flags.contains(SyncFlags::SYNCHRONOUS | SyncFlags::ASYNCHRONOUS)
        && !flags.intersects(SyncFlags::KILLPAGES | SyncFlags::DEACTIVATE)
}

/// Runs the operations on a map of `pages` pages from page `base` on.
fn run(base: u64, pages: u64, user_limit: u64, operations: &[Operation]) -> TestCaseResult {
    let bed = Bed::with(FakeConfig {
        // Frames are short enough that most are used again, and enough for every page.
        frame_pages: pages + 7,
        map_pages: PageRange::new(base, base + pages),
        user_wire_limit_pages: user_limit,
    });
    let mut model = Model { pages: vec![None; usize::try_from(pages).unwrap()], user_limit };
    let end = Operation::Msync(0, pages, SyncFlags::SYNCHRONOUS);
    for operation in operations.iter().chain([&end]) {
        let stable: Vec<_> = (0..pages).map(|page| bed.stable(page)).collect();
        apply(&bed, &mut model, operation)
            .and_then(|()| compare(&bed, &model, operation, &stable))
            .map_err(|error| TestCaseError::fail(format!("{operation:?}: {}", error)))?;
    }
    block_on(bed.machine.map.destroy());
    prop_assert_eq!(bed.machine.check_quiet(), Ok(()));
    prop_assert_eq!((bed.wired_by_host(), bed.machine.frames().free_pages()), (0, pages + 7));
    Ok(())
}

/// A start and an end, seldom reversed; `edges` come often.
fn ordered(edges: &'static [u64], limit: u64) -> impl Strategy<Value = (u64, u64)> + Clone {
    let point = prop_oneof![3 => select(edges), 1 => 0..limit];
    (point.clone(), point).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

fn operations(edges: &'static [u64], limit: u64) -> impl Strategy<Value = Vec<Operation>> {
    let range = ordered(edges, limit);
    let page = prop_oneof![select(edges), 0..limit];
    let prot = prop_oneof![
        4 => select(&[Prot::DEFAULT, Prot::READ, Prot::NONE][..]),
        1 => (0..8_u64).prop_map(|bits| Prot::from_bits(bits).unwrap()),
    ];
    let wire = prop_oneof![9 => 0..8_u32, 1 => Just(8)].prop_map(WireFlags::from_bits);
    let sync = prop_oneof![
        3 => Just(SyncFlags::SYNCHRONOUS),
        4 => (0..256_u32).prop_map(SyncFlags::from_bits),
    ];
    let errors = &[HostError::Quota, HostError::Io, HostError::Busy][..];
    let failure = prop_oneof![4 => Just(None), 1 => select(errors).prop_map(Some)];
    let reversed = prop_oneof![19 => Just(false), 1 => Just(true)];
    let turn = |(start, end), reversed| if reversed { (end, start) } else { (start, end) };
    let operation = prop_oneof![
        4 => range.clone().prop_map(|(s, e)| Operation::Allocate(s, e)),
        2 => range.clone().prop_map(|(s, e)| Operation::Deallocate(s, e)),
        3 => (range.clone(), prop_oneof![4 => Just(false), 1 => Just(true)], prot)
            .prop_map(|((s, e), max, prot)| Operation::Protect(s, e, max, prot)),
        5 => (range.clone(), reversed.clone(), wire.clone(), failure).prop_map(move |(r, reversed, flags, failure)| {
            let (s, e) = turn(r, reversed);
            Operation::Wire(s, e, flags, failure)
        }),
        5 => (range.clone(), reversed, wire).prop_map(move |(r, reversed, flags)| {
            let (s, e) = turn(r, reversed);
            Operation::Unwire(s, e, flags)
        }),
        4 => (range, sync).prop_map(|((s, e), flags)| Operation::Msync(s, e, flags)),
        5 => (page.clone(), any::<u8>()).prop_map(|(page, byte)| Operation::Write(page, byte)),
        2 => page.prop_map(Operation::Read),
    ];
    prop::collection::vec(operation, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_on_few_pages_agree_with_the_model(
        operations in operations(&[0, 1, 2, 7, 8, 12, 23, 24], 27),
    ) {
        run(500, 24, 15, &operations)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_on_2_mib_blocks_agree_with_the_model(
        operations in operations(&[0, 1, 511, 512, 513, 700, 1023, 1024, 1025, 1200], 1203),
    ) {
        run(512, 1200, 900, &operations)?;
    }
}
