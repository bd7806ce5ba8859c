//! Work on a large run, slice by slice, on as many processors as there are.

use std::fmt;
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use wirevm_abi::PAGE_SIZE;

use crate::page_run::PageRun;

/// Runs of fewer pages are one caller's work: another thread would wake up when it is done.
const LEAST_PAGES: u64 = (2 << 20) / PAGE_SIZE;
/// Pages of the smallest slice, which takes longer than to wake a thread.
const LEAST_SLICE_PAGES: u64 = (512 << 10) / PAGE_SIZE;
/// Pages of the largest slice.
const LARGEST_SLICE_PAGES: u64 = (32 << 20) / PAGE_SIZE;
/// Slices for each thread, so that one that began late or was held up leaves the others its share.
const SLICES_PER_THREAD: u64 = 4;

/// How a run is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slices {
    /// So that all threads end at about the same time.
    Even,
    /// Into large slices, as the disk likes it.
    Large,
}

/// Does a part of the work.
type Work = dyn Fn(PageRun) -> io::Result<()> + Send + Sync;

/// Threads that help whoever has a large run to work on. They are started when they are needed first, and then wait: it takes
/// three times as long to start one as to wake it.
pub(super) struct Crew {
    /// Threads at most, besides the caller's.
    most: usize,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    board: Mutex<Board>,
    /// Told when there is work, or none will come any more.
    posted: Condvar,
    /// Told when a helper has come or has left its work.
    moved: Condvar,
}

#[derive(Default)]
struct Board {
    posts: Vec<Post>,
    /// Helpers that have come to wait for work once.
    here: usize,
    is_closed: bool,
}

struct Post {
    job: Arc<Job>,
    /// Helpers at work on it.
    helpers: usize,
}

struct Job {
    work: Box<Work>,
    /// First page of the next slice.
    next: AtomicU64,
    end: u64,
    slice_pages: u64,
    has_failed: AtomicBool,
    error: Mutex<Option<io::Error>>,
}

impl Crew {
    /// Lets as many threads work as there are processors for.
    pub(super) fn new() -> Self {
        Self::with_threads(thread::available_parallelism().map_or(1, NonZero::get))
    }

    /// Lets that many threads work, the caller's included.
    pub(super) fn with_threads(threads: usize) -> Self {
        Self { most: threads.saturating_sub(1), shared: Arc::default(), threads: Mutex::default() }
    }

    /// Calls `work` for each slice of a run, each page once, on this thread and on those of the crew.
    ///
    /// # Errors
    /// The first error that a slice met, by time; slices that nobody had begun are then left out.
    pub(super) fn each_slice(
        &self,
        run: PageRun,
        slices: Slices,
        work: impl Fn(PageRun) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let share = run.pages() / (SLICES_PER_THREAD * (self.most as u64 + 1));
        let slice_pages = match slices {
            Slices::Even if self.most == 0 || run.pages() < LEAST_PAGES => run.pages(),
            Slices::Even => share.clamp(LEAST_SLICE_PAGES, LARGEST_SLICE_PAGES),
            Slices::Large => LARGEST_SLICE_PAGES,
        };
        if run.pages() <= slice_pages {
            return work(run);
        }
        self.in_slices_of(slice_pages, run, Box::new(work))
    }

    fn in_slices_of(&self, slice_pages: u64, run: PageRun, work: Box<Work>) -> io::Result<()> {
        let job = Arc::new(Job {
            work,
            next: AtomicU64::new(run.first()),
            end: run.end(),
            slice_pages,
            has_failed: AtomicBool::new(false),
            error: Mutex::new(None),
        });
        let others = run.pages().div_ceil(slice_pages) - 1;
        let helpers = self.muster(usize::try_from(others).unwrap_or(usize::MAX));
        self.shared.board().posts.push(Post { job: Arc::clone(&job), helpers: 0 });
        (0..helpers).for_each(|_| self.shared.posted.notify_one());
        let post = Withdraw { shared: &self.shared, job: &job };
        job.take_slices();
        drop(post);
        let error = job.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        error.map_or(Ok(()), Err)
    }

