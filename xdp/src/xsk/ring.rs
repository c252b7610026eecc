//! One ring between us and the kernel: two counters that only grow, of which each side writes one,
//! and entries between them. It owns the order of loads and stores; it knows nothing of frames.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU32, Ordering, fence},
};

use crate::sys::{
    memory::SharedWords,
    xsk::{RingKind, RingOffsets},
};

/// Set by the kernel when it sleeps and must be woken to go on (`XDP_RING_NEED_WAKEUP`).
const NEED_WAKEUP: u32 = 1;

/// The memory of a ring. An entry is `WORDS` words of 64 bits: an address in the fill and completion
/// rings, a descriptor in the others.
#[derive(Debug)]
struct Ring<const WORDS: usize> {
    memory: SharedWords,
    offsets: RingOffsets,
    entries: u32,
}

impl<const WORDS: usize> Ring<WORDS> {
    fn map(
        socket: BorrowedFd<'_>,
        kind: RingKind,
        offsets: RingOffsets,
        entries: u32,
    ) -> io::Result<Self> {
        assert!(entries.is_power_of_two(), "{entries} entries");
        let bytes = offsets.entries + entries as usize * WORDS * 8;
        let memory = SharedWords::of(socket, kind.map_offset(), bytes)?;
        Ok(Self { memory, offsets, entries })
    }

    fn producer(&self) -> &AtomicU32 {
        self.memory.word(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.memory.word(self.offsets.consumer)
    }

    /// Whether the kernel sleeps. It says so before it looks at the ring for the last time, and we put
    /// entries in before we look here: with a fence between the two on either side, one of us sees
    /// what the other has written.
    fn needs_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        self.memory.word(self.offsets.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    fn offset(&self, counter: u32) -> usize {
        self.offsets.entries + (counter & (self.entries - 1)) as usize * WORDS * 8
    }
}

/// A ring that we put entries into: fill and transmit.
#[derive(Debug)]
pub(super) struct Producer<const WORDS: usize> {
    ring: Ring<WORDS>,
    /// Entries put in so far, of which the kernel may not know the last ones.
    next: u32,
    /// Entries that the kernel has taken, as we last saw it.
    taken: u32,
}

impl<const WORDS: usize> Producer<WORDS> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        kind: RingKind,
        offsets: RingOffsets,
        entries: u32,
    ) -> io::Result<Self> {
        Ring::map(socket, kind, offsets, entries).map(|ring| Self { ring, next: 0, taken: 0 })
    }

    /// Puts an entry in; gives it back if there is no room. The kernel sees it after
    /// [`Producer::submit`].
    pub(super) fn push(&mut self, entry: [u64; WORDS]) -> Result<(), [u64; WORDS]> {
        if self.next.wrapping_sub(self.taken) == self.ring.entries {
            // Pairs with the kernel's store after it has read what it took.
            self.taken = self.ring.consumer().load(Ordering::Acquire);
            if self.next.wrapping_sub(self.taken) >= self.ring.entries {
                return Err(entry);
            }
        }
        let offset = self.ring.offset(self.next);
        for (at, word) in entry.into_iter().enumerate() {
            self.ring.memory.double(offset + 8 * at).store(word, Ordering::Relaxed);
        }
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Shows the kernel what was put in.
    pub(super) fn submit(&self) {
        // Pairs with the kernel's load before it reads entries.
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// How many entries the kernel has not taken yet.
    pub(super) fn waiting(&mut self) -> u32 {
        self.taken = self.ring.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.taken)
    }

    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that we take entries from: receive and completion.
#[derive(Debug)]
pub(super) struct Consumer<const WORDS: usize> {
    ring: Ring<WORDS>,
    /// Entries taken so far.
    next: u32,
    /// Entries that the kernel has put in, as we last saw it.
    put: u32,
}

impl<const WORDS: usize> Consumer<WORDS> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        kind: RingKind,
        offsets: RingOffsets,
        entries: u32,
    ) -> io::Result<Self> {
        Ring::map(socket, kind, offsets, entries).map(|ring| Self { ring, next: 0, put: 0 })
    }

