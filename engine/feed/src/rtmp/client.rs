//! A small RTMP publisher, for tests and load generators. It writes bytes by hand, chunk by chunk,
//! in whatever dialect a story needs, and reads replies just far enough to compare them. It owns
//! no socket and obeys no limit: half of its uses are hostile.

use bytes::{BufMut, Bytes, BytesMut};

use super::amf::{self, Value};
use super::chunk;
use super::command::kind;
use super::handshake::PACKET_BYTES;
use super::limits::Limits;

/// Message type id of audio.
pub const AUDIO: u8 = kind::AUDIO;
/// Message type id of video.
pub const VIDEO: u8 = kind::VIDEO;

/// Message stream that [`Writer::publish`] and the media calls use.
pub const MESSAGE_STREAM: u32 = 1;

/// Writes the client's side of a connection.
#[derive(Debug)]
pub struct Writer {
    out: BytesMut,
    chunk_bytes_max: usize,
    type_3_extended: bool,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// A writer at the start of a connection, with chunks of 128 bytes.
    pub fn new() -> Self {
        Self { out: BytesMut::new(), chunk_bytes_max: 128, type_3_extended: true }
    }

    /// A writer that has already written all that comes before media: handshake, `connect`,
    /// `createStream`, `publish`.
    pub fn publishing(app: &str, name: &str) -> Self {
        let mut writer = Self::new();
        writer.handshake().connect(app).create_stream().publish(name);
        writer
    }

    /// Takes what was written.
    pub fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    /// C0, C1 and C2 at once. A real client waits for S1 before C2; the server does not care.
    pub fn handshake(&mut self) -> &mut Self {
        self.out.put_u8(3);
        self.raw(&[0; 2 * PACKET_BYTES])
    }

    /// Sends Set Chunk Size and obeys it.
    pub fn set_chunk_size(&mut self, size: u32) -> &mut Self {
        self.message(2, kind::SET_CHUNK_SIZE, 0, 0, &size.to_be_bytes());
        self.chunk_bytes_max = size.max(1) as usize;
        self
    }

    /// Whether type 3 chunks repeat an extended timestamp, as the specification has it (true, the
    /// start value), or not, as many encoders do.
    pub fn set_type_3_extended(&mut self, extended: bool) -> &mut Self {
        self.type_3_extended = extended;
        self
    }

    /// `connect`.
    pub fn connect(&mut self, app: &str) -> &mut Self {
        let object = Value::Object(vec![
            ("app".to_owned(), Value::from(app)),
            ("type".to_owned(), Value::from("nonprivate")),
            ("flashVer".to_owned(), Value::from("FMLE/3.0 (compatible)")),
        ]);
        self.command(0, "connect", 1.0, &[object])
    }

    /// `connect` of a client that knows enhanced RTMP v2: takes any codec, understands `caps`.
    pub fn connect_enhanced(&mut self, app: &str, caps: u8) -> &mut Self {
        let any = Value::Object(vec![("*".to_owned(), Value::from(1.0))]);
        let object = Value::Object(vec![
            ("app".to_owned(), Value::from(app)),
            ("fourCcList".to_owned(), Value::Array(vec![Value::from("*")])),
            ("videoFourCcInfoMap".to_owned(), any.clone()),
            ("audioFourCcInfoMap".to_owned(), any),
            ("capsEx".to_owned(), Value::from(f64::from(caps))),
        ]);
        self.command(0, "connect", 1.0, &[object])
    }

    /// `releaseStream`, `FCPublish` and `createStream`, as encoders send them in one go.
    pub fn create_stream(&mut self) -> &mut Self {
        self.command(0, "releaseStream", 2.0, &[Value::Null, Value::from("x")])
            .command(0, "FCPublish", 3.0, &[Value::Null, Value::from("x")])
            .command(0, "createStream", 4.0, &[Value::Null])
    }

    /// `publish`.
    pub fn publish(&mut self, name: &str) -> &mut Self {
        let arguments = [Value::Null, Value::from(name), Value::from("live")];
        self.command(MESSAGE_STREAM, "publish", 5.0, &arguments)
    }

    /// `FCUnpublish` and `deleteStream`.
    pub fn unpublish(&mut self) -> &mut Self {
        self.command(0, "FCUnpublish", 6.0, &[Value::Null, Value::from("x")]);
        let id = Value::from(f64::from(MESSAGE_STREAM));
        self.command(0, "deleteStream", 7.0, &[Value::Null, id])
    }

    /// A video tag.
    pub fn video(&mut self, timestamp: u32, body: &[u8]) -> &mut Self {
        self.message(6, VIDEO, timestamp, MESSAGE_STREAM, body)
    }

    /// An audio tag.
    pub fn audio(&mut self, timestamp: u32, body: &[u8]) -> &mut Self {
        self.message(4, AUDIO, timestamp, MESSAGE_STREAM, body)
    }

