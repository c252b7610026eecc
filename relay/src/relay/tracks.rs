//! The life of namespaces and tracks: opened, written, exported, ended, freed. It owns who is told
//! of what; how an object reaches a subscriber is `fanout`'s affair.

use std::time::Instant;

use weir_moqt::{RequestCode, RequestError, ResetCode};

use super::export::exported_object;
use super::{Relay, Timer};
use crate::cache::{Cache, Evicted, Group, Order, Place, Taken};
use crate::directory::Refused;
use crate::track::{Source, State, Track};
use crate::{
    DoneCode, Event, FullTrackName, Namespace, ObjectError, ObjectIn, Origin, SessionId,
    SubgroupEnd, TrackId, TrackOptions,
};

impl Relay {
    /// A local feed holds `namespace` from now on. False when somebody else holds it or the
    /// directory is full.
    pub fn publish(&mut self, namespace: &Namespace) -> bool {
        self.hold_namespace(namespace, Origin::Local).is_ok()
    }

    /// Shard `shard` holds `namespace`. False as for [`Relay::publish`].
    pub fn publish_remote(&mut self, namespace: &Namespace, shard: u16) -> bool {
        self.hold_namespace(namespace, Origin::Shard(shard)).is_ok()
    }

    /// The broadcast is over, whoever held it: its tracks end with TRACK_ENDED, subscribers get
    /// PUBLISH_DONE. Final: a reconnect window is the engine's affair.
    pub fn unpublish(&mut self, namespace: &Namespace, now: Instant) {
        let Some(holder) = self.directory.remove(namespace) else { return };
        self.metrics.namespaces = self.directory.len() as u64;
        self.tell_watchers(namespace, false);
        for track in self.tracks_under(namespace) {
            if self.loses_its_namespace(track, namespace, holder) {
                self.drop_upstream(track);
                self.end(track, DoneCode::TrackEnded, now);
            }
        }
    }

    /// Whether a track came by way of `namespace`, which `holder` holds no longer: it is one of its own, or lies below
    /// and its source holds nothing else above it.
    fn loses_its_namespace(&self, id: TrackId, namespace: &Namespace, holder: Origin) -> bool {
        let Some(track) = self.tracks.get(id.0) else { return false };
        if track.name.namespace() == namespace {
            return true;
        }
        let from_holder = match (track.source, holder) {
            (Source::Local, Origin::Local) => true,
            (Source::Shard(from), Origin::Shard(shard)) => from == shard,
            (Source::Upstream { session: from, .. }, Origin::Session(session)) => from == session,
            _ => false,
        };
        from_holder && self.directory.serving(track.name.namespace()) != Some(holder)
    }

    /// Opens a track, or replaces one of the same name, which ends.
    ///
    /// With `replica`, the track must be wanted here ([`Event::TrackWanted`]); write what the owner
    /// has cached, then call [`Relay::track_ready`]. An engine that cannot tell where the replay
    /// ends need not: those who wait are served at the first [`Relay::poll_dirty`] that finds a
    /// newest group with its head, and at the latest after `replay_timeout`. `None` at `tracks_max`,
    /// and for a replica that nobody wants any more.
    pub fn open_track(
        &mut self,
        name: FullTrackName,
        options: TrackOptions,
        now: Instant,
    ) -> Option<TrackId> {
        let known = self.names.get(&name).copied();
        if options.replica {
            let track = self.tracks.get_mut(known?.0)?;
            track.priority = options.priority;
            if track.state == State::Pending && track.linger_until.is_none() {
                let until = now + self.limits.replay_timeout;
                track.linger_until = Some(until);
                self.timers.insert((until, Timer::Track(known?)));
                self.filling.push((known?, now));
            }
            return known;
        }
        if let Some(known) = known {
            self.drop_upstream(known);
            self.end(known, DoneCode::TrackEnded, now);
        }
        let id = self.add_track(name, Source::Local, Order::Strict)?;
        let track = self.tracks.get_mut(id.0)?;
        track.state = State::Open;
        track.priority = options.priority;
        self.bring_forward(id, now);
        Some(id)
    }

