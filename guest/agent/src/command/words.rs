//! Commands as words.

use alloc::vec::Vec;

use wirevm_map::{Advice, Inheritance, KernReturn, MapMode, PagerFault, Prot, ShouldReturn, StoreKind};

use super::{Behaviour, Command, Crash, Limit, MAX_OBJECT_PAGES, ObjectKind, Request};
use crate::codec::{Malformed, Reader, put_bytes};

impl Request {
    /// Appends the request's words: task, thread, and the command's.
    pub fn encode(&self, words: &mut Vec<u64>) {
        words.extend([self.task, self.thread]);
        self.command.encode(words);
    }

    /// Decodes a request from all of `words`.
    ///
    /// # Errors
    /// [`Malformed`] as for [`Command::decode`].
    pub fn decode(words: &[u64]) -> Result<Self, Malformed> {
        let (&[task, thread], command) = words.split_first_chunk().ok_or(Malformed)?;
        Ok(Self { task, thread, command: Command::decode(command)? })
    }
}

impl Command {
    /// Appends the command's words.
    pub fn encode(&self, words: &mut Vec<u64>) {
        match *self {
            Self::Allocate { address, size } => {
                words.push(1);
                put_place(words, address);
                words.push(size);
            }
            Self::Deallocate { address, size } => words.extend([2, address, size]),
            Self::Protect { address, size, set_maximum, prot } => {
                words.extend([3, address, size, u64::from(set_maximum), prot.bits()]);
            }
            Self::Write { address, size, pattern } => {
                words.extend([4, address, size]);
                put_bytes(words, pattern.bytes());
            }
            Self::Expect { address, size, pattern } => {
                words.extend([5, address, size]);
                put_bytes(words, pattern.bytes());
            }
            Self::Read { address, size } => words.extend([6, address, size]),
            Self::Wire { start, end, flags } => words.extend([7, start, end, flags]),
            Self::Unwire { start, end, flags } => words.extend([8, start, end, flags]),
            Self::Sync { address, size, flags } => words.extend([9, address, size, flags]),
            Self::Layout { start, end } => words.extend([10, start, end]),
            Self::Frames { start, end } => words.extend([11, start, end]),
            Self::Check => words.push(12),
            Self::Exit { code } => words.extend([13, u64::from(code)]),
            Self::Crash(crash) => words.extend([14, crash as u64]),
            Self::NewTask => words.push(15),
            Self::EndTask => words.push(16),
            Self::Fork => words.push(17),
            Self::Poll { thread } => words.extend([18, thread]),
            Self::Join { thread } => words.extend([19, thread]),
            Self::Entries { start, end } => words.extend([20, start, end]),
            Self::Residents { start, end } => words.extend([21, start, end]),
            Self::PageWires { start, end } => words.extend([22, start, end]),
            Self::WireTotal => words.push(23),
            Self::AllocateLarge { address, size } => {
                words.push(24);
                put_place(words, address);
                words.push(size);
            }
            Self::Guard { address, size } => {
                words.push(25);
                put_place(words, address);
                words.push(size);
            }
            Self::Stack { address, size, initial } => {
                words.push(26);
                put_place(words, address);
                words.extend([size, initial]);
            }
            Self::MapObject { address, object, first_page, end_page, mode, prot } => {
                words.push(27);
                put_place(words, address);
                words.extend([object, first_page, end_page, number(&MODES, mode), prot.bits()]);
            }
            Self::Inherit { address, size, inheritance } => {
                words.extend([28, address, size, number(&INHERITANCES, inheritance)]);
            }
            Self::Advise { address, size, advice } => words.extend([29, address, size, number(&ADVICES, advice)]),
            Self::Mlock { address, size } => words.extend([30, address, size]),
            Self::Munlock { address, size } => words.extend([31, address, size]),
            Self::Mlockall { flags } => words.extend([32, flags]),
            Self::Munlockall => words.push(33),
            Self::Mincore { address, size } => words.extend([34, address, size]),
            Self::Vslock { address, size } => words.extend([35, address, size]),
            Self::Vsunlock { address, size } => words.extend([36, address, size]),
            Self::Brk { size } => words.extend([37, size]),
            Self::Limit(limit) => words.extend(match limit {
                Limit::Memlock { pages } => [38, 0, pages],
                Limit::Privilege { may_lock } => [38, 1, u64::from(may_lock)],
                Limit::Global { pages } => [38, 2, pages],
            }),
            Self::NewObject { kind, pages } => words.extend(match kind {
                ObjectKind::Anonymous => [39, 0, 0, pages],
                ObjectKind::File { readahead } => [39, 1, readahead, pages],
            }),
            Self::DropObject { object } => words.extend([40, object]),
            Self::Gate { object, page } => words.extend([41, object, page]),
            Self::Release { object, page } => words.extend([42, object, page]),
            Self::Fail { object, page, fault } => words.extend([43, object, page, number(&FAULTS, fault)]),
            Self::Heal { object, page } => words.extend([44, object, page]),
            Self::Kill { object } => words.extend([45, object]),
            Self::Truncate { object, pages } => words.extend([46, object, pages]),
            Self::WiredFrames { start, end } => words.extend([49, start, end]),
            Self::Quiesce => words.push(47),
            Self::Reset => words.push(48),
            Self::Msync { address, size, flags } => words.extend([50, address, size, flags]),
            Self::Submap { address, size } => {
                words.push(51);
                put_place(words, address);
                words.push(size);
            }
            Self::NewStoreObject { name: [low, high], pages, kind } => {
                words.extend([52, low, high, pages, number(&STORES, kind)]);
            }
            Self::NewManager => words.push(53),
            Self::NewManagedObject { pages, address } => words.extend([54, pages, address]),
            Self::Behave(behaviour) => words.extend([55, number(&Behaviour::ALL, behaviour)]),
            Self::Die => words.push(56),
            Self::SynchronizeCompleted { object, offset, length, status } => {
                words.extend([57, object, offset, length, u64::from(status.code())]);
            }
            Self::LockRequest { object, first_page, end_page, should_return, should_flush, forbidden } => {
                let returns = number(&RETURNS, should_return);
                let forbidden = forbidden.map_or(NO_CHANGE, Prot::bits);
                words.extend([58, object, first_page, end_page, returns, u64::from(should_flush), forbidden]);
            }
            Self::Messages => words.push(59),
            Self::DirtyRanges { object } => words.extend([60, object]),
            Self::PageStates { start, end } => words.extend([61, start, end]),
            Self::Completions => words.push(62),
            Self::AwaitHost => words.push(63),
            Self::Stat { selector } => words.extend([64, selector]),
            Self::Trim => words.push(65),
            Self::Program { entry } => words.extend([66, entry]),
            Self::AwaitProgram { task } => words.extend([67, task]),
            Self::KillProgram { task } => words.extend([68, task]),
        }
    }

