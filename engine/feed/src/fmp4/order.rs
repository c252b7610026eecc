//! The order in which the groups of one track are read: each is a stream of its own, and streams overtake each other. It
//! owns what waits, within a limit of the caller's, and knows nothing of what objects hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Ends remembered of groups that have not begun to be read: more are not open at once.
const ENDS_MAX: usize = 64;

/// What is to be done next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Read this object: group, object, payload.
    Object(u64, u64, Bytes),
    /// Something before the next object is missing for good.
    Lost,
}

/// The groups of one track.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The group that is being read.
    current: Option<u64>,
    ended: bool,
    /// The object that follows in it.
    next: u64,
    held: BTreeMap<(u64, u64), Bytes>,
    held_bytes: usize,
    ends: BTreeSet<u64>,
    /// Since when a newer group waits.
    since: Option<Instant>,
}

impl Order {
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// An object; `free` is what may still be held.
    pub(super) fn handle_object(
        &mut self,
        group: u64,
        object: u64,
        payload: Bytes,
        free: usize,
        now: Instant,
    ) -> Vec<Step> {
        let current = *self.current.get_or_insert_with(|| {
            self.next = object;
            group
        });
        let mut steps = Vec::new();
        if group == current {
            // Objects of a stream ascend; another one is a second of the same number.
            if object < self.next || self.ended {
                return steps;
            }
            if object > self.next {
                steps.push(Step::Lost);
            }
            self.next = object.saturating_add(1);
            steps.push(Step::Object(group, object, payload));
        } else if group > current {
            let full = payload.len() > free;
            self.held_bytes += payload.len();
            if let Some(twin) = self.held.insert((group, object), payload) {
                self.held_bytes -= twin.len();
            }
            self.since.get_or_insert(now);
            if self.ended || full {
                self.advance(&mut steps, now);
            }
        }
        steps
    }

    /// The stream of a group is over.
    pub(super) fn handle_end(&mut self, group: u64, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        match self.current {
            Some(current) if current == group => {
                self.ended = true;
                self.advance(&mut steps, now);
            }
            Some(current) if current < group => {
                self.ends.insert(group);
                if self.ends.len() > ENDS_MAX {
                    self.ends.pop_first();
                }
            }
            _ => {}
        }
        steps
    }

    /// A newer group has waited long enough.
    pub(super) fn handle_timeout(&mut self, late: Duration, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= late) {
            self.advance(&mut steps, now);
        }
        steps
    }

    /// Nothing more comes: what waits is read as it is.
    pub(super) fn flush(&mut self) -> Vec<Step> {
        self.held_bytes = 0;
        self.since = None;
        let held = std::mem::take(&mut self.held).into_iter();
        held.map(|((group, object), payload)| Step::Object(group, object, payload)).collect()
    }

    /// Turns to the oldest group that waits, and on while those are complete.
    fn advance(&mut self, steps: &mut Vec<Step>, now: Instant) {
        while let Some((&(group, _), _)) = self.held.first_key_value() {
            if !self.ended {
                steps.push(Step::Lost);
            }
            (self.current, self.next) = (Some(group), 0);
            let newer = self.held.split_off(&(group.saturating_add(1), 0));
            for ((_, object), payload) in std::mem::replace(&mut self.held, newer) {
                if object > self.next {
                    steps.push(Step::Lost);
                }
                self.next = object.saturating_add(1);
                self.held_bytes -= payload.len();
                steps.push(Step::Object(group, object, payload));
            }
            self.ended = self.ends.remove(&group);
            self.ends = self.ends.split_off(&group);
            if !self.ended {
                break;
            }
        }
        self.since = (!self.held.is_empty()).then_some(now);
    }
}
