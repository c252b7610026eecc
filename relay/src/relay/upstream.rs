//! Relays above this one: the default route of namespaces nobody here holds, one subscription per
//! track, and what becomes of it when the relay above goes away. It owns which of two sources a
//! group is taken from; which relay is used and when to try again is the engine's decision.
//!
//! **A group has one source.** While a track moves from one upstream session to another, both may
//! send. A group belongs to the session that began it first, and from the moment the new session sends
//! anything it owns every group not begun by then; so no object comes twice and no group goes back. The new session is asked
//! from the start of its next group, and the old one is let go when it has nothing of its own left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use bytes::{Bytes, BytesMut};
use weir_moqt::{
    Event as Moqt, Filter, Params, RequestCode, RequestError, RequestId, RequestKind, ResetCode,
    Role, SetupOptions,
};

use super::{Relay, Timer};
use crate::cache::Order;
use crate::session::{Publisher, Session};
use crate::track::{Source, State};
use crate::{
    Carrier, DoneCode, Draft, Event, FullTrackName, Namespace, Origin, Secret, SessionCode,
    SessionId, StreamId, TrackId,
};

/// Largest beacon: the largest trust of viewers' keys, and as much of nodes and signature.
const BEACON_BYTES_MAX: usize = crate::auth::TRUST_BYTES_MAX + (1 << 20);

/// Streams of beacons under way in one session; each brings one small object.
const BEACON_STREAMS_MAX: usize = 8;

/// Names remembered as absent at once: 4,096 x about 150 bytes.
const ABSENT_MAX: usize = 4_096;

/// Requests open towards one relay above, of all tracks: `tracks_max` and two beacons.
const REQUESTS_MAX: usize = 16_384;

/// Data streams a relay above may hold open: `tracks_max` of two groups each.
const STREAMS_MAX: usize = 16_384;

/// First and longest wait before a track is asked for again; between, it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(4);

/// What a relay tells the relays below it on tracks of its own, hop by hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Beacon {
    /// The ids of the nodes between it and the engine.
    Path,
    /// Whom to believe: keys of viewers and nodes, signed by the engine.
    Trust,
}

impl Beacon {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Path, Self::Trust];

    /// Its track: `.session` tracks never leave their hop.
    pub fn track(self) -> FullTrackName {
        let name = match self {
            Self::Path => "path",
            Self::Trust => "trust",
        };
        let namespace = Namespace::new([".session", "weir"]);
        namespace
            .and_then(|namespace| FullTrackName::new(namespace, name))
            .expect("two short fields and a short name are within all limits")
    }
}

/// How shards of an edge share namespaces that are only known above: each has one home shard.
#[derive(Clone)]
pub struct DefaultRoute {
    shards: u16,
    key: hmac::Key,
}

impl DefaultRoute {
    /// For a node of this many shards; `key` keeps outsiders from aiming at one.
    pub fn new(shards: u16, key: &[u8; 32]) -> Self {
        Self { shards: shards.max(1), key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    fn home(&self, namespace: &Namespace) -> u16 {
        if self.shards == 1 {
            return 0;
        }
        let mut context = hmac::Context::with_key(&self.key);
        for field in namespace.fields() {
            context.update(&(field.len() as u64).to_be_bytes());
            context.update(field);
        }
        let tag = context.sign();
        let head = tag.as_ref().first_chunk().map_or(0, |head| u64::from_be_bytes(*head));
        (head % u64::from(self.shards)) as u16
    }
}

impl std::fmt::Debug for DefaultRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DefaultRoute").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// A connection to a relay above that is ready for MoQT.
#[derive(Clone, Debug)]
pub struct UpstreamParams {
    /// Negotiated draft.
    pub draft: Draft,
    /// Path and query for SETUP; carries the node key.
    pub path: Secret,
    /// Host and port for SETUP.
    pub authority: String,
}

/// What one shard knows of the relays above.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    route: Option<DefaultRoute>,
    /// Where new subscriptions go.
    active: Option<SessionId>,
    sessions: BTreeMap<SessionId, Above>,
    feeds: BTreeMap<TrackId, Feed>,
    /// Tracks that are not there, and until when that is believed.
    absent: BTreeMap<FullTrackName, Instant>,
    due: Option<Instant>,
}

/// A session with a relay above.
#[derive(Debug, Default)]
struct Above {
    requests: Vec<(RequestId, Beacon)>,
    streams: Vec<(StreamId, Beacon, BytesMut)>,
    /// Being left; tracks move away.
    leaving: bool,
    /// Perhaps dead: nobody waits for what it still owes.
    doubted: bool,
}

/// A track that comes from above.
#[derive(Debug)]
struct Feed {
    /// The source being left, and until when it may finish.
    leaving: Option<(SessionId, RequestId, Instant)>,
    /// The present source owns groups from here on; `None` until it began its first.
    owned_from: Option<u64>,
    /// Newest group begun by any source, and by those before the present one.
    begun: Option<u64>,
    begun_before: Option<u64>,
    /// The old source began a group that it does not own: it has nothing more to give.
    overtaken: bool,
    /// Since when there is no source.
    orphan_since: Option<Instant>,
    retry_at: Option<Instant>,
    attempts: u32,
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
    /// Namespaces that nobody here holds are above from now on.
    pub fn set_default_route(&mut self, route: DefaultRoute) {
        self.mesh.route = Some(route);
    }

