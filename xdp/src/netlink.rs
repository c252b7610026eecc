//! What the kernel knows of the network, asked over a netlink socket (rtnetlink(7)): interfaces and
//! their addresses, routes, neighbours. It owns the messages; it keeps nothing of the answers.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::frame::Mac;

/// A socket to ask by. It speaks of the network namespace it was made in.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    /// Bytes of the largest packet.
    pub(crate) mtu: usize,
    /// Receive queues it could use.
    pub(crate) queues: u32,
    pub(crate) is_running: bool,
    pub(crate) is_loopback: bool,
    /// The network, if it is an 802.1Q interface on `below`.
    pub(crate) vlan: Option<u16>,
    pub(crate) below: Option<u32>,
    /// Whether an XDP program is on it.
    pub(crate) has_program: bool,
}

/// Where packets to an address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// Index of the interface.
    pub(crate) interface: u32,
    /// The next host, if it is not the address itself.
    pub(crate) gateway: Option<IpAddr>,
    /// The address to send from.
    pub(crate) source: Option<IpAddr>,
    /// Bytes of the largest packet, where that is less than the interface takes.
    pub(crate) mtu: Option<usize>,
}

/// How long the kernel may take to answer; it does so within the call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one read: the kernel puts no more than 32 KiB into a part of a dump.
const BUFFER_BYTES: usize = 64 * 1024;
/// Parts of a dump that are read at most: 64 MiB are a million neighbours.
const PARTS_MAX: usize = 1_024;

const NETLINK_ROUTE: i32 = 0;
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Neighbours whose link-layer address can be used: reachable, stale, delay, probe, permanent.
const NUD_USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

impl Netlink {
    pub(crate) fn new() -> io::Result<Self> {
        let domain = Domain::from(libc::AF_NETLINK);
        let socket =
            Socket::new(domain, Type::from(libc::SOCK_RAW), Some(Protocol::from(NETLINK_ROUTE)))?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// All interfaces.
    pub(crate) fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let mut found = Vec::new();
        self.ask(RTM_GETLINK, DUMP, &[0; 16], &mut |kind, body| {
            found.extend((kind == RTM_NEWLINK).then(|| interface(body)).flatten());
        })?;
        Ok(found)
    }