    /// A replica holds what its owner had: those who wait for it are served now.
    pub fn track_ready(&mut self, track: TrackId, now: Instant) {
        self.filling.retain(|(filling, _)| *filling != track);
        let Some(state) = self.tracks.get_mut(track.0) else { return };
        if state.state == State::Pending {
            state.state = State::Open;
            if let Some(until) = state.linger_until.take() {
                self.timers.remove(&(until, Timer::Track(track)));
            }
            self.serve_waiting(track, now);
        }
    }

    /// Objects of a replica were lost on the way here: its unfinished groups stay unfinished, and their streams are
    /// reset and not ended as if they were whole.
    pub fn abort_groups(&mut self, track: TrackId) {
        let Some(track) = self.tracks.get_mut(track.0) else { return };
        let before = track.cache.bytes();
        track.cache.abort_all(ResetCode::Cancelled);
        count_bytes(&mut self.metrics, before, track.cache.bytes());
        for session in &track.subscribers {
            self.dirty.mark(*session);
        }
    }

    /// Serves those who wait for replicas whose newest group is there from its head.
    pub(super) fn serve_filled(&mut self) {
        for (track, opened) in self.filling.clone() {
            let newest = self.tracks.get(track.0).map(|track| track.cache.newest());
            match newest {
                Some(Some(group)) if group.known_from == 0 => self.track_ready(track, opened),
                Some(_) => {}
                None => self.filling.retain(|(filling, _)| *filling != track),
            }
        }
    }

    /// Takes an object into the track's cache and marks its subscribers dirty. On an error the
    /// cache is as it was.
    pub fn write_object(&mut self, track: TrackId, object: ObjectIn) -> Result<(), ObjectError> {
        self.take_object(track, object).map(|_| ())
    }

    pub(super) fn take_object(
        &mut self,
        id: TrackId,
        object: ObjectIn,
    ) -> Result<Taken, ObjectError> {
        let Self { tracks, limits, metrics, .. } = self;
        let track = tracks
            .get_mut(id.0)
            .filter(|track| !matches!(track.state, State::Ended(_)))
            .ok_or(ObjectError::UnknownTrack)?;
        let exported = track.exported.then(|| object.clone());
        let (length, now, priority) = (object.payload.len(), object.arrived, object.priority);
        // A feed's next group ends the one before it, which other shards have to be told.
        let growing = track.cache.newest().filter(|group| !group.is_over()).map(|group| group.id);
        let growing = growing.filter(|group| track.exported && *group < object.group);
        let before = track.cache.bytes();
        let taken =
            track.cache.insert(object, limits.object_bytes_max).inspect_err(
                |error| match error {
                    ObjectError::TooLarge => metrics.limit_object_bytes += 1,
                    _ => metrics.objects_malformed += 1,
                },
            )?;
        count_bytes(metrics, before, track.cache.bytes());
        match taken {
            Taken::New => {
                metrics.objects_in += 1;
                metrics.bytes_in += length as u64;
                track.priority = priority;
            }
            Taken::Marker => {}
            Taken::Duplicate => {
                metrics.objects_duplicate += 1;
                return Ok(taken);
            }
            Taken::TooOld => {
                metrics.objects_dropped += 1;
                return Ok(taken);
            }
            Taken::Full => {
                metrics.limit_subgroups += 1;
                metrics.objects_dropped += 1;
                return Ok(taken);
            }
        }
        let ended = growing.and_then(|group| track.cache.group(group));
        let ended: Vec<SubgroupEnd> = ended.into_iter().flat_map(Group::ends).collect();
        self.grown(id, None, now);
        for end in ended {
            self.export(Event::ExportedEnd { track: id, end });
        }
        if let Some(object) = exported {
            self.export(Event::Exported { track: id, object });
        }
        Ok(taken)
    }

