//! The connections of one shard. It owns quinn-proto's endpoint and connections, their timers, and
//! the layer (raw QUIC or WebTransport) that turns QUIC streams into session streams.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{
    ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, EndpointEvent, ReadError, ServerConfig,
    StreamEvent, StreamId, VarInt,
};
use weir_moqt as moqt;
use weir_moqt::Draft;
use weir_relay::WriteError;
use weir_xdp::{Datagram, Outcome, Port, Transmit};

use super::config::{self, Limits, Steering};
use super::wheel::{Due, Wheel};
use super::wt;

/// How long a closed session may take to read its farewell before the connection goes.
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);

/// Longest chunk read from a stream at once; a cap on what one event carries, not on streams.
const READ_BYTES_MAX: usize = 64 * 1024;

/// One connection of this endpoint; a stale one is ignored everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
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
    /// Refused: `connections_per_prefix_max`.
    pub refused_prefix: u64,
    /// Answered with Retry: `half_open_max`.
    pub retries_sent: u64,
    /// Closed: `handshake_timeout`.
    pub handshake_timeouts: u64,
    /// Handshakes that failed in TLS or transport.
    pub handshake_failures: u64,
    /// Connections closed for a fault in HTTP/3.
    pub http3_violations: u64,
    /// Times the port took no more.
    pub port_full: u64,
}

