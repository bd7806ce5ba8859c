use super::entry::{ACCESSED, DIRTY, ENTRIES, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE, frame_of};
use super::{PageTables, TableMemory};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use wirevm_map::{FrameRun, PageRange, Prot};

mod marks;

/// Tables stand behind this frame, the frames that tests map in front of it, so that a link is told from a mapping.
const FIRST_TABLE: u64 = 1 << 30;
/// Pages that one directory covers, and pages that the table above it does.
const DIRECTORY_PAGES: u64 = 512 * 512;
const POINTERS_PAGES: u64 = 512 * DIRECTORY_PAGES;

/// Tables in ordinary memory, a translation cache that forgets only what it is told to, and a frame budget.
#[derive(Default)]
struct Memory {
    tables: BTreeMap<u64, Vec<u64>>,
    next: u64,
    budget: u64,
    cached: BTreeSet<u64>,
    /// Tables that a processor may still reach through a link that it has cached.
    linked: BTreeSet<u64>,
    /// Entries read and written.
    accesses: Cell<u64>,
    /// Another processor stores through every mapping just before it is changed.
    races: bool,
    /// Another processor may have the tables loaded.
    shared: bool,
    /// It stores through these entries of each table that loses its link: just before, and just before it is told to forget.
    stores: Vec<u64>,
    late_stores: Vec<u64>,
    invalidations: u64,
}

impl Memory {
    fn entry(&self, frame: u64, index: u64) -> u64 {
        self.tables[&frame][usize::try_from(index).expect("index")]
    }

    /// What another processor does to an entry that is about to be changed.
    fn mark(&mut self, frame: u64, index: u64) {
        let entry = self.entry(frame, index);
        if entry & (PRESENT | LARGE) == PRESENT && frame_of(entry) > FIRST_TABLE {
            for index in self.stores.clone() {
                self.store(frame_of(entry), index);
            }
        } else if self.races {
            self.store(frame, index);
        }
    }

    /// Sets the marks of a store through an entry, where that maps something.
    fn store(&mut self, frame: u64, index: u64) {
        let entry = &mut self.tables.get_mut(&frame).expect("table")[usize::try_from(index).expect("index")];
        if *entry & (PRESENT | WRITABLE) == PRESENT | WRITABLE {
            *entry |= DIRTY | ACCESSED;
        }
    }
}

impl TableMemory for Memory {
    fn allocate(&mut self) -> Option<u64> {
        self.budget = self.budget.checked_sub(1)?;
        self.next += 1;
        let frame = FIRST_TABLE + self.next;
        self.tables.insert(frame, vec![0; 512]);
        Some(frame)
    }
    fn free(&mut self, frame: u64) {
        assert!(self.tables.remove(&frame).is_some(), "table {frame} is freed twice");
        assert!(!self.linked.contains(&frame), "table {frame} is freed while a processor may still walk it");
        self.budget += 1;
    }
    fn read(&self, frame: u64, index: u64) -> u64 {
        self.accesses.set(self.accesses.get() + 1);
        self.entry(frame, index)
    }
    fn write(&mut self, frame: u64, index: u64, entry: u64) {
        self.accesses.set(self.accesses.get() + 1);
        let place = &mut self.tables.get_mut(&frame).expect("table")[usize::try_from(index).expect("index")];
        let old = std::mem::replace(place, entry);
        if old & PRESENT != 0 && old != entry && frame_of(old) > FIRST_TABLE {
            self.linked.insert(frame_of(old));
        }
    }
    fn swap(&mut self, frame: u64, index: u64, entry: u64) -> u64 {
        self.mark(frame, index);
        let old = self.entry(frame, index);
        self.write(frame, index, entry);
        old
    }
    fn replace(&mut self, frame: u64, index: u64, expected: u64, entry: u64) -> Result<(), u64> {
        self.mark(frame, index);
        let now = self.entry(frame, index);
        if now != expected {
            return Err(now);
        }
        self.write(frame, index, entry);
        Ok(())
    }
    fn first_used(&self, frame: u64, indices: Range<u64>) -> Option<(u64, u64)> {
        self.accesses.set(self.accesses.get() + 1);
        indices.map(|index| (index, self.entry(frame, index))).find(|(_, entry)| *entry != 0)
    }
    fn fill(&mut self, frame: u64, entry: u64, step: u64) {
        let links = self.tables.values().flatten().any(|entry| entry & PRESENT != 0 && frame_of(*entry) == frame);
        assert!(!links && !self.linked.contains(&frame), "table {frame} is in use");
        (0..ENTRIES).for_each(|index| self.write(frame, index, entry + index * step));
    }
    fn invalidate(&mut self, pages: PageRange) {
        self.invalidations += 1;
        for frame in self.linked.clone() {
            for index in self.late_stores.clone() {
                self.store(frame, index);
            }
        }
        self.cached.retain(|page| !pages.contains(*page));
        if !pages.is_empty() {
            self.linked.clear();
        }
    }
    fn is_shared(&self) -> bool {
        self.shared
    }
}

