//! Ethernet frames around UDP datagrams, read and written: Ethernet II, at most one 802.1Q tag,
//! IPv4 without options or IPv6 without extension headers. It owns checksums, congestion marks and
//! the reasons to refuse a frame; it keeps nothing and knows no sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Ecn;

/// A link-layer address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it names several stations: the broadcast address does, and every multicast one.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// Addresses and marks of a datagram, as they stand in the headers before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// The station that sent the frame.
    pub source_mac: Mac,
    /// The station it is for.
    pub destination_mac: Mac,
    /// The 802.1Q network, 1 to 4,094; nothing without a tag.
    pub vlan: Option<u16>,
    /// Who sent the datagram.
    pub from: SocketAddr,
    /// Whom it is for.
    pub to: SocketAddr,
    /// Its congestion mark.
    pub ecn: Option<Ecn>,
}

/// Why a frame is no datagram for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It ends before its headers do, or before the length they say.
    Runt,
    /// It is larger than the interface may carry.
    Oversized,
    /// It is for another station, or for several.
    WrongMac,
    /// More than one tag.
    StackedVlan,
    /// Neither IPv4 nor IPv6, or not UDP.
    NotUdp,
    /// A part of a datagram.
    Fragment,
    /// IPv4 options or IPv6 extension headers.
    Options,
    /// Lengths that contradict each other.
    BadLength,
    /// The IPv4 header or the datagram was damaged on its way.
    BadChecksum,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Runt,
        Self::Oversized,
        Self::WrongMac,
        Self::StackedVlan,
        Self::NotUdp,
        Self::Fragment,
        Self::Options,
        Self::BadLength,
        Self::BadChecksum,
    ];

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Runt => "runt",
            Self::Oversized => "oversized",
            Self::WrongMac => "wrong_mac",
            Self::StackedVlan => "stacked_vlan",
            Self::NotUdp => "not_udp",
            Self::Fragment => "fragment",
            Self::Options => "options",
            Self::BadLength => "bad_length",
            Self::BadChecksum => "bad_checksum",
        }
    }
}

/// How many frames were refused, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals([u64; Refusal::ALL.len()]);

impl Refusals {
    /// Counts one more.
    pub fn add(&mut self, refusal: Refusal) {
        if let Some(count) = self.0.get_mut(refusal as usize) {
            *count += 1;
        }
    }

    /// Both together.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
        self
    }

    /// How many for one reason.
    pub fn count(&self, refusal: Refusal) -> u64 {
        self.0.get(refusal as usize).copied().unwrap_or_default()
    }
}

const ETHERNET: usize = 14;
const TAG: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_TAG: u16 = 0x8100;
const TYPE_PROVIDER_TAG: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
/// Extension headers of IPv6 (RFC 8200 section 4): hop-by-hop, routing, fragment, destination.
const IPV6_FRAGMENT: u8 = 44;
const IPV6_OPTIONS: [u8; 3] = [0, 43, 60];
/// Hops that our packets may take; what hosts use by default.
const HOPS: u8 = 64;

/// Bytes of an IP packet that holds a datagram: what an interface limits.
pub(crate) fn packet_bytes(to: IpAddr, datagram: &[u8]) -> usize {
    (if to.is_ipv4() { IPV4 } else { IPV6 }) + UDP + datagram.len()
}

/// Bytes before the datagram.
pub fn header_bytes(to: IpAddr, vlan: Option<u16>) -> usize {
    let ip = if to.is_ipv4() { IPV4 } else { IPV6 };
    ETHERNET + if vlan.is_some() { TAG } else { 0 } + ip + UDP
}

/// Reads a frame that reached `station` over an interface with packets of at most `mtu` bytes.
/// The checksum of the datagram may be the sum of its pseudo-header alone: so it leaves a local
/// sender that relies on hardware, and reaches us over veth and virtio.
pub fn read(frame: &[u8], station: Mac, mtu: usize) -> Result<(Headers, &[u8]), Refusal> {
    let mut rest = frame;
    let destination_mac = Mac(take(&mut rest)?);
    let source_mac = Mac(take(&mut rest)?);
    let mut kind = half(&mut rest)?;
    let mut vlan = None;
    if kind == TYPE_TAG {
        vlan = Some(half(&mut rest)? & 0x0fff).filter(|tag| *tag != 0);
        kind = half(&mut rest)?;
    }
    if matches!(kind, TYPE_TAG | TYPE_PROVIDER_TAG) {
        return Err(Refusal::StackedVlan);
    }
    if rest.len() > mtu {
        return Err(Refusal::Oversized);
    }
    if destination_mac != station {
        return Err(Refusal::WrongMac);
    }
    let packet = match kind {
        TYPE_IPV4 => read_ipv4(rest)?,
        TYPE_IPV6 => read_ipv6(rest)?,
        _ => return Err(Refusal::NotUdp),
    };
    let (from_port, to_port, datagram) = read_udp(&packet)?;
    let headers = Headers {
        source_mac,
        destination_mac,
        vlan,
        from: SocketAddr::new(packet.from, from_port),
        to: SocketAddr::new(packet.to, to_port),
        ecn: Ecn::from_bits(packet.traffic_class),
    };
    Ok((headers, datagram))
}

