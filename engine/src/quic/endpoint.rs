//! The connections of one shard. It owns quinn-proto's endpoint, the table of connections, their
//! timers and the caps on how many there may be; one connection's inside is [`super::conn`]'s.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{
    ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, EndpointEvent, ServerConfig, VarInt,
};
use weir_moqt as moqt;
use weir_moqt::Draft;
use weir_relay::admission::Backoff;
pub(super) use weir_relay::admission::Prefix;
use weir_xdp::{Datagram, Outcome, Port, Transmit};

use super::agenda::{Agenda, Rank};
use super::config::{self, Chance, Limits, Steering};
use super::congestion;
use super::conn::{Conn, Layer, Link, Phase, Pump};
use super::path::Moves;
use super::wt;

/// One connection of this endpoint; a stale one is ignored everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// Any connection, for tests of those who only pass it on.
    #[cfg(test)]
    pub(crate) fn nth(index: u32) -> Self {
        Self { index, generation: 0 }
    }

    /// Dense index for tables beside this endpoint.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// What happened on a connection.
#[derive(Debug)]
pub enum Event {
    /// A session can begin: the handshake is done and, for WebTransport, the CONNECT accepted.
    Opened {
        /// Negotiated draft.
        draft: Draft,
        /// Raw QUIC or WebTransport.
        transport: moqt::Transport,
        /// Path and query of the CONNECT; raw QUIC learns it from SETUP.
        path: Option<String>,
        /// The peer's address at that moment.
        peer: SocketAddr,
    },
    /// Bytes of a stream, in order.
    Stream {
        /// Which stream.
        id: moqt::StreamId,
        /// Its direction.
        dir: moqt::Dir,
        /// The bytes.
        data: Bytes,
        /// Nothing follows.
        fin: bool,
    },
    /// The peer reset its side of a stream.
    Reset {
        /// Which stream.
        id: moqt::StreamId,
        /// Application code.
        code: u32,
    },
    /// The peer wants no more of a stream of ours.
    Stopped {
        /// Which stream.
        id: moqt::StreamId,
        /// Application code.
        code: u32,
    },
    /// A stream that was blocked takes bytes again.
    Writable {
        /// Which stream.
        id: moqt::StreamId,
    },
    /// All of a finished stream was acknowledged.
    Acknowledged {
        /// Which stream.
        id: moqt::StreamId,
    },
    /// A datagram of the session.
    Datagram {
        /// Its payload.
        data: Bytes,
    },
    /// Streams of this direction can be opened again.
    Available {
        /// Which direction.
        dir: moqt::Dir,
    },
    /// The session is over, whoever ended it. The last event of a connection.
    Closed {
        /// Application code, 0 when the transport failed.
        code: u32,
        /// Why, for the log.
        reason: String,
    },
}

/// Counters of one endpoint; plain numbers, read by the shard's metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Bytes of UDP payload sent.
    pub bytes_sent: u64,
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Send calls (one may carry many segments).
    pub sends: u64,
    /// Connections accepted or begun.
    pub connections_opened: u64,
    /// Refused: `connections_max`.
    pub refused_capacity: u64,
    /// Refused: the node is being drained.
    pub refused_draining: u64,
    /// Refused: `connections_per_prefix_max`.
    pub refused_prefix: u64,
    /// Refused: `connections_per_prefix_per_second_max`.
    pub refused_rate: u64,
    /// Refused: an address that keeps showing tokens nobody signed.
    pub refused_backoff: u64,
    /// Answered with Retry: `half_open_max`.
    pub retries_sent: u64,
    /// Closed: `handshake_timeout`.
    pub handshake_timeouts: u64,
    /// Dropped: larger than `config::DATAGRAM_BYTES_MAX`.
    pub datagrams_oversized: u64,
    /// Dropped: from one more address than `moves_per_minute_max`.
    pub moves_refused: u64,
    /// Handshakes that failed in TLS or transport.
    pub handshake_failures: u64,
    /// Connections closed for a fault in HTTP/3.
    pub http3_violations: u64,
    /// Times the port took no more.
    pub port_full: u64,
}

