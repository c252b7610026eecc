//! A port on a kernel UDP socket, with segmentation offload both ways and congestion marks. It
//! owns the socket and its buffers; it needs no privilege. Also here: how such sockets are bound,
//! alone or as a group that shares one address, and what the host grants them.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use quinn_udp::{EcnCodepoint, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    Counters, Datagram, Ecn, Outcome, Port, Transmit,
    area::{Area, Arrived},
    keeper, sys,
};

/// Datagrams or coalesced trains read by one system call.
pub const BATCH: usize = 32;

/// Bytes of one receive buffer: the largest train that the kernel coalesces is one IP packet.
/// A port holds `BATCH` of them: 32 x 64 KiB = 2 MiB.
pub(crate) const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// Datagrams in one train: 40 x 1,472 = 58,880 bytes, under what one IP packet may hold, and
/// beyond 40 a longer train gains nothing more per packet.
pub const SEGMENTS_MAX: usize = 40;

/// Payload of one UDP packet or train, below the limit of IPv4 (65,507) and of IPv6 (65,527).
pub(crate) const TRAIN_BYTES_MAX: usize = 65_000;

/// Socket buffer asked for in each direction: 8 MiB is 67 ms of 1 Gb/s, which covers a shard that
/// is late by several turns.
pub const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// A port on a UDP socket.
#[derive(Debug)]
pub struct UdpPort {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    granted: SocketBuffers,
    receive: ReceiveBuffers,
    counters: Counters,
}

/// What the host grants of the bytes that were asked for, each way. Less means
/// that `net.core.rmem_max` or `wmem_max` is too low and that bursts will be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketBuffers {
    /// Bytes asked for, each way.
    pub asked: usize,
    /// Bytes granted for what arrives.
    pub receive: usize,
    /// Bytes granted for what leaves.
    pub send: usize,
}

impl SocketBuffers {
    /// Whether the host granted less than was asked for.
    pub fn are_short(&self) -> bool {
        self.receive < self.asked || self.send < self.asked
    }
}

/// Why a UDP address could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else has the port.
    #[error("UDP address {address} is in use by another process; stop it or choose another port")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address does not belong to this host.
    #[error("UDP address {address} does not belong to this host")]
    NotOurs {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The port needs a privilege.
    #[error("UDP address {address} needs a privilege that this process does not have")]
    NotPermitted {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else the system said.
    #[error("UDP address {address} cannot be bound: {source}")]
    Other {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::AddrNotAvailable => Self::NotOurs { address },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address },
            _ => Self::Other { address, source },
        }
    }
}

