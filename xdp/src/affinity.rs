//! Which processors this thread may run on, and how a shard stays on one of them.

use std::io;

use crate::sys;

/// The processors that the current thread may run on, in ascending order. Inside a container or
/// under `taskset` these are fewer than the machine has.
pub fn allowed() -> io::Result<Vec<usize>> {
    sys::affinity()
}

/// Keeps the current thread on one processor from now on.
pub fn pin(processor: usize) -> io::Result<()> {
    sys::set_affinity(processor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_thread_may_run_on_that_processor_alone() {
        std::thread::spawn(|| {
            let before = allowed().expect("affinity is readable");
            let last = *before.last().expect("a thread runs somewhere");
            pin(last).expect("an allowed processor");
            assert_eq!(allowed().expect("affinity is readable"), [last]);
        })
        .join()
        .expect("the thread asserts");
    }

    #[test]
    fn processor_that_does_not_exist_is_refused() {
        assert!(pin(100_000).is_err());
        assert!(pin(1_023).is_err());
    }
}
