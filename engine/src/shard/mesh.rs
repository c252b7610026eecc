//! A shard's place in the mesh: it dials the relays above, hears what they say of themselves, and
//! says the same of us to those below. It joins [`crate::mesh`], which decides, with the endpoint
//! and the relay, which act.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_relay::auth::{REVOCATIONS_MAX, Revocation};
use weir_relay::{
    Beacon, DefaultRoute, Forwarding, ObjectIn, SessionId, TrackId, TrackOptions, UpstreamParams,
};

use super::{Event, Shard};
use crate::mesh::{self, Action, Trust, Uplink, Uplinks, UpstreamUrl, beacon};
use crate::quic::{self, ConnId};

/// A shard's side of the mesh.
pub(super) struct Mesh {
    id: String,
    term: u8,
    uplink: Option<(Uplink, Uplinks)>,
    /// The tracks on which those below hear of us, and the last word on each.
    beacons: [(Beacon, Option<TrackId>, Bytes); 2],
    /// Group of the last word said.
    group: u64,
    /// When the trust in force was issued.
    issued: Option<Duration>,
    /// What was withdrawn by any word so far: a standby engine may not know of it.
    revocations: Vec<Revocation>,
    nodes_below: u64,
}

/// The mesh in a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The relays above, in order of preference.
    pub upstreams: Vec<mesh::Status>,
    /// Times the relay in use changed.
    pub switches: u64,
    /// Hops to the engine; 0 while cut off.
    pub hops: u64,
    /// Tracks that move from one upstream to another, and come from both meanwhile.
    pub tracks_moving: u64,
    /// Relays below admitted since start.
    pub nodes_admitted: u64,
    /// When the trust in force was issued, since the Unix epoch.
    pub trust_issued: Duration,
}

impl Mesh {
    pub(super) fn new(options: mesh::Options, now: Instant) -> Self {
        let uplink = options.uplink.map(|uplink| {
            let uplinks = Uplinks::new(options.id.clone(), &uplink.urls, uplink.seed, now);
            (uplink, uplinks)
        });
        Self {
            id: options.id,
            term: options.term,
            uplink,
            beacons: Beacon::ALL.map(|beacon| (beacon, None, Bytes::new())),
            group: 0,
            issued: None,
            revocations: Vec::new(),
            nodes_below: 0,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.uplink.as_ref().and_then(|(_, uplinks)| uplinks.poll_timeout())
    }

    /// The first group id of a broadcast that begins now.
    pub(super) fn first_group(&self, wall: Duration) -> u64 {
        mesh::first_group(self.term, wall)
    }

    fn uplinks(&mut self) -> Option<&mut Uplinks> {
        self.uplink.as_mut().map(|(_, uplinks)| uplinks)
    }
}

impl Shard {
    /// Opens the beacon tracks and, on an edge, the default route.
    pub(super) fn begin_mesh(&mut self, shards: u16, now: Instant) {
        if let Some((uplink, _)) = &self.mesh.uplink {
            self.relay.set_default_route(DefaultRoute::new(shards, &uplink.route_key));
        }
        for (beacon, track, _) in &mut self.mesh.beacons {
            *track = self.relay.open_track(beacon.track(), TrackOptions::default(), now);
        }
        if self.mesh.uplink.is_none() {
            let path = beacon::encode_path(std::slice::from_ref(&self.mesh.id));
            self.say(Beacon::Path, path, now, Duration::ZERO);
        }
    }

    /// The engine's word on whom to believe, signed: it is in force and goes to those below.
    pub fn set_trust(&mut self, trust: &Trust, sealed: Bytes, now: Instant, wall: Duration) {
        let mut keys = trust.key_set();
        let withdrawn = &mut self.mesh.revocations;
        withdrawn.retain(|it| it.until > wall.as_secs() && !trust.viewers.revocations.contains(it));
        for revocation in &*withdrawn {
            keys.revoke(revocation);
        }
        withdrawn.extend(trust.viewers.revocations.iter().cloned());
        withdrawn.truncate(REVOCATIONS_MAX);
        self.relay.set_keys(keys, now);
        self.relay.set_node_keys(trust.node_keys(), now);
        self.mesh.issued = Some(trust.issued);
        if !sealed.is_empty() {
            self.say(Beacon::Trust, sealed, now, wall);
        }
    }

    /// Answer to [`Event::Resolve`].
    pub fn resolved(
        &mut self,
        url: &UpstreamUrl,
        addresses: &[std::net::SocketAddr],
        now: Instant,
    ) {
        if let Some(uplinks) = self.mesh.uplinks() {
            uplinks.resolved(url, addresses, now);
        }
    }

