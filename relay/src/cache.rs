//! The group cache of one track: the newest groups whole, older ones by age, count and bytes. It
//! owns what may be appended and what is malformed; it knows no subscriber and no media.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::Location;

use crate::encode::{PerDraft, object_heads, stream_heads};
use crate::{Limits, ObjectError, ObjectIn};

/// Largest group or object id: what a QUIC varint of draft 16 can carry.
pub(crate) const ID_MAX: u64 = (1 << 62) - 1;

/// How far a group may lie behind the newest and still be begun, when its publisher's streams can
/// overtake each other on the way here.
const LATE_GROUPS_MAX: u64 = 2;

/// Where a track's objects come from, and with it how strict their order must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// A local feed: strictly ascending.
    Strict,
    /// QUIC streams of a publisher: ascending in a group; groups may overlap a little.
    Streams,
    /// A copy of another shard's cache: replay and live mixed; what is old or known is ignored.
    Replica,
}

/// What became of an object that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is in the cache.
    New,
    /// It was there already, byte for byte.
    Duplicate,
    /// Only the end of its group was noted.
    Marker,
    /// Its group has left the cache.
    TooOld,
}

/// What an eviction freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) groups: u64,
    pub(crate) trimmed: u64,
    /// The byte cap asked for it (rather than age or count).
    pub(crate) by_bytes: bool,
}

/// Whether objects may follow in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupState {
    Growing,
    Complete,
    /// Its source gave it up: what is here is all there will be, and the end is missing.
    Aborted,
}

/// One object as the cache holds it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) id: u64,
    /// The object before it in the group when its heads were encoded.
    pub(crate) previous: Option<u64>,
    pub(crate) heads: PerDraft<Bytes>,
    /// In the encoding of draft 18.
    pub(crate) properties: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) arrived: Instant,
    /// Payload bytes of the group up to and including this object.
    pub(crate) end_offset: u64,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u64,
    pub(crate) priority: u8,
    /// Counts groups of the track in order; what stream priorities are made of.
    pub(crate) ordinal: u32,
    pub(crate) state: GroupState,
    pub(crate) heads: PerDraft<Bytes>,
    /// Objects below this id may have existed and are not here.
    pub(crate) known_from: u64,
    pub(crate) arrived: Instant,
    /// Objects below this id were cut off for the group's size.
    trimmed_below: u64,
    objects: VecDeque<Object>,
    bytes: usize,
}

impl Group {
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter()
    }

    /// The first object with this id or a larger one.
    pub(crate) fn at_or_after(&self, id: u64) -> Option<&Object> {
        // Nearly always the last one: a subscriber that keeps up.
        if let Some(last) = self.objects.back()
            && last.previous.is_none_or(|previous| previous < id)
        {
            return (last.id >= id).then_some(last);
        }
        let at = self.objects.partition_point(|object| object.id < id);
        self.objects.get(at)
    }

    pub(crate) fn last(&self) -> Option<&Object> {
        self.objects.back()
    }

    /// Payload offset of the end of the group so far; see [`Object::end_offset`].
    pub(crate) fn end_offset(&self) -> u64 {
        self.objects.back().map_or(0, |last| last.end_offset)
    }

    fn trim_first(&mut self) -> usize {
        let Some(first) = self.objects.pop_front() else { return 0 };
        self.known_from = first.id + 1;
        self.trimmed_below = first.id + 1;
        self.bytes -= first.payload.len();
        first.payload.len()
    }
}

/// The newest groups of one track, oldest first.
#[derive(Debug)]
pub(crate) struct Cache {
    alias: u64,
    order: Order,
    groups: VecDeque<Group>,
    bytes: usize,
    largest: Option<Location>,
    ordinal: u32,
    /// Groups up to this id are gone; what still comes for them is ignored.
    gone_through: Option<u64>,
}

impl Cache {
    pub(crate) fn new(alias: u64, order: Order) -> Self {
        Self {
            alias,
            order,
            groups: VecDeque::new(),
            bytes: 0,
            largest: None,
            ordinal: 0,
            gone_through: None,
        }
    }

    /// Largest location known, cached or told by the publisher.
    pub(crate) fn largest(&self) -> Option<Location> {
        self.largest
    }