fn tables(budget: u64) -> PageTables<Memory> {
    let mut memory = Memory { budget: budget + 1, ..Memory::default() };
    let root = memory.allocate().expect("root");
    PageTables::new(root, memory)
}

/// Walks as the processor does: returns (frame, flags) of a page's mapping.
fn walk(tables: &PageTables<Memory>, page: u64) -> Option<(u64, u64)> {
    let mut table = tables.root;
    for level in (0..=3).rev() {
        let entry = tables.memory.read(table, (page >> (9 * level)) % ENTRIES);
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || entry & LARGE != 0 {
            let offset = if entry & LARGE != 0 { page % 512 } else { 0 };
            return Some((frame_of(entry) + offset, entry & (PRESENT | WRITABLE | NO_EXECUTE | USER | DIRTY)));
        }
        table = frame_of(entry);
    }
    None
}

/// Stores through a mapping as the processor does.
fn store(tables: &mut PageTables<Memory>, page: u64) {
    let mut table = tables.root;
    for level in (0..=3).rev() {
        let index = (page >> (9 * level)) % ENTRIES;
        let entry = tables.memory.read(table, index);
        if entry & PRESENT == 0 {
            return;
        }
        if level == 0 || entry & LARGE != 0 {
            if entry & WRITABLE != 0 {
                tables.memory.write(table, index, entry | DIRTY | ACCESSED);
            }
            return;
        }
        table = frame_of(entry);
    }
}

fn dirty_of(tables: &mut PageTables<Memory>, pages: PageRange) -> Vec<PageRange> {
    let mut found = Vec::new();
    tables.clean(pages, &mut |run| found.push(run));
    found
}

fn removed(tables: &mut PageTables<Memory>, pages: PageRange) -> Vec<PageRange> {
    let mut dirty = Vec::new();
    tables.remove(pages, &mut |run| dirty.push(run)).expect("removed");
    dirty
}

#[test]
fn aligned_run_is_mapped_large_and_the_rest_small() {
    let mut tables = tables(100);
    tables.enter(510, FrameRun::new(1022, 520), Prot::DEFAULT).expect("entered");
    let directory = tables.find_directory(512).expect("directory");
    assert_ne!(tables.memory.read(directory, 1) & LARGE, 0);
    for page in 510..1030 {
        assert_eq!(walk(&tables, page).map(|found| found.0), Some(page + 512));
    }
    assert_eq!(walk(&tables, 509), None);
    assert_eq!(walk(&tables, 1030), None);
}

#[test]
fn part_of_a_large_page_removed_leaves_the_rest_and_its_dirt() {
    let mut tables = tables(100);
    tables.enter(512, FrameRun::new(512, 512), Prot::DEFAULT).expect("entered");
    store(&mut tables, 700);
    let mut dirty = Vec::new();
    tables.remove(PageRange::new(600, 610), &mut |run| dirty.push(run)).expect("removed");
    assert_eq!(dirty, [PageRange::new(600, 610)]);
    assert_eq!(walk(&tables, 605), None);
    assert_eq!(walk(&tables, 610).map(|found| found.0), Some(610));
    assert_eq!(dirty_of(&mut tables, PageRange::new(0, 2048)), [PageRange::new(512, 600), PageRange::new(610, 1024)]);
    assert_eq!(dirty_of(&mut tables, PageRange::new(0, 2048)), []);
}

