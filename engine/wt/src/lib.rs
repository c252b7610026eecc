//! The slice of HTTP/3 that carries WebTransport on one connection (RFC 9114, draft-ietf-webtrans-
//! http3): our SETTINGS, the CONNECT, stream headers both ways, the closing capsule, and a short
//! status for any other request. It classifies streams and strips their headers; what the
//! session says inside is somebody else's matter, and it holds no stream: bytes come in, actions go out.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn_proto::{Dir, StreamId, VarInt};
use web_transport_proto as proto;
use weir_moqt::Draft;

/// Type of a client-opened bidirectional WebTransport stream (draft-ietf-webtrans-http3 §4.2).
const BIDI_SIGNAL: u64 = 0x41;
/// Type of a unidirectional WebTransport stream (§4.1).
const UNI_TYPE: u64 = 0x54;
/// HTTP/3 frame types (RFC 9114 §7.2).
const FRAME_DATA: u64 = 0x00;
const FRAME_HEADERS: u64 = 0x01;
/// A connection that ends for no fault of its peer (RFC 9114 §8.1).
pub const H3_NO_ERROR: u32 = 0x100;
/// More HTTP/3 error codes of the same section.
const H3_GENERAL_PROTOCOL_ERROR: u32 = 0x101;
const H3_STREAM_CREATION_ERROR: u32 = 0x103;
const H3_FRAME_UNEXPECTED: u32 = 0x105;
const H3_REQUEST_REJECTED: u32 = 0x10b;
/// draft-ietf-webtrans-http3 §4.5: a stream of a session we do not hold.
const WT_BUFFERED_STREAM_REJECTED: u32 = 0x3994_bd84;

/// A request's HEADERS frame, with room for a token of 8 KB in its path.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// SETTINGS and whatever else a client writes on its control stream.
const CONTROL_BYTES_MAX: usize = 4 * 1024;
/// Capsules on the CONNECT stream: only the closing one matters (reason at most 1,024 bytes).
const CAPSULE_BYTES_MAX: usize = 4 * 1024;
/// Streams that arrive before the CONNECT they belong to (H23), and bytes they bring.
const EARLY_STREAMS_MAX: usize = 16;
const EARLY_BYTES_MAX: usize = 64 * 1024;

/// What a stream has turned out to be.
#[derive(Debug)]
enum Class {
    /// Its header has not arrived whole; the bytes so far.
    Head(BytesMut),
    /// Belongs to the session; bytes pass through.
    Session,
    /// Belongs to a session that does not exist yet; bytes wait.
    Early { session: u64, data: BytesMut, fin: bool },
    /// The client's HTTP/3 control stream; its SETTINGS are read and otherwise ignored.
    Control { received: usize },
    /// The CONNECT stream after the request: DATA frames holding capsules.
    Connect(BytesMut),
    /// QPACK, GREASE, answered requests: read and dropped.
    Ignored,
}

/// What the layer reports upwards.
#[derive(Debug)]
pub enum Event {
    /// A session was accepted.
    Opened {
        /// What it speaks.
        draft: Draft,
        /// Of its URL, with the query.
        path: String,
    },
    /// Bytes of a stream of the session.
    Stream {
        /// Which.
        id: StreamId,
        /// Without the stream's header.
        data: Bytes,
        /// Nothing follows.
        fin: bool,
    },
    /// The peer reset a stream of the session.
    Reset {
        /// Which.
        id: StreamId,
        /// The session's own code.
        code: u32,
    },
    /// The peer closed the session.
    Closed {
        /// The session's own code.
        code: u32,
        /// For people.
        reason: String,
    },
    /// The only session this connection asked for was refused because the node is being drained.
    Refused,
    /// The peer broke HTTP/3: close the connection with this code.
    Violation {
        /// Of HTTP/3.
        code: u32,
        /// For people.
        reason: &'static str,
    },
}

/// What the layer wants done to streams, in order.
#[derive(Debug)]
pub enum Action {
    /// Write these bytes, and finish the stream after them if `fin`.
    Write {
        /// Where.
        id: StreamId,
        /// What.
        bytes: Bytes,
        /// Nothing follows.
        fin: bool,
    },
    /// Ask the peer to stop sending.
    Stop {
        /// Which stream.
        id: StreamId,
        /// Of HTTP/3.
        code: u32,
    },
    /// Abandon our half.
    Reset {
        /// Of which stream.
        id: StreamId,
        /// Of HTTP/3.
        code: u32,
    },
}

