//! One subscription's place in a track, and the pump that writes from there. It owns cursors and the
//! decision what to give up when a subscriber is slow; it owns no bytes but those of the fragment it
//! is in the middle of, and it knows no requests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::{GroupOrder, Location, Property, PropertyValue, RequestId, ResetCode};

use crate::cache::{Cache, Group, Object, Progress, Subgroup};
use crate::encode::{object_head, stream_head};
use crate::{
    DatagramError, Dir, Draft, DropReason, Limits, Metrics, StreamId, TrackId, Transport,
    WriteError,
};

/// Delivery timeouts; zero and absent are the same: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// OBJECT_DELIVERY_TIMEOUT: from an object's arrival until it is handed to the transport.
    pub(crate) object: Option<Duration>,
    /// SUBGROUP_DELIVERY_TIMEOUT: from a subgroup's end until it is acknowledged.
    pub(crate) subgroup: Option<Duration>,
}

impl Timeouts {
    /// As they stand in parameters or track properties, in milliseconds.
    pub(crate) fn new(object_ms: Option<u64>, subgroup_ms: Option<u64>) -> Self {
        let asked = |ms: Option<u64>| ms.filter(|ms| *ms > 0).map(Duration::from_millis);
        Self { object: asked(object_ms), subgroup: asked(subgroup_ms) }
    }

    /// The smaller of those both sides ask for (section 8 of the draft).
    pub(crate) fn min(self, other: Self) -> Self {
        let least = |a: Option<Duration>, b| a.into_iter().chain(b).min();
        Self {
            object: least(self.object, other.object),
            subgroup: least(self.subgroup, other.subgroup),
        }
    }
}

/// What a publisher says of its track that a relay acts on (track properties).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) timeouts: Timeouts,
    pub(crate) order: GroupOrder,
    /// MAX_CACHE_DURATION.
    pub(crate) cache: Option<Duration>,
    /// DEFAULT_PUBLISHER_PRIORITY.
    pub(crate) priority: Option<u8>,
}

impl Terms {
    pub(crate) fn of(properties: &[Property]) -> Self {
        let int = |kind| {
            properties.iter().find(|property| property.kind == kind).and_then(|property| {
                match property.value {
                    PropertyValue::Int(value) => Some(value),
                    PropertyValue::Bytes(_) => None,
                }
            })
        };
        Self {
            timeouts: Timeouts::new(int(0x02), int(0x06)),
            order: if int(0x22) == Some(2) {
                GroupOrder::Descending
            } else {
                GroupOrder::Ascending
            },
            cache: int(0x04).map(Duration::from_millis),
            priority: int(0x0E).and_then(|priority| u8::try_from(priority).ok()),
        }
    }
}

/// A live downstream subscription: a filter and a few cursors.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) request: RequestId,
    pub(crate) track: TrackId,
    /// Place in the track's list of subscribers.
    pub(crate) seat: usize,
    pub(crate) alias: u64,
    pub(crate) forward: bool,
    /// Of the publisher, as last seen on a group; lower is served first.
    pub(crate) publisher_priority: u8,
    /// What subscriber and publisher ask for together.
    pub(crate) timeouts: Timeouts,
    /// First object wanted.
    pub(crate) start: Location,
    /// Last group wanted.
    pub(crate) end_group: Option<u64>,
    /// Largest object when the subscription was accepted: where a joining FETCH ends.
    pub(crate) joint: Option<Location>,
    /// Data streams opened so far, for PUBLISH_DONE.
    pub(crate) streams: u64,
    /// Of the subscriber; lower is served first.
    priority: u8,
    /// Its streams' priorities are out of date.
    reprioritise: bool,
    order: GroupOrder,
    /// Subgroups of the cache below this serial have a cursor, or are done with.
    seen: u64,
    /// Datagram objects of the cache below this number are done with.
    seen_datagrams: u64,
    /// Subgroups being written, in the order in which they are.
    open: Vec<Cursor>,
    /// Finished streams that must be acknowledged by a deadline.
    closing: Vec<(StreamId, Instant)>,
    /// When it last lost something for want of room.
    lossy_since: Option<Instant>,
}

