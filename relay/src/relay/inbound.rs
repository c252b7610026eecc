//! What a publisher sends: its data streams and datagrams, handed to the track as they arrive, so that
//! the first byte of an object leaves before its last one has come. It owns the reading of each
//! stream and the publisher's rate; who may publish what is `publisher`'s affair.

use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use weir_moqt::data::{
    DEFAULT_PRIORITY, Datagram, ObjectHeader, Status, SubgroupHeader, convert_properties,
};
use weir_moqt::{Draft, Location, RequestId, ResetCode};

use super::Relay;
use crate::cache::{ObjectHead, Place, Started};
use crate::encode::PROPERTIES_DRAFT;
use crate::session::{Inbound, Reading};
use crate::track::{Source, UpstreamDone};
use crate::{
    DoneCode, Forwarding, ObjectError, ObjectIn, SessionCode, SessionId, StreamId, TrackId,
};

/// Allocation for what of an object has not come yet: its fragments share it, and growth follows what
/// really arrives.
const FRAGMENT_BYTES_MAX: usize = 64 * 1024;

/// What came of an object within one turn is handed on once it is this much, or the object's end: a
/// packet's worth, so that a fragment's own 32 bytes stay 3 % whatever the publisher's packets.
const FRAGMENT_BYTES_MIN: usize = 1024;

