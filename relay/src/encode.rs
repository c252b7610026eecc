//! Stream and object heads, encoded once per draft and shared by every subscriber of that draft.
//! It owns the choice of header flags; the bytes themselves are weir-moqt's.

use bytes::{Bytes, BytesMut};
use weir_moqt::Location;
use weir_moqt::data::{
    Datagram, ObjectHeader, Status, SubgroupEncoder, SubgroupHeader, convert_properties,
};

use crate::Draft;

/// One value for each draft family spoken here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerDraft<T> {
    d14: T,
    d16: T,
    d18: T,
}

impl<T> PerDraft<T> {
    pub(crate) fn of(&self, draft: Draft) -> &T {
        match draft {
            Draft::D14 => &self.d14,
            Draft::D16 => &self.d16,
            _ => &self.d18,
        }
    }
}

/// The draft whose property encoding caches and [`crate::ObjectIn`] hold.
pub(crate) const PROPERTIES_DRAFT: Draft = Draft::D18;

/// Encodes the head of a subgroup's stream. The property flag is always set, because whether a later
/// object has properties is not known yet: one byte per object buys a stream that never has to be
/// reopened. `holds_end`: the stream, once finished, has brought the last object of the group.
pub(crate) fn stream_head(
    draft: Draft,
    alias: u64,
    group: u64,
    subgroup: u64,
    priority: u8,
    holds_end: bool,
    first: bool,
) -> Option<Bytes> {
    let header = SubgroupHeader {
        alias,
        group,
        subgroup,
        priority: Some(priority),
        properties: true,
        end_of_group: holds_end,
        first_object: first,
    };
    let mut out = BytesMut::with_capacity(24);
    SubgroupEncoder::new(draft, &header, &mut out).ok()?;
    Some(out.freeze())
}

/// The stream head for all drafts, for a stream that starts with the subgroup's first object.
pub(crate) fn stream_heads(
    alias: u64,
    group: u64,
    subgroup: u64,
    priority: u8,
    holds_end: bool,
) -> Option<PerDraft<Bytes>> {
    let head = |draft| stream_head(draft, alias, group, subgroup, priority, holds_end, true);
    // With its priority named, a head of draft 16 is one of draft 14.
    let d16 = head(Draft::D16)?;
    Some(PerDraft { d14: d16.clone(), d16, d18: head(Draft::D18)? })
}

/// Encodes the head of one object that follows `previous` on its stream.
pub(crate) fn object_head(
    draft: Draft,
    previous: Option<u64>,
    object: u64,
    properties: &Bytes,
    payload_len: usize,
    status: Status,
) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(16 + properties.len());
    append_object_head(draft, previous, object, properties, payload_len, status, &mut out)?;
    Some(out.freeze())
}

/// The object head for all drafts, in one allocation. Drafts 14 and 16 write properties differently, and
/// nothing else.
pub(crate) fn object_heads(
    previous: Option<u64>,
    object: u64,
    properties: &Bytes,
    payload_len: usize,
    status: Status,
) -> Option<PerDraft<Bytes>> {
    let mut out = BytesMut::with_capacity(3 * (16 + properties.len()));
    append_object_head(Draft::D16, previous, object, properties, payload_len, status, &mut out)?;
    let d16 = out.split().freeze();
    let d14 = if properties.is_empty() {
        d16.clone()
    } else {
        let draft = Draft::D14;
        append_object_head(draft, previous, object, properties, payload_len, status, &mut out)?;
        out.split().freeze()
    };
    append_object_head(Draft::D18, previous, object, properties, payload_len, status, &mut out)?;
    Some(PerDraft { d14, d16, d18: out.freeze() })
}

fn append_object_head(
    draft: Draft,
    previous: Option<u64>,
    object: u64,
    properties: &Bytes,
    payload_len: usize,
    status: Status,
    out: &mut BytesMut,
) -> Option<()> {
    let header = ObjectHeader {
        object,
        properties: properties_for(draft, properties),
        payload_len: payload_len as u64,
        status,
    };
    SubgroupEncoder::resume(draft, true, previous).object(&header, out).ok()
}

/// A datagram object as it leaves for all drafts: one copy of the payload for each.
pub(crate) fn datagrams(
    alias: u64,
    location: Location,
    priority: u8,
    properties: &Bytes,
    payload: &Bytes,
    status: Status,
    end_of_group: bool,
) -> Option<PerDraft<Bytes>> {
    let encode = |draft| {
        let datagram = Datagram {
            alias,
            location,
            priority: Some(priority),
            properties: properties_for(draft, properties),
            end_of_group,
            status,
            payload: payload.clone(),
        };
        let mut out = BytesMut::with_capacity(32 + properties.len() + payload.len());
        datagram.encode(draft, &mut out).ok()?;
        Some(out.freeze())
    };
    let d16 = encode(Draft::D16)?;
    let d14 = if properties.is_empty() { d16.clone() } else { encode(Draft::D14)? };
    Some(PerDraft { d14, d16, d18: encode(Draft::D18)? })
}

/// A datagram object for a subscription with an alias of its own.
pub(crate) fn with_alias(datagram: &Bytes, draft: Draft, alias: u64) -> Option<Bytes> {
    let known = Datagram::decode(draft, datagram.clone()).ok()??;
    let mut out = BytesMut::with_capacity(datagram.len() + 8);
    Datagram { alias, ..known }.encode(draft, &mut out).ok()?;
    Some(out.freeze())
}

/// A property block rewritten for `draft`; one that does not fit there is left out.
pub(crate) fn properties_for(draft: Draft, properties: &Bytes) -> Bytes {
    if properties.is_empty() {
        return Bytes::new();
    }
    convert_properties(PROPERTIES_DRAFT, draft, properties).unwrap_or_default()
}
