//! The state behind a network and its ports: what is under way, who listens, and the dice. All
//! maps are ordered, so that nothing depends on the addresses of memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use fastrand::Rng;

use super::{Interface, Link, Tally};
use crate::{
    Counters, Datagram, Ecn, Outcome, Transmit,
    steer::{Key, shard_of},
    udp::BATCH,
};

/// Bytes that wait before one port until it reads: four times what a small kernel socket holds.
const INBOX_BYTES_MAX: usize = 1024 * 1024;

/// IPv4 and UDP headers, which a link carries too.
const HEADER_BYTES: usize = 28;

/// First port that is picked for port 0 (RFC 6335 section 6).
const EPHEMERAL_FIRST: u16 = 49_152;

#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    now: Instant,
    default_link: Link,
    links: BTreeMap<(IpAddr, IpAddr), LinkState>,
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    sockets: BTreeMap<SocketAddr, Group>,
    /// By time of arrival, then by order of sending.
    under_way: BTreeMap<(Instant, u64), Parcel>,
    parcels: u64,
    tally: Tally,
}

impl World {
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        Self {
            seed,
            now,
            default_link: Link::default(),
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            sockets: BTreeMap::new(),
            under_way: BTreeMap::new(),
            parcels: 0,
            tally: Tally::default(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn wait(&self, from: IpAddr, to: IpAddr) -> Duration {
        let link = self.links.get(&(from, to));
        link.map_or(Duration::ZERO, |it| it.busy_until.saturating_duration_since(self.now))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn set_default_link(&mut self, link: Link) {
        self.default_link = link;
        for state in self.links.values_mut().filter(|state| !state.is_own) {
            state.link = link;
        }
    }

    pub(super) fn set_link(&mut self, from: IpAddr, to: IpAddr, link: Link) {
        let state = self.link(from, to);
        state.link = link;
        state.is_own = true;
    }

    pub(super) fn cut(&mut self, from: IpAddr, to: IpAddr) {
        self.cuts.insert((from, to));
    }

    pub(super) fn heal(&mut self, one: IpAddr, other: IpAddr) {
        self.cuts.remove(&(one, other));
        self.cuts.remove(&(other, one));
    }

    pub(super) fn open(
        &mut self,
        address: SocketAddr,
        n: usize,
        key: Key,
    ) -> io::Result<SocketAddr> {
        let is_free =
            |port: &u16| !self.sockets.contains_key(&SocketAddr::new(address.ip(), *port));
        let mut wanted = match address.port() {
            0 => EPHEMERAL_FIRST..=u16::MAX,
            port => port..=port,
        };
        let Some(port) = wanted.find(is_free) else {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        };
        let address = SocketAddr::new(address.ip(), port);
        let members = (0..n).map(|_| Some(Socket::new(self.now))).collect();
        self.sockets.insert(address, Group { members, key: Some(key) });
        Ok(address)
    }

    pub(super) fn spread_by_sender(&mut self, address: SocketAddr) {
        if let Some(group) = self.sockets.get_mut(&address) {
            group.key = None;
        }
    }

    pub(super) fn close(&mut self, address: SocketAddr, index: usize) {
        let Some(group) = self.sockets.get_mut(&address) else { return };
        group.members[index] = None;
        if group.members.iter().all(Option::is_none) {
            self.sockets.remove(&address);
        }
    }

    pub(super) fn socket(&self, address: SocketAddr, index: usize) -> &Socket {
        self.sockets
            .get(&address)
            .and_then(|group| group.members[index].as_ref())
            .expect("a port keeps its socket open until it is dropped")
    }

    pub(super) fn socket_mut(&mut self, address: SocketAddr, index: usize) -> &mut Socket {
        self.sockets
            .get_mut(&address)
            .and_then(|group| group.members[index].as_mut())
            .expect("a port keeps its socket open until it is dropped")
    }

    pub(super) fn next_event(&self) -> Option<Instant> {
        let arrival = self.under_way.keys().next().map(|(at, _)| *at);
        let members = self.sockets.values().flat_map(|group| group.members.iter().flatten());
        members.filter_map(Socket::room_at).chain(arrival).min()
    }

    /// When the port at `address` has something to do next.
    pub(super) fn next_wake(&self, address: SocketAddr, index: usize) -> Option<Instant> {
        let socket = self.socket(address, index);
        if !socket.inbox.is_empty() {
            return Some(self.now);
        }
        let mut on_the_way = self.under_way.iter().filter(|(_, parcel)| parcel.to == address);
        on_the_way.next().map(|((at, _), _)| *at).into_iter().chain(socket.room_at()).min()
    }

    pub(super) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let parcel = entry.remove();
            self.deliver(parcel);
        }
        for group in self.sockets.values_mut() {
            for socket in group.members.iter_mut().flatten() {
                if socket.room_at().is_some_and(|at| at <= self.now) {
                    socket.waits_for_room = false;
                }
            }
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        let Parcel { to, datagram } = parcel;
        if self.cuts.contains(&(datagram.from.ip(), to.ip())) {
            self.tally.dropped_cut += 1;
            return;
        }
        let socket = self.sockets.get_mut(&to).and_then(|group| group.select(&datagram));
        let Some(socket) = socket else {
            self.tally.dropped_no_port += 1;
            return;
        };
        let bytes = socket.inbox_bytes + datagram.data.len() + HEADER_BYTES;
        if bytes > INBOX_BYTES_MAX {
            self.tally.dropped_inbox_full += 1;
            return;
        }
        socket.inbox_bytes = bytes;
        socket.inbox.push_back(datagram);
        self.tally.delivered += 1;
    }

    pub(super) fn send(
        &mut self,
        address: SocketAddr,
        index: usize,
        transmit: &Transmit<'_>,
    ) -> Outcome {
        let now = self.now;
        let socket = self.socket_mut(address, index);
        if !socket.has_room(now, transmit.contents.len()) {
            socket.counters.full += 1;
            socket.waits_for_room = true;
            return Outcome::Full;
        }
        socket.counters.send_batches += 1;
        let from = SocketAddr::new(transmit.src_ip.unwrap_or(address.ip()), address.port());
        for contents in transmit.datagrams() {
            let socket = self.socket_mut(address, index);
            socket.counters.sent += 1;
            socket.counters.sent_bytes += contents.len() as u64;
            let leaves = socket.occupy(now, contents.len());
            self.carry(from, transmit.destination, transmit.ecn, contents, leaves);
        }
        Outcome::Sent
    }

    /// Puts one datagram on its link, or drops it.
    fn carry(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Option<Ecn>,
        contents: &[u8],
        leaves: Instant,
    ) {
        self.tally.sent += 1;
        let is_cut = self.cuts.contains(&(from.ip(), to.ip()));
        let state = self.link(from.ip(), to.ip());
        let Link { loss, duplicate, datagram_bytes_max, .. } = state.link;
        // All dice are thrown for every datagram, so that one more or less on one link changes
        // nothing for those that follow it but their own fate.
        let (lost, twice) = (state.chance(loss), state.chance(duplicate));
        let overtaken = state.chance(state.link.reorder);
        let jitter = state.link.jitter.mul_f64(state.dice.f64());
        if contents.len() > datagram_bytes_max {
            self.tally.dropped_too_large += 1;
            return;
        }
        if is_cut {
            self.tally.dropped_cut += 1;
            return;
        }
        if lost {
            self.tally.dropped_lost += 1;
            return;
        }
        let Some(passage) = state.pass(leaves, contents.len(), jitter, overtaken) else {
            self.tally.dropped_queue_full += 1;
            return;
        };
        let is_marked = passage.congested && ecn.is_some();
        let ecn = if is_marked { Some(Ecn::Ce) } else { ecn };
        self.tally.marked += u64::from(is_marked);
        self.tally.reordered += u64::from(overtaken);
        self.tally.duplicated += u64::from(twice);
        for _ in 0..=u8::from(twice) {
            let datagram =
                Datagram { from, to: Some(to.ip()), ecn, data: BytesMut::from(contents) };
            self.under_way.insert((passage.arrives, self.parcels), Parcel { to, datagram });
            self.parcels += 1;
        }
    }

    fn link(&mut self, from: IpAddr, to: IpAddr) -> &mut LinkState {
        let (seed, now, link) = (self.seed, self.now, self.default_link);
        self.links.entry((from, to)).or_insert_with(|| LinkState {
            link,
            is_own: false,
            dice: Rng::with_seed(seed ^ fingerprint(from).rotate_left(1) ^ fingerprint(to)),
            busy_until: now,
            newest_arrival: now,
        })
    }
}

/// A datagram under way.
#[derive(Debug)]
struct Parcel {
    to: SocketAddr,
    datagram: Datagram,
}

/// One direction between two hosts. Each has its own dice, so that traffic on one link does not
/// change what happens on another.
#[derive(Debug)]
struct LinkState {
    link: Link,
    /// Set on its own, not by default.
    is_own: bool,
    dice: Rng,
    busy_until: Instant,
    newest_arrival: Instant,
}

struct Passage {
    arrives: Instant,
    congested: bool,
}

impl LinkState {
    fn chance(&mut self, probability: f64) -> bool {
        self.dice.f64() < probability
    }

    /// Sends `bytes` through; nothing if the queue is full.
    fn pass(
        &mut self,
        leaves: Instant,
        bytes: usize,
        jitter: Duration,
        overtaken: bool,
    ) -> Option<Passage> {
        let link = self.link;
        let (mut through, mut waiting) = (leaves, 0);
        if let Some(rate) = link.bits_per_second {
            let size = bytes + HEADER_BYTES;
            let starts = self.busy_until.max(leaves);
            waiting = bytes_in(starts - leaves, rate);
            if waiting + size > link.queue_bytes.max(size) {
                return None;
            }
            through = starts + time_for(size, rate);
            self.busy_until = through;
        }
        let mut arrives = through + link.delay + jitter;
        if overtaken {
            arrives += link.reorder_by;
        } else {
            arrives = arrives.max(self.newest_arrival);
            self.newest_arrival = arrives;
        }
        Some(Passage { arrives, congested: link.mark_bytes.is_some_and(|mark| waiting > mark) })
    }
}

/// The sockets of one address.
#[derive(Debug)]
struct Group {
    members: Vec<Option<Socket>>,
    /// What connection ids name members by; without it senders are spread over them.
    key: Option<Key>,
}

impl Group {
    fn select(&mut self, datagram: &Datagram) -> Option<&mut Socket> {
        let n = self.members.len();
        let shard = self.key.and_then(|key| shard_of(&datagram.data, n as u16, key));
        let by_address =
            || fingerprint(datagram.from.ip()) as usize + datagram.from.port() as usize;
        let index = shard.map_or_else(|| by_address() % n, usize::from);
        self.members[index].as_mut()
    }
}

/// One port's side of the network.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) interface: Option<Interface>,
    pub(super) counters: Counters,
    inbox: VecDeque<Datagram>,
    inbox_bytes: usize,
    /// When the interface will have sent everything that waits.
    busy_until: Instant,
    /// Said `Full` and nobody was told since that there is room.
    waits_for_room: bool,
}

impl Socket {
    fn new(now: Instant) -> Self {
        Self {
            interface: None,
            counters: Counters::default(),
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            busy_until: now,
            waits_for_room: false,
        }
    }

