//! The request ids a peer has used. They come almost in order, so a few ranges hold them all.

/// A set of ids of one parity, kept as closed ranges.
#[derive(Debug, Default)]
pub(super) struct IdSet {
    /// Sorted, disjoint, never adjacent.
    ranges: Vec<(u64, u64)>,
}

/// Most ranges kept. Each gap stands for a stream that was reset before it was seen or overtaken on the
/// way; past this many the oldest gap counts as used. 32 x 16 bytes.
const RANGES_MAX: usize = 32;

impl IdSet {
    /// Adds `id` (already divided by two); false when it was there before.
    pub(super) fn insert(&mut self, id: u64) -> bool {
        let at = self.ranges.partition_point(|&(_, end)| end < id);
        if self.ranges.get(at).is_some_and(|&(start, _)| start <= id) {
            return false;
        }
        self.ranges.insert(at, (id, id));
        self.merge(at);
        self.merge(at.wrapping_sub(1));
        if self.ranges.len() > RANGES_MAX {
            self.close_gap(0);
        }
        true
    }

    /// Joins range `at` with the next one when they touch.
    fn merge(&mut self, at: usize) {
        let (Some(&(_, end)), Some(&(next, _))) =
            (self.ranges.get(at), self.ranges.get(at.wrapping_add(1)))
        else {
            return;
        };
        if end.checked_add(1) == Some(next) {
            self.close_gap(at);
        }
    }

    fn close_gap(&mut self, at: usize) {
        if at + 1 < self.ranges.len() {
            let (_, end) = self.ranges.remove(at + 1);
            if let Some(range) = self.ranges.get_mut(at) {
                range.1 = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overtaken_ids_are_accepted_once_and_ranges_stay_few() {
        let mut ids = IdSet::default();
        for id in [0, 2, 1, 5, 4, 3] {
            assert!(ids.insert(id), "{id}");
            assert!(!ids.insert(id), "{id} again");
        }
        assert_eq!(ids.ranges, [(0, 5)]);
        for id in 0..1000 {
            assert!(ids.insert(100 + 2 * id));
        }
        assert_eq!(ids.ranges.len(), RANGES_MAX);
        assert!(!ids.insert(100));
        assert!(ids.insert(u64::MAX));
    }
}
