//! What a relay writes towards one peer, and the marks by which payloads are told apart on a link. It counts copies; when
//! bytes arrive is the world's affair.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use weir_relay::{Dir, StreamId, Transport, WriteError};

/// Every payload begins with this, and nothing else on a link holds it: fillers have their highest bit clear.
const MAGIC: [u8; 4] = [0xff, 0xfe, 0xfd, 0xfc];

/// Magic, track, group and object.
const MARK_BYTES: usize = 4 + 1 + 8 + 8;

/// Which object a payload belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) track: u8,
    pub(crate) group: u64,
    pub(crate) object: u64,
}

impl Mark {
    /// The payload of this object, of so many bytes.
    pub(crate) fn payload(self, length: usize) -> Bytes {
        let mut out = BytesMut::with_capacity(length.max(MARK_BYTES));
        out.put_slice(&MAGIC);
        out.put_u8(self.track);
        out.put_u64(self.group);
        out.put_u64(self.object);
        let salt = self.group * 31 + self.object * 7;
        out.extend((MARK_BYTES..length).map(|at| (salt as usize + at) as u8 & 0x7f));
        out.freeze()
    }

    /// The marks of all payloads that begin in `data`.
    fn all(data: &[u8]) -> impl Iterator<Item = Self> {
        let marked = data.windows(MARK_BYTES).filter(|window| window.starts_with(&MAGIC));
        marked.map(|window| Self {
            track: window[4],
            group: u64::from_be_bytes(window[5..13].try_into().unwrap()),
            object: u64::from_be_bytes(window[13..21].try_into().unwrap()),
        })
    }
}

/// What was done to a stream, on its way to the other side.
#[derive(Debug)]
pub(crate) enum Sent {
    Bytes { data: Bytes, fin: bool },
    Reset { code: u32 },
    Stop { code: u32 },
}

/// One direction of a connection: as much room as anybody wants, since width is the question here.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) sent: Vec<(StreamId, Sent)>,
    next_stream: [u64; 2],
    /// How often each payload was written.
    pub(crate) copies: BTreeMap<Mark, u32>,
    pub(crate) resets: u32,
    pub(crate) closed: Option<String>,
}

impl Wire {
    /// `first` are the first stream ids of this side, for both directions.
    pub(crate) fn new(first: [u64; 2]) -> Self {
        Self {
            sent: Vec::new(),
            next_stream: first,
            copies: BTreeMap::new(),
            resets: 0,
            closed: None,
        }
    }

    /// Payloads that were written more than once, and how often.
    pub(crate) fn superfluous(&self) -> Vec<(Mark, u32)> {
        let copies = self.copies.iter().filter(|(_, copies)| **copies > 1);
        copies.map(|(mark, copies)| (*mark, *copies)).collect()
    }
}

impl Transport for Wire {
    fn open(&mut self, dir: Dir) -> Option<StreamId> {
        let next = &mut self.next_stream[usize::from(dir == Dir::Uni)];
        *next += 4;
        Some(StreamId(*next - 4))
    }

    fn write(&mut self, stream: StreamId, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        let mut taken = 0;
        for chunk in chunks {
            let data = std::mem::take(chunk);
            taken += data.len();
            for mark in Mark::all(&data) {
                *self.copies.entry(mark).or_default() += 1;
            }
            self.sent.push((stream, Sent::Bytes { data, fin: false }));
        }
        Ok(taken)
    }

    fn finish(&mut self, stream: StreamId) {
        self.sent.push((stream, Sent::Bytes { data: Bytes::new(), fin: true }));
    }

    fn reset(&mut self, stream: StreamId, code: u32) {
        self.resets += 1;
        self.sent.push((stream, Sent::Reset { code }));
    }

    fn stop(&mut self, stream: StreamId, code: u32) {
        self.sent.push((stream, Sent::Stop { code }));
    }

    fn set_priority(&mut self, _stream: StreamId, _priority: i32) {}

    fn close(&mut self, code: u32, reason: &str) {
        self.closed = Some(format!("{code}: {reason}"));
    }
}