/// A subgroup and how far it has been written.
#[derive(Debug)]
struct Cursor {
    group: u64,
    subgroup: u64,
    serial: u64,
    /// `None` until there is an object for the subscriber, and stream credit.
    stream: Option<StreamId>,
    /// Last object begun on this stream.
    previous: Option<u64>,
    /// Object id to look for next.
    next: u64,
    /// Payload offset in the subgroup of what has been begun, for the byte cap.
    offset: u64,
    /// What is left of the heads and fragments being written.
    rest: [Bytes; 3],
    /// Fragments of the object under way that were put into `rest`.
    fragments: usize,
    /// An object is under way.
    writing: bool,
    blocked: bool,
}

/// What a pump needs beside the subscription.
pub(crate) struct Pump<'a, T> {
    pub(crate) draft: Draft,
    pub(crate) cache: &'a Cache,
    pub(crate) limits: &'a Limits,
    pub(crate) metrics: &'a mut Metrics,
    pub(crate) transport: &'a mut T,
    pub(crate) now: Instant,
}

/// What becomes of a cursor after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It waits for objects, room or stream credit.
    Waits,
    /// The subgroup is finished on this stream.
    Finished,
    /// It is done with, and counted.
    Gone,
    Dropped(DropReason),
}

impl Subscription {
    /// A subscription accepted while `largest` was the track's largest object.
    pub(crate) fn new(
        request: RequestId,
        track: TrackId,
        alias: u64,
        start: Location,
        end_group: Option<u64>,
        largest: Option<Location>,
    ) -> Self {
        Self {
            request,
            track,
            seat: 0,
            alias,
            forward: true,
            priority: 128,
            reprioritise: false,
            publisher_priority: 128,
            timeouts: Timeouts::default(),
            order: GroupOrder::Ascending,
            start,
            end_group,
            joint: largest,
            streams: 0,
            seen: 0,
            seen_datagrams: 0,
            open: Vec::new(),
            closing: Vec::new(),
            lossy_since: None,
        }
    }

    /// What the subscriber asks for, or else the publisher's terms.
    pub(crate) fn set_order(&mut self, order: GroupOrder) {
        self.order = order;
    }

    /// What is a datagram already is not sent.
    pub(crate) fn skip_datagrams(&mut self, cache: &Cache) {
        self.seen_datagrams = cache.datagrams();
    }

    /// Priority the subscriber gave; lower is served first.
    pub(crate) fn priority(&self) -> u8 {
        self.priority
    }

    /// SUBSCRIBER_PRIORITY, also for streams that are open.
    pub(crate) fn set_priority(&mut self, priority: u8) {
        self.reprioritise |= self.priority != priority;
        self.priority = priority;
    }

    /// Order among the subscriptions of a session: lower goes first.
    pub(crate) fn rank(&self) -> (u8, u8, RequestId) {
        (self.priority, self.publisher_priority, self.request)
    }

