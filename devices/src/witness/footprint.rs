//! What a machine's process takes of the host's memory besides guest RAM, looked at again and again.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::WitnessError;
use super::smaps::Smaps;

/// How often the processes of other monitors are looked at where their memory is held to a limit, and so this one.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// Looks at what a process keeps resident besides the mappings of guest RAM. A look allocates nothing.
#[derive(Debug)]
pub struct Footprint {
    smaps: Smaps,
    ram_inode: u64,
}

/// The most that was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Most bytes of any look.
    pub bytes: u64,
    /// How many looks there were.
    pub looks: u64,
}

/// A thread that looks at a process's footprint until it is told to end, or until the process ends.
#[derive(Debug)]
pub struct FootprintWatch {
    end: SyncSender<()>,
    thread: JoinHandle<Result<Peak, WitnessError>>,
}

impl Footprint {
    /// Looks at this process, whose guest RAM is in the file `ram`, or in the memfd.
    ///
    /// # Errors
    /// [`WitnessError::Kernel`] when the file or `/proc` cannot be looked at.
    pub fn of_this_process(ram: &File) -> Result<Self, WitnessError> {
        Ok(Self { smaps: Smaps::of_this_process()?, ram_inode: inode(ram)? })
    }

    /// Looks at the process with that number, whose guest RAM is in the file `ram`: a look from outside takes nothing of what it
    /// measures.
    ///
    /// # Errors
    /// As [`Footprint::of_this_process`]; the process has to be there and to be this user's.
    pub fn of_process(id: u32, ram: &File) -> Result<Self, WitnessError> {
        Ok(Self { smaps: Smaps::of_process(id)?, ram_inode: inode(ram)? })
    }

    /// Returns the bytes that are resident now in all mappings but those of guest RAM: `Rss` of `/proc/PID/smaps`, where pages of
    /// files, such as the program's own text, count as others do. 0 where the process has ended.
    ///
    /// It takes the kernel longer the more mappings there are: with few, a fraction of a millisecond.
    ///
    /// # Errors
    /// [`WitnessError::Kernel`] when `/proc` cannot be read.
    pub fn bytes(&mut self) -> Result<u64, WitnessError> {
        let (mut bytes, ram_inode) = (0, self.ram_inode);
        let read = self.smaps.each(|mapping| {
            // A program's own files are mapped as private ones: another file system's file may have the same number.
            if !(mapping.is_shared && mapping.inode == ram_inode) {
                bytes += mapping.resident_bytes;
            }
            ControlFlow::Continue(())
        });
        match read {
            Err(WitnessError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => Ok(0),
            result => result.map(|()| bytes),
        }
    }

    /// Looks from now on every `interval`, on a thread of its own, and keeps the most.
    ///
    /// # Errors
    /// [`WitnessError::Kernel`] when there is no thread to be had.
    pub fn watch(mut self, interval: Duration) -> Result<FootprintWatch, WitnessError> {
        let (end, ended) = sync_channel(0);
        let thread = thread::Builder::new().name("footprint".to_owned()).spawn(move || {
            let mut peak = Peak::default();
            loop {
                match self.bytes()? {
                    // Even a process that has only just begun has a stack.
                    0 => return Ok(peak),
                    bytes => peak = Peak { bytes: peak.bytes.max(bytes), looks: peak.looks + 1 },
                }
                if !matches!(ended.recv_timeout(interval), Err(RecvTimeoutError::Timeout)) {
                    return Ok(peak);
                }
            }
        });
        let thread = thread.map_err(|source| WitnessError::Kernel { what: "a footprint without a thread", source })?;
        Ok(FootprintWatch { end, thread })
    }
}

impl FootprintWatch {
    /// Ends the looking and returns the most that was seen.
    ///
    /// # Errors
    /// [`WitnessError::Kernel`] when `/proc` could not be read.
    pub fn finish(self) -> Result<Peak, WitnessError> {
        // The thread waits for this, or sees it hang up.
        drop(self.end);
        self.thread.join().unwrap_or_else(|_| {
            let source = io::Error::other("the thread that looked has panicked");
            Err(WitnessError::Kernel { what: "the footprint", source })
        })
    }
}

fn inode(ram: &File) -> Result<u64, WitnessError> {
    let metadata = ram.metadata().map_err(|source| WitnessError::Kernel { what: "the RAM file's inode", source })?;
    Ok(metadata.ino())
}

#[cfg(test)]
mod test {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::Footprint;
    use crate::ramfile::RamFile;
    use crate::sys;
    use crate::view::View;

    const MIB: u64 = 1 << 20;

    /// Returns what two looks at once say, the second of which does not know which file is RAM.
    fn look(ram: &RamFile, other: &RamFile) -> [u64; 2] {
        [ram, other].map(|ram| Footprint::of_this_process(ram.file()).and_then(|mut look| look.bytes()).expect("/proc"))
    }

    #[test]
    fn pages_of_ram_do_not_count_and_others_do() {
        let [ram, other] = [512 * MIB, 2 * MIB].map(|bytes| RamFile::memfd(bytes).expect("a memfd"));
        let view = View::new(&ram).expect("a view");
        sys::populate_read(view.addresses()).expect("populated");
        let [besides, all] = look(&ram, &other);
        // Other tests allocate meanwhile, though not that much.
        assert!(all > besides + 384 * MIB, "{besides} besides RAM of {all}");
        drop(view);
        let [besides, all] = look(&ram, &other);
        assert!(all.abs_diff(besides) < 128 * MIB, "{besides} besides RAM of {all}");
    }

    #[test]
    fn watch_keeps_the_most_of_a_process_until_it_ends() {
        let ram = RamFile::memfd(2 * MIB).expect("a memfd");
        // It fills a buffer of that size again and again.
        let buffer = ["if=/dev/zero", "of=/dev/null", "bs=64M", "count=10"];
        let mut child = Command::new("dd").args(buffer).stderr(Stdio::null()).spawn().expect("dd runs");
        let footprint = Footprint::of_process(child.id(), ram.file()).expect("/proc");
        let watch = footprint.watch(Duration::from_millis(1)).expect("a thread");
        child.wait().expect("it ends");
        while !watch.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let peak = watch.finish().expect("/proc");
        assert!(peak.looks > 1 && (64 * MIB..80 * MIB).contains(&peak.bytes), "{peak:?}");
    }

    #[test]
    fn watch_that_is_told_to_ends_before_the_process() {
        let ram = RamFile::memfd(2 * MIB).expect("a memfd");
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat runs");
        let footprint = Footprint::of_process(child.id(), ram.file()).expect("/proc");
        let watch = footprint.watch(Duration::from_millis(1)).expect("a thread");
        std::thread::sleep(Duration::from_millis(20));
        let peak = watch.finish().expect("/proc");
        assert!(peak.looks > 1 && (64 << 10..64 * MIB).contains(&peak.bytes), "{peak:?}");
        assert!(matches!(child.try_wait(), Ok(None)));
        drop(child.stdin.take());
        child.wait().expect("it ends");
    }
}
