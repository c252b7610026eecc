//! What the owner of a session asks of it: requests of our own, and answers to those of the peer.

use bytes::{Bytes, BytesMut};

#[cfg(doc)]
use super::Event;
use super::{Link, Request, Session};
use crate::draft::{Ending, Feature};
use crate::error::{CommandError, DoneCode, RequestCode, RequestError, ResetCode};
use crate::message::{Message, Want};
use crate::model::{
    Dir, FetchTarget, GroupOrder, Location, OpenKey, Params, Property, RequestId, RequestKind, Role,
};
use crate::name::{FullTrackName, Namespace};

/// Requests of ours.
impl Session {
    /// SUBSCRIBE.
    pub fn subscribe(
        &mut self,
        track: &FullTrackName,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        self.check_filters(&params)?;
        let track = track.clone();
        let order = fill_order(&params);
        let request = self.request(RequestKind::Subscribe, |request| Message::Subscribe {
            request,
            track,
            params,
        })?;
        self.expect_order(request, order);
        Ok(request)
    }

    /// FETCH.
    pub fn fetch(
        &mut self,
        target: &FetchTarget,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        self.check_filters(&params)?;
        let target = target.clone();
        let order = params.group_order;
        let request =
            self.request(RequestKind::Fetch, |request| Message::Fetch { request, target, params })?;
        self.expect_order(request, order);
        Ok(request)
    }

    /// Groups on the fetch stream of `request` come in this order.
    fn expect_order(&mut self, request: RequestId, order: Option<GroupOrder>) {
        if let (Some(open), Some(order)) = (self.requests.get_mut(&request), order) {
            open.order = order;
        }
    }

    /// Filters that would be lost on the way are refused: leaving one out would ask for more.
    fn check_filters(&self, params: &Params) -> Result<(), CommandError> {
        if params.fill.is_some() {
            self.require(Feature::Fill, "fill")?;
        }
        let (of_request, of_fill) = params.range_counts();
        if of_request.max(of_fill) > self.peer_filter_ranges {
            return Err(CommandError::NotSupported("range filter, or the peer takes fewer"));
        }
        Ok(())
    }

    /// TRACK_STATUS.
    pub fn track_status(
        &mut self,
        track: &FullTrackName,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        let track = track.clone();
        self.request(RequestKind::TrackStatus, |request| Message::TrackStatus {
            request,
            track,
            params,
        })
    }

    /// PUBLISH_NAMESPACE.
    pub fn publish_namespace(
        &mut self,
        namespace: &Namespace,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        let namespace = namespace.clone();
        self.request(RequestKind::PublishNamespace, |request| Message::PublishNamespace {
            request,
            namespace,
            params,
        })
    }

    /// SUBSCRIBE_NAMESPACE, for NAMESPACE advertisements.
    pub fn subscribe_namespace(
        &mut self,
        prefix: &Namespace,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        let prefix = prefix.clone();
        self.request(RequestKind::SubscribeNamespace, |request| Message::SubscribeNamespace {
            request,
            prefix,
            want: Want::Namespaces,
            params,
        })
    }

    /// SUBSCRIBE_TRACKS (draft 16: SUBSCRIBE_NAMESPACE for tracks): asks for PUBLISH of every track under
    /// `prefix`.
    pub fn subscribe_tracks(
        &mut self,
        prefix: &Namespace,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        self.require(Feature::SubscribeTracks, "SUBSCRIBE_TRACKS")?;
        self.check_filters(&params)?;
        let prefix = prefix.clone();
        self.request(RequestKind::SubscribeTracks, |request| Message::SubscribeNamespace {
            request,
            prefix,
            want: Want::Tracks,
            params,
        })
    }

    /// PUBLISH. `alias` must be unique among the subscriptions the peer holds here; data may flow at once
    /// unless `params` has FORWARD 0. The answer is an [`Event::RequestOk`] or [`Event::RequestError`];
    /// later changes of the subscriber come as [`Event::Update`], its end as [`Event::Unsubscribed`].
    /// We end it with [`Session::publish_done`].
    pub fn publish(
        &mut self,
        track: &FullTrackName,
        alias: u64,
        params: Params,
        properties: &[Property],
    ) -> Result<RequestId, CommandError> {
        let (track, properties) = (track.clone(), properties.to_vec());
        self.request(RequestKind::Publish, |request| Message::Publish {
            request,
            track,
            alias,
            params,
            properties,
        })
    }

