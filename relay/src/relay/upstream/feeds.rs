//! A track that comes from above: one subscription for everybody on this node, and what becomes of it
//! when the relay above goes away. It owns which of two sources a group is taken from.
//!
//! **A group has one source.** While a track moves from one upstream session to another, both may
//! send. A group belongs to the session that began it first, and from the moment the new session sends
//! anything it owns every group not begun by then; so no object comes twice and no group goes back. The
//! new session is asked from the start of its next group, and the old one is let go when it has nothing
//! of its own left, or is silent.

use std::time::{Duration, Instant};

use weir_moqt::{Filter, Params, RequestCode, RequestError, RequestId, ResetCode};

use super::super::redirects::authority;
use super::super::{Relay, Timer};
use crate::cache::Order;
use crate::track::{Source, State};
use crate::{DoneCode, FullTrackName, SessionId, TrackId};

/// Names remembered as absent at once: 4,096 x about 150 bytes.
const ABSENT_MAX: usize = 4_096;

/// First and longest wait before a track is asked for again; between, it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(4);

/// A track that comes from above.
#[derive(Debug)]
pub(super) struct Feed {
    /// The source being left, and until when it may finish.
    pub(super) leaving: Option<(SessionId, RequestId, Instant)>,
    /// The present source owns groups from here on; `None` until it began its first.
    owned_from: Option<u64>,
    /// Newest group begun by any source, and by those before the present one.
    begun: Option<u64>,
    begun_before: Option<u64>,
    /// The old source began a group that it does not own: it has nothing more to give.
    overtaken: bool,
    /// Since when there is no source.
    orphan_since: Option<Instant>,
    pub(super) retry_at: Option<Instant>,
    attempts: u32,
    /// Redirects followed since it was last answered.
    hops: u32,
}

impl Feed {
    fn new(now: Instant) -> Self {
        Self {
            leaving: None,
            owned_from: Some(0),
            begun: None,
            begun_before: None,
            overtaken: false,
            orphan_since: Some(now),
            retry_at: None,
            attempts: 0,
            hops: 0,
        }
    }

    /// Another source begins: what was begun stays with those who began it.
    fn change_source(&mut self) {
        if self.begun.is_some() {
            self.owned_from = None;
        }
        self.begun_before = self.begun;
        self.overtaken = false;
    }

    fn due(&self, wait: Duration) -> Option<Instant> {
        let gives_up = self.orphan_since.map(|since| since + wait);
        let left = self.leaving.map(|(_, _, until)| until);
        [gives_up, left, self.retry_at].into_iter().flatten().min()
    }
}

impl Relay {
    /// First interest in a track that is above: one SUBSCRIBE for everybody on this node.
    pub(in crate::relay) fn start_from_above(
        &mut self,
        name: &FullTrackName,
        now: Instant,
    ) -> Option<TrackId> {
        match self.mesh.absent.get(name) {
            Some(until) if *until > now => {
                self.metrics.absent_hits += 1;
                return None;
            }
            Some(_) => {
                self.mesh.absent.remove(name);
            }
            None => {}
        }
        let id = self.add_track(name.clone(), Source::Orphan, Order::Streams)?;
        self.mesh.feeds.insert(id, Feed::new(now));
        if let Some(active) = self.mesh.active {
            self.feed_from(id, active, now);
        }
        self.schedule_mesh();
        Some(id)
    }

