//! The relay of one shard: the public face that ties sessions, directory, tracks and fan-out
//! together. It owns them all; it knows neither sockets nor clocks nor media. Requests of viewers
//! are in `request`, sessions that publish in `publisher`, their objects in `inbound`, the life of tracks in `tracks`.

mod announce;
mod answers;
mod contribution;
mod downstream;
mod drain;
mod export;
mod fetches;
mod fill;
mod grants;
pub(crate) mod holes;
mod inbound;
mod load;
mod nodes;
mod offers;
mod open;
mod prefixes;
mod publisher;
mod redirects;
mod rendezvous;
mod request;
mod tracks;
mod updates;
mod upstream;
mod wishes;

pub(crate) use offers::Offer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::{RequestId, Role, SessionError, SetupOptions};

use crate::admission::Admission;
use crate::arena::{self, Arena};
use crate::directory::Directory;
use crate::fanout::{Pump, Subscription, fetch_priority};
use crate::fetch;
use crate::path::Resource;
use crate::session::{Close, Publisher, Session};
use crate::track::{State, Track};
use crate::{
    Dir, DoneCode, DropReason, Event, FullTrackName, KeySet, Limits, Metrics, Namespace, NodeKeys,
    RefuseReason, Secret, SessionCode, SessionId, SessionParams, StreamId, TrackId, Transport,
};
pub use upstream::{Beacon, DefaultRoute, UpstreamParams};

/// All MoQT sessions and tracks of one shard. See the crate documentation for how to drive it.
#[derive(Debug)]
pub struct Relay {
    limits: Limits,
    metrics: Metrics,
    shard: u16,
    keys: KeySet,
    admission: Admission,
    node_keys: NodeKeys,
    mesh: upstream::Mesh,
    sessions: Arena<Session>,
    tracks: Arena<Track>,
    /// Tracks that may be subscribed to, by name: pending and open ones.
    names: BTreeMap<FullTrackName, TrackId>,
    directory: Directory,
    open: open::OpenTrees,
    redirects: redirects::Redirects,
    /// SUBSCRIBEs that wait for a publisher, and those whose publisher came in this turn.
    early: Vec<rendezvous::Early>,
    met: Vec<rendezvous::Early>,
    /// Our FETCHes to publishers.
    holes: Vec<holes::Hole>,
    /// What they were answered with lately.
    answers: answers::Answers,
    /// Accepted SUBSCRIBE_NAMESPACEs of all sessions, in order of arrival.
    watchers: Vec<Watcher>,
    /// Accepted SUBSCRIBE_TRACKSs, likewise.
    seekers: Vec<Watcher>,
    /// Sessions that are told of the broadcast they came for: `sessions_max` at most.
    listeners: Vec<announce::Listener>,
    /// Tracks that publishers of other shards brought forward, and whose they are.
    elsewhere: BTreeMap<FullTrackName, u16>,
    timers: BTreeSet<(Instant, Timer)>,
    /// Replicas that were opened and still wait for their replay, and since when.
    filling: Vec<(TrackId, Instant)>,
    /// Streams of publishers with a fragment to hand on at the end of the turn.
    growing: Vec<(SessionId, StreamId, Instant)>,
    /// What the shell says of its load, and what the shard's sessions say.
    load: load::Load,
    dirty: Dirty,
    events: VecDeque<Event>,
    last_alias: u64,
    draining: Option<drain::Draining>,
}

/// A session that wants to hear of namespaces, or to be offered tracks.
#[derive(Debug)]
struct Watcher {
    session: SessionId,
    request: RequestId,
    prefix: Namespace,
}

/// What a deadline belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Session(SessionId),
    Track(TrackId),
    /// An early SUBSCRIBE may have waited long enough.
    Rendezvous,
    /// A publisher may have had long enough to answer a FETCH.
    Holes,
    /// Tracks from above.
    Mesh,
}

/// Sessions that want to be driven: each at most once, in the order they were marked.
#[derive(Debug, Default)]
struct Dirty {
    marked: Vec<bool>,
    queue: VecDeque<SessionId>,
}

