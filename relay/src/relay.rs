//! The relay of one shard: the public face that ties sessions, directory, tracks and fan-out
//! together. It owns them all; it knows neither sockets nor clocks nor media.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    Dir, DoneCode, Event, Found, FullTrackName, KeySet, Limits, Metrics, Namespace, ObjectError,
    ObjectIn, RefuseReason, RequestCode, SessionId, SessionParams, StreamId, TrackId, TrackOptions,
    Transport,
};

/// All MoQT sessions and tracks of one shard.
#[derive(Debug)]
pub struct Relay {
    limits: Limits,
    metrics: Metrics,
    shard: u16,
    keys: KeySet,
    events: VecDeque<Event>,
    dirty: VecDeque<SessionId>,
}

#[expect(
    unused_variables,
    clippy::unused_self,
    clippy::needless_pass_by_value,
    clippy::needless_pass_by_ref_mut,
    reason = "signatures first; bodies follow"
)]
impl Relay {
    /// An empty relay for shard `shard`.
    pub fn new(limits: Limits, shard: u16) -> Self {
        Self {
            limits,
            metrics: Metrics::default(),
            shard,
            keys: KeySet::new(),
            events: VecDeque::new(),
            dirty: VecDeque::new(),
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

    /// Replaces the playback keys. Sessions whose key or token id is no longer good are ended.
    pub fn set_keys(&mut self, keys: KeySet, now: Instant) {
        self.keys = keys;
    }

    /// A connection became a MoQT session. `None` when `sessions_max` is reached.
    pub fn open_session(&mut self, params: SessionParams, now: Instant) -> Option<SessionId> {
        None
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
    }

    /// The peer reset its half of a stream.
    pub fn handle_reset(&mut self, session: SessionId, stream: StreamId, code: u32, now: Instant) {}

    /// The peer sent STOP_SENDING.
    pub fn handle_stop(&mut self, session: SessionId, stream: StreamId, code: u32, now: Instant) {}

    /// A stream that blocked has room again.
    pub fn handle_writable(&mut self, session: SessionId, stream: StreamId) {}

    /// The peer allows more streams of this direction.
    pub fn handle_streams_available(&mut self, session: SessionId, dir: Dir) {}

    /// The connection is gone; nothing is written to it any more.
    pub fn close_session(&mut self, session: SessionId, now: Instant) {}

    /// Ends a session from our side with `UNAUTHORIZED` and `reason` (revocation by the engine).
    pub fn kick(&mut self, session: SessionId, reason: &str) {}

    /// The next session that wants [`Relay::drive`].
    pub fn poll_dirty(&mut self) -> Option<SessionId> {
        self.dirty.pop_front()
    }

    /// Writes what this session has to send until all is written or blocked.
    pub fn drive(&mut self, session: SessionId, transport: &mut impl Transport, now: Instant) {}

    /// A local feed holds `namespace` from now on. False when somebody else holds it or the
    /// directory is full.
    pub fn publish(&mut self, namespace: &Namespace) -> bool {
        false
    }

    /// Shard `shard` holds `namespace`. False as for [`Relay::publish`].
    pub fn publish_remote(&mut self, namespace: &Namespace, shard: u16) -> bool {
        false
    }

    /// The broadcast is over: its tracks end with TRACK_ENDED, subscribers get PUBLISH_DONE.
    pub fn unpublish(&mut self, namespace: &Namespace, now: Instant) {}

    /// Opens a track (or replaces one of the same name, which ends). `None` at `tracks_max`.
    pub fn open_track(
        &mut self,
        name: FullTrackName,
        options: TrackOptions,
        now: Instant,
    ) -> Option<TrackId> {
        None
    }

    /// Takes an object into the track's cache and marks its subscribers dirty.
    pub fn write_object(&mut self, track: TrackId, object: ObjectIn) -> Result<(), ObjectError> {
        Err(ObjectError::UnknownTrack)
    }

    /// No more objects: subscribers read what is there, then get PUBLISH_DONE with `code`.
    pub fn end_track(&mut self, track: TrackId, code: DoneCode, now: Instant) {}

    /// Another shard does not have the track that was wanted: those waiting are refused.
    pub fn refuse_track(&mut self, name: &FullTrackName, code: RequestCode, now: Instant) {}

    /// Finds a track for another shard, asking its publisher session if there is one.
    pub fn find_track(&mut self, name: &FullTrackName, now: Instant) -> Found {
        Found::Missing
    }

    /// Starts or stops [`Event::Exported`] for each new object. Export counts as interest.
    pub fn set_export(&mut self, track: TrackId, export: bool, now: Instant) {}

    /// What the cache of a track holds, oldest first, to replay on another shard.
    pub fn cached(&self, track: TrackId) -> impl Iterator<Item = ObjectIn> + '_ {
        std::iter::empty()
    }

    /// The engine's answer to [`Event::AuthorizePublish`].
    pub fn publish_authorized(
        &mut self,
        session: SessionId,
        answer: Result<Namespace, RefuseReason>,
        now: Instant,
    ) {
    }

    /// Sends GOAWAY to every session, once.
    pub fn drain(&mut self, new_uri: &str) {}

    /// When [`Relay::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Acts on the deadlines that have passed.
    pub fn handle_timeout(&mut self, now: Instant, wall: Duration) {}

    /// The next thing the engine should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}