    /// Asks `session` for a track, whoever feeds it now.
    pub(super) fn feed_from(&mut self, id: TrackId, session: SessionId, now: Instant) {
        let grace = self.limits.upstream_grace;
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        let Some(feed) = self.mesh.feeds.get_mut(&id) else { return };
        if matches!(track.source, Source::Upstream { session: held, .. } if held == session) {
            return;
        }
        // A joiner wants what there is; a track that goes on wants whole groups.
        let filter =
            if feed.begun.is_none() { Filter::LargestObject } else { Filter::NextGroupStart };
        let params = Params { filter: Some(filter), ..Params::default() };
        let Some(state) = self.sessions.get_mut(session.0) else { return };
        let Ok(request) = state.moqt.subscribe(&track.name, params) else {
            feed.retry(now);
            return;
        };
        if let Some(publisher) = &mut state.publisher {
            publisher.upstreams.push((request, id));
        }
        self.metrics.upstream_subscriptions += 1;
        self.dirty.mark(session);
        let before = std::mem::replace(&mut track.source, Source::Upstream { session, request });
        track.upstream_streams = 0;
        feed.retry_at = None;
        let stale = match before {
            Source::Upstream { session, request } => {
                feed.leaving.replace((session, request, now + grace))
            }
            _ => None,
        };
        feed.change_source();
        // At most two sources at once: the one before the last is let go here and now.
        if let Some((session, request, _)) = stale {
            self.let_go(id, session, request, Some(now));
        }
    }

    // Answers.

    /// A relay above has the track.
    pub(in crate::relay) fn feed_answered(&mut self, id: TrackId) {
        if let Some(feed) = self.mesh.feeds.get_mut(&id) {
            feed.orphan_since = None;
            feed.attempts = 0;
            feed.hops = 0;
            feed.retry_at = None;
        }
    }

    /// A relay above names another one: followed when that is one of ours, since our node key goes nowhere else.
    fn follow_redirect(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        error: &RequestError,
        now: Instant,
    ) -> bool {
        let Some(redirect) = error.redirect.as_deref().filter(|it| it.track.is_none()) else {
            return false;
        };
        let Some(authority) = authority(&redirect.uri) else { return false };
        let Some(feed) = self.mesh.feeds.get_mut(&id) else { return false };
        let named = self.mesh.sessions.iter().find(|(_, above)| above.authority == authority);
        let Some(to) = named.map(|(to, _)| *to).filter(|to| *to != session) else { return false };
        if feed.hops >= self.limits.redirect_hops_max {
            self.metrics.limit_redirect_hops += 1;
            return false;
        }
        feed.hops += 1;
        self.metrics.redirects_followed += 1;
        self.orphan(id, session, request, now);
        self.feed_from(id, to, now);
        self.schedule_mesh();
        true
    }

    /// A relay above refused a subscription. True when the track lives on: it is asked for again.
    pub(in crate::relay) fn feed_refused(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        error: &RequestError,
        now: Instant,
    ) -> bool {
        let absent_ttl = self.limits.absent_ttl;
        let (Some(track), Some(feed)) = (self.tracks.get_mut(id.0), self.mesh.feeds.get_mut(&id))
        else {
            return false;
        };
        if feed.leaving.is_some_and(|(held, asked, _)| (held, asked) == (session, request)) {
            self.finish_leaving(id, session, request, now);
            return true;
        }
        let is_pending = track.state == State::Pending;
        if error.code == RequestCode::Redirect
            && self.follow_redirect(session, request, id, error, now)
        {
            return true;
        }
        let Some(track) = self.tracks.get(id.0) else { return false };
        if is_pending {
            if error.code == RequestCode::DoesNotExist && self.mesh.absent.len() < ABSENT_MAX {
                self.mesh.absent.insert(track.name.clone(), now + absent_ttl);
                self.schedule_mesh();
            }
            return false;
        }
        self.orphan(id, session, request, now);
        self.schedule_mesh();
        true
    }

    /// A relay above ended a subscription. True when only that relay is at its end, not the track.
    pub(in crate::relay) fn feed_done(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        code: DoneCode,
        now: Instant,
    ) -> bool {
        let Some(feed) = self.mesh.feeds.get_mut(&id) else { return false };
        if feed.leaving.is_some_and(|(held, asked, _)| (held, asked) == (session, request)) {
            // Its streams may still be on their way: the grace period ends it.
            return true;
        }
        if matches!(code, DoneCode::TrackEnded | DoneCode::MalformedTrack) {
            return false;
        }
        self.orphan(id, session, request, now);
        self.schedule_mesh();
        true
    }