    /// A whole message: a type 0 chunk and its type 3 chunks.
    pub fn message(
        &mut self,
        chunk_stream: u32,
        kind: u8,
        timestamp: u32,
        message_stream: u32,
        payload: &[u8],
    ) -> &mut Self {
        self.full_header(chunk_stream, kind, timestamp, message_stream, payload.len() as u32);
        let extended = self.type_3_extended && timestamp >= 0xff_ffff;
        for (index, part) in payload.chunks(self.chunk_bytes_max).enumerate() {
            if index > 0 {
                self.basic_header(3, chunk_stream);
                if extended {
                    self.out.put_u32(timestamp);
                }
            }
            self.raw(part);
        }
        self
    }

    /// A type 0 chunk header.
    pub fn full_header(
        &mut self,
        chunk_stream: u32,
        kind: u8,
        timestamp: u32,
        message_stream: u32,
        length: u32,
    ) -> &mut Self {
        self.basic_header(0, chunk_stream);
        self.out.put_uint(u64::from(timestamp.min(0xff_ffff)), 3);
        self.out.put_uint(u64::from(length), 3);
        self.out.put_u8(kind);
        self.out.put_u32_le(message_stream);
        if timestamp >= 0xff_ffff {
            self.out.put_u32(timestamp);
        }
        self
    }

    /// The basic header of a chunk, in the shortest form for its id.
    pub fn basic_header(&mut self, format: u8, chunk_stream: u32) -> &mut Self {
        match chunk_stream {
            0..64 => self.out.put_u8(format << 6 | chunk_stream as u8),
            64..320 => self.out.put_slice(&[format << 6, (chunk_stream - 64) as u8]),
            _ => {
                self.out.put_u8(format << 6 | 1);
                self.out.put_u16_le((chunk_stream - 64) as u16);
            }
        }
        self
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.put_slice(bytes);
        self
    }

    pub(super) fn command(
        &mut self,
        message_stream: u32,
        name: &str,
        transaction: f64,
        arguments: &[Value],
    ) -> &mut Self {
        let mut payload = BytesMut::new();
        Value::from(name).encode(&mut payload);
        Value::from(transaction).encode(&mut payload);
        for argument in arguments {
            argument.encode(&mut payload);
        }
        self.message(3, kind::COMMAND_AMF0, 0, message_stream, &payload)
    }
}

/// Reads a server's side of a connection: one line for each command.
#[derive(Debug)]
pub struct Replies {
    skip: usize,
    decoder: chunk::Decoder,
}

impl Default for Replies {
    fn default() -> Self {
        Self::new()
    }
}

impl Replies {
    /// A reader at the start of a connection.
    pub fn new() -> Self {
        Self { skip: 1 + 2 * PACKET_BYTES, decoder: chunk::Decoder::new() }
    }

    /// Commands come out as `name code description`, other messages as `message <type id>`.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<String> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let (_, mut rest) = bytes.split_at(skipped);
        let limits = Limits::default();
        let mut lines = Vec::new();
        while let Ok(Some(message)) = self.decoder.next(&mut rest, &limits) {
            if message.kind == kind::SET_CHUNK_SIZE
                && let Some(size) = message.payload.first_chunk()
            {
                // A server that sets a bad size is left unread.
                let _ = self.decoder.set_chunk_size(u32::from_be_bytes(*size));
            }
            lines.push(if message.kind == kind::COMMAND_AMF0 {
                describe(&message.payload, &limits)
            } else {
                format!("message {}", message.kind)
            });
        }
        lines
    }
}

fn describe(payload: &[u8], limits: &Limits) -> String {
    let values = amf::decode_all(payload, limits).unwrap_or_default();
    let mut words: Vec<&str> = values.first().and_then(Value::as_str).into_iter().collect();
    for value in &values {
        for key in ["code", "description"] {
            words.extend(value.member(key).and_then(Value::as_str));
        }
    }
    words.join(" ")
}

/// Tag bodies that pass for real ones: what x264 and an AAC encoder say about 320x180 baseline and
/// 48 kHz stereo, and slices that hold no picture.
pub mod tags {
    /// AVC sequence header.
    pub const VIDEO_CONFIGURATION: &[u8] =
        b"\x17\x00\x00\x00\x00\x01\x42\xc0\x0c\xff\xe1\x00\x19\x67\x42\xc0\x0c\xd9\x01\x41\x9f\x9f\
          \x01\x10\x00\x00\x03\x00\x10\x00\x00\x03\x03\x20\xf1\x42\xa4\x80\x01\x00\x05\x68\xcb\x83\
          \xcb\x20";
    /// AAC sequence header: AAC-LC, 48 kHz, stereo.
    pub const AUDIO_CONFIGURATION: &[u8] = b"\xaf\x00\x11\x90";

    /// One picture of `bytes` bytes, with a composition offset in milliseconds.
    pub fn picture(idr: bool, composition_offset: i32, bytes: usize) -> Vec<u8> {
        let mut body = vec![if idr { 0x17 } else { 0x27 }, 1];
        body.extend(composition_offset.to_be_bytes().into_iter().skip(1));
        body.extend((bytes as u32).to_be_bytes());
        body.push(if idr { 0x65 } else { 0x41 });
        body.resize(9 + bytes.max(1), 0x55);
        body
    }

    /// One AAC frame of `bytes` bytes.
    pub fn audio(bytes: usize) -> Vec<u8> {
        let mut body = vec![0xaf, 1];
        body.resize(2 + bytes, 0x21);
        body
    }
}
