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

    /// Resident memory in bytes.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    /// The settings concern the whole process, and the heap of its first thread: so the test runs itself in another process.
    #[test]
    fn memory_is_kept_until_it_is_released() {
        const CHILD: &str = "W2S_TEST_KEEPS_MEMORY";
        const SIZE: usize = 512 << 20;
        if std::env::var_os(CHILD).is_none() {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "alloc::tests::memory_is_kept_until_it_is_released", "--test-threads=1"]);
            let output = child.env(CHILD, "").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        // SAFETY: asks for numbers.
        assert!(unsafe { libc::gettid() == libc::getpid() }, "a single test runs in the first thread");
        keep_freed_memory();
        let before = resident();
        drop(std::hint::black_box(vec![1_u8; SIZE]));
        assert!(resident() > before + SIZE / 2, "freed memory was not kept");
        release_freed_memory();
        assert!(resident() < before + SIZE / 2, "memory was not released");
    }
}
