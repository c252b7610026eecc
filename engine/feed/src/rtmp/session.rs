//! One RTMP publisher's connection, from its first byte to its last event. Owns the order of
//! things (handshake, connect, publish, media, goodbye) and their deadlines; leaves bytes to
//! `chunk`, values to `amf`, tags to `flv`, and the worth of a key to the shell.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::amf::{self, Value};
use super::chunk::{self, Message};
use super::command::{self, Command, control, kind};
use super::handshake::Handshake;
use super::target::Target;
use super::timestamp::Unroll;
use super::{CloseReason, Error, Event, Limits, Reject};
use crate::flv::{self, Tag, TagKind};
use crate::{EndReason, Secret};

/// Sans-IO state of one connection. See the [module](super) for the calling order.
pub struct Session {
    limits: Limits,
    state: State,
    /// Of every state but `Publishing` and `Closed`.
    deadline: Instant,
    last_input: Instant,
    decoder: chunk::Decoder,
    transmit: BytesMut,
    events: VecDeque<Event>,
    /// Application of `connect`. May hold the key, see [`Target`].
    app: Secret,
    message_streams: u32,
    /// The publisher said in `connect` that it understands a reconnect request.
    reconnects: bool,
    unroll: Unroll,
    demuxer: flv::Demuxer,
    metadata: Metadata,
    counters: Counters,
    acknowledgement: Acknowledgement,
}

/// What did not become a sample, and why. Every drop is in one of these.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages that mean nothing here: unknown types, media of another message stream, metadata
    /// that does not parse.
    pub ignored_messages: u64,
    /// What the tag layer dropped.
    pub tags: flv::Counters,
}

/// What the publisher says about itself in `onMetaData`. Often wrong; for display only.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Metadata {
    /// Name and version of the encoder, at most 128 characters, control characters removed.
    pub encoder: Option<String>,
    /// Frames per second.
    pub frame_rate: Option<f64>,
    /// Picture height.
    pub height: Option<f64>,
    /// Picture width.
    pub width: Option<f64>,
}

enum State {
    Handshake(Handshake),
    /// `connect`, `createStream` and their kin.
    Connecting {
        connected: bool,
    },
    Deciding {
        message_stream: u32,
        pending: Vec<Tag>,
        pending_bytes: usize,
    },
    Publishing {
        message_stream: u32,
    },
    Unpublished,
    Closed,
}

/// Section 5.4.3: the receiver tells every so many bytes how many it has.
struct Acknowledgement {
    received: u32,
    sent: u32,
    window: u32,
}