    /// A connection to a relay above became a session. `None` at `sessions_max`.
    pub fn open_upstream(&mut self, params: UpstreamParams, now: Instant) -> Option<SessionId> {
        if self.sessions.len() >= self.limits.sessions_max {
            self.metrics.limit_sessions += 1;
            return None;
        }
        let options = SetupOptions {
            path: Some(params.path.expose().to_owned()),
            authority: Some(params.authority),
            implementation: Some(concat!("weir/", env!("CARGO_PKG_VERSION")).to_owned()),
            ..SetupOptions::default()
        };
        let limits = weir_moqt::Limits {
            object_bytes: self.limits.object_bytes_max as u64,
            own_requests: REQUESTS_MAX,
            data_streams: STREAMS_MAX,
            ..weir_moqt::Limits::default()
        };
        let moqt =
            weir_moqt::Session::new(params.draft, Role::Client, Carrier::Quic, limits, options);
        let mut session = Session::new(moqt, now + self.limits.setup_timeout);
        session.publisher = Some(Publisher::above(now));
        let requests = Beacon::ALL
            .into_iter()
            .filter_map(|beacon| {
                let params = Params { filter: Some(Filter::LargestObject), ..Params::default() };
                Some((session.moqt.subscribe(&beacon.track(), params).ok()?, beacon))
            })
            .collect();
        let id = SessionId(self.sessions.insert(session));
        self.metrics.sessions_opened += 1;
        self.metrics.sessions = self.sessions.len() as u64;
        self.mesh.sessions.insert(id, Above { requests, ..Above::default() });
        self.metrics.sessions_above = self.mesh.sessions.len() as u64;
        self.reschedule(id);
        self.dirty.mark(id);
        Some(id)
    }

    /// The relay above from which tracks are taken from now on. Those that another one still feeds
    /// move at a group's start; [`Event::UpstreamLeft`] says when it feeds none.
    pub fn use_upstream(&mut self, session: SessionId, now: Instant) {
        if self.mesh.active == Some(session) || !self.mesh.sessions.contains_key(&session) {
            return;
        }
        let before = self.mesh.active.replace(session);
        if let Some(above) = before.and_then(|before| self.mesh.sessions.get_mut(&before)) {
            above.leaving = true;
        }
        if let Some(above) = self.mesh.sessions.get_mut(&session) {
            above.leaving = false;
        }
        let feeds: Vec<TrackId> = self.mesh.feeds.keys().copied().collect();
        for id in feeds {
            self.feed_from(id, session, now);
        }
        if let Some(before) = before {
            self.tell_if_left(before);
        }
        self.schedule_mesh();
    }

    /// A relay above is not heard, or is heard again. What a silent one still owes is not waited for
    /// once another has begun.
    pub fn doubt_upstream(&mut self, session: SessionId, doubted: bool, now: Instant) {
        let Some(above) = self.mesh.sessions.get_mut(&session) else { return };
        above.doubted = doubted;
        if doubted {
            let feeds: Vec<TrackId> = self.mesh.feeds.keys().copied().collect();
            for id in feeds {
                self.settle_leaving(id, now);
            }
        }
    }

    /// Whether this is a session with a relay above.
    pub(super) fn is_above(&self, session: SessionId) -> bool {
        self.mesh.sessions.contains_key(&session)
    }

