//! Which port a shard gets: the best that its host grants, and why not a better one. It owns the
//! order of the rungs; what each needs, the ports know.

use std::{fmt, io, net::UdpSocket, str::FromStr, sync::Arc};

use crate::{
    Mode, Port,
    udp::{SocketBuffers, UdpPort},
    xdp_port::{Frames, Gate, Options, XdpPort},
};

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The highest rung that the host grants; lower ones are no reason to complain.
    Auto,
    /// A UDP socket, and nothing else is tried.
    #[default]
    Udp,
    /// Frames. A host that does not grant them serves by UDP, and complains.
    Xdp,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "udp" => Ok(Self::Udp),
            "xdp" => Ok(Self::Xdp),
            _ => Err(format!("{text:?} is none of `auto`, `udp`, `xdp`")),
        }
    }
}

/// Ways for datagrams, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Frames in memory that the driver works on.
    ZeroCopy,
    /// Frames that the kernel copies.
    Copy,
    /// A UDP socket.
    Udp,
}

impl Rung {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::ZeroCopy, Self::Copy, Self::Udp];

    /// The name in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::ZeroCopy => "xdp_zero_copy",
            Self::Copy => "xdp_copy",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// A rung that was not to be had, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub rung: Rung,
    /// What the host says.
    pub why: String,
}

/// The ladder of a node: what its shards have in common.
#[derive(Debug, Clone)]
pub struct Ladder {
    choice: Choice,
    gate: Option<Arc<Gate>>,
    refused: Vec<Refusal>,
}

/// What a shard got.
pub struct Climbed {
    /// The port.
    pub port: Box<dyn Port>,
    /// What it is.
    pub rung: Rung,
    /// What was better and not to be had.
    pub refused: Vec<Refusal>,
    /// What the host grants to the UDP socket, which every rung has.
    pub buffers: SocketBuffers,
}

impl Ladder {
    /// Places our program on the interface, if that is wanted and granted. Until shards climb,
    /// nothing changes for anybody.
    pub fn new(choice: Choice, options: &Options) -> Self {
        if choice == Choice::Udp {
            return Self { choice, gate: None, refused: Vec::new() };
        }
        match Gate::open(options) {
            Ok(gate) => Self { choice, gate: Some(Arc::new(gate)), refused: Vec::new() },
            Err(refused) => {
                let why = refused.to_string();
                let refused =
                    [Rung::ZeroCopy, Rung::Copy].map(|rung| Refusal { rung, why: why.clone() });
                Self { choice, gate: None, refused: refused.into() }
            }
        }
    }

    /// What the operator wants.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// The interface with our program on it.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.as_deref()
    }

    /// Finds the best port for shard `shard` out of `shards`, whose UDP socket is `socket`.
    pub fn climb(&self, socket: UdpSocket, shard: u16, shards: u16) -> io::Result<Climbed> {
        let kernel = UdpPort::new(socket)?;
        let buffers = kernel.socket_buffers();
        let mut refused = self.refused.clone();
        if let Some(gate) = &self.gate {
            let queues = gate.queues_of(shard, shards);
            for (rung, mode) in [(Rung::ZeroCopy, Mode::ZeroCopy), (Rung::Copy, Mode::Copy)] {
                if queues.is_empty() {
                    let why = format!(
                        "interface {} has {} receive queues, none for shard {shard}",
                        gate.interface(),
                        gate.queues()
                    );
                    refused.push(Refusal { rung, why });
                    continue;
                }
                match Frames::open(Arc::clone(gate), &queues, mode) {
                    Ok(frames) => {
                        let port = Box::new(XdpPort::new(kernel, frames)?);
                        return Ok(Climbed { port, rung, refused, buffers });
                    }
                    Err(error) => {
                        let why = format!("interface {}: {error}", gate.interface());
                        refused.push(Refusal { rung, why });
                    }
                }
            }
        }
        Ok(Climbed { port: Box::new(kernel), rung: Rung::Udp, refused, buffers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Attach, Budget};

    fn options() -> Options {
        Options {
            listen: "127.0.0.1:4433".parse().expect("an address"),
            interface: None,
            attach: Attach::Either,
            budget: Budget::default(),
            vlan: None,
        }
    }

    #[test]
    fn udp_is_never_refused_and_tries_nothing_else() {
        let ladder = Ladder::new(Choice::Udp, &options());
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let got = ladder.climb(socket, 0, 1).expect("a socket");
        assert_eq!((got.rung, got.refused), (Rung::Udp, vec![]));
    }

    #[test]
    fn host_that_grants_no_frames_serves_by_udp_and_says_why_of_each_rung() {
        for choice in [Choice::Auto, Choice::Xdp] {
            let ladder = Ladder::new(choice, &options());
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            let got = ladder.climb(socket, 0, 1).expect("a socket");
            assert_eq!(got.rung, Rung::Udp);
            let refused: Vec<_> = got.refused.iter().map(|refused| refused.rung).collect();
            assert_eq!(refused, [Rung::ZeroCopy, Rung::Copy]);
            assert!(got.refused.iter().all(|refused| refused.why.contains("loopback")));
        }
    }

    #[test]
    fn choices_are_those_of_the_manual() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("xdp".parse(), Ok(Choice::Xdp));
        assert_eq!("udp".parse(), Ok(Choice::default()));
        assert!("fast".parse::<Choice>().is_err());
    }
}
