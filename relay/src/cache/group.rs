//! One group of a track: its subgroups with their objects, and its datagram objects. It keeps ids in
//! order and counts bytes; what may be appended is the cache's decision.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use weir_moqt::ResetCode;
use weir_moqt::data::Status;

use super::Payload;
use crate::encode::{PerDraft, object_heads};
use crate::{ObjectError, SubgroupEnd};

/// One object as the cache holds it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) id: u64,
    /// The object before it in its subgroup when its heads were encoded.
    pub(crate) previous: Option<u64>,
    /// What stands before the payload on a stream; of a datagram object, the whole datagram.
    pub(crate) heads: PerDraft<Bytes>,
    /// In the encoding of draft 18.
    pub(crate) properties: Bytes,
    pub(crate) payload: Payload,
    pub(crate) status: Status,
    pub(crate) priority: u8,
    /// When its head was read.
    pub(crate) arrived: Instant,
    /// Payload bytes of the subgroup up to and including this object.
    pub(crate) end_offset: u64,
}

/// Whether objects may follow in a subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Growing,
    Complete,
    /// Its source gave it up with this code: the end is missing.
    Aborted(ResetCode),
}

/// What one stream carries.
#[derive(Debug)]
pub(crate) struct Subgroup {
    pub(crate) id: u64,
    /// Counts subgroups of the track as they begin; a subgroup that goes on after a reset counts
    /// anew. What a subscriber has seen is told by this number.
    pub(crate) serial: u64,
    pub(crate) priority: u8,
    pub(crate) heads: PerDraft<Bytes>,
    pub(crate) progress: Progress,
    /// When it was complete.
    pub(crate) ended: Option<Instant>,
    /// The first object here is the first of the subgroup.
    pub(crate) from_head: bool,
    /// It holds the last object of the group.
    pub(crate) holds_end: bool,
    /// Objects below this id came before this serial.
    pub(crate) resumed_from: u64,
    objects: VecDeque<Object>,
}

impl Subgroup {
    pub(crate) fn last(&self) -> Option<&Object> {
        self.objects.back()
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

    pub(crate) fn object(&self, id: u64) -> Option<&Object> {
        self.at_or_after(id).filter(|object| object.id == id)
    }

    /// Payload offset of the end of the subgroup so far; see [`Object::end_offset`].
    pub(crate) fn end_offset(&self) -> u64 {
        self.objects.back().map_or(0, |last| last.end_offset)
    }

    /// Its last object is still arriving.
    pub(crate) fn is_midway(&self) -> bool {
        self.objects.back().is_some_and(|last| !last.payload.is_whole())
    }
}

/// A new object, before it has heads.
#[derive(Debug)]
pub(super) struct NewObject {
    pub(super) id: u64,
    pub(super) properties: Bytes,
    pub(super) length: usize,
    pub(super) status: Status,
    pub(super) priority: u8,
    pub(super) arrived: Instant,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u64,
    /// Counts groups of the track in order; what stream priorities are made of.
    pub(crate) ordinal: u32,
    /// Objects below this id may have existed and are not here.
    pub(crate) known_from: u64,
    /// No object with this id or a larger one exists; known once the group has ended.
    pub(crate) end: Option<u64>,
    /// When its newest object began.
    pub(crate) touched: Instant,
    /// Objects below this id were cut off for the group's size.
    pub(super) trimmed_below: u64,
    /// In order of their ids.
    pub(super) subgroups: Vec<Subgroup>,
    /// Objects that came as datagrams, in order of their ids.
    pub(super) datagrams: VecDeque<Object>,
    pub(super) bytes: usize,
}

impl Group {
    pub(super) fn new(id: u64, ordinal: u32, known_from: u64, arrived: Instant) -> Self {
        Self {
            id,
            ordinal,
            known_from,
            end: None,
            touched: arrived,
            trimmed_below: 0,
            subgroups: Vec::new(),
            datagrams: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(crate) fn subgroups(&self) -> impl ExactSizeIterator<Item = &Subgroup> {
        self.subgroups.iter()
    }

    pub(crate) fn subgroup(&self, id: u64) -> Option<&Subgroup> {
        self.subgroups.iter().find(|subgroup| subgroup.id == id)
    }

    pub(super) fn subgroup_mut(&mut self, id: u64) -> Option<&mut Subgroup> {
        self.subgroups.iter_mut().find(|subgroup| subgroup.id == id)
    }

    /// Place of a subgroup among those of the group, by id.
    pub(crate) fn rank(&self, id: u64) -> usize {
        self.subgroups.partition_point(|subgroup| subgroup.id < id)
    }

    /// A datagram object.
    pub(crate) fn datagram(&self, id: u64) -> Option<&Object> {
        let at = self.datagrams.binary_search_by_key(&id, |object| object.id).ok()?;
        self.datagrams.get(at)
    }

    /// All objects in order of their ids, each with its subgroup; none for datagram objects.
    pub(crate) fn objects(&self) -> Vec<(Option<&Subgroup>, &Object)> {
        let mut all: Vec<_> = self
            .subgroups
            .iter()
            .flat_map(|subgroup| subgroup.objects.iter().map(move |o| (Some(subgroup), o)))
            .chain(self.datagrams.iter().map(|object| (None, object)))
            .collect();
        all.sort_by_key(|(_, object)| object.id);
        all
    }

    pub(crate) fn object(&self, id: u64) -> Option<&Object> {
        let mut found = self.subgroups.iter().filter_map(|subgroup| subgroup.object(id));
        found.next().or_else(|| self.datagram(id))
    }

    /// Largest object id here.
    pub(crate) fn largest(&self) -> Option<u64> {
        let streams = self.subgroups.iter().filter_map(Subgroup::last);
        streams.chain(self.datagrams.back()).map(|object| object.id).max()
    }

    pub(crate) fn len(&self) -> usize {
        self.subgroups.iter().map(|s| s.objects.len()).sum::<usize>() + self.datagrams.len()
    }

    /// The subgroups that have come to their end, one way or the other.
    pub(crate) fn ends(&self) -> impl Iterator<Item = SubgroupEnd> + '_ {
        self.subgroups.iter().filter_map(|subgroup| {
            let reset = match subgroup.progress {
                Progress::Growing => return None,
                Progress::Complete => None,
                Progress::Aborted(code) => Some(code),
            };
            Some(SubgroupEnd { group: self.id, subgroup: subgroup.id, reset })
        })
    }

    /// Nothing more comes: its end is known and every subgroup has come to its own.
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some() && self.subgroups.iter().all(|s| s.progress == Progress::Complete)
    }

