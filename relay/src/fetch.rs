//! Answers to FETCH from the group cache: the plan (which objects, which holes) and the pump that
//! writes it. A plan holds the payloads it will send, within the session's budget, so that what the
//! live path does to the cache meanwhile does not matter.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{FetchEncoder, FetchHeader, FetchObject, Gap, Status};
use weir_moqt::{GroupOrder, Location, RequestId, ResetCode};

use crate::cache::{Cache, ID_MAX, Payload};
use crate::encode::properties_for;
use crate::ranges::{Ranges, Traits};
use crate::relay::holes::Found;
use crate::{Dir, Draft, Metrics, StreamId, TrackId, Transport, WriteError};

/// Objects handed to one write call.
const BATCH: usize = 8;

/// One thing on a fetch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Object {
        location: Location,
        /// `None` for an object that came as a datagram.
        subgroup: Option<u64>,
        priority: u8,
        properties: Bytes,
        payload: Payload,
    },
    /// Everything up to this location is unknown here.
    Unknown(Location),
}

impl Item {
    /// The last location it speaks of.
    fn last(&self) -> Location {
        match self {
            Self::Object { location, .. } => *location,
            Self::Unknown(end) => *end,
        }
    }
}

/// What a FETCH will be answered with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) items: VecDeque<Item>,
    pub(crate) bytes: usize,
    pub(crate) objects: usize,
    unknown: bool,
    /// It ends where the status of objects is not known, which the draft or the order cannot say.
    cut: bool,
}

/// Why a range cannot be planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanError {
    /// More objects or bytes than the budget.
    Budget,
    /// The first thing to say would be that objects are not known, and there is no way to say it.
    Unknown,
}

