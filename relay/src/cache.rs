//! The group cache of one track: the newest groups whole, older ones by age, count and bytes. It
//! owns what may be appended and what is malformed; it knows no subscriber and no media. Objects
//! enter by their head ([`Cache::start`]) and grow by fragments ([`Cache::append`]), so that readers
//! may follow while they arrive.

mod group;
mod payload;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::data::Status;
use weir_moqt::{Location, ResetCode};

pub(crate) use group::{Group, Object, Progress, Subgroup};
pub(crate) use payload::Payload;

use crate::encode::{datagrams, stream_heads};
use crate::{Forwarding, Limits, ObjectError, ObjectIn};
use group::NewObject;

/// Largest group or object id: what a QUIC varint of draft 16 can carry.
pub(crate) const ID_MAX: u64 = (1 << 62) - 1;

/// How far a group may lie behind the newest and still be begun, when its publisher's streams can
/// overtake each other on the way here.
const LATE_GROUPS_MAX: u64 = 2;

/// Subgroups of one group: 4 temporal by 4 spatial layers. Past it a subgroup is not taken.
const SUBGROUPS_MAX: usize = 16;

/// Datagram objects a subscriber may be behind before it misses some: a burst of 128.
const RECENT_DATAGRAMS: usize = 128;

/// Where a track's objects come from, and with it how strict their order must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// A local feed: strictly ascending.
    Strict,
    /// QUIC streams of a publisher: ascending in a subgroup; groups may overlap a little.
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
    /// [`SUBGROUPS_MAX`].
    Full,
}

/// What became of an object's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    /// Its bytes are to be appended under this serial.
    New { serial: u64 },
    /// It is here already: its bytes are to be compared.
    Known,
    /// Its group has left the cache.
    TooOld,
    /// [`SUBGROUPS_MAX`].
    Full,
}

/// The head of an object, before any byte of its payload.
#[derive(Clone, Debug)]
pub(crate) struct ObjectHead {
    pub(crate) group: u64,
    pub(crate) subgroup: u64,
    pub(crate) object: u64,
    pub(crate) priority: u8,
    /// Its subgroup holds the last object of the group.
    pub(crate) holds_end: bool,
    /// It is known to be the first of its subgroup.
    pub(crate) first: bool,
    pub(crate) properties: Bytes,
    pub(crate) length: usize,
    pub(crate) status: Status,
    pub(crate) arrived: Instant,
}

/// A subgroup as one stream fills it: what [`Cache::append`] and the ends are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: u64,
    pub(crate) subgroup: u64,
    pub(crate) serial: u64,
}