impl Session {
    /// A session for a connection accepted at `now`.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            state: State::Handshake(Handshake::new()),
            deadline: now + limits.handshake_timeout,
            last_input: now,
            decoder: chunk::Decoder::new(),
            transmit: BytesMut::new(),
            events: VecDeque::new(),
            app: Secret::new(""),
            message_streams: 0,
            reconnects: false,
            unroll: Unroll::default(),
            demuxer: flv::Demuxer::default(),
            metadata: Metadata::default(),
            counters: Counters::default(),
            acknowledgement: Acknowledgement {
                received: 0,
                sent: 0,
                window: command::WINDOW_BYTES,
            },
            limits,
        }
    }

    /// Bytes from the peer, cut anywhere. Ignored once the session is closed.
    pub fn handle_input(&mut self, input: &[u8], now: Instant) -> Result<(), Error> {
        // A peer that trickles keeps its shell too busy reading to look at the timer. Bytes of a
        // publisher prove that it is alive, so there only the timer counts.
        if !matches!(self.state, State::Publishing { .. }) {
            self.handle_timeout(now)?;
        }
        if self.is_closed() {
            return Ok(());
        }
        if !input.is_empty() {
            self.last_input = now;
        }
        self.consume(input, now).inspect_err(|error| self.fail(error))?;
        let acknowledgement = &mut self.acknowledgement;
        acknowledgement.received = acknowledgement.received.wrapping_add(input.len() as u32);
        let unacknowledged = acknowledgement.received.wrapping_sub(acknowledgement.sent);
        // At most once a call, however small a window the peer sets.
        if !self.is_closed() && unacknowledged >= self.acknowledgement.window {
            self.acknowledgement.sent = self.acknowledgement.received;
            let received = self.acknowledgement.received.to_be_bytes();
            command::put_control(kind::ACKNOWLEDGEMENT, &received, &mut self.transmit);
        }
        Ok(())
    }

    /// The peer's end of the connection is gone, by goodbye or by reset.
    pub fn handle_close(&mut self) {
        self.close_with(EndReason::Disconnected, CloseReason::PeerClosed);
    }

    /// The time of [`Self::poll_timeout`] came. Does nothing before it.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let error = match self.state {
            State::Handshake(_) => Error::HandshakeTimeout,
            State::Connecting { .. } => Error::PublishTimeout,
            State::Deciding { .. } => Error::DecisionTimeout,
            State::Publishing { .. } => Error::IdleTimeout,
            State::Unpublished => {
                self.close_with(EndReason::Unpublished, CloseReason::Unpublished);
                return Ok(());
            }
            State::Closed => return Ok(()),
        };
        self.fail(&error);
        Err(error)
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Publishing { .. } => Some(self.last_input + self.limits.idle_timeout),
            _ => Some(self.deadline),
        }
    }

    /// Bytes for the peer. Take them only when the socket can: what stays here is limited.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if self.transmit.is_empty() { None } else { Some(self.transmit.split().freeze()) }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Lets the publisher of the last [`Event::Publish`] in: media follows as events. Does nothing
    /// when the connection ended meanwhile; the event queue says so.
    pub fn accept_publish(&mut self) {
        let State::Deciding { message_stream, pending, .. } = &mut self.state else { return };
        let (message_stream, pending) = (*message_stream, std::mem::take(pending));
        self.state = State::Publishing { message_stream };
        command::put_user_control(control::STREAM_BEGIN, message_stream, &mut self.transmit);
        let (code, description) = ("NetStream.Publish.Start", "Publishing.");
        command::put_status(message_stream, "status", code, description, &mut self.transmit);
        for tag in pending {
            if let Err(error) = self.demux(&tag) {
                self.fail(&error);
                return;
            }
        }
    }

    /// Turns the publisher of the last [`Event::Publish`] away and closes.
    pub fn reject_publish(&mut self, reject: Reject) {
        if let State::Deciding { .. } = self.state {
            self.close(reject);
        }
    }

    /// Asks the publisher to connect again, to its application at `place` (`rtmp://host:port`) or to
    /// where it is connected, and to leave here once it has. False if it never said that it
    /// understands this, or publishes nothing.
    pub fn request_reconnect(&mut self, place: Option<&str>) -> bool {
        let asks = self.reconnects && matches!(self.state, State::Publishing { .. });
        if asks {
            // The application may hold the key: it goes back to nobody but who sent it.
            let tc_url = place.map(|place| format!("{place}/{}", self.app.expose()));
            command::put_reconnect_request(tc_url.as_deref(), &mut self.transmit);
        }
        asks
    }

    /// Closes in whatever state, telling the peer why where there is a publish to tell it about.
    pub fn close(&mut self, reject: Reject) {
        self.put_error_status(reject.code(), reject.description());
        self.close_with(EndReason::Closed, CloseReason::Rejected(reject));
    }

    /// True after [`Event::Closed`] was queued.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Drops so far.
    pub fn counters(&self) -> Counters {
        Counters { tags: self.demuxer.counters(), ..self.counters }
    }

    /// What the publisher says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Memory held for bytes received: unfinished messages and media awaiting the decision.
    pub(crate) fn held_bytes(&self) -> usize {
        let pending =
            if let State::Deciding { pending_bytes, .. } = self.state { pending_bytes } else { 0 };
        self.decoder.held_bytes() + pending
    }

    fn consume(&mut self, mut input: &[u8], now: Instant) -> Result<(), Error> {
        if let State::Handshake(handshake) = &mut self.state {
            if !handshake.handle_input(&mut input, &mut self.transmit)? {
                return Ok(());
            }
            self.state = State::Connecting { connected: false };
            self.deadline = now + self.limits.publish_timeout;
        }
        while let Some(message) = self.decoder.next(&mut input, &self.limits)? {
            self.handle_message(&message, now)?;
            if self.is_closed() {
                break;
            }
            if self.transmit.len() > self.limits.transmit_bytes_max {
                return Err(Error::TransmitBacklog { max: self.limits.transmit_bytes_max });
            }
        }
        Ok(())
    }

    fn handle_message(&mut self, message: &Message, now: Instant) -> Result<(), Error> {
        match message.kind {
            kind::SET_CHUNK_SIZE => self.decoder.set_chunk_size(control_number(message)?)?,
            kind::ABORT => self.decoder.abort(control_number(message)?),
            kind::WINDOW_ACKNOWLEDGEMENT_SIZE => {
                let window = control_number(message)?;
                if window > 0 {
                    self.acknowledgement.window = window;
                }
            }
            kind::USER_CONTROL => self.handle_user_control(message.payload.clone()),
            // Our few bytes need no flow control.
            kind::ACKNOWLEDGEMENT | kind::SET_PEER_BANDWIDTH => {}
            kind::AUDIO => self.handle_media(TagKind::Audio, message)?,
            kind::VIDEO => self.handle_media(TagKind::Video, message)?,
            kind::AGGREGATE => {
                for (tag_kind, timestamp, payload) in flv::Aggregate::new(&message.payload) {
                    let timestamp = message.timestamp.wrapping_add(timestamp);
                    self.handle_media(tag_kind, &Message { timestamp, payload, ..*message })?;
                }
            }
            kind::DATA_AMF0 | kind::DATA_AMF3 => self.handle_data(message),
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => {
                let command = Command::parse(message.kind, &message.payload, &self.limits)?;
                self.handle_command(&command, message.message_stream, now)?;
            }
            _ => self.counters.ignored_messages += 1,
        }
        Ok(())
    }

    fn handle_user_control(&mut self, mut payload: Bytes) {
        // Six bytes: event type and a number. Other events and lengths concern players.
        if payload.len() >= 6 && payload.get_u16() == control::PING_REQUEST {
            let number = payload.get_u32();
            command::put_user_control(control::PING_RESPONSE, number, &mut self.transmit);
        }
    }

    fn handle_media(&mut self, tag_kind: TagKind, message: &Message) -> Result<(), Error> {
        let wanted = match &self.state {
            State::Deciding { message_stream, .. } | State::Publishing { message_stream } => {
                *message_stream == message.message_stream
            }
            _ => false,
        };
        if !wanted {
            self.counters.ignored_messages += 1;
            return Ok(());
        }
        let time = self.unroll.next(message.timestamp);
        let tag = Tag { kind: tag_kind, time, body: message.payload.clone() };
        if let State::Deciding { pending, pending_bytes, .. } = &mut self.state {
            *pending_bytes += tag.body.len();
            let full = *pending_bytes > self.limits.pending_bytes_max
                || pending.len() >= self.limits.pending_messages_max;
            if full {
                return Err(Error::PendingMedia);
            }
            pending.push(tag);
            return Ok(());
        }
        self.demux(&tag)
    }

    fn demux(&mut self, tag: &Tag) -> Result<(), Error> {
        let events = &mut self.events;
        self.demuxer
            .handle_tag(tag, &mut |event| events.push_back(Event::Media(event)))
            .map_err(Error::Unsupported)
    }

    /// `onMetaData`, bare or wrapped in `@setDataFrame`. Never an error: it is decoration.
    fn handle_data(&mut self, message: &Message) {
        let payload = command::strip_amf3(message.kind, &message.payload);
        let small = payload.len() <= self.limits.command_bytes_max;
        let values = if small { amf::decode_all(payload, &self.limits).ok() } else { None };
        let Some(values) = values else {
            self.counters.ignored_messages += 1;
            return;
        };
        if let Some(object) = values.iter().find(|value| matches!(value, Value::Object(_))) {
            self.metadata = Metadata::read(object);
        }
    }

    fn handle_command(
        &mut self,
        command: &Command,
        message_stream: u32,
        now: Instant,
    ) -> Result<(), Error> {
        let transaction = command.transaction;
        let connected = !matches!(self.state, State::Connecting { connected: false });
        match (connected, &*command.name) {
            (false, "connect") => self.handle_connect(command)?,
            (true, "connect") => return Err(Error::OutOfOrder { command: "connect" }),
            (false, "publish") => return Err(Error::OutOfOrder { command: "publish" }),
            (true, "createStream") => {
                self.message_streams = self.message_streams.saturating_add(1);
                let id = Value::from(f64::from(self.message_streams));
                command::put_result(transaction, &[Value::Null, id], &mut self.transmit);
            }
            (true, "publish") => self.handle_publish(command, message_stream, now)?,
            (true, "FCUnpublish") => self.unpublish(now),
            (true, "closeStream") if self.publishes_on(message_stream) => self.unpublish(now),
            (true, "deleteStream") => {
                let id = command.argument(0).and_then(Value::as_number).unwrap_or(0.0);
                if self.publishes_on(id as u32) {
                    self.unpublish(now);
                }
            }
            (true, "play" | "play2") => {
                let (code, description) = ("NetStream.Play.Failed", "This port takes publishers.");
                let out = &mut self.transmit;
                command::put_status(message_stream, "error", code, description, out);
            }
            (_, "getStreamLength") => {
                let values = [Value::Null, Value::from(0.0)];
                command::put_result(transaction, &values, &mut self.transmit);
            }
            (_, "releaseStream" | "FCPublish" | "FCSubscribe" | "_checkbw") => {
                command::put_result(transaction, &[Value::Null], &mut self.transmit);
            }
            // Answers to nothing we asked, and calls that want no answer.
            (_, "_result" | "_error" | "onStatus") => {}
            _ if transaction == 0.0 => {}
            _ => command::put_unknown_call(transaction, &mut self.transmit),
        }
        Ok(())
    }

    fn handle_connect(&mut self, command: &Command) -> Result<(), Error> {
        let member = |key| command.object().and_then(|object| object.member(key));
        let app = member("app").and_then(Value::as_str).unwrap_or_default();
        self.check_name(app)?;
        self.app = Secret::new(app);
        self.state = State::Connecting { connected: true };
        // Old encoders are told nothing they did not ask for.
        let enhanced = ["fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx"]
            .into_iter()
            .any(|key| member(key).is_some());
        let caps = member("capsEx").and_then(Value::as_number).unwrap_or(0.0) as u8;
        self.reconnects = caps & command::caps_ex::RECONNECT != 0;
        command::put_connected(command.transaction, enhanced, &mut self.transmit);
        Ok(())
    }

    fn handle_publish(
        &mut self,
        command: &Command,
        message_stream: u32,
        now: Instant,
    ) -> Result<(), Error> {
        if !matches!(self.state, State::Connecting { .. }) {
            return Err(Error::OutOfOrder { command: "publish" });
        }
        let name = command.argument(0).and_then(Value::as_str).unwrap_or_default();
        self.check_name(name)?;
        // The publishing type (live, record, append) is not read: all are live here.
        let Target { app, input_id, key } = Target::parse(self.app.expose(), name);
        self.state = State::Deciding { message_stream, pending: Vec::new(), pending_bytes: 0 };
        self.deadline = now + self.limits.decision_timeout;
        self.events.push_back(Event::Publish { app, input_id, key });
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        let max = self.limits.name_bytes_max;
        if name.len() > max {
            return Err(Error::CommandTooLong { bytes: name.len(), max });
        }
        Ok(())
    }

    fn publishes_on(&self, id: u32) -> bool {
        match self.state {
            State::Deciding { message_stream, .. } | State::Publishing { message_stream } => {
                message_stream == id
            }
            _ => false,
        }
    }

    /// The publisher's goodbye. Its socket is left to it to close, so that the rest of its
    /// farewell does not meet a reset.
    fn unpublish(&mut self, now: Instant) {
        match self.state {
            State::Publishing { message_stream } => {
                let (code, description) = ("NetStream.Unpublish.Success", "Unpublished.");
                let out = &mut self.transmit;
                command::put_status(message_stream, "status", code, description, out);
                self.push_end(EndReason::Unpublished);
                self.state = State::Unpublished;
                self.deadline = now + self.limits.linger_timeout;
            }
            State::Deciding { .. } => {
                self.close_with(EndReason::Unpublished, CloseReason::Unpublished);
            }
            _ => {}
        }
    }

    fn fail(&mut self, error: &Error) {
        if let Some(code) = error.code() {
            self.put_error_status(code, &error.to_string());
        }
        self.close_with(error.end_reason(), CloseReason::Failed(error.clone()));
    }

    fn put_error_status(&mut self, code: &str, description: &str) {
        if let State::Deciding { message_stream, .. } | State::Publishing { message_stream } =
            self.state
        {
            command::put_status(message_stream, "error", code, description, &mut self.transmit);
        }
    }

    fn close_with(&mut self, end: EndReason, reason: CloseReason) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => return,
            State::Publishing { .. } => self.push_end(end),
            _ => {}
        }
        // Frees what unfinished messages hold.
        self.decoder = chunk::Decoder::new();
        self.events.push_back(Event::Closed { reason });
    }

    fn push_end(&mut self, reason: EndReason) {
        self.events.push_back(Event::Media(crate::Event::End { reason }));
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Handshake(_) => "handshake",
            State::Connecting { .. } => "connecting",
            State::Deciding { .. } => "deciding",
            State::Publishing { .. } => "publishing",
            State::Unpublished => "unpublished",
            State::Closed => "closed",
        };
        f.debug_struct("Session").field("state", &state).finish_non_exhaustive()
    }
}

impl Metadata {
    fn read(object: &Value) -> Self {
        let number = |key| object.member(key).and_then(Value::as_number);
        let encoder = object.member("encoder").and_then(Value::as_str);
        Self {
            encoder: encoder
                .map(|text| text.chars().filter(|c| !c.is_control()).take(128).collect()),
            frame_rate: number("framerate"),
            height: number("height"),
            width: number("width"),
        }
    }
}

/// The one number of a protocol control message. Longer ones are read at their start.
fn control_number(message: &Message) -> Result<u32, Error> {
    match message.payload.first_chunk() {
        Some(bytes) => Ok(u32::from_be_bytes(*bytes)),
        None => Err(Error::ControlLength { kind: message.kind, bytes: message.payload.len() }),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