/// An IP packet that holds UDP and nothing else.
struct Packet<'a> {
    from: IpAddr,
    to: IpAddr,
    traffic_class: u8,
    segment: &'a [u8],
}

fn read_ipv4(packet: &[u8]) -> Result<Packet<'_>, Refusal> {
    let header = packet.first_chunk::<IPV4>().ok_or(Refusal::Runt)?;
    let [version, traffic_class, l0, l1, _, _, f0, f1, _, protocol, _, _, addresses @ ..] = header;
    if version >> 4 != 4 || *protocol != PROTOCOL_UDP {
        return Err(Refusal::NotUdp);
    }
    if *version != 0x45 {
        return Err(Refusal::Options);
    }
    // All bits of the offset, and "more fragments" (RFC 791 section 3.1).
    if u16::from_be_bytes([*f0, *f1]) & 0x3fff != 0 {
        return Err(Refusal::Fragment);
    }
    if sum(header, 0) != 0xffff {
        return Err(Refusal::BadChecksum);
    }
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    // Behind the packet may be padding, to the least size of an Ethernet frame.
    let whole = packet.get(..length).ok_or(Refusal::Runt)?;
    let segment = whole.get(IPV4..).ok_or(Refusal::BadLength)?;
    let mut addresses: &[u8] = addresses;
    let from = Ipv4Addr::from(take::<4>(&mut addresses)?).into();
    let to = Ipv4Addr::from(take::<4>(&mut addresses)?).into();
    Ok(Packet { from, to, traffic_class: *traffic_class, segment })
}

fn read_ipv6(packet: &[u8]) -> Result<Packet<'_>, Refusal> {
    let mut rest = packet;
    let [first, second, _, _, l0, l1, next, _] = take::<8>(&mut rest)?;
    let from = Ipv6Addr::from(take::<16>(&mut rest)?).into();
    let to = Ipv6Addr::from(take::<16>(&mut rest)?).into();
    if first >> 4 != 6 {
        return Err(Refusal::NotUdp);
    }
    match next {
        PROTOCOL_UDP => {}
        IPV6_FRAGMENT => return Err(Refusal::Fragment),
        next if IPV6_OPTIONS.contains(&next) => return Err(Refusal::Options),
        _ => return Err(Refusal::NotUdp),
    }
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let segment = rest.get(..length).ok_or(Refusal::Runt)?;
    Ok(Packet { from, to, traffic_class: first << 4 | second >> 4, segment })
}

/// The ports and the bytes of a datagram.
fn read_udp<'a>(packet: &Packet<'a>) -> Result<(u16, u16, &'a [u8]), Refusal> {
    let mut rest = packet.segment;
    let (from, to) = (half(&mut rest)?, half(&mut rest)?);
    let (length, checksum) = (half(&mut rest)?, half(&mut rest)?);
    // The UDP length may not leave a rest behind: nobody sends that, and it could hide bytes.
    if usize::from(length) != packet.segment.len() {
        return Err(Refusal::BadLength);
    }
    let pseudo = pseudo_header(packet.from, packet.to, length);
    // No checksum is fine over IPv4 and forbidden over IPv6 (RFC 8200 section 8.1).
    let intact = match checksum {
        0 => packet.to.is_ipv4(),
        _ => {
            sum(packet.segment, pseudo) == 0xffff
                || u64::from(checksum) == u64::from(folded(pseudo))
        }
    };
    if intact { Ok((from, to, rest)) } else { Err(Refusal::BadChecksum) }
}

