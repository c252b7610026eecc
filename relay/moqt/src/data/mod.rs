//! Data streams and datagrams: their headers as the model sees them, the encoders a publisher calls
//! for each object, and the incremental [`Decoder`]. Payload bytes are never copied or looked at.

mod codec;
mod decode;
mod properties;
#[cfg(test)]
mod tests;

pub use codec::{FetchEncoder, SubgroupEncoder};
pub use decode::{DataError, Decoder, Item, StreamKind};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use properties::find;
pub use properties::{convert_properties, integer_property};

use bytes::Bytes;

use crate::model::{Location, RequestId};

/// Priority of a track that does not say (DEFAULT_PUBLISHER_PRIORITY).
pub const DEFAULT_PRIORITY: u8 = 128;

/// Head of a subgroup stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubgroupHeader {
    /// Track alias chosen by the publisher.
    pub alias: u64,
    /// Group id.
    pub group: u64,
    /// Subgroup id; already resolved where the wire says "id of the first object".
    pub subgroup: u64,
    /// Publisher priority; `None` = the track's default.
    pub priority: Option<u8>,
    /// Every object carries a property block (of zero bytes, perhaps).
    pub properties: bool,
    /// The last object of this stream is the last of the group.
    pub end_of_group: bool,
    /// The first object of this stream is the first of the subgroup (not told in draft 16: false).
    pub first_object: bool,
}

/// Object status; anything else on the wire is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// An object with a payload, perhaps of zero bytes.
    #[default]
    Normal,
    /// No object with this id or a larger one exists in the group.
    EndOfGroup,
    /// No object after this location exists in the track.
    EndOfTrack,
}

/// Head of an object on a subgroup stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHeader {
    /// Object id.
    pub object: u64,
    /// Property block as on the wire of the stream's draft; see [`convert_properties`].
    pub properties: Bytes,
    /// Bytes of payload that follow.
    pub payload_len: u64,
    /// Status; other than normal only with an empty payload.
    pub status: Status,
}

/// Head of a fetch stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchHeader {
    /// The FETCH it answers.
    pub request: RequestId,
}

/// Head of an object on a fetch stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchObject {
    /// Where it belongs.
    pub location: Location,
    /// Subgroup id; `None` for an object that was a datagram.
    pub subgroup: Option<u64>,
    /// Publisher priority.
    pub priority: u8,
    /// Property block as on the wire of the stream's draft.
    pub properties: Bytes,
    /// Bytes of payload that follow.
    pub payload_len: u64,
}

/// Why a fetch stream skips a range of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// They do not exist.
    NonExistent,
    /// The sender does not know them.
    Unknown,
    /// The sender gave up waiting for them (FILL_TIMEOUT); unknown up to draft 19.
    TimedOut,
}

/// A datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Datagram {
    /// Track alias chosen by the publisher.
    pub alias: u64,
    /// Where the object belongs.
    pub location: Location,
    /// Publisher priority; `None` = the track's default.
    pub priority: Option<u8>,
    /// Property block as on the wire of the session's draft.
    pub properties: Bytes,
    /// This object is the last of its group.
    pub end_of_group: bool,
    /// Status; other than normal only with an empty payload.
    pub status: Status,
    /// Payload.
    pub payload: Bytes,
}
