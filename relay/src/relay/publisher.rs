//! Sessions that publish: the engine's permission, PUBLISH_NAMESPACE, one upstream subscription per
//! track, and the objects that come back. It owns the order in which a publisher's leaving is told.

use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use weir_moqt::data::{ObjectHeader, Status, SubgroupHeader, convert_properties};
use weir_moqt::{
    Filter, Location, Params, Property, RequestCode, RequestError, RequestId, ResetCode,
};

use super::Relay;
use crate::cache::Order;
use crate::encode::PROPERTIES_DRAFT;
use crate::session::{Access, Inbound};
use crate::track::{Source, State, UpstreamDone};
use crate::{
    DoneCode, Event, FullTrackName, Namespace, ObjectError, ObjectIn, Origin, RefuseReason,
    SessionCode, SessionId, StreamId, TrackId,
};

/// First allocation for an object that says it is large: growth follows what really arrives.
const FIRST_ALLOCATION_MAX: u64 = 64 * 1024;

impl Relay {
    /// The engine's answer to [`Event::AuthorizePublish`]: the namespace the session may hold, or
    /// why not, which ends it.
    pub fn publish_authorized(
        &mut self,
        session: SessionId,
        answer: Result<Namespace, RefuseReason>,
        now: Instant,
    ) {
        let Some(state) = self.live(session) else { return };
        let Some(publisher) = &mut state.publisher else { return };
        if !matches!(publisher.access, Access::Asked(_)) {
            return;
        }
        match answer {
            Ok(namespace) => {
                publisher.access = Access::Granted(namespace);
                for (request, namespace) in std::mem::take(&mut publisher.announced) {
                    self.announce(session, request, namespace);
                }
                self.reschedule(session);
                self.dirty.mark(session);
            }
            Err(reason) => {
                self.metrics.publishers_refused += 1;
                let text = match reason {
                    RefuseReason::KeyInvalid => format!("auth_failed: {reason}"),
                    _ => reason.to_string(),
                };
                self.close(session, SessionCode::Unauthorized, text, now);
            }
        }
    }

    /// PUBLISH_NAMESPACE.
    pub(super) fn on_publish_namespace(
        &mut self,
        session: SessionId,
        request: RequestId,
        namespace: Namespace,
    ) {
        let namespaces_max = self.limits.namespaces_per_session_max;
        let Some(state) = self.live(session) else { return };
        let Some(publisher) = &mut state.publisher else {
            let error =
                RequestError::new(RequestCode::Unauthorized, "auth_failed: not a publisher");
            self.refuse_request(session, request, &error);
            return;
        };
        if publisher.announced.len() + publisher.held.len() >= namespaces_max {
            self.metrics.limit_namespaces += 1;
            let error = RequestError::new(RequestCode::ExcessiveLoad, "too many namespaces");
            self.refuse_request(session, request, &error);
            return;
        }
        match publisher.access {
            Access::Asked(_) => publisher.announced.push((request, namespace)),
            Access::Granted(_) => self.announce(session, request, namespace),
        }
    }

    fn announce(&mut self, session: SessionId, request: RequestId, namespace: Namespace) {
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_ref()) else {
            return;
        };
        let refusal = if !publisher.may_hold(&namespace) {
            Some(RequestError::new(RequestCode::Unauthorized, "auth_failed: other stream"))
        } else if self.directory.origin(&namespace).is_some() {
            Some(RequestError::new(RequestCode::Unauthorized, "input_busy"))
        } else if self.hold_namespace(&namespace, Origin::Session(session)).is_err() {
            Some(RequestError::new(RequestCode::ExcessiveLoad, "capacity"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.refuse_request(session, request, &refusal);
            return;
        }
        let Some(state) = self.live(session) else { return };
        if let Some(publisher) = &mut state.publisher {
            publisher.held.push((request, namespace.clone()));
        }
        let _ = state.moqt.accept(request, Params::default(), &[]);
        self.dirty.mark(session);
        self.events.push_back(Event::NamespacePublished { session, namespace });
    }

    /// PUBLISH_NAMESPACE_DONE: the namespace is free again and its tracks end.
    pub(super) fn on_publish_namespace_done(
        &mut self,
        session: SessionId,
        request: RequestId,
        now: Instant,
    ) {
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return;
        };
        publisher.announced.retain(|(announced, _)| *announced != request);
        let Some(at) = publisher.held.iter().position(|(held, _)| *held == request) else { return };
        let (_, namespace) = publisher.held.remove(at);
        self.withdraw(session, namespace, now);
    }

