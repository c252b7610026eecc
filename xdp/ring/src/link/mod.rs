//! A link carries objects from the shard that has them to every shard that wants them: an mcache
//! (a ring of descriptor lines) beside a dcache (a ring of payload slots). It owns memory and
//! ordering; it refuses to know what a track or a group is, and it never slows its writer: a
//! reader that falls behind by more than the depth is told how much it missed.
//!
//! One [`Producer`] writes. Any number of [`Consumer`]s read, each with its own cursor, and none
//! ever writes shared memory, so a slow reader costs the writer nothing and readers cost each
//! other nothing. A reader looks at a [`Descriptor`] first and touches payload only if it cares.
//! An object larger than a slot travels as several fragments, in order.
//!
//! # Why it is sound
//!
//! Every shared word is an atomic, so a read that races with a write is a stale value, never
//! undefined behaviour; a sequence number proves afterwards whether it was stale.
//!
//! Line `sequence & mask` belongs in turn to sequences that are `depth` apart. The producer first
//! stores `sequence - 1` there (the *eviction mark*: no reader waits for that value in this line,
//! given a depth of at least two), then the words, then `sequence`. A reader accepts the words if
//! the line holds its sequence both before and after it copied them.
//!
//! Slot `sequence % (depth + 1)` belongs in turn to sequences that are `depth + 1` apart. Payload
//! is written before the line is marked, so with only `depth` slots the bytes of a sequence that
//! is still valid would change. With the spare slot the previous owner is `sequence - depth - 1`,
//! and its line was marked by the publication before this one. So the one check of the line also
//! covers the payload.
//!
//! # Why fixed slots and not one contiguous payload area
//!
//! An area with a watermark must hold `fragment_max x (depth + 1)` bytes all the same, because
//! every live descriptor may have the largest payload. Slots need no allocator state, no wrap
//! rule, and no position in the descriptor that a reader would have to trust.

mod consumer;
mod producer;

pub use consumer::{Consumer, Fragment, Overrun, Poll};
pub use producer::Producer;

#[cfg(loom)]
#[doc(hidden)]
pub use crate::sync::Mutant;
#[cfg(not(loom))]
use crate::sync::Mutant;
use crate::sync::{Arc, AtomicU64, Ordering};

/// Target of a fragment that every shard may take.
pub const ALL: u16 = u16::MAX;

/// Bytes of a payload slot unless [`Options`] says otherwise. A 4 Mb/s picture at 30 fps is
/// 16.7 kB on average, so most objects are one or two fragments.
pub const SLOT_BYTES: usize = 16 * 1024;

/// Lines of a link unless [`Options`] says otherwise: 512 x 16 KiB = 8 MiB, which at 100 Mb/s of
/// input and half of every slot in use is a third of a second of tolerance for a stalled reader.
pub const DEPTH: usize = 512;

/// Size of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Descriptor lines; a power of two, at least 2.
    pub depth: usize,
    /// Largest payload of one fragment; rounded up to whole words.
    pub slot_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { depth: DEPTH, slot_bytes: SLOT_BYTES }
    }
}

/// What a fragment is, apart from its bytes. Bits 16 to 31 are free for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The first fragment of its object.
    pub const FIRST: Self = Self(1);
    /// The last fragment of its object.
    pub const LAST: Self = Self(1 << 1);
    /// Published earlier and repeated from the group cache for the shard named in the target.
    pub const REPLAY: Self = Self(1 << 2);
    /// The last object of its group.
    pub const END_OF_GROUP: Self = Self(1 << 3);
    /// No object of this track follows.
    pub const END_OF_TRACK: Self = Self(1 << 4);

    /// Flags from their bits, those of the caller included.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits, those of the caller included.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is set here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

/// What the publisher says about an object; the link carries it and looks only at the fragment
/// flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The track, as the shards on both ends number it.
    pub track: u64,
    /// The group.
    pub group: u64,
    /// The object within the group.
    pub object: u64,
    /// What kind of fragment this is.
    pub flags: Flags,
    /// The shard this is for, or [`ALL`].
    pub target: u16,
    /// Publisher priority of the object; lower wins.
    pub priority: u8,
    /// When the object arrived, in nanoseconds of a clock that both ends share.
    pub stamp: u64,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            track: 0,
            group: 0,
            object: 0,
            flags: Flags::NONE,
            target: ALL,
            priority: 0,
            stamp: 0,
        }
    }
}

/// One fragment as a reader sees it before it touches the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Position in the link; consecutive.
    pub sequence: u64,
    /// What the publisher said.
    pub header: Header,
    /// Bytes of this fragment.
    pub size: u32,
    /// Bytes of the whole object, or 0 where the publisher did not know yet.
    pub object_size: u32,
}