/// The connections of one prefix: how many there are, and how many came within this second.
struct Crowd {
    open: u32,
    since: Instant,
    arrived: u32,
}

impl Crowd {
    fn lately(&self, now: Instant) -> u32 {
        let over = now.saturating_duration_since(self.since) >= Duration::from_secs(1);
        if over { 0 } else { self.arrived }
    }

    fn enter(&mut self, now: Instant) {
        self.open += 1;
        let arrived = self.lately(now);
        if arrived == 0 {
            self.since = now;
        }
        self.arrived = arrived + 1;
    }
}

/// A transmit the port had no room for; it goes first next time.
struct Held {
    transmit: quinn_proto::Transmit,
    contents: Vec<u8>,
}

/// QUIC endpoint of one shard.
pub struct Endpoint {
    inner: quinn_proto::Endpoint,
    limits: Limits,
    drafts: &'static [Draft],
    conns: Vec<Option<Conn>>,
    agenda: Agenda,
    open: usize,
    half_open: usize,
    prefixes: HashMap<Prefix, Crowd>,
    backoff: Backoff,
    events: VecDeque<(ConnId, Event)>,
    due: Vec<u32>,
    buffer: Vec<u8>,
    held: Option<Held>,
    /// Replies of the endpoint itself: Retry, version negotiation, stateless reset.
    replies: VecDeque<Held>,
    counters: Counters,
    draining: bool,
}

/// Bytes buffered towards a peer whatever its path: a picture of 8 Mb/s at 30 fps, or 0.65 s of a
/// path of 400 kb/s.
const SEND_WINDOW_MIN: u64 = 32 * 1024;

/// Endpoint replies waiting for the port; beyond it strangers go unanswered.
const REPLIES_MAX: usize = 256;

impl Endpoint {
    /// An endpoint; without `server` it only connects out.
    pub fn new(
        steering: Steering,
        server: Option<Arc<ServerConfig>>,
        drafts: &'static [Draft],
        limits: Limits,
        now: Instant,
    ) -> Self {
        Self::with_chance(steering, Chance::System, server, drafts, limits, now)
    }

    /// The same, with a source of chance of its own.
    pub fn with_chance(
        steering: Steering,
        chance: Chance,
        server: Option<Arc<ServerConfig>>,
        drafts: &'static [Draft],
        limits: Limits,
        now: Instant,
    ) -> Self {
        let config = config::endpoint(steering, chance);
        let inner = quinn_proto::Endpoint::new(config, server, true, None);
        Self {
            inner,
            limits,
            drafts,
            conns: Vec::new(),
            agenda: Agenda::new(now),
            open: 0,
            half_open: 0,
            prefixes: HashMap::new(),
            backoff: Backoff::default(),
            events: VecDeque::new(),
            due: Vec::new(),
            buffer: Vec::with_capacity(64 * 1024),
            held: None,
            replies: VecDeque::new(),
            counters: Counters::default(),
            draining: false,
        }
    }

    /// Connections held, open or closing.
    pub fn connections(&self) -> usize {
        self.open
    }

    /// Counters so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Refuses new sessions from now on, each in the words of its transport: a WebTransport CONNECT
    /// gets 503, raw QUIC a close. Connections that have a session keep it.
    pub fn drain(&mut self) {
        self.draining = true;
        for conn in self.conns.iter_mut().flatten() {
            if let (Phase::Opening, Layer::WebTransport(layer)) = (conn.phase, &mut conn.layer) {
                layer.drain();
            }
        }
    }

    /// Begins a connection.
    pub fn connect(
        &mut self,
        config: quinn_proto::ClientConfig,
        to: SocketAddr,
        name: &str,
        now: Instant,
    ) -> Result<ConnId, quinn_proto::ConnectError> {
        let (handle, inner) = self.inner.connect(now, config, to, name)?;
        Ok(self.insert(handle, inner, to, true, now))
    }

