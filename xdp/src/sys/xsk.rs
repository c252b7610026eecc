//! The calls on `AF_XDP` sockets, after `linux/if_xdp.h`: options, ring offsets, bind, and the calls
//! that wake the kernel. It owns the layouts; the order of the calls is `xsk`'s matter.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use socket2::{Domain, Socket, Type};

use super::{checked, memory::LentBytes, set_option};

const SOL_XDP: i32 = 283;
const XDP_MMAP_OFFSETS: i32 = 1;
const XDP_UMEM_REG: i32 = 4;
const XDP_STATISTICS: i32 = 7;
const XDP_OPTIONS: i32 = 8;

/// The rings of a socket: the option that sizes each, and where each is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingKind {
    Receive,
    Transmit,
    Fill,
    Completion,
}

impl RingKind {
    fn option(self) -> i32 {
        match self {
            Self::Receive => 2,
            Self::Transmit => 3,
            Self::Fill => 5,
            Self::Completion => 6,
        }
    }

    pub(crate) fn map_offset(self) -> i64 {
        match self {
            Self::Receive => 0,
            Self::Transmit => 0x8000_0000,
            Self::Fill => 0x1_0000_0000,
            Self::Completion => 0x1_8000_0000,
        }
    }
}

/// Where the words of a ring are in its mapping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingOffsets {
    pub(crate) producer: usize,
    pub(crate) consumer: usize,
    pub(crate) entries: usize,
    pub(crate) flags: usize,
}

/// Flags of bind(2) (`XDP_SHARED_UMEM`, `XDP_COPY`, `XDP_ZEROCOPY`, `XDP_USE_NEED_WAKEUP`).
pub(crate) const SHARED_UMEM: u16 = 1;
pub(crate) const COPY: u16 = 2;
pub(crate) const ZERO_COPY: u16 = 4;
pub(crate) const NEED_WAKEUP: u16 = 8;

/// A socket that is bound to nothing.
pub(crate) fn socket() -> io::Result<Socket> {
    Socket::new(Domain::from(libc::AF_XDP), Type::from(libc::SOCK_RAW), None)
}

/// Makes `area` the umem of a socket, in chunks of `chunk` bytes. The kernel pins its pages.
pub(crate) fn register_umem(
    socket: BorrowedFd<'_>,
    area: &LentBytes,
    chunk: u32,
) -> io::Result<()> {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Registration {
        address: u64,
        bytes: u64,
        chunk: u32,
        headroom: u32,
        flags: u32,
        metadata: u32,
    }
    let registration = Registration {
        address: area.address(),
        bytes: area.len() as u64,
        chunk,
        headroom: 0,
        flags: 0,
        metadata: 0,
    };
    set_option(socket, SOL_XDP, XDP_UMEM_REG, registration)
}

/// Gives a socket a ring with `entries`, a power of two.
pub(crate) fn size_ring(socket: BorrowedFd<'_>, ring: RingKind, entries: u32) -> io::Result<()> {
    set_option(socket, SOL_XDP, ring.option(), entries)
}

/// Where the words of each ring are, in the order of [`RingKind`].
pub(crate) fn ring_offsets(socket: BorrowedFd<'_>) -> io::Result<[RingOffsets; 4]> {
    let words: [u64; 16] = option_words(socket, XDP_MMAP_OFFSETS)?;
    let (rings, _) = words.as_chunks::<4>();
    let offsets = |at: usize| {
        let [producer, consumer, entries, flags] = rings[at].map(|offset| offset as usize);
        RingOffsets { producer, consumer, entries, flags }
    };
    Ok([0, 1, 2, 3].map(offsets))
}

/// Binds a socket to a queue of an interface; `umem_of` is the socket whose umem it shares.
pub(crate) fn bind(
    socket: BorrowedFd<'_>,
    flags: u16,
    interface: u32,
    queue: u32,
    umem_of: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: umem_of.map_or(0, |socket| socket.as_raw_fd() as u32),
    };
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and the size describe `address`, which outlives the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    checked(result).map(drop)
}

/// Whether the driver works on the umem itself.
pub(crate) fn is_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let [options]: [u32; 1] = option_words(socket, XDP_OPTIONS)?;
    Ok(options & 1 != 0)
}

/// What the kernel lost: frames dropped, invalid on receiving and sending, ring full, fill ring
/// empty, transmit ring empty.
pub(crate) fn statistics(socket: BorrowedFd<'_>) -> io::Result<[u64; 6]> {
    option_words(socket, XDP_STATISTICS)
}

/// Makes the kernel look at the transmit ring. It takes 32 frames and says EAGAIN if there are more.
pub(crate) fn wake_transmit(socket: &Socket) -> io::Result<()> {
    socket.send_with_flags(&[], libc::MSG_DONTWAIT).map(drop)
}

/// Makes the kernel look at the fill ring.
pub(crate) fn wake_receive(socket: &Socket) {
    // What it returns says nothing that the rings do not say.
    let _ = socket.recv_with_flags(&mut [], libc::MSG_DONTWAIT);
}

/// Raises what may be under way to the device, over `net.core.wmem_max` if that is allowed.
pub(crate) fn raise_send_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    let forced = set_option(
        socket.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_SNDBUFFORCE,
        i32::try_from(bytes).unwrap_or(i32::MAX),
    );
    forced.or_else(|_| socket.set_send_buffer_size(bytes))
}

/// Unsigned words of the kernel's choice, for which all bits are valid.
trait Word: Copy + Default {}
impl Word for u32 {}
impl Word for u64 {}

fn option_words<W: Word, const N: usize>(socket: BorrowedFd<'_>, name: i32) -> io::Result<[W; N]> {
    let mut words = [W::default(); N];
    let mut size = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the pointer and the size describe `words`, for which every bit pattern is valid; the
    // kernel writes no more than `size`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_XDP,
            name,
            words.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    checked(result)?;
    if size as usize == size_of_val(&words) {
        Ok(words)
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a kernel before Linux 5.4"))
    }
}
