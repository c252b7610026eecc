//! The ring that takes datagrams in: one request that the kernel answers again and again, and buffers
//! that it fills. It owns the buffers and knows which are the kernel's.

use std::{
    io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::Ordering,
};

use io_uring::{IoUring, cqueue, opcode, types};

use super::{PUT_OFF_MAX, RingCounts, SOCKET, enter, push};
use crate::sys::memory::{LentBytes, SharedWords};

/// Buffers for what arrives. While a shard is busy the kernel takes in up to 32 datagrams or trains
/// at each of its system calls; twice that, and the rest waits in the socket's own buffer.
pub(crate) const ARRIVALS: u16 = 64;

/// Bytes of one of them: a train that the kernel joined, and what goes before it.
/// 64 x 66,048 = 4.2 MB.
const ARRIVAL_BYTES: usize = 64 * 1024 + 512;

/// The one buffer group.
const GROUP: u16 = 0;

/// Marks of completions.
const RECEIVE: u64 = 0;
const WRITABLE: u64 = 1;

/// Where the parts of a filled buffer are: a header of 16 bytes comes first.
pub(crate) struct ReceiveLayout {
    pub(crate) name: usize,
    pub(crate) name_bytes: usize,
    pub(crate) control: usize,
    pub(crate) control_bytes: usize,
    pub(crate) payload: usize,
}

/// Name 28; control: both addresses 32 + 40, both marks 24 + 24, the size of joined datagrams 24,
/// 144 in all.
pub(crate) const RECEIVE_LAYOUT: ReceiveLayout =
    ReceiveLayout { name: 16, name_bytes: 28, control: 44, control_bytes: 192, payload: 236 };

/// Takes datagrams in.
pub(crate) struct Receiver {
    ring: IoUring,
    /// What each request receives; the kernel copies it when the request is submitted.
    message: Box<libc::msghdr>,
    /// Buffers that the kernel may fill, as entries of 16 bytes: address, length, number. The last
    /// two bytes of the first entry are the tail.
    free: SharedWords,
    tail: u16,
    /// Not given back if a request may still write to it.
    buffers: ManuallyDrop<LentBytes>,
    /// Filled buffers of this look: number and bytes.
    filled: Vec<(u16, usize)>,
    is_armed: bool,
    watches_room: bool,
    has_room: bool,
    /// Requests that ended in an error since one brought something.
    failures: u32,
    counts: RingCounts,
}

impl Receiver {
    /// Begins to receive from a socket that other calls may send on.
    pub(crate) fn new(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            // Each arrival holds a buffer; beside them only ends of requests complete.
            .setup_cqsize(u32::from(ARRIVALS) * 2)
            .build(8)?;
        ring.submitter().register_files(&[socket.as_raw_fd()])?;
        let free = SharedWords::zeros(usize::from(ARRIVALS) * 16)?;
        let buffers = LentBytes::zeros(usize::from(ARRIVALS) * ARRIVAL_BYTES)?;
        // SAFETY: the ring of buffers is mapped, has the size that is said here, and lives as long
        // as the ring: both are fields of this value, and the kernel pins its pages.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(free.address(), ARRIVALS, GROUP, 0)?;
        }
        // SAFETY: a header of messages is plain; all zeros says that it has no parts.
        let mut message: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        message.msg_namelen = RECEIVE_LAYOUT.name_bytes as libc::socklen_t;
        message.msg_controllen = RECEIVE_LAYOUT.control_bytes as _;
        let mut receiver = Self {
            ring,
            message,
            free,
            tail: 0,
            buffers: ManuallyDrop::new(buffers),
            filled: Vec::with_capacity(usize::from(ARRIVALS)),
            is_armed: false,
            watches_room: false,
            has_room: false,
            failures: 0,
            counts: RingCounts::default(),
        };
        for number in 0..ARRIVALS {
            receiver.give_back(number);
        }
        receiver.publish();
        receiver.arm()?;
        // A kernel that knows no such request says so at once, and nothing can have come before that.
        receiver.look(1);
        if !receiver.is_armed && receiver.failures > 0 {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        Ok(receiver)
    }

