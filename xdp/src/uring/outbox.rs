//! What a port over `io_uring` sends in a turn: small sends gathered for one system call, trains from
//! where they are, and what the socket had no room for. It owns their order and what becomes of each; the
//! memory that the kernel reads is [`crate::sys::uring`]'s.

use std::{io, os::fd::BorrowedFd};

use super::{Piece, message::Label};
use crate::{
    Counters, Outcome,
    sys::uring::{RingCounts, SENDS, Sender, Verdict, ZERO_COPIES, is_zero_copy},
    udp::{Attempt, UdpPort},
};

/// From how many bytes on a send leaves at once and from where it is: with what was gathered, or if
/// that is nothing by a plain call. Measured over loopback (`xdp/tests/cost.rs`), gathered sends of up to
/// three packets take 11 to 14 % less processor time than those of a plain port; from four packets on
/// they take 4 to 8 % more, by the ring alone and by a plain call likewise.
const BY_REFERENCE_FROM: usize = 4 * 1024;

/// Sends of one shard that the kernel has not answered for good.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: Sender,
    book: Book,
    zero_copy_from: usize,
}

/// What is known of those sends, by number.
#[derive(Debug)]
struct Book {
    pieces: Box<[Option<Sent>]>,
    /// Refused for want of room, in order.
    held_back: Vec<usize>,
    /// Refused in this way, and to be tried by the plain port.
    refused: Vec<usize>,
    /// How many were held back so far.
    no_room: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    piece: Piece,
    bytes: usize,
}

impl Outbox {
    pub(super) fn new(socket: BorrowedFd<'_>, zero_copy_from: usize) -> io::Result<Self> {
        let book = Book {
            pieces: vec![None; SENDS + 1 + ZERO_COPIES].into_boxed_slice(),
            held_back: Vec::with_capacity(SENDS + ZERO_COPIES),
            refused: Vec::new(),
            no_room: 0,
        };
        Ok(Self { sender: Sender::new(socket)?, book, zero_copy_from })
    }

    pub(super) fn counts(&self) -> RingCounts {
        RingCounts { no_room: self.book.no_room, ..self.sender.counts() }
    }

    /// Whether sends wait for room in the socket.
    pub(super) fn is_held_back(&self) -> bool {
        !self.book.held_back.is_empty()
    }

    /// Sends, now or with the next flush. An error means that the rings are lost; these bytes have
    /// then not left for certain.
    pub(super) fn send(
        &mut self,
        piece: &Piece,
        contents: &[u8],
        kernel: &mut UdpPort,
        counters: &mut Counters,
    ) -> io::Result<Outcome> {
        if self.is_held_back() {
            self.send_again(kernel, counters)?;
            if self.is_held_back() {
                return Ok(Outcome::Full);
            }
        }
        let label = Label::new(piece.destination, piece.src_ip, piece.ecn, piece.segment_size);
        if contents.len() >= self.zero_copy_from
            && let Some(number) =
                self.sender.push_zero_copy(label.name(), label.control(), contents)
        {
            self.book.note(number, piece, contents);
            return Ok(Outcome::Sent);
        }
        if contents.len() >= BY_REFERENCE_FROM {
            if !self.sender.is_waiting() {
                return piece.send(kernel, contents);
            }
            return self.send_by_reference(piece, &label, contents, kernel, counters);
        }
        let mut number = self.sender.push_copy(label.name(), label.control(), contents);
        if number.is_none() {
            self.flush(kernel, counters)?;
            if self.is_held_back() {
                return Ok(Outcome::Full);
            }
            number = self.sender.push_copy(label.name(), label.control(), contents);
        }
        let Some(number) = number else { return Ok(Outcome::Full) };
        self.book.note(number, piece, contents);
        Ok(Outcome::Sent)
    }

