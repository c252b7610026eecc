//! One connection: quinn's state, the layer that turns QUIC streams into session streams, and the
//! two views of it that the endpoint lends: [`Pump`] for what happened, [`Link`] for writing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{Dir, ReadError, StreamEvent, StreamId, VarInt};
use weir_moqt as moqt;
use weir_moqt::Draft;
use weir_relay::{DatagramError, WriteError};

use super::agenda::{Agenda, Rank};
use super::endpoint::{ConnId, Counters, Event, Prefix};
use super::path::Moves;
use super::{config, wt};

/// How long a closed session may take to read its farewell before the connection goes.
const LINGER: Duration = Duration::from_secs(1);

/// What a newcomer over raw QUIC is told while the node is drained.
const DRAINING: &str = "draining";

/// Longest chunk read from a stream at once; a cap on what one event carries, not on streams.
const READ_BYTES_MAX: usize = 64 * 1024;

pub(super) enum Layer {
    /// Handshake under way.
    Pending,
    /// MoQT directly on QUIC streams.
    Raw,
    /// WebTransport over HTTP/3.
    WebTransport(Box<wt::Server>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No session yet.
    Opening,
    /// `Event::Opened` was given.
    Open,
    /// Closing by us; the owner has not heard `Closed` yet.
    Closing,
    /// `Event::Closed` was given.
    Closed,
}

pub(super) struct Conn {
    pub(super) inner: quinn_proto::Connection,
    pub(super) generation: u32,
    pub(super) layer: Layer,
    pub(super) phase: Phase,
    /// Handshake deadline, later the end of the linger.
    pub(super) deadline: Option<Instant>,
    pub(super) prefix: Prefix,
    pub(super) client: bool,
    /// The peer is a relay of ours.
    pub(super) node: bool,
    /// Stream headers that did not fit when their stream was opened.
    pub(super) unsent: Vec<(StreamId, Bytes)>,
    pub(super) moves: Moves,
}

impl Conn {
    /// How soon what it has to send should leave.
    pub(super) fn rank(&self) -> Rank {
        if self.phase == Phase::Open { Rank::Then } else { Rank::First }
    }
}

/// Turns quinn's events of one connection into ours.
pub(super) struct Pump<'a> {
    pub(super) id: ConnId,
    pub(super) events: &'a mut VecDeque<(ConnId, Event)>,
    pub(super) counters: &'a mut Counters,
    pub(super) half_open: &'a mut usize,
    pub(super) drafts: &'static [Draft],
    /// New sessions are refused.
    pub(super) draining: bool,
    pub(super) now: Instant,
}

impl Pump<'_> {
    pub(super) fn event(&mut self, conn: &mut Conn, event: quinn_proto::Event) {
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
            Q::Stream(StreamEvent::Finished { id }) => {
                self.push(Event::Acknowledged { id: moqt_id(id) });
            }
            Q::DatagramReceived => {
                while let Some(datagram) = conn.inner.datagrams().recv() {
                    let data = match &conn.layer {
                        Layer::Pending => None,
                        Layer::Raw => Some(datagram),
                        Layer::WebTransport(layer) => layer.datagram(datagram),
                    };
                    if let Some(data) = data {
                        self.push(Event::Datagram { data });
                    }
                }
            }
            Q::HandshakeDataReady | Q::DatagramsUnblocked => {}
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
                if self.draining {
                    layer.drain();
                }
                if let Some(control) = conn.inner.streams().open(Dir::Uni) {
                    write_small(conn, control, wt::Server::settings(), false);
                }
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
                if self.draining {
                    return self.refused(conn);
                }
                conn.layer = Layer::Raw;
                self.opened(conn, draft, moqt::Transport::Quic, None);
            }
        }
    }

    /// A newcomer on a node that is being drained: over WebTransport it has its status already, over
    /// raw QUIC the close says why.
    fn refused(&mut self, conn: &mut Conn) {
        if conn.phase != Phase::Opening {
            return;
        }
        conn.phase = Phase::Closed;
        *self.half_open -= 1;
        self.counters.refused_draining += 1;
        if matches!(conn.layer, Layer::WebTransport(_)) {
            // The status goes out before the connection does.
            conn.deadline = Some(self.now + LINGER);
        } else {
            let code = VarInt::from_u32(moqt::SessionCode::Internal.wire());
            conn.inner.close(self.now, code, Bytes::from_static(DRAINING.as_bytes()));
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
                layer.handle_stream(id, data, fin);
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
        act(conn);
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
                    let answers_ours = conn.phase == Phase::Closing;
                    if matches!(conn.phase, Phase::Open | Phase::Closing) {
                        conn.phase = Phase::Closed;
                        self.push(Event::Closed { code, reason });
                    }
                    // Chromium answers our capsule with FIN before its page has heard of it, and an
                    // end of the connection in that moment takes code and reason away: it closes by
                    // itself, or the linger ends.
                    if !answers_ours {
                        conn.inner.close(self.now, VarInt::from_u32(wt::H3_NO_ERROR), Bytes::new());
                    }
                }
                wt::Event::Refused => self.refused(conn),
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
    pub(super) conn: &'a mut Conn,
    pub(super) agenda: &'a mut Agenda,
    pub(super) index: u32,
    pub(super) now: Instant,
}

