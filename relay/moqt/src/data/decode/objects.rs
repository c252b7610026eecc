//! The heads of objects: what each field may say, and what is left out of it. No state but what a stream remembers.

use bytes::Bytes;

use super::super::codec::{STATUS_MISSING, datagram as dg, fetch};
use super::super::{Datagram, FetchObject, Gap, ObjectHeader, Status};
use super::{Cursor, DataError, Fetch, Found, Head, Stuck, Subgroup};
use crate::draft::{Draft, Rules};
use crate::model::{GroupOrder, Location};

/// Section 11.4.2: delta, [properties], payload length, [status].
pub(super) fn read_object(
    cursor: &mut Cursor<'_>,
    stream: &Subgroup,
    property_bytes: usize,
) -> Result<(Head, std::ops::Range<usize>), Stuck> {
    let delta = cursor.int()?;
    let object = match stream.previous {
        None => Some(delta),
        Some(previous) => previous.checked_add(1).and_then(|next| next.checked_add(delta)),
    };
    let object = object
        .filter(|&id| id <= cursor.rules.ints.max())
        .ok_or_else(|| cursor.broken("object id", "overflows"))?;
    let properties = if stream.header.properties { cursor.block(property_bytes)? } else { 0..0 };
    let payload_len = cursor.int()?;
    let (status, properties) = if payload_len == 0 {
        let wire = cursor.int()?;
        read_status(cursor, wire, properties)?
    } else {
        (Some(Status::Normal), properties)
    };
    let missing = status.is_none();
    let status = status.unwrap_or_default();
    let object = ObjectHeader { object, properties: Bytes::new(), payload_len, status };
    Ok((Head { object, missing }, properties))
}

type ReadStatus = (Option<Status>, std::ops::Range<usize>);

/// A status, and what of the properties beside it is kept: none but those of an object. `None` = the
/// object does not exist, which only draft 14 says; there other markers may have properties too
/// (section 10.2.1.1), which later drafts refuse.
fn read_status(
    cursor: &Cursor<'_>,
    wire: u64,
    properties: std::ops::Range<usize>,
) -> Result<ReadStatus, Stuck> {
    let in_full = cursor.rules.in_full;
    let status = match Status::read(wire) {
        Some(Status::Normal) => return Ok((Some(Status::Normal), properties)),
        None if in_full && wire == STATUS_MISSING => None,
        None => return Err(cursor.broken("object status", &format!("{wire} is unknown"))),
        marker => marker,
    };
    if !properties.is_empty() && (!in_full || status.is_none()) {
        return Err(cursor.broken("properties", "beside a status"));
    }
    Ok((status, 0..0))
}

/// Section 11.4.4.1.
pub(super) fn read_fetch_object(
    cursor: &mut Cursor<'_>,
    stream: &Fetch,
    order: GroupOrder,
    property_bytes: usize,
) -> Result<(Found, std::ops::Range<usize>), Stuck> {
    if cursor.rules.in_full {
        return read_object_in_full(cursor, property_bytes);
    }
    let flags = cursor.int()?;
    let gap = match flags {
        fetch::GAP_NON_EXISTENT => Some(Gap::NonExistent),
        fetch::GAP_UNKNOWN => Some(Gap::Unknown),
        fetch::GAP_TIMED_OUT if cursor.rules.gap_timed_out => Some(Gap::TimedOut),
        0..=fetch::FLAGS_MAX => None,
        _ => return Err(cursor.broken("serialization flags", &format!("{flags:#x} are unknown"))),
    };
    if let Some(gap) = gap {
        let end = Location { group: cursor.int()?, object: cursor.int()? };
        if cursor.int()? != 0 {
            return Err(cursor.broken("end of range", "has a payload"));
        }
        return Ok((Found::Gap(end, gap), 0..0));
    }
    let field = |cursor: &mut Cursor<'_>, bit| {
        if flags & bit == 0 { Ok(None) } else { cursor.int().map(Some) }
    };
    let group_field = field(cursor, fetch::GROUP)?;
    let mode = flags & fetch::MODE;
    let datagram = flags & fetch::DATAGRAM != 0;
    let explicit =
        if mode == fetch::MODE_EXPLICIT && !datagram { Some(cursor.int()?) } else { None };
    let object_field = field(cursor, fetch::OBJECT)?;
    let priority = if flags & fetch::PRIORITY == 0 { None } else { Some(cursor.byte()?) };
    let properties =
        if flags & fetch::PROPERTIES == 0 { 0..0 } else { cursor.block(property_bytes)? };
    let payload_len = cursor.int()?;

    let location =
        resolve_location(cursor.rules, stream.prior, order, group_field, object_field)
            .ok_or_else(|| cursor.broken("object location", "refers to nothing or overflows"))?;
    let subgroup = if datagram {
        None
    } else {
        let subgroup = match mode {
            fetch::MODE_PRIOR => stream.subgroup,
            fetch::MODE_NEXT => stream.subgroup.and_then(|prior| prior.checked_add(1)),
            fetch::MODE_EXPLICIT => explicit,
            _ => Some(0),
        };
        Some(subgroup.ok_or_else(|| cursor.broken("subgroup", "refers to no prior object"))?)
    };
    let priority = priority
        .or(stream.priority)
        .ok_or_else(|| cursor.broken("priority", "refers to no prior object"))?;
    let properties_later = Bytes::new();
    let object =
        FetchObject { location, subgroup, priority, properties: properties_later, payload_len };
    Ok((Found::Object(object), properties))
}

