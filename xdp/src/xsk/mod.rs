//! `AF_XDP` sockets: whole frames from and to the queues of an interface. It owns the umem, the four
//! rings of each queue and when the kernel is woken; it refuses to know what is in a frame.
//!
//! One umem serves all queues of a port (`XDP_SHARED_UMEM`), and each queue has rings of its own, so
//! that a frame may arrive by one and leave by another without being copied to another memory.

mod ring;
mod umem;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use ring::{Consumer, Producer};
use socket2::Socket;
use umem::{CHUNK_BYTES, Umem, UmemFrame};

use crate::{
    keeper,
    sys::{
        memory::LentBytes,
        xsk::{self, RingKind},
    },
};

/// Entries of each ring. 2,048 frames of 1,500 bytes are 2.5 ms of 10 Gb/s: a shard that is late by
/// a turn loses nothing. Half of a queue's chunks are for what arrives and half for what leaves:
/// 2 x 2,048 x 4 KiB = 16 MiB for each queue, pinned.
pub(crate) const RING_ENTRIES: u32 = 2_048;

/// Bytes of the umem of one queue.
pub(crate) const QUEUE_BYTES: usize = 2 * RING_ENTRIES as usize * CHUNK_BYTES as usize;

/// Bytes that a frame may have, with its Ethernet header.
pub(crate) const FRAME_BYTES_MAX: usize = CHUNK_BYTES as usize - 256;

/// Bytes that may be under way to the device in copy mode, where each frame becomes a packet buffer
/// of the kernel's: 2,048 x 2.3 KB, and room for the kernel's own.
const SEND_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Frames that the kernel takes for each call in copy mode (`TX_BATCH_SIZE`).
pub(crate) const FRAMES_PER_CALL: u32 = 32;

/// How long a queue may still belong to a socket that was closed: the kernel frees it in a deferred
/// task, which was seen to take 5 to 20 ms.
const BUSY_RETRIES: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// How frames come from the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The kernel copies each frame. Works with every driver.
    Copy,
    /// The driver works on the umem itself.
    ZeroCopy,
}

/// Sockets on some queues of one interface, over one umem.
#[derive(Debug)]
pub(crate) struct Sockets {
    umem: Umem,
    queues: Vec<Queue>,
    mode: Mode,
    /// Frames that the kernel named and never had, or that lie outside.
    invalid: u64,
}

/// One socket.
#[derive(Debug)]
struct Queue {
    number: u32,
    socket: Socket,
    receive: Consumer<2>,
    transmit: Producer<2>,
    fill: Producer<1>,
    completion: Consumer<1>,
}