    /// Starts the threads that are missing for so many helpers, and waits until they are there: a thread that is just starting changes
    /// this process's memory map, which it could not do while others fault pages in. Returns how many may help.
    fn muster(&self, wanted: usize) -> usize {
        let wanted = wanted.min(self.most);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.len() < wanted {
            let shared = Arc::clone(&self.shared);
            match thread::Builder::new().name("wirevm-populate".to_owned()).spawn(move || shared.help()) {
                Ok(thread) => threads.push(thread),
                // No more threads to be had: fewer do the work.
                Err(_) => break,
            }
        }
        let board = self.shared.board();
        drop(self.shared.moved.wait_while(board, |board| board.here < threads.len()));
        wanted.min(threads.len())
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.board().is_closed = true;
        self.shared.posted.notify_all();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that has panicked has said so.
            drop(thread.join());
        }
    }
}

/// Takes a job off the board, and waits until nobody is at work on it any more.
struct Withdraw<'a> {
    shared: &'a Shared,
    job: &'a Arc<Job>,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.job.note_panic();
        let is_mine = |post: &Post| Arc::ptr_eq(&post.job, self.job);
        let is_helped = |board: &mut Board| board.posts.iter().any(|post| is_mine(post) && post.helpers > 0);
        let waited = self.shared.moved.wait_while(self.shared.board(), is_helped);
        waited.unwrap_or_else(PoisonError::into_inner).posts.retain(|post| !is_mine(post));
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a helper does until the crew is dropped.
    fn help(&self) {
        self.board().here += 1;
        self.moved.notify_all();
        loop {
            let idle = |board: &mut Board| !board.is_closed && !board.posts.iter().any(|post| post.job.has_slices());
            let waited = self.posted.wait_while(self.board(), idle);
            let mut board = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(post) = board.posts.iter_mut().find(|post| post.job.has_slices()) else { return };
            post.helpers += 1;
            let left = Leave { shared: self, job: Arc::clone(&post.job) };
            drop(board);
            left.job.take_slices();
        }
    }
}

/// Takes note that a helper has left its work, be it by a panic.
struct Leave<'a> {
    shared: &'a Shared,
    job: Arc<Job>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.job.note_panic();
        let mut board = self.shared.board();
        if let Some(post) = board.posts.iter_mut().find(|post| Arc::ptr_eq(&post.job, &self.job)) {
            post.helpers -= 1;
        }
        drop(board);
        self.shared.moved.notify_all();
    }
}

impl Job {
    fn has_slices(&self) -> bool {
        !self.has_failed.load(Ordering::Relaxed) && self.next.load(Ordering::Relaxed) < self.end
    }

    /// Where a panic unwinds the thread, its slice is not done: nobody may take the work for done, and the rest is in vain.
    fn note_panic(&self) {
        if thread::panicking() {
            self.fail(io::Error::other("a thread panicked"));
        }
    }

    fn fail(&self, error: io::Error) {
        self.has_failed.store(true, Ordering::Relaxed);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn take_slices(&self) {
        while self.has_slices() {
            let first = self.next.fetch_add(self.slice_pages, Ordering::Relaxed);
            let Some(slice) = PageRun::new(first, self.end.min(first.saturating_add(self.slice_pages))) else { return };
            if let Err(error) = (self.work)(slice) {
                self.fail(error);
            }
        }
    }
}

#[cfg(test)]
mod test {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::{Crew, Slices};
    use crate::page_run::PageRun;

    fn run(first: u64, end: u64) -> PageRun {
        PageRun::new(first, end).expect("not empty")
    }

