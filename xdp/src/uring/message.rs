//! The socket addresses and control messages of `sendmsg` and `recvmsg` as bytes (ip(7), ipv6(7),
//! udp(7), cmsg(3)): segment size, congestion mark and our own address, both ways. It owns the two
//! layouts and nothing else; safe code throughout, and total: a control message that is cut short,
//! foreign or nonsense is passed over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::{Ecn, area::Arrived, sys::uring::RECEIVE_LAYOUT};

/// Bytes of a `cmsghdr` where a word has 64 bits: length, level, type.
const HEADER_BYTES: usize = 16;
const _: () = assert!(size_of::<libc::cmsghdr>() == HEADER_BYTES, "a word has 64 bits");

/// Segment size 24, mark 24, IPv6 source 40: what a send may need, 88 bytes.
pub(super) const CONTROL_BYTES: usize = 96;

/// Bytes of the larger of the two socket addresses.
pub(super) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// What goes with the bytes of a send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label {
    name: [u8; NAME_BYTES],
    name_bytes: usize,
    control: [u8; CONTROL_BYTES],
    control_bytes: usize,
}

impl Label {
    /// Says where to, from where, with which mark, and as datagrams of which size.
    pub(super) fn new(
        to: SocketAddr,
        from: Option<IpAddr>,
        ecn: Option<Ecn>,
        segment_size: Option<usize>,
    ) -> Self {
        let mut label = Self {
            name: [0; NAME_BYTES],
            name_bytes: 0,
            control: [0; CONTROL_BYTES],
            control_bytes: 0,
        };
        label.name_bytes = write_name(to, &mut label.name);
        if let Some(size) = segment_size.and_then(|size| u16::try_from(size).ok()) {
            label.add(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        if let Some(ecn) = ecn {
            let bits = i32::from(ecn.bits()).to_ne_bytes();
            // An IPv4 packet has a type of service, whatever the family of the socket.
            if to.ip().to_canonical().is_ipv4() {
                label.add(libc::IPPROTO_IP, libc::IP_TOS, &bits);
            } else {
                label.add(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &bits);
            }
        }
        match from {
            Some(IpAddr::V4(ip)) => {
                // in_pktinfo: interface, source, destination.
                let mut source = [0; 12];
                source[4..8].copy_from_slice(&ip.octets());
                label.add(libc::IPPROTO_IP, libc::IP_PKTINFO, &source);
            }
            Some(IpAddr::V6(ip)) => {
                // in6_pktinfo: source, interface.
                let mut source = [0; 20];
                source[..16].copy_from_slice(&ip.octets());
                label.add(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &source);
            }
            None => {}
        }
        label
    }

    /// The socket address.
    pub(super) fn name(&self) -> &[u8] {
        &self.name[..self.name_bytes]
    }

    /// The control messages.
    pub(super) fn control(&self) -> &[u8] {
        &self.control[..self.control_bytes]
    }

    fn add(&mut self, level: i32, kind: i32, value: &[u8]) {
        let space = HEADER_BYTES + value.len().next_multiple_of(8);
        let length = HEADER_BYTES + value.len();
        let Some(place) = self.control.get_mut(self.control_bytes..self.control_bytes + space)
        else {
            unreachable!("CONTROL_BYTES holds all that a send may need");
        };
        place[..8].copy_from_slice(&length.to_ne_bytes());
        place[8..12].copy_from_slice(&level.to_ne_bytes());
        place[12..16].copy_from_slice(&kind.to_ne_bytes());
        place[16..length].copy_from_slice(value);
        self.control_bytes += space;
    }
}

fn write_name(address: SocketAddr, name: &mut [u8; NAME_BYTES]) -> usize {
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            name[4..8].copy_from_slice(&v4.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            name[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            name[8..24].copy_from_slice(&v6.ip().octets());
            name[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            NAME_BYTES
        }
    }
}

fn read_name(name: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match i32::from(u16::from_ne_bytes(*name.first_chunk()?)) {
        libc::AF_INET => {
            let octets: [u8; 4] = *name.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(octets.into(), port).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = *name.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(octets.into(), port, 0, scope).into())
        }
        _ => None,
    }
}

/// Reads a buffer that multishot `recvmsg` filled (`io_uring_prep_recvmsg_multishot(3)`): a header
/// of four words, the sender's address, control messages, the datagrams. Nothing if it is not one.
pub(super) fn read(buffer: &[u8]) -> Option<(Arrived, &[u8])> {
    let word = |at: usize| Some(u32::from_ne_bytes(*buffer.get(at * 4..)?.first_chunk()?) as usize);
    let (name_bytes, control_bytes, payload_bytes) = (word(0)?, word(1)?, word(2)?);
    let layout = RECEIVE_LAYOUT;
    let name = buffer.get(layout.name..)?.get(..name_bytes.min(layout.name_bytes))?;
    let control = buffer.get(layout.control..)?.get(..control_bytes.min(layout.control_bytes))?;
    let payload = buffer.get(layout.payload..)?;
    let payload = payload.get(..payload_bytes).unwrap_or(payload);
    let mut arrived = Arrived { from: read_name(name)?, to: None, ecn: None, datagram_bytes: 0 };
    read_control(control, &mut arrived);
    Some((arrived, payload))
}

fn read_control(mut rest: &[u8], arrived: &mut Arrived) {
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        let length = usize::from_ne_bytes(*length);
        let (Some(level), Some(kind)) =
            (after.first_chunk::<4>(), after.get(4..).and_then(<[u8]>::first_chunk::<4>))
        else {
            return;
        };
        let (level, kind) = (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind));
        let Some(value) = rest.get(HEADER_BYTES..length) else { return };
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = value.first_chunk().map(|size| i32::from_ne_bytes(*size));
                arrived.datagram_bytes =
                    size.and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
            }
            // One byte for IPv4, a word for IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                arrived.ecn = value.first().copied().and_then(Ecn::from_bits);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                let class = value.first_chunk().map(|class| i32::from_ne_bytes(*class));
                arrived.ecn = class.and_then(|class| Ecn::from_bits((class & 0b11) as u8));
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let octets = value.get(8..).and_then(<[u8]>::first_chunk::<4>);
                arrived.to = octets.map(|octets| Ipv4Addr::from(*octets).into()).or(arrived.to);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets = value.first_chunk::<16>();
                arrived.to = octets.map(|octets| Ipv6Addr::from(*octets).into()).or(arrived.to);
            }
            _ => {}
        }
        let Some(next) = rest.get(length.next_multiple_of(8)..) else { return };
        rest = next;
    }
}