    /// An object may be missing here although larger ones are there.
    pub(crate) fn has_holes(&self) -> bool {
        let aborted =
            |s: &Subgroup| matches!(s.progress, Progress::Aborted(_)) || s.resumed_from > 0;
        let growing = |s: &Subgroup| s.progress == Progress::Growing;
        self.subgroups.iter().any(aborted)
            || !self.datagrams.is_empty()
            || (self.subgroups.len() > 1 && self.subgroups.iter().any(growing))
    }

    /// Appends to the subgroup, or inserts in its middle (replicas only).
    pub(super) fn store(&mut self, subgroup: u64, object: NewObject) -> Result<(), ObjectError> {
        let Some(state) = self.subgroups.iter_mut().find(|known| known.id == subgroup) else {
            return Err(ObjectError::Subgroup);
        };
        let at = state.objects.partition_point(|known| known.id < object.id);
        let previous = at.checked_sub(1).and_then(|before| state.objects.get(before));
        let previous = previous.map(|previous| previous.id);
        let NewObject { id, properties, length, status, priority, arrived } = object;
        let heads =
            object_heads(previous, id, &properties, length, status).ok_or(ObjectError::IdRange)?;
        let end_offset = state.end_offset() + length as u64;
        let payload = Payload::growing(length);
        let stored = Object {
            id,
            previous,
            heads,
            properties,
            payload,
            status,
            priority,
            arrived,
            end_offset,
        };
        if at == state.objects.len() {
            state.objects.push_back(stored);
        } else {
            state.objects.insert(at, stored);
            state.recount(at);
        }
        self.known_from = self.known_from.min(id);
        self.touched = self.touched.max(arrived);
        Ok(())
    }