    /// The streams being written or waiting for their acknowledgement, to be reset when the
    /// subscription goes.
    pub(crate) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        let closing = self.closing.iter().map(|(stream, _)| *stream);
        self.open.iter().filter_map(|cursor| cursor.stream).chain(closing)
    }

    /// FORWARD went to false: forgets the streams, which the caller resets.
    pub(crate) fn pause(&mut self) {
        self.forward = false;
        self.open.clear();
        self.closing.clear();
    }

    /// FORWARD went to true again: goes on behind `largest`.
    pub(crate) fn resume(&mut self, cache: &Cache) {
        self.forward = true;
        self.start = self.start.max(after(cache.largest()));
        self.seen = 0;
        self.skip_datagrams(cache);
    }

    /// Narrows the start; it never goes back.
    pub(crate) fn narrow_start(&mut self, start: Location) {
        self.start = self.start.max(start);
    }

    /// A blocked stream has room. False when the stream is not of this subscription.
    pub(crate) fn unblock(&mut self, stream: StreamId) -> bool {
        let Some(cursor) = self.open.iter_mut().find(|cursor| cursor.stream == Some(stream)) else {
            return false;
        };
        cursor.blocked = false;
        true
    }

    /// A finished stream was acknowledged. False when not ours.
    pub(crate) fn acknowledged(&mut self, stream: StreamId) -> bool {
        let before = self.closing.len();
        self.closing.retain(|(closing, _)| *closing != stream);
        self.closing.len() < before
    }

    /// The subscriber does not want the rest of this stream's subgroup. False when not ours.
    pub(crate) fn stop(&mut self, stream: StreamId) -> bool {
        let before = self.open.len();
        self.open.retain(|cursor| cursor.stream != Some(stream));
        self.open.len() < before || self.acknowledged(stream)
    }

    /// When the first of the finished streams must have been acknowledged.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.closing.iter().map(|(_, deadline)| *deadline).min()
    }

    /// SUBGROUP_DELIVERY_TIMEOUT of streams that were written but not acknowledged: they are to be
    /// reset.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<StreamId> {
        let late = self.closing.iter().filter(|(_, deadline)| *deadline <= now);
        let late: Vec<StreamId> = late.map(|(stream, _)| *stream).collect();
        self.closing.retain(|(_, deadline)| *deadline > now);
        if !late.is_empty() {
            self.lossy_since = Some(now);
        }
        late
    }

    /// Whether it lost something for want of room at this moment.
    pub(crate) fn lost_something_at(&self, now: Instant) -> bool {
        self.lossy_since == Some(now)
    }

    /// Whether everything the filter asks for has been handed over for good.
    pub(crate) fn is_finished(&self, cache: &Cache) -> bool {
        let Some(end) = self.end_group else { return false };
        let passed = cache.largest().is_some_and(|largest| largest.group > end)
            || cache.group(end).is_some_and(Group::is_over);
        passed && self.has_read(cache)
    }

    /// Whether all that is cached for this subscription has been handed over or given up.
    pub(crate) fn has_read(&self, cache: &Cache) -> bool {
        !self.forward || (self.seen == cache.serial() && self.open.is_empty())
    }

    /// Opens what is new, writes until all is written or blocked, gives up what is too far behind.
    pub(crate) fn pump<T: Transport>(&mut self, pump: &mut Pump<'_, T>) {
        if !self.forward {
            return;
        }
        if self.seen != pump.cache.serial() {
            self.find_subgroups(pump);
        }
        if self.reprioritise {
            self.set_priorities(pump);
        }
        if self.seen_datagrams != pump.cache.datagrams() {
            self.send_datagrams(pump);
        }
        let mut at = 0;
        while at < self.open.len() {
            match self.write(at, pump) {
                Outcome::Waits => at += 1,
                Outcome::Gone => {
                    self.open.remove(at);
                }
                Outcome::Dropped(reason) => {
                    self.open.remove(at);
                    self.count_drop(reason, pump);
                }
                Outcome::Finished => {
                    let cursor = self.open.remove(at);
                    self.finish(&cursor, pump);
                }
            }
        }
        // Only what the transport has just refused counts as behind: a burst it takes is none.
        if !self.open.is_empty() {
            self.give_up(pump);
        }
    }

    /// Takes a cursor for each subgroup not looked at before, in the order of writing.
    fn find_subgroups<T>(&mut self, pump: &Pump<'_, T>) {
        let end = self.end_group.unwrap_or(u64::MAX);
        for group in pump.cache.groups().rev() {
            if group.id < self.start.group {
                break;
            }
            if group.id > end {
                continue;
            }
            for subgroup in group.subgroups().filter(|subgroup| subgroup.serial > self.seen) {
                let cursor = Cursor {
                    group: group.id,
                    subgroup: subgroup.id,
                    serial: subgroup.serial,
                    stream: None,
                    previous: None,
                    next: subgroup.resumed_from,
                    offset: 0,
                    rest: Default::default(),
                    fragments: 0,
                    writing: false,
                    blocked: false,
                };
                let place = (group.id, subgroup.id, subgroup.serial);
                let order = self.order;
                let at = self.open.partition_point(|known| {
                    let known = (known.group, known.subgroup, known.serial);
                    match order {
                        GroupOrder::Descending if known.0 != place.0 => known.0 > place.0,
                        _ => known < place,
                    }
                });
                self.open.insert(at, cursor);
            }
        }
        self.seen = pump.cache.serial();
    }

    fn set_priorities<T: Transport>(&mut self, pump: &mut Pump<'_, T>) {
        self.reprioritise = false;
        for cursor in &self.open {
            if let Some(stream) = cursor.stream
                && let Some(group) = pump.cache.group(cursor.group)
                && let Some(subgroup) = group.subgroup(cursor.subgroup)
            {
                pump.transport.set_priority(stream, self.stream_priority(group, subgroup));
            }
        }
    }

    fn stream_priority(&self, group: &Group, subgroup: &Subgroup) -> i32 {
        let rank = group.rank(subgroup.id);
        stream_priority(self.priority, subgroup.priority, self.order, group.ordinal, rank)
    }

    /// Gives up the oldest groups while too many of them wait, or too many bytes (section 4.4).
    fn give_up<T: Transport>(&mut self, pump: &mut Pump<'_, T>) {
        let groups_max = pump.limits.groups_behind_max.max(1);
        let bytes_max = pump.limits.bytes_behind_max as u64;
        loop {
            // At most the groups of the cache, each with a few subgroups.
            let (mut groups, mut bytes, mut oldest) = (0, 0, u64::MAX);
            let mut last = None;
            for cursor in &self.open {
                let Some(behind) = cursor.behind(pump.cache, self.first_wanted(cursor.group))
                else {
                    continue;
                };
                bytes += behind;
                oldest = oldest.min(cursor.group);
                if last.replace(cursor.group) != Some(cursor.group) {
                    groups += 1;
                }
            }
            let reason = if groups > groups_max {
                DropReason::FarBehind
            } else if bytes > bytes_max {
                DropReason::BytesBehind
            } else {
                return;
            };
            self.drop_group(oldest, reason, pump);
        }
    }

    fn drop_group<T: Transport>(&mut self, group: u64, reason: DropReason, pump: &mut Pump<'_, T>) {
        let mut at = 0;
        while at < self.open.len() {
            let first = self.first_wanted(group);
            let drop = self.open.get(at).is_some_and(|cursor| {
                cursor.group == group && cursor.behind(pump.cache, first).is_some()
            });
            if !drop {
                at += 1;
                continue;
            }
            let cursor = self.open.remove(at);
            match cursor.stream {
                Some(stream) => {
                    let code = pump.draft.reset_code(ResetCode::DeliveryTimeout);
                    pump.transport.reset(stream, code);
                    self.count_drop(reason, pump);
                }
                None => self.count_drop(DropReason::Skipped, pump),
            }
        }
    }

    fn count_drop<T>(&mut self, reason: DropReason, pump: &mut Pump<'_, T>) {
        pump.metrics.count_drop(reason);
        if reason.is_pressure() {
            self.lossy_since = Some(pump.now);
        }
    }

    /// A cursor wrote all of its subgroup.
    fn finish<T: Transport>(&mut self, cursor: &Cursor, pump: &mut Pump<'_, T>) {
        let Some(stream) = cursor.stream else { return };
        pump.transport.finish(stream);
        if let Some(timeout) = self.timeouts.subgroup {
            let group = pump.cache.group(cursor.group);
            let ended = group.and_then(|group| group.subgroup(cursor.subgroup)?.ended);
            self.closing.push((stream, ended.unwrap_or(pump.now) + timeout));
        }
    }

    fn send_datagrams<T: Transport>(&mut self, pump: &mut Pump<'_, T>) {
        let total = pump.cache.datagrams();
        let mut at_hand = 0;
        for (location, object) in pump.cache.datagrams_from(self.seen_datagrams) {
            at_hand += 1;
            if location < self.start || self.end_group.is_some_and(|end| location.group > end) {
                continue;
            }
            let datagram = object.heads.of(pump.draft).clone();
            let length = datagram.len() as u64;
            match pump.transport.send_datagram(datagram) {
                Ok(()) => {
                    pump.metrics.datagrams_out += 1;
                    pump.metrics.objects_out += 1;
                    pump.metrics.bytes_out += length;
                }
                Err(DatagramError::Blocked) => pump.metrics.datagrams_dropped_blocked += 1,
                Err(DatagramError::TooLarge) => pump.metrics.datagrams_dropped_size += 1,
            }
        }
        let missed = (total - self.seen_datagrams).saturating_sub(at_hand);
        pump.metrics.datagrams_dropped_behind += missed;
        self.seen_datagrams = total;
    }

    fn first_wanted(&self, group: u64) -> u64 {
        if group == self.start.group { self.start.object } else { 0 }
    }

    /// Writes one cursor until it is caught up, blocked or finished.
    fn write<T: Transport>(&mut self, at: usize, pump: &mut Pump<'_, T>) -> Outcome {
        let Some(cursor) = self.open.get_mut(at) else { return Outcome::Gone };
        let cache = pump.cache;
        let reset = |cursor: &Cursor, pump: &mut Pump<'_, T>, code| {
            if let Some(stream) = cursor.stream {
                pump.transport.reset(stream, pump.draft.reset_code(code));
            }
        };
        let group = cache.group(cursor.group);
        let subgroup = group.and_then(|group| group.subgroup(cursor.subgroup));
        let (Some(group), Some(subgroup)) = (group, subgroup) else {
            reset(cursor, pump, ResetCode::DeliveryTimeout);
            return cursor.done(DropReason::Evicted);
        };
        let bound = pump.limits.delivery_timeout;
        let object_max = self.timeouts.object.unwrap_or(Duration::MAX).min(bound);
        if let (Some(ended), Some(timeout)) = (subgroup.ended, self.timeouts.subgroup)
            && pump.now.saturating_duration_since(ended) > timeout
        {
            reset(cursor, pump, ResetCode::DeliveryTimeout);
            return Outcome::Dropped(DropReason::SubgroupTimeout);
        }
        let first =
            if cursor.group == self.start.group { self.start.object } else { 0 }.max(cursor.next);
        cursor.next = first;
        loop {
            // An object is under way, or the next one is looked for.
            let object = if cursor.writing {
                let Some(id) = cursor.previous else { return Outcome::Gone };
                let Some(object) = subgroup.object(id) else {
                    let code = match subgroup.progress {
                        Progress::Aborted(code) => code,
                        _ if cursor.serial != subgroup.serial => ResetCode::Cancelled,
                        // Trimmed from the cache: a new stream goes on behind the loss.
                        _ => {
                            reset(cursor, pump, ResetCode::DeliveryTimeout);
                            pump.metrics.count_drop(DropReason::Trimmed);
                            cursor.start_over();
                            continue;
                        }
                    };
                    reset(cursor, pump, code);
                    return Outcome::Dropped(DropReason::Publisher);
                };
                object
            } else {
                let next = subgroup.at_or_after(cursor.next).filter(|object| {
                    cursor.serial == subgroup.serial || object.id < subgroup.resumed_from
                });
                let Some(object) = next else {
                    return match subgroup.progress {
                        _ if cursor.serial != subgroup.serial => {
                            reset(cursor, pump, ResetCode::Cancelled);
                            cursor.done(DropReason::Publisher)
                        }
                        Progress::Growing => Outcome::Waits,
                        Progress::Complete => Outcome::Finished,
                        Progress::Aborted(code) => {
                            reset(cursor, pump, code);
                            cursor.done(DropReason::Publisher)
                        }
                    };
                };
                object
            };
            let age = pump.now.saturating_duration_since(object.arrived);
            if age > object_max {
                let timeout =
                    if object_max < bound { DropReason::ObjectTimeout } else { DropReason::TooOld };
                reset(cursor, pump, ResetCode::DeliveryTimeout);
                return Outcome::Dropped(timeout);
            }
            if cursor.blocked {
                return Outcome::Waits;
            }
            if !cursor.writing {
                if cursor.previous.is_some() && object.previous != cursor.previous {
                    // Only the next object may follow on a stream: what was lost ends it, and a new
                    // stream goes on behind the loss.
                    reset(cursor, pump, ResetCode::DeliveryTimeout);
                    pump.metrics.count_drop(DropReason::Trimmed);
                    cursor.start_over();
                }
                if cursor.stream.is_none() {
                    let Some(stream) = pump.transport.open(Dir::Uni) else {
                        return Outcome::Waits;
                    };
                    let rank = group.rank(subgroup.id);
                    let priority = stream_priority(
                        self.priority,
                        subgroup.priority,
                        self.order,
                        group.ordinal,
                        rank,
                    );
                    pump.transport.set_priority(stream, priority);
                    pump.metrics.groups_out += 1;
                    self.publisher_priority = subgroup.priority;
                    self.streams += 1;
                    cursor.stream = Some(stream);
                }
                cursor.load(group, subgroup, object, pump.draft, self.alias);
            }
            let Some(stream) = cursor.stream else { return Outcome::Gone };
            // Fragments that are there, until the transport takes no more.
            loop {
                cursor.refill(object);
                if cursor.rest.iter().all(Bytes::is_empty) {
                    break;
                }
                match pump.transport.write(stream, &mut cursor.rest) {
                    Ok(taken) => pump.metrics.bytes_out += taken as u64,
                    Err(WriteError::Blocked) => {}
                    Err(WriteError::Stopped(_)) => {
                        reset(cursor, pump, ResetCode::Cancelled);
                        return Outcome::Dropped(DropReason::Stopped);
                    }
                    Err(WriteError::Closed) => return Outcome::Gone,
                }
                if cursor.rest.iter().any(|chunk| !chunk.is_empty()) {
                    cursor.blocked = true;
                    return Outcome::Waits;
                }
            }
            if !object.payload.is_whole() {
                return Outcome::Waits;
            }
            cursor.writing = false;
            pump.metrics.objects_out += 1;
        }
    }
}

