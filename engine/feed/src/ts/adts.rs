//! AAC in ADTS frames (ISO/IEC 14496-3 §1.A.2): the header becomes an `AudioSpecificConfig`, the rest is the frame.

use bytes::BufMut as _;
use bytes::{Bytes, BytesMut};

use super::audio::{Cut, Frame, next_sync};
use crate::Codec;

/// Table 1.18; the two last numbers are reserved, 15 is not allowed here.
pub(super) const RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

/// Samples of an AAC frame.
pub(super) const FRAME_SAMPLES: u32 = 1024;

/// Cuts one frame from the front.
pub(super) fn cut(bytes: &Bytes) -> Cut {
    let Some(header) = bytes.first_chunk::<7>() else { return Cut::More };
    // The 56 bits as one number.
    let bits = header.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let field = |from: u32, count: u32| (bits >> (56 - from - count) & ((1 << count) - 1)) as u16;
    let (object, rate_index, channels) = (field(16, 2), field(18, 4), field(23, 3));
    let length = usize::from(field(30, 13));
    let header_bytes = if field(15, 1) == 1 { 7 } else { 9 };
    let (sync_and_layer, blocks_more) = (field(0, 15) & 0x7ffb, field(54, 2));
    let rate = RATES.get(usize::from(rate_index)).copied();
    // Layer is always 0. Channels of a programme config element and several blocks in a frame are
    // not carried.
    let (0x7ff8, Some(rate), 1..=7, true, 0) =
        (sync_and_layer, rate, channels, length > header_bytes, blocks_more)
    else {
        return Cut::Skip(next_sync(bytes, 0xfff6, 0xfff0));
    };
    if bytes.len() < length {
        return Cut::More;
    }
    let mut config = BytesMut::with_capacity(2);
    config.put_u16((object + 1) << 11 | rate_index << 7 | channels << 3);
    let codec = Codec::Aac { config: config.freeze() };
    let data = bytes.slice(header_bytes..length);
    Cut::Frame(Frame { data, samples: FRAME_SAMPLES, rate, codec }, length)
}