    pub(super) fn mesh_snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            nodes_admitted: self.mesh.nodes_below,
            trust_issued: self.mesh.issued.unwrap_or_default(),
            hops: 1,
            tracks_moving: self.relay.tracks_moving() as u64,
            ..Snapshot::default()
        };
        if let Some((_, uplinks)) = &self.mesh.uplink {
            snapshot.switches = uplinks.switches();
            snapshot.hops = uplinks.path().len() as u64;
            snapshot.upstreams = uplinks
                .statuses()
                .map(|(mut status, conn)| {
                    if let Some(conn) = conn {
                        status.rtt = self.endpoint.rtt(conn).unwrap_or_default();
                        let traffic = self.endpoint.traffic(conn).unwrap_or_default();
                        (status.received_bytes, status.sent_bytes) = traffic;
                    }
                    status
                })
                .collect();
        }
        snapshot
    }

    /// Does what the mesh wants done.
    pub(super) fn mesh_turn(&mut self, now: Instant, wall: Duration) {
        let carries = self.relay.tracks_from_above() > 0;
        if let Some(uplinks) = self.mesh.uplinks() {
            uplinks.set_carries(carries);
        }
        loop {
            let Some(action) = self.mesh.uplinks().and_then(|uplinks| uplinks.poll_action(now))
            else {
                return;
            };
            self.act(action, now, wall);
        }
    }

    fn act(&mut self, action: Action, now: Instant, wall: Duration) {
        match action {
            Action::Dial { slot, to, host } => {
                let Some((uplink, uplinks)) = &mut self.mesh.uplink else { return };
                let config = (*uplink.client).clone();
                match self.endpoint.connect(config, to, &host, now) {
                    Ok(conn) => uplinks.dialled(slot, conn),
                    Err(error) => {
                        tracing::warn!(%error, %to, "cannot dial the upstream");
                        uplinks.failed(slot, now);
                    }
                }
            }
            Action::Resolve(url) => self.events.push_back(Event::Resolve(url)),
            Action::Use(session) => self.relay.use_upstream(session, now),
            Action::Probe { conn } => {
                let rtt = self.endpoint.rtt(conn).unwrap_or_default();
                if let Some(acks) = self.endpoint.probe(conn)
                    && let Some(uplinks) = self.mesh.uplinks()
                {
                    uplinks.probed(conn, acks, rtt, now);
                }
            }
            Action::Doubt { session, doubted } => self.relay.doubt_upstream(session, doubted, now),
            Action::Close { conn, reason } => {
                if let Some(mut link) = self.endpoint.link(conn, now) {
                    let code = weir_moqt::SessionCode::NoError.wire();
                    weir_relay::Transport::close(&mut link, code, reason);
                }
                self.uplink_closed(conn, reason, now);
            }
            Action::Tell => {
                let path = self.mesh.uplinks().map(|uplinks| uplinks.path()).unwrap_or_default();
                self.say(Beacon::Path, beacon::encode_path(&path), now, wall);
            }
        }
    }

    /// An event of a connection that we dialled; true when it was one.
    pub(super) fn uplink_event(&mut self, conn: ConnId, event: &quic::Event, now: Instant) -> bool {
        let Some((uplink, uplinks)) = &mut self.mesh.uplink else { return false };
        let Some(slot) = uplinks.slot_of(conn) else { return false };
        match event {
            quic::Event::Opened { draft, transport, peer, .. } => {
                let authority = uplinks.url(slot).map(UpstreamUrl::authority).unwrap_or_default();
                let path = uplink.key.path(&self.mesh.id);
                let params = UpstreamParams { draft: *draft, path, authority };
                let Some(session) = self.relay.open_upstream(params, now) else {
                    uplinks.failed(slot, now);
                    return true;
                };
                uplinks.opened(slot, session, now);
                let (draft, transport, peer) = (*draft, *transport, *peer);
                self.remember(conn, session);
                self.events.push_back(Event::SessionOpened { session, peer, draft, transport });
                true
            }
            quic::Event::Closed { reason, .. } => {
                let reason = reason.clone();
                self.uplink_closed(conn, &reason, now);
                true
            }
            _ => false,
        }
    }

    fn uplink_closed(&mut self, conn: ConnId, reason: &str, now: Instant) {
        if let Some(uplinks) = self.mesh.uplinks()
            && let Some(slot) = uplinks.slot_of(conn)
        {
            let upstream = uplinks.url(slot).map(UpstreamUrl::authority).unwrap_or_default();
            tracing::warn!(upstream, reason, "upstream lost");
            uplinks.closed(slot, now);
        }
        if let Some(session) = self.session_of(conn) {
            self.relay.close_session(session, now);
            self.forget(conn, session);
        }
    }

    /// What the relay reports of the mesh; true when it was that.
    pub(super) fn mesh_event(
        &mut self,
        event: &weir_relay::Event,
        now: Instant,
        wall: Duration,
    ) -> bool {
        use weir_relay::Event as E;
        match event {
            E::NodeAdmitted { session, node } => self.node_admitted(*session, node, now),
            E::Beacon { session, beacon: Beacon::Path, payload } => {
                let path = beacon::decode_path(payload);
                if let Some(uplinks) = self.mesh.uplinks() {
                    uplinks.path_heard(*session, path);
                }
            }
            E::Beacon { session, beacon: Beacon::Trust, payload } => {
                self.trust_heard(*session, payload, now, wall);
            }
            E::UpstreamGoAway { session, uri, .. } => {
                tracing::info!(%session, uri, "upstream says GOAWAY");
                if let Some(uplinks) = self.mesh.uplinks() {
                    uplinks.goaway(*session, uri, now);
                }
            }
            E::UpstreamLeft { session } => {
                if let Some(uplinks) = self.mesh.uplinks() {
                    uplinks.left(*session);
                }
            }
            // A newcomer starts behind what was said last: say it again.
            E::Subscribed { track, .. } if track.is_session_local() => {
                for (beacon, _, word) in self.mesh.beacons.clone() {
                    if beacon.track() == *track && !word.is_empty() {
                        self.say(beacon, word, now, wall);
                    }
                }
            }
            // The relay itself ended a session that we dialled.
            E::SessionClosed { session, reason, .. } => {
                if let Some(conn) = self.sessions.get(session).copied()
                    && let Some(uplinks) = self.mesh.uplinks()
                    && let Some(slot) = uplinks.slot_of(conn)
                {
                    let upstream =
                        uplinks.url(slot).map(UpstreamUrl::authority).unwrap_or_default();
                    tracing::warn!(upstream, reason, "upstream given up");
                    uplinks.closed(slot, now);
                }
                return false;
            }
            _ => return false,
        }
        true
    }

    fn node_admitted(&mut self, session: SessionId, node: &str, now: Instant) {
        if !mesh::is_node_id(node) {
            self.relay.kick(session, "node id missing or strange", now);
            return;
        }
        if node == self.mesh.id {
            tracing::error!(node, "loop refused: a node with our own id wants to be below us");
            self.relay.kick(session, &format!("loop: {node} is this node's own id"), now);
            return;
        }
        self.mesh.nodes_below += 1;
        if let Some(conn) = self.sessions.get(&session).copied() {
            self.endpoint.trust_node(conn);
        }
        tracing::info!(%session, node, "node admitted");
    }

    fn trust_heard(&mut self, session: SessionId, sealed: &Bytes, now: Instant, wall: Duration) {
        let Some((uplink, uplinks)) = &mut self.mesh.uplink else { return };
        match Trust::open(uplink.key.engine(), sealed) {
            Ok(trust) => {
                uplinks.trust_heard(session);
                // Several relays above pass on the same word, perhaps one of them late.
                if self.mesh.issued.is_none_or(|issued| trust.issued > issued) {
                    self.set_trust(&trust, sealed.clone(), now, wall);
                }
            }
            Err(error) => {
                tracing::error!(%error, %session, "upstream refused");
                uplinks.trust_refused(session);
            }
        }
    }

    /// Says something on a beacon track, as a group of its own.
    fn say(&mut self, beacon: Beacon, word: Bytes, now: Instant, wall: Duration) {
        self.mesh.group = (self.mesh.group + 1).max(wall.as_millis() as u64);
        let group = self.mesh.group;
        let Some((_, track, held)) = self.mesh.beacons.iter_mut().find(|held| held.0 == beacon)
        else {
            return;
        };
        held.clone_from(&word);
        let object = ObjectIn {
            group,
            subgroup: 0,
            object: 0,
            priority: 0,
            properties: Bytes::new(),
            payload: word,
            end_of_group: true,
            arrived: now,
            forwarding: Forwarding::default(),
        };
        if let Some(track) = track {
            // Refused only when the track is full of larger groups, which it is not.
            let _ = self.relay.write_object(*track, object);
        }
    }
}
