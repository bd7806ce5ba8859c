//! Marks that another processor sets while the tables change.

use super::{FrameRun, Memory, PageRange, PageTables, Prot, dirty_of, removed, store, tables, walk};

/// Says that something changed while another processor stores through it, and which dirt is known then.
type Change = fn(&mut PageTables<Memory>) -> Vec<PageRange>;

#[test]
fn dirty_mark_set_between_the_look_and_the_change_survives() {
    let changes: [(&str, Change, &[PageRange]); 5] = [
        ("remove", |tables| removed(tables, PageRange::new(512, 2048)), &[PageRange::new(512, 1030)]),
        // The large page is split, and the mark is that of each part.
        ("remove a part", |tables| removed(tables, PageRange::new(600, 610)), &[PageRange::new(600, 610)]),
        ("protect", |tables| protected(tables, PageRange::new(512, 1030)), &[PageRange::new(512, 1030)]),
        ("protect a part", |tables| protected(tables, PageRange::new(600, 610)), &[PageRange::new(512, 1024)]),
        // What was clean when it was looked at is dirty afterwards; what was dirty has been told.
        (
            "clean",
            |tables| {
                store(tables, 1026);
                let mut told = dirty_of(tables, PageRange::new(512, 1030));
                store(tables, 1028);
                tables.memory.races = false;
                told.extend(dirty_of(tables, PageRange::new(512, 1030)));
                told
            },
            &[PageRange::new(1026, 1027), PageRange::new(1028, 1029)],
        ),
    ];
    for (what, change, expected) in changes {
        let mut tables = tables(100);
        tables.enter(512, FrameRun::new(512, 518), Prot::DEFAULT).expect("entered");
        tables.memory.races = true;
        assert_eq!(change(&mut tables), expected, "{what}");
    }
}

fn protected(tables: &mut PageTables<Memory>, pages: PageRange) -> Vec<PageRange> {
    tables.protect(pages, Prot::READ).expect("protected");
    tables.memory.races = false;
    dirty_of(tables, PageRange::new(0, 4096))
}

/// Maps the pages from 512 to 1024 one by one to the frames from `frame` on, with no mark.
fn small_pages(frame: u64) -> PageTables<Memory> {
    let mut tables = tables(100);
    tables.enter(512, FrameRun::new(frame, 512), Prot::DEFAULT).expect("entered");
    tables.protect(PageRange::new(600, 601), Prot::READ).expect("split");
    tables.protect(PageRange::new(600, 601), Prot::DEFAULT).expect("protected");
    tables.memory.shared = true;
    tables
}

#[test]
fn large_page_in_the_place_of_a_table_gets_the_marks_set_in_the_table_to_the_last() {
    let whole = PageRange::new(512, 1024);
    let none: &[u64] = &[];
    // The first two entries are taken out when the table loses its link: whoever stores through them later faults.
    let stores: [(&[u64], &[u64], bool); 8] = [
        (&[0], none, true),
        (&[1], none, true),
        (&[2], none, true),
        (none, &[2], true),
        (none, &[511], true),
        (&[1], &[300], true),
        (none, &[0, 1], false),
        (none, none, false),
    ];
    for (early, late, is_marked) in stores {
        for (frame, prot) in [(512, Prot::DEFAULT), (512, Prot::READ), (1536, Prot::DEFAULT)] {
            let mut tables = small_pages(512);
            tables.memory.stores = early.to_vec();
            tables.memory.late_stores = late.to_vec();
            tables.enter(512, FrameRun::new(frame, 512), prot).expect("entered");
            // A mark is that of a frame, not of an address.
            let expected: &[PageRange] = if is_marked && frame == 512 { &[whole] } else { &[] };
            assert_eq!(dirty_of(&mut tables, PageRange::new(0, 2048)), expected, "{early:?}, {late:?}, frame {frame}");
            assert_eq!(tables.memory.tables.len(), 4 - 1, "the table is given back");
            assert_eq!(walk(&tables, 700).map(|it| it.0), Some(frame + 188));
        }
    }
}