    fn has_room(&self, now: Instant, bytes: usize) -> bool {
        let Some(interface) = self.interface else { return true };
        let waiting =
            bytes_in(self.busy_until.saturating_duration_since(now), interface.bits_per_second);
        waiting == 0 || waiting + bytes <= interface.buffer_bytes
    }

    /// Takes up the interface for `bytes`; says when they leave.
    fn occupy(&mut self, now: Instant, bytes: usize) -> Instant {
        let Some(interface) = self.interface else { return now };
        self.busy_until = self.busy_until.max(now) + time_for(bytes, interface.bits_per_second);
        self.busy_until
    }

    /// When somebody who waits for room shall try again: at half of the buffer, as sockets do.
    fn room_at(&self) -> Option<Instant> {
        let interface = self.interface.filter(|_| self.waits_for_room)?;
        let half = time_for(interface.buffer_bytes / 2, interface.bits_per_second);
        Some(self.busy_until.checked_sub(half).unwrap_or(self.busy_until))
    }

    /// Gives `sink` one batch; says how many datagrams that were.
    pub(super) fn take_batch(&mut self) -> Vec<Datagram> {
        let count = self.inbox.len().min(BATCH);
        let batch: Vec<_> = self.inbox.drain(..count).collect();
        for datagram in &batch {
            let bytes = datagram.data.len();
            self.inbox_bytes -= bytes + HEADER_BYTES;
            self.counters.received += 1;
            self.counters.received_bytes += bytes as u64;
            self.counters.received_empty += u64::from(bytes == 0);
        }
        self.counters.receive_batches += u64::from(count > 0);
        batch
    }
}

fn time_for(bytes: usize, bits_per_second: u64) -> Duration {
    let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(bits_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn bytes_in(time: Duration, bits_per_second: u64) -> usize {
    (time.as_nanos() * u128::from(bits_per_second) / 8 / 1_000_000_000) as usize
}

/// Bits that differ between addresses and are the same in every run (FNV-1a).
fn fingerprint(address: IpAddr) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let start = 0xcbf2_9ce4_8422_2325;
    match address {
        IpAddr::V4(address) => address.octets().iter().fold(start, step),
        IpAddr::V6(address) => address.octets().iter().fold(start, step),
    }
}
