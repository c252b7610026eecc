#![expect(
    unsafe_code,
    reason = "the system calls on a process's own rights that std does not wrap"
)]
//! The system calls of this crate, one safe function each. It owns the layouts that the kernel expects;
//! what they are for, its users know.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// Turns the kernel's -1 into the error that goes with it.
fn checked<T: PartialEq + From<i8>>(result: T) -> io::Result<T> {
    if result == T::from(-1) { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The three capability sets of this thread: effective, permitted, inheritable.
pub(crate) type Sets = [u64; 3];

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits in two halves.
const VERSION_3: u32 = 0x2008_0522;

pub(crate) fn capabilities() -> io::Result<Sets> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [[0_u32; 3]; 2];
    // SAFETY: the header and the two halves are as long as the version says and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) };
    checked(result)?;
    let [low, high] = halves;
    Ok([0, 1, 2].map(|set: usize| u64::from(high[set]) << 32 | u64::from(low[set])))
}

pub(crate) fn set_capabilities(sets: Sets) -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let halves = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
    // SAFETY: the header and the two halves are as long as the version says and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) };
    checked(result).map(drop)
}

fn prctl(option: i32, first: u64, second: u64) -> io::Result<i32> {
    // SAFETY: the options used here take integers and touch no memory of ours.
    checked(unsafe { libc::prctl(option, first, second, 0_u64, 0_u64) })
}

/// Takes a capability out of the bounding set. An error where the kernel has no such capability.
pub(crate) fn unbound(capability: u8) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0).map(drop)
}

/// Whether a capability is in the bounding set; an error where the kernel has no such capability.
pub(crate) fn is_bound(capability: u8) -> io::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, u64::from(capability), 0).map(|is| is == 1)
}

/// Empties the ambient set.
pub(crate) fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).map(drop)
}

/// From now on no program that is executed gains anything.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

pub(crate) fn effective_user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Becomes another user, with its group and no other.
pub(crate) fn become_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: no groups are read from the null pointer, as the count says.
    checked(unsafe { libc::setgroups(0, ptr::null()) })?;
    // SAFETY: the call takes integers and touches no memory of ours.
    checked(unsafe { libc::setresgid(group, group, group) })?;
    // SAFETY: as above.
    checked(unsafe { libc::setresuid(user, user, user) }).map(drop)
}

/// Raises how much memory this process may pin.
pub(crate) fn raise_memlock(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the pointer is to one limit, which outlives the call.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }).map(drop)
}

/// Puts a filter over the system calls of this thread and of those it starts. With `listening`, calls
/// that the filter wants to be asked about are told on the descriptor.
pub(crate) fn filter_system_calls(
    filter: &[libc::sock_filter],
    listening: bool,
) -> io::Result<Option<OwnedFd>> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        // The kernel copies the instructions and does not write through this pointer.
        filter: filter.as_ptr().cast_mut(),
    };
    let flags = if listening { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    // SAFETY: the pointer is to a program that outlives the call, as do its instructions.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    let fd = checked(result)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(listening.then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}

/// A call that the filter asks about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    id: u64,
    /// Its number.
    pub(crate) call: i32,
}

/// `SECCOMP_IOCTL_NOTIF_RECV` and `_SEND`, for structures of 80 and 24 bytes.
pub(crate) const NOTIF_RECV: u32 = 0xc050_2100;
pub(crate) const NOTIF_SEND: u32 = 0xc018_2101;

/// Waits for the next call that the filter asks about.
pub(crate) fn next_asked(listener: BorrowedFd<'_>) -> io::Result<Asked> {
    // SAFETY: plain numbers, for which zeros are valid and which the kernel wants to be zeros.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to the structure that the request fills, which outlives the call.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::Ioctl::from(NOTIF_RECV), &raw mut asked) };
    checked(result)?;
    Ok(Asked { id: asked.id, call: asked.data.nr })
}

/// Lets a call go on, or refuses it.
pub(crate) fn answer(listener: BorrowedFd<'_>, asked: Asked, go_on: bool) -> io::Result<()> {
    let (error, flags) =
        if go_on { (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32) } else { (-libc::EPERM, 0) };
    let answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error, flags };
    // SAFETY: the pointer is to the structure that the request reads, which outlives the call.
    let result = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::Ioctl::from(NOTIF_SEND), &raw const answer)
    };
    checked(result).map(drop)
}

/// Asks the driver of an interface by `SIOCETHTOOL`. The first word is the command; the kernel may
/// change the others.
pub(crate) fn ethtool<const N: usize>(name: &str, mut words: [u32; N]) -> io::Result<[u32; N]> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    // SAFETY: an interface request is plain bytes, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let last = request.ifr_name.len() - 1;
    if name.is_empty() || name.len() > last {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    // SAFETY: the request points to as many words as its command reads and writes, and both outlive
    // the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    checked(result)?;
    Ok(words)
}