    /// Keeps a datagram object, whose heads are whole datagrams.
    pub(super) fn store_datagram(
        &mut self,
        object: NewObject,
        payload: Bytes,
        whole: PerDraft<Bytes>,
    ) {
        let NewObject { id, properties, status, priority, arrived, .. } = object;
        let at = self.datagrams.partition_point(|known| known.id < id);
        self.bytes += payload.len();
        let stored = Object {
            id,
            previous: None,
            heads: whole,
            properties,
            payload: payload.into(),
            status,
            priority,
            arrived,
            end_offset: 0,
        };
        self.datagrams.insert(at, stored);
        self.known_from = self.known_from.min(id);
        self.touched = self.touched.max(arrived);
    }

    /// More of the object `id`. True when it is whole now.
    pub(super) fn push(&mut self, subgroup: u64, id: u64, piece: Bytes) -> Option<(usize, bool)> {
        let state = self.subgroups.iter_mut().find(|known| known.id == subgroup)?;
        let at = match state.objects.back() {
            Some(last) if last.id == id => state.objects.len() - 1,
            _ => state.objects.binary_search_by_key(&id, |object| object.id).ok()?,
        };
        let object = state.objects.get_mut(at)?;
        let before = object.payload.have();
        object.payload.push(piece);
        let taken = object.payload.have() - before;
        self.bytes += taken;
        Some((taken, object.payload.is_whole()))
    }

    /// Takes out an object whose rest will not come. Returns the bytes that were there.
    pub(super) fn cut_midway(&mut self, subgroup: u64) -> usize {
        let Some(state) = self.subgroups.iter_mut().find(|known| known.id == subgroup) else {
            return 0;
        };
        if !state.is_midway() {
            return 0;
        }
        let had = state.objects.pop_back().map_or(0, |object| object.payload.have());
        self.bytes -= had;
        had
    }

    /// Frees the object with the smallest id. Returns its bytes. A subgroup that loses what is just
    /// arriving is given up.
    pub(super) fn trim_first(&mut self) -> usize {
        let front = |s: &Subgroup| s.objects.front().map(|object| object.id);
        let lowest =
            self.subgroups.iter_mut().filter_map(|s| Some((front(s)?, s))).min_by_key(|f| f.0);
        let datagram = self.datagrams.front().map(|object| object.id);
        let first = match lowest {
            Some((id, subgroup)) if datagram.is_none_or(|datagram| id < datagram) => {
                let first = subgroup.objects.pop_front();
                if first.as_ref().is_some_and(|first| !first.payload.is_whole()) {
                    subgroup.progress = Progress::Aborted(ResetCode::ExcessiveLoad);
                }
                first
            }
            _ => self.datagrams.pop_front(),
        };
        let Some(first) = first else { return 0 };
        self.known_from = self.known_from.max(first.id + 1);
        self.trimmed_below = self.trimmed_below.max(first.id + 1);
        self.bytes -= first.payload.have();
        first.payload.have()
    }

    /// The rest of its unfinished subgroups will not come. Returns the bytes freed.
    pub(super) fn abort_all(&mut self, code: ResetCode) -> usize {
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

    /// No object follows; what is still arriving is given up. Returns the bytes freed.
    pub(super) fn complete_all(&mut self, now: Instant) -> usize {
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

impl Subgroup {
    pub(super) fn new(
        id: u64,
        serial: u64,
        priority: u8,
        heads: PerDraft<Bytes>,
        from_head: bool,
        holds_end: bool,
    ) -> Self {
        Self {
            id,
            serial,
            priority,
            heads,
            progress: Progress::Growing,
            ended: None,
            from_head,
            holds_end,
            resumed_from: 0,
            objects: VecDeque::new(),
        }
    }

    pub(super) fn complete(&mut self, now: Instant) {
        if self.progress == Progress::Growing {
            self.progress = Progress::Complete;
            self.ended = Some(now);
        }
    }

    /// After an insertion in the middle (replicas only): heads and offsets behind it change.
    fn recount(&mut self, at: usize) {
        let mut before =
            at.checked_sub(1).and_then(|i| self.objects.get(i)).map(|o| (o.id, o.end_offset));
        for object in self.objects.iter_mut().skip(at) {
            let previous = before.map(|(id, _)| id);
            let length = object.payload.len();
            if object.previous != previous
                && let Some(heads) =
                    object_heads(previous, object.id, &object.properties, length, object.status)
            {
                object.previous = previous;
                object.heads = heads;
            }
            object.end_offset = before.map_or(0, |(_, offset)| offset) + length as u64;
            before = Some((object.id, object.end_offset));
        }
    }
}
