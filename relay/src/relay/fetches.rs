//! FETCH: which range a request means, the plan of what the cache has of it, and the answer. Holes go to the
//! publisher first (`holes`); what it does not have either is said to be unknown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_moqt::{
    Feature, FetchTarget, GroupOrder, Location, Params, RequestCode, RequestError, RequestId,
};

use super::Relay;
use super::holes::Found;
use crate::fanout::fetch_priority;
use crate::fetch::{Fetch, Plan, PlanError};
use crate::ranges::Ranges;
use crate::session::Ask;
use crate::{FullTrackName, SessionId, TrackId};

/// A range of a track that somebody wants, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) start: Location,
    pub(super) end: Location,
}

impl Relay {
    pub(super) fn on_fetch(
        &mut self,
        session: SessionId,
        request: RequestId,
        target: FetchTarget,
        params: Params,
        now: Instant,
        wall: Duration,
    ) {
        let name = match &target {
            FetchTarget::Standalone { track, .. } | FetchTarget::Recent { track, .. } => {
                Some(track.clone())
            }
            FetchTarget::RelativeJoining { subscription, .. }
            | FetchTarget::AbsoluteJoining { subscription, .. } => {
                self.joined(session, *subscription)
            }
            _ => None,
        };
        let Some(name) = name else {
            let error =
                RequestError::new(RequestCode::InvalidJoiningRequest, "no such subscription");
            return self.refuse_request(session, request, &error);
        };
        if !self.admit(session, name.namespace(), &params.tokens, now, wall) {
            return;
        }
        let fetches_max = self.limits.fetches_per_session_max;
        let asked = self.waits_for_holes(session);
        let Some(state) = self.live(session) else { return };
        let waiting = state.waiting.iter().filter(|w| !matches!(w.ask, Ask::Subscribe(_))).count();
        if state.fetches.len() + waiting + asked >= fetches_max {
            self.metrics.limit_fetches += 1;
            let error = RequestError::new(RequestCode::ExcessiveLoad, "too many fetches");
            return self.refuse_request(session, request, &error);
        }
        self.resolve(session, request, &name, Ask::Fetch(target, params), now);
    }

    /// The track of a subscription that a FETCH joins.
    fn joined(&mut self, session: SessionId, subscription: RequestId) -> Option<FullTrackName> {
        let state = self.live(session)?;
        let live = state.subscriptions.iter().find(|s| s.request == subscription);
        let waiting = state
            .waiting
            .iter()
            .find(|w| w.request == subscription && matches!(w.ask, Ask::Subscribe(_)));
        let id = live.map(|s| s.track).or_else(|| waiting.map(|w| w.track))?;
        self.tracks.get(id.0).map(|track| track.name.clone())
    }

    /// The range a FETCH means, now that its track is open.
    fn wanted(
        &self,
        session: SessionId,
        id: TrackId,
        target: &FetchTarget,
    ) -> Result<Wanted, RequestError> {
        let (Some(state), Some(track)) = (self.sessions.get(session.0), self.tracks.get(id.0))
        else {
            return Err(RequestError::new(RequestCode::Internal, "session or track gone"));
        };
        let invalid = |text| RequestError::new(RequestCode::InvalidRange, text);
        let largest = track.cache.largest().ok_or_else(|| invalid("nothing published yet"))?;
        let joint = |subscription: &RequestId| {
            state
                .subscriptions
                .iter()
                .find(|s| s.request == *subscription)
                .ok_or(RequestError::new(RequestCode::InvalidJoiningRequest, "not subscribed"))?
                .joint
                .ok_or_else(|| invalid("nothing published when subscribed"))
        };
        let (start, end) = match target {
            FetchTarget::Standalone { start, end, .. } => (*start, (*end).min(largest)),
            FetchTarget::Recent { groups_back, .. } => {
                let next = largest.group.saturating_add(1);
                (Location::new(next.saturating_sub(*groups_back), 0), largest)
            }
            FetchTarget::RelativeJoining { subscription, groups_back } => {
                let joint = joint(subscription)?;
                (Location::new(joint.group.saturating_sub(*groups_back), 0), joint)
            }
            FetchTarget::AbsoluteJoining { subscription, start_group } => {
                (Location::new(*start_group, 0), joint(subscription)?)
            }
            _ => return Err(RequestError::new(RequestCode::NotSupported, "unknown fetch")),
        };
        if start > end {
            return Err(invalid("start is behind the largest object"));
        }
        Ok(Wanted { start, end })
    }

    pub(super) fn serve_fetch(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        target: &FetchTarget,
        params: &Params,
        now: Instant,
    ) -> Result<(), RequestError> {
        let wanted = self.wanted(session, id, target)?;
        let Some(lacked) = self.lacks(id, wanted, now) else {
            return self.answer_fetch(session, request, id, wanted, params, &Found::default(), now);
        };
        if let Some(found) = self.kept_answer(id, (wanted, lacked), now) {
            self.metrics.upstream_fetches_spared += 1;
            return self.answer_fetch(session, request, id, wanted, params, &found, now);
        }
        if self.ask_for_hole(session, request, id, (wanted, lacked), params, now) {
            return Ok(());
        }
        self.answer_fetch(session, request, id, wanted, params, &Found::default(), now)
    }