impl Sockets {
    /// Binds a socket to each of `queues`. A queue beyond those that the interface uses ends the
    /// list; there must be one.
    pub(crate) fn open(interface: u32, queues: &[u32], mode: Mode) -> io::Result<Self> {
        let chunks = 2 * RING_ENTRIES * queues.len() as u32;
        // The kernel pins these pages, which takes a privilege or a high limit.
        let is_kept = keeper::current().is_some();
        let mut umem = if is_kept { Umem::shared(chunks) } else { Umem::new(chunks) }?;
        let mut bound: Vec<Queue> = Vec::with_capacity(queues.len());
        for number in queues {
            let umem_of = bound.first().map(|queue| &queue.socket);
            match Queue::open(interface, *number, mode, &mut umem, umem_of) {
                Ok(queue) => bound.push(queue),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !bound.is_empty() => {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let Some(first) = bound.first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no receive queue"));
        };
        // The kernel's word, not our wish.
        let is_zero_copy = xsk::is_zero_copy(first.socket.as_fd())?;
        let mode = if is_zero_copy { Mode::ZeroCopy } else { Mode::Copy };
        Ok(Self { umem, queues: bound, mode, invalid: 0 })
    }

    /// How frames come.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The queues and their sockets.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.queues.iter().map(|queue| (queue.number, queue.socket.as_fd()))
    }

    /// Gives `sink` at most `frames` frames that have arrived and returns how many there were.
    pub(crate) fn receive(&mut self, frames: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let mut taken = 0;
        for queue in &mut self.queues {
            let before = taken;
            while taken < frames
                && let Some(descriptor) = queue.receive.pop()
            {
                taken += 1;
                let (address, bytes) = (descriptor[0], length(descriptor[1]));
                let Some(frame) = self.umem.reclaim(address) else {
                    self.invalid += 1;
                    continue;
                };
                match self.umem.read(&frame, address, bytes) {
                    Some(bytes) => sink(bytes),
                    None => self.invalid += 1,
                }
                queue.refill(&mut self.umem, frame);
            }
            if taken > before {
                queue.receive.release();
                queue.fill.submit();
                if queue.fill.needs_wakeup() {
                    xsk::wake_receive(&queue.socket);
                }
            }
        }
        // The queue that was served last is the first to go without when there is too much.
        self.queues.rotate_left(1);
        taken
    }

    /// Lets `write` write a frame and puts it into the transmit ring; the kernel sees it after
    /// [`Sockets::flush`]. `write` returns the size, or nothing to send none. False if there is no
    /// room.
    pub(crate) fn send(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let Some(mut frame) = self.umem.take() else { return false };
        let Some(queue) = self.queues.first_mut() else { return false };
        let Some(bytes) = write(&mut self.umem.write(&mut frame)[..FRAME_BYTES_MAX]) else {
            self.umem.give_back(frame);
            return true;
        };
        let address = self.umem.lend(frame);
        match queue.transmit.push([address, sized(bytes)]) {
            Ok(()) => true,
            Err([address, _]) => {
                let frame = self.umem.reclaim(address).expect("it was lent just now");
                self.umem.give_back(frame);
                false
            }
        }
    }

    /// Shows the kernel what waits to be sent and takes back what was.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        for queue in &mut self.queues {
            queue.transmit.submit();
            // In copy mode a call takes 32 frames and then says EAGAIN; it says the same, or
            // ENOBUFS, when the device has no room. More calls than this cannot help.
            let calls = queue.transmit.waiting().div_ceil(FRAMES_PER_CALL);
            for _ in 0..calls {
                if queue.transmit.waiting() == 0 || !queue.transmit.needs_wakeup() {
                    break;
                }
                match xsk::wake_transmit(&queue.socket) {
                    Ok(()) => {}
                    Err(error) if is_pressure(&error) => {}
                    Err(error) => return Err(error),
                }
                queue.take_back(&mut self.umem);
            }
            queue.take_back(&mut self.umem);
        }
        Ok(())
    }

    /// Frames that the kernel lost because the rings had no room or no chunk, and those that made
    /// no sense.
    pub(crate) fn losses(&self) -> Losses {
        let mut losses = Losses { invalid: self.invalid, ..Losses::default() };
        for queue in &self.queues {
            let Ok([dropped, ours, theirs, full, empty, _]) = xsk::statistics(queue.socket.as_fd())
            else {
                continue;
            };
            losses.no_room += dropped + full;
            losses.no_chunk += empty;
            losses.invalid += ours + theirs;
        }
        losses
    }
}

/// What an `AF_XDP` socket lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// The receive ring was full.
    pub no_room: u64,
    /// The fill ring was empty.
    pub no_chunk: u64,
    /// Descriptors that made no sense.
    pub invalid: u64,
}

impl std::ops::Add for Losses {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            no_room: self.no_room + other.no_room,
            no_chunk: self.no_chunk + other.no_chunk,
            invalid: self.invalid + other.invalid,
        }
    }
}

