//! What there is above: a broadcast that somebody here watches by a prefix is asked for of the relay above, once for
//! everybody on this shard, and what it tells of namespaces and tracks is told here too. It owns what was heard; a
//! track that is offered here is subscribed to like one that a viewer named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use weir_moqt::{Event as Moqt, Feature, Params, RequestCode, RequestError, RequestId};

use super::super::Relay;
use super::super::grants::root;
use crate::{FullTrackName, Namespace, SessionId, TrackId};

/// What was asked, and heard.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    /// Broadcasts that somebody here watches, and our requests for each at the relay above in use.
    asked: BTreeMap<Namespace, Vec<RequestId>>,
    session: Option<SessionId>,
    namespaces: BTreeSet<Namespace>,
    /// Of these the relay above now in use has not spoken yet, and until when that is waited for.
    unconfirmed: BTreeSet<Namespace>,
    pub(super) due: Option<Instant>,
    tracks: BTreeSet<FullTrackName>,
}

impl Discovery {
    fn prefix(&self, session: SessionId, request: RequestId) -> Option<&Namespace> {
        let asked = self.asked.iter().filter(|_| self.session == Some(session));
        asked
            .into_iter()
            .find(|(_, requests)| requests.contains(&request))
            .map(|(prefix, _)| prefix)
    }

    fn covers(&self, session: SessionId, name: &FullTrackName) -> bool {
        self.session == Some(session) && self.asked.contains_key(&root(name.namespace()))
    }
}

impl Relay {
    /// Somebody here watches this prefix.
    pub(in crate::relay) fn seek_above(&mut self, prefix: &Namespace) {
        let prefix = root(prefix);
        let discovery = &mut self.mesh.discovery;
        if self.mesh.route.is_none() || discovery.asked.contains_key(&prefix) {
            return;
        }
        if discovery.asked.len() >= self.limits.namespaces_max {
            self.metrics.limit_namespaces += 1;
            return;
        }
        discovery.asked.insert(prefix.clone(), Vec::new());
        if let Some(active) = self.mesh.active {
            self.mesh.discovery.session = Some(active);
            self.ask_above(active, &prefix);
        }
    }

    fn ask_above(&mut self, session: SessionId, prefix: &Namespace) {
        let Some(state) = self.live(session) else { return };
        let mut requests = Vec::new();
        requests.extend(state.moqt.subscribe_namespace(prefix, Params::default()));
        if state.moqt.supports(Feature::SubscribeTracks) {
            // Names are all that is taken of an offer.
            let silent = Params { forward: Some(false), ..Params::default() };
            requests.extend(state.moqt.subscribe_tracks(prefix, silent));
        }
        self.mesh.discovery.asked.insert(prefix.clone(), requests);
        self.dirty.mark(session);
    }

    /// Somebody here watches no more: what nobody watches is not asked for any longer.
    pub(in crate::relay) fn unseek_above(&mut self) {
        if self.mesh.discovery.asked.is_empty() {
            return;
        }
        let watched: BTreeSet<Namespace> = self
            .watchers
            .iter()
            .chain(&self.seekers)
            .map(|watcher| &watcher.prefix)
            .chain(self.listened_for())
            .map(root)
            .collect();
        let discovery = &mut self.mesh.discovery;
        let session = discovery.session;
        let gone: Vec<_> =
            discovery.asked.extract_if(.., |prefix, _| !watched.contains(prefix)).collect();
        for (prefix, requests) in gone {
            let discovery = &mut self.mesh.discovery;
            discovery.namespaces.retain(|namespace| !namespace.starts_with(&prefix));
            discovery.unconfirmed.retain(|namespace| !namespace.starts_with(&prefix));
            discovery.tracks.retain(|name| !name.namespace().starts_with(&prefix));
            if let Some((session, state)) = session.and_then(|it| Some((it, self.live(it)?))) {
                for request in requests {
                    state.moqt.cancel(request);
                }
                self.dirty.mark(session);
            }
        }
    }

    /// Another relay above is in use: it is asked the same. What only the one before it knew is forgotten if it has
    /// not confirmed it by then.
    pub(super) fn seek_again(&mut self, session: SessionId, now: Instant) {
        let until = now + self.limits.upstream_grace;
        let discovery = &mut self.mesh.discovery;
        discovery.unconfirmed = discovery.namespaces.clone();
        discovery.due = (!discovery.unconfirmed.is_empty()).then_some(until);
        let before = discovery.session.replace(session);
        let asked = discovery.asked.clone();
        for (prefix, requests) in asked {
            if let Some((before, state)) = before.and_then(|it| Some((it, self.live(it)?))) {
                for request in requests {
                    state.moqt.cancel(request);
                }
                self.dirty.mark(before);
            }
            self.ask_above(session, &prefix);
        }
    }