    /// The cache of a track has grown: frees what it may not keep and wakes who reads it. An object
    /// that has just become whole goes to the other shards: they get objects in one piece, because
    /// a link is read by all and overrun by the slow, so that half an object there is lost more
    /// often than half an object's time is gained.
    pub(super) fn grown(&mut self, id: TrackId, whole: Option<(Place, u64)>, now: Instant) {
        let Self { tracks, limits, metrics, dirty, .. } = self;
        let Some(track) = tracks.get_mut(id.0) else { return };
        // What the shard has left beside the other tracks bounds this one too.
        let before = track.cache.bytes();
        let others = metrics.cache_bytes.saturating_sub(before as u64) as usize;
        let room = limits.cache_shard_bytes_max.saturating_sub(others);
        let evicted = track.cache.evict(limits, limits.cache_track_bytes_max.min(room), now);
        count_evicted(metrics, evicted);
        count_bytes(metrics, before, track.cache.bytes());
        for session in &track.subscribers {
            dirty.mark(*session);
        }
        if track.exported
            && let Some((place, object)) = whole
            && let Some(group) = track.cache.group(place.group)
            && let Some(object) = group.object(object)
        {
            let object = exported_object(group, group.subgroup(place.subgroup), object);
            self.export(Event::Exported { track: id, object });
        }
    }

    /// A stream of a publisher, or of a replica's owner, came to its end.
    pub(super) fn end_place(
        &mut self,
        id: TrackId,
        place: Place,
        reset: Option<ResetCode>,
        now: Instant,
    ) {
        let Self { tracks, metrics, dirty, .. } = self;
        let Some(track) = tracks.get_mut(id.0) else { return };
        let before = track.cache.bytes();
        match reset {
            None => track.cache.complete(place, now),
            Some(code) => track.cache.abort(place, code),
        }
        count_bytes(metrics, before, track.cache.bytes());
        for session in &track.subscribers {
            dirty.mark(*session);
        }
        if track.exported {
            let Place { group, subgroup, .. } = place;
            let end = SubgroupEnd { group, subgroup, reset };
            self.export(Event::ExportedEnd { track: id, end });
        }
    }

    /// No more objects: subscribers read what is there, then get PUBLISH_DONE with `code`.
    pub fn end_track(&mut self, track: TrackId, code: DoneCode, now: Instant) {
        self.drop_upstream(track);
        self.end(track, code, now);
    }

    /// Another shard does not have the track that was wanted: those waiting are refused.
    pub fn refuse_track(&mut self, name: &FullTrackName, code: RequestCode, now: Instant) {
        if let Some(track) = self.names.get(name).copied() {
            self.refuse(track, &RequestError::new(code, "not_live"), now);
        }
    }

    // Namespaces.

    pub(super) fn hold_namespace(
        &mut self,
        namespace: &Namespace,
        origin: Origin,
    ) -> Result<(), Refused> {
        let new = self
            .directory
            .insert(namespace, origin, self.limits.namespaces_max)
            .inspect_err(|refused| {
                if *refused == Refused::Full {
                    self.metrics.limit_namespaces += 1;
                }
            })?;
        self.metrics.namespaces = self.directory.len() as u64;
        if new {
            self.tell_watchers(namespace, true);
            self.meet_rendezvous_in(namespace);
        }
        Ok(())
    }

    /// NAMESPACE or NAMESPACE_DONE to everybody who asked for a prefix of it.
    pub(super) fn tell_watchers(&mut self, namespace: &Namespace, added: bool) {
        self.tell_listeners(namespace, added);
        for watcher in &self.watchers {
            let Some(suffix) = namespace.strip_prefix(&watcher.prefix) else { continue };
            let Some(state) = self.sessions.get_mut(watcher.session.0) else { continue };
            // An error means that the request is being closed: then nobody listens.
            let _ = if added {
                state.moqt.namespace(watcher.request, &suffix)
            } else {
                state.moqt.namespace_done(watcher.request, &suffix)
            };
            self.dirty.mark(watcher.session);
        }
    }

