#![expect(unsafe_code, reason = "the system calls that std and socket2 do not wrap")]
//! The system calls of this crate, one safe function each. It owns the memory layouts that the
//! kernel expects; it knows nothing of what they are for.
//!
//! For a syscall filter: at start `bpf`, `setsockopt`, `sched_getaffinity`, `sched_setaffinity`
//! (and, in std, socket2 and quinn-udp, `socket`, `bind`, `getsockname`, `getsockopt`, `fcntl`,
//! `ioctl`, `uname`); while running `recvmmsg` and `sendmsg`, and the socket calls above once
//! more when a port finds out that it gave up its offloads for nothing. `poll` is for tools.

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

/// Attaches a program made by [`load_selector`] to the reuseport group of a socket.
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

/// One instruction of extended BPF, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination in the low four bits, source in the high four.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// Creates a map from socket index to socket, for a selector.
pub(crate) fn create_socket_map(entries: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    const BPF_MAP_CREATE: libc::c_long = 0;
    const REUSEPORT_SOCKARRAY: u32 = 20;
    let attributes = Attributes {
        map_type: REUSEPORT_SOCKARRAY,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<u64>() as u32,
        max_entries: entries,
    };
    bpf(BPF_MAP_CREATE, &attributes).map(owned)
}

/// Puts a socket into a map made by [`create_socket_map`].
pub(crate) fn put_socket(
    map: BorrowedFd<'_>,
    index: u32,
    socket: BorrowedFd<'_>,
) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
    let value = socket.as_raw_fd() as u64;
    let attributes = Attributes {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: address_of(&index),
        value: address_of(&value),
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
}

/// Loads a program that selects a socket of a reuseport group.
pub(crate) fn load_selector(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    const BPF_PROG_LOAD: libc::c_long = 5;
    const SK_REUSEPORT: u32 = 21;
    let license = c"MIT OR Apache-2.0";
    let attributes = Attributes {
        program_type: SK_REUSEPORT,
        count: program.len() as u32,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"weir_steer\0\0\0\0\0\0",
    };
    bpf(BPF_PROG_LOAD, &attributes).map(owned)
}

fn address_of<T>(value: &T) -> u64 {
    ptr::from_ref(value).expose_provenance() as u64
}

/// Makes the `bpf(2)` call. `T` is the prefix of the attribute union that `command` reads; the
/// kernel takes what follows as zeros.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer and the size describe `attributes`; the addresses within it are those
    // of values that the callers above keep alive over the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    checked(result)
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for the caller, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Turns the kernel's -1 into the error that goes with it.
fn checked<T: PartialEq + From<i8>>(result: T) -> io::Result<T> {
    if result == T::from(-1) { Err(io::Error::last_os_error()) } else { Ok(result) }
}