    #[test]
    fn every_page_is_worked_on_once() {
        for (threads, end, pieces) in [(1, 107, 10), (4, 107, 10), (4, 17, 1), (4, 18, 2), (2, 8, 1)] {
            let crew = Crew::with_threads(threads);
            for _ in 0..20 {
                let seen = Arc::new(Mutex::new(Vec::new()));
                let work = {
                    let seen = Arc::clone(&seen);
                    move |slice| {
                        seen.lock().expect("no panic").push(slice);
                        Ok(())
                    }
                };
                crew.in_slices_of(10, run(7, end), Box::new(work)).expect("nothing fails");
                let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
                assert_eq!(seen.len(), pieces);
                assert_eq!(seen.iter().map(|slice| slice.pages()).sum::<u64>(), end - 7);
                assert_eq!(PageRun::join(seen), [run(7, end)]);
            }
        }
    }

    #[test]
    fn runs_are_cut_by_the_number_of_threads() {
        use Slices::{Even, Large};
        for (threads, slices, pages, slice) in [
            (2, Even, 1 << 18, 8192),
            (2, Even, 1 << 14, 2048),
            (2, Even, 512, 128),
            (2, Even, 511, 511),
            (1, Even, 512, 512),
            (4, Even, 1 << 14, 1024),
            (1, Large, 1 << 18, 8192),
            (4, Large, 1 << 18, 8192),
            (4, Large, 8192, 8192),
        ] {
            let largest = Arc::new(Mutex::new(0));
            let work = {
                let largest = Arc::clone(&largest);
                move |slice: PageRun| {
                    let mut largest = largest.lock().expect("no panic");
                    *largest = slice.pages().max(*largest);
                    Ok(())
                }
            };
            Crew::with_threads(threads).each_slice(run(0, pages), slices, work).expect("nothing fails");
            assert_eq!(*largest.lock().expect("no panic"), slice, "{threads} threads, {pages} pages");
        }
    }

    #[test]
    fn an_error_ends_the_work_and_is_returned() {
        for threads in [1, 4] {
            let crew = Crew::with_threads(threads);
            let work = |slice: PageRun| match slice.first() {
                50 => Err(io::Error::from_raw_os_error(libc::EFAULT)),
                _ => Ok(()),
            };
            let error = crew.in_slices_of(10, run(0, 100), Box::new(work)).expect_err("slice 50 fails");
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
            crew.in_slices_of(10, run(0, 50), Box::new(work)).expect("what comes later is none of its business");
        }
    }

    #[test]
    fn a_panic_is_an_error_whoever_it_meets() {
        for victim in ["wirevm-populate", "caller"] {
            let crew = Crew::with_threads(2);
            let work = move |_| {
                // Whoever is not the victim leaves slices for it.
                thread::sleep(std::time::Duration::from_millis(2));
                let is_helper = thread::current().name() == Some("wirevm-populate");
                assert_ne!(is_helper, victim == "wirevm-populate", "as planned");
                Ok(())
            };
            let call = || crew.in_slices_of(1, run(0, 100), Box::new(work));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
            assert!(!matches!(result, Ok(Ok(()))), "{victim}");
        }
    }

    #[test]
    fn callers_at_the_same_time_each_get_their_own_done() {
        let crew = Crew::with_threads(3);
        thread::scope(|scope| {
            for caller in 0..4_u64 {
                let crew = &crew;
                scope.spawn(move || {
                    for round in 0..50 {
                        let pages = Arc::new(Mutex::new(0));
                        let work = {
                            let pages = Arc::clone(&pages);
                            move |slice: PageRun| {
                                assert!(slice.first() >= caller * 1000 && slice.end() <= caller * 1000 + 100);
                                *pages.lock().expect("no panic") += slice.pages();
                                Ok(())
                            }
                        };
                        let mine = run(caller * 1000, caller * 1000 + 51 + round % 50);
                        crew.in_slices_of(3, mine, Box::new(work)).expect("nothing fails");
                        assert_eq!(*pages.lock().expect("no panic"), mine.pages());
                    }
                });
            }
        });
    }
}
