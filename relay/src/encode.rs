//! Stream and object heads, encoded once per draft and shared by every subscriber of that draft.
//! It owns the choice of header flags; the bytes themselves are weir-moqt's.

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{ObjectHeader, Status, SubgroupEncoder, SubgroupHeader, convert_properties};

use crate::Draft;

/// One value for each draft family spoken here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerDraft<T> {
    d16: T,
    d18: T,
}

impl<T> PerDraft<T> {
    pub(crate) fn of(&self, draft: Draft) -> &T {
        match draft {
            Draft::D16 => &self.d16,
            _ => &self.d18,
        }
    }
}

/// The draft whose property encoding caches and [`crate::ObjectIn`] hold.
pub(crate) const PROPERTIES_DRAFT: Draft = Draft::D18;

/// Encodes the head of a group's stream. The property flag is always set, because whether a later
/// object has properties is not known yet: one byte per object buys a stream that never has to be
/// reopened. `end_of_group` is always set, because we finish a stream only when its group is complete.
pub(crate) fn stream_head(
    draft: Draft,
    alias: u64,
    group: u64,
    priority: u8,
    first: bool,
) -> Option<Bytes> {
    let header = SubgroupHeader {
        alias,
        group,
        subgroup: 0,
        priority: Some(priority),
        properties: true,
        end_of_group: true,
        first_object: first,
    };
    let mut out = BytesMut::with_capacity(24);
    SubgroupEncoder::new(draft, &header, &mut out).ok()?;
    Some(out.freeze())
}

/// The stream head for both drafts, for a stream that starts with the group's first object.
pub(crate) fn stream_heads(alias: u64, group: u64, priority: u8) -> Option<PerDraft<Bytes>> {
    Some(PerDraft {
        d16: stream_head(Draft::D16, alias, group, priority, true)?,
        d18: stream_head(Draft::D18, alias, group, priority, true)?,
    })
}

/// Encodes the head of one object that follows `previous` on its stream.
pub(crate) fn object_head(
    draft: Draft,
    previous: Option<u64>,
    object: u64,
    properties: &Bytes,
    payload_len: usize,
) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(16 + properties.len());
    append_object_head(draft, previous, object, properties, payload_len, &mut out)?;
    Some(out.freeze())
}

/// The object head for both drafts, in one allocation.
pub(crate) fn object_heads(
    previous: Option<u64>,
    object: u64,
    properties: &Bytes,
    payload_len: usize,
) -> Option<PerDraft<Bytes>> {
    let mut out = BytesMut::with_capacity(2 * (16 + properties.len()));
    append_object_head(Draft::D16, previous, object, properties, payload_len, &mut out)?;
    let d16 = out.split().freeze();
    append_object_head(Draft::D18, previous, object, properties, payload_len, &mut out)?;
    Some(PerDraft { d16, d18: out.freeze() })
}

fn append_object_head(
    draft: Draft,
    previous: Option<u64>,
    object: u64,
    properties: &Bytes,
    payload_len: usize,
    out: &mut BytesMut,
) -> Option<()> {
    let header = ObjectHeader {
        object,
        properties: properties_for(draft, properties),
        payload_len: payload_len as u64,
        status: Status::Normal,
    };
    SubgroupEncoder::resume(draft, true, previous).object(&header, out).ok()
}

/// A property block rewritten for `draft`; one that does not fit there is left out.
pub(crate) fn properties_for(draft: Draft, properties: &Bytes) -> Bytes {
    if properties.is_empty() {
        return Bytes::new();
    }
    convert_properties(PROPERTIES_DRAFT, draft, properties).unwrap_or_default()
}