    /// Tracks of a namespace and of those below it.
    fn tracks_under(&self, namespace: &Namespace) -> Vec<TrackId> {
        let Ok(first) = FullTrackName::new(namespace.clone(), "") else { return Vec::new() };
        self.names
            .range(first..)
            .take_while(|(name, _)| name.namespace().starts_with(namespace))
            .map(|(_, id)| *id)
            .collect()
    }

    pub(super) fn tracks_of(&self, namespace: &Namespace) -> Vec<TrackId> {
        let Ok(first) = FullTrackName::new(namespace.clone(), "") else { return Vec::new() };
        self.names
            .range(first..)
            .take_while(|(name, _)| name.namespace() == namespace)
            .map(|(_, id)| *id)
            .collect()
    }

    // Tracks.

    /// Enters a pending track.
    pub(super) fn add_track(
        &mut self,
        name: FullTrackName,
        source: Source,
        order: Order,
    ) -> Option<TrackId> {
        if self.tracks.len() >= self.limits.tracks_max {
            self.metrics.limit_tracks += 1;
            return None;
        }
        self.last_alias += 1;
        let cache = Cache::new(self.last_alias, order);
        let track = Track::new(name.clone(), self.last_alias, source, cache);
        let id = TrackId(self.tracks.insert(track));
        self.meet_rendezvous(&name);
        self.names.insert(name, id);
        self.metrics.tracks = self.tracks.len() as u64;
        Some(id)
    }

    /// Ends a track: subscribers read on for `linger`, everybody else is told now.
    pub(super) fn end(&mut self, id: TrackId, code: DoneCode, now: Instant) {
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        if matches!(track.state, State::Ended(_)) {
            return;
        }
        if track.state == State::Pending {
            let error = RequestError::new(RequestCode::DoesNotExist, "not_live");
            self.refuse(id, &error, now);
            return;
        }
        track.state = State::Ended(code);
        let before = track.cache.bytes();
        track.cache.complete_all(now);
        count_bytes(&mut self.metrics, before, track.cache.bytes());
        if self.names.get(&track.name) == Some(&id) {
            self.names.remove(&track.name);
        }
        if std::mem::take(&mut track.exported) {
            let name = track.name.clone();
            self.events.push_back(Event::ExportEnded { track: id, name, code });
        }
        if track.is_published() {
            self.events.push_back(Event::TrackWithdrawn { track: track.name.clone() });
        }
        if track.subscribers.is_empty() {
            self.free(id);
            return;
        }
        for session in &track.subscribers {
            self.dirty.mark(*session);
        }
        let until = now + self.limits.linger;
        track.linger_until = Some(until);
        self.timers.insert((until, Timer::Track(id)));
    }

    /// A pending track will not come.
    pub(super) fn refuse(&mut self, id: TrackId, error: &RequestError, now: Instant) {
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        if track.state != State::Pending {
            return;
        }
        let waiting = std::mem::take(&mut track.waiting);
        if std::mem::take(&mut track.exported) {
            let (track, code) = (track.name.clone(), error.code);
            self.events.push_back(Event::TrackRefused { id, track, code });
        }
        self.free(id);
        for waiter in waiting {
            if let Some(state) = self.sessions.get_mut(waiter.session.0) {
                state.waiting.retain(|waiting| waiting.request != waiter.request);
            }
            self.refuse_request(waiter.session, waiter.request, error);
        }
        let _ = now;
    }

    /// Readers of an ended track have had their time.
    pub(super) fn linger_over(&mut self, id: TrackId, now: Instant) {
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        track.linger_until = None;
        let State::Ended(code) = track.state else {
            if let Some(done) = track.upstream_done {
                self.finish_upstream(id, done.code, now);
            } else {
                self.track_ready(id, now);
            }
            return;
        };
        let readers = track.subscribers.clone();
        for session in readers {
            let Some(state) = self.sessions.get_mut(session.0) else { continue };
            let reset = state.draft.reset_code(ResetCode::DeliveryTimeout);
            let Some(subscription) = state.subscriptions.iter().find(|s| s.track == id) else {
                continue;
            };
            let request = subscription.request;
            state.resets.extend(subscription.streams().map(|stream| (stream, reset)));
            self.finish_subscription(session, request, code, now);
        }
        self.free(id);
    }

