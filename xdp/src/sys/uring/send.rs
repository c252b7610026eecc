//! The ring that sends datagrams: copies gathered for one call, bytes of the caller's for the length
//! of a call, and bytes of ours that an interface reads. It owns that memory and knows when each part
//! is free again.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use io_uring::{IoUring, cqueue, opcode};

use super::{RingCounts, SOCKET, enter, push};
use crate::sys::memory::LentBytes;

/// Sends that one system call takes.
pub(crate) const SENDS: usize = 64;

/// Bytes that those sends may hold together: enough for 64 x 4 KiB, and little enough to stay in a
/// cache between the copy and the send.
pub(crate) const COPIED_BYTES: usize = 256 * 1024;

/// Sends whose bytes the interface reads from our memory, at a time, and bytes of one:
/// 16 x 64 KiB = 1 MiB.
pub(crate) const ZERO_COPIES: usize = 16;
const ZERO_COPY_BYTES: usize = 64 * 1024;

/// Bytes of what a send needs beside its contents, and where each part is.
const ENVELOPE_BYTES: usize = 256;
const IOVEC_AT: usize = 64;
const NAME_AT: usize = 80;
const CONTROL_AT: usize = 112;
const _: () = assert!(
    size_of::<libc::msghdr>() <= IOVEC_AT
        && IOVEC_AT + size_of::<libc::iovec>() <= NAME_AT
        && NAME_AT + size_of::<libc::sockaddr_in6>() <= CONTROL_AT,
    "the parts of an envelope do not overlap"
);

/// Sends datagrams.
pub(crate) struct Sender {
    ring: IoUring,
    /// One per send: header, address, control messages. First those of copied sends, then one for
    /// bytes of the caller, then those of sends without a copy.
    envelopes: LentBytes,
    copied: LentBytes,
    copied_used: usize,
    /// Envelopes of copied sends in use, from the first.
    used: usize,
    /// How many of those the kernel has not answered, and how many it refused and we kept.
    open: usize,
    kept: usize,
    zero_copy: LentBytes,
    slots: [Slot; ZERO_COPIES],
    counts: RingCounts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    /// The kernel has not answered.
    Open,
    /// It was refused and we kept it.
    Kept,
    /// It left, and the interface may still read it.
    Read,
}

/// What to do with a send that the kernel has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    /// Its bytes stay, for [`Sender::push_again`].
    Keep,
}

/// The envelope of bytes that are not ours.
const LENT: usize = SENDS;

/// Whether a send by that number is one without a copy.
pub(crate) fn is_zero_copy(number: usize) -> bool {
    number > LENT
}