enum Layer {
    /// Handshake under way.
    Pending,
    /// MoQT directly on QUIC streams.
    Raw,
    /// WebTransport over HTTP/3.
    WebTransport(Box<wt::Server>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No session yet.
    Opening,
    /// `Event::Opened` was given.
    Open,
    /// Closing by us; the owner has not heard `Closed` yet.
    Closing,
    /// `Event::Closed` was given.
    Closed,
}

struct Conn {
    inner: quinn_proto::Connection,
    generation: u32,
    layer: Layer,
    phase: Phase,
    dirty: bool,
    /// Tick of the wheel entry that stands for this connection.
    scheduled: Option<u64>,
    /// Handshake deadline, later the end of the linger.
    deadline: Option<Instant>,
    prefix: Prefix,
    client: bool,
    /// Stream headers that did not fit when their stream was opened.
    unsent: Vec<(StreamId, Bytes)>,
}

/// What connections are counted by: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Prefix {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let mut prefix = [0; 8];
                prefix.copy_from_slice(&v6.octets()[..8]);
                Self::V6(prefix)
            }
        }
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
    generations: Vec<u32>,
    open: usize,
    half_open: usize,
    prefixes: HashMap<Prefix, u32>,
    dirty: Vec<u32>,
    events: VecDeque<(ConnId, Event)>,
    wheel: Wheel,
    due: Vec<Due>,
    buffer: Vec<u8>,
    held: Option<Held>,
    /// Replies of the endpoint itself: Retry, version negotiation, stateless reset.
    replies: VecDeque<Held>,
    counters: Counters,
    draining: bool,
}

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
        let inner = quinn_proto::Endpoint::new(config::endpoint(steering), server, true, None);
        Self {
            inner,
            limits,
            drafts,
            conns: Vec::new(),
            generations: Vec::new(),
            open: 0,
            half_open: 0,
            prefixes: HashMap::new(),
            dirty: Vec::new(),
            events: VecDeque::new(),
            wheel: Wheel::new(now),
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

    /// Refuses new connections from now on.
    pub fn drain(&mut self) {
        self.draining = true;
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
                    conn.inner.handle_event(event);
                    mark(&mut self.dirty, conn, handle.0);
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
        self.wheel.expire(now, &mut due);
        for entry in due.drain(..) {
            let Some(Some(conn)) = self.conns.get_mut(entry.index as usize) else { continue };
            if conn.generation != entry.generation || conn.scheduled != Some(entry.tick()) {
                continue;
            }
            conn.scheduled = None;
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
            mark(&mut self.dirty, conn, entry.index as usize);
        }
        self.due = due;
    }

    /// When to call `handle_timeout` next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// What happened, oldest first. Also moves quinn's own events along, so call it until `None`
    /// after handling input.
    pub fn poll_event(&mut self, now: Instant) -> Option<(ConnId, Event)> {
        if self.events.is_empty() {
            // Reading may dirty nothing new, so one pass over the list is enough.
            for at in 0..self.dirty.len() {
                self.pump(self.dirty[at], now);
            }
        }
        self.events.pop_front()
    }

    /// The connection as the relay writes to it; `None` once it is gone.
    pub fn link(&mut self, id: ConnId, now: Instant) -> Option<Link<'_>> {
        let conn = self.conns.get_mut(id.index as usize)?.as_mut()?;
        if conn.generation != id.generation {
            return None;
        }
        mark(&mut self.dirty, conn, id.index as usize);
        Some(Link { conn, now })
    }

    /// Round-trip time as QUIC measures it.
    pub fn rtt(&self, id: ConnId) -> Option<std::time::Duration> {
        let conn = self.conns.get(id.index as usize)?.as_ref()?;
        (conn.generation == id.generation).then(|| conn.inner.rtt())
    }

    /// Closes every connection, as on shutdown.
    pub fn close_all(&mut self, code: u32, reason: &str, now: Instant) {
        for index in 0..self.conns.len() {
            if let Some(conn) = &mut self.conns[index] {
                mark(&mut self.dirty, conn, index);
                Link { conn, now }.close_now(code, reason);
            }
        }
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
        let mut at = 0;
        while at < self.dirty.len() && !full {
            let index = self.dirty[at];
            full = self.transmit(index, port, now)?;
            if !full {
                at += 1;
            }
        }
        self.dirty.drain(..at);
        port.flush()?;
        Ok(full)
    }

    /// Whether connections wait for `flush`.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.held.is_some() || !self.replies.is_empty()
    }

    fn transmit(&mut self, index: u32, port: &mut dyn Port, now: Instant) -> std::io::Result<bool> {
        let slot = index as usize;
        let segments = port.max_segments();
        loop {
            let Some(Some(conn)) = self.conns.get_mut(slot) else { return Ok(false) };
            self.buffer.clear();
            let Some(transmit) = conn.inner.poll_transmit(now, segments, &mut self.buffer) else {
                break;
            };
            let contents = &self.buffer[..transmit.size];
            if !send(port, &transmit, contents, &mut self.counters)? {
                let contents = contents.to_vec();
                self.held = Some(Held { transmit, contents });
                return Ok(true);
            }
        }
        self.endpoint_events(index);
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return Ok(false) };
        conn.dirty = false;
        let next = [conn.inner.poll_timeout(), conn.deadline].into_iter().flatten().min();
        if let Some(at) = next {
            let tick = self.wheel.schedule(index, conn.generation, at, conn.scheduled);
            conn.scheduled = Some(tick);
        }
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

    fn hand_up(&mut self, slot: usize, event: EndpointEvent) -> Option<quinn_proto::ConnectionEvent> {
        self.inner.handle_event(ConnectionHandle(slot), event)
    }

    fn accept(&mut self, incoming: quinn_proto::Incoming, now: Instant) {
        self.buffer.clear();
        let peer = incoming.remote_address();
        let prefix = Prefix::of(peer.ip());
        let of_prefix = self.prefixes.get(&prefix).copied().unwrap_or(0);
        if self.draining || self.open >= self.limits.connections_max {
            self.counters.refused_capacity += 1;
            let transmit = self.inner.refuse(incoming, &mut self.buffer);
            return self.reply(transmit);
        }
        if of_prefix >= self.limits.connections_per_prefix_max {
            self.counters.refused_prefix += 1;
            let transmit = self.inner.refuse(incoming, &mut self.buffer);
            return self.reply(transmit);
        }
        if self.half_open >= self.limits.half_open_max
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
            self.generations.resize(slot + 1, 0);
        }
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        let prefix = Prefix::of(peer.ip());
        *self.prefixes.entry(prefix).or_insert(0) += 1;
        self.open += 1;
        self.half_open += 1;
        self.counters.connections_opened += 1;
        let mut conn = Conn {
            inner,
            generation: self.generations[slot],
            layer: Layer::Pending,
            phase: Phase::Opening,
            dirty: false,
            scheduled: None,
            deadline: Some(now + self.limits.handshake_timeout),
            prefix,
            client,
            unsent: Vec::new(),
        };
        mark(&mut self.dirty, &mut conn, slot);
        self.conns[slot] = Some(conn);
        ConnId { index: slot as u32, generation: self.generations[slot] }
    }

    fn remove(&mut self, slot: usize) {
        let Some(conn) = self.conns[slot].take() else { return };
        self.open -= 1;
        if conn.phase == Phase::Opening {
            self.half_open -= 1;
        }
        if let Some(count) = self.prefixes.get_mut(&conn.prefix) {
            *count -= 1;
            if *count == 0 {
                self.prefixes.remove(&conn.prefix);
            }
        }
        if matches!(conn.phase, Phase::Open | Phase::Closing) {
            let id = ConnId { index: slot as u32, generation: conn.generation };
            let reason = "connection drained".to_owned();
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

fn mark(dirty: &mut Vec<u32>, conn: &mut Conn, index: usize) {
    if !conn.dirty {
        conn.dirty = true;
        dirty.push(index as u32);
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

/// Turns quinn's events of one connection into ours.
struct Pump<'a> {
    id: ConnId,
    events: &'a mut VecDeque<(ConnId, Event)>,
    counters: &'a mut Counters,
    half_open: &'a mut usize,
    drafts: &'static [Draft],
    now: Instant,
}

impl Pump<'_> {
    fn event(&mut self, conn: &mut Conn, event: quinn_proto::Event) {
        use quinn_proto::Event as Q;
        match event {
            Q::Connected => self.connected(conn),
            Q::ConnectionLost { reason } => self.lost(conn, &reason),
            Q::Stream(StreamEvent::Opened { dir }) => {
                while let Some(id) = conn.inner.streams().accept(dir) {
                    self.read(conn, id);
                }
            }
            Q::Stream(StreamEvent::Readable { id }) => self.read(conn, id),
            Q::Stream(StreamEvent::Writable { id }) => {
                self.push(Event::Writable { id: moqt_id(id) });
            }
            Q::Stream(StreamEvent::Stopped { id, error_code }) => {
                let code = code_in(conn, error_code);
                self.push(Event::Stopped { id: moqt_id(id), code });
            }
            Q::Stream(StreamEvent::Available { dir }) => {
                self.push(Event::Available { dir: moqt_dir(dir) });
            }
            Q::DatagramReceived => while conn.inner.datagrams().recv().is_some() {},
            Q::HandshakeDataReady
            | Q::DatagramsUnblocked
            | Q::Stream(StreamEvent::Finished { .. }) => {}
        }
    }

    fn connected(&mut self, conn: &mut Conn) {
        let protocol = conn
            .inner
            .crypto_session()
            .handshake_data()
            .and_then(|data| data.downcast::<quinn_proto::crypto::rustls::HandshakeData>().ok())
            .and_then(|data| data.protocol);
        match protocol.as_deref() {
            Some(config::ALPN_H3) if !conn.client => {
                let mut layer = Box::new(wt::Server::new(self.drafts));
                layer.start(&mut conn.inner);
                conn.layer = Layer::WebTransport(layer);
            }
            token => {
                let draft = token
                    .and_then(|token| std::str::from_utf8(token).ok())
                    .and_then(Draft::from_token);
                let Some(draft) = draft else {
                    // TLS agreed on one of our own tokens, or there was none to agree on.
                    self.counters.handshake_failures += 1;
                    conn.inner.close(self.now, VarInt::from_u32(0), Bytes::new());
                    return;
                };
                conn.layer = Layer::Raw;
                self.opened(conn, draft, moqt::Transport::Quic, None);
            }
        }
    }

    fn opened(
        &mut self,
        conn: &mut Conn,
        draft: Draft,
        transport: moqt::Transport,
        path: Option<String>,
    ) {
        conn.phase = Phase::Open;
        conn.deadline = None;
        *self.half_open -= 1;
        let peer = conn.inner.remote_address();
        self.push(Event::Opened { draft, transport, path, peer });
    }

    fn lost(&mut self, conn: &mut Conn, reason: &quinn_proto::ConnectionError) {
        use quinn_proto::ConnectionError as E;
        let (code, text) = match reason {
            E::ApplicationClosed(close) => {
                let code = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
                (code, String::from_utf8_lossy(&close.reason).into_owned())
            }
            other => (0, other.to_string()),
        };
        match conn.phase {
            Phase::Opening => {
                *self.half_open -= 1;
                self.counters.handshake_failures += 1;
                conn.phase = Phase::Closed;
                if conn.client {
                    self.push(Event::Closed { code, reason: text });
                }
            }
            Phase::Open | Phase::Closing => {
                conn.phase = Phase::Closed;
                self.push(Event::Closed { code, reason: text });
            }
            Phase::Closed => {}
        }
    }

    /// Reads all a stream has; each chunk becomes one event.
    fn read(&mut self, conn: &mut Conn, id: StreamId) {
        loop {
            let mut stream = conn.inner.recv_stream(id);
            let Ok(mut chunks) = stream.read(true) else { return };
            let next = chunks.next(READ_BYTES_MAX);
            let _ = chunks.finalize();
            match next {
                Ok(Some(chunk)) => self.bytes(conn, id, chunk.bytes, false),
                Ok(None) => return self.bytes(conn, id, Bytes::new(), true),
                Err(ReadError::Blocked) => return,
                Err(ReadError::Reset(code)) => return self.reset(conn, id, code),
            }
        }
    }

    fn bytes(&mut self, conn: &mut Conn, id: StreamId, data: Bytes, fin: bool) {
        match &mut conn.layer {
            Layer::Pending => {}
            Layer::Raw => {
                let dir = moqt_dir(id.dir());
                self.push(Event::Stream { id: moqt_id(id), dir, data, fin });
            }
            Layer::WebTransport(layer) => {
                layer.handle_stream(&mut conn.inner, id, data, fin);
                self.layer_events(conn);
            }
        }
    }

    fn reset(&mut self, conn: &mut Conn, id: StreamId, code: VarInt) {
        match &mut conn.layer {
            Layer::Pending => {}
            Layer::Raw => {
                let code = u32::try_from(code.into_inner()).unwrap_or(u32::MAX);
                self.push(Event::Reset { id: moqt_id(id), code });
            }
            Layer::WebTransport(layer) => {
                layer.handle_reset(id, code);
                self.layer_events(conn);
            }
        }
    }

    fn layer_events(&mut self, conn: &mut Conn) {
        let Layer::WebTransport(layer) = &mut conn.layer else { return };
        // At most a handful: the events of one chunk.
        let events: Vec<wt::Event> = layer.take_events().collect();
        for event in events {
            match event {
                wt::Event::Opened { draft, path } => {
                    if conn.phase == Phase::Opening {
                        self.opened(conn, draft, moqt::Transport::WebTransport, Some(path));
                    }
                }
                wt::Event::Stream { id, data, fin } => {
                    let dir = moqt_dir(id.dir());
                    self.push(Event::Stream { id: moqt_id(id), dir, data, fin });
                }
                wt::Event::Reset { id, code } => {
                    self.push(Event::Reset { id: moqt_id(id), code });
                }
                wt::Event::Closed { code, reason } => {
                    if matches!(conn.phase, Phase::Open | Phase::Closing) {
                        conn.phase = Phase::Closed;
                        self.push(Event::Closed { code, reason });
                    }
                    conn.inner.close(self.now, VarInt::from_u32(wt::H3_NO_ERROR), Bytes::new());
                }
                wt::Event::Violation { code, reason } => {
                    self.counters.http3_violations += 1;
                    let reason = Bytes::from_static(reason.as_bytes());
                    conn.inner.close(self.now, VarInt::from_u32(code), reason.clone());
                    if conn.phase == Phase::Opening {
                        *self.half_open -= 1;
                    } else if conn.phase != Phase::Closed {
                        let reason = String::from_utf8_lossy(&reason).into_owned();
                        self.push(Event::Closed { code, reason });
                    }
                    conn.phase = Phase::Closed;
                }
            }
        }
    }

    fn push(&mut self, event: Event) {
        self.events.push_back((self.id, event));
    }
}

/// One connection, as a session writes to it.
pub struct Link<'a> {
    conn: &'a mut Conn,
    now: Instant,
}

impl Link<'_> {
    fn close_now(&mut self, code: u32, reason: &str) {
        if matches!(self.conn.phase, Phase::Open) {
            self.conn.phase = Phase::Closing;
        }
        let lingers = match &mut self.conn.layer {
            Layer::WebTransport(layer) => layer.close(&mut self.conn.inner, code, reason),
            Layer::Pending | Layer::Raw => false,
        };
        if lingers {
            // A browser reports code and reason only if the capsule arrives before the end of
            // the connection.
            self.conn.deadline = Some(self.now + LINGER);
        } else {
            let reason = Bytes::copy_from_slice(reason.as_bytes());
            self.conn.inner.close(self.now, VarInt::from_u32(code), reason);
        }
    }

    fn code_out(&self, code: u32) -> VarInt {
        match self.conn.layer {
            Layer::WebTransport(_) => {
                VarInt::from_u64(web_transport_proto::error_to_http3(code)).unwrap_or(VarInt::MAX)
            }
            Layer::Pending | Layer::Raw => VarInt::from_u32(code),
        }
    }
}

