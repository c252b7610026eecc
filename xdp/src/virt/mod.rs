//! A network in memory: ports on addresses, links between hosts with delay, loss and limits, and
//! partitions. It owns every source of chance, drawn from one seed, and reads no clock: time is
//! what [`Network::advance`] was last told. So a whole node and its viewers run in one thread, as
//! fast as they compute, and the same seed gives the same run.
//!
//! The loop of a simulation: let everybody work, ask [`Network::next_event`] and the timers of the
//! others for the earliest time, advance to it, repeat.

mod port;
mod world;

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

pub use port::VirtPort;

use crate::steer::{Key, SHARDS_MAX};
use world::World;

/// What a link between two hosts does to datagrams, in one direction. The default is perfect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Time that every datagram takes.
    pub delay: Duration,
    /// Most time that one may take on top, evenly spread. It alone does not change the order.
    pub jitter: Duration,
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Probability that a datagram is overtaken: it takes `reorder_by` longer.
    pub reorder: f64,
    /// How much longer an overtaken datagram takes.
    pub reorder_by: Duration,
    /// Probability that a datagram arrives twice.
    pub duplicate: f64,
    /// Capacity; unlimited if not given. Every datagram costs 28 bytes of headers on top.
    pub bits_per_second: Option<u64>,
    /// Bytes that may wait for capacity; what comes on top is dropped at the tail.
    pub queue_bytes: usize,
    /// Waiting bytes beyond which datagrams that carry a congestion mark get [`crate::Ecn::Ce`].
    pub mark_bytes: Option<usize>,
    /// Largest datagram that passes.
    pub datagram_bytes_max: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(5),
            duplicate: 0.0,
            bits_per_second: None,
            // 100 ms of 20 Mb/s.
            queue_bytes: 256 * 1024,
            mark_bytes: None,
            // What fits into an Ethernet packet with IPv4 and UDP headers: 1,500 - 20 - 8.
            datagram_bytes_max: 1_472,
        }
    }
}

impl Link {
    /// A perfect link with some delay.
    pub fn with_delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// How fast a port can hand its datagrams to the network: the socket buffer and the interface.
/// Without one a port is never full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Rate at which the buffer empties.
    pub bits_per_second: u64,
    /// Bytes that may wait in it. A transmit larger than this is taken when the buffer is empty.
    pub buffer_bytes: usize,
}

/// What became of all datagrams. `sent + duplicated` equals the sum of all others (but `marked`
/// and `reordered`, which did not end there) once nothing is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Datagrams that ports sent.
    pub sent: u64,
    /// Copies that links made.
    pub duplicated: u64,
    /// Datagrams that ports took in or will.
    pub delivered: u64,
    /// Datagrams that links let others overtake.
    pub reordered: u64,
    /// Datagrams that links marked as congested.
    pub marked: u64,
    /// Dropped by chance.
    pub dropped_lost: u64,
    /// Dropped because the queue of a link was full.
    pub dropped_queue_full: u64,
    /// Dropped because the link does not take datagrams of this size.
    pub dropped_too_large: u64,
    /// Dropped because the hosts are cut off from each other, on sending or while under way.
    pub dropped_cut: u64,
    /// Dropped because nobody has the port.
    pub dropped_no_port: u64,
    /// Dropped because the receiver did not read fast enough.
    pub dropped_inbox_full: u64,
}

/// The network. Clones are the same network.
#[derive(Debug, Clone)]
pub struct Network {
    world: Rc<RefCell<World>>,
}

impl Network {
    /// An empty network at the time `now`, in which everything that is left to chance follows
    /// from `seed`.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self { world: Rc::new(RefCell::new(World::new(seed, now))) }
    }

    /// A port on an address; port 0 picks a free one.
    pub fn port(&self, address: SocketAddr) -> io::Result<VirtPort> {
        let key = Key::new(0);
        let mut group = self.port_group(address, 1, key)?;
        Ok(group.remove(0))
    }

    /// Ports that share one address, each datagram going to the one that its connection id names:
    /// what [`crate::udp::bind_group`] and [`crate::steer::attach`] are on a real host.
    pub fn port_group(&self, address: SocketAddr, n: usize, key: Key) -> io::Result<Vec<VirtPort>> {
        if n == 0 || n > usize::from(SHARDS_MAX) || address.ip().is_unspecified() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let address = self.world.borrow_mut().open(address, n, key)?;
        Ok((0..n).map(|index| VirtPort::new(self.world.clone(), address, index)).collect())
    }

    /// From now on each datagram to the ports of an address goes to the one that its sender's address and
    /// port lead to, whatever its connection id: the receive queues of a network card.
    pub fn spread_by_sender(&self, address: SocketAddr) {
        self.world.borrow_mut().spread_by_sender(address);
    }

    /// Sets what every link does that has not been set on its own.
    pub fn set_default_link(&self, link: Link) {
        self.world.borrow_mut().set_default_link(link);
    }

    /// Sets what the links between two hosts do, both ways.
    pub fn set_link(&self, one: IpAddr, other: IpAddr, link: Link) {
        self.set_link_one_way(one, other, link);
        self.set_link_one_way(other, one, link);
    }

    /// Sets what the link from one host to another does.
    pub fn set_link_one_way(&self, from: IpAddr, to: IpAddr, link: Link) {
        self.world.borrow_mut().set_link(from, to, link);
    }

    /// Cuts two hosts off from each other. What is under way between them is lost unless healed
    /// before it arrives.
    pub fn cut(&self, one: IpAddr, other: IpAddr) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts one direction: a black hole that its sender does not notice.
    pub fn cut_one_way(&self, from: IpAddr, to: IpAddr) {
        self.world.borrow_mut().cut(from, to);
    }

    /// Ends the cuts between two hosts, both ways.
    pub fn heal(&self, one: IpAddr, other: IpAddr) {
        self.world.borrow_mut().heal(one, other);
    }

    /// Lets time pass: everything that arrives by `now` is put before the ports. Time does not
    /// run backwards; an earlier `now` changes nothing.
    pub fn advance(&self, now: Instant) {
        self.world.borrow_mut().advance(now);
    }

    /// When something happens next by itself: a datagram arrives, or a full port has room. May be
    /// in the past if the network was not advanced since it came up.
    pub fn next_event(&self) -> Option<Instant> {
        self.world.borrow().next_event()
    }

    /// The time that the network was last advanced to.
    pub fn now(&self) -> Instant {
        self.world.borrow().now()
    }

    /// How long a datagram that one host sends to another now would wait for the capacity of their link.
    pub fn wait(&self, from: IpAddr, to: IpAddr) -> Duration {
        self.world.borrow().wait(from, to)
    }

    /// How many datagrams are under way.
    pub fn in_flight(&self) -> usize {
        self.world.borrow().in_flight()
    }

    /// What became of all datagrams so far.
    pub fn tally(&self) -> Tally {
        self.world.borrow().tally()
    }
}

#[cfg(test)]
mod tests;
