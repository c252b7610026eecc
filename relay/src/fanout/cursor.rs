//! One subgroup on its way to one subscriber: what of it has been written on which stream. It owns the
//! rules of a stream (only the next object may follow, a loss ends it); when to give up a group that
//! lags is the subscription's decision.

use std::time::Duration;

use bytes::Bytes;
use weir_moqt::{GroupOrder, ResetCode};

use super::Pump;
use super::terms::{Timeouts, stream_priority};
use crate::cache::{Cache, Group, Object, Progress, Subgroup};
use crate::encode::{object_head, stream_head};
use crate::ranges::{Ranges, Traits};
use crate::{Dir, Draft, DropReason, StreamId, Transport, WriteError};

/// A subgroup and how far it has been written.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) group: u64,
    pub(super) subgroup: u64,
    pub(super) serial: u64,
    /// `None` until there is an object for the subscriber, and stream credit.
    pub(super) stream: Option<StreamId>,
    /// Last object begun on this stream.
    previous: Option<u64>,
    /// Last object begun on this stream or passed over by the filters: the next one follows it without a loss.
    seen: Option<u64>,
    /// Object id to look for next.
    pub(super) next: u64,
    /// Payload offset in the subgroup of what has been begun, for the byte cap.
    offset: u64,
    /// What is left of the heads and fragments being written.
    rest: [Bytes; 3],
    /// Fragments of the object under way that were put into `rest`.
    fragments: usize,
    /// An object is under way.
    writing: bool,
    pub(super) blocked: bool,
}

/// What becomes of a cursor after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for objects, room or stream credit.
    Waits,
    /// The subgroup is finished on this stream.
    Finished,
    /// It is done with, and counted.
    Gone,
    Dropped(DropReason),
}

/// What a cursor needs to know of its subscription, and tells it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) alias: u64,
    /// The alias is the one that heads in the cache were made for.
    pub(super) alias_is_shared: bool,
    pub(super) priority: u8,
    pub(super) order: GroupOrder,
    pub(super) timeouts: Timeouts,
    /// First object wanted of the cursor's group.
    pub(super) first: u64,
    /// Last one, where the subscription ends inside it.
    pub(super) last: Option<u64>,
    /// Streams opened so far.
    pub(super) streams: u64,
    /// Of the subgroup opened last.
    pub(super) publisher_priority: u8,
    /// Which objects are wanted.
    pub(super) ranges: Ranges,
}

impl Reader {
    fn wants(&self, subgroup: &Subgroup, object: &Object) -> bool {
        let Object { id, priority, ref properties, .. } = *object;
        let subgroup = Some(subgroup.id);
        self.ranges.pass(&Traits { subgroup, object: id, priority, properties })
    }
}

impl Cursor {
    /// At the beginning of a subgroup, or where it was resumed.
    pub(super) fn new(group: u64, subgroup: &Subgroup) -> Self {
        Self {
            group,
            subgroup: subgroup.id,
            serial: subgroup.serial,
            stream: None,
            previous: None,
            seen: None,
            next: subgroup.resumed_from,
            offset: 0,
            rest: Default::default(),
            fragments: 0,
            writing: false,
            blocked: false,
        }
    }

    /// Writes until caught up, blocked or finished.
    pub(super) fn write<T: Transport>(
        &mut self,
        reader: &mut Reader,
        pump: &mut Pump<'_, T>,
    ) -> Outcome {
        let cursor = self;
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
        let object_max = reader.timeouts.object.unwrap_or(Duration::MAX).min(bound);
        if let (Some(ended), Some(timeout)) = (subgroup.ended, reader.timeouts.subgroup)
            && pump.now.saturating_duration_since(ended) > timeout
        {
            reset(cursor, pump, ResetCode::DeliveryTimeout);
            return Outcome::Dropped(DropReason::SubgroupTimeout);
        }
        cursor.next = cursor.next.max(reader.first);
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
                let next = loop {
                    let next = subgroup.at_or_after(cursor.next).filter(|object| {
                        cursor.serial == subgroup.serial || object.id < subgroup.resumed_from
                    });
                    match next {
                        Some(object) if !reader.wants(subgroup, object) => {
                            // What is not asked for leaves a gap that is no loss.
                            cursor.next = object.id + 1;
                            cursor.seen = Some(object.id);
                            pump.metrics.objects_filtered += 1;
                        }
                        next => break next,
                    }
                };
                if next.zip(reader.last).is_some_and(|(object, last)| object.id > last) {
                    // The subscription ends within this subgroup.
                    return Outcome::Finished;
                }
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
                if cursor.previous.is_some() && object.previous != cursor.seen {
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
                        reader.priority,
                        subgroup.priority,
                        reader.order,
                        group.ordinal,
                        rank,
                    );
                    pump.transport.set_priority(stream, priority);
                    pump.metrics.groups_out += 1;
                    reader.publisher_priority = subgroup.priority;
                    reader.streams += 1;
                    cursor.stream = Some(stream);
                }
                cursor.load(group, subgroup, object, pump.draft, reader);
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

    /// Payload bytes that are cached and not handed over; `None` when nothing waits.
    pub(super) fn behind(&self, cache: &Cache, first_wanted: u64) -> Option<u64> {
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
        reader: &Reader,
    ) {
        let [stream, head, _] = &mut self.rest;
        if self.previous.is_none() {
            let from_head = object.previous.is_none() && subgroup.from_head;
            let whole = reader.last.is_none() && reader.ranges.is_empty();
            *stream = if from_head && whole && reader.alias_is_shared {
                subgroup.heads.of(draft).clone()
            } else {
                // A joiner in the middle, one that leaves there, or a second subscription: a head of its own.
                let Subgroup { id, priority, holds_end, .. } = *subgroup;
                let (alias, end) = (reader.alias, holds_end && whole);
                stream_head(draft, alias, group.id, id, priority, end, from_head)
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
        self.seen = Some(object.id);
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
