//! The one door to atomics: the standard ones, or loom's under `--cfg loom`. Also the list of
//! mutants, which exist only for loom: in every other build asking for one is a constant `false`.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc,
    atomic::{AtomicU64, Ordering, fence},
};

/// One way to break the link. `tests/loom.rs` runs the model against each and requires a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(loom), expect(unreachable_pub, reason = "public for the loom test only"))]
pub enum Mutant {
    /// The descriptor line is not marked as evicted before its words change.
    NoEvictionMark,
    /// The eviction mark is stored after the words that it should guard.
    LateEvictionMark,
    /// The eviction mark is not ordered before the words and the payload that follow.
    NoEvictionFence,
    /// The sequence is published before its words.
    EarlyPublish,
    /// The sequence is published before its payload.
    LatePayload,
    /// The sequence is published without ordering the words before it.
    RelaxedPublish,
    /// The reader does not order the words after the sequence it found.
    RelaxedPoll,
    /// The reader does not order its re-read of the sequence after the words.
    NoDescriptorFence,
    /// The reader trusts the words without reading the sequence again.
    NoDescriptorCheck,
    /// The reader does not order its re-read of the sequence after the payload.
    NoPayloadFence,
    /// The reader trusts the payload without reading the sequence again.
    NoPayloadCheck,
    /// The payload area has as many slots as there are lines, not one more.
    NoSpareSlot,
}
