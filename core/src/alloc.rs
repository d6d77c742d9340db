//! How the process holds on to memory, and how it knows that there is no more.
//!
//! The tensors of a training step come and go in the same sizes every step. By default glibc maps large blocks one by one and gives them
//! back when they are freed, so that each step pays for the same page faults and zeroed pages again: 6 % of the time, and seven of eight
//! page faults. A free-list allocator of our own with huge pages was no faster than these settings and needed more memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
};

/// The system's allocator. It remembers that it could not serve somebody, so that a process that ends of it can say so
/// ([`last_words`](crate::last_words)).
#[derive(Debug)]
pub struct Allocator;

/// Bytes of the last request that was refused; 0 if none was.
static REFUSED: AtomicUsize = AtomicUsize::new(0);
/// Requests until one is refused on purpose; 0 when none is.
static UNTIL_REFUSAL: AtomicI64 = AtomicI64::new(0);
/// What a test sets to `WHEN:N`, `stage:1000` say: the N-th request of a stage's process (or of a `command`'s, or after it began to `train` or
/// to `predict`) is refused; with `WHEN:N+`, all from there on. `larger:N` refuses whatever is larger than N bytes once a process has begun to train.
pub const REFUSE: &str = "W2S_REFUSE_ALLOCATION";
/// Whether one refusal is all.
static REFUSE_ONCE: AtomicI64 = AtomicI64::new(1);

/// The largest request that is served.
static LARGEST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Reads [`REFUSE`] when something begins.
pub fn refuse_for_a_test(when: &str) {
    let Ok(wish) = std::env::var(REFUSE) else { return };
    if let Some(largest) = wish.strip_prefix("larger:").filter(|_| when == "train") {
        LARGEST.store(largest.parse().unwrap_or(usize::MAX), Relaxed);
    }
    let Some(count) = wish.strip_prefix(when).and_then(|rest| rest.strip_prefix(':')) else { return };
    let (count, once) = count.strip_suffix('+').map_or((count, 1), |count| (count, 0));
    REFUSE_ONCE.store(once, Relaxed);
    UNTIL_REFUSAL.store(count.parse().unwrap_or(0), Relaxed);
}

/// Whether a test refuses memory to this process.
pub fn is_tested() -> bool {
    std::env::var_os(REFUSE).is_some()
}

/// Bytes of the last request for memory that was refused.
pub fn refused() -> Option<usize> {
    Some(REFUSED.load(Relaxed)).filter(|size| *size > 0)
}

#[cold]
fn refuse_on_purpose() -> bool {
    let left = UNTIL_REFUSAL.fetch_sub(1, Relaxed);
    if left > 1 {
        return false;
    }
    // Below 1 the count has passed; it stays at 1 to refuse everything, or at 0 to be over.
    UNTIL_REFUSAL.store(1 - REFUSE_ONCE.load(Relaxed), Relaxed);
    left == 1
}

/// A block, or a note that there was none.
fn noted(block: *mut u8, size: usize) -> *mut u8 {
    if block.is_null() {
        REFUSED.store(size.max(1), Relaxed);
    }
    block
}

fn served(size: usize) -> bool {
    size <= LARGEST.load(Relaxed) && (UNTIL_REFUSAL.load(Relaxed) == 0 || !refuse_on_purpose())
}

// SAFETY: every block comes from the system's allocator and goes back to it as it came; null is what a request may always get.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `System` asks for; so below.
        noted(if served(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        noted(
            if served(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() },
            layout.size(),
        )
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        noted(if served(size) { unsafe { System.realloc(block, layout, size) } } else { std::ptr::null_mut() }, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Keeps memory that the first thread frees in the process for the next step. Call it first thing in `main`, and train in that thread;
/// elsewhere than on glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// How much more than asked for is taken from the system at once.
        const STEP: libc::c_int = 64 << 20;
        // SAFETY: `mallopt` takes plain numbers, is safe to call at any time, and leaves what it does not know as it is.
        unsafe {
            // No block gets a mapping of its own, nothing at the end of the heap is given back.
            libc::mallopt(libc::M_MMAP_MAX, 0);
            libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
            libc::mallopt(libc::M_TOP_PAD, STEP);
        }
    }
}

/// Gives free memory back to the system: between stages, whose sizes differ.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `malloc_trim` returns memory that nobody holds, and is safe to call at any time.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Page faults of this thread so far.
    fn faults() -> i64 {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is valid for writing, and zeros are a valid value of it.
        unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init().ru_minflt
        }
    }

    /// Allocates, writes and frees a block that glibc by itself would map and unmap; gives the page faults of that.
    fn use_block() -> i64 {
        let before = faults();
        drop(std::hint::black_box(vec![1_u8; 40 << 20]));
        faults() - before
    }

    #[test]
    fn memory_is_kept_until_it_is_released() {
        keep_freed_memory();
        use_block();
        let kept = use_block();
        assert!(kept < 1000, "{kept} page faults: freed memory was not kept");
        // The end of the heap would stay: only the first thread's heap gives that back.
        let (block, after) = (vec![1_u8; 40 << 20], std::hint::black_box(vec![1_u8; 100_000]));
        drop(std::hint::black_box(block));
        release_freed_memory();
        drop(after);
        let released = use_block();
        assert!(released > 5000, "{released} page faults: memory was not released");
    }
}
