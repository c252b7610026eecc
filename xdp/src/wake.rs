//! A bell per shard: others ring it when they put something into a ring, and it makes a descriptor
//! readable only if the shard said that it sleeps. So a busy shard costs its neighbours no system
//! call. It knows nothing of what the rings hold.

#![expect(unsafe_code, reason = "eventfd(2) has no safe wrapper in the standard library")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    asleep: AtomicBool,
}

/// The sleeper's end.
#[derive(Debug)]
pub struct Wake(Arc<Bell>);

/// The ringers' end.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Bell>);

/// Makes a bell (an eventfd, eventfd(2)).
pub fn pair() -> io::Result<(Wake, Waker)> {
    // SAFETY: eventfd takes two integers and touches no memory of ours.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned this descriptor to us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let bell = Arc::new(Bell { fd, asleep: AtomicBool::new(false) });
    Ok((Wake(Arc::clone(&bell)), Waker(bell)))
}

impl Wake {
    /// Says that the owner goes to sleep. It must look at its rings once more afterwards.
    pub fn sleep(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Waker::wake`: either the ringer sees `asleep`, or the look at
        // the rings that follows sees what the ringer put there.
        fence(Ordering::SeqCst);
    }

    /// Says that the owner is awake, and silences the bell.
    pub fn awake(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
        // Read even if nobody seems to have rung: a ringer may have decided to before an earlier
        // call of this and have written after it. Left there, its ring would end every sleep at
        // once, and the shard would spin.
        let mut count = [0u8; 8];
        // SAFETY: the buffer is 8 bytes long, as read(2) on an eventfd wants.
        unsafe { libc::read(self.0.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl Waker {
    /// Rings if the owner sleeps; call after putting something into a ring.
    pub fn wake(&self) {
        // Pairs with the fence in `Wake::sleep`.
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::Relaxed) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: the buffer is 8 bytes long, as write(2) on an eventfd wants. A full counter
            // would mean that the bell is already ringing.
            unsafe { libc::write(self.0.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(wake: &Wake) -> bool {
        let mut poll = libc::pollfd { fd: wake.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, and a time-out of zero.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
    }

    #[test]
    fn a_shard_that_is_awake_is_not_rung() {
        let (wake, waker) = pair().expect("an eventfd");
        waker.wake();
        assert!(!rings(&wake));
    }

    #[test]
    fn a_ring_that_comes_late_ends_one_sleep_and_not_all() {
        let (wake, waker) = pair().expect("an eventfd");
        // What a ringer leaves behind that was overtaken between its decision and its write.
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is 8 bytes long, as write(2) on an eventfd wants.
        let written = unsafe { libc::write(wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        assert_eq!(written, 8);
        wake.sleep();
        assert!(rings(&wake));
        wake.awake();
        wake.sleep();
        assert!(!rings(&wake));
        waker.wake();
        assert!(rings(&wake));
    }

    #[test]
    fn a_sleeping_shard_is_rung_once_and_falls_silent_when_awake() {
        let (wake, waker) = pair().expect("an eventfd");
        wake.sleep();
        waker.wake();
        waker.wake();
        assert!(rings(&wake));
        wake.awake();
        assert!(!rings(&wake));
        wake.sleep();
        assert!(!rings(&wake));
        wake.awake();
    }
}
