//! One subscription's place in a track, and the pump that writes from there. It owns cursors and the
//! decision what to give up when a subscriber is slow; it owns no bytes but those of the object it
//! is in the middle of, and it knows no requests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::{Location, RequestId, ResetCode};

use crate::cache::{Cache, Group, GroupState};
use crate::encode::{object_head, stream_head};
use crate::{Dir, Draft, Limits, Metrics, StreamId, TrackId, Transport, WriteError};

/// A live downstream subscription: a filter and a few cursors.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) request: RequestId,
    pub(crate) track: TrackId,
    /// Place in the track's list of subscribers.
    pub(crate) seat: usize,
    pub(crate) alias: u64,
    pub(crate) forward: bool,
    /// Of the subscriber; lower is served first.
    pub(crate) priority: u8,
    /// Of the publisher, as last seen on a group; lower is served first.
    pub(crate) publisher_priority: u8,
    /// The smaller of the subscriber's timeout and ours.
    pub(crate) timeout: Duration,
    /// First object wanted.
    pub(crate) start: Location,
    /// Last group wanted.
    pub(crate) end_group: Option<u64>,
    /// Largest object when the subscription was accepted: where a joining FETCH ends.
    pub(crate) joint: Option<Location>,
    /// Data streams opened so far, for PUBLISH_DONE.
    pub(crate) streams: u64,
    /// Groups below this one have been opened or skipped.
    next_group: u64,
    /// Streams being written, oldest group first.
    open: Vec<Cursor>,
}