/// Reads any bytes as a filled buffer, and what was read again after it was written as for a send.
/// For the fuzzer.
pub fn fuzz_message(input: &[u8]) {
    let Some((arrived, payload)) = read(input) else { return };
    assert!(payload.len() <= input.len());
    let size = Some(arrived.datagram_bytes).filter(|size| *size > 0);
    let label = Label::new(arrived.from, arrived.to, arrived.ecn, size);
    assert_eq!(read_name(label.name()).map(|name| name.port()), Some(arrived.from.port()));
    let mut again = Arrived { to: None, ecn: None, ..arrived };
    read_control(label.control(), &mut again);
    assert_eq!(again.ecn, arrived.ecn);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer as the kernel fills it.
    fn filled(name: &[u8], control: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; RECEIVE_LAYOUT.payload];
        for (at, length) in [name.len(), control.len(), payload.len()].into_iter().enumerate() {
            buffer[at * 4..at * 4 + 4].copy_from_slice(&(length as u32).to_ne_bytes());
        }
        buffer[RECEIVE_LAYOUT.name..][..name.len()].copy_from_slice(name);
        buffer[RECEIVE_LAYOUT.control..][..control.len()].copy_from_slice(control);
        buffer.extend_from_slice(payload);
        buffer
    }

    #[test]
    fn address_and_mark_that_are_written_are_read() {
        for (to, from) in [
            ("192.0.2.1:4433", "198.51.100.7"),
            ("[2001:db8::1]:4433", "2001:db8::2"),
            ("[::ffff:192.0.2.1]:4433", "::ffff:198.51.100.7"),
        ] {
            let to = to.parse().expect("address");
            let from: IpAddr = from.parse().expect("address");
            for ecn in [None, Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)] {
                let label = Label::new(to, Some(from), ecn, Some(1_200));
                let buffer = filled(label.name(), label.control(), b"payload");
                let (arrived, payload) = read(&buffer).expect("it is one");
                assert_eq!((arrived.from, arrived.ecn), (to, ecn));
                assert_eq!(payload, b"payload");
                if from.is_ipv6() {
                    assert_eq!(arrived.to, Some(from));
                }
            }
        }
    }

    #[test]
    fn nonsense_is_passed_over() {
        let label = Label::new("192.0.2.1:1".parse().expect("address"), None, None, None);
        assert_eq!(label.control(), b"");
        let odd_lengths = [0_usize, 1, 15, 16, 17, 200, usize::MAX, usize::MAX - 6];
        for length in odd_lengths {
            let mut control = length.to_ne_bytes().to_vec();
            control.extend_from_slice(&[0; 24]);
            let buffer = filled(label.name(), &control, b"x");
            let (arrived, payload) = read(&buffer).expect("the address is right");
            assert_eq!((arrived.to, arrived.ecn, payload), (None, None, &b"x"[..]), "{length}");
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0; 40]), None);
        assert_eq!(read(&filled(&[9; 28], b"", b"x")), None, "an unknown family");
    }

    #[test]
    fn joined_train_names_the_size_of_its_datagrams() {
        let mut label =
            Label::new("192.0.2.1:1".parse().expect("address"), None, Some(Ecn::Ce), None);
        label.add(libc::SOL_UDP, libc::UDP_GRO, &1_200_i32.to_ne_bytes());
        let buffer = filled(label.name(), label.control(), &[0; 2_500]);
        let (arrived, payload) = read(&buffer).expect("it is one");
        assert_eq!((arrived.datagram_bytes, payload.len()), (1_200, 2_500));
    }
}