/// Draft 14, section 10.4.4: all fields, and a status behind an empty payload. Markers become the gaps
/// they stand for.
fn read_object_in_full(
    cursor: &mut Cursor<'_>,
    property_bytes: usize,
) -> Result<(Found, std::ops::Range<usize>), Stuck> {
    let group = cursor.int()?;
    let subgroup = Some(cursor.int()?);
    let location = Location { group, object: cursor.int()? };
    let priority = cursor.byte()?;
    let properties = cursor.block(property_bytes)?;
    let payload_len = cursor.int()?;
    let (status, properties) = if payload_len == 0 {
        let wire = cursor.int()?;
        read_status(cursor, wire, properties)?
    } else {
        (Some(Status::Normal), properties)
    };
    let end = match status {
        Some(Status::Normal) => {
            let properties_later = Bytes::new();
            let object = FetchObject {
                location,
                subgroup,
                priority,
                properties: properties_later,
                payload_len,
            };
            return Ok((Found::Object(object), properties));
        }
        None => location,
        Some(Status::EndOfGroup | Status::EndOfTrack) => Location::whole_group(group),
    };
    Ok((Found::Gap(end, Gap::NonExistent), 0..0))
}

/// The first object is absolute in every draft; what follows is relative to the prior one (draft 18)
/// or absolute where present (draft 16). An absent object id is the prior one plus one.
fn resolve_location(
    rules: &Rules,
    prior: Option<Location>,
    order: GroupOrder,
    group: Option<u64>,
    object: Option<u64>,
) -> Option<Location> {
    let location = match (prior, group, object) {
        (None, Some(group), Some(object)) => Location { group, object },
        (None, ..) => return None,
        (Some(prior), group, object) => {
            let new_group = match group {
                None => prior.group,
                Some(group) if !rules.fetch_deltas => group,
                Some(delta) if order == GroupOrder::Ascending => {
                    prior.group.checked_add(delta)?.checked_add(1)?
                }
                Some(delta) => prior.group.checked_sub(delta)?.checked_sub(1)?,
            };
            let object = match object {
                None => prior.object.checked_add(1)?,
                Some(delta) if rules.fetch_deltas && group.is_none() => {
                    prior.object.checked_add(delta)?
                }
                Some(object) => object,
            };
            Location { group: new_group, object }
        }
    };
    (location.group.max(location.object) <= rules.ints.max()).then_some(location)
}

/// Section 11.3.1.
pub(in crate::data) fn datagram(
    draft: Draft,
    bytes: &Bytes,
) -> Result<Option<Datagram>, DataError> {
    let rules = draft.codec().rules();
    let mut cursor = Cursor { bytes, at: 0, rules, what: "datagram", base: 0 };
    match read_datagram(&mut cursor) {
        Ok(None) => Ok(None),
        Ok(Some((datagram, properties))) => {
            let payload = bytes.slice(cursor.at..);
            if datagram.status != Status::Normal && !payload.is_empty() {
                return Err(cursor.violation("payload", "beside a status"));
            }
            Ok(Some(Datagram { properties: bytes.slice(properties), payload, ..datagram }))
        }
        Err(Stuck::Error(error)) => Err(error),
        Err(Stuck::Short) => Err(cursor.violation("head", "ends inside a field")),
    }
}

type DatagramHead = Option<(Datagram, std::ops::Range<usize>)>;

fn read_datagram(cursor: &mut Cursor<'_>) -> Result<DatagramHead, Stuck> {
    let kind = cursor.int()?;
    if cursor.rules.padding.is_some_and(|(_, datagram)| datagram == kind) {
        return Ok(None);
    }
    let both = dg::STATUS | dg::END_OF_GROUP;
    let mut allowed = dg::ALL;
    if cursor.rules.in_full {
        allowed &= !dg::DEFAULT_PRIORITY;
        if kind & dg::STATUS != 0 {
            allowed &= !dg::ZERO_OBJECT;
        }
    }
    if kind & !allowed != 0 || kind & both == both {
        return Err(cursor.broken("type", &format!("{kind:#x} is unknown")));
    }
    let alias = cursor.int()?;
    let group = cursor.int()?;
    let object = if kind & dg::ZERO_OBJECT == 0 { cursor.int()? } else { 0 };
    let priority = if kind & dg::DEFAULT_PRIORITY == 0 { Some(cursor.byte()?) } else { None };
    let mut properties = 0..0;
    if kind & dg::PROPERTIES != 0 {
        properties = cursor.block(usize::MAX)?;
        if properties.is_empty() {
            return Err(cursor.broken("properties", "are announced and empty"));
        }
    }
    let (status, properties) = if kind & dg::STATUS == 0 {
        (Some(Status::Normal), properties)
    } else {
        // One byte in draft 18, a varint before: the same for the values there are.
        let wire = u64::from(cursor.byte()?);
        read_status(cursor, wire, properties)?
    };
    let Some(status) = status else {
        return Ok(None);
    };
    let datagram = Datagram {
        alias,
        location: Location { group, object },
        priority,
        end_of_group: kind & dg::END_OF_GROUP != 0,
        status,
        ..Datagram::default()
    };
    Ok(Some((datagram, properties)))
}
