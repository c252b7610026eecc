#![expect(unsafe_code, reason = "the system calls that std and socket2 do not wrap")]
//! The system calls of this crate, one safe function each. It owns the memory layouts that the
//! kernel expects; it knows nothing of what they are for.
//!
//! Those of a serving process are on the list of `engine/host/src/seccomp/table.rs`. With a keeper `bpf` and
//! the making of `AF_XDP` sockets are its calls alone.

pub(crate) mod bpf;
#[cfg(test)]
pub(crate) mod forbid;
pub(crate) mod memory;
pub(crate) mod passing;
pub(crate) mod uring;
pub(crate) mod xsk;

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    time::Duration,
};

/// Sets a socket option to a plain value.
pub(crate) fn set_option<T: Copy>(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: T,
) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the size describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), size)
    };
    checked(result).map(drop)
}

/// Attaches a classic BPF program to the reuseport group of a socket.
pub(crate) fn attach_classic(
    socket: BorrowedFd<'_>,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        // The kernel copies the instructions and does not write through this pointer.
        filter: program.as_ptr().cast_mut(),
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// Attaches a program made by [`bpf::load`] to the reuseport group of a socket.
pub(crate) fn attach_selector(socket: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let program = program.as_raw_fd();
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF, program)
}

/// Waits until `fd` is readable or `timeout` has passed; says which.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut wanted = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one pollfd, as the count says, and outlives the call.
    let ready = unsafe { libc::poll(&raw mut wanted, 1, timeout_ms) };
    checked(ready).map(|ready| ready > 0)
}

/// A descriptor that is readable when one of those added to it is.
pub(crate) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: the call takes an integer and touches no memory of ours.
    let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds a descriptor, which leaves when it is closed.
pub(crate) fn epoll_add(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: the pointer is to one event, which outlives the call.
    let result = unsafe {
        libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
    };
    checked(result).map(drop)
}

/// Takes a descriptor out again.
pub(crate) fn epoll_remove(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call is given two descriptors and no memory.
    let result = unsafe {
        libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), ptr::null_mut())
    };
    checked(result).map(drop)
}

/// The processors that the current thread may run on.
pub(crate) fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: a processor set is a plain bit mask, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    checked(result)?;
    let is_set = |processor: &usize| {
        // SAFETY: the index is below CPU_SETSIZE, so it lies within the mask.
        unsafe { libc::CPU_ISSET(*processor, &set) }
    };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_set).collect())
}

/// Lets the current thread run on one processor alone.
pub(crate) fn set_affinity(processor: usize) -> io::Result<()> {
    if processor >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: a processor set is a plain bit mask, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the index was checked against CPU_SETSIZE, so it lies within the mask.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    checked(result).map(drop)
}

/// Turns the kernel's -1 into the error that goes with it.
fn checked<T: PartialEq + From<i8>>(result: T) -> io::Result<T> {
    if result == T::from(-1) { Err(io::Error::last_os_error()) } else { Ok(result) }
}