#[test]
fn cleaning_a_part_of_a_large_page_keeps_its_mark() {
    let mut tables = tables(100);
    tables.enter(512, FrameRun::new(512, 512), Prot::DEFAULT).expect("entered");
    store(&mut tables, 700);
    assert_eq!(dirty_of(&mut tables, PageRange::new(512, 513)), [PageRange::new(512, 513)]);
    assert_eq!(dirty_of(&mut tables, PageRange::new(512, 1024)), [PageRange::new(512, 1024)]);
    assert_eq!(dirty_of(&mut tables, PageRange::new(512, 1024)), []);
}

#[test]
fn entering_what_a_large_page_maps_already_leaves_it_and_needs_no_frame() {
    let mut tables = tables(2);
    tables.enter(512, FrameRun::new(512, 512), Prot::DEFAULT).expect("two tables");
    store(&mut tables, 700);
    assert_eq!(tables.memory.budget, 0);
    tables.enter(600, FrameRun::new(600, 3), Prot::DEFAULT).expect("nothing to do");
    assert_eq!(dirty_of(&mut tables, PageRange::new(512, 1024)), [PageRange::new(512, 1024)]);
    // Other frames or rights are not what is there.
    assert!(tables.enter(600, FrameRun::new(601, 3), Prot::DEFAULT).is_err());
    assert!(tables.enter(600, FrameRun::new(600, 3), Prot::READ).is_err());
}

#[test]
fn protection_changes_flags_and_keeps_frames_and_dirt() {
    let mut tables = tables(100);
    tables.enter(512, FrameRun::new(512, 512), Prot::DEFAULT).expect("entered");
    store(&mut tables, 512);
    tables.protect(PageRange::new(512, 514), Prot::READ | Prot::EXECUTE).expect("protected");
    assert_eq!(walk(&tables, 513), Some((513, PRESENT | USER | DIRTY)));
    assert_eq!(walk(&tables, 514), Some((514, PRESENT | USER | WRITABLE | NO_EXECUTE | DIRTY)));
}

#[test]
fn running_out_of_frames_maps_a_front_part_and_changes_nothing_else() {
    for (budget, front) in [(0, 0), (1, 0), (2, 0), (3, 12), (4, 524), (5, 1036), (6, 1100)] {
        let mut tables = tables(budget);
        let entered = tables.enter(500, FrameRun::new(1, 1100), Prot::DEFAULT);
        assert_eq!(entered.is_ok(), front == 1100);
        for page in 490..1700 {
            let expected = (500..500 + front).contains(&page).then(|| page - 499);
            assert_eq!(walk(&tables, page).map(|it| it.0), expected, "page {page} with {budget} frames");
        }
    }
    let mut tables = tables(3);
    tables.enter(512, FrameRun::new(512, 512), Prot::DEFAULT).expect("two tables");
    tables.memory.budget = 0;
    assert!(tables.remove(PageRange::new(600, 601), &mut |_| ()).is_err());
    assert!(tables.protect(PageRange::new(600, 601), Prot::READ).is_err());
    assert_eq!(walk(&tables, 600), Some((600, PRESENT | USER | WRITABLE | NO_EXECUTE)));
    tables.remove(PageRange::new(512, 1024), &mut |_| ()).expect("a whole large page needs no split");
}

#[test]
fn release_gives_every_table_back() {
    let mut tables = tables(100);
    tables.enter(3, FrameRun::new(0, 2000), Prot::READ).expect("entered");
    tables.enter(1 << 34, FrameRun::new(5000, 7), Prot::READ).expect("entered");
    tables.release_all();
    assert_eq!((tables.memory.tables.len(), tables.memory.budget), (0, 101));
}