impl Plan {
    /// Collects what the cache has of `start..=end`. The work is bounded by the cache, not by the range.
    pub(crate) fn new(
        cache: &Cache,
        start: Location,
        end: Location,
        (objects_max, bytes_max): (usize, usize),
        now: Instant,
    ) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        // The location reached so far: everything before it is answered.
        let mut at = start;
        let mut groups: Vec<VecDeque<Item>> = Vec::new();
        let mut whole_until_now = false;
        for group in cache.groups() {
            if group.id < start.group || group.id > end.group {
                whole_until_now |= group.id < start.group;
                continue;
            }
            let mut items = VecDeque::new();
            let known_from = Location::new(group.id, group.known_from);
            // Below the oldest cached group, and below a group's known head, nothing is known;
            // between cached groups nothing exists.
            if at < known_from
                && (!whole_until_now || group.known_from > 0)
                && let Some(before) = before(known_from)
                && before >= at
            {
                plan.unknown = true;
                items.push_back(Item::Unknown(before));
            }
            let holes = group.has_holes();
            // The first id of the group that nothing was said of yet.
            let mut next = group.known_from;
            for (subgroup, object) in group.objects() {
                let location = Location::new(group.id, object.id);
                if location < start || location > end || object.status != Status::Normal {
                    next = next.max(object.id + 1);
                    continue;
                }
                // What is still arriving, or may not be kept so long, is as good as not known.
                let here = object.payload.is_whole() && !cache.is_stale(object, now);
                if (holes && object.id > next) || !here {
                    let unknown = if here { before(location) } else { Some(location) };
                    if let Some(unknown) = unknown.filter(|unknown| *unknown >= start) {
                        plan.unknown = true;
                        push_unknown(&mut items, unknown);
                    }
                }
                next = object.id + 1;
                if !here {
                    continue;
                }
                plan.objects += 1;
                plan.bytes += object.payload.len();
                if plan.objects > objects_max || plan.bytes > bytes_max {
                    return Err(PlanError::Budget);
                }
                items.push_back(Item::Object {
                    location,
                    subgroup: subgroup.map(|subgroup| subgroup.id),
                    priority: object.priority,
                    properties: object.properties.clone(),
                    payload: object.payload.clone(),
                });
            }
            let tail = Location::new(group.id, ID_MAX).min(end);
            let aborted = holes && group.end.is_none_or(|end| next < end);
            if aborted && Location::new(group.id, next) <= tail {
                plan.unknown = true;
                push_unknown(&mut items, tail);
            }
            at = Location::new(group.id.saturating_add(1), 0);
            whole_until_now = true;
            groups.push(items);
        }
        if groups.is_empty() {
            // Older than all we hold.
            plan.unknown = true;
            plan.items.push_back(Item::Unknown(Location::new(end.group, end.object.min(ID_MAX))));
        }
        plan.items.extend(groups.into_iter().flatten());
        Ok(plan)
    }

    /// Whether something of the range is not known here.
    pub(crate) fn is_partial(&self) -> bool {
        self.unknown
    }

    /// From the first to the last location that is not known, of a plan that begins at `start`.
    pub(crate) fn gap(&self, start: Location) -> Option<(Location, Location)> {
        let mut at = start;
        let mut gap: Option<(Location, Location)> = None;
        for item in &self.items {
            if let Item::Unknown(end) = item {
                gap = Some((gap.map_or(at, |(first, _)| first), *end));
            }
            at = next(item.last());
        }
        gap
    }

    /// Puts what was found elsewhere into the unknown ranges of a plan that begins at `start`.
    pub(crate) fn filled(
        mut self,
        start: Location,
        found: &Found,
        (objects_max, bytes_max): (usize, usize),
    ) -> Result<Self, PlanError> {
        let Some(through) = found.through.filter(|_| self.unknown) else { return Ok(self) };
        let mut at = start;
        self.unknown = false;
        for item in std::mem::take(&mut self.items) {
            let Item::Unknown(end) = item else {
                at = next(item.last());
                self.items.push_back(item);
                continue;
            };
            for item in &found.items {
                if item.last() < at || item.last() > end {
                    continue;
                }
                if let Item::Object { payload, .. } = item {
                    self.objects += 1;
                    self.bytes += payload.len();
                    if self.objects > objects_max || self.bytes > bytes_max {
                        return Err(PlanError::Budget);
                    }
                    self.items.push_back(item.clone());
                } else {
                    self.unknown = true;
                    push_unknown(&mut self.items, item.last());
                }
            }
            if through < end {
                self.unknown = true;
                push_unknown(&mut self.items, end);
            }
            at = next(end);
        }
        Ok(self)
    }

    /// Leaves out what does not pass.
    pub(crate) fn passing(mut self, ranges: &Ranges) -> Self {
        if ranges.is_empty() {
            return self;
        }
        (self.objects, self.bytes) = (0, 0);
        for item in std::mem::take(&mut self.items) {
            match &item {
                Item::Object { location, subgroup, priority, properties, payload } => {
                    let (subgroup, object, priority) = (*subgroup, location.object, *priority);
                    if ranges.pass(&Traits { subgroup, object, priority, properties }) {
                        self.objects += 1;
                        self.bytes += payload.len();
                        self.items.push_back(item);
                    }
                }
                Item::Unknown(end) => push_unknown(&mut self.items, *end),
            }
        }
        self
    }

    /// Brings the groups into the order asked for.
    pub(crate) fn ordered(mut self, order: GroupOrder) -> Result<Self, PlanError> {
        if order != GroupOrder::Descending {
            return Ok(self);
        }
        // A marker speaks of what lies between two places in ascending order, so that this order has none.
        let knows_all = !self.unknown || self.objects == 0;
        let mut groups: Vec<Vec<Item>> = Vec::new();
        for item in std::mem::take(&mut self.items) {
            match groups.last_mut() {
                Some(group)
                    if group.last().is_some_and(|last| last.last().group == item.last().group) =>
                {
                    group.push(item);
                }
                _ => groups.push(vec![item]),
            }
        }
        let groups = groups.into_iter().rev();
        if knows_all {
            self.items.extend(groups.flatten());
            return Ok(self);
        }
        let known = |group: &Vec<Item>| !group.iter().any(|item| matches!(item, Item::Unknown(_)));
        self.items.extend(groups.take_while(known).flatten());
        self.cut_here()
    }

    /// For a draft that cannot say that objects are not known: what comes before the first of them.
    pub(crate) fn certain(mut self) -> Result<Self, PlanError> {
        if !self.unknown {
            return Ok(self);
        }
        let certain = self.items.iter().position(|item| matches!(item, Item::Unknown(_)));
        self.items.truncate(certain.unwrap_or(self.items.len()));
        self.unknown = false;
        self.cut_here()
    }

    /// What is left is all that can be said.
    fn cut_here(mut self) -> Result<Self, PlanError> {
        if self.items.is_empty() {
            return Err(PlanError::Unknown);
        }
        self.cut = true;
        Ok(self)
    }

    /// The last location it speaks of, when it was cut before the end asked for.
    pub(crate) fn cut_at(&self) -> Option<Location> {
        self.items.back().filter(|_| self.cut).map(Item::last)
    }
}

