//! The writing end of a link. It owns the order of the stores; it never reads what others write,
//! because nobody else writes.

use std::ops::Range;

use super::{Arc, Consumer, Descriptor, Flags, Header, Mutant, Shared};
use crate::sync::{Ordering, fence};

/// The one writer of a link.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    /// The sequence to publish next; `Shared::next` is its public copy.
    next: u64,
}

impl Producer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let next = shared.depth;
        Self { shared, next }
    }

    /// Publishes a whole object: in one fragment where it fits, else in as many as it takes. The
    /// first and last flags are set here, whatever the header says. Returns the sequences used.
    pub fn publish(&mut self, header: &Header, payload: &[u8]) -> Range<u64> {
        assert!(u32::try_from(payload.len()).is_ok(), "an object of 4 GiB is refused at the edge");
        let first = self.next;
        let size = payload.len() as u32;
        let base = header.flags.without(Flags::FIRST | Flags::LAST);
        let mut rest = payload;
        let mut start = Flags::FIRST;
        loop {
            let (fragment, after) = rest.split_at(rest.len().min(self.slot_bytes()));
            let end = if after.is_empty() { Flags::LAST } else { Flags::NONE };
            let flags = base | start | end;
            self.publish_fragment(&Header { flags, ..*header }, size, fragment);
            if after.is_empty() {
                return first..self.next;
            }
            rest = after;
            start = Flags::NONE;
        }
    }

    /// Publishes one fragment exactly as the header describes it: for a relay that forwards while
    /// it still receives. `object_size` is 0 where it is not known yet; the payload is at most
    /// [`Producer::slot_bytes`] long. Returns the sequence.
    pub fn publish_fragment(&mut self, header: &Header, object_size: u32, payload: &[u8]) -> u64 {
        let shared = &*self.shared;
        assert!(payload.len() <= shared.slot_bytes(), "fragments are cut to the slot");
        let sequence = self.next;
        let descriptor =
            Descriptor { sequence, header: *header, size: payload.len() as u32, object_size };

        // The slot's previous owner is sequence - depth - 1. Its line got the mark of the
        // publication before this one, and that publication's release fence stands between that
        // mark and these stores. It pairs with the acquire fence in `Fragment::copy_and_check`: who reads
        // one of these words then also reads the mark or something newer.
        if !shared.broken(Mutant::LatePayload) {
            shared.write(sequence, payload);
        }

        let line = shared.line(sequence);
        let marks_late = shared.broken(Mutant::LateEvictionMark);
        if !shared.broken(Mutant::NoEvictionMark) && !marks_late {
            line.sequence.store(sequence - 1, Ordering::Relaxed);
        }
        // Orders the mark before the words below and before the payload of the next publication.
        // Pairs with the acquire fences in `Consumer::poll` and `Fragment::copy_and_check`.
        if !shared.broken(Mutant::NoEvictionFence) {
            fence(Ordering::Release);
        }
        if shared.broken(Mutant::EarlyPublish) {
            line.sequence.store(sequence, Ordering::Release);
        }
        for (shared_word, word) in line.words.iter().zip(descriptor.pack()) {
            shared_word.store(word, Ordering::Relaxed);
        }
        if marks_late {
            line.sequence.store(sequence - 1, Ordering::Relaxed);
        }
        // Pairs with the acquire load of the sequence in `Consumer::poll`: who sees this sequence
        // sees its words and its payload.
        let publish = if shared.broken(Mutant::RelaxedPublish) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        line.sequence.store(sequence, publish);
        if shared.broken(Mutant::LatePayload) {
            shared.write(sequence, payload);
        }
        self.next = sequence + 1;
        // A hint of where the writer is: readers validate what they find there by the line's own
        // sequence, so nothing hangs on the order of this store.
        shared.next.0.store(self.next, Ordering::Relaxed);
        sequence
    }

    /// A new consumer that sees what is published from now on.
    pub fn consumer(&self) -> Consumer {
        Consumer::starting_at(self.shared.clone(), self.next)
    }

    /// Largest payload of one fragment.
    pub fn slot_bytes(&self) -> usize {
        self.shared.slot_bytes()
    }

    /// How many fragments were published since the link was made.
    pub fn published(&self) -> u64 {
        self.next - self.shared.depth
    }
}