    /// The publisher says that objects up to `location` exist, whether or not they are here.
    pub(crate) fn note_largest(&mut self, location: Location) {
        self.largest = self.largest.max(Some(location));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// Groups with this id or a larger one.
    pub(crate) fn groups_from(&self, id: u64) -> impl ExactSizeIterator<Item = &Group> {
        let at = self.groups.partition_point(|group| group.id < id);
        self.groups.range(at..)
    }

    pub(crate) fn newest(&self) -> Option<&Group> {
        self.groups.back()
    }

    pub(crate) fn group(&self, id: u64) -> Option<&Group> {
        let at = self.groups.binary_search_by_key(&id, |group| group.id).ok()?;
        self.groups.get(at)
    }

    fn group_mut(&mut self, id: u64) -> Option<&mut Group> {
        let at = self.groups.binary_search_by_key(&id, |group| group.id).ok()?;
        self.groups.get_mut(at)
    }

    /// Whether a stream for `group` may begin now; false means that groups go backwards.
    pub(crate) fn admits_group(&self, group: u64) -> bool {
        self.newest().is_none_or(|newest| {
            group >= newest.id
                || newest.id - group <= LATE_GROUPS_MAX
                || self.group(group).is_some()
        })
    }

    /// No object of `group` follows.
    pub(crate) fn complete_group(&mut self, group: u64) {
        if let Some(group) = self.group_mut(group)
            && group.state == GroupState::Growing
        {
            group.state = GroupState::Complete;
        }
    }

    /// The rest of `group` will not come.
    pub(crate) fn abort_group(&mut self, group: u64) {
        if let Some(group) = self.group_mut(group)
            && group.state == GroupState::Growing
        {
            group.state = GroupState::Aborted;
        }
    }

    /// The rest of every unfinished group will not come.
    pub(crate) fn abort_all(&mut self) {
        for group in &mut self.groups {
            if group.state == GroupState::Growing {
                group.state = GroupState::Aborted;
            }
        }
    }

    /// No object of any group follows.
    pub(crate) fn complete_all(&mut self) {
        for group in &mut self.groups {
            if group.state == GroupState::Growing {
                group.state = GroupState::Complete;
            }
        }
    }

    /// Takes an object, or refuses it and stays as it was.
    pub(crate) fn insert(
        &mut self,
        object: ObjectIn,
        object_bytes_max: usize,
    ) -> Result<Taken, ObjectError> {
        if object.group > ID_MAX || object.object > ID_MAX {
            return Err(ObjectError::IdRange);
        }
        if object.subgroup != 0 {
            return Err(ObjectError::Subgroup);
        }
        if object.payload.len() > object_bytes_max || object.properties.len() > object_bytes_max {
            return Err(ObjectError::TooLarge);
        }
        if object.end_of_group && object.payload.is_empty() && object.properties.is_empty() {
            return self.mark_end(&object);
        }
        match self.group(object.group) {
            Some(_) => self.append(object),
            None => self.begin(object),
        }
    }

    /// A bare end-of-group marker: nothing to store, but it must not contradict what is stored.
    fn mark_end(&mut self, marker: &ObjectIn) -> Result<Taken, ObjectError> {
        let strict = self.order != Order::Replica;
        match self.group_mut(marker.group) {
            Some(group) => {
                if strict && group.last().is_some_and(|last| last.id > marker.object) {
                    return Err(ObjectError::ObjectBackwards);
                }
                group.state = GroupState::Complete;
                Ok(Taken::Marker)
            }
            None => Ok(Taken::TooOld),
        }
    }

    fn append(&mut self, object: ObjectIn) -> Result<Taken, ObjectError> {
        let order = self.order;
        let is_newest = self.newest().is_some_and(|newest| newest.id == object.group);
        let Some(group) = self.group_mut(object.group) else { return Ok(Taken::TooOld) };
        let at = match group.objects.binary_search_by_key(&object.object, |known| known.id) {
            Ok(at) => return same(group.objects.get(at), &object).map(|()| Taken::Duplicate),
            Err(at) => at,
        };
        let in_middle = at < group.objects.len();
        if order != Order::Replica {
            if in_middle {
                return Err(ObjectError::ObjectBackwards);
            }
            if group.state != GroupState::Growing {
                // After its end: of the newest group an object, of older ones the group comes back.
                return Err(if is_newest {
                    ObjectError::ObjectBackwards
                } else {
                    ObjectError::GroupBackwards
                });
            }
        } else if object.object < group.trimmed_below {
            // Replay must not bring back what the group's size did not allow.
            return Ok(Taken::TooOld);
        }
        let end_of_group = object.end_of_group;
        let location = Location::new(object.group, object.object);
        let length = object.payload.len();
        group.store(at, object)?;
        if end_of_group {
            group.state = GroupState::Complete;
        }
        self.bytes += length;
        self.note_largest(location);
        Ok(Taken::New)
    }

    fn begin(&mut self, object: ObjectIn) -> Result<Taken, ObjectError> {
        let newest = self.newest().map(|newest| newest.id);
        let is_newest = newest.is_none_or(|newest| object.group > newest);
        let gone = self.gone_through.is_some_and(|gone| object.group <= gone);
        if !is_newest || gone {
            match self.order {
                Order::Strict => return Err(ObjectError::GroupBackwards),
                Order::Streams | Order::Replica if gone => return Ok(Taken::TooOld),
                Order::Streams if !self.admits_group(object.group) => {
                    return Err(ObjectError::GroupBackwards);
                }
                Order::Streams | Order::Replica => {}
            }
        }
        let heads =
            stream_heads(self.alias, object.group, object.priority).ok_or(ObjectError::IdRange)?;
        if is_newest {
            self.ordinal = self.ordinal.wrapping_add(1);
        }
        let mut group = Group {
            id: object.group,
            priority: object.priority,
            ordinal: if is_newest { self.ordinal } else { self.ordinal.wrapping_sub(1) },
            state: GroupState::Growing,
            heads,
            // Only a publisher whose streams we joined late starts us in the middle of a group.
            known_from: if self.order == Order::Strict { 0 } else { object.object },
            arrived: object.arrived,
            trimmed_below: 0,
            objects: VecDeque::new(),
            bytes: 0,
        };
        let end_of_group = object.end_of_group;
        let location = Location::new(object.group, object.object);
        let length = object.payload.len();
        group.store(0, object)?;
        if end_of_group || (!is_newest && self.order != Order::Streams) {
            group.state = GroupState::Complete;
        }
        if is_newest && self.order != Order::Streams {
            // A feed writes one group after the other; the next one ends all before it.
            self.complete_all();
        }
        let at = self.groups.partition_point(|known| known.id < group.id);
        self.groups.insert(at, group);
        self.bytes += length;
        self.note_largest(location);
        Ok(Taken::New)
    }

    /// Frees what age, count or bytes no longer allow. The newest group stays, but past the byte
    /// or object cap it loses its head.
    pub(crate) fn evict(&mut self, limits: &Limits, bytes_max: usize, now: Instant) -> Evicted {
        let mut evicted = Evicted::default();
        while self.groups.len() > 1 {
            let Some(oldest) = self.groups.front() else { break };
            let over_bytes = self.bytes > bytes_max;
            let over_age = age(oldest, now) > limits.cache_age_max;
            if !over_bytes && !over_age && self.groups.len() <= limits.cache_groups_max.max(1) {
                break;
            }
            evicted.by_bytes |= over_bytes;
            evicted.groups += 1;
            self.drop_oldest();
        }
        let Self { groups, bytes, .. } = self;
        for group in groups {
            while group.objects.len() > 1
                && (group.objects.len() > limits.group_objects_max || *bytes > bytes_max)
            {
                evicted.by_bytes |= *bytes > bytes_max;
                evicted.trimmed += 1;
                *bytes -= group.trim_first();
            }
        }
        evicted
    }

    fn drop_oldest(&mut self) {
        if let Some(group) = self.groups.pop_front() {
            self.bytes -= group.bytes;
            self.gone_through = self.gone_through.max(Some(group.id));
        }
    }
}

/// Age of a group since its newest object.
fn age(group: &Group, now: Instant) -> Duration {
    let newest = group.last().map_or(group.arrived, |last| last.arrived);
    now.saturating_duration_since(newest)
}

impl Group {
    fn store(&mut self, at: usize, object: ObjectIn) -> Result<(), ObjectError> {
        let previous = at.checked_sub(1).and_then(|before| self.objects.get(before));
        let previous = previous.map(|previous| previous.id);
        let length = object.payload.len();
        let heads = object_heads(previous, object.object, &object.properties, length)
            .ok_or(ObjectError::IdRange)?;
        let end_offset = self.end_offset() + length as u64;
        self.bytes += length;
        self.known_from = self.known_from.min(object.object);
        let stored = Object {
            id: object.object,
            previous,
            heads,
            properties: object.properties,
            payload: object.payload,
            arrived: object.arrived,
            end_offset,
        };
        if at == self.objects.len() {
            self.objects.push_back(stored);
        } else {
            self.objects.insert(at, stored);
            self.recount(at);
        }
        Ok(())
    }

    /// After an insertion in the middle (replicas only): heads and offsets behind it change.
    fn recount(&mut self, at: usize) {
        let mut before =
            at.checked_sub(1).and_then(|i| self.objects.get(i)).map(|o| (o.id, o.end_offset));
        for object in self.objects.iter_mut().skip(at) {
            let previous = before.map(|(id, _)| id);
            if object.previous != previous
                && let Some(heads) =
                    object_heads(previous, object.id, &object.properties, object.payload.len())
            {
                object.previous = previous;
                object.heads = heads;
            }
            object.end_offset =
                before.map_or(0, |(_, offset)| offset) + object.payload.len() as u64;
            before = Some((object.id, object.end_offset));
        }
    }
}

/// Whether a second object under a known id is the same object (H28: anything else is poison).
fn same(known: Option<&Object>, object: &ObjectIn) -> Result<(), ObjectError> {
    match known {
        Some(known) if known.payload == object.payload && known.properties == object.properties => {
            Ok(())
        }
        _ => Err(ObjectError::Conflict),
    }
}

#[cfg(test)]
mod tests;
