//! The draft-free model: everything a session or a relay reasons about, whatever the peer's draft.
//! Ranges are inclusive here; how a draft writes them is the codec's affair.

use bytes::Bytes;

use crate::name::Namespace;
use crate::token::Token;

/// A QUIC stream, as the transport names it; opaque here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// A request id: even ones were chosen by the client, odd ones by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Ties an [`crate::Output::Open`] to the stream the transport opened for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenKey(pub u64);

/// Direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// One way.
    Uni,
    /// Both ways.
    Bi,
}

/// Which end of the connection this session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Dialled.
    Client,
    /// Was dialled.
    Server,
}

/// What carries the session; PATH and AUTHORITY exist only over raw QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Raw QUIC (`moqt-NN` as ALPN).
    Quic,
    /// WebTransport over HTTP/3.
    WebTransport,
}

/// Position in a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Group id.
    pub group: u64,
    /// Object id within the group.
    pub object: u64,
}

impl Location {
    /// A location.
    pub const fn new(group: u64, object: u64) -> Self {
        Self { group, object }
    }

    /// As an inclusive end: every object of `group`.
    pub const fn whole_group(group: u64) -> Self {
        Self { group, object: u64::MAX }
    }
}

/// Which objects a subscription asks for. No filter at all means [`Filter::NextObject`]. A filter
/// chooses among what is published from now on; only a [`Fill`] or a fetch brings the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Filter {
    /// Every object published from now on, even in the middle of a group.
    #[default]
    NextObject,
    /// From the start of the next group.
    NextGroupStart,
    /// From just after the largest object.
    LargestObject,
    /// From a location, open-ended.
    AbsoluteStart(Location),
    /// From a location through `end_group`, inclusive.
    AbsoluteRange {
        /// First object wanted.
        start: Location,
        /// Last group wanted.
        end_group: u64,
    },
    /// From the start of group `largest + 1 - groups_back`, open-ended (draft 20 and later; older ones
    /// write the next group for 0 and the largest object for more).
    Relative {
        /// 0 = the next group, which reads as [`Filter::NextGroupStart`]; 1 = the current one.
        groups_back: u64,
    },
    /// From one location through another, both inclusive (draft 20 and later; older ones end with the
    /// whole group of `end`).
    Range {
        /// First object wanted.
        start: Location,
        /// Last object wanted.
        end: Location,
    },
}

/// FILL_PARAMETERS: asks the publisher to send the past of a subscription, up to its largest object, on a
/// fetch stream that carries the subscription's request id (draft 20 and later).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Which past; `None` = what the subscription's own filter covers.
    pub filter: Option<Filter>,
    /// Priority of the fill stream; `None` = the subscription's.
    pub priority: Option<u8>,
    /// Group order of the fill stream.
    pub group_order: Option<GroupOrder>,
    /// How long a relay may wait for objects it lacks, milliseconds.
    pub fill_timeout_ms: Option<u64>,
    /// Range filters of the fill.
    pub ranges: Vec<RangeFilter>,
}

/// A range filter (draft 19 and later). All filters of one set must pass; one set that passes is enough.
/// Without ranges, in an update, it removes the filters of its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeFilter {
    /// What is compared.
    pub subject: RangeSubject,
    /// The set it belongs to.
    pub set: u8,
    /// The property compared, even; with a property subject only, and only where there are ranges.
    pub property: Option<u64>,
    /// Ascending, disjoint.
    pub ranges: Vec<ValueRange>,
}

/// What a [`RangeFilter`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RangeSubject {
    /// Subgroup id.
    Subgroup,
    /// Object id.
    Object,
    /// Publisher priority.
    Priority,
    /// A property of the object.
    ObjectProperty,
    /// A property of the track; chooses among the tracks of SUBSCRIBE_TRACKS.
    TrackProperty,
}

/// Values from `start` through `end`, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRange {
    /// First value.
    pub start: u64,
    /// Last value; `None` = no end, in the last range of a filter only.
    pub end: Option<u64>,
}

