//! RTMP's chunk layer (RTMP 1.0 section 5.3): messages out of interleaved chunk streams, and
//! messages into chunks. Every chunk stream has its own state and its own buffer, memory follows
//! bytes received and never a claimed length, and each byte is copied a bounded number of times
//! whatever the chunk size. Knows no message but by its length and type id.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Error, Limits};

/// Section 5.4.1: in force until a Set Chunk Size message.
const CHUNK_BYTES_DEFAULT: usize = 128;
/// Marks an extended timestamp (section 5.3.1.3).
const EXTENDED: u32 = 0xff_ffff;
/// Basic header 3, message header 11, extended timestamp 4.
const HEADER_BYTES_MAX: usize = 18;

/// One whole message.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::struct_field_names, reason = "`message stream` is the specification's word")]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) timestamp: u32,
    pub(super) message_stream: u32,
    pub(super) payload: Bytes,
}

/// Chunks in, messages out.
#[derive(Debug)]
pub(super) struct Decoder {
    chunk_bytes_max: usize,
    position: Position,
    /// Bytes looked at too early, to be read again before any input. See [`Position::Peek`].
    again: Few,
    streams: Vec<ChunkStream>,
    /// Sum of all `ChunkStream::body` lengths.
    partial_bytes: usize,
}

/// Where in the byte sequence we are.
#[derive(Debug)]
enum Position {
    /// Collecting a header.
    Header(Few),
    /// Finding out whether a type 3 chunk repeats the extended timestamp.
    Peek { stream: usize, seen: Few },
    /// Inside a chunk's payload, so many bytes to go.
    Payload { stream: usize, left: usize },
}

#[derive(Debug)]
struct ChunkStream {
    id: u32,
    /// Of the message begun last, 32-bit wrapping.
    timestamp: u32,
    /// The last timestamp field: absolute in type 0, a delta in types 1 and 2.
    field: u32,
    extended: bool,
    length: usize,
    kind: u8,
    message_stream: u32,
    /// Message in progress; `None` between messages.
    body: Option<Vec<u8>>,
}

/// A handful of bytes kept between calls.
#[derive(Clone, Copy, Debug, Default)]
struct Few {
    bytes: [u8; HEADER_BYTES_MAX],
    length: usize,
}

impl Few {
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The longest header is 18 bytes and `needed` never asks for more, so there is always room.
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push(byte);
        }
    }
}

