//! The sending end: objects when they are due, each whole to one receiver before the next receiver, as trains of
//! datagrams. Owns the schedule and the account of what it cost.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustls::Side;
use weir_xdp::udp::UdpPort;
use weir_xdp::{Outcome, Port, Transmit};

use super::Level;
use super::packet::{self, DATAGRAM_BYTES, HEADER_BYTES, Lane, TAG_BYTES};
use crate::fanout::Shape;
use crate::machine::{Core, waited_for_a_core};
use crate::process::Cost;
use crate::run::Run;

/// Longest sleep, so that ACKs do not pile up.
const PARK_MAX: Duration = Duration::from_millis(5);

/// How long a full socket may stay so.
const FULL_MAX: Duration = Duration::from_secs(5);

/// Time for the last ACKs.
const DRAIN: Duration = Duration::from_millis(500);

/// Share of the packets that must have been acknowledged.
const ACKNOWLEDGED_MIN: f64 = 0.99;

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much of the work.
    pub level: Level,
    /// Where all receivers are.
    pub to: SocketAddr,
    /// How many there are.
    pub peers: u32,
    /// Broadcasts; receivers are spread over them, and their objects are due at the same time.
    pub publishers: u32,
    /// The core it runs on.
    pub core: usize,
    /// Of each broadcast.
    pub shape: Shape,
    /// Before the span.
    pub warm_up: Duration,
    /// Measured.
    pub span: Duration,
}

struct Peer {
    lane: Lane,
    next_number: u64,
    stream: u64,
    offset: u64,
    expected: u64,
    acknowledged: u64,
}

/// Runs once.
pub fn run(options: &Options) -> Result<Run> {
    let mut sender = Sender::new(options)?;
    let shape = options.shape;
    let start = Instant::now() + Duration::from_millis(100);
    let begins = shape.index_at(options.warm_up);
    let ends = shape.index_at(options.warm_up + options.span);
    ensure!(ends > begins, "the span holds no object");
    let mut before = None;
    for index in 0..ends {
        let due = start + shape.due(index);
        sender.wait_until(due)?;
        if index == begins {
            sender.objects = 0;
            sender.payload_bytes = 0;
            before = Some(Accounts::read(options)?);
        }
        sender.object(index)?;
    }
    sender.wait_until(start + shape.due(ends))?;
    let after = Accounts::read(options)?;
    let before = before.unwrap_or(after);
    sender.wait_until(Instant::now() + DRAIN)?;
    let sent: u64 = sender.peers.iter().map(|peer| peer.next_number).sum();
    let acknowledged: u64 = sender.peers.iter().map(|peer| peer.acknowledged).sum();
    let short = options.level == Level::Acknowledge
        && (acknowledged as f64) < sent as f64 * ACKNOWLEDGED_MIN;
    let seconds = shape.due(ends - begins).as_secs_f64();
    let cost = after.cost.since(&before.cost);
    let core = after.core.since(&before.core);
    Ok(Run {
        subscribers: options.peers,
        publishers: options.publishers,
        seconds,
        objects: sender.objects as f64,
        payload_bytes: sender.payload_bytes as f64,
        cpu_seconds: cost.processor().as_secs_f64(),
        system_seconds: cost.system.as_secs_f64(),
        core_busy_seconds: core.busy.as_secs_f64(),
        lost: if short { sent - acknowledged } else { 0 },
        datagrams: sent,
        stolen_share: core.stolen.as_secs_f64() / seconds,
        waited_share: after.waited.saturating_sub(before.waited).as_secs_f64() / seconds,
        ..Run::default()
    })
}

#[derive(Clone, Copy)]
struct Accounts {
    cost: Cost,
    core: Core,
    waited: Duration,
}

impl Accounts {
    fn read(options: &Options) -> Result<Self> {
        Ok(Self {
            cost: Cost::of(std::process::id())?,
            core: Core::of(options.core)?,
            waited: waited_for_a_core().unwrap_or_default(),
        })
    }
}

struct Sender {
    port: UdpPort,
    options: Options,
    peers: Vec<Peer>,
    /// Every object is a piece of it.
    content: Vec<u8>,
    train: Vec<u8>,
    /// Sent since the span began.
    objects: u64,
    payload_bytes: u64,
}