    /// Frees a track that nobody wants any more, if it is not a local one that is still open.
    pub(super) fn release(&mut self, id: TrackId, now: Instant) {
        let Some(track) = self.tracks.get(id.0) else { return };
        if track.wanted() || self.has_hole_waiters(id) {
            return;
        }
        match (track.source, track.state) {
            (_, State::Ended(_)) => self.free(id),
            // What is offered flows on, to be there for the next viewer.
            (Source::Upstream { .. }, _) if track.offered => {}
            (Source::Local, _) => {}
            (Source::Upstream { .. } | Source::Orphan, _) => {
                self.drop_upstream(id);
                self.free(id);
            }
            (Source::Shard(shard), _) => {
                let track = track.name.clone();
                self.events.push_back(Event::TrackUnwanted { track, shard });
                self.free(id);
            }
        }
        let _ = now;
    }

    fn free(&mut self, id: TrackId) {
        self.drop_feed(id);
        let Some(track) = self.tracks.remove(id.0) else { return };
        if self.names.get(&track.name) == Some(&id) {
            self.names.remove(&track.name);
        }
        if let Some(until) = track.linger_until {
            self.timers.remove(&(until, Timer::Track(id)));
        }
        self.metrics.cache_bytes =
            self.metrics.cache_bytes.saturating_sub(track.cache.bytes() as u64);
        self.metrics.tracks = self.tracks.len() as u64;
    }

    // Subscribers.

    /// PUBLISH_DONE, and the subscription is gone.
    pub(super) fn finish_subscription(
        &mut self,
        session: SessionId,
        request: weir_moqt::RequestId,
        code: DoneCode,
        now: Instant,
    ) {
        let Some(state) = self.sessions.get_mut(session.0) else { return };
        let Some(at) = state.subscriptions.iter().position(|s| s.request == request) else {
            return;
        };
        let subscription = state.subscriptions.remove(at);
        // An error means that the peer ended the subscription in the same moment.
        let _ = state.moqt.publish_done(request, code, Some(subscription.streams), "");
        self.dirty.mark(session);
        self.leave_track(session, subscription.track, subscription.seat, now);
        self.stop_hole(session, request, now);
    }

    /// Takes a session out of a track's list of subscribers.
    pub(super) fn leave_track(
        &mut self,
        session: SessionId,
        id: TrackId,
        seat: usize,
        now: Instant,
    ) {
        self.metrics.subscriptions = self.metrics.subscriptions.saturating_sub(1);
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        let moved = track.remove_subscriber(seat, session);
        let last = track.subscribers.len();
        let track = track.name.clone();
        self.events.push_back(Event::Unsubscribed { session, track });
        if let Some(moved) = moved
            && let Some(state) = self.sessions.get_mut(moved.0)
            && let Some(subscription) =
                state.subscriptions.iter_mut().find(|s| s.track == id && s.seat == last)
        {
            subscription.seat = seat;
        }
        self.release(id, now);
    }

    /// Takes a request out of a pending track's list of waiters.
    pub(super) fn stop_waiting(
        &mut self,
        session: SessionId,
        id: TrackId,
        request: weir_moqt::RequestId,
        now: Instant,
    ) {
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        track.waiting.retain(|waiter| waiter.session != session || waiter.request != request);
        self.release(id, now);
    }
}

/// Keeps the gauge of cached bytes true over a change of one cache.
fn count_bytes(metrics: &mut crate::Metrics, before: usize, after: usize) {
    metrics.cache_bytes = (metrics.cache_bytes + after as u64).saturating_sub(before as u64);
}

fn count_evicted(metrics: &mut crate::Metrics, evicted: Evicted) {
    metrics.groups_evicted += evicted.groups;
    metrics.objects_trimmed += evicted.trimmed;
    metrics.limit_cache_bytes += u64::from(evicted.by_bytes);
}
