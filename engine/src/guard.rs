//! The edge of a shard where panics end. A panic in a core that works on one session or feed is our
//! bug, not the end of the others: it is caught here, counted, and that session or feed goes. A
//! panic anywhere else on a shard's thread leaves a state nobody can vouch for, so the process
//! ends and the service manager starts it again. Unwinding stays on for this.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Threads with names that begin so abort on a panic outside of [`guarded`].
const SHARD_THREADS: &str = "shard-";

/// A core panicked; its session or feed must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Runs work for one session or feed. What the work touched beyond that session is reached only
/// through methods that leave it whole, or the next turn finds out.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outer = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    result.map_err(|_| Panicked)
}

/// Makes a panic on a shard's thread outside of [`guarded`] end the process, after the usual
/// message.
pub(crate) fn abort_on_stray_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let thread = std::thread::current();
        let of_shard = thread.name().is_some_and(|name| name.starts_with(SHARD_THREADS));
        if of_shard && !INSIDE.get() {
            std::process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_work_and_nothing_else() {
        assert_eq!(guarded(|| 7), Ok(7));
        assert_eq!(guarded(|| -> u8 { panic!("our bug") }), Err(Panicked));
        assert!(!INSIDE.get());
    }

    #[test]
    fn work_within_work_stays_guarded_until_the_outermost_ends() {
        let outer = guarded(|| {
            assert!(guarded(|| -> u8 { panic!("our bug") }).is_err());
            INSIDE.get()
        });
        assert_eq!(outer, Ok(true));
    }
}
