//! How a destination is reached over the interface: which station, which network, from which
//! address, how large. It owns what was learnt and for how long that is believed; what is not known
//! goes through the kernel's socket, which makes the kernel find out.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::gate::Gate;
use crate::{frame::Mac, netlink::Netlink};

/// Destinations remembered: 65,536 x about 100 bytes = 6.5 MB. When there are more, all are looked
/// up again.
const PATHS_MAX: usize = 65_536;
/// Senders remembered that have no path yet.
const LEARNT_MAX: usize = 4_096;

/// How long a path is believed. The kernel follows neighbours that move, and path MTU by ICMP; its
/// word is heard within this time.
const PATH_TTL: Duration = Duration::from_secs(5);
/// How long a destination that is not reached here, or not yet, goes through the kernel.
const DETOUR_TTL: Duration = Duration::from_millis(200);

/// A way over the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) mac: Mac,
    pub(super) vlan: Option<u16>,
    /// The address to send from, unless the datagram says.
    pub(super) source: Option<IpAddr>,
    /// Bytes of the largest IP packet.
    pub(super) mtu: usize,
}

/// All ways known.
#[derive(Debug)]
pub(super) struct Paths {
    netlink: Netlink,
    /// By destination and source address; nothing for those that go through the kernel.
    known: HashMap<(IpAddr, Option<IpAddr>), (Option<Path>, Instant)>,
    /// Stations that frames of a sender came from.
    learnt: HashMap<IpAddr, (Mac, Option<u16>)>,
}

impl Paths {
    pub(super) fn new(netlink: Netlink) -> Self {
        Self { netlink, known: HashMap::new(), learnt: HashMap::new() }
    }

    pub(super) fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// Notes which station a frame of `sender` came from: the way back, where the kernel has no
    /// neighbour for it.
    pub(super) fn learn(&mut self, sender: IpAddr, mac: Mac, vlan: Option<u16>) {
        if mac.is_group() || self.learnt.get(&sender) == Some(&(mac, vlan)) {
            return;
        }
        if self.learnt.len() >= LEARNT_MAX {
            self.learnt.clear();
        }
        self.learnt.insert(sender, (mac, vlan));
    }

    /// The way to `to` from `from`; nothing if it leads through the kernel.
    pub(super) fn find(
        &mut self,
        gate: &Gate,
        to: IpAddr,
        from: Option<IpAddr>,
        now: Instant,
    ) -> Option<Path> {
        if let Some((path, until)) = self.known.get(&(to, from))
            && now < *until
        {
            return *path;
        }
        let path = self.resolve(gate, to, from);
        if self.known.len() >= PATHS_MAX {
            self.known.clear();
        }
        let ttl = if path.is_some() { PATH_TTL } else { DETOUR_TTL };
        self.known.insert((to, from), (path, now + ttl));
        path
    }

    /// Asks the kernel. An error is like no way: the kernel's own socket will meet it again.
    fn resolve(&mut self, gate: &Gate, to: IpAddr, from: Option<IpAddr>) -> Option<Path> {
        let route = self.netlink.route(to, from).ok()??;
        let network = *gate.networks.iter().find(|it| it.interface == route.interface)?;
        let next = route.gateway.unwrap_or(to);
        let known = self.netlink.neighbour(network.interface, next).ok().flatten();
        let learnt = || self.learnt.get(&to).filter(|(_, vlan)| *vlan == network.vlan);
        let mac = known.or_else(|| learnt().map(|(mac, _)| *mac))?;
        let mtu = route.mtu.filter(|mtu| *mtu != 0).map_or(network.mtu, |mtu| mtu.min(network.mtu));
        Some(Path { mac, vlan: network.vlan, source: route.source, mtu })
    }
}
