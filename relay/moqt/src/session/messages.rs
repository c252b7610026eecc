//! What the peer's messages do to a session. A message is judged here by what it names and what is
//! open, never by its draft: the codec has settled that.

use super::requests::is_namespace;
use super::{Event, Link, Request, Session, Stream};
use crate::error::{RequestCode, RequestError, SessionCode, SessionError};
use crate::message::{Decoded, Kind, Message, Setup, Want};
use crate::model::{
    FetchTarget, Filter, Params, RequestId, RequestKind, Role, StreamId, Transport,
};

/// Where a message stood.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Control,
    /// First on a stream the peer opened.
    Opening(StreamId),
    /// On the stream of an open request.
    Request(RequestId),
}

impl Session {
    pub(super) fn on_setup(&mut self, decoded: Decoded) -> Result<(), SessionError> {
        let Message::Setup(Setup {
            mut options,
            max_request_id,
            filter_ranges,
            request_updates,
            token_cache_bytes: _,
        }) = decoded.message
        else {
            return Err(SessionError::violation("SETUP expected"));
        };
        let raw_client = self.role == Role::Server && self.transport == Transport::Quic;
        if !raw_client && options.path.is_some() {
            return Err(SessionError::new(
                SessionCode::InvalidPath,
                "SETUP: PATH has no place here",
            ));
        }
        if !raw_client && options.authority.is_some() {
            let reason = "SETUP: AUTHORITY has no place here";
            return Err(SessionError::new(SessionCode::InvalidAuthority, reason));
        }
        for action in decoded.aside.tokens {
            options.tokens.push(self.tokens.resolve_in_setup(action)?);
        }
        self.setup_seen = true;
        self.peer_filter_ranges = filter_ranges.unwrap_or(0);
        self.peer_updates = request_updates.filter(|&updates| updates > 0).unwrap_or(u64::MAX);
        self.events.push_back(Event::Setup { options });
        if self.rules().request_ids {
            self.raise_peer_max(max_request_id.unwrap_or(0));
        }
        self.replay_early()
    }