    /// One interface; nothing if it is gone.
    pub(crate) fn interface(&mut self, index: u32) -> io::Result<Option<Interface>> {
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut found = None;
        let asked = self.ask(RTM_GETLINK, 0, &body, &mut |kind, body| {
            found = (kind == RTM_NEWLINK).then(|| interface(body)).flatten();
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// Addresses of this host, each with its interface.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        let mut found = Vec::new();
        self.ask(RTM_GETADDR, DUMP, &[AF_UNSPEC; 8], &mut |kind, body| {
            found.extend((kind == RTM_NEWADDR).then(|| address(body)).flatten());
        })?;
        Ok(found)
    }

    /// The link-layer address of `of` on an interface, if the kernel knows it.
    pub(crate) fn neighbour(&mut self, interface: u32, of: IpAddr) -> io::Result<Option<Mac>> {
        const NDA_DST: u16 = 1;
        let mut body = [0; 12];
        body[0] = family(of);
        body[4..8].copy_from_slice(&interface.to_ne_bytes());
        let body = [&body[..], &attribute(NDA_DST, of)].concat();
        let mut found = None;
        let asked = self.ask(RTM_GETNEIGH, 0, &body, &mut |kind, body| {
            found = (kind == RTM_NEWNEIGH).then(|| neighbour(body)).flatten();
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// The way to `to`, from `from` if that matters; nothing if there is none.
    pub(crate) fn route(&mut self, to: IpAddr, from: Option<IpAddr>) -> io::Result<Option<Route>> {
        const RTA_DST: u16 = 1;
        const RTA_SRC: u16 = 2;
        let bits = if to.is_ipv4() { 32 } else { 128 };
        let from = from.filter(|from| family(*from) == family(to));
        let mut body = vec![family(to), bits, from.map_or(0, |_| bits), 0, 0, 0, 0, 0, 0, 0, 0, 0];
        body.extend(attribute(RTA_DST, to));
        body.extend(from.map(|from| attribute(RTA_SRC, from)).unwrap_or_default());
        let mut found = None;
        let asked = self.ask(RTM_GETROUTE, 0, &body, &mut |kind, body| {
            found = (kind == RTM_NEWROUTE).then(|| route(body)).flatten();
        });
        match asked.map_err(|error| (error.raw_os_error(), error)) {
            Ok(()) => Ok(found),
            Err((Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL), _)) => Ok(None),
            Err((_, error)) => Err(error),
        }
    }

    /// Sends a request and gives `sink` the messages of its answer.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        sink: &mut dyn FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        self.socket.send(&message)?;
        for _ in 0..PARTS_MAX {
            let size = (&self.socket).read(&mut self.buffer)?;
            let part = self.buffer.get(..size).unwrap_or_default();
            if read_part(part, self.sequence, flags & DUMP != 0, sink)? {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink answer without end"))
    }
}

/// Reads a part of the answer to request `sequence`; says whether it was the last.
fn read_part(
    mut part: &[u8],
    sequence: u32,
    is_dump: bool,
    sink: &mut dyn FnMut(u16, &[u8]),
) -> io::Result<bool> {
    while let Some(header) = part.first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let kind = u16::from_ne_bytes([k0, k1]);
        let Some(body) = part.get(HEADER..length) else { break };
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
        // What is left of an answer that somebody gave up waiting for.
        if u32::from_ne_bytes([s0, s1, s2, s3]) != sequence {
            continue;
        }
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            kind => {
                sink(kind, body);
                if !is_dump {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// The attributes in `bytes`: kind without flags, and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & 0x3fff, value))
    })
}

fn attribute(kind: u16, ip: IpAddr) -> Vec<u8> {
    let value = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|ip| Ipv4Addr::from(*ip).into()),
        16 => bytes.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip).into()),
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.first_chunk().filter(|_| bytes.len() == 6).map(|mac| Mac(*mac))
}

/// `struct ifinfomsg` and its attributes (`linux/if_link.h`).
fn interface(body: &[u8]) -> Option<Interface> {
    const IFF_LOOPBACK: u32 = 8;
    const IFF_RUNNING: u32 = 0x40;
    let index = word(body.get(4..)?)?;
    let flags = word(body.get(8..)?)?;
    let mut found = Interface {
        index,
        is_running: flags & IFF_RUNNING != 0,
        is_loopback: flags & IFF_LOOPBACK != 0,
        queues: 1,
        ..Interface::default()
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            1 => found.mac = mac(value),
            3 => found.name = String::from_utf8_lossy(value).trim_end_matches('\0').into(),
            4 => found.mtu = word(value)? as usize,
            5 => found.below = word(value),
            18 => found.vlan = vlan(value),
            32 => found.queues = word(value)?,
            43 => found.has_program = has_program(value),
            _ => {}
        }
    }
    Some(found)
}

/// The network in `IFLA_LINKINFO`, if its kind is `vlan`.
fn vlan(bytes: &[u8]) -> Option<u16> {
    let is_vlan = attributes(bytes).any(|(kind, value)| kind == 1 && value == b"vlan\0");
    let (_, details) = attributes(bytes).find(|(kind, _)| *kind == 2).filter(|_| is_vlan)?;
    let (_, id) = attributes(details).find(|(kind, _)| *kind == 1)?;
    id.first_chunk().map(|id| u16::from_ne_bytes(*id))
}

/// Whether `IFLA_XDP` tells of a program in any mode.
fn has_program(bytes: &[u8]) -> bool {
    const IFLA_XDP_ATTACHED: u16 = 2;
    attributes(bytes).any(|(kind, mode)| kind == IFLA_XDP_ATTACHED && mode.first() != Some(&0))
}

/// `struct ifaddrmsg` and its attributes. On a point-to-point link the local address is the second.
fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let index = word(body.get(4..)?)?;
    let of = |wanted| attributes(body.get(8..)?).find(|(kind, _)| *kind == wanted);
    let (_, value) = of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?;
    ip(value).map(|ip| (index, ip))
}

/// `struct ndmsg` and its attributes.
fn neighbour(body: &[u8]) -> Option<Mac> {
    const NDA_LLADDR: u16 = 2;
    let state = u16::from_ne_bytes(*body.get(8..)?.first_chunk()?);
    if state & NUD_USABLE == 0 {
        return None;
    }
    let (_, value) = attributes(body.get(12..)?).find(|(kind, _)| *kind == NDA_LLADDR)?;
    mac(value)
}

