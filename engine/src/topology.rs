//! Topology: which shards run where, who listens on what, and how deep the links between them are.
//!
//! [`resolve`] is a pure function of the configuration and a few facts about the host, so that
//! every machine can be tried out in a test, without root and without its cores. It opens nothing.

use std::net::SocketAddr;

use crate::config::Config;

/// Most shards of one node. The first byte of a connection id names the shard.
pub const SHARDS_MAX: u16 = weir_xdp::steer::SHARDS_MAX;

/// Objects announced in a link before a reader that does not look is overrun. One shard that takes
/// in 200 Mb/s hands over about 25 MB/s; cut into fragments of 16 KiB at most, and of 2 KiB on
/// average for small audio objects, that is 12,500 a second: 16,384 hold more than one second.
pub const LINK_DESCRIPTORS: usize = 16_384;

/// Payload kept behind those descriptors: 25 MB/s for a little over a second.
pub const LINK_BYTES: usize = 32 << 20;

/// Packets a shard may hold for another shard whose connection they belong to. Only migrated
/// connections need this way; 2,048 packets of 1,452 bytes are 3 MB a pair at most.
pub const HAND_OVER_PACKETS: usize = 2_048;

/// Commands (directory changes, interest) under way between two shards or from the control side.
pub const COMMANDS: usize = 1_024;

/// What the resolution must know of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Ids of the cores this process may run on, ascending.
    pub cores: Vec<usize>,
}

/// A resolved node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The shards; a shard's index is its position.
    pub shards: Vec<Shard>,
    /// Core for the control threads (HTTP, store), where one is left over or shared.
    pub control_core: Option<usize>,
    /// What is listened on.
    pub listeners: Listeners,
    /// Which packet port the shards shall have.
    pub port: weir_xdp::ladder::Choice,
    /// The interface for ports that have one, if it is named.
    pub interface: Option<String>,
    /// One link per shard that has readers: none on a node of one shard.
    pub links: Vec<Link>,
    /// Depth of each hand-over ring between two shards.
    pub hand_over_packets: usize,
    /// Depth of each command ring.
    pub commands: usize,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its number, also the residue of its connection ids.
    pub index: u16,
    /// The core it is pinned to.
    pub core: Option<usize>,
}

/// Where the node listens. HTTP and HTTPS belong to the control side, the others to the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listeners {
    /// Pages in the clear.
    pub http: SocketAddr,
    /// Pages over TLS.
    pub https: SocketAddr,
    /// WebTransport and raw MoQT.
    pub quic: SocketAddr,
    /// RTMP.
    pub rtmp: SocketAddr,
    /// RTMP inside TLS.
    pub rtmps: SocketAddr,
    /// SRT, over UDP.
    pub srt: SocketAddr,
    /// Media of WHIP publishers, over UDP.
    pub whip: SocketAddr,
}

/// The ring in which one shard publishes objects to all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The shard that writes.
    pub writer: u16,
    /// The shards that read.
    pub readers: Vec<u16>,
    /// Descriptors in the ring, a power of two.
    pub descriptors: usize,
    /// Bytes of payload behind them, a power of two.
    pub bytes: usize,
}

/// Parts of a configuration that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two listeners want one address of one transport.
    #[error("listen.{first} and listen.{second} both want {transport} {address}")]
    SameAddress {
        /// One key.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// TCP or UDP.
        transport: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// More shards than connection ids can name.
    #[error("shards.count is {count}, at most {SHARDS_MAX} are possible")]
    TooManyShards {
        /// The configured number.
        count: u16,
    },
}

impl Error {
    /// The line that says what to do.
    pub fn help(&self) -> String {
        match self {
            Self::SameAddress { .. } => {
                "give each its own port (QUIC, SRT and WHIP are UDP)".into()
            }
            Self::TooManyShards { .. } => "use 0 for one shard per core".into(),
        }
    }
}

impl HostFacts {
    /// Reads the facts of this machine.
    pub fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let mut cores = allowed.map(parse_cpu_list).unwrap_or_default();
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        if cores.is_empty() {
            cores = (0..usable).collect();
        }
        // A CPU quota (cgroup) below the number of cores limits how many threads are worth having.
        cores.truncate(usable);
        Self { cores }
    }
}

/// Resolves a configuration for a host.
pub fn resolve(config: &Config, host: &HostFacts) -> Result<Topology, Error> {
    let listeners = listeners(config)?;
    let count = match config.shards.count.0 {
        0 => host.cores.len().clamp(1, SHARDS_MAX.into()) as u16,
        count if count > SHARDS_MAX => return Err(Error::TooManyShards { count }),
        count => count,
    };
    let pinned = config.shards.pin && usize::from(count) <= host.cores.len();
    // Housekeeping has the low cores on most machines (interrupts, the control threads), so shards
    // take the high ones and leave what they can.
    let spare = host.cores.len().saturating_sub(count.into());
    let shards = (0..count)
        .map(|index| Shard {
            index,
            core: pinned.then(|| host.cores.get(spare + usize::from(index)).copied()).flatten(),
        })
        .collect();
    let links = if count == 1 { Vec::new() } else { (0..count).map(|w| link(w, count)).collect() };
    Ok(Topology {
        shards,
        control_core: pinned.then(|| host.cores.first().copied()).flatten(),
        listeners,
        port: config.shards.port.0,
        interface: Some(config.shards.interface.clone()).filter(|name| !name.is_empty()),
        links,
        hand_over_packets: HAND_OVER_PACKETS,
        commands: COMMANDS,
    })
}

