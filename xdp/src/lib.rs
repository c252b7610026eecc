//! Packet ports: the only crate that makes packet and socket system calls.
//!
//! A [`Port`] is where a shard's datagrams come from and go to. It owns buffers, offloads and the
//! outcome of a send; it refuses to know QUIC, except for the one byte of a connection id by which
//! [`steer`] brings a packet to its shard. Three ports exist: [`udp`], a kernel socket with
//! segmentation offload, [`xdp_port`], frames from and to an interface past the kernel's IP and UDP,
//! and [`virt`], a seeded network in memory for tests and simulation. Every port passes the same
//! tests (`tests/port.rs`).

pub mod affinity;
mod area;
mod backoff;
mod ebpf;
pub mod frame;
pub mod keeper;
pub mod ladder;
mod netlink;
pub mod program;
pub mod steer;
mod sys;
pub mod tcp;
pub mod udp;
pub mod uring;
pub mod virt;
pub mod wake;
pub mod xdp_port;
mod xsk;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    time::Instant,
};

use bytes::BytesMut;

pub use netlink::fuzz_netlink;
pub use steer::fuzz_steer;
pub use xsk::{Losses, Mode};

/// Where a shard's datagrams come from and go to. One thread owns a port; nothing here blocks.
pub trait Port {
    /// The address this port is bound to. Behind a wildcard the address that a peer used is in
    /// [`Datagram::to`].
    fn local_addr(&self) -> SocketAddr;

    /// Takes in one bounded batch and gives `sink` every datagram that is not empty. Returns how
    /// many datagrams were taken in; empty ones count, so that a flood of them uses up the
    /// caller's budget like any other. 0 means that nothing waits.
    fn recv(&mut self, sink: &mut dyn FnMut(Datagram)) -> io::Result<usize>;

    /// Sends one datagram, or a train of them. On [`Outcome::Full`] nothing is lost and the
    /// caller repeats the same transmit later; a train may then repeat datagrams that already
    /// left, which QUIC discards. What the network below refuses (too large, no route) counts as
    /// sent and lost, as it would be further on; see [`Counters`].
    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<Outcome>;

    /// Hands over what a port may have kept back to send together. Call it at the end of a turn.
    fn flush(&mut self) -> io::Result<()>;

    /// How many datagrams one [`Transmit`] may hold. Can shrink to 1 while running, when the
    /// device turns out not to segment; larger trains are still taken, and cut here.
    fn max_segments(&self) -> usize;

    /// What to wait on for readability, where there is such a thing.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// When the next datagram arrives, or a full port has room again: on the virtual network
    /// only, where the future is known.
    fn next_wake(&self) -> Option<Instant>;

    /// What happened so far.
    fn counters(&self) -> Counters;

    /// Whether the descriptor becomes writable when a full port has room again. Where it does not,
    /// the owner of a full port comes back after a millisecond.
    fn tells_writable(&self) -> bool {
        true
    }

    /// How it gets on past the kernel, if that is the way it has.
    fn report(&self) -> Option<xdp_port::Report> {
        None
    }
}

/// One datagram that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it. On a socket bound to `[::]` an IPv4 peer has its mapped address
    /// (`::ffff:192.0.2.1`), and is answered at that; see `IpAddr::to_canonical` for the plain one.
    pub from: SocketAddr,
    /// Which of our addresses it was sent to, where the port can tell. Answers leave from there.
    pub to: Option<IpAddr>,
    /// Its congestion mark.
    pub ecn: Option<Ecn>,
    /// Its bytes, never empty.
    pub data: BytesMut,
}

/// One datagram to send, or a train of datagrams of equal size of which the last may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// To whom.
    pub destination: SocketAddr,
    /// From which of our addresses; the port's own choice if not given.
    pub src_ip: Option<IpAddr>,
    /// Congestion mark of every datagram.
    pub ecn: Option<Ecn>,
    /// The bytes.
    pub contents: &'a [u8],
    /// Size of all datagrams but the last, if `contents` is a train.
    pub segment_size: Option<usize>,
}

impl Transmit<'_> {
    /// The datagrams of this transmit, at least one.
    fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let whole = self.contents.len().max(1);
        let size = self.segment_size.unwrap_or(whole).clamp(1, whole);
        let empty = self.contents.is_empty().then_some(self.contents);
        empty.into_iter().chain(self.contents.chunks(size))
    }
}

/// An explicit congestion notification mark (RFC 3168 section 5); no value is Not-ECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// The sender understands congestion marks.
    Ect0 = 0b10,
    /// The same, in the experimental meaning of RFC 9331.
    Ect1 = 0b01,
    /// The network was congested.
    Ce = 0b11,
}

impl Ecn {
    /// The mark in the two lowest bits of a traffic class.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0b11 {
            0b10 => Some(Self::Ect0),
            0b01 => Some(Self::Ect1),
            0b11 => Some(Self::Ce),
            _ => None,
        }
    }

    /// The two bits of this mark.
    pub fn bits(self) -> u8 {
        self as u8
    }
}

/// What became of a transmit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It left, as far as this port can tell.
    Sent,
    /// There is no room now; try the same again later.
    Full,
}

/// What a port did since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams taken in, empty ones included.
    pub received: u64,
    /// Bytes of those.
    pub received_bytes: u64,
    /// Empty ones among them, which nobody sees.
    pub received_empty: u64,
    /// Batches that held at least one datagram.
    pub receive_batches: u64,
    /// Times that a receive area was still in use by its datagrams and a new one was allocated.
    pub receive_areas: u64,
    /// Datagrams handed to the network.
    pub sent: u64,
    /// Bytes of those.
    pub sent_bytes: u64,
    /// Transmits those were in.
    pub send_batches: u64,
    /// Times that the answer was [`Outcome::Full`].
    pub full: u64,
    /// Datagrams lost on sending because they are larger than the path or the interface takes.
    pub dropped_too_large: u64,
    /// Datagrams lost on sending because there is no way to their destination.
    pub dropped_unreachable: u64,
    /// Datagrams lost on sending for another reason.
    pub dropped_other: u64,
}

impl std::ops::Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            received_bytes: self.received_bytes + other.received_bytes,
            received_empty: self.received_empty + other.received_empty,
            receive_batches: self.receive_batches + other.receive_batches,
            receive_areas: self.receive_areas + other.receive_areas,
            sent: self.sent + other.sent,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            send_batches: self.send_batches + other.send_batches,
            full: self.full + other.full,
            dropped_too_large: self.dropped_too_large + other.dropped_too_large,
            dropped_unreachable: self.dropped_unreachable + other.dropped_unreachable,
            dropped_other: self.dropped_other + other.dropped_other,
        }
    }
}