impl Dirty {
    fn mark(&mut self, session: SessionId) {
        let slot = arena::index(session.0);
        if self.marked.len() <= slot {
            self.marked.resize(slot + 1, false);
        }
        if let Some(marked) = self.marked.get_mut(slot)
            && !*marked
        {
            *marked = true;
            self.queue.push_back(session);
        }
    }

    fn clear(&mut self, session: SessionId) {
        if let Some(marked) = self.marked.get_mut(arena::index(session.0)) {
            *marked = false;
        }
    }

    fn pop(&mut self) -> Option<SessionId> {
        let session = self.queue.pop_front()?;
        self.clear(session);
        Some(session)
    }
}

impl Relay {
    /// An empty relay for shard `shard`.
    pub fn new(limits: Limits, shard: u16) -> Self {
        Self {
            limits,
            metrics: Metrics::default(),
            shard,
            keys: KeySet::new(),
            admission: Admission::default(),
            node_keys: NodeKeys::default(),
            mesh: upstream::Mesh::default(),
            sessions: Arena::default(),
            tracks: Arena::default(),
            names: BTreeMap::new(),
            directory: Directory::default(),
            open: open::OpenTrees::default(),
            redirects: redirects::Redirects::default(),
            early: Vec::new(),
            met: Vec::new(),
            holes: Vec::new(),
            answers: answers::Answers::default(),
            watchers: Vec::new(),
            listeners: Vec::new(),
            seekers: Vec::new(),
            elsewhere: BTreeMap::new(),
            timers: BTreeSet::new(),
            filling: Vec::new(),
            growing: Vec::new(),
            load: load::Load::default(),
            dirty: Dirty::default(),
            events: VecDeque::new(),
            last_alias: 0,
            draining: None,
        }
    }

    /// The shard this relay belongs to.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// Counters so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A connection became a MoQT session. `None` when `sessions_max` is reached.
    pub fn open_session(&mut self, params: SessionParams, now: Instant) -> Option<SessionId> {
        if self.sessions.len() >= self.limits.sessions_max {
            self.metrics.limit_sessions += 1;
            return None;
        }
        let publishes = params
            .path_and_query
            .as_deref()
            .is_some_and(|path| matches!(Resource::parse(path), Resource::Publish { .. }));
        if params.path_and_query.is_some() && !publishes && self.is_overloaded(now) {
            self.metrics.limit_load += 1;
            return None;
        }
        let options = SetupOptions {
            implementation: Some(concat!("weir/", env!("CARGO_PKG_VERSION")).to_owned()),
            ..SetupOptions::default()
        };
        let moqt_limits = weir_moqt::Limits {
            object_bytes: self.limits.object_bytes_max as u64,
            filter_ranges: self.limits.filter_ranges_max,
            ..weir_moqt::Limits::default()
        };
        let SessionParams { draft, transport, path_and_query, .. } = params;
        let moqt = weir_moqt::Session::new(draft, Role::Server, transport, moqt_limits, options);
        let session = Session::new(moqt, now + self.limits.setup_timeout);
        let id = SessionId(self.sessions.insert(session));
        self.metrics.sessions_opened += 1;
        self.metrics.sessions = self.sessions.len() as u64;
        if let Some(path) = path_and_query {
            self.set_resource(id, Resource::parse(&path), now);
        }
        self.reschedule(id);
        self.dirty.mark(id);
        Some(id)
    }

    /// Bytes (and perhaps the end) of a stream, in order.
    #[expect(clippy::too_many_arguments, reason = "one stream event and the two times")]
    pub fn handle_stream(
        &mut self,
        session: SessionId,
        stream: StreamId,
        dir: Dir,
        bytes: Bytes,
        fin: bool,
        now: Instant,
        wall: Duration,
    ) {
        let Some(state) = self.live(session) else { return };
        let outcome = state.moqt.handle_stream(stream, dir, bytes, fin);
        self.after_input(session, outcome, now, wall);
    }

    /// The peer reset its half of a stream.
    pub fn handle_reset(&mut self, session: SessionId, stream: StreamId, code: u32, now: Instant) {
        let Some(state) = self.live(session) else { return };
        let outcome = state.moqt.handle_reset(stream, u64::from(code));
        // A reset brings no request that needs the wall clock.
        self.after_input(session, outcome, now, Duration::ZERO);
    }