#[test]
fn operation_has_translations_forgotten_once_and_before_tables_are_given_back() {
    let mut tables = tables(100);
    let first = DIRECTORY_PAGES - 1024;
    tables.enter(first, FrameRun::new(1, 2048), Prot::DEFAULT).expect("entered");
    let work: [fn(&mut PageTables<Memory>, u64); 3] = [
        |tables, first| tables.protect(PageRange::new(first + 5, first + 2000), Prot::READ).expect("protected"),
        |tables, first| tables.enter(first, FrameRun::new(4096, 2048), Prot::DEFAULT).expect("entered"),
        |tables, first| drop(removed(tables, PageRange::new(first + 1, first + 2047))),
    ];
    for work in work {
        tables.memory.invalidations = 0;
        work(&mut tables, first);
        assert_eq!(tables.memory.invalidations, 1);
    }
}

#[test]
#[should_panic(expected = "while a processor may still walk it")]
fn planted_table_freed_before_its_links_are_forgotten_is_caught() {
    let mut tables = tables(100);
    tables.frees_at_once = true;
    tables.enter(0, FrameRun::new(1, 1024), Prot::DEFAULT).expect("entered");
    drop(removed(&mut tables, PageRange::new(0, 1024)));
}

#[test]
fn translation_of_a_page_is_its_frame_and_its_rights() {
    let mut tables = tables(100);
    tables.enter(510, FrameRun::new(1022, 515), Prot::DEFAULT).expect("entered");
    tables.protect(PageRange::new(512, 1024), Prot::READ | Prot::EXECUTE).expect("protected");
    assert_eq!(tables.translate(510), Some((1022, Prot::DEFAULT)));
    assert_eq!(tables.translate(1000), Some((1512, Prot::READ | Prot::EXECUTE)));
    assert_eq!(tables.translate(1024), Some((1536, Prot::DEFAULT)));
    for absent in [0, 509, 1025, DIRECTORY_PAGES, 1 << 34, 1 << 35, u64::MAX >> 12] {
        assert_eq!(tables.translate(absent), None, "page {absent}");
    }
}

#[test]
fn absent_page_is_mapped_the_short_way_only_where_its_table_is_and_nothing_else() {
    let mut tables = tables(100);
    assert!(!tables.enter_absent(513, 7, Prot::READ), "there is no table");
    tables.enter(512, FrameRun::new(1000, 1), Prot::READ).expect("frames");
    assert!(tables.enter_absent(513, 7, Prot::READ | Prot::WRITE));
    assert_eq!(tables.translate(513), Some((7, Prot::READ | Prot::WRITE)));
    assert!(!tables.enter_absent(513, 8, Prot::READ), "something is mapped");
    assert_eq!(tables.translate(513), Some((7, Prot::READ | Prot::WRITE)));
    tables.enter(1024, FrameRun::new(2048, 512), Prot::READ).expect("frames");
    assert!(!tables.enter_absent(1030, 8, Prot::READ), "a large page is mapped");
    assert_eq!(tables.translate(1030), Some((2054, Prot::READ)));
}

#[test]
fn run_over_several_directories_is_walked_to_once_a_directory() {
    // Two directories and a half, in the middle of which the table above ends as well.
    let first = POINTERS_PAGES - DIRECTORY_PAGES - 512;
    let run = FrameRun::new(1024, 2 * DIRECTORY_PAGES + 100 * 512);
    let all = PageRange::new(first, first + run.pages);
    let large = run.pages / 512;
    let mut tables = tables(100);
    let counted = |tables: &mut PageTables<Memory>, an_entry: u64, work: &mut dyn FnMut(&mut PageTables<Memory>)| {
        tables.memory.accesses.set(0);
        work(tables);
        let most = an_entry * large + 100;
        assert!(tables.memory.accesses.get() <= most, "{} accesses, not {most}", tables.memory.accesses.get());
    };
    counted(&mut tables, 2, &mut |tables| tables.enter(first, run, Prot::DEFAULT).expect("entered"));
    for page in [0, 511, 512, 513, DIRECTORY_PAGES + 511, DIRECTORY_PAGES + 512, run.pages - 1] {
        assert_eq!(tables.translate(first + page), Some((1024 + page, Prot::DEFAULT)));
    }
    for absent in [first - 1, all.end] {
        assert_eq!(tables.translate(absent), None);
    }
    let stores = [first, first + 600, first + DIRECTORY_PAGES + 512, all.end - 1];
    let blocks: Vec<PageRange> = stores.map(|page| PageRange::new(page / 512 * 512, page / 512 * 512 + 512)).to_vec();
    stores.into_iter().for_each(|page| store(&mut tables, page));
    counted(&mut tables, 2, &mut |tables| tables.protect(all, Prot::READ).expect("protected"));
    counted(&mut tables, 1, &mut |tables| {
        let expected = [PageRange::new(first, first + 1024), blocks[2], blocks[3]];
        assert_eq!(dirty_of(tables, all), expected);
    });
    // What is entered as it stands needs no more than a look, and keeps its mark.
    tables.protect(all, Prot::DEFAULT).expect("protected");
    store(&mut tables, first + 600);
    counted(&mut tables, 1, &mut |tables| tables.enter(first, run, Prot::DEFAULT).expect("nothing to do"));
    counted(&mut tables, 2, &mut |tables| {
        let mut dirty = Vec::new();
        tables.remove(all, &mut |run| dirty.push(run)).expect("removed");
        assert_eq!(dirty, [blocks[1]]);
    });
    for page in (0..run.pages).step_by(512) {
        assert_eq!(tables.translate(first + page), None);
    }
}

