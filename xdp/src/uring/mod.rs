//! A port on a kernel UDP socket by way of `io_uring`: datagrams are received into a ring of buffers
//! without a call for each batch, and the small sends of a turn leave in one call. It owns the two
//! rings of its shard and, beside them, an ordinary port on the same socket: for trains that the
//! kernel will not cut, and for everything once the rings are lost. It needs no privilege, but a
//! kernel that has `io_uring` and lets this process use it.

mod message;
mod outbox;

use std::{
    fs, io,
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

pub use crate::sys::uring::RingCounts;
pub use message::fuzz_message;
use outbox::Outbox;

use crate::{
    Counters, Datagram, Ecn, Outcome, Port, Transmit,
    area::Area,
    backoff::Backoff,
    sys::{self, uring::Receiver},
    udp::{BATCH, TRAIN_BYTES_MAX, UdpPort},
    wake::{self, Wake},
    xdp_port::Report,
};

/// A port over `io_uring` and a UDP socket.
#[derive(Debug)]
pub struct UringPort {
    kernel: UdpPort,
    /// Nothing once they were lost.
    rings: Option<Rings>,
    lost: Option<&'static str>,
    again: Backoff,
    /// Readable when the rings or, without them, the socket have something.
    readable: OwnedFd,
    /// Of what went by the rings.
    counters: Counters,
    /// Of rings that were lost.
    past: RingCounts,
    lost_times: u64,
    returns: u64,
    zero_copy_from: usize,
    /// What had arrived when the rings were lost, at most 64 trains, as many as there are buffers.
    stash: Vec<Datagram>,
    /// Keeps the descriptor readable while something is stashed.
    bell: Option<Wake>,
    /// The rings belong to the thread that made them.
    _thread: PhantomData<*const ()>,
}

#[derive(Debug)]
struct Rings {
    receiver: Receiver,
    outbox: Outbox,
    area: Area,
}

/// From how many bytes on a send is read from our memory by the interface: never. The trait hands
/// over bytes that it takes back, so a send without a copy in the kernel is one with a copy here. Over
/// loopback, where the kernel copies after all, trains of 14 packets cost 20 % more that way and trains
/// of 40 a third more (`xdp/tests/cost.rs`); no interface that reads our memory was at hand.
pub const ZERO_COPY_FROM: usize = usize::MAX;

/// Why there are no rings. Each says what to change, in one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The kernel was built or configured without it.
    #[error("this kernel has no io_uring")]
    Missing,
    /// An administrator or a sandbox does not want it.
    #[error("io_uring is forbidden to this process: {0}")]
    Forbidden(&'static str),
    /// The kernel has `io_uring` but not all of what is needed.
    #[error("io_uring of this kernel is too old: Linux 6.1 or later is needed")]
    TooOld,
    /// Memory may not be locked, or there is none.
    #[error("io_uring gets no memory: raise the limit of locked memory (ulimit -l)")]
    NoMemory,
    /// Anything else the system said.
    #[error("io_uring cannot be set up: {0}")]
    Other(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::EPERM | libc::EACCES) => {
                let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
                match sysctl.as_deref().map(str::trim) {
                    Ok("1" | "2") => Self::Forbidden("sysctl kernel.io_uring_disabled is set"),
                    _ => Self::Forbidden("by a seccomp filter or a security module"),
                }
            }
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Self::TooOld,
            Some(libc::ENOMEM) => Self::NoMemory,
            None if error.kind() == io::ErrorKind::Unsupported => Self::TooOld,
            _ => Self::Other(error),
        }
    }
}

/// Whether the host grants rings at all; a port may still fail for want of memory.
pub fn probe() -> Result<(), Refused> {
    if sys::uring::is_young_enough()? { Ok(()) } else { Err(Refused::TooOld) }
}

impl Rings {
    fn open(kernel: &UdpPort, zero_copy_from: usize) -> Result<Self, Refused> {
        probe()?;
        let socket = kernel.fd().expect("a UDP port has a descriptor");
        let outbox = Outbox::new(socket, zero_copy_from)?;
        Ok(Self { receiver: Receiver::new(socket)?, outbox, area: Area::new() })
    }

