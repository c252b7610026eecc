//! Fills: the past of a subscription, sent on a fetch stream that carries the subscription's request id
//! (draft 20 and later, where earlier ones have joining FETCH). What is asked for becomes a range here;
//! planning and writing it is `fetch`'s affair.

use std::time::Instant;

use weir_moqt::{Fill, Filter, Location, Params, RequestId};

use super::Relay;
use crate::fanout::fetch_priority;
use crate::fetch::{Fetch, Plan};
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
        if !subscription.forward {
            return;
        }
        let order = fill.group_order.or(params.group_order).unwrap_or_default();
        let held: usize = state.fetches.iter().map(|fetch| fetch.bytes).sum();
        let bytes_max = limits.fetch_bytes_per_session_max.saturating_sub(held);
        let plan = match track.cache.largest().and_then(|largest| past(fill, params, largest)) {
            None => Plan::default(),
            Some((_, end)) if state.fetches.len() >= limits.fetches_per_session_max => {
                metrics.limit_fetches += 1;
                Plan::unknown(end)
            }
            Some((start, end)) => {
                let budget = (limits.fetch_objects_max, bytes_max);
                let planned = Plan::new(&track.cache, start, end, budget, now)
                    .and_then(|plan| plan.ordered(order));
                planned.unwrap_or_else(|_| {
                    metrics.limit_fetch_budget += 1;
                    Plan::unknown(end)
                })
            }
        };
        subscription.streams += 1;
        let priority = fill.priority.unwrap_or(subscription.priority());
        let priority = fetch_priority(priority, track.priority);
        state.fetches.push(Fetch::new(request, plan, order, priority));
        metrics.fetches_accepted += 1;
        self.dirty.mark(session);
    }
}

/// The range of a fill, both ends inclusive; `None` when nothing of the past is asked for.
fn past(fill: &Fill, params: &Params, largest: Location) -> Option<(Location, Location)> {
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
    (start <= end).then_some((start, end))
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
            assert_eq!(past(&fill, &params, largest), expected, "{own:?} {of_subscription:?}");
        }
    }
}
