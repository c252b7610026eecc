//! What a publisher sends: its data streams, put together into objects and handed to the track. It
//! owns the reading of one stream after the other; who may publish what is `publisher`'s affair.

use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use weir_moqt::data::{ObjectHeader, Status, SubgroupHeader, convert_properties};
use weir_moqt::{RequestId, ResetCode};

use super::Relay;
use crate::encode::PROPERTIES_DRAFT;
use crate::session::Inbound;
use crate::track::UpstreamDone;
use crate::{DoneCode, ObjectError, ObjectIn, SessionCode, SessionId, StreamId, TrackId};

/// First allocation for an object that says it is large: growth follows what really arrives.
const FIRST_ALLOCATION_MAX: u64 = 64 * 1024;

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
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        track.upstream_streams += 1;
        // H28: a publisher whose groups go backwards is not a publisher of this track any more.
        if !track.cache.admits_group(header.group) {
            self.metrics.objects_malformed += 1;
            self.malformed(session, id, now);
            return;
        }
        let priority = header.priority.unwrap_or(weir_moqt::data::DEFAULT_PRIORITY);
        let inbound = Inbound {
            stream,
            track: id,
            group: header.group,
            priority,
            ignored: header.subgroup != 0,
            object: None,
        };
        if let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) {
            publisher.inbound.push(inbound);
        }
    }

    pub(super) fn on_object(
        &mut self,
        session: SessionId,
        stream: StreamId,
        header: ObjectHeader,
        now: Instant,
    ) {
        let Some(inbound) = self.inbound(session, stream, 1, 0, now) else { return };
        if inbound.ignored {
            self.metrics.objects_dropped += 1;
            return;
        }
        if header.payload_len == 0 {
            self.finish_object(session, stream, &header, Bytes::new(), now, now);
        } else {
            let first = header.payload_len.min(FIRST_ALLOCATION_MAX) as usize;
            inbound.object = Some((header, BytesMut::with_capacity(first), now));
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
        let Some(inbound) = self.inbound(session, stream, 0, piece.len() as u64, now) else {
            return;
        };
        let Some((_, payload, _)) = &mut inbound.object else { return };
        payload.put_slice(piece);
        if last && let Some((header, payload, arrived)) = inbound.object.take() {
            self.finish_object(session, stream, &header, payload.freeze(), arrived, now);
        }
    }

    /// Finds a publisher's stream, counting what arrives on it (H31).
    fn inbound(
        &mut self,
        session: SessionId,
        stream: StreamId,
        objects: u32,
        bytes: u64,
        now: Instant,
    ) -> Option<&mut Inbound> {
        let objects_max = self.limits.publisher_objects_per_second_max;
        let bytes_max = self.limits.publisher_bytes_per_second_max;
        let publisher = self.live(session)?.publisher.as_mut()?;
        if !publisher.rate.count((objects, objects_max), (bytes, bytes_max), now) {
            self.metrics.limit_publisher_rate += 1;
            let reason = "publisher sends too much".to_owned();
            self.close(session, SessionCode::Internal, reason, now);
            return None;
        }
        let publisher = self.live(session)?.publisher.as_mut()?;
        publisher.inbound.iter_mut().find(|inbound| inbound.stream == stream)
    }

    fn finish_object(
        &mut self,
        session: SessionId,
        stream: StreamId,
        header: &ObjectHeader,
        payload: Bytes,
        arrived: Instant,
        now: Instant,
    ) {
        let Some(state) = self.live(session) else { return };
        let draft = state.draft;
        let Some(inbound) = state
            .publisher
            .as_ref()
            .and_then(|publisher| publisher.inbound.iter().find(|i| i.stream == stream))
        else {
            return;
        };
        let (id, group, priority) = (inbound.track, inbound.group, inbound.priority);
        if header.status == Status::EndOfTrack {
            let done = UpstreamDone { code: DoneCode::TrackEnded, streams: None };
            if let Some(track) = self.tracks.get_mut(id.0) {
                track.upstream_done.get_or_insert(done);
            }
            return;
        }
        let properties = if header.properties.is_empty() {
            Bytes::new()
        } else {
            convert_properties(draft, PROPERTIES_DRAFT, &header.properties).unwrap_or_default()
        };
        let object = ObjectIn {
            group,
            subgroup: 0,
            object: header.object,
            priority,
            properties,
            payload,
            end_of_group: header.status == Status::EndOfGroup,
            arrived,
        };
        match self.take_object(id, object) {
            Ok(_) | Err(ObjectError::UnknownTrack) => {}
            Err(_) => self.malformed(session, id, now),
        }
    }

    /// A data stream ended: its group is complete, or given up.
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
        if let Some(track) = self.tracks.get_mut(inbound.track.0)
            && !inbound.ignored
        {
            match reset {
                None => track.cache.complete_group(inbound.group),
                Some(_) => track.cache.abort_group(inbound.group),
            }
            for session in &track.subscribers {
                self.dirty.mark(*session);
            }
        }
        self.settle_upstream(session, inbound.track, now);
    }

    /// H28: the track is poisoned. It ends; what was cached before stays as it was for those who
    /// still read.
    fn malformed(&mut self, _session: SessionId, id: TrackId, now: Instant) {
        self.finish_upstream(id, DoneCode::MalformedTrack, now);
    }
}
