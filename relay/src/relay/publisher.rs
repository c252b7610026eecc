//! Sessions that publish: the engine's permission, PUBLISH_NAMESPACE, one upstream subscription per
//! track. Their objects are `inbound`'s. It owns the order in which a publisher's leaving is told.

use std::time::{Duration, Instant};

use weir_moqt::{
    Feature, Filter, Location, Params, Property, RequestCode, RequestError, RequestId,
};

use super::Relay;
use crate::cache::Order;
use crate::session::{Access, Publisher};
use crate::track::{Source, State, UpstreamDone};
use crate::{
    DoneCode, Event, FullTrackName, Namespace, Origin, RefuseReason, SessionCode, SessionId,
    TrackId,
};

impl Relay {
    /// The engine's answer to [`Event::AuthorizePublish`]: the namespace the session may hold, or
    /// why not, which ends it.
    pub fn publish_authorized(
        &mut self,
        session: SessionId,
        answer: Result<Namespace, RefuseReason>,
        now: Instant,
        wall: Duration,
    ) {
        let Some(state) = self.live(session) else { return };
        let Some(publisher) = &mut state.publisher else { return };
        if !matches!(publisher.access, Access::Asked(_)) {
            return;
        }
        match answer {
            Ok(namespace) => {
                publisher.access = Access::Granted(namespace);
                let announced = std::mem::take(&mut publisher.announced);
                let offers = std::mem::take(&mut publisher.offers);
                for (request, namespace) in announced {
                    self.announce(session, request, namespace, now);
                }
                for offer in offers {
                    self.take_offer(session, offer, now);
                }
                self.ask_for_namespaces(session);
                // What came with the offers is read now, not with whatever comes next.
                self.after_input(session, Ok(()), now, wall);
            }
            Err(reason) => self.refuse_publisher(session, reason, now),
        }
    }

    pub(super) fn refuse_publisher(
        &mut self,
        session: SessionId,
        reason: RefuseReason,
        now: Instant,
    ) {
        self.metrics.publishers_refused += 1;
        let text = match reason {
            RefuseReason::KeyInvalid => format!("auth_failed: {reason}"),
            _ => reason.to_string(),
        };
        self.close(session, SessionCode::Unauthorized, text, now);
    }

    /// PUBLISH_NAMESPACE.
    pub(super) fn on_publish_namespace(
        &mut self,
        session: SessionId,
        request: RequestId,
        namespace: Namespace,
        now: Instant,
    ) {
        let namespaces_max = self.limits.namespaces_per_session_max;
        let open = self.open.hold(&namespace);
        let Some(state) = self.live(session) else { return };
        if open && state.publisher.is_none() {
            state.publisher = Some(Publisher::unasked(now));
        }
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
            Access::Granted(_) | Access::Unasked | Access::Above => {
                self.announce(session, request, namespace, now);
            }
        }
    }

    pub(super) fn announce(
        &mut self,
        session: SessionId,
        request: RequestId,
        namespace: Namespace,
        now: Instant,
    ) {
        let holder = self.directory.origin(&namespace);
        let open = self.open.hold(&namespace);
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_ref()) else {
            return;
        };
        let announced = publisher.held.iter().any(|(_, held)| *held == namespace);
        if !announced && publisher.contributes(&namespace) {
            return self.announce_contribution(session, request, namespace, now);
        }
        let refusal = if !publisher.may_hold(&namespace) && !open {
            Some(RequestError::new(RequestCode::Unauthorized, "auth_failed: other stream"))
        } else if announced || holder.is_some_and(|holder| holder != Origin::Session(session)) {
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
        if self.upstream_gone(session, now) {
            return;
        }
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return;
        };
        publisher.announced.clear();
        publisher.offers.clear();
        publisher.inbound.clear();
        let held = std::mem::take(&mut publisher.held);
        let implied = std::mem::take(&mut publisher.implied);
        let listed = std::mem::take(&mut publisher.listed);
        let upstreams = std::mem::take(&mut publisher.upstreams);
        for namespace in
            held.into_iter().map(|(_, namespace)| namespace).chain(implied).chain(listed)
        {
            self.withdraw(session, namespace, now);
        }
        for (_, track) in upstreams {
            self.end(track, DoneCode::TrackEnded, now);
        }
    }

    pub(super) fn withdraw(&mut self, session: SessionId, namespace: Namespace, now: Instant) {
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
        self.subscribe_upstream(publisher, name, name)
    }

    /// Subscribes to what its publisher calls `wire` and we call `name`.
    pub(super) fn subscribe_upstream(
        &mut self,
        publisher: SessionId,
        wire: &FullTrackName,
        name: &FullTrackName,
    ) -> Option<TrackId> {
        let tracks_max = self.limits.tracks_per_publisher_max;
        let state = self.live(publisher)?;
        if state.publisher.as_ref()?.upstreams.len() >= tracks_max {
            self.metrics.limit_tracks += 1;
            return None;
        }
        // Unfiltered, so that a publisher that holds its newest group sends it from the beginning.
        let filter = state.moqt.supports(Feature::Fill).then_some(Filter::LargestObject);
        let params = Params { filter, ..Params::default() };
        let request = state.moqt.subscribe(wire, params).ok()?;
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
        self.drop_feed(id);
        let Some(track) = self.tracks.get(id.0) else { return };
        let Source::Upstream { session, request } = track.source else { return };
        let Some(state) = self.sessions.get_mut(session.0) else { return };
        let Some(publisher) = &mut state.publisher else { return };
        let before = publisher.upstreams.len();
        publisher.upstreams.retain(|(_, track)| *track != id);
        for inbound in publisher.inbound.iter_mut().filter(|inbound| inbound.track == id) {
            inbound.ignore();
        }
        if publisher.upstreams.len() < before {
            state.moqt.cancel(request);
            self.metrics.upstream_subscriptions =
                self.metrics.upstream_subscriptions.saturating_sub(1);
            self.dirty.mark(session);
        }
    }

    pub(super) fn upstream(&mut self, session: SessionId, request: RequestId) -> Option<TrackId> {
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
        self.feed_answered(id);
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        if track.state != State::Pending {
            return;
        }
        track.state = State::Open;
        track.set_properties(properties);
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
        if self.feed_refused(session, request, id, error, now) {
            return;
        }
        // Only a relay above is believed when it sends viewers, and their tokens, elsewhere.
        let not_live = RequestError::new(RequestCode::DoesNotExist, "not_live");
        let sent_away = error.code == RequestCode::Redirect && !self.is_above(session);
        let error = if sent_away { &not_live } else { error };
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
        if self.feed_done(session, request, id, done.code, now) {
            return;
        }
        let until = now + self.limits.linger;
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        track.upstream_done = Some(done);
        track.linger_until = Some(until);
        self.timers.insert((until, super::Timer::Track(id)));
        self.settle_upstream(session, id, now);
    }

    /// Ends the track when the publisher is done and all its streams have been read.
    pub(super) fn settle_upstream(&mut self, session: SessionId, id: TrackId, now: Instant) {
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
        let offered = self.tracks.get(id.0).and_then(|track| match track.source {
            Source::Upstream { session, .. } if track.offered => {
                Some((session, track.name.namespace().clone()))
            }
            _ => None,
        });
        self.drop_upstream(id);
        self.end(id, code, now);
        if let Some((session, namespace)) = offered {
            self.settle_implied(session, &namespace);
        }
    }
}