/// Two unknown ranges in a row are one.
fn push_unknown(items: &mut VecDeque<Item>, end: Location) {
    match items.back_mut() {
        Some(Item::Unknown(last)) => *last = end,
        _ => items.push_back(Item::Unknown(end)),
    }
}

impl Plan {
    /// All up to `end` is unknown here.
    pub(crate) fn unknown(end: Location) -> Self {
        let end = Location::new(end.group, end.object.min(ID_MAX));
        Self { items: VecDeque::from([Item::Unknown(end)]), unknown: true, ..Self::default() }
    }
}

/// The location just after another.
fn next(location: Location) -> Location {
    if location.object >= ID_MAX {
        return Location::new(location.group.saturating_add(1), 0);
    }
    Location::new(location.group, location.object + 1)
}

/// The location just before another.
fn before(location: Location) -> Option<Location> {
    match location.object.checked_sub(1) {
        Some(object) => Some(Location::new(location.group, object)),
        None => Some(Location::new(location.group.checked_sub(1)?, ID_MAX)),
    }
}

/// An accepted FETCH being written.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) request: RequestId,
    /// The track it reads, whose grant it needs.
    pub(crate) track: Option<TrackId>,
    /// Payload bytes of its plan, counted against the session's budget until it is done.
    pub(crate) bytes: usize,
    items: VecDeque<Item>,
    order: GroupOrder,
    priority: i32,
    /// What ranges that are not known are said to be.
    gap: Gap,
    /// It ends with a reset, since more was asked for than can be told.
    is_cut: bool,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    stream: StreamId,
    encoder: FetchEncoder,
    rest: Vec<Bytes>,
    batched: u64,
    blocked: bool,
}

/// Where a fetch stands after a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Waiting,
    Done,
    Failed,
}

/// In the order in which they are to be written.
pub(crate) fn sort(fetches: &mut [Fetch]) {
    if !fetches.is_sorted_by_key(|fetch| Reverse(fetch.priority)) {
        fetches.sort_by_key(|fetch| Reverse(fetch.priority));
    }
}

/// Writes those of at least this priority, and lets go of those that are over.
pub(crate) fn pump<T: Transport>(
    fetches: &mut Vec<Fetch>,
    least: i32,
    moqt: &mut weir_moqt::Session,
    draft: Draft,
    metrics: &mut Metrics,
    transport: &mut T,
) {
    fetches.retain_mut(|fetch| {
        if fetch.priority < least {
            return true;
        }
        let waits = fetch.pump(draft, metrics, transport) == Progress::Waiting;
        if !waits {
            moqt.finish_fetch(fetch.request);
        }
        waits
    });
}

impl Fetch {
    pub(crate) fn new(request: RequestId, plan: Plan, order: GroupOrder, priority: i32) -> Self {
        let Plan { bytes, items, cut, .. } = plan;
        let (gap, track, writer) = (Gap::Unknown, None, None);
        Self { request, track, bytes, items, order, priority, gap, is_cut: cut, writer }
    }