/// Binds `n` sockets to one address, in the order in which a selector of [`crate::steer`] counts
/// them. Port 0 picks one free port for all. Without a selector the kernel spreads peers over the
/// sockets by address.
pub fn bind_group(address: SocketAddr, n: usize) -> Result<Vec<UdpSocket>, BindError> {
    let failed = |source| BindError::new(address, source);
    // Sockets of a group may join those of another process of the same user without an error. A
    // lone socket may not, so a first one that does not share finds out whether the port is free.
    let probe = bind(address, false).map_err(failed)?;
    let chosen = probe.local_addr().map_err(failed)?;
    drop(probe);
    (0..n).map(|_| bind(chosen, true).map_err(failed)).collect()
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` means every address of the host, as operators expect, whatever the sysctl says.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    keeper::bind(&socket, address)?;
    Ok(socket.into())
}

impl UdpPort {
    /// Binds a socket of its own to `address`.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError::new(address, source);
        Self::new(bind(address, false).map_err(failed)?).map_err(failed)
    }

    /// Takes a bound socket, for example one of a group.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let state = UdpSocketState::new((&socket).into())?;
        let granted = ask_for_buffers(&socket, SOCKET_BUFFER_BYTES)?;
        let receive = ReceiveBuffers::new();
        Ok(Self { socket, state, local, granted, receive, counters: Counters::default() })
    }

    /// Asks for socket buffers of another size than [`SOCKET_BUFFER_BYTES`]: a load generator stands
    /// for a thousand hosts with one socket.
    pub fn resize_buffers(&mut self, asked: usize) -> io::Result<SocketBuffers> {
        self.granted = ask_for_buffers(&self.socket, asked)?;
        Ok(self.granted)
    }

    /// Makes the kernel stop joining datagrams before they are received: where XDP is generic it
    /// would join them before the program sees them.
    pub(crate) fn receive_singly(&self) -> io::Result<()> {
        sys::set_option(self.socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 0_i32)
    }

    /// What the host granted; warn the operator if it is short.
    pub fn socket_buffers(&self) -> SocketBuffers {
        self.granted
    }

    /// Waits until a datagram can be received, at most for `timeout`. For tools and tests that
    /// have no executor.
    pub fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        sys::wait_readable(self.socket.as_fd(), timeout)
    }

    /// Sends one piece, which is at most one train, and says how the kernel took it.
    fn send_piece(&mut self, transmit: &Transmit<'_>, contents: &[u8]) -> Attempt {
        let piece = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(to_quinn),
            contents,
            segment_size: transmit.segment_size.filter(|size| *size < contents.len()),
            src_ip: transmit.src_ip,
        };
        let result = self.state.try_send((&self.socket).into(), &piece);
        let datagrams = piece.segment_size.map_or(1, |size| contents.len().div_ceil(size));
        // The state takes EINVAL for a kernel or device without offloads and stops using them for
        // good. A lone datagram shows that it was about this one address: start the state afresh.
        if datagrams == 1
            && is_invalid(&result)
            && let Ok(fresh) = UdpSocketState::new((&self.socket).into())
        {
            self.state = fresh;
        }
        let attempt = match result {
            Ok(()) => Attempt::Sent,
            Err(error) => Attempt::failed(&error, datagrams > 1),
        };
        let count = datagrams as u64;
        match attempt {
            Attempt::Sent => {
                self.counters.sent += count;
                self.counters.sent_bytes += contents.len() as u64;
                self.counters.send_batches += 1;
            }
            Attempt::Full => self.counters.full += 1,
            Attempt::CutSmaller => {}
            Attempt::TooLarge => self.counters.dropped_too_large += count,
            Attempt::Unreachable => self.counters.dropped_unreachable += count,
            Attempt::Dropped => self.counters.dropped_other += count,
        }
        attempt
    }
}

impl Port for UdpPort {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn recv(&mut self, sink: &mut dyn FnMut(Datagram)) -> io::Result<usize> {
        let mut metas = [RecvMeta::default(); BATCH];
        let filled = match self.receive.fill(&self.socket, &self.state, &mut metas) {
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            // An ICMP answer to something we sent; it says nothing about what waits here.
            Err(error) if is_unreachable(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        let before = self.counters.received;
        for (at, meta) in metas.iter().enumerate().take(filled) {
            self.receive.hand_out(at, meta, &mut self.counters, sink);
        }
        self.counters.receive_batches += 1;
        Ok((self.counters.received - before) as usize)
    }

    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<Outcome> {
        // The kernel says EINVAL to port 0, and to the state that means a device without offloads:
        // one forged source port would end segmentation and congestion marks for good.
        if transmit.destination.port() == 0 {
            self.counters.dropped_unreachable += transmit.datagrams().count() as u64;
            return Ok(Outcome::Sent);
        }
        let whole = transmit.contents.len();
        let size = transmit.segment_size.unwrap_or(whole).clamp(1, whole.max(1));
        let mut rest = transmit.contents;
        loop {
            let train = (TRAIN_BYTES_MAX / size).clamp(1, self.max_segments());
            let (piece, after) = rest.split_at(rest.len().min(train * size));
            match self.send_piece(transmit, piece) {
                Attempt::Full => return Ok(Outcome::Full),
                // The state has noted that this device does not segment: cut again, to single
                // datagrams.
                Attempt::CutSmaller if self.max_segments() < train => continue,
                Attempt::CutSmaller => {
                    let datagrams = piece.len().div_ceil(size) as u64;
                    self.counters.dropped_other += datagrams;
                }
                Attempt::Sent | Attempt::TooLarge | Attempt::Unreachable | Attempt::Dropped => {}
            }
            if after.is_empty() {
                return Ok(Outcome::Sent);
            }
            rest = after;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn max_segments(&self) -> usize {
        self.state.max_gso_segments().min(SEGMENTS_MAX)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn next_wake(&self) -> Option<Instant> {
        None
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// How the kernel took one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Sent,
    Full,
    /// A train was refused as such; its datagrams alone may pass.
    CutSmaller,
    TooLarge,
    Unreachable,
    Dropped,
}

impl Attempt {
    pub(crate) fn failed(error: &io::Error, is_train: bool) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Self::Full;
        }
        match error.raw_os_error() {
            // The queue of the device is full: pressure, not a fault (udp(7) on ENOBUFS).
            Some(libc::ENOBUFS) => Self::Full,
            // What the kernel says when the device or a tunnel cannot segment.
            Some(libc::EIO | libc::EINVAL) if is_train => Self::CutSmaller,
            Some(libc::EMSGSIZE) => Self::TooLarge,
            _ if is_unreachable(error) => Self::Unreachable,
            _ => Self::Dropped,
        }
    }
}

fn is_invalid(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// Buffers that the kernel writes to, and the area that datagrams are handed out from.
#[derive(Debug)]
struct ReceiveBuffers {
    memory: Box<[u8]>,
    area: Area,
}

impl ReceiveBuffers {
    fn new() -> Self {
        Self { memory: vec![0; BATCH * RECEIVE_BUFFER_BYTES].into_boxed_slice(), area: Area::new() }
    }

    fn fill(
        &mut self,
        socket: &UdpSocket,
        state: &UdpSocketState,
        metas: &mut [RecvMeta; BATCH],
    ) -> io::Result<usize> {
        let (buffers, _) = self.memory.as_chunks_mut::<RECEIVE_BUFFER_BYTES>();
        let mut slices = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer));
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| slices.next().expect("memory holds one buffer per slice"));
        state.recv(socket.into(), &mut slices, metas)
    }

    /// Gives `sink` the datagrams of buffer `at`.
    fn hand_out(
        &mut self,
        at: usize,
        meta: &RecvMeta,
        counters: &mut Counters,
        sink: &mut dyn FnMut(Datagram),
    ) {
        let start = at * RECEIVE_BUFFER_BYTES;
        let arrived = &self.memory[start..start + meta.len.min(RECEIVE_BUFFER_BYTES)];
        let train = Arrived {
            from: meta.addr,
            to: meta.dst_ip,
            ecn: meta.ecn.map(from_quinn),
            datagram_bytes: meta.stride,
        };
        self.area.hand_out(&train, arrived, counters, sink);
    }
}

fn ask_for_buffers(socket: &UdpSocket, asked: usize) -> io::Result<SocketBuffers> {
    let socket = socket2::SockRef::from(socket);
    // The forced option exceeds the host's maximum but needs CAP_NET_ADMIN. Neither may succeed:
    // what counts is what is granted.
    let force = || match (force_buffers(socket.as_fd(), asked), keeper::current()) {
        (Err(_), Some(keeper)) if asked == SOCKET_BUFFER_BYTES => keeper.widen(socket.as_fd()),
        (forced, _) => forced,
    };
    if force().is_err() {
        for plain in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
            sys::set_option(socket.as_fd(), libc::SOL_SOCKET, plain, asked as i32)?;
        }
    }
    // The kernel doubles what it grants, for its own bookkeeping (socket(7)).
    Ok(SocketBuffers {
        asked,
        receive: socket.recv_buffer_size()? / 2,
        send: socket.send_buffer_size()? / 2,
    })
}

fn force_buffers(socket: BorrowedFd<'_>, asked: usize) -> io::Result<()> {
    [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE]
        .into_iter()
        .try_for_each(|option| sys::set_option(socket, libc::SOL_SOCKET, option, asked as i32))
}

/// Gives a socket the buffers of [`SOCKET_BUFFER_BYTES`] whatever the host's maximum. Needs
/// `CAP_NET_ADMIN`.
pub(crate) fn widen(socket: BorrowedFd<'_>) -> io::Result<()> {
    force_buffers(socket, SOCKET_BUFFER_BYTES)
}

fn to_quinn(ecn: Ecn) -> EcnCodepoint {
    match ecn {
        Ecn::Ect0 => EcnCodepoint::Ect0,
        Ecn::Ect1 => EcnCodepoint::Ect1,
        Ecn::Ce => EcnCodepoint::Ce,
    }
}

fn from_quinn(ecn: EcnCodepoint) -> Ecn {
    match ecn {
        EcnCodepoint::Ect0 => Ecn::Ect0,
        EcnCodepoint::Ect1 => Ecn::Ect1,
        EcnCodepoint::Ce => Ecn::Ce,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_errors_are_told_apart() {
        let cases = [
            (libc::EAGAIN, false, Attempt::Full),
            (libc::ENOBUFS, true, Attempt::Full),
            (libc::EIO, true, Attempt::CutSmaller),
            (libc::EINVAL, true, Attempt::CutSmaller),
            (libc::EINVAL, false, Attempt::Dropped),
            (libc::EMSGSIZE, false, Attempt::TooLarge),
            (libc::ENETUNREACH, false, Attempt::Unreachable),
            (libc::ECONNREFUSED, false, Attempt::Unreachable),
            (libc::EPERM, false, Attempt::Dropped),
        ];
        for (number, is_train, expected) in cases {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(Attempt::failed(&error, is_train), expected, "{error}, train {is_train}");
        }
    }

    #[test]
    fn address_in_use_is_named_even_when_the_other_one_shares_it() {
        let other = bind_group("127.0.0.1:0".parse().expect("an address"), 2).expect("free");
        let taken = other[0].local_addr().expect("bound");
        let error = bind_group(taken, 2).expect_err("in use");
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        let error = UdpPort::bind(taken).expect_err("in use");
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
    }

    #[test]
    fn foreign_address_is_named() {
        let foreign = "192.0.2.1:0".parse().expect("an address");
        let error = bind_group(foreign, 1).expect_err("not ours");
        assert_eq!(error.to_string(), "UDP address 192.0.2.1:0 does not belong to this host");
    }

    #[test]
    fn granted_buffers_are_reported() {
        let port = UdpPort::bind("127.0.0.1:0".parse().expect("an address")).expect("free");
        let granted = port.socket_buffers();
        assert_eq!(granted.asked, SOCKET_BUFFER_BYTES);
        assert!(granted.receive > 0 && granted.send > 0, "{granted:?}");
        assert_eq!(
            granted.are_short(),
            granted.receive < SOCKET_BUFFER_BYTES || granted.send < SOCKET_BUFFER_BYTES
        );
    }

    fn area_meta(len: usize, stride: usize) -> RecvMeta {
        RecvMeta { len, stride, ..RecvMeta::default() }
    }

    fn hand_out(buffers: &mut ReceiveBuffers, meta: &RecvMeta) -> (Vec<usize>, Counters) {
        let (mut sizes, mut counters) = (Vec::new(), Counters::default());
        buffers.hand_out(0, meta, &mut counters, &mut |datagram| sizes.push(datagram.data.len()));
        (sizes, counters)
    }

    #[test]
    fn odd_trains_are_split_to_the_last_byte_and_all_count() {
        let mut buffers = ReceiveBuffers::new();
        for (len, stride, expected) in [
            (0, 0, vec![]),
            (1, 1, vec![1]),
            (7, 0, vec![7]),
            (7, 9, vec![7]),
            (2_500, 1_200, vec![1_200, 1_200, 100]),
            (65_536, 65_536, vec![65_536]),
            (65_536, 1_000, [vec![1_000; 65], vec![536]].concat()),
        ] {
            let (sizes, counters) = hand_out(&mut buffers, &area_meta(len, stride));
            assert_eq!(sizes, expected, "len {len} stride {stride}");
            assert_eq!(counters.received as usize, expected.len().max(1));
            assert_eq!(counters.received_bytes as usize, len);
        }
    }

    #[test]
    fn area_is_reused_once_its_datagrams_are_gone() {
        let mut buffers = ReceiveBuffers::new();
        for _ in 0..1_000 {
            let (_, counters) = hand_out(&mut buffers, &area_meta(1_200, 1_200));
            assert_eq!(counters.receive_areas, 0);
        }
    }
}