    /// REQUEST_UPDATE of an open request of ours (or of a PUBLISH of the peer that we accepted). The
    /// answer is an [`Event::RequestOk`] or [`Event::RequestError`] for the id returned.
    pub fn update(
        &mut self,
        request: RequestId,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        let open = self.requests.get(&request).ok_or(CommandError::UnknownRequest(request))?;
        let accepted_publish = open.kind == RequestKind::Publish && open.answered;
        if !(open.ours || accepted_publish) {
            return Err(CommandError::UnknownRequest(request));
        }
        let update = RequestId(self.next_id);
        let unanswered = open.updates.len();
        if update.0 >= self.peer_max
            || unanswered >= self.limits.own_requests
            || unanswered as u64 >= self.peer_updates
        {
            return Err(CommandError::TooManyRequests);
        }
        self.check_filters(&params)?;
        let order = fill_order(&params);
        let params = self.whole_update(request, params)?;
        let standing = self.rules().in_full.then(|| params.clone());
        let bytes = self.encode(&Message::Update { request: update, target: request, params })?;
        self.next_id += 2;
        if let Some(standing) = standing {
            self.updated_in_full(request, update, &standing);
        } else {
            self.updates.insert(update, request);
            if let Some(open) = self.requests.get_mut(&request) {
                open.updates.push(update);
            }
        }
        self.expect_order(request, order);
        self.send_on(request, &bytes.freeze(), false);
        Ok(update)
    }

    /// Ends a request of ours (UNSUBSCRIBE, FETCH_CANCEL, PUBLISH_NAMESPACE_DONE or a reset, as the draft
    /// has it), or a PUBLISH of the peer. Its data streams are stopped; no event follows. Unknown requests
    /// are ignored.
    pub fn cancel(&mut self, request: RequestId) {
        let Some(open) = self.requests.get(&request) else {
            return;
        };
        let kind = open.kind;
        if !open.ours {
            let error = RequestError::new(RequestCode::Uninterested, "not wanted any more");
            match (kind, open.answered) {
                (RequestKind::Publish, true) => {
                    self.end(request, self.codec().revoke(kind, request, &error));
                }
                (RequestKind::Publish, false) => drop(self.reject(request, &error)),
                _ => {}
            }
            return;
        }
        if let Link::Blocked(_) = open.link {
            // The peer never heard of it.
            self.blocked.retain(|id| *id != request);
            self.close(request);
            return;
        }
        self.end(request, self.codec().cancel(kind, request));
    }

    fn end(&mut self, request: RequestId, ending: Ending) {
        match ending {
            Ending::Message(message) => {
                if let Ok(bytes) = self.encode_about(request, &message) {
                    self.send_control_bytes(&bytes.freeze());
                }
            }
            Ending::Stream => {
                if let Some(Request { link: Link::Stream(stream), rx_done, .. }) =
                    self.requests.get(&request)
                {
                    let (stream, rx_done) = (*stream, *rx_done);
                    self.reset(stream, ResetCode::Cancelled);
                    if !rx_done {
                        self.stop(stream, ResetCode::Cancelled);
                    }
                }
            }
            Ending::Silent => {}
        }
        self.stop_data(request);
        if let Some(alias) = self.requests.get(&request).and_then(|open| open.alias)
            && let Some(known) = self.aliases.get_mut(&alias)
            && known.request == request
        {
            known.wanted = false;
        }
        self.close(request);
    }

    fn request(
        &mut self,
        kind: RequestKind,
        build: impl FnOnce(RequestId) -> Message,
    ) -> Result<RequestId, CommandError> {
        if self.goaway_seen {
            return Err(CommandError::GoingAway);
        }
        if self.requests.len() - self.peer_open >= self.limits.own_requests {
            return Err(CommandError::TooManyRequests);
        }
        let request = RequestId(self.next_id);
        let message = build(request);
        let first = self.encode(&message)?;
        self.next_id += 2;
        let memory = self.memory_of(&message);
        let open = Request { memory, ..Request::new(kind, true, Link::Blocked(first)) };
        self.requests.insert(request, open);
        if request.0 < self.peer_max {
            self.start(request);
        } else {
            self.blocked.push_back(request);
            self.complain();
        }
        Ok(request)
    }

    /// Sends a request that was held back.
    fn start(&mut self, request: RequestId) {
        let own_stream = self.rules().own_stream;
        let Some(open) = self.requests.get_mut(&request) else {
            return;
        };
        let Link::Blocked(first) = &mut open.link else {
            return;
        };
        let first = std::mem::take(first);
        if own_stream(open.kind) {
            open.link = Link::Opening(first);
            self.open(OpenKey(request.0), Dir::Bi);
        } else {
            open.link = Link::Control;
            self.send_control_bytes(&first.freeze());
        }
    }