/// Makes a link: its one producer, and a consumer that stands at the beginning.
pub fn link(options: Options) -> (Producer, Consumer) {
    let shared = Arc::new(Shared::new(options, None));
    (Producer::new(shared.clone()), Consumer::new(shared))
}

/// Makes a link that is broken in one way, for the model checker to find out.
#[cfg(loom)]
#[doc(hidden)]
pub fn mutated(options: Options, mutant: Mutant) -> (Producer, Consumer) {
    let shared = Arc::new(Shared::new(options, Some(mutant)));
    (Producer::new(shared.clone()), Consumer::new(shared))
}

/// What both ends share. Written by the producer alone.
#[derive(Debug)]
struct Shared {
    /// The sequence that will be published next: everything below it was published. A lower bound
    /// for readers, on a cache line of its own because the producer writes it every time.
    next: Padded<AtomicU64>,
    lines: Box<[Line]>,
    payload: Box<[AtomicU64]>,
    depth: u64,
    slot_words: usize,
    slots: u64,
    #[cfg(loom)]
    mutant: Option<Mutant>,
}

impl Shared {
    fn new(options: Options, mutant: Option<Mutant>) -> Self {
        let Options { depth, slot_bytes } = options;
        assert!(
            depth.is_power_of_two() && depth >= 2,
            "depth {depth}: a power of two of at least 2, or the eviction mark would equal the \
             sequence that it evicts"
        );
        assert!(
            (1..=u32::MAX as usize).contains(&slot_bytes),
            "slot of {slot_bytes} bytes: sizes travel as u32"
        );
        let slots = if mutant == Some(Mutant::NoSpareSlot) { depth } else { depth + 1 };
        let slot_words = slot_bytes.div_ceil(WORD);
        Self {
            next: Padded(AtomicU64::new(depth as u64)),
            // The first owner of line i is sequence depth + i, so i reads as "not yet" and never
            // as its eviction mark of a reader that waits for it.
            lines: (0..depth as u64).map(Line::new).collect(),
            payload: (0..slots * slot_words).map(|_| AtomicU64::new(0)).collect(),
            depth: depth as u64,
            slot_words,
            slots: slots as u64,
            #[cfg(loom)]
            mutant,
        }
    }

    fn slot_bytes(&self) -> usize {
        self.slot_words * WORD
    }

    fn line(&self, sequence: u64) -> &Line {
        &self.lines[(sequence & (self.depth - 1)) as usize]
    }

    fn slot(&self, sequence: u64) -> &[AtomicU64] {
        let start = (sequence % self.slots) as usize * self.slot_words;
        &self.payload[start..start + self.slot_words]
    }

    /// Stores a payload into the slot of `sequence`.
    #[inline]
    fn write(&self, sequence: u64, payload: &[u8]) {
        let slot = self.slot(sequence);
        let (words, tail) = payload.as_chunks();
        for (shared_word, word) in slot.iter().zip(words) {
            shared_word.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        if let Some(shared_word) = slot.get(words.len()).filter(|_| !tail.is_empty()) {
            let mut word = [0; WORD];
            word[..tail.len()].copy_from_slice(tail);
            shared_word.store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    #[cfg(loom)]
    fn broken(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(loom))]
    #[expect(clippy::unused_self, reason = "under loom the answer depends on the link")]
    const fn broken(&self, _: Mutant) -> bool {
        false
    }
}

const WORD: usize = size_of::<u64>();

/// Words of a descriptor beside its sequence: with it 56 bytes, so a line is one cache line.
const WORDS: usize = 6;

#[derive(Debug)]
#[repr(align(64))]
struct Line {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Line {
    fn new(sequence: u64) -> Self {
        Self {
            sequence: AtomicU64::new(sequence),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Two cache lines, because x86 prefetches them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

impl Descriptor {
    fn pack(&self) -> [u64; WORDS] {
        let Header { track, group, object, flags, target, priority, stamp } = self.header;
        [
            track,
            group,
            object,
            u64::from(flags.0) << 32 | u64::from(self.size),
            u64::from(self.object_size) << 32 | u64::from(target) << 8 | u64::from(priority),
            stamp,
        ]
    }

    fn unpack(sequence: u64, words: [u64; WORDS]) -> Self {
        let [track, group, object, flags_size, rest, stamp] = words;
        let header = Header {
            track,
            group,
            object,
            flags: Flags((flags_size >> 32) as u32),
            target: (rest >> 8) as u16,
            priority: rest as u8,
            stamp,
        };
        Self { sequence, header, size: flags_size as u32, object_size: (rest >> 32) as u32 }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
