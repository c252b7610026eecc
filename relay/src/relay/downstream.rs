//! PUBLISH towards subscribers: tracks that publishers brought forward, offered to those who asked for a prefix of
//! them (SUBSCRIBE_TRACKS). It owns which tracks count as brought forward, on all shards of the node, and what becomes
//! of an offer; an offer that was taken is a subscription like any other. Nothing is sent before it is taken: what
//! the subscriber says then (forward, filter, priority) counts from the first object on.

use std::time::Instant;

use weir_moqt::{Feature, Params, RequestId};

use super::Relay;
use super::request::{range, timeouts};
use super::updates::overlay;
use crate::cache::Order;
use crate::fanout::{Subscription, after};
use crate::ranges::Ranges;
use crate::session::Ask;
use crate::track::{Source, State, Track, Waiter};
use crate::{DoneCode, Event, FullTrackName, Namespace, SessionId, TrackId};

impl Relay {
    /// A publisher of shard `shard` brought this track forward.
    pub fn publish_remote_track(&mut self, name: &FullTrackName, shard: u16, now: Instant) {
        if self.elsewhere.len() >= self.limits.tracks_max && !self.elsewhere.contains_key(name) {
            self.metrics.limit_tracks += 1;
            return;
        }
        self.elsewhere.insert(name.clone(), shard);
        self.tell_seekers(name, now);
    }

    /// Shard `shard` has it no longer.
    pub fn withdraw_remote_track(&mut self, name: &FullTrackName, shard: u16) {
        if self.elsewhere.get(name) == Some(&shard) {
            self.elsewhere.remove(name);
        }
    }

    /// A publisher of ours brought a track forward: other shards hear of it, and who asked for such tracks.
    pub(super) fn bring_forward(&mut self, id: TrackId, now: Instant) {
        let Some(name) = self.tracks.get(id.0).map(|track| track.name.clone()) else { return };
        self.events.push_back(Event::TrackPublished { track: name.clone() });
        self.tell_seekers(&name, now);
    }

    pub(super) fn tell_seekers(&mut self, name: &FullTrackName, now: Instant) {
        let sought = |prefix: &Namespace| name.namespace().starts_with(prefix);
        let seekers: Vec<(SessionId, RequestId)> = self
            .seekers
            .iter()
            .filter(|seeker| sought(&seeker.prefix))
            .map(|seeker| (seeker.session, seeker.request))
            .collect();
        for (session, request) in seekers {
            self.offer(session, request, name, now);
        }
    }

    /// Offers what is there under the prefix of a SUBSCRIBE_TRACKS.
    pub(super) fn offer_existing(&mut self, session: SessionId, request: RequestId, now: Instant) {
        let Some(prefix) = self.prefix_of(session, request) else { return };
        let Ok(first) = FullTrackName::new(prefix.clone(), "") else { return };
        let under = |name: &FullTrackName| name.namespace().starts_with(&prefix);
        let ours = self.names.range(first.clone()..).take_while(|(name, _)| under(name));
        let ours = ours.filter(|(_, id)| {
            // Of what comes from above, all was brought forward by somebody there.
            let counts = |track: &Track| track.is_published() || self.is_edge();
            self.tracks.get(id.0).is_some_and(|track| counts(track) && track.is_open())
        });
        let mut names: Vec<FullTrackName> = ours.map(|(name, _)| name.clone()).collect();
        let elsewhere = self.elsewhere.range(first..).take_while(|(name, _)| under(name));
        names.extend(elsewhere.map(|(name, _)| name.clone()));
        names.extend(self.tracks_above(&prefix));
        for name in names {
            self.offer(session, request, &name, now);
        }
    }

    fn prefix_of(&self, session: SessionId, request: RequestId) -> Option<Namespace> {
        let state = self.sessions.get(session.0)?;
        let known = state.prefixes.iter().find(|known| known.request == request)?;
        known.tracks.is_some().then(|| known.prefix.clone())
    }