    /// REQUESTS_BLOCKED, once for each limit we run into.
    fn complain(&mut self) {
        if self.setup_seen && self.blocked_at != Some(self.peer_max) {
            self.blocked_at = Some(self.peer_max);
            let _ = self.send_control(&Message::RequestsBlocked { max: self.peer_max });
        }
    }

    /// The peer allows ids below `max`: what waited goes out.
    pub(super) fn raise_peer_max(&mut self, max: u64) {
        self.peer_max = max;
        while let Some(&request) = self.blocked.front() {
            if request.0 >= max {
                return self.complain();
            }
            self.blocked.pop_front();
            self.start(request);
        }
    }

    /// Sends on a request's stream, wherever it is by now.
    fn send_on(&mut self, request: RequestId, bytes: &Bytes, fin: bool) {
        let Some(open) = self.requests.get_mut(&request) else {
            return;
        };
        match &mut open.link {
            Link::Control => self.send_control_bytes(bytes),
            Link::Opening(first) | Link::Blocked(first) => first.extend_from_slice(bytes),
            Link::Stream(stream) => {
                let stream = *stream;
                self.write(stream, bytes.clone(), fin);
            }
        }
    }
}

/// Group order of the fill asked for, if one is.
fn fill_order(params: &Params) -> Option<GroupOrder> {
    params.fill.as_ref().and_then(|fill| fill.group_order.or(params.group_order))
}

/// What of the answer to a PUBLISH has to follow in an update.
fn rest_of(params: &Params) -> Option<Params> {
    let rest = Params { expires_ms: None, ..params.clone() };
    (rest != Params::default()).then_some(rest)
}

/// Answers to requests of the peer.
impl Session {
    /// SUBSCRIBE_OK. `alias` must be unique among the subscriptions the peer holds here.
    pub fn accept_subscribe(
        &mut self,
        request: RequestId,
        alias: u64,
        params: Params,
        properties: &[Property],
    ) -> Result<(), CommandError> {
        self.unanswered(request, RequestKind::Subscribe)?;
        let properties = properties.to_vec();
        self.answer(request, &Message::SubscribeOk { request, alias, params, properties })
    }

    /// FETCH_OK; `end` is inclusive. The fetch stays open (it can be cancelled) until
    /// [`Session::finish_fetch`].
    pub fn accept_fetch(
        &mut self,
        request: RequestId,
        end_of_track: bool,
        end: Location,
        params: Params,
        properties: &[Property],
    ) -> Result<(), CommandError> {
        self.unanswered(request, RequestKind::Fetch)?;
        let properties = properties.to_vec();
        self.answer(request, &Message::FetchOk { request, end_of_track, end, params, properties })
    }

    /// All objects of an accepted fetch were handed to the transport. Unknown requests are ignored.
    pub fn finish_fetch(&mut self, request: RequestId) {
        if self.is_peers(request, RequestKind::Fetch) {
            self.finish_own(request);
            self.close(request);
        }
    }

    /// REQUEST_OK: to PUBLISH_NAMESPACE, SUBSCRIBE_NAMESPACE, SUBSCRIBE_TRACKS, TRACK_STATUS, an update,
    /// or PUBLISH (PUBLISH_OK). `properties` travel only with a track status.
    pub fn accept(
        &mut self,
        request: RequestId,
        params: Params,
        properties: &[Property],
    ) -> Result<(), CommandError> {
        let ok = |params, properties: &[Property]| Message::RequestOk {
            request,
            params,
            properties: properties.to_vec(),
        };
        if let Some(target) = self.peers_update(request) {
            return self.answer_update(request, target, &ok(params, &[]));
        }
        let open = self.requests.get(&request).ok_or(CommandError::UnknownRequest(request))?;
        let kind = open.kind;
        if matches!(kind, RequestKind::Subscribe | RequestKind::Fetch) {
            return Err(CommandError::UnknownRequest(request));
        }
        let alias = open.alias;
        self.unanswered(request, kind)?;
        match kind {
            RequestKind::Publish => {
                self.accepted_in_full(request, &params);
                let rest = if self.rules().publish_ok_params { None } else { rest_of(&params) };
                if let Some(rest) = &rest {
                    self.check_filters(rest)?;
                }
                self.answer(request, &Message::PublishOk { request, params })?;
                let known = alias.map_or(Ok(()), |alias| {
                    self.learn_alias(alias, request)?;
                    self.wake(alias)
                });
                // The alias was free when PUBLISH came; a later SUBSCRIBE_OK may have taken it, or data
                // that waited may be broken. Either way the next call from the transport says so.
                if let Err(error) = known {
                    self.failed = Some(error);
                }
                if let Some(rest) = rest {
                    let update = self.update(request, rest)?;
                    if let Some(open) = self.requests.get_mut(&request) {
                        open.own_update = Some(update);
                    }
                }
                Ok(())
            }
            RequestKind::TrackStatus => {
                self.answer(request, &ok(params, properties))?;
                self.finish_own(request);
                self.close(request);
                Ok(())
            }
            _ => self.answer(request, &ok(params, &[])),
        }
    }