    /// The track has no source; it waits for one, and goes back to the one it was leaving.
    pub(super) fn orphan(
        &mut self,
        id: TrackId,
        session: SessionId,
        request: RequestId,
        now: Instant,
    ) {
        self.let_go(id, session, request, Some(now));
        let (Some(track), Some(feed)) = (self.tracks.get_mut(id.0), self.mesh.feeds.get_mut(&id))
        else {
            return;
        };
        if let Some((session, request, _)) = feed.leaving.take() {
            track.source = Source::Upstream { session, request };
            feed.owned_from = Some(0);
        } else {
            track.source = Source::Orphan;
            feed.orphan_since.get_or_insert(now);
        }
        feed.retry(now);
    }

    // Groups.

    /// Whether a stream of `group` on this subscription is to be read.
    pub(in crate::relay) fn feed_takes(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: TrackId,
        group: u64,
    ) -> bool {
        let (Some(track), Some(feed)) = (self.tracks.get(id.0), self.mesh.feeds.get_mut(&id))
        else {
            return true;
        };
        let present = track.source == Source::Upstream { session, request };
        let takes = match (present, feed.owned_from) {
            (true, Some(from)) => group >= from,
            (true, None) => {
                // What was begun stays with those who began it; the rest is the new one's, though the
                // old one may go on being faster.
                let first = feed.begun.map_or(group, |begun| group.max(begun.saturating_add(1)));
                feed.owned_from = Some(first);
                group >= first
            }
            (false, Some(from)) => {
                feed.overtaken |= group >= from;
                group < from
            }
            (false, None) => true,
        };
        if takes {
            feed.begun = feed.begun.max(Some(group));
            if !present {
                feed.begun_before = feed.begun_before.max(Some(group));
            }
        }
        takes
    }

    /// Lets go of a source being left once it has nothing of its own to give any more: the new one
    /// has begun, what the old one began has ended, and it owes no group between.
    pub(in crate::relay) fn settle_leaving(&mut self, id: TrackId, now: Instant) {
        let Some(feed) = self.mesh.feeds.get(&id) else { return };
        let (Some((session, request, _)), Some(from)) = (feed.leaving, feed.owned_from) else {
            return;
        };
        if self.mesh.sessions.get(&session).is_some_and(|above| above.doubted) {
            return self.finish_leaving(id, session, request, now);
        }
        let owes = feed.begun_before.is_none_or(|begun| begun.saturating_add(1) < from);
        if owes && !feed.overtaken {
            return;
        }
        let reading = self
            .live(session)
            .and_then(|state| state.publisher.as_ref())
            .is_some_and(|publisher| publisher.inbound.iter().any(|i| i.track == id && !i.ignored));
        if !reading {
            self.finish_leaving(id, session, request, now);
        }
    }

    pub(super) fn finish_leaving(
        &mut self,
        id: TrackId,
        session: SessionId,
        request: RequestId,
        now: Instant,
    ) {
        if let Some(feed) = self.mesh.feeds.get_mut(&id) {
            feed.leaving = None;
        }
        self.let_go(id, session, request, Some(now));
        self.tell_if_left(session);
    }

