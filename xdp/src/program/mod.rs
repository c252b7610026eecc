//! The XDP program in front of a network interface: it takes UDP datagrams for our addresses to the
//! `AF_XDP` socket of their queue and leaves everything else to the kernel. It owns the program, its
//! maps and its place on the interface; it refuses to know sockets beyond their descriptor, and
//! QUIC beyond the few bytes that name a shard or tell an Initial.
//!
//! Taken is UDP over IPv4 without options or IPv6 without extension headers, unfragmented, under at
//! most one 802.1Q tag, to a [`Place`] that was [opened](Program::open). ARP, neighbour discovery,
//! ICMP, TCP, fragments and other ports pass, and so does a datagram whose slot is empty: when a
//! process dies, the kernel has its traffic back.
//!
//! Packets that may begin a connection have a budget for each source and one for each processor. What is
//! beyond is dropped before it costs a frame: a flood from forged addresses ends here.

mod assemble;
mod interpret;
mod rule;

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

pub use interpret::fuzz_program;
pub use rule::{Budget, Place, Shape, Tally};

use crate::sys::bpf::{self, Map, MapKind, ProgramKind};

/// Places that may be open at once: 64 addresses on 16 networks.
pub const PLACES_MAX: u32 = 1_024;

/// Sources whose budget is watched at once; the one seen least recently makes room. With key, value
/// and the kernel's own fields an entry has about 100 bytes: 6.5 MB.
pub const SOURCES_MAX: u32 = 65_536;

/// How the program sits on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// In the driver if it can, else generic.
    Either,
    /// In front of the kernel's packet buffers, with any driver.
    Generic,
    /// In the driver, before the kernel has made a packet buffer. Zero-copy needs this.
    Driver,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// bpf(2) is not for us, or not here.
    #[error("the kernel refuses {what}: {source}; it takes CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted {
        /// Which call.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another program sits on the interface.
    #[error("interface {interface} has an XDP program already; detach it (ip link set … xdp off)")]
    Occupied {
        /// Index of the interface.
        interface: u32,
    },
    /// The driver has no XDP, or not in this state of the interface.
    #[error("interface {interface} takes no XDP program this way: {source}")]
    Unsupported {
        /// Index of the interface.
        interface: u32,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else the system said.
    #[error("the kernel refuses {what}: {source}")]
    Refused {
        /// Which call.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    fn new(what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Self::NotPermitted { what, source },
            _ => Self::Refused { what, source },
        }
    }
}

/// A window and how many packets were let through in it.
type Spent = [u64; 2];

/// The program and its maps, loaded.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    shape: Shape,
    places: Map<[u8; rule::PLACE_BYTES], u32>,
    slots: Map<u32, u32>,
    counters: Map<u32, u64>,
    // Held because the program refers to them.
    _sources: Map<[u8; 16], Spent>,
    _totals: Map<u32, Spent>,
}

/// The program in its place on an interface. Dropping it takes the program off.
#[derive(Debug)]
pub struct Attached {
    link: OwnedFd,
}

impl From<Attached> for OwnedFd {
    /// The program leaves when this and its copies are closed.
    fn from(attached: Attached) -> Self {
        attached.link
    }
}

impl Program {
    /// Loads the program with nothing open.
    pub fn load(shape: Shape, budget: Budget) -> Result<Self, Error> {
        let failed = |source| Error::new("BPF maps", source);
        let places = Map::create(MapKind::Hash, PLACES_MAX).map_err(failed)?;
        let slots = Map::create(MapKind::Sockets, shape.slots()).map_err(failed)?;
        let sources = Map::create(MapKind::LruHash, SOURCES_MAX).map_err(failed)?;
        let totals = Map::create(MapKind::PerCpuArray, 1).map_err(failed)?;
        let counters = Map::create(MapKind::PerCpuArray, Tally::COUNT).map_err(failed)?;
        let maps = assemble::Maps {
            places: places.as_fd(),
            slots: slots.as_fd(),
            sources: sources.as_fd(),
            totals: totals.as_fd(),
            counters: counters.as_fd(),
        };
        let instructions = assemble::program(&maps.numbers(), shape, budget);
        let fd = bpf::load(ProgramKind::Xdp, *b"weir_xdp\0\0\0\0\0\0\0\0", &instructions)
            .map_err(|source| Error::new("the XDP program", source))?;
        Ok(Self { fd, shape, places, slots, counters, _sources: sources, _totals: totals })
    }

    /// Takes datagrams to `place` from now on.
    pub fn open(&self, place: Place) -> io::Result<()> {
        self.places.put(place.key(), 1)
    }

    /// Leaves datagrams to `place` to the kernel from now on.
    pub fn close(&self, place: Place) -> io::Result<()> {
        self.places.remove(place.key())
    }

    /// Puts an `AF_XDP` socket into the slot of a queue and shard. The socket must be bound to that
    /// queue: the kernel drops what is redirected to a socket of another.
    pub fn put(&self, queue: u32, shard: u16, socket: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        self.slots.put(self.slot(queue, shard)?, socket.as_raw_fd() as u32)
    }

    /// Empties a slot, so that its datagrams pass to the kernel.
    pub fn take_out(&self, queue: u32, shard: u16) -> io::Result<()> {
        self.slots.remove(self.slot(queue, shard)?)
    }

    /// Places the program on an interface, if no other is there.
    pub fn attach(&self, interface: u32, how: Attach) -> Result<Attached, Error> {
        let mode = match how {
            Attach::Either => 0,
            Attach::Generic => 2,
            Attach::Driver => 4,
        };
        match bpf::link_xdp(self.fd.as_fd(), interface, mode) {
            Ok(link) => Ok(Attached { link }),
            Err(source) => Err(match source.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => Error::Occupied { interface },
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Error::new("a BPF link", source),
                _ => Error::Unsupported { interface, source },
            }),
        }
    }

    /// How many packets met each fate so far.
    pub fn count(&self, tally: Tally) -> io::Result<u64> {
        self.counters.sum(tally as u32)
    }

    fn slot(&self, queue: u32, shard: u16) -> io::Result<u32> {
        self.shape.slot(queue, shard).ok_or_else(|| {
            let text = format!("queue {queue} and shard {shard} of {:?}", self.shape);
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }
}

/// The address and network that datagrams to `to` are looked up by.
fn mapped(to: IpAddr) -> [u8; 16] {
    match to {
        IpAddr::V4(to) => to.to_ipv6_mapped().octets(),
        IpAddr::V6(to) => to.octets(),
    }
}

#[cfg(test)]
mod tests;