    /// REQUEST_ERROR to any request or update that was not answered yet.
    pub fn reject(&mut self, request: RequestId, error: &RequestError) -> Result<(), CommandError> {
        let refusal = Message::RequestError { request, error: error.clone() };
        if let Some(target) = self.peers_update(request) {
            return self.answer_update(request, target, &refusal);
        }
        let open = self.requests.get(&request).ok_or(CommandError::UnknownRequest(request))?;
        self.unanswered(request, open.kind)?;
        let bytes = self.encode_about(request, &refusal)?;
        self.send_on(request, &bytes.freeze(), true);
        self.close(request);
        Ok(())
    }

    fn answer_update(
        &mut self,
        update: RequestId,
        target: RequestId,
        answer: &Message,
    ) -> Result<(), CommandError> {
        if !self.rules().in_full {
            let bytes = self.encode(answer)?;
            self.send_on(target, &bytes.freeze(), false);
        }
        self.updates.remove(&update);
        self.spend();
        Ok(())
    }

    /// PUBLISH_DONE: ends an accepted subscription of the peer, or our PUBLISH. `streams` = how many data
    /// streams were opened for it, `None` if unknown.
    pub fn publish_done(
        &mut self,
        request: RequestId,
        code: DoneCode,
        streams: Option<u64>,
        reason: &str,
    ) -> Result<(), CommandError> {
        if !self.is_own(request, RequestKind::Publish) {
            self.granted_to_peer(request, &[RequestKind::Subscribe])?;
        }
        let reason = reason.to_owned();
        let done = self.encode(&Message::PublishDone { request, code, streams, reason })?;
        if self.requests.get(&request).is_some_and(|open| open.ours && !open.is_sent()) {
            // The peer need not hear of it at all.
            self.cancel(request);
            return Ok(());
        }
        self.send_on(request, &done.freeze(), true);
        self.close(request);
        Ok(())
    }

    /// PUBLISH_STATE_NOTIFY: an accepted subscription of the peer, or our PUBLISH, changed without its
    /// asking. Drafts without it send nothing.
    pub fn publish_state(
        &mut self,
        request: RequestId,
        params: Params,
    ) -> Result<(), CommandError> {
        if !self.is_own(request, RequestKind::Publish) {
            self.granted_to_peer(request, &[RequestKind::Subscribe])?;
        }
        if !self.supports(Feature::PublishState) {
            return Ok(());
        }
        let bytes = self.encode(&Message::PublishState { request, params })?;
        self.send_on(request, &bytes.freeze(), false);
        Ok(())
    }

    /// PUBLISH_BLOCKED on an accepted SUBSCRIBE_TRACKS: this track exists and gets no PUBLISH. Drafts
    /// without it send nothing.
    pub fn publish_blocked(
        &mut self,
        request: RequestId,
        suffix: &Namespace,
        name: &Bytes,
    ) -> Result<(), CommandError> {
        self.granted_to_peer(request, &[RequestKind::SubscribeTracks])?;
        if !self.supports(Feature::PublishBlocked) {
            return Ok(());
        }
        let (suffix, name) = (suffix.clone(), name.clone());
        let bytes = self.encode(&Message::PublishBlocked { suffix, name })?;
        self.send_on(request, &bytes.freeze(), false);
        Ok(())
    }

    /// Takes back what was accepted: PUBLISH_NAMESPACE, SUBSCRIBE_NAMESPACE, SUBSCRIBE_TRACKS or PUBLISH
    /// of the peer. `error` travels where the draft has room for it.
    pub fn revoke(&mut self, request: RequestId, error: &RequestError) -> Result<(), CommandError> {
        let kind = self.granted_to_peer(
            request,
            &[
                RequestKind::PublishNamespace,
                RequestKind::SubscribeNamespace,
                RequestKind::SubscribeTracks,
                RequestKind::Publish,
            ],
        )?;
        self.end(request, self.codec().revoke(kind, request, error));
        Ok(())
    }