impl Cursor {
    /// Payload bytes that are cached and not handed over; `None` when nothing waits.
    fn behind(&self, cache: &Cache, first_wanted: u64) -> Option<u64> {
        let Some(subgroup) =
            cache.group(self.group).and_then(|group| group.subgroup(self.subgroup))
        else {
            return Some(0);
        };
        let next = subgroup.at_or_after(self.next.max(first_wanted));
        if self.writing {
            return Some(subgroup.end_offset().saturating_sub(self.offset));
        }
        let next = next?;
        Some(subgroup.end_offset() - (next.end_offset - next.payload.len() as u64))
    }

    /// The end of a subgroup of which the subscriber had a stream is a drop; without one it is nothing.
    fn done(&self, reason: DropReason) -> Outcome {
        if self.stream.is_some() { Outcome::Dropped(reason) } else { Outcome::Gone }
    }

    /// Goes on with a stream of its own.
    fn start_over(&mut self) {
        (self.stream, self.previous) = (None, None);
        self.rest = Default::default();
        (self.writing, self.blocked) = (false, false);
    }

    /// Begins an object: its head, and before it the stream's if nothing was written yet.
    fn load(
        &mut self,
        group: &Group,
        subgroup: &Subgroup,
        object: &Object,
        draft: Draft,
        alias: u64,
    ) {
        let [stream, head, _] = &mut self.rest;
        if self.previous.is_none() {
            let from_head = object.previous.is_none() && subgroup.from_head;
            *stream = if from_head {
                subgroup.heads.of(draft).clone()
            } else {
                // A joiner in the middle: one head of its own.
                let Subgroup { id, priority, holds_end, .. } = *subgroup;
                stream_head(draft, alias, group.id, id, priority, holds_end, false)
                    .unwrap_or_default()
            };
        }
        *head = if object.previous == self.previous {
            object.heads.of(draft).clone()
        } else {
            let length = object.payload.len();
            object_head(draft, self.previous, object.id, &object.properties, length, object.status)
                .unwrap_or_default()
        };
        self.previous = Some(object.id);
        self.next = object.id + 1;
        self.offset = object.end_offset;
        self.fragments = 0;
        self.writing = true;
    }