/// Writes the frame of `datagram` to the beginning of `frame` and returns its size; nothing if it
/// does not fit there or into an IP packet, or if the addresses are not of one family.
pub fn write(frame: &mut [u8], headers: &Headers, datagram: &[u8]) -> Option<usize> {
    let length = u16::try_from(UDP + datagram.len()).ok()?;
    let (from, to) = (headers.from.ip(), headers.to.ip());
    if from.is_ipv4() != to.is_ipv4() {
        return None;
    }
    let size = header_bytes(to, headers.vlan) + datagram.len();
    let mut rest = frame.get_mut(..size)?;
    rest = put(rest, headers.destination_mac.0);
    rest = put(rest, headers.source_mac.0);
    if let Some(vlan) = headers.vlan {
        rest = put(rest, TYPE_TAG.to_be_bytes());
        rest = put(rest, (vlan & 0x0fff).to_be_bytes());
    }
    let ecn = headers.ecn.map_or(0, Ecn::bits);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            rest = put(rest, TYPE_IPV4.to_be_bytes());
            rest = put(rest, ipv4_header(from, to, ecn, length.checked_add(IPV4 as u16)?));
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            rest = put(rest, TYPE_IPV6.to_be_bytes());
            rest = put(rest, [0x60, ecn << 4, 0, 0]);
            rest = put(rest, length.to_be_bytes());
            rest = put(rest, [PROTOCOL_UDP, HOPS]);
            rest = put(rest, from.octets());
            rest = put(rest, to.octets());
        }
        _ => return None,
    }
    let ports = u64::from(headers.from.port()) + u64::from(headers.to.port());
    let before = pseudo_header(from, to, length) + ports + u64::from(length);
    let checksum = match !sum(datagram, before) {
        // Zero would mean that there is none (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    };
    rest = put(rest, headers.from.port().to_be_bytes());
    rest = put(rest, headers.to.port().to_be_bytes());
    rest = put(rest, length.to_be_bytes());
    rest = put(rest, checksum.to_be_bytes());
    rest.copy_from_slice(datagram);
    Some(size)
}

/// A header with "don't fragment", as path MTU discovery wants (RFC 8899 section 3), and so without
/// an identification (RFC 6864 section 4.1).
fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, ecn: u8, length: u16) -> [u8; IPV4] {
    let [l0, l1] = length.to_be_bytes();
    let mut header = [0; IPV4];
    let rest = put(&mut header, [0x45, ecn, l0, l1, 0, 0, 0x40, 0, HOPS, PROTOCOL_UDP]);
    let checksum_at = rest.len();
    let rest = put(rest, [0, 0]);
    let rest = put(rest, from.octets());
    put(rest, to.octets());
    let checksum = !sum(&header, 0);
    put(&mut header[IPV4 - checksum_at..], checksum.to_be_bytes());
    header
}

/// The sum of what the checksum covers beside the UDP segment (RFC 768, RFC 8200 section 8.1).
fn pseudo_header(from: IpAddr, to: IpAddr, length: u16) -> u64 {
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => partial(&from.octets()) + partial(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => partial(&from.octets()) + partial(&to.octets()),
        _ => 0,
    };
    addresses + u64::from(PROTOCOL_UDP) + u64::from(length)
}

/// The one's complement sum of 16-bit words (RFC 1071), added to `before`.
fn sum(bytes: &[u8], before: u64) -> u16 {
    folded(before + partial(bytes))
}

/// The sum, not folded: 32 bits at a time, which fold to the same. 64 KiB of them fit 64 bits by far.
fn partial(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    whole + u64::from(u32::from_be_bytes(last))
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Refusal> {
    let (taken, after) = rest.split_first_chunk().ok_or(Refusal::Runt)?;
    *rest = after;
    Ok(*taken)
}

fn half(rest: &mut &[u8]) -> Result<u16, Refusal> {
    take(rest).map(u16::from_be_bytes)
}

/// Writes `bytes` and returns what is behind them. The caller has sized `rest` for all headers.
fn put<const N: usize>(rest: &mut [u8], bytes: [u8; N]) -> &mut [u8] {
    let (to, after) = rest.split_first_chunk_mut().expect("room for all headers");
    *to = bytes;
    after
}

/// Reads any bytes as a frame; what is a datagram must read the same after it was written again.
/// For the fuzzer.
pub fn fuzz_frame(input: &[u8]) {
    let Some((mac, _)) = input.split_first_chunk::<6>() else { return };
    let station = Mac(*mac);
    let Ok((headers, datagram)) = read(input, station, 1_500) else { return };
    let mut again = [0; 2_048];
    let size = write(&mut again, &headers, datagram).expect("what was read can be written");
    let written = again.get(..size).expect("a size within the buffer");
    assert_eq!(read(written, station, 1_500), Ok((headers, datagram)));
}

#[cfg(test)]
mod tests;
