//! What publishers brought of their past, kept for a moment: who joins a group whose beginning this node has not seen
//! live finds it here, so that one FETCH serves all of them and not one each. It owns how much is kept and for how
//! long; what is asked for is [`super::holes`]'s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use weir_moqt::Location;

use super::holes::Found;
use crate::TrackId;

/// Answers in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Answers {
    kept: VecDeque<Answer>,
    bytes: usize,
}

#[derive(Debug)]
struct Answer {
    track: TrackId,
    /// It speaks of everything from here to where `found` ends.
    start: Location,
    found: Arc<Found>,
    bytes: usize,
    until: Instant,
}

impl Answers {
    /// Keeps an answer; returns how many older ones had to go for it.
    pub(super) fn keep(
        &mut self,
        track: TrackId,
        start: Location,
        (found, bytes): (Found, usize),
        until: Instant,
        bytes_max: usize,
    ) -> u64 {
        // Nothing is kept twice.
        self.remove(|answer| {
            answer.track == track && answer.start >= start && answer.found.through <= found.through
        });
        if bytes > bytes_max {
            return 1;
        }
        self.kept.push_back(Answer { track, start, found: Arc::new(found), bytes, until });
        self.bytes += bytes;
        let mut gone = 0;
        while self.bytes > bytes_max
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes;
            gone += 1;
        }
        gone
    }

    /// What is kept of a track from `start` on.
    pub(super) fn of(&self, track: TrackId, start: Location) -> impl Iterator<Item = &Arc<Found>> {
        let speaks = move |answer: &&Answer| answer.track == track && answer.start <= start;
        self.kept.iter().filter(speaks).map(|answer| &answer.found)
    }

    /// Drops what is too old.
    pub(super) fn expire(&mut self, now: Instant) {
        self.remove(|answer| answer.until <= now);
    }

    /// When the next one is too old.
    pub(super) fn next(&self) -> Option<Instant> {
        self.kept.iter().map(|answer| answer.until).min()
    }

    fn remove(&mut self, gone: impl Fn(&Answer) -> bool) {
        let bytes = &mut self.bytes;
        self.kept.retain(|answer| {
            let gone = gone(answer);
            *bytes -= if gone { answer.bytes } else { 0 };
            !gone
        });
    }
}