    /// Takes an entry. The kernel has its place back after [`Consumer::release`].
    pub(super) fn pop(&mut self) -> Option<[u64; WORDS]> {
        if self.next == self.put {
            // Pairs with the kernel's store after it has written entries.
            self.put = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.put {
                return None;
            }
        }
        let offset = self.ring.offset(self.next);
        let word = |at| self.ring.memory.double(offset + 8 * at).load(Ordering::Relaxed);
        let entry = std::array::from_fn(word);
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of taken entries back.
    pub(super) fn release(&self) {
        // Pairs with the kernel's load before it writes entries: ours have been read by then.
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const ENTRIES: u32 = 8;
    const OFFSETS: RingOffsets =
        RingOffsets { producer: 0, consumer: 64, entries: 192, flags: 128 };

    fn ring(start: u32) -> Ring<2> {
        let memory = SharedWords::zeros(4_096).expect("memory");
        let ring = Ring { memory, offsets: OFFSETS, entries: ENTRIES };
        ring.producer().store(start, Ordering::Relaxed);
        ring.consumer().store(start, Ordering::Relaxed);
        ring
    }

    /// What the kernel does on the other side of a ring that we fill.
    fn kernel_takes(ring: &Ring<2>) -> Option<[u64; 2]> {
        let at = ring.consumer().load(Ordering::Relaxed);
        if at == ring.producer().load(Ordering::Acquire) {
            return None;
        }
        let offset = ring.offset(at);
        let word = |offset| ring.memory.double(offset).load(Ordering::Relaxed);
        let entry = [word(offset), word(offset + 8)];
        ring.consumer().store(at.wrapping_add(1), Ordering::Release);
        Some(entry)
    }

    /// And of one that we empty.
    fn kernel_puts(ring: &Ring<2>, entry: [u64; 2]) -> bool {
        let at = ring.producer().load(Ordering::Relaxed);
        if at.wrapping_sub(ring.consumer().load(Ordering::Acquire)) == ENTRIES {
            return false;
        }
        let offset = ring.offset(at);
        ring.memory.double(offset).store(entry[0], Ordering::Relaxed);
        ring.memory.double(offset + 8).store(entry[1], Ordering::Relaxed);
        ring.producer().store(at.wrapping_add(1), Ordering::Release);
        true
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn filled_ring_is_a_queue_over_the_wrap_of_its_counters(
            operations in prop::collection::vec(0..3_u8, 0..200),
            before_wrap in 0..20_u32,
        ) {
            let start = u32::MAX - before_wrap;
            let mut ours = Producer { ring: ring(start), next: start, taken: start };
            let (mut shown, mut hidden) = (VecDeque::new(), VecDeque::new());
            for (number, operation) in (0_u64..).zip(operations) {
                match operation {
                    0 => {
                        let entry = [number, !number];
                        let fits = shown.len() + hidden.len() < ENTRIES as usize;
                        prop_assert_eq!(ours.push(entry).is_ok(), fits);
                        if fits {
                            hidden.push_back(entry);
                        }
                    }
                    1 => {
                        ours.submit();
                        shown.append(&mut hidden);
                    }
                    _ => prop_assert_eq!(kernel_takes(&ours.ring), shown.pop_front()),
                }
                prop_assert_eq!(ours.waiting() as usize, shown.len() + hidden.len());
            }
        }

        #[test]
        fn emptied_ring_is_a_queue_over_the_wrap_of_its_counters(
            operations in prop::collection::vec(0..3_u8, 0..200),
            before_wrap in 0..20_u32,
        ) {
            let start = u32::MAX - before_wrap;
            let mut ours = Consumer { ring: ring(start), next: start, put: start };
            let (mut inside, mut taken) = (VecDeque::new(), 0);
            for (number, operation) in (0_u64..).zip(operations) {
                match operation {
                    0 => {
                        let entry = [number, !number];
                        let fits = inside.len() + taken < ENTRIES as usize;
                        prop_assert_eq!(kernel_puts(&ours.ring, entry), fits);
                        if fits {
                            inside.push_back(entry);
                        }
                    }
                    1 => {
                        ours.release();
                        taken = 0;
                    }
                    _ => {
                        let expected = inside.pop_front();
                        taken += usize::from(expected.is_some());
                        prop_assert_eq!(ours.pop(), expected);
                    }
                }
            }
        }
    }
}
