//! The incremental decoder of data streams.

use bytes::Bytes;

use super::{FetchHeader, FetchObject, Gap, ObjectHeader, SubgroupHeader};
use crate::draft::Draft;
use crate::error::{ResetCode, SessionCode};
use crate::model::{GroupOrder, Location};

/// What a data stream turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Objects of one subgroup of the track with this alias.
    Subgroup {
        /// Track alias.
        alias: u64,
    },
    /// Answer to a FETCH.
    Fetch(FetchHeader),
    /// Discarded.
    Padding,
}

/// What a decoder found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The stream's head; comes once, before any object.
    Subgroup(SubgroupHeader),
    /// The stream's head; comes once, before any object.
    Fetch(FetchHeader),
    /// An object begins; [`Item::Payload`] follows unless its payload is empty.
    Object(ObjectHeader),
    /// An object on a fetch stream begins.
    FetchObject(FetchObject),
    /// A range is missing from a fetch stream.
    FetchGap {
        /// Last missing location.
        end: Location,
        /// Why.
        gap: Gap,
    },
    /// Payload of the object begun last, as it arrived.
    Payload {
        /// A slice of what was pushed.
        data: Bytes,
        /// The object is complete.
        last: bool,
    },
}

/// Why a data stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The peer broke a rule: the session closes with this code.
    #[error("{reason}")]
    Session {
        /// Close code.
        code: SessionCode,
        /// Names the field and the offset.
        reason: String,
    },
    /// A limit was hit: stop the stream, keep the session.
    #[error("{reason}")]
    Stream {
        /// Stop code.
        code: ResetCode,
        /// Names the limit.
        reason: &'static str,
    },
}

/// Reads one data stream as its bytes arrive; holds at most one object head.
#[derive(Debug)]
pub struct Decoder {
    draft: Draft,
    order: GroupOrder,
}

impl Decoder {
    /// A decoder for a stream of which nothing was read yet. Property blocks above `property_bytes`
    /// and payloads above `object_bytes` end the stream.
    pub fn new(draft: Draft, property_bytes: usize, object_bytes: u64) -> Self {
        let _ = (property_bytes, object_bytes);
        Self { draft, order: GroupOrder::Ascending }
    }

    /// Group order of the FETCH this stream answers; matters before the first object.
    pub fn set_group_order(&mut self, order: GroupOrder) {
        self.order = order;
    }

    /// Appends what arrived. Call [`Decoder::next`] until it returns `None` after each push.
    pub fn push(&mut self, data: Bytes) {
        let _ = (self.draft, data);
    }

    /// The next item, or `None` until more is pushed.
    #[expect(clippy::should_implement_trait, reason = "an item needs more input, not another call")]
    pub fn next(&mut self) -> Result<Option<Item>, DataError> {
        Ok(None)
    }

    /// What the stream is, once its head was read.
    pub fn kind(&self) -> Option<StreamKind> {
        None
    }

    /// The peer finished the stream: an error if it did so inside a head or a payload.
    pub fn finish(&self) -> Result<(), DataError> {
        Ok(())
    }
}
