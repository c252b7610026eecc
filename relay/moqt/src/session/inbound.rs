//! What arrives on the streams of a session before it is a message: which stream is which, what waits
//! for SETUP, where messages end, and what it means when a stream does.

use bytes::{Bytes, BytesMut};

use super::framer::Framer;
use super::in_full::Memory;
use super::messages::{Place, misplaced};
use super::{Event, Link, Request, Session, Stream};
use crate::draft::Control;
use crate::error::{DoneCode, RequestCode, RequestError, ResetCode, SessionError};
use crate::message::{Kind, NO_REQUEST};
use crate::model::{Dir, RequestId, RequestKind, Role, StreamId};

impl Session {
    pub(super) fn on_stream(
        &mut self,
        id: StreamId,
        dir: Dir,
        data: Bytes,
        fin: bool,
    ) -> Result<(), SessionError> {
        let stream = match self.streams.get_mut(&id) {
            Some(slot) => std::mem::replace(slot, Stream::Discard),
            None => self.admit(id, dir)?,
        };
        match self.feed(id, stream, data, fin)? {
            Some(stream) => self.streams.insert(id, stream),
            None => self.streams.remove(&id),
        };
        Ok(())
    }

    /// What a stream new to us is at first sight.
    fn admit(&mut self, id: StreamId, dir: Dir) -> Result<Stream, SessionError> {
        match (self.setup_seen, dir) {
            (true, Dir::Bi) => Ok(Stream::Opening(Framer::default())),
            (true, Dir::Uni) => Ok(self.admit_data(id)),
            (false, dir) => {
                let may_be_control = match self.rules().control {
                    Control::UniPair => dir == Dir::Uni,
                    Control::ClientBidi => dir == Dir::Bi && self.role == Role::Server,
                };
                if may_be_control {
                    return Ok(Stream::Fresh { dir, head: BytesMut::new() });
                }
                self.hold_early()?;
                Ok(Stream::Early { dir, data: BytesMut::new(), fin: false })
            }
        }
    }

    fn hold_early(&mut self) -> Result<(), SessionError> {
        self.early_streams += 1;
        if self.early_streams > self.limits.before_setup_streams {
            return Err(SessionError::violation("too many streams before SETUP"));
        }
        Ok(())
    }

    fn feed(
        &mut self,
        id: StreamId,
        stream: Stream,
        data: Bytes,
        fin: bool,
    ) -> Result<Option<Stream>, SessionError> {
        match stream {
            Stream::Fresh { dir, head } => self.feed_fresh(id, dir, head, &data, fin),
            Stream::Early { dir, data: mut held, fin: ended } => {
                self.early_bytes += data.len();
                if self.early_bytes > self.limits.before_setup_bytes {
                    return Err(SessionError::violation("too many bytes before SETUP"));
                }
                held.extend_from_slice(&data);
                Ok(Some(Stream::Early { dir, data: held, fin: ended || fin }))
            }
            Stream::Control(framer) => self.feed_control(framer, &data, fin).map(Some),
            Stream::Opening(framer) => self.feed_opening(id, framer, &data, fin),
            Stream::Request(request, framer) => self.feed_request(request, framer, &data, fin),
            Stream::Data(stream) => self.feed_data(id, stream, data, fin),
            Stream::Discard => Ok((!fin).then_some(Stream::Discard)),
        }
    }

    fn feed_fresh(
        &mut self,
        id: StreamId,
        dir: Dir,
        mut head: BytesMut,
        data: &Bytes,
        fin: bool,
    ) -> Result<Option<Stream>, SessionError> {
        head.extend_from_slice(data);
        let Some((number, _)) = self.rules().ints.decode(&head) else {
            if !fin {
                return Ok(Some(Stream::Fresh { dir, head }));
            }
            if head.is_empty() {
                return Ok(None);
            }
            return Err(SessionError::violation("a stream ended inside its type"));
        };
        let kind = self.codec().kind(number, self.peer());
        let head = head.freeze();
        if kind.is_some_and(Kind::is_setup) {
            if self.rules().control == Control::ClientBidi {
                self.control_ready(id);
            }
            return self.feed_control(Framer::default(), &head, fin).map(Some);
        }
        let may_wait = match dir {
            Dir::Uni => true,
            Dir::Bi => kind.and_then(Kind::opens).is_some_and(self.rules().own_stream),
        };
        if !may_wait {
            let name = kind.map_or("an unknown message", Kind::name);
            return Err(SessionError::violation(format!("{name} before SETUP")));
        }
        self.hold_early()?;
        self.feed(id, Stream::Early { dir, data: BytesMut::new(), fin: false }, head, fin)
    }

