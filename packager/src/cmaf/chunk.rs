//! One CMAF chunk: `prft`, `moof` and `mdat` in one allocation. This is the hot path, so the boxes are written by hand at
//! sizes known before the first byte.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

/// Seconds between the NTP epoch of 1900 and the Unix epoch of 1970.
pub(crate) const NTP_UNIX_SECONDS: u64 = 2_208_988_800;
/// ISO/IEC 14496-12 §8.16.5: 8 and 16 together say that the UTC time has a consistent, ideally zero, offset to the real
/// time of what the media shows. An ingest protocol without capture times gives the time of arrival, which is just that.
const PRFT_FLAGS: u32 = 0x18;
const PRFT_BYTES: u32 = 32;
const MFHD_BYTES: u32 = 16;
const TFDT_BYTES: u32 = 20;

/// What all samples of a chunk share.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) track_id: u32,
    pub(crate) sequence: u32,
    pub(crate) decode_time: u64,
    /// Presentation time of the first sample.
    pub(crate) media_time: u64,
    /// When that sample was captured, since the Unix epoch.
    pub(crate) captured: Duration,
}

/// One video sample.
pub(crate) fn video(
    header: &Header,
    duration: u32,
    flags: u32,
    composition_offset: i32,
    data: &[u8],
) -> Bytes {
    // trun version 1: data offset, and per sample duration, size, flags and signed composition offset.
    const TFHD_BYTES: u32 = 16;
    const TRUN_BYTES: u32 = 20 + 16;
    let moof = 8 + MFHD_BYTES + 8 + TFHD_BYTES + TFDT_BYTES + TRUN_BYTES;
    let mut out = start(header, moof, data.len());
    full_box(&mut out, TFHD_BYTES, *b"tfhd", 0, 0x02_0000); // default-base-is-moof
    out.put_u32(header.track_id);
    tfdt(&mut out, header);
    full_box(&mut out, TRUN_BYTES, *b"trun", 1, 0x00_0f01);
    out.put_u32(1);
    out.put_u32(moof + 8);
    out.put_u32(duration);
    out.put_u32(data.len() as u32);
    out.put_u32(flags);
    out.put_i32(composition_offset);
    mdat(out, data.len(), [data])
}

/// Audio frames of one duration; all of them can be decoded alone, as the header of the track says.
pub(crate) fn audio(header: &Header, frame_duration: u32, frames: &[Bytes]) -> Bytes {
    // trun version 0: data offset, and per sample only its size.
    const TFHD_BYTES: u32 = 20;
    let trun = 20 + 4 * frames.len() as u32;
    let moof = 8 + MFHD_BYTES + 8 + TFHD_BYTES + TFDT_BYTES + trun;
    let payload = frames.iter().map(Bytes::len).sum();
    let mut out = start(header, moof, payload);
    full_box(&mut out, TFHD_BYTES, *b"tfhd", 0, 0x02_0008); // default-base-is-moof, default-sample-duration
    out.put_u32(header.track_id);
    out.put_u32(frame_duration);
    tfdt(&mut out, header);
    full_box(&mut out, trun, *b"trun", 0, 0x00_0201);
    out.put_u32(frames.len() as u32);
    out.put_u32(moof + 8);
    for frame in frames {
        out.put_u32(frame.len() as u32);
    }
    mdat(out, payload, frames.iter().map(Bytes::as_ref))
}

fn start(header: &Header, moof: u32, payload: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity((PRFT_BYTES + moof + 8) as usize + payload);
    full_box(&mut out, PRFT_BYTES, *b"prft", 1, PRFT_FLAGS);
    out.put_u32(header.track_id);
    out.put_u64(ntp(header.captured));
    out.put_u64(header.media_time);
    plain_box(&mut out, moof, *b"moof");
    full_box(&mut out, MFHD_BYTES, *b"mfhd", 0, 0);
    out.put_u32(header.sequence);
    plain_box(&mut out, moof - 8 - MFHD_BYTES, *b"traf");
    out
}

fn tfdt(out: &mut BytesMut, header: &Header) {
    full_box(out, TFDT_BYTES, *b"tfdt", 1, 0);
    out.put_u64(header.decode_time);
}

fn mdat<'a>(mut out: BytesMut, payload: usize, parts: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let capacity = out.capacity();
    plain_box(&mut out, 8 + payload as u32, *b"mdat");
    for part in parts {
        out.put_slice(part);
    }
    debug_assert_eq!(out.capacity(), capacity, "a chunk is one allocation");
    out.freeze()
}

fn plain_box(out: &mut BytesMut, size: u32, kind: [u8; 4]) {
    out.put_u32(size);
    out.put_slice(&kind);
}

fn full_box(out: &mut BytesMut, size: u32, kind: [u8; 4], version: u8, flags: u32) {
    plain_box(out, size, kind);
    out.put_u32(u32::from(version) << 24 | flags);
}

/// NTP's 32.32 fixed point; its seconds wrap in 2036 and a reader knows the era.
fn ntp(unix: Duration) -> u64 {
    let seconds = unix.as_secs().wrapping_add(NTP_UNIX_SECONDS) & 0xffff_ffff;
    let fraction = (u64::from(unix.subsec_nanos()) << 32) / 1_000_000_000;
    seconds << 32 | fraction
}