    /// The publisher leaves: everything it held is let go.
    pub(super) fn withdraw_publisher(&mut self, session: SessionId, now: Instant) {
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return;
        };
        publisher.announced.clear();
        publisher.inbound.clear();
        let held = std::mem::take(&mut publisher.held);
        let upstreams = std::mem::take(&mut publisher.upstreams);
        for (_, namespace) in held {
            self.withdraw(session, namespace, now);
        }
        for (_, track) in upstreams {
            self.end(track, DoneCode::TrackEnded, now);
        }
    }

    fn withdraw(&mut self, session: SessionId, namespace: Namespace, now: Instant) {
        if self.directory.origin(&namespace) == Some(Origin::Session(session)) {
            self.unpublish(&namespace, now);
            self.events.push_back(Event::NamespaceEnded { session, namespace });
        }
    }

    // Upstream subscriptions.

    /// First interest in a track of a publisher session: one SUBSCRIBE for everybody.
    pub(super) fn start_upstream(
        &mut self,
        publisher: SessionId,
        name: &FullTrackName,
        _now: Instant,
    ) -> Option<TrackId> {
        let tracks_max = self.limits.tracks_per_publisher_max;
        let state = self.live(publisher)?;
        if state.publisher.as_ref()?.upstreams.len() >= tracks_max {
            self.metrics.limit_tracks += 1;
            return None;
        }
        let params = Params { filter: Some(Filter::LargestObject), ..Params::default() };
        let request = state.moqt.subscribe(name, params).ok()?;
        let source = Source::Upstream { session: publisher, request };
        let added = self.add_track(name.clone(), source, Order::Streams);
        let state = self.live(publisher)?;
        match (added, state.publisher.as_mut()) {
            (Some(track), Some(state)) => {
                state.upstreams.push((request, track));
                self.metrics.upstream_subscriptions += 1;
            }
            _ => state.moqt.cancel(request),
        }
        self.dirty.mark(publisher);
        added
    }

    /// Ends our subscription behind a track, if it has one.
    pub(super) fn drop_upstream(&mut self, id: TrackId) {
        let Some(track) = self.tracks.get(id.0) else { return };
        let Source::Upstream { session, request } = track.source else { return };
        let Some(state) = self.sessions.get_mut(session.0) else { return };
        let Some(publisher) = &mut state.publisher else { return };
        let before = publisher.upstreams.len();
        publisher.upstreams.retain(|(_, track)| *track != id);
        for inbound in publisher.inbound.iter_mut().filter(|inbound| inbound.track == id) {
            inbound.ignored = true;
            inbound.object = None;
        }
        if publisher.upstreams.len() < before {
            state.moqt.cancel(request);
            self.metrics.upstream_subscriptions =
                self.metrics.upstream_subscriptions.saturating_sub(1);
            self.dirty.mark(session);
        }
    }

    fn upstream(&mut self, session: SessionId, request: RequestId) -> Option<TrackId> {
        let publisher = self.live(session)?.publisher.as_ref()?;
        publisher.upstreams.iter().find(|(known, _)| *known == request).map(|(_, track)| *track)
    }

    /// SUBSCRIBE_OK from the publisher: those who wait are answered.
    pub(super) fn on_upstream_ok(
        &mut self,
        session: SessionId,
        request: RequestId,
        largest: Option<Location>,
        properties: Vec<Property>,
        now: Instant,
    ) {
        let Some(id) = self.upstream(session, request) else { return };
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        if track.state != State::Pending {
            return;
        }
        track.state = State::Open;
        track.properties = properties;
        if let Some(largest) = largest {
            track.cache.note_largest(largest);
        }
        if track.exported {
            let track = track.name.clone();
            self.events.push_back(Event::TrackOpened { id, track });
        }
        self.serve_waiting(id, now);
    }

    /// REQUEST_ERROR from the publisher.
    pub(super) fn on_upstream_error(
        &mut self,
        session: SessionId,
        request: RequestId,
        error: &RequestError,
        now: Instant,
    ) {
        let Some(id) = self.upstream(session, request) else { return };
        self.drop_upstream(id);
        self.refuse(id, error, now);
        self.end(id, DoneCode::Internal, now);
    }

    /// PUBLISH_DONE from the publisher: the track ends when its last streams are in.
    pub(super) fn on_upstream_done(
        &mut self,
        session: SessionId,
        request: RequestId,
        done: UpstreamDone,
        now: Instant,
    ) {
        let Some(id) = self.upstream(session, request) else { return };
        let until = now + self.limits.linger;
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        track.upstream_done = Some(done);
        track.linger_until = Some(until);
        self.timers.insert((until, super::Timer::Track(id)));
        self.settle_upstream(session, id, now);
    }

    /// Ends the track when the publisher is done and all its streams have been read.
    fn settle_upstream(&mut self, session: SessionId, id: TrackId, now: Instant) {
        let Some(track) = self.tracks.get(id.0) else { return };
        let Some(done) = track.upstream_done else { return };
        let all_came = done.streams.is_none_or(|streams| track.upstream_streams >= streams);
        let reading = self
            .live(session)
            .and_then(|state| state.publisher.as_ref())
            .is_some_and(|publisher| publisher.inbound.iter().any(|i| i.track == id));
        if all_came && !reading {
            self.finish_upstream(id, done.code, now);
        }
    }

    /// The linger of a publisher's PUBLISH_DONE ends, whether or not its streams came.
    pub(super) fn finish_upstream(&mut self, id: TrackId, code: DoneCode, now: Instant) {
        if let Some(track) = self.tracks.get_mut(id.0)
            && let Some(until) = track.linger_until.take()
        {
            self.timers.remove(&(until, super::Timer::Track(id)));
        }
        self.drop_upstream(id);
        self.end(id, code, now);
    }

    // Data streams of a publisher.

    pub(super) fn on_subgroup(
        &mut self,
        session: SessionId,
        stream: StreamId,
        request: RequestId,
        header: SubgroupHeader,
        now: Instant,
    ) {
        let Some(id) = self.upstream(session, request) else { return };
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        track.upstream_streams += 1;
        // H28: a publisher whose groups go backwards is not a publisher of this track any more.
        if !track.cache.admits_group(header.group) {
            self.metrics.objects_malformed += 1;
            self.malformed(session, id, now);
            return;
        }
        let priority = header.priority.unwrap_or(weir_moqt::data::DEFAULT_PRIORITY);
        let inbound = Inbound {
            stream,
            track: id,
            group: header.group,
            priority,
            ignored: header.subgroup != 0,
            object: None,
        };
        if let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) {
            publisher.inbound.push(inbound);
        }
    }

    pub(super) fn on_object(
        &mut self,
        session: SessionId,
        stream: StreamId,
        header: ObjectHeader,
        now: Instant,
    ) {
        let Some(inbound) = self.inbound(session, stream, 1, 0, now) else { return };
        if inbound.ignored {
            self.metrics.objects_dropped += 1;
            return;
        }
        if header.payload_len == 0 {
            self.finish_object(session, stream, &header, Bytes::new(), now, now);
        } else {
            let first = header.payload_len.min(FIRST_ALLOCATION_MAX) as usize;
            inbound.object = Some((header, BytesMut::with_capacity(first), now));
        }
    }

    /// Payload is copied out of the transport's buffers here, once: a cached object must not pin a
    /// receive buffer many times its size.
    pub(super) fn on_payload(
        &mut self,
        session: SessionId,
        stream: StreamId,
        piece: &Bytes,
        last: bool,
        now: Instant,
    ) {
        let Some(inbound) = self.inbound(session, stream, 0, piece.len() as u64, now) else {
            return;
        };
        let Some((_, payload, _)) = &mut inbound.object else { return };
        payload.put_slice(piece);
        if last && let Some((header, payload, arrived)) = inbound.object.take() {
            self.finish_object(session, stream, &header, payload.freeze(), arrived, now);
        }
    }

    /// Finds a publisher's stream, counting what arrives on it (H31).
    fn inbound(
        &mut self,
        session: SessionId,
        stream: StreamId,
        objects: u32,
        bytes: u64,
        now: Instant,
    ) -> Option<&mut Inbound> {
        let objects_max = self.limits.publisher_objects_per_second_max;
        let bytes_max = self.limits.publisher_bytes_per_second_max;
        let publisher = self.live(session)?.publisher.as_mut()?;
        if !publisher.rate.count((objects, objects_max), (bytes, bytes_max), now) {
            self.metrics.limit_publisher_rate += 1;
            let reason = "publisher sends too much".to_owned();
            self.close(session, SessionCode::Internal, reason, now);
            return None;
        }
        let publisher = self.live(session)?.publisher.as_mut()?;
        publisher.inbound.iter_mut().find(|inbound| inbound.stream == stream)
    }

    fn finish_object(
        &mut self,
        session: SessionId,
        stream: StreamId,
        header: &ObjectHeader,
        payload: Bytes,
        arrived: Instant,
        now: Instant,
    ) {
        let Some(state) = self.live(session) else { return };
        let draft = state.draft;
        let Some(inbound) = state
            .publisher
            .as_ref()
            .and_then(|publisher| publisher.inbound.iter().find(|i| i.stream == stream))
        else {
            return;
        };
        let (id, group, priority) = (inbound.track, inbound.group, inbound.priority);
        if header.status == Status::EndOfTrack {
            let done = UpstreamDone { code: DoneCode::TrackEnded, streams: None };
            if let Some(track) = self.tracks.get_mut(id.0) {
                track.upstream_done.get_or_insert(done);
            }
            return;
        }
        let properties = if header.properties.is_empty() {
            Bytes::new()
        } else {
            convert_properties(draft, PROPERTIES_DRAFT, &header.properties).unwrap_or_default()
        };
        let object = ObjectIn {
            group,
            subgroup: 0,
            object: header.object,
            priority,
            properties,
            payload,
            end_of_group: header.status == Status::EndOfGroup,
            arrived,
        };
        match self.take_object(id, object) {
            Ok(_) | Err(ObjectError::UnknownTrack) => {}
            Err(_) => self.malformed(session, id, now),
        }
    }

    /// A data stream ended: its group is complete, or given up.
    pub(super) fn on_data_ended(
        &mut self,
        session: SessionId,
        stream: StreamId,
        reset: Option<ResetCode>,
        now: Instant,
    ) {
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return;
        };
        let Some(at) = publisher.inbound.iter().position(|i| i.stream == stream) else { return };
        let inbound = publisher.inbound.swap_remove(at);
        if let Some(track) = self.tracks.get_mut(inbound.track.0)
            && !inbound.ignored
        {
            match reset {
                None => track.cache.complete_group(inbound.group),
                Some(_) => track.cache.abort_group(inbound.group),
            }
            for session in &track.subscribers {
                self.dirty.mark(*session);
            }
        }
        self.settle_upstream(session, inbound.track, now);
    }

    /// H28: the track is poisoned. It ends; what was cached before stays as it was for those who
    /// still read.
    fn malformed(&mut self, _session: SessionId, id: TrackId, now: Instant) {
        self.finish_upstream(id, DoneCode::MalformedTrack, now);
    }
}