impl Link<'_> {
    pub(super) fn close_now(&mut self, code: u32, reason: &str) {
        self.agenda.mark(self.index, Rank::First);
        if matches!(self.conn.phase, Phase::Open) {
            self.conn.phase = Phase::Closing;
        }
        let lingers = match &mut self.conn.layer {
            Layer::WebTransport(layer) => layer.close(code, reason),
            Layer::Pending | Layer::Raw => false,
        };
        act(self.conn);
        if lingers {
            // A browser reports code and reason only if the capsule arrives before the end of
            // the connection.
            self.conn.deadline = Some(self.now + LINGER);
        } else {
            let reason = Bytes::copy_from_slice(reason.as_bytes());
            self.conn.inner.close(self.now, VarInt::from_u32(code), reason);
        }
    }

    /// Writes until all is taken or QUIC refuses: only after a refusal does it say when the stream
    /// is writable again, and a write that took a part is none.
    fn fill(&mut self, id: StreamId, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        let mut taken = 0;
        loop {
            match self.conn.inner.send_stream(id).write_chunks(chunks) {
                Ok(written) => {
                    taken += written.bytes;
                    if written.bytes == 0 || chunks.iter().all(Bytes::is_empty) {
                        return Ok(taken);
                    }
                }
                Err(quinn_proto::WriteError::Blocked) if taken > 0 => return Ok(taken),
                Err(error) => return Err(write_error(self.conn, &error)),
            }
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
            let result = self.fill(id, &mut prefix);
            let [rest] = prefix;
            result?;
            if !rest.is_empty() {
                self.conn.unsent[at].1 = rest;
                return Err(WriteError::Blocked);
            }
            self.conn.unsent.swap_remove(at);
        }
        self.fill(id, chunks)
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

    fn send_datagram(&mut self, datagram: Bytes) -> Result<(), DatagramError> {
        use quinn_proto::SendDatagramError as E;
        let datagram = match &self.conn.layer {
            Layer::Pending => return Err(DatagramError::TooLarge),
            Layer::Raw => datagram,
            Layer::WebTransport(layer) => {
                let prefix = layer.datagram_prefix().ok_or(DatagramError::TooLarge)?;
                let mut whole = BytesMut::with_capacity(prefix.len() + datagram.len());
                whole.extend_from_slice(&prefix);
                whole.extend_from_slice(&datagram);
                whole.freeze()
            }
        };
        self.conn.inner.datagrams().send(datagram, false).map_err(|error| match error {
            E::Blocked(_) => DatagramError::Blocked,
            E::TooLarge | E::UnsupportedByPeer | E::Disabled => DatagramError::TooLarge,
        })
    }

    fn close(&mut self, code: u32, reason: &str) {
        self.close_now(code, reason);
    }
}

fn write_error(conn: &Conn, error: &quinn_proto::WriteError) -> WriteError {
    match error {
        quinn_proto::WriteError::Blocked => WriteError::Blocked,
        quinn_proto::WriteError::Stopped(code) => WriteError::Stopped(code_in(conn, *code)),
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

/// Does to the streams what the WebTransport layer asked for.
fn act(conn: &mut Conn) {
    let Layer::WebTransport(layer) = &mut conn.layer else { return };
    let actions: Vec<wt::Action> = layer.take_actions().collect();
    for action in actions {
        match action {
            wt::Action::Write { id, bytes, fin } => write_small(conn, id, bytes, fin),
            wt::Action::Stop { id, code } => {
                let _ = conn.inner.recv_stream(id).stop(VarInt::from_u32(code));
            }
            wt::Action::Reset { id, code } => {
                let _ = conn.inner.send_stream(id).reset(VarInt::from_u32(code));
            }
        }
    }
}

/// Small control writes: QUIC's send window holds them all.
fn write_small(conn: &mut Conn, id: StreamId, bytes: Bytes, fin: bool) {
    let mut stream = conn.inner.send_stream(id);
    // Before all media, also when it has to be repaired.
    let _ = stream.set_priority(i32::MAX);
    let _ = stream.write_chunks(&mut [bytes]);
    if fin {
        let _ = stream.finish();
    }
}
