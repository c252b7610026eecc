//! The words the engine and the relay exchange: session parameters, objects, track options,
//! origins and events. Values only; no behaviour beyond redacting secrets.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use weir_moqt::{Location, Property};

use crate::admission::Place;
use crate::{Carrier, DoneCode, Draft, FullTrackName, Namespace, RequestCode, ResetCode, Secret};

/// A MoQT session of this shard. Never reused: a stale id is ignored wherever it is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub(crate) u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A track of this shard. Never reused; a track that ends and opens again gets a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub(crate) u64);

/// What the shell knows of a connection when it becomes a MoQT session.
#[derive(Clone)]
pub struct SessionParams {
    /// Negotiated draft.
    pub draft: Draft,
    /// Raw QUIC or WebTransport.
    pub transport: Carrier,
    /// `:path` of the WebTransport CONNECT, query included; raw QUIC learns it from SETUP.
    pub path_and_query: Option<String>,
    /// Remote address, for the engine's own use in events.
    pub peer: SocketAddr,
}

impl fmt::Debug for SessionParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path carries `tok` or `sk`.
        f.debug_struct("SessionParams")
            .field("draft", &self.draft)
            .field("transport", &self.transport)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Who holds a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A feed of this shard; its tracks are opened with [`crate::Relay::open_track`].
    Local,
    /// A MoQT publisher session of this shard.
    Session(SessionId),
    /// Another shard of this node; interest in its tracks becomes [`Event::TrackWanted`].
    Shard(u16),
    /// A relay above this node, by way of this shard.
    Above,
}

/// How a track is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrackOptions {
    /// The publisher priority written into streams before an object says otherwise; lower wins.
    pub priority: u8,
    /// A copy of another shard's track: replay and live objects may overlap and arrive in any
    /// order, so what is there already is ignored without a word.
    pub replica: bool,
}

impl Default for TrackOptions {
    fn default() -> Self {
        Self { priority: 128, replica: false }
    }
}

/// What a publisher said of its track, for a shard that opens a replica of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackFacts {
    /// Track properties.
    pub properties: Vec<Property>,
    /// Largest location known, cached or told by the publisher.
    pub largest: Option<Location>,
}

/// One object, as a publisher made it or as a cache holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectIn {
    /// Group id.
    pub group: u64,
    /// Subgroup id; each subgroup is a stream of its own. Of a datagram object 0, and ignored.
    pub subgroup: u64,
    /// Object id within the group.
    pub object: u64,
    /// Publisher priority; lower wins. One group keeps that of its first object.
    pub priority: u8,
    /// Object properties as they stood on the wire (key-value pairs without the length).
    pub properties: Bytes,
    /// The payload; never looked into. With `end_of_group` it may be empty: a bare marker.
    pub payload: Bytes,
    /// No object of this group follows.
    pub end_of_group: bool,
    /// When its first byte reached this machine.
    pub arrived: Instant,
    /// Stream or datagram: subscribers get it as its publisher sent it.
    pub forwarding: Forwarding,
}

/// How an object travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// On the stream of its subgroup.
    Subgroup {
        /// That subgroup holds the last object of its group.
        holds_end: bool,
    },
    /// In a datagram of its own.
    Datagram,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self::Subgroup { holds_end: true }
    }
}

/// The end of a subgroup, as one shard tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubgroupEnd {
    /// Group id.
    pub group: u64,
    /// Subgroup id.
    pub subgroup: u64,
    /// Why its rest will not come; `None` when it is whole.
    pub reset: Option<ResetCode>,
}

/// Why [`crate::Relay::write_object`] refused an object. The cache is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The track id is stale or the track has ended.
    #[error("no such track")]
    UnknownTrack,
    /// The object id exists with another payload.
    #[error("object exists with another payload")]
    Conflict,
    /// The object id is below one already written in its group.
    #[error("object id goes backwards")]
    ObjectBackwards,
    /// The group is older than the newest and was never begun, or is complete.
    #[error("group id goes backwards")]
    GroupBackwards,
    /// Above [`crate::Limits::object_bytes_max`].
    #[error("object too large")]
    TooLarge,
    /// An id above 2^62 - 1, which draft 16 cannot carry.
    #[error("id out of range")]
    IdRange,
    /// No such subgroup: an inconsistency of ours.
    #[error("no such subgroup")]
    Subgroup,
}

/// Why a publisher may not publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefuseReason {
    /// Unknown input or wrong key; never says which.
    #[error("stream_key_invalid")]
    KeyInvalid,
    /// Somebody else publishes.
    #[error("input_busy")]
    Busy,
    /// The input is switched off.
    #[error("input_disabled")]
    Disabled,
    /// The key is right, but the input is fed by another protocol.
    #[error("input_disabled: this input takes another protocol")]
    Protocol,
    /// Its address showed too many keys that open nothing.
    #[error("too_many_attempts")]
    TooMany,
    /// No room.
    #[error("capacity")]
    Capacity,
    /// This node is being drained.
    #[error("draining")]
    Draining,
    /// The engine did not answer in time.
    #[error("timeout")]
    Timeout,
}

/// What [`crate::Relay::find_track`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The track is open.
    Open(TrackId),
    /// Its publisher has been asked; [`Event::TrackOpened`] or [`Event::TrackRefused`] follows.
    Pending(TrackId),
    /// Nobody here has it.
    Missing,
}

