//! What the cache lacks of a fetched range, asked of the track's publisher: one FETCH for each hole, however many wait
//! for it, within limits of number, bytes and time. What comes back answers those who wait and is not cached: a
//! publisher's past must not disturb the live edge. For those who come next it is kept beside the cache ([`super::answers`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{FetchObject, Gap, convert_properties};
use weir_moqt::{FetchTarget, Location, Params, RequestId};

use super::fetches::Wanted;
use super::grants::Ended;
use super::{Relay, Timer};
use crate::cache::{ID_MAX, Payload};
use crate::encode::PROPERTIES_DRAFT;
use crate::fetch::Item;
use crate::track::Source;
use crate::{Draft, SessionId, StreamId, TrackId};

/// An answer that keeps coming may take this many times `upstream_fetch_timeout` in all: what a path
/// carries of two groups while the live edge goes first on it.
const FETCH_TIMEOUTS_MAX: u32 = 4;

/// What a publisher brought for a hole, ascending, and how far that goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) items: VecDeque<Item>,
    /// Everything up to here is answered: what is not among the items does not exist.
    pub(crate) through: Option<Location>,
    /// The subscriber would not wait for the rest (FILL_TIMEOUT).
    pub(crate) timed_out: bool,
}

/// A FETCH of ours.
#[derive(Debug)]
pub(super) struct Hole {
    session: SessionId,
    request: RequestId,
    track: TrackId,
    wanted: Wanted,
    /// It must have brought something more by then, and everything by the second.
    until: Instant,
    over: Instant,
    stream: Option<StreamId>,
    object: Option<(FetchObject, BytesMut)>,
    found: Found,
    bytes: usize,
    waiters: Vec<HoleWaiter>,
}

#[derive(Debug)]
struct HoleWaiter {
    session: SessionId,
    request: RequestId,
    wanted: Wanted,
    params: Params,
    /// When it would rather have what there is (FILL_TIMEOUT).
    until: Option<Instant>,
}

impl Relay {
    /// Leaves a FETCH or a fill waiting while its publisher is asked for what is `lacked` of it and for nothing else.
    /// False when nobody can be asked.
    pub(super) fn ask_for_hole(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        (wanted, lacked): (Wanted, Wanted),
        params: &Params,
        now: Instant,
    ) -> bool {
        let Some(track) = self.tracks.get(id.0) else { return false };
        let Source::Upstream { session: publisher, .. } = track.source else { return false };
        let name = track.name.clone();
        let patience = match &params.fill {
            Some(fill) => fill.fill_timeout_ms,
            None => params.fill_timeout_ms,
        };
        if patience == Some(0) {
            return false;
        }
        let until = patience.and_then(|ms| now.checked_add(Duration::from_millis(ms)));
        let waiter = HoleWaiter { session, request, wanted, params: params.clone(), until };
        let covers = |hole: &Hole| {
            hole.track == id && hole.wanted.start <= lacked.start && hole.wanted.end >= lacked.end
        };
        if let Some(hole) = self.holes.iter_mut().find(|hole| covers(hole)) {
            hole.waiters.push(waiter);
            self.timers.extend(until.map(|until| (until, Timer::Holes)));
            return true;
        }
        if self.holes.len() >= self.limits.upstream_fetches_max {
            self.metrics.limit_upstream_fetches += 1;
            return false;
        }
        let Wanted { start, end } = lacked;
        // The last id of a group is no id to a publisher, but the group's end.
        let end = if end.object < ID_MAX { end } else { Location::whole_group(end.group) };
        let target = FetchTarget::Standalone { track: name, start, end };
        let Some(state) = self.live(publisher) else { return false };
        let Ok(asked) = state.moqt.fetch(&target, Params::default()) else { return false };
        self.timers.extend(until.map(|until| (until, Timer::Holes)));
        let until = now + self.limits.upstream_fetch_timeout;
        let over = now + self.limits.upstream_fetch_timeout * FETCH_TIMEOUTS_MAX;
        self.timers.insert((until, Timer::Holes));
        self.holes.push(Hole {
            session: publisher,
            request: asked,
            track: id,
            wanted: lacked,
            until,
            over,
            stream: None,
            object: None,
            found: Found::default(),
            bytes: 0,
            waiters: vec![waiter],
        });
        self.metrics.upstream_fetches += 1;
        self.dirty.mark(publisher);
        true
    }

    fn hole_of(&mut self, session: SessionId, stream: StreamId) -> Option<&mut Hole> {
        self.holes.iter_mut().find(|hole| hole.session == session && hole.stream == Some(stream))
    }

    /// FETCH_HEADER of an answer.
    pub(super) fn on_fetch_opened(
        &mut self,
        session: SessionId,
        stream: StreamId,
        request: RequestId,
    ) {
        let ours = |hole: &&mut Hole| hole.session == session && hole.request == request;
        if let Some(hole) = self.holes.iter_mut().find(ours) {
            hole.stream = Some(stream);
        }
    }

