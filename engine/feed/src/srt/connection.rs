//! An accepted caller: its packets in order and in time, what is missing asked for again, what is too late given up
//! (draft-sharabayko-srt §4.4 to §4.11). Owns the receive side only, since a publisher is sent nothing but control
//! packets; knows no media.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::crypto::{KeyFault, Keys};
use super::handshake::{Fixed, HAS_HELLO, HAS_KEYS, Hello, write_key_response};
use super::packet::{Control, ControlKind, Data, KeyParity, Packet, Seq, control};
use super::time::{Due, Rtt};
use super::window::{Next, Placed, Window};
use super::{Reject, Request};
use crate::Secret;

/// Packets between a lost one and the newest: 16,384 x 1,316 bytes is 21 MB, or 8.6 s of 20 Mb/s.
const WINDOW_PACKETS: usize = 16_384;

/// Longest delay granted: what the window holds at 17 Mb/s.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// Full acknowledgements go this often (§4.8.1), light ones after so many packets.
const ACK_INTERVAL: Duration = Duration::from_millis(10);
const LIGHT_ACK_PACKETS: u32 = 64;

/// Acknowledgements whose answer is waited for: more than one round trip of 10 ms steps holds.
const ACKS_MAX: usize = 128;

/// Silence after which we say that we are here, and after which the caller is gone: libsrt's numbers.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Ranges in one loss report: 160 x 8 bytes fit a datagram.
const RANGES_MAX: usize = 160;

/// New key material is looked at this often: deriving a key takes a millisecond.
const KEYS_INTERVAL: Duration = Duration::from_millis(500);

/// What we say we are, and can do: delivery in time both ways, encryption, late packets given up, loss
/// reports repeated, retransmissions marked (table 6).
const VERSION: u32 = 0x01_05_00;
const FLAGS: u32 = 0x3f;

/// What a shell accepts a caller with.
#[derive(Clone, Debug)]
pub struct Accept {
    /// Names the connection in every packet from the caller; under 2^30.
    pub socket_id: u32,
    /// What the caller must encrypt with, if anything.
    pub passphrase: Option<Secret>,
    /// Least delay between sending and delivery; the caller may ask for more.
    pub delay: Duration,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CloseReason {
    /// [`Connection::close`].
    Closed,
    /// The caller said goodbye.
    Shutdown,
    /// No packet for five seconds.
    TimedOut,
}

/// The link, as its receiver sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Statistics {
    /// Payload bytes, repeated ones included.
    pub bytes: u64,
    /// Data packets, repeated ones included.
    pub packets: u64,
    /// Those the sender marked as sent again.
    pub retransmitted: u64,
    /// Packets that were missing when a later one came.
    pub lost: u64,
    /// Packets given up: they, or their key, were not there in time.
    pub dropped: u64,
    /// Packets that came after they were given up.
    pub belated: u64,
    /// Packets that were here already.
    pub duplicates: u64,
    /// Packets too far ahead to be kept.
    pub beyond: u64,
    /// Packets that could not be deciphered, or were not encrypted where they must be.
    pub undecipherable: u64,
    /// Loss reports sent.
    pub reports: u64,
    /// Key material taken in after the first.
    pub key_refreshes: u64,
    /// Round-trip time.
    pub rtt: Duration,
    /// Its variance.
    pub rtt_variance: Duration,
    /// The negotiated delay.
    pub delay: Duration,
    /// How far the sender's clock has drifted from ours, in microseconds.
    pub drift_us: i64,
}

/// What comes out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Event {
    Payload(Bytes),
    /// Something is missing before what follows.
    Gap,
    Closed(CloseReason),
}

/// An accepted caller.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    socket_id: u32,
    peer_id: u32,
    start: Instant,
    window: Window,
    due: Due,
    rtt: Rtt,
    keys: Option<Keys>,
    keys_looked_at: Option<Instant>,
    acks: Acks,
    report_at: Option<Instant>,
    heard: Instant,
    spoke: Instant,
    transmit: VecDeque<Bytes>,
    closed: Option<CloseReason>,
    told: bool,
    statistics: Statistics,
}