impl Sender {
    pub(crate) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let zero_copies = ZERO_COPIES as u32;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            // A send without a copy completes twice.
            .setup_cqsize((SENDS as u32 + 1 + 2 * zero_copies).next_power_of_two())
            .build((SENDS as u32 + 1 + zero_copies).next_power_of_two())?;
        ring.submitter().register_files(&[socket.as_raw_fd()])?;
        Ok(Self {
            ring,
            envelopes: LentBytes::zeros((SENDS + 1 + ZERO_COPIES) * ENVELOPE_BYTES)?,
            copied: LentBytes::zeros(COPIED_BYTES)?,
            copied_used: 0,
            used: 0,
            open: 0,
            kept: 0,
            zero_copy: LentBytes::zeros(ZERO_COPIES * ZERO_COPY_BYTES)?,
            slots: [Slot::Free; ZERO_COPIES],
            counts: RingCounts::default(),
        })
    }

    pub(crate) fn counts(&self) -> RingCounts {
        self.counts
    }

    /// Whether [`Self::enter`] has something to do: sends wait, or memory may be free again.
    pub(crate) fn is_waiting(&self) -> bool {
        let in_use = |slot: &Slot| matches!(slot, Slot::Open | Slot::Read);
        self.open > 0 || self.slots.iter().any(in_use)
    }

    /// Takes a copy of the bytes, to be sent by the next [`Self::enter`]. The number of the send, or
    /// nothing if there is no room.
    pub(crate) fn push_copy(
        &mut self,
        name: &[u8],
        control: &[u8],
        contents: &[u8],
    ) -> Option<usize> {
        let end = self.copied_used + contents.len();
        if self.used >= SENDS || end > COPIED_BYTES {
            return None;
        }
        // SAFETY: nothing beyond what is used is lent to the kernel.
        let place = unsafe { self.copied.get_mut(self.copied_used, contents.len())? };
        place.copy_from_slice(contents);
        let (number, address) = (self.used, self.copied.address() + self.copied_used as u64);
        self.write_envelope(number, name, control, address, contents.len());
        self.copied_used = end;
        self.used += 1;
        self.open += 1;
        self.push_send(number);
        Some(number)
    }

    /// Sends what waits and then these bytes, which the kernel is done with when this returns. What
    /// it answered to them; everything else is for `answered`. An error means that the ring is of no
    /// more use and that none of this may have left.
    pub(crate) fn send_lent(
        &mut self,
        name: &[u8],
        control: &[u8],
        contents: &[u8],
        answered: &mut dyn FnMut(usize, i32) -> Verdict,
    ) -> io::Result<i32> {
        let address = contents.as_ptr().expose_provenance() as u64;
        self.write_envelope(LENT, name, control, address, contents.len());
        self.push_send(LENT);
        let mut lent = None;
        enter(&mut self.ring, 0, &mut self.counts)?;
        loop {
            self.look(&mut |number, result| {
                if number == LENT {
                    lent = Some(result);
                    Verdict::Done
                } else {
                    answered(number, result)
                }
            });
            // A send that must not wait is answered by the call that submits it. Should a kernel
            // think otherwise: the caller's bytes are lent until it has answered.
            if let Some(result) = lent {
                return Ok(result);
            }
            // Whatever this call says, only the kernel's answer gives the bytes back.
            let _ = self.ring.submit_and_wait(1);
        }
    }

    /// Takes a copy of the bytes that the interface is to read, to be sent by the next
    /// [`Self::enter`]. The number of the send, or nothing if there is no room.
    pub(crate) fn push_zero_copy(
        &mut self,
        name: &[u8],
        control: &[u8],
        contents: &[u8],
    ) -> Option<usize> {
        let slot = self.slots.iter().position(|slot| *slot == Slot::Free)?;
        let start = slot * ZERO_COPY_BYTES;
        if contents.len() > ZERO_COPY_BYTES {
            return None;
        }
        // SAFETY: the slot is free: the kernel said that it is done with it.
        let place = unsafe { self.zero_copy.get_mut(start, contents.len())? };
        place.copy_from_slice(contents);
        let number = LENT + 1 + slot;
        let address = self.zero_copy.address() + start as u64;
        self.write_envelope(number, name, control, address, contents.len());
        self.slots[slot] = Slot::Open;
        let entry = opcode::SendMsgZc::new(SOCKET, self.envelope(number))
            .flags(libc::MSG_DONTWAIT as u32)
            .ioprio(REPORT_USAGE)
            .build();
        push(&mut self.ring, &entry.user_data(number as u64));
        Some(number)
    }

    /// Sends what waits and says what the kernel answered, send by send. An error means that the
    /// ring is of no more use.
    pub(crate) fn enter(
        &mut self,
        answered: &mut dyn FnMut(usize, i32) -> Verdict,
    ) -> io::Result<()> {
        enter(&mut self.ring, 0, &mut self.counts)?;
        self.look(answered);
        Ok(())
    }

    /// Sends a kept one again with the next [`Self::enter`]; a second try takes a copy in any case.
    pub(crate) fn push_again(&mut self, number: usize) {
        match number.checked_sub(LENT + 1) {
            None => {
                self.kept -= 1;
                self.open += 1;
            }
            Some(slot) => self.slots[slot] = Slot::Open,
        }
        self.push_send(number);
    }

    /// The bytes of a send, for another way once the kernel has answered or the ring is lost.
    pub(crate) fn contents(&self, number: usize) -> &[u8] {
        let envelope = number * ENVELOPE_BYTES + IOVEC_AT;
        // SAFETY: envelopes are written by us alone; the kernel only reads them.
        let part = unsafe { self.envelopes.get(envelope, size_of::<libc::iovec>()) };
        let word = |at: usize| {
            let bytes = part.and_then(|part| part.get(at..)).and_then(<[u8]>::first_chunk);
            usize::from_ne_bytes(*bytes.expect("an envelope has an iovec"))
        };
        let (address, bytes) = (word(0) as u64, word(8));
        let memory = if number < LENT { &self.copied } else { &self.zero_copy };
        let start = (address - memory.address()) as usize;
        // SAFETY: as above: contents are written before they are lent, and not while they are.
        unsafe { memory.get(start, bytes) }.expect("contents are within their memory")
    }

    /// Says what the kernel has answered, without a system call.
    pub(crate) fn look(&mut self, answered: &mut dyn FnMut(usize, i32) -> Verdict) {
        for completion in self.ring.completion() {
            let (number, result) = (completion.user_data() as usize, completion.result());
            let flags = completion.flags();
            let Some(slot) = number.checked_sub(LENT + 1) else {
                let verdict = answered(number, result);
                if number < LENT {
                    self.open -= 1;
                    self.kept += usize::from(verdict == Verdict::Keep);
                }
                continue;
            };
            if cqueue::notif(flags) {
                self.slots[slot] = Slot::Free;
                let copied = result as u32 & USAGE_COPIED != 0;
                self.counts.zero_copies += u64::from(!copied);
                self.counts.zero_copies_copied += u64::from(copied);
                continue;
            }
            self.slots[slot] = match answered(number, result) {
                Verdict::Keep => Slot::Kept,
                Verdict::Done if cqueue::more(flags) => Slot::Read,
                Verdict::Done => Slot::Free,
            };
        }
        if self.open == 0 && self.kept == 0 {
            (self.used, self.copied_used) = (0, 0);
        }
    }

    fn write_envelope(
        &mut self,
        number: usize,
        name: &[u8],
        control: &[u8],
        address: u64,
        bytes: usize,
    ) {
        let at = number * ENVELOPE_BYTES;
        let base = self.envelopes.address() + at as u64;
        let pointer = |offset: usize| {
            std::ptr::with_exposed_provenance_mut::<libc::c_void>(base as usize + offset)
        };
        // SAFETY: a header of messages is plain; all zeros says that it has no parts.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = pointer(NAME_AT);
        header.msg_namelen = name.len() as libc::socklen_t;
        header.msg_iov = pointer(IOVEC_AT).cast();
        header.msg_iovlen = 1;
        if !control.is_empty() {
            header.msg_control = pointer(CONTROL_AT);
            header.msg_controllen = control.len() as _;
        }
        // SAFETY: this envelope belongs to no request: its number was free.
        let envelope = unsafe { self.envelopes.get_mut(at, ENVELOPE_BYTES) };
        let envelope = envelope.expect("every number has an envelope");
        // SAFETY: the envelope is longer than a header.
        unsafe { envelope.as_mut_ptr().cast::<libc::msghdr>().write_unaligned(header) };
        envelope[IOVEC_AT..IOVEC_AT + 8].copy_from_slice(&(address as usize).to_ne_bytes());
        envelope[IOVEC_AT + 8..IOVEC_AT + 16].copy_from_slice(&bytes.to_ne_bytes());
        envelope[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
        envelope[CONTROL_AT..CONTROL_AT + control.len()].copy_from_slice(control);
    }

    fn envelope(&self, number: usize) -> *const libc::msghdr {
        let address = self.envelopes.address() as usize + number * ENVELOPE_BYTES;
        std::ptr::with_exposed_provenance(address)
    }

    fn push_send(&mut self, number: usize) {
        // Never waits, so that the kernel has read envelope and contents when the call returns.
        let entry = opcode::SendMsg::new(SOCKET, self.envelope(number))
            .flags(libc::MSG_DONTWAIT as u32)
            .build();
        push(&mut self.ring, &entry.user_data(number as u64));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Pages that an interface still reads are pinned; the rest of the memory is ours.
        let _ = self.ring.submitter().unregister_files();
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sender").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// `IORING_SEND_ZC_REPORT_USAGE` and `IORING_NOTIF_USAGE_ZC_COPIED` of linux/`io_uring`.h.
const REPORT_USAGE: u16 = 1 << 3;
const USAGE_COPIED: u32 = 1 << 31;