    /// What the cache lacks of a range, from the first to the last of it, if the publisher may have it.
    pub(super) fn lacks(&self, id: TrackId, wanted: Wanted, now: Instant) -> Option<Wanted> {
        let track = self.tracks.get(id.0)?;
        let budget = (self.limits.fetch_objects_max, self.limits.fetch_bytes_per_session_max);
        let plan = Plan::new(&track.cache, wanted.start, wanted.end, budget, now).ok()?;
        plan.gap(wanted.start).map(|(start, end)| Wanted { start, end })
    }

    /// An answer to another FETCH that leaves nothing unknown of this one, of which `lacked` is not cached.
    pub(super) fn kept_answer(
        &self,
        id: TrackId,
        (wanted, lacked): (Wanted, Wanted),
        now: Instant,
    ) -> Option<Arc<Found>> {
        let track = self.tracks.get(id.0)?;
        let budget = (self.limits.fetch_objects_max, self.limits.fetch_bytes_per_session_max);
        let suffices = |found: &&Arc<Found>| {
            Plan::new(&track.cache, wanted.start, wanted.end, budget, now)
                .and_then(|plan| plan.filled(wanted.start, found, budget))
                .is_ok_and(|plan| !plan.is_partial())
        };
        self.answers.of(id, lacked.start).find(suffices).cloned()
    }

    /// FETCH_OK and the objects: those of the cache, and those the publisher brought for its holes.
    #[expect(clippy::too_many_arguments, reason = "one request, spelled out")]
    pub(super) fn answer_fetch(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        wanted: Wanted,
        params: &Params,
        found: &Found,
        now: Instant,
    ) -> Result<(), RequestError> {
        let order = params.group_order.unwrap_or_default();
        let ranges = Ranges::within(&params.ranges, &[]).unwrap_or_default();
        let plan = self.plan(session, id, wanted, (order, &ranges), found, now)?;
        let Self { sessions, tracks, metrics, .. } = self;
        let (Some(state), Some(track)) = (sessions.get_mut(session.0), tracks.get(id.0)) else {
            return Err(RequestError::new(RequestCode::Internal, "session or track gone"));
        };
        // Oldest first, the answer can say itself that it ends earlier; otherwise a reset does.
        let early = plan.cut_at().filter(|_| order == GroupOrder::Ascending);
        let end = early.unwrap_or(wanted.end);
        let end_of_track = track.cache.ends_at().is_some()
            && track.cache.largest().is_some_and(|largest| largest <= end);
        state
            .moqt
            .accept_fetch(request, end_of_track, end, Params::default(), &track.properties)
            .map_err(|error| RequestError::new(RequestCode::Internal, error.to_string()))?;
        let priority = fetch_priority(params.subscriber_priority(), track.priority);
        let fetch = Fetch::new(request, plan, order, priority).of(id).timed_out(found.timed_out);
        state.fetches.push(if early.is_some() { fetch.ends_early() } else { fetch });
        metrics.fetches_accepted += 1;
        self.dirty.mark(session);
        Ok(())
    }

    /// What will be sent of a range, within the session's budget.
    fn plan(
        &mut self,
        session: SessionId,
        id: TrackId,
        wanted: Wanted,
        (order, ranges): (GroupOrder, &Ranges),
        found: &Found,
        now: Instant,
    ) -> Result<Plan, RequestError> {
        let Self { sessions, tracks, limits, metrics, .. } = self;
        let (Some(state), Some(track)) = (sessions.get(session.0), tracks.get(id.0)) else {
            return Err(RequestError::new(RequestCode::Internal, "session or track gone"));
        };
        let held: usize = state.fetches.iter().map(|fetch| fetch.bytes).sum();
        let bytes_max = limits.fetch_bytes_per_session_max.saturating_sub(held);
        let budget = (limits.fetch_objects_max, bytes_max);
        let says_unknown = state.moqt.supports(Feature::UnknownRanges);
        Plan::new(&track.cache, wanted.start, wanted.end, budget, now)
            .and_then(|plan| plan.filled(wanted.start, found, budget))
            .and_then(|plan| plan.passing(ranges).ordered(order))
            .and_then(|plan| if says_unknown { Ok(plan) } else { plan.certain() })
            .map_err(|error| match error {
                PlanError::Budget => {
                    metrics.limit_fetch_budget += 1;
                    RequestError::new(RequestCode::ExcessiveLoad, "fetch budget")
                }
                PlanError::Unknown => {
                    let text = "the range begins with objects that are not known here";
                    RequestError::new(RequestCode::UnknownStatus, text)
                }
            })
    }

    pub(super) fn on_fetch_cancelled(
        &mut self,
        session: SessionId,
        request: RequestId,
        now: Instant,
    ) {
        let Some(state) = self.live(session) else { return };
        let cancelled = state.draft.reset_code(weir_moqt::ResetCode::Cancelled);
        if let Some(at) = state.fetches.iter().position(|fetch| fetch.request == request) {
            let fetch = state.fetches.remove(at);
            state.resets.extend(fetch.stream().map(|stream| (stream, cancelled)));
        } else if let Some(at) = state.waiting.iter().position(|w| w.request == request) {
            let waiting = state.waiting.remove(at);
            self.stop_waiting(session, waiting.track, request, now);
        } else {
            self.stop_hole(session, request, now);
        }
    }
}