/// Order in which groups are delivered within one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GroupOrder {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// Message parameters. `None` = absent. A parameter the draft or the message does not have is left
/// out when it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// Authorization tokens, aliases already resolved.
    pub tokens: Vec<Token>,
    /// OBJECT_DELIVERY_TIMEOUT (draft 16: DELIVERY_TIMEOUT), milliseconds.
    pub object_timeout_ms: Option<u64>,
    /// SUBGROUP_DELIVERY_TIMEOUT, milliseconds.
    pub subgroup_timeout_ms: Option<u64>,
    /// RENDEZVOUS_TIMEOUT, milliseconds.
    pub rendezvous_timeout_ms: Option<u64>,
    /// FILL_TIMEOUT, milliseconds.
    pub fill_timeout_ms: Option<u64>,
    /// EXPIRES, milliseconds.
    pub expires_ms: Option<u64>,
    /// LARGEST_OBJECT.
    pub largest: Option<Location>,
    /// FORWARD; absent means true.
    pub forward: Option<bool>,
    /// SUBSCRIBER_PRIORITY; lower is served first, absent means 128.
    pub priority: Option<u8>,
    /// SUBSCRIPTION_FILTER, LOCATION_FILTER.
    pub filter: Option<Filter>,
    /// GROUP_ORDER.
    pub group_order: Option<GroupOrder>,
    /// FILL_PARAMETERS.
    pub fill: Option<Box<Fill>>,
    /// SUBGROUP_FILTER, OBJECTID_FILTER, PRIORITY_FILTER, OBJECT_PROPERTY_FILTER, TRACK_PROPERTY_FILTER,
    /// in that order.
    pub ranges: Vec<RangeFilter>,
    /// NEW_GROUP_REQUEST.
    pub new_group: Option<u64>,
    /// INCLUDE_PROPERTIES; absent means true.
    pub include_properties: Option<bool>,
    /// TRACK_NAMESPACE_PREFIX of an update.
    pub prefix: Option<Namespace>,
}

impl Params {
    /// FORWARD with its default.
    pub fn forwards(&self) -> bool {
        self.forward.unwrap_or(true)
    }

    /// Ranges in the range filters of the request, and in those of its fill.
    pub(crate) fn range_counts(&self) -> (u64, u64) {
        let count =
            |filters: &[RangeFilter]| filters.iter().map(|f| f.ranges.len() as u64).sum::<u64>();
        (count(&self.ranges), self.fill.as_ref().map_or(0, |fill| count(&fill.ranges)))
    }

    /// SUBSCRIBER_PRIORITY with its default.
    pub fn subscriber_priority(&self) -> u8 {
        self.priority.unwrap_or(128)
    }
}

/// Key of a property that relays must understand to serve a track (0x4000-0x7FFF).
pub const MANDATORY_PROPERTIES: std::ops::RangeInclusive<u64> = 0x4000..=0x7FFF;

/// A track property: even types hold an integer, odd ones bytes. Unknown ones are carried along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Type.
    pub kind: u64,
    /// Value.
    pub value: PropertyValue,
}

/// Value of a [`Property`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyValue {
    /// Of an even type.
    Int(u64),
    /// Of an odd type; at most 65535 bytes.
    Bytes(Bytes),
}

/// What a FETCH asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchTarget {
    /// A range of a named track, both ends inclusive; see [`Location::whole_group`].
    Standalone {
        /// The track.
        track: crate::FullTrackName,
        /// First object.
        start: Location,
        /// Last object.
        end: Location,
    },
    /// From the start of group `largest + 1 - groups_back` of a named track to its largest object
    /// (draft 20 and later).
    Recent {
        /// The track.
        track: crate::FullTrackName,
        /// 1 = the current group.
        groups_back: u64,
    },
    /// From `groups_back` groups before the largest of a subscription, up to its start (up to draft 19;
    /// later drafts have [`Fill`]).
    RelativeJoining {
        /// The subscription joined.
        subscription: RequestId,
        /// 0 = from the start of the current group.
        groups_back: u64,
    },
    /// From the start of `start_group` up to the start of a subscription.
    AbsoluteJoining {
        /// The subscription joined.
        subscription: RequestId,
        /// First group.
        start_group: u64,
    },
}

/// What a request is about; every answer and cancellation names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the messages")]
pub enum RequestKind {
    Subscribe,
    Publish,
    Fetch,
    TrackStatus,
    PublishNamespace,
    SubscribeNamespace,
    SubscribeTracks,
    Update,
}