/// `struct rtmsg` and its attributes; only routes that lead to a host.
fn route(body: &[u8]) -> Option<Route> {
    const RTN_UNICAST: u8 = 1;
    const RTAX_MTU: u16 = 2;
    if *body.get(7)? != RTN_UNICAST {
        return None;
    }
    let mut found = Route { interface: 0, gateway: None, source: None, mtu: None };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            4 => found.interface = word(value)?,
            5 => found.gateway = ip(value),
            7 => found.source = ip(value),
            // A gateway of the other family: two bytes of family, then the address.
            18 => found.gateway = value.get(2..).and_then(ip),
            8 => {
                let mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU);
                found.mtu = mtu.and_then(|(_, mtu)| word(mtu)).map(|mtu| mtu as usize);
            }
            _ => {}
        }
    }
    (found.interface != 0).then_some(found)
}

/// Reads one input as parts of an answer and as the body of each message. For the fuzzer: the kernel is no
/// stranger, but what it says of neighbours and routes comes from strangers. Panics where an answer
/// says more than its bytes.
pub fn fuzz_netlink(input: &[u8]) {
    let Some((&first, part)) = input.split_first() else { return };
    // The number that the first message answers, so that every other input is one for us.
    let sequence =
        part.get(8..).and_then(word).unwrap_or(0).wrapping_add(u32::from(first >> 1 & 1));
    let (mut messages, mut bytes) = (0, 0);
    let last = read_part(part, sequence, first & 1 == 1, &mut |kind, body| {
        messages += 1;
        bytes += HEADER + body.len();
        match kind {
            RTM_NEWLINK => drop(interface(body)),
            RTM_NEWADDR => drop(address(body)),
            RTM_NEWNEIGH => drop(neighbour(body)),
            RTM_NEWROUTE => drop(route(body)),
            _ => {}
        }
    });
    assert!(bytes <= part.len(), "{messages} messages of {bytes} bytes");
    if first & 1 == 0 {
        assert!(messages <= 1 && (messages == 0 || last.is_ok_and(|last| last)));
    }
    if let Some(found) = interface(part) {
        assert!(
            found.name.len() <= 3 * part.len(),
            "each byte is at most one replacement character"
        );
        assert!(found.below.is_none() || part.len() >= 16 + 8);
    }
    if let Some(found) = route(part) {
        assert_ne!(found.interface, 0, "a route that leads nowhere");
    }
    let _ = (address(part), neighbour(part));
    let values: usize = attributes(part).map(|(_, value)| 4 + value.len()).sum();
    assert!(values <= part.len(), "attributes of {values} bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_with_its_addresses_and_leads_nowhere_else() {
        let mut netlink = Netlink::new().expect("netlink needs no privilege");
        let all = netlink.interfaces().expect("an answer");
        let loopback = all.iter().find(|it| it.is_loopback).expect("every host has one");
        assert_eq!(loopback.name, "lo");
        assert_eq!(netlink.interface(loopback.index).expect("an answer").as_ref(), Some(loopback));
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert!(netlink.addresses().expect("an answer").contains(&(loopback.index, local)));
        // A route to the host itself is no way to another.
        assert_eq!(netlink.route(local, None).expect("an answer"), None);
        assert_eq!(netlink.neighbour(loopback.index, local).expect("an answer"), None);
    }

    #[test]
    fn interface_that_is_gone_is_nothing_and_no_error() {
        let mut netlink = Netlink::new().expect("netlink needs no privilege");
        assert_eq!(netlink.interface(999_999).expect("an answer"), None);
    }

    #[test]
    fn cut_and_strange_answers_are_read_without_harm() {
        let body: Vec<u8> = (0..=255).collect();
        for end in 0..body.len() {
            let body = &body[..end];
            let _ = (interface(body), address(body), neighbour(body), route(body));
            let last = read_part(body, 0, true, &mut |_, _| {});
            assert!(!last.expect("no error in it"));
            fuzz_netlink(body);
        }
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0, "shorter than its own header");
    }

    #[test]
    fn error_whose_code_has_no_opposite_is_an_error() {
        let mut part = 20_u32.to_ne_bytes().to_vec();
        part.extend(NLMSG_ERROR.to_ne_bytes());
        part.extend([0; 10]);
        part.extend(i32::MIN.to_ne_bytes());
        read_part(&part, 0, false, &mut |_, _| {}).expect_err("the kernel says no");
    }
}
