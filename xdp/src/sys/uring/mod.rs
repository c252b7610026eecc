//! `io_uring` (`io_uring_setup(2)`, `io_uring_enter(2)`) as this crate uses it: one ring that takes
//! datagrams in and one that sends them, each on one registered socket, with all memory that the
//! kernel reads or writes. It owns that memory and knows when the kernel is done with it; it refuses
//! to know what the bytes mean.

mod receive;
mod send;

use std::io;

use io_uring::{IoUring, Probe, opcode, squeue, types};

pub(crate) use receive::{RECEIVE_LAYOUT, Receiver};
pub(crate) use send::{SENDS, Sender, Verdict, ZERO_COPIES, is_zero_copy};

/// How often in a row the kernel may put us off before the ring counts as lost.
const PUT_OFF_MAX: u32 = 16;

/// The one registered file.
const SOCKET: types::Fixed = types::Fixed(0);

/// What happened to a ring so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingCounts {
    /// Times that the kernel found no buffer for an arrival, which then waited in the socket.
    pub no_buffer: u64,
    /// Times that completions did not fit and the kernel kept them back.
    pub overflows: u64,
    /// Times that the kernel put a system call off.
    pub put_off: u64,
    /// Times that receiving ended and was begun again.
    pub rearmed: u64,
    /// Sends that the socket had no room for, and that were kept.
    pub no_room: u64,
    /// System calls.
    pub enters: u64,
    /// Sends read from our memory by the interface.
    pub zero_copies: u64,
    /// Sends meant to be, which the kernel copied after all.
    pub zero_copies_copied: u64,
}

impl std::ops::Add for RingCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            no_buffer: self.no_buffer + other.no_buffer,
            overflows: self.overflows + other.overflows,
            put_off: self.put_off + other.put_off,
            rearmed: self.rearmed + other.rearmed,
            no_room: self.no_room + other.no_room,
            enters: self.enters + other.enters,
            zero_copies: self.zero_copies + other.zero_copies,
            zero_copies_copied: self.zero_copies_copied + other.zero_copies_copied,
        }
    }
}

/// Whether this kernel has all that the rings need: the youngest is sending without a copy (Linux
/// 6.1); multishot receiving is of 6.0, and rings of buffers of 5.19.
pub(crate) fn is_young_enough() -> io::Result<bool> {
    let ring = IoUring::new(2)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(probe.is_supported(opcode::SendMsgZc::CODE) && ring.params().is_feature_nodrop())
}

/// Hands what was pushed to the kernel. An error means that the ring is of no more use.
fn enter(ring: &mut IoUring, want: usize, counts: &mut RingCounts) -> io::Result<()> {
    let mut put_off = 0;
    loop {
        counts.enters += 1;
        counts.overflows += u64::from(ring.submission().cq_overflow());
        match ring.submit_and_wait(want) {
            Ok(_) if ring.submission().is_empty() => return Ok(()),
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {}
                _ => return Err(error),
            },
        }
        counts.put_off += 1;
        put_off += 1;
        if put_off >= PUT_OFF_MAX {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
    }
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: every entry of this module points to memory that outlives the request: see where it
    // is made.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.expect("the ring holds all sends at once, and requests are submitted at once");
}
