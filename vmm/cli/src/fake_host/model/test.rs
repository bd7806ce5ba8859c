//! The model, service by service.

use std::num::NonZero;
use std::sync::Arc;

use wirevm_abi::{Status, stat};
use wirevm_devices::faults::HostFaults;
use wirevm_map::fake::{Executor, block_on};
use wirevm_map::{FrameRun, Host, HostError, PageRange, StoreKind, StoreRun, SyncRun};

use super::{Model, ModelConfig, wired_pages};
use crate::fake_host::ram::ModelRam;
use crate::in_process::{FrameBytes, HostServices, ServiceHost};

fn model(durable: bool) -> (Arc<ModelRam>, HostFaults, Model) {
    let (ram, faults) = (Arc::new(ModelRam::default()), HostFaults::default());
    let config = ModelConfig { wire_quota_pages: 8, durable, store_quota_pages: Some(16) };
    let model = Model::new(Arc::clone(&ram), faults.clone(), config);
    (ram, faults, model)
}

/// Syncs runs; returns the result of each.
fn sync(host: &ServiceHost<Model>, runs: &[FrameRun]) -> Vec<Result<(), HostError>> {
    let mut items: Vec<SyncRun> =
        runs.iter().map(|run| SyncRun { run: *run, result: Err(HostError::Rejected) }).collect();
    block_on(host.sync(&mut items));
    items.into_iter().map(|item| item.result).collect()
}

const ALL: FrameRun = FrameRun::new(0, 100);
const FIRST: NonZero<u64> = NonZero::<u64>::MIN;

#[test]
fn wire_is_refused_by_quota_first_and_then_by_the_order() {
    let (_, faults, model) = model(true);
    faults.fail_nth(FIRST, libc::ENOMEM);
    assert_eq!(model.wire(FrameRun::new(0, 9)), Status::QUOTA);
    assert_eq!(model.wire(FrameRun::new(0, 8)), Status::RESOURCE_SHORTAGE);
    assert_eq!(model.wire(FrameRun::new(0, 8)), Status::OK);
    assert_eq!(wired_pages(&model.ledger()), 8);
    let halves = [FrameRun::new(0, 4), FrameRun::new(4, 4)];
    assert_eq!((model.check(None), model.check(Some(&halves))), (Ok(()), Ok(())));
    assert!(model.check(Some(&halves[..1])).is_err_and(|reason| reason.contains("the host has wired")));
    assert_eq!((model.unwire(FrameRun::new(0, 8)), model.check(Some(&[]))), (Status::OK, Ok(())));
    assert_eq!(model.unwire(FrameRun::new(0, 8)), Status::OK);
    assert!(model.check(None).is_err_and(|reason| reason.contains("contract")));
}

#[test]
fn sync_takes_marks_off_when_storage_has_the_bytes_and_not_before() {
    let (ram, _, model) = model(true);
    let storage = model.storage();
    let host = ServiceHost::new(model);
    ram.write(4, 9, &[1]);
    ram.write(5, 0, &[1]);
    storage.hold(true);
    let mut items = [SyncRun { run: FrameRun::new(3, 2), result: Err(HostError::Rejected) }];
    let mut executor = Executor::new(0);
    executor.spawn(host.sync(&mut items));
    executor.run_until_stalled();
    assert_eq!((ram.dirty_pages(ALL), host.outstanding()), (2, 1));
    storage.hold(false);
    assert_eq!((ram.dirty_pages(ALL), host.outstanding()), (1, 1));
    assert_eq!(executor.run(), Ok(()));
    drop(executor);
    assert_eq!((items[0].result, host.outstanding(), host.answered()), (Ok(()), 0, 1));
    let numbers = [stat::SYNC_REQUESTS, stat::SYNC_FLUSHES, stat::SYNC_PAGES].map(|selector| host.stat(selector));
    assert_eq!(numbers, [Ok(1), Ok(1), Ok(2)]);
}

#[test]
fn sync_without_storage_is_unsupported() {
    let (_, _, model) = model(false);
    let host = ServiceHost::new(model);
    assert_eq!(host.refuses_sync(), Some(HostError::Unsupported));
    assert_eq!(sync(&host, &[FrameRun::new(3, 2)]), [Err(HostError::Unsupported)]);
}

#[test]
fn failed_sync_leaves_marks_and_latches_and_only_wired_pages_are_synced_from_then_on() {
    let (ram, _, model) = model(true);
    let storage = model.storage();
    let host = ServiceHost::new(model);
    (0..6).for_each(|frame| ram.write(frame, 0, &[1]));
    let (wired, other) = (FrameRun::new(0, 2), FrameRun::new(4, 1));
    assert_eq!(block_on(host.wire(&[wired])), Ok(()));
    storage.fail_nth(NonZero::new(2).expect("not 0"), libc::ENOSPC);
    assert_eq!(sync(&host, &[FrameRun::new(5, 1)]), [Ok(())]);
    assert_eq!(sync(&host, &[wired, other]), [Ok(()), Err(HostError::Io)]);
    assert_eq!((ram.dirty_pages(wired), ram.dirty_pages(other)), (0, 1));
    assert_eq!(storage.latched().map(|error| (error.errno, error.first_page)), Some((libc::ENOSPC, None)));
    assert_eq!(sync(&host, &[other, FrameRun::new(1, 2)]), [Err(HostError::Poisoned); 2]);
    assert_eq!((host.refuses_sync(), host.stat(stat::STORAGE_ERROR)), (Some(HostError::Poisoned), Ok(28)));
    assert_eq!(sync(&host, &[wired]), [Ok(())]);
}