    fn feed_control(
        &mut self,
        mut framer: Framer,
        data: &Bytes,
        fin: bool,
    ) -> Result<Stream, SessionError> {
        framer.push(data);
        while let Some((kind, body)) = self.next_message(&mut framer)? {
            match (self.setup_seen, kind) {
                (false, kind) if kind.is_setup() => {
                    let decoded = self.codec().decode(kind, body, NO_REQUEST)?;
                    self.on_setup(decoded)?;
                }
                (false, kind) => {
                    let reason = format!("{} before SETUP", kind.name());
                    return Err(SessionError::violation(reason));
                }
                (true, kind) => {
                    if !self.on_control(kind) {
                        return Err(misplaced(kind, "the control stream"));
                    }
                    let decoded = self.codec().decode(kind, body, NO_REQUEST)?;
                    self.on_message(decoded, Place::Control)?;
                }
            }
        }
        if fin {
            return Err(SessionError::violation("the control stream was closed"));
        }
        Ok(Stream::Control(framer))
    }

    /// Whether a message belongs on the control stream after SETUP.
    fn on_control(&self, kind: Kind) -> bool {
        match self.rules().control {
            Control::UniPair => kind == Kind::GoAway,
            Control::ClientBidi => {
                !kind.is_setup()
                    && !matches!(kind, Kind::Namespace | Kind::NamespaceDone)
                    && !kind.opens().is_some_and(self.rules().own_stream)
            }
        }
    }

    fn feed_opening(
        &mut self,
        id: StreamId,
        mut framer: Framer,
        data: &Bytes,
        fin: bool,
    ) -> Result<Option<Stream>, SessionError> {
        framer.push(data);
        let Some((kind, body)) = self.next_message(&mut framer)? else {
            if !fin {
                return Ok(Some(Stream::Opening(framer)));
            }
            if framer.is_empty() {
                return Ok(None);
            }
            return Err(framer.cut_off("request stream"));
        };
        if !kind.opens().is_some_and(self.rules().own_stream) {
            return Err(misplaced(kind, "the start of a request stream"));
        }
        let decoded = self.codec().decode(kind, body, NO_REQUEST)?;
        match self.on_message(decoded, Place::Opening(id))? {
            Some(request) => self.feed_request(request, framer, &Bytes::new(), fin),
            None => Ok((!fin).then_some(Stream::Discard)),
        }
    }

    fn feed_request(
        &mut self,
        request: RequestId,
        mut framer: Framer,
        data: &Bytes,
        fin: bool,
    ) -> Result<Option<Stream>, SessionError> {
        framer.push(data);
        while self.requests.contains_key(&request)
            && let Some((kind, body)) = self.next_message(&mut framer)?
        {
            let decoded = self.codec().decode(kind, body, request)?;
            self.on_message(decoded, Place::Request(request))?;
        }
        if fin && let Some(open) = self.requests.get_mut(&request) {
            if !framer.is_empty() {
                return Err(framer.cut_off("request stream"));
            }
            open.rx_done = true;
            self.on_request_fin(request);
        }
        if self.requests.contains_key(&request) {
            return Ok(Some(Stream::Request(request, framer)));
        }
        Ok((!fin).then_some(Stream::Discard))
    }

    fn next_message(&self, framer: &mut Framer) -> Result<Option<(Kind, Bytes)>, SessionError> {
        framer.next(self.codec(), self.peer(), self.limits.control_message_bytes)
    }

    // Stream endings.

    pub(super) fn on_reset(&mut self, id: StreamId, code: u64) -> Result<(), SessionError> {
        match self.streams.remove(&id) {
            Some(Stream::Control(_)) => {
                Err(SessionError::violation("the control stream was reset"))
            }
            Some(Stream::Request(request, _)) => {
                if let Some(open) = self.requests.get_mut(&request) {
                    open.rx_done = true;
                }
                self.on_request_reset(request);
                Ok(())
            }
            Some(Stream::Data(stream)) => {
                self.end_data(id, &stream, self.draft.read_reset_code(code));
                Ok(())
            }
            Some(Stream::Opening(_)) => {
                self.reset(id, ResetCode::Cancelled);
                Ok(())
            }
            Some(Stream::Early { data, .. }) => {
                self.early_bytes = self.early_bytes.saturating_sub(data.len());
                self.early_streams = self.early_streams.saturating_sub(1);
                Ok(())
            }
            Some(Stream::Fresh { .. } | Stream::Discard) | None => Ok(()),
        }
    }

