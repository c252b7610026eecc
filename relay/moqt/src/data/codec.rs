//! Encoders of data stream and datagram headers. They append to the caller's buffer and allocate
//! nothing else; what differs between drafts they take from the draft's rules.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    DEFAULT_PRIORITY, Datagram, FetchHeader, FetchObject, Gap, ObjectHeader, Status, SubgroupHeader,
};
use crate::draft::{Draft, Rules};
use crate::error::CommandError;
use crate::model::{GroupOrder, Location};

/// Bits of a subgroup header's type (section 11.4.2).
pub(super) mod subgroup {
    pub(crate) const BASE: u64 = 0x10;
    pub(crate) const PROPERTIES: u64 = 0x01;
    pub(crate) const MODE: u64 = 0x06;
    pub(crate) const MODE_FIRST_OBJECT: u64 = 0x02;
    pub(crate) const MODE_EXPLICIT: u64 = 0x04;
    pub(crate) const END_OF_GROUP: u64 = 0x08;
    pub(crate) const DEFAULT_PRIORITY: u64 = 0x20;
    pub(crate) const FIRST_OBJECT: u64 = 0x40;
}

/// Serialization flags of a fetch object (section 11.4.4.1).
pub(super) mod fetch {
    pub(crate) const STREAM_TYPE: u64 = 0x05;
    pub(crate) const MODE: u64 = 0x03;
    pub(crate) const MODE_PRIOR: u64 = 0x01;
    pub(crate) const MODE_NEXT: u64 = 0x02;
    pub(crate) const MODE_EXPLICIT: u64 = 0x03;
    pub(crate) const OBJECT: u64 = 0x04;
    pub(crate) const GROUP: u64 = 0x08;
    pub(crate) const PRIORITY: u64 = 0x10;
    pub(crate) const PROPERTIES: u64 = 0x20;
    pub(crate) const DATAGRAM: u64 = 0x40;
    pub(crate) const FLAGS_MAX: u64 = 0x7F;
    pub(crate) const GAP_NON_EXISTENT: u64 = 0x8C;
    pub(crate) const GAP_UNKNOWN: u64 = 0x10C;
    pub(crate) const GAP_TIMED_OUT: u64 = 0x20C;
}

/// Bits of a datagram's type (section 11.3.1).
pub(super) mod datagram {
    pub(crate) const PROPERTIES: u64 = 0x01;
    pub(crate) const END_OF_GROUP: u64 = 0x02;
    pub(crate) const ZERO_OBJECT: u64 = 0x04;
    pub(crate) const DEFAULT_PRIORITY: u64 = 0x08;
    pub(crate) const STATUS: u64 = 0x20;
    pub(crate) const ALL: u64 = 0x2F;
}

impl Status {
    pub(super) const fn wire(self) -> u64 {
        match self {
            Self::Normal => 0,
            Self::EndOfGroup => 3,
            Self::EndOfTrack => 4,
        }
    }

    pub(super) const fn read(wire: u64) -> Option<Self> {
        match wire {
            0 => Some(Self::Normal),
            3 => Some(Self::EndOfGroup),
            4 => Some(Self::EndOfTrack),
            _ => None,
        }
    }
}

/// The fourth status of draft 14, "object does not exist": later drafts say it by a gap.
pub(super) const STATUS_MISSING: u64 = 1;

/// The priority to write, if any: a draft that says things in full names the default too.
fn written(rules: &Rules, priority: Option<u8>) -> Option<u8> {
    if rules.in_full { Some(priority.unwrap_or(DEFAULT_PRIORITY)) } else { priority }
}

/// Checks ids of another draft before they are written: RFC 9000 varints end at 2^62-1.
fn fits(rules: &Rules, ids: &[u64]) -> Result<(), CommandError> {
    if ids.iter().all(|&id| id <= rules.ints.max()) {
        return Ok(());
    }
    Err(CommandError::NotEncodable("an id above 2^62-1"))
}

/// Writes the headers of one subgroup stream; the same bytes serve every subscriber of a draft.
#[derive(Clone, Debug)]
pub struct SubgroupEncoder {
    rules: &'static Rules,
    properties: bool,
    previous: Option<u64>,
}

impl SubgroupEncoder {
    /// Starts a stream: appends its header to `out`.
    pub fn new(
        draft: Draft,
        header: &SubgroupHeader,
        out: &mut BytesMut,
    ) -> Result<Self, CommandError> {
        let rules = draft.codec().rules();
        let ints = rules.ints;
        fits(rules, &[header.alias, header.group, header.subgroup])?;
        let priority = written(rules, header.priority);
        let mut kind = subgroup::BASE;
        for (bit, set) in [
            (subgroup::PROPERTIES, header.properties),
            (subgroup::MODE_EXPLICIT, header.subgroup != 0),
            (subgroup::END_OF_GROUP, header.end_of_group),
            (subgroup::DEFAULT_PRIORITY, priority.is_none()),
            (subgroup::FIRST_OBJECT, header.first_object && rules.first_object_bit),
        ] {
            kind |= if set { bit } else { 0 };
        }
        ints.encode(kind, out);
        ints.encode(header.alias, out);
        ints.encode(header.group, out);
        if header.subgroup != 0 {
            ints.encode(header.subgroup, out);
        }
        if let Some(priority) = priority {
            out.put_u8(priority);
        }
        Ok(Self::resume(draft, header.properties, None))
    }