    /// Decodes a command from all of `words`.
    ///
    /// # Errors
    /// [`Malformed`] for an unknown number, too few or too many words, or a value out of its range.
    pub fn decode(words: &[u64]) -> Result<Self, Malformed> {
        let mut from = Reader::new(words);
        let number = from.word()?;
        let command = match number {
            1..=14 => Self::of_memory(number, &mut from)?,
            15..=23 => Self::of_tasks(number, &mut from)?,
            24..=37 => Self::of_ranges(number, &mut from)?,
            38..=49 => Self::of_system(number, &mut from)?,
            _ => Self::of_managers(number, &mut from)?,
        };
        from.end(command)
    }

    /// Decodes the operations that every map has.
    fn of_memory(number: u64, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match number {
            1 => Self::Allocate { address: place(from)?, size: from.word()? },
            2 => {
                let [address, size] = from.words()?;
                Self::Deallocate { address, size }
            }
            3 => {
                let [address, size, maximum, prot] = from.words()?;
                Self::Protect { address, size, set_maximum: flag(maximum)?, prot: rights(prot)? }
            }
            4 => {
                let [address, size] = from.words()?;
                Self::Write { address, size, pattern: from.pattern()? }
            }
            5 => {
                let [address, size] = from.words()?;
                Self::Expect { address, size, pattern: from.pattern()? }
            }
            6 => {
                let [address, size] = from.words()?;
                Self::Read { address, size }
            }
            7 => {
                let [start, end, flags] = from.words()?;
                Self::Wire { start, end, flags }
            }
            8 => {
                let [start, end, flags] = from.words()?;
                Self::Unwire { start, end, flags }
            }
            9 => {
                let [address, size, flags] = from.words()?;
                Self::Sync { address, size, flags }
            }
            10 => {
                let [start, end] = from.words()?;
                Self::Layout { start, end }
            }
            11 => {
                let [start, end] = from.words()?;
                Self::Frames { start, end }
            }
            12 => Self::Check,
            13 => Self::Exit { code: u8::try_from(from.word()?).map_err(|_| Malformed)? },
            14 => Self::Crash(choice(&Crash::ALL, from.word()?)?),
            _ => return Err(Malformed),
        })
    }

    /// Decodes what is about tasks and threads, and the questions about a task.
    fn of_tasks(number: u64, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match number {
            15 => Self::NewTask,
            16 => Self::EndTask,
            17 => Self::Fork,
            18 => Self::Poll { thread: from.word()? },
            19 => Self::Join { thread: from.word()? },
            20 => {
                let [start, end] = from.words()?;
                Self::Entries { start, end }
            }
            21 => {
                let [start, end] = from.words()?;
                Self::Residents { start, end }
            }
            22 => {
                let [start, end] = from.words()?;
                Self::PageWires { start, end }
            }
            23 => Self::WireTotal,
            _ => return Err(Malformed),
        })
    }

    /// Decodes further kinds of ranges and the POSIX-shaped operations.
    fn of_ranges(number: u64, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match number {
            24 => Self::AllocateLarge { address: place(from)?, size: from.word()? },
            25 => Self::Guard { address: place(from)?, size: from.word()? },
            26 => Self::Stack { address: place(from)?, size: from.word()?, initial: from.word()? },
            27 => {
                let address = place(from)?;
                let [object, first_page, end_page, mode, prot] = from.words()?;
                let (first_page, end_page) = (object_page(first_page)?, object_page(end_page)?);
                let (mode, prot) = (choice(&MODES, mode)?, rights(prot)?);
                Self::MapObject { address, object, first_page, end_page, mode, prot }
            }
            28 => {
                let [address, size, inheritance] = from.words()?;
                Self::Inherit { address, size, inheritance: choice(&INHERITANCES, inheritance)? }
            }
            29 => {
                let [address, size, advice] = from.words()?;
                Self::Advise { address, size, advice: choice(&ADVICES, advice)? }
            }
            32 => Self::Mlockall { flags: from.word()? },
            33 => Self::Munlockall,
            37 => Self::Brk { size: from.word()? },
            _ => {
                let [address, size] = from.words()?;
                match number {
                    30 => Self::Mlock { address, size },
                    31 => Self::Munlock { address, size },
                    34 => Self::Mincore { address, size },
                    35 => Self::Vslock { address, size },
                    36 => Self::Vsunlock { address, size },
                    _ => return Err(Malformed),
                }
            }
        })
    }

    /// Decodes limits, objects, and what is about the system as a whole.
    fn of_system(number: u64, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match number {
            38 => Self::Limit(match from.words()? {
                [0, pages] => Limit::Memlock { pages },
                [1, word] => Limit::Privilege { may_lock: flag(word)? },
                [2, pages] => Limit::Global { pages },
                _ => return Err(Malformed),
            }),
            39 => match from.words()? {
                [0, 0, pages] => Self::NewObject { kind: ObjectKind::Anonymous, pages: object_page(pages)? },
                [1, readahead @ 1..=MAX_OBJECT_PAGES, pages] => {
                    Self::NewObject { kind: ObjectKind::File { readahead }, pages: object_page(pages)? }
                }
                _ => return Err(Malformed),
            },
            40 => Self::DropObject { object: from.word()? },
            41 => {
                let [object, page] = from.words()?;
                Self::Gate { object, page: object_page(page)? }
            }
            42 => {
                let [object, page] = from.words()?;
                Self::Release { object, page: object_page(page)? }
            }
            43 => {
                let [object, page, fault] = from.words()?;
                Self::Fail { object, page: object_page(page)?, fault: choice(&FAULTS, fault)? }
            }
            44 => {
                let [object, page] = from.words()?;
                Self::Heal { object, page: object_page(page)? }
            }
            45 => Self::Kill { object: from.word()? },
            46 => {
                let [object, pages] = from.words()?;
                Self::Truncate { object, pages: object_page(pages)? }
            }
            47 => Self::Quiesce,
            48 => Self::Reset,
            49 => {
                let [start, end] = from.words()?;
                Self::WiredFrames { start, end }
            }
            _ => return Err(Malformed),
        })
    }
}