    /// The peer sent STOP_SENDING.
    pub fn handle_stop(&mut self, session: SessionId, stream: StreamId, code: u32, now: Instant) {
        let Some(state) = self.live(session) else { return };
        let cancelled = state.draft.reset_code(weir_moqt::ResetCode::Cancelled);
        if state.subscriptions.iter_mut().any(|subscription| subscription.stop(stream)) {
            state.resets.push((stream, cancelled));
            self.metrics.count_drop(DropReason::Stopped);
            self.dirty.mark(session);
            return;
        }
        if let Some(at) = state.fetches.iter().position(|fetch| fetch.stream() == Some(stream)) {
            let fetch = state.fetches.remove(at);
            state.moqt.finish_fetch(fetch.request);
            state.resets.push((stream, cancelled));
            self.dirty.mark(session);
            return;
        }
        let outcome = state.moqt.handle_stop(stream, u64::from(code));
        self.after_input(session, outcome, now, Duration::ZERO);
    }

    /// A datagram of the peer.
    pub fn handle_datagram(
        &mut self,
        session: SessionId,
        datagram: Bytes,
        now: Instant,
        wall: Duration,
    ) {
        let Some(state) = self.live(session) else { return };
        let outcome = state.moqt.handle_datagram(datagram);
        self.after_input(session, outcome, now, wall);
    }

    /// All of a finished stream was acknowledged.
    pub fn handle_acknowledged(&mut self, session: SessionId, stream: StreamId) {
        let Some(state) = self.live(session) else { return };
        if state.subscriptions.iter_mut().any(|subscription| subscription.acknowledged(stream)) {
            self.reschedule(session);
        }
    }

    /// A stream that blocked has room again.
    pub fn handle_writable(&mut self, session: SessionId, stream: StreamId) {
        let Some(state) = self.live(session) else { return };
        state.unblock(stream);
        self.dirty.mark(session);
    }

    /// The peer allows more streams of this direction.
    pub fn handle_streams_available(&mut self, session: SessionId, _dir: Dir) {
        if self.live(session).is_some() {
            self.dirty.mark(session);
        }
    }

    /// The connection is gone; nothing is written to it any more.
    pub fn close_session(&mut self, session: SessionId, now: Instant) {
        if self.live(session).is_some() {
            self.detach(session, now);
        }
        self.forget(session);
    }

    /// Ends a session from our side with `UNAUTHORIZED` and `reason` (revocation by the engine).
    pub fn kick(&mut self, session: SessionId, reason: &str, now: Instant) {
        self.close(session, SessionCode::Unauthorized, reason.to_owned(), now);
    }

    /// The next session that wants [`Relay::drive`].
    pub fn poll_dirty(&mut self) -> Option<SessionId> {
        if !self.growing.is_empty() {
            self.hand_on_growing();
        }
        if !self.filling.is_empty() {
            self.serve_filled();
        }
        self.dirty.pop()
    }

    /// Writes what this session has to send until all is written or blocked.
    pub fn drive(&mut self, session: SessionId, transport: &mut impl Transport, now: Instant) {
        if !self.met.is_empty() {
            self.serve_met(now);
        }
        if !self.write_control(session, transport, now) {
            return;
        }
        let Self { sessions, tracks, limits, metrics, .. } = self;
        let Some(state) = sessions.get_mut(session.0) else { return };
        if !state.subscriptions.is_sorted_by_key(Subscription::rank) {
            state.subscriptions.sort_by_key(Subscription::rank);
        }
        let mut ended: Vec<(RequestId, DoneCode)> = Vec::new();
        let Session { subscriptions, fetches, moqt, draft, .. } = state;
        let draft = *draft;
        // The past goes in one order with what is live: what is written first fills the transport's buffer, and there no
        // priority helps what comes later.
        fetch::sort(fetches);
        for subscription in subscriptions {
            let least = fetch_priority(subscription.priority(), subscription.publisher_priority);
            fetch::pump(fetches, least, moqt, draft, metrics, transport);
            let Some(track) = tracks.get(subscription.track.0) else { continue };
            let cache = &track.cache;
            subscription.pump(&mut Pump { draft, cache, limits, metrics, transport, now });
            match track.state {
                State::Ended(code) if subscription.has_read(cache) => {
                    ended.push((subscription.request, code));
                }
                _ if subscription.is_finished(cache) => {
                    ended.push((subscription.request, DoneCode::SubscriptionEnded));
                }
                _ => {}
            }
        }
        fetch::pump(fetches, i32::MIN, moqt, draft, metrics, transport);
        // A subscription ends after its fill, which its stream count includes.
        ended.retain(|(request, _)| !fetches.iter().any(|fetch| fetch.request == *request));
        ended.retain(|(request, _)| !self.waits_for_fill(session, *request));
        self.note_lossy(session, now);
        for (request, code) in &ended {
            self.finish_subscription(session, *request, *code, now);
        }
        self.reschedule(session);
        // What the pump ended is said in the same turn; also when a slow reader's session ends.
        self.write_control(session, transport, now);
    }