impl weir_relay::Transport for Link<'_> {
    fn open(&mut self, dir: moqt::Dir) -> Option<moqt::StreamId> {
        if self.conn.phase != Phase::Open {
            return None;
        }
        let prefix = match &self.conn.layer {
            Layer::Pending => return None,
            Layer::Raw => None,
            Layer::WebTransport(layer) => Some(layer.prefix(quinn_dir(dir))?),
        };
        let id = self.conn.inner.streams().open(quinn_dir(dir))?;
        if let Layer::WebTransport(layer) = &mut self.conn.layer {
            layer.opened_here(id);
        }
        if let Some(prefix) = prefix {
            let mut chunks = [prefix];
            let written = self.conn.inner.send_stream(id).write_chunks(&mut chunks);
            let [rest] = chunks;
            if written.is_err() || !rest.is_empty() {
                self.conn.unsent.push((id, rest));
            }
        }
        Some(moqt_id(id))
    }

    fn write(&mut self, id: moqt::StreamId, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        let id = quinn_id(id);
        if !self.conn.unsent.is_empty()
            && let Some(at) = self.conn.unsent.iter().position(|(of, _)| *of == id)
        {
            let mut prefix = [self.conn.unsent[at].1.clone()];
            let result = self.conn.inner.send_stream(id).write_chunks(&mut prefix);
            let [rest] = prefix;
            if let Err(error) = result {
                return Err(write_error(self.conn, error));
            }
            if !rest.is_empty() {
                self.conn.unsent[at].1 = rest;
                return Err(WriteError::Blocked);
            }
            self.conn.unsent.swap_remove(at);
        }
        match self.conn.inner.send_stream(id).write_chunks(chunks) {
            Ok(written) => Ok(written.bytes),
            Err(error) => Err(write_error(self.conn, error)),
        }
    }

    fn finish(&mut self, id: moqt::StreamId) {
        let _ = self.conn.inner.send_stream(quinn_id(id)).finish();
    }

    fn reset(&mut self, id: moqt::StreamId, code: u32) {
        let code = self.code_out(code);
        let id = quinn_id(id);
        self.conn.unsent.retain(|(of, _)| *of != id);
        let _ = self.conn.inner.send_stream(id).reset(code);
    }

    fn stop(&mut self, id: moqt::StreamId, code: u32) {
        let code = self.code_out(code);
        let _ = self.conn.inner.recv_stream(quinn_id(id)).stop(code);
    }

    fn set_priority(&mut self, id: moqt::StreamId, priority: i32) {
        let _ = self.conn.inner.send_stream(quinn_id(id)).set_priority(priority);
    }

    fn close(&mut self, code: u32, reason: &str) {
        self.close_now(code, reason);
    }
}

