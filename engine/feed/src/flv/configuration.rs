//! Sequence starts of enhanced RTMP made into codec configurations: what each `FourCC` puts there,
//! and the forms encoders have been seen to send instead. Knows nothing of tags or tracks.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use weir_packager::Codec;

use super::tag::Coding;

/// The codec of a sequence start. `None` if it cannot be read.
pub(super) fn codec(coding: Coding, body: Bytes) -> Option<Codec> {
    let codec = match coding {
        Coding::Avc => Codec::H264 { record: body },
        Coding::Hevc => Codec::Hevc { record: body },
        Coding::Av1 => Codec::Av1 { record: body },
        Coding::Vp9 => Codec::Vp9 { record: vp9_record(body) },
        Coding::Aac => Codec::Aac { config: body },
        Coding::Opus => Codec::Opus { head: opus_head(&body)? },
        Coding::Flac => Codec::Flac { stream_info: flac_stream_info(body)? },
        // These describe themselves in every frame; enhanced RTMP gives them no sequence start.
        Coding::Ac3 | Coding::Eac3 => return None,
    };
    codec.check().is_ok().then_some(codec)
}

/// Whether two configurations are one to a decoder.
pub(super) fn same(old: &Codec, new: &Codec) -> bool {
    match (old, new) {
        // The bit rate in front is of one frame.
        (Codec::Eac3 { specific: old }, Codec::Eac3 { specific: new }) => {
            old.get(2..) == new.get(2..)
        }
        // Encoders that end tell once more how many samples there were, how large the frames, and a
        // checksum of it all: what counts lies around that (RFC 9639 §8.2).
        (Codec::Flac { stream_info: old }, Codec::Flac { stream_info: new }) => {
            let format = |info: &Bytes| {
                let blocks = info.first_chunk::<4>().copied();
                let [a, b, c, d] = *info.get(10..)?.first_chunk::<4>()?;
                Some((blocks?, [a, b, c, d & 0xf0]))
            };
            format(old) == format(new)
        }
        _ => old == new,
    }
}

/// Some writers put the version and flags of the `vpcC` box in front.
fn vp9_record(body: Bytes) -> Bytes {
    match body.split_first_chunk::<4>() {
        Some(([1, 0, 0, 0], rest)) if rest.len() == 8 => body.slice(4..),
        _ => body,
    }
}

/// The identification header of Ogg (RFC 7845 §5.1), little-endian, made into the body of `dOps`,
/// big-endian and of version 0.
fn opus_head(body: &Bytes) -> Option<Bytes> {
    let mut rest = body.strip_prefix(b"OpusHead")?;
    if rest.len() < 11 || rest.get_u8() & 0xf0 != 0 {
        return None;
    }
    let mut head = BytesMut::with_capacity(rest.len());
    head.put_u8(0);
    head.put_u8(rest.get_u8()); // channels
    head.put_u16(rest.get_u16_le()); // pre-skip
    head.put_u32(rest.get_u32_le()); // input sample rate
    head.put_i16(rest.get_i16_le()); // output gain
    let family = rest.get_u8();
    head.put_u8(family);
    if family != 0 {
        head.put_slice(rest); // stream counts and channel mapping are bytes
    }
    Some(head.freeze())
}

/// STREAMINFO, alone or as the first metadata block of a FLAC file (RFC 9639 §8).
fn flac_stream_info(body: Bytes) -> Option<Bytes> {
    const STREAM_INFO_BYTES: usize = 34;
    if body.len() == STREAM_INFO_BYTES {
        return Some(body);
    }
    let blocks = body.strip_prefix(b"fLaC").unwrap_or(&body);
    // Type 0, with or without the flag of the last block.
    let ([0 | 0x80, 0, 0, 34], rest) = blocks.split_first_chunk::<4>()? else { return None };
    Some(Bytes::copy_from_slice(rest.get(..STREAM_INFO_BYTES)?))
}
