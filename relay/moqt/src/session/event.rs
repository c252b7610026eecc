//! What a session asks of its transport, tells its owner, and says of itself in SETUP.

use bytes::Bytes;

use crate::data::{Datagram, FetchObject, Gap, ObjectHeader, SubgroupHeader};
use crate::error::{DoneCode, RequestError, ResetCode};
use crate::model::{
    Dir, FetchTarget, Location, OpenKey, Params, Property, RequestId, RequestKind, StreamId,
};
use crate::name::{FullTrackName, Namespace};
use crate::token::Token;

/// What SETUP says of a peer, or of us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupOptions {
    /// PATH: path and query of the URL; raw QUIC clients only (otherwise the URL has it).
    pub path: Option<String>,
    /// AUTHORITY: host and port of the URL; raw QUIC clients only.
    pub authority: Option<String>,
    /// Authorization tokens for the session.
    pub tokens: Vec<Token>,
    /// MOQT_IMPLEMENTATION: name and version.
    pub implementation: Option<String>,
}

/// What the transport is asked to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a stream and answer with `Session::stream_opened(key, id)`.
    Open {
        /// Names the wish.
        key: OpenKey,
        /// Direction.
        dir: Dir,
    },
    /// Append to a stream.
    Write {
        /// Which.
        stream: StreamId,
        /// Control bytes; may be empty when `fin`.
        data: Bytes,
        /// Finish the stream after them.
        fin: bool,
    },
    /// Reset our side of a stream.
    Reset {
        /// Which.
        stream: StreamId,
        /// Code in the session's draft.
        code: u32,
    },
    /// Stop the peer's side of a stream.
    Stop {
        /// Which.
        stream: StreamId,
        /// Code in the session's draft.
        code: u32,
    },
}

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer's SETUP arrived; first event of a session.
    Setup {
        /// What it says.
        options: SetupOptions,
    },
    /// The peer is going away: open no new requests here. Or, with a `request`, it asks to move that one
    /// request elsewhere.
    GoAway {
        /// The request concerned; `None` = the session.
        request: Option<RequestId>,
        /// Where to go instead; empty = the same place.
        uri: String,
        /// How long it will wait; `None` = it did not say.
        timeout_ms: Option<u64>,
    },

    /// The peer subscribes. Answer: `accept_subscribe` or `reject`.
    Subscribe {
        /// Its id.
        request: RequestId,
        /// Which track.
        track: FullTrackName,
        /// Parameters.
        params: Params,
    },
    /// The peer changes one of its requests, or a PUBLISH of ours that it accepted. Answer `update` with
    /// `accept` or `reject`.
    Update {
        /// The request changed.
        request: RequestId,
        /// Id of the update itself.
        update: RequestId,
        /// What changes; absent parameters stay.
        params: Params,
    },
    /// The peer ended its subscription, or dropped a PUBLISH of ours that it had accepted; nothing more may
    /// be sent for it.
    Unsubscribed {
        /// The subscription, or our PUBLISH.
        request: RequestId,
    },
    /// The peer fetches. Answer: `accept_fetch` (then `finish_fetch`) or `reject`.
    Fetch {
        /// Its id.
        request: RequestId,
        /// What.
        target: FetchTarget,
        /// Parameters.
        params: Params,
    },
    /// The peer cancelled its fetch: reset the fetch stream.
    FetchCancelled {
        /// The fetch.
        request: RequestId,
    },
    /// The peer asks for the state of a track. Answer: `accept` or `reject`.
    TrackStatus {
        /// Its id.
        request: RequestId,
        /// Which track.
        track: FullTrackName,
        /// Parameters.
        params: Params,
    },
    /// The peer offers a namespace. Answer: `accept` or `reject`; later `revoke`.
    PublishNamespace {
        /// Its id.
        request: RequestId,
        /// Which.
        namespace: Namespace,
        /// Parameters.
        params: Params,
    },
    /// The peer took back its namespace.
    PublishNamespaceDone {
        /// Its PUBLISH_NAMESPACE.
        request: RequestId,
    },
    /// The peer wants NAMESPACE advertisements. Answer: `accept` then `namespace`, or `reject`.
    SubscribeNamespace {
        /// Its id.
        request: RequestId,
        /// Prefix of the namespaces wanted.
        prefix: Namespace,
        /// It wants PUBLISH for matching tracks too (draft 16, option 2).
        tracks_too: bool,
        /// Parameters.
        params: Params,
    },
    /// The peer ended its SUBSCRIBE_NAMESPACE or SUBSCRIBE_TRACKS.
    UnsubscribedNamespace {
        /// Its request.
        request: RequestId,
    },
    /// The peer wants PUBLISH for matching tracks. Answer: `accept` or `reject`.
    SubscribeTracks {
        /// Its id.
        request: RequestId,
        /// Prefix of the namespaces wanted.
        prefix: Namespace,
        /// Parameters.
        params: Params,
    },
    /// The peer offers a track. Answer: `accept` (data then flows under `alias`) or `reject`; later
    /// `update` and `cancel`.
    Publish {
        /// Its id.
        request: RequestId,
        /// Which track.
        track: FullTrackName,
        /// Alias its data streams will use.
        alias: u64,
        /// Parameters.
        params: Params,
        /// Track properties.
        properties: Vec<Property>,
    },

    /// Our subscription stands; data of `alias` belongs to it.
    SubscribeOk {
        /// Our request.
        request: RequestId,
        /// Alias its data streams use.
        alias: u64,
        /// Parameters.
        params: Params,
        /// Track properties.
        properties: Vec<Property>,
    },
    /// Our fetch will be served.
    FetchOk {
        /// Our request.
        request: RequestId,
        /// The track ends at `end`.
        end_of_track: bool,
        /// Last location covered, inclusive.
        end: Location,
        /// Parameters.
        params: Params,
        /// Track properties.
        properties: Vec<Property>,
    },
    /// Another request of ours (or an update) was granted.
    RequestOk {
        /// Our request.
        request: RequestId,
        /// What it was.
        kind: RequestKind,
        /// Parameters.
        params: Params,
        /// Track properties, of a track status.
        properties: Vec<Property>,
    },
    /// A request of ours (or an update) was refused, or failed before an answer came.
    RequestError {
        /// Our request.
        request: RequestId,
        /// What it was.
        kind: RequestKind,
        /// Why.
        error: RequestError,
    },
    /// The publisher ended our subscription or its own PUBLISH.
    PublishDone {
        /// The request.
        request: RequestId,
        /// Why.
        code: DoneCode,
        /// How many data streams it opened for it; `None` = it does not know.
        streams: Option<u64>,
        /// For people.
        reason: String,
    },
    /// The publisher says that a subscription changed without our asking: LARGEST_OBJECT, FORWARD or
    /// LOCATION_FILTER (draft 20 and later).
    PublishState {
        /// Our subscription, or a PUBLISH of the peer.
        request: RequestId,
        /// What changed.
        params: Params,
    },
    /// A track under the prefix of our SUBSCRIBE_TRACKS exists and will not be published to us.
    PublishBlocked {
        /// Our request.
        request: RequestId,
        /// What follows the prefix.
        suffix: Namespace,
        /// Track name.
        name: Bytes,
    },
    /// The peer took back what it had granted: our PUBLISH_NAMESPACE or SUBSCRIBE_NAMESPACE.
    Revoked {
        /// Our request.
        request: RequestId,
        /// What it was.
        kind: RequestKind,
        /// Why.
        error: RequestError,
    },
    /// A namespace under the prefix of our SUBSCRIBE_NAMESPACE exists.
    Namespace {
        /// Our request.
        request: RequestId,
        /// What follows the prefix.
        suffix: Namespace,
    },
    /// A namespace advertised before is gone.
    NamespaceDone {
        /// Our request.
        request: RequestId,
        /// What follows the prefix.
        suffix: Namespace,
    },

    /// A subgroup stream began.
    SubgroupOpened {
        /// The stream.
        stream: StreamId,
        /// The subscription (ours, or a PUBLISH of the peer) its alias belongs to.
        request: RequestId,
        /// Its header.
        header: SubgroupHeader,
    },
    /// A stream answering our fetch began, or one that fills our subscription.
    FetchOpened {
        /// The stream.
        stream: StreamId,
        /// Our fetch or subscription, or a PUBLISH of the peer.
        request: RequestId,
    },
    /// An object began on a subgroup stream. `Payload` follows unless `payload_len` is 0.
    ObjectStarted {
        /// The stream.
        stream: StreamId,
        /// Its head.
        object: ObjectHeader,
    },
    /// An object began on a fetch stream. `Payload` follows unless `payload_len` is 0.
    FetchObjectStarted {
        /// The stream.
        stream: StreamId,
        /// Its head.
        object: FetchObject,
    },
    /// A fetch stream skips everything up to `end`.
    FetchGap {
        /// The stream.
        stream: StreamId,
        /// Last location skipped.
        end: Location,
        /// Why.
        gap: Gap,
    },
    /// Payload of the object begun last on this stream, as it arrived.
    Payload {
        /// The stream.
        stream: StreamId,
        /// A slice of what the transport delivered.
        data: Bytes,
        /// The object is complete.
        last: bool,
    },
    /// A data stream finished between objects.
    DataEnded {
        /// The stream.
        stream: StreamId,
    },
    /// A data stream ended early: reset by the peer, or stopped here for a limit.
    DataReset {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: ResetCode,
    },
    /// An object came as a datagram.
    Datagram {
        /// The subscription its alias belongs to.
        request: RequestId,
        /// The object.
        datagram: Datagram,
    },
}
