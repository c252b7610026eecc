//! Strangers: handshakes up to the point where somebody must say whether a key is right. Owns cookies, what waits for an
//! answer, and answers given lately, so that a caller whose answer was lost gets it again. Nothing is kept of a caller
//! before its cookie is right, and nothing of one that was refused.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use bytes::{Bytes, BytesMut};

use super::Reject;
use super::handshake::{
    CONCLUSION, Extensions, Fixed, HAS_HELLO, Hello, INDUCTION, MAGIC, REFUSAL,
};
use super::packet::{ControlKind, DATAGRAM_BYTES_MAX, Packet, Seq, control};
use super::target::Target;
use crate::Secret;

/// How long a cookie is good: this, and once more.
const COOKIE_AGE: Duration = Duration::from_mins(1);

/// A caller that has its answer asks again at most for so long: libsrt's time limit for connecting is 3 s.
const ANSWER_AGE: Duration = Duration::from_secs(5);

/// What a caller says that is a listener of messages or files and not of live media.
const FLAG_STREAM: u32 = 0x40;

/// What strangers can push against.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Callers between their cookie and the answer, over all addresses: each holds under 2 KiB.
    pub waiting_max: usize,
    /// The same from one address.
    pub waiting_per_address_max: usize,
    /// Replies not yet taken by the shell; beyond them callers ask again.
    pub transmit_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { waiting_max: 1024, waiting_per_address_max: 32, transmit_max: 1024 }
    }
}

/// What strangers did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Callers refused because too many wait.
    pub backlog: u64,
    /// Conclusions whose cookie is not ours.
    pub bad_cookies: u64,
    /// First handshakes answered.
    pub inductions: u64,
    /// Datagrams that are no handshake.
    pub malformed: u64,
    /// Callers refused before anybody was asked.
    pub refused: u64,
    /// Callers that reached a question.
    pub requests: u64,
}

/// A caller that waits for an answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// From where.
    pub peer: SocketAddr,
    /// Which input it wants to feed. A stranger's text: not yet known to exist.
    pub input_id: String,
    /// The key it offers; empty when it offers none.
    pub key: Secret,
    pub(super) fixed: Fixed,
    pub(super) hello: Hello,
    pub(super) keys: Option<Bytes>,
    pub(super) timestamp: u32,
    pub(super) arrived: Instant,
}