    fn send_by_reference(
        &mut self,
        piece: &Piece,
        label: &Label,
        contents: &[u8],
        kernel: &mut UdpPort,
        counters: &mut Counters,
    ) -> io::Result<Outcome> {
        let Self { sender, book, .. } = self;
        let mut answered = |number, result| book.answered(number, result, counters);
        let result = sender.send_lent(label.name(), label.control(), contents, &mut answered)?;
        self.send_refused(kernel, counters);
        match count(&Sent { piece: *piece, bytes: contents.len() }, result, counters) {
            Attempt::Full => Ok(Outcome::Full),
            Attempt::CutSmaller => piece.send(kernel, contents),
            _ => Ok(Outcome::Sent),
        }
    }

    /// Has the kernel send what was gathered.
    pub(super) fn flush(
        &mut self,
        kernel: &mut UdpPort,
        counters: &mut Counters,
    ) -> io::Result<()> {
        if self.sender.is_waiting() {
            let Self { sender, book, .. } = self;
            sender.enter(&mut |number, result| book.answered(number, result, counters))?;
            self.send_refused(kernel, counters);
        }
        Ok(())
    }

    /// Tries once more what there was no room for.
    pub(super) fn send_again(
        &mut self,
        kernel: &mut UdpPort,
        counters: &mut Counters,
    ) -> io::Result<()> {
        for number in self.book.held_back.drain(..) {
            self.sender.push_again(number);
        }
        self.flush(kernel, counters)
    }

    /// Sends what is left by the plain port, when the rings are lost.
    pub(super) fn empty_into(&mut self, kernel: &mut UdpPort, counters: &mut Counters) {
        let Self { sender, book, .. } = self;
        sender.look(&mut |number, result| book.answered(number, result, counters));
        book.held_back.clear();
        book.refused.clear();
        book.refused.extend((0..book.pieces.len()).filter(|number| book.pieces[*number].is_some()));
        self.send_refused(kernel, counters);
    }

    /// Sends by the plain port, which cuts what must be cut. Should it have no room either, QUIC
    /// repeats what is lost.
    fn send_refused(&mut self, kernel: &mut UdpPort, counters: &mut Counters) {
        for number in std::mem::take(&mut self.book.refused) {
            if let Some(sent) = self.book.pieces[number].take()
                && !matches!(
                    sent.piece.send(kernel, self.sender.contents(number)),
                    Ok(Outcome::Sent)
                )
            {
                counters.dropped_other += sent.piece.datagrams;
            }
        }
    }
}

impl Book {
    fn note(&mut self, number: usize, piece: &Piece, contents: &[u8]) {
        self.pieces[number] = Some(Sent { piece: *piece, bytes: contents.len() });
    }

    fn answered(&mut self, number: usize, result: i32, counters: &mut Counters) -> Verdict {
        let Some(sent) = self.pieces[number] else { return Verdict::Done };
        if is_zero_copy(number) && matches!(-result, libc::ENOMEM | libc::EOPNOTSUPP) {
            // Memory may not be pinned, or the interface cannot read it.
            self.refused.push(number);
            return Verdict::Done;
        }
        match count(&sent, result, counters) {
            Attempt::Full => {
                self.no_room += 1;
                self.held_back.push(number);
                return Verdict::Keep;
            }
            Attempt::CutSmaller => self.refused.push(number),
            _ => self.pieces[number] = None,
        }
        Verdict::Done
    }
}

fn count(sent: &Sent, result: i32, counters: &mut Counters) -> Attempt {
    let is_train = sent.piece.segment_size.is_some();
    let attempt = match result {
        0.. => Attempt::Sent,
        error => Attempt::failed(&io::Error::from_raw_os_error(-error), is_train),
    };
    let datagrams = sent.piece.datagrams;
    match attempt {
        Attempt::Sent => {
            counters.sent += datagrams;
            counters.sent_bytes += sent.bytes as u64;
            counters.send_batches += 1;
        }
        Attempt::Full | Attempt::CutSmaller => {}
        Attempt::TooLarge => counters.dropped_too_large += datagrams,
        Attempt::Unreachable => counters.dropped_unreachable += datagrams,
        Attempt::Dropped => counters.dropped_other += datagrams,
    }
    attempt
}