    /// Goes on with a stream whose header and objects up to `previous` were written elsewhere.
    pub fn resume(draft: Draft, properties: bool, previous: Option<u64>) -> Self {
        Self { rules: draft.codec().rules(), properties, previous }
    }

    /// Appends the head of an object; its payload follows. Objects must come in ascending order.
    pub fn object(
        &mut self,
        object: &ObjectHeader,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        let ints = self.rules.ints;
        fits(self.rules, &[object.object, object.payload_len])?;
        let delta = match self.previous {
            None => Some(object.object),
            Some(previous) => object.object.checked_sub(previous).and_then(|d| d.checked_sub(1)),
        };
        let Some(delta) = delta else {
            return Err(CommandError::NotEncodable("an object id out of order"));
        };
        if !self.properties && !object.properties.is_empty() {
            return Err(CommandError::NotEncodable("properties on a stream without"));
        }
        if object.status != Status::Normal
            && (object.payload_len > 0 || !object.properties.is_empty())
        {
            return Err(CommandError::NotEncodable("a status beside payload or properties"));
        }
        self.previous = Some(object.object);
        ints.encode(delta, out);
        if self.properties {
            ints.encode(object.properties.len() as u64, out);
            out.put_slice(&object.properties);
        }
        ints.encode(object.payload_len, out);
        if object.payload_len == 0 {
            ints.encode(object.status.wire(), out);
        }
        Ok(())
    }
}

/// Writes the heads of one fetch stream.
#[derive(Clone, Debug)]
pub struct FetchEncoder {
    rules: &'static Rules,
    order: GroupOrder,
    prior: Option<Location>,
    /// Of the last object; forgotten at a gap, because drafts read that case differently.
    subgroup: Option<u64>,
    priority: Option<u8>,
}

impl FetchEncoder {
    /// Starts a stream: appends its header to `out`. `order` is that of the FETCH.
    pub fn new(
        draft: Draft,
        header: &FetchHeader,
        order: GroupOrder,
        out: &mut BytesMut,
    ) -> Result<Self, CommandError> {
        let rules = draft.codec().rules();
        fits(rules, &[header.request.0])?;
        rules.ints.encode(fetch::STREAM_TYPE, out);
        rules.ints.encode(header.request.0, out);
        Ok(Self { rules, order, prior: None, subgroup: None, priority: None })
    }

    /// Appends the head of an object; its payload follows.
    pub fn object(&mut self, object: &FetchObject, out: &mut BytesMut) -> Result<(), CommandError> {
        let Location { group, object: id } = object.location;
        fits(self.rules, &[group, id, object.subgroup.unwrap_or(0), object.payload_len])?;
        let group_field = self.group_field(group)?;
        let object_field = self.object_field(group_field.is_some(), id)?;
        if self.rules.in_full {
            self.object_in_full(object, out);
            return Ok(());
        }
        let (mode, subgroup_field) = match object.subgroup {
            None => (fetch::DATAGRAM, None),
            Some(0) => (0, None),
            Some(id) if self.subgroup == Some(id) => (fetch::MODE_PRIOR, None),
            Some(id) if self.subgroup.is_some_and(|prior| prior.checked_add(1) == Some(id)) => {
                (fetch::MODE_NEXT, None)
            }
            Some(id) => (fetch::MODE_EXPLICIT, Some(id)),
        };
        let priority_field =
            Some(object.priority).filter(|_| self.priority != Some(object.priority));
        let mut flags = mode;
        for (bit, set) in [
            (fetch::GROUP, group_field.is_some()),
            (fetch::OBJECT, object_field.is_some()),
            (fetch::PRIORITY, priority_field.is_some()),
            (fetch::PROPERTIES, !object.properties.is_empty()),
        ] {
            flags |= if set { bit } else { 0 };
        }
        let ints = self.rules.ints;
        ints.encode(flags, out);
        for field in [group_field, subgroup_field, object_field].into_iter().flatten() {
            ints.encode(field, out);
        }
        if let Some(priority) = priority_field {
            out.put_u8(priority);
        }
        if !object.properties.is_empty() {
            ints.encode(object.properties.len() as u64, out);
            out.put_slice(&object.properties);
        }
        ints.encode(object.payload_len, out);
        self.prior = Some(object.location);
        self.subgroup = object.subgroup;
        self.priority = Some(object.priority);
        Ok(())
    }