    /// What is not known is so because its subscriber would not wait longer.
    pub(crate) fn timed_out(self, timed_out: bool) -> Self {
        Self { gap: if timed_out { Gap::TimedOut } else { self.gap }, ..self }
    }

    /// The answer itself says that it ends earlier: its stream is finished.
    pub(crate) fn ends_early(self) -> Self {
        Self { is_cut: false, ..self }
    }

    /// Names the track it reads.
    pub(crate) fn of(self, track: TrackId) -> Self {
        Self { track: Some(track), ..self }
    }

    pub(crate) fn stream(&self) -> Option<StreamId> {
        self.writer.as_ref().map(|writer| writer.stream)
    }

    /// A blocked stream has room. False when it is not ours.
    pub(crate) fn unblock(&mut self, stream: StreamId) -> bool {
        match &mut self.writer {
            Some(writer) if writer.stream == stream => {
                writer.blocked = false;
                true
            }
            _ => false,
        }
    }

    /// Writes until all is written or blocked.
    pub(crate) fn pump<T: Transport>(
        &mut self,
        draft: Draft,
        metrics: &mut Metrics,
        transport: &mut T,
    ) -> Progress {
        if self.writer.is_none() {
            let Some(stream) = transport.open(Dir::Uni) else { return Progress::Waiting };
            transport.set_priority(stream, self.priority);
            let header = FetchHeader { request: self.request };
            let mut out = BytesMut::with_capacity(16);
            let Ok(encoder) = FetchEncoder::new(draft, &header, self.order, &mut out) else {
                transport.reset(stream, draft.reset_code(ResetCode::Internal));
                return Progress::Failed;
            };
            let rest = vec![out.freeze()];
            self.writer = Some(Writer { stream, encoder, rest, batched: 0, blocked: false });
        }
        let Some(writer) = &mut self.writer else { return Progress::Waiting };
        loop {
            if writer.blocked {
                return Progress::Waiting;
            }
            if !writer.load(draft, &mut self.items, self.gap) {
                transport.reset(writer.stream, draft.reset_code(ResetCode::Internal));
                return Progress::Failed;
            }
            if writer.rest.is_empty() {
                if self.is_cut {
                    let code = draft.reset_code(ResetCode::UnknownObjectStatus);
                    transport.reset(writer.stream, code);
                } else {
                    transport.finish(writer.stream);
                }
                return Progress::Done;
            }
            match transport.write(writer.stream, &mut writer.rest) {
                Ok(taken) => metrics.bytes_out += taken as u64,
                Err(WriteError::Blocked) => {}
                Err(WriteError::Stopped(_)) => {
                    transport.reset(writer.stream, draft.reset_code(ResetCode::Cancelled));
                    return Progress::Failed;
                }
                Err(WriteError::Closed) => return Progress::Failed,
            }
            writer.rest.retain(|chunk| !chunk.is_empty());
            if !writer.rest.is_empty() {
                writer.blocked = true;
                return Progress::Waiting;
            }
            metrics.objects_out += std::mem::take(&mut writer.batched);
        }
    }
}

impl Writer {
    /// Encodes up to [`BATCH`] more items. False when one cannot be encoded.
    fn load(&mut self, draft: Draft, items: &mut VecDeque<Item>, gap: Gap) -> bool {
        for _ in 0..BATCH {
            let Some(item) = items.pop_front() else { break };
            let mut out = BytesMut::with_capacity(32);
            let encoded = match &item {
                Item::Object { location, subgroup, priority, properties, payload } => {
                    let head = FetchObject {
                        location: *location,
                        subgroup: *subgroup,
                        priority: *priority,
                        properties: properties_for(draft, properties),
                        payload_len: payload.len() as u64,
                    };
                    self.encoder.object(&head, &mut out)
                }
                Item::Unknown(end) => self.encoder.gap(*end, gap, &mut out),
            };
            if encoded.is_err() {
                return false;
            }
            self.rest.push(out.freeze());
            if let Item::Object { payload, .. } = item {
                self.batched += 1;
                self.rest.extend(payload.fragments().cloned());
            }
        }
        true
    }
}