fn write_error(conn: &Conn, error: quinn_proto::WriteError) -> WriteError {
    match error {
        quinn_proto::WriteError::Blocked => WriteError::Blocked,
        quinn_proto::WriteError::Stopped(code) => WriteError::Stopped(code_in(conn, code)),
        quinn_proto::WriteError::ClosedStream => WriteError::Closed,
    }
}

fn code_in(conn: &Conn, code: VarInt) -> u32 {
    match conn.layer {
        Layer::WebTransport(_) => {
            web_transport_proto::error_from_http3(code.into_inner()).unwrap_or(0)
        }
        Layer::Pending | Layer::Raw => u32::try_from(code.into_inner()).unwrap_or(u32::MAX),
    }
}

fn moqt_id(id: StreamId) -> moqt::StreamId {
    moqt::StreamId(VarInt::from(id).into_inner())
}

fn quinn_id(id: moqt::StreamId) -> StreamId {
    StreamId::from(VarInt::from_u64(id.0).unwrap_or(VarInt::MAX))
}

fn moqt_dir(dir: Dir) -> moqt::Dir {
    match dir {
        Dir::Uni => moqt::Dir::Uni,
        Dir::Bi => moqt::Dir::Bi,
    }
}

fn quinn_dir(dir: moqt::Dir) -> Dir {
    match dir {
        moqt::Dir::Uni => Dir::Uni,
        moqt::Dir::Bi => Dir::Bi,
    }
}
