//! A sync worker that touches a page whose memory is gone: the process ends with words and its exit code.

#[path = "common/suite.rs"]
mod suite;

use std::fs::File;
use std::io;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, VolatileMemory};
use wirevm_abi::RamRange;
use wirevm_devices::last_words;
use wirevm_devices::page_run::PageRun;
use wirevm_devices::sync::{FlushBackend, HealthProbe, SyncConfig, SyncService, SyncWorker};

/// Says which page a child is to touch.
const CHILD: &str = "WIREVM_TEST_LOST_PAGE";
const PAGES: u64 = 64;
/// Pages that the file has left.
const LEFT: u64 = 8;

/// Storage that is always good.
#[derive(Debug)]
struct Good;

impl FlushBackend for Good {
    fn write(&mut self, _: &[PageRun]) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self, _: PageRun) -> io::Result<()> {
        Ok(())
    }

    fn repair(&mut self, _: PageRun) -> io::Result<()> {
        Ok(())
    }

    fn flushes_what_is_written(&self) -> bool {
        true
    }
}

impl HealthProbe for Good {
    fn check(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts a file short under its mapping and has a worker store to a page of it, as it does to the completion ring.
fn touch(page: u64) -> ExitCode {
    last_words::catch_bus_errors().expect("a handler");
    let file: File = tempfile::tempfile().expect("a file");
    file.set_len(PAGES * 4096).expect("its size");
    let offset = FileOffset::new(file.try_clone().expect("a descriptor"), 0);
    let size = usize::try_from(PAGES * 4096).expect("small");
    let region: Arc<MmapRegion> = Arc::new(MmapRegion::from_file(offset, size).expect("a mapping"));
    let watched = last_words::watch(region.as_ptr().expose_provenance(), size);
    let worker = SyncWorker { flush: Box::new(Good), health: Box::new(Good) };
    let syncs = SyncService::with_backends(PAGES, SyncConfig::default(), vec![worker], Box::new(Good), |_| ());
    let syncs = syncs.expect("a service");
    file.set_len(LEFT * 4096).expect("cut short");
    let (sender, stored) = std::sync::mpsc::channel();
    let answer = move |_| {
        let at = usize::try_from(page * 4096 + 64).expect("small");
        region.as_volatile_slice().write_obj(7_u64, at).expect("inside the mapping");
        sender.send(()).expect("the test listens");
    };
    let range = RamRange::new(0, 1, PAGES).expect("inside RAM");
    syncs.submit(&[range], Box::new(answer)).expect("accepted");
    stored.recv_timeout(Duration::from_secs(20)).expect("stored");
    drop(watched);
    ExitCode::SUCCESS
}

fn child(page: u64) -> (Option<i32>, String) {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).env(CHILD, page.to_string()).output().expect("a child");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn worker_that_touches_lost_memory_names_the_page_and_ends_with_its_code() {
    for page in [LEFT, 13, PAGES - 1] {
        let said = format!(
            "wirevm: error: the memory behind page {page} of guest RAM is gone (SIGBUS): the RAM file was cut short or its \
             storage failed\n"
        );
        assert_eq!(child(page), (Some(i32::from(last_words::BACKING_LOST_EXIT_CODE)), said));
    }
    // The control: the page in front of the cut.
    assert_eq!(child(LEFT - 1), (Some(0), String::new()));
}

fn main() -> ExitCode {
    match std::env::var(CHILD).ok().and_then(|page| page.parse().ok()) {
        Some(page) => touch(page),
        None => suite::run([(
            "worker_that_touches_lost_memory_names_the_page_and_ends_with_its_code",
            None,
            worker_that_touches_lost_memory_names_the_page_and_ends_with_its_code,
        )]),
    }
}
