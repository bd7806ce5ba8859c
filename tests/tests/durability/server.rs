//! The recorder: a process that serves one file, the disk, as a file system in user space, and keeps every write and
//! every flush in the order in which they came.
//!
//! It is a process of its own: whoever waits for the disk may hold a lock that whoever serves it would need. It has one
//! thread for requests, so a flush covers what stands in front of it in the record.
//!
//! Orders come on standard input, a line each, and each is answered by a line:
//!
//! - `position`: how many entries the record has
//! - `fail OFFSET LENGTH`: writes to these bytes fail from now on
//! - `save FILE`: writes the record to a file
//!
//! At the end of its input it unmounts what stands on the disk, and then the disk.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::record::Entry;

/// First argument that makes a test executable the recorder; a folder to mount in, the mount point of the file system on
/// the disk, and the disk's size in bytes follow.
pub const ARGUMENT: &str = "serve-a-recorded-disk";
/// The disk's name in the folder.
pub const DISK: &str = "disk";
/// What it says when the disk is there.
pub const READY: &str = "ready";
/// How long what the kernel was told may be believed: for ever.
const LIFE: Duration = Duration::from_secs(1 << 20);
const ROOT: u64 = 1;
const FILE: u64 = 2;

#[derive(Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
    record: Vec<Entry>,
    failing: Vec<(u64, u64)>,
}

struct Recorder(Arc<Mutex<Contents>>);

impl Recorder {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, size, perm) = match u64::from(inode) {
            ROOT => (FileType::Directory, 0, 0o700),
            FILE => (FileType::RegularFile, self.contents().bytes.len() as u64, 0o600),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// Returns a range of the bytes that begins at `offset` and is cut at their end.
fn cut(bytes: &[u8], offset: u64, length: usize) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[start..start.saturating_add(length).min(bytes.len())]
}

impl Filesystem for Recorder {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let file = INodeNo(FILE);
        match self.attributes(file) {
            Some(attributes) if u64::from(parent) == ROOT && name == DISK => {
                reply.entry(&LIFE, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&LIFE, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(cut(&self.contents().bytes, offset, usize::try_from(size).unwrap_or(0)));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut contents = self.contents();
        let end = offset.saturating_add(data.len() as u64);
        if contents.failing.iter().any(|(start, length)| offset < start + length && *start < end) {
            return reply.error(Errno::EIO);
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(there) = start.checked_add(data.len()).and_then(|end| contents.bytes.get_mut(start..end)) else {
            return reply.error(Errno::ENOSPC);
        };
        there.copy_from_slice(data);
        contents.record.push(Entry::Write { offset, data: data.to_vec() });
        reply.written(u32::try_from(data.len()).unwrap_or(0));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.contents().record.push(Entry::Flush);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A descriptor is closed: nothing becomes stable by that.
        reply.ok();
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        // Blocks are never taken away: a loop device writes zeros instead.
        reply.error(Errno::EOPNOTSUPP);
    }
}

/// Carries orders out until there are no more.
fn obey(contents: &Mutex<Contents>) {
    for line in io::stdin().lines() {
        let Ok(line) = line else { return };
        let mut contents = contents.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["position"] => contents.record.len().to_string(),
            ["fail", offset, length] => {
                contents.failing.push((offset.parse().expect("an offset"), length.parse().expect("a length")));
                "failing".to_owned()
            }
            ["save", path] => {
                fs::write(path, super::record::encode(&contents.record)).expect("the record is saved");
                "saved".to_owned()
            }
            _ => panic!("no order: {line}"),
        };
        drop(contents);
        say(&answer);
    }
}

fn say(answer: &str) {
    // Whoever asked may be gone by now.
    drop(writeln!(io::stdout(), "{answer}").and_then(|()| io::stdout().flush()));
}

/// Unmounts; at worst the last user of what is mounted there takes it along.
fn unmount(point: &Path) {
    let unmount =
        |how: &[&str]| Command::new("umount").args(how).arg(point).output().is_ok_and(|output| output.status.success());
    for _ in 0..40 {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if !mounts.contains(&*point.to_string_lossy()) || unmount(&[]) {
            return;
        }
        // A test that fails may still be on its way out, and a loop device is given back a little later.
        thread::sleep(Duration::from_millis(50));
    }
    if !unmount(&["--lazy"]) {
        eprintln!("'{}' is not unmounted", point.display());
    }
}

/// Serves a disk until standard input ends.
pub fn serve(arguments: &[String]) -> ExitCode {
    let [folder, mounted, size] = arguments else { panic!("{arguments:?}") };
    let (folder, mounted) = (Path::new(folder).to_owned(), Path::new(mounted).to_owned());
    let bytes = vec![0; size.parse().expect("the disk's size")];
    let contents = Arc::new(Mutex::new(Contents { bytes, ..Contents::default() }));
    let session = fuser::Session::new(Recorder(Arc::clone(&contents)), &folder, &fuser::Config::default());
    let session = session.expect("the disk is mounted");
    let orders = thread::spawn(move || {
        say(READY);
        obey(&contents);
        unmount(&mounted);
        unmount(&folder);
    });
    // It ends when the disk is unmounted.
    session.run().expect("the disk is served");
    orders.join().expect("the orders' thread");
    ExitCode::SUCCESS
}