    /// One datagram from the network.
    pub fn handle_datagram(&mut self, datagram: Datagram, now: Instant) {
        self.counters.datagrams_received += 1;
        self.counters.bytes_received += datagram.data.len() as u64;
        if datagram.data.len() > config::DATAGRAM_BYTES_MAX.into() {
            self.counters.datagrams_oversized += 1;
            return;
        }
        let from = datagram.from;
        let ecn = datagram.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        self.buffer.clear();
        let event = self.inner.handle(
            now,
            datagram.from,
            datagram.to,
            ecn,
            datagram.data,
            &mut self.buffer,
        );
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(Some(conn)) = self.conns.get_mut(handle.0) {
                    let before = conn.inner.remote_address();
                    let most = self.limits.moves_per_minute_max;
                    if from != before && !conn.moves.is_allowed(most, now) {
                        self.counters.moves_refused += 1;
                        return;
                    }
                    conn.inner.handle_event(event);
                    let responses = || conn.inner.stats().frame_rx.path_response;
                    if from == before {
                        conn.moves.heard(responses);
                    } else if conn.inner.remote_address() == from {
                        conn.moves.moved(before, from, responses(), now);
                    }
                    let rank = conn.rank();
                    self.agenda.hear(handle.0 as u32);
                    self.agenda.mark(handle.0 as u32, rank);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(incoming, now),
            Some(DatagramEvent::Response(transmit)) => self.reply(transmit),
            None => {}
        }
    }

