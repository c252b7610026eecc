//! What a serving process may ask its keeper for, and what it is told: a closed list, each entry of one
//! length. It owns the bytes; what becomes of a request is `serve`'s matter. The descriptors that belong to
//! a message travel beside it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{steer::Key, sys::passing::DESCRIPTORS_MAX};

/// Addresses that may be bound: listeners of a node, twice over.
pub(super) const BINDS_MAX: usize = 16;

/// Bytes of an interface's name, without the zero behind it (`IFNAMSIZ`).
const INTERFACE_BYTES_MAX: usize = 15;

/// Bytes of an explanation.
pub(super) const TEXT_BYTES_MAX: usize = 1_024;

/// Bytes of the longest message: an answer with a text; terms are shorter (18 x 17 + 16).
pub(super) const MESSAGE_BYTES_MAX: usize = 8 + TEXT_BYTES_MAX;

/// What a keeper will do for its peer, said once, before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Where the XDP program may take datagrams to the `AF_XDP` sockets, and the interface, if one is
    /// named. Port 0 stands for any.
    pub frames: Option<(SocketAddr, Option<String>)>,
    /// Addresses with ports that need a privilege.
    pub binds: Vec<SocketAddr>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// The program on the interface, for datagrams to this port: the link and the counters.
    Gate { port: u16 },
    /// An `AF_XDP` socket.
    Socket,
    /// The same, with the memory that comes along for its umem.
    Umem,
    /// The socket that comes along into the slot of a queue.
    Put { queue: u32 },
    /// An address for the socket that comes along.
    Bind { address: SocketAddr },
    /// Larger buffers for the socket that comes along than `net.core.rmem_max` and `wmem_max` allow.
    Widen,
    /// The selector for the group of sockets that comes along.
    Steer { key: Key },
}

impl Request {
    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Self::Gate { port } => [&[1][..], &port.to_le_bytes()].concat(),
            Self::Socket => vec![2],
            Self::Put { queue } => [&[3][..], &queue.to_le_bytes()].concat(),
            Self::Bind { address } => [&[4][..], &socket_address(address)].concat(),
            Self::Widen => vec![5],
            Self::Steer { key } => [&[6][..], &key.bytes()].concat(),
            Self::Umem => vec![7],
        }
    }

    /// Nothing if it is none of the list.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        Some(match (kind, rest) {
            (1, rest) => Self::Gate { port: u16::from_le_bytes(rest.try_into().ok()?) },
            (2, []) => Self::Socket,
            (3, rest) => Self::Put { queue: u32::from_le_bytes(rest.try_into().ok()?) },
            (4, rest) => Self::Bind { address: read_address(rest.try_into().ok()?) },
            (5, []) => Self::Widen,
            (6, rest) => Self::Steer { key: Key::from_bytes(rest.try_into().ok()?) },
            (7, []) => Self::Umem,
            _ => return None,
        })
    }

    /// How many descriptors come along, at least and at most.
    pub(super) fn descriptors(self) -> (usize, usize) {
        match self {
            Self::Gate { .. } | Self::Socket => (0, 0),
            Self::Put { .. } | Self::Bind { .. } | Self::Umem | Self::Widen => (1, 1),
            Self::Steer { .. } => (2, DESCRIPTORS_MAX),
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was done. The number is the interface's index where a gate was asked for.
    Done(u32),
    /// It was not: what the system said, and an explanation.
    Refused { errno: i32, text: String },
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Done(number) => [&[0; 4][..], &number.to_le_bytes()].concat(),
            Self::Refused { errno, text } => {
                let text = text.as_bytes();
                let text = text.get(..TEXT_BYTES_MAX).unwrap_or(text);
                [&[1, 0, 0, 0][..], &errno.to_le_bytes(), text].concat()
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first_chunk()?;
        let (number, text) = rest.split_first_chunk()?;
        match (kind, text) {
            ([0, 0, 0, 0], []) => Some(Self::Done(u32::from_le_bytes(*number))),
            ([1, 0, 0, 0], text) => {
                let text = String::from_utf8_lossy(text).into_owned();
                Some(Self::Refused { errno: i32::from_le_bytes(*number), text })
            }
            _ => None,
        }
    }
}

impl Terms {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.frames.is_some())];
        if let Some((listen, interface)) = &self.frames {
            let name = interface.as_deref().unwrap_or_default().as_bytes();
            let name = name.get(..INTERFACE_BYTES_MAX).unwrap_or(name);
            bytes.extend(socket_address(*listen));
            bytes.push(name.len() as u8);
            bytes.extend(name);
        }
        for address in self.binds.iter().take(BINDS_MAX) {
            bytes.extend(socket_address(*address));
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (has_frames, mut rest) = bytes.split_first()?;
        let mut frames = None;
        match has_frames {
            0 => {}
            1 => {
                let (listen, after) = rest.split_first_chunk()?;
                let (length, after) = after.split_first()?;
                let (name, after) = after.split_at_checked(usize::from(*length))?;
                if name.len() > INTERFACE_BYTES_MAX {
                    return None;
                }
                let name = String::from_utf8(name.to_vec()).ok()?;
                frames = Some((read_address(*listen), Some(name).filter(|name| !name.is_empty())));
                rest = after;
            }
            _ => return None,
        }
        let (binds, odd) = rest.as_chunks::<ADDRESS_BYTES>();
        if !odd.is_empty() || binds.len() > BINDS_MAX {
            return None;
        }
        Some(Self { frames, binds: binds.iter().copied().map(read_address).collect() })
    }
}