impl Command {
    /// Decodes what is about managers, stores and the host.
    fn of_managers(number: u64, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match number {
            50 => {
                let [address, size, flags] = from.words()?;
                Self::Msync { address, size, flags }
            }
            51 => Self::Submap { address: place(from)?, size: from.word()? },
            52 => {
                let [low, high, pages, kind] = from.words()?;
                Self::NewStoreObject { name: [low, high], pages: some_pages(pages)?, kind: choice(&STORES, kind)? }
            }
            53 => Self::NewManager,
            54 => {
                let [pages, address] = from.words()?;
                Self::NewManagedObject { pages: some_pages(pages)?, address }
            }
            55 => Self::Behave(choice(&Behaviour::ALL, from.word()?)?),
            56 => Self::Die,
            57 => {
                let [object, offset, length, status] = from.words()?;
                let status = u32::try_from(status).ok().and_then(KernReturn::from_code).ok_or(Malformed)?;
                Self::SynchronizeCompleted { object, offset, length, status }
            }
            58 => {
                let [object, first_page, end_page, returns, flush, forbidden] = from.words()?;
                let (first_page, end_page) = (object_page(first_page)?, object_page(end_page)?);
                let should_return = choice(&RETURNS, returns)?;
                let forbidden = if forbidden == NO_CHANGE { None } else { Some(rights(forbidden)?) };
                Self::LockRequest { object, first_page, end_page, should_return, should_flush: flag(flush)?, forbidden }
            }
            59 => Self::Messages,
            60 => Self::DirtyRanges { object: from.word()? },
            61 => {
                let [start, end] = from.words()?;
                Self::PageStates { start, end }
            }
            62 => Self::Completions,
            63 => Self::AwaitHost,
            64 => Self::Stat { selector: from.word()? },
            65 => Self::Trim,
            66 => Self::Program { entry: from.word()? },
            67 => Self::AwaitProgram { task: from.word()? },
            68 => Self::KillProgram { task: from.word()? },
            _ => return Err(Malformed),
        })
    }
}

