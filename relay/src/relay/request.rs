//! Requests of peers: authorised first, then matched to a track, then answered or left waiting for
//! it to open. Everything not served answers NOT_SUPPORTED; nothing here writes media.

use std::time::{Duration, Instant};

use weir_moqt::{
    Event as Moqt, Feature, Filter, Location, Params, RequestCode, RequestError, RequestId,
    RequestKind,
};

use super::prefixes::Wants;
use super::{Offer, Relay};
use crate::cache::Order;
use crate::fanout::{Subscription, Timeouts, after};
use crate::ranges::Ranges;
use crate::session::{Ask, Waiting};
use crate::track::{Source, State, UpstreamDone, Waiter};
use crate::{Event, FullTrackName, Origin, SessionId, TrackId};

impl Relay {
    pub(super) fn on_event(
        &mut self,
        session: SessionId,
        event: Moqt,
        now: Instant,
        wall: Duration,
    ) {
        let Some(event) = self.divert(session, event, now) else { return };
        match event {
            Moqt::Setup { options } => self.on_setup(session, &options, now, wall),
            Moqt::Subscribe { request, track, params } => {
                self.on_subscribe(session, request, &track, params, now, wall);
            }
            Moqt::Update { request, update, params } => {
                self.on_update(session, request, update, &params, now, wall);
            }
            Moqt::Unsubscribed { request } => self.on_unsubscribed(session, request, now),
            Moqt::Fetch { request, target, params } => {
                self.on_fetch(session, request, target, params, now, wall);
            }
            Moqt::FetchCancelled { request } => self.on_fetch_cancelled(session, request, now),
            Moqt::TrackStatus { request, track, params } => {
                let admitted = self.admit(session, track.namespace(), &params.tokens, now, wall);
                if admitted {
                    self.resolve(session, request, &track, Ask::Status, now);
                }
            }
            Moqt::SubscribeNamespace { request, prefix, tracks_too, params } => {
                let wants = Wants { namespaces: true, tracks: tracks_too };
                self.on_subscribe_prefix(session, request, prefix, wants, params, now, wall);
            }
            Moqt::SubscribeTracks { request, prefix, params } => {
                let wants = Wants { namespaces: false, tracks: true };
                self.on_subscribe_prefix(session, request, prefix, wants, params, now, wall);
            }
            Moqt::UnsubscribedNamespace { request } => self.forget_prefix(session, request),
            Moqt::RequestOk { request, kind: RequestKind::Publish, params, .. } => {
                self.on_taken(session, request, &params, now);
            }
            Moqt::RequestError { request, kind: RequestKind::Publish, .. } => {
                self.on_declined(session, request, now);
            }
            Moqt::PublishNamespace { request, namespace, .. } => {
                self.on_publish_namespace(session, request, namespace, now);
            }
            Moqt::PublishNamespaceDone { request } => {
                self.on_publish_namespace_done(session, request, now);
            }
            Moqt::Publish { request, track, params, properties, .. } => {
                self.on_publish(session, Offer { request, track, params, properties }, now);
            }
            Moqt::SubscribeOk { request, params, properties, .. } => {
                self.on_upstream_ok(session, request, params.largest, properties, now);
            }
            Moqt::Namespace { request, suffix } => {
                self.on_namespace(session, request, &suffix, true, now);
            }
            Moqt::NamespaceDone { request, suffix } => {
                self.on_namespace(session, request, &suffix, false, now);
            }
            Moqt::FetchOpened { stream, request } => self.on_fetch_opened(session, stream, request),
            Moqt::FetchObjectStarted { stream, object } => {
                self.on_fetch_object(session, stream, object, now);
            }
            Moqt::FetchGap { stream, end, gap } => self.on_fetch_gap(session, stream, end, gap),
            Moqt::RequestError { request, kind: RequestKind::Fetch, .. } => {
                self.end_hole(session, request, false, now);
            }
            Moqt::RequestError { request, kind: RequestKind::Subscribe, error } => {
                self.on_upstream_error(session, request, &error, now);
            }
            Moqt::PublishDone { request, code, streams, .. } => {
                self.on_upstream_done(session, request, UpstreamDone { code, streams }, now);
            }
            Moqt::SubgroupOpened { stream, request, header } => {
                self.on_subgroup(session, stream, request, header, now);
            }
            Moqt::ObjectStarted { stream, object } => self.on_object(session, stream, &object, now),
            Moqt::Payload { stream, data, last } => {
                if self.on_fetch_payload(session, stream, &data, last) {
                    return;
                }
                self.on_payload(session, stream, &data, last, now);
            }
            Moqt::Datagram { request, datagram } => {
                self.on_datagram(session, request, datagram, now);
            }
            Moqt::DataEnded { stream } if self.on_fetch_ended(session, stream, true, now) => {}
            Moqt::DataEnded { stream } => self.on_data_ended(session, stream, None, now),
            Moqt::DataReset { stream, .. } if self.on_fetch_ended(session, stream, false, now) => {}
            Moqt::DataReset { stream, code } => {
                self.on_data_ended(session, stream, Some(code), now);
            }
            // We ask for none of the rest; a client's GOAWAY asks for nothing.
            _ => {}
        }
    }