/// Family (4 or 6), sixteen bytes of address, two of port.
const ADDRESS_BYTES: usize = 19;

fn socket_address(address: SocketAddr) -> [u8; ADDRESS_BYTES] {
    let mut bytes = [0; ADDRESS_BYTES];
    let (family, rest) = bytes.split_first_mut().expect("not empty");
    let (ip, port) = rest.split_at_mut(16);
    *family = if address.is_ipv4() { 4 } else { 6 };
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    ip.copy_from_slice(&octets);
    port.copy_from_slice(&address.port().to_le_bytes());
    bytes
}

/// What is neither family is IPv6, as the kernel would find out.
fn read_address(bytes: [u8; ADDRESS_BYTES]) -> SocketAddr {
    let [family, ip @ .., low, high] = bytes;
    let ip = Ipv6Addr::from(ip);
    let port = u16::from_le_bytes([low, high]);
    match ip.to_ipv4_mapped().filter(|_| family == 4) {
        Some(ip) => SocketAddr::new(ip.into(), port),
        None => SocketAddr::new(ip.into(), port),
    }
}

/// Reads bytes as each kind of message, which must come back as they were. For the fuzzer; panics
/// where something differs.
pub fn fuzz_keeper(input: &[u8]) {
    if let Some(request) = Request::decode(input) {
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let (least, most) = request.descriptors();
        assert!(least <= most && most <= DESCRIPTORS_MAX);
    }
    if let Some(terms) = Terms::decode(input) {
        assert!(terms.encode().len() <= MESSAGE_BYTES_MAX);
        assert_eq!(Terms::decode(&terms.encode()), Some(terms));
    }
    if let Some(answer) = Answer::decode(input) {
        let again = Answer::decode(&answer.encode());
        assert!(again.is_some() && answer.encode().len() <= MESSAGE_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn requests_come_back_and_nothing_else_is_one() {
        let requests = [
            Request::Gate { port: 443 },
            Request::Socket,
            Request::Put { queue: 63 },
            Request::Bind { address: address("0.0.0.0:443") },
            Request::Bind { address: address("[2001:db8::1]:1") },
            Request::Umem,
            Request::Widen,
            Request::Steer { key: Key::from_bytes([0xbc, 0x9b, 0x79]) },
        ];
        for request in requests {
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Some(request));
            assert_eq!(Request::decode(&[&bytes[..], &[0]].concat()), None, "longer {request:?}");
            assert_eq!(Request::decode(&bytes[..bytes.len() - 1]), None, "shorter {request:?}");
            fuzz_keeper(&bytes);
        }
        for bytes in [&[][..], &[0], &[8], &[2, 2], &[255; 20]] {
            assert_eq!(Request::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn terms_and_answers_come_back() {
        let nothing = Terms { frames: None, binds: vec![] };
        let all = Terms {
            frames: Some((address("[::]:4443"), Some("enp1s0f0np0".to_owned()))),
            binds: vec![address("0.0.0.0:443"); BINDS_MAX],
        };
        let any = Terms { frames: Some((address("10.0.0.1:0"), None)), binds: vec![] };
        for terms in [nothing, all, any] {
            assert_eq!(Terms::decode(&terms.encode()), Some(terms.clone()));
            fuzz_keeper(&terms.encode());
        }
        let refused = Answer::Refused { errno: 1, text: "no".to_owned() };
        for answer in [Answer::Done(7), refused] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer.clone()));
        }
        let long = Answer::Refused { errno: 1, text: "x".repeat(9_999) };
        assert_eq!(long.encode().len(), MESSAGE_BYTES_MAX);
    }
}