    /// Puts fragments that have come into the free places at the end of `rest`.
    fn refill(&mut self, object: &Object) {
        let mut free = self.rest.iter().rposition(|chunk| !chunk.is_empty()).map_or(0, |at| at + 1);
        while let Some(place) = self.rest.get_mut(free) {
            let Some(fragment) = object.payload.fragment(self.fragments) else { return };
            *place = fragment.clone();
            self.fragments += 1;
            free += 1;
        }
    }
}

/// The location just after `largest`; the start of the track when there is nothing yet.
pub(crate) fn after(largest: Option<Location>) -> Location {
    largest.map_or_else(Location::default, |l| Location::new(l.group, l.object.saturating_add(1)))
}

/// Priority of control and request streams: before all media.
pub(crate) const CONTROL_PRIORITY: i32 = i32::MAX;

/// Bits of the group's ordinal in a stream priority. Groups that wait together are neighbours, so
/// 2^10 are plenty; a wrap misorders one pair of groups for the length of their overlap.
const ORDINAL_BITS: u32 = 10;

/// Bits of the subgroup's place in its group: [`crate::cache`] takes 16.
const RANK_BITS: u32 = 5;

/// Section 7 of the transport: subscriber priority, publisher priority, then groups in the order
/// asked for, then subgroups by id. The two priority bytes take 16 bits, the ordinal 10, the subgroup
/// 5: 31 bits, and always below [`CONTROL_PRIORITY`].
pub(crate) fn stream_priority(
    subscriber: u8,
    publisher: u8,
    order: GroupOrder,
    ordinal: u32,
    subgroup_rank: usize,
) -> i32 {
    const ORDINALS: u32 = (1 << ORDINAL_BITS) - 1;
    let ordinal = match order {
        GroupOrder::Ascending => ORDINALS - (ordinal & ORDINALS),
        GroupOrder::Descending => ordinal & ORDINALS,
    };
    let rank = (1 << RANK_BITS) - 1 - subgroup_rank.min((1 << RANK_BITS) - 1) as u32;
    compose(subscriber, publisher, ordinal << RANK_BITS | rank)
}