    pub(super) fn on_stop(&mut self, id: StreamId, _code: u64) -> Result<(), SessionError> {
        if self.control == Some(id) {
            return Err(SessionError::violation("the control stream was stopped"));
        }
        if let Some(Stream::Request(request, _)) = self.streams.get(&id) {
            let request = *request;
            if self.requests.get(&request).is_some_and(Request::may_say_more) {
                self.reset(id, ResetCode::Cancelled);
            } else {
                self.stop(id, ResetCode::Cancelled);
                self.on_request_reset(request);
            }
        }
        Ok(())
    }

    /// The peer gave up a request: its own (a cancel), or one of ours (a failure).
    fn on_request_reset(&mut self, request: RequestId) {
        let Some(open) = self.requests.get(&request) else {
            return;
        };
        let ours = open.ours;
        if let Link::Stream(stream) = open.link {
            self.reset(stream, ResetCode::Cancelled);
        }
        if ours {
            self.fail_own(request, "the request stream was reset");
        } else {
            self.cancelled_by_peer(request);
        }
    }

    /// The peer finished its side of a request stream.
    fn on_request_fin(&mut self, request: RequestId) {
        let Some(open) = self.requests.get(&request) else {
            return;
        };
        match (open.ours, open.kind) {
            // A fetch goes on with its data stream; the subscriber of a PUBLISH says that no update follows.
            (true, RequestKind::Fetch | RequestKind::Publish) if open.answered => {}
            (true, _) => {
                self.finish_own(request);
                self.fail_own(request, "the request stream ended");
            }
            // In draft 18 these end by closing their stream (section 10.15 and on). Other requesters only
            // say that no update follows.
            (
                false,
                RequestKind::PublishNamespace
                | RequestKind::SubscribeNamespace
                | RequestKind::SubscribeTracks,
            ) if self.rules().fin_ends_namespace => {
                self.finish_own(request);
                self.cancelled_by_peer(request);
            }
            (false, RequestKind::Publish) => {
                self.finish_own(request);
                self.cancelled_by_peer(request);
            }
            (false, _) => {}
        }
    }

    /// Finishes our side of a request's stream, if it has one.
    pub(super) fn finish_own(&mut self, request: RequestId) {
        if let Some(Request { link: Link::Stream(stream), .. }) = self.requests.get(&request) {
            let stream = *stream;
            self.write(stream, Bytes::new(), true);
        }
    }

    /// A request of ours ends without the message that should end it.
    pub(super) fn fail_own(&mut self, request: RequestId, reason: &str) {
        let Some(open) = self.close(request) else {
            return;
        };
        let error = RequestError::new(RequestCode::Internal, reason);
        let event = match (open.answered, open.kind) {
            (false, kind) => Event::RequestError { request, kind, error },
            (true, RequestKind::Subscribe) => Event::PublishDone {
                request,
                code: DoneCode::Internal,
                streams: None,
                reason: reason.to_owned(),
            },
            (true, RequestKind::Fetch) => return,
            (true, RequestKind::Publish) => Event::Unsubscribed { request },
            (true, kind) => Event::Revoked { request, kind, error },
        };
        self.events.push_back(event);
    }

    /// The peer ended a request of its own.
    pub(super) fn cancelled_by_peer(&mut self, request: RequestId) {
        let Some(open) = self.close(request) else {
            return;
        };
        let event = match open.kind {
            RequestKind::Subscribe => Event::Unsubscribed { request },
            RequestKind::Fetch => Event::FetchCancelled { request },
            RequestKind::PublishNamespace => match open.memory.and_then(Memory::advertised) {
                Some((request, suffix)) => return self.unadvertised(request, suffix),
                None => Event::PublishNamespaceDone { request },
            },
            RequestKind::SubscribeNamespace | RequestKind::SubscribeTracks => {
                Event::UnsubscribedNamespace { request }
            }
            RequestKind::Publish => Event::PublishDone {
                request,
                code: DoneCode::Internal,
                streams: None,
                reason: "the publisher closed the request".to_owned(),
            },
            RequestKind::TrackStatus | RequestKind::Update => return,
        };
        self.events.push_back(event);
    }
}
