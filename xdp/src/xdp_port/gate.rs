//! The XDP program on the interface that a node listens at, shared by the ports of all shards. It
//! owns which interface that is, which addresses are taken there and what a port must know to write
//! frames; it refuses to know sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use crate::{
    frame::Mac,
    keeper,
    netlink::{Interface, Netlink},
    program::{self, Attach, Attached, Budget, Place, Program, Shape, Tally},
    sys::memory::SharedWords,
    xsk::FRAME_BYTES_MAX,
};

/// Bytes of an Ethernet header with a tag.
const ETHERNET_TAGGED: usize = 18;

/// Largest packet that fits a umem frame: 3,822 bytes.
pub const MTU_MAX: usize = FRAME_BYTES_MAX - ETHERNET_TAGGED;

/// Most receive queues that a gate serves.
pub const QUEUES_MAX: u32 = 64;

/// What a gate is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address that the node's UDP sockets are bound to.
    pub listen: SocketAddr,
    /// Name of the interface; nothing for the one that has the address or, behind a wildcard, leads
    /// to the rest of the world.
    pub interface: Option<String>,
    /// How the program sits on it.
    pub attach: Attach,
    /// How many packets that may begin a connection are let through.
    pub budget: Budget,
    /// The 802.1Q network of the interface's own addresses, for a switch that tags all frames
    /// although the host has no interface for the network. Interfaces for networks are found.
    pub vlan: Option<u16>,
}

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No interface has the address, or the name.
    #[error("no interface for {0}")]
    NoInterface(String),
    /// Datagrams between processes of a host never are frames.
    #[error("{0} is the loopback interface, which has no frames")]
    Loopback(String),
    /// Not an Ethernet interface.
    #[error("interface {0} has no Ethernet address")]
    NotEthernet(String),
    /// Its packets do not fit into a umem frame.
    #[error("interface {name} has packets of {mtu} bytes; at most {MTU_MAX} fit into a frame")]
    Mtu {
        /// The interface.
        name: String,
        /// Its largest packet.
        mtu: usize,
    },
    /// No address of the interface is listened on.
    #[error("interface {0} has no address to take datagrams for")]
    NoAddress(String),
    /// The program was refused.
    #[error(transparent)]
    Program(#[from] program::Error),
    /// The process that holds our privileges did not place it.
    #[error("{0}")]
    Keeper(io::Error),
    /// The kernel did not say what the network looks like.
    #[error("the network cannot be looked at: {0}")]
    Netlink(#[from] io::Error),
}

/// An interface with our program on it. The program leaves with the last port.
#[derive(Debug)]
pub struct Gate {
    hold: Hold,
    pub(super) interface: Interface,
    pub(super) mac: Mac,
    pub(super) networks: Vec<Network>,
}

/// What holds the program on its interface.
#[derive(Debug)]
enum Hold {
    /// We do.
    Own(Program, #[expect(dead_code, reason = "held for what its end does")] Attached),
    /// We hold the link; the program's maps are the keeper's, which lays their counters out.
    Kept { _link: OwnedFd, tallies: SharedWords },
}

/// A program just placed.
pub(crate) struct Placed {
    pub(crate) view: View,
    pub(crate) program: Program,
    pub(crate) attached: Attached,
}

/// The interface that a node listens at, and what is reached over it.
pub(crate) struct View {
    pub(crate) interface: Interface,
    mac: Mac,
    networks: Vec<Network>,
    places: Vec<Place>,
}

/// One network that is reached over the interface: itself, or an 802.1Q interface on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    /// Index of the interface that routes name.
    pub(super) interface: u32,
    pub(super) vlan: Option<u16>,
    pub(super) mtu: usize,
}

impl View {
    /// Looks without changing anything; needs no privilege.
    fn new(options: &Options) -> Result<Self, Refused> {
        let mut netlink = Netlink::new()?;
        let interfaces = netlink.interfaces()?;
        let addresses = netlink.addresses()?;
        let interface = choose(options, &interfaces, &addresses, &mut netlink)?;
        let name = || interface.name.clone();
        if interface.is_loopback {
            return Err(Refused::Loopback(name()));
        }
        let mac = interface.mac.ok_or_else(|| Refused::NotEthernet(name()))?;
        if interface.mtu > MTU_MAX {
            return Err(Refused::Mtu { name: name(), mtu: interface.mtu });
        }
        let networks = networks(&interface, &interfaces, options.vlan);
        let places = places(options.listen, &networks, &addresses);
        if places.is_empty() {
            return Err(Refused::NoAddress(name()));
        }
        Ok(Self { interface, mac, networks, places })
    }
}

impl Placed {
    /// Finds the interface and places the program on it.
    pub(crate) fn new(options: &Options) -> Result<Self, Refused> {
        View::new(options)?.place(options)
    }
}

impl View {
    fn place(self, options: &Options) -> Result<Placed, Refused> {
        let interface = &self.interface;
        let queues = interface.queues.clamp(1, QUEUES_MAX);
        let frame_bytes_max = (interface.mtu + ETHERNET_TAGGED) as u16;
        let program = Program::load(Shape::new(queues, frame_bytes_max), options.budget)?;
        for place in &self.places {
            program.open(*place)?;
        }
        let attached = program.attach(interface.index, options.attach)?;
        Ok(Placed { view: self, program, attached })
    }
}

impl Gate {
    /// Finds the interface and places the program on it, with all addresses that are listened on
    /// open and all slots still empty: everything passes until ports put their sockets there. Where
    /// this process has a [keeper](crate::keeper), that places it, as it was told at its start.
    pub fn open(options: &Options) -> Result<Self, Refused> {
        let view = View::new(options)?;
        let (view, hold) = match keeper::current() {
            None => {
                let Placed { view, program, attached } = view.place(options)?;
                (view, Hold::Own(program, attached))
            }
            Some(keeper) => {
                let port = options.listen.port();
                let (index, link, memory) = keeper.gate(port).map_err(Refused::Keeper)?;
                if index != view.interface.index {
                    return Err(Refused::NoInterface(view.interface.name));
                }
                let words = SharedWords::of(memory.as_fd(), 0, keeper::TALLY_BYTES);
                let tallies = words.map_err(Refused::Keeper)?;
                (view, Hold::Kept { _link: link, tallies })
            }
        };
        let View { interface, mac, networks, .. } = view;
        Ok(Self { hold, interface, mac, networks })
    }

    /// Whether frames come through it now; nothing if it will never be so again and another gate is
    /// needed.
    pub(crate) fn stands(&self) -> Option<bool> {
        let found = Netlink::new().and_then(|mut netlink| netlink.interface(self.interface.index));
        match found {
            Ok(Some(found)) if found.has_program && found.mac == Some(self.mac) => {
                Some(found.is_running)
            }
            Ok(_) => None,
            // Nobody says that it is gone.
            Err(_) => Some(false),
        }
    }

    /// Name of the interface.
    pub fn interface(&self) -> &str {
        &self.interface.name
    }

    /// Receive queues that it may have. Fewer may be in use.
    pub fn queues(&self) -> u32 {
        self.interface.queues.clamp(1, QUEUES_MAX)
    }

    /// The queues of shard `shard` out of `shards`: each queue belongs to one shard.
    pub fn queues_of(&self, shard: u16, shards: u16) -> Vec<u32> {
        let step = usize::from(shards.max(1));
        (u32::from(shard)..self.queues()).step_by(step).collect()
    }

    /// How many packets met each fate in the program so far.
    pub fn count(&self, tally: Tally) -> io::Result<u64> {
        match &self.hold {
            Hold::Own(program, _) => program.count(tally),
            // A number of its own: nothing is read because of it.
            Hold::Kept { tallies, .. } => {
                Ok(tallies.double(tally as usize * 8).load(Ordering::Relaxed))
            }
        }
    }

    /// Puts a socket into the slot of a queue.
    pub(super) fn put(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        match (&self.hold, keeper::current()) {
            (Hold::Own(program, _), _) => program.put(queue, 0, socket),
            (Hold::Kept { .. }, Some(keeper)) => keeper.put(queue, socket),
            (Hold::Kept { .. }, None) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

fn choose(
    options: &Options,
    interfaces: &[Interface],
    addresses: &[(u32, IpAddr)],
    netlink: &mut Netlink,
) -> Result<Interface, Refused> {
    let missing = |what: &dyn std::fmt::Display| Refused::NoInterface(what.to_string());
    if let Some(name) = &options.interface {
        let named = interfaces.iter().find(|interface| interface.name == *name);
        return named.cloned().ok_or_else(|| missing(name));
    }
    let listen = options.listen.ip().to_canonical();
    let index = if listen.is_unspecified() {
        // Any address outside will do: nothing is sent there (RFC 5737, RFC 3849).
        let outside = ["192.0.2.1", "2001:db8::1"].map(str::parse::<IpAddr>);
        let routes = outside.into_iter().flatten().filter_map(|ip| netlink.route(ip, None).ok()?);
        routes.map(|route| route.interface).next()
    } else {
        addresses.iter().find(|(_, ip)| *ip == listen).map(|(index, _)| *index)
    };
    let by_index = |index| interfaces.iter().find(move |interface| interface.index == index);
    let found = index.and_then(by_index).ok_or_else(|| missing(&listen))?;
    // The program sits below the networks of an interface.
    let below = found.vlan.and(found.below).and_then(by_index);
    Ok(below.unwrap_or(found).clone())
}

fn networks(interface: &Interface, all: &[Interface], vlan: Option<u16>) -> Vec<Network> {
    let above = all.iter().filter(|above| {
        above.vlan.is_some() && above.below == Some(interface.index) && above.mac == interface.mac
    });
    let itself = Network { interface: interface.index, vlan, mtu: interface.mtu };
    let above =
        above.map(|above| Network { interface: above.index, vlan: above.vlan, mtu: above.mtu });
    std::iter::once(itself).chain(above).collect()
}

/// Where datagrams are taken: the address listened on, or behind a wildcard every address of the
/// networks. Link-local addresses are left to the kernel: they mean something only with an interface.
fn places(listen: SocketAddr, networks: &[Network], addresses: &[(u32, IpAddr)]) -> Vec<Place> {
    let wanted = listen.ip().to_canonical();
    let is_listened_on = |ip: IpAddr| match wanted {
        IpAddr::V4(any) if any.is_unspecified() => ip.is_ipv4(),
        IpAddr::V6(any) if any.is_unspecified() => true,
        wanted => wanted == ip,
    };
    let is_local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut places = Vec::new();
    for (index, ip) in addresses {
        let Some(network) = networks.iter().find(|network| network.interface == *index) else {
            continue;
        };
        if is_listened_on(*ip) && !is_local(*ip) {
            places.push(Place { ip: *ip, port: listen.port(), vlan: network.vlan });
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(interface: u32, vlan: Option<u16>) -> Network {
        Network { interface, vlan, mtu: 1_500 }
    }

    #[test]
    fn wildcard_takes_the_addresses_of_its_family_on_each_network() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let addresses = [
            (1, ip("127.0.0.1")),
            (2, ip("192.0.2.1")),
            (2, ip("2001:db8::1")),
            (2, ip("fe80::1")),
            (5, ip("198.51.100.1")),
        ];
        let networks = [network(2, None), network(5, Some(7))];
        for (listen, expected) in [
            ("0.0.0.0:4433", &[("192.0.2.1", None), ("198.51.100.1", Some(7))][..]),
            ("192.0.2.1:4433", &[("192.0.2.1", None)]),
            ("[::]:4433", &[("192.0.2.1", None), ("2001:db8::1", None), ("198.51.100.1", Some(7))]),
            ("127.0.0.1:4433", &[]),
        ] {
            let listen = listen.parse().expect("an address");
            let expected: Vec<_> = expected
                .iter()
                .map(|(text, vlan)| Place { ip: ip(text), port: 4_433, vlan: *vlan })
                .collect();
            assert_eq!(places(listen, &networks, &addresses), expected, "{listen}");
        }
    }

    #[test]
    fn loopback_is_refused_and_so_is_an_interface_that_does_not_exist() {
        let open = |interface: Option<&str>| {
            Gate::open(&Options {
                listen: "127.0.0.1:4433".parse().expect("an address"),
                interface: interface.map(str::to_owned),
                attach: Attach::Either,
                budget: Budget::default(),
                vlan: None,
            })
        };
        assert!(matches!(open(None), Err(Refused::Loopback(_))));
        assert!(matches!(open(Some("nowhere0")), Err(Refused::NoInterface(_))));
    }
}