#[derive(Debug)]
struct Acks {
    number: u32,
    last: Seq,
    /// Sent and not answered: number and when.
    open: VecDeque<(u32, Instant)>,
    next: Instant,
    packets_since: u32,
    /// Packets and bytes of the second under way, and what the last one had.
    second: (Instant, u32, u32),
    rate: (u32, u32),
}

impl Connection {
    /// Lets a caller in, or says why not. The answer is the first thing to send.
    pub fn accept(
        request: &Request,
        accept: Accept,
        now: Instant,
    ) -> Result<(Self, Bytes), Reject> {
        let keys = match (&request.keys, accept.passphrase) {
            (None, None) => None,
            (Some(material), Some(passphrase)) => {
                let mut keys = Keys::new(passphrase);
                keys.handle_material(material).map_err(|fault| match fault {
                    KeyFault::BadSecret => Reject::BadSecret,
                    KeyFault::Malformed => Reject::BadRequest,
                })?;
                Some(keys)
            }
            (None, Some(_)) | (Some(_), None) => return Err(Reject::Unsecure),
        };
        // §4.4: the larger of what both sides want.
        let asked = Duration::from_millis(u64::from(request.hello.sender_delay));
        let delay = accept.delay.max(asked).min(DELAY_MAX);
        let mut connection = Self {
            peer: request.peer,
            socket_id: accept.socket_id,
            peer_id: request.fixed.socket_id,
            start: now,
            window: Window::new(request.initial(), WINDOW_PACKETS),
            due: Due::new(request.timestamp, request.arrived, delay),
            rtt: Rtt::default(),
            keys,
            keys_looked_at: None,
            acks: Acks {
                number: 0,
                last: request.initial(),
                open: VecDeque::new(),
                next: now,
                packets_since: 0,
                second: (now, 0, 0),
                rate: (0, 0),
            },
            report_at: None,
            heard: now,
            spoke: now,
            transmit: VecDeque::new(),
            closed: None,
            told: false,
            statistics: Statistics::default(),
        };
        let answer = connection.answer(request, now);
        connection.transmit.push_back(answer.clone());
        Ok((connection, answer))
    }

    /// Where the caller is.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What names the connection.
    pub fn socket_id(&self) -> u32 {
        self.socket_id
    }

