//! Opus in transport streams, mapped as ffmpeg and OBS write it: each packet behind a control header. Owns that header,
//! and the identification header made of the descriptor.

use bytes::{BufMut, Bytes, BytesMut};

use super::audio::{Cut, Frame, next_sync};
use crate::Codec;

/// Opus counts time in this, whatever it was sampled at.
const RATE: u32 = 48_000;

/// Streams and coupled streams for 1 to 8 channels, and which decoded channel each output is (RFC 7845 §5.1.1.2).
const MAPPINGS: [(u8, u8, &[u8]); 8] = [
    (1, 0, &[0]),
    (1, 1, &[0, 1]),
    (2, 1, &[0, 2, 1]),
    (2, 2, &[0, 1, 2, 3]),
    (3, 2, &[0, 4, 1, 2, 3]),
    (4, 2, &[0, 4, 1, 2, 3, 5]),
    (4, 3, &[0, 4, 1, 2, 3, 5, 6]),
    (5, 3, &[0, 6, 1, 2, 3, 4, 5, 7]),
];

/// Channel configuration and, after the first packet, the head.
#[derive(Debug)]
pub(super) struct Reader {
    channels: u8,
    head: Option<Bytes>,
}

impl Reader {
    pub(super) fn new(channels: u8) -> Self {
        Self { channels, head: None }
    }

    /// Cuts one packet from the front.
    pub(super) fn cut(&mut self, bytes: &Bytes) -> Cut {
        let Some([a, b]) = bytes.first_chunk::<2>() else { return Cut::More };
        if *a != 0x7f || b & 0xe0 != 0xe0 {
            return Cut::Skip(next_sync(bytes, 0xffe0, 0x7fe0));
        }
        let Some((length, start_trim, header_bytes)) = header(bytes, *b) else { return Cut::More };
        let end = header_bytes + length;
        if bytes.len() < end {
            return Cut::More;
        }
        let data = bytes.slice(header_bytes..end);
        let (Some(samples), Some(head)) = (samples(&data), self.head(start_trim, &data)) else {
            return Cut::Skip(end);
        };
        Cut::Frame(Frame { data, samples, rate: RATE, codec: Codec::Opus { head } }, end)
    }

    /// The identification header (RFC 7845 §5.1) as MP4 holds it; the first packet says what to skip.
    /// Where the descriptor does not tell the channels, the packet does (RFC 6716 §3.1).
    fn head(&mut self, start_trim: u16, packet: &[u8]) -> Option<Bytes> {
        if self.head.is_none() {
            if !(1..=8).contains(&self.channels) {
                self.channels = 1 + (packet.first()? >> 2 & 1);
            }
            let (streams, coupled, mapping) =
                MAPPINGS.get(usize::from(self.channels.checked_sub(1)?))?;
            let mut head = BytesMut::new();
            head.put_u8(0); // version
            head.put_u8(self.channels);
            head.put_u16(start_trim);
            head.put_u32(RATE);
            head.put_i16(0); // gain
            head.put_u8(u8::from(self.channels > 2)); // mapping family
            if self.channels > 2 {
                head.put_u8(*streams);
                head.put_u8(*coupled);
                head.put_slice(mapping);
            }
            self.head = Some(head.freeze());
        }
        self.head.clone()
    }
}

/// Length of the packet, samples to skip at its start, and bytes of the control header.
fn header(bytes: &[u8], flags: u8) -> Option<(usize, u16, usize)> {
    let (mut at, mut length) = (2, 0);
    loop {
        let part = *bytes.get(at)?;
        at += 1;
        length += usize::from(part);
        if part != 255 {
            break;
        }
    }
    let mut start_trim = 0;
    if flags & 0x10 != 0 {
        start_trim = u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?) & 0x1fff;
        at += 2;
    }
    if flags & 0x08 != 0 {
        at += 2; // end trim
    }
    if flags & 0x04 != 0 {
        at += 1 + usize::from(*bytes.get(at)?);
    }
    Some((length, start_trim, at))
}

/// How many samples a packet lasts (RFC 6716 §3.1, §3.2).
fn samples(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let config = toc >> 3;
    let frame = match config {
        0..=11 if config & 3 == 3 => 2880,
        0..=11 => 480 << (config & 3),
        12..=15 => 480 << (config & 1),
        _ => 120 << (config & 3),
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    // At most 120 ms.
    (frames > 0 && frames * frame <= 5760).then_some(frames * frame)
}