    /// Cancels one subscription of a track and gives up what its streams were bringing. Without
    /// `now`, nobody reads the track any more.
    pub(super) fn let_go(
        &mut self,
        id: TrackId,
        session: SessionId,
        request: RequestId,
        now: Option<Instant>,
    ) {
        let Some(state) = self.sessions.get_mut(session.0) else { return };
        let Some(publisher) = &mut state.publisher else { return };
        let before = publisher.upstreams.len();
        publisher.upstreams.retain(|(known, _)| *known != request);
        if publisher.upstreams.len() == before {
            return;
        }
        let mut cut = Vec::new();
        for inbound in publisher.inbound.iter_mut().filter(|inbound| inbound.track == id) {
            if !inbound.ignored {
                cut.extend(inbound.place);
            }
            inbound.ignore();
        }
        state.moqt.cancel(request);
        self.metrics.upstream_subscriptions = self.metrics.upstream_subscriptions.saturating_sub(1);
        self.dirty.mark(session);
        if let Some(now) = now {
            for place in cut {
                self.end_place(id, place, Some(ResetCode::GoingAway), now);
            }
        }
    }

    /// A track is freed or ended here: nothing of it is wanted from above any more.
    pub(in crate::relay) fn drop_feed(&mut self, id: TrackId) {
        let Some(feed) = self.mesh.feeds.remove(&id) else { return };
        if let Some((session, request, _)) = feed.leaving {
            self.let_go(id, session, request, None);
            self.tell_if_left(session);
        }
    }

    /// Deadlines of the mesh: tracks asked for again, given up, or done moving.
    pub(in crate::relay) fn mesh_timeout(&mut self, now: Instant) {
        self.mesh.due = None;
        self.mesh.absent.retain(|_, until| *until > now);
        let feeds: Vec<TrackId> = self.mesh.feeds.keys().copied().collect();
        for id in feeds {
            let Some(feed) = self.mesh.feeds.get_mut(&id) else { continue };
            if let Some((session, request, until)) = feed.leaving
                && until <= now
            {
                self.finish_leaving(id, session, request, now);
            }
            self.feed_timeout(id, now);
        }
        self.discovery_timeout(now);
        self.schedule_mesh();
    }

    fn feed_timeout(&mut self, id: TrackId, now: Instant) {
        let hold = self.limits.upstream_hold;
        let wait = self.limits.upstream_wait;
        let active = self.mesh.active;
        let (Some(track), Some(feed)) = (self.tracks.get(id.0), self.mesh.feeds.get_mut(&id))
        else {
            return;
        };
        let patience = if track.state == State::Pending { wait } else { hold };
        if feed.orphan_since.is_some_and(|since| since + patience <= now) {
            self.metrics.upstream_given_up += 1;
            let error = RequestError::new(RequestCode::Timeout, "no upstream answers");
            self.drop_upstream(id);
            self.refuse(id, &error, now);
            self.end(id, DoneCode::TrackEnded, now);
            return;
        }
        if feed.retry_at.is_some_and(|at| at <= now) {
            feed.retry_at = None;
            if let Some(active) = active {
                self.feed_from(id, active, now);
            }
        }
    }

    /// Puts the next deadline of the mesh into the timer set.
    pub(super) fn schedule_mesh(&mut self) {
        let (hold, wait) = (self.limits.upstream_hold, self.limits.upstream_wait);
        let tracks = &self.tracks;
        let feeds = self.mesh.feeds.iter().filter_map(|(id, feed)| {
            let pending = tracks.get(id.0).is_some_and(|track| track.state == State::Pending);
            feed.due(if pending { wait } else { hold })
        });
        let others = self.mesh.absent.values().copied().chain(self.mesh.discovery.due);
        let due = feeds.chain(others).min();
        if due == self.mesh.due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut self.mesh.due, due) {
            self.timers.remove(&(before, Timer::Mesh));
        }
        if let Some(due) = due {
            self.timers.insert((due, Timer::Mesh));
        }
    }
}

impl Feed {
    /// Asks again later, later each time. Different tracks need no jitter among themselves: they
    /// share one connection, whose own attempts have it.
    fn retry(&mut self, now: Instant) {
        let wait = RETRY_FIRST.saturating_mul(1 << self.attempts.min(6)).min(RETRY_MAX);
        self.attempts = self.attempts.saturating_add(1);
        self.retry_at = Some(now + wait);
    }
}
