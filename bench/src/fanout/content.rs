//! What the broadcast of a measurement consists of: when each object is due, how large it is and every byte of it. Both
//! ends compute it from the position alone, so a receiver compares all bytes and needs no hash and no memory per object.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

/// Bytes in front of each payload: when it was due, in nanoseconds since the start of the broadcast.
pub(super) const STAMP_BYTES: usize = 8;

/// Places in the pool at which the body of an object can begin.
const STARTS: usize = 1 << 20;

/// Rate and rhythm of the broadcast.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Payload bits a second.
    pub bits_per_second: u64,
    /// Objects a second.
    pub objects_per_second: u32,
    /// Objects in a group, of which the first is the large one.
    pub group_objects: u32,
    /// How many times as large as the others the first is; 1 for audio.
    pub intra_factor: u32,
}

impl Shape {
    /// When the object at `index` (counted over all groups) is due.
    pub(crate) fn due(&self, index: u64) -> Duration {
        let rate = u64::from(self.objects_per_second);
        Duration::from_nanos(index * 1_000_000_000 / rate)
    }

    /// The first object that is due at `at` or later.
    pub(crate) fn index_at(&self, at: Duration) -> u64 {
        (at.as_nanos() * u128::from(self.objects_per_second)).div_ceil(1_000_000_000) as u64
    }

    /// Group and object of an index.
    pub(crate) fn place(&self, index: u64) -> (u64, u64) {
        let group_objects = u64::from(self.group_objects);
        (index / group_objects, index % group_objects)
    }

    /// Index of a group and object; `None` if this shape has no such place.
    pub(super) fn index(&self, group: u64, object: u64) -> Option<u64> {
        let group_objects = u64::from(self.group_objects);
        (object < group_objects).then(|| group.checked_mul(group_objects)?.checked_add(object))?
    }

    /// Payload bytes of an object, stamp included.
    pub(crate) fn bytes(&self, object: u64) -> usize {
        let objects = u64::from(self.group_objects);
        let group_bytes = self.bits_per_second * objects / (8 * u64::from(self.objects_per_second));
        let factor = u64::from(self.intra_factor);
        let small = group_bytes / (objects - 1 + factor);
        let bytes = if object == 0 { small * factor } else { small };
        bytes as usize + STAMP_BYTES
    }
}

/// The bytes of every object: slices of one random pool, at a place that follows from group and object.
#[derive(Clone)]
pub(super) struct Content {
    shape: Shape,
    seed: u64,
    pool: Bytes,
}

impl Content {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        let mut pool = BytesMut::zeroed(STARTS + shape.bytes(0));
        fastrand::Rng::with_seed(seed).fill(&mut pool);
        Self { shape, seed, pool: pool.freeze() }
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The payload of an object: its stamp and its body.
    pub(super) fn payload(&self, group: u64, object: u64) -> [Bytes; 2] {
        let due = self
            .shape
            .index(group, object)
            .map_or(0, |index| u64::try_from(self.shape.due(index).as_nanos()).unwrap_or(u64::MAX));
        let start = self.start(group, object);
        let end = start + self.shape.bytes(object) - STAMP_BYTES;
        [Bytes::copy_from_slice(&due.to_be_bytes()), self.pool.slice(start..end)]
    }

    /// Whether `piece` is what the payload of this object holds from `at` on.
    pub(super) fn matches(&self, group: u64, object: u64, at: usize, piece: &[u8]) -> bool {
        let [stamp, body] = self.payload(group, object);
        let (of_stamp, of_body) = piece.split_at(STAMP_BYTES.saturating_sub(at).min(piece.len()));
        let body_at = at.saturating_sub(STAMP_BYTES);
        stamp.get(at..at + of_stamp.len()).unwrap_or_default() == of_stamp
            && body.get(body_at..body_at + of_body.len()).is_some_and(|body| body == of_body)
    }

    /// Splitmix64 of the position: neighbours lie far apart in the pool.
    fn start(&self, group: u64, object: u64) -> usize {
        let mut mixed = self.seed ^ group.rotate_left(32) ^ object;
        for factor in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
            mixed = (mixed ^ mixed >> 30).wrapping_mul(factor);
        }
        (mixed ^ mixed >> 31) as usize % STARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        bits_per_second: 5_000_000,
        objects_per_second: 30,
        group_objects: 60,
        intra_factor: 10,
    };

    #[test]
    fn a_group_carries_the_rate_it_promises() {
        let bytes: usize = (0..60).map(|object| SHAPE.bytes(object) - STAMP_BYTES).sum();
        assert!((1_249_000..=1_250_000).contains(&bytes), "{bytes}");
        assert_eq!(SHAPE.due(60), Duration::from_secs(2));
        assert_eq!(SHAPE.index_at(Duration::from_secs(2)), 60);
        assert_eq!(SHAPE.place(61), (1, 1));
        assert_eq!((SHAPE.index(1, 1), SHAPE.index(1, 60)), (Some(61), None));
    }

    #[test]
    fn a_payload_is_recognised_in_any_pieces_and_a_wrong_bit_is_not() {
        let content = Content::new(SHAPE, 7);
        let whole: Vec<u8> = content.payload(3, 5).concat();
        assert_eq!(whole.len(), SHAPE.bytes(5));
        for cut in [0, 1, 7, 8, 9, 1000, whole.len()] {
            let (head, tail) = whole.split_at(cut);
            assert!(content.matches(3, 5, 0, head) && content.matches(3, 5, cut, tail), "{cut}");
        }
        for at in [0, 7, 8, whole.len() - 1] {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            assert!(!content.matches(3, 5, 0, &wrong), "{at}");
        }
        assert!(!content.matches(3, 6, 0, &whole));
        assert!(!content.matches(3, 5, whole.len(), b"x"), "longer than the object");
    }
}