/// A group's stream and how far it has been written.
#[derive(Debug)]
struct Cursor {
    group: u64,
    stream: StreamId,
    /// Last object begun on this stream.
    previous: Option<u64>,
    /// Object id to look for next.
    next: u64,
    /// Payload offset in the group of what has been handed over, for the byte cap.
    offset: u64,
    /// What is left of the stream head, object head and payload being written.
    rest: [Bytes; 3],
    /// When the object in `rest` arrived here.
    arrived: Instant,
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
            publisher_priority: 128,
            timeout: Duration::MAX,
            start,
            end_group,
            joint: largest,
            streams: 0,
            next_group: start.group,
            open: Vec::new(),
        }
    }

    /// Order among the subscriptions of a session: lower goes first.
    pub(crate) fn rank(&self) -> (u8, u8, RequestId) {
        (self.priority, self.publisher_priority, self.request)
    }

    /// The streams being written, to be reset when the subscription goes.
    pub(crate) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.open.iter().map(|cursor| cursor.stream)
    }

    /// FORWARD went to false: forgets the streams, which the caller resets.
    pub(crate) fn pause(&mut self) {
        self.forward = false;
        self.open.clear();
    }

    /// FORWARD went to true again: goes on behind `largest`.
    pub(crate) fn resume(&mut self, largest: Option<Location>) {
        self.forward = true;
        self.start = self.start.max(after(largest));
        self.next_group = self.next_group.max(self.start.group);
        if self.start.object > 0 {
            self.next_group = self.start.group;
        }
    }

    /// Narrows the start; it never goes back.
    pub(crate) fn narrow_start(&mut self, start: Location) {
        if start > self.start {
            self.start = start;
            self.next_group = self.next_group.max(start.group);
        }
    }

    /// A blocked stream has room. False when the stream is not of this subscription.
    pub(crate) fn unblock(&mut self, stream: StreamId) -> bool {
        let Some(cursor) = self.open.iter_mut().find(|cursor| cursor.stream == stream) else {
            return false;
        };
        cursor.blocked = false;
        true
    }

    /// The subscriber does not want the rest of this stream's group. False when not ours.
    pub(crate) fn stop(&mut self, stream: StreamId) -> bool {
        let before = self.open.len();
        self.open.retain(|cursor| cursor.stream != stream);
        self.open.len() < before
    }

    /// Whether everything the filter asks for has been handed over for good.
    pub(crate) fn is_finished(&self, cache: &Cache) -> bool {
        let Some(end) = self.end_group else { return false };
        let passed = self.next_group > end || cache.largest().is_some_and(|l| l.group > end);
        passed && self.has_read(cache)
    }

    /// Whether all that is cached for this subscription has been handed over or given up.
    pub(crate) fn has_read(&self, cache: &Cache) -> bool {
        let end = self.end_group.unwrap_or(u64::MAX);
        self.open.is_empty()
            && (!self.forward
                || !cache.groups_from(self.next_group).any(|group| {
                    group.id <= end && group.at_or_after(self.first_wanted(group.id)).is_some()
                }))
    }

    /// Gives up what is too old, opens what is new, writes until all is written or blocked; newest
    /// group first.
    pub(crate) fn pump<T: Transport>(&mut self, pump: &mut Pump<'_, T>) {
        if !self.forward {
            return;
        }
        self.open_groups(pump);
        self.give_up(pump);
        let mut at = self.open.len();
        while at > 0 {
            at -= 1;
            let Some(cursor) = self.open.get_mut(at) else { break };
            if !cursor.write(pump, self.alias, self.timeout) {
                self.open.remove(at);
            }
        }
    }

    /// Opens a stream for each group that has an object for us, skipping those that would be given
    /// up at once. Without stream credit it stops there: `handle_streams_available` drives again.
    fn open_groups<T: Transport>(&mut self, pump: &mut Pump<'_, T>) {
        let newest = match pump.cache.newest() {
            Some(newest) if newest.id >= self.next_group => newest.id,
            _ => return,
        };
        let end = self.end_group.unwrap_or(u64::MAX);
        let keep = pump.limits.groups_behind_max.max(1);
        let fresh = pump.cache.groups_from(self.next_group);
        let waiting = fresh.len();
        for (position, group) in fresh.enumerate() {
            if group.id > end {
                break;
            }
            let first = self.first_wanted(group.id);
            if group.at_or_after(first).is_none() {
                // Nothing for us yet. A group that is not the newest may still be late: pass it by.
                if group.id != newest {
                    self.next_group = group.id + 1;
                }
                continue;
            }
            if position + keep < waiting {
                pump.metrics.groups_skipped += 1;
                self.next_group = group.id + 1;
                continue;
            }
            let Some(stream) = pump.transport.open(Dir::Uni) else { return };
            self.publisher_priority = group.priority;
            let priority = stream_priority(self.priority, group.priority, group.ordinal);
            pump.transport.set_priority(stream, priority);
            pump.metrics.groups_out += 1;
            self.streams += 1;
            self.next_group = group.id + 1;
            self.open.push(Cursor {
                group: group.id,
                stream,
                previous: None,
                next: first,
                offset: 0,
                rest: Default::default(),
                arrived: group.arrived,
                writing: false,
                blocked: false,
            });
        }
    }

    fn first_wanted(&self, group: u64) -> u64 {
        if group == self.start.group { self.start.object } else { 0 }
    }

    /// Resets the oldest streams while there are too many of them, too many bytes wait, or the cache
    /// no longer holds their group.
    fn give_up<T: Transport>(&mut self, pump: &mut Pump<'_, T>) {
        let behind_max = pump.limits.groups_behind_max.max(1);
        while self.open.len() > behind_max {
            pump.metrics.groups_dropped_behind += 1;
            self.reset(0, pump);
        }
        while self.behind(pump.cache) > pump.limits.bytes_behind_max as u64 && !self.open.is_empty()
        {
            pump.metrics.groups_dropped_bytes += 1;
            self.reset(0, pump);
        }
    }

    /// Payload bytes cached for the open groups and not yet handed over.
    fn behind(&self, cache: &Cache) -> u64 {
        self.open
            .iter()
            .filter_map(|cursor| {
                let group = cache.group(cursor.group)?;
                Some(group.end_offset().saturating_sub(cursor.offset.max(cursor.base(group))))
            })
            .sum()
    }

    fn reset<T: Transport>(&mut self, at: usize, pump: &mut Pump<'_, T>) {
        if at < self.open.len() {
            let cursor = self.open.remove(at);
            pump.transport.reset(cursor.stream, pump.draft.reset_code(ResetCode::DeliveryTimeout));
        }
    }
}