    fn receive(
        &mut self,
        kernel: &mut UdpPort,
        counters: &mut Counters,
        sink: &mut dyn FnMut(Datagram),
    ) -> io::Result<usize> {
        let Self { receiver, outbox, area } = self;
        let before = counters.received;
        let batches = receiver.take(BATCH, &mut |filled| {
            hand_out(area, filled, counters, sink);
        })?;
        counters.receive_batches += u64::from(batches > 0);
        if receiver.has_room() {
            outbox.send_again(kernel, counters)?;
        }
        if outbox.is_held_back() {
            receiver.watch_room()?;
        }
        Ok((counters.received - before) as usize)
    }

    fn counts(&self) -> RingCounts {
        self.receiver.counts() + self.outbox.counts()
    }
}

fn hand_out(
    area: &mut Area,
    filled: &[u8],
    counters: &mut Counters,
    sink: &mut dyn FnMut(Datagram),
) {
    if let Some((train, datagrams)) = message::read(filled) {
        area.hand_out(&train, datagrams, counters, sink);
    } else {
        // Without an address nobody can be answered; it counts, so that the budget is used up.
        counters.received += 1;
        counters.received_empty += 1;
    }
}

impl UringPort {
    /// Takes a bound socket, or says why there are no rings and gives the plain port back.
    pub fn new(kernel: UdpPort) -> Result<Self, Box<(UdpPort, Refused)>> {
        Self::with_zero_copy(kernel, ZERO_COPY_FROM)
    }

    /// The same with another size from which on sends are not copied by the kernel.
    pub fn with_zero_copy(
        kernel: UdpPort,
        zero_copy_from: usize,
    ) -> Result<Self, Box<(UdpPort, Refused)>> {
        let opened = Rings::open(&kernel, zero_copy_from).and_then(|rings| {
            let readable = sys::epoll()?;
            sys::epoll_add(readable.as_fd(), rings.receiver.fd())?;
            Ok((rings, readable))
        });
        let (rings, readable) = match opened {
            Ok(opened) => opened,
            Err(refused) => return Err(Box::new((kernel, refused))),
        };
        Ok(Self {
            kernel,
            rings: Some(rings),
            lost: None,
            again: Backoff::new(),
            readable,
            counters: Counters::default(),
            past: RingCounts::default(),
            lost_times: 0,
            returns: 0,
            zero_copy_from,
            stash: Vec::new(),
            bell: None,
            _thread: PhantomData,
        })
    }

    /// What the host granted to the socket.
    pub fn kernel(&self) -> &UdpPort {
        &self.kernel
    }

    /// Waits until a datagram can be received, at most for `timeout`. For tools and tests that
    /// have no executor.
    pub fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        sys::wait_readable(self.readable.as_fd(), timeout)
    }

    /// Goes on with the socket alone. What was to be sent is sent; what had arrived is for the next
    /// look.
    fn lose(&mut self, why: &'static str) {
        let Some(mut rings) = self.rings.take() else { return };
        let Rings { receiver, outbox, area } = &mut rings;
        let (counters, stash) = (&mut self.counters, &mut self.stash);
        receiver.take_rest(&mut |filled| {
            hand_out(area, filled, counters, &mut |datagram| stash.push(datagram));
        });
        outbox.empty_into(&mut self.kernel, &mut self.counters);
        if !self.stash.is_empty()
            && let Ok((bell, ringer)) = wake::pair()
        {
            bell.sleep();
            ringer.wake();
            let _ = sys::epoll_add(self.readable.as_fd(), bell.as_fd());
            self.bell = Some(bell);
        }
        self.past = self.past + rings.counts();
        self.lost = Some(why);
        self.lost_times += 1;
        self.again.lost(Instant::now());
        let socket = self.kernel.fd().expect("a UDP port has a descriptor");
        // Should this fail, the owner still looks four times a second.
        let _ = sys::epoll_add(self.readable.as_fd(), socket);
    }

    /// Tries to have rings again, now and then.
    fn climb(&mut self) {
        let now = Instant::now();
        if !self.again.is_due(now) {
            return;
        }
        let Ok(rings) = Rings::open(&self.kernel, self.zero_copy_from) else { return };
        let socket = self.kernel.fd().expect("a UDP port has a descriptor");
        if sys::epoll_add(self.readable.as_fd(), rings.receiver.fd()).is_err() {
            return;
        }
        let _ = sys::epoll_remove(self.readable.as_fd(), socket);
        self.again.returned(now);
        self.rings = Some(rings);
        self.lost = None;
        self.returns += 1;
    }

    fn send_piece(&mut self, piece: &Piece, contents: &[u8]) -> io::Result<Outcome> {
        let Some(rings) = &mut self.rings else { return piece.send(&mut self.kernel, contents) };
        let sent = rings.outbox.send(piece, contents, &mut self.kernel, &mut self.counters);
        let Ok(outcome) = sent else {
            self.lose(SENDING_FAILED);
            return piece.send(&mut self.kernel, contents);
        };
        self.counters.full += u64::from(outcome == Outcome::Full);
        Ok(outcome)
    }
}