    /// Number of tracks fed from above.
    pub fn tracks_from_above(&self) -> usize {
        self.mesh.feeds.len()
    }

    /// How many of them are moving from one relay above to another, and come from both meanwhile.
    pub fn tracks_moving(&self) -> usize {
        self.mesh.feeds.values().filter(|feed| feed.leaving.is_some()).count()
    }

    // Routing.

    /// Who holds a namespace: somebody here, or else whoever is above.
    pub(super) fn origin(&self, namespace: &Namespace) -> Option<Origin> {
        if let Some(origin) = self.directory.serving(namespace) {
            return Some(origin);
        }
        let route = self.mesh.route.as_ref()?;
        let home = route.home(namespace);
        Some(if home == self.shard { Origin::Above } else { Origin::Shard(home) })
    }

    /// First interest in a track that is above: one SUBSCRIBE for everybody on this node.
    pub(super) fn start_from_above(
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
    fn feed_from(&mut self, id: TrackId, session: SessionId, now: Instant) {
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
    pub(super) fn feed_answered(&mut self, id: TrackId) {
        if let Some(feed) = self.mesh.feeds.get_mut(&id) {
            feed.orphan_since = None;
            feed.attempts = 0;
            feed.retry_at = None;
        }
    }

    /// A relay above refused a subscription. True when the track lives on: it is asked for again.
    pub(super) fn feed_refused(
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
        if track.state == State::Pending {
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
    pub(super) fn feed_done(
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
    fn orphan(&mut self, id: TrackId, session: SessionId, request: RequestId, now: Instant) {
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
    pub(super) fn feed_takes(
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
    pub(super) fn settle_leaving(&mut self, id: TrackId, now: Instant) {
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

    fn finish_leaving(
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
    fn let_go(
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

    fn tell_if_left(&mut self, session: SessionId) {
        let Some(above) = self.mesh.sessions.get(&session) else { return };
        let feeding = self
            .sessions
            .get(session.0)
            .and_then(|state| state.publisher.as_ref())
            .is_some_and(|publisher| !publisher.upstreams.is_empty());
        if above.leaving && !feeding {
            self.events.push_back(Event::UpstreamLeft { session });
        }
    }

    // Ends.

    /// A track is freed or ended here: nothing of it is wanted from above any more.
    pub(super) fn drop_feed(&mut self, id: TrackId) {
        let Some(feed) = self.mesh.feeds.remove(&id) else { return };
        if let Some((session, request, _)) = feed.leaving {
            self.let_go(id, session, request, None);
            self.tell_if_left(session);
        }
    }

    /// A session with a relay above is gone: its tracks wait for the next one, their viewers stay.
    /// False when this is no such session.
    pub(super) fn upstream_gone(&mut self, session: SessionId, now: Instant) -> bool {
        if self.mesh.sessions.remove(&session).is_none() {
            return false;
        }
        self.metrics.sessions_above = self.mesh.sessions.len() as u64;
        if self.mesh.active == Some(session) {
            self.mesh.active = None;
        }
        let feeds: Vec<TrackId> = self.mesh.feeds.keys().copied().collect();
        for id in feeds {
            let Some(feed) = self.mesh.feeds.get_mut(&id) else { continue };
            if let Some((held, request, _)) = feed.leaving
                && held == session
            {
                feed.leaving = None;
                self.let_go(id, session, request, Some(now));
            }
            let source = self.tracks.get(id.0).map(|track| track.source);
            if let Some(Source::Upstream { session: held, request }) = source
                && held == session
            {
                self.orphan(id, session, request, now);
                // The next session asks at once; a retry is for refusals.
                if let Some(feed) = self.mesh.feeds.get_mut(&id) {
                    feed.retry_at = None;
                }
            }
        }
        if let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) {
            publisher.inbound.clear();
        }
        self.schedule_mesh();
        true
    }

    /// Deadlines of the mesh: tracks asked for again, given up, or done moving.
    pub(super) fn mesh_timeout(&mut self, now: Instant) {
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
    fn schedule_mesh(&mut self) {
        let (hold, wait) = (self.limits.upstream_hold, self.limits.upstream_wait);
        let tracks = &self.tracks;
        let feeds = self.mesh.feeds.iter().filter_map(|(id, feed)| {
            let pending = tracks.get(id.0).is_some_and(|track| track.state == State::Pending);
            feed.due(if pending { wait } else { hold })
        });
        let due = feeds.chain(self.mesh.absent.values().copied()).min();
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

    // Nodes below.

    /// A peer says it is a relay of ours: its key decides.
    pub(super) fn admit_node(
        &mut self,
        session: SessionId,
        key: &Secret,
        node: String,
        now: Instant,
    ) {
        let known = self.node_keys.verify(key.expose());
        let Some(state) = self.live(session) else { return };
        let Some(hash) = known else {
            self.metrics.nodes_refused += 1;
            let reason = "auth_failed: node key".to_owned();
            return self.close(session, SessionCode::Unauthorized, reason, now);
        };
        state.node = Some(hash);
        state.moqt.allow_requests(REQUESTS_MAX);
        self.events.push_back(Event::NodeAdmitted { session, node });
    }

    /// Subscriptions one session may hold.
    pub(super) fn subscriptions_max(&self, session: SessionId) -> usize {
        match self.sessions.get(session.0) {
            Some(Session { node: Some(_), .. }) => self.limits.subscriptions_per_node_max,
            _ => self.limits.subscriptions_per_session_max,
        }
    }

    /// Replaces the node keys. Sessions of nodes whose key is no longer good are ended.
    pub fn set_node_keys(&mut self, keys: crate::NodeKeys, now: Instant) {
        self.node_keys = keys;
        let ids: Vec<u64> = self.sessions.keys().collect();
        for id in ids {
            let Some(hash) = self.sessions.get(id).and_then(|session| session.node) else {
                continue;
            };
            if !self.node_keys.upholds(&hash) {
                self.metrics.nodes_refused += 1;
                let reason = "auth_failed: node key withdrawn".to_owned();
                self.close(SessionId(id), SessionCode::Unauthorized, reason, now);
            }
        }
    }

    // Beacons.

    /// Takes what belongs to beacons, and GOAWAY, out of the events of a session with a relay
    /// above; hands back the rest.
    pub(super) fn divert(&mut self, session: SessionId, event: Moqt, now: Instant) -> Option<Moqt> {
        let Some(above) = self.mesh.sessions.get_mut(&session) else { return Some(event) };
        match event {
            Moqt::GoAway { request: None, uri, timeout_ms } => {
                self.events.push_back(Event::UpstreamGoAway { session, uri, timeout_ms });
            }
            Moqt::SubgroupOpened { stream, request, .. } if above.beacon(request).is_some() => {
                if let Some(beacon) = above.beacon(request)
                    && above.streams.len() < BEACON_STREAMS_MAX
                {
                    above.streams.push((stream, beacon, BytesMut::new()));
                }
            }
            Moqt::RequestError { request, kind: RequestKind::Subscribe, error }
                if above.beacon(request).is_some() =>
            {
                let reason = format!("upstream is no relay of ours: {}", error.reason);
                self.close(session, SessionCode::Unauthorized, reason, now);
            }
            Moqt::SubscribeOk { request, .. } | Moqt::PublishDone { request, .. }
                if above.beacon(request).is_some() => {}
            Moqt::ObjectStarted { stream, .. } if above.reads(stream) => {
                above.streams.iter_mut().filter(|s| s.0 == stream).for_each(|s| s.2.clear());
            }
            Moqt::Payload { stream, data, last } if above.reads(stream) => {
                let (_, beacon, held) =
                    above.streams.iter_mut().find(|(known, ..)| *known == stream)?;
                if held.len() + data.len() > BEACON_BYTES_MAX {
                    let reason = "upstream beacon too large".to_owned();
                    self.close(session, SessionCode::Internal, reason, now);
                    return None;
                }
                held.extend_from_slice(&data);
                if last {
                    let (beacon, payload): (Beacon, Bytes) = (*beacon, held.split().freeze());
                    self.events.push_back(Event::Beacon { session, beacon, payload });
                }
            }
            Moqt::DataEnded { stream } | Moqt::DataReset { stream, .. } if above.reads(stream) => {
                above.streams.retain(|(known, ..)| *known != stream);
            }
            other => return Some(other),
        }
        None
    }
}

impl Above {
    fn beacon(&self, request: RequestId) -> Option<Beacon> {
        self.requests.iter().find(|(known, _)| *known == request).map(|(_, beacon)| *beacon)
    }

    fn reads(&self, stream: StreamId) -> bool {
        self.streams.iter().any(|(known, ..)| *known == stream)
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