    /// Draft 14, section 10.4.4: all fields, and a status behind an empty payload. A datagram has its
    /// object id for a subgroup.
    fn object_in_full(&mut self, object: &FetchObject, out: &mut BytesMut) {
        let ints = self.rules.ints;
        let Location { group, object: id } = object.location;
        for field in [group, object.subgroup.unwrap_or(id), id] {
            ints.encode(field, out);
        }
        out.put_u8(object.priority);
        ints.encode(object.properties.len() as u64, out);
        out.put_slice(&object.properties);
        ints.encode(object.payload_len, out);
        if object.payload_len == 0 {
            ints.encode(Status::Normal.wire(), out);
        }
        self.prior = Some(object.location);
    }

    /// Says that everything since the last object up to and including `end` is missing, and why. Both
    /// numbers are ids in every draft: section 11.4.4.2 of draft 18 calls them so, its successors kept the
    /// words, and a delta could not end a gap in the group it began in. Codecs that read deltas from draft
    /// 20 on (moqtap-codec 0.9) agree at the head of a stream only; moqtail 0.17 reads ids.
    pub fn gap(&mut self, end: Location, gap: Gap, out: &mut BytesMut) -> Result<(), CommandError> {
        let ints = self.rules.ints;
        fits(self.rules, &[end.group])?;
        // "The whole group" is the largest object id the draft can write.
        let end = Location { object: end.object.min(ints.max()), ..end };
        if self.rules.in_full {
            // What is left out does not exist; what is not known cannot be said (section 9.16.3).
            if gap != Gap::NonExistent {
                return Err(CommandError::NotEncodable("a range that is not known"));
            }
            self.prior = Some(end);
            return Ok(());
        }
        let flags = match gap {
            Gap::NonExistent => fetch::GAP_NON_EXISTENT,
            Gap::TimedOut if self.rules.gap_timed_out => fetch::GAP_TIMED_OUT,
            Gap::Unknown | Gap::TimedOut => fetch::GAP_UNKNOWN,
        };
        for field in [flags, end.group, end.object, 0] {
            ints.encode(field, out);
        }
        self.prior = Some(end);
        self.subgroup = None;
        self.priority = None;
        Ok(())
    }

    fn group_field(&self, group: u64) -> Result<Option<u64>, CommandError> {
        let Some(prior) = self.prior else {
            return Ok(Some(group));
        };
        if prior.group == group {
            return Ok(None);
        }
        let distance = match self.order {
            GroupOrder::Ascending => group.checked_sub(prior.group),
            GroupOrder::Descending => prior.group.checked_sub(group),
        };
        match distance.and_then(|d| d.checked_sub(1)) {
            Some(delta) if self.rules.fetch_deltas => Ok(Some(delta)),
            Some(_) => Ok(Some(group)),
            None => Err(CommandError::NotEncodable("a group against the order of the fetch")),
        }
    }

    fn object_field(&self, new_group: bool, id: u64) -> Result<Option<u64>, CommandError> {
        let prior = match self.prior {
            Some(prior) if !new_group => prior.object,
            _ => return Ok(Some(id)),
        };
        match id.checked_sub(prior) {
            None | Some(0) => Err(CommandError::NotEncodable("an object id out of order")),
            Some(1) => Ok(None),
            Some(delta) if self.rules.fetch_deltas => Ok(Some(delta)),
            Some(_) => Ok(Some(id)),
        }
    }
}

impl Datagram {
    /// Appends this datagram to `out`.
    pub fn encode(&self, draft: Draft, out: &mut BytesMut) -> Result<(), CommandError> {
        let rules = draft.codec().rules();
        let ints = rules.ints;
        fits(rules, &[self.alias, self.location.group, self.location.object])?;
        let status = self.status != Status::Normal;
        if status && (self.end_of_group || !self.payload.is_empty() || !self.properties.is_empty())
        {
            return Err(CommandError::NotEncodable("a status beside payload or properties"));
        }
        let priority = written(rules, self.priority);
        // Draft 14 has no status datagram without an object id.
        let object = self.location.object != 0 || status && rules.in_full;
        let mut kind = 0;
        for (bit, set) in [
            (datagram::PROPERTIES, !self.properties.is_empty()),
            (datagram::END_OF_GROUP, self.end_of_group),
            (datagram::ZERO_OBJECT, !object),
            (datagram::DEFAULT_PRIORITY, priority.is_none()),
            (datagram::STATUS, status),
        ] {
            kind |= if set { bit } else { 0 };
        }
        ints.encode(kind, out);
        ints.encode(self.alias, out);
        ints.encode(self.location.group, out);
        if object {
            ints.encode(self.location.object, out);
        }
        if let Some(priority) = priority {
            out.put_u8(priority);
        }
        if !self.properties.is_empty() {
            ints.encode(self.properties.len() as u64, out);
            out.put_slice(&self.properties);
        }
        if status {
            // One byte in draft 18, a varint in draft 16: the same for these values.
            out.put_u8(self.status.wire() as u8);
        }
        out.put_slice(&self.payload);
        Ok(())
    }

    /// Reads an object datagram; `Ok(None)` for padding.
    #[expect(clippy::needless_pass_by_value, reason = "the payload is a slice of it")]
    pub fn decode(draft: Draft, bytes: Bytes) -> Result<Option<Self>, super::DataError> {
        super::decode::datagram(draft, &bytes)
    }
}