/// Stands for accesses that are left as they are.
const NO_CHANGE: u64 = u64::MAX;

/// Values by their numbers, from 0 on.
const STORES: [StoreKind; 2] = [StoreKind::Store, StoreKind::Exclusive];
const RETURNS: [ShouldReturn; 4] =
    [ShouldReturn::Nothing, ShouldReturn::Dirty, ShouldReturn::All, ShouldReturn::Anything];
const MODES: [MapMode; 2] = [MapMode::Shared, MapMode::Private];
const INHERITANCES: [Inheritance; 3] = [Inheritance::Share, Inheritance::Copy, Inheritance::None];
const ADVICES: [Advice; 2] = [Advice::DontNeed, Advice::Free];
const FAULTS: [PagerFault; 2] = [PagerFault::Io, PagerFault::Refused];

fn number<T: Copy + PartialEq>(values: &[T], value: T) -> u64 {
    values.iter().zip(0..).find_map(|(known, number)| (*known == value).then_some(number)).unwrap_or(u64::MAX)
}

fn choice<T: Copy>(values: &[T], number: u64) -> Result<T, Malformed> {
    let place = usize::try_from(number).map_err(|_| Malformed)?;
    values.get(place).copied().ok_or(Malformed)
}

/// Appends where an allocation goes: whether it is said, and the address.
fn put_place(words: &mut Vec<u64>, address: Option<u64>) {
    words.extend([u64::from(address.is_some()), address.unwrap_or(0)]);
}

fn place(from: &mut Reader<'_>) -> Result<Option<u64>, Malformed> {
    match from.words()? {
        [0, _] => Ok(None),
        [1, address] => Ok(Some(address)),
        _ => Err(Malformed),
    }
}

/// Lets a number of pages of an object pass that a map can reckon with.
const fn object_page(number: u64) -> Result<u64, Malformed> {
    if number <= MAX_OBJECT_PAGES { Ok(number) } else { Err(Malformed) }
}

/// As [`object_page`], for the size of an object that can't be empty.
const fn some_pages(number: u64) -> Result<u64, Malformed> {
    if number == 0 { Err(Malformed) } else { object_page(number) }
}

fn rights(bits: u64) -> Result<Prot, Malformed> {
    Prot::from_bits(bits).ok_or(Malformed)
}

const fn flag(word: u64) -> Result<bool, Malformed> {
    match word {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}