    /// Offers one track, at once or when it is here from another shard.
    fn offer(
        &mut self,
        session: SessionId,
        request: RequestId,
        name: &FullTrackName,
        now: Instant,
    ) {
        if name.is_session_local() || !self.is_news(session, name) {
            return;
        }
        let known = match (self.names.get(name), self.elsewhere.get(name)) {
            (Some(id), _) => Some(*id),
            (None, Some(shard)) => self.want_from_shard(name, *shard),
            (None, None) => self.want_from_above(name, now),
        };
        let Some((id, track)) = known.and_then(|id| Some((id, self.tracks.get_mut(id.0)?))) else {
            return self.withhold(session, request, name);
        };
        if track.state == State::Pending {
            track.offering.push(Waiter { session, request });
            return;
        }
        self.publish_to(session, request, id, now);
        self.release(id, now);
    }

    pub(super) fn want_from_shard(&mut self, name: &FullTrackName, shard: u16) -> Option<TrackId> {
        let id = self.add_track(name.clone(), Source::Shard(shard), Order::Replica)?;
        self.events.push_back(Event::TrackWanted { track: name.clone(), shard });
        Some(id)
    }

    /// Whether a session may have a track, has it not, and did not bring it itself.
    fn is_news(&self, session: SessionId, name: &FullTrackName) -> bool {
        let Some(state) = self.sessions.get(session.0).filter(|state| state.closing.is_none())
        else {
            return false;
        };
        let namespace = name.namespace();
        if !state.may_use(namespace) && !self.open.hold(namespace) {
            return false;
        }
        if self.waits_early_for(session, name) {
            return false;
        }
        let Some(id) = self.names.get(name) else { return true };
        let own = self.tracks.get(id.0).is_some_and(
            |track| matches!(track.source, Source::Upstream { session: by, .. } if by == session),
        );
        let asked = state.waiting.iter().filter(|w| matches!(w.ask, Ask::Subscribe(_)));
        let mut has = state.subscriptions.iter().map(|s| s.track).chain(asked.map(|w| w.track));
        !own && !has.any(|track| track == *id)
    }

    /// A track opened: whoever it was kept for is offered it now.
    pub(super) fn offer_opened(&mut self, id: TrackId, now: Instant) {
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        let name = track.name.clone();
        for Waiter { session, request } in std::mem::take(&mut track.offering) {
            if self.is_news(session, &name) {
                self.publish_to(session, request, id, now);
            }
        }
        // The relay above offers nothing that we subscribed to already.
        if self.is_edge() {
            self.tell_seekers(&name, now);
        }
    }

    /// PUBLISH, on the terms of the SUBSCRIBE_TRACKS it answers.
    fn publish_to(&mut self, session: SessionId, request: RequestId, id: TrackId, now: Instant) {
        let Some(name) = self.tracks.get(id.0).map(|track| track.name.clone()) else { return };
        let subscriptions_max = self.subscriptions_max(session);
        let early = self.waits_early(session);
        let expires = self.grant_expires(session, name.namespace(), now);
        let Self { sessions, tracks, .. } = self;
        let (Some(state), Some(track)) = (sessions.get_mut(session.0), tracks.get_mut(id.0)) else {
            return;
        };
        let Some(known) = state.prefixes.iter().find(|known| known.request == request) else {
            return;
        };
        let Some(terms) = known.tracks.clone() else { return };
        if Ranges::within(&terms.ranges, &track.properties).is_none() {
            // Not asked for, which is nothing to be told of.
            return;
        }
        let waiting = state.waiting.iter().filter(|w| matches!(w.ask, Ask::Subscribe(_))).count();
        if state.subscriptions.len() + waiting + early >= subscriptions_max {
            self.metrics.limit_subscriptions += 1;
            return self.withhold(session, request, &name);
        }
        let largest = track.cache.largest();
        let expires_ms = expires.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let params = Params {
            largest,
            expires_ms,
            forward: Some(terms.forwards()),
            priority: terms.priority,
            filter: terms.filter,
            group_order: terms.group_order,
            object_timeout_ms: terms.object_timeout_ms,
            subgroup_timeout_ms: terms.subgroup_timeout_ms,
            ..Params::default()
        };
        let Ok(offer) = state.moqt.publish(&name, track.alias, params, &track.properties) else {
            return self.withhold(session, request, &name);
        };
        let start = after(largest);
        let mut subscription = Subscription::new(offer, id, track.alias, start, None, largest);
        subscription.forward = false;
        subscription.publisher_priority = track.priority;
        subscription.skip_datagrams(&track.cache);
        subscription.offered = Some(terms);
        subscription.seat = track.add_subscriber(session);
        state.subscriptions.push(subscription);
        self.metrics.subscriptions += 1;
        self.metrics.tracks_offered += 1;
        self.dirty.mark(session);
    }

