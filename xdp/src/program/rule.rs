//! What the program does with a packet, in plain Rust: the rule that the assembled program is
//! compared with. It also owns the names of what the program counts and the shape of its slots.

use std::net::IpAddr;

use super::mapped;
use crate::steer::{self, Key};

/// Where datagrams are taken: an address of ours, a UDP port and the network it is reached by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The address, exactly: there is no wildcard.
    pub ip: IpAddr,
    /// The UDP port.
    pub port: u16,
    /// The 802.1Q network, 1 to 4,094; nothing for frames without a tag or with tag 0.
    pub vlan: Option<u16>,
}

/// Bytes of a place as the program looks it up: address, port and network.
pub(super) const PLACE_BYTES: usize = 20;

impl Place {
    /// The address as IPv6, the port in network order, the network in the host's.
    pub(super) fn key(self) -> [u8; PLACE_BYTES] {
        let mut key = [0; PLACE_BYTES];
        key[..16].copy_from_slice(&mapped(self.ip));
        key[16..18].copy_from_slice(&self.port.to_be_bytes());
        key[18..].copy_from_slice(&self.vlan.unwrap_or(0).to_ne_bytes());
        key
    }
}

/// How slots are laid out: `shards` of them for each receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Receive queues of the interface.
    pub queues: u32,
    /// Bytes of the largest frame that is taken, its Ethernet header included. Larger ones pass:
    /// with generic XDP the kernel may have joined datagrams before it shows them.
    pub frame_bytes_max: u16,
    /// Shards that share each queue, and what tells them apart. Nothing if each queue has one
    /// socket.
    pub shards: Option<(u16, Key)>,
}

impl Shape {
    /// One socket for each queue.
    pub fn new(queues: u32, frame_bytes_max: u16) -> Self {
        Self { queues, frame_bytes_max, shards: None }
    }

    pub(super) fn per_queue(self) -> u32 {
        self.shards.map_or(1, |(n, _)| u32::from(n))
    }

    pub(super) fn slots(self) -> u32 {
        self.queues.max(1) * self.per_queue()
    }

    pub(super) fn slot(self, queue: u32, shard: u16) -> Option<u32> {
        let within = queue < self.queues && u32::from(shard) < self.per_queue();
        within.then(|| queue * self.per_queue() + u32::from(shard))
    }
}

/// How many packets that may begin a connection are let through in a window of 2^30 ns (1.07 s).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// From one IPv4 address or one IPv6 /64. 512 are 100 handshakes of five packets: a company
    /// behind one address may all join at once.
    pub source: u32,
    /// On one processor, whatever the sources. 32,768 let 10,000 handshakes begin each second,
    /// which is more than a core completes.
    pub total: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { source: 512, total: 32_768 }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Tally {
    /// Given to a socket.
    Taken = 0,
    /// Passed: the slot of its queue is empty.
    EmptySlot = 1,
    /// Passed: not for us, or not UDP.
    NotOurs = 2,
    /// Passed: a fragment of a UDP datagram.
    Fragment = 3,
    /// Passed: UDP behind IPv4 options, or anything behind IPv6 extension headers.
    Options = 4,
    /// Passed: more than one tag.
    StackedVlan = 5,
    /// Passed: larger than a packet of the interface.
    Oversized = 6,
    /// Dropped: its source began too many connections.
    ShedSource = 7,
    /// Dropped: all sources together began too many.
    ShedTotal = 8,
}

impl Tally {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Taken,
        Self::EmptySlot,
        Self::NotOurs,
        Self::Fragment,
        Self::Options,
        Self::StackedVlan,
        Self::Oversized,
        Self::ShedSource,
        Self::ShedTotal,
    ];

    pub(super) const COUNT: u32 = Self::ALL.len() as u32;

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::EmptySlot => "empty_slot",
            Self::NotOurs => "not_ours",
            Self::Fragment => "fragment",
            Self::Options => "options",
            Self::StackedVlan => "stacked_vlan",
            Self::Oversized => "oversized",
            Self::ShedSource => "shed_source",
            Self::ShedTotal => "shed_total",
        }
    }
}

/// A packet that the program wants to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ours {
    pub(super) place: Place,
    /// The IPv4 address or the IPv6 /64.
    pub(super) source: IpAddr,
    pub(super) shard: u16,
    /// Whether it may begin a connection, and counts against the budget.
    pub(super) begins: bool,
}

/// Looks at a packet as the program does: ours, if the place is open, or why not.
pub(super) fn look(packet: &[u8], shape: Shape) -> Result<Ours, Tally> {
    /// Ethernet, IPv4 and UDP headers.
    const LEAST: usize = 14 + 20 + 8;
    if packet.len() > usize::from(shape.frame_bytes_max) {
        return Err(Tally::Oversized);
    }
    let mut kind = half(packet, 12).filter(|_| packet.len() >= LEAST).ok_or(Tally::NotOurs)?;
    let (mut at, mut vlan) = (14, None);
    if kind == 0x8100 {
        at = 18;
        if packet.len() < at + 28 {
            return Err(Tally::NotOurs);
        }
        vlan = half(packet, 14).map(|tag| tag & 0x0fff).filter(|tag| *tag != 0);
        kind = half(packet, 16).ok_or(Tally::NotOurs)?;
    }
    let byte = |offset: usize| packet.get(at + offset).copied();
    let (ip, source, udp) = match kind {
        0x8100 | 0x88a8 => return Err(Tally::StackedVlan),
        0x0800 => {
            if byte(9) != Some(17) {
                return Err(Tally::NotOurs);
            }
            if byte(0) != Some(0x45) {
                return Err(Tally::Options);
            }
            if half(packet, at + 6).is_some_and(|fragment| fragment & 0x3fff != 0) {
                return Err(Tally::Fragment);
            }
            let address = |offset| packet.get(at + offset..)?.first_chunk::<4>().copied();
            let (source, to) = address(12).zip(address(16)).ok_or(Tally::NotOurs)?;
            (IpAddr::from(to), IpAddr::from(source), at + 20)
        }
        0x86dd => {
            if packet.len() < at + 48 {
                return Err(Tally::NotOurs);
            }
            match byte(6) {
                Some(17) => {}
                Some(44) => return Err(Tally::Fragment),
                Some(0 | 43 | 60) => return Err(Tally::Options),
                _ => return Err(Tally::NotOurs),
            }
            let address = |offset| packet.get(at + offset..)?.first_chunk::<16>().copied();
            let (mut source, to) = address(8).zip(address(24)).ok_or(Tally::NotOurs)?;
            source[8..].fill(0);
            (IpAddr::from(to), IpAddr::from(source), at + 40)
        }
        _ => return Err(Tally::NotOurs),
    };
    let port = half(packet, udp + 2).ok_or(Tally::NotOurs)?;
    let datagram = packet.get(udp + 8..).unwrap_or_default();
    let shard = shape.shards.and_then(|(n, key)| steer::shard_of(datagram, n, key)).unwrap_or(0);
    Ok(Ours { place: Place { ip, port, vlan }, source, shard, begins: begins(datagram) })
}

/// Whether a datagram may begin a connection: a long header that is not one of version 1 of a type
/// other than Initial (RFC 9000 section 17.2). Unknown versions count, because they are answered.
fn begins(datagram: &[u8]) -> bool {
    let Some([flags, version @ ..]) = datagram.first_chunk::<5>() else { return false };
    flags & steer::LONG_HEADER != 0 && (*version != [0, 0, 0, 1] || flags & 0x30 == 0)
}

fn half(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