impl Cursor {
    /// Payload offset at which this cursor's first object starts.
    fn base(&self, group: &Group) -> u64 {
        group
            .at_or_after(self.next)
            .map_or(0, |object| object.end_offset.saturating_sub(object.payload.len() as u64))
    }

    /// Writes until caught up, blocked or finished. False when the stream is done with.
    fn write<T: Transport>(
        &mut self,
        pump: &mut Pump<'_, T>,
        alias: u64,
        timeout: Duration,
    ) -> bool {
        loop {
            if self.writing {
                let age = pump.now.saturating_duration_since(self.arrived);
                if age > timeout {
                    pump.metrics.groups_dropped_timeout += 1;
                    return self.abandon(pump, ResetCode::DeliveryTimeout);
                }
                if self.blocked {
                    return true;
                }
                match pump.transport.write(self.stream, &mut self.rest) {
                    Ok(taken) => pump.metrics.bytes_out += taken as u64,
                    Err(WriteError::Blocked) => {}
                    Err(WriteError::Stopped(_)) => {
                        pump.metrics.groups_stopped += 1;
                        return self.abandon(pump, ResetCode::Cancelled);
                    }
                    Err(WriteError::Closed) => return false,
                }
                if self.rest.iter().any(|chunk| !chunk.is_empty()) {
                    self.blocked = true;
                    return true;
                }
                self.writing = false;
                pump.metrics.objects_out += 1;
            }
            let Some(group) = pump.cache.group(self.group) else {
                pump.metrics.groups_dropped_evicted += 1;
                return self.abandon(pump, ResetCode::DeliveryTimeout);
            };
            if !self.load_next(group, pump.draft, alias) {
                return match group.state {
                    GroupState::Growing => true,
                    GroupState::Complete => {
                        pump.transport.finish(self.stream);
                        false
                    }
                    GroupState::Aborted => self.abandon(pump, ResetCode::Cancelled),
                };
            }
        }
    }

    /// Puts the next object of the group into `rest`. False when there is none yet.
    fn load_next(&mut self, group: &Group, draft: Draft, alias: u64) -> bool {
        let Some(object) = group.at_or_after(self.next) else { return false };
        let [stream, head, payload] = &mut self.rest;
        if self.previous.is_none() {
            let whole = object.previous.is_none() && group.known_from == 0;
            *stream = if whole {
                group.heads.of(draft).clone()
            } else {
                // A joiner in the middle: one head of its own.
                stream_head(draft, alias, group.id, group.priority, false).unwrap_or_default()
            };
        }
        *head = if object.previous == self.previous {
            object.heads.of(draft).clone()
        } else {
            object_head(draft, self.previous, object.id, &object.properties, object.payload.len())
                .unwrap_or_default()
        };
        *payload = object.payload.clone();
        self.previous = Some(object.id);
        self.next = object.id + 1;
        self.offset = object.end_offset;
        self.arrived = object.arrived;
        self.writing = true;
        true
    }

    fn abandon<T: Transport>(&self, pump: &mut Pump<'_, T>, code: ResetCode) -> bool {
        pump.transport.reset(self.stream, pump.draft.reset_code(code));
        false
    }
}

/// The location just after `largest`; the start of the track when there is nothing yet.
pub(crate) fn after(largest: Option<Location>) -> Location {
    largest.map_or_else(Location::default, |l| Location::new(l.group, l.object.saturating_add(1)))
}

/// Priority of control and request streams: before all media.
pub(crate) const CONTROL_PRIORITY: i32 = i32::MAX;

/// Bits of the group's ordinal in a stream priority. 2^14 groups of 2 s = 9 h until it wraps, and a
/// wrap misorders one pair of groups for the length of their overlap.
const ORDINAL_BITS: u32 = 14;

/// Section 7 of the transport: subscriber priority, publisher priority, then newer groups. The two
/// priority bytes take 16 bits, the ordinal 14: 30 bits, always below [`CONTROL_PRIORITY`].
pub(crate) fn stream_priority(subscriber: u8, publisher: u8, ordinal: u32) -> i32 {
    let importance = 0xffff - (i32::from(subscriber) << 8 | i32::from(publisher));
    importance << ORDINAL_BITS | (ordinal & ((1 << ORDINAL_BITS) - 1)) as i32
}