impl Relay {
    pub(super) fn on_subgroup(
        &mut self,
        session: SessionId,
        stream: StreamId,
        request: RequestId,
        header: SubgroupHeader,
        now: Instant,
    ) {
        let Some(id) = self.upstream(session, request) else { return };
        let takes = self.feed_takes(session, request, id, header.group);
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        if matches!(track.source, Source::Upstream { request: held, .. } if held == request) {
            track.upstream_streams += 1;
        }
        // H28: a publisher whose groups go backwards is not a publisher of this track any more.
        if takes && !track.cache.admits_group(header.group) {
            self.metrics.objects_malformed += 1;
            self.malformed(session, id, now);
            return;
        }
        let inbound = Inbound {
            stream,
            track: id,
            header,
            place: None,
            object: Reading::Nothing,
            ignored: !takes,
        };
        if let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) {
            publisher.inbound.push(inbound);
        }
        self.settle_leaving(id, now);
    }

    pub(super) fn on_object(
        &mut self,
        session: SessionId,
        stream: StreamId,
        object: &ObjectHeader,
        now: Instant,
    ) {
        if !self.count_rate(session, 1, 0, now) {
            return;
        }
        let Some((inbound, draft)) = self.inbound(session, stream) else { return };
        let (id, header) = (inbound.track, inbound.header);
        inbound.object = Reading::Nothing;
        if inbound.ignored {
            self.metrics.objects_dropped += 1;
            return;
        }
        if object.status == Status::EndOfTrack {
            self.on_end_of_track(session, id, Location::new(header.group, object.object), now);
            return;
        }
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        let length = object.payload_len;
        let head = ObjectHead {
            group: header.group,
            subgroup: header.subgroup,
            object: object.object,
            priority: header.priority.or(track.terms.priority).unwrap_or(DEFAULT_PRIORITY),
            holds_end: header.end_of_group,
            first: header.first_object,
            properties: kept_properties(draft, &object.properties),
            length: usize::try_from(length).unwrap_or(usize::MAX),
            status: object.status,
            arrived: now,
        };
        let priority = head.priority;
        let started = track.cache.start(&head, self.limits.object_bytes_max);
        match started {
            Ok(Started::New { serial }) => {
                track.priority = priority;
                let place = Place { group: header.group, subgroup: header.subgroup, serial };
                let whole = length == 0;
                if let Some((inbound, _)) = self.inbound(session, stream) {
                    inbound.place = Some(place);
                    if !whole {
                        let first = (length as usize).min(FRAGMENT_BYTES_MAX);
                        let fragment = BytesMut::with_capacity(first);
                        inbound.object =
                            Reading::Object { id: object.object, left: length, fragment };
                    }
                }
                if whole {
                    self.metrics.objects_in += 1;
                    self.grown(id, Some((place, object.object)), now);
                }
            }
            Ok(Started::Known) => {
                self.metrics.objects_duplicate += 1;
                if let Some((inbound, _)) = self.inbound(session, stream) {
                    inbound.object = Reading::Twin { id: object.object, offset: 0 };
                }
            }
            Ok(Started::TooOld) => self.metrics.objects_dropped += 1,
            Ok(Started::Full) => {
                self.metrics.limit_subgroups += 1;
                self.metrics.objects_dropped += 1;
            }
            Err(error) => self.refuse_object(session, id, error, now),
        }
    }

    /// Payload is copied out of the transport's buffers here, once: a cached object must not pin a
    /// receive buffer many times its size.
    pub(super) fn on_payload(
        &mut self,
        session: SessionId,
        stream: StreamId,
        piece: &Bytes,
        last: bool,
        now: Instant,
    ) {
        if !self.count_rate(session, 0, piece.len() as u64, now) {
            return;
        }
        let Some((inbound, _)) = self.inbound(session, stream) else { return };
        let (id, group) = (inbound.track, inbound.header.group);
        match &mut inbound.object {
            Reading::Nothing => {}
            Reading::Twin { id: object, offset } => {
                let (at, from) = (Location::new(group, *object), *offset);
                *offset += piece.len();
                let agrees =
                    self.tracks.get(id.0).is_none_or(|track| track.cache.agrees(at, from, piece));
                if !agrees {
                    self.refuse_object(session, id, ObjectError::Conflict, now);
                }
            }
            Reading::Object { left, fragment, .. } => {
                if fragment.capacity() - fragment.len() < piece.len() {
                    let more = usize::try_from(*left).unwrap_or(usize::MAX).min(FRAGMENT_BYTES_MAX);
                    fragment.reserve(more.max(piece.len()));
                }
                fragment.put_slice(piece);
                *left = left.saturating_sub(piece.len() as u64);
                if last || fragment.len() >= FRAGMENT_BYTES_MAX {
                    self.hand_on(session, stream, now);
                } else if fragment.len() >= FRAGMENT_BYTES_MIN {
                    // The rest of this turn's packets may add to it.
                    if self.growing.last().is_none_or(|last| last.1 != stream || last.0 != session)
                    {
                        self.growing.push((session, stream, now));
                    }
                }
            }
        }
    }

    /// Hands on what has come of objects that are still arriving.
    pub(super) fn hand_on_growing(&mut self) {
        while let Some((session, stream, now)) = self.growing.pop() {
            self.hand_on(session, stream, now);
        }
    }

    /// Moves the fragment under way on a stream into the cache.
    fn hand_on(&mut self, session: SessionId, stream: StreamId, now: Instant) {
        let Some((inbound, _)) = self.inbound(session, stream) else { return };
        let (id, Some(place)) = (inbound.track, inbound.place) else { return };
        let Reading::Object { id: object, fragment, .. } = &mut inbound.object else { return };
        let (object, piece) = (*object, fragment.split().freeze());
        if piece.is_empty() {
            return;
        }
        let length = piece.len() as u64;
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        let before = track.cache.bytes();
        let Some(whole) = track.cache.append(place, object, piece) else {
            inbound_is_lost(self.inbound(session, stream));
            return;
        };
        self.metrics.bytes_in += length;
        self.metrics.objects_in += u64::from(whole);
        self.metrics.cache_bytes += (track.cache.bytes() - before) as u64;
        self.grown(id, whole.then_some((place, object)), now);
    }

    fn on_end_of_track(&mut self, session: SessionId, id: TrackId, end: Location, now: Instant) {
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        if let Err(error) = track.cache.end_track(end) {
            return self.refuse_object(session, id, error, now);
        }
        let done = UpstreamDone { code: DoneCode::TrackEnded, streams: None };
        track.upstream_done.get_or_insert(done);
    }

    /// An object that came as a datagram: whole, or not at all.
    pub(super) fn on_datagram(
        &mut self,
        session: SessionId,
        request: RequestId,
        datagram: Datagram,
        now: Instant,
    ) {
        if !self.count_rate(session, 1, datagram.payload.len() as u64, now) {
            return;
        }
        let Some(draft) = self.live(session).map(|state| state.draft) else { return };
        let Some(id) = self.upstream(session, request) else { return };
        if !self.feed_takes(session, request, id, datagram.location.group) {
            self.metrics.objects_dropped += 1;
            return;
        }
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        let Datagram { location, priority, properties, end_of_group, status, payload, .. } =
            datagram;
        if status == Status::EndOfTrack {
            return self.on_end_of_track(session, id, location, now);
        }
        if !track.cache.admits_group(location.group) {
            return self.refuse_object(session, id, ObjectError::GroupBackwards, now);
        }
        let object = ObjectIn {
            group: location.group,
            subgroup: 0,
            object: location.object,
            priority: priority.or(track.terms.priority).unwrap_or(DEFAULT_PRIORITY),
            properties: kept_properties(draft, &properties),
            // A cached object must not pin the packet it came in.
            payload: Bytes::copy_from_slice(&payload),
            // The marker travels as it came: a datagram without payload that ends its group.
            end_of_group: end_of_group || status == Status::EndOfGroup,
            arrived: now,
            forwarding: Forwarding::Datagram,
        };
        match self.take_object(id, object) {
            Ok(_) | Err(ObjectError::UnknownTrack) => {}
            Err(_) => self.malformed(session, id, now),
        }
    }

    /// Finds a publisher's stream.
    fn inbound(&mut self, session: SessionId, stream: StreamId) -> Option<(&mut Inbound, Draft)> {
        let state = self.live(session)?;
        let draft = state.draft;
        let publisher = state.publisher.as_mut()?;
        let found = publisher.inbound.iter_mut().find(|inbound| inbound.stream == stream)?;
        Some((found, draft))
    }

    /// Counts what a publisher sends (H31); false when it is over for that.
    fn count_rate(&mut self, session: SessionId, objects: u32, bytes: u64, now: Instant) -> bool {
        let objects_max = self.limits.publisher_objects_per_second_max;
        let bytes_max = self.limits.publisher_bytes_per_second_max;
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return false;
        };
        if publisher.is_above()
            || publisher.rate.count((objects, objects_max), (bytes, bytes_max), now)
        {
            return true;
        }
        self.metrics.limit_publisher_rate += 1;
        let reason = "publisher sends too much".to_owned();
        self.close(session, SessionCode::Internal, reason, now);
        false
    }

    /// A data stream ended: its subgroup is complete, or given up.
    pub(super) fn on_data_ended(
        &mut self,
        session: SessionId,
        stream: StreamId,
        reset: Option<ResetCode>,
        now: Instant,
    ) {
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return;
        };
        let Some(at) = publisher.inbound.iter().position(|i| i.stream == stream) else { return };
        let inbound = publisher.inbound.swap_remove(at);
        if let Some(place) = inbound.place
            && !inbound.ignored
        {
            self.end_place(inbound.track, place, reset, now);
        }
        self.settle_leaving(inbound.track, now);
        self.settle_upstream(session, inbound.track, now);
    }

    fn refuse_object(&mut self, session: SessionId, id: TrackId, error: ObjectError, now: Instant) {
        match error {
            ObjectError::TooLarge => self.metrics.limit_object_bytes += 1,
            _ => self.metrics.objects_malformed += 1,
        }
        self.malformed(session, id, now);
    }

    /// H28: the track is poisoned. It ends; what was cached before stays as it was for those who
    /// still read.
    fn malformed(&mut self, _session: SessionId, id: TrackId, now: Instant) {
        self.finish_upstream(id, DoneCode::MalformedTrack, now);
    }
}

/// The cache let go of the object: its rest is read and dropped.
fn inbound_is_lost(inbound: Option<(&mut Inbound, Draft)>) {
    if let Some((inbound, _)) = inbound {
        inbound.object = Reading::Nothing;
    }
}

/// A property block as caches hold it.
fn kept_properties(draft: Draft, block: &Bytes) -> Bytes {
    if block.is_empty() {
        return Bytes::new();
    }
    // Copied, as payload is: a block must not pin a receive buffer.
    let kept = convert_properties(draft, PROPERTIES_DRAFT, block).unwrap_or_default();
    Bytes::copy_from_slice(&kept)
}