/// What the relay tells the engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A peer on `/publish/<input_id>?sk=…` wants to publish: answer with
    /// [`crate::Relay::publish_authorized`].
    AuthorizePublish {
        /// Who asks.
        session: SessionId,
        /// From the path.
        input_id: String,
        /// The stream key it showed.
        key: Secret,
    },
    /// An authorised publisher session announced its namespace: tell the other shards.
    NamespacePublished {
        /// The publisher.
        session: SessionId,
        /// What it holds now.
        namespace: Namespace,
    },
    /// A publisher session let its namespace go, by its own will or by leaving.
    NamespaceEnded {
        /// The publisher.
        session: SessionId,
        /// What it held.
        namespace: Namespace,
    },
    /// A publisher of this shard brought a track forward: tell the other shards to call
    /// [`crate::Relay::publish_remote_track`].
    TrackPublished {
        /// Which.
        track: FullTrackName,
    },
    /// It has ended: [`crate::Relay::withdraw_remote_track`].
    TrackWithdrawn {
        /// Which.
        track: FullTrackName,
    },
    /// A publisher with the engine's leave uses its publish address for the first time: answer with
    /// [`crate::Relay::grant_address`] or [`crate::Relay::close_publisher`].
    AddressClaimed {
        /// The publisher.
        session: SessionId,
    },
    /// A publisher brings a track to its publish address. Its objects follow as
    /// [`Event::Exported`], whole and to nobody else.
    Contributed {
        /// The publisher.
        session: SessionId,
        /// Ours for it; no viewer can name it.
        track: TrackId,
        /// What its publisher calls it.
        name: Bytes,
    },
    /// A publisher has tracks at its publish address that are to be asked for:
    /// [`crate::Relay::ask_contribution`].
    ContributionAnnounced {
        /// The publisher.
        session: SessionId,
    },
    /// First interest of this shard in a track of another: ask that shard to export it, then call
    /// `open_track(.., replica)` and `write_object` here, or `refuse_track`.
    TrackWanted {
        /// The track.
        track: FullTrackName,
        /// Its owner.
        shard: u16,
    },
    /// The last interest of this shard has gone; `end_track` has been done here already.
    TrackUnwanted {
        /// The track.
        track: FullTrackName,
        /// Its owner.
        shard: u16,
    },
    /// A track that [`crate::Relay::find_track`] reported as pending is open.
    TrackOpened {
        /// The same id as before.
        id: TrackId,
        /// Its name.
        track: FullTrackName,
    },
    /// A track that was pending will not come.
    TrackRefused {
        /// The id that was pending, stale now.
        id: TrackId,
        /// Its name.
        track: FullTrackName,
        /// Why.
        code: RequestCode,
    },
    /// A new object of a track under [`crate::Relay::set_export`].
    Exported {
        /// The track.
        track: TrackId,
        /// The object; its bytes are shared with the cache.
        object: ObjectIn,
    },
    /// A subgroup of a track under export has come to its end, or will not: see
    /// [`crate::Relay::end_subgroup`].
    ExportedEnd {
        /// The track.
        track: TrackId,
        /// What ended.
        end: SubgroupEnd,
    },
    /// A track under export has ended.
    ExportEnded {
        /// The track, stale now.
        track: TrackId,
        /// Its name.
        name: FullTrackName,
        /// Why.
        code: DoneCode,
    },
    /// A viewer's subscription was accepted.
    Subscribed {
        /// The viewer.
        session: SessionId,
        /// What it watches.
        track: FullTrackName,
    },
    /// A subscription ended, whoever ended it.
    Unsubscribed {
        /// The viewer.
        session: SessionId,
        /// What it watched.
        track: FullTrackName,
    },
    /// A relay of ours is below: tell it where we stand ([`crate::Beacon`]) once it asks.
    NodeAdmitted {
        /// Its session.
        session: SessionId,
        /// What it calls itself.
        node: String,
    },
    /// A relay above says something of itself.
    Beacon {
        /// Its session.
        session: SessionId,
        /// Which of the two.
        beacon: crate::Beacon,
        /// What it says.
        payload: Bytes,
    },
    /// A relay above wants to be left.
    UpstreamGoAway {
        /// Its session.
        session: SessionId,
        /// Where to go instead; empty = the same place.
        uri: String,
        /// How long it will wait.
        timeout_ms: Option<u64>,
    },
    /// No track comes from this relay above any more: it may be closed.
    UpstreamLeft {
        /// Its session.
        session: SessionId,
    },
    /// A session took or gave back a place that is counted over all shards: tell each of them to
    /// call [`crate::Relay::count_place`].
    Place {
        /// Which.
        place: Place,
        /// Taken, or given back.
        taken: bool,
    },
    /// A peer showed a token that nobody we know has signed: its address is to be held off for a
    /// while when it makes a habit of it.
    AuthFailed {
        /// Which session; it is over or soon will be.
        session: SessionId,
    },
    /// The relay ended a session (the shell's `close` was or will be called in `drive`), for a log line.
    SessionClosed {
        /// Which.
        session: SessionId,
        /// MoQT session code.
        code: u32,
        /// For people; holds no secret.
        reason: String,
    },
}