/// HTTP/3 and WebTransport state of one server connection. Sans-IO: after every call drain
/// `take_actions` and `take_events`.
#[derive(Debug)]
pub struct Server {
    drafts: &'static [Draft],
    /// The CONNECT stream, once a session is accepted.
    session: Option<StreamId>,
    closed: bool,
    /// Sessions are refused: this node is being drained.
    draining: bool,
    classes: HashMap<StreamId, Class>,
    early: usize,
    actions: Vec<Action>,
    events: Vec<Event>,
}

impl Server {
    /// A connection that has asked for nothing yet; `drafts` are served, in order of preference.
    pub fn new(drafts: &'static [Draft]) -> Self {
        Self {
            drafts,
            session: None,
            closed: false,
            draining: false,
            classes: HashMap::new(),
            early: 0,
            actions: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Refuses a session that is asked for from now on; one that is there stays.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// What our control stream begins with: SETTINGS (RFC 9114 §6.2.1).
    pub fn settings() -> Bytes {
        let mut settings = proto::Settings::default();
        settings.enable_webtransport(1);
        let mut bytes = BytesMut::new();
        settings.encode(&mut bytes);
        bytes.freeze()
    }

    /// What is to be done now.
    pub fn take_actions(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// What has happened.
    pub fn take_events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// The header of a stream we open inside the session.
    pub fn prefix(&self, dir: Dir) -> Option<Bytes> {
        let session = VarInt::from(self.session?);
        let mut bytes = BytesMut::with_capacity(16);
        put_varint(&mut bytes, if dir == Dir::Uni { UNI_TYPE } else { BIDI_SIGNAL });
        put_varint(&mut bytes, session.into_inner());
        Some(bytes.freeze())
    }

    /// What stands before the payload of each HTTP datagram of the session (RFC 9297 §2.1): its
    /// CONNECT stream's id, divided by four.
    pub fn datagram_prefix(&self) -> Option<Bytes> {
        let session = VarInt::from(self.session?);
        let mut bytes = BytesMut::with_capacity(8);
        put_varint(&mut bytes, session.into_inner() / 4);
        Some(bytes.freeze())
    }

    /// The payload of an HTTP datagram, if it is of the session (H23).
    pub fn datagram(&self, mut datagram: Bytes) -> Option<Bytes> {
        let session = VarInt::from(self.session.filter(|_| !self.closed)?);
        let mut cursor = &datagram[..];
        let of = get_varint(&mut cursor)?;
        let header = datagram.len() - cursor.len();
        (of == session.into_inner() / 4).then(|| datagram.split_off(header))
    }

    /// A stream we opened answers to the session from now on.
    pub fn opened_here(&mut self, id: StreamId) {
        if id.dir() == Dir::Bi {
            self.classes.insert(id, Class::Session);
        }
    }

    /// Ends the session as its protocol asks: the closing capsule on the CONNECT stream, then FIN.
    /// False when there was no session to end.
    pub fn close(&mut self, code: u32, reason: &str) -> bool {
        let Some(session) = self.session else { return false };
        if self.closed {
            return true;
        }
        self.closed = true;
        let mut capsule = BytesMut::new();
        let reason = reason.to_owned();
        proto::Capsule::CloseWebTransportSession { code, reason }.encode(&mut capsule);
        let mut frame = BytesMut::with_capacity(capsule.len() + 8);
        put_varint(&mut frame, FRAME_DATA);
        put_varint(&mut frame, capsule.len() as u64);
        frame.extend_from_slice(&capsule);
        self.actions.push(Action::Write { id: session, bytes: frame.freeze(), fin: true });
        true
    }

    /// Bytes of any stream of the connection, in order.
    pub fn handle_stream(&mut self, id: StreamId, data: Bytes, fin: bool) {
        let class = self.classes.remove(&id).unwrap_or_else(|| Class::Head(BytesMut::new()));
        match class {
            Class::Session => {
                self.events.push(Event::Stream { id, data, fin });
                if !fin {
                    self.classes.insert(id, Class::Session);
                }
            }
            Class::Head(mut head) => {
                head.extend_from_slice(&data);
                self.classify(id, head, fin);
            }
            Class::Early { session, data: mut held, fin: _ } => {
                held.extend_from_slice(&data);
                if held.len() > EARLY_BYTES_MAX {
                    self.early -= 1;
                    self.reject(id, WT_BUFFERED_STREAM_REJECTED);
                    self.keep(id, Class::Ignored, fin);
                } else {
                    self.classes.insert(id, Class::Early { session, data: held, fin });
                }
            }
            Class::Control { received } => {
                let received = received + data.len();
                if fin || received > CONTROL_BYTES_MAX {
                    // RFC 9114 §6.2.1: the control stream stays open; ours needs little of it.
                    self.violation(H3_GENERAL_PROTOCOL_ERROR, "control stream closed or too long");
                } else {
                    self.classes.insert(id, Class::Control { received });
                }
            }
            Class::Connect(mut held) => {
                held.extend_from_slice(&data);
                self.capsules(id, held, fin);
            }
            Class::Ignored => self.keep(id, Class::Ignored, fin),
        }
    }

    /// The peer reset its side of a stream.
    pub fn handle_reset(&mut self, id: StreamId, code: VarInt) {
        match self.classes.remove(&id) {
            Some(Class::Session) => {
                let code = proto::error_from_http3(code.into_inner()).unwrap_or(0);
                self.events.push(Event::Reset { id, code });
            }
            Some(Class::Connect(_)) => {
                self.events.push(Event::Closed { code: 0, reason: "session reset".into() });
            }
            Some(Class::Early { .. }) => self.early -= 1,
            _ => {}
        }
    }

    fn classify(&mut self, id: StreamId, head: BytesMut, fin: bool) {
        let mut cursor = &head[..];
        let Some(kind) = get_varint(&mut cursor) else {
            return self.keep(id, Class::Head(head), fin);
        };
        match (id.dir(), kind) {
            (Dir::Uni, UNI_TYPE) | (Dir::Bi, BIDI_SIGNAL) => {
                let Some(session) = get_varint(&mut cursor) else {
                    return self.keep(id, Class::Head(head), fin);
                };
                let rest = Bytes::copy_from_slice(cursor);
                self.session_stream(id, session, &rest, fin);
            }
            (Dir::Uni, 0x00) => {
                self.classes.insert(id, Class::Control { received: head.len() });
            }
            // QPACK streams carry nothing: we advertise no dynamic table.
            (Dir::Uni, 0x02 | 0x03) => self.keep(id, Class::Ignored, fin),
            (Dir::Uni, _) => {
                // Unknown types are refused without harm (RFC 9114 §6.2).
                self.actions.push(Action::Stop { id, code: H3_STREAM_CREATION_ERROR });
                self.keep(id, Class::Ignored, fin);
            }
            (Dir::Bi, FRAME_HEADERS) => self.request(id, head, fin),
            (Dir::Bi, FRAME_DATA) => {
                self.violation(H3_FRAME_UNEXPECTED, "DATA before HEADERS");
            }
            (Dir::Bi, _) => {
                // GREASE frames may stand before HEADERS; skip them whole.
                let Some(length) = get_varint(&mut cursor) else {
                    return self.keep(id, Class::Head(head), fin);
                };
                if length > REQUEST_BYTES_MAX as u64 {
                    return self.violation(H3_GENERAL_PROTOCOL_ERROR, "frame too long");
                }
                if (cursor.len() as u64) < length {
                    return self.keep(id, Class::Head(head), fin);
                }
                cursor.advance(length as usize);
                let rest = BytesMut::from(cursor);
                self.classify(id, rest, fin);
            }
        }
    }

    fn session_stream(&mut self, id: StreamId, session: u64, rest: &Bytes, fin: bool) {
        match self.session {
            Some(ours) if VarInt::from(ours).into_inner() == session && !self.closed => {
                if !rest.is_empty() || fin {
                    self.events.push(Event::Stream { id, data: rest.clone(), fin });
                }
                self.keep(id, Class::Session, fin);
            }
            None if self.early < EARLY_STREAMS_MAX && rest.len() <= EARLY_BYTES_MAX => {
                self.early += 1;
                let data = BytesMut::from(&rest[..]);
                self.classes.insert(id, Class::Early { session, data, fin });
            }
            _ => {
                self.reject(id, WT_BUFFERED_STREAM_REJECTED);
                self.keep(id, Class::Ignored, fin);
            }
        }
    }

    /// A request: CONNECT for WebTransport, or anything else, which gets a bare status.
    fn request(&mut self, id: StreamId, head: BytesMut, fin: bool) {
        if head.len() > REQUEST_BYTES_MAX {
            self.reject(id, H3_REQUEST_REJECTED);
            return self.keep(id, Class::Ignored, fin);
        }
        let mut cursor = &head[..];
        let request = match proto::ConnectRequest::decode(&mut cursor) {
            Ok(request) => request,
            Err(proto::ConnectError::UnexpectedEnd) => {
                return self.keep(id, Class::Head(head), fin);
            }
            Err(proto::ConnectError::WrongMethod(Some(_))) => return self.refuse(id, fin, 404),
            Err(_) => return self.refuse(id, fin, 400),
        };
        if self.session.is_some() {
            // One session a connection (H22); the next one needs a connection of its own.
            return self.refuse(id, fin, 429);
        }
        if self.draining {
            self.refuse(id, fin, 503);
            return self.events.push(Event::Refused);
        }
        let offered = request.protocols.iter().map(String::as_str);
        let mut response = proto::ConnectResponse::OK;
        let draft = if request.protocols.is_empty() {
            // There is nothing to choose from, so nothing is named.
            self.drafts.iter().copied().find(|draft| *draft == Draft::UNNAMED)
        } else {
            Draft::negotiate(offered, self.drafts).inspect(|draft| {
                response.protocol = Some(draft.token().to_owned());
            })
        };
        let Some(draft) = draft else {
            return self.refuse(id, fin, 400);
        };
        let mut bytes = BytesMut::new();
        if response.encode(&mut bytes).is_err() {
            return self.refuse(id, fin, 500);
        }
        self.actions.push(Action::Write { id, bytes: bytes.freeze(), fin: false });
        self.session = Some(id);
        let path = match request.url.query() {
            Some(query) => format!("{}?{query}", request.url.path()),
            None => request.url.path().to_owned(),
        };
        self.events.push(Event::Opened { draft, path });
        let rest = BytesMut::from(cursor);
        self.capsules(id, rest, fin);
        self.release_early(VarInt::from(id).into_inner());
    }

    /// Streams that overtook their CONNECT join the session now; those of others are refused.
    fn release_early(&mut self, session: u64) {
        if self.early == 0 {
            return;
        }
        let mut waiting: Vec<StreamId> = self
            .classes
            .iter()
            .filter(|(_, class)| matches!(class, Class::Early { .. }))
            .map(|(id, _)| *id)
            .collect();
        waiting.sort_unstable();
        for id in waiting {
            if let Some(Class::Early { session: of, data, fin }) = self.classes.remove(&id) {
                self.early -= 1;
                if of == session {
                    self.events.push(Event::Stream { id, data: data.freeze(), fin });
                    self.keep(id, Class::Session, fin);
                } else {
                    self.reject(id, WT_BUFFERED_STREAM_REJECTED);
                    self.keep(id, Class::Ignored, fin);
                }
            }
        }
    }

    /// DATA frames on the CONNECT stream; only `CLOSE_WEBTRANSPORT_SESSION` says anything to us.
    fn capsules(&mut self, id: StreamId, mut held: BytesMut, fin: bool) {
        loop {
            let mut cursor = &held[..];
            let (Some(kind), Some(length)) = (get_varint(&mut cursor), get_varint(&mut cursor))
            else {
                break;
            };
            if length > CAPSULE_BYTES_MAX as u64 {
                return self.violation(H3_GENERAL_PROTOCOL_ERROR, "frame on CONNECT too long");
            }
            let length = length as usize;
            let Some(mut body) = cursor.get(..length) else { break };
            let consumed = held.len() - cursor.len() + length;
            if kind == FRAME_DATA {
                while body.has_remaining() {
                    match proto::Capsule::decode(&mut body) {
                        Ok(proto::Capsule::CloseWebTransportSession { code, reason }) => {
                            self.events.push(Event::Closed { code, reason });
                        }
                        Ok(_) => {}
                        Err(_) => break,
                    }
                }
            }
            held.advance(consumed);
        }
        if fin {
            self.events.push(Event::Closed { code: 0, reason: String::new() });
        } else if held.len() > CAPSULE_BYTES_MAX + 16 {
            self.violation(H3_GENERAL_PROTOCOL_ERROR, "frame on CONNECT too long");
        } else {
            self.classes.insert(id, Class::Connect(held));
        }
    }

    /// Answers a request with a bare status and reads no more of it.
    fn refuse(&mut self, id: StreamId, fin: bool, status: u16) {
        let status = proto::http::StatusCode::from_u16(status)
            .unwrap_or(proto::http::StatusCode::BAD_REQUEST);
        let mut bytes = BytesMut::new();
        if proto::ConnectResponse::new(status).encode(&mut bytes).is_ok() {
            self.actions.push(Action::Write { id, bytes: bytes.freeze(), fin: true });
        }
        self.actions.push(Action::Stop { id, code: H3_NO_ERROR });
        self.keep(id, Class::Ignored, fin);
    }

    fn reject(&mut self, id: StreamId, code: u32) {
        self.actions.push(Action::Stop { id, code });
        if id.dir() == Dir::Bi {
            self.actions.push(Action::Reset { id, code });
        }
    }

    fn violation(&mut self, code: u32, reason: &'static str) {
        self.events.push(Event::Violation { code, reason });
    }

    /// Remembers what a stream is, until its end.
    fn keep(&mut self, id: StreamId, class: Class, fin: bool) {
        if let Class::Head(head) = &class
            && head.len() > REQUEST_BYTES_MAX
        {
            return self.violation(H3_GENERAL_PROTOCOL_ERROR, "stream header too long");
        }
        if !fin {
            self.classes.insert(id, class);
        }
    }
}

/// RFC 9000 §16 variable-length integer.
fn get_varint(cursor: &mut &[u8]) -> Option<u64> {
    let (first, rest) = cursor.split_first()?;
    let (more, rest) = rest.split_at_checked((1 << (first >> 6)) - 1)?;
    let head = u64::from(first & 0x3f);
    *cursor = rest;
    Some(more.iter().fold(head, |value, byte| value << 8 | u64::from(*byte)))
}

fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(value as u16 | 0x4000),
        0x4000..0x4000_0000 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

/// Fuzz entry: cuts `input` into operations on a few streams of one connection, and checks that
/// what is held stays under the caps, that one session opens at most, and that nothing of it is told
/// before it is there. Panics where the layer does, or where one of these is not so.
pub fn fuzz_http3(input: &[u8]) {
    let mut server = Server::new(&[Draft::D18, Draft::D16]);
    let mut opened = false;
    let mut rest = input;
    while let [operation, length, tail @ ..] = rest {
        let dir = if operation & 1 == 0 { Dir::Bi } else { Dir::Uni };
        let id = StreamId::new(quinn_proto::Side::Client, dir, u64::from(operation >> 2 & 7));
        let (data, after) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = after;
        let flag = operation & 2 != 0;
        let data = Bytes::copy_from_slice(data);
        match operation >> 5 {
            0..=4 => server.handle_stream(id, data, flag),
            5 => assert!(server.datagram(data).is_none() || opened, "a datagram of no session"),
            6 => server.handle_reset(id, VarInt::from_u32(u32::from(*length))),
            _ if flag => assert_eq!(server.close(7, "fuzz"), opened),
            _ => server.drain(),
        }
        let mut broken = false;
        for event in server.take_events() {
            match event {
                Event::Opened { .. } => assert!(!std::mem::replace(&mut opened, true)),
                Event::Violation { .. } => broken = true,
                Event::Refused => assert!(!opened, "what is there stays"),
                Event::Stream { .. } | Event::Reset { .. } | Event::Closed { .. } => {
                    assert!(opened, "of no session");
                }
            }
        }
        server.actions.clear();
        assert_eq!(server.prefix(dir).is_some(), opened);
        assert!(server.held() <= HELD_BYTES_MAX, "{} bytes held", server.held());
        if broken {
            return;
        }
    }
}

/// What eight streams each way may hold at most under the caps above.
const HELD_BYTES_MAX: usize =
    8 * (REQUEST_BYTES_MAX + 256) + 8 * (EARLY_BYTES_MAX + 256) + 8 * (CAPSULE_BYTES_MAX + 512);

impl Server {
    /// Bytes held for streams that wait.
    fn held(&self) -> usize {
        let of = |class: &Class| match class {
            Class::Head(data) | Class::Connect(data) | Class::Early { data, .. } => data.len(),
            Class::Session | Class::Control { .. } | Class::Ignored => 0,
        };
        self.classes.values().map(of).sum()
    }
}