    /// Writes control; false when the session is closed or gone.
    fn write_control(
        &mut self,
        session: SessionId,
        transport: &mut impl Transport,
        now: Instant,
    ) -> bool {
        let Some(state) = self.sessions.get_mut(session.0) else { return false };
        let written = state.write_control(transport, &self.limits);
        for (stream, code) in state.resets.drain(..) {
            transport.reset(stream, code);
        }
        if let Some(written) = written {
            self.metrics.bytes_out += written;
        } else {
            self.metrics.limit_control_bytes += 1;
            let reason = "control messages are not read".to_owned();
            self.close(session, SessionCode::ControlMessageTimeout, reason, now);
        }
        let closing = self.sessions.get_mut(session.0).and_then(|state| state.closing.take());
        if let Some(Close { code, reason }) = closing {
            transport.close(code, &reason);
            self.forget(session);
            return false;
        }
        true
    }

    /// When [`Relay::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Acts on the deadlines that have passed.
    pub fn handle_timeout(&mut self, now: Instant, _wall: Duration) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Session(session) => self.session_timeout(session, now),
                Timer::Track(track) => self.linger_over(track, now),
                Timer::Rendezvous => self.rendezvous_over(now),
                Timer::Holes => self.holes_over(now),
                Timer::Mesh => self.mesh_timeout(now),
            }
        }
    }

    /// The next thing the engine should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // Sessions.

    /// A session that is not being closed.
    fn live(&mut self, session: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(session.0).filter(|state| state.closing.is_none())
    }

    fn after_input(
        &mut self,
        session: SessionId,
        outcome: Result<(), SessionError>,
        now: Instant,
        wall: Duration,
    ) {
        while let Some(event) = self.live(session).and_then(|state| state.moqt.poll_event()) {
            self.on_event(session, event, now, wall);
        }
        if let Some(state) = self.live(session) {
            let refused = state.moqt.counters().ranges_refused;
            let before = std::mem::replace(&mut state.ranges_refused, refused);
            self.metrics.limit_filter_ranges += refused - before;
        }
        if let Err(error) = outcome {
            self.metrics.protocol_violations += 1;
            self.close(session, error.code, error.reason, now);
        }
        self.reschedule(session);
        self.dirty.mark(session);
    }

    /// SETUP arrived: over raw QUIC it brings the path, and it may bring a token.
    fn on_setup(
        &mut self,
        session: SessionId,
        options: &SetupOptions,
        now: Instant,
        wall: Duration,
    ) {
        let Some(state) = self.live(session) else { return };
        state.is_set_up = true;
        if let Some(path) = &options.path {
            self.set_resource(session, Resource::parse(path), now);
        }
        self.refuse_newcomer(session, now);
        let Some(state) = self.live(session) else { return };
        if let Some(token) = options.tokens.first() {
            let cut = token.value.slice(..token.value.len().min(crate::auth::TOKEN_BYTES_MAX + 1));
            state.grants.present(Secret::new(String::from_utf8_lossy(&cut)));
        }
        self.send_goaway(session, now);
        self.ask_for_namespaces(session);
        self.listen_for_broadcast(session, now, wall);
    }

    fn set_resource(&mut self, session: SessionId, resource: Resource, now: Instant) {
        let deadline = now + self.limits.authorize_timeout;
        let Some(state) = self.live(session) else { return };
        match resource {
            Resource::Publish { input_id, key } if state.publisher.is_none() => {
                let address = Namespace::new(["publish", &input_id]).unwrap_or_default();
                let publisher = Publisher { address, ..Publisher::new(now, deadline) };
                state.publisher = Some(publisher);
                self.events.push_back(Event::AuthorizePublish { session, input_id, key });
            }
            Resource::Publish { .. } => {}
            Resource::Mesh { key, node } => self.admit_node(session, &key, node, now),
            Resource::Playback { token, announce } => {
                state.wants_announcement = announce;
                if let Some(token) = token {
                    state.grants.present(token);
                }
            }
            Resource::Other { token } => {
                if let Some(token) = token {
                    state.grants.present(token);
                }
            }
        }
    }

    fn session_timeout(&mut self, session: SessionId, now: Instant) {
        let Self { sessions, metrics, dirty, .. } = self;
        let open = sessions.get_mut(session.0).filter(|state| state.closing.is_none());
        let Some(state) = open else { return };
        state.timer = None;
        for subscription in &mut state.subscriptions {
            for stream in subscription.expire(now) {
                let code = state.draft.reset_code(weir_moqt::ResetCode::DeliveryTimeout);
                state.resets.push((stream, code));
                metrics.count_drop(DropReason::SubgroupTimeout);
                dirty.mark(session);
            }
        }
        let late_setup = !state.is_set_up && state.setup_deadline <= now;
        let answer = state.publisher.as_ref().and_then(Publisher::answer_deadline);
        let unanswered = answer.is_some_and(|deadline| deadline <= now);
        let stayed = state.leave_deadline.is_some_and(|deadline| deadline <= now);
        if late_setup {
            self.metrics.limit_setup_timeout += 1;
            let reason = "no SETUP in time".to_owned();
            self.close(session, SessionCode::ControlMessageTimeout, reason, now);
        } else if stayed {
            self.end_straggler(session, now);
        } else if unanswered {
            self.refuse_publisher(session, RefuseReason::Timeout, now);
        } else {
            self.grants_timeout(session, now);
        }
    }

    /// Puts the session's next deadline into the timer set.
    fn reschedule(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get_mut(session.0) else { return };
        let deadline = state.deadline();
        if state.timer == deadline {
            return;
        }
        if let Some(old) = std::mem::replace(&mut state.timer, deadline) {
            self.timers.remove(&(old, Timer::Session(session)));
        }
        if let Some(deadline) = deadline {
            self.timers.insert((deadline, Timer::Session(session)));
        }
    }

    /// Ends a session from our side: everything it held is let go now, the transport is closed at
    /// the next drive.
    fn close(&mut self, session: SessionId, code: SessionCode, reason: String, now: Instant) {
        if self.live(session).is_none() {
            return;
        }
        self.detach(session, now);
        let code = code.wire();
        if let Some(state) = self.live(session) {
            state.closing = Some(Close { code, reason: reason.clone() });
        }
        self.reschedule(session);
        self.events.push_back(Event::SessionClosed { session, code, reason });
        self.dirty.mark(session);
    }

    /// Lets go of everything a session holds in tracks and directory.
    fn detach(&mut self, session: SessionId, now: Instant) {
        self.watchers.retain(|watcher| watcher.session != session);
        self.seekers.retain(|seeker| seeker.session != session);
        self.forget_listener(session);
        self.unseek_above();
        self.forget_early_of(session);
        self.stop_holes_of(session, now);
        let Some(state) = self.live(session) else { return };
        let subscriptions = std::mem::take(&mut state.subscriptions);
        let waiting = std::mem::take(&mut state.waiting);
        state.fetches.clear();
        state.prefixes.clear();
        state.grants.clear();
        for subscription in subscriptions {
            self.leave_track(session, subscription.track, subscription.seat, now);
        }
        for waiting in waiting {
            self.stop_waiting(session, waiting.track, waiting.request, now);
        }
        // Giving places back cannot be refused.
        let _ = self.settle_places(session);
        self.withdraw_publisher(session, now);
    }

    fn forget(&mut self, session: SessionId) {
        if let Some(state) = self.sessions.remove(session.0) {
            if let Some(timer) = state.timer {
                self.timers.remove(&(timer, Timer::Session(session)));
            }
            self.dirty.clear(session);
            self.metrics.sessions = self.sessions.len() as u64;
        }
    }
}
