//! Which port a shard gets: the best that its host grants, and why not a better one. It owns the
//! order of the rungs; what each needs, the ports know.

use std::{
    fmt, io,
    net::UdpSocket,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    Mode, Port,
    udp::{SocketBuffers, UdpPort},
    uring::UringPort,
    xdp_port::{Frames, Gate, Options, WayBack, XdpPort},
};

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The highest rung that the host grants; lower ones are no reason to complain.
    Auto,
    /// A UDP socket, and nothing else is tried.
    #[default]
    Udp,
    /// A UDP socket by way of `io_uring`. A host that does not grant it serves by plain UDP, and
    /// complains.
    Uring,
    /// Frames. A host that does not grant them serves by UDP, and complains.
    Xdp,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "udp" => Ok(Self::Udp),
            "uring" => Ok(Self::Uring),
            "xdp" => Ok(Self::Xdp),
            _ => Err(format!("{text:?} is none of `auto`, `udp`, `uring`, `xdp`")),
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
    /// A UDP socket by way of `io_uring`.
    Uring,
    /// A UDP socket.
    Udp,
}

impl Rung {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [Self::ZeroCopy, Self::Copy, Self::Uring, Self::Udp];

    /// The name in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::ZeroCopy => "xdp_zero_copy",
            Self::Copy => "xdp_copy",
            Self::Uring => "uring",
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
    options: Options,
    /// Shared by all shards, which look at it when they climb and never else.
    gate: Arc<Mutex<Option<Arc<Gate>>>>,
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
        let (gate, refused) = match choice {
            Choice::Udp | Choice::Uring => (None, Vec::new()),
            Choice::Auto | Choice::Xdp => match Gate::open(options) {
                Ok(gate) => (Some(Arc::new(gate)), Vec::new()),
                Err(refused) => {
                    let why = refused.to_string();
                    let of = |rung| Refusal { rung, why: why.clone() };
                    (None, [Rung::ZeroCopy, Rung::Copy].map(of).into())
                }
            },
        };
        Self { choice, options: options.clone(), gate: Arc::new(Mutex::new(gate)), refused }
    }

    /// What the operator wants.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// The interface with our program on it.
    pub fn gate(&self) -> Option<Arc<Gate>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the best port for shard `shard` out of `shards`, whose UDP socket is `socket`.
    pub fn climb(&self, socket: UdpSocket, shard: u16, shards: u16) -> io::Result<Climbed> {
        let kernel = UdpPort::new(socket)?;
        let buffers = kernel.socket_buffers();
        let mut refused = self.refused.clone();
        if let Some(gate) = self.gate() {
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
                match Frames::open(Arc::clone(&gate), &queues, mode) {
                    Ok(frames) => {
                        let port = XdpPort::new(kernel, frames)?;
                        let port = Box::new(port.with_way_back(self.way_back(shard, shards)));
                        return Ok(Climbed { port, rung, refused, buffers });
                    }
                    Err(error) => {
                        let why = format!("interface {}: {error}", gate.interface());
                        refused.push(Refusal { rung, why });
                    }
                }
            }
        }
        if !matches!(self.choice, Choice::Auto | Choice::Uring) {
            return Ok(Climbed { port: Box::new(kernel), rung: Rung::Udp, refused, buffers });
        }
        match UringPort::new(kernel) {
            Ok(port) => Ok(Climbed { port: Box::new(port), rung: Rung::Uring, refused, buffers }),
            Err(refusal) => {
                let (kernel, why) = *refusal;
                refused.push(Refusal { rung: Rung::Uring, why: why.to_string() });
                Ok(Climbed { port: Box::new(kernel), rung: Rung::Udp, refused, buffers })
            }
        }
    }

    /// How a shard finds frames again: through the gate if it still stands, else through a new one,
    /// which the first shard to ask places for all.
    fn way_back(&self, shard: u16, shards: u16) -> WayBack {
        let (slot, options) = (Arc::clone(&self.gate), self.options.clone());
        Box::new(move || {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.as_ref().is_none_or(|gate| gate.stands().is_none()) {
                // The old one leaves first: an interface has room for one program.
                *slot = None;
                *slot = Gate::open(&options).ok().map(Arc::new);
            }
            let gate = slot.as_ref().filter(|gate| gate.stands() == Some(true))?;
            let queues = gate.queues_of(shard, shards);
            let open = |mode| Frames::open(Arc::clone(gate), &queues, mode).ok();
            if queues.is_empty() { None } else { open(Mode::ZeroCopy).or_else(|| open(Mode::Copy)) }
        })
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
    fn host_that_grants_no_frames_serves_by_the_next_rung_and_says_why_of_each() {
        for (choice, rung) in [(Choice::Auto, Rung::Uring), (Choice::Xdp, Rung::Udp)] {
            let ladder = Ladder::new(choice, &options());
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            let got = ladder.climb(socket, 0, 1).expect("a socket");
            assert_eq!(got.rung, rung);
            let refused: Vec<_> = got.refused.iter().map(|refused| refused.rung).collect();
            assert_eq!(refused, [Rung::ZeroCopy, Rung::Copy]);
            assert!(got.refused.iter().all(|refused| refused.why.contains("loopback")));
        }
    }

    #[test]
    fn choices_are_those_of_the_manual() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("xdp".parse(), Ok(Choice::Xdp));
        assert_eq!("uring".parse(), Ok(Choice::Uring));
        assert_eq!("udp".parse(), Ok(Choice::default()));
        assert!("fast".parse::<Choice>().is_err());
    }
}