impl Sender {
    fn new(options: &Options) -> Result<Self> {
        let local: SocketAddr = if options.to.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let mut content = vec![0; options.shape.bytes(0)];
        fastrand::Rng::with_seed(1).fill(&mut content);
        let peer = |peer: u32| -> Result<Peer> {
            Ok(Peer {
                lane: Lane::new(u64::from(peer), Side::Server)?,
                next_number: 0,
                stream: 0,
                offset: 0,
                expected: 0,
                acknowledged: 0,
            })
        };
        Ok(Self {
            port: UdpPort::bind(local)?,
            options: *options,
            peers: (0..options.peers).map(peer).collect::<Result<_>>()?,
            content,
            train: Vec::with_capacity(64 << 10),
            objects: 0,
            payload_bytes: 0,
        })
    }

    /// Sends one object to everybody.
    fn object(&mut self, index: u64) -> Result<()> {
        let (group, object) = self.options.shape.place(index);
        let bytes = self.options.shape.bytes(object);
        for at in 0..self.peers.len() {
            if object == 0 {
                // RFC 9000 §2.1: ids of a server's unidirectional streams.
                self.peers[at].stream = group * 4 + 3;
                self.peers[at].offset = 0;
            }
            self.send(at, bytes)?;
            self.objects += 1;
            self.payload_bytes += bytes as u64;
            if self.options.level == Level::Acknowledge && at % 16 == 0 {
                self.take_acks()?;
            }
        }
        self.port.flush()?;
        Ok(())
    }

    /// Sends `bytes` of the content to one receiver.
    fn send(&mut self, at: usize, bytes: usize) -> Result<()> {
        let mut from = 0;
        while from < bytes {
            self.train.clear();
            let segments = self.port.max_segments();
            for _ in 0..segments {
                let begin = self.train.len();
                let peer = &mut self.peers[at];
                packet::header(at as u64, peer.next_number, &mut self.train);
                packet::stream(peer.stream, peer.offset, &mut self.train);
                let room = DATAGRAM_BYTES - TAG_BYTES - (self.train.len() - begin);
                let piece = room.min(bytes - from);
                self.train.extend_from_slice(&self.content[from..from + piece]);
                // Enough for the sample of header protection.
                let least = begin + HEADER_BYTES + 4;
                self.train.resize(self.train.len().max(least) + TAG_BYTES, 0);
                if self.options.level >= Level::Seal {
                    peer.lane.seal(peer.next_number, &mut self.train[begin..])?;
                }
                peer.next_number += 1;
                peer.offset += piece as u64;
                from += piece;
                if from == bytes {
                    break;
                }
            }
            let transmit = Transmit {
                destination: self.options.to,
                src_ip: None,
                ecn: None,
                contents: &self.train,
                segment_size: (self.train.len() > DATAGRAM_BYTES).then_some(DATAGRAM_BYTES),
            };
            let since = Instant::now();
            while self.port.send(&transmit)? == Outcome::Full {
                self.port.flush()?;
                ensure!(since.elapsed() < FULL_MAX, "the socket stays full");
            }
        }
        Ok(())
    }

    fn wait_until(&mut self, moment: Instant) -> Result<()> {
        loop {
            if self.options.level == Level::Acknowledge {
                self.take_acks()?;
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.port.wait_readable(left.min(PARK_MAX))?;
            if self.options.level < Level::Acknowledge {
                // Nobody answers; what comes is not ours.
                self.port.recv(&mut drop)?;
            }
        }
    }

    /// Opens and reads every ACK that waits.
    fn take_acks(&mut self) -> Result<()> {
        let peers = &mut self.peers;
        let mut failed = None;
        loop {
            let taken = self.port.recv(&mut |mut datagram| {
                let Some(peer) = packet::peer(&datagram.data)
                    .and_then(|peer| peers.get_mut(usize::try_from(peer).ok()?))
                else {
                    return;
                };
                if let Err(error) = acknowledge(peer, &mut datagram.data) {
                    failed.get_or_insert(error);
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            if taken == 0 {
                return Ok(());
            }
        }
    }
}

fn acknowledge(peer: &mut Peer, packet: &mut [u8]) -> Result<()> {
    let number = peer.lane.unmask(packet, peer.expected)?;
    let (first, largest) = packet::read_ack(peer.lane.open(number, packet)?)?;
    peer.expected = peer.expected.max(number + 1);
    peer.acknowledged += largest - first + 1;
    Ok(())
}