#[test]
fn large_pages_take_the_place_of_small_tables_among_them() {
    let mut tables = tables(100);
    let first = DIRECTORY_PAGES - 1024;
    tables.enter(first, FrameRun::new(0, 2048), Prot::DEFAULT).expect("entered");
    tables.remove(PageRange::new(first + 600, first + 601), &mut |_| ()).expect("split");
    tables.enter(first + 1024, FrameRun::new(7, 3), Prot::READ).expect("split");
    let before = tables.memory.tables.len();
    tables.memory.cached = (first..first + 2048).collect();
    tables.enter(first, FrameRun::new(4096, 2048), Prot::READ).expect("entered");
    assert_eq!(before - tables.memory.tables.len(), 2, "their tables are free");
    assert!(tables.memory.cached.is_empty());
    for page in 0..2048 {
        assert_eq!(tables.translate(first + page), Some((4096 + page, Prot::READ)));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u64, u64, u64, Prot),
    /// The same with so few frames for tables that it may fail.
    EnterShort(u64, u64, u64, Prot, u64),
    Remove(PageRange),
    Protect(PageRange, Prot),
    Clean(PageRange),
    Store(u64),
}

fn edge() -> impl Strategy<Value = u64> {
    (0_u64..5, prop::sample::select(vec![0_u64, 1, 2, 100, 511])).prop_map(|(block, offset)| block * 512 + offset)
}

fn range() -> impl Strategy<Value = PageRange> {
    (edge(), edge()).prop_map(|(a, b)| PageRange::new(a.min(b), a.max(b)))
}

fn prot() -> impl Strategy<Value = Prot> {
    prop::sample::select(vec![Prot::READ, Prot::DEFAULT, Prot::ALL, Prot::READ | Prot::EXECUTE])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (edge(), edge(), 1_u64..1100, prot())
            .prop_map(|(page, frame, pages, prot)| Step::Enter(page, frame, pages, prot)),
        (edge(), edge(), 1_u64..1100, prot(), 0_u64..4)
            .prop_map(|(page, frame, pages, prot, budget)| Step::EnterShort(page, frame, pages, prot, budget)),
        range().prop_map(Step::Remove),
        (range(), prot()).prop_map(|(pages, prot)| Step::Protect(pages, prot)),
        range().prop_map(Step::Clean),
        edge().prop_map(Step::Store),
        (any::<bool>(), Just(())).prop_map(|(low, ())| Step::Clean(PageRange::new(0, if low { 512 } else { 4096 }))),
    ]
}

/// Where the model's pages stand: at the bottom, over the end of a directory, over that of the table above.
fn bases() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![0, DIRECTORY_PAGES - 1024, POINTERS_PAGES - 1024])
}

/// Pages as frames, rights and marks.
type Model = BTreeMap<u64, (u64, Prot, bool)>;