/// A chunk header as read, before the past of its chunk stream is applied.
#[derive(Debug, Eq, PartialEq)]
struct Header {
    format: u8,
    chunk_stream: u32,
    field: u32,
    extended: bool,
    length: usize,
    kind: u8,
    message_stream: u32,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            chunk_bytes_max: CHUNK_BYTES_DEFAULT,
            position: Position::Header(Few::default()),
            again: Few::default(),
            streams: Vec::new(),
            partial_bytes: 0,
        }
    }

    /// Takes bytes from the front of `input` until one message is whole or the input is used up.
    pub(super) fn next(
        &mut self,
        input: &mut &[u8],
        limits: &Limits,
    ) -> Result<Option<Message>, Error> {
        loop {
            if self.again.length > 0 {
                let again = std::mem::take(&mut self.again);
                let mut bytes = again.as_slice();
                let message = self.advance(&mut bytes, limits)?;
                // `advance` may itself have put bytes back; they come before what it left.
                self.again.extend(bytes);
                if message.is_some() {
                    return Ok(message);
                }
                continue;
            }
            if input.is_empty() && !self.can_finish() {
                return Ok(None);
            }
            let message = self.advance(input, limits)?;
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    /// Section 5.4.1. Sizes past 0xFFFFFF behave like it, as no message is longer.
    pub(super) fn set_chunk_size(&mut self, size: u32) -> Result<(), Error> {
        if size == 0 || size > i32::MAX as u32 {
            return Err(Error::ChunkSize { size });
        }
        self.chunk_bytes_max = size as usize;
        Ok(())
    }

    /// Section 5.4.2: forgets the message in progress on `chunk_stream`.
    pub(super) fn abort(&mut self, chunk_stream: u32) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == chunk_stream)
            && let Some(body) = stream.body.take()
        {
            self.partial_bytes -= body.len();
        }
    }

    /// Memory of unfinished messages held now: at most twice the bytes received for them.
    pub(super) fn held_bytes(&self) -> usize {
        self.streams.iter().filter_map(|s| s.body.as_ref()).map(Vec::capacity).sum()
    }

    /// True when the next step needs no input: the end of an empty payload.
    fn can_finish(&self) -> bool {
        matches!(self.position, Position::Payload { left: 0, .. })
    }

    /// One step: a header, a peek, or a run of payload.
    fn advance(&mut self, input: &mut &[u8], limits: &Limits) -> Result<Option<Message>, Error> {
        match &mut self.position {
            Position::Header(few) => {
                let header = loop {
                    match parse_header(few.as_slice()) {
                        Some(header) => break header,
                        None => match input.split_first() {
                            Some((&byte, rest)) => {
                                few.push(byte);
                                *input = rest;
                            }
                            None => return Ok(None),
                        },
                    }
                };
                self.begin_chunk(&header, limits)?;
                Ok(None)
            }
            Position::Peek { stream, seen } => {
                let stream = *stream;
                // Section 5.3.1.3 has the extended timestamp on type 3 chunks too; many encoders
                // leave it out. It is there if the next four bytes are its value. Compared byte by
                // byte, so that a short last chunk need not wait for a fourth.
                let want = self.streams.get(stream).map_or([0; 4], |s| s.field.to_be_bytes());
                while let Some(&expected) = want.get(seen.length) {
                    let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
                    if byte != expected {
                        self.again = *seen;
                        break;
                    }
                    seen.push(byte);
                    *input = rest;
                }
                self.begin_payload(stream);
                Ok(None)
            }
            Position::Payload { stream, left } => {
                let (stream, taken) = (*stream, (*left).min(input.len()));
                *left -= taken;
                let ended = *left == 0;
                let (bytes, rest) = input.split_at(taken);
                *input = rest;
                self.append(stream, bytes, limits)?;
                if ended {
                    self.position = Position::Header(Few::default());
                    return Ok(self.finish(stream));
                }
                Ok(None)
            }
        }
    }

    /// Applies a header to its chunk stream (section 5.3.1.2).
    fn begin_chunk(&mut self, header: &Header, limits: &Limits) -> Result<(), Error> {
        let (chunk_stream, format) = (header.chunk_stream, header.format);
        let index = match self.streams.iter().position(|stream| stream.id == chunk_stream) {
            Some(index) => index,
            // Some clients send their first control message with a type 1 header; nothing in it
            // leans on the past but the message stream, and that is 0 for control messages.
            None if format <= 1 => {
                if self.streams.len() >= limits.chunk_streams_max {
                    return Err(Error::ChunkStreams { max: limits.chunk_streams_max });
                }
                self.streams.push(ChunkStream::new(chunk_stream));
                self.streams.len() - 1
            }
            None => return Err(Error::HeaderWithoutPast { chunk_stream, format }),
        };
        let Some(stream) = self.streams.get_mut(index) else { return Ok(()) };
        if stream.body.is_some() && format != 3 {
            return Err(Error::MessageInterrupted { chunk_stream });
        }
        if format <= 2 {
            (stream.field, stream.extended) = (header.field, header.extended);
        }
        if format <= 1 {
            (stream.length, stream.kind) = (header.length, header.kind);
        }
        if format == 0 {
            stream.message_stream = header.message_stream;
        }
        if stream.body.is_none() {
            if stream.length > limits.message_bytes_max {
                let max = limits.message_bytes_max;
                return Err(Error::MessageTooLong { bytes: stream.length, max });
            }
            stream.timestamp = match format {
                0 => stream.field,
                // Type 3 repeats the last field as a delta, even after type 0 (section 5.3.1.2.4).
                _ => stream.timestamp.wrapping_add(stream.field),
            };
            stream.body = Some(Vec::new());
        }
        if format == 3 && stream.extended {
            self.position = Position::Peek { stream: index, seen: Few::default() };
        } else {
            self.begin_payload(index);
        }
        Ok(())
    }

    fn begin_payload(&mut self, stream: usize) {
        let missing = self
            .streams
            .get(stream)
            .map_or(0, |s| s.length.saturating_sub(s.body.as_ref().map_or(0, Vec::len)));
        self.position = Position::Payload { stream, left: missing.min(self.chunk_bytes_max) };
    }

    fn append(&mut self, stream: usize, bytes: &[u8], limits: &Limits) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(stream) else { return Ok(()) };
        let Some(body) = &mut stream.body else { return Ok(()) };
        self.partial_bytes += bytes.len();
        if self.partial_bytes > limits.partial_bytes_max {
            return Err(Error::PartialBytes { max: limits.partial_bytes_max });
        }
        // Doubling, but never past the claimed length: at most two copies of a byte, at most twice
        // the bytes received in memory, and an exact buffer at the end.
        let spare = body.capacity() - body.len();
        if bytes.len() > spare {
            let missing = stream.length.saturating_sub(body.len());
            body.reserve_exact(bytes.len().max(body.len()).min(missing));
        }
        body.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self, stream: usize) -> Option<Message> {
        let stream = self.streams.get_mut(stream)?;
        let body = stream.body.take_if(|body| body.len() >= stream.length)?;
        self.partial_bytes -= body.len();
        Some(Message {
            kind: stream.kind,
            timestamp: stream.timestamp,
            message_stream: stream.message_stream,
            payload: Bytes::from(body),
        })
    }
}

