//! AC-3 and E-AC-3 frames (ETSI TS 102 366) cut from a byte stream, and the boxes that describe them (annex F). Only
//! one independent substream is carried.

use bytes::{BufMut, Bytes, BytesMut};
use weir_packager::Bits;

use super::audio::{Cut, Frame, next_sync};
use crate::Codec;

/// Kilobits a second by half the frame size code (table 4.13).
const KILOBITS: [u32; 19] =
    [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];

const RATES: [u32; 3] = [48_000, 44_100, 32_000];

/// Samples of one block, and blocks of an AC-3 frame.
const BLOCK_SAMPLES: u32 = 256;
const BLOCKS: u32 = 6;

/// Bytes that hold all we read of a header.
const HEAD_BYTES: usize = 8;

/// Cuts one AC-3 frame from the front.
pub(super) fn cut(bytes: &Bytes) -> Cut {
    cut_with(bytes, |head| {
        let mut bits = Bits::new(head);
        bits.skip(16 + 16)?; // sync, check sum
        let rate_code = bits.take(2)?;
        let size_code = bits.take(6)?;
        let stream_id = bits.take(5)?;
        let mode = bits.take(3)?;
        let coding = bits.take(3)?;
        if coding & 1 == 1 && coding != 1 {
            bits.skip(2)?; // centre mix level
        }
        if coding & 4 != 0 {
            bits.skip(2)?; // surround mix level
        }
        if coding == 2 {
            bits.skip(2)?; // Dolby Surround
        }
        let low = bits.take(1)?;
        let rate = *RATES.get(rate_code as usize)?;
        let kilobits = *KILOBITS.get(size_code as usize / 2)?;
        if stream_id > 8 {
            return None;
        }
        // Words of two bytes; only at 44.1 kHz they do not come out even (table 4.13).
        let words = kilobits * 1000 * BLOCKS * BLOCK_SAMPLES / rate / 16;
        let words = if rate_code == 1 { words + size_code % 2 } else { words };
        let specific = rate_code << 22
            | stream_id << 17
            | mode << 14
            | coding << 11
            | low << 10
            | (size_code / 2) << 5;
        let specific = Bytes::copy_from_slice(specific.to_be_bytes().get(1..)?);
        let codec = Codec::Ac3 { specific };
        Some((words as usize * 2, BLOCKS * BLOCK_SAMPLES, rate, codec))
    })
}

/// Cuts one E-AC-3 frame from the front.
pub(super) fn cut_enhanced(bytes: &Bytes) -> Cut {
    cut_with(bytes, |head| {
        let mut bits = Bits::new(head);
        bits.skip(16)?; // sync
        let kind = bits.take(2)?;
        let substream = bits.take(3)?;
        let length = (bits.take(11)? + 1) * 2;
        let rate_code = bits.take(2)?;
        let next = bits.take(2)?;
        let (rate, blocks) = if rate_code == 3 {
            (RATES.get(next as usize)? / 2, BLOCKS)
        } else {
            (*RATES.get(rate_code as usize)?, *[1, 2, 3, 6].get(next as usize)?)
        };
        let coding = bits.take(3)?;
        let low = bits.take(1)?;
        let stream_id = bits.take(5)?;
        if kind != 0 || substream != 0 || !(11..=16).contains(&stream_id) {
            return None;
        }
        let samples = blocks * BLOCK_SAMPLES;
        let kilobits = u64::from(length) * 8 * u64::from(rate) / u64::from(samples) / 1000;
        let mut specific = BytesMut::with_capacity(5);
        specific.put_u16((kilobits.min(0x1fff) as u16) << 3); // one independent substream
        specific.put_u8((rate_code << 6 | stream_id << 1) as u8);
        specific.put_u8((coding << 1 | low) as u8);
        specific.put_u8(0); // no dependent substreams
        let codec = Codec::Eac3 { specific: specific.freeze() };
        Some((length as usize, samples, rate, codec))
    })
}

type Header = (usize, u32, u32, Codec);

fn cut_with(bytes: &Bytes, read: impl Fn(&[u8]) -> Option<Header>) -> Cut {
    let Some(head) = bytes.get(..HEAD_BYTES) else { return Cut::More };
    let header = head.starts_with(&[0x0b, 0x77]).then(|| read(head)).flatten();
    let Some((length, samples, rate, codec)) = header else {
        return Cut::Skip(next_sync(bytes, 0xffff, 0x0b77));
    };
    if bytes.len() < length {
        return Cut::More;
    }
    Cut::Frame(Frame { data: bytes.slice(..length), samples, rate, codec }, length)
}
