//! The reading end of a link: a cursor and the proof that what was read is whole. It owns nothing
//! shared; what to do about an overrun (resume at the next group) is for the reader's owner.

use bytes::BytesMut;
use thiserror::Error;

use super::{Arc, Descriptor, Mutant, Shared};
use crate::sync::{Ordering, fence};

/// One reader of a link. A clone starts where the original stands and moves on its own.
#[derive(Debug, Clone)]
pub struct Consumer {
    shared: Arc<Shared>,
    /// The sequence to read next.
    next: u64,
    missed: u64,
}

/// What [`Consumer::poll`] found.
#[derive(Debug)]
#[must_use]
pub enum Poll<'a> {
    /// Nothing new.
    Empty,
    /// The next fragment. Dropping it skips its payload.
    Ready(Fragment<'a>),
    /// The writer was faster: fragments are lost, and the cursor already stands behind the gap.
    Overrun(Overrun),
}

/// The writer overtook the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("overrun: {missed} fragments missed")]
pub struct Overrun {
    /// Fragments between the last one read and the next one to come; at least 1.
    pub missed: u64,
}

impl Consumer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let first = shared.depth;
        Self::starting_at(shared, first)
    }

    pub(super) fn starting_at(shared: Arc<Shared>, next: u64) -> Self {
        Self { shared, next, missed: 0 }
    }

    /// Looks at the next fragment and moves past it.
    #[inline]
    pub fn poll(&mut self) -> Poll<'_> {
        let sequence = self.next;
        let shared = &*self.shared;
        let line = shared.line(sequence);
        // Pairs with the release store of the sequence in `Producer::publish_fragment`.
        let acquire =
            if shared.broken(Mutant::RelaxedPoll) { Ordering::Relaxed } else { Ordering::Acquire };
        let found = line.sequence.load(acquire);
        if found < sequence {
            return Poll::Empty;
        }
        if found > sequence {
            return Poll::Overrun(self.resync(sequence, found));
        }
        let words = std::array::from_fn(|at| line.words[at].load(Ordering::Relaxed));
        // Pairs with the release fence after the eviction mark: if one of these words belongs to a
        // later sequence, the load below finds that sequence's mark or something newer.
        if !shared.broken(Mutant::NoDescriptorFence) {
            fence(Ordering::Acquire);
        }
        let found = line.sequence.load(Ordering::Relaxed);
        if found != sequence && !shared.broken(Mutant::NoDescriptorCheck) {
            return Poll::Overrun(self.resync(sequence, found));
        }
        self.next = sequence + 1;
        let descriptor = Descriptor::unpack(sequence, words);
        Poll::Ready(Fragment { consumer: self, descriptor })
    }

    /// Skips everything published so far. Returns how many fragments that was; they do not count
    /// as missed.
    pub fn skip_to_newest(&mut self) -> u64 {
        let skipped = self.lag();
        self.next += skipped;
        skipped
    }

    /// How many fragments were published and not yet polled, as far as this thread can see.
    pub fn lag(&self) -> u64 {
        self.shared.next.0.load(Ordering::Relaxed).saturating_sub(self.next)
    }

    /// How many fragments were lost to overruns since this consumer (or the one that it was
    /// cloned from) was made.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Moves behind the gap. `wanted` is gone: its line holds `found`, which is either published
    /// or the mark of its successor, so everything up to `found` was published, and `found` is at
    /// least `wanted + depth - 1`.
    #[cold]
    fn resync(&mut self, wanted: u64, found: u64) -> Overrun {
        let next = self.shared.next.0.load(Ordering::Relaxed).max(found + 1);
        // Half the depth: far enough behind the writer to lose little, far enough ahead of the
        // eviction not to lose it again at once.
        self.next = next - self.shared.depth / 2;
        let missed = self.next - wanted;
        self.missed += missed;
        Overrun { missed }
    }
}

/// A fragment that was found: its descriptor is whole, its payload still in shared memory.
#[derive(Debug)]
pub struct Fragment<'a> {
    consumer: &'a mut Consumer,
    descriptor: Descriptor,
}

impl Fragment<'_> {
    /// What the fragment is.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Appends the payload to `out`. On an overrun `out` is as it was before, and the cursor
    /// stands behind the gap.
    #[inline]
    pub fn read_into(self, out: &mut BytesMut) -> Result<(), Overrun> {
        let before = out.len();
        out.resize(before + self.descriptor.size as usize, 0);
        self.copy_and_check(&mut out[before..]).inspect_err(|_| out.truncate(before))
    }

    /// Appends the payload to `out`, as [`Fragment::read_into`] does.
    #[inline]
    pub fn read_into_vec(self, out: &mut Vec<u8>) -> Result<(), Overrun> {
        let before = out.len();
        out.resize(before + self.descriptor.size as usize, 0);
        self.copy_and_check(&mut out[before..]).inspect_err(|_| out.truncate(before))
    }

    /// Copies the payload and proves that no byte of it changed meanwhile.
    #[inline]
    fn copy_and_check(self, out: &mut [u8]) -> Result<(), Overrun> {
        let sequence = self.descriptor.sequence;
        let shared = &*self.consumer.shared;
        let slot = shared.slot(sequence);
        let (words, tail) = out.as_chunks_mut();
        for (word, shared_word) in words.iter_mut().zip(slot) {
            *word = shared_word.load(Ordering::Relaxed).to_le_bytes();
        }
        if let Some(shared_word) = slot.get(words.len()).filter(|_| !tail.is_empty()) {
            let word = shared_word.load(Ordering::Relaxed).to_le_bytes();
            tail.copy_from_slice(&word[..tail.len()]);
        }
        // Pairs with the release fence of the publication that evicted this sequence: if one of
        // these words belongs to sequence + depth + 1, the load below finds the mark of
        // sequence + depth or something newer.
        if !shared.broken(Mutant::NoPayloadFence) {
            fence(Ordering::Acquire);
        }
        let found = shared.line(sequence).sequence.load(Ordering::Relaxed);
        if found == sequence || shared.broken(Mutant::NoPayloadCheck) {
            return Ok(());
        }
        Err(self.consumer.resync(sequence, found))
    }
}