/// Notes in the model that `run` is mapped from `page` on. Pages keep their marks where they keep their frames.
fn enter_in_model(model: &mut Model, page: u64, run: FrameRun, prot: Prot) {
    for i in 0..run.pages {
        let is_dirty = model.get(&(page + i)).is_some_and(|&(frame, _, is_dirty)| is_dirty && frame == run.first + i);
        model.insert(page + i, (run.first + i, prot, is_dirty));
    }
}

proptest! {
    /// Frames and protections against a map with one entry a page; dirt may be reported in excess, never missed;
    /// a translation that was cached before a change is forgotten by it.
    #[test]
    fn tables_agree_with_one_entry_a_page(base in bases(), steps in prop::collection::vec(step(), 1..30)) {
        let mut tables = tables(1000);
        tables.memory.shared = true;
        let mut model = Model::new();
        let shifted = |pages: PageRange| PageRange::new(base + pages.start, base + pages.end);
        for step in steps {
            tables.memory.cached = model.keys().copied().collect();
            let before = model.clone();
            match step {
                Step::Enter(page, frame, pages, prot) => {
                    let run = FrameRun::new(frame, pages);
                    tables.enter(base + page, run, prot).expect("enough frames");
                    enter_in_model(&mut model, base + page, run, prot);
                }
                Step::EnterShort(page, frame, pages, prot, budget) => {
                    let kept = tables.memory.budget - budget;
                    tables.memory.budget = budget;
                    let entered = tables.enter(base + page, FrameRun::new(frame, pages), prot);
                    tables.memory.budget += kept;
                    // After a failure, a front part is as it was asked for, and the rest as it was.
                    let is_entered = |i: &u64| tables.translate(base + page + i) == Some((frame + i, prot));
                    let front = if entered.is_ok() { pages } else { (0..pages).take_while(is_entered).count() as u64 };
                    enter_in_model(&mut model, base + page, FrameRun::new(frame, front), prot);
                }
                Step::Remove(pages) => {
                    let pages = shifted(pages);
                    let mut dirty = BTreeSet::new();
                    tables.remove(pages, &mut |run| dirty.extend(run.start..run.end)).expect("enough frames");
                    for page in pages.start..pages.end {
                        if let Some((_, _, true)) = model.remove(&page) {
                            assert!(dirty.contains(&page), "dirt of page {page} is lost");
                        }
                    }
                    assert!(dirty.iter().all(|page| pages.contains(*page) && before.contains_key(page)));
                }
                Step::Protect(pages, prot) => {
                    let pages = shifted(pages);
                    tables.protect(pages, prot).expect("enough frames");
                    for (_, mapping) in model.range_mut(pages.start..pages.end) {
                        mapping.1 = prot;
                    }
                }
                Step::Clean(pages) => {
                    let pages = shifted(pages);
                    let found: BTreeSet<u64> = dirty_of(&mut tables, pages).iter().flat_map(|run| run.start..run.end).collect();
                    for (page, mapping) in model.range_mut(pages.start..pages.end) {
                        assert!(!mapping.2 || found.contains(page), "dirt of page {page} is missed");
                        mapping.2 = false;
                    }
                }
                Step::Store(page) => {
                    store(&mut tables, base + page);
                    if let Some(mapping) = model.get_mut(&(base + page)) {
                        mapping.2 |= mapping.1.contains(Prot::WRITE);
                    }
                }
            }
            for page in base.saturating_sub(512)..base + 4096 {
                let found = walk(&tables, page);
                assert_eq!(tables.translate(page), model.get(&page).map(|it| (it.0, it.1)), "page {page}");
                assert_eq!(found.map(|it| it.0), model.get(&page).map(|it| it.0), "frame of page {page}");
                let writable = found.is_some_and(|it| it.1 & WRITABLE != 0);
                assert_eq!(writable, model.get(&page).is_some_and(|it| it.1.contains(Prot::WRITE)));
                let executable = found.is_some_and(|it| it.1 & NO_EXECUTE == 0);
                assert_eq!(executable, model.get(&page).is_some_and(|it| it.1.contains(Prot::EXECUTE)));
                let changed = before.get(&page).map(|it| (it.0, it.1)) != model.get(&page).map(|it| (it.0, it.1));
                assert!(!changed || !tables.memory.cached.contains(&page), "page {page} has a stale translation");
            }
        }
    }
}