/// A FETCH goes before the live groups of its track: a joiner needs the past first.
pub(crate) fn fetch_priority(subscriber: u8, publisher: u8) -> i32 {
    compose(subscriber, publisher, (1 << (ORDINAL_BITS + RANK_BITS)) - 1)
}

fn compose(subscriber: u8, publisher: u8, place: u32) -> i32 {
    let importance = 0xffff - (u32::from(subscriber) << 8 | u32::from(publisher));
    let priority = importance << (ORDINAL_BITS + RANK_BITS) | place;
    i32::try_from(priority).unwrap_or(CONTROL_PRIORITY).min(CONTROL_PRIORITY - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_order_subscriber_then_publisher_then_groups_then_subgroups() {
        use GroupOrder::{Ascending, Descending};
        let priority = stream_priority;
        for (first, second) in [
            (priority(0, 255, Ascending, 9, 9), priority(1, 0, Ascending, 1, 0)),
            (priority(7, 1, Ascending, 9, 9), priority(7, 2, Ascending, 1, 0)),
            (priority(7, 1, Ascending, 4, 9), priority(7, 1, Ascending, 5, 0)),
            (priority(7, 1, Descending, 5, 9), priority(7, 1, Descending, 4, 0)),
            (priority(7, 1, Ascending, 4, 0), priority(7, 1, Ascending, 4, 1)),
            (fetch_priority(7, 1), priority(7, 1, Ascending, 4, 0)),
            (CONTROL_PRIORITY, fetch_priority(0, 0)),
            (CONTROL_PRIORITY, priority(0, 0, Ascending, 0, 0)),
        ] {
            assert!(first > second, "{first} {second}");
        }
        assert!(priority(255, 255, Ascending, 1023, 40) >= 0);
    }

    #[test]
    fn the_smaller_timeout_counts_and_zero_is_none() {
        let ours = Timeouts::new(Some(0), Some(300));
        let theirs = Timeouts::new(Some(500), Some(200));
        let both = Timeouts::new(Some(500), Some(200));
        assert_eq!(ours.min(theirs), both);
        assert_eq!(theirs.min(ours), both);
        assert_eq!(Timeouts::default().min(Timeouts::default()), Timeouts::default());
    }
}
