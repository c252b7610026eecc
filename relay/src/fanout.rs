//! One subscription's place in a track, and the pump that writes from there. It owns cursors and the
//! decision what to give up when a subscriber is slow; it owns no bytes but those of the fragment it
//! is in the middle of, and it knows no requests.

mod cursor;
mod terms;

use std::time::Instant;

use weir_moqt::{GroupOrder, Location, Params, RequestId, ResetCode};

use crate::cache::{Cache, Group, Object, Subgroup};
use crate::encode::with_alias;
use crate::ranges::{Ranges, Traits};
use crate::{DatagramError, Draft, DropReason, Limits, Metrics, StreamId, TrackId, Transport};
use cursor::{Cursor, Outcome, Reader};
use terms::stream_priority;

/// Bytes of one cursor, for the account of what a subscriber costs.
#[cfg(test)]
pub(crate) const CURSOR_BYTES: usize = size_of::<Cursor>();

pub(crate) use terms::{CONTROL_PRIORITY, Terms, Timeouts, fetch_priority};

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
    /// Last object wanted, inclusive.
    pub(crate) end: Option<Location>,
    /// Which objects between those two.
    pub(crate) ranges: Ranges,
    /// Largest object when the subscription was accepted: where a joining FETCH ends.
    pub(crate) joint: Option<Location>,
    /// We offered it (PUBLISH), on these terms, and have no answer yet: nothing is sent before.
    pub(crate) offered: Option<Box<Params>>,
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

/// What a pump needs beside the subscription.
pub(crate) struct Pump<'a, T> {
    pub(crate) draft: Draft,
    pub(crate) cache: &'a Cache,
    pub(crate) limits: &'a Limits,
    pub(crate) metrics: &'a mut Metrics,
    pub(crate) transport: &'a mut T,
    pub(crate) now: Instant,
}

impl Subscription {
    /// A subscription accepted while `largest` was the track's largest object.
    pub(crate) fn new(
        request: RequestId,
        track: TrackId,
        alias: u64,
        start: Location,
        end: Option<Location>,
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
            end,
            ranges: Ranges::default(),
            joint: largest,
            offered: None,
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
        let Some(end) = self.end else { return false };
        let passed = cache.largest().is_some_and(|largest| {
            largest.group > end.group || (largest.group == end.group && largest >= end)
        }) || cache.group(end.group).is_some_and(Group::is_over);
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
        let mut reader = Reader {
            alias: self.alias,
            alias_is_shared: self.alias == pump.cache.alias(),
            priority: self.priority,
            order: self.order,
            timeouts: self.timeouts,
            first: 0,
            last: None,
            streams: self.streams,
            publisher_priority: self.publisher_priority,
            ranges: std::mem::take(&mut self.ranges),
        };
        let mut at = 0;
        while let Some(cursor) = self.open.get_mut(at) {
            reader.first = if cursor.group == self.start.group { self.start.object } else { 0 };
            reader.last = self
                .end
                .filter(|end| end.group == cursor.group && end.object < u64::MAX)
                .map(|end| end.object);
            match cursor.write(&mut reader, pump) {
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
        self.ranges = reader.ranges;
        self.streams = reader.streams;
        self.publisher_priority = reader.publisher_priority;
        // Only what the transport has just refused counts as behind: a burst it takes is none.
        if !self.open.is_empty() {
            self.give_up(pump);
        }
    }

    /// Takes a cursor for each subgroup not looked at before, in the order of writing.
    fn find_subgroups<T>(&mut self, pump: &Pump<'_, T>) {
        let end = self.end.map_or(u64::MAX, |end| end.group);
        for group in pump.cache.groups().rev() {
            if group.id < self.start.group {
                break;
            }
            if group.id > end {
                continue;
            }
            for subgroup in group.subgroups().filter(|subgroup| subgroup.serial > self.seen) {
                let cursor = Cursor::new(group.id, subgroup);
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
            if location < self.start || self.end.is_some_and(|end| location > end) {
                continue;
            }
            let Object { id, priority, ref properties, .. } = *object;
            if !self.ranges.pass(&Traits { subgroup: None, object: id, priority, properties }) {
                pump.metrics.objects_filtered += 1;
                continue;
            }
            let shared = object.heads.of(pump.draft);
            let datagram = if self.alias == pump.cache.alias() {
                shared.clone()
            } else {
                with_alias(shared, pump.draft, self.alias).unwrap_or_default()
            };
            if datagram.is_empty() {
                continue;
            }
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
}

/// The location just after `largest`; the start of the track when there is nothing yet.
pub(crate) fn after(largest: Option<Location>) -> Location {
    largest.map_or_else(Location::default, |l| Location::new(l.group, l.object.saturating_add(1)))
}