fn link(writer: u16, count: u16) -> Link {
    Link {
        writer,
        readers: (0..count).filter(|reader| *reader != writer).collect(),
        descriptors: LINK_DESCRIPTORS,
        bytes: LINK_BYTES,
    }
}

fn listeners(config: &Config) -> Result<Listeners, Error> {
    let listen = &config.listen;
    let tcp = [
        ("http", listen.http.0),
        ("https", listen.https.0),
        ("rtmp", listen.rtmp.0),
        ("rtmps", listen.rtmps.0),
    ];
    let udp = [("quic", listen.quic.0), ("srt", listen.srt.0), ("whip", listen.whip.0)];
    apart("TCP", &tcp)?;
    apart("UDP", &udp)?;
    Ok(Listeners {
        http: listen.http.0,
        https: listen.https.0,
        quic: listen.quic.0,
        rtmp: listen.rtmp.0,
        rtmps: listen.rtmps.0,
        srt: listen.srt.0,
        whip: listen.whip.0,
    })
}

/// No two listeners of one transport want the same address.
fn apart(transport: &'static str, wanted: &[(&'static str, SocketAddr)]) -> Result<(), Error> {
    for (position, (first, address)) in wanted.iter().enumerate() {
        for (second, other) in wanted.iter().skip(position + 1) {
            if address == other && address.port() != 0 {
                return Err(Error::SameAddress { first, second, transport, address: *address });
            }
        }
    }
    Ok(())
}

/// The kernel's list form: `0-3,8,10-11`. What does not parse is left out.
fn parse_cpu_list(list: &str) -> Vec<usize> {
    // No machine of today has more; a malformed range must not fill the memory.
    const CORES_MAX: usize = 4096;
    list.trim()
        .split(',')
        .filter_map(|item| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some(first.parse().ok()?..=last.parse::<usize>().ok()?.min(CORES_MAX))
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ShardCount;

    fn on(cores: usize, count: u16) -> Result<Topology, Error> {
        let mut config = Config::default();
        config.shards.count = ShardCount(count);
        resolve(&config, &HostFacts { cores: (0..cores).collect() })
    }

    #[test]
    fn a_small_machine_gets_a_shard_per_core() {
        let topology = on(2, 0).expect("resolves");
        let cores: Vec<_> = topology.shards.iter().map(|shard| shard.core).collect();
        assert_eq!(cores, [Some(0), Some(1)]);
        assert_eq!(topology.links.len(), 2);
        assert_eq!(topology.links[1].readers, [0]);
    }

    #[test]
    fn fewer_shards_than_cores_leave_the_low_cores_to_the_rest() {
        let topology = on(8, 3).expect("resolves");
        let cores: Vec<_> = topology.shards.iter().map(|shard| shard.core).collect();
        assert_eq!(cores, [Some(5), Some(6), Some(7)]);
        assert_eq!(topology.control_core, Some(0));
    }

    #[test]
    fn more_shards_than_cores_run_unpinned() {
        let topology = on(2, 4).expect("resolves");
        assert!(topology.shards.iter().all(|shard| shard.core.is_none()));
        assert_eq!(topology.shards.len(), 4);
        assert_eq!(topology.links.iter().map(|link| link.readers.len()).sum::<usize>(), 12);
    }

    #[test]
    fn one_shard_needs_no_link() {
        assert!(on(4, 1).expect("resolves").links.is_empty());
    }

    #[test]
    fn a_giant_machine_stops_at_what_a_connection_id_can_name() {
        assert_eq!(on(512, 0).expect("resolves").shards.len(), usize::from(SHARDS_MAX));
        let count = SHARDS_MAX + 1;
        assert_eq!(on(512, count), Err(Error::TooManyShards { count }));
        let said = format!("At most {SHARDS_MAX}.");
        assert!(crate::config::MANUAL.contains(&said), "the manual says another number");
    }

    #[test]
    fn one_tcp_address_cannot_serve_two_listeners() {
        let mut config = Config::default();
        config.listen.rtmp = config.listen.https;
        let host = HostFacts { cores: vec![0] };
        let error = resolve(&config, &host).expect_err("same address");
        assert!(
            error.to_string().contains("listen.https and listen.rtmp both want TCP"),
            "{error}"
        );
        let mut udp = Config::default();
        udp.listen.srt = udp.listen.quic;
        let error = resolve(&udp, &host).expect_err("same address");
        assert!(error.to_string().contains("listen.quic and listen.srt both want UDP"), "{error}");
        // Port 0 is another port each time.
        config.listen.rtmp.0.set_port(0);
        config.listen.https.0.set_port(0);
        assert!(resolve(&config, &host).is_ok());
    }

    #[test]
    fn ring_sizes_are_powers_of_two() {
        assert!(LINK_DESCRIPTORS.is_power_of_two() && LINK_BYTES.is_power_of_two());
    }

    #[test]
    fn cpu_lists_of_the_kernel_are_read() {
        assert_eq!(parse_cpu_list("\t0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("3"), [3]);
        assert!(parse_cpu_list("x,,1-").is_empty());
    }
}
