//! A viewer of one broadcast, sans-IO: it joins, follows the catalog, and gives back whole objects in order, whatever
//! draft is spoken. It owns one MoQT session and what has to wait to be put in order; it opens no connection, reads no
//! clock and never looks into media. `weir play`, the simulation and the benchmarks drive it, each over its own transport.

mod arrivals;
mod contributor;
mod fleet;
mod outbox;
mod sequence;
mod splice;
#[cfg(test)]
mod tests;
pub mod trust;
mod url;
mod viewer;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::{Dir, DoneCode, Draft, Namespace, RequestCode, StreamId, Transport};
use weir_packager::catalog::Catalog;

pub use contributor::{Contributor, Told};
pub use fleet::{ADDRESSES_MAX, Fleet, Step};
pub use splice::{Leg, MOVES_PER_MINUTE_MAX, Outcome, REDIRECTS_MAX, Splice};
pub use url::{PlaybackUrl, PublishUrl, UrlError};
pub use viewer::Viewer;

/// Drafts in which a viewer can join a group that is on its way, by preference.
pub const DRAFTS: &[Draft] = &Draft::ALL;

/// One end of a session, as its connection sees it.
pub trait Peer {
    /// Bytes of a stream, in order; `fin` with the last ones or with none.
    fn handle_stream(&mut self, stream: StreamId, dir: Dir, data: Bytes, fin: bool, now: Instant);
    /// The relay reset its side of a stream.
    fn handle_reset(&mut self, stream: StreamId, code: u32, now: Instant);
    /// The relay stopped our side of a stream.
    fn handle_stop(&mut self, stream: StreamId, code: u32, now: Instant);
    /// A stream has room again.
    fn handle_writable(&mut self, stream: StreamId);
    /// Streams can be opened again.
    fn handle_streams_available(&mut self, dir: Dir);
    /// The connection is gone.
    fn handle_closed(&mut self, code: u32, reason: &str);
}

/// What a [`Viewer`] watches, and how.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Draft of the session.
    pub draft: Draft,
    /// What carries it.
    pub transport: Transport,
    /// The broadcast.
    pub namespace: Namespace,
    /// PATH of SETUP, query and token included; raw QUIC only, as WebTransport has it in its URL.
    pub path: Option<String>,
    /// AUTHORITY of SETUP; raw QUIC only.
    pub authority: Option<String>,
    /// Which tracks.
    pub selection: Selection,
    /// Media tracks that the catalog is expected to name; asked for beside it, which saves a round trip.
    pub expected: Vec<String>,
    /// From where.
    pub join: Join,
    /// Caps.
    pub limits: Limits,
}

impl Options {
    /// Everything the catalog names, from the start of the newest group.
    pub fn new(draft: Draft, transport: Transport, namespace: Namespace) -> Self {
        Self {
            draft,
            transport,
            namespace,
            path: None,
            authority: None,
            selection: Selection::Catalog,
            expected: Vec::new(),
            join: Join::NewestGroup,
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path carries the token.
        f.debug_struct("Options")
            .field("draft", &self.draft)
            .field("transport", &self.transport)
            .field("namespace", &self.namespace)
            .field("selection", &self.selection)
            .field("join", &self.join)
            .finish_non_exhaustive()
    }
}

/// Which tracks are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// `.catalog`, then every media track it names.
    Catalog,
    /// These, without a catalog. `.catalog` may be one of them; it is then delivered as objects.
    Named(Vec<String>),
}

/// Where watching starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// At the first object of the newest group: SUBSCRIBE behind the largest object and a joining FETCH for what precedes it.
    NewestGroup,
    /// At the next object, wherever that is in its group.
    Live,
}

/// Caps of one [`Viewer`], and how long it waits for what is late.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Tracks watched at once: 6 renditions, 2 languages, captions, a catalog, and room.
    pub tracks: usize,
    /// Payload held in all, whether incomplete, waiting for its turn or waiting for `poll_event`: 4 s at 64 Mb/s.
    pub held_bytes: usize,
    /// Control bytes the transport does not take.
    pub control_bytes: usize,
    /// Newer groups that wait behind an unfinished one; with one more it is given up at once.
    pub groups_ahead: usize,
    /// Groups of one track known at a time, empty ones included.
    pub groups_held: usize,
    /// How long a group without progress keeps a newer one waiting. A relay that gives a group up says so by a reset; this is for
    /// one that is repaired: a packet lost twice on a path whose queue is full (round trip 0.4 s) takes 2 s.
    pub stall_patience: Duration,
    /// How long a group of which nothing was seen keeps a newer one waiting, unless a stream between those of its
    /// neighbours is known to be on its way, which is waited for like a group that was begun.
    pub gap_patience: Duration,
    /// Redirects within one session that are followed for one track.
    pub redirects: u32,
    /// Of the MoQT session underneath.
    pub session: weir_moqt::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tracks: 16,
            held_bytes: 32 << 20,
            control_bytes: 64 << 10,
            groups_ahead: 4,
            groups_held: 64,
            stall_patience: Duration::from_secs(3),
            gap_patience: Duration::from_millis(200),
            redirects: 4,
            session: weir_moqt::Limits {
                object_bytes: 8 << 20,
                open_requests: 8,
                ..weir_moqt::Limits::default()
            },
        }
    }
}

/// What a [`Viewer`] has to tell.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The session is set up.
    Ready,
    /// The catalog arrived or changed, be it in a measured bit rate only. Its media tracks are subscribed to.
    Catalog(Catalog),
    /// The next object of a track.
    Object(Object),
    /// Groups that were lost, in whole or from some object on.
    Skipped {
        /// Of which track.
        track: Arc<str>,
        /// How many.
        groups: u64,
    },
    /// Nothing more comes of this track.
    TrackEnded {
        /// Which.
        track: Arc<str>,
        /// Why.
        code: DoneCode,
    },
    /// The subscription to a track was refused.
    Refused {
        /// Which.
        track: Arc<str>,
        /// Why.
        code: RequestCode,
        /// For people.
        reason: String,
    },
    /// The relay is going away; what runs goes on for a while. Told once: a viewer moves as a whole, be it that only one
    /// of its requests is to.
    GoAway {
        /// Where to go instead; empty = the same place.
        uri: String,
        /// How long it will wait; `None` = it did not say.
        timeout: Option<Duration>,
    },
    /// Another relay has the broadcast (REDIRECT): nothing more comes here. Told once, and not after `GoAway`.
    Redirected {
        /// Where to go instead.
        uri: String,
    },
    /// The session is over; the last event. Code 0 = every track has ended.
    Ended {
        /// Session code.
        code: u32,
        /// For people.
        reason: String,
    },
}

/// One object of a track.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// Name of the track.
    pub track: Arc<str>,
    /// Group id.
    pub group: u64,
    /// Object id.
    pub object: u64,
    /// The payload.
    pub payload: Bytes,
    /// Property block as on the wire of the session's draft.
    pub properties: Bytes,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{} ({} bytes)", self.track, self.group, self.object, self.payload.len())
    }
}
