//! The handshake packet and its extensions (draft-sharabayko-srt §3.2.1). Owns the layout; who may connect is the
//! listener's matter.

use bytes::{BufMut, Bytes, BytesMut};

use super::packet::Seq;

/// Bytes of the fixed part.
const FIXED_BYTES: usize = 48;

/// Longest stream identifier (§3.2.1.3).
const STREAM_ID_BYTES_MAX: usize = 512;

/// Longest key material: two keys of 256 bits.
const KEY_MATERIAL_BYTES_MAX: usize = 128;

/// What a listener puts in the extension field of its first answer (§4.3.1.1).
pub(super) const MAGIC: u16 = 0x4a17;

/// Handshake types (table 4).
pub(super) const INDUCTION: u32 = 1;
pub(super) const CONCLUSION: u32 = 0xffff_ffff;
/// Refusals are this and a reason.
pub(super) const REFUSAL: u32 = 1000;

/// Extension field of a conclusion (table 3).
pub(super) const HAS_HELLO: u16 = 1;
pub(super) const HAS_KEYS: u16 = 2;

/// Extension types (table 5).
const HELLO: u16 = 1;
const HELLO_RESPONSE: u16 = 2;
const KEY_REQUEST: u16 = 3;
const KEY_RESPONSE: u16 = 4;
const STREAM_ID: u16 = 5;
const CONGESTION: u16 = 6;
const FILTER: u16 = 7;
const GROUP: u16 = 8;

/// The fixed part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    pub(super) version: u32,
    pub(super) encryption: u16,
    pub(super) extension: u16,
    pub(super) initial: Seq,
    pub(super) mtu: u32,
    pub(super) flow_window: u32,
    pub(super) kind: u32,
    pub(super) socket_id: u32,
    pub(super) cookie: u32,
}

/// What the hello extension says (§3.2.1.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) flags: u32,
    /// Milliseconds: what its sender needs as a receiver, and what it proposes for ours.
    pub(super) receiver_delay: u16,
    pub(super) sender_delay: u16,
}

/// All extensions of a conclusion.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) hello: Option<Hello>,
    pub(super) keys: Option<Bytes>,
    pub(super) stream_id: Option<String>,
    pub(super) congestion: Option<Vec<u8>>,
    pub(super) has_filter: bool,
    pub(super) has_group: bool,
}

impl Fixed {
    /// The fixed part and the bytes of the extensions.
    pub(super) fn read(body: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, rest) = body.split_first_chunk::<FIXED_BYTES>()?;
        let word = |at: usize| {
            fixed.get(at * 4..).and_then(|rest| rest.first_chunk()).map(|w| u32::from_be_bytes(*w))
        };
        let fields = word(1)?;
        let fixed = Self {
            version: word(0)?,
            encryption: (fields >> 16) as u16,
            extension: fields as u16,
            initial: Seq::new(word(2)?),
            mtu: word(3)?,
            flow_window: word(4)?,
            kind: word(5)?,
            socket_id: word(6)?,
            cookie: word(7)?,
        };
        Some((fixed, rest))
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_u32(self.version);
        out.put_u16(self.encryption);
        out.put_u16(self.extension);
        out.put_u32(self.initial.number());
        out.put_u32(self.mtu);
        out.put_u32(self.flow_window);
        out.put_u32(self.kind);
        out.put_u32(self.socket_id);
        out.put_u32(self.cookie);
        out.put_bytes(0, 16); // the peer's address, which nobody reads
    }
}

impl Extensions {
    /// None if lengths do not add up or something is longer than it may be.
    pub(super) fn read(mut rest: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        while let Some((head, after)) = rest.split_first_chunk::<4>() {
            let [kind_high, kind_low, words_high, words_low] = *head;
            let kind = u16::from_be_bytes([kind_high, kind_low]);
            let length = usize::from(u16::from_be_bytes([words_high, words_low])) * 4;
            let (body, after) = after.split_at_checked(length)?;
            match kind {
                HELLO => found.hello = Some(Hello::read(body)?),
                KEY_REQUEST if length <= KEY_MATERIAL_BYTES_MAX => {
                    found.keys = Some(Bytes::copy_from_slice(body));
                }
                STREAM_ID if length <= STREAM_ID_BYTES_MAX => {
                    found.stream_id = Some(String::from_utf8(text(body)).ok()?);
                }
                CONGESTION if length <= STREAM_ID_BYTES_MAX => found.congestion = Some(text(body)),
                KEY_REQUEST | STREAM_ID | CONGESTION => return None,
                FILTER => found.has_filter = true,
                GROUP => found.has_group = true,
                _ => {}
            }
            rest = after;
        }
        Some(found)
    }
}

/// Text is stored as words in the other byte order (§3.2.1.3), filled up with zeros.
fn text(body: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = body.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(length);
    bytes
}

impl Hello {
    fn read(body: &[u8]) -> Option<Self> {
        let [version, flags, delays] = [0, 4, 8].map(|at: usize| {
            body.get(at..).and_then(|rest| rest.first_chunk()).map(|w| u32::from_be_bytes(*w))
        });
        let delays = delays?;
        Some(Self {
            version: version?,
            flags: flags?,
            receiver_delay: (delays >> 16) as u16,
            sender_delay: delays as u16,
        })
    }

    /// As the answer's extension.
    pub(super) fn write_response(&self, out: &mut BytesMut) {
        out.put_u16(HELLO_RESPONSE);
        out.put_u16(3);
        out.put_u32(self.version);
        out.put_u32(self.flags);
        out.put_u16(self.receiver_delay);
        out.put_u16(self.sender_delay);
    }
}

/// Accepted key material goes back as it came.
pub(super) fn write_key_response(material: &[u8], out: &mut BytesMut) {
    out.put_u16(KEY_RESPONSE);
    out.put_u16((material.len() / 4) as u16);
    out.put_slice(material);
}

/// As a caller writes them.
#[cfg(test)]
pub(super) fn write_request(
    hello: Hello,
    stream_id: &str,
    keys: Option<&[u8]>,
    out: &mut BytesMut,
) {
    hello.write_response(out);
    if let Some(kind) = out.len().checked_sub(16).and_then(|at| out.get_mut(at..at + 2)) {
        kind.copy_from_slice(&HELLO.to_be_bytes());
    }
    if let Some(keys) = keys {
        out.put_u16(KEY_REQUEST);
        out.put_u16((keys.len() / 4) as u16);
        out.put_slice(keys);
    }
    let words = stream_id.len().div_ceil(4);
    out.put_u16(STREAM_ID);
    out.put_u16(words as u16);
    let mut padded = stream_id.as_bytes().to_vec();
    padded.resize(words * 4, 0);
    for word in padded.chunks(4) {
        out.extend(word.iter().rev());
    }
}