impl Queue {
    fn open(
        interface: u32,
        number: u32,
        mode: Mode,
        umem: &mut Umem,
        umem_of: Option<&Socket>,
    ) -> io::Result<Self> {
        let new_umem = umem_of.is_none().then(|| umem.memory()).flatten();
        let socket = keeper::frame_socket(new_umem)?;
        let fd = socket.as_fd();
        if umem_of.is_none() && new_umem.is_none() {
            xsk::register_umem(fd, umem.area(), CHUNK_BYTES)?;
        }
        for ring in [RingKind::Receive, RingKind::Transmit, RingKind::Fill, RingKind::Completion] {
            xsk::size_ring(fd, ring, RING_ENTRIES)?;
        }
        let [receive, transmit, fill, completion] = xsk::ring_offsets(fd)?;
        let receive = Consumer::map(fd, RingKind::Receive, receive, RING_ENTRIES)?;
        let transmit = Producer::map(fd, RingKind::Transmit, transmit, RING_ENTRIES)?;
        let mut fill = Producer::map(fd, RingKind::Fill, fill, RING_ENTRIES)?;
        let completion = Consumer::map(fd, RingKind::Completion, completion, RING_ENTRIES)?;
        // Before bind, because drivers take their first chunks there.
        let filled: Vec<u64> = std::iter::from_fn(|| umem.take().map(|frame| umem.lend(frame)))
            .take(RING_ENTRIES as usize)
            .collect();
        for address in &filled {
            fill.push([*address]).expect("an empty ring has room for as many as it has entries");
        }
        fill.submit();
        // A socket that shares a umem takes the mode of the first.
        let flags = match (umem_of, mode) {
            (Some(_), _) => xsk::SHARED_UMEM,
            (None, Mode::Copy) => xsk::COPY | xsk::NEED_WAKEUP,
            (None, Mode::ZeroCopy) => xsk::ZERO_COPY | xsk::NEED_WAKEUP,
        };
        if let Err(error) = bind(fd, flags, interface, number, umem_of.map(AsFd::as_fd)) {
            for address in filled {
                umem.reclaim(address).into_iter().for_each(|frame| umem.give_back(frame));
            }
            return Err(error);
        }
        Ok(Self { number, socket, receive, transmit, fill, completion })
    }

    /// Lends a chunk to the kernel for what arrives next.
    fn refill(&mut self, umem: &mut Umem, frame: UmemFrame) {
        if let Err([address]) = self.fill.push([umem.lend(frame)]) {
            umem.reclaim(address).into_iter().for_each(|frame| umem.give_back(frame));
        }
    }

    /// Takes back the chunks of frames that were sent.
    fn take_back(&mut self, umem: &mut Umem) {
        let mut any = false;
        while let Some([address]) = self.completion.pop() {
            any = true;
            umem.reclaim(address).into_iter().for_each(|frame| umem.give_back(frame));
        }
        if any {
            self.completion.release();
        }
    }
}

/// A socket that is bound to nothing, with room for what is under way. Needs `CAP_NET_RAW`, and
/// `CAP_NET_ADMIN` for the room.
pub(crate) fn socket() -> io::Result<Socket> {
    let socket = xsk::socket()?;
    xsk::raise_send_buffer(&socket, SEND_BUFFER_BYTES)?;
    Ok(socket)
}

/// The same with `memory` for its umem, of as many chunks as fit. Needs `CAP_IPC_LOCK` too where that
/// is more than a process may pin. The pages stay pinned when the mapping made here ends.
pub(crate) fn socket_over(memory: BorrowedFd<'_>, bytes: usize) -> io::Result<Socket> {
    let area = LentBytes::of(memory, bytes)?;
    let socket = socket()?;
    xsk::register_umem(socket.as_fd(), &area, CHUNK_BYTES)?;
    Ok(socket)
}

/// Binds, and waits for a queue that a socket has just left.
fn bind(
    socket: BorrowedFd<'_>,
    flags: u16,
    interface: u32,
    queue: u32,
    umem_of: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    for _ in 0..BUSY_RETRIES {
        match xsk::bind(socket, flags, interface, queue, umem_of) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(BUSY_PAUSE);
            }
            bound => return bound,
        }
    }
    xsk::bind(socket, flags, interface, queue, umem_of)
}

/// The second word of a descriptor: the size, and no options.
fn sized(bytes: usize) -> u64 {
    let [a, b, c, d] = (bytes as u32).to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
}

/// The size in a descriptor's second word, whose other half is options.
fn length(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// Whether the kernel could not take frames now: not a fault.
fn is_pressure(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOBUFS | libc::EBUSY | libc::ENETDOWN)
    )
}
