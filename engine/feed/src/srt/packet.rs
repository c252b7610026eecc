//! SRT packets on the wire (draft-sharabayko-srt §3): headers read and written, sequence numbers that wrap. Owns no
//! state.

use bytes::{BufMut, BytesMut};

/// Bytes of every header.
pub(crate) const HEADER_BYTES: usize = 16;

/// Bytes of the largest datagram: what fits an Ethernet frame.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1472;

/// A packet sequence number: 31 bits that wrap.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Seq(u32);

impl Seq {
    pub(crate) fn new(number: u32) -> Self {
        Self(number & 0x7fff_ffff)
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }

    pub(crate) fn plus(self, count: u32) -> Self {
        Self::new(self.0.wrapping_add(count))
    }

    /// How far this is behind `other`; negative when it is before.
    pub(crate) fn since(self, other: Self) -> i64 {
        let ahead = i64::from(self.0.wrapping_sub(other.0) & 0x7fff_ffff);
        if ahead < 1 << 30 { ahead } else { ahead - (1 << 31) }
    }
}

/// Which key a data packet is encrypted with (§3.1, KK).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum KeyParity {
    Clear,
    Even,
    Odd,
    /// Both at once, which only key material may say.
    Both,
}

impl KeyParity {
    fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Clear,
            1 => Self::Even,
            2 => Self::Odd,
            _ => Self::Both,
        }
    }
}

/// A packet taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packet<'a> {
    Data(Data<'a>),
    Control(Control<'a>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Data<'a> {
    pub(crate) seq: Seq,
    pub(crate) key: KeyParity,
    pub(crate) is_retransmitted: bool,
    /// Microseconds since the sender began; wraps after 71 minutes.
    pub(crate) timestamp: u32,
    pub(crate) payload: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Control<'a> {
    pub(crate) kind: ControlKind,
    /// Number of an acknowledgement and the like.
    pub(crate) specific: u32,
    pub(crate) timestamp: u32,
    pub(crate) body: &'a [u8],
}

/// Table 1 of §3.2, as far as a receiver meets them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ControlKind {
    Handshake,
    KeepAlive,
    Ack,
    Nak,
    Shutdown,
    AckAck,
    DropRequest,
    /// New key material while running (§3.2.2).
    KeyRequest,
    KeyResponse,
    Other,
}

impl ControlKind {
    fn from_wire(kind: u16, subtype: u16) -> Self {
        match (kind, subtype) {
            (0, _) => Self::Handshake,
            (1, _) => Self::KeepAlive,
            (2, _) => Self::Ack,
            (3, _) => Self::Nak,
            (5, _) => Self::Shutdown,
            (6, _) => Self::AckAck,
            (7, _) => Self::DropRequest,
            (0x7fff, 3) => Self::KeyRequest,
            (0x7fff, 4) => Self::KeyResponse,
            _ => Self::Other,
        }
    }

    fn wire(self) -> (u16, u16) {
        match self {
            Self::Handshake => (0, 0),
            Self::KeepAlive => (1, 0),
            Self::Ack => (2, 0),
            Self::Nak => (3, 0),
            Self::Shutdown => (5, 0),
            Self::AckAck => (6, 0),
            Self::DropRequest => (7, 0),
            Self::KeyRequest => (0x7fff, 3),
            Self::KeyResponse => (0x7fff, 4),
            Self::Other => (0x7fff, 0),
        }
    }
}

/// To which of our sockets a datagram goes: 0 for handshakes. None if it is no packet.
pub fn destination(datagram: &[u8]) -> Option<u32> {
    datagram.get(12..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes))
}

impl<'a> Packet<'a> {
    /// None if it is too short for a header.
    pub(crate) fn read(datagram: &'a [u8]) -> Option<Self> {
        let (header, body) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| {
            header.get(at..).and_then(|rest| rest.first_chunk()).map(|w| u32::from_be_bytes(*w))
        };
        let (first, second, timestamp) = (word(0)?, word(4)?, word(8)?);
        if first >> 31 == 0 {
            return Some(Self::Data(Data {
                seq: Seq::new(first),
                key: KeyParity::from_bits(second >> 27),
                is_retransmitted: second >> 26 & 1 == 1,
                timestamp,
                payload: body,
            }));
        }
        let kind = ControlKind::from_wire((first >> 16 & 0x7fff) as u16, first as u16);
        Some(Self::Control(Control { kind, specific: second, timestamp, body }))
    }
}

/// A control packet to `destination`; an empty body is padded to a word, as libsrt does.
pub(crate) fn control(
    kind: ControlKind,
    specific: u32,
    timestamp: u32,
    destination: u32,
    body: &[u8],
) -> BytesMut {
    let (kind, subtype) = kind.wire();
    let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len().max(4));
    out.put_u16(0x8000 | kind);
    out.put_u16(subtype);
    out.put_u32(specific);
    out.put_u32(timestamp);
    out.put_u32(destination);
    if body.is_empty() {
        out.put_u32(0);
    }
    out.put_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::Seq;

    #[test]
    fn sequence_numbers_wrap() {
        let last = Seq::new(u32::MAX);
        assert_eq!((last.number(), last.plus(1).number()), (0x7fff_ffff, 0));
        assert_eq!(last.plus(3).since(last), 3);
        assert_eq!(last.since(last.plus(3)), -3);
        assert_eq!(Seq::new(5).since(Seq::new(5)), 0);
    }
}