const SENDING_FAILED: &str = "the kernel takes no more sends by io_uring";
const RECEIVING_FAILED: &str = "the kernel gives no more datagrams by io_uring";

/// Where datagrams go and how, without their bytes.
#[derive(Debug, Clone, Copy)]
struct Piece {
    destination: SocketAddr,
    src_ip: Option<IpAddr>,
    ecn: Option<Ecn>,
    segment_size: Option<usize>,
    datagrams: u64,
}

impl Piece {
    fn new(transmit: &Transmit<'_>, contents: &[u8]) -> Self {
        let segment_size = transmit.segment_size.filter(|size| *size < contents.len());
        Self {
            destination: transmit.destination,
            src_ip: transmit.src_ip,
            ecn: transmit.ecn,
            segment_size,
            datagrams: segment_size.map_or(1, |size| contents.len().div_ceil(size)) as u64,
        }
    }

    fn send(&self, port: &mut UdpPort, contents: &[u8]) -> io::Result<Outcome> {
        let Self { destination, src_ip, ecn, segment_size, .. } = *self;
        port.send(&Transmit { destination, src_ip, ecn, contents, segment_size })
    }
}

impl Port for UringPort {
    fn local_addr(&self) -> SocketAddr {
        self.kernel.local_addr()
    }

    fn recv(&mut self, sink: &mut dyn FnMut(Datagram)) -> io::Result<usize> {
        if self.rings.is_none() {
            self.climb();
        }
        if let Some(rings) = &mut self.rings {
            match rings.receive(&mut self.kernel, &mut self.counters, sink) {
                Ok(taken) => return Ok(taken),
                Err(_) => self.lose(RECEIVING_FAILED),
            }
        }
        if self.stash.is_empty() {
            return self.kernel.recv(sink);
        }
        self.bell = None;
        let stashed = std::mem::take(&mut self.stash);
        let taken = stashed.len();
        stashed.into_iter().for_each(sink);
        Ok(taken)
    }

    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<Outcome> {
        if self.rings.is_none() || transmit.destination.port() == 0 {
            return self.kernel.send(transmit);
        }
        let whole = transmit.contents.len();
        let size = transmit.segment_size.unwrap_or(whole).clamp(1, whole.max(1));
        let mut rest = transmit.contents;
        loop {
            let train = (TRAIN_BYTES_MAX / size).clamp(1, self.max_segments());
            let (contents, after) = rest.split_at(rest.len().min(train * size));
            let piece = Piece::new(transmit, contents);
            if self.send_piece(&piece, contents)? == Outcome::Full {
                return Ok(Outcome::Full);
            }
            if after.is_empty() {
                return Ok(Outcome::Sent);
            }
            rest = after;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(rings) = &mut self.rings else { return self.kernel.flush() };
        let Rings { receiver, outbox, .. } = rings;
        let flushed = outbox.flush(&mut self.kernel, &mut self.counters).and_then(|()| {
            // Nobody may come back for these: the ring itself must wake the owner.
            if outbox.is_held_back() { receiver.watch_room() } else { Ok(()) }
        });
        if flushed.is_err() {
            self.lose(SENDING_FAILED);
        }
        Ok(())
    }

    fn max_segments(&self) -> usize {
        self.kernel.max_segments()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.readable.as_fd())
    }

    fn next_wake(&self) -> Option<Instant> {
        None
    }

    fn counters(&self) -> Counters {
        self.kernel.counters() + self.counters
    }

    /// The descriptor is readable, not writable, when there is room.
    fn tells_writable(&self) -> bool {
        false
    }

    fn report(&self) -> Option<Report> {
        let now = self.rings.as_ref().map(Rings::counts).unwrap_or_default();
        Some(Report {
            lost: self.lost,
            lost_times: self.lost_times,
            returns: self.returns,
            ring: self.past + now,
            ..Report::default()
        })
    }
}

#[cfg(test)]
mod tests;
