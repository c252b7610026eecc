//! Fills: the past of a subscription, sent on a fetch stream that carries the subscription's request id
//! (draft 20 and later, where earlier ones have joining FETCH). What is asked for becomes a range here;
//! planning and writing it is `fetch`'s affair.

use std::time::Instant;

use weir_moqt::{Fill, Filter, Location, Params, RequestId};

use super::Relay;
use super::fetches::Wanted;
use super::holes::Found;
use crate::fanout::{Subscription, fetch_priority};
use crate::fetch::{Fetch, Plan, PlanError};
use crate::ranges::Ranges;
use crate::{SessionId, TrackId};

impl Relay {
    /// Starts the fill `params` ask for, up to where the subscription began or was resumed. A fill is never
    /// refused: what it cannot bring is said to be unknown, so that its reader knows that it is over.
    pub(super) fn fill(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        params: &Params,
        now: Instant,
    ) {
        let (Some(fill), Some(state), Some(track)) =
            (&params.fill, self.sessions.get(session.0), self.tracks.get(id.0))
        else {
            return;
        };
        let is_it = |s: &&Subscription| s.request == request && s.forward;
        if state.subscriptions.iter().find(is_it).is_none() {
            return;
        }
        let wanted = track.cache.largest().and_then(|largest| past(fill, params, largest));
        let fetches = state.fetches.len() + self.waits_for_holes(session);
        let has_room = fetches < self.limits.fetches_per_session_max;
        if let Some(wanted) = wanted
            && has_room
            && let Some(lacked) = self.lacks(id, wanted, now)
        {
            if let Some(found) = self.kept_answer(id, (wanted, lacked), now) {
                self.metrics.upstream_fetches_spared += 1;
                let wanted = Some(wanted);
                return self.answer_fill(session, request, id, wanted, params, &found, now);
            }
            if self.ask_for_hole(session, request, id, (wanted, lacked), params, now) {
                return;
            }
        }
        self.answer_fill(session, request, id, wanted, params, &Found::default(), now);
    }

    /// The objects of a fill: those of the cache, and those the publisher brought for its holes.
    #[expect(clippy::too_many_arguments, reason = "one request, spelled out")]
    pub(super) fn answer_fill(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        wanted: Option<Wanted>,
        params: &Params,
        found: &Found,
        now: Instant,
    ) {
        let Self { sessions, tracks, limits, metrics, .. } = self;
        let (Some(fill), Some(state), Some(track)) =
            (&params.fill, sessions.get_mut(session.0), tracks.get(id.0))
        else {
            return;
        };
        let Some(subscription) = state.subscriptions.iter_mut().find(|s| s.request == request)
        else {
            return;
        };
        let ranges = if fill.ranges.is_empty() {
            subscription.ranges.clone()
        } else {
            Ranges::within(&fill.ranges, &[]).unwrap_or_default()
        };
        let order = fill.group_order.or(params.group_order).unwrap_or_default();
        let held: usize = state.fetches.iter().map(|fetch| fetch.bytes).sum();
        let bytes_max = limits.fetch_bytes_per_session_max.saturating_sub(held);
        let plan = match wanted {
            None => Plan::default(),
            Some(Wanted { end, .. }) if state.fetches.len() >= limits.fetches_per_session_max => {
                metrics.limit_fetches += 1;
                Plan::unknown(end)
            }
            Some(Wanted { start, end }) => {
                let budget = (limits.fetch_objects_max, bytes_max);
                let planned = Plan::new(&track.cache, start, end, budget, now)
                    .and_then(|plan| plan.filled(start, found, budget))
                    .and_then(|plan| plan.passing(&ranges).ordered(order));
                planned.unwrap_or_else(|error| {
                    metrics.limit_fetch_budget += u64::from(error == PlanError::Budget);
                    Plan::unknown(end)
                })
            }
        };
        subscription.streams += 1;
        let priority = fill.priority.unwrap_or(subscription.priority());
        let priority = fetch_priority(priority, track.priority);
        let fetch = Fetch::new(request, plan, order, priority).of(id).timed_out(found.timed_out);
        state.fetches.push(fetch);
        metrics.fetches_accepted += 1;
        self.dirty.mark(session);
    }
}

/// The range of a fill, both ends inclusive; `None` when nothing of the past is asked for.
fn past(fill: &Fill, params: &Params, largest: Location) -> Option<Wanted> {
    let (start, end) = match fill.filter.or(params.filter) {
        None => (Location::default(), largest),
        Some(Filter::Relative { groups_back }) => {
            let next = largest.group.saturating_add(1);
            (Location::new(next.saturating_sub(groups_back), 0), largest)
        }
        Some(Filter::AbsoluteStart(start)) => (start, largest),
        Some(Filter::AbsoluteRange { start, end_group }) => {
            (start, Location::whole_group(end_group))
        }
        Some(Filter::Range { start, end }) => (start, end),
        // The others begin after the largest object.
        Some(_) => return None,
    };
    let end = end.min(largest);
    (start <= end).then_some(Wanted { start, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_takes_its_own_range_or_the_subscriptions_or_all_and_ends_at_the_largest_object() {
        let at = Location::new;
        let largest = at(7, 3);
        let relative = |groups_back| Some(Filter::Relative { groups_back });
        let end_group = 5;
        for (own, of_subscription, expected) in [
            (None, None, Some((at(0, 0), largest))),
            (relative(1), None, Some((at(7, 0), largest))),
            (relative(3), Some(Filter::LargestObject), Some((at(5, 0), largest))),
            (relative(900), None, Some((at(0, 0), largest))),
            (None, relative(2), Some((at(6, 0), largest))),
            (None, Some(Filter::LargestObject), None),
            (Some(Filter::NextGroupStart), relative(2), None),
            (Some(Filter::AbsoluteStart(at(7, 3))), None, Some((largest, largest))),
            (Some(Filter::AbsoluteStart(at(7, 4))), None, None),
            (
                Some(Filter::AbsoluteRange { start: at(2, 1), end_group }),
                None,
                Some((at(2, 1), Location::whole_group(5))),
            ),
            (
                Some(Filter::Range { start: at(2, 1), end: at(9, 9) }),
                None,
                Some((at(2, 1), largest)),
            ),
            (Some(Filter::Range { start: at(3, 1), end: at(3, 0) }), None, None),
        ] {
            let fill = Fill { filter: own, ..Fill::default() };
            let params = Params { filter: of_subscription, ..Params::default() };
            let wanted = past(&fill, &params, largest).map(|wanted| (wanted.start, wanted.end));
            assert_eq!(wanted, expected, "{own:?} {of_subscription:?}");
        }
    }
}
