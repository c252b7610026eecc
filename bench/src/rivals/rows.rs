//! The broadcasts every contender is measured with. Owns their rates, their rhythm and how many receive them: few enough
//! that neither the slowest contender nor the generator is saturated on a core of a small guest, since a cost per
//! CPU-second is what is compared, not the point of collapse.

use crate::fanout::Shape;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// In results and on the command line.
    pub name: &'static str,
    /// Of each broadcast.
    pub shape: Shape,
    /// Broadcasts at once.
    pub publishers: u32,
    /// Over all broadcasts.
    pub subscribers: u32,
    /// Of them, those that check every byte.
    pub checked: u32,
}

const fn shape(
    bits_per_second: u64,
    objects_per_second: u32,
    group_objects: u32,
    intra_factor: u32,
) -> Shape {
    Shape { bits_per_second, objects_per_second, group_objects, intra_factor }
}

/// All rows, the smallest objects first.
pub const ROWS: [Row; 6] = [
    // Opus, 20 ms.
    row("audio-64k", shape(64_000, 50, 50, 1), 1, 150, 8),
    // moxygen's load shape: 33 ms, I 7,576 and P 1,894 bytes, 30 a group.
    row("video-500k", shape(500_000, 30, 30, 4), 1, 150, 8),
    // moq-dev's: 60 fps of 4 KB.
    row("video-1.92M", shape(1_920_000, 60, 60, 1), 1, 100, 6),
    // 30 fps, 2 s groups, an I picture of ten P pictures.
    row("video-5M", shape(5_000_000, 30, 60, 10), 1, 50, 3),
    row("video-20M", shape(20_000_000, 30, 60, 10), 1, 14, 2),
    // moq-dev's many to many, scaled to one core.
    row("100x8", shape(400_000, 10, 10, 1), 100, 800, 40),
];

const fn row(
    name: &'static str,
    shape: Shape,
    publishers: u32,
    subscribers: u32,
    checked: u32,
) -> Row {
    Row { name, shape, publishers, subscribers, checked }
}

/// The row in which the validity of receivers that only acknowledge, A/A, and the cost against N are measured.
pub const REFERENCE: Row = ROWS[2];

/// The row by this name.
pub fn by_name(name: &str) -> Option<Row> {
    ROWS.into_iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_as_large_as_the_names_say() {
        let bytes = |name: &str, object: u64| by_name(name).map(|row| row.shape.bytes(object) - 8);
        assert_eq!(bytes("audio-64k", 0), Some(160));
        assert_eq!(bytes("audio-64k", 7), Some(160));
        assert_eq!(bytes("video-500k", 0), Some(7_572));
        assert_eq!(bytes("video-500k", 1), Some(1_893));
        assert_eq!(bytes("video-1.92M", 3), Some(4_000));
        assert_eq!(bytes("100x8", 0), Some(5_000));
    }

    #[test]
    fn every_broadcast_has_receivers_and_some_of_them_check() {
        for row in ROWS {
            assert!(row.subscribers % row.publishers == 0, "{}", row.name);
            assert!((1..=row.subscribers / 5).contains(&row.checked), "{}", row.name);
        }
    }
}