    pub(super) fn on_fetch_object(
        &mut self,
        session: SessionId,
        stream: StreamId,
        object: FetchObject,
        now: Instant,
    ) {
        let objects_max = self.limits.fetch_objects_max;
        let bytes_max = self.limits.fetch_bytes_per_session_max;
        let patience = self.limits.upstream_fetch_timeout;
        let draft = self.sessions.get(session.0).map(|state| state.draft);
        let (Some(hole), Some(draft)) = (self.hole_of(session, stream), draft) else { return };
        let expected = hole.found.through.is_none_or(|through| object.location > through)
            && object.location >= hole.wanted.start
            && object.location <= hole.wanted.end;
        let length = usize::try_from(object.payload_len).unwrap_or(usize::MAX);
        hole.until = (now + patience).min(hole.over);
        hole.bytes = hole.bytes.saturating_add(length);
        let request = hole.request;
        if !expected || hole.bytes > bytes_max || hole.found.items.len() >= objects_max {
            self.metrics.limit_upstream_fetches += 1;
            return self.end_hole(session, request, false, now);
        }
        if length == 0 {
            hole.take(&object, Bytes::new(), draft);
        } else {
            // Grows with what arrives: the length is only a claim.
            hole.object = Some((object, BytesMut::new()));
        }
    }

    /// True when the payload belongs to an answer of ours.
    pub(super) fn on_fetch_payload(
        &mut self,
        session: SessionId,
        stream: StreamId,
        piece: &Bytes,
        last: bool,
    ) -> bool {
        let draft = self.sessions.get(session.0).map(|state| state.draft);
        let (Some(hole), Some(draft)) = (self.hole_of(session, stream), draft) else {
            return false;
        };
        let Some((_, payload)) = &mut hole.object else { return true };
        payload.extend_from_slice(piece);
        if last && let Some((object, payload)) = hole.object.take() {
            hole.take(&object, payload.freeze(), draft);
        }
        true
    }

    pub(super) fn on_fetch_gap(
        &mut self,
        session: SessionId,
        stream: StreamId,
        end: Location,
        gap: Gap,
    ) {
        let Some(hole) = self.hole_of(session, stream) else { return };
        let end = end.min(hole.wanted.end);
        if gap != Gap::NonExistent {
            hole.found.items.push_back(Item::Unknown(end));
        }
        hole.found.through = hole.found.through.max(Some(end));
    }

    /// The answer's stream came to its end; true when it was one of ours.
    pub(super) fn on_fetch_ended(
        &mut self,
        session: SessionId,
        stream: StreamId,
        whole: bool,
        now: Instant,
    ) -> bool {
        let Some(request) = self.hole_of(session, stream).map(|hole| hole.request) else {
            return false;
        };
        self.end_hole(session, request, whole, now);
        true
    }

    /// REQUEST_ERROR, a broken answer, or its end: those who wait get what there is.
    pub(super) fn end_hole(
        &mut self,
        session: SessionId,
        request: RequestId,
        whole: bool,
        now: Instant,
    ) {
        let ours = |hole: &Hole| hole.session == session && hole.request == request;
        let Some(at) = self.holes.iter().position(ours) else { return };
        let mut hole = self.holes.swap_remove(at);
        if whole {
            hole.found.through = Some(hole.wanted.end);
        } else if let Some(state) = self.live(session) {
            state.moqt.cancel(request);
            self.dirty.mark(session);
        }
        for waiter in std::mem::take(&mut hole.waiters) {
            self.answer_waiter(waiter, hole.track, &hole.found, now);
        }
        if whole {
            let until = now + self.limits.upstream_answer_kept;
            let most = self.limits.upstream_answers_bytes_max;
            let answer = (hole.found, hole.bytes);
            self.metrics.limit_upstream_answers +=
                self.answers.keep(hole.track, hole.wanted.start, answer, until, most);
            self.timers.insert((until, Timer::Holes));
        }
        self.release(hole.track, now);
    }

    fn answer_waiter(&mut self, waiter: HoleWaiter, track: TrackId, found: &Found, now: Instant) {
        let HoleWaiter { session, request, wanted, params, .. } = waiter;
        if params.fill.is_some() {
            let wanted = Some(wanted);
            return self.answer_fill(session, request, track, wanted, &params, found, now);
        }
        if let Err(error) = self.answer_fetch(session, request, track, wanted, &params, found, now)
        {
            self.refuse_request(session, request, &error);
        }
    }

