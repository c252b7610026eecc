//! What the cache of a track takes: heads, fragments, whole objects, datagrams. It owns the order that
//! must hold and what is malformed (H28); a refusal leaves everything as it was.

use std::time::Instant;

use bytes::Bytes;
use weir_moqt::Location;
use weir_moqt::data::Status;

use super::group::{NewObject, Object, Progress, Subgroup};
use super::{
    Cache, Group, ID_MAX, ObjectHead, Order, Place, RECENT_DATAGRAMS, SUBGROUPS_MAX, Started, Taken,
};
use crate::encode::{datagrams, stream_heads};
use crate::{Forwarding, ObjectError, ObjectIn};

impl Cache {
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
        match self.start(&head, object_bytes_max)? {
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
        head: &ObjectHead,
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
    fn go_on(&mut self, head: &ObjectHead) -> Result<Started, ObjectError> {
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
                let added = new_subgroup(alias, next, head)?;
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
        group.store(head.subgroup, head.into())?;
        if head.status == Status::EndOfGroup {
            group.end.get_or_insert(head.object);
        }
        self.bytes -= freed;
        self.serial = self.serial.max(serial);
        self.note_whole(head);
        Ok(Started::New { serial })
    }

    /// The head of an object in a group that is not here.
    fn begin(&mut self, head: &ObjectHead) -> Result<Started, ObjectError> {
        let Some(group) = self.new_group(head.group, head.object, head.arrived)? else {
            return Ok(Started::TooOld);
        };
        let is_newest = self.newest().is_none_or(|newest| newest.id < group.id);
        let serial = self.serial + 1;
        let mut group = group;
        group.subgroups.push(new_subgroup(self.alias, serial, head)?);
        group.store(head.subgroup, head.into())?;
        if is_newest && self.order == Order::Strict {
            // A feed writes one group after the other; the next one ends all before it.
            self.complete_all(head.arrived);
        }
        self.serial = serial;
        self.enter(group, is_newest);
        self.note_whole(head);
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
        let marker = end_of_group && payload.is_empty() && properties.is_empty();
        let status = if marker { Status::EndOfGroup } else { Status::Normal };
        let last = end_of_group && !marker;
        let whole = datagrams(self.alias, at, priority, &properties, &payload, status, last)
            .ok_or(ObjectError::IdRange)?;
        if let Some(group) = self.group(at.group) {
            if let Some(known) = group.object(at.object) {
                same(known, &properties, payload.len(), status)?;
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
        let new = NewObject { id: at.object, properties, length, status, priority, arrived };
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