    /// PUBLISH_BLOCKED: the track is there and is not offered.
    fn withhold(&mut self, session: SessionId, request: RequestId, name: &FullTrackName) {
        self.metrics.tracks_withheld += 1;
        let withheld_max = self.limits.withheld_per_prefix_max;
        let Some(state) = self.live(session) else { return };
        let known = state.prefixes.iter_mut().find(|known| known.request == request);
        let Some(known) = known else { return };
        let Some(suffix) = name.namespace().strip_prefix(&known.prefix) else { return };
        if known.withheld >= withheld_max {
            self.metrics.limit_withheld += 1;
            return;
        }
        known.withheld += 1;
        // An error means that the peer ended the request in the same moment.
        let _ = state.moqt.publish_blocked(request, &suffix, name.name());
        self.dirty.mark(session);
    }

    /// The subscriber takes an offer: what it says counts more than what its SUBSCRIBE_TRACKS said.
    pub(super) fn on_taken(
        &mut self,
        session: SessionId,
        offer: RequestId,
        answer: &Params,
        now: Instant,
    ) {
        let Self { sessions, tracks, limits, .. } = self;
        let open = sessions.get_mut(session.0).filter(|state| state.closing.is_none());
        let Some(state) = open else { return };
        let fills = state.moqt.supports(Feature::Fill);
        let Some(subscription) = state.subscriptions.iter_mut().find(|s| s.request == offer) else {
            return;
        };
        let Some(mut terms) = subscription.offered.take() else { return };
        let Some(track) = tracks.get(subscription.track.0) else { return };
        if overlay(&mut terms, answer, limits.filter_ranges_max).is_err() {
            // An answer cannot be refused.
            self.metrics.limit_filter_ranges += 1;
            return self.finish_subscription(session, offer, DoneCode::SubscriptionEnded, now);
        }
        let bounds = match terms.filter {
            // As for a SUBSCRIBE without filter: the newest group comes first where no fill can bring it.
            None if !fills => Ok((track.cache.newest_start(now), None)),
            filter => range(filter.unwrap_or_default(), subscription.joint),
        };
        let Ok((start, end)) = bounds else {
            return self.finish_subscription(session, offer, DoneCode::SubscriptionEnded, now);
        };
        (subscription.start, subscription.end) = (start, end);
        subscription.ranges = Ranges::within(&terms.ranges, &track.properties).unwrap_or_default();
        subscription.forward = terms.forwards();
        subscription.set_priority(terms.subscriber_priority());
        subscription.set_order(terms.group_order.unwrap_or(track.terms.order));
        subscription.timeouts = timeouts(&terms).min(track.terms.timeouts);
        let id = subscription.track;
        let track = track.name.clone();
        self.metrics.subscriptions_accepted += 1;
        self.events.push_back(Event::Subscribed { session, track });
        self.fill(session, offer, id, &terms, now);
        if let Some(after) = terms.new_group {
            self.wish_new_group(id, after);
        }
        self.dirty.mark(session);
    }

    /// The subscriber does not want it.
    pub(super) fn on_declined(&mut self, session: SessionId, offer: RequestId, now: Instant) {
        let Some(state) = self.live(session) else { return };
        if let Some(at) = state.subscriptions.iter().position(|s| s.request == offer) {
            let subscription = state.subscriptions.remove(at);
            self.leave_track(session, subscription.track, subscription.seat, now);
        }
    }
}
