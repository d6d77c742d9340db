//! How the process holds on to memory.
//!
//! The tensors of a training step come and go in the same sizes every step. By default glibc maps large blocks one by one and gives them
//! back when they are freed, so that each step pays for the same page faults and zeroed pages again: 6 % of the time, and seven of eight
//! page faults. A free-list allocator of our own with huge pages was no faster than these settings and needed more memory.

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
