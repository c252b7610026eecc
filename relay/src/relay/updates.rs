//! REQUEST_UPDATE of a subscription, live or waiting: a new token, a narrower range, other filters, priority, timeouts and
//! forwarding. It owns what an update may change; what is refused changes nothing. Prefixes and requests that wait for
//! their track to be there have their updates in `prefixes` and `rendezvous`.

use std::time::{Duration, Instant};

use weir_moqt::{Filter, Location, Params, RequestCode, RequestError, RequestId};

use super::Relay;
use super::request::timeouts;
use crate::SessionId;
use crate::fanout::Subscription;
use crate::ranges;
use crate::session::Ask;

impl Relay {
    pub(super) fn on_update(
        &mut self,
        session: SessionId,
        request: RequestId,
        update: RequestId,
        params: &Params,
        now: Instant,
        wall: Duration,
    ) {
        let Some(state) = self.live(session) else { return };
        let live = state.subscriptions.iter().find(|s| s.request == request).map(|s| s.track);
        let waiting = state.waiting.iter().find(|w| w.request == request).map(|w| w.track);
        let Some(id) = live.or(waiting) else {
            if self.update_early(session, request, update, params, now, wall) {
                return;
            }
            return self.update_prefix(session, request, update, params, now, wall);
        };
        let Some(name) = self.tracks.get(id.0).map(|track| track.name.clone()) else { return };
        // A token in an update renews the grant (R31); without one the old grant must still hold.
        if !self.admit(session, name.namespace(), &params.tokens, now, wall) {
            return;
        }
        let terms = self.tracks.get(id.0).map(|track| track.terms).unwrap_or_default();
        let ranges_max = self.limits.filter_ranges_max;
        let open = self.sessions.get_mut(session.0).filter(|state| state.closing.is_none());
        let Some(state) = open else { return };
        let cancelled = state.draft.reset_code(weir_moqt::ResetCode::Cancelled);
        let mut changed = Ok(());
        if let Some(subscription) = state.subscriptions.iter_mut().find(|s| s.request == request) {
            changed = change(subscription, params, ranges_max);
            if changed.is_ok() {
                if let Some(priority) = params.priority {
                    subscription.set_priority(priority);
                }
                if params.object_timeout_ms.is_some() || params.subgroup_timeout_ms.is_some() {
                    subscription.timeouts = timeouts(params).min(terms.timeouts);
                }
                match params.forward {
                    Some(false) if subscription.forward => {
                        state.resets.extend(subscription.streams().map(|s| (s, cancelled)));
                        subscription.pause();
                    }
                    Some(true) if !subscription.forward && subscription.offered.is_none() => {
                        if let Some(track) = self.tracks.get(id.0) {
                            subscription.resume(&track.cache);
                        }
                    }
                    _ => {}
                }
            }
        } else if let Some(waiting) = state.waiting.iter_mut().find(|w| w.request == request)
            && let Ask::Subscribe(asked) = &mut waiting.ask
        {
            changed = overlay(asked, params, ranges_max);
            if changed.is_ok() {
                return self.accept_update(session, update);
            }
        }
        if let Err(error) = changed {
            return self.refuse_update(session, update, &error);
        }
        self.accept_update(session, update);
        self.fill(session, request, id, params, now);
        if let Some(after) = params.new_group {
            self.wish_new_group(id, after);
        }
    }

    /// The peer hears of it behind the answer to its request.
    pub(super) fn accept_update(&mut self, session: SessionId, update: RequestId) {
        if let Some(state) = self.live(session) {
            // An error means that the peer ended the request in the same moment.
            let _ = state.moqt.accept(update, Params::default(), &[]);
            self.dirty.mark(session);
        }
    }

    /// Refuses an update, and counts it when it asked for too many ranges.
    pub(super) fn refuse_update(
        &mut self,
        session: SessionId,
        update: RequestId,
        error: &RequestError,
    ) {
        if error.code == RequestCode::InvalidFilter {
            self.metrics.limit_filter_ranges += 1;
        }
        self.refuse_request(session, update, error);
    }
}

/// What an update changes of the objects that a subscription gets: all of it, or nothing.
fn change(
    subscription: &mut Subscription,
    newer: &Params,
    ranges_max: u64,
) -> Result<(), RequestError> {
    let narrowed = narrowed(newer.filter)?;
    let ranges = subscription.ranges.updated(&newer.ranges, ranges_max);
    let ranges = ranges.ok_or_else(too_many_ranges)?;
    // An offer that is not taken yet keeps filters of its track as well.
    if let Some(terms) = &mut subscription.offered {
        overlay(terms, newer, ranges_max)?;
    }
    if !newer.ranges.is_empty() {
        subscription.ranges = ranges;
    }
    if let Some((start, end)) = narrowed {
        subscription.narrow_start(start);
        let nearer = |end| subscription.end.map_or(end, |before| before.min(end));
        subscription.end = end.map(nearer).or(subscription.end);
    }
    Ok(())
}

/// REQUEST_UPDATE may only narrow: the start goes forward, the end comes nearer.
fn narrowed(filter: Option<Filter>) -> Result<Option<(Location, Option<Location>)>, RequestError> {
    let (start, end) = match filter {
        Some(Filter::AbsoluteStart(start)) => return Ok(Some((start, None))),
        Some(Filter::AbsoluteRange { start, end_group }) => {
            (start, Location::whole_group(end_group))
        }
        Some(Filter::Range { start, end }) => (start, end),
        _ => return Ok(None),
    };
    if end < start {
        let text = "the range ends before it starts";
        return Err(RequestError::new(RequestCode::InvalidRange, text));
    }
    Ok(Some((start, Some(end))))
}

/// What a newer word of a subscriber changes of an older one: nothing when their range filters are too many together.
pub(super) fn overlay(
    asked: &mut Params,
    newer: &Params,
    ranges_max: u64,
) -> Result<(), RequestError> {
    if !ranges::update(&mut asked.ranges, &newer.ranges, ranges_max) {
        return Err(too_many_ranges());
    }
    asked.forward = newer.forward.or(asked.forward);
    asked.priority = newer.priority.or(asked.priority);
    asked.filter = newer.filter.or(asked.filter);
    asked.fill = newer.fill.clone().or(asked.fill.take());
    asked.group_order = newer.group_order.or(asked.group_order);
    asked.object_timeout_ms = newer.object_timeout_ms.or(asked.object_timeout_ms);
    asked.subgroup_timeout_ms = newer.subgroup_timeout_ms.or(asked.subgroup_timeout_ms);
    asked.new_group = newer.new_group.or(asked.new_group);
    asked.rendezvous_timeout_ms = newer.rendezvous_timeout_ms.or(asked.rendezvous_timeout_ms);
    Ok(())
}

fn too_many_ranges() -> RequestError {
    RequestError::new(RequestCode::InvalidFilter, "too many filter ranges")
}