    /// Subscribers whose FILL_TIMEOUT is over get what there is; the publisher goes on answering the others.
    fn impatient_over(&mut self, now: Instant) {
        let is_due = |waiter: &HoleWaiter| waiter.until.is_some_and(|until| until <= now);
        let mut due = Vec::new();
        for hole in &mut self.holes {
            let track = hole.track;
            let late = hole.waiters.extract_if(.., |waiter| is_due(waiter));
            let found = &hole.found;
            due.extend(late.map(|waiter| (waiter, track, found.clone())));
        }
        for (waiter, track, found) in due {
            let found = Found { timed_out: true, ..found };
            self.answer_waiter(waiter, track, &found, now);
        }
        // Nobody waits for some of them any more.
        let idle: Vec<_> = self
            .holes
            .iter()
            .filter(|hole| hole.waiters.is_empty())
            .map(|hole| (hole.session, hole.request))
            .collect();
        for (session, request) in idle {
            self.end_hole(session, request, false, now);
        }
    }

    /// Whether the past of a subscription still waits for its publisher.
    pub(super) fn waits_for_fill(&self, session: SessionId, request: RequestId) -> bool {
        let mut waiters = self.holes.iter().flat_map(|hole| &hole.waiters);
        waiters.any(|waiter| waiter.session == session && waiter.request == request)
    }

    /// A FETCH that waits was cancelled, or the subscription whose past it would be.
    pub(super) fn stop_hole(&mut self, session: SessionId, request: RequestId, now: Instant) {
        self.drop_waiters(now, |waiter| waiter.session == session && waiter.request == request);
    }

    /// Grants have ended: FETCHes of a session that waited by them are refused.
    pub(super) fn cut_hole_waiters(&mut self, session: SessionId, why: Ended, now: Instant) {
        let waits = self.holes.iter().flat_map(|hole| {
            let waiters = hole.waiters.iter().filter(|waiter| waiter.session == session);
            waiters.map(|waiter| (waiter.request, hole.track))
        });
        let cut: Vec<_> = waits.filter(|(_, track)| self.is_cut(session, *track)).collect();
        for (request, _) in cut {
            self.stop_hole(session, request, now);
            self.refuse_request(session, request, &why.request());
        }
    }

    /// A session is over: it waits no more, and answers no more.
    pub(super) fn stop_holes_of(&mut self, session: SessionId, now: Instant) {
        self.drop_waiters(now, |waiter| waiter.session == session);
        let asked: Vec<RequestId> = self
            .holes
            .iter()
            .filter(|hole| hole.session == session)
            .map(|hole| hole.request)
            .collect();
        for request in asked {
            self.end_hole(session, request, false, now);
        }
    }

    fn drop_waiters(&mut self, now: Instant, gone: impl Fn(&HoleWaiter) -> bool) {
        let mut idle = Vec::new();
        for hole in &mut self.holes {
            let before = hole.waiters.len();
            hole.waiters.retain(|waiter| !gone(waiter));
            if hole.waiters.is_empty() && before > 0 {
                idle.push((hole.session, hole.request));
            }
        }
        for (session, request) in idle {
            self.end_hole(session, request, false, now);
        }
    }

    /// Publishers that did not answer in time: what they were asked for stays unknown.
    pub(super) fn holes_over(&mut self, now: Instant) {
        self.impatient_over(now);
        self.answers.expire(now);
        let late: Vec<_> = self
            .holes
            .iter()
            .filter(|hole| hole.until <= now)
            .map(|hole| (hole.session, hole.request))
            .collect();
        for (session, request) in late {
            self.metrics.upstream_fetches_late += 1;
            self.end_hole(session, request, false, now);
        }
        let asked = self.holes.iter().map(|hole| hole.until).min();
        let next = [asked, self.answers.next()].into_iter().flatten().min();
        self.timers.extend(next.map(|until| (until, Timer::Holes)));
    }

    /// FETCHes of a session that wait for a publisher; they count as its fetches.
    pub(super) fn waits_for_holes(&self, session: SessionId) -> usize {
        let waiters = self.holes.iter().flat_map(|hole| &hole.waiters);
        waiters.filter(|waiter| waiter.session == session).count()
    }

    /// Somebody waits for a publisher's past of this track.
    pub(super) fn has_hole_waiters(&self, track: TrackId) -> bool {
        self.holes.iter().any(|hole| hole.track == track)
    }
}

impl Hole {
    fn take(&mut self, object: &FetchObject, payload: Bytes, draft: Draft) {
        let properties =
            convert_properties(draft, PROPERTIES_DRAFT, &object.properties).unwrap_or_default();
        let mut whole = Payload::growing(payload.len());
        whole.push(payload);
        self.found.through = Some(object.location);
        self.found.items.push_back(Item::Object {
            location: object.location,
            subgroup: object.subgroup,
            priority: object.priority,
            properties: Bytes::copy_from_slice(&properties),
            payload: whole,
        });
    }
}