    /// Timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut due = std::mem::take(&mut self.due);
        self.agenda.expire(now, &mut due);
        for index in due.drain(..) {
            let Some(Some(conn)) = self.conns.get_mut(index as usize) else { continue };
            if conn.inner.poll_timeout().is_some_and(|at| at <= now) {
                conn.inner.handle_timeout(now);
            }
            if conn.deadline.is_some_and(|at| at <= now) {
                conn.deadline = None;
                if conn.phase == Phase::Opening {
                    self.counters.handshake_timeouts += 1;
                }
                conn.inner.close(now, VarInt::from_u32(wt::H3_NO_ERROR), Bytes::new());
            }
            let rank = conn.rank();
            self.agenda.hear(index);
            self.agenda.mark(index, rank);
        }
        self.due = due;
    }

    /// When to call `handle_timeout` next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.agenda.poll_timeout()
    }

    /// What happened, oldest first. Also moves quinn's own events along, so call it until `None`
    /// after handling input.
    pub fn poll_event(&mut self, now: Instant) -> Option<(ConnId, Event)> {
        while self.events.is_empty() {
            let index = self.agenda.next_heard()?;
            self.pump(index, now);
        }
        self.events.pop_front()
    }

    /// The connection as the relay writes to it; `None` once it is gone.
    pub fn link(&mut self, id: ConnId, now: Instant) -> Option<Link<'_>> {
        let conn = self.conns.get_mut(id.index as usize)?.as_mut()?;
        if conn.generation != id.generation {
            return None;
        }
        self.agenda.mark(id.index, conn.rank());
        // What QUIC has taken can no longer be overtaken or dropped whole, so it takes what the
        // path carries in two round trips and the rest waits in the group cache.
        let path = conn.inner.congestion_state().window().saturating_mul(2);
        let node = u64::from(conn.node) * config::NODE_SEND_WINDOW_BYTES;
        let most = self.limits.send_window_bytes.max(node);
        conn.inner.set_send_window(path.max(SEND_WINDOW_MIN).min(most));
        Some(Link { conn, agenda: &mut self.agenda, index: id.index, now })
    }

    /// A peer turned out to publish or to relay: it may hold as many streams open as that takes.
    pub fn trust_with_streams(&mut self, id: ConnId) {
        let Some(Some(conn)) = self.conns.get_mut(id.index as usize) else { return };
        if conn.generation == id.generation {
            let Limits { bidi_streams_max, uni_streams_max, .. } = self.limits;
            conn.inner.set_max_concurrent_streams(Dir::Bi, bidi_streams_max.into());
            conn.inner.set_max_concurrent_streams(Dir::Uni, uni_streams_max.into());
            self.agenda.mark(id.index, conn.rank());
        }
    }

    /// The peer showed a token that nobody signed; an address that makes a habit of it is not heard
    /// for a while.
    pub fn penalise(&mut self, id: ConnId, now: Instant) {
        if let Some(address) = self.remote(id) {
            self.backoff.fail(address.ip(), now);
        }
    }

    /// The peer's address.
    pub fn remote(&self, id: ConnId) -> Option<SocketAddr> {
        let conn = self.conns.get(id.index as usize)?.as_ref()?;
        (conn.generation == id.generation).then(|| conn.inner.remote_address())
    }

    /// A peer turned out to be a relay of ours: it may ask for as many tracks as there are.
    pub fn trust_node(&mut self, id: ConnId) {
        let Some(Some(conn)) = self.conns.get_mut(id.index as usize) else { return };
        if conn.generation == id.generation {
            let streams = VarInt::from_u32(config::NODE_STREAMS_MAX);
            conn.inner.set_max_concurrent_streams(Dir::Bi, streams);
            conn.node = true;
            congestion::trust_node(conn.inner.congestion_state());
            self.agenda.mark(id.index, conn.rank());
        }
    }

    /// Bytes of UDP payload received and sent on a connection.
    pub fn traffic(&self, id: ConnId) -> Option<(u64, u64)> {
        let conn = self.conns.get(id.index as usize)?.as_ref()?;
        let stats = (conn.generation == id.generation).then(|| conn.inner.stats())?;
        Some((stats.udp_rx.bytes, stats.udp_tx.bytes))
    }

    /// Makes a connection send something that its peer must acknowledge; returns how many frames of
    /// acknowledgement have come on it so far.
    pub fn probe(&mut self, id: ConnId) -> Option<u64> {
        let conn = self.conns.get_mut(id.index as usize)?.as_mut()?;
        if conn.generation != id.generation {
            return None;
        }
        conn.inner.ping();
        self.agenda.mark(id.index, conn.rank());
        Some(conn.inner.stats().frame_rx.acks)
    }

    /// Bytes that may be in flight on a connection.
    #[cfg(test)]
    pub(super) fn window(&self, id: ConnId) -> Option<u64> {
        let conn = self.conns.get(id.index as usize)?.as_ref()?;
        (conn.generation == id.generation).then(|| conn.inner.congestion_state().window())
    }

    /// Round-trip time as QUIC measures it.
    pub fn rtt(&self, id: ConnId) -> Option<Duration> {
        let conn = self.conns.get(id.index as usize)?.as_ref()?;
        (conn.generation == id.generation).then(|| conn.inner.rtt())
    }

    /// Bytes in the datagrams sent on a connection so far.
    pub fn bytes_sent(&self, id: ConnId) -> Option<u64> {
        let conn = self.conns.get(id.index as usize)?.as_ref()?;
        (conn.generation == id.generation).then(|| conn.inner.stats().udp_tx.bytes)
    }

    /// Closes every connection, as on shutdown.
    pub fn close_all(&mut self, code: u32, reason: &str, now: Instant) {
        for index in 0..self.conns.len() {
            if let Some(conn) = &mut self.conns[index] {
                let index = index as u32;
                Link { conn, agenda: &mut self.agenda, index, now }.close_now(code, reason);
            }
        }
    }

    /// Sends at once what one connection has to send: who was just written to is served while its state is in the
    /// caches, not after everybody else was written to. Nothing happens where the port is known to be full, or where
    /// handshakes wait, which go first; then `flush` serves it.
    pub fn flush_one(
        &mut self,
        id: ConnId,
        port: &mut dyn Port,
        now: Instant,
    ) -> std::io::Result<()> {
        let waits = self.held.is_some() || !self.replies.is_empty();
        let first = self.agenda.next_marked().is_some_and(|(_, rank)| rank == Rank::First);
        if !waits && !first && self.agenda.is_marked(id.index, id.generation) {
            self.transmit(id.index, port, now)?;
        }
        Ok(())
    }

    /// Sends what connections have to send. True when the port has no more room: call again once
    /// it has.
    pub fn flush(&mut self, port: &mut dyn Port, now: Instant) -> std::io::Result<bool> {
        while let Some(held) = self.held.take().or_else(|| self.replies.pop_front()) {
            if !send(port, &held.transmit, &held.contents, &mut self.counters)? {
                self.held = Some(held);
                return Ok(true);
            }
        }
        let mut full = false;
        // Handshakes and farewells are a few packets and have deadlines: where room is scarce, media
        // of those who are in must not stand before them.
        while !full && let Some((index, _)) = self.agenda.next_marked() {
            full = self.transmit(index, port, now)?;
        }
        port.flush()?;
        Ok(full)
    }

    /// Whether connections wait for `flush`.
    pub fn is_dirty(&mut self) -> bool {
        self.agenda.next_marked().is_some() || self.held.is_some() || !self.replies.is_empty()
    }

    /// How `quinn-proto` finds connections, in its own words.
    #[cfg(test)]
    pub(super) fn routes(&self) -> String {
        format!("{:?}", self.inner)
    }

    fn transmit(&mut self, index: u32, port: &mut dyn Port, now: Instant) -> std::io::Result<bool> {
        let slot = index as usize;
        let segments = port.max_segments();
        loop {
            let Some(Some(conn)) = self.conns.get_mut(slot) else {
                self.agenda.unmark(index);
                return Ok(false);
            };
            self.buffer.clear();
            let Some(transmit) = conn.inner.poll_transmit(now, segments, &mut self.buffer) else {
                break;
            };
            if conn.moves.withholds(&transmit) {
                continue;
            }
            let contents = &self.buffer[..transmit.size];
            if !send(port, &transmit, contents, &mut self.counters)? {
                let contents = contents.to_vec();
                self.held = Some(Held { transmit, contents });
                return Ok(true);
            }
        }
        self.agenda.unmark(index);
        self.endpoint_events(index);
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return Ok(false) };
        let next = [conn.inner.poll_timeout(), conn.deadline].into_iter().flatten().min();
        self.agenda.schedule(index, next);
        Ok(false)
    }

    /// Exchanges events between a connection and quinn's endpoint; frees it once drained.
    fn endpoint_events(&mut self, index: u32) {
        let slot = index as usize;
        loop {
            let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
            let Some(event) = conn.inner.poll_endpoint_events() else { return };
            let drained = event.is_drained();
            let answer = self.hand_up(slot, event);
            if let Some(answer) = answer
                && let Some(Some(conn)) = self.conns.get_mut(slot)
            {
                conn.inner.handle_event(answer);
            }
            if drained {
                self.remove(slot);
                return;
            }
        }
    }

    fn hand_up(
        &mut self,
        slot: usize,
        event: EndpointEvent,
    ) -> Option<quinn_proto::ConnectionEvent> {
        self.inner.handle_event(ConnectionHandle(slot), event)
    }

    fn accept(&mut self, incoming: quinn_proto::Incoming, now: Instant) {
        self.buffer.clear();
        let peer = incoming.remote_address();
        let prefix = Prefix::of(peer.ip());
        // The cheap questions first: nothing here costs a signature or a key exchange.
        if self.backoff.wait(peer.ip(), now).is_some() {
            self.counters.refused_backoff += 1;
            let transmit = self.inner.refuse(incoming, &mut self.buffer);
            return self.reply(transmit);
        }
        let crowd = self.prefixes.get(&prefix);
        let of_prefix = crowd.map_or(0, |crowd| crowd.open);
        let lately = crowd.map_or(0, |crowd| crowd.lately(now));
        let too_fast = lately >= self.limits.connections_per_prefix_per_second_max;
        if self.open >= self.limits.connections_max {
            self.counters.refused_capacity += 1;
            let transmit = self.inner.refuse(incoming, &mut self.buffer);
            return self.reply(transmit);
        }
        if of_prefix >= self.limits.connections_per_prefix_max {
            self.counters.refused_prefix += 1;
            let transmit = self.inner.refuse(incoming, &mut self.buffer);
            return self.reply(transmit);
        }
        // A stranger who writes another's address must not use up that one's share: it has to answer
        // a Retry before it is told no.
        if too_fast && (incoming.remote_address_validated() || !incoming.may_retry()) {
            self.counters.refused_rate += 1;
            let transmit = self.inner.refuse(incoming, &mut self.buffer);
            return self.reply(transmit);
        }
        if (too_fast || self.half_open >= self.limits.half_open_max)
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            self.counters.retries_sent += 1;
            if let Ok(transmit) = self.inner.retry(incoming, &mut self.buffer) {
                self.reply(transmit);
            }
            return;
        }
        match self.inner.accept(incoming, now, &mut self.buffer, None) {
            Ok((handle, conn)) => {
                self.insert(handle, conn, peer, false, now);
            }
            Err(error) => {
                self.counters.handshake_failures += 1;
                if let Some(transmit) = error.response {
                    self.reply(transmit);
                }
            }
        }
    }

    fn insert(
        &mut self,
        handle: ConnectionHandle,
        inner: quinn_proto::Connection,
        peer: SocketAddr,
        client: bool,
        now: Instant,
    ) -> ConnId {
        let slot = handle.0;
        if slot >= self.conns.len() {
            self.conns.resize_with(slot + 1, || None);
        }
        let generation = self.agenda.insert(slot as u32);
        let prefix = Prefix::of(peer.ip());
        let nobody = Crowd { open: 0, since: now, arrived: 0 };
        self.prefixes.entry(prefix).or_insert(nobody).enter(now);
        self.open += 1;
        self.half_open += 1;
        self.counters.connections_opened += 1;
        let conn = Conn {
            inner,
            generation,
            layer: Layer::Pending,
            phase: Phase::Opening,
            deadline: Some(now + self.limits.handshake_timeout),
            prefix,
            client,
            node: false,
            unsent: Vec::new(),
            moves: Moves::new(now),
        };
        self.conns[slot] = Some(conn);
        self.agenda.hear(slot as u32);
        self.agenda.mark(slot as u32, Rank::First);
        ConnId { index: slot as u32, generation }
    }

    fn remove(&mut self, slot: usize) {
        let Some(conn) = self.conns[slot].take() else { return };
        self.agenda.remove(slot as u32);
        self.open -= 1;
        if conn.phase == Phase::Opening {
            self.half_open -= 1;
        }
        if let Some(crowd) = self.prefixes.get_mut(&conn.prefix) {
            crowd.open -= 1;
            if crowd.open == 0 {
                self.prefixes.remove(&conn.prefix);
            }
        }
        let begun_here = conn.client && conn.phase == Phase::Opening;
        if begun_here || matches!(conn.phase, Phase::Open | Phase::Closing) {
            let id = ConnId { index: slot as u32, generation: conn.generation };
            let reason = if begun_here { "handshake timed out" } else { "connection drained" };
            let reason = reason.to_owned();
            self.events.push_back((id, Event::Closed { code: 0, reason }));
        }
    }

    /// Moves one connection's events and stream bytes into the queue.
    fn pump(&mut self, index: u32, now: Instant) {
        let Some(Some(conn)) = self.conns.get_mut(index as usize) else { return };
        let id = ConnId { index, generation: conn.generation };
        let mut out = Pump {
            id,
            events: &mut self.events,
            counters: &mut self.counters,
            half_open: &mut self.half_open,
            drafts: self.drafts,
            draining: self.draining,
            now,
        };
        while let Some(event) = conn.inner.poll() {
            out.event(conn, event);
        }
    }

    fn reply(&mut self, transmit: quinn_proto::Transmit) {
        if self.replies.len() < REPLIES_MAX {
            let contents = self.buffer[..transmit.size].to_vec();
            self.replies.push_back(Held { transmit, contents });
        }
    }
}

fn send(
    port: &mut dyn Port,
    transmit: &quinn_proto::Transmit,
    contents: &[u8],
    counters: &mut Counters,
) -> std::io::Result<bool> {
    let outcome = port.send(&Transmit {
        destination: transmit.destination,
        src_ip: transmit.src_ip,
        ecn: transmit.ecn.and_then(|ecn| weir_xdp::Ecn::from_bits(ecn as u8)),
        contents,
        segment_size: transmit.segment_size,
    })?;
    match outcome {
        Outcome::Sent => {
            let segments = transmit.segment_size.map_or(1, |size| contents.len().div_ceil(size));
            counters.sends += 1;
            counters.datagrams_sent += segments as u64;
            counters.bytes_sent += contents.len() as u64;
            Ok(true)
        }
        Outcome::Full => {
            counters.port_full += 1;
            Ok(false)
        }
    }
}
