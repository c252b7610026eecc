//! The group cache of one track: the newest groups whole, older ones by age, count and bytes. It
//! owns what may be appended and what is malformed; it knows no subscriber and no media. Objects
//! enter by their head ([`Cache::start`]) and grow by fragments ([`Cache::append`]), so that readers
//! may follow while they arrive.

mod group;
mod intake;
mod payload;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::data::Status;
use weir_moqt::{Location, ResetCode};

pub(crate) use group::{Group, Object, Progress, Subgroup};
pub(crate) use payload::Payload;

use crate::{Limits, ObjectError};

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

    /// Where a subscription begins that asks for all there is: with the newest group, here or at the publisher.
    pub(crate) fn newest_start(&self, now: Instant) -> Location {
        let held = self.newest().map(|group| (group.id, group.touched));
        match (held, self.largest) {
            (Some((_, touched)), Some(largest))
                if self.age_max.is_some_and(|max| now.saturating_duration_since(touched) > max) =>
            {
                Location::new(largest.group, largest.object.saturating_add(1))
            }
            (Some((group, _)), _) => Location::new(group, 0),
            (None, largest) => Location::new(largest.map_or(0, |largest| largest.group), 0),
        }
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

    /// The alias in the heads it keeps.
    pub(crate) fn alias(&self) -> u64 {
        self.alias
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

    /// Where the track ends, if its publisher has said so: no object lies there or beyond.
    pub(crate) fn ends_at(&self) -> Option<Location> {
        self.end
    }

    /// The publisher says that the track ends before `end`.
    pub(crate) fn end_track(&mut self, end: Location) -> Result<(), ObjectError> {
        if self.largest.is_some_and(|largest| largest >= end) {
            return Err(ObjectError::ObjectBackwards);
        }
        self.end.get_or_insert(end);
        Ok(())
    }

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

#[cfg(test)]
mod tests;