/// The sans-IO listener of one UDP address.
#[derive(Debug)]
pub struct Listener {
    secret: hmac::Key,
    limits: Limits,
    start: Instant,
    waiting: HashMap<Caller, Waiting>,
    requests: VecDeque<Request>,
    transmit: VecDeque<(SocketAddr, Bytes)>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Caller {
    peer: SocketAddr,
    socket_id: u32,
    /// Another one with each connection, also of an encoder that uses its port and socket id again.
    initial: Seq,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    answer: Option<Bytes>,
}

impl Listener {
    /// `secret` makes the cookies; it must be random.
    pub fn new(secret: [u8; 32], limits: Limits, now: Instant) -> Self {
        Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            limits,
            start: now,
            waiting: HashMap::new(),
            requests: VecDeque::new(),
            transmit: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// A datagram to nobody in particular: destination socket 0.
    pub fn handle_datagram(&mut self, peer: SocketAddr, datagram: &[u8], now: Instant) {
        let packet = match Packet::read(datagram) {
            Some(Packet::Control(packet))
                if packet.kind == ControlKind::Handshake
                    && datagram.len() <= DATAGRAM_BYTES_MAX =>
            {
                packet
            }
            _ => {
                self.counters.malformed += 1;
                return;
            }
        };
        match Fixed::read(packet.body) {
            Some((fixed, _)) if fixed.kind == INDUCTION => self.induct(peer, fixed, now),
            Some((fixed, rest)) if fixed.kind == CONCLUSION => {
                self.conclude(peer, fixed, rest, packet.timestamp, now);
            }
            _ => self.counters.malformed += 1,
        }
    }

    /// The next caller that waits for an answer.
    pub fn poll_event(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.transmit.pop_front()
    }

    /// Refuses a caller and forgets it.
    pub fn reject(&mut self, request: &Request, reject: Reject, now: Instant) {
        self.waiting.remove(&Caller::of(request));
        self.send(request.peer, request.refusal(reject, self.timestamp(now)));
    }

    /// The caller has been answered with this, and gets it again should it ask again.
    pub fn accepted(&mut self, request: &Request, answer: Bytes, now: Instant) {
        if let Some(waiting) = self.waiting.get_mut(&Caller::of(request)) {
            *waiting = Waiting { since: now, answer: Some(answer) };
        }
    }

    /// What strangers did so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Callers that wait, or were answered lately.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// §4.3.1.1: answered without a trace. The answer is as long as the question.
    fn induct(&mut self, peer: SocketAddr, fixed: Fixed, now: Instant) {
        self.counters.inductions += 1;
        let answer = Fixed {
            version: 5,
            encryption: 0,
            extension: MAGIC,
            mtu: fixed.mtu.min(1500),
            cookie: self.cookie(peer, self.epoch(now)),
            ..fixed
        };
        self.send_handshake(peer, answer, now);
    }

    /// §4.3.1.2: the caller has proved its address.
    fn conclude(
        &mut self,
        peer: SocketAddr,
        fixed: Fixed,
        extensions: &[u8],
        timestamp: u32,
        now: Instant,
    ) {
        let epoch = self.epoch(now);
        let is_ours = |epoch| fixed.cookie == self.cookie(peer, epoch);
        if !is_ours(epoch) && !epoch.checked_sub(1).is_some_and(is_ours) {
            self.counters.bad_cookies += 1;
            return;
        }
        let caller = Caller { peer, socket_id: fixed.socket_id, initial: fixed.initial };
        let is_fresh = |held: &&Waiting| now.saturating_duration_since(held.since) < ANSWER_AGE;
        if let Some(waiting) = self.waiting.get(&caller).filter(is_fresh) {
            if let Some(answer) = waiting.answer.clone() {
                self.send(peer, answer);
            }
            return;
        }
        match self.request(peer, fixed, extensions, timestamp, now) {
            Ok(request) => {
                self.counters.requests += 1;
                self.waiting.insert(caller, Waiting { since: now, answer: None });
                self.requests.push_back(request);
            }
            Err(reject) => {
                self.counters.refused += 1;
                let kind = REFUSAL + reject.code();
                self.send_handshake(peer, Fixed { kind, extension: 0, ..fixed }, now);
            }
        }
    }

    fn request(
        &mut self,
        peer: SocketAddr,
        fixed: Fixed,
        extensions: &[u8],
        timestamp: u32,
        now: Instant,
    ) -> Result<Request, Reject> {
        if fixed.version != 5 || fixed.extension & HAS_HELLO == 0 {
            return Err(Reject::Version);
        }
        let found = Extensions::read(extensions).ok_or(Reject::BadRequest)?;
        let hello = found.hello.ok_or(Reject::BadRequest)?;
        if hello.flags & FLAG_STREAM != 0 {
            return Err(Reject::MessageApi);
        }
        if found.congestion.is_some_and(|name| name != b"live") {
            return Err(Reject::Congestion);
        }
        if found.has_filter {
            return Err(Reject::Filter);
        }
        if found.has_group {
            return Err(Reject::Group);
        }
        let target = Target::parse(found.stream_id.as_deref().unwrap_or_default());
        let Target { input_id, key } = target.ok_or(Reject::BadMode)?;
        self.make_room(peer, now)?;
        Ok(Request { peer, input_id, key, fixed, hello, keys: found.keys, timestamp, arrived: now })
    }

    /// Old answers go; who still waits stays.
    fn make_room(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Reject> {
        let Limits { waiting_max, waiting_per_address_max, .. } = self.limits;
        self.waiting.retain(|_, waiting| now.saturating_duration_since(waiting.since) < ANSWER_AGE);
        let waits_here = |(caller, waiting): &(&Caller, &Waiting)| {
            caller.peer.ip() == peer.ip() && waiting.answer.is_none()
        };
        let from_here = self.waiting.iter().filter(waits_here).count();
        if self.waiting.len() >= waiting_max {
            // Answers given are kept for those who lost theirs; who has none yet comes first.
            self.waiting.retain(|_, waiting| waiting.answer.is_none());
        }
        if self.waiting.len() >= waiting_max || from_here >= waiting_per_address_max {
            self.counters.backlog += 1;
            return Err(Reject::Backlog);
        }
        Ok(())
    }

    fn send_handshake(&mut self, peer: SocketAddr, fixed: Fixed, now: Instant) {
        let mut body = BytesMut::with_capacity(64);
        fixed.write(&mut body);
        let stamp = self.timestamp(now);
        let packet = control(ControlKind::Handshake, 0, stamp, fixed.socket_id, &body);
        self.send(peer, packet.freeze());
    }

    fn send(&mut self, peer: SocketAddr, datagram: Bytes) {
        if self.transmit.len() < self.limits.transmit_max {
            self.transmit.push_back((peer, datagram));
        }
    }

    fn timestamp(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_micros() as u32
    }

    fn epoch(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / COOKIE_AGE.as_secs()
    }

    /// What only a caller at this address can know.
    fn cookie(&self, peer: SocketAddr, epoch: u64) -> u32 {
        let mut context = hmac::Context::with_key(&self.secret);
        match peer.ip().to_canonical() {
            std::net::IpAddr::V4(ip) => context.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(&peer.port().to_be_bytes());
        context.update(&epoch.to_be_bytes());
        context.sign().as_ref().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

impl Caller {
    fn of(request: &Request) -> Self {
        let Fixed { socket_id, initial, .. } = request.fixed;
        Self { peer: request.peer, socket_id, initial }
    }
}

impl Request {
    /// The datagram that refuses this caller.
    pub fn refusal(&self, reject: Reject, timestamp: u32) -> Bytes {
        let mut body = BytesMut::with_capacity(64);
        let kind = REFUSAL + reject.code();
        Fixed { kind, extension: 0, ..self.fixed }.write(&mut body);
        control(ControlKind::Handshake, 0, timestamp, self.fixed.socket_id, &body).freeze()
    }

    /// Whether the caller sends key material.
    pub fn is_encrypted(&self) -> bool {
        self.keys.is_some()
    }

    pub(super) fn initial(&self) -> Seq {
        self.fixed.initial
    }
}