    /// A datagram from `from` to this connection.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        // A packet from elsewhere is somebody's guess at the number.
        if from != self.peer || self.closed.is_some() {
            return;
        }
        match Packet::read(datagram) {
            Some(Packet::Data(data)) => {
                self.heard = now;
                self.data(&data, now);
            }
            Some(Packet::Control(packet)) => {
                self.heard = now;
                self.control(&packet, now);
            }
            None => {}
        }
    }

    /// Acts on what is due: acknowledgements, loss reports, signs of life.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        if now.saturating_duration_since(self.heard) >= IDLE_MAX {
            self.send(ControlKind::Shutdown, 0, &[], now);
            self.closed = Some(CloseReason::TimedOut);
            return;
        }
        if now >= self.acks.next {
            self.acknowledge(now);
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_missing(now);
        }
        if now.saturating_duration_since(self.spoke) >= KEEP_ALIVE {
            self.send(ControlKind::KeepAlive, 0, &[], now);
        }
    }

    /// When [`Connection::handle_timeout`], or the next payload, is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        let fixed = [self.heard + IDLE_MAX, self.spoke + KEEP_ALIVE];
        let ack = (self.acks.packets_since > 0 || self.acks.last != self.window.acknowledge())
            .then_some(self.acks.next);
        let moving = [ack, self.report_at, self.window.poll_timeout()];
        fixed.into_iter().chain(moving.into_iter().flatten()).min()
    }

    /// The next datagram for the caller.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmit.pop_front()
    }

    /// Says goodbye.
    pub fn close(&mut self, now: Instant) {
        if self.closed.is_none() {
            self.send(ControlKind::Shutdown, 0, &[], now);
            self.closed = Some(CloseReason::Closed);
        }
    }

    /// The link so far.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            rtt: self.rtt.smooth,
            rtt_variance: self.rtt.variance,
            delay: self.due.delay(),
            drift_us: self.due.drift_us(),
            ..self.statistics
        }
    }

    pub(super) fn poll_event(&mut self, now: Instant) -> Option<Event> {
        match self.window.poll(now) {
            Some(Next::Payload(bytes)) => return Some(Event::Payload(bytes)),
            Some(Next::Lost(count)) => {
                self.statistics.dropped += u64::from(count);
                return Some(Event::Gap);
            }
            None => {}
        }
        let reason = self.closed.filter(|_| !self.told)?;
        self.told = true;
        Some(Event::Closed(reason))
    }

    fn answer(&self, request: &Request, now: Instant) -> Bytes {
        let mut body = BytesMut::with_capacity(160);
        let keys = if request.keys.is_some() { HAS_KEYS } else { 0 };
        Fixed {
            version: 5,
            encryption: request.fixed.encryption,
            extension: HAS_HELLO | keys,
            mtu: request.fixed.mtu.min(1500),
            flow_window: WINDOW_PACKETS as u32,
            socket_id: self.socket_id,
            cookie: 0,
            ..request.fixed
        }
        .write(&mut body);
        Hello {
            version: VERSION,
            flags: FLAGS,
            receiver_delay: self.due.delay().as_millis() as u16,
            sender_delay: request.hello.receiver_delay,
        }
        .write_response(&mut body);
        if let Some(material) = &request.keys {
            write_key_response(material, &mut body);
        }
        control(ControlKind::Handshake, 0, self.timestamp(now), self.peer_id, &body).freeze()
    }

    fn data(&mut self, data: &Data<'_>, now: Instant) {
        self.statistics.packets += 1;
        self.statistics.bytes += data.payload.len() as u64;
        self.statistics.retransmitted += u64::from(data.is_retransmitted);
        self.acks.count(data.payload.len(), now);
        let payload = self.decipher(data);
        let due = self.due.at(data.timestamp, now);
        match self.window.place(data.seq, due, payload) {
            Placed::New { gap: 0 } => {}
            Placed::New { gap } => {
                self.statistics.lost += u64::from(gap);
                // §4.8.2: at once, and again until it comes or is given up.
                let first = Seq::new(data.seq.number().wrapping_sub(gap));
                let last = Seq::new(data.seq.number().wrapping_sub(1));
                self.report(&[(first, last)], now);
                self.report_at.get_or_insert(now + self.rtt.patience());
            }
            Placed::Duplicate => self.statistics.duplicates += 1,
            Placed::Late => self.statistics.belated += 1,
            Placed::Beyond => self.statistics.beyond += 1,
        }
        if self.acks.packets_since >= LIGHT_ACK_PACKETS {
            self.acks.packets_since = 0;
            let seq = self.window.acknowledge().number();
            self.send(ControlKind::Ack, 0, &seq.to_be_bytes(), now);
        }
    }

    fn decipher(&mut self, data: &Data<'_>) -> Option<Bytes> {
        let mut payload = BytesMut::from(data.payload);
        let readable = match &self.keys {
            Some(keys) => keys.decipher(data.key, data.seq, &mut payload),
            None => data.key == KeyParity::Clear,
        };
        if !readable {
            self.statistics.undecipherable += 1;
            return None;
        }
        Some(payload.freeze())
    }

    fn control(&mut self, packet: &Control<'_>, now: Instant) {
        match packet.kind {
            ControlKind::AckAck => {
                if let Some(sent) = self.acks.answered(packet.specific) {
                    self.rtt.handle_sample(now.saturating_duration_since(sent));
                    self.due.handle_sample(packet.timestamp, self.rtt.smooth, now);
                }
            }
            ControlKind::Shutdown => self.closed = Some(CloseReason::Shutdown),
            ControlKind::DropRequest => {
                let word = |at: usize| {
                    let bytes = packet.body.get(at..).and_then(|rest| rest.first_chunk());
                    bytes.map(|bytes| Seq::new(u32::from_be_bytes(*bytes)))
                };
                if let (Some(first), Some(last)) = (word(0), word(4)) {
                    self.window.give_up(first, last, now);
                }
            }
            ControlKind::KeyRequest => self.refresh_keys(packet.body, now),
            // The caller's handshake again: the listener answers those. The rest is for senders.
            _ => {}
        }
    }

    /// §6.1.6: the next key, before it is used. The answer is the question.
    fn refresh_keys(&mut self, material: &[u8], now: Instant) {
        let soon = |at: Instant| now.saturating_duration_since(at) < KEYS_INTERVAL;
        if self.keys_looked_at.is_some_and(soon) {
            return;
        }
        self.keys_looked_at = Some(now);
        let Some(keys) = &mut self.keys else { return };
        if keys.handle_material(material).is_ok() {
            self.statistics.key_refreshes += 1;
            let material = Bytes::copy_from_slice(material);
            self.send(ControlKind::KeyResponse, 0, &material, now);
        } else {
            // State 4: bad secret.
            self.send(ControlKind::KeyResponse, 0, &4_u32.to_be_bytes(), now);
        }
    }

    /// §3.2.4: all before the first that is missing, and what the sender may make of the path.
    fn acknowledge(&mut self, now: Instant) {
        self.acks.next = now + ACK_INTERVAL;
        self.acks.packets_since = 0;
        let seq = self.window.acknowledge();
        // Nothing new, and the last one may still be on its way or was answered.
        if seq == self.acks.last {
            return;
        }
        self.acks.last = seq;
        self.acks.number = self.acks.number.wrapping_add(1).max(1);
        if self.acks.open.len() == ACKS_MAX {
            self.acks.open.pop_front();
        }
        self.acks.open.push_back((self.acks.number, now));
        let (packets, bytes) = self.acks.rate;
        let mut body = BytesMut::with_capacity(28);
        body.put_u32(seq.number());
        body.put_u32(self.rtt.smooth.as_micros() as u32);
        body.put_u32(self.rtt.variance.as_micros() as u32);
        body.put_u32(self.window.room().max(2) as u32);
        body.put_u32(packets);
        body.put_u32(packets.max(1000)); // capacity: nobody measures it
        body.put_u32(bytes);
        self.send(ControlKind::Ack, self.acks.number, &body, now);
    }

    fn report_missing(&mut self, now: Instant) {
        if !self.window.has_missing() {
            self.report_at = None;
            return;
        }
        self.report_at = Some(now + self.rtt.patience());
        let ranges = self.window.missing(RANGES_MAX);
        self.report(&ranges, now);
    }

    /// Appendix A of the draft: single numbers, or ranges whose first number is marked.
    fn report(&mut self, ranges: &[(Seq, Seq)], now: Instant) {
        let mut body = BytesMut::with_capacity(ranges.len() * 8);
        for (first, last) in ranges {
            if first != last {
                body.put_u32(first.number() | 1 << 31);
            }
            body.put_u32(last.number());
        }
        self.statistics.reports += 1;
        self.send(ControlKind::Nak, 0, &body, now);
    }

    fn send(&mut self, kind: ControlKind, specific: u32, body: &[u8], now: Instant) {
        self.spoke = now;
        let stamp = self.timestamp(now);
        self.transmit.push_back(control(kind, specific, stamp, self.peer_id, body).freeze());
    }

    fn timestamp(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_micros() as u32
    }
}

impl Acks {
    fn count(&mut self, bytes: usize, now: Instant) {
        self.packets_since += 1;
        let (since, packets, in_bytes) = self.second;
        if now.saturating_duration_since(since) >= Duration::from_secs(1) {
            self.rate = (packets, in_bytes);
            self.second = (now, 1, bytes as u32);
        } else {
            self.second = (since, packets + 1, in_bytes.saturating_add(bytes as u32));
        }
    }

    /// When the acknowledgement of this number left; older ones are of no use any more.
    fn answered(&mut self, number: u32) -> Option<Instant> {
        let at = self.open.iter().position(|(open, _)| *open == number)?;
        self.open.drain(..=at).next_back().map(|(_, sent)| sent)
    }
}