#[test]
fn store_keeps_what_is_returned_and_an_exclusive_one_gives_its_copy_away() {
    let (ram, _, model) = model(true);
    let ledger = model.ledger();
    let host = ServiceHost::new(model);
    let frame = |first| FrameRun::new(first, 1);
    let put = |store, page, from| {
        let mut runs = [StoreRun { first: page, frames: frame(from), result: Err(HostError::Rejected) }];
        block_on(host.data_return(store, &mut runs));
        runs[0].result
    };
    let byte = |frame| {
        let mut byte = [9];
        ram.read(frame, 0, &mut byte);
        byte[0]
    };
    let store = host.open_store("s", 4, StoreKind::Store).expect("a store");
    assert_eq!(host.open_store("s", 4, StoreKind::Store), Err(HostError::Busy));
    assert_eq!(host.open_store("t", 13, StoreKind::Store), Err(HostError::Quota));
    ram.write(7, 0, &[3]);
    assert_eq!((put(store, 2, 7), put(store, 4, 7)), (Ok(()), Err(HostError::Rejected)));
    assert_eq!(ledger.store_byte("s", 2), Some((3, 0)), "written and not stable");
    assert_eq!(block_on(host.synchronize(store, PageRange::new(0, 4))), Ok(()));
    assert_eq!(ledger.store_byte("s", 2), Some((3, 3)));
    host.close_store(store);
    let store = host.open_store("s", 1, StoreKind::Exclusive).expect("the same store");
    assert_eq!((block_on(host.data_request(store, 2, frame(8))), byte(8)), (Ok(()), 3));
    assert_eq!(ledger.store_byte("s", 2), Some((0, 3)));
    assert_eq!((block_on(host.data_request(store, 2, frame(8))), byte(8)), (Ok(()), 0));
    assert_eq!((host.stat(stat::STORE_PAGES_IN), host.stat(stat::STORE_PAGES_OUT)), (Ok(2), Ok(1)));
}

#[test]
fn synchronize_that_fails_loses_what_was_returned_until_it_is_returned_again() {
    let (ram, _, model) = model(true);
    let storage = model.storage();
    let host = ServiceHost::new(model);
    let store = host.open_store("s", 4, StoreKind::Store).expect("a store");
    let put = || {
        let mut runs = [StoreRun { first: 1, frames: FrameRun::new(7, 1), result: Err(HostError::Rejected) }];
        block_on(host.data_return(store, &mut runs));
        runs[0].result
    };
    ram.write(7, 0, &[3]);
    assert_eq!(put(), Ok(()));
    storage.fail_nth(FIRST, libc::EDQUOT);
    let all = PageRange::new(0, 4);
    assert_eq!(block_on(host.synchronize(store, all)), Err(HostError::Io));
    assert_eq!(block_on(host.synchronize(store, all)), Err(HostError::Io), "it is still not known to be stable");
    assert_eq!(block_on(host.data_request(store, 1, FrameRun::new(8, 1))), Err(HostError::Io));
    assert_eq!((put(), block_on(host.synchronize(store, all))), (Ok(()), Ok(())));
    assert_eq!((storage.latched(), host.refuses_sync()), (None, None), "a store's trouble is not RAM's");
}

#[test]
fn store_with_something_under_way_cannot_be_closed() {
    let (_, _, model) = model(true);
    let (storage, host) = (model.storage(), ServiceHost::new(model));
    let store = host.open_store("s", 4, StoreKind::Store).expect("a store");
    storage.hold(true);
    let mut executor = Executor::new(0);
    let output = executor.spawn(host.synchronize(store, PageRange::new(0, 4)));
    executor.run_until_stalled();
    assert_eq!(host.services().close_store(store.0), Status::BUSY);
    storage.hold(false);
    assert_eq!((executor.run(), output.take()), (Ok(()), Some(Ok(()))));
    assert_eq!(host.services().close_store(store.0), Status::OK);
    assert_eq!(host.services().close_store(store.0), Status::INVALID_ARGUMENT);
}

#[test]
fn discard_zeroes_what_nobody_has_wired_where_ram_is_no_file() {
    let (ram, _, model) = model(false);
    let host = ServiceHost::new(model);
    ram.write(3, 0, &[1]);
    assert_eq!(block_on(host.wire(&[FrameRun::new(2, 1)])), Ok(()));
    assert_eq!(host.discard(FrameRun::new(2, 2)), Err(HostError::Busy));
    assert_eq!((host.discard(FrameRun::new(3, 2)), host.stat(stat::DISCARDED_PAGES)), (Ok(()), Ok(2)));
    let mut byte = [9];
    ram.read(3, 0, &mut byte);
    assert_eq!(byte, [0]);
}