    /// Readable when [`Self::look`] would find something.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the ring's, which the returned value borrows.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    pub(crate) fn counts(&self) -> RingCounts {
        self.counts
    }

    /// Wakes the owner when the socket has room for sends again; [`Self::has_room`] then says so.
    pub(crate) fn watch_room(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.watches_room, true) {
            let entry = opcode::PollAdd::new(SOCKET, libc::POLLOUT as u32).build();
            push(&mut self.ring, &entry.user_data(WRITABLE));
            enter(&mut self.ring, 0, &mut self.counts)?;
        }
        Ok(())
    }

    /// Says once that there is room.
    pub(crate) fn has_room(&mut self) -> bool {
        std::mem::take(&mut self.has_room)
    }

    /// Gives `sink` at most `max` filled buffers, and begins again where receiving had ended. What is
    /// beyond that stays where it keeps the descriptor readable. Says how many there were.
    pub(crate) fn take(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        self.look(max);
        if self.filled.is_empty() {
            let submission = self.ring.submission();
            let (late, kept_back) = (submission.taskrun(), submission.cq_overflow());
            drop(submission);
            if late || kept_back {
                enter(&mut self.ring, 0, &mut self.counts)?;
                self.look(max);
            }
        }
        let taken = self.take_filled(sink);
        if self.is_armed {
            return Ok(taken);
        }
        self.counts.rearmed += 1;
        if self.failures >= PUT_OFF_MAX {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        self.arm()?;
        // Whoever hears that nothing waits goes to sleep.
        if taken > 0 {
            return Ok(taken);
        }
        self.look(max);
        Ok(self.take_filled(sink))
    }

    /// All that was received and not looked at, at the end of this ring's life.
    pub(crate) fn take_rest(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.look(usize::from(ARRIVALS));
        self.take_filled(sink)
    }

    fn take_filled(&mut self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let count = self.filled.len();
        for (number, bytes) in self.filled.drain(..) {
            let start = usize::from(number) * ARRIVAL_BYTES;
            // SAFETY: the kernel filled this buffer and said so; it has it back only below.
            if let Some(filled) = unsafe { self.buffers.get(start, bytes.min(ARRIVAL_BYTES)) } {
                sink(filled);
            }
            give_back(&self.free, self.buffers.address(), &mut self.tail, number);
        }
        if count > 0 {
            self.publish();
        }
        count
    }

    fn give_back(&mut self, number: u16) {
        give_back(&self.free, self.buffers.address(), &mut self.tail, number);
    }

    /// Shows the kernel what was given back. The tail shares a word with the number of the first
    /// entry, which the kernel only reads.
    fn publish(&mut self) {
        let word = self.free.word(12);
        let number = word.load(Ordering::Relaxed) & 0xffff;
        word.store(number | u32::from(self.tail) << 16, Ordering::Release);
    }

    /// Looks at what completed, up to `max` filled buffers.
    fn look(&mut self, max: usize) {
        let mut completions = self.ring.completion();
        while self.filled.len() < max
            && let Some(completion) = completions.next()
        {
            let (result, flags) = (completion.result(), completion.flags());
            if completion.user_data() == WRITABLE {
                self.watches_room = false;
                self.has_room = true;
                continue;
            }
            self.is_armed &= cqueue::more(flags);
            match (result, cqueue::buffer_select(flags)) {
                (bytes @ 0.., Some(number)) if number < ARRIVALS => {
                    self.failures = 0;
                    self.filled.push((number, bytes as usize));
                }
                (0.., _) => {}
                (error, _) if -error == libc::ENOBUFS => self.counts.no_buffer += 1,
                // An ICMP answer to something we sent; it says nothing about what waits here.
                (error, _) if is_answer(-error) => {}
                _ => self.failures += 1,
            }
        }
    }

    fn arm(&mut self) -> io::Result<()> {
        // The message header outlives the submission, which is the last that the kernel sees of it;
        // the buffers outlive the request, see `drop`.
        let entry = opcode::RecvMsgMulti::new(SOCKET, &raw const *self.message, GROUP).build();
        push(&mut self.ring, &entry.user_data(RECEIVE));
        self.is_armed = true;
        enter(&mut self.ring, 0, &mut self.counts)
    }
}

fn give_back(free: &SharedWords, buffers: u64, tail: &mut u16, number: u16) {
    let at = usize::from(*tail % ARRIVALS) * 16;
    let address = buffers + u64::from(number) * ARRIVAL_BYTES as u64;
    free.double(at).store(address, Ordering::Relaxed);
    free.word(at + 8).store(ARRIVAL_BYTES as u32, Ordering::Relaxed);
    let word = free.word(at + 12);
    word.store(word.load(Ordering::Relaxed) & 0xffff_0000 | u32::from(number), Ordering::Relaxed);
    *tail = tail.wrapping_add(1);
}

fn is_answer(error: i32) -> bool {
    matches!(error, libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN)
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let submitter = self.ring.submitter();
        // A second is what a loaded machine may need; requests that wait for datagrams end at once.
        let patience = types::Timespec::new().sec(1);
        let any = types::CancelBuilder::any();
        let is_over = match submitter.register_sync_cancel(Some(patience), any) {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        };
        // The socket's address is free as soon as its descriptor is closed, not when the ring is.
        let _ = submitter.unregister_files();
        if is_over {
            // SAFETY: it is dropped here alone, and no request is left that writes to it.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        }
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Receiver").field("counts", &self.counts).finish_non_exhaustive()
    }
}