    /// REQUEST_ERROR.
    pub(super) fn refuse_request(
        &mut self,
        session: SessionId,
        request: RequestId,
        error: &RequestError,
    ) {
        self.metrics.requests_refused += 1;
        let error = self.tellable(session, error);
        if let Some(state) = self.live(session) {
            // An error means that the peer took the request back in the same moment.
            let _ = state.moqt.reject(request, &error);
            self.dirty.mark(session);
        }
    }

    fn on_subscribe(
        &mut self,
        session: SessionId,
        request: RequestId,
        name: &FullTrackName,
        params: Params,
        now: Instant,
        wall: Duration,
    ) {
        if !self.admit(session, name.namespace(), &params.tokens, now, wall)
            || self.sends_away(session, request)
        {
            return;
        }
        let subscriptions_max = self.subscriptions_max(session);
        let known = self.names.get(name).copied();
        let early = self.waits_early(session);
        let waits_early = self.waits_early_for(session, name);
        let Some(state) = self.live(session) else { return };
        let waiting = state.waiting.iter().filter(|w| matches!(w.ask, Ask::Subscribe(_)));
        if state.subscriptions.len() + waiting.clone().count() + early >= subscriptions_max {
            self.metrics.limit_subscriptions += 1;
            let error = RequestError::new(RequestCode::ExcessiveLoad, "too many subscriptions");
            return self.refuse_request(session, request, &error);
        }
        let subscribed = state.subscriptions.iter().map(|subscription| subscription.track);
        let mut taken = subscribed.chain(waiting.map(|w| w.track));
        let many = state.moqt.supports(Feature::ManySubscriptions);
        if !many && (waits_early || known.is_some_and(|id| taken.any(|t| t == id))) {
            let error = RequestError::new(RequestCode::DuplicateSubscription, "subscribed already");
            return self.refuse_request(session, request, &error);
        }
        self.resolve(session, request, name, Ask::Subscribe(params), now);
    }

    /// Finds the track a request is about: served at once, left waiting, or refused.
    pub(super) fn resolve(
        &mut self,
        session: SessionId,
        request: RequestId,
        name: &FullTrackName,
        ask: Ask,
        now: Instant,
    ) {
        let known = self.names.get(name).copied();
        if known.is_none()
            && let Some(error) = self.redirect_of(name)
        {
            return self.refuse_request(session, request, &error);
        }
        let known = known.or_else(|| {
            if name.is_session_local() {
                return None;
            }
            match self.origin(name.namespace())? {
                Origin::Local => None,
                Origin::Above => self.start_from_above(name, now),
                Origin::Session(publisher) => self.start_upstream(publisher, name, now),
                Origin::Shard(shard) => {
                    let id = self.add_track(name.clone(), Source::Shard(shard), Order::Replica)?;
                    self.events.push_back(Event::TrackWanted { track: name.clone(), shard });
                    Some(id)
                }
            }
        });
        let Some((id, track)) = known.and_then(|id| Some((id, self.tracks.get_mut(id.0)?))) else {
            if let Ask::Subscribe(params) = &ask
                && self.wait_for_track(session, request, name, params, now)
            {
                return;
            }
            let error = RequestError::new(RequestCode::DoesNotExist, "not_live");
            return self.refuse_request(session, request, &error);
        };
        if track.state == State::Pending {
            track.waiting.push(Waiter { session, request });
            if let Some(state) = self.live(session) {
                state.waiting.push(Waiting { request, track: id, ask });
            }
            return;
        }
        self.serve(session, request, id, ask, now);
    }

    /// The track opened: answers all that waited for it, in order of arrival.
    pub(super) fn serve_waiting(&mut self, id: TrackId, now: Instant) {
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        let waiters = std::mem::take(&mut track.waiting);
        for Waiter { session, request } in waiters {
            let Some(state) = self.live(session) else { continue };
            let Some(at) = state.waiting.iter().position(|w| w.request == request) else {
                continue;
            };
            let waiting = state.waiting.remove(at);
            self.serve(session, request, id, waiting.ask, now);
        }
        self.offer_opened(id, now);
        self.release(id, now);
    }

    fn serve(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        ask: Ask,
        now: Instant,
    ) {
        let refusal = match ask {
            Ask::Subscribe(params) => self.accept_subscription(session, request, id, &params, now),
            Ask::Fetch(target, params) => {
                self.serve_fetch(session, request, id, &target, &params, now)
            }
            Ask::Status => self.answer_status(session, request, id),
        };
        if let Err(error) = refusal {
            self.refuse_request(session, request, &error);
            self.release(id, now);
        }
        self.dirty.mark(session);
    }

