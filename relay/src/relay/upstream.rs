//! Relays above this one: the sessions that we dialled, which of them tracks are taken from, and who
//! holds a namespace that nobody here does. Which relay is used and when to try again is the engine's
//! decision; what becomes of each track is [`feeds`]' affair, what relays tell each other [`beacons`]'.

mod beacons;
mod discovery;
mod feeds;

use std::collections::BTreeMap;
use std::time::Instant;

use aws_lc_rs::hmac;
use bytes::BytesMut;
use weir_moqt::{Filter, Params, RequestId, Role, SetupOptions};

use super::Relay;
use crate::session::{Publisher, Session};
use crate::track::Source;
use crate::{
    Carrier, Draft, Event, FullTrackName, Namespace, Origin, Secret, SessionId, StreamId, TrackId,
};

pub use beacons::Beacon;
use discovery::Discovery;
use feeds::Feed;

/// Requests open towards one relay above, of all tracks: `tracks_max` and two beacons.
pub(super) const REQUESTS_MAX: usize = 16_384;

/// Data streams a relay above may hold open: `tracks_max` of two groups each.
const STREAMS_MAX: usize = 16_384;

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
    discovery: Discovery,
    /// Tracks that are not there, and until when that is believed.
    absent: BTreeMap<FullTrackName, Instant>,
    due: Option<Instant>,
}

/// A session with a relay above.
#[derive(Debug, Default)]
struct Above {
    /// Host and port it was dialled at.
    authority: String,
    requests: Vec<(RequestId, Beacon)>,
    streams: Vec<(StreamId, Beacon, BytesMut)>,
    /// Being left; tracks move away.
    leaving: bool,
    /// Perhaps dead: nobody waits for what it still owes.
    doubted: bool,
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
        let authority = params.authority.to_ascii_lowercase();
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
        self.mesh.sessions.insert(id, Above { authority, requests, ..Above::default() });
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
        self.seek_again(session, now);
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

    /// Who holds a namespace: somebody here, or else whoever is above.
    pub(super) fn origin(&self, namespace: &Namespace) -> Option<Origin> {
        if let Some(origin) = self.directory.serving(namespace) {
            return Some(origin);
        }
        let route = self.mesh.route.as_ref()?;
        let home = route.home(namespace);
        Some(if home == self.shard { Origin::Above } else { Origin::Shard(home) })
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
}