#[test]
fn tables_replaced_together_give_each_large_page_its_own_marks() {
    let mut tables = tables(100);
    tables.enter(0, FrameRun::new(0, 1536), Prot::DEFAULT).expect("entered");
    for page in [5, 515, 1025] {
        tables.protect(PageRange::new(page, page + 1), Prot::READ).expect("split");
    }
    [7, 1030].into_iter().for_each(|page| store(&mut tables, page));
    tables.memory.shared = true;
    tables.enter(0, FrameRun::new(0, 1536), Prot::DEFAULT).expect("entered");
    assert_eq!(dirty_of(&mut tables, PageRange::new(0, 2048)), [PageRange::new(0, 512), PageRange::new(1024, 1536)]);
}

#[test]
fn table_that_no_other_processor_uses_is_not_searched_for_marks() {
    let mut tables = small_pages(512);
    tables.memory.shared = false;
    tables.memory.accesses.set(0);
    tables.enter(512, FrameRun::new(512, 512), Prot::DEFAULT).expect("entered");
    assert!(tables.memory.accesses.get() < 20, "{} accesses", tables.memory.accesses.get());
}

#[test]
fn split_by_entering_a_part_gives_its_mark_to_all_that_stays() {
    let mut tables = tables(100);
    tables.enter(512, FrameRun::new(512, 512), Prot::DEFAULT).expect("entered");
    tables.memory.races = true;
    tables.enter(600, FrameRun::new(5000, 10), Prot::DEFAULT).expect("entered");
    tables.memory.races = false;
    let dirty = dirty_of(&mut tables, PageRange::new(0, 2048));
    assert_eq!(dirty, [PageRange::new(512, 600), PageRange::new(610, 1024)]);
}

#[test]
fn page_entered_again_keeps_the_mark_that_is_set_meanwhile() {
    for (page, pages) in [(512, 512), (1024, 6)] {
        let mut tables = tables(100);
        tables.enter(512, FrameRun::new(512, 518), Prot::DEFAULT).expect("entered");
        tables.memory.races = true;
        tables.enter(page, FrameRun::new(page, pages), Prot::READ).expect("entered");
        tables.memory.races = false;
        assert_eq!(dirty_of(&mut tables, PageRange::new(0, 2048)), [PageRange::new(page, page + pages)]);
    }
}

#[test]
fn failure_to_enter_loses_no_mark() {
    // Large pages at 0, 512 and 1024. The run begins inside the first, as that maps it already, and ends inside the last.
    for (frame, fails) in [(100, false), (10_341, true)] {
        let mut tables = tables(3);
        tables.enter(0, FrameRun::new(0, 1536), Prot::DEFAULT).expect("two tables");
        [50, 700, 1500].into_iter().for_each(|page| store(&mut tables, page));
        tables.memory.budget = 0;
        let entered = tables.enter(100, FrameRun::new(frame, 1300), Prot::DEFAULT);
        assert_eq!(entered.is_err(), fails, "what is there already needs no frame");
        for page in [99, 100, 600, 1399, 1400] {
            assert_eq!(tables.translate(page), Some((page, Prot::DEFAULT)));
        }
        assert_eq!(dirty_of(&mut tables, PageRange::new(0, 1536)), [PageRange::new(0, 1536)]);
    }
    // The run gets as far as the large page that it cuts; what stands in front of that is mapped again, and stored through
    // meanwhile.
    let mut tables = tables(4);
    tables.enter(500, FrameRun::new(500, 12), Prot::DEFAULT).expect("three tables");
    tables.enter(512, FrameRun::new(1024, 512), Prot::DEFAULT).expect("a large page");
    tables.memory.budget = 0;
    tables.memory.races = true;
    assert!(tables.enter(500, FrameRun::new(500, 100), Prot::READ).is_err());
    tables.memory.races = false;
    assert_eq!(tables.translate(511), Some((511, Prot::READ)));
    assert_eq!(tables.translate(512), Some((1024, Prot::DEFAULT)));
    assert_eq!(dirty_of(&mut tables, PageRange::new(0, 1536)), [PageRange::new(500, 512)]);
}