    fn accept_subscription(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        params: &Params,
        now: Instant,
    ) -> Result<(), RequestError> {
        let namespace = self.tracks.get(id.0).map(|track| track.name.namespace());
        let expires = namespace.and_then(|namespace| self.grant_expires(session, namespace, now));
        let Self { sessions, tracks, last_alias, .. } = self;
        let (Some(state), Some(track)) = (sessions.get_mut(session.0), tracks.get_mut(id.0)) else {
            return Err(RequestError::new(RequestCode::Internal, "session or track gone"));
        };
        let largest = track.cache.largest();
        let (start, end) = match params.filter {
            // Without a filter everything is asked for that is there to be had. Where no fill can bring the newest
            // group's beginning it comes first: clients in use (moq-rs) count on it, and play nothing without.
            None if !state.moqt.supports(Feature::Fill) => (track.cache.newest_start(now), None),
            filter => range(filter.unwrap_or_default(), largest)?,
        };
        // A second subscription of a session to one track (draft 19 and later) is told apart by an alias of its own.
        let again = state.subscriptions.iter().any(|subscription| subscription.track == id);
        let alias = if again {
            *last_alias += 1;
            *last_alias
        } else {
            track.alias
        };
        let mut subscription = Subscription::new(request, id, alias, start, end, largest);
        subscription.ranges = Ranges::within(&params.ranges, &[]).unwrap_or_default();
        subscription.forward = params.forwards();
        subscription.set_priority(params.subscriber_priority());
        subscription.set_order(params.group_order.unwrap_or(track.terms.order));
        subscription.skip_datagrams(&track.cache);
        subscription.publisher_priority = track.priority;
        subscription.timeouts = timeouts(params).min(track.terms.timeouts);
        // When the grant ends, so that a client can renew it in time.
        let expires_ms = expires.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let answer = Params { largest, expires_ms, ..Params::default() };
        state
            .moqt
            .accept_subscribe(request, alias, answer, &track.properties)
            .map_err(|error| RequestError::new(RequestCode::Internal, error.to_string()))?;
        subscription.seat = track.add_subscriber(session);
        state.subscriptions.push(subscription);
        self.metrics.subscriptions += 1;
        self.metrics.subscriptions_accepted += 1;
        let track = self.tracks.get(id.0).map(|track| track.name.clone());
        self.events.extend(track.map(|track| Event::Subscribed { session, track }));
        self.fill(session, request, id, params, now);
        if let Some(after) = params.new_group {
            self.wish_new_group(id, after);
        }
        Ok(())
    }

    fn answer_status(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
    ) -> Result<(), RequestError> {
        let Some(track) = self.tracks.get(id.0) else { return Ok(()) };
        let answer = Params { largest: track.cache.largest(), ..Params::default() };
        if let Some(state) = self.sessions.get_mut(session.0) {
            state
                .moqt
                .accept(request, answer, &track.properties)
                .map_err(|error| RequestError::new(RequestCode::Internal, error.to_string()))?;
        }
        Ok(())
    }

    fn on_unsubscribed(&mut self, session: SessionId, request: RequestId, now: Instant) {
        let Some(state) = self.live(session) else { return };
        let cancelled = state.draft.reset_code(weir_moqt::ResetCode::Cancelled);
        if let Some(at) = state.subscriptions.iter().position(|s| s.request == request) {
            let subscription = state.subscriptions.remove(at);
            state.resets.extend(subscription.streams().map(|stream| (stream, cancelled)));
            // Its fills go with it.
            let fills = state.fetches.extract_if(.., |fetch| fetch.request == request);
            let streams: Vec<_> = fills.filter_map(|fill| fill.stream()).collect();
            state.resets.extend(streams.into_iter().map(|stream| (stream, cancelled)));
            self.leave_track(session, subscription.track, subscription.seat, now);
            self.stop_hole(session, request, now);
        } else if let Some(at) = state.waiting.iter().position(|w| w.request == request) {
            let waiting = state.waiting.remove(at);
            self.stop_waiting(session, waiting.track, request, now);
        } else {
            self.forget_early(session, request);
        }
    }
}

/// First and last object of a filter. Subscriptions never bring history: what lies at or before `largest` is for
/// FETCH.
pub(super) fn range(
    filter: Filter,
    largest: Option<Location>,
) -> Result<(Location, Option<Location>), RequestError> {
    let live = after(largest);
    let (start, end) = match filter {
        Filter::NextGroupStart => {
            let group = largest.map_or(0, |largest| largest.group.saturating_add(1));
            return Ok((Location::new(group, 0), None));
        }
        Filter::AbsoluteStart(start) => return Ok((start.max(live), None)),
        Filter::AbsoluteRange { start, end_group } => (start, Location::whole_group(end_group)),
        Filter::Range { start, end } => (start, end),
        // `NextObject`, `LargestObject`, and what a later draft may add.
        _ => return Ok((live, None)),
    };
    if end < start || end < live {
        return Err(RequestError::new(RequestCode::InvalidRange, "the range has passed"));
    }
    Ok((start.max(live), Some(end)))
}

/// The delivery timeouts a subscriber asks for.
pub(super) fn timeouts(params: &Params) -> Timeouts {
    Timeouts::new(params.object_timeout_ms, params.subgroup_timeout_ms)
}
