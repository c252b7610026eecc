//! Group ids of a broadcast: who opens a group, and which group a moment belongs to. All tracks share the ids, so that
//! the same id means the same time in each of them.

use std::collections::VecDeque;

/// Boundaries a track that lags may still ask for: a minute at two groups a second.
const BOUNDARIES_MAX: usize = 120;
/// Keyframes of several renditions this close together open one group.
const TOGETHER: i64 = 100_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boundary {
    pub(crate) group: u64,
    /// Nanoseconds on the media time line.
    pub(crate) start: i64,
}

#[derive(Debug)]
pub(crate) struct Groups {
    next: u64,
    boundaries: VecDeque<Boundary>,
}

impl Groups {
    pub(crate) fn new(first: u64) -> Self {
        Self { next: first, boundaries: VecDeque::new() }
    }

    /// The group that starts at `start` for a track that is in group `current`: one just opened by another track, or a
    /// new one.
    pub(crate) fn open(&mut self, start: i64, current: Option<u64>) -> Boundary {
        let joinable = |boundary: &Boundary| {
            (boundary.start - start).abs() <= TOGETHER
                && current.is_none_or(|current| boundary.group > current)
        };
        if let Some(boundary) = self.boundaries.back().copied().filter(joinable) {
            return boundary;
        }
        // Starts never run backwards, even if a second rendition lags.
        let start = self.boundaries.back().map_or(start, |last| last.start.max(start));
        let boundary = Boundary { group: self.next, start };
        self.next += 1;
        if self.boundaries.len() == BOUNDARIES_MAX {
            self.boundaries.pop_front();
        }
        self.boundaries.push_back(boundary);
        boundary
    }

    /// The newest group that has started at `at`; a moment before the first group belongs to the first.
    pub(crate) fn at(&self, at: i64) -> Option<Boundary> {
        self.boundaries
            .iter()
            .rev()
            .find(|boundary| boundary.start <= at)
            .or(self.boundaries.front())
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn renditions_share_a_group_and_lagging_audio_finds_it() {
        let mut groups = Groups::new(7);
        assert_eq!(groups.at(0), None);
        let first = groups.open(0, None);
        assert_eq!(groups.open(3 * MS, None), first);
        let second = groups.open(1000 * MS, Some(first.group));
        assert_eq!(groups.open(1003 * MS, Some(first.group)), second);
        assert_eq!((first.group, second.group), (7, 8));
        assert_eq!(groups.at(999 * MS), Some(first));
        assert_eq!(groups.at(1000 * MS), Some(second));
    }

    #[test]
    fn keyframes_of_one_track_never_share_a_group() {
        let mut groups = Groups::new(0);
        let mut current = None;
        for frame in 0..500 {
            let boundary = groups.open(frame * 16 * MS, current);
            assert_eq!(boundary.group, frame as u64);
            current = Some(boundary.group);
        }
        assert_eq!(groups.boundaries.len(), BOUNDARIES_MAX);
    }
}
