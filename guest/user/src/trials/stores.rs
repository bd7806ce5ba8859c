//! Memory of stores.

use alloc::string::String;
use core::sync::atomic::Ordering;
use core::time::Duration;

use wirevm_abi::StoreName;
use wirevm_user::process::Ended;
use wirevm_user::time::{clock, sleep};
use wirevm_user::{KernReturn, Mode, Object, ObjectKind, PAGE_BYTES, Prot, Region};

use super::{Trial, ensure, in_a_child, said};

const PAGES: u64 = 2;
/// How long it may take until a store that was closed is free.
const CLOSING: Duration = Duration::from_secs(10);

/// Opens a store, which may have been closed just now.
fn open(kind: ObjectKind) -> Result<Object, String> {
    let start = clock();
    loop {
        match Object::open(kind, PAGES) {
            Err(KernReturn::RESOURCE_SHORTAGE) if clock() - start < CLOSING => sleep(Duration::from_millis(5)),
            result => return said("the store can't be opened", result),
        }
    }
}

fn map(object: &Object, mode: Mode) -> Result<Region, String> {
    said("vm_map", Region::map(object, 0, PAGES, Prot::READ_WRITE, mode))
}

fn load(region: &Region, page: usize) -> u64 {
    region.word(page * PAGE_BYTES).load(Ordering::Relaxed)
}

fn store(region: &Region, page: usize, value: u64) {
    region.word(page * PAGE_BYTES).store(value, Ordering::Relaxed);
}

/// What is stored to a private mapping is seen by nobody else, and never written.
pub fn mapping_privately() -> Trial {
    let kind = ObjectKind::Store(said("a name", StoreName::new("private"))?);
    let object = open(kind)?;
    let second = Object::open(kind, PAGES).err();
    ensure!(second == Some(KernReturn::RESOURCE_SHORTAGE), "a store that is in use: {second:?}");
    let (shared, private) = (map(&object, Mode::Shared)?, map(&object, Mode::Private)?);
    store(&shared, 0, 7);
    store(&shared, 1, 17);
    store(&private, 0, 8);
    let found = [load(&shared, 0), load(&private, 0), load(&shared, 1), load(&private, 1)];
    ensure!(found == [7, 8, 17, 17], "shared and private words are {found:?}");
    let ended = in_a_child(|| {
        if [load(&shared, 0), load(&private, 0)] != [7, 8] {
            return 1;
        }
        store(&shared, 0, 9);
        store(&private, 0, 10);
        0
    })?;
    ensure!(ended == Ended::Exit(0), "the child: {ended:?}");
    let found = [load(&shared, 0), load(&private, 0)];
    ensure!(found == [9, 8], "after a child has stored 9 and 10, shared and private words are {found:?}");
    said("vm_msync", shared.sync(0, PAGE_BYTES))?;
    drop((shared, private, object));
    let object = open(kind)?;
    let found = [load(&map(&object, Mode::Private)?, 0), load(&map(&object, Mode::Shared)?, 1)];
    ensure!(found == [9, 17], "the store holds {found:?}");
    Ok(())
}

/// A store of which the host keeps no copy holds what was synced, and what was closed.
pub fn owning() -> Trial {
    let name = said("a name", StoreName::new("exclusive"))?;
    let object = open(ObjectKind::Exclusive(name))?;
    let region = map(&object, Mode::Shared)?;
    let before = load(&region, 0);
    store(&region, 0, before + 1);
    said("vm_msync", region.sync(0, PAGE_BYTES))?;
    store(&region, 1, before + 2);
    drop((region, object));
    for kind in [ObjectKind::Store(name), ObjectKind::Exclusive(name)] {
        let object = open(kind)?;
        let region = map(&object, Mode::Shared)?;
        let found = [load(&region, 0), load(&region, 1)];
        ensure!(found == [before + 1, before + 2], "{found:?} behind {before}");
    }
    Ok(())
}