    /// Streams that overtook SETUP now count.
    fn replay_early(&mut self) -> Result<(), SessionError> {
        let early: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, stream)| matches!(stream, Stream::Early { .. } | Stream::Fresh { .. }))
            .map(|(id, _)| *id)
            .collect();
        self.early_bytes = 0;
        self.early_streams = 0;
        for id in early {
            match self.streams.remove(&id) {
                Some(Stream::Early { dir, data, fin }) => {
                    self.on_stream(id, dir, data.freeze(), fin)?;
                }
                Some(Stream::Fresh { dir, head }) => {
                    self.on_stream(id, dir, head.freeze(), false)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The message with its tokens put in.
    fn resolve(
        &mut self,
        decoded: Decoded,
    ) -> Result<(Message, Option<RequestError>), SessionError> {
        let Decoded { mut message, aside } = decoded;
        for action in aside.tokens {
            let token = self.tokens.resolve(action)?;
            if let (Some(token), Some(params)) = (token, message.params_mut()) {
                params.tokens.push(token);
            }
        }
        Ok((message, aside.refusal))
    }

    /// Returns the request opened, if the message opened one that is still open.
    pub(super) fn on_message(
        &mut self,
        mut decoded: Decoded,
        place: Place,
    ) -> Result<Option<RequestId>, SessionError> {
        self.settle(&mut decoded)?;
        let (message, refusal) = self.resolve(decoded)?;
        let kind = message.kind();
        match (place, kind.opens()) {
            (Place::Request(_), Some(_)) => {
                return Err(misplaced(kind, "the stream of another request"));
            }
            (_, Some(opened)) => return self.on_request(message, refusal, opened, place),
            _ => {}
        }
        self.check_place(&message, place)?;
        match message {
            Message::GoAway { uri, timeout_ms, .. } => self.on_goaway(place, uri, timeout_ms)?,
            Message::MaxRequestId { max } => {
                if max < self.peer_max {
                    return Err(SessionError::violation("MAX_REQUEST_ID: goes down"));
                }
                self.raise_peer_max(max);
            }
            // Only tells that MAX_REQUEST_ID is awaited; it comes when requests end.
            Message::RequestsBlocked { .. } => {}
            Message::Update { request, target, params } => {
                self.on_update(request, target, params, refusal)?;
            }
            Message::Unsubscribe { request } => self.on_unsubscribe(request),
            Message::FetchCancel { request } => self.on_cancel(request, RequestKind::Fetch),
            Message::PublishNamespaceDone { request } => {
                self.on_cancel(request, RequestKind::PublishNamespace);
            }
            Message::UnsubscribeNamespace { request } => {
                self.on_cancel(request, RequestKind::SubscribeNamespace);
            }
            Message::PublishNamespaceCancel { request, code, reason } => {
                if self.is_own(request, RequestKind::PublishNamespace) {
                    let quiet = self.is_advert(request);
                    self.close(request);
                    if quiet {
                        return Ok(None);
                    }
                    let error = RequestError::new(code, reason);
                    let kind = RequestKind::PublishNamespace;
                    self.events.push_back(Event::Revoked { request, kind, error });
                }
            }
            Message::PublishDone { request, code, streams, reason } => {
                self.on_publish_done(request, code, streams, reason)?;
            }
            Message::SubscribeOk { request, alias, params, properties } => {
                if self.grant(request, RequestKind::Subscribe, kind)? {
                    self.learn_alias(alias, request)?;
                    self.learn_start(request, params.largest);
                    self.events.push_back(Event::SubscribeOk {
                        request,
                        alias,
                        params,
                        properties,
                    });
                    self.wake(alias)?;
                }
            }
            Message::FetchOk { request, end_of_track, end, params, properties } => {
                if self.grant(request, RequestKind::Fetch, kind)? {
                    self.events.push_back(Event::FetchOk {
                        request,
                        end_of_track,
                        end,
                        params,
                        properties,
                    });
                    self.complete_fetch(request);
                }
            }
            Message::PublishOk { request, params } => {
                if self.grant(request, RequestKind::Publish, kind)? {
                    let (kind, properties) = (RequestKind::Publish, Vec::new());
                    self.events.push_back(Event::RequestOk { request, kind, params, properties });
                }
            }
            Message::RequestOk { request, params, properties } => {
                if let Some((request, kind)) = self.answered(request, Some(kind))? {
                    if kind == RequestKind::Update && self.is_own_update(request)
                        || self.is_advert(request)
                    {
                        return Ok(None);
                    }
                    self.events.push_back(Event::RequestOk { request, kind, params, properties });
                    if kind == RequestKind::TrackStatus {
                        self.finish_own(request);
                        self.close(request);
                    }
                }
            }
            Message::RequestError { request, error } => {
                if let Some((request, kind)) = self.answered(request, None)? {
                    if kind == RequestKind::Update && self.is_own_update(request) {
                        return Ok(None);
                    }
                    let quiet = self.is_advert(request);
                    if kind != RequestKind::Update {
                        self.finish_own(request);
                        self.stop_data(request);
                        self.close(request);
                    }
                    if quiet {
                        return Ok(None);
                    }
                    self.events.push_back(Event::RequestError { request, kind, error });
                }
            }
            Message::PublishState { request, params } => self.on_publish_state(request, params)?,
            Message::PublishBlocked { suffix, name } => {
                if let Place::Request(request) = place {
                    self.events.push_back(Event::PublishBlocked { request, suffix, name });
                }
            }
            Message::Namespace { suffix } => self.on_namespace(place, Some(suffix), None),
            Message::NamespaceDone { suffix } => self.on_namespace(place, None, Some(suffix)),
            _ => return Err(misplaced(kind, "this stream")),
        }
        Ok(None)
    }

    /// On a request's own stream only its own affairs may be spoken of.
    fn check_place(&self, message: &Message, place: Place) -> Result<(), SessionError> {
        let Place::Request(stream) = place else {
            return Ok(());
        };
        let open = self.requests.get(&stream);
        let (ours, of) = open.map_or((false, RequestKind::Update), |open| (open.ours, open.kind));
        let named = |id: RequestId| id == stream || self.updates.get(&id) == Some(&stream);
        let allowed = match message {
            Message::GoAway { .. } => true,
            Message::Update { target, .. } => {
                *target == stream && (!ours || of == RequestKind::Publish)
            }
            Message::PublishDone { .. } | Message::PublishState { .. } => {
                ours == (of == RequestKind::Subscribe)
            }
            Message::SubscribeOk { .. } | Message::FetchOk { .. } => ours,
            Message::RequestOk { request, .. } | Message::RequestError { request, .. } => {
                named(*request) && (ours || of == RequestKind::Publish)
            }
            Message::Namespace { .. } | Message::NamespaceDone { .. } => {
                ours && of == RequestKind::SubscribeNamespace
            }
            Message::PublishBlocked { .. } => ours && of == RequestKind::SubscribeTracks,
            _ => false,
        };
        if allowed {
            return Ok(());
        }
        Err(misplaced(message.kind(), "the stream of this request"))
    }

    fn on_goaway(
        &mut self,
        place: Place,
        uri: String,
        timeout_ms: Option<u64>,
    ) -> Result<(), SessionError> {
        let (seen, request) = match place {
            Place::Request(request) => match self.requests.get_mut(&request) {
                Some(open) => (&mut open.goaway_seen, Some(request)),
                None => return Ok(()),
            },
            _ => (&mut self.goaway_seen, None),
        };
        if std::mem::replace(seen, true) {
            return Err(SessionError::violation("GOAWAY: came twice"));
        }
        // Section 10.4: a client has no other place to send a server to.
        if self.role == Role::Server && !uri.is_empty() {
            return Err(SessionError::violation("GOAWAY: a client names a URI"));
        }
        self.events.push_back(Event::GoAway { request, uri, timeout_ms });
        Ok(())
    }

    pub(super) fn check_peer_id(&mut self, id: RequestId, kind: Kind) -> Result<(), SessionError> {
        let parity = u64::from(self.peer() == Role::Server);
        let name = kind.name();
        if id.0 % 2 != parity {
            let reason = format!("{name}: request id {} has the parity of the other side", id.0);
            return Err(SessionError::new(SessionCode::InvalidRequestId, reason));
        }
        if id.0 >= self.granted {
            let reason = format!("{name}: request id {} is not below {}", id.0, self.granted);
            return Err(SessionError::new(SessionCode::TooManyRequests, reason));
        }
        if !self.peer_ids.insert(id.0 / 2) {
            let reason = format!("{name}: request id {} is used already", id.0);
            return Err(SessionError::new(SessionCode::InvalidRequestId, reason));
        }
        Ok(())
    }

    fn on_request(
        &mut self,
        message: Message,
        refusal: Option<RequestError>,
        kind: RequestKind,
        place: Place,
    ) -> Result<Option<RequestId>, SessionError> {
        let (request, alias) = match &message {
            Message::Publish { request, alias, .. } => (*request, Some(*alias)),
            Message::Subscribe { request, .. }
            | Message::Fetch { request, .. }
            | Message::TrackStatus { request, .. }
            | Message::PublishNamespace { request, .. }
            | Message::SubscribeNamespace { request, .. } => (*request, None),
            _ => return Err(misplaced(message.kind(), "this stream")),
        };
        self.check_peer_id(request, message.kind())?;
        let link = match place {
            Place::Opening(stream) => Link::Stream(stream),
            _ => Link::Control,
        };
        let memory = self.memory_of(&message);
        self.requests.insert(request, Request { alias, memory, ..Request::new(kind, false, link) });
        self.peer_open += 1;
        if is_namespace(kind) {
            self.peer_namespaces += 1;
        }
        if let Some(error) = self.refusal(&message).or(refusal) {
            let _ = self.reject(request, &error);
            return Ok(None);
        }
        if let Message::PublishNamespace { namespace, .. } = &message
            && self.advertised_by(request, namespace)
        {
            return Ok(None);
        }
        self.events.push_back(match message {
            Message::Subscribe { request, track, params } => {
                Event::Subscribe { request, track, params }
            }
            Message::Fetch { request, target, params } => Event::Fetch { request, target, params },
            Message::TrackStatus { request, track, params } => {
                Event::TrackStatus { request, track, params }
            }
            Message::PublishNamespace { request, namespace, params } => {
                Event::PublishNamespace { request, namespace, params }
            }
            Message::SubscribeNamespace { request, prefix, want: Want::Tracks, params } => {
                Event::SubscribeTracks { request, prefix, params }
            }
            Message::SubscribeNamespace { request, prefix, want, params } => {
                let tracks_too = want == Want::Both;
                Event::SubscribeNamespace { request, prefix, tracks_too, params }
            }
            Message::Publish { request, track, alias, params, properties } => {
                if self.alias_taken(alias, request) {
                    return Err(duplicate_alias(alias));
                }
                Event::Publish { request, track, alias, params, properties }
            }
            _ => return Ok(None),
        });
        Ok(Some(request))
    }

    /// Reasons to refuse a request that its owner need not judge.
    fn refusal(&mut self, message: &Message) -> Option<RequestError> {
        if self.peer_open > self.limits.open_requests
            || self.peer_namespaces > self.limits.namespaces
        {
            self.counters.requests_refused += 1;
            return Some(RequestError::new(RequestCode::ExcessiveLoad, "too many open requests"));
        }
        let asked = match message {
            Message::Subscribe { params, .. }
            | Message::Fetch { params, .. }
            | Message::SubscribeNamespace { params, .. } => self.too_many_ranges(params),
            _ => None,
        };
        if asked.is_some() {
            return asked;
        }
        let target = match message {
            Message::Fetch { target, .. } => target,
            Message::Subscribe { params, .. } => {
                return match params.filter {
                    Some(Filter::AbsoluteRange { start, end_group }) if end_group < start.group => {
                        let reason = "the filter ends before it starts";
                        Some(RequestError::new(RequestCode::InvalidRange, reason))
                    }
                    _ => None,
                };
            }
            _ => return None,
        };
        match target {
            FetchTarget::Standalone { start, end, .. } if end < start => Some(RequestError::new(
                RequestCode::InvalidRange,
                "the range ends before it starts",
            )),
            FetchTarget::Recent { groups_back: 0, .. } => Some(RequestError::new(
                RequestCode::InvalidRange,
                "the range begins after the largest object",
            )),
            FetchTarget::RelativeJoining { subscription, .. }
            | FetchTarget::AbsoluteJoining { subscription, .. }
                if !self.is_peers(*subscription, RequestKind::Subscribe)
                    && !self.is_own(*subscription, RequestKind::Publish) =>
            {
                let reason = "no such subscription";
                Some(RequestError::new(RequestCode::InvalidJoiningRequest, reason))
            }
            _ => None,
        }
    }
}

impl Session {
    /// A request with more ranges than we take.
    pub(super) fn too_many_ranges(&mut self, params: &Params) -> Option<RequestError> {
        let (of_request, of_fill) = params.range_counts();
        let many = of_request.max(of_fill) > self.limits.filter_ranges;
        self.counters.ranges_refused += u64::from(many);
        many.then(|| RequestError::new(RequestCode::InvalidFilter, "too many filter ranges"))
    }

    /// Whether this answers an update the owner does not know of.
    fn is_own_update(&mut self, update: RequestId) -> bool {
        self.requests
            .values_mut()
            .find(|open| open.own_update == Some(update))
            .is_some_and(|open| open.own_update.take().is_some())
    }
}

pub(super) fn misplaced(kind: Kind, place: &str) -> SessionError {
    SessionError::violation(format!("{}: has no place on {place}", kind.name()))
}

pub(super) fn duplicate_alias(alias: u64) -> SessionError {
    let reason = format!("track alias {alias} belongs to another open subscription");
    SessionError::new(SessionCode::DuplicateTrackAlias, reason)
}