    /// NAMESPACE on an accepted SUBSCRIBE_NAMESPACE; `suffix` follows the prefix.
    pub fn namespace(
        &mut self,
        request: RequestId,
        suffix: &Namespace,
    ) -> Result<(), CommandError> {
        if self.rules().in_full {
            self.granted_to_peer(request, &[RequestKind::SubscribeNamespace])?;
            return self.advertise_in_full(request, suffix);
        }
        self.advertise(request, &Message::Namespace { suffix: suffix.clone() })
    }

    /// NAMESPACE_DONE for a namespace advertised before.
    pub fn namespace_done(
        &mut self,
        request: RequestId,
        suffix: &Namespace,
    ) -> Result<(), CommandError> {
        if self.rules().in_full {
            self.granted_to_peer(request, &[RequestKind::SubscribeNamespace])?;
            self.unadvertise_in_full(request, suffix);
            return Ok(());
        }
        self.advertise(request, &Message::NamespaceDone { suffix: suffix.clone() })
    }

    fn advertise(&mut self, request: RequestId, message: &Message) -> Result<(), CommandError> {
        self.granted_to_peer(request, &[RequestKind::SubscribeNamespace])?;
        let bytes = self.encode(message)?;
        self.send_on(request, &bytes.freeze(), false);
        Ok(())
    }

    /// GOAWAY; a client sends an empty `uri`. Drafts without a timeout leave it out. A second call does
    /// nothing.
    pub fn goaway(&mut self, uri: &str, timeout_ms: u64) -> Result<(), CommandError> {
        if self.goaway_sent {
            return Ok(());
        }
        let uri = if self.role == Role::Client { String::new() } else { uri.to_owned() };
        self.send_control(&Message::GoAway { uri, timeout_ms: Some(timeout_ms), request: None })?;
        self.goaway_sent = true;
        Ok(())
    }

    /// GOAWAY for one open request of either side; a client sends an empty `uri`. A second call for the
    /// same request does nothing.
    pub fn goaway_request(
        &mut self,
        request: RequestId,
        uri: &str,
        timeout_ms: u64,
    ) -> Result<(), CommandError> {
        self.require(Feature::RequestGoAway, "GOAWAY for one request")?;
        let uri = if self.role == Role::Client { String::new() } else { uri.to_owned() };
        let message = Message::GoAway { uri, timeout_ms: Some(timeout_ms), request: None };
        let bytes = self.encode(&message)?;
        let Some(open) = self.requests.get_mut(&request) else {
            return Err(CommandError::UnknownRequest(request));
        };
        if !std::mem::replace(&mut open.goaway_sent, true) {
            self.send_on(request, &bytes.freeze(), false);
        }
        Ok(())
    }

    fn require(&self, feature: Feature, name: &'static str) -> Result<(), CommandError> {
        if self.supports(feature) { Ok(()) } else { Err(CommandError::NotSupported(name)) }
    }

    /// What an unanswered update of the peer changes.
    fn peers_update(&self, update: RequestId) -> Option<RequestId> {
        let own_parity = u64::from(self.role == Role::Server);
        self.updates.get(&update).copied().filter(|_| update.0 % 2 != own_parity)
    }

    fn unanswered(&self, request: RequestId, kind: RequestKind) -> Result<(), CommandError> {
        match self.requests.get(&request) {
            Some(open) if open.ours || open.kind != kind => {
                Err(CommandError::UnknownRequest(request))
            }
            Some(open) if open.answered => Err(CommandError::AlreadyAnswered(request)),
            Some(_) => Ok(()),
            None => Err(CommandError::UnknownRequest(request)),
        }
    }

    fn granted_to_peer(
        &self,
        request: RequestId,
        kinds: &[RequestKind],
    ) -> Result<RequestKind, CommandError> {
        match self.requests.get(&request) {
            Some(open) if !open.ours && open.answered && kinds.contains(&open.kind) => {
                Ok(open.kind)
            }
            _ => Err(CommandError::UnknownRequest(request)),
        }
    }

    fn answer(&mut self, request: RequestId, message: &Message) -> Result<(), CommandError> {
        let bytes: BytesMut = self.encode_about(request, message)?;
        if let Some(open) = self.requests.get_mut(&request) {
            open.answered = true;
        }
        self.send_on(request, &bytes.freeze(), false);
        Ok(())
    }
}