/// What an eviction freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) groups: u64,
    pub(crate) trimmed: u64,
    /// The byte cap asked for it (rather than age or count).
    pub(crate) by_bytes: bool,
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
    /// Subgroups begun so far.
    serial: u64,
    /// No object exists at or after this location.
    end: Option<Location>,
    /// MAX_CACHE_DURATION of the track.
    age_max: Option<Duration>,
    /// The last datagram objects, and how many there were before them.
    recent: VecDeque<Location>,
    datagrams: u64,
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
            serial: 0,
            end: None,
            age_max: None,
            recent: VecDeque::new(),
            datagrams: 0,
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

    /// No object of the track is served from here past this age (MAX_CACHE_DURATION).
    pub(crate) fn set_age_max(&mut self, age: Option<Duration>) {
        self.age_max = age;
    }

    /// Whether MAX_CACHE_DURATION forbids to serve this object as history.
    pub(crate) fn is_stale(&self, object: &Object, now: Instant) -> bool {
        self.age_max.is_some_and(|max| now.saturating_duration_since(object.arrived) > max)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Subgroups begun so far: whoever has looked at all below this number has nothing new to see.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn groups(&self) -> impl DoubleEndedIterator<Item = &Group> {
        self.groups.iter()
    }

    pub(crate) fn newest(&self) -> Option<&Group> {
        self.groups.back()
    }

    pub(crate) fn group(&self, id: u64) -> Option<&Group> {
        // Nearly always one of the last two.
        if let Some(newest) = self.groups.back()
            && newest.id == id
        {
            return Some(newest);
        }
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

    // Datagram objects.

    /// Datagram objects so far.
    pub(crate) fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// The datagram objects from number `from` on, as far as they are still at hand.
    pub(crate) fn datagrams_from(&self, from: u64) -> impl Iterator<Item = (Location, &Object)> {
        let oldest = self.datagrams - self.recent.len() as u64;
        let skip = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let fresh = self.recent.iter().skip(skip);
        fresh.filter_map(|at| Some((*at, self.group(at.group)?.datagram(at.object)?)))
    }

    // Ends.

    /// A stream finished: no object of its subgroup follows.
    pub(crate) fn complete(&mut self, place: Place, now: Instant) {
        let Some(group) = self.group_mut(place.group) else { return };
        let Some(subgroup) = group.subgroup_mut(place.subgroup) else { return };
        if subgroup.serial != place.serial || subgroup.is_midway() {
            return;
        }
        subgroup.complete(now);
        if subgroup.holds_end
            && let Some(last) = subgroup.last().map(|last| last.id)
        {
            group.end.get_or_insert(last + 1);
        }
    }

    /// A stream was reset: the rest of its subgroup will not come on it.
    pub(crate) fn abort(&mut self, place: Place, code: ResetCode) {
        let Some(group) = self.group_mut(place.group) else { return };
        let Some(subgroup) = group.subgroup_mut(place.subgroup) else { return };
        if subgroup.serial != place.serial || subgroup.progress != Progress::Growing {
            return;
        }
        subgroup.progress = Progress::Aborted(code);
        let freed = group.cut_midway(place.subgroup);
        self.bytes -= freed;
    }

    /// The rest of every unfinished subgroup will not come.
    pub(crate) fn abort_all(&mut self, code: ResetCode) {
        for group in &mut self.groups {
            self.bytes -= group.abort_all(code);
        }
    }

    /// No object of any group follows; what is still arriving is given up.
    pub(crate) fn complete_all(&mut self, now: Instant) {
        for group in &mut self.groups {
            self.bytes -= group.complete_all(now);
        }
    }

    /// No object of `group` has this id or a larger one.
    fn end_group(&mut self, group: u64, end: u64, now: Instant) {
        if let Some(group) = self.group_mut(group) {
            group.end.get_or_insert(end);
            for subgroup in &mut group.subgroups {
                if !subgroup.is_midway() {
                    subgroup.complete(now);
                }
            }
        }
    }

    /// The publisher says that the track ends before `end`.
    pub(crate) fn end_track(&mut self, end: Location) -> Result<(), ObjectError> {
        if self.largest.is_some_and(|largest| largest >= end) {
            return Err(ObjectError::ObjectBackwards);
        }
        self.end.get_or_insert(end);
        Ok(())
    }

    // Objects.

    /// Takes a whole object, or refuses it and stays as it was.
    pub(crate) fn insert(
        &mut self,
        object: ObjectIn,
        object_bytes_max: usize,
    ) -> Result<Taken, ObjectError> {
        let end_of_group = object.end_of_group;
        let Forwarding::Subgroup { holds_end } = object.forwarding else {
            return self.insert_datagram(object, object_bytes_max);
        };
        let marker = end_of_group && object.payload.is_empty() && object.properties.is_empty();
        if marker && holds_end {
            return self.mark_end(&object);
        }
        let ObjectIn { group, subgroup, object: id, payload, arrived, .. } = object;
        let head = ObjectHead {
            group,
            subgroup,
            object: id,
            priority: object.priority,
            holds_end,
            first: self.order == Order::Strict,
            properties: object.properties,
            length: payload.len(),
            status: if marker { Status::EndOfGroup } else { Status::Normal },
            arrived,
        };
        match self.start(head, object_bytes_max)? {
            Started::New { serial } => {
                self.append(Place { group, subgroup, serial }, id, payload);
                if end_of_group && !marker {
                    self.end_group(group, id + 1, arrived);
                }
                Ok(Taken::New)
            }
            Started::Known => {
                if self.agrees(Location::new(group, id), 0, &payload) {
                    Ok(Taken::Duplicate)
                } else {
                    Err(ObjectError::Conflict)
                }
            }
            Started::TooOld => Ok(Taken::TooOld),
            Started::Full => Ok(Taken::Full),
        }
    }

    /// Takes the head of an object, or refuses it and stays as it was.
    pub(crate) fn start(
        &mut self,
        head: ObjectHead,
        object_bytes_max: usize,
    ) -> Result<Started, ObjectError> {
        let at = Location::new(head.group, head.object);
        self.check(at, head.subgroup, head.length.max(head.properties.len()), object_bytes_max)?;
        match self.group(head.group) {
            Some(_) => self.go_on(head),
            None => self.begin(head),
        }
    }

    /// More payload of an object whose head was taken. True when it is whole now; `None` when it is
    /// not wanted any more.
    pub(crate) fn append(&mut self, place: Place, id: u64, piece: Bytes) -> Option<bool> {
        let group = self.group_mut(place.group)?;
        if group.subgroup(place.subgroup)?.serial != place.serial {
            return None;
        }
        let (taken, whole) = group.push(place.subgroup, id, piece)?;
        self.bytes += taken;
        if whole {
            let object = self.group(place.group)?.subgroup(place.subgroup)?.object(id)?;
            // A status says that something does not exist.
            if object.status == Status::Normal {
                self.note_largest(Location::new(place.group, id));
            }
        }
        Some(whole)
    }

    /// Whether `piece` is what a known object has at `offset`, as far as it is here (H28).
    pub(crate) fn agrees(&self, at: Location, offset: usize, piece: &[u8]) -> bool {
        let known = self.group(at.group).and_then(|group| group.object(at.object));
        known.is_none_or(|known| known.payload.agrees(offset, piece))
    }

    fn check(
        &self,
        at: Location,
        subgroup: u64,
        length: usize,
        object_bytes_max: usize,
    ) -> Result<(), ObjectError> {
        if at.group > ID_MAX || at.object > ID_MAX || subgroup > ID_MAX {
            return Err(ObjectError::IdRange);
        }
        if length > object_bytes_max {
            return Err(ObjectError::TooLarge);
        }
        if self.end.is_some_and(|end| at >= end) {
            return Err(ObjectError::ObjectBackwards);
        }
        Ok(())
    }

    /// A bare end-of-group marker: nothing to store, but it must not contradict what is stored.
    fn mark_end(&mut self, marker: &ObjectIn) -> Result<Taken, ObjectError> {
        let strict = self.order != Order::Replica;
        let Some(group) = self.group(marker.group) else { return Ok(Taken::TooOld) };
        if strict && group.largest().is_some_and(|last| last > marker.object) {
            return Err(ObjectError::ObjectBackwards);
        }
        if self.order == Order::Streams {
            // Its streams end by themselves.
            if let Some(group) = self.group_mut(marker.group) {
                group.end.get_or_insert(marker.object);
            }
        } else {
            self.end_group(marker.group, marker.object, marker.arrived);
        }
        Ok(Taken::Marker)
    }

    /// The head of an object in a group that is here.
    fn go_on(&mut self, head: ObjectHead) -> Result<Started, ObjectError> {
        let (order, alias, next) = (self.order, self.alias, self.serial + 1);
        let is_newest = self.newest().is_some_and(|newest| newest.id == head.group);
        let Some(group) = self.group_mut(head.group) else { return Ok(Started::TooOld) };
        if let Some(known) = group.object(head.object) {
            return same(known, &head.properties, head.length, head.status)
                .map(|()| Started::Known);
        }
        let backwards =
            if is_newest { ObjectError::ObjectBackwards } else { ObjectError::GroupBackwards };
        if order == Order::Replica {
            if head.object < group.trimmed_below {
                // Replay must not bring back what the group's size did not allow.
                return Ok(Started::TooOld);
            }
        } else if group.end.is_some_and(|end| head.object >= end) {
            // After its end: of the newest group an object, of older ones the group comes back.
            return Err(backwards);
        } else if head.status == Status::EndOfGroup
            && group.largest().is_some_and(|largest| largest > head.object)
        {
            return Err(ObjectError::ObjectBackwards);
        } else if head.object < group.trimmed_below {
            return Ok(Started::TooOld);
        }
        let mut freed = 0;
        let is_full = group.subgroups.len() >= SUBGROUPS_MAX;
        let serial = match group.subgroup_mut(head.subgroup) {
            None if is_full => return Ok(Started::Full),
            None => {
                let added = new_subgroup(alias, next, &head)?;
                let at = group.rank(head.subgroup);
                group.subgroups.insert(at, added);
                next
            }
            Some(known) if order == Order::Replica => {
                known.progress = match known.progress {
                    // What was aborted goes on: a stream was opened anew at the owner.
                    Progress::Aborted(_) if known.last().is_some_and(|l| l.id < head.object) => {
                        known.serial = next;
                        known.resumed_from = head.object;
                        Progress::Growing
                    }
                    progress => progress,
                };
                known.serial
            }
            Some(known) => {
                if known.last().is_some_and(|last| last.id > head.object) {
                    return Err(ObjectError::ObjectBackwards);
                }
                match known.progress {
                    Progress::Complete => return Err(backwards),
                    Progress::Growing if !known.is_midway() => known.serial,
                    // The same subgroup on another stream: what the first one left midway is lost.
                    Progress::Growing | Progress::Aborted(_) => {
                        known.progress = Progress::Growing;
                        known.serial = next;
                        known.resumed_from = head.object;
                        freed = group.cut_midway(head.subgroup);
                        next
                    }
                }
            }
        };
        group.store(head.subgroup, (&head).into())?;
        if head.status == Status::EndOfGroup {
            group.end.get_or_insert(head.object);
        }
        self.bytes -= freed;
        self.serial = self.serial.max(serial);
        self.note_whole(&head);
        Ok(Started::New { serial })
    }

    /// The head of an object in a group that is not here.
    fn begin(&mut self, head: ObjectHead) -> Result<Started, ObjectError> {
        let Some(group) = self.new_group(head.group, head.object, head.arrived)? else {
            return Ok(Started::TooOld);
        };
        let is_newest = self.newest().is_none_or(|newest| newest.id < group.id);
        let serial = self.serial + 1;
        let mut group = group;
        group.subgroups.push(new_subgroup(self.alias, serial, &head)?);
        group.store(head.subgroup, (&head).into())?;
        if is_newest && self.order == Order::Strict {
            // A feed writes one group after the other; the next one ends all before it.
            self.complete_all(head.arrived);
        }
        self.serial = serial;
        self.enter(group, is_newest);
        self.note_whole(&head);
        Ok(Started::New { serial })
    }

    /// A group to be entered; `None` when it has left the cache, an error when groups go backwards.
    fn new_group(
        &self,
        id: u64,
        object: u64,
        arrived: Instant,
    ) -> Result<Option<Group>, ObjectError> {
        let is_newest = self.newest().is_none_or(|newest| id > newest.id);
        let gone = self.gone_through.is_some_and(|gone| id <= gone);
        if !is_newest || gone {
            match self.order {
                Order::Strict => return Err(ObjectError::GroupBackwards),
                Order::Streams | Order::Replica if gone => return Ok(None),
                Order::Streams if !self.admits_group(id) => {
                    return Err(ObjectError::GroupBackwards);
                }
                Order::Streams | Order::Replica => {}
            }
        }
        let ordinal =
            if is_newest { self.ordinal.wrapping_add(1) } else { self.ordinal_before(id) };
        // Only a publisher whose streams we joined late starts us in the middle of a group.
        let known_from = if self.order == Order::Strict { 0 } else { object };
        Ok(Some(Group::new(id, ordinal, known_from, arrived)))
    }

    fn ordinal_before(&self, id: u64) -> u32 {
        let later = self.groups.iter().find(|group| group.id > id);
        later.map_or(self.ordinal, |later| later.ordinal).wrapping_sub(1)
    }

    fn enter(&mut self, group: Group, is_newest: bool) {
        if is_newest {
            self.ordinal = group.ordinal;
        }
        let at = self.groups.partition_point(|known| known.id < group.id);
        self.groups.insert(at, group);
    }

    /// An object without payload is whole with its head.
    fn note_whole(&mut self, head: &ObjectHead) {
        if head.length == 0 && head.status == Status::Normal {
            self.note_largest(Location::new(head.group, head.object));
        }
    }

    fn insert_datagram(
        &mut self,
        object: ObjectIn,
        object_bytes_max: usize,
    ) -> Result<Taken, ObjectError> {
        let at = Location::new(object.group, object.object);
        let ObjectIn { priority, properties, payload, arrived, end_of_group, .. } = object;
        self.check(at, 0, payload.len().max(properties.len()), object_bytes_max)?;
        let whole = datagrams(self.alias, at, priority, &properties, &payload, end_of_group)
            .ok_or(ObjectError::IdRange)?;
        if let Some(group) = self.group(at.group) {
            if let Some(known) = group.object(at.object) {
                same(known, &properties, payload.len(), Status::Normal)?;
                let agrees = known.payload.agrees(0, &payload);
                return if agrees { Ok(Taken::Duplicate) } else { Err(ObjectError::Conflict) };
            }
            if group.end.is_some_and(|end| at.object >= end) {
                return Err(ObjectError::ObjectBackwards);
            }
            if at.object < group.trimmed_below {
                return Ok(Taken::TooOld);
            }
        } else {
            let Some(group) = self.new_group(at.group, at.object, arrived)? else {
                return Ok(Taken::TooOld);
            };
            let is_newest = self.newest().is_none_or(|newest| newest.id < group.id);
            self.enter(group, is_newest);
        }
        let Some(group) = self.group_mut(at.group) else { return Ok(Taken::TooOld) };
        let length = payload.len();
        let new = NewObject {
            id: at.object,
            properties,
            length,
            status: Status::Normal,
            priority,
            arrived,
        };
        group.store_datagram(new, payload, whole);
        if end_of_group {
            group.end.get_or_insert(at.object + 1);
        }
        self.bytes += length;
        self.note_largest(at);
        if self.recent.len() == RECENT_DATAGRAMS {
            self.recent.pop_front();
        }
        self.recent.push_back(at);
        self.datagrams += 1;
        Ok(Taken::New)
    }

    // Eviction.

    /// Frees what age, count or bytes no longer allow. The newest group stays, but past the byte
    /// or object cap it loses its head.
    pub(crate) fn evict(&mut self, limits: &Limits, bytes_max: usize, now: Instant) -> Evicted {
        let mut evicted = Evicted::default();
        let age_max = limits.cache_age_max.min(self.age_max.unwrap_or(Duration::MAX));
        while self.groups.len() > 1 {
            let Some(oldest) = self.groups.front() else { break };
            let over_bytes = self.bytes > bytes_max;
            let over_age = now.saturating_duration_since(oldest.touched) > age_max;
            if !over_bytes && !over_age && self.groups.len() <= limits.cache_groups_max.max(1) {
                break;
            }
            evicted.by_bytes |= over_bytes;
            evicted.groups += 1;
            self.drop_oldest();
        }
        let Self { groups, bytes, .. } = self;
        for group in groups {
            // Counting is cheap next to what has just been stored, and rarely finds anything.
            while (*bytes > bytes_max || group.len() > limits.group_objects_max) && group.len() > 1
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

impl Group {
    fn abort_all(&mut self, code: ResetCode) -> usize {
        let mut freed = 0;
        for at in 0..self.subgroups.len() {
            let Some(subgroup) = self.subgroups.get_mut(at) else { break };
            if subgroup.progress == Progress::Growing {
                subgroup.progress = Progress::Aborted(code);
                let id = subgroup.id;
                freed += self.cut_midway(id);
            }
        }
        freed
    }

    fn complete_all(&mut self, now: Instant) -> usize {
        let mut freed = 0;
        for at in 0..self.subgroups.len() {
            let Some(subgroup) = self.subgroups.get_mut(at) else { break };
            if subgroup.is_midway() {
                subgroup.progress = Progress::Aborted(ResetCode::Cancelled);
                let id = subgroup.id;
                freed += self.cut_midway(id);
            } else {
                subgroup.complete(now);
            }
        }
        if let Some(largest) = self.largest() {
            self.end.get_or_insert(largest + 1);
        }
        freed
    }
}

impl From<&ObjectHead> for NewObject {
    fn from(head: &ObjectHead) -> Self {
        Self {
            id: head.object,
            properties: head.properties.clone(),
            length: head.length,
            status: head.status,
            priority: head.priority,
            arrived: head.arrived,
        }
    }
}

fn new_subgroup(alias: u64, serial: u64, head: &ObjectHead) -> Result<Subgroup, ObjectError> {
    let heads = stream_heads(alias, head.group, head.subgroup, head.priority, head.holds_end)
        .ok_or(ObjectError::IdRange)?;
    // The first object of a group is the first of its subgroup, whoever says it.
    let from_head = head.first || head.object == 0;
    Ok(Subgroup::new(head.subgroup, serial, head.priority, heads, from_head, head.holds_end))
}

/// Whether a second object under a known id can be the same object (H28: anything else is poison).
fn same(
    known: &Object,
    properties: &Bytes,
    length: usize,
    status: Status,
) -> Result<(), ObjectError> {
    if known.properties == *properties && known.payload.len() == length && known.status == status {
        Ok(())
    } else {
        Err(ObjectError::Conflict)
    }
}

#[cfg(test)]
mod tests;