impl ChunkStream {
    fn new(id: u32) -> Self {
        Self {
            id,
            timestamp: 0,
            field: 0,
            extended: false,
            length: 0,
            kind: 0,
            message_stream: 0,
            body: None,
        }
    }
}

/// Sections 5.3.1.1 to 5.3.1.3, all but type 3's extended timestamp; `None` while bytes miss.
fn parse_header(bytes: &[u8]) -> Option<Header> {
    let (&first, rest) = bytes.split_first()?;
    let format = first >> 6;
    let (chunk_stream, rest) = match first & 0x3f {
        0 => {
            let (&low, rest) = rest.split_first()?;
            (64 + u32::from(low), rest)
        }
        1 => {
            let ([low, high], rest) = rest.split_first_chunk()?;
            (64 + u32::from(*low) + 256 * u32::from(*high), rest)
        }
        id => (u32::from(id), rest),
    };
    let none = Header {
        format,
        chunk_stream,
        field: 0,
        extended: false,
        length: 0,
        kind: 0,
        message_stream: 0,
    };
    if format == 3 {
        return Some(none);
    }
    let ([t0, t1, t2], rest) = rest.split_first_chunk()?;
    let field = u32::from_be_bytes([0, *t0, *t1, *t2]);
    let (length, kind, rest) = if format <= 1 {
        let ([l0, l1, l2, kind], rest) = rest.split_first_chunk()?;
        (u32::from_be_bytes([0, *l0, *l1, *l2]), *kind, rest)
    } else {
        (0, 0, rest)
    };
    let (message_stream, rest) = if format == 0 {
        let (id, rest) = rest.split_first_chunk()?;
        (u32::from_le_bytes(*id), rest)
    } else {
        (0, rest)
    };
    let extended = field == EXTENDED;
    let field = if extended { u32::from_be_bytes(*rest.first_chunk()?) } else { field };
    Some(Header { field, extended, length: length as usize, kind, message_stream, ..none })
}

/// Chunk size we announce: our replies are all shorter, so each is one chunk.
pub(super) const CHUNK_BYTES_OUT: usize = 4096;

/// Writes one message, with a type 0 header and as many type 3 chunks as it takes.
pub(super) fn encode(
    chunk_stream: u8,
    kind: u8,
    message_stream: u32,
    payload: &[u8],
    chunk_bytes_max: usize,
    out: &mut BytesMut,
) {
    let length = payload.len() as u32;
    out.put_u8(chunk_stream & 0x3f);
    out.put_uint(0, 3);
    out.put_uint(u64::from(length), 3);
    out.put_u8(kind);
    out.put_u32_le(message_stream);
    for (index, part) in payload.chunks(chunk_bytes_max.max(1)).enumerate() {
        if index > 0 {
            out.put_u8(0xc0 | (chunk_stream & 0x3f));
        }
        out.put_slice(part);
    }
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