    /// What the relay above in use has not confirmed is gone.
    pub(super) fn discovery_timeout(&mut self, now: Instant) {
        if self.mesh.discovery.due.is_some_and(|due| due <= now) {
            self.mesh.discovery.due = None;
            for namespace in std::mem::take(&mut self.mesh.discovery.unconfirmed) {
                self.namespace_gone(&namespace);
            }
        }
    }

    /// Takes what belongs here out of the events of a session with a relay above; hands back the rest.
    pub(super) fn discovered(
        &mut self,
        session: SessionId,
        event: Moqt,
        now: Instant,
    ) -> Option<Moqt> {
        let discovery = &self.mesh.discovery;
        match event {
            Moqt::Namespace { request, ref suffix } => {
                let namespace = discovery.prefix(session, request)?.join(suffix).ok()?;
                self.namespace_heard(&namespace);
            }
            Moqt::NamespaceDone { request, ref suffix } => {
                let namespace = discovery.prefix(session, request)?.join(suffix).ok()?;
                self.namespace_gone(&namespace);
            }
            Moqt::Publish { request, ref track, .. } if discovery.covers(session, track) => {
                let error = RequestError::new(RequestCode::Uninterested, "the name is enough");
                let state = self.live(session)?;
                // An error means that the relay above took its offer back in the same moment.
                let _ = state.moqt.reject(request, &error);
                self.dirty.mark(session);
                self.track_heard(track, now);
            }
            Moqt::PublishBlocked { request, ref suffix, ref name } => {
                let namespace = discovery.prefix(session, request)?.join(suffix).ok()?;
                self.track_heard(&FullTrackName::new(namespace, name.clone()).ok()?, now);
            }
            Moqt::RequestError { request, .. } | Moqt::Revoked { request, .. }
                if discovery.prefix(session, request).is_some() =>
            {
                // It says nothing of this; the next relay above is asked again.
                for requests in self.mesh.discovery.asked.values_mut() {
                    requests.retain(|known| *known != request);
                }
            }
            other => return Some(other),
        }
        None
    }

    fn namespace_heard(&mut self, namespace: &Namespace) {
        let most = self.limits.namespaces_max;
        let discovery = &mut self.mesh.discovery;
        discovery.unconfirmed.remove(namespace);
        if discovery.namespaces.len() >= most {
            self.metrics.limit_namespaces += 1;
        } else if discovery.namespaces.insert(namespace.clone())
            && self.directory.origin(namespace).is_none()
        {
            self.tell_watchers(namespace, true);
        }
    }

    fn namespace_gone(&mut self, namespace: &Namespace) {
        let discovery = &mut self.mesh.discovery;
        discovery.tracks.retain(|name| name.namespace() != namespace);
        if discovery.namespaces.remove(namespace) && self.directory.origin(namespace).is_none() {
            self.tell_watchers(namespace, false);
        }
    }

    fn track_heard(&mut self, name: &FullTrackName, now: Instant) {
        let tracks = &mut self.mesh.discovery.tracks;
        if tracks.len() >= self.limits.tracks_max && !tracks.contains(name) {
            self.metrics.limit_tracks += 1;
            return;
        }
        // One that is known may have ended and come again.
        tracks.insert(name.clone());
        self.tell_seekers(name, now);
    }

    /// Namespaces above under a prefix, as far as they were asked for.
    pub(in crate::relay) fn namespaces_above(&self, prefix: &Namespace) -> Vec<Namespace> {
        let above = self.mesh.discovery.namespaces.iter();
        let news = above.filter(|it| it.starts_with(prefix) && self.directory.origin(it).is_none());
        news.cloned().collect()
    }

    /// Tracks above under a prefix, likewise.
    pub(in crate::relay) fn tracks_above(&self, prefix: &Namespace) -> Vec<FullTrackName> {
        let above = self.mesh.discovery.tracks.iter();
        above.filter(|name| name.namespace().starts_with(prefix)).cloned().collect()
    }

    /// Whether tracks of this node come from relays above.
    pub(in crate::relay) fn is_edge(&self) -> bool {
        self.mesh.route.is_some()
    }

    /// Asks for a track that was offered above, as for one that a viewer named.
    pub(in crate::relay) fn want_from_above(
        &mut self,
        name: &FullTrackName,
        now: Instant,
    ) -> Option<TrackId> {
        if !self.mesh.discovery.tracks.contains(name) {
            return None;
        }
        match self.origin(name.namespace())? {
            crate::Origin::Above => self.start_from_above(name, now),
            crate::Origin::Shard(shard) => self.want_from_shard(name, shard),
            _ => None,
        }
    }
}
